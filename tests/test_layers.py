"""Layers: PyTorch as the reference, on shapes that hypothesis draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bn_helpers import gradcheck, layers

# no deadline: the machine may be busy
SOME = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**32 - 1)
STACKS = st.sampled_from([(), (1,), (3,), (2, 3)])
TORCH = {
    "batch": lambda D: nn.BatchNorm1d(D),
    "layer": lambda D: nn.LayerNorm(D),
    "rms": lambda D: nn.RMSNorm(D, eps=1e-5),
    "relu": lambda D: nn.ReLU(),
    "tanh": lambda D: nn.Tanh(),
    "sigmoid": lambda D: nn.Sigmoid(),
}
NORMS = {
    "batch": layers.BatchNorm,
    "layer": layers.LayerNorm,
    "rms": layers.RMSNorm,
}
ACTIVATIONS = {"relu": layers.ReLU, "tanh": layers.Tanh, "sigmoid": layers.Sigmoid}


def new_layer(name, stack, D, rng, dtype=np.float64):
    """A layer whose parameters are nowhere 0 or 1."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    if name == "affine":
        W, b = rng.normal(size=(*stack, D, D + 2)), rng.normal(size=(*stack, D + 2))
        return layers.Affine(W.astype(dtype), b.astype(dtype))
    layer = NORMS[name]((*stack, D), dtype)
    for value in layer.params.values():
        value += rng.normal(size=value.shape).astype(dtype)
    return layer


def torch_twin(name, layer, index, D):
    """PyTorch's module for one network of a stack."""
    own = {key: torch.tensor(value[index]) for key, value in layer.params.items()}
    if name == "affine":
        twin = nn.Linear(D, D + 2).double()
        own = {"weight": own["W"].T.contiguous(), "bias": own["b"]}
    else:
        twin = TORCH[name](D).double()
        renamed = {"gamma": "weight", "beta": "bias"}
        own = {renamed[key]: value for key, value in own.items()}
    twin.load_state_dict(own, strict=False)
    return twin


def torch_gradients(name, twin):
    grads = [p.grad.numpy() for p in twin.parameters()]
    return [grads[0].T, grads[1]] if name == "affine" else grads


def draw(rng, shape):
    """Features of unlike mean and spread."""
    scale = 10 ** rng.uniform(-1, 1, shape[-1])
    return rng.normal(0, 3, shape[-1]) + scale * rng.normal(size=shape)


EVERY = ["affine", *ACTIVATIONS, *NORMS]
close = np.testing.assert_allclose


@SOME
@given(st.sampled_from(EVERY), STACKS, st.integers(2, 9), st.integers(1, 7), SEEDS)
def test_every_layer_agrees_with_torch(name, stack, N, D, seed):
    rng = np.random.default_rng(seed)
    layer = new_layer(name, stack, D, rng)
    twins = {i: torch_twin(name, layer, i, D) for i in np.ndindex(stack)}
    for _ in range(2):
        x = draw(rng, (*stack, N, D))
        y = layer.forward(x)
        dy = rng.normal(size=y.shape)
        dx = layer.backward(dy)
        for i, twin in twins.items():
            twin.zero_grad()
            leaf = torch.tensor(x[i], requires_grad=True)
            out = twin(leaf)
            out.backward(torch.tensor(dy[i]))
            close(y[i], out.detach(), rtol=1e-9, atol=1e-11)
            close(dx[i], leaf.grad, rtol=1e-7, atol=1e-9)
            theirs = torch_gradients(name, twin)
            for ours, want in zip(layer.grads.values(), theirs, strict=True):
                close(ours[i], want, rtol=1e-7, atol=1e-9)
    x = draw(rng, (*stack, 3, D))
    for i, twin in twins.items():
        want = twin.eval()(torch.tensor(x[i])).detach()
        close(layer.infer(x)[i], want, rtol=1e-9, atol=1e-11)


@SOME
@given(STACKS, st.integers(2, 9), st.integers(1, 7), SEEDS)
def test_running_statistics_are_torchs_buffers(stack, N, D, seed):
    rng = np.random.default_rng(seed)
    layer = layers.BatchNorm((*stack, D))
    twins = {i: nn.BatchNorm1d(D).double() for i in np.ndindex(stack)}
    for _ in range(3):
        x = draw(rng, (*stack, N, D))
        layer.forward(x)
        for i, twin in twins.items():
            twin(torch.tensor(x[i]))
    for i, twin in twins.items():
        close(layer.running["running_mean"][i], twin.running_mean, rtol=1e-9)
        close(layer.running["running_var"][i], twin.running_var, rtol=1e-9)


@SOME
@given(STACKS, st.integers(1, 9), st.integers(1, 7), SEEDS)
def test_the_loss_is_torchs_cross_entropy(stack, N, C, seed):
    rng = np.random.default_rng(seed)
    scores, y = 30 * rng.normal(size=(*stack, N, C)), rng.integers(0, C, (*stack, N))
    loss, d = layers.softmax_cross_entropy(scores, y)
    assert loss.shape == stack
    for i in np.ndindex(stack):
        leaf = torch.tensor(scores[i], requires_grad=True)
        want = F.cross_entropy(leaf, torch.tensor(y[i]))
        want.backward()
        close(loss[i], want.item(), rtol=1e-12, atol=1e-14)
        close(d[i], leaf.grad, rtol=1e-10, atol=1e-14)


def test_labels_may_be_shared_by_a_stack():
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(3, 8, 4)), rng.integers(0, 4, 8)
    shared = layers.softmax_cross_entropy(scores, y)
    own = layers.softmax_cross_entropy(scores, np.tile(y, (3, 1)))
    assert all(np.array_equal(a, b) for a, b in zip(shared, own, strict=True))


@pytest.mark.filterwarnings("error")
def test_enormous_inputs_overflow_nowhere():
    big = np.array([[-1e308, -800.0, 0.0, 800.0, 1e308]])
    sigmoid = layers.Sigmoid()
    assert sigmoid.forward(big).tolist() == [[0, 0, 0.5, 1, 1]]
    assert sigmoid.backward(np.ones_like(big)).tolist() == [[0, 0, 0.25, 0, 0]]
    scores, y = np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0])
    loss, d = layers.softmax_cross_entropy(scores, y)
    assert loss == 5e3 and d.tolist() == [[0, 0], [-0.5, 0.5]]


@SOME
@given(STACKS.filter(bool), st.integers(1, 9), st.integers(1, 7), SEEDS)
def test_a_shared_input_is_a_copy_for_each_network(stack, N, D, seed):
    rng = np.random.default_rng(seed)
    layer = new_layer("affine", stack, D, rng)
    x, dy = rng.normal(size=(N, D)), rng.normal(size=(*stack, N, D + 2))
    copies = np.broadcast_to(x, (*stack, N, D)).copy()
    W = layer.params["W"]
    for arrangement in (W, layers.side_by_side(W)):
        assert np.array_equal(W, arrangement)
        layer.params["W"] = arrangement
        results = [
            (layer.forward(batch), layer.backward(dy), *layer.grads.values())
            for batch in (x, copies)
        ]
        for one, other in zip(*results, strict=True):
            close(one, other, rtol=1e-10, atol=1e-12)
        close(layer.infer(x), layer.infer(copies), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EVERY)
def test_dtype_stays_and_arguments_too(name, dtype):
    rng = np.random.default_rng(0)
    layer = new_layer(name, (2,), 5, rng, dtype)
    x = draw(rng, (2, 8, 5)).astype(dtype)
    y = layer.forward(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    kept = x.copy(), dy.copy(), y.copy()
    dx = layer.backward(dy)
    infer = layer.infer(x)
    for array in (y, dx, infer, *layer.grads.values(), *layer.running.values()):
        assert array.dtype == dtype
    for name in layer.params:
        assert layer.grads[name].shape == layer.params[name].shape
    for before, after in zip(kept, (x, dy, y), strict=True):
        assert np.array_equal(before, after)


def test_evaluation_leaves_the_running_statistics_and_the_way_back():
    rng = np.random.default_rng(0)
    layer = new_layer("batch", (), 5, rng)
    x, dy = draw(rng, (9, 5)), rng.normal(size=(9, 5))
    layer.forward(x)
    want, before = layer.backward(dy), dict(layer.running)
    layer.infer(draw(rng, (4, 5)))
    assert all(np.array_equal(layer.running[k], v) for k, v in before.items())
    assert np.array_equal(layer.backward(dy), want)


def test_one_sample_can_be_evaluated_but_not_trained_on():
    layer = layers.BatchNorm((3,))
    close(layer.infer(np.ones((1, 3))), np.ones((1, 3)), rtol=1e-4)
    with pytest.raises(ValueError, match="N is 1"):
        layer.forward(np.ones((1, 3)))


@pytest.mark.parametrize("name", NORMS)
def test_eps_may_be_another_one(name):
    layer = new_layer(name, (), 4, np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=(9, 4))
    plain = layer.forward(x)
    layer.eps = 1.0
    assert np.abs(layer.forward(x)).mean() < np.abs(plain).mean()


# wrong layers, which the check above all others must refuse


class UndampedSigmoid(layers.Sigmoid):
    def backward(self, dy):
        return dy * self.y


class SlopeAtTheOutput(layers.Tanh):
    def backward(self, dy):
        return dy * (1 - np.tanh(self.y) ** 2)


class OpenReLU(layers.ReLU):
    def backward(self, dy):
        return dy * (dy > 0)


class MeanBias(layers.Affine):
    def param_gradients(self, dy):
        super().param_gradients(dy)
        self.grads["b"] = dy.mean(-2)


class DetachedStatistics(layers.BatchNorm):
    def backward(self, dy):
        super().backward(dy)
        return dy * self.params["gamma"] * self.cache.inv_std


class LateGamma(layers.LayerNorm):
    def backward(self, dy):
        super().backward(dy)
        return self.params["gamma"] * self.normalize_backward(dy)


class GammaOfTheInput(layers.RMSNorm):
    def backward(self, dy):
        dx = super().backward(dy)
        self.grads["gamma"] = (dy * self.cache.centered).sum(-2)
        return dx


WRONG = {
    "sigmoid": UndampedSigmoid,
    "tanh": SlopeAtTheOutput,
    "relu": OpenReLU,
    "affine": MeanBias,
    "batch": DetachedStatistics,
    "layer": LateGamma,
    "rms": GammaOfTheInput,
}


def compared(name, wrong=None):
    """A layer's gradients, or a wrong version's, against central differences."""
    rng = np.random.default_rng(3)
    layer = new_layer(name, (), 5, rng)
    if wrong:
        layer.__class__ = wrong
    x = rng.normal(size=(9, 5))
    y = layer.forward(x)
    dy = rng.normal(size=y.shape)
    dx = layer.backward(dy)
    gradients = {"x": dx, **layer.grads}

    def f(x, **params):
        layer.params = params
        return layer.forward(x)

    return gradcheck.compare(f, {"x": x, **layer.params}, gradients, dy)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_agree_with_central_differences(name):
    result = compared(name)
    assert result.agrees, result


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layer_is_caught(name):
    assert not compared(name, WRONG[name]).agrees
