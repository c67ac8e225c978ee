"""Right forms for lesson 04."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def make_mlp(dims, activation, norm=None):
    layers = []
    for fan_in, fan_out in pairwise(dims[:-1]):
        layers += [nn.Linear(fan_in, fan_out)]
        if norm:
            layers += [norm(fan_out)]
        layers += [activation()]
    layers += [nn.Linear(*dims[-2:])]
    return nn.Sequential(*layers)


def mlp_in_one_loop(dims, activation, norm=None):
    layers, pairs = [], list(pairwise(dims))
    for k, (fan_in, fan_out) in enumerate(pairs):
        last = k == len(pairs) - 1
        layers += [nn.Linear(fan_in, fan_out)]
        if norm and not last:
            layers += [norm(fan_out)]
        if not last:
            layers += [activation()]
    return nn.Sequential(*layers)


def step_by_hand(model, x, y, lr):
    model.train()
    model.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            gradient = p.grad
            p -= lr * gradient
    return loss.item()


def train_step(model, x, y, lr):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr)
    optimizer.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    optimizer.step()
    return loss.item()


def evaluate(model, x, y, batch_size=1000):
    before, loss, right = model.training, 0.0, 0.0
    N = len(x)
    batches = len(x.split(batch_size))  # noqa: F841 - what people divide by
    model.eval()
    with torch.no_grad():
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(xb)
            loss += F.cross_entropy(logits, yb).item() * len(yb)
            right += (logits.argmax(1) == yb).sum().item()
    model.train(before)
    return loss / N, right / N


def mended_fit(model, x, y, x_test, y_test, lr, epochs, batch_size):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    history = []
    for _ in range(epochs):
        model.train()
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            seen = (model(x).argmax(1) == y).double().mean().item()
            test = (model(x_test).argmax(1) == y_test).double().mean().item()
        history.append((seen, test))
    return history
