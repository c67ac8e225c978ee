"""Layers of fully connected networks, in NumPy, for one network or a stack of many.

An input is (..., N, D): N samples with D features, and leading axes for networks that
run side by side. A layer has

    forward(x)    y in training mode; keeps what backward needs
    infer(x)      y in evaluation mode; keeps nothing
    backward(dy)  dx for the last forward; leaves the parameters' gradients in grads
    params        arrays by name, such as W (..., D, H)
    grads         gradients by the same names
    running       statistics for evaluation mode by name, such as running_mean (..., D)

Results have the dtype of the parameters. No layer modifies its arguments.
"""

import numpy as np

from bn_helpers import norms


class Layer:
    """What all layers have in common; as it stands, a layer without parameters."""

    def __init__(self):
        self.params, self.grads, self.running = {}, {}, {}

    def forward(self, x):
        """y in training mode; kept for `backward`, which most activations need."""
        self.y = self.infer(x)
        return self.y

    def infer(self, x):
        """y in evaluation mode."""
        raise NotImplementedError

    def backward(self, dy):
        """dx; leaves the gradients of the parameters in `grads`."""
        raise NotImplementedError


class Affine(Layer):
    """y = x W + b, with W (..., D, H) and b (..., H).

    x is (..., N, D), or (N, D) for all networks of a stack.
    """

    def __init__(self, W, b):
        super().__init__()
        self.params = {"W": W, "b": b}

    def forward(self, x):
        """y = x W + b; keeps x."""
        self.x = x
        return self.infer(x)

    def infer(self, x):
        """y = x W + b."""
        W, b = self.params["W"], _per_feature(self.params["b"])
        if _shared(x, W):
            return np.add(_as_stack(x @ _as_matrix(W), W.shape), b, order="C")
        y = x @ W
        y += b
        return y

    def backward(self, dy):
        """dx = dy W^T; dW = x^T dy; db = sum over n of dy."""
        self.param_gradients(dy)
        return self.input_gradient(dy)

    def param_gradients(self, dy):
        """dW and db alone: a network's first layer needs no dx."""
        x, W = self.x, self.params["W"]
        if _shared(x, W):
            dW = _as_stack(x.T @ _as_matrix(dy), W.shape)
        else:
            dW = x.mT @ dy
        self.grads = {"W": dW, "b": dy.sum(-2)}

    def input_gradient(self, dy):
        """dx alone."""
        return dy @ self.params["W"].mT


# An x that a stack shares meets all its matrices side by side: one large product is
# faster than many small ones.


def side_by_side(W):
    """The same W (..., D, H), in memory as (D, ..., H), which a shared x likes."""
    return _as_stack(np.ascontiguousarray(_as_matrix(W)), W.shape)


def _shared(x, W):
    """Whether a stack of matrices meets one x."""
    return x.ndim == 2 < W.ndim


def _as_matrix(stack):
    """(..., D, H) as (D, ... * H): the matrices of a stack side by side."""
    return np.moveaxis(stack, -2, 0).reshape(stack.shape[-2], -1)


def _as_stack(matrix, shape):
    """(D, ... * H) as (..., D, H); the shape says ... and H."""
    return np.moveaxis(matrix.reshape(-1, *shape[:-2], shape[-1]), 0, -2)


class ReLU(Layer):
    """y = max(x, 0); its slope at 0 is 0."""

    def infer(self, x):
        """max(x, 0)."""
        return np.maximum(x, 0)

    def backward(self, dy):
        """dy where x was positive, else 0."""
        return dy * (self.y > 0)


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)), with slope y (1 - y)."""

    def infer(self, x):
        """1 / (1 + exp(-x)), for large -x as well."""
        y = np.negative(x)
        with np.errstate(over="ignore"):  # inf is fine: it ends as 0
            np.exp(y, out=y)
        y += 1
        return np.reciprocal(y, out=y)

    def backward(self, dy):
        """dy * y * (1 - y)."""
        dx = 1 - self.y
        dx *= self.y
        dx *= dy
        return dx


class Tanh(Layer):
    """y = tanh(x), with slope 1 - y**2."""

    def infer(self, x):
        """tanh(x)."""
        return np.tanh(x)

    def backward(self, dy):
        """dy * (1 - y**2)."""
        dx = np.square(self.y)
        np.subtract(1, dx, out=dx)
        dx *= dy
        return dx


class _Norm(Layer):
    """gamma * x_hat + beta. A norm says what x_hat is, and which parameters there are.

    Args:
        shape: of gamma and beta, (..., D).
        dtype: of both.

    Attributes:
        eps: added to the variance inside the root.
    """

    eps = 1e-5
    start = {"gamma": np.ones, "beta": np.zeros}

    def __init__(self, shape, dtype=np.float64):
        super().__init__()
        self.params = {name: make(shape, dtype) for name, make in self.start.items()}

    def forward(self, x):
        """y in training mode; keeps the cache of `bn_helpers.norms`."""
        x_hat, self.cache = self.normalize(x)
        return self.scale_and_shift(x_hat)

    def infer(self, x):
        """y in evaluation mode."""
        return self.scale_and_shift(self.normalize(x)[0])

    def backward(self, dy):
        """dx; dgamma = sum over n of dy * x_hat; dbeta = sum over n of dy."""
        dgamma = np.einsum("...nd,...nd->...d", dy, self.cache.x_hat)
        self.grads = {"gamma": dgamma}
        if "beta" in self.params:
            self.grads["beta"] = dy.sum(-2)
        return self.normalize_backward(dy * _per_feature(self.params["gamma"]))

    def normalize(self, x):
        """x_hat, and the cache that the way back needs."""
        raise NotImplementedError

    def normalize_backward(self, dx_hat):
        """dx for a gradient with respect to x_hat."""
        return norms.normalize_backward(dx_hat, self.cache)[0]

    def scale_and_shift(self, x_hat):
        """gamma * x_hat + beta, or without beta if the norm has none."""
        y = x_hat * _per_feature(self.params["gamma"])
        if "beta" in self.params:
            y += _per_feature(self.params["beta"])
        return y


class BatchNorm(_Norm):
    """y = gamma * x_hat + beta, where x_hat is each feature normalized over the batch.

    In evaluation mode the running statistics take the place of the batch's.

    Args:
        shape: of gamma and beta, (..., D).
        dtype: of both.

    Attributes:
        eps: added to the variance inside the root.
        momentum: weight of a new batch in the running statistics.

    Raises:
        ValueError: a batch of one sample in training mode.

    State: `forward` replaces the running statistics.
    Agrees with: torch.nn.BatchNorm1d.
    """

    momentum = 0.1

    def __init__(self, shape, dtype=np.float64):
        super().__init__(shape, dtype)
        self.running = {
            "running_mean": np.zeros(shape, dtype),
            "running_var": np.ones(shape, dtype),
        }

    def forward(self, x):
        """y with the statistics of the batch, which the running ones take in."""
        y = super().forward(x)
        mu, var = self.cache.mu[..., 0, :], self.cache.var[..., 0, :]
        N, before = x.shape[-2], self.running.values()
        after = norms.update_running_stats(*before, mu, var, N, self.momentum)
        self.running = dict(zip(self.running, after, strict=True))
        return y

    def infer(self, x):
        """y with the running statistics: each sample on its own."""
        mean, var = map(_per_feature, self.running.values())
        return self.scale_and_shift((x - mean) / np.sqrt(var + self.eps))

    def backward(self, dy):
        """dx through the statistics of the batch; dgamma and dbeta as in every norm."""
        dx, dbeta, dgamma = norms.normalize_backward(dy, self.cache)
        self.grads = {"gamma": dgamma[..., 0, :], "beta": dbeta[..., 0, :]}
        dx *= _per_feature(self.params["gamma"])  # constant along the batch: may wait
        return dx

    def normalize(self, x):
        """x_hat over the samples, and its cache."""
        return norms.normalize_forward(x, (-2,), self.eps)


class LayerNorm(_Norm):
    """y = gamma * x_hat + beta, where x_hat is each sample normalized on its own.

    Args, attributes: as `BatchNorm`, without momentum.
    Agrees with: torch.nn.LayerNorm.
    """

    def normalize(self, x):
        """x_hat over the features, and its cache."""
        return norms.normalize_forward(x, (-1,), self.eps)


class RMSNorm(_Norm):
    """y = gamma * x / root mean square of x, each sample on its own; there is no beta.

    Args, attributes: as `LayerNorm`; eps is added to the mean square.
    Agrees with: torch.nn.RMSNorm with the same eps.
    """

    start = {"gamma": np.ones}

    def normalize(self, x):
        """x over its root mean square, and its cache."""
        return norms.rmsnorm_forward(x, np.ones(x.shape[-1], x.dtype), self.eps)

    def normalize_backward(self, dx_hat):
        """dx: no mean was subtracted, so no mean of dx_hat is."""
        return norms.rmsnorm_backward(dx_hat, self.cache)[0]


def _per_feature(parameter):
    """(..., D) as (..., 1, D): the same for every sample."""
    return parameter[..., None, :]


def softmax_cross_entropy(scores, y):
    """Mean loss of each network, and its gradient with respect to the scores.

        p    = exp(scores) / sum over c of exp(scores)
        loss = mean over n of -log p[n, y[n]]
        d    = (p - one_hot(y)) / N

    Args:
        scores: (..., N, C).
        y: classes 0 to C - 1, (N,) or (..., N).

    Returns:
        loss (...), and d (..., N, C).

    Agrees with: torch.nn.functional.cross_entropy.
    """
    scores = scores - scores.max(-1, keepdims=True)
    target = y[..., None] == np.arange(scores.shape[-1])
    p = np.exp(scores)
    total = p.sum(-1, keepdims=True)
    loss = (np.log(total[..., 0]) - (scores * target).sum(-1)).mean(-1)
    p /= total
    p -= target
    p /= y.shape[-1]
    return loss, p
