"""Lesson 09: every known mistake is named, every honest solution passes."""

import copy
import pickle
import sys
import types

import jupytext
import numpy as np
import pytest
import torch
from bank import LESSONS, POINTS, BankTests
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from bn_checks.banks import lesson_09
from bn_checks.drivers import Unusable
from bn_checks.drivers import lesson_09 as drivers
from bn_checks.drivers.lesson_09 import drive_sync
from bn_helpers import norms, practice

KINDS = nn.BatchNorm1d, nn.BatchNorm2d


def grouped_by_torch(model, weight_decay):
    decayed, spared = [], []
    for p in model.parameters():
        (decayed if len(p.shape) >= 2 else spared).append(p)
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": spared}], lr=1
    )
    return [
        {k: g[k] for k in ("params", "weight_decay")} for g in optimizer.param_groups
    ]


def a_group_each(model, weight_decay):
    return [
        {"params": [p], "weight_decay": weight_decay * (p.dim() > 1)}
        for p in model.parameters()
    ]


def grouped_by_name(model, weight_decay):
    own = {n for n, m in model.named_modules() if isinstance(m, KINDS)}
    named = dict(model.named_parameters())
    spared = {n for n in named if n.endswith("bias") or n.rpartition(".")[0] in own}
    return (
        {"params": (named[n] for n in named if n in spared), "weight_decay": 0},
        {
            "params": (named[n] for n in named.keys() - spared),
            "weight_decay": weight_decay,
        },
    )


class Frozen(nn.Module):
    """Statistics, gamma and beta as buffers, as torchvision's FrozenBatchNorm2d."""

    def __init__(self, bn):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(bn, name).detach().clone())
        self.eps = bn.eps

    def forward(self, x):
        moments = self.running_mean, self.running_var
        return F.batch_norm(x, *moments, self.weight, self.bias, False, 0.1, self.eps)


def replaced(model):
    for name, child in model.named_children():
        if isinstance(child, KINDS):
            setattr(model, name, Frozen(child))
        else:
            replaced(child)
    return model


def hooked(model):
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.requires_grad_(False).eval()
            m.register_forward_pre_hook(lambda m, x: m.eval() and None)


def train_overridden(model):
    """The model's own train() puts batch norm back to sleep, as mmdetection does."""

    def train(mode=True):
        type(model).train(model, mode)
        for m in model.modules():
            if isinstance(m, KINDS):
                m.training = False
        return model

    for m in model.modules():
        if isinstance(m, KINDS):
            m.weight.requires_grad = m.bias.requires_grad = False
    model.train = train
    model.train()
    return model


def by_running_average(model, batches):
    modes = {m: m.training for m in model.modules()}
    found = [m for m in model.modules() if isinstance(m, KINDS)]
    momenta = [m.momentum for m in found]
    model.eval()
    for m in found:
        m.train()
    for k, x in enumerate(batches, start=1):
        for m in found:
            m.momentum = 1 / k
        with torch.no_grad():
            model(x)
    for m, momentum in zip(found, momenta, strict=True):
        m.momentum = momentum
    for m, mode in modes.items():
        m.training = mode


def by_averaging_by_hand(model, batches):
    state = [(m, m.training, getattr(m, "momentum", None)) for m in model.modules()]
    found = [m for m in model.modules() if isinstance(m, KINDS)]
    model.eval()
    seen = []
    with torch.no_grad():
        for m in found:
            m.train().momentum = 1.0
        for x in batches:
            model(x)
            seen.append(
                [(m.running_mean.clone(), m.running_var.clone()) for m in found]
            )
        for k, m in enumerate(found):
            m.running_mean.copy_(sum(s[k][0] for s in seen) / len(seen))
            m.running_var.copy_(sum(s[k][1] for s in seen) / len(seen))
    for m, mode, momentum in state:
        m.training = mode
        if m in found:
            m.momentum = momentum


def by_hooks(model, batches):
    found = [m for m in model.modules() if isinstance(m, KINDS)]
    modes = [m.training for m in model.modules()]
    sums = {m: [] for m in found}

    def hook(m, x):
        sums[m].append((x[0].mean(0), x[0].var(0)))

    hooks = [m.register_forward_pre_hook(hook) for m in found]
    model.eval()
    for m in found:
        m.train()
    with torch.inference_mode():
        for x in batches:
            model(x)
    for h in hooks:
        h.remove()
    for m in found:
        m.running_mean.data = torch.stack([mu for mu, _ in sums[m]]).mean(0)
        m.running_var.data = torch.stack([var for _, var in sums[m]]).mean(0)
    for m, mode in zip(model.modules(), modes, strict=True):
        m.training = mode


def fused_by_torch(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):
    given = weight, bias, running_mean, running_var
    w, b, mean, var = (None if a is None else torch.tensor(a) for a in given)
    return fuse_conv_bn_weights(
        w, b, mean, var, eps, torch.tensor(gamma), torch.tensor(beta)
    )


def folded_by_einsum(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):
    a = gamma / np.sqrt(running_var + eps)
    moved = running_mean if bias is None else running_mean - bias
    return [np.einsum("o,o...->o...", a, weight), beta - a * moved]


def folded_in_a_loop(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):
    new_weight, new_bias = weight.copy(), np.zeros(len(weight))
    for o in range(len(weight)):
        std = (running_var[o] + eps) ** 0.5
        old = 0 if bias is None else bias[o]
        new_weight[o] = weight[o] * gamma[o] / std
        new_bias[o] = beta[o] + gamma[o] * (old - running_mean[o]) / std
    return new_weight, new_bias


def merged_in_pairs(x, gamma, beta, all_gather, eps=1e-5):
    n, mu, var = 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for part in all_gather(
        np.vstack([np.full(x.shape[1], len(x)), x.mean(0), x.var(0)])
    ):
        n_b = int(part[0, 0])
        if n == 0:
            n, mu, var = n_b, part[1], part[2]
        else:
            n, mu, var = norms.merge_statistics(n, mu, var, n_b, part[1], part[2])
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


def three_messages(x, gamma, beta, all_gather, eps=1e-5):
    counts = np.array(all_gather(len(x)), float)
    weights = counts / counts.sum()
    mu = weights @ np.array(all_gather(x.mean(axis=0)))
    var = weights @ np.array(all_gather(((x - mu) ** 2).mean(axis=0)))
    return [gamma * ((x - mu) * (var + eps) ** -0.5) + beta, mu, var]


def sums_of_deviations(x, gamma, beta, all_gather, eps=1e-5):
    """Two rounds: first the mean of all, then deviations from it."""
    D = x.shape[1]
    total = sum(all_gather(np.append(x.sum(0), len(x))))
    mu = total[:D] / total[D]
    var = sum(all_gather(((x - mu) ** 2).sum(0))) / total[D]
    return (x - mu) * gamma / np.sqrt(var + eps) + beta, mu, var


class TestBank(BankTests):
    lesson = lesson_09
    honest = {
        "decay_groups": (grouped_by_torch, a_group_each, grouped_by_name),
        "freeze_batchnorm": (replaced, hooked, train_overridden),
        "recalibrate_statistics": (by_running_average, by_averaging_by_hand, by_hooks),
        "fold_batchnorm": (fused_by_torch, folded_by_einsum, folded_in_a_loop),
        "sync_batchnorm_forward": (merged_in_pairs, three_messages, sums_of_deviations),
    }


def test_a_check_leaves_the_notebook_as_it_was():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    for exercise in lesson_09.EXERCISES:
        exercise.score(exercise.reference, POINTS)
    assert torch.equal(torch.rand(3), want)
    assert torch.get_default_dtype() == torch.float32


# the workers of the synchronized exercise, which run in turns


def synchronize(student, sizes=(3, 2)):
    x = np.random.default_rng(0).normal(size=(sum(sizes), 2))
    return drive_sync(student, x, sizes, np.ones(2), np.zeros(2), 1e-5)


def gathers(*values):
    def student(x, gamma, beta, all_gather, eps=1e-5):
        for value in values:
            all_gather(value(x))
        return x, x[0], x[0]

    return student


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (gathers(lambda x: x), "same shape from everyone"),
        (gathers(*[len] * 21), "more than 20 times"),
        (lambda x, g, b, gather, eps: len(x) == 3 and gather(1), "more often"),
        (lambda *args: (1, 2), "three values"),
    ],
    ids=["parts of unequal shape", "endless talk", "one worker talks", "two values"],
)
def test_what_would_hang_or_fail_in_real_processes_is_an_error(student, says):
    with pytest.raises(Unusable, match=says):
        synchronize(student)


def test_every_worker_sees_what_all_have_handed_in():
    seen = []

    def student(x, gamma, beta, all_gather, eps=1e-5):
        seen.append([int(a) for a in all_gather(len(x))])
        return x, x[0], x[0]

    synchronize(student, (3, 4, 1))
    assert seen == [[3, 4, 1]] * 3


def test_the_check_uses_the_course_implementations():
    assert lesson_09.FOLD.reference is practice.fold_batchnorm
    assert lesson_09.FREEZE.reference is practice.freeze_batchnorm
    assert lesson_09.RECALIBRATE.reference is practice.recalibrate_statistics


# the lesson's own answers work together


@pytest.fixture(scope="module")
def answers():
    """The functions of the solved notebook, in a module that pickle can find."""
    (path,) = LESSONS.glob("09_*.md")
    chosen = "plots.use_style()", "def freeze_", "def recalibrate_"
    cells = [c.source for c in jupytext.read(path).cells if c.cell_type == "code"]
    cells = [c for c in cells if any(text in c for text in chosen)]
    assert len(cells) == len(chosen)
    module = types.ModuleType("answers_of_lesson_09")
    sys.modules[module.__name__] = module
    dtype = torch.get_default_dtype()
    try:
        for cell in cells:
            exec(cell, vars(module))
        yield module
    finally:
        torch.set_default_dtype(dtype)
        del sys.modules[module.__name__]


def statistics(model):
    return [t.clone() for n, t in model.named_buffers() if n.endswith(("mean", "var"))]


@pytest.mark.parametrize(
    "carry",
    [
        lambda m: m,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        nn.SyncBatchNorm.convert_sync_batchnorm,
        lambda m: m.eval().train(),
    ],
    ids=["as it is", "copied", "pickled", "converted", "eval, then train"],
)
def test_the_lessons_freeze_lasts_and_can_be_recalibrated(answers, carry):
    frozen = carry(answers.freeze_batchnorm(drivers.dense_network(0))).train()
    before = statistics(frozen)
    x = 3 + torch.randn(5, 11, 6).double()
    frozen(x[0]).sum().backward()
    assert all(map(torch.equal, before, statistics(frozen)))
    layers = [m for m in frozen.modules() if isinstance(m, answers.Frozen)]
    assert len(layers) == 2
    assert all(p.grad is None for m in layers for p in m.parameters())

    free = drivers.dense_network(0)
    for model in (frozen, free):
        answers.recalibrate_statistics(model, list(x))
    assert all(map(torch.allclose, statistics(frozen), statistics(free)))
    after = statistics(frozen)
    frozen.train()(x[1])
    assert all(map(torch.equal, after, statistics(frozen)))
