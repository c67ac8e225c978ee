"""Right forms for lesson 03."""

import copy

import numpy as np
import torch


def record_activations(model, x, kind):
    seen, handles = [], []
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, kind):
            handles.append(
                module.register_forward_hook(
                    lambda m, inputs, output: seen.append(output.detach().clone())
                )
            )
    with torch.no_grad():
        other(x)
    for handle in handles:
        handle.remove()
    return seen


def saturation_fraction(a, low, high, margin=0.05):
    if not low < high:
        raise ValueError("low has to be below high")
    edge = margin * (high - low)
    axes = 0
    return ((a < low + edge) | (a > high - edge)).mean(axes)


def update_to_data_ratio(model, step):
    weights = [p for p in model.parameters() if p.ndim >= 2]
    before = [p.detach().clone() for p in weights]
    step()
    return [
        ((new - old).norm() / old.norm()).item()
        for old, new in zip(before, weights, strict=True)
    ]


def layer_signals(a):
    axes, L = 1, len(a)
    var = a.var(axes)
    signals = np.sqrt(var.mean(1))
    factor = (signals[-1] / signals[0]) ** (1 / (L - 1))
    return signals, factor
