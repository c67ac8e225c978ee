"""Lesson 10: every known mistake is named, every honest solution passes."""

import numpy as np
import pytest
import torch
from bank import BankTests
from sourced import blind_10, blind_10_again
from torch.nn import functional as F

from bn_checks.banks import lesson_09, lesson_10
from bn_checks.forms import lesson_10 as forms
from bn_experiments import transformer


def masked_by_products(x, mask, gamma, beta, eps=1e-5):
    m = mask[..., None].astype(float)
    kept = np.where(m > 0, x, 0)
    mu = kept.sum((0, 1)) / m.sum()
    var = (m * (kept - mu) ** 2).sum((0, 1)) / m.sum()
    return m * ((kept - mu) * gamma / np.sqrt(var + eps) + beta), mu, var


def masked_by_torch(x, mask, gamma, beta, eps=1e-5):
    x, mask, gamma, beta = map(torch.tensor, (x, mask, gamma, beta))
    rows = x[mask]
    y = torch.zeros_like(x)
    y[mask] = F.batch_norm(rows, None, None, gamma, beta, training=True, eps=eps)
    return y, rows.mean(0), rows.var(0, unbiased=False)


def masked_in_a_loop(x, mask, gamma, beta, eps=1e-5):
    rows = [x[n, t] for n, t in np.argwhere(mask)]
    mu = sum(rows) / len(rows)
    var = sum((row - mu) ** 2 for row in rows) / len(rows)
    y = 0 * np.nan_to_num(x)
    for n, t in np.argwhere(mask):
        y[n, t] = gamma * (x[n, t] - mu) / (var + eps) ** 0.5 + beta
    return [y, mu, var]


def block_by_torch(x, W1, W2, gamma, beta, place):
    x, W1, W2, gamma, beta = map(torch.tensor, (x, W1, W2, gamma, beta))

    def norm(h):
        return F.layer_norm(h, h.shape[-1:], gamma, beta)

    match place:
        case "pre":
            return x + F.relu(norm(x) @ W1) @ W2
        case "post":
            return norm(x + F.relu(x @ W1) @ W2)
    raise ValueError(place)


def block_by_table(x, W1, W2, gamma, beta, place):
    def norm(h):
        mu, var = h.mean(1), h.var(1)
        return ((h.T - mu) / np.sqrt(var + 1e-5)).T * gamma + beta

    def branch(h):
        z = h @ W1
        return (z * (z > 0)) @ W2

    orders = {"pre": lambda: x + branch(norm(x)), "post": lambda: norm(x + branch(x))}
    if place not in orders:
        raise ValueError(f"no such place: {place}")
    return (orders[place](),)


def block_by_tokens(x, W1, W2, gamma, beta, place):
    if place not in ("pre", "post"):
        raise ValueError(place)
    rows = [forms.residual_block(r[None], W1, W2, gamma, beta, place) for r in x]
    return np.concatenate(rows)


def attention_by_torch(q, k, v, gain):
    q, k, v = map(torch.tensor, (q, k, v))
    weights = (gain * F.normalize(q, dim=1) @ F.normalize(k, dim=1).T).softmax(1)
    return weights @ v, weights


def attention_by_cosines(q, k, v, gain):
    cosines = (q @ k.T) / np.sqrt((q**2).sum(1)[:, None] * (k**2).sum(1))
    e = np.exp(gain * (cosines - cosines.max(1, keepdims=True)))
    weights = e / e.sum(1, keepdims=True)
    return np.einsum("ij,jd->id", weights, v), weights


def attention_by_rows(q, k, v, gain):
    weights = []
    for row in q:
        z = np.array([gain * row @ key / np.sqrt(row @ row * (key @ key)) for key in k])
        e = np.exp(z - z.max())
        weights.append(e / e.sum())
    return [np.array(weights) @ v, np.array(weights)]


def fold_by_diagonal(gamma, beta, W, b):
    return np.diag(gamma) @ W, W.T @ beta + (0 if b is None else b)


def fold_by_probes(gamma, beta, W, b):
    """What comes out for zeros and for each unit vector."""
    shift = 0 if b is None else b
    bias = beta @ W + shift
    return np.array(
        [(gamma * e + beta) @ W + shift - bias for e in np.eye(len(W))]
    ), bias


def fold_by_einsum(gamma, beta, W, b):
    extra = np.zeros(W.shape[1]) if b is None else b
    return [np.einsum("c,ch->ch", gamma, W), np.einsum("c,ch->h", beta, W) + extra]


def center_by_projection(W, b):
    P = np.eye(len(b)) - 1 / len(b)
    return W @ P, b @ P


def center_by_rows(W, b):
    return [np.array([row - np.mean(row) for row in W]), b - sum(b) / len(b)]


def center_by_stacking(W, b):
    both = np.vstack([W, b])
    both = both - both.mean(1)[:, None]
    return both[:-1], both[-1]


class TestBank(BankTests):
    lesson = lesson_10
    honest = {
        "masked_batchnorm": (masked_by_products, masked_by_torch, masked_in_a_loop),
        "residual_block": (block_by_torch, block_by_table, block_by_tokens),
        "qk_norm_attention": (
            attention_by_torch,
            attention_by_cosines,
            attention_by_rows,
        ),
        "fold_layernorm": (fold_by_diagonal, fold_by_probes, fold_by_einsum),
        "center_writer": (center_by_projection, center_by_rows, center_by_stacking),
    }


@pytest.mark.parametrize("code", [forms, transformer])
@pytest.mark.parametrize("with_bias", [True, False])
def test_folding_and_centering_change_no_output(with_bias, code):
    """Layer norm, its affine and a reader: as PyTorch computes them, and folded."""
    torch.manual_seed(0)
    x, gamma, beta, W, b = (torch.randn(s).double() for s in ((9, 6), 6, 6, (6, 4), 4))
    b = b if with_bias else None
    want = F.linear(F.layer_norm(x, (6,), gamma, beta), W.T, b)
    W2, b2 = code.fold_layernorm(
        gamma.numpy(), beta.numpy(), W.numpy(), b.numpy() if with_bias else None
    )
    got = F.layer_norm(x, (6,)).numpy() @ W2 + b2
    assert np.allclose(got, want, atol=1e-12)
    writer, bias = code.center_writer(W.numpy(), np.arange(4.0))
    written = torch.tensor(x.numpy() @ writer + bias)
    plain = x @ W + torch.arange(4.0).double()
    assert torch.allclose(
        F.rms_norm(written, (4,), eps=1e-5), F.layer_norm(plain, (4,))
    )


EXERCISES = {e.name: e for e in (*lesson_09.EXERCISES, *lesson_10.EXERCISES)}


@pytest.mark.parametrize("answers", [blind_10, blind_10_again])
def test_wrong_answers_written_blind_are_explained(answers):
    """None has full points, and the diagnosis accounts for 85 % of each exercise's."""
    share = {}
    for name, codes in answers.ANSWERS.items():
        scores = [EXERCISES[name].score(code, 3, seed=3) for code in codes]
        assert len(codes) >= 10 and max(scores) < 3, name
        share[name] = sum(score.explained for score in scores) / len(codes)
    assert min(share.values()) >= 0.85, share
