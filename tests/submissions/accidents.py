"""Broken files, and notebooks that were mangled on the way."""

import json
import random

from nbformat.v4 import new_code_cell, new_markdown_cell

from grading import master
from tools.build import dumps

from . import (
    COURSE,
    FIRST,
    FULL,
    NONE,
    Case,
    at,
    content,
    honest,
    index,
    raw,
    review,
    solved,
    untouched,
)


def cases():
    yield from broken()
    yield from mangled()
    yield from written()


def broken():
    good = content(solved())
    deep = b'{"cells": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    files = {
        "empty file": (b"", "empty"),
        "blank file": (b"  \n\n", "empty"),
        "half a file": (good[: len(good) // 2], "no notebook"),
        "a web page": (b"<!DOCTYPE html><title>Log in</title>", "no notebook"),
        "an image": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "UTF-8"),
        "a list": (b"[1, 2]", "no notebook"),
        "a number": (b"17", "no notebook"),
        "no cells": (b'{"nbformat": 4, "metadata": {}}', "no notebook"),
        "cells that are text": (b'{"cells": "all", "nbformat": 4}', "no notebook"),
        "format 3": (b'{"worksheets": [], "nbformat": 3}', "2013"),
        "format 5": (good.replace(b'"nbformat": 4', b'"nbformat": 5'), "format 5"),
        "nested too deep": (deep, "deep"),
        "millions of lists": (b'{"cells": [' + b"[]," * 2_100_000 + b"0]}", "lists"),
        "Latin-1": ('{"cells": ["é"]}'.encode("latin-1"), "UTF-8"),
        "conflict markers": (b"<<<<<<< mine\n" + good, "no notebook"),
        "a huge number": (b'{"cells": [' + b"9" * 10_000 + b"]}", "no notebook"),
        "another lesson": (
            dumps(master.lesson("02_backward_derivation").solved).encode(),
            "belongs",
        ),
        "nothing of the lesson": (b'{"cells": [], "nbformat": 4}', "belongs"),
        "too many cells": (
            json.dumps({"cells": [{}] * 3000, "nbformat": 4}).encode(),
            "3000 cells",
        ),
    }
    for name, (data, says) in files.items():
        yield review(f"file: {name}", data, says=says)
    yield honest("file: with a byte order mark", b"\xef\xbb\xbf" + good)
    text = good.decode()
    yield honest("file: UTF-16", text.encode("utf-16"))
    yield honest("file: Windows line ends", text.replace("\n", "\r\n").encode())
    yield honest("file: no version", text.replace('"nbformat"', '"x"').encode())


def changed(change):
    """A solved notebook, changed as plain JSON."""
    data = raw(solved())
    data = change(data) or data
    return json.dumps(data).encode()


def strip_ids(data):
    for cell in data["cells"]:
        cell.pop("id")


def strip_metadata(data):
    for cell in data["cells"]:
        cell["metadata"] = {}
    data["metadata"] = {}


def strip_all(data):
    strip_ids(data)
    strip_metadata(data)


def shuffle(data):
    random.Random(0).shuffle(data["cells"])


def only_answers(data):
    kinds = COURSE.kinds
    data["cells"] = [c for c in data["cells"] if kinds[c["id"]] == "exercise"]


def without_setup(data):
    data["cells"] = [c for c in data["cells"] if c["id"] != "setup"]


def copied(data):
    data["cells"] += [dict(c, id=f"copy-{c['id']}") for c in data["cells"]]


def same_ids(data):
    for cell in data["cells"]:
        if cell["cell_type"] == "markdown":
            cell["id"] = "same"


def all_raw(data):
    for cell in data["cells"]:
        if COURSE.kinds[cell["id"]] == "exercise":
            cell["cell_type"] = "raw"


def odd_cells(data):
    data["cells"] += [None, 7, {"cell_type": "code", "source": 3}, {"source": "x"}]
    data["cells"] += [{"cell_type": "code", "source": "x = '\ud800'", "id": 5}]
    data["cells"] += [{"cell_type": "code", "source": "null = '\0'", "metadata": 1}]


def forged(data):
    for cell in data["cells"]:
        cell["metadata"]["nbgrader"] = {"points": 1000, "grade": True, "grade_id": 5}
        cell["metadata"]["tags"] = ["skip-execution", "raises-exception"]


def foreign_kernel(data):
    data["metadata"]["kernelspec"] = {"name": "julia", "language": "julia"}
    data["metadata"]["language_info"] = {"name": "R"}


def checks_deleted(data):
    data["cells"] = [c for c in data["cells"] if not c["id"].startswith("check-")]


def checks_edited(data):
    for cell in data["cells"]:
        if cell["id"].startswith("check-"):
            cell["source"] = "assert False\n99"


def big_outputs(data):
    text = "x" * 5_000_000
    output = {"output_type": "stream", "name": "stdout", "text": text}
    next(c for c in data["cells"] if c["id"] == "setup")["outputs"] = [output]


def joined_lines(data):
    for cell in data["cells"]:
        cell["source"] = "".join(cell["source"])


def one_cell(data):
    only_answers(data)
    sources = ["".join(cell["source"]) for cell in data["cells"]]
    data["cells"] = [{"cell_type": "code", "source": "\n\n".join(sources)}]


MANGLED = (
    strip_ids,
    strip_metadata,
    strip_all,
    shuffle,
    only_answers,
    without_setup,
    copied,
    same_ids,
    all_raw,
    odd_cells,
    forged,
    foreign_kernel,
    checks_deleted,
    checks_edited,
    big_outputs,
    joined_lines,
    one_cell,
)


def mangled():
    for change in MANGLED:
        yield honest(f"mangled: {change.__name__}", changed(change))
    yield honest("mangled: answer below the stub", _below_the_stub())
    yield honest("mangled: first try kept, then right", _two_tries(last_is_right=True))
    yield honest("mangled: answer in the check's cell", _in_the_check())
    data = _two_tries(last_is_right=False)
    yield Case("mangled: right, then wrong", data, FULL | {FIRST: 0.0})
    data = json.loads(content(untouched()))
    strip_all(data)
    yield Case("mangled: untouched and stripped", json.dumps(data).encode(), NONE)


def _below_the_stub():
    nb, stub = solved(), at(untouched(), FIRST).source
    answer = at(nb, FIRST)
    nb.cells.insert(index(nb, FIRST) + 1, new_code_cell(answer.source))
    answer.source = stub
    return nb


def _two_tries(last_is_right):
    data = raw(solved())
    place = index(solved(), FIRST)
    good = data["cells"][place]
    bad = dict(good, source="def batchnorm_forward(*args):\n    return None")
    pair = [bad, dict(good, id="pasted")] if last_is_right else [good, bad]
    data["cells"][place : place + 1] = pair
    return json.dumps(data).encode()


def _in_the_check():
    nb = solved()
    check = at(nb, COURSE.exercises[FIRST].graded)
    check.source = at(nb, FIRST).source + "\n\n" + check.source
    at(nb, FIRST).source = at(untouched(), FIRST).source
    return nb


def written():
    """Written answers, wherever a student may put them."""
    name, task = next(iter(COURSE.questions.items()))
    above = f"question-{name}"
    nb = solved()
    at(nb, task.cell).source = at(untouched(), task.cell).source
    at(nb, above).source += "\n\nTyped into the question."
    yield honest("written: into the question's cell", nb, "Typed into the question.")
    nb = solved()
    at(nb, task.cell).source = at(untouched(), task.cell).source
    nb.cells.insert(index(nb, task.cell) + 1, new_markdown_cell("A cell of my own."))
    yield honest("written: in a cell below", nb, "A cell of my own.")
    nb = raw(solved())
    for cell in nb["cells"]:
        if cell["id"] == task.cell:
            cell["cell_type"] = "code"
    data = json.dumps(nb).encode()
    yield honest("written: in a cell of another type", data, f"My answer to {name}.")
    nb = solved()
    at(nb, task.cell).source = ""
    yield honest("written: deleted", nb)
