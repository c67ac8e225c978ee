"""Lesson 06's verdicts: its networks with other seeds, rates, floors and photo sizes."""

from functools import cache

import numpy as np

from bn_experiments import sweeps
from bn_helpers import network

from . import either, from_lesson, proof

SCALES, SIX = np.logspace(-4, 0, 20), [50] * 6
FIRST, OTHER = tuple(range(10)), tuple(range(10, 20))
FLOOR = 0.2


@cache
def lesson(side=16):
    """The lesson's photos at side x side pixels, and its train_stack on them."""
    course = network.FullyConnectedNet
    reference = {"Loss": course, "Net": course, "step": network.Adam}
    cells = "SIDE = 16", "DIM = x_train", "ARMS = {"
    found = from_lesson("06", *cells, SIDE=side, **reference)
    raw = found.raw
    mean = found.as_rows(raw.x_train[:1000]).mean(0)
    x_train, x_val = (found.as_rows(x) - mean for x in (raw.x_train[:1000], raw.x_val))
    photos = x_train, raw.y_train[:1000], x_val, raw.y_val
    found.train_stack.__globals__.update(photos=photos, DIM=x_train.shape[1])
    return found


@cache
def deep(arm, seeds=FIRST, lr=1e-3, side=16):
    """Four hidden layers: training accuracy at the end, best validation, (seeds,)."""
    _, history = lesson(side).train_stack(
        [100] * 4, arm, weight_scale=2e-2, seed=np.array(seeds), lr=lr
    )
    return history.train_accuracy[-1], history.val_accuracy.max(0)


def ahead(kind, **choice):
    """Share of seeds in which batch norm is ahead; kind 0: training, 1: validation."""
    return (deep("batch", **choice)[kind] > deep("plain", **choice)[kind]).mean()


@proof("6a", "seeds", "rate", "photo size")
def by_heart(row):
    shares = [ahead(0), ahead(0, seeds=OTHER), ahead(0, seeds=FIRST[:6], side=32)]
    row.says(
        f"{either(min(shares) == 1, 'holds', 'fails')} in every seed, at 16 × 16 and at 32 × 32"
    )
    fast = ahead(0, lr=3e-3)
    slow = ahead(0, lr=3e-4)
    row.says(
        f"{either(fast == slow == 1, 'not the rate', 'the rate')}: at 0.003 in "
        f"{either(fast == 1, 'every seed', 'some seeds')}, "
        f"at 0.0003 in {either(slow == 1, 'every seed', either(slow == 0, 'no seed', 'some seeds'))}"
    )


@proof("6b", "seeds", "rate", "photo size")
def on_new_photos(row):
    def gap(**choice):
        return deep("batch", **choice)[1].mean() - deep("plain", **choice)[1].mean()

    small = [gap(), gap(seeds=OTHER)]
    large = gap(seeds=FIRST[:6], side=32)
    row.says(
        f"{either(max(map(abs, small)) < 0.02, 'fails', 'holds')} at 16 × 16: best validation differs by "
        f"less than {np.ceil(100 * max(map(abs, small))):.0f} % of the photos in the mean",
        f"the photo size: at 32 × 32 batch norm is {either(large < 0, 'behind', 'ahead')} "
        f"by {abs(100 * large):.1f} %",
    )
    fast = [gap(lr=3e-3)]
    row.says(
        f"the rate: at 0.003 it is {either(min(fast) > 0, 'ahead', 'behind')} "
        f"by {abs(100 * fast[0]):.0f} %"
    )


@cache
def sweep(arm, seed=0, side=16):
    """The weight-scale sweep: best validation and training accuracy, (scales,)."""
    _, history = lesson(side).train_stack(SIX, arm, SCALES, seed=seed)
    return history.val_accuracy.max(0), history.train_accuracy.max(0)


def width(arm, kind=0, floor=FLOOR, **choice):
    return len(sweeps.usable_rates(SCALES, sweep(arm, **choice)[kind], floor))


@proof("6c", "seeds", "floor", "measure", "photo size")
def wider_range_of_scales(row):
    def extra(kind, floor, **choice):
        return width("batch", kind, floor, **choice) - width(
            "plain", kind, floor, **choice
        )

    found = [
        extra(kind, floor, **choice)
        for kind, floors in ((0, (0.15, 0.2, 0.25)), (1, (0.2, 0.4)))
        for floor in floors
        for choice in ({}, {"seed": 1}, {"seed": 2}, {"side": 32})
    ]
    row.says(
        f"{either(min(found) > 0, 'holds', 'fails')} at every floor tried, in training and "
        f"in validation: at least {min(found)} scales of 20 more"
    )
    row.says(
        f"the photo size: at 32 × 32 plain works at {width('plain', side=32)} scales in "
        f"validation, at 16 × 16 at {width('plain')}"
    )


@proof("6d", "seeds", "photo size")
def peaks(row):
    found = {side: [] for side in (16, 32)}
    for side, seeds in ((16, range(1, 11)), (32, range(1, 7))):
        for arm in ("batch", "plain"):
            best = SCALES[sweep(arm, side=side)[0].argmax()]
            _, history = lesson(side).train_stack(SIX, arm, best, seed=np.array(seeds))
            found[side].append(history.val_accuracy.max(0))
    gap, noise = (
        {side: f(*pair) for side, pair in found.items()}
        for f in (
            lambda b, p: b.mean() - p.mean(),
            lambda b, p: max(b.std(ddof=1), p.std(ddof=1)),
        )
    )
    tie = abs(gap[16]) < noise[16]
    row.says(
        f"{either(tie, 'fails', 'holds')}: drawn again with ten seeds, "
        f"{either(tie, 'the two differ by less than the spread of seeds', 'they differ')}",
        "the photo size: at 32 × 32 "
        + either(
            abs(gap[32]) < 2 * noise[32],
            "they do not differ by twice the spread",
            f"batch norm is {either(gap[32] > 0, 'ahead', 'behind')} by more than twice the spread",
        ),
    )


@cache
def by_batch(norm, seed, epochs):
    """Mean best training accuracy over five scales, batches of 5 minus batches of 50."""
    means = [
        lesson()
        .train_stack(SIX, norm, SCALES[3::4], seed=seed, epochs=e, batch_size=size)[1]
        .train_accuracy.max(0)
        .mean()
        for size, e in ((5, epochs[0]), (50, epochs[1]))
    ]
    return 100 * (means[0] - means[1])


@proof("6e", "seeds", "steps")
def small_batches(row):
    batch = [by_batch("batch", seed, (5, 5)) for seed in range(4)]
    layer = [by_batch("layer", seed, (5, 5)) for seed in range(4)]
    row.says(
        f"{either(max(batch) < 0, 'holds', 'fails')} in each of four seeds: batches of 5 instead of 50 "
        f"cost batch norm more than {-max(batch) // 1:.0f} points, layer norm "
        f"{either(min(layer) > -3, 'at most 3', 'more')}"
    )
    equal = [by_batch("batch", seed, (2, 20)) for seed in range(2)]
    layers = [by_batch("layer", seed, (2, 20)) for seed in range(2)]
    row.says(
        "the steps: at 400 steps each batches of 5 cost batch norm more than "
        f"{-max(equal) // 5 * 5:.0f} points and layer norm more than {-max(layers) // 5 * 5:.0f}"
    )


@proof("6f", "seeds", "rate", "norm")
def small_steps_at_the_right(row):
    large = SCALES[-3:]

    def gained(arm, seed):
        """Best training accuracy with rates in proportion, minus at the usual rate."""
        best = [
            lesson()
            .train_stack(SIX, arm, large, seed=seed, lr=lr)[1]
            .train_accuracy.max(0)
            for lr in (1e-3 * large / SCALES[13], 1e-3)
        ]
        return 100 * (best[0] - best[1])

    batch = np.array([gained("batch", seed) for seed in range(3)])
    plain = np.array([gained("plain", seed) for seed in range(3)])
    row.says(
        f"{either(batch.min() > 0, 'holds', 'fails')} for batch norm: rates in proportion to the "
        f"scale gain more than {batch.min() // 5 * 5:.0f} points at each of the last three scales",
        f"the norm: without it they help at scale 1 in {(plain[:, -1] > 0).sum()} of three "
        "seeds and hurt in the others",
    )


@proof("6g", "seeds", "depth", "step of the difference", "ε")
def two_samples(row):
    found, medians = from_lesson("06", "def measured_W1", "def ten_networks"), {}

    def middle(N, depth, h=1e-5, **eps):
        return np.median(found.errors(*found.ten_networks(N, depth, **eps), h))

    for seeds in (FIRST, OTHER):
        found.ten_networks.__globals__["SEEDS"] = np.array(seeds)
        for h in (1e-5, 1e-7):
            for N in (2, 8):
                medians.setdefault((N, h), []).extend(middle(N, d, h) for d in (1, 8))
        wide = [middle(2, depth, eps=1e-2) for depth in (1, 8)]
        medians.setdefault("wide", []).extend(wide)
    holds, small = (min(medians[2, h]) > max(medians[8, h]) for h in (1e-5, 1e-7))
    row.says(
        f"{either(holds, 'holds', 'fails')} for differences with h = 1e-5: two samples and "
        f"one layer err {either(holds, 'more', 'less')} than eight samples and eight layers",
        f"h: at 1e-7 this {either(small, 'holds, too', 'fails')}",
        f"ε: at 0.01 two samples err by {either(max(medians['wide']) < 1e-6, 'less', 'more')}"
        " than 1e-6 at either depth",
    )
