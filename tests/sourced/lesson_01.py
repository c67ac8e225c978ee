"""Published mistakes of lesson 01 that no bank lists: edits have to explain them."""

import numpy as np

from bn_helpers import norms


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


def no_scale_and_shift(x, gamma, beta, eps=1e-5):
    mu, var = x.mean(0), x.var(0)
    return (x - mu) / np.sqrt(var + eps), mu, var


def momentum_reversed(running_mean, running_var, mu, var, N, momentum=0.1):
    return norms.update_running_stats(
        running_mean, running_var, mu, var, N, 1 - momentum
    )


def biased_running_var(running_mean, running_var, mu, var, N, momentum=0.1):
    keep = 1 - momentum
    return keep * running_mean + momentum * mu, keep * running_var + momentum * var


def reversed_and_biased(running_mean, running_var, mu, var, N, momentum=0.1):
    return biased_running_var(running_mean, running_var, mu, var, N, 1 - momentum)


def never_updated(running_mean, running_var, mu, var, N, momentum=0.1):
    return running_mean, running_var


def thrown_away(running_mean, running_var, mu, var, N, momentum=0.1):
    return mu, var * N / (N - 1)


def with_batch_statistics(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, x.mean(0), np.sqrt(x.var(0) + eps))


def inference_eps_outside(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, running_mean, np.sqrt(running_var) + eps)


def inference_eps_left_out(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, running_mean, np.sqrt(running_var))


def inference_by_variance(x, gamma, beta, running_mean, running_var, eps=1e-5):
    return _scaled(x, gamma, beta, running_mean, running_var + eps)


def counts_ignored(n_a, mu_a, var_a, n_b, mu_b, var_b):
    d = mu_b - mu_a
    return n_a + n_b, (mu_a + mu_b) / 2, (var_a + var_b) / 2 + d**2 / 4


def means_ignored(n_a, mu_a, var_a, n_b, mu_b, var_b):
    n = n_a + n_b
    return n, (n_a * mu_a + n_b * mu_b) / n, (n_a * var_a + n_b * var_b) / n


MISTAKES = (
    (
        "batchnorm_forward",
        "unbiased variance",
        "makemore part 3, cell 7; fast.ai course-v3 07_batchnorm",
        unbiased,
    ),
    (
        "batchnorm_forward",
        "eps outside the root",
        "Tencent/ncnn #311; pytorch #1804",
        eps_outside,
    ),
    (
        "batchnorm_forward",
        "eps left out",
        "makemore part 3, cell 7; chainer #2214",
        eps_left_out,
    ),
    (
        "batchnorm_forward",
        "eps stored in the variance",
        "nntrainer #677; keras-contrib #287",
        eps_stored,
    ),
    (
        "batchnorm_forward",
        "variance for standard deviation",
        "mbadry1/DeepLearning.ai-Summary #183",
        divides_by_variance,
    ),
    ("batchnorm_forward", "square for root", "jax #442", square_for_root),
    (
        "batchnorm_forward",
        "root of the standard deviation",
        "fast.ai course-v3 07_batchnorm, InstanceNorm",
        root_of_std,
    ),
    (
        "batchnorm_forward",
        "wrong axis",
        "makemore part 3, cell 24; cs231n.github.io #180",
        over_features,
    ),
    (
        "batchnorm_forward",
        "one statistic for all features",
        "passes the example of the source homework",
        one_for_all,
    ),
    (
        "batchnorm_forward",
        "gamma and beta ignored",
        "passes the example of the source homework",
        no_scale_and_shift,
    ),
    (
        "update_running_stats",
        "momentum reversed",
        "cs231n.github.io #180; d2l-en #2213",
        momentum_reversed,
    ),
    (
        "update_running_stats",
        "biased running variance",
        "ARENA_3.0 #415; mlx #3817; tt-metal #55438; the source tutorial",
        biased_running_var,
    ),
    (
        "update_running_stats",
        "momentum reversed, biased running variance",
        "CS231n assignment 2, layers.py",
        reversed_and_biased,
    ),
    ("update_running_stats", "never updated", "pytorch/xla #806", never_updated),
    ("update_running_stats", "old statistics thrown away", "keras #13117", thrown_away),
    (
        "batchnorm_inference",
        "batch statistics in evaluation",
        "the source article; keras #3085; pytorch/xla #806",
        with_batch_statistics,
    ),
    (
        "batchnorm_inference",
        "eps outside the root",
        "Tencent/ncnn #311",
        inference_eps_outside,
    ),
    ("batchnorm_inference", "eps left out", "chainer #2214", inference_eps_left_out),
    (
        "batchnorm_inference",
        "variance for standard deviation",
        "mbadry1/DeepLearning.ai-Summary #183",
        inference_by_variance,
    ),
    (
        "merge_statistics",
        "counts ignored",
        "mapillary/inplace_abn #68; Paddle #32464",
        counts_ignored,
    ),
    ("merge_statistics", "distance of the means ignored", "rsl_rl #226", means_ignored),
)
