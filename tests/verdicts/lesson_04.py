"""Lesson 04's verdicts: its study with other seeds and other numbers of steps."""

from dataclasses import replace
from functools import cache

import numpy as np
from torch import nn

from bn_experiments import sweeps, train
from bn_helpers import data

from . import either, from_lesson, proof

FLOORS = (60, 70, 80, 90)
DEEP = (
    "4 sigmoid layers, default start",
    "4 sigmoid layers, Xavier × 4",
    "4 ReLU layers, default start",
    "4 ReLU layers, He's start",
)
SIGMOID, XAVIER, RELU, HE = DEEP
ONE = "1 sigmoid layer, default start"
FIRST, OTHER = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)


@cache
def study(seeds=FIRST, times=1.0):
    """Accuracy in %, (seeds, rates), by setting and norm."""
    lesson = from_lesson("04", "SETTINGS = {")
    found = {}
    for name, stack in lesson.SETTINGS.items():
        for norm in ("plain", "batch"):
            arm = replace(stack, norm=norm, seeds=seeds, steps=int(times * stack.steps))
            found[name, norm] = 100 * sweeps.train_stack(arm).accuracy
    return lesson.rates, found


def studies():
    return [study(), study(OTHER), study(FIRST, 0.5), study(FIRST, 2)]


def working(found, name, norm, floor):
    rates, accuracy = found
    return sweeps.usable_rates(rates, accuracy[name, norm].mean(0), floor)


def extra(found, name, floor):
    """How many more rates work with batch norm."""
    plain, batch = (working(found, name, n, floor) for n in ("plain", "batch"))
    return len(batch) - len(plain)


def top(found, name, norm, floor):
    return max(working(found, name, norm, floor), default=0)


def lead(found, name):
    """Best mean accuracy with batch norm minus best without."""
    best = {n: found[1][name, n].mean(0).max() for n in ("plain", "batch")}
    return best["batch"] - best["plain"]


def all_of(condition):
    return all(condition(found) for found in studies())


@proof("4a", "floor", "seeds", "steps", "start")
def wider_with_depth(row):
    def wider(found, floors=FLOORS):
        return min(extra(found, n, f) for n in DEEP for f in floors) > 0

    usual = wider(study()) and wider(study(OTHER)) and wider(study(FIRST, 2))
    short = study(FIRST, 0.5)
    neither = not working(short, SIGMOID, "batch", 90)
    row.says(
        f"{either(usual, 'holds', 'fails')} in all four deep settings, "
        f"at every floor from {FLOORS[0]} to {FLOORS[-1]} %",
        f"half the steps: {either(wider(short, FLOORS[:3]), 'the same', 'fails')} up to 80 %; "
        f"at 90 % {either(neither, 'neither arm works', 'one arm works')} with sigmoids "
        "from the default start",
    )


@proof("4b", "floor", "seeds", "steps")
def wider_without_depth(row):
    usual = study(), study(OTHER)
    equal = all(extra(found, ONE, 60) == 0 for found in usual)
    wider = all(extra(found, ONE, f) > 0 for found in usual for f in (80, 90))
    row.says(
        f"{either(equal and wider, 'depends on the floor', 'fails')}: "
        f"{either(equal, 'equally wide', 'wider')} at 60 %, "
        f"{either(wider, 'wider', 'not wider')} with batch norm at 80 and 90 %"
    )
    short = min(extra(study(FIRST, 0.5), ONE, f) for f in FLOORS) > 0
    long = max(extra(study(FIRST, 2), ONE, f) for f in (60, 70, 80)) == 0
    row.says(
        f"half the steps: {either(short, 'wider', 'not wider')} at every floor",
        f"twice the steps: {either(long, 'equally wide', 'wider')} up to 80 %",
    )


@proof("4c", "floor", "seeds", "steps", "start")
def larger_rates(row):
    names = XAVIER, RELU, HE
    rises = all_of(
        lambda found: all(
            top(found, n, "batch", f) > top(found, n, "plain", f)
            for n in names
            for f in FLOORS
        )
    )
    fails_alone = all_of(lambda f: f[1][ONE, "plain"][:, -1].mean() > 60)
    row.says(
        f"{either(rises, 'holds', 'fails')} with Xavier × 4 and with ReLU from both "
        f"starts: the highest working rate {either(rises, 'rises', 'stays')}, at every floor",
        f"depth: with one layer both arms {either(fails_alone, 'reach the top of the grid', 'end')} at 60 %",
    )


@proof("4d", "start", "seeds", "steps", "rate")
def smaller_rates(row):
    gains = {
        name: np.array(
            [(f[1][name, "batch"] - f[1][name, "plain"])[:, 0] for f in studies()]
        )
        for name in DEEP
    }
    least = min(gains[name].mean(1).min() for name in (SIGMOID, XAVIER, RELU))
    row.says(
        f"{either(least > 0, 'holds', 'fails')} from PyTorch's start and from Xavier × 4: "
        f"batch norm is ahead by more than {least // 5 * 5:.0f} points at 0.01",
        "the start: from He's start plain is "
        f"{either((gains[HE] < 0).all(), 'ahead', 'behind')} there, in every seed",
    )


@proof("4e", "start", "seeds", "steps")
def best_against_best(row):
    close = max(lead(f, n) for f in studies() for n in (XAVIER, HE))
    far = min(lead(f, SIGMOID) for f in studies())
    row.says(
        f"{either(far > 3, 'depends on the start', 'fails')}: "
        f"{either(close < 3, 'within 3 points', 'apart')} with Xavier × 4 and from He's start, "
        f"more than {far // 5 * 5:.0f} points ahead with sigmoids from the default start"
    )
    short, long = lead(study(FIRST, 0.5), SIGMOID), lead(study(FIRST, 2), SIGMOID)
    row.says(
        f"the steps: that lead is more than {short // 10 * 10:.0f} points with half of them"
        f" and less than {-(-long // 10) * 10:.0f} with twice as many"
    )


@proof("4f", "seeds", "rate", "start")
def what_frees_the_plain_network(row):
    lesson = from_lesson("04", "DIMS = (784", "def xavier_times_4")
    digits = data.mnist_tensors()

    def ends(rate, change=lambda network: network):
        """Test accuracy after two epochs, seeds 1 to 4."""
        nets = [change(lesson.new_network("plain", nn.Sigmoid, s)) for s in range(1, 5)]
        runs = [train.fit(net, digits, rate, 2, every=469) for net in nets]
        return 100 * np.array([run.test_accuracy[-1] for run in runs])

    stuck, fast, started = ends(0.1), ends(2), ends(0.1, lesson.xavier_times_4)
    freed = (stuck < 20).all() and (started > 80).all()
    row.says(
        f"{either(freed, 'holds', 'fails')} for the start: at 0.1 it is "
        f"{either((stuck < 20).all(), 'below 20 % in every seed', 'free in some seeds')}, "
        f"from the larger start {either((started > 80).all(), 'above 80 %', 'not free')}",
        f"the rate: at 2 {either((fast > 70).any(), 'some', 'none')} of four other seeds "
        f"{either((fast > 70).any(), 'end', 'ends')} above 70 %",
    )


@proof("4g", "start", "floor", "seeds", "steps")
def two_starts(row):
    def apart(found, norm, floors, pairs=((SIGMOID, XAVIER), (RELU, HE))):
        """By how many working rates two starts differ, at each floor and pair."""
        return [
            abs(
                len(working(found, one, norm, floor))
                - len(working(found, other, norm, floor))
            )
            for floor in floors
            for one, other in pairs
        ]

    usual, low = (study(), study(OTHER), study(FIRST, 0.5)), FLOORS[:3]
    batch = max(max(apart(found, "batch", low)) for found in usual)
    plain = min(min(apart(found, "plain", low)) for found in usual)
    row.says(
        f"{either(plain > batch, 'holds', 'fails')} up to 80 %: from two starts the number "
        f"of working rates differs by at most {batch} with batch norm, by at least {plain} "
        "without"
    )
    long = min(apart(study(FIRST, 2), "plain", low))
    sigmoid = [
        apart(study(FIRST, 0.5), norm, (90,), ((SIGMOID, XAVIER),))[0]
        for norm in ("batch", "plain")
    ]
    row.says(
        f"twice the steps: by at least {long} without",
        f"at 90 % after half the steps, with sigmoids, by {sigmoid[0]} with batch norm and "
        f"by {sigmoid[1]} without",
    )
