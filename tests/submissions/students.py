"""Right answers as students leave them, written without sight of the rebuild's rules.

Each function does to a solved notebook what one student did to theirs. Every one of
these worked in the student's own notebook, so nobody may lose a point.
"""

import json

from nbformat.v4 import new_code_cell, new_output

from grading import master
from tools.build import dumps

from .messy import LESSONS, Messy, cell_of, solved

HABITS = []


def student(number):
    """Register what one student of a lesson did."""

    def keep(habit):
        HABITS.append((number, habit))
        return habit

    return keep


class Book:
    """A solved notebook, and its cells by what they are for."""

    def __init__(self, lesson):
        self.course = master.lesson(lesson)
        self.nb = solved(self.course)

    def answer(self, name):
        return cell_of(self.nb, self.course.exercises[name].cell)

    def setup(self):
        return next(c for c in self.nb.cells if self.course.kinds.get(c.id) == "setup")

    def above(self, name, *sources):
        """New code cells above an answer."""
        at = self.nb.cells.index(self.answer(name))
        self.nb.cells[at:at] = [new_code_cell(source) for source in sources]

    def below(self, name, *sources):
        at = self.nb.cells.index(self.answer(name)) + 1
        self.nb.cells[at:at] = [new_code_cell(source) for source in sources]


@student("01")
def mounts_a_drive(book):
    text = "from google.colab import drive\ndrive.mount('/content/drive')"
    book.nb.cells.insert(0, new_code_cell(text))
    book.nb.cells.insert(1, new_code_cell("%cd /content/drive/MyDrive/bn\n!ls"))
    book.setup().source = "!pip install -q numpy matplotlib\n" + book.setup().source


@student("01")
def imports_what_is_not_there(book):
    extra = "import seaborn as sns\nsns.set_theme()\nimport plotly.express as px\n"
    book.setup().source = extra + book.setup().source


@student("01")
def imports_everything(book):
    book.answer("batchnorm_forward").source = (
        "from numpy import *\n\n"
        "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
        "    if len(x) < 2: raise ValueError('too few')\n"
        "    mu = mean(x, axis=0); v = var(x, axis=0)\n"
        "    return gamma * (x - mu) / sqrt(v + eps) + beta, mu, v\n"
    )


@student("01")
def annotates_everything(book):
    book.answer("batchnorm_forward").source = (
        "from __future__ import annotations\n"
        "from typing import NamedTuple, TypeAlias\n\n"
        "Array: TypeAlias = 'np.ndarray'\n\n"
        "class Normalized(NamedTuple):\n"
        "    y: Array\n    mu: Array\n    var: Array\n\n"
        "def batchnorm_forward(x: Array, gamma: Array, beta: Array,\n"
        "                      eps: float = 1e-5) -> Normalized:\n"
        "    if x.shape[0] < 2:\n"
        "        raise ValueError('expected two samples')\n"
        "    mu, var = x.mean(0), x.var(0)\n"
        "    return Normalized(gamma * (x - mu) / np.sqrt(var + eps) + beta, mu, var)\n"
    )


@student("01")
def has_a_class_and_an_alias(book):
    book.above(
        "batchnorm_inference",
        "class BatchNorm:\n    @staticmethod\n"
        "    def apply(x, g, b, m, v, eps=1e-5):\n"
        "        return g * (x - m) / np.sqrt(v + eps) + b\n",
    )
    book.answer("batchnorm_inference").source = "batchnorm_inference = BatchNorm.apply"


@student("01")
def decorates(book):
    book.above(
        "update_running_stats",
        "from functools import wraps\nimport time\n",
        "def timed(f):\n    @wraps(f)\n    def inner(*args, **kw):\n"
        "        t0 = time.perf_counter()\n        out = f(*args, **kw)\n"
        "        print(f.__name__, time.perf_counter() - t0)\n        return out\n"
        "    return inner\n",
    )
    answer = book.answer("update_running_stats")
    answer.source = "@timed\n" + answer.source


@student("01")
def leaves_the_stub_under_the_return(book):
    for name in book.course.exercises:
        cell = book.answer(name)
        cell.source += "\n    # YOUR CODE HERE\n    raise NotImplementedError()\n"


@student("01")
def times_the_cell(book):
    cell = book.answer("merge_statistics")
    cell.source = "%%time\n" + cell.source
    cell = book.answer("batchnorm_forward")
    cell.source += "\n\n%timeit batchnorm_forward(np.ones((9, 2)), 1, 0)"


@student("01")
def compares_with_the_reference(book):
    book.answer("batchnorm_forward").source += (
        "\n\nx = np.random.default_rng(0).normal(size=(8, 3))\n"
        "g, b = np.ones(3), np.zeros(3)\n"
        "want = norms.batchnorm_forward(x, g, b)[0]\n"
        "assert np.allclose(batchnorm_forward(x, g, b)[0], want)\n"
        "check.batchnorm_forward(batchnorm_forward)\n"
    )


@student("01")
def writes_greek(book):
    book.answer("batchnorm_forward").source = (
        "ε = 1e-5\n"
        "def batchnorm_forward(x, gamma, beta, eps=ε):\n"
        "\tif len(x) < 2:\n\t\traise ValueError('zu wenige Beispiele')   \n"
        "\tμ = x.mean(axis=0)\n\n\tσ2 = ((x - μ)**2).mean(axis=0)\n"
        "\treturn gamma*(x - μ)/np.sqrt(σ2 + eps) + beta, μ, σ2\n"
    )


@student("01")
def runs_a_main(book):
    book.answer("merge_statistics").source += (
        "\n\ndef main():\n    print(merge_statistics(1, 0.0, 0.0, 1, 2.0, 0.0))\n\n"
        "if __name__ == '__main__':\n    main()\n"
    )


@student("01")
def uses_torch_for_it(book):
    book.answer("batchnorm_inference").source = (
        "import torch\nimport torch.nn.functional as F\n\n"
        "def batchnorm_inference(x, gamma, beta, mean, var, eps=1e-5):\n"
        "    m, v, g, b = map(torch.tensor, (mean, var, gamma, beta))\n"
        "    return F.batch_norm(torch.tensor(x), m, v, g, b, eps=eps).numpy()\n"
    )


@student("01")
def has_a_module_of_their_own(book):
    book.above(
        "batchnorm_inference",
        "%%writefile mybn.py\nimport numpy as np\n"
        "def inference(x, gamma, beta, m, v, eps=1e-5):\n"
        "    return gamma * (x - m) / np.sqrt(v + eps) + beta\n",
        "%load_ext autoreload\n%autoreload 2",
    )
    book.answer("batchnorm_inference").source = (
        "import mybn\n\n"
        "def batchnorm_inference(x, gamma, beta, mean, var, eps=1e-5):\n"
        "    return mybn.inference(x, gamma, beta, mean, var, eps)\n"
    )


@student("05")
def shares_a_helper_and_partials(book):
    book.above(
        "layernorm_forward",
        "from functools import partial\n"
        "def normalize(x, axes, eps):\n"
        "    mu = x.mean(axis=axes, keepdims=True)\n"
        "    return (x - mu) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)\n",
        "normalize_last = lambda x, k, eps: normalize(x, tuple(range(-k, 0)), eps)\n"
        "careful = partial(normalize_last, eps=1e-5)\n",
    )
    book.answer("layernorm_forward").source = (
        "def layernorm_forward(x, gamma, beta, eps=1e-5):\n"
        "    return gamma * careful(x, gamma.ndim, eps=eps) + beta\n"
    )


@student("05")
def calls_the_last_answer(book):
    book.answer("instancenorm_forward").source = (
        "def instancenorm_forward(x, gamma, beta, eps=1e-5):\n"
        "    if np.prod(x.shape[2:]) == 1:\n        raise ValueError('one pixel')\n"
        "    return groupnorm_forward(x, gamma, beta, x.shape[1], eps)\n"
    )


@student("05")
def writes_all_answers_into_one_cell(book):
    names = list(book.course.exercises)
    code = "\n\n".join(book.answer(name).source for name in names)
    for name in names:
        book.nb.cells.remove(book.answer(name))
    book.nb.cells.append(new_code_cell(code))


@student("05")
def has_a_base_class(book):
    book.above(
        "rmsnorm_forward",
        "from dataclasses import dataclass, field\nfrom abc import ABC, abstractmethod",
        "class Norm(ABC):\n    @abstractmethod\n    def scale(self, x): ...\n"
        "    def __call__(self, x, gamma):\n        return gamma * x / self.scale(x)\n",
        "@dataclass(frozen=True)\nclass RMS(Norm):\n    eps: float = 1e-5\n"
        "    axes: tuple = field(default=(-1,))\n    def scale(self, x):\n"
        "        return np.sqrt((x**2).mean(self.axes, keepdims=True) + self.eps)\n",
    )
    book.answer("rmsnorm_forward").source = (
        "def rmsnorm_forward(x, gamma, eps=1e-5):\n"
        "    return RMS(eps, tuple(range(-gamma.ndim, 0)))(x, gamma)\n"
    )


@student("05")
def duplicates_and_drafts(book):
    cell = book.answer("spatial_batchnorm_forward")
    old = cell.source.replace("mu, var = rows.mean(0)", "mu, var = rows.mean(1)")
    book.above("spatial_batchnorm_forward", old, "# v2, still wrong\n" + old)
    book.below("spatial_batchnorm_forward", cell.source)


@student("05")
def defines_the_helper_further_down(book):
    cell = book.answer("groupnorm_forward")
    cell.source = cell.source.replace("C % num_groups", "not divides(num_groups, C)")
    book.nb.cells.append(
        new_code_cell("def divides(a, b):\n    return b % a == 0\ndivides(2, 4)")
    )


@student("06")
def makes_the_function_in_a_factory(book):
    cell = book.answer("adam_step")
    body = cell.source.replace("\n", "\n    ")
    cell.source = (
        f"def make_adam():\n    calls = 0\n    {body}\n"
        "    return adam_step\n\nadam_step = make_adam()"
    )


@student("06")
def counts_with_a_global(book):
    book.above("adam_step", "n_calls = 0\nhistory = []\nCACHE = dict(a=1)")
    cell = book.answer("adam_step")
    name = "adam_step"
    cell.source += (
        f"\n\n_first = {name}\ndef {name}(*a, **k):\n    global n_calls\n"
        "    n_calls += 1\n    history.append(n_calls)\n    return _first(*a, **k)\n"
    )


@student("06")
def inherits_the_network(book):
    cell = book.answer("fully_connected_net")
    base = cell.source.replace("class FullyConnectedNet", "class BaseNet")
    book.above("fully_connected_net", base)
    cell.source = (
        "class FullyConnectedNet(BaseNet):\n"
        "    def __init__(self, params, reg=0.0):\n"
        "        super().__init__(params, reg)\n"
        "        self.name = type(self).__name__\n"
    )


@student("06")
def falls_back_to_numpy(book):
    book.setup().source += (
        "\ntry:\n    import cupy as xp\nexcept ImportError:\n    xp = np\n"
        "get_ipython().run_line_magic('matplotlib', 'inline')\n"
    )
    cell = book.answer("affine_norm_relu_forward")
    cell.source = cell.source.replace("np.", "xp.")


@student("06")
def resets_and_imports_again(book):
    book.above("adam_step", "%reset -f", "import numpy as np\nimport math as m")
    cell = book.answer("adam_step")
    cell.source = cell.source.replace("m_hat = m /", "m_hat = m * 1.0 /")


@student("03")
def forbids_gradients_and_plots(book):
    cell = book.answer("record_activations")
    cell.source = "@torch.no_grad()\n" + cell.source
    book.answer("saturation_fraction").source += (
        "\n\nplt.plot(saturation_fraction(np.linspace(0, 1, 50)[:, None], 0, 1))\n"
        "plt.title('fraction'); plt.show()\n"
        "from IPython.display import display, Latex\ndisplay(Latex('$x$'))\n"
    )


@student("03")
def leaves_scratch_that_ends_the_program(book):
    book.above(
        "saturation_fraction",
        "import sys\nsys.exit()",
        "input('press enter')",
        "exit()",
        "raise SystemExit('stop here')",
        "raise KeyboardInterrupt",
        "assert False, 'to do'",
    )


@student("03")
def changes_the_environment(book):
    book.setup().source += (
        "\nimport os, sys, warnings\nos.chdir('..')\n"
        "sys.path.append('/content/drive/MyDrive')\n"
        "warnings.filterwarnings('ignore')\nnp.seterr(all='raise')\n"
        "np.set_printoptions(precision=3)\nos.environ['CUDA_VISIBLE_DEVICES'] = ''\n"
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'\n"
    )
    cell = book.answer("record_activations")
    cell.source = cell.source.replace("twin(x)", "twin.to(device)(x.to(device))")


@student("10")
def writes_lambdas(book):
    book.answer("center_writer").source = (
        "center = lambda a, **k: a - a.mean(-1, **k)\n"
        "center_writer = lambda W, b: (center(W, keepdims=True), center(b))"
    )


@student("10")
def keeps_helpers_in_a_namespace(book):
    book.above(
        "qk_norm_attention",
        "import types\nT = types.SimpleNamespace()\n"
        "T.unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)",
        "def softmax_rows(z):\n    z = z - z.max(-1, keepdims=True)\n"
        "    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)",
    )
    book.answer("qk_norm_attention").source = (
        "def qk_norm_attention(q, k, v, gain):\n"
        "    weights = softmax_rows(gain * (T.unit(q) @ T.unit(k).T))\n"
        "    return weights @ v, weights\n"
    )


@student("10")
def uses_a_constant_of_a_loop(book):
    book.above(
        "residual_block",
        "PLACES = {}\nfor i, p in enumerate(('pre', 'post')):\n    PLACES[p] = i",
    )
    cell = book.answer("residual_block")
    cell.source = cell.source.replace('place == "pre"', "PLACES.get(place) == 0")


@student("08")
def captures_the_output(book):
    cell = book.answer("effective_learning_rate")
    cell.source = "%%capture out\n" + cell.source + "\nprint('defined')\n"
    cell = book.answer("gradient_predictiveness")
    cell.source = cell.source.replace("np.", "numpy.")
    book.setup().source = "import numpy\n" + book.setup().source


@student("08")
def shows_the_source(book):
    book.answer("noisy_batchnorm").source += (
        "\n\nimport inspect\nprint(inspect.getsource(noisy_batchnorm))\n"
        "noisy_batchnorm??\nhelp(noisy_batchnorm)\n"
    )


def windows(data):
    """As an editor on Windows saves it: with a BOM, and with CRLF in file and cells."""
    text = data.decode().replace("\\n", "\\r\\n").replace("\n", "\r\n")
    return b"\xef\xbb\xbf" + text.encode()


def old_format(data):
    """As a tool of 2015 saves it: no ids, an old minor, all text in one string."""
    nb = json.loads(data)
    nb["nbformat_minor"] = 0
    nb["metadata"] = {"colab": {"provenance": [], "toc_visible": True}}
    for cell in nb["cells"]:
        cell.pop("id", None)
        cell["source"] = "".join(cell["source"])
        cell["metadata"] = {"collapsed": True, "scrolled": False}
    return json.dumps(nb, indent=4).encode()


def with_outputs(data):
    """As it is saved after running: outputs, pictures, counts and widgets."""
    nb = json.loads(data)
    picture = {"image/png": "iVBORw0KGgo=" * 50_000, "text/plain": ["<Figure>"]}
    for number, cell in enumerate(nb["cells"]):
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            out = new_output("display_data", picture) if number < 20 else None
            cell["outputs"] = [out] if out else []
    nb["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    return json.dumps(nb, ensure_ascii=False).encode()


FILES = (("01", windows), ("05", old_format), ("10", with_outputs), ("06", windows))


def cases():
    names = {name[:2]: name for name in [*LESSONS, *master.lessons()]}
    for number, habit in HABITS:
        book = Book(names[number])
        habit(book)
        data = dumps(book.nb).encode()
        yield Messy(f"student {habit.__name__}, {number}", names[number], data)
    for number, change in FILES:
        data = change(dumps(Book(names[number]).nb).encode())
        yield Messy(f"file {change.__name__}, {number}", names[number], data)
