"""The class as the instructor knows it: a csv with one row per student.

A column with an id and one with a name are enough. Every other cell that no second row
has (a login, an email, a platform's number) is a further name of that student. The
tables that Moodle and Canvas export can be used as they are.
"""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

from .naming import identifier
from .walk import Refused

# headings, the best first; compared without case, spaces and marks
IDS = (
    "id",
    *("studentid", "student", "username", "login", "sisloginid", "loginid", "idnumber"),
    *("sisuserid", "identifier", "email", "emailaddress"),
)
NAMES = ("name", "fullname", "studentname", "displayname", "student")
FIRST = ("firstname", "first", "givenname", "forename")
LAST = ("lastname", "last", "surname", "familyname")
LOGINS = ("username", "login", "loginid", "sisloginid")
NUMBER = {"canvas": ("id", "canvasid", "canvasuserid"), "moodle": ("identifier",)}
SHOWN = 30  # names in a line


@dataclass(frozen=True)
class Row:
    """A student of the roster.

    Attributes:
        student: identifier, safe as a file name.
        id: as the roster has it.
        name: as the roster has it, or "".
        known_as: folded cells that are this student's alone.
        cells: by folded heading.
    """

    student: str
    id: str
    name: str
    known_as: frozenset = frozenset()
    cells: dict = field(default_factory=dict, hash=False, compare=False)

    def cell(self, headings):
        return next((self.cells[h] for h in headings if self.cells.get(h)), "")


class Roster:
    """The rows of a csv.

    Args:
        content: its bytes.
        source: what to call it in messages.

    Raises:
        Refused: it has no column with ids, no rows, or one id twice.
    """

    def __init__(self, content, source="the roster"):
        table = list(csv.reader(io.StringIO(_text(content)), _dialect(content)))
        table = [[cell.strip() for cell in row] for row in table if any(row)]
        if len(table) < 2:
            raise Refused(f"{source}: expected a row of headings and a row per student")
        self.heads = [_plain(head) for head in table[0]]
        rows = [dict(zip(self.heads, row, strict=False)) for row in table[1:]]
        if not (heading := next((h for h in IDS if h in self.heads), "")):
            found = ", ".join(table[0])
            raise Refused(f"{source}: no column is called id; the columns are {found}")
        rows = [row for row in rows if row.get(heading)]
        self.rows = _rows(rows, heading, source)
        self.by_cell, self.by_name = defaultdict(set), defaultdict(set)
        for row in self.rows:
            for cell in row.known_as:
                self.by_cell[cell].add(row)
            for spelling in _spellings(row.name):
                self.by_name[spelling].add(row)

    # matching

    def match(self, people):
        """The row of each person that one row fits, by the person's key."""
        found = {person.key: self.rows_of(person) for person in people}
        return {key: next(iter(rows)) for key, rows in found.items() if len(rows) == 1}

    def rows_of(self, person):
        """The rows that a person may be; the platform's own number goes first."""
        told = {_fold(text) for text in (person.id, *person.aliases) if text}
        told |= {f"participant {person.id}"} if person.kind == "moodle" else set()
        if person.own or person.kind == "moodle":
            numbers = NUMBER.get(person.kind, ())
            exact = {r for r in self.rows if _fold(r.cell(numbers) or "-") in told}
            exact = exact if numbers else set()
        else:
            exact = set()
        named = self.by_name.get(_letters(person.called), set())
        called = self.by_cell.get(_fold(person.called), set())
        listed = set().union(*(self.by_cell.get(text, set()) for text in told))
        if exact and named and not exact & named:
            return exact | named  # number and name are of two students
        return next(filter(None, (exact, called, named, listed)), set())

    def report(self, matched, attempts, names):
        """Lines on who is missing, unknown and double."""
        unknown = sorted({names[key] for key in names if key not in matched})
        present = {student for student, _ in attempts}
        rows = [row for row in self.rows if row.student in present]
        yield f"{len(rows)} of the roster's {len(self.rows)} students were found"
        if unknown := [name for name in unknown if name in present]:
            yield f"not on the roster: {_listed(unknown)}"
        for row in self.rows:
            same = sorted({names[key] for key, r in matched.items() if r == row})
            if len(same) > 1:
                yield f"one student of the roster, {row.student}: {_listed(same)}"
        for lesson in sorted({lesson for _, lesson in attempts}):
            missing = [
                r.student for r in self.rows if (r.student, lesson) not in attempts
            ]
            if missing:
                yield f"{lesson}: {len(missing)} missing: {_listed(missing)}"


def read(path):
    """The `Roster` in a file.

    Raises:
        Refused: it cannot be read.
    """
    try:
        return Roster(Path(path).read_bytes(), str(path))
    except (OSError, csv.Error) as error:
        raise Refused(f"--roster {path}: {error}") from None


def kept(folder):
    """The rows of the roster that `grade` has kept in a folder of grades, if any."""
    path = Path(folder) / "roster.csv"
    return read(path).rows if path.exists() else []


def _rows(cells, heading, source):
    held = defaultdict(set)
    for number, row in enumerate(cells):
        for text in row.values():
            held[_fold(text)].add(number)
    made = []
    for row in cells:
        name = next((row[h] for h in NAMES if row.get(h) and h != heading), "")
        first = next((row[h] for h in FIRST if row.get(h)), "")
        last = next((row[h] for h in LAST if row.get(h)), "")
        own = {_fold(text) for text in row.values() if len(held[_fold(text)]) == 1}
        own |= {text.partition("@")[0] for text in own if "@" in text}
        name = name or f"{first} {last}".strip()
        student = identifier(row[heading])
        made.append(Row(student, row[heading], name, frozenset(own - {""}), row))
    made = [row for row in made if "points possible" not in row.name.casefold()]
    ids = [row.student.casefold() for row in made]
    if twice := sorted(
        {row.id for row in made if ids.count(row.student.casefold()) > 1}
    ):
        raise Refused(f"{source}: one id for several rows: {', '.join(twice)}")
    if not all(ids):
        raise Refused(f"{source}: an id without a letter or digit")
    return made


def _text(content):
    for coding in ("utf-8-sig", "cp1252"):
        try:
            return content.decode(coding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")


def _dialect(content):
    """Commas, or what a spreadsheet of another country writes."""
    head = content.split(b"\n", 1)[0]
    mark = max((b",", b";", b"\t"), key=head.count)
    return type("Dialect", (csv.excel,), {"delimiter": mark.decode()})


def _plain(text):
    return re.sub(r"[^a-z]", "", text.casefold())


def _fold(text):
    return unicodedata.normalize("NFC", text).casefold().strip()


def _letters(name):
    """A name's letters, without marks, accents and spaces."""
    plain = unicodedata.normalize("NFKD", name).casefold()
    return "".join(c for c in plain if c.isalnum())


def _spellings(name):
    """A name's letters in every order of its words: "Ada Lovelace", "lovelaceada"."""
    words = re.findall(r"[^\s,]+", name)
    orders = permutations(words) if 1 < len(words) < 5 else [words, words[::-1]]
    return {_letters("".join(order)) for order in orders} - {""}


def _listed(names):
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
