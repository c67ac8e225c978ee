"""Checks of lesson 07, the debugging clinic: arrays are feature-major, (D, N)."""

import numpy as np

from bn_helpers.gradcheck import direction_and_size

from ..drivers.lesson_07 import drive_torch_batchnorm
from ..engine import Exercise, Mistake, Property, difference

S2 = "section 2, Measure a gradient's direction and size"
S3 = "section 3, Send the gradient back through the weights"
S4 = "section 4, Divide by the batch once"
S5 = "section 5, Take gradients behind the norm"
S6 = "section 6, Ask ReLU where it stood"
S7 = "section 7, Read a formula to the letter"
S9 = "section 9, Predict one image"
S10 = "section 10, Leave the logits alone"
S11 = "section 11, Survive float32"
S12 = "section 12, Mend a module from the wild"

try:
    import torch
    from torch import nn

    Module = nn.Module
except ImportError:  # the NumPy exercises are judged without it
    Module = object

EPS = 1e-5
ARTICLE = "the source article"


def rows(a):
    """Sum over the samples; one column stays."""
    return a.sum(axis=1, keepdims=True)


def moments(z):
    """Mean and biased variance over the samples, (D, 1)."""
    return z.mean(axis=1, keepdims=True), z.var(axis=1, keepdims=True)


def features(rng, D, N):
    """An affine layer's output: features differ in mean, spread and skew."""
    scale = rng.permutation(np.geomspace(0.1, 5, D))[:, None]
    skewed = rng.exponential(1, (D, N)) + 0.3 * rng.normal(size=(D, N))
    return rng.normal(0, 2, (D, 1)) + scale * skewed


def normalized(rng, D, N):
    """What a forward pass has kept: z, its x_hat and its variance."""
    z = features(rng, D, N)
    mu, var = moments(z)
    return z, (z - mu) / np.sqrt(var + EPS), var


def scale_and_shift(rng, D):
    return rng.uniform(0.5, 2, (D, 1)), rng.normal(0, 1, (D, 1))


def upstream(rng, D, N):
    """A random gradient, with a part that all samples share."""
    return (rng.normal(size=(D, N)) + rng.normal(0, 2, (D, 1))) / N


# --- direction_and_size --------------------------------------------------------------


def arrow_cases(rng):
    def case(shape, size, true_size):
        truth = rng.normal(size=shape)
        gradient = truth + rng.normal(size=shape)
        return size * gradient, true_size * truth

    return [
        case((4, 6), 20, 1),
        case((5,), 1e-5, 1e-6),
        case((6, 1), 0.01, 1e-13),
        case((6, 1), 1e-14, 0.01),
        case((6, 1), 1e-13, 1e-14),
    ]


def _arrows(product, length, true_length):
    """Cosine and size with the rule for gradients that are 0 but for rounding."""

    def run(gradient, truth):
        lengths = np.linalg.norm(gradient), np.linalg.norm(truth)
        if min(lengths) < 1e-8:
            return direction_and_size(gradient, truth)
        cosine = product(gradient, truth)
        return cosine, length(gradient) / true_length(truth)

    return run


def _cosine(a, b):
    return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())


def _squares(a):
    return (a**2).sum()


def _row_cosines(a, b):
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    return np.mean([_cosine(*pair) for pair in zip(a, b, strict=True)])


roots_missing = _arrows(
    lambda a, b: (a * b).sum() / (_squares(a) * _squares(b)), _squares, _squares
)
row_by_row = _arrows(_row_cosines, np.linalg.norm, np.linalg.norm)
one_length_twice = _arrows(
    lambda a, b: (a * b).sum() / _squares(b), np.linalg.norm, np.linalg.norm
)


def rounding_has_a_direction(gradient, truth):
    length, true_length = np.linalg.norm(gradient), np.linalg.norm(truth)
    return (gradient * truth).sum() / (length * true_length), length / true_length


DIRECTION_AND_SIZE = Exercise(
    "direction_and_size",
    direction_and_size,
    ("gradient", "truth"),
    ("cosine", "size"),
    arrow_cases,
    mistakes=(
        Mistake(
            "roots missing",
            "You divide by sums of squares; a length is the root of such a sum.",
            S2,
            "iit-cs579/main #478; FoundationsMachineLearning-Fa18/LectureNotes #24",
            roots_missing,
        ),
        Mistake(
            "row by row",
            "You compare row by row and average; a gradient is one arrow, with as many "
            "components as the array has elements.",
            S2,
            "facebookresearch/WMReward #11: cosine_similarity over the wrong dimension",
            row_by_row,
        ),
        Mistake(
            "one length twice",
            "You divide by the square of one length; each of the two belongs there.",
            S2,
            "incanter #73; usnistgov/oscal-deep-diff #100",
            one_length_twice,
        ),
        Mistake(
            "rounding has a direction",
            "A gradient that is 0 but for rounding has neither direction nor size; you "
            "divide by its length all the same.",
            S2,
            "HKUDS/LightRAG #3421; sentence-transformers #625",
            rounding_has_a_direction,
        ),
    ),
)


# --- affine_backward -----------------------------------------------------------------


def affine_reference(dz, W, a):
    return W.T @ dz, dz @ a.T, rows(dz)


def affine_cases(rng):
    def case(D, N):
        return upstream(rng, D, N), rng.normal(size=(D, D)), rng.normal(size=(D, N))

    return [case(5, 12), case(4, 9)]


def _unequal_widths(trial):
    rng = trial.rng
    args = upstream(rng, 3, 10), rng.normal(size=(3, 6)), rng.normal(size=(6, 10))
    got, want = trial.run(args)
    for name, g, w in zip(trial.exercise.outputs, got, want, strict=True):
        lines = difference(name, g, w)
        if lines:
            return (*lines, "with 6 inputs and 3 outputs")
    return ()


def no_weights(dz, W, a):
    return dz, dz @ a.T, rows(dz)


def not_transposed(dz, W, a):
    return W @ dz, dz @ a.T, rows(dz)


def gradient_transposed(dz, W, a):
    return W.T @ dz, a @ dz.T, rows(dz)


def bias_averaged(dz, W, a):
    return W.T @ dz, dz @ a.T, dz.mean(axis=1, keepdims=True)


def one_bias(dz, W, a):
    return W.T @ dz, dz @ a.T, np.full((len(dz), 1), dz.sum())


AFFINE_BACKWARD = Exercise(
    "affine_backward",
    affine_reference,
    ("dz", "W", "a"),
    ("da", "dW", "db"),
    affine_cases,
    extra=(Property("also where the widths differ", _unequal_widths),),
    weights=(2, 1, 1),
    mistakes=(
        Mistake(
            "no weights",
            "You pass on dz as it is; on its way down it has to go back through W.",
            S3,
            ARTICLE,
            no_weights,
        ),
        Mistake(
            "W not transposed",
            "You multiply by W; each input gets back what it sent to all outputs, "
            "which is a column of W, not a row.",
            S3,
            "nntile/nntile #433: right only where the widths are equal",
            not_transposed,
        ),
        Mistake(
            "dW transposed",
            "Your dW is transposed; its rows belong to outputs, as those of W do.",
            S3,
            "iamtrask/Grokking-Deep-Learning #22, #23",
            gradient_transposed,
        ),
        Mistake(
            "bias gradient averaged",
            "You average db over the batch; the 1/N is in dz already.",
            S3,
            "kvfrans/notes #5",
            bias_averaged,
        ),
        Mistake(
            "one bias for all outputs",
            "You add up all of dz; each output has a bias of its own.",
            S3,
            "rasbt/stat453-deep-learning-ss21 #5",
            one_bias,
        ),
    ),
)


# --- parameter_gradients -------------------------------------------------------------


def shares_reference(dy, dz, x_hat, a):
    N = a.shape[1]
    return dz @ a.T / N, rows(dz) / N, rows(dy * x_hat) / N, rows(dy) / N


def shares_cases(rng):
    def case(fan_in, D, N):
        _, x_hat, _ = normalized(rng, D, N)
        dy, dz = N * upstream(rng, D, N), N * upstream(rng, D, N)
        return dy, dz, x_hat, rng.normal(size=(fan_in, N))

    return [case(6, 4, 12), case(3, 5, 20)]


def _divided_by(weights, norm):
    """The four gradients, divided by what two functions make of the shapes."""

    def run(dy, dz, x_hat, a):
        D, N = dz.shape
        w, n = weights(D, N), norm(D, N)
        return dz @ a.T / w, rows(dz) / w, rows(dy * x_hat) / n, rows(dy) / n

    return run


PARAMETER_GRADIENTS = Exercise(
    "parameter_gradients",
    shares_reference,
    ("dy", "dz", "x_hat", "a"),
    ("dW", "db", "dgamma", "dbeta"),
    shares_cases,
    mistakes=(
        Mistake(
            "sums for gamma and beta",
            "Your gradients of gamma and beta are those of the summed loss, N times "
            "too large; W and b get those of the mean.",
            S4,
            ARTICLE,
            _divided_by(lambda D, N: N, lambda D, N: 1),
        ),
        Mistake(
            "sums everywhere",
            "Your gradients belong to the sum of the losses, not to their mean: they "
            "grow with the batch.",
            S4,
            "mlpack/ensmallen #428; davharris/mistnet #33",
            _divided_by(lambda D, N: 1, lambda D, N: 1),
        ),
        Mistake(
            "divided twice",
            "You divide by the number of samples twice.",
            S4,
            "d2l-en #1000",
            _divided_by(lambda D, N: N**2, lambda D, N: N**2),
        ),
        Mistake(
            "divided by the number of features",
            "You divide by the number of features; the mean runs over the samples.",
            S4,
            "RubixML/ML #423; victorlempitsky/Mate #2",
            _divided_by(lambda D, N: D, lambda D, N: D),
        ),
    ),
)


# --- layer_backward ------------------------------------------------------------------


def behind_the_norm(dy, x_hat, var, gamma, eps=EPS):
    """dz in closed form."""
    N = dy.shape[1]
    passed = dy - rows(dy) / N - x_hat * rows(dy * x_hat) / N
    return gamma / np.sqrt(var + eps) * passed


def layer_reference(dy, x_hat, var, gamma, a):
    dz = behind_the_norm(dy, x_hat, var, gamma)
    return dz, dz @ a.T, rows(dz)


def layer_cases(rng):
    def case(fan_in, D, N):
        _, x_hat, var = normalized(rng, D, N)
        gamma, _ = scale_and_shift(rng, D)
        return upstream(rng, D, N), x_hat, var, gamma, rng.normal(size=(fan_in, N))

    return [case(6, 4, 12), case(3, 5, 9)]


def weights_too_early(dy, x_hat, var, gamma, a):
    dz = behind_the_norm(dy, x_hat, var, gamma)
    return dz, dy @ a.T, rows(dz)


def bias_too_early(dy, x_hat, var, gamma, a):
    dz = behind_the_norm(dy, x_hat, var, gamma)
    return dz, dz @ a.T, rows(dy)


def layer_detached(dy, x_hat, var, gamma, a):
    dz = gamma / np.sqrt(var + EPS) * dy
    return dz, dz @ a.T, rows(dz)


def layer_without_gamma(dy, x_hat, var, gamma, a):
    return layer_reference(dy, x_hat, var, 1, a)


WEIGHTS_TOO_EARLY = Mistake(
    "W too early",
    "Your dW comes from dy, at the output of the norm; W sits in front of the norm.",
    S5,
    ARTICLE,
    weights_too_early,
)
BIAS_TOO_EARLY = Mistake(
    "b too early",
    "Your db comes from dy, at the output of the norm; b sits in front of the norm, "
    "which removes it.",
    S5,
    ARTICLE,
    bias_too_early,
)
LAYER_BACKWARD = Exercise(
    "layer_backward",
    layer_reference,
    ("dy", "x_hat", "var", "gamma", "a"),
    ("dz", "dW", "db"),
    layer_cases,
    weights=(1, 2, 1),
    mistakes=(
        WEIGHTS_TOO_EARLY,
        BIAS_TOO_EARLY,
        Mistake(
            "detached statistics",
            "Your dz takes mean and variance for constants; both depend on z.",
            S7,
            "fast.ai course-v3 07_batchnorm; keras PR #19102",
            layer_detached,
        ),
        Mistake(
            "gamma left out",
            "Your dz does not depend on gamma; the norm multiplies by it.",
            S7,
            "denizyuret/Knet.jl #288",
            layer_without_gamma,
        ),
    ),
)


# --- relu_backward -------------------------------------------------------------------


def relu_reference(da, z, x_hat, gamma, beta):
    return da * (gamma * x_hat + beta > 0)


def relu_cases(rng):
    def case(D, N):
        z, x_hat, _ = normalized(rng, D, N)
        return upstream(rng, D, N), z, x_hat, *scale_and_shift(rng, D)

    return [case(5, 12), case(3, 30)]


def relu_at_z(da, z, x_hat, gamma, beta):
    return da * (z > 0)


def relu_of_the_gradient(da, z, x_hat, gamma, beta):
    return da * (da > 0)


def gradient_dropped(da, z, x_hat, gamma, beta):
    return 1.0 * (gamma * x_hat + beta > 0)


RELU_BACKWARD = Exercise(
    "relu_backward",
    relu_reference,
    ("da", "z", "x_hat", "gamma", "beta"),
    ("dy",),
    relu_cases,
    mistakes=(
        Mistake(
            "ReLU at z",
            "You ask where z was positive; ReLU never saw z.",
            S6,
            "the source article; ooples/AiDotNet.Tensors #187, review",
            relu_at_z,
        ),
        Mistake(
            "ReLU of the gradient",
            "You ask where the gradient is positive; the question is where ReLU's "
            "input was.",
            S6,
            "exacity/deeplearningbook-chinese #127",
            relu_of_the_gradient,
        ),
        Mistake(
            "gradient dropped",
            "You return ReLU's slope alone; the chain rule multiplies it by da.",
            S6,
            "haifengl/smile #528",
            gradient_dropped,
        ),
    ),
)


# --- norm_backward -------------------------------------------------------------------


def norm_reference(dy, x_hat, var, gamma):
    return behind_the_norm(dy, x_hat, var, gamma), rows(dy * x_hat), rows(dy)


def norm_cases(rng):
    def case(D, N):
        _, x_hat, var = normalized(rng, D, N)
        return upstream(rng, D, N), x_hat, var, scale_and_shift(rng, D)[0]

    return [case(4, 12), case(6, 9)]


def gamma_twice(dy, x_hat, var, gamma):
    return norm_reference(gamma * dy, x_hat, var, gamma)


def gamma_twice_in_one_term(dy, x_hat, var, gamma):
    dgamma, dbeta, N = rows(dy * x_hat), rows(dy), dy.shape[1]
    passed = dy - dbeta / N - gamma * x_hat * dgamma / N
    return gamma / np.sqrt(var + EPS) * passed, dgamma, dbeta


def gamma_left_out(dy, x_hat, var, gamma):
    return norm_reference(dy, x_hat, var, 1)


def norm_detached(dy, x_hat, var, gamma):
    return gamma / np.sqrt(var + EPS) * dy, rows(dy * x_hat), rows(dy)


def samples_for_features(dy, x_hat, var, gamma):
    dgamma, dbeta = (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    passed = dy - dbeta / len(dy) - x_hat * dgamma / len(dy)
    return gamma / np.sqrt(var + EPS) * passed, dgamma, dbeta


NORM_BACKWARD = Exercise(
    "norm_backward",
    norm_reference,
    ("dy", "x_hat", "var", "gamma"),
    ("dz", "dgamma", "dbeta"),
    norm_cases,
    weights=(2, 1, 1),
    mistakes=(
        Mistake(
            "gamma twice",
            "You multiply dy by gamma before anything else; the formulas below contain "
            "gamma where it is needed, and want dy.",
            S7,
            "the source article, taken at its word",
            gamma_twice,
        ),
        Mistake(
            "gamma twice in one term",
            "The term with x_hat contains gamma twice, the others once.",
            S7,
            "NVIDIA/Megatron-LM #6859 (RMS norm)",
            gamma_twice_in_one_term,
        ),
        Mistake(
            "gamma left out",
            "Your dz does not depend on gamma; y is gamma times x_hat.",
            S7,
            "denizyuret/Knet.jl #288",
            gamma_left_out,
        ),
        Mistake(
            "detached statistics",
            "Your dz takes mean and variance for constants; both depend on z.",
            S7,
            "fast.ai course-v3 07_batchnorm; keras PR #19102",
            norm_detached,
        ),
        Mistake(
            "samples for features",
            "You add up over the features; here samples are columns, and the sums run "
            "along the rows.",
            S7,
            "the source article, whose two classes differ in layout",
            samples_for_features,
        ),
    ),
)


# --- norm_forward --------------------------------------------------------------------


def norm_forward(
    z, gamma, beta, running_mean, running_var, training, new=0.1, ddof=1, frozen=True
):
    """The forward pass in both modes; mistakes change one of the last three."""
    mean, var = moments(z)
    N = z.shape[1]
    if training or not frozen:
        running_mean = (1 - new) * running_mean + new * mean
        running_var = (1 - new) * running_var + new * var * N / (N - ddof)
    if not training:
        mean, var = running_mean, running_var
    return gamma * (z - mean) / np.sqrt(var + EPS) + beta, running_mean, running_var


def forward_cases(rng):
    def case(D, N, training):
        running = rng.normal(0, 2, (D, 1)), rng.uniform(0.1, 4, (D, 1))
        return features(rng, D, N), *scale_and_shift(rng, D), *running, training

    return [case(4, 6, True), case(5, 9, False)]


def _one_sample(trial):
    z, *others = trial.cases[1]
    (y, _, _), (want, _, _) = trial.run((z[:, :1], *others))
    return difference("y of one sample", y, want)


def batch_statistics(z, gamma, beta, running_mean, running_var, training):
    mean, var = moments(z)
    y = gamma * (z - mean) / np.sqrt(var + EPS) + beta
    return y, running_mean, running_var


def always_following(*args):
    return norm_forward(*args, frozen=False)


def biased_running_variance(*args):
    return norm_forward(*args, ddof=0)


def momentum_reversed(*args):
    return norm_forward(*args, new=0.9)


NORM_FORWARD = Exercise(
    "norm_forward",
    norm_forward,
    ("z", "gamma", "beta", "running_mean", "running_var", "training"),
    ("y", "running_mean", "running_var"),
    forward_cases,
    extra=(Property("one sample alone, in evaluation", _one_sample),),
    weights=(2, 1, 1),
    mistakes=(
        Mistake(
            "batch statistics in evaluation",
            "You normalize by the batch in every mode, and the running statistics stay "
            "where they were.",
            S9,
            "the source article; vlfeat/matconvnet #506; davidsandberg/facenet #278",
            batch_statistics,
        ),
        Mistake(
            "statistics move in evaluation",
            "In evaluation your running statistics still follow the batch.",
            S9,
            "nn-zero-to-hero #82",
            always_following,
        ),
        Mistake(
            "biased running variance",
            "You store the variance that divides by N; the one to store divides by "
            "N − 1.",
            S9,
            "the source tutorial; ARENA_3.0 #415; pytorch #19916",
            biased_running_variance,
        ),
        Mistake(
            "momentum reversed",
            "Your new batch has the weight 0.9 and the past 0.1; it is the other way "
            "round.",
            S9,
            "cs231n.github.io #180; d2l-en #2213",
            momentum_reversed,
        ),
    ),
)


# --- output_layer --------------------------------------------------------------------


def log_softmax(logits):
    shifted = logits - logits.max(axis=0)
    return shifted - np.log(np.exp(shifted).sum(axis=0))


def loss_and_slope(logits, labels):
    """Mean cross-entropy and its gradient at the logits."""
    logs, picked = log_softmax(logits), (labels, np.arange(len(labels)))
    slope = np.exp(logs)
    slope[picked] -= 1
    return -logs[picked].mean(), slope / len(labels)


def output_reference(a, W, b, labels):
    loss, dz = loss_and_slope(W @ a + b, labels)
    return loss, W.T @ dz, dz @ a.T, rows(dz)


def output_cases(rng):
    def case(D, C, N):
        labels = rng.permutation(np.arange(N) % C)
        labels[: N // 2] = 0  # classes are not balanced
        a = np.maximum(features(rng, D, N), 0)
        return a, rng.normal(size=(C, D)), rng.normal(size=(C, 1)), labels

    return [case(6, 4, 12), case(5, 3, 20)]


def _large_logits(trial):
    a, W, b, labels = trial.cases[0]
    got, want = trial.run((a, W, b + 1000, labels))
    for name, g, w in zip(trial.exercise.outputs, got, want, strict=True):
        lines = difference(name, g, w)
        if lines:
            return (*lines, "with every logit raised by 1000")
    return ()


def normalized_logits(a, W, b, labels):
    z = W @ a + b
    mu, var = moments(z)
    x_hat = (z - mu) / np.sqrt(var + EPS)
    loss, dy = loss_and_slope(x_hat, labels)
    dz = behind_the_norm(dy, x_hat, var, 1)
    return loss, W.T @ dz, dz @ a.T, rows(dz)


def slope_of_the_sum(a, W, b, labels):
    loss, *gradients = output_reference(a, W, b, labels)
    return loss, *(len(labels) * g for g in gradients)


def relu_on_logits(a, W, b, labels):
    z = W @ a + b
    loss, dy = loss_and_slope(np.maximum(z, 0), labels)
    dz = dy * (z > 0)
    return loss, W.T @ dz, dz @ a.T, rows(dz)


def one_output_bias(a, W, b, labels):
    loss, da, dW, db = output_reference(a, W, b, labels)
    return loss, da, dW, np.full_like(db, db.sum())


OUTPUT_LAYER = Exercise(
    "output_layer",
    output_reference,
    ("a", "W", "b", "labels"),
    ("loss", "da", "dW", "db"),
    output_cases,
    extra=(Property("the same with every logit raised by 1000", _large_logits),),
    mistakes=(
        Mistake(
            "normalized logits",
            "Your logits are still normalized over the batch.",
            S10,
            "the source article; yaoing/DAN #14; Lab41/attalos #89",
            normalized_logits,
        ),
        Mistake(
            "gradients of the sum",
            "Your loss is a mean over the batch, your gradients are those of the sum.",
            S4,
            "jax #3113; victorlempitsky/Mate #2",
            slope_of_the_sum,
        ),
        Mistake(
            "ReLU on the logits",
            "You cut the logits off at 0; they must be free to take any value.",
            S10,
            "huyng/tensorflow-vgg #13; NVlabs/GA3C #17",
            relu_on_logits,
        ),
        Mistake(
            "one bias for all outputs",
            "You add up db over the classes, too; each class has a bias of its own.",
            S3,
            "rasbt/stat453-deep-learning-ss21 #5",
            one_output_bias,
        ),
    ),
)


# --- normalize -----------------------------------------------------------------------

FAR = "float32, far from 0"


def normalize(z):
    mu, var = moments(z)
    return (z - mu) / np.sqrt(var + EPS)


def normalize_cases(rng):
    def case(D, N):
        z = features(rng, D, N)
        z[0] = 0.2 + 0.003 * rng.normal(size=N)  # of about the size of eps
        return (z,)

    return [case(4, 12), case(3, 50)]


def _keeps_its_digits(trial):
    z = (10_000 + trial.rng.normal(size=(4, 64))).astype(np.float32)
    (got,), _ = trial.run((z,))
    off = np.abs(got - normalize(z.astype(np.float64)))
    if np.all(off < 0.01):
        return ()
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(off), off.shape))
    return (
        "z is float32 with mean 10,000 and standard deviation 1",
        f"x_hat[{worst[0]}, {worst[1]}]: got {got[worst]:.3g}, "
        f"want {normalize(z.astype(np.float64))[worst]:.3g}",
    )


def one_pass(z):
    mu = z.mean(axis=1, keepdims=True)
    var = (z**2).mean(axis=1, keepdims=True) - mu**2
    return (z - mu) / np.sqrt(var + EPS)


def tiny_eps(z):
    mu, var = moments(z)
    return (z - mu) / np.sqrt(var + 1e-8)


def eps_outside(z):
    mu, var = moments(z)
    return (z - mu) / (np.sqrt(var) + EPS)


def unbiased(z):
    mu, var = moments(z)
    N = z.shape[1]
    return (z - mu) / np.sqrt(var * N / (N - 1) + EPS)


NORMALIZE = Exercise(
    "normalize",
    normalize,
    ("z",),
    ("x_hat",),
    normalize_cases,
    extra=(Property(FAR, _keeps_its_digits),),
    mistakes=(
        Mistake(
            "eps 1e-8",
            "Your eps is 1e-8; in float32 that lets rounding errors through as if they "
            "were data.",
            S11,
            "the source article; nlpodyssey/spago #87; tensorflow #24979",
            tiny_eps,
        ),
        Mistake(
            "one-pass variance",
            "Your variance is the difference of two large numbers, which loses its "
            "digits far from 0.",
            S11,
            "labml_nn batch_norm; the source homework; google/flax #1491; tt-metal "
            "#45968",
            one_pass,
            shows=FAR,
        ),
        Mistake(
            "eps outside the root",
            "You add eps to the standard deviation; it belongs to the variance.",
            S11,
            "Tencent/ncnn #311; pytorch #1804",
            eps_outside,
        ),
        Mistake(
            "unbiased variance",
            "Your variance divides by N − 1; the one that normalizes divides by N.",
            S11,
            "makemore part 3, cell 7; fast.ai course-v3 07_batchnorm",
            unbiased,
        ),
    ),
)


# --- torch_batchnorm -----------------------------------------------------------------


class BatchNorm(Module):
    """The reference; mistakes override one of the three methods below."""

    def __init__(self, D):
        super().__init__()
        self.gamma, self.beta = (
            nn.Parameter(torch.ones(D)),
            nn.Parameter(torch.zeros(D)),
        )
        self.keep(running_mean=torch.zeros(D), running_var=torch.ones(D))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = self.measure(x)
            self.follow(mean, var, len(x))
        return self.gamma * (x - mean) / torch.sqrt(var + EPS) + self.beta

    def keep(self, **statistics):
        for name, value in statistics.items():
            self.register_buffer(name, value)

    def measure(self, x):
        return x.mean(0), x.var(0, correction=0)

    def follow(self, mean, var, N):
        mean, var = mean.detach(), var.detach() * N / (N - 1)
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        self.running_var = 0.9 * self.running_var + 0.1 * var


class Detached(BatchNorm):
    def measure(self, x):
        with torch.no_grad():
            return super().measure(x)


class GraphKept(BatchNorm):
    def follow(self, mean, var, N):
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        self.running_var = 0.9 * self.running_var + 0.1 * var * N / (N - 1)


class Biased(BatchNorm):
    def follow(self, mean, var, N):
        super().follow(mean, var * (N - 1) / N, N)


class NotSaved(BatchNorm):
    def keep(self, **statistics):
        for name, value in statistics.items():
            setattr(self, name, value)


def module_cases(rng):
    def case(steps, N, D):
        scale = rng.permutation(np.geomspace(0.1, 5, D))
        x = rng.normal(0, 2, D) + scale * rng.exponential(1, (steps, N, D))
        dy = rng.normal(size=(steps, N, D)) + rng.normal(0, 2, D)
        return x, dy, rng.uniform(0.5, 2, D), rng.normal(0, 1, D)

    return [case(3, 8, 4), case(4, 13, 3)]


TORCH_BATCHNORM = Exercise(
    "torch_batchnorm",
    BatchNorm,
    ("x", "dy", "gamma", "beta"),
    (
        "y",
        "dx",
        "dgamma",
        "dbeta",
        "running_mean",
        "running_var",
        "y_evaluated",
        "y_evaluated_after_loading",
        "graphs_held",
    ),
    module_cases,
    weights=(1, 3, 0.5, 0.5, 1, 1, 1, 1, 3),
    mistakes=(
        Mistake(
            "detached statistics",
            "You measure the batch without recording; y depends on x through mean and "
            "variance, too.",
            S12,
            "fast.ai course-v3 07_batchnorm; keras PR #19102; deeplearning4j #8379",
            Detached,
        ),
        Mistake(
            "graph kept",
            "Your running statistics hold the graph of every batch they have seen.",
            S12,
            "labml_nn batch_norm; pytorch #20275; nflows #11; d2l-en #1342",
            GraphKept,
        ),
        Mistake(
            "biased running variance",
            "You store the variance that divides by N; the one to store divides by "
            "N − 1.",
            S12,
            "ARENA_3.0 #415; labml_nn batch_norm; pytorch #19916",
            Biased,
        ),
        Mistake(
            "statistics not saved",
            "Your running statistics are plain attributes: what is saved and loaded "
            "does not contain them.",
            S12,
            "d2l-zh #1265; torch/nn #1165",
            NotSaved,
        ),
    ),
    drive=drive_torch_batchnorm,
)

EXERCISES = (
    DIRECTION_AND_SIZE,
    AFFINE_BACKWARD,
    PARAMETER_GRADIENTS,
    LAYER_BACKWARD,
    RELU_BACKWARD,
    NORM_BACKWARD,
    NORM_FORWARD,
    OUTPUT_LAYER,
    NORMALIZE,
    TORCH_BATCHNORM,
)
