"""Set-up for real, with pip, from indexes on this machine that hold stand-ins."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import loopback
import pytest
from loopback import NEEDED, VERSIONS, Index, wheel

ROOT = Path(__file__).resolve().parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="one index elsewhere")


def ordinary_wheels(pad=0):
    """The package index: torch asks for a GPU library and for sympy."""
    more = {"torch": ["sympy", "nvidia_cublas"], "torchvision": ["torch", "numpy"]}
    names = [*NEEDED, "nvidia_cublas"]
    return [
        wheel(name, VERSIONS.get(name, "1.0"), more.get(name, ()), pad)
        for name in names
    ]


def cpu_wheels():
    """The CPU index, with decoys that nothing may take."""
    light = [wheel(n, f"{VERSIONS[n]}+cpu", m) for n, m in LIGHT.items()]
    return [*light, wheel("numpy", "2.9"), wheel("sympy", "2.9")]


LIGHT = {"torch": ["sympy"], "torchvision": ["torch", "numpy"]}


@pytest.fixture(scope="module")
def ordinary():
    with Index(ordinary_wheels()) as index:
        yield index


@pytest.fixture
def course(tmp_path):
    return small_course(tmp_path / "my course é")


def small_course(root):
    """A copy of the course that needs only stand-ins, with one lesson and no data."""
    for name in ("course.py", "tools/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tools/door", root / "tools/door", ignore=ignored)
    loopback.shrink(root)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/01_forward_pass.ipynb", root / "notebooks")
    (root / "data").mkdir()
    (root / "data/a.txt").write_text("a", encoding="utf-8")
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    (root / "data/checksums.txt").write_text(f"{digest}  a.txt\n", encoding="utf-8")
    return root


def variables(index, cpu="none", **more):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "CONDA"))}
    pip = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index.url}
    pip |= {"PIP_NO_CACHE_DIR": "1", "COURSE_TORCH_INDEX": cpu}
    return {**kept, **pip, **more}


def start(course, *words, **variables):
    return subprocess.Popen(
        [sys.executable, course / "course.py", *words],
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def ended(process, code=0):
    said, _ = process.communicate(timeout=180)
    assert process.returncode == code, said
    return said


def set_up(course, index, cpu="none", *words, code=0, **more):
    return ended(start(course, "setup", *words, **variables(index, cpu, **more)), code)


def installed(course):
    """Versions by name of what is in `.venv`."""
    found = (course / ".venv").glob("**/site-packages/*.dist-info")
    return dict(path.name.removesuffix(".dist-info").split("-") for path in found)


def doctor(course, index, **more):
    process = start(course, "doctor", **variables(index, **more))
    return process.communicate(timeout=60)[0]


@linux
def test_torch_comes_from_the_cpu_index_and_nothing_else_does(course, ordinary):
    ordinary.asked.clear()
    with Index(cpu_wheels()) as cpu:
        said = set_up(course, ordinary, cpu.url)
    asked = {path.strip("/").split("/")[1].split("-")[0] for path in cpu.asked}
    assert asked == set(LIGHT)
    found = installed(course)
    assert {name: found[name] for name in LIGHT} == {
        "torch": "2.15.0+cpu",
        "torchvision": "0.29.2+cpu",
    }
    assert found["numpy"] == found["sympy"] == "1.0" and "nvidia_cublas" not in found
    assert not any("torch" in path for path in ordinary.asked)
    assert "2 GB of disk" in said
    assert "OK    packages" in (told := doctor(course, ordinary))
    assert "PyTorch 2.15.0+cpu for the CPU" in told
    # an environment that is there stays what it is: no index is asked again
    assert set_up(course, ordinary, "http://127.0.0.1:9").startswith(
        "The course is set"
    )
    said = set_up(course, ordinary, "http://127.0.0.1:9", "--gpu")
    assert "9 GB of disk" in said
    assert installed(course)["torch"] == "2.15.0"
    assert "with GPU libraries" in doctor(course, ordinary)
    said = set_up(course, ordinary)
    assert said.startswith("The course is set up") and "GB" not in said


@linux
def test_a_dead_cpu_index_means_the_ordinary_build(course, ordinary):
    said = set_up(course, ordinary, "http://127.0.0.1:9/cpu")
    words = re.findall(r"^PyTorch's build without GPU libraries.*$", said, re.MULTILINE)
    assert len(words) == 1 and "9 GB of disk" in words[0]
    assert installed(course)["torch"] == "2.15.0"
    assert "nvidia_cublas" in installed(course)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A course whose `.venv` has pip and nothing else."""
    course = small_course(tmp_path_factory.mktemp("empty") / "course")
    subprocess.run([sys.executable, "-m", "venv", course / ".venv"], check=True)
    return course


STEP = """
import functools, os, sys
sys.path.insert(0, {root!r})
import course
course.make_venv = lambda lock: None  # it is empty as it is
with open(course.LOCK, "a+b") as lock:
    pip = functools.partial(course.run_pip, lock=lock)
    print("light:", course.install_light(pip, lock))
"""


@linux
@pytest.mark.parametrize(
    "answer",
    [
        loopback.hangs,
        loopback.babbles,
        loopback.fails,
        loopback.lies,
        loopback.breaks_off,
        pytest.param(loopback.drips, marks=pytest.mark.long),
    ],
    ids=lambda answer: answer.__name__,
)
def test_an_index_that_is_none_is_given_up(empty, ordinary, answer):
    with Index(answer=answer) as cpu:
        code = [sys.executable, "-c", STEP.format(root=str(empty))]
        given = variables(ordinary, cpu.url, PIP_EXTRA_INDEX_URL=ordinary.url)
        found = subprocess.run(code, env=given, capture_output=True, encoding="utf-8")
    assert "light: False" in found.stdout, found.stdout + found.stderr
    assert "The ordinary one follows" in found.stdout
    assert "torch" not in installed(empty)


@linux
def test_a_full_disk_stops_before_the_larger_build(empty, ordinary):
    full = "course.disk_gb = lambda build: 10**6 if build == course.ORDINARY else 2\n"
    code = STEP.replace("course.make", full + "course.make").format(root=str(empty))
    given = variables(ordinary, "http://127.0.0.1:9/cpu")
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, env=given, capture_output=True, encoding="utf-8")
    assert "the course needs 1000000 GB" in found.stderr
    assert "light:" not in found.stdout


def test_without_a_torch_for_this_machine_the_rest_is_installed(course):
    wheels = [w for w in ordinary_wheels() if not w[0].startswith("torch")]
    with Index(wheels) as index:
        said = set_up(course, index)
        assert "has no PyTorch for this Python and machine" in said
        assert {"numpy", "bn_helpers"} <= set(installed(course))
        said = ended(start(course, "lab", "--no-browser", **variables(index)))
        assert "PyTorch is not installed: lessons that do not name it: 01;" in said
        assert "serving" in said
        assert re.search("FAIL  packages .*all but PyTorch", doctor(course, index))


def test_what_a_machine_sets_reaches_neither_pip_nor_python(course, ordinary, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "pip.py").write_text("raise SystemExit('foreign pip')")
    (foreign / "numpy.py").write_text("raise SystemExit('foreign numpy')")
    config = tmp_path / "pip.conf"
    lines = ["[global]", "user = true", f"index-url = {ordinary.url}", "[install]"]
    lines += ["target = /nonexistent", "no-binary = :all:", "require-hashes = true"]
    config.write_text("\n".join(lines), encoding="utf-8")
    broken = {
        "PIP_USER": "1",
        "PIP_PREFIX": str(foreign),
        "PIP_DRY_RUN": "1",
        "PIP_CONFIG_FILE": str(config),
        "PIP_INDEX_URL": "",
        "PYTHONPATH": str(foreign),
        "PYTHONSTARTUP": str(foreign / "numpy.py"),
        "PYTHONWARNINGS": "error",
        "MPLBACKEND": "nothing",
        "HOME": "/nonexistent",
    }
    assert "The course is set up" in set_up(course, ordinary, **broken)
    assert "numpy" in installed(course)
    told = doctor(course, ordinary, **broken)
    assert "FAIL" not in told.replace("FAIL  kernel", "")
    assert "the course ignores" in told and "PIP_USER" in told and "PYTHONPATH" in told


def test_two_starts_at_once_set_up_once(course, ordinary):
    given = variables(ordinary)
    both = [start(course, "lab", "--no-browser", **given) for _ in range(2)]
    said = sorted((ended(process) for process in both), key=len)
    assert said[0].startswith("Another set-up of this course is at work")
    assert "Setting up" not in said[0] and "Setting up" in said[1]
    assert all("serving" in text for text in said)


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_set_up_is_ended_by_the_same_command(course, tmp_path, seed):
    survive(course, kills=1, seed=seed)


@pytest.mark.long
def test_ten_kills_at_random_moments(course):
    survive(course, kills=10, seed=7)


def survive(course, kills, seed):
    """Kill set-up at random moments, parent and children or the parent alone."""
    import random

    draw = random.Random(seed)
    with Index(ordinary_wheels(pad=200)) as index:
        for _ in range(kills):
            process = start(course, "setup", **variables(index))
            time.sleep(draw.uniform(0.1, 10))
            process.kill()
            process.wait()
            process.stdout.close()
        said = set_up(course, index)
        assert "The course is set up" in said
        assert set(NEEDED) <= set(installed(course))
        assert "OK    packages" in doctor(course, index)


def test_a_network_that_comes_back_is_enough(course, ordinary):
    dead = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    said = set_up(course, ordinary, code=1, **dead)
    assert "index could not be reached" in said and "run the same command again" in said
    assert "The course is set up" in set_up(course, ordinary)


@linux
def test_packages_that_fail_have_an_advice_that_works(course, ordinary, monkeypatch):
    """A CPU build that does not start: the advice is the ordinary one."""
    fails = {"torchvision/__init__.py": "raise OSError('x')"}
    monkeypatch.setitem(loopback.MODULES, "torchvision", fails)
    with Index(cpu_wheels()) as cpu:
        said = set_up(course, ordinary, cpu.url, code=1)
        assert "import torchvision: x" in said and "lab --gpu" in said
        told = doctor(course, ordinary)
        assert "FAIL  packages" in told and "lab --gpu" in told
        said = ended(
            start(course, "lab", "--gpu", "--no-browser", **variables(ordinary))
        )
    assert "serving" in said and "OK    packages" in doctor(course, ordinary)
