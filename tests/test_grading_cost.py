"""What a file may cost: archives, replies and texts that are made to take long."""

import io
import subprocess
import sys
import time
import zipfile

import pytest
from submissions import LESSON, LIMITS

from grading import config, intake, markup, master
from grading.inside import wire

LESSONS = master.lessons()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def bomb(entries=20):
    """A small zip that holds a zip with many entries, each a large notebook."""
    inner = zipped({f"{k}/{LESSON}.ipynb": b" " * 4_000_000 for k in range(entries)})
    return zipped({"inner.zip": inner})


def test_an_archive_is_inflated_once_within_its_limits(tmp_path):
    """Processor time: each entry of a nested zip used to inflate all of it again."""
    content = bomb()
    assert len(content) < 100_000
    (tmp_path / "ada.zip").write_bytes(content)
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / f"{LESSON}.ipynb").write_bytes(b"{}")
    began = time.process_time()
    found = intake.collect(tmp_path, LESSONS, LIMITS)
    assert "bob" in found.students
    assert time.process_time() - began < 1


def test_what_an_archive_may_unpack_to_grows_with_its_size(tmp_path):
    big = {f"{k}/{LESSON}.ipynb": b" " * 60_000_000 for k in range(5)}
    (tmp_path / "ada.zip").write_bytes(zipped(big))
    (tmp_path / "bob.zip").write_bytes(zipped({f"{LESSON}.ipynb": b"{}"}))
    found = intake.collect(tmp_path, LESSONS, LIMITS)
    assert found.students == ["bob"]
    assert "when unpacked" in found.refused[0][1]


FORGED = {
    "lists": b"[" + b"[]," * 20_000_000 + b"0]",
    "numbers": b"[" + b"1," * 30_000_000 + b"0]",
    "texts": b'{"a":[' + b'"",' * 20_000_000 + b"0]}",
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_reply_is_refused_before_it_is_parsed(kind):
    with pytest.raises(wire.BadMessage):
        wire.unpack(FORGED[kind])


LARGE = (
    "b'[]' * 30_000_000",
    "b'[' + b'\"a\",' * 1_900_000 + b'0]'",
    "b'{\"a\": \"' + b'x' * 60_000_000 + b'\"}'",
)


# ru_maxrss would count what the process that starts it has held
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("body", LARGE)
def test_a_forged_reply_of_60_mb_leaves_a_worker_small(body):
    text = (
        "import re\nfrom grading import judge\nfrom grading.inside import wire\n"
        f"try:\n    wire.unpack({body})\nexcept wire.BadMessage:\n    pass\n"
        "status = open('/proc/self/status').read()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1])\n"
    )
    words = [sys.executable, "-c", text]
    done = subprocess.run(words, cwd=config.ROOT, capture_output=True, text=True)
    assert int(done.stdout) < 400_000, done.stderr


def test_half_characters_do_not_cross():
    message = wire.unpack(rb'{"error": ["E", "odd \udc80 \ud83d\ude00"]}')
    assert message == {"error": ["E", "odd ? \U0001f600"]}


@pytest.mark.parametrize("text", ["[", "*", "_a ", "`", "<", "![", "]("])
def test_reading_markdown_stays_short(text):
    began = time.process_time()
    markup.rendered((text * 40_000)[:20_000])
    assert time.process_time() - began < 3


def test_formulas_are_drawn_without_a_network():
    page = markup.drawn(r"<p>$\frac{x-\mu}{\sigma}$ <code>$x$</code> $\nosuch{x}$</p>")
    assert page.count("<img") == 1 and "data:image/png;base64," in page
    assert r'alt="\frac{x-\mu}{\sigma}"' in page and "<code>$x$</code>" in page
