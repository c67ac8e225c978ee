"""Put a newer version of the course in the place of this one.

Phase one copies the new course, and every file of ours that might hold somebody's work,
into `.update/`, and writes the plan last. Phase two, `finish_update` in course.py, only
renames: whenever it is interrupted, the next command of the course ends it.
"""

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path, PurePosixPath

from .files import Problem, read_notebook, say

MANIFEST = "files.sha256"  # what a version of the course consists of
# folders and files that are a user's or made here, never a part of the course
NOT_COURSE = re.compile(
    r"work|build|grades|replaced|\.(?!ci$|github$|devcontainer$|gitignore$|gitattributes$).*"
    r"|__pycache__|.*\.egg-info|.*\.pyc|" + re.escape(MANIFEST)
)
PARTS = ("course.py", "pyproject.toml", "requirements.lock", "data/checksums.txt")


def stage(root, source):
    """Phase one: everything into `.update/`, the plan last.

    Returns: sentences on what will have changed; empty where nothing does.

    Raises:
        Problem: the source is no complete course.
    """
    folder = root / ".update"
    shutil.rmtree(folder, ignore_errors=True)
    new = folder / "new"
    collect(Path(source), new)
    insist_complete(new)
    plan = planned(root, new)
    if not (plan["new"] or plan["gone"]):
        shutil.rmtree(folder)
        return []
    report = changes(root, new)
    for name in plan["keep"]:
        copy(root / name, folder / "kept" / name)
    draft = folder / "plan.new"
    draft.write_text(json.dumps(plan), encoding="utf-8")
    draft.replace(folder / "plan.json")  # from here on the update is decided
    return report


def collect(source, target):
    """Copy a course's files from a folder or a zip."""
    if not source.exists():
        raise Problem(f"{source}: there is no such file or folder.")
    if source.is_dir():
        return copy_course(source, target)
    if not zipfile.is_zipfile(source):
        raise Problem(f"{source} is neither a folder nor a zip. Download it again.")
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as unpacked:
        try:
            with zipfile.ZipFile(source) as archive:
                archive.extractall(unpacked)  # keeps every name inside
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise Problem(
                f"{source} is damaged ({error}). Download it again."
            ) from None
        return copy_course(Path(unpacked), target)


def copy_course(source, target):
    """Copy the course that lies in a folder, or in a folder within it."""
    found = sorted(source.glob("**/course.py"), key=lambda path: len(path.parts))
    if not found:
        raise Problem(f"There is no course in {source}: no course.py.")
    top = found[0].parent
    for name in files_of(top):
        copy(top / name, target / name)


def files_of(top):
    """Names of a course's files, in order: not a user's, not what is made here."""
    names = []
    for path in sorted(top.iterdir()):
        if NOT_COURSE.fullmatch(path.name) or path.is_symlink():
            continue
        if path.is_dir():
            inside = (PurePosixPath(path.name) / name for name in files_of(path))
            names += map(str, inside)
        else:
            names.append(path.name)
    return names


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def insist_complete(new):
    lacking = [name for name in PARTS if not (new / name).is_file()]
    sums = (new / "data/checksums.txt").read_text("utf-8") if not lacking else ""
    for expected, name in re.findall(r"^([0-9a-f]{64}) [ *](.+)$", sums, re.MULTILINE):
        path = new / "data" / name
        if not path.is_file() or digest(path) != expected:
            lacking.append(f"data/{name}")
    if not list((new / "notebooks").glob("*.ipynb")):
        lacking.append("notebooks/")
    if lacking:
        raise Problem(
            f"That is no complete course: {', '.join(lacking)} is missing or damaged. "
            "Nothing was changed. Download it again."
        )


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def planned(root, new):
    """Which files are new or other, which go, and which old ones are to be kept."""
    names, vouched = files_of(new), manifest(root)
    other = [name for name in names if differs(root / name, new / name)]
    gone = [name for name in vouched if name not in set(names)]
    gone = [n for n in gone if pristine(root, n, vouched) and not is_lesson(n)]
    gone += renamed(root, names)
    keep = [
        name
        for name in [*other, *gone]
        if (root / name).is_file() and not pristine(root, name, vouched)
    ]
    for_later = "".join(f"{digest(new / name)}  {name}\n" for name in names)
    (new / MANIFEST).write_text(for_later, encoding="utf-8", newline="\n")
    named = f"replaced/{datetime.now():%Y-%m-%d_%H%M%S}"
    more = [MANIFEST] if differs(root / MANIFEST, new / MANIFEST) else []
    return {"new": other + more, "gone": gone, "keep": keep, "kept_as": named}


def differs(old, new):
    return not old.is_file() or old.read_bytes() != new.read_bytes()


def manifest(root):
    """The digest of each file of this version, where it came with a list."""
    path = root / MANIFEST
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = re.findall(r"^([0-9a-f]{64})  (.+)$", text, re.MULTILINE)
    return {name: expected for expected, name in found}


def pristine(root, name, vouched):
    """Whether a file is as the course brought it, so that nobody's work is in it."""
    path = root / name
    return path.is_file() and vouched.get(name) == digest(path)


def is_lesson(name):
    return name.startswith("notebooks/")


def renamed(root, names):
    """Old notebooks of lessons that have another name now."""
    numbers = {PurePosixPath(name).name[:3] for name in names if is_lesson(name)}
    old = [f"notebooks/{path.name}" for path in lessons(root)]
    return [n for n in old if n not in names and PurePosixPath(n).name[:3] in numbers]


def lessons(root):
    return [p for p in sorted((root / "notebooks").glob("*.ipynb")) if version(p)]


def version(path):
    """The course's version of a notebook, None where it has none."""
    try:
        return read_notebook(path)["metadata"]["course"]["version"]
    except (KeyError, OSError, TypeError, ValueError):
        return None


def changes(root, new):
    """A sentence for each lesson that is new, changed or renamed."""
    old = {path.name: version(path) for path in lessons(root)}
    said = []
    for path in lessons(new):
        if path.name not in old:
            said.append(f"{path.stem} is new.")
        elif old[path.name] != version(path):
            copied = (root / "work" / path.name).exists()
            more = " Your copy in work/ is of the earlier one" if copied else ""
            more += f"; to renew it: fresh {path.stem[:2]} --answers" if copied else ""
            said.append(f"{path.stem} has changed.{more}")
    return said or ["No lesson has changed."]


def update(root, source, pull, finish):
    """Do both phases, and say what changed."""
    if (root / ".git").exists():
        raise Problem(f"This copy of the course belongs to git. Run: {pull}")
    if source is None:
        raise Problem(
            "Download the newer version (from where you had this one), then name its "
            "zip or folder behind update."
        )
    if Path(source).resolve() == root:
        raise Problem("That is this course itself; name the newer one.")
    report = stage(root, source)
    if not report:
        return say("This is the same version already; nothing was changed.")
    finish()
    return say(
        "\n".join(["Updated. Your files in work/ are as you left them.", *report])
    )
