"""Checks of lesson 04, training on all of MNIST.

A network cannot cross to a grader's process. So every check sends arrays, numbers and
names to a driver, which builds a small network beside the student's code and sends
arrays back.
"""

import contextlib
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..drivers.lesson_04 import (
    FIXTURE,
    drive_evaluate,
    drive_make_mlp,
    drive_mended_fit,
    drive_train_step,
)
from ..engine import Exercise, Property
from ..forms import lesson_04 as forms

S3 = "section 3, Build two networks that start alike"
S4 = "section 4, Take a step"
S5 = "section 5, Measure in evaluation mode"
S10 = "section 10, Forget the mode and see what breaks"


# --- inputs --------------------------------------------------------------------------


def classes(rng, shape, count):
    """Labels in which every class occurs."""
    y = rng.integers(0, count, shape)
    y[..., :count] = np.arange(count)
    return y


def batch(rng, shape):
    """Inputs whose features differ in mean and spread."""
    D = shape[-1]
    return rng.normal(0, 1, D) + rng.permutation(np.geomspace(0.3, 3, D)) * rng.normal(
        size=shape
    )


# --- make_mlp ------------------------------------------------------------------------


def mlp_cases(rng):
    def case(dims, activation, norm):
        x, seed = batch(rng, (11, dims[0])), int(rng.integers(2**31))
        return dims, activation, norm, x, classes(rng, 11, dims[-1]), seed

    return [
        case((7, 6, 6, 4), "Sigmoid", "BatchNorm1d"),
        case((5, 8, 3), "ReLU", None),
        case((6, 5, 5, 5, 3), "ReLU", "BatchNorm1d"),
        case((5, 7, 6, 3), "Tanh", "LayerNorm"),
    ]


def _any_widths(trial):
    x, y = batch(trial.rng, (9, 6)), classes(trial.rng, 9, 3)
    for dims in ((6, 7, 4, 5, 3), (6, 3)):
        trial.needs()
        got, want = trial.run((dims, "Tanh", "BatchNorm1d", x, y, 1))
        if not all(np.allclose(g, w) for g, w in zip(got, want, strict=True)):
            return (f"dims = {dims}: the logits are wrong",)
    return ()


def chain(dims, hidden):
    """Affine layers with what `hidden(fan_out)` makes between them."""
    layers = []
    for fan_in, fan_out in pairwise(dims[:-1]):
        layers += [nn.Linear(fan_in, fan_out), *hidden(fan_out)]
    return [*layers, nn.Linear(*dims[-2:])]


def right_layers(dims, activation, norm):
    def hidden(width):
        return (norm(width), activation()) if norm else (activation(),)

    return chain(dims, hidden)


class _PlainList(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


MAKE_MLP = Exercise(
    "make_mlp",
    forms.make_mlp,
    ("dims", "activation", "norm", "x", "y", "seed"),
    ("training_logits", "evaluation_logits", "logits_after_a_step"),
    mlp_cases,
    extra=(Property("any widths, also no hidden layer", _any_widths, 0.5),),
    drive=drive_make_mlp,
    forms=(forms.make_mlp, forms.mlp_in_one_loop),
)


@MAKE_MLP.mistake(
    "softmax at the end",
    S3,
    "jaehong31/CGES #1; Safe-DS/Library #581; pytorch-adacos #14",
)
def softmax_at_the_end(dims, activation, norm=None):
    """the network ends with a softmax, although cross-entropy takes logits"""
    return nn.Sequential(*right_layers(dims, activation, norm), nn.Softmax(1))


@MAKE_MLP.mistake(
    "log-softmax at the end", S3, "Randl/MobileNetV2-pytorch #5; AICPS/hw2vec #23"
)
def log_softmax_at_the_end(dims, activation, norm=None):
    """the network ends with a log-softmax, which cross-entropy takes once more"""
    return nn.Sequential(*right_layers(dims, activation, norm), nn.LogSoftmax(1))


@MAKE_MLP.mistake("activation ignored", S3, "snap-stanford/GEARS #42")
def activation_ignored(dims, activation, norm=None):
    """the argument activation is not used: there is a ReLU in any case"""
    return nn.Sequential(*right_layers(dims, nn.ReLU, norm))


@MAKE_MLP.mistake(
    "activation after the last layer", S3, "huyng/tensorflow-vgg #13; NVlabs/GA3C #17"
)
def activation_at_the_end(dims, activation, norm=None):
    """an activation follows the last affine layer"""
    return nn.Sequential(*right_layers(dims, activation, norm), activation())


@MAKE_MLP.mistake(
    "norm after the last layer",
    S3,
    "yaoing/DAN #14; kanezaki/pytorch-unsupervised-segmentation #1",
)
def norm_at_the_end(dims, activation, norm=None):
    """a norm follows the last affine layer"""
    last = [norm(dims[-1])] if norm else []
    return nn.Sequential(*right_layers(dims, activation, norm), *last)


@MAKE_MLP.mistake(
    "norm after the activation", S3, "pochih/FCN-pytorch #21; keras #4618"
)
def norm_after_activation(dims, activation, norm=None):
    """the norm follows the activation, and does not stand before it"""

    def hidden(width):
        return (activation(), norm(width)) if norm else (activation(),)

    return nn.Sequential(*chain(dims, hidden))


@MAKE_MLP.mistake(
    "one norm for all layers",
    S3,
    "kanezaki/pytorch-unsupervised-segmentation #1; dreamquark-ai/tabnet #76",
)
def one_norm_for_all(dims, activation, norm=None):
    """hidden layers share one norm, with its statistics, γ and β"""
    made = {}

    def hidden(width):
        if norm:
            made.setdefault(width, norm(width))
        return (made[width], activation()) if norm else (activation(),)

    return nn.Sequential(*chain(dims, hidden))


@MAKE_MLP.mistake("layers in a plain list", S3, "pytorch #666, #1053")
def layers_in_a_list(dims, activation, norm=None):
    """the layers sit in a Python list, where PyTorch sees no parameters to train and
    no mode to switch"""
    return _PlainList(right_layers(dims, activation, norm))


# --- train_step ----------------------------------------------------------------------


def step_cases(rng):
    def case(N, lr):
        x = batch(rng, (3, N, FIXTURE[0]))
        y = classes(rng, (3, N), FIXTURE[-1])
        return x, y, lr, int(rng.integers(2**31))

    return [case(8, 0.5), case(13, 0.1)]


def _descend(model, lr):
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(lr * p.grad)


def _step(model, loss, lr):
    model.zero_grad()
    loss.backward()
    _descend(model, lr)
    return loss.item()


TRAIN_STEP = Exercise(
    "train_step",
    forms.step_by_hand,  # torch.optim takes a second to load
    ("x", "y", "lr", "seed"),
    ("losses", "parameters", "running_statistics"),
    step_cases,
    weights=(1, 2, 1),
    drive=drive_train_step,
    forms=(forms.train_step, forms.step_by_hand),
)


@TRAIN_STEP.mistake(
    "softmax before cross-entropy",
    S4,
    "lightning-bolts #654; jindongwang/Deep-learning-activity-recognition #10",
)
def step_softmax_twice(model, x, y, lr):
    """softmax is applied before cross_entropy, which applies it again"""
    model.train()
    return _step(model, F.cross_entropy(model(x).softmax(1), y), lr)


@TRAIN_STEP.mistake(
    "probabilities for log-probabilities",
    S4,
    "AnubhavGupta3377/Text-Classification-Models-Pytorch #9",
)
def step_probabilities(model, x, y, lr):
    """nll_loss is given probabilities, not their logarithms"""
    model.train()
    return _step(model, F.nll_loss(model(x).softmax(1), y), lr)


@TRAIN_STEP.mistake(
    "loss summed over the batch",
    S4,
    "jax #3113; ai-safety-foundation/sparse_autoencoder #63",
)
def step_summed(model, x, y, lr):
    """the losses of the batch are added up, not averaged"""
    model.train()
    return _step(model, F.cross_entropy(model(x), y, reduction="sum"), lr)


@TRAIN_STEP.mistake(
    "two passes in one step", S4, "davda54/sam #17; m2lines/Samudra #572"
)
def step_two_passes(model, x, y, lr):
    """the batch goes through the network twice, so the running statistics move twice"""
    model.train()
    with torch.no_grad():
        model(x)
    return _step(model, F.cross_entropy(model(x), y), lr)


@TRAIN_STEP.mistake(
    "nothing moves", S4, "ultralytics #11217; patrickloeber/pytorchTutorial #19"
)
def step_not_taken(model, x, y, lr):
    """no parameter moves"""
    model.train()
    return F.cross_entropy(model(x), y).item()


@TRAIN_STEP.mistake("loss after the step", S4, "published training loops")
def step_then_loss(model, x, y, lr):
    """the loss after the step is returned, which takes a second pass"""
    forms.train_step(model, x, y, lr)
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


@TRAIN_STEP.mistake("Adam for gradient descent", S4, "published training loops")
def step_of_adam(model, x, y, lr):
    """the step is one of Adam's, which is no gradient descent"""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


# --- evaluate ------------------------------------------------------------------------


def evaluate_cases(rng):
    def case(N, batch_size, training):
        y = classes(rng, N, FIXTURE[-1])
        x = batch(rng, (N, FIXTURE[0]))
        return x, y, batch_size, training, int(rng.integers(2**31))

    return [case(43, 8, 1), case(31, 20, 1), case(29, 9, 0)]


def _one_batch_is_enough(trial):
    x, y, _, training, seed = trial.cases[0]
    first = trial.cases[0]
    for batch_size in (1, 1000):
        other = x, y, batch_size, training, seed
        what = f"batch_size = {batch_size} changes the result"
        if lines := trial.same(first, other, what):
            return lines
    return ()


def _batches(x, y, batch_size):
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


@contextlib.contextmanager
def _mode(model, training):
    before = model.training
    model.train(training)
    with torch.no_grad():
        yield
    model.train(before)


def _totals(model, batches):
    """Mean loss and accuracy over all samples, in the mode the model is in."""
    loss = right = n = 0
    for x, y in batches:
        logits = model(x)
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        right += (logits.argmax(1) == y).sum().item()
        n += len(y)
    return loss / n, right / n


EVALUATE = Exercise(
    "evaluate",
    forms.evaluate,
    ("x", "y", "batch_size", "training", "seed"),
    (
        "loss",
        "accuracy",
        "running_statistics",
        "training_mode_after",
        "samples_at_once_above_batch_size",
    ),
    evaluate_cases,
    extra=(Property("the same whatever the batch size", _one_batch_is_enough, 0.5),),
    weights=(1, 1, 1, 0.5, 0),
    drive=drive_evaluate,
    forms=(forms.evaluate,),
)


@EVALUATE.mistake(
    "evaluates in training mode",
    S5,
    "facebookresearch/higher #55; princeton-vl/pytorch_stacked_hourglass #44",
)
def evaluates_in_training_mode(model, x, y, batch_size):
    """the network is switched to training mode, where the answers depend on the batch
    and the running statistics move"""
    with _mode(model, True):
        return _totals(model, _batches(x, y, batch_size))


@EVALUATE.mistake("batch statistics in evaluation", S5, "xu-ji/IIC #49; pytorch #4741")
def batch_statistics_untracked(model, x, y, batch_size):
    """each batch is normalized by its own statistics in place of the running ones"""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    kept = [(m, m.running_mean, m.running_var) for m in norms]
    for m in norms:
        m.running_mean = m.running_var = None
    try:
        with _mode(model, False):
            return _totals(model, _batches(x, y, batch_size))
    finally:
        for m, mean, var in kept:
            m.running_mean, m.running_var = mean, var


@EVALUATE.mistake(
    "evaluation moves the running statistics",
    S5,
    "facebookresearch/schedule_free #60; microsoft/robustdg #30; nn-zero-to-hero #82",
)
def statistics_refreshed(model, x, y, batch_size):
    """a pass in training mode over the evaluation data moves the running statistics"""
    batches = _batches(x, y, batch_size)
    with _mode(model, True):
        for xb, _ in batches:
            if len(xb) > 1:
                model(xb)
    with _mode(model, False):
        return _totals(model, batches)


@EVALUATE.mistake(
    "mean of batch means",
    S5,
    "udacity/deep-learning-v2-pytorch #74; mlcommons/training #89",
)
def mean_of_batch_means(model, x, y, batch_size):
    """the batches' averages are averaged, so that a small last batch counts too much"""
    with _mode(model, False):
        pairs = [_totals(model, [b]) for b in _batches(x, y, batch_size)]
    loss, accuracy = np.mean(pairs, axis=0)
    return loss, accuracy


@EVALUATE.mistake(
    "batch means divided by the number of samples",
    S5,
    "pytorch/tutorials #179; Dive-into-DL-PyTorch #74",
)
def means_over_samples(model, x, y, batch_size):
    """mean losses are added up and divided by the number of samples, although the mean
    was taken already"""
    with _mode(model, False):
        batches = _batches(x, y, batch_size)
        losses = [_totals(model, [b])[0] for b in batches]
        return sum(losses) / len(x), _totals(model, batches)[1]


@EVALUATE.mistake(
    "last batch dropped", S5, "thuml/Autoformer #104; yuqinie98/PatchTST #7"
)
def last_batch_dropped(model, x, y, batch_size):
    """the last, smaller batch is left out"""
    whole = max(len(x) // batch_size, 1) * batch_size
    with _mode(model, False):
        return _totals(model, _batches(x[:whole], y[:whole], batch_size))


@EVALUATE.mistake("softmax before cross-entropy", S5, "ariecattan/SciCo #2")
def evaluate_softmax_twice(model, x, y, batch_size):
    """softmax is applied before cross_entropy, which applies it again"""
    with _mode(model, False):
        batches = _batches(x, y, batch_size)
        twice = _totals(lambda x: model(x).softmax(1), batches)
        return twice[0], _totals(model, batches)[1]


@EVALUATE.mistake(
    "argmax over the whole batch",
    S5,
    "Zasder3/train-CLIP #6; lisa-lab/DeepLearningTutorials #15",
)
def argmax_over_everything(model, x, y, batch_size):
    """one largest logit of the whole batch is taken, and not one per sample"""
    with _mode(model, False):
        batches = _batches(x, y, batch_size)
        right = sum((model(xb).argmax() == yb).sum().item() for xb, yb in batches)
        return _totals(model, batches)[0], right / len(x)


@EVALUATE.mistake(
    "nominal batch size", S5, "mitmul/chainer-cifar10 #1; siamese-triplet #6"
)
def nominal_batch_size(model, x, y, batch_size):
    """each batch counts as batch_size samples, also the last, smaller one"""
    with _mode(model, False):
        pairs = [_totals(model, [b]) for b in _batches(x, y, batch_size)]
    loss, accuracy = np.sum(pairs, axis=0) * batch_size / len(x)
    return loss, accuracy


@EVALUATE.mistake("last batch only", S5, "adambielski/siamese-triplet #6")
def last_batch_only(model, x, y, batch_size):
    """the result is that of the last batch alone"""
    with _mode(model, False):
        return _totals(model, _batches(x, y, batch_size)[-1:])


@EVALUATE.mistake("left in training mode", S5, "dlwpt-code #104")
def left_in_training_mode(model, x, y, batch_size):
    """the network is left in training mode, whatever mode it came in"""
    result = forms.evaluate(model, x, y, batch_size)
    model.train()
    return result


# --- mended_fit ----------------------------------------------------------------------


def fit_cases(rng):
    def case(N, epochs, batch_size):
        D, C = FIXTURE[0], FIXTURE[-1]
        train, test = batch(rng, (N, D)), batch(rng, (40, D))
        labels = classes(rng, N, C), classes(rng, 40, C)
        seed = int(rng.integers(2**31))
        return train, labels[0], test, labels[1], 0.5, epochs, batch_size, seed

    return [case(60, 3, 8), case(45, 2, 16)]


def _accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


def _epoch(model, x, y, lr, batch_size):
    for xb, yb in _batches(x, y, batch_size):
        _step(model, F.cross_entropy(model(xb), yb), lr)


MENDED_FIT = Exercise(
    "mended_fit",
    forms.mended_fit,
    ("x", "y", "x_test", "y_test", "lr", "epochs", "batch_size", "seed"),
    ("accuracies", "running_statistics", "parameters"),
    fit_cases,
    weights=(1, 1, 1),
    drive=drive_mended_fit,
    forms=(forms.mended_fit,),
)


@MENDED_FIT.given
@MENDED_FIT.mistake(
    "both bugs still there", S10, "pytorch/tutorials #1602; microsoft/robustdg #30"
)
def broken_fit(model, x, y, x_test, y_test, lr, epochs, batch_size):
    """nothing has changed yet: count the forward passes in training mode"""
    model.train()
    history = []
    for _ in range(epochs):
        _epoch(model, x, y, lr, batch_size)
        seen = _accuracy(model, x, y)
        model.eval()
        history.append((seen, _accuracy(model, x_test, y_test)))
    return history


@MENDED_FIT.mistake(
    "training accuracy in training mode",
    S10,
    "the source tutorial; microsoft/robustdg #30",
)
def first_accuracy_too_early(model, x, y, x_test, y_test, lr, epochs, batch_size):
    """one forward pass per epoch too many is made in training mode"""
    history = []
    for _ in range(epochs):
        model.train()
        _epoch(model, x, y, lr, batch_size)
        seen = _accuracy(model, x, y)
        model.eval()
        history.append((seen, _accuracy(model, x_test, y_test)))
    return history


EXERCISES = (MAKE_MLP, TRAIN_STEP, EVALUATE, MENDED_FIT)
