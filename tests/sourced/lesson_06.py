"""Published mistakes of lesson 06 that no bank lists: edits have to explain them."""

from itertools import pairwise

import numpy as np


def _standardized(z, axis, eps, ddof=0, plus_eps=None):
    var = z.var(axis, ddof=ddof, keepdims=True)
    std = np.sqrt(var + eps) if plus_eps is None else plus_eps(var, eps)
    return (z - z.mean(axis, keepdims=True)) / std, 1 / std


def forward_reference(x, W, b, gamma, beta, axis, eps=1e-5):
    x_hat, inv_std = _standardized(x @ W + b, axis, eps)
    return np.maximum(gamma * x_hat + beta, 0), x_hat, inv_std


def _forward(change=lambda axis: axis, **how):
    """The forward pass with the norm changed."""

    def wrong(x, W, b, gamma, beta, axis, eps=1e-5):
        x_hat, inv_std = _standardized(x @ W + b, change(axis), eps, **how)
        return np.maximum(gamma * x_hat + beta, 0), x_hat, inv_std

    return wrong


def no_relu(x, W, b, gamma, beta, axis, eps=1e-5):
    x_hat, inv_std = _standardized(x @ W + b, axis, eps)
    return gamma * x_hat + beta, x_hat, inv_std


def forward_no_eps(x, W, b, gamma, beta, axis, eps=1e-5):
    return forward_reference(x, W, b, gamma, beta, axis, 0)


def through_norm(g, gamma, x_hat, inv_std, axis):
    """From gamma * x_hat + beta back to what entered the norm."""
    g = g * gamma
    fitted = g.mean(axis, keepdims=True)
    fitted = fitted + x_hat * (g * x_hat).mean(axis, keepdims=True)
    return inv_std * (g - fitted)


def direct_path(g, gamma, x_hat, inv_std, axis):
    return inv_std * gamma * g


def gamma_outside(g, gamma, x_hat, inv_std, axis):
    return gamma * through_norm(g, np.ones_like(gamma), x_hat, inv_std, axis)


def gamma_left_out(g, gamma, x_hat, inv_std, axis):
    return through_norm(g, np.ones_like(gamma), x_hat, inv_std, axis)


def mask_of_output(dy, x, W, y):
    return dy * (y > 0)


def gradients(x, W, dz, g, x_hat):
    """dx, dW, db, dgamma, dbeta."""
    return dz @ W.T, x.T @ dz, dz.sum(0), (g * x_hat).sum(0), g.sum(0)


def _backward(mask=mask_of_output, norm=through_norm, end=gradients):
    """The backward pass, with one part replaced."""

    def backward(dy, x, W, gamma, x_hat, inv_std, y, axis):
        g = mask(dy, x, W, y)
        return end(x, W, norm(g, gamma, x_hat, inv_std, axis), g, x_hat)

    return backward


def averaged(x, W, dz, g, x_hat):
    dx, *params = gradients(x, W, dz, g, x_hat)
    return dx, *(p / len(x) for p in params)


def ahead_of_the_norm(x, W, dz, g, x_hat):
    dx, _, _, dgamma, dbeta = gradients(x, W, dz, g, x_hat)
    return dx, x.T @ g, g.sum(0), dgamma, dbeta


def no_weights(x, W, dz, g, x_hat):
    return dz, *gradients(x, W, dz, g, x_hat)[1:]


class Net:
    """The right network; each mistake replaces one of its methods."""

    def __init__(self, params, reg=0.0):
        self.params, self.reg = params, reg
        self.last = sum(name[0] == "W" for name in params)

    def loss(self, x, y):
        W, b = self.params[f"W{self.last}"], self.params[f"b{self.last}"]
        kept = {}
        for k in range(1, self.last):
            kept[k], x = self.forward(k, x)
        loss, d = self.cross_entropy(x @ W + b, y)
        grads = {f"W{self.last}": x.T @ d, f"b{self.last}": d.sum(0)}
        d = d @ W.T
        for k in range(self.last - 1, 0, -1):
            d, *new = self.backward(k, d, *kept[k])
            names = (f"{name}{k}" for name in ("W", "b", "gamma", "beta"))
            grads |= dict(zip(names, new, strict=True))
        return self.penalized(loss, grads, len(y))

    def forward(self, k, x):
        names = (f"{name}{k}" for name in ("W", "b", "gamma", "beta"))
        y, x_hat, inv_std = forward_reference(x, *map(self.params.get, names), 0)
        return (x, x_hat, inv_std, y), y

    def backward(self, k, d, x, x_hat, inv_std, y, **how):
        W, gamma = self.params[f"W{k}"], self.params[f"gamma{k}"]
        return _backward(**how)(d, x, W, gamma, x_hat, inv_std, y, 0)

    def cross_entropy(self, scores, y):
        scores = scores - scores.max(1, keepdims=True)
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        target = y[:, None] == np.arange(scores.shape[1])
        return -np.log(p[target]).mean(), (p - target) / len(y)

    def penalized(self, loss, grads, N):
        for name in self.penalized_names():
            loss = loss + 0.5 * self.reg * (self.params[name] ** 2).sum()
            grads[name] = grads[name] + self.reg * self.params[name]
        return loss, grads

    def penalized_names(self):
        return [name for name in self.params if name[0] == "W"]


class SummedGradient(Net):
    def cross_entropy(self, scores, y):
        loss, d = super().cross_entropy(scores, y)
        return loss, d * len(y)


class NoPenaltyInGradient(Net):
    def penalized(self, loss, grads, N):
        return super().penalized(loss, dict(grads), N)[0], grads


class NoPenaltyInLoss(Net):
    def penalized(self, loss, grads, N):
        return loss, super().penalized(loss, grads, N)[1]


class HalfMissingInLoss(Net):
    def penalized(self, loss, grads, N):
        with_half, new = super().penalized(loss, grads, N)
        return 2 * with_half - loss, new


class FirstWeightsOnly(Net):
    def penalized_names(self):
        return ["W1"]


class DetachedStatistics(Net):
    def backward(self, *args):
        return super().backward(*args, norm=direct_path)


class SummedGammaAndBeta(Net):
    def backward(self, k, d, x, *rest):
        *others, dgamma, dbeta = super().backward(k, d, x, *rest)
        return *others, len(x) * dgamma, len(x) * dbeta


def moments(g, m, v, beta1, beta2):
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def adam_reference(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    m, v = moments(g, m, v, beta1, beta2)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def _adam(divisors=None, denominator=None, hats=None):
    """Adam with other divisors of the moments, or another denominator."""
    denominator = denominator or (lambda v_hat, eps, c2: np.sqrt(v_hat) + eps)
    hats = hats or (lambda m, v, c1, c2: (m / c1, v / c2))

    def wrong(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        m, v = moments(g, m, v, beta1, beta2)
        c1, c2 = (
            divisors(beta, t) if divisors else 1 - beta**t for beta in (beta1, beta2)
        )
        m_hat, v_hat = hats(m, v, c1, c2)
        return p - lr * m_hat / denominator(v_hat, eps, c2), m, v

    return wrong


def betas_reversed(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    return adam_reference(p, g, m, v, t, lr, 1 - beta1, 1 - beta2, eps)


class Trainable:
    """The right start, statistics and scores; each mistake replaces a part."""

    eps, momentum = 1e-5, 0.1

    def __init__(self, dims, weight_scale, rng):
        self.params, self.running, self.last = {}, {}, len(dims) - 1
        for k, (D, H) in enumerate(pairwise(dims), start=1):
            W = weight_scale * rng.normal(size=(D, H))
            self.params |= {f"W{k}": W, f"b{k}": np.zeros(H)}
            if k < self.last:
                self.params |= {f"gamma{k}": np.ones(H), f"beta{k}": np.zeros(H)}
                self.running |= {f"running_mean{k}": np.zeros(H)}
                self.running |= {f"running_var{k}": np.ones(H)}

    def observe(self, x):
        for k in range(1, self.last):
            z = x @ self.params[f"W{k}"] + self.params[f"b{k}"]
            self.blend(f"running_mean{k}", z.mean(0))
            self.blend(f"running_var{k}", self.stored_variance(z))
            x = self.norm_relu(k, z, z.mean(0), z.var(0))

    def stored_variance(self, z):
        return z.var(0, ddof=1)

    def blend(self, name, new):
        old = self.running[name]
        self.running[name] = old + self.momentum * (new - old)

    def scores(self, x):
        for k in range(1, self.last):
            z = x @ self.params[f"W{k}"] + self.params[f"b{k}"]
            stored = self.running[f"running_mean{k}"], self.running[f"running_var{k}"]
            x = self.norm_relu(k, z, *stored)
        return x @ self.params[f"W{self.last}"] + self.params[f"b{self.last}"]

    def norm_relu(self, k, z, mean, var):
        x_hat = (z - mean) / np.sqrt(var + self.eps)
        return np.maximum(self.params[f"gamma{k}"] * x_hat + self.params[f"beta{k}"], 0)


def _started(**changed):
    """The start with other values, by the name of an array without its number."""

    class Started(Trainable):
        def __init__(self, *args):
            super().__init__(*args)
            for store in (self.params, self.running):
                for name, value in store.items():
                    kind = name.rstrip("0123456789")
                    if kind in changed:
                        store[name] = np.full_like(value, changed[kind])

    return Started


class MomentumTurned(Trainable):
    momentum = 0.9


class BiasedVariance(Trainable):
    def stored_variance(self, z):
        return z.var(0)


class NeverUpdated(Trainable):
    def observe(self, x):
        pass


class ReluInTrainingOnly(Trainable):
    def scores(self, x):
        for k in range(1, self.last):
            z = x @ self.params[f"W{k}"] + self.params[f"b{k}"]
            mean, var = (
                self.running[f"running_mean{k}"],
                self.running[f"running_var{k}"],
            )
            x_hat = (z - mean) / np.sqrt(var + self.eps)
            x = self.params[f"gamma{k}"] * x_hat + self.params[f"beta{k}"]
        return x @ self.params[f"W{self.last}"] + self.params[f"b{self.last}"]


class NormOnTheScores(Trainable):
    def __init__(self, dims, *rest):
        super().__init__(dims, *rest)
        self.params[f"gamma{self.last}"] = np.ones(dims[-1])


MISTAKES = (
    (
        "affine_norm_relu_forward",
        "no ReLU",
        "pytorch/tutorials #647; aymericdamien/TensorFlow-Examples #207",
        no_relu,
    ),
    (
        "affine_norm_relu_forward",
        "statistics of the batch for every axis",
        "cs231n.github.io #214; Kyubyong/transformer #40",
        _forward(lambda axis: 0),
    ),
    (
        "affine_norm_relu_forward",
        "one statistic for all features",
        "passes the example of the source homework",
        _forward(lambda axis: (0, 1)),
    ),
    (
        "affine_norm_relu_forward",
        "unbiased variance",
        "makemore part 3, cell 7; harvardnlp/annotated-transformer #119",
        _forward(ddof=1),
    ),
    (
        "affine_norm_relu_forward",
        "eps outside the root",
        "Tencent/ncnn #311; codertimo/BERT-pytorch #30",
        _forward(plus_eps=lambda var, eps: np.sqrt(var) + eps),
    ),
    (
        "affine_norm_relu_forward",
        "eps left out",
        "makemore part 3, cell 7; chainer #2214",
        forward_no_eps,
    ),
    (
        "affine_norm_relu_backward",
        "ReLU's slope left out",
        "iamtrask/Grokking-Deep-Learning #56: a slope that is 1 everywhere",
        _backward(mask=lambda dy, x, W, y: dy),
    ),
    (
        "affine_norm_relu_backward",
        "statistics taken as constants",
        "fast.ai course-v3 07_batchnorm",
        _backward(norm=direct_path),
    ),
    (
        "affine_norm_relu_backward",
        "gamma outside the means",
        "mlpack #1389: is it not the same as batch norm?",
        _backward(norm=gamma_outside),
    ),
    (
        "affine_norm_relu_backward",
        "gamma left out",
        "Knet.jl #288; karpathy/llm.c #763, review",
        _backward(norm=gamma_left_out),
    ),
    (
        "affine_norm_relu_backward",
        "dW and db ahead of the norm",
        "the source article, dW from dZ of the norm's output",
        _backward(end=ahead_of_the_norm),
    ),
    (
        "affine_norm_relu_backward",
        "mean for sum",
        "cthorey/CS231 #9; the source article, db",
        _backward(end=averaged),
    ),
    (
        "affine_norm_relu_backward",
        "dx without W",
        "the source article, dA_prev",
        _backward(end=no_weights),
    ),
    (
        "fully_connected_net",
        "gradient of the sum",
        "victorlempitsky/Mate #2; tensorflow/swift-apis #42",
        SummedGradient,
    ),
    (
        "fully_connected_net",
        "penalty missing in the gradient",
        "Artelnics/opennn #241; IntelLabs/coach #220",
        NoPenaltyInGradient,
    ),
    (
        "fully_connected_net",
        "penalty missing in the loss",
        "rasmusbergpalm/DeepLearnToolbox #94",
        NoPenaltyInLoss,
    ),
    (
        "fully_connected_net",
        "loss without the half",
        "jingtinghuang/CS231n-Spring-2017 #3",
        HalfMissingInLoss,
    ),
    (
        "fully_connected_net",
        "penalty on the first weights only",
        "tkipf/gcn #108, there on purpose",
        FirstWeightsOnly,
    ),
    (
        "fully_connected_net",
        "statistics taken as constants",
        "fast.ai course-v3 07_batchnorm",
        DetachedStatistics,
    ),
    (
        "fully_connected_net",
        "gamma and beta N times too large",
        "the source article: dW is divided by m, dgamma and dbeta are not",
        SummedGammaAndBeta,
    ),
    (
        "adam_step",
        "bias correction without powers",
        "eriklindernoren/ML-From-Scratch #35; ufal/npfl114 #79",
        _adam(divisors=lambda beta, t: 1 - beta),
    ),
    (
        "adam_step",
        "t one too large",
        "cs231n.github.io #179",
        _adam(divisors=lambda beta, t: 1 - beta ** (t + 1)),
    ),
    (
        "adam_step",
        "t one too small",
        "deeplearning4j/nd4j #1227; keras #10129, review",
        _adam(divisors=lambda beta, t: 1 - beta ** (t - 1)),
    ),
    (
        "adam_step",
        "square for root",
        "torch/optim #48",
        _adam(denominator=lambda v_hat, eps, c2: v_hat**2 + eps),
    ),
    ("adam_step", "betas reversed", "mila-iqia/blocks #1159", betas_reversed),
    (
        "trainable_net",
        "momentum reversed",
        "Paddle #51120; d2l-en #2213",
        MomentumTurned,
    ),
    (
        "trainable_net",
        "biased running variance",
        "tinygrad #807; mlx #3817",
        BiasedVariance,
    ),
    (
        "trainable_net",
        "running variance starts at 0",
        "chainer #879; d2l-en PR #1591; sonnet #174",
        _started(running_var=0),
    ),
    ("trainable_net", "gamma and beta swapped", "objax #94", _started(gamma=0, beta=1)),
    ("trainable_net", "weights start at 0", "NaNmnist #2", _started(W=0)),
    (
        "trainable_net",
        "statistics never updated",
        "tensorflow #11965; YunYang1994/tensorflow-yolov3 #23",
        NeverUpdated,
    ),
    (
        "trainable_net",
        "ReLU in training only",
        "aimagelab/mammoth #3; mlpack #3466",
        ReluInTrainingOnly,
    ),
    ("trainable_net", "norm on the last layer", "Lab41/attalos #89", NormOnTheScores),
)
