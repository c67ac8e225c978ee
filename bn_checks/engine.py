"""How a check runs: call the student's object, compare, name the mistake.

A check is arrays in, arrays out. It hands copies of its inputs to the student's object,
turns what comes back into plain arrays, and never raises, whatever the student wrote;
only KeyboardInterrupt passes through.
"""

import contextlib
import io
import os
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .score import FAILS, HOLDS, NOT_ATTEMPTED, Row, Score

SEED_VARIABLE = "BN_HELPERS_CHECK_SEED"  # the grader sets it, so inputs are new


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation that people really write.

    Attributes:
        name: short and stable, such as "eps outside the root".
        says: one sentence to the student; explains, and does not give the solution.
        section: what to reread.
        source: where this mistake was seen: a repository's thread, a known codebase, or
            one of the five source documents that the README names.
        code: the wrong implementation, with the exercise's signature.
        shows: title of the one property that reveals a mistake whose outputs are right
            (it modifies an input, say); None when the outputs themselves are wrong.
    """

    name: str
    says: str
    section: str
    source: str
    code: Callable
    shows: str | None = None


@dataclass(frozen=True)
class Property:
    """One row: a title, what it is worth, and a test.

    Attributes:
        title: the property in the student's words.
        test: called with a `Trial`; returns lines that say what is wrong, or nothing.
        weight: share of the points; 0 for a matter of form, see `Exercise`.
        output: index of the output the row is about, to match mistakes; None if none.
    """

    title: str
    test: Callable
    weight: float = 1.0
    output: int | None = None


class NotAttempted(Exception):
    """The exercise still holds its stub."""


class Failed(Exception):
    """The student's object could not be used; the text says why."""


def call(function, *args):
    """Call student code on copies of args; return its outputs and the copies.

    Raises:
        NotAttempted: it raised NotImplementedError.
        Failed: it raised anything else but KeyboardInterrupt.
    """
    args = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return function(*args), args
    except NotImplementedError:
        raise NotAttempted from None
    except (Exception, SystemExit) as error:
        raise Failed(f"raised {type(error).__name__}: {_one_line(error)}") from None


def as_arrays(result, names):
    """The named outputs as a tuple of plain arrays; extra ones are ignored."""
    if result is None:
        raise Failed("returned None; is the return statement missing?")
    if len(names) == 1 and not isinstance(result, (tuple, list)):
        result = (result,)
    if not isinstance(result, (tuple, list)) or len(result) < len(names):
        count = len(result) if isinstance(result, (tuple, list)) else 1
        raise Failed(
            f"returned {count} value(s), want {len(names)}: {', '.join(names)}"
        )
    return tuple(
        _as_array(value, name) for value, name in zip(result, names, strict=False)
    )


def _as_array(value, name):
    with contextlib.suppress(Exception):  # a torch tensor is welcome too
        value = value.detach().cpu().numpy()
    try:
        array = np.array(value, subok=False)
    except Exception as error:
        raise Failed(f"{name} is no array: {_one_line(error)}") from None
    if array.dtype.kind not in "fiu":
        raise Failed(f"{name} is a {type(value).__name__}, want an array of numbers")
    return array


def difference(name, got, want):
    """Lines that say where got first differs from want; none when it does not."""
    rtol, atol = (1e-7, 1e-9) if got.dtype.itemsize >= 8 else (1e-4, 1e-5)
    if got.shape != want.shape:
        return (f"{name} has shape {got.shape}, want {want.shape}",)
    wrong = ~np.isclose(got, want, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return ()
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    place = f"{name}[{', '.join(map(str, where))}]" if where else name
    right = wrong.size - int(wrong.sum())
    pair = got[where], want[where]
    digits = 6 if len({f"{value:.6g}" for value in pair}) == 2 else 9
    got, want = (f"{value:.{digits}g}" for value in pair)
    return (
        f"{place}: got {got}, want {want}",
        f"{right} of {wrong.size} values of {name} are right",
    )


def untouched(before, after, names):
    """Lines that name the inputs that a call has modified."""
    changed = [
        name
        for name, a, b in zip(names, before, after, strict=False)
        if isinstance(a, np.ndarray) and not np.array_equal(a, b, equal_nan=True)
    ]
    return tuple(f"{name} was modified; work on a copy" for name in changed)


def rejects(function, args, what):
    """Lines that say a ValueError was missing for bad input."""
    try:
        call(function, *args)
    except NotAttempted:
        return (f"{what}: raised NotImplementedError, want a ValueError",)
    except Failed as failure:
        if str(failure).startswith("raised ValueError"):
            return ()
        return (f"{what}: {failure}, want a ValueError",)
    return (f"{what}: no error, want a ValueError",)


class Trial:
    """A student's object, the inputs it is tried on, and what came back."""

    def __init__(self, exercise, student, rng):
        self.exercise, self.student, self.rng = exercise, student, rng
        self.cases = exercise.cases(rng)
        self.wanted = [exercise.run(exercise.reference, args)[0] for args in self.cases]
        self._got, self._wrong = {}, {}

    @property
    def attempted(self):
        """Whether the first call got past the stub."""
        try:
            self.got(0)
        except NotAttempted:
            return False
        except Failed:
            pass
        return True

    def got(self, index):
        """Outputs and arguments after the call, for one case; computed once."""
        if index not in self._got:
            self._got[index] = self.exercise.run(self.student, self.cases[index])
        return self._got[index]

    def run(self, args):
        """The student's and the right outputs for args, alike in shape.

        Raises:
            Failed: an output is missing or has another shape.
        """
        got, _ = self.exercise.run(self.student, args)
        want, _ = self.exercise.run(self.exercise.reference, args)
        for name, g, w in zip(self.exercise.outputs, got, want, strict=True):
            if g.shape != w.shape:
                raise Failed(f"{name} has shape {g.shape}, want {w.shape}")
        return got, want

    def outputs(self, k):
        """Output k of the student on every case."""
        return [self.got(i)[0][k] for i in range(len(self.cases))]

    def tells(self, k):
        """Whether output k is more than zeros, which a wrong answer has by accident."""
        return not all(_close(0 * want[k], want[k]) for want in self.wanted)

    @property
    def values_hold(self):
        """Whether all outputs are right on every case."""
        return all(
            _close(got, want[k])
            for k in range(len(self.exercise.outputs))
            for got, want in zip(self.outputs(k), self.wanted, strict=True)
        )

    def named(self, k):
        """The mistake behind a wrong output k; None rather than a guess."""
        matches = [m for m in self.exercise.mistakes if self._gives(m, k)]
        if len(matches) > 1:
            others = range(len(self.exercise.outputs))
            matches = [m for m in matches if all(self._gives(m, i) for i in others)]
        return matches[0] if len(matches) == 1 else None

    def _gives(self, mistake, k):
        """Whether a mistake's output k is the student's on every case."""
        wrong = None if mistake.shows else self._of_mistake(mistake)
        return wrong is not None and all(
            _close(g, w[k]) for g, w in zip(self.outputs(k), wrong, strict=True)
        )

    def _of_mistake(self, mistake):
        """Outputs of a mistake on every case, computed once; None where it fails."""
        if mistake.name not in self._wrong:
            try:
                wrong = [
                    self.exercise.run(mistake.code, args)[0] for args in self.cases
                ]
            except Failed:
                wrong = None
            self._wrong[mistake.name] = wrong
        return self._wrong[mistake.name]


def _close(got, want):
    return not difference("", got, want)


class Exercise:
    """Everything the check of one exercise knows.

    Args:
        name: the exercise's name.
        reference: right implementation with the student's signature.
        inputs: names of the arguments.
        outputs: names of the returned values.
        cases: function of a generator that returns argument tuples.
        extra: further `Property`s, after the values.
        mistakes: the bank.
        weights: share of each output, 1 by default.
        drive: called as drive(student, *args) where the student's object is not simply
            called: a class to build and step through, say.

    The rows are, in order: it runs and returns the right shapes, it leaves its inputs
    alone, each output's values, then `extra`. A row of weight 0 is about form: it earns
    nothing, and costs a tenth of the points when it fails.
    """

    def __init__(
        self,
        name,
        reference,
        inputs,
        outputs,
        cases,
        extra=(),
        mistakes=(),
        weights=None,
        drive=None,
    ):
        self.name, self.reference, self.cases = name, reference, cases
        self.inputs, self.outputs, self.mistakes = inputs, outputs, tuple(mistakes)
        self.drive = drive or (lambda student, *args: student(*args))
        weights = weights or [1.0] * len(outputs)
        values = [
            Property(f"values of {out}", _values_test(k), weight, k)
            for k, (out, weight) in enumerate(zip(outputs, weights, strict=True))
        ]
        self.properties = (
            Property(f"runs and returns {', '.join(outputs)}", _runs, 0),
            Property("leaves its inputs as they were", _leaves_inputs, 0),
            *values,
            *extra,
        )

    def run(self, function, args):
        result, after = call(partial(self.drive, function), *args)
        return as_arrays(result, self.outputs), after

    def score(self, student, points, seed=None):
        """Try student on fresh inputs; return a `Score` of at most `points`."""
        seed = int(os.environ.get(SEED_VARIABLE, 0)) if seed is None else seed
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        trial = Trial(self, student, rng)
        if trial.attempted:
            rows = list(_each_said_once(self._row(p, trial) for p in self.properties))
        else:
            rows = [Row(p.title, NOT_ATTEMPTED) for p in self.properties]
        return Score(self._earned(rows, trial) * points, self.name, points, rows)

    def _row(self, prop, trial):
        try:
            detail = tuple(prop.test(trial) or ())
        except NotAttempted:
            return Row(prop.title, FAILS, ("raised NotImplementedError",))
        except Failed as failure:
            return Row(prop.title, FAILS, (str(failure),))
        except Exception as error:  # whatever came back, a check does not crash
            return Row(prop.title, FAILS, (f"cannot be judged: {_one_line(error)}",))
        if not detail:
            return Row(prop.title, HOLDS)
        return Row(prop.title, FAILS, detail[:5], self._explain(prop, trial))

    def _explain(self, prop, trial):
        shown = [m for m in self.mistakes if m.shows == prop.title]
        try:
            if prop.output is not None:
                return trial.named(prop.output)
            return shown[0] if shown and trial.values_hold else None
        except Failed:  # on another case there is nothing to compare
            return None

    def _earned(self, rows, trial):
        """Share of the points: values earn it, form alone does not, bad form costs."""
        pairs = list(zip(self.properties, rows, strict=True))
        total = sum(p.weight for p, _ in pairs)
        earned = sum(p.weight for p, r in pairs if r.state == HOLDS)
        form = sum(p.weight == 0 and r.state != HOLDS for p, r in pairs)
        right = [p.output for p, r in pairs if r.state == HOLDS]
        any_value = any(k is not None and trial.tells(k) for k in right)
        return max(0.0, earned / total - 0.1 * form) if any_value else 0.0


def _runs(trial):
    if not callable(trial.student):
        return (f"got a {type(trial.student).__name__}, want a function",)
    for index, want in enumerate(trial.wanted):
        got, _ = trial.got(index)
        for name, g, w in zip(trial.exercise.outputs, got, want, strict=True):
            if g.shape != w.shape:
                return (f"{name} has shape {g.shape}, want {w.shape}",)
    return ()


def _leaves_inputs(trial):
    for index, args in enumerate(trial.cases):
        lines = untouched(args, trial.got(index)[1], trial.exercise.inputs)
        if lines:
            return lines
    return ()


def _values_test(output):
    def test(trial):
        name = trial.exercise.outputs[output]
        for index, want in enumerate(trial.wanted):
            lines = difference(name, trial.got(index)[0][output], want[output])
            if lines:
                return lines
        return ()

    return test


def _each_said_once(rows):
    """The rows, where what an earlier row has told is not told again."""
    told = set()
    for row in rows:
        if row.state == FAILS and row.detail in told:
            row = replace(row, detail=("as above",))
        row = replace(row, again=row.mistake is not None and row.mistake.name in told)
        told |= {row.detail, row.mistake and row.mistake.name}
        yield row


def _one_line(error):
    try:
        text = (str(error) or "no message").splitlines()[0]
    except Exception:  # a message can be student code, too
        text = "no message"
    return text if len(text) <= 120 else text[:117] + "..."
