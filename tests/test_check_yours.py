"""Your code or the reference: full points decide, and a line says which."""

import pytest

import bn_checks as check
from bn_helpers import norms


def untouched(dy, x_hat):
    raise NotImplementedError


def right(dy, x_hat):
    return (dy * x_hat).sum(0), dy.sum(0)


def averaged(dy, x_hat):
    return (dy * x_hat).mean(0), dy.mean(0)


def half(dy, x_hat):
    return (dy * x_hat).sum(0), dy.mean(0)


def reference(dy, x_hat):
    return right(dy, x_hat)


def test_right_code_is_used(capsys):
    assert check.yours("param_gradients", right, reference) is right
    assert capsys.readouterr().out == "param_gradients: your code\n"


def test_untouched_code_is_replaced(capsys):
    assert check.yours("param_gradients", untouched, reference) is reference
    said = capsys.readouterr().out
    assert said == (
        "param_gradients: the reference, because the exercise is not attempted yet\n"
    )


@pytest.mark.parametrize(("wrong", "points"), [(averaged, "0"), (half, "1")])
def test_wrong_code_is_replaced_and_its_points_are_said(wrong, points, capsys):
    assert check.yours("param_gradients", wrong, reference) is reference
    assert f"your code earns {points} of 2 points" in capsys.readouterr().out


@pytest.mark.parametrize("odd", [None, 7, "text", print])
def test_whatever_was_defined_the_lesson_goes_on(odd):
    assert check.yours("batchnorm1d", odd, norms.BatchNorm1d) is norms.BatchNorm1d


def test_a_class_is_used_as_it_is(capsys):
    class Mine(norms.BatchNorm1d):
        pass

    assert check.yours("batchnorm1d", Mine, norms.BatchNorm1d) is Mine
    assert "your code" in capsys.readouterr().out


def test_an_unknown_exercise_is_refused():
    with pytest.raises(AttributeError, match="no exercise is called"):
        check.yours("batch_norm", right, reference)
