"""The engine of the checks: a number, a table, and no crash whatever comes back."""

import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import bn_checks as check
from bn_checks import engine
from bn_checks.banks import lesson_01
from bn_checks.score import FAILS, HOLDS, NOT_ATTEMPTED

FORWARD = lesson_01.BATCHNORM_FORWARD


def stub(*args):
    raise NotImplementedError


def right(*args):
    return FORWARD.reference(*args)


def unbiased(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0, ddof=1)
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var


def eps_outside(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return gamma * (x - mu) / (np.sqrt(var) + eps) + beta, mu, var


def eps_stored(x, gamma, beta, eps=1e-5):
    y, mu, var = right(x, gamma, beta, eps)
    return y, mu, var + eps


def states(score):
    return {row.state for row in score.rows}


class Hostile:
    """Misbehaves wherever it is touched."""

    dtype = "float64"
    shape = (12, 5)

    def __getattr__(self, name):
        raise RuntimeError("looked into")

    def __eq__(self, other):
        raise RuntimeError("compared")

    def __repr__(self):
        raise RuntimeError("shown")

    def __array__(self, *args, **kwargs):
        raise RuntimeError("converted")


class AlwaysEqual(np.ndarray):
    """An array that claims to equal everything."""

    def __eq__(self, other):
        return np.ones(self.shape, bool)

    def __array_ufunc__(self, *args, **kwargs):
        return np.zeros(self.shape)


def recursion(*args):
    return recursion(*args)


def leaves(*args):
    raise SystemExit(0)


def generator(*args):
    yield from right(*args)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("asked what is wrong")


def raising(error):
    def student(*args):
        raise error

    return student


HOSTILE = {
    "not callable": 3,
    "none": lambda *a: None,
    "too few": lambda *a: (1.0,),
    "wrong arity": lambda x: x,
    "generator": generator,
    "recursion": recursion,
    "exit": leaves,
    "strings": lambda *a: ("a", "b", "c"),
    "ragged": lambda *a: ([[1], [1, 2]], 0, 0),
    "hostile object": lambda *a: (Hostile(),) * 3,
    "always equal": lambda x, *a: tuple(
        np.zeros(s).view(AlwaysEqual) for s in (x.shape, x.shape[1:], x.shape[1:])
    ),
    "nan": lambda x, *a: (x * np.nan, x[0] * np.nan, x[0] * np.nan),
    "complex": lambda x, *a: (x * 1j, x[0] * 1j, x[0] * 1j),
    "strange exception": raising(
        type("Odd", (Exception,), {"__str__": lambda s: ""})()
    ),
    "unspeakable exception": raising(Unspeakable()),
    "html exception": raising(ValueError("<script>alert(1)</script>")),
    "class": type("Student", (), {}),
}


@pytest.mark.parametrize("student", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_a_student_writes_breaks_a_check_or_earns_a_point(student):
    score = FORWARD.score(student, 3)
    assert score == 0
    assert FAILS in states(score)
    assert score.text and score._repr_html_()


def test_keyboard_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        FORWARD.score(raising(KeyboardInterrupt()), 3)


def test_an_untouched_stub_is_not_attempted():
    score = FORWARD.score(stub, 3)
    assert score == 0 and states(score) == {NOT_ATTEMPTED}


def test_a_stub_left_in_one_branch_still_counts_as_an_attempt():
    def student(x, gamma, beta, eps=1e-5):
        if len(x) < 2:
            raise NotImplementedError
        return right(x, gamma, beta, eps)

    score = FORWARD.score(student, 3)
    assert 0 < score < 3 and states(score) == {HOLDS, FAILS}


def test_score_is_a_number_to_nbgrader():
    score = FORWARD.score(right, 3)
    assert float(repr(score)) == 3.0 and repr(score) == str(score) == "3.0"
    assert repr(FORWARD.score(eps_outside, 3)).replace(".", "").isdigit()


def test_partial_credit_grows_with_what_is_right():
    values = [FORWARD.score(f, 3) for f in (unbiased, eps_outside)]
    assert 0 < values[0] < values[1] < 3


def test_form_costs_a_little_and_earns_nothing():
    def in_place(x, gamma, beta, eps=1e-5):
        result = right(x, gamma, beta, eps)
        x -= 1
        return result

    assert FORWARD.score(in_place, 3) == pytest.approx(0.9 * 3)
    assert FORWARD.score(lambda x, *a: (0 * x, 0 * x[0], 0 * x[0]), 3) == 0


def test_a_failure_says_got_want_and_where():
    score = FORWARD.score(unbiased, 3)
    text = score.text
    assert "y[0, 0]: got" in text and "want" in text
    assert "the count minus 1" in text
    assert all(len(row.lines) <= 6 for row in score.rows)


def test_a_repeated_failure_is_told_once():
    score = FORWARD.score(raising(ZeroDivisionError("division by zero")), 3)
    assert score.text.count("raised ZeroDivisionError: division by zero") == 1
    assert "not judged" in score.text


def test_an_unknown_mistake_is_not_guessed_at():
    def student(x, gamma, beta, eps=1e-5):
        y, mu, var = right(x, gamma, beta, eps)
        return y + 0.37, mu, var

    score = FORWARD.score(student, 3)
    assert score < 3 and score.mistakes == ()


def test_two_mistakes_in_two_outputs_are_both_named():
    def student(x, gamma, beta, eps=1e-5):
        y, mu, _ = eps_outside(x, gamma, beta, eps)
        return y, mu, eps_stored(x, gamma, beta, eps)[2]

    says = FORWARD.score(student, 3).diagnosis
    assert "eps is added to the root" in says
    assert "eps is added to the variance itself" in says


class Table(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.scopes = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.scopes += [v for k, v in attrs if k == "scope"]


def test_the_table_is_accessible_and_escapes_what_students_write():
    score = FORWARD.score(HOSTILE["html exception"], 3)
    html = score._repr_html_()
    table = Table()
    table.feed(html)
    assert "script" not in table.tags and "&lt;script&gt;" in html
    assert table.tags.count("caption") == 1
    assert table.scopes.count("row") == len(score.rows)
    assert table.scopes.count("col") == 3


def test_inputs_change_with_the_seed(monkeypatch):
    seen = []

    def student(x, gamma, beta, eps=1e-5):
        seen.append(x.copy())
        return right(x, gamma, beta, eps)

    monkeypatch.delenv(engine.SEED_VARIABLE, raising=False)
    FORWARD.score(student, 3)
    once, seen[:] = list(seen), []
    FORWARD.score(student, 3)
    assert all(np.array_equal(a, b) for a, b in zip(once, seen, strict=True))
    seen[:] = []
    monkeypatch.setenv(engine.SEED_VARIABLE, "7")
    FORWARD.score(student, 3)
    assert not np.array_equal(once[0], seen[0])


def test_hard_coded_outputs_fail_under_another_seed():
    answers = {}

    def recorder(*args):
        answers[args[0].tobytes()] = right(*args)
        return answers[args[0].tobytes()]

    FORWARD.score(recorder, 3, seed=0)

    def replay(*args):
        return answers.get(args[0].tobytes(), next(iter(answers.values())))

    assert FORWARD.score(replay, 3, seed=1) == 0


def test_a_check_never_writes_to_stderr(capsys):
    def noisy(x, gamma, beta, eps=1e-5):
        print("to stderr", file=sys.stderr)
        return right(x, gamma, beta, eps)

    FORWARD.score(noisy, 3)
    assert capsys.readouterr().err == ""


def test_an_answer_that_comes_only_sometimes_breaks_nothing():
    def student(x, gamma, beta, running_mean, running_var, eps=1e-5):
        running_mean += 1
        return None if len(x) == 1 else x

    score = lesson_01.BATCHNORM_INFERENCE.score(student, 2)
    assert score == 0 and FAILS in states(score)


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(AttributeError, match="batchnorm_forward"):
        _ = check.batch_norm_forwards
    assert "merge_statistics" in dir(check)


def test_importing_the_package_and_a_check_loads_no_torch():
    code = (
        "import sys, bn_checks as check; from bn_helpers import norms;"
        "check.batchnorm_forward(norms.batchnorm_forward);"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
