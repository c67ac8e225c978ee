"""Several processes on one machine, which exchange arrays through torch.distributed.

`run` starts them, from a notebook too. They talk over 127.0.0.1 only. None is left when
it returns, raises or is interrupted, or when its own process is killed.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

POLL = 0.02  # seconds between two looks at the workers


class WorkerError(RuntimeError):
    """A worker died, raised an error or took too long; the message says which."""


def available():
    """Whether this PyTorch was built with gloo, which `run` needs."""
    return dist.is_available() and dist.is_gloo_available()


def run(function, parts, timeout=60):
    """Call function(*part) for each part, each in a process of its own.

    Inside, the processes form the default group of torch.distributed, in the order of
    `parts`.

    Args:
        function: importable by name; a function that a notebook defines is not.
        parts: one tuple of arguments per process; they are pickled.
        timeout: seconds for everything, from start to end.

    Returns:
        The results, in the order of parts.

    Raises:
        WorkerError: a worker died or raised an error, which takes the others along, or
            time ran out. No process is left.
        ValueError: function cannot be imported by name, or there are no parts.
        RuntimeError: this PyTorch was built without gloo.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("parts is empty, expected one tuple of arguments per process")
    if function.__module__ == "__main__" or "<" in function.__qualname__:
        raise ValueError(
            f"{function.__qualname__} lives in {function.__module__}; new processes "
            "can only call what they can import from a module"
        )
    if not available():
        raise RuntimeError("this PyTorch was built without gloo, which `run` needs")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        folder, workers = Path(folder), []
        try:
            for rank, part in enumerate(parts):
                job = function, part, len(parts), timeout
                (folder / f"job-{rank}").write_bytes(pickle.dumps(job))
                workers.append(_start(folder, rank))
            _wait(workers, folder, timeout)
        finally:
            _stop(workers)
        return [_result(folder / f"result-{rank}") for rank in range(len(parts))]


def data_parallel(batches):
    """Running means (2, D) that one worker holds after its passes under DDP; for `run`.

    The first row is without `broadcast_buffers`, the second with it, PyTorch's default:
    all take over rank 0's buffers before each pass.

    Args:
        batches: this worker's, an array (steps, n, D).
    """
    found = []
    for broadcast in (False, True):
        layer = torch.nn.BatchNorm1d(batches.shape[-1]).double()
        parallel = torch.nn.parallel.DistributedDataParallel(
            layer, broadcast_buffers=broadcast
        )
        for x in torch.from_numpy(batches):
            parallel(x).sum().backward()
        found.append(layer.running_mean.numpy())
    return np.stack(found)


def _start(folder, rank):
    """A new Python process; it ends by itself when our end of its stdin closes."""
    code = "from bn_experiments import processes; processes._worker()"
    path = os.pathsep.join(filter(None, sys.path))
    with open(folder / f"stderr-{rank}", "wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows
        )


def _wait(workers, folder, timeout):
    """Return when all workers have ended well.

    Raises:
        WorkerError: one has not.
    """
    end = time.monotonic() + timeout
    while None in (codes := [worker.poll() for worker in workers]):
        if any(codes) or time.monotonic() > end:
            break
        time.sleep(POLL)
    if any(codes):
        bad = [_says(r, code, folder) for r, code in enumerate(codes) if code]
        raise WorkerError(f"of {len(workers)} workers, " + "; ".join(bad))
    if None in codes:
        slow = ", ".join(str(r) for r, code in enumerate(codes) if code is None)
        raise WorkerError(f"after {timeout} seconds, these workers still ran: {slow}")


def _result(path):
    if not path.exists():
        raise WorkerError(f"worker {path.name.split('-')[1]} ended without a result")
    return pickle.loads(path.read_bytes())


def _says(rank, code, folder):
    """How a worker ended, and the last line that it wrote."""
    text = (folder / f"stderr-{rank}").read_text(encoding="utf-8", errors="replace")
    last = (text.strip().splitlines() or ["no message"])[-1][:200]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"worker {rank} {how} ({last})"


def _stop(workers):
    for worker in workers:
        worker.kill()  # does nothing to one that has ended
    for worker in workers:
        worker.wait()
        worker.stdin.close()


def _worker():
    """What a worker process runs, from start to end."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        _work(Path(sys.argv[1]), int(sys.argv[2]))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # at once: the thread is still reading


def _end_with_the_parent():
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is closed
    os._exit(1)


def _work(folder, rank):
    """Join the group, call the function, leave its result."""
    function, part, size, timeout = pickle.loads((folder / f"job-{rank}").read_bytes())
    dist.Backend.register_backend("loopback", _gloo_on_loopback, devices=["cpu"])
    dist.init_process_group(
        "loopback",
        store=dist.FileStore(str(folder / "store"), size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    result = pickle.dumps(function(*part))
    dist.barrier()  # nobody hangs up while others still listen
    (folder / f"result-{rank}").write_bytes(result)
    dist.destroy_process_group()


def _gloo_on_loopback(store, rank, size, timeout):
    """gloo on 127.0.0.1: whatever this machine is called, and without a network."""
    gloo = dist.ProcessGroupGloo
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname="127.0.0.1")]
    options._timeout = timeout
    return gloo(store, rank, size, options)
