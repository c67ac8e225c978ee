"""Wrong answers to lesson 10 (and 9.1), written without a look at the banks."""

import numpy as np
from torch import nn


def _norm(h, gamma, beta, eps=1e-5, axis=-1):
    centered = h - h.mean(axis, keepdims=True)
    return gamma * centered / np.sqrt(h.var(axis, keepdims=True) + eps) + beta


def _softmax(z, axis=-1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _unit(a, axis=-1):
    return a / np.linalg.norm(a, axis=axis, keepdims=True)


# masked_batchnorm


def _masked(x, mask, gamma, beta, eps, mu, var, pad=0.0):
    y = np.full_like(x, pad)
    y[mask] = gamma * (x[mask] - mu) / np.sqrt(var + eps) + beta
    return y, mu, var


def counts_padding_in_both(x, mask, gamma, beta, eps=1e-5):
    x = np.where(mask[..., None], x, 0)
    return _masked(x, mask, gamma, beta, eps, x.mean((0, 1)), x.var((0, 1)))


def divides_sums_by_all(x, mask, gamma, beta, eps=1e-5):
    x = np.where(mask[..., None], x, 0)
    mu = x.sum((0, 1)) / mask.size
    var = (mask[..., None] * (x - mu) ** 2).sum((0, 1)) / mask.size
    return _masked(x, mask, gamma, beta, eps, mu, var)


def padding_in_variance(x, mask, gamma, beta, eps=1e-5):
    x = np.where(mask[..., None], x, 0)
    mu = x.sum((0, 1)) / mask.sum()
    var = ((x - mu) ** 2).sum((0, 1)) / mask.sum()
    return _masked(x, mask, gamma, beta, eps, mu, var)


def leaves_beta_at_padding(x, mask, gamma, beta, eps=1e-5):
    mu, var = x[mask].mean(0), x[mask].var(0)
    return _masked(x, mask, gamma, beta, eps, mu, var, pad=beta)


def normalizes_padding_too(x, mask, gamma, beta, eps=1e-5):
    mu, var = x[mask].mean(0), x[mask].var(0)
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


def unbiased(x, mask, gamma, beta, eps=1e-5):
    mu, var = x[mask].mean(0), x[mask].var(0, ddof=1)
    return _masked(x, mask, gamma, beta, eps, mu, var)


def mask_inverted(x, mask, gamma, beta, eps=1e-5):
    mu, var = x[~mask].mean(0), x[~mask].var(0)
    return _masked(x, mask, gamma, beta, eps, mu, var)


def layer_norm_of_tokens(x, mask, gamma, beta, eps=1e-5):
    mu, var = x[mask].mean(0), x[mask].var(0)
    y = np.zeros_like(x)
    y[mask] = _norm(x[mask], gamma, beta, eps)
    return y, mu, var


def eps_outside_root(x, mask, gamma, beta, eps=1e-5):
    mu, var = x[mask].mean(0), x[mask].var(0)
    y = np.zeros_like(x)
    y[mask] = gamma * (x[mask] - mu) / (np.sqrt(var) + eps) + beta
    return y, mu, var


def multiplies_nan_by_mask(x, mask, gamma, beta, eps=1e-5):
    m = mask[..., None]
    mu = (m * x).sum((0, 1)) / m.sum()
    var = (m * (x - mu) ** 2).sum((0, 1)) / m.sum()
    return m * (gamma * (x - mu) / np.sqrt(var + eps) + beta), mu, var


def per_position(x, mask, gamma, beta, eps=1e-5):
    x = np.where(mask[..., None], x, 0)
    n = np.maximum(mask.sum(0), 1)[:, None]
    mu = x.sum(0) / n
    var = (mask[..., None] * (x - mu) ** 2).sum(0) / n
    y = mask[..., None] * (gamma * (x - mu) / np.sqrt(var + eps) + beta)
    return y, mu.mean(0), var.mean(0)


def forgets_gamma(x, mask, gamma, beta, eps=1e-5):
    return _masked(x, mask, 1, beta, eps, x[mask].mean(0), x[mask].var(0))


def mean_of_sequence_means(x, mask, gamma, beta, eps=1e-5):
    mu = np.mean([a[m].mean(0) for a, m in zip(x, mask, strict=True)], axis=0)
    return _masked(x, mask, gamma, beta, eps, mu, ((x[mask] - mu) ** 2).mean(0))


# residual_block


def _block(pre, post):
    def block(x, W1, W2, gamma, beta, place):
        def norm(h):
            return _norm(h, gamma, beta)

        def branch(h):
            return np.maximum(h @ W1, 0) @ W2

        if place not in ("pre", "post"):
            raise ValueError(place)
        return (pre if place == "pre" else post)(x, norm, branch)

    return block


def _pre(x, norm, branch):
    return x + branch(norm(x))


def _post(x, norm, branch):
    return norm(x + branch(x))


shortcut_normalized = _block(lambda x, n, f: n(x) + f(n(x)), _post)
no_shortcut_in_pre = _block(lambda x, n, f: f(n(x)), _post)
no_shortcut_in_post = _block(_pre, lambda x, n, f: n(f(x)))
norm_inside_sum_in_post = _block(_pre, lambda x, n, f: x + n(f(x)))
swapped = _block(_post, _pre)
pre_norm_twice = _block(lambda x, n, f: n(x + f(n(x))), _post)
always_pre = _block(_pre, _pre)
always_post = _block(_post, _post)
post_reads_norm = _block(_pre, lambda x, n, f: n(x + f(n(x))))


def no_error(x, W1, W2, gamma, beta, place):
    return _block(_pre, _post)(
        x, W1, W2, gamma, beta, "pre" if place == "pre" else "post"
    )


def batch_norm_in_it(x, W1, W2, gamma, beta, place):
    def norm(h):
        return _norm(h, gamma, beta, axis=0)

    def branch(h):
        return np.maximum(h @ W1, 0) @ W2

    if place == "pre":
        return x + branch(norm(x))
    if place == "post":
        return norm(x + branch(x))
    raise ValueError(place)


def rms_norm_in_it(x, W1, W2, gamma, beta, place):
    def norm(h):
        return gamma * h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-5) + beta

    def branch(h):
        return np.maximum(h @ W1, 0) @ W2

    if place == "pre":
        return x + branch(norm(x))
    if place == "post":
        return norm(x + branch(x))
    raise ValueError(place)


def _branch(branch, affine=True):
    def block(x, W1, W2, gamma, beta, place):
        def norm(h):
            return _norm(h, gamma, beta) if affine else _norm(h, 1, 0)

        if place == "pre":
            return x + branch(norm(x), W1, W2)
        if place == "post":
            return norm(x + branch(x, W1, W2))
        raise ValueError(place)

    return block


no_relu = _branch(lambda h, W1, W2: h @ W1 @ W2)
relu_at_the_end = _branch(lambda h, W1, W2: np.maximum(h @ W1 @ W2, 0))
relu_twice = _branch(lambda h, W1, W2: np.maximum(np.maximum(h @ W1, 0) @ W2, 0))
without_affine = _branch(lambda h, W1, W2: np.maximum(h @ W1, 0) @ W2, affine=False)


# qk_norm_attention


def _attention(logits, weigh=_softmax):
    def attention(q, k, v, gain):
        weights = weigh(logits(q, k, gain))
        return weights @ v, weights

    return attention


still_divides = _attention(
    lambda q, k, g: g * _unit(q) @ _unit(k).T / np.sqrt(q.shape[-1])
)
queries_only = _attention(lambda q, k, g: g * _unit(q) @ k.T)
keys_only = _attention(lambda q, k, g: g * q @ _unit(k).T)
plain = _attention(lambda q, k, g: q @ k.T / np.sqrt(q.shape[-1]))
no_gain = _attention(lambda q, k, g: _unit(q) @ _unit(k).T)
divides_by_gain = _attention(lambda q, k, g: _unit(q) @ _unit(k).T / g)
unit_columns = _attention(lambda q, k, g: g * _unit(q, 0) @ _unit(k, 0).T)
one_length_for_all = _attention(
    lambda q, k, g: g * (q / np.linalg.norm(q)) @ (k / np.linalg.norm(k)).T
)
squared_lengths = _attention(
    lambda q, k, g: g * (q / (q**2).sum(1)[:, None]) @ (k / (k**2).sum(1)[:, None]).T
)
root_mean_square = _attention(
    lambda q, k, g: (
        g
        * (q / np.sqrt((q**2).mean(1))[:, None])
        @ (k / np.sqrt((k**2).mean(1))[:, None]).T
    )
)
softmax_over_queries = _attention(
    lambda q, k, g: g * _unit(q) @ _unit(k).T, lambda z: _softmax(z, 0)
)
overflows = _attention(
    lambda q, k, g: g * _unit(q) @ _unit(k).T,
    lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True),
)
centered_first = _attention(
    lambda q, k, g: (
        g * _unit(q - q.mean(1, keepdims=True)) @ _unit(k - k.mean(1, keepdims=True)).T
    )
)
transposed = _attention(lambda q, k, g: (g * _unit(q) @ _unit(k).T).T)


def gain_after_softmax(q, k, v, gain):
    weights = gain * _softmax(_unit(q) @ _unit(k).T)
    return weights @ v, weights


def values_normalized(q, k, v, gain):
    weights = _softmax(gain * _unit(q) @ _unit(k).T)
    return weights @ _unit(v), weights


# fold_layernorm


def _zero(b):
    return 0 if b is None else b


def gamma_on_columns(gamma, beta, W, b):
    scale = np.resize(gamma, W.shape[1])
    return W * scale, beta @ W + _zero(b)


def beta_through_new_weight(gamma, beta, W, b):
    W = gamma[:, None] * W
    return W, beta @ W + _zero(b)


def forgets_beta(gamma, beta, W, b):
    return gamma[:, None] * W, np.zeros(W.shape[1]) + _zero(b)


def no_bias_no_shift(gamma, beta, W, b):
    shift = np.zeros(W.shape[1]) if b is None else b + beta @ W
    return gamma[:, None] * W, shift


def forgets_old_bias(gamma, beta, W, b):
    return gamma[:, None] * W, beta @ W


def divides_by_gamma(gamma, beta, W, b):
    return W / gamma[:, None], beta @ W + _zero(b)


def beta_minus(gamma, beta, W, b):
    return gamma[:, None] * W, _zero(b) - beta @ W


def keeps_weight(gamma, beta, W, b):
    return W, beta @ W + _zero(b)


def scales_bias_too(gamma, beta, W, b):
    return gamma[:, None] * W, (beta @ W + _zero(b)) * gamma.mean()


def beta_over_gamma(gamma, beta, W, b):
    return gamma[:, None] * W, (beta / gamma) @ W + _zero(b)


def sums_beta(gamma, beta, W, b):
    return gamma[:, None] * W, beta.sum() + _zero(b) + np.zeros(W.shape[1])


def changes_nothing(gamma, beta, W, b):
    return W, np.zeros(W.shape[1]) + _zero(b)


def adds_beta_to_weight(gamma, beta, W, b):
    return gamma[:, None] * W + beta[:, None], np.zeros(W.shape[1]) + _zero(b)


# center_writer


def wrong_axis(W, b):
    return W - W.mean(0), b - b.mean()


def whole_mean(W, b):
    return W - W.mean(), b - b.mean()


def bias_not_centered(W, b):
    return W - W.mean(1, keepdims=True), b


def weight_not_centered(W, b):
    return W, b - b.mean()


def standardized(W, b):
    centered = W - W.mean(1, keepdims=True)
    return centered / W.std(1, keepdims=True), (b - b.mean()) / b.std()


def mean_added(W, b):
    return W + W.mean(1, keepdims=True), b + b.mean()


def bias_of_zeros(W, b):
    return W - W.mean(1, keepdims=True), np.zeros_like(b)


def both_axes(W, b):
    W = W - W.mean(1, keepdims=True)
    return W - W.mean(0), b - b.mean()


def sum_in_place_of_mean(W, b):
    return W - W.sum(1, keepdims=True), b - b.sum()


def bias_minus_weight_mean(W, b):
    return W - W.mean(1, keepdims=True), b - W.mean(0)


def center_changes_nothing(W, b):
    return W.copy(), b.copy()


def bias_minus_mean_of_all(W, b):
    mean = np.vstack([W, b]).mean()
    return W - W.mean(1, keepdims=True), b - mean


def median(W, b):
    return W - np.median(W, 1, keepdims=True), b - np.median(b)


# decay_groups (lesson 09)


def _groups(model, decay, chosen, rest=0.0):
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if chosen(n, p)], "weight_decay": decay},
        {"params": [p for n, p in named if not chosen(n, p)], "weight_decay": rest},
    ]


def all_decay(model, weight_decay):
    return [{"params": model.parameters(), "weight_decay": weight_decay}]


def spares_names_with_bias(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: "bias" not in n)


def spares_names_with_bn(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: "bn" not in n)


def one_axis_decays(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: p.ndim == 1)


def matrices_only(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: p.ndim == 2)


def images_only(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: p.ndim == 4)


def forgets_second_group(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: p.ndim > 1)[:1]


def same_number_for_both(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: p.ndim > 1, rest=weight_decay)


def no_number_at_all(model, weight_decay):
    return [{"params": g["params"]} for g in all_decay(model, weight_decay)]


def linear_of_children(model, weight_decay):
    own = {id(m.weight) for m in model if isinstance(m, nn.Linear)}
    return _groups(model, weight_decay, lambda n, p: id(p) in own)


def by_norm_2d(model, weight_decay):
    own = {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    }
    return _groups(model, weight_decay, lambda n, p: id(p) not in own)


def a_tenth_for_the_rest(model, weight_decay):
    return _groups(model, weight_decay, lambda n, p: p.ndim > 1, rest=weight_decay / 10)


def everything_twice(model, weight_decay):
    rest = {"params": list(model.parameters()), "weight_decay": 0.0}
    return [*_groups(model, weight_decay, lambda n, p: p.ndim > 1)[:1], rest]


ANSWERS = {
    "masked_batchnorm": (
        counts_padding_in_both,
        divides_sums_by_all,
        padding_in_variance,
        leaves_beta_at_padding,
        normalizes_padding_too,
        unbiased,
        mask_inverted,
        layer_norm_of_tokens,
        eps_outside_root,
        multiplies_nan_by_mask,
        per_position,
        forgets_gamma,
        mean_of_sequence_means,
    ),
    "residual_block": (
        shortcut_normalized,
        no_shortcut_in_pre,
        no_shortcut_in_post,
        norm_inside_sum_in_post,
        swapped,
        pre_norm_twice,
        always_pre,
        always_post,
        post_reads_norm,
        no_error,
        batch_norm_in_it,
        rms_norm_in_it,
        no_relu,
        relu_at_the_end,
        relu_twice,
        without_affine,
    ),
    "qk_norm_attention": (
        still_divides,
        queries_only,
        keys_only,
        plain,
        no_gain,
        divides_by_gain,
        unit_columns,
        one_length_for_all,
        squared_lengths,
        root_mean_square,
        softmax_over_queries,
        overflows,
        centered_first,
        transposed,
        gain_after_softmax,
        values_normalized,
    ),
    "fold_layernorm": (
        gamma_on_columns,
        beta_through_new_weight,
        forgets_beta,
        no_bias_no_shift,
        forgets_old_bias,
        divides_by_gamma,
        beta_minus,
        keeps_weight,
        scales_bias_too,
        beta_over_gamma,
        sums_beta,
        changes_nothing,
        adds_beta_to_weight,
    ),
    "center_writer": (
        wrong_axis,
        whole_mean,
        bias_not_centered,
        weight_not_centered,
        standardized,
        mean_added,
        bias_of_zeros,
        both_axes,
        sum_in_place_of_mean,
        bias_minus_weight_mean,
        center_changes_nothing,
        bias_minus_mean_of_all,
        median,
    ),
    "decay_groups": (
        all_decay,
        spares_names_with_bias,
        spares_names_with_bn,
        one_axis_decays,
        matrices_only,
        images_only,
        forgets_second_group,
        same_number_for_both,
        no_number_at_all,
        linear_of_children,
        by_norm_2d,
        a_tenth_for_the_rest,
        everything_twice,
    ),
}
