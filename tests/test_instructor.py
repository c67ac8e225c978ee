"""The instructor's page: complete, linked, and as fresh as every generated file."""

import re
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

import bn_checks as check
from bn_checks.engine import Mistake, Property
from tools import build as builder
from tools import instructor
from tools.lesson import LessonError, parse

ROOT = Path(__file__).resolve().parents[1]
SOUND = ROOT / "tests" / "fixtures" / "build" / "01_sound.md"
MISTAKE = Mistake("doubled | twice", "it is doubled twice", "section 1", "a/b #1", None)
EXERCISE = SimpleNamespace(
    properties=(
        Property("runs", None, 0),
        Property("values", None, 3),
        Property("refuses text", None, 1),
    ),
    mistakes=(MISTAKE,),
)


@pytest.fixture(scope="module")
def lessons():
    lessons, wrong = builder.load(ROOT)
    assert not wrong
    return lessons


@pytest.fixture(scope="module")
def page(lessons):
    return instructor.page(lessons)


@pytest.fixture
def sound(monkeypatch):
    """The page of the sound lesson, whose two exercises have one bank."""
    monkeypatch.setattr(check, "exercise", lambda name: EXERCISE)
    path = PurePosixPath("lessons/01_sound.md")
    return instructor.page([parse(SOUND.read_text(encoding="utf-8"), path)])


def test_each_exercise_has_points_minutes_shares_and_mistakes(sound):
    assert "Exercise 1.1 · Double a number · 2 points · 10 min\n" in sound
    assert "Exercise 1.2 · Count · 1 point · 5 min\n" in sound
    shares = "earns points for: values (75%); refuses text (25%). Form: runs.\n"
    assert f"`double_it` {shares}" in sound and f"`Counter` {shares}" in sound
    says = "… what comes out when it is doubled twice."
    row = f"| **doubled \\| twice** | {says} | section 1 | a/b #1 |\n"
    assert sound.count(row) == 2


def test_each_question_is_quoted_above_its_rubric(sound):
    asked = "3 points · 5 min\n\n> Say why in two sentences.\n\nOne point for naming"
    assert f"Question 1.1 · Why two? · {asked}" in sound


def test_totals_add_up(sound):
    assert "| [01 · Sound](#01_sound) | 2 | 3 | 15 | 2 | 1 | 3 | 5 | 6 |\n" in sound
    sums = " | ".join(f"**{n}**" for n in (2, 3, 15, 2, 1, 3, 5, 6))
    assert f"| **all** | {sums} |\n" in sound


def test_every_link_has_its_place_once(page, lessons):
    links = re.findall(r"\]\(#(.+?)\)", page)
    places = re.findall(r'<a id="(.+?)">', page)
    assert len(places) == len(set(places)) and set(links) == set(places)
    tasks = [c.id for lesson in lessons for c in lesson.of("exercise", "question")]
    assert set(tasks) <= set(places)


def test_every_mistake_and_rubric_of_the_course_is_there(page, lessons):
    for lesson in lessons:
        for cell in lesson.of("exercise"):
            mistakes = check.exercise(cell.function).mistakes
            assert all(f"| **{m.name}** |" in page for m in mistakes)
        assert all(cell.source in page for cell in lesson.of("rubric"))


def test_a_missing_check_is_named_and_stops_no_notebook(tmp_path):
    (tmp_path / "lessons").mkdir()
    (tmp_path / "grading").mkdir()
    text = SOUND.read_text(encoding="utf-8")
    (tmp_path / "lessons" / SOUND.name).write_text(text, "utf-8", newline="\n")
    lessons, _ = builder.load(tmp_path)
    with pytest.raises(LessonError, match="exercise 'double-it' has no check that lo"):
        instructor.page(lessons)
    said = []
    builder.build(tmp_path, say=lambda *words, **_: said.append(" ".join(words)))
    assert any(f"{instructor.PAGE} is not made" in line for line in said)
    assert sum("executed in" in line for line in said) == 2
    assert any(instructor.PAGE in line for line in builder.check(tmp_path))


def test_a_stale_page_is_found(page, lessons, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "load", lambda root: (lessons, {}))
    monkeypatch.setattr(builder, "_stale", lambda root, lesson: ())
    path = tmp_path / instructor.PAGE
    path.parent.mkdir()
    builder.write(tmp_path / builder.EXERCISES, builder.exercise_list(lessons))
    builder.write(path, page)
    assert builder.check(tmp_path) == []
    builder.write(path, page + "mine\n")
    [message] = builder.check(tmp_path)
    assert message.startswith(f"{instructor.PAGE}: differs; edit lessons/")
