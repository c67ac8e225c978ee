"""Lesson 07's verdicts: its patients with other seeds, rates and numbers of steps."""

from functools import cache

import numpy as np

from bn_experiments import clinic

from . import either, from_lesson, proof

ARTICLE, OTHER = tuple(clinic.ARTICLE), tuple(range(5, 10))


@cache
def lesson():
    return from_lesson("07", "def ten_numbers(", "def trained(")


@cache
def outcome(faults, seeds, steps=300, lr=0.1):
    """How far each seed's loss fell, and its test accuracy in % of all images together."""
    found = lesson()
    fell, right = [], []
    for seed in seeds:
        network, losses = found.trained(faults, seed, steps, lr)
        fell.append(np.mean(losses[:50]) - np.mean(losses[-50:]))
        right.append(100 * (network.predict(found.x_test) == found.y_test).mean())
    return np.array(fell), np.array(right)


@proof("7a", "seeds", "steps", "rate")
def falling_loss(row):
    fell, sick = outcome(ARTICLE, OTHER)
    _, well = outcome((), OTHER)
    fails = (fell > 0).mean() > 0.5 and sick.max() < 50 and well.min() > 65
    row.says(
        f"{either(fails, 'fails', 'holds')}: in most seeds the loss falls, and less than half of "
        f"the test images are right, against {either(fails, 'more than 65 %', 'few')} without the faults"
    )
    fell, sick = outcome(ARTICLE, OTHER, steps=1200)
    fast, _ = outcome(ARTICLE, OTHER, lr=1.0)
    row.says(
        f"steps: after 1,200 the loss falls in {either((fell > 0).all(), 'every seed', 'some seeds')}, and "
        f"{either(sick.max() < 50, 'still less than half', 'more')} are right",
        f"the rate: at 1 it {either((fast > 0).all(), 'falls', either((fast < 0).all(), 'rises', 'falls or rises'))}",
    )


def alone(network):
    found = lesson()
    answers = [network.predict(found.x_test[:, [i]])[0] for i in range(200)]
    return 100 * np.mean(answers == found.y_test[:200])


@proof("7b", "seeds", "measure", "rate")
def cures_and_the_usual_number(row):
    def gained(fault, lr=0.1):
        """By how much all images together gain from one cure more."""
        return [
            outcome((), (seed,), lr=lr)[1][0] - outcome(fault, (seed,), lr=lr)[1][0]
            for seed in OTHER
        ]

    memory = ("batch statistics",)
    most = max(np.mean(gained(memory, lr)) for lr in (0.03, 0.1, 0.3))
    without = [alone(lesson().trained(memory, seed)[0]) for seed in OTHER]
    cured = [alone(lesson().trained((), seed)[0]) for seed in OTHER]
    row.says(
        f"{either(most < 1, 'fails', 'holds')}: the memory gives all images together "
        f"{either(most < 1, 'less than 1 point', 'more')} in the mean, at three rates",
        f"the measure: images one at a time gain more than {np.min(np.subtract(cured, without)) // 10 * 10:.0f} points,"
        " in every seed",
    )


@proof("7c", "seeds", "rate", "batch")
def normalized_logits(row):
    def gap(lr):
        normalized = outcome(("normalized logits",), OTHER, lr=lr)[1].mean()
        return normalized - outcome((), OTHER, lr=lr)[1].mean()

    gaps = {lr: gap(lr) for lr in (0.03, 0.1, 0.3)}
    row.says(
        f"{either(abs(gaps[0.1]) < 3, 'fails', 'holds')} at rate 0.1 in mixed batches: at most "
        f"{np.ceil(abs(gaps[0.1])):.0f} point in the mean",
        f"the rate: at 0.03 it {either(gaps[0.03] < 0, 'costs', 'gains')} "
        f"{np.ceil(abs(gaps[0.03])):.0f} or less, at 0.3 it {either(gaps[0.3] < 0, 'costs', 'gains')} "
        f"{np.ceil(abs(gaps[0.3])):.0f} or less",
    )
    found = from_lesson("07", "def loss_of(")
    sure = 1000.0 * np.eye(10)[:, np.full(100, 7)]
    centered = sure - sure.mean(axis=1, keepdims=True)
    loss = found.loss_of(
        centered / np.sqrt(sure.var(1, keepdims=True) + 1e-5), np.full(100, 7)
    )
    row.says(
        f"the batch: of one class, a sure network has the loss of {either(abs(loss - np.log(10)) < 1e-9, 'guessing', 'knowing')}"
    )
