"""Honest work, however messy, loses nothing; what cannot be told is for a person."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell
from submissions import (
    COURSE,
    FIRST,
    FULL,
    LESSON,
    LIMITS,
    at,
    blind,
    content,
    index,
    messy,
    solved,
    students,
    untouched,
    with_answer,
)

from grading import code, judge, master, rebuild
from grading.verdict import GRADED, NEEDS_REVIEW

CASES = {case.name: case for case in [*messy.cases(), *students.cases()]}
sandboxed = pytest.mark.sandbox


def grade(nb, lesson=LESSON):
    data = nb if isinstance(nb, bytes) else content(nb)
    return judge.grade_bytes(data, 1, lesson, "ada", limits=LIMITS)


DAILY = {  # each stands for a kind that once cost points or had to be looked at
    *("annotations_from_the_future", "type_hints_and_dataclass", "photo_in_the_text"),
    *("blank_copies_of_answers", "cells_split_by_jupyterlab", "stranger_magics"),
    *(
        "settings_filled_step_by_step",
        "vs_code_file_with_new_ids",
        "setup_cell_deleted",
    ),
}


def rebuilt(data, course=COURSE):
    return rebuild.rebuild(rebuild.read(data, LIMITS), course)


def test_there_are_enough():
    assert len(CASES) >= 110 and len({case.lesson for case in CASES.values()}) >= 5
    assert len(blind.CASES) >= 90 and len(set(blind.CASES.values())) >= 6


def has_all_points(data, lesson):
    verdict = grade(data, lesson)
    points = {n: e.points for n, e in verdict.exercises.items()}
    tasks = master.lesson(lesson).exercises
    assert points == {n: t.points for n, t in tasks.items()}, verdict.to_json()
    assert verdict.status == GRADED


@sandboxed
@pytest.mark.parametrize("name", CASES)
def test_messy_but_right_work_has_all_points(name):
    has_all_points(CASES[name].content, CASES[name].lesson)


@sandboxed
@pytest.mark.parametrize("name", sorted(DAILY))
def test_right_work_written_blind_has_all_points(name):
    has_all_points(blind.handed_in(name), blind.CASES[name])


@sandboxed
@pytest.mark.long
@pytest.mark.parametrize("name", sorted(blind.CASES.keys() - DAILY))
def test_all_right_work_written_blind_has_all_points(name):
    has_all_points(blind.handed_in(name), blind.CASES[name])


RIGHT = at(solved(), FIRST).source


@sandboxed
@pytest.mark.parametrize(
    "line",
    [
        "SCALE = float(sum(open(__file__)))",
        "SCALE = slow_search()",
        "for SCALE in [1]: pass",
    ],
)
def test_what_only_a_demonstration_computes_is_for_a_person(line):
    nb = with_answer(RIGHT.replace("return ", "SCALE\n    return "))
    place = next(c for c in nb.cells if COURSE.kinds[c.id] == "code")
    place.source += f"\n{line}\n"
    verdict = grade(nb)
    assert verdict.status == NEEDS_REVIEW and verdict.exercises[FIRST].points is None
    assert "uses SCALE" in verdict.reason
    assert {n: e.points for n, e in verdict.exercises.items()} == FULL | {FIRST: None}


@sandboxed
def test_a_default_that_a_demonstration_computes_is_for_a_person():
    nb = with_answer(RIGHT.replace("eps=1e-5", "eps=FOUND"))
    place = next(c for c in nb.cells if COURSE.kinds[c.id] == "code")
    place.source += "\nFOUND = min(search())\n"
    verdict = grade(nb)
    assert verdict.exercises[FIRST].points is None and "FOUND" in verdict.reason


@sandboxed
def test_a_name_that_nobody_defines_is_a_wrong_answer():
    verdict = grade(with_answer(RIGHT.replace("return ", "nobody_has_it\n    return ")))
    assert verdict.status == GRADED and verdict.exercises[FIRST].points == 0


@sandboxed
def test_two_definitions_are_told():
    verdict = grade(with_answer(f"def {FIRST}(*args):\n    return 1\n\n{RIGHT}"))
    assert verdict.exercises[FIRST].points == FULL[FIRST]
    assert f"{FIRST} is defined 2 times; the last one counts" in verdict.notes


@sandboxed
def test_a_reference_that_is_not_there_is_told():
    source = (
        f"from bn_helpers import norms\ndef {FIRST}(*args):\n"
        f"    return norms.{FIRST}(*args)\n"
    )
    verdict = grade(with_answer(source))
    assert any("bn_helpers.norms" in note for note in verdict.notes)


# written answers

NAME, QUESTION = next(iter(COURSE.questions.items()))
TEXT = "The mean takes every constant away again."


def unanswered():
    nb = solved()
    at(nb, QUESTION.cell).source = at(untouched(), QUESTION.cell).source
    return nb


def in_a_code_cell(nb):
    nb.cells.insert(index(nb, QUESTION.cell) + 1, new_code_cell(f"# {TEXT}"))


def as_code_that_is_none(nb):
    nb.cells.insert(index(nb, QUESTION.cell) + 1, new_code_cell(TEXT))


def above_the_question(nb):
    nb.cells.insert(index(nb, f"question-{NAME}"), new_markdown_cell(TEXT))


def between(nb):
    nb.cells.insert(index(nb, QUESTION.cell), new_markdown_cell(TEXT))


def at_the_top_of_the_question(nb):
    cell = at(nb, f"question-{NAME}")
    cell.source = f"{TEXT}\n\n{cell.source}"


def inside_the_question(nb):
    cell = at(nb, f"question-{NAME}")
    lines = cell.source.split("\n")
    cell.source = "\n".join([*lines[:2], TEXT, *lines[2:]])


PLACES = (
    in_a_code_cell,
    as_code_that_is_none,
    above_the_question,
    between,
    at_the_top_of_the_question,
    inside_the_question,
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_a_written_answer_is_found_where_it_was_written(place):
    nb = unanswered()
    place(nb)
    made = rebuilt(content(nb))
    text, elsewhere = made.answers[NAME]
    assert TEXT in text and elsewhere
    others = [answer for name, answer in made.answers.items() if name != NAME]
    assert all(TEXT not in text for text, _ in others)


@pytest.mark.parametrize("name", blind.CASES)
def test_no_written_answer_is_lost(name):
    made = rebuilt(blind.handed_in(name), master.lesson(blind.CASES[name]))
    assert all(text for text, _ in made.answers.values())


def test_answers_far_away_are_shown_where_nothing_else_is():
    made = rebuilt(blind.handed_in("written_answers_collected_at_the_end"))
    shown = {name: "a floor" in text for name, (text, _) in made.answers.items()}
    assert shown == {name: name != "redundant-bias" for name in COURSE.questions}
    assert rebuilt(content(unanswered())).answers[NAME] == ("", "")


def test_halves_of_a_written_answer_stand_in_their_order():
    made = rebuilt(blind.handed_in("cells_split_by_jupyterlab"))
    text = "\n\n".join(cell.source for cell in made.notebook.cells)
    assert "What\n\nI think about it." in text
    text, place = made.answers["redundant-bias"]
    assert text == "What\n\nI think about it." and place


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("written_answers_of_two_cells", "And second: the rest of it."),
        ("chinese_answers_in_several_cells", "第二部分:训练时统计量随批次变化。"),
    ],
)
def test_an_answer_goes_on_in_new_cells(name, rest):
    text, place = rebuilt(blind.handed_in(name)).answers["redundant-bias"]
    assert text.endswith(f"\n\n{rest}") and place


def test_a_copy_of_an_answer_is_one_answer():
    nb = solved()
    copy = at(nb, QUESTION.cell).copy()
    copy.id = "copy"
    nb.cells.insert(index(nb, QUESTION.cell), copy)
    assert rebuilt(content(nb)).answers[NAME] == (f"My answer to {NAME}.", "")


@pytest.mark.parametrize("name", ["photo_in_the_text", "pictures_attached_to_answers"])
def test_a_picture_as_an_answer_is_told(name):
    made = rebuilt(blind.handed_in(name))
    assert any(note.startswith(f"{NAME} is answered with a pic") for note in made.notes)
    assert not any("answered with" in note for note in rebuilt(content(solved())).notes)


def test_code_beside_a_question_is_no_answer():
    nb = unanswered()
    nb.cells.insert(index(nb, QUESTION.cell) + 1, new_code_cell("x = 1  # one\nx + 1"))
    assert rebuilt(content(nb)).answers[NAME] == ("", "")


# what is cut out of a source


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("a, b = 1, slow()", ["a = (1)"]),
        ("a = b = 2", ["a = b = 2"]),
        ("a = 1; b = slow(); c = 'ä'; d = 3", ["a = 1", "c = 'ä'", "d = 3"]),
        ("x = np.random.rand(3).sum()", []),
        ("x = train(5)", []),
        ("with open('f') as f: pass", []),
        ("if slow(): a = 1", []),
        ("if True: a = slow()", []),
    ],
)
def test_only_what_costs_nothing_is_kept(source, kept):
    found = code.definitions(source)
    if "rand" in source:  # a call on what a call made
        assert found in ([], [source])
    else:
        assert found == kept


def test_nothing_is_too_deep():
    for source in (
        "x = " + "(" * 5000,
        "x = " + "-" * 90_000 + "1",
        "if 1:\n x=1\n" * 9,
    ):
        assert isinstance(code.definitions(source), list)
        assert isinstance(code.bound(source), set)
