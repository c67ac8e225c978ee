"""Lesson 05's verdicts: its own cells with other seeds, rates and numbers of steps."""

from functools import cache

import numpy as np

from bn_helpers import norms

from . import either, from_lesson, proof

FIRST, OTHER = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
TIMES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
USUAL, MORE = 4096, 8192  # images seen once


@cache
def lesson(seeds=FIRST, samples=USUAL):
    return from_lesson(
        "05",
        "digits = data.small_mnist(8192)",
        "AXES = {",
        "DIMS, SEEDS, SAMPLES",
        "def step(",
        "def accuracy(",
        SEEDS=seeds,
        SAMPLES=samples,
    )


@cache
def trained(norm, batch_size, times=1, seeds=FIRST, samples=USUAL, eps=1e-5):
    """Mean accuracies: training, test, test as one batch. times the lesson's rate."""
    rate = 0.1 * batch_size / 32 * times
    with np.errstate(all="ignore"):
        found = lesson(seeds, samples).train_nets(norm, batch_size, rate, eps)
    return [float(values.mean()) for values in found]


def choices():
    return [(FIRST, USUAL), (OTHER, USUAL), (FIRST, MORE)]


@proof("5a", "draws", "digit", "size", "batch mates")
def noise_of_batch_norm(row):
    found = from_lesson("05", "digits = data.small_mnist(8192)")
    off = {2: [], 16: []}
    for seed in (1, 2, 3):
        draw = np.random.default_rng(seed)
        for digit in draw.integers(len(found.z), size=2):
            for N in off:
                few, many = (_noise(found, digit, draw, n) for n in (N, 16 * N))
                off[N].append(abs(few / many / 4 - 1))
    rough, near = (-(-max(off[N]) // 0.05) * 5 for N in off)
    row.says(
        f"{either(near < 20, 'holds', 'fails')} from N = 16 to 256: a quarter of the noise, "
        f"within {near:.0f} %",
        f"N: from 2 to 32 within {rough:.0f} %",
    )
    draw = np.random.default_rng(4)
    alike = _noise(found, 0, draw, 16, True) / _noise(found, 0, draw, 256, True)
    row.says(
        "the batch mates: if all of a batch show one digit, the noise falls by less than "
        f"a factor of {np.ceil(2 * alike) / 2:g} from 16 to 256"
    )


def _noise(found, digit, draw, N, one_class=False, draws=200):
    """The lesson's `wobble` of any sample; batch mates of one class if asked."""
    labels, kinds = found.digits.y_train, draw.integers(10, size=draws)
    mates = np.array(
        [
            draw.choice(
                np.flatnonzero(labels == k) if one_class else len(labels), N - 1
            )
            for k in kinds
        ]
    )
    mine = np.broadcast_to(found.z[digit], (draws, 1, 64))
    batches = np.concatenate([mine, found.z[mates]], axis=1)
    return norms.normalize_forward(batches, (1,))[0][:, 0].std(0).mean()


@proof("5b", "rate", "seeds", "steps", "eps")
def batches_of_two(row):
    def best(norm, seeds, samples):
        return max(trained(norm, 2, t, seeds, samples)[1] for t in TIMES)

    batch = max(best("batch", *choice) for choice in choices()[:2])
    layer = min(best("layer", *choice) for choice in choices()[:2])
    row.says(
        f"{either(batch < layer, 'holds', 'fails')} at N = 2 and ε = 1e-5, best of seven rates: batch norm "
        f"below {100 * batch // 5 * 5 + 5:.0f} %, layer norm above {100 * layer // 5 * 5:.0f} %"
    )
    large = min(
        max(trained("batch", 2, t, s, USUAL, 1.0)[1] for t in (2, 8))
        for s in (FIRST, OTHER)
    )
    row.says(
        f"ε: at 1 batch norm is {either(large > batch, 'above', 'below')} "
        f"{100 * large // 5 * 5:.0f} %"
    )
    long = best("batch", *choices()[2])
    row.says(
        f"twice the steps: batch norm {either(long < layer, 'still', 'no longer')} "
        f"below {100 * long // 5 * 5 + 5:.0f} %"
    )


@proof("5c", "rate", "seeds", "steps", "statistics")
def overfitting(row):
    found = [trained("batch", 2, t, *choice) for t in TIMES for choice in choices()]
    gap = max(seen - new for seen, new, _ in found)
    own = max(fresh - new for _, new, fresh in found)
    layer = min(
        np.subtract(*trained("layer", 2, 1, *choice)[:2]) for choice in choices()
    )
    row.says(
        f"{either(gap < 0.06, 'fails', 'holds')} at N = 2: training and test accuracy differ by less "
        f"than {-(-100 * gap // 1):.0f} points at each of seven rates, also with twice the steps",
        f"the norm: layer norm, which learns, differs by more than {100 * layer // 1:.0f}",
        "the statistics: those of the test images add at most "
        f"{-(-100 * own // 1):.0f} points",
    )


@proof("5d", "rate", "seeds", "size", "norm")
def other_norms_and_the_batch(row):
    lost = {
        norm: [
            abs(trained(norm, 16, 1, s)[1] - trained(norm, 2, 1, s)[1])
            for s in (FIRST, OTHER)
        ]
        for norm in ("layer", "group")
    }
    most = max(map(max, lost.values()))
    row.says(
        f"{either(most < 0.05, 'holds', 'fails')} from 16 to 2 for layer and group norm: within "
        f"{-(-100 * most // 1):.0f} point"
    )
    usual, gentle = (
        [trained(n, 256, t, s)[1] for n in ("layer", "group") for s in (FIRST, OTHER)]
        for t in (1, 1 / 4)
    )
    gained = np.subtract(gentle, usual)
    row.says(
        f"the rate: at 256, a quarter of it {either(gained.min() > 0, 'gains', 'loses')} more than "
        f"{100 * gained.min() // 1:.0f} points"
    )
    batch = [
        trained("batch", 256, 1, s)[1] - trained("batch", 256, 1 / 4, s)[1]
        for s in (FIRST, OTHER)
    ]
    row.says(f"batch norm {either(min(batch) > 0, 'loses', 'gains')} by it")
