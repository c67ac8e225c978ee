"""Lesson 05: every known mistake is named, every honest solution passes."""

from itertools import product

import numpy as np
import pytest
import torch
from bank import BankTests
from torch.nn import functional as F

from bn_checks.banks import lesson_05

# what x, gamma and beta would have led to the kept x_hat and spread


def autograd(function, dy, *arrays):
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    function(*leaves).backward(torch.tensor(dy))
    return [leaf.grad.numpy() for leaf in leaves]


def layer_twin(dy, x_hat, var, gamma, eps=1e-5):
    def norm(x, gamma, beta):
        return F.layer_norm(x, gamma.shape, gamma, beta, eps)

    return autograd(norm, dy, x_hat * np.sqrt(var + eps), gamma, 0 * gamma)


def group_twin(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    def norm(x, gamma, beta):
        return F.group_norm(x, num_groups, gamma, beta, eps)

    std = np.repeat(np.sqrt(var + eps), len(gamma) // num_groups, axis=1)
    std = std.reshape(*std.shape, *[1] * (dy.ndim - 2))
    return autograd(norm, dy, x_hat * std, gamma, 0 * gamma)


def rms_twin(dy, x_hat, ms, gamma, eps=1e-5):
    def norm(x, gamma):
        return F.rms_norm(x, gamma.shape, gamma, eps)

    return autograd(norm, dy, x_hat * np.sqrt(ms + eps), gamma)


@pytest.mark.parametrize(
    ("exercise", "twin"),
    [
        (lesson_05.LAYERNORM_BACKWARD, layer_twin),
        (lesson_05.GROUPNORM_BACKWARD, group_twin),
        (lesson_05.RMSNORM_BACKWARD, rms_twin),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_backward_reference_agrees_with_autograd(exercise, twin):
    for args in exercise.cases(np.random.default_rng(0)):
        pairs = zip(exercise.reference(*args), twin(*args), strict=True)
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


# layer norm


def layer_rows(x, gamma, beta, eps=1e-5):
    rows = x.reshape(-1, gamma.size)
    centered = rows - rows.mean(1)[:, None]
    std = np.sqrt((centered**2).mean(1) + eps)
    y = gamma.ravel() * centered / std[:, None] + beta.ravel()
    return y.reshape(x.shape)


def layer_transposed(x, gamma, beta, eps=1e-5):
    columns = x.reshape(-1, gamma.size).T
    y = (columns - columns.mean(0)) / np.sqrt(columns.var(0) + eps)
    return y.T.reshape(x.shape) * gamma + beta


def layer_torch(x, gamma, beta, eps=1e-5):
    x, gamma, beta = map(torch.tensor, (x, gamma, beta))
    return F.layer_norm(x, gamma.shape, gamma, beta, eps)


def layer_loops(x, gamma, beta, eps=1e-5):
    y = np.empty_like(x)
    for i in np.ndindex(x.shape[: x.ndim - gamma.ndim]):
        y[i] = gamma * (x[i] - x[i].mean()) / np.sqrt(x[i].var() + eps) + beta
    return y


def layer_backward_rows(dy, x_hat, var, gamma, eps=1e-5):
    D = gamma.size
    dy, x_hat = dy.reshape(-1, D), x_hat.reshape(-1, D)
    g = dy * gamma.ravel()
    inner = D * g - g.sum(1, keepdims=True) - x_hat * (g * x_hat).sum(1, keepdims=True)
    dx = inner / D / np.sqrt(var.reshape(-1, 1) + eps)
    shape = (*var.shape[: var.ndim - gamma.ndim], *gamma.shape)
    dgamma = (dy * x_hat).sum(0).reshape(gamma.shape)
    return dx.reshape(shape), dgamma, dy.sum(0).reshape(gamma.shape)


def layer_backward_staged(dy, x_hat, var, gamma, eps=1e-5):
    axes, samples = tuple(range(-gamma.ndim, 0)), tuple(range(dy.ndim - gamma.ndim))
    inv_std, n = (var + eps) ** -0.5, gamma.size
    centered, g = x_hat / inv_std, dy * gamma
    dvar = (g * centered * -0.5 * inv_std**3).sum(axes, keepdims=True)
    dmu = -(g * inv_std).sum(axes, keepdims=True)
    dx = g * inv_std + 2 * dvar * centered / n + dmu / n
    return [dx, np.sum(dy * x_hat, axis=samples), np.sum(dy, axis=samples)]


def layer_backward_matrix(dy, x_hat, var, gamma, eps=1e-5):
    """One matrix per sample: the projection of lesson 02."""
    D = gamma.size
    rows, hats = (dy * gamma).reshape(-1, D), x_hat.reshape(-1, D)
    P = np.eye(D) - 1 / D - np.einsum("ni,nj->nij", hats, hats) / D
    dx = np.einsum("nij,nj->ni", P, rows) / np.sqrt(var.reshape(-1, 1) + eps)
    dgamma = np.einsum("ni,ni->i", dy.reshape(-1, D), hats).reshape(gamma.shape)
    dbeta = dy.reshape(-1, D).sum(0).reshape(gamma.shape)
    return dx.reshape(dy.shape).astype(dy.dtype), dgamma, dbeta


# group norm


def group_loops(x, gamma, beta, num_groups, eps=1e-5):
    C = x.shape[1]
    if C % num_groups != 0:
        raise ValueError("groups")
    y, size = np.empty_like(x), C // num_groups
    for n, g in product(range(len(x)), range(num_groups)):
        part = x[n, g * size : (g + 1) * size]
        y[n, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(
            part.var() + eps
        )
    for c in range(C):
        y[:, c] = gamma[c] * y[:, c] + beta[c]
    return y


def group_flat(x, gamma, beta, num_groups, eps=1e-5):
    # NumPy's own ValueError is as good as one of ours
    flat = x.reshape(len(x), num_groups, x.shape[1] // num_groups * x[0, 0].size)
    flat = (flat - flat.mean(2, keepdims=True)) / np.sqrt(
        flat.var(2, keepdims=True) + eps
    )
    y = flat.reshape(*x.shape[:2], -1)
    return (gamma[:, None] * y + beta[:, None]).reshape(x.shape)


def group_torch(x, gamma, beta, num_groups, eps=1e-5):
    if x.shape[1] % num_groups:
        raise ValueError("groups")
    return F.group_norm(
        torch.tensor(x), num_groups, *map(torch.tensor, (gamma, beta)), eps
    )


def group_backward_loops(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    N, C = dy.shape[:2]
    size, dx = C // num_groups, np.empty_like(dy)
    gamma = gamma.reshape(-1, *[1] * (dy.ndim - 2))
    for n, g in product(range(N), range(num_groups)):
        part = slice(g * size, (g + 1) * size)
        up, hat = dy[n, part] * gamma[part], x_hat[n, part]
        bracket = up - up.mean() - hat * (up * hat).mean()
        dx[n, part] = bracket / np.sqrt(var[n, g] + eps)
    axes = (0, *range(2, dy.ndim))
    return dx, (dy * x_hat).sum(axes), dy.sum(axes)


def group_backward_rows(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    """Each group is a row of layer norm."""
    N, C = dy.shape[:2]
    pixels = dy[0, 0].size
    rows = (dy.reshape(N, C, pixels) * gamma[:, None]).reshape(N * num_groups, -1)
    hats = x_hat.reshape(N * num_groups, -1)
    dx = rows - rows.mean(1)[:, None] - hats * (rows * hats).mean(1)[:, None]
    dx /= np.sqrt(var + eps).reshape(-1, 1)
    sums = [a.reshape(N, C, pixels).sum((0, 2)) for a in (dy * x_hat, dy)]
    return (dx.reshape(dy.shape), *sums)


def group_backward_from_channels(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    """Sums per channel first, then gamma-weighted sums of these."""
    N, C = dy.shape[:2]
    size = C // num_groups
    flat, hats = dy.reshape(N, C, -1), x_hat.reshape(N, C, -1)
    s, d = flat.sum(2), (flat * hats).sum(2)
    n = size * flat.shape[2]
    means = [
        np.repeat((a * gamma).reshape(N, num_groups, size).sum(2) / n, size, axis=1)
        for a in (s, d)
    ]
    std = np.repeat(np.sqrt(var + eps), size, axis=1)[..., None]
    dx = (
        flat * gamma[:, None] - means[0][..., None] - hats * means[1][..., None]
    ) / std
    return dx.reshape(dy.shape), d.sum(0), s.sum(0)


# instance norm


def instance_flat(x, gamma, beta, eps=1e-5):
    flat = x.reshape(*x.shape[:2], -1)
    if flat.shape[2] < 2:
        raise ValueError("pixels")
    flat = flat - flat.mean(2, keepdims=True)
    flat = flat / np.sqrt((flat**2).mean(2, keepdims=True) + eps)
    return (gamma[:, None] * flat + beta[:, None]).reshape(x.shape)


def instance_loops(x, gamma, beta, eps=1e-5):
    if x[0, 0].size == 1:
        raise ValueError("pixels")
    y = np.zeros_like(x)
    for n, c in np.ndindex(x.shape[:2]):
        part = x[n, c]
        y[n, c] = gamma[c] * (part - part.mean()) / (part.var() + eps) ** 0.5 + beta[c]
    return y


def instance_torch(x, gamma, beta, eps=1e-5):
    gamma, beta = map(torch.tensor, (gamma, beta))
    return F.instance_norm(torch.tensor(x), weight=gamma, bias=beta, eps=eps)


# RMS norm


def rms_rows(x, gamma, eps=1e-5):
    rows = x.reshape(-1, gamma.size)
    mean_square = np.einsum("nd,nd->n", rows, rows) / gamma.size
    return gamma * (rows / np.sqrt(mean_square + eps)[:, None]).reshape(x.shape)


def rms_torch(x, gamma, eps=1e-5):
    return F.rms_norm(torch.tensor(x), gamma.shape, torch.tensor(gamma), eps)


def rms_by_norm(x, gamma, eps=1e-5):
    flat = x.reshape(-1, gamma.size)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / np.sqrt(length**2 / gamma.size + eps)).reshape(x.shape) * gamma


def rms_backward_rows(dy, x_hat, ms, gamma, eps=1e-5):
    D = gamma.size
    up, hats = dy.reshape(-1, D), x_hat.reshape(-1, D)
    g = up * gamma.ravel()
    dx = g - hats * np.einsum("nd,nd->n", g, hats)[:, None] / D
    dx = dx / np.sqrt(ms.reshape(-1, 1) + eps)
    return dx.reshape(dy.shape), (up * hats).sum(0).reshape(gamma.shape)


def rms_backward_staged(dy, x_hat, ms, gamma, eps=1e-5):
    axes, samples = tuple(range(-gamma.ndim, 0)), tuple(range(dy.ndim - gamma.ndim))
    r = 1 / np.sqrt(ms + eps)
    x, g = x_hat / r, dy * gamma
    dr = (g * x).sum(axes, keepdims=True)
    dms = dr * -0.5 * r**3
    return g * r + dms * 2 * x / gamma.size, (dy * x_hat).sum(samples)


def rms_backward_loops(dy, x_hat, ms, gamma, eps=1e-5):
    dx, dgamma = np.empty_like(dy), np.zeros_like(gamma)
    for i in np.ndindex(dy.shape[: dy.ndim - gamma.ndim]):
        g = gamma * dy[i]
        dx[i] = (g - x_hat[i] * (g * x_hat[i]).mean()) / np.sqrt(ms[i].ravel()[0] + eps)
        dgamma += dy[i] * x_hat[i]
    return dx, dgamma


# spatial batch norm


def spatial_at_once(x, gamma, beta, eps=1e-5):
    mu, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    scale = gamma / np.sqrt(var + eps)
    y = (x - mu[:, None, None]) * scale[:, None, None] + beta[:, None, None]
    return y, mu, var


def spatial_channel_by_channel(x, gamma, beta, eps=1e-5):
    parts = np.split(x, x.shape[1], axis=1)
    mu, var = np.array([p.mean() for p in parts]), np.array([p.var() for p in parts])
    y = [
        g * (p - m) / np.sqrt(v + eps) + b
        for p, g, b, m, v in zip(parts, gamma, beta, mu, var, strict=True)
    ]
    return np.concatenate(y, axis=1), mu, var


def spatial_columns(x, gamma, beta, eps=1e-5):
    N, C, H, W = x.shape
    columns = x.transpose(1, 0, 2, 3).reshape(C, -1)
    mu, var = columns.mean(1), columns.var(1)
    y = (columns - mu[:, None]) / np.sqrt(var + eps)[:, None]
    y = gamma[:, None] * y + beta[:, None]
    return y.reshape(C, N, H, W).transpose(1, 0, 2, 3), mu, var


def spatial_torch(x, gamma, beta, eps=1e-5):
    x, gamma, beta = map(torch.tensor, (x, gamma, beta))
    y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)
    return y, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


HONEST = {
    "layernorm_forward": (layer_rows, layer_transposed, layer_torch, layer_loops),
    "layernorm_backward": (
        layer_backward_rows,
        layer_backward_staged,
        layer_backward_matrix,
    ),
    "groupnorm_forward": (group_loops, group_flat, group_torch),
    "groupnorm_backward": (
        group_backward_loops,
        group_backward_rows,
        group_backward_from_channels,
    ),
    "instancenorm_forward": (instance_flat, instance_loops, instance_torch),
    "rmsnorm_forward": (rms_rows, rms_torch, rms_by_norm),
    "rmsnorm_backward": (rms_backward_rows, rms_backward_staged, rms_backward_loops),
    "spatial_batchnorm_forward": (
        spatial_at_once,
        spatial_channel_by_channel,
        spatial_columns,
        spatial_torch,
    ),
}


class TestLesson05(BankTests):
    lesson = lesson_05
    honest = HONEST
