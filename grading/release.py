"""Pack the course for a class: `python -m grading.release [--lessons 01,02]`.

Writes a zip for students (their notebooks, the package, the data, a start page; no
solution, model answer, rubric, grader or test) and the same lessons as source
assignments for a course that runs nbgrader.
"""

import argparse
import hashlib
import re
import sys
import zipfile
from pathlib import Path

import jinja2

from tools.build import EXERCISES, choose, dumps, exercise_list, load, write
from tools.door.update import MANIFEST
from tools.lesson import BLANK_ANSWER, STUB, LessonError, solved_view, student_view

from .config import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "batch-normalization"  # what the zip unpacks to
FILES = (
    "course.py",
    "environment.yml",
    "LICENSE",
    "pyproject.toml",
    "requirements.lock",
    "CHANGELOG.md",
    "tools/__init__.py",
    "data/.gitignore",
    "data/README.md",
    "data/checksums.txt",
)
FOLDERS = (*PACKAGES, "tools/door", "tools/jupyter")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip can state
CODE_STUB = "\n".join(STUB)
NBGRADER_CONFIG = f'''\
"""nbgrader for these assignments: `nbgrader generate_assignment 01_forward_pass`.

The kernel must find the course's packages: run nbgrader in its environment.
"""

c = get_config()  # noqa: F821
c.ClearSolutions.code_stub = {{"python": {CODE_STUB!r}}}
c.ClearSolutions.text_stub = {BLANK_ANSWER!r}
c.ExecutePreprocessor.timeout = 120
'''


def release(root, names, target):
    """Write the zip and nbgrader's sources of the named lessons, or of all.

    Returns: path of the zip, and the lessons in it.

    Raises:
        LessonError: a lesson is not there, or breaks a rule.
    """
    lessons = chosen(root, names)
    stem = "-".join([FOLDER, *(lesson.name[:2] for lesson in lessons if names)])
    path = target / f"{stem}.zip"
    target.mkdir(parents=True, exist_ok=True)
    pack(path, members(root, lessons))
    nbgrader_sources(lessons, target / "nbgrader")
    return path, lessons


def chosen(root, names):
    """The named lessons, all of them sound."""
    wanted = {path.stem for path in choose(root, names)}
    lessons, wrong = load(root)
    if blocking := [
        what for name in sorted(wanted & set(wrong)) for what in wrong[name]
    ]:
        raise LessonError("\n".join(blocking))
    return [lesson for lesson in lessons if lesson.name in wanted]


def members(root, lessons):
    """The bytes of every file a student gets, by its path in the course's folder."""
    files = {name: (root / name).read_bytes() for name in [*FILES, *data_files(root)]}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                files[path.relative_to(root).as_posix()] = path.read_bytes()
    files[EXERCISES] = exercise_list(load(root)[0]).encode()
    for lesson in lessons:
        notebook = dumps(student_view(lesson))
        files[f"notebooks/{lesson.name}.ipynb"] = notebook.encode()
    files["START.html"] = start_page(lessons).encode()
    files[MANIFEST] = manifest(files).encode()
    return files


def manifest(files):
    """What `course.py update` knows this version's own files by."""
    digests = {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(files))


def data_files(root):
    """The files that data/checksums.txt lists: what is unpacked beside them is not."""
    text = (root / "data/checksums.txt").read_text(encoding="utf-8")
    names = re.findall(r"^[0-9a-f]{64} [ *](.+)$", text, re.MULTILINE)
    return [f"data/{name}" for name in names]


def start_page(lessons):
    """What a student opens first: how to begin, and what is in the zip."""
    loader = jinja2.PackageLoader("grading")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template("start.html").render(lessons=lessons)


def pack(path, files):
    """Write a zip whose bytes depend on the files alone.

    Nothing is compressed: the data is already, and compressors differ by version.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{FOLDER}/{name}", EPOCH)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)


def nbgrader_sources(lessons, folder):
    """Write one nbgrader assignment per lesson: the solved notebook, not executed."""
    for lesson in lessons:
        assignment = folder / "source" / lesson.name
        write(assignment / f"{lesson.name}.ipynb", dumps(solved_view(lesson)))
    write(folder / "nbgrader_config.py", NBGRADER_CONFIG)


def main(argv=None, root=ROOT):
    parser = argparse.ArgumentParser(
        prog="course.py release", description=__doc__.partition("\n\n")[2]
    )
    parser.add_argument("--lessons", default="", help="such as 01,02; all by default")
    help = "the folder to write to; build/release/ by default"
    parser.add_argument("--to", type=Path, default=root / "build/release", help=help)
    args = parser.parse_args(argv)
    names = [name.strip() for name in args.lessons.split(",") if name.strip()]
    try:
        path, lessons = release(root, names, args.to)
    except LessonError as error:
        sys.exit(str(error))
    content = path.read_bytes()
    print(f"For students:  {path}")
    print(f"               {', '.join(lesson.name for lesson in lessons)}")
    print(f"               {len(content) / 1e6:.1f} MB, no solutions, no rubrics")
    print(f"               sha256 {hashlib.sha256(content).hexdigest()}")
    print("               They unpack it and open START.html.")
    print(f"For nbgrader:  {path.parent / 'nbgrader'}")
    print("               with solutions and rubrics: keep it to yourself")


if __name__ == "__main__":
    main()
