"""Checks of lesson 09, batch norm in practice."""

import copy
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from bn_helpers import practice

from ..drivers.lesson_09 import (
    drive_decay,
    drive_freeze,
    drive_recalibrate,
    drive_sync,
)
from ..engine import Exercise, Failed, Property, difference
from ..forms import lesson_09 as forms

S3 = "section 3, Walk through the bug gallery"
S4 = "section 4, Freeze what must not move"
S6 = "section 6, Collect the statistics anew"
S8 = "section 8, Fold it away"
S9 = "section 9, Spread a batch over processes"


KINDS = nn.BatchNorm1d, nn.BatchNorm2d


def _norms(model, kinds=KINDS):
    return [m for m in model.modules() if isinstance(m, kinds)]


# --- decay_groups --------------------------------------------------------------------


def decay_cases(rng):
    return [(rng.uniform(0.01, 0.2), int(rng.integers(2**31))) for _ in range(2)]


def _split(model, decay, decayed, rest=0.0):
    """Two groups: parameters that decayed(module, name) picks, and the others."""
    picked, others = [], []
    for m in model.modules():
        for name, p in m.named_parameters(recurse=False):
            (picked if decayed(m, name) else others).append(p)
    return [
        {"params": picked, "weight_decay": decay},
        {"params": others, "weight_decay": rest},
    ]


def _is_norm(module):
    return isinstance(module, KINDS)


def _is_weight(module, name):
    return name == "weight" and not _is_norm(module)


DECAY = Exercise(
    "decay_groups",
    practice.decay_groups,
    ("weight_decay", "seed"),
    (
        "decay_of_weights",
        "decay_of_biases",
        "decay_of_gamma_and_beta",
        "times_in_a_group",
        "parameters_frozen",
    ),
    decay_cases,
    drive=drive_decay,
    forms=(forms.decay_groups,),
)


@DECAY.mistake("everything decays", S3, "torch.optim.SGD(model.parameters(), ...)")
def decays_everything(model, weight_decay):
    """all parameters decay, gamma, beta and biases as well"""
    return _split(model, weight_decay, lambda m, name: True)


@DECAY.mistake("nothing decays", S3, "answers to this exercise")
def decays_nothing(model, weight_decay):
    """nothing decays: no group with weights carries the number"""
    return _split(model, weight_decay, lambda m, name: False)


@DECAY.mistake("gamma by its name", S3, "recipes that look for bias in the name")
def decays_by_name(model, weight_decay):
    """names decide, and gamma, which is called weight, decays"""
    return _split(model, weight_decay, lambda m, name: name == "weight")


@DECAY.mistake("biases decay", S3, "recipes that spare norms only")
def decays_biases(model, weight_decay):
    """only the norms are spared, and the biases of the other layers decay"""
    return _split(model, weight_decay, lambda m, name: not _is_norm(m))


@DECAY.mistake("only biases decay", S3, "answers to this exercise")
def decays_what_is_called_bias(model, weight_decay):
    """what is called bias decays, β as well, and the weights do not"""
    return _split(model, weight_decay, lambda m, name: name == "bias")


@DECAY.mistake("groups swapped", S3, "answers to this exercise")
def decays_the_others(model, weight_decay):
    """the two groups are exchanged: gamma, beta and biases decay, weights do not"""
    return _split(model, weight_decay, lambda m, name: not _is_weight(m, name))


@DECAY.mistake("the rest is not trained", S3, "answers to this exercise")
def leaves_the_rest_out(model, weight_decay):
    """gamma, beta and biases are in no group, so they are not trained"""
    return _split(model, weight_decay, _is_weight)[:1]


@DECAY.mistake("biases are not trained", S3, "answers to this exercise")
def leaves_biases_out(model, weight_decay):
    """the biases of linear layers and convolutions are in no group"""
    decayed, _ = _split(model, weight_decay, _is_weight)
    norms_only = [p for m in _norms(model) for p in m.parameters()]
    return [decayed, {"params": norms_only, "weight_decay": 0.0}]


@DECAY.mistake("norms are not trained", S3, "answers to this exercise")
def leaves_norms_out(model, weight_decay):
    """gamma and beta are in no group, so they are not trained"""
    decayed, rest = _split(model, weight_decay, _is_weight)
    own = {id(p) for m in _norms(model) for p in m.parameters()}
    return [decayed, {"params": [p for p in rest["params"] if id(p) not in own]}]


@DECAY.mistake("top level only", S3, "answers to this exercise")
def decays_top_level_only(model, weight_decay):
    """only the direct children are looked at; weights inside a block do not decay"""
    top = list(model.children())
    return _split(model, weight_decay, lambda m, name: m in top and _is_weight(m, name))


@DECAY.mistake("the top level only, alone", S3, "answers to this exercise")
def groups_top_level_only(model, weight_decay):
    """only the direct children are looked at; what a block holds is in no group"""
    top = [m for m in model.children() if not list(m.children())]
    return _split(nn.ModuleList(top), weight_decay, _is_weight)


@DECAY.mistake("parameters twice in a group", S3, "modules() and parameters() at once")
def decays_what_blocks_repeat(model, weight_decay):
    """every module hands in the parameters below it, too, so that some come twice"""
    every = [p for m in model.modules() for p in m.parameters()]
    return [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]


@DECAY.mistake("the rest frozen", S3, "answers to this exercise")
def freezes_the_rest(model, weight_decay):
    """gamma, beta and biases get no gradient any more, so they are not trained"""
    groups = _split(model, weight_decay, _is_weight)
    _fixed(groups[1]["params"])
    return groups


@DECAY.mistake("linear layers only", S3, "answers to this exercise")
def decays_linear_only(model, weight_decay):
    """convolutions are forgotten: only the weights of linear layers decay"""
    return _split(
        model,
        weight_decay,
        lambda m, name: isinstance(m, nn.Linear) and name == "weight",
    )


@DECAY.mistake("convolutions only", S3, "p.ndim == 4")
def decays_convolutions_only(model, weight_decay):
    """linear layers are forgotten: only the weights of convolutions decay"""
    return _split(
        model,
        weight_decay,
        lambda m, name: isinstance(m, nn.Conv2d) and name == "weight",
    )


@DECAY.mistake("one kind of norm", S3, "recipes that look for BatchNorm2d")
def decays_one_kind_of_norm(model, weight_decay):
    """one kind of batch norm is spared, and the network has another"""
    return _split(
        model,
        weight_decay,
        lambda m, name: name == "weight" and not isinstance(m, nn.BatchNorm2d),
    )


@DECAY.mistake(
    "parameters in two groups", S3, "some parameters appear in more than one"
)
def decays_twice(model, weight_decay):
    """the second group holds all parameters, so that weights are in two, which no
    optimizer takes"""
    return [
        _split(model, weight_decay, _is_weight)[0],
        {"params": list(model.parameters()), "weight_decay": 0.0},
    ]


@DECAY.mistake("a fixed number", S3, "answers to this exercise")
def decays_by_a_fixed_number(model, weight_decay):
    """the decay is a number of its own, not the argument"""
    return _split(model, 1e-4, _is_weight)


@DECAY.mistake("a smaller decay for the rest", S3, "answers to this exercise")
def decays_the_rest_less(model, weight_decay):
    """gamma, beta and biases decay by a tenth of the number, not by 0"""
    return _split(model, weight_decay, _is_weight, weight_decay / 10)


@DECAY.mistake("only one kind of norm spared", S3, "recipes that look for BatchNorm2d")
def spares_one_kind_of_norm(model, weight_decay):
    """one kind of batch norm is spared; the other and all biases decay"""
    return _split(
        model, weight_decay, lambda m, name: not isinstance(m, nn.BatchNorm2d)
    )


# --- freeze_batchnorm ----------------------------------------------------------------


def freeze_cases(rng):
    def case(N, lr):
        x = rng.normal(1, 2, (3, N, 2, 5, 5))
        y = rng.integers(0, 3, (3, N))
        return x, y, lr, int(rng.integers(2**31))

    return [case(9, 0.1), case(12, 0.3)]


def _fixed(parameters):
    for p in parameters:
        p.requires_grad_(False)


def _stays_in_evaluation(module):
    """The module ignores what `train` asks for from now on."""
    module.eval()
    module.train = lambda mode=True: module


FREEZE = Exercise(
    "freeze_batchnorm",
    practice.freeze_batchnorm,
    ("x", "y", "lr", "seed"),
    (
        "running_statistics",
        "gamma_and_beta",
        "other_parameters",
        "losses",
        "evaluation",
        "norms_whose_train_returns_another_object",
    ),
    freeze_cases,
    weights=(1, 1, 1, 1, 1, 0),
    drive=drive_freeze,
    forms=(forms.freeze_batchnorm,),
)


@FREEZE.mistake(
    "woken by the next model.train()",
    S4,
    "pgniewko/gt-pyg #112; poppinace/indexnet_matting #35",
)
def freezes_until_train(model):
    """the layers are in evaluation mode until someone calls model.train()"""
    for m in _norms(model):
        m.eval()
        _fixed(m.parameters())


@FREEZE.mistake(
    "gradients off, statistics moving",
    S4,
    "pytorch #86590; speedinghzl/Pytorch-Deeplab #17",
)
def freezes_parameters_only(model):
    """gamma and beta are fixed, and running statistics move with every pass"""
    for m in _norms(model):
        _fixed(m.parameters())


@FREEZE.mistake("momentum 0", S4, "pytorch #15298")
def freezes_by_momentum(model):
    """the running statistics stand still, and the layer normalizes with the batch in
    training mode all the same"""
    for m in _norms(model):
        m.momentum = 0.0
        _fixed(m.parameters())


@FREEZE.mistake("BatchNorm2d only", S4, "tianweiy/CenterPoint #168")
def freezes_images_only(model):
    """one kind of batch norm is frozen, and the network has another"""
    for m in _norms(model, nn.BatchNorm2d):
        _stays_in_evaluation(m)
        _fixed(m.parameters())


@FREEZE.mistake("top level only", S4, "pytorch #66073; indexnet_matting #35")
def freezes_top_level_only(model):
    """only the direct children are looked at, and a batch norm inside a block stays
    awake"""
    for m in model.children():
        if isinstance(m, KINDS):
            _stays_in_evaluation(m)
            _fixed(m.parameters())


@FREEZE.mistake(
    "whole model in evaluation mode", S4, "isht7/pytorch-deeplab-resnet #39"
)
def freezes_every_mode(model):
    """the whole model stays in evaluation mode, so that dropout sleeps as well"""
    for m in _norms(model):
        _fixed(m.parameters())
    _stays_in_evaluation(model)


@FREEZE.mistake(
    "all parameters frozen", S4, "pytorch #86590; tianweiy/CenterPoint #168"
)
def freezes_every_parameter(model):
    """the parameters of all layers are frozen"""
    _fixed(model.parameters())
    for m in _norms(model):
        _stays_in_evaluation(m)


@FREEZE.mistake("evaluation mode, once", S4, "pytorch forum, topic 25176")
def freezes_model_until_train(model):
    """the model is put in evaluation mode once, until someone calls model.train()"""
    for m in _norms(model):
        _fixed(m.parameters())
    return model.eval()


@FREEZE.mistake(
    "nothing frozen", S4, "catalyst-team/catalyst #81: requires_grad set on a module"
)
def freezes_a_copy(model):
    """nothing of the model that is trained on is frozen"""
    for m in _norms(copy.deepcopy(model)):
        _stays_in_evaluation(m)
        _fixed(m.parameters())
    return model


@FREEZE.mistake(
    "the loop's last layer",
    S4,
    "Python FAQ, lambdas defined in a loop",
)
def returns_the_last_layer(model):
    """a function that was made in a loop returns the loop's variable, and so the last
    layer"""
    for m in _norms(model):
        m.eval()
        m.train = lambda mode=True: m  # noqa: B023
        _fixed(m.parameters())


@FREEZE.mistake("train returns nothing", S4, "answers to this exercise")
def train_returns_nothing(model):
    """the train of a frozen layer returns None, not the layer"""
    for m in _norms(model):
        _stays_in_evaluation(m)
        m.train = lambda mode=True: None
        _fixed(m.parameters())


@FREEZE.mistake("norms removed", S4, "answers to this exercise")
def removes_norms(model):
    """the batch norms are gone, and nothing is normalized"""
    for m in list(model.modules()):
        for name, child in m.named_children():
            if isinstance(child, KINDS):
                setattr(m, name, nn.Identity())


@FREEZE.mistake("statistics reset", S4, "answers to this exercise")
def resets_statistics(model):
    """the running statistics are set back to 0 and 1 before they are frozen"""
    for m in _norms(model):
        m.reset_running_stats()
        _stays_in_evaluation(m)
        _fixed(m.parameters())


@FREEZE.mistake("gradients set to 0", S4, "hooks on the gradients of batch norms")
def gradients_of_zero(model):
    """gamma and beta get gradients of 0, and weight decay moves them all the same"""
    for m in _norms(model):
        _stays_in_evaluation(m)
        for p in m.parameters():
            p.register_hook(torch.zeros_like)
    return model


# --- recalibrate_statistics ----------------------------------------------------------


def recalibrate_cases(rng):
    def case(K, N, training):
        offset = rng.normal(0, 2, (K, 1, 6))
        x = offset + rng.normal(1, np.geomspace(0.3, 3, 6), (K, N, 6))
        return x, training, int(rng.integers(2**31))

    return [case(5, 11, 1), case(3, 8, 0)]


@contextmanager
def _collecting(model, reset=True, momentum=None, awake=None):
    """Modes and momenta for collecting, and back again."""
    norms, modes = _norms(model), [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    model.eval()
    for m in norms if awake is None else awake:
        m.train()
    for m in norms:
        m.momentum = momentum
        if reset:
            m.reset_running_stats()
    with torch.no_grad():
        yield norms
    for m, mode in modes:
        m.training = mode
    for m, before in zip(norms, momenta, strict=True):
        m.momentum = before


def _pass_all(model, batches):
    for x in batches:
        model(x)


RECALIBRATE = Exercise(
    "recalibrate_statistics",
    practice.recalibrate_statistics,
    ("x", "training", "seed"),
    ("running_mean", "running_var", "parameters", "modes_and_momenta"),
    recalibrate_cases,
    weights=(1, 1, 0, 0),
    drive=drive_recalibrate,
    forms=(forms.recalibrate_statistics,),
)


@RECALIBRATE.mistake(
    "momentum kept", S6, "xfey/pytorch-BigNAS #3; tugstugi/pytorch-saltnet #4"
)
def recalibrates_with_momentum(model, batches):
    """momentum stays at a fixed 0.1: the last batches count most, and the start at 0
    and 1 is still in there"""
    with _collecting(model) as norms:
        for m in norms:
            m.momentum = 0.1
        _pass_all(model, batches)


@RECALIBRATE.mistake(
    "dropout awake", S6, "qualcomm/aimet #1749; torch.optim.swa_utils.update_bn"
)
def recalibrates_with_dropout(model, batches):
    """the whole model is woken, and dropout is on"""
    with _collecting(model, awake=[model]):
        _pass_all(model, batches)


@RECALIBRATE.mistake(
    "momentum of another library",
    S6,
    "r9y9/tacotron_pytorch #19; kazuto1011/deeplab-pytorch #79",
)
def recalibrates_with_the_other_momentum(model, batches):
    """momentum is near 1, so that little but the last batch is kept"""
    with _collecting(model, momentum=0.99):
        _pass_all(model, batches)


@RECALIBRATE.mistake("momentum not restored", S6, "pytorch #30559")
def recalibrates_and_forgets_momentum(model, batches):
    """momentum is left changed"""
    with _collecting(model):
        _pass_all(model, batches)
    for m in _norms(model):
        m.momentum = None


@RECALIBRATE.mistake(
    "left in evaluation mode", S6, "facebookresearch/clevr-iep #22; dlwpt-code #104"
)
def recalibrates_and_stays_in_evaluation(model, batches):
    """the model is left in evaluation mode, whatever mode it came in"""
    with _collecting(model):
        _pass_all(model, batches)
    model.eval()


@RECALIBRATE.mistake("nothing collected", S6, "pytorch #5766")
def recalibrates_nothing(model, batches):
    """nothing is collected after the reset: no norm sees a batch in training mode"""
    with _collecting(model):
        pass


@RECALIBRATE.mistake("one big batch", S6, "facebookresearch/pycls #93")
def recalibrates_in_one_batch(model, batches):
    """the batches are joined, so that the variance holds what their means differ by"""
    with _collecting(model):
        model(torch.cat(list(batches)))


# --- fold_batchnorm ------------------------------------------------------------------


def fold_cases(rng):
    def case(shape, with_bias, eps):
        D = shape[0]
        sign = rng.choice([-1, 1], D)
        bias = rng.normal(size=D) if with_bias else None
        moments = rng.normal(0, 2, D), rng.permutation(np.geomspace(0.01, 4, D))
        gamma, beta = sign * rng.uniform(0.5, 2, D), rng.normal(size=D)
        return rng.normal(size=shape), bias, gamma, beta, *moments, eps

    return [
        case((5, 7), True, 1e-5),
        case((6, 3, 3, 2), True, 1e-3),
        case((4, 2, 3), False, 0.1),
        case((5, 8), False, 1e-5),
    ]


FOLD = Exercise(
    "fold_batchnorm",
    practice.fold_batchnorm,
    ("weight", "bias", "gamma", "beta", "running_mean", "running_var", "eps"),
    ("weight", "bias"),
    fold_cases,
    forms=(forms.fold_batchnorm, forms.fold_by_terms),
)


@FOLD.mistake("no shift without a bias", S8, "tenstorrent/tt-metal #5317")
def no_bias_no_shift(weight, bias, gamma, beta, mean, var, eps=1e-5):
    """a layer without a bias gets no shift, although the mean and β are still there"""
    folded, shift = forms.fold_batchnorm(weight, bias, gamma, beta, mean, var, eps)
    return folded, 0 * shift if bias is None else shift


# --- sync_batchnorm_forward ----------------------------------------------------------


def sync_cases(rng):
    def case(sizes, D, eps):
        places = rng.normal(0, 2, (len(sizes), D))  # workers see different data
        offset = np.repeat(places, sizes, axis=0)
        spread = rng.permutation(np.geomspace(0.1, 3, D))
        x = offset + spread * rng.exponential(1, (sum(sizes), D))
        return x, sizes, rng.uniform(0.5, 2, D), rng.normal(size=D), eps

    return [case((7, 4), 5, 1e-5), case((3, 9, 1), 4, 0.1), case((6, 6), 3, 1e-5)]


def _scaled(x, gamma, beta, mu, var, eps):
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


def _keeps_digits(trial):
    """Values near a million that spread by 0.1."""
    x = 1e6 + 0.1 * trial.rng.normal(size=(12, 3))
    args = x, (5, 7), np.ones(3), np.zeros(3), 1e-5
    (_, _, got), (_, _, want) = trial.run(args)
    if np.allclose(got, want, rtol=1e-4):
        return ()
    return ("features near a million that spread by 0.1", *difference("var", got, want))


def _sends_no_samples(trial):
    """A message about D features, of workers with many samples."""
    D, sizes = 3, (40, 25)
    x = trial.rng.normal(size=(sum(sizes), D))
    trial.usable()
    try:
        args = x, sizes, np.ones(D), np.zeros(D), 1e-5, 8 * D
        trial.exercise.run(trial.student, args)
    except Failed as failure:
        return (f"{failure}, for {D} features and {max(sizes)} samples",)
    return ()


SYNC = Exercise(
    "sync_batchnorm_forward",
    forms.sync_batchnorm_forward,
    ("x", "sizes", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    sync_cases,
    extra=(
        Property("keeps its digits far from 0", _keeps_digits, 0.5),
        Property("sends statistics, not samples", _sends_no_samples, 0),
    ),
    weights=(2, 1, 1.5),
    drive=drive_sync,
    forms=(forms.sync_batchnorm_forward, forms.sync_by_rows),
)


@SYNC.mistake("not synchronized", S9, "tensorflow #7439; NVIDIA-Merlin/HugeCTR #181")
def each_for_itself(x, gamma, beta, all_gather, eps=1e-5):
    """each worker uses its own part alone"""
    return _scaled(x, gamma, beta, x.mean(0), x.var(0), eps)


@SYNC.mistake("total count minus 1", S9, "NVIDIA apex, welford.cu")
def total_count_minus_one(x, gamma, beta, all_gather, eps=1e-5):
    """the variance of the whole batch divides by its count minus 1"""
    sizes = []

    def counted(own):
        messages = all_gather(own)
        sizes.extend(message[0, 0] for message in messages)
        return messages

    _, mu, var = forms.sync_batchnorm_forward(x, gamma, beta, counted, eps)
    return _scaled(x, gamma, beta, mu, var * sum(sizes) / (sum(sizes) - 1), eps)


@SYNC.mistake(
    "difference of squares",
    S9,
    "PaddlePaddle #16121; tenstorrent/tt-metal #45968",
    shows="keeps its digits far from 0",
)
def difference_of_squares(x, gamma, beta, all_gather, eps=1e-5):
    """Mean square minus squared mean loses its digits far from 0."""
    own = np.concatenate([[len(x)], x.sum(0), (x**2).sum(0)])
    total = np.sum(all_gather(own), axis=0)
    mu, squares = np.split(total[1:] / total[0], 2)
    return _scaled(x, gamma, beta, mu, squares - mu**2, eps)


EXERCISES = (DECAY, FREEZE, RECALIBRATE, FOLD, SYNC)
