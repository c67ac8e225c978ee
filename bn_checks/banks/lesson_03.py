"""Checks of lesson 03, activation distributions.

A network cannot cross to a grader's process. So a check sends arrays, numbers and names
to a driver, which builds the network of that name beside the student's code and sends
arrays back.
"""

import copy

import numpy as np

from bn_helpers import record

from ..drivers.lesson_03 import drive_record, drive_update_ratio
from ..engine import Exercise, Property, rejects
from ..forms import lesson_03 as forms

S1 = "section 1, Hook into a network"
S2 = "section 2, Compare like with like"
S3 = "section 3, Watch a signal shrink"
S8 = "section 8, Measure the size of a step"


# --- record_activations --------------------------------------------------------------


def record_cases(rng):
    def case(name, training=True):
        widths = tuple(int(w) for w in rng.choice(np.arange(4, 10), 4, replace=False))
        x = rng.normal(0.5, 2, (int(rng.integers(9, 15)), widths[0]))
        return name, widths, training, int(rng.integers(2**31)), x

    names = ("batch norm", "in place", "nested", "reused")
    return [*map(case, names), case("batch norm", training=False)]


def leaves_no(what, title, weight):
    """Property: nothing of one sort is left behind, on any network."""

    def test(trial):
        trial.needs()
        for args in trial.cases:
            (got,), _ = trial.exercise.run(trial.student, (*args, what))
            if got:
                return (f"{what}: got {int(got)}, want 0; network: {args[0]}",)
        return ()

    return Property(title, test, weight)


NO_HOOK = "leaves no hook behind"


NO_CHANGE = "leaves running statistics and mode as they were"


NO_GRAPH = "cuts its records off the graph"


def _hooked(model, x, kind, keep):
    """Run x through the model with a hook on the modules of a kind."""
    chosen = [module for module in model.modules() if isinstance(module, kind)]
    handles = [module.register_forward_hook(keep) for module in chosen]
    model(x)
    for handle in handles:
        handle.remove()


RECORD_ACTIVATIONS = Exercise(
    "record_activations",
    record.activations,
    ("network", "widths", "training", "seed", "x"),
    ("activations",),
    record_cases,
    extra=(
        leaves_no("hooks left", NO_HOOK, 0.5),
        leaves_no("changes of the network", NO_CHANGE, 1),
        leaves_no("tensors on the graph", NO_GRAPH, 0.5),
    ),
    weights=(2,),
    drive=drive_record,
    forms=(forms.record_activations,),
)


@RECORD_ACTIVATIONS.mistake(
    "one record per module", S1, "tangermeme #54; openai/CLIP #239"
)
def by_module(model, x, kind):
    """a module that is called twice appears once: its second output counts"""
    seen = {}

    def keep(module, inputs, output):
        seen[module] = output.detach().clone()

    with record.preserved(model):
        _hooked(model, x, kind, keep)
    return list(seen.values())


@RECORD_ACTIVATIONS.mistake("input recorded", S1, "facebookresearch/kill-the-bits #35")
def input_recorded(model, x, kind):
    """the modules' inputs are recorded, not their outputs"""
    seen = []
    with record.preserved(model):
        _hooked(model, x, kind, lambda m, i, out: seen.append(i[0].detach().clone()))
    return seen


@RECORD_ACTIVATIONS.mistake("hooked twice", S1, "frgfm/torch-scan #24")
def hooked_twice(model, x, kind):
    """a module that the network uses twice gets two hooks, so each of its calls is
    recorded twice"""
    seen, twin = [], copy.deepcopy(model)

    def keep(module, inputs, output):
        seen.append(output.detach().clone())

    twin.apply(lambda m: isinstance(m, kind) and m.register_forward_hook(keep))
    twin(x)
    return seen


@RECORD_ACTIVATIONS.mistake(
    "top level only", S1, "the source tutorial; pytorch #125957"
)
def top_level_only(model, x, kind):
    """modules inside other modules are left out"""
    seen = []
    with record.preserved(model):
        for layer in model:
            x = layer(x)
            if isinstance(layer, kind):
                seen.append(x.detach().clone())
    return seen


@RECORD_ACTIVATIONS.mistake("measured in evaluation mode", S2, "the source tutorial")
def in_evaluation_mode(model, x, kind):
    """the network is switched to evaluation mode, where batch norm uses its running
    statistics"""
    model = copy.deepcopy(model).eval()
    return record.activations(model, x, kind)


@RECORD_ACTIVATIONS.mistake(
    "measured in training mode", S2, "facebookresearch/higher #55"
)
def always_in_training_mode(model, x, kind):
    """the network is switched to training mode, whatever mode it came in"""
    model = copy.deepcopy(model).train()
    return record.activations(model, x, kind)


@RECORD_ACTIVATIONS.mistake("hooks left behind", S1, "captum #834", shows=NO_HOOK)
def hooks_left(model, x, kind):
    """Your hooks are still on the network: they record every later pass as well."""
    seen = []
    with record.preserved(model):
        for module in model.modules():
            if isinstance(module, kind):
                module.register_forward_hook(
                    lambda m, i, out: seen.append(out.detach().clone())
                )
        model(x)
    return seen


@RECORD_ACTIVATIONS.mistake(
    "running statistics moved",
    S1,
    "the source solution set; nn-zero-to-hero #82",
    shows=NO_CHANGE,
)
def statistics_moved(model, x, kind):
    """Your pass in training mode updated the network's running statistics."""
    seen = []
    _hooked(model, x, kind, lambda m, i, out: seen.append(out.detach().clone()))
    return seen


@RECORD_ACTIVATIONS.mistake(
    "graph kept", S1, "UER-py #113; d2l-en #1342", shows=NO_GRAPH
)
def graph_kept(model, x, kind):
    """Your records still hang on the graph of the forward pass and keep all of it in
    memory."""
    seen = []
    with record.preserved(model):
        _hooked(model, x, kind, lambda m, i, out: seen.append(out.clone()))
    return seen


# --- saturation_fraction -------------------------------------------------------------


def saturation_cases(rng):
    def case(N, D, low, high, *margin):
        # most of a unit's values lie near the ends, and not equally many at both
        ends = rng.uniform(0.1, 0.6, (2, D))
        return low + (high - low) * rng.beta(*ends, (N, D)), low, high, *margin

    return [
        case(60, 7, -1.0, 1.0),
        case(41, 5, 0.0, 1.0, 0.1),
        case(70, 9, -2.0, 4.0, 0.02),
    ]


def _default_margin(trial):
    a, low, high = trial.cases[0]
    what = "without margin the result is not that of margin=0.05"
    return trial.same((a, low, high), (a, low, high, 0.05), what)


def _needs_a_range(trial):
    a = trial.cases[0][0]
    for low, high in ((1.0, -1.0), (1.0, 1.0)):
        what = f"low = {low:g}, high = {high:g}"
        if lines := rejects(trial.student, (a, low, high), what):
            return lines
    return ()


SATURATION_FRACTION = Exercise(
    "saturation_fraction",
    record.saturation_fraction,
    ("a", "low", "high", "margin"),
    ("fraction",),
    saturation_cases,
    extra=(
        Property("margin is 0.05 when left out", _default_margin, 0),
        Property("refuses a low that is not below high", _needs_a_range, 0.5),
    ),
    weights=(1.5,),
    forms=(forms.saturation_fraction,),
)


@SATURATION_FRACTION.mistake(
    "size for distance",
    S3,
    "makemore part 3, cell 15, and nn-zero-to-hero #66 on other activations",
)
def by_size(a, low, high, margin=0.05):
    """|a| is compared with the upper end, which is tanh's rule and misses the lower
    end of a sigmoid"""
    return (np.abs(a) > high - margin * (high - low)).mean(axis=0)


# --- layer_signals -------------------------------------------------------------------


def signal_cases(rng):
    def case(L, N, D):
        # units differ more than samples do, and the signal falls unevenly
        means, spreads = rng.normal(0, 2, (L, 1, D)), rng.uniform(0.2, 1.5, (L, 1, D))
        fall = np.cumprod(rng.uniform(0.2, 0.9, L)).reshape(L, 1, 1)
        return (means + fall * spreads * rng.normal(size=(L, N, D)),)

    return [case(4, 30, 6), case(6, 11, 9)]


LAYER_SIGNALS = Exercise(
    "layer_signals",
    forms.layer_signals,
    ("a",),
    ("signals", "factor"),
    signal_cases,
    weights=(2, 1),
    forms=(forms.layer_signals,),
)


def _factor(signals, steps):
    return (signals[-1] / signals[0]) ** (1 / steps)


@LAYER_SIGNALS.mistake(
    "pooled spread", S3, "the source tutorial; makemore part 3, cell 15"
)
def pooled_spread(a):
    """units and samples are pooled, so that what differs between units counts as
    signal"""
    signals = a.std(axis=(1, 2))
    return signals, _factor(signals, len(a) - 1)


@LAYER_SIGNALS.mistake("spread of the means", S3, "answers to this exercise")
def spread_of_the_means(a):
    """the units' means are compared with each other, which is the fixed part"""
    signals = a.mean(axis=1).std(axis=1)
    return signals, _factor(signals, len(a) - 1)


@LAYER_SIGNALS.mistake("mean of the spreads", S3, "answers to this exercise")
def mean_of_the_spreads(a):
    """the root is taken for each unit, before the mean over the units"""
    signals = a.std(axis=1).mean(axis=1)
    return signals, _factor(signals, len(a) - 1)


@LAYER_SIGNALS.mistake("variance for signal", S3, "answers to this exercise")
def variance_for_signal(a):
    """no root is taken: variances stand where the signals should"""
    signals = a.var(axis=1).mean(axis=1)
    return signals, _factor(signals, len(a) - 1)


@LAYER_SIGNALS.mistake("layers for steps", S3, "answers to this exercise")
def layers_for_steps(a):
    """layers are counted where the steps between them should be"""
    signals = forms.layer_signals(a)[0]
    return signals, _factor(signals, len(a))


@LAYER_SIGNALS.mistake("all layers at once", S3, "answers to this exercise")
def all_layers_at_once(a):
    """the factor is that of all steps together, not of one"""
    signals = forms.layer_signals(a)[0]
    return signals, signals[-1] / signals[0]


@LAYER_SIGNALS.mistake("mean of the ratios", S3, "answers to this exercise")
def mean_of_the_ratios(a):
    """ratios are averaged; repeated, their mean does not lead from the first signal to
    the last"""
    signals = forms.layer_signals(a)[0]
    return signals, (signals[1:] / signals[:-1]).mean()


@LAYER_SIGNALS.mistake("the last step alone", S3, "answers to this exercise")
def the_last_step(a):
    """the last layer is compared with the one before it, and not with the first"""
    signals = forms.layer_signals(a)[0]
    return signals, signals[-1] / signals[-2]


@LAYER_SIGNALS.mistake("from the last to the first", S3, "answers to this exercise")
def from_the_last(a):
    """the factor leads from the last layer to the first"""
    signals = forms.layer_signals(a)[0]
    return signals, 1 / _factor(signals, len(a) - 1)


# --- update_to_data_ratio ------------------------------------------------------------


def update_cases(rng):
    def case(lr):
        widths = tuple(int(w) for w in rng.choice(np.arange(4, 10), 4, replace=False))
        x = rng.normal(0.5, 2, (12, widths[0]))
        y = rng.integers(0, widths[-1], 12)
        return widths, int(rng.integers(2**31)), x, y, lr

    return [case(0.3), case(2.0)]


def _weights(model):
    return [p for p in model.parameters() if p.ndim >= 2]


def _ratios(model, step, measure, weights=_weights):
    before = [w.detach().clone() for w in weights(model)]
    step()
    pairs = zip(before, weights(model), strict=True)
    return [measure(old, new.detach()).item() for old, new in pairs]


UPDATE_TO_DATA_RATIO = Exercise(
    "update_to_data_ratio",
    forms.update_to_data_ratio,
    ("widths", "seed", "x", "y", "lr"),
    ("ratios", "steps_taken"),
    update_cases,
    weights=(1, 0),
    drive=drive_update_ratio,
    forms=(forms.update_to_data_ratio,),
)


@UPDATE_TO_DATA_RATIO.mistake(
    "gradient for update", S8, "tensorflow/minigo #63; makemore part 3, cell 17"
)
def gradient_for_update(model, step):
    """the gradient is measured in place of what the step did to the weights"""
    before = [w.detach().clone().norm() for w in _weights(model)]
    step()
    pairs = zip(_weights(model), before, strict=True)
    return [(w.grad.norm() / size).item() for w, size in pairs]


@UPDATE_TO_DATA_RATIO.mistake(
    "gradient over the new weights", S8, "makemore part 3, cell 17"
)
def gradient_over_new_weights(model, step):
    """the gradient is measured, and divided by the weights after the step"""
    step()
    return [(w.grad.norm() / w.norm()).item() for w in _weights(model)]


@UPDATE_TO_DATA_RATIO.mistake("all parameters", S8, "lczero-training #47")
def all_parameters(model, step):
    """biases, gamma and beta are in the list, too"""

    def every(model):
        return list(model.parameters())

    return _ratios(model, step, lambda old, new: (new - old).norm() / old.norm(), every)


@UPDATE_TO_DATA_RATIO.mistake(
    "matrices only", S8, "DrChainsaw/NaiveNASflux.jl #7; keras #21885, review"
)
def matrices_only(model, step):
    """parameters with more than two axes, as convolutions have, are left out"""
    before = [p.detach().clone() for p in model.parameters() if p.ndim == 2]
    step()
    pairs = zip(before, (p for p in model.parameters() if p.ndim == 2), strict=True)
    return [((new - old).norm() / old.norm()).item() for old, new in pairs]


@UPDATE_TO_DATA_RATIO.mistake("by name", S8, "huggingface/transformers #4360")
def by_name(model, step):
    """parameters are chosen by the name weight, which gamma bears as well"""

    def named(model):
        return [p for name, p in model.named_parameters() if "weight" in name]

    return _ratios(model, step, lambda old, new: (new - old).norm() / old.norm(), named)


@UPDATE_TO_DATA_RATIO.mistake("spread for size", S8, "makemore part 3, cell 18")
def spread_for_size(model, step):
    """standard deviations are divided, which ignore what all weights have in common"""
    return _ratios(model, step, lambda old, new: (new - old).std() / old.std())


EXERCISES = (
    RECORD_ACTIVATIONS,
    SATURATION_FRACTION,
    LAYER_SIGNALS,
    UPDATE_TO_DATA_RATIO,
)
