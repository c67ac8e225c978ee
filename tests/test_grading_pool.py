"""Many submissions at once: a worker that dies costs nobody a grade."""

import multiprocessing
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest
from submissions import FIRST, FULL, LESSON, LIMITS, content, solved, with_answer

from grading import judge, pool
from grading.verdict import NEEDS_REVIEW

BYTES = content(solved())


def job(student, data=BYTES, **more):
    facts = {"seed": 1, "lesson": LESSON, "student": student, "content": data} | more
    failed = partial(judge.not_judged, facts)
    return pool.Job(judge.grade_bytes, lambda: facts, failed, student)


def tasks(count, most=None):
    for number in range(count):
        if most is not None:
            most.append(number)
        yield job(f"student-{number}")


class Instant:
    """An Executor that answers at once, and dies of some students."""

    made = 0

    def __init__(self, deadly=(), failing=()):
        self.deadly, self.failing, self.dead = deadly, failing, False

    def __call__(self):
        self.dead = False
        Instant.made += 1
        return self, 2

    def submit(self, function, **arguments):
        assert function is judge.grade_bytes
        future, student = Future(), arguments["student"]
        self.dead = self.dead or student in self.deadly
        if self.dead:
            future.set_exception(BrokenProcessPool("a worker died"))
        elif student in self.failing:
            future.set_exception(MemoryError("no room"))
        else:
            future.set_result(f"verdict of {student}")
        return future


def graded(make, count=9):
    return {job.of: v for job, v in pool.run(make, tasks(count))}


def test_everything_is_graded_once():
    found = graded(Instant())
    assert found == {f"student-{k}": f"verdict of student-{k}" for k in range(9)}


def test_who_kills_workers_is_left_to_a_person_and_nobody_else():
    found = graded(Instant(deadly={"student-3", "student-7"}))
    assert len(found) == 9
    for student, verdict in found.items():
        if student in ("student-3", "student-7"):
            assert verdict.status == NEEDS_REVIEW and "worker died" in verdict.reason
            assert all(e.points is None for e in verdict.exercises.values())
        else:
            assert verdict == f"verdict of {student}"


def test_an_error_of_the_grader_is_told():
    verdict = graded(Instant(failing={"student-2"}))["student-2"]
    assert verdict.status == NEEDS_REVIEW and "no room" in verdict.reason


def test_only_a_few_are_under_way():
    asked = []
    jobs = [job(f"student-{number}") for number in range(100)]
    for each in jobs:
        each.arguments = lambda make=each.arguments: asked.append(1) or make()
    running = pool.run(Instant(), jobs)
    next(running)
    assert len(asked) <= 2 * pool.AHEAD
    running.close()


def test_what_cannot_be_read_any_more_is_left_to_a_person():
    jobs = list(tasks(3))
    jobs[1].arguments = lambda: Path("/no/such/file").read_bytes()
    found = {job.of: v for job, v in pool.run(Instant(), jobs)}
    assert found["student-1"].status == NEEDS_REVIEW
    assert "No such file" in found["student-1"].reason
    assert found["student-2"] == "verdict of student-2"


@pytest.mark.sandbox
def test_workers_grade_and_end():
    wrong = with_answer("def batchnorm_forward(*args):\n    return 1, 2, 3")
    both = {"solved": BYTES, "wrong": content(wrong)}
    jobs = [job(name, data, limits=LIMITS) for name, data in both.items()]
    with pool.local(2) as make:
        found = {v.student: v for _, v in pool.run(make, jobs)}
    points = {name: e.points for name, e in found["wrong"].exercises.items()}
    assert points == FULL | {FIRST: 0.0}
    assert found["solved"].points == sum(FULL.values())
    assert multiprocessing.active_children() == []
