"""Lesson 06's trainings on photos of 32 x 32 pixels, which exceed the lesson's time.

`python -m bn_experiments.results` trains and writes results.json beside this file: it
is packed with the code, so that the notebook finds it wherever it runs. A `long` test
trains again and compares.
"""

import json
from pathlib import Path

import numpy as np

from bn_helpers import data, network

FILE = Path(__file__).with_name("results.json")
ARMS = {"plain": None, "batch": "batch"}
SEEDS = (0, 1, 2, 3, 4, 5)
SCALES = np.logspace(-4, 0, 20)


def photos():
    """1,000 photos to train on and 1,000 to validate, (N, 3072), and their classes."""
    raw = data.load_cifar10_small()
    x, y = raw.x_train[:1000].reshape(1000, -1), raw.y_train[:1000]
    mean_image = x.mean(0)
    return x - mean_image, y, raw.x_val.reshape(1000, -1) - mean_image, raw.y_val


def best_accuracies(data, hidden, scales, seeds):
    """Train with Adam for ten epochs, in both arms.

    Args:
        data: as `photos` returns it.
        hidden: widths of the hidden layers.
        scales, seeds: of the initial weights; they broadcast.

    Returns:
        By "last training" and "best training", "best validation", then by arm: lists of
        accuracies, 0 to 1.
    """
    found = {"last training": {}, "best training": {}, "best validation": {}}
    for arm, norm in ARMS.items():
        dims = (data[0].shape[1], *hidden, 10)
        net = network.FullyConnectedNet(dims, norm, weight_scale=scales, seed=seeds)
        history = network.Solver(net, data, network.Adam(), seed=seeds).train()
        found["last training"][arm] = history.train_accuracy[-1].tolist()
        found["best training"][arm] = history.train_accuracy.max(0).tolist()
        found["best validation"][arm] = history.val_accuracy.max(0).tolist()
    return found


def measure():
    """Sections 7 and 8 of lesson 06 at 32 x 32: what results.json holds."""
    data = photos()
    return {
        "four hidden layers": best_accuracies(data, [100] * 4, 0.02, np.array(SEEDS)),
        "sweep": best_accuracies(data, [50] * 6, SCALES, 0),
    }


def load():
    """What `measure` found when results.json was written."""
    return json.loads(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    FILE.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
