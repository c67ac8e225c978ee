"""Stacks of networks: against PyTorch, and against networks trained one at a time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import three_classes

from bn_experiments import sweeps, train
from bn_experiments.sweeps import Stack
from bn_helpers import data, norms

TORCH_ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}
TORCH_NORMS = {"plain": None, "batch": nn.BatchNorm1d}


@pytest.fixture(scope="module")
def toy():
    return three_classes()


SMALL = Stack((10, 6, 6, 3), rates=(0.1, 1.0), seeds=(0, 3), batch_size=20, steps=35)
ARMS = [
    replace(SMALL, activation=activation, norm=norm, init=init, dims=dims)
    for activation in TORCH_ACTIVATIONS
    for norm in TORCH_NORMS
    for init in sweeps.INITS
    for dims in ((10, 6, 6, 6, 6, 3), (10, 6, 3))
]


def in_torch(stack, seed, rate, digits):
    """One network of a stack, trained with nn.Module and torch.optim in float64."""
    make = TORCH_ACTIVATIONS[stack.activation], TORCH_NORMS[stack.norm]
    model = train.make_mlp(stack.dims, *make).double()
    rng = np.random.default_rng(seed)
    for layer in model:
        if isinstance(layer, nn.Linear):
            size = layer.in_features, layer.out_features
            W, b = map(torch.from_numpy, sweeps.INITS[stack.init](rng, *size))
            layer.weight.data, layer.bias.data = W.T.contiguous(), b[0]
    optimizer = torch.optim.SGD(model.parameters(), rate)
    order = np.random.default_rng([seed, 1])
    rows = np.concatenate([order.permutation(200) for _ in range(4)])
    losses = []
    for step in range(stack.steps):
        batch = rows[step * stack.batch_size :][: stack.batch_size]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    right = model.eval()(digits.x_test).argmax(1) == digits.y_test
    return losses, right.double().mean().item()


@pytest.mark.parametrize(
    "stack", ARMS, ids=lambda s: f"{s.activation}-{s.norm}-{s.init}"
)
def test_a_stack_is_its_networks_in_pytorch(stack, toy):
    tensors = data.Data(*map(torch.from_numpy, toy))
    result = sweeps.train_stack(stack, toy)
    assert result.loss.shape == (35, 2, 2) and result.accuracy.shape == (2, 2)
    for i, seed in enumerate(stack.seeds):
        for k, rate in enumerate(stack.rates):
            losses, accuracy = in_torch(stack, seed, rate, tensors)
            np.testing.assert_allclose(result.loss[:, i, k], losses, rtol=1e-9)
            assert result.accuracy[i, k] == pytest.approx(accuracy)


@pytest.mark.parametrize("stack", ARMS[:8])
def test_a_stack_is_its_networks_one_at_a_time(stack, toy):
    together = sweeps.train_stack(stack, toy)
    for i, seed in enumerate(stack.seeds):
        for k, rate in enumerate(stack.rates):
            one = sweeps.train_stack(replace(stack, seeds=(seed,), rates=(rate,)), toy)
            alone = one.loss[:, 0, 0]
            np.testing.assert_allclose(together.loss[:, i, k], alone, rtol=1e-10)
            assert together.accuracy[i, k] == one.accuracy[0, 0]


def plain_loop_step(layers, x, y, lr):
    """One step of a sigmoid batch-norm network, written out over (N, D) arrays."""
    caches = []
    for p in layers[:-1]:
        z = x @ p["W"] + p["b"]
        y_bn, cache = norms.batchnorm_forward(z, p["gamma"], p["beta"])
        a = 1 / (1 + np.exp(-y_bn))
        caches.append((x, cache, a))
        x = a
    last = layers[-1]
    logits = x @ last["W"] + last["b"]
    p_hat = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(p_hat[np.arange(len(y)), y]).mean()
    d = (p_hat - np.eye(logits.shape[1])[y]) / len(y)
    dx = d @ last["W"].T
    last["W"], last["b"] = last["W"] - lr * x.T @ d, last["b"] - lr * d.sum(0)
    for p, (x_in, cache, a) in zip(layers[-2::-1], caches[::-1], strict=True):
        d, dgamma, dbeta = norms.batchnorm_backward(dx * a * (1 - a), cache)
        dx = d @ p["W"].T
        p["gamma"], p["beta"] = p["gamma"] - lr * dgamma, p["beta"] - lr * dbeta
        p["W"], p["b"] = p["W"] - lr * x_in.T @ d, p["b"] - lr * d.sum(0)
    return loss


def test_a_stack_is_the_plain_numpy_loop(toy):
    stack = replace(SMALL, norm="batch", seeds=(5,), rates=(0.7,))
    rng, layers = np.random.default_rng(5), []
    for size in ((10, 6), (6, 6), (6, 3)):
        W, b = sweeps.INITS["default"](rng, *size)
        layers.append({"W": W, "b": b[0], "gamma": np.ones(6), "beta": np.zeros(6)})
    order = np.random.default_rng([5, 1])
    epochs = [order.permutation(200).reshape(10, 20) for _ in range(4)]
    batches = np.concatenate(epochs)[: stack.steps]
    loop = [
        plain_loop_step(layers, toy.x_train[r], toy.y_train[r], 0.7) for r in batches
    ]
    result = sweeps.train_stack(stack, toy)
    np.testing.assert_allclose(result.loss[:, 0, 0], loop, rtol=1e-10)


def test_rates_and_norms_share_initial_weights_and_batches(toy):
    still = replace(SMALL, rates=(0.0, 1e-300))
    for arm in (still, replace(still, norm="batch")):
        loss = sweeps.train_stack(arm, toy).loss
        assert np.array_equal(loss[..., 0], loss[..., 1])
        assert not np.allclose(loss[:, 0], loss[:, 1])
    plain, batch = (
        sweeps.stacked_network(arm).params
        for arm in (still, replace(still, norm="batch"))
    )
    for name, value in plain.items():
        assert np.array_equal(value, batch[name])
        assert np.array_equal(value[:, 0], value[:, 1])
    assert not np.array_equal(plain["W1"][0], plain["W1"][1])


def test_a_rate_too_large_is_reported_as_nan_and_hurts_nobody_else(toy):
    stack = replace(SMALL, activation="relu", rates=(0.1, 1e300))
    both = sweeps.train_stack(stack, toy)
    assert not np.isfinite(both.loss[-1, :, 1]).any()
    alone = sweeps.train_stack(replace(stack, rates=(0.1,)), toy)
    np.testing.assert_allclose(both.loss[..., 0], alone.loss[..., 0], rtol=1e-10)


@pytest.mark.parametrize(
    "wrong", [{"activation": "swish"}, {"norm": "nrom"}, {"init": "xavier"}]
)
def test_an_unknown_name_is_refused_with_the_known_ones(wrong):
    ((field, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{field} is '{value}', expected '"):
        replace(SMALL, **wrong)


def test_a_sweep_gives_the_same_with_an_executor():
    tasks = range(7)
    with ThreadPoolExecutor(2) as executor:
        assert sweeps.run(str, tasks, executor) == sweeps.run(str, tasks)


# lesson 04's first setting
STUDY = Stack(
    (196, 24, 24, 24, 24, 10), rates=(0.01, 0.03, 0.1, 0.3, 1, 3, 10), steps=1600
)


@pytest.mark.long  # every day nbval compares the lesson's own run of it
def test_the_study_says_what_the_lesson_says():
    """Four sigmoid layers: what stops the plain network is too small a rate."""
    rates = STUDY.rates
    arms = [replace(STUDY, norm=norm) for norm in TORCH_NORMS]
    results = sweeps.run(sweeps.train_stack, arms)
    plain, batch = (result.accuracy.mean(0) for result in results)
    assert rates[int(plain.argmax())] > 0.1
    assert width(rates, batch) >= 30 * width(rates, plain)


def width(rates, accuracy):
    usable = sweeps.usable_rates(rates, accuracy)
    return usable[-1] / usable[0]


@pytest.mark.parametrize(
    ("accuracy", "want"),
    [
        ((0.1, 0.7, 0.9, 0.1), (0.1, 0.3)),
        ((0.7, 0.1, 0.9, 0.6), (0.3, 1)),
        ((0.9, 0.9, 0.9, 0.9), (0.03, 0.1, 0.3, 1)),
        ((0.1, 0.1, 0.1, 0.59), ()),
    ],
)
def test_usable_rates_are_neighbors_that_work(accuracy, want):
    assert sweeps.usable_rates((0.03, 0.1, 0.3, 1), accuracy) == want
