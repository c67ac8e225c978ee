"""Carry a student's answers into a newer copy of a lesson."""

import ast

from .progress import TASKS, cells, name_of, text_of

EMPTY = "*Your answer here.*"
STUB = "raise NotImplementedError"


def carry(old, new):
    """Put the answers of one notebook into another; changes `new`.

    Returns: names of the answers carried, and a sentence on each thing that was not.
    """
    places = {name_of(cell): cell for cell in new["cells"] if is_task(name_of(cell))}
    carried, notes, told = [], [], set()
    for cell in old["cells"]:
        name, text = name_of(cell), text_of(cell)
        place = text_of(places[name]) if name in places else ""
        if not is_task(name) or not written(name, text, place):
            continue
        if name not in places or name in told:
            why = (
                "stands there twice" if name in told else "has no place in the new one"
            )
            notes.append(f"{short(name)} {why}")
            continue
        told.add(name)
        if name.startswith("ex-") and head(text) != head(place):
            notes.append(f"{short(name)} is asked for in another form now; compare")
        places[name]["source"] = text
        carried.append(short(name))
    return carried, notes + own(old, new)


def is_task(name):
    return name.startswith(tuple(TASKS))


def short(name):
    return name.split("-", 1)[1]


def written(name, text, place):
    """Whether somebody wrote an answer: a blank and a bare stub are none."""
    if text == place or not text.strip() or text.strip() == EMPTY:
        return False
    return not (name.startswith("ex-") and bare(text, place))


def bare(text, place):
    """Whether a cell holds stubs that nobody has filled, beside what is given."""
    mine, given = functions(text), functions(place) or []
    stubs = [node for node in mine or [] if is_stub(node)]
    others = [ast.unparse(node) for node in mine or [] if not is_stub(node)]
    return bool(stubs) and set(others) <= set(map(ast.unparse, given))


def is_stub(node):
    """Whether nothing but a docstring stands before the stub's line."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return [ast.unparse(line) for line in body] == [STUB]


FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


def functions(text):
    """Every function that a cell defines; None where it cannot be read as code."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return None
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def head(text):
    """Names and parameters of what a cell defines."""
    found = functions(text)
    return found and [(node.name, ast.unparse(node.args)) for node in found]


def own(old, new):
    """A sentence on cells that have no place in the new copy: they are not carried."""
    known = {name for name, _ in cells(new)}
    added = [n for n, text in cells(old) if text.strip() and n not in known]
    added = [name for name in added if not is_task(name)]
    if not added:
        return []
    return [
        f"{len(added)} more cells are not in the new copy; your earlier file has them"
    ]
