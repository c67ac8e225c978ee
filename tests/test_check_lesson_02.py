"""Lesson 02: every known mistake is named, every honest solution passes."""

import numpy as np
import pytest
import torch
from bank import POINTS, BankTests
from torch.nn.functional import batch_norm

from bn_checks.banks import lesson_02
from bn_helpers import norms

# --- the references against PyTorch --------------------------------------------------


def leaves(*arrays):
    return [torch.tensor(a, requires_grad=True) for a in arrays]


@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_stages_and_closed_form_are_autograd(eps):
    rng = np.random.default_rng(0)
    x, gamma, beta = lesson_02.batch(rng, 12, 5)
    dy = lesson_02.upstream(rng, 12, 5)
    t, g, b = leaves(x, gamma, beta)
    batch_norm(t, None, None, g, b, training=True, eps=eps).backward(torch.tensor(dy))

    x_hat = (x - x.mean(0)) / np.sqrt(x.var(0) + eps)
    staged = lesson_02.BATCHNORM_BACKWARD_STAGED.reference(
        dy, x, x.mean(0), x.var(0), gamma, eps
    )
    dx, dgamma, dbeta = lesson_02.BATCHNORM_BACKWARD.reference(
        dy, x_hat, x.var(0), gamma, eps
    )
    for got, want in ((staged[3], t), (dx, t), (dgamma, g), (dbeta, b)):
        np.testing.assert_allclose(got, want.grad, rtol=1e-9, atol=1e-11)


def test_inner_stages_are_autograd():
    rng = np.random.default_rng(1)
    x, gamma, _ = lesson_02.batch(rng, 9, 4)
    dy = lesson_02.upstream(rng, 9, 4)
    mu = x.mean(0)
    var, mean, x_hat = leaves(x.var(0), mu, (x - mu) / np.sqrt(x.var(0) + 1e-5))
    (torch.tensor(gamma) * x_hat).backward(torch.tensor(dy))
    # each stage as its own small graph, with the gradient of the stage above
    inner = (torch.tensor(x) - mean) / torch.sqrt(var + 1e-5)
    inner.backward(x_hat.grad)
    got = lesson_02.BATCHNORM_BACKWARD_STAGED.reference(dy, x, mu, x.var(0), gamma)
    for value, leaf in zip(got, (x_hat, var, mean), strict=False):
        np.testing.assert_allclose(value, leaf.grad, rtol=1e-9, atol=1e-11)


def test_the_layer_is_pytorchs():
    rng = np.random.default_rng(2)
    ours = norms.BatchNorm1d(5, eps=1e-3, momentum=0.3)
    twin = torch.nn.BatchNorm1d(5, 1e-3, 0.3, dtype=torch.float64)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2)

    def compare():
        x, dy = lesson_02.batch(rng, 8, 5)[0], lesson_02.upstream(rng, 8, 5)
        (t,) = leaves(x)
        y = twin(t)
        optimizer.zero_grad()
        y.backward(torch.tensor(dy))
        pairs = [(ours.forward(x), y.detach()), (ours.backward(dy), t.grad)]
        pairs += [(ours.dgamma, twin.weight.grad), (ours.dbeta, twin.bias.grad)]
        pairs += [(ours.running_mean, twin.running_mean)]
        pairs += [(ours.running_var, twin.running_var)]
        for got, want in pairs:
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)
        ours.step(0.2)
        optimizer.step()
        np.testing.assert_allclose(ours.gamma, twin.weight.detach(), rtol=1e-9)

    for training in (True, True, False, True, False):
        ours.training = training
        twin.train(training)
        compare()


# --- honest solutions ----------------------------------------------------------------


def flat_numerical(f, x, h=1e-5):
    gradient = []
    for i in range(x.size):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved.flat[i] += sign * h
            ends.append(f(moved))
        gradient.append((ends[0] - ends[1]) / h / 2)
    return np.reshape(gradient, x.shape)


def restoring_numerical(f, x, h=1e-5):
    gradient = np.zeros_like(x)
    walk = np.nditer(x, flags=["multi_index"])
    for _ in walk:
        i = walk.multi_index
        old = x[i]
        x[i] = old + h
        above = f(x)
        x[i] = old - h
        below = f(x)
        x[i] = old
        gradient[i] = (above - below) / (2 * h)
    return gradient


def eye_numerical(f, x, h=1e-5):
    steps = h * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([f(x + e) - f(x - e) for e in steps]).reshape(x.shape) / (2 * h)


def einsum_params(dy, x_hat):
    return np.einsum("nd,nd->d", dy, x_hat), np.einsum("nd->d", dy)


def looped_params(dy, x_hat):
    dgamma, dbeta = 0 * dy[0], 0 * dy[0]
    for g, h in zip(dy, x_hat, strict=True):
        dgamma, dbeta = dgamma + g * h, dbeta + g
    return [dgamma, dbeta]


def matrix_params(dy, x_hat):
    return np.diag(dy.T @ x_hat), np.ones(len(dy), dy.dtype) @ dy


def both_paths(dy, x, mu, var, gamma, eps=1e-5):
    N = x.shape[0]
    std = np.sqrt(var + eps)
    dx_hat = dy * gamma
    dvar = np.sum(dx_hat * (x - mu), axis=0) * -0.5 / std**3
    dmu = np.sum(-dx_hat / std, axis=0) + dvar * np.mean(-2 * (x - mu), axis=0)
    return dx_hat, dvar, dmu, dx_hat / std + dvar * 2 * (x - mu) / N + dmu / N


def from_x_hat(dy, x, mu, var, gamma, eps=1e-5):
    s = (var + eps) ** -0.5
    x_hat = (x - mu) * s
    dx_hat = gamma * dy
    dvar, dmu = -0.5 * s**2 * (dx_hat * x_hat).sum(0), -s * dx_hat.sum(0)
    dx = s * (dx_hat - dx_hat.mean(0) - x_hat * (dx_hat * x_hat).mean(0))
    return [dx_hat, dvar, dmu, dx]


def staged_by_torch(dy, x, mu, var, gamma, eps=1e-5):
    dy, x, mu, var, gamma = map(torch.tensor, (dy, x, mu, var, gamma))
    dx_hat = dy * gamma
    mu.requires_grad_()
    var.requires_grad_()
    ((x - mu) / torch.sqrt(var + eps)).backward(dx_hat)
    x.requires_grad_()
    spread = ((x - x.mean(0)) ** 2).mean(0)
    ((x - x.mean(0)) / torch.sqrt(spread + eps)).backward(dx_hat)
    return dx_hat, var.grad, mu.grad, x.grad


def seed_closed(dy, x_hat, var, gamma, eps=1e-5):
    N, std = len(dy), np.sqrt(var + eps)
    dx_hat = dy * gamma
    dx = N * dx_hat - dx_hat.sum(0) - x_hat * (dx_hat * x_hat).sum(0)
    return dx / (N * std), (dy * x_hat).sum(0), dy.sum(0)


def projection(dy, x_hat, var, gamma, eps=1e-5):
    N, D = dy.shape
    dx = np.empty_like(dy)
    for d in range(D):
        h = x_hat[:, d]
        P = np.eye(N) - np.full((N, N), 1 / N) - np.outer(h, h) / N
        dx[:, d] = gamma[d] * (P @ dy[:, d]) / np.sqrt(var[d] + eps)
    return dx, np.einsum("nd,nd->d", dy, x_hat), dy.sum(0)


def closed_by_torch(dy, x_hat, var, gamma, eps=1e-5):
    dy, x_hat, var, gamma = map(torch.tensor, (dy, x_hat, var, gamma))
    dgamma, dbeta = (dy * x_hat).sum(0), dy.sum(0)
    means = dy.mean(0) + x_hat * (dy * x_hat).mean(0)
    return gamma * torch.rsqrt(var + eps) * (dy - means), dgamma, dbeta


def folded_inference(dy, x, gamma, running_mean, running_var, eps=1e-5):
    std = (running_var + eps) ** 0.5
    dgamma = ((dy * x).sum(0) - running_mean * dy.sum(0)) / std
    return dy * (gamma / std), dgamma, dy.sum(0)


def row_by_row(dy, x, gamma, running_mean, running_var, eps=1e-5):
    std = np.sqrt(running_var + eps)
    dx = np.stack([gamma * row / std for row in dy])
    dgamma = sum(g * (row - running_mean) / std for g, row in zip(dy, x, strict=True))
    return dx, dgamma, sum(dy)


def torch_inference(dy, x, gamma, running_mean, running_var, eps=1e-5):
    t, g, b = leaves(x, gamma, 0 * gamma)
    mean, var = torch.tensor(running_mean), torch.tensor(running_var)
    batch_norm(t, mean, var, g, b, training=False, eps=eps).backward(torch.tensor(dy))
    return t.grad, g.grad, b.grad


class InPlace:
    """Updates its arrays in place, and keeps one cache per mode."""

    def __init__(self, D, eps=1e-5, momentum=0.1):
        self.training, self.eps, self.rate = True, eps, momentum
        self.gamma, self.running_var = np.ones(D), np.ones(D)
        self.beta, self.running_mean = np.zeros(D), np.zeros(D)

    def forward(self, x):
        if self.training:
            mu, var = np.mean(x, 0), np.var(x, 0)
            self.running_mean += self.rate * (mu - self.running_mean)
            self.running_var += self.rate * (np.var(x, 0, ddof=1) - self.running_var)
        else:
            mu, var = self.running_mean, self.running_var
        std = np.sqrt(var + self.eps)
        self.cache = (x - mu) / std, std, self.training
        return self.cache[0] * self.gamma + self.beta

    def backward(self, dy):
        x_hat, std, trained = self.cache
        self.dbeta, self.dgamma = dy.sum(0), (x_hat * dy).sum(0)
        if not trained:
            return dy * self.gamma / std
        return self.gamma / std * (dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0))

    def step(self, lr):
        self.gamma -= lr * self.dgamma
        self.beta -= lr * self.dbeta


class WithTorch:
    """A PyTorch layer inside, arrays outside."""

    names = {"gamma": "weight", "beta": "bias"}

    def __init__(self, D, eps=1e-5, momentum=0.1):
        layer = torch.nn.BatchNorm1d(D, eps, momentum, dtype=torch.float64)
        vars(self)["layer"] = layer

    def __getattr__(self, name):
        if name in ("dgamma", "dbeta"):
            return getattr(self.layer, self.names[name[1:]]).grad.numpy().copy()
        return getattr(self.layer, self.names.get(name, name)).detach().numpy()

    def __setattr__(self, name, value):
        if name == "training":
            self.layer.train(value)
        else:
            getattr(self.layer, self.names[name]).data = torch.tensor(value)

    def forward(self, x):
        vars(self)["x"] = torch.tensor(x, requires_grad=True)
        vars(self)["y"] = self.layer(self.x)
        return self.y.detach().numpy()

    def backward(self, dy):
        self.layer.zero_grad()
        self.y.backward(torch.tensor(dy))
        return vars(self)["x"].grad.numpy()

    def step(self, lr):
        with torch.no_grad():
            for p in self.layer.parameters():
                p -= float(lr) * p.grad


class FromParts:
    """Assembled from the functions of the other exercises."""

    def __init__(self, D, eps=1e-5, momentum=0.1):
        self.training, self.eps, self.momentum = True, eps, momentum
        self.gamma, self.beta = np.ones(D), np.zeros(D)
        self.running_mean, self.running_var = np.zeros(D), np.ones(D)
        self.dgamma = self.dbeta = None

    def forward(self, x):
        self.x = x
        if not self.training:
            scale = self.gamma / np.sqrt(self.running_var + self.eps)
            return x * scale + self.beta - self.running_mean * scale
        self.mu, self.var, a = x.mean(0), x.var(0), self.momentum
        N = len(x)
        self.running_mean = (1 - a) * self.running_mean + a * self.mu
        self.running_var = (1 - a) * self.running_var + a * N / (N - 1) * self.var
        x_hat = (x - self.mu) / np.sqrt(self.var + self.eps)
        return self.gamma * x_hat + self.beta

    def backward(self, dy):
        if self.training:
            x_hat = (self.x - self.mu) / np.sqrt(self.var + self.eps)
            parts = seed_closed(dy, x_hat, self.var, self.gamma, self.eps)
        else:
            stats = self.running_mean, self.running_var
            parts = folded_inference(dy, self.x, self.gamma, *stats, self.eps)
        dx, self.dgamma, self.dbeta = parts
        return dx

    def step(self, lr):
        self.gamma = self.gamma - lr * self.dgamma
        self.beta = self.beta - lr * self.dbeta


# --- the paths, the line-up and the claims, other ways -------------------------------


def power_variance(dx_hat, x, mu, var, eps=1e-5):
    return ((mu - x) * dx_hat / (2 * (var + eps) ** 1.5)).sum(axis=0)


def looped_variance(dx_hat, x, mu, var, eps=1e-5):
    dvar = np.zeros_like(mu)
    for row, push in zip(x, dx_hat, strict=True):
        dvar += -0.5 * push * (row - mu) / np.sqrt(var + eps) ** 3
    return dvar


def autograd_variance(dx_hat, x, mu, var, eps=1e-5):
    (v,) = leaves(var)
    inner = (torch.tensor(x) - torch.tensor(mu)) / torch.sqrt(v + eps)
    inner.backward(torch.tensor(dx_hat))
    return v.grad


def averaged_mean_paths(dx_hat, x, center, var, dvar, eps=1e-5):
    N = len(x)
    direct = -N * (dx_hat / np.sqrt(var + eps)).mean(axis=0)
    return direct, dvar * (-2 * (x - center)).sum(axis=0) / N


def looped_mean_paths(dx_hat, x, center, var, dvar, eps=1e-5):
    direct, through_var = 0 * center, 0 * center
    for row, push in zip(x, dx_hat, strict=True):
        direct -= push / (var + eps) ** 0.5
        through_var -= 2 * dvar * (row - center) / len(x)
    return direct, through_var


def autograd_mean_paths(dx_hat, x, center, var, dvar, eps=1e-5):
    first, second = leaves(center, center)
    x, dx_hat = torch.tensor(x), torch.tensor(dx_hat)
    ((x - first) / torch.sqrt(torch.tensor(var) + eps)).backward(dx_hat)
    ((x - second) ** 2).mean(0).backward(torch.tensor(dvar))
    return first.grad, second.grad


def by_straight_line(x_hat, dx):
    """Residuals have no line left in them; fit one to each candidate."""

    def line(candidate):
        parts = [np.polyfit(h, c, 1) for h, c in zip(x_hat.T, candidate.T, strict=True)]
        return np.abs(parts).max() / np.abs(candidate).max()

    return max(range(len(dx)), key=lambda k: line(dx[k]))


def by_projection(x_hat, dx):
    N = len(x_hat)
    lost = [np.abs(d.mean(0) + x_hat * (d * x_hat).sum(0) / N).max() for d in dx]
    return np.argmax(np.array(lost) / np.linalg.norm(dx, axis=(1, 2)))


def by_cosines(x_hat, dx):
    ones = np.ones_like(x_hat)

    def worst(candidate):
        size = np.linalg.norm(candidate, axis=0)
        sides = [(candidate * v).sum(0) / size for v in (ones, x_hat)]
        return np.abs(sides).max()

    return int(np.argmax([worst(candidate) for candidate in dx]))


def agree_by_autograd(x, gamma, beta, dy, dx, dgamma, dbeta):
    t, g, b = leaves(x, gamma, beta)
    batch_norm(t, None, None, g, b, training=True).backward(torch.tensor(dy))
    pairs = ((t, dx), (g, dgamma), (b, dbeta))
    return all(np.allclose(leaf.grad, claim, 1e-6, 1e-8) for leaf, claim in pairs)


def agree_by_differences(x, gamma, beta, dy, dx, dgamma, dbeta):
    def loss(x, gamma, beta):
        return (dy * norms.batchnorm_forward(x, gamma, beta)[0]).sum()

    measured = (
        eye_numerical(lambda v: loss(v, gamma, beta), x),
        eye_numerical(lambda v: loss(x, v, beta), gamma),
        eye_numerical(lambda v: loss(x, gamma, v), beta),
    )
    pairs = zip(measured, (dx, dgamma, dbeta), strict=True)
    return all(np.abs(m - c).max() < 1e-5 * np.abs(m).max() for m, c in pairs)


def agree_by_stages(x, gamma, beta, dy, dx, dgamma, dbeta):
    want = lesson_02.BATCHNORM_BACKWARD_STAGED.reference(
        dy, x, x.mean(0), x.var(0), gamma
    )[3]
    x_hat = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    pairs = ((want, dx), (np.einsum("nd,nd->d", dy, x_hat), dgamma), (dy.sum(0), dbeta))
    return np.array([np.allclose(w, c, 1e-3, 1e-5) for w, c in pairs]).all()


class TestBank(BankTests):
    lesson = lesson_02
    honest = {
        "numerical_gradient": (flat_numerical, restoring_numerical, eye_numerical),
        "param_gradients": (einsum_params, looped_params, matrix_params),
        "batchnorm_backward_staged": (both_paths, from_x_hat, staged_by_torch),
        "batchnorm_backward": (seed_closed, projection, closed_by_torch),
        "batchnorm_inference_backward": (folded_inference, row_by_row, torch_inference),
        "batchnorm1d": (InPlace, WithTorch, FromParts),
        "variance_path": (power_variance, looped_variance, autograd_variance),
        "mean_paths": (averaged_mean_paths, looped_mean_paths, autograd_mean_paths),
        "find_wrong_backward": (by_straight_line, by_projection, by_cosines),
        "gradients_agree": (agree_by_autograd, agree_by_differences, agree_by_stages),
    }


# --- the layer, half done ------------------------------------------------------------


class ForwardOnly(InPlace):
    def backward(self, dy):
        raise NotImplementedError

    def step(self, lr):
        raise NotImplementedError


class Untouched:
    def __init__(self, D, eps=1e-5, momentum=0.1):
        raise NotImplementedError


def test_methods_that_are_done_count():
    score = lesson_02.BATCHNORM1D.score(ForwardOnly, POINTS)
    assert 0 < score < POINTS
    held = {row.title for row in score.rows if row.state == "✓"}
    assert {"values of y in training", "values of y in evaluation"} <= held
    assert "values of dx in training" not in held


def test_an_untouched_class_is_not_attempted():
    score = lesson_02.BATCHNORM1D.score(Untouched, POINTS)
    assert score == 0
    assert {row.state for row in score.rows} == {"○"}
