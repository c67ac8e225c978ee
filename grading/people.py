"""Whose is what: the level of a download at which names differ by person.

Folders and zips around it hold a class, a lesson or a section. What lies below it is a
student's own, so no name there makes anybody: a student who packs `bob/` hands in for
nobody but himself.
"""

import hashlib
import os.path
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace

from . import naming

DEPTH = 60  # of folders in folders
NBGRADER = {"source", "release", "autograded", "feedback", "exchange"}
SUBMITTER = re.compile(r"^(submission_\d+):|^\s+(?:- )?:(name|sid|email): *(.+?) *$")


@dataclass(frozen=True)
class Person:
    """Somebody who handed in, as the download names them.

    Attributes:
        called: the name, or the login where there is no name.
        kind: the platform that named them, or "".
        id: the platform's number or login, or "".
        aliases: what else the platform says of them, as an email.
        numbered: the name alone does not tell this person from another.
        own: `id` is the person's and not that of one assignment.
    """

    called: str
    kind: str = ""
    id: str = ""
    aliases: tuple = ()
    numbered: bool = False
    own: bool = False

    @property
    def key(self):
        """Equal for what one person handed in."""
        number = self.id if self.own or self.numbered else ""
        called = "" if self.own else self.called
        return self.kind, number, called

    @property
    def title(self):
        """What the identifier is made from."""
        keeps = self.kind in ("canvas", "brightspace") or self.numbered
        number = f"_{self.id}" if keeps and not self.called.endswith(self.id) else ""
        return self.called + number


@dataclass(frozen=True)
class Found:
    """Whose an item is.

    Attributes:
        people: who handed it in together; nobody where nothing tells.
        named: the part of the path that names them.
        order: sorts the attempts of a person.
        late: the platform says that it came late.
    """

    people: tuple = ()
    named: str = ""
    order: tuple = ("", 0)
    late: bool = False


def assign(items, lessons, metadata=None):
    """Find whose each item is.

    Args:
        items: objects with `path` (names from the download down to the file) and
            `lesson` (the name, or "" where it is no notebook).
        lessons: names of the course's lessons.
        metadata: Gradescope's text on submissions by the folder it lies in.

    Returns: a list of `Found`, one per item.
    """
    work = _Class(items, lessons, metadata or {})
    work.descend(list(range(len(items))), 0, "")
    return _numbered(work.found, items)


@dataclass
class _Class:
    items: list
    lessons: list
    metadata: dict
    found: dict = field(default_factory=dict)

    def part(self, index, depth):
        return self.items[index].path[depth]

    def groups(self, indices, depth):
        """The items by their name at a depth; files by their own."""
        found = defaultdict(list)
        for index in indices:
            found[self.part(index, depth)].append(index)
        return dict(found)

    def is_file(self, indices, depth):
        return all(len(self.items[i].path) == depth + 1 for i in indices)

    def descend(self, indices, depth, above):
        """Assign items that share all names above a depth.

        Args:
            above: the innermost of these names that may be a person's, or "".
        """
        groups = self.groups(indices, depth)
        groups = self.without_nbgrader(groups)
        containers = {n: g for n, g in groups.items() if not self.is_file(g, depth)}
        if depth < DEPTH and containers and self.hold_classes(groups, depth):
            loose = [i for n in groups if n not in containers for i in groups[n]]
            self.name_files(loose, depth, above)
            for name, group in containers.items():
                inner = above if self.no_person(name) else name
                self.descend(group, depth + 1, inner)
        elif above and not self.several(groups, depth):
            self.all_of(indices, above)
        else:
            self.name_groups(groups, depth)

    def without_nbgrader(self, groups):
        """Of a course that nbgrader keeps, only what was submitted."""
        if "submitted" not in groups or not NBGRADER & groups.keys():
            return groups
        for name in NBGRADER & groups.keys():
            self.found |= dict.fromkeys(groups[name], Found(named=NOT_SUBMITTED))
        return {n: g for n, g in groups.items() if n not in NBGRADER}

    def no_person(self, name):
        return naming.nobody(name, self.lessons)

    # what kind of level it is

    def hold_classes(self, groups, depth):
        """Whether these folders and zips hold classes, and are no students' own."""
        held = {n: g for n, g in groups.items() if not self.is_file(g, depth)}
        if any(map(naming.tell, held)):
            return False
        if len(held) == 1:
            work = [n for n in groups if n not in held and naming.NOTEBOOK.match(n)]
            return not work
        return (
            self.named_as_work(held)
            or all(self.holds_told(group, depth + 1) for group in held.values())
            or self.hold_several(held, depth)
        )

    def named_as_work(self, names):
        """Whether names are like "Lesson 1" and "Lesson 2": no person differs."""
        kinds = {naming.marks(name, self.lessons) for name in names}
        works = all(naming.holds_work(name, self.lessons) for name in names)
        return works and len(kinds) == 1

    def holds_told(self, indices, depth):
        """Whether a platform has named most of what lies in a folder."""
        names = self.groups(indices, depth)
        told = sum(self.tell_at(name, names[name], depth) is not None for name in names)
        return told > len(names) / 2

    def tell_at(self, name, group, depth):
        told = naming.tell(name)
        if (
            told
            and told.kind in naming.FILES_ONLY
            and not name.lower().endswith(".zip")
        ):
            return told if self.is_file(group, depth) else None
        return told

    def hold_several(self, held, depth):
        """Whether each of some folders, none of them a zip, holds several people."""
        if any(name.lower().endswith(".zip") for name in held):
            return False
        return all(self.several_folders(group, depth + 1) for group in held.values())

    def several_folders(self, indices, depth):
        groups = self.groups(indices, depth)
        named = {n: g for n, g in groups.items() if not self.is_file(g, depth)}
        named = {n: g for n, g in named.items() if not self.no_person(n)}
        loose = any(self.is_file(groups[n], depth) for n in groups)
        return not loose and self.several(named, depth)

    def several(self, groups, depth):
        """Whether several people may have made what these names hold."""
        by_lesson = defaultdict(set)
        for name, group in groups.items():
            told = self.tell_at(name, group, depth)
            if told:
                return True
            who = naming.person(name, self.lessons)[0]
            for index in group:
                if who and self.items[index].lesson:
                    by_lesson[self.items[index].lesson].add(who)
        return any(len(people) > 1 for people in by_lesson.values())

    # who it is

    def name_groups(self, groups, depth):
        prefix = self.shared_prefix(groups, depth)
        for name, group in groups.items():
            found = self.found_in(name, group, depth, prefix)
            for index in group:
                inner = self.items[index].path[depth + 1 :]
                self.found[index] = replace(found, order=_order(found.order, inner))

    def name_files(self, indices, depth, above):
        """Files beside folders that hold classes."""
        groups = self.groups(indices, depth)
        if above and not self.several(groups, depth):
            self.all_of(indices, above)
        else:
            self.name_groups(groups, depth)

    def all_of(self, indices, name):
        """Everything is one person's, whose folder or zip stands above it."""
        who, sent, again = naming.person(name, self.lessons)
        for index in indices:
            order = _order((sent, again), self.items[index].path)
            people = (Person(who),) if who else ()
            self.found[index] = Found(people, name, order)

    def found_in(self, name, group, depth, prefix):
        told = self.tell_at(name, group, depth)
        if told is None:
            who, sent, again = naming.person(name.removeprefix(prefix), self.lessons)
            return Found((Person(who),) if who else (), name, (sent, again))
        order = told.sent, 0
        if told.kind == "gradescope":
            return Found(self.submitters(name, group[0], depth), name, order)
        called = told.name
        if told.kind == "blackboard":
            called = called.removeprefix(prefix) if prefix else called.split("_")[-1]
        own = told.kind in naming.OF_THE_PERSON or told.kind == "blackboard"
        number = told.id or called
        person = Person(called, told.kind, number, own=own)
        return Found((person,), name, order, told.late)

    def submitters(self, name, index, depth):
        """The people of a submission to Gradescope, from the file beside it."""
        text = self.metadata.get(self.items[index].path[:depth], "")
        people = _gradescope(text).get(name) or [{}]
        return tuple(_submitter(name, facts) for facts in people)

    def shared_prefix(self, groups, depth):
        """What the names share at their start, as GitHub Classroom puts there.

        Only where it ends at a mark and names no person.
        """
        told = [naming.tell(name) for name in groups]
        boards = [t.name for t in told if t and t.kind == "blackboard"]
        others = [
            naming.SUFFIX.sub("", n) for n, t in zip(groups, told, strict=True) if not t
        ]
        for names in (boards, others):
            shared = os.path.commonprefix(names) if len(names) > 1 else ""
            cut = max(shared.rfind(mark) for mark in "-_ ") + 1
            if names is boards and cut or naming.nobody(shared[:cut], self.lessons):
                return shared[:cut]
        return ""


NOT_SUBMITTED = "nbgrader's own"


def _order(order, inner):
    """What sorts attempts: the platform's word, or what `submit` packed."""
    sent = order[0] or max((naming.person(part)[1] for part in inner), default="")
    again = naming.person(inner[-1])[2] if inner else 0
    return sent, order[1] + again


def _gradescope(text):
    """Facts on each submission's people, by its folder."""
    found, folder = {}, None
    for line in text.split("\n"):
        if not (match := SUBMITTER.match(line)):
            folder = None if line.strip().startswith(":history") else folder
        elif match[1]:
            folder = found.setdefault(match[1], [])
        elif folder is not None and match[3].strip("'\""):
            if not folder or match[2] in folder[-1]:
                folder.append({})
            folder[-1][match[2]] = match[3].strip("'\"")
    return found


def _submitter(folder, facts):
    number = facts.get("sid") or facts.get("email") or folder
    called = facts.get("name") or number
    known = tuple(facts.get(what, "") for what in ("sid", "email"))
    return Person(called, "gradescope", number, tuple(filter(None, known)), own=True)


def _numbered(found, items):
    """Tell apart whom one assignment names alike, by the number of the platform."""
    numbers = defaultdict(set)
    for index, each in found.items():
        for person in each.people:
            if person.kind == "moodle":
                place = items[index].path.index(each.named)
                where = items[index].path[:place], items[index].lesson
                numbers[*where, person.called].add(person.id)
    twins = {called for (*_, called), ids in numbers.items() if len(ids) > 1}

    def told(person):
        twin = person.kind == "moodle" and person.called in twins
        return replace(person, numbered=twin or person.called == "Participant")

    return [
        replace(each, people=tuple(map(told, each.people)))
        for each in (found.get(index, Found()) for index in range(len(items)))
    ]


def identifiers(people):
    """A name for each person that a folder may have, no two of them alike.

    Returns: by the person's key; "" where the name holds no letter or digit.
    """
    wanted = {person.key: person.title for person in people}
    taken = defaultdict(list)
    for key, title in wanted.items():
        taken[naming.identifier(title).casefold()].append(key)
    made = {}
    for folded, keys in taken.items():
        for key in keys:
            name = naming.identifier(wanted[key])
            plain = len(keys) == 1 or wanted[key] == name == folded
            made[key] = name if plain or not name else _apart(name, key)
    return made


def _apart(name, key):
    digest = hashlib.sha256("\0".join(key).encode("utf-8", "surrogatepass"))
    return f"{name[:90]}-{digest.hexdigest()[:6]}"
