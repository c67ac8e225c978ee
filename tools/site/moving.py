"""The numbers behind the figures that move, computed by the cells of lesson 01."""

import json
from contextlib import redirect_stdout
from io import StringIO

import matplotlib.pyplot as plt
import nbformat
import numpy as np

from bn_helpers import data, norms, plots

LESSON = "01_forward_pass"
BELOW = "evaluate(x, ones, zeros, running_mean"  # in the cell that compares the modes
UPDATES = 200  # as many as the lesson makes before it compares the modes
SETUP, LAYER = "setup", "z = a @ W + b"  # the cells that define what is drawn


def lesson_values(notebooks):
    """What the first cells of lesson 01 define: the digits and one layer of them.

    Raises:
        LookupError: the lesson has no such cells any more.
    """
    nb = nbformat.read(notebooks / f"{LESSON}.ipynb", as_version=4)
    names = {}
    with plt.rc_context(), redirect_stdout(StringIO()):
        for cell in nb.cells:
            if cell.id == SETUP or LAYER in cell.source:
                exec(cell.source, names)
    if "z" in names:
        return names
    raise LookupError(
        f"{LESSON} has no cell with `{LAYER}`; tools/site/moving.py draws"
    )


def numbers(notebooks):
    """What the scripts draw, as lists: one unit's inputs, one digit, the pixels.

    Returns: a dictionary with
        unit: (128,) pre-activations of the first unit, as lesson 01 draws them
        pixel_std: standard deviation of each pixel that varies in the batch
        others: the four samples that nobody moves, the lesson's plain numbers: inputs
            of digits are a tenth as wide as their outputs, too close for one axis
        digit: (784,) the first digit's pixels, 0 to 255; its input is unit[0]
        mates: (16, 127) inputs of the digits beside it in sixteen batches
        mu, var: (200,) batch statistics, as they reach the running statistics
    """
    lesson = lesson_values(notebooks)
    images = data.load_mnist().x_train[:10_000].reshape(-1, 784) / 255
    x_all = images @ lesson["W"][:, :1] + lesson["b"][:1]
    draw = np.random.default_rng(4)
    batches = [x_all[draw.choice(10_000, 128)] for _ in range(UPDATES)]
    caches = [norms.normalize_forward(batch, axes=(0,))[1] for batch in batches]
    std = lesson["a"].std(0)
    return {
        "unit": lesson["z"][:, 0].tolist(),
        "pixel_std": std[std > 0].tolist(),
        "others": [-1.5, -0.5, 0.0, 0.5],
        "digit": (lesson["a"][0] * 255).round().astype(int).tolist(),
        "mates": x_all[draw.choice(10_000, (16, 127)), 0].tolist(),
        "mu": [float(cache.mu[0, 0]) for cache in caches],
        "var": [float(cache.var[0, 0]) for cache in caches],
    }


def as_script(values):
    return f"const NUMBERS = {json.dumps(values, separators=(',', ':'))};\n"


def modes(values):
    """One digit's output in both modes: the arithmetic of the figure below.

    Returns: training outputs by batch size, 16 each, and evaluation outputs by the
    number of updates.
    """
    digit = values["unit"][0]
    training = {}
    for N in (1, 2, 8, 32, 128):
        batches = [[digit, *mates[: N - 1]] for mates in values["mates"]]
        columns = np.array(batches).T  # (N, 16): each batch is one feature
        training[N] = norms.normalize_forward(columns, axes=(0,))[0][0]
    mean, var, evaluation = np.zeros(1), np.ones(1), {}
    for t, (mu, batch_var) in enumerate(zip(values["mu"], values["var"], strict=True)):
        if t in (0, 40):
            evaluation[t] = _evaluated(digit, mean, var)
        mean, var = norms.update_running_stats(
            mean, var, np.array([mu]), np.array([batch_var]), N=128
        )
    evaluation[UPDATES] = _evaluated(digit, mean, var)
    return training, evaluation


def _evaluated(digit, mean, var):
    one, zero = np.ones(1), np.zeros(1)
    y = norms.batchnorm_inference(np.array([[digit]]), one, zero, mean, var)
    return float(y[0, 0])


def draw_modes(values):
    """The static figure of the two modes.

    Returns: the picture as PNG bytes, and its alt text.
    """
    training, evaluation = modes(values)
    with plt.style.context("default"):
        plots.use_style()
        figure, ax = plt.subplots(figsize=(7, 3))
        for at, outputs in enumerate(training.values()):
            label = "training, 16 batches" if at == 0 else None
            ax.plot([at] * 16, outputs, "o", color=plots.COLORS["batch"], label=label)
        for (t, y), line in zip(evaluation.items(), (":", "--", "-"), strict=True):
            label = f"evaluation, {t} updates"
            ax.axhline(y, color=plots.COLORS["plain"], linestyle=line, label=label)
        ax.set_xticks(range(len(training)), training)
        ax.set(xlabel="batch size in training", ylabel="output for one digit")
        wide, narrow = np.ptp(training[2]), np.ptp(training[128])
        ax.set_title(
            f"One digit's output: spread {wide:.2f} in pairs, {narrow:.2f} in 128s"
        )
        ax.legend(fontsize="small")
        return plots.png(figure), (
            f"the output of one digit for one unit. In training mode, sixteen batches "
            f"give outputs that spread over {wide:.2f} in batches of 2 and over "
            f"{narrow:.2f} in batches of 128; alone it is always 0. In evaluation mode "
            f"there is one value: {', '.join(f'{y:.2f}' for y in evaluation.values())} "
            f"after {', '.join(map(str, evaluation))} updates."
        )
