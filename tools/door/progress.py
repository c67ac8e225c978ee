"""How far a student is, read from saved notebooks without running them.

`course.py status` prints it, and the start page in work/ shows it with links.
"""

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass

from .files import dumps, read_notebook, write_new

TASKS = {"ex-": "exercises", "answer-": "questions"}  # how ids of their cells start
START = "00_start_here.ipynb"
NUMBER = re.compile(r"\b\d\d\b")


def text_of(cell):
    return "".join(cell["source"])


def name_of(cell):
    """Its id in the lesson; some editors drop the one or the other."""
    graded = cell["metadata"].get("nbgrader", {})
    return graded.get("grade_id") or cell.get("id", "")


def cells(notebook):
    """(name, text) of each cell of a notebook, in order, with one kind of line end."""
    found = [(name_of(cell), text_of(cell)) for cell in notebook["cells"]]
    return [(name, "\n".join(text.splitlines())) for name, text in found]


def undone(mine, original):
    """Exercises and questions that are as they came; None where every cell is."""
    mine, original = cells(mine), cells(original)
    if mine == original:
        return None
    now = dict(mine)
    tasks = [task for task in original if task[0].startswith(tuple(TASKS))]
    return [name for name, text in tasks if now.get(name, text) == text]


def counts(mine, original):
    """(done, of how many) for each kind of task."""
    left = undone(mine, original)
    names = [name for name, _ in cells(original) if name.startswith(tuple(TASKS))]
    left = names if left is None else left

    def count(found, start):
        return sum(name.startswith(start) for name in found)

    totals = {start: count(names, start) for start in TASKS}
    return {s: (total - count(left, s), total) for s, total in totals.items()}


def described(mine, original):
    """Whether a lesson was changed, and what of it is done, in words."""
    left = undone(mine, original)
    if left is None:
        return False, "untouched"
    words = [
        f"{done} of {total} {TASKS[start]}"
        for start, (done, total) in counts(mine, original).items()
    ]
    missing = ", ".join(name.split("-", 1)[1] for name in left)
    return True, ", ".join(words) + (f"; not done: {missing}" if left else "")


# a lesson's facts, from its notebook


@dataclass(frozen=True)
class Lesson:
    """One row of the map.

    Attributes:
        name: of its notebook, without the suffix.
        title: its first heading.
        minutes: as its first cell says; None where it does not.
        needs: numbers of the lessons that it stands on.
        tasks: {"ex-": (done, total), "answer-": (done, total)}; None where the
            student's copy cannot be read.
        points: what the last checks gave, and the most that they can.
        written: points that a person gives.
    """

    name: str
    title: str
    minutes: int | None
    needs: tuple[str, ...]
    tasks: dict | None
    points: tuple
    written: float

    @property
    def begun(self):
        return bool(self.tasks) and any(done for done, _ in self.tasks.values())

    @property
    def finished(self):
        return bool(self.tasks) and all(d == total for d, total in self.tasks.values())


def lesson(path, work):
    """What a lesson of the course is, and what of it is done in work/."""
    original, copy = read_notebook(path), work / path.name
    try:
        mine = read_notebook(copy) if copy.exists() else original
        tasks = counts(mine, original)
    except (AttributeError, KeyError, TypeError, ValueError):
        mine, tasks = original, None
    head = text_of(original["cells"][0]) if original["cells"] else ""
    minutes = re.search(r"about (\d+) minutes", head)
    return Lesson(
        path.stem,
        head.partition("\n")[0].removeprefix("# ") or path.stem,
        int(minutes[1]) if minutes else None,
        needs(head),
        tasks,
        (earned(mine if copy.exists() else {"cells": []}), most(original, "check-")),
        most(original, "answer-"),
    )


def needs(head):
    """The lessons that the first sentence of *You need* names."""
    _, _, text = head.partition("**You need**")
    sentence = re.split(r"[.:;]\s", " ".join(text.split()))[0]
    return tuple(dict.fromkeys(NUMBER.findall(sentence)))


def most(notebook, start):
    """Points that can be had in cells whose names start so."""
    graded = [
        cell["metadata"]["nbgrader"].get("points", 0)
        for cell in notebook["cells"]
        if name_of(cell).startswith(start) and "nbgrader" in cell["metadata"]
    ]
    return sum(graded)


def earned(notebook):
    """Points by the last checks that ran: their outputs are numbers."""
    found = {}
    for cell in notebook["cells"]:
        if name_of(cell).startswith("check-"):
            found[name_of(cell)] = shown(cell)
    return sum(found.values())


def shown(cell):
    """The points in a check's output, 0 where there are none."""
    most = cell["metadata"].get("nbgrader", {}).get("points", 0)
    for output in cell.get("outputs", []):
        text = "".join(output.get("data", {}).get("text/plain", ""))
        with contextlib.suppress(ValueError):
            if 0 <= float(text) <= most:
                return float(text)
    return 0


# the table


HEADS = ("lesson", "minutes", "stands on", "exercises", "questions", "points")


def table(notebooks, work):
    return [lesson(path, work) for path in sorted(notebooks.glob("*.ipynb"))]


def row(found):
    """What the columns say, as text."""
    if found.tasks is None:
        done = ["cannot be read", ""]
    else:
        done = [_of([pair]) for pair in found.tasks.values()]
    minutes = "" if found.minutes is None else str(found.minutes)
    return [found.title, minutes, ", ".join(found.needs), *done, _of([found.points])]


def together(lessons):
    minutes = sum(x.minutes or 0 for x in lessons)
    read = [x.tasks for x in lessons if x.tasks is not None]
    done = [_of(tasks[start] for tasks in read) for start in TASKS]
    return ["together", str(minutes), "", *done, _of(x.points for x in lessons)]


def _of(pairs):
    pairs = list(pairs)
    got, total = sum(p[0] for p in pairs), sum(p[1] for p in pairs)
    return f"{round(got, 2):g} of {total:g}"


def advice(lessons):
    """Where to go on: the first lesson that was begun, or that was not."""
    going = [x for x in lessons if x.begun and not x.finished]
    fresh = [x for x in lessons if not x.begun and x.tasks is not None]
    if going:
        return "Go on with", going[0]
    if fresh:
        first = len(fresh) == len(lessons)
        return "Begin with" if first else "Next comes", fresh[0]
    return "Every exercise and question has an answer.", None


def note(lessons):
    written = sum(x.written for x in lessons)
    return (
        "Points are what each check said when it last ran and was saved. "
        f"{written:g} more are for written answers; a person gives those."
    )


def plain(lessons):
    """The table for a terminal."""
    rows = [HEADS, *map(row, lessons), together(lessons)]
    columns = list(zip(*rows, strict=True))
    wide = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.ljust, line, wide)).rstrip() for line in rows]
    words, target = advice(lessons)
    where = f"{words} {target.title}." if target else words
    return "\n".join([*lines, "", where, note(lessons)])


def linked(lessons):
    """The same as Markdown, with a link for each lesson."""

    def link(found):
        return f"[{found.title}]({found.name}.ipynb)"

    words, target = advice(lessons)
    where = f"**{words} {link(target)}.**" if target else f"**{words}**"
    rows = [[link(x), *row(x)[1:]] for x in lessons]
    lines = [HEADS, ["---", "---:", "---", "---:", "---:", "---:"], *rows]
    lines.append(together(lessons))
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{where}\n\n{body}\n\n{note(lessons)}"


# the start page

HELLO = """\
# Start here

Below is every lesson, what it stands on, and how far you are. Follow a link to open
one. Lessons 01 and 02 come first; the others stand on them.

Run the next cell to bring the table up to date: click it, then press Shift and Enter.
It reads your saved notebooks and runs none of them."""
MAP = "%run ../course.py status --links"
HELP = """\
**In a lesson**, write where a cell says `# your code here` or *Your answer here.* The
cell below an exercise checks it at once. Nothing you write is overwritten. In a
terminal, in the course's folder:

| type | to |
|---|---|
| `course.py status` | see this table there |
| `course.py fresh 01` | get a new copy of a lesson; the old one is kept |
| `course.py submit` | pack what you have done into one zip |
| `course.py doctor` | learn what is wrong, and how to mend it |"""


def start_page(lessons):
    """The notebook that `course.py lab` opens, with the table as an output."""
    data = {"text/markdown": linked(lessons), "text/plain": plain(lessons)}
    shown = {"output_type": "display_data", "data": data, "metadata": {}}
    hello, help = (
        {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
        for name, text in (("hello", HELLO), ("help", HELP))
    )
    code = {"cell_type": "code", "id": "map", "metadata": {}, "source": MAP}
    code |= {"execution_count": None, "outputs": [shown]}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    page = {"cells": [hello, code, help], "nbformat": 4, "nbformat_minor": 5}
    course = {"page": "start", "version": page_version(page)}
    return page | {"metadata": {"course": course, "kernelspec": kernel}}


def page_version(page):
    return hashlib.sha256(json.dumps(cells(page)).encode()).hexdigest()[:12]


def untouched(page):
    """Whether a start page is as the course wrote it, outputs aside."""
    try:
        return page["metadata"]["course"]["version"] == page_version(page)
    except (AttributeError, KeyError, TypeError):
        return False


def renew_start(notebooks, work):
    """Write the start page, or its outputs anew; what a student changed stays."""
    path, page = work / START, dumps(start_page(table(notebooks, work)))
    if not path.exists():
        return write_new(path, page)
    try:
        if not untouched(read_notebook(path)):
            return None
    except ValueError:
        return None
    draft = path.with_name(f".{START}.new")
    draft.write_text(page, encoding="utf-8", newline="\n")
    return draft.replace(path)
