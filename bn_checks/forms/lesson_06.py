"""Right forms for lesson 06."""

import numpy as np


def affine_norm_relu_forward(x, W, b, gamma, beta, axis, eps=1e-5):
    z = x @ W + b
    axes = axis
    mu = z.mean(axes, keepdims=True)
    var = z.var(axes, keepdims=True)
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = (z - mu) * inv_std
    y = np.maximum(gamma * x_hat + beta, 0)
    return y, x_hat, inv_std


def affine_norm_relu_backward(dy, x, W, gamma, x_hat, inv_std, y, axis):
    inner = dy * (y > 0)
    dgamma = (inner * x_hat).sum(0)
    dbeta = inner.sum(0)
    axes = axis
    slope = x_hat * (inner * gamma * x_hat).mean(axes, keepdims=True)
    d = inner * gamma - (inner * gamma).mean(axes, keepdims=True) - slope
    d = d * inv_std
    dx = d @ W.T
    dW = x.T @ d
    db = d.sum(0)
    return dx, dW, db, dgamma, dbeta


class Net:
    def __init__(self, params, reg=0.0):
        self.params, self.reg, self.eps = params, reg, 1e-5
        self.last = sum(name[0] == "W" for name in params)

    def loss(self, x, y):
        p, kept = self.params, []
        N = len(y)
        for k in range(1, self.last):
            z = x @ p[f"W{k}"] + p[f"b{k}"]
            mu = z.mean(0)
            var = z.var(0)
            std = np.sqrt(var + self.eps)
            x_hat = (z - mu) / std
            out = np.maximum(p[f"gamma{k}"] * x_hat + p[f"beta{k}"], 0)
            kept.append((x, x_hat, std, out))
            x = out
        logits = x @ p[f"W{self.last}"] + p[f"b{self.last}"]
        logits = logits - logits.max(1, keepdims=True)
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        target = y[:, None] == np.arange(logits.shape[1])
        loss = -np.log(shares[target]).sum() / N
        d = (shares - target) / N
        grads = {f"W{self.last}": x.T @ d, f"b{self.last}": d.sum(0)}
        d = d @ p[f"W{self.last}"].T
        for k in range(self.last - 1, 0, -1):
            x, x_hat, std, out = kept[k - 1]
            d = d * (out > 0)
            grads[f"gamma{k}"] = (d * x_hat).sum(0)
            grads[f"beta{k}"] = d.sum(0)
            d = d * p[f"gamma{k}"]
            d = d - d.mean(0) - x_hat * (d * x_hat).mean(0)
            d = d / std
            grads[f"W{k}"] = x.T @ d
            grads[f"b{k}"] = d.sum(0)
            d = d @ p[f"W{k}"].T
        for k in range(1, self.last + 1):
            loss = loss + 0.5 * self.reg * (p[f"W{k}"] ** 2).sum()
            grads[f"W{k}"] = grads[f"W{k}"] + self.reg * p[f"W{k}"]
        return loss, grads


def adam_step(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    new_m = m * beta1 + g * (1 - beta1)
    new_v = beta2 * v + (1 - beta2) * g**2
    first = new_m / (1 - beta1**t)
    second = new_v / (1 - beta2**t)
    p = p - lr * first / (np.sqrt(second) + eps)
    return p, new_m, new_v


class TrainableNet:
    def __init__(self, dims, weight_scale, rng):
        self.params, self.running, self.last = {}, {}, len(dims) - 1
        self.eps, self.momentum = 1e-5, 0.1
        p, running = self.params, self.running
        for k in range(1, self.last + 1):
            draws = rng.normal(size=(dims[k - 1], dims[k]))
            width = dims[k]
            p[f"W{k}"] = weight_scale * draws
            p[f"b{k}"] = np.zeros(width)
            if k < self.last:
                p[f"gamma{k}"] = np.ones(width)
                p[f"beta{k}"] = np.zeros(width)
                running[f"running_mean{k}"] = np.zeros(width)
                running[f"running_var{k}"] = np.ones(width)

    def observe(self, x):
        p, running, momentum = self.params, self.running, self.momentum
        axes = 0
        for k in range(1, self.last):
            x = x @ p[f"W{k}"] + p[f"b{k}"]
            mu = x.mean(axes)
            var = x.var(axes)
            unbiased = x.var(axes, ddof=1)
            running_mean = running[f"running_mean{k}"]
            running_var = running[f"running_var{k}"]
            new = (1 - momentum) * running_mean + momentum * mu
            running[f"running_mean{k}"] = new
            new = (1 - momentum) * running_var + momentum * unbiased
            running[f"running_var{k}"] = new
            x_hat = (x - mu) / np.sqrt(var + self.eps)
            x = np.maximum(p[f"gamma{k}"] * x_hat + p[f"beta{k}"], 0)

    def scores(self, x):
        p, running = self.params, self.running
        for k in range(1, self.last):
            x = x @ p[f"W{k}"] + p[f"b{k}"]
            running_mean = running[f"running_mean{k}"]
            running_var = running[f"running_var{k}"]
            x_hat = (x - running_mean) / np.sqrt(running_var + self.eps)
            x = np.maximum(p[f"gamma{k}"] * x_hat + p[f"beta{k}"], 0)
        return x @ p[f"W{self.last}"] + p[f"b{self.last}"]
