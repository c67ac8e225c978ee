"""What `course.py submit` packs: one zip that `grade` takes, and its receipt."""

import datetime
import hashlib
import io
import re
import zipfile

from .files import Problem, say, write_new

STUDENT = re.compile(r"[^\W_]([\w.-]{0,62}[^\W_])?")


def student_id(given, example):
    """The id that a student gave, or is asked for; `example` is how to give it."""
    if given is None:
        try:
            given = input("Your student id, as your instructor knows it: ")
        except EOFError:
            raise Problem(f"Say who hands in: {example}") from None
    if not STUDENT.fullmatch(given.strip()):
        raise Problem(
            f"{given!r} cannot be a student id. An id has letters and digits, with "
            "points, hyphens or _ between them, and at most 64 of these."
        )
    return given.strip()


def hand_in(student, files, root):
    """Write a zip and its receipt; neither takes the place of another."""
    now = datetime.datetime.now().astimezone()
    path, now = free_name(root / "work" / "submitted", student, now)
    content = packed(student, files)
    text = receipt(student, now, path, content, files)
    write_new(path.with_suffix(".receipt.txt"), text)
    write_new(path, content)
    say(
        f"\nUpload {path.relative_to(root)}\n(its receipt lies beside it; "
        f"what you change from now on is not in it)\n\n{text}"
    )


def packed(student, files):
    """The bytes of a zip that `grade` takes for this student's."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{student}/{name}", text)
    return content.getvalue()


def receipt(student, now, path, content, files):
    """What proves later which files were packed when."""

    def line(key, value):
        return f"{key:8} {value}\n"

    def digest(value):
        return hashlib.sha256(value).hexdigest()

    head = [("student", student), ("packed", now.isoformat(" ", "seconds"))]
    head += [("zip", path.name), ("sha256", digest(content))]
    holds = [
        ("holds", f"{name}, sha256 {digest(text)}") for name, text in files.items()
    ]
    return "".join(line(*pair) for pair in head + holds)


def free_name(folder, student, now):
    """A path for a zip, and its time: the first second that no zip has yet."""
    while True:
        utc = now.astimezone(datetime.UTC)
        path = folder / f"{student}_submission_{utc:%Y%m%dT%H%M%SZ}.zip"
        if not (path.exists() or path.with_suffix(".receipt.txt").exists()):
            return path, now
        now += datetime.timedelta(seconds=1)
