"""The verdicts of the lessons, each proved again under other choices.

A lesson states its verdicts in a table whose last column is "What would change this?".
Each row has a name, such as 8c. The proof of that name, in verdicts/lesson_08.py,
runs the other choices, and says the phrases that come out. They have to stand in the
last two cells of the row, and what is left of these may not hold a number or a
comparison: no row claims what no run has shown, and a row that is turned round fails.
"""

import re
from importlib import import_module
from itertools import chain
from pathlib import Path

import matplotlib
import pytest
from verdicts import COLUMN, PROOFS, Row, source, verdict_rows

matplotlib.use("agg")
PROVED = sorted((Path(__file__).parent / "verdicts").glob("lesson_*.py"))
NUMBERS = tuple(path.stem[-2:] for path in PROVED)  # lessons with such a table
for path in PROVED:
    import_module(f"verdicts.{path.stem}")

ROWS = {n: verdict_rows(source(n)) for n in NUMBERS}
STATED = {cells[0]: cells for cells in chain(*ROWS.values())}


# Every verdict has a proof. This part runs every day.


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lesson_states_its_verdicts_and_what_would_change_them(number):
    assert ROWS[number], f"lesson {number} has no table with the column {COLUMN!r}"
    for name, *cells in ROWS[number]:
        assert re.fullmatch(rf"{int(number)}[a-z]", name), f"{name!r} is no name"
        assert all(len(cell) > 3 for cell in cells), f"{name} has an empty cell"


def test_every_verdict_has_a_proof_and_every_proof_a_verdict():
    names = [cells[0] for cells in chain(*ROWS.values())]
    assert len(names) == len(set(names))
    assert set(names) == set(PROOFS)


def test_a_proof_varies_at_least_two_choices():
    few = [name for name, (_, choices) in PROOFS.items() if len(set(choices)) < 2]
    assert not few


def test_a_verdict_without_a_proof_is_found():
    table = f"| | claim | {COLUMN} |\n|---|---|---|\n| 9z | holds | a rate |\n"
    assert verdict_rows("text\n\n" + table + "\n| 9y | no verdict |\n") == [
        ["9z", "holds", "a rate"]
    ]
    assert "9z" not in PROOFS


def test_a_row_may_only_say_what_came_out():
    row = Row("9z", "holds: 3 times less")
    with pytest.raises(AssertionError, match="3 times more"):
        row.says("3 times more")
    row.says("holds")
    with pytest.raises(AssertionError, match="no run has shown '3'"):
        row.is_proved()
    row.says("3 times less")
    row.is_proved()


# The proofs. `course.py test --long` runs them.


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(STATED))
def test_the_verdict_came_out_again(name):
    row = Row(name, " | ".join(STATED[name][-2:]))
    PROOFS[name][0](row)
    row.is_proved()
