"""Figures: one style, sliders that follow, text that says the same."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

from bn_helpers import plots

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _style():
    with plt.style.context("default"):
        plots.use_style()
        yield
        plt.close("all")


def test_norms_differ_by_color_and_by_line():
    assert plots.COLORS.keys() == plots.LINES.keys()
    assert len(set(plots.COLORS.values())) == len(plots.COLORS)
    assert len(set(plots.LINES.values())) == len(plots.LINES)


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="'bacth'.*batch"):
        plots.style("bacth")
    assert plots.style("batch", linestyle=":")["linestyle"] == ":"


def test_figures_are_opaque_on_dark_pages():
    assert matplotlib.colors.to_rgba(plt.figure().get_facecolor())[3] == 1


def test_show_prints_the_text(capsys):
    plots.show("two lines that cross.")
    assert capsys.readouterr().out == "Figure: two lines that cross.\n"
    plots.show("word " * 40)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 88


def test_in_a_notebook_the_text_is_the_pictures_alt_text(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(plt, "get_backend", lambda: "inline")
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    figure = plt.figure()
    plots.show("two lines that cross.")
    alt = {"image/png": {"alt": "two lines that cross."}}
    assert shown == [((figure,), {"metadata": alt})]
    assert not plt.get_fignums()  # or the kernel would show it once more
    assert capsys.readouterr().out == plots.printed("two lines that cross.") + "\n"


def test_digits_tiles_row_by_row():
    images = np.arange(3)[:, None, None] * np.ones((3, 2, 2))
    ax = plots.digits(images, labels=[0, 1, 2], columns=2)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (4, 4)
    assert (sheet[:2, 2:] == 1).all() and (sheet[2:, :2] == 2).all()
    assert "0 1 2" in ax.get_xlabel()


def test_dragging_a_slider_redraws():
    drawn = []

    def draw(slope=1.0):
        drawn.append(slope)
        plt.figure(figsize=(2, 1)).gca().plot([0, slope])

    sliders = plots.drag(draw, slope=(0, 2, 0.5))
    slider, image = sliders.children
    before = image.value
    slider.value = 2.0
    assert drawn == [1.0, 2.0] and image.value != before
    assert bytes(image.value).startswith(b"\x89PNG") and not plt.get_fignums()
    assert repr(sliders) == "(sliders for slope: run this cell, then drag)"
