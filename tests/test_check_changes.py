"""Mistakes that are written as changes of a right form's text."""

import numpy as np
import pytest

import bn_checks as check
from bn_checks.changes import Changed, changed
from bn_checks.forms import lesson_01 as forms

TWO = """
    no root: the root is left out, and a clause may be so long that it goes on
    below
        np.sqrt(var + eps)
            -> (var
            + eps)
        seen in owner/repository #1
    swapped: the results: out of order
        y, mu -> mu, y
        var.squeeze() -> var
    """


def test_a_text_gives_names_clauses_changes_and_sources():
    root, swapped = changed(forms.batchnorm_forward, "section 2", TWO, "a trial")
    assert (root.name, swapped.name) == ("no root", "swapped")
    assert root.clause.endswith("it goes on below")
    assert swapped.clause == "the results: out of order"
    assert root.code.changes == [["np.sqrt(var + eps)", "(var + eps)"]]
    assert len(swapped.code.changes) == 2
    assert (root.source, swapped.source) == ("owner/repository #1", "a trial")
    assert {root.section, swapped.section} == {"section 2"}


def test_a_changed_form_differs_where_it_says():
    root, _ = changed(forms.batchnorm_forward, "section 2", TWO)
    x = np.random.default_rng(0).normal(1, 2, (9, 3))
    (y, mu, var), (want, *others) = (
        f(x, np.ones(3), np.zeros(3)) for f in (root.code, forms.batchnorm_forward)
    )
    assert np.allclose(y * np.sqrt(var + 1e-5), want) and not np.allclose(y, want)
    assert np.array_equal([mu, var], others)


@pytest.mark.parametrize(
    "text", ["a clause alone\n", "    x -> y\n", "name: clause\nwithout a change\n"]
)
def test_a_text_that_is_no_mistake_is_refused(text):
    with pytest.raises(ValueError, match="a mistake needs 'name: clause' and changes"):
        list(changed(forms.batchnorm_forward, "section 2", text))


def test_a_change_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="batchnorm_forward does not contain 'sigma'"):
        _ = Changed(forms.batchnorm_forward, [("sigma", "var")]).code


@pytest.mark.parametrize("name", sorted(check._exercises()))
def test_every_change_of_a_bank_can_be_made(name):
    codes = [m.code for m in check.exercise(name).mistakes]
    assert all(callable(code.code) for code in codes if isinstance(code, Changed))
