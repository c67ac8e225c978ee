"""Checks of lesson 06, deep networks."""

import numpy as np

from ..common import batch, same_dtype
from ..drivers.lesson_06 import drive_fully_connected_net
from ..engine import Exercise, Mistake, Property

S3 = "section 3, Join three layers into one"
S4 = "section 4, Add up a loss and go back"
S6 = "section 6, Take Adam's step"


# --- affine_norm_relu_forward --------------------------------------------------------


def layer_arrays(rng, N, D, H):
    """Inputs, weights and biases whose outputs differ in mean and spread."""
    x, _, _ = batch(rng, N, D)
    return x, rng.normal(size=(D, H)), rng.normal(0, 2, H)


def forward_cases(rng):
    def case(N, D, H, axis, *eps):
        x, W, b = layer_arrays(rng, N, D, H)
        gamma = rng.uniform(0.5, 2, H) * rng.choice([-1, 1], H)
        return (x, W, b, gamma, rng.normal(size=H), axis, *eps)

    return [
        case(12, 5, 6, 0),
        case(9, 4, 7, 1),
        case(8, 6, 9, 0, 2.0),
        case(11, 3, 8, 1, 2.0),
    ]


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


def relu_before_norm(x, W, b, gamma, beta, axis, eps=1e-5):
    x_hat, inv_std = _standardized(np.maximum(x @ W + b, 0), axis, eps)
    return gamma * x_hat + beta, x_hat, inv_std


def no_relu(x, W, b, gamma, beta, axis, eps=1e-5):
    x_hat, inv_std = _standardized(x @ W + b, axis, eps)
    return gamma * x_hat + beta, x_hat, inv_std


def forward_no_scale_and_shift(x, W, b, gamma, beta, axis, eps=1e-5):
    x_hat, inv_std = _standardized(x @ W + b, axis, eps)
    return np.maximum(x_hat, 0), x_hat, inv_std


def forward_no_eps(x, W, b, gamma, beta, axis, eps=1e-5):
    return forward_reference(x, W, b, gamma, beta, axis, 0)


FORWARD_MISTAKES = (
    Mistake(
        "ReLU before the norm",
        "Your ReLU comes before the norm; here it comes last, as in the paper. Both "
        "are seen in practice.",
        S3,
        "keras #4618; MAML-Pytorch #39",
        relu_before_norm,
    ),
    Mistake(
        "no ReLU",
        "Nothing bends in your layer: some of its outputs are negative.",
        S3,
        "pytorch/tutorials #647; aymericdamien/TensorFlow-Examples #207",
        no_relu,
    ),
    Mistake(
        "gamma and beta ignored",
        "Your output does not depend on gamma and beta.",
        S3,
        "passes the example of the source homework",
        forward_no_scale_and_shift,
    ),
    Mistake(
        "statistics of the batch for every axis",
        "You average over the samples whatever axis says; axis=1 is layer norm.",
        S3,
        "cs231n.github.io #214; Kyubyong/transformer #40",
        _forward(lambda axis: 0),
    ),
    Mistake(
        "one statistic for all features",
        "You use one mean and one variance for the whole array.",
        S3,
        "passes the example of the source homework",
        _forward(lambda axis: (0, 1)),
    ),
    Mistake(
        "unbiased variance",
        "Your variance divides by n − 1; the one that normalizes divides by n.",
        S3,
        "makemore part 3, cell 7; harvardnlp/annotated-transformer #119",
        _forward(ddof=1),
    ),
    Mistake(
        "eps outside the root",
        "You add eps to the standard deviation; it belongs to the variance.",
        S3,
        "Tencent/ncnn #311; codertimo/BERT-pytorch #30",
        _forward(plus_eps=lambda var, eps: np.sqrt(var) + eps),
    ),
    Mistake(
        "eps left out",
        "Your result does not depend on eps.",
        S3,
        "makemore part 3, cell 7; chainer #2214",
        forward_no_eps,
    ),
)

AFFINE_NORM_RELU_FORWARD = Exercise(
    "affine_norm_relu_forward",
    forward_reference,
    ("x", "W", "b", "gamma", "beta", "axis", "eps"),
    ("y", "x_hat", "inv_std"),
    forward_cases,
    extra=(same_dtype(("y", "x_hat", "inv_std")),),
    mistakes=FORWARD_MISTAKES,
    weights=(2, 1, 1),
)


# --- affine_norm_relu_backward -------------------------------------------------------


def backward_case(rng, N, D, H, axis):
    """What a forward pass leaves behind, and a random upstream gradient."""
    x, W, _ = layer_arrays(rng, N, D, H)
    gamma, beta = rng.uniform(0.5, 2, H), rng.normal(size=H)
    y, x_hat, inv_std = forward_reference(x, W, np.zeros(H), gamma, beta, axis)
    dy = rng.normal(size=(N, H)) + rng.normal(size=H)
    return dy, x, W, gamma, x_hat, inv_std, y, axis


def backward_cases(rng):
    # as many inputs as outputs: even a forgotten or transposed W has the right shape
    return [
        backward_case(rng, 12, 5, 5, 0),
        backward_case(rng, 9, 6, 6, 1),
        backward_case(rng, 16, 4, 4, 0),
    ]


def _any_widths(trial):
    for sizes in ((8, 3, 7, 0), (10, 6, 2, 1)):
        got, want = trial.run(backward_case(trial.rng, *sizes))
        if not all(np.allclose(g, w) for g, w in zip(got, want, strict=True)):
            return (f"x of shape {sizes[:2]}, y of shape {sizes[::2]}: wrong values",)
    return ()


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


def gamma_twice(g, gamma, x_hat, inv_std, axis):
    return gamma * through_norm(g, gamma, x_hat, inv_std, axis)


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


def dW_for_W(x, W, dz, g, x_hat):
    _, dW, *others = gradients(x, W, dz, g, x_hat)
    return dz @ dW.T, dW, *others


BACKWARD_MISTAKES = (
    Mistake(
        "ReLU's slope left out",
        "You pass dy on where the ReLU was shut; there its slope is 0.",
        S3,
        "iamtrask/Grokking-Deep-Learning #56: a slope that is 1 everywhere",
        _backward(mask=lambda dy, x, W, y: dy),
    ),
    Mistake(
        "ReLU's slope in front of the norm",
        "You take ReLU's slope where the norm began; what entered the ReLU is what "
        "left the norm.",
        S3,
        "the source article, relu_derivative(Z)",
        _backward(mask=lambda dy, x, W, y: dy * (x @ W > 0)),
    ),
    Mistake(
        "statistics taken as constants",
        "You keep the direct path alone; mean and variance depend on x as well.",
        S3,
        "fast.ai course-v3 07_batchnorm",
        _backward(norm=direct_path),
    ),
    Mistake(
        "gamma outside the means",
        "You multiply by gamma after the means. Batch norm allows that; in layer norm "
        "gamma differs along the averaged axis.",
        S3,
        "mlpack #1389: is it not the same as batch norm?",
        _backward(norm=gamma_outside),
    ),
    Mistake(
        "gamma twice",
        "Gamma enters the gradient twice: once by name, once inside dx_hat.",
        S3,
        "the source article; NVIDIA/Megatron-LM #6859",
        _backward(norm=gamma_twice),
    ),
    Mistake(
        "gamma left out",
        "Your gradient of x does not depend on gamma.",
        S3,
        "Knet.jl #288; karpathy/llm.c #763, review",
        _backward(norm=gamma_left_out),
    ),
    Mistake(
        "dW and db ahead of the norm",
        "You take dW and db from the gradient behind the norm; the affine map lies in "
        "front of it.",
        S3,
        "the source article, dW from dZ of the norm's output",
        _backward(end=ahead_of_the_norm),
    ),
    Mistake(
        "mean for sum",
        "You average the gradients of the parameters over the samples; they add up. "
        "The division by N belongs to the loss.",
        S3,
        "cthorey/CS231 #9; the source article, db",
        _backward(end=averaged),
    ),
    Mistake(
        "dx without W",
        "Your dx is the gradient of what the affine map returned; it still has to pass "
        "through W.",
        S3,
        "the source article, dA_prev",
        _backward(end=no_weights),
    ),
    Mistake(
        "dW in place of W",
        "You send the gradient back through dW; the way back leads through W.",
        S3,
        "jcjohnson/pytorch-examples #5, #28",
        _backward(end=dW_for_W),
    ),
)

LAYER_GRADIENTS = ("dx", "dW", "db", "dgamma", "dbeta")

AFFINE_NORM_RELU_BACKWARD = Exercise(
    "affine_norm_relu_backward",
    _backward(),
    ("dy", "x", "W", "gamma", "x_hat", "inv_std", "y", "axis"),
    LAYER_GRADIENTS,
    backward_cases,
    extra=(
        same_dtype(LAYER_GRADIENTS),
        Property("any widths", _any_widths, 0.5),
    ),
    mistakes=BACKWARD_MISTAKES,
    weights=(2, 1, 1, 1, 1),
)


# --- FullyConnectedNet ---------------------------------------------------------------


def net_case(rng, N, dims, reg, shift=0.0):
    y = rng.integers(0, dims[-1], N)
    y[: dims[-1]] = np.arange(dims[-1])
    return dims, reg, rng.normal(size=(N, dims[0])), y, int(rng.integers(2**31)), shift


def net_cases(rng):
    return [net_case(rng, 11, (7, 6, 5, 4), 0.0), net_case(rng, 9, (5, 6, 7, 3), 0.7)]


def _any_depth(trial):
    for dims in ((6, 5, 4, 5, 3), (5, 8, 3), (6, 3)):
        got, want = trial.run(net_case(trial.rng, 10, dims, 0.3))
        if not all(np.allclose(g, w) for g, w in zip(got[:-1], want, strict=False)):
            return (f"{len(dims) - 2} hidden layer(s): loss or gradients are wrong",)
    return ()


def _large_scores(trial):
    args = net_case(trial.rng, 12, (6, 8, 4), 0.0, shift=1000.0)
    (loss, *_), (want, *_) = trial.run(args)
    if np.allclose(loss, want):
        return ()
    return (f"with scores around 1000: loss {loss:.6g}, want {want:.6g}",)


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


class UnstableSoftmax(Net):
    def cross_entropy(self, scores, y):
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        target = y[:, None] == np.arange(scores.shape[1])
        return -np.log(p[target]).mean(), (p - target) / len(y)


class SummedGradient(Net):
    def cross_entropy(self, scores, y):
        loss, d = super().cross_entropy(scores, y)
        return loss, d * len(y)


class AveragedOverClasses(Net):
    def cross_entropy(self, scores, y):
        loss, d = super().cross_entropy(scores, y)
        return loss / scores.shape[1], d / scores.shape[1]


class NormalizedScores(Net):
    def cross_entropy(self, scores, y):
        x_hat, inv_std = _standardized(scores, 0, 1e-5)
        loss, d = super().cross_entropy(x_hat, y)
        return loss, through_norm(d, np.ones(d.shape[1]), x_hat, inv_std, 0)


class ReluOnScores(Net):
    def cross_entropy(self, scores, y):
        loss, d = super().cross_entropy(np.maximum(scores, 0), y)
        return loss, d * (scores > 0)


class NoPenaltyInGradient(Net):
    def penalized(self, loss, grads, N):
        return super().penalized(loss, dict(grads), N)[0], grads


class NoPenaltyInLoss(Net):
    def penalized(self, loss, grads, N):
        return loss, super().penalized(loss, grads, N)[1]


class NoHalf(Net):
    def __init__(self, params, reg=0.0):
        super().__init__(params, 2 * reg)


class HalfMissingInLoss(Net):
    def penalized(self, loss, grads, N):
        with_half, new = super().penalized(loss, grads, N)
        return 2 * with_half - loss, new


class PenaltyAveraged(Net):
    """The loss divides everything by N, the gradients nothing."""

    def penalized(self, loss, grads, N):
        grads = {name: N * gradient for name, gradient in grads.items()}
        total, grads = super().penalized(N * loss, grads, N)
        return total / N, grads


class FirstWeightsOnly(Net):
    def penalized_names(self):
        return ["W1"]


class BiasesToo(Net):
    def penalized_names(self):
        return [name for name in self.params if name[0] in "Wb" and name[1].isdigit()]


class GammaAndBetaToo(Net):
    def penalized_names(self):
        return [name for name in self.params if name[:-1] in ("W", "gamma", "beta")]


class DetachedStatistics(Net):
    def backward(self, *args):
        return super().backward(*args, norm=direct_path)


class AheadOfTheNorm(Net):
    def backward(self, *args):
        return super().backward(*args, end=ahead_of_the_norm)


class SlopeInFrontOfTheNorm(Net):
    def backward(self, k, d, x, x_hat, inv_std, y):
        opened = x @ self.params[f"W{k}"] + self.params[f"b{k}"] > 0
        how = {"mask": lambda dy, x, W, y: dy * opened}
        return super().backward(k, d, x, x_hat, inv_std, y, **how)


class SummedGammaAndBeta(Net):
    def backward(self, k, d, x, *rest):
        *others, dgamma, dbeta = super().backward(k, d, x, *rest)
        return *others, len(x) * dgamma, len(x) * dbeta


LARGE = "stands scores around 1000"

NET_MISTAKES = (
    Mistake(
        "exponentials overflow",
        "Your exponentials overflow; a softmax does not change when each sample's "
        "largest score is subtracted first.",
        S4,
        "dmlc/minpy #48; numenta/nupic-legacy #3819; jhcross/span-parser #2",
        UnstableSoftmax,
        shows=LARGE,
    ),
    Mistake(
        "gradient of the sum",
        "Your loss is a mean over the samples, your gradients belong to the sum.",
        S4,
        "victorlempitsky/Mate #2; tensorflow/swift-apis #42",
        SummedGradient,
    ),
    Mistake(
        "averaged over the classes",
        "You average over samples and classes; each sample has one loss, so only the "
        "samples are averaged.",
        S4,
        "jax #1023; GMvandeVen/continual-learning #5",
        AveragedOverClasses,
    ),
    Mistake(
        "scores normalized",
        "You normalize the scores; the last layer is affine and nothing else.",
        S4,
        "the source article; yaoing/DAN #14",
        NormalizedScores,
    ),
    Mistake(
        "ReLU on the scores",
        "A ReLU follows your last affine map; scores must be free to take any value.",
        S4,
        "huyng/tensorflow-vgg #13; NVlabs/GA3C #17",
        ReluOnScores,
    ),
    Mistake(
        "penalty missing in the gradient",
        "Your loss holds the penalty, your gradients do not.",
        S4,
        "Artelnics/opennn #241; IntelLabs/coach #220",
        NoPenaltyInGradient,
    ),
    Mistake(
        "penalty missing in the loss",
        "Your gradients hold the penalty, your loss does not.",
        S4,
        "rasmusbergpalm/DeepLearnToolbox #94",
        NoPenaltyInLoss,
    ),
    Mistake(
        "penalty without the half",
        "Your penalty is twice as large: the half before reg is missing, in the loss "
        "and in the gradient.",
        S4,
        "cs231n.github.io #89",
        NoHalf,
    ),
    Mistake(
        "loss without the half",
        "The half before reg is missing in your loss, while your gradient reckons "
        "with it.",
        S4,
        "jingtinghuang/CS231n-Spring-2017 #3",
        HalfMissingInLoss,
    ),
    Mistake(
        "penalty divided by N",
        "You divide the penalty by N in the loss, and nothing by N in the gradients; "
        "only the cross-entropy is a mean.",
        S4,
        "dennybritz/nn-from-scratch #13",
        PenaltyAveraged,
    ),
    Mistake(
        "penalty on the first weights only",
        "Your penalty holds W1 alone; it runs over the weights of every layer.",
        S4,
        "tkipf/gcn #108, there on purpose",
        FirstWeightsOnly,
    ),
    Mistake(
        "biases penalized",
        "Your penalty includes the biases; here it is about weights only.",
        S4,
        "Burton2000/CS231n-2017 #9",
        BiasesToo,
    ),
    Mistake(
        "gamma and beta penalized",
        "Your penalty includes gamma and beta, and pulls gamma toward 0; here it is "
        "about weights only.",
        S4,
        "torch/torch7 #846; Eric-mingjie/rethinking-network-pruning #27",
        GammaAndBetaToo,
    ),
    Mistake(
        "statistics taken as constants",
        "You keep the direct path through the norm alone; mean and variance depend on "
        "the batch as well.",
        S3,
        "fast.ai course-v3 07_batchnorm",
        DetachedStatistics,
    ),
    Mistake(
        "dW and db ahead of the norm",
        "You take dW and db from the gradient behind the norm; the affine map lies in "
        "front of it.",
        S3,
        "the source article, dW from dZ of the norm's output",
        AheadOfTheNorm,
    ),
    Mistake(
        "ReLU's slope in front of the norm",
        "You take ReLU's slope where the norm began; what entered the ReLU is what "
        "left the norm.",
        S3,
        "the source article, relu_derivative(Z)",
        SlopeInFrontOfTheNorm,
    ),
    Mistake(
        "gamma and beta N times too large",
        "Your gradients of gamma and beta are N times too large: they belong to the "
        "sum of the losses, the others to their mean.",
        S4,
        "the source article: dW is divided by m, dgamma and dbeta are not",
        SummedGammaAndBeta,
    ),
)

FULLY_CONNECTED_NET = Exercise(
    "fully_connected_net",
    Net,
    ("dims", "reg", "x", "y", "seed", "shift"),
    (
        "loss",
        "W and b of the last layer",
        "gamma of the hidden layers",
        "beta of the hidden layers",
        "W of the hidden layers",
        "b of the hidden layers",
        "parameters after the call",
    ),
    net_cases,
    extra=(
        Property("any number of layers", _any_depth),
        Property(LARGE, _large_scores, 0.5),
    ),
    mistakes=NET_MISTAKES,
    weights=(2, 1, 1, 1, 2, 1, 0.5),
    drive=drive_fully_connected_net,
)


# --- adam_step -----------------------------------------------------------------------


def adam_cases(rng):
    def case(shape, t, *settings):
        p, g = rng.normal(size=(2, *shape))
        m = rng.normal(0, 0.3, shape) if t > 1 else np.zeros(shape)
        v = rng.uniform(0.1, 1, shape) if t > 1 else np.zeros(shape)
        return (p, g, m, v, t, *settings)

    return [
        case((3, 4), 1),
        case((5,), 2, 0.1, 0.8, 0.95, 0.3),
        case((2, 3, 2), 7, 0.01, 0.9, 0.99, 0.1),
    ]


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


def keeps_corrected(p, g, m, v, t, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
    p, m, v = adam_reference(p, g, m, v, t, lr, beta1, beta2, eps)
    return p, m / (1 - beta1**t), v / (1 - beta2**t)


ADAM_MISTAKES = (
    Mistake(
        "no bias correction",
        "You use m and v as they are; both start at 0 and are too small at first.",
        S6,
        "google-research/bert #153; ml-explore/mlx #1640",
        _adam(divisors=lambda beta, t: 1),
    ),
    Mistake(
        "bias correction without powers",
        "You correct by 1 − beta at every step; beta takes the number of the step as "
        "its exponent.",
        S6,
        "eriklindernoren/ML-From-Scratch #35; ufal/npfl114 #79",
        _adam(divisors=lambda beta, t: 1 - beta),
    ),
    Mistake(
        "multiplied for divided",
        "You multiply by 1 − beta to the t; the correction divides by it, because the "
        "moments are too small.",
        S6,
        "karpathy/convnetjs #70, #107",
        _adam(hats=lambda m, v, c1, c2: (m * c1, v * c2)),
    ),
    Mistake(
        "t one too large",
        "You correct as if the next step were taken; t is 1 in the first step, and you "
        "are given t.",
        S6,
        "cs231n.github.io #179",
        _adam(divisors=lambda beta, t: 1 - beta ** (t + 1)),
    ),
    Mistake(
        "t one too small",
        "You count steps from 0, and divide by 0 in the first one; t is 1 there.",
        S6,
        "deeplearning4j/nd4j #1227; keras #10129, review",
        _adam(divisors=lambda beta, t: 1 - beta ** (t - 1)),
    ),
    Mistake(
        "eps inside the root",
        "You add eps under the root; Adam adds it to the root. (In batch norm it is "
        "the other way round.)",
        S6,
        "FluxML/Flux.jl #448; CyberZHG/keras-radam #29; d2l-zh #502",
        _adam(denominator=lambda v_hat, eps, c2: np.sqrt(v_hat + eps)),
    ),
    Mistake(
        "eps before the correction",
        "You add eps to the root of v before correcting it, so the correction divides "
        "eps as well.",
        S6,
        "pytorch #41477; keras #17391",
        _adam(denominator=lambda v_hat, eps, c2: np.sqrt(v_hat) + eps / np.sqrt(c2)),
    ),
    Mistake(
        "square for root",
        "You square v where its root is meant.",
        S6,
        "torch/optim #48",
        _adam(denominator=lambda v_hat, eps, c2: v_hat**2 + eps),
    ),
    Mistake(
        "betas reversed",
        "You give the new gradient the weight beta; beta weighs the past.",
        S6,
        "mila-iqia/blocks #1159",
        betas_reversed,
    ),
    Mistake(
        "corrected moments kept",
        "You return the corrected moments; the next step would correct them again.",
        S6,
        "frgfm/holocron #1",
        keeps_corrected,
    ),
)

ADAM_STEP = Exercise(
    "adam_step",
    adam_reference,
    ("p", "g", "m", "v", "t", "lr", "beta1", "beta2", "eps"),
    ("new p", "new m", "new v"),
    adam_cases,
    extra=(same_dtype(("new p", "new m", "new v")),),
    mistakes=ADAM_MISTAKES,
    weights=(2, 1, 1),
)

EXERCISES = (
    AFFINE_NORM_RELU_FORWARD,
    AFFINE_NORM_RELU_BACKWARD,
    FULLY_CONNECTED_NET,
    ADAM_STEP,
)
