"""What grading found, for people: `python -m grading.report [--into grades]`.

Reads the receipts and the gradebook, and writes into `report/` beside them:

    overview.html     the class: what waits for you, hard exercises, misconceptions
    feedback/ID.html  one page per student, to hand out
    grades.csv        one row per student; tasks.csv: one row per task of a student
    canvas.csv        for Canvas: Grades, Import
    moodle.csv        for Moodle: Grades, Import; moodle-01_*.csv: grading worksheets
    return/           with --return: feedback in bulk, named as the platform names it
"""

import argparse
import csv
import io
import re
import statistics
import sys
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import jinja2

from bn_checks.score import SPOKEN
from tools import build

from . import handback, markup, roster
from .naming import identifier
from .verdict import GRADED, NEEDS_REVIEW

ROOT = Path(__file__).resolve().parents[1]
# what a spreadsheet takes for a formula, in letters of any width
FORMULA = tuple("=+-@\t\r＝＋－＠")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# lines of a check's table that quote what came of inputs no student may see
QUOTED = re.compile(r": got .*, want |\d\.\d{3,}|\d\.\d+e")
RAISED = re.compile(r"(raised \w+): .*?((?:, want a \w+)?)$", re.DOTALL)


@dataclass(frozen=True)
class Student:
    """One student's verdicts by lesson, and the page they stand on."""

    id: str
    name: str
    page: str
    verdicts: dict
    row: object = None  # of the roster
    refused: tuple = ()  # `Verdict`s of files of which no grade was made

    @property
    def points(self):
        return sum(verdict.points for verdict in self.verdicts.values())

    @property
    def max(self):
        return sum(verdict.max for verdict in self.verdicts.values())

    @property
    def late(self):
        """Numbers of the lessons that came late."""
        return [name[:2] for name, v in self.verdicts.items() if is_late(v)]

    @property
    def final(self):
        return not self.refused and all(map(is_final, self.verdicts.values()))


def is_final(verdict):
    """Whether nobody has to look at it any more."""
    return verdict.status == GRADED and not verdict.awaits


def state(verdict):
    """A verdict's status in words, with what is still open."""
    if verdict.status == GRADED and verdict.awaits:
        return f"{count(len(verdict.awaits), 'task')} to be marked"
    return "final" if verdict.status == GRADED else verdict.status


def is_late(verdict):
    """Whether the platform's file names say that it came late."""
    return bool(verdict.platform.get("late"))


def count(number, noun):
    return f"{number} {noun}" + ("" if str(number) == "1" else "s")


def students_of(verdicts, rows=(), rejected=()):
    """The students in order of their ids: who handed in, and who is on the roster."""
    by_id, taken = defaultdict(dict), set()
    listed = {row.student: row for row in rows}
    refused = defaultdict(tuple)
    for verdict in rejected:
        refused[verdict.student] += (verdict,)
    for id in sorted({*listed, *(verdict.student for verdict in verdicts)}):
        by_id[id] = {}
    for verdict in sorted(verdicts, key=lambda v: (v.student, v.lesson)):
        by_id[verdict.student][verdict.lesson] = verdict
    return [
        Student(
            id,
            name_of(mine.values(), listed.get(id)),
            page_name(id, taken),
            mine,
            listed.get(id),
            refused[id],
        )
        for id, mine in by_id.items()
    ]


def name_of(verdicts, row=None):
    """The name that the roster or the learning platform's file names tell, or ""."""
    if row and row.name:
        return markup.readable(row.name)
    names = (verdict.platform.get("name", "") for verdict in verdicts)
    return markup.readable(next(filter(None, names), ""))


def page_name(id, taken):
    """A file name that Windows and macOS take, too, and that no other student has."""
    stem = re.sub(r"[^\w.-]|^\.", "_", id) or "_"
    stem = f"{stem}_" if RESERVED.fullmatch(stem) else stem
    number, name = 1, stem
    while folded(name) in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(folded(name))
    return f"{name}.html"


def folded(name):
    return unicodedata.normalize("NFKC", name).casefold()


# tables for other programs


def cell(value):
    """A value that no spreadsheet takes for a formula."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = markup.readable(str(value)).replace("\n", " ").replace("\t", " ")
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text


def table(rows, mark=""):
    """Rows as CSV; `mark` is what spreadsheets know UTF-8 by."""
    text = io.StringIO()
    csv.writer(text).writerows([cell(value) for value in row] for row in rows)
    return (mark + text.getvalue()).encode()


def lessons_of(students):
    """The most points of each lesson, in order."""
    found = {}
    for student in students:
        for lesson, verdict in student.verdicts.items():
            found[lesson] = max(verdict.max, found.get(lesson, 0.0))
    return dict(sorted(found.items()))


def grades_csv(students):
    lessons = lessons_of(students)
    head = ["student", "name"]
    for lesson in lessons:
        head += [f"{lesson} points", f"{lesson} of", f"{lesson} status"]
    yield [*head, "points", "of", "status"]
    for student in students:
        row = [student.id, student.name]
        for lesson, most in lessons.items():
            if verdict := student.verdicts.get(lesson):
                words = state(verdict) + (", late" if is_late(verdict) else "")
                row += [float(verdict.points), float(verdict.max), words]
            else:
                words = "a file was rejected" if student.refused else "not handed in"
                row += ["", float(most), words]
        total = "final" if student.final else "provisional"
        yield [*row, float(student.points), sum(lessons.values()), total]


def tasks_csv(students):
    yield ["student", "lesson", "kind", "task", "points", "of", "mistakes"]
    for student in students:
        for lesson, verdict in student.verdicts.items():
            tasks = [("exercise", *pair) for pair in verdict.exercises.items()]
            tasks += [("question", *pair) for pair in verdict.answers.items()]
            for kind, name, task in tasks:
                points = "" if task.points is None else float(task.points)
                named = "; ".join(verdict.mistakes.get(name, ()))
                yield [student.id, lesson, kind, name, points, float(task.max), named]


def exported(student, lesson, provisional):
    """Points for a platform: none while a person has still to look."""
    verdict = student.verdicts.get(lesson)
    if verdict and (provisional or is_final(verdict)):
        return float(verdict.points)
    return ""


def canvas_csv(students, provisional=False):
    """Canvas finds a student by ID, else by SIS Login ID; row 2 has the maxima."""
    lessons = lessons_of(students)
    yield ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *lessons]
    yield ["    Points Possible", "", "", "", "", *map(float, lessons.values())]
    for student in students:
        number = platform_id(student, "canvas")
        number = number or (student.row.cell(("id",)) if in_canvas(student) else "")
        known = "" if number else login(student)
        points = (exported(student, lesson, provisional) for lesson in lessons)
        yield [student.name or student.id, number, "", known, "", *points]


def in_canvas(student):
    """Whether the roster is a table that Canvas has exported."""
    return bool(student.row) and "sisloginid" in student.row.cells


def moodle_csv(students, provisional=False):
    """For Moodle's Grades, Import, CSV file: map from Username, or from ID number."""
    lessons = lessons_of(students)
    yield ["Username", "Full name", *lessons]
    for student in students:
        points = (exported(student, lesson, provisional) for lesson in lessons)
        yield [login(student), student.name, *points]


def login(student):
    """What a student is called at the platform, as far as it is known."""
    if student.row:
        return student.row.cell(roster.LOGINS) or student.row.id
    named = platform_id(student, "moodle") and identifier(student.name)
    return "" if named and student.id.startswith(named) else student.id


def moodle_worksheet(students, lesson, provisional=False):
    """For one assignment of Moodle: Grading actions, Upload grading worksheet."""
    yield ["Identifier", "Full name", "Grade", "Maximum grade"]
    for student in students:
        number = platform_id(student, "moodle", lesson)
        if number:
            most = float(student.verdicts[lesson].max)
            points = exported(student, lesson, provisional)
            yield [f"Participant {number}", student.name, points, most]


def platform_id(student, kind, lesson=None):
    """The number that a platform's file names give a student, or nothing."""
    verdicts = student.verdicts
    chosen = [verdicts[lesson]] if lesson in verdicts else verdicts.values()
    chosen = () if lesson and lesson not in verdicts else chosen
    found = (v.platform["id"] for v in chosen if v.platform.get("kind") == kind)
    return next(found, "")


def csv_files(students, provisional=False):
    """The text of every table, by its file name."""
    files = {
        "grades.csv": table(grades_csv(students), mark="\ufeff"),
        "tasks.csv": table(tasks_csv(students), mark="\ufeff"),
        "canvas.csv": table(canvas_csv(students, provisional)),
        "moodle.csv": table(moodle_csv(students, provisional)),
    }
    for lesson in lessons_of(students):
        rows = list(moodle_worksheet(students, lesson, provisional))
        if len(rows) > 1:
            files[f"moodle-{lesson}.csv"] = table(rows)
    return files


# pages


def details(row):
    """Lines of a check's table that a student may read.

    Left out is what was computed from hidden inputs: a function may return its input,
    and an error may quote it.
    """
    lines = (RAISED.sub(r"\1\2", line) for line in row.detail)
    return [line for line in lines if not QUOTED.search(line)]


def untried(exercise):
    """Whether the exercise still held its stub."""
    return bool(exercise.rows) and all(row.state == "○" for row in exercise.rows)


def number(value):
    """0.9 for 0.9000000001, and 3 for 3.0."""
    return f"{round(float(value), 2):g}"


def titles(lessons):
    """What lessons and questions are called, by their names."""
    found = {}
    for lesson in lessons:
        found[lesson.name] = lesson.title
        for cell in lesson.of("question"):
            found[lesson.name, cell.name] = cell.lines[0].lstrip("# ")
    return found


def pages(lessons):
    """The environment that the pages are made in."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("grading"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    named = titles(lessons)
    environment.filters.update(
        number=number, rendered=markup.rendered, readable=markup.readable
    )
    environment.globals.update(
        count=count,
        details=details,
        filename=lambda verdict: PurePosixPath(verdict.receipt.source).name,
        late=is_late,
        spoken=SPOKEN.get,
        state=state,
        untried=untried,
        title=lambda *key: named.get(key if key[1:] else key[0], key[-1]),
    )
    return environment


def quartiles(values):
    """First quartile, median and third quartile; one value is all three."""
    return (
        statistics.quantiles(values, method="inclusive") if values[1:] else values * 3
    )


def lesson_rows(students):
    """How a lesson went, by its name."""
    for lesson in lessons_of(students):
        verdicts = [s.verdicts[lesson] for s in students if lesson in s.verdicts]
        yield {
            "lesson": lesson,
            "max": max(verdict.max for verdict in verdicts),
            "quartiles": quartiles(sorted(v.points for v in verdicts)),
            "states": Counter(
                v.status if v.status != GRADED else "to mark" if v.awaits else "final"
                for v in verdicts
            ),
        }


def exercise_rows(students):
    """How each exercise went; the hardest first."""
    found = defaultdict(list)
    for student in students:
        for lesson, verdict in student.verdicts.items():
            for name, exercise in verdict.exercises.items():
                if exercise.points is not None:
                    found[lesson, name].append(exercise)
    rows = []
    for (lesson, name), tries in found.items():
        blank = sum(map(untried, tries))
        full = sum(e.points >= e.max for e in tries)
        share = statistics.fmean(e.points / e.max for e in tries)
        row = {"lesson": lesson, "name": name, "share": share, "tries": len(tries)}
        rows.append(row | {"blank": blank, "full": full})
    return sorted(rows, key=lambda row: (row["share"], row["lesson"], row["name"]))


def mistake_rows(students):
    """Which misconceptions were named, for how many students; the commonest first."""
    found, says = Counter(), {}
    for student in students:
        for lesson, verdict in student.verdicts.items():
            for name, exercise in verdict.exercises.items():
                named = {row.mistake: row for row in exercise.rows if row.mistake}
                for row in exercise.rows:
                    if row.mistake and row.says:
                        says[lesson, name, row.mistake] = row.says
                found.update((lesson, name, mistake) for mistake in named)
    order = sorted(found, key=lambda key: (-found[key], key))
    return [(*key, says.get(key, ""), found[key]) for key in order]


def family(mistake):
    """What a mistake is in any exercise: its name without the place where it is."""
    return mistake.partition(", at one of its places")[0].partition(", in ")[0]


def family_rows(mistakes):
    """Misconceptions that came up in several exercises, and the exercises."""
    places, found = {}, Counter()
    for _, exercise, mistake, _, number in mistakes:
        places.setdefault(family(mistake), {})[exercise] = None
        found[family(mistake)] += number
    order = sorted(found, key=lambda name: (-found[name], name))
    return [(n, list(places[n]), found[n]) for n in order if len(places[n]) > 1]


def awaiting_rows(students):
    """How many answers each question has that await a person, in lesson order."""
    found, places = Counter(), {}
    for student in students:
        for lesson, verdict in student.verdicts.items():
            for place, name in enumerate([*verdict.exercises, *verdict.answers]):
                places[lesson, name] = place
            if not verdict.unreadable:
                found.update((lesson, name) for name in verdict.awaits)
    order = sorted(found, key=lambda key: (key[0], places[key], key[1]))
    return [(*key, found[key]) for key in order]


def overview(environment, students, rejected, others):
    verdicts = [v for student in students for v in student.verdicts.values()]
    mistakes = mistake_rows(students)
    return environment.get_template("overview.html").render(
        students=students,
        rejected=rejected,
        others=[verdict for mine in others.values() for verdict in mine],
        missing=[s for s in students if not s.verdicts and not s.refused],
        review=[v for v in verdicts if v.status == NEEDS_REVIEW],
        awaiting=awaiting_rows(students),
        lessons=list(lesson_rows(students)),
        exercises=exercise_rows(students),
        mistakes=mistakes,
        families=family_rows(mistakes),
    )


# files


def write(
    verdicts, rejected, folder, lessons=(), provisional=False, others=None, rows=()
):
    """Write every file of the report.

    Args:
        verdicts: what counts, one per student and lesson.
        rejected: what was no submission.
        folder: where to; pages of students who are gone are taken away.
        lessons: the sources, for their titles.
        provisional: whether platforms also get points that are not final.
        others: attempts that do not count, lists by (student, lesson).
        rows: of the roster.

    Returns: the `Student`s.
    """
    students, environment = students_of(verdicts, rows, rejected), pages(lessons)
    feedback = folder / "feedback"
    feedback.mkdir(parents=True, exist_ok=True)
    for name, content in csv_files(students, provisional).items():
        (folder / name).write_bytes(content)
    page = environment.get_template("feedback.html")
    present = [s for s in students if s.verdicts or s.refused]
    for student in present:
        text = feedback_page(page, student, others or {})
        save(feedback / student.page, text)
    for path in feedback.glob("*.html"):
        if path.name not in {student.page for student in present}:
            path.unlink()
    text = overview(environment, students, rejected, others or {})
    save(folder / "overview.html", text)
    return students


def feedback_page(page, student, others):
    """The text of a student's page; whatever one holds, the next one is written."""
    tries = {v: len(others.get((student.id, v), ())) + 1 for v in student.verdicts}
    try:
        return page.render(student=student, tries=tries)
    except Exception as error:
        print(f"{student.id}: the page cannot be made: {error!r}", file=sys.stderr)
        points = f"{number(student.points)} of {number(student.max)} points"
        return f"<!DOCTYPE html><title>Results</title><p>{student.id}: {points}"


def save(path, text):
    path.write_bytes(text.encode("utf-8", "replace"))


def summary(students, rejected, folder, provisional):
    """What an instructor reads in the terminal."""
    verdicts = [v for student in students for v in student.verdicts.values()]
    students = [student for student in students if student.verdicts]
    review = sum(v.status == NEEDS_REVIEW for v in verdicts)
    awaiting = sum(len(v.awaits) for v in verdicts if v.status == GRADED)
    final = sum(map(is_final, verdicts))
    yield f"{count(len(students), 'student')}, {count(len(verdicts), 'notebook')}, "
    yield f"{final} of them final.\n"
    if awaiting:
        yield f"  {count(awaiting, 'task')} to mark: python3 course.py formgrader\n"
    if review:
        yield f"  {count(review, 'notebook')} to review: listed in overview.html\n"
    if rejected:
        yield f"  {count(len(rejected), 'file')} rejected: listed in overview.html\n"
    if final < len(verdicts) and not provisional:
        yield "  What is not final has no points in canvas.csv and moodle*.csv; "
        yield "--provisional puts them there.\n"
    yield f"\nFor you:       {folder / 'overview.html'}, grades.csv, tasks.csv\n"
    yield f"For platforms: {folder / 'canvas.csv'}, moodle.csv\n"
    yield f"For students:  {folder / 'feedback'}, one page each\n"


def main(argv=None):
    from . import records

    parser = argparse.ArgumentParser(
        prog="course.py report",
        description=__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    help = "the folder that grade wrote; grades/ by default"
    parser.add_argument("--into", type=Path, default=records.GRADES, help=help)
    help = "give platforms points that are not final, too"
    parser.add_argument("--provisional", action="store_true", help=help)
    text = "also pack the pages as the platform takes them back, or in plain folders"
    kinds = handback.KINDS
    parser.add_argument("--return", dest="back", choices=kinds, help=text)
    args = parser.parse_args(argv)
    verdicts, rejected = records.verdicts(args.into), records.rejected(args.into)
    if not verdicts and not rejected:
        sys.exit(f"Nothing is graded yet in {args.into}. Run: course.py grade FOLDER")
    folder = args.into / "report"
    lessons = build.load(ROOT)[0]
    others, rows = records.others(args.into), roster.kept(args.into)
    made = folder, lessons, args.provisional, others, rows
    students = write(verdicts, rejected, *made)
    print("".join(summary(students, rejected, folder, args.provisional)), end="")
    if args.back:
        lines = handback.write(students, args.back, folder, pages(lessons))
        print("".join(lines), end="")


if __name__ == "__main__":
    main()
