"""What has been graded: receipts, nbgrader's gradebook, and notebooks to look at.

`receipts.jsonl` is the truth: one JSON document in ASCII per line. A verdict is
appended to it, and is on disk, before anything else happens; what a kill interrupts
after that is done again at next start. The gradebook and the notebooks are made from
receipts, so doing it twice changes nothing. One grader at a time writes.
"""

import contextlib
import errno
import json
import os
import secrets
import shutil
import socket
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from tools.build import dumps, write

from . import config, master
from .naming import identifier
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
    receipts = Receipts(folder)
    if not receipts.counting:
        return []
    with _gradebook(folder) as gradebook:
        marked = {k: _marked(v, gradebook) for k, v in receipts.counting.items()}
    return [
        _contested(marked[where], receipts.others(where), receipts.policy)
        for where in sorted(marked)
    ]


def others(folder=GRADES):
    """The attempts that were graded and do not count: lists by (student, lesson)."""
    receipts = Receipts(folder)
    found = {where: receipts.others(where) for where in sorted(receipts.counting)}
    return {where: verdicts for where, verdicts in found.items() if verdicts}


def rejected(folder=GRADES):
    """What was refused when each download was graded last, as a list of `Verdict`."""
    path = Path(folder) / "rejected.jsonl"
    if not path.exists():
        return []
    return [Verdict.from_json(line) for line in path.read_bytes().split(b"\n") if line]


class Receipts:
    """The verdicts in `receipts.jsonl`.

    Attributes:
        known: the newest verdict by (student, lesson, sha256).
        counting: the verdict that is in the gradebook, by (student, lesson).
        chosen: the sha256 that a person has chosen, by (student, lesson).
        policy: which of several attempts counted in the last run.
        damaged: numbers of the lines that cannot be read; what they told is graded
            again.
    """

    def __init__(self, folder=GRADES):
        self.path = Path(folder) / "receipts.jsonl"
        self.known, self.counting, self.chosen = {}, {}, {}
        self.policy, self.damaged = "best", []
        for number, line in enumerate(self._lines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                self.damaged.append(number)

    def _lines(self):
        """All whole lines; the rest of one that a kill has cut is left out.

        A line ends at "\\n" and nowhere else: other characters may stand in a text.
        """
        if not self.path.exists():
            return []
        return self.path.read_bytes().split(b"\n")[:-1]

    def _take(self, entry):
        if "verdict" in entry:
            verdict = Verdict.from_json(json.dumps(entry["verdict"]))
            self.known[key(verdict)] = verdict
        elif "chosen" in entry:
            student, lesson, sha256 = entry["chosen"]
            self.chosen[student, lesson] = sha256
        elif "moved" in entry:
            self.counting.pop(tuple(entry["moved"]), None)
        else:
            student, lesson, sha256 = entry["recorded"]
            self.counting[student, lesson] = self.known[student, lesson, sha256]
            self.policy = entry.get("policy", "best")

    def others(self, where):
        """The verdicts of a student at a lesson that do not count."""
        counts = self.counting.get(where)
        mine = [v for k, v in self.known.items() if k[:2] == where]
        return [v for v in mine if counts is None or key(v) != key(counts)]

    def append(self, entry):
        """Write an entry, and return when it is on disk."""
        with open(self.path, "ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
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
        self.spool = self.folder / "spool"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = _lock(self.folder / "lock")
        self.open = contextlib.ExitStack()
        self.receipts = Receipts(self.folder)
        self.receipts.mend()
        self.seed = _seed(self.folder / "seed")
        self.prepared, self.book = set(), None
        shutil.rmtree(self.spool, ignore_errors=True)
        return self

    def __exit__(self, *failure):
        self.open.close()
        shutil.rmtree(self.spool, ignore_errors=True)
        self.lock.close()

    @property
    def gradebook(self):
        """nbgrader's gradebook, opened once."""
        if self.book is None:
            self.book = self.open.enter_context(_gradebook(self.folder))
        return self.book

    def keep(self, content, digest):
        """Keep the bytes of an attempt for this run; returns what reads them again.

        A synced folder may change meanwhile; what was hashed is what is graded.
        """
        path = self.spool / digest
        if not path.exists():
            _write_bytes(path, content)
        return path.read_bytes

    def add(self, verdict):
        """Keep a verdict."""
        self.receipts.append({"verdict": json.loads(verdict.to_json())})

    def reject(self, refused, download=""):
        """Keep what this run has refused, in place of what the last one of it has.

        Args:
            refused: a list of `Verdict`.
            download: its name; what other downloads held stays.
        """
        told = {"download": download}
        others = [v for v in rejected(self.folder) if v.platform != told]
        mine = [replace(verdict, platform=told) for verdict in refused]
        lines = (verdict.to_json() + "\n" for verdict in [*others, *mine])
        write(self.folder / "rejected.jsonl", "".join(lines))

    def beside(self, files):
        """Keep the list of what was no submission: (source, reason) pairs."""
        lines = (f"{source}\t{reason}\n" for source, reason in files)
        self.write("no_submissions.txt", "".join(lines).encode("utf-8", "replace"))

    def write(self, name, content):
        """Put a file into the folder, whole or not at all."""
        _write_bytes(self.folder / name, content)

    def choose(self, attempts, policy):
        """What counted until now or None, what counts, and of which attempt.

        Args:
            attempts: all attempts of a student at a lesson that have verdicts, sorted.
            policy: "best", "last" or "first".
        """
        known = self.receipts.known
        judged = [(known[a.student, a.lesson, a.sha256], a) for a in attempts]
        where = attempts[0].student, attempts[0].lesson
        chosen = self.receipts.chosen.get(where)
        mine = [pair for pair in judged if pair[1].sha256 == chosen]
        verdict, attempt = mine[0] if mine else choose(judged, policy)
        return self.receipts.counting.get(where), verdict, attempt

    def move(self, attempts):
        """Give verdicts to whom a roster, or another download, calls otherwise now.

        Args:
            attempts: all attempts of this run.

        Returns: the names that are no longer used.
        """
        students = {attempt.student for attempt in attempts}
        found = defaultdict(list)
        for verdict in self.receipts.known.values():
            if verdict.student not in students:
                found[verdict.lesson, verdict.receipt.sha256].append(verdict)
        moved = set()
        for each in attempts:
            old = found.get((each.lesson, each.sha256), ())
            if (
                old
                and (each.student, each.lesson, each.sha256) not in self.receipts.known
            ):
                facts = {"student": each.student, "platform": each.platform}
                self.add(replace(old[-1], **facts))
                moved |= {(verdict.student, verdict.lesson) for verdict in old}
        for where in sorted(moved & self.receipts.counting.keys()):
            self.receipts.append({"moved": where})
        return sorted({student for student, _ in moved})

    def record(self, verdict, content, page, policy="best"):
        """Write a verdict to the gradebook, and lay out its notebooks.

        Args:
            content: the bytes that were handed in.
            page: the text of the notebook for people.
        """
        if verdict.student != identifier(verdict.student):
            raise ValueError(f"{verdict.student!r} is no identifier of a student")
        where = verdict.student, verdict.lesson
        before = self.receipts.counting.get(where)
        same = before is not None and key(before) == key(verdict)
        course = master.lesson(verdict.lesson)
        self._prepare(course)
        _write_bytes(place(self.folder, "submitted", *where), content)
        write(place(self.folder, "autograded", *where), page)
        with _told(), _all_or_nothing(self.gradebook):
            _enter(self.gradebook, verdict, course, same)
        self.receipts.append({"recorded": key(verdict), "policy": policy})

    def _prepare(self, course):
        """Make the lesson known to nbgrader, once."""
        if course.name in self.prepared:
            return
        source = place(self.folder, "source", ".", course.name)
        write(source, dumps(course.solved))
        with _told():
            _create(self.gradebook, course)
        self.prepared.add(course.name)


def choose(judged, policy):
    """Of (verdict, attempt) pairs in order of attempts, the one that counts.

    The best is what may still earn most, then what has most already, then the last.
    """
    if policy == "best":
        return max(
            enumerate(judged),
            key=lambda pair: (
                not pair[1][0].unreadable,
                pair[1][0].may_earn,
                pair[1][0].points,
                pair[0],
            ),
        )[1]
    return judged[-1 if policy == "last" else 0]


def _contested(verdict, others, policy):
    """A verdict that a person has to look at, if another attempt may be worth more.

    Args:
        verdict: what counts, with the marks that people gave.
    """
    if policy != "best" or verdict.awaits:
        return verdict
    better = [
        v for v in others if not v.unreadable and _beside(v, verdict) > verdict.points
    ]
    if not better:
        return verdict
    what = "; ".join(f"{v.receipt.source} ({v.receipt.sha256[:8]})" for v in better)
    reason = f"another attempt may be worth more: {what}; --count chooses"
    return replace(verdict, status=NEEDS_REVIEW, reason=verdict.reason or reason)


def _beside(other, counts):
    """What another attempt may be worth, marked as the one that counts.

    An answer to a question that both answer is worth as much here as there.
    """
    total = 0.0
    for task in other.exercises.values():
        total += task.max if task.points is None else task.points
    for name, answer in other.answers.items():
        marked = counts.answers.get(name)
        both = answer.text and marked and marked.text
        total += (marked.points or 0.0) if both else answer.max if answer.text else 0.0
    return total


# nbgrader's gradebook


@contextlib.contextmanager
def _gradebook(folder):
    """nbgrader's gradebook; a new one is there whole, or not at all."""
    from nbgrader.api import Gradebook
    from sqlalchemy.exc import SAWarning

    path = Path(folder) / "gradebook.db"
    with warnings.catch_warnings(), _told():
        warnings.simplefilter("ignore", SAWarning)  # nbgrader's own queries
        if not path.exists():
            _fresh(path)
        with Gradebook(database(folder)) as gradebook:
            yield gradebook


def _fresh(path):
    """An empty gradebook, as nbgrader makes it, without starting its programs."""
    import nbgrader
    from alembic.script import ScriptDirectory
    from nbgrader.api import Base
    from sqlalchemy import create_engine, text

    fresh = path.with_name("gradebook.new")
    fresh.unlink(missing_ok=True)
    scripts = ScriptDirectory(str(Path(nbgrader.__file__).with_name("alembic")))
    engine = create_engine(f"sqlite:///{fresh.resolve()}", future=True)
    with engine.begin() as connection:
        Base.metadata.create_all(bind=connection)
        made = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"
        connection.execute(text(made))
        head = {"head": scripts.get_current_head()}
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), head)
    engine.dispose()
    os.replace(fresh, path)


@contextlib.contextmanager
def _told():
    """What sqlite cannot write is an `OSError`: the next run goes on from there."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        code = errno.ENOSPC if "full" in str(error.orig) else errno.EIO
        raise OSError(code, f"the gradebook: {error.orig}") from None


@contextlib.contextmanager
def _all_or_nothing(gradebook):
    """What fails half-way is taken back; the next student is not touched by it."""
    try:
        yield
    except BaseException:
        gradebook.db.rollback()
        raise


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
    boxes = _boxes(verdict, course)
    for grade in notebook.grades:
        automatic = _automatic(points[grade.name], grade.name in boxes)
        open_again = grade.manual_score is not None and not same
        nobody = automatic is None and grade.manual_score is None
        grade.auto_score = automatic
        grade.needs_manual_grade = nobody or open_again
    for comment in notebook.comments:
        task = points.get(comment.name)
        empty = getattr(task, "text", None) == "" and verdict.status == GRADED
        comment.auto_comment = "No response." if empty else None
    gradebook.db.commit()


def _boxes(verdict, course):
    """The cells where a person may be waited for: of a garbage file, only the first."""
    tasks = [*course.exercises.values(), *course.questions.values()]
    return {task.graded for task in (tasks[:1] if verdict.unreadable else tasks)}


def _automatic(task, box):
    """What the machine may enter for an exercise or answer."""
    if task.points is None and not box:
        return 0.0
    return None if task.points is None else float(task.points)


def _person(platform):
    if not platform:
        return {}
    facts = {"lms_user_id": platform.get("id", "")}
    if name := platform.get("name"):
        first, _, last = name.rpartition(" ")
        facts |= {"first_name": first, "last_name": last}
    return facts


def _marked(verdict, gradebook):
    """A verdict with what people have entered in nbgrader's pages."""
    from nbgrader.api import MissingEntry

    lesson = verdict.lesson
    try:
        course = master.lesson(lesson)
        notebook = gradebook.find_submission_notebook(lesson, lesson, verdict.student)
    except (MissingEntry, ValueError):  # of another course, or an older gradebook
        reason = "it is not in the gradebook; grade it again with --regrade"
        return replace(verdict, status=NEEDS_REVIEW, reason=verdict.reason or reason)
    marked = (g for g in notebook.grades if g.manual_score is not None)
    # a mark for an earlier text does not count until a person has looked again
    marks = {g.name: _mark(g) for g in marked if not g.needs_manual_grade}
    comments = {c.name: c.manual_comment or "" for c in notebook.comments}
    return _reviewed(_with_marks(verdict, course, marks, comments))


def _with_marks(verdict, course, marks, comments):
    """The verdict with points and comments by the ids of their cells."""
    unread = 0.0 if verdict.unreadable and marks else None

    def points(name, task):
        machine = unread if task.points is None else task.points
        return marks.get(_cell(course, name), machine)

    exercises = {
        name: replace(exercise, points=points(name, exercise))
        for name, exercise in verdict.exercises.items()
    }
    answers = {
        name: replace(
            answer,
            points=points(name, answer),
            comment=comments.get(_cell(course, name), ""),
        )
        for name, answer in verdict.answers.items()
    }
    return replace(verdict, exercises=exercises, answers=answers)


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
