"""The launcher of processes, above all when things go wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from bn_experiments import processes
from bn_helpers import sync

AT_ONCE = 300  # seconds: what is not noticed at once takes twice as long


# what workers are told to do; they import it from here


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
        processes.run(dies, [(1,)] * 2, timeout=600)
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
