"""Checks of lesson 06, deep networks."""

from itertools import pairwise

import numpy as np

from ..common import batch, keeps_digits
from ..drivers.lesson_06 import drive_fully_connected_net, drive_trainable_net
from ..engine import Exercise, Failed, Property, close, difference
from ..forms import lesson_06 as forms

S3 = "section 3, Join three layers into one"
S4 = "section 4, Add up a loss and go back"
S6 = "section 6, Take Adam's step"
S7 = "section 7, Train four hidden layers"


# --- affine_norm_relu_forward --------------------------------------------------------


def layer_arrays(rng, N, D, H):
    """Inputs, weights and biases whose outputs differ in mean and spread."""
    x, _, _ = batch(rng, N, D)
    return x, rng.normal(size=(D, H)), rng.normal(0, 2, H)


def forward_cases(rng):
    def case(N, D, H, axis, *eps):
        x, W, b = layer_arrays(rng, N, D, H)
        gamma = rng.uniform(0.5, 2, H) * rng.choice([-1, 1], H)
        return (x, W, b, gamma, rng.normal(size=H), axis, *eps)

    return [
        case(12, 5, 6, 0),
        case(9, 4, 7, 1),
        case(8, 6, 9, 0, 2.0),
        case(11, 3, 8, 1, 2.0),
    ]


def _standardized(z, axis, eps):
    inv_std = 1 / np.sqrt(z.var(axis, keepdims=True) + eps)
    return (z - z.mean(axis, keepdims=True)) * inv_std, inv_std


AFFINE_NORM_RELU_FORWARD = Exercise(
    "affine_norm_relu_forward",
    forms.affine_norm_relu_forward,
    ("x", "W", "b", "gamma", "beta", "axis", "eps"),
    ("y", "x_hat", "inv_std"),
    forward_cases,
    extra=(keeps_digits(2),),
    weights=(2, 1, 1),
    forms=(forms.affine_norm_relu_forward,),
)


@AFFINE_NORM_RELU_FORWARD.mistake(
    "ReLU before the norm", S3, "keras #4618; MAML-Pytorch #39"
)
def relu_before_norm(x, W, b, gamma, beta, axis, eps=1e-5):
    """the ReLU comes before the norm"""
    x_hat, inv_std = _standardized(np.maximum(x @ W + b, 0), axis, eps)
    return gamma * x_hat + beta, x_hat, inv_std


@AFFINE_NORM_RELU_FORWARD.mistake(
    "gamma and beta ignored", S3, "passes the example of the source homework"
)
def forward_no_scale_and_shift(x, W, b, gamma, beta, axis, eps=1e-5):
    """gamma and beta are not used"""
    x_hat, inv_std = _standardized(x @ W + b, axis, eps)
    return np.maximum(x_hat, 0), x_hat, inv_std


# --- affine_norm_relu_backward -------------------------------------------------------


def backward_case(rng, N, D, H, axis):
    """What a forward pass leaves behind, and a random upstream gradient."""
    x, W, _ = layer_arrays(rng, N, D, H)
    gamma = rng.uniform(0.5, 2, H) * rng.choice([-1, 1], H)
    beta = rng.normal(size=H)
    y, x_hat, inv_std = forms.affine_norm_relu_forward(
        x, W, np.zeros(H), gamma, beta, axis
    )
    dy = rng.normal(size=(N, H)) + rng.normal(size=H)
    return dy, x, W, gamma, x_hat, inv_std, y, axis


def backward_cases(rng):
    # as many inputs as outputs: even a forgotten or transposed W has the right shape
    return [
        backward_case(rng, 12, 5, 5, 0),
        backward_case(rng, 9, 6, 6, 1),
        backward_case(rng, 16, 4, 4, 0),
    ]


def _any_widths(trial):
    for sizes in ((8, 3, 7, 0), (10, 6, 2, 1)):
        got, want = trial.run(backward_case(trial.rng, *sizes))
        if not all(np.allclose(g, w) for g, w in zip(got, want, strict=True)):
            return (f"x of shape {sizes[:2]}, y of shape {sizes[::2]}: wrong values",)
    return ()


def through_norm(g, gamma, x_hat, inv_std, axis):
    """From gamma * x_hat + beta back to what entered the norm."""
    g = g * gamma
    fitted = g.mean(axis, keepdims=True)
    fitted = fitted + x_hat * (g * x_hat).mean(axis, keepdims=True)
    return inv_std * (g - fitted)


def gamma_twice(g, gamma, x_hat, inv_std, axis):
    return gamma * through_norm(g, gamma, x_hat, inv_std, axis)


def mask_of_output(dy, x, W, y):
    return dy * (y > 0)


def gradients(x, W, dz, g, x_hat):
    """dx, dW, db, dgamma, dbeta."""
    return dz @ W.T, x.T @ dz, dz.sum(0), (g * x_hat).sum(0), g.sum(0)


def _backward(mask=mask_of_output, norm=through_norm, end=gradients):
    """The backward pass, with one part replaced."""

    def backward(dy, x, W, gamma, x_hat, inv_std, y, axis):
        g = mask(dy, x, W, y)
        return end(x, W, norm(g, gamma, x_hat, inv_std, axis), g, x_hat)

    return backward


def ahead_of_the_norm(x, W, dz, g, x_hat):
    dx, _, _, dgamma, dbeta = gradients(x, W, dz, g, x_hat)
    return dx, x.T @ g, g.sum(0), dgamma, dbeta


def dW_for_W(x, W, dz, g, x_hat):
    _, dW, *others = gradients(x, W, dz, g, x_hat)
    return dz @ dW.T, dW, *others


LAYER_GRADIENTS = ("dx", "dW", "db", "dgamma", "dbeta")


AFFINE_NORM_RELU_BACKWARD = Exercise(
    "affine_norm_relu_backward",
    forms.affine_norm_relu_backward,
    ("dy", "x", "W", "gamma", "x_hat", "inv_std", "y", "axis"),
    LAYER_GRADIENTS,
    backward_cases,
    extra=(Property("any widths", _any_widths, 0.5),),
    weights=(2, 1, 1, 1, 1),
    forms=(forms.affine_norm_relu_backward,),
)


@AFFINE_NORM_RELU_BACKWARD.mistake(
    "ReLU's slope in front of the norm", S3, "the source article, relu_derivative(Z)"
)
def relu_s_slope_in_front_of_the_norm(*args):
    """ReLU's slope is taken where the norm began"""
    return (_backward(mask=lambda dy, x, W, y: dy * (x @ W > 0)))(*args)


@AFFINE_NORM_RELU_BACKWARD.mistake(
    "gamma twice", S3, "the source article; NVIDIA/Megatron-LM #6859"
)
def gamma_by_name_too(*args):
    """gamma enters the gradient twice: once by name, once inside dx_hat"""
    return _backward(norm=gamma_twice)(*args)


@AFFINE_NORM_RELU_BACKWARD.mistake(
    "dW in place of W", S3, "jcjohnson/pytorch-examples #5, #28"
)
def dw_in_place_of_w(*args):
    """the gradient goes back through dW, not through W"""
    return (_backward(end=dW_for_W))(*args)


# --- FullyConnectedNet ---------------------------------------------------------------


def net_case(rng, N, dims, reg, shift=0.0):
    y = rng.integers(0, dims[-1], N)
    y[: dims[-1]] = np.arange(dims[-1])
    return dims, reg, rng.normal(size=(N, dims[0])), y, int(rng.integers(2**31)), shift


def net_cases(rng):
    return [net_case(rng, 11, (7, 6, 5, 4), 0.0), net_case(rng, 9, (5, 6, 7, 3), 0.7)]


def _any_depth(trial):
    for dims in ((6, 5, 4, 5, 3), (5, 8, 3), (6, 3)):
        got, want = trial.run(net_case(trial.rng, 10, dims, 0.3))
        if not all(np.allclose(g, w) for g, w in zip(got[:-1], want, strict=False)):
            return (f"{len(dims) - 2} hidden layer(s): loss or gradients are wrong",)
    return ()


def _large_scores(trial):
    args = net_case(trial.rng, 12, (6, 8, 4), 0.0, shift=1000.0)
    (loss, *_), (want, *_) = trial.run(args)
    if np.allclose(loss, want):
        return ()
    return (f"with scores around 1000: loss {loss:.6g}, want {want:.6g}",)


class Net:
    """The right network; each mistake replaces one of its methods."""

    def __init__(self, params, reg=0.0):
        self.params, self.reg = params, reg
        self.last = sum(name[0] == "W" for name in params)

    def loss(self, x, y):
        W, b = self.params[f"W{self.last}"], self.params[f"b{self.last}"]
        kept = {}
        for k in range(1, self.last):
            kept[k], x = self.forward(k, x)
        loss, d = self.cross_entropy(x @ W + b, y)
        grads = {f"W{self.last}": x.T @ d, f"b{self.last}": d.sum(0)}
        d = d @ W.T
        for k in range(self.last - 1, 0, -1):
            d, *new = self.backward(k, d, *kept[k])
            names = (f"{name}{k}" for name in ("W", "b", "gamma", "beta"))
            grads |= dict(zip(names, new, strict=True))
        return self.penalized(loss, grads, len(y))

    def forward(self, k, x):
        names = (f"{name}{k}" for name in ("W", "b", "gamma", "beta"))
        y, x_hat, inv_std = forms.affine_norm_relu_forward(
            x, *map(self.params.get, names), 0
        )
        return (x, x_hat, inv_std, y), y

    def backward(self, k, d, x, x_hat, inv_std, y, **how):
        W, gamma = self.params[f"W{k}"], self.params[f"gamma{k}"]
        return _backward(**how)(d, x, W, gamma, x_hat, inv_std, y, 0)

    def cross_entropy(self, scores, y):
        scores = scores - scores.max(1, keepdims=True)
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        target = y[:, None] == np.arange(scores.shape[1])
        return -np.log(p[target]).mean(), (p - target) / len(y)

    def penalized(self, loss, grads, N):
        for name in self.penalized_names():
            loss = loss + 0.5 * self.reg * (self.params[name] ** 2).sum()
            grads[name] = grads[name] + self.reg * self.params[name]
        return loss, grads

    def penalized_names(self):
        return [name for name in self.params if name[0] == "W"]


LARGE = "stands scores around 1000"


FULLY_CONNECTED_NET = Exercise(
    "fully_connected_net",
    Net,
    ("dims", "reg", "x", "y", "seed", "shift"),
    (
        "loss",
        "W and b of the last layer",
        "gamma of the hidden layers",
        "beta of the hidden layers",
        "W of the hidden layers",
        "b of the hidden layers",
        "parameters after the call",
    ),
    net_cases,
    extra=(
        Property("any number of layers", _any_depth),
        Property(LARGE, _large_scores, 0.5),
    ),
    weights=(2, 1, 1, 1, 2, 1, 0.5),
    drive=drive_fully_connected_net,
    forms=(forms.Net,),
)


@FULLY_CONNECTED_NET.mistake(
    "exponentials overflow",
    S4,
    "dmlc/minpy #48; numenta/nupic-legacy #3819; jhcross/span-parser #2",
    shows=LARGE,
)
class UnstableSoftmax(Net):
    """Your exponentials overflow; a softmax does not change when each sample's largest
    score is subtracted first."""

    def cross_entropy(self, scores, y):
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        target = y[:, None] == np.arange(scores.shape[1])
        return -np.log(p[target]).mean(), (p - target) / len(y)


@FULLY_CONNECTED_NET.mistake(
    "averaged over the classes", S4, "jax #1023; GMvandeVen/continual-learning #5"
)
class AveragedOverClasses(Net):
    """the average runs over samples and classes"""

    def cross_entropy(self, scores, y):
        loss, d = super().cross_entropy(scores, y)
        return loss / scores.shape[1], d / scores.shape[1]


@FULLY_CONNECTED_NET.mistake(
    "scores normalized", S4, "the source article; yaoing/DAN #14"
)
class NormalizedScores(Net):
    """the scores are normalized"""

    def cross_entropy(self, scores, y):
        x_hat, inv_std = _standardized(scores, 0, 1e-5)
        loss, d = super().cross_entropy(x_hat, y)
        return loss, through_norm(d, np.ones(d.shape[1]), x_hat, inv_std, 0)


@FULLY_CONNECTED_NET.mistake(
    "ReLU on the scores", S4, "huyng/tensorflow-vgg #13; NVlabs/GA3C #17"
)
class ReluOnScores(Net):
    """a ReLU follows the last affine map"""

    def cross_entropy(self, scores, y):
        loss, d = super().cross_entropy(np.maximum(scores, 0), y)
        return loss, d * (scores > 0)


@FULLY_CONNECTED_NET.mistake("penalty without the half", S4, "cs231n.github.io #89")
class NoHalf(Net):
    """the half before reg is missing, in the loss and in the gradient"""

    def __init__(self, params, reg=0.0):
        super().__init__(params, 2 * reg)


@FULLY_CONNECTED_NET.mistake(
    "penalty divided by N", S4, "dennybritz/nn-from-scratch #13"
)
class PenaltyAveraged(Net):
    """the penalty is divided by N in the loss, and nothing is divided by N in the
    gradients"""

    def penalized(self, loss, grads, N):
        grads = {name: N * gradient for name, gradient in grads.items()}
        total, grads = super().penalized(N * loss, grads, N)
        return total / N, grads


@FULLY_CONNECTED_NET.mistake("biases penalized", S4, "Burton2000/CS231n-2017 #9")
class BiasesToo(Net):
    """the penalty includes the biases"""

    def penalized_names(self):
        return [name for name in self.params if name[0] in "Wb" and name[1].isdigit()]


@FULLY_CONNECTED_NET.mistake(
    "gamma and beta penalized",
    S4,
    "torch/torch7 #846; Eric-mingjie/rethinking-network-pruning #27",
)
class GammaAndBetaToo(Net):
    """the penalty includes gamma and beta"""

    def penalized_names(self):
        return [name for name in self.params if name[:-1] in ("W", "gamma", "beta")]


@FULLY_CONNECTED_NET.mistake(
    "dW and db ahead of the norm",
    S3,
    "the source article, dW from dZ of the norm's output",
)
class AheadOfTheNorm(Net):
    """dW and db are taken from the gradient behind the norm, although the affine map
    lies in front of it"""

    def backward(self, *args):
        return super().backward(*args, end=ahead_of_the_norm)


@FULLY_CONNECTED_NET.mistake(
    "ReLU's slope in front of the norm", S3, "the source article, relu_derivative(Z)"
)
class SlopeInFrontOfTheNorm(Net):
    """ReLU's slope is taken where the norm began"""

    def backward(self, k, d, x, x_hat, inv_std, y):
        opened = x @ self.params[f"W{k}"] + self.params[f"b{k}"] > 0
        how = {"mask": lambda dy, x, W, y: dy * opened}
        return super().backward(k, d, x, x_hat, inv_std, y, **how)


# --- adam_step -----------------------------------------------------------------------


def adam_cases(rng):
    def case(shape, t, *settings):
        p, g = rng.normal(size=(2, *shape))
        m = rng.normal(0, 0.3, shape) if t > 1 else np.zeros(shape)
        v = rng.uniform(0.1, 1, shape) if t > 1 else np.zeros(shape)
        return (p, g, m, v, t, *settings)

    return [
        case((3, 4), 1),
        case((5,), 2, 0.1, 0.8, 0.95, 0.3),
        case((2, 3, 2), 7, 0.01, 0.9, 0.99, 0.1),
    ]


def moments(g, m, v, beta1, beta2):
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def _adam(divisors=None, denominator=None, hats=None):
    """Adam with other divisors of the moments, or another denominator."""
    denominator = denominator or (lambda v_hat, eps, c2: np.sqrt(v_hat) + eps)
    hats = hats or (lambda m, v, c1, c2: (m / c1, v / c2))

    def wrong(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        m, v = moments(g, m, v, beta1, beta2)
        c1, c2 = (
            divisors(beta, t) if divisors else 1 - beta**t for beta in (beta1, beta2)
        )
        m_hat, v_hat = hats(m, v, c1, c2)
        return p - lr * m_hat / denominator(v_hat, eps, c2), m, v

    return wrong


ADAM_STEP = Exercise(
    "adam_step",
    forms.adam_step,
    ("p", "g", "m", "v", "t", "lr", "beta1", "beta2", "eps"),
    ("new p", "new m", "new v"),
    adam_cases,
    weights=(2, 1, 1),
    forms=(forms.adam_step,),
)


@ADAM_STEP.mistake(
    "no bias correction", S6, "google-research/bert #153; ml-explore/mlx #1640"
)
def no_bias_correction(*args):
    """m and v are used as they are, although both start at 0"""
    return (_adam(divisors=lambda beta, t: 1))(*args)


@ADAM_STEP.mistake("multiplied for divided", S6, "karpathy/convnetjs #70, #107")
def multiplied_for_divided(*args):
    """the correction multiplies, although the moments are too small"""
    return (_adam(hats=lambda m, v, c1, c2: (m * c1, v * c2)))(*args)


@ADAM_STEP.mistake(
    "eps inside the root",
    S6,
    "FluxML/Flux.jl #448; CyberZHG/keras-radam #29; d2l-zh #502",
)
def eps_inside_the_root(*args):
    """eps is added under the root, as in batch norm"""
    return (_adam(denominator=lambda v_hat, eps, c2: np.sqrt(v_hat + eps)))(*args)


@ADAM_STEP.mistake("eps before the correction", S6, "pytorch #41477; keras #17391")
def eps_before_the_correction(*args):
    """eps is added to the root of v before the correction, which then divides eps as
    well"""
    return (
        _adam(denominator=lambda v_hat, eps, c2: np.sqrt(v_hat) + eps / np.sqrt(c2))
    )(*args)


@ADAM_STEP.mistake("corrected moments kept", S6, "frgfm/holocron #1")
def keeps_corrected(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """the corrected moments are returned, which the next step would correct again"""
    p, m, v = forms.adam_step(p, g, m, v, t, lr, beta1, beta2, eps)
    return p, m / (1 - beta1**t), v / (1 - beta2**t)


@ADAM_STEP.mistake("corrected after the root", S6, "pytorch #23737, review")
def corrected_after_the_root(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    """the correction divides the root of v, not v"""
    m, v = moments(g, m, v, beta1, beta2)
    root = np.sqrt(v) / (1 - beta2**t)
    return p - lr * m / (1 - beta1**t) / (root + eps), m, v


# --- TrainableNet --------------------------------------------------------------------


def trainable_case(rng, N, dims, weight_scale, batches=3):
    D = dims[0]
    x = rng.normal(rng.normal(size=D), rng.uniform(0.5, 2, D), (batches + 1, N, D))
    return dims, weight_scale, x[1:], x[0, :5], int(rng.integers(2**31))


def trainable_cases(rng):
    return [
        trainable_case(rng, 9, (7, 6, 6, 4), 0.3),
        trainable_case(rng, 12, (5, 8, 3), 2.0),
    ]


def _start_to_scores_at_any_depth(trial):
    exercise = trial.exercise
    judged = [k for k in range(len(exercise.outputs)) if trial.right(k)]
    for dims in ((6, 5, 4, 5, 3), (6, 3)):
        args = trainable_case(trial.rng, 10, dims, 0.5)
        got, want = (
            exercise.outcome(student, args).outputs
            for student in (trial.student, exercise.reference)
        )
        wrong = [exercise.outputs[k] for k in judged if not close(got[k], want[k])]
        if wrong:
            return (f"{len(dims) - 2} hidden layers: {wrong[0]} is wrong",)
    return ()


def _alone_as_in_company(trial):
    trial.usable(SCORES)
    dims, weight_scale, batches, probe, seed = trial.cases[0]
    whole, alone = (
        trial.exercise.outcome(trial.student, (dims, weight_scale, batches, x, seed))
        for x in (probe, probe[:1])
    )
    if isinstance(alone.outputs[SCORES], Failed):
        return (str(alone.outputs[SCORES]),)
    want = whole.outputs[SCORES][:1]
    lines = difference("scores of a sample alone", alone.outputs[SCORES], want)
    return lines and (*lines, "a sample's scores must not depend on its batch mates")


SCORES = 8  # of the outputs
TRAINABLE_NET = Exercise(
    "trainable_net",
    forms.TrainableNet,
    ("dims", "weight_scale", "batches", "probe", "seed"),
    (
        "W at the start",
        "b at the start",
        "gamma at the start",
        "beta at the start",
        "running_mean at the start",
        "running_var at the start",
        "running_mean after three batches",
        "running_var after three batches",
        "scores",
        "params after scores",
        "running after scores",
    ),
    trainable_cases,
    extra=(
        Property("any number of layers", _start_to_scores_at_any_depth, 0.5),
        Property(
            "a sample alone gets the scores it gets in a batch",
            _alone_as_in_company,
            0.5,
        ),
    ),
    weights=(1, 0.25, 0.5, 0.5, 0.4, 0.6, 1, 1.5, 2.5, 0.25, 0.75),
    drive=drive_trainable_net,
    forms=(forms.TrainableNet,),
)


class Trainable:
    """The right network, in parts; each mistake replaces one or two."""

    eps, momentum = 1e-5, 0.1

    def __init__(self, dims, weight_scale, rng):
        self.params, self.running, self.last = {}, {}, len(dims) - 1
        self.scale, self.rng = weight_scale, rng
        for k, (D, H) in enumerate(pairwise(dims), start=1):
            self.params |= {f"W{k}": self.weights(D, H), f"b{k}": self.bias(H)}
            if k < self.last:
                self.params |= {f"gamma{k}": self.gamma(H), f"beta{k}": np.zeros(H)}
                self.running |= {f"running_mean{k}": np.zeros(H)}
                self.running |= {f"running_var{k}": np.ones(H)}

    def weights(self, D, H):
        return self.scale * self.rng.normal(size=(D, H))

    def bias(self, H):
        return np.zeros(H)

    def gamma(self, H):
        return np.ones(H)

    def observe(self, x):
        for k in range(1, self.last):
            z = self.affine(k, x)
            for name, new in zip(RUNNING, self.noted(z), strict=True):
                self.running[f"{name}{k}"] = self.blend(self.running[f"{name}{k}"], new)
            x = self.norm_relu(k, z, *self.normalizing(k, z))

    def noted(self, z):
        return z.mean(0), z.var(0, ddof=1)

    def normalizing(self, k, z):
        return z.mean(0), z.var(0)

    def blend(self, old, new):
        return (1 - self.momentum) * old + self.momentum * new

    def scores(self, x):
        for k in range(1, self.last):
            z = self.affine(k, x)
            x = self.norm_relu(k, z, *self.evaluating(k, z))
        return self.affine(self.last, x)

    def evaluating(self, k, z):
        return [self.running[f"{name}{k}"] for name in RUNNING]

    def affine(self, k, x):
        return x @ self.params[f"W{k}"] + self.params[f"b{k}"]

    def norm_relu(self, k, z, mean, var):
        x_hat = (z - mean) / np.sqrt(var + self.eps)
        return np.maximum(self.scale_and_shift(k, x_hat), 0)

    def scale_and_shift(self, k, x_hat):
        return self.params[f"gamma{k}"] * x_hat + self.params[f"beta{k}"]


RUNNING = "running_mean", "running_var"


@TRAINABLE_NET.mistake(
    "one seed for all weights", S7, "nntile/nntile #21; mila-iqia/blocks #181"
)
class OneSeed(Trainable):
    """each W comes from a generator of its own that always starts at seed 0"""

    def weights(self, D, H):
        return self.scale * np.random.default_rng(0).normal(size=(D, H))


@TRAINABLE_NET.mistake(
    "scale by the number of inputs",
    S7,
    "mnielsen/neural-networks-and-deep-learning, network2.py",
)
class ByTheRootOfD(Trainable):
    """weights are divided by the root of the number of inputs as well"""

    def weights(self, D, H):
        return super().weights(D, H) / np.sqrt(D)


@TRAINABLE_NET.mistake(
    "biases drawn", S7, "mnielsen/neural-networks-and-deep-learning, network.py"
)
class BiasesDrawn(Trainable):
    """biases are drawn like weights, and the later weights are other numbers then"""

    def bias(self, H):
        return self.scale * self.rng.normal(size=H)


@TRAINABLE_NET.mistake("gamma drawn, normal", S7, "pytorch/examples #516: DCGAN")
class GammaNormal(Trainable):
    """γ is drawn at random, and the later weights are other numbers then"""

    def gamma(self, H):
        return self.rng.normal(size=H)


@TRAINABLE_NET.mistake("gamma drawn, uniform", S7, "pytorch #12259; keras PR #1861")
class GammaUniform(Trainable):
    """γ is drawn uniformly, and the later weights are other numbers then"""

    def gamma(self, H):
        return self.rng.uniform(size=H)


@TRAINABLE_NET.mistake(
    "standard deviation kept", S7, "keras #2138, running_std; FluxML/Flux.jl #84"
)
class DeviationKept(Trainable):
    """the standard deviation is blended in, and not the variance"""

    def noted(self, z):
        mean, var = super().noted(z)
        return mean, np.sqrt(var)


@TRAINABLE_NET.mistake("last batch only", S7, "keras #13117, #13214")
class LastBatchOnly(Trainable):
    """the last batch takes the place of all batches before it"""

    def blend(self, old, new):
        return new


@TRAINABLE_NET.mistake(
    "running statistics in training", S7, "holyseven/PSPNet-TF-Reproduce #16"
)
class RunningInTraining(Trainable):
    """observe hands on to the next layer what the running statistics normalize"""

    def normalizing(self, k, z):
        return self.evaluating(k, z)


@TRAINABLE_NET.mistake(
    "batch statistics in evaluation", S7, "keras #3078; vlfeat/matconvnet #416"
)
class BatchStatistics(Trainable):
    """scores normalizes by the mean and variance of the photos it is given"""

    def evaluating(self, k, z):
        return self.normalizing(k, z)


@TRAINABLE_NET.mistake(
    "scores in training mode",
    S7,
    "AntreasAntoniou/HowToTrainYourMAMLPytorch #3; udacity/deep-learning #130",
)
class TrainingMode(BatchStatistics):
    """scores works as in training: it normalizes by the photos it is given, and moves
    the running statistics"""

    def scores(self, x):
        scores = super().scores(x)
        self.observe(x)
        return scores


@TRAINABLE_NET.mistake(
    "statistics updated in evaluation", S7, "karpathy/nn-zero-to-hero #82"
)
class ScoresObserve(Trainable):
    """scores treats what it is given as one more batch in training, and the running
    statistics move before they are used"""

    def scores(self, x):
        self.observe(x)
        return super().scores(x)


@TRAINABLE_NET.mistake("no scale and shift", S7, "BVLC/caffe, batch_norm_layer.cpp")
class NoScaleAndShift(Trainable):
    """γ and β are not used, neither in training nor in evaluation"""

    def scale_and_shift(self, k, x_hat):
        return x_hat


@TRAINABLE_NET.mistake(
    "probabilities for scores", S7, "tflearn #562; nfmcclure/tensorflow_cookbook #86"
)
class Probabilities(Trainable):
    """a softmax makes probabilities of the scores"""

    def scores(self, x):
        e = super().scores(x)
        e = np.exp(e - e.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)


@TRAINABLE_NET.mistake(
    "ReLU on the scores", S7, "huyng/tensorflow-vgg #13; NVlabs/GA3C #17"
)
class ReluBehindScores(Trainable):
    """a ReLU follows the last affine map"""

    def scores(self, x):
        return np.maximum(super().scores(x), 0)


EXERCISES = (
    AFFINE_NORM_RELU_FORWARD,
    AFFINE_NORM_RELU_BACKWARD,
    FULLY_CONNECTED_NET,
    ADAM_STEP,
    TRAINABLE_NET,
)
