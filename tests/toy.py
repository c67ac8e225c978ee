"""A small classification problem that tests of several modules train on."""

import numpy as np

from bn_helpers.data import Data


def three_classes():
    """Three classes in ten dimensions, with features of unlike scale, as arrays."""
    rng = np.random.default_rng(0)
    scale, centers = np.geomspace(0.1, 3, 10), rng.normal(size=(3, 10))
    y = rng.integers(0, 3, 300)
    x = scale * (centers[y] + rng.normal(size=(300, 10))) + 0.5
    return Data(x[:200], y[:200], x[200:], y[200:])
