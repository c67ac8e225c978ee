"""Synchronized batch norm in real processes, and the launcher when things go wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bn_experiments import processes
from bn_helpers import norms, sync

SIZES = {"two": (5, 12), "three": (9, 1, 4), "one empty": (6, 0)}
AT_ONCE = 30  # seconds within which a failure must be reported


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
    return results, far, (dist.get_rank(), dist.get_world_size(), os.getpid())


def one_sample_in_all(x):
    sync.sync_batchnorm_forward(x, np.ones(2), np.zeros(2))


def dies(rank):
    if dist.get_rank() == rank:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", 9))
    dist.barrier()  # the others wait for it


def leaves():
    os._exit(0)


def sleeps(seconds):
    time.sleep(seconds)


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


# the launcher


@pytest.fixture
def started(monkeypatch):
    """The processes that were started; none may be left."""
    workers, start = [], processes._start

    def remember(folder, rank):
        workers.append(start(folder, rank))
        return workers[-1]

    monkeypatch.setattr(processes, "_start", remember)
    yield workers
    assert workers and all(worker.returncode is not None for worker in workers)


def test_a_worker_that_dies_is_an_error_at_once(started):
    begin = time.monotonic()
    with pytest.raises(processes.WorkerError, match="worker 1 (was killed|ended with)"):
        processes.run(dies, [(1,)] * 2)
    assert time.monotonic() - begin < AT_ONCE
    assert len(started) == 2


def test_an_error_of_the_layer_reaches_the_caller(started):
    parts = [(np.zeros((1, 2)),), (np.zeros((0, 2)),)]
    with pytest.raises(processes.WorkerError, match="ValueError: .* have 1 samples"):
        processes.run(one_sample_in_all, parts)


def test_a_worker_that_leaves_early_is_an_error(started):
    with pytest.raises(processes.WorkerError, match="worker 0 ended without a result"):
        processes.run(leaves, [()])


def test_a_worker_that_hangs_is_stopped(started):
    with pytest.raises(processes.WorkerError, match="after 1 seconds.* still ran: 0"):
        processes.run(sleeps, [(600,)], timeout=1)


def test_an_interrupt_leaves_no_process(started, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        processes.run(sleeps, [(600,), (600,)])
    assert len(started) == 2


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from bn_experiments import processes
import test_processes

start = processes._start
def tell(folder, rank):
    worker = start(folder, rank)
    print(worker.pid, flush=True)
    return worker

processes._start = tell
processes.run(test_processes.sleeps, [(600,), (600,)], timeout=600)
"""


@pytest.mark.skipif(os.name != "posix", reason="asks the system about process ids")
def test_workers_end_when_their_parent_is_killed():
    command = [sys.executable, "-c", PARENT, str(Path(__file__).parent)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
    end = time.monotonic() + AT_ONCE
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # one that nobody has waited for counts as ended
    return not (stat.exists() and re.search(r"\) Z ", stat.read_text()))


def test_what_a_process_cannot_import_is_refused_before_any_starts():
    def local():
        pass

    with pytest.raises(ValueError, match="local lives in"):
        processes.run(local, [()])
    with pytest.raises(ValueError, match="parts is empty"):
        processes.run(sleeps, [])


def test_a_pytorch_without_gloo_is_named(monkeypatch):
    assert processes.available()
    monkeypatch.setattr(dist, "is_gloo_available", lambda: False)
    assert not processes.available()
    with pytest.raises(RuntimeError, match="without gloo"):
        processes.run(sleeps, [(0,)])


@pytest.mark.sandbox
def test_it_works_without_a_network():
    """Two workers in a place that has a loopback and nothing else."""
    code = "from bn_experiments.processes import run; from bn_helpers.sync import *;"
    code += "x = np.eye(3);"
    code += "r = run(forward_and_backward, [(x, x[0], x[0], x)] * 2); print(len(r))"
    command = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", sys.executable]
    run = subprocess.run([*command, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "2\n"), run.stderr
