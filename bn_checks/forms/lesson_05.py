"""Right forms for lesson 05."""

import numpy as np


def layernorm_forward(x, gamma, beta, eps=1e-5):
    axes = tuple(range(-gamma.ndim, 0))
    mean = x.mean(axes, keepdims=True)
    var = x.var(axes, keepdims=True)
    std = np.sqrt(var + eps)
    return (x - mean) / std * gamma + beta


def layernorm_backward(dy, x_hat, var, gamma, eps=1e-5):
    axes = tuple(range(-gamma.ndim, 0))
    samples = tuple(range(dy.ndim - gamma.ndim))
    slope = x_hat * (dy * gamma * x_hat).mean(axes, keepdims=True)
    dx = dy * gamma - (dy * gamma).mean(axes, keepdims=True) - slope
    dx = dx / np.sqrt(var + eps)
    dgamma = (dy * x_hat).sum(samples)
    dbeta = dy.sum(samples)
    return dx, dgamma, dbeta


def layernorm_backward_by_count(dy, x_hat, var, gamma, eps=1e-5):
    axes = tuple(range(-gamma.ndim, 0))
    samples = tuple(range(dy.ndim - gamma.ndim))
    n = gamma.size
    dx_hat = gamma * dy
    slope = x_hat * (dx_hat * x_hat).sum(axes, keepdims=True)
    dx = dx_hat - dx_hat.sum(axes, keepdims=True) / n - slope / n
    dx = dx / np.sqrt(var + eps)
    return dx, (dy * x_hat).sum(samples), dy.sum(samples)


def groupnorm_forward(x, gamma, beta, num_groups, eps=1e-5):
    if x.shape[1] % num_groups:
        raise ValueError("num_groups does not divide the channels")
    groups = x.reshape(len(x), num_groups, -1, *x.shape[2:])
    axes = tuple(range(2, groups.ndim))
    mu = groups.mean(axes, keepdims=True)
    var = groups.var(axes, keepdims=True)
    x_hat = (groups - mu) / np.sqrt(var + eps)
    along = (-1, *[1] * (x.ndim - 2))
    return gamma.reshape(along) * x_hat.reshape(x.shape) + beta.reshape(along)


def groupnorm_backward(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    along = (-1, *[1] * (dy.ndim - 2))
    batch = (0, *range(2, dy.ndim))
    dgamma = (dy * x_hat).sum(batch)
    dbeta = dy.sum(batch)
    dx_hat = (dy * gamma.reshape(along)).reshape(len(dy), num_groups, -1, *dy.shape[2:])
    x_hat = x_hat.reshape(dx_hat.shape)
    axes = tuple(range(2, dx_hat.ndim))
    slope = x_hat * (dx_hat * x_hat).mean(axes, keepdims=True)
    dx = dx_hat - dx_hat.mean(axes, keepdims=True) - slope
    std = np.sqrt(var + eps)
    dx = dx / std.reshape(*std.shape, *[1] * (dx_hat.ndim - 2))
    return dx.reshape(dy.shape), dgamma, dbeta


def instancenorm_forward(x, gamma, beta, eps=1e-5):
    if x[0, 0].size < 2:
        raise ValueError("a channel has one pixel")
    axes = tuple(range(2, x.ndim))
    mu = x.mean(axes, keepdims=True)
    var = x.var(axes, keepdims=True)
    x_hat = (x - mu) / np.sqrt(var + eps)
    along = (-1, *[1] * (x.ndim - 2))
    return gamma.reshape(along) * x_hat + beta.reshape(along)


def rmsnorm_forward(x, gamma, eps=1e-5):
    axes = tuple(range(-gamma.ndim, 0))
    ms = (x**2).mean(axes, keepdims=True)
    return gamma * (x / np.sqrt(ms + eps))


def rmsnorm_backward(dy, x_hat, ms, gamma, eps=1e-5):
    axes = tuple(range(-gamma.ndim, 0))
    samples = tuple(range(dy.ndim - gamma.ndim))
    slope = x_hat * (dy * gamma * x_hat).mean(axes, keepdims=True)
    dx = dy * gamma - slope
    dx = dx / np.sqrt(ms + eps)
    dgamma = (dy * x_hat).sum(samples)
    return dx, dgamma


def spatial_batchnorm_forward(x, gamma, beta, eps=1e-5):
    axes = (0, 2, 3)
    mu = x.mean(axes, keepdims=True)
    var = x.var(axes, keepdims=True)
    x_hat = (x - mu) / np.sqrt(var + eps)
    y = gamma[:, None, None] * x_hat + beta[:, None, None]
    return y, mu.squeeze(), var.squeeze()


def spatial_by_rows(x, gamma, beta, eps=1e-5):
    rows = np.moveaxis(x, 1, -1)
    shape = rows.shape
    rows = rows.reshape(-1, x.shape[1])
    mu, var = rows.mean(0), rows.var(0)
    y = gamma * ((rows - mu) / np.sqrt(var + eps)) + beta
    return np.moveaxis(y.reshape(shape), -1, 1).reshape(x.shape), mu, var
