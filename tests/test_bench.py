"""The benchmark table: sound sums, equal work, one process each; tiny, never timed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as front
from benchmarks import (
    first_figure,
    grading,
    mnist_epoch,
    norm_kernels,
    table,
    weight_scale_sweep,
)
from benchmarks.table import Row, duration, matrix_product, measure

ROOT = Path(__file__).resolve().parents[1]


def row(**changed):
    facts = {"work": "a job", "dtype": "float32", "peer": "others"}
    return Row(**{**facts, "theirs": 3.0, "ours": 2.0, **changed})


def quiet(text):
    pass


# rows and their sums


def test_a_row_knows_its_ratio_and_whether_its_promise_is_kept():
    assert row().ratio == 1.5 and row().reached is None
    assert row(floor=1.5).reached is True and row(floor=1.6).reached is False
    alone = row(peer="", theirs=None, limit=3)
    assert alone.ratio is None and alone.reached is True
    assert row(limit=1.9).reached is False
    assert row(limit=1.9, floor=1).reached is False


def test_the_share_of_the_ceiling_is_of_operations_per_second():
    assert row(flops=100.0, ceiling=200.0).share == 0.25
    assert row().share is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.34, "12.3 s"),
        (1, "1.00 s"),
        (0.9999, "1.00 s"),
        (0.5, "500 ms"),
        (4.5e-3, "4.50 ms"),
        (80.7e-6, "80.7 µs"),
        (123.4, "123 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(seconds, text):
    assert duration(seconds) == text


def test_the_table_is_aligned_and_says_what_is_missed():
    rows = [(row(floor=2), 1), (row(work="a longer job", theirs=None, peer=""), 2)]
    text = table.table(rows)
    head, rule, first, second = text.splitlines()
    assert len({len(line) for line in text.splitlines()}) == 1
    assert [cell.strip() for cell in first.strip("|").split("|")] == (
        "a job|float32|1|others|3.00 s|2.00 s|1.50|≥ 2 ×|NO|-".split("|")
    )
    assert second.split("|")[3].strip() == "2" and set(rule) == set("|- ")


def test_calls_take_turns_and_the_median_counts(monkeypatch):
    now, called = [0.0], []
    steps = {"a": iter([1, 9, 2]), "b": iter([5, 5, 5])}

    def call(name):
        called.append(name)
        now[0] += next(steps[name])

    monkeypatch.setattr(table.time, "perf_counter", lambda: now[0])
    calls = {name: lambda name=name: call(name) for name in steps}
    said = []
    seconds = measure(calls, rounds=3, warm=False, say=said.append)
    assert seconds == {"a": 2, "b": 5} and called == list("ababab")
    assert said == ["round 2 of 3: a", "round 2 of 3: b", "round 3 of 3: b"]


def test_a_warm_call_is_not_timed():
    called = []
    measure({"a": lambda: called.append(1)}, rounds=2, count=3)
    assert len(called) == 2 * (1 + 3)


@pytest.mark.parametrize(
    ("library", "dtype"), [("numpy", np.float32), ("torch", torch.float64)]
)
def test_the_ceiling_is_a_product_of_the_dtype_in_question(library, dtype):
    product = matrix_product(library, dtype, side=8)
    assert product.call().dtype == dtype and product.flops == 2 * 8**3


# what is timed does the same


def test_norm_kernels_compares_three_ways_in_two_precisions():
    rows = list(norm_kernels.rows(quiet, sizes=(((16, 8), 1, 1),)))
    assert [r.dtype for r in rows] == ["float32", "float32", "float64", "float64"]
    assert {r.peer for r in rows} == set(norm_kernels.PEERS.values())
    assert all(r.ours > 0 and r.reached is None for r in rows)


def test_norm_kernels_times_nothing_that_is_wrong(monkeypatch):
    right = norm_kernels.contestants((16, 8), np.float64)
    assert norm_kernels.largest_difference(right) < 1e-12
    wrong = {**right, "ours": lambda: [1.01 * r for r in right["ours"]()]}
    monkeypatch.setattr(norm_kernels, "contestants", lambda *args: wrong)
    with pytest.raises(RuntimeError, match="16 × 8: the results differ by"):
        next(norm_kernels.rows(quiet, sizes=(((16, 8), 1, 1),)))


def test_mnist_epoch_trains_both_ways_alike():
    [found] = mnist_epoch.rows(quiet, images=256, rounds=1)
    assert "256 images" in found.work and found.theirs > 0
    pairs = 784 * 256 + 3 * 256 * 256 + 256 * 10
    assert mnist_epoch.flops(1) == 2 * (3 * pairs - 784 * 256)


def test_mnist_epoch_times_nothing_that_differs(monkeypatch):
    monkeypatch.setattr(mnist_epoch, "largest_difference", lambda *data: 1e-7)
    with pytest.raises(RuntimeError, match="both train differently.*1e-07"):
        next(mnist_epoch.rows(quiet, images=256))


TINY = {"rounds": 1, "epochs": 1, "n_train": 100}


def test_the_sweep_trains_stacked_networks_as_single_ones():
    scales = weight_scale_sweep.SCALES[::10]
    many, one = weight_scale_sweep.rows(quiet, scales=scales, **TINY)
    assert many.work.startswith("4 networks") and one.work.startswith("1 network ")
    assert many.flops == 4 * one.flops and many.share > 0 and many.floor == 2


def test_the_sweep_times_nothing_that_differs(monkeypatch):
    monkeypatch.setattr(weight_scale_sweep, "EPS", 1e-3)
    with pytest.raises(RuntimeError):
        next(weight_scale_sweep.rows(quiet, **TINY))


@pytest.mark.long
@pytest.mark.sandbox
def test_both_graders_give_a_student_the_same_points():
    [found] = grading.rows(quiet, work={"01_forward_pass": (1, 1)})
    assert found.work.startswith("1 submissions") and found.floor == 3
    assert found.theirs > 0 and found.ours > 0


def test_graders_that_disagree_are_not_timed():
    class Graded:
        def __init__(self, points):
            self.points = lambda: {("ann", "check-batchnorm-forward"): points}

    grading.assert_equal_results(Graded(3.0), Graded(3.0))
    with pytest.raises(RuntimeError, match="'ann'.*: 3.0 there, 2.0 here"):
        grading.assert_equal_results(Graded(3.0), Graded(2.0))


def test_the_first_figure_is_the_first_image_of_a_fresh_kernel():
    [found] = first_figure.rows(quiet, rounds=1)
    assert found.ours > 0 and found.limit == 3
    with pytest.raises(RuntimeError, match="a cell failed: division by zero"):
        first_figure.run_to_figure(["1 / 0"])


# the front


def test_each_benchmark_has_a_process_and_threads_of_its_own(monkeypatch):
    code = (
        "import json, os, sys;"
        "print(json.dumps({'work': os.environ['OMP_NUM_THREADS'] + sys.argv[1],"
        " 'dtype': '-', 'peer': '', 'theirs': None, 'ours': 1.0}))"
    )
    monkeypatch.setattr(front, "CHILD", (sys.executable, "-c", code))
    before = dict(os.environ)
    [found] = front.rows_of("mnist_epoch")
    assert found == Row("2mnist_epoch", "-", "", None, 1.0)
    assert dict(os.environ) == before


def test_a_child_prints_its_rows(monkeypatch, capsys):
    monkeypatch.setattr(norm_kernels, "rows", lambda say: [row(), row(floor=2)])
    front.main(["--json", "norm_kernels"])
    lines = capsys.readouterr().out.splitlines()
    assert [Row(**json.loads(line)) for line in lines] == [row(), row(floor=2)]


def run_front(monkeypatch, rows, names=("norm_kernels", "mnist_epoch")):
    def rows_of(name):
        if rows is None:
            raise RuntimeError(f"{name} stopped; the reason is above")
        return rows

    monkeypatch.setattr(front, "rows_of", rows_of)
    return front.main([*names])


def test_one_table_progress_and_the_machine_are_printed(monkeypatch, capsys):
    assert run_front(monkeypatch, [row(floor=1)]) == 0
    out, err = capsys.readouterr()
    assert out.count("| a job ") == 2 and f"numpy {np.__version__}" in out
    assert "2 threads, about" in err and "[2/2] mnist_epoch" in err


def test_a_missed_promise_or_a_stopped_benchmark_fails(monkeypatch, capsys):
    assert run_front(monkeypatch, [row(floor=9)]) == 1
    assert "| NO " in capsys.readouterr().out
    assert run_front(monkeypatch, None) == 1
    assert "mnist_epoch stopped" in capsys.readouterr().err


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        front.main(["everything"])
    assert "no benchmark is called everything" in capsys.readouterr().err


def test_a_benchmark_that_stops_says_so(monkeypatch):
    words = (sys.executable, "-c", "import sys; sys.exit(3)")
    monkeypatch.setattr(front, "CHILD", words)
    with pytest.raises(RuntimeError, match="norm_kernels stopped"):
        front.rows_of("norm_kernels")


def test_the_whole_takes_about_six_minutes_as_announced():
    assert 330 < sum(seconds for _, seconds in front.MODULES.values()) < 390


def test_the_door_leads_there():
    words = [sys.executable, "-m", "benchmarks", "--help"]
    found = subprocess.run(words, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert found.returncode == 0 and "norm_kernels" in found.stdout


def test_the_front_door_hands_over_with_nbgrader_at_hand(monkeypatch):
    spec = importlib.util.spec_from_file_location("course", ROOT / "course.py")
    course = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(course)
    monkeypatch.chdir(ROOT)
    asked, started = [], []
    monkeypatch.setattr(course, "environment", lambda *extras: asked.append(extras))
    monkeypatch.setattr(course, "hand_over", started.append)
    args = course.parse(["bench", "norm_kernels"])
    args.run(args)
    assert asked == [("test", "grading")]
    assert started == [[None, "-m", "benchmarks", "norm_kernels"]]
