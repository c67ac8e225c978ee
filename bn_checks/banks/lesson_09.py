"""Checks of lesson 09, batch norm in practice."""

import numpy as np

from bn_helpers import practice

from ..changes import changed
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
WRITTEN = "wrong answers in tests/sourced/blind_10_again.py"


# --- decay_groups --------------------------------------------------------------------


def decay_cases(rng):
    return [(rng.uniform(0.01, 0.2), int(rng.integers(2**31))) for _ in range(2)]


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


DECAY.mistakes += changed(
    forms.decay_groups,
    S3,
    """
    everything decays: all parameters decay, gamma, beta and biases as well
        0.0 -> weight_decay
        seen in vturrisi/solo-learn #289; Samyssmile/edux #209
    nothing decays: nothing decays: no group with weights carries the number
        "weight_decay": weight_decay -> "weight_decay": 0.0
    gamma by its name: names decide, and gamma, which is called weight, decays
        kinds = ( -> kinds = (nn.BatchNorm1d, nn.BatchNorm2d,
        seen in huggingface/transformers #16908; DeepSpeedExamples #755
    biases decay: only the norms are spared, and the biases of the other layers decay
        weights = [m.weight for m in -> weights = [p for m in
        isinstance(m, kinds)] -> isinstance(m, kinds) for p in m.parameters()]
        seen in louis-she/center-loss.pytorch #2
    only biases decay: what is called bias decays, β as well, and the weights do not
        weights = [m.weight for m in model.modules() if isinstance(m, kinds)]
            -> weights = [p for n, p in model.named_parameters() if "bias" in n]
    groups swapped: the two groups are exchanged: gamma, beta and biases decay, weights
    do not
        return [ -> weights, others = others, weights; return [
    the rest is not trained: gamma, beta and biases are in no group, so they are not
    trained
        "params": others -> "params": []
        seen in huggingface/transformers #11160: may it be hidden?
    biases are not trained: the biases of linear layers and convolutions are in no group
        others = [p for p in model.parameters() if id(p) not in known]
            -> others = [p for m in model.modules() if not isinstance(m, kinds)
            for p in m.parameters(recurse=False)]
        seen in ultralytics #2855: parameters that are in no group
    norms are not trained: gamma and beta are in no group, so they are not trained
        others = [p for p in model.parameters() if id(p) not in known]
            -> others = [m.bias for m in model.modules() if isinstance(m, kinds)]
        seen in ultralytics #2855: parameters that are in no group
    top level only: only the direct children are looked at; weights inside a block do
    not decay
        model.modules() -> model.children()
        seen in pytorch #66073
    the top level only, alone: only the direct children are looked at; what a block
    holds is in no group
        kinds = (
            -> model = nn.ModuleList(m for m in model.children() if not [*m.children()])
            ; kinds = (
    parameters twice in a group: every module hands in the parameters below it, too, so
    that some come twice
        weights = [m.weight for m in model.modules() if isinstance(m, kinds)]
            -> every = [p for m in model.modules() for p in m.parameters()]
            ; weights = [p for p in every if p.ndim > 1]
        [p for p in model.parameters() if id(p) not in known]
            -> [p for p in every if p.ndim <= 1]
    the rest frozen: gamma, beta and biases get no gradient any more, so they are not
    trained
        return [ -> _ = [p.requires_grad_(False) for p in others]; return [
    linear layers only: convolutions are forgotten: only the weights of linear layers
    decay
        (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) -> nn.Linear
        seen in EmbarkStudios/emote #129
    convolutions only: linear layers are forgotten: only the weights of convolutions
    decay
        nn.Linear, -> nn.Conv2d,
        seen in EmbarkStudios/emote #129, with another kind
    one kind of norm: one kind of batch norm is spared, and the network has another
        nn.Linear, -> nn.Linear, nn.BatchNorm1d,
        seen in ultralytics/yolov5 #4104
    parameters in two groups: the second group holds all parameters, so that weights are
    in two, which no optimizer takes
        weights, "weight_decay": weight_decay -> [*known], "weight_decay": None
        others, "weight_decay": 0.0 -> weights, "weight_decay": weight_decay
        [*known], "weight_decay": None -> model.parameters(), "weight_decay": 0.0
        seen in torch.optim: some parameters appear in more than one
    a fixed number: the decay is a number of its own, not the argument
        "weight_decay": weight_decay -> "weight_decay": 1e-4
        seen in ntubiolin/xcos #1
    a smaller decay for the rest: gamma, beta and biases decay by a tenth of the number,
    not by 0
        0.0 -> weight_decay / 10
        seen in facebookresearch/detectron2 #737
    only one kind of norm spared: one kind of batch norm is spared; the other and all
    biases decay
        nn.Linear, -> nn.Linear, nn.BatchNorm1d,
        weights = [m.weight for m in -> weights = [p for m in
        isinstance(m, kinds)] -> isinstance(m, kinds) for p in m.parameters()]
        seen in bigscience-workshop/Megatron-DeepSpeed #262
    """,
    WRITTEN,
)


# --- freeze_batchnorm ----------------------------------------------------------------


def freeze_cases(rng):
    def case(N, lr):
        x = rng.normal(1, 2, (3, N, 2, 5, 5))
        y = rng.integers(0, 3, (3, N))
        return x, y, lr, int(rng.integers(2**31))

    return [case(9, 0.1), case(12, 0.3)]


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


FREEZE.mistakes += changed(
    forms.freeze_batchnorm,
    S4,
    """
    woken by the next model.train(): the layers are in evaluation mode until someone
    calls model.train()
        module.train = MethodType(lambda self, mode=True: self, module) -> pass
        seen in pgniewko/gt-pyg #112; poppinace/indexnet_matting #35
    gradients off, statistics moving: gamma and beta are fixed, and running statistics
    move with every pass
        module.eval() -> pass
        module.train = MethodType(lambda self, mode=True: self, module) -> pass
        seen in pytorch #86590; speedinghzl/Pytorch-Deeplab #17
    momentum 0: the running statistics stand still, and the layer normalizes with the
    batch in training mode all the same
        module.eval() -> module.momentum = 0.0
        module.train = MethodType(lambda self, mode=True: self, module) -> pass
        seen in pytorch #15298
    BatchNorm2d only: one kind of batch norm is frozen, and the network has another
        (nn.BatchNorm1d, nn.BatchNorm2d) -> nn.BatchNorm2d
        seen in tianweiy/CenterPoint #168
    top level only: only the direct children are looked at, and a batch norm inside a
    block stays awake
        model.modules() -> model.children()
        seen in pytorch #66073; indexnet_matting #35
    whole model in evaluation mode: the whole model stays in evaluation mode, so that
    dropout sleeps as well
        return model -> model.eval().train = lambda mode=True: model
        seen in isht7/pytorch-deeplab-resnet #39
    all parameters frozen: the parameters of all layers are frozen
        return model -> model.requires_grad_(False)
        seen in pytorch #86590; tianweiy/CenterPoint #168
    evaluation mode, once: the model is put in evaluation mode once, until someone calls
    model.train()
        module.train = MethodType(lambda self, mode=True: self, module) -> pass
        return model -> model.eval()
        seen in pytorch forum, topic 25176
    nothing frozen: nothing of the model that is trained on is frozen
        model.modules() -> []
        seen in catalyst-team/catalyst #81: requires_grad set on a module
    the loop's last layer: a function that was made in a loop returns the loop's
    variable, and so the last layer
        in model.modules():
            -> in [m for m in model.modules() if "BatchNorm" in type(m).__name__]:
        MethodType(lambda self, mode=True: self, module) -> lambda mode=True: module
        seen in Python FAQ, lambdas defined in a loop
    train returns nothing: the train of a frozen layer returns None, not the layer
        mode=True: self -> mode=True: None
    norms removed: the batch norms are gone, and nothing is normalized
        return model
            -> _ = [setattr(m, n, nn.Identity()) for m in [*model.modules()]
            for n, c in m.named_children() if "BatchNorm" in type(c).__name__]
            ; return model
    statistics reset: the running statistics are set back to 0 and 1 before they are
    frozen
        module.eval() -> module.reset_running_stats(); module.eval()
    gradients set to 0: gamma and beta get gradients of 0, and weight decay moves them
    all the same
        module.requires_grad_(False)
            -> [p.register_hook(torch.zeros_like) for p in module.parameters()]
        seen in facebookresearch/moco #14: without a gradient nothing decays
    """,
    WRITTEN,
)


# --- recalibrate_statistics ----------------------------------------------------------


def recalibrate_cases(rng):
    def case(K, N, training):
        offset = rng.normal(0, 2, (K, 1, 6))
        x = offset + rng.normal(1, np.geomspace(0.3, 3, 6), (K, N, 6))
        return x, training, int(rng.integers(2**31))

    return [case(5, 11, 1), case(3, 8, 0)]


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


RECALIBRATE.mistakes += changed(
    forms.recalibrate_statistics,
    S6,
    """
    momentum kept: momentum stays at a fixed 0.1: the last batches count most, and the
    start at 0 and 1 is still in there
        norm.momentum = None -> norm.momentum = 0.1
        seen in xfey/pytorch-BigNAS #3; tugstugi/pytorch-saltnet #4
    dropout awake: the whole model is woken, and dropout is on
        norm.train() -> model.train()
        seen in qualcomm/aimet #1749; torch.optim.swa_utils.update_bn
    momentum of another library: momentum is near 1, so that little but the last batch
    is kept
        norm.momentum = None -> norm.momentum = 0.99
        seen in r9y9/tacotron_pytorch #19; kazuto1011/deeplab-pytorch #79
    momentum not restored: momentum is left changed
        norm.momentum = momentum -> pass
        seen in pytorch #30559
    left in evaluation mode: the model is left in evaluation mode, whatever mode it came
    in
        module.training = mode -> module.training = False
        seen in facebookresearch/clevr-iep #22; dlwpt-code #104
    nothing collected: nothing is collected after the reset: no norm sees a batch in
    training mode
        norm.train() -> pass
        seen in pytorch #5766
    one big batch: the batches are joined, so that the variance holds what their means
    differ by
        for x in batches -> for x in [torch.cat(list(batches))]
        seen in facebookresearch/pycls #93
    """,
)


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


FOLD.mistakes += changed(
    forms.fold_batchnorm,
    S8,
    """
    no shift without a bias: a layer without a bias gets no shift, although the mean and
    β are still there
        bias = 0 * beta if -> bias = running_mean - beta / scale if
        seen in tenstorrent/tt-metal #5317
    """,
)


# --- sync_batchnorm_forward ----------------------------------------------------------


def sync_cases(rng):
    def case(sizes, D, eps):
        places = rng.normal(0, 2, (len(sizes), D))  # workers see different data
        offset = np.repeat(places, sizes, axis=0)
        spread = rng.permutation(np.geomspace(0.1, 3, D))
        x = offset + spread * rng.exponential(1, (sum(sizes), D))
        return x, sizes, rng.uniform(0.5, 2, D), rng.normal(size=D), eps

    return [case((7, 4), 5, 1e-5), case((3, 9, 1), 4, 0.1), case((6, 6), 3, 1e-5)]


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


SYNC.mistakes += changed(
    forms.sync_batchnorm_forward,
    S9,
    """
    not synchronized: each worker uses its own part alone
        all_gather(own) -> [own]
        seen in tensorflow #7439; NVIDIA-Merlin/HugeCTR #181
    total count minus 1: the variance of the whole batch divides by its count minus 1
        ** 2)).sum(0) / total -> ** 2)).sum(0) / (total - 1)
        seen in NVIDIA apex, welford.cu
    """,
)


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
    var = squares - mu**2
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


EXERCISES = (DECAY, FREEZE, RECALIBRATE, FOLD, SYNC)
