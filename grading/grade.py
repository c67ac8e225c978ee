"""Grade what a class has handed in: `python -m grading.grade SUBMISSIONS`.

SUBMISSIONS is a folder, a zip or a notebook as Moodle, Canvas, another platform or
students made it. What was graded before is not graded again. Grades go to the folder
grades/; see README.md.
"""

import argparse
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tqdm import tqdm

from tools import pin
from tools.build import dumps

from . import config, intake, judge, master, pool, records, roster, sandbox, walk
from .judge import grade_one
from .page import page, plain_page
from .verdict import GRADED, NEEDS_REVIEW, REJECTED, Receipt, Verdict

__all__ = ["grade_one", "main"]

SHOWN = 20  # lines of a list in the summary
NAMED = 40  # students in a line
UNSAFE = (
    "WARNING: --unsafe runs what students wrote as you, on this computer, with your "
    "files and your network. Do this in a machine that you can throw away."
)
FULL = (
    "The disk is full: {}. What was graded is kept. Make room, then type the same "
    "command: it goes on from here."
)


def main(argv=None):
    """Run the command; returns its exit code."""
    args = parse(argv)
    pin(os.environ)  # workers inherit one thread each
    try:
        sandbox.require(args.unsafe)
        if args.unsafe:
            say(UNSAFE)
        if args.dry_run:
            return rehearse(args)
        with records.Records(args.into) as kept:
            return grade(args, kept)
    except KeyboardInterrupt:
        say("Stopped. The same command goes on from here.")
    except PROBLEMS as problem:
        say(FULL.format(problem) if walk.disk_full(problem) else str(problem))
    return 1


PROBLEMS = (
    intake.Refused,
    records.Changed,
    records.Taken,
    sandbox.Unavailable,
    OSError,
)


def options():
    """The parser of the command's words."""
    parser = argparse.ArgumentParser(
        prog="course.py grade", description=__doc__.partition("\n\n")[2]
    )
    add, switch = parser.add_argument, partial(parser.add_argument, action="store_true")
    add("submissions", nargs="?", metavar="SUBMISSIONS", type=Path)
    text = "csv of the class: id, name, and any of the platforms' ids or logins"
    add("--roster", type=Path, metavar="FILE", help=text)
    switch("--yes", help="grade although the class looks odd")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="at once, here")
    add("--scheduler", metavar="tcp://HOST:PORT", help="grade on this Dask cluster")
    text = "which of several attempts counts (default: best)"
    add("--policy", choices=records.POLICIES, default="best", help=text)
    text = (
        "let the attempts with these sha256 count, of which 6 digits or more are given"
    )
    add("--count", nargs="+", default=[], metavar="SHA", help=text)
    text = "only these students or lessons"
    add("--only", nargs="+", default=[], metavar="NAME", help=text)
    switch("--regrade", help="grade again, and say what changes")
    add("--into", type=Path, default=records.GRADES, metavar="FOLDER", help="grades/")
    switch("--unsafe", help="run student code without a sandbox")
    text = "list SUBMISSIONS, grade the course's own solutions, record nothing"
    switch("--dry-run", help=text)
    return parser


def parse(argv):
    parser = options()
    args = parser.parse_args(argv)
    if args.submissions is None and not args.dry_run:
        parser.error("SUBMISSIONS is missing: a folder, a zip or a notebook")
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}, expected at least 1")
    if any(len(sha) < 6 for sha in args.count):
        parser.error("--count wants 6 digits or more of an attempt's sha256")
    return args


def say(text):
    print(text.encode("utf-8", "replace").decode(), flush=True)


# the class


def grade(args, kept):
    collection = collected(args, kept)
    introduce(collection, args)
    if collection.doubts and not args.yes:
        say("Nothing was graded. If all this is right, type the same with --yes.")
        return 1
    attempts = [each for mine in collection.attempts.values() for each in mine]
    if moved := kept.move(attempts):
        say(
            f"Graded before under other names, which are no longer used: {named(moved)}"
        )
    todo = list(pending(collection, kept, args))
    say(
        f"{total(collection)}: {len(attempts) - len(todo)} need nothing, "
        f"{len(todo)} to grade."
    )
    with workers(args) as make:
        for verdict in graded(make, [task(a, kept.seed, args) for a in todo]):
            kept.add(verdict)
        choose(collection, kept, args)
        changes, failed = settle(collection, kept, args, make)
    refused = [*collection.refused, *failed]
    name = walk.readable(args.submissions.resolve().name)
    whose = collection.senders
    kept.reject([rejected(s, why, whose.get(s, "")) for s, why in refused], name)
    kept.beside(collection.beside)
    if args.regrade:
        say("\n".join(changes or ["No marks changed."]))
    summarize(args, collection)
    return 0


def workers(args):
    return pool.cluster(args.scheduler) if args.scheduler else pool.local(args.jobs)


def collected(args, kept=None):
    """The submissions, of those students and lessons that are asked for.

    Args:
        kept: the `Records` that keep their bytes; in memory if there is none.
    """
    lessons = master.lessons()
    keep = kept and kept.keep
    rows = class_list(args, kept)
    found = intake.collect(args.submissions, lessons, config.limits(), keep, rows)
    return only(found, args.only, lessons) if args.only else found


def class_list(args, kept):
    """The roster: the one that is given, else the one of the last run."""
    path = args.into / "roster.csv"
    if not args.roster:
        return roster.read(path) if path.exists() else None
    rows = roster.read(args.roster)
    if kept:
        kept.write("roster.csv", args.roster.read_bytes())
    return rows


def only(found, wanted, lessons):
    """What was found of some students or lessons.

    Raises:
        intake.Refused: a name is neither.
    """
    names = {student for student, _ in found.attempts}
    students = names & {*wanted}
    numbers = {name.zfill(2) for name in wanted if name not in students}
    chosen = {name for name in lessons if {name, name[:2]} & numbers}
    told = {mark for name in chosen for mark in (name, name[:2])}
    if unknown := numbers - told:
        listing = ", ".join(sorted(unknown))
        raise intake.Refused(f"--only: no student or lesson is called {listing}")
    found.attempts = {
        (student, lesson): attempts
        for (student, lesson), attempts in found.attempts.items()
        if student in (students or names) and lesson in (chosen or lessons)
    }
    found.refused = []
    return found


def introduce(collection, args):
    """Say who was found, and what looks odd."""
    say(
        f"Found {count(len(collection.students), 'student')}: "
        f"{named(collection.students)}"
    )
    if not collection.matched:
        say(
            "Is each of them one person, and is nobody missing? --roster class.csv "
            "compares them with your class."
        )
    for line in collection.matched:
        say(f"  {line}")
    listed("LOOK at this first", collection.doubts)


def count(number, noun):
    return f"{number} {noun}" + ("" if number == 1 else "s")


def named(names):
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def total(collection):
    number = sum(map(len, collection.attempts.values()))
    refused = f", {len(collection.refused)} refused" if collection.refused else ""
    students = count(len(collection.students), "student")
    return f"{students}, {count(number, 'submission')}{refused}"


def candidates(attempts, policy):
    """The attempts that may count."""
    return {"best": attempts, "last": attempts[-1:], "first": attempts[:1]}[policy]


def pending(collection, kept, args):
    for attempts in collection.attempts.values():
        for attempt in candidates(attempts, args.policy):
            where = attempt.student, attempt.lesson, attempt.sha256
            if args.regrade or where not in kept.receipts.known:
                yield attempt


def task(attempt, seed, args):
    """The job of grading one attempt."""
    facts = {
        "seed": seed,
        "lesson": attempt.lesson,
        "student": attempt.student,
        "unsafe": args.unsafe,
        "source": attempt.source,
        "platform": tuple(attempt.platform.items()),
    }
    return pool.Job(
        judge.grade_bytes,
        lambda: facts | {"content": attempt.read()},
        partial(judge.not_judged, facts | {"sha256": attempt.sha256}),
    )


def graded(make, jobs):
    """Yields verdicts, and shows how far it is."""
    if not jobs:
        return
    with tqdm(total=len(jobs), unit="submission", dynamic_ncols=True) as bar:
        for _, verdict in pool.run(make, jobs):
            bar.update()
            yield verdict


def choose(collection, kept, args):
    """Keep what a person has chosen with --count.

    Raises:
        intake.Refused: no attempt has such a sha256.
    """
    attempts = [each for mine in collection.attempts.values() for each in mine]
    for start in args.count:
        found = [a for a in attempts if a.sha256.startswith(start.lower())]
        if not found:
            raise intake.Refused(f"--count: no attempt here has the sha256 {start}")
        for attempt in found:
            kept.receipts.append(
                {"chosen": [attempt.student, attempt.lesson, attempt.sha256]}
            )


def settle(collection, kept, args, make):
    """Let the attempts that count count.

    Returns: lines on what changed, and (source, reason) of what could not be recorded.
    """
    changes, failed = [], []
    for job, text in pool.run(make, to_record(collection, kept, args)):
        before, verdict, attempt = job.of
        try:
            kept.record(verdict, attempt.read(), text, args.policy)
        except (OSError, records.Changed):
            raise
        except Exception as error:  # whatever it is, the next one is recorded
            what = f"cannot be recorded: {type(error).__name__}: {error}"
            failed.append((attempt.source, what))
        if before and (line := change(before, verdict)):
            changes.append(line)
    return changes, failed


def to_record(collection, kept, args):
    """Jobs that make the pages of what is not in the gradebook yet."""
    for attempts in collection.attempts.values():
        chosen = kept.choose(candidates(attempts, args.policy), args.policy)
        before, verdict, attempt = chosen
        # a kill may have come between receipt and gradebook
        if before is not verdict or args.regrade:
            yield pool.Job(
                page,
                lambda v=verdict, a=attempt: {"content": a.read(), "verdict": v},
                lambda reason, v=verdict: plain_page(v),
                chosen,
            )


def change(before, now):
    """One line on how a mark changed and why, or nothing."""
    if (before.points, before.status) == (now.points, now.status):
        return ""
    reasons = [
        f"{name} {mark(before.exercises.get(name))} → {mark(exercise)}{rows}"
        for name, exercise in now.exercises.items()
        if (rows := moved(before.exercises.get(name), exercise)) is not None
    ]
    if before.receipt.sha256 != now.receipt.sha256:
        reasons.append("another attempt counts")
    elif before.receipt.version != now.receipt.version:
        reasons.append("the course has changed since")
    if now.reason != before.reason:
        reasons.append(now.reason or "it no longer needs review")
    head = f"{now.student} {now.lesson}: {before.points:g} → {now.points:g}"
    return f"{head}; {'; '.join(reasons)}"


def mark(exercise):
    if exercise is None or exercise.points is None:
        return "not judged"
    return f"{exercise.points:g}"


def moved(before, now):
    """What changed in an exercise's table; None where its points are the same."""
    if before is None or before.points == now.points:
        return None
    states = {row.title: row.state for row in before.rows}
    rows = [
        f"{row.title} {states[row.title]}→{row.state}"
        for row in now.rows
        if states.get(row.title, row.state) != row.state
    ]
    return f" ({', '.join(rows)})" if rows else ""


def rejected(source, why, student=""):
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Verdict(student, "", REJECTED, why, Receipt("", "", 0, now, source))


def summarize(args, collection):
    """What an instructor wants to know when it is over."""
    verdicts = records.verdicts(args.into)
    say("")
    for name in sorted({v.lesson for v in verdicts}):
        say(about(name, [v for v in verdicts if v.lesson == name]))
    review = [v for v in verdicts if v.status == NEEDS_REVIEW]
    listed("need review", [f"{v.student} {v.lesson}: {v.reason}" for v in review])
    refused = records.rejected(args.into)
    listed("rejected", [f"{v.receipt.source}: {v.reason}" for v in refused])
    if collection.beside:
        say(
            f"{len(collection.beside)} other files are no submissions: "
            f"{args.into / 'no_submissions.txt'}"
        )
    waiting = sum(v.status == GRADED and bool(v.awaits) for v in verdicts)
    if waiting:
        say(f"{waiting} have written answers that await a person: course.py formgrader")
    if damaged := records.Receipts(args.into).damaged:
        say(
            f"receipts.jsonl: {len(damaged)} lines cannot be read (first: line "
            f"{damaged[0]}); what they told was graded again"
        )
    say(f"Grades are in {args.into}. Next: course.py report")


def about(name, verdicts):
    """One line on a lesson."""
    count = Counter(verdict.status for verdict in verdicts)
    tasks = [e for v in verdicts for e in v.exercises.values() if e.points is not None]
    most = sum(e.max for e in tasks)
    share = f"{sum(e.points for e in tasks) / most:.0%}" if most else "none"
    return (
        f"{name}: {count[GRADED]} graded, {count[NEEDS_REVIEW]} need review; "
        f"{share} of the autograded points"
    )


def listed(title, lines):
    if lines:
        say(f"{len(lines)} {title}:")
        more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        say("\n".join(f"  {line}" for line in [*lines[:SHOWN], *more]))


# a rehearsal


def rehearse(args):
    """Grade the solved and the untouched course, and record nothing."""
    if args.submissions:
        found = collected(args)
        introduce(found, args)
        say(f"Would grade {total(found)}:")
        for (student, lesson), attempts in found.attempts.items():
            say(f"  {student} {lesson}: {', '.join(a.source for a in attempts)}")
        listed("would be rejected", [f"{s}: {why}" for s, why in found.refused])
        listed("are no submissions", [f"{s}: {why}" for s, why in found.beside])
    with workers(args) as make:
        results = list(graded(make, list(rehearsal(args))))
    for verdict in sorted(results, key=lambda v: (v.lesson, v.student)):
        tasks = verdict.exercises.values()
        points, most = sum(e.points or 0 for e in tasks), sum(e.max for e in tasks)
        say(f"{verdict.lesson}, {verdict.student}: {points:g} of {most:g} points")
        if verdict.reason:
            say(f"  {verdict.status}: {verdict.reason}")
    right = all(sound(verdict) for verdict in results)
    say("As it should be." if right else "This is NOT as it should be.")
    return 0 if right else 1


def rehearsal(args):
    for name in master.lessons():
        course = master.lesson(name)
        views = {"solved": course.solved, "untouched": course.student}
        for student, notebook in views.items():
            facts = {"seed": 1, "lesson": name, "student": student}
            facts |= {"unsafe": args.unsafe, "content": dumps(notebook).encode()}
            yield pool.Job(
                judge.grade_bytes,
                lambda facts=facts: facts,
                partial(judge.not_judged, facts),
            )


def sound(verdict):
    """Whether the solved notebook has all points, and the untouched one none."""
    share = 1 if verdict.student == "solved" else 0
    points = [(e.points, share * e.max) for e in verdict.exercises.values()]
    return verdict.status == GRADED and all(got == want for got, want in points)


if __name__ == "__main__":
    sys.exit(main())
