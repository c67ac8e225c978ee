"""What grading one submission says: one record, as Python objects and as JSON.

A verdict is written once, by the grader, as one line of `grades/receipts.jsonl`. The
gradebook, the report and the formgrader's pages are made from it.
"""

import json
from dataclasses import asdict, dataclass, field

GRADED, NEEDS_REVIEW, REJECTED = "graded", "needs review", "rejected"
FAILED = "the grader failed"


@dataclass(frozen=True)
class Row:
    """One line of a check's table.

    Attributes:
        title: the property, such as "values of dx".
        state: "✓" holds, "✗" fails, "○" not attempted, "–" not judged.
        detail: what happened, a line each; may quote the student's error messages.
        mistake: name of the recognized mistake, or "".
        says: one or two sentences to the student on what is wrong with the whole
            answer, or ""; of all rows at most one has it.
        section: what to reread, such as "section 4, See what eps does", or "".
    """

    title: str
    state: str
    detail: tuple[str, ...] = ()
    mistake: str = ""
    says: str = ""
    section: str = ""


@dataclass(frozen=True)
class Exercise:
    """An autograded exercise.

    Attributes:
        points: what it earned; None where the machine could not judge it.
        max: the most it can earn.
        rows: the table; empty where points is None.
        reason: why the machine could not judge it, or "".
    """

    points: float | None
    max: float
    rows: tuple[Row, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Answer:
    """A written answer.

    Attributes:
        text: Markdown as the student wrote it: not sanitized. Empty if unanswered.
        max: the most it can earn.
        points: what a person gave; 0.0 if unanswered, None while it awaits a person.
        comment: what that person wrote, or "".
        elsewhere: where the text was found if not in its own cell, or "".
    """

    text: str
    max: float
    points: float | None = None
    comment: str = ""
    elsewhere: str = ""


@dataclass(frozen=True)
class Receipt:
    """What was graded, with what, and when.

    Attributes:
        sha256: of the submitted bytes.
        version: of the lesson's text, checks and requirements; 12 hexadecimal digits.
        seed: of the checks' inputs. Not for students: it makes the inputs.
        time: UTC, ISO 8601, to the second.
        source: where the file came from, such as "class.zip/alice/01.ipynb".
    """

    sha256: str
    version: str
    seed: int
    time: str
    source: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a submission of one lesson by one student is worth, and why.

    Attributes:
        student: identifier, safe as a file name; "" where a rejected item names none.
        lesson: such as "01_forward_pass"; "" where a rejected item names none.
        status: GRADED (written answers may await a person), NEEDS_REVIEW (a person must
            look; the points so far are provisional) or REJECTED (no submission at all).
        reason: why it is not GRADED, in a sentence; "" when it is.
        receipt: what was graded.
        seconds: how long grading took.
        exercises: by name, in the order of the lesson.
        answers: by the question's name, in the order of the lesson.
        notes: what a person may want to know, such as "the cell of x was missing".
        platform: what the names of files tell, else {}: "kind", such as "moodle"; "id"
            and "name" there; "file", as it named what was handed in; "late": "yes".
    """

    student: str
    lesson: str
    status: str
    reason: str
    receipt: Receipt
    seconds: float = 0.0
    exercises: dict[str, Exercise] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    platform: dict[str, str] = field(default_factory=dict)

    @property
    def points(self):
        """Points so far; what awaits a person counts 0."""
        return sum(task.points or 0.0 for task in self._tasks)

    @property
    def max(self):
        """The most points the lesson can earn."""
        return sum(task.max for task in self._tasks)

    @property
    def awaits(self):
        """Names of the exercises and answers that await a person."""
        tasks = {**self.exercises, **self.answers}
        return tuple(name for name, task in tasks.items() if task.points is None)

    @property
    def mistakes(self):
        """Names of recognized mistakes by exercise, each once, in order."""
        found = {
            name: tuple(dict.fromkeys(row.mistake for row in e.rows if row.mistake))
            for name, e in self.exercises.items()
        }
        return {name: names for name, names in found.items() if names}

    @property
    def unreadable(self):
        """Whether there is nothing to mark: the file holds no work of the lesson.

        A failure of the grader is not that: there the work is, and nobody judged it.
        """
        judged = any(e.points is not None for e in self.exercises.values())
        written = any(answer.text for answer in self.answers.values())
        failed = self.reason.startswith(FAILED)
        return self.status == NEEDS_REVIEW and not (judged or written or failed)

    @property
    def may_earn(self):
        """Points, if all that awaits a person were right."""
        if self.unreadable:
            return 0.0
        return sum(t.max if t.points is None else t.points for t in self._tasks)

    @property
    def _tasks(self):
        return [*self.exercises.values(), *self.answers.values()]

    def to_json(self):
        """The verdict as one line of JSON, in ASCII: other letters may end lines."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text):
        """Read what `to_json` wrote.

        Raises:
            ValueError: the text is no verdict.
        """
        try:
            return cls(**_objects(json.loads(text)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a verdict: {error}") from None


def _objects(data):
    exercises = {
        name: Exercise(**e | {"rows": tuple(map(_row, e["rows"]))})
        for name, e in data["exercises"].items()
    }
    answers = {name: Answer(**answer) for name, answer in data["answers"].items()}
    receipt, notes = Receipt(**data["receipt"]), tuple(data["notes"])
    made = {"exercises": exercises, "answers": answers, "receipt": receipt}
    return data | made | {"notes": notes}


def _row(data):
    data.pop("again", None)  # of records from before there was one diagnosis
    return Row(**data | {"detail": tuple(data["detail"])})
