"""What surrounds batch norm in PyTorch code: fold it, freeze it, renew its statistics.

`fold_model` makes batch norm disappear from a network that only evaluates, and
`recalibrate_statistics` collects running statistics anew. `freeze_batchnorm` keeps a
pretrained layer as it is while the rest trains, `decay_groups` keeps weight decay away
from gamma and beta, and `GhostBatchNorm1d` normalizes parts of a batch.
"""

import copy
from functools import partial

import torch
from torch import fx, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


# folding


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
        layer: nn.Linear for inputs (N, D), nn.Conv1d, nn.Conv2d or nn.Conv3d.
        bn: the batch norm that follows it, in evaluation mode.
        name, bn_name: what errors call the two.

    Returns:
        A new layer, with a bias. It computes in the dtype of `layer`; the folding
        itself is done in float64.

    Raises:
        TypeError: the layer is of another kind.
        ValueError: bn is in training mode, has no running statistics, or has another
            number of features than the layer has outputs.
    """
    if not isinstance(layer, FOLDABLE):
        kinds = ", ".join(kind.__name__ for kind in FOLDABLE)
        raise TypeError(f"{name} is a {_kind(layer)}, expected one of {kinds}")
    _require_fixed(bn, bn_name)
    if len(layer.weight) != bn.num_features:
        raise ValueError(
            f"{name} has {len(layer.weight)} outputs, but {bn_name} has "
            f"{bn.num_features} features"
        )
    one = torch.ones(bn.num_features)
    gamma, beta = (one, 0 * one) if bn.weight is None else (bn.weight, bn.bias)
    given = layer.weight, layer.bias, gamma, beta, bn.running_mean, bn.running_var
    exact = [None if t is None else t.detach().double() for t in given]
    folded = copy.deepcopy(layer)
    for key, value in zip(
        ("weight", "bias"), fold_batchnorm(*exact, bn.eps), strict=True
    ):
        setattr(folded, key, nn.Parameter(value.to(layer.weight.dtype)))
    return folded


def fold_model(model, only=None):
    """A copy of the model in which layers have swallowed the batch norms after them.

    Args:
        model: in evaluation mode, and such that torch.fx can trace it.
        only: names of the batch norms to fold; all of them by default.

    Returns:
        A new model with the same outputs up to rounding. In the place of each folded
        batch norm stands nn.Identity.

    Raises:
        ValueError: the model cannot be traced; or a batch norm is in training mode, or
            its input does not come from one linear or convolutional layer that feeds
            nothing else. The message names it.
    """
    modules = dict(model.named_modules())
    norms = [name for name, m in modules.items() if isinstance(m, BATCH_NORMS)]
    if unknown := set(only or ()) - set(norms):
        raise ValueError(f"only names no batch norm of the model: {sorted(unknown)}")
    norms = norms if only is None else list(only)
    for name in norms:
        _require_fixed(modules[name], name)
    before = _layers_before(model, modules)
    folded = copy.deepcopy(model)
    for name in norms:
        if name not in before:
            raise ValueError(f"{name} cannot be folded: it is never called by itself")
        layer, problem = before[name]
        if problem:
            raise ValueError(f"{name} cannot be folded: {problem}")
        fused = fold_layer(modules[layer], modules[name], layer, name)
        _replace(folded, layer, fused)
        _replace(folded, name, nn.Identity())
    return folded


def _layers_before(model, modules):
    """For each batch norm that is called: the layer before it, or why there is none."""
    try:
        nodes = list(fx.symbolic_trace(model).graph.nodes)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}"
        ) from error
    calls = [node.target for node in nodes if node.op == "call_module"]
    found = {}
    for node in nodes:
        if node.op == "call_module" and isinstance(modules[node.target], BATCH_NORMS):
            found[node.target] = _layer_before(node, modules, calls)
    return found


def _layer_before(node, modules, calls):
    source = node.args[0]
    before = modules.get(source.target) if source.op == "call_module" else None
    if not isinstance(before, FOLDABLE):
        what = source.name if before is None else f"{source.target} ({_kind(before)})"
        return None, f"its input is {what}, not a linear or convolutional layer"
    if len(source.users) > 1:
        return None, f"others use the output of {source.target} too"
    if calls.count(source.target) > 1 or calls.count(node.target) > 1:
        return None, f"it or {source.target} is called more than once"
    return source.target, None


def _require_fixed(bn, name):
    if not isinstance(bn, BATCH_NORMS):
        raise TypeError(f"{name} is a {_kind(bn)}, expected a batch norm")
    if bn.running_mean is None:
        raise ValueError(f"{name} ({_kind(bn)}) has no running statistics to fold")
    if bn.training:
        raise ValueError(
            f"{name} ({_kind(bn)}) is in training mode, where its output depends on "
            "the batch; call eval() first"
        )


def _kind(module):
    return type(module).__name__


def _replace(model, name, module):
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


# statistics


def recalibrate_statistics(model, batches):
    """Collect running statistics anew: plain averages over these batches.

        running_mean = mean over batches of mu
        running_var  = mean over batches of the unbiased variance

    Each batch counts the same. Batch norm normalizes with the batch while it collects;
    everything else, such as dropout, works as in evaluation.

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
    modes = [(m, m.training) for m in model.modules()]
    before = [(m, m.momentum, copy.deepcopy(m.state_dict())) for m in norms]
    try:
        model.eval()
        for m in norms:
            m.training, m.momentum = True, None  # None: a plain average
            m.reset_running_stats()
        _pass_through(model, batches)
    except BaseException:
        for m, _, state in before:
            m.load_state_dict(state)
        raise
    finally:
        for m, momentum, _ in before:
            m.momentum = momentum
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
    get no gradient. `model.train()` does not wake them. The rest is not touched.

    Args:
        model: any module; changed in place. An optimizer made before may still apply
            weight decay to gamma and beta if they hold gradients: these are dropped.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.eval()
            module.train = partial(_stay, module)  # model.train() comes by here
            for p in module.parameters():
                p.requires_grad_(False)
                p.grad = None
    return model


def _stay(module, mode=True):
    return module


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
        return torch.cat(
            [
                super(GhostBatchNorm1d, self).forward(part)
                for part in x.split(self.ghost)
            ]
        )
