"""Small PyTorch networks to test explanations of batch norm on, and measurements.

PyTorch, unlike `sweeps`, because what is measured needs gradients that are written out
nowhere: with noise, dropout, residual connections, or statistics of other samples.

`Networks` are fully connected networks of one shape, one per seed, in float64 on the
CPU. They are computed side by side: every parameter has a leading axis of S networks.
The measurements take such networks and one batch, and return one number per network.

Two `Networks` with equal dims and seeds start from the same weights and see the same
batches, with batch norm or without: norms draw no random numbers.
"""

from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from bn_helpers.data import Data, small_mnist

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid}
GAINS = {"relu": 2, "sigmoid": 1}
DROPOUT = 0.25  # share of hidden units that dropout leaves out
CALIBRATION = 5000  # training images whose statistics serve for evaluation
PROBE = 2500  # images whose accuracy stands for that of all in a sweep
CHUNK = 500  # images evaluated at once; has no effect on the result

# noise of Santurkar et al. (2018), appendix A
MEAN_RANGE = 0.5
LARGEST_SCALE = 1.25
JITTER = 0.1


class Networks:
    """S fully connected networks that differ in their seed.

    Each hidden layer is affine, norm, activation; the last layer is affine. Weights are
    drawn from N(0, gain / fan_in), with the gain 2 of He et al. (2015) for ReLU and 1
    for sigmoid; biases and beta start at 0, gamma at 1.

    Args:
        dims: widths from input to output.
        norm: "plain" or "batch".
        activation: "relu" or "sigmoid".
        place: of the norm, "before" or "after" the activation.
        residual: whether hidden layers of equal width add their output to their input.
        skipinit: whether what they add is multiplied by a parameter that starts at 0,
            one for each layer (De & Smith, 2020).
        seeds: one per network.
        eps: of batch norm.

    Attributes:
        W: weights of each layer, (S, in, out).
        b: biases of each layer, (S, 1, out).
        gamma, beta: of each norm, (S, 1, out); empty for plain networks.
        alpha: with skipinit, the factors (S, 1, 1) by the numbers of their layers.
        statistics: (mean, var) of each norm, used in evaluation; see `calibrate`.

    Raises:
        ValueError: norm, activation or place is none of these names.
    """

    def __init__(
        self,
        dims,
        norm="plain",
        activation="relu",
        place="before",
        residual=False,
        skipinit=False,
        seeds=(0, 1, 2, 3, 4),
        eps=1e-5,
    ):
        _one_of("norm", norm, ("plain", "batch"))
        _one_of("activation", activation, tuple(ACTIVATIONS))
        _one_of("place", place, ("before", "after"))
        self.norm, self.place, self.residual, self.eps = norm, place, residual, eps
        self.activation, self.seeds = ACTIVATIONS[activation], tuple(seeds)
        rngs = [np.random.default_rng(seed) for seed in self.seeds]
        gain = GAINS[activation]
        self.W = [_normal(rngs, gain, *shape) for shape in pairwise(dims)]
        self.b = [torch.zeros_like(W[:, :1]) for W in self.W]
        hidden = self.b[:-1] if norm == "batch" else []
        self.gamma = [torch.ones_like(b) for b in hidden]
        self.beta = [torch.zeros_like(b) for b in hidden]
        square = [k for k, (a, b) in enumerate(pairwise(dims[:-1])) if a == b]
        one = self.b[0][:, :, :1]
        self.alpha = {k: torch.zeros_like(one) for k in square if skipinit}
        for parameter in self.parameters:
            parameter.requires_grad_()
        ones = [torch.ones_like(b).flatten() for b in hidden]
        self.statistics = [(0 * one, one) for one in ones]

    @property
    def parameters(self):
        """All parameters: weights, biases, gamma, beta, alpha."""
        return [*self.W, *self.b, *self.gamma, *self.beta, *self.alpha.values()]

    @property
    def layer(self):
        """For each of `parameters` the number of its layer, from 0."""
        groups = self.W, self.b, self.gamma, self.beta
        return [k for group in groups for k in range(len(group))] + [*self.alpha]

    def logits(
        self, x, evaluation=False, noise=None, dropout=None, watch=None, momentum=0.0
    ):
        """What the networks answer.

        Args:
            x: inputs (N, D), or (S, N, D) with a batch for each network.
            evaluation: whether norms use the statistics of `calibrate`.
            noise: generator of the noise of `noisy` after each norm, or None.
            dropout: generator of dropout after each hidden layer, or None.
            watch: a list that receives, for each hidden layer, its input, what leaves
                its affine part, and what enters its activation; or None.
            momentum: how much of the batch's statistics to store.

        Returns:
            (S, N, C).
        """

        def normed(z, k):
            if self.norm == "plain":
                return z
            y = self._batch_norm(z, k, not evaluation, momentum)
            return y if noise is None else noisy(y, noise)

        for k, (W, b) in enumerate(zip(self.W[:-1], self.b[:-1], strict=True)):
            z = x @ W + b
            y = normed(z, k) if self.place == "before" else z
            if watch is not None:
                watch.append((x, z, y))
            y = self.activation(y)
            y = normed(y, k) if self.place == "after" else y
            if dropout is not None:
                y = y * _dropout_mask(y.shape, dropout)
            x = x + self.alpha.get(k, 1) * y if self._is_residual(W) else y
        return x @ self.W[-1] + self.b[-1]

    def _is_residual(self, W):
        return self.residual and W.shape[-2] == W.shape[-1]

    def _batch_norm(self, z, k, training, momentum):
        S, N, D = z.shape
        y = F.batch_norm(
            z.transpose(0, 1).reshape(N, S * D),  # the networks as further features
            *self.statistics[k],
            self.gamma[k].flatten(),
            self.beta[k].flatten(),
            training,
            momentum,
            self.eps,
        )
        return y.reshape(N, S, D).transpose(0, 1)

    def rescale(self, factor):
        """Multiply the hidden weights by a factor; return the networks."""
        with torch.no_grad():
            for W in self.W[:-1]:
                W.mul_(factor)
        return self

    def calibrate(self, x):
        """Make those of x (N, D), layer by layer, the statistics for evaluation."""
        with torch.no_grad():
            self.logits(x, momentum=1.0)

    def losses(self, x, y, rows=None, **options):
        """Mean cross-entropy of each network, (S,).

        Args:
            x, y: inputs as `logits` takes them, and classes (N,) or (S, N).
            rows: which samples count for each network, (S, n); all if None.
            options: as for `logits`.
        """
        logits = self.logits(x, **options)
        target = y.expand(len(logits), -1)[..., None]
        losses = -logits.log_softmax(-1).gather(-1, target)[..., 0]
        return (losses if rows is None else losses.gather(-1, rows)).mean(-1)

    def gradients(self, x, y, **options):
        """Losses (S,), and the gradient of each of `parameters`, a tuple."""
        losses = self.losses(x, y, **options)
        return losses.detach(), torch.autograd.grad(losses.sum(), self.parameters)

    def accuracy(self, x, y, **options):
        """Share of right answers in evaluation, (S,); options as for `logits`."""
        right = 0
        with torch.no_grad():
            for xb, yb in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
                answers = self.logits(xb, evaluation=True, **options).argmax(-1)
                right = right + (answers == yb).sum(-1)
        return right.numpy() / len(x)


def noisy(y, generator):
    """Scale and shift y (S, N, D) by noise whose distribution changes at every call.

        y <- s * y + m,    m ~ U(mu - 0.1, mu + 0.1),  mu ~ U(-0.5, 0.5)
                           s ~ N(sigma, 0.1),          sigma ~ U(1, 1.25)

    mu and sigma are drawn once per feature, m and s once per sample and feature.

    Source: Santurkar et al. (2018), appendix A.
    """
    feature = (*y.shape[:-2], 1, y.shape[-1])
    mu = _uniform(feature, -MEAN_RANGE, MEAN_RANGE, generator)
    sigma = _uniform(feature, 1, LARGEST_SCALE, generator)
    m = mu + _uniform(y.shape, -JITTER, JITTER, generator)
    s = sigma + JITTER * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return s * y + m


@cache
def digits(n_train=20_000):
    """`data.small_mnist` as tensors: 14 x 14 images as rows, standardized, float64."""
    return Data(*map(torch.tensor, small_mnist(n_train)))


def fit(
    nets,
    data,
    lr,
    steps,
    batch_size=32,
    *,
    weight_decay=0.0,
    hidden_lr=None,
    full_statistics=False,
    callback=None,
    **options,
):
    """Train all networks by plain gradient descent, then `calibrate` them.

    Args:
        nets: `Networks`, changed in place.
        data: `Data` of tensors.
        lr: learning rate, one number or one for each network.
        steps: of gradient descent.
        batch_size: samples per step; each seed has its own order.
        weight_decay: of the hidden weights.
        hidden_lr: hidden_lr(step) is the rate of the hidden affine layers; lr if None.
        full_statistics: whether the norms take their statistics, at every step, from
            all training samples instead of from the batch.
        callback: called as callback(step, x, y) before each step, with its batch.
        options: as for `Networks.logits`.

    Returns:
        Losses of the batches before each step, (steps, S).
    """
    losses = []
    batches = _batches(nets.seeds, len(data.x_train), batch_size, steps)
    for step, rows in enumerate(tqdm(batches, "training", leave=False)):
        x, y = data.x_train[rows], data.y_train[rows]
        if callback is not None:
            callback(step, x, y)
        if full_statistics:
            x, y, options["rows"] = data.x_train, data.y_train, rows
        loss, slopes = nets.gradients(x, y, **options)
        losses.append(loss)
        at_step = None if hidden_lr is None else hidden_lr(step)
        descend(nets, slopes, lr, weight_decay, at_step)
    nets.calibrate(data.x_train[:CALIBRATION])
    return torch.stack(losses).numpy()


def descend(nets, slopes, lr, weight_decay=0.0, hidden_lr=None):
    """One step of gradient descent on all networks, in place.

        p <- p - lr * slope                                     last layer, gamma, beta
        b <- b - hidden_lr * slope                              hidden layers
        W <- W - hidden_lr * (slope + weight_decay * W)         hidden layers

    Args:
        nets: `Networks`.
        slopes: one per parameter, as `Networks.gradients` returns them.
        lr: learning rate, one number or one for each network.
        weight_decay: of the hidden weights.
        hidden_lr: rate of the hidden affine layers, as lr; lr if None.
    """
    lr, hidden_lr = (
        _per_network(lr),
        _per_network(lr if hidden_lr is None else hidden_lr),
    )
    hidden = {id(p) for p in (*nets.W[:-1], *nets.b[:-1])}
    with torch.no_grad():
        for W in nets.W[:-1]:
            W.mul_(1 - hidden_lr * weight_decay)
        for p, slope in zip(nets.parameters, slopes, strict=True):
            p.sub_((hidden_lr if id(p) in hidden else lr) * slope)


def _per_network(lr):
    return torch.as_tensor(lr, dtype=torch.float64).reshape(-1, 1, 1)


class SweepResult(NamedTuple):
    """What `sweep` saw.

    Attributes:
        nets: the trained networks, rate by rate.
        loss: of each batch, before its step (steps, rates, seeds).
        test, training: accuracy in percent, in evaluation, on `PROBE` test and
            training images, evenly spaced, or on all if there are less (rates, seeds).
    """

    nets: Networks
    loss: np.ndarray
    test: np.ndarray
    training: np.ndarray


def sweep(data, dims, rates, steps, seeds=(0, 1, 2, 3, 4), network=None, **options):
    """Train networks at several rates, all seeds at each, side by side.

    Args:
        data: `Data` of tensors.
        dims: widths from input to output.
        rates: learning rates.
        steps: of gradient descent.
        seeds: one network for each, at every rate.
        network: further arguments of `Networks`, such as {"norm": "batch"}.
        options: as for `fit`.

    Returns:
        `SweepResult`.
    """
    shape = len(rates), len(seeds)
    nets = Networks(dims, seeds=shape[0] * tuple(seeds), **(network or {}))
    loss = fit(nets, data, np.repeat(rates, shape[1]), steps, **options)
    parts = (data.x_test, data.y_test), (data.x_train, data.y_train)
    probes = (tuple(a[:: max(1, len(a) // PROBE)] for a in part) for part in parts)
    scores = [nets.accuracy(*probe) for probe in probes]
    scores = (100 * score.reshape(shape) for score in scores)
    return SweepResult(nets, loss.reshape(-1, *shape), *scores)


def turn(W, new):
    """Angle between each unit's old and new weights, in radians.

    Args:
        W, new: weights (S, in, out); column j leads into unit j.

    Returns:
        (S, out).
    """
    cosine = F.cosine_similarity(W, new, dim=1)
    return torch.arccos(cosine.clip(-1, 1))


def sizes(tensors):
    """Euclidean norm of each (S, ...) tensor for each network, (tensors, S)."""
    return np.array([t.detach().flatten(1).norm(dim=1).numpy() for t in tensors])


def layer_inputs(nets, x, **options):
    """What enters each hidden layer but the first, a list of (S, N, D)."""
    watch = []
    with torch.no_grad():
        nets.logits(x, watch=watch, **options)
    return [entering for entering, _, _ in watch[1:]]


def moments(z):
    """Mean and standard deviation of each feature of z (S, N, D), each (S, 1, D)."""
    std, mean = torch.std_mean(z, -2, keepdim=True, correction=0)
    return mean, std


def distribution_shift(before, after):
    """How far the distribution of each feature moves, in units of its spread.

        shift = sqrt((mean' - mean)**2 + (std' - std)**2) / std

    This is the Wasserstein distance between two normal distributions with these
    moments. A feature with std 0 before is left out.

    Args:
        before, after: values of the same layer, (S, N, D).

    Returns:
        Mean over features, (S,).
    """
    (mean, std), (new_mean, new_std) = moments(before), moments(after)
    alive = std > 0
    moved = torch.hypot(new_mean - mean, new_std - std) / std
    return torch.where(alive, moved, 0).sum((-2, -1)) / alive.sum((-2, -1))


def value_shift(before, after):
    """How far single values move, in units of their spread over the samples.

        shift = sqrt(mean of (x' - x)**2) / sqrt(mean over features of variance)

    Args:
        before, after: values of the same layer for the same samples, (S, N, D).

    Returns:
        (S,).
    """
    spread = before.var(-2, correction=0).mean(-1).sqrt()
    return (after - before).square().mean((-2, -1)).sqrt() / spread


def gradient_shift(nets, x, y, lr, **options):
    """How the step of the layers below changes the gradient of each layer's weights.

        G  = gradient of W_k at the present parameters
        G' = the same, after the layers before k have made their step
        shift  = ||G - G'|| / ||G||
        cosine = <G, G'> / (||G|| ||G'||)

    Args:
        nets: `Networks`, left as they were.
        x, y: a batch.
        lr: learning rate of the step, one number or (S, 1, 1).
        options: as for `Networks.logits`.

    Returns:
        shift and cosine of each layer but the first, each (layers, S).

    Source: Santurkar et al. (2018), definition 2.1, which has no denominator.
    """
    _, slopes = nets.gradients(x, y, **options)
    shifts, cosines = [], []
    with _restored(nets):
        for k in range(1, len(nets.W)):
            with torch.no_grad():
                moves = zip(nets.parameters, slopes, nets.layer, strict=True)
                for p, slope, layer in moves:
                    if layer == k - 1:
                        p.sub_(lr * slope)
            losses = nets.losses(x, y, **options)
            new = _joined(torch.autograd.grad(losses.sum(), nets.W[k]))
            old = _joined([slopes[k]])
            shifts.append((new - old).norm(dim=1) / old.norm(dim=1))
            cosines.append(F.cosine_similarity(new, old, dim=1))
    return torch.stack(shifts).numpy(), torch.stack(cosines).numpy()


def along_gradient(nets, x, y, sizes, **options):
    """Loss and gradient after steps of several sizes, all against the same gradient.

        w(size)  = w - size * g,              g = gradient at w
        loss     = loss at w(size)
        distance = ||gradient at w(size) - g|| / ||g||

    Args:
        nets: `Networks`, left as they were.
        x, y: a batch.
        sizes: of the steps.
        options: as for `Networks.logits`.

    Returns:
        loss and distance, each (sizes, S).

    Source: Santurkar et al. (2018), section 3.1; there without the denominator.
    """
    _, slopes = nets.gradients(x, y, **options)
    old, losses, distances = _joined(slopes), [], []
    for size in sizes:
        with _restored(nets):
            with torch.no_grad():
                for p, slope in zip(nets.parameters, slopes, strict=True):
                    p.sub_(size * slope)
            loss, new = nets.gradients(x, y, **options)
        losses.append(loss)
        distances.append((_joined(new) - old).norm(dim=1) / old.norm(dim=1))
    return torch.stack(losses).numpy(), torch.stack(distances).numpy()


def _joined(tensors):
    """(S, ...) tensors as one row per network."""
    return torch.cat([t.flatten(1) for t in tensors], dim=1)


@contextmanager
def _restored(nets):
    kept = [p.detach().clone() for p in nets.parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(nets.parameters, kept, strict=True):
                p.copy_(value)


def _one_of(name, value, known):
    if value not in known:
        expected = " or ".join(map(repr, known))
        raise ValueError(f"Networks: {name} is {value!r}, expected {expected}")


def _normal(rngs, gain, fan_in, fan_out):
    spread = (gain / fan_in) ** 0.5
    return torch.tensor(
        np.array([rng.normal(0, spread, (fan_in, fan_out)) for rng in rngs])
    )


def _uniform(shape, low, high, generator):
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return low + (high - low) * drawn


def _dropout_mask(shape, generator):
    """Mask of dropout: 0, or 1 / (1 - p)."""
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (drawn >= DROPOUT).double() / (1 - DROPOUT)


def _batches(seeds, n, batch_size, steps):
    """For each step the rows of its batch, (S, batch_size)."""
    orders = {seed: np.random.default_rng([seed, 1]) for seed in seeds}
    per_epoch = n // batch_size
    for start in range(0, steps, per_epoch):
        drawn = {seed: rng.permutation(n) for seed, rng in orders.items()}
        epoch = torch.tensor(np.array([drawn[seed] for seed in seeds]))
        yield from epoch.split(batch_size, 1)[: min(per_epoch, steps - start)]
