"""Batch norm's forward and backward pass, three ways, on one thread.

Ours is `bn_helpers.norms` as users call it, checks included. Its peers are the staged
form, one line per node of the graph as the paper derives it, and PyTorch's kernel with
autograd, on tensors that exist already. All three agree before anything is timed.

    python -m benchmarks.norm_kernels
"""

import os
import statistics
import time

from tools import pin

pin(os.environ)  # one thread each, before NumPy starts

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from bn_helpers import norms  # noqa: E402

SHAPES = {(128, 256): 20, (1024, 1024): 1}  # shape: calls per timing
ROUNDS = 101  # interleaved: staged, torch, ours, staged, ...
EPS = 1e-5


def staged(x, gamma, beta, dy):
    """One line per node, as the derivation goes."""
    N = len(x)
    mu = x.mean(0)
    var = ((x - mu) ** 2).mean(0)
    x_hat = (x - mu) / np.sqrt(var + EPS)
    y = gamma * x_hat + beta

    dgamma = (dy * x_hat).sum(0)
    dbeta = dy.sum(0)
    dx_hat = dy * gamma
    dvar = (dx_hat * (x - mu) * -0.5 * (var + EPS) ** -1.5).sum(0)
    dmu = (-dx_hat / np.sqrt(var + EPS)).sum(0)
    dx = dx_hat / np.sqrt(var + EPS) + dvar * 2 * (x - mu) / N + dmu / N
    return y, dx, dgamma, dbeta


def ours(x, gamma, beta, dy):
    y, cache = norms.batchnorm_forward(x, gamma, beta, EPS)
    return y, *norms.batchnorm_backward(dy, cache)


def with_torch(x, gamma, beta, dy):
    """x, gamma and beta are leaves of autograd."""
    x.grad = gamma.grad = beta.grad = None
    y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=EPS)
    y.backward(dy)
    return y.detach(), x.grad, gamma.grad, beta.grad


def contestants(shape, dtype):
    """Name: function without arguments, all on the same numbers."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, *shape)).astype(dtype)
    gamma, beta = rng.normal(size=(2, shape[1])).astype(dtype)
    *leaves, upstream = map(torch.tensor, (x, gamma, beta, dy))
    for leaf in leaves:
        leaf.requires_grad_()
    return {
        "staged": lambda: staged(x, gamma, beta, dy),
        "torch": lambda: with_torch(*leaves, upstream),
        "ours": lambda: ours(x, gamma, beta, dy),
    }


def largest_difference(calls):
    """Between the results of any two, relative to the largest value of a result."""
    results = zip(*(map(np.asarray, call()) for call in calls.values()), strict=True)
    return max(
        np.ptp(np.stack(values), axis=0).max() / np.abs(values[0]).max()
        for values in results
    )


def milliseconds(calls, count, rounds=ROUNDS):
    """Name: median time of one call."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()  # the one before has left its own arrays in the processor's memory
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - start) / count * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def main():
    torch.set_num_threads(1)
    print(f"batch norm forward + backward, 1 thread, median of {ROUNDS}, milliseconds")
    print("| shape | dtype | staged | torch | ours | staged / ours | torch / ours |")
    print("|---|---|---|---|---|---|---|")
    for shape, count in SHAPES.items():
        for dtype in (np.float32, np.float64):
            calls = contestants(shape, dtype)
            tolerance = 1e-4 if dtype is np.float32 else 1e-10
            if not largest_difference(calls) < tolerance:
                raise SystemExit(f"{shape} {dtype.__name__}: the results differ")
            t = milliseconds(calls, count)
            print(
                f"| {shape[0]} x {shape[1]} | {dtype.__name__} | "
                + " | ".join(f"{t[name]:.3f}" for name in calls)
                + f" | {t['staged'] / t['ours']:.2f} | {t['torch'] / t['ours']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
