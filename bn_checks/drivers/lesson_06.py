"""Drivers of lesson 06, deep networks."""

from functools import cache
from itertools import pairwise

import numpy as np

from . import MISSING, Unusable, plain, raised, tried


def drive_fully_connected_net(student, dims, reg, x, y, seed, shift):
    """Loss and gradients, going back from the output, and the parameters afterward."""
    params = parameters(dims, seed, shift)
    result = student(params, reg).loss(x, y)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Unusable("loss(x, y) must return two values: the loss, the gradients")
    loss, grads = result
    if not isinstance(grads, dict):
        raise Unusable(f"the gradients are a {type(grads).__name__}, want a dict")
    shapes = {name: value.shape for name, value in params.items()}
    last, hidden = len(dims) - 1, range(1, len(dims) - 1)

    def joined(names):
        these = {name: shapes[name] for name in names}
        return _joined(grads, these, "the gradients lack {!r}", "the gradient of {}")

    inner = [
        joined([f"{kind}{k}" for k in hidden]) for kind in ("gamma", "beta", "W", "b")
    ]
    ends = joined([f"W{last}", f"b{last}"])
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


def _joined(found, shapes, absent, each):
    """Arrays one after the other, or the words that say which is wrong."""
    flat = [np.zeros(0)]
    for name, shape in shapes.items():
        if name not in found:
            return MISSING + absent.format(name)
        array = plain(each.format(name), found[name])
        if isinstance(array, str):
            return array
        if array.shape != shape:
            return f"{MISSING}{each.format(name)} has shape {array.shape}, want {shape}"
        flat.append(array.ravel())
    return np.concatenate(flat)


KINDS = {
    "params": ("W", "b", "gamma", "beta"),
    "running": ("running_mean", "running_var"),
}


def drive_trainable_net(student, dims, weight_scale, batches, probe, seed):
    """The start, the running statistics after the batches, the scores of the probe.

    Nothing depends on what went wrong before: between its calls, the driver puts other
    numbers into the arrays, as a training does, and then other arrays.
    """
    net = student(dims, weight_scale, np.random.default_rng(seed))
    start = _start(net, dims)
    _put(net, "params", dims, seed)
    start += _read(net, "running", dims)
    other = student(dims, weight_scale, np.random.default_rng(seed))
    for each in (net, other):
        _put(each, "params", dims, seed)
        _put(each, "running", dims, seed)
    broken = [words for x in batches if (words := _observed(net, other, x))]
    moved = broken[:1] * 2 or _read(net, "running", dims)
    for kind in KINDS:
        _put(net, kind, dims, seed + 1, anew=True)
    scores = tried("scores", net.scores, probe)
    after = [_together(_read(net, kind, dims)) for kind in KINDS]
    return *start, *moved, scores, *after


def _observed(net, other, x):
    """Let two networks observe in turn; words that say why that is not possible."""
    words = raised("observe", net.observe, x)
    return words or raised("observe", other.observe, 1 - x)


def _wanted(kind, dims, seed=0):
    """Arrays by name, as params or running may hold them during a training."""
    if kind == "params":
        return parameters(dims, seed)
    rng = np.random.default_rng(seed)
    made = {
        "running_mean": rng.normal,
        "running_var": lambda size: rng.gamma(2, size=size),
    }
    widths = enumerate(dims[1:-1], start=1)
    return {f"{n}{k}": make(size=H) for k, H in widths for n, make in made.items()}


@cache
def _shapes(kind, dims):
    return {name: value.shape for name, value in _wanted(kind, dims).items()}


def _put(net, kind, dims, seed, anew=False):
    """Give the network other numbers; in place where its arrays can hold them."""
    if not isinstance(getattr(net, kind, None), dict):
        setattr(net, kind, {})
    store = getattr(net, kind)
    for name, value in _wanted(kind, dims, seed).items():
        old = store.get(name)
        if not anew and _holds(old, value.shape):
            old[...] = value
        else:
            store[name] = value


def _holds(array, shape):
    """Whether numbers of this shape can be put into an array."""
    return (
        isinstance(array, np.ndarray)
        and (array.shape, array.dtype.kind) == (shape, "f")
        and array.flags.writeable
    )


def _read(net, kind, dims):
    """For each sort of array in params or running: all of them, or words."""
    store, shapes = getattr(net, kind, None), {sort: {} for sort in KINDS[kind]}
    if not isinstance(store, dict):
        return [f"{MISSING}the network has no dict {kind}"] * len(shapes)
    for name, shape in _shapes(kind, dims).items():
        shapes[_sort(name)][name] = shape
    absent = f"there is no {{!r}} in {kind}"
    return [_joined(store, those, absent, "{}") for those in shapes.values()]


def _start(net, dims):
    """What a new network has in params; a name that no update knows is a fault."""
    found, wanted = _read(net, "params", dims), _shapes("params", dims)
    store = getattr(net, "params", None)
    more = [n for n in store if n not in wanted] if isinstance(store, dict) else []
    if more:
        sorts, name = KINDS["params"], _sort(more[0])
        at = sorts.index(name) if name in sorts else 0
        found[at] = f"{MISSING}params holds a {name} that no layer has"
    return found


def _sort(name):
    return str(name).rstrip("0123456789")


def _together(parts):
    words = [part for part in parts if isinstance(part, str)]
    return words[0] if words else np.concatenate(parts)
