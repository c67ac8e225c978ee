"""README.md promises what is there."""

import re
from pathlib import Path

import pytest
from sourced.lesson_01 import unbiased

from bn_checks.banks import lesson_01

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "grading/README.md",
    "grading/exercises.md",
)


def test_it_is_short():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    local = [t for t in targets if "://" not in t]
    missing = [t for t in local if not (ROOT / page).parent.joinpath(t).exists()]
    assert not missing


def test_the_table_is_what_the_check_says():
    score = lesson_01.BATCHNORM_FORWARD.score(unbiased, 3, seed=0)
    assert f"```text\n{score.text}\n```" in README
