"""One style for code, one spelling for prose."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROSE = [
    path
    for folder in (".", "lessons", "data", "grading", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.md"))
]
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
