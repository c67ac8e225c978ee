"""What every test run shares: pinned kernels, strict notebooks, no silent skips."""

import os
import shutil
import sys
import time
from math import inf
from queue import Empty

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from tools import pin

# marker -> programs of which one must be there, and what to install
NEEDS = {
    "browser": (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    ),
    "sandbox": ("bwrap",),
    "site": ("npm",),
}
PACKAGES = {"browser": "chromium", "sandbox": "bubblewrap", "site": "npm"}
WHOLE_NOTEBOOKS = ("no", "each", "loadfile", "loadscope")

pin(os.environ)  # kernels inherit it
pytest.register_assert_rewrite("bank")  # the base class of the lessons' check tests


@pytest.fixture(autouse=True)
def own_dtype():
    """What a lesson's set-up cell makes the default ends with the test that ran it."""
    torch = sys.modules.get("torch")
    usual = torch and torch.get_default_dtype()
    yield
    if torch := sys.modules.get("torch"):
        torch.set_default_dtype(usual or torch.float32)


def pytest_configure(config):
    if unknown := _required() - set(NEEDS):
        names = ", ".join(sorted(unknown))
        raise pytest.UsageError(f"COURSE_REQUIRE names no known marker: {names}")


def pytest_runtest_setup(item):
    for marker, programs in NEEDS.items():
        if item.get_closest_marker(marker) and not any(map(shutil.which, programs)):
            reason = f"install {PACKAGES[marker]}"
            if marker in _required():
                pytest.fail(f"COURSE_REQUIRE names {marker}: {reason}", pytrace=False)
            pytest.skip(reason)


def _required():
    return set(filter(None, os.environ.get("COURSE_REQUIRE", "").split(",")))


# Strict notebooks: nbval alone lets these pass, or fails for no reason.


def pytest_collectstart(collector):
    # progress bars and warnings carry times and process ids, SVG files random ids
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr", "image/svg+xml")


def pytest_itemcollected(item):
    # 5 seconds, nbval's own limit, is too short on a busy machine
    if isinstance(item, IPyNbCell):
        item.output_timeout = 60


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    # nbval compares nothing in a cell that was never run
    if isinstance(item, IPyNbCell) and item.cell.execution_count is None:
        pytest.fail("stored without being run: nothing to compare", pytrace=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    # other modes hand the cells of one notebook to several kernels
    dist = node.config.option.dist
    if dist not in WHOLE_NOTEBOOKS and any(".ipynb::" in name for name in ids):
        why = f"--dist {dist} tears notebooks apart: add --dist loadfile"
        raise pytest.UsageError(why)


def _get_message(kernel, stream, timeout=None, get=RunningKernel.get_message):
    """Wait as nbval does, but notice within a second that the kernel is dead."""
    end = time.monotonic() + (timeout or inf)
    while True:
        try:
            return get(kernel, stream, timeout=min(1, max(0, end - time.monotonic())))
        except Empty:
            if not kernel.is_alive():
                raise RuntimeError("the kernel died while running this cell") from None
            if time.monotonic() >= end:
                raise


RunningKernel.get_message = _get_message
