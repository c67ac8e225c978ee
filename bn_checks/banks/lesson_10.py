"""Checks of lesson 10, normalization in Transformers."""

import numpy as np

from ..engine import Exercise, Mistake, Property, difference, rejects

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


def masked_reference(x, mask, gamma, beta, eps=1e-5):
    rows = x[mask]
    mu, var = rows.mean(0), rows.var(0)
    y = np.zeros_like(x)
    y[mask] = gamma * (rows - mu) / np.sqrt(var + eps) + beta
    return y, mu, var


def _spread(x, mask, gamma, beta, mu, var, eps):
    y = gamma * (x - mu) / np.sqrt(var + eps) + beta
    return np.where(mask[..., None], y, 0), mu, var


def padding_counted(x, mask, gamma, beta, eps=1e-5):
    return _spread(x, mask, gamma, beta, x.mean((0, 1)), x.var((0, 1)), eps)


def divided_by_all(x, mask, gamma, beta, eps=1e-5):
    kept = mask[..., None]
    count = mask.size
    mu = np.where(kept, x, 0).sum((0, 1)) / count
    var = np.where(kept, (x - mu) ** 2, 0).sum((0, 1)) / count
    return _spread(x, mask, gamma, beta, mu, var, eps)


def padding_in_the_variance(x, mask, gamma, beta, eps=1e-5):
    kept, count = mask[..., None], mask.sum()
    mu = np.where(kept, x, 0).sum((0, 1)) / count
    var = ((np.where(kept, x, 0) - mu) ** 2).sum((0, 1)) / count
    return _spread(x, mask, gamma, beta, mu, var, eps)


def padding_becomes_beta(x, mask, gamma, beta, eps=1e-5):
    y, mu, var = masked_reference(x, mask, gamma, beta, eps)
    return np.where(mask[..., None], y, beta), mu, var


def _padding_does_not_matter(trial):
    x, mask, *rest = trial.cases[0]
    filled = np.where(mask[..., None], x, np.nan)
    got, want = trial.run((filled, mask, *rest))
    for name, g, w in zip(("y", "mu", "var"), got, want, strict=True):
        if lines := difference(name, g, w):
            return ("with nan where there is no token", *lines)
    return ()


MASKED = Exercise(
    "masked_batchnorm",
    masked_reference,
    ("x", "mask", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    masked_cases,
    extra=(Property("does not look at padding", _padding_does_not_matter, 0.5),),
    mistakes=(
        Mistake(
            "padding counted",
            "Your statistics count tokens that are not there.",
            S2,
            "prototypes for this lesson",
            padding_counted,
        ),
        Mistake(
            "divided by all places",
            "Your sums leave padding out, but they are divided by the number of all "
            "places.",
            S2,
            "prototypes for this lesson",
            divided_by_all,
        ),
        Mistake(
            "padding in the variance",
            "Your mean leaves padding out; in your variance padding still counts, as "
            "a distance from the mean.",
            S2,
            "prototypes for this lesson",
            padding_in_the_variance,
        ),
        Mistake(
            "padding becomes beta",
            "Your tokens are right; at padding the shift β remains.",
            S2,
            "prototypes for this lesson",
            padding_becomes_beta,
        ),
    ),
)

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


def block_reference(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return x + _mlp(_layer_norm(x, gamma, beta), W1, W2)
    if place == "post":
        return _layer_norm(x + _mlp(x, W1, W2), gamma, beta)
    raise ValueError(f"place is {place!r}, expected 'pre' or 'post'")


def places_swapped(x, W1, W2, gamma, beta, place):
    other = {"pre": "post", "post": "pre"}[place]
    return block_reference(x, W1, W2, gamma, beta, other)


def skip_after_the_norm(x, W1, W2, gamma, beta, place):
    if place == "post":
        return block_reference(x, W1, W2, gamma, beta, place)
    h = _layer_norm(x, gamma, beta)
    return h + _mlp(h, W1, W2)


def norm_on_the_branch(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return block_reference(x, W1, W2, gamma, beta, place)
    return x + _layer_norm(_mlp(x, W1, W2), gamma, beta)


def no_shortcut(x, W1, W2, gamma, beta, place):
    if place == "pre":
        return _mlp(_layer_norm(x, gamma, beta), W1, W2)
    return _layer_norm(_mlp(x, W1, W2), gamma, beta)


def _refuses(trial):
    *arrays, _ = trial.cases[0]
    return rejects(trial.student, (*arrays, "before"), 'place is "before"')


BLOCK = Exercise(
    "residual_block",
    block_reference,
    ("x", "W1", "W2", "gamma", "beta", "place"),
    ("stream",),
    block_cases,
    extra=(Property("refuses another place", _refuses, 0.3),),
    mistakes=(
        Mistake(
            "pre and post exchanged",
            "What you do for pre is post, and the other way around.",
            S3,
            "prototypes for this lesson",
            places_swapped,
        ),
        Mistake(
            "shortcut taken after the norm",
            "For pre your shortcut starts behind the norm, so the stream itself is "
            "normalized.",
            S3,
            "prototypes for this lesson",
            skip_after_the_norm,
        ),
        Mistake(
            "norm on the branch only",
            "For post you normalize what the branch puts out; the sum stays as it is.",
            S3,
            "Kim et al. (2025), where this place has a use",
            norm_on_the_branch,
        ),
        Mistake(
            "no shortcut",
            "Nothing carries the stream past the branch.",
            S3,
            "prototypes for this lesson",
            no_shortcut,
        ),
    ),
)

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


def attention_reference(q, k, v, gain):
    weights = _softmax(gain * _unit(q) @ _unit(k).T)
    return weights @ v, weights


def still_divides(q, k, v, gain):
    weights = _softmax(gain * _unit(q) @ _unit(k).T / np.sqrt(q.shape[-1]))
    return weights @ v, weights


def queries_only(q, k, v, gain):
    weights = _softmax(gain * _unit(q) @ k.T)
    return weights @ v, weights


def over_tokens(q, k, v, gain):
    weights = _softmax(gain * _unit(q, 0) @ _unit(k, 0).T)
    return weights @ v, weights


def softmax_over_queries(q, k, v, gain):
    weights = _softmax((gain * _unit(q) @ _unit(k).T).T).T
    return weights @ v, weights


def values_normalized(q, k, v, gain):
    weights = attention_reference(q, k, v, gain)[1]
    return weights @ _unit(v), weights


def _survives_large_numbers(trial):
    q, k, v, _ = trial.cases[0]
    got, want = trial.run((1e3 * q, 1e-3 * k, v, 2000.0))
    lines = difference("weights", got[1], want[1])
    return lines and ("with a gain of 2000", *lines)


ATTENTION = Exercise(
    "qk_norm_attention",
    attention_reference,
    ("q", "k", "v", "gain"),
    ("y", "weights"),
    attention_cases,
    extra=(Property("survives large numbers", _survives_large_numbers, 0.5),),
    mistakes=(
        Mistake(
            "still divided by the root of d",
            "Your logits are smaller than they should be by the root of d.",
            S7,
            "prototypes for this lesson",
            still_divides,
        ),
        Mistake(
            "keys not normalized",
            "Your queries have length 1, your keys do not.",
            S7,
            "prototypes for this lesson",
            queries_only,
        ),
        Mistake(
            "normalized over tokens",
            "You take lengths over the tokens; a length belongs to one token.",
            S7,
            "prototypes for this lesson",
            over_tokens,
        ),
        Mistake(
            "softmax over the queries",
            "Your weights sum to 1 over the queries; each query spends 1 on all keys.",
            S7,
            "prototypes for this lesson",
            softmax_over_queries,
        ),
        Mistake(
            "values normalized",
            "Your weights are right, and the values are changed before they are "
            "averaged.",
            S7,
            "prototypes for this lesson",
            values_normalized,
        ),
    ),
)

# --- fold_layernorm ------------------------------------------------------------------


def fold_cases(rng):
    def case(C, H, with_bias):
        affine = rng.uniform(0.5, 2, C), rng.normal(size=C)
        bias = rng.normal(size=H) if with_bias else None
        return *affine, rng.normal(size=(C, H)), bias

    return [case(6, 4, True), case(5, 5, False)]


def fold_reference(gamma, beta, W, b):
    shift = beta @ W
    return gamma[:, None] * W, shift if b is None else b + shift


def weight_first(gamma, beta, W, b):
    W = gamma[:, None] * W
    return W, beta @ W if b is None else b + beta @ W


def beta_lost(gamma, beta, W, b):
    return gamma[:, None] * W, 0 * (beta @ W) if b is None else b


def no_bias_no_shift(gamma, beta, W, b):
    folded, shift = fold_reference(gamma, beta, W, b)
    return folded, 0 * shift if b is None else shift


def old_bias_lost(gamma, beta, W, b):
    return gamma[:, None] * W, beta @ W


FOLD = Exercise(
    "fold_layernorm",
    fold_reference,
    ("gamma", "beta", "W", "b"),
    ("W", "b"),
    fold_cases,
    mistakes=(
        Mistake(
            "gamma twice",
            "In your bias, β has gone through a W that already holds γ.",
            S8,
            "prototypes for this lesson",
            weight_first,
        ),
        Mistake(
            "beta lost",
            "Your bias is the old one; what β adds is missing.",
            S8,
            "prototypes for this lesson",
            beta_lost,
        ),
        Mistake(
            "no shift without a bias",
            "For a layer without a bias, what β adds is missing.",
            S8,
            "prototypes for this lesson",
            no_bias_no_shift,
        ),
        Mistake(
            "old bias lost",
            "The layer's own bias is gone.",
            S8,
            "prototypes for this lesson",
            old_bias_lost,
        ),
    ),
)

# --- center_writer -------------------------------------------------------------------


def center_cases(rng):
    return [
        (rng.normal(1, 1, (5, 7)), rng.normal(1, 1, 7)),
        (rng.normal(1, 1, (6, 6)), rng.normal(1, 1, 6)),
    ]


def center_reference(W, b):
    return W - W.mean(1, keepdims=True), b - b.mean()


def wrong_axis(W, b):
    return W - W.mean(0, keepdims=True), b - b.mean()


def one_mean(W, b):
    return W - W.mean(), b - b.mean()


def bias_not_centered(W, b):
    return W - W.mean(1, keepdims=True), b


CENTER = Exercise(
    "center_writer",
    center_reference,
    ("W", "b"),
    ("W", "b"),
    center_cases,
    mistakes=(
        Mistake(
            "mean over the wrong axis",
            "You subtract the mean over what the layer reads; a token's mean runs over "
            "what it writes.",
            S8,
            "prototypes for this lesson",
            wrong_axis,
        ),
        Mistake(
            "one mean for all",
            "You subtract one number from the whole weight; each row has its own mean.",
            S8,
            "prototypes for this lesson",
            one_mean,
        ),
        Mistake(
            "bias not centered",
            "Your bias still moves the mean of every token.",
            S8,
            "prototypes for this lesson",
            bias_not_centered,
        ),
    ),
)

EXERCISES = (MASKED, BLOCK, ATTENTION, FOLD, CENTER)
