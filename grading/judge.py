"""One submission in, one verdict out: `grade_one`.

Set-up, answers and the student's own cells run in the sandbox, demonstrations never.
Checks run here, on inputs of the grader's seed, and reach the student's functions
through handles. What the machine cannot judge, a person must: that is never 0 points
and never a pass.
"""

import hashlib
import math
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import bn_checks as check
from bn_checks.score import NOT_ATTEMPTED

from . import code, config, master, rebuild, remote
from .sandbox import Allowed, Broken, Sandbox, Trouble
from .verdict import (
    FAILED,
    GRADED,
    NEEDS_REVIEW,
    Answer,
    Exercise,
    Receipt,
    Row,
    Verdict,
)

TRIES = 2  # of a sandbox that does not start
UNDEFINED = re.compile(r"name '(\w{1,100})' is not defined")
NOT_THERE = re.compile(r"([\w.]{1,100}) is not there when a submission is graded")


def grade_one(path, seed, lesson="", student="", unsafe=False, limits=None):
    """Grade one notebook file.

    Args:
        path: the notebook.
        seed: decides the inputs of the checks.
        lesson: name of the lesson; by default that of the file.
        student: identifier, for the verdict.
        unsafe: run student code without a sandbox.
        limits: a `config.Limits`, by default those of limits.toml.

    Returns: a `Verdict`; the same bytes, course and seed give the same points.
    """
    path = Path(path)
    content = path.read_bytes()
    lesson = lesson or path.stem
    return grade_bytes(content, seed, lesson, student, unsafe, limits, path.name)


def grade_bytes(
    content, seed, lesson, student="", unsafe=False, limits=None, source="", platform=()
):
    """Grade the bytes of a notebook.

    Args:
        content: the bytes; else as `grade_one`.
        source: where they come from, for the receipt.
        platform: what a learning platform says of the student, for the verdict.

    Returns: a `Verdict`.
    """
    limits, course = limits or config.limits(), master.lesson(lesson)
    began, now = time.monotonic(), datetime.now(UTC)
    digest = hashlib.sha256(content).hexdigest()
    receipt = Receipt(
        digest,
        course.version,
        seed,
        now.isoformat(timespec="seconds"),
        source,
    )
    work = Work(course, _own_seed(seed, digest), limits, unsafe)
    try:
        work.do(content)
    except rebuild.Unreadable as problem:
        work.failure = str(problem)
    except Broken as problem:
        work.failure = f"{FAILED}: {problem}"
    except Exception as problem:  # ours, whatever it is: a person must look
        what = f"{type(problem).__name__}: {problem}"
        work.failure = f"{FAILED}: {what}"[:300]
    seconds = round(time.monotonic() - began, 3)
    return work.verdict(student, receipt, seconds, dict(platform))


def _own_seed(seed, digest):
    """The seed of one file: what it learns of its inputs is of no use to another."""
    mixed = hashlib.sha256(f"{seed} {digest}".encode()).digest()
    return int.from_bytes(mixed[:4], "big")


def not_judged(facts, reason):
    """The verdict where `grade_bytes` itself could not finish: a person must look.

    Args:
        facts: its arguments, of the content at least the "sha256".
    """
    facts = {"student": "", "source": "", "platform": (), "unsafe": False} | facts
    course = master.lesson(facts["lesson"])
    work = Work(course, facts["seed"], None, facts["unsafe"])
    work.failure = f"{FAILED}: {reason}"[:300]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    sha256 = facts.get("sha256") or hashlib.sha256(facts["content"]).hexdigest()
    receipt = Receipt(sha256, course.version, facts["seed"], now, facts["source"])
    return work.verdict(facts["student"], receipt, 0.0, dict(facts["platform"]))


@dataclass
class Work:
    """The state of grading one submission.

    Attributes:
        scores: by exercise, the best `Score` so far.
        unjudged: by exercise, why there is no score.
        trouble: what went wrong in cells, as (exercise or "", reason).
        skipped: how often a step, by its index, has gone wrong: at first what it
            defines is run all the same, then nothing of it.
        lacking: by exercise, the error that ended its cell.
        failure: why nothing could be judged, or "".
    """

    course: object
    seed: int
    limits: object
    unsafe: bool = False
    scores: dict = field(default_factory=dict)
    unjudged: dict = field(default_factory=dict)
    trouble: list = field(default_factory=list)
    skipped: dict = field(default_factory=dict)
    lacking: dict = field(default_factory=dict)
    failure: str = ""
    made: object = None
    end: float = math.inf

    def do(self, content):
        """Rebuild, run, and judge."""
        cells = rebuild.read(content, self.limits)
        self.made = rebuild.rebuild(cells, self.course)
        self.end = time.monotonic() + self.limits.submission
        steps, failures = self.steps(), 0
        while True:
            try:
                with Sandbox(self.limits, self.unsafe) as box:
                    if self.run(box, steps):
                        return
            except Broken:
                failures += 1
                if failures == TRIES:
                    raise

    def steps(self):
        """All steps, and at the end the checks once more: helpers may come late."""
        checks = [step for step in self.made.steps if step.kind == "check"]
        return [*self.made.steps, *checks]

    def run(self, box, steps):
        """Do the steps in one sandbox; False if it died on the way."""
        box.start(self.drivers())
        for index, step in enumerate(steps):
            if step.kind == "check" and self.settled(step.exercise):
                continue
            try:
                if step.kind == "check":
                    self.judge(box, step.exercise)
                else:
                    self.execute(box, index, step)
            except Trouble as trouble:
                if step.kind == "setup":
                    raise Broken(f"the set-up cell: {trouble}") from None
                self.note(index, step, trouble)
                if not trouble.alive:
                    return False
        return True

    def drivers(self):
        path = rebuild.drivers(self.course)
        return f"bn_checks.drivers.{path.stem}" if path else ""

    def settled(self, exercise):
        """Whether nothing can change what an exercise earns."""
        score = self.scores.get(exercise)
        full = score is not None and score >= score.points
        return full or exercise in self.unjudged

    def allowed(self):
        """What a cell or check may take now.

        Raises:
            Trouble: the time of the submission is used up.
        """
        whole = f"the {self.limits.submission:g} seconds of a submission"
        left = self.end - time.monotonic()
        if left <= 0:
            raise Trouble(f"came after {whole}", alive=True)
        if left < self.limits.cell:
            return Allowed(left, f"did not finish within {whole}")
        return Allowed(self.limits.cell)

    def execute(self, box, index, step):
        source = step.source
        if index in self.skipped:
            again = self.skipped[index] > 1
            source = "" if again else "\n".join(code.definitions(source))
        # imports take what the machine takes; that is nobody's fault
        setup = step.kind == "setup"
        allowed = Allowed(self.limits.start) if setup else self.allowed()
        reply = box.ask("run", allowed, source=source)
        if "error" in reply:
            kind, said = map(str, reply["error"][:2])
            if setup:
                raise Broken(f"the set-up cell: {[kind, said]}")
            if step.exercise:
                self.lacking[step.exercise] = f"{kind}: {said}"
            self.go_on(box, source, reply.get("line"))

    def go_on(self, box, source, line):
        """After an error, define what stands below it: it may name a demonstration."""
        line = line if isinstance(line, int) else 0
        for part in code.definitions(source, after=line):
            box.ask("run", self.allowed(), source=part)

    def judge(self, box, exercise):
        task = self.course.exercises[exercise]
        allowed = self.allowed()
        try:
            student = remote.handle(box, task.defines, allowed)
        except KeyError:
            if task.defines in self.made.bound and exercise in self.lacking:
                what = f"its cell failed in the grader: {self.lacking[exercise]}"
                self.unjudged[exercise] = what[:300]
                return
            student = _undefined(task.defines)
        checked = remote.through_the_border(check.exercise(exercise))
        score = checked.score(student, task.points, self.seed)
        if not 0 <= score <= task.points:
            raise ValueError(f"the check of {exercise} returned {float(score)!r}")
        best = self.scores.get(exercise)
        if best is None or score > best:
            self.scores[exercise] = score

    def missed(self, exercise, score):
        """Why an answer lost points that it may have in the notebook, or "".

        A name that only a cell computes which is not run here: a person must look.
        """
        said = [line for row in score.rows for line in row.detail]
        names = [name for line in said for name in UNDEFINED.findall(line)]
        names = [n for n in dict.fromkeys(names) if n in self.made.bound]
        if not names:
            return ""
        return f"uses {', '.join(names)}, which a cell that is not run here computes"

    def note(self, index, step, trouble):
        """Remember what went wrong, and do not run into it again."""
        if step.kind == "check":
            self.unjudged[step.exercise] = str(trouble)
        else:
            self.trouble.append((step.exercise, str(trouble)))
            self.skipped[index] = self.skipped.get(index, 0) + 1

    # the verdict

    def verdict(self, student, receipt, seconds, platform):
        exercises = {name: self.exercise(name) for name in self.course.exercises}
        answers = {name: self.answer(name) for name in self.course.questions}
        reasons = [f"{n}: {e.reason}" for n, e in exercises.items() if e.reason]
        reason = self.failure or "; ".join(reasons)
        return Verdict(
            student=student,
            lesson=self.course.name,
            status=NEEDS_REVIEW if reason else GRADED,
            reason=reason,
            receipt=receipt,
            seconds=seconds,
            exercises=exercises,
            answers=answers,
            notes=tuple(self.notes()),
            platform=platform,
        )

    def exercise(self, name):
        """What is said of one exercise."""
        points = self.course.exercises[name].points
        score = self.scores.get(name)
        if self.failure:
            return Exercise(None, points)
        if score is not None and score >= points:
            return Exercise(float(score), points, _rows(score))
        reason = self.unjudged.get(name, "")
        for exercise, what in self.trouble:  # it may have cost this one its marks
            if exercise in ("", name):
                reason = reason or f"a cell{_of(exercise)} {what}"
        if score is not None:
            reason = reason or self.missed(name, score)
        if reason or score is None:
            return Exercise(None, points, reason=reason or "was not judged")
        return Exercise(round(float(score), 4), points, _rows(score))

    def answer(self, name):
        points = self.course.questions[name].points
        if self.made is None:
            return Answer("", points)
        text, elsewhere = self.made.answers[name]
        return Answer(text, points, None if text else 0.0, elsewhere=elsewhere)

    def notes(self):
        """What a person may want to know."""
        yield from self.made.notes if self.made else ()
        for name, what in dict.fromkeys(self.trouble):
            yield f"a cell{_of(name)} {what}"
        for name, score in self.scores.items():
            said = " ".join(line for row in score.rows for line in row.detail)
            for module in dict.fromkeys(NOT_THERE.findall(said)):
                yield f"{name} uses {module}, which is not there when it is graded"
        if self.unsafe:
            yield "graded without a sandbox"


def _of(exercise):
    return f" of {exercise}" if exercise else " of the student's own"


def _undefined(name):
    def undefined(*args):
        raise NotImplementedError(f"{name} is not defined")

    return undefined


def _rows(score):
    return tuple(map(_row, score.rows))


def _row(row):
    if row.state == NOT_ATTEMPTED or row.mistake is None:
        return Row(row.title, row.state, tuple(row.detail))
    mistake = row.mistake
    name = mistake.name if mistake.explains else ""  # a symptom is no misconception
    facts = (name, mistake.says, mistake.section)
    return Row(row.title, row.state, tuple(row.detail), *facts)
