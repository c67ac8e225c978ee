"""Lesson 06: every known mistake is named, every honest solution passes."""

import numpy as np
import torch
from bank import POINTS, BankTests
from torch.nn import functional as F

from bn_checks.banks import lesson_06
from bn_checks.drivers.lesson_06 import parameters
from bn_helpers import layers, network


def by_torch(x, W, b, gamma, beta, axis, eps=1e-5):
    z = torch.from_numpy(x @ W + b)
    var, mu = torch.var_mean(z, axis, correction=0, keepdim=True)
    inv_std = (var + eps).rsqrt()
    x_hat = (z - mu) * inv_std
    scaled = x_hat * torch.from_numpy(gamma) + torch.from_numpy(beta)
    return torch.relu(scaled), x_hat, inv_std


def one_sum_at_a_time(x, W, b, gamma, beta, axis, eps=1e-5):
    z = np.einsum("nd,dh->nh", x, W) + b
    n = z.shape[axis]
    centered = z - z.sum(axis, keepdims=True) / n
    inv_std = ((centered**2).sum(axis, keepdims=True) / n + eps) ** -0.5
    y = gamma * centered * inv_std + beta
    return y * (y > 0), centered * inv_std, inv_std, "and more"


def transposed_for_layer_norm(x, W, b, gamma, beta, axis, eps=1e-5):
    z = x @ W + b
    z = z.T if axis == 1 else z
    inv_std = 1 / np.sqrt(z.var(0) + eps)[None]
    x_hat = (z - z.mean(0)) * inv_std
    if axis == 1:
        x_hat, inv_std = x_hat.T, inv_std.T
    return [np.where((y := gamma * x_hat + beta) > 0, y, 0), x_hat, inv_std]


def by_autograd(dy, x, W, gamma, x_hat, inv_std, y, axis):
    """eps is already in inv_std, so the variance that it stands for is found again."""
    arrays = [torch.from_numpy(a).requires_grad_() for a in (x, W, gamma)]
    b = torch.zeros(W.shape[1], dtype=arrays[0].dtype, requires_grad=True)
    beta = torch.zeros_like(b, requires_grad=True)
    z = arrays[0] @ arrays[1] + b
    eps = torch.from_numpy(inv_std) ** -2 - z.detach().var(axis, False, keepdim=True)
    var, mu = torch.var_mean(z, axis, correction=0, keepdim=True)
    out = (z - mu) / (var + eps).sqrt() * arrays[2] + beta
    out.backward(torch.from_numpy(dy * (y > 0)))
    return tuple(v.grad for v in (*arrays[:2], b, arrays[2], beta))


def in_stages(dy, x, W, gamma, x_hat, inv_std, y, axis):
    dy = dy.copy()
    dy[y <= 0] = 0
    dx_hat, n = dy * gamma, x_hat.shape[axis]
    dvar = (dx_hat * x_hat).sum(axis, keepdims=True) * -0.5 * inv_std**2
    dmu = -(dx_hat * inv_std).sum(axis, keepdims=True)
    dz = dx_hat * inv_std + 2 / n * dvar * x_hat / inv_std + dmu / n
    dW = np.einsum("nd,nh->dh", x, dz)
    return [dz.dot(W.T), dW, dz.sum(axis=0), (dy * x_hat).sum(0), dy.sum(0)]


def by_layers(dy, x, W, gamma, x_hat, inv_std, y, axis):
    affine = layers.Affine(W, np.zeros(W.shape[1], W.dtype))
    affine.forward(x)
    g = dy * np.sign(y)
    dx_hat = g * gamma
    ones = np.ones_like(x_hat)
    for direction in (ones, x_hat):
        share = (dx_hat * direction).sum(axis, keepdims=True) / x_hat.shape[axis]
        dx_hat = dx_hat - share * direction if direction is x_hat else dx_hat - share
    dx = affine.backward(dx_hat * inv_std)
    dgamma = np.diag(g.T @ x_hat)
    return dx, affine.grads["W"], affine.grads["b"], dgamma, g.sum(axis=0)


class CourseNet:
    """The network of the course."""

    def __init__(self, params, reg=0.0):
        weights = [value for name, value in params.items() if name[0] == "W"]
        dims = [len(weights[0]), *(W.shape[1] for W in weights)]
        self.net = network.FullyConnectedNet(dims, "batch", reg=reg)
        self.net.load(params)

    def loss(self, x, y):
        return self.net.loss(x, y)


class TorchNet:
    """The network of PyTorch, with gradients as tensors."""

    def __init__(self, params, reg=0.0):
        as_tensor = {name: torch.from_numpy(v.copy()) for name, v in params.items()}
        self.params = {name: v.requires_grad_() for name, v in as_tensor.items()}
        self.reg = reg

    def loss(self, x, y):
        p, h, k = self.params, torch.from_numpy(x), 1
        while f"gamma{k}" in p:
            z = h @ p[f"W{k}"] + p[f"b{k}"]
            norm = (p[f"gamma{k}"], p[f"beta{k}"])
            h = F.relu(F.batch_norm(z, None, None, *norm, training=True))
            k += 1
        scores = h @ p[f"W{k}"] + p[f"b{k}"]
        loss = F.cross_entropy(scores, torch.from_numpy(y))
        for name, value in p.items():
            if name.startswith("W"):
                loss = loss + self.reg / 2 * (value**2).sum()
        loss.backward()
        return loss, {name: value.grad.numpy() for name, value in p.items()}


class FlatNet:
    """Lists instead of dicts, log-sum-exp instead of a softmax."""

    def __init__(self, params, reg=0.0):
        self.params, self.reg = params, reg
        self.L = max(
            int(name[1:])
            for name in params
            if name.startswith("b") and name[1:].isdigit()
        )

    def loss(self, x, y):
        p, inputs, norms, grads = self.params, [x], [], {}
        for k in range(1, self.L):
            z = inputs[-1] @ p[f"W{k}"] + p[f"b{k}"]
            inv = (z.var(0) + 1e-5) ** -0.5
            norms.append(((z - z.mean(0)) * inv, inv))
            inputs.append(
                np.clip(norms[-1][0] * p[f"gamma{k}"] + p[f"beta{k}"], 0, None)
            )
        scores = inputs[-1] @ p[f"W{self.L}"] + p[f"b{self.L}"]
        scores -= scores.max()
        log_p = scores - np.log(np.exp(scores).sum(axis=1))[:, None]
        loss = -np.mean(log_p[np.arange(len(y)), y])
        d = (np.exp(log_p) - np.eye(scores.shape[1])[y]) / len(y)
        for k in range(self.L, 0, -1):
            if k < self.L:
                x_hat, inv = norms[k - 1]
                d = d * (inputs[k] > 0)
                grads[f"gamma{k}"], grads[f"beta{k}"] = (d * x_hat).sum(0), d.sum(0)
                d = d * p[f"gamma{k}"]
                d = inv * (d - d.mean(0) - x_hat * (d * x_hat).mean(0))
            W = p[f"W{k}"]
            grads[f"W{k}"] = inputs[k - 1].T @ d + self.reg * W
            grads[f"b{k}"] = d.sum(0)
            loss += self.reg * np.sum(W * W) / 2
            d = d @ W.T
        return loss, grads


def torch_adam(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    q = torch.nn.Parameter(torch.from_numpy(p.copy()))
    q.grad = torch.from_numpy(g)
    optimizer = torch.optim.Adam([q], lr, (beta1, beta2), eps, foreach=False)
    past = {"step": torch.tensor(float(t - 1))}
    past["exp_avg"], past["exp_avg_sq"] = (torch.from_numpy(a.copy()) for a in (m, v))
    optimizer.state[q] = past
    optimizer.step()
    return q, past["exp_avg"], past["exp_avg_sq"]


def faster_adam(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """The order of the paper's section 2, with eps scaled to fit."""
    m = m + (1 - beta1) * (g - m)
    v = v + (1 - beta2) * (g * g - v)
    root = (1 - beta2**t) ** 0.5
    return p - lr * root / (1 - beta1**t) * m / (v**0.5 + root * eps), m, v


def number_by_number(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    new = np.empty((3, *p.shape), p.dtype)
    for i in np.ndindex(p.shape):
        a = beta1 * float(m[i]) + (1 - beta1) * float(g[i])
        b = beta2 * float(v[i]) + (1 - beta2) * float(g[i]) ** 2
        step = a / (1 - beta1**t) / ((b / (1 - beta2**t)) ** 0.5 + eps)
        new[(slice(None), *i)] = p[i] - lr * step, a, b
    return tuple(new)


def course_adam(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    update = network.Adam(lr, beta1, beta2, eps)
    update.t, update.m, update.v = t - 1, {"p": m.copy()}, {"p": v.copy()}
    new = {"p": p.copy()}
    update.step(new, {"p": g.copy()})
    return new["p"], update.m["p"], update.v["p"]


class CourseStart:
    """The network of the course, with the arrays that it is given."""

    def __init__(self, dims, weight_scale, rng):
        self.net = network.FullyConnectedNet(dims, "batch")
        self.params, self.running = self.net.params, self.net.running
        for name, p in self.params.items():
            if name[0] == "W":
                p[...] = rng.normal(0, weight_scale, p.shape)

    def observe(self, x):
        self.net.load({**self.params, **self.running})
        self.net.loss(x, np.zeros(len(x), int))
        self.running.update(self.net.running)

    def scores(self, x):
        self.net.load({**self.params, **self.running})
        return self.net.scores(x)


class TorchStart:
    """PyTorch's layers, filled anew in each call; scores as a tensor."""

    def __init__(self, dims, weight_scale, rng):
        self.dims, self.params, self.running = dims, {}, {}
        for k in range(1, len(dims)):
            size = dims[k - 1 : k + 1]
            self.params[f"W{k}"] = rng.standard_normal(size) * weight_scale
            self.params[f"b{k}"] = np.zeros(size[1])
        for k, (name, t) in enumerate(self.norms(), start=1):
            where = self.params if name in ("gamma", "beta") else self.running
            where[f"{name}{(k + 3) // 4}"] = t.numpy().copy()

    def norms(self):
        for width in self.dims[1:-1]:
            norm = torch.nn.BatchNorm1d(width, dtype=torch.float64)
            tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
            names = "gamma", "beta", "running_mean", "running_var"
            yield from zip(names, (t.detach() for t in tensors), strict=True)

    def walk(self, x, training):
        p, h = {n: torch.tensor(v) for n, v in self.params.items()}, torch.tensor(x)
        for k in range(1, len(self.dims) - 1):
            names = f"running_mean{k}", f"running_var{k}"
            running = [torch.tensor(self.running[name]) for name in names]
            z = h @ p[f"W{k}"] + p[f"b{k}"]
            own = p[f"gamma{k}"], p[f"beta{k}"]
            h = F.relu(F.batch_norm(z, *running, *own, training=training))
            self.running |= {n: t.numpy() for n, t in zip(names, running, strict=True)}
        return h @ p[f"W{len(self.dims) - 1}"] + p[f"b{len(self.dims) - 1}"]

    def observe(self, x):
        self.walk(x, True)
        return "and more"

    def scores(self, x):
        return self.walk(x, False)


class InPlaceStart:
    """Statistics that move in place, samples one by one."""

    def __init__(self, dims, weight_scale, rng):
        self.params, self.running, self.L = {}, {}, len(dims) - 1
        for k, size in enumerate(zip(dims[:-1], dims[1:], strict=True), start=1):
            self.params[f"W{k}"] = rng.normal(scale=weight_scale, size=size)
        for k in range(1, self.L + 1):
            self.params[f"b{k}"] = np.zeros_like(self.params[f"W{k}"][0])
            if k < self.L:
                for name, value in (("gamma", 1.0), ("beta", 0.0)):
                    self.params[f"{name}{k}"] = np.full(dims[k], value)
                for name, value in (("mean", 0.0), ("var", 1.0)):
                    self.running[f"running_{name}{k}"] = np.full(dims[k], value)

    def observe(self, x):
        for k in range(1, self.L):
            z = np.array([self.affine(k, row) for row in x])
            mean = sum(z) / len(z)
            total = sum((row - mean) ** 2 for row in z)
            for name, new in (("mean", mean), ("var", total / (len(z) - 1))):
                running = self.running[f"running_{name}{k}"]
                running += 0.1 * (new - running)
            x = self.hidden(k, z, mean, total / len(z))

    def scores(self, x):
        out = []
        for h in x:
            for k in range(1, self.L):
                mean, var = (self.running[f"running_{n}{k}"] for n in ("mean", "var"))
                h = self.hidden(k, self.affine(k, h), mean, var)
            out.append(self.affine(self.L, h))
        return out

    def affine(self, k, x):
        return np.einsum("d,dh->h", x, self.params[f"W{k}"]) + self.params[f"b{k}"]

    def hidden(self, k, z, mean, var):
        scale = self.params[f"gamma{k}"] * (var + 1e-5) ** -0.5
        y = scale * z + (self.params[f"beta{k}"] - scale * mean)
        return y * (y > 0)


class TestBank(BankTests):
    lesson = lesson_06
    honest = {
        "affine_norm_relu_forward": (
            by_torch,
            one_sum_at_a_time,
            transposed_for_layer_norm,
        ),
        "affine_norm_relu_backward": (by_autograd, in_stages, by_layers),
        "fully_connected_net": (CourseNet, TorchNet, FlatNet),
        "adam_step": (torch_adam, faster_adam, number_by_number, course_adam),
        "trainable_net": (CourseStart, TorchStart, InPlaceStart),
    }


def score(student, seed=0):
    return lesson_06.FULLY_CONNECTED_NET.score(student, POINTS, seed)


def test_a_missing_gradient_is_named():
    class Forgetful(CourseNet):
        def loss(self, x, y):
            loss, grads = super().loss(x, y)
            del grads["beta1"]
            return loss, grads

    assert "the gradients lack 'beta1'" in score(Forgetful).text


def test_a_gradient_of_another_shape_is_named():
    class Transposed(CourseNet):
        def loss(self, x, y):
            loss, grads = super().loss(x, y)
            return loss, {name: g.T if name == "W1" else g for name, g in grads.items()}

    assert "the gradient of W1 has shape (6, 7), want (7, 6)" in score(Transposed).text


def test_parameters_that_move_cost_points():
    class Moves(CourseNet):
        def __init__(self, params, reg=0.0):
            super().__init__(params, reg)
            self.given = params

        def loss(self, x, y):
            result = super().loss(x, y)
            self.given["W1"] -= 0.1
            return result

    moved = score(Moves)
    assert 0 < moved < POINTS
    assert "fails: values of parameters after the call" in moved.text


def test_the_driver_draws_the_same_parameters_for_a_seed():
    one, two = parameters((5, 4, 3), 7), parameters((5, 4, 3), 7, shift=2.0)
    assert list(one) == ["W1", "b1", "gamma1", "beta1", "W2", "b2"]
    assert np.array_equal(one["W1"], two["W1"])
    assert np.allclose(one["b2"] + 2, two["b2"])
