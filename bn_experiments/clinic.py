"""A batch-norm network in NumPy whose faults can be switched on, one at a time.

Arrays are feature-major, one column per sample: inputs (D, N), weights (out, in),
gamma and beta (D, 1). Each hidden layer is affine, batch norm, ReLU; the last one is
affine. Without faults the network is right, and a PyTorch twin agrees with it.

    z = W a + b      mu, var over the N columns      x_hat = (z - mu) / sqrt(var + eps)
    y = gamma * x_hat + beta      a = max(y, 0)      loss: mean cross-entropy
"""

from typing import NamedTuple

import numpy as np

from bn_helpers.gradcheck import direction_and_size, numerical_gradient

ARTICLE = {
    "no W": "the gradient goes down a layer without being multiplied by W transposed",
    "W too early": "weight gradients are taken before the norm's backward pass",
    "b too early": "bias gradients are taken before the norm's backward pass",
    "ReLU at z": "ReLU's derivative is taken before the norm instead of after it",
    "sums": "gradients of gamma and beta are not divided by the batch size",
    "batch statistics": "prediction uses the statistics of whatever batch it gets",
    "normalized logits": "the last layer has a batch norm, too",
    "eps 1e-8": "eps is 1e-8 instead of 1e-5",
}
READING = {
    "gamma twice": "the closed form multiplies by gamma, and so does what is fed to it",
}
CODEBASES = {
    "detached statistics": "the backward pass takes mean and variance for constants",
    "one-pass variance": "the variance is E[z^2] - E[z]^2",
    "biased running variance": "running_var averages variances divided by N",
}
FAULTS = {**ARTICLE, **READING, **CODEBASES}

REFERRED = ("sums", "detached statistics")  # lesson 07 asks which; see `referral`


class Cache(NamedTuple):
    """What one layer keeps for its backward pass; without a norm the middle is None.

    Attributes:
        a: input of the layer, (in, N).
        z: output of the affine part, (out, N).
        mu, var: mean and biased variance over the samples, (out, 1).
        x_hat: z normalized, (out, N).
        y: output of the norm, or z where there is none, (out, N).
    """

    a: np.ndarray
    z: np.ndarray
    mu: np.ndarray | None
    var: np.ndarray | None
    x_hat: np.ndarray | None
    y: np.ndarray


def affine_backward(dz, W, a):
    """Gradients of z = W a + b: da (in, N), dW (out, in) and db (out, 1)."""
    return W.T @ dz, dz @ a.T, dz.sum(axis=1, keepdims=True)


def layer_backward(dy, x_hat, var, gamma, a):
    """dz, dW and db of an affine layer, from dy behind its norm; eps is 1e-5."""
    dz = norm_backward(dy, x_hat, var, gamma)[0]
    return dz, *affine_backward(dz, np.eye(len(dz)), a)[1:]


def relu_backward(da, z, x_hat, gamma, beta):
    """Gradient at ReLU's input y = gamma * x_hat + beta, from da at its output."""
    return da * (gamma * x_hat + beta > 0)


def norm_backward(dy, x_hat, var, gamma, eps=1e-5):
    """The closed form of lesson 02, section 5: dz (D, N), dgamma and dbeta (D, 1)."""
    N = dy.shape[1]
    dgamma = (dy * x_hat).sum(axis=1, keepdims=True)
    dbeta = dy.sum(axis=1, keepdims=True)
    dz = gamma / np.sqrt(var + eps) * (dy - dbeta / N - x_hat * dgamma / N)
    return dz, dgamma, dbeta


def norm_forward(z, gamma, beta, running_mean, running_var, training):
    """y and the running statistics after a batch; eps is 1e-5, momentum 0.1."""
    if not training:
        x_hat = (z - running_mean) / np.sqrt(running_var + 1e-5)
        return gamma * x_hat + beta, running_mean, running_var
    N, mean, var = z.shape[1], *_moments(z)
    y = gamma * (z - mean) / np.sqrt(var + 1e-5) + beta
    unbiased = var * N / (N - 1)
    new = 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * unbiased
    return y, *new


def _moments(z):
    mu = z.mean(axis=1, keepdims=True)
    return mu, ((z - mu) ** 2).mean(axis=1, keepdims=True)


def normalize(z):
    """Each row of z (D, N) over its N samples; eps is 1e-5."""
    mean, var = _moments(z)
    return (z - mean) / np.sqrt(var + 1e-5)


def parameter_gradients(dy, dz, x_hat, a):
    """dW, db, dgamma and dbeta of the mean loss, from dy and dz of the summed one."""
    _, dW, db = affine_backward(dz / a.shape[1], np.eye(len(dz)), a)
    dgamma = (dy * x_hat).mean(axis=1, keepdims=True)
    return dW, db, dgamma, dy.mean(axis=1, keepdims=True)


def output_layer(a, W, b, labels):
    """Mean cross-entropy of softmax(W a + b), and its da, dW and db."""
    logits = W @ a + b
    dz = _slope(logits, labels) / len(labels)
    return _cross_entropy(logits, labels), *affine_backward(dz, W, a)


STEPS = {  # what a network may be given another version of
    "affine_backward": affine_backward,
    "layer_backward": layer_backward,
    "relu_backward": relu_backward,
    "norm_backward": norm_backward,
    "norm_forward": norm_forward,
    "normalize": normalize,
    "parameter_gradients": parameter_gradients,
    "output_layer": output_layer,
}


class Clinic:
    """A classifier with batch norm, healthy or with the faults it is given.

    Args:
        dims: widths from input to output, such as (784, 128, 10).
        faults: names out of `FAULTS`, in any combination.
        seed: decides the initial weights, He's rule; biases and beta start at 0,
            gamma at 1, running statistics at mean 0 and variance 1.
        dtype: of the parameters, and so of all results for inputs of that dtype.
        mends: functions to use in place of this module's, by names out of `STEPS`.

    Attributes:
        parameters: "W1", "b1", "gamma1", "beta1", "W2", ... to arrays.
        running: "mean1", "var1", ... to (D, 1) arrays.

    Raises:
        ValueError: an unknown fault or mend.

    Conventions: PyTorch's. The biased variance normalizes, the unbiased one is stored,
        and the new batch has weight 0.1 in the running statistics.
    """

    momentum = 0.1

    def __init__(self, dims, faults=(), seed=0, dtype=np.float64, mends=None):
        self.mends = dict(mends or {})
        _known("faults", faults, FAULTS)
        _known("mends", self.mends, STEPS)
        self.faults, self.depth = frozenset(faults), len(dims) - 1
        self.eps = 1e-8 if "eps 1e-8" in self.faults else 1e-5
        self.parameters, self.running = {}, {}
        rng = np.random.default_rng(seed)
        for k in range(1, self.depth + 1):
            self._add_layer(k, dims[k - 1], dims[k], rng, dtype)

    def _add_layer(self, k, fan_in, D, rng, dtype):
        W = rng.normal(0, np.sqrt(2 / fan_in), (D, fan_in))
        self.parameters[f"W{k}"] = W.astype(dtype)
        self.parameters[f"b{k}"] = np.zeros((D, 1), dtype)
        if self._has_norm(k):
            self.parameters[f"gamma{k}"] = np.ones((D, 1), dtype)
            self.parameters[f"beta{k}"] = np.zeros((D, 1), dtype)
            self.running[f"mean{k}"] = np.zeros((D, 1), dtype)
            self.running[f"var{k}"] = np.ones((D, 1), dtype)

    def randomize(self, seed=0):
        """Draw gamma and beta at random, so that no fault hides behind 1 and 0.

        Returns:
            The network itself.
        """
        rng = np.random.default_rng(seed)
        for name, value in self.parameters.items():
            if name.startswith("gamma"):
                value[:] = rng.uniform(0.5, 2, value.shape)
            elif name.startswith("beta"):
                value[:] = rng.normal(0, 1, value.shape)
        return self

    # --- forward -----------------------------------------------------------------

    def forward(self, x):
        """Logits of a batch by its own statistics; running statistics stay.

        Args:
            x: (D, N), one column per sample.

        Returns:
            Logits (C, N), and one `Cache` per layer.
        """
        a, caches = x, []
        for k in range(1, self.depth + 1):
            z = self._affine(k, a)
            mu, var, x_hat, y = None, None, None, z
            if self._has_norm(k):
                mu, var, x_hat, y = self._by_batch(k, z)
            caches.append(Cache(a, z, mu, var, x_hat, y))
            a = np.maximum(y, 0)
        return y, caches

    def loss(self, x, labels):
        """Mean cross-entropy of a batch (D, N) with integer labels (N,)."""
        return self._loss(*self.forward(x), labels)

    def _loss(self, logits, caches, labels):
        if self._mended_output:
            return self._output(caches[-1], labels)[0]
        return _cross_entropy(logits, labels)

    @property
    def _mended_output(self):
        return "output_layer" in self.mends and not self._has_norm(self.depth)

    def _output(self, cache, labels):
        """Loss, da, dW and db of the last layer, as mended."""
        W, b = self.parameters[f"W{self.depth}"], self.parameters[f"b{self.depth}"]
        return self.mends["output_layer"](cache.a, W, b, labels)

    def logits(self, x):
        """Logits (C, N) for prediction: running statistics, each sample on its own."""
        if "batch statistics" in self.faults:
            return self.forward(x)[0]
        a = x
        for k in range(1, self.depth + 1):
            y = self._affine(k, a)
            if self._has_norm(k):
                y = self._evaluated(k, y)
            a = np.maximum(y, 0)
        return y

    def _evaluated(self, k, z):
        mean, var = self.running[f"mean{k}"], self.running[f"var{k}"]
        if "norm_forward" in self.mends:
            return self.mends["norm_forward"](z, *self._scale(k), mean, var, False)[0]
        return self._normalized(k, z, mean, var)[1]

    def predict(self, x):
        """Classes (N,) of a batch (D, N)."""
        return self.logits(x).argmax(axis=0)

    def _has_norm(self, k):
        return k < self.depth or "normalized logits" in self.faults

    def _affine(self, k, a):
        return self.parameters[f"W{k}"] @ a + self.parameters[f"b{k}"]

    def _moments(self, z):
        mu, var = _moments(z)
        if "one-pass variance" in self.faults:
            return mu, (z**2).mean(axis=1, keepdims=True) - mu**2
        return mu, var

    def _by_batch(self, k, z):
        """mu, var, x_hat and y of a batch, by its own statistics."""
        mu, var = self._moments(z)
        x_hat, y = self._normalized(k, z, mu, var)
        if "normalize" in self.mends:
            gamma, beta = self._scale(k)
            x_hat = self.mends["normalize"](z)
            y = gamma * x_hat + beta
        return mu, var, x_hat, y

    def _scale(self, k):
        return self.parameters[f"gamma{k}"], self.parameters[f"beta{k}"]

    def _normalized(self, k, z, mu, var):
        x_hat, (gamma, beta) = (z - mu) / np.sqrt(var + self.eps), self._scale(k)
        return x_hat, gamma * x_hat + beta

    # --- backward ----------------------------------------------------------------

    def gradients(self, x, labels):
        """Gradient of the loss for each parameter, by name, as the code has it.

        Args:
            x: (D, N), one column per sample.
            labels: (N,), integers.

        Raises:
            ValueError: with the fault "no W", where neighboring layers differ in width.
        """
        return self._backward(*self.forward(x), labels)

    def _backward(self, logits, caches, labels):
        # the loss is a mean: 1/N enters at the top and only there, or else late
        N, late = len(labels), "sums" in self.faults
        late = late or "parameter_gradients" in self.mends
        dy = _slope(logits, labels) / (1 if late else N)
        gradients = {}
        for k in range(self.depth, 0, -1):
            share = 1 / N if late else 1
            da, new = self._layer_backward(k, dy, caches[k - 1], share)
            if k == self.depth and self._mended_output:
                _, da, dW, db = self._output(caches[-1], labels)
                da, new = da / share, {f"W{k}": dW, f"b{k}": db}
            gradients |= new
            if k > 1:
                dy = self._relu_backward(k - 1, da, caches[k - 2])
        return gradients

    def _relu_backward(self, k, da, cache):
        if "ReLU at z" in self.faults:
            return da * (cache.z > 0)
        step = self.mends.get("relu_backward", relu_backward)
        return step(da, cache.z, cache.x_hat, *self._scale(k))

    def _layer_backward(self, k, dy, cache, share):
        """Gradients of a layer, from dy at its norm's output; share is 1 or 1/N."""
        dz, gradients = dy, {}
        if self._has_norm(k):
            dz, dgamma, dbeta = self._norm_backward(k, dy, cache)
            gradients = {f"gamma{k}": dgamma, f"beta{k}": dbeta}
        da, dW, db = self._affine_backward(k, dy, dz, cache.a)
        if self._has_norm(k) and "layer_backward" in self.mends:
            gamma, _ = self._scale(k)
            dz, dW, db = self.mends["layer_backward"](
                dy, cache.x_hat, cache.var, gamma, cache.a
            )
            da, _, _ = self._affine_backward(k, dy, dz, cache.a)
        gradients |= {f"W{k}": share * dW, f"b{k}": share * db}
        if self._has_norm(k) and "parameter_gradients" in self.mends:
            gradients = self._of_mean_loss(k, dy, dz, cache)
        return da, gradients

    def _of_mean_loss(self, k, dy, dz, cache):
        """A layer's gradients by the mend, from dy and dz of the summed loss."""
        dW, _, dgamma, dbeta = self._parameter_gradients("W", dy, dz, cache)
        _, db, _, _ = self._parameter_gradients("b", dy, dz, cache)
        return {f"W{k}": dW, f"b{k}": db, f"gamma{k}": dgamma, f"beta{k}": dbeta}

    def _parameter_gradients(self, name, dy, dz, cache):
        taken = dy if f"{name} too early" in self.faults else dz
        return self.mends["parameter_gradients"](dy, taken, cache.x_hat, cache.a)

    def _affine_backward(self, k, dy, dz, a):
        """da, dW and db, each from the gradient that this code takes it from."""
        W, step = self.parameters[f"W{k}"], self.mends.get("affine_backward")
        step = step or affine_backward
        da = dz if "no W" in self.faults else step(dz, W, a)[0]
        dW = step(dy if "W too early" in self.faults else dz, W, a)[1]
        db = step(dy if "b too early" in self.faults else dz, W, a)[2]
        return da, dW, db

    def _norm_backward(self, k, dy, cache):
        gamma, _ = self._scale(k)
        if "gamma twice" in self.faults:
            dy = gamma * dy
        if "norm_backward" in self.mends:
            return self.mends["norm_backward"](dy, cache.x_hat, cache.var, gamma)
        dz, *rest = norm_backward(dy, cache.x_hat, cache.var, gamma, self.eps)
        if "detached statistics" in self.faults:
            dz = gamma / np.sqrt(cache.var + self.eps) * dy
        return dz, *rest

    # --- training ----------------------------------------------------------------

    def step(self, x, labels, lr):
        """One step of gradient descent on a batch; running statistics follow.

        Returns:
            The loss before the step.

        Raises:
            ValueError: fewer than 2 samples, which have no unbiased variance.
        """
        if len(labels) < 2:
            raise ValueError(f"x holds {len(labels)} sample(s), expected 2 or more")
        logits, caches = self.forward(x)
        loss = self._loss(logits, caches, labels)
        for name, gradient in self._backward(logits, caches, labels).items():
            self.parameters[name] = self.parameters[name] - lr * gradient
        self._follow(caches, len(labels))
        return loss

    def _follow(self, caches, N):
        unbiased = 1 if "biased running variance" in self.faults else N / (N - 1)
        for k, cache in enumerate(caches, 1):
            if self._has_norm(k) and "norm_forward" in self.mends:
                self._remember(k, cache.z)
            elif self._has_norm(k):
                self._move(f"mean{k}", cache.mu)
                self._move(f"var{k}", cache.var * unbiased)

    def _remember(self, k, z):
        """Running statistics as the mended norm has them after this batch."""
        old = self.running[f"mean{k}"], self.running[f"var{k}"]
        _, mean, var = self.mends["norm_forward"](z, *self._scale(k), *old, True)
        self.running |= {f"mean{k}": mean, f"var{k}": var}

    def _move(self, name, new):
        self.running[name] = self.running[name] + self.momentum * (
            new - self.running[name]
        )


def _known(argument, names, expected):
    unknown = ", ".join(sorted(set(names) - set(expected)))
    if unknown:
        raise ValueError(f"{argument}: got {unknown}, expected {', '.join(expected)}")


def referral(dims, seed=0):
    """A network with two faults that its caller does not know."""
    return Clinic(dims, REFERRED, seed)


def measured_gradients(network, x, labels):
    """Gradients of the network's loss by central differences, by name.

    Args:
        network: a `Clinic` in float64; it is left as it was.
        x, labels: a batch (D, N) and its labels (N,).
    """
    parameters = network.parameters

    def loss_with(name, value):
        network.parameters = {**parameters, name: value}
        return network.loss(x, labels)

    try:
        return {
            name: numerical_gradient(lambda v, name=name: loss_with(name, v), value)
            for name, value in parameters.items()
        }
    finally:
        network.parameters = parameters


def examine(network, x, labels):
    """Compare every gradient of a network with central differences of its loss.

    Args:
        network: a `Clinic` in float64; it is left as it was.
        x, labels: a batch (D, N) and its labels (N,).

    Returns:
        `direction_and_size` by name of the parameter.
    """
    truth = measured_gradients(network, x, labels)
    gradients = network.gradients(x, labels)
    return {name: direction_and_size(gradients[name], truth[name]) for name in truth}


def _cross_entropy(logits, labels):
    return -_log_softmax(logits)[labels, np.arange(len(labels))].mean()


def _slope(logits, labels):
    """Gradient of the summed loss at the logits: p, minus 1 for the right class."""
    slope = np.exp(_log_softmax(logits))
    slope[labels, np.arange(len(labels))] -= 1
    return slope


def _log_softmax(logits):
    shifted = logits - logits.max(axis=0)
    return shifted - np.log(np.exp(shifted).sum(axis=0))
