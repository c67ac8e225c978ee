"""Checks of lesson 10, normalization in Transformers."""

import numpy as np

from ..common import keeps_digits
from ..engine import Exercise, Property, difference, rejects
from ..forms import lesson_10 as forms

SEEN = "seen while this lesson was written"
ANSWERS = "answers to this exercise"
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


@MASKED.mistake("padding counted as zeros", S2, SEEN)
def padding_counted_as_zeros(x, mask, gamma, beta, eps=1e-5):
    """padding is set to 0 and counts as that in mean and variance"""
    filled = np.where(mask[..., None], x, 0)
    return _spread(x, mask, gamma, beta, filled.mean((0, 1)), filled.var((0, 1)), eps)


@MASKED.mistake("padding normalized", S2, SEEN)
def padding_normalized(x, mask, gamma, beta, eps=1e-5):
    """padding is normalized like a token, and is not 0 afterward"""
    _, mu, var = forms.masked_batchnorm(x, mask, gamma, beta, eps)
    return _spread(x, np.ones_like(mask), gamma, beta, mu, var, eps)


@MASKED.mistake("divided by N - 1", S2, SEEN)
def unbiased(x, mask, gamma, beta, eps=1e-5):
    """the variance divides by the number of tokens minus 1"""
    rows = x[mask]
    return _spread(x, mask, gamma, beta, rows.mean(0), rows.var(0, ddof=1), eps)


@MASKED.mistake("mask the wrong way round", S2, SEEN)
def mask_inverted(x, mask, gamma, beta, eps=1e-5):
    """the statistics are those of the padding, where mask is False"""
    rows = x[~mask]
    return _spread(x, mask, gamma, beta, rows.mean(0), rows.var(0), eps)


@MASKED.mistake("padding kept", S2, SEEN)
def padding_kept(x, mask, gamma, beta, eps=1e-5):
    """the statistics are those of the padding, and only padding is normalized"""
    return forms.masked_batchnorm(x, ~mask, gamma, beta, eps)


@MASKED.mistake("each token by itself", S2, SEEN)
def each_token(x, mask, gamma, beta, eps=1e-5):
    """y is a layer norm: each token has a mean and a variance of its own"""
    _, mu, var = forms.masked_batchnorm(x, mask, gamma, beta, eps)
    own = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return _spread(x, mask, gamma, beta, *own, eps)[0], mu, var


def _moments(x, mask, axes):
    """Mean and variance of the real tokens over these axes, which are kept."""
    kept = np.broadcast_to(mask[..., None], x.shape)
    n = np.maximum(kept.sum(axes, keepdims=True), 1)
    mu = np.where(kept, x, 0).sum(axes, keepdims=True) / n
    return mu, np.where(kept, (x - mu) ** 2, 0).sum(axes, keepdims=True) / n


def _over(x, mask, gamma, beta, eps, axes):
    """y with the statistics over these axes; mu and var as they should be."""
    _, mu, var = forms.masked_batchnorm(x, mask, gamma, beta, eps)
    own = _moments(x, mask, axes)
    return _spread(x, mask, gamma, beta, *own, eps)[0], mu, var


@MASKED.mistake("each position by itself", S2, SEEN)
def each_position(x, mask, gamma, beta, eps=1e-5):
    """in y, each position of the sequences has statistics of its own"""
    return _over(x, mask, gamma, beta, eps, (0,))


@MASKED.mistake("positions averaged", S2, ANSWERS)
def positions_averaged(x, mask, gamma, beta, eps=1e-5):
    """each position has statistics of its own, and mu and var are their means"""
    y, *_ = _over(x, mask, gamma, beta, eps, (0,))
    mu, var = _moments(x, mask, (0,))
    return y, mu.mean((0, 1)), var.mean((0, 1))


@MASKED.mistake("each sequence by itself", S2, ANSWERS)
def each_sequence(x, mask, gamma, beta, eps=1e-5):
    """in y, each sequence has statistics of its own, as in instance norm"""
    return _over(x, mask, gamma, beta, eps, (1,))


@MASKED.mistake("sequences averaged", S2, ANSWERS)
def sequences_averaged(x, mask, gamma, beta, eps=1e-5):
    """each sequence has statistics of its own, and mu and var are their means"""
    y, *_ = _over(x, mask, gamma, beta, eps, (1,))
    mu, var = _moments(x, mask, (1,))
    return y, mu.mean((0, 1)), var.mean((0, 1))


@MASKED.mistake("one mean for all features", S2, ANSWERS)
def one_for_all(x, mask, gamma, beta, eps=1e-5):
    """in y, all features share one mean and one variance"""
    return _over(x, mask, gamma, beta, eps, (0, 1, 2))


@MASKED.mistake("mean of the sequences' means", S2, SEEN)
def mean_of_means(x, mask, gamma, beta, eps=1e-5):
    """mu is the mean of the sequences' means, so that a short one counts as much as a
    long one"""
    mu = np.mean([seq[m].mean(0) for seq, m in zip(x, mask, strict=True) if m.any()], 0)
    return _spread(x, mask, gamma, beta, mu, ((x[mask] - mu) ** 2).mean(0), eps)


def _per_sequence(x, mask):
    return [seq[m] for seq, m in zip(x, mask, strict=True) if m.any()]


@MASKED.mistake("mean of the sequences' means and squares", S2, ANSWERS)
def means_of_means(x, mask, gamma, beta, eps=1e-5):
    """mu and var are means over sequences, so that a short one counts as much as a
    long one"""
    parts = _per_sequence(x, mask)
    mu = np.mean([part.mean(0) for part in parts], 0)
    var = np.mean([((part - mu) ** 2).mean(0) for part in parts], 0)
    return _spread(x, mask, gamma, beta, mu, var, eps)


@MASKED.mistake("mean of the sequences' variances", S2, ANSWERS)
def mean_of_variances(x, mask, gamma, beta, eps=1e-5):
    """mu and var are the means of the sequences' own means and variances, and the
    distances between those means are lost"""
    parts = _per_sequence(x, mask)
    mu, var = (np.mean([f(part) for part in parts], 0) for f in (_mean, _var))
    return _spread(x, mask, gamma, beta, mu, var, eps)


def _mean(rows):
    return rows.mean(0)


def _var(rows):
    return rows.var(0)


@MASKED.mistake("no affine", S2, ANSWERS)
def no_affine(x, mask, gamma, beta, eps=1e-5):
    """neither γ nor β is applied"""
    ones, zeros = np.ones_like(gamma), np.zeros_like(beta)
    return forms.masked_batchnorm(x, mask, ones, zeros, eps)


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


@BLOCK.mistake("no shortcut for pre", S3, ANSWERS)
def no_shortcut_for_pre(x, W1, W2, gamma, beta, place):
    """for pre, nothing carries the stream past the branch"""
    if place == "post":
        return forms.residual_block(x, W1, W2, gamma, beta, place)
    return _mlp(_layer_norm(x, gamma, beta), W1, W2)


@BLOCK.mistake("no shortcut before the norm", S3, SEEN)
def no_shortcut_for_post(x, W1, W2, gamma, beta, place):
    """for post, nothing carries the stream past the branch"""
    if place == "pre":
        return forms.residual_block(x, W1, W2, gamma, beta, place)
    return _layer_norm(_mlp(x, W1, W2), gamma, beta)


@BLOCK.mistake("two norms with pre", S3, SEEN)
def two_norms_for_pre(x, W1, W2, gamma, beta, place):
    """for pre, the sum is normalized as well"""
    if place == "post":
        return forms.residual_block(x, W1, W2, gamma, beta, place)
    return _layer_norm(x + _mlp(_layer_norm(x, gamma, beta), W1, W2), gamma, beta)


@BLOCK.mistake("two norms with post", S3, SEEN)
def two_norms_for_post(x, W1, W2, gamma, beta, place):
    """for post, the branch reads a normalized stream as well"""
    if place == "pre":
        return forms.residual_block(x, W1, W2, gamma, beta, place)
    return _layer_norm(x + _mlp(_layer_norm(x, gamma, beta), W1, W2), gamma, beta)


def _with_branch(branch, norm, x, place):
    return x + branch(norm(x)) if place == "pre" else norm(x + branch(x))


@BLOCK.mistake("shortcut twice with post", S3, ANSWERS)
def shortcut_twice(x, W1, W2, gamma, beta, place):
    """for post, the stream is added to the normalized sum once more"""
    block = forms.residual_block(x, W1, W2, gamma, beta, place)
    return block if place == "pre" else x + block


@BLOCK.mistake("mean over the tokens", S3, SEEN)
def mean_over_tokens(x, W1, W2, gamma, beta, place):
    """mean and variance run over the tokens, as in batch norm"""

    def norm(h):
        return gamma * (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) + beta

    return _with_branch(lambda h: _mlp(h, W1, W2), norm, x, place)


def _other_branch(branch):
    def block(x, W1, W2, gamma, beta, place):
        def norm(h):
            return _layer_norm(h, gamma, beta)

        return _with_branch(lambda h: branch(h, W1, W2), norm, x, place)

    return block


@BLOCK.mistake("ReLU behind the second layer", S3, SEEN)
def relu_behind(x, W1, W2, gamma, beta, place):
    """ReLU stands behind the second layer, not between the two"""
    block = _other_branch(lambda h, W1, W2: np.maximum(h @ W1 @ W2, 0))
    return block(x, W1, W2, gamma, beta, place)


@BLOCK.mistake("a second ReLU", S3, SEEN)
def relu_twice(x, W1, W2, gamma, beta, place):
    """a second ReLU stands behind the second layer"""
    block = _other_branch(lambda h, W1, W2: np.maximum(_mlp(h, W1, W2), 0))
    return block(x, W1, W2, gamma, beta, place)


@BLOCK.mistake("ReLU before the first layer", S3, SEEN)
def relu_before(x, W1, W2, gamma, beta, place):
    """ReLU stands before the first layer, not between the two"""
    block = _other_branch(lambda h, W1, W2: np.maximum(h, 0) @ W1 @ W2)
    return block(x, W1, W2, gamma, beta, place)


@BLOCK.mistake("no ReLU", S3, ANSWERS)
def no_relu(x, W1, W2, gamma, beta, place):
    """no ReLU stands between the two layers, so that the branch is linear"""
    block = _other_branch(lambda h, W1, W2: h @ W1 @ W2)
    return block(x, W1, W2, gamma, beta, place)


@BLOCK.mistake("an RMS norm", S3, ANSWERS)
def an_rms_norm(x, W1, W2, gamma, beta, place):
    """the norm is an RMS norm: no mean is subtracted"""

    def norm(h):
        return gamma * h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) + beta

    return _with_branch(lambda h: _mlp(h, W1, W2), norm, x, place)


@BLOCK.mistake("ReLU on the sum", S3, SEEN)
def relu_on_the_sum(x, W1, W2, gamma, beta, place):
    """the stream itself goes through ReLU at the end"""
    return np.maximum(forms.residual_block(x, W1, W2, gamma, beta, place), 0)


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


def _attend(logits, v):
    weights = _softmax(logits)
    return weights @ v, weights


@ATTENTION.mistake("plain attention", S7, SEEN)
def plain_attention(q, k, v, gain):
    """it is section 1's attention: no lengths, no gain"""
    return _attend(q @ k.T / np.sqrt(q.shape[-1]), v)


@ATTENTION.mistake("divided by the gain", S7, SEEN)
def divides_by_gain(q, k, v, gain):
    """the gain divides the logits"""
    return _attend(_unit(q) @ _unit(k).T / gain, v)


@ATTENTION.mistake("one length for all tokens", S7, SEEN)
def one_length(q, k, v, gain):
    """all queries are divided by one length, that of the array, and so are all keys"""
    return _attend(gain * (q @ k.T) / np.linalg.norm(q) / np.linalg.norm(k), v)


@ATTENTION.mistake("centered first", S7, SEEN)
def centered_first(q, k, v, gain):
    """each query and key has its mean subtracted before it gets its length"""
    q, k = (a - a.mean(-1, keepdims=True) for a in (q, k))
    return _attend(gain * _unit(q) @ _unit(k).T, v)


@ATTENTION.mistake("a layer norm", S7, SEEN)
def layer_norm_of_both(q, k, v, gain):
    """queries and keys get a layer norm, and their length is the root of d"""
    q, k = (_unit(a - a.mean(-1, keepdims=True)) for a in (q, k))
    return _attend(gain * q.shape[-1] * (q @ k.T), v)


@ATTENTION.mistake("a layer norm with eps", S7, ANSWERS)
def layer_norm_with_eps(q, k, v, gain):
    """queries and keys get a layer norm with an eps; their length is the root of d"""
    q, k = (
        (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5)
        for a in (q, k)
    )
    return _attend(gain * (q @ k.T), v)


@ATTENTION.mistake("an RMS of 1", S7, ANSWERS)
def rms_of_one(q, k, v, gain):
    """queries and keys get an RMS of 1, and their length is the root of d"""
    return _attend(gain * q.shape[-1] * (_unit(q) @ _unit(k).T), v)


def _added_to_lengths(added):
    def attention(q, k, v, gain):
        q, k = (a / (np.linalg.norm(a, axis=-1, keepdims=True) + added) for a in (q, k))
        return _attend(gain * (q @ k.T), v)

    attention.__doc__ = f"{added:g} is added to the lengths, which then count a little"
    return attention


def _added_to_squares(added):
    def attention(q, k, v, gain):
        q, k = (a / np.sqrt((a**2).sum(-1, keepdims=True) + added) for a in (q, k))
        return _attend(gain * (q @ k.T), v)

    attention.__doc__ = f"{added:g} is added to the sums of squares under the root"
    return attention


for added in (1e-3, 1e-4, 1e-5, 1e-6):
    note = ATTENTION.mistake(f"{added:g} added to the lengths", S7, ANSWERS)
    note(_added_to_lengths(added))
    note = ATTENTION.mistake(f"{added:g} added to the squares", S7, ANSWERS)
    note(_added_to_squares(added))


@ATTENTION.mistake("lengths of sums of magnitudes", S7, SEEN)
def sums_of_magnitudes(q, k, v, gain):
    """lengths are sums of magnitudes, not roots of sums of squares"""
    q, k = (a / np.abs(a).sum(-1, keepdims=True) for a in (q, k))
    return _attend(gain * (q @ k.T), v)


@ATTENTION.mistake("logits normalized", S7, SEEN)
def logits_normalized(q, k, v, gain):
    """each row of logits gets length 1, not the queries and keys"""
    return _attend(gain * _unit(q @ k.T), v)


@ATTENTION.mistake("gain behind the softmax", S7, SEEN)
def gain_behind_softmax(q, k, v, gain):
    """the gain multiplies the weights, which no longer sum to 1"""
    weights = gain * _softmax(_unit(q) @ _unit(k).T)
    return weights @ v, weights


@ATTENTION.mistake("gain on the outputs", S7, SEEN)
def gain_on_outputs(q, k, v, gain):
    """the gain multiplies what is collected, not the logits"""
    weights = _softmax(_unit(q) @ _unit(k).T)
    return gain * (weights @ v), weights


@ATTENTION.mistake("later tokens hidden", S7, ANSWERS)
def causal(q, k, v, gain):
    """a causal mask hides later tokens"""
    logits = gain * (_unit(q) @ _unit(k).T)
    later = np.triu(np.ones_like(logits), 1) > 0
    return _attend(np.where(later, -np.inf, logits), v)


@ATTENTION.mistake("weights transposed", S7, ANSWERS)
def weights_transposed(q, k, v, gain):
    """columns of the weights collect the values, not rows"""
    weights = forms.qk_norm_attention(q, k, v, gain)[1]
    return weights.T @ v, weights


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


def _with_shift(b, shift):
    return shift if b is None else b + shift


@FOLD.mistake("divided by gamma", S8, SEEN)
def divides_by_gamma(gamma, beta, W, b):
    """γ divides the weight, as if its effect were to be undone"""
    return W / gamma[:, None], _with_shift(b, beta @ W)


@FOLD.mistake("root of gamma", S8, ANSWERS)
def root_of_gamma(gamma, beta, W, b):
    """the root of γ scales the weight, as if γ were a variance"""
    return np.sqrt(np.abs(gamma))[:, None] * W, _with_shift(b, beta @ W)


@FOLD.mistake("gamma on the outputs", S8, SEEN)
def gamma_on_outputs(gamma, beta, W, b):
    """γ scales columns of W, which are outputs, not rows, which are features"""
    scale = np.resize(gamma, W.shape[1])
    return W * scale, _with_shift(b, beta @ W)


@FOLD.mistake("beta over gamma", S8, SEEN)
def beta_over_gamma(gamma, beta, W, b):
    """β is divided by γ before it passes through W"""
    return gamma[:, None] * W, _with_shift(b, (beta / gamma) @ W)


@FOLD.mistake("beta summed", S8, SEEN)
def beta_summed(gamma, beta, W, b):
    """the sum of β is added to each output, without passing through W"""
    return gamma[:, None] * W, _with_shift(b, np.full(W.shape[1], beta.sum()))


@FOLD.mistake("beta added to the weight", S8, SEEN)
def beta_in_the_weight(gamma, beta, W, b):
    """β is added to the weight, and the bias is left as it was"""
    zeros = np.zeros(W.shape[1])
    return gamma[:, None] * W + beta[:, None], zeros if b is None else b


@FOLD.mistake("bias scaled", S8, SEEN)
def bias_scaled(gamma, beta, W, b):
    """the new bias is scaled with the mean of γ"""
    return gamma[:, None] * W, _with_shift(b, beta @ W) * gamma.mean()


@FOLD.mistake("old bias scaled", S8, ANSWERS)
def old_bias_scaled(gamma, beta, W, b):
    """the old bias is scaled with the mean of γ"""
    return gamma[:, None] * W, beta @ W if b is None else gamma.mean() * b + beta @ W


@FOLD.mistake("old bias scaled entry by entry", S8, ANSWERS)
def old_bias_scaled_by_entries(gamma, beta, W, b):
    """the old bias is scaled with γ, as if outputs were features"""
    scale = np.resize(gamma, W.shape[1])
    return gamma[:, None] * W, beta @ W if b is None else scale * b + beta @ W


@FOLD.mistake("beta through a W divided by gamma", S8, SEEN)
def beta_through_divided(gamma, beta, W, b):
    """γ divides the weight, and β passes through the result"""
    W = W / gamma[:, None]
    return W, _with_shift(b, beta @ W)


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


@CENTER.mistake("weight standardized", S8, SEEN)
def weight_standardized(W, b):
    """rows of the weight are divided by their deviation as well"""
    W, b = forms.center_writer(W, b)
    return W / W.std(1, keepdims=True), b


@CENTER.mistake("bias standardized", S8, SEEN)
def bias_standardized(W, b):
    """the bias is divided by its deviation as well"""
    W, b = forms.center_writer(W, b)
    return W, b / b.std()


@CENTER.mistake("columns centered as well", S8, SEEN)
def both_axes(W, b):
    """the means over both axes are subtracted"""
    W, b = forms.center_writer(W, b)
    return W - W.mean(0), b


@CENTER.mistake("the weight's means for the bias", S8, SEEN)
def bias_minus_weight_mean(W, b):
    """the bias has the means of the weight's columns subtracted, not its own mean"""
    return W - W.mean(1, keepdims=True), b - W.mean(0)


@CENTER.mistake("one mean for the bias and the weight", S8, SEEN)
def bias_minus_mean_of_all(W, b):
    """the bias has the mean of all numbers subtracted, the weight's included"""
    return W - W.mean(1, keepdims=True), b - np.vstack([W, b]).mean()


@CENTER.mistake("the weight's mean for the bias", S8, SEEN)
def bias_minus_mean_of_weight(W, b):
    """the bias has the mean of the weight subtracted, not its own"""
    return W - W.mean(1, keepdims=True), b - W.mean()


@CENTER.mistake("median", S8, SEEN)
def median(W, b):
    """the median of each row is subtracted, not its mean"""
    return W - np.median(W, 1, keepdims=True), b - np.median(b)


@CENTER.mistake("rows of length 1", S8, SEEN)
def unit_rows(W, b):
    """rows of the weight are divided by their length as well"""
    W, b = forms.center_writer(W, b)
    return W / np.linalg.norm(W, axis=1, keepdims=True), b


@CENTER.mistake("a bias of length 1", S8, SEEN)
def unit_bias(W, b):
    """the bias is divided by its length as well"""
    W, b = forms.center_writer(W, b)
    return W, b / np.linalg.norm(b)


@CENTER.mistake("the weight's means taken from the bias", S8, ANSWERS)
def bias_pays_for_the_weight(W, b):
    """the bias loses the sum of the weight's means, besides its own mean"""
    W2, b = forms.center_writer(W, b)
    return W2, b - W.mean(1).sum()


@CENTER.mistake("the weight's means given to the bias", S8, ANSWERS)
def bias_gets_the_means(W, b):
    """what the weight's rows lose is added to the centered bias"""
    W2, b = forms.center_writer(W, b)
    return W2, b + W.mean(1).sum()


@CENTER.mistake("both means for the bias", S8, ANSWERS)
def bias_minus_both_means(W, b):
    """the bias has the mean of the weight subtracted, besides its own"""
    W2, b = forms.center_writer(W, b)
    return W2, b - W.mean()


@CENTER.mistake("divided by the mean", S8, ANSWERS)
def divided_by_the_mean(W, b):
    """rows are divided by their mean, which is not subtracted"""
    return W / W.mean(1, keepdims=True), b / b.mean()


@CENTER.mistake("columns centered together", S8, ANSWERS)
def columns_centered_together(W, b):
    """the mean runs over rows, with the bias as one more row"""
    mean = np.vstack([W, b]).mean(0)
    return W - mean, b - mean


@CENTER.mistake("the first entry subtracted", S8, ANSWERS)
def first_entry_subtracted(W, b):
    """the first entry of each row is subtracted, not its mean"""
    return W - W[:, :1], b - b[0]


@CENTER.mistake("the last entry makes up", S8, ANSWERS)
def last_entry_makes_up(W, b):
    """sums are 0 because the last entry makes up for the others, which stay"""
    W, b = W.copy(), b.copy()
    W[:, -1] -= W.sum(1)
    b[-1] -= b.sum()
    return W, b


EXERCISES = (MASKED, BLOCK, ATTENTION, FOLD, CENTER)
