"""Lesson 10's verdicts under other choices than the lesson's own."""

from functools import cache

import pytest

from bn_experiments import transformer
from bn_experiments.transformer import Model
from bn_helpers import data

pytestmark = pytest.mark.long
RATES = 1e-3, 3e-3, 1e-2
OTHERS = {"other seeds": {"seeds": (3, 4, 5)}, "more steps": {"steps": 150}}


@cache
def strips():
    return transformer.strips(data.small_mnist(8000))


def accuracies(model, other, rates=RATES, **how):
    return transformer.fit(model, strips(), rates, **how | other).accuracy.mean(1)


@pytest.fixture(params=OTHERS.values(), ids=OTHERS)
def other(request):
    return request.param


def test_the_scale_of_the_start_decides_whether_no_norm_trains(other):
    pre, none, half = (
        accuracies(model, other).max()
        for model in (Model(6), Model(6, "none"), Model(6, "none", scale=0.5))
    )
    assert none < pre - 10
    assert half > pre - 5


def test_post_norm_takes_smaller_rates_than_pre_norm(other):
    pre, post = (accuracies(Model(6, place), other) for place in ("pre", "post"))
    assert post[-1] < 25 < pre[-1]
    assert post.argmax() <= pre.argmax()


def test_other_norms_are_level_with_layer_norm(other):
    best = {
        norm: accuracies(Model(4, norm=norm), {"steps": 150} | other).max()
        for norm in ("layer", "rms", "batch", "dyt")
    }
    for norm in ("rms", "batch", "dyt"):
        assert best[norm] > best["layer"] - 6


def test_qk_norm_widens_the_range_and_not_the_best(other):
    plain, qk = (
        accuracies(Model(3, qk_norm=on), other, (3e-3, 1e-2, 3e-2))
        for on in (False, True)
    )
    assert abs(plain.max() - qk.max()) < 5
    assert (qk - plain)[1:].mean() > 1


def test_sorted_lengths_with_padding_open_a_gap_that_a_mask_closes(other):
    columns = transformer.columns(data.small_mnist(8000), n_test=2000)
    alike = transformer.by_length(columns[1], 32, 60, seed=0)
    lost = {}
    for norm in ("batch", "masked batch"):
        model = Model(2, norm=norm)
        how = {"steps": 200, "batches": transformer.by_length} | other
        stack = transformer.fit(model, columns, (3e-3,), **how).stack
        seen, evaluated = (
            transformer.accuracy(stack, columns[1], training=mode, batches=alike)
            for mode in (True, False)
        )
        lost[norm] = (seen - evaluated).mean()
    assert lost["batch"] > lost["masked batch"] + 1.5
