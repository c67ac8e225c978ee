"""Each slip of the pen in a right answer must cost points.

A right answer is the solution in a lesson, and the reference that a check compares
with, down to the functions of the course that it calls. A mutant that keeps all its
points stands in a list here, with the reason why it may.
"""

import ast
import contextlib
import copy
import functools
import gc
import sys
import types
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from mutants import mutants

import bn_checks as check
from tools import build
from tools.lesson import cut

ROOT = Path(__file__).resolve().parents[1]
HELPERS = [ROOT / name for name in ("bn_helpers", "bn_experiments", "bn_checks")]
NO_ANSWERS = ("engine.py", "score.py", "common.py", "drivers")  # in bn_checks/
POINTS = 100
EXERCISES = sorted(set(dir(check)) - set(check.__all__))

ON_THE_EDGE = "differs on the edge alone, where random numbers never lie"
EQUALLY_LONG = "both are equally long in any case"
ANY_SHIFT = "keeps digits; without rounding every shift gives the same"
ROUTE = "chooses between two ways to the same sum"
NOT_TAKEN = "this way to the sum is not taken here"
ANY_AXIS = "both shapes line up where the samples are averaged"
NO_BIAS = "below batch norm a bias and its gradient come to nothing"
CLIPPED = "catches a rounding that random numbers do not meet"
TWO_AXES = "the array has two axes"
COPIED = "copies what need not be copied"
BOTH = "changes what is judged, too"
FAR_AWAY = "the limit is far from both"
SAME_ROW = "another cell of the table that tells the same"
ANY_NEGATIVE = "NumPy works out whichever length is negative"
# exercise: {what has changed: why it may}
SOLUTIONS = {
    "saturation_fraction": {
        "return ((a < low + edge) | (a > high - edge)).mean(axis=0) -> "
        "return ((a <= low + edge) | (a > high - edge)).mean(axis=0)": ON_THE_EDGE,
        "return ((a < low + edge) | (a > high - edge)).mean(axis=0) -> "
        "return ((a < low + edge) | (a >= high - edge)).mean(axis=0)": ON_THE_EDGE,
    },
    "update_to_data_ratio": {
        "for old, new in zip(before, weights, strict=True): -> "
        "for old, new in zip(before, weights, strict=False):": EQUALLY_LONG,
    },
    "groupnorm_forward": {
        "raise ValueError(f'num_groups is {num_groups}, expected a divisor of {C}') "
        "-> pass": "reshape raises the ValueError then",
    },
    "instancenorm_forward": {
        "per_channel = (-1,) + (1,) * len(axes) -> "
        "per_channel = (-2,) + (1,) * len(axes)": ANY_NEGATIVE,
        "if x[0, 0].size == 1: -> if x[0, 1].size == 1:": "channels are equally large",
    },
    "spatial_batchnorm_forward": {
        "rows = np.moveaxis(x, 1, -1).reshape(-1, C) -> "
        "rows = np.moveaxis(x, 1, -1).reshape(-2, C)": ANY_NEGATIVE,
    },
    "fully_connected_net": {
        "z = x @ p[f'W{k}'] + p[f'b{k}'] -> z = x @ p[f'W{k}'] - p[f'b{k}']": NO_BIAS
    },
    "direction_and_size": {
        "if length < 1e-08: -> if length <= 1e-08:": ON_THE_EDGE,
        "if true_length < 1e-08: -> if true_length <= 1e-08:": ON_THE_EDGE,
        "if length < 1e-08 and true_length < 1e-08: -> "
        "if length <= 1e-08 and true_length < 1e-08:": ON_THE_EDGE,
        "if length < 1e-08 and true_length < 1e-08: -> "
        "if length < 1e-08 and true_length <= 1e-08:": ON_THE_EDGE,
    },
    "layer_backward": {
        "return (dz, dz @ a.T, dz.sum(axis=1, keepdims=True)) -> "
        "return (dz, dz @ a.T, dz.mean(axis=1, keepdims=True))": (NO_BIAS),
    },
    "relu_backward": {"return da * (y > 0) -> return da * (y >= 0)": ON_THE_EDGE},
    "effective_learning_rate": {
        "turn = np.arccos(np.clip((W * new).sum(0) / lengths, -1, 1)) -> "
        "turn = np.arccos(np.clip((W * new).sum(0) / lengths, -2, 1))": CLIPPED,
    },
    "fold_batchnorm": {
        "per_output = scale.reshape(-1, *[1] * (weight.ndim - 1)) -> "
        "per_output = scale.reshape(-2, *[1] * (weight.ndim - 1))": ANY_NEGATIVE,
    },
    "find_wrong_backward": {
        "alone = np.abs(dx.sum(axis=1)).max(axis=1) -> "
        "alone = np.abs(dx.mean(axis=1)).max(axis=1)": FAR_AWAY,
        "along = np.abs((dx * x_hat).sum(axis=1)).max(axis=1) -> "
        "along = np.abs((dx * x_hat).mean(axis=1)).max(axis=1)": FAR_AWAY,
    },
    "gradients_agree": {
        "pairs = zip(measured, claimed, strict=True) -> "
        "pairs = zip(measured, claimed, strict=False)": EQUALLY_LONG,
        "x_hat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-05) -> "
        "x_hat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) - 1e-05)": FAR_AWAY,
    },
    "diagnose": {
        "wrong = np.abs(cosine - 1) > 0.0001 -> "
        "wrong = np.abs(cosine - 1) >= 0.0001": ON_THE_EDGE,
        "faults[0] = size[0, :2].max() > 4 -> "
        "faults[0] = size[0, :2].max() >= 4": ON_THE_EDGE,
        "faults[0] = size[0, :2].max() > 4 -> "
        "faults[0] = size[0, :2].max() > 5": FAR_AWAY,
        "faults[0] = size[0, :2].max() > 4 -> "
        "faults[0] = size[1, :2].max() > 4": SAME_ROW,
        "faults[0] = size[0, :2].max() > 4 -> "
        "faults[0] = size[0, :3].max() > 4": SAME_ROW,
        "faults[1:3] = wrong[0, 2:] -> faults[1:3] = wrong[1, 2:]": SAME_ROW,
        "if not wrong[1, :2].any(): -> if not wrong[2, :2].any():": SAME_ROW,
        "faults[5 if wrong[0, 3] else 3] = 1 -> "
        "faults[5 if wrong[1, 3] else 3] = 1": SAME_ROW,
    },
    "qk_norm_attention": {
        "q = q / np.linalg.norm(q, axis=-1, keepdims=True) -> "
        "q = q / np.linalg.norm(q, axis=1, keepdims=True)": TWO_AXES,
        "k = k / np.linalg.norm(k, axis=-1, keepdims=True) -> "
        "k = k / np.linalg.norm(k, axis=1, keepdims=True)": TWO_AXES,
        "weights = e / e.sum(axis=-1, keepdims=True) -> "
        "weights = e / e.sum(axis=1, keepdims=True)": TWO_AXES,
        "e = np.exp(logits - logits.max(axis=-1, keepdims=True)) -> "
        "e = np.exp(logits - logits.max(axis=1, keepdims=True))": TWO_AXES,
    },
    "residual_block": {
        "var = (centered ** 2).mean(axis=-1, keepdims=True) -> "
        "var = (centered ** 2).mean(axis=1, keepdims=True)": TWO_AXES,
        "centered = h - h.mean(axis=-1, keepdims=True) -> "
        "centered = h - h.mean(axis=1, keepdims=True)": TWO_AXES,
    },
}
# the same for the references, with the function that has changed
REFERENCES = {
    "loss: grads[f'b{k}'] = d.sum(0) -> grads[f'b{k}'] = d.mean(0)": NO_BIAS,
    "loss: z = x @ p[f'W{k}'] + p[f'b{k}'] -> z = x @ p[f'W{k}'] - p[f'b{k}']": NO_BIAS,
    "output_layer: logits = logits - logits.max(0, keepdims=True) -> "
    "logits = logits - logits.max(0, keepdims=False)": ANY_AXIS,
    "output_layer: shares = np.exp(logits) / np.exp(logits).sum(0, keepdims=True) -> "
    "shares = np.exp(logits) / np.exp(logits).sum(0, keepdims=False)": ANY_AXIS,
    "_checked_axes: distinct = tuple(sorted({a % ndim for a in axes})) -> "
    "distinct = tuple(sorted({a * ndim for a in axes}))": BOTH,
    "_fitting: arrays.append(array.astype(precise, copy=False)) -> "
    "arrays.append(array.astype(precise, copy=True))": COPIED,
    "_floating: return array if array.dtype.kind == 'f' else "
    "array.astype(np.float64) -> return array if array.dtype.kind != 'f' else"
    " array.astype(np.float64)": ("all is float64"),
    "_inverse_std: return 1 / np.sqrt(var + eps) -> return 1 * np.sqrt(var + "
    "eps)": BOTH,
    "_inverse_std: return 1 / np.sqrt(var + eps) -> return 1 / np.sqrt(var - "
    "eps)": BOTH,
    "_pass_through: seen = False -> seen = True": (
        "no batches at all: test_practice.py"
    ),
    "_cast_like: return tuple((array.astype(like.dtype, copy=False) for array "
    "in arrays)) -> return tuple((array.astype(like.dtype, copy=True) for "
    "array in arrays))": COPIED,
    "affine_norm_relu_forward: mu = z.mean(axes, keepdims=True) -> mu = "
    "z.mean(axes, keepdims=False)": ANY_AXIS,
    "affine_norm_relu_forward: var = z.var(axes, keepdims=True) -> var = "
    "z.var(axes, keepdims=False)": ANY_AXIS,
    "affine_norm_relu_forward: z = x @ W + b -> z = x @ W - b": NO_BIAS,
    "batchnorm_forward: mu = x.mean(axes, keepdims=True) -> mu = x.mean(axes,"
    " keepdims=False)": ANY_AXIS,
    "batchnorm_forward: var = x.var(axes, keepdims=True) -> var = x.var(axes,"
    " keepdims=False)": ANY_AXIS,
    "diagnose: early_W, early_b = wrong[0, 2:] & (not here and (not below)) "
    "-> early_W, early_b = wrong[1, 2:] & (not here and (not below))": SAME_ROW,
    "diagnose: lost = passed_down and (not wrong[0, 3]) -> lost = passed_down"
    " and (not wrong[1, 3])": SAME_ROW,
    "diagnose: return np.array([too_large, early_W, early_b, lost, here, "
    "passed_down and wrong[0, 3]], int) -> return np.array([too_large, "
    "early_W, early_b, lost, here, passed_down and wrong[1, 3]], int)": SAME_ROW,
    "diagnose: too_large = np.any(size[0, :2] > 4) -> too_large = "
    "np.any(size[0, :2] > 5)": FAR_AWAY,
    "diagnose: too_large = np.any(size[0, :2] > 4) -> too_large = "
    "np.any(size[0, :2] >= 4)": ON_THE_EDGE,
    "diagnose: too_large = np.any(size[0, :2] > 4) -> too_large = "
    "np.any(size[0, :3] > 4)": SAME_ROW,
    "diagnose: too_large = np.any(size[0, :2] > 4) -> too_large = "
    "np.any(size[1, :2] > 4)": SAME_ROW,
    "diagnose: wrong = np.abs(cosine - 1) > 0.0001 -> wrong = np.abs(cosine -"
    " 1) >= 0.0001": ON_THE_EDGE,
    "direction_and_size: if length < ZERO and true_length < ZERO: -> if "
    "length < ZERO and true_length <= ZERO:": ON_THE_EDGE,
    "direction_and_size: if length < ZERO and true_length < ZERO: -> if "
    "length <= ZERO and true_length < ZERO:": ON_THE_EDGE,
    "direction_and_size: if length < ZERO or true_length < ZERO: -> if length"
    " < ZERO or true_length <= ZERO:": ON_THE_EDGE,
    "direction_and_size: if length < ZERO or true_length < ZERO: -> if length"
    " <= ZERO or true_length < ZERO:": ON_THE_EDGE,
    "direction_and_size: return (0.0, 0.0 if length < ZERO else np.inf) -> "
    "return (0.0, 0.0 if length <= ZERO else np.inf)": ON_THE_EDGE,
    "effective_learning_rate: turn = np.arccos(np.clip(cosine, -1, 1)) -> "
    "turn = np.arccos(np.clip(cosine, -2, 1))": CLIPPED,
    "evaluate: for xb, yb in zip(x.split(batch_size), y.split(batch_size), "
    "strict=True): -> for xb, yb in zip(x.split(batch_size), "
    "y.split(batch_size), strict=False):": EQUALLY_LONG,
    "find_wrong_backward: return _most_suspect(dx, dx.sum(1), "
    "np.einsum('knd,nd->kd', dx, x_hat)) -> return _most_suspect(dx, "
    "dx.mean(1), np.einsum('knd,nd->kd', dx, x_hat))": FAR_AWAY,
    "fold_batchnorm: return (scale.reshape(-1, *[1] * (weight.ndim - 1)) * "
    "weight, scale * shift + beta) -> return (scale.reshape(-2, *[1] * "
    "(weight.ndim - 1)) * weight, scale * shift + beta)": ANY_NEGATIVE,
    "forward: precise = self.x.astype(gamma.dtype, copy=False) -> precise = "
    "self.x.astype(gamma.dtype, copy=True)": COPIED,
    "freeze_batchnorm: _require_freezable(m, f\"{name or 'the model'} "
    "({_kind(m)})\") -> _require_freezable(m, f\"{name and 'the model'} "
    '({_kind(m)})")': ("words of a message"),
    "gradients: return (dz @ W.T, x.T @ dz, dz.sum(0), (g * x_hat).sum(0), "
    "g.sum(0)) -> return (dz @ W.T, x.T @ dz, dz.mean(0), (g * x_hat).sum(0),"
    " g.sum(0))": NO_BIAS,
    "groupnorm_backward: along = (-1, *[1] * (dy.ndim - 2)) -> along = (-2, "
    "*[1] * (dy.ndim - 2))": ANY_NEGATIVE,
    "groupnorm_backward: dx_hat = (dy * "
    "gamma.reshape(along)).reshape(len(dy), num_groups, -1, *dy.shape[2:]) ->"
    " dx_hat = (dy * gamma.reshape(along)).reshape(len(dy), num_groups, -1, "
    "*dy.shape[3:])": (
        "the numbers of a group stay together, and all of them are averaged"
    ),
    "groupnorm_backward: dx_hat = (dy * "
    "gamma.reshape(along)).reshape(len(dy), num_groups, -1, *dy.shape[2:]) ->"
    " dx_hat = (dy * gamma.reshape(along)).reshape(len(dy), num_groups, -2, "
    "*dy.shape[2:])": ANY_NEGATIVE,
    "groupnorm_forward: along = (-1, *[1] * (x.ndim - 2)) -> along = (-2, "
    "*[1] * (x.ndim - 2))": ANY_NEGATIVE,
    "groupnorm_forward: groups = x.reshape(len(x), num_groups, -1, "
    "*x.shape[2:]) -> groups = x.reshape(len(x), num_groups, -1, "
    "*x.shape[3:])": (
        "the numbers of a group stay together, and all of them are averaged"
    ),
    "groupnorm_forward: groups = x.reshape(len(x), num_groups, -1, "
    "*x.shape[2:]) -> groups = x.reshape(len(x), num_groups, -2, "
    "*x.shape[2:])": ANY_NEGATIVE,
    "instancenorm_forward: along = (-1, *[1] * (x.ndim - 2)) -> along = (-2, "
    "*[1] * (x.ndim - 2))": ANY_NEGATIVE,
    "layer_backward: db = dz.sum(1, keepdims=True) -> db = dz.mean(1, "
    "keepdims=True)": NO_BIAS,
    "loss: grads |= dict(zip(names, new, strict=True)) -> grads |= "
    "dict(zip(names, new, strict=False))": EQUALLY_LONG,
    "mended_fit: for xb, yb in zip(x.split(batch_size), y.split(batch_size), "
    "strict=True): -> for xb, yb in zip(x.split(batch_size), "
    "y.split(batch_size), strict=False):": EQUALLY_LONG,
    "noisy_batchnorm: mean = x.mean(axes, keepdims=True) -> mean = "
    "x.mean(axes, keepdims=False)": ANY_AXIS,
    "noisy_batchnorm: var = x.var(axes, keepdims=True) -> var = x.var(axes, "
    "keepdims=False)": ANY_AXIS,
    "normalize_forward: centered = x - origin -> centered = x + origin": BOTH,
    "normalize_forward: inv_std = 1 / np.sqrt(var + eps) -> inv_std = 1 * "
    "np.sqrt(var + eps)": BOTH,
    "normalize_forward: inv_std = 1 / np.sqrt(var + eps) -> inv_std = 1 / "
    "np.sqrt(var - eps)": BOTH,
    "normalize_forward: mu = centered.mean(axes, keepdims=True) -> mu = "
    "centered.mean(axes, keepdims=False)": BOTH,
    "normalize_forward: return (x_hat, Cache(centered, origin + mu, var, "
    "inv_std, axes)) -> return (x_hat, Cache(centered, origin - mu, var, "
    "inv_std, axes))": BOTH,
    "normalize_forward: x_hat = centered * inv_std -> x_hat = centered / inv_std": BOTH,
    "qk_norm_attention: e = np.exp(logits - logits.max(axis=-1, "
    "keepdims=True)) -> e = np.exp(logits - logits.max(axis=1, "
    "keepdims=True))": TWO_AXES,
    "qk_norm_attention: k = k / np.sqrt((k ** 2).sum(axis=-1, keepdims=True))"
    " -> k = k / np.sqrt((k ** 2).sum(axis=1, keepdims=True))": TWO_AXES,
    "qk_norm_attention: q = q / np.sqrt((q ** 2).sum(axis=-1, keepdims=True))"
    " -> q = q / np.sqrt((q ** 2).sum(axis=1, keepdims=True))": TWO_AXES,
    "qk_norm_attention: weights = e / e.sum(axis=-1, keepdims=True) -> "
    "weights = e / e.sum(axis=1, keepdims=True)": TWO_AXES,
    "recalibrate_statistics: for m, state in zip(norms, before, strict=True):"
    " -> for m, state in zip(norms, before, strict=False):": EQUALLY_LONG,
    "relu_backward: return da * (gamma * x_hat + beta > 0) -> return da * "
    "(gamma * x_hat + beta >= 0)": ON_THE_EDGE,
    "residual_block: mu = h.mean(axis=-1, keepdims=True) -> mu = "
    "h.mean(axis=1, keepdims=True)": TWO_AXES,
    "residual_block: var = ((h - mu) ** 2).mean(axis=-1, keepdims=True) -> "
    "var = ((h - mu) ** 2).mean(axis=1, keepdims=True)": TWO_AXES,
    "saturation_fraction: return ((a < low + edge) | (a > high - "
    "edge)).mean(axis=0) -> return ((a < low + edge) | (a >= high - "
    "edge)).mean(axis=0)": ON_THE_EDGE,
    "saturation_fraction: return ((a < low + edge) | (a > high - "
    "edge)).mean(axis=0) -> return ((a <= low + edge) | (a > high - "
    "edge)).mean(axis=0)": ON_THE_EDGE,
    "update_to_data_ratio: return [((new - old).norm() / old.norm()).item() "
    "for old, new in zip(before, weights, strict=True)] -> return [((new - "
    "old).norm() / old.norm()).item() for old, new in zip(before, weights, "
    "strict=False)]": EQUALLY_LONG,
    "watch: names = ', '.join((kind.__name__ for kind in kinds)) or 'no kind "
    "at all' -> names = ', '.join((kind.__name__ for kind in kinds)) and 'no "
    "kind at all'": ("words of a message"),
    "weighted: return (gamma * _inverse_std(var, eps) * (dy - paths), dgamma,"
    " dbeta) -> return (gamma / _inverse_std(var, eps) * (dy - paths), "
    "dgamma, dbeta)": BOTH,
}
# plans shapes and subscripts, which other lines broadcast; tests/test_norms.py has it
PLANNING = ("_reduction",)


# mutants


def test_each_operator_number_comparison_and_statement_has_its_mutants():
    tree = ast.parse("def f(x):\n    'A text.'\n    y = x.mean(0)\n    return -x < y")
    changes = dict(mutants(tree))
    assert set(changes) == {
        "y = x.mean(0) -> pass",
        "y = x.mean(0) -> y = x.sum(0)",
        "y = x.mean(0) -> y = x.mean(1)",
        "return -x < y -> return -x <= y",
        "return -x < y -> return -x >= y",
        "return -x < y -> return x < y",
    }
    assert ast.unparse(changes["return -x < y -> return x < y"]).endswith("x < y")
    assert ast.unparse(tree).endswith("-x < y")  # as it was


def test_mutants_keep_to_their_lines_and_to_operators():
    tree = ast.parse("a = 1 + b\nc = not (d and e)")
    found = [change for change, _ in mutants(tree, lines={2}, statements=False)]
    assert found == [
        "c = not (d and e) -> c = d and e",
        "c = not (d and e) -> c = not (d or e)",
    ]


# the solutions in the lessons


@functools.cache
def solutions():
    """Exercise -> (its cell, what the set-up cell of its lesson defines)."""
    matplotlib.use("Agg")
    lessons, _ = build.load(ROOT)
    found = {}
    for lesson in lessons:
        defined = {}
        exec(lesson.of("setup")[0].source, defined)
        found |= {cell.function: (cell, defined) for cell in lesson.of("exercise")}
    return found


def solved(name, tree):
    """What a tree of the exercise's cell defines, under the name that is checked."""
    cell, defined = solutions()[name]
    names = dict(defined)
    exec(compile(ast.fix_missing_locations(tree), "<solution>", "exec"), names)
    return names[cell.defines]


@pytest.mark.long
@pytest.mark.parametrize("name", EXERCISES)
def test_no_slip_in_a_solution_keeps_all_points(name):
    exercise, cell = check.exercise(name), solutions()[name][0]
    tree = ast.parse(cell.source)
    assert exercise.score(solved(name, tree), POINTS) == POINTS
    lines = {at + 1 for at in cut(cell.source)[1]}
    survivors = {
        change
        for change, twin in mutants(tree, lines)
        if exercise.score(solved(name, twin), POINTS) == POINTS
    }
    assert survivors == set(SOLUTIONS.get(name, ()))


# the references, and what they call


def reached(exercise):
    """The functions of the course that run when the reference is called."""
    codes = set()

    def watch(frame, event, arg):
        path = Path(frame.f_code.co_filename)
        answers = {*HELPERS} & {*path.parents} and not {*path.parts} & {*NO_ANSWERS}
        if event == "call" and answers:
            codes.add(frame.f_code)

    for args in exercise.cases(np.random.default_rng(0)):
        forget()
        sys.setprofile(watch)
        try:
            exercise.run(exercise.reference, args)
        finally:
            sys.setprofile(None)
    found = {code: list(functions_of(code)) for code in codes}
    return {code: functions for code, functions in found.items() if functions}


def functions_of(code):
    for owner in gc.get_referrers(code):
        if isinstance(owner, types.FunctionType) and owner.__code__ is code:
            yield owner


def forget():
    """Empty the caches of the course, so that everything is computed again."""
    for module in [m for n, m in sys.modules.items() if n.startswith("bn_")]:
        for value in vars(module).values():
            if isinstance(value, functools._lru_cache_wrapper):
                if value.__module__ != "bn_checks":
                    value.cache_clear()


@functools.cache
def module_tree(path):
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def mutated_codes(code):
    """Yield (what has changed, code) for each mutant of a function, guards aside."""
    [(at, function)] = [
        (at, node)
        for at, node in enumerate(ast.walk(module_tree(code.co_filename)))
        if isinstance(node, ast.FunctionDef) and first_line(node) == code.co_firstlineno
    ]
    for change, twin in mutants(function, lines_without_guards(function), False):
        module = copy.deepcopy(module_tree(code.co_filename))
        place = next(n for i, n in enumerate(ast.walk(module)) if i == at)
        place.body = twin.body
        compiled = compile(ast.fix_missing_locations(module), code.co_filename, "exec")
        [wanted] = [c for c in every_code(compiled) if same_place(c, code)]
        yield change, wanted


def first_line(function):
    return min(node.lineno for node in (function, *function.decorator_list))


def lines_without_guards(function):
    """Lines of the body that do not only refuse bad input: tests/test_norms.py does."""
    lines = set(range(function.body[0].lineno, function.end_lineno + 1))
    for node in ast.walk(function):
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


def every_code(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from every_code(constant)


def same_place(one, other):
    return (one.co_name, one.co_firstlineno) == (other.co_name, other.co_firstlineno)


@contextlib.contextmanager
def swapped(functions, code):
    kept = [function.__code__ for function in functions]
    for function in functions:
        function.__code__ = code
    forget()
    try:
        yield
    finally:
        for function, own in zip(functions, kept, strict=True):
            function.__code__ = own
        forget()


def score_with(exercise, functions, code):
    """What the reference earns while its functions run a mutant's code."""

    def student(*args):
        with swapped(functions, code):
            return exercise.reference(*args)

    def mutating(tried):
        def run(function, args):
            mutated = swapped(functions, code) if function is student else none
            with mutated:
                return tried(function, args)

        return run

    none = contextlib.nullcontext()
    twin = copy.copy(exercise)
    # a class's methods run after it has been called
    twin.run, twin.outcome = mutating(exercise.run), mutating(exercise.outcome)
    return twin.score(student, POINTS)


@pytest.mark.long
@pytest.mark.parametrize("name", EXERCISES)
def test_no_slip_in_a_reference_keeps_all_points(name):
    exercise = check.exercise(name)
    survivors = {
        f"{code.co_name}: {change}"
        for code, functions in reached(exercise).items()
        for change, mutated in mutated_codes(code)
        if code.co_name not in PLANNING
        if score_with(exercise, functions, mutated) == POINTS
    }
    assert survivors <= set(REFERENCES), survivors - set(REFERENCES)
