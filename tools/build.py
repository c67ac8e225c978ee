"""Make notebooks/ from lessons/: `python -m tools.build [LESSON ...]`.

Each lesson becomes notebooks/NN_name.ipynb, which people open, and
build/solved/NN_name.ipynb, the answer key; both are executed. With them come
bn_checks/exercises.json, the checks' index bn_checks/edits.json, the README's lesson
table and cover figure, and the instructor's page grading/exercises.md.
"""

import argparse
import base64
import json
import os
import re
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

import bn_checks
from bn_checks import index

from . import instructor, pin
from .lesson import LessonError, canonical, parse, solved_view, student_view
from .rules import problems

ROOT = Path(__file__).resolve().parents[1]
EXERCISES = "bn_checks/exercises.json"
EDITS = "bn_checks/edits.json"
COVER = "notebooks/cover.png"
VIEWS = {"notebooks": student_view, "build/solved": solved_view}
CELL_SECONDS = 120
ANSI = re.compile(r"\x1b\[[0-9;]*m")
TABLE = re.compile("(?<=<!-- lessons -->\n).*?(?=<!-- /lessons -->)", re.DOTALL)


def build(root, names=(), force=False, say=print):
    """Bring the notebooks of the named lessons, or of all, up to date.

    A notebook keeps its outputs while its code stays the same, unless `force`.

    Raises:
        LessonError: a rule is broken, or a cell fails; its notebook stays as it was.
    """
    chosen = choose(root, names)
    for path in chosen:
        write(path, canonical(path.read_text(encoding="utf-8"), _short(root, path)))
    lessons, wrong = load(root)
    if blocking := [what for path in chosen for what in wrong.get(path.stem, ())]:
        raise LessonError("\n".join(blocking))
    for path, text in generated(root, lessons).items():
        write(path, text)
    for what in [*_instruct(root, lessons, write), *_index(root, lessons, write)]:
        say(what)
    for lesson in lessons:
        if root / lesson.path in chosen:
            _renew(root, lesson, force, say)
    for name in wrong:
        say(f"lessons/{name}.md breaks rules: its exercises are not listed")


def choose(root, names=()):
    """Paths of lessons named 1, 01, 01_forward_pass or lessons/01_forward_pass.md."""
    paths = sorted((root / "lessons").glob("[0-9][0-9]_*.md"))
    stems = {Path(name).stem.zfill(2): name for name in names}
    for stem, name in stems.items():
        if not any(stem in (path.stem, path.stem[:2]) for path in paths):
            known = ", ".join(path.stem for path in paths)
            raise LessonError(f"no lesson is called {name!r}; there are: {known}")
    return [p for p in paths if not stems or stems.keys() & {p.stem, p.stem[:2]}]


def load(root):
    """The sound lessons, and what is wrong with the others by their names."""
    lessons, wrong, taken = [], {}, {}
    for path in choose(root):
        try:
            lesson = parse(path.read_text(encoding="utf-8"), _short(root, path))
            found = problems(lesson) + _taken(lesson, taken)
        except LessonError as error:
            found = [str(error)]
        if found:
            wrong[path.stem] = found
        else:
            lessons.append(lesson)
    return lessons, wrong


def _taken(lesson, taken):
    """Exercises that an earlier lesson has too: a check is found by name alone."""
    found = []
    for cell in lesson.of("exercise"):
        first = taken.setdefault(cell.function, lesson.path)
        if first != lesson.path:
            what = f"exercise {cell.name!r} is in {first} too"
            found.append(f"{lesson.path}:{cell.line}: {what}")
    return found


def generated(root, lessons):
    """Text of the files that collect facts from all lessons."""
    files = {root / EXERCISES: exercise_list(lessons)}
    readme = root / "README.md"
    if readme.exists():
        text, table = readme.read_text(encoding="utf-8"), lesson_table(lessons)
        files[readme] = TABLE.sub(lambda _: table, text)
    return files


def _instruct(root, lessons, use):
    """Hand path and text of the instructor's page to `use`; say what prevents it."""
    path = root / instructor.PAGE
    if not path.parent.is_dir():
        return
    try:
        use(path, instructor.page(lessons))
    except LessonError as error:
        yield f"{instructor.PAGE} is not made: {error}"


def _index(root, lessons, use):
    """Hand path and text of the checks' index to `use`; say what prevents it."""
    path, names = root / EDITS, [c.function for x in lessons for c in x.of("exercise")]
    if root != ROOT:
        return  # the index is that of the checks which run here
    try:
        use(path, index.text(map(bn_checks.exercise, names), index.read(path)))
    except Exception as error:  # a check that is being written may raise anything
        yield f"{EDITS} is not made: {type(error).__name__}: {error}"


def exercise_list(lessons):
    rows = {}
    for lesson in lessons:
        for cell in lesson.of("exercise"):
            row = {key: cell.meta[key] for key in ("minutes", "points")}
            rows[cell.function] = {"lesson": lesson.name, **row}
    lines = (f' "{name}": {json.dumps(row)}' for name, row in sorted(rows.items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def lesson_table(lessons):
    rows = ["| lesson | what you build | minutes | points | exercises |"]
    rows.append("|---|---|---:|---:|---|")
    for lesson in lessons:
        link = f"[{lesson.title}](notebooks/{lesson.name}.ipynb)"
        cells = (link, lesson.course["builds"], *_counts([lesson]))
        rows.append(f"| {' | '.join(cells)} |")
    rows.append(f"| **together** | | {' | '.join(_counts(lessons))} |")
    return "\n".join(rows) + "\n"


def _counts(lessons):
    """Minutes, points, and exercises with written questions, as the table has them."""
    totals = [lesson.totals for lesson in lessons]
    sums = [str(sum(t[key] for t in totals)) for key in ("minutes", "points")]
    kinds = ("exercise", "question")
    coded, written = (sum(len(x.of(kind)) for x in lessons) for kind in kinds)
    return [*sums, f"{coded} + {written} written"]


def _renew(root, lesson, force, say):
    for folder, view in VIEWS.items():
        path, nb = root / folder / f"{lesson.name}.ipynb", view(lesson)
        began = time.monotonic()
        say(f"{folder}/{path.name}", end=" ", flush=True)
        if not force and _keep_outputs(path, nb):
            say("is up to date")
        else:
            notes = execute(nb, lesson)
            say(f"executed in {time.monotonic() - began:.1f} s", *notes, sep="\n")
        write(path, dumps(nb))
        _save_cover(root, nb)


def _save_cover(root, nb):
    """Keep the figure of the cell tagged `cover` for the README."""
    for cell in code_cells(nb):
        if "cover" in cell.metadata.get("tags", ()):
            [png] = [o.data["image/png"] for o in cell.outputs if "data" in o]
            (root / COVER).write_bytes(base64.b64decode(png))


def _keep_outputs(path, nb):
    try:
        stored, fresh = code_cells(loads(path)), code_cells(nb)
    except (OSError, ValueError):
        return False
    if [c.source for c in stored] != [c.source for c in fresh] or not ran(stored):
        return False
    for cell, old in zip(fresh, stored, strict=True):
        cell.update(outputs=old.outputs, execution_count=old.execution_count)
    return True


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def ran(cells):
    """Whether these code cells ran from top to bottom in a fresh kernel."""
    return [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def execute(nb, lesson):
    """Run a view in a fresh kernel and an empty folder, and keep its outputs.

    Returns: notes on cells that wrote to stderr, which is not kept.
    """
    notes = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        client = NotebookClient(
            nb,
            timeout=CELL_SECONDS,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
        )
        profile = {"IPYTHONDIR": f"{folder}/.ipython"}  # not the author's own
        with client.setup_kernel(env=pin(os.environ | profile)):
            for at, cell in enumerate(lesson.cells):
                notes += _run(client, at, f"{lesson.path}:{cell.line}")
    return notes


def _run(client, at, where):
    cell = client.nb.cells[at]
    try:
        client.execute_cell(cell, at)
    except (CellControlSignal, DeadKernelError) as error:
        trace = ANSI.sub("", str(error))
        raise LessonError(f"{where}: cell {cell.id} failed\n{trace}") from None
    outputs = cell.get("outputs", [])
    for output in outputs:  # a widget's model has another id in every run
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    stderr = [o for o in outputs if o.get("name") == "stderr"]
    for output in stderr:
        outputs.remove(output)
    said = [o.text for o in stderr if o.text.strip() and "%|" not in o.text]  # not tqdm
    return [f"{where}: note, stderr: {text}" for text in said]


def check(root):
    """Say what a build would change, outputs aside: nbval compares those."""
    lessons, wrong = load(root)
    stale = [what for found in wrong.values() for what in found]
    for lesson in lessons:
        stale += _stale(root, lesson)
    if not wrong:
        files = generated(root, lessons)
        stale += _instruct(root, lessons, files.__setitem__)
        stale += _index(root, lessons, files.__setitem__)
        for path, text in files.items():
            if _exact(path) != text:
                stale.append(_mend(_short(root, path), "differs", "lessons/"))
    names = {path.stem for path in choose(root)}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        if path.stem not in names:
            stale.append(f"notebooks/{path.name}: no lesson makes this, delete it")
    return stale


def _stale(root, lesson):
    text = _exact(root / lesson.path)
    if text != canonical(text, lesson.path):
        yield _mend(lesson.path, "is not as jupytext writes it", lesson.path)
    path = root / "notebooks" / f"{lesson.name}.ipynb"
    try:
        stored = loads(path)
    except (OSError, ValueError):
        found = ["cannot be read"]
    else:
        found = [*_differences(stored, student_view(lesson))]
        if not found and _exact(path) != dumps(stored):
            found = ["its JSON is not as the builder writes it"]
    yield from (_mend(_short(root, path), what, lesson.path) for what in found)


def _differences(stored, wanted):
    for here, there in zip_longest(stored.cells, wanted.cells, fillvalue={}):
        names = here.get("id", "nothing"), there.get("id", "nothing")
        if names[0] != names[1]:
            yield "{} stands where {} belongs".format(*names)
            return
        for key in ("cell_type", "source", "metadata"):
            if here[key] != there[key]:
                yield f"cell {names[0]}: {key} differs"
    for key in ("metadata", "nbformat", "nbformat_minor"):
        if stored[key] != wanted[key]:
            yield f"notebook {key} differs"


def _mend(path, what, source):
    return f"{path}: {what}; edit {source}, then run `python3 course.py build`"


def _short(root, path):
    return PurePosixPath(path.relative_to(root).as_posix())


def _exact(path):
    return path.read_bytes().decode("utf-8") if path.exists() else ""


def loads(path):
    return nbformat.reads(path.read_text(encoding="utf-8"), nbformat.NO_CONVERT)


def dumps(nb):
    return nbformat.writes(nb) + "\n"


def write(path, text):
    """Replace a file at once, or leave it alone when it says this already."""
    if _exact(path) == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    os.replace(fresh, path)


def solve(root, name, folder):
    """Write the solved notebook of one lesson into a folder, without outputs."""
    path = choose(root, [name])[0]
    lesson = parse(path.read_text(encoding="utf-8"), _short(root, path))
    write(Path(folder) / f"{lesson.name}.ipynb", dumps(solved_view(lesson)))


def main(argv=None, root=ROOT):
    parser = argparse.ArgumentParser(prog="tools.build", description=__doc__)
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="such as 01")
    parser.add_argument("--force", action="store_true", help="execute all of them")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    parser.add_argument("--solved", nargs=2, metavar=("LESSON", "FOLDER"))
    args = parser.parse_args(argv)
    try:
        if args.check:
            sys.exit("\n".join(check(root)) or 0)
        elif args.solved:
            solve(root, *args.solved)
        else:
            build(root, args.lessons, args.force)
    except LessonError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
