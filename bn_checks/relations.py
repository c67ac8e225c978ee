"""Relations between what came and what was wanted, output by output.

A relation says how a wrong output follows from the right one, from another output or
from an argument, without a wrong implementation: the other sign, a factor, a count that
divides once too often, a lost axis. It has to hold on every case.
"""

from itertools import product

import numpy as np

LOST = "comes with the right numbers in shape {}, want {}"
REPEATED = "comes with the right numbers, repeated to shape {}, want {}"
IN_PLACES, ONE_NUMBER = "nan in places", "one number everywhere"
NO_WHOLE = "is no whole number"
COUNT_OF_FAULTS = "is a count that ought to be 0, and is {}"
FLOAT32 = "has the digits of float32 only"
FIFTH = "differs from the right one in the fifth digit or later"
IN_SHAPE = "comes in shape {}, want {}"
# what is true of an output, and gives no value of it: no explanation
SYMPTOMS = tuple(
    words.partition(" {}")[0]
    for words in (
        *(f"is {words}" for words in (IN_PLACES, ONE_NUMBER)),
        *(NO_WHOLE, COUNT_OF_FAULTS, FIFTH, IN_SHAPE),
    )
)


def near(a, b, rtol=1e-6):
    """Whether two arrays are the same, rounding at their own scale aside."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        return False
    finite = b[np.isfinite(b)]
    scale = np.abs(finite).max() if finite.size else 1.0
    return np.allclose(a, b, rtol=rtol, atol=1e-9 * scale + 1e-12, equal_nan=True)


def degenerate(got, cases, inputs):
    """What an output is, where it carries no information; "" where it does."""
    if not all(g.size for g in got):
        return "" if any(g.size for g in got) else "empty"
    if all(np.isnan(g).all() for g in got):
        return "nan everywhere" if any(g.size > 1 for g in got) else "nan"
    if any(np.isnan(g).any() for g in got):
        return IN_PLACES if all(np.isnan(g).any() for g in got) else ""
    if all(np.abs(g - got[0].flat[0]).max() < 1e-12 for g in got):
        number = f"{got[0].flat[0] if np.abs(got[0]).max() > 1e-12 else 0:.6g}"
        return f"{number} everywhere" if any(g.size > 1 for g in got) else number
    for k, name in enumerate(inputs):
        given = [args[k] if k < len(args) else None for args in cases]
        if all(_given(g, a) for g, a in zip(got, given, strict=True)):
            return f"{name} as it came in"
    if all(g.size > 1 and np.ptp(g) == 0 for g in got):
        return ONE_NUMBER
    return ""


def _given(got, argument):
    return (
        isinstance(argument, np.ndarray) and argument.size > 1 and near(got, argument)
    )


def relation(got, want, others, cases, inputs, stacked=False):
    """The first relation that holds on every case, as what "Your y ..." is or does.

    Args:
        got, want: the output on every case.
        others: pairs of name and right values of the other outputs.
        cases: the arguments of every case.
        inputs: their names.
        stacked: whether a driver deals them out, so that their axes are not those of
            the student's arrays.
    """
    pairs = list(zip(got, want, strict=True))
    shapes = [(g.shape, w.shape) for g, w in pairs if g.shape != w.shape]
    if shapes and all(near(g.ravel(), w.ravel()) for g, w in pairs):
        return LOST.format(*shapes[0])
    if shapes and all(_repeats(g, w) for g, w in pairs):
        return REPEATED.format(*shapes[0])
    whole = all(w.dtype.kind in "iu" for _, w in pairs)
    if found := _ruled(pairs, WHOLE if whole else RULES):
        return found
    for name, values in others:
        if all(near(g, v) for g, v in zip(got, values, strict=True)):
            return f"is what {name} ought to be"
        if whole:
            continue  # whole numbers agree by accident
        if _joined(pairs, values, np.add):
            return f"has {name} added to it"
        if _joined(pairs, values, np.multiply):
            return f"is multiplied by {name}"
    counted = _counted(pairs, cases, inputs, stacked)
    if counted or stacked:
        return counted
    return _with_inputs(pairs, cases, inputs) or _from_inputs(got, cases, inputs)


def _ruled(pairs, rules):
    """The first rule that holds, if need be only on the cases that are wrong."""
    if rules is RULES and all(_holds(_digits(3e-6), *pair) for pair in pairs):
        return FLOAT32
    wrong = [(g, w) for g, w in pairs if not near(g, w)]
    places = "" if len(wrong) == len(pairs) else ", where it is wrong"
    for phrase, rule in rules if len(wrong) > 1 else ():
        if places and phrase.startswith("is not yet"):
            continue
        if all(_holds(rule, g, w) for g, w in wrong):
            return phrase + places
    return ""


def _repeats(got, want):
    """Whether what came is the right one, spread out along more or longer axes."""
    try:
        return near(got, np.broadcast_to(want, got.shape))
    except ValueError:
        return False


def _with_inputs(pairs, cases, inputs):
    """An argument of the output's shape that is in it once too often, or is missing."""
    for k, name in enumerate(inputs):
        given = [args[k] if k < len(args) else None for args in cases]
        if all(isinstance(a, np.ndarray) and a.size > 1 for a in given):
            for words, how in JOINTS:
                if _joined(pairs, given, how):
                    return words.format(name)
    return ""


JOINTS = (
    ("has {} added to it", np.add),
    ("has {} subtracted from it", np.subtract),
    ("is multiplied by {}", np.multiply),
    ("is divided by {}", np.divide),
)


def _joined(pairs, values, how):
    """Whether what came is the right one with another output in it."""
    alike = all(g.shape == v.shape for (g, _), v in zip(pairs, values, strict=True))
    return alike and all(
        near(g, how(w, v)) for (g, w), v in zip(pairs, values, strict=True)
    )


def _holds(rule, g, w):
    with np.errstate(all="ignore"):
        try:
            return bool(rule(g, w))
        except (ValueError, IndexError, TypeError):
            return False


def _same(make):
    return lambda g, w: g.shape == w.shape and near(g, make(w))


def _digits(limit):
    """Whether all differences are below a share of the largest number."""

    def rule(g, w):
        finite = np.isfinite(w).all() and g.shape == w.shape and w.size > 0
        return finite and np.abs(g - w).max() <= limit * np.abs(w).max()

    return rule


RULES = (
    (FIFTH, _digits(3e-5)),
    (
        "is transposed",
        lambda g, w: g.shape == w.T.shape and w.ndim > 1 and near(g, w.T),
    ),
    (
        "holds the right numbers in other places",
        lambda g, w: (
            g.shape == w.shape != () and near(np.sort(g, None), np.sort(w, None))
        ),
    ),
    (
        "is a whole matrix: its diagonal is right",
        lambda g, w: g.ndim == w.ndim + 1 == 2 and near(np.diag(g), w),
    ),
    ("has the other sign", _same(lambda w: -w)),
    ("is twice what it ought to be", _same(lambda w: 2 * w)),
    ("is half of what it ought to be", _same(lambda w: w / 2)),
    ("is a hundred times what it ought to be", _same(lambda w: 100 * w)),
    ("is the square of what it ought to be", _same(lambda w: w * w)),
    ("is the root of what it ought to be", _same(np.sqrt)),
    ("is 1 divided by what it ought to be", _same(lambda w: 1 / w)),
    ("is the root of 1 divided by what it ought to be", _same(lambda w: w**-0.5)),
    ("is what it ought to be without its signs", _same(np.abs)),
    ("is 1 too large everywhere", _same(lambda w: w + 1)),
    ("is 1 too small everywhere", _same(lambda w: w - 1)),
    ("is the angle that belongs to what it ought to be", _same(np.arccos)),
    ("is the logarithm of what it ought to be", _same(np.log)),
    ("is the logarithm to base 10 of what it ought to be", _same(np.log10)),
    (
        "is the mean of what it ought to be",
        lambda g, w: w.size > 1 and g.size == 1 and near(g.ravel()[0], w.mean()),
    ),
    (
        "is the sum of what it ought to be",
        lambda g, w: w.size > 1 and g.size == 1 and near(g.ravel()[0], w.sum()),
    ),
    (
        "is not yet summed: added up over its samples it is right",
        lambda g, w: g.ndim > w.ndim and _reduces(g, w, np.sum),
    ),
    (
        "is not yet averaged: its mean over the samples is right",
        lambda g, w: g.ndim > w.ndim and _reduces(g, w, np.mean),
    ),
)


WHOLE = (
    ("is 1 too large everywhere", _same(lambda w: w + 1)),
    ("is 1 too small everywhere", _same(lambda w: w - 1)),
    ("is 1 where 0 is right, and 0 where 1 is", _same(lambda w: 1 - w)),
    ("is twice what it ought to be", _same(lambda w: 2 * w)),
)


def _reduces(g, w, how):
    axes = range(g.ndim)
    return any(near(np.squeeze(how(g, a)), np.squeeze(w)) for a in axes)


def _counted(pairs, cases, inputs, stacked):
    """A factor that is a length of an axis, or n / (n − 1) of one."""
    factors = [_factor(g, w) for g, w in pairs]
    if any(f is None for f in factors):
        return ""
    for words, rule in COUNTS:
        for k, axis in product(range(len(inputs)), range(4)):
            lengths = _lengths(cases, k, axis)
            if len(set(lengths or ())) > 1 and _follow(factors, lengths, rule):
                which = "an axis" if stacked else f"axis {axis}"
                return words.format(f"the length of {which} of {inputs[k]}")
    if len(factors) > 1 and factors[0] and all(near(f, factors[0]) for f in factors):
        return f"is {factors[0]:.4g} times what it ought to be"
    return "" if stacked else _other_length(factors, cases, inputs)


def _other_length(factors, cases, inputs):
    """Two lengths, of which one divides where the other belongs."""
    axes = [
        (f"the length of axis {axis} of {name}", lengths)
        for k, name in enumerate(inputs)
        for axis in range(4)
        if (lengths := _lengths(cases, k, axis))
    ]
    for (one, n), (other, m) in product(axes, axes):
        ratios = [a / b for a, b in zip(n, m, strict=True)]
        if len(set(ratios)) > 1 and all(map(near, factors, ratios)):
            return f"is divided by {other}, where {one} belongs"
    return ""


def _lengths(cases, k, axis):
    """The lengths of an axis of argument k in all cases; None without it in one."""
    shapes = [np.shape(args[k]) if k < len(args) else () for args in cases]
    if any(len(shape) <= axis or not shape[axis] for shape in shapes):
        return None
    return [shape[axis] for shape in shapes]


def _follow(factors, lengths, rule):
    with np.errstate(all="ignore"):
        made = [rule(np.float64(n)) for n in lengths]
    return all(map(near, factors, made))


def _factor(g, w):
    if g.shape != w.shape:
        return None
    told = np.abs(w) > 1e-9 * np.abs(w).max(initial=0)
    if not told.any():
        return None
    factor = np.median(g[told] / w[told])
    return factor if np.isfinite(factor) and near(g, factor * w) else None


COUNTS = (
    ("is what it ought to be times {}", lambda n: n),
    ("is what it ought to be divided by {}", lambda n: 1 / n),
    ("is n / (n − 1) times what it ought to be, with n {}", lambda n: n / (n - 1)),
    ("is (n − 1) / n times what it ought to be, with n {}", lambda n: (n - 1) / n),
    ("is what it ought to be times the square of {}", lambda n: n * n),
    ("is what it ought to be divided by the square of {}", lambda n: 1 / n**2),
    ("is what it ought to be divided by the root of {}", lambda n: n**-0.5),
    ("is what it ought to be times the root of {}", lambda n: n**0.5),
)
HOW = {"mean": np.mean, "sum": np.sum, "variance": np.var, "standard deviation": np.std}


def _from_inputs(got, cases, inputs):
    """A statistic of an argument along some axis."""
    for (word, how), k, axis in product(HOW.items(), range(len(inputs)), (0, 1, None)):
        try:
            made = [how(args[k], axis, keepdims=True) for args in cases]
        except Exception:  # no array, or no such axis
            continue
        if all(_spread_out(g, m) for g, m in zip(got, made, strict=True)):
            where = "over everything" if axis is None else f"along axis {axis}"
            return f"is the {word} of {inputs[k]} {where}"
    return ""


def _spread_out(got, made):
    """Whether got is made, whether its averaged axes are gone, kept or filled up."""
    if near(np.squeeze(got), np.squeeze(made)):
        return True
    axes = zip(np.shape(made), got.shape, strict=False)
    alike = np.ndim(made) == got.ndim and all(m in (1, g) for m, g in axes)
    return alike and near(got, np.broadcast_to(made, got.shape))


def localized(got, want):
    """Where an unexplained output is wrong: a factor or a shift along an axis."""
    pairs = list(zip(got, want, strict=True))
    if any(g.shape != w.shape or w.size < 2 for g, w in pairs):
        return ""
    with np.errstate(all="ignore"):
        for how, found in ((np.subtract, "shift"), (np.divide, "factor")):
            where = [how(g, w) for g, w in pairs]
            if all(_constant(a, None) for a in where):
                return f"is right but for one {found}"
            for axis, word in ((0, "column"), (1, "row")):
                told = all(_long(*pair, axis) for pair in pairs)
                if told and all(_constant(a, axis) for a in where):
                    return f"is right but for one {found} per {word}"
    return ""


def _long(got, want, axis):
    """Whether a difference that is the same along an axis is worth telling."""
    if want.ndim < 2 or want.shape[axis] < 2:
        return False
    return not (_constant(got, axis) and _constant(want, axis))


def _constant(a, axis):
    return np.isfinite(a).all() and near(
        a, np.broadcast_to(a.mean(axis, keepdims=True), a.shape)
    )
