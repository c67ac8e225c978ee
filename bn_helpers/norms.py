"""Normalization layers in NumPy: the reference the lessons build up to.

Everything rests on one pair, `normalize_forward` and `normalize_backward`, which
shifts and scales an array over a set of axes. A layer says which axes, and adds gamma,
beta and, for batch norm, running statistics.

    batch norm            (N, D)      over 0
    spatial batch norm    (N, C, *)   over 0 and *
    layer norm            (*, D)      over D, which may be several axes
    instance norm         (N, C, *)   over *
    group norm            (N, C, *)   over * and the C / G channels of a group
    RMS norm              (*, D)      over D, without a mean

Conventions are PyTorch's (torch.nn.BatchNorm1d): the biased variance normalizes, the
unbiased one is stored, `momentum` is the weight of the new batch, and running
statistics start at mean 0 and variance 1. Results have the dtype of `x`; integers
become float64. No function modifies its arguments.
"""

from functools import cache
from math import prod
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np


class Cache(NamedTuple):
    """What a backward pass needs from its forward pass.

    Attributes:
        centered: x minus its mean, the shape of x; for RMS norm a copy of x.
        mu: mean over the axes; for batch norm (D,).
        var: biased variance over the axes, the shape of mu.
        inv_std: 1 / sqrt(var + eps), broadcastable against x.
        axes: the axes that were reduced.
        gamma: scale that followed the normalization, or None.
    """

    centered: np.ndarray
    mu: np.ndarray
    var: np.ndarray
    inv_std: np.ndarray
    axes: tuple[int, ...]
    gamma: np.ndarray | None = None

    @property
    def x_hat(self):
        """Normalized input, the shape of x."""
        return self.centered * self.inv_std


def normalize_forward(x, axes, eps=1e-5):
    """Shift and scale x so that each slice along `axes` has mean 0 and variance near 1.

        mu    = mean of x over axes
        var   = mean of (x - mu)**2 over axes       divides by n, not n - 1
        x_hat = (x - mu) / sqrt(var + eps)

    Args:
        x: array of any shape.
        axes: axes that share one mean and one variance, such as (0,) for batch norm.
        eps: added to the variance inside the root; has the units of x squared.

    Returns:
        x_hat with the shape and dtype of x, and its `Cache` (mu and var keep the
        reduced axes as size 1).

    Raises:
        ValueError: an axis is out of range or given twice, or a slice is empty.

    Source: Ioffe & Szegedy (2015), Algorithm 1, for axes = (0,).
    """
    x = _floating(x)
    over = _reduction(x.shape, _checked_axes(axes, x.shape))
    stats = _standardized(*_centered(x, over), over, eps)
    return stats.x_hat, stats._replace(
        mu=stats.mu.reshape(over.kept), var=stats.var.reshape(over.kept)
    )


def normalize_backward(dx_hat, cache):
    """Gradient of `normalize_forward`, through x, the mean and the variance.

        dx = inv_std * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))

    Args:
        dx_hat: gradient of the loss with respect to x_hat, the shape of x_hat.
        cache: what `normalize_forward` returned.

    Returns:
        dx, and the two sums over the axes that it needed, sum(dx_hat) and
        sum(dx_hat * x_hat), which are the gradients of a following shift and scale.

    Raises:
        ValueError: dx_hat has another shape than x_hat.
    """
    shape = cache.centered.shape
    dx_hat = _checked_gradient("dx_hat", dx_hat, shape, "the shape of x_hat")
    dx, d_sum, d_dot = _backward(dx_hat, cache, cache.inv_std)
    kept = _reduction(shape, cache.axes).kept
    return dx, d_sum.reshape(kept), d_dot.reshape(kept)


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    """Normalize each feature over the batch, then scale and shift (training mode).

        mu  = mean over n of x                    (D,)
        var = mean over n of (x - mu)**2          (D,)   divides by N, not N - 1
        y   = gamma * (x - mu) / sqrt(var + eps) + beta

    Args:
        x: batch of N samples with D features, (N, D), N >= 2.
        gamma: scale per feature, (D,).
        beta: shift per feature, (D,).
        eps: added to the variance inside the root; has the units of x squared.

    Returns:
        y, (N, D), and the `Cache` that `batchnorm_backward` and
        `update_running_stats` need.

    Raises:
        ValueError: fewer than two samples, or shapes that do not fit.

    Source: Ioffe & Szegedy (2015), Algorithm 1.
    Agrees with: torch.nn.functional.batch_norm(x, None, None, ..., training=True).
    """
    x, gamma, beta = _checked_features(x, gamma=gamma, beta=beta)
    if len(x) < 2:
        raise ValueError(
            f"x has shape {x.shape}; batch statistics need N >= 2 samples "
            "(use batchnorm_inference for a single one)"
        )
    over = _reduction(x.shape, (0,))
    stats = _standardized(*_centered(x, over), over, eps, gamma)
    return _scaled_and_shifted(stats, beta), stats


def batchnorm_backward(dy, cache):
    """Gradients of `batchnorm_forward`, in closed form.

        dgamma = sum over n of dy * x_hat         (D,)
        dbeta  = sum over n of dy                 (D,)
        dx     = gamma / sqrt(var + eps) * (dy - dbeta / N - x_hat * dgamma / N)

    Args:
        dy: gradient of the loss with respect to y, (N, D).
        cache: what `batchnorm_forward` returned.

    Returns:
        dx (N, D), dgamma (D,), dbeta (D,).

    Raises:
        ValueError: dy has another shape than y.

    Source: Ioffe & Szegedy (2015), section 3, collapsed to one line.
    Agrees with: autograd through torch.nn.functional.batch_norm(training=True).
    """
    dy = _checked_gradient("dy", dy, cache.centered.shape, "the shape of y")
    # gamma is constant along the batch, so it may wait until the end
    dx, dbeta, dgamma = _backward(dy, cache, cache.inv_std * cache.gamma)
    return dx, dgamma, dbeta


def batchnorm_backward_staged(dy, cache):
    """Gradients of `batchnorm_forward`, one node of the graph at a time.

        dx_hat = dy * gamma
        dvar   = sum over n of dx_hat * (x - mu) * (-1/2) * (var + eps)**(-3/2)
        dmu    = sum over n of -dx_hat / sqrt(var + eps)
        dx     = dx_hat / sqrt(var + eps) + dvar * 2 (x - mu) / N + dmu / N

    The path from mu through var is missing on purpose: its factor is the sum of
    x - mu, which is 0.

    Args, returns, raises: as `batchnorm_backward`.
    Source: Ioffe & Szegedy (2015), section 3.
    """
    centered, x_hat, inv_std = cache.centered, cache.x_hat, cache.inv_std
    dy = _checked_gradient("dy", dy, x_hat.shape, "the shape of y")
    n = len(x_hat)
    dgamma = (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    dx_hat = dy * cache.gamma
    dvar = (dx_hat * centered * -0.5 * inv_std**3).sum(0)
    dmu = (-dx_hat * inv_std).sum(0)
    dx = dx_hat * inv_std + dvar * 2 * centered / n + dmu / n
    return dx, dgamma, dbeta


def update_running_stats(running_mean, running_var, mu, var, N, momentum=0.1):
    """Blend the statistics of a new batch into the running ones.

        running_mean <- (1 - momentum) * running_mean + momentum * mu
        running_var  <- (1 - momentum) * running_var  + momentum * var * N / (N - 1)

    Args:
        running_mean, running_var: statistics so far, (D,). They start at 0 and 1.
        mu, var: mean and biased variance of the new batch, (D,).
        N: number of samples behind mu and var, N >= 2.
        momentum: weight of the new batch, 0 to 1.

    Returns:
        The new running_mean and running_var, (D,).

    Raises:
        ValueError: N < 2, momentum outside 0 to 1, or shapes that do not fit.

    Source: Ioffe & Szegedy (2015), Algorithm 2, step 10, for the factor N / (N - 1).
    Agrees with: the buffers of torch.nn.BatchNorm1d.
    """
    if N < 2:
        raise ValueError(f"N is {N}; an unbiased variance needs N >= 2 samples")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}, expected a number from 0 to 1")
    running_mean, running_var, mu, var = map(
        _floating, (running_mean, running_var, mu, var)
    )
    for name, value in {"running_var": running_var, "mu": mu, "var": var}.items():
        _require_shape(name, value, running_mean.shape, "the shape of running_mean")
    keep = 1 - momentum
    return (
        keep * running_mean + momentum * mu,
        keep * running_var + momentum * var * (N / (N - 1)),
    )


def batchnorm_inference(x, gamma, beta, running_mean, running_var, eps=1e-5):
    """Normalize with fixed statistics (evaluation mode): each sample on its own.

        y = gamma * (x - running_mean) / sqrt(running_var + eps) + beta

    Args:
        x: N samples with D features, (N, D), N >= 1.
        gamma, beta: scale and shift per feature, (D,).
        running_mean, running_var: statistics gathered in training, (D,).
        eps: added to the variance inside the root, as in training.

    Returns:
        y, (N, D). Row n depends on row n of x alone.

    Raises:
        ValueError: shapes that do not fit.

    Source: Ioffe & Szegedy (2015), Algorithm 2, step 11.
    Agrees with: torch.nn.functional.batch_norm(..., training=False).
    """
    x, gamma, beta, running_mean, running_var = _checked_features(
        x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var
    )
    return gamma * (x - running_mean) * _inverse_root(running_var, eps) + beta


def batchnorm_inference_backward(dy, x, gamma, running_mean, running_var, eps=1e-5):
    """Gradients of `batchnorm_inference`: the statistics are constants.

        x_hat  = (x - running_mean) / sqrt(running_var + eps)
        dgamma = sum over n of dy * x_hat                      (D,)
        dbeta  = sum over n of dy                              (D,)
        dx     = dy * gamma / sqrt(running_var + eps)          (N, D)

    No sample reaches another one, so the two means of `batchnorm_backward` are gone.

    Args:
        dy: gradient of the loss with respect to y, (N, D).
        x: what `batchnorm_inference` was given, (N, D).
        gamma: scale per feature, (D,).
        running_mean, running_var: statistics gathered in training, (D,).
        eps: added to the variance inside the root, as in the forward pass.

    Returns:
        dx (N, D), dgamma (D,), dbeta (D,).

    Raises:
        ValueError: shapes that do not fit.

    Agrees with: autograd through torch.nn.functional.batch_norm(training=False).
    """
    x, gamma, running_mean, running_var = _checked_features(
        x, gamma=gamma, running_mean=running_mean, running_var=running_var
    )
    dy = _checked_gradient("dy", dy, x.shape, "the shape of y")
    inv_std = _inverse_root(running_var, eps)
    x_hat = (x - running_mean) * inv_std
    return dy * (gamma * inv_std), (dy * x_hat).sum(0), dy.sum(0)


def merge_statistics(n_a, mu_a, var_a, n_b, mu_b, var_b):
    """Mean and variance of two groups of samples taken together.

        n   = n_a + n_b
        d   = mu_b - mu_a
        mu  = mu_a + d * n_b / n
        var = (n_a * var_a + n_b * var_b) / n + d**2 * n_a * n_b / n**2

    Args:
        n_a, n_b: number of samples in each group, >= 1.
        mu_a, mu_b: means, (D,).
        var_a, var_b: biased variances, (D,).

    Returns:
        n, mu (D,), var (D,): as if one pass had seen all samples.

    Raises:
        ValueError: an empty group, or shapes that do not fit.

    Source: Chan, Golub & LeVeque (1983), equation 2.1, for biased variances.
    """
    for name, count in {"n_a": n_a, "n_b": n_b}.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; a group needs at least one sample")
    mu_a, var_a, mu_b, var_b = map(_floating, (mu_a, var_a, mu_b, var_b))
    for name, value in {"var_a": var_a, "mu_b": mu_b, "var_b": var_b}.items():
        _require_shape(name, value, mu_a.shape, "the shape of mu_a")
    n = n_a + n_b
    d = mu_b - mu_a
    mu = mu_a + d * (n_b / n)
    var = (n_a * var_a + n_b * var_b) / n + d**2 * (n_a * n_b / n**2)
    return n, mu, var


class BatchNorm1d:
    """Batch norm for (N, D) as a layer: both modes, gradients, one step of descent.

    Attributes:
        gamma, beta: parameters, (D,); they start at 1 and 0.
        dgamma, dbeta: their gradients, set by `backward`.
        running_mean, running_var: statistics for evaluation, (D,).
        training: whether batch statistics are used, and the running ones updated.

    State: `forward` in training updates the running statistics; `step` the parameters.
    Agrees with: torch.nn.BatchNorm1d and torch.optim.SGD.
    """

    def __init__(self, D, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = np.ones(D), np.zeros(D)
        self.running_mean, self.running_var = np.zeros(D), np.ones(D)

    def forward(self, x):
        """y, (N, D); keeps what `backward` needs.

        Raises:
            ValueError: one sample in training mode.
        """
        mean, var = self.statistics(x)
        self.inv_std = _inverse_root(var, self.eps)
        self.x_hat = (x - mean) * self.inv_std
        return self.gamma * self.x_hat + self.beta

    def statistics(self, x):
        """Mean and variance to normalize with; updates the running ones in training."""
        if not self.training:
            return self.running_mean, self.running_var
        mu, var = x.mean(0), x.var(0)
        self.running_mean, self.running_var = update_running_stats(
            self.running_mean, self.running_var, mu, var, len(x), self.momentum
        )
        return mu, var

    def backward(self, dy):
        """dx, (N, D), in the mode of the forward pass; sets dgamma and dbeta."""
        self.dgamma, self.dbeta = (dy * self.x_hat).sum(0), dy.sum(0)
        dx = dy
        if self.training:
            dx = dy - (self.dbeta + self.x_hat * self.dgamma) / len(dy)
        return self.gamma * self.inv_std * dx

    def step(self, lr):
        """Move gamma and beta by -lr times their gradients."""
        self.gamma = self.gamma - lr * self.dgamma
        self.beta = self.beta - lr * self.dbeta


def layernorm_forward(x, gamma, beta, eps=1e-5):
    """Normalize each sample over its last axes, then scale and shift.

        mu  = mean of x over the last axes        one number per sample
        var = mean of (x - mu)**2 over them
        y   = gamma * (x - mu) / sqrt(var + eps) + beta

    The shape of gamma says which axes: (D,) for the last one, (C, H, W) for three.

    Args:
        x: samples (*, D) or (*, C, H, W), whatever the leading axes are; one will do.
        gamma, beta: scale and shift per element of a sample, the last axes of x.
        eps: added to the variance inside the root; has the units of x squared.

    Returns:
        y, the shape of x, and the `Cache` that `layernorm_backward` needs.

    Raises:
        ValueError: the shape of gamma is not that of the last axes of x, or beta has
            another one.

    Source: Ba, Kiros & Hinton (2016), section 3.
    Agrees with: torch.nn.functional.layer_norm(x, gamma.shape, gamma, beta, eps).
    """
    x, gamma, beta, over = _checked_last_axes(x, gamma=gamma, beta=beta)
    stats = _standardized(*_centered(x, over), over, eps, gamma)
    return _scaled_and_shifted(stats, beta), stats


def layernorm_backward(dy, cache):
    """Gradients of `layernorm_forward`.

        dx_hat = dy * gamma                       gamma differs along a sample
        dx     = inv_std * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat))
        dgamma = sum over samples of dy * x_hat
        dbeta  = sum over samples of dy

    Args:
        dy: gradient of the loss with respect to y, the shape of y.
        cache: what `layernorm_forward` returned.

    Returns:
        dx, the shape of x; dgamma and dbeta, the shape of gamma.

    Raises:
        ValueError: dy has another shape than y.

    Agrees with: autograd through torch.nn.functional.layer_norm.
    """
    dy = _checked_gradient("dy", dy, cache.centered.shape, "the shape of y")
    return _affine_backward(dy, cache, tuple(range(cache.axes[0])))


def rmsnorm_forward(x, gamma, eps=1e-5):
    """Divide each sample by its root mean square over its last axes, then scale.

        ms = mean of x**2 over the last axes      one number per sample
        y  = gamma * x / sqrt(ms + eps)

    Layer norm without its mean and without beta.

    Args:
        x: samples (*, D) or (*, C, H, W), whatever the leading axes are.
        gamma: scale per element of a sample; its shape says which axes.
        eps: added to the mean square inside the root; has the units of x squared.

    Returns:
        y, the shape of x, and the `Cache` that `rmsnorm_backward` needs; its mu is 0
        and its var the mean square.

    Raises:
        ValueError: the shape of gamma is not that of the last axes of x.

    Source: Zhang & Sennrich (2019), equation 4.
    Agrees with: torch.nn.functional.rms_norm(x, gamma.shape, gamma, eps); without eps
        it takes the machine epsilon of the dtype.
    """
    x, gamma, over = _checked_last_axes(x, gamma=gamma)
    stats = _standardized(x.copy(), np.zeros((), x.dtype), over, eps, gamma)
    return gamma * stats.x_hat, stats


def rmsnorm_backward(dy, cache):
    """Gradients of `rmsnorm_forward`.

        dx_hat = dy * gamma
        dx     = inv_rms * (dx_hat - x_hat * mean(dx_hat * x_hat))
        dgamma = sum over samples of dy * x_hat

    No mean was subtracted, so no mean of dx_hat is.

    Args:
        dy: gradient of the loss with respect to y, the shape of y.
        cache: what `rmsnorm_forward` returned.

    Returns:
        dx, the shape of x; dgamma, the shape of gamma.

    Raises:
        ValueError: dy has another shape than y.

    Agrees with: autograd through torch.nn.functional.rms_norm.
    """
    dy = _checked_gradient("dy", dy, cache.centered.shape, "the shape of y")
    dx, _ = _without_x_hat(dy * cache.gamma, cache, _reduction(dy.shape, cache.axes))
    dx *= cache.inv_std
    samples = _reduction(dy.shape, tuple(range(cache.axes[0])))
    return dx, _sum_products(dy, cache.x_hat, samples).reshape(cache.gamma.shape)


def groupnorm_forward(x, gamma, beta, num_groups, eps=1e-5):
    """Normalize each group of channels of each sample, then scale and shift.

        mu  = mean of x over the C / G channels of a group and their pixels   (N, G)
        var = mean of (x - mu)**2 over the same                               (N, G)
        y   = gamma * (x - mu) / sqrt(var + eps) + beta

    Args:
        x: N samples with C channels and any further axes, (N, C), (N, C, H, W), ...
        gamma, beta: scale and shift per channel, (C,).
        num_groups: G, which divides C. G = 1 has layer norm's statistics over
            (C, H, W), G = C is instance norm.
        eps: added to the variance inside the root; has the units of x squared.

    Returns:
        y, the shape of x, and the `Cache` that `groupnorm_backward` needs; its arrays
        have an axis for the groups, (N, G, C / G, ...).

    Raises:
        ValueError: G does not divide C, the shapes do not fit, or there is one value
            per group in a batch of one.

    Source: Wu & He (2018), section 3.
    Agrees with: torch.nn.functional.group_norm(x, G, gamma, beta, eps).
    """
    x, gamma, beta = _checked_channels(x, gamma, beta)
    groups = _group_shape(x.shape, num_groups)
    if x.size == num_groups:
        raise ValueError(
            f"x has shape {x.shape}; one value in each of its {num_groups} groups "
            "has no spread"
        )
    over = _reduction(groups, tuple(range(2, len(groups))))
    per_channel = groups[1:3] + (1,) * (x.ndim - 2)
    gamma, beta = gamma.reshape(per_channel), beta.reshape(per_channel)
    stats = _standardized(*_centered(x.reshape(groups), over), over, eps, gamma)
    return _scaled_and_shifted(stats, beta).reshape(x.shape), stats


def groupnorm_backward(dy, cache):
    """Gradients of `groupnorm_forward`: layer norm's, group by group.

    Args:
        dy: gradient of the loss with respect to y, the shape of y.
        cache: what `groupnorm_forward` returned.

    Returns:
        dx, the shape of x; dgamma (C,), dbeta (C,).

    Raises:
        ValueError: dy has another shape than y.

    Agrees with: autograd through torch.nn.functional.group_norm.
    """
    N, G, per_group, *rest = cache.centered.shape
    dy = _checked_gradient("dy", dy, (N, G * per_group, *rest), "the shape of y")
    same_gamma = (0, *cache.axes[1:])
    dx, dgamma, dbeta = _affine_backward(
        dy.reshape(cache.centered.shape), cache, same_gamma
    )
    return dx.reshape(dy.shape), dgamma.reshape(-1), dbeta.reshape(-1)


def instancenorm_forward(x, gamma, beta, eps=1e-5):
    """Normalize each channel of each sample over its pixels, then scale and shift.

        mu  = mean of x over the pixels           (N, C)
        var = mean of (x - mu)**2 over them       (N, C)
        y   = gamma * (x - mu) / sqrt(var + eps) + beta

    Args:
        x: N samples with C channels of more than one pixel, (N, C, H, W) or (N, C, L).
        gamma, beta: scale and shift per channel, (C,).
        eps: added to the variance inside the root; has the units of x squared.

    Returns:
        y, the shape of x, and the `Cache` that `instancenorm_backward` needs.

    Raises:
        ValueError: one pixel per channel, or shapes that do not fit.

    Source: Ulyanov, Vedaldi & Lempitsky (2016), equation 3.
    Agrees with: torch.nn.functional.instance_norm(x, weight=gamma, bias=beta).
    """
    x, gamma, beta = _checked_channels(x, gamma, beta)
    if x[0, 0].size < 2:
        raise ValueError(
            f"x has shape {x.shape}; instance norm needs at least two pixels a channel"
        )
    return groupnorm_forward(x, gamma, beta, x.shape[1], eps)


def instancenorm_backward(dy, cache):
    """Gradients of `instancenorm_forward`: those of group norm with G = C.

    Args, returns, raises: as `groupnorm_backward`.
    Agrees with: autograd through torch.nn.functional.instance_norm.
    """
    return groupnorm_backward(dy, cache)


def spatial_batchnorm_forward(x, gamma, beta, eps=1e-5):
    """Batch norm of images: every pixel of every image is a sample of its channel.

        mu  = mean of x over n, h and w           (C,)
        var = mean of (x - mu)**2 over the same   (C,)
        y   = gamma * (x - mu) / sqrt(var + eps) + beta

    Args:
        x: N samples with C channels, (N, C, H, W) or (N, C, L).
        gamma, beta: scale and shift per channel, (C,).
        eps: added to the variance inside the root; has the units of x squared.

    Returns:
        y, the shape of x, and the `Cache` of `batchnorm_forward` on the pixels as rows:
        N * H * W samples with C features.

    Raises:
        ValueError: one value per channel, or shapes that do not fit.

    Source: Ioffe & Szegedy (2015), section 3.2.
    Agrees with: torch.nn.functional.batch_norm(x, None, None, ..., training=True).
    """
    x, gamma, beta = _checked_channels(x, gamma, beta)
    y, stats = batchnorm_forward(_as_rows(x), gamma, beta, eps)
    return _as_images(y, x.shape), stats


def spatial_batchnorm_backward(dy, cache):
    """Gradients of `spatial_batchnorm_forward`: those of batch norm, reshaped.

    Args:
        dy: gradient of the loss with respect to y, (N, C, H, W) or (N, C, L).
        cache: what `spatial_batchnorm_forward` returned.

    Returns:
        dx, the shape of dy; dgamma (C,), dbeta (C,).

    Raises:
        ValueError: dy has another number of channels or of pixels than y.

    Agrees with: autograd through torch.nn.functional.batch_norm(training=True).
    """
    dy = _floating(dy)
    dx, dgamma, dbeta = batchnorm_backward(_as_rows(dy), cache)
    return _as_images(dx, dy.shape), dgamma, dbeta


# the core: statistics are as small as broadcasting allows, (D,) for axes (0,)


class _Reduction(NamedTuple):
    axes: tuple[int, ...]
    n: int  # numbers in one slice
    shape: tuple[int, ...]  # of a statistic; it broadcasts against x
    kept: tuple[int, ...]  # the same with every axis of x
    first: tuple[slice, ...]  # one number of each slice
    subscripts: str  # einsum's name for a sum of products


@cache  # at the sizes of the course, looking up beats working it out
def _reduction(shape, axes):
    every = range(len(shape))
    letters = ascii_lowercase[: len(shape)]
    left = "".join(letters[i] for i in every if i not in axes)
    kept = tuple(1 if i in axes else shape[i] for i in every)
    lead = min((i for i in every if i not in axes), default=len(shape))
    return _Reduction(
        axes=axes,
        n=prod(shape[i] for i in axes),
        shape=kept[lead:],
        kept=kept,
        first=tuple(slice(1) if i in axes else slice(None) for i in every),
        subscripts=f"{letters},{letters}->{left}",
    )


def _sum(a, over):
    if over.axes == (a.ndim - 2,):
        total = _ones(a.shape[-2], a.dtype) @ a  # BLAS takes half the time
    else:
        total = np.add.reduce(a, over.axes)
    return total.reshape(over.shape)


@cache
def _ones(n, dtype):
    ones = np.ones(n, dtype)
    ones.setflags(write=False)
    return ones


def _sum_products(a, b, over):
    """Sum of a * b, without an array for the product."""
    return np.einsum(over.subscripts, a, b).reshape(over.shape)


def _centered(x, over):
    """x minus its mean, and that mean."""
    # subtracting one sample first keeps the digits that a large mean would cost
    first = x[over.first].reshape(over.shape)
    centered = x - first
    offset = _sum(centered, over)
    offset /= over.n
    centered -= offset
    return centered, first + offset


def _standardized(centered, mu, over, eps, gamma=None):
    """The `Cache` of a centered array: its variance and what follows from it."""
    var = _sum_products(centered, centered, over)
    var /= over.n
    return Cache(centered, mu, var, _inverse_root(var, eps), over.axes, gamma)


def _inverse_root(var, eps):
    return 1 / np.sqrt(var + float(eps))  # a NumPy float64 would promote float32


def _scaled_and_shifted(stats, beta):
    y = stats.centered * (stats.inv_std * stats.gamma)
    y += beta
    return y


def _backward(dx_hat, cache, scale):
    """scale * (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)), and both sums."""
    over = _reduction(dx_hat.shape, cache.axes)
    dx, d_dot = _without_x_hat(dx_hat, cache, over)
    d_sum = _sum(dx_hat, over)
    dx -= d_sum / over.n
    dx *= scale
    return dx, d_sum, d_dot


def _without_x_hat(dx_hat, cache, over):
    """dx_hat - x_hat * mean(dx_hat * x_hat), and sum(dx_hat * x_hat)."""
    d_dot = _sum_products(dx_hat, cache.centered, over)
    d_dot *= cache.inv_std
    dx = cache.centered * (d_dot * cache.inv_std / -over.n)
    dx += dx_hat
    return dx, d_dot


def _affine_backward(dy, cache, same_gamma):
    """dx, dgamma and dbeta for a gamma that is constant over the axes same_gamma."""
    gamma, over = cache.gamma, _reduction(dy.shape, same_gamma)
    dx, _, _ = _backward(dy * gamma, cache, cache.inv_std)
    dgamma = _sum_products(dy, cache.x_hat, over)
    return dx, dgamma.reshape(gamma.shape), _sum(dy, over).reshape(gamma.shape)


def _as_rows(images):
    """(N, C, H, W) as (N * H * W, C)."""
    return np.moveaxis(images, 1, -1).reshape(-1, images.shape[1])


def _as_images(rows, shape):
    """(N * H * W, C) as shape (N, C, H, W)."""
    N, C, *pixels = shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(N, *pixels, C), -1, 1))


# checks


def _floating(a):
    a = np.asarray(a)
    return a if a.dtype.kind == "f" else a.astype(np.float64)


def _checked_axes(axes, shape):
    """Axes as distinct numbers from 0 to x.ndim - 1."""
    axes, ndim = tuple(axes), len(shape)
    if not axes or any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"axes is {axes}, expected axes of x with shape {shape}")
    distinct = tuple(sorted({a % ndim for a in axes}))
    if len(distinct) < len(axes):
        raise ValueError(f"axes is {axes}, which names an axis of {shape} twice")
    if 0 in shape:
        raise ValueError(f"x has shape {shape}; there is nothing to average")
    return distinct


def _checked_features(x, **per_feature):
    """x as a floating (N, D) array and each keyword as a (D,) array of its dtype."""
    x = _floating(x)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}, expected (N, D)")
    return x, *_checked_parameters(x, x.shape[1:], "one value per feature", per_feature)


def _checked_channels(x, gamma, beta):
    """x as a floating (N, C, ...) array, gamma and beta as (C,) arrays of its dtype."""
    x = _floating(x)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"x has shape {x.shape}, expected (N, C, ...) and not empty")
    parameters = {"gamma": gamma, "beta": beta}
    return x, *_checked_parameters(x, x.shape[1:2], "one value per channel", parameters)


def _checked_last_axes(x, **parameters):
    """x, parameters with the shape of its last axes, and the reduction over these."""
    x = _floating(x)
    shape = np.shape(parameters["gamma"])
    if not shape or x.size == 0 or x.shape[-len(shape) :] != shape:
        raise ValueError(
            f"gamma has shape {shape}, expected that of the last axes of x {x.shape}"
        )
    values = _checked_parameters(x, shape, "the shape of gamma", parameters)
    return x, *values, _reduction(x.shape, tuple(range(x.ndim - len(shape), x.ndim)))


def _checked_parameters(x, shape, meaning, parameters):
    values = []
    for name, value in parameters.items():
        value = np.asarray(value, x.dtype)
        if value.shape != shape:
            _require_shape(name, value, shape, f"{meaning} of x {x.shape}")
        values.append(value)
    return values


def _group_shape(shape, num_groups):
    N, C, *rest = shape
    if num_groups < 1 or C % num_groups:
        raise ValueError(
            f"num_groups is {num_groups}, expected a divisor of the {C} channels of "
            f"x {shape}"
        )
    return N, num_groups, C // num_groups, *rest


def _checked_gradient(name, gradient, shape, meaning):
    gradient = _floating(gradient)
    _require_shape(name, gradient, shape, meaning)
    return gradient


def _require_shape(name, value, shape, meaning):
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}: {meaning}")
