"""Train on classes and on a step of Adam that somebody else wrote.

Exercise 6.3 is the loss of one network, 6.5 its start, running statistics and scores,
6.4 one step for one array. Here they become a stack of networks and an update, for
`network.Solver`.
"""

import numpy as np

from bn_helpers import network


def batch_norm_stack(Loss, Net, dims, **options):
    """Networks with batch norm that are objects of two classes.

    Args:
        Loss: made as Loss(params, reg); loss(x, y) returns the loss and a dict of all
            gradients.
        Net: made as Net(dims, weight_scale, rng), with the dicts params and running;
            observe(x) moves the running statistics, scores(x) evaluates.
        dims, options: as `network.FullyConnectedNet` takes them. That class may stand
            for Loss or Net, and then stands for both.

    Returns:
        A `network.FullyConnectedNet`.
    """
    if network.FullyConnectedNet in (Loss, Net):
        return network.FullyConnectedNet(dims, "batch", **options)
    return _Plugged(Loss, Net, dims, **options)


def adam(step, net, lr=1e-3):
    """An update for `network.Solver` that takes the steps of step.

    Args:
        step: `network.Adam`; or a function step(p, g, m, v, t, lr) that returns the
            new p, m and v.
        net: what is trained, a `network.FullyConnectedNet`.
        lr: learning rate; a number, or an array of the stack's shape.
    """
    rates = np.broadcast_to(lr, net.shape)
    return network.Adam(lr) if step is network.Adam else _Adam(step, rates)


class _Plugged(network.FullyConnectedNet):
    """A stack whose arrays hold those of its networks, or are put together of them."""

    def __init__(self, Loss, Net, dims, weight_scale=1e-2, seed=0, **options):
        super().__init__(dims, "batch", weight_scale=weight_scale, seed=seed, **options)
        scales, seeds = (np.broadcast_to(v, self.shape) for v in (weight_scale, seed))
        self.Loss = Loss
        self.nets = {
            i: Net(self.dims, scales[i], np.random.default_rng(seeds[i]))
            for i in np.ndindex(self.shape)
        }
        self.params = self._stacked("params")
        for i, net in self.nets.items():  # an update moves the stack's arrays in place
            net.params.update({name: p[i] for name, p in self.params.items()})

    def _stacked(self, kind):
        dicts = [getattr(net, kind) for net in self.nets.values()]
        stacks = {name: np.stack([d[name] for d in dicts]) for name in dicts[0]}
        return {n: s.reshape(*self.shape, *s.shape[1:]) for n, s in stacks.items()}

    @property
    def running(self):
        """Copies of the running statistics by name."""
        return self._stacked("running")

    def load(self, state):
        """Copy parameters and running statistics by name."""
        super().load(state)
        for i, net in self.nets.items():
            net.running.update({name: state[name][i].copy() for name in net.running})

    def _loss(self, x, y, input_gradient=False):
        xs = np.broadcast_to(x, (*self.shape, *x.shape[-2:]))
        ys = np.broadcast_to(y, (*self.shape, y.shape[-1]))
        losses = np.empty(self.shape)
        grads = {name: np.empty_like(p) for name, p in self.params.items()}
        for i, net in self.nets.items():
            net.observe(xs[i])
            losses[i], found = self.Loss(net.params, self.reg).loss(xs[i], ys[i])
            for name, g in grads.items():
                g[i] = found[name]
        return losses, grads

    def _scores(self, x):
        xs = np.broadcast_to(x, (*self.shape, *x.shape[-2:]))
        scores = np.stack([net.scores(xs[i]) for i, net in self.nets.items()])
        return scores.reshape(*self.shape, *scores.shape[1:])


class _Adam:
    """An update whose step meets one array of one network, and a number as its rate."""

    def __init__(self, step, lr):
        self.take, self.lr = step, lr
        self.t, self.moments = 0, {}

    def step(self, params, grads):
        """Change params in place."""
        self.t += 1
        for name, p in params.items():
            if name not in self.moments:
                self.moments[name] = np.zeros_like(p), np.zeros_like(p)
            m, v = self.moments[name]
            for i, lr in np.ndenumerate(self.lr):
                new = self.take(p[i], grads[name][i], m[i], v[i], self.t, lr)
                p[i], m[i], v[i] = new
