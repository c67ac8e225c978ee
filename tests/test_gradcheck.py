"""The gradient check agrees with right code, catches wrong code, cannot be fooled."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bn_helpers import gradcheck, norms

SEEDS = range(5)


def data(seed, N=9, D=4):
    rng = np.random.default_rng(seed)
    x = 5 * rng.normal(size=(N, D)) + 12
    inputs = {"x": x, "gamma": rng.uniform(0.5, 2, D), "beta": rng.normal(size=D)}
    return inputs, rng.normal(size=(N, D)) + rng.normal(size=D)


def forward(x, gamma, beta):
    return norms.batchnorm_forward(x, gamma, beta)[0]


def backward(inputs, dy):
    _, cache = norms.batchnorm_forward(**inputs)
    return dict(zip(inputs, norms.batchnorm_backward(dy, cache), strict=True))


def with_dx(bracket):
    """Wrong code: dx = gamma / sqrt(var + eps) * bracket(dy, x_hat)."""

    def wrong(inputs, dy):
        _, cache = norms.batchnorm_forward(**inputs)
        dx = inputs["gamma"] * cache.inv_std * bracket(dy, cache.x_hat)
        return backward(inputs, dy) | {"x": dx}

    return wrong


def gamma_twice(inputs, dy):
    right = backward(inputs, dy)
    return right | {"x": right["x"] * inputs["gamma"]}


def evaluation_backward(inputs, dy):
    D = dy.shape[1]
    running = np.full(D, 10.0), np.full(D, 20.0)
    wrong = norms.batchnorm_inference_backward(
        dy, inputs["x"], inputs["gamma"], *running
    )
    return dict(zip(inputs, wrong, strict=True))


def mean_of(a):
    return a.mean(0)


# how each one is wrong, and which gradients show it
WRONG = {
    "missing variance path": (with_dx(lambda dy, x_hat: dy - mean_of(dy)), "x"),
    "detached mean": (with_dx(lambda dy, x_hat: dy - x_hat * mean_of(dy * x_hat)), "x"),
    "detached statistics": (with_dx(lambda dy, x_hat: dy), "x"),
    "n/(n-1)": (
        with_dx(
            lambda dy, x_hat: (
                dy - mean_of(dy) - x_hat * (dy * x_hat).sum(0) / (len(dy) - 1)
            )
        ),
        "x",
    ),
    "gamma twice": (gamma_twice, "x"),
    "biased upstream": (lambda inputs, dy: backward(inputs, dy + 0.1), "beta"),
    "averaged upstream": (
        lambda inputs, dy: backward(inputs, dy / len(dy)),
        "x gamma beta",
    ),
    "evaluation backward in training": (evaluation_backward, "x gamma"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_code_is_caught_where_it_is_wrong(name, seed):
    wrong, where = WRONG[name]
    inputs, dy = data(seed)
    found = gradcheck.compare(forward, inputs, wrong(inputs, dy), dy)
    assert found.wrong == tuple(where.split())
    assert not found.agrees


def test_a_small_error_in_a_large_batch_is_caught():
    inputs, dy = data(0, N=128)
    wrong, _ = WRONG["n/(n-1)"]
    gradients = wrong(inputs, dy)
    size = np.linalg.norm(backward(inputs, dy)["x"])
    assert np.linalg.norm(gradients["x"] - backward(inputs, dy)["x"]) < 2e-3 * size
    assert gradcheck.compare(forward, inputs, gradients, dy).wrong == ("x",)


@settings(deadline=None, max_examples=25)
@given(
    N=st.integers(8, 20),
    D=st.integers(1, 5),
    scale=st.floats(0.5, 10),  # the step has to be small beside the spread
    offset=st.floats(-10, 10),
    seed=st.integers(0, 99),
)
def test_pytorch_gradients_agree(N, D, scale, offset, seed):
    inputs, dy = data(seed, N, D)
    inputs["x"] = offset + scale * (inputs["x"] - 12) / 5
    leaves = {n: torch.tensor(v, requires_grad=True) for n, v in inputs.items()}

    def batch_norm(x, gamma, beta):
        x, gamma, beta = map(torch.as_tensor, (x, gamma, beta))
        return torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)

    batch_norm(*leaves.values()).backward(torch.tensor(dy))
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    found = gradcheck.compare(
        lambda **arrays: batch_norm(**arrays).detach().numpy(), inputs, gradients, dy
    )
    assert found.agrees, found.text


def weak_setups():
    inputs, dy = data(0)
    few = {**inputs, "x": inputs["x"][:7]}
    single = {name: value.astype(np.float32) for name, value in inputs.items()}
    y = forward(**inputs)
    return {
        "x is float32": (single, dy),
        "dy is float32": (inputs, dy.astype(np.float32)),
        "7 samples": (few, dy[:7]),
        "dy is constant": (inputs, np.ones_like(dy)),
        "a straight line in y": (inputs, 2 * y),
        "straight line in y, which": (inputs, y * [1, -2, 3, 4] + [5, 6, 7, 8]),
        "gamma is 1 everywhere": ({**inputs, "gamma": np.ones(4)}, dy),
        "beta is 0 everywhere": ({**inputs, "beta": np.zeros(4)}, dy),
    }


@pytest.mark.parametrize("reason", weak_setups())
def test_a_weak_setup_is_refused_unless_told_why(reason):
    inputs, dy = weak_setups()[reason]
    gradients = backward(inputs, dy)
    with pytest.raises(gradcheck.Refused, match=reason):
        gradcheck.compare(forward, inputs, gradients, dy)
    found = gradcheck.compare(forward, inputs, gradients, dy, because="we look at it")
    assert any(reason in what for what in found.accepted)
    assert "we look at it" in found.text and reason in found.text


def test_constant_upstream_lets_wrong_code_pass():
    inputs, dy = data(1)
    for name in ("missing variance path", "n/(n-1)", "gamma twice"):
        wrong, _ = WRONG[name]
        ones = np.ones_like(dy)
        found = gradcheck.compare(
            forward, inputs, wrong(inputs, ones), ones, because="it is too weak"
        )
        assert found.agrees


def test_two_samples_leave_no_gradient():
    inputs, dy = data(2, N=2)
    assert np.abs(backward(inputs, dy)["x"]).max() < 1e-3
    with pytest.raises(gradcheck.Refused, match="2 samples"):
        gradcheck.compare(forward, inputs, backward(inputs, dy), dy)


def test_what_another_norm_ignores_is_refused_too():
    rng = np.random.default_rng(3)
    x, row = rng.normal(size=(10, 9)), rng.normal(size=(10, 1))

    def layer_norm(x):
        return norms.normalize_forward(x, (1,))[0]

    for dy in (row * np.ones((10, 9)), row * layer_norm(x) + row):
        with pytest.raises(gradcheck.Refused, match="straight line"):
            gradcheck.compare(layer_norm, {"x": x}, {"x": 0 * x}, dy)


def test_moving_running_statistics_are_noticed():
    inputs, dy = data(4)
    layer = torch.nn.BatchNorm1d(4, dtype=torch.float64)

    def training(x):
        return layer(torch.tensor(x)).detach().numpy()

    def state():
        return layer.running_mean, layer.running_var

    args = (training, {"x": inputs["x"]}, {"x": 0 * dy}, dy)
    before = layer.num_batches_tracked.item()
    with pytest.raises(gradcheck.Refused, match="changes its state"):
        gradcheck.compare(*args, state=state)
    assert layer.num_batches_tracked - before == 2  # refused before the long loop
    layer.eval()
    gradcheck.compare(*args, state=state)


def test_a_function_that_remembers_is_refused():
    inputs, dy = data(5)
    drift = iter(range(1000))
    with pytest.raises(gradcheck.Refused, match="another y"):
        gradcheck.compare(
            lambda **v: forward(**v) + next(drift), inputs, backward(inputs, dy), dy
        )


def test_all_weaknesses_are_told_at_once():
    inputs, dy = weak_setups()["x is float32"]
    with pytest.raises(gradcheck.Refused) as refusal:
        gradcheck.compare(
            forward, inputs, backward(inputs, dy), np.ones_like(dy, np.float32)
        )
    for part in ("gamma is float32", "dy is float32", "straight line", "because="):
        assert part in str(refusal.value)


def test_a_whole_network_is_a_function_that_returns_its_loss():
    rng = np.random.default_rng(6)
    arrays = {"x": (12, 5), "W": (5, 3), "b": (3,), "gamma": (3,), "beta": (3,)}
    inputs = {name: rng.normal(size=shape) for name, shape in arrays.items()}
    leaves = {n: torch.tensor(v, requires_grad=True) for n, v in inputs.items()}

    def loss(x, W, b, gamma, beta):
        y = torch.nn.functional.batch_norm(x @ W + b, None, None, gamma, beta, True)
        return torch.tanh(y).square().mean()

    loss(**leaves).backward()
    gradients = {name: leaf.grad.numpy() for name, leaf in leaves.items()}

    def f(**arrays):
        return loss(**{n: torch.tensor(v) for n, v in arrays.items()}).item()

    found = gradcheck.compare(f, inputs, gradients)
    assert found.agrees, found.text  # the bias, whose gradient is 0, included
    assert np.abs(gradients["b"]).max() < 1e-12
    gradients["b"] = gradients["b"] + 1e-6
    assert gradcheck.compare(f, inputs, gradients).wrong == ("b",)


def test_the_text_says_what_and_where():
    inputs, dy = data(7)
    gradients = backward(inputs, dy)
    gradients["x"] = gradients["x"].copy()
    gradients["x"][2, 3] = np.nan
    found = gradcheck.compare(forward, inputs, gradients, dy)
    assert repr(found) == found.text
    lines = found.text.splitlines()
    assert lines[0].startswith("x: WRONG in 1 of 36 elements; x[2, 3]: got nan, want ")
    rest = [f"{name}: agrees, every error is below 1e-06" for name in gradients]
    assert lines[1:] == rest[1:]


def test_names_and_shapes_that_do_not_fit():
    inputs, dy = data(8)
    gradients = backward(inputs, dy)
    with pytest.raises(ValueError, match="expected one for each of .*'gamma'"):
        gradcheck.compare(forward, inputs, {"x": gradients["x"]}, dy)
    with pytest.raises(ValueError, match="gradient of gamma has shape .*expected"):
        gradcheck.compare(forward, inputs, gradients | {"gamma": dy}, dy)
    with pytest.raises(ValueError, match=r"dy has shape \(4,\), expected \(9, 4\)"):
        gradcheck.compare(forward, inputs, gradients, dy[0])


def test_arguments_stay_as_they_were():
    inputs, dy = data(9)
    gradients = backward(inputs, dy)
    kept = [a.copy() for a in (*inputs.values(), *gradients.values(), dy)]

    def greedy(x, gamma, beta):
        y = forward(x, gamma, beta)
        x *= 0
        return y

    assert gradcheck.compare(greedy, inputs, gradients, dy).agrees
    for a, b in zip((*inputs.values(), *gradients.values(), dy), kept, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 4)])
def test_numerical_gradient_of_any_shape(shape):
    x = np.random.default_rng(10).normal(size=shape)
    before = x.copy()
    gradient = gradcheck.numerical_gradient(lambda x: np.sum(np.sin(x) * x), x)
    assert gradient.shape == shape
    np.testing.assert_allclose(gradient, np.cos(x) * x + np.sin(x), atol=1e-8)
    assert np.array_equal(x, before)


ARROWS = st.lists(st.floats(-10, 10), min_size=4, max_size=4).map(np.array)


@given(a=ARROWS, b=ARROWS, scale=st.floats(0.1, 100))
def test_direction_and_size_are_those_of_arrows(a, b, scale):
    cosine, size = gradcheck.direction_and_size(a, b)
    assert abs(cosine) <= 1 + 1e-12
    if min(np.linalg.norm(a), np.linalg.norm(b)) > 1e-6:
        scaled = gradcheck.direction_and_size(scale * a.reshape(2, 2), b.reshape(2, 2))
        assert scaled == pytest.approx((cosine, scale * size), abs=1e-9)
        want = F.cosine_similarity(torch.tensor(a), torch.tensor(b), dim=0)
        assert cosine == pytest.approx(want.item(), abs=1e-6)


def test_gradients_of_length_0_are_settled_by_rule():
    long, short = np.ones(3), 1e-12 * np.ones(3)
    assert gradcheck.direction_and_size(short, -short) == (1, 1)
    assert gradcheck.direction_and_size(short, long) == (0, 0)
    assert gradcheck.direction_and_size(long, 0 * long) == (0, np.inf)
