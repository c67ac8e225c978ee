"""The parts of course.py: progress, answers, updates, and what they may not touch."""

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tools.door import answers, files, machine, progress, update
from tools.lesson import STUB

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
FIRST = f"{NAMES[0]}.ipynb"


def first():
    return files.read_notebook(NOTEBOOKS / FIRST)


def cell(notebook, name):
    return next(c for c in notebook["cells"] if progress.name_of(c) == name)


def tasks(notebook, start):
    return [c for c in notebook["cells"] if progress.name_of(c).startswith(start)]


def checked(notebook, name, text):
    output = {"output_type": "execute_result", "data": {"text/plain": text}}
    cell(notebook, name)["outputs"] = [output]


# files


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_editors_notebook_is_read(tmp_path, end, mark):
    text = files.dumps(first()).replace("\n", end).encode()
    (tmp_path / "a.ipynb").write_bytes(mark + text)
    assert files.read_notebook(tmp_path / "a.ipynb") == first()


def test_line_ends_within_cells_are_no_work_of_the_students():
    mine = first()
    for each in mine["cells"]:
        each["source"] = "".join(each["source"]).replace("\n", "\r\n")
    assert progress.undone(mine, first()) is None
    assert progress.described(mine, first()) == (False, "untouched")


def test_a_new_file_takes_nobodys_place(tmp_path):
    files.write_new(tmp_path / "a.txt", "mine")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "a.txt", "yours")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_a_disk_without_links_takes_nobodys_place_either(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refused)
    files.write_new(tmp_path / "a.txt", "mine")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "a.txt", "yours")
    assert (tmp_path / "a.txt").read_text() == "mine"


# progress


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def save(work, notebook, name=FIRST):
    (work / name).write_text(json.dumps(notebook), encoding="utf-8")


def test_every_lesson_says_its_facts(work):
    for lesson in progress.table(NOTEBOOKS, work):
        assert lesson.title[:2] == lesson.name[:2] and lesson.minutes > 30
        assert lesson.name[:2] not in lesson.needs
        assert {f"{n}_" for n in lesson.needs} <= {name[:3] for name in NAMES}
        assert all(total for _, total in lesson.tasks.values())


def test_the_map_agrees_with_the_readme(work):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for lesson in progress.table(NOTEBOOKS, work):
        points = lesson.points[1] + lesson.written
        row = f"({NOTEBOOKS.name}/{lesson.name}.ipynb)"
        [line] = [line for line in readme.splitlines() if row in line]
        assert f"| {lesson.minutes} | {points:g} |" in line


def test_a_copy_with_two_exercises_solved(work):
    mine = first()
    for each in tasks(mine, "ex-")[:2]:
        each["source"] = "def f():\n    return 1"
        name = progress.name_of(each).replace("ex-", "check-")
        checked(mine, name, "1.9")
    cell(mine, tasks_names(mine, "answer-")[0])["source"] = "Because."
    save(work, mine)
    lesson = progress.table(NOTEBOOKS, work)[0]
    assert [done for done, _ in lesson.tasks.values()] == [2, 1]
    assert lesson.points[0] == pytest.approx(3.8)
    assert lesson.begun and not lesson.finished
    said = progress.plain(progress.table(NOTEBOOKS, work))
    assert f"Go on with {lesson.title}." in said and " 3.8 of " in said


def tasks_names(notebook, start):
    return [progress.name_of(each) for each in tasks(notebook, start)]


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-1", "1e9", "1e999999999", "", "y", "4", None]
)
def test_what_is_no_number_of_points_counts_nothing(work, text):
    mine = first()
    data = {} if text is None else {"text/plain": text}
    output = {"output_type": "execute_result", "data": data}
    tasks(mine, "check-")[0]["outputs"] = [{"output_type": "stream"}, output]
    save(work, mine)
    assert progress.table(NOTEBOOKS, work)[0].points[0] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": [{}]}', '{"cells": [3]}'])
def test_a_copy_that_cannot_be_read_stops_no_table(work, text):
    (work / FIRST).write_text(text, encoding="utf-8")
    lessons = progress.table(NOTEBOOKS, work)
    assert lessons[0].tasks is None
    assert "cannot be read" in progress.plain(lessons)
    assert "cannot be read" in progress.linked(lessons)
    words, target = progress.advice(lessons)
    assert (words, target.name) == ("Next comes", NAMES[1])


def test_all_done(work):
    for name in NAMES:
        mine = files.read_notebook(NOTEBOOKS / f"{name}.ipynb")
        for each in tasks(mine, ("ex-", "answer-")):
            each["source"] = "done"
        save(work, mine, f"{name}.ipynb")
    assert "Every exercise and question has an answer." in progress.plain(
        progress.table(NOTEBOOKS, work)
    )


# the start page


def page(work):
    return json.loads((work / progress.START).read_text(encoding="utf-8"))


def shown(notebook):
    return cell(notebook, "map")["outputs"][0]["data"]["text/markdown"]


def test_the_start_page_is_renewed_while_nobody_wrote_in_it(work):
    progress.renew_start(NOTEBOOKS, work)
    assert "**Begin with [01" in shown(page(work))
    assert all(f"({name}.ipynb)" in shown(page(work)) for name in NAMES)
    mine = first()
    tasks(mine, "ex-")[0]["source"] = "def f(): return 1"
    save(work, mine)
    saved = page(work) | {"nbformat_minor": 4}  # as an editor saves it
    cell(saved, "map").update(outputs=[], execution_count=3)
    (work / progress.START).write_text(json.dumps(saved), encoding="utf-8")
    progress.renew_start(NOTEBOOKS, work)
    assert "**Go on with [01" in shown(page(work))


@pytest.mark.parametrize("change", ["a cell", "a word", "nonsense", "another notebook"])
def test_a_start_page_that_was_written_in_stays(work, change):
    progress.renew_start(NOTEBOOKS, work)
    mine = page(work)
    if change == "a cell":
        note = {"cell_type": "markdown", "id": "x", "metadata": {}, "source": "mine"}
        mine["cells"].append(note)
    elif change == "a word":
        mine["cells"][0]["source"] += " my note"
    elif change == "another notebook":
        mine = {"cells": [], "metadata": {}}
    text = "my text" if change == "nonsense" else json.dumps(mine)
    (work / progress.START).write_text(text, encoding="utf-8")
    progress.renew_start(NOTEBOOKS, work)
    assert (work / progress.START).read_text(encoding="utf-8") == text


# answers


def test_answers_are_carried_and_blanks_are_not():
    old, new = first(), first()
    exercise, other = tasks(old, "ex-")[:2]
    exercise["source"] = "".join(exercise["source"]).replace(STUB[1], "return 1, 2, 3")
    cell(old, tasks_names(old, "answer-")[0])["source"] = "Because."
    changed = "".join(other["source"]).replace("Blend", "Mix")  # an earlier stub
    other["source"] = changed
    carried, notes = answers.carry(old, new)
    assert len(carried) == 2 and notes == []
    name = progress.name_of(exercise)
    assert cell(new, name)["source"] == exercise["source"]
    assert cell(new, progress.name_of(other)) == cell(first(), progress.name_of(other))


def test_what_cannot_be_carried_is_told():
    old, new = first(), first()
    gone, other, twice = tasks(old, "ex-")[:3]
    for each in (gone, other, twice):
        each["source"] = "def f(x):\n    return 1"
    old["cells"].append(copy.deepcopy(twice) | {"source": "def f(x):\n    return 2"})
    mine = {"cell_type": "code", "id": "mine", "metadata": {}, "source": "print(1)"}
    old["cells"].append(mine)
    new["cells"].remove(cell(new, progress.name_of(gone)))
    carried, notes = answers.carry(old, new)
    assert len(carried) == 2
    text = "; ".join(notes)
    assert "has no place" in text and "stands there twice" in text
    assert "in another form" in text and "1 more cells" in text


CLASS = '''class Layer:
    def __init__(self, n):
        self.n = n

    def forward(self, x):
        """y."""
        # your code here
        raise NotImplementedError

    def backward(self, dy):
        # your code here
        raise NotImplementedError'''


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (CLASS, False),
        (CLASS.replace("y.", "y of x."), False),
        (CLASS.replace('"""y."""', "return x"), True),
        (CLASS.replace("raise NotImplementedError", "return x", 1), True),
        (CLASS.replace("self.n = n", "self.n = n + 1"), True),
        (CLASS + "\n\nhelper = 3\ndef more(): return 1", True),
        ("def broken(:", True),
        ("", False),
        ("  \n", False),
    ],
)
def test_what_counts_as_written(text, written):
    given = CLASS.replace("y.", "the output.")
    assert answers.written("ex-layer", text, given) == written


# the lock, and what children inherit


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from tools.door import machine\n"
        "with machine.locked(sys.argv[2], 'waiting'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = tmp_path / "lock"
    words = [sys.executable, "-c", code, str(ROOT), str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with open(path, "a+b") as file:
            assert not machine.try_lock(file)
        holder.kill()
    with machine.locked(path, "waiting") as file, open(path, "a+b") as other:
        assert not machine.try_lock(other)


def test_children_inherit_nothing_foreign(tmp_path):
    foreign = {
        "PYTHONHOME": "/x",
        "PYTHONPATH": "/ros/lib",
        "PIP_TARGET": "/x",
        "JUPYTER_CONFIG_DIR": "/x",
        "JUPYTER_NO_CONFIG": "1",
        "MPLBACKEND": "TkAgg",
        "IPYTHONDIR": "/x",
    }
    kept = {"PATH": "/bin", "PIP_INDEX_URL": "http://mirror", "HTTPS_PROXY": "p"}
    kept |= {"HOME": str(tmp_path), "PYTHONHASHSEED": "0"}
    child = machine.child_environment(tmp_path, foreign | kept)
    assert machine.foreign(foreign | kept) == sorted(foreign)
    assert kept.items() <= child.items()
    assert not {"/x", "/ros/lib", "TkAgg"} & set(child.values())


@pytest.mark.skipif(os.name == "nt", reason="HOME is POSIX's")
@pytest.mark.parametrize("home", ["", "/nonexistent", None])
def test_a_child_has_a_home(tmp_path, home):
    given = {} if home is None else {"HOME": home}
    child = machine.child_environment(tmp_path, given)
    assert child["HOME"].startswith(str(tmp_path))


def test_pips_network_settings_and_no_others_are_kept():
    listed = """\
:env:.index-url='https://env/simple'
:env:.proxy=''
global.index-url='https://global/simple'
global.proxy='http://proxy:8080'
global.user='true'
install.no-binary=':all:'
install.trusted-host='a\\nb'
freeze.index-url='https://freeze'
nonsense"""
    assert machine.pip_settings(listed) == {
        "PIP_INDEX_URL": "https://env/simple",
        "PIP_PROXY": "http://proxy:8080",
        "PIP_TRUSTED_HOST": "a\nb",
    }


def test_files_that_hide_a_module(tmp_path):
    for name in ("random.py", "copy.cpython-311.pyc", "notes.txt", "signal.ipynb"):
        (tmp_path / name).write_text("")
    (tmp_path / "numpy").mkdir()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    assert sorted(machine.modules_in(tmp_path)) == ["copy", "random", "torch"]


# updates


@pytest.fixture
def old(tmp_path):
    return small(tmp_path / "my course é", "old")


@pytest.fixture
def new(tmp_path):
    course = small(tmp_path / "download" / "batch-normalization-2", "new")
    (course / "notebooks/11_more.ipynb").write_text(lesson("11_more", "new"))
    (course / "bn_helpers/added.py").write_text("new = 1")
    (course / "work").mkdir()
    (course / "work" / FIRST).write_text("somebody else's")
    return course


def lesson(name, version):
    each = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": version}
    course = {"lesson": name, "version": version}
    return json.dumps({"cells": [each], "metadata": {"course": course}})


def small(root, version):
    (root / "tools").mkdir(parents=True)
    for name in ("course.py", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root / name)
    shutil.copy(ROOT / "tools/__init__.py", root / "tools")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tools/door", root / "tools/door", ignore=ignored)
    texts = {f"notebooks/{name}.ipynb": lesson(name, version) for name in NAMES[:2]}
    texts[f"notebooks/{NAMES[2]}.ipynb"] = lesson(NAMES[2], "same")
    texts |= {f"bn_helpers/m{i}.py": f"{version} = {i}" for i in range(40)}
    texts |= {"data/checksums.txt": f"{DIGEST}  a.txt\n", "data/a.txt": "a"}
    texts["course.py"] = (root / "course.py").read_text("utf-8") + f"# {version}\n"
    for name, text in texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


DIGEST = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


def typed(course, *words, code=0):
    found = subprocess.run(
        [sys.executable, course / "course.py", *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == code, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    return found.stdout + found.stderr


def students(old):
    """What a student has in a course: a copy, notes, an edited lesson, a module."""
    mine = {
        f"work/{FIRST}": "my answers",
        "work/notes.txt": "my notes",
        f"notebooks/{FIRST}": "my answers in the wrong place",
        "bn_helpers/mine.py": "mine = 1",
        "notebooks/mine.ipynb": "my notebook",
        "data/mine.csv": "1,2",
    }
    for name, text in mine.items():
        (old / name).parent.mkdir(exist_ok=True)
        (old / name).write_text(text, encoding="utf-8")
    return mine


def lost(old, mine):
    """Which of a student's texts are nowhere in the course any more."""
    paths = [p for p in old.rglob("*") if p.is_file() and ".update" not in p.parts]
    found = [path.read_bytes() for path in paths]
    return [name for name, text in mine.items() if text.encode() not in found]


def is_new(old, new):
    names = update.files_of(new)
    return [n for n in names if (old / n).read_bytes() != (new / n).read_bytes()] == []


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for each in folder.rglob("*"):
            archive.write(each, each.relative_to(folder.parent))
    return path


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_update_keeps_what_a_student_has(old, new, tmp_path, kind):
    mine = students(old)
    source = new if kind == "folder" else zipped(new, tmp_path / "new é.zip")
    said = typed(old, "update", source)
    assert is_new(old, new) and lost(old, mine) == []
    kept = [f"work/{FIRST}", "work/notes.txt", "bn_helpers/mine.py", "data/mine.csv"]
    assert all((old / n).read_text(encoding="utf-8") == mine[n] for n in kept)
    assert "11_more is new." in said and f"{NAMES[1]} has changed." in said
    assert NAMES[2] not in said and not (old / ".update").exists()
    assert "the same version already" in typed(old, "update", source)


def test_a_second_update_knows_the_courses_own_files(old, new, tmp_path):
    typed(old, "update", new)
    shutil.rmtree(old / "replaced", ignore_errors=True)
    newest = small(tmp_path / "newest", "newest")
    (newest / "bn_helpers/m7.py").unlink()
    (old / "bn_helpers/m8.py").write_text("I tried something")
    said = typed(old, "update", newest)
    assert not (old / "bn_helpers/m7.py").exists()  # ours, and no longer there
    [kept] = (path for path in (old / "replaced").rglob("*") if path.is_file())
    assert kept.name == "m8.py" and kept.read_text() == "I tried something"
    assert "replaced/" in said
    assert (old / "notebooks/11_more.ipynb").exists()  # a lesson is never taken away


def test_a_renamed_lesson_takes_the_old_ones_place(old, new):
    name = f"notebooks/{NAMES[1][:3]}other.ipynb"
    (new / "notebooks" / f"{NAMES[1]}.ipynb").rename(new / name)
    typed(old, "update", new)
    assert (old / name).exists()
    assert not (old / "notebooks" / f"{NAMES[1]}.ipynb").exists()


def test_copies_that_are_of_an_earlier_version_are_told(old, new):
    (old / "work").mkdir()
    (old / "work" / f"{NAMES[1]}.ipynb").write_text(lesson(NAMES[1], "old"))
    assert f"fresh {NAMES[1][:2]} --answers" in typed(old, "update", new)


@pytest.mark.parametrize("what", ["data", "part", "notebooks", "zip", "none", "self"])
def test_what_is_no_newer_course_changes_nothing(old, new, tmp_path, what):
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    source = new
    if what == "data":
        (new / "data/a.txt").write_text("b")
    elif what == "part":
        (new / "requirements.lock").unlink()
    elif what == "notebooks":
        shutil.rmtree(new / "notebooks")
    elif what == "zip":
        source = zipped(new, tmp_path / "new.zip")
        source.write_bytes(source.read_bytes()[:-2000])
    elif what == "none":
        source = tmp_path / "nothing"
    else:
        source = old
    typed(old, "update", source, code=1)
    after = {path: path.read_bytes() for path in before}
    assert after == before


def test_a_git_checkout_is_told_to_pull(old, new):
    (old / ".git").mkdir()
    said = typed(old, "update", new, code=1)
    assert f'git -C "{old}" pull' in said


def test_update_without_a_source_says_what_it_needs(old):
    assert "name its zip or folder" in typed(old, "update", code=1)


STOPPING = """
import os, sys
sys.path.insert(0, sys.argv[1])
import course
count, last = 0, int(sys.argv[3])

def stopping(function):
    def call(*args, **options):
        global count
        count += 1
        if count == last:
            os._exit(9)
        return function(*args, **options)
    return call

os.replace = stopping(os.replace)
course.os.unlink = stopping(os.unlink)
course.updates.copy = stopping(course.updates.copy)
sys.exit(course.main(["update", sys.argv[2]]))
"""


@pytest.mark.parametrize("at", [1, 5, 60, 100, 101, 102, 103, 110, 130, 145, 150])
def test_an_interrupted_update_is_ended_by_the_next_command(old, new, at):
    mine = students(old)
    words = [sys.executable, "-c", STOPPING, old, new, at]
    code = subprocess.run(list(map(str, words)), capture_output=True).returncode
    assert code == 9  # it was stopped
    assert lost(old, mine) == []
    if (old / ".update/plan.json").exists():
        assert "interrupted; ending it" in typed(old, "--help")
    else:
        typed(old, "update", new)
    assert is_new(old, new) and lost(old, mine) == []
    assert not (old / ".update").exists()


def test_an_update_killed_from_outside_loses_nothing(old, new):
    mine, draw = students(old), random.Random(3)
    for _ in range(3):
        words = [sys.executable, str(old / "course.py"), "update", str(new)]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            time.sleep(draw.uniform(0.05, 0.4))
            process.kill()
        assert lost(old, mine) == []
    typed(old, "update", new)
    assert is_new(old, new) and lost(old, mine) == []
