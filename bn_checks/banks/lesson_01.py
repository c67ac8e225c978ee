"""Checks of lesson 01, the forward pass."""

import numpy as np

from bn_helpers import norms

from ..changes import changed
from ..common import ALONE, batch, default, moments, same_dtype
from ..engine import Exercise, Property, rejects
from ..forms import lesson_01 as forms

S2 = "section 2, Normalize a batch"
S7 = "section 7, Keep running statistics"
S8 = "section 8, Normalize without a batch"
S9 = "section 9, Compute a variance that survives"


def batch_cases(rng):
    return [batch(rng, 12, 5), (*batch(rng, 9, 3), 0.1), (*batch(rng, 8, 17), 1e-3)]


# --- batchnorm_forward ---------------------------------------------------------------


def _survives_offset(trial):
    """float32 values near 1000 that spread by 0.1: within 5 % of the exact variance."""
    x = (1000 + 0.1 * trial.rng.normal(size=(64, 4))).astype(np.float32)
    ones = np.ones(4, np.float32)
    (_, _, var), _ = trial.run((x, ones, 0 * ones))
    want = x.astype(np.float64).var(0)
    off = np.abs(var / want - 1)
    if np.all(off < 0.05):
        return ()
    worst = int(np.argmax(np.nan_to_num(off, nan=np.inf)))
    return (
        "x is float32 with mean 1000 and standard deviation 0.1",
        f"var[{worst}]: got {var[worst]:.3g}, want {want[worst]:.3g}",
    )


def _needs_two(trial):
    x, gamma, beta = batch(trial.rng, 2, 4)
    trial.run((x, gamma, beta))  # two are enough
    return rejects(trial.student, (x[:1], gamma, beta), "x with one sample")


BATCHNORM_FORWARD = Exercise(
    "batchnorm_forward",
    forms.batchnorm_forward,
    ("x", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    batch_cases,
    extra=(
        same_dtype(("y", "mu", "var"), ("y",)),
        Property("keeps its digits far from 0", _survives_offset, 0.5),
        Property("refuses a batch of one", _needs_two, 0.5),
    ),
    weights=(2, 1, 1),
    forms=(forms.batchnorm_forward, forms.batchnorm_forward_by_hand),
)


BATCHNORM_FORWARD.mistakes += changed(
    forms.batchnorm_forward,
    S2,
    """
    one feature's variance for all: every feature is divided by the spread of the first
    one
        var = x.var(axes, keepdims=True) -> var = np.full_like(mu, x[:, 0].var())
        seen in answers that pass the example of the source homework
    """,
)


BATCHNORM_FORWARD.mistakes += changed(
    forms.batchnorm_forward,
    S9,
    """
    difference of squares: The mean of x² minus the square of the mean loses its digits
    far from 0.
        x.var(axes, keepdims=True) -> (x**2).mean(axes, keepdims=True) - mu**2
        len(x) < 2 -> False
        shows keeps its digits far from 0
        seen in the source homework; labml_nn batch_norm; tt-metal #46159
    """,
)


# --- update_running_stats ------------------------------------------------------------


def update_cases(rng):
    return [
        (*moments(rng, 5), *moments(rng, 5), N, m) for N, m in [(8, 0.1), (33, 0.7)]
    ]


def _needs_two_for_update(trial):
    statistics = (*moments(trial.rng, 4), *moments(trial.rng, 4))
    trial.run((*statistics, 2, 0.1))  # two are enough
    return rejects(trial.student, (*statistics, 1, 0.1), "N = 1")


UPDATE_RUNNING_STATS = Exercise(
    "update_running_stats",
    norms.update_running_stats,
    ("running_mean", "running_var", "mu", "var", "N", "momentum"),
    ("running_mean", "running_var"),
    update_cases,
    extra=(
        default("momentum", 0.1),
        Property("refuses N = 1", _needs_two_for_update, 0.5),
    ),
    forms=(forms.update_running_stats, forms.update_by_steps),
)


UPDATE_RUNNING_STATS.mistakes += changed(
    forms.update_running_stats,
    S7,
    """
    running standard deviation: a standard deviation is blended in where a variance
    belongs
        (var * (N / (N - 1))) -> np.sqrt(var * N / (N - 1))
        seen in makemore part 3, cell 7
    mean corrected, too: the mean is multiplied by N / (N − 1) as well
        momentum * mu -> momentum * mu * N / (N - 1)
        seen in chainer #332
    running inverse: one over a standard deviation is blended in where a variance
    belongs
        (var * (N / (N - 1))) -> 1 / np.sqrt(var)
        seen in torch/nn #567, #609; soumith/cudnn.torch #109
    running mean in the running variance: the running variance goes on from the running
    mean
        running_mean = ( -> running_var = running_mean; running_mean = (
        seen in two published CS231n solutions, batchnorm_forward
    spread around the running mean: the spread of the batch is measured around the
    running mean, not its own
        (var * (N / (N - 1))) -> (var + (mu - running_mean) ** 2)
        seen in HumanCompatibleAI/imitation PR #443; tensorflow #13064
    changed in place: You write into the caller's arrays; return new ones.
        running_mean = ( -> running_mean[:] = (
        running_var = ( -> running_var[:] = (
        shows leaves its inputs as they were
        seen in mapillary/inplace_abn #14; pytorch #13402
    accepts one sample: You accept a batch of one, where N − 1 is 0 and the variance
    becomes nan.
        if N < 2: -> if False:
        (var * (N / (N - 1))) -> (var * N / (N - 1))
        shows refuses N = 1
        seen in torch/nn PR #1271; facebookresearch/SparseConvNet #190
    """,
)


# --- batchnorm_inference -------------------------------------------------------------


def inference_cases(rng):
    def case(N, D, *eps):
        return (*batch(rng, N, D), *moments(rng, D), *eps)

    return [case(12, 5), case(9, 3, 0.1), case(1, 17, 1e-3)]


BATCHNORM_INFERENCE = Exercise(
    "batchnorm_inference",
    norms.batchnorm_inference,
    ("x", "gamma", "beta", "running_mean", "running_var", "eps"),
    ("y",),
    inference_cases,
    extra=(
        same_dtype(("y",)),
        ALONE,
    ),
    weights=(2,),
    forms=(forms.batchnorm_inference,),
)


BATCHNORM_INFERENCE.mistakes += changed(
    forms.batchnorm_inference,
    S8,
    """
    statistics updated in evaluation: You change the running statistics while
    evaluating: the test data leak in.
        return gamma -> y = gamma
        / std + beta
            -> / std + beta; running_mean += 0.1 * (x.mean(0) - running_mean)
            ; running_var += 0.1 * (x.var(0) - running_var); return y
        shows leaves its inputs as they were
        seen in nn-zero-to-hero #82
    """,
)


# --- merge_statistics ----------------------------------------------------------------


def merge_cases(rng):
    def case(n_a, n_b, D):
        return (n_a, *moments(rng, D), n_b, *moments(rng, D))

    n, m = (int(k) for k in rng.choice(np.arange(3, 40), 2, replace=False))
    return [case(n, m, 5), case(1, n + m, 3), case(m, 1, 7), case(n, n, 2)]


def _three_groups(trial):
    """Any order of merging gives the statistics of all samples together."""
    x, _, _ = batch(trial.rng, 30, 3)
    parts = [(len(p), p.mean(0), p.var(0)) for p in np.split(x, [7, 19])]
    a, b, c = parts

    def merge(left, right):
        n, mu, var = trial.run((*left, *right))[0]
        return int(n), mu, var

    for merged in (merge(merge(a, b), c), merge(a, merge(b, c))):
        if not (np.allclose(merged[1], x.mean(0)) and np.allclose(merged[2], x.var(0))):
            return (
                "three groups merged in pairs do not give mean and variance of all",
            )
    return ()


def _far_from_zero(trial):
    D = 3
    one = np.ones(D)
    args = (50, 1e6 * one, 1e-4 * one, 50, 1e6 * one, 3e-4 * one)
    (_, _, var), _ = trial.run(args)
    if np.allclose(var, 2e-4, rtol=1e-3):
        return ()
    return (
        "both means are 1e6, the variances 1e-4 and 3e-4, the groups of equal size",
        f"var[0]: got {var[0]:.3g}, want 0.0002",
    )


def _no_empty_group(trial):
    mu, var = moments(trial.rng, 3)
    empty = rejects(trial.student, (0, mu, var, 5, mu, var), "n_a = 0")
    return empty or rejects(trial.student, (5, mu, var, 0, mu, var), "n_b = 0")


MERGE_STATISTICS = Exercise(
    "merge_statistics",
    norms.merge_statistics,
    ("n_a", "mu_a", "var_a", "n_b", "mu_b", "var_b"),
    ("n", "mu", "var"),
    merge_cases,
    extra=(
        Property("three groups, merged in any order", _three_groups),
        Property("keeps its digits far from 0", _far_from_zero, 0.5),
        Property("refuses an empty group", _no_empty_group, 0.5),
    ),
    weights=(0.5, 1, 1.5),
    forms=(forms.merge_statistics, forms.merge_by_shares, forms.merge_around_the_mean),
)


MERGE_STATISTICS.mistakes += changed(
    forms.merge_statistics,
    S9,
    """
    variances summed: the two variances are added: merging two equal groups then doubles
    the spread
        within + between -> var_a + var_b
        seen in rsl_rl #226
    counts and means ignored: both groups count the same, and what their means differ by
    is forgotten
        (n_a * mu_a + n_b * mu_b) / n -> (mu_a + mu_b) / 2
        within + between -> (var_a + var_b) / 2
        seen in mapillary/inplace_abn #68; Paddle #32464
    pooled variance: the variances are pooled as for a t-test, with n − 2 below the line
        within + between -> ((n_a - 1) * var_a + (n_b - 1) * var_b) / (n - 2)
        seen in textbooks of statistics
    difference of squares: The mean of x² minus the square of the mean loses its digits
    far from 0.
        within + between
            -> (n_a * (var_a + mu_a**2) + n_b * (var_b + mu_b**2)) / n - mu**2
        min(n_a, n_b) < 1 -> False
        shows keeps its digits far from 0
        seen in Paddle #16121
    """,
)


EXERCISES = (
    BATCHNORM_FORWARD,
    UPDATE_RUNNING_STATS,
    BATCHNORM_INFERENCE,
    MERGE_STATISTICS,
)
