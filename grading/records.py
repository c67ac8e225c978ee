"""What has been graded: receipts, nbgrader's gradebook, and notebooks to look at.

`receipts.jsonl` is the truth. A verdict is appended to it, and is on disk, before
anything else happens; what a kill interrupts after that is done again at next start.
The gradebook and the notebooks are made from receipts, so doing it twice changes
nothing. One grader at a time writes.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from nbformat.v4 import new_markdown_cell, new_output

from bn_checks import score
from tools.build import dumps, write

from . import config, master, rebuild
from .intake import identifier
from .verdict import GRADED, NEEDS_REVIEW, Verdict

GRADES = config.ROOT / "grades"
POLICIES = ("best", "last", "first")


class Taken(Exception):
    """Another grader writes to this folder; the text says which."""


class Changed(Exception):
    """The gradebook belongs to an older version of a lesson."""


def database(folder=GRADES):
    """The address of the gradebook, as nbgrader wants it."""
    return f"sqlite:///{Path(folder).resolve() / 'gradebook.db'}"


def place(folder, step, student, lesson):
    """Where nbgrader looks for a notebook: step is source, submitted or autograded."""
    return Path(folder) / "nbgrader" / step / student / lesson / f"{lesson}.ipynb"


def verdicts(folder=GRADES):
    """What counts for each student and lesson, with the marks that people gave.

    Returns: a list of `Verdict`, sorted by student and lesson. Points and comments set
    in nbgrader's pages are filled in, and win over those of the machine.
    """
    counting = Receipts(folder).counting
    if not counting:
        return []
    with _gradebook(folder) as gradebook:
        return [_marked(verdict, gradebook) for _, verdict in sorted(counting.items())]


def rejected(folder=GRADES):
    """What the last run refused, as a list of `Verdict`."""
    path = Path(folder) / "rejected.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Verdict.from_json(line) for line in lines]


class Receipts:
    """The verdicts in `receipts.jsonl`.

    Attributes:
        known: the newest verdict by (student, lesson, sha256).
        counting: the verdict that is in the gradebook, by (student, lesson).
    """

    def __init__(self, folder=GRADES):
        self.path = Path(folder) / "receipts.jsonl"
        self.known, self.counting = {}, {}
        for line in self._lines():
            self._take(json.loads(line))

    def _lines(self):
        """All whole lines; the rest of one that a kill has cut is taken off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        return content[: content.rfind(b"\n") + 1].decode().splitlines()

    def _take(self, entry):
        if "verdict" in entry:
            verdict = Verdict.from_json(json.dumps(entry["verdict"]))
            self.known[key(verdict)] = verdict
        else:
            student, lesson, sha256 = entry["recorded"]
            self.counting[student, lesson] = self.known[student, lesson, sha256]

    def append(self, entry):
        """Write an entry, and return when it is on disk."""
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        with open(self.path, "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._take(entry)

    def mend(self):
        """Cut off the rest of a line that a kill has interrupted."""
        if self.path.exists():
            content = self.path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(self.path, content.rfind(b"\n") + 1)


def key(verdict):
    return verdict.student, verdict.lesson, verdict.receipt.sha256


class Records:
    """The one writer of a folder of grades: `with Records(folder) as records: ...`.

    Raises (on entering):
        Taken: another grader is at work in this folder.
    """

    def __init__(self, folder=GRADES):
        self.folder = Path(folder)

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = _lock(self.folder / "lock")
        self.receipts = Receipts(self.folder)
        self.receipts.mend()
        self.seed = _seed(self.folder / "seed")
        self.prepared = set()
        return self

    def __exit__(self, *failure):
        self.lock.close()

    def add(self, verdict):
        """Keep a verdict."""
        self.receipts.append({"verdict": json.loads(verdict.to_json())})

    def reject(self, refused):
        """Keep what this run has refused, in place of what the last one has."""
        lines = (verdict.to_json() + "\n" for verdict in refused)
        write(self.folder / "rejected.jsonl", "".join(lines))

    def settle(self, attempts, policy, force=False):
        """Put the attempt that counts into the gradebook.

        Args:
            attempts: all attempts of a student at a lesson that have verdicts, sorted.
            policy: "best", "last" or "first".
            force: do it although it is there already.

        Returns: the verdict that counted until now or None, and the one that counts.
        """
        known = self.receipts.known
        judged = [(known[a.student, a.lesson, a.sha256], a) for a in attempts]
        verdict, attempt = choose(judged, policy)
        before = self.receipts.counting.get((verdict.student, verdict.lesson))
        if before is not verdict or force:
            self.record(verdict, attempt.read())
        return before, verdict

    def record(self, verdict, content):
        """Write a verdict to the gradebook, and lay out its notebooks."""
        if verdict.student != identifier(verdict.student):
            raise ValueError(f"{verdict.student!r} is no identifier of a student")
        before = self.receipts.counting.get((verdict.student, verdict.lesson))
        same = before is not None and key(before) == key(verdict)
        course = master.lesson(verdict.lesson)
        self._prepare(course)
        self._lay_out(verdict, course, content)
        with _gradebook(self.folder) as gradebook:
            _enter(gradebook, verdict, course, same)
        self.receipts.append({"recorded": key(verdict)})

    def _prepare(self, course):
        """Make the lesson known to nbgrader, once."""
        if course.name in self.prepared:
            return
        source = place(self.folder, "source", ".", course.name)
        write(source, dumps(course.solved))
        with _gradebook(self.folder) as gradebook:
            _create(gradebook, course)
        self.prepared.add(course.name)

    def _lay_out(self, verdict, course, content):
        where = verdict.student, verdict.lesson
        _write_bytes(place(self.folder, "submitted", *where), content)
        graded = place(self.folder, "autograded", *where)
        write(graded, dumps(graded_notebook(verdict, course, content)))


def choose(judged, policy):
    """Of (verdict, attempt) pairs in order of attempts, the one that counts.

    Of several equally good ones, the last. What needs review is not better than what is
    graded.
    """
    if policy == "best":
        return max(
            enumerate(judged),
            key=lambda pair: (pair[1][0].status == GRADED, pair[1][0].points, pair[0]),
        )[1]
    return judged[-1 if policy == "last" else 0]


def graded_notebook(verdict, course, content):
    """The rebuilt notebook with a table below each check, for people to look at."""
    try:
        cells = rebuild.read(content, config.limits())
        nb = rebuild.rebuild(cells, course).notebook
    except rebuild.Unreadable:
        nb = course.student
    checks = {task.graded: name for name, task in course.exercises.items()}
    for cell in nb.cells:
        if cell.id in checks:
            cell.outputs = [_output(checks[cell.id], verdict)]
    if verdict.status != GRADED:
        reason = verdict.reason.replace("`", "'")
        text = f"**This submission {verdict.status}.** `{reason}`"
        nb.cells.insert(0, new_markdown_cell(text, id="grader-1"))
    return nb


def table(name, exercise):
    """The `Score` that an exercise of a verdict had."""

    def row(r):
        found = SimpleNamespace(name=r.mistake, says=r.says, section=r.section)
        mistake = found if r.mistake else None
        return score.Row(r.title, r.state, r.detail, mistake, r.again)

    return score.Score(exercise.points, name, exercise.max, map(row, exercise.rows))


def _output(name, verdict):
    exercise = verdict.exercises[name]
    if exercise.points is None:
        text = f"{name}: a person must judge this. {exercise.reason or verdict.reason}"
        return new_output("stream", name="stdout", text=text)
    made = table(name, exercise)
    data = {"text/plain": repr(made), "text/html": made._repr_html_()}
    return new_output("execute_result", data, execution_count=1)


# nbgrader's gradebook


@contextlib.contextmanager
def _gradebook(folder):
    """nbgrader's gradebook; a new one is there whole, or not at all."""
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import SAWarning

    path = Path(folder) / "gradebook.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # nbgrader's own queries
        if not path.exists():
            fresh = path.with_name("gradebook.new")
            fresh.unlink(missing_ok=True)
            with _programs_found(), Gradebook(f"sqlite:///{fresh.resolve()}"):
                pass
            os.replace(fresh, path)
        with Gradebook(database(folder)) as gradebook:
            yield gradebook


@contextlib.contextmanager
def _programs_found():
    """nbgrader starts alembic by its name, wherever this Python has it."""
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _create(gradebook, course):
    """Tell the gradebook of a lesson: one assignment with one notebook.

    Raises:
        Changed: it knows the lesson with other exercises or questions.
    """
    name, cells = course.name, course.solved.cells
    gradebook.update_or_create_assignment(name)
    notebook = gradebook.update_or_create_notebook(name, name)
    meta = {c.id: c.metadata.nbgrader for c in cells if "nbgrader" in c.metadata}
    graded = {i for i, m in meta.items() if m["grade"]}
    known = {cell.name for cell in notebook.grade_cells}
    if known and known != graded:
        raise Changed(
            f"lesson {name} has other exercises or questions than when this gradebook "
            "was begun; grade into a new folder with --into"
        )
    for cell in cells:
        if cell.id in meta:
            _create_cell(gradebook, name, cell)


def _create_cell(gradebook, lesson, cell):
    meta, where = cell.metadata.nbgrader, (cell.id, lesson, lesson)
    if meta["grade"]:
        facts = {"max_score": meta["points"], "cell_type": cell.cell_type}
        gradebook.update_or_create_grade_cell(*where, **facts)
    if meta["solution"]:
        gradebook.update_or_create_solution_cell(*where)
    facts = {"cell_type": cell.cell_type, "source": cell.source}
    gradebook.update_or_create_source_cell(*where, **facts, locked=meta["locked"])


def _enter(gradebook, verdict, course, same):
    """Write a verdict's points; `same` if these bytes have been entered before."""
    student, lesson = verdict.student, verdict.lesson
    gradebook.update_or_create_student(student, **_person(verdict.platform))
    gradebook.update_or_create_submission(lesson, student)
    notebook = gradebook.find_submission_notebook(lesson, lesson, student)
    points = {t.graded: verdict.exercises[n] for n, t in course.exercises.items()}
    points |= {t.graded: verdict.answers[n] for n, t in course.questions.items()}
    for grade in notebook.grades:
        automatic = _automatic(points[grade.name])
        open_again = grade.manual_score is not None and not same
        nobody = automatic is None and grade.manual_score is None
        grade.auto_score = automatic
        grade.needs_manual_grade = nobody or open_again
    for comment in notebook.comments:
        task = points.get(comment.name)
        empty = getattr(task, "text", None) == "" and verdict.status == GRADED
        comment.auto_comment = "No response." if empty else None
    gradebook.db.commit()


def _automatic(task):
    """What the machine may enter for an exercise or answer."""
    return None if task.points is None else float(task.points)


def _person(platform):
    if not platform:
        return {}
    facts = {"lms_user_id": platform["id"]}
    if platform["kind"] == "moodle":
        first, _, last = platform["name"].rpartition(" ")
        facts |= {"first_name": first, "last_name": last}
    return facts


def _marked(verdict, gradebook):
    """A verdict with what people have entered in nbgrader's pages."""
    course, lesson = master.lesson(verdict.lesson), verdict.lesson
    notebook = gradebook.find_submission_notebook(lesson, lesson, verdict.student)
    marked = (g for g in notebook.grades if g.manual_score is not None)
    # a mark for an earlier text does not count until a person has looked again
    marks = {g.name: _mark(g) for g in marked if not g.needs_manual_grade}
    comments = {c.name: c.manual_comment or "" for c in notebook.comments}
    exercises = {
        name: replace(exercise, points=marks.get(_cell(course, name), exercise.points))
        for name, exercise in verdict.exercises.items()
    }
    answers = {
        name: replace(
            answer,
            points=marks.get(_cell(course, name), answer.points),
            comment=comments.get(_cell(course, name), ""),
        )
        for name, answer in verdict.answers.items()
    }
    return _reviewed(replace(verdict, exercises=exercises, answers=answers))


def _reviewed(verdict):
    """What needed review is graded once a person has judged all that was open."""
    open_yet = any(e.points is None for e in verdict.exercises.values())
    if verdict.status == NEEDS_REVIEW and not open_yet:
        return replace(verdict, status=GRADED, reason="")
    return verdict


def _mark(grade):
    return grade.manual_score + (grade.extra_credit or 0.0)


def _cell(course, name):
    task = course.exercises.get(name) or course.questions.get(name)
    return task.graded if task else ""


# files


def _lock(path):
    """The open lock file; closing it, or a kill, lets the next grader in.

    Raises:
        Taken: another grader holds it.
    """
    import fcntl

    file = open(path, "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise Taken(
            f"Another grader is writing to {path.parent} ({holder}). Wait until it has "
            "finished, or stop it; nothing was changed."
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def _seed(path):
    """The seed of this folder's checks; made at first, then kept."""
    if not path.exists():
        write(path, f"{secrets.randbelow(2**31)}\n")
    return int(path.read_text(encoding="utf-8"))


def _write_bytes(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
