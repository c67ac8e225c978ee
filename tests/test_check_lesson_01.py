"""Lesson 01: every known mistake is named, every honest solution passes."""

import numpy as np
import torch
from bank import BankTests

from bn_checks.banks import lesson_01


def loops(x, gamma, beta, eps=1e-5):
    if len(x) < 2:
        raise ValueError("x")
    N, D = x.shape
    y, mu, var = np.empty_like(x), np.zeros(D, x.dtype), np.zeros(D, x.dtype)
    for d in range(D):
        mu[d] = sum(x[n, d] for n in range(N)) / N
        var[d] = sum((x[n, d] - mu[d]) ** 2 for n in range(N)) / N
        for n in range(N):
            y[n, d] = gamma[d] * (x[n, d] - mu[d]) / np.sqrt(var[d] + eps) + beta[d]
    return y, mu, var


def einsum(x, gamma, beta, eps=1e-5):
    if x.shape[0] == 1:
        raise ValueError("x")
    mu = np.einsum("nd->d", x) / len(x)
    var = np.einsum("nd,nd->d", x - mu, x - mu) / len(x)
    return [np.einsum("d,nd->nd", gamma / (var + eps) ** 0.5, x - mu) + beta, mu, var]


def with_torch(x, gamma, beta, eps=1e-5):
    x = torch.tensor(x)
    if len(x) < 2:
        raise ValueError("x")
    mu, var = x.mean(0), x.var(0, unbiased=False)
    y = torch.tensor(gamma) * (x - mu) / torch.sqrt(var + eps) + torch.tensor(beta)
    return y, mu.requires_grad_(), var, "and a remark"


class Closure:
    def __call__(self, x, gamma, beta, eps=1e-5):
        print("debugging", x.shape)
        np.log(np.zeros(1))  # a warning that costs nothing
        if x.shape[0] < 2:
            raise ValueError("x")
        return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + eps) + beta, *(
            x.mean(0),
            x.var(0),
        )


def stepwise_update(running_mean, running_var, mu, var, N, momentum=0.1):
    if N == 1:
        raise ValueError("N")
    step = momentum * (mu - running_mean)
    return running_mean + step, running_var + momentum * (
        var * N / (N - 1) - running_var
    )


def averaged_update(running_mean, running_var, mu, var, N, momentum=0.1):
    if N <= 1:
        raise ValueError("N")
    weights = [1 - momentum, momentum]
    unbiased = var + var / (N - 1)
    mean = np.average([running_mean, mu], axis=0, weights=weights)
    return mean, np.average([running_var, unbiased], axis=0, weights=weights)


def listed_update(running_mean, running_var, mu, var, N, momentum=0.1):
    if N < 2:
        raise ValueError("N")
    k = 1 - momentum
    mean = [k * a + momentum * b for a, b in zip(running_mean, mu, strict=True)]
    c = N / (N - 1)
    spread = [k * a + momentum * b * c for a, b in zip(running_var, var, strict=True)]
    return [mean, spread]


def affine_inference(x, gamma, beta, running_mean, running_var, eps=1e-5):
    scale = gamma / np.sqrt(running_var + eps)
    return x * scale + (beta - running_mean * scale)


def row_by_row(x, gamma, beta, running_mean, running_var, eps=1e-5):
    std = (running_var + eps) ** 0.5
    return np.stack([gamma * ((row - running_mean) / std) + beta for row in x])


def torch_inference(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return torch.nn.functional.batch_norm(
        *map(torch.tensor, (x, running_mean, running_var, gamma, beta)),
        training=False,
        eps=eps,
    )


def merged_sums(n_a, mu_a, var_a, n_b, mu_b, var_b):
    if min(n_a, n_b) < 1:
        raise ValueError("n")
    n = n_a + n_b
    mu = (n_a * mu_a + n_b * mu_b) / n
    squares = n_a * (var_a + (mu_a - mu) ** 2) + n_b * (var_b + (mu_b - mu) ** 2)
    return n, mu, squares / n


def merged_from_b(n_a, mu_a, var_a, n_b, mu_b, var_b):
    if n_a < 1 or n_b < 1:
        raise ValueError("n")
    w = n_a / (n_a + n_b)
    d = mu_a - mu_b
    return n_a + n_b, mu_b + w * d, w * var_a + (1 - w) * var_b + w * (1 - w) * d * d


def merged_stack(n_a, mu_a, var_a, n_b, mu_b, var_b):
    if 0 in (n_a, n_b):
        raise ValueError("n")
    weights = [n_a, n_b]
    mu = np.average([mu_a, mu_b], axis=0, weights=weights)
    within = np.average([var_a, var_b], axis=0, weights=weights)
    between = np.average([(mu_a - mu) ** 2, (mu_b - mu) ** 2], axis=0, weights=weights)
    return np.array(n_a + n_b), mu, within + between


class TestBank(BankTests):
    lesson = lesson_01
    honest = {
        "batchnorm_forward": (loops, einsum, with_torch, Closure()),
        "update_running_stats": (stepwise_update, averaged_update, listed_update),
        "batchnorm_inference": (affine_inference, row_by_row, torch_inference),
        "merge_statistics": (merged_sums, merged_from_b, merged_stack),
    }
