"""Batch norm's forward and backward pass, three ways.

Ours is `bn_helpers.norms` as users call it, checks included. Its peers are the staged
form, one line per node of the graph as the paper derives it, and PyTorch's kernel with
autograd, on tensors that exist already. All three agree before anything is timed.
"""

import numpy as np
import torch
from torch.nn import functional as F

from bn_helpers import norms

from .table import Row, measure

SIZES = (((128, 256), 101, 20), ((1024, 1024), 21, 1))  # shape, rounds, calls a round
PEERS = {
    "staged": "staged NumPy",
    "torch": "torch.nn.functional.batch_norm, autograd",
}
# what is promised; ours is there to be read, and PyTorch's kernel may win
FLOORS = {("staged", (128, 256)): 1.5, ("staged", (1024, 1024)): 2.0}
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


def rows(say, sizes=SIZES):
    for shape, rounds, count in sizes:
        for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-10)):
            size = " × ".join(map(str, shape))
            say(f"{size}, {dtype.__name__}")
            calls = contestants(shape, dtype)
            difference = largest_difference(calls)
            if not difference < tolerance:
                raise RuntimeError(f"{size}: the results differ by {difference:.3g}")
            seconds = measure(calls, rounds, count, say=say)
            for name, peer in PEERS.items():
                yield Row(
                    work=f"batch norm forward + backward, {size}",
                    dtype=dtype.__name__,
                    peer=peer,
                    theirs=seconds[name],
                    ours=seconds["ours"],
                    floor=FLOORS.get((name, shape)),
                )
