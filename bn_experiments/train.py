"""Experiments: train one PyTorch network, or many small NumPy networks at once.

One network: `mnist_tensors`, `make_mlp`, `train_step`, `evaluate` and `fit`, which puts
them together. Many networks: a `Stack` says which, `train_stack` trains them side by
side in float64 (on `bn_helpers.network`), `sweep` runs several stacks, in other
processes if you like.

Seeds are arguments. Two networks of one seed and one shape start from the same weights
and see the same batches, with a norm or without: norms draw no random numbers.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from bn_helpers import data, network

EVALUATION_BATCH = 1000
LEARNED = 0.6  # mean accuracy from which a rate counts as working: 6 times chance
TRAIN_PROBE = 10_000  # training images whose accuracy stands for that of all


class Data(NamedTuple):
    """Images as rows and their digits, all four of one kind: tensors, or arrays."""

    x_train: object
    y_train: object
    x_test: object
    y_test: object


# one network, in PyTorch


def mnist_tensors(dtype=torch.float32):
    """All of MNIST in memory, scaled as torchvision's transforms scale it.

        x = (pixels / 255 - 0.1307) / 0.3081

    Args:
        dtype: of the images, torch.float32 or torch.float64.

    Returns:
        `Data` of tensors: images (60000, 784) and (10000, 784), labels int64.

    Raises:
        bn_helpers.data.DataError: a file is missing or damaged.

    Agrees with: torchvision's MNIST with ToTensor and Normalize, bit for bit.
    """
    x_train, y_train, x_test, y_test = data.load_mnist()
    return Data(
        _scaled(x_train, dtype),
        torch.from_numpy(y_train).long(),
        _scaled(x_test, dtype),
        torch.from_numpy(y_test).long(),
    )


def _scaled(pixels, dtype):
    x = torch.from_numpy(pixels).flatten(1).to(dtype)
    return x.div_(255).sub_(data.MNIST_MEAN).div_(data.MNIST_STD)


def make_mlp(dims, activation, norm=None):
    """A fully connected network: affine, norm, activation, ..., affine.

    Args:
        dims: widths from input to output, such as (784, 256, 10).
        activation: makes an activation, such as nn.Sigmoid.
        norm: makes a norm for a width, such as nn.BatchNorm1d, or None.

    Returns:
        nn.Sequential. It ends with an affine layer: its outputs are logits.
    """
    layers = []
    for fan_in, fan_out in pairwise(dims):
        layers.append(nn.Linear(fan_in, fan_out))
        if norm is not None:
            layers.append(norm(fan_out))
        layers.append(activation())
    depth = 1 if norm is None else 2
    return nn.Sequential(*layers[:-depth])


def train_step(model, x, y, lr):
    """One step of gradient descent on the cross-entropy of one batch.

    Args:
        model: any module that turns x into logits (N, C).
        x: inputs (N, D).
        y: classes (N,), int64.
        lr: learning rate.

    Returns:
        The loss before the step, a float.

    State: changes parameters and running statistics, leaves the model in training mode.
    Agrees with: torch.optim.SGD(model.parameters(), lr), bit for bit.
    """
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.add_(p.grad, alpha=-lr)
    return loss.item()


def evaluate(model, x, y, batch_size=EVALUATION_BATCH):
    """Mean loss and accuracy in evaluation mode.

    Args:
        model: any module that turns x into logits (N, C).
        x: inputs (N, D).
        y: classes (N,), int64.
        batch_size: images held in memory at once; has no effect on the result.

    Returns:
        loss and accuracy (0 to 1), both over all N samples.

    State: leaves parameters, running statistics and mode as they were.
    """
    was_training = model.training
    model.eval()
    loss = right = 0
    with torch.no_grad():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(xb)
            loss += F.cross_entropy(logits, yb, reduction="sum").item()
            right += (logits.argmax(1) == yb).sum().item()
    model.train(was_training)
    return loss / len(x), right / len(x)


class History(NamedTuple):
    """What `fit` saw.

    Attributes:
        loss: of each batch, before its step, in training mode (steps,).
        step: after how many steps the rest was measured, in evaluation mode (points,).
        train_loss, train_accuracy: on the first 10,000 training images (points,).
        test_loss, test_accuracy: on all test images (points,).
    """

    loss: np.ndarray
    step: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray


def fit(model, digits, lr, epochs, batch_size=128, seed=0, every=100, title="training"):
    """Train one network by plain gradient descent, and watch it.

    Args:
        model: turns rows of digits.x_train into logits; trained in place.
        digits: `Data` of tensors.
        lr: learning rate.
        epochs: passes over the training images.
        batch_size: images per step; an epoch's last batch may be smaller.
        seed: of the order of the batches.
        every: steps between two evaluations; one more comes before the first step.
        title: what the progress bar is called.

    Returns:
        `History`.
    """
    losses, points = [], [(0, *_measure(model, digits))]
    batches = shuffled_batches(len(digits.x_train), batch_size, epochs, seed)
    for step, rows in enumerate(tqdm(batches, title, leave=False), start=1):
        x, y = digits.x_train[rows], digits.y_train[rows]
        losses.append(train_step(model, x, y, lr))
        if step % every == 0 or step == len(batches):
            points.append((step, *_measure(model, digits)))
    return History(np.array(losses), *map(np.array, zip(*points, strict=True)))


def shuffled_batches(n, batch_size, epochs, seed):
    """Indices of n samples, shuffled anew for each epoch, as a list of batches."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n, generator=generator) for _ in range(epochs)]
    return [rows for order in orders for rows in order.split(batch_size)]


def _measure(model, digits):
    probe = slice(TRAIN_PROBE)
    seen = evaluate(model, digits.x_train[probe], digits.y_train[probe])
    return *seen, *evaluate(model, digits.x_test, digits.y_test)


# many networks, in NumPy: every array is (seeds, rates, ...)


def default_init(rng, fan_in, fan_out):
    """PyTorch's default for nn.Linear: weights and biases within +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    W = rng.uniform(-bound, bound, (fan_in, fan_out))
    return W, rng.uniform(-bound, bound, (1, fan_out))


def xavier_times_4(rng, fan_in, fan_out):
    """Glorot & Bengio (2010), equation 16, times 4 for sigmoids; biases 0."""
    bound = 4 * (6 / (fan_in + fan_out)) ** 0.5
    return rng.uniform(-bound, bound, (fan_in, fan_out)), np.zeros((1, fan_out))


def nudged(rng, fan_in, fan_out):
    """The default, changed in the 13th digit: what differs then is chance."""
    W, b = default_init(rng, fan_in, fan_out)
    return W * (1 + 1e-13), b


INITS = {"default": default_init, "Xavier x 4": xavier_times_4, "nudged": nudged}


@dataclass(frozen=True)
class Stack:
    """Networks of one shape that differ in learning rate and seed.

    Attributes:
        dims: widths from input to output.
        activation: "sigmoid", "relu" or "tanh".
        norm: before each activation: "plain" (none), "batch", "layer" or "rms".
        init: "default", "Xavier x 4" or "nudged", see `INITS`.
        rates: learning rates.
        seeds: each has its own initial weights and its own order of batches, the same
            for every rate and norm.
        batch_size: samples per step; an epoch's incomplete last batch is left out.
        steps: steps of plain gradient descent.

    Raises:
        ValueError: activation, norm or init is none of these names.
    """

    dims: tuple[int, ...]
    activation: str = "sigmoid"
    norm: str = "plain"
    init: str = "default"
    rates: tuple[float, ...] = (0.1,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    batch_size: int = 32
    steps: int = 1000

    def __post_init__(self):
        for field, known in _CHOICES.items():
            value = getattr(self, field)
            if value not in known:
                expected = " or ".join(map(repr, known))
                raise ValueError(f"Stack: {field} is {value!r}, expected {expected}")


class StackResult(NamedTuple):
    """What `train_stack` saw.

    Attributes:
        loss: of each batch, before its step, in training mode (steps, seeds, rates).
        accuracy: 0 to 1, on the test set in evaluation mode (seeds, rates).
    """

    loss: np.ndarray
    accuracy: np.ndarray


@cache
def small_mnist(n_train=20_000):
    """MNIST for sweeps: the first images, as 14 x 14 means, standardized.

    Args:
        n_train: training images, up to 60000.

    Returns:
        `Data` of read-only arrays: float64 images (n_train, 196) and (10000, 196),
        shifted and scaled by one mean and one deviation of all training pixels; labels
        int64.

    Raises:
        bn_helpers.data.DataError: a file is missing or damaged.
    """
    x_train, y_train, x_test, y_test = data.load_mnist()
    x_train, x_test = _pooled(x_train[:n_train]), _pooled(x_test)
    mean, std = x_train.mean(), x_train.std()
    arrays = Data(
        (x_train - mean) / std,
        y_train[:n_train].astype(np.int64),
        (x_test - mean) / std,
        y_test.astype(np.int64),
    )
    for array in arrays:
        array.setflags(write=False)
    return arrays


def _pooled(images):
    """(N, 28, 28) as (N, 196): the means of 2 x 2 pixels."""
    return images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)


def train_stack(stack, digits=None):
    """Train all networks of a stack at once, in float64.

    Args:
        stack: a `Stack`.
        digits: `Data` of arrays; `small_mnist()` if None.

    Returns:
        `StackResult`. A rate that is too large shows as a loss of inf or nan.

    Agrees with: one network at a time, and PyTorch in float64, to rounding.
    """
    digits = small_mnist() if digits is None else digits
    net = stacked_network(stack)
    rates = np.broadcast_to(stack.rates, net.shape)
    seeds = np.array(stack.seeds)[:, None]  # one order of batches for all rates
    batch_size, update = stack.batch_size, network.SGD(rates)
    solver = network.Solver(net, digits, update, batch_size=batch_size, seed=seeds)
    losses = [solver.step() for _ in range(stack.steps)]
    with np.errstate(all="ignore"):
        accuracy = net.accuracy(digits.x_test, digits.y_test)
    return StackResult(np.array(losses), accuracy)


def stacked_network(stack):
    """The networks of a `Stack` before training, as one `network.FullyConnectedNet`."""
    shape = len(stack.seeds), len(stack.rates)
    norm = None if stack.norm == "plain" else stack.norm
    net = network.FullyConnectedNet(
        stack.dims, norm, stack.activation, seed=np.zeros(shape, int)
    )
    rngs = [np.random.default_rng(seed) for seed in stack.seeds]
    for k, size in enumerate(pairwise(stack.dims), start=1):
        drawn = [INITS[stack.init](rng, *size) for rng in rngs]
        W, b = (np.stack(values)[:, None] for values in zip(*drawn, strict=True))
        net.params[f"W{k}"] = np.repeat(W, len(stack.rates), axis=1)
        net.params[f"b{k}"][:] = b[:, :, 0]  # for every rate
    return net


def sweep(function, tasks, executor=None):
    """[function(task) for task in tasks], with a progress bar.

    Args:
        function: such as `train_stack`.
        tasks: such as `Stack`s; each is independent of the others.
        executor: a `concurrent.futures` executor that runs the tasks, or None.
    """
    run = map if executor is None else executor.map
    return list(tqdm(run(function, tasks), "sweep", len(tasks), leave=False))


def usable_rates(rates, accuracy, floor=LEARNED):
    """The longest run of neighboring rates that work.

    Args:
        rates: learning rates, ascending.
        accuracy: mean accuracy at each of them, 0 to 1.
        floor: a rate works if its accuracy is at least this.

    Returns:
        The rates, a tuple; empty if none works.
    """
    runs = [()]
    for rate, value in zip(rates, accuracy, strict=True):
        runs.append((*runs[-1], rate) if value >= floor else ())
    return max(runs, key=len)


_CHOICES = {
    "activation": network.ACTIVATIONS,
    "norm": ("plain", *filter(None, network.NORMS)),
    "init": INITS,
}


# lesson 04's study: small enough for seconds, wide enough to tell the truth
_RATES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10)
SIGMOID_STUDY = Stack((196, 24, 24, 24, 24, 10), rates=_RATES, steps=1600)
RELU_STUDY = Stack(
    (196, 32, 32, 32, 32, 10),
    activation="relu",
    rates=_RATES,
    batch_size=64,
    steps=500,
)
SHALLOW_STUDY = Stack((196, 32, 10), rates=_RATES, steps=1000)
