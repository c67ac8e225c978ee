"""From what was handed in to what is graded.

Of a student's notebook only text counts: that of the answer cells, which are found by
id, by nbgrader's name, or by what they define, and that of cells the student added.
Everything else comes from the course's own lesson, so cells that were deleted, moved,
duplicated, retyped or edited, and forged metadata, cannot matter.
"""

import ast
import json
import re
from dataclasses import dataclass, field
from functools import cached_property

from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

from tools.lesson import BLANK_ANSWER

from . import code
from .config import PACKAGES, ROOT

CODE_KINDS = ("setup", "code", "check")
PARTS = 2_000_000  # lists and objects of a file
# in a text, a picture that was pasted into it: Colab writes all of its bytes there
PICTURE = re.compile(r"data:image/[\w.+-]{1,40};base64,[\w+/=]{100,}")
FAR = 100_000  # characters of what was written far away, which each question may show
BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Unreadable(Exception):
    """The file is no notebook of this lesson; the text says why."""


@dataclass(frozen=True)
class Cell:
    """A cell as far as it is believed: its text, and what it may be."""

    source: str
    type: str
    id: str = ""
    grade_id: str = ""


@dataclass(frozen=True)
class Step:
    """Something to do in the sandbox.

    Attributes:
        kind: "setup", "lesson" (a helper of the lesson that an answer uses), "answer"
            or "extra" runs a source; "check" judges an exercise.
        source: the code to run; "" for a check.
        exercise: name of the exercise that an answer or check belongs to, or "".
    """

    kind: str
    source: str = ""
    exercise: str = ""


@dataclass
class Rebuilt:
    """A submission on the course's own skeleton.

    Attributes:
        notebook: the skeleton with the student's text, as nbformat has it.
        steps: what to run and to check, in order.
        answers: of each question the written answer or "", and where it was found if
            not in its own cell.
        notes: what a person may want to know.
        sources: the code of all cells, the lesson's and the student's.
    """

    notebook: object
    steps: list
    answers: dict
    notes: list = field(default_factory=list)
    sources: tuple = ()

    @cached_property
    def bound(self):
        """Names that some cell defines, wherever, whether it is run here or not."""
        return set().union(*map(code.bound, self.sources))


# reading


def read(content, limits):
    """The cells of a notebook file.

    Raises:
        Unreadable: it is too large, or no notebook of format 4.
    """
    nb = _parse(content, limits)
    if not isinstance(nb, dict) or not isinstance(nb.get("cells"), list):
        old = isinstance(nb, dict) and "worksheets" in nb
        raise Unreadable(
            "the notebook has the format of 2013; JupyterLab can save it anew"
            if old
            else "this is JSON, but no notebook"
        )
    if nb.get("nbformat", 4) != 4:
        version = repr(nb["nbformat"])[:20]
        raise Unreadable(f"the notebook has format {version}, and 4 can be read")
    if len(nb["cells"]) > limits.cells:
        count = len(nb["cells"])
        raise Unreadable(f"the notebook has {count} cells, at most {limits.cells}")
    cells = [cell for cell in map(_cell, nb["cells"]) if cell]
    size = sum(len(cell.source) for cell in cells)
    if size > limits.source:
        raise Unreadable(f"{size} characters of text, at most {limits.source}")
    return cells


def lesson_of(content, limits):
    """The lesson that a notebook says it is, or ""."""
    try:
        course = _parse(content, limits)["metadata"]["course"]["lesson"]
    except (Unreadable, KeyError, TypeError):
        return ""
    return course if isinstance(course, str) else ""


def _parse(content, limits):
    if not content.strip():
        raise Unreadable("the file is empty")
    if len(content) > limits.notebook:
        size = len(content)
        raise Unreadable(f"the file has {size} bytes, at most {limits.notebook}")
    try:
        text = content.decode(BOMS.get(content[:2], "utf-8-sig"))
    except UnicodeDecodeError:
        raise Unreadable("the file is not text in UTF-8") from None
    parts = text.count("[") + text.count("{")
    if parts > PARTS:  # each would take 30 times its room in the file
        raise Unreadable(f"the file has {parts} lists and objects, at most {PARTS}")
    try:
        return json.loads(text)
    except RecursionError:
        raise Unreadable("the file is nested too deep") from None
    except ValueError as error:
        raise Unreadable(f"the file is no notebook: {error}") from None


def _cell(data):
    """A cell of the file, or None where it cannot be one."""
    if not isinstance(data, dict):
        return None
    source = data.get("source", "")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    kind = data.get("cell_type")
    if not isinstance(source, str) or kind not in ("code", "markdown", "raw"):
        return None
    source = source.encode("utf-8", "replace").decode()  # no half characters
    if kind != "code":
        source = PICTURE.sub("picture", source)
    meta = data.get("metadata")
    grading = meta.get("nbgrader") if isinstance(meta, dict) else None
    name = grading.get("grade_id") if isinstance(grading, dict) else ""
    return Cell(source, kind, _text(data.get("id")), _text(name))


def _text(value):
    return value if isinstance(value, str) else ""


# matching


class Match:
    """Which cells of a submission stand for which cells of the lesson."""

    def __init__(self, cells, master):
        self.cells, self.master = cells, master
        self.skeleton = master.student.cells
        self.texts = {plain(c.source): c.id for c in self.skeleton if c.source.strip()}
        self.stubs = {c.id: plain(c.source) for c in self.skeleton}
        self.ids = [self._place(cell) for cell in cells]
        self.tasks = {t.cell: t for t in master.exercises.values()}

    def _place(self, cell):
        """Id of the lesson's cell that this one is, or ""."""
        for name in (cell.id, cell.grade_id):
            if name in self.master.kinds:
                return name
        return self.texts.get(plain(cell.source), "")

    @cached_property
    def imported(self):
        """The imports of the lesson's set-up, as they stand there."""
        return set(code.imports(_setup(self.master)))

    @property
    def known(self):
        """Whether some cell stands for an exercise, check, question or answer here."""
        kinds = {self.master.kinds.get(name) for name in self.ids}
        return not kinds.isdisjoint(("exercise", "check", "question", "rubric"))

    def named(self, name):
        """The cells that stand for one of the lesson's, by their index."""
        return [i for i, found in enumerate(self.ids) if found == name]

    def touched(self, index):
        """Whether a cell is not as the student got it."""
        return plain(self.cells[index].source) != self.stubs[self.ids[index]]

    def answer(self, task):
        """Index of the cell that answers an exercise or question; None if none does.

        The last cell that bears its name, is not as it was given and not blank, as a
        copy may be; else, for an exercise, the last cell of the student's own that
        defines what is asked for.
        """
        named = (i for i in self.named(task.cell) if self.cells[i].source.strip())
        mine = [i for i in named if self.touched(i)]
        if not mine and task.defines:
            own = (i for i, name in enumerate(self.ids) if not name)
            mine = [i for i in own if defines(self.cells[i], task.defines)]
        return mine[-1] if mine else None


def plain(source):
    """A source without what editors change: space at line ends, blank ends."""
    return "\n".join(line.rstrip() for line in source.strip().splitlines())


def defines(cell, name):
    """Whether a code cell defines a name at its top level."""
    pattern = rf"^(?:async\s+def|def|class)\s+{name}\b|^{name}\s*="
    return cell.type == "code" and re.search(pattern, cell.source, re.MULTILINE)


# rebuilding


def rebuild(cells, master):
    """The submission on the course's own skeleton.

    Raises:
        Unreadable: nothing in it belongs to this lesson.
    """
    match = Match(cells, master)
    chosen = {task.cell: match.answer(task) for task in _tasks(master)}
    if not match.known and not any(i is not None for i in chosen.values()):
        raise Unreadable(f"no cell in it belongs to lesson {master.name}")
    extras = _extras(match, {i for i in chosen.values() if i is not None})
    made = Rebuilt(master.student, [], {})
    made.notes += [*_missing(match, chosen), *_twice(match)]
    made.notebook.cells = _assemble(match, chosen, extras, made)
    written = "\n".join(s.source for s in made.steps if s.kind in ("answer", "extra"))
    helpers = code.used_of_lesson(written, _demonstrations(master))
    setup = needed(_setup(master), "\n".join([written, *helpers]), master)
    made.steps[:0] = [Step("setup", setup), *(Step("lesson", h) for h in helpers)]
    for question in master.questions.values():
        made.answers[question.name] = _written(match, chosen, question)
    made.notes += _pictures(made.answers)
    made.sources = (*_code(cells), *_demonstrations(master))
    return made


def _code(cells):
    return tuple(cell.source for cell in cells if cell.type == "code")


def _demonstrations(master):
    return tuple(cell.source for cell in master.lesson.of("code"))


def _tasks(master):
    return [*master.exercises.values(), *master.questions.values()]


def _setup(master):
    """The set-up cell, and what demonstrations import: PyTorch, where it is needed."""
    late = [part for each in _demonstrations(master) for part in code.imports(each)]
    return "\n".join([master.lesson.of("setup")[0].source, *late])


def _missing(match, chosen):
    for task in match.tasks.values():
        if not match.named(task.cell):
            elsewhere = chosen[task.cell] is not None
            found = "was found in another cell" if elsewhere else "is missing"
            yield f"the cell of {task.name} {found}"


def _twice(match):
    """Notes on what is defined more than once: the last definition counts."""
    own = [
        match.cells[i] for i, name in enumerate(match.ids) if _counts(match, i, name)
    ]
    for task in match.tasks.values():
        times = sum(code.times_defined(cell.source, task.defines) for cell in own)
        if times > 1:
            yield f"{task.defines} is defined {times} times; the last one counts"


def _counts(match, index, name):
    """Whether a cell's definitions are the student's."""
    return match.cells[index].type == "code" and (not name or match.touched(index))


def _extras(match, used):
    """The student's own cells, by the place where they belong.

    Returns: lists of cells by (id, "after"), for what follows a cell of the lesson, and
    by (id, "before"), for earlier versions of an answer.
    """
    extras, place = {}, ""
    for index, (cell, name) in enumerate(zip(match.cells, match.ids, strict=True)):
        kind = match.master.kinds.get(name)
        place = name or place
        if index in used or not cell.source.strip():
            continue
        if not name:
            extras.setdefault((place, "after"), []).append(cell)
        elif kind in ("exercise", "rubric") and match.touched(index):
            extras.setdefault((name, "before"), []).append(cell)
        elif kind in CODE_KINDS and match.touched(index):
            # the lesson's own cell, edited: not run, but what it defines may be used
            given = match.imported  # the set-up has these, as far as they are used
            found = [p for p in code.definitions(cell.source) if p not in given]
            if found:
                own = Cell("\n".join(found), "code")
                extras.setdefault((place, "after"), []).append(own)
    return extras


def _assemble(match, chosen, extras, made):
    """The cells of the rebuilt notebook; the steps come along."""
    cells = []
    _add(cells, extras.get(("", "after"), ()), made)
    for cell in match.skeleton:
        index, task = chosen.get(cell.id), match.tasks.get(cell.id)
        _add(cells, extras.get((cell.id, "before"), ()), made)
        if index is not None:
            cell.source = match.cells[index].source
        if task and (index is not None or not _defined(extras, task)):
            made.steps.append(Step("answer", cell.source, task.name))
        cells.append(cell)
        if match.master.kinds[cell.id] == "check":
            made.steps.append(Step("check", "", _exercise(match.master, cell.id)))
        _add(cells, extras.get((cell.id, "after"), ()), made)
    return cells


def _defined(extras, task):
    """Whether a cell of the student's own defines what an untouched stub would."""
    own = (cell for cells in extras.values() for cell in cells)
    return any(defines(cell, task.defines) for cell in own)


def _exercise(master, check):
    [name] = [t.name for t in master.exercises.values() if t.graded == check]
    return name


def _add(cells, extras, made):
    make = {"code": new_code_cell, "markdown": new_markdown_cell, "raw": new_raw_cell}
    for cell in extras:
        number = 1 + sum(c.id.startswith("extra-") for c in cells)
        cells.append(make[cell.type](cell.source, id=f"extra-{number}"))
        if cell.type == "code":
            made.steps.append(Step("extra", cell.source))


def _written(match, chosen, question):
    """A written answer, and where it was found if not in its own cell alone."""
    if chosen[question.cell] is not None:
        sources = (match.cells[i].source.strip() for i in _pieces(match, question))
        texts = [source.removeprefix(BLANK_ANSWER).strip() for source in sources]
        if texts := list(dict.fromkeys(filter(None, texts))):  # a copy says nothing new
            place = "in its cell and others by it" if len(texts) > 1 else ""
            return "\n\n".join(texts), place
    places = {
        "in cells beside its own": _near(match, question),
        "in new cells far from it": _own(match),
    }
    for place, indices in places.items():
        if texts := [text for i in indices if (text := _prose(match, i))]:
            return "\n\n".join(texts)[:FAR], place
    return "", ""


def _pieces(match, question):
    """Cells of an answer: those that bear its name, and new text right below them."""
    here = False
    for index, name in enumerate(match.ids):
        here = name == question.cell or here and not name
        mine = match.touched(index) if name else match.cells[index].type != "code"
        if here and mine:
            yield index


def _own(match):
    """New cells of text, wherever they stand: some answer all questions in one."""
    pairs = enumerate(zip(match.cells, match.ids, strict=True))
    return [i for i, (cell, name) in pairs if not name and cell.type != "code"]


def _pictures(answers):
    """Notes on answers whose pictures a person must look at in the student's file."""
    for name, (text, _) in answers.items():
        if "![" in text or "<img" in text:
            yield f"{name} is answered with a picture: it is in the file handed in"


def _near(match, question):
    """Cells around a question where a student may have written: (index)es.

    From the lesson's cell before the question to the one behind the answer.
    """
    ids = [cell.id for cell in match.skeleton]
    place = ids.index(question.cell)
    first, last = max(place - 2, 0), min(place + 1, len(ids) - 1)
    around = {name: i for i, name in enumerate(ids) if first <= i <= last}
    kinds, here = match.master.kinds, -1
    for index, name in enumerate(match.ids):
        here = ids.index(name) if name in ids else here
        if name and kinds.get(name) in ("exercise", "check", "rubric"):
            continue
        if (name in around) if name else first <= here < last:
            yield index


def _prose(match, index):
    """What a student wrote into a cell, as far as it is no code."""
    cell, name = match.cells[index], match.ids[index]
    text = cell.source.strip()
    if name:  # the lesson's own: what is not as it was
        given = set(match.stubs[name].split("\n"))
        text = "\n".join(line for line in plain(text).split("\n") if line not in given)
    if cell.type == "code" and text and not code.has_prose(text):
        return ""
    return f"```\n{text.strip()}\n```" if cell.type == "code" and text else text.strip()


# the set-up cell


def needed(setup, written, master):
    """The part of the set-up cell that these sources can notice.

    Imports are most of the time that a small submission takes. One is left out where
    its name occurs nowhere in the student's code, not even inside a string.
    """
    body = ast.parse(setup).body
    words = set(re.findall(r"\w+", written)) | set(_of_drivers(master))
    for node in reversed(body):  # a name that is used may need others
        if _names(node, ast.Store) & words:
            words |= _names(node, ast.Load)
    pairs = [(alias, _group(alias, node)) for node, alias in _imports(body)]
    kept = {g for alias, g in pairs if g in words or _bound(alias) in words}
    group_of = {_bound(alias): group for alias, group in pairs}
    lines = []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [a for a in node.names if _group(a, node) in kept]
            lines += [ast.unparse(node)] if node.names else []
        elif {group_of.get(n) for n in _names(node, ast.Load)} - {None} <= kept:
            lines.append(ast.unparse(node))
    return "\n".join(lines)


def _names(node, context):
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return {n.id for n in names if isinstance(n.ctx, context)}


def _imports(body):
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node, alias) for alias in node.names)


def _bound(alias):
    return alias.asname or alias.name.split(".")[0]


def _group(alias, node):
    """What is imported together: a package, or one module of the course's own."""
    package = getattr(node, "module", None) or alias.name
    package = package.split(".")[0]
    return alias.name if package in PACKAGES else package


def _of_drivers(master):
    """Packages that the lesson's drivers import."""
    path = drivers(master)
    if path:
        for node, alias in _imports(ast.parse(path.read_text(encoding="utf-8")).body):
            yield _group(alias, node)


def drivers(master):
    """The file of the lesson's drivers, or None."""
    name = f"lesson_{master.name[:2]}.py"
    path = ROOT / "bn_checks" / "drivers" / name
    return path if path.exists() else None
