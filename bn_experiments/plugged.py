"""Train on a network's loss and on a step of Adam that somebody else wrote.

Exercises 6.3 and 6.4 are the loss of one network and one step for one array. What a
training needs besides stands here: a stack of networks, the start, running statistics,
and evaluation.
"""

import numpy as np

from bn_helpers import network


def batch_norm_stack(Net, dims, **options):
    """Networks with batch norm whose loss is Net's.

    Args:
        Net: `network.FullyConnectedNet`; or a class made as Net(params, reg) for one
            network, whose loss(x, y) returns the loss and a dict of all gradients.
        dims, options: as `network.FullyConnectedNet` takes them.

    Returns:
        A `network.FullyConnectedNet`; gamma starts at 1 and beta at 0.
    """
    if Net is network.FullyConnectedNet:
        return Net(dims, "batch", **options)
    return _Plugged(Net, dims, **options)


def adam(step, lr=1e-3):
    """An update for `network.Solver` that takes the steps of step.

    Args:
        step: `network.Adam`; or a function step(p, g, m, v, t, lr) that returns the
            new p, m and v.
        lr: learning rate; a number, or an array of the stack's shape.
    """
    return network.Adam(lr) if step is network.Adam else _Adam(step, lr)


class _Plugged(network.FullyConnectedNet):
    def __init__(self, Net, dims, **options):
        super().__init__(dims, "batch", **options)
        self.Net = Net

    def _loss(self, x, y, input_gradient=False):
        self._see(x)
        xs = np.broadcast_to(x, (*self.shape, *x.shape[-2:]))
        ys = np.broadcast_to(y, (*self.shape, y.shape[-1]))
        losses = np.empty(self.shape)
        grads = {name: np.empty_like(p) for name, p in self.params.items()}
        for i in np.ndindex(self.shape):
            params = {name: p[i] for name, p in self.params.items()}
            losses[i], found = self.Net(params, self.reg).loss(xs[i], ys[i])
            for name, g in grads.items():
                g[i] = found[name]
        return losses, grads

    def _see(self, x):
        """Update the running statistics: Net has none."""
        self._hand_out()
        for layer in self.layers[:-1]:
            x = layer.forward(x)


class _Adam:
    def __init__(self, step, lr):
        self.take, self.lr, self.axes = step, lr, np.ndim(lr)
        self.t, self.moments = 0, {}

    def step(self, params, grads):
        """Change params in place."""
        self.t += 1
        for name, p in params.items():
            m, v = self.moments.get(name, (np.zeros_like(p), np.zeros_like(p)))
            lr = np.reshape(self.lr, np.shape(self.lr) + (1,) * (p.ndim - self.axes))
            p[...], *self.moments[name] = self.take(p, grads[name], m, v, self.t, lr)
