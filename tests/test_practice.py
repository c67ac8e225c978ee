"""Folding, recalibration and freezing, against PyTorch and torchvision."""

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.optim.swa_utils import update_bn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from bn_helpers import practice

LIMITS = {torch.float32: 1e-5, torch.float64: 1e-12}  # of max |dy| / max |y|
CONVOLUTIONS = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d)}
CONVOLUTIONS[3] = nn.Conv3d, nn.BatchNorm3d

each_dtype = pytest.mark.parametrize("dtype", LIMITS, ids=str)


def lively(model, seed=0):
    """Parameters and statistics as after training, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, practice.BATCH_NORMS):
            for tensor in (m.weight, m.running_var):
                if tensor is not None:
                    tensor.data.uniform_(0.1, 3, generator=generator)
            for tensor in (m.bias, m.running_mean):
                if tensor is not None:
                    tensor.data.normal_(generator=generator)
            if m.weight is not None:
                m.weight.data[::2] *= -1
    return model


def off(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def outputs(model, x):
    with torch.no_grad():
        return model(x)


# folding one layer


@given(
    dims=st.integers(1, 3),
    groups=st.integers(1, 3),
    out=st.integers(1, 3),
    bias=st.booleans(),
    affine=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.5]),
    dtype=st.sampled_from(list(LIMITS)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_a_convolution_swallows_its_batch_norm(
    dims, groups, out, bias, affine, eps, dtype, seed
):
    torch.manual_seed(seed)
    convolution, norm = CONVOLUTIONS[dims]
    layer = convolution(
        2 * groups, out * groups, 3, padding=1, stride=2, groups=groups, bias=bias
    ).to(dtype)
    bn = lively(norm(out * groups, eps=eps, affine=affine), seed).to(dtype).eval()
    x = 1 + 3 * torch.randn(2, 2 * groups, *[5] * dims, dtype=dtype)
    folded = practice.fold_layer(layer, bn)
    assert off(outputs(folded, x), outputs(bn, outputs(layer, x))) < LIMITS[dtype]
    assert folded.weight.dtype == folded.bias.dtype == dtype


@each_dtype
def test_it_agrees_with_what_pytorch_folds(dtype):
    torch.manual_seed(1)
    linear, bn = (
        nn.Linear(7, 5).to(dtype).eval(),
        lively(nn.BatchNorm1d(5)).to(dtype).eval(),
    )
    ours, theirs = practice.fold_layer(linear, bn), fuse_linear_bn_eval(linear, bn)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert off(a, b) < LIMITS[dtype]
    conv = nn.Conv2d(3, 4, 3, bias=False).to(dtype).eval()
    bn = lively(nn.BatchNorm2d(4)).to(dtype).eval()
    ours, theirs = practice.fold_layer(conv, bn), fuse_conv_bn_eval(conv, bn)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert off(a, b) < LIMITS[dtype]


def test_folding_leaves_the_layers_as_they_were():
    layer, bn = nn.Linear(3, 4), lively(nn.BatchNorm1d(4)).eval()
    before = copy.deepcopy((layer.state_dict(), bn.state_dict()))
    practice.fold_layer(layer, bn)
    for old, module in zip(before, (layer, bn), strict=True):
        for key, value in module.state_dict().items():
            assert torch.equal(value, old[key])


@pytest.mark.parametrize(
    ("layer", "bn", "error", "says"),
    [
        (nn.Linear(3, 4), nn.BatchNorm1d(4), ValueError, "bn .* in training mode"),
        (nn.Linear(3, 4), nn.BatchNorm1d(5).eval(), ValueError, "4 outputs"),
        (
            nn.Linear(3, 4),
            nn.BatchNorm1d(4, track_running_stats=False).eval(),
            ValueError,
            "no running statistics",
        ),
        (nn.ReLU(), nn.BatchNorm1d(4).eval(), TypeError, "layer is a ReLU"),
        (
            nn.ConvTranspose2d(3, 4, 2),
            nn.BatchNorm2d(4).eval(),
            TypeError,
            "layer is a ConvTranspose2d",
        ),
        (nn.Linear(3, 4), nn.LayerNorm(4).eval(), TypeError, "bn is a LayerNorm"),
    ],
)
def test_what_cannot_be_folded_is_refused(layer, bn, error, says):
    with pytest.raises(error, match=says):
        practice.fold_layer(layer, bn)


# folding a model


@pytest.fixture(scope="module")
def resnet():
    """ResNet-18 with random gamma and beta, and statistics from training mode."""
    torch.manual_seed(0)
    model = models.resnet18(weights=None)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.normal_(m.bias)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


@each_dtype
def test_resnet_18_folds_to_rounding(resnet, dtype):
    model = copy.deepcopy(resnet).to(dtype)
    folded = practice.fold_model(model)
    x = torch.randn(4, 3, 64, 64, dtype=dtype)
    assert off(outputs(folded, x), outputs(model, x)) < LIMITS[dtype]
    kinds = [type(m) for m in folded.modules()]
    assert nn.BatchNorm2d not in kinds and kinds.count(nn.Identity) == 20
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize("build", [models.shufflenet_v2_x0_5, models.mobilenet_v2])
def test_other_networks_fold_too(build):
    torch.manual_seed(0)
    model = lively(build(weights=None)).double().eval()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert off(outputs(practice.fold_model(model), x), outputs(model, x)) < 1e-12


class Branch(nn.Module):
    """The convolution's output is used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.conv(x)
        return x + self.bn(x)


class Shared(nn.Module):
    """One convolution, two batch norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.one, self.two = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x))))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.spare = nn.BatchNorm2d(2)

    def forward(self, x):
        return x


class Undecided(nn.Module):
    """Not to be traced: what it does depends on its input."""

    def forward(self, x):
        return x if x.sum() > 0 else -x


def norm_first():
    return nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Branch(), "bn cannot be folded: others use the output of conv"),
        (Shared(), "one cannot be folded: .* called more than once"),
        (Unused(), "spare cannot be folded: it is never called"),
        (Undecided(), "Undecided cannot be traced"),
        (norm_first(), "0 cannot be folded: its input is input_1, not a linear"),
        (norm_first()[1:], r"2 cannot be folded: its input is 1 \(ReLU\), not"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_cannot_be_folded_is_refused_by_name(model, says):
    with pytest.raises(ValueError, match=says):
        practice.fold_model(model.eval())


def test_one_layer_in_training_mode_is_refused_by_name(resnet):
    model = copy.deepcopy(resnet)
    model.layer2[1].bn1.train()
    with pytest.raises(ValueError, match=r"layer2\.1\.bn1 \(BatchNorm2d\) is in train"):
        practice.fold_model(model)


def test_only_the_named_ones_are_folded():
    model = lively(
        nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    )
    folded = practice.fold_model(model.eval(), only=["2"])
    assert [type(m) for m in folded] == [nn.BatchNorm2d, nn.Conv2d, nn.Identity]
    x = torch.randn(4, 2, 5, 5)
    assert off(outputs(folded, x), outputs(model, x)) < 1e-5
    with pytest.raises(ValueError, match="only names no batch norm.*'7'"):
        practice.fold_model(model, only=["7"])


# recalibration


def dense(p=0.0):
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5, momentum=0.2),
        nn.Dropout(p),
        nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)),
    ).double()


def buffers(model):
    return {k: v for k, v in model.state_dict().items() if "running" in k}


def same(a, b):
    return all(torch.allclose(a[k], b[k], rtol=1e-12, atol=1e-14) for k in a)


@pytest.mark.parametrize("training", [True, False])
def test_recalibration_agrees_with_update_bn(training):
    batches = [k + torch.randn(9, 4, dtype=torch.float64) for k in range(6)]
    model = lively(dense()).train(training)
    want = copy.deepcopy(model)
    update_bn(batches, want)
    practice.recalibrate_statistics(model, iter(batches))
    assert same(buffers(model), buffers(want))
    assert {m.training for m in model.modules()} == {training}
    assert model[1].momentum == 0.2


def test_recalibration_lets_dropout_sleep():
    batches = [torch.randn(9, 4, dtype=torch.float64) for _ in range(3)]
    with_dropout, without = dense(0.5).train(), dense(0.0).train()
    for model in (with_dropout, without):
        practice.recalibrate_statistics(model, batches)
    assert same(buffers(with_dropout), buffers(without))
    assert with_dropout[2].training


def test_modes_are_restored_one_by_one():
    model = dense(0.5).train()
    model[1].eval()
    practice.recalibrate_statistics(model, [torch.randn(9, 4, dtype=torch.float64)])
    modes = [m.training for m in model.modules()]
    assert modes == [True, True, False, True, True, True, True]


def test_recalibration_that_fails_changes_nothing():
    model = lively(dense()).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="batches is empty"):
        practice.recalibrate_statistics(model, [])
    with pytest.raises(RuntimeError):
        practice.recalibrate_statistics(
            model, [torch.randn(9, 4).double(), torch.ones(2, 2)]
        )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and model[1].training and model[1].momentum == 0.2


def test_recalibration_cures_nan():
    model = dense().eval()
    model[1].running_mean.fill_(torch.nan)
    practice.recalibrate_statistics(model, [torch.randn(9, 4, dtype=torch.float64)])
    assert all(v.isfinite().all() for v in buffers(model).values())


# freezing


def images():
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5)),
        nn.Dropout(0.5),
        nn.Linear(5, 3),
    )
    return lively(model)


def trained(model, lr=0.1):
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr, weight_decay=0.1
    )
    for k in range(3):
        torch.manual_seed(k)
        x, y = torch.randn(6, 2, 5, 5), torch.randint(0, 3, (6,))
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    return model


def norms_of(model):
    kinds = practice.BATCH_NORMS
    return [m.state_dict() for m in model.modules() if isinstance(m, kinds)]


def equal_states(a, b):
    pairs = zip(a, b, strict=True)
    return all(torch.equal(old[k], new[k]) for old, new in pairs for k in old)


def test_a_frozen_batch_norm_stays_what_it_was():
    model = practice.freeze_batchnorm(images())
    before, weight = copy.deepcopy(norms_of(model)), model[0].weight.clone()
    trained(model)
    assert equal_states(before, norms_of(model))
    assert not torch.equal(weight, model[0].weight)
    assert model[3].training and not model[1].training


def test_without_freezing_it_moves():
    before = copy.deepcopy(norms_of(model := images()))
    assert not equal_states(before, norms_of(trained(model)))


def test_it_computes_what_torchvision_freezes():
    bn = lively(nn.BatchNorm2d(4))
    theirs = FrozenBatchNorm2d(4, eps=bn.eps)
    theirs.load_state_dict(bn.state_dict())
    x = torch.randn(3, 4, 2, 2)
    frozen = practice.freeze_batchnorm(nn.Sequential(bn)).train()
    assert torch.allclose(frozen(x), theirs(x), atol=1e-5)


def test_copies_and_pickles_stay_frozen_and_apart():
    model = practice.freeze_batchnorm(images())
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for other in (copy.deepcopy(model), torch.load(stream, weights_only=False)):
        assert not other.train()[1].training
        assert other[1].train() is other[1] is not model[1]


def test_old_gradients_do_not_move_frozen_parameters():
    model = images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    model(torch.randn(6, 2, 5, 5)).sum().backward()
    practice.freeze_batchnorm(model)
    before = copy.deepcopy(norms_of(model))
    optimizer.step()
    assert equal_states(before, norms_of(model))


def test_a_frozen_model_folds():
    model = practice.freeze_batchnorm(images()).train()
    folded = practice.fold_model(model)
    x = torch.randn(4, 2, 5, 5)
    assert off(outputs(folded.eval(), x), outputs(model.eval(), x)) < 1e-5


# groups and ghosts


def test_decay_reaches_weights_only():
    model = images()
    decayed, spared = practice.decay_groups(model, 0.1)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decayed["params"]} == {
        id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }
    assert len(decayed["params"]) + len(spared["params"]) == len(
        list(model.parameters())
    )


def test_ghost_batches_are_batches_one_after_the_other():
    torch.manual_seed(4)
    x = torch.randn(20, 3).double()
    ghost = lively(practice.GhostBatchNorm1d(3, ghost=8)).double()
    bn = lively(nn.BatchNorm1d(3)).double()
    assert torch.equal(ghost(x), torch.cat([bn(part) for part in x.split(8)]))
    assert equal_states([bn.state_dict()], [ghost.state_dict()])
    assert torch.equal(ghost.eval()(x), bn.eval()(x))


def test_a_ghost_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="more than 1 value"):
        practice.GhostBatchNorm1d(3, ghost=8)(torch.randn(17, 3))
