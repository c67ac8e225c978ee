"""Grade what a class has handed in: `python -m grading.grade SUBMISSIONS`.

SUBMISSIONS is a folder, a zip or a notebook as Moodle, Canvas or students made it. What
was graded before is not graded again. Grades go to the folder grades/; see README.md.
"""

import argparse
import contextlib
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from tools import pin
from tools.build import dumps

from . import config, intake, master, pool, records, sandbox
from .judge import grade_one
from .verdict import GRADED, NEEDS_REVIEW, REJECTED, Receipt, Verdict

__all__ = ["grade_one", "main"]

SHOWN = 20  # lines of a list in the summary
UNSAFE = (
    "WARNING: --unsafe runs what students wrote as you, on this computer, with your "
    "files and your network. Do this in a machine that you can throw away."
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
        say(str(problem))
    return 1


PROBLEMS = (
    intake.Refused,
    records.Changed,
    records.Taken,
    sandbox.Unavailable,
    OSError,
)


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="course.py grade", description=__doc__.partition("\n\n")[2]
    )
    add = parser.add_argument
    add("submissions", nargs="?", metavar="SUBMISSIONS", type=Path)
    add("--jobs", type=int, default=os.cpu_count() or 1, help="at once, here")
    add("--scheduler", metavar="tcp://HOST:PORT", help="grade on this Dask cluster")
    add(
        "--policy",
        choices=records.POLICIES,
        default="best",
        help="which of several attempts counts (default: best)",
    )
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these students or lessons",
    )
    add("--regrade", action="store_true", help="grade again, and say what changes")
    add("--into", type=Path, default=records.GRADES, metavar="FOLDER", help="grades/")
    add("--unsafe", action="store_true", help="run student code without a sandbox")
    add(
        "--dry-run",
        action="store_true",
        help="list SUBMISSIONS, grade the course's own solutions, record nothing",
    )
    args = parser.parse_args(argv)
    if args.submissions is None and not args.dry_run:
        parser.error("SUBMISSIONS is missing: a folder, a zip or a notebook")
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}, expected at least 1")
    return args


def say(text):
    print(text, flush=True)


# the class


def grade(args, kept):
    collection = collected(args)
    todo = list(pending(collection, kept, args))
    done = sum(map(len, collection.attempts.values())) - len(todo)
    say(f"{total(collection)}: {done} need nothing, {len(todo)} to grade.")
    changes = []
    tasks = (task(attempt, kept.seed, args) for attempt in todo)
    finished = Counter()
    goal = Counter((attempt.student, attempt.lesson) for attempt in todo)
    for verdict in graded(args, tasks, len(todo)):
        kept.add(verdict)
        where = verdict.student, verdict.lesson
        finished[where] += 1
        if finished[where] == goal[where]:
            changes += settled(kept, collection.attempts[where], args)
    for where, attempts in collection.attempts.items():
        if where not in goal:  # a kill may have come between receipt and gradebook
            changes += settled(kept, attempts, args)
    kept.reject([rejected(source, why) for source, why in collection.refused])
    if args.regrade:
        say("\n".join(changes or ["No marks changed."]))
    summarize(args)
    return 0


def collected(args):
    """The submissions, of those students and lessons that are asked for."""
    lessons = master.lessons()
    found = intake.collect(args.submissions, lessons, config.limits())
    if args.only:
        names = {student for student, _ in found.attempts}
        students = names & {*args.only}
        numbers = {name.zfill(2) for name in args.only if name not in students}
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


def total(collection):
    count = sum(map(len, collection.attempts.values()))
    refused = f", {len(collection.refused)} refused" if collection.refused else ""
    return f"{len(collection.students)} students, {count} submissions{refused}"


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
    """The arguments of `grade_bytes` for one attempt."""
    return {
        "read": attempt.read,
        "seed": seed,
        "lesson": attempt.lesson,
        "student": attempt.student,
        "unsafe": args.unsafe,
        "source": attempt.source,
        "platform": tuple(attempt.platform.items()),
    }


def graded(args, tasks, count):
    """Yields verdicts, and shows how far it is."""
    if not count:
        return
    workers = pool.cluster(args.scheduler) if args.scheduler else pool.local(args.jobs)
    bar = tqdm(total=count, unit="submission", dynamic_ncols=True)
    with workers as make, bar, contextlib.closing(pool.grade_all(make, tasks)) as done:
        for _, verdict in done:
            bar.update()
            yield verdict


def settled(kept, attempts, args):
    """Let the attempt that counts count; yields what changed by it."""
    before, now = kept.settle(
        candidates(attempts, args.policy), args.policy, force=args.regrade
    )
    if before and (line := change(before, now)):
        yield line


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


def rejected(source, why):
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Verdict("", "", REJECTED, why, Receipt("", "", 0, now, source))


def summarize(args):
    """What an instructor wants to know when it is over."""
    verdicts = records.verdicts(args.into)
    say("")
    for name in sorted({v.lesson for v in verdicts}):
        say(about(name, [v for v in verdicts if v.lesson == name]))
    review = [v for v in verdicts if v.status == NEEDS_REVIEW]
    listed("need review", [f"{v.student} {v.lesson}: {v.reason}" for v in review])
    refused = records.rejected(args.into)
    listed("rejected", [f"{v.receipt.source}: {v.reason}" for v in refused])
    waiting = sum(v.status == GRADED and bool(v.awaits) for v in verdicts)
    if waiting:
        say(f"{waiting} have written answers that await a person: course.py formgrader")
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
        say(f"Would grade {total(found)}:")
        for (student, lesson), attempts in found.attempts.items():
            say(f"  {student} {lesson}: {', '.join(a.source for a in attempts)}")
        listed("would be rejected", [f"{s}: {why}" for s, why in found.refused])
    tasks = list(rehearsal(args))
    results = list(graded(args, tasks, len(tasks)))
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
            content = dumps(notebook).encode()
            yield {
                "read": lambda content=content: content,
                "seed": 1,
                "lesson": name,
                "student": student,
                "unsafe": args.unsafe,
            }


def sound(verdict):
    """Whether the solved notebook has all points, and the untouched one none."""
    share = 1 if verdict.student == "solved" else 0
    points = [(e.points, share * e.max) for e in verdict.exercises.values()]
    return verdict.status == GRADED and all(got == want for got, want in points)


if __name__ == "__main__":
    sys.exit(main())
