"""Fold the batch norms of a whole model, or say which one cannot be folded, and why.

`bn_helpers.practice.fold_layer` folds one pair of layers. This module finds the pairs:
torch.fx traces the model before and after, and both traces have to tell the same story.
"""

import copy
import inspect
from collections import namedtuple

import torch
from torch import fx, nn

from bn_helpers.practice import (
    AXES,
    BATCH_NORMS,
    NORM_AXES,
    FrozenBatchNorm,
    GhostBatchNorm1d,
    _kind,
    _known,
    _require_fixed,
    fold_layer,
)


def fold_model(model, only=None):
    """A copy of the model in which layers have swallowed the batch norms after them.

    Args:
        model: in evaluation mode, and such that torch.fx can trace it.
        only: names of the batch norms to fold; by default all but those in blocks that
            the forward pass does not enter, such as a head for training only.

    Returns:
        A new model with the same outputs up to rounding: weights are folded in float64
        and rounded once, to the dtype that they had. In float32 that is 1e-5 of the
        largest output, but for models that round more than that themselves, such as
        torchvision's wide_resnet101_2: 2e-5 from its float64 outputs, folded or not.
        In the place of each folded batch norm stands nn.Identity; where the batch norm
        took inputs of several numbers of axes, one that raises a ValueError for those
        that do not fold, such as (N, C, L) after nn.Linear.

    Raises:
        ValueError: the model cannot be traced; or a batch norm is in training mode, or
            its input does not come from one plain linear or convolutional layer that
            feeds nothing else and whose weight nobody else reads. The message names it.
    """
    modules = dict(model.named_modules())
    norms = [name for name, m in modules.items() if isinstance(m, BATCH_NORMS)]
    if unknown := set(only or ()) - set(norms):
        raise ValueError(f"only names no batch norm of the model: {sorted(unknown)}")
    norms = norms if only is None else list(only)
    for name in norms:
        _require_fixed(modules[name], name or "the model")
    before = _traces(model, norms)
    if only is None:
        norms = [name for name in norms if _reached(name, before, modules)]
    layers = {name: _layer_before(name, before, modules) for name in norms}
    fused = {
        layer: fold_layer(modules[layer], modules[name], layer, name)
        for name, layer in layers.items()
    }
    folded = copy.deepcopy(model)
    for name, layer in layers.items():
        _replace(folded, layer, fused[layer])
        _replace(folded, name, _nothing(modules[layer], modules[name], name))
    _require_same_way(folded, before, norms)
    return folded


class Folded(nn.Identity):
    """What is left of a batch norm: a look at the number of axes."""

    def __init__(self, name, axes):
        super().__init__()
        self.name, self.axes = name, axes

    def forward(self, x):
        """x.

        Raises:
            ValueError: x has another number of axes than the layer was folded for.
        """
        if x.ndim != self.axes:
            raise ValueError(
                f"{self.name} was folded for inputs with {self.axes} axes, got shape "
                f"{tuple(x.shape)}; there it would normalize another axis"
            )
        return x

    def extra_repr(self):
        return f"axes={self.axes}"


Trace = namedtuple("Trace", "nodes computed entered")


class _Tracer(fx.Tracer):
    """torch.fx's, which notes the names of all modules that it enters."""

    def __init__(self):
        super().__init__()
        self.entered = {""}

    def call_module(self, m, forward, args, kwargs):
        self.entered.add(self.path_of_module(m))
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, module, name):
        ours = FrozenBatchNorm, GhostBatchNorm1d, Folded
        return type(module) in ours or super().is_leaf_module(module, name)


def _traces(model, norms):
    """What forward does: with its optional arguments given, and with their defaults."""
    given = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in given if p.default is not p.empty}
    try:
        if "forward" in vars(model):
            raise TypeError("its forward is set on the instance")
        choices = [None, defaults] if defaults else [None]
        return [_trace(model, chosen) for chosen in choices]
    except Exception as error:
        raise ValueError(
            f"{_kind(model)} cannot be traced by torch.fx, so {_listed(norms)} cannot "
            f"be folded: {error}"
        ) from error


def _require_same_way(folded, before, norms):
    """Forward does what it did, with other modules: it reaches them by name only."""
    try:
        after = list(map(_record, _traces(folded, norms)))
    except ValueError:
        after = None
    if after != list(map(_record, before)):
        raise ValueError(
            f"{_listed(norms)} cannot be folded: the model also uses what is in them "
            "or in the layers before them without calling them by name"
        )


def _listed(norms):
    return ", ".join(name or "the model" for name in norms) or "nothing"


def _trace(model, concrete):
    """What one pass does: fx nodes, tensors it computed, modules it entered."""
    known, tracer = set(vars(model)), _Tracer()
    nodes = list(tracer.trace(model, concrete).nodes)
    computed = {key: vars(model).pop(key) for key in set(vars(model)) - known}
    return Trace(nodes, computed, tracer.entered)


def _record(trace):
    """A trace as plain text and numbers, to compare."""
    nodes = [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in trace.nodes]
    return nodes, {k: torch.as_tensor(v).tolist() for k, v in trace.computed.items()}


def _layer_before(name, traces, modules):
    """Name of the layer whose output alone the batch norm takes, in every trace."""
    found, problem = set(), None
    for nodes in (trace.nodes for trace in traces):
        calls = [n for n in nodes if n.op == "call_module" and n.target == name]
        layer, problem = None, "it is never called by itself"
        if calls:
            layer, problem = _source(calls[0], nodes, modules)
        found.add(layer)
        if len(found) > 1:
            problem = problem or "what stands before it depends on the arguments"
        if problem:
            raise ValueError(f"{_listed([name])} cannot be folded: {problem}")
    return found.pop()


def _reached(name, traces, modules):
    """Whether forward enters the module, or the block that it is a part of."""
    block = name.rpartition(".")[0]
    while type(modules[block]).forward is nn.Module.forward:  # a list of modules, say
        block = block.rpartition(".")[0]
    return any({name, block} & trace.entered for trace in traces)


def _source(node, nodes, modules):
    """The layer a batch norm's call takes its input from, and what keeps it apart."""
    source = node.args[0] if node.args else node.kwargs["input"]
    called = isinstance(source, fx.Node) and source.op == "call_module"
    layer, bn = modules.get(source.target) if called else None, modules[node.target]
    if type(layer) not in AXES:
        what = source if layer is None else f"{source.target} ({_kind(layer)})"
        return None, (
            f"its input is {what}, not a linear or convolutional layer as PyTorch "
            "makes it"
        )
    if len(source.users) > 1:
        return None, f"others use the output of {source.target} too"
    calls = [modules[n.target] for n in nodes if n.op == "call_module"]
    if any(sum(m in call.modules() for call in calls) > 1 for m in (layer, bn)):
        return None, f"it or {source.target} is called more than once"
    own = [t for m in (layer, bn) for t in (*m.parameters(), *m.buffers())]
    read = [_tensor(n.target, modules) for n in nodes if n.op == "get_attr"]
    if any(a is b for a in own for b in read):
        return None, f"others read a parameter or buffer of it or {source.target} too"
    return source.target, None


def _tensor(name, modules):
    owner, _, leaf = name.rpartition(".")
    return getattr(modules[owner], leaf, None)


def _nothing(layer, bn, name):
    axes = AXES[type(layer)]
    return nn.Identity() if NORM_AXES[_known(bn)] == {axes} else Folded(name, axes)


def _replace(model, name, module):
    """Put module in the place of the one called name, whatever else that is called."""
    old = model.get_submodule(name)
    for other, m in list(model.named_modules(remove_duplicate=False)):
        if m is old:
            parent, _, leaf = other.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module)
