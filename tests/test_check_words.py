"""Sentences about wrong answers: each is true of the answer, and says something.

One wrong answer or more for each kind of sentence that was false, empty or vague.
"""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import bn_checks as check
from bn_checks import index, relations
from bn_checks.words import TERMS, agreed, be, stands, your

SEEDS = (1, 4)


def said(name, answer):
    """What is said on two seeds, which has to be the same."""
    scores = [check.exercise(name).score(answer, 3, seed) for seed in SEEDS]
    assert len({score.diagnosis for score in scores}) == 1
    assert all(score < 3 for score in scores)
    return scores[0]


def norm_forward(running_mean=None, running_var=None):
    """An answer to 7.7 with other blends."""
    mean = running_mean or (lambda old, new: old + 0.1 * (new - old))
    var = running_var or (lambda old, new: old + 0.1 * (new - old))

    def answer(z, gamma, beta, old_mean, old_var, training):
        mu, spread = old_mean, old_var
        if training:
            mu, spread = z.mean(1, keepdims=True), z.var(1, keepdims=True)
            old_mean = mean(old_mean, mu)
            old_var = var(old_var, z.var(1, ddof=1, keepdims=True))
        x_hat = (z - mu) / np.sqrt(spread + 1e-5)
        return gamma * x_hat + beta, old_mean, old_var

    return answer


# --- where something is wrong --------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (5,), (1, 1), ()])
def test_a_single_row_or_column_is_never_right_but_for_one_shift_each(shape):
    rng = np.random.default_rng(0)
    wrong, right = rng.normal(size=(2, 3, *shape))
    assert "per" not in relations.localized(list(wrong), list(right))


def test_rows_that_are_all_alike_have_no_shift_each():
    right = [np.ones((4, 1)) * np.arange(n) for n in (3, 5)]
    wrong = [w**2 + 1 for w in right]
    assert "per" not in relations.localized(wrong, right)


def test_one_shift_or_factor_is_told_where_there_is_one():
    rng = np.random.default_rng(0)
    right = [rng.normal(size=shape) for shape in ((4, 3), (6, 3))]
    columns = [w + rng.normal(size=3) for w in right]
    assert (
        relations.localized(columns, right) == "is right but for one shift per column"
    )
    rows = [w * rng.normal(size=(len(w), 1)) for w in right]
    assert relations.localized(rows, right) == "is right but for one factor per row"
    whole = [w + rng.normal() for w in right]
    assert relations.localized(whole, right) == "is right but for one shift"


def test_a_column_of_statistics_is_not_said_to_be_shifted_row_by_row():
    score = said("norm_forward", norm_forward(None, lambda old, new: 0.9 * old + new))
    assert "per row" not in score.diagnosis


def test_all_outputs_that_are_wrong_are_told():
    def answer(dy, x, gamma, running_mean, running_var, eps=1.0):
        std = np.sqrt(running_var + eps)
        x_hat = (x - running_mean) / std
        return dy * gamma / std, (dy * x_hat).sum(0), dy.sum(0)

    score = said("batchnorm_inference_backward", answer)
    assert "dx" in score.diagnosis and "dgamma" in score.diagnosis


# --- a sign or a term that the answer's own lines do not have ------------------------


def steps_up(old, new):
    return old + 0.1 * (new + old)


@pytest.mark.parametrize(
    "answer",
    [norm_forward(steps_up), norm_forward(None, steps_up)],
    ids=["mean", "variance"],
)
def test_a_blend_is_told_by_its_weights(answer):
    score = said("norm_forward", answer)
    weights = "the old value gets the weight 1 + momentum, not 1 − momentum"
    assert weights in score.diagnosis and score.explained


def test_weights_that_change_places_are_told_for_one_of_two():
    def answer(running_mean, running_var, mu, var, N, momentum=0.1):
        if N < 2:
            raise ValueError(N)
        var = var * N / (N - 1)
        return (
            momentum * running_mean + (1 - momentum) * mu,
            (1 - momentum) * running_var + momentum * var,
        )

    score = said("update_running_stats", answer)
    assert score.diagnosis == (
        "Your running_mean is what comes out when momentum and 1 − momentum change "
        "places."
    )


def test_a_mean_is_called_a_mean_also_where_a_form_divides_a_sum():
    def answer(dy, x_hat, var, gamma):
        g = gamma * dy
        dz = g + g.mean(1, keepdims=True) - x_hat * (g * x_hat).mean(1, keepdims=True)
        dz = dz / np.sqrt(var + 1e-5)
        sums = [(dy * x_hat).sum(1, keepdims=True), dy.sum(1, keepdims=True)]
        return dz, *sums

    score = said("norm_backward", answer)
    assert "the mean of dy has the other sign" in score.diagnosis
    assert "dbeta" not in score.diagnosis


def test_a_gradient_that_is_added_is_not_called_a_difference_turned_round():
    def answer(gradient, w, steps):
        g = gradient(w)
        moved = [np.linalg.norm(gradient(w - step * g) + g) for step in steps]
        distance = np.array(moved)
        return distance, (distance / (steps * np.linalg.norm(g))).max()

    score = said("gradient_predictiveness", answer)
    assert "the gradient at w has the other sign" in score.diagnosis


def test_a_term_that_others_subtract_is_told_by_its_sign():
    def answer(W, dW, lr, decay=0.0):
        new = W - lr * dW + lr * decay * W
        lengths = np.linalg.norm(W, axis=0) * np.linalg.norm(new, axis=0)
        turn = np.arccos(np.clip((W * new).sum(0) / lengths, -1, 1))
        return lr / np.linalg.norm(W, axis=0) ** 2, turn

    score = said("effective_learning_rate", answer)
    assert "decay · W has the other sign" in score.diagnosis


def test_what_a_form_computes_in_steps_is_not_called_the_output():
    def answer(dy, x_hat, var, gamma, eps=1e-5):
        inner = dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0)
        return gamma / np.sqrt(var + eps) / inner, (dy * x_hat).sum(0), dy.sum(0)

    score = said("batchnorm_backward", answer)
    assert "by dx" not in score.diagnosis


def test_a_factor_below_the_line_is_told_rather_than_the_quotient_above():
    def answer(x, gamma, beta, eps=1e-5):
        axes = tuple(range(-gamma.ndim, 0))
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return gamma / ((x - mean) / np.sqrt(var + eps)) + beta

    score = said("layernorm_forward", answer)
    assert "a term is divided by x_hat, not multiplied" in score.diagnosis


def test_a_slope_that_is_left_out_is_not_called_a_comparison():
    reference = check.exercise("affine_norm_relu_backward").reference

    def answer(dy, x, W, gamma, x_hat, inv_std, y, axis):
        return reference(dy, x, W, gamma, x_hat, inv_std, np.abs(y) + 1, axis)

    score = said("affine_norm_relu_backward", answer)
    assert "ReLU's slope is left out" in score.diagnosis


def test_a_method_that_raises_is_told_before_what_follows_from_it():
    class Answer(check.exercise("batchnorm1d").reference):
        def forward(self, x):
            if self.training:
                raise ValueError("no such axis")
            return super().forward(x)

    score = check.exercise("batchnorm1d").score(Answer, 3, 1)
    assert "raised ValueError" in score.diagnosis.split(".")[0]
    assert not score.explained


def test_a_power_that_is_a_factor_is_not_said_to_divide():
    def answer(W, dW, lr, decay=0.0):
        rate, turn = check.exercise("effective_learning_rate").reference(
            W, dW, lr, decay
        )
        return lr / (2 * np.linalg.norm(W, axis=0)), turn

    score = said("effective_learning_rate", answer)
    assert "divided by 2" not in score.diagnosis


def test_what_follows_from_an_output_of_the_other_sign_is_told_as_that():
    reference = check.exercise("batchnorm_backward_staged").reference

    def answer(dy, x, mu, var, gamma, eps=1e-5):
        dx_hat, dvar, dmu, dx = reference(dy, x, mu, var, gamma, eps)
        return dx_hat, -dvar, dmu, dx - 4 * dvar * (x - mu) / len(x)

    score = said("batchnorm_backward_staged", answer)
    assert score.diagnosis == (
        "Your dvar has the other sign. The rest that is wrong follows from your dvar."
    )


def test_one_term_that_is_not_divided_is_not_called_all_of_them():
    reference = check.exercise("batchnorm_backward_staged").reference

    def answer(dy, x, mu, var, gamma, eps=1e-5):
        dx_hat, dvar, dmu, _ = reference(dy, x, mu, var, gamma, eps)
        std = np.sqrt(var + eps)
        return dx_hat, dvar, dmu, dx_hat / std + dvar * 2 * (x - mu) / len(x) + dmu

    score = said("batchnorm_backward_staged", answer)
    assert score.diagnosis == (
        "Your dx is what comes out when a term is not divided by the number of samples."
    )


def test_sums_are_not_called_averages():
    def answer(dy, x_hat):
        return (dy * x_hat).sum(), dy.sum()

    score = said("param_gradients", answer)
    assert "the sums run over the whole array" in score.diagnosis


def test_an_exponent_is_called_an_exponent():
    def answer(dx_hat, x, mu, var, eps=1e-5):
        return -0.5 * (dx_hat * (x - mu)).sum(0) * (var + eps) ** -0.5

    score = said("variance_path", answer)
    assert "an exponent is −0.5, not −1.5" in score.diagnosis


def test_a_factor_that_is_an_argument_is_told_by_its_name():
    reference = check.exercise("norm_backward").reference

    def answer(dy, x_hat, var, gamma):
        dz, dgamma, dbeta = reference(dy, x_hat, var, gamma)
        return dz, gamma * dgamma, gamma * dbeta

    score = said("norm_backward", answer)
    assert score.diagnosis == "Your dgamma and dbeta are multiplied by gamma."


def test_one_variance_for_both_uses_is_told_as_that():
    class Answer(Norm):
        def forward(self, x):
            mean, var = self.running_mean, self.running_var
            if self.training:
                mean, var = x.mean(0), x.var(0, correction=0)
                self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
                self.running_var = 0.9 * self.running_var + 0.1 * var
            return self.gamma * (x - mean) / torch.sqrt(var + 1e-5) + self.beta

    score = said("torch_batchnorm", Answer)
    words = "the variance that normalizes is also the one that is stored"
    assert words in score.diagnosis


# --- one cause, one sentence ---------------------------------------------------------


def test_a_count_that_divides_twice_is_told_once():
    def answer(dy, dz, x_hat, a):
        N = a.shape[1]
        dz, dy = dz / N, dy / N
        means = [v.mean(1, keepdims=True) for v in (dz, dy * x_hat, dy)]
        return dz @ a.T, *means

    score = said("parameter_gradients", answer)
    assert score.diagnosis == (
        "Your db, dgamma and dbeta are what comes out when the number of samples "
        "divides twice."
    )


def test_two_outputs_with_the_same_relation_share_a_sentence():
    def answer(dz, W, a):
        N = a.shape[1]
        return W.T @ dz, dz @ a.T / N, dz.mean(1, keepdims=True)

    score = said("affine_backward", answer)
    assert score.diagnosis.startswith(
        "Your dW and db are what they ought to be divided"
    )
    assert score.diagnosis.count("Your") == 1


def test_two_causes_with_the_same_result_are_told_as_an_example():
    def answer(q, k, v, gain):
        lengths = np.sqrt((q**2).sum(1)[:, None] * (k**2).mean(1))
        e = np.exp(gain * (q @ k.T) / lengths)
        weights = e / e.sum(1, keepdims=True)
        return weights @ v, weights

    score = said("qk_norm_attention", answer)
    assert "when, for example, q squared is averaged" in score.diagnosis


def test_no_cause_is_told_of_one_output_where_another_holds_nothing():
    def only_biases(model, weight_decay):
        return [
            {"params": [p], "weight_decay": weight_decay * (p.ndim <= 1)}
            for p in model.parameters()
            if p.ndim <= 1
        ]

    score = said("decay_groups", only_biases)
    assert "all parameters decay" not in score.diagnosis


def test_right_numbers_that_are_repeated_are_not_called_a_mean():
    def answer(dy, dz, x_hat, a):
        right = check.exercise("parameter_gradients").reference(dy, dz, x_hat, a)
        return right[0], *(np.repeat(d, 2, axis=1) for d in right[1:])

    score = said("parameter_gradients", answer)
    assert "right numbers, repeated to shape" in score.diagnosis
    assert "mean" not in score.diagnosis


def test_outputs_of_one_name_are_listed_once():
    names = ["index (mean path missing)", "index (divided by N − 1)", "y"]
    assert your(names) == "Your index (mean path missing and divided by N − 1) and y"


# --- words on which one can act ------------------------------------------------------


def batchnorm_inference(x, gamma, beta, running_mean, running_var, eps=1.00001):
    return gamma * (x - running_mean) / np.sqrt(running_var + eps) + beta


def relu_backward(da, z, x_hat, gamma, beta):
    return da * (gamma * x_hat + beta > 1)


def fold_layernorm(gamma, beta, W, b):
    return gamma[:, None] * W, beta @ W + (1 if b is None else b)


def normalize(z):
    centered = z - z.mean(1, keepdims=True)
    var = (centered * 2).mean(1, keepdims=True)
    return centered / np.sqrt(var + 1e-5)


def freeze_batchnorm(model):
    for m in model.modules():
        if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            m.eval()
            m.requires_grad_(True)
            m.train = lambda mode=True, m=m: m
    return model


def saturation_fraction(a, low, high, margin=0.05):
    if not low < high:
        raise ValueError(low)
    edge = margin * (high - low)
    return ((a >= low + edge) | (a > high - edge)).mean(0)


def update_to_data_ratio(model, step):
    weights = [p for p in model.parameters() if p.ndim >= 3]
    before = [p.detach().clone() for p in weights]
    step()
    pairs = zip(weights, before, strict=True)
    return [((p - b).norm() / b.norm()).item() for p, b in pairs]


SAYS = [
    (batchnorm_inference, "the default of eps is 1 too large"),
    (relu_backward, "is compared with 1, not with 0"),
    (fold_layernorm, "a missing b counts as 1, not as 0"),
    (normalize, "eps alone is left under the root"),
    (freeze_batchnorm, "gradients are not switched off"),
    (saturation_fraction, "a passes its test above"),
    (update_to_data_ratio, "the number of axes fails its test where it equals 2"),
]


@pytest.mark.parametrize(("answer", "words"), SAYS, ids=[a.__name__ for a, _ in SAYS])
def test_a_sentence_names_what_can_be_mended(answer, words):
    score = said(answer.__name__, answer)
    assert words in score.diagnosis and score.explained


VAGUE = re.compile(
    r"the number \d|a value|a loop|a difference|turned around|\bself\b|two ways"
    r"|in, or leaves|is taken from 1|requires_grad_\(\) is never|what should be"
    r"|the mean stands where the mean"
)
CLUMSY = re.compile(
    r"^(the )?(logits|steps|exponentials|counts|losses) (is|stands|enters)\b"
    r"|where (the )?(logits|steps|exponentials|counts|losses) belongs"
    r"|^(eps|ms|loss|bias) (are|stand|enter)\b| {2}|\{|not as 0 is"
)


def clauses():
    for name in sorted(check._exercises()):
        for form in index.forms(check.exercise(name)):
            for edit in form.edits:
                if len(edit.places) < 2 or ", and " not in edit.clause:
                    yield name, edit.clause


def test_no_edit_of_any_form_has_vague_or_clumsy_words():
    wrong = {pair for pair in clauses() if VAGUE.search(pair[1])}
    assert not wrong, sorted(wrong)[:9]
    wrong = {pair for pair in clauses() if CLUMSY.search(pair[1])}
    assert not wrong, sorted(wrong)[:9]


def test_a_place_is_named_by_letters_or_terms_never_by_a_forms_own_name():
    wrong = {
        (name, edit.where)
        for name in check._exercises()
        for form in index.forms(check.exercise(name))
        for edit in form.edits
        if edit.where and edit.where not in {*form.letters, *TERMS.values()}
    }
    assert not wrong, sorted(wrong)[:9]


def test_verbs_agree_with_what_they_are_said_of():
    assert be(["eps"]) == be(["loss"]) == be(["y"]) == "is"
    assert be(["steps"]) == be(["the logits"]) == be(["mu", "var"]) == "are"
    assert agreed("steps enters without its sign") == "steps enter without its sign"
    assert agreed("the logits is left out") == "the logits are left out"
    assert agreed("the sum of the logits is left") == "the sum of the logits is left"
    assert stands("x", "the logits") == "x stands where the logits belong"


# --- what counts as explained --------------------------------------------------------


def test_a_symptom_alone_explains_nothing():
    def nan_here_and_there(x, gamma, beta, eps=1e-5):
        y, mu, var = check.exercise("batchnorm_forward").reference(x, gamma, beta, eps)
        return np.where(y > 0, y, np.nan), mu, var

    def other_shape(dx_hat, x, center, var, dvar, eps=1e-5):
        direct = -(dx_hat / np.sqrt(var + eps)).sum(1) - 1
        return direct, dvar * (2 * (center - x)).mean(0)

    score = said("batchnorm_forward", nan_here_and_there)
    assert score.diagnosis == "Your y is nan in places." and not score.explained
    score = said("mean_paths", other_shape)
    assert "in shape" in score.diagnosis and not score.explained
    assert score.mistakes == ()


def test_nan_in_places_is_explained_by_the_edit_that_gives_it():
    def cubed(x, gamma, eps=1e-5):
        axes = tuple(range(-gamma.ndim, 0))
        return gamma * x / np.sqrt((x**3).mean(axes, keepdims=True) + eps)

    for seed in range(4):
        score = check.exercise("rmsnorm_forward").score(cubed, 3, seed)
        assert "when an exponent is 3, not 2." in score.diagnosis and score.explained
        assert ("nan in places" in score.diagnosis) == ("for example" in score.text)


def test_one_number_is_explained_where_it_is_the_sum_of_the_right_ones():
    def answer(dz, W, a):
        return W.T @ dz, dz @ a.T, np.full((len(dz), 1), dz.sum())

    score = said("affine_backward", answer)
    assert score.diagnosis == "Your db is the sum of the right numbers, everywhere."
    assert score.explained


def test_nothing_at_all_is_not_called_nan_and_not_given_a_cause():
    score = said("record_activations", lambda model, x, kind: [])
    assert score.diagnosis == "Your activations are empty."


def test_verdicts_that_other_causes_give_too_are_told_with_an_example():
    def last_axis(x_hat, dx):
        columns = np.abs(dx.sum(2)).max(1)
        lined_up = np.abs((dx * x_hat).sum(2)).max(1)
        return int(np.argmax(np.maximum(columns, lined_up) / np.abs(dx).max((1, 2))))

    score = said("find_wrong_backward", last_axis)
    assert "when, for example," in score.diagnosis or not score.explained


# --- what is pickled or copied -------------------------------------------------------


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("carry", [pickled, copy.copy, copy.deepcopy])
def test_a_score_and_its_diagnosis_survive_a_copy(carry):
    score = said("batchnorm_inference", batchnorm_inference)
    score.note = "a note"
    twin = carry(score)
    assert (type(twin), twin, twin.points) == (type(score), score, 3)
    assert (twin.rows, twin.found, twin.note) == (score.rows, score.found, "a note")
    assert (twin.text, twin.diagnosis) == (score.text, score.diagnosis)
    assert twin._repr_html_() == score._repr_html_()


class Norm(torch.nn.Module):
    """A right answer to 7.10; of the module, so that pickle finds it."""

    def __init__(self, D, momentum=0.1):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(D))
        self.beta = torch.nn.Parameter(torch.zeros(D))
        self.register_buffer("running_mean", torch.zeros(D))
        self.register_buffer("running_var", torch.ones(D))
        self.momentum = momentum

    def forward(self, x):
        state = self.running_mean, self.running_var, self.gamma, self.beta
        batch_norm = torch.nn.functional.batch_norm
        return batch_norm(x, *state, self.training, self.momentum, 1e-5)


@pytest.mark.parametrize("carry", [pickled, copy.deepcopy])
def test_a_layer_with_buffers_survives_a_copy_and_is_judged_alike(carry):
    layer = Norm(4)
    layer(torch.randn(9, 4))
    twin = carry(layer)
    x = torch.randn(3, 4)
    assert torch.equal(twin.eval()(x), layer.eval()(x))
    exercise = check.exercise("torch_batchnorm")
    assert exercise.score(Norm, 4, 1) == 4
    assert exercise.score(lambda D: carry(Norm(D)), 4, 1) == 4


@pytest.mark.parametrize("carry", [pickled, copy.deepcopy])
def test_a_frozen_network_that_is_copied_stays_frozen(carry):
    def answer(model):
        return carry(Frozen.frozen(model))

    assert check.exercise("freeze_batchnorm").score(Frozen.frozen, 3, 1) == 3
    assert check.exercise("freeze_batchnorm").score(answer, 3, 1) == 3


class Frozen:
    """What a frozen layer has, as a class of the module."""

    def train(self, mode=True):
        return self

    @staticmethod
    def frozen(model):
        for m in model.modules():
            for kind in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d):
                if type(m) is kind:
                    m.eval().requires_grad_(False)
                    m.__class__ = FROZEN[kind]
        return model


class Frozen1d(Frozen, torch.nn.BatchNorm1d):
    pass


class Frozen2d(Frozen, torch.nn.BatchNorm2d):
    pass


FROZEN = {torch.nn.BatchNorm1d: Frozen1d, torch.nn.BatchNorm2d: Frozen2d}
