"""Forty networks of the weight-scale sweep: one after another, and as two stacks.

Theirs is written as solutions of the network assignment usually are: functions over
(N, D) arrays, staged batch norm, a Solver that trains one network. Ours is
`bn_helpers.network`, twenty scales at a time. Both start from the same weights and see
the same batches; their curves agree in float64 before anything is timed. A last row
trains one network, against code for one network that wastes nothing.
"""

from itertools import pairwise

import numpy as np

from bn_helpers import data, network, norms

from .table import Row, matrix_product, measure

ROUNDS = 3
DIMS = (3072, *(50,) * 6, 10)
SCALES = np.logspace(-4, 0, 20)
NORMS = (None, "batch")
BATCH, EPOCHS = 50, 10
LR, BETA1, BETA2, ADAM_EPS = 1e-3, 0.9, 0.999, 1e-8
EPS, MOMENTUM = 1e-5, 0.9  # theirs: the weight of the past
ONE = 0.02  # the scale of the last row
PRODUCTS = 10  # in one timing of the ceiling
TOLERANCE = 1e-6  # between curves in float64, relative


def images(dtype, n_train=1000):
    """x_train, y_train, x_val, y_val: rows of 3072 numbers, centered by their mean."""
    x_train, y_train, x_val, y_val = data.load_cifar10_small()
    x_train, x_val = (x.reshape(len(x), -1) / 255 for x in (x_train[:n_train], x_val))
    x_train, x_val = x_train - x_train.mean(0), x_val - x_train.mean(0)
    y_train, y_val = y_train[:n_train].astype(int), y_val.astype(int)
    return x_train.astype(dtype), y_train, x_val.astype(dtype), y_val


# theirs: layers


def affine_forward(x, w, b):
    out = x.reshape(x.shape[0], -1).dot(w) + b
    return out, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    dx = dout.dot(w.T).reshape(x.shape)
    dw = x.reshape(x.shape[0], -1).T.dot(dout)
    db = np.sum(dout, axis=0)
    return dx, dw, db


def relu_forward(x):
    return np.maximum(0, x), x


def relu_backward(dout, x):
    return dout * (x > 0)


def batchnorm_forward(x, gamma, beta, bn_param):
    N, D = x.shape
    running_mean = bn_param.get("running_mean", np.zeros(D, x.dtype))
    running_var = bn_param.get("running_var", np.ones(D, x.dtype))
    if bn_param["mode"] == "test":
        x_hat = (x - running_mean) / np.sqrt(running_var + EPS)
        return gamma * x_hat + beta, None
    mean, var = np.mean(x, axis=0), np.var(x, axis=0)
    std = np.sqrt(var + EPS)
    centered = x - mean
    x_hat = centered / std
    out = gamma * x_hat + beta
    keep = MOMENTUM
    bn_param["running_mean"] = keep * running_mean + (1 - keep) * mean
    bn_param["running_var"] = keep * running_var + (1 - keep) * var * (N / (N - 1))
    return out, (x_hat, centered, std, gamma)


def batchnorm_backward(dout, cache):
    x_hat, centered, std, gamma = cache
    N = dout.shape[0]
    dbeta = np.sum(dout, axis=0)
    dgamma = np.sum(dout * x_hat, axis=0)
    dx_hat = dout * gamma
    dstd = -np.sum(dx_hat * centered, axis=0) / std**2
    dvar = 0.5 * dstd / std
    dcentered = dx_hat / std + 2 * centered * dvar / N
    dmean = -np.sum(dcentered, axis=0)
    dx = dcentered + dmean / N
    return dx, dgamma, dbeta


def softmax_loss(x, y):
    shifted = x - np.max(x, axis=1, keepdims=True)
    Z = np.sum(np.exp(shifted), axis=1, keepdims=True)
    log_probs = shifted - np.log(Z)
    probs = np.exp(log_probs)
    N = x.shape[0]
    loss = -np.sum(log_probs[np.arange(N), y]) / N
    dx = probs.copy()
    dx[np.arange(N), y] -= 1
    dx /= N
    return loss, dx


# theirs: network, update, Solver


class TheirNet:
    def __init__(self, use_batchnorm, weight_scale, dtype, dims=DIMS, seed=0):
        rng = np.random.default_rng(seed)
        self.use_batchnorm, self.dtype = use_batchnorm, dtype
        self.num_layers, self.params = len(dims) - 1, {}
        for i in range(1, self.num_layers + 1):
            size = dims[i - 1], dims[i]
            self.params[f"W{i}"] = weight_scale * rng.normal(size=size)
            self.params[f"b{i}"] = np.zeros(dims[i])
            if use_batchnorm and i < self.num_layers:
                self.params[f"gamma{i}"] = np.ones(dims[i])
                self.params[f"beta{i}"] = np.zeros(dims[i])
        self.bn_params = [{"mode": "train"} for _ in range(self.num_layers - 1)]
        for k, v in self.params.items():
            self.params[k] = v.astype(dtype)

    def loss(self, X, y=None):
        X = X.astype(self.dtype)
        for bn_param in self.bn_params:
            bn_param["mode"] = "test" if y is None else "train"
        out, caches = X, []
        for i in range(1, self.num_layers):
            out, fc = affine_forward(out, self.params[f"W{i}"], self.params[f"b{i}"])
            bn = None
            if self.use_batchnorm:
                gamma, beta = self.params[f"gamma{i}"], self.params[f"beta{i}"]
                out, bn = batchnorm_forward(out, gamma, beta, self.bn_params[i - 1])
            out, relu = relu_forward(out)
            caches.append((fc, bn, relu))
        L = self.num_layers
        scores, fc = affine_forward(out, self.params[f"W{L}"], self.params[f"b{L}"])
        if y is None:
            return scores
        loss, dout = softmax_loss(scores, y)
        grads = {}
        dout, grads[f"W{L}"], grads[f"b{L}"] = affine_backward(dout, fc)
        for i in range(L - 1, 0, -1):
            fc, bn, relu = caches[i - 1]
            dout = relu_backward(dout, relu)
            if self.use_batchnorm:
                dout, grads[f"gamma{i}"], grads[f"beta{i}"] = batchnorm_backward(
                    dout, bn
                )
            dout, grads[f"W{i}"], grads[f"b{i}"] = affine_backward(dout, fc)
        return loss, grads


def adam(w, dw, config):
    config.setdefault("m", np.zeros_like(w))
    config.setdefault("v", np.zeros_like(w))
    config.setdefault("t", 0)
    config["t"] += 1
    config["m"] = BETA1 * config["m"] + (1 - BETA1) * dw
    config["v"] = BETA2 * config["v"] + (1 - BETA2) * dw**2
    m_hat = config["m"] / (1 - BETA1 ** config["t"])
    v_hat = config["v"] / (1 - BETA2 ** config["t"])
    return w - LR * m_hat / (np.sqrt(v_hat) + ADAM_EPS), config


class TheirSolver:
    def __init__(self, model, images, epochs, seed=0):
        self.model, self.num_epochs = model, epochs
        self.X_train, self.y_train, self.X_val, self.y_val = images
        self.rng = np.random.default_rng([seed, 1])  # the order of our Solver
        self.best_val_acc, self.best_params = 0, {}
        self.loss_history, self.train_acc_history, self.val_acc_history = [], [], []
        self.configs = {p: {} for p in model.params}

    def step(self, rows):
        loss, grads = self.model.loss(self.X_train[rows], self.y_train[rows])
        self.loss_history.append(loss)
        for p, w in self.model.params.items():
            self.model.params[p], self.configs[p] = adam(w, grads[p], self.configs[p])

    def check_accuracy(self, X, y, batch_size=100):
        y_pred = []
        for start in range(0, X.shape[0], batch_size):
            scores = self.model.loss(X[start : start + batch_size])
            y_pred.append(np.argmax(scores, axis=1))
        return np.mean(np.hstack(y_pred) == y)

    def check_both(self):
        self.train_acc_history.append(self.check_accuracy(self.X_train, self.y_train))
        self.val_acc_history.append(self.check_accuracy(self.X_val, self.y_val))
        if self.val_acc_history[-1] > self.best_val_acc:
            self.best_val_acc = self.val_acc_history[-1]
            self.best_params = {k: v.copy() for k, v in self.model.params.items()}

    def train(self):
        self.check_both()
        for _ in range(self.num_epochs):
            order = self.rng.permutation(len(self.X_train))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                self.step(order[start : start + BATCH])
            self.check_both()


# one network, without waste and without a stack: what stacking may cost


class PlainNet:
    """One batch-norm network over (N, D) arrays, on the reference norm."""

    def __init__(self, scale, dtype):
        start = network.FullyConnectedNet(
            DIMS, "batch", weight_scale=scale, dtype=dtype
        )
        self.p, self.L = start.params, len(DIMS) - 1
        self.running = {
            i: (np.zeros(D, dtype), np.ones(D, dtype))
            for i, D in enumerate(DIMS[1:-1], start=1)
        }

    def loss(self, x, y):
        p, L, caches = self.p, self.L, []
        for i in range(1, L):
            z = x @ p[f"W{i}"]
            z += p[f"b{i}"]
            h, cache = norms.batchnorm_forward(z, p[f"gamma{i}"], p[f"beta{i}"])
            self.running[i] = norms.update_running_stats(
                *self.running[i], cache.mu, cache.var, len(z)
            )
            np.maximum(h, 0, out=h)
            caches.append((x, cache, h))
            x = h
        scores = x @ p[f"W{L}"]
        scores += p[f"b{L}"]
        loss, d = softmax_loss(scores, y)
        g = {f"W{L}": x.T @ d, f"b{L}": d.sum(0)}
        d = d @ p[f"W{L}"].T
        for i in range(L - 1, 0, -1):
            x, cache, h = caches[i - 1]
            d *= h > 0
            d, g[f"gamma{i}"], g[f"beta{i}"] = norms.batchnorm_backward(d, cache)
            g[f"W{i}"], g[f"b{i}"] = x.T @ d, d.sum(0)
            if i > 1:
                d = d @ p[f"W{i}"].T
        return loss, g

    def accuracy(self, x, y):
        p = self.p
        for i in range(1, self.L):
            z = x @ p[f"W{i}"]
            z += p[f"b{i}"]
            h = norms.batchnorm_inference(
                z, p[f"gamma{i}"], p[f"beta{i}"], *self.running[i]
            )
            x = np.maximum(h, 0, out=h)
        return np.mean((x @ p[f"W{self.L}"] + p[f"b{self.L}"]).argmax(1) == y)


def plain_curves(images, scale, epochs):
    """Loss of each step, and both accuracies; keeps a copy of the best parameters."""
    x_train, y_train, x_val, y_val = images
    net, update = PlainNet(scale, x_train.dtype), network.Adam(LR)
    rng, losses, best = np.random.default_rng([0, 1]), [], None
    accuracies = [(net.accuracy(x_train, y_train), net.accuracy(x_val, y_val))]
    for _ in range(epochs):
        order = rng.permutation(len(x_train))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            some = order[start : start + BATCH]
            loss, grads = net.loss(x_train[some], y_train[some])
            update.step(net.p, grads)
            losses.append(loss)
        accuracies.append((net.accuracy(x_train, y_train), net.accuracy(x_val, y_val)))
        if best is None or accuracies[-1][1] > best[0]:
            copies = {name: value.copy() for name, value in net.p.items()}
            best = accuracies[-1][1], copies
    return [np.array(losses), *np.transpose(accuracies)]


# the contest


def their_curves(images, scales, epochs, norm):
    """Loss (steps, scales), training and validation accuracy (epochs + 1, scales)."""
    solvers = []
    for scale in scales:
        net = TheirNet(norm == "batch", scale, images[0].dtype)
        solvers.append(TheirSolver(net, images, epochs))
        solvers[-1].train()
    names = "loss_history", "train_acc_history", "val_acc_history"
    return [np.transpose([getattr(s, name) for s in solvers]) for name in names]


def our_curves(images, scales, epochs, norm):
    """The same, all scales at once; a single scale has no axis."""
    dtype = images[0].dtype
    net = network.FullyConnectedNet(DIMS, norm, weight_scale=scales, dtype=dtype)
    solver = network.Solver(
        net, images, network.Adam(LR), epochs, BATCH, progress=False
    )
    return solver.train()[:3]


def require_equal(theirs, ours):
    """Curves in float64, relative to the largest value of each."""
    for a, b in zip(theirs, ours, strict=True):
        difference = np.abs(a - b).max() / np.abs(a).max()
        if not difference < TOLERANCE:
            raise RuntimeError(f"the curves differ by {difference:.1e}")


def operations(images, epochs):
    """Floating-point operations in the matrix products of one network's training."""
    x_train, _, x_val, _ = images
    weights = [a * b for a, b in pairwise(DIMS)]
    per_sample = 3 * sum(weights) - weights[0]  # forward, dW, dx; no dx of the images
    shown = epochs * (len(x_train) // BATCH * BATCH)
    judged = (epochs + 1) * (len(x_train) + len(x_val))
    return 2 * (shown * per_sample + judged * sum(weights))


def rows(say, rounds=ROUNDS, scales=SCALES, epochs=EPOCHS, n_train=1000):
    """Yield the Rows; tiny: rounds=1, scales=SCALES[::10], epochs=1, n_train=100."""
    say("comparing curves in float64")
    compare(images(np.float64, n_train), scales)
    fast = images(np.float32, n_train)
    yield row_of_many(say, fast, scales, epochs, rounds)
    yield row_of_one(say, fast, epochs, 3 * rounds)


def compare(exact, scales):
    """All contestants draw the same curves, or nothing is timed."""
    for norm in NORMS:
        some = exact, scales[:: len(scales) // 2], 1, norm
        require_equal(their_curves(*some), our_curves(*some))
    require_equal(plain_curves(exact, ONE, 1), our_curves(exact, ONE, 1, "batch"))


def row_of_many(say, fast, scales, epochs, rounds):
    """All scales, with and without batch norm: one after another, and stacked."""
    count = len(NORMS) * len(scales)
    calls = {
        "theirs": lambda: [their_curves(fast, scales, epochs, n) for n in NORMS],
        "ours": lambda: [our_curves(fast, scales, epochs, n) for n in NORMS],
    }
    say(f"{rounds} rounds of {count} networks, one after another and stacked")
    return timed(
        calls,
        rounds,
        say,
        warm=False,
        work=f"{count} networks {task(epochs)}",
        peer="CS231n-style NumPy layers and Solver",
        floor=2.0,
        flops=count * operations(fast, epochs),
    )


def row_of_one(say, fast, epochs, rounds):
    """One network: what the stack's axes cost."""
    calls = {
        "theirs": lambda: plain_curves(fast, ONE, epochs),
        "ours": lambda: our_curves(fast, ONE, epochs, "batch"),
    }
    return timed(
        calls,
        rounds,
        say,
        work=f"1 network {task(epochs)}",
        peer="NumPy for one network only",
        floor=0.909,  # the stack's axes cost at most a tenth
        flops=operations(fast, epochs),
    )


def task(epochs):
    return f"of the weight-scale sweep, CIFAR-10 32 × 32, {epochs} epochs"


def timed(calls, rounds, say, warm=True, **facts):
    """The Row of two contestants, with a plain product timed in the same rounds."""
    product = matrix_product("numpy", np.float32)
    calls["product"] = lambda: [product.call() for _ in range(PRODUCTS)]
    seconds = measure(calls, rounds, warm=warm, say=say)
    return Row(
        dtype="float32",
        theirs=seconds["theirs"],
        ours=seconds["ours"],
        ceiling=PRODUCTS * product.flops / seconds["product"],
        **facts,
    )
