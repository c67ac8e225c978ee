"""Right forms for lesson 10."""

import numpy as np


def masked_batchnorm(x, mask, gamma, beta, eps=1e-5):
    rows = x[mask]
    mu = rows.mean(axis=0)
    var = ((rows - mu) ** 2).mean(axis=0)
    y = np.zeros_like(x)
    std = np.sqrt(var + eps)
    x_hat = (rows - mu) / std
    y[mask] = gamma * x_hat + beta
    return y, mu, var


def residual_block(x, W1, W2, gamma, beta, place):
    if place not in ("pre", "post"):
        raise ValueError(f"place is {place!r}, expected 'pre' or 'post'")
    h = x if place == "pre" else x + np.maximum(x @ W1, 0) @ W2
    mu = h.mean(axis=-1, keepdims=True)
    var = ((h - mu) ** 2).mean(axis=-1, keepdims=True)
    y = gamma * (h - mu) / np.sqrt(var + 1e-5) + beta
    return x + np.maximum(y @ W1, 0) @ W2 if place == "pre" else y


def qk_norm_attention(q, k, v, gain):
    q = q / np.sqrt((q**2).sum(axis=-1, keepdims=True))
    k = k / np.sqrt((k**2).sum(axis=-1, keepdims=True))
    logits = gain * (q @ k.T)
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = e / e.sum(axis=-1, keepdims=True)
    return weights @ v, weights


def fold_layernorm(gamma, beta, W, b):
    b = 0 if b is None else b
    return gamma[:, None] * W, b + beta @ W


def center_writer(W, b):
    return W - W.mean(axis=1, keepdims=True), b - b.mean()
