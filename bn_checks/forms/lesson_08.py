"""Right forms for lesson 08."""

import numpy as np


def noisy_batchnorm(
    x, gamma, beta, rng, mean_range=0.5, largest_scale=1.25, jitter=0.1
):
    N, D = x.shape
    axes = 0
    mean = x.mean(axes, keepdims=True)
    var = x.var(axes, keepdims=True)
    x_hat = (x - mean) / np.sqrt(var + 1e-5)
    center_of_m = rng.uniform(-mean_range, mean_range, size=D)
    sigma = rng.uniform(1, largest_scale, D)
    moved = rng.uniform(center_of_m - jitter, center_of_m + jitter, (N, D))
    stretch = rng.normal(sigma, jitter, (N, D))
    return moved + stretch * (x_hat * gamma + beta)


def gradient_predictiveness(gradient, w, steps):
    g = gradient(w)
    steps = np.asarray(steps)
    distance = np.array([np.linalg.norm(gradient(w - step * g) - g) for step in steps])
    ratio = distance / (steps * np.linalg.norm(g))
    smoothness = ratio.max()
    return distance, smoothness


def effective_learning_rate(W, dW, lr, decay=0.0):
    new = W - lr * (dW + decay * W)
    cosine = (W * new).sum(0) / np.linalg.norm(W, axis=0) / np.linalg.norm(new, axis=0)
    turn = np.arccos(np.clip(cosine, -1, 1))
    rate = lr / np.linalg.norm(W, axis=0) ** 2
    return rate, turn
