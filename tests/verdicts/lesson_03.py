"""Lesson 03's verdicts: its networks with other seeds, widths, scales and rates."""

from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import nn

from bn_experiments import train
from bn_helpers import data, record

from . import either, from_lesson, proof

SECTION_9 = (
    "digits = data.mnist_tensors",
    "both = zip(",
    "noise = torch.randn(",
    "def stages(",
    "def bands(",
)


@contextmanager
def float64():
    """The lesson's own number type; other lessons have theirs."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


@cache
def digits():
    return data.mnist_tensors(torch.float64)


def lesson(*markers):
    first = [m for m in markers if m.startswith("digits")]
    measured = {"look": record.activations, "how_far": steps_of_the_reference}
    return from_lesson("03", *first, "def pair(", *markers[len(first) :], **measured)


def steps_of_the_reference(model, step):
    with record.updates(model) as ratios:
        step()
    return ratios


def noise():
    return torch.randn(1000, 784, generator=torch.Generator().manual_seed(1))


def signal(a):
    return np.sqrt(a.var(axis=0).mean())


def near_an_end(layers):
    return max(record.saturation_fraction(a, 0, 1).mean() for a in layers)


@proof("3a", "seeds", "width", "input", "scale")
def saturation(row):
    pair = lesson().pair
    with float64():
        inputs = noise(), digits().x_train[:1000]
        usual = [
            near_an_end(
                record.activations(
                    pair(nn.Sigmoid, (784, *[width] * 4, 10), seed=seed)["plain"],
                    x,
                    nn.Sigmoid,
                )
            )
            for width in (64, 256)
            for seed in range(3)
            for x in inputs
        ]
        large = [
            record.saturation_fraction(
                record.activations(
                    pair(nn.Sigmoid, (784, *[256] * 8, 10), 16, seed=seed)["plain"],
                    inputs[1],
                    nn.Sigmoid,
                )[-1],
                0,
                1,
            ).mean()
            for seed in range(3)
        ]
    row.says(
        f"{either(max(usual) < 0.05, 'fails', 'holds')} at PyTorch's start, on noise and on digits: at most "
        f"{np.ceil(100 * max(usual)):.0f} % of a layer's outputs are within 5 % of an end",
        f"the scale of the weights: at 16 times the default {either(min(large) > 0.5, 'most', 'few')} are, in layer 8",
    )


@proof("3b", "seeds", "width", "input", "activation")
def factor_per_layer(row):
    pair = lesson().pair

    def factor(kind, width, seed, x):
        layers = record.activations(
            pair(kind, (784, *[width] * 4, 10), seed=seed)["plain"], x, kind
        )
        return (signal(layers[-1]) / signal(layers[0])) ** (1 / 3)

    with float64():
        inputs = noise(), digits().x_train[:1000]
        found = [
            factor(nn.Sigmoid, width, seed, x)
            for width in (128, 512)
            for seed in range(3)
            for x in inputs
        ]
        tanh = [factor(nn.Tanh, 256, seed, inputs[0]) for seed in range(3)]
    low, high = np.floor(100 * min(found)) / 100, np.ceil(100 * max(found)) / 100
    row.says(
        f"{either(low <= 0.144 <= high, 'holds', 'fails')}: × {low:.2f} to {high:.2f}, "
        "at widths 128 and 512, on noise and on digits"
    )
    row.says(
        f"the activation: with tanh × {np.floor(10 * min(tanh)) / 10:.1f} and more"
    )


@proof("3c", "seeds", "activation", "scale")
def scale_of_the_weights(row):
    pair, kinds = lesson().pair, (nn.Sigmoid, nn.Tanh, nn.ReLU)
    with float64():
        x = digits().x_train[:500]

        def at(kind, scale, seed):
            layers = record.activations(
                pair(kind, (784, *[256] * 8, 10), scale, seed)["batch"], x, kind
            )
            return np.array([signal(a) for a in layers])

        spread, tiny = [], []
        for kind in kinds:
            for seed in range(2):
                usual = at(kind, 1, seed)
                spread += [abs(at(kind, s, seed) / usual - 1).max() for s in (0.5, 16)]
                tiny.append((at(kind, 1e-3, seed) / usual).max())
    row.says(
        f"{either(max(spread) < 0.05, 'holds', 'fails')} from 1/2 to 16 times the default: signals differ "
        f"by less than {np.ceil(100 * max(spread)):.0f} %",
        f"far smaller weights: at 1/1000 the variance falls below ε, and the signal below "
        f"{np.ceil(10 * max(tiny)) / 10:g} of the usual",
    )


def dead(name, rate, seed, beta=0.0):
    """Share of dead units of the last hidden layer after 50 steps."""
    net = lesson().pair(nn.ReLU, (784, 100, 100, 100, 10), seed=seed)[name]
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.constant_(module.bias, beta)
    x, y = digits().x_train, digits().y_train
    for rows in train.shuffled_batches(3000, 60, epochs=1, seed=seed):
        train.train_step(net, x[rows], y[rows], rate)
    return 1 - (record.activations(net, x[:1000], nn.ReLU)[-1] > 0).any(axis=0).mean()


@proof("3d", "seeds", "rate", "start of beta")
def dead_units(row):
    with float64():
        plain = np.array([dead("plain", 1.0, seed) for seed in range(10)])
        batch = np.array([dead("batch", 1.0, seed) for seed in range(10)])
        gentle = np.array([dead("plain", 0.1, seed) for seed in range(10)])
        below = np.array([dead("batch", 1.0, seed, -4.0) for seed in range(3)])
    row.says(
        f"{either(plain.mean() > 0.3 and batch.max() < 0.05, 'holds', 'fails')} at rate 1: "
        f"{either((plain > 0.3).all(), 'every seed loses', 'most seeds lose')} more than 30 % of the units without "
        f"batch norm, and {either(batch.max() < 0.05, 'none', 'some')} as many as 5 % with it",
        f"the rate: at 0.1 {either(gentle.max() < 0.05, 'none loses as many as 5 %', 'some lose 5 %')} without it",
        f"β: started at −4, batch norm {either(below.min() > 0.3, 'has more than 30 % dead', 'has few dead')}, too",
    )


@proof("3e", "data", "rate", "layer", "seeds")
def shift_of_the_first_layer(row):
    found = lesson(*SECTION_9)
    wide = (784, 100, 100, 100, 100, 10)
    with float64():
        x, y = digits().x_train[:1000], digits().y_train[:1000]
        on_noise, on_digits = [], []
        for seed in range(3):
            for name in ("plain", "batch"):
                net = found.pair(nn.ReLU, wide, seed=seed)[name]
                seen = [
                    s[1] for s in found.stages(net, noise(), found.noise_labels, 0.01)
                ]
                on_noise.append(np.ptp([a.mean() for a in seen]) / seen[0].std())
            net = found.pair(nn.ReLU, wide, seed=seed)["plain"]
            seen = found.stages(net, x, y, 0.1)
            on_digits += [
                found.drift(found.bands([s[2 * k] for s in seen])).mean()
                for k in range(4)
            ]
    row.says(
        f"{either(max(on_noise) < 0.1, 'fails', 'holds')} as shown, on noise at 0.01: the mean of layer 1 moves by less "
        f"than {np.ceil(100 * max(on_noise)) / 100:g} of its spread in either arm",
        "data, rate and measure: on digits at 0.1, medians of the plain network move by more than "
        f"{np.floor(10 * min(on_digits)) / 10:g} half-widths in every layer",
    )


@proof("3f", "rate", "seeds", "steps")
def drift_and_speed(row):
    found = lesson(*SECTION_9, "def watch(")
    found.watch.__globals__["narrow"] = 784, 100, 100, 100, 10
    test = digits().x_test, digits().y_test

    def of(name, rate, seed):
        before, after, net = found.watch((name, rate, seed, 200))
        return found.drift(after).mean(), 100 * train.evaluate(net, *test)[1]

    with float64():
        drift, score = {}, {}
        for name in ("plain", "batch"):
            for rate in (0.1, 0.5):
                ran = np.array([of(name, rate, seed) for seed in (3, 4, 5)])
                drift[name, rate], score[name, rate] = ran.T
    more = drift["plain", 0.5].mean() > drift["plain", 0.1].mean()
    close = score["batch", 0.5].mean() - score["plain", 0.5].mean()
    apart = score["batch", 0.1].mean() - score["plain", 0.1].mean()
    row.says(
        f"{either(more and close < 3, 'fails', 'holds')} at rate 0.5: the plain network drifts "
        f"{either(more, 'more', 'less')} than at 0.1 and is "
        f"{either(close < 3, 'within 3 points of', 'behind')} batch norm",
        f"the rate: at 0.1 it is more than {apart // 10 * 10:.0f} points behind",
    )
