"""Drivers of lesson 03, activation distributions."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import Unusable

CHANGES = "changes of the network"


def network(name, widths):
    """The network of a name, and the kind of module to watch in it."""
    double = {"dtype": torch.float64}
    with torch.random.fork_rng(devices=[]):  # the notebook's random numbers stay
        linear = [nn.Linear(i, o, **double) for i, o in pairwise(widths)]
        convolution = nn.Conv1d(1, 1, 3, padding=1, **double)
    norms = [nn.BatchNorm1d(width, **double) for width in widths[1:3]]
    as_image = nn.Unflatten(1, (1, widths[0])), convolution, nn.Flatten()
    layers, kind = _networks(*linear, norms, as_image)[name]
    return nn.Sequential(*layers), kind


def _networks(first, second, last, norms, as_image):
    """Layers, and the kind to watch, by name."""
    shared, inner = nn.Tanh(), nn.Sequential
    return {
        "batch norm": (
            [first, norms[0], nn.Sigmoid(), second, norms[1], nn.Sigmoid(), last],
            nn.Sigmoid,
        ),
        "in place": (
            [first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True), last],
            nn.Linear,
        ),
        "nested": (
            [inner(first, nn.Tanh()), inner(norms[0], second, nn.Tanh()), last],
            nn.Tanh,
        ),
        "convolution": (
            [*as_image, first, norms[0], nn.Sigmoid(), second, nn.Sigmoid(), last],
            nn.Sigmoid,
        ),
        "reused": ([first, shared, inner(second, shared), last], nn.Tanh),
    }


def filled(model, seed):
    """Set all parameters and running statistics, so that seed decides each of them."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(0.2, 0.7, parameter.shape)))
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.from_numpy(rng.uniform(0.5, 2, buffer.shape)))
    return model


def drive_record(student, name, widths, training, seed, x, report="activations"):
    """What the student recorded in a network, or what the recording left behind."""
    model, kind = network(name, widths)
    filled(model, seed).train(training)
    before = _condition(model) if report == CHANGES else ()
    recorded = student(model, torch.from_numpy(x), kind)
    if not isinstance(recorded, (list, tuple)):
        raise Unusable(f"returned a {type(recorded).__name__}, want a list")
    if report == "activations":
        return _side_by_side(recorded, len(x))
    if report == "hooks left":
        return sum(len(module._forward_hooks) for module in model.modules())
    if report == "tensors on the graph":
        return sum(getattr(a, "requires_grad", False) for a in recorded)
    pairs = zip(before, _condition(model), strict=True)
    return sum(not torch.equal(*pair) for pair in pairs)


def _side_by_side(recorded, N):
    """Activations (N, D) as one array (N, sum of the D)."""
    arrays = [a.detach().numpy() if torch.is_tensor(a) else a for a in recorded]
    for k, array in enumerate(arrays):
        if np.ndim(array) != 2:
            raise Unusable(f"activation {k} has shape {np.shape(array)}, want (N, D)")
    return np.concatenate([np.zeros((N, 0)), *arrays], axis=1)


def _condition(model):
    """Parameters, running statistics and modes, as tensors."""
    modes = torch.tensor([m.training for m in model.modules()])
    return [*(v.clone() for v in model.state_dict().values()), modes]


def drive_update_ratio(student, widths, seed, x, y, lr):
    """The student's ratios for one step of a small network, and the steps taken."""
    model = filled(network("convolution", widths)[0], seed)
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    taken = 0

    def step():
        nonlocal taken
        taken += 1
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * (parameter.grad + 0.1 * parameter)

    ratios = student(model, step)
    if not isinstance(ratios, (list, tuple)):
        raise Unusable(f"returned a {type(ratios).__name__}, want a list")
    return np.array([float(ratio) for ratio in ratios]), taken
