"""Read a download: folders, zips and zips in zips, in any mixture.

Nothing is unpacked to disk. Each archive is inflated once, within limits, and what it
may unpack to grows with its own size; each file is read once, and kept. What cannot be
read is refused on its own, with a reason, and stops nothing else.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
import struct
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from . import naming

SYSTEM = re.compile(
    r"__MACOSX|\.[^.].*|__pycache__|node_modules|Thumbs\.db|desktop\.ini"
)
ODD = re.compile(
    r"[\x00-\x1f\x7f\ud800-\udfff\u2028\u2029\u200b-\u200f\u202a-\u202e\ufffd]"
)
LINK = "a link to another file; hand in the file itself"
RATIO = 100  # an archive may unpack to as many times its size, and one notebook more
IN_MEMORY = 16_000_000  # bytes of an archive in an archive
METADATA = "submission_metadata.yml"
METADATA_SIZE = 20_000_000
FOLDERS = 50  # in one another
END = struct.Struct("<4s4H2LH")  # the end of a zip's list of files
LISTED = 1_000  # bytes of that list, for each file that a zip may hold


class Refused(Exception):
    """An item is not taken; the text says why."""


@dataclass(frozen=True)
class Item:
    """A file of the download.

    Attributes:
        path: names from the download down to the file, zips included.
        time: when it was last changed, comparable within one download.
        sha256: of its bytes; "" where it is no notebook.
        read: function that returns its bytes.
        lesson: what a notebook is handed in for, or "".
    """

    path: tuple[str, ...]
    time: tuple = ()
    sha256: str = ""
    read: object = None
    lesson: str = ""

    @property
    def source(self):
        return "/".join(self.path)


class Budget:
    """What an archive may still cost; one within takes from the one around it."""

    def __init__(self, size, files, above=None):
        self.size = self.most = size
        self.files = self.most_files = files
        self.above = above

    def take(self, size=0, files=0):
        """Raises:
        Refused: it is used up.
        """
        self.size -= size
        self.files -= files
        if self.size < 0:
            raise Refused(f"its archive unpacks to more than {self.most} bytes")
        if self.files < 0:
            raise Refused(f"more than {self.most_files} files in one archive")
        if self.above:
            self.above.take(size, files)


class Walk:
    """Everything that lies at a path.

    Args:
        limits: a `config.Limits`.
        keep: function that takes bytes and their sha256, and returns a function that
            reads them again.
        lesson_of: function that says from a path and bytes what lesson it is.

    Attributes:
        items: notebooks, and files of other kinds, as `Item`s.
        refused: (source, reason) pairs.
        metadata: Gradescope's file on submissions, by the folder that it lies in.
    """

    def __init__(self, limits, keep, lesson_of):
        self.limits, self.keep, self.lesson_of = limits, keep, lesson_of
        self.items, self.refused, self.metadata = [], [], {}

    def start(self, path):
        """Read what lies at a path."""
        path = Path(path)
        if path.is_dir():
            self.folder(path, ())
        elif path.suffix.lower() == ".zip":
            self.archive(path, path.name, (), self.budget(path, top=True), top=True)
        else:
            self.file(path, (path.name,))

    def refuse(self, names, reason):
        self.refused.append((shown(names), str(reason)))

    @contextlib.contextmanager
    def one(self, names):
        """Whatever goes wrong with one item is the reason why that is refused."""
        try:
            yield
        except (Refused, OSError) as reason:
            if disk_full(reason):
                raise
            self.refuse(names, reason)
        except Exception as error:  # whatever it is, the next one is read
            self.refuse(names, f"cannot be read: {type(error).__name__}: {error}")

    def folder(self, folder, names):
        with self.one(names):
            if len(names) > FOLDERS:
                raise Refused(f"folders in folders, more than {FOLDERS} deep")
            paths = [
                p for p in sorted(folder.iterdir()) if not SYSTEM.fullmatch(p.name)
            ]
            alone = len(paths) == 1
            for path in paths:
                self.on_disk(path, (*names, readable(path.name)), alone)

    def on_disk(self, path, names, alone):
        with self.one(names):
            if path.is_symlink():
                raise Refused(LINK)
            if path.is_dir():
                self.folder(path, names)
            else:
                self.file(path, names, alone)

    def file(self, path, names, alone=False):
        with self.one(names):
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Refused("neither a file nor a folder")
            if ODD.search(names[-1]):
                raise Refused("its name holds characters that cannot be seen")
            when = time.localtime(status.st_mtime)[:6]
            if names[-1].lower().endswith(".zip"):
                budget = self.budget(path, top=alone)
                self.archive(path, shown(names), names, budget, top=alone)
            else:
                with open(path, "rb") as stream:
                    self.take(names, when, stream, status.st_size)

    def budget(self, path, top):
        """What an archive on disk may cost; one that may hold a class, more."""
        size = self.limits.notebook + RATIO * os.path.getsize(path)
        size = self.limits.unpacked if top else min(size, self.limits.unpacked)
        return Budget(size, self.limits.entries)

    def take(self, names, when, stream, size, budget=None):
        """Keep a notebook, note another file."""
        if names[-1] == METADATA and size <= METADATA_SIZE:
            content = self.content(stream, METADATA_SIZE, budget)
            self.metadata[names[:-1]] = content.decode("utf-8", "replace")
        if not naming.NOTEBOOK.fullmatch(names[-1]):
            self.items.append(Item(names, when))
            return
        if size > self.limits.notebook:
            raise Refused(f"{size} bytes, at most {self.limits.notebook}")
        content = self.content(stream, self.limits.notebook, budget)
        digest = hashlib.sha256(content).hexdigest()
        read = self.keep(content, digest)
        lesson = self.lesson_of(names, content)
        self.items.append(Item(names, when, digest, read, lesson))

    def content(self, stream, most, budget):
        """The bytes of a file.

        Raises:
            Refused: there are more than `most`, or than the budget allows.
        """
        content = stream.read(most + 1)
        if budget:
            budget.take(len(content))
        if len(content) > most:
            raise Refused(f"more than {most} bytes")
        return content

    # archives

    def archive(self, file, source, names, budget, depth=1, top=False):
        """Everything in a zip; `top` if it is all there is, and may hold the class."""
        try:
            with _damage_refused():
                listed(file, self.limits.entries)
                archive = zipfile.ZipFile(file)
            with archive:
                entries = self.entries(archive, budget)
                for entry in entries:
                    with self.one((source, entry.filename)):
                        self.entry(archive, entry, names, budget, depth, top)
        except (Refused, OSError) as reason:
            if disk_full(reason):
                raise
            self.refused.append((source, str(reason)))

    def entries(self, archive, budget):
        """The files in it that are worth a look."""
        every = archive.infolist()
        budget.take(files=len(every))
        size = sum(entry.file_size for entry in every)
        if size > budget.size:
            raise Refused(f"{size} bytes when unpacked, at most {budget.size}")
        return [
            entry
            for entry in every
            if not entry.filename.endswith("/")
            and not any(map(SYSTEM.fullmatch, entry.filename.split("/")))
        ]

    def entry(self, archive, entry, names, budget, depth, top):
        inner = (*names, *parts_of(entry))
        zipped = inner[-1].lower().endswith(".zip")
        if zipped and depth >= self.limits.depth:
            raise Refused(f"zips in zips, more than {self.limits.depth} deep")
        with _damage_refused(), archive.open(entry) as stream:
            if not zipped:
                self.take(inner, entry.date_time, stream, entry.file_size, budget)
                return
            with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
                size = unpack(stream, file, budget)
                more = self.limits.notebook + RATIO * size
                above = None if top else budget
                inside = Budget(min(more, budget.size), self.limits.entries, above)
                self.archive(file, shown(inner), inner, inside, depth + 1)


def unpack(stream, file, budget):
    """Copy an archive out of an archive; returns its size."""
    size = 0
    while part := stream.read(2**20):
        budget.take(len(part))
        file.write(part)
        size += len(part)
    file.seek(0)
    return size


def listed(file, most):
    """Look at how long a zip's list of files is, before it is read.

    Raises:
        Refused: it is longer than that of so many files.
    """
    with contextlib.ExitStack() as stack:
        stream = (
            file if hasattr(file, "seek") else stack.enter_context(open(file, "rb"))
        )
        stream.seek(0, os.SEEK_END)
        stream.seek(-min(stream.tell(), 2**16 + END.size), os.SEEK_END)
        tail = stream.read()
        stream.seek(0)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + END.size:
        return  # zipfile says what is wrong with it
    size = END.unpack_from(tail, place)[5]
    if size != 0xFFFFFFFF and size > LISTED * most:
        raise Refused(f"more than {most} files in one zip")


@contextlib.contextmanager
def _damage_refused():
    """Zips that are damaged, or made to harm, raise much; here it is `Refused`."""
    try:
        yield
    except Exception as error:  # zlib, lzma, bz2 and struct have errors of their own
        if isinstance(error, Refused) or disk_full(error):
            raise
        raise Refused(f"cannot be unpacked: {error}") from None


def disk_full(error):
    """Whether it is nobody's file that failed, but this computer."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def parts_of(entry):
    """The names of an entry's path.

    Raises:
        Refused: it points elsewhere, is a link, is locked, or its name is odd.
    """
    name = _decoded(entry)
    if ODD.search(name):
        raise Refused("its name holds characters that cannot be seen")
    name = name.replace("\\", "/")  # as some programs on Windows write it
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise Refused("its name is no path within a zip")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused("its name points out of the zip")
    if not parts:
        raise Refused("it has no name")
    if len(parts) > FOLDERS:
        raise Refused(f"folders in folders, more than {FOLDERS} deep")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refused(LINK)
    if entry.flag_bits & 1:
        raise Refused("it is locked by a password")
    return tuple(parts)


def _decoded(entry):
    """An entry's name; macOS writes UTF-8 and does not say so."""
    name = entry.orig_filename
    if not entry.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return name.encode("cp437").decode()
    return name


def readable(name):
    """A name on disk as text that any file can hold; no UTF-8 is read as Latin-1."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")


def shown(names):
    """A path that can be printed."""
    return ODD.sub("?", "/".join(names)).encode("utf-8", "replace").decode()
