"""What cells of code define, without what they compute.

A submission's answers run without the lesson's demonstrations, and of an edited cell
runs only what costs nothing. The grader cuts sources by these rules; the check in the
notebook says by the same ones what will not be there. Nothing is executed here. Sources
are cut, not written anew, so that what is run is what stands in the notebook.
"""

import ast
import re
import symtable

MAGIC = re.compile(r"^([ \t]*)(?:[%!].*|[\w.]+\?\??[ \t]*)$", re.MULTILINE)
WORDS = re.compile(r"\w+")
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
    body, lines = parsed(source)
    nodes = [node for node in body if node.lineno > after]
    return [part for node in nodes for part, _ in parts(node, lines)]


def bound(source):
    """Names that a source binds at its top level, by whatever statement."""
    return binds(parsed(source)[0])


def binds(statements):
    """Names that statements bind where they stand."""
    names, nodes = set(), list(statements)
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


def free_names(source):
    """Names that code looks up outside of its functions; all words if it cannot say."""
    text = without_magics(source)
    if re.search(r"\b(eval|exec|globals|locals)\b", text):
        return set(WORDS.findall(text))
    try:
        return looked_up(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(WORDS.findall(text))


def looked_up(text):
    """Names that plain Python looks up outside of its functions.

    Raises:
        SyntaxError, ValueError, RecursionError or MemoryError: it cannot be read.
    """
    names, tables = set(), [symtable.symtable(text, "<cell>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if top or s.is_global()}
    return names


# cutting


def parsed(source):
    """The statements of a source, and its lines; none where it is no Python."""
    text = source.replace("\r\n", "\n").replace("\r", "\n")
    for each in (text, without_magics(text)):
        try:
            return ast.parse(each).body, each.split("\n")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return [], []


def without_magics(source):
    return MAGIC.sub(r"\1pass", source)


def parts(node, lines):
    """What a statement defines: (source, whether it is a value) pairs."""
    if isinstance(node, DEFINES):
        return [(cut(node, lines), False)]
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
        return [cut(node, lines)] if _assigns(node) else []
    return [
        f"{name.id} = ({cut(value, lines)})"
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


def cut(node, lines):
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
    return text if parsed(text)[0] else ""


def _statements(node):
    """What stands in the blocks of an `if` or `try`."""
    blocks = [node.body, node.orelse]
    if isinstance(node, ast.Try):
        blocks += [node.finalbody, *(handler.body for handler in node.handlers)]
    return [inner for block in blocks for inner in block]
