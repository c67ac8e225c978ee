"""Drivers of lesson 02, the backward pass."""

import numpy as np


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


def drive_layer(student, batches, dys, gamma, beta, probe, dprobe, eps, momentum):
    """Build the layer, train it on the batches, evaluate it on the probe."""

    def attempt(method, array):
        try:
            return method(array)
        except NotImplementedError:  # the other methods still count
            return np.full_like(array, np.nan)

    missing = np.full_like(gamma, np.nan)
    layer = student(len(gamma), eps, momentum)
    start = [layer.gamma, layer.beta, layer.running_mean, layer.running_var]
    start = np.stack([np.array(value) for value in start])
    layer.gamma, layer.beta = gamma.copy(), beta.copy()

    y, dx = attempt(layer.forward, batches[0]), attempt(layer.backward, dys[0])
    gradients = [np.array(getattr(layer, n, missing)) for n in ("dgamma", "dbeta")]
    for x, dy in zip(batches[1:], dys[1:], strict=True):
        attempt(layer.step, np.array(0.5))
        attempt(layer.forward, x)
        attempt(layer.backward, dy)

    stepped = np.array(layer.gamma), np.array(layer.beta)
    layer.gamma, layer.beta = gamma.copy(), beta.copy()
    layer.training = False
    evaluated = attempt(layer.forward, probe), attempt(layer.backward, dprobe)
    running = layer.running_mean, layer.running_var
    return start, y, dx, *gradients, *stepped, *running, *evaluated
