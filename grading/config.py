"""The one configuration of the grader: limits.toml beside this file."""

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bn_helpers", "bn_experiments", "bn_checks")  # what notebooks import
FILE = Path(__file__).with_name("limits.toml")


@dataclass(frozen=True)
class Limits:
    """What one submission may use; `limits.toml` says what each means, and its unit."""

    start: float
    cell: float
    submission: float
    stop: float
    address_space: int
    resident: int
    disk: int
    message: int
    processes: int
    open_files: int
    notebook: int
    unpacked: int
    entries: int
    depth: int
    cells: int
    source: int


@cache
def limits(path=FILE):
    """The limits that a file sets.

    Raises:
        ValueError: a limit is missing, unknown, or no number above 0.
    """
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8")).values()
    found = {name: value for table in tables for name, value in table.items()}
    known = {field.name for field in fields(Limits)}
    if found.keys() != known:
        names = ", ".join(sorted(found.keys() ^ known))
        raise ValueError(f"{path}: missing or unknown: {names}")
    for name, value in found.items():
        if type(value) not in (int, float) or not value > 0:
            raise ValueError(f"{path}: {name} is {value!r}, expected a number above 0")
    return Limits(**found)
