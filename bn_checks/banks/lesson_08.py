"""Checks of lesson 08, why it works."""

import numpy as np

from .. import common
from ..changes import changed
from ..drivers import lesson_08 as drivers
from ..engine import Exercise, Property, difference
from ..forms import lesson_08 as forms

S2 = "section 2, Measure the shift"
S4 = "section 4, Walk along the gradient"
S5 = "section 5, Change the scale of the weights"


# --- noisy_batchnorm -----------------------------------------------------------------


def noisy_cases(rng):
    def case(N, D, *noise):
        return *common.batch(rng, N, D), int(rng.integers(2**31)), *noise

    return [case(12, 5), case(9, 4, 2.0, 3.0, 0.5)]


def _noise_is_not_removed(trial):
    """A batch of equal samples: all that is left is beta and the noise."""
    x, gamma, beta, seed, *noise = trial.cases[0]
    (got, _), (want, _) = trial.run((0 * x + 3, gamma, beta, seed, *noise))
    return difference("y_first", got, want)


NOISY_BATCHNORM = Exercise(
    "noisy_batchnorm",
    forms.noisy_batchnorm,
    ("x", "gamma", "beta", "seed", "mean_range", "largest_scale", "jitter"),
    ("y_first", "y_second"),
    noisy_cases,
    extra=(Property("the noise comes after the norm", _noise_is_not_removed, 0.5),),
    drive=drivers.drive_noisy_batchnorm,
)


NOISY_BATCHNORM.mistakes += changed(
    forms.noisy_batchnorm,
    S2,
    """
    noise before the norm: the noise is added to x, and the norm removes what it has in
    common for a feature
        return moved + stretch * (x_hat * gamma + beta)
            -> z = stretch * x + moved
            ; return gamma * (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) + beta
        seen in csdongxian/ANP_backdoor #2; luigibonati/mlcolvar #205
    one distribution for all features: all features share one mean and one scale of the
    noise
        size=D -> size=1
        largest_scale, D -> largest_scale, 1
        seen in BioroboticsLab/IBA #17
    noise only added: m is added, and nothing is multiplied by s
        moved + stretch * ( -> moved + (
        seen in keras #5665
    noise around zero: the noise has mean 0 at every call, so that the distribution does
    not shift
        center_of_m = rng
            -> return x_hat * gamma + beta + rng.normal(0, jitter, x.shape)
            ; center_of_m = rng
        seen in keunwoochoi/kapre #35; keras #5686
    the same noise at every call: each call makes a new generator, and draws the same
    noise
        center_of_m = rng -> rng = np.random.default_rng(0); center_of_m = rng
        seen in reservoirpy #97
    """,
)


# --- gradient_predictiveness ---------------------------------------------------------


def predictiveness_cases(rng):
    def case(function, P, far=1):
        weights = rng.normal(size=(P, P))
        w, steps = rng.normal(size=P), rng.uniform(0.05, 0.3, 4)
        steps[-1] *= far  # far away, distances grow no more
        return function, w, weights + weights.T, steps

    return [case("waves", 6), case("saddle", 5), case("waves", 4, far=200)]


def _exact_on_a_bowl(trial):
    """The gradient of a quadratic is linear: ||A (s g)|| / (s ||g||) for every step."""
    _, w, weights, steps = trial.cases[0]
    got, want = trial.run(("bowl", w, weights, steps))
    lines = difference("distance", got[0], want[0])
    return lines or difference("smoothness", got[1], want[1])


def _one_step(trial):
    function, w, weights, steps = trial.cases[1]
    got, want = trial.run((function, w, weights, steps[:1]))
    return difference("distance", got[0], want[0])


GRADIENT_PREDICTIVENESS = Exercise(
    "gradient_predictiveness",
    forms.gradient_predictiveness,
    ("function", "w", "weights", "steps"),
    ("distance", "smoothness"),
    predictiveness_cases,
    extra=(
        Property("exact on a quadratic bowl", _exact_on_a_bowl, 0.5),
        Property("works for a single step", _one_step, 0.5),
    ),
    weights=(2, 1),
    drive=drivers.drive_gradient_predictiveness,
)


GRADIENT_PREDICTIVENESS.mistakes += changed(
    forms.gradient_predictiveness,
    S4,
    """
    steps along the signs: the steps go along the signs of the gradient
        step * g -> step * np.sign(g)
        seen in MadryLab/cifar10_challenge #18
    norm of the new gradient alone: the size of the new gradient is measured, and not
    its distance from the old
        step * g) - g) -> step * g))
        seen in bethgelab/foolbox #620
    """,
)


@GRADIENT_PREDICTIVENESS.mistake(
    "walks on from step to step",
    S4,
    "AlexeyGB/batch-norm-helps-optimization #1",
)
def walks_on_from_step_to_step(gradient, w, steps):
    """each step starts where the last one ended"""
    start, old, distance = np.linalg.norm(gradient(w)), gradient(w), []
    for step in steps:
        w = w - step * old
        new = gradient(w)
        distance.append(np.linalg.norm(new - old))
        old = new
    distance = np.array(distance)
    return distance, (distance / (steps * start)).max()


# --- effective_learning_rate ---------------------------------------------------------


def rate_cases(rng):
    def case(D_in, D_out, lr, *decay, behind=True):
        scale = rng.permutation(np.geomspace(0.5, 2, D_out))
        W = scale * rng.normal(size=(D_in, D_out))
        dW = rng.normal(size=(D_in, D_out))
        if behind:  # batch norm, no gradient lies along the weights
            dW -= W * (W * dW).sum(0) / (W * W).sum(0)
        return W, dW, lr, *decay

    large = case(5, 4, 3.0, behind=False)  # a step that turns by more than 90°
    large[1][:] += large[0]
    return [case(7, 4, 0.3, 0.2), case(5, 6, 0.8), case(6, 3, 0.1, 0.9), large]


def _same_direction_same_turn(trial):
    """W times 3, gradient over 3, rate times 9: the turn is the same."""
    W, dW, lr = trial.cases[1]
    got, _ = trial.run((3 * W, dW / 3, 9 * lr))
    before, _ = trial.run((W, dW, lr))
    lines = difference("turn", got[1], before[1])
    return lines and (*lines, "weights times 3 and rate times 9 turn as before")


def _no_step_no_turn(trial):
    W, dW, lr = trial.cases[1]
    (_, turn), _ = trial.run((W, 0 * dW, lr))
    if np.all(np.abs(turn) < 1e-6):
        return ()
    return (f"turn[0] is {turn[0]:.6g} where dW is 0, want 0",)


EFFECTIVE_LEARNING_RATE = Exercise(
    "effective_learning_rate",
    forms.effective_learning_rate,
    ("W", "dW", "lr", "decay"),
    ("rate", "turn"),
    rate_cases,
    extra=(
        Property("does not see the scale", _same_direction_same_turn, 0.5),
        Property("no step turns nothing", _no_step_no_turn, 0.5),
    ),
    weights=(1, 1.5),
)


EFFECTIVE_LEARNING_RATE.mistakes += changed(
    forms.effective_learning_rate,
    S5,
    """
    length of the step for the angle: the length of the step over that of the weights
    stands for the angle
        np.arccos(np.clip(cosine, -1, 1))
            -> np.linalg.norm(new - W, axis=0) / np.linalg.norm(W, axis=0)
        seen in Stanford CS231n notes, ratio of updates to weights
    one norm for the whole layer: one length, that of the whole layer, stands for the
    length of each unit
        rate = lr / np.linalg.norm(W, axis=0) ** 2
            -> rate = np.full(W.shape[1], lr / np.linalg.norm(W) ** 2)
        seen in LARS, You et al. 2017, arXiv:1708.03888, where the norm is the layer's
    """,
)


EXERCISES = (NOISY_BATCHNORM, GRADIENT_PREDICTIVENESS, EFFECTIVE_LEARNING_RATE)
