"""Checks of lesson 09, batch norm in practice."""

import copy
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from bn_helpers import practice

from ..drivers.lesson_09 import drive_freeze, drive_recalibrate, drive_sync
from ..engine import Exercise, Failed, Property, difference
from ..forms import lesson_09 as forms

S4 = "section 4, Freeze what must not move"
S6 = "section 6, Collect the statistics anew"
S8 = "section 8, Fold it away"
S9 = "section 9, Spread a batch over processes"


KINDS = nn.BatchNorm1d, nn.BatchNorm2d


def _norms(model, kinds=KINDS):
    return [m for m in model.modules() if isinstance(m, kinds)]


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


EXERCISES = (FREEZE, RECALIBRATE, FOLD, SYNC)
