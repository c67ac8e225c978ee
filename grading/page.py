"""The notebook that formgrader shows: the rebuilt one, with what the checks found.

It is made by a worker, for a student wrote what is in it.
"""

from types import SimpleNamespace

from nbformat.v4 import new_markdown_cell, new_output

from bn_checks import score
from tools.build import dumps

from . import config, master, rebuild
from .verdict import GRADED


def page(content, verdict):
    """The text of the notebook for a verdict and the bytes it judges."""
    made = dumps(graded_notebook(verdict, master.lesson(verdict.lesson), content))
    return made.encode("utf-8", "replace").decode()


def plain_page(verdict):
    """The same without anything of the student's, where `page` cannot be made."""
    return page(b"", verdict)


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
    if text := "\n\n".join(_above(verdict)):
        nb.cells.insert(0, new_markdown_cell(text, id="grader-1"))
    return nb


def _above(verdict):
    """What a person should read before the notebook."""
    if verdict.status != GRADED:
        yield f"**This submission {verdict.status}.** {_literal(verdict.reason)}"
    if verdict.unreadable:
        yield "Nothing in it can be marked. Points typed at the first check settle it."
    yield from (f"Note: {_literal(note)}" for note in verdict.notes)
    beside = {}
    for name, answer in verdict.answers.items():
        if answer.text and answer.elsewhere:
            beside.setdefault((answer.elsewhere, answer.text), []).append(f"*{name}*")
    for (where, text), names in beside.items():
        yield f"Answer to {', '.join(names)}, found {where}:\n\n{text}"


def _literal(text):
    return f"`{text.replace('`', chr(39))}`"


def table(name, exercise):
    """The `Score` that an exercise of a verdict had."""

    def row(r):
        found = SimpleNamespace(name=r.mistake, says=r.says, section=r.section)
        mistake = found if r.says else None
        return score.Row(r.title, r.state, r.detail, mistake)

    return score.Score(exercise.points, name, exercise.max, map(row, exercise.rows))


def _output(name, verdict):
    exercise = verdict.exercises[name]
    if exercise.points is None:
        text = f"{name}: a person must judge this. {exercise.reason or verdict.reason}"
        return new_output("stream", name="stdout", text=text)
    made = table(name, exercise)
    data = {"text/plain": repr(made), "text/html": made._repr_html_()}
    return new_output("execute_result", data, execution_count=1)
