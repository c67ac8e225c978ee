"""Small Transformers that read digits, many of them trained side by side.

A digit is a row of tokens: seven strips of two pixel rows, or its columns with ink. A
`Model` says how the networks are built; `Stack` holds several of one model, that differ
in seed and learning rate, on a leading axis K; `fit` trains and tests them. Seeds are
arguments, and networks of one seed start from the same weights and see the same batches
whatever their norms: norms draw no random numbers.

Sizes: K networks, B samples, T tokens each, C numbers per token.
"""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from bn_experiments import train

EPS = 1e-5
MOMENTUM = 0.1  # of batch norm's running statistics
NORMS = "layer", "rms", "batch", "masked batch", "dyt"
BETAS = 0.9, 0.999  # of Adam
CLASSES = 10


@dataclass(frozen=True)
class Model:
    """How a Transformer is built.

    Attributes:
        blocks: each of attention, then an MLP, with a shortcut around both.
        place: of the norms: "pre" x + f(norm(x)), "post" norm(x + f(x)), "none"
            x + f(x), or "rezero" x + a f(x) with a learned from 0.
        norm: "layer", "rms", "batch", "masked batch" or "dyt".
        qk_norm: whether queries and keys get a layer norm each, with gamma and beta.
        scale: of the weights of the blocks at the start; 1 is Xavier's.
        width: C.
        hidden: units of the MLP.
        alpha: of DyT at the start.
    """

    blocks: int = 8
    place: str = "pre"
    norm: str = "layer"
    qk_norm: bool = False
    scale: float = 1.0
    width: int = 32
    hidden: int = 32
    alpha: float = 0.5

    def __post_init__(self):
        _require("place", self.place, ("pre", "post", "none", "rezero"))
        _require("norm", self.norm, NORMS)


class Digits(NamedTuple):
    """Tokens and what they stand for.

    Attributes:
        x: (N, T, features), zeros where there is no token.
        mask: (N, T), whether there is a token.
        y: digits (N,).
    """

    x: torch.Tensor
    mask: torch.Tensor
    y: torch.Tensor

    def __getitem__(self, rows):
        return Digits(*(part[rows] for part in tuple(self)))


def _require(name, value, known):
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")


# data


def strips(digits, n_test=1000):
    """Training and test `Digits` of seven tokens each: two rows of 14 pixels.

    Args:
        digits: `data.Data` of arrays, (N, 196).
        n_test: images to test on.
    """
    x_train, y_train, x_test, y_test = map(torch.tensor, digits)
    return [
        Digits(
            x.reshape(len(x), 7, 28).to(torch.get_default_dtype()),
            torch.ones(len(x), 7, dtype=torch.bool),
            y,
        )
        for x, y in ((x_train, y_train), (x_test[:n_test], y_test[:n_test]))
    ]


def columns(digits, n_test=1000):
    """The same with one token per column that has ink: sequences of several lengths.

    A digit 1 has few columns and a digit 0 many: length tells something of the class.
    """
    return [_columns(part) for part in strips(digits, n_test)]


def _columns(digits):
    images = digits.x.reshape(len(digits.x), 14, 14).transpose(1, 2)  # columns first
    ink = (images > images.amin() + 0.5).any(2)
    first, last = ink.int().argmax(1), 13 - ink.flip(1).int().argmax(1)
    place = torch.arange(14) + first[:, None]  # shifted to the left edge
    x = images.gather(1, place.clamp(max=13)[..., None].expand(-1, -1, 14))
    mask = place <= last[:, None]
    return Digits(x * mask[..., None], mask, digits.y)


def by_length(digits, batch, steps, seed):
    """Batches in which all sequences have one length, in random order."""
    generator = torch.Generator().manual_seed(seed)
    lengths = digits.mask.sum(1)
    chosen = []
    while len(chosen) < steps:
        row = torch.randint(len(lengths), (1,), generator=generator)
        alike = (lengths == lengths[row]).nonzero().flatten()
        pick = torch.randint(len(alike), (batch,), generator=generator)
        chosen.append(alike[pick])
    return chosen


# networks


class Stack:
    """K networks of one model, side by side.

    Args:
        model: a `Model`.
        shape: (T, features) of a sample.
        seeds: one per network; equal seeds give equal weights.

    State: `parameters` and, for batch norm, `running`, by name, each with a leading
        axis K.
    """

    def __init__(self, model, shape, seeds):
        self.model, self.running = model, {}
        drawn = {seed: _parameters(model, shape, seed) for seed in set(seeds)}
        self.parameters = {
            name: torch.stack([drawn[seed][name] for seed in seeds]).requires_grad_()
            for name in drawn[seeds[0]]
        }

    def __getitem__(self, networks):
        """The networks of a slice, as a `Stack` that shares their numbers."""
        part = copy.copy(self)
        part.parameters = {name: p[networks] for name, p in self.parameters.items()}
        part.running = {
            name: [moment[networks] for moment in moments]
            for name, moments in self.running.items()
        }
        return part

    def logits(self, x, mask, training=False, skip=(), seen=None):
        """Outputs (K, B, 10) for tokens (B, T, features) or (K, B, T, features).

        Args:
            mask: (B, T) or (K, B, T).
            training: whether batch norm uses this batch, and moves its statistics.
            skip: numbers of the blocks to leave out.
            seen: a list that gets a `Seen` per block, or None.
        """
        p, m = self.parameters, self.model
        K = len(p["embed"])
        x, mask = x.expand(K, *x.shape[-3:]), mask.expand(K, *mask.shape[-2:])
        h = self._linear(x, "embed") + p["position"].unsqueeze(1)
        for k in sorted(set(range(m.blocks)) - set(skip)):
            h = self._block(h, k, mask, training, seen)
        if m.place == "pre":
            h = self._norm(h, "last", mask, training)
        weights = mask / mask.sum(-1, keepdim=True)
        pooled = (h * weights.unsqueeze(-1)).sum(2)
        return pooled @ p["head"] + p["head_bias"].unsqueeze(1)

    def _linear(self, x, name):
        """x (K, B, T, in) times the weights (K, in, out), each network with its own."""
        return (x.flatten(1, 2) @ self.parameters[name]).unflatten(1, x.shape[1:3])

    def _block(self, h, k, mask, training, seen):
        """Attention, then the MLP, each with its shortcut and its norm."""
        logits = []
        for part in ("attention", "mlp"):
            name, inner = f"{k}.{part}", h
            if self.model.place == "pre":
                inner = self._norm(h, name, mask, training)
            if part == "attention":
                out = self._attention(inner, k, mask, logits)
            else:
                out = self._linear(self._linear(inner, f"{k}.up").relu(), f"{k}.down")
            if self.model.place == "rezero":
                out = self.parameters[f"{name}.a"] * out
            h = h + out
            if self.model.place == "post":
                h = self._norm(h, name, mask, training)
        if seen is not None:
            seen.append(Seen(h.detach(), *logits))
        return h

    def _attention(self, x, k, mask, logits):
        """softmax(q key^T / sqrt(C)) v out, over the tokens that are there."""
        q, key, v = (self._linear(x, f"{k}.{name}") for name in "qkv")
        if self.model.qk_norm:
            q = _layer_norm(q, *self._affine(f"{k}.q_norm"))
            key = _layer_norm(key, *self._affine(f"{k}.k_norm"))
        z = q @ key.mT / q.shape[-1] ** 0.5
        logits.append(z.detach())
        z = z.masked_fill(~mask.unsqueeze(2), -torch.inf)
        return self._linear(z.softmax(-1) @ v, f"{k}.out")

    def _affine(self, name):
        parts = (self.parameters[f"{name}.{part}"] for part in ("gamma", "beta"))
        return (part[:, None, None] for part in parts)

    def _norm(self, x, name, mask, training):
        gamma, beta = self._affine(name)
        match self.model.norm:
            case "layer":
                return _layer_norm(x, gamma, beta)
            case "rms":
                return gamma * x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt()
            case "dyt":
                alpha = self.parameters[f"{name}.alpha"][:, None, None, None]
                return gamma * torch.tanh(alpha * x) + beta
        mu, var = self._moments(x, name, mask, training)
        return gamma * (x - mu) * (var + EPS).rsqrt() + beta

    def _moments(self, x, name, mask, training):
        """Batch norm's, over samples and tokens; padding counts unless it is masked."""
        if not training:
            return self.running[name]
        counted = mask if self.model.norm == "masked batch" else torch.ones_like(mask)
        n = counted.sum((1, 2))[:, None, None, None]
        share = counted.unsqueeze(-1) / n
        mu = (share * x).sum((1, 2), keepdim=True)
        var = (share * (x - mu).square()).sum((1, 2), keepdim=True)
        new = mu.detach(), var.detach() * n / (n - 1)  # the unbiased one is stored
        old = self.running.get(name, (torch.zeros_like(mu), torch.ones_like(var)))
        self.running[name] = [
            torch.lerp(a, b, MOMENTUM) for a, b in zip(old, new, strict=True)
        ]
        return mu, var


class Seen(NamedTuple):
    """What `Stack.logits` saw in a block.

    Attributes:
        stream: what the block handed on (K, B, T, C).
        logits: of its attention, before the softmax (K, B, T, T).
    """

    stream: torch.Tensor
    logits: torch.Tensor


def _layer_norm(x, gamma, beta):
    return gamma * F.layer_norm(x, x.shape[-1:], eps=EPS) + beta


def _parameters(m, shape, seed):
    """All parameters of one network. Weights are drawn in one order for all models."""
    draw = _Xavier(seed)
    p = {"embed": draw(shape[1], m.width), "position": draw(shape[0], m.width)}
    p |= {"head": draw(m.width, CLASSES), "head_bias": torch.zeros(CLASSES)}
    for k in range(m.blocks):
        for name in ("q", "k", "v", "out"):
            p[f"{k}.{name}"] = m.scale * draw(m.width, m.width)
        p[f"{k}.up"] = m.scale * draw(m.width, m.hidden)
        p[f"{k}.down"] = m.scale * draw(m.hidden, m.width)
    branches = [f"{k}.{part}" for k in range(m.blocks) for part in ("attention", "mlp")]
    if m.place == "rezero":
        p |= {f"{name}.a": torch.zeros(1, 1, 1) for name in branches}
    for name in _norm_names(m, branches):
        p[f"{name}.gamma"], p[f"{name}.beta"] = (
            torch.ones(m.width),
            torch.zeros(m.width),
        )
        if m.norm == "dyt":
            p[f"{name}.alpha"] = torch.tensor(m.alpha)
    return p


def _norm_names(m, branches):
    names = {"pre": [*branches, "last"], "post": branches}.get(m.place, [])
    if m.qk_norm:
        names = names + [f"{k}.{n}_norm" for k in range(m.blocks) for n in "qk"]
    return names


class _Xavier:
    """Normal weights (fan_in, fan_out) of variance 2 / (fan_in + fan_out)."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *fans):
        return (2 / sum(fans)) ** 0.5 * torch.randn(*fans, generator=self.generator)


# training


class Fit(NamedTuple):
    """What came out.

    Attributes:
        accuracy: on the test digits, percent, in evaluation mode (rates, seeds).
        stack: the trained networks, rate by rate.
        watched: what `watch` returned, before the first step and after every tenth.
    """

    accuracy: np.ndarray
    stack: Stack
    watched: list


def fit(
    model,
    data,
    rates,
    seeds=(0, 1, 2),
    steps=100,
    batch=32,
    warmup=0,
    batches=None,
    watch=None,
):
    """Train one network per rate and seed with Adam, and test them.

    Args:
        model: a `Model`.
        data: training and test `Digits`, as `strips` returns them.
        rates: learning rates.
        seeds: of the weights and the batches.
        steps: of Adam.
        batch: samples per step.
        warmup: steps over which the rate grows from 0.
        batches: called with (digits, batch, steps, seed), returns rows for each step;
            shuffled batches by default.
        watch: called with the stack, or None.

    Returns:
        `Fit`.
    """
    digits, test = data
    stack = Stack(model, digits.x.shape[1:], [s for _ in rates for s in seeds])
    rows = [(batches or _shuffled)(digits, batch, steps, s) for s in seeds]
    optimizer = Adam(stack.parameters.values(), [r for r in rates for _ in seeds])
    watched = [watch(stack)] if watch else []
    for t in range(steps):
        x, mask, y = digits[torch.stack([r[t] for r in rows] * len(rates))]
        logits = stack.logits(x, mask, training=True)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum")
        (loss / batch).backward()  # the mean of each network, summed over networks
        optimizer.step(min(1, (t + 1) / warmup) if warmup else 1)
        if watch and t % 10 == 9:
            watched.append(watch(stack))
    found = accuracy(stack, test).reshape(len(rates), len(seeds))
    return Fit(found, stack, watched)


def accuracy(stack, digits, skip=(), training=False, batches=None):
    """Of each network, in percent (K,).

    Args:
        stack: a `Stack`; its running statistics are left as they were.
        digits: `Digits`.
        skip: numbers of the blocks to leave out.
        training: whether batch norm uses the batches.
        batches: rows, one after the other; 500 in their order by default.
    """
    running, right = dict(stack.running), []
    with torch.no_grad():
        for rows in batches or torch.arange(len(digits.y)).split(500):
            x, mask, y = digits[rows]
            logits = stack.logits(x, mask, training=training, skip=skip)
            right.append(logits.argmax(-1) == y)
    stack.running = running
    return 100 * torch.cat(right, 1).double().mean(1).numpy()


def _shuffled(digits, batch, steps, seed):
    epochs = -(-steps * batch // len(digits.y))
    return train.shuffled_batches(len(digits.y), batch, epochs, seed)


class Adam:
    """Adam with one rate per network.

    Args:
        parameters: tensors with a leading axis K.
        rates: K learning rates.

    Agrees with: torch.optim.Adam, for each network.
    """

    def __init__(self, parameters, rates):
        self.parameters = list(parameters)
        self.rates, self.t = torch.tensor(rates), 0
        self.moments = [
            (torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters
        ]

    @torch.no_grad()
    def step(self, share=1.0):
        """One step with the gradients, at this share of the rates; drops them."""
        self.t += 1
        unbias = [1 - b**self.t for b in BETAS]
        for p, (m, v) in zip(self.parameters, self.moments, strict=True):
            if p.grad is None:
                continue
            m.lerp_(p.grad, 1 - BETAS[0])
            v.lerp_(p.grad.square(), 1 - BETAS[1])
            rate = share * self.rates.reshape(-1, *[1] * (p.ndim - 1))
            p -= rate * (m / unbias[0]) / ((v / unbias[1]).sqrt() + 1e-8)
            p.grad = None


# folding


def fold_layernorm(gamma, beta, W, b):
    """Weight and bias of a linear layer that reads a layer norm without its affine.

    (gamma x_hat + beta) W + b = x_hat W' + b'

    Args:
        gamma, beta: (C,), of the layer norm.
        W, b: (C, H) and (H,), of the layer that reads it; b may be None.

    Returns:
        W' (C, H) and b' (H,).
    """
    shift = beta @ W
    return gamma[:, None] * W, shift if b is None else b + shift


def center_writer(W, b):
    """Weight and bias of a layer that writes what the old one wrote, minus its mean.

    Args:
        W, b: (H, C) and (C,): the layer writes a W + b into the stream.

    Returns:
        W (H, C) and b (C,), rows of mean 0. On a stream to which all that is written
        is centered, layer norm without its affine is RMS norm.

    Source: Ashkboos et al. 2024, arXiv:2401.15024, section 3.2.
    """
    return W - W.mean(1, keepdims=True), b - b.mean()
