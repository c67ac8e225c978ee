"""One style for every figure of the course, and the few figures used more than once.

A norm has the same color and line style everywhere, so that figures can be compared
and read in gray. Colors are Okabe & Ito's, which color-blind readers can tell apart.
"""

import inspect
import io
import textwrap
from math import isfinite
from numbers import Real
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

COLORS = {
    "plain": "#D55E00",
    "batch": "#0072B2",
    "layer": "#009E73",
    "group": "#CC79A7",
    "instance": "#E69F00",
    "rms": "#56B4E9",
}
LINES = {
    "plain": "--",
    "batch": "-",
    "layer": "-.",
    "group": ":",
    "instance": (0, (5, 1, 1, 1, 1, 1)),
    "rms": (0, (1, 1)),
}


def use_style():
    """Switch matplotlib to the style of the course."""
    plt.style.use(Path(__file__).with_name("course.mplstyle"))


def style(norm, **more):
    """Keyword arguments of `ax.plot` for one norm: its color and line style.

    Args:
        norm: "plain" (no norm), "batch", "layer", "group", "instance" or "rms".
        more: further keyword arguments, which win.

    Raises:
        ValueError: there is no such norm.
    """
    if norm not in COLORS:
        raise ValueError(f"norm is {norm!r}, expected one of {', '.join(COLORS)}")
    return {"color": COLORS[norm], "linestyle": LINES[norm], **more}


def show(text):
    """Show the current figure and print what it shows, for eyes and ears alike.

    In a notebook the text is stored with the picture, too, as its alt text: in the
    output's metadata, `metadata["image/png"]["alt"]`. The reading edition uses it.

    Args:
        text: one or two sentences, computed from the data where they state a finding.
    """
    if "inline" in plt.get_backend():
        from IPython.display import display

        display(plt.gcf(), metadata={"image/png": {"alt": text}})
        plt.close()
    else:
        plt.show()
    print(printed(text))


def printed(text):
    """The lines that `show` prints below a figure."""
    return textwrap.fill(f"Figure: {text}", 88)


def guess(value, truth, ax=None):
    """Draw what a learner guessed beside what came out, as horizontal lines.

    Args:
        value: the guess, a number, or None before one was typed.
        truth: the number that was to be guessed, on the figure's vertical axis.
        ax: where to draw; the current axes if None. Its legend comes after this call.

    Returns:
        A sentence for `show`; empty if value is None, and then nothing is drawn.

    Raises:
        ValueError: value is neither None nor a finite number.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"guess is {value!r}, expected a number such as 0.5, or None")
    ax = plt.gca() if ax is None else ax
    ax.axhline(truth, color="black", linewidth=1, label=f"came out: {truth:.3g}")
    ax.axhline(value, color="black", linestyle="--", label=f"your guess: {value:.3g}")
    return f" Your guess: {value:.3g}; it came out as {truth:.3g}."


def digits(images, labels=None, ax=None, columns=16):
    """Draw images as one picture, row by row.

    Args:
        images: (N, H, W) or (N, H * W) with H = W, any range; 0 is white.
        labels: one value per image, written below the picture's rows, or None.
        ax: where to draw; the current axes if None.
        columns: images per row; the last row is filled with white.

    Returns:
        The axes.
    """
    ax = plt.gca() if ax is None else ax
    side = round((images[0].size) ** 0.5)
    sheet = _tile(images.reshape(-1, side, side), columns)
    ax.imshow(sheet, cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if labels is not None:
        ax.set_xlabel("labels: " + " ".join(map(str, labels)))
    return ax


def drag(draw, **ranges):
    """A figure with sliders: drag one, and the figure follows.

    Args:
        draw: called with one keyword argument per slider; draws a new figure. Its
            defaults are where the sliders start.
        ranges: for each slider (lowest, highest, step).

    Returns:
        A widget. It needs a running kernel; a stored notebook shows only its name, so
        each one has a static figure beside it.
    """
    from ipywidgets import FloatSlider, Image, VBox

    class Sliders(VBox):
        def __repr__(self):  # what a reader sees where no kernel runs
            return f"(sliders for {' and '.join(ranges)}: run this cell, then drag)"

    starts = inspect.signature(draw).parameters
    sliders = {
        name: FloatSlider(starts[name].default, min=low, max=high, step=step)
        for name, (low, high, step) in ranges.items()
    }
    image = Image(format="png")

    def redraw(_=None):
        draw(**{name: slider.value for name, slider in sliders.items()})
        image.value = png(plt.gcf())

    for name, slider in sliders.items():
        slider.description = name
        slider.observe(redraw, "value")
    redraw()
    return Sliders([*sliders.values(), image])


def _tile(images, columns):
    """(N, H, W) as one (rows * H, columns * W) array."""
    columns = min(columns, len(images))
    n, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, h, w), images.dtype)
    sheet[:n] = images
    return sheet.reshape(rows, columns, h, w).swapaxes(1, 2).reshape(rows * h, -1)


def png(figure):
    """The figure as PNG bytes; closed, so that it is not shown twice."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return buffer.getvalue()
