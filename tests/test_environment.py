"""One set of ranges: pyproject.toml, environment.yml, the lock, what is installed."""

import importlib.metadata
import importlib.util
import json
import os
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


# one number, one index, one version


COURSE = (ROOT / "course.py").read_text(encoding="utf-8")


def disk_gb(platform, monkeypatch):
    spec = importlib.util.spec_from_file_location("front_door", ROOT / "course.py")
    course = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(course)
    monkeypatch.setattr(sys, "platform", platform)
    return course.disk_gb(course.CPU), course.disk_gb(course.ORDINARY)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_every_page_states_the_disk_that_set_up_insists_on(platform, monkeypatch):
    light, ordinary = disk_gb(platform, monkeypatch)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "grading/templates/start.html").read_text(encoding="utf-8")
    assert f"and {light} GB of free disk" in readme
    assert re.search(rf"and\s+{light}&nbsp;GB of free disk", page)
    assert f"`lab --gpu` brings them ({disk_gb('linux', monkeypatch)[1]} GB)" in readme
    stated = re.findall(r"(\d+)(?: |&nbsp;)GB", readme + page)
    assert set(stated) == {str(light), "9"}
    assert ordinary == (9 if platform == "linux" else light)


def test_the_cpu_index_is_one():
    [index] = re.findall(r'^CPU_INDEX = "(.+)"$', COURSE, re.MULTILINE)
    build = (ROOT / "binder/postBuild").read_text(encoding="utf-8")
    assert f"--index-url {index} torch torchvision\n" in build


def test_the_version_is_one():
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert cite["version"] == PROJECT["version"]
    assert re.findall(r"^## (.+)$", changes, re.MULTILINE)[0] == PROJECT["version"]


def commands(text):
    return re.findall(r"python3? course\.py (\w+)", text)


def test_a_container_and_a_workflow_type_what_there_is():
    container = json.loads(
        (ROOT / ".devcontainer/devcontainer.json").read_text("utf-8")
    )
    flow = (ROOT / ".github/workflows/course.yml").read_text(encoding="utf-8")
    known = re.findall(r"^def (\w+)\(args\):", COURSE, re.MULTILINE)
    assert set(commands(container["postCreateCommand"]) + commands(flow)) <= set(known)
    jobs = yaml.safe_load(flow)["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(step.keys() <= {"uses", "with", "run"} for step in steps)
    paths = re.findall(r"(?:tests|notebooks)/[\w./]+", flow)
    assert len(paths) == 5 and all((ROOT / path).exists() for path in paths)
    assert (ROOT / ".ci/run").exists() and ".ci/run" in flow


def test_binders_script_is_bash():
    script = ROOT / "binder/postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    oldest = PROJECT["requires-python"].removeprefix(">=")
    runtime = (ROOT / "binder/runtime.txt").read_text(encoding="utf-8").strip()
    assert int(runtime.rpartition(".")[2]) >= int(oldest.rpartition(".")[2])
