"""What proves a verdict again under other choices: see test_verdicts.py."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jupytext
import torch

LESSONS = Path(__file__).resolve().parents[2] / "lessons"
COLUMN = "What would change this?"
CLAIM = re.compile(
    r"\d|\b(more|less|fewer|larger|smaller|higher|lower|better|worse|wider|narrower|"
    r"ahead|behind|holds|fails|helps|hurts|gains|loses|learns|never|always|not|no|none|"
    r"above|below|every|equal|same)\b"
)
PROOFS = {}


@dataclass
class Row:
    """One verdict as it stands in a lesson, and what of it is not proved yet."""

    name: str
    text: str

    def __post_init__(self):
        self.unproved = self.text

    def says(self, *phrases):
        for phrase in phrases:
            assert phrase in self.text, f"{self.name}: came out as {phrase!r}"
            self.unproved = self.unproved.replace(phrase, " … ")

    def is_proved(self):
        claim = CLAIM.search(self.unproved)
        assert not claim, f"{self.name}: no run has shown {claim[0]!r}: {self.unproved}"


def proof(name, *choices):
    """Register the proof of a verdict, and the choices that it varies."""

    def register(function):
        assert name not in PROOFS, f"two proofs of {name}"
        PROOFS[name] = function, choices
        return function

    return register


def source(number):
    (path,) = LESSONS.glob(f"{number}_*.md")
    return path.read_text(encoding="utf-8")


def verdict_rows(text):
    """The rows of all verdict tables of a lesson: cells, the first one the name."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[-1] == COLUMN:
            inside = True
        elif inside and set(line) - set("|-: "):
            found.append(cells)
    return found


def from_lesson(number, *markers, **changed):
    """What a lesson's set-up cell and its cells with these markers define.

    The names in changed are set after each cell: the lesson's own code, other choices.
    """
    (path,) = LESSONS.glob(f"{number}_*.md")
    sources = [c.source for c in jupytext.read(path).cells if c.cell_type == "code"]
    space = {"__name__": f"lesson_{number}"}
    dtype = torch.get_default_dtype()  # which a set-up cell may change
    for marker in ("plots.use_style()", *markers):
        (code,) = [source for source in sources if marker in source]
        exec(compile(code, f"{path.name}, {marker}", "exec"), space)
        space.update(changed)
    torch.set_default_dtype(dtype)
    return SimpleNamespace(**space)


def either(condition, yes, no):
    return yes if condition else no


def best(scores):
    """The scores (seeds,) at the rate with the highest mean. scores: (rates, seeds)."""
    return scores[scores.mean(1).argmax()]


def fives(values):
    """The range of some numbers, in steps of five."""
    return f"{min(values) // 5 * 5:.0f} to {-(-max(values) // 5) * 5:.0f}"
