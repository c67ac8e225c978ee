"""Kinds of fault that checks had: what a wrong answer is told has to be true of it."""

import ast
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

import bn_checks as check
from bn_checks import index
from bn_checks.score import FAILS, HOLDS, NOT_JUDGED
from tools import build as builder
from tools.lesson import cut


def rows(score):
    return {row.title: row.state for row in score.rows}


def judged(name, answer, points=3, seed=0):
    return check.exercise(name).score(answer, points, seed)


# --- 1: a row fails for its own reason -----------------------------------------------


def biased(running_mean, running_var, mu, var, N, momentum=0.1):
    if N < 2:
        raise ValueError(N)
    keep = 1 - momentum
    return keep * running_mean + momentum * mu, keep * running_var + momentum * var


def test_the_default_momentum_is_that_of_the_answer_itself():
    score = judged("update_running_stats", biased)
    assert rows(score)["momentum is 0.1 when left out"] == HOLDS
    assert score.explained and "divides by N" in score.diagnosis


def test_rows_that_an_earlier_failure_makes_impossible_are_not_judged():
    def two_axes(x, gamma, beta, eps=1e-5):
        if len(x) < 2:
            raise ValueError
        mu, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
        return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var

    score = judged("batchnorm_forward", two_axes)
    states = rows(score)
    assert states["float32 in, float32 out"] == NOT_JUDGED
    assert states["refuses a batch of one"] == NOT_JUDGED
    assert score == 3 * 2 / 4  # y is right, mu and var are not; nothing else costs
    assert "(1, 5), want (5,)" in score.diagnosis


def test_evaluation_is_compared_with_itself_across_batch_sizes():
    def summed(model, x, y, batch_size=1000):
        loss, accuracy = check.exercise("evaluate").reference(model, x, y, batch_size)
        return 2 * loss, accuracy

    score = judged("evaluate", summed)
    assert rows(score)["the same whatever the batch size"] == HOLDS
    assert score.diagnosis == "Your loss is twice what it ought to be."


# --- 2: one sentence, true of the whole ----------------------------------------------


def test_a_sentence_about_one_output_is_not_shown_against_the_others():
    def right_dx_only(dy, x, gamma, running_mean, running_var, eps=1e-5):
        reference = check.exercise("batchnorm_inference_backward").reference
        dx, dgamma, dbeta = reference(dy, x, gamma, running_mean, running_var, eps)
        return dx, dgamma + 1, dbeta

    score = judged("batchnorm_inference_backward", right_dx_only)
    assert score.diagnosis.startswith("Your dgamma is") and "dx" not in score.diagnosis


def test_an_update_that_never_happens_is_told_as_that():
    def rebinds(model, x, y, lr):
        model.train()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p = p - lr * p.grad
        return loss.item()

    score = judged("train_step", rebinds)
    assert "no parameter moves" in score.diagnosis and score.explained


def test_a_row_names_a_mistake_only_where_the_row_fails_as_that_mistake_does():
    def refuses_with_a_typo(running_mean, running_var, mu, var, N, momentum=0.1):
        if N < 2:
            return undefined  # noqa: F821
        reference = check.exercise("update_running_stats").reference
        return reference(running_mean, running_var, mu, var, N, momentum)

    score = judged("update_running_stats", refuses_with_a_typo)
    assert score.mistakes == () and "NameError" in score.text


# --- 3 and 4: methods and outputs are judged each, in the student's words ------------


class Layer(check.exercise("batchnorm1d").forms[0]):
    pass


def test_a_line_that_raises_costs_what_a_wrong_formula_costs():
    class Typo(Layer):
        def step(self, lr):
            raise NameError("name 'dgama' is not defined")

    score = judged("batchnorm1d", Typo)
    assert 0.6 * 3 < score < 3
    assert "dgama" in score.text and "stack" not in score.text


def test_one_output_that_is_none_costs_that_output():
    def no_dmu(*args):
        dx_hat, dvar, _, dx = check.exercise("batchnorm_backward_staged").reference(
            *args
        )
        return dx_hat, dvar, None, dx

    score = judged("batchnorm_backward_staged", no_dmu, points=4)
    assert 2.5 < score < 4
    assert score.diagnosis == "Your dmu is None, want an array of numbers."


def test_three_values_for_one_are_told_in_the_words_of_the_exercise():
    class Three(Layer):
        def backward(self, dy):
            return super().backward(dy), self.dgamma, self.dbeta

    score = judged("batchnorm1d", Three)
    assert score > 1.5
    assert "a tuple of 3 values" in score.diagnosis
    assert "inhomogeneous" not in score.text


def test_statistics_that_start_as_numbers_are_told():
    class Numbers(Layer):
        def __init__(self, *args):
            super().__init__(*args)
            self.running_mean = 0

    score = judged("batchnorm1d", Numbers)
    assert "running_mean starts as one number" in score.text.replace(
        "Running", "running"
    )


# --- 5: cases that separate ----------------------------------------------------------


def fails(name, answer):
    return all(judged(name, answer, seed=seed) < 3 for seed in range(10))


def test_gamma_has_both_signs():
    at_the_root = (
        "relu_backward",
        lambda da, z, h, gamma, beta: da * (h > -beta / gamma),
    )
    assert fails(*at_the_root)


def test_gradients_of_evaluation_are_read():
    class Stale(Layer):
        def backward(self, dy):
            if self.training:
                return super().backward(dy)
            return self.gamma * dy / self.std

    assert fails("batchnorm1d", Stale)


def test_modes_are_left_as_they_were_also_where_they_differ():
    def one_mode(model, batches):
        was = model.training
        check.exercise("recalibrate_statistics").reference(model, batches)
        model.train(was)

    assert fails("recalibrate_statistics", one_mode)


def test_a_dead_mode_switch_fails():
    def dead(model):
        check.exercise("freeze_batchnorm").reference(model)
        model.train = lambda mode=True: model
        model.eval = lambda: model
        return model

    assert fails("freeze_batchnorm", dead)


def test_statistics_have_to_be_buffers():
    class Parameters(torch.nn.Module):
        def __init__(self, D):
            super().__init__()
            inner = check.exercise("torch_batchnorm").reference(D)
            self.gamma, self.beta = inner.gamma, inner.beta
            self.running_mean = torch.nn.Parameter(torch.zeros(D), requires_grad=False)
            self.running_var = torch.nn.Parameter(torch.ones(D), requires_grad=False)

        def forward(self, x):
            module = torch.nn.functional.batch_norm
            state = self.running_mean, self.running_var, self.gamma, self.beta
            return module(x, *state, self.training, 0.1, 1e-5)

    assert fails("torch_batchnorm", Parameters)


def test_state_of_the_class_is_not_state_of_the_object():
    class Shared(Layer):
        mean = {}

        @property
        def running_mean(self):
            return self.mean.setdefault("all", 0)

        @running_mean.setter
        def running_mean(self, value):
            self.mean["all"] = value if "all" in self.mean else 1 * value

    start = Shared.__init__

    def once(self, *args):
        kept = dict(Shared.mean)
        start(self, *args)
        Shared.mean.update(kept)

    Shared.__init__ = once
    assert fails("batchnorm1d", Shared)


def test_both_empty_groups_are_refused():
    def first_only(n_a, mu_a, var_a, n_b, mu_b, var_b):
        if n_a < 1:
            raise ValueError(n_a)
        n = n_a + n_b
        mu = (n_a * mu_a + n_b * mu_b) / n
        return (
            n,
            mu,
            (n_a * var_a + n_b * var_b + n_a * n_b / n * (mu_b - mu_a) ** 2) / n,
        )

    assert fails("merge_statistics", first_only)


def test_other_norms_than_batch_norm_are_tried():
    def batch_norm_always(dims, activation, norm=None):
        norm = norm and torch.nn.BatchNorm1d
        return check.exercise("make_mlp").reference(dims, activation, norm)

    assert fails("make_mlp", batch_norm_always)


def test_parameters_with_more_than_two_axes_count():
    mistakes = {m.name: m for m in check.exercise("update_to_data_ratio").mistakes}
    assert fails("update_to_data_ratio", mistakes["matrices only"].code)


def one_pass(x, axes):
    mu = x.mean(axes, keepdims=True)
    return mu, (x * x).mean(axes, keepdims=True) - mu**2


def test_the_difference_of_squares_fails_wherever_something_is_normalized():
    def layer(x, gamma, beta, eps=1e-5):
        mu, var = one_pass(x, tuple(range(-gamma.ndim, 0)))
        return gamma * (x - mu) / np.sqrt(var + eps) + beta

    def instance(x, gamma, beta, eps=1e-5):
        if x[0, 0].size < 2:
            raise ValueError
        mu, var = one_pass(x, tuple(range(2, x.ndim)))
        gamma, beta = (p.reshape(-1, *[1] * (x.ndim - 2)) for p in (gamma, beta))
        return gamma * (x - mu) / np.sqrt(var + eps) + beta

    def affine(x, W, b, gamma, beta, axis, eps=1e-5):
        z = x @ W + b
        mu, var = one_pass(z, axis)
        inv_std = 1 / np.sqrt(var + eps)
        x_hat = (z - mu) * inv_std
        return np.maximum(gamma * x_hat + beta, 0), x_hat, inv_std

    def in_float64(z):
        mu, var = one_pass(z.astype(np.float64), 1)
        return ((z - mu) / np.sqrt(var + 1e-5)).astype(z.dtype)

    assert fails("layernorm_forward", layer)
    assert fails("instancenorm_forward", instance)
    assert fails("affine_norm_relu_forward", affine)
    assert fails("normalize", in_float64)
    states = rows(judged("layernorm_forward", layer))
    assert states["values of y"] == HOLDS
    assert states["keeps its digits far from 0"] == FAILS


def test_a_message_holds_statistics_not_samples():
    def padded(x, gamma, beta, all_gather, eps=1e-5):
        n = max(size[0] for size in all_gather(np.array([len(x)])))
        sent = np.full((int(n), x.shape[1]), np.nan)
        sent[: len(x)] = x
        whole = np.concatenate(all_gather(sent))
        whole = whole[~np.isnan(whole[:, 0])]
        mu, var = whole.mean(0), whole.var(0)
        return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var

    score = judged("sync_batchnorm_forward", padded)
    assert rows(score)["sends statistics, not samples"] == FAILS


def test_a_worker_that_changes_its_samples_is_seen():
    def in_place(x, gamma, beta, all_gather, eps=1e-5):
        exercise = check.exercise("sync_batchnorm_forward")
        result = exercise.reference(x, gamma, beta, all_gather, eps)
        x -= x.mean(0)
        return result

    score = judged("sync_batchnorm_forward", in_place)
    assert rows(score)["leaves its inputs as they were"] == FAILS


def test_not_more_than_batch_size_samples_go_through_at_once():
    def at_once(model, x, y, batch_size=1000):
        return check.exercise("evaluate").reference(model, x, y, len(x))

    assert "samples_at_once" in judged("evaluate", at_once).diagnosis


def test_a_frozen_layer_returns_itself_and_sleepers_are_frozen_too():
    kinds = torch.nn.BatchNorm1d, torch.nn.BatchNorm2d

    def frozen(model, stay, only_awake=False):
        for m in model.modules():
            if isinstance(m, kinds) and (m.training or not only_awake):
                m.eval()
                m.requires_grad_(False)
                m.train = stay(m)
        return model

    def itself(layer):
        return lambda mode=True: layer

    def nothing(layer):
        return lambda mode=True: None

    assert judged("freeze_batchnorm", lambda model: frozen(model, itself)) == 3
    assert fails("freeze_batchnorm", lambda model: frozen(model, nothing))
    assert fails("freeze_batchnorm", lambda model: frozen(model, itself, True))


def test_two_layers_do_not_share_what_they_keep():
    class Kept(Layer):
        last = {}

        def forward(self, x):
            y = super().forward(x)
            Kept.last["x_hat"] = self.x_hat
            return y

        def backward(self, dy):
            self.x_hat = Kept.last["x_hat"]
            return super().backward(dy)

    assert fails("batchnorm1d", Kept)


def test_arrows_point_in_all_directions_and_have_all_lengths():
    def arrows(limit, sign):
        def answer(gradient, truth):
            a, b = np.linalg.norm(gradient), np.linalg.norm(truth)
            if min(a, b) < limit:
                both = float(max(a, b) < limit)
                return both, both if a < limit else np.inf
            return sign((gradient * truth).sum() / (a * b)), a / b

        return answer

    assert judged("direction_and_size", arrows(1e-8, float)) == 3
    assert fails("direction_and_size", arrows(1e-8, abs))
    assert fails("direction_and_size", arrows(1e-12, float))


# --- 6: right answers in other forms -------------------------------------------------


def full(name, answer):
    return all(judged(name, answer, seed=seed) == 3 for seed in range(10))


def test_a_list_is_an_array_of_numbers():
    def as_list(a, low, high, margin=0.05):
        reference = check.exercise("saturation_fraction").reference
        return list(reference(a, low, high, margin))

    assert full("saturation_fraction", as_list)


def test_statistics_may_be_float64_where_the_text_is_silent():
    def wide(x, gamma, beta, eps=1e-5):
        y, mu, var = check.exercise("batchnorm_forward").reference(x, gamma, beta, eps)
        return y, mu.astype(float), var.astype(float)

    assert full("batchnorm_forward", wide)


def test_a_kind_of_value_error_is_a_value_error():
    class TooFew(ValueError):
        pass

    def picky(running_mean, running_var, mu, var, N, momentum=0.1):
        if N < 2:
            raise TooFew(N)
        reference = check.exercise("update_running_stats").reference
        return reference(running_mean, running_var, mu, var, N, momentum)

    assert full("update_running_stats", picky)


def test_any_symmetric_difference_is_right():
    def five_points(f, x, h=1e-5):
        gradient = np.zeros(x.shape)
        for i in np.ndindex(x.shape):
            moved = []
            for k in (-2, -1, 1, 2):
                y = x.copy()
                y[i] += k * h
                moved.append(f(y))
            a, b, c, d = moved
            gradient[i] = (a - 8 * b + 8 * c - d) / (12 * h)
        return gradient

    assert full("numerical_gradient", five_points)


# --- 7: points are earned by what a row proves ---------------------------------------


def test_code_handed_back_as_it_came_earns_nothing():
    names = [n for n in check._exercises() if check.exercise(n).broken is not None]
    assert len(names) == 10
    assert all(
        judged(n, check.exercise(n).broken, seed=s) == 0 for n in names for s in (0, 5)
    )


def test_batch_statistics_in_evaluation_cost_more_than_a_quarter():
    module = check.exercise("torch_batchnorm").reference

    class Always(module):
        def forward(self, x):
            training, self.training = self.training, True
            before = self.running_mean, self.running_var
            y = super().forward(x)
            self.training = training
            if not training:
                self.running_mean, self.running_var = before
            return y

    score = judged("torch_batchnorm", Always, points=4)
    assert score < 3 and "evaluation is treated like training" in score.diagnosis


# --- 8: the same verdict on every seed -----------------------------------------------


def test_a_maximum_in_the_wrong_place_fails_on_every_seed():
    def max_first(gradient, w, steps):
        reference = check.exercise("gradient_predictiveness").reference
        distance, _ = reference(gradient, w, steps)
        g = np.linalg.norm(gradient(w))
        return distance, distance.max() / (np.max(steps) * g)

    assert fails("gradient_predictiveness", max_first)


# --- 9: a check takes no seconds now and then ----------------------------------------


@pytest.mark.parametrize("name", ["freeze_batchnorm", "train_step"])
def test_a_check_loads_nothing_that_takes_seconds(name):
    """The first use of torch.optim loads a compiler, which the checks do without."""
    code = f"""
import sys, bn_checks as check
exercise = check.exercise({name!r})
assert exercise.score(exercise.reference, 3) == 3
print(*(m for m in ("torch._dynamo", "sympy") if m in sys.modules))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=builder.ROOT,
        env=os.environ | {"PYTHONPATH": str(builder.ROOT)},
        capture_output=True,
        text=True,
    )
    assert (run.stdout, run.stderr) == ("\n", "")


# --- and where everything is wrong ------------------------------------------------


def test_every_row_that_fails_says_something():
    for name in check._exercises():
        exercise = check.exercise(name)
        for mistake in exercise.mistakes[:3]:
            for row in judged(name, mistake.code).rows:
                assert row.state != FAILS or row.detail


# --- the zip for classes holds no solution -------------------------------------------


def statements(tree):
    """Simple statements of a tree, as text that does not depend on the layout."""
    simple = ast.Assign | ast.AugAssign | ast.Return | ast.Expr
    return [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, simple)]


def test_nothing_in_the_package_restores_the_text_of_a_solution():
    """No form is a solution: each differs in most of its statements."""
    lessons, _ = builder.load(builder.ROOT)
    for cell in (c for lesson in lessons for c in lesson.of("exercise")):
        _, solution, _ = cut(cell.source)
        text = "\n".join(solution.values())
        own = set(statements(ast.parse(textwrap.dedent(cell.source))))
        written = {s for s in own if s in text and len(s) > 25}
        for form in index.forms(check.exercise(cell.function)):
            same = written & set(statements(form.tree))
            assert len(same) <= len(written) / 2, (cell.function, same)


def test_diagnoses_work_where_lessons_and_tools_are_absent(tmp_path):
    for package in ("bn_checks", "bn_helpers"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(builder.ROOT / package, tmp_path / package, ignore=ignored)
    code = """
import numpy as np, bn_checks as check
def f(x, gamma, beta, eps=1e-5):
    if len(x) < 2: raise ValueError
    mu, var = x.mean(0), x.var(0)
    return gamma * (x - mu) / np.sqrt(var + eps**2) + beta, mu, var
print(check.batchnorm_forward(f).diagnosis)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    want = "Your y is what comes out when eps is squared inside the root.\n"
    assert run.stdout == want, run.stderr
