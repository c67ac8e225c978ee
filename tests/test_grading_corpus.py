"""The corpus: every submission gets its verdict, and leaves nothing behind."""

import hashlib
import json
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
from submissions import COURSE, FULL, LESSON, LIMITS, at, cases, content, solved, task

from grading import config, pool, records
from grading.page import plain_page
from grading.verdict import GRADED, Answer, Exercise, Receipt, Verdict

pytestmark = pytest.mark.sandbox

CASES = {case.name: case for case in cases()}
WATCHED = (  # what a sandbox shows of this computer, beside the system
    config.ROOT / "data",
    config.ROOT / "bn_checks" / "drivers",
    config.ROOT / "grading" / "inside",
)


def fingerprint(folders):
    """A digest of every file below some folders."""
    digest = hashlib.sha256()
    files = (path for folder in folders for path in sorted(folder.rglob("*")))
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


def left_running():
    """Processes that were started for the submissions of the corpus."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(LIMITS.message).encode() in words:
            found.append(folder.name)
    return found


def grade(chosen, jobs=2):
    with pool.local(jobs) as make:
        return {v.student: v for _, v in pool.run(make, map(task, chosen))}


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory):
    """A folder with a gradebook, as there is one where a class is graded."""
    folder = tmp_path_factory.mktemp("grades")
    receipt = Receipt("0" * 64, "0" * 12, 0, "2026-01-01T00:00:00+00:00")
    verdict = Verdict("ada", LESSON, GRADED, "", receipt)
    with records.Records(folder) as kept:
        verdict = replace(verdict, **_nothing())
        kept.add(verdict)
        kept.record(verdict, content(solved()), plain_page(verdict))
    return folder


def _nothing():
    exercises = {name: Exercise(0.0, points) for name, points in FULL.items()}
    questions = COURSE.questions.items()
    answers = {name: Answer("", task.points, 0.0) for name, task in questions}
    return {"exercises": exercises, "answers": answers}


@pytest.fixture(scope="module")
def before(class_folder):
    return fingerprint([*WATCHED, class_folder])


@pytest.fixture(scope="module")
def verdicts(before):
    return grade(CASES.values())


def test_there_are_many_kinds():
    assert len(CASES) >= 60
    kinds = {name.partition(":")[0] for name in CASES}
    assert {"answer", "extra cell", "file", "mangled", "hog", "attack"} <= kinds


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_as_expected(verdicts, name):
    case, verdict = CASES[name], verdicts[name]
    points = {name: exercise.points for name, exercise in verdict.exercises.items()}
    assert (verdict.status, points) == (case.status, case.points), verdict.to_json()
    said = json.dumps(json.loads(verdict.to_json()), ensure_ascii=False)
    assert case.says in said


def test_no_attack_earns_a_mark(verdicts):
    attacks = [v for name, v in verdicts.items() if name.startswith("attack:")]
    assert len(attacks) >= 30
    assert not [v.student for v in attacks if v.points]


def test_what_needs_review_says_why(verdicts):
    for verdict in verdicts.values():
        assert bool(verdict.reason) == (verdict.status != GRADED)


def test_no_process_is_left(verdicts):
    end = time.monotonic() + 60  # far from the usual
    while left_running() and time.monotonic() < end:
        time.sleep(0.1)
    assert left_running() == []


def test_the_host_and_the_gradebook_are_as_they_were(verdicts, before, class_folder):
    assert fingerprint([*WATCHED, class_folder]) == before


# what a whole class is like


def classmate(number):
    """An honest submission; some answers are wrong, each in its own way."""
    rng = random.Random(number)
    nb = solved()
    for name in FULL:
        if rng.random() < 0.3:
            at(nb, name).source = f"def {name}(*args):\n    return {number}"
    nb.metadata["number"] = number
    return replace(CASES["untouched"], name=f"student-{number}", content=content(nb))


def without_times(verdict):
    receipt = replace(verdict.receipt, time="")
    return replace(verdict, seconds=0.0, receipt=receipt)


def of_honest(verdicts):
    named = {n: v for n, v in verdicts.items() if n.startswith("student-")}
    return {name: without_times(verdict) for name, verdict in named.items()}


@pytest.mark.long
def test_hostile_neighbors_change_nothing_for_the_honest():
    honest = [classmate(number) for number in range(200)]
    hostile = [c for c in CASES.values() if not c.honest and c.name != "untouched"]
    rng = random.Random(0)
    mixed = honest + rng.sample(hostile, 10)
    rng.shuffle(mixed)
    alone = of_honest(grade(honest))
    assert len(alone) == 200
    assert of_honest(grade(mixed)) == alone


def test_the_same_bytes_and_seed_give_the_same_verdict():
    case = CASES["answer: einsum"]
    twice = [without_times(grade([case], 1)[case.name]) for _ in range(2)]
    assert twice[0] == twice[1]
