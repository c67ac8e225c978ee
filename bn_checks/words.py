"""Words for errors: what a piece of a right form is called, and whole sentences.

A sentence uses the letters of the exercise (arguments, outputs, attributes) and terms
of the field. It never shows an expression of the right form that is longer than a
product of two letters.
"""

import ast
import re

# short expressions of forms, by what they are
EXPRESSIONS = {
    "N / (N - 1)": "the correction",
    "(x - mean) / std": "x_hat",
    "(x - mu) / np.sqrt(var + eps)": "x_hat",
    "(rows - mu) / np.sqrt(var + eps)": "x_hat",
    "dbeta / N": "the mean of dy",
    "dgamma / N": "the mean of dy · x_hat",
    "x_hat * dgamma / N": "the term with x_hat",
}
# terms for values that forms compute on the way
TERMS = {
    "mu": "the mean",
    "mean": "the mean",
    "var": "the variance",
    "std": "the standard deviation",
    "inv_std": "1 over the standard deviation",
    "centered": "the deviation from the mean",
    "n": "the count",
    "N": "the number of samples",
    "N1": "the number of samples minus 1",
    "D": "the number of features",
    "L": "the number of layers",
    "old": "the old value",
    "momentum": "momentum",
    "new": "the new value",
    "axes": "the averaged axes",
    "logits": "the logits",
    "loss": "the loss",
    "size": "the length of the whole array",
    "scale": "the scale",
    "ms": "the mean square",
    "x_hat": "x_hat",
    "z": "the affine map's output",
    "step": "the step",
    "cosine": "the cosine",
    "lengths": "the product of the lengths",
    "shares": "the probabilities",
    "correction": "the correction",
    "keep": "the weight of the past",
    "total": "the total count",
    "gap": "the distance of the means",
    "d": "the gradient on its way back",
    "h": "h",
    "edge": "the margin",
    "probabilities": "the probabilities",
    "inner": "the gradient behind the norm",
    "outer": "the gradient at the norm's output",
    "slope": "the term with x_hat",
    "gradient": "the gradient",
    "new_m": "the new m",
    "new_v": "the new v",
    "target": "the one-hot target",
    "own_mean": "this worker's own mean",
    "own_var": "this worker's own variance",
    "counts": "the counts",
    "means": "the workers' means",
    "variances": "the workers' variances",
    "seen": "the accuracy on training images",
    "test": "the accuracy on test images",
    "ratio": "the ratio",
    "batches": "the number of batches",
    "columns": "the sum of each column",
    "lined_up": "the sum of each column times x_hat",
    "length": "the length of gradient",
    "true_length": "the length of truth",
    "square": "the squared length of gradient",
    "true_square": "the squared length of truth",
    "first": "the corrected m",
    "second": "the corrected v",
    "sigma": "sigma",
    "moved": "m",
    "stretch": "s",
    "now": "the mean",
    "center_of_m": "mu",
    "g": "the gradient at w",
    "v": "the variance with eps",
    "slopes": "what is summed up",
    "shift": "the shift",
    "e": "the exponentials",
    "out": "the layer's output",
    "dx_hat": "dy · gamma",
    "dz": "dz",
    "right": "the number of right answers",
    "largest": "the largest entry",
    "changed": "the change",
    "dx": "what the brackets hold",
    "apart": "the squared distance of the means",
    "spread": "the variance that is stored",
    "unbiased": "the variance that is stored",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "rows": "the rows that are there",
    "share_a": "the share of group a",
    "share_b": "the share of group b",
    "within": "the spread within the groups",
    "between": "the spread between the groups",
}
SINGULAR = "eps", "ms", "axis", "num_groups"  # all the same
PLURAL = (
    "the exponentials",
    "the logits",
    "the probabilities",
    "the counts",
    "the workers' means",
    "the workers' variances",
)
FUNCTIONS = {
    "sqrt": "the root",
    "log": "the logarithm",
    "exp": "the exponential",
    "abs": "the absolute value",
    "clip": "the clipping",
    "norm": "the norm",
    "mean": "the mean",
    "sum": "the sum",
    "var": "the variance",
    "std": "the standard deviation",
    "max": "the maximum",
    "argmax": "argmax",
}


def spoken(node, letters):
    """What an expression is called; "" where there are no words for it."""
    match node:
        case ast.BinOp() if ast.unparse(node) in EXPRESSIONS:
            return EXPRESSIONS[ast.unparse(node)]
        case ast.Name(id=name):
            return name if name in letters else TERMS.get(name, "")
        case ast.Constant(value=value):
            return "eps" if is_eps(node) else f"{value}"
        case ast.Attribute(attr="T", value=value):
            return _with(spoken(value, letters), " transposed")
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return name
        case ast.Attribute(attr="ndim"):
            return "the number of axes"
        case ast.Subscript(slice=ast.JoinedStr(values=[ast.Constant(value=v), *_])):
            return str(v)
        case ast.Subscript(value=value):
            return spoken(value, letters)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=f)):
            return FUNCTIONS.get(f, "")
        case ast.Call(func=ast.Attribute(value=value, attr=f)) if f in FUNCTIONS:
            inside = spoken(value, letters)
            return f"{FUNCTIONS[f]} of {inside}" if inside else FUNCTIONS[f]
        case ast.Call(func=ast.Attribute(value=value)):  # reshape, copy, detach
            return spoken(value, letters)
        case ast.BinOp(left=left, op=op, right=right):
            return _operation(left, op, right, letters)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _with("−", spoken(operand, letters))
    return ""


def is_eps(node):
    """Whether a node is eps, by its name or by its usual value."""
    if isinstance(node, ast.Constant):
        return node.value == 1e-5
    return ast.unparse(node) in ("eps", "self.eps")


def agreed(clause):
    """The clause with its first verb in the plural, where its subject is one."""
    found = re.match(r"(.+?)( alone)? (is|enters|stands) ", clause)
    if not found or not _is_plural(found[1]):
        return clause
    verb = {"is": "are"}.get(found[3], found[3].removesuffix("s"))
    return f"{clause[: found.start(3)]}{verb}{clause[found.end(3) :]}"


def stands(one, other):
    """That one thing stands where another belongs."""
    return f"{one} stands where {other} belong{'' if _is_plural(other) else 's'}"


def _with(*parts):
    return "".join(parts) if all(parts) else ""


def _operation(left, op, right, letters):
    pair = [spoken(side, letters) for side in (left, right)]
    if isinstance(op, ast.Mult) and all(pair) and not any(" " in p for p in pair):
        return " · ".join(pair)
    if isinstance(op, ast.Pow) and isinstance(right, ast.Constant):
        if right.value == 2 and pair[0]:
            return f"{pair[0]} squared"
    if isinstance(op, ast.Sub) and pair == ["x", "the mean"]:
        return TERMS["centered"]
    named = [n for n in _letters(ast.BinOp(left, op, right)) if n in letters]
    if 1 <= len(named) <= 3:
        return f"the term with {listed(named)}"
    return _with(pair[0], " times ", pair[1]) if isinstance(op, ast.Mult) else ""


def _letters(node):
    """Names in an expression, each once, in order."""
    found = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    found = [name for name in found if name != "self"]
    found += [n.attr for n in ast.walk(node) if _of_self(n)]
    return list(dict.fromkeys(found))


def _of_self(node):
    return isinstance(node, ast.Attribute) and (
        isinstance(node.value, ast.Name) and node.value.id == "self"
    )


def listed(names):
    """'y', 'y and mu' or 'y, mu and var'."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def comes_out(names, clause, example=False):
    """The frame of all clauses; `example` where others would give the same."""
    when = "when, for example," if example else "when"
    return f"{your(names)} {be(names)} what comes out {when} {clause}."


def be(names):
    """is or are."""
    name = names[0]
    several = len(names) > 1 or _is_plural(name) or ", " in name
    return "are" if several else "is"


def _is_plural(name):
    ends = name.endswith("s") and not name.endswith(("ss", "as"))
    return name in PLURAL or (ends and " " not in name and name not in SINGULAR)


def your(names):
    """The subject of a sentence; "index (a)" and "index (b)" are said together."""
    stems = {}
    for name in names:
        stem, _, part = name.removeprefix("your ").partition(" (")
        stems.setdefault(stem, []).append(part.removesuffix(")"))
    return f"Your {listed([_stem(*pair) for pair in stems.items()])}"


def _stem(stem, parts):
    return f"{stem} ({listed(parts)})" if all(parts) else stem
