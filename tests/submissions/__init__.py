"""Submissions as students, accidents and attackers make them, with their verdicts.

Each is made by code from the course's own lesson 01: `cases()`.
"""

import json
from dataclasses import dataclass, field, replace
from functools import partial

from grading import config, judge, master, pool
from grading.verdict import GRADED, NEEDS_REVIEW
from tools.build import dumps
from tools.lesson import BEGIN, END

LESSON = "01_forward_pass"
COURSE = master.lesson(LESSON)
FULL = {name: task.points for name, task in COURSE.exercises.items()}
NONE = dict.fromkeys(FULL, 0.0)
FIRST = "batchnorm_forward"
LIMITS = replace(config.limits(), message=64_000_001)  # by which to find processes
SMALL = replace(
    LIMITS,
    cell=1.5,
    stop=0.5,
    submission=20,
    resident=600_000_000,
    disk=20_000_000,
    processes=64,
)


@dataclass(frozen=True)
class Case:
    """A submission and what the grader must say.

    Attributes:
        name: what is special about it.
        content: the bytes handed in.
        points: by exercise; None where the machine must leave it to a person.
        status: of the verdict.
        says: a part of its reason, notes, rows or written answers; "" for anything.
        small: run under the small limits of the tests.
        honest: nobody meant harm, and the answers are right.
    """

    name: str
    content: bytes
    points: dict
    status: str = GRADED
    says: str = ""
    small: bool = False
    honest: bool = field(default=False)


def solved():
    """The notebook of a student who has done everything."""
    nb = COURSE.solved
    for cell in nb.cells:
        lines = cell.source.split("\n")
        cell.source = "\n".join(x for x in lines if x.strip() not in (BEGIN, END))
    for task in COURSE.questions.values():
        at(nb, task.cell).source = f"My answer to {task.name}."
    return nb


def untouched():
    return COURSE.student


def at(nb, name):
    """The cell of an id, or of an exercise's name."""
    task = COURSE.exercises.get(name)
    name = task.cell if task else name
    return next(cell for cell in nb.cells if cell.id == name)


def index(nb, name):
    return nb.cells.index(at(nb, name))


def with_answer(source, name=FIRST, nb=None):
    """A solved notebook with another answer to one exercise."""
    nb = nb or solved()
    at(nb, name).source = source
    return nb


def content(nb):
    return nb if isinstance(nb, bytes) else dumps(nb).encode()


def raw(nb):
    """A notebook as plain JSON values, to do to it what nbformat would not."""
    return json.loads(dumps(nb))


def honest(name, nb, says=""):
    return Case(name, content(nb), FULL, GRADED, says, honest=True)


def wrong(name, nb, exercise=FIRST, points=0.0, says="", small=False):
    return Case(name, content(nb), FULL | {exercise: points}, GRADED, says, small)


def review(name, nb, points=None, says="", small=False):
    points = dict.fromkeys(FULL) if points is None else points
    return Case(name, content(nb), points, NEEDS_REVIEW, says, small)


def task(case, seed=5):
    """The job that has a submission graded by a pool."""
    facts = {"seed": seed, "lesson": LESSON, "student": case.name}
    facts |= {"limits": SMALL if case.small else LIMITS, "content": case.content}
    failed = partial(judge.not_judged, facts)
    return pool.Job(judge.grade_bytes, lambda: facts, failed, case.name)


def cases():
    """All submissions of the corpus."""
    from . import accidents, attacks, hogs, right, wrongs

    modules = (right, wrongs, accidents, hogs, attacks)
    found = [case for module in modules for case in module.cases()]
    names = [case.name for case in found]
    assert len(names) == len(set(names)), "two submissions have one name"
    return found
