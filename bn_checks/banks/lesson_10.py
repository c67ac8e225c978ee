"""Checks of lesson 10, normalization in Transformers."""

import numpy as np

from ..changes import changed
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


MASKED.mistakes += changed(
    forms.masked_by_choice,
    S2,
    """
    padding counted: tokens that are not there count as well
        rows = np.where(kept, x, 0) -> rows = x
        centered = np.where(kept, x - mu, 0) -> centered = x - mu
        mask.sum() -> mask.size
        seen in pytorch #70529; tensorflow #30161
    divided by all places: sums leave padding out and are divided by the number of all
    places
        mask.sum() -> mask.size
    padding in the variance: padding counts in the variance, as a distance from the mean
        np.where(kept, x - mu, 0) -> rows - mu
    padding becomes beta: β is added at padding, too
        np.where(kept, y, 0) -> np.where(kept, y, beta)
    padding counted as zeros: padding is set to 0 and counts as that in mean and
    variance
        mask.sum() -> mask.size
        np.where(kept, x - mu, 0) -> rows - mu
        seen in SeanNaren/deepspeech.pytorch #312; keras #3228
    padding normalized: padding is normalized like a token, and is not 0 afterward
        np.where(kept, y, 0) -> y
        seen in OliverRichter/normalized-attention #1
    mask the wrong way round: the statistics are those of the padding, where mask is
    False
        np.where(kept, x -> np.where(~kept, x
        mask.sum() -> (~mask).sum()
    each token by itself: y is a layer norm: each token has a mean and a variance of its
    own
        (x - mu) / np.sqrt(var + eps)
            -> (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    each position by itself: in y, each position of the sequences has statistics of its
    own
        mask.sum() -> np.maximum(mask.sum(0), 1)[:, None]
        .sum((0, 1)) -> .sum(0)
        0), mu, var -> 0), x[mask].mean(0), x[mask].var(0)
    positions averaged: each position has statistics of its own, and mu and var are
    their means
        mask.sum() -> np.maximum(mask.sum(0), 1)[:, None]
        .sum((0, 1)) -> .sum(0)
        0), mu, var -> 0), mu.mean(0), var.mean(0)
    each sequence by itself: in y, each sequence has statistics of its own, as in
    instance norm
        mask.sum() -> np.maximum(mask.sum(1), 1)[:, None, None]
        .sum((0, 1)) -> .sum(1, keepdims=True)
        0), mu, var -> 0), x[mask].mean(0), x[mask].var(0)
    sequences averaged: each sequence has statistics of its own, and mu and var are
    their means
        mask.sum() -> np.maximum(mask.sum(1), 1)[:, None, None]
        .sum((0, 1)) -> .sum(1, keepdims=True)
        0), mu, var -> 0), mu.mean((0, 1)), var.mean((0, 1))
    one mean for all features: in y, all features share one mean and one variance
        mask.sum() -> mask.sum() * x.shape[-1]
        .sum((0, 1)) -> .sum()
        0), mu, var -> 0), x[mask].mean(0), x[mask].var(0)
    mean of the sequences' means: mu is the mean of the sequences' means, so that a
    short one counts as much as a long one
        mu = rows.sum((0, 1)) / n
            -> mu = np.mean([a[m].mean(0) for a, m in zip(x, mask) if m.any()], 0)
    mean of the sequences' means and squares: mu and var are means over sequences, so
    that a short one counts as much as a long one
        n = mask.sum() -> parts = [a[m] for a, m in zip(x, mask) if m.any()]
        rows.sum((0, 1)) / n -> np.mean([p.mean(0) for p in parts], 0)
        (centered**2).sum((0, 1)) / n
            -> np.mean([((p - mu) ** 2).mean(0) for p in parts], 0)
    mean of the sequences' variances: mu and var are the means of the sequences' own
    means and variances, and the distances between those means are lost
        n = mask.sum() -> parts = [a[m] for a, m in zip(x, mask) if m.any()]
        rows.sum((0, 1)) / n -> np.mean([p.mean(0) for p in parts], 0)
        (centered**2).sum((0, 1)) / n -> np.mean([p.var(0) for p in parts], 0)
    no affine: neither γ nor β is applied
        gamma * (x - mu) / np.sqrt(var + eps) + beta -> (x - mu) / np.sqrt(var + eps)
    """,
    SEEN,
)


# --- residual_block ------------------------------------------------------------------


def block_cases(rng):
    def case(T, C, H, place):
        x = rng.normal(1, np.geomspace(0.5, 3, C), (T, C))
        weights = rng.normal(size=(C, H)) / 2, rng.normal(size=(H, C)) / 2
        return x, *weights, rng.uniform(0.5, 2, C), rng.normal(size=C), place

    return [case(8, 5, 7, "pre"), case(9, 4, 6, "post")]


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


BLOCK.mistakes += changed(
    forms.block_of_functions,
    S3,
    """
    pre and post exchanged: pre and post are exchanged
        place == "pre" -> place == "post"
        place != "post" -> place != "pre"
    shortcut taken after the norm: for pre, the shortcut starts behind the norm
        branch(norm(x)) + x -> branch(norm(x)) + norm(x)
        seen in pytorch #61165; tracel-ai/burn #1056
    norm on the branch only: for post, the branch is normalized and the sum is not
        norm(branch(x) + x) -> norm(branch(x)) + x
        seen in harvardnlp/annotated-transformer #110
    no shortcut: nothing carries the stream past the branch
        branch(norm(x)) + x -> branch(norm(x))
        branch(x) + x -> branch(x)
    no shortcut before the norm: for post, nothing carries the stream past the branch
        branch(x) + x -> branch(x)
    no shortcut for pre: for pre, nothing carries the stream past the branch
        branch(norm(x)) + x -> branch(norm(x))
    shortcut twice with post: for post, the stream is added to the normalized sum once
    more
        norm(branch(x) + x) -> x + norm(branch(x) + x)
    no ReLU: no ReLU stands between the two layers, so that the branch is linear
        np.maximum(a @ W1, 0) @ W2 -> a @ W1 @ W2
    an RMS norm: the norm is an RMS norm: no mean is subtracted
        h - h.mean(axes, keepdims=True) -> h
    two norms with pre: for pre, the sum is normalized as well
        branch(norm(x)) + x -> norm(branch(norm(x)) + x)
    two norms with post: for post, the branch reads a normalized stream as well
        branch(x) + x -> branch(norm(x)) + x
    ReLU behind the second layer: ReLU stands behind the second layer, not between the
    two
        np.maximum(a @ W1, 0) @ W2 -> np.maximum(a @ W1 @ W2, 0)
    a second ReLU: a second ReLU stands behind the second layer
        np.maximum(a @ W1, 0) @ W2 -> np.maximum(np.maximum(a @ W1, 0) @ W2, 0)
    ReLU before the first layer: ReLU stands before the first layer, not between the two
        np.maximum(a @ W1, 0) @ W2 -> np.maximum(a, 0) @ W1 @ W2
    ReLU on the sum: the stream itself goes through ReLU at the end
        branch(norm(x)) + x -> np.maximum(branch(norm(x)) + x, 0)
        norm(branch(x) + x) -> np.maximum(norm(branch(x) + x), 0)
    """,
    SEEN,
)


# --- qk_norm_attention ---------------------------------------------------------------


def attention_cases(rng):
    def case(T, d, gain):
        q, k, v = rng.normal(0.3, 1, (3, T, d)) * rng.uniform(0.5, 3, (3, T, 1))
        return q, k, v, gain

    return [case(7, 4, 3.0), case(5, 6, 8.0)]


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
)


ATTENTION.mistakes += changed(
    forms.qk_norm_attention,
    S7,
    """
    still divided by the root of d: logits are divided by the root of d, too
        gain * (q @ k.T) -> gain * (q @ k.T) / np.sqrt(q.shape[-1])
        seen in lucidrains/x-transformers #190
    normalized over tokens: lengths are taken over the tokens
        **2).sum(axis=-1 -> **2).sum(axis=0
    softmax over the queries: weights sum to 1 over the queries
        e.sum(axis=-1 -> e.sum(axis=0
        logits.max(axis=-1 -> logits.max(axis=0
    values normalized: values are normalized as well
        weights @ v -> weights @ (v / np.linalg.norm(v, axis=-1, keepdims=True))
    plain attention: it is section 1's attention: no lengths, no gain
        q / np.sqrt((q**2).sum(axis=-1, keepdims=True)) -> q / np.sqrt(q.shape[-1])
        k / np.sqrt((k**2).sum(axis=-1, keepdims=True)) -> k
        gain * (q @ k.T) -> q @ k.T
    one length for all tokens: all queries are divided by one length, that of the array,
    and so are all keys
        **2).sum(axis=-1, keepdims=True) -> **2).sum()
    centered first: each query and key has its mean subtracted before it gets its length
        q = q / -> q, k = (a - a.mean(-1, keepdims=True) for a in (q, k)); q = q /
    a layer norm: queries and keys get a layer norm, and their length is the root of d
        q = q / -> q, k = (a - a.mean(-1, keepdims=True) for a in (q, k)); q = q /
        **2).sum(axis=-1 -> **2).mean(axis=-1
    a layer norm with eps: queries and keys get a layer norm with an eps; their length
    is the root of d
        q = q / -> q, k = (a - a.mean(-1, keepdims=True) for a in (q, k)); q = q /
        **2).sum(axis=-1, keepdims=True) -> **2).mean(axis=-1, keepdims=True) + 1e-5
    an RMS of 1: queries and keys get an RMS of 1, and their length is the root of d
        **2).sum(axis=-1 -> **2).mean(axis=-1
    later tokens hidden: a causal mask hides later tokens
        e = np -> logits[np.triu_indices(len(q), 1)] = -np.inf; e = np
    weights transposed: columns of the weights collect the values, not rows
        weights @ v -> weights.T @ v
    lengths of sums of magnitudes: lengths are sums of magnitudes, not roots of sums of
    squares
        np.sqrt((q**2).sum(axis=-1, keepdims=True)) -> abs(q).sum(-1, keepdims=True)
        np.sqrt((k**2).sum(axis=-1, keepdims=True)) -> abs(k).sum(-1, keepdims=True)
    logits normalized: each row of logits gets length 1, not the queries and keys
        q / np.sqrt((q**2).sum(axis=-1, keepdims=True)) -> q
        k / np.sqrt((k**2).sum(axis=-1, keepdims=True)) -> k
        (q @ k.T) -> (q @ k.T) / np.linalg.norm(q @ k.T, axis=-1, keepdims=True)
    gain behind the softmax: the gain multiplies the weights, which no longer sum to 1
        gain * (q @ k.T) -> q @ k.T
        weights = e -> weights = gain * e
    gain on the outputs: the gain multiplies what is collected, not the logits
        gain * (q @ k.T) -> q @ k.T
        weights @ v -> gain * weights @ v
    """,
    SEEN,
)
for added in ("0.001", "0.0001", "1e-05", "1e-06"):
    ATTENTION.mistakes += changed(
        forms.qk_norm_attention,
        S7,
        f"""
        {added} added to the lengths: {added} is added to the lengths, which then
        count a little
            / np.sqrt( -> / ({added} + np.sqrt(
            **2).sum(axis=-1, keepdims=True)) -> **2).sum(axis=-1, keepdims=True)))
        {added} added to the squares: {added} is added to the sums of squares under the
        root
            **2).sum(axis=-1, keepdims=True)
                -> **2).sum(axis=-1, keepdims=True) + {added}
        """,
        SEEN,
    )


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
)


FOLD.mistakes += changed(
    forms.fold_layernorm,
    S8,
    """
    gamma twice: β passes through a W that already holds γ
        beta @ W -> beta @ (gamma[:, None] * W)
    beta lost: what β adds is left out
        b + beta @ W -> b + 0 * (beta @ W)
    no shift without a bias: a layer without a bias gets nothing of β
        b + beta @ W -> b + (beta if np.any(b) else 0 * beta) @ W
    gamma on the outputs: γ scales columns of W, which are outputs, not rows, which are
    features
        gamma[:, None] * W -> np.resize(gamma, W.shape[1]) * W
    beta over gamma: β is divided by γ before it passes through W
        beta @ W -> (beta / gamma) @ W
    beta summed: the sum of β is added to each output, without passing through W
        beta @ W -> np.full(W.shape[1], beta.sum())
    beta added to the weight: β is added to the weight, and the bias is left as it was
        gamma[:, None] * W -> gamma[:, None] * W + beta[:, None]
        b + beta @ W -> b + np.zeros(W.shape[1])
    bias scaled: the new bias is scaled with the mean of γ
        b + beta @ W -> (b + beta @ W) * gamma.mean()
    root of gamma: the root of γ scales the weight, as if γ were a variance
        gamma[:, None] -> np.sqrt(np.abs(gamma))[:, None]
    old bias scaled: the old bias is scaled with the mean of γ
        b + beta @ W -> gamma.mean() * b + beta @ W
    old bias scaled entry by entry: the old bias is scaled with γ, as if outputs were
    features
        b + beta @ W -> np.resize(gamma, W.shape[1]) * b + beta @ W
    """,
    SEEN,
)


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
)


CENTER.mistakes += changed(
    forms.center_writer,
    S8,
    """
    bias not centered: the bias is not centered
        b - b.mean() -> b
    weight standardized: rows of the weight are divided by their deviation as well
        return W, b -> return W / W.std(1, keepdims=True), b
    bias standardized: the bias is divided by its deviation as well
        return W, b -> return W, b / b.std()
    columns centered as well: the means over both axes are subtracted
        return W, b -> return W - W.mean(0), b
    the weight's means for the bias: the bias has the means of the weight's columns
    subtracted, not its own mean
        b.mean() -> W.mean(0)
    one mean for the bias and the weight: the bias has the mean of all numbers
    subtracted, the weight's included
        b.mean() -> np.vstack([W, b]).mean()
    median: the median of each row is subtracted, not its mean
        W.mean(axis=1 -> np.median(W, axis=1
        b.mean() -> np.median(b)
    rows of length 1: rows of the weight are divided by their length as well
        return W, b -> return W / np.linalg.norm(W, axis=1, keepdims=True), b
    a bias of length 1: the bias is divided by its length as well
        return W, b -> return W, b / np.linalg.norm(b)
    the weight's means taken from the bias: the bias loses the sum of the weight's
    means, besides its own mean
        b - b.mean() -> b - b.mean() - W.mean(1).sum()
    the weight's means given to the bias: what the weight's rows lose is added to the
    centered bias
        b - b.mean() -> b - b.mean() + W.mean(1).sum()
    both means for the bias: the bias has the mean of the weight subtracted, besides its
    own
        b - b.mean() -> b - b.mean() - W.mean()
    divided by the mean: rows are divided by their mean, which is not subtracted
        W - W.mean(axis=1, keepdims=True), b - b.mean()
            -> W / W.mean(axis=1, keepdims=True), b / b.mean()
    columns centered together: the mean runs over rows, with the bias as one more row
        W - W.mean(axis=1, keepdims=True), b - b.mean()
            -> (a - np.vstack([W, b]).mean(0) for a in (W, b))
    the first entry subtracted: the first entry of each row is subtracted, not its mean
        W.mean(axis=1, keepdims=True) -> W[:, :1]
        b.mean() -> b[0]
    the last entry makes up: sums are 0 because the last entry makes up for the others,
    which stay
        W - W.mean(axis=1, keepdims=True), b - b.mean()
            -> W.copy(), b.copy(); W[:, -1] -= W.sum(1); b[-1] -= b.sum()
    """,
    SEEN,
)


EXERCISES = (MASKED, BLOCK, ATTENTION, FOLD, CENTER)
