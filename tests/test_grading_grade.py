"""The command: a class in, grades out, and again after any interruption."""

import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest
from submissions import FIRST, FULL, LESSON, content, solved, untouched, with_answer
from test_grading_corpus import CASES, classmate, without_times
from test_grading_records import dump

from grading import config, grade, master, records, report
from grading.verdict import GRADED, NEEDS_REVIEW, Exercise, Receipt, Row, Verdict

pytestmark = pytest.mark.sandbox
WRONG = "def batchnorm_forward(*args):\n    return 1, 2, 3"


def write_class(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    return write_class(
        folder,
        {
            f"ada/{LESSON}.ipynb": content(solved()),
            f"bob/{LESSON}.ipynb": content(untouched()),
            f"bob/{LESSON} (1).ipynb": content(with_answer(WRONG)),
            f"eve_{LESSON}.ipynb": b"{",
            "essay.docx": b"",
        },
    )


@pytest.fixture(scope="module")
def graded(submissions, tmp_path_factory):
    """Grades of the class."""
    into = tmp_path_factory.mktemp("home") / "grades"
    assert command(submissions, into) == 0
    return into


def command(submissions, into, *options):
    return grade.main([str(submissions), "--into", str(into), "--jobs", "2", *options])


def points(into):
    return {v.student: v.points for v in records.verdicts(into)}


def test_a_class_is_graded(graded, submissions):
    found = {v.student: v for v in records.verdicts(graded)}
    assert list(found) == ["ada", "bob", "eve"]
    full = sum(FULL.values())
    assert (found["ada"].points, found["bob"].points) == (full, full - FULL[FIRST])
    assert found["eve"].status == NEEDS_REVIEW and "no notebook" in found["eve"].reason
    [refused] = records.rejected(graded)
    assert refused.receipt.source == "essay.docx"


def test_a_receipt_tells_what_was_graded(graded):
    for verdict in records.verdicts(graded):
        receipt = verdict.receipt
        assert len(receipt.sha256) == 64 and receipt.time.endswith("+00:00")
        assert receipt.version == master.lesson(LESSON).version
        assert receipt.seed == int((graded / "seed").read_text(encoding="utf-8"))


def test_again_there_is_nothing_to_do(graded, submissions, capsys):
    before = dump(graded), (graded / "receipts.jsonl").read_bytes()
    assert command(submissions, graded) == 0
    assert "4 need nothing, 0 to grade" in capsys.readouterr().out
    assert (dump(graded), (graded / "receipts.jsonl").read_bytes()) == before


def test_the_summary_names_what_needs_a_person(graded, submissions, capsys):
    command(submissions, graded)
    out = capsys.readouterr().out
    assert f"{LESSON}: 2 graded, 1 need review" in out
    assert f"eve {LESSON}: the file is no notebook" in out
    assert "essay.docx: neither a notebook" in out
    assert "await a person" in out


def test_regrading_says_what_changes(graded, submissions, capsys):
    assert command(submissions, graded, "--regrade", "--only", "ada") == 0
    assert "No marks changed." in capsys.readouterr().out
    before = points(graded)
    assert command(submissions, graded, "--policy", "first") == 0
    after = points(graded)
    assert (before["bob"], after["bob"]) == (8, 0)
    assert command(submissions, graded, "--policy", "best", "--regrade") == 0
    out = capsys.readouterr().out
    assert f"bob {LESSON}: 0 → 8" in out and "another attempt counts" in out
    assert points(graded) == before


def test_a_change_is_explained():
    made = {v: _verdict(v) for v in (0.0, 3.0)}
    line = grade.change(made[0.0], made[3.0])
    assert line == f"ada {LESSON}: 0 → 3; {FIRST} 0 → 3 (values of y ✗→✓)"
    review = replace(made[3.0], status=NEEDS_REVIEW, reason="it died")
    assert "it died" in grade.change(made[3.0], review)
    assert grade.change(made[3.0], made[3.0]) == ""
    receipt = replace(made[3.0].receipt, version="other")
    newer = replace(made[3.0], receipt=receipt)
    assert "the course has changed" in grade.change(made[0.0], newer)


def _verdict(earned):
    row = Row("values of y", "✓" if earned else "✗")
    receipt = Receipt("a" * 64, "v", 1, "t")
    exercises = {FIRST: Exercise(earned, 3.0, (row,))}
    return Verdict("ada", LESSON, GRADED, "", receipt, exercises=exercises)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["ada"], {"ada"}),
        (["1"], {"ada", "bob", "eve"}),
        (["01", "bob"], {"bob"}),
        ([LESSON, "eve"], {"eve"}),
        (["2"], set()),
    ],
)
def test_only_chooses(submissions, names, wanted):
    args = grade.parse([str(submissions), "--only", *names])
    assert {student for student, _ in grade.collected(args).attempts} == wanted


def test_mistakes_of_the_instructor_are_named(
    submissions, tmp_path, capsys, monkeypatch
):
    assert command(submissions, tmp_path, "--only", "nobody") == 1
    assert "no student or lesson is called nobody" in capsys.readouterr().out
    assert command(tmp_path / "nowhere", tmp_path) == 1
    assert "no such file" in capsys.readouterr().out
    with records.Records(tmp_path):
        assert command(submissions, tmp_path) == 1
    assert "Another grader is writing" in capsys.readouterr().out
    for words in ([], [str(submissions), "--jobs", "0"]):
        with pytest.raises(SystemExit):
            grade.main(words)
    monkeypatch.setenv("PATH", "")
    assert command(submissions, tmp_path) == 1
    assert "sudo apt install bubblewrap" in capsys.readouterr().out


def test_a_rehearsal_grades_the_courses_own_and_records_nothing(
    submissions, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(master, "lessons", lambda: [LESSON])
    into = tmp_path / "grades"
    assert command(submissions, into, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "Would grade 3 students, 4 submissions, 1 refused" in out
    assert f"{LESSON}, solved: 11 of 11 points" in out
    assert f"{LESSON}, untouched: 0 of 11 points" in out
    assert not into.exists()


def test_a_cluster_gives_the_same_verdicts(graded, submissions, tmp_path):
    from distributed import LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    into = tmp_path / "grades"
    into.mkdir()
    (into / "seed").write_bytes((graded / "seed").read_bytes())
    with LocalCluster(processes=True, **options) as cluster:
        address = cluster.scheduler_address
        assert command(submissions, into, "--scheduler", address) == 0
    for here, there in zip(
        records.verdicts(graded), records.verdicts(into), strict=True
    ):
        assert without_times(here) == without_times(there)
    assert dump(into) == dump(graded)


# kill -9, at any moment


def start(submissions, into, *options, stdout=subprocess.DEVNULL):
    words = [sys.executable, "-m", "grading.grade", str(submissions)]
    return subprocess.Popen(
        [*words, "--into", str(into), "--jobs", "2", *options],
        cwd=config.ROOT,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )


def workers_of(pid):
    """Processes that a grader has started, and those that these have started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    except OSError:  # it has just ended
        return []
    children = [int(child) for child in text.split()]
    return children + [pid for child in children for pid in workers_of(child)]


def killed(submissions, into, seconds):
    """Start the grader, and kill it; whether it was still at work."""
    process = start(submissions, into)
    time.sleep(seconds)
    over = process.poll() is not None
    workers = [] if over else workers_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 60  # one that is just starting looks up late
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "a worker outlives the grader"
        time.sleep(0.1)
    return not over


def kill_and_go_on(tmp_path, students, moments):
    """Grades after kills are those without; nobody is in the gradebook twice."""
    made = write_class(
        tmp_path / "class",
        {
            f"{c.name}/{LESSON}.ipynb": c.content
            for c in map(classmate, range(students))
        },
    )
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    assert command(made, calm) == 0
    rough.mkdir()
    (rough / "seed").write_bytes((calm / "seed").read_bytes())
    hits = [killed(made, rough, seconds) for seconds in moments]
    assert command(made, rough) == 0
    assert dump(rough) == dump(calm)
    lines = (rough / "receipts.jsonl").read_bytes().splitlines()
    assert len({*records.Receipts(rough).counting}) == students
    here, there = map(records.verdicts, (calm, rough))
    assert list(map(without_times, here)) == list(map(without_times, there))
    return sum(hits), len(lines)


def test_a_kill_costs_nothing(tmp_path):
    kill_and_go_on(tmp_path, 4, [4.0])


@pytest.mark.long
def test_twenty_kills_cost_nothing(tmp_path):
    rng = random.Random(time.time())
    hits, _ = kill_and_go_on(tmp_path, 120, [rng.uniform(1, 9) for _ in range(20)])
    assert hits >= 10


# a thousand


SHAPES = (  # as ten platforms lay them out
    "{x}/{n}",
    "hw1/{x}/{n}",
    "Person {x}_{k}_assignsubmission_file_/{n}",
    "submitted/{x}/{lesson}/{n}",
    "inbound/{x}+{lesson}+2026-11-27 22:01:33.1 UTC+a/{n}",
    "Lesson 1_{x}_attempt_2026-11-20-13-04-05_{n}",
    "Lesson 1/Person {x} - {n}",
    "person{x}_{k}_5{k}_{n}",
    "{x}_{n}",
    "{k}-5 - Person {x} - Nov 20, 2026 104 PM/{n}",
)
VERDICT = 0.15  # MB that a submission may leave in memory
EVERY = 20  # of so many students one hands in what is hostile or broken


def odd_ones():
    """What hostile students hand in, but for what is made to fill the memory.

    40 of them, again and again: the second and the tenth hundred have the same five.
    """
    kinds = ("attack", "file", "hog", "mangled", "extra cell", "answer")
    odd = [c for c in CASES.values() if c.name.startswith(kinds)]
    odd = [case for case in odd if not (case.honest or case.small)]
    random.Random(0).shuffle(odd)
    return cycle(odd[:40])


def mixed_classes(folder):
    """Ten zips of a hundred students each; the bytes of each, by id."""
    odd, handed_in = odd_ones(), {}
    for place, shape in enumerate(SHAPES):
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(folder / f"class {place}.zip", "w") as archive:
            for number in range(100 * place, 100 * place + 100):
                case = classmate(number) if (number + 10) % EVERY else next(odd)
                x, facts = f"u{number:04d}", {"n": f"{LESSON}.ipynb", "lesson": LESSON}
                name = shape.format(x=x, k=1000 + number, **facts)
                archive.writestr(name, case.content)
                handed_in[x] = case
    return handed_in


@pytest.mark.long
def test_a_thousand_submissions_of_ten_layouts(tmp_path):
    """Nobody is missing, merged or double; time is linear, and memory nearly flat.

    Processor time: other programs on this computer must not decide. What stays of a
    submission is its verdict.
    """
    made, into, table = (tmp_path / name for name in ("classes", "grades", "class.csv"))
    handed_in = mixed_classes(made)
    people = [f"{x},Person {x}\n" for x in [*handed_in, "u1000"]]
    table.write_text("id,name\n" + "".join(people), encoding="utf-8")
    with (tmp_path / "said").open("w") as said:
        process = start(made, into, "--roster", str(table), stdout=said)
        samples = watched(process, into / "receipts.jsonl")
    nobody_is_lost(handed_in, into)
    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert "1000 of the roster's 1001 students were found" in said
    assert any("u1000" in line and "missing" in line for line in said.splitlines())
    for what, start_of in (("grading", 0), ("recording", 1000)):
        early, late = (phase(samples, start_of + k) for k in (100, 899))
        print(
            f"{what}: {early[0]:.1f}, {late[0]:.1f} s; {early[1]:.0f}, {late[1]:.0f} MB"
        )
        assert late[0] < 1.2 * early[0]
        assert late[1] < early[1] + 800 * VERDICT


def phase(samples, start_of):
    """Processor time (s) and most memory (MB) of a hundred steps."""
    inside = [s for s in samples if start_of <= s[0] <= start_of + 100]
    used = spent(samples, start_of + 100) - spent(samples, start_of)
    return used, max(megabytes for _, _, megabytes in inside)


def nobody_is_lost(handed_in, into):
    """Everybody has one verdict, and it is what the bytes deserve."""
    verdicts = records.verdicts(into)
    assert [v.student for v in verdicts] == sorted(handed_in)
    assert len({*records.Receipts(into).counting}) == len(handed_in)
    for verdict in verdicts:
        case = handed_in[verdict.student]
        if case.name.startswith("student-"):
            exercises = verdict.exercises.items()
            assert {n: e.points for n, e in exercises} == deserved(case), case.name
        else:
            assert verdict.status == case.status, (case.name, verdict.reason)


def deserved(case):
    """Points of a classmate: nothing for an answer that returns a number."""
    text = case.content.decode()
    wrong = {n for n in FULL if f"def {n}(*args)" in text}
    return {name: 0 if name in wrong else most for name, most in FULL.items()}


def watched(process, receipts):
    """Of a grader at work, as it goes: steps done, processor time and memory.

    A submission takes two steps: it is graded, and when all are, it is recorded.
    """
    samples = []
    while process.poll() is None:
        told = receipts.read_bytes() if receipts.exists() else b""
        count = told.count(b'"verdict"') + told.count(b'"recorded"')
        used = [usage(pid) for pid in [process.pid, *workers_of(process.pid)]]
        samples.append((count, sum(u[0] for u in used), sum(u[1] for u in used)))
        time.sleep(0.5)
    assert process.returncode == 0
    return samples


def usage(pid):
    """Processor time (s) and memory (MB) of a grader's process; 0 of a sandbox's."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
    except (OSError, IndexError):
        return 0.0, 0.0
    if "(bwrap)" in text or not sees_the_host(pid):
        return 0.0, 0.0
    ticks = sum(map(int, text.rpartition(")")[2].split()[11:15]))
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    return seconds, int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


def sees_the_host(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return False


def spent(samples, count):
    return next(seconds for reached, seconds, _ in samples if reached >= count)


# whatever one hands in, the others have what they would have alone


HOSTILE = {
    "separators": b'"a\xe2\x80\xa8b\xc2\x85c',
    "surrogate": 'def batchnorm_forward(*a):\n    raise RuntimeError("odd \\udc80")',
    "line separator": "def batchnorm_forward(*a):\n    raise OSError('a\u2028b\x85c')",
    "long sum": f"x = {'+'.join(['1'] * 4000)}\ndef batchnorm_forward(*a): ...",
    "deep": f"x = {'(' * 150}1{')' * 150}\ny = {'-' * 3000}1",
    "joined": "x = " + " ".join(["'a'"] * 2000),
}


def hostile(value):
    return value if isinstance(value, bytes) else content(with_answer(value))


def test_one_item_never_stops_another(tmp_path, capsys):
    files = {f"ada/{LESSON}.ipynb": content(solved())}
    alone = write_class(tmp_path / "alone", files)
    files |= {f"{n}/{LESSON}.ipynb": hostile(v) for n, v in HOSTILE.items()}
    files |= {f"u\u2028\x85 {n}/{LESSON}.ipynb": b"[" for n in "xy"}
    mixed = write_class(tmp_path / "mixed", files)
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    rough.mkdir()
    assert command(alone, calm) == 0
    (rough / "seed").write_bytes((calm / "seed").read_bytes())
    for options in ([], [], ["--regrade"]):
        assert command(mixed, rough, "--yes", *options) == 0
    report.main(["--into", str(rough), "--return", "folder"])
    found = {v.student: without_times(v) for v in records.verdicts(rough)}
    assert found["ada"] == without_times(records.verdicts(calm)[0])
    refused = {v.receipt.source for v in records.rejected(rough)}
    assert len(found) + len(refused) >= len(files)


def test_a_file_that_vanishes_was_read_before(tmp_path, monkeypatch):
    made = write_class(tmp_path / "class", {f"ada/{LESSON}.ipynb": content(solved())})
    introduce = grade.introduce

    def gone(*args):
        (made / "ada" / f"{LESSON}.ipynb").unlink()
        introduce(*args)

    monkeypatch.setattr(grade, "introduce", gone)
    assert command(made, tmp_path / "grades") == 0
    assert points(tmp_path / "grades") == {"ada": sum(FULL.values())}


def test_an_odd_class_is_not_graded_before_somebody_agrees(tmp_path, capsys):
    files = {f"hand-in/{n}/{LESSON}.ipynb": content(with_answer(n)) for n in "abcde"}
    made = write_class(tmp_path / "class", files | {f"bob/{LESSON}.ipynb": b"{}"})
    assert command(made, tmp_path / "grades") == 1
    out = capsys.readouterr().out
    assert "LOOK at this first" in out and "hand-in has 5 different notebooks" in out
    assert records.verdicts(tmp_path / "grades") == []
