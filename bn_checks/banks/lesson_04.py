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
from ..engine import Exercise, Mistake, Property

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
    ]


def _any_widths(trial):
    x, y = batch(trial.rng, (9, 6)), classes(trial.rng, 9, 3)
    for dims in ((6, 7, 4, 5, 3), (6, 3)):
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


def mlp_reference(dims, activation, norm=None):
    return nn.Sequential(*right_layers(dims, activation, norm))


def softmax_at_the_end(dims, activation, norm=None):
    return nn.Sequential(*right_layers(dims, activation, norm), nn.Softmax(1))


def activation_at_the_end(dims, activation, norm=None):
    return nn.Sequential(*right_layers(dims, activation, norm), activation())


def norm_at_the_end(dims, activation, norm=None):
    last = [norm(dims[-1])] if norm else []
    return nn.Sequential(*right_layers(dims, activation, norm), *last)


def norm_after_activation(dims, activation, norm=None):
    def hidden(width):
        return (activation(), norm(width)) if norm else (activation(),)

    return nn.Sequential(*chain(dims, hidden))


def one_norm_for_all(dims, activation, norm=None):
    made = {}

    def hidden(width):
        if norm:
            made.setdefault(width, norm(width))
        return (made[width], activation()) if norm else (activation(),)

    return nn.Sequential(*chain(dims, hidden))


def no_activation(dims, activation, norm=None):
    return nn.Sequential(*chain(dims, lambda width: (norm(width),) if norm else ()))


def no_norm(dims, activation, norm=None):
    return mlp_reference(dims, activation)


class _PlainList(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def layers_in_a_list(dims, activation, norm=None):
    return _PlainList(right_layers(dims, activation, norm))


MLP_MISTAKES = (
    Mistake(
        "softmax at the end",
        "Your network ends with a softmax; cross-entropy takes logits and applies the "
        "softmax itself.",
        S3,
        "jaehong31/CGES #1; Safe-DS/Library #581; pytorch-adacos #14",
        softmax_at_the_end,
    ),
    Mistake(
        "activation after the last layer",
        "An activation follows your last affine layer; logits must be free to take any "
        "value.",
        S3,
        "huyng/tensorflow-vgg #13; NVlabs/GA3C #17",
        activation_at_the_end,
    ),
    Mistake(
        "norm after the last layer",
        "A norm follows your last affine layer; it belongs to the hidden layers.",
        S3,
        "yaoing/DAN #14; kanezaki/pytorch-unsupervised-segmentation #1",
        norm_at_the_end,
    ),
    Mistake(
        "norm after the activation",
        "Your norm follows the activation; here it stands before it, as in the paper. "
        "Both are seen in practice.",
        S3,
        "pochih/FCN-pytorch #21; keras #4618",
        norm_after_activation,
    ),
    Mistake(
        "one norm for all layers",
        "Your hidden layers share one norm; each needs its own statistics, γ and β.",
        S3,
        "kanezaki/pytorch-unsupervised-segmentation #1; dreamquark-ai/tabnet #76",
        one_norm_for_all,
    ),
    Mistake(
        "no activation between the layers",
        "Nothing bends between your affine layers: together they are one affine layer.",
        S3,
        "pytorch/tutorials #647; aymericdamien/TensorFlow-Examples #207",
        no_activation,
    ),
    Mistake(
        "norm left out",
        "Your network is the same with a norm and without.",
        S3,
        "tinghuiz/SfMLearner #76",
        no_norm,
    ),
    Mistake(
        "layers in a plain list",
        "Your layers sit in a Python list, where PyTorch does not see them: no "
        "parameters to train, no mode to switch.",
        S3,
        "pytorch #666, #1053",
        layers_in_a_list,
    ),
)

MAKE_MLP = Exercise(
    "make_mlp",
    mlp_reference,
    ("dims", "activation", "norm", "x", "y", "seed"),
    ("training_logits", "evaluation_logits", "logits_after_a_step"),
    mlp_cases,
    extra=(Property("any widths, also no hidden layer", _any_widths, 0.5),),
    mistakes=MLP_MISTAKES,
    drive=drive_make_mlp,
)


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


def step_reference(model, x, y, lr):
    model.train()
    return _step(model, F.cross_entropy(model(x), y), lr)


def gradients_pile_up(model, x, y, lr):
    model.train()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    _descend(model, lr)
    return loss.item()


def gradients_thrown_away(model, x, y, lr):
    model.train()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    model.zero_grad(set_to_none=False)
    _descend(model, lr)
    return loss.item()


def step_in_evaluation_mode(model, x, y, lr):
    return _step(model, F.cross_entropy(model(x), y), lr)


def step_softmax_twice(model, x, y, lr):
    model.train()
    return _step(model, F.cross_entropy(model(x).softmax(1), y), lr)


def step_probabilities(model, x, y, lr):
    model.train()
    return _step(model, F.nll_loss(model(x).softmax(1), y), lr)


def step_summed(model, x, y, lr):
    model.train()
    return _step(model, F.cross_entropy(model(x), y, reduction="sum"), lr)


def step_two_passes(model, x, y, lr):
    model.train()
    with torch.no_grad():
        model(x)
    return _step(model, F.cross_entropy(model(x), y), lr)


STEP_MISTAKES = (
    Mistake(
        "gradients not cleared",
        "Your gradients pile up from step to step: backward adds to what is there.",
        S4,
        "IDEA-Research/DAB-DETR #58; wenet-e2e/wekws #72; pytorch #47175",
        gradients_pile_up,
    ),
    Mistake(
        "gradients cleared before they are used",
        "You clear the gradients between backward and the update, so nothing moves.",
        S4,
        "ultralytics #11217; patrickloeber/pytorchTutorial #19",
        gradients_thrown_away,
    ),
    Mistake(
        "step in evaluation mode",
        "You train in whatever mode the network is in; after an evaluation the batch "
        "statistics are switched off.",
        S4,
        "pytorch/tutorials #1624; facebookresearch/clevr-iep #22; tk-rusch/coRNN #1",
        step_in_evaluation_mode,
    ),
    Mistake(
        "softmax before cross-entropy",
        "You apply softmax before cross_entropy, which applies it again.",
        S4,
        "lightning-bolts #654; jindongwang/Deep-learning-activity-recognition #10",
        step_softmax_twice,
    ),
    Mistake(
        "probabilities for log-probabilities",
        "You give nll_loss probabilities; it wants their logarithms, hence the "
        "negative loss.",
        S4,
        "AnubhavGupta3377/Text-Classification-Models-Pytorch #9",
        step_probabilities,
    ),
    Mistake(
        "loss summed over the batch",
        "You add up the losses of the batch; with their mean, lr means the same for "
        "every batch size.",
        S4,
        "jax #3113; ai-safety-foundation/sparse_autoencoder #63",
        step_summed,
    ),
    Mistake(
        "two passes in one step",
        "You send the batch through the network twice, so the running statistics move "
        "twice.",
        S4,
        "davda54/sam #17; m2lines/Samudra #572",
        step_two_passes,
    ),
)

TRAIN_STEP = Exercise(
    "train_step",
    step_reference,
    ("x", "y", "lr", "seed"),
    ("losses", "parameters", "running_statistics"),
    step_cases,
    mistakes=STEP_MISTAKES,
    weights=(1, 2, 1),
    drive=drive_train_step,
)


# --- evaluate ------------------------------------------------------------------------


def evaluate_cases(rng):
    def case(N, batch_size, training):
        y = classes(rng, N, FIXTURE[-1])
        x = batch(rng, (N, FIXTURE[0]))
        return x, y, batch_size, training, int(rng.integers(2**31))

    return [case(43, 8, 1), case(31, 20, 1), case(29, 9, 0)]


def _one_batch_is_enough(trial):
    x, y, _, training, seed = trial.cases[0]
    for batch_size in (1, 1000):
        got, want = trial.run((x, y, batch_size, training, seed))
        if not all(np.allclose(g, w) for g, w in zip(got, want, strict=True)):
            return (f"batch_size = {batch_size} changes the result",)
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


def evaluate_reference(model, x, y, batch_size):
    with _mode(model, False):
        return _totals(model, _batches(x, y, batch_size))


def evaluates_as_it_comes(model, x, y, batch_size):
    with torch.no_grad():
        return _totals(model, _batches(x, y, batch_size))


def evaluates_in_training_mode(model, x, y, batch_size):
    with _mode(model, True):
        return _totals(model, _batches(x, y, batch_size))


def batch_statistics_untracked(model, x, y, batch_size):
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


def statistics_refreshed(model, x, y, batch_size):
    batches = _batches(x, y, batch_size)
    with _mode(model, True):
        for xb, _ in batches:
            if len(xb) > 1:
                model(xb)
    with _mode(model, False):
        return _totals(model, batches)


def mean_of_batch_means(model, x, y, batch_size):
    with _mode(model, False):
        pairs = [_totals(model, [b]) for b in _batches(x, y, batch_size)]
    loss, accuracy = np.mean(pairs, axis=0)
    return loss, accuracy


def means_over_samples(model, x, y, batch_size):
    with _mode(model, False):
        batches = _batches(x, y, batch_size)
        losses = [_totals(model, [b])[0] for b in batches]
        return sum(losses) / len(x), _totals(model, batches)[1]


def last_batch_dropped(model, x, y, batch_size):
    whole = max(len(x) // batch_size, 1) * batch_size
    with _mode(model, False):
        return _totals(model, _batches(x[:whole], y[:whole], batch_size))


def evaluate_softmax_twice(model, x, y, batch_size):
    with _mode(model, False):
        batches = _batches(x, y, batch_size)
        twice = _totals(lambda x: model(x).softmax(1), batches)
        return twice[0], _totals(model, batches)[1]


def argmax_over_everything(model, x, y, batch_size):
    with _mode(model, False):
        batches = _batches(x, y, batch_size)
        right = sum((model(xb).argmax() == yb).sum().item() for xb, yb in batches)
        return _totals(model, batches)[0], right / len(x)


def left_in_evaluation_mode(model, x, y, batch_size):
    result = evaluate_reference(model, x, y, batch_size)
    model.eval()
    return result


def left_in_training_mode(model, x, y, batch_size):
    result = evaluate_reference(model, x, y, batch_size)
    model.train()
    return result


EVALUATE_MISTAKES = (
    Mistake(
        "evaluates in the mode it finds",
        "You evaluate in the mode the network happens to be in. In training mode the "
        "answers depend on the batch, and the running statistics move.",
        S5,
        "milesial/Pytorch-UNet #31; ugent-korea/pytorch-unet-segmentation #18; "
        "dlwpt-code #104",
        evaluates_as_it_comes,
    ),
    Mistake(
        "evaluates in training mode",
        "You switch to training mode to evaluate: the answers depend on the batch, and "
        "the running statistics move.",
        S5,
        "facebookresearch/higher #55; princeton-vl/pytorch_stacked_hourglass #44",
        evaluates_in_training_mode,
    ),
    Mistake(
        "batch statistics in evaluation",
        "You evaluate with the statistics of each batch instead of the running ones.",
        S5,
        "xu-ji/IIC #49; pytorch #4741",
        batch_statistics_untracked,
    ),
    Mistake(
        "evaluation moves the running statistics",
        "A pass in training mode over the evaluation data moves the running "
        "statistics: the test images leak into the network.",
        S5,
        "facebookresearch/schedule_free #60; microsoft/robustdg #30; "
        "nn-zero-to-hero #82",
        statistics_refreshed,
    ),
    Mistake(
        "mean of batch means",
        "You average the batches' averages; a small last batch then counts too much.",
        S5,
        "udacity/deep-learning-v2-pytorch #74; mlcommons/training #89; "
        "pytorch-lightning #2924",
        mean_of_batch_means,
    ),
    Mistake(
        "batch means divided by the number of samples",
        "You add up mean losses and divide by the number of samples: the mean was "
        "taken already.",
        S5,
        "pytorch/tutorials #179; Dive-into-DL-PyTorch #74",
        means_over_samples,
    ),
    Mistake(
        "last batch dropped",
        "You leave out the last, smaller batch: its samples are never judged.",
        S5,
        "thuml/Autoformer #104; yuqinie98/PatchTST #7",
        last_batch_dropped,
    ),
    Mistake(
        "softmax before cross-entropy",
        "You apply softmax before cross_entropy, which applies it again.",
        S5,
        "ariecattan/SciCo #2",
        evaluate_softmax_twice,
    ),
    Mistake(
        "argmax over the whole batch",
        "You take one largest logit of the whole batch; each sample has its own.",
        S5,
        "Zasder3/train-CLIP #6; lisa-lab/DeepLearningTutorials #15",
        argmax_over_everything,
    ),
    Mistake(
        "left in evaluation mode",
        "You leave the network in evaluation mode: whoever trains on trains without "
        "batch statistics.",
        S5,
        "facebookresearch/clevr-iep #22; tk-rusch/coRNN #1",
        left_in_evaluation_mode,
    ),
    Mistake(
        "left in training mode",
        "You leave the network in training mode, whatever mode it came in.",
        S5,
        "dlwpt-code #104",
        left_in_training_mode,
    ),
)

EVALUATE = Exercise(
    "evaluate",
    evaluate_reference,
    ("x", "y", "batch_size", "training", "seed"),
    ("loss", "accuracy", "running_statistics", "training_mode_after"),
    evaluate_cases,
    extra=(Property("the same whatever the batch size", _one_batch_is_enough, 0.5),),
    mistakes=EVALUATE_MISTAKES,
    weights=(1, 1, 1, 0.5),
    drive=drive_evaluate,
)


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


def fit_reference(model, x, y, x_test, y_test, lr, epochs, batch_size):
    history = []
    for _ in range(epochs):
        model.train()
        _epoch(model, x, y, lr, batch_size)
        model.eval()
        history.append((_accuracy(model, x, y), _accuracy(model, x_test, y_test)))
    return history


def broken_fit(model, x, y, x_test, y_test, lr, epochs, batch_size):
    model.train()
    history = []
    for _ in range(epochs):
        _epoch(model, x, y, lr, batch_size)
        seen = _accuracy(model, x, y)
        model.eval()
        history.append((seen, _accuracy(model, x_test, y_test)))
    return history


def training_mode_set_once(model, x, y, x_test, y_test, lr, epochs, batch_size):
    model.train()
    history = []
    for _ in range(epochs):
        _epoch(model, x, y, lr, batch_size)
        model.eval()
        history.append((_accuracy(model, x, y), _accuracy(model, x_test, y_test)))
    return history


def first_accuracy_too_early(model, x, y, x_test, y_test, lr, epochs, batch_size):
    history = []
    for _ in range(epochs):
        model.train()
        _epoch(model, x, y, lr, batch_size)
        seen = _accuracy(model, x, y)
        model.eval()
        history.append((seen, _accuracy(model, x_test, y_test)))
    return history


def never_evaluation_mode(model, x, y, x_test, y_test, lr, epochs, batch_size):
    model.train()
    history = []
    for _ in range(epochs):
        _epoch(model, x, y, lr, batch_size)
        history.append((_accuracy(model, x, y), _accuracy(model, x_test, y_test)))
    return history


FIT_MISTAKES = (
    Mistake(
        "both bugs still there",
        "Nothing has changed yet: count the forward passes in training mode.",
        S10,
        "pytorch/tutorials #1602; microsoft/robustdg #30",
        broken_fit,
    ),
    Mistake(
        "training mode switched on once",
        "From the second epoch on you still train in evaluation mode.",
        S10,
        "pytorch/tutorials #1602, #1624; tk-rusch/coRNN #1",
        training_mode_set_once,
    ),
    Mistake(
        "training accuracy in training mode",
        "One forward pass per epoch too many is still made in training mode.",
        S10,
        "the source tutorial; microsoft/robustdg #30",
        first_accuracy_too_early,
    ),
    Mistake(
        "evaluation mode removed",
        "You now measure in training mode: the running statistics move, and the test "
        "images leak in.",
        S10,
        "milesial/Pytorch-UNet #31; facebookresearch/higher #55",
        never_evaluation_mode,
    ),
)

MENDED_FIT = Exercise(
    "mended_fit",
    fit_reference,
    ("x", "y", "x_test", "y_test", "lr", "epochs", "batch_size", "seed"),
    ("accuracies", "running_statistics", "parameters"),
    fit_cases,
    mistakes=FIT_MISTAKES,
    weights=(1, 1, 1),
    drive=drive_mended_fit,
)

EXERCISES = (MAKE_MLP, TRAIN_STEP, EVALUATE, MENDED_FIT)
