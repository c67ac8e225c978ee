"""Drivers of lesson 04, training on all of MNIST."""

import contextlib
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import MISSING, Unusable, plain

FIXTURE = (6, 5, 5, 3)  # widths of the network that drivers build


def drive_make_mlp(student, dims, activation, norm, x, y, seed):
    """Logits in training mode, in evaluation mode, and there after one step."""
    with _new_modules(seed):
        made = student(dims, getattr(nn, activation), norm and getattr(nn, norm))
    if not isinstance(made, nn.Module):
        raise Unusable(f"returned a {type(made).__name__}, want a torch.nn.Module")
    model = fill(made, seed).train()
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    logits = model(x)
    learned = [p for p in model.parameters() if p.requires_grad]
    loss = F.cross_entropy(logits, y)
    slopes = torch.autograd.grad(loss, learned, allow_unused=True) if learned else ()
    with torch.no_grad():
        evaluated = model.eval()(x)
        for p, slope in zip(learned, slopes, strict=True):
            p.sub_(0 if slope is None else slope)
        return logits, evaluated, model(x)


def drive_train_step(student, x, y, lr, seed):
    """Three steps, one on each batch, of a network that has just been evaluated."""
    model = fixture(seed).eval()
    batches = zip(torch.from_numpy(x), torch.from_numpy(y), strict=True)
    losses = [_number(student(model, xb, yb, lr), "the loss") for xb, yb in batches]
    return _joined_numbers(losses), parameters(model), running_statistics(model)


def drive_evaluate(student, x, y, batch_size, training, seed):
    """Loss, accuracy, and the network's statistics and mode after the evaluation."""
    model, sizes = fixture(seed).train(bool(training)), [0]
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    result = student(model, torch.from_numpy(x), torch.from_numpy(y), batch_size)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise Unusable("returned no pair, want two values: loss, accuracy")
    loss, accuracy = map(_number, result, ("the loss", "the accuracy"))
    too_many = max(0, max(sizes) - batch_size)
    return loss, accuracy, running_statistics(model), int(model.training), too_many


def drive_mended_fit(student, x, y, x_test, y_test, lr, epochs, batch_size, seed):
    """Accuracies per epoch, and the network after the last."""
    model = fixture(seed)
    data = map(torch.from_numpy, (x, y, x_test, y_test))
    history = student(model, *data, lr, epochs, batch_size)
    if history is None:
        raise Unusable("returned None, want the accuracies of each epoch")
    accuracies = [[_number(v, "an accuracy") for v in pair] for pair in history]
    accuracies = plain("history", accuracies)
    return accuracies, running_statistics(model), parameters(model)


def fixture(seed):
    """A sigmoid batch-norm network in float64; seed decides every number in it."""
    layers = []
    with _new_modules(seed):
        for fan_in, fan_out in pairwise(FIXTURE):
            hidden = nn.BatchNorm1d(fan_out), nn.Sigmoid()
            layers += [nn.Linear(fan_in, fan_out), *hidden]
    return fill(nn.Sequential(*layers[:-2]), seed)


def fill(model, seed):
    """Set parameters and running statistics; biases that a norm removes become 0."""
    affine, norm = (np.random.default_rng([seed, k]) for k in range(2))
    modules = list(model.modules())
    last = max(
        (i for i, m in enumerate(modules) if isinstance(m, nn.Linear)), default=0
    )
    normed = any(isinstance(m, (nn.BatchNorm1d, nn.LayerNorm)) for m in modules)
    for i, module in enumerate(modules):
        if isinstance(module, nn.Linear):
            _set(module.weight, affine.normal(size=module.weight.shape))
            bias = affine.normal(size=module.out_features)
            _set(module.bias, 0 * bias if normed and i != last else bias)
        elif isinstance(module, nn.BatchNorm1d):
            D = module.num_features
            _set(module.weight, norm.uniform(0.5, 2, D))
            _set(module.bias, norm.normal(size=D))
            _set(module.running_mean, norm.normal(size=D))
            _set(module.running_var, norm.uniform(0.5, 2, D))
    return model


def _set(tensor, values):
    if tensor is not None:
        tensor.data.copy_(torch.from_numpy(values))


def parameters(model):
    """All parameters, one after the other."""
    return _joined(model.parameters())


def running_statistics(model):
    """Running means and variances of all batch norms, one after the other."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    return _joined(t for m in norms for t in (m.running_mean, m.running_var))


def _joined(tensors):
    flat = [t.detach().numpy().ravel() for t in tensors if t is not None]
    return np.concatenate(flat) if flat else np.zeros(0)


def _joined_numbers(numbers):
    """Numbers as an array, or the words for the first that is none."""
    words = [number for number in numbers if isinstance(number, str)]
    return words[0] if words else np.array(numbers)


def _number(value, what):
    """A student's number; in float32, which is as exact as it may be."""
    try:
        return np.float32(float(value))
    except (TypeError, ValueError, RuntimeError):
        return f"{MISSING}{what} is a {type(value).__name__}, want a number"


@contextlib.contextmanager
def _new_modules(seed):
    """Inside, modules are born in float64, and their random numbers belong to seed."""
    dtype, state = torch.get_default_dtype(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed is slow
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_rng_state(state)
