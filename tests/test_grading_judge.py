"""Judging one submission: fair to what went wrong, and never a silent 0."""

from dataclasses import replace

import pytest
from nbformat.v4 import new_code_cell
from submissions import (
    COURSE,
    FIRST,
    FULL,
    LESSON,
    LIMITS,
    SMALL,
    content,
    index,
    solved,
    untouched,
    with_answer,
)

import bn_checks as check
from bn_checks import score
from grading import judge
from grading.verdict import GRADED, NEEDS_REVIEW

pytestmark = pytest.mark.sandbox


def grade(nb, seed=1, limits=LIMITS):
    return judge.grade_bytes(content(nb), seed, LESSON, "ada", limits=limits)


def points(verdict):
    return {name: e.points for name, e in verdict.exercises.items()}


def test_a_file_is_graded_by_its_name(tmp_path):
    path = tmp_path / f"{LESSON}.ipynb"
    path.write_bytes(content(solved()))
    verdict = judge.grade_one(path, 1)
    assert points(verdict) == FULL and verdict.receipt.source == path.name
    assert set(verdict.awaits) == set(COURSE.questions)


def test_the_mistake_is_told_as_in_the_lesson():
    source = (
        "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
        "    mu, var = x.mean(0), x.var(0, ddof=1)\n"
        "    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var\n"
    )
    verdict = grade(with_answer(source))
    [name] = verdict.mistakes[FIRST]
    assert name == "the variance divides by the count minus 1"
    [row, *_] = [r for r in verdict.exercises[FIRST].rows if r.mistake]
    assert row.says == f"Your y and var are what comes out when {name}."


RIGHT = next(
    s.source for s in COURSE.solved.cells if s.id == COURSE.exercises[FIRST].cell
)
ABOVE = {
    "a variable of a demonstration": "print(x_demo.shape)\n",
    "another editor's module": "from google.colab import drive\n",
    "a magic": "%matplotlib widget\n!pip --version\n",
}


@pytest.mark.parametrize("line", ABOVE.values(), ids=ABOVE)
def test_what_fails_above_an_answer_costs_it_nothing(line):
    assert grade(with_answer(line + RIGHT)).exercises[FIRST].points == FULL[FIRST]


def test_a_helper_of_the_lesson_may_be_used():
    cells = [cell.source for cell in COURSE.lesson.of("code")]
    parts = [part for source in cells for part in judge.code.definitions(source)]
    name = next(p for p in parts if p.startswith("def "))[4:].split("(")[0]
    answer = f"assert callable({name})\n{RIGHT}".replace("x.mean", f"{name} and x.mean")
    assert grade(with_answer(answer)).exercises[FIRST].points == FULL[FIRST]


def test_what_one_file_learns_of_its_inputs_helps_no_other():
    nosy = "def batchnorm_forward(x, *rest):\n    raise ValueError(str(x[0]))\n"
    said = []
    for space in ("", "\n"):
        rows = grade(with_answer(nosy + space)).exercises[FIRST].rows
        said.append([row.detail for row in rows])
    assert said[0] != said[1]


def test_a_stopped_cell_of_the_student_hurts_nobody_who_has_everything():
    nb = solved()
    nb.cells.insert(index(nb, FIRST), new_code_cell("while True: pass"))
    verdict = grade(nb, limits=SMALL)
    assert points(verdict) == FULL and verdict.status == GRADED
    assert "a cell of the student's own did not finish within 1.5 seconds" in (
        verdict.notes
    )


def test_a_stopped_cell_leaves_to_a_person_what_it_may_have_cost():
    nb = with_answer("def batchnorm_forward(*args):\n    return helper(*args)")
    nb.cells.insert(2, new_code_cell("while True: pass\ndef helper(*args): ..."))
    verdict = grade(nb, limits=SMALL)
    assert points(verdict) == FULL | {FIRST: None}
    assert verdict.status == NEEDS_REVIEW and FIRST in verdict.reason


def test_what_a_killed_cell_defines_still_counts():
    nb = solved()
    source = nb.cells[index(nb, FIRST)].source
    verdict = grade(with_answer(source + "\nimport os\nos._exit(1)"), limits=SMALL)
    assert points(verdict) == FULL


def test_a_submission_that_takes_too_long_is_left_to_a_person():
    slow = "import time\ndef batchnorm_forward(*args):\n    time.sleep(1000)"
    short = replace(SMALL, submission=1)
    verdict = grade(with_answer(slow), limits=short)
    assert verdict.status == NEEDS_REVIEW
    assert all(e.points in (None, FULL[n]) for n, e in verdict.exercises.items())


def test_a_failure_of_the_grader_is_no_grade(monkeypatch):
    def fail(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(judge.check, "exercise", fail)
    verdict = grade(solved())
    assert verdict.status == NEEDS_REVIEW
    assert "the grader failed: OSError: the disk is full" in verdict.reason
    assert set(points(verdict).values()) == {None}


@pytest.mark.parametrize("value", [float("nan"), -1.0, 99.0])
def test_a_score_out_of_range_is_no_grade(monkeypatch, value):
    exercise = check.exercise(FIRST)
    wrong = check.Score(value, FIRST, 3, ())
    monkeypatch.setattr(type(exercise), "score", lambda *args: wrong)
    verdict = grade(solved())
    assert verdict.status == NEEDS_REVIEW and "the check of" in verdict.reason


def test_a_set_up_that_fails_is_the_graders_failure(monkeypatch):
    monkeypatch.setattr(judge.rebuild, "needed", lambda *args: "import nothing_at_all")
    verdict = grade(solved())
    assert verdict.status == NEEDS_REVIEW and "the set-up cell" in verdict.reason


def test_other_seeds_other_inputs_same_marks():
    for nb in (solved(), untouched()):
        verdicts = [grade(nb, seed) for seed in (1, 2)]
        assert points(verdicts[0]) == points(verdicts[1])


def test_a_symptom_is_told_and_counts_as_no_misconception():
    for explains, name in ((True, "nan"), (False, "")):
        found = score.Diagnosis("nan", "Your y is nan in places.", explains=explains)
        row = judge._row(score.Row("values of y", score.FAILS, mistake=found))
        assert (row.mistake, row.says) == (name, "Your y is nan in places.")
