"""The NumPy part of the course runs where PyTorch is not installed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import build
from tools.lesson import student_view

ROOT = Path(__file__).resolve().parents[1]
NUMPY = ("01", "02", "05", "06", "07")  # lessons whose set-up cell needs no PyTorch
LESSONS = [lesson for lesson in build.load(ROOT)[0] if lesson.name[:2] in NUMPY]
CELLS_THAT_NEED_IT = {"01": 0, "02": 9, "05": 6, "06": 6, "07": 11}  # at most

# cells come as JSON [[id, source], ...] in argv[1]; prints the ids of those that fail
RUN = """
import contextlib, io, json, sys
import matplotlib
from IPython.core.interactiveshell import InteractiveShell
matplotlib.use("Agg")
shell, failed = InteractiveShell.instance(), []
for name, source in json.load(open(sys.argv[1], encoding="utf-8")):
    with contextlib.redirect_stdout(io.StringIO()):
        if not shell.run_cell(source).success:
            failed.append(name)
print(json.dumps(failed))
"""

EXERCISES = """
import bn_checks, bn_experiments, bn_helpers
from bn_checks.banks import lesson_01, lesson_02, lesson_05, lesson_06, lesson_07
for bank in (lesson_01, lesson_02, lesson_05, lesson_06, lesson_07):
    for exercise in bank.EXERCISES:
        if exercise.name != "torch_batchnorm":
            score = bn_checks.exercise(exercise.name).score(exercise.reference, 1)
            assert score == 1, score.text
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python where importing PyTorch fails; returns what it prints."""
    fakes = tmp_path_factory.mktemp("fakes")
    for name in ("torch", "torchvision"):
        fake = fakes / name / "__init__.py"
        fake.parent.mkdir()
        fake.write_text("raise ImportError('no PyTorch here')\n", encoding="utf-8")
    path = os.pathsep.join([str(fakes), str(ROOT)])

    def run(code, *args):
        command = [sys.executable, "-c", code, *map(str, args)]
        options = {"capture_output": True, "encoding": "utf-8", "cwd": ROOT}
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def failing(python, tmp_path):
    """The ids of the cells that fail without PyTorch."""

    def run(cells):
        file = tmp_path / "cells.json"
        file.write_text(json.dumps([[c.id, c.source] for c in cells]), encoding="utf-8")
        return json.loads(python(RUN, file).splitlines()[-1])

    return run


def test_packages_import_and_numpy_exercises_are_judged(python):
    python(EXERCISES)


def test_the_block_blocks(failing):
    blocked = "import torch", "from torchvision import models"
    cells = [SimpleNamespace(id=s, source=s) for s in ("import numpy", *blocked)]
    assert failing(cells) == list(blocked)


def test_set_up_cells_run(failing):
    assert failing([lesson.of("setup")[0] for lesson in LESSONS]) == []


@pytest.mark.long
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_only_cells_that_need_pytorch_fail(failing, lesson):
    cells = [c for c in student_view(lesson).cells if c.cell_type == "code"]
    failed = failing(cells)
    assert len(failed) <= CELLS_THAT_NEED_IT[lesson.name[:2]]
    assert set(failed) <= set(based_on_torch(cells))


def based_on_torch(cells):
    """Ids of the cells that name PyTorch, or a helper that is defined with it."""
    names = {"torch", "torchvision", "nn", "F", "models"}
    for cell in cells:
        if names & set(re.findall(r"\w+", cell.source)):
            helpers = ast.FunctionDef, ast.ClassDef
            body = ast.parse(cell.source).body
            names |= {node.name for node in body if isinstance(node, helpers)}
            yield cell.id
