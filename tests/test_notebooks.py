"""The stored notebooks are fresh, executed and honest, and nbval really compares them.

nbval itself runs them: `pytest --nbval notebooks`. These tests close its gaps.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import build as builder
from tools.lesson import cut, solved_view

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = builder.load(ROOT)[0]

each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


def stored(lesson):
    return builder.loads(ROOT / "notebooks" / f"{lesson.name}.ipynb")


def outputs(nb):
    return [output for cell in builder.code_cells(nb) for output in cell.outputs]


def scores(nb):
    """What each check says, as nbgrader reads it."""
    checks = [c for c in builder.code_cells(nb) if "nbgrader" in c.metadata]
    checks = [c for c in checks if c.metadata.nbgrader.grade]
    return {c.id: float(c.outputs[-1].data["text/plain"]) for c in checks}


def test_notebooks_are_what_the_lessons_say():
    assert not builder.check(ROOT), "\n".join(builder.check(ROOT))


# the stored notebooks


@each_notebook
def test_it_ran_from_top_to_bottom_without_an_error(path):
    nb = builder.loads(path)
    assert builder.ran(builder.code_cells(nb))
    assert not [o for o in outputs(nb) if o.output_type == "error"]


@each_notebook
def test_it_stores_text_that_nbval_compares_and_no_stderr(path):
    found = outputs(builder.loads(path))
    assert not [o for o in found if o.get("name") == "stderr"]
    texts = [o.get("text") or o.data.get("text/plain", "") for o in found]
    assert [text for text in texts if text and not text.startswith("<Figure")]


@each_notebook
def test_it_is_valid_and_small(path):
    nb = builder.loads(path)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == "python3"
    assert path.stat().st_size <= 2**20


@each_notebook
def test_ids_can_be_read_and_are_unique(path):
    ids = [cell.id for cell in builder.loads(path).cells]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[a-z]+[a-z0-9]*(-[a-z0-9]+)*", name) for name in ids)


@each_lesson
def test_no_solution_and_no_rubric_leaks(lesson):
    nb = stored(lesson)
    text = "\n".join(cell.source for cell in nb.cells)
    blank = {cell.id: cell.source for cell in nb.cells}
    for cell in lesson.of("exercise"):
        solution = [line for line in cut(cell.source)[1].values() if line.strip()]
        # a demonstration may share a line with a solution, never two in a row
        leaks = [pair for pair in pairwise(solution) if "\n".join(pair) in text]
        leaks += [s for s in solution if len(s.strip()) > 12 and s in blank[cell.id]]
        assert not leaks
    for cell in lesson.of("rubric"):
        assert not [line for line in cell.lines if len(line) > 20 and line in text]


@each_lesson
def test_it_names_the_code_that_it_builds_up_to(lesson):
    text = " ".join(cell.source for cell in lesson.cells)
    pointer = r"builds\s+up\s+to\s+stands\s+in\s+`([\w/]+\.py)`,\s+\w+\s+`(\w+)`"
    [(file, name)] = re.findall(pointer, text)
    source = (ROOT / file).read_text(encoding="utf-8")
    assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE)


@each_lesson
def test_the_untouched_notebook_scores_nothing(lesson):
    assert set(scores(stored(lesson)).values()) <= {0.0}
    assert len(scores(stored(lesson))) == len(lesson.of("exercise"))


@pytest.mark.long  # every day test_grading_course.py has the sandbox run the same
@each_lesson
def test_solutions_score_every_point_with_the_set_up_alone(lesson):
    # leaves need no other cell, so none is run
    leaves = replace(lesson, cells=lesson.of("setup", "exercise", "check"))
    nb = solved_view(leaves)
    builder.execute(nb, leaves)
    full = {cell.id: cell.owner.meta["points"] for cell in lesson.of("check")}
    assert scores(nb) == full


# nbval, made strict by conftest.py

NOISY = "import os, sys; print(os.getpid(), file=sys.stderr); print(0.25)"
CASES = {  # source, stored output, stored execution count, what strict nbval says
    "right": ("print(0.25)", "0.25", 1, ""),
    "noise_on_stderr": (NOISY, "0.25", 1, ""),
    "one_digit_edited": ("print(0.25)", "0.26", 1, "Cell outputs differ"),
    "never_run": ("print(0.25)", None, None, "stored without being run"),
    "kernel_dies": ("import os; os._exit(1)", None, 1, "the kernel died while running"),
}


def run_pytest(folder, *options, **environ):
    """Run pytest on a folder as the course's own tests run, within a few minutes."""
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--nbval-current-env"]
    command += ["-p", "nbval", "-p", "xdist", "-p", "no:cacheprovider"]
    command += ["--rootdir", folder, folder, *options]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | environ
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # starting takes half the time
    options = {"capture_output": True, "text": True, "encoding": "utf-8"}
    return subprocess.run(command, cwd=ROOT, env=env, timeout=300, **options)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases")
    for name, (source, text, count, _) in CASES.items():
        cell = new_code_cell(source, execution_count=count)
        cell.outputs = [new_output("stream", text=f"{text}\n")] if text else []
        nbformat.write(new_notebook(cells=[cell]), folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def verdicts(cases):
    """What strict nbval says about each case; nothing where it passes."""
    run_pytest(cases, "--nbval", f"--junitxml={cases / 'report.xml'}")
    tests = ElementTree.parse(cases / "report.xml").iter("testcase")
    return {Path(t.get("classname")).stem: "".join(t.itertext()) for t in tests}


@pytest.mark.parametrize("name", CASES)
def test_nbval_passes_what_is_right_and_fails_what_is_not(verdicts, name):
    wanted = CASES[name][-1]
    assert wanted in verdicts[name] if wanted else not verdicts[name].strip()


def test_the_cells_of_a_notebook_stay_in_one_kernel(cases):
    run = run_pytest(cases, "--nbval", "-n", "2", "-k", "right")
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--dist load tears notebooks apart: add --dist loadfile" in run.stderr
    run = run_pytest(cases, "--nbval", "-n", "2", "--dist", "loadfile", "-k", "right")
    assert "1 passed" in run.stdout


@pytest.mark.parametrize(
    ("required", "says"),
    [
        ("browser", "SKIPPED [1] conftest.py:"),
        ("browser,sandbox", "COURSE_REQUIRE names sandbox: install bubblewrap"),
        ("sandbax", "COURSE_REQUIRE names no known marker: sandbax"),
    ],
)
def test_what_must_run_does_not_skip(tmp_path, required, says):
    test = "import pytest\n@pytest.mark.sandbox\ndef test_it(): pass\n"
    (tmp_path / "test_it.py").write_text(test, encoding="utf-8")
    run = run_pytest(tmp_path, "-rs", COURSE_REQUIRE=required, PATH="")
    assert says in run.stdout + run.stderr
    assert (run.returncode == 0) == (required == "browser")
