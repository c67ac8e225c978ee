"""Right forms for lesson 02."""

import numpy as np


def numerical_gradient(f, x, h=1e-5):
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] = up[i] + h
        down[i] = down[i] - h
        gradient[i] = (f(up) - f(down)) / (2 * h)
    return gradient


def param_gradients(dy, x_hat):
    axes = 0
    dgamma = (dy * x_hat).sum(axes)
    dbeta = dy.sum(axes)
    return dgamma, dbeta


def batchnorm_backward_staged(dy, x, mu, var, gamma, eps=1e-5):
    N = len(x)
    std = np.sqrt(var + eps)
    dx_hat = dy * gamma
    dvar = (dx_hat * (x - mu)).sum(0) * -0.5 / std**3
    dmu = -dx_hat.sum(0) / std
    dx = dx_hat / std + dvar * (2 * (x - mu)) / N + dmu / N
    return dx_hat, dvar, dmu, dx


def staged_by_powers(dy, x, mu, var, gamma, eps=1e-5):
    N, D = x.shape
    dx_hat = gamma * dy
    dvar = (dx_hat * (x - mu) * -0.5 * (var + eps) ** -1.5).sum(0)
    dmu = (-dx_hat * (var + eps) ** -0.5).sum(0)
    dx = dx_hat * (var + eps) ** -0.5 + dvar * 2 * (x - mu) / N + dmu / N
    return dx_hat, dvar, dmu, dx


def batchnorm_backward(dy, x_hat, var, gamma, eps=1e-5):
    dgamma = (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    dx = dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0)
    dx = gamma * dx / np.sqrt(var + eps)
    return dx, dgamma, dbeta


def backward_by_sums(dy, x_hat, var, gamma, eps=1e-5):
    N, D = dy.shape
    dgamma = (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    dx = gamma / np.sqrt(var + eps) * (dy - dbeta / N - x_hat * dgamma / N)
    return dx, dgamma, dbeta


def backward_over_axes(dy, x_hat, var, gamma, eps=1e-5):
    axes = 0
    slope = x_hat * (dy * gamma * x_hat).mean(axes, keepdims=True)
    dx = dy * gamma - (dy * gamma).mean(axes, keepdims=True) - slope
    return dx / np.sqrt(var + eps), (dy * x_hat).sum(0), dy.sum(0)


def batchnorm_inference_backward(dy, x, gamma, running_mean, running_var, eps=1e-5):
    std = np.sqrt(running_var + eps)
    x_hat = (x - running_mean) / std
    dx = dy * gamma / std
    dgamma = (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    return dx, dgamma, dbeta


class Layer:
    def __init__(self, D, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma = np.ones(D)
        self.beta = np.zeros(D)
        self.running_mean = np.zeros(D)
        self.running_var = np.ones(D)

    def forward(self, x):
        mu, var = self.running_mean, self.running_var
        if self.training:
            mu = x.mean(0)
            var = x.var(0)
            momentum = self.momentum
            self.running_mean = (1 - momentum) * self.running_mean + momentum * mu
            spread = x.var(0, ddof=1)
            self.running_var = (1 - momentum) * self.running_var + momentum * spread
        self.std = np.sqrt(var + self.eps)
        self.x_hat = (x - mu) / self.std
        return self.gamma * self.x_hat + self.beta

    def backward(self, dy):
        self.dgamma = (dy * self.x_hat).sum(0)
        self.dbeta = dy.sum(0)
        if self.training:
            dx = dy - dy.mean(0) - self.x_hat * (dy * self.x_hat).mean(0)
        else:
            dx = dy
        return self.gamma * dx / self.std

    def step(self, lr):
        self.gamma = self.gamma - lr * self.dgamma
        self.beta = self.beta - lr * self.dbeta


def variance_path(dx_hat, x, mu, var, eps=1e-5):
    v = var + eps
    slopes = -0.5 * dx_hat * (x - mu) * v**-1.5
    return slopes.sum(0)


def mean_paths(dx_hat, x, center, var, dvar, eps=1e-5):
    std = np.sqrt(var + eps)
    direct = -(dx_hat / std).sum(0)
    through_var = dvar * (2 * (center - x)).mean(0)
    return direct, through_var


def find_wrong_backward(x_hat, dx):
    columns = np.abs(dx.sum(1)).max(1)
    lined_up = np.abs((dx * x_hat).sum(1)).max(1)
    largest = np.sqrt((dx**2).max((1, 2)))
    ratio = np.maximum(columns, lined_up) / largest
    return int(np.argmax(ratio))
