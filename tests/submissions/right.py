"""Right answers that look different, are noisy, or come with odd company."""

from nbformat.v4 import new_code_cell, new_markdown_cell

from . import at, honest, index, solved, with_answer

HEAD = "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
GUARD = "    if len(x) < 2:\n        raise ValueError('need two samples')\n"
BODY = (
    GUARD
    + """\
    mu = x.mean(axis=0)
    var = x.var(axis=0)
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var
"""
)

ANSWERS = {
    "sums in place of means": HEAD
    + GUARD
    + """\
    N = x.shape[0]
    mu = x.sum(0) / N
    centered = x - mu
    var = (centered * centered).sum(0) / N
    return centered * (gamma / np.sqrt(var + eps)) + beta, mu, var
""",
    "einsum": HEAD
    + GUARD
    + """\
    n = np.asarray(len(x), x.dtype)
    mu = np.einsum("nd->d", x) / n
    c = x - mu
    var = np.einsum("nd,nd->d", c, c) / n
    return np.einsum("d,nd->nd", gamma / np.sqrt(var + eps), c) + beta, mu, var
""",
    "a loop over features": HEAD
    + GUARD
    + """\
    y, mu, var = np.empty_like(x), np.empty_like(gamma), np.empty_like(gamma)
    for d in range(x.shape[1]):
        mu[d], var[d] = x[:, d].mean(), x[:, d].var()
        y[:, d] = gamma[d] * (x[:, d] - mu[d]) / np.sqrt(var[d] + eps) + beta[d]
    return y, mu, var
""",
    "a class with __call__": """\
class Forward:
    def __call__(self, x, gamma, beta, eps=1e-5):
        if len(x) < 2:
            raise ValueError
        mu, var = x.mean(0), x.var(0)
        return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var

batchnorm_forward = Forward()
""",
    "a closure": """\
def make(axis):
    def forward(x, gamma, beta, eps=1e-5):
        if x.shape[axis] < 2:
            raise ValueError
        mu, var = x.mean(axis), x.var(axis)
        return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var
    return forward

batchnorm_forward = make(0)
""",
    "partial and a decorator": """\
import functools

def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@logged
def general(axis, x, gamma, beta, eps=1e-5):
    if len(x) < 2:
        raise ValueError
    mu, var = x.mean(axis), x.var(axis)
    return gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var

batchnorm_forward = functools.partial(general, 0)
""",
    "a list in place of a tuple": HEAD + BODY.replace("return ", "return [") + "    ]",
    "torch in place of NumPy": """\
import torch

def batchnorm_forward(x, gamma, beta, eps=1e-5):
    if len(x) < 2:
        raise ValueError("two samples")
    x, gamma, beta = map(torch.from_numpy, (x, gamma, beta))
    mu, var = x.mean(0), x.var(0, unbiased=False)
    return gamma * (x - mu) / torch.sqrt(var + eps) + beta, mu, var
""",
    "more than was asked for": HEAD + BODY.rstrip() + ", 'and', {'more': 1}\n",
    "prints, warnings and stderr": """\
import sys, warnings
"""
    + HEAD
    + """\
    print("shape", x.shape)
    print("noise", file=sys.stderr)
    warnings.warn("noise")
    np.log(np.zeros(3))
"""
    + BODY,
    "a test below, with assert": HEAD
    + BODY
    + """
_x = np.random.default_rng(0).normal(size=(8, 3))
_y, _, _ = batchnorm_forward(_x, np.ones(3), np.zeros(3))
assert abs(_y.mean()) < 1e-6
_y
""",
    "a failing test below": HEAD + BODY + "\nassert 1 == 2\n",
    "magics and a shell command": "%%time\n" + HEAD + BODY,
    "a shell command below": HEAD + BODY + "\n!echo hello\n%timeit -n1 -r1 1 + 1\n",
    "await and letters of other languages": """\
import asyncio
await asyncio.sleep(0)
def среднее(x, ось=0):
    return x.mean(ось)
"""
    + HEAD
    + BODY.replace("x.mean(axis=0)", "среднее(x)"),
    "compares itself with the reference afterwards": HEAD
    + BODY
    + """
from bn_helpers import norms
norms.batchnorm_forward(np.ones((2, 2)), 1, 0)
""",
    "calls the check itself": HEAD
    + BODY
    + """
import bn_checks as check
print(check.batchnorm_forward(batchnorm_forward))
""",
    "an error class of its own": "class TooFew(ValueError):\n    pass\n\n"
    + HEAD
    + BODY.replace("ValueError(", "TooFew("),
    "an error class of NumPy": HEAD
    + BODY.replace("ValueError(", "np.linalg.LinAlgError("),
    "an error class that wants more": "class TooFew(ValueError):\n"
    "    def __init__(self, count, *, wanted):\n        self.count = count\n\n"
    + HEAD
    + BODY.replace("ValueError('need two samples')", "TooFew(len(x), wanted=2)"),
    "exit() below": HEAD + BODY + "\nexit()\n",
    "sys.exit() below": "import sys\n" + HEAD + BODY + "\nsys.exit(1)\n",
}

EXTRA = {
    "a figure": "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    "a figure in this style": "plots.use_style()\nplt.plot([1])\nplots.show('x')",
    "the course's data": "a, labels = data.mnist_batch(8, seed=0)\na.shape",
    "a question to the student": "name = input('Who are you? ')",
    "an error": "1 / 0",
    "a syntax error": "for for for",
    "a library that is missing": "import a_library_that_nobody_has",
    "pip": "!pip --version",
    "a file of its own": "open('note.txt', 'w').write('hello')\n!cat note.txt",
    "a module of its own": "%%writefile helper.py\nVALUE = 3",
    "a slow start": "import time\ntime.sleep(1)",
    "widgets": "from ipywidgets import interact\ninteract(lambda k: k, k=(0, 3));",
    "display and HTML": "from IPython.display import HTML\ndisplay(HTML('<b>x</b>'))",
    "a thread": "import threading\nthreading.Thread(target=print, daemon=True).start()",
    "processes": (
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'print(1)']).returncode)"
    ),
}


def cases():
    yield honest("solved as the course does", solved())
    for name, source in ANSWERS.items():
        yield honest(f"answer: {name}", with_answer(source))
    for name, source in EXTRA.items():
        nb = solved()
        nb.cells.insert(index(nb, "batchnorm_forward"), new_code_cell(source))
        yield honest(f"extra cell: {name}", nb)
    yield honest("helper in a cell above", _helper(lambda nb: 2))
    yield honest("helper in a cell at the end", _helper(lambda nb: len(nb.cells)))
    yield honest("error class in a cell above", _error_class_above())
    yield honest("helper in another answer", _helper_in_another_answer())
    yield honest("import in the set-up cell", _in_the_lessons_cell("setup"))
    yield honest("helper in a demonstration", _in_the_lessons_cell("code"))
    nb = solved()
    nb.cells.insert(3, new_markdown_cell("# My notes\n<script>alert(1)</script>"))
    yield honest("notes of its own", nb)


def _helper(where):
    nb = solved()
    at(nb, "batchnorm_forward").source = (
        "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
        "    return my_forward(x, gamma, beta, eps)\n"
    )
    source = "def my_forward(x, gamma, beta, eps):\n" + BODY
    nb.cells.insert(where(nb), new_code_cell(source))
    return nb


def _error_class_above():
    nb = with_answer(HEAD + BODY.replace("ValueError(", "TooFew("))
    source = "class Mine(ValueError): ...\nclass TooFew(Mine, KeyError): ..."
    nb.cells.insert(2, new_code_cell(source))
    return nb


def _helper_in_another_answer():
    nb = with_answer(
        "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
        "    return my_forward(x, gamma, beta, eps)\n"
    )
    at(nb, "merge_statistics").source += "\n\ndef my_forward(x, gamma, beta, eps):\n"
    at(nb, "merge_statistics").source += BODY
    return nb


def _in_the_lessons_cell(kind):
    from . import COURSE

    nb = with_answer("import math\n" + ANSWERS["sums in place of means"])
    cell = at(nb, next(name for name, k in COURSE.kinds.items() if k == kind))
    cell.source = "from math import pi as N_OF_MINE\n" + cell.source
    cell.source += "\n\ndef my_root(v):\n    return np.sqrt(v) + 0 * N_OF_MINE\n"
    answer = at(nb, "batchnorm_forward")
    answer.source = answer.source.replace("np.sqrt", "my_root")
    return nb
