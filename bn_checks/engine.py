"""How a check runs: call the student's object, compare, say what holds.

A check is arrays in, arrays out. It hands copies of its inputs to the student's object,
turns what comes back into plain arrays, and never raises, whatever the student wrote;
only KeyboardInterrupt passes through. `diagnosis.py` says what a wrong answer is.
"""

import contextlib
import copy
import io
import linecache
import os
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .drivers import MISSING
from .score import FAILS, HOLDS, NOT_ATTEMPTED, NOT_JUDGED, Row, Score

SEED_VARIABLE = "BN_HELPERS_CHECK_SEED"  # the grader sets it, so inputs are new
FORM = 0.1  # share of the points that a row of weight 0 costs when it fails


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation that people really write.

    Attributes:
        name: short and stable, such as "eps outside the root".
        clause: ends the sentence "Your y is what comes out when ..."; explains, and
            does not give the solution. Where `shows` names a row, a whole sentence.
        section: what to reread.
        source: where this mistake was seen: a repository's thread, a known codebase, or
            one of the five source documents that the README names.
        code: the wrong implementation, with the exercise's signature.
        shows: title of the one property that reveals a mistake whose outputs are right
            (it modifies an input, say); None when the outputs themselves are wrong.
    """

    name: str
    clause: str
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
        output: index of the output the row is about; None if none.
    """

    title: str
    test: Callable
    weight: float = 1.0
    output: int | None = None


class NotAttempted(Exception):
    """The exercise still holds its stub."""


class Failed(Exception):
    """The student's object could not be used; the text says why."""


class NotJudged(Exception):
    """An earlier failure makes a row impossible; the text says which."""


@dataclass(frozen=True)
class Outcome:
    """What came back from one call.

    Attributes:
        outputs: for each output an array, or the `Failed` that says why there is none.
        after: the arguments after the call; None when it raised.
    """

    outputs: tuple
    after: list | None = None

    @property
    def arrays(self):
        """The outputs.

        Raises:
            Failed: there is none of one of them.
        """
        for output in self.outputs:
            if isinstance(output, Failed):
                raise Failed(str(output))
        return self.outputs


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
        raise Failed(said(error)) from error


def said(error):
    """What an exception says, and in which line of the student's it was raised."""
    if type(error).__name__ == "Unusable":  # of a driver, or of one in the sandbox
        return _one_line(error)
    text = f"raised {type(error).__name__}: {_one_line(error)}"
    line = _own_line(error)
    return f"{text} (in your line `{line}`)" if line else text


def _own_line(error):
    """The last line of the traceback that no file of the course or of a library has."""
    found, trace = "", error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "ipykernel" in name or name.startswith("<ipython"):
            found = linecache.getline(name, trace.tb_lineno).strip() or found
        trace = trace.tb_next
    return found if len(found) <= 80 else found[:77] + "..."


def as_arrays(result, names):
    """The named outputs, each an array or a `Failed`; extra ones are ignored."""
    if result is None:
        return _all(names, "returned None; is the return statement missing?")
    several = isinstance(result, (tuple, list))
    if len(names) == 1 and not (isinstance(result, tuple) and result):
        return (_as_array(result, names[0]),)
    count = len(result) if several else 1
    wanted = f"returned {count} value{'s' * (count != 1)}, want {len(names)}: "
    wanted += ", ".join(names)
    if not several or count < len(names):
        return _all(names, wanted)
    return tuple(map(_as_array, result[: len(names)], names))


def _all(names, why):
    return tuple(Failed(why) for _ in names)


def _as_array(value, name):
    if value is None:
        return Failed(f"{name} is None, want an array of numbers")
    if isinstance(value, str):  # a driver's word for an output that there is not
        return Failed(value.removeprefix(MISSING) if MISSING in value else _kind(value))
    with contextlib.suppress(Exception):  # a torch tensor is welcome too
        value = value.detach().cpu().numpy()
    try:
        array = np.array(value, subok=False)
    except Exception:
        return Failed(f"{name} is {_kind(value)}, want an array of numbers")
    if array.dtype.kind not in "fiu":
        return Failed(f"{name} is {_kind(value)}, want an array of numbers")
    return array


def _kind(value):
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if isinstance(value, (tuple, list)):
        name += f" of {len(value)} values"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def difference(name, got, want, tolerance=0.0):
    """Lines that say where got first differs from want; none when it does not."""
    rtol, atol = (1e-7, 1e-9) if got.dtype.itemsize >= 8 else (1e-4, 1e-5)
    rtol, atol = max(rtol, tolerance), max(atol, tolerance)
    if got.size == 0 < want.size:
        return (f"{name} came back empty",)
    if got.shape != want.shape:
        return (f"{name} has shape {got.shape}, want {want.shape}",)
    with np.errstate(all="ignore"):
        if (np.abs(got - want) < atol + rtol * np.abs(want)).all():
            return ()  # what most calls come to; inf and nan take the long way
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
    """Lines that say a ValueError, or a kind of it, was missing for bad input."""
    try:
        call(function, *args)
    except NotAttempted:
        return (f"{what}: raised NotImplementedError, want a ValueError",)
    except Failed as failure:
        if issubclass(type(failure.__cause__), ValueError):  # __class__ may lie
            return ()
        return (f"{what}: {failure}, want a ValueError",)
    return (f"{what}: no error, want a ValueError",)


class Trial:
    """A student's object, the inputs it is tried on, and what came back."""

    def __init__(self, exercise, student, seed):
        self.exercise, self.student, self.seed = exercise, student, seed
        self.cases = exercise.cases(exercise.rng(seed))
        self.wanted = [exercise.run(exercise.reference, args)[0] for args in self.cases]
        self._got, self._row, self._rng = {}, "", None

    def begin(self, row):
        """From here on, random numbers are those of the row of this title."""
        self._row, self._rng = row, None

    @property
    def rng(self):
        """The generator of the row that is tried; many need none."""
        if self._rng is None:
            self._rng = np.random.default_rng(
                [self.seed, zlib.crc32(self._row.encode())]
            )
        return self._rng

    def of(self, student):
        """The same trial of another object."""
        twin = copy.copy(self)
        twin.student, twin._got = student, {}
        return twin

    @property
    def attempted(self):
        """Whether the first call got past the stub."""
        try:
            self.got(0)
        except NotAttempted:
            return False
        return True

    def got(self, index):
        """The `Outcome` of one case; computed once."""
        if index not in self._got:
            self._got[index] = self.exercise.outcome(self.student, self.cases[index])
        return self._got[index]

    def outputs(self, k):
        """Output k of the student on every case: arrays, or `Failed`."""
        return [self.got(i).outputs[k] for i in range(len(self.cases))]

    def right(self, k):
        """Whether output k is right on every case."""
        pairs = zip(self.outputs(k), self.wanted, strict=True)
        tolerance = self.exercise.tolerance
        return all(close(got, want[k], tolerance) for got, want in pairs)

    def tells(self, k):
        """Whether output k is more than zeros, which a wrong answer has by accident."""
        return not all(close(0 * want[k], want[k]) for want in self.wanted)

    @property
    def values_hold(self):
        """Whether all outputs are right on every case."""
        return all(map(self.right, range(len(self.exercise.outputs))))

    def usable(self, k=None):
        """Make sure that output k, or each, came back in the right shape everywhere.

        Raises:
            NotJudged: it did not, which the rows above say.
        """
        for i in range(len(self.exercise.outputs)) if k is None else [k]:
            for got, want in zip(self.outputs(i), self.wanted, strict=True):
                if isinstance(got, Failed) or got.shape != want[i].shape:
                    raise NotJudged(self.exercise.outputs[i])

    def needs(self, *outputs):
        """Make sure that these outputs, or all, are right.

        Raises:
            NotJudged: one is not, which a row above says.
        """
        for k in outputs or range(len(self.exercise.outputs)):
            if not self.right(k):
                raise NotJudged(self.exercise.outputs[k])

    def run(self, args):
        """The student's and the right outputs for args, alike in shape.

        Raises:
            NotJudged: the answer failed on ordinary inputs already.
            Failed: an output is missing or has another shape, here alone.
        """
        self.usable()
        got, _ = self.exercise.run(self.student, args)
        want, _ = self.exercise.run(self.exercise.reference, args)
        for name, g, w in zip(self.exercise.outputs, got, want, strict=True):
            if g.shape != w.shape:
                raise Failed(f"{name} has shape {g.shape}, want {w.shape}")
        return got, want

    def differs(self, args, where):
        """Lines that say which output is wrong for args, and where; none if none is."""
        got, want = self.run(args)
        for name, g, w in zip(self.exercise.outputs, got, want, strict=True):
            if lines := difference(name, g, w):
                return (*lines, where)
        return ()

    def same(self, args, others, what):
        """Lines that say that the student's answers to args and to others differ."""
        self.usable()
        here, there = (self.exercise.run(self.student, a)[0] for a in (args, others))
        return () if all(map(close, here, there)) else (what,)


def close(got, want, tolerance=0.0):
    """Whether an output is the wanted one."""
    return not isinstance(got, Failed) and not difference("", got, want, tolerance)


class Exercise:
    """Everything the check of one exercise knows.

    Args:
        name: the exercise's name.
        reference: right implementation with the student's signature.
        inputs: names of the arguments.
        outputs: names of the returned values.
        cases: function of a generator that returns argument tuples.
        extra: further `Property`s, after the values.
        mistakes: the bank; `mistake` adds to it.
        weights: share of each output, 1 by default.
        drive: called as drive(student, *args) where the student's object is not simply
            called: a class to build and step through, say.
        forms: right implementations whose single edits explain wrong answers, the
            reference when left out; see `edits.py`.
        tolerance: relative and absolute, where several right ways differ by more than
            rounding.

    Where `given` names the code that is handed out to be mended, points are earned by
    what that code has wrong.

    The rows are, in order: it runs, it leaves its inputs alone, each output's values,
    then `extra`. A row of weight 0 is about form: it earns nothing, and costs a tenth
    of the points when it fails. A row that cannot be judged costs nothing.
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
        forms=(),
        tolerance=0.0,
    ):
        self.name, self.reference, self.cases = name, reference, cases
        self.inputs, self.outputs, self.mistakes = inputs, outputs, list(mistakes)
        self.drive = drive or (lambda student, *args: student(*args))
        self.forms, self.broken = tuple(forms) or (reference,), None
        self.tolerance = tolerance
        weights = weights or [1.0] * len(outputs)
        self.driven = drive is not None
        returns = "" if self.driven else f" and returns {', '.join(outputs)}"
        values = [
            Property(f"values of {out}", _values_test(k), weight, k)
            for k, (out, weight) in enumerate(zip(outputs, weights, strict=True))
        ]
        self.properties = (
            Property(f"runs{returns}", _runs, 0),
            Property("leaves its inputs as they were", _leaves_inputs, 0),
            *values,
            *extra,
        )

    def mistake(self, name, section, source, shows=None):
        """Decorator: the function or class is a wrong answer, its docstring the clause.

        See `Mistake` for the arguments.
        """

        def note(code):
            clause = " ".join(code.__doc__.split())
            self.mistakes.append(Mistake(name, clause, section, source, code, shows))
            return code

        return note

    def given(self, code):
        """Decorator: the code that the exercise hands out to be mended."""
        self.broken = code
        return code

    def outcome(self, function, args):
        """The `Outcome` of one call; raises NotAttempted alone."""
        try:
            result, after = call(partial(self.drive, function), *args)
        except Failed as failure:
            return Outcome(_all(self.outputs, str(failure)))
        return Outcome(as_arrays(result, self.outputs), after)

    def run(self, function, args):
        """All outputs as arrays, and the arguments after the call.

        Raises:
            Failed: there is none of one of them.
        """
        outcome = self.outcome(function, args)
        return outcome.arrays, outcome.after

    def rng(self, seed):
        """The generator that makes the inputs of a seed."""
        return np.random.default_rng([seed, zlib.crc32(self.name.encode())])

    def score(self, student, points, seed=None):
        """Try student on fresh inputs; return a `Score` of at most `points`."""
        seed = int(os.environ.get(SEED_VARIABLE, 0)) if seed is None else seed
        trial = Trial(self, student, seed)
        if not trial.attempted:
            rows = [Row(p.title, NOT_ATTEMPTED) for p in self.properties]
            return Score(0.0, self.name, points, rows)
        rows = [self._row(p, trial) for p in self.properties]
        share = self._share(rows, trial)
        if any(row.state == FAILS for row in rows):
            from .diagnosis import explained  # loaded by those who need it

            rows = explained(trial, rows)
        return Score(share * points, self.name, points, rows)

    def _row(self, prop, trial):
        trial.begin(prop.title)
        try:
            detail = tuple(prop.test(trial) or ())
        except NotJudged as cause:
            return Row(prop.title, NOT_JUDGED, (f"not judged, because of {cause}",))
        except NotAttempted:
            return Row(prop.title, FAILS, ("raised NotImplementedError",))
        except Failed as failure:
            return Row(prop.title, FAILS, (str(failure),))
        except Exception as error:  # whatever came back, a check does not crash
            return Row(prop.title, FAILS, (f"cannot be judged: {_one_line(error)}",))
        return Row(prop.title, FAILS if detail else HOLDS, detail[:5])

    def _share(self, rows, trial):
        """Share of the points; for code that was handed out broken, of its faults."""
        share = self._earned(rows, trial)
        if self.broken is None or share in (0, 1):
            return share
        given = trial.of(self.broken)
        start = self._earned([self._row(p, given) for p in self.properties], given)
        return max(0.0, (share - start) / (1 - start))

    def _earned(self, rows, trial):
        """Share of the points: values earn it, form alone does not, bad form costs."""
        pairs = list(zip(self.properties, rows, strict=True))
        judged = [p for p, r in pairs if p.output is not None or r.state != NOT_JUDGED]
        earned = sum(p.weight for p, r in pairs if r.state == HOLDS)
        form = sum(p.weight == 0 and r.state == FAILS for p, r in pairs)
        if any(p.output is not None and r.state == NOT_JUDGED for p, r in pairs):
            form -= rows[0].state == FAILS  # one cause costs once
        right = [p.output for p, r in pairs if r.state == HOLDS]
        if not any(k is not None and trial.tells(k) for k in right):
            return 0.0
        share = earned / sum(p.weight for p in judged) - FORM * form
        return min(1.0, max(0.0, share))


def _runs(trial):
    if not callable(trial.student):
        return (f"got {_kind(trial.student)}, want a function",)
    for index in range(len(trial.cases)):
        if words := _nothing(trial.got(index)):
            return (words,)
    return ()


def _nothing(outcome):
    """Why no output came back, if there is one reason for all of them; else ""."""
    words = {str(o) if isinstance(o, Failed) else "" for o in outcome.outputs}
    return words.pop() if len(words) == 1 else ""


def _leaves_inputs(trial):
    outcomes = list(map(trial.got, range(len(trial.cases))))
    pairs = [(a, o.after) for a, o in zip(trial.cases, outcomes, strict=True)]
    for before, after in pairs:
        if after is not None and (
            lines := untouched(before, after, trial.exercise.inputs)
        ):
            return lines
    if any(after is None for _, after in pairs):
        raise NotJudged("the error above")
    return ()


def _values_test(output):
    def test(trial):
        name = trial.exercise.outputs[output]
        for index, want in enumerate(trial.wanted):
            outcome = trial.got(index)
            if _nothing(outcome):
                raise NotJudged("the error above")
            got = outcome.outputs[output]
            if isinstance(got, Failed):
                return (str(got),)
            tolerance = trial.exercise.tolerance
            if lines := difference(name, got, want[output], tolerance):
                return lines
        return ()

    return test


def _one_line(error):
    try:
        text = (str(error) or "no message").splitlines()[0]
    except Exception:  # a message can be student code, too
        text = "no message"
    return text if len(text) <= 120 else text[:117] + "..."
