"""Published mistakes of lesson 07 that no bank lists: edits have to explain them."""

import numpy as np
import torch
from torch import nn

from bn_checks.forms import lesson_07 as forms

EPS = 1e-5


def rows(a):
    """Sum over the samples; one column stays."""
    return a.sum(axis=1, keepdims=True)


def moments(z):
    """Mean and biased variance over the samples, (D, 1)."""
    return z.mean(axis=1, keepdims=True), z.var(axis=1, keepdims=True)


def rounding_has_a_direction(gradient, truth):
    length, true_length = np.linalg.norm(gradient), np.linalg.norm(truth)
    return (gradient * truth).sum() / (length * true_length), length / true_length


def no_weights(dz, W, a):
    return dz, dz @ a.T, rows(dz)


def not_transposed(dz, W, a):
    return W @ dz, dz @ a.T, rows(dz)


def gradient_transposed(dz, W, a):
    return W.T @ dz, a @ dz.T, rows(dz)


def bias_averaged(dz, W, a):
    return W.T @ dz, dz @ a.T, dz.mean(axis=1, keepdims=True)


def one_bias(dz, W, a):
    return W.T @ dz, dz @ a.T, np.full((len(dz), 1), dz.sum())


def _divided_by(weights, norm):
    """The four gradients, divided by what two functions make of the shapes."""

    def run(dy, dz, x_hat, a):
        D, N = dz.shape
        w, n = weights(D, N), norm(D, N)
        return dz @ a.T / w, rows(dz) / w, rows(dy * x_hat) / n, rows(dy) / n

    return run


def behind_the_norm(dy, x_hat, var, gamma, eps=EPS):
    """dz in closed form."""
    N = dy.shape[1]
    passed = dy - rows(dy) / N - x_hat * rows(dy * x_hat) / N
    return gamma / np.sqrt(var + eps) * passed


def layer_reference(dy, x_hat, var, gamma, a):
    dz = behind_the_norm(dy, x_hat, var, gamma)
    return dz, dz @ a.T, rows(dz)


def weights_too_early(dy, x_hat, var, gamma, a):
    dz = behind_the_norm(dy, x_hat, var, gamma)
    return dz, dy @ a.T, rows(dz)


def bias_too_early(dy, x_hat, var, gamma, a):
    dz = behind_the_norm(dy, x_hat, var, gamma)
    return dz, dz @ a.T, rows(dy)


def layer_detached(dy, x_hat, var, gamma, a):
    dz = gamma / np.sqrt(var + EPS) * dy
    return dz, dz @ a.T, rows(dz)


def layer_without_gamma(dy, x_hat, var, gamma, a):
    return layer_reference(dy, x_hat, var, 1, a)


def gradient_dropped(da, z, x_hat, gamma, beta):
    return 1.0 * (gamma * x_hat + beta > 0)


def norm_reference(dy, x_hat, var, gamma):
    return behind_the_norm(dy, x_hat, var, gamma), rows(dy * x_hat), rows(dy)


def gamma_left_out(dy, x_hat, var, gamma):
    return norm_reference(dy, x_hat, var, 1)


def norm_detached(dy, x_hat, var, gamma):
    return gamma / np.sqrt(var + EPS) * dy, rows(dy * x_hat), rows(dy)


def norm_forward(
    z, gamma, beta, running_mean, running_var, training, new=0.1, ddof=1, frozen=True
):
    """The forward pass in both modes; mistakes change one of the last three."""
    mean, var = moments(z)
    N = z.shape[1]
    if training or not frozen:
        running_mean = (1 - new) * running_mean + new * mean
        running_var = (1 - new) * running_var + new * var * N / (N - ddof)
    if not training:
        mean, var = running_mean, running_var
    return gamma * (z - mean) / np.sqrt(var + EPS) + beta, running_mean, running_var


def batch_statistics(z, gamma, beta, running_mean, running_var, training):
    mean, var = moments(z)
    y = gamma * (z - mean) / np.sqrt(var + EPS) + beta
    return y, running_mean, running_var


def biased_running_variance(*args):
    return norm_forward(*args, ddof=0)


def momentum_reversed(*args):
    return norm_forward(*args, new=0.9)


def log_softmax(logits):
    shifted = logits - logits.max(axis=0)
    return shifted - np.log(np.exp(shifted).sum(axis=0))


def loss_and_slope(logits, labels):
    """Mean cross-entropy and its gradient at the logits."""
    logs, picked = log_softmax(logits), (labels, np.arange(len(labels)))
    slope = np.exp(logs)
    slope[picked] -= 1
    return -logs[picked].mean(), slope / len(labels)


def output_reference(a, W, b, labels):
    loss, dz = loss_and_slope(W @ a + b, labels)
    return loss, W.T @ dz, dz @ a.T, rows(dz)


def slope_of_the_sum(a, W, b, labels):
    loss, *gradients = output_reference(a, W, b, labels)
    return loss, *(len(labels) * g for g in gradients)


def one_output_bias(a, W, b, labels):
    loss, da, dW, db = output_reference(a, W, b, labels)
    return loss, da, dW, np.full_like(db, db.sum())


def eps_outside(z):
    mu, var = moments(z)
    return (z - mu) / (np.sqrt(var) + EPS)


def unbiased(z):
    mu, var = moments(z)
    N = z.shape[1]
    return (z - mu) / np.sqrt(var * N / (N - 1) + EPS)


class BatchNorm(nn.Module):
    """The reference; mistakes override one of the three methods below."""

    def __init__(self, D):
        super().__init__()
        self.gamma, self.beta = (
            nn.Parameter(torch.ones(D)),
            nn.Parameter(torch.zeros(D)),
        )
        self.keep(running_mean=torch.zeros(D), running_var=torch.ones(D))

    def forward(self, x):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = self.measure(x)
            self.follow(mean, var, len(x))
        return self.gamma * (x - mean) / torch.sqrt(var + EPS) + self.beta

    def keep(self, **statistics):
        for name, value in statistics.items():
            self.register_buffer(name, value)

    def measure(self, x):
        return x.mean(0), x.var(0, correction=0)

    def follow(self, mean, var, N):
        mean, var = mean.detach(), var.detach() * N / (N - 1)
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        self.running_var = 0.9 * self.running_var + 0.1 * var


class GraphKept(BatchNorm):
    def follow(self, mean, var, N):
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
        self.running_var = 0.9 * self.running_var + 0.1 * var * N / (N - 1)


class Biased(BatchNorm):
    def follow(self, mean, var, N):
        super().follow(mean, var * (N - 1) / N, N)


def always_following(*args):
    *rest, _ = args
    return forms.norm_forward(*args)[0], *forms.norm_forward(*rest, True)[1:]


MISTAKES = (
    (
        "direction_and_size",
        "rounding has a direction",
        "HKUDS/LightRAG #3421; sentence-transformers #625",
        rounding_has_a_direction,
    ),
    ("affine_backward", "no weights", "the source article", no_weights),
    (
        "affine_backward",
        "W not transposed",
        "nntile/nntile #433: right only where the widths are equal",
        not_transposed,
    ),
    (
        "affine_backward",
        "dW transposed",
        "iamtrask/Grokking-Deep-Learning #22, #23",
        gradient_transposed,
    ),
    ("affine_backward", "bias gradient averaged", "kvfrans/notes #5", bias_averaged),
    (
        "affine_backward",
        "one bias for all outputs",
        "rasbt/stat453-deep-learning-ss21 #5",
        one_bias,
    ),
    (
        "parameter_gradients",
        "sums for gamma and beta",
        "the source article",
        _divided_by(lambda D, N: N, lambda D, N: 1),
    ),
    (
        "parameter_gradients",
        "sums everywhere",
        "mlpack/ensmallen #428; davharris/mistnet #33",
        _divided_by(lambda D, N: 1, lambda D, N: 1),
    ),
    (
        "parameter_gradients",
        "divided twice",
        "d2l-en #1000",
        _divided_by(lambda D, N: N**2, lambda D, N: N**2),
    ),
    (
        "parameter_gradients",
        "divided by the number of features",
        "RubixML/ML #423; victorlempitsky/Mate #2",
        _divided_by(lambda D, N: D, lambda D, N: D),
    ),
    ("layer_backward", "W too early", "the source article", weights_too_early),
    ("layer_backward", "b too early", "the source article", bias_too_early),
    (
        "layer_backward",
        "detached statistics",
        "fast.ai course-v3 07_batchnorm; keras PR #19102",
        layer_detached,
    ),
    (
        "layer_backward",
        "gamma left out",
        "denizyuret/Knet.jl #288",
        layer_without_gamma,
    ),
    ("relu_backward", "gradient dropped", "haifengl/smile #528", gradient_dropped),
    ("norm_backward", "gamma left out", "denizyuret/Knet.jl #288", gamma_left_out),
    (
        "norm_backward",
        "detached statistics",
        "fast.ai course-v3 07_batchnorm; keras PR #19102",
        norm_detached,
    ),
    (
        "norm_forward",
        "batch statistics in evaluation",
        "the source article; vlfeat/matconvnet #506; davidsandberg/facenet #278",
        batch_statistics,
    ),
    (
        "norm_forward",
        "momentum reversed",
        "cs231n.github.io #180; d2l-en #2213",
        momentum_reversed,
    ),
    (
        "norm_forward",
        "biased running variance",
        "the source tutorial; ARENA_3.0 #415; pytorch #19916",
        biased_running_variance,
    ),
    (
        "output_layer",
        "gradients of the sum",
        "jax #3113; victorlempitsky/Mate #2",
        slope_of_the_sum,
    ),
    (
        "output_layer",
        "one bias for all outputs",
        "rasbt/stat453-deep-learning-ss21 #5",
        one_output_bias,
    ),
    (
        "normalize",
        "eps outside the root",
        "Tencent/ncnn #311; pytorch #1804",
        eps_outside,
    ),
    (
        "normalize",
        "unbiased variance",
        "makemore part 3, cell 7; fast.ai course-v3 07_batchnorm",
        unbiased,
    ),
    (
        "torch_batchnorm",
        "graph kept",
        "labml_nn batch_norm; pytorch #20275; nflows #11; d2l-en #1342",
        GraphKept,
    ),
    (
        "torch_batchnorm",
        "biased running variance",
        "ARENA_3.0 #415; labml_nn batch_norm; pytorch #19916",
        Biased,
    ),
    (
        "norm_forward",
        "statistics move in evaluation",
        "nn-zero-to-hero #82",
        always_following,
    ),
)
