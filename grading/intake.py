"""Find the submissions in what a learning platform hands out.

Folders, loose notebooks, zips and zips in zips, in any mixture. Nothing is unpacked to
disk: zips are read in memory, within limits. What is unsafe or cannot be read is
refused on its own, with a reason, and stops nothing else.

Who handed in a file is told, in this order, by the platform's part of its path (Moodle:
`Ada Lovelace_12345_assignsubmission_file_`; Canvas: `lovelaceada_1234_5678_...`), by
the folder or zip it lies in, or by the start of its name (`ada_01_forward_pass.ipynb`).
"""

import contextlib
import hashlib
import io
import re
import stat
import time
import unicodedata
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from . import rebuild

MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_\w+")
CANVAS = re.compile(r"(?P<name>[^_]+)_(?:LATE_)?(?P<id>\d+)_\d+_.+", re.I)
SUBMIT = re.compile(r"(?P<name>.+)_submission_(?P<time>\d{8}T\d{6}Z)(?P<again>.*)")
AGAIN = re.compile(r"(?:[ _-]*\((\d+)\)|-(\d+))$")  # a second download or upload
IGNORED = re.compile(
    r"__MACOSX|\.[^.].*|.*\.(txt|json|md|html|png|csv|pdf|py)|Thumbs\.db"
)
GENERIC = {"work", "notebooks", "submission", "submissions", "files", "backup", "old"}
ODD = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\u200b-\u200f\u202a-\u202e\ufffd]")


class Refused(Exception):
    """An item is not taken; the text says why."""


@dataclass(frozen=True)
class Item:
    """A file of the collection.

    Attributes:
        path: names from the collection down to the file, zips included.
        time: when it was last changed, comparable within one collection.
        read: function that returns its bytes.
    """

    path: tuple[str, ...]
    time: tuple
    read: object

    @property
    def source(self):
        return "/".join(self.path)


@dataclass(frozen=True)
class Attempt:
    """One notebook that one student handed in for one lesson.

    Attributes:
        student: identifier, safe as a file name.
        lesson: name of the lesson.
        order: attempts of a student at a lesson sort by this, the last one last.
        sha256: of its bytes.
        source: where it lies.
        read: function that returns its bytes.
        platform: {"kind", "id", "name"} where the platform's name told, else {}.
        called: what the student is called there, before it was made an identifier.
    """

    student: str
    lesson: str
    order: tuple
    sha256: str
    source: str
    read: object
    platform: dict = field(default_factory=dict, hash=False)
    called: str = ""


@dataclass
class Collection:
    """What intake found: attempts by (student, lesson), and (source, reason) pairs."""

    attempts: dict
    refused: list

    @property
    def students(self):
        return sorted({student for student, _ in self.attempts})


def collect(path, lessons, limits):
    """All submissions under a path.

    Args:
        path: a folder, a zip or a notebook.
        lessons: names of the course's lessons.
        limits: a `config.Limits`.

    Returns: a `Collection`; attempts of equal bytes are one.

    Raises:
        Refused: there is nothing at this path.
    """
    path, refused = Path(path), []
    if not path.exists():
        raise Refused(f"{path}: there is no such file or folder")
    found, names = defaultdict(dict), {}
    items = list(_items(path, limits, refused))
    shared = _shared(items)
    for item in items:
        try:
            attempt = _attempt(item, lessons, limits, shared)
            _keep_apart(attempt, names)
        except Refused as reason:
            refused.append((item.source, str(reason)))
            continue
        key = attempt.student, attempt.lesson
        same = found[key].get(attempt.sha256)
        if same is None or same.order < attempt.order:
            found[key][attempt.sha256] = attempt
    attempts = {
        key: sorted(found[key].values(), key=lambda attempt: attempt.order)
        for key in sorted(found)
    }
    return Collection(attempts, refused)


# walking


def _items(path, limits, refused):
    """Every notebook of the collection, as an `Item`."""
    if path.is_dir():
        yield from _in_folder(path, (), limits, refused)
    elif path.suffix.lower() == ".zip":
        yield from _Zip(path.name, (), limits, refused, alone=True).items(path)
    else:
        yield from _file(path, (path.name,), limits, refused, alone=False)


def _in_folder(folder, names, limits, refused):
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        refused.append(("/".join(names), str(error)))
        return
    paths = [path for path in paths if not IGNORED.fullmatch(path.name)]
    alone = len(paths) == 1 and not names
    for path in paths:
        inner = (*names, path.name)
        if path.is_symlink():
            refused.append((_shown(inner), LINK))
        elif path.is_dir():
            yield from _in_folder(path, inner, limits, refused)
        else:
            yield from _file(path, inner, limits, refused, alone)


LINK = "a link to another file; hand in the file itself"


def _file(path, names, limits, refused, alone):
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refused("neither a file nor a folder")
        if ODD.search(path.name):
            raise Refused("its name holds characters that cannot be seen")
        suffix = _suffix(path.name, status.st_size, limits)
    except (Refused, OSError) as reason:
        refused.append((_shown(names), str(reason)))
        return
    if suffix == ".zip":
        made = _Zip(_shown(names), names, limits, refused, alone=alone)
        yield from made.items(path)
    else:
        yield Item(names, time.localtime(status.st_mtime)[:6], path.read_bytes)


def _suffix(name, size, limits):
    """What kind of file a name promises: ".ipynb" or ".zip".

    Raises:
        Refused: it is another kind, or too large.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in (".zip", ".ipynb"):
        raise Refused("neither a notebook (.ipynb) nor a zip")
    if suffix == ".ipynb" and size > limits.notebook:
        raise Refused(f"{size} bytes, at most {limits.notebook}")
    return suffix


class _Zip:
    """A zip of the collection, and the notebooks in it.

    Args:
        source: where it lies, to be shown.
        names: its path as a tuple; empty for the collection itself.
        depth: 1 on disk, 2 in a zip, and so on.
        alone: it is all there is, so that it may hold the class; else it may not, for
            a student could put the names of others inside.
    """

    def __init__(self, source, names, limits, refused, depth=1, alone=False):
        self.source, self.names, self.depth = source, names, depth
        self.limits, self.refused, self.alone = limits, refused, alone

    def items(self, file):
        """Every notebook in it; `file` is a path or a function that returns bytes."""
        try:
            archive = self.open(file)
            entries = self.entries(archive)
        except Refused as reason:
            self.refused.append((self.source, str(reason)))
            return
        names = self.above(entries)
        self.alone = self.alone and len(entries) == 1
        for entry in entries:
            yield from self.entry(entry, file, archive, names)

    def open(self, file):
        with _damage_refused():
            stream = io.BytesIO(file()) if callable(file) else file
            return zipfile.ZipFile(stream)

    def entries(self, archive):
        """The files in it that are worth a look.

        Raises:
            Refused: there are too many, or they would be too large.
        """
        every, limits = archive.infolist(), self.limits
        if len(every) > limits.entries:
            raise Refused(f"{len(every)} files in one zip, at most {limits.entries}")
        size = sum(entry.file_size for entry in every)
        if size > limits.unpacked:
            raise Refused(f"{size} bytes when unpacked, at most {limits.unpacked}")
        return [
            entry
            for entry in every
            if not entry.is_dir()
            and not any(map(IGNORED.fullmatch, entry.filename.split("/")))
        ]

    def above(self, entries):
        """The names above its files: its own counts unless it holds a whole class."""
        paths = [PurePosixPath(entry.filename) for entry in entries]
        zips = sum(path.suffix.lower() == ".zip" for path in paths)
        loose = sum(len(path.parts) == 1 for path in paths) - zips
        owners = defaultdict(set)
        for path in paths:
            owners[path.name].add(path.parts[0].lower())
        several = any(len(folders - GENERIC) > 1 for folders in owners.values())
        platform = any(_platform(part) for path in paths for part in path.parts)
        whole = platform or (self.alone and not loose and (zips or several))
        mine = self.names and SUBMIT.fullmatch(_stem(self.names[-1]))
        mine = mine or any(map(_platform, self.names))
        return self.names[:-1] if whole and not mine else self.names

    def entry(self, entry, file, archive, names):
        place = f"{self.source}/{_shown([entry.filename])}"
        try:
            parts = _safe_parts(entry)
            suffix = _suffix(entry.filename, entry.file_size, self.limits)
            if suffix == ".zip" and self.depth >= self.limits.depth:
                raise Refused(f"zips in zips, more than {self.limits.depth} deep")
        except Refused as reason:
            self.refused.append((place, str(reason)))
            return
        inner = (*names, *parts)
        if suffix == ".ipynb":
            yield Item(inner, entry.date_time, self.reader(entry, file, archive))
        else:
            more = self.limits, self.refused, self.depth + 1, self.alone
            made = _Zip(place, inner, *more)
            yield from made.items(self.reader(entry, file, archive))

    def reader(self, entry, file, archive):
        """A function that reads an entry; a zip on disk stays open, others do not."""

        def read():
            zipped = self.open(file) if callable(file) else archive
            with _damage_refused(), zipped.open(entry) as stream:
                content = stream.read(entry.file_size + 1)
            if len(content) > entry.file_size:
                raise Refused("it is larger than its zip says")
            return content

        return read


@contextlib.contextmanager
def _damage_refused():
    """Zips that are damaged, or made to harm, raise much; here it is `Refused`."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # zlib, lzma, bz2 and struct have errors of their own
        raise Refused(f"cannot be unpacked: {error}") from None


def _safe_parts(entry):
    """The names of an entry's path.

    Raises:
        Refused: it points elsewhere, is a link, is locked, or its name is odd.
    """
    name = entry.orig_filename
    if ODD.search(name):
        raise Refused("its name holds characters that cannot be seen")
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name):
        raise Refused("its name is no path within a zip")
    if ".." in name.split("/"):
        raise Refused("its name points out of the zip")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise Refused(LINK)
    if entry.flag_bits & 1:
        raise Refused("it is locked by a password")
    return PurePosixPath(name).parts


def _shown(names):
    """A path that can be printed."""
    return ODD.sub("?", "/".join(names)).encode("utf-8", "replace").decode()


# naming


def _shared(items):
    """Folders that hold files of several students, as platforms name them."""
    found = defaultdict(set)
    for item in items:
        for depth, part in enumerate(item.path):
            if told := _platform(part):
                found[item.path[:depth]].add(told["student"])
    return {folder for folder, students in found.items() if len(students) > 1}


def _keep_apart(attempt, names):
    """Refuse an attempt whose student another one would be taken for.

    Args:
        names: what students are called so far, by their identifier; grows.
    """
    called = names.setdefault(attempt.student.casefold(), attempt.called)
    if called != attempt.called:
        both = f"{called!r} and {attempt.called!r}"
        raise Refused(f"{both} would be one student: rename one of them")


def _attempt(item, lessons, limits, shared):
    """Whose attempt at which lesson a notebook is.

    Raises:
        Refused: its name and its content do not tell, or it cannot be read.
    """
    try:
        content = item.read()
    except OSError as error:
        raise Refused(f"cannot be read: {error}") from None
    *folders, name = item.path
    found = _told(item, shared)
    stem, again = _split_again(_stem(name))
    inside = [lesson for lesson in lessons if lesson in stem]
    lesson = inside[0] if inside else rebuild.lesson_of(content, limits)
    if lesson not in lessons:
        raise Refused("neither its name nor its content is that of a lesson")
    before = stem.partition(lesson)[0] if inside else ""
    folders, sent = _named_folders(folders)
    called = found.get("student") or (folders[0] if folders else before)
    called = unicodedata.normalize("NFC", called).strip(" _-")
    if not (student := identifier(called)):
        raise Refused("nothing tells whose it is: no folder, no start of its name")
    return Attempt(
        student,
        lesson,
        (sent, item.time, again, item.source),
        hashlib.sha256(content).hexdigest(),
        item.source,
        item.read,
        found.get("platform", {}),
        called,
    )


def _told(item, shared):
    """What the platform's part of a path tells.

    A student chooses the names of files. So a folder that bears a student's name goes
    before a file that is called as Canvas calls files.

    Raises:
        Refused: it lies among files of several students, in a folder with a name.
    """
    for depth, part in enumerate(item.path):
        if not (told := _platform(part)):
            continue
        above = item.path[:depth]
        if told["platform"]["kind"] == "moodle" or not _named_folders(above)[0]:
            return told
        if above in shared:
            raise Refused(
                "its name and others beside it are Canvas's, but the folder may be a "
                "student's; if it is the class, grade this folder by itself"
            )
    return {}


def _platform(part):
    """What a name that Moodle or Canvas made tells, or None."""
    stem = _stem(part)
    match, kind = MOODLE.fullmatch(stem), "moodle"
    if not match and stem != part:  # Canvas names files only
        match, kind = CANVAS.fullmatch(stem), "canvas"
    if not match:
        return None
    name, number = match["name"], match["id"]
    facts = {"kind": kind, "id": number, "name": name}
    return {"student": f"{name}_{number}", "platform": facts}


def _named_folders(folders):
    """Folders that may be a student's name, and when `course.py submit` packed them."""
    sent, names = "", []
    for folder in folders:
        stem = _stem(folder) if folder.lower().endswith(".zip") else folder
        if match := SUBMIT.fullmatch(stem):
            stem, sent = match["name"], match["time"]
        if stem.lower() not in GENERIC:
            names.append(stem)
    return names, sent


def _stem(name):
    return re.sub(r"\.(ipynb|zip)$", "", name, flags=re.IGNORECASE)


def _split_again(stem):
    """A name without the number that browsers and platforms append, and the number."""
    match = AGAIN.search(stem)
    if not match:
        return stem, 0
    return stem[: match.start()], int(match[1] or match[2])


def identifier(name):
    """A student's name as a folder may be called: letters, digits, `.`, `-`, `_`."""
    name = unicodedata.normalize("NFC", name).strip()
    return re.sub(r"[^\w.-]+", "-", name).strip(".-_")[:100]
