"""Synchronized batch norm in real processes: one batch in parts is one batch."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bn_experiments import processes
from bn_helpers import norms, sync

SIZES = {"two": (5, 12), "three": (9, 1, 4), "one empty": (6, 0)}


def data(sizes, D=6, seed=0):
    """A batch whose parts differ, gamma, beta and a gradient."""
    rng = np.random.default_rng(seed)
    N = sum(sizes)
    x = rng.exponential(2, (N, D)) + 3 * np.arange(N)[:, None] / N
    return x, rng.uniform(0.5, 2, D), rng.normal(size=D), rng.normal(size=(N, D))


def shares(x, gamma, beta, dy, sizes):
    cuts = np.cumsum(sizes)[:-1]
    parts = zip(np.split(x, cuts), np.split(dy, cuts), strict=True)
    return [(part, gamma, beta, upstream) for part, upstream in parts]


# what workers are told to do; they import it from here


def several_steps(x, gamma, beta, dy):
    """Both passes at several scales and precisions, and who did it."""
    results = []
    for dtype in (np.float64, np.float32):
        results.append(
            sync.forward_and_backward(*(a.astype(dtype) for a in (x, gamma, beta, dy)))
        )
    far = sync.forward_and_backward(1e6 + 0.1 * x, gamma, beta, dy)
    whole = np.round(3 * x).astype(int)  # integers, whose mean is not one
    results.append(sync.forward_and_backward(whole, gamma, beta, dy))
    return results, far, (dist.get_rank(), dist.get_world_size(), os.getpid())


# the layer


@pytest.fixture(scope="module", params=SIZES)
def group(request):
    sizes = SIZES[request.param]
    given = data(sizes)
    return given, processes.run(several_steps, shares(*given, sizes))


def in_one_process(x, gamma, beta, dy):
    y, cache = norms.batchnorm_forward(x, gamma, beta)
    return y, *norms.batchnorm_backward(dy, cache)


def assert_as_one(results, want, limit):
    """y and dx part by part, dgamma and dbeta on every worker."""
    y, dx = (np.concatenate([r[k] for r in results]) for k in (0, 1))
    pairs = [(y, want[0]), (dx, want[1])]
    pairs += [(r[k], want[k]) for r in results for k in (2, 3)]
    for got, wanted in pairs:
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() < limit


def test_values_and_gradients_are_those_of_one_process(group):
    given, results = group
    assert_as_one([steps[0] for steps, _, _ in results], in_one_process(*given), 1e-10)


def test_and_those_of_pytorch(group):
    given, results = group
    x, gamma, beta, dy = (torch.tensor(a, requires_grad=True) for a in given)
    y = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)
    y.backward(dy)
    want = [t.detach().numpy() for t in (y, x.grad, gamma.grad, beta.grad)]
    assert_as_one([steps[0] for steps, _, _ in results], want, 1e-10)


def test_float32_stays_float32(group):
    given, results = group
    own = [steps[1] for steps, _, _ in results]
    assert {a.dtype for r in own for a in r} == {np.dtype(np.float32)}
    assert_as_one(own, in_one_process(*given), 1e-4)


def test_integers_are_computed_in_float64(group):
    (x, *others), results = group
    own = [steps[2] for steps, _, _ in results]
    assert {a.dtype for r in own for a in r} == {np.dtype(np.float64)}
    assert_as_one(own, in_one_process(np.round(3 * x), *others), 1e-10)


def test_digits_survive_a_large_mean(group):
    (x, *others), results = group
    want = in_one_process(1e6 + 0.1 * x, *others)
    assert_as_one([far for _, far, _ in results], want, 1e-6)


def test_each_part_had_a_process_of_its_own(group):
    _, results = group
    ranks, sizes, pids = zip(*(who for _, _, who in results), strict=True)
    assert ranks == tuple(range(len(results)))
    assert set(sizes) == {len(results)}
    assert len({*pids, os.getpid()}) == len(results) + 1


# wrong layers must be told from the right one, on these data


def each_for_itself(parts):
    return [in_one_process(*part) for part in parts]


def mean_of_means(parts):
    mu = np.mean([x.mean(0) for x, *_ in parts], axis=0)
    var = np.mean([((x - mu) ** 2).mean(0) for x, *_ in parts], axis=0)
    return [
        (gamma * (x - mu) / np.sqrt(var + 1e-5) + beta, dy, gamma, beta)
        for x, gamma, beta, dy in parts
    ]


def local_sums_backward(parts):
    """Forward as it should be; backward without the second exchange."""
    x, gamma, beta = np.concatenate([p[0] for p in parts]), *parts[0][1:3]
    y, cache = norms.batchnorm_forward(x, gamma, beta)
    results, at = [], 0
    for part, _, _, dy in parts:
        rows = slice(at, at := at + len(part))
        own = cache._replace(centered=cache.centered[rows])
        results.append((y[rows], *norms.batchnorm_backward(dy, own)))
    return results


@pytest.mark.parametrize("wrong", [each_for_itself, mean_of_means, local_sums_backward])
def test_a_wrong_layer_is_told_from_the_right_one(wrong):
    sizes = SIZES["two"]
    given = data(sizes)
    with pytest.raises(AssertionError):
        assert_as_one(wrong(shares(*given, sizes)), in_one_process(*given), 1e-10)
