"""Whatever one hands in: all commands end well, and the others have what they had."""

import copy
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submissions import FIRST, LESSON, at, content, raw, solved, with_answer
from test_grading_corpus import classmate, without_times

from grading import grade, records, report

pytestmark = pytest.mark.sandbox
ODD = "\0\x1b\x85\u2028\u2029\ufeff\ud800\udc80\udfff\r\n/\\\"'{}<>$`"
anything = st.text(st.characters(exclude_categories=()) | st.sampled_from(ODD))
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 2**63, 1e999])
plain = st.none() | st.booleans() | numbers | anything
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner),
    max_leaves=8,
)
HONEST = {"honest-7f3a": content(solved()), "honest-81cc": classmate(3).content}
SOLVED = raw(solved())


def nodes(value, path=()):
    """Paths to everything in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from nodes(inner, (*path, key))


PLACES = [path for path in nodes(SOLVED) if path]


def replaced(place, value):
    """A solved notebook with something else in one place."""
    made = copy.deepcopy(SOLVED)
    inner = made
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(made).encode()


def raising(text):
    source = (
        f"def {FIRST}(*args):\n    raise type({text!r}, (Exception,), {{}})({text!r})"
    )
    return written(source)


def written(source, name=FIRST):
    """A solved notebook with any text in a cell, as JSON may hold it."""
    made = raw(solved())
    cell = at(solved(), name).id
    next(c for c in made["cells"] if c.get("id") == cell)["source"] = source
    return json.dumps(made).encode()


QUESTION = next(c.id for c in solved().cells if c.id.startswith("answer-"))
notebooks = st.one_of(
    st.builds(replaced, st.sampled_from(PLACES), values),
    st.builds(raising, anything),
    st.builds(
        lambda text: written(f"def {FIRST}(*a): return {text!r}, {text}"), anything
    ),
    st.builds(
        lambda text: content(with_answer(f"x = '''{plainer(text)}'''")), anything
    ),
    anything.map(lambda text: written(text, QUESTION)),
    values.map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps({"nbformat": 4, "cells": value}).encode()),
    st.binary(),
)


def plainer(text):
    return text.encode("utf-8", "replace").decode()


def zipped(name, data):
    """An archive with an entry of any name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(plainer(name) or "x"), data)
    return buffer.getvalue()


names = anything.map(lambda text: text[:40].replace("/", "").replace("\0", ""))
ends = st.sampled_from([f"/{LESSON}.ipynb", ".ipynb", "/x.ipynb", ".zip", "", ".json"])
handed_in = st.tuples(names, ends, notebooks | st.builds(zipped, anything, notebooks))


def lay(folder, files):
    """Write what this system can name."""
    for name, data in files:
        try:
            path = folder / os.fsdecode(os.fsencode(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (OSError, UnicodeEncodeError):  # taken, too long, or no name at all
            continue
    return folder


def run(folder, into, *options):
    words = [str(folder), "--into", str(into), "--jobs", "2", "--yes", *options]
    assert grade.main(words) == 0
    return {
        v.student: without_times(v)
        for v in records.verdicts(into)
        if v.student in HONEST
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The honest among themselves: the folder of grades, and their verdicts."""
    folder = tmp_path_factory.mktemp("calm")
    lay(folder / "class", [(f"{n}/{LESSON}.ipynb", d) for n, d in HONEST.items()])
    return folder / "grades", run(folder / "class", folder / "grades")


def ends_well(calm, odd):
    before, wanted = calm
    assert len(wanted) == len(HONEST)
    with tempfile.TemporaryDirectory() as folder:
        made, into = Path(folder) / "class", Path(folder) / "grades"
        lay(made, [(f"{name}{end}", data) for name, end, data in odd])
        lay(made, [(f"{n}/{LESSON}.ipynb", d) for n, d in HONEST.items()])
        into.mkdir()
        (into / "seed").write_bytes((before / "seed").read_bytes())
        for options in ((), (), ("--regrade",)):
            assert run(made, into, *options) == wanted
        for way in ("folder", "moodle", "canvas"):
            assert report.main(["--into", str(into), "--return", way]) in (0, None)


loose = settings(deadline=None, suppress_health_check=list(HealthCheck))


@settings(loose, max_examples=2)
@given(st.lists(handed_in, min_size=10, max_size=12))
def test_whatever_some_hand_in_the_others_have_their_verdicts(calm, odd):
    ends_well(calm, odd)


@pytest.mark.long
@settings(loose, max_examples=20)
@given(st.lists(handed_in, min_size=15, max_size=20))
def test_whatever_many_hand_in_the_others_have_their_verdicts(calm, odd):
    ends_well(calm, odd)
