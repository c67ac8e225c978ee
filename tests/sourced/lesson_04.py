"""Published mistakes of lesson 04 that no bank lists: edits have to explain them."""

import contextlib
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


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


def no_activation(dims, activation, norm=None):
    return nn.Sequential(*chain(dims, lambda width: (norm(width),) if norm else ()))


def no_norm(dims, activation, norm=None):
    return mlp_reference(dims, activation)


def _descend(model, lr):
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(lr * p.grad)


def _step(model, loss, lr):
    model.zero_grad()
    loss.backward()
    _descend(model, lr)
    return loss.item()


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


def left_in_evaluation_mode(model, x, y, batch_size):
    result = evaluate_reference(model, x, y, batch_size)
    model.eval()
    return result


def _accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).double().mean().item()


def _epoch(model, x, y, lr, batch_size):
    for xb, yb in _batches(x, y, batch_size):
        _step(model, F.cross_entropy(model(xb), yb), lr)


def training_mode_set_once(model, x, y, x_test, y_test, lr, epochs, batch_size):
    model.train()
    history = []
    for _ in range(epochs):
        _epoch(model, x, y, lr, batch_size)
        model.eval()
        history.append((_accuracy(model, x, y), _accuracy(model, x_test, y_test)))
    return history


def never_evaluation_mode(model, x, y, x_test, y_test, lr, epochs, batch_size):
    model.train()
    history = []
    for _ in range(epochs):
        _epoch(model, x, y, lr, batch_size)
        history.append((_accuracy(model, x, y), _accuracy(model, x_test, y_test)))
    return history


MISTAKES = (
    (
        "make_mlp",
        "no activation between the layers",
        "pytorch/tutorials #647; aymericdamien/TensorFlow-Examples #207",
        no_activation,
    ),
    ("make_mlp", "norm left out", "tinghuiz/SfMLearner #76", no_norm),
    (
        "train_step",
        "gradients not cleared",
        "IDEA-Research/DAB-DETR #58; wenet-e2e/wekws #72; pytorch #47175",
        gradients_pile_up,
    ),
    (
        "train_step",
        "gradients cleared before they are used",
        "ultralytics #11217; patrickloeber/pytorchTutorial #19",
        gradients_thrown_away,
    ),
    (
        "train_step",
        "step in evaluation mode",
        "pytorch/tutorials #1624; facebookresearch/clevr-iep #22; tk-rusch/coRNN #1",
        step_in_evaluation_mode,
    ),
    (
        "evaluate",
        "evaluates in the mode it finds",
        "milesial/Pytorch-UNet #31; ugent-korea/pytorch-unet-segmentation #18; "
        "dlwpt-code #104",
        evaluates_as_it_comes,
    ),
    (
        "evaluate",
        "left in evaluation mode",
        "facebookresearch/clevr-iep #22; tk-rusch/coRNN #1",
        left_in_evaluation_mode,
    ),
    (
        "mended_fit",
        "training mode switched on once",
        "pytorch/tutorials #1602, #1624; tk-rusch/coRNN #1",
        training_mode_set_once,
    ),
    (
        "mended_fit",
        "evaluation mode removed",
        "milesial/Pytorch-UNet #31; facebookresearch/higher #55",
        never_evaluation_mode,
    ),
)
