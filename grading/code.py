"""Code that is only partly run: what it defines, without what it computes.

Nothing is executed here. Sources are cut, not written anew, so that what is run is what
stands in the notebook.
"""

import ast
import builtins
import re
import symtable
from functools import cache

MAGIC = re.compile(r"^([ \t]*)[%!].*$", re.MULTILINE)
WORDS = re.compile(r"\w+")
PROSE = re.compile(r"[^\W\d_]{2,}\s+[^\W\d_]+\s+[^\W\d_]{2,}")  # three words in a row
IMPORTS = ast.Import | ast.ImportFrom
DEFINES = IMPORTS | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
# values that cost nothing worth mentioning, as far as their parts do
CHEAP = (
    *(ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.Lambda, ast.Starred),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Name, ast.Call),
    *(ast.Attribute, ast.Subscript, ast.Slice, ast.JoinedStr, ast.FormattedValue),
    *(ast.keyword, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context),
    *(ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.comprehension),
    *(ast.arguments, ast.arg),
)
# calls that only make a value
CALLS = frozenset(
    "abs bool bytes complex dict divmod enumerate float frozenset getattr hasattr int "
    "isinstance len list max min pow range reversed round set slice sorted str sum "
    "tuple type zip Counter Decimal Fraction NewType Path TypeVar defaultdict deque "
    "namedtuple partial SimpleNamespace".split()
)
MODULES = frozenset(
    "np numpy math cmath functools itertools collections typing types operator "
    "fractions decimal pathlib torch nn F dataclasses".split()
)


def definitions(source, after=0):
    """Of some code what it imports and defines, without anything that takes time.

    Args:
        after: a line; only what begins below it counts.

    Returns: a source for each, so that one that fails does not stop the next.
    """
    body, lines = _parsed(source)
    nodes = [node for node in body if node.lineno > after]
    return [part for node in nodes for part, _ in _parts(node, lines)]


def imports(source):
    """The imports at the top level of a source, as they stand there."""
    body, lines = _parsed(source)
    return [_cut(node, lines) for node in body if isinstance(node, IMPORTS)]


def bound(source):
    """Names that a source binds at its top level, by whatever statement."""
    names, nodes = set(), list(_parsed(source)[0])
    while nodes:
        node = nodes.pop()
        if isinstance(node, FUNCTIONS):
            names.add(node.name)
        elif isinstance(node, IMPORTS):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda):
            nodes += ast.iter_child_nodes(node)
    return names


def times_defined(source, name):
    """How often a source defines a function or class of that name, at its top level."""
    body = _parsed(source)[0]
    return sum(isinstance(node, FUNCTIONS) and node.name == name for node in body)


def has_prose(source):
    """Whether somebody wrote sentences into a code cell."""
    body, _ = _parsed(source)
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
    for body, lines in map(_parsed, sources):
        parts = (_parts(n, lines) for n in body if not isinstance(n, IMPORTS))
        for part, value in (part for each in parts for part in each):
            names = [n for n in ast.walk(ast.parse(part)) if isinstance(n, ast.Name)]
            stored = {n.id for n in names if isinstance(n.ctx, ast.Store)}
            used = {n.id for n in names} - stored
            if not value or used <= known:  # else it is made of what is computed
                found.append((bound(part), used, value, part))
                known |= found[-1][0]
    return found


def free_names(source):
    """Names that code looks up outside of its functions; all words if it cannot say."""
    text = _without_magics(source)
    if re.search(r"\b(eval|exec|globals|locals)\b", text):
        return set(WORDS.findall(text))
    try:
        tables = [symtable.symtable(text, "<cell>", "exec")]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(WORDS.findall(text))
    names = set()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if top or s.is_global()}
    return names


# cutting


def _parsed(source):
    """The statements of a source, and its lines; none where it is no Python."""
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    for each in (text, _without_magics(text)):
        try:
            return ast.parse(each).body, each.split("\n")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return [], []


def _without_magics(source):
    return MAGIC.sub(r"\1pass", source)


def _parts(node, lines):
    """What a statement defines: (source, whether it is a value) pairs."""
    if isinstance(node, DEFINES):
        return [(_cut(node, lines), False)]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return [(part, True) for part in _values(node, lines)]
    if isinstance(node, ast.If | ast.Try):
        thin = _thinned(node, lines)
        return [(thin, False)] if thin else []
    return []


def _values(node, lines):
    """The assignments in one that cost nothing, each alone."""
    pairs = _pairs(node)
    if not pairs:
        return [_cut(node, lines)] if _assigns(node) else []
    return [
        f"{name.id} = ({_cut(value, lines)})"
        for name, value in pairs
        if isinstance(name, ast.Name) and _cheap(value)
    ]


def _pairs(node):
    """Names and values of an assignment of several to several, or nothing."""
    targets = node.targets if isinstance(node, ast.Assign) else [None]
    sides = targets[0], node.value
    if len(targets) > 1 or not all(isinstance(s, ast.Tuple | ast.List) for s in sides):
        return []
    names, values = (side.elts for side in sides)
    starred = any(isinstance(each, ast.Starred) for each in [*names, *values])
    equal = len(names) == len(values) and not starred
    return list(zip(names, values, strict=True)) if equal else []


def _assigns(node):
    """Whether a statement gives names to values that cost nothing."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return all(map(_names_only, targets)) and _cheap(node.value)


def _names_only(target):
    inner = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
    return all(isinstance(each, ast.Name) for each in inner)


def _cheap(value):
    nodes = [value]
    while nodes:
        node = nodes.pop()
        if (
            not isinstance(node, CHEAP)
            or isinstance(node, ast.Call)
            and not _makes(node)
        ):
            return False
        inner = node.args if isinstance(node, ast.Lambda) else node
        nodes += ast.iter_child_nodes(inner)
    return True


def _makes(call):
    """Whether a call only makes a value."""
    root = call.func
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Constant):
        return True
    known = CALLS if root is call.func else MODULES | {"dict", "str", "int", "float"}
    return isinstance(root, ast.Name) and root.id in known


def _cut(node, lines):
    """The text of a statement or value, its decorators with it."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    part = lines[first - 1 : node.end_lineno]
    part[-1] = part[-1].encode()[: node.end_col_offset].decode()
    if first == node.lineno:
        part[0] = part[0].encode()[node.col_offset :].decode()
    return "\n".join(part)


def _thinned(node, lines):
    """An `if` or `try` with `pass` in place of what is not defined by it, or ""."""
    made = list(lines[: node.end_lineno])
    work = [node]
    while work:
        each = work.pop()
        if isinstance(each, ast.If) and not _cheap(each.test):
            return ""
        for inner in _statements(each):
            if isinstance(inner, ast.If | ast.Try):
                work.append(inner)
            elif not isinstance(inner, DEFINES | ast.Pass) and not _assigns(inner):
                line = made[inner.lineno - 1]
                if line[: inner.col_offset].strip():
                    return ""  # it shares its line
                made[inner.lineno - 1] = line[: inner.col_offset] + "pass"
                blank = range(inner.lineno, inner.end_lineno)
                made[inner.lineno : inner.end_lineno] = ["" for _ in blank]
    text = "\n".join(made[node.lineno - 1 :])
    return text if _parsed(text)[0] else ""


def _statements(node):
    """What stands in the blocks of an `if` or `try`."""
    blocks = [node.body, node.orelse]
    if isinstance(node, ast.Try):
        blocks += [node.finalbody, *(handler.body for handler in node.handlers)]
    return [inner for block in blocks for inner in block]
