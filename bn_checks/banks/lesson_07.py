"""Checks of lesson 07, the debugging clinic: arrays are feature-major, (D, N)."""

import numpy as np

from bn_helpers.gradcheck import direction_and_size

from ..changes import Changed, changed
from ..common import keeps_digits, scale_and_shift
from ..drivers.lesson_07 import drive_torch_batchnorm, drive_ward
from ..engine import Exercise, Property, difference
from ..forms import lesson_07 as forms

S2 = "section 2, Measure a gradient's direction and size"
S6 = "section 6, Watch the error enter between two layers"
S7 = "section 7, Read a formula to the letter"
S9 = "section 9, Predict one image"
S10 = "section 10, Watch a sure network guess"
S11 = "section 11, Get another answer in float32"
S12 = "section 12, Mend a module from the wild"


torch, nn = forms.torch, forms.nn  # None where PyTorch is not installed
EPS = 1e-5


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
        case((3, 4), -2, 1),
        case((5,), 1e-10, 0.01),
        case((5,), 1e-5, 1e-6),
        case((6, 1), 0.01, 1e-13),
        case((6, 1), 1e-14, 0.01),
        case((6, 1), 1e-13, 1e-14),
    ]


DIRECTION_AND_SIZE = Exercise(
    "direction_and_size",
    direction_and_size,
    ("gradient", "truth"),
    ("cosine", "size"),
    arrow_cases,
    forms=(
        forms.direction_and_size,
        forms.direction_by_product,
        forms.direction_by_squares,
    ),
)


DIRECTION_AND_SIZE.mistakes += changed(
    forms.direction_by_product,
    S2,
    """
    roots missing: sums of squares are divided by, and their roots are forgotten
        lengths = length * true_length -> lengths = (length * true_length) ** 2
        , length / true_length -> , (length / true_length) ** 2
        seen in iit-cs579/main #478; FoundationsMachineLearning-Fa18/LectureNotes #24
    row by row: rows are compared one by one and averaged, although a gradient is one
    arrow
        lengths = length * true_length
            -> pairs = zip(*map(np.atleast_2d, (gradient, truth)))
            ; cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]
        np.sum(gradient * truth) / lengths -> np.mean(cosines)
        seen in facebookresearch/WMReward #11: cosine_similarity, wrong dimension
    one length twice: the square of one length divides, and not each of the two once
        lengths = length * true_length -> lengths = true_length**2
        seen in incanter #73; usnistgov/oscal-deep-diff #100
    """,
)


# --- affine_backward -----------------------------------------------------------------


def affine_cases(rng):
    def case(D, N):
        return upstream(rng, D, N), rng.normal(size=(D, D)), rng.normal(size=(D, N))

    return [case(5, 12), case(4, 9)]


def _unequal_widths(trial):
    rng = trial.rng
    args = upstream(rng, 3, 10), rng.normal(size=(3, 6)), rng.normal(size=(6, 10))
    return trial.differs(args, "with 6 inputs and 3 outputs")


AFFINE_BACKWARD = Exercise(
    "affine_backward",
    forms.affine_backward,
    ("dz", "W", "a"),
    ("da", "dW", "db"),
    affine_cases,
    extra=(Property("also where the widths differ", _unequal_widths),),
    weights=(2, 1, 1),
)


AFFINE_BACKWARD.given(Changed(forms.affine_backward, [("W.T @ dz", "dz")]))


# --- parameter_gradients -------------------------------------------------------------


def shares_cases(rng):
    def case(fan_in, D, N):
        _, x_hat, _ = normalized(rng, D, N)
        dy, dz = N * upstream(rng, D, N), N * upstream(rng, D, N)
        return dy, dz, x_hat, rng.normal(size=(fan_in, N))

    return [case(6, 4, 12), case(3, 5, 20)]


PARAMETER_GRADIENTS = Exercise(
    "parameter_gradients",
    forms.parameter_gradients,
    ("dy", "dz", "x_hat", "a"),
    ("dW", "db", "dgamma", "dbeta"),
    shares_cases,
)


SUMS = [
    ("dgamma = (dy * x_hat)", "dgamma = N * (dy * x_hat)"),
    ("dbeta = dy", "dbeta = N * dy"),
]
PARAMETER_GRADIENTS.given(Changed(forms.parameter_gradients, SUMS))


# --- layer_backward ------------------------------------------------------------------


def behind_the_norm(dy, x_hat, var, gamma, eps=EPS):
    """dz in closed form."""
    N = dy.shape[1]
    passed = dy - rows(dy) / N - x_hat * rows(dy * x_hat) / N
    return gamma / np.sqrt(var + eps) * passed


def layer_cases(rng):
    def case(fan_in, D, N):
        _, x_hat, var = normalized(rng, D, N)
        gamma, _ = scale_and_shift(rng, (D, 1))
        return upstream(rng, D, N), x_hat, var, gamma, rng.normal(size=(fan_in, N))

    return [case(6, 4, 12), case(3, 5, 9)]


LAYER_BACKWARD = Exercise(
    "layer_backward",
    forms.layer_backward,
    ("dy", "x_hat", "var", "gamma", "a"),
    ("dz", "dW", "db"),
    layer_cases,
    weights=(1, 2, 1),
)


EARLY = [("dz @ a.T", "dy @ a.T"), ("dz.sum", "dy.sum")]
LAYER_BACKWARD.given(Changed(forms.layer_backward, EARLY))


# --- relu_backward -------------------------------------------------------------------


def relu_cases(rng):
    def case(D, N):
        z, x_hat, _ = normalized(rng, D, N)
        return upstream(rng, D, N), z, x_hat, *scale_and_shift(rng, (D, 1))

    return [case(5, 12), case(3, 30)]


RELU_BACKWARD = Exercise(
    "relu_backward",
    forms.relu_backward,
    ("da", "z", "x_hat", "gamma", "beta"),
    ("dy",),
    relu_cases,
)


RELU_BACKWARD.mistakes += changed(
    forms.relu_backward,
    S6,
    """
    ReLU at z: the question is where z was positive, which ReLU never saw
        gamma * x_hat + beta > 0 -> z > 0
        seen in the source article; ooples/AiDotNet.Tensors #187, review
    ReLU of the gradient: the question is where the gradient is positive, not where
    ReLU's input was
        gamma * x_hat + beta > 0 -> da > 0
        seen in exacity/deeplearningbook-chinese #127
    """,
)
RELU_BACKWARD.given(RELU_BACKWARD.mistakes[0].code)


# --- norm_backward -------------------------------------------------------------------


def norm_cases(rng):
    def case(D, N):
        _, x_hat, var = normalized(rng, D, N)
        return upstream(rng, D, N), x_hat, var, scale_and_shift(rng, (D, 1))[0]

    return [case(4, 12), case(6, 9)]


NORM_BACKWARD = Exercise(
    "norm_backward",
    forms.norm_backward,
    ("dy", "x_hat", "var", "gamma"),
    ("dz", "dgamma", "dbeta"),
    norm_cases,
    weights=(2, 1, 1),
)


NORM_BACKWARD.mistakes += changed(
    forms.norm_backward,
    S7,
    """
    gamma twice: dy is multiplied by gamma before anything else, and gamma comes again
    below
        axes = 1 -> axes = 1; dy = dy * gamma
        seen in the source article, taken at its word
    gamma twice in one term: the term with x_hat contains gamma twice, the others once
        x_hat * dgamma / N -> gamma * x_hat * dgamma / N
        seen in NVIDIA/Megatron-LM #6859 (RMS norm)
    samples for features: the sums run over the features, although samples are columns
        D, N = dy.shape -> N, D = dy.shape
        axes, keepdims=True -> 0
        seen in the source article, whose two classes differ in layout
    """,
)
NORM_BACKWARD.given(NORM_BACKWARD.mistakes[0].code)


# --- norm_forward --------------------------------------------------------------------


def forward_cases(rng):
    def case(D, N, training):
        running = rng.normal(0, 2, (D, 1)), rng.uniform(0.1, 4, (D, 1))
        return features(rng, D, N), *scale_and_shift(rng, (D, 1)), *running, training

    return [case(4, 6, True), case(5, 9, False)]


def _one_sample(trial):
    z, *others = trial.cases[1]
    (y, _, _), (want, _, _) = trial.run((z[:, :1], *others))
    return difference("y of one sample", y, want)


NORM_FORWARD = Exercise(
    "norm_forward",
    forms.norm_forward,
    ("z", "gamma", "beta", "running_mean", "running_var", "training"),
    ("y", "running_mean", "running_var"),
    forward_cases,
    extra=(Property("one sample alone, in evaluation", _one_sample), keeps_digits()),
    weights=(2, 1, 1),
)


NORM_FORWARD.mistakes += changed(
    forms.norm_forward,
    S9,
    """
    batch statistics in evaluation: every mode normalizes by the batch, and no running
    statistics are kept
        if training: -> if True:
        running_mean = -> _ =
        running_var = -> _ =
        seen in the source article; vlfeat/matconvnet #506; davidsandberg/facenet #278
    statistics move in evaluation and are used: the running statistics follow the batch
    in evaluation, too, before they are used
        if training: -> if True:
        x_hat =
            -> mu, var = (mu, var) if training else (running_mean, running_var)
            ; x_hat =
        seen in nn-zero-to-hero #82
    """,
)
NORM_FORWARD.given(NORM_FORWARD.mistakes[0].code)


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


def output_cases(rng):
    def case(D, C, N):
        labels = rng.permutation(np.arange(N) % C)
        labels[: N // 2] = 0  # classes are not balanced
        a = np.maximum(features(rng, D, N), 0)
        return a, rng.normal(size=(C, D)), rng.normal(size=(C, 1)), labels

    return [case(6, 4, 12), case(5, 3, 20)]


def _large_logits(trial):
    a, W, b, labels = trial.cases[0]
    return trial.differs((a, W, b + 1000, labels), "with every logit raised by 1000")


OUTPUT_LAYER = Exercise(
    "output_layer",
    forms.output_layer,
    ("a", "W", "b", "labels"),
    ("loss", "da", "dW", "db"),
    output_cases,
    extra=(Property("the same with every logit raised by 1000", _large_logits),),
)


@OUTPUT_LAYER.given
@OUTPUT_LAYER.mistake(
    "normalized logits", S10, "the source article; yaoing/DAN #14; Lab41/attalos #89"
)
def normalized_logits(a, W, b, labels):
    """the logits are normalized over the batch"""
    z = W @ a + b
    mu, var = moments(z)
    x_hat = (z - mu) / np.sqrt(var + EPS)
    loss, dy = loss_and_slope(x_hat, labels)
    dz = behind_the_norm(dy, x_hat, var, 1)
    return loss, W.T @ dz, dz @ a.T, rows(dz)


OUTPUT_LAYER.mistakes += changed(
    forms.output_layer,
    S10,
    """
    ReLU on the logits: the logits are cut off at 0
        W @ a + b -> np.maximum(W @ a + b, 0)
        (shares - target) / N -> (shares - target) / N * (W @ a + b > 0)
        seen in huyng/tensorflow-vgg #13; NVlabs/GA3C #17
    """,
)


# --- normalize -----------------------------------------------------------------------


def normalize_cases(rng):
    def case(D, N):
        z = features(rng, D, N)
        z[0] = 0.2 + 0.003 * rng.normal(size=N)  # of about the size of eps
        return (z,)

    return [case(4, 12), case(3, 50)]


def _keeps_its_digits(trial):
    for dtype, mean in (np.float32, 10_000), (np.float64, 100_000_000):
        z = (mean + trial.rng.normal(size=(4, 64))).astype(dtype)
        (got,), _ = trial.run((z,))
        want = forms.normalize(z.astype(np.float64))
        off = np.abs(got - want)
        if not np.all(off < 0.01):
            worst = tuple(int(i) for i in np.unravel_index(np.argmax(off), off.shape))
            return (
                f"z is {dtype.__name__} with mean {mean:,} and standard deviation 1",
                f"x_hat[{worst[0]}, {worst[1]}]: got {got[worst]:.3g}, "
                f"want {want[worst]:.3g}",
            )
    return ()


NORMALIZE = Exercise(
    "normalize",
    forms.normalize,
    ("z",),
    ("x_hat",),
    normalize_cases,
    extra=(Property("keeps its digits far from 0", _keeps_its_digits),),
)


NORMALIZE.mistakes += changed(
    forms.normalize,
    S11,
    """
    eps 1e-8: eps is 1e-8
        1e-5 -> 1e-8
        seen in the source article; nlpodyssey/spago #87; tensorflow #24979
    one-pass variance: Your variance is the difference of two large numbers, which loses
    its digits far from 0.
        z.var(axes, keepdims=True) -> (z**2).mean(axes, keepdims=True) - mu**2
        shows keeps its digits far from 0
        seen in labml_nn batch_norm; the source homework; google/flax #1491
    """,
)
BOTH = [pair for m in NORMALIZE.mistakes for pair in m.code.changes]
NORMALIZE.given(Changed(forms.normalize, BOTH))


# --- torch_batchnorm -----------------------------------------------------------------


def module_cases(rng):
    def case(steps, N, D):
        scale = rng.permutation(np.geomspace(0.1, 5, D))
        x = rng.normal(0, 2, D) + scale * rng.exponential(1, (steps, N, D))
        dy = rng.normal(size=(steps, N, D)) + rng.normal(0, 2, D)
        return x, dy, rng.uniform(0.5, 2, D), rng.normal(0, 1, D)

    return [case(3, 8, 4), case(4, 13, 3)]


TORCH_BATCHNORM = Exercise(
    "torch_batchnorm",
    forms.BatchNorm,
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
        "statistics_on_the_graph",
        "statistics_that_are_no_buffers",
    ),
    module_cases,
    weights=(1, 3, 0.5, 0.5, 1, 1, 3, 1, 2, 1),
    drive=drive_torch_batchnorm,
)


@TORCH_BATCHNORM.given
class FromTheWild(forms.Module):
    """The code that the exercise hands out."""

    def __init__(self, D):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(D))
        self.beta = nn.Parameter(torch.zeros(D))
        self.running_mean, self.running_var = torch.zeros(D), torch.ones(D)

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean(0), x.var(0, correction=0)
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean
            self.running_var = 0.9 * self.running_var + 0.1 * var
        return self.gamma * (x - mean) / torch.sqrt(var + EPS) + self.beta


TORCH_BATCHNORM.mistakes += changed(
    forms.BatchNorm,
    S12,
    """
    statistics not saved: the running statistics are plain attributes, which nothing
    saves or loads
        self.register_buffer(name, -> setattr(self, name,
        seen in d2l-zh #1265; torch/nn #1165
    buffers that are not persistent: state_dict leaves the running statistics out: a
    buffer that is not persistent is not saved
        start(D)) -> start(D), persistent=False)
        seen in torch/nn #1165
    detached statistics: the batch is measured without recording, although y depends on
    x through mean and variance, too
        mu = x.mean(0) -> mu = x.mean(0).detach()
        var = x.var(0, correction=0) -> var = x.var(0, correction=0).detach()
        seen in fast.ai course-v3 07_batchnorm; keras PR #19102; deeplearning4j #8379
    """,
)


# --- diagnose ------------------------------------------------------------------------

SIGNS = (
    "gamma and beta summed",
    "W too early",
    "b too early",
    "between two layers",
    "gamma twice",
    "detached statistics",
)


ILLNESSES = {  # what else a patient has, beside its sums: flags and the clinic's names
    (): [()],
    (1,): [("W too early",)],
    (2,): [("b too early",)],
    (1, 2): [("W too early", "b too early")],
    (3,): [("no W",), ("ReLU at z",)],
    (4,): [("gamma twice",)],
    (5,): [("detached statistics",)],
}


def patient(rng, flags, summed):
    """Cosines and sizes (3, 4) of a patient with these faults, and its flags (6,)."""
    D, N = int(rng.integers(8, 13)), int(rng.integers(16, 65))
    x, labels = rng.normal(0.5, 1, (D, N)), rng.integers(0, D, N)
    net = [
        (rng.normal(0, np.sqrt(2 / D), (D, D)), *scale_and_shift(rng, (D, 1)))
        for _ in range(3)
    ]
    faults = ILLNESSES[flags][rng.integers(len(ILLNESSES[flags]))]
    faults = {*faults, *(["sums"] if summed else [])}
    pairs = zip(
        patient_gradients(net, x, labels, faults),
        patient_gradients(net, x, labels),
        strict=True,
    )
    report = np.array([direction_and_size(*pair) for pair in pairs]).reshape(3, 4, 2)
    truth = np.isin(np.arange(6), [*flags, *([0] if summed else [])]).astype(int)
    return report[..., 0], report[..., 1], truth


def patient_gradients(net, x, labels, faults=()):
    """Gradients of gamma, beta, W and b, from the loss backward, as the faults have it.

    net holds (W, gamma, beta) per layer; each is affine, batch norm, ReLU but the last.
    """
    a, kept = x, []
    for W, gamma, beta in net:
        z = W @ a
        mu, var = moments(z)
        x_hat = (z - mu) / np.sqrt(var + EPS)
        y = gamma * x_hat + beta
        kept.append((W, gamma, a, x_hat, var, z if "ReLU at z" in faults else y))
        a = np.maximum(y, 0)
    share = 1 / len(labels) if "sums" in faults else 1
    da = loss_and_slope(y, labels)[1] / share  # the sum's slope, or the mean's
    gradients = []
    for at, (W, gamma, a, x_hat, var, gate) in enumerate(reversed(kept)):
        dy = da if at == 0 else da * (gate > 0)  # no ReLU behind the last layer
        da, new = _layer_gradients(dy, W, gamma, a, x_hat, var, share, faults)
        gradients += new
    return gradients


def _layer_gradients(dy, W, gamma, a, x_hat, var, share, faults):
    g = gamma * dy if "gamma twice" in faults else dy
    dz = behind_the_norm(g, x_hat, var, gamma)
    if "detached statistics" in faults:
        dz = gamma / np.sqrt(var + EPS) * g
    dW = (dy if "W too early" in faults else dz) @ a.T
    db = rows(dy if "b too early" in faults else dz)
    da = dz if "no W" in faults else W.T @ dz
    return da, [rows(g * x_hat), rows(g), share * dW, share * db]


def patient_cases(rng):
    """One case: each illness with and without the sums, twice, in random order."""
    kinds = [(flags, summed) for flags in ILLNESSES for summed in (0, 1)] * 2
    ward = [patient(rng, *kinds[i])[:2] for i in rng.permutation(len(kinds))]
    return [tuple(np.array(part) for part in zip(*ward, strict=True))]


def diagnose(cosine, size):
    wrong = np.abs(cosine - 1) > 1e-4
    here, below, _ = wrong[:, :2].any(1)  # gamma or beta of layers 3, 2, 1
    early_W, early_b = wrong[0, 2:] & (not here and not below)
    passed_down = below and not here
    too_large = np.any(size[0, :2] > 4)
    lost = passed_down and not wrong[0, 3]
    return np.array(
        [too_large, early_W, early_b, lost, here, passed_down and wrong[0, 3]], int
    )


DIAGNOSE = Exercise(
    "diagnose",
    diagnose,
    ("cosine", "size"),
    SIGNS,
    patient_cases,
    drive=drive_ward,
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
    DIAGNOSE,
)
