"""Checks of lesson 04, training on all of MNIST.

A network cannot cross to a grader's process. So every check sends arrays, numbers and
names to a driver, which builds a small network beside the student's code and sends
arrays back.
"""

import numpy as np

from ..changes import changed
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


MAKE_MLP.mistakes += changed(
    forms.make_mlp,
    S3,
    """
    softmax at the end: the network ends with a softmax, although cross-entropy takes
    logits
        (*layers) -> (*layers, nn.Softmax(1))
        seen in jaehong31/CGES #1; Safe-DS/Library #581; pytorch-adacos #14
    log-softmax at the end: the network ends with a log-softmax, which cross-entropy
    takes once more
        (*layers) -> (*layers, nn.LogSoftmax(1))
        seen in Randl/MobileNetV2-pytorch #5; AICPS/hw2vec #23
    activation ignored: the argument activation is not used: there is a ReLU in any case
        activation()] -> nn.ReLU()]
        seen in snap-stanford/GEARS #42
    activation after the last layer: an activation follows the last affine layer
        (*layers) -> (*layers, activation())
        seen in huyng/tensorflow-vgg #13; NVlabs/GA3C #17
    norm after the last layer: a norm follows the last affine layer
        (*layers) -> (*layers, *(norm(d) for d in dims[-1:] if norm))
        seen in yaoing/DAN #14; kanezaki/pytorch-unsupervised-segmentation #1
    norm after the activation: the norm follows the activation, and does not stand
    before it
        norm(fan_out) -> activation(), norm(fan_out)
        layers += [activation()] -> layers += [] if norm else [activation()]
        seen in pochih/FCN-pytorch #21; keras #4618
    one norm for all layers: hidden layers share one norm, with its statistics, γ and β
        layers = [] -> layers, made = [], {}
        norm(fan_out) -> made.setdefault(fan_out, norm(fan_out))
        seen in kanezaki/pytorch-unsupervised-segmentation #1; dreamquark-ai/tabnet #76
    layers in a plain list: the layers sit in a Python list, where PyTorch sees no
    parameters to train and no mode to switch
        return nn.Sequential(*layers)
            -> net = nn.Module()
            ; net.forward = nn.Sequential(*layers).forward; return net
        seen in pytorch #666, #1053
    """,
)


# --- train_step ----------------------------------------------------------------------


def step_cases(rng):
    def case(N, lr):
        x = batch(rng, (3, N, FIXTURE[0]))
        y = classes(rng, (3, N), FIXTURE[-1])
        return x, y, lr, int(rng.integers(2**31))

    return [case(8, 0.5), case(13, 0.1)]


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


TRAIN_STEP.mistakes += changed(
    forms.train_step,
    S4,
    """
    softmax before cross-entropy: softmax is applied before cross_entropy, which applies
    it again
        model(x) -> model(x).softmax(1)
        seen in lightning-bolts #654; jindongwang/Deep-learning-activity-recognition #10
    probabilities for log-probabilities: nll_loss is given probabilities, not their
    logarithms
        cross_entropy(logits -> nll_loss(logits.softmax(1)
        seen in AnubhavGupta3377/Text-Classification-Models-Pytorch #9
    loss summed over the batch: the losses of the batch are added up, not averaged
        (logits, y) -> (logits, y, reduction="sum")
        seen in jax #3113; ai-safety-foundation/sparse_autoencoder #63
    two passes in one step: the batch goes through the network twice, so the running
    statistics move twice
        logits = model(x) -> model(x); logits = model(x)
        seen in davda54/sam #17; m2lines/Samudra #572
    nothing moves: no parameter moves
        optimizer.step() -> pass
        seen in ultralytics #11217; patrickloeber/pytorchTutorial #19
    loss after the step: the loss after the step is returned, which takes a second pass
        loss.item() -> F.cross_entropy(model(x), y).item()
        seen in published training loops
    Adam for gradient descent: the step is one of Adam's, which is no gradient descent
        optim.SGD -> optim.Adam
        seen in published training loops
    """,
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
    first = trial.cases[0]
    for batch_size in (1, 1000):
        other = x, y, batch_size, training, seed
        what = f"batch_size = {batch_size} changes the result"
        if lines := trial.same(first, other, what):
            return lines
    return ()


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
)


EVALUATE.mistakes += changed(
    forms.evaluate,
    S5,
    """
    evaluates in training mode: the network is switched to training mode, where the
    answers depend on the batch and the running statistics move
        model.eval() -> model.train()
        seen in facebookresearch/higher #55; princeton-vl/pytorch_stacked_hourglass #44
    batch statistics in evaluation: each batch is normalized by its own statistics in
    place of the running ones
        model.eval() -> [setattr(m, "momentum", 0.0) for m in model.train().modules()]
        seen in xu-ji/IIC #49; pytorch #4741
    evaluation moves the running statistics: a pass in training mode over the evaluation
    data moves the running statistics
        model.eval()
            -> model.train()
            ; [model(xb) for xb in x.split(batch_size) if len(xb) > 1]; model.eval()
        seen in facebookresearch/schedule_free #60; microsoft/robustdg #30
    mean of batch means: the batches' averages are averaged, so that a small last batch
    counts too much
        .item() * len(yb) -> .item()
        .sum().item() -> .double().mean().item()
        / N -> / batches
        seen in udacity/deep-learning-v2-pytorch #74; mlcommons/training #89
    batch means divided by the number of samples: mean losses are added up and divided
    by the number of samples, although the mean was taken already
        .item() * len(yb) -> .item()
        seen in pytorch/tutorials #179; Dive-into-DL-PyTorch #74
    last batch dropped: the last, smaller batch is left out
        N = len(x)
            -> x = x[: max(len(x) // batch_size, 1) * batch_size]
            ; N = len(x); y = y[:N]
        seen in thuml/Autoformer #104; yuqinie98/PatchTST #7
    softmax before cross-entropy: softmax is applied before cross_entropy, which applies
    it again
        (logits, yb) -> (logits.softmax(1), yb)
        seen in ariecattan/SciCo #2
    argmax over the whole batch: one largest logit of the whole batch is taken, and not
    one per sample
        argmax(1) -> argmax()
        seen in Zasder3/train-CLIP #6; lisa-lab/DeepLearningTutorials #15
    nominal batch size: each batch counts as batch_size samples, also the last, smaller
    one
        * len(yb) -> * batch_size
        .sum().item() -> .double().mean().item() * batch_size
        seen in mitmul/chainer-cifar10 #1; siamese-triplet #6
    last batch only: the result is that of the last batch alone
        += -> =
        / N -> / len(yb)
        seen in adambielski/siamese-triplet #6
    left in training mode: the network is left in training mode, whatever mode it came
    in
        model.train(before) -> model.train()
        seen in dlwpt-code #104
    """,
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


MENDED_FIT = Exercise(
    "mended_fit",
    forms.mended_fit,
    ("x", "y", "x_test", "y_test", "lr", "epochs", "batch_size", "seed"),
    ("accuracies", "running_statistics", "parameters"),
    fit_cases,
    weights=(1, 1, 1),
    drive=drive_mended_fit,
)


MENDED_FIT.mistakes += changed(
    forms.mended_fit,
    S10,
    """
    both bugs still there: nothing has changed yet: count the forward passes in training
    mode
        model.train() -> pass
        history = [] -> history = []; model.train()
        model.eval() -> pass
        test = ( -> model.eval(); test = (
        seen in pytorch/tutorials #1602; microsoft/robustdg #30
    training accuracy in training mode: one forward pass per epoch too many is made in
    training mode
        model.eval() -> pass
        test = ( -> model.eval(); test = (
        seen in the source tutorial; microsoft/robustdg #30
    """,
)
MENDED_FIT.given(MENDED_FIT.mistakes[0].code)


EXERCISES = (MAKE_MLP, TRAIN_STEP, EVALUATE, MENDED_FIT)
