"""The instructor's page: every exercise, mistake, written question and rubric."""

import bn_checks as check
from bn_checks.families import FAMILIES

from .lesson import LessonError

PAGE = "grading/exercises.md"
HEAD = """\
# Exercises, mistakes and rubrics

For instructors: this page holds model answers. `course.py build` writes it. Points,
minutes, questions and rubrics come from `lessons/`, mistakes from `bn_checks/`;
edit those.

Each exercise lists the properties that earn its points, with their shares, and then
matters of form. Form earns nothing, and costs a tenth of the points where it fails. A
mistake in a table is recognized by its results: the student reads its sentence and
which section to reread. Most wrong answers need no table. They are what comes out when
one place of a right answer is changed, and a check says which change that is; or a row
of form names them. The last table lists the published mistakes of these two kinds.
"""


def page(lessons):
    """The whole page as Markdown.

    Raises:
        LessonError: the check of an exercise cannot be loaded.
    """
    tasks = [(lesson, cell) for lesson in lessons for cell in lesson.of("exercise")]
    banks = {cell.function: _bank(lesson, cell) for lesson, cell in tasks}
    parts = [HEAD, _totals(lessons, banks), _contents(lessons)]
    for lesson in lessons:
        parts.append(f"## {_anchor(lesson.name)}{lesson.title}\n")
        for cell in lesson.of("exercise", "question"):
            exercise = banks.get(cell.function)
            parts.append(_exercise(cell, exercise) if exercise else _question(cell))
    parts += ["## Mistakes that need no table\n", _families()]
    return "\n".join(parts)


def _bank(lesson, cell):
    try:
        return check.exercise(cell.function)
    except Exception as error:  # a check that is being written may raise anything
        what = f"exercise {cell.name!r} has no check that loads"
        reason = f"{type(error).__name__}: {error}"
        raise LessonError(f"{lesson.path}:{cell.line}: {what}: {reason}") from None


def _totals(lessons, banks):
    head = ["lesson", "exercises", "points", "minutes", "mistakes named"]
    head += ["written questions", "points", "minutes", "all points"]
    rows = [[f"[{x.title}](#{x.name})", *_counts(x, banks)] for x in lessons]
    columns = zip(*(row[1:] for row in rows), strict=True)
    total = [f"**{number}**" for number in map(sum, columns)]
    align = [":--", *["--:"] * (len(head) - 1)]
    return "## Totals\n\n" + _table(head, [*rows, ["**all**", *total]], align)


def _counts(lesson, banks):
    tasks, questions = lesson.of("exercise"), lesson.of("question")
    mistakes = sum(len(banks[cell.function].mistakes) for cell in tasks)
    written = _sums(questions)
    counts = [len(tasks), *_sums(tasks), mistakes, len(questions), *written]
    return [*counts, lesson.totals["points"]]


def _sums(cells):
    return [sum(cell.meta[key] for cell in cells) for key in ("points", "minutes")]


def _contents(lessons):
    lines = ["## Contents\n"]
    for lesson in lessons:
        lines.append(f"- [{lesson.title}](#{lesson.name})")
        for cell in lesson.of("exercise", "question"):
            lines.append(f"  - [{_title(cell)}](#{cell.id})")
    return "\n".join(lines) + "\n"


def _title(cell):
    return cell.parts.get("task", cell).lines[0].removeprefix("### ")


def _exercise(cell, exercise):
    shares = _shares(exercise)
    earned = "; ".join(f"{title} ({share:.0%})" for title, share in shares if share)
    form = "; ".join(title for title, share in shares if not share)
    rows = [[f"**{m.name}**", _says(m), m.section, m.source] for m in exercise.mistakes]
    head = ["mistake", "what the student reads", "to reread", "seen in"]
    parts = [
        _heading(cell),
        f"`{cell.defines}` earns points for: {earned}. Form: {form}.\n",
    ]
    return "\n".join([*parts, _table(head, rows)] if rows else parts)


def _says(mistake):
    return (
        mistake.clause if mistake.shows else f"… what comes out when {mistake.clause}."
    )


def _families():
    head = ["mistake", "exercises", "seen in"]
    rows = [
        [f"**{name}**", ", ".join(f"`{e}`" for e in where), "; ".join(seen)]
        for name, where, seen in FAMILIES
    ]
    return _table(head, rows)


def _shares(exercise):
    """Each property's title and its share of the points."""
    total = sum(p.weight for p in exercise.properties)
    return [(p.title, p.weight / total) for p in exercise.properties]


def _question(cell):
    asked = "\n".join(f"> {line}".rstrip() for line in cell.lines[1:])
    rubric = cell.parts["rubric"].source
    return f"{_heading(cell)}\n{asked.removeprefix('>').lstrip()}\n\n{rubric}\n"


def _heading(cell):
    points, minutes = cell.meta["points"], cell.meta["minutes"]
    unit = "point" if points == 1 else "points"
    title = f"{_anchor(cell.id)}{_title(cell)}"
    return f"### {title} · {points} {unit} · {minutes} min\n"


def _anchor(name):
    """Readers of Markdown make ids of headings in many ways; this one they share."""
    return f'<a id="{name}"></a>'


def _table(head, rows, align=None):
    lines = [head, align or ["---"] * len(head), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"
