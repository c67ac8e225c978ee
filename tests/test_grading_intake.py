"""Intake: every form that platforms hand out is understood, every trick refused."""

import io
import os
import stat
import zipfile
from dataclasses import replace

import pytest
from submissions import COURSE, LESSON, LIMITS, content, untouched

from grading import intake, master, naming
from tools.build import dumps

LESSONS = master.lessons()
OTHER = "02_backward_derivation"
BYTES = content(untouched())


def numbered(number):
    """Bytes of the lesson's notebook that are like no other."""
    nb = COURSE.student
    nb.metadata["number"] = number
    return dumps(nb).encode()


def zipped(files):
    """Bytes of a zip; values are bytes, or (bytes, attributes of its ZipInfo)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6))
            if isinstance(data, tuple):
                data, facts = data
                for key, value in facts.items():
                    setattr(info, key, value)
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def laid_out(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def collect(path, limits=LIMITS):
    return intake.collect(path, LESSONS, limits)


def who(path, limits=LIMITS):
    return sorted(collect(path, limits).attempts)


FORMS = {
    "a folder per student": (
        {f"ada/{LESSON}.ipynb": BYTES}
        | {f"bob/{folder}/{OTHER}.ipynb": BYTES for folder in ("work", "old", "files")},
        {("ada", LESSON), ("bob", OTHER)},
    ),
    "loose notebooks": (
        {f"ada_{LESSON}.ipynb": BYTES, f"b-o.b_{OTHER}.ipynb": BYTES},
        {("ada", LESSON), ("b-o.b", OTHER)},
    ),
    "Moodle": (
        {
            f"Ada Lovelace_123_assignsubmission_file_/{LESSON}.ipynb": BYTES,
            f"Bo B_4_assignsubmission_file/{LESSON}.ipynb": BYTES,
            "Zoë_5_assignsubmission_file_/all.zip": zipped({f"x/{OTHER}.ipynb": BYTES}),
        },
        {("Ada-Lovelace", LESSON), ("Bo-B", LESSON), ("Zoë", OTHER)},
    ),
    "Canvas": (
        {
            f"lovelaceada_12_345_{LESSON}.ipynb": BYTES,
            f"bob_LATE_13_346_{LESSON}-2.ipynb": BYTES,
            "eve_14_347_all.zip": zipped({f"{OTHER}.ipynb": BYTES}),
        },
        {("lovelaceada_12", LESSON), ("bob_13", LESSON), ("eve_14", OTHER)},
    ),
    "a zip per student": (
        {
            "ada.zip": zipped({f"{LESSON}.ipynb": BYTES, f"x/{OTHER}.ipynb": BYTES}),
            "bob_submission_20260101T000000Z.zip": zipped({f"{LESSON}.ipynb": BYTES}),
        },
        {("ada", LESSON), ("ada", OTHER), ("bob", LESSON)},
    ),
    "a zip of the class": (
        {"class.zip": zipped({f"{n}/{LESSON}.ipynb": BYTES for n in ("ada", "bob")})},
        {("ada", LESSON), ("bob", LESSON)},
    ),
    "a zip of zips": (
        {
            "class.zip": zipped(
                {f"{n}.zip": zipped({f"{LESSON}.ipynb": BYTES}) for n in ("ada", "bob")}
            )
        },
        {("ada", LESSON), ("bob", LESSON)},
    ),
    "a zip from Moodle": (
        {"L.zip": zipped({f"A B_1_assignsubmission_file_/{LESSON}.ipynb": BYTES})},
        {("A-B", LESSON)},
    ),
    "renamed, copied, saved again": (
        {
            "ada/homework.ipynb": BYTES,
            f"bob/{LESSON}-Copy1.ipynb": BYTES,
            f"eve/{LESSON} (2).ipynb": BYTES,
            f"Zoe {LESSON}.ipynb": BYTES,
        },
        {("ada", LESSON), ("bob", LESSON), ("eve", LESSON), ("Zoe", LESSON)},
    ),
    "what systems add": (
        {
            f"ada/{LESSON}.ipynb": BYTES,
            f"ada/.ipynb_checkpoints/{LESSON}-checkpoint.ipynb": b"",
            f"ada/__MACOSX/._{LESSON}.ipynb": b"",
            "ada/.DS_Store": b"",
            "receipt.txt": b"",
        },
        {("ada", LESSON)},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_understood(tmp_path, form):
    files, wanted = FORMS[form]
    found = collect(laid_out(tmp_path, files))
    assert set(found.attempts) == wanted
    assert found.refused == []
    for attempts in found.attempts.values():
        assert [attempt.read() for attempt in attempts] == [BYTES]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_understood_inside_one_zip(tmp_path, form):
    files, wanted = FORMS[form]
    path = tmp_path / "everything.zip"
    path.write_bytes(zipped(files))
    found = collect(path)
    assert set(found.attempts) == wanted and found.refused == []


def test_nobody_hands_in_for_another(tmp_path):
    inside = {f"{name}/{LESSON}.ipynb": numbered(name) for name in ("bob", "eve")}
    nested = {"bob.zip": zipped({f"{LESSON}.ipynb": numbered("zip")})}
    moodle = f"Bob_4_assignsubmission_file_/{LESSON}.ipynb"
    laid_out(
        tmp_path,
        {
            "ada.zip": zipped(inside),
            "ann.zip": zipped(nested),
            "Amy_3_assignsubmission_file_/x.zip": zipped({moodle: numbered("moodle")}),
            "amy_5_6_bob_submission_20260101T000000Z.zip": zipped(inside),
            f"bob/{LESSON}.ipynb": BYTES,
        },
    )
    found = collect(tmp_path).attempts
    assert {student for student, _ in found} == {"ada", "ann", "Amy", "amy_5", "bob"}
    assert len(found["bob", LESSON]) == 1


def test_the_name_of_a_file_does_not_beat_the_folder_of_a_student(tmp_path):
    name = f"hw_1_2026_{LESSON}.ipynb"
    laid_out(tmp_path, {f"{who}/{name}": numbered(who) for who in ("ada", "bob")})
    found = collect(tmp_path)
    assert {student for student, _ in found.attempts} == {"ada", "bob"}
    assert not found.refused


def test_a_class_from_canvas_in_a_folder_with_a_name_is_a_class(tmp_path):
    names = [f"{who}_1{k}_2_{LESSON}.ipynb" for k, who in enumerate(("ada", "bob"))]
    laid_out(tmp_path, {f"cohort/{name}": numbered(name) for name in names})
    found = collect(tmp_path)
    assert {s for s, _ in found.attempts} == {"ada_10", "bob_11"} and not found.refused


@pytest.mark.parametrize("pair", [("a b", "a-b"), ("Ana.", "Ana"), ("zoe", "Zoe")])
def test_two_students_stay_two(tmp_path, pair):
    files = {f"{who}.zip": zipped({f"{LESSON}.ipynb": numbered(who)}) for who in pair}
    found = collect(laid_out(tmp_path, files))
    assert len(found.students) == 2 and not found.refused
    assert len({student.casefold() for student in found.students}) == 2
    for student in found.students:
        assert naming.identifier(student) == student


def test_the_platform_is_told(tmp_path):
    laid_out(tmp_path, FORMS["Moodle"][0] | FORMS["Canvas"][0])
    found = collect(tmp_path).attempts
    moodle = found["Ada-Lovelace", LESSON][0].platform
    folder = "Ada Lovelace_123_assignsubmission_file_"
    told = {"kind": "moodle", "id": "123", "name": "Ada Lovelace", "file": folder}
    assert moodle == told
    late = found["bob_13", LESSON][0].platform
    assert (late["id"], late["late"]) == ("13", "yes")


def test_attempts_come_in_order_and_equal_ones_once(tmp_path):
    names = [f"ada_submission_2026010{day}T000000Z.zip" for day in (3, 1, 2)]
    files = {n: zipped({f"{LESSON}.ipynb": numbered(n)}) for n in names}
    files["ada_submission_20260104T000000Z.zip"] = files[names[1]]
    [attempts] = collect(laid_out(tmp_path, files)).attempts.values()
    assert [a.source[19:23] for a in attempts] == ["0102", "0103", "0104"]


def test_later_files_are_later_attempts(tmp_path):
    names = [f"{LESSON}{end}.ipynb" for end in ("", " (1)", " (2)")]
    laid_out(tmp_path, {f"ada/{name}": numbered(name) for name in names})
    for age, name in enumerate(reversed(names)):
        os.utime(tmp_path / "ada" / name, (10**9 + age, 10**9 + age))
    [attempts] = collect(tmp_path).attempts.values()
    assert [a.source[4:] for a in attempts] == names[::-1]


LINK = (b"/etc/passwd", {"external_attr": (stat.S_IFLNK | 0o777) << 16})
TRICKS = {
    "points out": ({f"../{LESSON}.ipynb": BYTES}, "points out"),
    "points out below": ({f"ada/../../{LESSON}.ipynb": BYTES}, "points out"),
    "absolute": ({f"/tmp/{LESSON}.ipynb": BYTES}, "no path"),
    "a drive": ({f"C:{LESSON}.ipynb": BYTES}, "no path"),
    "backslashes": ({f"ada\\..\\{LESSON}.ipynb": BYTES}, "points out"),
    "a link": ({f"{LESSON}.ipynb": LINK}, "link"),
    "control characters": ({f"a\nb_{LESSON}.ipynb": BYTES}, "cannot be seen"),
    "right to left": ({f"\u202egnp.{LESSON}.ipynb": BYTES}, "cannot be seen"),
    "another type": ({"ada/virus.exe": b"MZ"}, "neither"),
    "too many zips": (
        {"a.zip": zipped({"b.zip": zipped({"c.zip": zipped({"d.zip": b""})})})},
        "deep",
    ),
    "no zip": ({"ada.zip": b"PK, but no more"}, "cannot be unpacked"),
    "nobody's": ({f"{LESSON}.ipynb": BYTES}, "whose"),
    "no lesson": ({"ada/essay.ipynb": b"{}"}, "lesson"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_refused_alone_and_with_a_reason(tmp_path, trick):
    files, reason = TRICKS[trick]
    path = tmp_path / "class.zip"
    path.write_bytes(zipped(files | {f"bob/{LESSON}.ipynb": BYTES}))
    found = collect(path)
    assert list(found.attempts) == [("bob", LESSON)]
    [(source, why)] = found.refused
    assert reason in why
    assert source.isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["class.zip"]


def test_zip_bombs_are_refused(tmp_path):
    small = replace(LIMITS, unpacked=10_000_000, entries=50, notebook=1_000_000)
    laid_out(
        tmp_path,
        {
            "large.zip": zipped({f"a/{LESSON}.ipynb": bytes(20_000_000)}),
            "many.zip": zipped({f"{k}.ipynb": b"" for k in range(60)}),
            "one.zip": zipped({f"{LESSON}.ipynb": bytes(2_000_000)}),
            f"big/{LESSON}.ipynb": bytes(2_000_000),
            "lies.zip": lying(),
        },
    )
    found = collect(tmp_path, small)
    assert found.attempts == {}
    reasons = {source.split("/")[0]: why for source, why in found.refused}
    assert "20000000 bytes when unpacked" in reasons["large.zip"]
    assert "more than 50 files" in reasons["many.zip"]
    assert "2000000 bytes" in reasons["one.zip"] and "2000000 bytes" in reasons["big"]
    assert reasons["lies.zip"]


def lying():
    """A zip whose entry says to be smaller than it is."""
    data = bytearray(zipped({f"{LESSON}.ipynb": bytes(5_000_000)}))
    size = (5_000_000).to_bytes(4, "little")
    while size in data:
        place = data.index(size)
        data[place : place + 4] = (100).to_bytes(4, "little")
    return bytes(data)


def test_damage_stops_nothing(tmp_path):
    data = bytearray(zipped({f"ada/{LESSON}.ipynb": BYTES}))
    data[80:120] = bytes(40)
    laid_out(tmp_path, {"ada.zip": bytes(data), f"bob/{LESSON}.ipynb": BYTES})
    found = collect(tmp_path)
    assert list(found.attempts) == [("bob", LESSON)]
    assert len(found.refused) == 1


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_and_pipes_in_folders_are_refused(tmp_path):
    laid_out(tmp_path, {f"ada/{LESSON}.ipynb": BYTES})
    (tmp_path / "bob").symlink_to(tmp_path / "ada")
    (tmp_path / f"eve_{LESSON}.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / f"pipe_{LESSON}.ipynb")
    found = collect(tmp_path)
    assert list(found.attempts) == [("ada", LESSON)]
    assert len(found.refused) == 3


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(intake.Refused, match="no such file"):
        collect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ada", "ada"),
        ("Ada Lovelace", "Ada-Lovelace"),
        ("../../etc", "etc"),
        ("..", ""),
        ("a/b\\c:d", "a-b-c-d"),
        ("Zoë", "Zoë"),
        ("李雷", "李雷"),
        ("x" * 500, "x" * 100),
    ],
)
def test_an_identifier_is_a_safe_name_of_a_folder(name, wanted):
    assert naming.identifier(name) == wanted
    assert naming.identifier(wanted) == wanted


def test_the_start_page_is_passed_over_in_silence(tmp_path):
    names = ("00_start_here.ipynb", "ada_00_start_here (1).ipynb")
    more = "work/00_start_here_kept-2026-01-01_0000.ipynb"
    files = {f"ada/{name}": b"{}" for name in (*names, more)}
    files[f"ada/{LESSON}.ipynb"] = numbered(1)
    (tmp_path / "ada.zip").write_bytes(zipped(files))
    for path in (laid_out(tmp_path / "in", files), tmp_path / "ada.zip"):
        found = collect(path)
        assert list(found.attempts) == [("ada", LESSON)] and found.refused == []
