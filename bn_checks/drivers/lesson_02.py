"""Drivers of lesson 02, the backward pass."""

import numpy as np

from . import MISSING, plain, raised, tried


def drive_numerical_gradient(student, function, x, weights, *h):
    """Build the function beside the student's code: only arrays cross to the grader."""
    functions = {
        "weighted cubes": lambda x: (weights * x**3).sum(),
        "normalized": lambda x: (
            weights * (x - x.mean(0)) / np.sqrt(x.var(0) + 0.1)
        ).sum(),
        "first entry times last": lambda x: x.flat[0] * x.flat[-1] * weights.flat[0],
    }
    return student(functions[function], x, *h)


START = ("gamma", "beta", "running_mean", "running_var")


def drive_layer(student, batches, dys, gamma, beta, probe, dprobe, eps, momentum):
    """Build the layer, train it on the batches, evaluate it on the probe, train on."""
    layer = student(len(gamma), eps, momentum)
    layer.gamma, layer.beta = gamma.copy(), beta.copy()
    y = tried("forward", layer.forward, batches[0])
    other = student(len(gamma), eps, momentum)  # of a network with two such layers
    tried("forward", other.forward, 1 - batches[0])
    dx = tried("backward", layer.backward, dys[0])
    gradients = _read(layer, "dgamma", "dbeta")
    steps = []
    for x, dy in zip(batches[1:], dys[1:], strict=True):
        steps.append(raised("step", layer.step, np.array(0.5)))
        tried("forward", layer.forward, x)
        tried("backward", layer.backward, dy)
    broken = [step for step in steps if step]
    stepped = [broken[0]] * 2 if broken else _read(layer, "gamma", "beta")
    layer.gamma, layer.beta = gamma.copy(), beta.copy()
    layer.training = False
    evaluated = [
        tried("forward", layer.forward, probe),
        tried("backward", layer.backward, dprobe),
        *_read(layer, "dgamma", "dbeta"),
    ]
    running = _read(layer, "running_mean", "running_var")
    layer.training = True
    again = tried("forward", layer.forward, probe)
    start = _together(_read(student(len(gamma), eps, momentum), *START))
    return start, y, dx, *gradients, *stepped, *running, *evaluated, again


def _read(layer, *names):
    """Attributes, each an array or the words that say why not."""
    return [
        plain(name, getattr(layer, name))
        if hasattr(layer, name)
        else f"{MISSING}the layer has no {name}"
        for name in names
    ]


def _together(values):
    """Values of a new layer, one below the other."""
    for name, value in zip(START, values, strict=True):
        if isinstance(value, str):
            return value
        if value.ndim == 0:
            return f"{MISSING}{name} starts as one number, want an array (D,)"
    try:
        return np.stack(values)
    except ValueError:
        shapes = ", ".join(str(value.shape) for value in values)
        return f"{MISSING}{', '.join(START)} start with the shapes {shapes}"


def drive_line_ups(student, *arrays):
    """Show the student each line-up: x_hat (T, N, D) and dx (T, K, N, D) by turns."""
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return tuple(_each(student, *pair) for pair in pairs)


def drive_claims(student, *arrays):
    """Let the student judge each claim; six faults share the first axis evenly."""
    verdicts = _each(lambda *claim: int(bool(student(*claim))), *arrays)
    return tuple(np.split(verdicts, 6))


def _each(function, *stacks):
    return np.array([function(*parts) for parts in zip(*stacks, strict=True)])
