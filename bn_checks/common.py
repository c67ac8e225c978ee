"""Inputs and properties that the checks of several lessons share."""

import numpy as np

from .engine import Property, difference

FAR = 1e8


def batch(rng, N, D):
    """A batch whose features differ in mean, spread and skew, with gamma and beta."""
    scale = rng.permutation(np.geomspace(0.05, 5, D))
    offset = rng.normal(0, 3, D)
    x = offset + scale * (rng.exponential(1, (N, D)) + 0.3 * rng.normal(size=(N, D)))
    return x, *scale_and_shift(rng, D)


def scale_and_shift(rng, shape):
    """gamma, of both signs, and beta."""
    gamma = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
    return gamma, rng.normal(0, 1, shape)


def moments(rng, D):
    """A mean and a variance per feature."""
    return rng.normal(0, 3, D), rng.permutation(np.geomspace(0.01, 4, D))


def same_dtype(outputs, asked=None):
    """Property: float32 in, float32 out, for the asked outputs or for all."""

    def test(trial):
        args = [_as_float32(a) for a in trial.cases[0]]
        got, _ = trial.run(args)
        kinds = dict(zip(outputs, (g.dtype for g in got), strict=True))
        wrong = [name for name in asked or outputs if kinds[name] != np.float32]
        return [f"{n} is not float32 although x is" for n in wrong]

    return Property("float32 in, float32 out", test, 0)


def default(name, value):
    """Property: without the argument the answer is that for this value of it."""

    def test(trial):
        args = trial.cases[0][: trial.exercise.inputs.index(name)]
        what = f"without {name} the result is not that of {name}={value}"
        return trial.same(args, (*args, value), what)

    return Property(f"{name} is {value} when left out", test, 0)


def keeps_digits(shifted=0):
    """Property: y stays the same, far from 0, when argument number `shifted` moves."""

    def test(trial):
        trial.needs(0)
        args = list(trial.cases[0])
        args[shifted] = args[shifted] + FAR
        ys = []
        for _ in range(2):
            ys.append(trial.exercise.run(trial.student, args)[0][0])
            args[shifted] = args[shifted] - FAR  # without rounding
        far, near = ys
        if far.shape == near.shape and np.allclose(far, near, rtol=1e-4, atol=1e-4):
            return ()
        return (f"values near {FAR:.0e} give another y than the same values near 0",)

    return Property("keeps its digits far from 0", test, 0)


def _as_float32(a):
    return a.astype(np.float32) if isinstance(a, np.ndarray) else a


def _alone_as_in_company(trial):
    args = trial.cases[0]
    (whole,), _ = trial.run(args)
    (alone,), _ = trial.run((args[0][:1], *args[1:]))
    lines = difference("y of a sample alone", alone, whole[:1])
    return lines and (*lines, "a sample's result must not depend on its batch mates")


ALONE = Property("a sample alone gives what it gives in a batch", _alone_as_in_company)
