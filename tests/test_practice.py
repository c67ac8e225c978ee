"""Folding, recalibration and freezing, against PyTorch and torchvision."""

import copy
import inspect
import io
import warnings

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

from bn_experiments import folding
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
    largest = want.abs().max().item() or 1  # a ReLU may leave nothing but zeros
    return (got - want).abs().max().item() / largest


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
    folded = folding.fold_model(model)
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
    assert off(outputs(folding.fold_model(model), x), outputs(model, x)) < 1e-12


# every classification model of torchvision that holds batch norm


SIDES = {"inception_v3": 299, "maxvit_t": 224}  # of the images; 64 for the others
REFUSED = {
    **dict.fromkeys(
        ("densenet121", "densenet161", "densenet169", "densenet201"),
        r"features\.denseblock1\.denselayer1\.norm1 .* its input is cat",
    ),
    "maxvit_t": r"MBconv\.layers\.pre_norm cannot be folded: others use the output",
}
TOO_LARGE = {"regnet_y_128gf"}  # 2.6 GB of weights


def warmed(name):
    """Random gamma and beta, and statistics of two batches."""
    torch.manual_seed(0)
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, **quick)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, std=0.2)
            m.momentum = 0.5
    side = SIDES.get(name, 64)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(4, 3, side, side))
    return model.eval(), torch.randn(2, 3, side, side)


def holds_batch_norm(name):
    source = inspect.getsource(inspect.getmodule(models.get_model_builder(name)))
    without = name.startswith("vit") or (name[:3] == "vgg" and name[-3:] != "_bn")
    return "BatchNorm2d" in source and not without


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in models.list_models(module=models)
        if holds_batch_norm(name) and name not in TOO_LARGE
    ],
)
def test_torchvision_models_fold_or_are_refused(name):
    model, x = warmed(name)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            folding.fold_model(model)
        return
    exact = outputs(copy.deepcopy(model).double(), x.double())
    # a few very wide networks round more than that themselves
    single = max(1e-5, 2 * off(outputs(model, x), exact))
    for dtype, limit in ((torch.float32, single), (torch.float64, 1e-10)):
        model.to(dtype)
        folded = folding.fold_model(model)
        assert off(outputs(folded, x.to(dtype)), outputs(model, x.to(dtype))) <= limit
        left = [n for n, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(n.startswith(("aux", "AuxLogits")) for n in left)


def test_at_least_nine_tenths_of_them_fold():
    names = list(filter(holds_batch_norm, models.list_models(module=models)))
    assert len(REFUSED) <= 0.1 * len(names)


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
        (Undecided(), "Undecided cannot be traced by torch.fx, so nothing"),
        (norm_first(), "0 cannot be folded: its input is input_1, not a linear"),
        (norm_first()[1:], r"2 cannot be folded: its input is 1 \(ReLU\), not"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_cannot_be_folded_is_refused_by_name(model, says):
    with pytest.raises(ValueError, match=says):
        folding.fold_model(model.eval())


def test_one_layer_in_training_mode_is_refused_by_name(resnet):
    model = copy.deepcopy(resnet)
    model.layer2[1].bn1.train()
    with pytest.raises(ValueError, match=r"layer2\.1\.bn1 \(BatchNorm2d\) is in train"):
        folding.fold_model(model)


def test_only_the_named_ones_are_folded():
    model = lively(
        nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    )
    folded = folding.fold_model(model.eval(), only=["2"])
    assert [type(m) for m in folded] == [nn.BatchNorm2d, nn.Conv2d, nn.Identity]
    x = torch.randn(4, 2, 5, 5)
    assert off(outputs(folded, x), outputs(model, x)) < 1e-5
    with pytest.raises(ValueError, match="only names no batch norm.*'7'"):
        folding.fold_model(model, only=["7"])


class ReadsWeight(nn.Module):
    """The convolution's weight is used outside it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.bn(self.conv(x)) + F.conv2d(x, self.conv.weight)


class ReadsTied(ReadsWeight):
    """The same, and another layer, named first, has the weight as well."""

    def __init__(self):
        super().__init__()
        first = nn.Conv2d(2, 2, 1)
        first.weight = self.conv.weight
        self._modules = {"first": first, **self._modules}


class ReadsStatistics(ReadsWeight):
    def forward(self, x):
        return self.bn(self.conv(x)) - self.bn.running_mean.reshape(-1, 1, 1)


class ReadsComputed(ReadsWeight):
    """What it reads is a number before torch.fx sees it."""

    def forward(self, x):
        penalty = sum(float(p.detach().sum()) for p in self.conv.parameters())
        return self.bn(self.conv(x)) + penalty


class ReadsTensors(ReadsWeight):
    def forward(self, x):
        return self.bn(self.conv(x)) + sum(p.sum() for p in [*self.conv.parameters()])


class Inside(nn.Module):
    """A layer that a larger one holds and calls, too."""

    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 1, 4, batch_first=True)
        self.linear, self.bn = self.block.linear1, nn.BatchNorm1d(4)

    def forward(self, x):
        return self.bn(self.linear(x)) + self.block(x)


class Aliased(ReadsWeight):
    """Called by its second name; foldable."""

    def __init__(self):
        super().__init__()
        self.again, self.norm = self.conv, self.bn

    def forward(self, x):
        return self.norm(self.again(x))


class Listed(ReadsWeight):
    """The same layers in a plain list, which a replacement does not reach."""

    def __init__(self):
        super().__init__()
        self.pair = [self.conv, self.bn]

    def forward(self, x):
        return self.bn(self.pair[0](x))


class Keywords(ReadsWeight):
    def forward(self, x):
        return self.bn(input=self.conv(input=x))


class Optional(ReadsWeight):
    """With an argument, the batch norm is passed by."""

    def forward(self, x, raw=None):
        z = self.conv(x)
        return self.bn(z) if raw is None else z * raw


class Halves(nn.Module):
    """Parts of one parameter; foldable."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 2)
        self.head.bias = self.conv.bias

    def forward(self, x):
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def pair(layer=None, bn=None):
    return nn.Sequential(layer or nn.Conv2d(2, 2, 1), bn or nn.BatchNorm2d(2))


def changed(model, index, how):
    how(model[index])
    return model


def double_output(module):
    module.register_forward_hook(lambda m, x, y: 2 * y)


def double_input(module):
    module.register_forward_pre_hook(lambda m, x: (2 * x[0],))


def own_forward(module):
    old = module.forward
    module.forward = lambda x: 2 * old(x)


def tied_norms():
    bn = nn.BatchNorm2d(2)
    return nn.Sequential(nn.Conv2d(2, 2, 1), bn, nn.Conv2d(2, 2, 1), bn)


def legacy(how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # still common in code
        return pair(how(nn.Conv2d(2, 2, 1)))


def on_its_instance():
    own_forward(model := pair())
    return model


TORCH_NORMS = nn.utils.parametrizations


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (ReadsWeight(), "bn cannot be folded: others read a parameter"),
        (ReadsTied(), "bn cannot be folded: others read a parameter"),
        (ReadsStatistics(), "bn cannot be folded: the model also uses"),
        (ReadsComputed(), "bn cannot be folded: the model also uses"),
        (ReadsTensors(), "bn cannot be folded: the model also uses"),
        (Inside(), "bn cannot be folded: it or .* is called more than once"),
        (Listed(), "bn cannot be folded: the model also uses"),
        (Optional(), "bn cannot be folded: "),
        (tied_norms(), "1 cannot be folded: it or 0 is called more than once"),
        (pair(TORCH_NORMS.weight_norm(nn.Conv2d(2, 2, 1))), "1 .*0 .Parametrized"),
        (pair(TORCH_NORMS.spectral_norm(nn.Conv2d(2, 2, 1))), "1 .*0 .Parametrized"),
        (legacy(nn.utils.weight_norm), "0 has forward hooks"),
        (legacy(nn.utils.spectral_norm), "0 has forward hooks"),
        (pair(bn=Activated(2)), "1 is a Activated"),
        (changed(pair(), 0, double_output), "0 has forward hooks"),
        (changed(pair(), 1, double_input), "1 has forward hooks"),
        (changed(pair(), 0, own_forward), "0 has a forward of its own"),
        (changed(pair(), 1, own_forward), "1 has a forward of its own"),
        (on_its_instance(), "Sequential cannot be traced by torch.fx, so 1 cannot"),
        (pair(nn.Linear(2, 2)), r"1 \(BatchNorm2d\) and 0 \(Linear\) do not have"),
        (nn.BatchNorm2d(2), "so the model cannot be folded"),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2, track_running_stats=False)),
            "1 .* no running statistics",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_change_the_outputs_is_refused_by_name(model, says):
    before = set(vars(model))
    with pytest.raises(ValueError, match=says):
        folding.fold_model(lively(model).eval())
    assert set(vars(model)) == before  # tracing leaves nothing behind


@pytest.mark.parametrize("build", [Aliased, Keywords, Halves])
def test_what_only_looks_hard_is_folded(build):
    torch.manual_seed(0)
    model = lively(build()).double().eval()
    folded = folding.fold_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    assert off(outputs(folded, x), outputs(model, x)) < 1e-12


@pytest.mark.parametrize(
    ("layer", "good", "bad"),
    [
        (nn.Linear(3, 4), (5, 3), (2, 4, 3)),  # (N, C, L): C is normalized
        (nn.Conv1d(3, 4, 1), (2, 3, 5), (3, 4)),  # one sample: L would be
    ],
    ids=["linear", "one sample"],
)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_an_input_that_does_not_fold_is_refused_when_it_comes(layer, good, bad, kind):
    model = lively(nn.Sequential(layer, kind(4))).eval()
    folded = folding.fold_model(model)
    x = torch.randn(good)
    assert off(outputs(folded, x), outputs(model, x)) < 1e-5
    with pytest.raises(ValueError, match="1 was folded for inputs with .* axes, got"):
        folded(torch.randn(bad))


def test_a_block_that_evaluation_does_not_enter_is_left_alone():
    class WithHelper(ReadsWeight):
        def __init__(self):
            super().__init__()
            self.helper = pair()

        def forward(self, x):
            y = self.bn(self.conv(x))
            return (y, self.helper(y)) if self.training else y

    folded = folding.fold_model(lively(WithHelper()).eval())
    assert isinstance(folded.bn, nn.Identity)
    assert isinstance(folded.helper[1], nn.BatchNorm2d)


@pytest.mark.parametrize("affine", [True, False])
def test_it_folds_where_the_layer_is(affine):
    model = pair(bn=nn.BatchNorm2d(2, affine=affine)).to("meta").eval()
    folded = folding.fold_model(model)
    assert folded[0].weight.device.type == folded[0].bias.device.type == "meta"
    assert folded(torch.empty(1, 2, 3, 3, device="meta")).shape == (1, 2, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_dtypes_stay_small(dtype):
    torch.manual_seed(0)
    model = lively(pair()).eval().to(dtype)
    x = torch.randn(2, 2, 4, 4, dtype=dtype)
    got = outputs(folding.fold_model(model), x)
    assert got.dtype == dtype
    assert off(got.float(), outputs(model.float(), x.float())) < 0.05


def test_what_overflows_is_refused_by_name():
    model = pair(bn=nn.BatchNorm2d(2, eps=1e-12)).eval()
    model[1].running_var.fill_(1e-12)
    with pytest.raises(ValueError, match="1 folded into 0 overflows torch.float16"):
        folding.fold_model(model.half())


# random graphs


class Random(nn.Module):
    """Blocks after blocks on (N, 3, 6, 6): plain, residual, shared or branching."""

    KINDS = ("plain", "norm first", "residual", "kept", "twice", "read", "linear")

    def __init__(self, kinds):
        super().__init__()
        self.kinds = kinds
        self.layers = nn.ModuleList(
            nn.Linear(6, 6) if kind == "linear" else nn.Conv2d(3, 3, 3, padding=1)
            for kind in kinds
        )
        self.norms = nn.ModuleList(
            (nn.BatchNorm1d if kind == "linear" else nn.BatchNorm2d)(3)
            for kind in kinds
        )

    def forward(self, x):
        for kind, layer, norm in zip(self.kinds, self.layers, self.norms, strict=True):
            x = getattr(self, kind.replace(" ", "_"))(x, layer, norm)
        return x

    def plain(self, x, layer, norm):
        return norm(layer(x)).relu()

    def norm_first(self, x, layer, norm):
        return layer(norm(x).relu())

    def residual(self, x, layer, norm):
        return x + norm(layer(x)).tanh()

    def kept(self, x, layer, norm):
        z = layer(x)
        return z + norm(z)

    def twice(self, x, layer, norm):
        return norm(layer(layer(x)))

    def read(self, x, layer, norm):
        return norm(layer(x)) + layer.bias.reshape(-1, 1, 1)

    def linear(self, x, layer, norm):
        return norm(layer(x).flatten(2)).unflatten(2, (6, 6))


FOLDS = {"plain", "residual"}


@given(
    kinds=st.lists(st.sampled_from(Random.KINDS), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_random_graphs_fold_exactly_or_are_refused(kinds, seed):
    torch.manual_seed(seed)
    model = lively(Random(kinds), seed).double().eval()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    good = [f"norms.{k}" for k, kind in enumerate(kinds) if kind in FOLDS]
    if len(good) < len(kinds):
        bad = next(k for k, kind in enumerate(kinds) if kind not in FOLDS)
        with pytest.raises(ValueError, match=rf"norms\.{bad} cannot be folded"):
            folding.fold_model(model)
    folded = folding.fold_model(model, only=good)
    assert off(outputs(folded, x), outputs(model, x)) < 1e-11
    assert sum(isinstance(m, nn.Identity) for m in folded.norms) == len(good)


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
    folded = folding.fold_model(model)
    x = torch.randn(4, 2, 5, 5)
    assert off(outputs(folded.eval(), x), outputs(model.eval(), x)) < 1e-5


def test_it_survives_a_conversion_to_synchronized_batch_norm():
    model = practice.freeze_batchnorm(images())
    before = copy.deepcopy(norms_of(model))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert equal_states(before, norms_of(trained(model)))


def test_a_converted_model_freezes_too():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(images())
    want = outputs(copy.deepcopy(model).eval(), x := torch.randn(4, 2, 5, 5))
    practice.freeze_batchnorm(model).train()[3].eval()  # dropout
    assert torch.equal(outputs(model, x), want)


def test_frozen_statistics_can_be_collected_anew_and_stay_frozen():
    batches = [k + torch.randn(6, 2, 5, 5) for k in range(4)]
    frozen, free = practice.freeze_batchnorm(images()), images()
    for model in (frozen, free):
        practice.recalibrate_statistics(model, batches)
    assert equal_states(norms_of(frozen), norms_of(free))
    before = copy.deepcopy(norms_of(frozen))
    assert equal_states(before, norms_of(trained(frozen)))


def test_state_dicts_go_back_and_forth():
    model, frozen = images(), practice.freeze_batchnorm(images())
    frozen.load_state_dict(lively(model, seed=7).state_dict())
    images().load_state_dict(frozen.state_dict())
    assert equal_states(norms_of(model), norms_of(frozen))


def test_freezing_twice_is_freezing_once():
    model = practice.freeze_batchnorm(practice.freeze_batchnorm(images()))
    assert model[1].kind is nn.BatchNorm2d
    assert repr(model[1]) == "FrozenBatchNorm(4, kind=BatchNorm2d)"


def test_shapes_are_looked_at_as_before():
    with pytest.raises(ValueError, match="expected 4D input"):
        practice.freeze_batchnorm(nn.BatchNorm2d(3))(torch.randn(5, 3))


def test_frozen_ghosts_compute_as_in_evaluation():
    ghost = lively(practice.GhostBatchNorm1d(3, ghost=2)).eval()
    want = outputs(copy.deepcopy(ghost), x := torch.randn(7, 3))
    assert torch.equal(outputs(practice.freeze_batchnorm(ghost).train(), x), want)


@pytest.mark.parametrize(
    ("bn", "says"),
    [
        (nn.BatchNorm1d(3, track_running_stats=False), "no running statistics"),
        (Activated(3), "forward or train of its own"),
        (TORCH_NORMS.weight_norm(nn.BatchNorm1d(3)), "computes its parameters"),
    ],
    ids=["no statistics", "own forward", "parametrized"],
)
def test_what_freezing_would_change_is_refused_by_name(bn, says):
    model = nn.Sequential(nn.BatchNorm1d(3), bn)
    with pytest.raises(ValueError, match=f"^1 .*{says}"):
        practice.freeze_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm1d and model[0].weight.requires_grad


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
