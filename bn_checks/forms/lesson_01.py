"""Right forms for lesson 01."""

import numpy as np


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    if len(x) < 2:
        raise ValueError("x needs at least two samples")
    axes = 0
    mu = x.mean(axes, keepdims=True)
    var = x.var(axes, keepdims=True)
    x_hat = (x - mu) / np.sqrt(var + eps)
    y = gamma * x_hat + beta
    return y, mu.squeeze(), var.squeeze()


def batchnorm_forward_by_hand(x, gamma, beta, eps=1e-5):
    N = len(x)
    if N < 2:
        raise ValueError("x needs at least two samples")
    mu = x.sum(0) / N
    var = ((x - mu) ** 2).sum(0) / N
    y = gamma * (x - mu) / np.sqrt(var + eps) + beta
    return y, mu, var


def update_running_stats(running_mean, running_var, mu, var, N, momentum=0.1):
    if N < 2:
        raise ValueError("N has to be at least 2")
    running_mean = (1 - momentum) * running_mean + momentum * mu
    running_var = (1 - momentum) * running_var + momentum * (var * (N / (N - 1)))
    return running_mean, running_var


def update_by_steps(running_mean, running_var, mu, var, N, momentum=0.1):
    if N < 2:
        raise ValueError("N has to be at least 2")
    running_mean = running_mean + momentum * (mu - running_mean)
    running_var = running_var + momentum * (var * (N / (N - 1)) - running_var)
    return running_mean, running_var


def batchnorm_inference(x, gamma, beta, running_mean, running_var, eps=1e-5):
    std = np.sqrt(running_var + eps)
    return gamma * (x - running_mean) / std + beta


def merge_statistics(n_a, mu_a, var_a, n_b, mu_b, var_b):
    if min(n_a, n_b) < 1:
        raise ValueError("a group is empty")
    n = n_a + n_b
    mu = (n_a * mu_a + n_b * mu_b) / n
    gap = mu_b - mu_a
    within = (n_a * var_a + n_b * var_b) / n
    between = n_a * n_b * gap**2 / n**2
    var = within + between
    return n, mu, var


def merge_by_shares(n_a, mu_a, var_a, n_b, mu_b, var_b):
    if min(n_a, n_b) < 1:
        raise ValueError("a group is empty")
    n = n_a + n_b
    share_a, share_b = n_a / n, n_b / n
    mu = share_a * mu_a + share_b * mu_b
    between = share_a * share_b * (mu_b - mu_a) ** 2
    var = share_a * var_a + share_b * var_b + between
    return n, mu, var


def merge_around_the_mean(n_a, mu_a, var_a, n_b, mu_b, var_b):
    if min(n_a, n_b) < 1:
        raise ValueError("a group is empty")
    n = n_a + n_b
    gap = mu_b - mu_a
    mu = mu_a + gap * n_b / n
    var = (n_a * (var_a + (mu_a - mu) ** 2) + n_b * (var_b + (mu_b - mu) ** 2)) / n
    return n, mu, var
