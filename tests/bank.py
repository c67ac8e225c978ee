"""What every lesson's checks must pass. A lesson's test file subclasses `BankTests`."""

import copy
import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import bn_checks as check

LESSONS = Path(__file__).resolve().parents[1] / "lessons"
POINTS = 3
EVERY_DAY, LONG = 5, 20  # seeds
TWO = (3, 14)  # seeds on which published mistakes are tried


def stub(*args):
    raise NotImplementedError


class BankTests:
    """Every known mistake is named, every honest solution passes, whatever the seed.

    Every day over 5 seeds, with `course.py test --long` over 20.

    Attributes:
        lesson: the module of checks, such as `bn_checks.banks.lesson_01`.
        honest: exercise name -> at least three right solutions that look different.
    """

    lesson = None
    honest = {}

    @pytest.fixture
    def seeds(self, pytestconfig):
        short = "not long" in pytestconfig.getoption("markexpr")
        return range(EVERY_DAY if short else LONG)

    def pytest_generate_tests(self, metafunc):
        exercises = self.lesson.EXERCISES
        if "mistake" in metafunc.fixturenames:
            pairs = [(e, m) for e in exercises for m in e.mistakes]
            names = [f"{e.name}: {m.name}" for e, m in pairs]
            metafunc.parametrize(("exercise", "mistake"), pairs, ids=names)
        elif "published" in metafunc.fixturenames:
            name = f"sourced.{self.lesson.__name__.rpartition('.')[2]}"
            rows = importlib.import_module(name).MISTAKES
            ids = [f"{row[0]}: {row[1]}" for row in rows]
            metafunc.parametrize("published", rows, ids=ids)
        elif "exercise" in metafunc.fixturenames:
            metafunc.parametrize("exercise", exercises, ids=lambda e: e.name)

    def test_the_reference_has_full_marks(self, exercise, seeds):
        for seed in seeds:
            assert exercise.score(exercise.reference, POINTS, seed) == POINTS

    def test_forms_have_full_marks(self, exercise, seeds):
        assert exercise.forms
        for form in exercise.forms:
            for seed in seeds:
                score = exercise.score(form, POINTS, seed)
                assert score == POINTS, score.text

    def test_a_mistake_fails_and_is_named_as_nothing_else(
        self, exercise, mistake, seeds
    ):
        for seed in seeds:
            score = exercise.score(mistake.code, POINTS, seed)
            assert score < POINTS
            assert score.mistakes == (mistake.name,), score.text
            assert score.explained

    def test_a_published_mistake_that_no_bank_lists_is_explained(self, published):
        name, _, _, code = published
        for seed in TWO:
            score = check.exercise(name).score(code, POINTS, seed)
            assert score < POINTS
            assert score.explained, score.text

    def test_a_mistake_has_a_source_and_a_section_that_exists(self, exercise, mistake):
        [lesson] = LESSONS.glob(f"{self.lesson.__name__[-2:]}_*.md")
        text = lesson.read_text(encoding="utf-8")
        headings = re.findall(r"^## (\d+) (.+)$", text, re.MULTILINE)
        sections = {f"section {number}, {title}" for number, title in headings}
        assert mistake.section in sections
        assert mistake.source

    def test_a_clause_fits_its_frame(self, exercise, mistake):
        whole = mistake.clause[0].isupper() and mistake.clause[-1] == "."
        assert whole == bool(mistake.shows) or mistake.clause[0] in "|γβ"
        assert "\n" not in mistake.clause

    def test_what_is_handed_out_earns_nothing(self, exercise, seeds):
        if exercise.broken is not None:
            for seed in seeds:
                assert exercise.score(exercise.broken, POINTS, seed) == 0

    def test_honest_solutions_have_full_marks(self, exercise, seeds):
        assert len(self.honest[exercise.name]) >= 3
        for student in self.honest[exercise.name]:
            for seed in seeds:
                score = exercise.score(student, POINTS, seed)
                assert score == POINTS, score.text

    def test_a_stub_is_not_attempted(self, exercise):
        score = exercise.score(stub, POINTS)
        assert score == 0
        assert {row.state for row in score.rows} == {"○"}

    def test_nothing_useful_earns_nothing(self, exercise):
        for student in (lambda *args: None, lambda *args: "text", 7):
            assert exercise.score(student, POINTS) == 0

    def test_zeros_of_the_right_shape_earn_nothing(self, exercise):
        def drive(student, *args):
            if student is not stub:
                return exercise.drive(student, *args)
            return tuple(map(np.zeros_like, exercise.run(exercise.reference, args)[0]))

        forged = copy.copy(exercise)
        forged.drive = drive
        assert forged.score(stub, POINTS) == 0

    def test_the_lesson_finds_the_check(self, exercise):
        assert check.exercise(exercise.name) is exercise
        assert getattr(check, exercise.name)(exercise.reference) > 0
