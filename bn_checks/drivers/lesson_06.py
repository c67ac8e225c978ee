"""Drivers of lesson 06, deep networks."""

from itertools import pairwise

import numpy as np

from . import MISSING, Unusable, plain


def drive_fully_connected_net(student, dims, reg, x, y, seed, shift):
    """Loss and gradients, going back from the output, and the parameters afterward."""
    params = parameters(dims, seed, shift)
    result = student(params, reg).loss(x, y)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Unusable("loss(x, y) must return two values: the loss, the gradients")
    loss, grads = result
    if not isinstance(grads, dict):
        raise Unusable(f"the gradients are a {type(grads).__name__}, want a dict")
    last, hidden = len(dims) - 1, range(1, len(dims) - 1)
    ends = _joined(grads, params, [f"W{last}", f"b{last}"])
    kinds = ("gamma", "beta", "W", "b")
    inner = [_joined(grads, params, [f"{kind}{k}" for k in hidden]) for kind in kinds]
    after = [np.ravel(value) for value in params.values()]
    return plain("the loss", loss), ends, *inner, np.concatenate(after)


def parameters(dims, seed, shift=0.0):
    """W, b, gamma and beta by name; shift is added to all biases of the last layer."""
    rng, params = np.random.default_rng(seed), {}
    last = len(dims) - 1
    for k, (fan_in, fan_out) in enumerate(pairwise(dims), start=1):
        params[f"W{k}"] = rng.normal(0, fan_in**-0.5, (fan_in, fan_out))
        params[f"b{k}"] = rng.normal(size=fan_out)
        if k < last:
            params[f"gamma{k}"] = rng.uniform(0.5, 2, fan_out) * rng.choice(
                [-1, 1], fan_out
            )
            params[f"beta{k}"] = rng.normal(0, 0.5, fan_out)
    params[f"b{last}"] += shift
    return params


def _joined(grads, params, names):
    """Gradients one after the other; each has the shape of its parameter."""
    flat = [np.zeros(0)]
    for name in names:
        if name not in grads:
            return f"{MISSING}the gradients lack {name!r}"
        gradient = plain(f"the gradient of {name}", grads[name])
        if isinstance(gradient, str):
            return gradient
        if gradient.shape != params[name].shape:
            shapes = f"has shape {gradient.shape}, want {params[name].shape}"
            return f"{MISSING}the gradient of {name} {shapes}"
        flat.append(gradient.ravel())
    return np.concatenate(flat)
