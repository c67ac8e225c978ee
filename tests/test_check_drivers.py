"""Drivers go into the sandbox beside the student's code: they must hold no answers."""

import ast
import sys
from pathlib import Path

import pytest

from bn_checks import drivers

FILES = sorted(Path(drivers.__file__).parent.glob("*.py"))
ALLOWED = sys.stdlib_module_names | {"numpy", "torch"}


def imported(tree):
    """Top-level names of what a module imports; `.` for a neighboring driver."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level or node.module.split(".")[0]


def test_there_are_drivers():
    assert {"lesson_02.py", "lesson_03.py", "lesson_04.py"} <= {p.name for p in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_driver_imports_nothing_that_holds_an_answer(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert set(imported(tree)) <= ALLOWED | {"."}


def test_the_rule_sees_forbidden_imports():
    for line in (
        "import bn_helpers.norms",
        "from bn_helpers import train",
        "from ..engine import Exercise",
        "def f():\n    from .. import lesson_01",
    ):
        assert not set(imported(ast.parse(line))) <= ALLOWED | {"."}
