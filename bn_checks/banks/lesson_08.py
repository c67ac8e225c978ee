"""Checks of lesson 08, why it works."""

import numpy as np

from .. import common
from ..drivers import lesson_08 as drivers
from ..engine import Exercise, Mistake, Property, difference

S2 = "section 2, Measure the shift"
S4 = "section 4, Walk along the gradient"
S5 = "section 5, Change the scale of the weights"


# --- noisy_batchnorm -----------------------------------------------------------------

NOISE = (0.5, 1.25, 0.1)  # mean_range, largest_scale, jitter


def noisy_cases(rng):
    def case(N, D, *noise):
        return *common.batch(rng, N, D), int(rng.integers(2**31)), *noise

    return [case(12, 5), case(9, 4, 2.0, 3.0, 0.5)]


def _draws(rng, shape, mean_range, largest_scale, jitter):
    """Everything random, in the order the task names."""
    mu = rng.uniform(-mean_range, mean_range, shape[-1])
    sigma = rng.uniform(1, largest_scale, shape[-1])
    m = rng.uniform(mu - jitter, mu + jitter, shape)
    s = rng.normal(sigma, jitter, shape)
    return mu, sigma, m, s


def _batchnorm(x, gamma, beta):
    return gamma * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + beta


def noisy_reference(x, gamma, beta, rng, *noise):
    _, _, m, s = _draws(rng, x.shape, *(noise or NOISE))
    return s * _batchnorm(x, gamma, beta) + m


def noise_before_the_norm(x, gamma, beta, rng, *noise):
    _, _, m, s = _draws(rng, x.shape, *(noise or NOISE))
    return _batchnorm(s * x + m, gamma, beta)


def one_draw_for_the_batch(x, gamma, beta, rng, *noise):
    mu, sigma, _, _ = _draws(rng, x.shape, *(noise or NOISE))
    return sigma * _batchnorm(x, gamma, beta) + mu


def one_distribution_for_all(x, gamma, beta, rng, *noise):
    mean_range, largest_scale, jitter = noise or NOISE
    mu, sigma = rng.uniform(-mean_range, mean_range), rng.uniform(1, largest_scale)
    m = rng.uniform(mu - jitter, mu + jitter, x.shape)
    s = rng.normal(sigma, jitter, x.shape)
    return s * _batchnorm(x, gamma, beta) + m


def noise_only_added(x, gamma, beta, rng, *noise):
    _, _, m, _ = _draws(rng, x.shape, *(noise or NOISE))
    return _batchnorm(x, gamma, beta) + m


def noise_around_zero(x, gamma, beta, rng, *noise):
    *_, jitter = noise or NOISE
    return _batchnorm(x, gamma, beta) + rng.normal(0, jitter, x.shape)


def same_noise_at_every_call(x, gamma, beta, rng, *noise):
    return noisy_reference(x, gamma, beta, np.random.default_rng(0), *noise)


def _noise_is_not_removed(trial):
    """A batch of equal samples: all that is left is beta and the noise."""
    x, gamma, beta, seed, *noise = trial.cases[0]
    (got, _), (want, _) = trial.run((0 * x + 3, gamma, beta, seed, *noise))
    return difference("y_first", got, want)


NOISY_MISTAKES = (
    Mistake(
        "noise before the norm",
        "You add the noise to x; the norm then removes what it has in common for a "
        "feature. It belongs after gamma and beta.",
        S2,
        "csdongxian/ANP_backdoor #2; luigibonati/mlcolvar #205",
        noise_before_the_norm,
    ),
    Mistake(
        "one draw for the whole batch",
        "All samples get the same noise; m and s are drawn for each sample as well.",
        S2,
        "joaopauloschuler/neural-api #6; pwhofman/probly #500",
        one_draw_for_the_batch,
    ),
    Mistake(
        "one distribution for all features",
        "All features share one mean and one scale; each needs its own, (D,).",
        S2,
        "BioroboticsLab/IBA #17",
        one_distribution_for_all,
    ),
    Mistake(
        "noise only added",
        "You shift by m and do not scale by s.",
        S2,
        "keras #5665",
        noise_only_added,
    ),
    Mistake(
        "noise around zero",
        "Your noise has mean 0 at every call, so the distribution does not shift.",
        S2,
        "keunwoochoi/kapre #35; keras #5686",
        noise_around_zero,
    ),
    Mistake(
        "the same noise at every call",
        "You make a new generator in each call, so each call draws the same noise.",
        S2,
        "reservoirpy #97",
        same_noise_at_every_call,
    ),
)

NOISY_BATCHNORM = Exercise(
    "noisy_batchnorm",
    noisy_reference,
    ("x", "gamma", "beta", "seed", "mean_range", "largest_scale", "jitter"),
    ("y_first", "y_second"),
    noisy_cases,
    extra=(Property("the noise comes after the norm", _noise_is_not_removed, 0.5),),
    mistakes=NOISY_MISTAKES,
    drive=drivers.drive_noisy_batchnorm,
)


# --- gradient_predictiveness ---------------------------------------------------------


def predictiveness_cases(rng):
    def case(function, P):
        weights = rng.normal(size=(P, P))
        w, steps = rng.normal(size=P), rng.uniform(0.05, 0.3, 4)
        return function, w, weights + weights.T, steps

    return [case("waves", 6), case("saddle", 5)]


def _predictiveness(gradient, w, steps, move=None, compare=None):
    """Distances and smoothness; the mistakes move or compare differently."""
    move = move or (lambda w, step, g: w - step * g)
    compare = compare or (lambda new, g: np.linalg.norm(new - g))
    g = gradient(w)
    distance = np.array([compare(gradient(move(w, step, g)), g) for step in steps])
    return distance, (distance / (steps * np.linalg.norm(g))).max()


def predictiveness_reference(gradient, w, steps):
    return _predictiveness(gradient, w, steps)


def walks_uphill(gradient, w, steps):
    return _predictiveness(gradient, w, steps, move=lambda w, step, g: w + step * g)


def walks_along_signs(gradient, w, steps):
    def move(w, step, g):
        return w - step * np.sign(g)

    return _predictiveness(gradient, w, steps, move=move)


def walks_on_from_step_to_step(gradient, w, steps):
    start, old, distance = np.linalg.norm(gradient(w)), gradient(w), []
    for step in steps:
        w = w - step * old
        new = gradient(w)
        distance.append(np.linalg.norm(new - old))
        old = new
    distance = np.array(distance)
    return distance, (distance / (steps * start)).max()


def adds_the_gradients(gradient, w, steps):
    def compare(new, g):
        return np.linalg.norm(new + g)

    return _predictiveness(gradient, w, steps, compare=compare)


def norm_of_the_new_gradient(gradient, w, steps):
    def compare(new, g):
        return np.linalg.norm(new)

    return _predictiveness(gradient, w, steps, compare=compare)


def squared_distance(gradient, w, steps):
    def compare(new, g):
        return np.square(new - g).sum()

    return _predictiveness(gradient, w, steps, compare=compare)


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


PREDICTIVENESS_MISTAKES = (
    Mistake(
        "steps go uphill",
        "You step along the gradient; gradient descent steps against it.",
        S4,
        "probml/pml-book #149",
        walks_uphill,
    ),
    Mistake(
        "steps along the signs",
        "You step along the signs of the gradient, which is another direction.",
        S4,
        "MadryLab/cifar10_challenge #18",
        walks_along_signs,
    ),
    Mistake(
        "walks on from step to step",
        "Each of your steps starts where the last one ended; all start at w, against "
        "the same gradient.",
        S4,
        "KouseiAimer/Network-and-Deep-Learning-Second-Project, "
        "Batch_Normalization/Enhanced; AlexeyGB/batch-norm-helps-optimization #1",
        walks_on_from_step_to_step,
    ),
    Mistake(
        "gradients added",
        "You take the norm of the sum of the two gradients, not of their difference.",
        S4,
        "mameli/Test_batch_norm_paper, batch_norm_callbacks.py",
        adds_the_gradients,
    ),
    Mistake(
        "norm of the new gradient alone",
        "You measure how large the new gradient is, not how far it is from the old.",
        S4,
        "bethgelab/foolbox #620",
        norm_of_the_new_gradient,
    ),
    Mistake(
        "squared distance",
        "You forget the root: the distance is the norm, not its square.",
        S4,
        "lijinf2/gqr #38; paiml/entrenar #311",
        squared_distance,
    ),
)

GRADIENT_PREDICTIVENESS = Exercise(
    "gradient_predictiveness",
    predictiveness_reference,
    ("function", "w", "weights", "steps"),
    ("distance", "smoothness"),
    predictiveness_cases,
    extra=(
        Property("exact on a quadratic bowl", _exact_on_a_bowl, 0.5),
        Property("works for a single step", _one_step, 0.5),
    ),
    mistakes=PREDICTIVENESS_MISTAKES,
    weights=(2, 1),
    drive=drivers.drive_gradient_predictiveness,
)


# --- effective_learning_rate ---------------------------------------------------------


def rate_cases(rng):
    def case(D_in, D_out, lr, *decay):
        scale = rng.permutation(np.geomspace(0.5, 2, D_out))
        W = scale * rng.normal(size=(D_in, D_out))
        dW = rng.normal(size=(D_in, D_out))
        dW -= W * (W * dW).sum(0) / (W * W).sum(0)  # as behind batch norm
        return W, dW, lr, *decay

    return [case(7, 4, 0.3, 0.2), case(5, 6, 0.8), case(6, 3, 0.1, 0.9)]


def _turn(W, new):
    cosine = (W * new).sum(0) / np.sqrt((W * W).sum(0) * (new * new).sum(0))
    return np.arccos(np.clip(cosine, -1, 1))


def rate_reference(W, dW, lr, decay=0.0):
    return lr / (W * W).sum(0), _turn(W, W - lr * (dW + decay * W))


def norm_not_squared(W, dW, lr, decay=0.0):
    return lr / np.sqrt((W * W).sum(0)), rate_reference(W, dW, lr, decay)[1]


def norms_of_rows(W, dW, lr, decay=0.0):
    return rate_reference(W.T, dW.T, lr, decay)


def norm_of_the_layer(W, dW, lr, decay=0.0):
    rate = np.full(W.shape[1], lr / (W * W).sum())
    return rate, rate_reference(W, dW, lr, decay)[1]


def decay_without_rate(W, dW, lr, decay=0.0):
    return lr / (W * W).sum(0), _turn(W, W - lr * dW - decay * W)


def decay_added(W, dW, lr, decay=0.0):
    return lr / (W * W).sum(0), _turn(W, W - lr * (dW - decay * W))


def length_for_angle(W, dW, lr, decay=0.0):
    step = np.linalg.norm(lr * (dW + decay * W), axis=0)
    return lr / (W * W).sum(0), step / np.linalg.norm(W, axis=0)


def _same_direction_same_turn(trial):
    """W times 3, gradient over 3, rate times 9: the turn is the same."""
    W, dW, lr = trial.cases[1]
    got, want = trial.run((3 * W, dW / 3, 9 * lr))
    lines = difference("turn", got[1], want[1])
    return lines and (*lines, "weights times 3 and rate times 9 turn as before")


RATE_MISTAKES = (
    Mistake(
        "norm not squared",
        "You divide by the norm; for gradient descent it is the squared norm, since "
        "the gradient shrinks with the norm as well.",
        S5,
        "K. Wen et al., From Weight Decay to Hyperball Optimization, where steps are "
        "normalized and the norm is right",
        norm_not_squared,
    ),
    Mistake(
        "norms of rows",
        "You take the norm of each row; the weights that lead into a unit are a column "
        "of W.",
        S5,
        "huggingface/peft #2348; openai/iaf #7; kevinzakka/pytorch-goodies #1",
        norms_of_rows,
    ),
    Mistake(
        "one norm for the whole layer",
        "You take one norm for all units; batch norm frees the scale of each unit.",
        S5,
        "LARS, You et al. 2017, arXiv:1708.03888, where the norm is the layer's",
        norm_of_the_layer,
    ),
    Mistake(
        "decay without the rate",
        "You subtract decay times W; here the decay is multiplied by the rate too.",
        S5,
        "tensorflow/addons #2282; pytorch #4429",
        decay_without_rate,
    ),
    Mistake(
        "decay with the wrong sign",
        "Your decay makes the weights longer.",
        S5,
        "egg-west/AdamW-pytorch #1",
        decay_added,
    ),
    Mistake(
        "length of the step for the angle",
        "You return the length of the step over that of the weights, which is not an "
        "angle, and which decay changes without turning anything.",
        S5,
        "Stanford CS231n notes, ratio of updates to weights",
        length_for_angle,
    ),
)

EFFECTIVE_LEARNING_RATE = Exercise(
    "effective_learning_rate",
    rate_reference,
    ("W", "dW", "lr", "decay"),
    ("rate", "turn"),
    rate_cases,
    extra=(Property("does not see the scale", _same_direction_same_turn, 0.5),),
    mistakes=RATE_MISTAKES,
    weights=(1, 1.5),
)

EXERCISES = (NOISY_BATCHNORM, GRADIENT_PREDICTIVENESS, EFFECTIVE_LEARNING_RATE)
