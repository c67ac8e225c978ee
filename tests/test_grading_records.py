"""Records: written once, by one writer, and whole after any kill."""

import errno
import json
import shutil
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submissions import COURSE, FULL, LESSON, content, solved, untouched

from grading import intake, page, records
from grading.page import plain_page
from grading.verdict import (
    GRADED,
    NEEDS_REVIEW,
    Answer,
    Exercise,
    Receipt,
    Row,
    Verdict,
)

BYTES = content(solved())
ROWS = (Row("values of y", "✗", ("got <b>1</b>",), "eps", "You <i>forgot</i>.", "s 4"),)


def verdict(student="ada", points=1.0, sha="a", status=GRADED, **facts):
    exercises = {n: Exercise(points, most, ROWS) for n, most in FULL.items()}
    questions = COURSE.questions.items()
    answers = {n: Answer(f"text {sha}", task.points) for n, task in questions}
    receipt = Receipt(sha * 64, "v" * 12, 3, "2026-01-01T00:00:00+00:00", "x.zip/a")
    made = Verdict(student, LESSON, status, "", receipt, 0.5, exercises, answers)
    return replace(made, **facts)


def attempt(made):
    sha, student = made.receipt.sha256, made.student
    return intake.Attempt(student, LESSON, (sha,), sha, "x", lambda: BYTES)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A gradebook that knows the lesson; making one takes seconds."""
    with records.Records(tmp_path_factory.mktemp("empty")) as kept:
        kept._prepare(COURSE)
    return kept.folder


@pytest.fixture
def folder(tmp_path, empty):
    return shutil.copytree(empty, tmp_path / "grades")


@pytest.fixture
def kept(folder):
    with records.Records(folder) as kept:
        yield kept


def enter(kept, *verdicts, policy="best", force=False):
    for made in verdicts:
        kept.add(made)
    return settle(kept, verdicts, policy, force)


def settle(kept, verdicts, policy="best", force=False):
    """Let what counts count, as the command does."""
    chosen = kept.choose([attempt(made) for made in verdicts], policy)
    before, now, _ = chosen
    if before is not now or force:
        kept.record(now, BYTES, plain_page(now), policy)
    return before, now


def dump(folder):
    """What the gradebook says of grades, ids and times aside."""
    query = (
        "select student.id, base_cell.name, auto_score, manual_score, "
        "needs_manual_grade from grade join base_cell on cell_id = base_cell.id "
        "join submitted_notebook on grade.notebook_id = submitted_notebook.id "
        "join submitted_assignment on submitted_notebook.assignment_id = "
        "submitted_assignment.id "
        "join student on student_id = student.id order by 1, 2"
    )
    with sqlite3.connect(folder / "gradebook.db") as base:
        rows = base.execute(query).fetchall()
    base.close()
    return rows


def mark(folder, student, cell, points, comment=""):
    """Enter points as nbgrader's page does."""
    with records._gradebook(folder) as gradebook:
        grade = gradebook.find_grade(cell, LESSON, LESSON, student)
        grade.manual_score, grade.needs_manual_grade = points, False
        if comment:
            found = gradebook.find_comment(cell, LESSON, LESSON, student)
            found.manual_comment = comment
        gradebook.db.commit()


# verdicts as JSON

TEXT = st.text(max_size=10)
POINTS = st.none() | st.floats(0, 10)
ROW = st.builds(Row, TEXT, TEXT, st.lists(TEXT, max_size=2).map(tuple), TEXT)
VERDICT = st.builds(
    Verdict,
    student=TEXT,
    lesson=TEXT,
    status=TEXT,
    reason=TEXT,
    receipt=st.builds(Receipt, TEXT, TEXT, st.integers(0, 9), TEXT, TEXT),
    seconds=st.floats(0, 9),
    exercises=st.dictionaries(
        TEXT,
        st.builds(Exercise, POINTS, st.just(3.0), st.lists(ROW, max_size=2).map(tuple)),
        max_size=2,
    ),
    answers=st.dictionaries(
        TEXT, st.builds(Answer, TEXT, st.just(2.0), POINTS), max_size=2
    ),
    notes=st.lists(TEXT, max_size=2).map(tuple),
    platform=st.dictionaries(TEXT, TEXT, max_size=2),
)


@given(VERDICT)
def test_a_verdict_is_the_same_after_json(made):
    line = made.to_json()
    assert "\n" not in line
    assert Verdict.from_json(line) == made


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"student": "ada"}', "null"])
def test_what_is_no_verdict_is_refused(text):
    with pytest.raises(ValueError, match="not a verdict"):
        Verdict.from_json(text)


def test_a_verdict_sums_and_names_what_is_open():
    made = verdict()
    assert made.points == 4 and made.max == COURSE.lesson.totals["points"]
    assert made.awaits == tuple(COURSE.questions)
    assert made.mistakes == dict.fromkeys(FULL, ("eps",))


# the gradebook


def test_points_arrive_and_answers_await_a_person(kept):
    enter(kept, verdict())
    rows = dump(kept.folder)
    assert len(rows) == len(FULL) + len(COURSE.questions)
    for _, name, automatic, manual, waits in rows:
        graded = name.startswith("check-")
        assert (automatic, manual, waits) == (
            (1.0, None, 0) if graded else (None, None, 1)
        )


def test_what_nobody_judged_is_open_and_what_is_empty_is_nothing(kept):
    nothing = {n: Answer("", t.points, 0.0) for n, t in COURSE.questions.items()}
    not_judged = {n: Exercise(None, p, reason="died") for n, p in FULL.items()}
    failed = {"status": NEEDS_REVIEW, "reason": "the grader failed: it died"}
    enter(kept, verdict(exercises=not_judged, answers=nothing, **failed))
    for _, name, automatic, _, waits in dump(kept.folder):
        graded = name.startswith("check-")
        assert (automatic, waits) == ((None, 1) if graded else (0.0, 0))


def test_doing_it_twice_changes_nothing(kept):
    made = verdict()
    enter(kept, made)
    first = dump(kept.folder)
    enter(kept, made, force=True)
    assert dump(kept.folder) == first


def test_marks_of_people_stay_and_are_told(kept):
    made, [name, *_] = verdict(), COURSE.questions
    cell = COURSE.questions[name].cell
    enter(kept, made)
    mark(kept.folder, "ada", cell, 1.5, "Nearly.")
    enter(kept, made, force=True)
    [told] = records.verdicts(kept.folder)
    assert (told.answers[name].points, told.answers[name].comment) == (1.5, "Nearly.")
    assert (("ada", cell, None, 1.5, 0)) in dump(kept.folder)
    enter(kept, made, verdict(sha="b"), policy="last")
    assert ("ada", cell, None, 1.5, 1) in dump(kept.folder)
    [told] = records.verdicts(kept.folder)  # another text: somebody must look again
    assert told.answers[name].points is None


def test_a_person_settles_what_needed_review(kept):
    not_judged = {n: Exercise(None, p, reason="died") for n, p in FULL.items()}
    enter(kept, verdict(exercises=not_judged, status=NEEDS_REVIEW, reason="died"))
    [told] = records.verdicts(kept.folder)
    assert told.status == NEEDS_REVIEW
    for task in COURSE.exercises.values():
        mark(kept.folder, "ada", task.graded, 2.0)
    [told] = records.verdicts(kept.folder)
    assert told.status == GRADED and told.exercises["batchnorm_forward"].points == 2


@pytest.mark.parametrize(("policy", "wanted"), [("best", 3), ("last", 2), ("first", 1)])
def test_the_policy_decides(kept, policy, wanted):
    attempts = [verdict(points=p, sha=s) for p, s in ((1, "a"), (3, "b"), (2, "c"))]
    _, now = enter(kept, *attempts, policy=policy)
    assert now.exercises["batchnorm_forward"].points == wanted
    assert [v.points for v in records.verdicts(kept.folder)] == [4 * wanted]


def test_of_equals_the_last_counts(kept):
    attempts = [verdict(points=1, sha="a"), verdict(points=1, sha="b")]
    assert enter(kept, *attempts)[1].receipt.sha256[0] == "b"


def written(sha, exercises, answered, **facts):
    """A verdict with the points of each exercise, and how many answers are written."""
    names = enumerate(COURSE.questions.items())
    answers = {
        n: Answer(
            "text" if k < answered else "", t.points, None if k < answered else 0.0
        )
        for k, (n, t) in names
    }
    pairs = zip(FULL.items(), exercises, strict=True)
    made = {n: Exercise(p, most) for (n, most), p in pairs}
    return verdict(sha=sha, exercises=made, answers=answers, **facts)


def test_an_attempt_is_judged_by_what_it_may_still_earn(kept):
    """An empty draft that is final at 0, and a better one that a person must see."""
    draft = written("a", [0.0] * len(FULL), 0)
    late = written(
        "b", [None, *list(FULL.values())[1:]], 4, status=NEEDS_REVIEW, reason="died"
    )
    assert enter(kept, draft, late)[1].receipt.sha256[0] == "b"
    full = written("c", FULL.values(), 0, student="bob")
    nearly = [list(FULL.values())[0] - 0.3, *list(FULL.values())[1:]]
    texts = written("d", nearly, 4, student="bob")
    assert enter(kept, texts, full)[1].receipt.sha256[0] == "d"


def test_a_file_without_work_never_beats_work(kept):
    good = written("a", FULL.values(), 2)
    garbage = written(
        "b", [None] * len(FULL), 0, status=NEEDS_REVIEW, reason="the file is empty"
    )
    assert garbage.unreadable
    assert enter(kept, good, garbage)[1].receipt.sha256[0] == "a"


def test_a_person_decides_where_another_attempt_may_be_worth_more(kept):
    full = written("a", FULL.values(), 0)
    first = list(FULL.values())[0] - 0.3
    texts = written("b", [first, *list(FULL.values())[1:]], 1)
    enter(kept, full, texts)
    [told] = records.verdicts(kept.folder)
    assert told.receipt.sha256[0] == "b" and told.status == GRADED
    name = next(iter(COURSE.questions))
    mark(kept.folder, "ada", COURSE.questions[name].cell, 0.0)
    [told] = records.verdicts(kept.folder)
    assert told.status == NEEDS_REVIEW and "aaaaaaaa" in told.reason
    assert [
        v.receipt.sha256[0] for v in records.others(kept.folder)["ada", LESSON]
    ] == ["a"]
    kept.receipts.append({"chosen": ["ada", LESSON, "a" * 64]})
    assert settle(kept, [full, texts])[1].receipt.sha256[0] == "a"
    mark(kept.folder, "ada", COURSE.questions[name].cell, 2.0)


def test_a_garbage_file_is_one_box(kept):
    garbage = written(
        "b", [None] * len(FULL), 0, status=NEEDS_REVIEW, reason="the file is empty"
    )
    enter(kept, garbage)
    assert sum(waits for *_, waits in dump(kept.folder)) == 1
    [told] = records.verdicts(kept.folder)
    assert told.status == NEEDS_REVIEW
    mark(kept.folder, "ada", next(iter(COURSE.exercises.values())).graded, 0.0)
    [told] = records.verdicts(kept.folder)
    assert told.status == GRADED and told.points == 0


def test_who_is_called_otherwise_now_keeps_the_grade(kept):
    enter(kept, verdict("Ada-Lovelace"))
    old = attempt(verdict("Ada-Lovelace"))
    now = replace(old, student="u123", sha256="a" * 64)
    assert kept.move([now]) == ["Ada-Lovelace"]
    assert ("u123", LESSON, "a" * 64) in kept.receipts.known
    assert ("Ada-Lovelace", LESSON) not in kept.receipts.counting
    assert kept.move([now]) == []


SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x1cf\udc80"


def test_no_character_ends_a_line_but_the_line_feed(folder):
    made = verdict(reason=SEPARATORS, notes=(SEPARATORS,), status=NEEDS_REVIEW)
    with records.Records(folder) as kept:
        enter(kept, made)
        kept.reject([verdict(reason=SEPARATORS)])
    assert len(records.verdicts(folder)) == 1
    assert records.rejected(folder)[0].reason == SEPARATORS


def test_records_of_before_are_read(folder):
    """They were written with all letters as they are."""
    made = verdict(reason=SEPARATORS[:-1], status=NEEDS_REVIEW)
    text = json.dumps({"verdict": json.loads(made.to_json())}, ensure_ascii=False)
    (folder / "receipts.jsonl").write_bytes(text.encode() + b"\n")
    assert records.Receipts(folder).known[records.key(made)] == made


def test_a_damaged_line_costs_itself_alone(folder):
    with records.Records(folder) as kept:
        enter(kept, verdict(), verdict(sha="b"))
    path = folder / "receipts.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([b"{damage", *lines]))
    assert records.Receipts(folder).damaged == [1]
    assert len(records.verdicts(folder)) == 1


def test_a_full_disk_is_said_and_nothing_is_half_done(kept, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def full(*_):
        raise OperationalError("", {}, Exception("database or disk is full"))

    monkeypatch.setattr(records, "_enter", full)
    with pytest.raises(OSError, match="full") as problem:
        enter(kept, verdict())
    assert problem.value.errno == errno.ENOSPC and not kept.receipts.counting
    monkeypatch.undo()
    assert settle(kept, [verdict()])[0] is None and kept.receipts.counting


def test_students_have_the_platforms_names(kept):
    platform = {"kind": "moodle", "id": "12", "name": "Ada King Lovelace"}
    enter(kept, verdict(platform=platform))
    with records._gradebook(kept.folder) as gradebook:
        found = gradebook.find_student("ada")
        assert (found.first_name, found.last_name) == ("Ada King", "Lovelace")
        assert found.lms_user_id == "12"


def test_a_name_that_is_a_path_is_not_written(kept):
    with pytest.raises(ValueError, match="identifier"):
        enter(kept, verdict(student="../ada"))


def test_notebooks_lie_where_nbgrader_looks(kept):
    enter(kept, verdict())
    where = "ada", LESSON
    assert records.place(kept.folder, "submitted", *where).read_bytes() == BYTES
    shown = records.place(kept.folder, "autograded", *where)
    data = json.loads(shown.read_text(encoding="utf-8"))
    outputs = [o for c in data["cells"] for o in c.get("outputs", ())]
    assert len(outputs) == len(FULL)
    for output in outputs:
        html = "".join(output["data"]["text/html"])
        assert "&lt;b&gt;1&lt;/b&gt;" in html and "<i>" not in html
    assert records.place(kept.folder, "source", ".", LESSON).exists()


def test_a_broken_file_is_shown_with_its_reason(tmp_path):
    made = verdict(status=NEEDS_REVIEW, reason="the file is empty")
    nb = page.graded_notebook(made, COURSE, b"")
    assert "the file is empty" in nb.cells[0].source
    assert [c.source for c in nb.cells[1:]] == [c.source for c in untouched().cells]


def test_another_set_of_exercises_needs_another_folder(kept, monkeypatch):
    enter(kept, verdict())
    kept.prepared.clear()
    nb = COURSE.solved
    nb.cells = [c for c in nb.cells if c.id != "check-batchnorm-forward"]
    monkeypatch.setattr(type(COURSE), "solved", nb)
    with pytest.raises(records.Changed, match="--into"):
        enter(kept, verdict("bob"))


# one writer, and kills


def test_a_second_writer_is_refused_with_a_reason(kept):
    with pytest.raises(records.Taken, match="Another grader .*process"):
        records.Records(kept.folder).__enter__()
    kept.lock.close()
    with records.Records(kept.folder):
        pass


def test_a_line_that_was_cut_is_taken_off(folder):
    with records.Records(folder) as kept:
        enter(kept, verdict())
    path = folder / "receipts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"verdict": {"stud')
    assert len(records.verdicts(folder)) == 1
    with records.Records(folder):
        assert path.read_bytes() == whole


def test_what_a_kill_left_out_is_made_up_for(folder):
    made = verdict()
    with records.Records(folder) as kept:
        kept.add(made)  # killed before the gradebook was written
    with records.Records(folder) as kept:
        assert records.key(made) in kept.receipts.known
        before, now = settle(kept, [made])
        assert before is None and now == made
    assert len(dump(folder)) == len(FULL) + len(COURSE.questions)


def test_the_seed_is_made_once(tmp_path):
    seeds = set()
    for _ in range(2):
        with records.Records(tmp_path) as kept:
            seeds.add(kept.seed)
    assert len(seeds) == 1 and records.verdicts(tmp_path) == []
