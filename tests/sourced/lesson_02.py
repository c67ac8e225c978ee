"""Published mistakes of lesson 02 that no bank lists: edits have to explain them."""

import numpy as np

from bn_helpers import norms


def _inverse_std(var, eps):
    return 1 / np.sqrt(var + eps)


def forward_difference(f, x, h=1e-5):
    def slope(i):
        above = x.copy()
        above[i] += h
        return (f(above) - f(x)) / h

    return _per_entry(slope, x)


def shared_array(f, x, h=1e-5):
    x = x.copy()

    def slope(i):
        above = below = x
        above[i] += h
        below[i] -= h
        return (f(above) - f(below)) / (2 * h)

    return _per_entry(slope, x)


def all_at_once(f, x, h=1e-5):
    return np.full(x.shape, (f(x + h) - f(x - h)) / (2 * h))


def _per_entry(slope, x):
    gradient = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        gradient[i] = slope(i)
    return gradient


def param_reference(dy, x_hat):
    return (dy * x_hat).sum(0), dy.sum(0)


def params_averaged(dy, x_hat):
    return (dy * x_hat).mean(0), dy.mean(0)


def params_swapped(dy, x_hat):
    return dy.sum(0), (dy * x_hat).sum(0)


def params_of_each_sample(dy, x_hat):
    return dy * x_hat, dy


def params_over_features(dy, x_hat):
    return (dy * x_hat).sum(1), dy.sum(1)


def params_over_everything(dy, x_hat):
    return (dy * x_hat).sum(), dy.sum()


def beta_from_the_input(dy, x_hat):
    return (dy * x_hat).sum(0), x_hat.sum(0)


def staged(dy, x, mu, var, gamma, eps=1e-5, through_var=1, through_mean=1):
    """The staged backward pass; mistakes weigh two of its paths wrongly."""
    inv_std = _inverse_std(var, eps)
    dx_hat = dy * gamma
    dvar = (dx_hat * (x - mu)).sum(0) * -0.5 * inv_std**3
    dmu = -(dx_hat * inv_std).sum(0)
    dx = dx_hat * inv_std
    dx += (through_var * dvar * 2 * (x - mu) + through_mean * dmu) / len(x)
    return dx_hat, dvar, dmu, dx


def staged_by_path(weights):
    def wrong(dy, x, mu, var, gamma, eps=1e-5):
        return staged(dy, x, mu, var, gamma, eps, *weights(*x.shape))

    return wrong


def staged_no_gamma(dy, x, mu, var, gamma, eps=1e-5):
    return staged(dy, x, mu, var, np.ones_like(gamma), eps)


def staged_no_eps(dy, x, mu, var, gamma, eps=1e-5):
    return staged(dy, x, mu, var, gamma, 0)


def staged_sign(dy, x, mu, var, gamma, eps=1e-5):
    dx_hat, dvar, dmu, dx = staged(dy, x, mu, var, gamma, eps, through_var=-1)
    return dx_hat, -dvar, dmu, dx


def closed(dy, x_hat, var, gamma, eps=1e-5, through_var=1, through_mean=1):
    """The closed form; mistakes weigh the terms of variance and mean wrongly."""
    dgamma, dbeta = param_reference(dy, x_hat)
    paths = (through_mean * dbeta + through_var * x_hat * dgamma) / len(dy)
    return gamma * _inverse_std(var, eps) * (dy - paths), dgamma, dbeta


def closed_by_path(weights):
    def wrong(dy, x_hat, var, gamma, eps=1e-5):
        return closed(dy, x_hat, var, gamma, eps, *weights(*dy.shape))

    return wrong


def gamma_twice(dy, x_hat, var, gamma, eps=1e-5):
    dx, dgamma, dbeta = closed(dy, x_hat, var, gamma, eps)
    return gamma * dx, dgamma, dbeta


def closed_no_gamma(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, np.ones_like(gamma), eps)


def closed_no_eps(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, gamma, 0)


def closed_params_averaged(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, gamma, eps)[0], *params_averaged(dy, x_hat)


def closed_params_swapped(dy, x_hat, var, gamma, eps=1e-5):
    return closed(dy, x_hat, var, gamma, eps)[0], *params_swapped(dy, x_hat)


def inference_no_eps(dy, x, gamma, running_mean, running_var, eps=1e-5):
    return norms.batchnorm_inference_backward(
        dy, x, gamma, running_mean, running_var, eps=0
    )


def inference_params_averaged(dy, x, gamma, running_mean, running_var, eps=1e-5):
    dx, dgamma, dbeta = norms.batchnorm_inference_backward(
        dy, x, gamma, running_mean, running_var, eps
    )
    return dx, dgamma / len(dy), dbeta / len(dy)


class StartsAtZero(norms.BatchNorm1d):
    def __init__(self, D, eps=1e-5, momentum=0.1):
        super().__init__(D, eps, momentum)
        self.running_var = np.zeros(D)


class BiasedRunningVar(norms.BatchNorm1d):
    def statistics(self, x):
        if not self.training:
            return self.running_mean, self.running_var
        mu, var, keep = x.mean(0), x.var(0), 1 - self.momentum
        self.running_mean = keep * self.running_mean + self.momentum * mu
        self.running_var = keep * self.running_var + self.momentum * var
        return mu, var


class MomentumReversed(norms.BatchNorm1d):
    def __init__(self, D, eps=1e-5, momentum=0.1):
        super().__init__(D, eps, 1 - momentum)


class NeverUpdated(norms.BatchNorm1d):
    def statistics(self, x):
        if not self.training:
            return self.running_mean, self.running_var
        return x.mean(0), x.var(0)


class UpdatedInEvaluation(norms.BatchNorm1d):
    def statistics(self, x):
        used = self.running_mean, self.running_var
        mu, var = x.mean(0), x.var(0)
        self.running_mean, self.running_var = norms.update_running_stats(
            *used, mu, var, len(x), self.momentum
        )
        return (mu, var) if self.training else used


class BatchStatisticsInEvaluation(norms.BatchNorm1d):
    def statistics(self, x):
        mu, var = x.mean(0), x.var(0)
        return super().statistics(x) if self.training else (mu, var)


class TrainingBackwardInEvaluation(norms.BatchNorm1d):
    def backward(self, dy):
        training, self.training = self.training, True
        dx = super().backward(dy)
        self.training = training
        return dx


class DetachedStatistics(norms.BatchNorm1d):
    def backward(self, dy):
        super().backward(dy)
        return self.gamma * self.inv_std * dy


class AveragedGradients(norms.BatchNorm1d):
    def backward(self, dy):
        dx = super().backward(dy)
        self.dgamma, self.dbeta = self.dgamma / len(dy), self.dbeta / len(dy)
        return dx


MISTAKES = (
    (
        "numerical_gradient",
        "forward difference",
        "apache/mxnet #3693",
        forward_difference,
    ),
    (
        "numerical_gradient",
        "one array under two names",
        "HomericIntelligence/Odyssey #2089",
        shared_array,
    ),
    ("numerical_gradient", "all entries at once", "the source homework", all_at_once),
    (
        "param_gradients",
        "mean for sum",
        "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
        params_averaged,
    ),
    (
        "param_gradients",
        "gamma and beta swapped",
        "Oneflow-Inc/oneflow #6149",
        params_swapped,
    ),
    (
        "param_gradients",
        "not summed",
        "deeplearning4j/nd4j #2424; jimfleming/differentiation #1",
        params_of_each_sample,
    ),
    (
        "param_gradients",
        "summed over the features",
        "published batch-norm layers that sum along axis 1",
        params_over_features,
    ),
    (
        "param_gradients",
        "one sum for all features",
        "a published CS231n solution, batchnorm_backward: np.sum(dout)",
        params_over_everything,
    ),
    (
        "param_gradients",
        "beta's gradient from the input",
        "pytorch #2330",
        beta_from_the_input,
    ),
    (
        "batchnorm_backward_staged",
        "gamma left out",
        "denizyuret/Knet.jl #288",
        staged_no_gamma,
    ),
    ("batchnorm_backward_staged", "eps left out", "chainer #4191", staged_no_eps),
    (
        "batchnorm_backward_staged",
        "sign of the variance path",
        "mlpack PR #1327",
        staged_sign,
    ),
    (
        "batchnorm_backward_staged",
        "variance path missing",
        "abhiskk/ladder #2",
        staged_by_path(lambda N, D: (0, 1)),
    ),
    (
        "batchnorm_backward_staged",
        "mean path missing",
        "keras PR #19102",
        staged_by_path(lambda N, D: (1, 0)),
    ),
    (
        "batchnorm_backward_staged",
        "mean path not divided by N",
        "mlpack PR #1327",
        staged_by_path(lambda N, D: (1, N)),
    ),
    (
        "batchnorm_backward_staged",
        "divided by N − 1",
        "makemore part 4, cells 19 and 20",
        staged_by_path(lambda N, D: (N / (N - 1), 1)),
    ),
    (
        "batchnorm_backward_staged",
        "divided by the number of features",
        "RubixML/ML #423",
        staged_by_path(lambda N, D: (N / D, N / D)),
    ),
    (
        "batchnorm_backward",
        "gamma twice",
        "the source article; NVIDIA/Megatron-LM #6859",
        gamma_twice,
    ),
    (
        "batchnorm_backward",
        "gamma left out",
        "denizyuret/Knet.jl #288",
        closed_no_gamma,
    ),
    ("batchnorm_backward", "eps left out", "chainer #4191", closed_no_eps),
    (
        "batchnorm_backward",
        "variance path missing",
        "abhiskk/ladder #2",
        closed_by_path(lambda N, D: (0, 1)),
    ),
    (
        "batchnorm_backward",
        "mean path missing",
        "keras PR #19102",
        closed_by_path(lambda N, D: (1, 0)),
    ),
    (
        "batchnorm_backward",
        "detached statistics",
        "fast.ai course-v3 07_batchnorm; keras PR #19102; deeplearning4j #8379",
        closed_by_path(lambda N, D: (0, 0)),
    ),
    (
        "batchnorm_backward",
        "mean path not divided by N",
        "mlpack PR #1327",
        closed_by_path(lambda N, D: (1, N)),
    ),
    (
        "batchnorm_backward",
        "divided by N − 1",
        "makemore part 4, cells 19 and 20",
        closed_by_path(lambda N, D: (N / (N - 1), 1)),
    ),
    (
        "batchnorm_backward",
        "divided by the number of features",
        "RubixML/ML #423",
        closed_by_path(lambda N, D: (N / D, N / D)),
    ),
    (
        "batchnorm_backward",
        "mean for sum",
        "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
        closed_params_averaged,
    ),
    (
        "batchnorm_backward",
        "gamma and beta swapped",
        "Oneflow-Inc/oneflow #6149",
        closed_params_swapped,
    ),
    ("batchnorm_inference_backward", "eps left out", "chainer #4191", inference_no_eps),
    (
        "batchnorm_inference_backward",
        "mean for sum",
        "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
        inference_params_averaged,
    ),
    (
        "batchnorm1d",
        "running variance starts at 0",
        "chainer #879; d2l-en PR #1591; equinox #955",
        StartsAtZero,
    ),
    (
        "batchnorm1d",
        "biased running variance",
        "the source tutorial; ARENA_3.0 #415",
        BiasedRunningVar,
    ),
    (
        "batchnorm1d",
        "momentum reversed",
        "cs231n.github.io #180; d2l-en #2213",
        MomentumReversed,
    ),
    ("batchnorm1d", "statistics never updated", "pytorch/xla #806", NeverUpdated),
    (
        "batchnorm1d",
        "statistics updated in evaluation",
        "nn-zero-to-hero #82",
        UpdatedInEvaluation,
    ),
    (
        "batchnorm1d",
        "batch statistics in evaluation",
        "the source article; keras #3085",
        BatchStatisticsInEvaluation,
    ),
    (
        "batchnorm1d",
        "training formula in evaluation",
        "the source tutorial; vlfeat/matconvnet #1174",
        TrainingBackwardInEvaluation,
    ),
    (
        "batchnorm1d",
        "detached statistics",
        "fast.ai course-v3 07_batchnorm; keras PR #19102; deeplearning4j #8379",
        DetachedStatistics,
    ),
    (
        "batchnorm1d",
        "mean for sum",
        "cthorey/CS231 #9; wjbKimberly/cs231n_spring_2017_assignment #7",
        AveragedGradients,
    ),
)
