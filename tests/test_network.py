"""The network and its training: PyTorch twins, central differences, one at a time."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bn_helpers import gradcheck, layers, network
from bn_helpers.network import SGD, Adam, FullyConnectedNet, Momentum, Solver

# no deadline: the machine may be busy
SOME = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**32 - 1)
DIMS = (12, 10, 9, 8, 4)
TORCH_NORMS = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "rms": lambda D: nn.RMSNorm(D, eps=1e-5),
}
TORCH_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
UPDATES = {
    "SGD": (lambda: SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (lambda: Momentum(0.05), lambda p: torch.optim.SGD(p, 0.05, 0.9)),
    "Adam": (lambda: Adam(1e-3), lambda p: torch.optim.Adam(p, 1e-3)),
}
every_norm = pytest.mark.parametrize("norm", network.NORMS)
close = np.testing.assert_allclose


def moved(net, seed=1):
    """The network, away from biases of 0 and gammas of 1."""
    rng = np.random.default_rng(seed)
    for p in net.params.values():
        p += 0.2 * rng.normal(size=p.shape)
    return net


def batch(N, seed=2, dims=DIMS):
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-0.5, 0.5, dims[0])
    return scale * rng.normal(size=(N, dims[0])), rng.integers(0, dims[-1], N)


@pytest.fixture(scope="module")
def toy():
    """Four classes, and features of unlike scale: x_train, y_train, x_val, y_val."""
    rng = np.random.default_rng(0)
    centers, scale = rng.normal(size=(4, 12)), np.geomspace(0.3, 3, 12)
    y = rng.integers(0, 4, 300)
    x = scale * (centers[y] + 1.5 * rng.normal(size=(300, 12)))
    return x[:200], y[:200], x[200:], y[200:]


class Twin:
    """One network of a stack, with PyTorch's modules, autograd and cross-entropy."""

    def __init__(self, net, norm, activation, index=()):
        modules, last = [], len(net.dims) - 1
        for k in range(1, last + 1):
            modules.append(nn.Linear(net.dims[k - 1], net.dims[k]))
            if k < last and norm:
                modules.append(TORCH_NORMS[norm](net.dims[k]))
            if k < last:
                modules.append(TORCH_ACTIVATIONS[activation]())
        self.model = nn.Sequential(*modules).double()
        self.names, self.reg = list(net.params), net.reg
        for (name, theirs), value in zip(
            self.named(), net.params.values(), strict=True
        ):
            value = torch.tensor(value[index])
            theirs.data = value.T.contiguous() if name[0] == "W" else value

    def named(self):
        return zip(self.names, self.model.parameters(), strict=True)

    def loss(self, x, y):
        weights = [p for name, p in self.named() if name[0] == "W"]
        penalty = sum(0.5 * self.reg * (W**2).sum() for W in weights)
        return F.cross_entropy(self.model(as_tensor(x)), as_tensor(y)) + penalty

    def gradients(self, x, y):
        self.model.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        return loss.item(), {n: as_array(n, p.grad) for n, p in self.named()}

    def params(self):
        return {n: as_array(n, p.detach()) for n, p in self.named()}


def as_tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def as_array(name, tensor):
    return tensor.numpy().T if name[0] == "W" else tensor.numpy()


# gradients


@pytest.mark.parametrize("reg", [0, 3.14])
@every_norm
def test_all_gradients_agree_with_central_differences(norm, reg):
    net = FullyConnectedNet(DIMS, norm, "tanh", reg=reg, weight_scale=0.4)
    result = network.check_gradients(moved(net), *batch(9))
    assert set(result.gradients) == {"x", *net.params}
    for name, numerical in result.numerical.items():
        error = np.abs(result.gradients[name] - numerical).max()
        if norm == "batch" and name in ("b1", "b2", "b3"):
            assert np.abs(result.gradients[name]).max() < 1e-12  # the norm removes it
            assert np.abs(numerical).max() < 1e-9
        else:
            assert error <= 1e-6 * np.abs(result.gradients[name]).max(), name
    assert result.agrees, result


@SOME
@given(
    st.sampled_from(list(network.NORMS)),
    st.sampled_from(list(network.ACTIVATIONS)),
    st.lists(st.integers(1, 7), min_size=2, max_size=5),
    st.integers(2, 9),
    st.sampled_from([0.0, 0.7]),
    SEEDS,
)
def test_loss_and_gradients_are_pytorchs(norm, activation, dims, N, reg, seed):
    net = FullyConnectedNet(dims, norm, activation, reg, weight_scale=1.0, seed=seed)
    twin = Twin(moved(net, seed), norm, activation)
    x, y = batch(N, seed, dims)
    loss, grads = net.loss(x, y)
    theirs, their_grads = twin.gradients(x, y)
    close(loss, theirs, rtol=1e-10)
    for name, want in their_grads.items():
        # a layer of one or two features can be all but constant: 1 / std is large
        close(grads[name], want, rtol=1e-7, atol=1e-10 * max(1, np.abs(want).max()))
    want = twin.model.eval()(as_tensor(x)).detach()
    close(net.scores(x), want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("reg", [0, 0.5])
@every_norm
def test_a_relu_network_equals_its_twin_to_ten_digits(norm, reg):
    dims = (192, 50, 50, 50, 10)
    net = moved(FullyConnectedNet(dims, norm, reg=reg, weight_scale=0.1))
    x, y = batch(50, dims=dims)
    loss, grads = net.loss(x, y)
    theirs, their_grads = Twin(net, norm, "relu").gradients(x, y)
    close(loss, theirs, rtol=1e-10)
    for name, want in their_grads.items():
        close(grads[name], want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("update", UPDATES)
@every_norm
def test_fifty_steps_lead_where_pytorchs_lead(norm, update, toy):
    make, torch_make = UPDATES[update]
    net = FullyConnectedNet(DIMS, norm, reg=0.01, weight_scale=0.3)
    twin = Twin(net, norm, "relu")
    optimizer = torch_make(twin.model.parameters())
    solver = Solver(net, toy, make(), batch_size=20, seed=5)
    x, y, _, _ = toy
    order = np.random.default_rng([5, 1])
    orders = np.concatenate([order.permutation(200) for _ in range(5)])
    for rows in orders.reshape(50, 20):
        optimizer.zero_grad()
        loss = twin.loss(x[rows], y[rows])
        loss.backward()
        optimizer.step()
        close(solver.step(), loss.item(), rtol=1e-8)
    for name, want in twin.params().items():
        close(net.params[name], want, rtol=0, atol=1e-8)
    scores = twin.model.eval()(as_tensor(x)).detach()
    close(net.scores(x), scores, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rows", [3, 70_000])  # one block, and several
def test_the_state_of_an_update_is_pytorchs_after_each_step(rows):
    rng = np.random.default_rng(0)
    start = rng.normal(size=(rows, 2))
    names = {"Adam": {"m": "exp_avg", "v": "exp_avg_sq"}}
    names["momentum"] = {"v": "momentum_buffer"}
    for update, states in names.items():
        make, torch_make = UPDATES[update]
        ours, params, p = make(), {"p": start.copy()}, torch.tensor(start)
        optimizer = torch_make([p])
        for _ in range(4):
            g = rng.normal(size=start.shape)
            p.grad = torch.tensor(g)
            optimizer.step()
            ours.step(params, {"p": g})
            close(params["p"], p, rtol=1e-12, atol=1e-15)
            for own, theirs in states.items():
                want = optimizer.state[p][theirs]
                close(getattr(ours, own)["p"], want, rtol=1e-12, atol=1e-15)


def test_the_check_works_on_a_copy_and_refuses_weak_setups():
    net = FullyConnectedNet(DIMS, "batch", "tanh", weight_scale=0.4)
    with pytest.raises(gradcheck.Refused, match="b1 is 0 everywhere"):
        network.check_gradients(net, *batch(9))
    assert "accepted" in repr(
        network.check_gradients(net, *batch(9), because="initial")
    )
    before = copy.deepcopy({**moved(net).params, **net.running})
    with pytest.raises(gradcheck.Refused, match="x holds 2 samples"):
        network.check_gradients(net, *batch(2))
    network.check_gradients(net, *batch(8))
    for name, value in {**net.params, **net.running}.items():
        assert np.array_equal(value, before[name])
    single = FullyConnectedNet(DIMS, "batch", "tanh", dtype=np.float32)
    with pytest.raises(gradcheck.Refused, match="float32"):
        network.check_gradients(moved(single), *batch(9))
    with pytest.raises(ValueError, match=r"stack of shape \(2,\), expected one"):
        network.check_gradients(FullyConnectedNet(DIMS, seed=[0, 1]), *batch(9))


# wrong networks, which the check must refuse


class UnnormalizedWay(layers.BatchNorm):
    """The gradient passes as if the statistics were constants."""

    def backward(self, dy):
        super().backward(dy)
        return dy * self.params["gamma"][None] * self.cache.inv_std


class DoubledGamma(layers.BatchNorm):
    def backward(self, dy):
        return super().backward(dy) * self.params["gamma"]


class WeakPenalty(FullyConnectedNet):
    """The penalty's gradient without its part for the first layer."""

    def _penalty(self, grads):
        first = grads["W1"].copy()
        total = super()._penalty(grads)
        grads["W1"][...] = first
        return total


class HalvedPenalty(FullyConnectedNet):
    def _penalty(self, grads):
        return super()._penalty(grads) / 2


class ScaledLoss(FullyConnectedNet):
    def _loss(self, x, y, input_gradient=False):
        loss, grads = super()._loss(x, y, input_gradient)
        return loss * len(y), grads


@pytest.mark.parametrize("wrong", [WeakPenalty, HalvedPenalty, ScaledLoss])
def test_a_wrong_network_is_caught(wrong):
    net = wrong(DIMS, "batch", "tanh", reg=0.5, weight_scale=0.4)
    assert not network.check_gradients(moved(net), *batch(9)).agrees


@pytest.mark.parametrize("wrong", [UnnormalizedWay, DoubledGamma])
def test_a_wrong_norm_is_caught_in_the_network(wrong, monkeypatch):
    monkeypatch.setitem(network.NORMS, "batch", wrong)
    net = FullyConnectedNet(DIMS, "batch", "tanh", weight_scale=0.4)
    result = network.check_gradients(moved(net), *batch(9))
    assert "W1" in result.wrong and "W4" not in result.wrong


class UncorrectedAdam(Adam):
    def step(self, params, grads):
        self.t = 10**6
        super().step(params, grads)


class NesterovMomentum(Momentum):
    def step(self, params, grads):
        kept = {name: g.copy() for name, g in grads.items()}
        super().step(params, grads)
        ahead = {name: kept[name] + self.momentum * self.v[name] for name in grads}
        for name, p in params.items():
            p += self.lr * (self.v[name] - ahead[name])


@pytest.mark.parametrize(
    ("update", "wrong"),
    [("Adam", UncorrectedAdam), ("momentum", NesterovMomentum), ("SGD", Momentum)],
)
def test_a_wrong_update_ends_elsewhere(update, wrong, toy, monkeypatch):
    right, in_torch = UPDATES[update]
    monkeypatch.setitem(UPDATES, update, (lambda: wrong(right().lr), in_torch))
    with pytest.raises(AssertionError):
        test_fifty_steps_lead_where_pytorchs_lead(None, update, toy)


# stacks


@SOME
@given(
    st.sampled_from(list(network.NORMS)),
    st.sampled_from(list(network.ACTIVATIONS)),
    st.sampled_from([(1,), (3,), (2, 2)]),
    st.integers(2, 7),
    st.integers(0, 2),
    SEEDS,
)
@example("batch", "relu", (2, 2), 3, 1, 0)
def test_a_stack_is_its_networks_one_at_a_time(norm, activation, shape, N, skip, seed):
    rng = np.random.default_rng(seed)
    scales, seeds = rng.uniform(0.3, 1, shape), rng.integers(0, 99, shape)
    args = (5, 4, 3), norm, activation, 0.1
    net = moved(FullyConnectedNet(*args, weight_scale=scales, seed=seeds), seed)
    lead = shape[skip:]  # the axes of the stack along which the data differ
    x, y = rng.normal(size=(*lead, N, 5)), rng.integers(0, 3, (*lead, N))
    loss, grads = net.loss(x, y, input_gradient=True)
    scores, accuracy = net.scores(x), net.accuracy(x, y)
    assert loss.shape == accuracy.shape == shape == net.shape
    for i in np.ndindex(shape):
        one = FullyConnectedNet(*args, weight_scale=scales[i], seed=seeds[i])
        for name, value in net.params.items():
            one.params[name] = value[i]
        xi, yi = x[i[skip:]], y[i[skip:]]
        alone, own_grads = one.loss(xi, yi, input_gradient=True)
        close(loss[i], alone, rtol=1e-11)
        for name, want in own_grads.items():
            close(grads[name][i], want, rtol=1e-8, atol=1e-10)
        close(scores[i], one.scores(xi), rtol=1e-9, atol=1e-12)
        assert accuracy[i] == one.accuracy(xi, yi)


@every_norm
def test_stacked_training_is_training_one_at_a_time(norm, toy):
    scales = np.array([0.02, 0.2, 1.0])
    args = {"epochs": 3, "batch_size": 32, "progress": False}
    net = FullyConnectedNet(DIMS, norm, weight_scale=scales)
    together = Solver(net, toy, Adam(1e-2), **args).train()
    for i, scale in enumerate(scales):
        one = FullyConnectedNet(DIMS, norm, weight_scale=scale)
        alone = Solver(one, toy, Adam(1e-2), **args).train()
        close(together.loss[:, i], alone.loss, rtol=1e-8)
        assert np.array_equal(together.train_accuracy[:, i], alone.train_accuracy)
        assert np.array_equal(together.val_accuracy[:, i], alone.val_accuracy)
        for name, want in alone.best.items():
            close(together.best[name][i], want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("make", [SGD, Momentum, Adam])
def test_each_network_of_a_stack_may_have_its_rate_and_its_batches(make, toy):
    rates, seeds = np.array([[0.1, 0.01], [0.2, 0.02]]), np.array([[3], [4]])
    net = FullyConnectedNet(DIMS, seed=np.zeros((2, 2), int), weight_scale=0.3)
    solver = Solver(net, toy, make(rates), batch_size=32, seed=seeds)
    losses = [solver.step() for _ in range(10)]
    for i in np.ndindex(2, 2):
        one = FullyConnectedNet(DIMS, weight_scale=0.3)
        alone = Solver(one, toy, make(rates[i]), batch_size=32, seed=seeds[i[0], 0])
        close([loss[i] for loss in losses], [alone.step() for _ in range(10)])


def test_both_arms_start_from_the_same_weights():
    nets = [FullyConnectedNet(DIMS, norm, seed=[7, 8]) for norm in network.NORMS]
    for name in ("W1", "W4"):
        assert all(np.array_equal(nets[0].params[name], n.params[name]) for n in nets)
    W = FullyConnectedNet(DIMS, weight_scale=[1e-3, 1.0]).params["W2"]
    close(W[0] * 1e3, W[1])
    assert not np.allclose(*nets[0].params["W2"])


def test_initial_weights_have_their_scale():
    W = FullyConnectedNet((300, 200, 10), weight_scale=0.03, seed=4).params["W1"]
    assert abs(W.mean()) < 1e-3 and abs(W.std() / 0.03 - 1) < 0.01


# parameters


@pytest.mark.parametrize("seed", [0, [0, 1]])
def test_parameters_may_be_replaced_or_changed_in_place(seed):
    net = FullyConnectedNet(DIMS, "batch", weight_scale=0.4, seed=seed)
    x, y = batch(9)
    W = net.params["W1"]
    net.params["W1"] = 2 * W
    replaced, grads = net.loss(x, y)
    net.params["W1"] = W
    net.params["W1"] *= 2
    assert W is net.params["W1"]
    close(net.loss(x, y)[0], replaced)
    SGD(0.1).step(net.params, grads)
    assert not np.allclose(net.loss(x, y)[0], replaced)


def test_names_and_dtypes(toy):
    net = FullyConnectedNet((12, 5, 4), "batch", dtype=np.float32)
    assert list(net.params) == ["W1", "b1", "gamma1", "beta1", "W2", "b2"]
    assert list(net.running) == ["running_mean1", "running_var1"]
    assert list(FullyConnectedNet((12, 5, 4), "rms").params)[2] == "gamma1"
    history = Solver(net, toy, Adam(), epochs=1, progress=False).train()
    arrays = *net.params.values(), *net.running.values(), net.scores(toy[2])
    assert {a.dtype for a in (*arrays, history.loss)} == {np.dtype(np.float32)}


# the Solver


def test_the_history_is_what_happened(toy):
    args = {"weight_scale": 0.2, "norm": "batch"}
    net, mirror = FullyConnectedNet(DIMS, **args), FullyConnectedNet(DIMS, **args)
    history = Solver(net, toy, SGD(0.1), 3, 60, seed=9, progress=False).train()
    assert history.loss.shape == (9,)  # 200 samples are 3 whole batches of 60
    assert history.train_accuracy.shape == history.val_accuracy.shape == (4,)
    x, y, x_val, y_val = toy
    order, update = np.random.default_rng([9, 1]), SGD(0.1)
    for epoch in range(4):
        assert history.train_accuracy[epoch] == mirror.accuracy(x, y)
        want = (mirror.scores(x_val).argmax(1) == y_val).mean()
        assert history.val_accuracy[epoch] == want
        if epoch < 3:
            rows = order.permutation(200)[:180].reshape(3, 60)
            for step, some in enumerate(rows, start=3 * epoch):
                loss, grads = mirror.loss(x[some], y[some])
                assert history.loss[step] == loss
                update.step(mirror.params, grads)
    for name, value in {**net.params, **net.running}.items():
        assert np.array_equal(value, {**mirror.params, **mirror.running}[name])


@pytest.mark.parametrize("scale", [0.3, np.array([0.1, 0.3, 1.0])])
@every_norm
def test_the_best_network_comes_back(norm, scale, toy):
    net = FullyConnectedNet(DIMS, norm, weight_scale=scale)
    solver = Solver(net, toy, Adam(0.05), epochs=30, batch_size=50, progress=False)
    history = solver.train()
    last = net.accuracy(*toy[2:])
    assert np.array_equal(last, history.val_accuracy[-1])
    best = history.val_accuracy.max(0)
    assert (best > last).any()  # or this test would show nothing
    net.load(history.best)
    assert np.array_equal(net.accuracy(*toy[2:]), best)
    first = history.val_accuracy.argmax(0)
    again = np.take_along_axis(history.train_accuracy, first[None], 0)[0]
    assert np.array_equal(net.accuracy(*toy[:2]), again)


def test_an_untrained_network_can_be_the_best(toy):
    net = FullyConnectedNet(DIMS, weight_scale=0.3)
    before = copy.deepcopy(net.params)
    good = *toy[:3], net.scores(toy[2]).argmax(1)  # its own answers
    best = Solver(net, good, SGD(0.5), epochs=2, progress=False).train().best
    for name, value in before.items():
        assert np.array_equal(best[name], value)
    assert not np.array_equal(net.params["W1"], before["W1"])


@pytest.mark.filterwarnings("error")
def test_a_diverging_network_shows_it_and_hurts_nobody(toy):
    rates = np.array([0.05, 1e200])
    net = FullyConnectedNet(DIMS, weight_scale=0.2, seed=[0, 0])
    both = Solver(net, toy, SGD(rates), epochs=2, progress=False).train()
    assert not np.isfinite(both.loss[-1, 1]) and np.isfinite(both.loss[:, 0]).all()
    one = FullyConnectedNet(DIMS, weight_scale=0.2)
    alone = Solver(one, toy, SGD(0.05), epochs=2, progress=False).train()
    close(both.loss[:, 0], alone.loss)


def test_the_order_depends_on_the_seed_alone(toy):
    def losses(seed):
        net = FullyConnectedNet(DIMS, weight_scale=0.3)
        return Solver(net, toy, SGD(0.1), 1, 40, seed, progress=False).train().loss

    assert np.array_equal(losses(1), losses(1))
    assert not np.array_equal(losses(1), losses(2))


def test_an_epoch_shows_each_sample_at_most_once():
    seeds = np.array([[3], [4]])
    batches = network._batches(200, 30, seeds)
    rows = np.array([next(batches) for _ in range(14)])
    assert rows.shape == (14, 2, 1, 30)
    for epoch in (rows[:6], rows[6:12]):
        for seed in range(2):
            assert len(set(epoch[:, seed].ravel())) == 180
    assert not np.array_equal(rows[:, 0], rows[:, 1])
    assert not np.array_equal(rows[:6], rows[6:12])


def test_the_bar_is_shown_when_wanted(toy, capsys):
    for progress in (True, False):
        net = FullyConnectedNet(DIMS)
        Solver(net, toy, SGD(0.1), epochs=1, progress=progress).train()
        out, err = capsys.readouterr()
        assert not out and ("training" in err) is progress


def test_it_learns(toy):
    net = FullyConnectedNet(DIMS, "batch", weight_scale=0.1)
    history = Solver(net, toy, Adam(1e-2), 30, 20, progress=False).train()
    assert history.train_accuracy[0] < 0.5 and history.train_accuracy[-1] > 0.9
    assert history.loss[-5:].mean() < 0.5 * history.loss[:5].mean()


# errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"norm": "bn"}, "norm is 'bn', expected one of None, 'batch'"),
        ({"activation": "ReLU"}, "activation is 'ReLU', expected one of 'relu'"),
        ({"dtype": int}, "dtype is 'int64', expected one of 'float64', 'float32'"),
        ({"dims": (5,)}, "dims is (5,), expected two or more whole numbers"),
        ({"dims": (5, 0, 3)}, "dims is (5, 0, 3), expected"),
        ({"dims": (5, 2.5, 3)}, "dims is (5, 2.5, 3), expected"),
    ],
)
def test_a_wrong_network_says_what_came(arguments, words):
    with pytest.raises(ValueError) as error:
        FullyConnectedNet(**{"dims": DIMS, **arguments})
    assert words in str(error.value)


def spoiled(x, value):
    x = x.copy()
    x[3, 2] = value
    return x


BAD_DATA = [
    (lambda x, y: (x[:, :5], y), "x has shape (9, 5), expected (N, 12)"),
    (lambda x, y: (x[0], y), "x has shape (12,), expected (N, 12)"),
    (lambda x, y: (x[:0], y[:0]), "x has shape (0, 12), expected (N, 12)"),
    (lambda x, y: (x[None], y), "x has shape (1, 9, 12), expected (N, 12)"),
    (lambda x, y: (spoiled(x, np.nan), y), "x holds nan or inf, expected finite"),
    (lambda x, y: (spoiled(x, -np.inf), y), "x holds nan or inf, expected finite"),
    (lambda x, y: (x, y[:8]), "y has shape (8,), expected (9,)"),
    (lambda x, y: (x, np.eye(4)[y]), "y has shape (9, 4), expected (9,)"),
    (lambda x, y: (x, y + 1.0), "y is float64, expected integers"),
    (lambda x, y: (x, np.arange(9)), "y holds 4, expected classes 0 to 3"),
    (lambda x, y: (x, y - 9), "expected classes 0 to 3"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_DATA)
def test_wrong_data_are_refused_everywhere(spoil, words):
    net = FullyConnectedNet(DIMS)
    good = batch(9)
    x, y = spoil(*good)
    for call in (
        lambda: net.loss(x, y),
        lambda: net.accuracy(x, y),
        lambda: Solver(net, (*good, x, y), SGD(0.1), batch_size=3),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert words in str(error.value).replace("_val", "")


def test_a_stack_says_which_shapes_it_takes():
    net = FullyConnectedNet(DIMS, seed=[0, 1])
    x, y = batch(9)
    with pytest.raises(ValueError, match=r"expected \(N, 12\) or \(2, N, 12\)"):
        net.loss(np.stack([x, x, x]), y)
    with pytest.raises(ValueError, match=r"expected \(9,\) or \(2, 9\)"):
        net.loss(x, np.stack([y, y, y]))


def test_batch_norm_refuses_a_single_sample():
    net = FullyConnectedNet(DIMS, "batch")
    x, y = batch(1)
    assert net.scores(x).shape == (1, 4)
    with pytest.raises(ValueError, match="N is 1"):
        net.loss(x, y)


def test_a_solver_says_what_does_not_fit(toy):
    net = FullyConnectedNet(DIMS, seed=[0, 1, 2])
    for arguments, words in (
        ({"batch_size": 201}, "batch_size is 201, expected 1 to 200"),
        ({"batch_size": 0}, "batch_size is 0, expected 1 to 200"),
        ({"update": SGD(np.ones(2))}, r"lr has shape \(2,\), expected \(3,\)"),
        ({"seed": [1, 2]}, r"seed has shape \(2,\), expected \(3,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            Solver(net, toy, **{"update": SGD(0.1), **arguments})
    with pytest.raises(
        ValueError, match=r"x_val has shape \(3, 100, 12\), expected \(N"
    ):
        Solver(net, (*toy[:2], np.stack([toy[2]] * 3), toy[3]), SGD(0.1))
    images = toy[0].reshape(200, 3, 2, 2)
    with pytest.raises(ValueError, match=r"x_train has shape \(200, 3, 2, 2\)"):
        Solver(net, (images, *toy[1:]), SGD(0.1))


def test_load_refuses_what_is_not_its_own():
    net = FullyConnectedNet(DIMS)
    with pytest.raises(ValueError, match="'W9', expected one of 'W1'"):
        net.load({"W9": np.ones(3)})
    with pytest.raises(ValueError, match=r"b1 has shape \(3,\), expected \(10,\)"):
        net.load({"b1": np.ones(3)})
