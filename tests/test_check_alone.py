"""The notebook says what an answer uses that the grader has not; and nothing else."""

import contextlib
import json

import pytest
from submissions import FIRST, LESSON, at, content, messy, solved, students

import bn_checks as check
from bn_checks import alone
from bn_checks.definitions import bound
from grading import code, master

EVERY = [*students.cases(), *messy.cases()]
DAILY = EVERY[::6]


def told(data, lesson, task):
    """What the notebook says of an exercise, after all of its cells were run.

    They are not: what they bind is there, and the set-up's imports are what they are.
    """
    cells = [c for c in json.loads(data)["cells"] if c["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    names = {name: object() for source in sources for name in bound(source)}
    course = master.lesson(lesson)
    exec(next(c for c in course.solved.cells if c.id in SETUPS).source, names)
    for part in [part for source in sources for part in code.imports(source)]:
        with contextlib.suppress(ImportError):
            exec(part, names)
    return alone.Kernel({**names, "In": sources}, lesson, names[task.defines]).lacking()


SETUPS = {
    name
    for lesson in master.lessons()
    for name, kind in master.lesson(lesson).kinds.items()
    if kind == "setup"
}


@pytest.mark.parametrize("case", DAILY, ids=lambda case: case.name)
def test_nothing_is_said_of_what_the_grader_accepts(case):
    silent(case)


@pytest.mark.long
@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_nothing_is_said_of_any_messy_notebook(case):
    silent(case)


def silent(case):
    for task in master.lesson(case.lesson).exercises.values():
        assert told(case.content, case.lesson, task) == []


@pytest.mark.parametrize("lesson", master.lessons())
def test_nothing_is_said_of_a_solution(lesson):
    course = master.lesson(lesson)
    data = content(messy.solved(course))
    for task in course.exercises.values():
        assert told(data, lesson, task) == []


ANSWER = at(solved(), FIRST).source


def lacking(answer, shown="", own="", before=""):
    """What is said of an answer, with lines in a demonstration and a cell above."""
    nb = solved()
    at(nb, FIRST).source = answer
    course = master.lesson(LESSON)
    code = [c for c in nb.cells if course.kinds[c.id] == "code"]
    code[2].source = f"{before}\n{code[2].source}\n{shown}"
    code[3].source = own or code[3].source
    return told(content(nb), LESSON, course.exercises[FIRST])


def using(what):
    return ANSWER.replace("return ", f"{what}\n    return ")


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"shown": "SCALE = float(sum(open(__file__)))"}, ["SCALE"]),
        ({"shown": "SCALE = slow_search()"}, ["SCALE"]),
        ({"shown": "for SCALE in [1]: pass"}, ["SCALE"]),
        ({"before": "START = search()\nSCALE = START"}, ["SCALE"]),
        ({"shown": "R = search()", "own": "SCALE = R + 1"}, ["SCALE"]),
        ({"shown": "R = search()", "own": "def SCALE(): return R"}, ["R"]),
        (
            {"own": "import bn_helpers\nSCALE = bn_helpers.layers"},
            ["bn_helpers.layers"],
        ),
        ({"own": "SCALE = norms.BatchNorm1d(3)"}, ["bn_helpers.norms"]),
        ({"own": "from bn_helpers.norms import eps as SCALE"}, ["bn_helpers.norms"]),
        ({"shown": "SCALE = 1 / 2**9"}, []),
        ({"shown": "def SCALE():\n    return 3"}, []),
        ({"own": "SCALE = slow_search()"}, []),
        ({"own": "R = search()\nSCALE = R[0]"}, []),
        ({"own": "import math as SCALE"}, []),
        ({"own": "SCALE = data.mnist_batch(8, seed=0)"}, []),
    ],
    ids=str,
)
def test_what_the_grader_has_not_is_named(facts, wanted):
    assert lacking(using("SCALE"), **facts) == wanted


@pytest.mark.parametrize(
    "answer",
    [
        f"def {FIRST}(*args):\n    return norms.{FIRST}(*args)",
        f"def {FIRST}(*a):\n    from bn_helpers import norms as n\n    n.{FIRST}(*a)",
        f"{FIRST} = norms.{FIRST}",
        f"class C:\n    def f(self):\n        return norms\n{FIRST} = C().f",
        f"{FIRST} = lambda *a: [norms for _ in a]",
    ],
)
def test_a_reference_is_named(answer):
    assert lacking(answer) == ["bn_helpers.norms"]


def test_a_local_file_is_named_unless_a_cell_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.npy").write_bytes(b"")
    assert lacking(using("np.load('w.npy')")) == ["the file w.npy"]
    assert lacking(using("LOADED"), own="LOADED = np.load('w.npy')") == [
        "the file w.npy"
    ]
    assert lacking(using("np.load('w.npy')"), own="np.save('w.npy', 1)") == []
    assert lacking(using("np.load('v.npy')")) == []


def test_a_module_of_the_students_own_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_own_norms.py").write_text("a = 1")
    answer = using("import my_own_norms as m")
    assert lacking(answer) == ["the file my_own_norms.py"]
    made = "%%writefile my_own_norms.py\na = 1"
    assert lacking(answer, own=made) == []


def test_it_is_one_line_of_the_table(monkeypatch):
    def student(*args):
        raise NotImplementedError

    names = {FIRST: student, "In": [f"{FIRST} = norms.{FIRST}"]}
    names["norms"] = __import__("bn_helpers.norms").norms
    monkeypatch.setattr(alone, "_shell", lambda: type("S", (), {"user_ns": names}))
    score = check.batchnorm_forward(student)
    assert score.note.startswith(
        "Your answer uses bn_helpers.norms, which is not there"
    )
    assert score.text.endswith(score.note) and score.note in score._repr_html_()


def test_nothing_stops_a_check(monkeypatch):
    monkeypatch.setattr(alone, "_shell", lambda: type("S", (), {"user_ns": {}}))
    assert check.batchnorm_forward(len).note == ""
    monkeypatch.setattr(alone, "_shell", lambda: None)
    assert check.batchnorm_forward(len).note == ""
