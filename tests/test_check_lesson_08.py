"""Lesson 08: every known mistake is named, every honest solution passes."""

import numpy as np
import torch
from bank import BankTests

from bn_checks.banks import lesson_08
from bn_helpers import norms


def with_the_reference_norm(
    x, gamma, beta, rng, mean_range=0.5, largest_scale=1.25, jitter=0.1
):
    N, D = x.shape
    mean = -mean_range + 2 * mean_range * rng.random(D)
    scale = 1 + (largest_scale - 1) * rng.random(D)
    shifts = mean + jitter * (2 * rng.random((N, D)) - 1)
    scales = scale + jitter * rng.standard_normal((N, D))
    return norms.batchnorm_forward(x, gamma, beta)[0] * scales + shifts


def sample_by_sample(
    x, gamma, beta, rng, mean_range=0.5, largest_scale=1.25, jitter=0.1
):
    mu = [rng.uniform(-mean_range, mean_range) for _ in gamma]
    sigma = [rng.uniform(1, largest_scale) for _ in gamma]
    m = [[rng.uniform(c - jitter, c + jitter) for c in mu] for _ in x]
    s = [[rng.normal(c, jitter) for c in sigma] for _ in x]
    x_hat = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    return np.array(s) * (x_hat * gamma + beta) + np.array(m)


def with_torch(x, gamma, beta, rng, mean_range=0.5, largest_scale=1.25, jitter=0.1):
    low, high = -mean_range * np.ones(x.shape[1]), mean_range
    mu = rng.uniform(low, high)
    sigma = rng.uniform(np.ones(x.shape[1]), largest_scale)
    m = rng.uniform(mu[None] - jitter, mu[None] + jitter, size=x.shape)
    s = rng.normal(loc=np.tile(sigma, (len(x), 1)), scale=jitter)
    parts = map(torch.from_numpy, (x, gamma, beta))
    x, gamma, beta = parts
    y = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)
    return torch.from_numpy(s) * y + torch.from_numpy(m)


def by_a_list(gradient, w, steps):
    start = gradient(w)
    moved = [gradient(w - step * start) - start for step in steps]
    lengths = [float(np.sqrt((move**2).sum())) for move in moved]
    far = [step * np.sqrt(start @ start) for step in steps]
    return lengths, max(a / b for a, b in zip(lengths, far, strict=True))


def in_one_array(gradient, w, steps):
    g = gradient(w)
    points = w - np.outer(steps, g)
    change = np.stack([gradient(point) for point in points]) - g
    distance = np.linalg.norm(change, axis=1)
    return distance, np.max(distance / np.linalg.norm(points - w, axis=1))


def with_a_loop(gradient, w, steps):
    g, distance, smoothness = gradient(w), np.zeros(len(steps)), 0
    for k, step in enumerate(steps):
        end = w.copy()
        end -= step * g
        distance[k] = np.linalg.norm(g - gradient(end))
        smoothness = max(smoothness, distance[k] / np.linalg.norm(end - w))
    return distance, smoothness


def with_torch_cosines(W, dW, lr, decay=0.0):
    W, dW = torch.from_numpy(W), torch.from_numpy(dW)
    new = (1 - lr * decay) * W - lr * dW
    cosine = torch.nn.functional.cosine_similarity(W, new, dim=0)
    return lr / W.norm(dim=0) ** 2, torch.acos(cosine.clamp(-1, 1))


def by_the_tangent(W, dW, lr, decay=0.0):
    """The part of the gradient across W turns it, the part along W does not."""
    lengths = np.linalg.norm(W, axis=0)
    along = (W * dW).sum(0) / lengths
    across = np.linalg.norm(dW - W * along / lengths, axis=0)
    left = (1 - lr * decay) * lengths - lr * along
    return lr / lengths**2, np.arctan2(lr * across, left)


def unit_by_unit(W, dW, lr, decay=0.0):
    rates, turns = [], []
    for w, g in zip(W.T, dW.T, strict=True):
        new = w - lr * g - lr * decay * w
        a, b = w / np.linalg.norm(w), new / np.linalg.norm(new)
        rates.append(lr / np.dot(w, w))
        turns.append(2 * np.arcsin(np.linalg.norm(a - b) / 2))
    return rates, turns


class TestBank(BankTests):
    lesson = lesson_08
    honest = {
        "noisy_batchnorm": (with_the_reference_norm, sample_by_sample, with_torch),
        "gradient_predictiveness": (by_a_list, in_one_array, with_a_loop),
        "effective_learning_rate": (
            with_torch_cosines,
            by_the_tangent,
            unit_by_unit,
        ),
    }
