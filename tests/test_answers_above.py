"""No cell above an exercise holds its answer: each one is tried as the answer.

A cell is wrapped as the exercise's function: its code runs with the arguments in place
of the lesson's variables of the same name, and for every output the best of all values
that it makes is taken. A function that a cell defines is tried as it is.
"""

import ast
import inspect

import matplotlib
import numpy as np
import pytest

import bn_checks as check
from bn_checks.engine import difference
from grading import master

SHARE = 0.5  # of an exercise's points; no cell above it may earn as much


def wrapped(source, arguments, variables):
    """The cell as a function: everything that it makes of the arguments, by name."""

    def answer(*values):
        space = variables | dict(zip(arguments, values, strict=False))
        before = dict(space)
        exec(compile(source, "cell", "exec"), space)  # our own lesson's code
        return {n: v for n, v in space.items() if v is not before.get(n)}

    return answer


def makes_arrays(source):
    """Whether a cell assigns anything at top level."""
    body = ast.parse(source).body
    return any(isinstance(node, (ast.Assign, ast.AugAssign)) for node in body)


def share_of_values(exercise, answer):
    """The share of the outputs that some value of the cell gets right in each case."""
    rng = np.random.default_rng(0)
    weights = [p.weight for p in exercise.properties if p.output is not None]
    found = [None] * len(weights)
    for args in exercise.cases(rng):
        wanted, _ = exercise.run(exercise.reference, args)
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        made = answer(*copies)
        for k, want in enumerate(wanted):
            right = {n for n, v in made.items() if _is(v, want)}
            found[k] = right if found[k] is None else found[k] & right
    earned = sum(w for w, names in zip(weights, found, strict=True) if names)
    return earned / sum(weights)


def _is(value, want):
    try:
        array = np.asarray(value)
    except Exception:
        return False
    if array.dtype.kind not in "fiu" or array.shape != want.shape:
        return False
    return not difference("", array, want)


def best_of(cell, task, exercise, arguments, variables):
    """The largest share of the exercise's points that this cell earns."""
    shares = [0.0]
    if makes_arrays(cell.source):
        try:
            answer = wrapped(cell.source, arguments, variables)
            shares.append(share_of_values(exercise, answer))
        except Exception:  # arguments that the cell cannot take: no answer
            pass
    for node in ast.parse(cell.source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            score = exercise.score(variables[node.name], task.points)
            shares.append(float(score) / task.points)
    return max(shares)


def run_lesson(lesson):
    """Run a lesson cell by cell; yield each with the variables as they are after it."""
    matplotlib.use("Agg")
    variables = {"__name__": "lesson"}
    student = {c.id: c.source for c in master.lesson(lesson).student.cells}
    for cell in master.lesson(lesson).lesson.cells:
        if cell.type == "code":
            exec(compile(student[cell.id], cell.id, "exec"), variables)
            matplotlib.pyplot.close("all")
        yield cell, dict(variables)


def long(lesson):
    return pytest.param(lesson, marks=pytest.mark.long)


@pytest.mark.parametrize(
    "lesson",
    [
        "01_forward_pass",
        "02_backward_derivation",
        long("03_activation_distributions"),
        long("07_debugging_clinic"),
    ],
)
def test_no_cell_above_an_exercise_is_worth_half_of_it(lesson):
    above, earned = [], {}
    for cell, variables in run_lesson(lesson):
        if cell.kind == "code":
            above.append((cell, variables))
        if cell.kind == "exercise":
            task = master.lesson(lesson).exercises[cell.function]
            exercise = check.exercise(cell.function)
            given = variables[cell.defines]
            arguments = list(inspect.signature(given).parameters)
            for shown, then in above:
                share = best_of(shown, task, exercise, arguments, then)
                earned[shown.id, cell.name] = share
    assert len(earned) > 20
    assert {pair: s for pair, s in earned.items() if s >= SHARE} == {}


def test_an_answer_is_found_in_a_cell():
    """The test can fail: the answer's own lines, under other names, earn all."""
    exercise = check.exercise("param_gradients")
    source = "first = (dy * x_hat).sum(0)\nsecond = dy.sum(0)\nunused = 3"
    answer = wrapped(source, ["dy", "x_hat"], {})
    assert share_of_values(exercise, answer) == 1
    half = wrapped("first = dy.sum(0)", ["dy", "x_hat"], {})
    assert share_of_values(exercise, half) == 0.5
