"""Checks of lesson 06, deep networks."""

import numpy as np

from ..changes import changed
from ..common import batch, keeps_digits, scale_and_shift
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
        return (x, W, b, *scale_and_shift(rng, H), axis, *eps)

    return [
        case(12, 5, 6, 0),
        case(9, 4, 7, 1),
        case(8, 6, 9, 0, 2.0),
        case(11, 3, 8, 1, 2.0),
    ]


AFFINE_NORM_RELU_FORWARD = Exercise(
    "affine_norm_relu_forward",
    forms.affine_norm_relu_forward,
    ("x", "W", "b", "gamma", "beta", "axis", "eps"),
    ("y", "x_hat", "inv_std"),
    forward_cases,
    extra=(keeps_digits(2),),
    weights=(2, 1, 1),
)


AFFINE_NORM_RELU_FORWARD.mistakes += changed(
    forms.affine_norm_relu_forward,
    S3,
    """
    ReLU before the norm: the ReLU comes before the norm
        z = x @ W + b -> z = np.maximum(x @ W + b, 0)
        np.maximum(gamma * x_hat + beta, 0) -> gamma * x_hat + beta
        seen in keras #4618; MAML-Pytorch #39
    gamma and beta ignored: gamma and beta are not used
        gamma * x_hat + beta -> x_hat
        seen in answers that pass the example of the source homework
    """,
)


# --- affine_norm_relu_backward -------------------------------------------------------


def backward_case(rng, N, D, H, axis):
    """What a forward pass leaves behind, and a random upstream gradient."""
    x, W, _ = layer_arrays(rng, N, D, H)
    gamma, beta = scale_and_shift(rng, H)
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


LAYER_GRADIENTS = ("dx", "dW", "db", "dgamma", "dbeta")


AFFINE_NORM_RELU_BACKWARD = Exercise(
    "affine_norm_relu_backward",
    forms.affine_norm_relu_backward,
    ("dy", "x", "W", "gamma", "x_hat", "inv_std", "y", "axis"),
    LAYER_GRADIENTS,
    backward_cases,
    extra=(Property("any widths", _any_widths, 0.5),),
    weights=(2, 1, 1, 1, 1),
)


AFFINE_NORM_RELU_BACKWARD.mistakes += changed(
    forms.affine_norm_relu_backward,
    S3,
    """
    ReLU's slope in front of the norm: ReLU's slope is taken where the norm began
        y > 0 -> x @ W > 0
        seen in the source article, relu_derivative(Z)
    gamma twice: gamma enters the gradient twice: once by name, once inside dx_hat
        d * inv_std -> d * inv_std * gamma
        seen in the source article; NVIDIA/Megatron-LM #6859
    dW in place of W: the gradient goes back through dW, not through W
        d @ W.T -> d @ (x.T @ d).T
        seen in jcjohnson/pytorch-examples #5, #28
    """,
)


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


FULLY_CONNECTED_NET = Exercise(
    "fully_connected_net",
    forms.Net,
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
        Property("stands scores around 1000", _large_scores, 0.5),
    ),
    weights=(2, 1, 1, 1, 2, 1, 0.5),
    drive=drive_fully_connected_net,
)


FULLY_CONNECTED_NET.mistakes += changed(
    forms.Net,
    S4,
    """
    exponentials overflow: Your exponentials overflow; a softmax does not change when
    each sample's largest score is subtracted first.
        logits = logits - logits.max(1, keepdims=True) -> pass
        shows stands scores around 1000
        seen in dmlc/minpy #48; numenta/nupic-legacy #3819; jhcross/span-parser #2
    averaged over the classes: the average runs over samples and classes
        N = len(y) -> N = len(y) * len(p[f"b{self.last}"])
        seen in jax #1023; GMvandeVen/continual-learning #5
    scores normalized: the scores are normalized
        logits = logits -
            -> spread = np.sqrt(logits.var(0) + 1e-5)
            ; z_hat = logits = (logits - logits.mean(0)) / spread; logits = logits -
        d = (shares - target) / N
            -> d = (shares - target) / N
            ; d = (d - d.mean(0) - z_hat * (d * z_hat).mean(0)) / spread
        seen in the source article; yaoing/DAN #14
    ReLU on the scores: a ReLU follows the last affine map
        logits = logits -
            -> positive = logits > 0; logits = logits * positive; logits = logits -
        (shares - target) / N -> (shares - target) / N * positive
        seen in huyng/tensorflow-vgg #13; NVlabs/GA3C #17
    penalty without the half: the half before reg is missing, in the loss and in the
    gradient
        + self.reg -> + 2 * self.reg
        0.5 * self.reg -> self.reg
        seen in cs231n.github.io #89
    penalty divided by N: the penalty is divided by N in the loss, and nothing is
    divided by N in the gradients
        0.5 * self.reg -> 0.5 / N * self.reg
        (shares - target) / N -> shares - target
        seen in dennybritz/nn-from-scratch #13
    biases penalized: the penalty includes the biases
        return loss, grads
            -> extra = [n for n in p if n[0] == "b" and n[:4] != "beta"]
            ; loss += sum(0.5 * self.reg * (p[n] ** 2).sum() for n in extra)
            ; return loss, grads | {n: grads[n] + self.reg * p[n] for n in extra}
        seen in Burton2000/CS231n-2017 #9
    gamma and beta penalized: the penalty includes gamma and beta
        return loss, grads
            -> extra = [n for n in p if n[:-1] in ("gamma", "beta")]
            ; loss += sum(0.5 * self.reg * (p[n] ** 2).sum() for n in extra)
            ; return loss, grads | {n: grads[n] + self.reg * p[n] for n in extra}
        seen in torch/torch7 #846; Eric-mingjie/rethinking-network-pruning #27
    """,
)
FULLY_CONNECTED_NET.mistakes += changed(
    forms.Net,
    S3,
    """
    dW and db ahead of the norm: dW and db are taken from the gradient behind the norm,
    although the affine map lies in front of it
        d = d * p[f"gamma{k}"] -> ahead = d; d = d * p[f"gamma{k}"]
        grads[f"W{k}"] = x.T @ d -> grads[f"W{k}"] = x.T @ ahead
        grads[f"b{k}"] = d.sum(0) -> grads[f"b{k}"] = ahead.sum(0)
        seen in the source article, dW from dZ of the norm's output
    ReLU's slope in front of the norm: ReLU's slope is taken where the norm began
        out > 0 -> x @ p[f"W{k}"] + p[f"b{k}"] > 0
        seen in the source article, relu_derivative(Z)
    """,
)


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


ADAM_STEP = Exercise(
    "adam_step",
    forms.adam_step,
    ("p", "g", "m", "v", "t", "lr", "beta1", "beta2", "eps"),
    ("new p", "new m", "new v"),
    adam_cases,
    weights=(2, 1, 1),
)


ADAM_STEP.mistakes += changed(
    forms.adam_step,
    S6,
    """
    no bias correction: m and v are used as they are, although both start at 0
        new_m / (1 - beta1**t) -> new_m
        new_v / (1 - beta2**t) -> new_v
        seen in google-research/bert #153; ml-explore/mlx #1640
    multiplied for divided: the correction multiplies, although the moments are too
    small
        / (1 - beta -> * (1 - beta
        seen in karpathy/convnetjs #70, #107
    eps inside the root: eps is added under the root, as in batch norm
        np.sqrt(second) + eps -> np.sqrt(second + eps)
        seen in FluxML/Flux.jl #448; CyberZHG/keras-radam #29; d2l-zh #502
    eps before the correction: eps is added to the root of v before the correction,
    which then divides eps as well
        np.sqrt(second) + eps -> np.sqrt(second) + eps / np.sqrt(1 - beta2**t)
        seen in pytorch #41477; keras #17391
    corrected moments kept: the corrected moments are returned, which the next step
    would correct again
        p, new_m, new_v -> p, first, second
        seen in frgfm/holocron #1
    corrected after the root: the correction divides the root of v, not v
        np.sqrt(second) -> np.sqrt(new_v) / (1 - beta2**t)
        seen in pytorch #23737, review
    """,
)


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
)


TRAINABLE_NET.mistakes += changed(
    forms.TrainableNet,
    S7,
    """
    one seed for all weights: each W comes from a generator of its own that always
    starts at seed 0
        draws = rng -> draws = np.random.default_rng(0)
        seen in nntile/nntile #21; mila-iqia/blocks #181
    scale by the number of inputs: weights are divided by the root of the number of
    inputs as well
        weight_scale * draws -> weight_scale * draws / np.sqrt(dims[k - 1])
        seen in mnielsen/neural-networks-and-deep-learning, network2.py
    biases drawn: biases are drawn like weights, and the later weights are other numbers
    then
        p[f"b{k}"] = np.zeros(width)
            -> p[f"b{k}"] = weight_scale * rng.normal(size=width)
        seen in mnielsen/neural-networks-and-deep-learning, network.py
    gamma drawn, normal: γ is drawn at random, and the later weights are other numbers
    then
        p[f"gamma{k}"] = np.ones(width) -> p[f"gamma{k}"] = rng.normal(size=width)
        seen in pytorch/examples #516: DCGAN
    gamma drawn, uniform: γ is drawn uniformly, and the later weights are other numbers
    then
        p[f"gamma{k}"] = np.ones(width) -> p[f"gamma{k}"] = rng.uniform(size=width)
        seen in pytorch #12259; keras PR #1861
    standard deviation kept: the standard deviation is blended in, and not the variance
        momentum * unbiased -> momentum * np.sqrt(unbiased)
        seen in keras #2138, running_std; FluxML/Flux.jl #84
    last batch only: the last batch takes the place of all batches before it
        (1 - momentum) * running_mean + momentum * mu -> mu
        (1 - momentum) * running_var + momentum * unbiased -> unbiased
        seen in keras #13117, #13214
    running statistics in training: observe hands on to the next layer what the running
    statistics normalize
        x_hat = (x - mu)
            -> mu, var = (running[f"running_{n}{k}"] for n in ("mean", "var"))
            ; x_hat = (x - mu)
        seen in holyseven/PSPNet-TF-Reproduce #16
    batch statistics in evaluation: scores normalizes by the mean and variance of the
    photos it is given
        (x - running_mean) / np.sqrt(running_var -> (x - x.mean(0)) / np.sqrt(x.var(0)
        seen in keras #3078; vlfeat/matconvnet #416
    scores in training mode: scores works as in training: it normalizes by the photos it
    is given, and moves the running statistics
        x_hat = (x - running_mean) / np.sqrt(running_var + self.eps)
            -> seen = x.mean(0), x.var(0, ddof=1)
            ; running[f"running_mean{k}"] = 0.9 * running_mean + 0.1 * seen[0]
            ; running[f"running_var{k}"] = 0.9 * running_var + 0.1 * seen[1]
            ; x_hat = (x - seen[0]) / np.sqrt(x.var(0) + self.eps)
        seen in AntreasAntoniou/HowToTrainYourMAMLPytorch #3; udacity/deep-learning #130
    no scale and shift: γ and β are not used, neither in training nor in evaluation
        p[f"gamma{k}"] * x_hat + p[f"beta{k}"] -> x_hat
        seen in BVLC/caffe, batch_norm_layer.cpp
    probabilities for scores: a softmax makes probabilities of the scores
        return x @ p[f"W{self.last}"] + p[f"b{self.last}"]
            -> e = np.exp(x @ p[f"W{self.last}"] + p[f"b{self.last}"])
            ; return e / e.sum(1, keepdims=True)
        seen in tflearn #562; nfmcclure/tensorflow_cookbook #86
    ReLU on the scores: a ReLU follows the last affine map
        return x @ p[f"W{self.last}"] + p[f"b{self.last}"]
            -> return np.maximum(x @ p[f"W{self.last}"] + p[f"b{self.last}"], 0)
        seen in huyng/tensorflow-vgg #13; NVlabs/GA3C #17
    """,
)


@TRAINABLE_NET.mistake(
    "statistics updated in evaluation", S7, "karpathy/nn-zero-to-hero #82"
)
class ScoresObserve(forms.TrainableNet):
    """scores treats what it is given as one more batch in training, and the running
    statistics move before they are used"""

    def scores(self, x):
        self.observe(x)
        return super().scores(x)


EXERCISES = (
    AFFINE_NORM_RELU_FORWARD,
    AFFINE_NORM_RELU_BACKWARD,
    FULLY_CONNECTED_NET,
    ADAM_STEP,
    TRAINABLE_NET,
)
