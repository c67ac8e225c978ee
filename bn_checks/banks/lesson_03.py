"""Checks of lesson 03, activation distributions.

A network cannot cross to a grader's process. So a check sends arrays, numbers and names
to a driver, which builds the network of that name beside the student's code and sends
arrays back.
"""

import copy

import numpy as np

from bn_helpers import record

from ..drivers.lesson_03 import drive_record, drive_update_ratio
from ..engine import Exercise, Mistake, Property, rejects

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
        if not trial.values_hold:
            return ("judged once the activations are right",)
        for args in trial.cases:
            (got,), _ = trial.run((*args, what))
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


def without_copy(model, x, kind):
    seen = []
    with record.preserved(model):
        _hooked(model, x, kind, lambda m, i, out: seen.append(out.detach()))
    return seen


def by_module(model, x, kind):
    seen = {}

    def keep(module, inputs, output):
        seen[module] = output.detach().clone()

    with record.preserved(model):
        _hooked(model, x, kind, keep)
    return list(seen.values())


def hooked_twice(model, x, kind):
    seen, twin = [], copy.deepcopy(model)

    def keep(module, inputs, output):
        seen.append(output.detach().clone())

    twin.apply(lambda m: isinstance(m, kind) and m.register_forward_hook(keep))
    twin(x)
    return seen


def top_level_only(model, x, kind):
    seen = []
    with record.preserved(model):
        for layer in model:
            x = layer(x)
            if isinstance(layer, kind):
                seen.append(x.detach().clone())
    return seen


def in_evaluation_mode(model, x, kind):
    model = copy.deepcopy(model).eval()
    return record.activations(model, x, kind)


def always_in_training_mode(model, x, kind):
    model = copy.deepcopy(model).train()
    return record.activations(model, x, kind)


def hooks_left(model, x, kind):
    seen = []
    with record.preserved(model):
        for module in model.modules():
            if isinstance(module, kind):
                module.register_forward_hook(
                    lambda m, i, out: seen.append(out.detach().clone())
                )
        model(x)
    return seen


def statistics_moved(model, x, kind):
    seen = []
    _hooked(model, x, kind, lambda m, i, out: seen.append(out.detach().clone()))
    return seen


def graph_kept(model, x, kind):
    seen = []
    with record.preserved(model):
        _hooked(model, x, kind, lambda m, i, out: seen.append(out.clone()))
    return seen


RECORD_MISTAKES = (
    Mistake(
        "no copy",
        "You keep the output itself, and an in-place activation writes over it.",
        S1,
        "KamitaniLab/bdpy #16; captum #165",
        without_copy,
    ),
    Mistake(
        "one record per module",
        "A module that is called twice appears once: its second output replaced the "
        "first.",
        S1,
        "tangermeme #54; openai/CLIP #239",
        by_module,
    ),
    Mistake(
        "hooked twice",
        "A module that the network uses twice has two of your hooks, so each of its "
        "calls is recorded twice.",
        S1,
        "frgfm/torch-scan #24",
        hooked_twice,
    ),
    Mistake(
        "top level only",
        "Modules inside other modules are missing from your list.",
        S1,
        "the source tutorial; pytorch #125957",
        top_level_only,
    ),
    Mistake(
        "measured in evaluation mode",
        "You switch the network to evaluation mode: batch norm then uses its running "
        "statistics and not the batch.",
        S2,
        "the source tutorial",
        in_evaluation_mode,
    ),
    Mistake(
        "measured in training mode",
        "You switch the network to training mode; the mode is the caller's choice.",
        S2,
        "facebookresearch/higher #55",
        always_in_training_mode,
    ),
    Mistake(
        "hooks left behind",
        "Your hooks are still on the network: they record every later pass as well.",
        S1,
        "captum #834",
        hooks_left,
        shows=NO_HOOK,
    ),
    Mistake(
        "running statistics moved",
        "Your pass in training mode updated the network's running statistics.",
        S1,
        "the source solution set; nn-zero-to-hero #82",
        statistics_moved,
        shows=NO_CHANGE,
    ),
    Mistake(
        "graph kept",
        "Your records still hang on the graph of the forward pass and keep all of it "
        "in memory.",
        S1,
        "UER-py #113; d2l-en #1342",
        graph_kept,
        shows=NO_GRAPH,
    ),
)

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
    mistakes=RECORD_MISTAKES,
    weights=(2,),
    drive=drive_record,
)


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
    (left_out,), _ = trial.run((a, low, high))
    (given,), _ = trial.run((a, low, high, 0.05))
    same = np.allclose(left_out, given)
    return () if same else ("without margin the result is not that of margin=0.05",)


def _needs_a_range(trial):
    a = trial.cases[0][0]
    for low, high in ((1.0, -1.0), (1.0, 1.0)):
        what = f"low = {low:g}, high = {high:g}"
        if lines := rejects(trial.student, (a, low, high), what):
            return lines
    return ()


def whole_layer(a, low, high, margin=0.05):
    return record.saturation_fraction(a, low, high, margin).mean()


def by_size(a, low, high, margin=0.05):
    return (np.abs(a) > high - margin * (high - low)).mean(axis=0)


def margin_not_scaled(a, low, high, margin=0.05):
    return ((a < low + margin) | (a > high - margin)).mean(axis=0)


def per_sample(a, low, high, margin=0.05):
    edge = margin * (high - low)
    return ((a < low + edge) | (a > high - edge)).mean(axis=1)


SATURATION_MISTAKES = (
    Mistake(
        "one number for the layer",
        "You average over units as well; some units may be stuck and others not.",
        S3,
        "makemore part 3, cell 15",
        whole_layer,
    ),
    Mistake(
        "size for distance",
        "You compare |a| with the upper end. That is tanh's rule: it misses the lower "
        "end of a sigmoid.",
        S3,
        "makemore part 3, cell 15, and nn-zero-to-hero #66 on other activations",
        by_size,
    ),
    Mistake(
        "margin not scaled",
        "Your margin does not grow with the range, so tanh and sigmoid are measured "
        "differently.",
        S3,
        "makemore part 3, cell 15",
        margin_not_scaled,
    ),
    Mistake(
        "wrong axis",
        "Your result has one number per sample; one per unit is asked for.",
        S3,
        "makemore part 3, cell 24; cs231n.github.io #180",
        per_sample,
    ),
)

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
    mistakes=SATURATION_MISTAKES,
    weights=(1.5,),
)


# --- update_to_data_ratio ------------------------------------------------------------


def update_cases(rng):
    def case(lr):
        widths = tuple(int(w) for w in rng.choice(np.arange(4, 10), 4, replace=False))
        x = rng.normal(0.5, 2, (12, widths[0]))
        y = rng.integers(0, widths[-1], 12)
        return widths, int(rng.integers(2**31)), x, y, lr

    return [case(0.3), case(2.0)]


def update_reference(model, step):
    with record.updates(model) as ratios:
        step()
    return ratios


def _weights(model):
    return [p for p in model.parameters() if p.ndim >= 2]


def _ratios(model, step, measure, weights=_weights):
    before = [w.detach().clone() for w in weights(model)]
    step()
    pairs = zip(before, weights(model), strict=True)
    return [measure(old, new.detach()).item() for old, new in pairs]


def reference_kept(model, step):
    before = [w.detach() for w in _weights(model)]
    step()
    pairs = zip(before, _weights(model), strict=True)
    return [((new - old).norm() / old.norm()).item() for old, new in pairs]


def gradient_for_update(model, step):
    before = [w.detach().clone().norm() for w in _weights(model)]
    step()
    pairs = zip(_weights(model), before, strict=True)
    return [(w.grad.norm() / size).item() for w, size in pairs]


def upside_down(model, step):
    return _ratios(model, step, lambda old, new: old.norm() / (new - old).norm())


def new_weights_below(model, step):
    return _ratios(model, step, lambda old, new: (new - old).norm() / new.norm())


def spread_for_size(model, step):
    return _ratios(model, step, lambda old, new: (new - old).std() / old.std())


def logarithm(model, step):
    def measure(old, new):
        return ((new - old).norm() / old.norm()).log10()

    return _ratios(model, step, measure)


def all_parameters(model, step):
    def measure(old, new):
        return (new - old).norm() / old.norm()

    return _ratios(model, step, measure, lambda m: list(m.parameters()))


UPDATE_MISTAKES = (
    Mistake(
        "reference for copy",
        "Your old weights are the new ones: the step changes the tensor that you kept.",
        S8,
        "pytorch/tutorials #188; kmzzhang/nbi #11; easy-few-shot-learning #129",
        reference_kept,
    ),
    Mistake(
        "gradient for update",
        "You measure the gradient; the update is what the step did to the weights.",
        S8,
        "tensorflow/minigo #63; makemore part 3, cell 17",
        gradient_for_update,
    ),
    Mistake(
        "ratio upside down",
        "You divide the weights by their update.",
        S8,
        "lczero-training #42",
        upside_down,
    ),
    Mistake(
        "new weights below the line",
        "You divide by the weights after the step; the ones before it are asked for.",
        S8,
        "makemore part 3, cell 14",
        new_weights_below,
    ),
    Mistake(
        "spread for size",
        "You divide standard deviations, which ignore what all weights have in common; "
        "norms are asked for.",
        S8,
        "makemore part 3, cell 18",
        spread_for_size,
    ),
    Mistake(
        "logarithm",
        "You return the logarithm of the ratio.",
        S8,
        "makemore part 3, cell 18",
        logarithm,
    ),
    Mistake(
        "all parameters",
        "Your list has biases, gamma and beta in it; it should have the weights alone.",
        S8,
        "lczero-training #47",
        all_parameters,
    ),
)

UPDATE_TO_DATA_RATIO = Exercise(
    "update_to_data_ratio",
    update_reference,
    ("widths", "seed", "x", "y", "lr"),
    ("ratios", "steps_taken"),
    update_cases,
    mistakes=UPDATE_MISTAKES,
    weights=(1, 0),
    drive=drive_update_ratio,
)

EXERCISES = (RECORD_ACTIVATIONS, SATURATION_FRACTION, UPDATE_TO_DATA_RATIO)
