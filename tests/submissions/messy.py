"""Right answers in notebooks as people leave them, over several lessons.

The first half uses what other cells define: each variant puts a definition somewhere
and lets an answer need it. The second half are habits: cells copied, split, emptied,
pasted from another editor. Nobody of them may lose a point.
"""

from dataclasses import dataclass

from nbformat.v4 import new_code_cell, new_markdown_cell

from grading import master
from tools.build import dumps
from tools.lesson import BEGIN, END

LESSONS = (
    "01_forward_pass",
    "02_backward_derivation",
    "03_activation_distributions",
    "05_normalization_variants",
    "06_deep_networks",
)
EACH = 3  # lessons that a variant is tried on

DEFINED = {  # (kind of the lesson's cell it is typed into, code, what the answer needs)
    "several at once": ("setup", "MIN, EPS = 2, 1e-5", "MIN == 2 and EPS == 1e-5"),
    "a call of int": ("setup", "MIN = int(2)", "MIN == 2"),
    "a number of NumPy": ("setup", "ZERO = np.float64(0)", "ZERO == 0"),
    "an alias of a type": ("setup", "Pair = tuple[np.ndarray, float]", "Pair"),
    "an alias of a function": ("setup", "root = np.sqrt", "root(4.0) == 2"),
    "another editor": (
        "setup",
        "try:\n    import google.colab\n    AT = 'colab'\nexcept ImportError:\n"
        "    AT = 'here'\n    print('not in Colab')",
        "AT == 'here'",
    ),
    "a helper under if": (
        "code",
        "if True:\n    def half(v):\n        return v / 2\n    print('defined')",
        "half(4) == 2",
    ),
    "a helper by condition": (
        "setup",
        "if hasattr(np, 'sqrt'):\n    def f(v): return v\nelse:\n    f = None",
        "f(1) == 1",
    ),
    "a constant in a check": ("check", "SMALL = 1e-12", "SMALL < 1"),
    "a constant in a demonstration": ("code", "LIMIT = 3 * 10 ** -5", "LIMIT < 1"),
    "one of two is computed": ("code", "_a, TINY = print(), 1e-9", "TINY < 1"),
    "a class": ("code", "class Box:\n    size = 3", "Box.size == 3"),
    "a decorated helper": (
        "code",
        "import functools\n@functools.lru_cache(None)\ndef cached(v):\n    return v",
        "cached(2) == 2",
    ),
    "a named tuple": (
        "code",
        "from collections import namedtuple\nP = namedtuple('P', 'a b')",
        "P(1, 2).a == 1",
    ),
    "a long sum": ("code", f"MANY = {'+'.join(['1'] * 400)}", "MANY == 400"),
    "a line separator": ("setup", "ODD = 'a\u2028b\x85c'", "len(ODD) == 5"),
    "a dictionary by comprehension": (
        "code",
        "TABLE = {k: k * k for k in range(4)}",
        "TABLE[3] == 9",
    ),
    "a partial": (
        "setup",
        "from functools import partial\nadd = partial(lambda a, b: a + b, 1)",
        "add(1) == 2",
    ),
}


@dataclass(frozen=True)
class Messy:
    name: str
    lesson: str
    content: bytes


def solved(course):
    nb = course.solved
    for cell in nb.cells:
        lines = cell.source.split("\n")
        cell.source = "\n".join(x for x in lines if x.strip() not in (BEGIN, END))
    for task in course.questions.values():
        cell_of(nb, task.cell).source = "What I think about it."
    return nb


def cell_of(nb, name):
    return next(cell for cell in nb.cells if cell.id == name)


def function_of(course, nb):
    """An exercise that is answered with a function, and its cell."""
    for task in course.exercises.values():
        cell = cell_of(nb, task.cell)
        if f"def {task.defines}(" in cell.source:
            return task.defines, cell
    raise AssertionError(f"no function in {course.name}")


def needing(course, kind, code, needs):
    """A notebook whose answer needs what a cell of the lesson defines."""
    nb = solved(course)
    name, answer = function_of(course, nb)
    place = next(c for c in nb.cells if course.kinds[c.id] == kind)
    place.source += f"\n{code}\n"
    answer.source += (
        f"\n\n_right_{name} = {name}\n\n"
        f"import functools\n@functools.wraps(_right_{name})\n"
        f"def {name}(*args, **kwargs):\n    assert {needs}\n"
        f"    return _right_{name}(*args, **kwargs)\n"
    )
    return nb


def without_ids(course, nb):
    for cell in nb.cells:
        cell.id, cell.metadata = f"colab{nb.cells.index(cell)}", {}


def answer_at_the_end(course, nb):
    name, cell = function_of(course, nb)
    nb.cells.append(new_code_cell(cell.source))
    cell.source = cell_of(course.student, cell.id).source


def helper_above(course, nb):
    name, cell = function_of(course, nb)
    body = cell.source.replace(f"def {name}(", "def my_version(", 1)
    nb.cells.insert(nb.cells.index(cell), new_code_cell(body))
    cell.source = f"{name} = my_version"


def tried_twice(course, nb):
    name, cell = function_of(course, nb)
    cell.source = f"def {name}(*args):\n    return None  # first try\n\n" + cell.source


def no_checks(course, nb):
    nb.cells = [c for c in nb.cells if course.kinds[c.id] != "check"]


def own_set_up(course, nb):
    first = next(c for c in nb.cells if course.kinds[c.id] == "setup")
    nb.cells.remove(first)
    nb.cells.insert(0, new_code_cell(first.source + "\nimport os, sys  # mine"))


def scratch(course, nb):
    for at, text in enumerate(
        ("1 / 0", "print(undefined)", "for", "%matplotlib inline")
    ):
        nb.cells.insert(3 + 2 * at, new_code_cell(text))


def notes(course, nb):
    for at in range(0, len(nb.cells), 4):
        nb.cells.insert(at, new_markdown_cell("## My notes\n$x$ and <b>more</b>"))


def prints(course, nb):
    for task in course.exercises.values():
        cell_of(nb, task.cell).source += "\nprint('checked by hand', 1e-5)\n"


def only_the_answers(course, nb):
    kinds = ("exercise", "rubric", "setup")
    nb.cells = [c for c in nb.cells if course.kinds[c.id] in kinds]


def shuffled_to_the_front(course, nb):
    answers = [c for c in nb.cells if course.kinds[c.id] == "exercise"]
    nb.cells = answers + [c for c in nb.cells if c not in answers]


def cells_merged(course, nb):
    name, cell = function_of(course, nb)
    after = nb.cells[nb.cells.index(cell) + 1]
    cell.source += "\n\n" + after.source
    nb.cells.remove(after)


HABITS = (
    without_ids,
    answer_at_the_end,
    helper_above,
    tried_twice,
    no_checks,
    own_set_up,
    scratch,
    notes,
    prints,
    only_the_answers,
    shuffled_to_the_front,
    cells_merged,
)


def lessons_for(number):
    return [LESSONS[(number + k) % len(LESSONS)] for k in range(EACH)]


def cases():
    for number, (name, facts) in enumerate(DEFINED.items()):
        for lesson in lessons_for(number):
            nb = needing(master.lesson(lesson), *facts)
            yield Messy(f"defined: {name}, {lesson[:2]}", lesson, dumps(nb).encode())
    for number, habit in enumerate(HABITS):
        for lesson in lessons_for(number):
            course = master.lesson(lesson)
            nb = solved(course)
            habit(course, nb)
            name = f"habit: {habit.__name__}, {lesson[:2]}"
            yield Messy(name, lesson, dumps(nb).encode())
