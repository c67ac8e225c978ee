"""Feedback in bulk: pages named as the platform named what was handed in.

return/moodle-LESSON.zip    Moodle: Upload multiple feedback files in a zip
return/canvas-LESSON.zip    Canvas: Re-upload submissions
return/folder/STUDENT/      for everything else
"""

import io
import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import PurePosixPath

KINDS = ("moodle", "canvas", "folder")
DATE = (2026, 1, 1, 0, 0, 0)  # the same pages make the same bytes


def write(students, kind, folder, environment):
    """Write the pages of all students, one per lesson.

    Args:
        kind: one of `KINDS`.
        folder: of the report.
        environment: what makes the pages.

    Yields: lines on what was written, and whom nothing goes back to this way.
    """
    page, made, left = environment.get_template("feedback.html"), defaultdict(dict), []
    for student in students:
        for lesson, verdict in student.verdicts.items():
            name = name_of(student, lesson, verdict, kind)
            if name is None:
                left.append(f"{student.id} {lesson}")
                continue
            one = replace(student, verdicts={lesson: verdict})
            text = page.render(student=one, tries={lesson: 1})
            made[lesson][name] = text.encode("utf-8", "replace")
    target = folder / "return"
    for lesson, files in sorted(made.items()):
        where = _folder(target, files) if kind == "folder" else None
        where = where or _zip(target / f"{kind}-{lesson}.zip", files)
        yield f"Feedback:      {where}, {len(files)} pages\n"
    if left:
        some = ", ".join(left[:3]) + (", ..." if left[3:] else "")
        yield f"Left out:      {len(left)} pages, not from {kind.title()}: {some}\n"


def name_of(student, lesson, verdict, kind):
    """What a page is called, or None where the platform's name is not known."""
    if kind == "folder":
        return f"{student.page.removesuffix('.html')}/{lesson}.html"
    told = verdict.platform
    if told.get("kind") != kind or not (file := told.get("file")):
        return None
    if kind == "canvas":
        return f"{PurePosixPath(file).stem}.html"
    _, mark, _ = file.partition("assignsubmission_file_")
    start = file.partition(mark)[0] if mark else file
    return f"{start}assignsubmission_file_/{lesson}.html"


def _folder(target, files):
    for name, content in files.items():
        path = target / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return target / "folder"


def _zip(path, files):
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, DATE), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.getvalue())
    return path
