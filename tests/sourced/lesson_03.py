"""Published mistakes of lesson 03 that no bank lists: edits have to explain them."""

from bn_helpers import record


def _hooked(model, x, kind, keep):
    """Run x through the model with a hook on the modules of a kind."""
    chosen = [module for module in model.modules() if isinstance(module, kind)]
    handles = [module.register_forward_hook(keep) for module in chosen]
    model(x)
    for handle in handles:
        handle.remove()


def without_copy(model, x, kind):
    seen = []
    with record.preserved(model):
        _hooked(model, x, kind, lambda m, i, out: seen.append(out.detach()))
    return seen


def whole_layer(a, low, high, margin=0.05):
    return record.saturation_fraction(a, low, high, margin).mean()


def margin_not_scaled(a, low, high, margin=0.05):
    return ((a < low + margin) | (a > high - margin)).mean(axis=0)


def per_sample(a, low, high, margin=0.05):
    edge = margin * (high - low)
    return ((a < low + edge) | (a > high - edge)).mean(axis=1)


def _weights(model):
    return [p for p in model.parameters() if p.ndim >= 2]


def _ratios(model, step, measure, weights=_weights):
    before = [w.detach().clone() for w in weights(model)]
    step()
    pairs = zip(before, weights(model), strict=True)
    return [measure(old, new.detach()).item() for old, new in pairs]


def reference_kept(model, step):
    before = [w.detach() for w in _weights(model)]
    step()
    pairs = zip(before, _weights(model), strict=True)
    return [((new - old).norm() / old.norm()).item() for old, new in pairs]


def upside_down(model, step):
    return _ratios(model, step, lambda old, new: old.norm() / (new - old).norm())


def new_weights_below(model, step):
    return _ratios(model, step, lambda old, new: (new - old).norm() / new.norm())


def logarithm(model, step):
    def measure(old, new):
        return ((new - old).norm() / old.norm()).log10()

    return _ratios(model, step, measure)


def hooks_left(model, x, kind):
    seen = []
    with record.preserved(model):
        for module in model.modules():
            if isinstance(module, kind):
                module.register_forward_hook(
                    lambda m, i, out: seen.append(out.detach().clone())
                )
        model(x)
    return seen


MISTAKES = (
    (
        "record_activations",
        "no copy",
        "KamitaniLab/bdpy #16; captum #165",
        without_copy,
    ),
    (
        "saturation_fraction",
        "one number for the layer",
        "makemore part 3, cell 15",
        whole_layer,
    ),
    (
        "saturation_fraction",
        "margin not scaled",
        "makemore part 3, cell 15",
        margin_not_scaled,
    ),
    (
        "saturation_fraction",
        "wrong axis",
        "makemore part 3, cell 24; cs231n.github.io #180",
        per_sample,
    ),
    (
        "update_to_data_ratio",
        "reference for copy",
        "pytorch/tutorials #188; kmzzhang/nbi #11; easy-few-shot-learning #129",
        reference_kept,
    ),
    ("update_to_data_ratio", "ratio upside down", "lczero-training #42", upside_down),
    (
        "update_to_data_ratio",
        "new weights below the line",
        "makemore part 3, cell 14",
        new_weights_below,
    ),
    ("update_to_data_ratio", "logarithm", "makemore part 3, cell 18", logarithm),
    ("record_activations", "hooks left behind", "captum #834", hooks_left),
)
