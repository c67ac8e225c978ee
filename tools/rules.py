"""The rules of a lesson's source: each finds one kind of mistake and its line."""

import ast
import html
import re

from .lesson import KINDS, PARTS, cut

TAGS = {*KINDS, "cover", "hidden", "nbval-ignore-output"}
BANNED = {
    r"\bclear_output\b": "clear_output: nbval cannot compare what it removes",
    r"\btqdm\.(auto|notebook|autonotebook)\b": "write `from tqdm import tqdm`",
    r"#\s*(NBVAL|PYTEST)_": "use the tag nbval-ignore-output, not a comment",
}
CODE = ("setup", "exercise", "check", "code")
TEXT = ("text", "task", "question", "rubric")
LATE = {"torch", "torchvision"}  # imported in the cells that need them
IMPORTS = ast.Import, ast.ImportFrom
# what a Markdown paragraph cannot go on with, and what other blocks begin with
MARK = re.compile(r"\s*(?:[-+*>]|1[.)]|#+)\s")
BLOCK = re.compile(r"\s*(?:[-+*>]\s|\d+[.)]\s|#|\||<|```)")
RULES = []


def problems(lesson):
    """Everything an author has to mend, as `file:line: what`, in order of lines."""
    found = {*front_matter(lesson), *title(lesson), *one_setup(lesson)}
    for cell in lesson.cells:
        for kinds, rule in RULES:
            if cell.kind in kinds:
                found |= {(cell.line + at, what) for at, what in rule(cell, lesson)}
    return [f"{lesson.path}:{line}: {what}" for line, what in sorted(found)]


def rule(*kinds):
    """Apply a rule to cells of these kinds; it yields (line in the cell, message)."""

    def register(function):
        RULES.append((kinds, function))
        return function

    return register


def front_matter(lesson):
    if not isinstance(lesson.course.get("builds"), str):
        yield 1, "front matter needs `course: builds:`"


def title(lesson):
    wanted = f"# {lesson.name[:2]} · "
    if not lesson.cells[0].source.startswith(wanted):
        yield lesson.cells[0].line, f"the lesson must start with `{wanted}...`"


def one_setup(lesson):
    setups = lesson.of("setup")
    if len(setups) != 1:
        line = setups[1].line if setups else 1
        yield line, f"a lesson has one set-up cell, not {len(setups)}"


@rule(*CODE, *TEXT)
def known_tags(cell, lesson):
    for tag in sorted({*cell.meta.get("tags", [])} - TAGS):
        yield 0, f"unknown tag {tag!r}"
    if cell.kind in KINDS and (cell.type == "code") != (cell.kind in CODE):
        yield 0, f"a {cell.type} cell cannot be a {cell.kind}"


@rule("exercise", "question")
def named(cell, lesson):
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", cell.name):
        yield 0, f"{cell.kind} needs a name of lower-case-words, not {cell.name!r}"
    same = [c for c in lesson.of("exercise", "question") if c.name == cell.name]
    if cell is not same[0]:
        yield 0, f"the name {cell.name!r} is taken by line {same[0].line}"


@rule("exercise", "question")
def points_and_minutes(cell, lesson):
    for key in ("points", "minutes"):
        if type(cell.meta.get(key)) is not int or cell.meta[key] < 1:
            yield 0, f"{cell.kind} {cell.name!r} needs {key}, a whole number above 0"


@rule("exercise", "question")
def complete(cell, lesson):
    for part, where in PARTS[cell.kind].items():
        if part not in cell.parts:
            yield 0, f"{cell.kind} {cell.name!r} needs a {part} cell right {where} it"


@rule("check", "rubric")
def owned(cell, lesson):
    if cell.owner is None:
        owner = "exercise" if cell.kind == "check" else "question"
        yield 0, f"{cell.kind} without its {owner} cell right above it"


@rule("task", "question")
def heading(cell, lesson):
    word = {"task": "Exercise", "question": "Question"}[cell.kind]
    number = lesson.of(cell.kind).index(cell) + 1
    wanted = f"### {word} {int(lesson.name[:2])}.{number} · "
    if not cell.source.startswith(wanted):
        yield 0, f"this cell must start with `{wanted}...`"


@rule(*CODE, *TEXT)
def solution_blocks(cell, lesson):
    _, taken, wrong = cut(cell.source)
    yield from wrong
    if cell.kind != "exercise" and taken:
        yield min(taken) - 1, "solution outside an exercise"
    if cell.kind == "exercise" and not taken:
        yield 0, f"exercise {cell.name!r} has no solution block"


@rule("exercise")
def definition(cell, lesson):
    body = [node for node in _parse(cell).body if not isinstance(node, IMPORTS)]
    found = [getattr(node, "name", ast.unparse(node)) for node in body]
    if found and found != [cell.defines]:
        yield 0, f"exercise must define only {cell.defines}, not {', '.join(found)}"


@rule("check")
def check_call(cell, lesson):
    if cell.owner:
        wanted = f"check.{cell.owner.function}({cell.owner.defines})"
        if [ast.unparse(node) for node in _parse(cell).body[-1:]] != [wanted]:
            yield len(cell.lines) - 1, f"the last line must be `{wanted}`"


@rule("code")
def yours_or_the_reference(cell, lesson):
    above = {c.function: c.defines for c in lesson.of("exercise") if c.line < cell.line}
    for node in ast.walk(_parse(cell)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "check.yours":
            given = [ast.unparse(argument).strip("'") for argument in node.args]
            known = any([name, what] == given[:2] for name, what in above.items())
            if len(given) != 3 or not known:
                wanted = "check.yours(name of an exercise above, what it defines, ...)"
                yield node.lineno - 1, f"write `{wanted}`"


@rule("task")
def three_hints(cell, lesson):
    hints = list(_hints(cell))
    if len(hints) != 3:
        yield 0, f"exercise needs three hints in <details>, not {len(hints)}"


@rule("task")
def hints_without_solution(cell, lesson):
    for at, hint in _hints(cell):
        for line in cut(cell.owner.source)[1].values():
            code = _squeeze(line.split("  #")[0])
            if len(code) >= 12 and code in hint:
                yield at, f"hint gives the solution away: `{line.strip()}`"


@rule(*CODE)
def plain_python(cell, lesson):
    if not cell.source.strip():
        yield 0, "empty code cell"
    try:
        ast.parse(cell.source)
    except SyntaxError as error:
        yield error.lineno - 1, f"not plain Python: {error.msg}"


@rule("exercise", "check", "code")
def no_imports(cell, lesson):
    solution = cut(cell.source)[1] if cell.kind == "exercise" else ()
    for node in ast.walk(_parse(cell)):
        if isinstance(node, IMPORTS) and not _packages(node) <= LATE:
            if node.lineno - 1 not in solution:
                yield node.lineno - 1, "import outside the set-up cell"


def _packages(node):
    """The packages that an import statement names."""
    modules = [node.module] if isinstance(node, ast.ImportFrom) else node.names
    return {str(getattr(m, "name", m)).split(".")[0] for m in modules}


@rule(*CODE)
def nothing_banned(cell, lesson):
    for at, line in enumerate(cell.lines):
        yield from ((at, why) for bad, why in BANNED.items() if re.search(bad, line))


@rule(*CODE)
def no_last_semicolon(cell, lesson):
    if re.search(r";\s*(#.*)?$", cell.lines[-1]):
        yield len(cell.lines) - 1, "semicolon ends the cell: write `_ = ...` instead"


@rule(*CODE)
def short_lines(cell, lesson):
    for at, line in enumerate(cell.lines):
        if len(line) > 88:
            yield at, f"code line of {len(line)} characters, at most 88"


@rule(*CODE)
def short_cells(cell, lesson):
    limit = 40 if cell.kind == "exercise" else 25
    if len(cell.lines) > limit:
        yield 0, f"code cell of {len(cell.lines)} lines, at most {limit}"


@rule(*TEXT)
def known_placeholders(cell, lesson):
    for at, line in enumerate(cell.lines):
        for name in re.findall(r"{{\s*\w+\s*}}", line):
            if name not in ("{{minutes}}", "{{points}}"):
                yield at, f"unknown placeholder {name}"


@rule(*TEXT)
def blank_line_above_cells(cell, lesson):
    for at, line in enumerate(cell.lines):
        if re.match(r"```+{code-cell}|\+\+\+", line):
            yield at, "no cell starts here: put a blank line above"


@rule(*TEXT)
def no_list_by_chance(cell, lesson):
    above, prose = "", False  # the line above; whether its paragraph began as prose
    for at, line in enumerate(cell.lines):
        if not above.strip() or above.startswith("#"):
            prose = not BLOCK.match(line)
        elif prose and MARK.match(line):
            yield at, f"`{line.split()[0]}` begins a list: break the line elsewhere"
        above = line


def _parse(cell):
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return ast.parse("")  # plain_python reports it


def _hints(cell):
    for hint in re.finditer(r"<details>.*?</details>", cell.source, re.DOTALL):
        at = cell.source.count("\n", 0, hint.start())
        yield at, _squeeze(html.unescape(hint[0]))


def _squeeze(text):
    return re.sub(r"\s", "", text)
