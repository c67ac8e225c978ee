"""Published mistakes of lesson 05 that no bank lists: edits have to explain them."""

import numpy as np


def last(count):
    return tuple(range(-count, 0))


def before(array, count):
    """The axes that are not among the last `count`."""
    return tuple(range(array.ndim - count))


def per_channel(parameter, x):
    return parameter.reshape(-1, *[1] * (x.ndim - 2))


def standardized(x, axes, eps, ddof=0):
    mu = x.mean(axes, keepdims=True)
    return (x - mu) / np.sqrt(x.var(axes, ddof=ddof, keepdims=True) + eps)


def backward(dx_hat, x_hat, axes):
    """The bracket of the closed form, over any axes."""
    slope = (dx_hat * x_hat).mean(axes, keepdims=True)
    return dx_hat - dx_hat.mean(axes, keepdims=True) - x_hat * slope


def _layer(axes=None, ddof=0):
    """Layer norm with its axes replaced by axes(x, gamma), or its count by n - ddof."""

    def wrong(x, gamma, beta, eps=1e-5):
        over = last(gamma.ndim) if axes is None else axes(x, gamma)
        return gamma * standardized(x, over, eps, ddof) + beta

    return wrong


def _layer_divided_by(scale):
    def wrong(x, gamma, beta, eps=1e-5):
        axes = last(gamma.ndim)
        mu = x.mean(axes, keepdims=True)
        return gamma * (x - mu) / scale(x, axes, eps) + beta

    return wrong


def plus_eps(x, axes, eps):
    return x.std(axes, keepdims=True) + eps


def unbiased_plus_eps(x, axes, eps):
    return x.std(axes, ddof=1, keepdims=True) + eps


def root_of_std(x, axes, eps):
    return np.sqrt(x.std(axes, keepdims=True) + eps)


def layernorm_backward_reference(dy, x_hat, var, gamma, eps=1e-5):
    axes, samples = last(gamma.ndim), before(dy, gamma.ndim)
    dx = backward(dy * gamma, x_hat, axes) / np.sqrt(var + eps)
    return dx, (dy * x_hat).sum(samples), dy.sum(samples)


def _layer_dx(bracket):
    """Layer norm's backward with another bracket(dy, x_hat, gamma) for dx."""

    def wrong(dy, x_hat, var, gamma, eps=1e-5):
        _, dgamma, dbeta = layernorm_backward_reference(dy, x_hat, var, gamma, eps)
        return bracket(dy, x_hat, gamma) / np.sqrt(var + eps), dgamma, dbeta

    return wrong


def _layer_parameters(parameters):
    """Layer norm's backward with other parameters(dy, x_hat, gamma) gradients."""

    def wrong(dy, x_hat, var, gamma, eps=1e-5):
        dx, _, _ = layernorm_backward_reference(dy, x_hat, var, gamma, eps)
        return dx, *parameters(dy, x_hat, gamma)

    return wrong


def gamma_left_out(dy, x_hat, gamma):
    return backward(dy, x_hat, last(gamma.ndim))


def statistics_constant(dy, x_hat, gamma):
    return dy * gamma


def mean_twice(dy, x_hat, gamma):
    dx_hat, axes = dy * gamma, last(gamma.ndim)
    return backward(dx_hat, x_hat, axes) - dx_hat.mean(axes, keepdims=True)


def over_all(dy, x_hat, gamma):
    return backward(dy * gamma, x_hat, None)


def over_all_but_first(dy, x_hat, gamma):
    return backward(dy * gamma, x_hat, tuple(range(1, dy.ndim)))


def averaged(dy, x_hat, gamma):
    axes = before(dy, gamma.ndim)
    return (dy * x_hat).mean(axes), dy.mean(axes)


def swapped(dy, x_hat, gamma):
    axes = before(dy, gamma.ndim)
    return dy.sum(axes), (dy * x_hat).sum(axes)


def split(x, G):
    """(N, C, ...) as (N, G, C / G, ...): neighbors stay together."""
    return x.reshape(len(x), G, -1, *x.shape[2:])


def _group(axes=lambda grouped: tuple(range(2, grouped.ndim)), ddof=0):
    """Group norm over other axes(grouped), or with another count."""

    def wrong(x, gamma, beta, num_groups, eps=1e-5):
        grouped = split(x, num_groups)
        x_hat = standardized(grouped, axes(grouped), eps, ddof).reshape(x.shape)
        return per_channel(gamma, x) * x_hat + per_channel(beta, x)

    return wrong


def group_eps_outside(x, gamma, beta, num_groups, eps=1e-5):
    grouped = split(x, num_groups)
    axes = tuple(range(2, grouped.ndim))
    centered = grouped - grouped.mean(axes, keepdims=True)
    x_hat = (centered / plus_eps(grouped, axes, eps)).reshape(x.shape)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


def channel_sums(dy, x_hat, axes):
    return (dy * x_hat).sum(axes), dy.sum(axes)


def channel_means(dy, x_hat, axes):
    return (dy * x_hat).mean(axes), dy.mean(axes)


def channel_sums_swapped(dy, x_hat, axes):
    return dy.sum(axes), (dy * x_hat).sum(axes)


def _group_backward(dx, parameters=channel_sums):
    """Group norm's backward with other dx or parameter gradients."""

    def function(dy, x_hat, var, gamma, num_groups, eps=1e-5):
        axes = (0, *range(2, dy.ndim))
        inv_std = 1 / np.sqrt(var + eps)
        return dx(dy, x_hat, inv_std, gamma, num_groups), *parameters(dy, x_hat, axes)

    return function


def _in_groups(bracket, cut=split, paste=np.reshape):
    """dx of group norm with another bracket(dx_hat, x_hat), or other groups."""

    def dx(dy, x_hat, inv_std, gamma, num_groups):
        dx_hat = cut(dy * per_channel(gamma, dy), num_groups)
        inv_std = inv_std.reshape(*inv_std.shape, *[1] * (dx_hat.ndim - 2))
        return paste(bracket(dx_hat, cut(x_hat, num_groups)) * inv_std, dy.shape)

    return dx


def over_groups(dx_hat, x_hat):
    return backward(dx_hat, x_hat, tuple(range(2, dx_hat.ndim)))


def direct_path(dx_hat, x_hat):
    return dx_hat


RIGHT_DX = _in_groups(over_groups)


def _instance(axes=lambda x: tuple(range(2, x.ndim)), ddof=0):
    def wrong(x, gamma, beta, eps=1e-5):
        x_hat = standardized(x, axes(x), eps, ddof)
        return per_channel(gamma, x) * x_hat + per_channel(beta, x)

    return wrong


def instance_root_of_std(x, gamma, beta, eps=1e-5):
    axes = tuple(range(2, x.ndim))
    x_hat = (x - x.mean(axes, keepdims=True)) / root_of_std(x, axes, eps)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


def _mean_square(x, gamma):
    return (x**2).mean(last(gamma.ndim), keepdims=True)


def rms_eps_outside(x, gamma, eps=1e-5):
    return gamma * x / (np.sqrt(_mean_square(x, gamma)) + eps)


def rms_multiplied(x, gamma, eps=1e-5):
    return gamma * x * np.sqrt(_mean_square(x, gamma) + eps)


def rms_two_roots(x, gamma, eps=1e-5):
    return gamma * x / np.sqrt(np.sqrt(_mean_square(x, gamma)) + eps)


def rms_last_axis(x, gamma, eps=1e-5):
    return gamma * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def sum_of_samples(terms, gamma):
    return terms.sum(before(terms, gamma.ndim))


def mean_of_samples(terms, gamma):
    return terms.mean(before(terms, gamma.ndim))


def not_summed(terms, gamma):
    return terms


def _rms_backward(bracket, parameter=sum_of_samples):
    """RMS norm's backward with another bracket for dx, or another dgamma."""

    def function(dy, x_hat, ms, gamma, eps=1e-5):
        dx = bracket(dy, x_hat, gamma) / np.sqrt(ms + eps)
        return dx, parameter(dy * x_hat, gamma)

    return function


def without_x_hat(dx_hat, x_hat, axes):
    return dx_hat - x_hat * (dx_hat * x_hat).mean(axes, keepdims=True)


def rms_bracket(dy, x_hat, gamma):
    return without_x_hat(dy * gamma, x_hat, last(gamma.ndim))


def rms_gamma_left_out(dy, x_hat, gamma):
    return without_x_hat(dy, x_hat, last(gamma.ndim))


def _spatial(axes=(0, 2, 3), ddof=0, scale=lambda var, eps: np.sqrt(var + eps)):
    def wrong(x, gamma, beta, eps=1e-5):
        mu = x.mean(axes, keepdims=True)
        var = x.var(axes, ddof=ddof, keepdims=True)
        y = per_channel(gamma, x) * (x - mu) / scale(var, eps) + per_channel(beta, x)
        return y, np.squeeze(mu, axes), np.squeeze(var, axes)

    return wrong


def bare_reshape(x, gamma, beta, eps=1e-5):
    rows = x.reshape(-1, x.shape[1])
    y = gamma * standardized(rows, 0, eps) + beta
    return y.reshape(x.shape), rows.mean(0), rows.var(0)


MISTAKES = (
    (
        "layernorm_forward",
        "last axis only",
        "the source solution set, B4; tensorflow #39942",
        _layer(lambda x, gamma: -1),
    ),
    (
        "layernorm_forward",
        "all axes but the first",
        "tensorpack #1482; FuxiCTR #23; FlagGems #5474",
        _layer(lambda x, gamma: tuple(range(1, x.ndim))),
    ),
    (
        "layernorm_forward",
        "unbiased variance",
        "harvardnlp/annotated-transformer #119; LBANN #2024",
        _layer(ddof=1),
    ),
    (
        "layernorm_forward",
        "eps outside the root",
        "codertimo/BERT-pytorch #30",
        _layer_divided_by(plus_eps),
    ),
    (
        "layernorm_forward",
        "unbiased, eps outside the root",
        "harvardnlp/annotated-transformer #122",
        _layer_divided_by(unbiased_plus_eps),
    ),
    (
        "layernorm_forward",
        "root of the standard deviation",
        "hyunwoongko/transformer #7",
        _layer_divided_by(root_of_std),
    ),
    (
        "layernorm_backward",
        "gamma left out of dx",
        "karpathy/llm.c #763, review (RMS norm)",
        _layer_dx(gamma_left_out),
    ),
    (
        "layernorm_backward",
        "statistics taken as constants",
        "fast.ai course-v3 07_batchnorm (batch norm)",
        _layer_dx(statistics_constant),
    ),
    (
        "layernorm_backward",
        "mean subtracted twice",
        "tenstorrent/tt-metal #53204",
        _layer_dx(mean_twice),
    ),
    (
        "layernorm_backward",
        "means over the whole array",
        "FlagGems #59",
        _layer_dx(over_all),
    ),
    (
        "layernorm_backward",
        "means over all axes but the first",
        "FlagGems #5474",
        _layer_dx(over_all_but_first),
    ),
    (
        "layernorm_backward",
        "mean for sum",
        "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
        _layer_parameters(averaged),
    ),
    (
        "layernorm_backward",
        "dgamma and dbeta swapped",
        "Oneflow #6149",
        _layer_parameters(swapped),
    ),
    (
        "groupnorm_forward",
        "unbiased variance",
        "LBANN #2024 (layer and instance norm)",
        _group(ddof=1),
    ),
    (
        "groupnorm_forward",
        "eps outside the root",
        "codertimo/BERT-pytorch #30 (layer norm)",
        group_eps_outside,
    ),
    (
        "groupnorm_backward",
        "statistics taken as constants",
        "fast.ai course-v3 07_batchnorm (batch norm)",
        _group_backward(_in_groups(direct_path)),
    ),
    (
        "groupnorm_backward",
        "mean for sum",
        "cthorey/CS231 #9 (batch norm)",
        _group_backward(RIGHT_DX, channel_means),
    ),
    (
        "groupnorm_backward",
        "dgamma and dbeta swapped",
        "Oneflow #6149 (layer norm)",
        _group_backward(RIGHT_DX, channel_sums_swapped),
    ),
    (
        "instancenorm_forward",
        "unbiased variance",
        "LBANN #2024; fast.ai course-v3 07_batchnorm, InstanceNorm",
        _instance(ddof=1),
    ),
    (
        "instancenorm_forward",
        "root of the standard deviation",
        "fast.ai course-v3 07_batchnorm, InstanceNorm",
        instance_root_of_std,
    ),
    (
        "rmsnorm_forward",
        "eps outside the root",
        "allenai/OLMo #281; tilelang #1243",
        rms_eps_outside,
    ),
    (
        "rmsnorm_forward",
        "multiplied by the root mean square",
        "mosaicml/llm-foundry #371",
        rms_multiplied,
    ),
    (
        "rmsnorm_forward",
        "root of the root mean square",
        "the formula in PyTorch's documentation until 2024: pytorch #139274",
        rms_two_roots,
    ),
    (
        "rmsnorm_forward",
        "last axis only",
        "the source solution set, B4 (layer norm)",
        rms_last_axis,
    ),
    (
        "rmsnorm_backward",
        "gamma left out of dx",
        "karpathy/llm.c #763, review",
        _rms_backward(rms_gamma_left_out),
    ),
    (
        "rmsnorm_backward",
        "root mean square taken as constant",
        "fast.ai course-v3 07_batchnorm (batch norm)",
        _rms_backward(statistics_constant),
    ),
    (
        "rmsnorm_backward",
        "dgamma not summed",
        "linkedin/Liger-Kernel #117",
        _rms_backward(rms_bracket, not_summed),
    ),
    (
        "rmsnorm_backward",
        "mean for sum",
        "cthorey/CS231 #9 (batch norm)",
        _rms_backward(rms_bracket, mean_of_samples),
    ),
    (
        "spatial_batchnorm_forward",
        "reshape without moving the channels",
        "stevenygd/PointFlow #14; tensorflow/addons #751",
        bare_reshape,
    ),
    (
        "spatial_batchnorm_forward",
        "statistics for each pixel",
        "Nico-Curti/NumPyNet #7; keras #1470",
        _spatial(0),
    ),
    (
        "spatial_batchnorm_forward",
        "averaged over the channels",
        "titu1994/Keras-Group-Normalization #8",
        _spatial((0, 1)),
    ),
    (
        "spatial_batchnorm_forward",
        "unbiased variance",
        "fast.ai course-v3 07_batchnorm",
        _spatial(ddof=1),
    ),
    (
        "spatial_batchnorm_forward",
        "eps outside the root",
        "Tencent/ncnn #311; pytorch #1804",
        _spatial(scale=lambda var, eps: np.sqrt(var) + eps),
    ),
)
