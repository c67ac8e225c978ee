"""Rebuilding: of a submission only text counts, and all of it is found."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import validate
from submissions import COURSE, FIRST, LIMITS, at, content, index, solved, untouched

from grading import code, rebuild


def rebuilt(nb):
    return rebuild.rebuild(rebuild.read(content(nb), LIMITS), COURSE)


def answers(made):
    return {s.exercise: s.source for s in made.steps if s.kind == "answer"}


def test_nothing_but_text_comes_from_the_student():
    nb = solved()
    for cell in nb.cells:
        cell.metadata = {"tags": ["forged"], "nbgrader": {"points": 99}}
    made, skeleton = rebuilt(nb), COURSE.student
    assert [c.id for c in made.notebook.cells] == [c.id for c in skeleton.cells]
    for got, want in zip(made.notebook.cells, skeleton.cells, strict=True):
        assert got.metadata == want.metadata and got.cell_type == want.cell_type
    assert made.notebook.metadata == skeleton.metadata
    validate(made.notebook)
    assert answers(made) == {name: at(nb, name).source for name in COURSE.exercises}


def test_demonstrations_are_never_run():
    sources = {step.source for step in rebuilt(solved()).steps}
    demonstrations = [c.source for c in COURSE.lesson.of("code")]
    assert demonstrations and sources.isdisjoint(demonstrations)


def test_each_check_comes_after_its_answer_and_once():
    steps = [s for s in rebuilt(untouched()).steps if s.kind in ("answer", "check")]
    pairs = [(s.kind, s.exercise) for s in steps]
    kinds = ("answer", "check")
    assert pairs == [(kind, name) for name in COURSE.exercises for kind in kinds]


def test_the_set_up_is_only_what_can_be_noticed():
    setup = COURSE.lesson.of("setup")[0].source
    assert rebuild.needed(setup, "x = 1", COURSE) == ""
    assert rebuild.needed(setup, "np.ones(3)", COURSE) == "import numpy as np"
    everything = rebuild.needed(setup, setup, COURSE)
    assert everything == rebuild.needed(setup, "eval('plt, np, plots')" + setup, COURSE)
    assert "use_style" in rebuild.needed(setup, "plots", COURSE)


def test_a_set_up_keeps_what_belongs_together():
    setup = (
        "import torch\nfrom torch import nn\nfrom time import perf_counter\n"
        "import numpy as np\ntorch.set_default_dtype(torch.float64)\n"
        "rng = np.random.default_rng(0)\n"
    )
    kept = rebuild.needed(setup, "nn.Linear(2, 3)", COURSE)
    assert "set_default_dtype" in kept and "perf_counter" not in kept
    assert "import numpy" in rebuild.needed(setup, "rng.normal()", COURSE)


def test_definitions_are_kept_and_work_is_not():
    source = (
        "import os\nfrom math import pi\nN = 3\nf = lambda x: x\nx = slow()\n"
        "def g():\n    return 1\nclass C:\n    pass\nfor k in range(10**9): pass\n"
        "os.environ['A'] = '1'\nprint(1)\nthing.attribute = 3\n"
    )
    kept = "\n".join(code.definitions(source))
    for part in ("import os", "pi", "N = 3", "lambda", "def g", "class C"):
        assert part in kept
    for part in ("slow", "range", "environ", "print", "attribute"):
        assert part not in kept
    assert code.definitions("x = (") == code.definitions("\0") == []


def test_a_magic_hides_no_definition_and_lines_count():
    source = "%matplotlib widget\nimport os\n!pip install x\ndef f():\n    pass\n"
    assert code.definitions(source) == ["import os", "def f():\n    pass"]
    assert code.definitions(source, after=2) == ["def f():\n    pass"]


def test_helpers_of_the_lesson_are_lent_with_what_they_need():
    cells = [c.source for c in COURSE.lesson.of("code")]
    every = [part for source in cells for part in code.definitions(source)]
    name = next(p.split("(")[0].removeprefix("def ") for p in every if p[:4] == "def ")
    lent = code.used_of_lesson(f"def f(x):\n    return {name}(x)", tuple(cells))
    assert lent[-1].startswith(f"def {name}(")
    assert code.used_of_lesson("y = 3", tuple(cells)) == []


def test_a_note_tells_of_a_cell_that_is_missing():
    nb = solved()
    nb.cells.remove(at(nb, FIRST))
    assert rebuilt(nb).notes == [f"the cell of {FIRST} is missing"]
    nb = solved()
    at(nb, FIRST).metadata = {}
    at(nb, FIRST).id = "pasted"
    assert rebuilt(nb).notes == [f"the cell of {FIRST} was found in another cell"]


def test_cells_of_the_student_stay_where_they_were():
    from nbformat.v4 import new_code_cell, new_markdown_cell

    nb = solved()
    place = index(nb, FIRST)
    nb.cells[place:place] = [new_code_cell("a = 1"), new_markdown_cell("note")]
    cells = rebuilt(nb).notebook.cells
    where = next(i for i, cell in enumerate(cells) if cell.id == FIRST_ID)
    assert [c.source for c in cells[where - 2 : where]] == ["a = 1", "note"]


FIRST_ID = COURSE.exercises[FIRST].cell


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x),
    max_leaves=10,
)
KEYS = st.sampled_from(["cell_type", "source", "id", "metadata", "outputs"])


@settings(max_examples=40, deadline=None)
@given(st.lists(JSON | st.dictionaries(KEYS, JSON), max_size=5), JSON)
def test_whatever_the_cells_are_reading_ends_well(cells, metadata):
    data = {"cells": cells, "metadata": metadata, "nbformat": 4}
    try:
        found = rebuild.read(json.dumps(data).encode(), LIMITS)
        assert rebuild.rebuild(found, COURSE).steps
    except rebuild.Unreadable as reason:
        assert str(reason)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_reading_ends_well(data):
    with pytest.raises(rebuild.Unreadable):
        rebuild.read(data, LIMITS)
