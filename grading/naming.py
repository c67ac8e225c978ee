"""What one name of a download tells: who handed in, when, and for which lesson.

Each platform has its own way to name files and folders; `tell` knows them. Any other
name is a student's or an instructor's, and `person` takes off what was added to it.
"""

import re
import unicodedata
from dataclasses import dataclass

DAY = r"\d{4}-\d\d-\d\d"
STAMP = rf"{DAY}[ T_-]\d\d[:_.-]?\d\d[:_.-]?\d\d[^+]*"
# the order matters: the first that fits the whole name
PLATFORMS = {
    "moodle": r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_[a-z]+(?:_(?P<file>.*))?",
    "exchange": rf"(?P<name>[^+]+)\+(?P<file>[^+]+)\+(?P<sent>{STAMP})(?:\+[^+]*)?",
    "blackboard": rf"(?P<name>.+)_attempt_(?P<sent>{DAY}(?:-\d\d){{3}})"
    r"(?:_(?P<file>.*))?",
    "brightspace": r"(?P<id>\d+)-(?P<sent>\d+) - (?P<name>.+?) - [^-]*\d{4}[^-]*"
    r"(?: - (?P<file>.+))?",
    "canvas": r"(?P<name>anon)[a-z]*(?P<late>_LATE)?_(?P<id>[A-Za-z0-9]{5})(?:_LATE)?"
    r"_(?P<sent>\d+)_(?P<file>.+)|"
    r"(?P<name2>[^_]+)(?P<late2>_LATE)?_(?P<id2>\d+)_(?P<sent2>\d+)_(?P<file2>.+)|"
    r"(?P<name3>[^_]+)(?P<late3>_LATE)?_(?P<id3>\d+)_text",
    "gradescope": r"submission_(?P<id>\d+)",
    "sakai": r"(?P<name>[^(),]+,[^(),]+)\((?P<id>[\w.@-]+)\)",
}
PATTERNS = {kind: re.compile(text) for kind, text in PLATFORMS.items()}
FILES_ONLY = {"canvas"}  # it hands out files, never folders
OF_THE_PERSON = {"brightspace", "canvas", "exchange", "sakai"}  # what `id` is one of
SUBMIT = re.compile(r"(?P<name>.+)_submission_(?P<sent>\d{8}T\d{6}Z)(?P<again>.*)")
ENDINGS = (
    "zip ipynb pdf html htm py doc docx odt txt md png jpg jpeg json csv rar 7z gz"
)
SUFFIX = re.compile(
    rf"(?:\.ipynb\.(?:txt|json)|\.(?:{ENDINGS.replace(' ', '|')}))$", re.IGNORECASE
)
ANY_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")
NOTEBOOK = re.compile(r".*\.ipynb(?:\.txt|\.json)?", re.IGNORECASE | re.DOTALL)
AGAIN = re.compile(r"(?:[ _-]*\((\d+)\)|[ _-]+Copy ?(\d*))$", re.IGNORECASE)
AGAIN_OF_LESSON = re.compile(r"-(\d{1,2})")
COPY = re.compile(r"^(?:copy of|kopie von|copie de|copia de)\s+", re.IGNORECASE)
LATE = re.compile(r"(?:^|[ _-]+)late(?:[ _-]+|$)", re.IGNORECASE)
EDGES = " _-–+,;·"

# words of folders that hold work, and are nobody's name
WORDS = frozenset(
    "work notebook notebooks submission submissions submitted inbound files file "
    "backup old new final hw homework homeworks assignment assignments lesson lessons "
    "lab labs week exercise exercises class classes course courses download downloads "
    "export exports attachment attachments attempt attempts version archive all "
    "section tutorial monday tuesday wednesday thursday friday saturday sunday "
    "batch normalization batchnorm bn solution solutions part sheet drive moodle "
    "canvas blackboard brightspace gradescope students handed in of the and my "
    "untitled folder collected ipynb".split()
)


@dataclass(frozen=True)
class Told:
    """What a platform's name tells.

    Attributes:
        kind: the platform, a key of `PLATFORMS`.
        name: of the person, as the platform writes it; "" where it gives none.
        id: number or login, or "".
        sent: sorts the attempts of one person.
        late: the platform says that it came late.
    """

    kind: str
    name: str
    id: str
    sent: str = ""
    late: bool = False


def tell(part):
    """What a platform's name tells, or None if no platform made it."""
    bare = SUFFIX.sub("", part)
    for kind, pattern in PATTERNS.items():
        stem = ANY_ENDING.sub("", bare) if kind in FILES_ONLY else bare
        if kind in FILES_ONLY and stem == part:
            continue
        if match := pattern.fullmatch(stem):
            found = {k.rstrip("23"): v for k, v in match.groupdict("").items() if v}
            told = _told(kind, found)
            if not nobody(told.name):
                return told
    return None


def _told(kind, found):
    name, number = found.get("name", ""), found.get("id", "")
    sent, late = found.get("sent", ""), "late" in found
    sent = sent.zfill(20) if sent.isdigit() else sent
    if kind == "exchange":
        number = name
    if kind == "canvas" and name == "anon":
        name = f"anon_{number}"
    if kind == "brightspace" and (match := LATE.search(name)):
        late, name = True, name.replace(match[0], " ")
    return Told(kind, name.strip(EDGES), number, sent, late)


def words(name):
    """The words of a name, with short numbers left out."""
    parts = re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFC", name).casefold())
    return {part for part in parts if not (part.isdigit() and len(part) < 5)}


def nobody(name, lessons=()):
    """Whether a name has words, and all of them are of folders that hold work."""
    left = words(_without_lessons(SUFFIX.sub("", name), lessons)[0])
    return bool(words(name)) and not left - WORDS


def marks(name, lessons=()):
    """The words of a name that may be a person's."""
    left = words(_without_lessons(SUFFIX.sub("", name), lessons)[0])
    letters = {word for word in left if len(word) == 1}  # as in "Section A"
    return frozenset(left - WORDS - (letters if left & WORDS else set()))


def holds_work(name, lessons=()):
    """Whether some word of a name is that of a folder that holds work."""
    return bool(words(name) & WORDS) or any(each in name for each in lessons)


def lesson_in(name, lessons):
    """The lesson whose name stands in a file's name, or ""."""
    return next((each for each in lessons if _place(name, each)), "")


def _place(name, lesson):
    """Where a lesson's name stands in another one."""
    return re.search(re.escape(lesson), name, re.IGNORECASE)


def person(part, lessons=()):
    """A student's name from a file or folder that no platform has named.

    Returns: the name, or ""; when `course.py submit` packed it, or ""; the number of a
    copy or a repeated download.
    """
    stem, again = _without_again(SUFFIX.sub("", part))
    sent = ""
    if match := SUBMIT.fullmatch(stem):
        stem, sent = match["name"], match["sent"]
    stem, number = _without_lessons(COPY.sub("", stem.strip()), lessons)
    parts = [part for part in re.split(r"\s+[-–]\s+", stem) if not nobody(part)]
    name = " - ".join(parts).strip(EDGES)
    return ("" if nobody(name) else name), sent, again + number


def _without_again(stem):
    """A name without what browsers and systems append to a copy, and its number."""
    match = AGAIN.search(stem)
    if not match:
        return stem, 0
    return stem[: match.start()], int((match[1] or match[2] or "1")[:9])


def _without_lessons(stem, lessons):
    """A name without a lesson's, and the number of a repeated download behind that.

    What stands before the lesson goes before what stands behind it.
    """
    for place in filter(None, (_place(stem, lesson) for lesson in lessons)):
        before, after = stem[: place.start()], stem[place.end() :]
        if again := AGAIN_OF_LESSON.fullmatch(after):
            return before, int(again[1])
        return (before if before.strip(EDGES) else after), 0
    return stem, 0


def identifier(name):
    """A student's name as a folder may be called: letters, digits, `.`, `-`, `_`."""
    name = unicodedata.normalize("NFC", name).strip()
    return re.sub(r"[^\w.-]+", "-", name).strip(".-_")[:100].strip(".-_")
