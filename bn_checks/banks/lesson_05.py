"""Checks of lesson 05, normalization variants."""

import numpy as np

from ..changes import changed
from ..common import ALONE, keeps_digits, same_dtype, scale_and_shift
from ..engine import Exercise, Property, rejects
from ..forms import lesson_05 as forms

S1 = "section 1, Ask what is averaged over what"
S3 = "section 3, Normalize each sample"
S4 = "section 4, Split the channels"
S5 = "section 5, Drop the mean"


def block(rng, shape):
    """Values whose mean and spread differ by sample, by channel and by place."""
    x = rng.exponential(1, shape) + 0.3 * rng.normal(size=shape)
    for axis, n in enumerate(shape):
        along = [n if a == axis else 1 for a in range(len(shape))]
        x = x * np.exp(rng.normal(0, 0.5, along)) + rng.normal(0, 1, along)
    return x


def last(count):
    return tuple(range(-count, 0))


def per_channel(parameter, x):
    return parameter.reshape(-1, *[1] * (x.ndim - 2))


# --- layernorm_forward ---------------------------------------------------------------


def sample_cases(rng, beta=True):
    """Samples with one, one and two averaged axes behind one, two and one others."""

    def case(lead, shape, *eps):
        params = scale_and_shift(rng, shape)[: 1 + beta]
        return (block(rng, (*lead, *shape)), *params, *eps)

    return [case((9,), (6,)), case((4, 8), (5,), 0.1), case((8,), (3, 4), 1e-3)]


LAYERNORM_FORWARD = Exercise(
    "layernorm_forward",
    forms.layernorm_forward,
    ("x", "gamma", "beta", "eps"),
    ("y",),
    sample_cases,
    extra=(same_dtype(("y",)), ALONE, keeps_digits()),
    weights=(2,),
)


LAYERNORM_FORWARD.mistakes += changed(
    forms.layernorm_forward,
    S3,
    """
    statistics of the batch: the samples are averaged over, as in batch norm
        range(-gamma.ndim, 0) -> range(x.ndim - gamma.ndim)
        seen in cs231n.github.io #214; Kyubyong/transformer #40
    """,
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


LAYERNORM_BACKWARD = Exercise(
    "layernorm_backward",
    forms.layernorm_backward,
    ("dy", "x_hat", "var", "gamma", "eps"),
    ("dx", "dgamma", "dbeta"),
    sample_backward_cases,
    extra=(same_dtype(("dx", "dgamma", "dbeta")),),
    weights=(2, 1, 1),
    forms=(forms.layernorm_backward, forms.layernorm_backward_by_count),
)


LAYERNORM_BACKWARD.mistakes += changed(
    forms.layernorm_backward,
    S3,
    """
    gamma outside the means: gamma multiplies after the means, as in batch norm,
    although it differs along the averaged axes here
        dy * gamma -> dy
        dx = dx / -> dx = gamma * dx /
        seen in mlpack #1389: is it not the same as batch norm?
    summed over the features: the parameters' gradients are summed over the axes of a
    sample, and the samples are kept
        sum(samples) -> sum(axes)
        seen in a published CS231n solution, layernorm_backward: sum(axis=1)
    summed down to the last axis: the parameters' gradients are summed over all axes but
    the last
        range(dy.ndim - gamma.ndim) -> range(dy.ndim - 1)
        seen in the source solution set, B4; pytorch #192016
    """,
)


# --- groupnorm_forward ---------------------------------------------------------------


def group_cases(rng):
    def case(N, C, pixels, G, *eps):
        x = block(rng, (N, C, *pixels))
        return (x, *scale_and_shift(rng, C), G, *eps)

    return [case(8, 6, (3, 4), 3), case(9, 12, (), 3, 0.1), case(8, 8, (5,), 2, 1e-3)]


def split(x, G):
    """(N, C, ...) as (N, G, C / G, ...): neighbors stay together."""
    return x.reshape(len(x), G, -1, *x.shape[2:])


def _refuses_bad_groups(trial):
    x, gamma, beta, *_ = trial.cases[0]
    return rejects(trial.student, (x, gamma, beta, 4), "6 channels, num_groups = 4")


GROUPNORM_FORWARD = Exercise(
    "groupnorm_forward",
    forms.groupnorm_forward,
    ("x", "gamma", "beta", "num_groups", "eps"),
    ("y",),
    group_cases,
    extra=(
        same_dtype(("y",)),
        ALONE,
        keeps_digits(),
        Property("refuses a num_groups that does not fit", _refuses_bad_groups, 0.5),
    ),
    weights=(2.5,),
)


GROUPNORM_FORWARD.mistakes += changed(
    forms.groupnorm_forward,
    S4,
    """
    channels dealt out: a group takes every G-th channel, not neighbors
        num_groups, -1, *x.shape[2:]) -> -1, num_groups, *x.shape[2:]).swapaxes(1, 2)
        x_hat.reshape( -> x_hat.swapaxes(1, 2).reshape(
        seen in tenstorrent/tt-metal #56202
    gamma and beta by group: the first entries of gamma and beta go by group, not by
    channel
        return gamma
            -> repeated = np.repeat([gamma, beta], groups.shape[2], axis=1)
            ; gamma, beta = repeated[:, : x.shape[1]]; return gamma
        seen in Oneflow PR #4848; apache/mxnet #17139
    gamma and beta by place: gamma and beta begin anew in each group
        return gamma
            -> first = np.array([gamma, beta])[:, : groups.shape[2]]
            ; gamma, beta = np.tile(first, num_groups); return gamma
        seen in equinox #1155
    size for number of groups: num_groups is taken for the number of channels in a group
        (len(x), num_groups, -> (len(x), len(gamma) // num_groups,
        seen in IAmSuyogJadhav/3d-mri #12
    channels last, cut first: the channel axis goes last before the groups are cut,
    which then cut pixels
        groups = x.reshape(len(x), num_groups, -1, *x.shape[2:])
            -> x = np.moveaxis(x, 1, -1); groups = x.reshape(len(x), num_groups, -1)
        x_hat.reshape(x.shape) -> np.moveaxis(x_hat.reshape(x.shape), -1, 1)
        seen in tensorflow/addons #751
    one group: the groups are averaged over as well, so that all channels share one mean
        (len(x), num_groups, -> (len(x), 1,
        seen in BrainPy #765
    statistics for each pixel: each pixel of a group has statistics of its own
        tuple(range(2, groups.ndim)) -> 2
        seen in a published CS231n solution, spatial_groupnorm_forward: mean(axis=1)
    """,
)


# --- groupnorm_backward --------------------------------------------------------------


def group_backward_cases(rng):
    def case(x, gamma, _, G, *eps):
        grouped = split(x, G)
        x_hat, var = kept(grouped, grouped.ndim - 2, *eps)
        dy = rng.normal(0.5, 1, x.shape)
        return (dy, x_hat.reshape(x.shape), var.reshape(len(x), G), gamma, G, *eps)

    return [case(*args) for args in group_cases(rng)]


GROUPNORM_BACKWARD = Exercise(
    "groupnorm_backward",
    forms.groupnorm_backward,
    ("dy", "x_hat", "var", "gamma", "num_groups", "eps"),
    ("dx", "dgamma", "dbeta"),
    group_backward_cases,
    extra=(same_dtype(("dx", "dgamma", "dbeta")),),
    weights=(2, 0.5, 0.5),
)


@GROUPNORM_BACKWARD.mistake(
    "dgamma and dbeta used as means",
    S3,
    "oneDNN #3543, ref_group_normalization.cpp before #3615",
)
def sums_of_the_batch(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    """dbeta and dgamma are taken for the two sums in dx, as in batch norm, although
    they run over other axes here"""
    right = forms.groupnorm_backward(dy, x_hat, var, gamma, num_groups, eps)
    dgamma, dbeta = (per_channel(p, dy) * num_groups / dy[0].size for p in right[1:])
    inv_std = np.repeat(1 / np.sqrt(var + eps), len(gamma) // num_groups, axis=1)
    inv_std = inv_std.reshape(*inv_std.shape, *[1] * (dy.ndim - 2))
    dx = per_channel(gamma, dy) * inv_std * (dy - dbeta - x_hat * dgamma)
    return dx, *right[1:]


GROUPNORM_BACKWARD.mistakes += changed(
    forms.groupnorm_backward,
    S4,
    """
    gamma outside the means: gamma multiplies after the means, although it differs
    between the channels of a group
        (dy * gamma.reshape(along)).reshape -> dy.reshape
        dx.reshape(dy.shape) -> gamma.reshape(along) * dx.reshape(dy.shape)
        seen in mlpack #1389: is it not the same as batch norm? (layer norm)
    pixels not counted: the two sums in dx are divided by the channels of a group, not
    by its pixels, too
        .mean(axes, keepdims=True) -> .sum(axes, keepdims=True) / dx_hat.shape[2]
        seen in published CS231n solutions, spatial_groupnorm_backward
    channels dealt out: a group takes every G-th channel, not neighbors
        num_groups, -1, *dy.shape[2:]) -> -1, num_groups, *dy.shape[2:]).swapaxes(1, 2)
        x_hat = x_hat.reshape(dx_hat.shape)
            -> x_hat = x_hat.reshape(len(dy), -1, num_groups, *dy.shape[2:])
            .swapaxes(1, 2)
        dx.reshape( -> dx.swapaxes(1, 2).reshape(
        seen in tenstorrent/tt-metal #56202
    """,
)


# --- instancenorm_forward ------------------------------------------------------------


def image_cases(rng):
    def case(shape, *eps):
        return (block(rng, shape), *scale_and_shift(rng, shape[1]), *eps)

    return [case((8, 3, 4, 5)), case((9, 5, 3, 2), 0.1), case((8, 4, 2, 7), 1e-3)]


def instance_cases(rng):
    x, *rest = image_cases(rng)[1]
    return [*image_cases(rng), (x[:, :, 0], *rest)]


def _refuses_one_pixel(trial):
    trial.outputs(0)  # whoever returns nothing for good input has not refused this one
    x, gamma, beta, *_ = trial.cases[0]
    args = (x[:, :, :1, :1], gamma, beta)
    return rejects(trial.student, args, "images of one pixel")


INSTANCENORM_FORWARD = Exercise(
    "instancenorm_forward",
    forms.instancenorm_forward,
    ("x", "gamma", "beta", "eps"),
    ("y",),
    instance_cases,
    extra=(
        same_dtype(("y",)),
        ALONE,
        keeps_digits(),
        Property("refuses images of one pixel", _refuses_one_pixel, 0.5),
    ),
    weights=(2.5,),
)


INSTANCENORM_FORWARD.mistakes += changed(
    forms.instancenorm_forward,
    S1,
    """
    statistics of the batch: the samples are averaged over as well, as in batch norm
        tuple(range(2, x.ndim)) -> (0, *range(2, x.ndim))
        seen in pytorch #58843
    """,
)
INSTANCENORM_FORWARD.mistakes += changed(
    forms.instancenorm_forward,
    S4,
    """
    accepts one pixel: You normalize a single pixel: it is its own mean, so y is beta in
    any case.
        x[0, 0].size < 2 -> False
        shows refuses images of one pixel
        seen in pytorch #45687
    """,
)


# --- rmsnorm_forward -----------------------------------------------------------------


def rms_cases(rng):
    return sample_cases(rng, beta=False)


RMSNORM_FORWARD = Exercise(
    "rmsnorm_forward",
    forms.rmsnorm_forward,
    ("x", "gamma", "eps"),
    ("y",),
    rms_cases,
    extra=(same_dtype(("y",)), ALONE),
    weights=(2,),
)


RMSNORM_FORWARD.mistakes += changed(
    forms.rmsnorm_forward,
    S5,
    """
    variance for mean square: x is divided by its standard deviation, which subtracts
    the mean first
        (x**2).mean(axes, keepdims=True) -> x.var(axes, keepdims=True)
        seen in pytorch-image-models #2380; keras #21234
    layer norm without beta: the mean is subtracted, as in layer norm
        ms = -> x = x - x.mean(axes, keepdims=True); ms =
        seen in mit-han-lab/omniserve #32
    wrong power of D: the result is divided once more by the numbers in a sample
        gamma * ( -> gamma / gamma.size * (
        seen in kyegomez/zeta #180
    """,
)


# --- rmsnorm_backward ----------------------------------------------------------------


def rms_backward_cases(rng):
    return sample_backward_cases(rng, center=False)


RMSNORM_BACKWARD = Exercise(
    "rmsnorm_backward",
    forms.rmsnorm_backward,
    ("dy", "x_hat", "ms", "gamma", "eps"),
    ("dx", "dgamma"),
    rms_backward_cases,
    extra=(same_dtype(("dx", "dgamma")),),
    weights=(2, 1),
)


RMSNORM_BACKWARD.mistakes += changed(
    forms.rmsnorm_backward,
    S5,
    """
    gamma twice: gamma occurs twice in the second term: outside the mean and inside it
        slope = x_hat -> slope = gamma * x_hat
        seen in NVIDIA/Megatron-LM #6859
    layer norm's backward: the mean of dy times gamma is subtracted, although nothing
    was centered
        - slope -> - slope - (dy * gamma).mean(axes, keepdims=True)
        seen in mit-han-lab/omniserve #32: RMS norm that runs layer norm's kernel
    """,
)


# --- spatial_batchnorm_forward -------------------------------------------------------


SPATIAL_BATCHNORM_FORWARD = Exercise(
    "spatial_batchnorm_forward",
    forms.spatial_batchnorm_forward,
    ("x", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    image_cases,
    extra=(same_dtype(("y", "mu", "var"), ("y",)), keeps_digits()),
    weights=(2, 1, 1),
    forms=(forms.spatial_batchnorm_forward, forms.spatial_by_rows),
)


SPATIAL_BATCHNORM_FORWARD.mistakes += changed(
    forms.spatial_batchnorm_forward,
    S1,
    """
    mean of the images' variances: the images' variances are averaged, and what their
    means differ by is lost
        x.var(axes, keepdims=True)
            -> x.var((2, 3), keepdims=True).mean(0, keepdims=True)
        seen in published batch norms for images
    """,
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
