"""Grade a class: our sandboxed grader, and nbgrader's own autograde.

Both are started as an instructor starts them, on the same notebooks of lesson 01, which
needs NumPy alone, and of lesson 04, which needs PyTorch; starting up counts. Ours uses
two cores, and runs student code in a sandbox of its own for each submission; nbgrader's
autograde is one process, without one. A time counts only if both give the same points.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from grading import config, master, records, sandbox
from tools.build import dumps, write

from .table import Row, measure

# lesson: students and rounds; nbgrader runs all of lesson 04, over a minute
WORK = {"01_forward_pass": (8, 2), "04_mnist_training": (1, 1)}
PROGRAMS = Path(sys.executable).parent
CONFIG = """\
c = get_config()
c.CourseDirectory.db_url = "sqlite:///gradebook.db"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
"""


def rows(say, work=WORK):
    """Yield a `Row` per lesson; the unit of work is one submission.

    Tiny and fast: work={"01_forward_pass": (1, 1)}; nbgrader's three starts take the
    time.
    """
    sandbox.require()
    for lesson, (students, rounds) in work.items():
        yield row(say, lesson, students, rounds)


def row(say, lesson, students, rounds):
    """The `Row` of one lesson."""
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder) / "peer", lesson)
        ours = Ours(Path(folder) / "ours", lesson)
        say(f"making the work of {students} students")
        for number in range(students):
            for each in (peer, ours):
                each.hand_in(f"student-{number:02d}", notebook(lesson, number))
        peer.release()
        calls = {"nbgrader": peer.grade, "ours": ours.grade}
        seconds = measure(calls, rounds, warm=False, say=say)
        assert_equal_results(peer, ours)
    return Row(
        work=f"{students} submissions of lesson {lesson[:2]}, sandboxed, two cores",
        dtype="float64",
        peer="nbgrader autograde, one process, no sandbox",
        theirs=seconds["nbgrader"] / students,
        ours=seconds["ours"] / students,
        floor=3.0,
    )


def notebook(lesson, number):
    """The work of one student: two of three solve everything, the others a part."""
    course = master.lesson(lesson)
    nb = course.solved
    nb.metadata["number"] = number
    if number % 3 == 2:
        task = list(course.exercises.values())[number % len(course.exercises)]
        [cell] = [cell for cell in nb.cells if cell.id == task.cell]
        cell.source = f"def {task.defines}(*args):\n    return None\n"
    return nb


class Peer:
    """A course as nbgrader's users keep it."""

    def __init__(self, folder, lesson):
        self.folder, self.lesson = folder, lesson
        (folder / "source" / lesson).mkdir(parents=True)
        write(folder / "nbgrader_config.py", CONFIG)
        source = folder / "source" / lesson / f"{lesson}.ipynb"
        write(source, dumps(master.lesson(lesson).solved))

    def hand_in(self, student, nb):
        place = self.folder / "submitted" / student / self.lesson
        write(place / f"{self.lesson}.ipynb", dumps(nb))

    def release(self):
        self.run("generate_assignment", self.lesson)

    def grade(self):
        self.run("autograde", self.lesson, "--force")

    def run(self, *words):
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        command = [sys.executable, "-m", "nbgrader", *words]
        started(command, self.folder, os.environ | {"PATH": path})

    def points(self):
        with sqlite3.connect(self.folder / "gradebook.db") as base:
            rows = base.execute(POINTS).fetchall()
        base.close()
        return {(student, cell): score for student, cell, score in rows}


POINTS = """
select submitted_assignment.student_id, base_cell.name, grade.auto_score from grade
join base_cell on grade.cell_id = base_cell.id
join submitted_notebook on grade.notebook_id = submitted_notebook.id
join submitted_assignment on submitted_notebook.assignment_id = submitted_assignment.id
where base_cell.name like 'check-%'
"""


class Ours:
    """A folder of submissions, and what the course's command makes of it."""

    def __init__(self, folder, lesson):
        self.lesson = lesson
        self.handed_in, self.grades = folder / "class", folder / "grades"

    def hand_in(self, student, nb):
        write(self.handed_in / student / f"{self.lesson}.ipynb", dumps(nb))

    def grade(self):
        shutil.rmtree(self.grades, ignore_errors=True)
        command = [sys.executable, "-m", "grading.grade", str(self.handed_in)]
        command += ["--into", str(self.grades), "--jobs", "2"]
        started(command, config.ROOT, os.environ)

    def points(self):
        tasks = master.lesson(self.lesson).exercises
        return {
            (verdict.student, tasks[name].graded): exercise.points
            for verdict in records.verdicts(self.grades)
            for name, exercise in verdict.exercises.items()
        }


def started(command, folder, environment):
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def assert_equal_results(peer, ours):
    """Both gave the same points for every exercise of every student.

    Raises:
        RuntimeError: they did not; the text names the first difference.
    """
    theirs, mine = peer.points(), ours.points()
    for key in sorted({*theirs, *mine}):
        if theirs.get(key) != mine.get(key):
            raise RuntimeError(f"{key}: {theirs.get(key)} there, {mine.get(key)} here")
