"""Checks of lesson 10, normalization in Transformers."""

import numpy as np

from ..common import keeps_digits
from ..engine import Exercise, Property, difference, rejects
from ..forms import lesson_10 as forms

SEEN = "seen while this lesson was written"
S2 = "section 2, Give every token its own norm"
S3 = "section 3, Put the norm before or after"
S7 = "section 7, Keep attention from saturating"
S8 = "section 8, Fold a norm away"

# --- masked_batchnorm ----------------------------------------------------------------


def masked_cases(rng):
    def case(N, T, C, eps):
        x = rng.normal(rng.normal(0, 3, C), np.geomspace(0.3, 3, C), (N, T, C))
        mask = rng.random((N, T)) < 0.7
        mask[0] = True
        return x, mask, rng.uniform(0.5, 2, C), rng.normal(size=C), eps

    return [case(5, 6, 4, 1e-5), case(8, 3, 5, 0.1)]


def _spread(x, mask, gamma, beta, mu, var, eps):
    y = gamma * (x - mu) / np.sqrt(var + eps) + beta
    return np.where(mask[..., None], y, 0), mu, var


def _both(trial, *pair):
    """Name and the answer's own outputs for two arguments."""
    results = [trial.exercise.run(trial.student, args)[0] for args in pair]
    return zip(trial.exercise.outputs, zip(*results, strict=True), strict=True)


def _padding_does_not_matter(trial):
    x, mask, *rest = trial.cases[0]
    filled = np.where(mask[..., None], x, np.nan)
    trial.usable()
    for name, (g, w) in _both(trial, (filled, mask, *rest), (x, mask, *rest)):
        if name == "y" and not trial.right(0):  # padding fails above already
            g, w = g[mask], w[mask]
        if lines := difference(name, g, w):
            return ("with nan where there is no token", *lines)
    return ()


MASKED = Exercise(
    "masked_batchnorm",
    forms.masked_batchnorm,
    ("x", "mask", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    masked_cases,
    extra=(
        Property("does not look at padding", _padding_does_not_matter, 0.5),
        keeps_digits(),
    ),
    forms=(forms.masked_batchnorm, forms.masked_by_choice),
)


@MASKED.mistake("padding counted", S2, SEEN)
def padding_counted(x, mask, gamma, beta, eps=1e-5):
    """tokens that are not there count as well"""
    return _spread(x, mask, gamma, beta, x.mean((0, 1)), x.var((0, 1)), eps)


@MASKED.mistake("divided by all places", S2, SEEN)
def divided_by_all(x, mask, gamma, beta, eps=1e-5):
    """sums leave padding out and are divided by the number of all places"""
    kept = mask[..., None]
    count = mask.size
    mu = np.where(kept, x, 0).sum((0, 1)) / count
    var = np.where(kept, (x - mu) ** 2, 0).sum((0, 1)) / count
    return _spread(x, mask, gamma, beta, mu, var, eps)


@MASKED.mistake("padding in the variance", S2, SEEN)
def padding_in_the_variance(x, mask, gamma, beta, eps=1e-5):
    """padding counts in the variance, as a distance from the mean"""
    kept, count = mask[..., None], mask.sum()
    mu = np.where(kept, x, 0).sum((0, 1)) / count
    var = ((np.where(kept, x, 0) - mu) ** 2).sum((0, 1)) / count
    return _spread(x, mask, gamma, beta, mu, var, eps)


@MASKED.mistake("padding becomes beta", S2, SEEN)
def padding_becomes_beta(x, mask, gamma, beta, eps=1e-5):
    """β is added at padding, too"""
    y, mu, var = forms.masked_batchnorm(x, mask, gamma, beta, eps)
    return np.where(mask[..., None], y, beta), mu, var


# --- residual_block ------------------------------------------------------------------


def block_cases(rng):
    def case(T, C, H, place):
        x = rng.normal(1, np.geomspace(0.5, 3, C), (T, C))
        weights = rng.normal(size=(C, H)) / 2, rng.normal(size=(H, C)) / 2
        return x, *weights, rng.uniform(0.5, 2, C), rng.normal(size=C), place

    return [case(8, 5, 7, "pre"), case(9, 4, 6, "post")]


def _layer_norm(h, gamma, beta):
    centered = h - h.mean(-1, keepdims=True)
    var = (centered**2).mean(-1, keepdims=True)
    return gamma * centered / np.sqrt(var + 1e-5) + beta


def _mlp(h, W1, W2):
    return np.maximum(h @ W1, 0) @ W2


def _refuses(trial):
    *arrays, _ = trial.cases[0]
    return rejects(trial.student, (*arrays, "before"), 'place is "before"')


BLOCK = Exercise(
    "residual_block",
    forms.residual_block,
    ("x", "W1", "W2", "gamma", "beta", "place"),
    ("stream",),
    block_cases,
    extra=(Property("refuses another place", _refuses, 0.3),),
    forms=(forms.residual_block, forms.block_of_functions),
)


@BLOCK.mistake("pre and post exchanged", S3, SEEN)
def places_swapped(x, W1, W2, gamma, beta, place):
    """pre and post are exchanged"""
    other = {"pre": "post", "post": "pre"}[place]
    return forms.residual_block(x, W1, W2, gamma, beta, other)


@BLOCK.mistake("shortcut taken after the norm", S3, SEEN)
def skip_after_the_norm(x, W1, W2, gamma, beta, place):
    """for pre, the shortcut starts behind the norm"""
    if place == "post":
        return forms.residual_block(x, W1, W2, gamma, beta, place)
    h = _layer_norm(x, gamma, beta)
    return h + _mlp(h, W1, W2)


@BLOCK.mistake("norm on the branch only", S3, SEEN)
def norm_on_the_branch(x, W1, W2, gamma, beta, place):
    """for post, the branch is normalized and the sum is not"""
    if place == "pre":
        return forms.residual_block(x, W1, W2, gamma, beta, place)
    return x + _layer_norm(_mlp(x, W1, W2), gamma, beta)


@BLOCK.mistake("no shortcut", S3, SEEN)
def no_shortcut(x, W1, W2, gamma, beta, place):
    """nothing carries the stream past the branch"""
    if place == "pre":
        return _mlp(_layer_norm(x, gamma, beta), W1, W2)
    return _layer_norm(_mlp(x, W1, W2), gamma, beta)


# --- qk_norm_attention ---------------------------------------------------------------


def attention_cases(rng):
    def case(T, d, gain):
        q, k, v = rng.normal(0.3, 1, (3, T, d)) * rng.uniform(0.5, 3, (3, T, 1))
        return q, k, v, gain

    return [case(7, 4, 3.0), case(5, 6, 8.0)]


def _softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _unit(a, axis=-1):
    return a / np.linalg.norm(a, axis=axis, keepdims=True)


def _survives_large_numbers(trial):
    q, k, v, _ = trial.cases[0]
    got, want = trial.run((1e3 * q, 1e-3 * k, v, 2000.0))
    lines = difference("weights", got[1], want[1])
    return lines and ("with a gain of 2000", *lines)


ATTENTION = Exercise(
    "qk_norm_attention",
    forms.qk_norm_attention,
    ("q", "k", "v", "gain"),
    ("y", "weights"),
    attention_cases,
    extra=(Property("survives large numbers", _survives_large_numbers, 0.5),),
    forms=(forms.qk_norm_attention,),
)


@ATTENTION.mistake("still divided by the root of d", S7, SEEN)
def still_divides(q, k, v, gain):
    """logits are divided by the root of d, too"""
    weights = _softmax(gain * _unit(q) @ _unit(k).T / np.sqrt(q.shape[-1]))
    return weights @ v, weights


@ATTENTION.mistake("keys not normalized", S7, SEEN)
def queries_only(q, k, v, gain):
    """queries have length 1 and keys do not"""
    weights = _softmax(gain * _unit(q) @ k.T)
    return weights @ v, weights


@ATTENTION.mistake("normalized over tokens", S7, SEEN)
def over_tokens(q, k, v, gain):
    """lengths are taken over the tokens"""
    weights = _softmax(gain * _unit(q, 0) @ _unit(k, 0).T)
    return weights @ v, weights


@ATTENTION.mistake("softmax over the queries", S7, SEEN)
def softmax_over_queries(q, k, v, gain):
    """weights sum to 1 over the queries"""
    weights = _softmax((gain * _unit(q) @ _unit(k).T).T).T
    return weights @ v, weights


@ATTENTION.mistake("values normalized", S7, SEEN)
def values_normalized(q, k, v, gain):
    """values are normalized as well"""
    weights = forms.qk_norm_attention(q, k, v, gain)[1]
    return weights @ _unit(v), weights


# --- fold_layernorm ------------------------------------------------------------------


def fold_cases(rng):
    def case(C, H, with_bias):
        affine = rng.uniform(0.5, 2, C), rng.normal(size=C)
        bias = rng.normal(size=H) if with_bias else None
        return *affine, rng.normal(size=(C, H)), bias

    return [case(6, 4, True), case(5, 5, False)]


FOLD = Exercise(
    "fold_layernorm",
    forms.fold_layernorm,
    ("gamma", "beta", "W", "b"),
    ("W", "b"),
    fold_cases,
    forms=(forms.fold_layernorm,),
)


@FOLD.mistake("gamma twice", S8, SEEN)
def weight_first(gamma, beta, W, b):
    """β passes through a W that already holds γ"""
    W = gamma[:, None] * W
    return W, beta @ W if b is None else b + beta @ W


@FOLD.mistake("beta lost", S8, SEEN)
def beta_lost(gamma, beta, W, b):
    """what β adds is left out"""
    return gamma[:, None] * W, 0 * (beta @ W) if b is None else b


@FOLD.mistake("no shift without a bias", S8, SEEN)
def no_bias_no_shift(gamma, beta, W, b):
    """a layer without a bias gets nothing of β"""
    folded, shift = forms.fold_layernorm(gamma, beta, W, b)
    return folded, 0 * shift if b is None else shift


@FOLD.mistake("old bias lost", S8, SEEN)
def old_bias_lost(gamma, beta, W, b):
    """the old bias is dropped"""
    return gamma[:, None] * W, beta @ W


# --- center_writer -------------------------------------------------------------------


def center_cases(rng):
    return [
        (rng.normal(1, 1, (5, 7)), rng.normal(1, 1, 7)),
        (rng.normal(1, 1, (6, 6)), rng.normal(1, 1, 6)),
    ]


CENTER = Exercise(
    "center_writer",
    forms.center_writer,
    ("W", "b"),
    ("W", "b"),
    center_cases,
    forms=(forms.center_writer,),
)


@CENTER.mistake("mean over the wrong axis", S8, SEEN)
def wrong_axis(W, b):
    """the mean runs over what the layer reads"""
    return W - W.mean(0, keepdims=True), b - b.mean()


@CENTER.mistake("one mean for all", S8, SEEN)
def one_mean(W, b):
    """one mean is subtracted from the whole weight"""
    return W - W.mean(), b - b.mean()


@CENTER.mistake("bias not centered", S8, SEEN)
def bias_not_centered(W, b):
    """the bias is not centered"""
    return W - W.mean(1, keepdims=True), b


EXERCISES = (MASKED, BLOCK, ATTENTION, FOLD, CENTER)
