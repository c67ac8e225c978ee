"""Lesson 07: every known mistake is named, every honest solution passes."""

import re

import numpy as np
import pytest
import sourced.lesson_07 as sourced
import torch
from bank import LESSONS, POINTS, BankTests
from torch import nn
from torch.nn import functional as F

from bn_checks.banks import lesson_07
from bn_experiments import clinic
from bn_helpers import gradcheck, norms

# --- honest solutions ----------------------------------------------------------------


def flat_arrows(gradient, truth):
    g, t = np.ravel(gradient), np.ravel(truth)
    lengths = np.sqrt(g @ g), np.sqrt(t @ t)
    zero = [length < 1e-8 for length in lengths]
    if all(zero):
        return 1, 1
    if any(zero):
        return 0, (0 if zero[0] else float("inf"))
    return (g / lengths[0]) @ (t / lengths[1]), lengths[0] / lengths[1]


def torch_arrows(gradient, truth):
    g, t = torch.tensor(gradient).flatten(), torch.tensor(truth).flatten()
    size = g.norm() / t.norm()
    if g.norm() < 1e-8 or t.norm() < 1e-8:
        both = g.norm() < 1e-8 and t.norm() < 1e-8
        return (1.0, 1.0) if both else (0.0, 0.0 if g.norm() < 1e-8 else np.inf)
    return torch.dot(g, t) / g.norm() / t.norm(), size


def affine_by_einsum(dz, W, a):
    da = np.einsum("oi,on->in", W, dz)
    return da, np.einsum("on,in->oi", dz, a), np.einsum("on->o", dz)[:, None]


def affine_by_samples(dz, W, a):
    da, dW, db = np.zeros(a.shape), np.zeros(W.shape), np.zeros((len(W), 1))
    for n in range(a.shape[1]):
        da[:, n] = dz[:, n] @ W
        dW += np.outer(dz[:, n], a[:, n])
        db[:, 0] += dz[:, n]
    return [da, dW, db]


def affine_by_torch(dz, W, a):
    W, a = (torch.tensor(v, requires_grad=True) for v in (W, a))
    b = torch.zeros(len(W), 1, dtype=W.dtype, requires_grad=True)
    (W @ a + b).backward(torch.tensor(dz))
    return a.grad, W.grad, b.grad


def shares_first(dy, dz, x_hat, a):
    dy, dz = dy / len(dy.T), dz / len(dz.T)
    sums = [v.sum(1, keepdims=True) for v in (dz, dy * x_hat, dy)]
    return (dz @ a.T, *sums)


def shares_by_mean(dy, dz, x_hat, a):
    means = [v.mean(axis=1)[:, None] for v in (dz, dy * x_hat, dy)]
    return np.mean(dz[:, None] * a, axis=2), *means


def shares_by_einsum(dy, dz, x_hat, a):
    _, N = a.shape
    ones = np.ones((N, 1)) / N
    return np.einsum("dn,in->di", dz, a) / N, dz @ ones, (dy * x_hat) @ ones, dy @ ones


def layer_by_norms(dy, x_hat, var, gamma, a):
    std = np.sqrt(var[:, 0] + 1e-5)
    cache = norms.Cache(x_hat.T * std, 0 * std, var[:, 0], 1 / std, (0,), gamma[:, 0])
    dz = norms.batchnorm_backward(dy.T, cache)[0].T
    return dz, dz @ a.T, dz.sum(1, keepdims=True)


def layer_with_zero_bias(dy, x_hat, var, gamma, a):
    N = dy.shape[1]
    dz = N * dy - dy.sum(1)[:, None] - x_hat * (dy * x_hat).sum(1)[:, None]
    dz = dz * gamma / (N * np.sqrt(var + 1e-5))
    return dz, np.matmul(dz, np.transpose(a)), np.zeros_like(gamma)


def layer_by_projection(dy, x_hat, var, gamma, a):
    D, N = dy.shape
    dz = np.empty((D, N))
    for d in range(D):
        P = np.eye(N) - np.ones((N, N)) / N - np.outer(x_hat[d], x_hat[d]) / N
        dz[d] = gamma[d] / np.sqrt(var[d] + 1e-5) * (P @ dy[d])
    return dz, dz @ a.T, np.sum(dz, axis=1, keepdims=True)


def relu_by_where(da, z, x_hat, gamma, beta):
    return np.where(x_hat * gamma + beta <= 0, 0, da)


def relu_by_output(da, z, x_hat, gamma, beta):
    return da * np.sign(np.maximum(gamma * x_hat + beta, 0))


def relu_by_index(da, z, x_hat, gamma, beta):
    dy = da.copy()
    dy[gamma * x_hat + beta < 0] = 0
    return dy


def norm_by_dx_hat(dy, x_hat, var, gamma):
    g = gamma * dy
    dz = g - g.mean(1, keepdims=True) - x_hat * (g * x_hat).mean(1, keepdims=True)
    return dz / np.sqrt(var + 1e-5), (dy * x_hat).sum(1, keepdims=True), dy @ ones(dy)


def ones(dy):
    return np.ones((dy.shape[1], 1))


def norm_by_layer(dy, x_hat, var, gamma):
    dz = layer_by_norms(dy, x_hat, var, gamma, x_hat)[0]
    return dz, np.diag(dy @ x_hat.T)[:, None], np.sum(dy, axis=1, keepdims=True)


def norm_by_projection(dy, x_hat, var, gamma):
    dz = layer_by_projection(dy, x_hat, var, gamma, x_hat)[0]
    return dz, np.einsum("dn,dn->d", dy, x_hat)[:, None], dy.sum(axis=1)[:, None]


def forward_by_torch(z, gamma, beta, running_mean, running_var, training):
    mean, var = (torch.tensor(v[:, 0]) for v in (running_mean, running_var))
    g, b = torch.tensor(gamma[:, 0]), torch.tensor(beta[:, 0])
    y = F.batch_norm(torch.tensor(z.T), mean, var, g, b, bool(training), 0.1, 1e-5)
    return y.T, mean[:, None], var[:, None]


def forward_in_two_branches(z, gamma, beta, running_mean, running_var, training):
    if not training:
        scale = gamma / np.sqrt(running_var + 1e-5)
        return scale * z + (beta - scale * running_mean), running_mean, running_var
    mu, sd = z.mean(1, keepdims=True), np.sqrt(z.var(1, keepdims=True) + 1e-5)
    new_var = z.var(1, ddof=1, keepdims=True)
    running_mean = running_mean + 0.1 * (mu - running_mean)
    return gamma * (z - mu) / sd + beta, running_mean, 0.9 * running_var + 0.1 * new_var


def forward_in_place(z, gamma, beta, running_mean, running_var, training):
    mean, var = running_mean.copy(), running_var.copy()
    y = np.empty_like(z)
    for d, row in enumerate(z):
        mu, sq = (row.mean(), row.var()) if training else (mean[d, 0], var[d, 0])
        y[d] = gamma[d, 0] * (row - mu) / (sq + 1e-5) ** 0.5 + beta[d, 0]
        if training:
            mean[d] = 0.9 * mean[d] + 0.1 * mu
            var[d] = 0.9 * var[d] + 0.1 * row.var(ddof=1)
    return y, mean, var


def output_by_torch(a, W, b, labels):
    a, W, b = (torch.tensor(v, requires_grad=True) for v in (a, W, b))
    loss = F.cross_entropy((W @ a + b).T, torch.tensor(labels))
    loss.backward()
    return loss, a.grad, W.grad, b.grad


def output_by_one_hot(a, W, b, labels):
    z = W @ a + b
    z = z - z.max(axis=0, keepdims=True)
    log_p = z - np.log(np.sum(np.exp(z), axis=0))
    target = np.eye(len(W))[labels].T
    dz = (np.exp(log_p) - target) / len(labels)
    loss = -(target * log_p).sum() / len(labels)
    return float(loss), W.T @ dz, dz @ a.T, dz.sum(1, keepdims=True)


def output_by_samples(a, W, b, labels):
    loss, da, dW, db = 0, np.zeros(a.shape), np.zeros(W.shape), np.zeros(b.shape)
    for n, label in enumerate(labels):
        z = W @ a[:, n] + b[:, 0]
        p = 1 / np.array([np.exp(z - one).sum() for one in z])
        loss -= np.log(p[label]) / len(labels)
        p[label] -= 1
        p /= len(labels)
        da[:, n], dW, db = W.T @ p, dW + np.outer(p, a[:, n]), db + p[:, None]
    return loss, da, dW, db


def normalize_by_var(z):
    return (z - z.mean(1)[:, None]) / np.sqrt(z.var(1)[:, None] + 1e-5)


def normalize_by_torch(z):
    return F.batch_norm(torch.tensor(z.T), None, None, training=True).T


def normalize_by_rows(z):
    rows = [row - row.mean() for row in z]
    return np.stack([row / np.sqrt(np.mean(row**2) + 1e-5) for row in rows])


def normalize_in_float64(z):
    return norms.normalize_forward(z.astype(np.float64), (1,))[0].astype(z.dtype)


class ByFunctional(nn.Module):
    def __init__(self, D):
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(c * torch.ones(D)) for c in (1, 0))
        self.register_buffer("running_mean", torch.zeros(D))
        self.register_buffer("running_var", torch.ones(D))

    def forward(self, x):
        running = self.running_mean, self.running_var
        return F.batch_norm(x, *running, self.gamma, self.beta, self.training)


class Inherits(nn.BatchNorm1d):
    @property
    def gamma(self):
        return self.weight

    @property
    def beta(self):
        return self.bias


class DetachesByHand(ByFunctional):
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        mean = x.mean(0)
        centered = x - mean
        var = (centered**2).mean(0)
        unbiased = (var * len(x) / (len(x) - 1)).detach()
        self.running_mean = torch.lerp(self.running_mean, mean.detach(), 0.1)
        self.running_var = 0.9 * self.running_var + 0.1 * unbiased
        return self.gamma * centered * torch.rsqrt(var + 1e-5) + self.beta


# --- diagnoses, other ways ---------------------------


def _right(pair):
    return abs(pair - 1) < 1e-4


def diagnose_by_a_tree(cosine, size):
    (gamma, beta, W, b), below = cosine[0], cosine[1, :2]
    summed = int(size[0, 1] > 4)
    if not (_right(gamma) and _right(beta)):
        return [summed, 0, 0, 0, 1, 0]
    if _right(below).all():
        return [summed, int(not _right(W)), int(not _right(b)), 0, 0, 0]
    return [summed, 0, 0, int(_right(b)), 0, int(not _right(b))]


def diagnose_by_formulas(cosine, size):
    ok = np.abs(cosine - 1) < 1e-4
    top, below = ok[0, :2].all(), ok[1, :2].all()
    return np.array(
        [
            size[0, :2].mean() > 4,
            top & below & ~ok[0, 2],
            top & below & ~ok[0, 3],
            top & ~below & ok[0, 3],
            ~top,
            top & ~below & ~ok[0, 3],
        ]
    ).astype(float)


def diagnose_by_infinity(cosine, size):
    faults = lesson_07.diagnose(cosine, size)
    if not faults[4] and faults[1:].any():
        loud = np.isinf(size[0, 3])
        spread = np.abs(cosine[1, :2] - 1).max() > 1e-4
        faults[2], faults[5] = loud and not spread, loud and spread
    return tuple(faults)


@pytest.mark.parametrize("names", sum(lesson_07.ILLNESSES.values(), []))
@pytest.mark.parametrize("summed", [(), ("sums",)])
def test_patients_have_the_clinics_gradients(names, summed):
    faults = ("normalized logits", *names, *summed)
    network = clinic.Clinic((8, 8, 8, 8), faults).randomize()
    p, rng = network.parameters, np.random.default_rng(0)
    net = [(p[f"W{k}"], p[f"gamma{k}"], p[f"beta{k}"]) for k in (1, 2, 3)]
    x, labels = rng.normal(size=(8, 20)), rng.integers(0, 8, 20)
    want = network.gradients(x, labels)
    got = lesson_07.patient_gradients(net, x, labels, faults)
    order = [f"{name}{k}" for k in (3, 2, 1) for name in ("gamma", "beta", "W", "b")]
    for name, value in zip(order, got, strict=True):
        np.testing.assert_allclose(value, want[name], rtol=1e-9, atol=1e-12)


def test_two_hundred_random_patients_are_diagnosed():
    """The model answer knows them all, a guess does not: constant or random."""
    rng = np.random.default_rng(0)
    kinds = [(flags, summed) for flags in lesson_07.ILLNESSES for summed in (0, 1)]
    ward = [lesson_07.patient(rng, *kinds[rng.integers(14)]) for _ in range(200)]
    truths = np.array([truth for _, _, truth in ward])
    right = [np.array_equal(lesson_07.diagnose(*p[:2]), p[2]) for p in ward]
    assert np.mean(right) >= 0.95
    answers = np.unique(truths, axis=0)
    constant = [(truths == answer).all(1).mean() for answer in answers]
    guessed = answers[rng.integers(len(answers), size=200)]
    assert max(constant) <= 0.2
    assert (truths == guessed).all(1).mean() <= 0.2


class TestBank(BankTests):
    lesson = lesson_07
    honest = {
        "direction_and_size": (gradcheck.direction_and_size, flat_arrows, torch_arrows),
        "affine_backward": (affine_by_einsum, affine_by_samples, affine_by_torch),
        "parameter_gradients": (shares_first, shares_by_mean, shares_by_einsum),
        "layer_backward": (layer_by_norms, layer_with_zero_bias, layer_by_projection),
        "relu_backward": (relu_by_where, relu_by_output, relu_by_index),
        "norm_backward": (norm_by_dx_hat, norm_by_layer, norm_by_projection),
        "norm_forward": (forward_by_torch, forward_in_two_branches, forward_in_place),
        "output_layer": (output_by_torch, output_by_one_hot, output_by_samples),
        "normalize": (
            normalize_by_var,
            normalize_by_torch,
            normalize_by_rows,
            normalize_in_float64,
        ),
        "diagnose": (diagnose_by_a_tree, diagnose_by_formulas, diagnose_by_infinity),
        "torch_batchnorm": (ByFunctional, Inherits, DetachesByHand),
    }


# --- what the lesson prints as broken ------------------------------------------------

EXERCISES = {exercise.name: exercise for exercise in lesson_07.EXERCISES}
[LESSON] = LESSONS.glob("07_*.md")
CELLS = re.findall(
    r"```{code-cell} ipython3\n(.*?)```", LESSON.read_text("utf-8"), re.S
)
BROKEN = {  # as the lesson defines it: the exercise, and whether one sentence does
    "broken_affine_backward": ("affine_backward", True),
    "broken_parameter_gradients": ("parameter_gradients", True),
    "broken_layer_backward": ("layer_backward", True),
    "broken_relu_backward": ("relu_backward", True),
    "broken_norm_backward": ("norm_backward", True),
    "broken_norm_forward": ("norm_forward", True),
    "broken_output_layer": ("output_layer", True),
    "broken_normalize": ("normalize", True),
    "BrokenBatchNorm": ("torch_batchnorm", False),  # has three faults
    "Recording": ("torch_batchnorm", False),
}
NAMED_AS = {  # the clinic's faults, by the mistake that stands for them
    "no W": "no weights",
    "sums": "sums for gamma and beta",
    "batch statistics": "batch statistics in evaluation",
}


def printed(name):
    """An object that the lesson defines, from the definitions in its cells."""
    space = {"np": np, "torch": torch, "nn": nn}
    for cell in CELLS:
        for code in re.findall(r"^(?:def|class) (?:.|\n(?=[ \n]))*", cell, re.M):
            if re.match(r"(def|class) (\w*[bB]roken\w*|Recording)\b", code):
                exec(code, space)
    return space[name]


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_lesson_prints_as_broken_fails_and_is_explained(name):
    exercise, explained = BROKEN[name]
    for seed in range(5):
        score = EXERCISES[exercise].score(printed(name), POINTS, seed)
        assert score < POINTS
        assert score.explained == explained, score.text


def test_nothing_broken_is_left_out():
    text = LESSON.read_text("utf-8")
    assert set(re.findall(r"(?:def|class) (\w*[bB]roken\w*)", text)) < set(BROKEN)


def test_mending_one_of_two_faults_leaves_the_other_named():
    def two_passes_and_tiny_eps(z):
        mu = z.mean(axis=1, keepdims=True)
        return (z - mu) / np.sqrt(((z - mu) ** 2).mean(axis=1, keepdims=True) + 1e-8)

    exercise = EXERCISES["normalize"]
    assert exercise.score(two_passes_and_tiny_eps, POINTS).mistakes == ("eps 1e-8",)
    one_pass = exercise.score(exercise.mistakes[1].code, POINTS)
    assert one_pass.mistakes == ("one-pass variance",)


@pytest.mark.parametrize("fault", clinic.FAULTS)
def test_each_fault_of_the_clinic_is_a_mistake_that_a_check_names(fault):
    named = {m.name for e in lesson_07.EXERCISES for m in e.mistakes}
    named |= {row[1] for row in sourced.MISTAKES}
    assert NAMED_AS.get(fault, fault) in named


def test_a_check_leaves_the_notebook_as_it_was():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    for exercise in lesson_07.EXERCISES:
        exercise.score(exercise.reference, POINTS)
    assert torch.equal(torch.rand(3), want)
    assert torch.get_default_dtype() == torch.float32
