"""Code of a submission that is only partly run, and what may be told from it."""

import ast
import builtins
import re
from functools import cache

from bn_checks.definitions import (
    FUNCTIONS,
    IMPORTS,
    MODULES,
    WORDS,
    bound,
    cut,
    definitions,
    free_names,
    parsed,
    parts,
)

__all__ = [
    "bound",
    "definitions",
    "free_names",
    "has_prose",
    "imports",
    "times_defined",
    "used_of_lesson",
]

PROSE = re.compile(r"[^\W\d_]{2,}\s+[^\W\d_]+\s+[^\W\d_]{2,}")  # three words in a row


def imports(source):
    """The imports at the top level of a source, as they stand there."""
    body, lines = parsed(source)
    return [cut(node, lines) for node in body if isinstance(node, IMPORTS)]


def times_defined(source, name):
    """How often a source defines a function or class of that name, at its top level."""
    body = parsed(source)[0]
    return sum(isinstance(node, FUNCTIONS) and node.name == name for node in body)


def has_prose(source):
    """Whether somebody wrote sentences into a code cell."""
    body, _ = parsed(source)
    comments = re.findall(r"#.*", source)
    texts = [n.value.value for n in body if _is_text(n)]
    whole = [] if body or not source.strip() else [source]
    return any(PROSE.search(text) for text in [*comments, *texts, *whole])


def _is_text(node):
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def used_of_lesson(written, sources):
    """What demonstrations define and an answer uses, in the lesson's order.

    An answer should stand on its own. One that uses a helper of the lesson is right in
    the notebook all the same, so it must not lose its marks here.

    Args:
        written: the student's code.
        sources: of the demonstrations, a tuple.
    """
    words, free, kept = set(WORDS.findall(written)), free_names(written), []
    for made, used, value, source in reversed(_lent(sources)):
        if made & (free if value else words):  # it may need others, above it
            words |= used
            free |= used
            kept.insert(0, source)
    return kept


@cache
def _lent(sources):
    """Of each thing that is defined: (names it makes, names it uses, whether it is a
    value, source). Cached: it is the same for every student of a lesson.
    """
    found, known = [], {*MODULES, *dir(builtins)}
    for body, lines in map(parsed, sources):
        each_part = (parts(n, lines) for n in body if not isinstance(n, IMPORTS))
        for part, value in (part for each in each_part for part in each):
            names = [n for n in ast.walk(ast.parse(part)) if isinstance(n, ast.Name)]
            stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
            used = {n.id for n in names} - stored
            if not value or used <= known:  # else it is made of what is computed
                found.append((bound(part), used, value, part))
                known |= found[-1][0]
    return found
