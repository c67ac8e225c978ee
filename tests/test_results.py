"""results.json is what its command writes, and lesson 06 says of it what it holds."""

import numpy as np
import pytest

from bn_experiments import results


def test_the_file_holds_what_the_lesson_reads():
    found = results.load()
    assert set(found) == {"four hidden layers", "sweep"}
    for study, count in zip(found.values(), (len(results.SEEDS), 20), strict=True):
        for arms in study.values():
            assert set(arms) == set(results.ARMS)
            for values in arms.values():
                assert len(values) == count
                assert all(0 < value < 1 for value in values)


def test_best_accuracies_are_those_of_a_stack_trained_alone():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 4)), rng.integers(10, size=200)
    both = results.best_accuracies((x, y, x, y), [6], 0.1, np.array([3, 5]))
    one = results.best_accuracies((x, y, x, y), [6], 0.1, 5)
    for name, arms in both.items():
        for arm, values in arms.items():
            assert values[1] == one[name][arm]
    assert both["best training"]["batch"] >= both["last training"]["batch"]


@pytest.mark.long
def test_the_command_finds_the_file_again():
    """To rounding: another machine's sums move a photo or two to another class."""
    again, stored = results.measure(), results.load()
    for study, kinds in stored.items():
        for kind, arms in kinds.items():
            for arm, values in arms.items():
                np.testing.assert_allclose(again[study][kind][arm], values, atol=0.03)
