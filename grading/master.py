"""The course's own lessons: what a submission is held against.

Cells, ids and points come from `lessons/`, never from a student's file.
"""

import copy
import hashlib
from dataclasses import dataclass
from functools import cache, cached_property

from tools import lesson as lessons_of_tools
from tools.build import choose

from .config import PACKAGES, ROOT

# what decides a grade, beside the lesson's own text
DECIDES = (
    *(f"{package}/**/*.py" for package in PACKAGES),
    "grading/inside/*.py",
    "grading/limits.toml",
    *(
        f"grading/{name}.py"
        for name in ("code", "judge", "rebuild", "remote", "sandbox")
    ),
)
LOCK = "requirements.lock"


@dataclass(frozen=True)
class Task:
    """An exercise or a question.

    Attributes:
        name: function name of an exercise, name of a question.
        points: the most it can earn.
        cell: id of the cell that the student fills.
        graded: id of the cell that carries the points: the check, or the same cell.
        defines: the top-level name that an exercise asks for; "" for a question.
    """

    name: str
    points: float
    cell: str
    graded: str
    defines: str = ""


@dataclass(frozen=True)
class Master:
    """A lesson as its author wrote it, and what a student gets of it."""

    lesson: lessons_of_tools.Lesson
    version: str

    @property
    def name(self):
        return self.lesson.name

    @property
    def title(self):
        return self.lesson.title

    @cached_property
    def exercises(self):
        """Tasks that are autograded, by name, in the order of the lesson."""
        tasks = {}
        for cell in self.lesson.of("exercise"):
            graded, points = cell.parts["check"].id, cell.meta["points"]
            tasks[cell.function] = Task(
                cell.function, points, cell.id, graded, cell.defines
            )
        return tasks

    @cached_property
    def questions(self):
        """Tasks that are answered in writing, by name, in the order of the lesson."""
        tasks = {}
        for cell in self.lesson.of("question"):
            answer = cell.parts["rubric"].id
            tasks[cell.name] = Task(cell.name, cell.meta["points"], answer, answer)
        return tasks

    @cached_property
    def kinds(self):
        """The kind of each cell, by id: exercise, check, rubric, setup, code, text."""
        return {cell.id: cell.kind for cell in self.lesson.cells}

    @property
    def student(self):
        """A fresh copy of the notebook that students get."""
        return copy.deepcopy(self._views[0])

    @property
    def solved(self):
        """A fresh copy of the solved notebook, rubrics in place of answers."""
        return copy.deepcopy(self._views[1])

    @cached_property
    def _views(self):
        """Both notebooks: making them, nbformat validates each cell, which costs."""
        tools = lessons_of_tools
        return tools.student_view(self.lesson), tools.solved_view(self.lesson)


def lessons(root=ROOT):
    """Names of the course's lessons, in order."""
    return [path.stem for path in choose(root)]


@cache
def lesson(name, root=ROOT):
    """The `Master` of a lesson.

    Raises:
        tools.lesson.LessonError: there is no such lesson, or it breaks a rule.
    """
    [path] = choose(root, [name])
    text = path.read_text(encoding="utf-8")
    parsed = lessons_of_tools.parse(text, path.relative_to(root))
    return Master(parsed, _version(text, root))


def _version(text, root):
    digest = hashlib.sha256(text.encode())
    digest.update(_decisive(root))
    return digest.hexdigest()[:12]


@cache
def _decisive(root):
    """One digest of everything but the lesson that can change a grade."""
    digest = hashlib.sha256()
    files = sorted(path for pattern in DECIDES for path in root.glob(pattern))
    for path in [*files, root / LOCK]:
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.digest()
