"""What a class gets: everything it needs, and no answer."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from nbgrader.api import Gradebook
from nbgrader.preprocessors import ClearSolutions
from traitlets.config import Config

from grading import config, intake, release
from grading.config import PACKAGES
from tools import build
from tools.lesson import LessonError, cut, solved_view, student_view

ROOT = Path(__file__).resolve().parents[1]
LESSONS = build.load(ROOT)[0]
FIRST = LESSONS[0]
LABCONFIG = "default_setting_overrides", "page_config"
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "to hand out é"
    release.main(["--to", str(folder)])
    return folder


@pytest.fixture(scope="module")
def copy(target, tmp_path_factory):
    """The zip as a student unpacks it."""
    folder = tmp_path_factory.mktemp("student") / "my folder é"
    with zipfile.ZipFile(target / "batch-normalization.zip") as archive:
        archive.extractall(folder)
    [course] = folder.iterdir()
    return course


@pytest.fixture
def door(copy, monkeypatch):
    """The copy's course.py as a module; what it would start is not started."""
    spec = importlib.util.spec_from_file_location("released", copy / "course.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "environment", lambda *extras, **_: sys.executable)
    monkeypatch.setattr(module, "hand_over", lambda words: 0)
    return module


def texts(folder, *, without=()):
    """Everything that can be read in a folder: of a notebook its cells."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_dir() or path.suffix in (".gz", ".npz") or parts[0] in without:
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n\n".join("".join(cell["source"]) for cell in cells)
        found.append(text)
    return "\n\n".join(found)


def plain(text):
    """Text without its line breaks and indents."""
    return " ".join(text.split())


# what is in it


def test_the_list_of_files(copy):
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*.*")}
    folders = {name.split("/")[0] for name in files if "/" in name}
    assert folders == {*PACKAGES, "data", "notebooks", "tools"}
    single = {name for name in files if "/" not in name} - folders
    assert single == {
        "CHANGELOG.md",
        "START.html",
        "course.py",
        "environment.yml",
        "files.sha256",
        "pyproject.toml",
        "requirements.lock",
    }
    assert (copy / "LICENSE").exists()
    tools = {name for name in files if name.startswith("tools/")}
    door = {f"tools/door/{path.name}" for path in (ROOT / "tools/door").glob("*.py")}
    config = {f"tools/jupyter/labconfig/{name}.json" for name in LABCONFIG}
    assert tools == {"tools/__init__.py", *door, *config}
    notebooks = {name for name in files if name.startswith("notebooks/")}
    assert notebooks == {f"notebooks/{lesson.name}.ipynb" for lesson in LESSONS}


@each_lesson
def test_no_solution_is_inside(copy, lesson):
    # the packages hold the right implementations: lessons and checks use them
    found = plain(texts(copy, without=PACKAGES))
    for cell in lesson.of("exercise"):
        solution = plain("\n".join(cut(cell.source)[1].values()))
        assert len(solution) > 20 and solution not in found, cell.name


@each_lesson
def test_no_rubric_and_no_model_answer_is_inside(copy, lesson):
    found = plain(texts(copy))
    for cell in lesson.of("rubric"):
        for paragraph in cell.source.split("\n\n"):
            if len(paragraph) > 40:
                assert plain(paragraph) not in found, cell.owner.name


def test_the_search_finds_what_is_there(copy):
    """The three tests above are not blind."""
    found = plain(texts(copy))
    for lesson in LESSONS:
        for cell in lesson.of("question"):
            assert plain(cell.source.partition("\n")[2]) in found
        for cell in lesson.of("exercise"):
            assert plain(cell.source.partition("### BEGIN")[0]) in found
    assert "### BEGIN SOLUTION" not in texts(copy / "notebooks")


@each_lesson
def test_a_notebook_is_the_lesson_before_anything_ran(copy, lesson):
    mine = build.loads(copy / "notebooks" / f"{lesson.name}.ipynb")
    assert mine == student_view(lesson)
    assert not any(cell.outputs for cell in build.code_cells(mine))


def test_the_same_course_gives_the_same_bytes(target, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    path, _ = release.release(ROOT, [], tmp_path)
    assert path.read_bytes() == (target / path.name).read_bytes()


def test_the_start_page_lists_the_lessons(copy):
    page = (copy / "START.html").read_text(encoding="utf-8")
    assert '<html lang="en">' in page and "<title>" in page
    for lesson in LESSONS:
        assert lesson.title in page and f">{lesson.totals['points']}<" in page


def test_some_lessons(tmp_path, capsys):
    release.main(["--lessons", f"{FIRST.name[:2]}", "--to", str(tmp_path)])
    [path] = tmp_path.glob("*.zip")
    assert path.name == "batch-normalization-01.zip"
    names = [n for n in zipfile.ZipFile(path).namelist() if n.endswith(".ipynb")]
    assert names == [f"batch-normalization/notebooks/{FIRST.name}.ipynb"]
    assert re.search("sha256 [0-9a-f]{64}\n", capsys.readouterr().out)


def test_an_unknown_lesson_gets_the_list(tmp_path):
    with pytest.raises(SystemExit, match="no lesson is called '77'.*01_forward_pass"):
        release.main(["--lessons", "1,77", "--to", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_lesson_that_breaks_a_rule_is_not_released(tmp_path):
    (tmp_path / "lessons").mkdir()
    lesson = (ROOT / "lessons" / f"{FIRST.name}.md").read_text(encoding="utf-8")
    broken = lesson.replace("### END SOLUTION", "", 1)
    (tmp_path / "lessons" / f"{FIRST.name}.md").write_text(broken, encoding="utf-8")
    with pytest.raises(LessonError, match="solution block"):
        release.release(tmp_path, [], tmp_path / "out")


# it works for a student


def test_the_doctor_finds_all_in_order(door, monkeypatch, capsys):
    # the packages are the environment's, not the copy's
    monkeypatch.setattr(door, "probed", lambda: {"packages": "", "kernel": ""})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert door.main(["doctor"]) == 0
    assert "every file agrees with data/checksums.txt" in capsys.readouterr().out


def test_a_student_works_and_hands_in(copy, door, capsys):
    assert door.main(["lab", "1"]) == 0
    path = copy / "work" / f"{FIRST.name}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    solved = {cell.id: cell.source for cell in solved_view(FIRST).cells}
    for cell in notebook["cells"]:
        if cell["id"].startswith("ex-"):
            cell["source"] = solved[cell["id"]]
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert door.main(["submit", "--student", "ada"]) == 0
    count = len(FIRST.of("exercise"))
    assert f"{count} of {count} exercises" in capsys.readouterr().out
    lessons = [lesson.name for lesson in LESSONS]
    found = intake.collect(copy / "work/submitted", lessons, config.limits())
    assert list(found.attempts) == [("ada", FIRST.name)] and not found.refused
    [[attempt]] = found.attempts.values()
    assert attempt.read() == path.read_bytes()


def test_its_package_checks_an_answer(copy):
    [cell] = [cell for cell in FIRST.of("exercise") if cell.name == "batchnorm-forward"]
    imports = (
        "import numpy as np\nimport bn_checks as check\nfrom bn_helpers import norms\n"
    )
    cells = imports + cell.source
    where = "\nprint(check.batchnorm_forward(batchnorm_forward), norms.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", cells + where],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        encoding="utf-8",
    )
    score, path = found.stdout.split(" ", 1)
    assert float(score) == cell.meta["points"], found.stderr
    assert Path(path.strip()).is_relative_to(copy)


@pytest.mark.parametrize("words", [["solution", "1"], ["build"], ["test"], ["report"]])
def test_what_it_lacks_is_said_kindly(door, capsys, words):
    assert door.main(words) == 1
    assert "made for a class" in capsys.readouterr().err


# nbgrader


def nbgrader_config(folder):
    """What the nbgrader_config.py beside the sources sets."""
    config = Config()
    text = (folder / "nbgrader_config.py").read_text(encoding="utf-8")
    exec(text, {"get_config": lambda: config})
    return config


@each_lesson
def test_nbgrader_makes_our_student_notebook_of_our_source(target, lesson):
    path = target / "nbgrader/source" / lesson.name / f"{lesson.name}.ipynb"
    clear = ClearSolutions(config=nbgrader_config(target / "nbgrader"))
    made, _ = clear.preprocess(build.loads(path), {})
    assert made.cells == student_view(lesson).cells


@pytest.mark.long
@each_lesson
def test_nbgraders_own_scores_are_ours(target, tmp_path, lesson):
    config = (target / "nbgrader/nbgrader_config.py").read_text(encoding="utf-8")
    (tmp_path / "nbgrader_config.py").write_text(config, encoding="utf-8")
    views = {"source/.": solved_view, "submitted/solved": solved_view}
    for folder, view in (views | {"submitted/blank": student_view}).items():
        path = tmp_path / folder / lesson.name / f"{lesson.name}.ipynb"
        build.write(path, build.dumps(view(lesson)))
    for command in ("generate_assignment", "autograde"):
        nbgrader(command, lesson.name, cwd=tmp_path)
    points = {f"check-{c.name}": c.meta["points"] for c in lesson.of("exercise")}
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as gradebook:
        for student in ("solved", "blank"):
            found = gradebook.find_submission_notebook(
                lesson.name, lesson.name, student
            )
            scores = {g.name: g.auto_score for g in found.grades if g.name in points}
            assert scores == {k: v * (student == "solved") for k, v in points.items()}


def nbgrader(*words, cwd):
    scripts = Path(sys.executable).parent  # nbgrader runs alembic by its name
    path = os.pathsep.join([str(scripts), os.environ["PATH"]])
    found = subprocess.run(
        [sys.executable, "-m", "nbgrader", *words],
        cwd=cwd,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert found.returncode == 0, found.stdout
