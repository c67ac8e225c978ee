"""From a cold kernel to the first figure of lesson 01.

A fresh kernel runs the lesson's code cells, in order, until one shows an image.
"""

import json
import tempfile
from pathlib import Path

from jupyter_client.manager import start_new_kernel

from .table import Row, measure

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
LESSON = "01_forward_pass"
ROUNDS = 5
SECONDS = 60  # until a cell, or a kernel, has failed


def code(name):
    """The sources of a notebook's code cells."""
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def run_to_figure(sources):
    """Start a kernel, run cells up to the first image; return how many ran.

    Raises:
        RuntimeError: a cell failed, or none shows an image.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        manager, client = start_new_kernel(
            SECONDS, cwd=folder, extra_arguments=["--log-level=ERROR"]
        )
        try:
            for number, source in enumerate(sources, start=1):
                if _shows_image(client, source):
                    return number
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    raise RuntimeError("no cell shows an image")


def _shows_image(client, source):
    images = []

    def look(message):
        images.extend(key for key in message["content"].get("data", ()) if "png" in key)

    reply = client.execute_interactive(source, timeout=SECONDS, output_hook=look)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"a cell failed: {reply['content'].get('evalue')}")
    return bool(images)


def rows(say, rounds=ROUNDS):
    sources = code(LESSON)
    say(f"the first figure is in code cell {run_to_figure(sources)}")  # warms the disk
    calls = {"ours": lambda: run_to_figure(sources)}
    seconds = measure(calls, rounds, warm=False, say=say)
    yield Row(
        work="first figure of lesson 01 from a cold kernel",
        dtype="-",
        peer="",
        theirs=None,
        ours=seconds["ours"],
        limit=3,
    )
