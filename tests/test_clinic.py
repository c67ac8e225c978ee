"""The clinic's network is right without faults, and sick in the way each fault says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bn_experiments import clinic
from bn_helpers import data

EQUAL = (6, 6, 6, 6)
N = 20


def batch(dims, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(1, 2, (dims[0], n)), rng.permutation(np.arange(n) % dims[-1])


def examined(*faults, dims=EQUAL):
    return clinic.examine(clinic.Clinic(dims, faults).randomize(), *batch(dims))


def wrong(report):
    """Names of the gradients that are not right, from the loss backward."""
    order = ("gamma", "beta", "W", "b")
    names = sorted(report, key=lambda n: (-int(n[-1]), order.index(n[:-1])))
    return [name for name in names if not np.allclose(report[name], 1, atol=1e-5)]


# --- without faults: PyTorch's twin --------------------------------------------------


def twin_of(network, dims):
    layers = []
    for k in range(1, len(dims)):
        affine, norm = nn.Linear(dims[k - 1], dims[k]), nn.BatchNorm1d(dims[k])
        layers += [affine, norm, nn.ReLU()]
        copy(network, k, affine, norm)
    return nn.Sequential(*layers[:-2]).double()


def copy(network, k, affine, norm):
    names = {f"W{k}": affine.weight, f"b{k}": affine.bias}
    names |= {f"gamma{k}": norm.weight, f"beta{k}": norm.bias}
    for name, parameter in names.items():
        if name in network.parameters:
            value = torch.tensor(network.parameters[name])
            parameter.data = value.reshape(parameter.shape).clone()


def of_twin(twin, attribute=lambda parameter: parameter):
    """The twin's parameters, or what belongs to them, by the clinic's names."""
    found, k = {}, 0
    for module in twin:
        names = ("W", "b") if isinstance(module, nn.Linear) else ("gamma", "beta")
        k += isinstance(module, nn.Linear)
        for name, parameter in zip(names, module.parameters(), strict=False):
            found[f"{name}{k}"] = attribute(parameter).detach().numpy()
    return found


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        want = theirs[name].reshape(value.shape)
        np.testing.assert_allclose(value, want, err_msg=name, **tolerance)


@settings(max_examples=20, deadline=None)
@given(
    dims=st.lists(st.integers(2, 9), min_size=2, max_size=4).map(tuple),
    seed=st.integers(0, 1000),
)
def test_loss_and_gradients_are_pytorchs(dims, seed):
    network = clinic.Clinic(dims, seed=seed).randomize(seed)
    twin = twin_of(network, dims)
    x, labels = batch(dims, seed=seed)
    loss = F.cross_entropy(twin(torch.tensor(x.T)), torch.tensor(labels))
    loss.backward()
    np.testing.assert_allclose(network.loss(x, labels), loss.item(), rtol=1e-10)
    theirs = of_twin(twin, lambda parameter: parameter.grad)
    assert_same(network.gradients(x, labels), theirs, rtol=1e-8, atol=1e-10)


def test_fifty_steps_are_pytorchs():
    dims = (7, 9, 5, 4)
    network = clinic.Clinic(dims).randomize()
    twin = twin_of(network, dims)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for seed in range(50):
        x, labels = batch(dims, seed=seed)
        loss = F.cross_entropy(twin(torch.tensor(x.T)), torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert network.step(x, labels, 0.1) == pytest.approx(loss.item(), rel=1e-9)
    assert_same(network.parameters, of_twin(twin), rtol=1e-8, atol=1e-8)
    for k, norm in enumerate([m for m in twin if isinstance(m, nn.BatchNorm1d)], 1):
        theirs = norm.running_mean.numpy(), norm.running_var.numpy()
        for name, want in zip(("mean", "var"), theirs, strict=True):
            np.testing.assert_allclose(network.running[f"{name}{k}"].ravel(), want)
    x, _ = batch(dims, seed=99)
    want = twin.eval()(torch.tensor(x.T)).detach().numpy().T
    np.testing.assert_allclose(network.logits(x), want, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(network.predict(x), want.argmax(0))


def test_without_faults_every_gradient_is_right_at_any_widths():
    for dims in (EQUAL, (5, 9, 7, 3)):
        assert wrong(examined(dims=dims)) == []


def test_one_sample_is_predicted_as_in_a_batch():
    network = clinic.Clinic(EQUAL).randomize()
    x, labels = batch(EQUAL)
    network.step(x, labels, 0.1)
    alone = np.hstack([network.logits(x[:, [i]]) for i in range(N)])
    np.testing.assert_allclose(alone, network.logits(x), atol=1e-12)


def test_float32_stays_float32():
    network = clinic.Clinic(EQUAL, dtype=np.float32)
    x, labels = batch(EQUAL)
    network.step(x.astype(np.float32), labels, 0.1)
    kept = (*network.parameters.values(), *network.running.values())
    assert {value.dtype for value in kept} == {np.dtype(np.float32)}


# --- the faulty class as the article has it ------------------------------------------


def test_the_faulty_class_computes_what_the_articles_code_computes():
    # absolute sums of the gradients, and classes: printed by the article's own code,
    # given these parameters and this batch
    rng = np.random.default_rng(7)
    network = clinic.Clinic((5, 5, 5), clinic.ARTICLE, seed=7).randomize(7)
    x, labels = rng.normal(1, 2, (5, 20)), rng.integers(0, 5, 20)
    sums = {k: np.abs(v).sum() for k, v in network.gradients(x, labels).items()}
    assert sums == pytest.approx(
        {
            "W2": 2.2182053,
            "b2": 0.77150203,
            "gamma2": 12.483741,
            "beta2": 15.430041,
            "W1": 1.0680237,
            "b1": 0.096261448,
            "gamma1": 3.6193047,
            "beta1": 1.925229,
        },
        rel=1e-6,
    )
    classes = [0, 0, 0, 2, 2, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0]
    assert network.predict(x).tolist() == classes


@pytest.mark.parametrize("faults", [["no W"], clinic.ARTICLE], ids=["one", "all"])
def test_unequal_widths_raise_and_equal_ones_do_not(faults):
    x, labels = batch((6, 5, 3))
    with pytest.raises(ValueError, match=r"\(3,20\) \(5,20\)"):
        clinic.Clinic((6, 5, 3), faults).step(x, labels, 0.1)
    clinic.Clinic(EQUAL, faults).step(*batch(EQUAL), 0.1)


def test_weight_gradients_point_elsewhere():
    report = examined(*clinic.ARTICLE)
    assert all(report[f"W{k}"][0] < 0.7 for k in (1, 2, 3))
    assert min(report[f"W{k}"][0] for k in (1, 2)) < 0.2


@pytest.mark.parametrize("faults", [["b too early"], clinic.ARTICLE])
def test_a_bias_before_the_norm_has_a_gradient_that_should_be_0(faults):
    network = clinic.Clinic(EQUAL, faults).randomize()
    x, labels = batch(EQUAL)
    assert np.abs(network.gradients(x, labels)["b1"]).max() > 1e-3
    assert examined(*faults)["b1"] == (0, np.inf)
    healthy = clinic.Clinic(EQUAL).randomize().gradients(x, labels)
    assert np.abs(healthy["b1"]).max() < 1e-12


@pytest.mark.parametrize("n", [10, 20, 40])
def test_gamma_and_beta_of_the_last_layer_are_n_times_too_large(n):
    network = clinic.Clinic(EQUAL, clinic.ARTICLE).randomize()
    report = clinic.examine(network, *batch(EQUAL, n))
    assert np.allclose(report["gamma3"], (1, n))
    assert np.allclose(report["beta3"], (1, n))


def test_one_image_always_gets_the_same_class_and_mates_change_it():
    network = clinic.Clinic(EQUAL, clinic.ARTICLE).randomize()
    x, labels = batch(EQUAL, 50)
    for _ in range(5):
        network.step(x, labels, 0.1)
    assert len({int(network.predict(x[:, [i]])[0]) for i in range(50)}) == 1
    mates = [network.logits(x[:, [0, *others]])[:, 0] for others in ([1, 2], [3, 4])]
    assert np.abs(mates[0] - mates[1]).max() > 0.1


def test_logits_are_normalized_whatever_the_batch():
    network = clinic.Clinic(EQUAL, clinic.ARTICLE)
    for seed in range(3):
        logits, _ = network.forward(batch(EQUAL, seed=seed)[0])
        np.testing.assert_allclose(logits.mean(1), 0, atol=1e-12)
        np.testing.assert_allclose(logits.var(1), 1, rtol=1e-6)


def test_tiny_eps_lets_rounding_through():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 64))
    rounding = np.spacing(np.float32(1000)) * rng.integers(-1, 2, 64)
    spread = []
    for faults in (clinic.ARTICLE, ()):
        network = clinic.Clinic((3, 3, 3), faults)
        network.parameters["W1"] = np.eye(3)
        x[0] = 1000 + rounding
        spread.append(network.forward(x)[1][0].x_hat[0].std())
    assert spread[0] > 0.3 > 0.05 > spread[1]


def test_its_loss_falls_all_the_same():
    raw = data.load_mnist()
    tiles = raw.x_train[:20_000, 4:24, 4:24].reshape(-1, 5, 4, 2, 10).mean((2, 4))
    x, labels = tiles.reshape(-1, 10).T / 255, raw.y_train
    ends = []
    for faults in (clinic.ARTICLE, ()):
        network, rng = clinic.Clinic((10, 10, 10, 10), faults), np.random.default_rng(0)
        rows = [rng.integers(0, 20_000, 128) for _ in range(300)]
        losses = [network.step(x[:, r], labels[r], 0.1) for r in rows]
        assert np.mean(losses[-50:]) < np.mean(losses[:50]) - 0.1
        ends.append(np.mean(losses[-50:]))
    assert ends[0] > 1.5 > 1.2 > ends[1]


# --- one fault at a time -------------------------------------------------------------

FIRST_WRONG = {
    "no W": "gamma2",
    "W too early": "W2",
    "b too early": "b2",
    "ReLU at z": "gamma2",
    "sums": "gamma2",
    "gamma twice": "gamma2",
    "detached statistics": "W2",
}


@pytest.mark.parametrize("fault", clinic.FAULTS)
def test_each_fault_is_first_seen_where_it_sits(fault):
    found = wrong(examined(fault))
    assert found[:1] == [FIRST_WRONG[fault]] if fault in FIRST_WRONG else not found


def test_too_early_stays_in_its_layer_and_detached_spreads():
    assert wrong(examined("W too early")) == ["W2", "W1"]
    assert wrong(examined("b too early")) == ["b2", "b1"]
    assert {"gamma1", "beta1"} <= {*wrong(examined("detached statistics"))}


def test_gamma_twice_hides_behind_gamma_one():
    network = clinic.Clinic(EQUAL, ["gamma twice"])
    x, labels = batch(EQUAL)
    assert wrong(clinic.examine(network, x, labels)) == []
    network.randomize()
    truth = clinic.measured_gradients(network, x, labels)["beta2"]
    got, gamma = network.gradients(x, labels)["beta2"], network.parameters["gamma2"]
    np.testing.assert_allclose(got, gamma * truth, rtol=1e-5, atol=1e-8)


def test_relu_at_z_uses_other_units_than_relu():
    _, caches = clinic.Clinic(EQUAL).randomize().forward(batch(EQUAL)[0])
    assert np.mean((caches[0].z > 0) != (caches[0].y > 0)) > 0.1


def test_detached_statistics_let_the_bias_drift():
    drift = []
    for faults in ((), ["detached statistics"]):
        network = clinic.Clinic(EQUAL, faults)
        for seed in range(30):
            network.step(*batch(EQUAL, seed=seed), 0.1)
        drift.append(np.abs(network.parameters["b1"]).max())
    assert drift[0] < 1e-12 < 0.1 < drift[1]


def test_one_pass_variance_is_right_near_0_and_lost_far_from_it():
    x, labels = batch(EQUAL)
    near = [clinic.Clinic(EQUAL, f).forward(x)[0] for f in ((), ["one-pass variance"])]
    np.testing.assert_allclose(*near, rtol=1e-9)
    far = (x + 10_000).astype(np.float32)
    with np.errstate(invalid="ignore"):
        one, two = (
            clinic.Clinic(EQUAL, f, dtype=np.float32).forward(far)[0]
            for f in (["one-pass variance"], ())
        )
    assert np.abs(two - near[0]).max() < 0.1
    assert not np.abs(one - near[0]).max() < 0.5  # far off, or not a number


def test_running_variance_is_unbiased_unless_the_fault_is_on():
    x, labels = batch(EQUAL)
    for faults, factor in (((), N / (N - 1)), (["biased running variance"], 1)):
        network = clinic.Clinic(EQUAL, faults)
        want = 0.9 + 0.1 * network.forward(x)[1][0].var * factor
        network.step(x, labels, 0.1)
        np.testing.assert_allclose(network.running["var1"], want)


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="got no V, expected no W, W too early"):
        clinic.Clinic(EQUAL, ["no V", "no W"])


def test_a_single_sample_is_no_batch_to_train_on():
    x, labels = batch(EQUAL, 1)
    with pytest.raises(ValueError, match=r"1 sample\(s\), expected 2 or more"):
        clinic.Clinic(EQUAL).step(x, labels, 0.1)


# --- measuring -----------------------------------------------------------------------


def test_examining_leaves_the_network_as_it_was():
    network = clinic.Clinic(EQUAL).randomize()
    kept = {**network.parameters, **network.running}
    before = {name: value.copy() for name, value in kept.items()}
    clinic.examine(network, *batch(EQUAL))
    after = {**network.parameters, **network.running}
    assert all(after[name] is kept[name] for name in kept)
    assert all(np.array_equal(kept[name], before[name]) for name in kept)


def test_a_referred_network_has_two_faults_that_leave_traces():
    network = clinic.referral(EQUAL).randomize()
    assert len(network.faults) == 2
    report = clinic.examine(network, *batch(EQUAL))
    assert np.allclose(report["gamma2"], (1, N))
    assert report["b2"] == (0, np.inf)
    assert report["gamma1"][0] < 0.9


# --- mends: a student's function in the place of a step ------------------------

RIGHT = dict(clinic.STEPS)


def one_array(made):
    return isinstance(made, np.ndarray)


@pytest.mark.parametrize("name", [n for n in RIGHT if n != "norm_forward"])
def test_a_mend_is_used_and_a_wrong_one_shows(name):
    """Right mends change nothing; the same one, off by a factor, spoils a gradient."""

    def off(*args):
        made = RIGHT[name](*args)
        return 2 * made if one_array(made) else tuple(2 * g for g in made)

    x, labels = batch(EQUAL)
    plain = clinic.Clinic(EQUAL).randomize().gradients(x, labels)
    for mend, same in ((RIGHT[name], True), (off, False)):
        network = clinic.Clinic(EQUAL, mends={name: mend}).randomize()
        mended = network.gradients(x, labels)
        assert mended.keys() == plain.keys()
        close = [np.allclose(mended[n], plain[n], rtol=1e-9, atol=1e-12) for n in plain]
        assert all(close) is same


@pytest.mark.parametrize("faults", [(), ("normalized logits",)])
def test_all_mends_together_are_right_at_every_width(faults):
    dims = (6, 5, 4, 3)
    network = clinic.Clinic(dims, faults, mends=RIGHT).randomize()
    assert not wrong(clinic.examine(network, *batch(dims)))
    losses = [network.step(*batch(dims), lr=0.1) for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("fault", ["W too early", "b too early"])
def test_a_mended_factor_leaves_the_other_faults_where_they_are(fault):
    mends = {"parameter_gradients": clinic.parameter_gradients}
    network = clinic.Clinic(EQUAL, [fault, "normalized logits"], mends=mends)
    report = clinic.examine(network.randomize(), *batch(EQUAL))
    assert wrong(report) == [f"{fault[0]}{k}" for k in (3, 2, 1)]


def test_a_mended_output_layer_is_the_loss_too():
    def twice(*args):
        return tuple(2 * made for made in clinic.output_layer(*args))

    x, labels = batch(EQUAL)
    network = clinic.Clinic(EQUAL, mends={"output_layer": twice}).randomize()
    want = 2 * clinic.Clinic(EQUAL).randomize().loss(x, labels)
    assert np.isclose(network.loss(x, labels), want, rtol=1e-12)
    assert not wrong(clinic.examine(network, x, labels))


def test_a_mended_normalization_keeps_its_digits_in_float32():
    x, _ = batch(EQUAL, n=200)
    sick = clinic.Clinic(EQUAL, ["one-pass variance"], dtype=np.float32)
    mends = {"normalize": clinic.normalize}
    healed = clinic.Clinic(EQUAL, ["one-pass variance"], 0, np.float32, mends)
    want = clinic.Clinic(EQUAL).forward(x)[0]
    far = (x + 3_000).astype(np.float32)
    with np.errstate(invalid="ignore"):
        off = [np.abs(n.forward(far)[0] - want).max() for n in (sick, healed)]
    assert not off[0] < 0.1
    assert off[1] < 0.1


def test_a_mended_norm_trains_the_statistics_and_predicts_with_them():
    x, labels = batch(EQUAL)
    plain = clinic.Clinic(EQUAL)
    mended = clinic.Clinic(EQUAL, mends={"norm_forward": clinic.norm_forward})
    for _ in range(3):
        assert np.isclose(
            plain.step(x, labels, 0.1), mended.step(x, labels, 0.1), rtol=1e-9
        )
    np.testing.assert_allclose(plain.logits(x), mended.logits(x), rtol=1e-9)
    for name, value in plain.running.items():
        np.testing.assert_allclose(value, mended.running[name], rtol=1e-9)


def test_an_unknown_mend_is_refused():
    with pytest.raises(ValueError, match="mends: got W, expected affine_backward"):
        clinic.Clinic(EQUAL, mends={"W": clinic.affine_backward})
