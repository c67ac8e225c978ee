"""The configuration and the master: one place for limits, one for lessons."""

import pytest

from grading import config, master
from tools.lesson import LessonError

TEXT = config.FILE.read_text(encoding="utf-8")


def test_the_limits_are_those_of_the_file():
    limits = config.limits()
    assert limits.address_space == 8_000_000_000
    assert 0 < limits.cell < limits.submission


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("cell = 30", "cel = 30"), "cel, cell"),
        (("cell = 30", "cell = 0"), "cell is 0, expected a number above 0"),
        (("cell = 30", "cell = true"), "cell is True"),
        (("cell = 30", 'cell = "x"'), "cell is 'x'"),
        (("cell = 30", ""), "missing or unknown: cell"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, change, says):
    path = tmp_path / "limits.toml"
    assert change[0] in TEXT
    path.write_text(TEXT.replace(*change), encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        config.limits(path)


def test_a_master_is_the_lesson():
    course = master.lesson("01_forward_pass")
    assert "01_forward_pass" in master.lessons()
    points = sum(task.points for task in course.exercises.values())
    points += sum(task.points for task in course.questions.values())
    assert points == course.lesson.totals["points"]
    ids = {cell.id for cell in course.student.cells}
    for task in (*course.exercises.values(), *course.questions.values()):
        assert {task.cell, task.graded} <= ids
    assert course.exercises["batchnorm_forward"].defines == "batchnorm_forward"
    assert len(course.version) == 12


def test_a_master_is_never_changed_by_its_users():
    course = master.lesson("01_forward_pass")
    course.student.cells[0].source = "changed"
    assert course.student.cells[0].source != "changed"


def test_a_lesson_that_is_not_there_is_named():
    with pytest.raises(LessonError, match="99_nothing"):
        master.lesson("99_nothing")
