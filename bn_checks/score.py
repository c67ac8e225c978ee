"""What a check returns: a number to a machine, a diagnosis and a table to a person."""

from dataclasses import dataclass
from html import escape

HOLDS, FAILS, NOT_ATTEMPTED, NOT_JUDGED = "✓", "✗", "○", "–"
_CELL = "text-align:left;vertical-align:top"
SPOKEN = {
    HOLDS: "holds",
    FAILS: "fails",
    NOT_ATTEMPTED: "not attempted",
    NOT_JUDGED: "not judged",
}


@dataclass(frozen=True)
class Diagnosis:
    """What a wrong answer is.

    Attributes:
        name: short and stable; the class overview counts by it.
        says: one or two sentences to the student, true of the whole answer.
        section: what to reread, or "".
        explains: whether what it says gives every wrong output, on two seeds.
    """

    name: str
    says: str
    section: str = ""
    explains: bool = True


@dataclass(frozen=True)
class Row:
    """One property of an exercise and whether the student's object has it.

    Attributes:
        title: the property, such as "y at the default eps".
        state: HOLDS, FAILS, NOT_ATTEMPTED or NOT_JUDGED.
        detail: got, want and where, a line each; empty when the property holds.
        mistake: the `Diagnosis` of the answer; its first failing row carries it.
    """

    title: str
    state: str
    detail: tuple[str, ...] = ()
    mistake: object = None

    @property
    def lines(self):
        """The detail."""
        return self.detail


class Score(float):
    """Points earned in one exercise.

    A float: `repr` is the bare number, which nbgrader reads as partial credit.
    JupyterLab shows what is wrong, and a table with one row per property; `text` says
    the same in words.

    Attributes:
        exercise: name of the exercise.
        points: the most it can earn.
        rows: the `Row`s behind the number.
        note: one line on what this answer needs and has not when it is graded, or "".
    """

    note = ""

    def __new__(cls, value, exercise, points, rows):
        score = super().__new__(cls, value)
        score.exercise, score.points, score.rows = exercise, points, tuple(rows)
        return score

    def __getnewargs__(self):  # so that a copy, or what was pickled, is made again
        return float(self), self.exercise, self.points, self.rows

    def __repr__(self):
        return repr(round(float(self), 4))

    __str__ = __repr__

    @property
    def caption(self):
        return f"{self.exercise}: {float(self):.4g} of {self.points:g} points"

    @property
    def found(self):
        """The diagnoses, in order, each once."""
        return tuple(
            {r.mistake.name: r.mistake for r in self.rows if r.mistake}.values()
        )

    @property
    def mistakes(self):
        """Names of the mistakes that were recognized, in order, each once."""
        return tuple(d.name for d in self.found if getattr(d, "explains", True))

    @property
    def diagnosis(self):
        """What the answer is, in one or two sentences; "" where there is nothing."""
        return " ".join(diagnosis.says for diagnosis in self.found)

    @property
    def reread(self):
        """What to reread, or ""."""
        sections = dict.fromkeys(d.section for d in self.found if d.section)
        return f"Reread {'; '.join(sections)}." if sections else ""

    @property
    def explained(self):
        """Whether the diagnosis, or one row of form, accounts for all that is wrong."""
        if self.found:
            return all(getattr(d, "explains", True) for d in self.found)
        failing = [row.title for row in self.rows if row.state == FAILS]
        return len(failing) == 1 and not failing[0].startswith("values of ")

    @property
    def text(self):
        """Diagnosis and table as plain lines, to read or to hear."""
        lines = [self.caption + ".", *filter(None, (self.diagnosis, self.reread))]
        for row in self.rows:
            lines.append(f"{row.state} {SPOKEN[row.state]}: {row.title}.")
            lines += [f"    {line}" for line in row.lines]
        lines += [self.note] if self.note else []
        return "\n".join(lines)

    def _repr_html_(self):
        body = "".join(map(_html_row, self.rows))
        heads = "Result", "Property", "What happened"
        head = "".join(f"<th scope='col' style='{_CELL}'>{h}</th>" for h in heads)
        says, reread = escape(self.diagnosis), escape(self.reread)
        says = f"<p style='max-width:44em'><strong>{says}</strong> {reread}</p>"
        return (
            f"{says if self.diagnosis else ''}"
            "<table><caption style='text-align:left'><strong>"
            f"{escape(self.caption)}</strong></caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"{f'<p>{escape(self.note)}</p>' if self.note else ''}"
        )


def _html_row(row):
    lines = "<br>".join(map(escape, row.detail))
    weight = "bold" if row.state == FAILS else "normal"  # colors are the theme's
    return (
        f"<tr><td style='{_CELL};white-space:nowrap'>{row.state} {SPOKEN[row.state]}"
        f"</td><th scope='row' style='{_CELL};font-weight:{weight}'>"
        f"{escape(row.title)}</th><td style='{_CELL}'>{lines}</td></tr>"
    )
