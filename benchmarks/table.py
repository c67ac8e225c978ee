"""What the benchmarks share: rows, interleaved timing, the machine's ceiling."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

SIDE = 1024  # of the square matrices whose product is the ceiling
TOLD_EVERY = 5  # seconds between two words to the person who waits


@dataclass(frozen=True)
class Row:
    """One line of the table; all times in seconds per unit of work.

    Attributes:
        work: what is done, with its sizes.
        dtype: of the numbers, or "-".
        peer: how others do it; empty where nobody is compared.
        theirs: the peer's time; None without a peer.
        ours: our time.
        floor: what theirs / ours must reach; None where nothing is promised.
        limit: the longest that ours may take; None where nothing is promised.
        flops: floating-point operations in our matrix products; None if there are none.
        ceiling: operations per second of a plain product, timed in the same rounds.
    """

    work: str
    dtype: str
    peer: str
    theirs: float | None
    ours: float
    floor: float | None = None
    limit: float | None = None
    flops: float | None = None
    ceiling: float | None = None

    @property
    def ratio(self):
        return None if self.theirs is None else self.theirs / self.ours

    @property
    def reached(self):
        """Whether the floor and the limit hold; None where nothing is promised."""
        promises = []
        if self.floor is not None:
            promises.append(self.ratio >= self.floor)
        if self.limit is not None:
            promises.append(self.ours <= self.limit)
        return all(promises) if promises else None

    @property
    def share(self):
        """Of the ceiling that our matrix products reach, everything else included."""
        return self.flops / self.ours / self.ceiling if self.flops else None


@dataclass(frozen=True)
class Product:
    """A plain matrix product to time, and its floating-point operations."""

    call: Callable
    flops: float


def matrix_product(library, dtype, side=SIDE):
    """The fastest thing a processor does with numbers: side × side times the same.

    Args:
        library: "numpy" or "torch", whichever the benchmark's own products use.
        dtype: of that library.
    """
    if library == "torch":
        import torch

        a, b = torch.randn(2, side, side, dtype=dtype)
    else:
        import numpy as np

        a, b = np.random.default_rng(0).normal(size=(2, side, side)).astype(dtype)
    return Product(lambda: a @ b, 2 * side**3)


def measure(calls, rounds, count=1, warm=True, say=None):
    """Name: median of the seconds that one call takes.

    The calls take turns, so that what else the machine does hits all alike.

    Args:
        calls: name -> function without arguments.
        count: calls per timing, more than one where a call is short.
        warm: call once before each timing, so that no other call's data are in the
            processor's memory; for long calls that is a waste.
    """
    times, told = {name: [] for name in calls}, time.perf_counter()
    for number in range(1, rounds + 1):
        for name, call in calls.items():
            if say and time.perf_counter() - told > TOLD_EVERY:
                told = time.perf_counter()
                say(f"round {number} of {rounds}: {name}")
            if warm:
                call()
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


def table(rows):
    """The rows as an aligned Markdown table; `rows` are pairs of a Row and threads."""
    head = ["work", "dtype", "threads", "peer", "theirs", "ours", "ratio", "promised"]
    lines = [[*head, "kept", "of ceiling"]]
    lines += [_cells(row, threads) for row, threads in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cells(row, threads):
    promised = [f"≥ {row.floor:g} ×"] if row.floor is not None else []
    promised += [f"≤ {row.limit:g} s"] if row.limit is not None else []
    return [
        row.work,
        row.dtype,
        str(threads),
        row.peer or "-",
        "-" if row.theirs is None else duration(row.theirs),
        duration(row.ours),
        "-" if row.ratio is None else f"{row.ratio:.2f}",
        ", ".join(promised) or "-",
        {None: "-", True: "yes", False: "NO"}[row.reached],
        "-" if row.share is None else f"{row.share:.0%}",
    ]


def duration(seconds):
    """Seconds with three digits and a unit: 1.23 s, 45.6 ms, 789 µs."""
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-6:#.3g} µs".replace(". ", " ")
