"""Training: against torchvision, torch.optim and PyTorch twins nobody here wrote."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import datasets, transforms

from benchmarks import mnist_epoch
from bn_experiments import train
from bn_experiments.train import Stack
from bn_helpers import data, norms

TORCH_ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}
TORCH_NORMS = {"plain": None, "batch": nn.BatchNorm1d}


@pytest.fixture(scope="module")
def torchvision_mnist():
    data.load_mnist()  # unpacks the files torchvision looks for
    scale = transforms.Normalize((data.MNIST_MEAN,), (data.MNIST_STD,))
    both = transforms.Compose([transforms.ToTensor(), scale])
    return [
        datasets.MNIST(data.DATA, train=part, transform=both, download=False)
        for part in (True, False)
    ]


@pytest.fixture(scope="module")
def toy():
    """Three classes in ten dimensions, with features of unlike scale."""
    rng = np.random.default_rng(0)
    scale, centers = np.geomspace(0.1, 3, 10), rng.normal(size=(3, 10))
    y = rng.integers(0, 3, 300)
    x = scale * (centers[y] + rng.normal(size=(300, 10))) + 0.5
    return train.Data(x[:200], y[:200], x[200:], y[200:])


def as_tensors(arrays):
    return train.Data(*map(torch.from_numpy, arrays))


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


# data


@pytest.mark.parametrize("part", [0, 1])
def test_images_equal_torchvisions_bit_for_bit(torchvision_mnist, part):
    digits = train.mnist_tensors()
    x, y = digits[2 * part : 2 * part + 2]
    assert len(x) == len(torchvision_mnist[part])
    for row in range(0, len(x), 331):
        image, label = torchvision_mnist[part][row]
        assert torch.equal(x[row], image.flatten())
        assert y[row] == label


def test_every_gray_level_equals_torchvisions(torchvision_mnist):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    want = torchvision_mnist[0].transform(levels[..., None]).flatten()
    assert torch.equal(train._scaled(levels[None], torch.float32)[0], want)


def test_float64_images_are_the_formula():
    x = train.mnist_tensors(torch.float64).x_test[:50].numpy()
    pixels = data.load_mnist().x_test[:50].reshape(50, 784)
    want = (pixels / 255 - data.MNIST_MEAN) / data.MNIST_STD
    np.testing.assert_allclose(x, want, rtol=1e-14)


def test_small_mnist_is_pooled_and_standardized():
    digits = train.small_mnist(1000)
    assert digits.x_train.shape == (1000, 196) and digits.x_test.shape == (10_000, 196)
    assert abs(digits.x_train.mean()) < 1e-12
    assert abs(digits.x_train.var() - 1) < 1e-12
    raw = torch.from_numpy(data.load_mnist().x_train[:1000]).double()
    pooled = F.avg_pool2d(raw, 2).flatten(1)
    want = (pooled - pooled.mean()) / pooled.std(unbiased=False)
    np.testing.assert_allclose(digits.x_train, want)
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 0


# one network


def test_make_mlp_puts_norms_before_activations_and_ends_with_logits():
    kinds = [type(layer) for layer in small_mlp()]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.Sigmoid]
    assert kinds == [*hidden, *hidden, nn.Linear]
    plain = [type(layer) for layer in small_mlp(norm=None)]
    assert plain == [nn.Linear, nn.Sigmoid, nn.Linear, nn.Sigmoid, nn.Linear]


def test_both_arms_start_from_the_same_linear_weights():
    linear = [
        [layer.weight for layer in small_mlp(3, norm) if isinstance(layer, nn.Linear)]
        for norm in TORCH_NORMS.values()
    ]
    assert all(torch.equal(a, b) for a, b in zip(*linear, strict=True))


def test_train_step_is_torchs_sgd_bit_for_bit(toy):
    model = small_mlp()
    twin = copy_of(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    digits = as_tensors(toy)
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
    digits = as_tensors(toy)
    train.train_step(model, digits.x_train, digits.y_train, 0.3)
    assert torch.equal(model[0].weight, weight)


def test_the_benchmark_trains_the_same_network_in_both_ways():
    both = mnist_epoch.their_dataset(), train.mnist_tensors()
    assert mnist_epoch.largest_difference(*both) == 0


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_evaluate_is_the_mean_over_samples_whatever_the_batches(toy, batch_size):
    model = small_mlp()
    digits = as_tensors(toy)
    train.fit(model, digits, lr=0.3, epochs=1)
    loss, accuracy = train.evaluate(model, digits.x_test, digits.y_test, batch_size)
    logits = model.eval()(digits.x_test)
    assert loss == pytest.approx(F.cross_entropy(logits, digits.y_test).item())
    assert accuracy == (logits.argmax(1) == digits.y_test).double().mean().item()


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_leaves_no_trace(toy, training):
    model = small_mlp().train(training)
    before = state(model)
    digits = as_tensors(toy)
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


def test_history_records_what_happened(toy):
    model = small_mlp()
    digits = as_tensors(toy)
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
    digits = as_tensors(toy)
    runs = [train.fit(small_mlp(), digits, 0.3, 1, seed=s).loss for s in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])


# many networks

SMALL = Stack((10, 6, 6, 3), rates=(0.1, 1.0), seeds=(0, 3), batch_size=20, steps=35)
ARMS = [
    replace(SMALL, activation=activation, norm=norm, init=init, dims=dims)
    for activation in TORCH_ACTIVATIONS
    for norm in TORCH_NORMS
    for init in train.INITS
    for dims in ((10, 6, 6, 6, 6, 3), (10, 6, 3))
]


def in_torch(stack, seed, rate, digits):
    """One network of a stack, trained with nn.Module and torch.optim in float64."""
    make = TORCH_ACTIVATIONS[stack.activation], TORCH_NORMS[stack.norm]
    model = train.make_mlp(stack.dims, *make).double()
    rng = np.random.default_rng(seed)
    for layer in model:
        if isinstance(layer, nn.Linear):
            size = layer.in_features, layer.out_features
            W, b = map(torch.from_numpy, train.INITS[stack.init](rng, *size))
            layer.weight.data, layer.bias.data = W.T.contiguous(), b[0]
    optimizer = torch.optim.SGD(model.parameters(), rate)
    order = np.random.default_rng([seed, 1])
    rows = np.concatenate([order.permutation(200) for _ in range(4)])
    losses = []
    for step in range(stack.steps):
        batch = rows[step * stack.batch_size :][: stack.batch_size]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(digits.x_train[batch]), digits.y_train[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    right = model.eval()(digits.x_test).argmax(1) == digits.y_test
    return losses, right.double().mean().item()


@pytest.mark.parametrize(
    "stack", ARMS, ids=lambda s: f"{s.activation}-{s.norm}-{s.init}"
)
def test_a_stack_is_its_networks_in_pytorch(stack, toy):
    result = train.train_stack(stack, toy)
    assert result.loss.shape == (35, 2, 2) and result.accuracy.shape == (2, 2)
    for i, seed in enumerate(stack.seeds):
        for k, rate in enumerate(stack.rates):
            losses, accuracy = in_torch(stack, seed, rate, as_tensors(toy))
            np.testing.assert_allclose(result.loss[:, i, k], losses, rtol=1e-9)
            assert result.accuracy[i, k] == pytest.approx(accuracy)


@pytest.mark.parametrize("stack", ARMS[:8])
def test_a_stack_is_its_networks_one_at_a_time(stack, toy):
    together = train.train_stack(stack, toy)
    for i, seed in enumerate(stack.seeds):
        for k, rate in enumerate(stack.rates):
            one = train.train_stack(replace(stack, seeds=(seed,), rates=(rate,)), toy)
            alone = one.loss[:, 0, 0]
            np.testing.assert_allclose(together.loss[:, i, k], alone, rtol=1e-10)
            assert together.accuracy[i, k] == one.accuracy[0, 0]


def plain_loop_step(layers, x, y, lr):
    """One step of a sigmoid batch-norm network, written out over (N, D) arrays."""
    caches = []
    for p in layers[:-1]:
        z = x @ p["W"] + p["b"]
        y_bn, cache = norms.batchnorm_forward(z, p["gamma"], p["beta"])
        a = 1 / (1 + np.exp(-y_bn))
        caches.append((x, cache, a))
        x = a
    last = layers[-1]
    logits = x @ last["W"] + last["b"]
    p_hat = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    loss = -np.log(p_hat[np.arange(len(y)), y]).mean()
    d = (p_hat - np.eye(logits.shape[1])[y]) / len(y)
    dx = d @ last["W"].T
    last["W"], last["b"] = last["W"] - lr * x.T @ d, last["b"] - lr * d.sum(0)
    for p, (x_in, cache, a) in zip(layers[-2::-1], caches[::-1], strict=True):
        d, dgamma, dbeta = norms.batchnorm_backward(dx * a * (1 - a), cache)
        dx = d @ p["W"].T
        p["gamma"], p["beta"] = p["gamma"] - lr * dgamma, p["beta"] - lr * dbeta
        p["W"], p["b"] = p["W"] - lr * x_in.T @ d, p["b"] - lr * d.sum(0)
    return loss


def test_a_stack_is_the_plain_numpy_loop(toy):
    stack = replace(SMALL, norm="batch", seeds=(5,), rates=(0.7,))
    rng, layers = np.random.default_rng(5), []
    for size in ((10, 6), (6, 6), (6, 3)):
        W, b = train.INITS["default"](rng, *size)
        layers.append({"W": W, "b": b[0], "gamma": np.ones(6), "beta": np.zeros(6)})
    order = np.random.default_rng([5, 1])
    epochs = [order.permutation(200).reshape(10, 20) for _ in range(4)]
    batches = np.concatenate(epochs)[: stack.steps]
    loop = [
        plain_loop_step(layers, toy.x_train[r], toy.y_train[r], 0.7) for r in batches
    ]
    result = train.train_stack(stack, toy)
    np.testing.assert_allclose(result.loss[:, 0, 0], loop, rtol=1e-10)


def test_rates_and_norms_share_initial_weights_and_batches(toy):
    still = replace(SMALL, rates=(0.0, 1e-300))
    for arm in (still, replace(still, norm="batch")):
        loss = train.train_stack(arm, toy).loss
        assert np.array_equal(loss[..., 0], loss[..., 1])
        assert not np.allclose(loss[:, 0], loss[:, 1])
    plain, batch = (
        train.stacked_network(arm).params
        for arm in (still, replace(still, norm="batch"))
    )
    for name, value in plain.items():
        assert np.array_equal(value, batch[name])
        assert np.array_equal(value[:, 0], value[:, 1])
    assert not np.array_equal(plain["W1"][0], plain["W1"][1])


def test_a_rate_too_large_is_reported_as_nan_and_hurts_nobody_else(toy):
    stack = replace(SMALL, activation="relu", rates=(0.1, 1e300))
    both = train.train_stack(stack, toy)
    assert not np.isfinite(both.loss[-1, :, 1]).any()
    alone = train.train_stack(replace(stack, rates=(0.1,)), toy)
    np.testing.assert_allclose(both.loss[..., 0], alone.loss[..., 0], rtol=1e-10)


@pytest.mark.parametrize(
    "wrong", [{"activation": "swish"}, {"norm": "nrom"}, {"init": "xavier"}]
)
def test_an_unknown_name_is_refused_with_the_known_ones(wrong):
    ((field, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{field} is '{value}', expected '"):
        replace(SMALL, **wrong)


def test_a_sweep_gives_the_same_with_an_executor():
    tasks = range(7)
    with ThreadPoolExecutor(2) as executor:
        assert train.sweep(str, tasks, executor) == train.sweep(str, tasks)


def test_the_study_says_what_the_lesson_says():
    """Four sigmoid layers: what stops the plain network is too small a rate."""
    rates = train.SIGMOID_STUDY.rates
    arms = [replace(train.SIGMOID_STUDY, norm=norm) for norm in TORCH_NORMS]
    results = train.sweep(train.train_stack, arms)
    plain, batch = (result.accuracy.mean(0) for result in results)
    assert rates[int(plain.argmax())] > 0.1
    assert width(rates, batch) >= 30 * width(rates, plain)


def width(rates, accuracy):
    usable = train.usable_rates(rates, accuracy)
    return usable[-1] / usable[0]


@pytest.mark.parametrize(
    ("accuracy", "want"),
    [
        ((0.1, 0.7, 0.9, 0.1), (0.1, 0.3)),
        ((0.7, 0.1, 0.9, 0.6), (0.3, 1)),
        ((0.9, 0.9, 0.9, 0.9), (0.03, 0.1, 0.3, 1)),
        ((0.1, 0.1, 0.1, 0.59), ()),
    ],
)
def test_usable_rates_are_neighbors_that_work(accuracy, want):
    assert train.usable_rates((0.03, 0.1, 0.3, 1), accuracy) == want
