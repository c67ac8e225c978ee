"""What another's classes and another's Adam step train is what the reference trains."""

import matplotlib
import numpy as np
import pytest
from verdicts import from_lesson

from bn_checks.forms import lesson_06 as forms
from bn_experiments import plugged
from bn_helpers import network

matplotlib.use("agg")

DIMS = (6, 8, 8, 3)
LOSS, NET, STEP = forms.Net, forms.TrainableNet, forms.adam_step
COURSE = network.FullyConnectedNet


def photos():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)), rng.integers(3, size=80)
    return x[:60], y[:60], x[60:], y[60:]


class OneLoss(forms.Net):
    """Another's loss that counts its calls."""

    calls = 0

    def loss(self, x, y):
        type(self).calls += 1
        return super().loss(x, y)


class OneNet(forms.TrainableNet):
    """Another's network that counts what it sees."""

    observed = scored = 0

    def observe(self, x):
        type(self).observed += 1
        super().observe(x)

    def scores(self, x):
        type(self).scored += 1
        return super().scores(x)


def trained(Loss, Net, step, lr, seed, **options):
    options = {"weight_scale": 0.3, **options}
    net = plugged.batch_norm_stack(Loss, Net, DIMS, seed=seed, **options)
    update = plugged.adam(step, net, lr)
    solver = network.Solver(net, photos(), update, 3, 20, seed, progress=False)
    return net, solver.train()


@pytest.mark.parametrize("seed", [0, np.arange(3)], ids=["one network", "stack"])
@pytest.mark.parametrize("reg", [0, 0.1])
def test_it_trains_and_evaluates_as_the_reference(seed, reg):
    lr = 0.01 * (1 + np.asarray(seed)) if np.ndim(seed) else 0.01
    before = OneLoss.calls, OneNet.observed, OneNet.scored
    net, history = trained(OneLoss, OneNet, STEP, lr, seed, reg=reg)
    after = OneLoss.calls, OneNet.observed, OneNet.scored
    counts = np.subtract(after, before) / np.size(seed)
    assert counts.tolist() == [9, 9, 4 * 2]  # 9 steps, 4 times both sets
    want, wanted = trained(COURSE, COURSE, network.Adam, lr, seed, reg=reg)
    np.testing.assert_allclose(history.loss, wanted.loss, rtol=1e-6)
    np.testing.assert_array_equal(history.val_accuracy, wanted.val_accuracy)
    assert set(net.running) == set(want.running)
    for name, value in want.running.items():
        np.testing.assert_allclose(net.running[name], value, rtol=1e-6)
    x = photos()[2]
    np.testing.assert_allclose(net.scores(x), want.scores(x), rtol=1e-6)


@pytest.mark.parametrize("scale", [0.3, np.array([[0.1, 1, 2], [3, 4, 5]])])
def test_it_starts_as_the_reference(scale):
    net = plugged.batch_norm_stack(LOSS, NET, DIMS, weight_scale=scale, seed=7)
    want = COURSE(DIMS, "batch", weight_scale=scale, seed=7)
    for own, course in ((net.params, want.params), (net.running, want.running)):
        assert set(own) == set(course)
        for name, value in course.items():
            np.testing.assert_array_equal(own[name], value)


def test_the_best_moment_comes_back_with_its_statistics():
    net, history = trained(LOSS, NET, STEP, 0.05, np.arange(3))
    net.load(history.best)
    x, y = photos()[2:]
    np.testing.assert_array_equal(net.accuracy(x, y), history.val_accuracy.max(0))
    net._loss(photos()[0][:20], photos()[1][:20])  # moves what is its own
    for name in net.running:
        assert (net.running[name] != history.best[name]).any()


def test_evaluation_is_the_networks_own():
    class Always(forms.TrainableNet):
        def scores(self, x):
            return np.tile([0.0, 1.0, 0.0], (len(x), 1))

    _, history = trained(LOSS, Always, STEP, 0.01, np.arange(2))
    share = (photos()[3] == 1).mean()
    np.testing.assert_array_equal(history.val_accuracy, np.full((4, 2), share))


@pytest.mark.parametrize("pair", [(COURSE, COURSE), (LOSS, COURSE), (COURSE, NET)])
def test_the_reference_is_not_wrapped_and_stands_for_both(pair):
    assert type(plugged.batch_norm_stack(*pair, DIMS)) is COURSE


def test_the_course_s_adam_is_not_wrapped():
    net = COURSE(DIMS)
    assert isinstance(plugged.adam(network.Adam, net), network.Adam)


def test_a_step_meets_one_array_of_one_network_and_a_number():
    seen = []

    def noted(p, g, m, v, t, lr):
        seen.append((p.shape, g.shape, m.shape, v.shape, t, float(lr)))
        return STEP(p, g, m, v, t, lr)

    net = COURSE(DIMS, seed=np.arange(2))
    update = plugged.adam(noted, net, np.array([0.1, 0.2]))
    update.step(net.params, {n: np.ones_like(p) for n, p in net.params.items()})
    assert len(seen) == 2 * len(net.params)
    assert seen[:2] == [(*[(6, 8)] * 4, 1, lr) for lr in (0.1, 0.2)]


def test_another_loss_changes_what_is_trained():
    class Off(forms.Net):
        def loss(self, x, y):
            loss, grads = super().loss(x, y)
            return loss, {name: -g for name, g in grads.items()}

    _, up = trained(Off, NET, network.Adam, 0.05, 0)
    _, down = trained(LOSS, NET, network.Adam, 0.05, 0)
    assert up.loss[-1] > down.loss[-1]


CELLS = (
    "SIDE = 16",
    "DIM = x_train",
    "class FullyConnectedNet:",
    "def adam_step",
    "class TrainableNet:",
    "Net = check.yours",
    "ARMS = {",
)


def test_lesson_06_trains_the_networks_of_its_solutions(capsys):
    lesson = from_lesson("06", *CELLS)
    assert lesson.Loss is lesson.FullyConnectedNet
    assert lesson.Net is lesson.TrainableNet
    assert lesson.step is lesson.adam_step
    said = capsys.readouterr().out
    assert said.count(": your code") == 3
    assert "networks with batch norm: your classes" in said
    mine, history = lesson.train_stack([9, 8], "batch", 0.1, np.arange(2), epochs=1)
    assert isinstance(next(iter(mine.nets.values())), lesson.TrainableNet)
    course = {"Loss": COURSE, "Net": COURSE, "step": network.Adam}
    lesson.train_stack.__globals__.update(course)
    net, wanted = lesson.train_stack([9, 8], "batch", 0.1, np.arange(2), epochs=1)
    assert type(mine) is not type(net) is COURSE
    np.testing.assert_allclose(history.loss, wanted.loss, rtol=1e-6)
    np.testing.assert_array_equal(history.val_accuracy, wanted.val_accuracy)


class WrongLoss(forms.Net):
    def loss(self, x, y):
        loss, grads = super().loss(x, y)
        return loss, {**grads, "W1": 2 * grads["W1"]}


class WrongNet(forms.TrainableNet):
    def scores(self, x):
        self.observe(x)
        return super().scores(x)


class Untouched:
    def __init__(self, *args):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("name", "answer", "task"),
    [
        ("FullyConnectedNet", WrongLoss, "fully_connected_net"),
        ("TrainableNet", WrongNet, "trainable_net"),
        ("TrainableNet", Untouched, "trainable_net"),
    ],
)
def test_lesson_06_trains_the_reference_where_the_learners_code_is_not_right(
    name, answer, task, capsys
):
    lesson = from_lesson("06", *CELLS, **{name: answer})
    said = capsys.readouterr().out
    assert f"{task}: the reference" in said
    assert said.count(": your code") == 2
    assert "networks with batch norm: the reference" in said
    net, _ = lesson.train_stack([8], "batch", 0.1, 0, epochs=1)
    assert type(net) is COURSE
