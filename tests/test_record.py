"""Recorders: right values, and nothing left behind."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bn_experiments import train
from bn_helpers import record


@pytest.fixture
def net():
    torch.manual_seed(0)
    return train.make_mlp((7, 6, 5, 3), nn.Sigmoid, nn.BatchNorm1d).double()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return 3 * torch.randn(11, 7, dtype=torch.float64) + 1, torch.arange(11) % 3


def by_hand(model, x, kind):
    """Outputs of a Sequential's layers of one kind, and the logits, with graph."""
    outputs = []
    for layer in copy.deepcopy(model):
        x = layer(x)
        if isinstance(layer, kind):
            outputs.append(x)
    return outputs, x


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model, before):
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [nn.Linear, nn.BatchNorm1d, nn.Sigmoid])
@pytest.mark.parametrize("training", [True, False])
def test_activations_are_the_outputs_in_order(net, batch, kind, training):
    net.train(training)
    want, _ = by_hand(net, batch[0], kind)
    got = record.activations(net, batch[0], kind)
    assert len(got) == len(want) >= 2
    for g, w in zip(got, want, strict=True):
        assert g.dtype == np.float64
        np.testing.assert_allclose(g, w.detach().numpy(), rtol=1e-12)


def test_several_kinds_come_in_the_order_of_the_calls(net, batch):
    got = record.activations(net, batch[0], nn.Linear, nn.Sigmoid)
    assert [a.shape[1] for a in got] == [6, 6, 5, 5, 3]
    assert all(0 < a.min() and a.max() < 1 for a in got[1::2])


def test_gradients_agree_with_autograd(net, batch):
    x, y = batch
    outputs, logits = by_hand(net, x, nn.Linear)
    want = torch.autograd.grad(F.cross_entropy(logits, y), outputs)
    got = record.gradients(net, x, y, nn.Linear)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w.numpy(), rtol=1e-12, atol=1e-15)


def test_recording_changes_nothing(net, batch):
    x, y = batch
    train.train_step(net, x, y, 0.1)
    before = state(net)
    grads = [p.grad.clone() for p in net.parameters()]
    record.activations(net, x, nn.Sigmoid)
    record.gradients(net, x, y, nn.Sigmoid)
    assert_same_state(net, before)
    assert net.training
    for parameter, grad in zip(net.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad)


def test_gradients_stay_none_where_there_were_none(net, batch):
    record.gradients(net, *batch, nn.Sigmoid)
    assert all(p.grad is None for p in net.parameters())


def test_no_hook_is_left_even_after_an_error(net, batch):
    record.activations(net, batch[0], nn.Sigmoid)
    before = state(net)
    with pytest.raises(RuntimeError):
        record.activations(net, batch[0][:, :4], nn.Sigmoid)
    with pytest.raises(KeyError), record.watch(net, nn.Linear):
        raise KeyError
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert_same_state(net, before)


def test_records_survive_in_place_activations_and_training(batch):
    torch.manual_seed(0)
    inplace = nn.Sequential(nn.Linear(7, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    net = inplace.double()
    x, y = batch
    want = net[0](x).detach().numpy()
    with record.watch(net, nn.Linear) as seen:
        F.cross_entropy(net(x), y).backward()
    train.train_step(net, x, y, 1.0)
    np.testing.assert_allclose(seen.outputs[0], want, rtol=1e-12)
    # a unit that ReLU switched off gets no gradient before it
    assert (seen.gradients[0][want < 0] == 0).all()
    assert (seen.gradients[0][want > 0] != 0).any()


def test_nested_and_reused_modules_are_seen_at_each_call():
    shared = nn.Tanh()
    innermost = nn.Sequential(nn.Linear(4, 4), shared)
    inner = nn.Sequential(nn.Linear(4, 4), shared, innermost)
    net = nn.Sequential(inner, nn.Tanh()).double()
    x = torch.ones(2, 4, dtype=torch.float64)
    first, second, third = record.activations(net, x, nn.Tanh)
    np.testing.assert_allclose(third, np.tanh(second), rtol=1e-12)
    assert not np.allclose(first, second)


def test_watch_records_every_pass_and_no_gradient_without_one(net, batch):
    with record.watch(net, nn.Sigmoid) as seen:
        net(batch[0])
        net(batch[0])
    assert len(seen.outputs) == len(seen.gradients) == 4
    assert seen.gradients == [None] * 4


def test_watching_nothing_is_an_error(net, batch):
    with pytest.raises(ValueError, match="no module of kind ReLU, Tanh"):
        record.activations(net, batch[0], nn.ReLU, nn.Tanh)


def test_saturation_counts_both_ends_of_each_unit():
    a = np.array([[-0.95, 0.0], [0.95, 0.89], [0.0, 0.5], [0.91, -1.0]])
    np.testing.assert_array_equal(record.saturation_fraction(a, -1, 1), [0.75, 0.25])
    half = (a + 1) / 2  # the same units, read as sigmoids
    np.testing.assert_array_equal(record.saturation_fraction(half, 0, 1), [0.75, 0.25])
    wide = record.saturation_fraction(a, -1, 1, margin=0.48)
    np.testing.assert_array_equal(wide, [0.75, 0.75])


def test_saturation_needs_a_range():
    with pytest.raises(ValueError, match="low is 1 and high 0, expected low < high"):
        record.saturation_fraction(np.zeros((3, 2)), 1, 0)


def test_updates_of_gradient_descent_are_the_scaled_gradients(net, batch):
    weights = [p for p in net.parameters() if p.ndim == 2]
    before = [w.detach().clone() for w in weights]
    with record.updates(net) as ratios:
        train.train_step(net, *batch, 0.3)
        assert ratios == []
    want = [
        (0.3 * w.grad.norm() / old.norm()).item()
        for w, old in zip(weights, before, strict=True)
    ]
    np.testing.assert_allclose(ratios, want, rtol=1e-12)


def test_updates_see_what_any_optimizer_does(net, batch):
    with record.updates(net) as ratios, torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.25)
    np.testing.assert_allclose(ratios, [0.25] * 3, rtol=1e-12)
