"""Lesson 03: every known mistake is named, every honest solution passes."""

import copy
import itertools

import numpy as np
import pytest
import torch
from bank import POINTS, BankTests
from torch.nn.utils import parameters_to_vector

from bn_checks.banks import lesson_03

# --- record_activations --------------------------------------------------------------


def on_a_copy(model, x, kind):
    twin, outputs = copy.deepcopy(model), []

    def keep(module, inputs, output):
        outputs.append(output.detach().clone())

    for module in twin.modules():
        if isinstance(module, kind):
            module.register_forward_hook(keep)
    twin(x)
    return outputs


def as_arrays_with_statistics_restored(model, x, kind):
    state, outputs = copy.deepcopy(model.state_dict()), []

    def keep(module, inputs, output):
        outputs.append(output.cpu().numpy().copy())

    handles = [
        module.register_forward_hook(keep)
        for _, module in model.named_modules()
        if isinstance(module, kind)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    model.load_state_dict(state)
    return tuple(outputs)


class Recorder:
    """A callable that forgets what it saw in earlier calls."""

    def __call__(self, model, x, kind):
        self.seen = []
        twin = copy.deepcopy(model)
        for module in {m for m in twin.modules() if isinstance(m, kind)}:
            module.register_forward_hook(self.keep)
        with torch.no_grad():
            twin(x)
        return self.seen

    def keep(self, module, inputs, output):
        self.seen.append(output + 0)


# --- saturation_fraction -------------------------------------------------------------


def by_distance(a, low, high, margin=0.05):
    if not low < high:
        raise ValueError("low")
    center, half = (low + high) / 2, (high - low) / 2
    return np.mean(np.abs(a - center) > half * (1 - 2 * margin), axis=0)


def by_loops(a, low, high, margin=0.05):
    if high <= low:
        raise ValueError("low")
    share = []
    for unit in np.transpose(a):
        scaled = [(value - low) / (high - low) for value in unit]
        share.append(sum(not margin <= s <= 1 - margin for s in scaled) / len(scaled))
    return share and np.array(share)


def by_torch(a, low, high, margin=0.05):
    if low >= high:
        raise ValueError("low")
    a, edge = torch.from_numpy(a), margin * (high - low)
    return torch.logical_or(a < low + edge, a > high - edge).double().mean(0)


# --- layer_signals -------------------------------------------------------------------


def by_centering(a):
    centered = a - a.mean(axis=1, keepdims=True)
    signals = (centered**2).mean(axis=(1, 2)) ** 0.5
    return signals, np.exp(np.diff(np.log(signals)).mean())


def unit_by_unit(a):
    signals = [
        np.sqrt(np.mean([np.var(unit) for unit in np.transpose(layer)])) for layer in a
    ]
    ratios = [new / old for old, new in itertools.pairwise(signals)]
    return signals, np.prod(ratios) ** (1 / len(ratios))


def signals_by_torch(a):
    layers = torch.from_numpy(a)
    signals = layers.var(dim=1, correction=0).mean(dim=1).sqrt()
    return signals, (signals[-1] / signals[0]).pow(1 / (len(a) - 1))


# --- update_to_data_ratio ------------------------------------------------------------


def with_deep_copy(model, step):
    old = copy.deepcopy(model)
    step()
    return [
        float(torch.linalg.norm(new - before) / torch.linalg.norm(before))
        for before, new in zip(old.parameters(), model.parameters(), strict=True)
        if before.ndim > 1
    ]


def with_numpy(model, step):
    weights = [p for p in model.parameters() if p.dim() > 1]
    before = [w.detach().numpy().copy() for w in weights]
    step()
    ratios = []
    for old, new in zip(before, weights, strict=True):
        change = new.detach().numpy() - old
        ratios.append(np.sqrt((change**2).sum() / (old**2).sum()))
    return ratios


def with_tensors(model, step):
    before = {name: p.data.clone() for name, p in model.named_parameters()}
    step()
    return tuple(
        parameters_to_vector([p - before[name]]).norm() / before[name].norm()
        for name, p in model.named_parameters()
        if p.ndim >= 2
    )


class TestBank(BankTests):
    lesson = lesson_03
    honest = {
        "record_activations": (
            on_a_copy,
            as_arrays_with_statistics_restored,
            Recorder(),
        ),
        "saturation_fraction": (by_distance, by_loops, by_torch),
        "layer_signals": (by_centering, unit_by_unit, signals_by_torch),
        "update_to_data_ratio": (with_deep_copy, with_numpy, with_tensors),
    }


def flattened(model, x, kind):
    return [a.ravel() for a in lesson_03.record.activations(model, x, kind)]


def a_dictionary(model, x, kind):
    return dict(enumerate(lesson_03.record.activations(model, x, kind)))


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (flattened, "want (N, D)"),
        (a_dictionary, "returned a dict, want a list"),
        (lambda *args: [], "came back empty"),
        (lambda *args: None, "returned a NoneType"),
    ],
)
def test_wrong_types_are_told(student, says):
    score = lesson_03.RECORD_ACTIVATIONS.score(student, POINTS)
    assert score == 0
    assert says in score.text


def test_a_check_draws_no_global_random_numbers():
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    for exercise in lesson_03.EXERCISES:
        exercise.score(exercise.reference, POINTS)
    assert torch.equal(torch.rand(3), want)
