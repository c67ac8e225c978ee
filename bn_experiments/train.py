"""Train one PyTorch network: make it, take a step, evaluate, and fit, all three in one.

Seeds are arguments. Two networks of one seed and one shape start from the same weights
and see the same batches, with a norm or without: norms draw no random numbers.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

EVALUATION_BATCH = 1000
TRAIN_PROBE = 10_000  # training images whose accuracy stands for that of all


def make_mlp(dims, activation, norm=None):
    """A fully connected network: affine, norm, activation, ..., affine.

    Args:
        dims: widths from input to output, such as (784, 256, 10).
        activation: makes an activation, such as nn.Sigmoid.
        norm: makes a norm for a width, such as nn.BatchNorm1d, or None.

    Returns:
        nn.Sequential. It ends with an affine layer: its outputs are logits.
    """
    layers = []
    for fan_in, fan_out in pairwise(dims):
        layers.append(nn.Linear(fan_in, fan_out))
        if norm is not None:
            layers.append(norm(fan_out))
        layers.append(activation())
    depth = 1 if norm is None else 2
    return nn.Sequential(*layers[:-depth])


def train_step(model, x, y, lr):
    """One step of gradient descent on the cross-entropy of one batch.

    Args:
        model: any module that turns x into logits (N, C).
        x: inputs (N, D).
        y: classes (N,), int64.
        lr: learning rate.

    Returns:
        The loss before the step, a float.

    State: changes parameters and running statistics, leaves the model in training mode.
    Agrees with: torch.optim.SGD(model.parameters(), lr), bit for bit.
    """
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.add_(p.grad, alpha=-lr)
    return loss.item()


def evaluate(model, x, y, batch_size=EVALUATION_BATCH):
    """Mean loss and accuracy in evaluation mode.

    Args:
        model: any module that turns x into logits (N, C).
        x: inputs (N, D).
        y: classes (N,), int64.
        batch_size: images held in memory at once; has no effect on the result.

    Returns:
        loss and accuracy (0 to 1), both over all N samples.

    State: leaves parameters, running statistics and mode as they were.
    """
    was_training = model.training
    model.eval()
    loss = right = 0
    with torch.no_grad():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(xb)
            loss += F.cross_entropy(logits, yb, reduction="sum").item()
            right += (logits.argmax(1) == yb).sum().item()
    model.train(was_training)
    return loss / len(x), right / len(x)


class History(NamedTuple):
    """What `fit` saw.

    Attributes:
        loss: of each batch, before its step, in training mode (steps,).
        step: after how many steps the rest was measured, in evaluation mode (points,).
        train_loss, train_accuracy: on the first 10,000 training images (points,).
        test_loss, test_accuracy: on all test images (points,).
    """

    loss: np.ndarray
    step: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray


def fit(
    model,
    digits,
    lr,
    epochs,
    batch_size=128,
    seed=0,
    every=100,
    title="training",
    take_step=train_step,
    measure=evaluate,
):
    """Train one network by plain gradient descent, and watch it.

    Args:
        model: turns rows of digits.x_train into logits; trained in place.
        digits: `Data` of tensors.
        lr: learning rate.
        epochs: passes over the training images.
        batch_size: images per step; an epoch's last batch may be smaller.
        seed: of the order of the batches.
        every: steps between two evaluations; one more comes before the first step.
        title: what the progress bar is called.
        take_step, measure: used like `train_step` and `evaluate`.

    Returns:
        `History`.
    """
    losses, points = [], [(0, *_measure(measure, model, digits))]
    batches = shuffled_batches(len(digits.x_train), batch_size, epochs, seed)
    for step, rows in enumerate(tqdm(batches, title, leave=False), start=1):
        x, y = digits.x_train[rows], digits.y_train[rows]
        losses.append(take_step(model, x, y, lr))
        if step % every == 0 or step == len(batches):
            points.append((step, *_measure(measure, model, digits)))
    return History(np.array(losses), *map(np.array, zip(*points, strict=True)))


def shuffled_batches(n, batch_size, epochs, seed):
    """Indices of n samples, shuffled anew for each epoch, as a list of batches."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(n, generator=generator) for _ in range(epochs)]
    return [rows for order in orders for rows in order.split(batch_size)]


def _measure(measure, model, digits):
    probe = slice(TRAIN_PROBE)
    seen = measure(model, digits.x_train[probe], digits.y_train[probe])
    return *seen, *measure(model, digits.x_test, digits.y_test)
