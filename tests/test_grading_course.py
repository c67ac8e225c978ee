"""The whole course through the real grader: solved scores all, untouched nothing."""

import json
from pathlib import Path

import pytest

import bn_checks as check
from grading import judge, master
from grading.verdict import GRADED
from tools.build import dumps

LISTED = json.loads((Path(check.__file__).parent / "exercises.json").read_text("utf-8"))
LESSONS = sorted({facts["lesson"] for facts in LISTED.values()})

pytestmark = [pytest.mark.sandbox, pytest.mark.parametrize("name", LESSONS)]


def graded(name, notebook):
    verdict = judge.grade_bytes(dumps(notebook).encode(), 11, name, "a-student")
    assert verdict.status == GRADED, verdict.reason
    return verdict


def test_the_solved_lesson_scores_every_autograded_point(name):
    course = master.lesson(name)
    points = {n: e.points for n, e in graded(name, course.solved).exercises.items()}
    assert points == {n: task.points for n, task in course.exercises.items()}


def test_the_untouched_lesson_scores_nothing(name):
    verdict = graded(name, master.lesson(name).student)
    assert verdict.points == 0
    assert not verdict.awaits
    states = {row.state for e in verdict.exercises.values() for row in e.rows}
    assert states == {"○"}
