"""Checks of lesson 03, activation distributions.

A network cannot cross to a grader's process. So a check sends arrays, numbers and names
to a driver, which builds the network of that name beside the student's code and sends
arrays back.
"""

import numpy as np

from bn_helpers import record

from ..changes import changed
from ..common import default
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


NO_CHANGE = "leaves running statistics and mode as they were"


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
        leaves_no("hooks left", "leaves no hook behind", 0.5),
        leaves_no("changes of the network", NO_CHANGE, 1),
        leaves_no("tensors on the graph", "cuts its records off the graph", 0.5),
    ),
    weights=(2,),
    drive=drive_record,
    forms=(forms.record_activations,),
)


RECORD_ACTIVATIONS.mistakes += changed(
    forms.record_activations,
    S1,
    """
    one record per module: a module that is called twice appears once: its second output
    counts
        seen, handles = [], [] -> seen, handles = {}, []
        seen.append(output.detach().clone())
            -> seen.update({m: output.detach().clone()})
        return seen -> return list(seen.values())
        seen in tangermeme #54; openai/CLIP #239
    input recorded: the modules' inputs are recorded, not their outputs
        output.detach() -> inputs[0].detach()
        seen in facebookresearch/kill-the-bits #35
    hooked twice: a module that the network uses twice gets two hooks, so each of its
    calls is recorded twice
        other.modules() -> other.modules(remove_duplicate=False)
        seen in frgfm/torch-scan #24
    graph kept: Your records still hang on the graph of the forward pass and keep all of
    it in memory.
        output.detach().clone() -> output.clone()
        with torch.no_grad(): -> if True:
        shows cuts its records off the graph
        seen in UER-py #113; d2l-en #1342
    """,
)


RECORD_ACTIVATIONS.mistakes += changed(
    forms.record_activations,
    S2,
    """
    measured in evaluation mode: the network is switched to evaluation mode, where batch
    norm uses its running statistics
        other(x) -> other.eval()(x)
        seen in the source tutorial
    measured in training mode: the network is switched to training mode, whatever mode
    it came in
        other(x) -> other.train()(x)
        seen in facebookresearch/higher #55
    """,
)


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
        default("margin", 0.05),
        Property("refuses a low that is not below high", _needs_a_range, 0.5),
    ),
    weights=(1.5,),
    forms=(forms.saturation_fraction,),
)


SATURATION_FRACTION.mistakes += changed(
    forms.saturation_fraction,
    S3,
    """
    size for distance: |a| is compared with the upper end, which is tanh's rule and
    misses the lower end of a sigmoid
        ((a < low + edge) | (a > high - edge)) -> (np.abs(a) > high - edge)
        seen in makemore part 3, cell 15, and nn-zero-to-hero #66 on other activations
    """,
)


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
)


LAYER_SIGNALS.mistakes += changed(
    forms.layer_signals,
    S3,
    """
    pooled spread: units and samples are pooled, so that what differs between units
    counts as signal
        np.sqrt(var.mean(1)) -> a.std((1, 2))
        seen in the source tutorial; makemore part 3, cell 15
    spread of the means: the units' means are compared with each other, which is the
    fixed part
        np.sqrt(var.mean(1)) -> a.mean(1).std(1)
        seen in ellisdg/3DUnetCNN #23; scalameter #20
    mean of the spreads: the root is taken for each unit, before the mean over the units
        np.sqrt(var.mean(1)) -> np.sqrt(var).mean(1)
        seen in m2lines/Samudra #440, review
    layers for steps: layers are counted where the steps between them should be
        (L - 1) -> L
        seen in a trial of this exercise
    from the last to the first: the factor leads from the last layer to the first
        (signals[-1] / signals[0]) -> (signals[0] / signals[-1])
        seen in a trial of this exercise
    mean of the ratios: ratios are averaged; repeated, their mean does not lead from the
    first signal to the last
        (signals[-1] / signals[0]) ** (1 / (L - 1))
            -> (signals[1:] / signals[:-1]).mean()
        seen in hyrise #2250; tinygo #3729
    the last step alone: the last layer is compared with the one before it, and not with
    the first
        (signals[-1] / signals[0]) ** (1 / (L - 1)) -> signals[-1] / signals[-2]
        seen in a trial of this exercise
    """,
)


# --- update_to_data_ratio ------------------------------------------------------------


def update_cases(rng):
    def case(lr):
        widths = tuple(int(w) for w in rng.choice(np.arange(4, 10), 4, replace=False))
        x = rng.normal(0.5, 2, (12, widths[0]))
        y = rng.integers(0, widths[-1], 12)
        return widths, int(rng.integers(2**31)), x, y, lr

    return [case(0.3), case(2.0)]


UPDATE_TO_DATA_RATIO = Exercise(
    "update_to_data_ratio",
    forms.update_to_data_ratio,
    ("widths", "seed", "x", "y", "lr"),
    ("ratios", "steps_taken"),
    update_cases,
    weights=(1, 0),
    drive=drive_update_ratio,
)


UPDATE_TO_DATA_RATIO.mistakes += changed(
    forms.update_to_data_ratio,
    S8,
    """
    gradient for update: the gradient is measured in place of what the step did to the
    weights
        (new - old).norm() -> new.grad.norm()
        seen in tensorflow/minigo #63; makemore part 3, cell 17
    gradient over the new weights: the gradient is measured, and divided by the weights
    after the step
        (new - old).norm() / old.norm() -> new.grad.norm() / new.norm()
        seen in makemore part 3, cell 17
    all parameters: biases, gamma and beta are in the list, too
        p.ndim >= 2 -> True
        seen in lczero-training #47
    matrices only: parameters with more than two axes, as convolutions have, are left
    out
        p.ndim >= 2 -> p.ndim == 2
        seen in DrChainsaw/NaiveNASflux.jl #7; keras #21885, review
    by name: parameters are chosen by the name weight, which gamma bears as well
        p for p in model.parameters() if p.ndim >= 2
            -> p for name, p in model.named_parameters() if "weight" in name
        seen in huggingface/transformers #4360
    spread for size: standard deviations are divided, which ignore what all weights have
    in common
        .norm() -> .std()
        seen in makemore part 3, cell 18
    """,
)


EXERCISES = (
    RECORD_ACTIVATIONS,
    SATURATION_FRACTION,
    LAYER_SIGNALS,
    UPDATE_TO_DATA_RATIO,
)
