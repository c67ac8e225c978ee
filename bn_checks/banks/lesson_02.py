"""Checks of lesson 02, the backward pass."""

import numpy as np

from bn_helpers import gradcheck, norms

from ..common import batch, moments, same_dtype
from ..drivers.lesson_02 import drive_layer, drive_numerical_gradient
from ..engine import Exercise, Mistake, Property

S1 = "section 1, Measure a gradient"
S3 = "section 3, Go back through scale and shift"
S4 = "section 4, Go back through the normalization"
S5 = "section 5, Collapse it to one line"
S8 = "section 8, Go back in evaluation mode"
S9 = "section 9, Tell nearly right from right"
S11 = "section 11, Assemble the layer"


def upstream(rng, N, D):
    """A random upstream gradient, with a part that all samples share."""
    return rng.normal(size=(N, D)) + rng.normal(0, 2, D)


def _inverse_std(var, eps):
    return 1 / np.sqrt(var + eps)


# --- numerical_gradient --------------------------------------------------------------


def numerical_cases(rng):
    def case(function, shape, *h):
        return (function, rng.normal(size=shape), rng.normal(size=shape), *h)

    return [
        case("weighted cubes", (4, 3), 1e-3),
        case("normalized", (8, 2)),
        case("first entry times last", (5,), 1e-2),
        case("weighted cubes", (2, 3, 2), 1e-2),
    ]


def forward_difference(f, x, h=1e-5):
    def slope(i):
        above = x.copy()
        above[i] += h
        return (f(above) - f(x)) / h

    return _per_entry(slope, x)


def shared_array(f, x, h=1e-5):
    x = x.copy()

    def slope(i):
        above = below = x
        above[i] += h
        below[i] -= h
        return (f(above) - f(below)) / (2 * h)

    return _per_entry(slope, x)


def all_at_once(f, x, h=1e-5):
    return np.full(x.shape, (f(x + h) - f(x - h)) / (2 * h))


def not_restored_exactly(f, x, h=1e-5):
    def slope(i):
        x[i] += h
        above = f(x)
        x[i] -= 2 * h
        below = f(x)
        x[i] += h
        return (above - below) / (2 * h)

    return _per_entry(slope, x)


def _per_entry(slope, x):
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        gradient[i] = slope(i)
    return gradient


NUMERICAL_MISTAKES = (
    Mistake(
        "forward difference",
        "You step to one side only; the error is then of the order of h, not of h².",
        S1,
        "apache/mxnet #3693",
        forward_difference,
    ),
    Mistake(
        "one array under two names",
        "Your two moved arrays are one array under two names, so the steps cancel.",
        S1,
        "HomericIntelligence/Odyssey #2089",
        shared_array,
    ),
    Mistake(
        "all entries at once",
        "You move all entries together; each entry of the gradient needs its own step.",
        S1,
        "the source homework",
        all_at_once,
    ),
    Mistake(
        "x not restored exactly",
        "Adding h, taking 2h and adding h again leaves rounding residues behind.",
        S1,
        "the source solution set",
        not_restored_exactly,
        shows="leaves its inputs as they were",
    ),
)

NUMERICAL_GRADIENT = Exercise(
    "numerical_gradient",
    gradcheck.numerical_gradient,
    ("f", "x", "weights", "h"),
    ("gradient",),
    numerical_cases,
    mistakes=NUMERICAL_MISTAKES,
    drive=drive_numerical_gradient,
)


# --- param_gradients -----------------------------------------------------------------


def param_reference(dy, x_hat):
    return (dy * x_hat).sum(0), dy.sum(0)


def param_cases(rng):
    def case(N, D):
        x_hat, _ = norms.normalize_forward(batch(rng, N, D)[0], (0,))
        return upstream(rng, N, D), x_hat

    return [case(12, 5), case(9, 3), case(8, 17)]


def params_averaged(dy, x_hat):
    return (dy * x_hat).mean(0), dy.mean(0)


def params_swapped(dy, x_hat):
    return dy.sum(0), (dy * x_hat).sum(0)


def params_of_each_sample(dy, x_hat):
    return dy * x_hat, dy


def params_over_features(dy, x_hat):
    return (dy * x_hat).sum(1), dy.sum(1)


def params_over_everything(dy, x_hat):
    return (dy * x_hat).sum(), dy.sum()


def beta_from_the_input(dy, x_hat):
    return (dy * x_hat).sum(0), x_hat.sum(0)


AVERAGED = (
    "mean for sum",
    "You average over the batch; a parameter that every sample uses gets the sum.",
    S3,
    "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
)
SWAPPED = (
    "gamma and beta swapped",
    "You return the gradient of beta where that of gamma belongs, and the reverse.",
    S3,
    "Oneflow-Inc/oneflow #6149",
)

PARAM_MISTAKES = (
    Mistake(*AVERAGED, params_averaged),
    Mistake(*SWAPPED, params_swapped),
    Mistake(
        "not summed",
        "You return one gradient per sample; every sample uses the same gamma and "
        "beta, so the contributions add up.",
        S3,
        "deeplearning4j/nd4j #2424; jimfleming/differentiation #1",
        params_of_each_sample,
    ),
    Mistake(
        "summed over the features",
        "You sum over the features and keep the samples; gamma and beta belong to a "
        "feature.",
        S3,
        "published batch-norm layers that sum along axis 1",
        params_over_features,
    ),
    Mistake(
        "one sum for all features",
        "You sum over samples and features; each feature has its own gamma and beta.",
        S3,
        "a published CS231n solution, batchnorm_backward: np.sum(dout)",
        params_over_everything,
    ),
    Mistake(
        "beta's gradient from the input",
        "Your dbeta adds up x_hat; beta meets no input on its way to y, so only dy "
        "counts.",
        S3,
        "pytorch #2330",
        beta_from_the_input,
    ),
)

PARAM_GRADIENTS = Exercise(
    "param_gradients",
    param_reference,
    ("dy", "x_hat"),
    ("dgamma", "dbeta"),
    param_cases,
    extra=(same_dtype(("dgamma", "dbeta")),),
    mistakes=PARAM_MISTAKES,
)


# --- batchnorm_backward_staged -------------------------------------------------------

# mistakes that weigh the paths into dx wrongly: name, sentence, section, source, and
# the weights of the path through the variance and of the path through the mean
DETACHED = (
    "detached statistics",
    "You treat mean and variance as constants; in training they depend on x.",
    S9,
    "fast.ai course-v3 07_batchnorm; keras PR #19102; deeplearning4j #8379",
)
WRONG_PATHS = (
    (
        "variance path missing",
        "Moving x moves the variance, and with it every x_hat; that path is missing.",
        S4,
        "abhiskk/ladder #2",
        lambda N, D: (0, 1),
    ),
    (
        "mean path missing",
        "Moving x moves the mean, and with it every x_hat; that path is missing.",
        S4,
        "keras PR #19102",
        lambda N, D: (1, 0),
    ),
    (*DETACHED, lambda N, D: (0, 0)),
    (
        "mean path not divided by N",
        "Each sample moves the mean by 1/N of its own step only.",
        S4,
        "mlpack PR #1327",
        lambda N, D: (1, N),
    ),
    (
        "divided by N − 1",
        "Your variance path is that of the variance that divides by N − 1; this one "
        "divides by N.",
        S9,
        "makemore part 4, cells 19 and 20",
        lambda N, D: (N / (N - 1), 1),
    ),
    (
        "divided by the number of features",
        "You divide by D; the statistics are averages over the N samples.",
        S4,
        "RubixML/ML #423",
        lambda N, D: (N / D, N / D),
    ),
)
NO_GAMMA = (
    "gamma left out",
    "Your gradient of x does not depend on gamma; y is gamma times x_hat.",
    S3,
    "denizyuret/Knet.jl #288",
)
NO_EPS = (
    "eps left out",
    "Your result does not depend on eps; forward and backward must share it.",
    S4,
    "chainer #4191",
)


def staged(dy, x, mu, var, gamma, eps=1e-5, through_var=1, through_mean=1):
    """The staged backward pass; mistakes weigh two of its paths wrongly."""
    inv_std = _inverse_std(var, eps)
    dx_hat = dy * gamma
    dvar = (dx_hat * (x - mu)).sum(0) * -0.5 * inv_std**3
    dmu = -(dx_hat * inv_std).sum(0)
    dx = dx_hat * inv_std
    dx += (through_var * dvar * 2 * (x - mu) + through_mean * dmu) / len(x)
    return dx_hat, dvar, dmu, dx


def staged_by_path(weights):
    def wrong(dy, x, mu, var, gamma, eps=1e-5):
        return staged(dy, x, mu, var, gamma, eps, *weights(*x.shape))

    return wrong


def staged_no_gamma(dy, x, mu, var, gamma, eps=1e-5):
    return staged(dy, x, mu, var, np.ones_like(gamma), eps)


def staged_no_eps(dy, x, mu, var, gamma, eps=1e-5):
    return staged(dy, x, mu, var, gamma, 0)


def staged_sign(dy, x, mu, var, gamma, eps=1e-5):
    dx_hat, dvar, dmu, dx = staged(dy, x, mu, var, gamma, eps, through_var=-1)
    return dx_hat, -dvar, dmu, dx


def staged_cases(rng):
    def case(N, D, *eps):
        x, gamma, _ = batch(rng, N, D)
        return (upstream(rng, N, D), x, x.mean(0), x.var(0), gamma, *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


STAGED_MISTAKES = (
    Mistake(*NO_GAMMA, staged_no_gamma),
    Mistake(*NO_EPS, staged_no_eps),
    Mistake(
        "sign of the variance path",
        "Your dvar has the wrong sign: a larger variance makes x_hat smaller.",
        S4,
        "mlpack PR #1327",
        staged_sign,
    ),
    *(Mistake(*facts, staged_by_path(weights)) for *facts, weights in WRONG_PATHS),
)

STAGED_OUTPUTS = ("dx_hat", "dvar", "dmu", "dx")

BATCHNORM_BACKWARD_STAGED = Exercise(
    "batchnorm_backward_staged",
    staged,
    ("dy", "x", "mu", "var", "gamma", "eps"),
    STAGED_OUTPUTS,
    staged_cases,
    extra=(same_dtype(STAGED_OUTPUTS),),
    mistakes=STAGED_MISTAKES,
    weights=(1, 1, 1, 2),
)


# --- batchnorm_backward --------------------------------------------------------------


def closed(dy, x_hat, var, gamma, eps=1e-5, through_var=1, through_mean=1):
    """The closed form; mistakes weigh the terms of variance and mean wrongly."""
    dgamma, dbeta = param_reference(dy, x_hat)
    paths = (through_mean * dbeta + through_var * x_hat * dgamma) / len(dy)
    return gamma * _inverse_std(var, eps) * (dy - paths), dgamma, dbeta


def closed_by_path(weights):
    def wrong(dy, x_hat, var, gamma, eps=1e-5):
        return closed(dy, x_hat, var, gamma, eps, *weights(*dy.shape))

    return wrong


def gamma_twice(dy, x_hat, var, gamma, eps=1e-5):
    dx, dgamma, dbeta = closed(dy, x_hat, var, gamma, eps)
    return gamma * dx, dgamma, dbeta


def closed_no_gamma(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, np.ones_like(gamma), eps)


def closed_no_eps(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, gamma, 0)


def closed_params_averaged(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, gamma, eps)[0], *params_averaged(dy, x_hat)


def closed_params_swapped(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, gamma, eps)[0], *params_swapped(dy, x_hat)


def backward_cases(rng):
    def case(N, D, *eps):
        x, gamma, beta = batch(rng, N, D)
        cache = norms.batchnorm_forward(x, gamma, beta, *eps)[1]
        return (upstream(rng, N, D), cache.x_hat, cache.var, gamma, *eps)

    return [case(12, 5), case(9, 3, 0.1), case(8, 17, 1e-3)]


BACKWARD_MISTAKES = (
    Mistake(
        "gamma twice",
        "Gamma enters your gradient of x twice: once by name, once inside dx_hat.",
        S5,
        "the source article; NVIDIA/Megatron-LM #6859",
        gamma_twice,
    ),
    Mistake(*NO_GAMMA, closed_no_gamma),
    Mistake(*NO_EPS, closed_no_eps),
    *(Mistake(*facts, closed_by_path(weights)) for *facts, weights in WRONG_PATHS),
    Mistake(*AVERAGED, closed_params_averaged),
    Mistake(*SWAPPED, closed_params_swapped),
)

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
    closed,
    ("dy", "x_hat", "var", "gamma", "eps"),
    GRADIENTS,
    backward_cases,
    extra=(
        same_dtype(GRADIENTS),
        Property("every column of dx sums to 0", _sums_to_zero, 0.5),
    ),
    mistakes=BACKWARD_MISTAKES,
    weights=(3, 1, 1),
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


def inference_training_formula(dy, x, gamma, running_mean, running_var, eps=1e-5):
    x_hat = (x - running_mean) * _inverse_std(running_var, eps)
    return closed(dy, x_hat, running_var, gamma, eps)


def inference_batch_statistics(dy, x, gamma, running_mean, running_var, eps=1e-5):
    x_hat = (x - x.mean(0)) * _inverse_std(x.var(0), eps)
    return closed(dy, x_hat, x.var(0), gamma, eps)


def inference_no_eps(dy, x, gamma, running_mean, running_var, eps=1e-5):
    return norms.batchnorm_inference_backward(
        dy, x, gamma, running_mean, running_var, eps=0
    )


def inference_params_averaged(dy, x, gamma, running_mean, running_var, eps=1e-5):
    dx, dgamma, dbeta = norms.batchnorm_inference_backward(
        dy, x, gamma, running_mean, running_var, eps
    )
    return dx, dgamma / len(dy), dbeta / len(dy)


TRAINING_FORMULA = (
    "training formula in evaluation",
    "You kept the paths through mean and variance; fixed statistics have none.",
    S8,
    "the source tutorial; vlfeat/matconvnet #1174",
)

INFERENCE_MISTAKES = (
    Mistake(*TRAINING_FORMULA, inference_training_formula),
    Mistake(
        "batch statistics in evaluation",
        "You use the mean and variance of this batch; evaluation used the stored ones.",
        S8,
        "torch/nn #768; pytorch/xla #913",
        inference_batch_statistics,
    ),
    Mistake(*NO_EPS[:2], S8, "chainer #4191", inference_no_eps),
    Mistake(*AVERAGED, inference_params_averaged),
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
    mistakes=INFERENCE_MISTAKES,
    weights=(2, 1, 1),
)


# --- BatchNorm1d ---------------------------------------------------------------------


def layer_cases(rng):
    def case(N, D, eps, momentum):
        x, gamma, beta = batch(rng, 3 * N + 4, D)
        dy = upstream(rng, 3 * N + 4, D) / N
        batches, dys = x[: 3 * N].reshape(3, N, D), dy[: 3 * N].reshape(3, N, D)
        return batches, dys, gamma, beta, x[3 * N :], dy[3 * N :], eps, momentum

    return [case(12, 5, 1e-5, 0.1), case(9, 3, 0.1, 0.3)]


class StartsAtZero(norms.BatchNorm1d):
    def __init__(self, D, eps=1e-5, momentum=0.1):
        super().__init__(D, eps, momentum)
        self.running_var = np.zeros(D)


class BiasedRunningVar(norms.BatchNorm1d):
    def statistics(self, x):
        if not self.training:
            return self.running_mean, self.running_var
        mu, var, keep = x.mean(0), x.var(0), 1 - self.momentum
        self.running_mean = keep * self.running_mean + self.momentum * mu
        self.running_var = keep * self.running_var + self.momentum * var
        return mu, var


class MomentumReversed(norms.BatchNorm1d):
    def __init__(self, D, eps=1e-5, momentum=0.1):
        super().__init__(D, eps, 1 - momentum)


class NeverUpdated(norms.BatchNorm1d):
    def statistics(self, x):
        if not self.training:
            return self.running_mean, self.running_var
        return x.mean(0), x.var(0)


class UpdatedInEvaluation(norms.BatchNorm1d):
    def statistics(self, x):
        used = self.running_mean, self.running_var
        mu, var = x.mean(0), x.var(0)
        self.running_mean, self.running_var = norms.update_running_stats(
            *used, mu, var, len(x), self.momentum
        )
        return (mu, var) if self.training else used


class BatchStatisticsInEvaluation(norms.BatchNorm1d):
    def statistics(self, x):
        mu, var = x.mean(0), x.var(0)
        return super().statistics(x) if self.training else (mu, var)


class TrainingBackwardInEvaluation(norms.BatchNorm1d):
    def backward(self, dy):
        training, self.training = self.training, True
        dx = super().backward(dy)
        self.training = training
        return dx


class DetachedStatistics(norms.BatchNorm1d):
    def backward(self, dy):
        super().backward(dy)
        return self.gamma * self.inv_std * dy


class AveragedGradients(norms.BatchNorm1d):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dgamma, self.dbeta = self.dgamma / len(dy), self.dbeta / len(dy)
        return dx


LAYER_MISTAKES = (
    Mistake(
        "running variance starts at 0",
        "Your running variance starts at 0, so a new layer in evaluation mode divides "
        "by the root of eps; it starts at 1.",
        S11,
        "chainer #879; d2l-en PR #1591; equinox #955",
        StartsAtZero,
    ),
    Mistake(
        "biased running variance",
        "You store the variance that divides by N; the stored one divides by N − 1.",
        S11,
        "the source tutorial; ARENA_3.0 #415",
        BiasedRunningVar,
    ),
    Mistake(
        "momentum reversed",
        "You give the new batch the weight 1 − momentum; here momentum is the weight "
        "of the new batch.",
        S11,
        "cs231n.github.io #180; d2l-en #2213",
        MomentumReversed,
    ),
    Mistake(
        "statistics never updated",
        "Your running statistics stay where they started; training must update them.",
        S11,
        "pytorch/xla #806",
        NeverUpdated,
    ),
    Mistake(
        "statistics updated in evaluation",
        "You change the running statistics while evaluating: the test data leak in.",
        S11,
        "nn-zero-to-hero #82",
        UpdatedInEvaluation,
    ),
    Mistake(
        "batch statistics in evaluation",
        "In evaluation mode you normalize with the batch you were given; use the "
        "stored statistics.",
        S11,
        "the source article; keras #3085",
        BatchStatisticsInEvaluation,
    ),
    Mistake(*TRAINING_FORMULA, TrainingBackwardInEvaluation),
    Mistake(*DETACHED, DetachedStatistics),
    Mistake(*AVERAGED, AveragedGradients),
)

BATCHNORM1D = Exercise(
    "batchnorm1d",
    norms.BatchNorm1d,
    ("batches", "dys", "gamma", "beta", "probe", "dprobe", "eps", "momentum"),
    (
        "a new layer's gamma, beta, running_mean, running_var",
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
    ),
    layer_cases,
    mistakes=LAYER_MISTAKES,
    weights=(0.5, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1),
    drive=drive_layer,
)

EXERCISES = (
    NUMERICAL_GRADIENT,
    PARAM_GRADIENTS,
    BATCHNORM_BACKWARD_STAGED,
    BATCHNORM_BACKWARD,
    BATCHNORM_INFERENCE_BACKWARD,
    BATCHNORM1D,
)
