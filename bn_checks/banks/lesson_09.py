"""Checks of lesson 09, batch norm in practice."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from bn_helpers import practice

from ..drivers.lesson_09 import drive_freeze, drive_recalibrate, drive_sync
from ..engine import Exercise, Mistake, Property, difference

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


def freezes_parameters_only(model):
    for m in _norms(model):
        _fixed(m.parameters())


def freezes_until_train(model):
    for m in _norms(model):
        m.eval()
        _fixed(m.parameters())


def freezes_statistics_only(model):
    for m in _norms(model):
        _stays_in_evaluation(m)


def freezes_by_momentum(model):
    for m in _norms(model):
        m.momentum = 0.0
        _fixed(m.parameters())


def freezes_images_only(model):
    for m in _norms(model, nn.BatchNorm2d):
        _stays_in_evaluation(m)
        _fixed(m.parameters())


def freezes_top_level_only(model):
    for m in model.children():
        if isinstance(m, KINDS):
            _stays_in_evaluation(m)
            _fixed(m.parameters())


def freezes_every_mode(model):
    for m in _norms(model):
        _fixed(m.parameters())
    _stays_in_evaluation(model)


def freezes_every_parameter(model):
    _fixed(model.parameters())
    for m in _norms(model):
        _stays_in_evaluation(m)


FREEZE_MISTAKES = (
    Mistake(
        "gradients off, statistics moving",
        "requires_grad reaches γ and β. Running statistics follow no gradient; they "
        "move with every pass in training mode.",
        S4,
        "pytorch #86590; speedinghzl/Pytorch-Deeplab #17",
        freezes_parameters_only,
    ),
    Mistake(
        "woken by the next model.train()",
        "Your layers are in evaluation mode until someone calls model.train(), which "
        "every training loop does.",
        S4,
        "pgniewko/gt-pyg #112; poppinace/indexnet_matting #35",
        freezes_until_train,
    ),
    Mistake(
        "gamma and beta still trained",
        "Your statistics stand still, but γ and β are still trained.",
        S4,
        "filipradenovic/cnnimageretrieval-pytorch #19; mmdetection #346",
        freezes_statistics_only,
    ),
    Mistake(
        "momentum 0",
        "Momentum 0 stops the running statistics, but in training mode the layer still "
        "normalizes with the batch.",
        S4,
        "pytorch #15298",
        freezes_by_momentum,
    ),
    Mistake(
        "BatchNorm2d only",
        "You freeze one kind of batch norm; the network has another.",
        S4,
        "tianweiy/CenterPoint #168",
        freezes_images_only,
    ),
    Mistake(
        "top level only",
        "You look at the direct children; a batch norm inside a block stays awake.",
        S4,
        "pytorch #66073; indexnet_matting #35",
        freezes_top_level_only,
    ),
    Mistake(
        "whole model in evaluation mode",
        "You keep the whole model in evaluation mode, so dropout sleeps as well.",
        S4,
        "isht7/pytorch-deeplab-resnet #39",
        freezes_every_mode,
    ),
    Mistake(
        "all parameters frozen",
        "You freeze the parameters of all layers; nothing is left to train.",
        S4,
        "pytorch #86590; tianweiy/CenterPoint #168",
        freezes_every_parameter,
    ),
)

FREEZE = Exercise(
    "freeze_batchnorm",
    practice.freeze_batchnorm,
    ("x", "y", "lr", "seed"),
    ("running_statistics", "gamma_and_beta", "other_parameters", "losses"),
    freeze_cases,
    mistakes=FREEZE_MISTAKES,
    drive=drive_freeze,
)


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


def recalibrates_with_momentum(model, batches):
    with _collecting(model) as norms:
        for m in norms:
            m.momentum = 0.1
        _pass_all(model, batches)


def recalibrates_without_reset(model, batches):
    with _collecting(model, reset=False):
        _pass_all(model, batches)


def recalibrates_with_momentum_zero(model, batches):
    with _collecting(model, momentum=0.0):
        _pass_all(model, batches)


def recalibrates_with_dropout(model, batches):
    with _collecting(model, awake=[model]):
        _pass_all(model, batches)


def recalibrates_with_the_other_momentum(model, batches):
    with _collecting(model, momentum=0.99):
        _pass_all(model, batches)


def recalibrates_and_forgets_momentum(model, batches):
    with _collecting(model):
        _pass_all(model, batches)
    for m in _norms(model):
        m.momentum = None


def recalibrates_and_stays_in_evaluation(model, batches):
    with _collecting(model):
        _pass_all(model, batches)
    model.eval()


def recalibrates_biased(model, batches):
    sums = {m: [] for m in _norms(model)}
    with _collecting(model) as norms:
        hooks = [
            m.register_forward_pre_hook(
                lambda m, x: sums[m].append(x[0].var(0, unbiased=False))
            )
            for m in norms
        ]
        _pass_all(model, batches)
        for m, hook in zip(norms, hooks, strict=True):
            hook.remove()
            m.running_var.copy_(torch.stack(sums[m]).mean(0))


RECALIBRATE_MISTAKES = (
    Mistake(
        "momentum kept",
        "You collect with a fixed momentum: the last batches count most, and the start "
        "at 0 and 1 is still in there.",
        S6,
        "xfey/pytorch-BigNAS #3; tugstugi/pytorch-saltnet #4",
        recalibrates_with_momentum,
    ),
    Mistake(
        "old statistics not forgotten",
        "The old statistics, and the count of their batches, are still in the average.",
        S6,
        "simon-larsson/keras-swa #2; pytorch #5766",
        recalibrates_without_reset,
    ),
    Mistake(
        "momentum 0 for None",
        "Momentum 0 keeps the running statistics where they are; None averages.",
        S6,
        "Lightning-AI/pytorch-lightning #14866",
        recalibrates_with_momentum_zero,
    ),
    Mistake(
        "dropout awake",
        "You wake the whole model; with dropout on, the statistics are those of a "
        "network that never evaluates.",
        S6,
        "qualcomm/aimet #1749; torch.optim.swa_utils.update_bn",
        recalibrates_with_dropout,
    ),
    Mistake(
        "momentum of another library",
        "With momentum near 1, PyTorch keeps little but the last batch; other "
        "libraries weigh the old value.",
        S6,
        "r9y9/tacotron_pytorch #19; kazuto1011/deeplab-pytorch #79",
        recalibrates_with_the_other_momentum,
    ),
    Mistake(
        "momentum not restored",
        "You leave momentum changed: later training would average over everything it "
        "ever saw.",
        S6,
        "pytorch #30559",
        recalibrates_and_forgets_momentum,
    ),
    Mistake(
        "left in evaluation mode",
        "You leave the model in evaluation mode, whatever mode it came in.",
        S6,
        "facebookresearch/clevr-iep #22; dlwpt-code #104",
        recalibrates_and_stays_in_evaluation,
    ),
    Mistake(
        "biased variance stored",
        "Your variances divide by N; the stored one divides by N − 1.",
        S6,
        "ARENA_3.0 #415",
        recalibrates_biased,
    ),
)

RECALIBRATE = Exercise(
    "recalibrate_statistics",
    practice.recalibrate_statistics,
    ("x", "training", "seed"),
    ("running_mean", "running_var", "parameters", "modes_and_momenta"),
    recalibrate_cases,
    mistakes=RECALIBRATE_MISTAKES,
    weights=(1, 1, 0, 0),
    drive=drive_recalibrate,
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


def _folded(weight, bias, gamma, beta, mean, scale):
    per_row = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * per_row, (bias - mean) * scale + beta


def _bias(bias, like):
    return np.zeros_like(like) if bias is None else bias


def bias_not_scaled(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    folded, shift = _folded(weight, 0 * beta, gamma, beta, mean, scale)
    return folded, shift + _bias(bias, beta)


def no_bias_no_shift(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    folded, shift = _folded(weight, _bias(bias, beta), gamma, beta, mean, scale)
    return folded, 0 * shift if bias is None else shift


def bias_dropped(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    return _folded(weight, 0 * beta, gamma, beta, mean, scale)


def eps_fixed(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + 1e-5)
    return _folded(weight, _bias(bias, beta), gamma, beta, mean, scale)


def eps_left_out(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var)
    return _folded(weight, _bias(bias, beta), gamma, beta, mean, scale)


def eps_outside(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / (np.sqrt(var) + eps)
    return _folded(weight, _bias(bias, beta), gamma, beta, mean, scale)


def gamma_without_sign(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = np.abs(gamma) / np.sqrt(var + eps)
    return _folded(weight, _bias(bias, beta), gamma, beta, mean, scale)


FOLD_MISTAKES = (
    Mistake(
        "bias not scaled",
        "Your old bias is added as it was; batch norm scales it as well.",
        S8,
        "Tencent/ncnn #1339; vlfeat/matconvnet #772; XiaoMi/mace #262; "
        "ultralytics/yolov3 #807",
        bias_not_scaled,
    ),
    Mistake(
        "no shift without a bias",
        "For a layer without a bias, your shift is missing: the mean and β are still "
        "there.",
        S8,
        "tenstorrent/tt-metal #5317",
        no_bias_no_shift,
    ),
    Mistake(
        "old bias dropped",
        "Your layer's own bias is lost.",
        S8,
        "shoutOutYangJie/MobileOne #14",
        bias_dropped,
    ),
    Mistake(
        "eps fixed",
        "You fold with one eps for all layers; it belongs to the batch norm, and "
        "libraries differ in their defaults.",
        S8,
        "NHZlX/Merge_bn_Caffe #8; pytorch #25282",
        eps_fixed,
    ),
    Mistake(
        "eps left out",
        "Your result does not depend on eps.",
        S8,
        "analogdevicesinc/ai8x-training #108",
        eps_left_out,
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance.",
        S8,
        "Tencent/ncnn #311",
        eps_outside,
    ),
    Mistake(
        "sign of gamma lost",
        "A negative γ turns a unit around; you fold its absolute value.",
        S8,
        "LeelaChessZero/lc0 #779; jakc4103/DFQ #20",
        gamma_without_sign,
    ),
)

FOLD = Exercise(
    "fold_batchnorm",
    practice.fold_batchnorm,
    ("weight", "bias", "gamma", "beta", "running_mean", "running_var", "eps"),
    ("weight", "bias"),
    fold_cases,
    mistakes=FOLD_MISTAKES,
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


def _moments(x, all_gather):
    """Counts, means and biased variances of all workers: (K, 1), (K, D), (K, D)."""
    own = np.concatenate([[len(x)], x.mean(0), x.var(0)])
    counts, moments = np.split(np.stack(all_gather(own)), [1], axis=1)
    return counts, *np.split(moments, 2, axis=1)


def _scaled(x, gamma, beta, mu, var, eps):
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


def sync_reference(x, gamma, beta, all_gather, eps=1e-5):
    n, means, variances = _moments(x, all_gather)
    mu = (n * means).sum(0) / n.sum()
    var = (n * (variances + (means - mu) ** 2)).sum(0) / n.sum()
    return _scaled(x, gamma, beta, mu, var, eps)


def each_for_itself(x, gamma, beta, all_gather, eps=1e-5):
    return _scaled(x, gamma, beta, x.mean(0), x.var(0), eps)


def mean_of_means(x, gamma, beta, all_gather, eps=1e-5):
    _, means, variances = _moments(x, all_gather)
    mu = means.mean(0)
    var = (variances + (means - mu) ** 2).mean(0)
    return _scaled(x, gamma, beta, mu, var, eps)


def no_spread_between(x, gamma, beta, all_gather, eps=1e-5):
    n, means, variances = _moments(x, all_gather)
    mu = (n * means).sum(0) / n.sum()
    return _scaled(x, gamma, beta, mu, (n * variances).sum(0) / n.sum(), eps)


def eps_as_floor(x, gamma, beta, all_gather, eps=1e-5):
    _, mu, var = sync_reference(x, gamma, beta, all_gather, eps)
    return _scaled(x, gamma, beta, mu, np.maximum(var, eps) - eps, eps)[0], mu, var


def difference_of_squares(x, gamma, beta, all_gather, eps=1e-5):
    own = np.concatenate([[len(x)], x.sum(0), (x**2).sum(0)])
    total = np.sum(all_gather(own), axis=0)
    mu, squares = np.split(total[1:] / total[0], 2)
    return _scaled(x, gamma, beta, mu, squares - mu**2, eps)


def _keeps_digits(trial):
    """Values near a million that spread by 0.1."""
    x = 1e6 + 0.1 * trial.rng.normal(size=(12, 3))
    args = x, (5, 7), np.ones(3), np.zeros(3), 1e-5
    (_, _, got), (_, _, want) = trial.run(args)
    if np.allclose(got, want, rtol=1e-4):
        return ()
    return ("features near a million that spread by 0.1", *difference("var", got, want))


SYNC_MISTAKES = (
    Mistake(
        "not synchronized",
        "Each worker normalizes with its own part; nothing was exchanged.",
        S9,
        "tensorflow #7439; NVIDIA-Merlin/HugeCTR #181",
        each_for_itself,
    ),
    Mistake(
        "every worker counts the same",
        "You average over workers; a worker with more samples must count more.",
        S9,
        "google/flax #2417; PaddlePaddle #32464; pytorch #22192; inplace_abn #68",
        mean_of_means,
    ),
    Mistake(
        "spread between the workers forgotten",
        "Your variance averages what is within the workers; their means differ, too.",
        S9,
        "leggedrobotics/rsl_rl #226",
        no_spread_between,
    ),
    Mistake(
        "eps as a floor",
        "You take the larger of variance and eps; they are added.",
        S9,
        "vacancy/Synchronized-BatchNorm-PyTorch #38, #43",
        eps_as_floor,
    ),
    Mistake(
        "difference of squares",
        "Mean square minus squared mean loses its digits far from 0.",
        S9,
        "PaddlePaddle #16121; tenstorrent/tt-metal #45968",
        difference_of_squares,
        shows="keeps its digits far from 0",
    ),
)

SYNC = Exercise(
    "sync_batchnorm_forward",
    sync_reference,
    ("x", "sizes", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    sync_cases,
    extra=(Property("keeps its digits far from 0", _keeps_digits, 0.5),),
    mistakes=SYNC_MISTAKES,
    weights=(2, 1, 1.5),
    drive=drive_sync,
)

EXERCISES = (FREEZE, RECALIBRATE, FOLD, SYNC)
