"""What a check returns: a number to a machine, a table to a person."""

from dataclasses import dataclass
from html import escape

HOLDS, FAILS, NOT_ATTEMPTED = "✓", "✗", "○"
_CELL = "text-align:left;vertical-align:top"
_SPOKEN = {HOLDS: "holds", FAILS: "fails", NOT_ATTEMPTED: "not attempted"}


@dataclass(frozen=True)
class Row:
    """One property of an exercise and whether the student's object has it.

    Attributes:
        title: the property, such as "y at the default eps".
        state: HOLDS, FAILS or NOT_ATTEMPTED.
        detail: got, want and where, a line each; empty when the property holds.
        mistake: the `Mistake` that explains the failure, or None.
        again: whether an earlier row has named the same mistake.
    """

    title: str
    state: str
    detail: tuple[str, ...] = ()
    mistake: object = None
    again: bool = False

    @property
    def explained(self):
        """What the failure looks like: a sentence, and what to reread; or empty."""
        if self.mistake is None:
            return "", ""
        if self.again:
            return "", "The mistake named above explains this, too."
        return self.mistake.says, f"Reread {self.mistake.section}."

    @property
    def lines(self):
        """The detail and, last, what the failure looks like."""
        explained = " ".join(filter(None, self.explained))
        return (*self.detail, explained) if explained else self.detail


class Score(float):
    """Points earned in one exercise.

    A float: `repr` is the bare number, which nbgrader reads as partial credit.
    JupyterLab shows a table with one row per property; `text` says the same in words.

    Attributes:
        exercise: name of the exercise.
        points: the most it can earn.
        rows: the `Row`s behind the number.
    """

    def __new__(cls, value, exercise, points, rows):
        score = super().__new__(cls, value)
        score.exercise, score.points, score.rows = exercise, points, tuple(rows)
        return score

    def __repr__(self):
        return repr(round(float(self), 4))

    __str__ = __repr__

    @property
    def caption(self):
        return f"{self.exercise}: {float(self):g} of {self.points:g} points"

    @property
    def mistakes(self):
        """Names of the mistakes that were recognized, in order, each once."""
        return tuple(dict.fromkeys(r.mistake.name for r in self.rows if r.mistake))

    @property
    def text(self):
        """The table as plain lines, to read or to hear."""
        lines = [self.caption + "."]
        for row in self.rows:
            lines.append(f"{row.state} {_SPOKEN[row.state]}: {row.title}.")
            lines += [f"    {line}" for line in row.lines]
        return "\n".join(lines)

    def _repr_html_(self):
        body = "".join(map(_html_row, self.rows))
        heads = "Result", "Property", "What happened"
        head = "".join(f"<th scope='col' style='{_CELL}'>{h}</th>" for h in heads)
        return (
            "<table><caption style='text-align:left'><strong>"
            f"{escape(self.caption)}</strong></caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _html_row(row):
    says, reread = map(escape, row.explained)
    says = f"<strong>{says}</strong> " if says else ""
    lines = "<br>".join([*map(escape, row.detail), *filter(None, [says + reread])])
    weight = "bold" if row.state == FAILS else "normal"  # colors are the theme's
    return (
        f"<tr><td style='{_CELL};white-space:nowrap'>{row.state} {_SPOKEN[row.state]}"
        f"</td><th scope='row' style='{_CELL};font-weight:{weight}'>"
        f"{escape(row.title)}</th><td style='{_CELL}'>{lines}</td></tr>"
    )
