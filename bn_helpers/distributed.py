"""Synchronized batch norm: one batch, spread over several processes.

Each process holds a part of the batch. Two short messages make the parts act as one:
the forward pass exchanges a count, a mean and a variance per feature, the backward pass
two sums per feature. PyTorch's own layer, torch.nn.SyncBatchNorm, does the same and
needs GPUs; this one is NumPy over torch.distributed with gloo, and runs anywhere.

`run` starts the processes, from a notebook too. They talk over 127.0.0.1 only. None is
left when it returns, raises or is interrupted, or when its own process is killed.
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
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from bn_helpers import norms

POLL = 0.02  # seconds between two looks at the workers


class WorkerError(RuntimeError):
    """A worker died, raised an error or took too long; the message says which."""


# the layer: called by every worker of a process group, with its own part of the batch


def sync_batchnorm_forward(x, gamma, beta, eps=1e-5):
    """Normalize with the statistics of the whole batch, of which x is one part.

        n, mu, var = counts, means and variances of all workers, merged
        y          = gamma * (x - mu) / sqrt(var + eps) + beta

    Args:
        x: this worker's samples, (n, D); workers may have different n, also 0.
        gamma, beta: scale and shift per feature, (D,), the same on every worker.
        eps: added to the variance inside the root.

    Returns:
        y, (n, D), and the `norms.Cache` that `sync_batchnorm_backward` needs; its mu
        and var are those of the whole batch.

    Raises:
        ValueError: all workers together have fewer than two samples.

    Source: Chan, Golub & LeVeque (1983) for the merging.
    Agrees with: `norms.batchnorm_forward` on the whole batch, part by part.
    """
    n, mu, var = _merged(_exchange(np.concatenate(_moments(x)).astype(np.float64)))
    if n < 2:
        raise ValueError(f"all workers together have {n} samples, expected N >= 2")
    mu, var = mu.astype(x.dtype), var.astype(x.dtype)
    inv_std = 1 / np.sqrt(var + eps)
    cache = norms.Cache(x - mu, mu, var, inv_std, (0,), gamma)
    return gamma * cache.x_hat + beta, cache


def sync_batchnorm_backward(dy, cache):
    """Gradients of `sync_batchnorm_forward`: two sums run over the whole batch.

        dbeta  = sum over all workers' n of dy            (D,)
        dgamma = sum over all workers' n of dy * x_hat    (D,)
        dx     = gamma / sqrt(var + eps) * (dy - dbeta / N - x_hat * dgamma / N)

    Args:
        dy: gradient of the loss with respect to this worker's y, (n, D). The loss is
            that of the whole batch: a mean runs over all N samples.
        cache: what `sync_batchnorm_forward` returned.

    Returns:
        dx (n, D) of this worker; dgamma and dbeta (D,) of the whole batch, the same on
        every worker. (torch.nn.SyncBatchNorm returns each worker's own share of these
        two, because DistributedDataParallel adds them up later.)

    Agrees with: `norms.batchnorm_backward` on the whole batch, part by part.
    """
    own = [[len(dy)], dy.sum(0), (dy * cache.x_hat).sum(0)]
    N, dbeta, dgamma = _split(sum(_exchange(np.concatenate(own).astype(np.float64))))
    dbeta, dgamma = dbeta.astype(dy.dtype), dgamma.astype(dy.dtype)
    inside = dy - (dbeta + cache.x_hat * dgamma) / dy.dtype.type(N)
    return cache.gamma * cache.inv_std * inside, dgamma, dbeta


def forward_and_backward(x, gamma, beta, dy, eps=1e-5):
    """Both passes on one worker: y and dx of its samples, dgamma, dbeta; for `run`."""
    y, cache = sync_batchnorm_forward(x, gamma, beta, eps)
    return y, *sync_batchnorm_backward(dy, cache)


def _moments(x):
    """Count, mean and biased variance of one part; zeros for an empty one."""
    if len(x) == 0:
        return [0], np.zeros(x.shape[1]), np.zeros(x.shape[1])
    _, cache = norms.normalize_forward(x, (0,))
    return [len(x)], cache.mu[0], cache.var[0]


def _merged(messages):
    """Count, mean and variance of all parts that hold samples."""
    parts = [part for part in map(_split, messages) if part[0]]
    none = 0, *_split(messages[0])[1:]
    return reduce(lambda a, b: norms.merge_statistics(*a, *b), parts) if parts else none


def _split(message):
    """A count and two vectors, which traveled as one."""
    count, vectors = message[0], message[1:]
    return int(count), *np.split(vectors, 2)


def _exchange(message):
    """What every worker has handed in, in the order of their ranks."""
    own = torch.from_numpy(message)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return [tensor.numpy() for tensor in gathered]


# the launcher


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


def _start(folder, rank):
    """A new Python process; it ends by itself when our end of its stdin closes."""
    code = "from bn_helpers import distributed; distributed._worker()"
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
