"""Which edits of right forms give which results: made by `course.py build`, used here.

Trying an edit takes a millisecond or more, and a form has up to two thousand. So every
edit is run once, when the course is built, on the inputs of one seed. `edits.json`
keeps a number per output, and which edit gave them. A check runs the answer on the
same inputs and looks its numbers up; `diagnosis.py` then tries the edits that fit.
"""

import base64
import hashlib
import inspect
import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from . import edits, slips, words
from .engine import Failed, NotAttempted

PATH = Path(__file__).with_name("edits.json")
SEED = 20_150_211  # of the inputs on which edits and answers are compared
CLOSE = 2e-4  # relative: float32 answers are looked up, too
MOST = 1000  # edits of an exercise, the likeliest
SHARED = 256  # added to the form's number where another edit gives the same


@cache
def forms(exercise):
    """The forms of an exercise, ready to be edited."""
    letters = (*exercise.inputs, *exercise.outputs)
    return tuple(edits.Form(f, letters) for f in exercise.forms or [exercise.reference])


@cache
def cases(exercise):
    """The inputs of the index, and the right outputs for them."""
    made = exercise.cases(exercise.rng(SEED))
    return made, [exercise.run(exercise.reference, args)[0] for args in made]


def numbers(results):
    """A number per output, from the outputs of all cases; missing ones give nan."""
    return np.array([_projected(values) for values in zip(*results, strict=True)])


def _projected(values):
    total = 0.0
    for k, value in enumerate(values):
        if isinstance(value, Failed):
            return np.nan
        flat = np.nan_to_num(
            np.ravel(value).astype(float), nan=7.7, posinf=7.3, neginf=-7.1
        )
        at = np.arange(flat.size)
        total += (k + 1) * (flat @ np.cos(1.3 * at + 1))
        total += 0.01 * sum(np.shape(value))
    return total


def results(exercise, function):
    """Outputs of a function on the index's inputs; None where one is missing."""
    found = []
    for args in cases(exercise)[0]:
        try:
            outcome = exercise.outcome(function, args)
        except NotAttempted:
            return None
        found.append(outcome.outputs)
    return found


def made(exercise):
    """The index of one exercise, as JSON stores it."""
    right = numbers(cases(exercise)[1])
    rows, firsts = [], {_key(right): None}
    listed = [
        (edit.cost, f, n, edit)
        for f, form in enumerate(forms(exercise))
        for n, edit in enumerate(form.edits)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, f, n, edit in sorted(listed, key=lambda row: row[:3]):
            found = _numbers_of(exercise, forms(exercise)[f], edit)
            if found is None:
                continue
            first = firsts.setdefault(_key(found), [f, n, found, edit])
            if first and first[3] is edit:
                rows.append(first)
            elif first and _as_likely(edit, first[3]) and first[0] == f:
                first[0] = SHARED + f
            if len(rows) == MOST:
                break
    places = np.array([[f, n] for f, n, *_ in rows], "<u2")
    values = np.array([found for _, _, found, _ in rows], "<f4")
    return {
        "digest": digest(exercise),
        "edits": _packed(places.tobytes()),
        "values": _packed(_shortened(values)),
    }


def _as_likely(edit, first):
    """Whether an edit is said otherwise, of another place, and costs the same."""
    places, others = ({n for n, _ in e.places} for e in (edit, first))
    alike = abs(edit.cost - first.cost) < 1e-9
    return alike and edit.clause != first.clause and not places & others


def _shortened(values):
    """Three of the four bytes of each number: CLOSE asks for no more digits."""
    return values.view("u1").reshape(-1, 4)[:, 1:].tobytes()


def _lengthened(data):
    short = np.frombuffer(data, "u1").reshape(-1, 3)
    return np.insert(short, 0, 0, axis=1).view("<f4").astype(float).ravel()


def _numbers_of(exercise, form, edit):
    try:
        found = results(exercise, form.code(edit))
    except Exception:  # most edits make no sense
        return None
    if found is None:
        return None
    found = numbers(found)
    return (
        None
        if np.isnan(found).all() or np.abs(np.nan_to_num(found)).max() > 1e30
        else found
    )


def _key(values):
    return tuple(f"{value:.6g}" for value in np.ravel(values))


def _packed(data):
    return base64.b64encode(data).decode()


def digest(exercise):
    """Of all that the index of an exercise depends on."""
    parts = [
        inspect.getsource(edits),
        inspect.getsource(words),
        inspect.getsource(slips),
        str((SEED, MOST)),
    ]
    parts += [form.source for form in forms(exercise)]
    made, right = cases(exercise)
    parts += [str(np.round(numbers(right), 3)), str(len(made))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read(path):
    """The index as it is stored; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@cache
def _stored():
    return read(PATH)


@cache
def stored(exercise):
    """Places (form, edit) and numbers (edits, outputs) of an exercise.

    None where the index is older than the exercise: a check has to run all the same.
    """
    facts = _stored().get(exercise.name, {"edits": "", "values": ""})
    places = np.frombuffer(base64.b64decode(facts["edits"]), "<u2").reshape(-1, 2)
    values = _lengthened(base64.b64decode(facts["values"]))
    shape = len(places), len(exercise.outputs)
    if values.size != shape[0] * shape[1]:
        return places[:0], np.zeros((0, shape[1]))
    return places, values.reshape(shape)


def like(exercise, found, outputs):
    """Edits whose numbers of these outputs are the found ones, the likeliest first."""
    places, values = stored(exercise)
    right = numbers(cases(exercise)[1])
    scale = np.abs(values) + np.abs(right) + 1e-6
    near = np.abs(values - found) <= CLOSE * scale
    hits = np.flatnonzero(near[:, outputs].all(axis=1))
    for hit in hits:
        (shared, f), number = divmod(places[hit][0], SHARED), places[hit][1]
        if f < len(forms(exercise)) and number < len(forms(exercise)[f].edits):
            form = forms(exercise)[f]
            yield form, replace(form.edits[number], shared=bool(shared))


def text(exercises, old=None):
    """The file: one line per exercise; entries of `old` that are fresh are kept."""
    old, lines = old or {}, []
    for exercise in sorted(exercises, key=lambda e: e.name):
        entry = old.get(exercise.name)
        if not entry or entry["digest"] != digest(exercise):
            entry = made(exercise)
        lines.append(f' "{exercise.name}": {json.dumps(entry)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"
