"""Checks of lesson 05, normalization variants."""

import numpy as np

from ..common import ALONE, keeps_digits, same_dtype
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


def standardized(x, axes, eps):
    mu = x.mean(axes, keepdims=True)
    return (x - mu) / np.sqrt(x.var(axes, keepdims=True) + eps)


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
    forms=(forms.layernorm_forward,),
)


@LAYERNORM_FORWARD.mistake(
    "statistics of the batch", S3, "cs231n.github.io #214; Kyubyong/transformer #40"
)
def layer_over_samples(x, gamma, beta, eps=1e-5):
    """the samples are averaged over, as in batch norm"""
    return gamma * standardized(x, before(x, gamma.ndim), eps) + beta


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


@LAYERNORM_BACKWARD.mistake(
    "gamma outside the means", S3, "mlpack #1389: is it not the same as batch norm?"
)
def layer_gamma_outside(dy, x_hat, var, gamma, eps=1e-5):
    """gamma multiplies after the means, as in batch norm, although it differs along
    the averaged axes here"""
    dx, *_ = forms.layernorm_backward(dy, x_hat, var, np.ones_like(gamma), eps)
    return gamma * dx, *forms.layernorm_backward(dy, x_hat, var, gamma, eps)[1:]


@LAYERNORM_BACKWARD.mistake(
    "summed over the features",
    S3,
    "a published CS231n solution, layernorm_backward: sum(axis=1)",
)
def summed_over_the_features(dy, x_hat, var, gamma, eps=1e-5):
    """the parameters' gradients are summed over the axes of a sample, and the samples
    are kept"""
    dx, *_ = forms.layernorm_backward(dy, x_hat, var, gamma, eps)
    return dx, (dy * x_hat).sum(last(gamma.ndim)), dy.sum(last(gamma.ndim))


@LAYERNORM_BACKWARD.mistake(
    "summed down to the last axis", S3, "the source solution set, B4; pytorch #192016"
)
def summed_down_to_the_last_axis(dy, x_hat, var, gamma, eps=1e-5):
    """the parameters' gradients are summed over all axes but the last"""
    dx, *_ = forms.layernorm_backward(dy, x_hat, var, gamma, eps)
    return dx, (dy * x_hat).sum(before(dy, 1)), dy.sum(before(dy, 1))


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
    forms=(forms.groupnorm_forward,),
)


@GROUPNORM_FORWARD.mistake("channels dealt out", S4, "tenstorrent/tt-metal #56202")
def groups_dealt(x, gamma, beta, num_groups, eps=1e-5):
    """a group takes every G-th channel, not neighbors"""
    order = np.argsort(np.arange(len(gamma)) % num_groups, kind="stable")
    y = np.empty_like(x)
    parts = x[:, order], gamma[order], beta[order], num_groups, eps
    y[:, order] = forms.groupnorm_forward(*parts)
    return y


@GROUPNORM_FORWARD.mistake(
    "gamma and beta by group", S4, "Oneflow PR #4848; apache/mxnet #17139"
)
def parameters_by_group(x, gamma, beta, num_groups, eps=1e-5):
    """the first entries of gamma and beta go by group, not by channel"""
    each = len(gamma) // num_groups
    gamma, beta = (np.repeat(p[:num_groups], each) for p in (gamma, beta))
    return forms.groupnorm_forward(x, gamma, beta, num_groups, eps)


@GROUPNORM_FORWARD.mistake("gamma and beta by place", S4, "equinox #1155")
def parameters_by_place(x, gamma, beta, num_groups, eps=1e-5):
    """gamma and beta begin anew in each group"""
    each = len(gamma) // num_groups
    gamma, beta = (np.tile(p[:each], num_groups) for p in (gamma, beta))
    return forms.groupnorm_forward(x, gamma, beta, num_groups, eps)


@GROUPNORM_FORWARD.mistake("size for number of groups", S4, "IAmSuyogJadhav/3d-mri #12")
def size_for_number(x, gamma, beta, num_groups, eps=1e-5):
    """num_groups is taken for the number of channels in a group"""
    return forms.groupnorm_forward(x, gamma, beta, len(gamma) // num_groups, eps)


@GROUPNORM_FORWARD.mistake("channels last, cut first", S4, "tensorflow/addons #751")
def channels_last(x, gamma, beta, num_groups, eps=1e-5):
    """the channel axis goes last before the groups are cut, which then cut pixels"""
    moved = np.moveaxis(x, 1, -1)
    groups = moved.reshape(len(x), num_groups, -1)
    return np.moveaxis(
        gamma * standardized(groups, 2, eps).reshape(moved.shape) + beta, -1, 1
    )


@GROUPNORM_FORWARD.mistake("one group", S4, "BrainPy #765")
def one_group(x, gamma, beta, num_groups, eps=1e-5):
    """the groups are averaged over as well, so that all channels share one mean"""
    return forms.groupnorm_forward(x, gamma, beta, 1, eps)


@GROUPNORM_FORWARD.mistake(
    "statistics for each pixel",
    S4,
    "a published CS231n solution, spatial_groupnorm_forward: mean(axis=1)",
)
def statistics_for_each_pixel(x, gamma, beta, num_groups, eps=1e-5):
    """each pixel of a group has statistics of its own"""
    x_hat = standardized(split(x, num_groups), 2, eps).reshape(x.shape)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


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
    forms=(forms.groupnorm_backward,),
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


@GROUPNORM_BACKWARD.mistake(
    "gamma outside the means",
    S4,
    "mlpack #1389: is it not the same as batch norm? (layer norm)",
)
def group_gamma_outside(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    """gamma multiplies after the means, although it differs between the channels of a
    group"""
    ones = np.ones_like(gamma)
    dx, *_ = forms.groupnorm_backward(dy, x_hat, var, ones, num_groups, eps)
    right = forms.groupnorm_backward(dy, x_hat, var, gamma, num_groups, eps)
    return per_channel(gamma, dy) * dx, *right[1:]


@GROUPNORM_BACKWARD.mistake(
    "pixels not counted", S4, "published CS231n solutions, spatial_groupnorm_backward"
)
def pixels_not_counted(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    """the two sums in dx are divided by the channels of a group, not by its pixels,
    too"""
    dx_hat = split(dy * per_channel(gamma, dy), num_groups)
    axes, pixels = tuple(range(2, dx_hat.ndim)), dy[0, 0].size
    right = forms.groupnorm_backward(dy, x_hat, var, gamma, num_groups, eps)
    h = split(x_hat, num_groups)
    means = dx_hat.mean(axes, keepdims=True) + h * (dx_hat * h).mean(
        axes, keepdims=True
    )
    dx = dx_hat - pixels * means
    return (dx / np.sqrt(var + eps).reshape(*var.shape, *[1] * len(axes))).reshape(
        dy.shape
    ), *right[1:]


@GROUPNORM_BACKWARD.mistake("channels dealt out", S4, "tenstorrent/tt-metal #56202")
def groups_dealt_backward(dy, x_hat, var, gamma, num_groups, eps=1e-5):
    """a group takes every G-th channel, not neighbors"""
    order = np.argsort(np.arange(len(gamma)) % num_groups, kind="stable")
    parts = dy[:, order], x_hat[:, order], var, gamma[order], num_groups, eps
    dx = np.empty_like(dy)
    dx[:, order] = forms.groupnorm_backward(*parts)[0]
    right = forms.groupnorm_backward(dy, x_hat, var, gamma, num_groups, eps)
    return dx, *right[1:]


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


ONE_PIXEL = "refuses images of one pixel"


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
        Property(ONE_PIXEL, _refuses_one_pixel, 0.5),
    ),
    weights=(2.5,),
    forms=(forms.instancenorm_forward,),
)


@INSTANCENORM_FORWARD.mistake("statistics of the batch", S1, "pytorch #58843")
def instance_over_samples(x, gamma, beta, eps=1e-5):
    """the samples are averaged over as well, as in batch norm"""
    x_hat = standardized(x, (0, *range(2, x.ndim)), eps)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


@INSTANCENORM_FORWARD.mistake(
    "accepts one pixel", S4, "pytorch #45687", shows=ONE_PIXEL
)
def accepts_one_pixel(x, gamma, beta, eps=1e-5):
    """You normalize a single pixel: it is its own mean, so y is beta in any case."""
    x_hat = standardized(x, tuple(range(2, x.ndim)), eps)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x)


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
    forms=(forms.rmsnorm_forward,),
)


@RMSNORM_FORWARD.mistake(
    "variance for mean square", S5, "pytorch-image-models #2380; keras #21234"
)
def rms_with_variance(x, gamma, eps=1e-5):
    """x is divided by its standard deviation, which subtracts the mean first"""
    return gamma * x / np.sqrt(x.var(last(gamma.ndim), keepdims=True) + eps)


@RMSNORM_FORWARD.mistake("layer norm without beta", S5, "mit-han-lab/omniserve #32")
def rms_centered(x, gamma, eps=1e-5):
    """the mean is subtracted, as in layer norm"""
    return gamma * standardized(x, last(gamma.ndim), eps)


@RMSNORM_FORWARD.mistake("wrong power of D", S5, "kyegomez/zeta #180")
def rms_wrong_power(x, gamma, eps=1e-5):
    """the result is divided once more by the numbers in a sample"""
    return forms.rmsnorm_forward(x, gamma, eps) / gamma.size


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
    forms=(forms.rmsnorm_backward,),
)


@RMSNORM_BACKWARD.mistake("gamma twice", S5, "NVIDIA/Megatron-LM #6859")
def rms_gamma_twice(dy, x_hat, ms, gamma, eps=1e-5):
    """gamma occurs twice in the second term: outside the mean and inside it"""
    slope = gamma * x_hat * (dy * gamma * x_hat).mean(last(gamma.ndim), keepdims=True)
    dgamma = forms.rmsnorm_backward(dy, x_hat, ms, gamma, eps)[1]
    return (dy * gamma - slope) / np.sqrt(ms + eps), dgamma


@RMSNORM_BACKWARD.mistake(
    "layer norm's backward",
    S5,
    "mit-han-lab/omniserve #32: RMS norm that runs layer norm's kernel",
)
def backward_of_layer_norm(dy, x_hat, ms, gamma, eps=1e-5):
    """the mean of dy times gamma is subtracted, although nothing was centered"""
    return forms.layernorm_backward(dy, x_hat, ms, gamma, eps)[:2]


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


@SPATIAL_BATCHNORM_FORWARD.mistake(
    "mean of the images' variances", S1, "published batch norms for images"
)
def mean_of_variances(x, gamma, beta, eps=1e-5):
    """the images' variances are averaged, and what their means differ by is lost"""
    mu, var = x.mean((0, 2, 3)), x.var((2, 3)).mean(0)
    x_hat = (x - per_channel(mu, x)) / np.sqrt(per_channel(var, x) + eps)
    return per_channel(gamma, x) * x_hat + per_channel(beta, x), mu, var


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
