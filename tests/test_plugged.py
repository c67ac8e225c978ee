"""What another's loss and another's Adam step train is what the reference trains."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from verdicts import from_lesson

from bn_checks.forms import lesson_06 as forms
from bn_experiments import plugged
from bn_helpers import network

matplotlib.use("agg")

DIMS = (6, 8, 8, 3)


def photos():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)), rng.integers(3, size=80)
    return x[:60], y[:60], x[60:], y[60:]


class OneNet(forms.Net):
    """Another's network that counts its losses."""

    calls = 0

    def loss(self, x, y):
        type(self).calls += 1
        return super().loss(x, y)


def trained(Net, step, lr, seed, **options):
    net = plugged.batch_norm_stack(Net, DIMS, seed=seed, weight_scale=0.3, **options)
    update = plugged.adam(step, lr)
    solver = network.Solver(net, photos(), update, 3, 20, seed, progress=False)
    return net, solver.train()


@pytest.mark.parametrize("seed", [0, np.arange(3)], ids=["one network", "stack"])
@pytest.mark.parametrize("reg", [0, 0.1])
def test_it_trains_and_evaluates_as_the_reference(seed, reg):
    lr = 0.01 * (1 + np.asarray(seed)) if np.ndim(seed) else 0.01
    calls = OneNet.calls
    net, history = trained(OneNet, forms.adam_step, lr, seed, reg=reg)
    want, wanted = trained(network.FullyConnectedNet, network.Adam, lr, seed, reg=reg)
    assert OneNet.calls == calls + 9 * np.size(seed)
    np.testing.assert_allclose(history.loss, wanted.loss, rtol=1e-6)
    np.testing.assert_array_equal(history.val_accuracy, wanted.val_accuracy)
    for name, value in want.running.items():
        np.testing.assert_allclose(net.running[name], value, rtol=1e-6)
    net.load(history.best)


def test_the_reference_is_not_wrapped():
    assert type(plugged.batch_norm_stack(network.FullyConnectedNet, DIMS)) is (
        network.FullyConnectedNet
    )
    assert isinstance(plugged.adam(network.Adam), network.Adam)


def test_another_loss_changes_what_is_trained():
    class Off(OneNet):
        def loss(self, x, y):
            loss, grads = super().loss(x, y)
            return loss, {name: -g for name, g in grads.items()}

    _, up = trained(Off, network.Adam, 0.05, 0)
    _, down = trained(OneNet, network.Adam, 0.05, 0)
    assert up.loss[-1] > down.loss[-1]


CELLS = (
    "SIDE = 16",
    "DIM = x_train",
    "class FullyConnectedNet:",
    "def adam_step",
    "Net = check.yours",
    "ARMS = {",
)


def test_lesson_06_trains_the_networks_of_its_solutions(capsys):
    lesson = from_lesson("06", *CELLS)
    assert lesson.Net is lesson.FullyConnectedNet
    assert lesson.step is lesson.adam_step
    assert capsys.readouterr().out.count(": your code") == 2
    mine, history = lesson.train_stack([9, 8], "batch", 0.1, np.arange(2), epochs=1)
    reference = SimpleNamespace(Net=network.FullyConnectedNet, step=network.Adam)
    lesson.train_stack.__globals__.update(vars(reference))
    net, wanted = lesson.train_stack([9, 8], "batch", 0.1, np.arange(2), epochs=1)
    assert type(mine) is not type(net) is network.FullyConnectedNet
    np.testing.assert_allclose(history.loss, wanted.loss, rtol=1e-6)


def test_lesson_06_trains_the_reference_where_the_learners_code_is_wrong(capsys):
    class Wrong(forms.Net):
        def loss(self, x, y):
            loss, grads = super().loss(x, y)
            return loss, {**grads, "W1": 2 * grads["W1"]}

    lesson = from_lesson("06", *CELLS, FullyConnectedNet=Wrong)
    assert lesson.Net is network.FullyConnectedNet
    assert "fully_connected_net: the reference" in capsys.readouterr().out
    net, _ = lesson.train_stack([8], "batch", 0.1, 0, epochs=1)
    assert type(net) is network.FullyConnectedNet
