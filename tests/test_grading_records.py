"""Records: written once, by one writer, and whole after any kill."""

import json
import shutil
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submissions import COURSE, FULL, LESSON, content, solved, untouched

from grading import intake, records
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
    return kept.settle([attempt(made) for made in verdicts], policy, force)


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
    enter(kept, verdict(exercises=not_judged, answers=nothing, status=NEEDS_REVIEW))
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


def test_the_best_is_graded_and_of_equals_the_last(kept):
    attempts = [verdict(points=1, sha="a"), verdict(points=1, sha="b")]
    attempts.append(verdict(points=3, sha="c", status=NEEDS_REVIEW))
    assert enter(kept, *attempts)[1].receipt.sha256[0] == "b"


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
    nb = records.graded_notebook(made, COURSE, b"")
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
        before, now = kept.settle([attempt(made)], "best")
        assert before is None and now == made
    assert len(dump(folder)) == len(FULL) + len(COURSE.questions)


def test_the_seed_is_made_once(tmp_path):
    seeds = set()
    for _ in range(2):
        with records.Records(tmp_path) as kept:
            seeds.add(kept.seed)
    assert len(seeds) == 1 and records.verdicts(tmp_path) == []
