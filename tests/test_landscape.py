"""Networks of lesson 08: against PyTorch twins, one network at a time."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bn_experiments import landscape
from bn_experiments.landscape import Networks
from bn_helpers.data import Data, small_mnist

DIMS = (7, 6, 6, 6, 4)
KINDS = [
    {"norm": "plain"},
    {"norm": "batch"},
    {"norm": "plain", "activation": "sigmoid"},
    {"norm": "batch", "activation": "sigmoid"},
    {"norm": "batch", "place": "after"},
    {"norm": "batch", "place": "after", "activation": "sigmoid"},
    {"norm": "plain", "residual": True},
    {"norm": "batch", "residual": True},
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: " ".join(map(str, k)))


class Twin(nn.Module):
    """One network of the stack, from PyTorch's modules."""

    def __init__(self, nets, s, norm="plain", activation="relu", **more):
        super().__init__()
        self.after, self.residual = more.get("place") == "after", more.get("residual")
        self.activation = {"relu": nn.ReLU(), "sigmoid": nn.Sigmoid()}[activation]
        self.affine, self.norm = nn.ModuleList(), nn.ModuleList()
        for k, (W, b) in enumerate(zip(nets.W, nets.b, strict=True)):
            self.affine.append(nn.Linear(W.shape[1], W.shape[2]).double())
            self.affine[-1].weight.data = W[s].detach().T.clone()
            self.affine[-1].bias.data = b[s, 0].detach().clone()
            if norm == "batch" and k < len(nets.W) - 1:
                self.norm.append(nn.BatchNorm1d(W.shape[2], momentum=1.0).double())
                self.norm[-1].weight.data = nets.gamma[k][s, 0].detach().clone()
                self.norm[-1].bias.data = nets.beta[k][s, 0].detach().clone()
            elif k < len(nets.W) - 1:
                self.norm.append(nn.Identity())

    def forward(self, x):
        for affine, norm in zip(self.affine[:-1], self.norm, strict=True):
            z = affine(x)
            y = norm(self.activation(z)) if self.after else self.activation(norm(z))
            x = x + y if self.residual and x.shape == y.shape else y
        return self.affine[-1](x)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 120)
    x = rng.normal(size=(4, 7))[y] + rng.normal(size=(120, 7))
    x, y = torch.tensor(x), torch.tensor(y)
    return Data(x[:80], y[:80], x[80:], y[80:])


def randomized(kind, seeds=(0, 1, 2)):
    """Networks whose biases, gamma and beta are not 0, 1, 0."""
    nets = Networks(DIMS, **kind, seeds=seeds)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (*nets.b, *nets.gamma, *nets.beta):
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return nets


def twins(nets, kind):
    return [Twin(nets, s, **kind) for s in range(len(nets.seeds))]


@each_kind
def test_logits_gradients_and_evaluation_are_those_of_pytorch(kind, data):
    nets = randomized(kind)
    losses, slopes = nets.gradients(data.x_train, data.y_train)
    logits = nets.logits(data.x_train)
    nets.calibrate(data.x_train)
    for s, twin in enumerate(twins(nets, kind)):
        assert torch.allclose(twin(data.x_train), logits[s], atol=1e-12)
        loss = F.cross_entropy(twin(data.x_train), data.y_train)
        assert torch.allclose(loss, losses[s])
        loss.backward()
        for k, affine in enumerate(twin.affine):
            assert torch.allclose(affine.weight.grad.T, slopes[k][s], atol=1e-12)
        twin.eval()
        right = (twin(data.x_test).argmax(1) == data.y_test).double().mean()
        assert nets.accuracy(data.x_test, data.y_test)[s] == right
        assert torch.allclose(
            twin(data.x_test), nets.logits(data.x_test, evaluation=True)[s]
        )


@each_kind
def test_training_is_that_of_torch_optim(kind, data):
    lr, decay, steps = 0.2, 0.05, 7
    nets, rows = Networks(DIMS, **kind, seeds=(3, 4)), []
    pair = twins(nets, kind)

    def note(step, x, y):
        rows.append((x, y))

    losses = landscape.fit(nets, data, lr, steps, 16, weight_decay=decay, callback=note)
    for s, twin in enumerate(pair):
        hidden = [affine.weight for affine in twin.affine[:-1]]
        rest = [p for p in twin.parameters() if all(p is not w for w in hidden)]
        groups = [{"params": hidden, "weight_decay": decay}, {"params": rest}]
        optimizer = torch.optim.SGD(groups, lr=lr)
        for step, (x, y) in enumerate(rows):
            optimizer.zero_grad()
            loss = F.cross_entropy(twin(x[s]), y[s])
            loss.backward()
            optimizer.step()
            assert np.isclose(loss.item(), losses[step, s])
        for W, affine in zip(nets.W, twin.affine, strict=True):
            assert torch.allclose(W[s], affine.weight.T, atol=1e-10)


def test_networks_know_nothing_of_each_other(data):
    many, one = randomized({"norm": "batch"}), randomized({"norm": "batch"}, (0,))
    alone = Networks(DIMS, "batch", seeds=(1,))
    first = Networks(DIMS, "batch", seeds=(0, 1, 2))
    assert torch.equal(first.W[0][1], alone.W[0][0])
    a = landscape.fit(first, data, 0.3, 20)
    b = landscape.fit(alone, data, 0.3, 20)
    assert np.allclose(a[:, 1], b[:, 0], atol=1e-12)
    assert not torch.equal(many.W[0][0], many.W[0][1]) and len(one.seeds) == 1


def test_arms_start_alike_and_see_the_same_batches(data):
    seen = {}
    for norm in ("plain", "batch"):
        nets = Networks(DIMS, norm)
        start = [W.detach().clone() for W in nets.W]
        batches = []
        landscape.fit(
            nets, data, 0.1, 12, callback=lambda step, x, y, b=batches: b.append(x)
        )
        seen[norm] = start, batches
    for a, b in zip(*seen.values(), strict=True):
        assert all(map(torch.equal, a, b))
    epoch = torch.stack(seen["plain"][1][:2])  # 80 samples are 2 batches of 32
    assert len({tuple(row.tolist()) for row in epoch[:, 0].flatten(0, 1)}) == 64


def test_rates_belong_to_networks(data):
    both = Networks(DIMS, seeds=(0, 0))
    losses = landscape.fit(both, data, [0.01, 0.3], 15)
    single = landscape.fit(Networks(DIMS, seeds=(0,)), data, 0.3, 15)
    assert np.allclose(losses[:, 1], single[:, 0])
    assert not np.allclose(losses[1:, 0], losses[1:, 1])


def test_full_statistics_come_from_all_and_the_loss_from_the_batch(data):
    nets = randomized({"norm": "batch"})
    rows = torch.tensor([[0, 5, 9], [1, 2, 3], [70, 71, 2]])
    losses = nets.losses(data.x_train, data.y_train, rows=rows)
    logits = nets.logits(data.x_train)
    for s in range(3):
        want = F.cross_entropy(logits[s, rows[s]], data.y_train[rows[s]])
        assert torch.allclose(losses[s], want)
    one, two = Networks(DIMS, "batch"), Networks(DIMS, "batch")
    a = landscape.fit(one, data, 0.1, 3, 16)
    b = landscape.fit(two, data, 0.1, 3, 16, full_statistics=True)
    assert not np.allclose(a, b)


def test_hidden_rate_and_dropout_do_what_they_say(data):
    one = Networks(DIMS, "batch", eps=1e-30)
    two = Networks(DIMS, "batch", eps=1e-30).rescale(2)
    a = landscape.fit(one, data, 0.3, 20)
    b = landscape.fit(two, data, 0.3, 20, hidden_lr=lambda step: 4 * 0.3)
    assert np.array_equal(a, b)
    dropped = landscape.fit(Networks(DIMS), data, 0.1, 5, dropout=torch.Generator())
    assert not np.allclose(dropped, landscape.fit(Networks(DIMS), data, 0.1, 5))
    mask = landscape._dropout_mask((1000, 50), torch.Generator().manual_seed(0))
    assert set(mask.unique().tolist()) == {0, 1 / 0.75}
    assert abs(mask.mean() - 1) < 0.01


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 10_000))
def test_weights_before_batch_norm_have_no_scale(factor, seed):
    rng = np.random.default_rng(seed)
    x, y = torch.tensor(rng.normal(size=(20, 7))), torch.tensor(rng.integers(0, 4, 20))
    base = Networks(DIMS, "batch", "sigmoid", seeds=(seed,), eps=1e-30)
    scaled = Networks(DIMS, "batch", "sigmoid", seeds=(seed,), eps=1e-30)
    scaled.rescale(factor)
    loss, slopes = base.gradients(x, y)
    new_loss, new = scaled.gradients(x, y)
    assert torch.allclose(loss, new_loss)
    for k in range(3):
        assert torch.allclose(factor * new[k], slopes[k], rtol=1e-6, atol=1e-9)
        assert abs((new[k] * scaled.W[k]).sum(1)).max() < 1e-9
    plain = Networks(DIMS, "plain", "sigmoid", seeds=(seed,)).rescale(3)
    assert not torch.allclose(plain.losses(x, y), loss)


def test_the_noise_has_the_papers_distribution():
    generator = torch.Generator().manual_seed(0)
    y = torch.ones(2, 400, 30, dtype=torch.float64)
    calls = torch.stack([landscape.noisy(y, generator) for _ in range(40)])
    features = calls.mean(-2)  # sigma + mu, nearly
    assert features.std(0).min() > 0.1  # another distribution at every call
    assert features.min() > 1 - 0.5 - 0.05 and features.max() < 1.25 + 0.5 + 0.05
    per_sample = (0.1**2 + 0.2**2 / 12) ** 0.5  # of s, and of m
    assert abs(calls.std(-2).mean() - per_sample) < 0.003
    zeros = landscape.noisy(0 * y, generator)
    assert abs(zeros.std(-2).mean() - 0.2 / 12**0.5) < 0.003


def test_noisy_networks_have_noise_after_each_norm(data):
    nets = Networks(DIMS, "batch")
    calm = nets.logits(data.x_train)
    noise = torch.Generator().manual_seed(0)
    first, second = (nets.logits(data.x_train, noise=noise) for _ in range(2))
    assert not torch.allclose(first, calm) and not torch.allclose(first, second)
    plain = Networks(DIMS)
    assert torch.equal(
        plain.logits(data.x_train), plain.logits(data.x_train, noise=noise)
    )


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5), st.floats(0.01, 100))
def test_shift_is_the_move_of_two_moments_and_has_no_unit(a, c, unit):
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.normal(2, 3, (2, 50, 4)))
    mean, std = x.mean(1), x.std(1, correction=0)
    got = landscape.distribution_shift(x, a * x + c)
    want = (torch.hypot((a - 1) * mean + c, (a - 1) * std) / std).mean(-1)
    assert torch.allclose(got, want)
    assert torch.allclose(
        landscape.distribution_shift(unit * x, unit * (a * x + c)), got
    )
    assert not landscape.distribution_shift(x, x).any()


def test_a_dead_feature_does_not_count():
    x = torch.tensor(np.random.default_rng(0).normal(size=(1, 20, 3)))
    dead = x.clone()
    dead[..., 1] = 0
    alive = landscape.distribution_shift(x[..., [0, 2]], x[..., [0, 2]] + 1)
    moved = landscape.distribution_shift(dead, x + 1)
    assert torch.allclose(moved, alive)


def step_down(twin, x, y, lr, layers):
    """The twin after a step of the first layers, and the gradients before it."""
    F.cross_entropy(twin(x), y).backward()
    moved = copy.deepcopy(twin)
    with torch.no_grad():
        for k in range(layers):
            modules = zip(
                (twin.affine[k], twin.norm[k]),
                (moved.affine[k], moved.norm[k]),
                strict=True,
            )
            for old, new in modules:
                for p, q in zip(old.parameters(), new.parameters(), strict=True):
                    q -= lr * p.grad
    moved.zero_grad()
    return moved


@pytest.mark.parametrize("norm", ["plain", "batch"])
def test_gradient_shift_is_definition_2_1(norm, data):
    kind, lr = {"norm": norm}, 0.4
    nets = randomized(kind)
    start = [p.detach().clone() for p in nets.parameters]
    shift, cosine = landscape.gradient_shift(nets, data.x_train, data.y_train, lr)
    assert shift.shape == cosine.shape == (3, 3)
    assert all(map(torch.equal, start, nets.parameters))
    for s in range(3):
        for k in (1, 2, 3):
            twin = Twin(nets, s, **kind)
            moved = step_down(twin, data.x_train, data.y_train, lr, k)
            F.cross_entropy(moved(data.x_train), data.y_train).backward()
            old, new = (t.affine[k].weight.grad.flatten() for t in (twin, moved))
            assert np.isclose(shift[k - 1, s], ((new - old).norm() / old.norm()))
            assert np.isclose(cosine[k - 1, s], F.cosine_similarity(new, old, 0))
    still = landscape.gradient_shift(nets, data.x_train, data.y_train, 0.0)
    assert np.allclose(still[0], 0) and np.allclose(still[1], 1)


def test_along_gradient_is_one_line_through_the_start(data):
    nets, sizes = randomized({"norm": "batch"}), (0.0, 0.1, 0.7)
    start = [p.detach().clone() for p in nets.parameters]
    x, y = data.x_train, data.y_train
    loss, distance = landscape.along_gradient(nets, x, y, sizes)
    assert all(map(torch.equal, start, nets.parameters))
    assert np.allclose(distance[0], 0)
    first, slopes = nets.gradients(x, y)
    assert np.allclose(loss[0], first)
    landscape.descend(nets, slopes, 0.7)
    end, new = nets.gradients(x, y)
    assert np.allclose(loss[2], end)
    flat = [torch.cat([g.flatten(1) for g in part], 1) for part in (slopes, new)]
    want = (flat[1] - flat[0]).norm(dim=1) / flat[0].norm(dim=1)
    assert np.allclose(distance[2], want)


def test_sizes_and_layer_numbers():
    nets = Networks(DIMS, "batch", seeds=(0, 1))
    sizes = landscape.sizes(nets.W)
    assert np.allclose(sizes[2, 1], np.linalg.norm(nets.W[2][1].detach().numpy()))
    assert nets.layer == [0, 1, 2, 3] * 2 + [0, 1, 2] * 2
    shapes = [tuple(W.shape) for W in nets.W]
    assert shapes == [(2, *pair) for pair in pairwise(DIMS)]


def test_the_start_has_the_papers_variance():
    for activation, gain in (("relu", 2), ("sigmoid", 1)):
        nets = Networks((500, 400, 10), activation=activation, seeds=(0,))
        assert abs(nets.W[0].var() * 500 / gain - 1) < 0.02


def test_layer_inputs_are_what_the_layers_receive(data):
    nets = Networks(DIMS, "batch")
    inputs = landscape.layer_inputs(nets, data.x_train)
    assert len(inputs) == 2 and all((x >= 0).all() for x in inputs)
    want = torch.relu(
        F.batch_norm(
            data.x_train @ nets.W[0][0], None, None, training=True, eps=nets.eps
        )
    )
    assert torch.allclose(inputs[0][0], want)


def test_digits_are_small_mnist_as_tensors():
    digits = landscape.digits(200)
    arrays = small_mnist(200)
    assert all(np.array_equal(*pair) for pair in zip(digits, arrays, strict=True))
    assert digits.x_train.dtype == torch.float64


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("norm", "layer", "norm is 'layer', expected 'plain' or 'batch'"),
        ("activation", "tanh", "activation is 'tanh', expected 'relu' or 'sigmoid'"),
        ("place", "between", "place is 'between', expected 'before' or 'after'"),
    ],
)
def test_errors_name_the_argument(field, value, says):
    with pytest.raises(ValueError, match=says):
        Networks(DIMS, **{field: value})
