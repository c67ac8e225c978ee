"""Drivers of lesson 07, the debugging clinic.

PyTorch is imported where it is used: most exercises of the lesson do without it.
"""

import numpy as np


def drive_ward(student, cosine, size):
    """Show the student each patient; return its answers by fault, six arrays (T,)."""
    patients = zip(cosine, size, strict=True)
    answers = [np.asarray(student(*patient)).reshape(6) for patient in patients]
    return tuple(np.array(answers, dtype=int).T)


def drive_torch_batchnorm(student, x, dy, gamma, beta):
    """Train the module on the batches x; then evaluate it, save it and load it.

    x and dy are (steps, N, D). Gradients and outputs come from the last step.
    """
    import torch

    module = _new(student, x.shape[2])
    with torch.no_grad():
        module.gamma.copy_(torch.from_numpy(gamma))
        module.beta.copy_(torch.from_numpy(beta))
    for batch, upstream in zip(torch.from_numpy(x), torch.from_numpy(dy), strict=True):
        batch = batch.clone().requires_grad_()
        module.zero_grad()
        y = module(batch)
        y.backward(upstream)
    gradients = batch.grad, module.gamma.grad, module.beta.grad
    running = module.running_mean, module.running_var
    loaded = _new(student, x.shape[2])
    loaded.load_state_dict(module.state_dict(), strict=False)
    probe = torch.from_numpy(x[0])
    evaluated = module.eval()(probe), loaded.eval()(probe)
    buffers = dict(module.named_buffers())
    held = int(any(value.requires_grad for value in running))
    loose = len({"running_mean", "running_var"} - buffers.keys())
    return y, *gradients, *running, *evaluated, held, loose


def _new(student, D):
    """The student's module in float64 and in training mode."""
    import torch

    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return student(D).train()
    finally:
        torch.set_default_dtype(dtype)
