"""What surrounds batch norm in PyTorch code: fold it, freeze it, renew its statistics.

`fold_batchnorm` takes batch norm out of a network that only evaluates; whole models are
`bn_experiments.folding`'s job. `recalibrate_statistics` collects statistics anew,
`freeze_batchnorm` keeps a pretrained layer as it is, `decay_groups` keeps weight decay
away from gamma and beta, and `GhostBatchNorm1d` normalizes parts of a batch.
"""

import copy
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

# layers


class GhostBatchNorm1d(nn.BatchNorm1d):
    """Batch norm that normalizes each part of a batch by itself, in training.

    Args:
        num_features: D.
        ghost: samples per part; a last part may be smaller, but needs two samples.
        more: as of nn.BatchNorm1d.

    State: running statistics move once per part.
    Source: Hoffer, Hubara & Soudry (2017), algorithm 1.
    """

    def __init__(self, num_features, ghost, **more):
        super().__init__(num_features, **more)
        self.ghost = ghost

    def forward(self, x):
        """y, the shape of x.

        Raises:
            ValueError: a part has one sample, in training mode.
        """
        if not self.training:
            return super().forward(x)
        forward = super().forward
        return torch.cat([forward(part) for part in x.split(self.ghost)])


class FrozenBatchNorm(nn.Module):
    """A batch norm with one mode, evaluation. `freeze_batchnorm` makes it in place.

        y = gamma * (x - running_mean) / sqrt(running_var + eps) + beta

    It is the layer it was, with another class: parameters, buffers, hooks and the names
    in state_dict are the same. It is no longer one of PyTorch's batch norms, so
    `convert_sync_batchnorm` passes it by.

    Attributes:
        kind: the class that it had.

    Agrees with: torchvision.ops.FrozenBatchNorm2d, for all shapes.
    """

    def forward(self, x):
        """y, the shape of x."""
        self.kind._check_input_dim(self, x)
        moments = self.running_mean, self.running_var
        return F.batch_norm(x, *moments, self.weight, self.bias, eps=self.eps)

    def train(self, mode=True):
        """The layer as it is, whatever the mode."""
        return self

    def extra_repr(self):
        return f"{self.num_features}, kind={self.kind.__name__}"


BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    FrozenBatchNorm,
)


# folding

# how many axes an input (N, C, ...) of these has
AXES = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
NORM_AXES = {
    nn.BatchNorm1d: {2, 3},
    GhostBatchNorm1d: {2, 3},
    nn.BatchNorm2d: {4},
    nn.BatchNorm3d: {5},
    nn.SyncBatchNorm: {2, 3, 4, 5},
}


def fold_batchnorm(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):
    """Weight and bias of the one affine layer that does what two did.

        scale  = gamma / sqrt(running_var + eps)
        weight = scale * weight                          row by row
        bias   = scale * (bias - running_mean) + beta

    Args:
        weight: of a linear layer (out, in) or a convolution (out, in, ...).
        bias: (out,), or None for a layer without.
        gamma, beta, running_mean, running_var: of the batch norm that follows, (out,).
        eps: of the batch norm.

    Returns:
        The folded weight and bias, arrays or tensors like those that came.

    Source: Jacob et al. (2018), section 3.2.
    """
    scale = gamma / (running_var + eps) ** 0.5
    shift = -running_mean if bias is None else bias - running_mean
    return scale.reshape(-1, *[1] * (weight.ndim - 1)) * weight, scale * shift + beta


def fold_layer(layer, bn, name="layer", bn_name="bn"):
    """A layer that does what layer, then bn, do in evaluation mode.

    Args:
        layer: nn.Linear for inputs (N, D), nn.Conv1d, nn.Conv2d or nn.Conv3d for
            batches of samples.
        bn: the batch norm that follows it, in evaluation mode.
        name, bn_name: what errors call the two.

    Returns:
        A new layer, with a bias. It computes in the dtype of `layer`, on its device;
        the folding itself is done in float64.

    Raises:
        TypeError: one of the two is of another kind.
        ValueError: bn is in training mode, has no running statistics, or normalizes
            another axis or number of features than the layer puts out; one of the two
            has hooks or a forward of its own; or the result overflows the dtype.

    Agrees with: torch.nn.utils.fuse_conv_bn_eval and fuse_linear_bn_eval.
    """
    if type(layer) not in AXES:
        kinds = ", ".join(kind.__name__ for kind in AXES)
        raise TypeError(f"{name} is a {_kind(layer)}, expected one of {kinds}")
    _require_fixed(bn, bn_name)
    if problem := _mismatch(layer, bn, name, bn_name):
        raise ValueError(problem)
    affine = bn.weight, bn.bias, bn.running_mean, bn.running_var
    exact = [_exact(t) for t in (layer.weight, layer.bias, *affine)]
    for k, value in ((2, 1.0), (3, 0.0)):  # gamma and beta, where bn has none
        if exact[k] is None:
            exact[k] = torch.full_like(exact[4], value)
    folded = copy.deepcopy(layer)
    results = fold_batchnorm(*exact, bn.eps)
    for key, value in zip(("weight", "bias"), results, strict=True):
        rounded = value.to(layer.weight)
        if not value.is_meta and (rounded.isinf() & value.isfinite()).any():
            raise ValueError(f"{bn_name} folded into {name} overflows {rounded.dtype}")
        setattr(folded, key, nn.Parameter(rounded))
    return folded


def _require_fixed(bn, name):
    if not isinstance(bn, BATCH_NORMS):
        raise TypeError(f"{name} is a {_kind(bn)}, expected a batch norm")
    if _known(bn) not in NORM_AXES:
        kinds = ", ".join(kind.__name__ for kind in NORM_AXES)
        raise ValueError(f"{name} is a {_kind(bn)}, expected one of {kinds}")
    if bn.running_mean is None:
        raise ValueError(f"{name} ({_kind(bn)}) has no running statistics to fold")
    if bn.training:
        raise ValueError(
            f"{name} ({_kind(bn)}) is in training mode, where its output depends on "
            "the batch; call eval() first"
        )


def _mismatch(layer, bn, name, bn_name):
    """Why the two cannot be one, or None."""
    for module, its in ((layer, name), (bn, bn_name)):
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{its} has forward hooks (weight_norm and pruning set some, too)"
        if "forward" in vars(module):
            return f"{its} has a forward of its own"
    if AXES[type(layer)] not in NORM_AXES[_known(bn)]:
        return (
            f"{bn_name} ({_known(bn).__name__}) and {name} ({_kind(layer)}) do not "
            "have their features on the same axis"
        )
    if len(layer.weight) != bn.num_features:
        return (
            f"{name} has {len(layer.weight)} outputs, but {bn_name} has "
            f"{bn.num_features} features"
        )
    if layer.weight.is_meta != bn.running_mean.is_meta:
        return f"{name} is on {layer.weight.device}, {bn_name} is not"
    return None


def _exact(tensor):
    """In float64, which some devices do not have."""
    if tensor is None:
        return None
    return (tensor if tensor.is_meta else tensor.cpu()).detach().double()


def _known(bn):
    return bn.kind if isinstance(bn, FrozenBatchNorm) else type(bn)


def _kind(module):
    return type(module).__name__


# statistics


def recalibrate_statistics(model, batches):
    """Collect running statistics anew: plain averages over these batches.

        running_mean = mean over batches of mu
        running_var  = mean over batches of the unbiased variance

    Each batch counts the same. Batch norm normalizes with the batch while it collects,
    frozen or not; everything else, such as dropout, works as in evaluation.

    Args:
        model: any module; parameters and modes are left as they were.
        batches: inputs of the model, one after the other, as evaluation will see them:
            shuffled, not sorted.

    Raises:
        ValueError: there are no batches; the statistics are as they were.

    Source: Wu & Johnson (2021), section 3, PreciseBN; it aggregates variances
        differently where batches differ in their means.
    Agrees with: torch.optim.swa_utils.update_bn for a model without dropout.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
    norms = [m for m in norms if m.running_mean is not None]
    before = [copy.deepcopy(m.state_dict()) for m in norms]
    try:
        with _collecting(model, norms):
            _pass_through(model, batches)
    except BaseException:
        for m, state in zip(norms, before, strict=True):
            m.load_state_dict(state)
        raise


@contextmanager
def _collecting(model, norms):
    """Statistics start from nothing and take averages; modes and momenta come back."""
    modes = [(m, m.training) for m in model.modules()]
    kinds = [(m, type(m), m.momentum) for m in norms]
    model.eval()
    try:
        for m in norms:
            m.__class__ = _known(m)  # a frozen one wakes
            m.training, m.momentum = True, None  # None: a plain average
            m.reset_running_stats()
        yield
    finally:
        for m, kind, momentum in kinds:
            m.__class__, m.momentum = kind, momentum
        for m, mode in modes:
            m.training = mode


def _pass_through(model, batches):
    seen = False
    with torch.no_grad():
        for x in batches:
            model(x)
            seen = True
    if not seen:
        raise ValueError("batches is empty; statistics need at least one batch")


# training


def freeze_batchnorm(model):
    """Keep all batch norms as they are, whatever is trained around them.

    They normalize with their running statistics, which do not move, and gamma and beta
    get no gradient. Neither `model.train()` wakes them, nor a copy, a pickle or
    `convert_sync_batchnorm`. The rest is not touched.

    Args:
        model: any module; changed in place: each batch norm becomes a
            `FrozenBatchNorm`. An optimizer made before may still apply weight decay to
            gamma and beta if they hold gradients: these are dropped.

    Returns:
        The model.

    Raises:
        ValueError: a batch norm has no running statistics, or a forward or parameters
            of its own kind, which freezing would lose. Nothing is changed.
    """
    norms = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, BATCH_NORMS) and not isinstance(m, FrozenBatchNorm)
    }
    for name, m in norms.items():
        _require_freezable(m, f"{name or 'the model'} ({_kind(m)})")
    for m in norms.values():
        m.eval()
        m.kind, m.__class__ = type(m), FrozenBatchNorm
        for p in m.parameters():
            p.requires_grad_(False)
            p.grad = None
    return model


def _require_freezable(bn, name):
    if bn.running_mean is None:
        raise ValueError(f"{name} has no running statistics to stay with")
    plain = {kind.forward for kind in NORM_AXES}
    if type(bn).forward not in plain or {"forward", "train"} & vars(bn).keys():
        raise ValueError(f"{name} has a forward or train of its own")
    if not {"weight", "bias"} <= bn._parameters.keys():
        raise ValueError(f"{name} computes its parameters; remove the parametrization")


def decay_groups(model, weight_decay):
    """Parameter groups of an optimizer that decays weights, and spares the rest.

    Args:
        model: any module.
        weight_decay: for weights of linear and convolutional layers; gamma, beta and
            biases get none.

    Returns:
        Two groups, as `torch.optim` takes them.
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
