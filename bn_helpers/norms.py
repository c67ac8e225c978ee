"""Normalization layers in NumPy: the reference the lessons build up to.

Read `batchnorm_forward` and `batchnorm_backward` first: they are written as the paper
has them, for N samples with D features. `normalize_forward` and `normalize_backward`
are the same lines over any set of axes, and the other norms rest on this pair.

    batch norm            (N, D)      over 0
    spatial batch norm    (N, C, *)   over 0 and *
    layer norm            (*, D)      over D, which may be several axes
    instance norm         (N, C, *)   over *
    group norm            (N, C, *)   over * and the C / G channels of a group
    RMS norm              (*, D)      over D, without a mean

Conventions are PyTorch's (torch.nn.BatchNorm1d): the biased variance normalizes, the
unbiased one is stored, `momentum` is the weight of the new batch, and running
statistics start at mean 0 and variance 1. No function modifies its arguments.

Numbers. Results have the dtype of x; integers and lists become float64. float16 is
computed in float32 and rounded at the end; statistics in a cache stay float32. eps is a
number >= 0; if it is 0, a slice of equal numbers is 0 / 0, which is nan. A slice that
holds nan or inf becomes nan; the others do not notice. An empty x has no statistics: a
ValueError. Evaluation needs none, and hands an empty batch back.
"""

from math import isfinite
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np


class Cache(NamedTuple):
    """What a backward pass needs from its forward pass.

    Attributes:
        centered: x minus its mean, the shape of x; for RMS norm a copy of x.
        mu: mean over the axes; for batch norm (D,).
        var: biased variance over the axes, the shape of mu; for RMS norm the mean
            square.
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
    x, gamma, beta = _features(x, gamma=gamma, beta=beta)
    eps, N = _not_negative(eps), len(x)
    if N < 2 or x.size == 0:
        raise ValueError(
            f"x has shape {x.shape}; batch statistics need N >= 2 samples "
            "(use batchnorm_inference for a single one)"
        )
    # from here to x - mu, count from a sample: a large mean then costs no digits
    origin = x[0].astype(gamma.dtype)  # float32 if x is float16, else the dtype of x
    shifted = x - origin
    mean = shifted.mean(0)
    centered = np.subtract(shifted, mean, out=shifted)  # in place: new memory is slow
    mu = origin + mean
    # (centered**2).sum(0) / N, without an array for the squares
    var = np.einsum("nd,nd->d", centered, centered) / N
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = centered * inv_std
    y = gamma * x_hat
    y += beta
    y, centered = _cast_like(x, y, centered)
    return y, Cache(centered, mu, var, inv_std, (0,), gamma)


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

    Source: Ioffe & Szegedy (2015), section 3, collapsed to one line; the steps stand in
        `batchnorm_backward_staged`.
    Agrees with: autograd through torch.nn.functional.batch_norm(training=True).
    """
    dy = _gradient(dy, cache.centered)
    N, x_hat, scale = len(dy), cache.x_hat, cache.gamma * cache.inv_std
    dgamma = np.einsum("nd,nd->d", dy, x_hat)  # (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    dx = scale * (dy - dbeta / N - x_hat * (dgamma / N))
    return _cast_like(cache.centered, dx, dgamma, dbeta)


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
    dy = _gradient(dy, cache.centered)
    N, x_hat, inv_std = len(dy), cache.x_hat, cache.inv_std
    dgamma = (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    dx_hat = dy * cache.gamma
    dvar = (dx_hat * cache.centered * -0.5 * inv_std**3).sum(0)
    dmu = (-dx_hat * inv_std).sum(0)
    dx = dx_hat * inv_std + dvar * 2 * cache.centered / N + dmu / N
    return _cast_like(cache.centered, dx, dgamma, dbeta)


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
    if not N >= 2:
        raise ValueError(f"N is {N}; an unbiased variance needs N >= 2 samples")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}, expected a number from 0 to 1")
    old_mean = _floating("running_mean", running_mean)
    shape, meaning = old_mean.shape, "the shape of running_mean"
    old_var, mu, var = _fitting(
        old_mean, shape, meaning, running_var=running_var, mu=mu, var=var
    )
    # float(): a NumPy number of 64 bits would turn float32 arrays into float64
    momentum, unbiased = float(momentum), var * float(N / (N - 1))
    return _cast_like(
        old_mean,
        (1 - momentum) * old_mean + momentum * mu,
        (1 - momentum) * old_var + momentum * unbiased,
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
    x, gamma, beta, running_mean, running_var = _features(
        x, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var
    )
    x_hat = (x - running_mean) / np.sqrt(running_var + _not_negative(eps))
    [y] = _cast_like(x, gamma * x_hat + beta)
    return y


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
    x, gamma, running_mean, running_var = _features(
        x, gamma=gamma, running_mean=running_mean, running_var=running_var
    )
    dy = _gradient(dy, x)
    inv_std = 1 / np.sqrt(running_var + _not_negative(eps))
    x_hat = (x - running_mean) * inv_std
    return _cast_like(x, dy * (gamma * inv_std), (dy * x_hat).sum(0), dy.sum(0))


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
        if not count >= 1:
            raise ValueError(f"{name} is {count}; a group needs at least one sample")
    mu_a = _floating("mu_a", mu_a)
    var_a, mu_b, var_b = _fitting(
        mu_a, mu_a.shape, "the shape of mu_a", var_a=var_a, mu_b=mu_b, var_b=var_b
    )
    n = n_a + n_b
    share_a, share_b = float(n_a / n), float(n_b / n)
    d = mu_b - mu_a
    mu = mu_a + d * share_b
    var = share_a * var_a + share_b * var_b + d**2 * (share_a * share_b)
    return n, *_cast_like(mu_a, mu, var)


class BatchNorm1d:
    """Batch norm for (N, D) as a layer: both modes, gradients, one step of descent.

    Attributes:
        gamma, beta: parameters, (D,); they start at 1 and 0.
        dgamma, dbeta: their gradients, set by `backward`.
        running_mean, running_var: statistics for evaluation, (D,).
        training: whether batch statistics are used, and the running ones updated.

    Parameters and running statistics are float64. y and the gradients have the dtype
    of x.

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
            ValueError: one sample in training mode, or x has no D features.
        """
        self.x, gamma, beta = _features(x, gamma=self.gamma, beta=self.beta)
        precise = self.x.astype(gamma.dtype, copy=False)
        mean, var = self.statistics(precise)
        self.inv_std = 1 / np.sqrt(var + _not_negative(self.eps))
        self.x_hat = (precise - mean) * self.inv_std
        [y] = _cast_like(self.x, gamma * self.x_hat + beta)
        return y

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
        """dx, (N, D), in the mode of the forward pass; sets dgamma and dbeta.

        Raises:
            ValueError: dy has another shape than y.
        """
        dy = _gradient(dy, self.x)
        dgamma, dbeta = (dy * self.x_hat).sum(0), dy.sum(0)
        dx = dy
        if self.training:
            dx = dy - (dbeta + self.x_hat * dgamma) / len(dy)
        dx = self.gamma * self.inv_std * dx
        dx, self.dgamma, self.dbeta = _cast_like(self.x, dx, dgamma, dbeta)
        return dx

    def step(self, lr):
        """Move gamma and beta by -lr times their gradients."""
        self.gamma = self.gamma - lr * self.dgamma
        self.beta = self.beta - lr * self.dbeta


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
    x = _floating("x", x)
    axes, eps = _checked_axes(axes, x.shape), _not_negative(eps)
    # counted from the first number of each slice, as in batchnorm_forward
    start = tuple(slice(1) if i in axes else slice(None) for i in range(x.ndim))
    origin = x[start].astype(np.result_type(x, np.float32))
    centered = x - origin
    mu = centered.mean(axes, keepdims=True)
    centered -= mu
    n = x.size // mu.size  # numbers behind each mean
    var = _sum_products(centered, centered, axes) / n
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = centered * inv_std
    x_hat, centered = _cast_like(x, x_hat, centered)
    return x_hat, Cache(centered, origin + mu, var, inv_std, axes)


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
    dx_hat = _gradient(dx_hat, cache.centered, "x_hat")
    x_hat, inv_std = cache.x_hat, cache.inv_std
    d_sum = dx_hat.sum(cache.axes, keepdims=True)
    d_dot = _sum_products(dx_hat, x_hat, cache.axes)
    n = dx_hat.size // d_sum.size
    dx = inv_std * (dx_hat - d_sum / n - x_hat * (d_dot / n))
    return _cast_like(cache.centered, dx, d_sum, d_dot)


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
    x, axes, gamma, beta = _last_axes(x, gamma=gamma, beta=beta)
    x_hat, cache = normalize_forward(x, axes, eps)
    [y] = _cast_like(x, gamma * x_hat + beta)
    return y, cache._replace(gamma=gamma)


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
    dy = _gradient(dy, cache.centered)
    samples = tuple(range(cache.axes[0]))
    dx, _, _ = normalize_backward(dy * cache.gamma, cache)
    dgamma, dbeta = (dy * cache.x_hat).sum(samples), dy.sum(samples)
    return _cast_like(cache.centered, dx, dgamma, dbeta)


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
    x, axes, gamma = _last_axes(x, gamma=gamma)
    precise = x.astype(gamma.dtype)
    ms = _sum_products(precise, precise, axes) / gamma.size
    inv_rms = 1 / np.sqrt(ms + _not_negative(eps))
    x_hat = precise * inv_rms
    y, kept = _cast_like(x, gamma * x_hat, precise)
    return y, Cache(kept, np.zeros_like(ms), ms, inv_rms, axes, gamma)


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
    dy = _gradient(dy, cache.centered)
    x_hat, inv_rms, gamma = cache.x_hat, cache.inv_std, cache.gamma
    samples = tuple(range(cache.axes[0]))
    dgamma = (dy * x_hat).sum(samples)
    dx_hat = dy * gamma
    d_dot = _sum_products(dx_hat, x_hat, cache.axes)
    dx = inv_rms * (dx_hat - x_hat * (d_dot / gamma.size))
    return _cast_like(cache.centered, dx, dgamma)


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
    x, gamma, beta = _channels(x, gamma=gamma, beta=beta)
    N, C, *pixels = x.shape
    _require_divisor(num_groups, x.shape)
    if x.size == num_groups:
        raise ValueError(
            f"x has shape {x.shape}; one value in each of its {num_groups} groups "
            "has no spread"
        )
    groups = x.reshape(N, num_groups, C // num_groups, *pixels)
    x_hat, cache = normalize_forward(groups, tuple(range(2, groups.ndim)), eps)
    per_channel = groups.shape[1:3] + (1,) * len(pixels)
    gamma, beta = gamma.reshape(per_channel), beta.reshape(per_channel)
    [y] = _cast_like(x, gamma * x_hat + beta)
    return y.reshape(x.shape), cache._replace(gamma=gamma)


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
    N, G, per_group, *pixels = cache.centered.shape
    shape = (N, G * per_group, *pixels)
    [dy] = _fitting(cache.centered, shape, "the shape of y", dy=dy)
    groups = dy.reshape(cache.centered.shape)
    dx, _, _ = normalize_backward(groups * cache.gamma, cache)
    same_gamma = (0, *cache.axes[1:])
    dgamma, dbeta = (groups * cache.x_hat).sum(same_gamma), groups.sum(same_gamma)
    return _cast_like(
        cache.centered, dx.reshape(shape), dgamma.reshape(-1), dbeta.reshape(-1)
    )


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
    x, gamma, beta = _channels(x, gamma=gamma, beta=beta)
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
    x, gamma, beta = _channels(x, gamma=gamma, beta=beta)
    y, cache = batchnorm_forward(_as_rows(x), gamma, beta, eps)
    return _as_images(y, x.shape), cache


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
    dy = _floating("dy", dy)
    if dy.ndim < 2:
        raise ValueError(f"dy has shape {dy.shape}, expected (N, C, ...) as y")
    dx, dgamma, dbeta = batchnorm_backward(_as_rows(dy), cache)
    return _as_images(dx, dy.shape), dgamma, dbeta


def _as_rows(images):
    """(N, C, H, W) as (N * H * W, C)."""
    return np.moveaxis(images, 1, -1).reshape(-1, images.shape[1])


def _as_images(rows, shape):
    """(N * H * W, C) as shape (N, C, H, W)."""
    N, C, *pixels = shape
    return np.ascontiguousarray(np.moveaxis(rows.reshape(N, *pixels, C), -1, 1))


def _sum_products(a, b, axes):
    """Sum of a * b over axes, kept with size 1; needs no array for the product."""
    every = ascii_lowercase[: a.ndim]  # over axis 0 of two: "ab,ab->b"
    left = "".join(name for i, name in enumerate(every) if i not in axes)
    return np.expand_dims(np.einsum(f"{every},{every}->{left}", a, b), axes)


def _cast_like(like, *arrays):
    """The arrays in the dtype of `like`: float16 was computed in float32."""
    return tuple(array.astype(like.dtype, copy=False) for array in arrays)


# checks: what comes in, as arrays that fit; parameters in the precision to compute in


def _floating(name, value):
    """The value as an array of floating-point numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}, expected real numbers")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _fitting(x, shape, meaning, **values):
    """Each value as an array of that shape; dtype of x, but float32 at least."""
    precise, arrays = np.result_type(x, np.float32), []
    for name, value in values.items():
        array = _floating(name, value)
        if array.shape != shape:
            got = array.shape
            raise ValueError(f"{name} has shape {got}, expected {shape}: {meaning}")
        arrays.append(array.astype(precise, copy=False))
    return arrays


def _gradient(value, like, of="y"):
    """A gradient that comes in, as an array that has the shape of `like`."""
    return _fitting(like, like.shape, f"the shape of {of}", **{f"d{of}": value})[0]


def _features(x, **per_feature):
    """x as an (N, D) array, and each keyword as a (D,) array."""
    x = _floating("x", x)
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}, expected (N, D)")
    meaning = f"one value per feature of x {x.shape}"
    return x, *_fitting(x, x.shape[1:], meaning, **per_feature)


def _channels(x, **per_channel):
    """x as an (N, C, ...) array, and each keyword as a (C,) array."""
    x = _floating("x", x)
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"x has shape {x.shape}, expected (N, C, ...) and not empty")
    meaning = f"one value per channel of x {x.shape}"
    return x, *_fitting(x, x.shape[1:2], meaning, **per_channel)


def _last_axes(x, **parameters):
    """x, the axes that the shape of gamma names, and the parameters as arrays."""
    x, shape = _floating("x", x), np.shape(parameters["gamma"])
    if not shape or x.size == 0 or x.shape[-len(shape) :] != shape:
        raise ValueError(
            f"gamma has shape {shape}, expected that of the last axes of x {x.shape}"
        )
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return x, axes, *_fitting(x, shape, "the shape of gamma", **parameters)


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


def _not_negative(eps):
    """eps as a Python number, which leaves float32 as it is."""
    if not (eps >= 0 and isfinite(eps)):
        raise ValueError(f"eps is {eps}, expected a number >= 0")
    return float(eps)


def _require_divisor(num_groups, shape):
    if num_groups < 1 or shape[1] % num_groups:
        raise ValueError(
            f"num_groups is {num_groups}, expected a divisor of the {shape[1]} "
            f"channels of x {shape}"
        )
