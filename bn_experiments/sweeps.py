"""Train many small networks at once, by learning rate and seed, in NumPy and float64.

A `Stack` says which networks, `train_stack` trains them side by side, `run` does so for
several stacks, in other processes if you like. The engine is `bn_helpers.network`, with
its gradients written out: for plain training it is the faster of the two. Experiments
that need other gradients, those of `landscape`, have theirs from PyTorch.

Every array is (seeds, rates, ...). Two networks of one seed and one shape start from
the same weights and see the same batches: norms draw no random numbers.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bn_helpers import data, network

LEARNED = 0.6  # mean accuracy from which a rate counts as working: 6 times chance


def default_init(rng, fan_in, fan_out):
    """PyTorch's default for nn.Linear: weights and biases within +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    W = rng.uniform(-bound, bound, (fan_in, fan_out))
    return W, rng.uniform(-bound, bound, (1, fan_out))


def xavier_times_4(rng, fan_in, fan_out):
    """Glorot & Bengio (2010), equation 16, times 4 for sigmoids; biases 0."""
    bound = 4 * (6 / (fan_in + fan_out)) ** 0.5
    return rng.uniform(-bound, bound, (fan_in, fan_out)), np.zeros((1, fan_out))


def he(rng, fan_in, fan_out):
    """He et al. (2015), equation 10, for ReLU: normal with variance 2 / fan_in."""
    return rng.normal(0, (2 / fan_in) ** 0.5, (fan_in, fan_out)), np.zeros((1, fan_out))


def perturbed(rng, fan_in, fan_out):
    """The default, changed in the 13th digit: what differs then is chance."""
    W, b = default_init(rng, fan_in, fan_out)
    return W * (1 + 1e-13), b


INITS = {
    "default": default_init,
    "Xavier x 4": xavier_times_4,
    "He": he,
    "perturbed": perturbed,
}


@dataclass(frozen=True)
class Stack:
    """Networks of one shape that differ in learning rate and seed.

    Attributes:
        dims: widths from input to output.
        activation: "sigmoid", "relu" or "tanh".
        norm: before each activation: "plain" (none), "batch", "layer" or "rms".
        init: "default", "Xavier x 4", "He" or "perturbed", see `INITS`.
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


def train_stack(stack, digits=None):
    """Train all networks of a stack at once, in float64.

    Args:
        stack: a `Stack`.
        digits: `data.Data` of arrays; `data.small_mnist()` if None.

    Returns:
        `StackResult`. A rate that is too large shows as a loss of inf or nan.

    Agrees with: one network at a time, and PyTorch in float64, to rounding.
    """
    digits = data.small_mnist() if digits is None else digits
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


def run(function, tasks, executor=None):
    """[function(task) for task in tasks], with a progress bar.

    Args:
        function: such as `train_stack`.
        tasks: such as `Stack`s; each is independent of the others.
        executor: a `concurrent.futures` executor that runs the tasks, or None.
    """
    each = map if executor is None else executor.map
    return list(tqdm(each(function, tasks), "sweep", len(tasks), leave=False))


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
