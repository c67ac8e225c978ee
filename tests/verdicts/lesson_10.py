"""Lesson 10's verdicts: its networks with other seeds, steps, starts and batches."""

from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

from bn_checks.forms import lesson_10 as forms
from bn_experiments import transformer
from bn_experiments.transformer import Model
from bn_helpers import data

from . import either, from_lesson, proof

RATES = (1e-3, 3e-3, 1e-2)
OTHER = (3, 4, 5)  # the lesson's own are 0, 1, 2


@cache
def tokens(kind):
    digits = data.small_mnist(8000)
    if kind == "strips":
        return transformer.strips(digits)
    return transformer.columns(digits, n_test=2000)


@cache
def trained(model, rates=RATES, seeds=(0, 1, 2), steps=100, **how):
    return transformer.fit(
        model, tokens("strips"), rates, seeds=seeds, steps=steps, **how
    )


def means(model, steps=100, rates=RATES, **how):
    """Accuracy (studies, rates), mean of three seeds: other seeds, and more steps."""
    studies = (OTHER, steps), ((0, 1, 2), steps * 3 // 2)
    return np.array(
        [trained(model, rates, s, n, **how).accuracy.mean(1) for s, n in studies]
    )


def lead(ours, others):
    """Points, best rate against best rate, per study."""
    return ours.max(1) - others.max(1)


# batch norm


@cache
def gaps(norm, batches, seeds, steps):
    """Points that evaluation mode costs, on test batches filled as in training."""
    digits = tokens("columns")
    model = Model(2, norm=norm)
    how = {"batches": transformer.by_length} if batches == "by length" else {}
    stack = transformer.fit(model, digits, (3e-3,), seeds, steps, **how).stack
    alike = transformer.by_length(digits[1], 32, 60, seed=0)
    tested = alike if how else torch.arange(1920).split(32)
    seen, evaluated = (
        transformer.accuracy(stack, digits[1], training=mode, batches=tested)
        for mode in (True, False)
    )
    return (seen - evaluated).mean()


def batch_against_layer(blocks, *how, **more):
    """Points that batch norm is ahead of layer norm, per study, at one length."""
    batch, layer = (
        means(Model(blocks, norm=norm), *how, **more) for norm in ("batch", "layer")
    )
    return lead(batch, layer)


@proof("10a", "seeds", "steps", "batch size", "how batches are filled", "mask")
def batch_norm_fails(row):
    level = min(batch_against_layer(4, 150, RATES[1:])) > -3
    few = max(batch_against_layer(2, 400, batch=2)) < -5
    studies = (OTHER, 200), ((0, 1, 2), 300)
    sorted_, masked, mixed = (
        [gaps(norm, batches, *study) for study in studies]
        for norm, batches in (
            ("batch", "by length"),
            ("masked batch", "by length"),
            ("batch", "mixed"),
        )
    )
    row.says(
        f"{either(level, 'fails', 'holds')} at one length: with 32 samples batch norm "
        f"is {either(level, 'not behind', 'behind')}"
    )
    row.says(
        "the batch: with 2 samples, 2 blocks and 400 steps it is "
        f"{either(few, 'over 5 points behind', 'not over 5 points behind')}",
        "sorted lengths, padding counted: evaluation mode costs over "
        f"{either(min(sorted_) > 2, 2, 0)} points",
        f"with mixed batches or a mask {either(max(masked + mixed) < 2, 'less', 'more')}",
    )


@proof("10b", "norm", "mode", "mask")
def batch_norm_leaks(row):
    torch.manual_seed(0)
    x, mask = torch.randn(8, 7, 6).double(), torch.ones(8, 7, dtype=torch.bool)
    mask[4:, 5:] = False
    later = x.clone()
    later[0, -1] += 10
    gamma, beta = np.ones(6), np.zeros(6)
    ways = {
        "batch": lambda x: F.batch_norm(x.mT, None, None, training=True).mT,
        "masked": lambda x: forms.masked_batchnorm(
            x.numpy(), mask.numpy(), gamma, beta
        )[0],
        "position": lambda x: F.batch_norm(
            x.flatten(1), None, None, training=True
        ).reshape(x.shape),
        "evaluation": lambda x: (
            F.batch_norm(x.mT, *map(torch.tensor, (beta, gamma))).mT
        ),
        "layer": lambda x: F.layer_norm(x, (6,)),
    }
    moved = {k: float(abs(f(later) - f(x))[0, :-1].max()) for k, f in ways.items()}
    leaks = moved["batch"] > 0.1
    row.says(
        f"{either(leaks, 'holds', 'fails')}, exact, in training mode",
        f"layer norm {either(moved['layer'] == 0, 'does not', 'does')}",
        f"a mask of the padding {either(moved['masked'] > 0.1, 'does not', 'does')} help",
        f"in evaluation mode earlier tokens {either(moved['evaluation'] == 0, 'stay', 'move')}",
        "statistics of each position by itself: they "
        f"{either(moved['position'] == 0, 'stay', 'move')} in training mode, too",
    )


# the place of the norm, and the start


@proof("10c", "seeds", "steps", "warm-up", "scale of the start")
def post_norm_takes_smaller_rates(row):
    pre, post = means(Model(6)), means(Model(6, "post"))
    warm = means(Model(6, "post"), warmup=40)
    small = lead(means(Model(6, "post", scale=0.25)), pre)
    holds = max(post[:, -1]) < 25 < min(pre[:, -1])
    row.says(
        f"{either(holds, 'holds', 'fails')}: at {RATES[-1]} post-norm stays below 25 %, "
        "pre-norm above"
    )
    row.says(
        f"the start: with quarter weights, post-norm is {either(min(small) > -6, 'within', 'more than')} "
        "6 points of pre-norm, best against best",
        "with a warm-up of 40 steps it is still over "
        f"{either((pre - warm)[:, 1:].min() > 5, 5, 0)} points behind, at {RATES[1]} and at {RATES[2]}",
    )


@proof("10d", "seeds", "steps", "scale of the start", "depth")
def no_norm_does_not_train(row):
    pre, none = means(Model(6)), means(Model(6, "none"))
    half = lead(means(Model(6, "none", scale=0.5)), pre)
    flat = lead(means(Model(2, "none")), means(Model(2)))
    row.says(
        f"{either(min(half) > -5, 'fails', 'holds')}: with half weights it is "
        f"{either(min(half) > -5, 'within 5 points of pre-norm or ahead', 'behind pre-norm')}"
    )
    row.says(
        f"the start: with Xavier's weights it is more than {either(max(lead(none, pre)) < -10, 10, 0)} "
        "points behind",
        f"depth: with 2 blocks, {either(min(flat) > -3, 'not behind', 'behind')} even so",
    )


def without_each_block(place, seeds, steps, rate):
    """Points that leaving out one block costs, (blocks,); rate None is the best one."""
    fit = trained(Model(6, place), RATES, seeds, steps)
    whole = fit.accuracy.mean(1)
    at = whole.argmax() if rate is None else RATES.index(rate)
    left = [
        transformer.accuracy(fit.stack, tokens("strips")[1], skip=[k]) for k in range(6)
    ]
    return whole[at] - np.reshape(left, (6, len(RATES), 3)).mean(2)[:, at]


@proof("10e", "seeds", "steps", "rate", "place")
def late_blocks_add_little(row):
    studies = [(OTHER, 100, None), ((0, 1, 2), 150, None), (OTHER, 100, RATES[1])]
    pre = np.array([without_each_block("pre", *study) for study in studies])
    post = np.array([without_each_block("post", *study) for study in studies])
    more = (pre[:, 0] - pre[:, 5]).min()
    row.says(
        f"{either(more > 15, 'holds', 'fails')} in pre-norm: the first block costs over "
        "15 points more than the last"
    )
    late = (np.sort(post)[:, :3] - np.sort(pre)[:, :3]).mean(1).min()
    row.says(
        f"the place: the cheapest three blocks cost post-norm "
        f"{either(late > 2, 'over 2 points more', 'no more')}"
    )


# other norms


@proof("10f", "seeds", "steps", "α at the start", "rate")
def a_tanh_replaces_a_norm(row):
    layer = means(Model(4), 150, RATES[1:])
    dyt = means(Model(4, norm="dyt"), 150, RATES[1:])
    large = means(Model(4, norm="dyt", alpha=2.0), 150, RATES[1:])
    level = max(abs(lead(dyt, layer))) < 6
    row.says(
        f"{either(level, 'holds', 'fails')}: within 6 points of layer norm, best against best"
    )
    row.says(
        f"α at the start: with 2 in place of 0.5, {either(max(abs(lead(large, layer))) < 6, 'still within 6', 'not within 6')}"
    )


@proof("10g", "seeds", "steps", "rate")
def rms_norm_trains_as_well(row):
    layer, rms = (means(Model(4, norm=n), 150, RATES[1:]) for n in ("layer", "rms"))
    row.says(
        f"{either(max(abs(lead(rms, layer))) < 6, 'holds', 'fails')}: within 6 points, "
        "best against best",
        f"the rate: at {RATES[-1]} it is "
        f"{either((rms - layer)[:, -1].min() > -3, 'not behind', 'behind')}",
    )


@proof("10h", "embedding", "biases", "writers")
def layer_norm_is_rms_norm(row):
    lesson = from_lesson("10", "rng = np.random", "def layer(h)", "def without_affine")
    centered, embedded = lesson.start_, lesson.embedded

    def off(h, **how):
        blocks = [lesson.without_affine(b, **how) for b in lesson.blocks]
        got = lesson.run(h, blocks, lesson.rms)
        return abs(got - lesson.want).max() / abs(lesson.want).max()

    exact = off(centered)
    others = (
        off(embedded),
        off(centered, center_bias=False),
        off(embedded, center=False),
    )
    row.says(
        f"{either(exact < 1e-12, 'fails, exact', 'holds')}: with weights centered, "
        f"outputs are {either(exact < 1e-12, 'equal', 'different')}",
        f"embedding, biases or writers not centered: off by over {either(min(others) > 0.01, 1, 0)} %",
    )


@proof("10i", "seeds", "steps", "rate")
def qk_norm_improves_accuracy(row):
    rates = (3e-3, 1e-2, 3e-2)
    plain, qk = (means(Model(3, qk_norm=on), rates=rates) for on in (False, True))
    best = max(abs(lead(qk, plain)))
    row.says(
        f"{either(best < 5, 'fails', 'holds')} best against best: within 5 points",
        f"the rate: at {rates[-1]} it is more than {either(min((qk - plain)[:, -1]) > 5, 5, 0)} points ahead",
    )


# 16 bits


@proof("10j", "dtype of the statistics", "format", "largest number")
def norms_are_safe_in_16_bits(row):
    lesson = from_lesson("10", "def rms_as_is")

    def lost(largest, dtype, stats=None):
        token = torch.ones(64, dtype=dtype)
        token[0] = largest
        return bool((lesson.rms_as_is(token.to(stats or dtype)) == 0).all())

    half, single, brain = torch.float16, torch.float32, torch.bfloat16
    cliff = not lost(255, half) and lost(256, half)
    row.says(
        f"{either(cliff, 'fails', 'holds')} with statistics in float16: one number of "
        f"256 {either(cliff, 'turns the token to zeros', 'is harmless')}"
    )
    row.says(
        f"255 {either(lost(255, half), 'does so, too', 'is harmless')}",
        f"statistics in float32, or bfloat16: {either(lost(256, half, single) or lost(256, brain), 'zeros', 'nothing is lost')}",
    )
