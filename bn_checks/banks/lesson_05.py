"""Checks of lesson 05, normalization variants."""

import numpy as np

from bn_helpers import norms

from ..common import ALONE, same_dtype
from ..engine import Exercise, Mistake, Property, rejects

S1 = "section 1, Ask what is averaged over what"
S3 = "section 3, Normalize each sample"
S4 = "section 4, Split the channels"
S5 = "section 5, Drop the mean"
S6 = "section 6, Take every pixel for a sample"


def block(rng, shape):
    """Values whose mean and spread differ by sample, by channel and by place."""
    x = rng.exponential(1, shape) + 0.3 * rng.normal(size=shape)
    for axis, n in enumerate(shape):
        along = [n if a == axis else 1 for a in range(len(shape))]
        x = x * np.exp(rng.normal(0, 0.5, along)) + rng.normal(0, 1, along)
    return x


def scale_and_shift(rng, shape):
    gamma = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
    return gamma, rng.normal(0, 1, shape)


def last(count):
    return tuple(range(-count, 0))


def before(array, count):
    """The axes that are not among the last `count`."""
    return tuple(range(array.ndim - count))


def per_channel(parameter, x):
    return parameter.reshape(-1, *[1] * (x.ndim - 2))


def per_channel_of_sample(per_group, gamma, x):
    """(N, G) repeated for each channel, so that it lines up with x."""
    repeated = np.repeat(per_group, len(gamma) // per_group.shape[1], axis=1)
    return repeated.reshape(*x.shape[:2], *[1] * (x.ndim - 2))


def standardized(x, axes, eps, ddof=0):
    mu = x.mean(axes, keepdims=True)
    return (x - mu) / np.sqrt(x.var(axes, ddof=ddof, keepdims=True) + eps)


def backward(dx_hat, x_hat, axes):
    """The bracket of the closed form, over any axes."""
    slope = (dx_hat * x_hat).mean(axes, keepdims=True)
    return dx_hat - dx_hat.mean(axes, keepdims=True) - x_hat * slope


# --- layernorm_forward ---------------------------------------------------------------


def sample_cases(rng, beta=True):
    """Samples with one, one and two averaged axes behind one, two and one others."""

    def case(lead, shape, *eps):
        params = scale_and_shift(rng, shape)[: 1 + beta]
        return (block(rng, (*lead, *shape)), *params, *eps)

    return [case((9,), (6,)), case((4, 8), (5,), 0.1), case((8,), (3, 4), 1e-3)]


def layernorm_reference(x, gamma, beta, eps=1e-5):
    return norms.layernorm_forward(x, gamma, beta, eps)[0]


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


LAYERNORM_FORWARD_MISTAKES = (
    Mistake(
        "last axis only",
        "You average over the last axis; the shape of gamma says over how many.",
        S3,
        "the source solution set, B4; tensorflow #39942",
        _layer(lambda x, gamma: -1),
    ),
    Mistake(
        "all axes but the first",
        "You average over everything behind the first axis; the shape of gamma says "
        "which axes are averaged, the others are all samples.",
        S3,
        "tensorpack #1482; FuxiCTR #23; FlagGems #5474",
        _layer(lambda x, gamma: tuple(range(1, x.ndim))),
    ),
    Mistake(
        "statistics of the batch",
        "You average over the samples; that is batch norm.",
        S3,
        "cs231n.github.io #214; Kyubyong/transformer #40",
        _layer(lambda x, gamma: before(x, gamma.ndim)),
    ),
    Mistake(
        "unbiased variance",
        "Your variance divides by n − 1; the one that normalizes divides by n.",
        S1,
        "harvardnlp/annotated-transformer #119; LBANN #2024",
        _layer(ddof=1),
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance.",
        S1,
        "codertimo/BERT-pytorch #30",
        _layer_divided_by(plus_eps),
    ),
    Mistake(
        "unbiased, eps outside the root",
        "Your variance divides by n − 1, and you add eps after the root.",
        S1,
        "harvardnlp/annotated-transformer #122",
        _layer_divided_by(unbiased_plus_eps),
    ),
    Mistake(
        "root of the standard deviation",
        "You take the root twice: of the variance, and of the result again.",
        S1,
        "hyunwoongko/transformer #7",
        _layer_divided_by(root_of_std),
    ),
)

LAYERNORM_FORWARD = Exercise(
    "layernorm_forward",
    layernorm_reference,
    ("x", "gamma", "beta", "eps"),
    ("y",),
    sample_cases,
    extra=(same_dtype(("y",)), ALONE),
    mistakes=LAYERNORM_FORWARD_MISTAKES,
    weights=(2,),
)


# --- layernorm_backward --------------------------------------------------------------


def kept(x, count, eps=1e-5, center=True):
    """x_hat and the variance, or mean square, that a forward pass would keep."""
    axes = last(count)
    centered = x - x.mean(axes, keepdims=True) if center else x
    var = (centered**2).mean(axes, keepdims=True)
    return centered / np.sqrt(var + eps), var


def sample_backward_cases(rng, center=True):
    def case(x, gamma, *eps):
        dy = rng.normal(0.5, 1, x.shape)
        return (dy, *kept(x, gamma.ndim, *eps, center=center), gamma, *eps)

    return [case(*args) for args in sample_cases(rng, beta=False)]


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


def gamma_outside(dy, x_hat, gamma):
    return gamma * backward(dy, x_hat, last(gamma.ndim))


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


def summed_over_features(dy, x_hat, gamma):
    axes = last(gamma.ndim)
    return (dy * x_hat).sum(axes), dy.sum(axes)


def summed_to_last_axis(dy, x_hat, gamma):
    axes = before(dy, 1)
    return (dy * x_hat).sum(axes), dy.sum(axes)


def averaged(dy, x_hat, gamma):
    axes = before(dy, gamma.ndim)
    return (dy * x_hat).mean(axes), dy.mean(axes)


def swapped(dy, x_hat, gamma):
    axes = before(dy, gamma.ndim)
    return dy.sum(axes), (dy * x_hat).sum(axes)


GAMMA_LEFT_OUT = "gamma left out of dx"
LAYERNORM_BACKWARD_MISTAKES = (
    Mistake(
        "gamma outside the means",
        "You multiply by gamma after the means, as batch norm may; here gamma differs "
        "along the averaged axes.",
        S3,
        "mlpack #1389: is it not the same as batch norm?",
        _layer_dx(gamma_outside),
    ),
    Mistake(
        GAMMA_LEFT_OUT,
        "Your dx does not depend on gamma.",
        S3,
        "karpathy/llm.c #763, review (RMS norm)",
        _layer_dx(gamma_left_out),
    ),
    Mistake(
        "statistics taken as constants",
        "You keep the direct path alone; mean and variance depend on x as well.",
        S3,
        "fast.ai course-v3 07_batchnorm (batch norm)",
        _layer_dx(statistics_constant),
    ),
    Mistake(
        "mean subtracted twice",
        "You subtract the mean of dy times gamma twice.",
        S3,
        "tenstorrent/tt-metal #53204",
        _layer_dx(mean_twice),
    ),
    Mistake(
        "means over the whole array",
        "Your means run over all samples; they belong to one sample each.",
        S3,
        "FlagGems #59",
        _layer_dx(over_all),
    ),
    Mistake(
        "means over all axes but the first",
        "Your means run over everything behind the first axis; the shape of gamma says "
        "over which axes they run.",
        S3,
        "FlagGems #5474",
        _layer_dx(over_all_but_first),
    ),
    Mistake(
        "summed over the features",
        "You sum dgamma and dbeta over the axes of a sample; they have one entry for "
        "each of its numbers, so the samples are summed away.",
        S3,
        "a published CS231n solution, layernorm_backward: sum(axis=1)",
        _layer_parameters(summed_over_features),
    ),
    Mistake(
        "summed down to the last axis",
        "You sum dgamma and dbeta over all axes but the last; they have the shape of "
        "gamma.",
        S3,
        "the source solution set, B4; pytorch #192016",
        _layer_parameters(summed_to_last_axis),
    ),
    Mistake(
        "mean for sum",
        "You average dgamma and dbeta over the samples; gradients add up.",
        S3,
        "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
        _layer_parameters(averaged),
    ),
    Mistake(
        "dgamma and dbeta swapped",
        "You return dbeta where dgamma is expected, and the other way round.",
        S3,
        "Oneflow #6149",
        _layer_parameters(swapped),
    ),
)

LAYERNORM_BACKWARD = Exercise(
    "layernorm_backward",
    layernorm_backward_reference,
    ("dy", "x_hat", "var", "gamma", "eps"),
    ("dx", "dgamma", "dbeta"),
    sample_backward_cases,
    extra=(same_dtype(("dx", "dgamma", "dbeta")),),
    mistakes=LAYERNORM_BACKWARD_MISTAKES,
    weights=(2, 1, 1),
)


# --- groupnorm_forward ---------------------------------------------------------------


def group_cases(rng):
    def case(N, C, pixels, G, *eps):
        x = block(rng, (N, C, *pixels))
        return (x, *scale_and_shift(rng, C), G, *eps)

    return [case(8, 6, (3, 4), 3), case(9, 12, (), 3, 0.1), case(8, 8, (5,), 2, 1e-3)]


def groupnorm_reference(x, gamma, beta, num_groups, eps=1e-5):
    return norms.groupnorm_forward(x, gamma, beta, num_groups, eps)[0]


def split(x, G):
    """(N, C, ...) as (N, G, C / G, ...): neighbors stay together."""
    return x.reshape(len(x), G, -1, *x.shape[2:])


def dealt(x, G):
    """(N, C, ...) as (N, G, C / G, ...): channels dealt out like cards."""
    return np.swapaxes(x.reshape(len(x), -1, G, *x.shape[2:]), 1, 2)


def undealt(grouped, shape):
    return np.swapaxes(grouped, 1, 2).reshape(shape)


def _group(axes=lambda grouped: tuple(range(2, grouped.ndim)), ddof=0):
    """Group norm over other axes(grouped), or with another count."""

    def wrong(x, gamma, beta, num_groups, eps=1e-5):
        grouped = split(x, num_groups)
        x_hat = standardized(grouped, axes(grouped), eps, ddof).reshape(x.shape)
        return per_channel(gamma, x) * x_hat + per_channel(beta, x)

    return wrong


def groups_dealt(x, gamma, beta, num_groups, eps=1e-5):
    grouped = dealt(x, num_groups)
    x_hat = standardized(grouped, tuple(range(2, grouped.ndim)), eps)
    x_hat = undealt(x_hat, x.shape)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


def group_eps_outside(x, gamma, beta, num_groups, eps=1e-5):
    grouped = split(x, num_groups)
    axes = tuple(range(2, grouped.ndim))
    centered = grouped - grouped.mean(axes, keepdims=True)
    x_hat = (centered / plus_eps(grouped, axes, eps)).reshape(x.shape)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


def _refuses_bad_groups(trial):
    x, gamma, beta, *_ = trial.cases[0]
    return rejects(trial.student, (x, gamma, beta, 4), "6 channels, num_groups = 4")


GROUPNORM_FORWARD_MISTAKES = (
    Mistake(
        "channels dealt out",
        "Your groups take every G-th channel; group norm keeps neighbors together.",
        S4,
        "tenstorrent/tt-metal #56202",
        groups_dealt,
    ),
    Mistake(
        "one group",
        "You average over the groups as well, so all channels share one mean.",
        S4,
        "BrainPy #765",
        _group(lambda grouped: tuple(range(1, grouped.ndim))),
    ),
    Mistake(
        "statistics for each pixel",
        "You average over the channels of a group alone; its pixels belong to the set.",
        S4,
        "a published CS231n solution, spatial_groupnorm_forward: mean(axis=1)",
        _group(lambda grouped: 2),
    ),
    Mistake(
        "unbiased variance",
        "Your variance divides by n − 1; the one that normalizes divides by n.",
        S1,
        "LBANN #2024 (layer and instance norm)",
        _group(ddof=1),
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance.",
        S1,
        "codertimo/BERT-pytorch #30 (layer norm)",
        group_eps_outside,
    ),
)

GROUPNORM_FORWARD = Exercise(
    "groupnorm_forward",
    groupnorm_reference,
    ("x", "gamma", "beta", "num_groups", "eps"),
    ("y",),
    group_cases,
    extra=(
        same_dtype(("y",)),
        ALONE,
        Property("refuses a num_groups that does not fit", _refuses_bad_groups, 0.5),
    ),
    mistakes=GROUPNORM_FORWARD_MISTAKES,
    weights=(2.5,),
)


# --- groupnorm_backward --------------------------------------------------------------


def group_backward_cases(rng):
    def case(x, gamma, _, G, *eps):
        grouped = split(x, G)
        x_hat, var = kept(grouped, grouped.ndim - 2, *eps)
        dy = rng.normal(0.5, 1, x.shape)
        return (dy, x_hat.reshape(x.shape), var.reshape(len(x), G), gamma, G, *eps)

    return [case(*args) for args in group_cases(rng)]


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


def group_sums_reused(dy, x_hat, inv_std, gamma, num_groups):
    n = dy[0].size // num_groups
    axes = (0, *range(2, dy.ndim))
    dgamma, dbeta = (
        per_channel(sums, dy) / n for sums in channel_sums(dy, x_hat, axes)
    )
    inv_std = per_channel_of_sample(inv_std, gamma, dy)
    return per_channel(gamma, dy) * inv_std * (dy - dbeta - x_hat * dgamma)


def group_gamma_outside(dy, x_hat, inv_std, gamma, num_groups):
    ones = np.ones_like(gamma)
    return per_channel(gamma, dy) * RIGHT_DX(dy, x_hat, inv_std, ones, num_groups)


GROUPNORM_BACKWARD_MISTAKES = (
    Mistake(
        "dgamma and dbeta used as means",
        "You take dbeta and dgamma for the two sums in dx, as batch norm may; they run "
        "over other axes here.",
        S3,
        "oneDNN #3543, ref_group_normalization.cpp before #3615",
        _group_backward(group_sums_reused),
    ),
    Mistake(
        "gamma outside the means",
        "You multiply by gamma after the means; it differs between the channels of a "
        "group.",
        S4,
        "mlpack #1389: is it not the same as batch norm? (layer norm)",
        _group_backward(group_gamma_outside),
    ),
    Mistake(
        "channels dealt out",
        "Your groups take every G-th channel; group norm keeps neighbors together.",
        S4,
        "tenstorrent/tt-metal #56202",
        _group_backward(_in_groups(over_groups, dealt, undealt)),
    ),
    Mistake(
        "statistics taken as constants",
        "You keep the direct path alone; mean and variance depend on x as well.",
        S3,
        "fast.ai course-v3 07_batchnorm (batch norm)",
        _group_backward(_in_groups(direct_path)),
    ),
    Mistake(
        "mean for sum",
        "You average dgamma and dbeta; gradients add up.",
        S3,
        "cthorey/CS231 #9 (batch norm)",
        _group_backward(RIGHT_DX, channel_means),
    ),
    Mistake(
        "dgamma and dbeta swapped",
        "You return dbeta where dgamma is expected, and the other way round.",
        S3,
        "Oneflow #6149 (layer norm)",
        _group_backward(RIGHT_DX, channel_sums_swapped),
    ),
)

GROUPNORM_BACKWARD = Exercise(
    "groupnorm_backward",
    _group_backward(RIGHT_DX),
    ("dy", "x_hat", "var", "gamma", "num_groups", "eps"),
    ("dx", "dgamma", "dbeta"),
    group_backward_cases,
    extra=(same_dtype(("dx", "dgamma", "dbeta")),),
    mistakes=GROUPNORM_BACKWARD_MISTAKES,
    weights=(2, 0.5, 0.5),
)


# --- instancenorm_forward ------------------------------------------------------------


def image_cases(rng):
    def case(shape, *eps):
        return (block(rng, shape), *scale_and_shift(rng, shape[1]), *eps)

    return [case((8, 3, 4, 5)), case((9, 5, 3, 2), 0.1), case((8, 4, 2, 7), 1e-3)]


def instance_cases(rng):
    x, *rest = image_cases(rng)[1]
    return [*image_cases(rng), (x[:, :, 0], *rest)]


def instancenorm_reference(x, gamma, beta, eps=1e-5):
    return norms.instancenorm_forward(x, gamma, beta, eps)[0]


def _instance(axes=lambda x: tuple(range(2, x.ndim)), ddof=0):
    def wrong(x, gamma, beta, eps=1e-5):
        x_hat = standardized(x, axes(x), eps, ddof)
        return per_channel(gamma, x) * x_hat + per_channel(beta, x)

    return wrong


def instance_root_of_std(x, gamma, beta, eps=1e-5):
    axes = tuple(range(2, x.ndim))
    x_hat = (x - x.mean(axes, keepdims=True)) / root_of_std(x, axes, eps)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


def _refuses_one_pixel(trial):
    trial.outputs(0)  # whoever returns nothing for good input has not refused this one
    x, gamma, beta, *_ = trial.cases[0]
    args = (x[:, :, :1, :1], gamma, beta)
    return rejects(trial.student, args, "images of one pixel")


ONE_PIXEL = "refuses images of one pixel"
INSTANCENORM_FORWARD_MISTAKES = (
    Mistake(
        "statistics of the batch",
        "You average over the samples as well; that is batch norm.",
        S1,
        "pytorch #58843",
        _instance(lambda x: (0, *range(2, x.ndim))),
    ),
    Mistake(
        "unbiased variance",
        "Your variance divides by n − 1; the one that normalizes divides by n.",
        S1,
        "LBANN #2024; fast.ai course-v3 07_batchnorm, InstanceNorm",
        _instance(ddof=1),
    ),
    Mistake(
        "root of the standard deviation",
        "You take the root twice: of the variance, and of the result again.",
        S1,
        "fast.ai course-v3 07_batchnorm, InstanceNorm",
        instance_root_of_std,
    ),
    Mistake(
        "accepts one pixel",
        "You normalize a single pixel: it is its own mean, so y is beta in any case.",
        S4,
        "pytorch #45687",
        _instance(),
        shows=ONE_PIXEL,
    ),
)

INSTANCENORM_FORWARD = Exercise(
    "instancenorm_forward",
    instancenorm_reference,
    ("x", "gamma", "beta", "eps"),
    ("y",),
    instance_cases,
    extra=(
        same_dtype(("y",)),
        ALONE,
        Property(ONE_PIXEL, _refuses_one_pixel, 0.5),
    ),
    mistakes=INSTANCENORM_FORWARD_MISTAKES,
    weights=(2.5,),
)


# --- rmsnorm_forward -----------------------------------------------------------------


def rms_cases(rng):
    return sample_cases(rng, beta=False)


def rmsnorm_reference(x, gamma, eps=1e-5):
    return norms.rmsnorm_forward(x, gamma, eps)[0]


def _mean_square(x, gamma):
    return (x**2).mean(last(gamma.ndim), keepdims=True)


def rms_eps_outside(x, gamma, eps=1e-5):
    return gamma * x / (np.sqrt(_mean_square(x, gamma)) + eps)


def rms_with_variance(x, gamma, eps=1e-5):
    return gamma * x / np.sqrt(x.var(last(gamma.ndim), keepdims=True) + eps)


def rms_centered(x, gamma, eps=1e-5):
    return gamma * standardized(x, last(gamma.ndim), eps)


def rms_multiplied(x, gamma, eps=1e-5):
    return gamma * x * np.sqrt(_mean_square(x, gamma) + eps)


def rms_two_roots(x, gamma, eps=1e-5):
    return gamma * x / np.sqrt(np.sqrt(_mean_square(x, gamma)) + eps)


def rms_wrong_power(x, gamma, eps=1e-5):
    D = gamma.size
    return gamma * x / np.sqrt(_mean_square(x, gamma) + eps) / D


def rms_last_axis(x, gamma, eps=1e-5):
    return gamma * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


RMSNORM_FORWARD_MISTAKES = (
    Mistake(
        "eps outside the root",
        "You add eps to the root mean square; it belongs to the mean square.",
        S5,
        "allenai/OLMo #281; tilelang #1243",
        rms_eps_outside,
    ),
    Mistake(
        "variance for mean square",
        "You divide by the standard deviation, which subtracts the mean first.",
        S5,
        "pytorch-image-models #2380; keras #21234",
        rms_with_variance,
    ),
    Mistake(
        "layer norm without beta",
        "You subtract the mean; RMS norm subtracts nothing.",
        S5,
        "mit-han-lab/omniserve #32",
        rms_centered,
    ),
    Mistake(
        "multiplied by the root mean square",
        "You multiply where RMS norm divides.",
        S5,
        "mosaicml/llm-foundry #371",
        rms_multiplied,
    ),
    Mistake(
        "root of the root mean square",
        "You take the root twice: of the mean square, and of the result again.",
        S5,
        "the formula in PyTorch's documentation until 2024: pytorch #139274",
        rms_two_roots,
    ),
    Mistake(
        "wrong power of D",
        "Your result is too small by a factor of D, the numbers in a sample.",
        S5,
        "kyegomez/zeta #180",
        rms_wrong_power,
    ),
    Mistake(
        "last axis only",
        "You average over the last axis; the shape of gamma says over how many.",
        S3,
        "the source solution set, B4 (layer norm)",
        rms_last_axis,
    ),
)

RMSNORM_FORWARD = Exercise(
    "rmsnorm_forward",
    rmsnorm_reference,
    ("x", "gamma", "eps"),
    ("y",),
    rms_cases,
    extra=(same_dtype(("y",)), ALONE),
    mistakes=RMSNORM_FORWARD_MISTAKES,
    weights=(2,),
)


# --- rmsnorm_backward ----------------------------------------------------------------


def rms_backward_cases(rng):
    return sample_backward_cases(rng, center=False)


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


def rms_gamma_twice(dy, x_hat, gamma):
    slope = (dy * gamma * x_hat).mean(last(gamma.ndim), keepdims=True)
    return dy * gamma - gamma * x_hat * slope


def as_layer_norm(dy, x_hat, gamma):
    return backward(dy * gamma, x_hat, last(gamma.ndim))


RMSNORM_BACKWARD_MISTAKES = (
    Mistake(
        GAMMA_LEFT_OUT,
        "Your dx does not depend on gamma.",
        S5,
        "karpathy/llm.c #763, review",
        _rms_backward(rms_gamma_left_out),
    ),
    Mistake(
        "gamma twice",
        "In the second term gamma occurs twice: outside the mean and inside it.",
        S5,
        "NVIDIA/Megatron-LM #6859",
        _rms_backward(rms_gamma_twice),
    ),
    Mistake(
        "layer norm's backward",
        "You subtract the mean of dy times gamma; nothing was centered, so it stays.",
        S5,
        "mit-han-lab/omniserve #32: RMS norm that runs layer norm's kernel",
        _rms_backward(as_layer_norm),
    ),
    Mistake(
        "root mean square taken as constant",
        "You keep the direct path alone; the root mean square depends on x as well.",
        S5,
        "fast.ai course-v3 07_batchnorm (batch norm)",
        _rms_backward(statistics_constant),
    ),
    Mistake(
        "dgamma not summed",
        "Your dgamma has one entry per sample; gamma is shared, so the samples add up.",
        S5,
        "linkedin/Liger-Kernel #117",
        _rms_backward(rms_bracket, not_summed),
    ),
    Mistake(
        "mean for sum",
        "You average dgamma over the samples; gradients add up.",
        S3,
        "cthorey/CS231 #9 (batch norm)",
        _rms_backward(rms_bracket, mean_of_samples),
    ),
)

RMSNORM_BACKWARD = Exercise(
    "rmsnorm_backward",
    _rms_backward(rms_bracket),
    ("dy", "x_hat", "ms", "gamma", "eps"),
    ("dx", "dgamma"),
    rms_backward_cases,
    extra=(same_dtype(("dx", "dgamma")),),
    mistakes=RMSNORM_BACKWARD_MISTAKES,
    weights=(2, 1),
)


# --- spatial_batchnorm_forward -------------------------------------------------------


def spatial_reference(x, gamma, beta, eps=1e-5):
    y, cache = norms.spatial_batchnorm_forward(x, gamma, beta, eps)
    return y, cache.mu, cache.var


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


SPATIAL_MISTAKES = (
    Mistake(
        "reshape without moving the channels",
        "Your rows mix channels: the channel axis has to come last before you reshape.",
        S6,
        "stevenygd/PointFlow #14; tensorflow/addons #751",
        bare_reshape,
    ),
    Mistake(
        "statistics for each pixel",
        "You average over the samples alone; a channel's pixels share its statistics.",
        S6,
        "Nico-Curti/NumPyNet #7; keras #1470",
        _spatial(0),
    ),
    Mistake(
        "averaged over the channels",
        "You average over samples and channels; one statistic belongs to one channel.",
        S1,
        "titu1994/Keras-Group-Normalization #8",
        _spatial((0, 1)),
    ),
    Mistake(
        "unbiased variance",
        "Your variance divides by n − 1; the one that normalizes divides by n.",
        S1,
        "fast.ai course-v3 07_batchnorm",
        _spatial(ddof=1),
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance.",
        S1,
        "Tencent/ncnn #311; pytorch #1804",
        _spatial(scale=lambda var, eps: np.sqrt(var) + eps),
    ),
)

SPATIAL_BATCHNORM_FORWARD = Exercise(
    "spatial_batchnorm_forward",
    spatial_reference,
    ("x", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    image_cases,
    extra=(same_dtype(("y", "mu", "var")),),
    mistakes=SPATIAL_MISTAKES,
    weights=(2, 1, 1),
)

EXERCISES = (
    LAYERNORM_FORWARD,
    LAYERNORM_BACKWARD,
    GROUPNORM_FORWARD,
    GROUPNORM_BACKWARD,
    INSTANCENORM_FORWARD,
    RMSNORM_FORWARD,
    RMSNORM_BACKWARD,
    SPATIAL_BATCHNORM_FORWARD,
)
