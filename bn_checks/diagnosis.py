"""What a wrong answer is: one diagnosis for all of it, or silence.

In turn: a result that carries no information; a misconception of the bank; the
likeliest edit of a right form; for each output its own, or a relation to the right one;
where it is wrong, if nothing says why. What is shown has been tried again on the inputs
of a second seed. The wrong implementation behind a sentence gives every output that the
answer gave, the right ones, too: what is said is true of the whole.
"""

import warnings
from dataclasses import replace
from itertools import islice

import numpy as np

from . import index
from .engine import Failed, NotAttempted
from .relations import (
    COUNT_OF_FAULTS,
    IN_SHAPE,
    NO_WHOLE,
    ONE_NUMBER,
    SYMPTOMS,
    degenerate,
    localized,
    near,
    relation,
)
from .score import FAILS, Diagnosis
from .words import be, comes_out, your

EXAMPLE = "That comes out, for example, when {}."
OTHER_SIGN = "has the other sign"
TRIED = 6  # edits that fit the index
SHAPES = "comes with", "holds", "is transposed", "is not yet", "is a whole matrix"
SIMPLE = OTHER_SIGN, "is twice what it ought to be", "is half of what it ought to be"
STATED = *SHAPES, "has the digits", "differs", "is a count"


def explained(trial, rows):
    """The rows; the first failing one carries the diagnosis, if there is one."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = _diagnosed(trial, rows)
        except Exception:  # rows reach the student, whatever came back
            found = None
    if found is None:
        return rows
    at = next(i for i, row in enumerate(rows) if row.state == FAILS)
    return [replace(r, mistake=found) if i == at else r for i, r in enumerate(rows)]


def _diagnosed(trial, rows):
    try:
        if trial.values_hold:
            return _of_a_row(trial, rows)
        return Answer(trial).diagnosis()
    except (Failed, NotAttempted):
        return None


def _of_a_row(trial, rows):
    """The mistake that fails the same rows with the same words."""
    failing = {row.title: row.detail for row in rows if row.state == FAILS}
    for mistake in trial.exercise.mistakes:
        if mistake.shows in failing:
            twin = trial.of(mistake.code)
            there = [trial.exercise._row(p, twin) for p in trial.exercise.properties]
            if failing == {r.title: r.detail for r in there if r.state == FAILS}:
                return Diagnosis(mistake.name, mistake.clause, mistake.section)
    return None


class Answer:
    """An answer with wrong values, on the trial's inputs and on the index's."""

    def __init__(self, trial):
        self.exercise, self.trial = trial.exercise, trial
        made, right = index.cases(self.exercise)
        self.cases = [*trial.cases, *made]
        self.want = [*trial.wanted, *right]
        again = index.results(self.exercise, trial.student)
        here = [trial.got(i).outputs for i in range(len(trial.cases))]
        self.got = [*here, *again]
        self.numbers = index.numbers(again)
        self.names = self.exercise.outputs
        count = range(len(self.names))
        self.there = [k for k in count if not self._failed(k)]
        self.wrong = [k for k in self.there if not trial.right(k)]
        self.others = [k for k in count if self._failed(k)]

    def _failed(self, k):
        return any(isinstance(outputs[k], Failed) for outputs in self.got)

    def fits(self, k, results):
        """Whether output k is that of the results, on every case."""
        pairs = zip(self.got, results, strict=True)
        return all(
            not isinstance(r[k], Failed) and near(g[k], r[k], self._rtol(g[k]))
            for g, r in pairs
        )

    def _rtol(self, got):
        exact = 1e-6 if got.dtype.itemsize >= 8 else 1e-4
        return max(exact, 3 * self.exercise.tolerance)

    def diagnosis(self):
        """The `Diagnosis`, or None."""
        if not self.wrong:
            return self._of_what_is_not_there()
        raised = [words for words in self._missing() if "raised " in words]
        if raised:
            says = f"{self._told(raised[0])} What else is wrong may follow from that."
            return Diagnosis(raised[0], says, "", False)
        if not self.others and not self._shapes():
            whole = self._whole()
            if whole is not None:
                return whole
        return self._in_parts()

    def _of_what_is_not_there(self):
        """What the rows say of outputs that did not come back, if it is one thing."""
        words = self._missing()
        if len(words) != 1 or not self.there:
            return None
        return Diagnosis(words[0], self._told(words[0]))

    def _missing(self):
        """Why outputs did not come back, each reason once."""
        missing = [outputs[k] for outputs in self.got for k in self.others]
        words = [str(each) for each in missing if isinstance(each, Failed)]
        return list(dict.fromkeys(words))

    def _told(self, words):
        first = words.split()[0]
        named = words.startswith(tuple(self.names)) or "_" in first
        return f"Your {words}." if named else f"{words[0].upper()}{words[1:]}."

    def _shapes(self):
        """Whether all that is wrong is where the right numbers stand."""
        return all((self._relation(k) or "").startswith(SHAPES) for k in self.wrong)

    def _relation(self, k):
        others = [
            (self.names[i], self.column(self.want, i))
            for i in range(len(self.names))
            if i != k
        ]
        got, want = self.column(self.got, k), self.column(self.want, k)
        if all(w.dtype.kind == "i" and not w.any() for w in want):  # a count of faults
            counts = dict.fromkeys(str(g) for g in got)
            return COUNT_OF_FAULTS.format(" or ".join(counts))
        facts = self.cases, self.exercise.inputs, self.exercise.driven
        if self._counts(k) and any(np.any(g % 1) for g in got):
            return NO_WHOLE
        return relation(got, want, others, *facts)

    def column(self, results, k):
        return [outputs[k] for outputs in results]

    def _whole(self):
        names = [self.names[k] for k in self.wrong]
        empty = self._empty()
        mistake = next((m for m in self.exercise.mistakes if self._gives(m.code)), None)
        if mistake is not None:
            says = _framed(names, mistake.clause)
            if empty:
                says = f"{empty} {EXAMPLE.format(mistake.clause)}"
            return Diagnosis(mistake.name, says, mistake.section)
        if empty and not all(map(self._is_symptom, self.wrong)):
            return Diagnosis(empty, empty)
        if all(self._relation(k) == OTHER_SIGN for k in self.wrong):
            says = f"{your(names)} {_plural(OTHER_SIGN, names)}."
            return Diagnosis(OTHER_SIGN, says)
        edit = self._edit()
        if edit is None:
            return Diagnosis(empty, empty, "", False) if empty else None
        told, first = edit.told(names), self._relation(self.wrong[0])
        if names[1:] and first in SIMPLE and f" {names[0]}" in f" {told}":
            rest = f"The rest that is wrong follows from your {names[0]}."
            return Diagnosis(edit.clause, f"Your {names[0]} {first}. {rest}")
        if empty:
            return Diagnosis(edit.clause, f"{empty} {EXAMPLE.format(told)}")
        example = edit.shared or all(map(self._counts, self.wrong))
        return Diagnosis(edit.clause, comes_out(names, told, example))

    def _empty(self):
        """What all wrong outputs are that carry no information; "" if one does."""
        words = {k: self._degenerate(k) for k in self.wrong}
        if not all(words.values()) or len(set(words.values())) > 1:
            return ""
        names = [self.names[k] for k in words]
        return f"{your(names)} {be(names)} {next(iter(words.values()))}."

    def _is_symptom(self, k):
        return f"is {self._degenerate(k)}".startswith(SYMPTOMS)

    def _degenerate(self, k):
        want = self.column(self.want, k)
        got = self.column(self.got, k)
        if any(np.isnan(w).any() or not np.any(w) for w in want):
            return ""
        words = degenerate(got, self.cases, self.exercise.inputs)
        if words == ONE_NUMBER:
            return self._one_number(got, want)
        same = words == f"{self.names[k]} as it came in"
        return "what it was when it came in" if same else words

    def _one_number(self, got, want):
        """What one number is that stands everywhere."""
        for name, how in (("sum", np.sum), ("mean", np.mean)):
            off = [
                np.abs(g.flat[0] - how(w)) / np.abs(w).max() / self._rtol(g)
                for g, w in zip(got, want, strict=True)
            ]
            if max(off) <= 1:
                return f"the {name} of the right numbers, everywhere"
        return ONE_NUMBER

    def _gives(self, code, outputs=None):
        """Whether a wrong implementation gives these outputs, on every case.

        What it gives for another output has to be the answer's, or right: a sentence
        about a part must not be false of the rest.
        """
        try:
            results = [self.exercise.outcome(code, args).outputs for args in self.cases]
        except NotAttempted:
            return False
        if not all(self.fits(k, results) for k in outputs or self.there):
            return False
        return outputs is None or all(
            self.fits(k, results) or (k in self.wrong and self._as_right(k, results))
            for k in self.there
        )

    def _as_right(self, k, results):
        return all(
            not isinstance(r[k], Failed) and near(r[k], w[k])
            for r, w in zip(results, self.want, strict=True)
        )

    def _edit(self, outputs=None):
        """The likeliest edit that gives these outputs, or all."""
        alike = index.like(self.exercise, self.numbers, outputs or self.there)
        for form, edit in islice(alike, TRIED):
            if self._gives(form.code(edit), outputs):
                return edit
        return None

    def _in_parts(self):
        """A sentence for each wrong output that has one."""
        said, open_ = {}, []
        empty = any(map(self._degenerate, self.wrong))
        for k in self.wrong:
            words = self._of(k, empty)
            said.setdefault(words, []).append(self.names[k])
            open_ += [] if words else [self.names[k]]
        relations = {self._relation(k) for k in self.wrong}
        if len(said) > 1 and len(relations) == 1 and any(relations):
            said = {("", relations.pop()): [self.names[k] for k in self.wrong]}
            open_ = []  # one cause, told once
        said.pop("", None)
        if not said:
            return self._localized()
        sentences = [self._sentence(names, *words) for words, names in said.items()]
        if open_:
            sentences.append(f"{your(open_)} {be(open_)} wrong as well.")
        name = "; ".join(" ".join(w) for w in said)
        symptoms = [w for kind, w in said if not kind and w.startswith(SYMPTOMS)]
        whole = not (open_ or self.others or symptoms)
        return Diagnosis(name, " ".join(sentences), "", whole)

    def _sentence(self, names, kind, words):
        if kind:
            return comes_out(names, words, kind == "example")
        return f"{your(names)} {_plural(words, names)}."

    def _of(self, k, empty):
        """("when", clause) or ("", relation) for one output; "" for nothing.

        Where another output is empty of content, a cause of this one is no cause of
        the whole: only relations are told.
        """
        if words := self._degenerate(k):
            return "", f"is {words}"
        found = self._relation(k)
        if found and found.startswith(STATED):
            return "", found
        for mistake in () if empty else self.exercise.mistakes:
            if mistake.shows is None and self._gives(mistake.code, [k]):
                return "when", mistake.clause
        if not empty and not self._counts(k) and (edit := self._edit([k])):
            return "example" if edit.shared else "when", edit.told([self.names[k]])
        found = found or self._shape(k)
        return ("", found) if found else ""

    def _counts(self, k):
        """Whether output k is made of whole numbers, which agree by accident."""
        return all(w.dtype.kind in "iu" for w in self.column(self.want, k))

    def _shape(self, k):
        """What is to be said of an output whose shape is wrong; "" if it is not."""
        for got, want in zip(self.got, self.want, strict=True):
            if got[k].shape != want[k].shape:
                return IN_SHAPE.format(got[k].shape, want[k].shape)
        return ""

    def _localized(self):
        """Where the outputs are wrong, of those of which that can be said."""
        where = {}
        for k in self.wrong:
            words = localized(self.column(self.got, k), self.column(self.want, k))
            where.setdefault(words, []).append(self.names[k])
        open_ = where.pop("", [])
        if not where:
            return None
        sentences = [self._sentence(names, "", w) for w, names in where.items()]
        sentences += [f"{your(open_)} {be(open_)} wrong as well."] if open_ else []
        return Diagnosis("; ".join(where), " ".join(sentences), "", False)


def _framed(names, clause):
    return clause if clause[-1] == "." else comes_out(names, clause)


def _plural(words, names):
    """What is said of one output, said of several."""
    if be(names) == "is":
        return words
    for one, many in PLURALS:
        words = words.replace(one, many)
    for one, many in VERBS:
        if words.startswith(one):
            return many + words.removeprefix(one)
    return words


VERBS = (
    ("is ", "are "),
    ("comes ", "come "),
    ("has ", "have "),
    ("holds ", "hold "),
    ("differs ", "differ "),
)
PLURALS = (
    (" it ought", " they ought"),
    (" it was when it came in", " they were when they came in"),
    (" its samples it is ", " their samples they are "),
    (" its mean over the samples is ", " their means over the samples are "),
    (" its signs", " their signs"),
    (" its diagonal is ", " their diagonals are "),
    (" added to it", " added to them"),
    (" from it", " from them"),
)
