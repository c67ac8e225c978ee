"""Checks of the exercises: `check.batchnorm_forward(batchnorm_forward)`.

Each exercise has a check of its own name. It tries the student's object on fresh
inputs and returns a `Score`: a number, and a table that says what holds, what does not,
and which known mistake the answer looks like. Checks live in one file per lesson,
loaded when first used; lesson and points of each exercise come from `exercises.json`,
which `course.py build` writes from the lessons.
"""

import json
from functools import cache, partial
from importlib import import_module
from pathlib import Path

from . import alone
from .score import NOT_ATTEMPTED, Row, Score
from .yours import yours

__all__ = ["NOT_ATTEMPTED", "Row", "Score", "exercise", "yours"]


@cache
def _exercises():
    path = Path(__file__).with_name("exercises.json")
    return json.loads(path.read_text(encoding="utf-8"))


def exercise(name):
    """The `Exercise` of that name: its properties and its bank of mistakes.

    Raises:
        AttributeError: no lesson has an exercise of that name.
    """
    if name not in _exercises():
        known = ", ".join(sorted(_exercises()))
        raise AttributeError(f"no exercise is called {name!r}; there are: {known}")
    number = _exercises()[name]["lesson"][:2]
    module = import_module(f".banks.lesson_{number}", __name__)
    return {e.name: e for e in module.EXERCISES}[name]


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    return partial(_checked, exercise(name))


def _checked(tried, student, seed=None):
    """The `Score` of a student's object, with what the grader will miss."""
    facts = _exercises()[tried.name]
    score = tried.score(student, facts["points"], seed)
    score.note = alone.warning(student, facts["lesson"])
    return score


def __dir__():
    return sorted([*__all__, *_exercises()])
