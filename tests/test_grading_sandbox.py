"""The sandbox: what student code finds in it, what it cannot do, and what is left."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from submissions import FULL, LIMITS, SMALL, content, solved

from grading import judge, sandbox
from grading.config import ROOT
from grading.inside import wire

pytestmark = pytest.mark.sandbox
HELPERS = "import os, subprocess\ndef sh(c):\n    return subprocess.getoutput(c)\n"


@pytest.fixture(scope="module")
def box():
    with sandbox.Sandbox(LIMITS) as box:
        box.start()
        run(box, HELPERS)
        yield box


def run(box, source):
    return box.ask("run", 30, source=source)


def call(box, name, *args):
    reply = box.ask("call", 30, name=name, driver="", args=wire.encode(args))
    return wire.decode(reply["value"]) if "value" in reply else reply


def test_code_runs_and_errors_are_told(box):
    assert run(box, "import gc\nassert gc.isenabled()") == {}
    assert run(box, "x = 6 * 7\ndef f():\n    return x") == {}
    assert call(box, "f") == 42
    assert run(box, "1 / 0")["error"] == [
        "ZeroDivisionError",
        "division by zero",
        "",
    ]
    assert run(box, "raise NotImplementedError")["error"][2] == "NotImplementedError"
    assert call(box, "sh", "echo hello") == "hello"


def test_it_has_no_network_and_no_rights(box):
    assert "lo" in call(box, "sh", "ls /sys/class/net /proc/sys/net/ipv4/conf")
    source = (
        "import socket\ndef reach(host, port):\n"
        "    try:\n        socket.create_connection((host, port), 1)\n"
        "        return 'reached'\n    except OSError:\n        return 'no'\n"
    )
    run(box, source)
    for where in (("1.1.1.1", 53), ("127.0.0.1", 22)):
        assert call(box, "reach", *where) == "no"
    status = call(box, "sh", "cat /proc/self/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert all(fields[f"Cap{kind}"].strip("0") == "" for kind in ("Eff", "Prm", "Bnd"))
    assert fields["NoNewPrivs"] == "1"
    assert "0" not in fields["Uid"].split()


def test_it_sees_nothing_of_the_host(box):
    seen = call(box, "sh", f"ls -A {ROOT} /home /root; cat /etc/shadow /etc/passwd")
    assert not any(name in seen for name in ("lessons", ".git", "root:x", "root:*"))
    listing = call(box, "sh", "cat /proc/[0-9]*/comm")
    assert len(listing.split()) < 10
    assert str(Path.home()) not in call(box, "sh", "env")


def test_it_can_write_to_its_own_folder_only(box):
    for folder in ("/", "/usr", "/course/bn_helpers", "/grader", "/dev", sys.prefix):
        assert call(box, "sh", f"touch {folder}/x && echo done") != "done"
    for folder in (".", "/tmp", "/dev/shm"):
        assert call(box, "sh", f"touch {folder}/x && echo done") == "done"


def test_it_has_the_course_without_its_answers(box):
    source = (
        "import bn_checks as check\n"
        "from bn_helpers import data, norms, plots, network\n"
        "from bn_experiments import train\n"
        "import bn_helpers.gradcheck, bn_helpers.record\n"
        "from bn_helpers.norms import batchnorm_forward as theirs\n"
        "plots.use_style()\nx, _ = data.mnist_batch(8, seed=0)\n"
        "def shape():\n    return x.shape\n"
        "def ask_the_check():\n    return check.batchnorm_forward(theirs)\n"
    )
    assert run(box, source) == {}
    assert call(box, "shape") == (8, 784)
    assert call(box, "ask_the_check") is None
    for use in ("theirs(1)", "norms.x.y()", "class A(norms.BatchNorm1d): pass"):
        name, message, _ = run(box, use)["error"]
        assert name == "RuntimeError" and "stand on its own" in message
    held = call(box, "sh", "cat /course/*/*.py /course/bn_checks/banks/*.py")
    assert "def batchnorm_forward" not in held and "reference" not in held


def test_torch_and_torchvision_work_in_it(box):
    assert run(box, "import torch, torchvision\ny = torch.ones(2).sum().item()") == {}


def test_a_sandbox_begins_anew_and_leaves_nothing():
    for _ in range(2):
        with sandbox.Sandbox(LIMITS) as box:
            box.start()
            run(box, HELPERS)
            assert "mark" not in call(box, "sh", "ls /tmp /dev/shm")
            call(box, "sh", "touch /tmp/mark /dev/shm/mark")
            run(box, "import os, time\nif os.fork() == 0:\n    time.sleep(1000)")
            pid = box.process.pid
            inside = descendants(pid)
            assert len(inside) >= 3
    end = time.monotonic() + 60  # far from the usual
    while any(map(alive, [pid, *inside])) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, [pid, *inside]))


def descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(child)]
    return found


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_time_is_up_and_the_sandbox_goes_on():
    with sandbox.Sandbox(SMALL) as box:
        box.start()
        with pytest.raises(sandbox.Trouble, match="within 0.5 seconds") as caught:
            box.ask("run", 0.5, source="while True: pass")
        assert caught.value.alive
        assert run(box, "x = 1") == {}


def test_a_sandbox_that_cannot_start_is_broken_and_says_why():
    cramped = replace(LIMITS, address_space=1_000_000)
    with (
        sandbox.Sandbox(cramped) as box,
        pytest.raises(sandbox.Broken, match="sandbox"),
    ):
        box.start()
    verdict = judge.grade_bytes(content(solved()), 1, "01_forward_pass", limits=cramped)
    assert verdict.status == "needs review" and "grader failed" in verdict.reason
    assert all(e.points is None for e in verdict.exercises.values())


DRIP = """
import gc, os, signal, time
signal.signal(signal.SIGALRM, signal.SIG_IGN)
[runner] = [o for o in gc.get_objects() if type(o).__name__ == "Runner"]
os.write(runner.write, (60_000_000).to_bytes(4, "big"))
while True:
    os.write(runner.write, b" ")
    time.sleep(0.03)
"""
NAMELESS = """
import os, time
for _ in range(40):
    os.write(os.memfd_create("x"), bytes(10_000_000))
time.sleep(30)
"""


def test_an_answer_that_drips_in_is_stopped():
    with sandbox.Sandbox(SMALL) as box:
        box.start()
        began = time.monotonic()
        with pytest.raises(sandbox.Trouble, match="did not stop"):
            box.ask("run", 0.5, source=DRIP)
        assert time.monotonic() - began < 60  # the whole answer would take weeks


def test_memory_without_a_name_counts():
    limits = replace(SMALL, resident=300_000_000)
    with sandbox.Sandbox(limits) as box:
        box.start()
        with pytest.raises(sandbox.Trouble, match="GB of memory"):
            box.ask("run", 20, source=NAMELESS)


def test_without_bubblewrap_it_names_the_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(sandbox.Unavailable, match="sudo apt install bubblewrap"):
        sandbox.require()
    sandbox.require(unsafe=True)


def test_where_sandboxes_are_forbidden_it_says_so(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'No permissions' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(sandbox.Unavailable, match="No permissions"):
        sandbox.require()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no users like that")
def test_other_systems_are_told_where_to_grade(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(sandbox.Unavailable, match="WSL"):
        sandbox.require()


def test_unsafe_grades_too_and_says_so():
    data = content(solved())
    verdict = judge.grade_bytes(data, 1, "01_forward_pass", "ada", unsafe=True)
    points = {name: e.points for name, e in verdict.exercises.items()}
    assert points == FULL and "graded without a sandbox" in verdict.notes


ORDINARY = """
import os, sys
from grading import judge, sandbox
sandbox.require()
assert os.geteuid() != 0
verdict = judge.grade_bytes(sys.stdin.buffer.read(), 3, "01_forward_pass")
print(verdict.status, verdict.points, verdict.reason)
with sandbox.Sandbox(judge.config.limits()) as box:
    box.start()
    source = "import os\\ndef f(): return os.system('unshare -Ur true')"
    box.ask("run", 9, source=source)
    print(box.ask("call", 9, name="f", driver="", args={"tuple": []})["value"] != 0)
"""


def test_an_ordinary_user_grades_as_well():
    command = [sys.executable, "-c", ORDINARY]
    if os.geteuid() == 0:
        command = [*as_nobody(), *command]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/tmp"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, input=content(solved()), capture_output=True
    )
    full = float(sum(FULL.values()))
    said = done.stdout.decode().split("\n")
    assert said[:2] == [f"graded {full} ", "True"], done.stderr.decode()


def as_nobody():
    """Start a program as a user without rights, who may yet read our Python."""
    command = ["bwrap", "--dev-bind", "/", "/", "--cap-drop", "ALL"]
    for name in ("SETUID", "SETGID", "SETPCAP"):
        command += ["--cap-add", f"CAP_{name}"]
    needed = {Path(sys.prefix), Path(sys.base_prefix), ROOT}
    closed = {p for path in needed for p in path.parents if not p.stat().st_mode & 1}
    for folder in sorted(closed):
        command += ["--perms", "0755", "--tmpfs", folder]
    for path in sorted(path for path in needed if closed & {*path.parents}):
        for parent in (p for p in reversed(path.parents) if closed & {*p.parents}):
            command += ["--perms", "0755", "--dir", parent]
        command += ["--ro-bind", path, path]
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    return [*map(str, command), "--", *user, "--no-new-privs", "--bounding-set=-all"]


FORKS = """\
import os, time
from grading import sandbox
held = bytearray(100_000_000)
children = []
for _ in range(6):
    if (child := os.fork()) == 0:
        time.sleep(60)
    children.append(child)
time.sleep(0.3)
print(sandbox.resident(os.getpid()), sandbox.resident(os.getpid(), sandbox._own_share))
for child in children:
    os.kill(child, 9)
"""


def test_memory_that_forks_share_counts_once():
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, check=True, text=True
    )
    held, shared_once = map(int, done.stdout.split())
    assert held > 600_000_000
    assert 100_000_000 < shared_once < 250_000_000
