"""Fully connected networks and their training in NumPy: one network, or many at once.

A `FullyConnectedNet` is affine, norm, activation, ..., affine. A `Solver` trains it
with an update: `SGD`, `Momentum` or `Adam`. Networks that differ in weight scale or
seed are a stack: what is a number for one network is an array for a stack, and all
arrays have leading axes.

    net = FullyConnectedNet((3072, 100, 100, 10), norm="batch", weight_scale=2e-2)
    history = Solver(net, data, Adam(1e-3), epochs=10, batch_size=50).train()
"""

import copy
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bn_helpers import gradcheck, layers

NORMS = {
    None: None,
    "batch": layers.BatchNorm,
    "layer": layers.LayerNorm,
    "rms": layers.RMSNorm,
}
ACTIVATIONS = {"relu": layers.ReLU, "tanh": layers.Tanh, "sigmoid": layers.Sigmoid}
BLOCK = 65_536  # numbers of an array that Adam moves at a time
EVALUATION_BATCH = 500  # samples of a stack that stay in the processor's memory


class FullyConnectedNet:
    """Affine, norm, activation, ..., affine: scores for C classes.

    Args:
        dims: widths from input to output, such as (3072, 100, 100, 10).
        norm: before each activation: None, "batch", "layer" or "rms".
        activation: "relu", "tanh" or "sigmoid".
        reg: strength of the penalty 0.5 * reg * sum of W**2 over all weights W; biases,
            gamma and beta are free.
        weight_scale: standard deviation of the normal initial weights; a number, or an
            array for a stack. Biases start at 0, gamma at 1, beta at 0.
        dtype: of all arrays, np.float64 or np.float32.
        seed: of the initial weights; an integer, or an array for a stack. Networks of
            one seed start from the same draws, whatever their norm and scale.

    Attributes:
        shape: of the stack, as weight_scale and seed broadcast; () is one network.
        params: arrays by name: W1 (*shape, D, H), b1, gamma1, beta1 (*shape, H), W2 ...
            Change an array in place, or put another one there.
        layers: see `bn_helpers.layers`.

    Raises:
        ValueError: unknown norm, activation or dtype; fewer than two widths.

    Agrees with: torch.nn.Sequential of the same layers.
    """

    def __init__(
        self,
        dims,
        norm=None,
        activation="relu",
        reg=0.0,
        weight_scale=1e-2,
        dtype=np.float64,
        seed=0,
    ):
        _require_known("norm", norm, NORMS)
        _require_known("activation", activation, ACTIVATIONS)
        _require_known("dtype", np.dtype(dtype).name, ("float64", "float32"))
        _require_widths(dims)
        self.dims, self.reg, self.dtype = tuple(dims), float(reg), np.dtype(dtype)
        self.shape = np.broadcast_shapes(np.shape(weight_scale), np.shape(seed))
        self.layers, self.params, self._numbers = [], {}, []
        for k, W in enumerate(self._initial_weights(weight_scale, seed), start=1):
            per_feature = (*self.shape, dims[k])
            self._append(k, layers.Affine(W, np.zeros(per_feature, dtype)))
            if k == len(dims) - 1:
                break
            if norm is not None:
                self._append(k, NORMS[norm](per_feature, dtype))
            self._append(k, ACTIVATIONS[activation]())

    def _initial_weights(self, weight_scale, seed):
        """W (*shape, in, out) for each affine layer."""
        scales = np.broadcast_to(weight_scale, self.shape).flat
        seeds = np.broadcast_to(seed, self.shape).flat
        networks = [
            (s, np.random.default_rng(i)) for s, i in zip(scales, seeds, strict=True)
        ]
        for k, size in enumerate(pairwise(self.dims)):
            W = np.array([s * rng.normal(size=size) for s, rng in networks], self.dtype)
            W = W.reshape(*self.shape, *size)
            yield W if k else layers.side_by_side(W)

    def _append(self, k, layer):
        self.layers.append(layer)
        self._numbers.append(k)
        self.params |= {f"{name}{k}": value for name, value in layer.params.items()}

    def loss(self, x, y, input_gradient=False):
        """Mean cross-entropy and penalty in training mode, and all gradients.

        Args:
            x: inputs (N, D), the same for all networks of a stack; or (*shape, N, D).
            y: classes 0 to C - 1, (N,); or (*shape, N).
            input_gradient: whether the gradient with respect to x is wanted as well.

        Returns:
            loss, a number or an array (*shape), and the gradients by the names of
            `params`; the one of x is called "x", (*shape, N, D).

        Raises:
            ValueError: x or y has another shape or is empty, x is not finite, a class
                is unknown, or batch norm meets a batch of one.

        State: updates the running statistics of batch norm.
        """
        return self._loss(*self._checked(x, y), input_gradient)

    def _loss(self, x, y, input_gradient=False):
        self._hand_out()
        for layer in self.layers:
            x = layer.forward(x)
        loss, dx = layers.softmax_cross_entropy(x, y)
        first, *others = self.layers
        for layer in reversed(others):
            dx = layer.backward(dx)
        first.param_gradients(dx)
        grads = self._by_name("grads")
        if input_gradient:
            grads["x"] = first.input_gradient(dx)
        if self.reg:
            loss = loss + self._penalty(grads)
        return loss, grads

    def _penalty(self, grads):
        """0.5 * reg * sum of W**2; adds its gradient to grads."""
        total = 0
        for k in range(1, len(self.dims)):
            W = self.params[f"W{k}"]
            total = total + 0.5 * self.reg * np.einsum("...ij,...ij->...", W, W)
            grads[f"W{k}"] += self.reg * W
        return total

    def scores(self, x):
        """Scores (*shape, N, C) of x in evaluation mode; the largest is the answer.

        Raises:
            ValueError: as `loss`.
        """
        return self._scores(self._checked(x))

    def _scores(self, x):
        self._hand_out()
        for layer in self.layers:
            x = layer.infer(x)
        return x

    def accuracy(self, x, y):
        """Share of right answers in evaluation mode, 0 to 1: a number, or (*shape).

        Raises:
            ValueError: as `loss`.
        """
        return self._accuracy(*self._checked(x, y))

    def _accuracy(self, x, y):
        right = 0
        for start in range(0, x.shape[-2], EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            answers = self._scores(x[..., rows, :]).argmax(-1)
            right = right + (answers == y[..., rows]).sum(-1)
        return right / x.shape[-2]

    @property
    def running(self):
        """Running statistics by name, such as running_mean1 (*shape, H)."""
        return self._by_name("running")

    def load(self, state):
        """Copy parameters and running statistics by name, such as `History.best`.

        Raises:
            ValueError: a name or a shape is not this network's.
        """
        own = {**self.params, **self.running}
        for name, value in state.items():
            _require_known("a name in state", name, own)
            if np.shape(value) != own[name].shape:
                raise ValueError(
                    f"state: {name} has shape {np.shape(value)}, "
                    f"expected {own[name].shape}"
                )
            own[name][...] = value

    def _hand_out(self):
        """Give each layer the arrays that params holds now."""
        for k, layer in zip(self._numbers, self.layers, strict=True):
            layer.params = {name: self.params[f"{name}{k}"] for name in layer.params}

    def _by_name(self, kind):
        return {
            f"{name}{k}": value
            for k, layer in zip(self._numbers, self.layers, strict=True)
            for name, value in getattr(layer, kind).items()
        }

    def _checked(self, x, y=None, names="xy"):
        x = np.asarray(x, self.dtype)
        N, D = x.shape[-2:] if x.ndim > 1 else (0, 0)
        if not N or D != self.dims[0] or not self._fits(x.shape[:-2]):
            expected = self._expected(f"N, {self.dims[0]}")
            raise ValueError(f"{names[0]} has shape {x.shape}, expected {expected}")
        if not np.isfinite(x).all():
            raise ValueError(f"{names[0]} holds nan or inf, expected finite numbers")
        return x if y is None else (x, self._checked_classes(y, N, names[1]))

    def _checked_classes(self, y, N, name):
        y, C = np.asarray(y), self.dims[-1]
        if y.shape[-1:] != (N,) or not self._fits(y.shape[:-1]):
            expected = self._expected(f"{N},")
            raise ValueError(f"{name} has shape {y.shape}, expected {expected}")
        if y.dtype.kind not in "iu":
            raise ValueError(f"{name} is {y.dtype}, expected integers")
        if y.min() < 0 or y.max() >= C:
            wrong = y[(y < 0) | (y >= C)][0]
            raise ValueError(f"{name} holds {wrong}, expected classes 0 to {C - 1}")
        return y

    def _fits(self, shape):
        """Whether leading axes broadcast to those of the stack."""
        try:
            return np.broadcast_shapes(shape, self.shape) == self.shape
        except ValueError:
            return False

    def _expected(self, shape):
        stack = ", ".join(map(str, self.shape))
        return f"({shape}) or ({stack}, {shape.rstrip(',')})" if stack else f"({shape})"


def check_gradients(net, x, y, **options):
    """`gradcheck.compare` for the loss of one network, over x and all parameters.

    Args:
        net: a `FullyConnectedNet` in float64; it is left as it is.
        x: inputs (N, D), at least 8.
        y: classes (N,).
        options: because, tolerance and h of `gradcheck.compare`.

    Returns:
        `gradcheck.Comparison`.

    Raises:
        gradcheck.Refused: the set-up is weak. Initial biases, gamma and beta are, too:
            0 or 1 everywhere, they hide a wrong factor. Move them, or say because=.
        ValueError: a stack of networks; or as `FullyConnectedNet.loss`.
    """
    if net.shape:
        raise ValueError(f"net is a stack of shape {net.shape}, expected one network")
    net = copy.deepcopy(net)

    def loss(x, **params):
        net.params.update(params)
        return net.loss(x, y)[0]

    inputs = {"x": np.asarray(x), **net.params}
    gradients = net.loss(x, y, input_gradient=True)[1]
    return gradcheck.compare(loss, inputs, gradients, **options)


# updates


class SGD:
    """p <- p - lr * g.

    Args:
        lr: learning rate; a number, or an array of the stack's shape.

    Agrees with: torch.optim.SGD.
    """

    def __init__(self, lr):
        self.lr = lr

    def step(self, params, grads):
        """Change params in place; grads are used up."""
        for name, p in params.items():
            g = grads[name]
            g *= _like(self.lr, p)
            p -= g


class Momentum(SGD):
    """v <- momentum * v + g;  p <- p - lr * v.

    Args:
        lr: learning rate; a number, or an array of the stack's shape.
        momentum: weight of the past, 0 to 1.

    Attributes:
        v: the velocity by name; starts at 0.

    Agrees with: torch.optim.SGD(momentum=...).
    """

    def __init__(self, lr, momentum=0.9):
        super().__init__(lr)
        self.momentum, self.v = momentum, {}

    def step(self, params, grads):
        """Change params in place; grads are used up."""
        for name, g in grads.items():
            v = _remembered(self.v, name, g)
            v *= self.momentum
            v += g
            g[...] = v
        super().step(params, grads)


class Adam:
    """m <- beta1 * m + (1 - beta1) * g, and v likewise with beta2 and g**2.

        p <- p - lr * m_hat / (sqrt(v_hat) + eps)

    At step t, m_hat = m / (1 - beta1**t) and v_hat = v / (1 - beta2**t).

    Args:
        lr: learning rate; a number, or an array of the stack's shape.
        beta1, beta2: weights of the past, 0 to 1.
        eps: added to the root.

    Attributes:
        m, v: the moments by name, without their corrections, as published.
        t: number of steps so far.

    Source: Kingma & Ba (2015), Algorithm 1.
    Agrees with: torch.optim.Adam.
    """

    def __init__(self, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8):
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.t, self.m, self.v = 0, {}, {}

    def step(self, params, grads):
        """Change params in place; grads are used up."""
        self.t += 1
        for name, p in params.items():
            m, v = _remembered(self.m, name, p), _remembered(self.v, name, p)
            c1, c2 = 1 - self.beta1**self.t, 1 - self.beta2**self.t
            lr = np.broadcast_to(_like(self.lr * (c2**0.5 / c1), p), p.shape)
            for block in _blocks(p, grads[name], m, v, lr):
                self._step(*block, self.eps * c2**0.5)

    def _step(self, p, g, m, v, lr, eps):
        """The published step; lr and eps already hold the corrections of m and v."""
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        v += (1 - self.beta2) * np.square(g, out=g)
        np.sqrt(v, out=g)
        g += eps
        np.divide(m, g, out=g)
        g *= lr
        p -= g


def _blocks(*arrays):
    """Arrays of one shape, some rows at a time: small enough to stay in the cache."""
    first = arrays[0]
    if first.size <= BLOCK:
        yield arrays
        return
    rows = first.shape[-2] if first.ndim > 1 else len(first)
    count = max(1, BLOCK * rows // first.size)
    for start in range(0, rows, count):
        at = slice(start, start + count)
        yield [a[..., at, :] if a.ndim > 1 else a[at] for a in arrays]


def _remembered(arrays, name, like):
    """The array of that name; zeros at first."""
    if name not in arrays:
        arrays[name] = np.zeros_like(like)
    return arrays[name]


def _like(lr, p):
    """lr in the dtype of p, and as it broadcasts against p."""
    lr = np.asarray(lr, p.dtype)
    return lr.reshape(lr.shape + (1,) * (p.ndim - lr.ndim)) if lr.ndim else lr


class History(NamedTuple):
    """What a `Solver` saw; without the stack's axes for one network.

    Attributes:
        loss: of each batch, before its step, in training mode (steps, *stack).
        train_accuracy, val_accuracy: 0 to 1, in evaluation mode, before training and
            after each epoch (epochs + 1, *stack).
        best: parameters and running statistics by name, of each network when its
            validation accuracy was highest for the first time; for `load`.
    """

    loss: np.ndarray
    train_accuracy: np.ndarray
    val_accuracy: np.ndarray
    best: dict


class Solver:
    """Trains a network, or a stack of them, and watches it.

    Args:
        net: a `FullyConnectedNet`; trained in place.
        data: x_train, y_train, x_val, y_val in this order; x as rows (N, D).
        update: `SGD`, `Momentum` or `Adam`; they remember, so take a new one.
        epochs: passes over the training set.
        batch_size: samples per step; an epoch's incomplete last batch is left out.
        seed: of the samples' order, another one in each epoch. A number: all networks
            see the same batches; an array that broadcasts to the stack: each its own.
        progress: whether to show a bar.

    Raises:
        ValueError: as `FullyConnectedNet.loss`; or batch_size, seed or the update's lr
            does not fit.
    """

    def __init__(
        self, net, data, update, epochs=10, batch_size=50, seed=0, progress=True
    ):
        x_train, y_train, x_val, y_val = data
        self.train_set = _checked_rows(net, x_train, y_train, "train")
        self.val_set = _checked_rows(net, x_val, y_val, "val")
        n = len(x_train)
        if not 1 <= batch_size <= n:
            raise ValueError(f"batch_size is {batch_size}, expected 1 to {n}")
        if np.shape(update.lr) not in ((), net.shape):
            raise ValueError(
                f"lr has shape {np.shape(update.lr)}, expected {net.shape}"
            )
        if not net._fits(np.shape(seed)):
            raise ValueError(f"seed has shape {np.shape(seed)}, expected {net.shape}")
        self.net, self.update, self.epochs = net, update, epochs
        self.steps_per_epoch, self.progress = n // batch_size, progress
        self._batches = _batches(n, batch_size, seed)

    def step(self):
        """One step on the next batch. Returns the loss before it."""
        rows = next(self._batches)
        x, y = self.train_set
        with np.errstate(over="ignore", invalid="ignore"):  # inf and nan tell it
            loss, grads = self.net._loss(x[rows], y[rows])
            self.update.step(self.net.params, grads)
        return loss

    def train(self):
        """Train for all epochs.

        Returns:
            `History`. A network that diverges has inf or nan there.

        State: net has its last parameters; `net.load(history.best)` brings the best.
        """
        losses, accuracies, best = [], [self._measure()], self._state()
        epochs = range(self.epochs)
        for _ in tqdm(epochs, "training", leave=False, disable=not self.progress):
            losses += [self.step() for _ in range(self.steps_per_epoch)]
            record = np.max(accuracies, axis=0)[1]
            accuracies.append(self._measure())
            better = accuracies[-1][1] > record  # for a stack: which networks are
            for name, value in self._state().items():
                best[name][better] = value[better]
        train, val = np.array(accuracies).swapaxes(0, 1)
        return History(np.array(losses), train, val, best)

    def _measure(self):
        """Accuracy on the training and on the validation set."""
        with np.errstate(over="ignore", invalid="ignore"):
            return [
                self.net._accuracy(*some) for some in (self.train_set, self.val_set)
            ]

    def _state(self):
        state = {**self.net.params, **self.net.running}
        return {name: value.copy("K") for name, value in state.items()}


def _checked_rows(net, x, y, part):
    if np.ndim(x) != 2:
        raise ValueError(
            f"x_{part} has shape {np.shape(x)}, expected (N, {net.dims[0]})"
        )
    return net._checked(x, y, (f"x_{part}", f"y_{part}"))


def _batches(n, batch_size, seed):
    """For each step the rows of its batch, (*seed's shape, batch_size), without end."""
    # not the stream that drew the weights
    rngs = [np.random.default_rng([s, 1]) for s in np.ravel(seed)]
    while True:
        order = np.array([rng.permutation(n) for rng in rngs])
        for start in range(0, n - batch_size + 1, batch_size):
            rows = order[:, start : start + batch_size]
            yield rows.reshape(*np.shape(seed), batch_size)


def _require_known(what, value, known):
    if value not in known:
        expected = ", ".join(map(repr, known))
        raise ValueError(f"{what} is {value!r}, expected one of {expected}")


def _require_widths(dims):
    if len(dims) < 2 or any(int(width) != width or width < 1 for width in dims):
        raise ValueError(
            f"dims is {dims}, expected two or more whole numbers, all >= 1"
        )
