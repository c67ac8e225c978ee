"""Whether an answer stands on its own: says in the notebook what the grader will say.

Submissions are graded in another place: without the reference implementations, without
what the lesson's demonstrations compute, and without the student's files. What an
answer uses is looked up in what the kernel has run; nothing is executed for it.
"""

import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

from .definitions import IMPORTS, binds, bound, cut, definitions, looked_up, parsed

COURSE = Path(__file__).resolve().parents[1]
OURS = ("bn_helpers", "bn_experiments", "bn_checks")
THERE = {*OURS, "bn_helpers.data", "bn_helpers.plots"}  # also when graded
NOTHING = ast.Pass(), ""
COMPUTED = "computed"  # what stands for a statement that is not run
MAKERS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
WRITES = re.compile(r"""write|save|dump|["']w[bt]?["']""")  # a cell that makes a file
SHARE = 0.5  # of a demonstration's statements: a cell that has them is that cell


def warning(student, lesson):
    """One line on what the student's object uses that the grader has not, or ""."""
    shell = _shell()
    if shell is None:
        return ""
    try:
        names = Kernel(shell.user_ns, lesson, student).lacking()
    except Exception:  # whatever a cell holds, a check does not crash
        return ""
    if not names:
        return ""
    are = "is" if len(names) == 1 else "are"
    return (
        f"Your answer uses {', '.join(names)}, which {are} not there when it is "
        "graded. Define what it needs in this cell or in one of your own."
    )


def _shell():
    module = sys.modules.get("IPython")
    return module and module.get_ipython()


class Kernel:
    """What the cells of a notebook have defined so far.

    Args:
        names: the notebook's names, with the sources of its cells in `In`.
        lesson: whose demonstrations are not run when an answer is graded.
        student: the object that answers an exercise.
    """

    def __init__(self, names, lesson, student):
        self.names, self.demos = names, _demonstrations(lesson)
        self.roots = {n for n, v in names.items() if v is student and n[0] != "_"}
        self.seen = {*self.roots}

    def lacking(self):
        """Names of what the student's object uses and the grader has not."""
        found = [each for name in self.roots for each in self._used(self._last(name))]
        return list(dict.fromkeys(found))

    def _last(self, name):
        """The last statement that binds a name where it is graded, None if none does.

        Returns: (node, source), or COMPUTED where only a demonstration binds it.
        """
        cells = [source for source in reversed(self.names["In"]) if name in source]
        shown = [source for source in cells if self._shows(source)]
        own = [_binding(source, False) for source in cells if source not in shown]
        found = [*own, *(_binding(source, True) for source in shown)]
        statements = [names[name] for names in found if name in names]
        given = (statement for statement in statements if statement != COMPUTED)
        return next(given, COMPUTED if statements else None)

    def _shows(self, source):
        """Whether a cell is a demonstration, as it was given or edited."""
        if self.roots & {*_binding(source, False)}:
            return False
        mine = _statements(source)
        return any(len(demo & mine) >= SHARE * len(demo) for demo in self.demos)

    def _used(self, statement):
        """What a statement uses and the grader has not."""
        node, source = statement or NOTHING
        for each in ast.walk(node):
            if isinstance(each, IMPORTS):
                yield from self._absent_imports(each, each.names)
            elif isinstance(each, ast.Attribute | ast.Name):
                yield from self._absent_module(each)
            elif isinstance(each, ast.Constant):
                yield from self._file(each.value)
        for name in sorted(looked_up(source)):
            yield from self._absent(name)

    def _absent(self, name):
        here = name in self.names and _home(self.names[name]) in ("", "__main__")
        if name in self.seen or not here:
            return
        self.seen.add(name)
        statement = self._last(name)
        if statement is COMPUTED:
            yield name
        elif statement and isinstance(statement[0], IMPORTS):
            mine = [a for a in statement[0].names if name in (a.asname, a.name)]
            yield from self._absent_imports(statement[0], mine)
        elif statement:
            inner = list(self._used(statement))
            made = not isinstance(statement[0], MAKERS)  # a value, when its cell runs
            computed = any(self._last(each) is COMPUTED for each in inner)
            yield from [name] if made and computed else inner

    def _absent_module(self, node):
        """The module that an attribute or name leads to, if the grader has it not."""
        value = self.names.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            package = self.names.get(node.value.id)
            inside = isinstance(package, type(sys)) and package.__name__ in OURS
            value = getattr(package, node.attr, None) if inside else None
        name = _home(value)
        if _ours(name) and name not in THERE:
            yield name

    def _absent_imports(self, node, aliases):
        """The modules that an import wants, if the grader has them not."""
        package = getattr(node, "module", None)
        for alias in aliases:
            names = [f"{package}.{alias.name}", package] if package else [alias.name]
            found = next((n for n in names if n in sys.modules), names[-1])
            if _ours(found) and found not in THERE:
                yield found
            yield from self._file(f"{names[-1].split('.')[0]}.py")

    def _file(self, name):
        """A file that is here, and that no cell has made."""
        if not isinstance(name, str) or not 2 < len(name) < 200 or "\0" in name:
            return
        path = Path(name)
        if path.is_file() and not self._makes(path.name) and not _of_course(path):
            yield f"the file {name}"

    def _makes(self, name):
        cells = [source for source in self.names["In"] if name in source]
        return any(map(WRITES.search, cells))


@cache
def _binding(source, shown):
    """The last statement that binds each name of a cell, as (node, source).

    Args:
        shown: it is a demonstration: what it computes is COMPUTED.
    """
    names = dict.fromkeys(bound(source), COMPUTED) if shown else {}
    for part in definitions(source) if shown else [source]:
        body, lines = parsed(part)
        for node in body:
            names.update(dict.fromkeys(binds([node]), (node, cut(node, lines))))
    return names


def _home(value):
    """The module that a value is, or comes from."""
    if isinstance(value, type(sys)):
        return value.__name__
    named = callable(value) and hasattr(value, "__qualname__")
    return str(getattr(value, "__module__", "")) if named else ""


def _ours(name):
    return name.split(".")[0] in OURS


def _of_course(path):
    return path.resolve().is_relative_to(COURSE / "data")


# the lesson's cells


@cache
def _demonstrations(lesson):
    """Of each cell that only shows something: its statements."""
    path = COURSE / "notebooks" / f"{lesson}.ipynb"
    if not path.exists():
        return []
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [c for c in cells if c["cell_type"] == "code" and not _runs(c)]
    return [found for c in shown if (found := _statements("".join(c["source"])))]


def _runs(cell):
    """Whether a cell of the lesson does more than to show something."""
    tags = cell["metadata"].get("tags", ())
    return not {"setup", "exercise", "check"}.isdisjoint(tags)


@cache
def _statements(source):
    return {ast.dump(node) for node in parsed(source)[0]}
