"""Recorders: what flows through a PyTorch network, and how far its weights move.

A recorder leaves no hook behind, hands out copies that no later step changes, and puts
running statistics and gradients back. The mode is yours: a network in training mode is
recorded with batch statistics, one in evaluation mode with running statistics.
"""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn import functional as F


class Recording(NamedTuple):
    """What `watch` saw, in the order of the calls.

    Attributes:
        outputs: of each call of a watched module, NumPy arrays.
        gradients: of the loss with respect to these outputs, NumPy arrays; None for a
            call that no backward pass has reached.
    """

    outputs: list
    gradients: list


@contextmanager
def watch(model, *kinds):
    """Record the outputs of modules, and the gradients that reach them, in a block.

    Args:
        model: any module.
        kinds: classes of modules to watch, such as nn.Linear, at any depth.

    Yields:
        `Recording`, which grows with each forward and backward pass of the block.

    Raises:
        ValueError: the model has no module of these kinds.
    """
    watched = [module for module in model.modules() if isinstance(module, kinds)]
    if not watched:
        names = ", ".join(kind.__name__ for kind in kinds) or "no kind at all"
        raise ValueError(f"watch: the model has no module of kind {names}")
    seen = Recording([], [])

    def hook(module, inputs, output):
        call = len(seen.outputs)
        seen.outputs.append(_copy(output))
        seen.gradients.append(None)

        def keep(gradient):
            seen.gradients[call] = _copy(gradient)

        # a module's own backward hook would forbid in-place activations
        if output.requires_grad:
            output.register_hook(keep)

    handles = [module.register_forward_hook(hook) for module in watched]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def activations(model, x, *kinds):
    """Outputs of the modules of some kinds in one forward pass.

    Args:
        model: any module.
        x: inputs, as the model takes them.
        kinds: classes of modules, such as nn.ReLU.

    Returns:
        A list of NumPy arrays, one per call, in the order of the calls.

    Raises:
        ValueError: the model has no module of these kinds.

    State: running statistics stay as they were; the mode decides what is recorded.
    """
    with preserved(model), watch(model, *kinds) as seen, torch.no_grad():
        model(x)
    return seen.outputs


def gradients(model, x, y, *kinds):
    """Gradients of the mean cross-entropy with respect to the outputs of modules.

    Args:
        model: turns x into logits (N, C).
        x: inputs.
        y: classes (N,), int64.
        kinds: classes of modules, such as nn.ReLU.

    Returns:
        A list of NumPy arrays, one per call, in the order of the forward pass.

    Raises:
        ValueError: the model has no module of these kinds.

    State: running statistics and the gradients of parameters stay as they were.
    """
    with preserved(model), watch(model, *kinds) as seen:
        F.cross_entropy(model(x), y).backward()
    return seen.gradients


@contextmanager
def updates(model):
    """Measure how far the weights move while the block runs.

        ratio = ||W_after - W_before|| / ||W_before||

    Args:
        model: any module.

    Yields:
        A list, filled when the block ends: one ratio (a float) per weight, in the order
        of model.parameters(). A parameter with at least two axes is a weight; biases,
        gamma and beta are not.
    """
    weights = [p for p in model.parameters() if p.ndim >= 2]
    before = [w.detach().clone() for w in weights]
    ratios = []
    yield ratios
    for old, new in zip(before, weights, strict=True):
        ratios.append(((new.detach() - old).norm() / old.norm()).item())


def saturation_fraction(a, low, high, margin=0.05):
    """Share of samples for which each unit is close to an end of its range.

        close: a < low + margin * (high - low), or a > high - margin * (high - low)

    Args:
        a: activations (N, D).
        low, high: the range of the activation, such as 0 and 1 for a sigmoid.
        margin: what counts as close, as a share of the range.

    Returns:
        One number from 0 to 1 per unit, (D,).

    Raises:
        ValueError: low is not below high.
    """
    if low >= high:
        raise ValueError(
            f"saturation_fraction: low is {low} and high {high}, expected low < high"
        )
    edge = margin * (high - low)
    return ((a < low + edge) | (a > high - edge)).mean(axis=0)


@contextmanager
def preserved(model):
    """Put running statistics and gradients back when the block ends."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    model.zero_grad()
    try:
        yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _copy(tensor):
    return tensor.detach().cpu().numpy().copy()
