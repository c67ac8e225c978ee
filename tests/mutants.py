"""Mutants of a piece of Python, each one slip of the pen: an operator, a number, a
comparison, a truth value, a statement left out."""

import ast
import copy

OPERATORS = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.MatMult: [ast.Mult],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
NAMES = {"sum": "mean", "mean": "sum"}  # not operators, but as easily mixed up


def mutants(tree, lines=None, statements=True):
    """Yield (what has changed, mutated tree) for each mutant.

    Args:
        tree: an `ast` tree with line numbers.
        lines: only places on these lines are changed; all by default.
        statements: leave statements out, too.
    """
    for at, node in enumerate(ast.walk(tree)):
        if lines is not None and getattr(node, "lineno", None) not in lines:
            continue
        for change in _changes(node):
            if change is _left_out and not statements:
                continue
            twin = copy.deepcopy(tree)
            place = next(n for i, n in enumerate(ast.walk(twin)) if i == at)
            yield _changed(twin, place, change), twin


def _changed(tree, place, change):
    """Make the change in the tree; say what it makes of the statement around it."""
    homes, statement = [], place
    while not isinstance(statement, ast.stmt):
        homes.append(_home(tree, statement))
        statement = homes[-1][0]
    before = _first_line(statement)
    replacement = change(place)
    if replacement is None:
        return f"{before} -> {_first_line(statement)}"
    parent, field, index = homes[0] if homes else _home(tree, place)
    if index is None:
        setattr(parent, field, replacement)
    else:
        getattr(parent, field)[index] = replacement
    return f"{before} -> {_first_line(statement if homes else replacement)}"


def _home(tree, place):
    """The parent of a node, the field it is in, and its index where that is a list."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            for index, item in enumerate(value if isinstance(value, list) else ()):
                if item is place:
                    return parent, field, index
            if value is place:
                return parent, field, None
    raise LookupError(ast.dump(place))


def _first_line(node):
    return ast.unparse(node).partition("\n")[0]


def _changes(node):
    """Functions that change a node in place, or return what replaces it."""
    match node:
        case ast.BinOp() | ast.BoolOp():
            yield from _other_operators(node)
        case ast.AugAssign():
            yield from _other_operators(node)
            yield _left_out
        case ast.Compare():
            for k, op in enumerate(node.ops):
                for new in OPERATORS[type(op)]:
                    ops = [*node.ops[:k], new(), *node.ops[k + 1 :]]
                    yield _set("ops", ops)
        case ast.Expr(value=ast.Constant()):
            return  # a docstring
        case ast.Expr() | ast.Assign() | ast.Raise():
            yield _left_out
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield lambda node: node.operand
        case ast.Constant(value=bool()):
            yield _set("value", not node.value)
        case ast.Constant(value=int() | float()):
            yield _set("value", node.value + 1)
        case ast.Attribute(attr=name) if name in NAMES:
            yield _set("attr", NAMES[name])


def _other_operators(node):
    return (_set("op", new()) for new in OPERATORS.get(type(node.op), ()))


def _left_out(statement):
    return ast.copy_location(ast.Pass(), statement)


def _set(field, value):
    return lambda node: setattr(node, field, value)
