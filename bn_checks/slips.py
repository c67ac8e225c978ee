"""Slips of the pen and of thought, node by node of a right form's tree.

`slips(node, form)` yields what people write instead: (kind, clause, cost, change). A
clause ends the sentence "Your y is what comes out when ..."; it is "" where the node
has no words, and then the slip is not used. A change takes a node, returns another.
"""

import ast
import copy
from functools import partial
from itertools import combinations

from .words import FUNCTIONS, is_eps, listed, spoken, stands

COUNTED = "the number of samples", "the count", "the total count", "n", "N"
REDUCTIONS = ("mean", "sum", "var", "std", "max")
CASTS = ("detach", "clone", "copy", "item", "double")
AXES = {"0": "axis 0", "1": "axis 1", "-1": "the last axis", "None": "the whole array"}
MORE_AXES = AXES | {
    "(0, 1)": "axes 0 and 1",
    "(1, 2)": "axes 1 and 2",
    "(2, 3)": "axes 2 and 3",
    "(0, 2)": "axes 0 and 2",
    "tuple(range(1, x.ndim))": "all axes but the first",
}
AVERAGED = ("axes", "axis")  # names that hold axes, not quantities

# For each operator: kind, clause, cost and what is written instead. a is the left side
# and b the right one; {a} and {b} stand for their words.
OPERATIONS = {
    ast.Add: (
        ("-", "{b} is subtracted, not added", 1.5, "a - b"),
        ("drop", "{b} is left out", 1.2, "a"),
        ("drop", "{a} is left out", 1.2, "b"),
        ("*", "{b} is multiplied by, not added", 3.5, "a * b"),
        ("twice", "{b} is added twice", 2.4, "a + b + b"),
        ("twice", "{a} is added twice", 2.4, "a + a + b"),
    ),
    ast.Sub: (
        ("+", "{b} is added, not subtracted", 1.5, "a + b"),
        ("drop", "{b} is not subtracted", 1.1, "a"),
        ("turn", "the difference of {a} and {b} has the other sign", 1.6, "b - a"),
        ("drop", "{a} is left out", 2, "-b"),
        ("only", "{b} alone is left", 2.2, "b"),
        ("twice", "{b} is subtracted twice", 2.4, "a - b - b"),
    ),
    ast.Mult: (
        ("/", "a term is divided by {b}, not multiplied", 2, "a / b"),
        ("/", "a term is divided by {a}, not multiplied", 2.1, "b / a"),
        ("drop", "{b} is left out as a factor", 1.2, "a"),
        ("drop", "{a} is left out as a factor", 1.2, "b"),
        ("twice", "{b} comes twice as a factor", 2, "a * b * b"),
        ("twice", "{a} comes twice as a factor", 2, "a * a * b"),
        ("+", "{b} is added, not multiplied by", 3, "a + b"),
    ),
    ast.Div: (
        ("*", "a term is multiplied by {b}, not divided", 1.6, "a * b"),
        ("drop", "nothing is divided by {b}", 1.2, "a"),
        ("turn", "the quotient by {b} is upside down", 2.2, "b / a"),
        ("twice", "{b} divides twice", 2, "a / b / b"),
        ("drop", "{a} is left out", 2, "1 / b"),
        ("-", "{b} is subtracted, and nothing is divided by it", 3, "a - b"),
    ),
    ast.Pow: (
        ("drop", "the power of {a} is left out", 1.5, "a"),
        ("*", "{a} is multiplied by its exponent, not raised to it", 2.5, "a * b"),
    ),
    ast.MatMult: (
        ("drop", "the product with {b} is left out", 1.5, "a"),
        ("drop", "the product with {a} is left out", 1.5, "b"),
        ("exchange", "{a} and {b} are exchanged in a matrix product", 2, "b @ a"),
        ("T", "the product of {a} and {b} goes back to front", 2, "(a @ b).T"),
        ("*", "{a} and {b} are multiplied entry by entry", 2, "a * b"),
    ),
    ast.BitOr: (
        ("&", "both ends are asked for at once", 1.5, "a & b"),
        ("drop", "only the lower end counts", 0.8, "a"),
        ("drop", "only the upper end counts", 0.8, "b"),
    ),
}
# the same below a line, where a factor divides, and of a factor that is a power below 1
TURNED = {
    "/": "a term is multiplied by {b}, not divided",
    "*": "a term is divided by {b}, not multiplied",
}
# 1 - b: what stands there instead, in words and in code
COMPLEMENTS = (
    ("+", "1 + {b}", 1.5, "1 + b"),
    ("drop", "1", 1.1, "1"),
    ("turn", "{b} − 1", 1.6, "b - 1"),
    ("minus", "−{b}", 2, "-b"),
    ("only", "{b}", 1, "b"),
    ("twice", "1 − 2 · {b}", 2.4, "1 - b - b"),
    ("number", "2 − {b}", 2.3, "2 - b"),
    ("number", "0.5 − {b}", 2.3, "0.5 - b"),
)
# np.sqrt(node), and np.sqrt(a + b) where b is eps
ROOTS = (
    ("root", "the root is left out", 0.6, "node"),
    ("square", "a square stands where the root belongs", 0.8, "node ** 2"),
    ("root", "the root is taken twice", 0.8, "np.sqrt(np.sqrt(node))"),
)
EPS = (
    ("eps", "eps is added to the root, not inside it", 0.5, "np.sqrt(a) + b"),
    ("eps", "eps is left out", 0.5, "np.sqrt(a)"),
    (
        "eps",
        "eps is a floor under the variance, not added to it",
        0.7,
        "np.sqrt(np.maximum(a, b))",
    ),
    ("eps", "eps is squared inside the root", 0.8, "np.sqrt(a + b ** 2)"),
    ("eps", "eps is 1e-5 whatever the caller asks for", 0.8, "np.sqrt(a + 1e-5)"),
    (
        "eps",
        "the root is taken twice, once before eps is added",
        0.9,
        "np.sqrt(np.sqrt(a) + b)",
    ),
    ("eps", "the root is left out, and so is eps", 1.1, "a"),
)
SISTERS = {
    "mean": {
        "sum": "a sum stands where the mean of {} belongs",
        "max": "{} is not averaged: its maximum is taken",
    },
    "sum": {
        "mean": "{} is averaged, not summed",
        "max": "{} is not summed: its maximum is taken",
    },
    "var": {"std": "the standard deviation stands where the variance belongs"},
    "std": {"var": "the variance stands where the standard deviation belongs"},
    "max": {
        "min": "the minimum stands where the maximum belongs",
        "mean": "a mean stands where the maximum belongs",
        "sum": "a sum stands where the maximum belongs",
    },
}
# a letter, wherever it is used: kind, clause, cost and what is written instead
LETTERS = (
    ("one", "{} is left out (as if it were 1)", 1.3, "1.0"),
    ("zero", "{} is left out (as if it were 0)", 1.3, "0.0"),
    ("sign", "{} enters with the other sign", 2, "-a"),
    ("size", "{} enters without its sign", 1.5, "abs(a)"),
    ("plus", "1 is added to {}", 2, "(a + 1)"),
    ("squared", "{} is squared", 2.2, "a ** 2"),
)
# a name, and what is written for it, where the two words alone would say little
NAMES = {
    (stored, "var"): "the variance that normalizes is also the one that is stored"
    for stored in ("spread", "unbiased")
}
SPECIAL = {
    ("momentum", "beta1", "beta2", "decay", "margin"): (
        ("rest", "{0} and 1 − {0} change places", 0.5, "(1 - a)"),
    ),
    ("momentum",): (("zero", "the running statistics stay as they are", 1.2, "0.0"),),
    ("N", "n", "n_a", "n_b", "t"): (
        ("count", "{} is one too small", 0.9, "(a - 1)"),
        ("count", "{} is one too large", 1.4, "(a + 1)"),
    ),
    ("var", "running_var", "v", "new_v", "ms"): (
        ("root", "the root of {0} stands where {0} belongs", 0.9, "np.sqrt(a)"),
    ),
    ("running_mean",): (
        ("batch", "the mean of this batch stands where {} belongs", 0.6, "x.mean(0)"),
    ),
    ("running_var",): (
        (
            "batch",
            "the variance of this batch stands where {} belongs",
            0.6,
            "x.var(0)",
        ),
        (
            "bessel",
            "{} is corrected by N / (N − 1) once more",
            1.4,
            "a * len(x) / max(len(x) - 1, 1)",
        ),
    ),
    ("mask",): (("inverse", "{} is read the other way round", 1.2, "~a"),),
    ("gradient",): (
        ("sign", "only the signs of the gradient count", 1.8, "a.sign()"),
        (
            "mean",
            "the gradient is divided by the number of samples",
            1.6,
            "a / len(x)",
        ),
    ),
    ("g",): (("unit", "{} is scaled to length 1", 1.6, "(a / np.linalg.norm(a))"),),
    ("n",): (("same", "every part counts the same", 0.6, "0 * a + 1"),),
    ("share_a", "share_b"): (("half", "both groups count the same", 0.8, "0.5"),),
}
# for each comparison: what passes instead, in words and in code
BELOW, ABOVE = (
    "passes its test below {b}, not above",
    "passes its test above {b}, not below",
)
WITH = "passes its test where it equals {b}, too"
WITHOUT = "fails its test where it equals {b}"
RELUS = "y", "the layer's output"  # never below 0
COMPARED = {
    ast.Lt: ((ABOVE, ast.Gt), (WITH, ast.LtE)),
    ast.Gt: ((BELOW, ast.Lt), (WITH, ast.GtE)),
    ast.LtE: ((ABOVE, ast.GtE), (WITHOUT, ast.Lt)),
    ast.GtE: ((BELOW, ast.LtE), (WITHOUT, ast.Gt)),
    ast.Eq: (("passes its test where it differs from {b}", ast.NotEq),),
    ast.NotEq: (("passes its test where it equals {b}", ast.Eq),),
}
OPPOSITE = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt}
# calls that are left out, by what has not happened then
LEFT_OUT = {
    "eval": "evaluation mode is not switched on",
    "train": "training mode is not switched on",
    "zero_grad": "old gradients are not cleared",
    "backward": "no gradients are computed",
    "step": "no parameter is updated",
    "requires_grad_": "gradients are not switched off",
    "remove": "hooks are not removed",
    "reset_running_stats": "the old running statistics are not forgotten",
}
CALLED = "self", "isinstance", "len", "min", "max", "zip", "range", "list", "enumerate"
MODES = {"train": "evaluation", "eval": "training"}  # what is switched on instead
ROUNDS = (
    ("the last round of the loop over {} is left out", "list(a)[:-1]"),
    ("the first round of the loop over {} is left out", "list(a)[1:]"),
    ("only the first round of the loop over {} counts", "list(a)[:1]"),
    ("only the last round of the loop over {} counts", "list(a)[-1:]"),
    ("the loop over {} does nothing", "[]"),
)
SIGNS = {ast.Add: "+", ast.Sub: "-"}
LENGTHS = "two lengths are subtracted, and not two arrays"
SIZES = (
    ("absolute values are added up where a length belongs", "a.abs().sum()"),
    ("the largest absolute value stands where a length belongs", "a.abs().max()"),
    ("the square of a length stands where the length belongs", "(a ** 2).sum()"),
)


# --- changes -------------------------------------------------------------------------


def expression(text, **parts):
    """The expression of a text, with names replaced by trees."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node):
            return parts.get(node.id, node)

    return Fill().visit(ast.parse(text, mode="eval").body)


def put(text, **fields):
    """A change: the text, in which letters are fields of the node, node is itself."""

    def change(node):
        parts = {letter: _field(node, path) for letter, path in fields.items()}
        return expression(text, **{"node": node, **parts})

    return change


def _field(node, path):
    for step in path.split("."):
        node = node[int(step)] if step.isdigit() else getattr(node, step)
    return node


def assign(**fields):
    """A change: the node with other fields."""

    def change(node):
        for name, value in fields.items():
            setattr(node, name, value)
        return node

    return change


def left_out(node):
    return ast.Pass()


def _value(text):
    """A change of an assignment: its value becomes the text; a is what it was."""

    def change(node):
        node.value = expression(text, a=node.value)
        return node

    return change


# --- slips ---------------------------------------------------------------------------


def slips(node, form):
    """Yield (kind, clause, cost, change) for one node."""

    def say(part):
        return spoken(part, form.spoken)

    match node:
        case ast.BinOp():
            yield from _operations(node, say, form)
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", "a minus sign is left out", 2, put("a", a="operand")
        case ast.Constant(value=bool() as value):
            match form.parents.get(id(node)):
                case ast.Call(func=ast.Attribute(attr=name)):
                    clause = f"{name}() is given {not value}"
                    yield "flag", clause, 3, put(f"{not value}")
        case ast.Constant(value=int() | float() as value):
            yield from _numbers(node, value, form)
        case ast.Call():
            yield from _calls(node, say, form)
        case ast.Compare():
            yield from _comparisons(node, say)
        case ast.Attribute(attr="T", value=value) if say(value):
            yield "T", f"{say(value)} is not transposed", 1.5, put("a", a="value")
        case ast.Name(ctx=ast.Load()):
            yield from _names(node, form, say)
        case _:
            yield from _statements(node, form, say)


def _statements(node, form, say):
    match node:
        case ast.If() | ast.IfExp():
            yield from _branches(node, say)
        case ast.Assign() | ast.AugAssign():
            yield from _assignments(node, form, say)
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name))):
            yield from _called(node.value, name)
        case ast.Return(value=ast.Tuple(elts=items)):
            for i, j in combinations(range(len(items)), 2):
                words = say(items[i]), say(items[j])
                short = all(word and " " not in word for word in words)
                who = " and ".join(words) if short else "two results"
                clause = f"{who} are returned in each other's place"
                yield "order", clause, 1.5, _swapped(i, j)
        case ast.For() | ast.comprehension():
            yield from _loops(node, say)


def _loops(node, say):
    over = dict.fromkeys(say(n) for n in ast.walk(node.iter) if _named(n))
    over = [name for name in over if name and " " not in name]
    over = listed(over) if over else ""
    for clause, text in ROUNDS:
        yield "loop", over and clause.format(over), 2, _rounds(text)


def _below(node, form):
    """Whether a node is what a quotient divides by."""
    parent = form.parents.get(id(node))
    return (
        isinstance(parent, ast.BinOp)
        and isinstance(parent.op, ast.Div)
        and parent.right is node
    )


def _called(call, name):
    """A call whose result nobody uses."""
    if name in ("append", "extend", "__init__"):
        return
    clause = LEFT_OUT.get(name, f"{name}() is never called")
    if name == "train" and call.args:
        clause = "the mode is not set back"
    yield f"call {name}", clause, 1.2 if name in LEFT_OUT else 1.5, left_out
    if mode := MODES.get(name):
        other = {"train": "eval", "eval": "train"}[name]
        clause = f"{mode} mode is switched on where {MODES[other]} mode belongs"
        yield f"mode {name}", clause, 1.6, _calling(other)


def _calling(name):
    def change(node):
        node.value.func.attr = name
        return node

    return change


def _operations(node, say, form):
    if _is_complement(node, say):
        yield from _complements(node, say, form)
    else:
        yield from _others(node, say, _below(node, form))
    match node.op:
        case ast.Add():
            yield from _spread(node, say)
        case ast.Sub():
            yield from _three_terms(node, say)
        case ast.Mult():
            yield from _reach(node, say)
            if ast.unparse(node.right) == "N / (N - 1)":
                yield from CORRECTIONS
        case ast.Div():
            yield from _reach(node, say)
            yield from _quotients(node, say)


def _others(node, say, below):
    """Another operator, or one side alone."""
    words = {"a": say(node.left), "b": say(node.right)}
    turns = isinstance(node.op, (ast.Mult, ast.Div))
    for kind, clause, cost, text in OPERATIONS.get(type(node.op), ()):
        if turns and (below or _is_reciprocal(node.right)):
            clause = TURNED.get(kind, clause)
        if kind == "twice" and isinstance(node.right, ast.Constant):
            continue  # the number is another one, then
        known = all(word for letter, word in words.items() if f"{{{letter}}}" in clause)
        turned = isinstance(node.op, (ast.Add, ast.Sub)) and kind in "+-"
        if turned and " " in words["b"]:
            clause = "{b} has the other sign"  # what is added here, others subtract
        clause = clause.format(**words) if known else ""
        if isinstance(node.right, ast.Constant) and words["a"] and kind in "+-":
            clause = clause.replace(", not", f" to {words['a']}, not", kind == "+")
        yield (
            kind,
            _left_out_of_a_sum(node, clause, text),
            cost,
            put(text, a="left", b="right"),
        )


def _left_out_of_a_sum(node, clause, text):
    """The clause; of a term that is left out, what that looks like."""
    if not isinstance(node.op, ast.Add) or text not in ("a", "b") or not clause:
        return clause
    if is_eps(node.left if text == "a" else node.right):
        return (
            f"eps alone is left under the root ({clause.split(' is ')[0]} counts as 0)"
        )
    return f"{clause} (as if it were 0)" if clause.startswith("the ") else clause


def _is_reciprocal(node):
    """Whether a factor is a power with a negative exponent."""
    match node:
        case ast.BinOp(op=ast.Pow(), right=ast.UnaryOp(op=ast.USub())):
            return True
    return False


def _is_complement(node, say):
    """Whether a node is 1 − b, and b a letter or so."""
    one = isinstance(node.left, ast.Constant) and node.left.value == 1
    words = say(node.right)
    return one and isinstance(node.op, ast.Sub) and words and " " not in words


def _complements(node, say, form):
    """What stands for 1 - b; in a blend of old and new, as the weight that it is."""
    b, frame = say(node.right), "{} stands where {} belongs"
    parent = form.parents[id(node)]
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Mult):
        weighed = say(parent.right if parent.left is node else parent.left)
        if "running" in weighed:
            weighed = "the old value"
        frame = f"{weighed} gets the weight {{}}, not {{}}" if weighed else frame
    for kind, words, cost, text in COMPLEMENTS:
        words = frame.format(words.format(b=b), f"1 − {b}")
        yield kind, words, cost, put(text, b="right")


CORRECTIONS = (
    ("biased", "the variance that is stored divides by N", 0.4, put("a", a="left")),
    (
        "turn",
        "the correction is the wrong way up",
        0.9,
        put("a / b", a="left", b="right"),
    ),
    ("eps", "1e-5 is added to what is stored", 1.1, put("node + 1e-5")),
    ("zero", "the correction is 0, as N / N − 1 is", 0.8, put("0 * a", a="left")),
)


def _three_terms(node, say):
    """a − b − c: the shape of every backward pass through a norm."""
    if isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Sub):
        first = say(node.left.left) or "the first term"
        clause = f"{first} alone is left, and nothing is subtracted from it"
        yield "first", clause, 0.9, put("a", a="left.left")
        clause = "the first of two means is subtracted twice"
        yield "middle", clause, 2.6, put("node - a", a="left.right")


def _quotients(node, say):
    if isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Sub):
        first = say(node.left.left)
        clause = first and f"{first} is not normalized at all"
        yield "bare", clause, 1.2, put("a", a="left.left")
    match node.right:
        case ast.Call(args=[ast.BinOp(op=ast.Add())]) if "eps" in ast.dump(node.right):
            fields = {"a": "left", "b": "right.args.0.left", "c": "right.args.0.right"}
            clause = "eps is added after the division"
            yield "eps", clause, 0.9, put("a / np.sqrt(b) + c", **fields)


def _spread(node, say):
    """A factor of the second term of a sum that reaches the first, too."""
    term, path = node.right, "right"
    while isinstance(term, ast.BinOp) and isinstance(term.op, ast.Mult):
        for side in ("left", "right"):
            factor = say(getattr(term, side))
            clause = factor and f"{factor} multiplies the other term, too"
            fields = {"a": "left", "b": "right", "c": f"{path}.{side}"}
            yield "spread", clause, 1.5, put("a * c + b", **fields)
        term, path = term.right, f"{path}.right"


def _reach(node, say):
    """A factor or divisor that reaches one term of a sum only."""
    how, verb = (
        ("/", "divides") if isinstance(node.op, ast.Div) else ("*", "multiplies")
    )
    for inner, outer in (("left", "right"), ("right", "left")):
        total, factor = getattr(node, inner), say(getattr(node, outer))
        if not _is_sum(total) or not factor or (how, inner) == ("/", "right"):
            continue
        op, fields = SIGNS[type(total.op)], {"f": outer, "b": f"{inner}.right"}
        both = {"a": f"{inner}.left", **fields}
        clause = f"{factor} {verb} the first term only"
        yield "reach", clause, 1.8, put(f"a {how} f {op} b", **both)
        clause = f"{factor} {verb} the last term only"
        yield "reach", clause, 1.8, put(f"a {op} b {how} f", **both)
        if _is_sum(total.left):
            deep = SIGNS[type(total.left.op)]
            sides = {"a": f"{inner}.left.left", "m": f"{inner}.left.right"}
            clause = f"{factor} {verb} the first of three terms only"
            text = f"a {how} f {deep} m {op} b"
            yield "reach", clause, 1.7, put(text, **sides, **fields)


def _is_sum(node):
    return isinstance(node, ast.BinOp) and type(node.op) in SIGNS


def _numbers(node, value, form):
    number, host = node, form.parents.get(id(node))
    if isinstance(host, ast.UnaryOp):
        number, host = host, form.parents.get(id(host))
    sign = -1 if number is not node else 1
    role = _role(number, host, form)
    if form.target(node) in AVERAGED or _is_reduction(host):
        return
    likely = 0.6 if role.startswith(LIKELY) else 0
    for new, cost in _other_numbers(value).items():
        if role and new != value and not (likely and new < 0):
            words = {"new": _shown(sign * new), "old": _shown(sign * value)}
            clause = role.format(**words)
            if 0 < value < 1e-3 and new == value + 1 and " is " in clause:
                clause = clause.partition(" is ")[0] + " is 1 too large"
            yield f"number {new}", clause, cost - likely, put(repr(new))


LIKELY = "a special case", "the limit below which"  # slips rather than other names


def _shown(number):
    return f"{number:.6g}".replace("-", "−") if number < 0 else f"{number:.6g}"


def _role(node, host, form):
    """What another number in this place does, in words; "" where there are none."""
    say = partial(spoken, letters=form.spoken)
    match host:
        case ast.arguments():
            named = dict(zip(host.defaults[::-1], host.args[::-1], strict=False))
            name = named[node].arg if node in named else ""
            return f"the default of {name} is {{new}}, not {{old}}" if name else ""
        case ast.BinOp():
            return _operand(node, host, say)
        case ast.Compare(left=left, comparators=[right]) if right is node:
            if 0 < abs(ast.literal_eval(node)) < 1e-3:
                return "the limit below which something counts as 0 is {new}, not {old}"
            words = say(left)
            return (
                f"{words} is compared with {{new}}, not with {{old}}" if words else ""
            )
        case ast.Call(func=ast.Attribute(attr="maximum" | "minimum" | "clip")):
            return "the cut is at {new}, not at {old}"
        case ast.Call(func=ast.Attribute(attr="where")):
            return "{new} is filled in, not {old}"
        case ast.IfExp(test=ast.Compare(left=left, ops=[ast.Is()])) if say(left):
            return f"a missing {say(left)} counts as {{new}}, not as {{old}}"
        case ast.Tuple() if isinstance(form.parents.get(id(host)), ast.Return):
            return "a special case returns {new}, not {old}"
    return ""


def _operand(node, host, say):
    """The same, of a number in a sum, a product, a quotient or a power."""
    first = host.left is node
    match host.op:
        case ast.Pow() if not first:
            return "an exponent is {new}, not {old}"
        case ast.Add() if is_eps(node):
            return "eps is {new}, not {old}"
        case ast.Add():
            return "{new} is added, not {old}"
        case ast.Sub() if not first and say(host.left):
            return f"{{new}} is subtracted from {say(host.left)}, not {{old}}"
        case ast.Sub() if first and say(host.right) and not _is_complement(host, say):
            return f"{say(host.right)} is subtracted from {{new}}, not from {{old}}"
        case ast.Mult():
            return "a factor is {new}, not {old}"
        case ast.Div():
            return f"a {'numerator' if first else 'divisor'} is {{new}}, not {{old}}"
    return ""


def _other_numbers(value):
    """Numbers that are written for another, and what they cost."""
    others = {value + 1: 2.8, value - 1: 2.8}
    others |= {2 * value: 2.4, value / 2: 2.4, -value: 2.4}
    if isinstance(value, float) and 0 < value < 1:
        others |= {1 - value: 2.4, 1.0: 2.4}
        if value < 1e-3:
            others |= {0.0: 2, value / 1000: 2.4, 1000 * value: 2.4}
    return others


def _is_reduction(node):
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in REDUCTIONS
    )


def _calls(node, say, form):
    match node.func:
        case ast.Attribute(value=ast.Name(id="np" | "torch" as library), attr="sqrt"):
            yield from _roots(node.args[0], library)
        case ast.Attribute(value=ast.Name(id="np"), attr="ndindex"):
            clause = "the loop runs over the first axis alone"
            yield "loop", clause, 0.9, put("range(a[0])", a="args.0")
        case ast.Name(id=outer):
            yield from _own_calls(node, outer)
        case ast.Attribute(
            value=ast.Name(id="np"), attr="maximum" | "minimum" | "clip"
        ):
            yield from _bounds(node, say)
        case ast.Attribute(value=ast.Name(id="np"), attr="argmax"):
            clause = "the smallest is chosen, not the largest"
            yield "arg", clause, 1, _renamed("argmin")
        case ast.Attribute(value=ast.Name(id="np"), attr="where") if node.args[1:]:
            yield from _choices()
        case ast.Attribute(value=ast.Name(id="np"), attr=name) if (
            len(node.args) == 1 and name in FUNCTIONS and name not in REDUCTIONS
        ):
            yield name, f"{FUNCTIONS[name]} is left out", 2, put("a", a="args.0")
        case _:
            yield from _methods(node, say, form)


def _bounds(node, say):
    """Of np.maximum, np.minimum and np.clip."""
    words = [say(arg) for arg in node.args[:2]]
    if ast.unparse(node.args[1]) == "0":
        yield "cut", "nothing is cut off at 0", 1, put("a", a="args.0")
    elif all(words) and node.func.attr != "clip":
        for k, word in enumerate(words):
            yield "only", f"only {word} counts", 1, put("a", a=f"args.{k}")
    elif node.func.attr != "minimum":
        yield "cut", "nothing is cut off", 1.5, put("a", a="args.0")


def _bounds(node, say):
    """Of np.maximum, np.minimum and np.clip."""
    words = [say(arg) for arg in node.args[:2]]
    if ast.unparse(node.args[1]) == "0":
        yield "cut", "nothing is cut off at 0", 1, put("a", a="args.0")
    elif all(words) and node.func.attr != "clip":
        for k, word in enumerate(words):
            yield "only", f"only {word} counts", 1, put("a", a=f"args.{k}")
    elif node.func.attr != "minimum":
        yield "cut", "nothing is cut off", 1.5, put("a", a="args.0")


def _choices():
    clause = "nothing is chosen: one side of a choice always counts"
    yield "choice", clause, 1.2, put("a", a="args.1")
    clause = "the two sides of a choice change places"
    sides = {"c": "args.0", "a": "args.1", "b": "args.2"}
    yield "choice", clause, 1.4, put("np.where(c, b, a)", **sides)


def _methods(node, say, form):
    match node.func:
        case ast.Attribute(value=ast.Attribute(attr="linalg"), attr="norm"):
            yield from _lengths(node, say)
        case ast.Attribute(attr="norm") if not node.args:
            for clause, text in SIZES:
                yield "size", clause, 1.9, put(text, a="func.value")
            if isinstance(node.func.value, ast.BinOp):
                parts = {"a": "func.value.left", "b": "func.value.right"}
                yield "lengths", LENGTHS, 1.5, put("a.norm() - b.norm()", **parts)
        case ast.Attribute(attr=name) if name in REDUCTIONS:
            yield from _reductions(node, name, say, _divisor(node, form, say))
        case ast.Attribute(attr=name) if name in CASTS:
            yield name, f"{name}() is left out", 3, put("a", a="func.value")
        case ast.Attribute(attr="moveaxis"):
            yield "move", "the axes are not exchanged", 1.5, put("a", a="args.0")


def _own_calls(node, outer):
    """Calls of the form's own functions, one around another or not."""
    match node.args:
        case [ast.Call(func=ast.Name(id=inner), args=[_])] if inner != outer:
            clause = f"{inner} and {outer} come in the other order"
            text = f"{inner}({outer}(a))"
            yield "order", clause, 1.5, put(text, a="args.0.args.0")
            clause = f"{inner} is left out"
            yield "own", clause, 1.6, put(f"{outer}(a)", a="args.0.args.0")


def _roots(inside, library):
    for kind, clause, cost, text in ROOTS:
        text = text.replace("np", library)
        yield kind, clause, cost, put(text.replace("node", "a"), a="args.0")
    match inside:
        case ast.BinOp(op=ast.Add(), right=right) if is_eps(right):
            for kind, clause, cost, text in EPS:
                text = text.replace("np", library)
                yield kind, clause, cost, put(text, a="args.0.left", b="args.0.right")


def _lengths(node, say):
    inside = node.args[0]
    less = isinstance(inside, ast.BinOp) and isinstance(inside.op, ast.Sub)
    what = say(inside) or ("a difference" if less else "an array")
    clause = f"the length of {what} is taken without its root"
    yield "norm", clause, 1.2, put("node ** 2")
    if not node.keywords:
        for clause, text in SIZES[:2]:
            text = text.replace("a.abs()", "abs(a)")
            yield "size", clause, 1.9, put(text, a="args.0")
    if less:
        text = "np.linalg.norm(a) - np.linalg.norm(b)"
        parts = {"a": "args.0.left", "b": "args.0.right"}
        yield "lengths", LENGTHS, 1.5, put(text, **parts)
    if node.keywords:
        yield "axis", "lengths run along the other axis", 1.2, _axis("1")
        yield "axis", "one length stands for the whole array", 1.2, _axis("None")


def _axis(text):
    """A change of a reduction: it runs over another axis."""

    def change(node):
        kept = [k for k in node.keywords if k.arg not in ("axis", "dim")]
        node.keywords = [*kept, ast.keyword("axis", expression(text))]
        node.args = node.args[:1] if _is_function(node) else []
        return node

    return change


def _is_function(call):
    """Whether a call is np.mean(x), not x.mean()."""
    value = call.func.value
    return isinstance(value, ast.Attribute) or ast.unparse(value) in ("np", "torch")


def _divisor(node, form, say):
    """What the count is called that a sum is divided by; "" if by none."""
    match form.parents.get(id(node)):
        case ast.BinOp(op=ast.Div(), left=left, right=right) if left is node:
            return say(right) if say(right) in COUNTED else ""
    return ""


def _reductions(node, name, say, divisor):
    function = _is_function(node)
    what = say(node.args[0] if function else node.func.value) or "a term"
    for sister, clause in SISTERS[name].items():
        if divisor and (name, sister) == ("sum", "mean"):
            clause = f"{divisor} divides twice"
        cost = 0.8 if sister in ("mean", "sum") else 1.5
        yield sister, clause.format(what), cost, _renamed(sister)
    field = "args.0" if function else "func.value"
    if name in ("sum", "mean"):
        done = "summed" if name == "sum" else "averaged"
        yield "bare", f"{what} is not {done}", 1.2, put("a", a=field)
    if name == "var":
        yield from _variances(node, field)
    if name == "max":
        yield "last", "the last one counts, not the largest", 1.5, put("a[-1]", a=field)
    if not function:
        yield from _products(node, name, field)
    axis = _axis_of(node, function)
    noun = "the variance" if name == "var" else f"the {name} of {what}"
    for text, words in AXES.items() if axis is not None else ():
        if ast.unparse(axis) != text:
            yield f"axis {text}", f"{noun} runs over {words}", 1.3, _axis(text)


def _products(node, name, field):
    """Of a product that is reduced: the product of what is reduced instead."""
    inside = _field(node, field)
    match inside:
        case ast.BinOp(op=ast.Mult()):
            rest = ", ".join(map(ast.unparse, [*node.args, *node.keywords]))
            clause = f"a product of two {name}s stands for the {name} of a product"
            sides = {"a": f"{field}.left", "b": f"{field}.right"}
            text = f"a.{name}({rest}) * b.{name}({rest})"
            yield "product", clause, 1.7, put(text, **sides)
    if name == "mean":
        square = isinstance(inside, ast.BinOp) and isinstance(inside.op, ast.Pow)
        clause = f"{'the mean of squares' if square else 'a mean'} divides by the "
        text = "node * a.size / (a.size - node.size)"
        cost = 0.6 if square else 1.8
        yield "ddof", f"{clause}count minus 1", cost, put(text, a=field)


def _renamed(name):
    def change(node):
        node.func.attr = name
        return node

    return change


def _variances(node, field):
    words = [ast.unparse(k) for k in node.keywords]
    rest = [w for w in words if not w.startswith(("ddof", "correction"))]
    rest = ", ".join([*map(ast.unparse, node.args), *rest])
    name = "correction" if any("correction" in w for w in words) else "ddof"
    stored = f"{name}=1" in words
    clause = "the variance divides by the count minus 1"
    if stored:
        clause = "the variance that is stored divides by the count, not by one less"
    yield "ddof", clause, 0.4, put(f"a.var({rest}, {name}={int(not stored)})", a=field)
    if not stored:
        clause = "the variance is the mean of the squares: no mean is subtracted"
        yield "square", clause, 0.9, put(f"(a ** 2).mean({rest})", a=field)
        clause = "the mean of |x − mean| stands for the variance"
        text = f"abs(a - a.mean({rest})).mean({rest})"
        yield "spread", clause, 1.4, put(text, a=field)


def _axis_of(node, function):
    for keyword in node.keywords:
        if keyword.arg in ("axis", "dim"):
            return keyword.value
    args = node.args[1:] if function else node.args
    return args[0] if args else None


def _comparisons(node, say):
    a, b = say(node.left), say(node.comparators[0])
    if not a or not b or len(node.ops) > 1:
        return
    old = type(node.ops[0])
    for words, new in COMPARED.get(old, ()):
        clause = f"{a} {words.format(b=b)}"
        if words is WITH and b == "0" and a in RELUS:
            clause = "ReLU's slope is left out, or is 1 where the output is 0, too"
        yield words, clause, 1.8, assign(ops=[new()])
    if old in OPPOSITE:
        clause = f"{a} is compared with {b} the other way round"
        yield "opposite", clause, 1.9, assign(ops=[OPPOSITE[old]()])
    if old is ast.Gt:
        clause = f"{a} is compared with {b} by its size alone"
        yield "size", clause, 2.2, put("abs(a) > b", a="left", b="comparators.0")


def _branches(node, say):
    test = ast.unparse(node.test)
    if "last" in test:
        clause = "what the last layer has to lack comes after it, too"
        yield "last", clause, 1, assign(test=_without(node.test))
    if "training" not in test:
        if not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
            names = dict.fromkeys(say(n) for n in ast.walk(node.test) if _named(n))
            asked = " and ".join(filter(None, names))
            for value, word in ((True, "always"), (False, "never")):
                clause = asked and f"the branch for {asked} is {word} taken"
                yield word, clause, 3.2, assign(test=ast.Constant(value))
        return
    for value, mode, other in (
        (True, "training", "evaluation"),
        (False, "evaluation", "training"),
    ):
        clause = f"{other} is treated like {mode}"
        yield mode, clause, 0.6, assign(test=ast.Constant(value))
    if "running" in ast.unparse(node) and isinstance(node, ast.If):
        clause = "in training y is normalized by the running statistics"
        yield "running", clause, 0.9, _then_running
        clause = "the running statistics move in evaluation, too"
        yield "leak", clause, 0.8, _moves_always


def _named(node):
    return isinstance(node, ast.Name) and node.id not in CALLED


def _without(test):
    """A test that no longer asks whether this is the last one."""
    if isinstance(test, ast.BoolOp):
        return test.values[0]
    return ast.Constant(True)


def _then_running(node):
    """After the update, mu and var are the running statistics."""
    own = "self." if "self." in ast.unparse(node) else ""
    text = f"mu, var = {own}running_mean, {own}running_var"
    node.body = [*node.body, *ast.parse(text).body]
    return node


def _moves_always(node):
    """What training does happens in evaluation as well, but for mu and var."""
    other = copy.deepcopy(node.body)
    for name in (n for s in other for n in ast.walk(s) if isinstance(n, ast.Name)):
        name.id = {"mu": "mu_", "var": "var_"}.get(name.id, name.id)
    node.orelse = [*other, *node.orelse]
    return node


def _assignments(node, form, say):
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) if name in AVERAGED:
            right = ast.unparse(node.value)
            first = next((a for a in ("x", "dy", "z") if a in form.letters), "x")
            what = _reduced_over(name, form)
            for text, words in MORE_AXES.items():
                if text != right:
                    text = text.replace("x.ndim", f"{first}.ndim")
                    clause = f"the {what} run over {words}"
                    yield f"axes {text}", clause, 0.7, _value(text)
        case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]):
            yield from _attribute(name)
        case ast.Assign(targets=[ast.Name(id=name)]):
            if name == "var" and isinstance(node.value, ast.Call):
                clause = "eps is added to the variance itself"
                text = "a + eps" if "eps" in form.letters else "a + 1e-5"
                yield "stored", clause, 0.9, _value(text)
                clause = "the standard deviation is kept for the variance"
                yield "stored", clause, 1, _value("np.sqrt(a)")
            if name in form.letters:
                yield "never", f"{name} is not computed anew", 1.8, left_out
            if name in ("n", "N"):
                yield from _counts(form)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript() as target]):
            clause = say(target) and f"{say(target)} is not set"
            yield "never", clause, 2, left_out
        case ast.AugAssign():
            yield from _augmented(node, say)


def _reduced_over(axes, form):
    """What runs over the axes of this name: sums, averages, or both."""
    calls = [n for n in form.nodes if _is_reduction(n)]
    calls = [n for n in calls if axes in ast.unparse([*n.args, *n.keywords])]
    sums = {n.func.attr == "sum" for n in calls}
    return {True: "sums", False: "averages"}[sums.pop()] if len(sums) == 1 else BOTH


BOTH = "sums and averages"


def _augmented(node, say):
    match node:
        case ast.AugAssign(op=ast.Sub()):
            clause = f"{say(node.value) or 'a step'} is added, not subtracted"
            yield "aug", clause, 1.2, assign(op=ast.Add())
        case ast.AugAssign(op=ast.Add(), value=ast.List(elts=[ast.Call(func=made)])):
            clause = say(made) and f"{say(made)} comes twice"
            yield "twice", clause, 2, _again
            clause = say(made) and f"{say(made)} is left out"
            yield "aug", clause, 1.6, left_out
        case ast.AugAssign(op=ast.Add(), target=target):
            sums = say(target)
            clause = sums and f"{sums} holds the last term, not the sum"
            replaced = copy.deepcopy(target)
            yield "aug", clause, 2, lambda n: ast.Assign([replaced], n.value)
            yield "aug", sums and f"nothing is added up in {sums}", 2.4, left_out


def _again(node):
    """A list to which each item is added twice."""
    node.value.elts = [*node.value.elts, *copy.deepcopy(node.value.elts)]
    return node


def _attribute(name):
    """What happens to an attribute of the learner's object."""
    yield "never", f"{name} is never set anew", 1, left_out
    if name[0] == "d":
        text = f"a + getattr(self, {name!r}, 0)"
        yield "pile", f"{name} piles up from call to call", 0.9, _value(text)
    if name.startswith("running_") or name in ("gamma", "beta"):
        yield "start", f"{name} starts at 0", 1.3, _value("0 * a")


def _counts(form):
    """Lengths of axes that are taken for the count."""
    arrays = [a for a in ("x", "dy", "dz", "a", "z") if a in form.letters]
    for array in arrays:
        for axis, word in ((0, "axis 0"), (1, "axis 1"), (-1, "the last axis")):
            clause = f"the count is the length of {word} of {array}"
            yield f"count {array}", clause, 1.2, _value(f"{array}.shape[{axis}]")


def _swapped(i, j):
    def change(node):
        items = node.value.elts
        items[i], items[j] = items[j], items[i]
        return node

    return change


def _rounds(text):
    def change(node):
        node.iter = expression(text, a=node.iter)
        return node

    return change


def _names(node, form, say):
    name, parent, what = node.id, form.parents.get(id(node)), say(node)
    called = isinstance(parent, ast.Call) and parent.func is node
    if not what or called or name in (*AVERAGED, "self"):
        return
    compared = isinstance(parent, ast.Compare)
    rules = LETTERS if name in form.spoken and not compared else ()
    for names, more in SPECIAL.items():
        rules = (*rules, *more) if name in names else rules
    for kind, clause, cost, text in rules:
        parts = {"a": ast.Name(name, ast.Load())}
        yield kind, clause.format(what), cost, _filled(text, parts)
    for other in form.names():
        if other != name and other not in AVERAGED:
            word = spoken(ast.Name(other), form.spoken)
            clause = stands(word, what) if word and word != what else ""
            clause = NAMES.get((name, other), clause)
            yield f"{name} {other}", clause, 2, put(other)


def _filled(text, parts):
    return lambda node: expression(text, **copy.deepcopy(parts))
