"""Single edits of right implementations: the wrong answers that people write by a slip.

`Form(function, letters).edits` lists them in an order that depends on the function's
text alone, so that a number stands for an edit. Each has a clause that ends "Your y is
what comes out when ...", and a cost: the lower, the likelier. Those of low cost belong
to the family of norms: what people write wherever something is averaged, divided by a
root with eps, blended over time, or different in evaluation.

The idea: Singh, Gulwani and Solar-Lezama, Automated feedback generation for
introductory programming assignments, PLDI 2013.
"""

import ast
import copy
import inspect
import textwrap
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from .slips import put, slips
from .words import TERMS, agreed

FAMILY = 1.5  # edits that cost no more are also tried in pairs
PAIRED = 45  # of them, the likeliest
NOT_DIVIDED = "nothing is divided by "
GIVEN = ("np", "torch", "nn", "F", "self")  # names that nobody mixes up


@dataclass(frozen=True)
class Edit:
    """A change of a right form.

    Attributes:
        clause: what is wrong, in words.
        cost: the lower, the likelier.
        places: pairs of a node's number in the walk of the tree, and its change.
        where: the letter in whose computation the change lies; "" if none.
        shared: whether another edit, as likely, has the same results.
    """

    clause: str
    cost: float
    places: tuple
    where: str = ""
    shared: bool = False

    def told(self, names):
        """The clause, for an answer whose outputs of these names are wrong."""
        if not self.where or tuple(names) == (self.where,):
            return self.clause
        return f"{self.clause}, in {self.where}"


class Form:
    """A right implementation as a tree, with the edits of it.

    Args:
        function: a function or class of a module of the course.
        letters: names that the student knows; the arguments are added.
    """

    def __init__(self, function, letters):
        self.function = function
        self.source = textwrap.dedent(inspect.getsource(function))
        self.tree = ast.parse(self.source)
        self.nodes = list(ast.walk(self.tree))
        self.numbers = {id(node): k for k, node in enumerate(self.nodes)}
        self.parents = {
            id(child): node
            for node in self.nodes
            for child in ast.iter_child_nodes(node)
        }
        self.arguments = [n.arg for n in self.nodes if isinstance(n, ast.arg)]
        self.letters = {*letters, *self.arguments}
        self.letters |= {"momentum"}.intersection(self.names())
        self.spoken = self.letters - set(self._stages())  # what words may name

    @cached_property
    def edits(self):
        """All edits: at one place, at all like places, exchanges, pairs."""
        single, groups = [], {}
        for number, node in enumerate(self.nodes):
            for kind, clause, cost, change in slips(node, self):
                clause = agreed(clause)
                if clause:
                    said, place = self._one_of(clause, node), (number, change)
                    likely = cost + 0.6 * (said != clause)
                    where = self._where(clause, node)
                    single.append(Edit(said, likely, (place,), where))
                    groups.setdefault((kind, clause, cost), []).append(place)
        everywhere = [
            Edit(clause, cost - 0.2, tuple(places))
            for (_, clause, cost), places in groups.items()
            if len(places) > 1
        ]
        family = sorted([*everywhere, *single], key=lambda e: e.cost)
        family = [e for e in family if e.cost <= FAMILY][:PAIRED]
        return (*single, *everywhere, *self._exchanges(), *_pairs(family))

    def _exchanges(self):
        """Two names in each other's place, in one statement or in all."""
        statements = [n for n in self.nodes if isinstance(n, (ast.Assign, ast.Return))]
        for scope in [self.tree, *statements]:
            found = {}
            for node in filter(_is_read, ast.walk(scope)):
                found.setdefault(node.id, []).append(self.numbers[id(node)])
            names = [n for n in found if n in self.letters]
            where = "" if scope is self.tree else self.target(scope)
            where = where if where in self.letters else TERMS.get(where, "")
            for a, b in combinations(names, 2):
                places = [(n, put(b)) for n in found[a]] + [
                    (n, put(a)) for n in found[b]
                ]
                yield Edit(f"{a} and {b} change places", 1.7, tuple(places), where)

    def _one_of(self, clause, node):
        """The clause, saying that a name is meant at one of its places only."""
        if clause.startswith(NOT_DIVIDED) and self._divides_again(node):
            return f"a term is not divided by {clause.removeprefix(NOT_DIVIDED)}"
        if not isinstance(node, ast.Name):
            return clause
        alike = [n for n in ast.walk(self.statement(node)) if _is_read(n)]
        several = sum(n.id == node.id for n in alike) > 1
        if several and clause.endswith(" change places"):
            return self._put_for(clause.split(" and ")[::-1], node)
        return f"{clause}, at one of its places" if several else clause

    def _divides_again(self, quotient):
        """Whether the statement has another quotient by the same."""
        by = [
            ast.unparse(n.right)
            for n in ast.walk(self.statement(quotient))
            if isinstance(n, ast.BinOp) and isinstance(n.op, ast.Div)
        ]
        return by.count(ast.unparse(quotient.right)) > 1

    def _put_for(self, pair, node):
        """That one of the pair b, 1 − b stands where the other belongs."""
        pair = [words.removesuffix(" change places") for words in pair]
        inside = ast.unparse(self.parents[id(node)]) == f"1 - {node.id}"
        wrong, right = reversed(pair) if inside else pair
        return f"{wrong} stands where {right} belongs"

    def _where(self, clause, node):
        target = self.target(node)
        told = f" {target}" in f" {clause}"
        return target if target in self.letters and not told else ""

    def statement(self, node):
        """The statement around a node."""
        while not isinstance(node, ast.stmt):
            node = self.parents[id(node)]
        return node

    def target(self, node):
        """Name that the statement around a node assigns; "" if none or several."""
        if isinstance(node, (ast.mod, ast.arguments, ast.arg)):
            return ""
        match self.statement(node):
            case ast.Assign(targets=[ast.Name(id=name) | ast.Attribute(attr=name)]):
                return name
        return ""

    def _stages(self):
        """Outputs that a form computes in steps: what it calls so is not yet that."""
        for node in self.nodes:
            match node:
                case ast.Assign(
                    targets=[ast.Name(id=name)], value=ast.BinOp() as value
                ):
                    inside = {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}
                    adds_up = isinstance(value.op, ast.Add)
                    if name in inside and not adds_up and name not in self.arguments:
                        yield name

    def names(self):
        """Names that the form binds, and its arguments."""
        stored = [
            n.id
            for n in self.nodes
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        ]
        return [n for n in dict.fromkeys([*self.arguments, *stored]) if n != "self"]

    def code(self, edit):
        """The wrong implementation that an edit makes.

        Raises:
            Exception: of any kind, where the edit makes no sense.
        """
        tree = copy.deepcopy(self.tree)
        nodes = list(ast.walk(tree))
        places = {id(nodes[number]): change for number, change in edit.places}
        tree = ast.fix_missing_locations(_Editor(places).visit(tree))
        space = vars(inspect.getmodule(self.function)).copy()
        exec(compile(tree, "<edit>", "exec"), space)
        return space[self.function.__name__]


class _Editor(ast.NodeTransformer):
    def __init__(self, places):
        self.places = places

    def visit(self, node):
        change = self.places.get(id(node))
        new = self.generic_visit(node)
        return new if change is None else change(new)


def _is_read(node):
    return (
        isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and node.id not in GIVEN
    )


def _pairs(family):
    for one, two in combinations(family, 2):
        shared = {n for n, _ in one.places} & {n for n, _ in two.places}
        if not shared and one.clause != two.clause:
            clause = f"{one.clause}, and {two.clause}"
            yield Edit(clause, one.cost + two.cost + 3, one.places + two.places)
