"""Nothing here needs the network: the same work in a sandbox that has none."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def fresh_data(tmp_path):
    """The data folder as it comes from a clone: nothing is unpacked."""
    folder = tmp_path / "data"
    ignored = shutil.ignore_patterns("*-ubyte", "*.part", "cifar-10-*")
    shutil.copytree(ROOT / "data", folder, ignore=ignored)
    yield folder
    shutil.rmtree(folder)


def _offline(data, *python, mount="--bind"):
    """Run Python in the course's folder, with `data` for its data and no network."""
    sandbox = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent"]
    sandbox += [mount, str(data), str(ROOT / "data"), "--chdir", str(ROOT)]
    return subprocess.run(
        [*sandbox, sys.executable, *python],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def _prints(expected, run):
    assert (run.returncode, run.stdout) == (0, expected), run.stdout


CONNECT = """
import socket, sys
own = socket.create_server(("127.0.0.1", 0))
socket.create_connection(own.getsockname(), timeout=10)
print("loopback is up")
for address in [("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 80)]:
    try:
        socket.create_connection(address, timeout=10)
    except OSError as error:
        print(type(error).__name__, error.strerror)
"""


def test_the_sandbox_is_closed(fresh_data):
    """A server out here answers out here, and cannot be reached from in there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        socket.create_connection(address, timeout=10).close()
        run = _offline(fresh_data, "-c", CONNECT, str(address[1]))
    refused = "ConnectionRefusedError Connection refused\n"
    unreachable = "OSError Network is unreachable\n"
    _prints("loopback is up\n" + refused + unreachable, run)


IMPORT = """
import importlib, pkgutil
for name in ("bn_helpers", "bn_experiments", "bn_checks"):
    path = importlib.import_module(name).__path__
    for module in pkgutil.walk_packages(path, name + "."):
        importlib.import_module(module.name)
"""


def test_every_module_imports(fresh_data):
    _prints("", _offline(fresh_data, "-c", IMPORT))


LOAD = """
from bn_helpers import data
print(sum(map(len, data.load_mnist())), sum(map(len, data.load_cifar10_small())))
"""


def test_data_loads_and_is_unpacked(fresh_data):
    _prints("140000 6000\n", _offline(fresh_data, "-c", LOAD))
    assert (fresh_data / "MNIST" / "raw" / "train-images-idx3-ubyte").exists()


def test_data_loads_from_a_read_only_folder(fresh_data):
    before = sorted(fresh_data.rglob("*"))
    _prints("140000 6000\n", _offline(fresh_data, "-c", LOAD, mount="--ro-bind"))
    assert sorted(fresh_data.rglob("*")) == before


TORCHVISION = """
from torchvision.datasets import MNIST
print(len(MNIST("data", download=True)), len(MNIST("data", train=False)))
"""


def test_torchvision_needs_no_download(fresh_data):
    _prints("60000 10000\n", _offline(fresh_data, "-c", TORCHVISION))


# each takes as long as its lesson, and nbval runs its cells every day
@pytest.mark.long
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_stored_notebook_runs_and_agrees(fresh_data, name):
    options = ["-q", "--nbval", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = _offline(fresh_data, "-m", "pytest", *options, f"notebooks/{name}")
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout and "skipped" not in run.stdout
