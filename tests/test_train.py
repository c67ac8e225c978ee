"""Training one network: against torch.optim and PyTorch twins nobody here wrote."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toy import three_classes

from benchmarks import mnist_epoch
from bn_experiments import train
from bn_helpers import data


@pytest.fixture(scope="module")
def toy():
    return data.Data(*map(torch.from_numpy, three_classes()))


def copy_of(model):
    """A fresh model with the same parameters and buffers."""
    twin = small_mlp()
    twin.load_state_dict(model.state_dict())
    return twin


def small_mlp(seed=0, norm=nn.BatchNorm1d):
    torch.manual_seed(seed)
    return train.make_mlp((10, 8, 8, 3), nn.Sigmoid, norm).double()


def state(model):
    return [t.clone() for t in model.state_dict().values()]


def same_state(model, before):
    return all(torch.equal(a, b) for a, b in zip(state(model), before, strict=True))


def test_make_mlp_puts_norms_before_activations_and_ends_with_logits():
    kinds = [type(layer) for layer in small_mlp()]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.Sigmoid]
    assert kinds == [*hidden, *hidden, nn.Linear]
    plain = [type(layer) for layer in small_mlp(norm=None)]
    assert plain == [nn.Linear, nn.Sigmoid, nn.Linear, nn.Sigmoid, nn.Linear]


def test_both_arms_start_from_the_same_linear_weights():
    linear = [
        [layer.weight for layer in small_mlp(3, norm) if isinstance(layer, nn.Linear)]
        for norm in (None, nn.BatchNorm1d)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*linear, strict=True))


def test_train_step_is_torchs_sgd_bit_for_bit(toy):
    model = small_mlp()
    twin = copy_of(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    digits = toy
    for rows in train.shuffled_batches(200, 32, 3, seed=1):
        x, y = digits.x_train[rows], digits.y_train[rows]
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(x), y)
        loss.backward()
        optimizer.step()
        assert train.train_step(model, x, y, 0.3) == loss.item()
        model.eval()  # the next step must not depend on the mode it finds
    assert same_state(model, state(twin))


def test_frozen_parameters_stay(toy):
    model = small_mlp()
    model[0].requires_grad_(False)
    weight = model[0].weight.clone()
    digits = toy
    train.train_step(model, digits.x_train, digits.y_train, 0.3)
    assert torch.equal(model[0].weight, weight)


def test_the_benchmark_trains_the_same_network_in_both_ways():
    both = mnist_epoch.their_dataset(), data.mnist_tensors()
    assert mnist_epoch.largest_difference(*both) == 0


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_evaluate_is_the_mean_over_samples_whatever_the_batches(toy, batch_size):
    model = small_mlp()
    digits = toy
    train.fit(model, digits, lr=0.3, epochs=1)
    loss, accuracy = train.evaluate(model, digits.x_test, digits.y_test, batch_size)
    logits = model.eval()(digits.x_test)
    assert loss == pytest.approx(F.cross_entropy(logits, digits.y_test).item())
    assert accuracy == (logits.argmax(1) == digits.y_test).double().mean().item()


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_no_trace(toy, training):
    model = small_mlp().train(training)
    before = state(model)
    digits = toy
    train.evaluate(model, digits.x_test, digits.y_test)
    assert model.training == training and same_state(model, before)


def test_batches_cover_each_epoch_once_in_an_order_of_their_seed():
    batches = train.shuffled_batches(50, 16, epochs=2, seed=4)
    assert [len(rows) for rows in batches] == [16, 16, 16, 2] * 2
    first, second = torch.cat(batches[:4]), torch.cat(batches[4:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    again = train.shuffled_batches(50, 16, epochs=1, seed=4)
    assert torch.equal(torch.cat(again), first)
    assert not torch.equal(torch.cat(train.shuffled_batches(50, 16, 1, 5)), first)


def test_fit_takes_its_steps_and_measures_with_what_it_is_given(toy):
    calls = []

    def take_step(model, x, y, lr):
        calls.append((len(x), lr))
        return 7.0

    def measure(model, x, y):
        return len(x), 0.5

    model = small_mlp()
    before = state(model)
    given = {"take_step": take_step, "measure": measure}
    history = train.fit(model, toy, 0.3, epochs=1, batch_size=100, **given)
    assert calls == [(100, 0.3), (100, 0.3)] and same_state(model, before)
    assert set(history.loss) == {7.0} and set(history.test_accuracy) == {0.5}
    assert set(history.test_loss) == {len(toy.x_test)}


def test_history_records_what_happened(toy):
    model = small_mlp()
    digits = toy
    untrained = train.evaluate(model, digits.x_test, digits.y_test)
    history = train.fit(model, digits, lr=1.0, epochs=3, batch_size=32, every=5)
    assert len(history.loss) == 21
    assert history.step.tolist() == [0, 5, 10, 15, 20, 21]
    assert (history.test_loss[0], history.test_accuracy[0]) == untrained
    trained = train.evaluate(model, digits.x_test, digits.y_test)
    assert (history.test_loss[-1], history.test_accuracy[-1]) == trained
    seen = train.evaluate(model, digits.x_train, digits.y_train)
    assert (history.train_loss[-1], history.train_accuracy[-1]) == seen


def test_fit_depends_on_its_seed_alone(toy):
    digits = toy
    runs = [train.fit(small_mlp(), digits, 0.3, 1, seed=s).loss for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
