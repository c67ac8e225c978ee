"""Published mistakes of lesson 09 that no bank lists: edits have to explain them."""

from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

KINDS = nn.BatchNorm1d, nn.BatchNorm2d


def _norms(model, kinds=KINDS):
    return [m for m in model.modules() if isinstance(m, kinds)]


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


def freezes_statistics_only(model):
    for m in _norms(model):
        _stays_in_evaluation(m)


def freezes_by_momentum(model):
    for m in _norms(model):
        m.momentum = 0.0
        _fixed(m.parameters())


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


def recalibrates_without_reset(model, batches):
    with _collecting(model, reset=False):
        _pass_all(model, batches)


def recalibrates_with_momentum_zero(model, batches):
    with _collecting(model, momentum=0.0):
        _pass_all(model, batches)


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


def _folded(weight, bias, gamma, beta, mean, scale):
    per_row = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight * per_row, (bias - mean) * scale + beta


def _bias(bias, like):
    return np.zeros_like(like) if bias is None else bias


def bias_not_scaled(weight, bias, gamma, beta, mean, var, eps=1e-5):
    scale = gamma / np.sqrt(var + eps)
    folded, shift = _folded(weight, 0 * beta, gamma, beta, mean, scale)
    return folded, shift + _bias(bias, beta)


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


MISTAKES = (
    (
        "freeze_batchnorm",
        "gradients off, statistics moving",
        "pytorch #86590; speedinghzl/Pytorch-Deeplab #17",
        freezes_parameters_only,
    ),
    (
        "freeze_batchnorm",
        "gamma and beta still trained",
        "filipradenovic/cnnimageretrieval-pytorch #19; mmdetection #346",
        freezes_statistics_only,
    ),
    ("freeze_batchnorm", "momentum 0", "pytorch #15298", freezes_by_momentum),
    (
        "recalibrate_statistics",
        "old statistics not forgotten",
        "simon-larsson/keras-swa #2; pytorch #5766",
        recalibrates_without_reset,
    ),
    (
        "recalibrate_statistics",
        "momentum 0 for None",
        "Lightning-AI/pytorch-lightning #14866",
        recalibrates_with_momentum_zero,
    ),
    (
        "recalibrate_statistics",
        "biased variance stored",
        "ARENA_3.0 #415",
        recalibrates_biased,
    ),
    (
        "fold_batchnorm",
        "bias not scaled",
        "Tencent/ncnn #1339; vlfeat/matconvnet #772; XiaoMi/mace #262; "
        "ultralytics/yolov3 #807",
        bias_not_scaled,
    ),
    (
        "fold_batchnorm",
        "old bias dropped",
        "shoutOutYangJie/MobileOne #14",
        bias_dropped,
    ),
    (
        "fold_batchnorm",
        "eps fixed",
        "NHZlX/Merge_bn_Caffe #8; pytorch #25282",
        eps_fixed,
    ),
    (
        "fold_batchnorm",
        "eps left out",
        "analogdevicesinc/ai8x-training #108",
        eps_left_out,
    ),
    ("fold_batchnorm", "eps outside the root", "Tencent/ncnn #311", eps_outside),
    (
        "fold_batchnorm",
        "sign of gamma lost",
        "LeelaChessZero/lc0 #779; jakc4103/DFQ #20",
        gamma_without_sign,
    ),
    (
        "sync_batchnorm_forward",
        "every worker counts the same",
        "google/flax #2417; PaddlePaddle #32464; pytorch #22192; inplace_abn #68",
        mean_of_means,
    ),
    (
        "sync_batchnorm_forward",
        "spread between the workers forgotten",
        "leggedrobotics/rsl_rl #226",
        no_spread_between,
    ),
    (
        "sync_batchnorm_forward",
        "eps as a floor",
        "vacancy/Synchronized-BatchNorm-PyTorch #38, #43",
        eps_as_floor,
    ),
)
