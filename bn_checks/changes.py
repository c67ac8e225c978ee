"""Mistakes written down as changes of a right form's text.

Where a wrong answer is a right form in which something else stands, this is written:

    one padding too many: padding counts in the variance, as a distance from the mean
        np.where(kept, x - mu, 0) -> rows - mu
        seen in owner/repository #12

First the mistake's name and its clause; below, indented, what is written instead of
what, wherever it stands in the form, and where the mistake was seen. A line that is
indented deeper goes on with the one above. `shows` and a row's title say that the
values are right and only this row fails; then the clause is a whole sentence.
"""

import inspect
import re
from functools import cached_property
from textwrap import dedent

from .engine import Mistake

ARROW, SEEN, SHOWS = " -> ", "seen in ", "shows "
DEEPER = re.compile(r"\n {5,}")
ENTRY = re.compile(r"((?:^\S.*\n)+)((?:^ .*\n)+)", re.MULTILINE)


class Changed:
    """A right form with other text in places; it is made when it is first called.

    Args:
        form: a function or class of a module of the course.
        changes: pairs of what stands there and what is written instead.
    """

    def __init__(self, form, changes):
        self.form, self.changes = form, changes

    def __call__(self, *args):
        return self.code(*args)

    @cached_property
    def code(self):
        """The wrong implementation, a function or a class."""
        space = vars(inspect.getmodule(self.form)).copy()
        exec(compile(self.source, "<change>", "exec"), space)
        return space[self.form.__name__]

    @property
    def source(self):
        """Its text.

        Raises:
            ValueError: the form lacks the text of a change.
        """
        source = dedent(inspect.getsource(self.form))
        for old, new in self.changes:
            if old not in source:
                raise ValueError(f"{self.form.__name__} does not contain {old!r}")
            source = source.replace(old, new)
        return source


def changed(form, section, text, source=""):
    """The `Mistake`s of a text; `source` is where those that name none were seen.

    Raises:
        ValueError: a part of the text is no mistake with its changes.
    """
    text = dedent(text).lstrip("\n")
    if rest := ENTRY.sub("", text).strip():
        raise ValueError(f"a mistake needs 'name: clause' and changes: {rest!r}")
    for head, body in ENTRY.findall(text):
        name, clause = " ".join(head.split()).split(": ", 1)
        lines = [line.strip() for line in DEEPER.sub(" ", body).splitlines()]
        pairs = [line.split(ARROW, 1) for line in lines if ARROW in line]
        seen, row = (_after(word, lines) for word in (SEEN, SHOWS))
        code = Changed(form, pairs)
        yield Mistake(name, clause, section, seen or source, code, row)


def _after(word, lines):
    """What follows a word at the beginning of a line; None if there is no such line."""
    return next((li.removeprefix(word) for li in lines if li.startswith(word)), None)
