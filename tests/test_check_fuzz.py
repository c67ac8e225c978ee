"""Edits of right answers by another generator than the one that the checks have.

`mutants.py` makes them: an operator, a number, a comparison, a statement left out. They
are made of the lessons' own solutions, which the checks do not read, and of the honest
solutions that the banks are tried on. A mutant that hangs is stopped and skipped.
"""

import ast
import contextlib
import copy
import importlib
import inspect
import random
import signal
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import mutants
from torch import nn
from torch.nn import functional as F

import bn_checks as check
from bn_checks import index
from tools.build import load

ROOT = Path(__file__).resolve().parents[1]
DAILY, LONG = 300, 10_000
SECONDS = 5  # a bound against hanging, not a measurement
DEFINES = {c.function: c for x in load(ROOT)[0] for c in x.of("exercise")}


class Hangs(BaseException):
    """A mutant goes on for ever; no check catches this."""


@contextlib.contextmanager
def limited(seconds):
    """Inside, `Hangs` is raised when the time is up."""

    def stop(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sources():
    """Exercise, source, name and names around it, of every solution and variant."""
    space = {"np": np, "torch": torch, "nn": nn, "F": F, "copy": copy}
    for name, cell in DEFINES.items():
        yield name, cell.source, cell.defines, space
    for number in sorted({check._exercises()[name]["lesson"][:2] for name in DEFINES}):
        yield from honest(importlib.import_module(f"test_check_lesson_{number}"))


def honest(module):
    """The same of the honest solutions in the tests of a lesson."""
    [tests] = [t for t in vars(module).values() if getattr(t, "honest", None)]
    for name, students in tests.honest.items():
        for student in students:
            with contextlib.suppress(OSError, TypeError):  # made by a call, no text
                source = textwrap.dedent(inspect.getsource(student))
                yield name, source, student.__name__, vars(module)


def answers(found=None):
    """Name of the exercise, what was changed, and the changed object."""
    for name, source, defines, around in found or sources():
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a lambda in a table
            continue
        for change, twin in mutants(tree):
            space = dict(around)
            try:
                with limited(SECONDS):
                    exec(compile(ast.fix_missing_locations(twin), "<m>", "exec"), space)
                yield name, change, space[defines]
            except (Exception, Hangs):  # most mutants of signatures make no sense
                continue


def sampled(count, seed=0, each=8):
    """Mutants of right answers in random order, at most `each` of one answer."""
    pick, chosen, every = random.Random(seed), [], list(sources())
    pick.shuffle(every)
    for source in every:
        made = list(answers([source]))
        pick.shuffle(made)
        chosen += made[:each]
        if len(chosen) >= count:
            break
    return chosen[:count]


def judge(name, answer, seed):
    """The score, and whether the answer differs from a right one in value."""
    exercise = check.exercise(name)
    began = time.process_time()
    score = exercise.score(answer, 3, seed)
    took = time.process_time() - began
    trial = check.engine.Trial(exercise, answer, seed)
    return score, trial, took


def problems(name, change, answer, seed=1):
    """What is wrong with what a check says to one answer."""
    score, trial, took = judge(name, answer, seed)
    where = f"{name}: {change}"
    try:
        wrong = not trial.values_hold
        right = {o for k, o in enumerate(trial.exercise.outputs) if trial.right(k)}
    except check.engine.NotAttempted:
        return
    if took > SECONDS:
        yield f"{where}: {took:.1f} s"
    if wrong and score >= 3:
        yield f"{where}: full points for other values"
    named = score.diagnosis.partition(" what comes out")[0].removeprefix("Your ")
    for output in right:
        if named.split(" is")[0].split(" are")[0].strip() == output:
            yield f"{where}: says {score.diagnosis!r}, and {output} is right"


def failures(count, seeds=(1,), each=8):
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, change, answer in sampled(count, each=each):
            for seed in seeds:
                found += problems(name, change, answer, seed)
    return found


def test_a_day_of_fuzz():
    assert not failures(DAILY)


@pytest.mark.long
def test_all_mutants_on_several_seeds():
    every = len(list(answers()))
    assert not failures(every, seeds=range(1, 2 + LONG // every), each=None)


def test_the_index_is_that_of_the_forms():
    stored = index.read(index.PATH)
    for name in sorted(check._exercises()):
        exercise = check.exercise(name)
        assert stored[name]["digest"] == index.digest(exercise), (
            f"{name}: run `python3 course.py build`"
        )


def test_an_edit_of_the_index_gives_what_the_index_says():
    exercise = check.exercise("batchnorm_forward")
    made = index.made(exercise)
    assert made["edits"] == index.read(index.PATH)[exercise.name]["edits"]


def test_the_index_is_small():
    assert index.PATH.stat().st_size <= 600_000
