"""A check sees the same across the border as without one.

The sandbox is replaced by its runner in this process, so that known mistakes of all
lessons can be tried; what the real sandbox adds is in test_grading_sandbox.py.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import bn_checks as check
from bn_checks import engine
from grading import master, rebuild, remote
from grading.inside import wire

# the runner finds wire beside itself, as in the sandbox
sys.path.append(str(Path(wire.__file__).parent))
runner = importlib.import_module("runner")

LISTED = json.loads((Path(check.__file__).parent / "exercises.json").read_text("utf-8"))
PAIRS = sorted((facts["lesson"], name) for name, facts in LISTED.items())
TRIED = 4  # mistakes of an exercise; the lessons' own tests try all
each_exercise = pytest.mark.parametrize(("lesson", "name"), PAIRS)


class Loop:
    """A sandbox that is none: requests are answered here, yet through the wire."""

    def __init__(self, names, drivers=""):
        self.runner = object.__new__(runner.Runner)
        self.runner.names = names
        self.runner.drivers = drivers and importlib.import_module(drivers)

    def ask(self, what, seconds, **arguments):
        request = wire.unpack(wire.pack({"do": what, **arguments}, 10**8)[4:])
        operation = getattr(self.runner, request.pop("do"))
        try:
            reply = operation(**request)
        except BaseException as error:
            reply = runner._error(error)
        return wire.unpack(wire.pack(reply, 10**8)[4:])


def across(lesson, exercise, student):
    """An exercise and a student's object that lives on the other side."""
    path = rebuild.drivers(master.lesson(lesson))
    drivers = f"bn_checks.drivers.{path.stem}" if path else ""
    handle = remote.handle(Loop({"it": student}, drivers), "it", 60)
    return remote.through_the_border(exercise), handle


def rows(score):
    return [
        (r.title, r.state, r.detail, r.mistake and r.mistake.name) for r in score.rows
    ]


@each_exercise
def test_mistakes_are_judged_as_without_a_border(lesson, name):
    exercise = check.exercise(name)
    mistakes = [mistake.code for mistake in exercise.mistakes[:TRIED]]
    for student in (exercise.reference, *mistakes):
        there, handle = across(lesson, exercise, student)
        here = exercise.score(student, 3, 4)
        score = there.score(handle, 3, 4)
        assert float(score) == float(here), (student, score.text)
        assert rows(score) == rows(here)


@each_exercise
def test_a_stub_is_not_attempted(lesson, name):
    def stub(*args):
        raise NotImplementedError

    there, handle = across(lesson, check.exercise(name), stub)
    assert {row.state for row in there.score(handle, 3, 4).rows} == {"○"}


def test_changes_of_arguments_are_seen():
    def change(x):
        x += 1

    def reshape(x):
        x.shape = (4,)

    for function in (change, reshape):
        x = np.arange(4.0).reshape(2, 2)
        remote.handle(Loop({"f": function}), "f", 60)(x)
        assert x.shape == (2, 2) and not np.array_equal(x, np.arange(4.0).reshape(2, 2))


def test_errors_keep_name_and_message():
    class Own(NotImplementedError):
        pass

    def fail(error):
        def function():
            raise error

        return remote.handle(Loop({"f": function}), "f", 60)

    with pytest.raises(remote.RemoteError, match="no good") as caught:
        fail(ValueError("no good"))()
    assert type(caught.value).__name__ == "ValueError"
    for error in (NotImplementedError(), Own()):
        with pytest.raises(NotImplementedError):
            fail(error)()
    for error in (KeyboardInterrupt(), SystemExit(), BaseException("x")):
        with pytest.raises(remote.RemoteError):
            fail(error)()


class Mine(ValueError):
    def __init__(self, a, *, b):
        super().__init__(a)


class Named(Exception):
    """Named like the built-in, and no kind of it."""


Named.__name__ = "ValueError"


class Lies(Exception):
    __class__ = ValueError


ERRORS = [
    (ValueError("no"), True),
    (Mine("no", b=1), True),
    (type("Below", (Mine, KeyError), {})("no", b=2), True),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), True),
    (np.linalg.LinAlgError("no"), True),
    (np.exceptions.AxisError("no"), True),
    (Named("no"), False),
    (Lies("no"), False),
    (TypeError("ValueError"), False),
    (IndexError("raised ValueError: no"), False),
    (ExceptionGroup("no", [ValueError("no")]), False),
    (SystemExit("no"), False),
]


@pytest.mark.parametrize(("error", "counts"), ERRORS, ids=lambda x: type(x).__name__)
def test_a_kind_of_value_error_counts_on_both_sides(error, counts):
    def student(*args):
        raise error

    handle = remote.handle(Loop({"f": student}), "f", 60)
    for function in (student, handle):
        assert (engine.rejects(function, (1,), "x") == ()) == counts


def test_an_answer_that_is_too_large_to_cross_is_no_value_error(monkeypatch):
    monkeypatch.setattr(runner.wire, "BYTES", 10)
    handle = remote.handle(Loop({"f": np.ones}), "f", 60)
    assert "may cross" in engine.rejects(handle, (4,), "x")[0]


def test_what_cannot_be_called_keeps_its_type():
    stand_in = remote.handle(Loop({"f": 3.5}), "f", 60)
    assert type(stand_in).__name__ == "float" and not callable(stand_in)
    with pytest.raises(KeyError):
        remote.handle(Loop({}), "f", 60)


@pytest.mark.parametrize(
    "reply",
    [
        {"value": {"dtype": "|O8", "shape": [], "data": ""}, "changed": []},
        {"value": 1},
        {"changed": []},
        {"value": 1, "changed": [[5, 1]]},
        {"value": 1, "changed": [[0, {"pickle": ""}]]},
        {"value": 1, "changed": 7},
        {"error": "ValueError"},
        {"error": ["NotImplementedError", 3, {}]},
        {"error": ["ValueError", "no", True]},
        {},
    ],
    ids=str,
)
def test_a_forged_reply_is_trouble_and_no_score(reply):
    class Forger:
        def ask(self, what, seconds, **arguments):
            return reply if what == "call" else {"callable": True, "type": "f"}

    handle = remote.handle(Forger(), "f", 60)
    exercise = remote.through_the_border(check.exercise("batchnorm_forward"))
    with pytest.raises(remote.Trouble):
        exercise.score(handle, 3, 0)


def test_all_calls_of_a_check_share_their_time():
    handle = remote.handle(Loop({"f": lambda: 1}), "f", 0)
    with pytest.raises(remote.Trouble, match="did not finish"):
        handle()
