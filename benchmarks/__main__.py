"""Time the course beside other ways of doing the same; print one table.

Each benchmark runs in a Python of its own, whose number of threads is set before NumPy
and PyTorch start. Run this on an idle machine: two busy threads per core can slow
PyTorch down several times.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time

from tools import pin

from .table import Row, table

# module: threads, and seconds that it usually takes on two cores
MODULES = {
    "norm_kernels": (1, 12),
    "first_figure": (1, 10),
    "mnist_epoch": (2, 55),
    "weight_scale_sweep": (2, 120),
    "grading": (1, 180),
}
CHILD = (sys.executable, "-m", "benchmarks", "--json")
VERSIONS = ("numpy", "torch", "torchvision", "nbgrader")


def say(text):
    print(text, file=sys.stderr, flush=True)


def emit(name):
    """Measure in this process; print each row as a line of JSON."""
    module = importlib.import_module(f"benchmarks.{name}")
    for row in module.rows(lambda text: say(f"    {text}")):
        print(json.dumps(dataclasses.asdict(row)), flush=True)


def rows_of(name):
    """The rows of one benchmark, measured in a process of its own.

    Raises:
        RuntimeError: it stopped before its end; its own words are on stderr.
    """
    with subprocess.Popen(
        [*CHILD, name],
        env=pin(dict(os.environ), MODULES[name][0]),
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        rows = [Row(**json.loads(line)) for line in process.stdout]
    if process.returncode:
        raise RuntimeError(f"{name} stopped; the reason is above")
    return rows


def machine():
    """What the numbers depend on: processor, system, versions."""
    found = {"Python": platform.python_version()}
    for name in VERSIONS:
        if any(importlib.metadata.distributions(name=name)):
            found[name] = importlib.metadata.version(name)
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    cores, system = os.cpu_count(), platform.platform(terse=True)
    return f"{_processor()}, {cores} cores; {system}; {versions}"


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":")[1] for line in file if line.startswith("model n")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def bench(names):
    """Run the named benchmarks, print the table; whether all is well."""
    usual = sum(MODULES[name][1] for name in names)
    say(f"Measuring; on two idle cores that usually takes {usual} seconds in total.")
    began, found, trouble = time.monotonic(), [], []
    for number, name in enumerate(names, start=1):
        threads, seconds = MODULES[name]
        what = f"{threads} thread{'s' if threads > 1 else ''}, about {seconds} s"
        say(f"[{number}/{len(names)}] {name}: {what}")
        try:
            found += [(row, threads) for row in rows_of(name)]
        except RuntimeError as error:
            trouble.append(str(error))
    print(table(found))
    print("\nMedians of interleaved runs. ratio = theirs / ours.")
    print("of ceiling: our matrix products against a plain 1024 × 1024 product.")
    print(machine())
    say(f"measured in {time.monotonic() - began:.0f} s")
    for problem in trouble:
        say(problem)
    return not trouble and all(row.reached is not False for row, _ in found)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    parser.add_argument("--json", metavar="NAME", help="rows of one, in this process")
    args = parser.parse_args(argv)
    if args.json:
        return emit(args.json)
    if unknown := set(args.names) - set(MODULES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    return 0 if bench(args.names or list(MODULES)) else 1


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")
    sys.exit(main())
