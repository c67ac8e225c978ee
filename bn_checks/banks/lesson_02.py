"""Checks of lesson 02, the backward pass."""

import numpy as np

from bn_helpers import gradcheck, norms

from ..changes import changed
from ..common import batch, moments, same_dtype
from ..drivers.lesson_02 import (
    drive_claims,
    drive_layer,
    drive_line_ups,
    drive_numerical_gradient,
)
from ..engine import Exercise, Property
from ..forms import lesson_02 as forms

S1 = "section 1, Measure a gradient"
S8 = "section 8, Go back in evaluation mode"
S11 = "section 11, Assemble the layer"
S9 = "section 9, Tell nearly right from right"


def upstream(rng, N, D):
    """A random upstream gradient, with a part that all samples share."""
    return rng.normal(size=(N, D)) + rng.normal(0, 2, D)


# --- numerical_gradient --------------------------------------------------------------


def numerical_cases(rng):
    def case(function, shape, *h):
        return (function, rng.normal(size=shape), rng.normal(size=shape), *h)

    return [
        case("weighted cubes", (4, 3), 1e-4),
        case("normalized", (8, 2)),
        case("first entry times last", (5,), 1e-3),
        case("weighted cubes", (2, 3, 2), 3e-4),
    ]


NUMERICAL_GRADIENT = Exercise(
    "numerical_gradient",
    gradcheck.numerical_gradient,
    ("f", "x", "weights", "h"),
    ("gradient",),
    numerical_cases,
    drive=drive_numerical_gradient,
    tolerance=3e-6,  # any symmetric difference will do
    forms=(forms.numerical_gradient,),
)


@NUMERICAL_GRADIENT.mistake(
    "x not restored exactly",
    S1,
    "the source solution set",
    shows="leaves its inputs as they were",
)
def not_restored_exactly(f, x, h=1e-5):
    """Adding h, taking 2h and adding h again leaves rounding residues behind."""

    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        x[i] += h
        above = f(x)
        x[i] -= 2 * h
        below = f(x)
        x[i] += h
        gradient[i] = (above - below) / (2 * h)
    return gradient


# --- param_gradients -----------------------------------------------------------------


def param_cases(rng):
    def case(N, D):
        x_hat, _ = norms.normalize_forward(batch(rng, N, D)[0], (0,))
        return upstream(rng, N, D), x_hat

    return [case(12, 5), case(9, 3), case(8, 17)]


PARAM_GRADIENTS = Exercise(
    "param_gradients",
    forms.param_gradients,
    ("dy", "x_hat"),
    ("dgamma", "dbeta"),
    param_cases,
    extra=(same_dtype(("dgamma", "dbeta")),),
)


# --- batchnorm_backward_staged -------------------------------------------------------


def staged_cases(rng):
    def case(N, D, *eps):
        x, gamma, _ = batch(rng, N, D)
        return (upstream(rng, N, D), x, x.mean(0), x.var(0), gamma, *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


STAGED_OUTPUTS = ("dx_hat", "dvar", "dmu", "dx")


BATCHNORM_BACKWARD_STAGED = Exercise(
    "batchnorm_backward_staged",
    forms.batchnorm_backward_staged,
    ("dy", "x", "mu", "var", "gamma", "eps"),
    STAGED_OUTPUTS,
    staged_cases,
    extra=(same_dtype(STAGED_OUTPUTS),),
    weights=(1, 1, 1, 2),
    forms=(forms.batchnorm_backward_staged, forms.staged_by_powers),
)


BATCHNORM_BACKWARD_STAGED.mistakes += changed(
    forms.batchnorm_backward_staged,
    S9,
    """
    detached statistics: mean and variance are taken for constants, although they depend
    on x
        + dvar * (2 * (x - mu)) / N + dmu / N -> + 0
        seen in fast.ai course-v3 07_batchnorm; keras PR #19102; deeplearning4j #8379
    """,
)


# --- batchnorm_backward --------------------------------------------------------------


def backward_cases(rng):
    def case(N, D, *eps):
        x, gamma, beta = batch(rng, N, D)
        cache = norms.batchnorm_forward(x, gamma, beta, *eps)[1]
        return (upstream(rng, N, D), cache.x_hat, cache.var, gamma, *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


GRADIENTS = ("dx", "dgamma", "dbeta")


def _sums_to_zero(trial):
    """Adding a constant to a feature changes nothing, so its gradients cancel."""
    (dx, _, _), _ = trial.run(trial.cases[0])
    off = np.abs(dx.sum(0)).max()
    if off < 1e-9:
        return ()
    return (f"a column of dx sums to {off:.3g}, want 0",)


BATCHNORM_BACKWARD = Exercise(
    "batchnorm_backward",
    forms.batchnorm_backward,
    ("dy", "x_hat", "var", "gamma", "eps"),
    GRADIENTS,
    backward_cases,
    extra=(
        same_dtype(GRADIENTS),
        Property("every column of dx sums to 0", _sums_to_zero, 0.5),
    ),
    weights=(3, 1, 1),
    forms=(forms.batchnorm_backward, forms.backward_by_sums, forms.backward_over_axes),
)


# --- batchnorm_inference_backward ----------------------------------------------------


def inference_cases(rng):
    def case(N, D, *eps):
        x, gamma, _ = batch(rng, N, D)
        return (upstream(rng, N, D), x, gamma, *moments(rng, D), *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


def _alone_as_in_company(trial):
    dy, x, *rest = trial.cases[0]
    (whole, _, _), _ = trial.run((dy, x, *rest))
    (alone, _, _), _ = trial.run((dy[:1], x[:1], *rest))
    if np.allclose(whole[:1], alone):
        return ()
    return (
        f"dx[0, 0] is {alone[0, 0]:.6g} alone and {whole[0, 0]:.6g} in a batch",
        "with fixed statistics no sample reaches another",
    )


BATCHNORM_INFERENCE_BACKWARD = Exercise(
    "batchnorm_inference_backward",
    norms.batchnorm_inference_backward,
    ("dy", "x", "gamma", "running_mean", "running_var", "eps"),
    GRADIENTS,
    inference_cases,
    extra=(
        same_dtype(GRADIENTS),
        Property("one sample alone gets what it gets in a batch", _alone_as_in_company),
    ),
    weights=(2, 1, 1),
    forms=(forms.batchnorm_inference_backward,),
)


BATCHNORM_INFERENCE_BACKWARD.mistakes += changed(
    forms.batchnorm_inference_backward,
    S8,
    """
    training formula in evaluation: the paths through mean and variance are kept, which
    fixed statistics lack
        dx = dy -> dx = (dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0))
        seen in the source tutorial; vlfeat/matconvnet #1174
    batch statistics in evaluation: mean and variance of this batch are used, and the
    paths through them
        np.sqrt(running_var -> np.sqrt(x.var(0)
        (x - running_mean) -> (x - x.mean(0))
        dx = dy -> dx = (dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0))
        seen in torch/nn #768; pytorch/xla #913
    """,
)


# --- BatchNorm1d ---------------------------------------------------------------------


def layer_cases(rng):
    def case(N, D, eps, momentum):
        x, gamma, beta = batch(rng, 3 * N + 4, D)
        dy = upstream(rng, 3 * N + 4, D) / N
        batches, dys = x[: 3 * N].reshape(3, N, D), dy[: 3 * N].reshape(3, N, D)
        return batches, dys, gamma, beta, x[3 * N :], dy[3 * N :], eps, momentum

    return [case(12, 5, 1e-5, 0.1), case(9, 3, 0.1, 0.3)]


BATCHNORM1D = Exercise(
    "batchnorm1d",
    norms.BatchNorm1d,
    ("batches", "dys", "gamma", "beta", "probe", "dprobe", "eps", "momentum"),
    (
        "gamma, beta, running_mean, running_var of a new layer",
        "y in training",
        "dx in training",
        "dgamma",
        "dbeta",
        "gamma after two steps",
        "beta after two steps",
        "running_mean in the end",
        "running_var in the end",
        "y in evaluation",
        "dx in evaluation",
        "dgamma in evaluation",
        "dbeta in evaluation",
        "y back in training",
    ),
    layer_cases,
    weights=(0.5, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 1.5, 1.5, 0.25, 0.25, 0.5),
    drive=drive_layer,
    forms=(forms.Layer,),
)


BATCHNORM1D.mistakes += changed(
    forms.Layer,
    S11,
    """
    batch statistics in evaluation: evaluation normalizes with the batch it was given,
    not the stored ones
        mu, var = self.running_mean, self.running_var -> mu, var = x.mean(0), x.var(0)
        seen in the source article; keras #3085
    """,
)


def _inverse_std(var, eps):
    return 1 / np.sqrt(var + eps)


def weighted(dy, x_hat, var, gamma, eps=1e-5, through_var=1, through_mean=1):
    """The closed form, with the terms of variance and mean weighed."""
    dgamma, dbeta = (dy * x_hat).sum(0), dy.sum(0)
    paths = (through_mean * dbeta + through_var * x_hat * dgamma) / len(dy)
    return gamma * _inverse_std(var, eps) * (dy - paths), dgamma, dbeta


# --- variance_path -------------------------------------------------------------------


def variance_reference(dx_hat, x, mu, var, eps=1e-5):
    return -0.5 * (dx_hat * (x - mu)).sum(0) * _inverse_std(var, eps) ** 3


def path_cases(rng):
    def case(N, D, *eps):
        x, _, _ = batch(rng, N, D)
        return (upstream(rng, N, D), x, x.mean(0), x.var(0), *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


VARIANCE_PATH = Exercise(
    "variance_path",
    variance_reference,
    ("dx_hat", "x", "mu", "var", "eps"),
    ("dvar",),
    path_cases,
    extra=(same_dtype(("dvar",)),),
    forms=(variance_reference, forms.variance_path),
)


# --- mean_paths ----------------------------------------------------------------------


def mean_reference(dx_hat, x, center, var, dvar, eps=1e-5):
    direct = -dx_hat.sum(0) * _inverse_std(var, eps)
    return direct, -2 * dvar * (x - center).mean(0)


def mean_cases(rng):
    def case(N, D, *eps):
        x, _, _ = batch(rng, N, D)
        center = x.mean(0) + x.std(0) * rng.uniform(0.5, 1.5, D)
        var = ((x - center) ** 2).mean(0)
        return (upstream(rng, N, D), x, center, var, rng.normal(0, 2, D), *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


MEAN_PATHS = Exercise(
    "mean_paths",
    mean_reference,
    ("dx_hat", "x", "center", "var", "dvar", "eps"),
    ("direct", "through_var"),
    mean_cases,
    extra=(same_dtype(("direct", "through_var")),),
    forms=(mean_reference, forms.mean_paths),
)


# --- find_wrong_backward -------------------------------------------------------------

# what a suspect's code weighs wrongly: the paths through the variance and the mean
SUSPECTS = {
    "detached statistics": lambda N: (0, 0),
    "variance path missing": lambda N: (0, 1),
    "mean path missing": lambda N: (1, 0),
    "divided by N − 1": lambda N: (N / (N - 1), 1),
}


def line_up_cases(rng):
    def line_up(N, D, K, weights):
        x, gamma, beta = batch(rng, N, D)
        x = x / x.std(0)  # so that eps cannot be seen
        cache = norms.batchnorm_forward(x, gamma, beta)[1]
        dx = [
            weighted(upstream(rng, N, D), cache.x_hat, cache.var, gamma)[0]
            for _ in range(K)
        ]
        at, dy = rng.integers(K), upstream(rng, N, D)
        dx[at] = weighted(dy, cache.x_hat, cache.var, gamma, 1e-5, *weights(N))[0]
        dx = dx * 10 ** rng.uniform(-2, 2, (K, 1, 1))  # size tells nothing
        return cache.x_hat, dx

    def group(weights, N, D, K, tries=8):
        ups = [line_up(N, D, K, weights) for _ in range(tries)]
        return [np.array(part) for part in zip(*ups, strict=True)]

    def case(N, D, K):
        parts = [group(weights, N, D, K) for weights in SUSPECTS.values()]
        return tuple(array for pair in parts for array in pair)

    return [case(12, 5, 4), case(8, 3, 6)]


def find_wrong_backward(x_hat, dx):
    return _most_suspect(dx, dx.sum(1), np.einsum("knd,nd->kd", dx, x_hat))


def _most_suspect(dx, *sums):
    worst = np.max([np.abs(s).max(1) for s in sums], axis=0)
    return int((worst / np.abs(dx).max((1, 2))).argmax())


FIND_WRONG_BACKWARD = Exercise(
    "find_wrong_backward",
    find_wrong_backward,
    tuple(f"{part} ({name})" for name in SUSPECTS for part in ("x_hat", "dx")),
    tuple(f"index ({name})" for name in SUSPECTS),
    line_up_cases,
    drive=drive_line_ups,
    forms=(forms.find_wrong_backward,),
)


# --- gradients_agree -----------------------------------------------------------------


def _spoiled(fault, truth, dy, x, gamma, rng):
    """The claim of code with this fault."""
    dx, dgamma, dbeta = (value.copy() for value in truth)
    N = len(x)
    x_hat, _ = norms.normalize_forward(x, (0,))
    if fault == "gamma left out":
        dx = weighted(dy, x_hat, x.var(0), np.ones_like(gamma))[0]
    elif fault == "variance path missing":
        dx = weighted(dy, x_hat, x.var(0), gamma, through_var=0)[0]
    elif fault == "divided by N − 1":
        dx = weighted(dy, x_hat, x.var(0), gamma, through_var=N / (N - 1))[0]
    elif fault == "one element wrong":
        dx[tuple(rng.integers(dx.shape))] += 0.01 * np.abs(dx).max()
    elif fault == "dgamma averaged":
        dgamma = dgamma / N
    else:
        dbeta = upstream(rng, *x.shape).sum(0)
    return dx, dgamma, dbeta


FAULTS = (
    "gamma left out",
    "variance path missing",
    "divided by N − 1",
    "one element wrong",
    "dgamma averaged",
    "dbeta from elsewhere",
)


def claim_cases(rng):
    """One case: for each fault, right claims and claims with the fault, shuffled."""

    def claim(fault, right):
        x, gamma, beta = batch(rng, 9, 3)
        x, dy = x / x.std(0), upstream(rng, 9, 3)
        x_hat, _ = norms.normalize_forward(x, (0,))
        truth = weighted(dy, x_hat, x.var(0), gamma)
        wrong = _spoiled(fault, truth, dy, x, gamma, rng)
        return x, gamma, beta, dy, *(truth if right else wrong)

    claims = [
        claim(fault, right)
        for fault in FAULTS
        for right in rng.permutation([True, True, False, False])
    ]
    return [tuple(np.array(part) for part in zip(*claims, strict=True))]


def _agreement(chosen):
    def verdict(x, gamma, beta, dy, *claim):
        x_hat, _ = norms.normalize_forward(x, (0,))
        truth = weighted(dy, x_hat, x.var(0), gamma)
        return all(np.allclose(truth[k], claim[k], 1e-4, 1e-4) for k in chosen)

    return verdict


GRADIENTS_AGREE = Exercise(
    "gradients_agree",
    _agreement((0, 1, 2)),
    ("x", "gamma", "beta", "dy", "dx", "dgamma", "dbeta"),
    tuple(f"verdicts ({fault})" for fault in FAULTS),
    claim_cases,
    drive=drive_claims,
)


EXERCISES = (
    NUMERICAL_GRADIENT,
    PARAM_GRADIENTS,
    BATCHNORM_BACKWARD_STAGED,
    BATCHNORM_BACKWARD,
    BATCHNORM_INFERENCE_BACKWARD,
    BATCHNORM1D,
    VARIANCE_PATH,
    MEAN_PATHS,
    FIND_WRONG_BACKWARD,
    GRADIENTS_AGREE,
)
