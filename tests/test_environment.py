"""One set of ranges: pyproject.toml, environment.yml, the lock, what is installed."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")

BASE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = PROJECT["optional-dependencies"]
ALL = BASE + [Requirement(line) for lines in EXTRAS.values() for line in lines]
NAMES = [requirement.name for requirement in ALL]
PINS = [Requirement(line) for line in LOCK.splitlines() if re.match(r"\w", line)]

CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def pins(name):
    return [pin for pin in PINS if pin.name == name]


def test_conda_has_the_same_ranges():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    words = [line.split() for line in conda["dependencies"]]
    ranges = {CONDA_NAMES.get(name, name): wanted for name, wanted, *_ in words}
    assert ranges.pop("python") == PROJECT["requires-python"]
    assert {name: set(wanted.split(",")) for name, wanted in ranges.items()} == {
        requirement.name: set(map(str, requirement.specifier)) for requirement in BASE
    }


def test_conda_takes_the_cpu_build():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (torch,) = [line for line in conda["dependencies"] if line.startswith("pytorch ")]
    assert torch.endswith(" cpu*")
    assert conda["channels"] == ["conda-forge", "nodefaults"]


@pytest.mark.parametrize("requirement", ALL, ids=NAMES)
def test_the_lock_holds_every_package_in_its_range(requirement):
    found = pins(requirement.name)
    assert found
    for pin in found:
        (exact,) = pin.specifier
        assert exact.operator == "=="
        assert requirement.specifier.contains(exact.version)


@pytest.mark.parametrize("requirement", ALL, ids=NAMES)
def test_what_is_installed_is_in_its_range(requirement):
    version = importlib.metadata.version(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True)


def test_the_lock_says_how_it_was_made_and_names_no_place():
    header, command = LOCK.splitlines()[:2]
    assert "uv pip compile" in command and header.startswith("#")
    assert {"--universal", "--all-extras"} <= set(shlex.split(command))
    for line in LOCK.splitlines()[2:]:
        assert not re.search(r"://|^-|@ |\.whl|[\w.-]+/[\w.-]+/", line), line


def test_every_pin_applies_somewhere_and_to_one_version():
    current = [pin for pin in PINS if not pin.marker or pin.marker.evaluate()]
    names = [pin.name for pin in current]
    assert len(names) == len(set(names))
    assert set(NAMES) <= set(names)


def test_torchvision_accepts_the_torch_beside_it():
    lines = importlib.metadata.requires("torchvision")
    (asked,) = [line for line in map(Requirement, lines) if line.name == "torch"]
    assert asked.specifier.contains(importlib.metadata.version("torch"))


def test_pip_takes_the_lock_as_constraints():
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps"]
        + ["-c", "requirements.lock", "pytest"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "already satisfied: pytest" in result.stdout


def test_the_oldest_python_is_the_same_everywhere():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    front_door = (ROOT / "course.py").read_text(encoding="utf-8")
    assert f"Python {oldest} or newer is needed" in front_door
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in front_door
