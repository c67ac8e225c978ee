"""Find the submissions in what a learning platform hands out.

`walk` reads the files, `people` finds whose they are, a roster gives the students their
own names. Here attempts are made of it. Nobody vanishes: each file is an attempt, or is
refused, or left aside, with the reason.
"""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from . import naming, people
from .config import ROOT
from .rebuild import BOMS
from .walk import Item, Refused, Walk

__all__ = ["Attempt", "Collection", "Item", "Refused", "collect"]

LESSON = re.compile(rb'"course"\s*:\s*\{[^{}]{0,400}?"lesson"\s*:\s*"([^"]{1,80})"')
CHECKED = re.compile(rb"check\.(\w{1,60})\(")
# files that platforms, editors and the course itself put beside notebooks
BESIDE = re.compile(
    r".*receipt\.txt|timestamp\.txt|.*_attempt_[\d-]{19}\.txt|index\.html|grades\.\w+|"
    r"submission_metadata\.yml|comments\.txt|feedbackText\.html|README.*|gradebook\.db|"
    r".*00_start_here.*\.ipynb",  # the start page, however it was renamed
    re.IGNORECASE,
)
MANY = 3  # different notebooks of one lesson, without a platform's word on attempts


@dataclass(frozen=True)
class Attempt:
    """One notebook that one student handed in for one lesson.

    Attributes:
        student: identifier, safe as a file name.
        lesson: name of the lesson.
        order: attempts of a student at a lesson sort by this, the last one last.
        sha256: of its bytes.
        source: where it lies.
        read: function that returns its bytes.
        platform: {"kind", "id", "name", "file", "late"} as far as names told.
    """

    student: str
    lesson: str
    order: tuple
    sha256: str
    source: str
    read: object
    platform: dict = field(default_factory=dict, hash=False)


@dataclass
class Collection:
    """What intake found.

    Attributes:
        attempts: lists by (student, lesson), in order.
        refused: (source, reason) pairs of what somebody should look at.
        senders: whose that is, by source, where one student is known.
        beside: (source, reason) pairs of what is no submission, and need not be.
        doubts: what looks as if it were read wrongly, a sentence each.
        matched: what a roster says: lines on who is missing, unknown and double.
    """

    attempts: dict
    refused: list = field(default_factory=list)
    senders: dict = field(default_factory=dict)
    beside: list = field(default_factory=list)
    doubts: list = field(default_factory=list)
    matched: list = field(default_factory=list)

    @property
    def students(self):
        return sorted({student for student, _ in self.attempts})


def collect(path, lessons, limits, keep=None, roster=None):
    """All submissions under a path.

    Args:
        path: a folder, a zip or a notebook.
        lessons: names of the course's lessons.
        limits: a `config.Limits`.
        keep: function that takes bytes and their sha256, and returns a function that
            reads them again; by default they stay in memory.
        roster: a `roster.Roster`, or None.

    Returns: a `Collection`; attempts of equal bytes are one.

    Raises:
        Refused: there is nothing at this path.
    """
    path = Path(path)
    if not path.exists():
        raise Refused(f"{path}: there is no such file or folder")
    walked = Walk(limits, keep or _in_memory, lambda *file: lesson_of(*file, lessons))
    walked.start(path)
    whose = people.assign(walked.items, lessons, walked.metadata)
    if path.suffix.lower() == ".zip" and not any(found.people for found in whose):
        whose = _of_one(path.name, walked.items, lessons)
    sorted_in = _Intake(walked, whose, lessons, roster)
    return sorted_in.collection()


def _in_memory(content, digest):
    return lambda: content


def _of_one(name, items, lessons):
    """A zip that nobody's name is in may be called as the student is."""
    one = [Item((name, *item.path), lesson=item.lesson) for item in items]
    return people.assign(one, lessons)


def lesson_of(names, content, lessons):
    """The lesson that a notebook's name or its text tells, or "".

    The text is searched and not parsed: a student wrote it.
    """
    if found := naming.lesson_in(names[-1], lessons):
        return found
    if content[:2] in BOMS:
        content = content.decode(BOMS[content[:2]], "replace").encode()
    for match in LESSON.finditer(content):
        if (told := match[1].decode("utf-8", "replace")) in lessons:
            return told
    return _lesson_checked(content, lessons) or _lesson_above(names, lessons)


def _lesson_checked(content, lessons):
    """The lesson whose checks a notebook calls."""
    names = {match[1].decode("ascii", "replace") for match in CHECKED.finditer(content)}
    called = Counter(_exercises()[name]["lesson"] for name in names & {*_exercises()})
    found = [lesson for lesson, _ in called.most_common() if lesson in lessons]
    return found[0] if found else ""


@cache
def _exercises():
    path = ROOT / "bn_checks" / "exercises.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _lesson_above(names, lessons):
    """The lesson that a folder is called after."""
    found = (naming.lesson_in(name, lessons) for name in reversed(names[:-1]))
    return next(filter(None, found), "")


def _is_notebook(item):
    """Whether it is a notebook that somebody may have worked on."""
    return bool(item.sha256) and not BESIDE.fullmatch(item.path[-1])


class _Intake:
    """Sorts what was found into a `Collection`."""

    def __init__(self, walked, whose, lessons, roster):
        self.items, self.refused = walked.items, list(walked.refused)
        self.whose, self.lessons, self.roster = whose, lessons, roster
        everybody = [person for found in whose for person in found.people]
        self.names = people.identifiers(everybody)
        self.rows = roster.match(everybody) if roster else {}
        self.found = defaultdict(dict)
        self.handed_in = set()

    def collection(self):
        for item, found in zip(self.items, self.whose, strict=True):
            if _is_notebook(item):
                self.notebook(item, found)
        made = Collection({k: _in_order(self.found[k]) for k in sorted(self.found)})
        for item, found in zip(self.items, self.whose, strict=True):
            if not _is_notebook(item):
                self.other(item, found, made)
        made.refused = self.refused
        made.doubts = [*_doubts(made.attempts, self.rows), *self.mixed()]
        if self.roster:
            made.matched = self.roster.report(self.rows, made.attempts, self.names)
        return made

    def student(self, person):
        """The identifier of a person: the roster's, or one made from the name."""
        row = self.rows.get(person.key)
        return row.student if row else self.names[person.key]

    def notebook(self, item, found):
        if found.named == people.NOT_SUBMITTED:
            return
        students = [(p, self.student(p)) for p in found.people if self.student(p)]
        if not item.lesson:
            self.refuse(item, "neither its name nor its content is that of a lesson")
        elif not students:
            self.refuse(
                item, "nothing tells whose it is: no folder, no part of its name"
            )
        else:
            for person, student in students:
                self.attempt(item, found, person, student)

    def attempt(self, item, found, person, student):
        self.handed_in.add(person.key)
        sent, again = found.order
        platform = {"kind": person.kind, "id": person.id, "name": person.called}
        platform |= {"file": found.named} if person.kind else {}
        platform |= {"late": "yes"} if found.late else {}
        order = (sent, item.time, again, item.source)
        made = Attempt(
            *(student, item.lesson, order, item.sha256, item.source, item.read),
            platform if person.kind else {},
        )
        same = self.found[student, item.lesson].get(item.sha256)
        if same is None or same.order < order:
            self.found[student, item.lesson][item.sha256] = made

    def other(self, item, found, made):
        """A file that is no notebook."""
        name = item.path[-1]
        if found.named == people.NOT_SUBMITTED or BESIDE.fullmatch(name):
            made.beside.append((item.source, "the platform's or the course's own"))
        elif any(person.key in self.handed_in for person in found.people):
            made.beside.append((item.source, "beside a notebook, which is graded"))
        else:
            reason = "neither a notebook (.ipynb) nor a zip"
            who = [student for p in found.people if (student := self.student(p))]
            made.senders |= {item.source: who[0]} if len(who) == 1 else {}
            other = f"; {' and '.join(who)} has handed in no other" if who else ""
            self.refuse(item, reason + other)

    def refuse(self, item, reason):
        self.refused.append((item.source, reason))

    def mixed(self):
        """Students whose files bear the names of several people."""
        inside = defaultdict(set)
        for item, found in zip(self.items, self.whose, strict=True):
            name = item.path[-1]
            if item.sha256 and found.named != name and len(found.people) == 1:
                told = naming.tell(name)
                who = told.name if told else naming.person(name, self.lessons)[0]
                if who and naming.lesson_in(name, self.lessons):
                    inside[self.student(found.people[0])].add(who)
        for student, names in inside.items():
            if len(names) > MANY:
                some = ", ".join(sorted(names)[:4])
                yield f"{student} has files that are named after others: {some}, ..."


def _in_order(found):
    return sorted(found.values(), key=lambda attempt: attempt.order)


def _doubts(attempts, rows):
    """What a class does not look like; whom a roster names is no doubt."""
    known = {row.student for row in rows.values()}
    unknown = sorted({student for student, _ in attempts} - known)
    for (student, lesson), mine in attempts.items():
        told = [attempt for attempt in mine if attempt.order[0]]
        if len(mine) - len(told) > MANY:
            yield (
                f"{student} has {len(mine)} different notebooks of {lesson}: is "
                f"{student} one person, or the name of a folder with several?"
            )
    alike = defaultdict(set)
    for student in unknown:
        alike[_folded(student)].add(student)
    for names in alike.values():
        if len(names) > 1:
            yield f"{' and '.join(sorted(names))} may be one person"
    for student in unknown:
        if naming.nobody(student) and not naming.tell(student):
            yield f"{student} does not look like a person"


def _folded(student):
    """A name without what writes the same one differently."""
    plain = unicodedata.normalize("NFKD", student).casefold()
    return "".join(sorted(re.findall(r"[a-z0-9]+", plain))) or student
