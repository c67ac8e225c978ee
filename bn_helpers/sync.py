"""Synchronized batch norm: one batch, spread over several processes.

Each process holds a part of the batch. Two short messages make the parts act as one:
the forward pass exchanges a count, a mean and a variance per feature, the backward pass
two sums per feature. PyTorch's own layer, torch.nn.SyncBatchNorm, does the same and
needs GPUs; this one is NumPy over torch.distributed with gloo, and runs anywhere.
`bn_experiments.processes` starts the processes.
"""

from functools import reduce

import numpy as np

from bn_helpers import norms


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
        ValueError: all workers together have fewer than two samples, or the shapes do
            not fit.

    Source: Chan, Golub & LeVeque (1983) for the merging.
    Agrees with: `norms.batchnorm_forward` on the whole batch, part by part.
    """
    x, gamma, beta = norms._features(x, gamma=gamma, beta=beta)
    n, mu, var = _merged(_exchange(np.concatenate(_moments(x)).astype(np.float64)))
    if n < 2:
        raise ValueError(f"all workers together have {n} samples, expected N >= 2")
    # float64 until x_hat: a large mean costs no digits
    inv_std = 1 / np.sqrt(var + norms._not_negative(eps))
    centered, y = x - mu, gamma * ((x - mu) * inv_std) + beta
    y, centered = norms._cast_like(x, y, centered)
    mu, var, inv_std = norms._cast_like(gamma, mu, var, inv_std)
    return y, norms.Cache(centered, mu, var, inv_std, (0,), gamma)


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
        two. DistributedDataParallel averages the shares later; it does not add them.)

    Raises:
        ValueError: dy has another shape than y.

    Agrees with: `norms.batchnorm_backward` on the whole batch, part by part.
    """
    dy = norms._gradient(dy, cache.centered)
    own = [[len(dy)], dy.sum(0), (dy * cache.x_hat).sum(0)]
    N, dbeta, dgamma = _split(sum(_exchange(np.concatenate(own).astype(np.float64))))
    dbeta, dgamma = dbeta.astype(dy.dtype), dgamma.astype(dy.dtype)
    inside = dy - (dbeta + cache.x_hat * dgamma) / dy.dtype.type(N)
    dx = cache.gamma * cache.inv_std * inside
    return norms._cast_like(cache.centered, dx, dgamma, dbeta)


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
    import torch
    from torch import distributed as dist

    own = torch.from_numpy(message)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return [tensor.numpy() for tensor in gathered]
