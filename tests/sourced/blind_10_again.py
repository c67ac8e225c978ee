"""A second set of wrong answers, each with what its writer thought."""

import numpy as np
from torch import nn

ANSWERS = {}


def wrong(exercise, what):
    def keep(f):
        f.__name__ = what
        ANSWERS.setdefault(exercise, []).append(f)
        return f

    return keep


# masked_batchnorm

E = "masked_batchnorm"


@wrong(E, "layer norm of the real tokens (mean over C), mask at the end")
def _(x, mask, gamma, beta, eps=1e-5):
    mu = x.mean(-1, keepdims=True)
    var = x.var(-1, keepdims=True)
    y = gamma * (x - mu) / np.sqrt(var + eps) + beta
    rows = x[mask]
    return np.where(mask[..., None], y, 0.0), rows.mean(0), rows.var(0)


@wrong(E, "statistics per sample (instance norm over its tokens)")
def _(x, mask, gamma, beta, eps=1e-5):
    y = np.zeros_like(x)
    for n in range(len(x)):
        rows = x[n][mask[n]]
        y[n][mask[n]] = (
            gamma * (rows - rows.mean(0)) / np.sqrt(rows.var(0) + eps) + beta
        )
    rows = x[mask]
    return y, rows.mean(0), rows.var(0)


@wrong(E, "mean of the means of the samples")
def _(x, mask, gamma, beta, eps=1e-5):
    x = np.where(mask[..., None], x, 0)
    n = mask.sum(1)[:, None]
    mu = (x.sum(1) / n).mean(0)
    var = (np.where(mask[..., None], (x - mu) ** 2, 0).sum(1) / n).mean(0)
    y = gamma * (x - mu) / np.sqrt(var + eps) + beta
    return np.where(mask[..., None], y, 0), mu, var


@wrong(E, "unbiased variance, n - 1")
def _(x, mask, gamma, beta, eps=1e-5):
    rows = x[mask]
    mu, var = rows.mean(0), rows.var(0, ddof=1)
    y = np.zeros(x.shape)
    y[mask] = (rows - mu) / np.sqrt(var + eps) * gamma + beta
    return y, mu, var


@wrong(E, "mask the wrong way round (True is padding, as in torch's key_padding_mask)")
def _(x, mask, gamma, beta, eps=1e-5):
    keep = ~mask
    rows = x[keep]
    mu, var = rows.mean(0), rows.var(0)
    y = np.zeros(x.shape)
    y[keep] = (rows - mu) / np.sqrt(var + eps) * gamma + beta
    return y, mu, var


@wrong(E, "zeroes the padding in the input and then takes mean and variance of all")
def _(x, mask, gamma, beta, eps=1e-5):
    x = np.where(mask[:, :, None], x, 0.0)
    mu = np.mean(x, axis=(0, 1))
    var = np.var(x, axis=(0, 1))
    y = gamma * (x - mu) / np.sqrt(var + eps) + beta
    return y * mask[:, :, None], mu, var


@wrong(E, "mean right; variance around it of the zeroed x, over n")
def _(x, mask, gamma, beta, eps=1e-5):
    m = mask[..., None]
    x = np.where(m, x, 0)
    n = mask.sum()
    mu = x.sum((0, 1)) / n
    var = ((x - mu) ** 2).sum((0, 1)) / n
    y = np.where(m, gamma * (x - mu) / np.sqrt(var + eps) + beta, 0)
    return y, mu, var


@wrong(E, "one mean for everything (over C too)")
def _(x, mask, gamma, beta, eps=1e-5):
    rows = x[mask]
    mu, var = rows.mean(), rows.var()
    y = np.zeros(x.shape)
    y[mask] = gamma * (rows - mu) / np.sqrt(var + eps) + beta
    C = x.shape[-1]
    return y, np.full(C, mu), np.full(C, var)


@wrong(E, "statistics per position, over N only")
def _(x, mask, gamma, beta, eps=1e-5):
    m = mask[..., None]
    n = np.maximum(m.sum(0), 1)
    x0 = np.where(m, x, 0)
    mu = x0.sum(0) / n
    var = (np.where(m, (x0 - mu) ** 2, 0)).sum(0) / n
    y = np.where(m, gamma * (x0 - mu) / np.sqrt(var + eps) + beta, 0)
    rows = x[mask]
    return y, rows.mean(0), rows.var(0)


@wrong(E, "returns std for var, and adds eps to it")
def _(x, mask, gamma, beta, eps=1e-5):
    rows = x[mask]
    mu = rows.mean(0)
    std = rows.std(0)
    y = np.zeros(x.shape)
    y[mask] = gamma * (rows - mu) / (std + eps) + beta
    return y, mu, std


@wrong(E, "multiplies by the mask, so nan at padding stays nan")
def _(x, mask, gamma, beta, eps=1e-5):
    m = mask[..., None].astype(float)
    n = m.sum()
    mu = (x * m).sum((0, 1)) / n
    var = ((x - mu) ** 2 * m).sum((0, 1)) / n
    return (gamma * (x - mu) / np.sqrt(var + eps) + beta) * m, mu, var


# residual_block

E = "residual_block"


def _ln(h, gamma, beta, eps=1e-5, axis=-1):
    mu = h.mean(axis, keepdims=True)
    var = h.var(axis, keepdims=True)
    return gamma * (h - mu) / np.sqrt(var + eps) + beta


@wrong(E, "pre: the shortcut carries the normalized stream")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        x = _ln(x, gamma, beta)
        return x + np.maximum(x @ W1, 0) @ W2
    if place == "post":
        return _ln(x + np.maximum(x @ W1, 0) @ W2, gamma, beta)
    raise ValueError(place)


@wrong(E, "post: norm on the branch's output only")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return x + np.maximum(_ln(x, gamma, beta) @ W1, 0) @ W2
    if place == "post":
        return x + _ln(np.maximum(x @ W1, 0) @ W2, gamma, beta)
    raise ValueError(place)


@wrong(E, "no shortcut at all")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return np.maximum(_ln(x, gamma, beta) @ W1, 0) @ W2
    if place == "post":
        return _ln(np.maximum(x @ W1, 0) @ W2, gamma, beta)
    raise ValueError(place)


@wrong(E, "batch norm: mean over the tokens")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return x + np.maximum(_ln(x, gamma, beta, axis=0) @ W1, 0) @ W2
    if place == "post":
        return _ln(x + np.maximum(x @ W1, 0) @ W2, gamma, beta, axis=0)
    raise ValueError(place)


@wrong(E, "else: means post, no ValueError")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return x + np.maximum(_ln(x, gamma, beta) @ W1, 0) @ W2
    else:
        return _ln(x + np.maximum(x @ W1, 0) @ W2, gamma, beta)


@wrong(E, "returns x unchanged for an unknown place")
def _(x, W1, W2, gamma, beta, place):
    out = x
    if place == "pre":
        out = x + np.maximum(_ln(x, gamma, beta) @ W1, 0) @ W2
    elif place == "post":
        out = _ln(x + np.maximum(x @ W1, 0) @ W2, gamma, beta)
    return out


@wrong(E, "ReLU after W2 as well")
def _(x, W1, W2, gamma, beta, place):
    def mlp(h):
        h = np.maximum(h @ W1, 0)
        return np.maximum(h @ W2, 0)

    if place == "pre":
        return x + mlp(_ln(x, gamma, beta))
    if place == "post":
        return _ln(x + mlp(x), gamma, beta)
    raise ValueError(place)


@wrong(E, "ReLU forgotten")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return x + _ln(x, gamma, beta) @ W1 @ W2
    if place == "post":
        return _ln(x + x @ W1 @ W2, gamma, beta)
    raise ValueError(place)


@wrong(E, "RMS norm in place of layer norm")
def _(x, W1, W2, gamma, beta, place):
    def norm(h):
        return gamma * h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) + beta

    if place == "pre":
        return x + np.maximum(norm(x) @ W1, 0) @ W2
    if place == "post":
        return norm(x + np.maximum(x @ W1, 0) @ W2)
    raise ValueError(place)


@wrong(E, "pre and post exchanged")
def _(x, W1, W2, gamma, beta, place):
    if place == "post":
        return x + np.maximum(_ln(x, gamma, beta) @ W1, 0) @ W2
    if place == "pre":
        return _ln(x + np.maximum(x @ W1, 0) @ W2, gamma, beta)
    raise ValueError(place)


@wrong(E, "pre with a norm at the end as well (both)")
def _(x, W1, W2, gamma, beta, place):
    if place not in ("pre", "post"):
        raise ValueError(place)
    h = _ln(x, gamma, beta) if place == "pre" else x
    return _ln(x + np.maximum(h @ W1, 0) @ W2, gamma, beta)


@wrong(E, "adds in place: x += ...")
def _(x, W1, W2, gamma, beta, place):
    if place == "pre":
        x += np.maximum(_ln(x, gamma, beta) @ W1, 0) @ W2
        return x
    if place == "post":
        x += np.maximum(x @ W1, 0) @ W2
        return _ln(x, gamma, beta)
    raise ValueError(place)


# qk_norm_attention

E = "qk_norm_attention"


def _softmax(z, axis=-1):
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _unit(a, axis=-1):
    return a / np.linalg.norm(a, axis=axis, keepdims=True)


@wrong(E, "still divides by sqrt(d)")
def _(q, k, v, gain):
    w = _softmax(gain * _unit(q) @ _unit(k).T / np.sqrt(q.shape[-1]))
    return w @ v, w


@wrong(E, "normalizes the columns")
def _(q, k, v, gain):
    w = _softmax(gain * _unit(q, 0) @ _unit(k, 0).T)
    return w @ v, w


@wrong(E, "normalizes by the norm of the whole matrix")
def _(q, k, v, gain):
    w = _softmax(gain * (q / np.linalg.norm(q)) @ (k / np.linalg.norm(k)).T)
    return w @ v, w


@wrong(E, "normalizes the values too")
def _(q, k, v, gain):
    w = _softmax(gain * _unit(q) @ _unit(k).T)
    return w @ _unit(v), w


@wrong(E, "softmax over the queries (columns sum to 1)")
def _(q, k, v, gain):
    w = _softmax(gain * _unit(q) @ _unit(k).T, axis=0)
    return w @ v, w


@wrong(E, "gain applied after the softmax")
def _(q, k, v, gain):
    w = gain * _softmax(_unit(q) @ _unit(k).T)
    return w @ v, w


@wrong(E, "gain divides, as a temperature")
def _(q, k, v, gain):
    w = _softmax(_unit(q) @ _unit(k).T / gain)
    return w @ v, w


@wrong(E, "gain on both: squared")
def _(q, k, v, gain):
    q, k = gain * _unit(q), gain * _unit(k)
    w = _softmax(q @ k.T)
    return w @ v, w


@wrong(E, "layer norm of q and k")
def _(q, k, v, gain):
    def ln(a):
        return (a - a.mean(-1, keepdims=True)) / np.sqrt(
            a.var(-1, keepdims=True) + 1e-5
        )

    w = _softmax(gain * ln(q) @ ln(k).T)
    return w @ v, w


@wrong(E, "only the queries are normalized")
def _(q, k, v, gain):
    w = _softmax(gain * _unit(q) @ k.T)
    return w @ v, w


@wrong(E, "L1 length")
def _(q, k, v, gain):
    q = q / np.abs(q).sum(-1, keepdims=True)
    k = k / np.abs(k).sum(-1, keepdims=True)
    w = _softmax(gain * q @ k.T)
    return w @ v, w


@wrong(E, "plain exponential: overflows")
def _(q, k, v, gain):
    e = np.exp(gain * _unit(q) @ _unit(k).T)
    w = e / e.sum(1, keepdims=True)
    return w @ v, w


@wrong(E, "k q^T: transposed logits")
def _(q, k, v, gain):
    w = _softmax(gain * _unit(k) @ _unit(q).T)
    return w @ v, w


@wrong(E, "epsilon in the length, 1e-3")
def _(q, k, v, gain):
    q = q / (np.linalg.norm(q, axis=-1, keepdims=True) + 1e-3)
    k = k / (np.linalg.norm(k, axis=-1, keepdims=True) + 1e-3)
    w = _softmax(gain * q @ k.T)
    return w @ v, w


# fold_layernorm

E = "fold_layernorm"


@wrong(E, "gamma scales the outputs (columns): broadcasting without the axis")
def _(gamma, beta, W, b):
    b = 0 if b is None else b
    return np.diag(gamma) @ W, b + beta @ (np.diag(gamma) @ W)


@wrong(E, "gamma along axis 1 where it fits, a repeat otherwise")
def _(gamma, beta, W, b):
    g = np.resize(gamma, W.shape[1])
    b = np.zeros(W.shape[1]) if b is None else b
    return W * g, b + beta @ W


@wrong(E, "no bias: returns None")
def _(gamma, beta, W, b):
    return gamma[:, None] * W, None if b is None else b + beta @ W


@wrong(E, "no bias: zeros")
def _(gamma, beta, W, b):
    if b is None:
        return gamma[:, None] * W, np.zeros(W.shape[1])
    return gamma[:, None] * W, beta @ W + b


@wrong(E, "the bias is scaled as in batch norm folding (by the mean of gamma)")
def _(gamma, beta, W, b):
    b = np.zeros(W.shape[1]) if b is None else b
    return gamma[:, None] * W, gamma.mean() * b + beta @ W


@wrong(E, "beta minus")
def _(gamma, beta, W, b):
    b = np.zeros(W.shape[1]) if b is None else b
    return gamma[:, None] * W, b - beta @ W


@wrong(E, "divides by gamma")
def _(gamma, beta, W, b):
    b = np.zeros(W.shape[1]) if b is None else b
    return W / gamma[:, None], b + beta @ W


@wrong(E, "adds beta to W's rows")
def _(gamma, beta, W, b):
    b = np.zeros(W.shape[1]) if b is None else b
    return gamma[:, None] * W + beta[:, None], b


@wrong(E, "beta forgotten")
def _(gamma, beta, W, b):
    return gamma[:, None] * W, np.zeros(W.shape[1]) if b is None else b


@wrong(E, "the sum of beta on each bias")
def _(gamma, beta, W, b):
    b = np.zeros(W.shape[1]) if b is None else b
    return gamma[:, None] * W, b + beta.sum()


@wrong(E, "in place: W *= gamma, b += beta W with the old W kept")
def _(gamma, beta, W, b):
    shift = beta @ W
    W *= gamma[:, None]
    if b is None:
        return W, shift
    b += shift
    return W, b


@wrong(E, "(1 + gamma), as in Gemma")
def _(gamma, beta, W, b):
    b = np.zeros(W.shape[1]) if b is None else b
    return (1 + gamma)[:, None] * W, b + beta @ W


# center_writer

E = "center_writer"


@wrong(E, "mean over the rows (axis 0)")
def _(W, b):
    return W - W.mean(0), b - b.mean()


@wrong(E, "mean of the whole matrix")
def _(W, b):
    return W - W.mean(), b - b.mean()


@wrong(E, "bias left alone")
def _(W, b):
    return W - W.mean(1, keepdims=True), b


@wrong(E, "bias to zero")
def _(W, b):
    return W - W.mean(1, keepdims=True), np.zeros_like(b)


@wrong(E, "standardizes, dividing by the deviation as well (weight standardization)")
def _(W, b):
    W = (W - W.mean(1, keepdims=True)) / W.std(1, keepdims=True)
    return W, b - b.mean()


@wrong(E, "puts the mean of W into the bias")
def _(W, b):
    mean = W.mean(1, keepdims=True)
    return W - mean, b - b.mean() - mean.sum()


@wrong(E, "b minus the mean of W per column")
def _(W, b):
    return W - W.mean(1, keepdims=True), b - W.mean(0)


@wrong(E, "projects on the wrong side (I - 11'/H) W")
def _(W, b):
    H = len(W)
    P = np.eye(H) - np.ones((H, H)) / H
    return P @ W, b - b.mean()


@wrong(E, "W right, bias minus mean of everything")
def _(W, b):
    return W - W.mean(1, keepdims=True), b - (W.mean() + b.mean())


@wrong(E, "sum in place of the mean")
def _(W, b):
    return W - W.sum(1, keepdims=True), b - b.sum()


@wrong(E, "in place")
def _(W, b):
    W -= W.mean(1, keepdims=True)
    b -= b.mean()
    return W, b


@wrong(E, "drops the last column's freedom: last entry set so that rows sum to 0")
def _(W, b):
    W, b = W.copy(), b.copy()
    W[:, -1] -= W.sum(1)
    b[-1] -= b.sum()
    return W, b


@wrong(E, "median in place of mean")
def _(W, b):
    return W - np.median(W, axis=1, keepdims=True), b - np.median(b)


# decay_groups

E = "decay_groups"


@wrong(E, "by name: 'weight' decays (gamma too)")
def _(model, weight_decay):
    yes = [p for n, p in model.named_parameters() if n.endswith("weight")]
    no = [p for n, p in model.named_parameters() if not n.endswith("weight")]
    return [
        {"params": yes, "weight_decay": weight_decay},
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "by name: 'bn' or 'norm' in the name")
def _(model, weight_decay):
    yes, no = [], []
    for n, p in model.named_parameters():
        (no if "bn" in n or "norm" in n or "bias" in n else yes).append(p)
    return [
        {"params": yes, "weight_decay": weight_decay},
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "top-level children only")
def _(model, weight_decay):
    yes, no = [], []
    for m in model.children():
        for p in m.parameters(recurse=False):
            (yes if p.ndim > 1 else no).append(p)
    return [
        {"params": yes, "weight_decay": weight_decay},
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "the second group is left out: not trained")
def _(model, weight_decay):
    return [
        {
            "params": [p for p in model.parameters() if p.ndim > 1],
            "weight_decay": weight_decay,
        }
    ]


@wrong(E, "isinstance Linear only; convolutions undecayed")
def _(model, weight_decay):
    yes = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    ids = {id(p) for p in yes}
    return [
        {"params": yes, "weight_decay": weight_decay},
        {
            "params": [p for p in model.parameters() if id(p) not in ids],
            "weight_decay": 0.0,
        },
    ]


@wrong(E, "all parameters of linear and conv layers, biases included")
def _(model, weight_decay):
    yes, no = [], []
    for m in model.modules():
        for p in m.parameters(recurse=False):
            (
                yes
                if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
                else no
            ).append(p)
    return [
        {"params": yes, "weight_decay": weight_decay},
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "groups swapped")
def _(model, weight_decay):
    return [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.0},
        {
            "params": [p for p in model.parameters() if p.ndim <= 1],
            "weight_decay": weight_decay,
        },
    ]


@wrong(E, "batch norm only excluded; layer and group norms decayed, biases too")
def _(model, weight_decay):
    no = [
        p
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
        for p in m.parameters()
    ]
    ids = {id(p) for p in no}
    return [
        {
            "params": [p for p in model.parameters() if id(p) not in ids],
            "weight_decay": weight_decay,
        },
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "a generator, used up; recursing modules give a parameter twice")
def _(model, weight_decay):
    yes, no = [], []
    for m in model.modules():
        for p in m.parameters():
            (yes if p.ndim > 1 else no).append(p)
    return [
        {"params": yes, "weight_decay": weight_decay},
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "gives copies of the tensors (p.data)")
def _(model, weight_decay):
    yes = [p.data.clone() for p in model.parameters() if p.ndim > 1]
    no = [p.data.clone() for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": yes, "weight_decay": weight_decay},
        {"params": no, "weight_decay": 0.0},
    ]


@wrong(E, "freezes gamma and beta instead")
def _(model, weight_decay):
    for p in model.parameters():
        if p.ndim <= 1:
            p.requires_grad = False
    return [
        {
            "params": [p for p in model.parameters() if p.requires_grad],
            "weight_decay": weight_decay,
        },
        {
            "params": [p for p in model.parameters() if not p.requires_grad],
            "weight_decay": 0.0,
        },
    ]


@wrong(E, "ndim >= 3: convolutions only... 'weights that mix' read as kernels")
def _(model, weight_decay):
    return [
        {
            "params": [p for p in model.parameters() if p.ndim > 2],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim <= 2], "weight_decay": 0.0},
    ]


@wrong(E, "a dict of lists in place of groups")
def _(model, weight_decay):
    return {
        "decay": [p for p in model.parameters() if p.ndim > 1],
        "no_decay": [p for p in model.parameters() if p.ndim <= 1],
    }


@wrong(E, "a fixed 0.01 whatever is asked")
def _(model, weight_decay=0.01):
    weight_decay = 0.01
    return [
        {
            "params": [p for p in model.parameters() if p.ndim > 1],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]


# freeze_batchnorm

E = "freeze_batchnorm"
BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d


@wrong(E, "eval once; no class: train() wakes them")
def _(model):
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.eval()
            m.requires_grad_(False)
    return model


@wrong(E, "requires_grad only")
def _(model):
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.requires_grad_(False)
    return model


@wrong(E, "children only, one level")
def _(model):
    for m in model.children():
        if isinstance(m, BATCH_NORMS):
            m.eval().requires_grad_(False)
            m.train = lambda mode=True, m=m: m
    return model


@wrong(E, "the whole model's parameters are frozen")
def _(model):
    for p in model.parameters():
        p.requires_grad = False
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.eval()
            m.train = lambda mode=True, m=m: m
    return model


@wrong(E, "train returns None")
def _(model):
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.eval().requires_grad_(False)
            m.train = lambda mode=True: None
    return model


@wrong(E, "BatchNorm1d forgotten")
def _(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval().requires_grad_(False)
            m.train = lambda mode=True, m=m: m
    return model


@wrong(E, "gamma and beta still trained")
def _(model):
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.eval()
            m.train = lambda mode=True, m=m: m
    return model


@wrong(E, "the model itself can't train any more: model.train replaced")
def _(model):
    model.eval()
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.requires_grad_(False)
    model.train = lambda mode=True: model
    return model


@wrong(E, "momentum 0, stays in training mode: batch statistics used")
def _(model):
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.momentum = 0.0
            m.requires_grad_(False)
    return model


@wrong(E, "changes the class but leaves it in training mode")
def _(model):
    class Frozen(nn.Module):
        forward = nn.BatchNorm1d.forward
        reset_running_stats = nn.BatchNorm1d.reset_running_stats
        _check_input_dim = train = lambda self, *_: self

    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.__class__ = Frozen
            m.requires_grad_(False)
    return model


@wrong(E, "freezes all norms and dropout (everything in eval)")
def _(model):
    for m in model.modules():
        if not isinstance(m, (nn.Linear, nn.Conv2d, nn.Sequential)) and m is not model:
            m.eval().requires_grad_(False)
            m.train = lambda mode=True, m=m: m
    return model


@wrong(E, "replaces the layers by Identity")
def _(model):
    for m in list(model.modules()):
        for name, child in m.named_children():
            if isinstance(child, BATCH_NORMS):
                setattr(m, name, nn.Identity())
    return model


@wrong(E, "the running statistics are reset")
def _(model):
    for m in model.modules():
        if isinstance(m, BATCH_NORMS):
            m.reset_running_stats()
            m.eval().requires_grad_(False)
            m.train = lambda mode=True, m=m: m
    return model
