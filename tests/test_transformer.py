"""The small Transformers, against PyTorch's own layers."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bn_experiments import transformer
from bn_experiments.transformer import Model
from bn_helpers import data

T, C, D = 5, 32, 7  # tokens, width, features


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def lively(stack, seed=0):
    """Parameters as after training: no gamma is 1, no beta or scalar 0."""
    torch.manual_seed(seed)
    for name, p in stack.parameters.items():
        if name.endswith(("gamma", "beta", ".a", "alpha")):
            p.data += 0.3 * torch.randn_like(p)
    return stack


def sample(N=4, seed=1):
    torch.manual_seed(seed)
    mask = torch.arange(T) < torch.tensor([5, 3, 4, 1])[:N, None]
    return torch.randn(N, T, D) * mask[..., None], mask


def theirs(stack, k, norm_first):
    """A block of the first network as PyTorch's layer."""
    p = {name: t[0] for name, t in stack.parameters.items()}
    layer = nn.TransformerEncoderLayer(
        C, 1, C, dropout=0, batch_first=True, norm_first=norm_first
    )
    with torch.no_grad():
        for b in (layer.self_attn.in_proj_bias, layer.self_attn.out_proj.bias):
            b.zero_()
        layer.linear1.bias.zero_()
        layer.linear2.bias.zero_()
        qkv = torch.cat([p[f"{k}.{n}"] for n in "qkv"], 1)
        layer.self_attn.in_proj_weight.copy_(qkv.T)
        layer.self_attn.out_proj.weight.copy_(p[f"{k}.out"].T)
        layer.linear1.weight.copy_(p[f"{k}.up"].T)
        layer.linear2.weight.copy_(p[f"{k}.down"].T)
        for norm, part in ((layer.norm1, "attention"), (layer.norm2, "mlp")):
            norm.weight.copy_(p[f"{k}.{part}.gamma"])
            norm.bias.copy_(p[f"{k}.{part}.beta"])
    return layer


@pytest.mark.parametrize("place", ["pre", "post"])
def test_a_network_is_that_of_pytorch(place):
    stack = lively(transformer.Stack(Model(blocks=3, place=place), (T, D), [0, 1]))
    x, mask = sample()
    p = {name: t[0] for name, t in stack.parameters.items()}
    h = x @ p["embed"] + p["position"]
    for k in range(3):
        layer = theirs(stack, k, place == "pre").train()  # eval takes another kernel
        h = layer(h, src_key_padding_mask=~mask)
    if place == "pre":
        h = F.layer_norm(h, (C,), p["last.gamma"], p["last.beta"])
    pooled = torch.stack([a[m].mean(0) for a, m in zip(h, mask, strict=True)])
    want = pooled @ p["head"] + p["head_bias"]
    assert torch.allclose(stack.logits(x, mask)[0], want, atol=1e-10)


@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "masked batch", "dyt"])
def test_a_norm_is_that_of_pytorch(norm):
    stack = lively(transformer.Stack(Model(blocks=1, norm=norm), (T, D), [0]))
    x, mask = sample()
    x = x @ stack.parameters["embed"][0] * mask[..., None]
    got = stack._norm(x[None], "last", mask[None], training=True)[0]
    gamma, beta = (stack.parameters[f"last.{part}"][0] for part in ("gamma", "beta"))
    bn = nn.BatchNorm1d(C)
    bn.weight.data, bn.bias.data = gamma, beta
    counted = mask if norm == "masked batch" else torch.ones_like(mask)
    want = {
        "layer": lambda: F.layer_norm(x, (C,), gamma, beta),
        "rms": lambda: F.rms_norm(x, (C,), gamma, transformer.EPS),
        "dyt": lambda: gamma * torch.tanh(stack.parameters["last.alpha"] * x) + beta,
    }.get(norm, lambda: bn(x[counted]))()
    assert torch.allclose(got if want.ndim == 3 else got[counted], want, atol=1e-10)
    if "batch" in norm:
        for ours, their in zip(
            stack.running["last"], (bn.running_mean, bn.running_var), strict=True
        ):
            assert torch.allclose(ours.flatten(), their)


def test_qk_norm_is_a_layer_norm_of_queries_and_keys():
    stack = lively(transformer.Stack(Model(blocks=1, qk_norm=True), (T, D), [0]))
    x, mask = sample()
    p = {name: t[0] for name, t in stack.parameters.items()}
    h = x @ p["embed"]
    q, k = (
        F.layer_norm(
            h @ p[f"0.{n}"], (C,), p[f"0.{n}_norm.gamma"], p[f"0.{n}_norm.beta"]
        )
        for n in "qk"
    )
    bias = torch.zeros(4, 1, T).masked_fill(~mask[:, None], -torch.inf)
    want = F.scaled_dot_product_attention(q, k, h @ p["0.v"], bias) @ p["0.out"]
    got = stack._attention(h[None], 0, mask[None], [])[0]
    assert torch.allclose(got, want, atol=1e-12)


def test_padding_reaches_nothing_but_batch_norm_that_counts_it():
    x, mask = sample()
    other = x + 9 * ~mask[..., None]  # what stands where no token is
    for norm, same in (("layer", True), ("masked batch", True), ("batch", False)):
        stack = lively(transformer.Stack(Model(blocks=2, norm=norm), (T, D), [0]))
        a, b = (stack.logits(tokens, mask, training=True) for tokens in (x, other))
        assert torch.allclose(a, b) == same


def test_at_the_start_rezero_is_the_embedding():
    stack = transformer.Stack(Model(place="rezero"), (T, D), [0])
    x, mask = sample()
    assert torch.equal(stack.logits(x, mask), stack.logits(x, mask, skip=range(8)))


def test_networks_train_apart():
    """Each of a stack does what it does alone."""
    digits = transformer.strips(data.small_mnist(400), n_test=100)
    model, how = Model(blocks=2, norm="batch"), {"steps": 6, "batch": 16}
    both = transformer.fit(model, digits, (1e-3, 1e-2), seeds=(3, 5), **how)
    alone = transformer.fit(model, digits, (1e-2,), seeds=(5,), **how)
    for name, p in alone.stack.parameters.items():
        assert torch.allclose(p[0], both.stack.parameters[name][3], atol=1e-9), name
    assert both.accuracy[1, 1] == alone.accuracy[0, 0]


def test_adam_is_that_of_pytorch():
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4)
    ours = start.clone().requires_grad_()
    optimizer = transformer.Adam([ours], [1e-2, 1e-1])
    each = [start[k].clone().requires_grad_() for k in range(2)]
    theirs = [
        torch.optim.Adam([p], lr) for p, lr in zip(each, (1e-2, 1e-1), strict=True)
    ]
    for _ in range(5):
        gradient = torch.randn(2, 3, 4)
        ours.grad = gradient.clone()
        optimizer.step()
        for k in range(2):
            each[k].grad = gradient[k]
            theirs[k].step()
    assert torch.allclose(ours, torch.stack(each), atol=1e-12)
    assert ours.grad is None


def test_equal_seeds_give_equal_weights_whatever_the_norms():
    models = [Model(), Model(place="none"), Model(norm="batch", qk_norm=True)]
    stacks = [transformer.Stack(m, (T, D), [4, 7, 4]) for m in models]
    for name in ("embed", "head", "0.q", "7.down"):
        p, *others = (stack.parameters[name] for stack in stacks)
        assert torch.equal(p[0], p[2]) and not torch.equal(p[0], p[1])
        assert all(torch.equal(p, other) for other in others)


@pytest.mark.parametrize("norm", ["layer", "masked batch"])
def test_a_slice_of_a_stack_holds_its_networks(norm):
    stack = lively(transformer.Stack(Model(blocks=2, norm=norm), (T, D), range(4)))
    x, mask = sample()
    stack.logits(x, mask, training=True)  # batch norm gets running statistics
    part = stack[1:3]
    assert torch.equal(part.logits(x, mask), stack.logits(x, mask)[1:3])
    assert len(stack.parameters["embed"]) == 4


def test_columns_are_the_ink_and_nothing_else():
    arrays = data.small_mnist(300)
    digits, _ = transformer.columns(arrays, n_test=10)
    assert digits.x.shape == (300, 14, 14)
    images = arrays.x_train.reshape(-1, 14, 14)
    for image, x, mask in zip(
        images, digits.x.numpy(), digits.mask.numpy(), strict=True
    ):
        ink = np.flatnonzero((image > images.min() + 0.5).any(0))
        T = ink[-1] - ink[0] + 1
        assert mask.sum() == T and mask[:T].all()
        assert np.array_equal(x[:T], image.T[ink[0] : ink[-1] + 1])
        assert not x[T:].any()


def test_batches_by_length_have_one_length():
    digits, _ = transformer.columns(data.small_mnist(500), n_test=10)
    batches = transformer.by_length(digits, 8, 20, seed=0)
    lengths = digits.mask.sum(1)
    assert len(batches) == 20
    assert all(len(set(lengths[rows].tolist())) == 1 for rows in batches)


@pytest.mark.parametrize("wrong", [{"place": "before"}, {"norm": "group"}])
def test_unknown_choices_are_refused(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is '{value}', expected one of"):
        Model(**wrong)
