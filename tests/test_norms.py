"""The norms: PyTorch as the reference, on shapes and scales that hypothesis draws."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bn_helpers import norms

# no deadline: the machine may be busy
SOME = settings(deadline=None, max_examples=40)
MANY = settings(deadline=None, max_examples=300)
SEEDS = st.integers(0, 2**32 - 1)
EPS = st.sampled_from([1e-5, 1e-3, 0.1])


@dataclass(frozen=True)
class Case:
    """One norm on one shape, ours and PyTorch's, both called with (x, *params, eps)."""

    shape: tuple[int, ...]
    params: tuple[int, ...]  # the shape of gamma and beta
    forward: Callable
    backward: Callable
    torch: Callable
    beta: bool = True

    def draw(self, rng, dtype=np.float64, offset=None, spread=None):
        """x, gamma, beta and dy; slices of x differ in mean and spread."""
        mean = rng.normal(0, 10, self.shape[1:]) if offset is None else offset
        std = 10 ** rng.uniform(-2, 2, self.shape[1:]) if spread is None else spread
        x = mean + std * rng.normal(size=self.shape)
        params = [rng.normal(size=self.params) for _ in range(1 + self.beta)]
        dy = rng.normal(size=self.shape) + rng.normal()
        return [a.astype(dtype) for a in (x, *params, dy)]

    def ours(self, x, *params, dy, eps):
        """y, dx and the gradients of the parameters."""
        y, cache = self.forward(x, *params, eps)
        return [y, *self.backward(dy, cache)]

    def torchs(self, x, *params, dy, eps):
        leaves = [torch.tensor(a, requires_grad=True) for a in (x, *params)]
        y = self.torch(*leaves, eps)
        y.backward(torch.tensor(dy))
        return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]


def batch_case(N, D):
    return Case((N, D), (D,), norms.batchnorm_forward, norms.batchnorm_backward, _batch)


def staged_case(N, D):
    backward = norms.batchnorm_backward_staged
    return Case((N, D), (D,), norms.batchnorm_forward, backward, _batch)


def spatial_case(N, C, *pixels):
    return Case(
        (N, C, *pixels),
        (C,),
        norms.spatial_batchnorm_forward,
        norms.spatial_batchnorm_backward,
        _batch,
    )


def layer_case(lead, last):
    return Case(
        (*lead, *last),
        last,
        norms.layernorm_forward,
        norms.layernorm_backward,
        lambda x, g, b, eps: F.layer_norm(x, last, g, b, eps),
    )


def rms_case(lead, last):
    return Case(
        (*lead, *last),
        last,
        norms.rmsnorm_forward,
        norms.rmsnorm_backward,
        lambda x, g, eps: F.rms_norm(x, last, g, eps),
        beta=False,
    )


def group_case(N, G, per_group, *pixels):
    C = G * per_group
    return Case(
        (N, C, *pixels),
        (C,),
        lambda x, g, b, eps: norms.groupnorm_forward(x, g, b, G, eps),
        norms.groupnorm_backward,
        lambda x, g, b, eps: F.group_norm(x, G, g, b, eps),
    )


def instance_case(N, C, *pixels):
    return Case(
        (N, C, *pixels),
        (C,),
        norms.instancenorm_forward,
        norms.instancenorm_backward,
        lambda x, g, b, eps: F.instance_norm(x, None, None, g, b, eps=eps),
    )


def _batch(x, gamma, beta, eps):
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def sizes(low, count, high=6):
    return st.lists(st.integers(low, high), min_size=count[0], max_size=count[1])


CASES = st.one_of(
    st.builds(batch_case, st.integers(2, 20), st.integers(1, 6)),
    st.builds(staged_case, st.integers(2, 20), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4), sizes(2, (1, 3), 4)).map(
        lambda t: spatial_case(t[0], t[1], *t[2])
    ),
    st.tuples(sizes(1, (0, 2)), sizes(1, (1, 3))).map(
        lambda t: layer_case(tuple(t[0]), tuple(t[1]))
    ),
    st.tuples(sizes(1, (0, 2)), sizes(1, (1, 3))).map(
        lambda t: rms_case(tuple(t[0]), tuple(t[1]))
    ),
    st.tuples(*[st.integers(1, 4)] * 3, sizes(2, (0, 2), 4))
    .filter(lambda t: t[0] * t[2] * prod(t[3]) > 1)
    .map(lambda t: group_case(*t[:3], *t[3])),
    st.tuples(st.integers(1, 4), st.integers(1, 4), sizes(2, (1, 2), 4)).map(
        lambda t: instance_case(*t[:2], *t[2])
    ),
)

# one of each, for what does not need many shapes
ONE_OF_EACH = {
    "batch": batch_case(12, 5),
    "staged": staged_case(12, 5),
    "spatial": spatial_case(4, 3, 5, 2),
    "layer": layer_case((4,), (3, 5)),
    "rms": rms_case((4,), (3, 5)),
    "group": group_case(4, 2, 3, 5),
    "instance": instance_case(4, 3, 5, 2),
}
each_norm = pytest.mark.parametrize("case", ONE_OF_EACH.values(), ids=ONE_OF_EACH)


def error(got, want, size=1.0):
    """Largest error, relative to the largest value wanted, or to a larger size."""
    want = want.astype(np.float64)
    return np.abs(got - want).max() / max(size, np.abs(want).max())


# values and gradients


@MANY
@given(CASES, SEEDS, EPS)
def test_every_norm_agrees_with_torch_in_float64(case, seed, eps):
    *inputs, dy = case.draw(np.random.default_rng(seed))
    ours = case.ours(*inputs, dy=dy, eps=eps)
    torchs = case.torchs(*inputs, dy=dy, eps=eps)
    assert [a.shape for a in ours] == [a.shape for a in torchs]
    assert max(map(error, ours, torchs)) < 1e-9


@SOME
@given(CASES, SEEDS, st.sampled_from([(0, 1), (1, 1e-3), (1000, 0.01), (-300, 50)]))
def test_float32_is_no_less_accurate_than_torch(case, seed, place):
    *inputs, dy = case.draw(np.random.default_rng(seed), np.float32, *place)
    wide = [a.astype(np.float64) for a in (*inputs, dy)]
    exact = case.torchs(*wide[:-1], dy=wide[-1], eps=1e-5)
    ours = case.ours(*inputs, dy=dy, eps=1e-5)
    torchs = case.torchs(*inputs, dy=dy, eps=1e-5)
    # gradients are differences and sums of larger terms: dx, then those of parameters
    gamma = inputs[1]
    inv_std = case.forward(*inputs, 1e-5)[1].inv_std
    terms = np.abs(inv_std).max() * np.abs(gamma).max() * np.abs(dy).max()
    summed = np.abs(dy).sum() / prod(case.params)
    sizes = [1, terms, summed, summed]
    for got, peer, want, size in zip(ours, torchs, exact, sizes, strict=False):
        assert error(got, want, size) <= error(peer, want, size) + 1e-6


def test_float32_keeps_its_digits_far_from_zero():
    rng = np.random.default_rng(0)
    case = batch_case(128, 64)
    x, gamma, beta, _ = case.draw(rng, np.float32, 1000, 0.01)
    y, _ = norms.batchnorm_forward(x, gamma, beta)
    want, _ = norms.batchnorm_forward(*(a.astype(np.float64) for a in (x, gamma, beta)))
    assert error(y, want) < 1e-5


@SOME
@given(SEEDS, sizes(1, (1, 4)), st.data())
def test_normalize_works_over_any_axes(seed, shape, data):
    axes = data.draw(st.sets(st.integers(-len(shape), -1), min_size=1).map(tuple))
    rng = np.random.default_rng(seed)
    x, dx_hat = rng.normal(3, 2, shape), rng.normal(size=shape)
    leaf = torch.tensor(x, requires_grad=True)
    var, mu = torch.var_mean(leaf, axes, correction=0, keepdim=True)
    want = (leaf - mu) / torch.sqrt(var + 1e-5)
    want.backward(torch.tensor(dx_hat))

    x_hat, cache = norms.normalize_forward(x, axes)
    dx, d_sum, d_dot = norms.normalize_backward(dx_hat, cache)
    for got, expected in [
        (x_hat, want.detach().numpy()),
        (cache.x_hat, want.detach().numpy()),
        (cache.mu, mu.detach().numpy()),
        (cache.var, var.detach().numpy()),
        (dx, leaf.grad.numpy()),
        (d_sum, dx_hat.sum(axes, keepdims=True)),
        (d_dot, (dx_hat * x_hat).sum(axes, keepdims=True)),
    ]:
        assert got.shape == expected.shape
        assert error(got, expected) < 1e-9


# evaluation and running statistics


@SOME
@given(SEEDS, st.integers(1, 9), st.integers(1, 6), EPS)
def test_inference_agrees_with_torch(seed, N, D, eps):
    rng = np.random.default_rng(seed)
    x, dy = rng.normal(3, 2, (N, D)), rng.normal(size=(N, D))
    gamma, beta, mean = rng.normal(size=(3, D))
    var = 10 ** rng.uniform(-3, 3, D)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, gamma, beta)]
    fixed = [torch.tensor(a) for a in (mean, var)]
    want = F.batch_norm(leaves[0], *fixed, *leaves[1:], training=False, eps=eps)
    want.backward(torch.tensor(dy))

    y = norms.batchnorm_inference(x, gamma, beta, mean, var, eps)
    grads = norms.batchnorm_inference_backward(dy, x, gamma, mean, var, eps)
    assert error(y, want.detach().numpy()) < 1e-9
    for got, leaf in zip(grads, leaves, strict=True):
        assert got.shape == leaf.shape
        assert error(got, leaf.grad.numpy()) < 1e-9


@SOME
@given(SEEDS, st.integers(1, 5), st.floats(0, 1), sizes(2, (1, 9), 9))
def test_running_statistics_are_torchs_buffers(seed, D, momentum, batch_sizes):
    rng = np.random.default_rng(seed)
    layer = torch.nn.BatchNorm1d(D, momentum=momentum, dtype=torch.float64)
    running = np.zeros(D), np.ones(D)
    for N in batch_sizes:
        x = rng.normal(5, 3, (N, D))
        layer(torch.tensor(x))
        _, cache = norms.batchnorm_forward(x, np.ones(D), np.zeros(D))
        running = norms.update_running_stats(*running, cache.mu, cache.var, N, momentum)
    assert error(running[0], layer.running_mean.numpy()) < 1e-9
    assert error(running[1], layer.running_var.numpy()) < 1e-9


def test_running_statistics_of_images_are_torchs_buffers():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 3, (2, 3, 4, 4))
    layer = torch.nn.BatchNorm2d(3, dtype=torch.float64)
    layer(torch.tensor(x))
    _, cache = norms.spatial_batchnorm_forward(x, np.ones(3), np.zeros(3))
    mean, var = norms.update_running_stats(
        np.zeros(3), np.ones(3), cache.mu, cache.var, N=2 * 4 * 4
    )
    assert error(mean, layer.running_mean.numpy()) < 1e-9
    assert error(var, layer.running_var.numpy()) < 1e-9


@SOME
@given(SEEDS, st.integers(1, 4), st.integers(2, 30), st.data())
def test_merged_statistics_are_those_of_the_whole(seed, D, n, data):
    cut = data.draw(st.integers(1, n - 1))
    rng = np.random.default_rng(seed)
    x = rng.normal(1e3 * rng.normal(size=D), 10 ** rng.uniform(-2, 2, D), (n, D))
    parts = [(len(p), p.mean(0), p.var(0)) for p in (x[:cut], x[cut:])]
    count, mu, var = norms.merge_statistics(*parts[0], *parts[1])
    assert count == n
    np.testing.assert_allclose(mu, x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(var, x.var(0), rtol=1e-9)


# which norms coincide


def test_the_norms_coincide_where_their_axes_do():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (4, 6, 5, 2))
    ones, zeros = np.ones(6), np.zeros(6)
    image = np.ones((6, 5, 2))
    layer, _ = norms.layernorm_forward(x, image, 0 * image)
    instance, _ = norms.instancenorm_forward(x, ones, zeros)
    one_group, _ = norms.groupnorm_forward(x, ones, zeros, 1)
    groups_of_one, _ = norms.groupnorm_forward(x, ones, zeros, 6)
    np.testing.assert_allclose(one_group, layer, atol=1e-12)
    np.testing.assert_allclose(groups_of_one, instance, atol=1e-12)

    alone, _ = norms.spatial_batchnorm_forward(x[:1], ones, zeros)
    np.testing.assert_allclose(alone, instance[:1], atol=1e-12)


def test_rms_norm_is_layer_norm_of_a_centered_input():
    x = np.random.default_rng(0).normal(3, 2, (4, 6))
    gamma = np.arange(1.0, 7)
    want, _ = norms.layernorm_forward(x, gamma, np.zeros(6))
    got, _ = norms.rmsnorm_forward(x - x.mean(1, keepdims=True), gamma)
    np.testing.assert_allclose(got, want, atol=1e-12)


# form


@each_norm
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_results_have_the_dtype_of_x_and_inputs_stay(case, dtype):
    inputs = case.draw(np.random.default_rng(0), dtype)
    before = [a.copy() for a in inputs]
    # a NumPy float64 as eps must not widen float32
    results = case.ours(*inputs[:-1], dy=inputs[-1], eps=np.float64(1e-5))
    assert {a.dtype for a in results} == {np.dtype(dtype)}
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not any(np.shares_memory(a, b) for a in results for b in inputs)


@each_norm
def test_a_change_of_x_after_the_forward_pass_does_no_harm(case):
    x, *params, dy = case.draw(np.random.default_rng(0))
    want = case.ours(x, *params, dy=dy, eps=1e-5)[1:]
    _, cache = case.forward(x, *params, 1e-5)
    x += 1
    for got, expected in zip(case.backward(dy, cache), want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_evaluation_keeps_dtype_and_inputs():
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 4, 3)).astype(np.float32)
    rest = [*rng.normal(size=(3, 3)), np.ones(3)]  # float64 parameters
    before = [a.copy() for a in (x, dy, *rest)]
    results = [norms.batchnorm_inference(x, *rest, np.float64(1e-5))]
    results += norms.batchnorm_inference_backward(dy, x, rest[0], *rest[2:])
    assert {a.dtype for a in results} == {np.dtype(np.float32)}
    for a, b in zip((x, dy, *rest), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_integers_and_lists_become_float64():
    y, _ = norms.batchnorm_forward([[1, 2], [3, 5]], [1, 1], [0, 0])
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, [[-1, -1], [1, 1]], atol=1e-4)


def test_a_view_that_is_not_contiguous_gives_the_same():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(10, 24))
    x = wide[::2, ::3].T
    got = norms.normalize_forward(x, (0,))[0]
    np.testing.assert_allclose(got, norms.normalize_forward(x.copy(), (0,))[0])


# numbers at the edge of what floating point can do


@pytest.mark.parametrize("mean", [0, 2000])
@each_norm
def test_float16_is_computed_in_float32(case, mean):
    inputs = case.draw(np.random.default_rng(0), np.float16, mean, 50)
    *wide, dy = [a.astype(np.float32) for a in inputs]
    want = case.ours(*wide, dy=dy, eps=1e-5)
    got = case.ours(*inputs[:-1], dy=inputs[-1], eps=1e-5)
    assert {a.dtype for a in got} == {np.dtype(np.float16)}
    for a, b in zip(got, want, strict=True):
        assert error(a.astype(np.float64), b, 0.01) < 5e-3


@each_norm
def test_integers_are_their_float64(case):
    *inputs, dy = case.draw(np.random.default_rng(0), np.float64, 3, 20)
    whole = [np.round(9 * a).astype(int) for a in (*inputs, dy)]
    want = case.ours(*(a * 1.0 for a in whole[:-1]), dy=whole[-1] * 1.0, eps=1e-5)
    got = case.ours(*whole[:-1], dy=whole[-1], eps=1e-5)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float64
        np.testing.assert_array_equal(a, b)


def test_statistics_keep_their_dtype_whatever_counts_are():
    half = np.float32([1, 2])
    for N, momentum in ((8, 0.1), (np.int64(8), np.float64(0.1))):
        new = norms.update_running_stats(half, half, half, half, N, momentum)
        _, *merged = norms.merge_statistics(N, half, half, N, half, half)
        assert {a.dtype for a in (*new, *merged)} == {np.dtype(np.float32)}
    ones = np.ones(2, int)
    mean, var = norms.update_running_stats(0 * ones, ones, 3 * ones, ones, 8)
    np.testing.assert_allclose((mean[0], var[0]), (0.3, 0.9 + 0.1 * 8 / 7))
    assert norms.merge_statistics(1, 0 * ones, ones, 1, ones, ones)[1][0] == 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
def test_the_class_keeps_the_dtype_of_x(training, dtype):
    layer = norms.BatchNorm1d(4)
    layer.training = training
    x = np.random.default_rng(0).normal(3, 2, (9, 4)).astype(dtype)
    results = [layer.forward(x), layer.backward(x), layer.dgamma, layer.dbeta]
    assert {a.dtype for a in results} == {np.dtype(dtype)}
    assert layer.forward(np.arange(8).reshape(2, 4)).dtype == np.float64


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_without_eps_equal_numbers_are_nan_and_others_normal():
    x = np.array([[3.0, 1], [3, 2], [3, 4]])
    y, _ = norms.batchnorm_forward(x, np.ones(2), np.zeros(2), eps=0)
    assert np.isnan(y[:, 0]).all()
    np.testing.assert_allclose(y[:, 1].std(), 1)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_slice(bad):
    x = np.random.default_rng(0).normal(size=(5, 3))
    want, _ = norms.batchnorm_forward(x, np.ones(3), np.zeros(3))
    x[2, 1] = bad
    y, _ = norms.batchnorm_forward(x, np.ones(3), np.zeros(3))
    assert np.isnan(y[:, 1]).all()
    np.testing.assert_array_equal(y[:, [0, 2]], want[:, [0, 2]])


def test_evaluation_hands_an_empty_batch_back():
    y = norms.batchnorm_inference(np.empty((0, 4)), *[np.ones(4)] * 4)
    assert y.shape == (0, 4)


# errors: what came, what was expected

x24, ones4 = np.arange(8.0).reshape(2, 4), np.ones(4)
images = np.arange(24.0).reshape(1, 6, 2, 2)
ones6 = np.ones(6)
_, batch_cache = norms.batchnorm_forward(x24, ones4, ones4)
_, layer_cache = norms.layernorm_forward(x24, ones4, ones4)
_, rms_cache = norms.rmsnorm_forward(x24, ones4)
_, group_cache = norms.groupnorm_forward(images, ones6, ones6, 2)
_, free_cache = norms.normalize_forward(x24, (0,))

ERRORS = [
    (norms.normalize_forward, (x24, (2,)), ["axes is (2,)", "(2, 4)"]),
    (norms.normalize_forward, (x24, (-3,)), ["axes is (-3,)", "(2, 4)"]),
    (norms.normalize_forward, (x24, ()), ["axes is ()", "(2, 4)"]),
    (norms.normalize_forward, (x24, (1, -1)), ["axes is (1, -1)", "twice"]),
    (norms.normalize_forward, (x24[:0], (0,)), ["(0, 4)", "nothing to average"]),
    (norms.normalize_backward, (x24[:1], free_cache), ["dx_hat", "(1, 4)", "(2, 4)"]),
    (norms.batchnorm_forward, (x24[:1], ones4, ones4), ["(1, 4)", "N >= 2"]),
    (norms.batchnorm_forward, (x24[:, :0], ones4[:0], ones4[:0]), ["(2, 0)"]),
    (norms.batchnorm_forward, (x24, ones4, ones4, -1.0), ["eps is -1.0", ">= 0"]),
    (norms.batchnorm_forward, (x24, ones4, ones4, np.nan), ["eps is nan", ">= 0"]),
    (norms.batchnorm_forward, (x24 * 1j, ones4, ones4), ["x has dtype complex128"]),
    (norms.normalize_forward, (x24, (0,), -1), ["eps is -1"]),
    (norms.layernorm_forward, (x24, ones4, ones4, -1), ["eps is -1"]),
    (norms.rmsnorm_forward, (x24, ones4, -1), ["eps is -1"]),
    (norms.groupnorm_forward, (images, ones6, ones6, 2, -1), ["eps is -1"]),
    (norms.batchnorm_inference, (x24, *[ones4] * 4, -1), ["eps is -1"]),
    (norms.batchnorm_forward, (x24[0], ones4, ones4), ["x has", "(4,)", "(N, D)"]),
    (norms.batchnorm_forward, (x24, ones6, ones4), ["gamma", "(6,)", "(4,)"]),
    (norms.batchnorm_forward, (x24, ones4, 1.0), ["beta", "()", "(4,)"]),
    (norms.batchnorm_backward, (x24.T, batch_cache), ["dy", "(4, 2)", "(2, 4)"]),
    (norms.batchnorm_backward_staged, (x24.T, batch_cache), ["dy", "(4, 2)", "(2, 4)"]),
    (norms.batchnorm_inference, (x24, *[ones4] * 3, ones6), ["running_var", "(6,)"]),
    (
        norms.batchnorm_inference_backward,
        (x24.T, x24, *[ones4] * 3),
        ["dy", "(4, 2)", "(2, 4)"],
    ),
    (norms.update_running_stats, (*[ones4] * 4, 1), ["N is 1", "N >= 2"]),
    (norms.update_running_stats, (*[ones4] * 4, 8, 9), ["momentum is 9", "0 to 1"]),
    (norms.update_running_stats, (*[ones4] * 3, ones6, 8), ["var", "(6,)", "(4,)"]),
    (norms.merge_statistics, (0, ones4, ones4, 1, ones4, ones4), ["n_a is 0"]),
    (norms.merge_statistics, (1, ones4, ones4, 1, ones4, ones6), ["var_b", "(6,)"]),
    (norms.layernorm_forward, (x24, ones6, ones6), ["gamma", "(6,)", "(2, 4)"]),
    (norms.layernorm_forward, (x24, np.ones((2, 2, 4)), 1), ["(2, 2, 4)", "(2, 4)"]),
    (norms.layernorm_forward, (x24, 1.0, 0.0), ["gamma has shape ()", "(2, 4)"]),
    (norms.layernorm_forward, (x24, ones4, ones6), ["beta", "(6,)", "(4,)"]),
    (norms.layernorm_forward, (x24[:0], ones4, ones4), ["(0, 4)"]),
    (norms.layernorm_backward, (x24.T, layer_cache), ["dy", "(4, 2)", "(2, 4)"]),
    (norms.rmsnorm_forward, (x24, ones6), ["gamma", "(6,)", "(2, 4)"]),
    (norms.rmsnorm_backward, (x24.T, rms_cache), ["dy", "(4, 2)", "(2, 4)"]),
    (norms.groupnorm_forward, (images, ones6, ones6, 4), ["num_groups is 4", "6 ch"]),
    (norms.groupnorm_forward, (images, ones6, ones6, 0), ["num_groups is 0", "6 ch"]),
    (norms.groupnorm_forward, (images, ones4, ones6, 2), ["gamma", "(4,)", "(6,)"]),
    (norms.groupnorm_forward, (ones6, ones6, ones6, 2), ["(6,)", "(N, C, ...)"]),
    (
        norms.groupnorm_forward,
        (images[..., 0, 0], ones6, ones6, 6),
        ["(1, 6)", "one value", "6 groups"],
    ),
    (norms.groupnorm_backward, (x24, group_cache), ["dy", "(2, 4)", "(1, 6, 2, 2)"]),
    (
        norms.instancenorm_forward,
        (images[..., :1, :1], ones6, ones6),
        ["(1, 6, 1, 1)", "two pixels"],
    ),
    (norms.instancenorm_forward, (images[..., 0, 0], ones6, ones6), ["two pixels"]),
    (
        norms.spatial_batchnorm_forward,
        (images[..., :1, :1], ones6, ones6),
        ["(1, 6)", "N >= 2"],
    ),
    (norms.spatial_batchnorm_forward, (images, ones4, ones6), ["gamma", "(4,)"]),
]


@pytest.mark.parametrize(
    ("function", "args", "words"),
    ERRORS,
    ids=[f"{f.__name__}: {words[0]}" for f, _, words in ERRORS],
)
def test_an_error_says_what_came_and_what_was_expected(function, args, words):
    with pytest.raises(ValueError) as raised:
        function(*args)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("case", "allowed"),
    [
        (batch_case(1, 4), False),
        (spatial_case(1, 4, 1, 1), False),
        (spatial_case(1, 4, 2, 1), True),
        (spatial_case(2, 4, 1, 1), True),
        (layer_case((1,), (4,)), True),
        (layer_case((2,), (1,)), True),
        (rms_case((1,), (1,)), True),
        (group_case(1, 2, 3), True),
        (group_case(1, 4, 1), False),
        (group_case(2, 4, 1), True),
        (instance_case(1, 4, 2), True),
        (instance_case(2, 4, 1), False),
    ],
    ids=lambda value: str(value.shape) if isinstance(value, Case) else str(value),
)
def test_what_torch_refuses_we_refuse(case, allowed):
    *inputs, dy = case.draw(np.random.default_rng(0))
    for side in (case.ours, case.torchs):
        if allowed:
            side(*inputs, dy=dy, eps=1e-5)
        else:
            with pytest.raises(ValueError):
                side(*inputs, dy=dy, eps=1e-5)
