"""A lesson: the MyST text an author writes, and the two notebooks it becomes."""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePath

from jupytext.myst import MystMetadataParsingError, myst_to_notebook, notebook_to_myst
from nbformat import ValidationError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = ("# your code here", "raise NotImplementedError")
BLANK_ANSWER = "*Your answer here.*"

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# enough to color the code where no kernel runs; a version would differ by machine
LANGUAGE = {"mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
NOT_OURS = ("jupyter", "jupytext", "language_info", "source_map")

FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)

# what tags may make of a cell, and how its id starts
KINDS = {
    "setup": "setup",
    "exercise": "ex-",
    "check": "check-",
    "question": "question-",
    "rubric": "answer-",
}
PARTS = {
    "exercise": {"task": "above", "check": "below"},
    "question": {"rubric": "below"},
}
SOURCE_ONLY = ("name", "points", "minutes", "defines")


class LessonError(Exception):
    """What an author has to mend, one `file:line: what` per line."""


@dataclass(eq=False)
class Cell:
    kind: str  # one of KINDS, or "code", "text", "task": the text of an exercise
    type: str
    source: str
    line: int  # of the source's first line in the lesson
    meta: dict
    id: str = ""
    owner: "Cell | None" = None  # the exercise or question this is a part of
    parts: dict = field(default_factory=dict)

    @property
    def lines(self):
        return self.source.split("\n")

    @property
    def name(self):
        return str(self.meta.get("name", ""))

    @property
    def function(self):
        return self.name.replace("-", "_")

    @property
    def defines(self):
        return self.meta.get("defines", self.function)


@dataclass
class Lesson:
    path: PurePath  # relative to the root, as messages show it
    course: dict
    cells: list[Cell]

    @property
    def name(self):
        return self.path.stem

    @property
    def title(self):
        return self.cells[0].lines[0].removeprefix("# ")

    @property
    def reading(self):
        """Minutes to read the lesson, by the rule that CONTRIBUTING.md states."""
        text = "\n".join(cell.source for cell in self.of("text"))
        words = len(FORMULA.sub(" ", text).split())
        code = self.of("setup", "code")
        shown = [c for c in code if "hidden" not in c.meta.get("tags", [])]
        lines = sum(bool(line.strip()) for cell in shown for line in cell.lines)
        figures = sum(cell.source.count("plots.show(") for cell in code)
        formulas = len(FORMULA.findall(text))
        minutes = words / 200 + formulas / 10 + lines / 12 + figures / 2
        return 5 * max(1, round(minutes / 5))

    @property
    def totals(self):
        """What `{{minutes}}` and `{{points}}` stand for."""
        tasks = self.of("exercise", "question")
        minutes = [self.reading, *(c.meta["minutes"] for c in tasks)]
        return {"minutes": sum(minutes), "points": sum(c.meta["points"] for c in tasks)}

    def of(self, *kinds):
        return [cell for cell in self.cells if cell.kind in kinds]


def canonical(text, path):
    """The lesson as jupytext writes it, without what editors leave in its head."""
    nb = _read(text, path)
    head = {k: v for k, v in nb.metadata.items() if k not in NOT_OURS}
    nb.metadata = head | {"kernelspec": KERNELSPEC}
    return notebook_to_myst(nb, default_lexer="ipython3")


def parse(text, path):
    """Read a lesson: its cells with their kinds, lines and ids."""
    nb = _read(text, path)
    starts = nb.metadata.pop("source_map")
    cells = [_cell(*pair, text) for pair in zip(nb.cells, starts, strict=True)]
    if not cells:
        raise LessonError(f"{path}:1: the lesson is empty")
    _link(cells)
    _identify(cells)
    course = nb.metadata.get("course")
    return Lesson(path, course if isinstance(course, dict) else {}, cells)


def _read(text, path):
    try:
        return myst_to_notebook(text, add_source_map=True)
    except MystMetadataParsingError as error:
        line = re.search(r"(?<=at line )\d+", str(error))
        raise LessonError(f"{path}:{line[0] if line else 1}: {error}") from None
    except ValidationError as error:
        key, value = error.path[-1], re.escape(str(error.instance))
        place = re.search(rf'{key}"?: *"?{value}', text)
        line = 1 + text.count("\n", 0, place.start() if place else 0)
        raise LessonError(f"{path}:{line}: {key}: {error.message}") from None


def _cell(node, start, text):
    tags = node.metadata.get("tags", [])
    plain = "code" if node.cell_type == "code" else "text"
    kind = next((kind for kind in KINDS if kind in tags), plain)
    # the options of a code cell stand above its source
    first, lines = node.source.partition("\n")[0].rstrip(), text.split("\n")
    below = (at for at in range(start, len(lines)) if lines[at].rstrip() == first)
    line = next(below, start) + 1
    return Cell(kind, node.cell_type, node.source, line, node.metadata)


def _link(cells):
    for before, cell in pairwise(cells):
        if (before.kind, cell.kind) == ("text", "exercise"):
            before.kind, before.owner = "task", cell
            cell.parts["task"] = before
        elif cell.kind in PARTS.get(before.kind, ()):
            cell.owner = before
            before.parts[cell.kind] = cell


def _identify(cells):
    section, count = "start", Counter()
    for cell in cells:
        heading = re.search(r"^##? (.+)", cell.source, re.MULTILINE)
        if cell.type == "markdown" and heading:
            section = _slug(heading[1])
        if cell.kind in KINDS:
            cell.id = KINDS[cell.kind] + (cell.owner or cell).name
        else:
            count[section] += 1
            cell.id = f"{section}-{count[section]}"


def _slug(heading):
    """'2  What γ does' is what-gamma-does: a new section renames no other."""
    words = re.sub("[α-ω]", lambda m: unicodedata.name(m[0]).split()[-1], heading)
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).lstrip("-0123456789")
    return slug[:48].rstrip("-") or "section"


def cut(source):
    """Take the solution out of an exercise.

    Returns: the student's source, the lines taken out by their place in the cell, and
    what is wrong with the markers as (line in the cell, message).
    """
    kept, taken, wrong, begun = [], {}, [], None
    for at, line in enumerate(source.split("\n")):
        if line.strip() == BEGIN:
            if begun is not None:
                wrong.append((at, "solution block inside a solution block"))
            begun = at
            kept += [line.replace(BEGIN, stub) for stub in STUB]
        elif line.strip() == END:
            if begun is None:
                wrong.append((at, f"{END} without {BEGIN}"))
            begun = None
        elif begun is None:
            kept.append(line)
        else:
            taken[at] = line
    if begun is not None:
        wrong.append((begun, "solution block is not closed"))
    return "\n".join(kept), taken, wrong


def student_view(lesson):
    """The notebook people open: stubs for solutions, room for answers."""
    return _notebook(lesson, _student_cells(lesson))


def solved_view(lesson):
    """The answer key and nbgrader's source: markers stay, rubrics are the answers."""
    return _notebook(lesson, _cells(lesson, code=str, answer=str))


def _notebook(lesson, cells):
    course = {"lesson": lesson.name, "version": _version(_student_cells(lesson))}
    head = {"course": course, "kernelspec": KERNELSPEC, "language_info": LANGUAGE}
    return new_notebook(cells=cells, metadata=head, nbformat_minor=5)


def _version(cells):
    text = json.dumps([[cell.cell_type, cell.source] for cell in cells])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _student_cells(lesson):
    return _cells(lesson, code=lambda s: cut(s)[0], answer=lambda s: BLANK_ANSWER)


def _cells(lesson, code, answer):
    totals, cells = lesson.totals, []
    for cell in lesson.cells:
        new = new_code_cell if cell.type == "code" else new_markdown_cell
        source = _source(cell, totals, code, answer)
        cells.append(new(source, id=cell.id, metadata=_metadata(cell)))
    return cells


def _source(cell, totals, code, answer):
    match cell.kind:
        case "exercise":
            return code(cell.source)
        case "rubric":
            return answer(cell.source)
        case "task" | "question":
            return _announce(cell.lines, (cell.owner or cell).meta)
        case "text":
            return re.sub(r"{{(\w+)}}", lambda m: str(totals[m[1]]), cell.source)
    return cell.source


def _announce(lines, meta):
    """Put minutes and points behind the heading of an exercise or question."""
    unit = "point" if meta["points"] == 1 else "points"
    head = f"{lines[0]} · {meta['minutes']} min · {meta['points']} {unit}"
    return "\n".join([head, *lines[1:]])


def _metadata(cell):
    meta = {k: v for k, v in cell.meta.items() if k not in SOURCE_ONLY}
    if "hidden" in meta.get("tags", []):
        meta["jupyter"] = {"source_hidden": True}
    if cell.kind in ("setup", "task", "check", "question"):
        meta |= {"deletable": False, "editable": False}
    if cell.kind in ("exercise", "rubric"):
        meta["deletable"] = False
    if cell.kind == "rubric":
        meta["tags"] = ["answer"]
    if cell.kind in ("exercise", "check", "rubric"):
        meta["nbgrader"] = _nbgrader(cell)
    return meta


def _nbgrader(cell):
    graded = cell.kind != "exercise"
    meta = {"grade": graded, "solution": cell.kind != "check", "task": False}
    meta |= {"grade_id": cell.id, "locked": cell.kind == "check", "schema_version": 3}
    return meta | ({"points": cell.owner.meta["points"]} if graded else {})
