"""Drivers: what runs beside the student's code, and sends arrays back.

Where a check cannot simply call the student's function with arrays, its driver does:
it builds the network or the function that a name stands for, uses the student's object
on it, and returns arrays. When a submission is graded, drivers run in the sandbox and
the rest of the check in the grader's process. So a driver imports the standard library,
NumPy, PyTorch and other drivers, and holds no reference implementation.
"""

import numpy as np

MISSING = "missing: "  # how the words begin for an output that is not there


class Unusable(Exception):
    """What the student's object returned is not what the exercise asks for."""


def tried(name, method, *args):
    """A result as an array of its own, or the words that say why there is none."""
    results = []
    words = raised(name, lambda: results.append(method(*args)))
    return words or plain(f"the result of {name}", results[0])


def raised(name, method, *args):
    """The words that say what a call raised, or ""."""
    try:
        method(*args)
    except NotImplementedError:
        return f"{MISSING}{name} raised NotImplementedError"
    except Exception as error:
        return f"{MISSING}{name} raised {type(error).__name__}: {error}"
    return ""


def plain(name, value):
    """A value as an array of its own, or the words that say why it is none."""
    if value is None:
        return f"{MISSING}{name} is None, want an array of numbers"
    try:
        if hasattr(value, "detach"):  # a torch tensor is welcome too
            value = value.detach().cpu().numpy()
        array = np.array(value)
    except Exception:
        array = np.array(None)
    if array.dtype.kind in "fiu":
        return array
    if isinstance(value, np.ndarray):
        return f"{MISSING}{name} is an array of {value.dtype}, want numbers"
    kind = type(value).__name__
    if isinstance(value, (tuple, list)):
        kind += f" of {len(value)} values"
    return f"{MISSING}{name} is a {kind}, want an array of numbers"
