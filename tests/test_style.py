"""One style for code, one spelling for prose."""

import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).resolve().parents[1]
PROSE = [
    path
    for folder in (".", "lessons", "data", "grading", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.md"))
]
LESSONS = sorted((ROOT / "lessons").glob("*.md"))
NOT_AMERICAN = re.compile(
    r"\b(normalis|standardis|initialis|generalis|regularis|optimis|summaris|colour|"
    r"behaviour|grey\b|centre|licence|neighbour|analys(e|ing)\b|labelled|modelled)",
    re.IGNORECASE,
)


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]), ids=" ".join)
def test_code_is_clean(command):
    found = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--quiet", "."],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("path", PROSE, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_spelling_is_american(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [
        f"{k}: {line}" for k, line in enumerate(lines, 1) if NOT_AMERICAN.search(line)
    ]
    assert not found


def markdown(path):
    """The sources of the cells with prose, fenced code aside."""
    cells = [c.source for c in jupytext.read(path).cells if c.cell_type == "markdown"]
    return [re.sub(r"^```.*?^```", "`", c, flags=re.S | re.M).strip() for c in cells]


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_what_is_cited_is_listed(path):
    body, _, sources = "\n".join(markdown(path)).partition("\n## Sources")
    body = re.sub(r"`[^`]*`|\$\$.*?\$\$|\$[^$]*\$", "", body, flags=re.S)
    cited = {int(n) for n in re.findall(r"\[(\d+)(?=[],])", body)}
    listed = [int(n) for n in re.findall(r"^(\d+)\. ", sources, re.M)]
    assert listed == list(range(1, len(listed) + 1))
    assert cited <= set(listed)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_no_sentence_breaks_off(path):
    ends = [cell.splitlines()[-1] for cell in markdown(path) if cell]
    assert not [e for e in ends if not e.startswith("#") and e[-1] not in '.?!:)*|`>$"']
