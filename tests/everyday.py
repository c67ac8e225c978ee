"""Wrong answers as students write them, made from the exercises' texts alone.

Whoever wrote them had not looked at the banks or at the forms of these exercises.
`CASES` holds triples of exercise, what is wrong, and the answer.
"""

import copy
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CASES = []


def add(exercise, label, answer):
    CASES.append((exercise, label, answer))


def wrong(exercise, label):
    """Decorator: an answer that is wrong in the way the label says."""

    def note(answer):
        add(exercise, label, answer)
        return answer

    return note


def variants(exercise, make, *labels):
    """One answer for each label, which `make` takes before the arguments."""
    for label in labels:
        add(exercise, label, partial(make, label))


# --- 02 ------------------------------------------------------------------------------


def variance_path(fault, dx_hat, x, mu, var, eps=1e-5):
    v, centered, half, power = var + eps, x - mu, -0.5, -1.5
    if fault == "plus":
        half = 0.5
    if fault == "no half":
        half = -1
    if fault == "two":
        half = -2
    if fault == "power -1/2":
        power = -0.5
    if fault == "power 3/2":
        power = 1.5
    if fault == "power -3":
        power = -3
    if fault == "power -5/2":
        power = -2.5
    if fault == "no eps":
        v = var
    if fault == "not centered":
        centered = x
    if fault == "squared distance":
        centered = centered**2
    if fault == "mean of the batch again, N − 1":
        return half * (dx_hat * centered).sum(0) / (len(x) - 1) * v**power
    if fault == "mean":
        return half * (dx_hat * centered).mean(0) * v**power
    if fault == "axis 1":
        return half * (dx_hat * centered).sum(1).mean() * v**power
    if fault == "no sum":
        return half * dx_hat * centered * v**power
    if fault == "keepdims":
        return half * (dx_hat * centered).sum(0, keepdims=True) * v**power
    if fault == "sum of each":
        return half * dx_hat.sum(0) * centered.sum(0) * v**power
    if fault == "no distance":
        return half * dx_hat.sum(0) * v**power
    return half * (dx_hat * centered).sum(0) * v**power


variants(
    "variance_path",
    variance_path,
    "plus",
    "no half",
    "two",
    "power -1/2",
    "power 3/2",
    "power -3",
    "power -5/2",
    "no eps",
    "not centered",
    "squared distance",
    "mean of the batch again, N − 1",
    "mean",
    "no sum",
    "keepdims",
    "sum of each",
    "no distance",
)


def mean_paths(fault, dx_hat, x, center, var, dvar, eps=1e-5):
    std = np.sqrt(var + eps)
    direct = -dx_hat.sum(0) / std
    through = -2 * dvar * (x - center).mean(0)
    match fault:
        case "direct without minus":
            direct = -direct
        case "direct averaged":
            direct = -dx_hat.mean(0) / std
        case "direct not divided":
            direct = -dx_hat.sum(0)
        case "direct by the variance":
            direct = -dx_hat.sum(0) / (var + eps)
        case "direct without eps":
            direct = -dx_hat.sum(0) / np.sqrt(var)
        case "direct by std + eps":
            direct = -dx_hat.sum(0) / (np.sqrt(var) + eps)
        case "through without minus":
            through = -through
        case "through without 2":
            through = through / 2
        case "through summed":
            through = -2 * dvar * (x - center).sum(0)
        case "through without dvar":
            through = -2 * (x - center).mean(0)
        case "through around the mean, so 0":
            through = -2 * dvar * (x - x.mean(0)).mean(0)
        case "through left at 0, as in a batch":
            through = np.zeros_like(dvar)
        case "exchanged":
            return through, direct
        case "added up":
            return direct + through, through
        case "through with squares":
            through = -2 * dvar * ((x - center) ** 2).mean(0)
    return direct, through


variants(
    "mean_paths",
    mean_paths,
    "direct without minus",
    "direct averaged",
    "direct not divided",
    "direct by the variance",
    "direct without eps",
    "direct by std + eps",
    "through without minus",
    "through without 2",
    "through summed",
    "through without dvar",
    "through around the mean, so 0",
    "through left at 0, as in a batch",
    "exchanged",
    "added up",
    "through with squares",
)


def find_wrong_backward(fault, x_hat, dx):
    alone = np.abs(dx.sum(1)).max(1)
    along = np.abs((dx * x_hat).sum(1)).max(1)
    size = np.abs(dx).max((1, 2))
    match fault:
        case "columns only":
            return int(np.argmax(alone / size))
        case "x_hat only":
            return int(np.argmax(along / size))
        case "right one":
            return int(np.argmin(np.maximum(alone, along) / size))
        case "counted from 1":
            return int(np.argmax(np.maximum(alone, along) / size)) + 1
        case "largest entry":
            return int(np.argmax(size))
        case "sums over features":
            return int(np.argmax(np.abs(dx.sum(2)).max(1) / size))
        case "no absolute value":
            pair = np.maximum(dx.sum(1).max(1), (dx * x_hat).sum(1).max(1))
            return int(np.argmax(pair / size))
        case "sum of everything":
            return int(np.argmax(np.abs(dx.sum((1, 2)))))
        case "both below the limit":
            return int(np.argmax(np.minimum(alone, along) / size))
        case "first":
            return 0
        case "last":
            return len(dx) - 1
        case "from the end":
            return len(dx) - 1 - int(np.argmax(np.maximum(alone, along) / size))
        case "the number, not the place":
            return float(np.max(np.maximum(alone, along) / size))


variants(
    "find_wrong_backward",
    find_wrong_backward,
    "columns only",
    "x_hat only",
    "right one",
    "counted from 1",
    "largest entry",
    "sums over features",
    "no absolute value",
    "sum of everything",
    "both below the limit",
    "first",
    "last",
    "from the end",
    "the number, not the place",
)


def _loss(x, gamma, beta, dy, eps=1e-5, ddof=0):
    x_hat = (x - x.mean(0)) / np.sqrt(x.var(0, ddof=ddof) + eps)
    return (dy * (gamma * x_hat + beta)).sum()


def _slope(f, v, h=1e-5):
    g = np.zeros_like(v)
    for i in np.ndindex(v.shape):
        up, down = v.copy(), v.copy()
        up[i] += h
        down[i] -= h
        g[i] = (f(up) - f(down)) / (2 * h)
    return g


def gradients_agree(fault, x, gamma, beta, dy, dx, dgamma, dbeta):
    near = partial(np.allclose, rtol=1e-4, atol=1e-4)
    ddof = int(fault == "N − 1")
    gx = _slope(lambda v: _loss(v, gamma, beta, dy, ddof=ddof), x)
    gg = _slope(lambda v: _loss(x, v, beta, dy), gamma)
    gb = _slope(lambda v: _loss(x, gamma, v, dy), beta)
    match fault:
        case "dx only":
            return near(gx, dx)
        case "dx and dgamma only":
            return near(gx, dx) and near(gg, dgamma)
        case "parameters only":
            return near(gg, dgamma) and near(gb, dbeta)
        case "any":
            return near(gx, dx) or near(gg, dgamma) or near(gb, dbeta)
        case "loose":
            near = partial(np.allclose, rtol=0.1, atol=0.1)
        case "strict":
            near = partial(np.allclose, rtol=0, atol=1e-14)
        case "upside down":
            return not (near(gx, dx) and near(gg, dgamma) and near(gb, dbeta))
        case "always":
            return True
        case "never":
            return False
        case "sums compared":
            return (
                near(gx.sum(), dx.sum())
                and near(gg.sum(), dgamma.sum())
                and near(gb.sum(), dbeta.sum())
            )
        case "upstream of ones":
            ones = np.ones_like(dy)
            return near(_slope(lambda v: _loss(v, gamma, beta, ones), x), dx)
        case "first sample only":
            return near(gx[0], dx[0]) and near(gg, dgamma) and near(gb, dbeta)
        case "mean difference":
            return bool(np.mean(np.abs(gx - dx)) < 1e-2) and (
                near(gg, dgamma) and near(gb, dbeta)
            )
    return near(gx, dx) and near(gg, dgamma) and near(gb, dbeta)


variants(
    "gradients_agree",
    gradients_agree,
    "dx only",
    "dx and dgamma only",
    "parameters only",
    "any",
    "loose",
    "strict",
    "upside down",
    "always",
    "never",
    "sums compared",
    "upstream of ones",
    "first sample only",
    "mean difference",
    "N − 1",
)


# --- 07 ------------------------------------------------------------------------------


def diagnose(fault, cosine, size):
    off = np.abs(cosine - 1) > 1e-4
    f = np.zeros(6, dtype=int)
    f[0] = size[0, :2].max() > 4
    if fault == "never fault 0":
        f[0] = 0
    if fault == "fault 0 for any size":
        f[0] = np.abs(size[0, :2] - 1).max() > 1e-4
    if fault == "rows upside down":
        off = off[::-1]
    if fault == "healthy always":
        return np.zeros(6, dtype=int)
    if fault == "all always":
        return np.ones(6, dtype=int)
    if fault == "W and b swapped":
        off = off[:, [0, 1, 3, 2]]
    if fault == "sizes for directions":
        off = np.abs(size - 1) > 1e-4
    if off[0, :2].any():
        f[4] = 1
    elif not off[1, :2].any():
        if fault == "W before b":
            f[1] = off[0, 2]
            f[2] = off[0, 3] and not off[0, 2]
        elif fault == "no early b":
            f[1] = off[0, 2]
        else:
            f[1:3] = off[0, 2:]
    elif fault == "no detached":
        f[3] = 1
    elif fault == "detached always":
        f[5] = 1
    elif fault == "3 and 5 swapped":
        f[3 if off[0, 3] else 5] = 1
    else:
        f[5 if off[0, 3] else 3] = 1
    if fault == "gamma twice never":
        f[4] = 0
    if fault == "fault 0 excludes others" and f[0]:
        f[1:] = 0
    return f


variants(
    "diagnose",
    diagnose,
    "never fault 0",
    "fault 0 for any size",
    "rows upside down",
    "healthy always",
    "all always",
    "W and b swapped",
    "sizes for directions",
    "W before b",
    "no early b",
    "no detached",
    "detached always",
    "3 and 5 swapped",
    "gamma twice never",
    "fault 0 excludes others",
)


# --- 10 ------------------------------------------------------------------------------


def masked_batchnorm(fault, x, mask, gamma, beta, eps=1e-5):
    rows = x[mask]
    mu, var = rows.mean(0), rows.var(0)
    match fault:
        case "padding counted":
            mu, var = x.mean((0, 1)), x.var((0, 1))
        case "N − 1":
            var = rows.var(0, ddof=1)
        case "inverse mask":
            mu, var = x[~mask].mean(0), x[~mask].var(0)
        case "one number":
            mu, var = rows.mean(), rows.var()
        case "divided by N T":
            mu = (x * mask[..., None]).sum((0, 1)) / mask.size
            var = (((x - mu) ** 2) * mask[..., None]).sum((0, 1)) / mask.size
        case "per sample":
            m = mask[..., None]
            n = m.sum(1, keepdims=True)
            mu = ((x * m).sum(1, keepdims=True) / n).mean((0, 1))
            var = rows.var(0)
        case "padding as −mean":
            x0 = x * mask[..., None]
            mu = x0.sum((0, 1)) / mask.sum()
            var = ((x0 - mu) ** 2).sum((0, 1)) / mask.sum()
    std = np.sqrt(var + eps)
    if fault == "eps outside":
        std = np.sqrt(var) + eps
    if fault == "no root":
        std = var + eps
    y = gamma * (x - mu) / std + beta
    if fault == "padding not cleared":
        return y, mu, var
    if fault == "padding beta":
        return np.where(mask[..., None], y, beta), mu, var
    if fault == "multiplied by the mask":
        return y * mask[..., None], mu, var
    if fault == "tokens only":
        return y[mask], mu, var
    if fault == "tokens cleared":
        return np.where(mask[..., None], 0, y), mu, var
    y = np.where(mask[..., None], y, 0)
    if fault == "std returned":
        return y, mu, np.sqrt(var)
    if fault == "swapped":
        return y, var, mu
    return y, mu, var


variants(
    "masked_batchnorm",
    masked_batchnorm,
    "padding counted",
    "N − 1",
    "inverse mask",
    "one number",
    "divided by N T",
    "per sample",
    "padding as −mean",
    "eps outside",
    "no root",
    "padding not cleared",
    "padding beta",
    "multiplied by the mask",
    "tokens only",
    "tokens cleared",
    "std returned",
    "swapped",
)


def residual_block(fault, x, W1, W2, gamma, beta, place):
    def norm(h):
        axis = 0 if fault == "over the tokens" else -1
        if fault == "over everything":
            axis = None
        ddof = int(fault == "N − 1")
        mu, var = h.mean(axis, keepdims=True), h.var(axis, keepdims=True, ddof=ddof)
        if fault == "mean not subtracted":
            mu = 0
        std = np.sqrt(var + 1e-5)
        if fault == "no root":
            std = var + 1e-5
        if fault == "no gamma":
            return (h - mu) / std + beta
        return gamma * (h - mu) / std + beta

    def branch(h):
        if fault == "no relu":
            return h @ W1 @ W2
        if fault == "relu last":
            return np.maximum(h @ W1 @ W2, 0)
        return np.maximum(h @ W1, 0) @ W2

    if place not in ("pre", "post"):
        raise ValueError(place)
    if fault == "pre and post exchanged":
        place = "post" if place == "pre" else "pre"
    if fault == "always pre":
        place = "pre"
    if fault == "always post":
        place = "post"
    if place == "pre":
        if fault == "shortcut normalized":
            return norm(x) + branch(norm(x))
        if fault == "no shortcut":
            return branch(norm(x))
        if fault == "norm after the branch":
            return x + norm(branch(x))
        return x + branch(norm(x))
    if fault == "sum after the norm":
        return x + norm(branch(x))
    if fault == "post reads the norm":
        return norm(x + branch(norm(x)))
    if fault == "no shortcut":
        return norm(branch(x))
    return norm(x + branch(x))


variants(
    "residual_block",
    residual_block,
    "over the tokens",
    "over everything",
    "N − 1",
    "mean not subtracted",
    "no root",
    "no gamma",
    "no relu",
    "relu last",
    "pre and post exchanged",
    "always pre",
    "always post",
    "shortcut normalized",
    "no shortcut",
    "norm after the branch",
    "sum after the norm",
    "post reads the norm",
)


def qk_norm_attention(fault, q, k, v, gain):
    d = q.shape[1]
    axis = 0 if fault == "over the tokens" else -1
    nq, nk = (np.linalg.norm(a, axis=axis, keepdims=True) for a in (q, k))
    if fault == "one length":
        nq, nk = np.linalg.norm(q), np.linalg.norm(k)
    if fault == "squared lengths":
        nq, nk = nq**2, nk**2
    if fault == "rms":
        nq, nk = nq / np.sqrt(d), nk / np.sqrt(d)
    if fault == "only q":
        nk = 1
    if fault == "only k":
        nq = 1
    if fault == "eps":
        nq, nk = nq + 1e-2, nk + 1e-2
    logits = gain * (q / nq) @ (k / nk).T
    if fault == "root of d kept":
        logits = logits / np.sqrt(d)
    if fault == "gain divides":
        logits = logits / gain**2
    if fault == "no gain":
        logits = logits / gain
    if fault == "gain squared":
        logits = logits * gain
    if fault == "columns":
        e = np.exp(logits - logits.max(0, keepdims=True))
        w = e / e.sum(0, keepdims=True)
        return w @ v, w
    if fault == "keys ask":
        logits = logits.T
    if fault == "overflow":
        e = np.exp(logits)
    else:
        e = np.exp(logits - logits.max(-1, keepdims=True))
    w = e / e.sum(-1, keepdims=True)
    if fault == "not divided":
        w = e
    if fault == "weights transposed":
        return w.T @ v, w
    if fault == "swapped":
        return w, w @ v
    if fault == "logits returned":
        return w @ v, logits
    return w @ v, w


variants(
    "qk_norm_attention",
    qk_norm_attention,
    "over the tokens",
    "one length",
    "squared lengths",
    "rms",
    "only q",
    "only k",
    "root of d kept",
    "gain divides",
    "no gain",
    "gain squared",
    "columns",
    "keys ask",
    "overflow",
    "not divided",
    "weights transposed",
    "logits returned",
)


def fold_layernorm(fault, gamma, beta, W, b):
    new, shift = gamma[:, None] * W, beta @ W
    match fault:
        case "beta through the new W":
            shift = beta @ new
        case "no shift without a bias":
            shift = shift if b is not None else np.zeros(W.shape[1])
        case "bias dropped":
            return new, shift
        case "beta dropped":
            return new, np.zeros(W.shape[1]) if b is None else b
        case "W divided":
            new = W / gamma[:, None]
        case "shift subtracted":
            shift = -shift
        case "bias scaled":
            return new, shift if b is None else b * gamma.mean() + shift
        case "W unchanged":
            new = W
        case "None stays None":
            return new, None if b is None else b + shift
        case "gamma from the right":
            new = W * np.resize(gamma, W.shape[1])
        case "beta summed":
            shift = beta.sum() * np.ones(W.shape[1])
        case "transposed":
            new = new.T
        case "1 + gamma":
            new = (1 + gamma)[:, None] * W
        case "shift twice":
            shift = 2 * shift
    return new, shift if b is None else b + shift


variants(
    "fold_layernorm",
    fold_layernorm,
    "beta through the new W",
    "no shift without a bias",
    "bias dropped",
    "beta dropped",
    "W divided",
    "shift subtracted",
    "W unchanged",
    "None stays None",
    "gamma from the right",
    "beta summed",
    "transposed",
    "1 + gamma",
    "shift twice",
)

add("center_writer", "axis 0", lambda W, b: (W - W.mean(0), b - b.mean()))
add("center_writer", "mean of all", lambda W, b: (W - W.mean(), b - b.mean()))
add("center_writer", "bias left", lambda W, b: (W - W.mean(1, keepdims=True), b))
add("center_writer", "bias 0", lambda W, b: (W - W.mean(1, keepdims=True), 0 * b))
add("center_writer", "W left", lambda W, b: (W, b - b.mean()))
add(
    "center_writer",
    "added",
    lambda W, b: (W + W.mean(1, keepdims=True), b + b.mean()),
)
add(
    "center_writer",
    "sums",
    lambda W, b: (W - W.sum(1, keepdims=True), b - b.sum()),
)
add(
    "center_writer",
    "normalized as well",
    lambda W, b: (
        (W - W.mean(1, keepdims=True)) / W.std(1, keepdims=True),
        (b - b.mean()) / b.std(),
    ),
)
add(
    "center_writer",
    "the mean alone",
    lambda W, b: (W.mean(1, keepdims=True) + 0 * W, b.mean() + 0 * b),
)
add(
    "center_writer",
    "median",
    lambda W, b: (W - np.median(W, 1, keepdims=True), b - np.median(b)),
)
add(
    "center_writer",
    "the mean of b leaves W",
    lambda W, b: (W - b.mean(), b - b.mean()),
)
add(
    "center_writer",
    "b loses W's mean",
    lambda W, b: (W - W.mean(1, keepdims=True), b - W.mean()),
)
add(
    "center_writer",
    "N − 1",
    lambda W, b: (
        W - W.sum(1, keepdims=True) / (W.shape[1] - 1),
        b - b.sum() / (len(b) - 1),
    ),
)


# --- those that resist ---------------------------------------------------------------


def direction_and_size(fault, gradient, truth):
    g, t = np.linalg.norm(gradient), np.linalg.norm(truth)
    limit = 1e-8
    if fault == "limit 1e-12":
        limit = 1e-12
    if fault == "limit 1e-5":
        limit = 1e-3
    if fault == "both 0 gives 0":
        if g < limit and t < limit:
            return 0.0, 0.0
    elif g < limit and t < limit:
        return 1.0, 1.0
    if g < limit:
        return (1.0, 0.0) if fault == "cosine 1 at 0" else (0.0, 0.0)
    if t < limit:
        return 0.0, 0.0 if fault == "0 for infinity" else np.inf
    cosine, size = (gradient * truth).sum() / (g * t), g / t
    match fault:
        case "angle":
            cosine = np.arccos(np.clip(cosine, -1, 1))
        case "absolute":
            cosine = abs(cosine)
        case "not divided":
            cosine = (gradient * truth).sum()
        case "divided once":
            cosine = (gradient * truth).sum() / t**2
        case "upside down":
            size = t / g
        case "difference":
            size = g - t
        case "squares":
            size = size**2
        case "sum norm":
            size = np.abs(gradient).sum() / np.abs(truth).sum()
        case "largest entry":
            size = np.abs(gradient).max() / np.abs(truth).max()
        case "signs":
            cosine = np.mean(np.sign(gradient) == np.sign(truth))
        case "correlation":
            cosine = np.corrcoef(gradient.ravel(), truth.ravel())[0, 1]
        case "swapped":
            return size, cosine
    return cosine, size


variants(
    "direction_and_size",
    direction_and_size,
    "limit 1e-12",
    "limit 1e-5",
    "both 0 gives 0",
    "cosine 1 at 0",
    "0 for infinity",
    "angle",
    "absolute",
    "not divided",
    "divided once",
    "upside down",
    "difference",
    "squares",
    "sum norm",
    "largest entry",
    "signs",
    "correlation",
    "swapped",
)


def gradient_predictiveness(fault, gradient, w, steps):
    g = gradient(w)
    direction = g / np.linalg.norm(g) if fault == "unit steps" else g
    sign = 1 if fault == "uphill" else -1
    there = [gradient(w + sign * s * direction) for s in steps]
    if fault == "walks on":
        there, at = [], w
        for s in steps:
            at = at - s * gradient(at)
            there.append(gradient(at))
    distance = np.array([np.linalg.norm(t - g) for t in there])
    if fault == "squared":
        distance = distance**2
    if fault == "difference of lengths":
        distance = np.array([np.linalg.norm(t) - np.linalg.norm(g) for t in there])
    if fault == "relative":
        distance = distance / np.linalg.norm(g)
    if fault == "sum of entries":
        distance = np.array([np.abs(t - g).sum() for t in there])
    if fault == "mean of squares":
        distance = np.array([np.sqrt(np.mean((t - g) ** 2)) for t in there])
    way = np.asarray(steps) * np.linalg.norm(g)
    if fault == "by the step size":
        way = np.asarray(steps)
    if fault == "not divided":
        way = 1
    ratio = distance / way
    if fault == "mean ratio":
        return distance, ratio.mean()
    if fault == "last ratio":
        return distance, ratio[-1]
    if fault == "smallest":
        return distance, ratio.min()
    if fault == "max of each":
        return distance, distance.max() / np.max(way)
    if fault == "ratios":
        return ratio, ratio.max()
    return distance, ratio.max()


variants(
    "gradient_predictiveness",
    gradient_predictiveness,
    "unit steps",
    "uphill",
    "walks on",
    "squared",
    "difference of lengths",
    "relative",
    "sum of entries",
    "mean of squares",
    "by the step size",
    "not divided",
    "mean ratio",
    "last ratio",
    "smallest",
    "max of each",
    "ratios",
)


def make_mlp(fault, dims, activation, norm=None):
    layers = []
    for i, (a, b) in enumerate(zip(dims[:-1], dims[1:], strict=True)):
        last = i == len(dims) - 2
        bias = not (fault == "no bias before a norm" and norm and not last)
        layers.append(nn.Linear(a, b, bias=bias))
        if fault == "one linear too few" and last:
            layers.pop()
        if last and fault not in ("activation at the end", "norm at the end"):
            break
        if fault == "norm after the activation":
            layers.append(activation())
        if norm and fault != "norm forgotten":
            layers.append(norm(a if fault == "norm of the input's width" else b))
        if fault == "norm at the end" and last:
            break
        if fault not in ("norm after the activation", "no activation"):
            layers.append(activation())
        if fault == "dropout":
            layers.append(nn.Dropout(0.5))
        if fault == "norm twice" and norm:
            layers.append(norm(b))
    if fault == "softmax":
        layers.append(nn.Softmax(dim=1))
    if fault == "log-softmax":
        layers.append(nn.LogSoftmax(dim=1))
    if fault == "norm first" and norm:
        layers.insert(0, norm(dims[0]))
    if fault == "ReLU always":
        layers = [nn.ReLU() if isinstance(m, activation) else m for m in layers]
    if fault == "a list":
        return layers
    return nn.Sequential(*layers)


variants(
    "make_mlp",
    make_mlp,
    "activation at the end",
    "norm at the end",
    "norm after the activation",
    "norm forgotten",
    "norm of the input's width",
    "no activation",
    "dropout",
    "norm twice",
    "softmax",
    "log-softmax",
    "norm first",
    "ReLU always",
    "a list",
    "no bias before a norm",
)


def sync(fault, x, gamma, beta, all_gather, eps=1e-5):
    n, mu, var = len(x), x.mean(0), x.var(0)
    if fault == "worker's N − 1":
        var = x.var(0, ddof=1)
    own = np.concatenate([[n], mu, var])
    if fault == "standard deviations sent":
        own = np.concatenate([[n], mu, np.sqrt(var)])
    got = np.stack(all_gather(own))
    D = x.shape[1]
    counts, means, variances = got[:, :1], got[:, 1 : D + 1], got[:, D + 1 :]
    if fault == "equal weights":
        counts = np.ones_like(counts)
    total = counts.sum()
    m = (counts * means).sum(0) / total
    v = (counts * (variances + (means - m) ** 2)).sum(0) / total
    match fault:
        case "not synchronized":
            m, v = mu, var
        case "no spread between":
            v = (counts * variances).sum(0) / total
        case "spread alone":
            v = (counts * (means - m) ** 2).sum(0) / total
        case "total N − 1":
            v = v * total / (total - 1)
        case "first worker":
            m, v = means[0], variances[0]
        case "mean of variances":
            v = variances.mean(0)
        case "sums":
            m = (counts * means).sum(0)
        case "distance not squared":
            v = (counts * (variances + np.abs(means - m))).sum(0) / total
        case "own mean in y":
            return gamma * (x - mu) / np.sqrt(v + eps) + beta, m, v
        case "own variance in y":
            return gamma * (x - m) / np.sqrt(var + eps) + beta, m, v
        case "own statistics in y":
            return gamma * (x - mu) / np.sqrt(var + eps) + beta, m, v
        case "own statistics returned":
            return gamma * (x - m) / np.sqrt(v + eps) + beta, mu, var
        case "no gamma":
            return (x - m) / np.sqrt(v + eps) + beta, m, v
    return gamma * (x - m) / np.sqrt(v + eps) + beta, m, v


variants(
    "sync_batchnorm_forward",
    sync,
    "worker's N − 1",
    "standard deviations sent",
    "equal weights",
    "not synchronized",
    "no spread between",
    "spread alone",
    "total N − 1",
    "first worker",
    "mean of variances",
    "sums",
    "distance not squared",
    "own mean in y",
    "own variance in y",
    "own statistics in y",
    "own statistics returned",
    "no gamma",
)


def update_ratio(fault, model, step):
    pick = [p for p in model.parameters() if p.ndim >= 2]
    if fault == "all parameters":
        pick = list(model.parameters())
    if fault == "vectors":
        pick = [p for p in model.parameters() if p.ndim == 1]
    before = [p.detach().clone() for p in pick]
    if fault == "no clone":
        before = [p.detach() for p in pick]
    if fault == "step twice":
        step()
    if fault != "no step":
        step()
    if fault == "gradients":
        return [
            (p.grad.norm() / b.norm()).item() for p, b in zip(pick, before, strict=True)
        ]
    out = []
    for b, p in zip(before, pick, strict=True):
        change = p.detach() - b
        match fault:
            case "by the new norm":
                out.append((change.norm() / p.detach().norm()).item())
            case "upside down":
                out.append((b.norm() / change.norm()).item())
            case "std":
                out.append((change.std() / b.std()).item())
            case "mean of ratios":
                out.append((change.abs() / b.abs()).mean().item())
            case "difference of norms":
                out.append(((p.detach().norm() - b.norm()) / b.norm()).item())
            case "change alone":
                out.append(change.norm().item())
            case "largest entry":
                out.append((change.abs().max() / b.abs().max()).item())
            case "squared":
                out.append(((change**2).sum() / (b**2).sum()).item())
            case "sum norm":
                out.append((change.abs().sum() / b.abs().sum()).item())
            case "log10":
                out.append((change.norm() / b.norm()).log10().item())
            case _:
                out.append((change.norm() / b.norm()).item())
    if fault == "backward order":
        return out[::-1]
    if fault == "mean":
        return [sum(out) / len(out)] * len(out)
    return out


variants(
    "update_to_data_ratio",
    update_ratio,
    "all parameters",
    "vectors",
    "no clone",
    "step twice",
    "no step",
    "gradients",
    "by the new norm",
    "upside down",
    "std",
    "mean of ratios",
    "difference of norms",
    "change alone",
    "largest entry",
    "squared",
    "sum norm",
    "log10",
    "backward order",
    "mean",
)


def train_step(fault, model, x, y, lr):
    if fault == "evaluation mode":
        model.eval()
    elif fault != "no train()":
        model.train()
    reduction = "sum" if fault == "sum" else "mean"
    logits = model(x)
    if fault == "softmax first":
        logits = logits.softmax(1)
    loss = F.cross_entropy(logits, y, reduction=reduction)
    if fault == "squared error":
        target = F.one_hot(y, logits.shape[1]).to(logits.dtype)
        loss = F.mse_loss(logits, target)
    if fault != "not cleared":
        model.zero_grad()
    if fault != "no backward":
        loss.backward()
    if fault == "cleared after backward":
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is None:
                continue
            match fault:
                case "uphill":
                    p += lr * p.grad
                case "no lr":
                    p -= p.grad
                case "weights only" if p.ndim < 2:
                    pass
                case "signs":
                    p -= lr * p.grad.sign()
                case "rebinds":
                    p = p - lr * p.grad
                case "no step":
                    pass
                case "divided by N":
                    p -= lr * p.grad / len(x)
                case "decay":
                    p -= lr * (p.grad + 0.01 * p)
                case _:
                    p -= lr * p.grad
        if fault == "loss after the step":
            return F.cross_entropy(model(x), y).item()
    if fault == "accuracy":
        return (logits.argmax(1) == y).double().mean().item()
    if fault == "loss times N":
        return loss.item() * len(x)
    return loss.item()


variants(
    "train_step",
    train_step,
    "evaluation mode",
    "no train()",
    "sum",
    "softmax first",
    "squared error",
    "not cleared",
    "cleared after backward",
    "uphill",
    "no lr",
    "weights only",
    "signs",
    "rebinds",
    "no step",
    "divided by N",
    "decay",
    "loss after the step",
    "accuracy",
    "loss times N",
)


def recalibrate(fault, model, batches):
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [m for m in model.modules() if isinstance(m, kinds)]
    modes = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    if fault == "whole model awake":
        model.train()
    else:
        model.eval()
    if fault == "first norm only":
        norms = norms[:1]
    for m in norms:
        if fault != "not reset":
            m.reset_running_stats()
        m.momentum = 0.1 if fault == "momentum 0.1" else None
        if fault == "momentum 0":
            m.momentum = 0.0
        if fault == "momentum 1":
            m.momentum = 1.0
        if fault == "momentum 1/K":
            m.momentum = 1 / len(batches)
        if fault != "norms asleep":
            m.training = True
    with torch.no_grad():
        if fault == "first batch":
            batches = batches[:1]
        if fault == "last batch left out":
            batches = batches[:-1]
        if fault == "twice the first":
            model(batches[0])
        if fault == "joined":
            batches = [torch.cat(list(batches))]
        for x in batches:
            model(x)
    if fault == "biased":
        N = len(batches[0])
        for m in norms:
            m.running_var *= (N - 1) / N
    if fault != "momenta left":
        for m, momentum in zip(norms, momenta, strict=False):
            m.momentum = momentum
    if fault == "left in evaluation":
        model.eval()
    elif fault == "left in training":
        model.train()
    else:
        for m, mode in modes:
            m.training = mode


variants(
    "recalibrate_statistics",
    recalibrate,
    "whole model awake",
    "first norm only",
    "not reset",
    "momentum 0.1",
    "momentum 0",
    "momentum 1",
    "momentum 1/K",
    "norms asleep",
    "first batch",
    "last batch left out",
    "twice the first",
    "joined",
    "biased",
    "momenta left",
    "left in evaluation",
    "left in training",
)


def output_layer(fault, a, W, b, labels):
    N, at = len(labels), np.arange(len(labels))
    z = W @ a + b
    if fault == "no bias":
        z = W @ a
    if fault == "overflow":
        e = np.exp(z)
    else:
        e = np.exp(z - z.max(0))
    p = e / e.sum(0)
    if fault == "softmax over samples":
        p = e / e.sum(1, keepdims=True)
    loss = -np.log(p[labels, at]).mean()
    match fault:
        case "sum loss":
            loss = -np.log(p[labels, at]).sum()
        case "no minus":
            loss = -loss
        case "log2":
            loss = loss / np.log(2)
        case "mean over classes too":
            loss = loss / len(W)
        case "all classes":
            loss = -np.log(p).mean()
        case "1e-8 in the log":
            loss = -np.log(p[labels, at] + 1e-8).mean()
    dz = p.copy()
    if fault != "1 not subtracted":
        dz[labels, at] -= 1
    if fault != "not divided by N":
        dz = dz / N
    if fault == "sign of dz":
        dz = -dz
    if fault == "softmax twice":
        dz = p * (dz - (dz * p).sum(0))
    da, dW, db = W.T @ dz, dz @ a.T, dz.sum(1, keepdims=True)
    match fault:
        case "db averaged":
            db = dz.mean(1, keepdims=True)
        case "db 0":
            db = np.zeros_like(b)
        case "db flat":
            db = dz.sum(1)
        case "db over classes":
            db = dz.sum(0, keepdims=True).T[: len(W)]
        case "dW transposed":
            dW = a @ dz.T
        case "da not transposed":
            da = (dz.T @ W).T * 2
    return loss, da, dW, db


variants(
    "output_layer",
    output_layer,
    "no bias",
    "overflow",
    "softmax over samples",
    "sum loss",
    "no minus",
    "log2",
    "mean over classes too",
    "all classes",
    "1 not subtracted",
    "not divided by N",
    "sign of dz",
    "softmax twice",
    "db averaged",
    "db 0",
    "db flat",
    "dW transposed",
)


def mended_fit(fault, model, x, y, x_test, y_test, lr, epochs, batch_size):
    optimizer = torch.optim.SGD(model.parameters(), lr)

    def train_epoch():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            if fault != "gradients pile up":
                optimizer.zero_grad()
            F.cross_entropy(model(xb), yb).backward()
            optimizer.step()

    def accuracy_on(inputs, labels):
        with torch.no_grad():
            return (model(inputs).argmax(1) == labels).double().mean().item()

    history = []
    if fault == "train() once":
        model.train()
    for _ in range(epochs - (fault == "one epoch too few")):
        if fault not in ("train() once", "never train()"):
            model.train()
        if fault == "always evaluation":
            model.eval()
        if fault == "measured before":
            model.eval()
            history.append((accuracy_on(x, y), accuracy_on(x_test, y_test)))
            model.train()
            train_epoch()
            continue
        train_epoch()
        if fault == "no eval()":
            history.append((accuracy_on(x, y), accuracy_on(x_test, y_test)))
            continue
        if fault == "training accuracy in training mode":
            seen = accuracy_on(x, y)
            model.eval()
            history.append((seen, accuracy_on(x_test, y_test)))
            continue
        model.eval()
        pair = accuracy_on(x, y), accuracy_on(x_test, y_test)
        if fault == "test in training mode":
            model.train()
            pair = pair[0], accuracy_on(x_test, y_test)
        if fault == "swapped":
            pair = pair[::-1]
        if fault == "percent":
            pair = 100 * pair[0], 100 * pair[1]
        if fault == "test twice":
            pair = pair[1], pair[1]
        history.append(pair)
    if fault == "last only":
        return history[-1:]
    if fault == "two lists":
        return list(zip(*history, strict=True))
    return history


variants(
    "mended_fit",
    mended_fit,
    "gradients pile up",
    "train() once",
    "never train()",
    "one epoch too few",
    "always evaluation",
    "measured before",
    "no eval()",
    "training accuracy in training mode",
    "test in training mode",
    "swapped",
    "percent",
    "test twice",
    "last only",
    "two lists",
)


def evaluate(fault, model, x, y, batch_size=1000):
    was = model.training
    if fault != "no eval()":
        model.eval()
    total, right, batches = 0.0, 0, 0
    last = None
    grad = torch.enable_grad() if fault == "graph" else torch.no_grad()
    with grad:
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(xb)
            last = logits, yb
            batches += 1
            if fault in ("mean of means", "divided by N"):
                total += F.cross_entropy(logits, yb).item()
                right += (logits.argmax(1) == yb).double().mean().item()
            else:
                total += F.cross_entropy(logits, yb, reduction="sum").item()
                right += (logits.argmax(1) == yb).sum().item()
            if fault == "first batch":
                break
    if fault == "left in evaluation":
        pass
    elif fault == "left in training":
        model.train()
    else:
        model.train(was)
    n = len(x)
    match fault:
        case "mean of means":
            return total / batches, right / batches
        case "sum":
            return total, right / n
        case "count":
            return total / n, right
        case "percent":
            return total / n, 100 * right / n
        case "error rate":
            return total / n, 1 - right / n
        case "swapped":
            return right / n, total / n
        case "last batch":
            logits, yb = last
            hits = (logits.argmax(1) == yb).double().mean().item()
            return F.cross_entropy(logits, yb).item(), hits
        case "by batch_size":
            return total / (batches * batch_size), right / (batches * batch_size)
        case "by batches":
            return total / batches, right / batches
        case "whole at once":
            with torch.no_grad():
                logits = copy.deepcopy(model).eval()(x)
            return (
                F.cross_entropy(logits, y).item(),
                (logits.argmax(1) == y).double().mean().item(),
            )
    return total / n, right / n


variants(
    "evaluate",
    evaluate,
    "no eval()",
    "mean of means",
    "divided by N",
    "first batch",
    "left in evaluation",
    "left in training",
    "sum",
    "count",
    "percent",
    "error rate",
    "swapped",
    "last batch",
    "by batch_size",
    "by batches",
    "whole at once",
)


class Net:
    """The whole network of exercise 6.3, with one fault."""

    fault = ""

    def __init__(self, params, reg=0.0):
        self.params, self.reg, self.eps = params, reg, 1e-5
        self.last = sum(name[0] == "W" for name in params)

    def loss(self, x, y):
        p, grads, kept, fault = self.params, {}, {}, self.fault
        for k in range(1, self.last):
            z = x @ p[f"W{k}"] + p[f"b{k}"]
            var = z.var(0, ddof=int(fault == "N − 1"))
            inv = 1 / np.sqrt(var + self.eps)
            if fault == "eps outside":
                inv = 1 / (np.sqrt(var) + self.eps)
            hat = (z - z.mean(0)) * inv
            kept[k] = x, hat, inv
            u = p[f"gamma{k}"] * hat + p[f"beta{k}"]
            x = u if fault == "no relu" else np.maximum(u, 0)
        s = x @ p[f"W{self.last}"] + p[f"b{self.last}"]
        s = s - s.max(1, keepdims=True)
        q = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        n = len(y)
        loss = -np.log(q[np.arange(n), y]).mean()
        if fault == "loss summed":
            loss = loss * n
        q[np.arange(n), y] -= 1
        d = q if fault == "not divided by N" else q / n
        for k in range(self.last, 0, -1):
            if k < self.last:
                d, (x_in, hat, inv) = (
                    (d if fault == "no relu slope" else d * (x > 0)),
                    kept[k],
                )
                grads[f"gamma{k}"], grads[f"beta{k}"] = (d * hat).sum(0), d.sum(0)
                if fault == "gamma's gradient averaged":
                    grads[f"gamma{k}"] = (d * hat).mean(0)
                if fault != "gamma left out":
                    d = d * p[f"gamma{k}"]
                if fault == "constants":
                    d = inv * d
                else:
                    d = inv * (d - d.mean(0) - hat * (d * hat).mean(0))
                x = x_in
            W = p[f"W{k}"]
            reg = self.reg * W
            if fault == "penalty not in the gradient":
                reg = 0
            if fault == "penalty twice in the gradient":
                reg = 2 * reg
            if fault == "penalty by N":
                reg = reg / n
            grads[f"W{k}"], grads[f"b{k}"] = x.T @ d + reg, d.sum(0)
            if fault == "penalty on b":
                grads[f"b{k}"] = d.sum(0) + self.reg * p[f"b{k}"]
            if fault == "b averaged":
                grads[f"b{k}"] = d.mean(0)
            half = 1 if fault == "no half" else 0.5
            if fault != "penalty not in the loss":
                loss += half * self.reg * (W**2).sum()
            d = d @ W.T
        return loss, grads


for label in (
    "N − 1",
    "eps outside",
    "no relu",
    "loss summed",
    "not divided by N",
    "no relu slope",
    "gamma's gradient averaged",
    "gamma left out",
    "constants",
    "penalty not in the gradient",
    "penalty twice in the gradient",
    "penalty by N",
    "penalty on b",
    "b averaged",
    "no half",
    "penalty not in the loss",
):
    add("fully_connected_net", label, type("Net", (Net,), {"fault": label}))


class Start:
    """The start, the running statistics and the scores of exercise 6.5, one fault."""

    fault = ""

    def __init__(self, dims, weight_scale, rng):
        self.params, self.running, self.last = {}, {}, len(dims) - 1
        self.eps, self.momentum = 1e-5, 0.1
        for k, (D, H) in enumerate(zip(dims, dims[1:], strict=False), start=1):
            self.params[f"W{k}"] = self.weights(D, H, weight_scale, rng)
            self.params[f"b{k}"] = np.zeros(H)
            if self.fault == "b drawn":
                self.params[f"b{k}"] = weight_scale * rng.normal(size=H)
            if k == self.last and self.fault != "gamma for the last layer":
                break
            self.params[f"gamma{k}"] = np.ones(H)
            self.params[f"beta{k}"] = np.zeros(H)
            self.running[f"running_mean{k}"] = np.zeros(H)
            self.running[f"running_var{k}"] = np.ones(H)
            self.spoil(k, H, rng)

    def weights(self, D, H, scale, rng):
        match self.fault:
            case "no scale":
                return rng.normal(size=(D, H))
            case "scale is a variance":
                return scale**0.5 * rng.normal(size=(D, H))
            case "by the root of D":
                return scale * rng.normal(size=(D, H)) / D**0.5
            case "uniform":
                return scale * rng.uniform(-1, 1, (D, H))
            case "drawn transposed":
                return scale * rng.normal(size=(H, D)).T
            case "another generator":
                return scale * np.random.default_rng(0).normal(size=(D, H))
            case "W is 0":
                return np.zeros((D, H))
        return scale * rng.normal(size=(D, H))

    def spoil(self, k, H, rng):
        p, running = self.params, self.running
        match self.fault:
            case "gamma 0":
                p[f"gamma{k}"] = np.zeros(H)
            case "gamma drawn":
                p[f"gamma{k}"] = rng.normal(size=H)
            case "beta 1":
                p[f"beta{k}"] = np.ones(H)
            case "gamma and beta swapped":
                p[f"gamma{k}"], p[f"beta{k}"] = p[f"beta{k}"], p[f"gamma{k}"]
            case "variance from 0":
                running[f"running_var{k}"] = np.zeros(H)
            case "mean from 1":
                running[f"running_mean{k}"] = np.ones(H)
            case "one array for all":
                if k > 1 and len(running["running_mean1"]) == H:
                    running[f"running_mean{k}"] = running["running_mean1"]

    def observe(self, x):
        fault, running = self.fault, self.running
        for k in range(1, self.last):
            z = self.affine(k, x)
            seen = {"of the input": x, "behind the ReLU": np.maximum(z, 0)}.get(
                fault, z
            )
            mean, var, N = z.mean(0), z.var(0), len(x)
            if fault == "one mean for all":
                mean, var = 0 * mean + z.mean(), 0 * var + z.var()
            new = [seen.mean(0), seen.var(0, ddof=int(fault != "N kept"))]
            if fault == "one mean for all":
                new = [mean, var * N / (N - 1)]
            if fault == "deviation kept":
                new[1] = new[1] ** 0.5
            if fault != "only the first" or k == 1:
                for name, value in zip(
                    ("running_mean", "running_var"), new, strict=True
                ):
                    old = running[f"{name}{k}"]
                    running[f"{name}{k}"] = self.blend(old, value)
            if fault == "running ones handed on":
                mean, var = running[f"running_mean{k}"], running[f"running_var{k}"]
            if fault == "N − 1 handed on":
                var = z.var(0, ddof=1)
            x = self.norm_relu(k, z, mean, var)
            if fault == "no norm on the way":
                x = np.maximum(z, 0)
            if fault == "no relu on the way":
                x = self.scaled(k, z, mean, var)

    def blend(self, old, new):
        m = self.momentum
        blends = {
            "momentum turned": m * old + (1 - m) * new,
            "not blended": new,
            "nothing forgotten": old + m * new,
            "halves": (old + new) / 2,
            "added up": old + new,
        }
        return blends.get(self.fault, (1 - m) * old + m * new)

    def scores(self, x):
        for k in range(1, self.last):
            z = self.affine(k, x)
            mean, var = (self.running[f"running_{n}{k}"] for n in ("mean", "var"))
            if self.fault == "batch statistics":
                mean, var = z.mean(0), z.var(0)
            x = self.norm_relu(k, z, mean, var)
            if self.fault == "no relu in scores":
                x = self.scaled(k, z, mean, var)
        z = self.affine(self.last, x)
        e = np.exp(z - z.max(1, keepdims=True))
        ends = {
            "classes": z.argmax(1),
            "probabilities": e / e.sum(1, keepdims=True),
            "ReLU on the scores": np.maximum(z, 0),
            "last bias left out": x @ self.params[f"W{self.last}"],
        }
        return ends.get(self.fault, z)

    def affine(self, k, x):
        return x @ self.params[f"W{k}"] + self.params[f"b{k}"]

    def scaled(self, k, z, mean, var):
        std = {
            "eps outside": var**0.5 + self.eps,
            "no eps": var**0.5,
            "divided by the variance": var + self.eps,
        }.get(self.fault, np.sqrt(var + self.eps))
        gamma, beta = self.params[f"gamma{k}"], self.params[f"beta{k}"]
        if self.fault == "gamma and beta left out":
            gamma, beta = 1, 0
        return gamma * (z - mean) / std + beta

    def norm_relu(self, k, z, mean, var):
        return np.maximum(self.scaled(k, z, mean, var), 0)


class ScoresObserve(Start):
    def scores(self, x):
        self.observe(x)
        return super().scores(x)


class NothingObserved(Start):
    def observe(self, x):
        return None


for label in (
    "b drawn",
    "gamma for the last layer",
    "no scale",
    "scale is a variance",
    "by the root of D",
    "uniform",
    "drawn transposed",
    "another generator",
    "W is 0",
    "gamma 0",
    "gamma drawn",
    "beta 1",
    "gamma and beta swapped",
    "variance from 0",
    "mean from 1",
    "one array for all",
    "one mean for all",
    "of the input",
    "behind the ReLU",
    "N kept",
    "deviation kept",
    "only the first",
    "running ones handed on",
    "N − 1 handed on",
    "no norm on the way",
    "no relu on the way",
    "momentum turned",
    "not blended",
    "nothing forgotten",
    "halves",
    "added up",
    "batch statistics",
    "no relu in scores",
    "classes",
    "probabilities",
    "ReLU on the scores",
    "last bias left out",
    "eps outside",
    "no eps",
    "divided by the variance",
    "gamma and beta left out",
):
    add("trainable_net", label, type("Start", (Start,), {"fault": label}))
add("trainable_net", "scores observe", ScoresObserve)
add("trainable_net", "nothing observed", NothingObserved)
