"""The house as it is meant to be: who imports whom, and how large things may grow."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# a package may import what stands in its row; of bn_checks, drivers may do more
MAY_IMPORT = {
    "bn_helpers": set(),
    "bn_experiments": {"bn_helpers"},
    "bn_checks": {"bn_helpers"},
    "bn_checks/drivers": {"bn_helpers", "bn_experiments"},
}
OURS = {"bn_helpers", "bn_experiments", "bn_checks", "grading", "tools", "benchmarks"}
FOLDERS = ("bn_helpers", "bn_experiments", "bn_checks", "grading", "tools")
LINES_OF_CODE, LINES = 1400, 3000  # of bn_helpers
SHORT, LONGEST, SHARE = 15, 30, 0.9  # lines of a function's body; share of short ones


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Top-level names of what is imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def docstrings(tree):
    """The docstrings of a file, as nodes."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            yield node.body[0]


def lines_of_code(source):
    """Number of lines that hold code: no blanks, comments or docstrings."""
    skipped = {
        line
        for node in docstrings(ast.parse(source))
        for line in range(node.lineno, node.end_lineno + 1)
    }
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT)
    nothing += (tokenize.DEDENT, tokenize.ENDMARKER)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - skipped)


def body_lengths(path):
    """Name and lines of the body, without its docstring, of each function."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[ast.get_docstring(node) is not None :]
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            yield f"{relative(path)}: {node.name}", length


def test_lines_of_code_are_neither_blank_nor_comment_nor_docstring():
    source = '"""A\n\ntext."""\n\n# why\nx = """two\nlines"""  # code\n'
    assert lines_of_code(source) == 2


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_imports_run_one_way(place):
    package = place.split("/")[0]
    for path in files(place):
        inner = [p for p in MAY_IMPORT if p.startswith(f"{place}/")]
        if any(relative(path).startswith(f"{p}/") for p in inner):
            continue
        wrong = OURS.intersection(imported(tree_of(path)))
        wrong -= MAY_IMPORT[place] | {package}
        assert not wrong, f"{relative(path)} imports {wrong}"


def test_bn_helpers_stays_small():
    sources = [path.read_text(encoding="utf-8") for path in files("bn_helpers")]
    assert sum(map(lines_of_code, sources)) <= LINES_OF_CODE
    assert sum(len(source.splitlines()) for source in sources) <= LINES


def test_the_reading_map_fits_twenty_lines():
    source = (ROOT / "bn_helpers/__init__.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 20
    names = {path.stem for path in files("bn_helpers")} - {"__init__"}
    assert all(name in source for name in names)


def test_functions_are_short():
    # forms are answers as students write them: in one piece
    paths = [path for f in FOLDERS for path in files(f) if path.parent.name != "forms"]
    found = [pair for path in paths for pair in body_lengths(path)]
    short = sum(length < SHORT for _, length in found)
    assert short >= SHARE * len(found)
    assert not [name for name, length in found if length > LONGEST]


NUMPY_ALONE = ("norms", "layers", "network", "gradcheck", "sync")


def test_torch_is_imported_where_it_is_used():
    code = "import sys; sys.modules['torch'] = None; import bn_helpers; "
    code += f"from bn_helpers import {', '.join(NUMPY_ALONE)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
