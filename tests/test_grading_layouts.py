"""Layouts of platforms: each person is found once, with all attempts.

Nobody vanishes, nobody is merged with another, nobody is split.
"""

import io
import itertools
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from submissions import LIMITS

from grading import intake, master, naming, roster
from grading.walk import Refused
from tools.build import dumps

LESSONS = master.lessons()
L, L2 = LESSONS[:2]
NUMBERS = itertools.count()
BASE = dumps(master.lesson(L).student)


def nb():
    """Bytes of a notebook that are like no other."""
    return (BASE + " " * next(NUMBERS)).encode()


def z(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def lay(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def collect(path, rows=None):
    return intake.collect(path, LESSONS, LIMITS, roster=rows)


N = f"{L}.ipynb"
N2 = f"{L2}.ipynb"
S = ["ada", "bob", "cem"]
cv = {
    f"lovelaceada_101_5001_{N}": nb(),
    f"lovelaceada_101_5002_{L}-1.ipynb": nb(),
    f"babbagecharles_LATE_102_5003_{N}": nb(),
    f"cem_103_5004_{N}": nb(),
    "dan_104_text.html": b"x",
}


def mo(start, names=("Ada Lovelace", "Bob B", "Cem C")):
    """What Moodle hands out for one assignment."""
    folders = (f"{x}_{start + k}_assignsubmission_file_" for k, x in enumerate(names))
    return {f"{folder}/{N}": nb() for folder in folders}


inner = {f"hw1/{s}/{N}": nb() for s in S}
METADATA = b"---\n" + b"".join(
    b"submission_%d:\n  :submitters:\n  - :name: %s\n    :sid: '%d'\n    :email: a@b\n"
    % (900 + k, who, 11 + k)
    for k, who in enumerate((b"Ada", b"Bob", b"Cem"))
)

F = {
    "hw1": inner,
    "hw1.zip": {"hw1.zip": z(inner)},
    "hw1 mac": {"hw1.zip": z({**inner, **{f"__MACOSX/hw1/{s}/._{N}": b"" for s in S}})},
    "gradescope": {
        **{f"assignment_4711_export/submission_{900 + i}/{N}": nb() for i in range(3)},
        "assignment_4711_export/submission_metadata.yml": METADATA,
    },
    "gradescope no yml": {
        f"assignment_4711_export/submission_{900 + i}/{N}": nb() for i in range(3)
    },
    "submitted": {f"submitted/{s}/{L}/{N}": nb() for s in S},
    "nbg root": {
        **{f"submitted/{s}/{L}/{N}": nb() for s in S},
        f"source/{L}/{N}": nb(),
        f"release/{L}/{N}": nb(),
        f"autograded/ada/{L}/{N}": nb(),
        "gradebook.db": b"",
    },
    "nbg parent": {
        **{f"course101/submitted/{s}/{L}/{N}": nb() for s in S},
        f"course101/source/{L}/{N}": nb(),
        f"course101/autograded/ada/{L}/{N}": nb(),
    },
    "exchange": {
        **{f"inbound/{s}+{L}+2026-11-27 22:01:33.123456 UTC+aGx0/{N}": nb() for s in S},
        f"inbound/ada+{L}+2026-11-28 22:01:33.123456 UTC+aGx1/{N}": nb(),
    },
    "canvas": cv,
    "canvas submit": {
        "lovelaceada_101_5001_ada_submission_20260101T000000Z.zip": z(
            {f"ada/{N}": nb()}
        ),
        "bob_102_1_x.zip": z({f"x/{N}": nb()}),
        f"cem_103_1_{N}": nb(),
    },
    "canvas folder": {f"Lesson one of cs231/{k}": v for k, v in cv.items()},
    "canvas cohort zip": {"cohort.zip": z(cv)},
    "canvas anon": {
        f"anon_8gAN7_101_{N}": nb(),
        f"anon_8gAN7_102_{L}-1.ipynb": nb(),
        f"anonymous_LATE_8gANx_103_{N}": nb(),
        f"anon_9gANx_104_{N}": nb(),
    },
    "moodle": mo(1),
    "moodle 2 lessons": {
        **{f"CS231-Lesson 1-4711/{k}": v for k, v in mo(1).items()},
        **{f"CS231-Lesson 2-4712/{k.replace(L, L2)}": v for k, v in mo(50).items()},
    },
    "moodle 2 zips": {
        "CS231-Lesson 1-4711.zip": z(mo(1)),
        "CS231-Lesson 2-4712.zip": z({k.replace(L, L2): v for k, v in mo(50).items()}),
    },
    "moodle zip one": {"CS231-Lesson 1-4711.zip": z(mo(1))},
    "moodle flat": {
        f"{x}_{i}_assignsubmission_file_{N}": nb()
        for i, x in enumerate(("Ada L", "Bob", "Cem"))
    },
    "moodle twins": mo(1, ("Ada L", "Ada L2", "Bob"))
    | {f"Ada L_77_assignsubmission_file_/{N}": nb()},
    "blackboard": {f"Lesson 1_{s}01_attempt_2026-11-20-13-04-05_{N}": nb() for s in S}
    | {
        f"Lesson 1_ada01_attempt_2026-11-21-13-04-05_{N}": nb(),
        "Lesson 1_ada01_attempt_2026-11-20-13-04-05.txt": b"",
    },
    "brightspace": {
        f"81234-5551 - Ada Lovelace - Nov 20, 2026 104 PM/{N}": nb(),
        f"81234-5559 - Ada Lovelace - Nov 21, 2026 104 PM/{N}": nb(),
        f"81235-5552 - Bob - Nov 20, 2026 104 PM/{N}": nb(),
        f"81236-5553 - Cem - Nov 20, 2026 104 PM/{N}": nb(),
        "index.html": b"",
    },
    "drive": {
        f"Lesson 1/Ada Lovelace - {N}": nb(),
        f"Lesson 1/Copy of Zoë Müller - {N}": nb(),
        f"Lesson 1/Charles Babbage - {N}": nb(),
        f"Lesson 1/Copy of Charles Babbage - {N}": nb(),
    },
    "drive zip": {
        "Lesson 1-20261120T130405Z-001.zip": z(
            {
                f"Lesson 1/Ada Lovelace - {N}": nb(),
                f"Lesson 1/Copy of Zoë Müller - {N}": nb(),
                f"Lesson 1/Charles Babbage - {N}": nb(),
            }
        )
    },
    "course folders": {
        f"{s}/batch-normalization/{w}/{N}": nb()
        for s in S
        for w in ("work", "notebooks")
    },
    "course folder zips": {
        f"{s}.zip": z(
            {f"batch-normalization/{w}/{N}": nb() for w in ("work", "notebooks")}
        )
        for s in S
    },
    "one course folder": {
        f"ada/batch-normalization/{w}/{N}": nb() for w in ("work", "notebooks")
    },
    "class/ada.zip": {f"class/{s}.zip": z({N: nb()}) for s in S},
    "class/one.zip": {"class/ada.zip": z({N: nb()})},
    "class/two lessons one.zip": {"class/ada.zip": z({N: nb(), N2: nb()})},
    "github": {f"lesson-1-{s}/{N}": nb() for s in S},
    "github sub": {f"lesson-1-submissions/lesson-1-{s}/notebooks/{N}": nb() for s in S},
    "sakai": {
        f"Lesson 1/{x}/Submission attachment(s)/{N}": nb()
        for x in ("Lovelace, Ada(ada01)", "B, Bob(bob)", "C, Cem(cem)")
    },
    "teams": {
        f"Submitted files/{s}/Lesson 1/Version {v}/{N}": nb() for s in S for v in (1, 2)
    },
    "lesson first": {f"{each}/{s}/{each}.ipynb": nb() for s in S for each in (L, L2)},
    "hub": {f"home/jupyter-{s}/batch-normalization/work/{N}": nb() for s in S},
    "numbers": {f"{i}/{N}": nb() for i in (1234567, 7654321, 333)},
    "sections": {f"north/{s}/{N}": nb() for s in ("ada", "bob")}
    | {f"south/{s}/{N}": nb() for s in ("cem", "dan")},
    "section names": {f"Section A/{s}/{N}": nb() for s in ("ada", "bob")}
    | {f"Section B/{s}/{N}": nb() for s in ("cem",)},
    "after": {f"{L}_{s}.ipynb": nb() for s in S},
    "ended txt": {
        f"ada/{N}.txt": nb(),
        f"bob/{N}.json": nb(),
        "cem/essay.pdf": b"",
        "dan/x.py": b"",
    },
    "homework folders": {f"{s}_homework/{N}": nb() for s in S},
    "groups": {f"Group {s}/{N}": nb() for s in (1, 2, 3)},
    "own subfolders": {f"{s}/{d}/{N}": nb() for s in S for d in ("old", "new try")},
}

# attempts of each person, where they are not three people with one notebook each
WANTED = {
    "exchange": [2, 1, 1],
    "canvas": [1, 1, 2],
    "canvas folder": [1, 1, 2],
    "canvas cohort zip": [1, 1, 2],
    "canvas anon": [2, 1, 1],
    "moodle 2 lessons": [2, 2, 2],
    "moodle 2 zips": [2, 2, 2],
    "moodle twins": [1, 1, 1, 1],
    "blackboard": [2, 1, 1],
    "brightspace": [2, 1, 1],
    "drive": [1, 2, 1],
    "course folders": [2, 2, 2],
    "course folder zips": [2, 2, 2],
    "one course folder": [2],
    "class/one.zip": [1],
    "class/two lessons one.zip": [2],
    "teams": [2, 2, 2],
    "lesson first": [2, 2, 2],
    "sections": [1, 1, 1, 1],
    "ended txt": [1, 1],
    "own subfolders": [2, 2, 2],
}


@pytest.mark.parametrize("name", F)
def test_a_layout_maps_to_its_people(tmp_path, name):
    found = collect(lay(tmp_path, F[name]))
    tries = [
        sum(len(mine) for (who, _), mine in found.attempts.items() if who == student)
        for student in found.students
    ]
    assert tries == WANTED.get(name, [1, 1, 1])
    if name != "gradescope no yml":
        assert not found.doubts


@pytest.mark.parametrize("name", F)
def test_a_layout_inside_a_zip_maps_to_the_same_people(tmp_path, name):
    path = tmp_path / "download.zip"
    path.write_bytes(z(F[name]))
    inside = collect(path)
    assert inside.students == collect(lay(tmp_path / "x", F[name])).students


def test_what_is_no_notebook_is_listed(tmp_path):
    files = {f"ada/{N}": nb(), "ada/plot.png": b"", "bob/essay.pdf": b"", "c.html": b""}
    found = collect(lay(tmp_path, files))
    assert [source for source, _ in found.beside] == ["ada/plot.png"]
    assert [source for source, _ in found.refused] == ["bob/essay.pdf", "c.html"]
    assert "bob has handed in no other" in found.refused[0][1]
    assert found.senders["bob/essay.pdf"] == "bob"


def test_an_odd_class_is_said_loudly(tmp_path):
    files = {f"hand in/{who}_{L}.ipynb": nb() for who in "abcdef"}
    files |= {f"zed/{N}": nb()}
    assert any("hand-in" in doubt for doubt in collect(lay(tmp_path, files)).doubts)


def test_nobody_is_named_inside_a_students_zip(tmp_path):
    inner = {f"Bob_4_assignsubmission_file_/{N}": nb(), f"cem/{N}": nb()}
    files = {"ada.zip": z(inner), f"bob/{N}": nb(), f"cem/{N}": nb()}
    found = collect(lay(tmp_path, files))
    assert found.students == ["ada", "bob", "cem"]
    assert len(found.attempts["bob", L]) == len(found.attempts["cem", L]) == 1


@pytest.mark.parametrize("name", [".", "./.", "/", "\0x", "..", "a/../..", "//"])
def test_an_entry_without_a_name_is_refused_alone(tmp_path, name):
    content = z({"X" * len(name): b"", f"bob/{N}": nb()})
    content = content.replace(b"X" * len(name), name.encode())
    (tmp_path / "ada.zip").write_bytes(content)
    lay(tmp_path, {f"cem/{N}": nb()})
    assert "cem" in collect(tmp_path).students


@pytest.mark.parametrize("end", "-_.")
def test_a_long_name_is_an_identifier(tmp_path, end):
    name = "x" * 99 + end + "y" * 50
    assert naming.identifier(naming.identifier(name)) == naming.identifier(name)
    [student] = collect(lay(tmp_path, {f"{name}/{N}": nb()})).students
    assert naming.identifier(student) == student


# a roster


CLASS = b"""id,name,email,canvas_id
u1,"Lovelace, Ada",ada01@x.edu,101
u2,Bob B,bob@x.edu,102
u3,Cem C,cem01@x.edu,103
u4,Dan D,dan@x.edu,104
"""


@pytest.mark.parametrize(
    "name", ["moodle", "moodle 2 zips", "canvas", "blackboard", "sakai"]
)
def test_a_roster_names_the_students_and_the_missing(tmp_path, name):
    found = collect(lay(tmp_path, F[name]), roster.Roster(CLASS))
    assert {"u1", "u3"} <= set(found.students)
    said = "\n".join(found.matched)
    assert "u4" in said and "missing" in said


def test_a_roster_tells_unknown_and_double(tmp_path):
    files = {f"ada01/{N}": nb(), f"Ada Lovelace/{N}": nb(), f"eve/{N}": nb()}
    found = collect(lay(tmp_path, files), roster.Roster(CLASS))
    assert found.students == ["eve", "u1"] and len(found.attempts["u1", L]) == 2
    said = "\n".join(found.matched)
    assert "not on the roster: eve" in said and "one student of the roster, u1" in said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "headings"),
        (b"id,name\n", "headings"),
        (b"who,what\nada,x\n", "no column is called id"),
        (b"id,name\nu1,A\nU1,B\n", "one id for several rows"),
    ],
)
def test_a_roster_that_cannot_be_used_says_why(text, reason):
    with pytest.raises(Refused, match=reason):
        roster.Roster(text)


def test_two_of_one_name_are_not_guessed():
    rows = roster.Roster(b"id,name\nu1,Ada L\nu2,Ada L\n")
    assert rows.match([intake.people.Person("Ada L")]) == {}


def test_tables_of_platforms_are_rosters():
    moodle = "Identifier;Full name;Email address\nParticipant 12;Zoë M;z@x.y\n"
    [row] = roster.Roster(moodle.encode("cp1252")).rows
    assert row.name == "Zoë M"
    canvas = (
        "Student,ID,SIS User ID,SIS Login ID,Section\n    Points Possible,,,,\n"
        '"Lovelace, Ada",101,s1,ada,A\n'
    )
    [row] = roster.Roster(canvas.encode()).rows
    assert (row.student, row.name) == ("101", "Lovelace, Ada")


# a thousand


def test_a_thousand_submissions_over_ten_layouts_lose_nobody(tmp_path):
    """Five of a hundred are broken or hostile; the roster says who is missing."""
    ids = [f"u{number:04d}" for number in range(1000)]
    table = "id,name\n" + "".join(f"{x},Person {x}\n" for x in ids)
    rows = roster.Roster(table.encode())
    shapes = (
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
    seen, missing = [], set()
    for place, shape in enumerate(shapes):
        files = {}
        for k, x in list(enumerate(ids))[place * 100 : place * 100 + 100]:
            name = shape.format(x=x, n=N, lesson=L, k=1000 + k)
            broken = k % 20 == 0
            missing |= {x} if broken else set()
            files[name.replace(".ipynb", ".pdf") if broken else name] = nb()
        found = collect(lay(tmp_path / str(place), files), rows)
        assert len(found.refused) == 5, (shape, found.refused[:3])
        seen += [student for student, _ in found.attempts]
        assert all(len(mine) == 1 for mine in found.attempts.values())
    assert sorted(seen) == sorted(set(ids) - missing)


# whatever they are called


NAMES = st.text(max_size=20).filter(lambda s: "/" not in s and "\0" not in s)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=5))
def test_whatever_files_are_called_the_others_are_found(tmp_path_factory, paths):
    folder = tmp_path_factory.mktemp("any")
    files = {f"{who}/{N}": nb() for who in ("ada", "bob", "cem")}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in paths:
            name = "/".join(path).encode("utf-8", "replace").decode()
            archive.writestr(zipfile.ZipInfo(name + ".ipynb"), b"{}")
    found = collect(lay(folder, files | {"dan.zip": buffer.getvalue()}))
    assert {"ada", "bob", "cem"} <= set(found.students) <= {"ada", "bob", "cem", "dan"}
    for source, reason in [*found.refused, *found.beside]:
        assert source.encode() and reason.encode()
