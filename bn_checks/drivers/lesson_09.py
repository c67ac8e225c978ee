"""Drivers of lesson 09, batch norm in practice."""

import contextlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import MISSING, Unusable, plain
from .lesson_04 import _new_modules, _set, parameters

MOST_ROUNDS = 20  # of messages; nobody needs half as many


# --- networks ------------------------------------------------------------------------


def dense_network(seed):
    """(N, 6) to 3 logits, with a dropout between two batch norms; float64."""
    with _new_modules(seed):
        model = nn.Sequential(
            nn.Linear(6, 5),
            nn.BatchNorm1d(5, momentum=0.2),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()),
            nn.Linear(4, 3),
        )
    return _filled(model, seed)


def image_network(seed):
    """(N, 2, 5, 5) to 3 logits; batch norms of two kinds, one nested; float64."""
    with _new_modules(seed):
        model = nn.Sequential(
            nn.Conv2d(2, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(5, 4, 2), nn.BatchNorm2d(4), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(6, 3),
        )
    return _filled(model, seed)


def _filled(model, seed):
    """A network that looks trained: every norm has its own numbers."""
    rng = np.random.default_rng(seed)
    for m in batch_norms(model):
        D = m.num_features
        _set(m.weight, rng.uniform(0.5, 2, D))
        _set(m.bias, rng.normal(size=D))
        _set(m.running_mean, rng.normal(size=D))
        _set(m.running_var, rng.uniform(0.5, 2, D))
        m.num_batches_tracked.fill_(7)
    return model


def batch_norms(model):
    """All batch norms, in the order of the network."""
    kinds = nn.BatchNorm1d, nn.BatchNorm2d
    return [m for m in model.modules() if isinstance(m, kinds)]


def _joined(tensors):
    return np.concatenate([t.detach().numpy().copy().ravel() for t in tensors])


@contextlib.contextmanager
def _own_random_numbers(seed):
    """Inside, PyTorch's random numbers belong to seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


# --- exercises -----------------------------------------------------------------------


def drive_decay(student, weight_decay, seed):
    """Decay of each parameter, by kind; how often it is in a group; how many froze."""
    model = image_network(seed)
    groups = _groups(student(model, weight_decay))
    kinds = {"weights": [], "biases": [], "norms": []}
    times, frozen = [], 0
    for m in model.modules():
        for name, p in m.named_parameters(recurse=False):
            found = [decay for params, decay in groups for q in params if p is q]
            kind = "weights" if name == "weight" else "biases"
            kind = "norms" if m in batch_norms(model) else kind
            kinds[kind].append(max(found, default=0.0))  # how often is told apart
            times.append(len(found))
            frozen += not p.requires_grad
    decays = [np.array(values, float) for values in kinds.values()]
    return *decays, np.array(times), frozen


def _groups(returned):
    """Pairs of parameters and decay, as torch.optim would read them."""
    if not isinstance(returned, (list, tuple)):
        raise Unusable(f"returned {type(returned).__name__}, want a list of groups")
    for group in returned:
        if not isinstance(group, dict) or "params" not in group:
            raise Unusable('a group is a dict with the key "params"')
        if unknown := set(group) - {"params", "weight_decay", "lr", "name"}:
            raise Unusable(f"no optimizer reads the key {min(unknown)!r}")
    return [(_listed(g["params"]), g.get("weight_decay", 0.0)) for g in returned]


def _listed(params):
    return [params] if isinstance(params, torch.Tensor) else list(params)


def drive_recalibrate(student, x, training, seed):
    """Statistics after the student's passes over x (K, N, D), and what was left."""
    model = dense_network(seed).train(bool(training))
    norms = batch_norms(model)
    norms[1].train(not training)  # modes differ, and are to be left so
    with _own_random_numbers(seed):
        student(model, list(torch.from_numpy(x)))
    settings = [-1 if m.momentum is None else m.momentum for m in norms]
    settings += [m.training for m in model.modules()]
    return (
        _joined(m.running_mean for m in norms),
        _joined(m.running_var for m in norms),
        parameters(model),
        np.array(settings, float),
    )


def drive_freeze(student, x, y, lr, seed):
    """A step, then `train()` and further steps, with weight decay: what moved?"""
    model = image_network(seed).train()
    norms = batch_norms(model)
    norms[0].eval()  # modes may differ before
    shapes = {m.weight.shape for m in norms}
    with _new_modules(seed):  # layers may be replaced
        result = student(model)
    model = result if isinstance(result, nn.Module) else model
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    losses = []
    for k, (xb, yb) in enumerate(zip(x, y, strict=True)):
        if k > 0:
            model.train()  # as a training loop does before each epoch
        with _own_random_numbers(seed + k):
            loss = F.cross_entropy(model(xb), yb)
        _step(model, loss, lr)
        losses.append(loss.item())
    rest = [p for p in model.parameters() if p.shape not in shapes]
    with torch.no_grad():
        evaluated = model.eval()(x[0]).numpy()
    strangers = sum(m.train() is not m for m in norms)
    return (
        _joined(t for m in norms for t in (m.running_mean, m.running_var)),
        _joined(t for m in norms for t in (m.weight, m.bias)),
        _joined(rest),
        np.array(losses),
        evaluated,
        strangers,
    )


def _step(model, loss, lr):
    """A step with weight decay; by hand, because torch.optim takes a second to load."""
    if any(p.requires_grad for p in model.parameters()):
        model.zero_grad()
        loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.grad is not None:
                p -= lr * (p.grad + 0.1 * p)


class _Waits(BaseException):
    """A worker has handed something in, and waits for what the others hand in."""


def drive_sync(student, x, sizes, gamma, beta, eps, most=np.inf):
    """Run the workers of a group in turns, until all have returned.

    A message may hold `most` numbers. A worker starts from the beginning in every
    round: what has been exchanged before is given to it at once, and at the next
    message it is stopped.
    """
    parts = np.split(x, np.cumsum(sizes)[:-1])
    rounds = []
    while len(rounds) <= MOST_ROUNDS:
        ends = [_worker(student, part, gamma, beta, eps, rounds) for part in parts]
        waiting = [message for message, _ in ends if message is not None]
        if not waiting:
            return _one_batch([result for _, result in ends])
        if len(waiting) < len(parts):
            raise Unusable("some workers call all_gather more often than others")
        if len({message.shape for message in waiting}) > 1:
            raise Unusable("all_gather needs arrays of the same shape from everyone")
        if waiting[0].size > most:
            raise Unusable(f"a message holds {waiting[0].size} numbers")
        rounds.append(waiting)
    raise Unusable(f"all_gather was called more than {MOST_ROUNDS} times")


def _worker(student, x, gamma, beta, eps, rounds):
    """What one worker hands in next, or what it returns."""
    known = iter(rounds)

    def all_gather(array):
        for messages in known:
            return [message.copy() for message in messages]
        raise _Waits(np.array(array, float))

    own = x.copy()
    try:
        result = student(own, gamma.copy(), beta.copy(), all_gather, eps)
    except _Waits as wait:
        return wait.args[0], None
    if not np.array_equal(own, x):
        x[...] = own  # which the check sees in its own array
    return None, result


def _one_batch(results):
    for result in results:
        if not isinstance(result, (tuple, list)) or len(result) != 3:
            raise Unusable("returned no three values, want y, mu, var")
    return tuple(map(_of_all, ("y", "mu", "var"), zip(*results, strict=True)))


def _of_all(name, parts):
    """What the workers returned, one below the other, or words that say why not."""
    parts = [plain(name, part) for part in parts]
    words = [part for part in parts if isinstance(part, str)]
    if words:
        return words[0]
    if len({part.shape[name == "y" :] for part in parts}) > 1:
        return f"{MISSING}{name} has another shape at each worker"
    return np.concatenate(parts) if name == "y" else np.stack(parts)
