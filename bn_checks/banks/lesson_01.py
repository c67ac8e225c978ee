"""Checks of lesson 01, the forward pass."""

import numpy as np

from bn_helpers import norms

from ..common import ALONE, batch, moments, same_dtype
from ..engine import Exercise, Mistake, Property, rejects

S2 = "section 2, Normalize a batch"
S4 = "section 4, See what eps does"
S7 = "section 7, Keep running statistics"
S8 = "section 8, Normalize without a batch"
S9 = "section 9, Compute a variance that survives"


def batch_cases(rng):
    return [batch(rng, 12, 5), (*batch(rng, 9, 3), 0.1), (*batch(rng, 8, 17), 1e-3)]


# --- batchnorm_forward ---------------------------------------------------------------


def forward_reference(x, gamma, beta, eps=1e-5):
    y, cache = norms.batchnorm_forward(x, gamma, beta, eps)
    return y, cache.mu, cache.var


def _scaled(x, gamma, beta, mu, scale):
    return gamma * (x - mu) / scale + beta


def unbiased(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0, ddof=1)
    return _scaled(x, gamma, beta, mu, np.sqrt(var + eps)), mu, var


def eps_outside(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return _scaled(x, gamma, beta, mu, np.sqrt(var) + eps), mu, var


def eps_left_out(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return _scaled(x, gamma, beta, mu, np.sqrt(var)), mu, var


def eps_stored(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0) + eps
    return _scaled(x, gamma, beta, mu, np.sqrt(var)), mu, var


def divides_by_variance(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return _scaled(x, gamma, beta, mu, var + eps), mu, var


def square_for_root(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return _scaled(x, gamma, beta, mu, (var + eps) ** 2), mu, var


def root_of_std(x, gamma, beta, eps=1e-5):
    mu, std = x.mean(0), x.std(0)
    return _scaled(x, gamma, beta, mu, np.sqrt(std + eps)), mu, std


def over_features(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(1), x.var(1)
    return (
        _scaled(x, gamma, beta, mu[:, None], np.sqrt(var + eps)[:, None]),
        mu,
        var,
    )


def one_for_all(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(), x.var()
    return _scaled(x, gamma, beta, mu, np.sqrt(var + eps)), mu, var


def first_column(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x[:, 0].var()
    return _scaled(x, gamma, beta, mu, np.sqrt(var + eps)), mu, np.full_like(mu, var)


def no_scale_and_shift(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return (x - mu) / np.sqrt(var + eps), mu, var


def difference_of_squares(x, gamma, beta, eps=1e-5):
    mu = x.mean(0)
    var = (x**2).mean(0) - mu**2
    return _scaled(x, gamma, beta, mu, np.sqrt(var + eps)), mu, var


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


FORWARD_MISTAKES = (
    Mistake(
        "unbiased variance",
        "Your variance divides by N − 1; the one that normalizes divides by N.",
        S2,
        "makemore part 3, cell 7; fast.ai course-v3 07_batchnorm",
        unbiased,
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance.",
        S4,
        "Tencent/ncnn #311; pytorch #1804",
        eps_outside,
    ),
    Mistake(
        "eps left out",
        "Your result does not depend on eps.",
        S4,
        "makemore part 3, cell 7; chainer #2214",
        eps_left_out,
    ),
    Mistake(
        "eps stored in the variance",
        "The variance you return already contains eps.",
        S4,
        "nntrainer #677; keras-contrib #287",
        eps_stored,
    ),
    Mistake(
        "variance for standard deviation",
        "You divide by the variance; its units are those of x squared.",
        S2,
        "mbadry1/DeepLearning.ai-Summary #183",
        divides_by_variance,
    ),
    Mistake(
        "square for root",
        "You square the variance where its root is meant.",
        S2,
        "jax #442",
        square_for_root,
    ),
    Mistake(
        "root of the standard deviation",
        "You take the root twice: of the variance, and of the result again.",
        S2,
        "fast.ai course-v3 07_batchnorm, InstanceNorm",
        root_of_std,
    ),
    Mistake(
        "wrong axis",
        "Your statistics belong to a sample; batch norm's belong to a feature.",
        S2,
        "makemore part 3, cell 24; cs231n.github.io #180",
        over_features,
    ),
    Mistake(
        "one statistic for all features",
        "You use one mean and one variance for the whole array.",
        S2,
        "passes the example of the source homework",
        one_for_all,
    ),
    Mistake(
        "one feature's variance for all",
        "Every feature is divided by the spread of the first one.",
        S2,
        "passes the example of the source homework",
        first_column,
    ),
    Mistake(
        "gamma and beta ignored",
        "Your result does not depend on gamma and beta.",
        "section 3, Scale and shift",
        "passes the example of the source homework",
        no_scale_and_shift,
    ),
    Mistake(
        "difference of squares",
        "The mean of x² minus the square of the mean loses its digits far from 0.",
        S9,
        "the source homework; labml_nn batch_norm; tt-metal #46159",
        difference_of_squares,
        shows="keeps its digits far from 0",
    ),
)

BATCHNORM_FORWARD = Exercise(
    "batchnorm_forward",
    forward_reference,
    ("x", "gamma", "beta", "eps"),
    ("y", "mu", "var"),
    batch_cases,
    extra=(
        same_dtype(("y", "mu", "var")),
        Property("keeps its digits far from 0", _survives_offset, 0.5),
        Property("refuses a batch of one", _needs_two, 0.5),
    ),
    mistakes=FORWARD_MISTAKES,
    weights=(2, 1, 1),
)


# --- update_running_stats ------------------------------------------------------------


REFUSES_ONE = "refuses N = 1"


def update_cases(rng):
    return [
        (*moments(rng, 5), *moments(rng, 5), N, m) for N, m in [(8, 0.1), (33, 0.7)]
    ]


def _needs_two_for_update(trial):
    statistics = (*moments(trial.rng, 4), *moments(trial.rng, 4))
    trial.run((*statistics, 2, 0.1))  # two are enough
    return rejects(trial.student, (*statistics, 1, 0.1), "N = 1")


def _default_momentum(trial):
    args = trial.cases[0][:5]
    same = all(np.allclose(g, w) for g, w in zip(*trial.run(args), strict=True))
    return () if same else ("without momentum the result is not that of momentum=0.1",)


def momentum_reversed(running_mean, running_var, mu, var, N, momentum=0.1):
    return norms.update_running_stats(
        running_mean, running_var, mu, var, N, 1 - momentum
    )


def biased_running_var(running_mean, running_var, mu, var, N, momentum=0.1):
    keep = 1 - momentum
    return keep * running_mean + momentum * mu, keep * running_var + momentum * var


def reversed_and_biased(running_mean, running_var, mu, var, N, momentum=0.1):
    return biased_running_var(running_mean, running_var, mu, var, N, 1 - momentum)


def running_std(running_mean, running_var, mu, var, N, momentum=0.1):
    std = np.sqrt(var * N / (N - 1))
    keep = 1 - momentum
    return keep * running_mean + momentum * mu, keep * running_var + momentum * std


def never_updated(running_mean, running_var, mu, var, N, momentum=0.1):
    return running_mean, running_var


def thrown_away(running_mean, running_var, mu, var, N, momentum=0.1):
    return mu, var * N / (N - 1)


def mean_corrected_too(running_mean, running_var, mu, var, N, momentum=0.1):
    return norms.update_running_stats(
        running_mean, running_var, mu * N / (N - 1), var, N, momentum
    )


def running_inverse(running_mean, running_var, mu, var, N, momentum=0.1):
    keep = 1 - momentum
    mean = keep * running_mean + momentum * mu
    return mean, keep * running_var + momentum / np.sqrt(var)


def mean_in_the_variance(running_mean, running_var, mu, var, N, momentum=0.1):
    return norms.update_running_stats(running_mean, running_mean, mu, var, N, momentum)


def around_the_running_mean(running_mean, running_var, mu, var, N, momentum=0.1):
    keep = 1 - momentum
    mean = keep * running_mean + momentum * mu
    return mean, keep * running_var + momentum * (var + (mu - mean) ** 2)


def changed_in_place(running_mean, running_var, mu, var, N, momentum=0.1):
    running_mean[:], running_var[:] = norms.update_running_stats(
        running_mean, running_var, mu, var, N, momentum
    )
    return running_mean, running_var


def accepts_one_sample(running_mean, running_var, mu, var, N, momentum=0.1):
    keep, unbiased = 1 - momentum, var * N / (N - 1)
    return keep * running_mean + momentum * mu, keep * running_var + momentum * unbiased


UPDATE_MISTAKES = (
    Mistake(
        "momentum reversed",
        "You give the new batch the weight 1 − momentum; here momentum is the weight "
        "of the new batch.",
        S7,
        "cs231n.github.io #180; d2l-en #2213",
        momentum_reversed,
    ),
    Mistake(
        "biased running variance",
        "You store the variance that divides by N; the stored one estimates the "
        "population and divides by N − 1.",
        S7,
        "ARENA_3.0 #415; mlx #3817; tt-metal #55438; the source tutorial",
        biased_running_var,
    ),
    Mistake(
        "momentum reversed, biased running variance",
        "The new batch has the weight 1 − momentum, and the stored variance divides "
        "by N: this is CS231n's convention, not the one asked for.",
        S7,
        "CS231n assignment 2, layers.py",
        reversed_and_biased,
    ),
    Mistake(
        "running standard deviation",
        "You store a standard deviation; what is stored is a variance.",
        S7,
        "makemore part 3, cell 7",
        running_std,
    ),
    Mistake(
        "never updated",
        "You return the statistics you were given: the new batch leaves no trace.",
        S7,
        "pytorch/xla #806",
        never_updated,
    ),
    Mistake(
        "old statistics thrown away",
        "You keep nothing of the statistics so far; the new batch has only the weight "
        "momentum.",
        S7,
        "keras #13117",
        thrown_away,
    ),
    Mistake(
        "mean corrected, too",
        "You multiply the mean by N / (N − 1) as well; only the variance needs that.",
        S7,
        "chainer #332",
        mean_corrected_too,
    ),
    Mistake(
        "running inverse",
        "You store one over a standard deviation; what is stored is a variance.",
        S7,
        "torch/nn #567, #609; soumith/cudnn.torch #109",
        running_inverse,
    ),
    Mistake(
        "running mean in the running variance",
        "Your running variance goes on from the running mean: look at the names in "
        "that line.",
        S7,
        "two published CS231n solutions, batchnorm_forward",
        mean_in_the_variance,
    ),
    Mistake(
        "spread around the running mean",
        "You measure how far the new batch lies from the running mean; var is its "
        "spread around its own mean.",
        S7,
        "HumanCompatibleAI/imitation PR #443; tensorflow #13064",
        around_the_running_mean,
    ),
    Mistake(
        "changed in place",
        "You write into the caller's arrays; return new ones.",
        S7,
        "mapillary/inplace_abn #14; pytorch #13402",
        changed_in_place,
        shows="leaves its inputs as they were",
    ),
    Mistake(
        "accepts one sample",
        "You accept a batch of one, where N − 1 is 0 and the variance becomes nan.",
        S7,
        "torch/nn PR #1271; facebookresearch/SparseConvNet #190",
        accepts_one_sample,
        shows=REFUSES_ONE,
    ),
)

UPDATE_RUNNING_STATS = Exercise(
    "update_running_stats",
    norms.update_running_stats,
    ("running_mean", "running_var", "mu", "var", "N", "momentum"),
    ("running_mean", "running_var"),
    update_cases,
    extra=(
        Property("momentum is 0.1 when left out", _default_momentum, 0),
        Property(REFUSES_ONE, _needs_two_for_update, 0.5),
    ),
    mistakes=UPDATE_MISTAKES,
)


# --- batchnorm_inference -------------------------------------------------------------


def inference_cases(rng):
    def case(N, D, *eps):
        return (*batch(rng, N, D), *moments(rng, D), *eps)

    return [case(12, 5), case(9, 3, 0.1), case(1, 17, 1e-3)]


def with_batch_statistics(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, x.mean(0), np.sqrt(x.var(0) + eps))


def inference_eps_outside(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, running_mean, np.sqrt(running_var) + eps)


def inference_eps_left_out(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, running_mean, np.sqrt(running_var))


def inference_by_variance(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, running_mean, running_var + eps)


def updates_in_evaluation(x, gamma, beta, running_mean, running_var, eps=1e-5):
    y = norms.batchnorm_inference(x, gamma, beta, running_mean, running_var, eps)
    running_mean += 0.1 * (x.mean(0) - running_mean)
    running_var += 0.1 * (x.var(0) - running_var)
    return y


INFERENCE_MISTAKES = (
    Mistake(
        "batch statistics in evaluation",
        "You normalize with the statistics of the batch you were given; evaluation "
        "uses the stored ones.",
        S8,
        "the source article; keras #3085; pytorch/xla #806",
        with_batch_statistics,
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance, as in "
        "training.",
        S4,
        "Tencent/ncnn #311",
        inference_eps_outside,
    ),
    Mistake(
        "eps left out",
        "Your result does not depend on eps; training and evaluation must share it.",
        S4,
        "chainer #2214",
        inference_eps_left_out,
    ),
    Mistake(
        "variance for standard deviation",
        "You divide by the running variance; its units are those of x squared.",
        S8,
        "mbadry1/DeepLearning.ai-Summary #183",
        inference_by_variance,
    ),
    Mistake(
        "statistics updated in evaluation",
        "You change the running statistics while evaluating: the test data leak in.",
        S8,
        "nn-zero-to-hero #82",
        updates_in_evaluation,
        shows="leaves its inputs as they were",
    ),
)

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
    mistakes=INFERENCE_MISTAKES,
    weights=(2,),
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
    return rejects(trial.student, (0, mu, var, 5, mu, var), "n_a = 0")


def counts_ignored(n_a, mu_a, var_a, n_b, mu_b, var_b):
    d = mu_b - mu_a
    return n_a + n_b, (mu_a + mu_b) / 2, (var_a + var_b) / 2 + d**2 / 4


def means_ignored(n_a, mu_a, var_a, n_b, mu_b, var_b):
    n = n_a + n_b
    return n, (n_a * mu_a + n_b * mu_b) / n, (n_a * var_a + n_b * var_b) / n


def variances_summed(n_a, mu_a, var_a, n_b, mu_b, var_b):
    n = n_a + n_b
    return n, (n_a * mu_a + n_b * mu_b) / n, var_a + var_b


def merged_squares(n_a, mu_a, var_a, n_b, mu_b, var_b):
    n = n_a + n_b
    mu = (n_a * mu_a + n_b * mu_b) / n
    square = (n_a * (var_a + mu_a**2) + n_b * (var_b + mu_b**2)) / n
    return n, mu, square - mu**2


MERGE_MISTAKES = (
    Mistake(
        "counts ignored",
        "You treat both groups as equally large.",
        S9,
        "mapillary/inplace_abn #68; Paddle #32464",
        counts_ignored,
    ),
    Mistake(
        "distance of the means ignored",
        "You average the variances; what the two means differ by is spread as well.",
        S9,
        "rsl_rl #226",
        means_ignored,
    ),
    Mistake(
        "variances summed",
        "You add the variances; merging two equal groups must not double the spread.",
        S9,
        "rsl_rl #226",
        variances_summed,
    ),
    Mistake(
        "difference of squares",
        "The mean of x² minus the square of the mean loses its digits far from 0.",
        S9,
        "Paddle #16121",
        merged_squares,
        shows="keeps its digits far from 0",
    ),
)

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
    mistakes=MERGE_MISTAKES,
    weights=(0.5, 1, 1.5),
)

EXERCISES = (
    BATCHNORM_FORWARD,
    UPDATE_RUNNING_STATS,
    BATCHNORM_INFERENCE,
    MERGE_STATISTICS,
)
