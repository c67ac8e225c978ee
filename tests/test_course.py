"""The front door, in copies of the course whose paths have spaces and any letters."""

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tools.door import handin

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = {"name": "stdout", "output_type": "stream", "text": ["é\n"]}
SOLVED = """
import sys
from pathlib import Path

option, lesson, folder = sys.argv[1:]
assert option == "--solved"
(Path(folder) / f"{lesson}.ipynb").write_text('{"solved": true}', encoding="utf-8")
"""


def lesson_text(name, version="a" * 12):
    code = {"cell_type": "code", "id": "a", "metadata": {}, "source": ["print('é')"]}
    return json.dumps(
        {
            "cells": [
                {"cell_type": "markdown", "id": "t", "metadata": {}, "source": [name]},
                {**code, "execution_count": 3, "outputs": [OUTPUT]},
            ],
            "metadata": {"course": {"lesson": name, "version": version}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


@pytest.fixture
def tree(tmp_path):
    """A small course: the real front door, two lessons, one data file."""
    root = tmp_path / "my course é 课程"
    for name in ("course.py", "pyproject.toml", "requirements.lock"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for name in ("__init__.py", "door", "jupyter"):
        copy(ROOT / "tools" / name, root / "tools" / name)
    write(root / "tools" / "build.py", SOLVED)
    write(root / "bn_helpers" / "__init__.py", "")
    for folder in ("lessons", "tests", "grading"):  # a copy for a class lacks these
        (root / folder).mkdir()
    for name in ("01_forward_pass", "03_activation_distributions"):
        write(root / "notebooks" / f"{name}.ipynb", lesson_text(name))
    write(root / "data" / "MNIST" / "digits.gz", "digits")
    digest = hashlib.sha256(b"digits").hexdigest()
    write(root / "data" / "checksums.txt", f"{digest}  MNIST/digits.gz\n")
    return root


def copy(source, target):
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, target, ignore=ignored)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


@pytest.fixture
def course(tree, monkeypatch):
    """The copy's course.py as a module."""
    spec = importlib.util.spec_from_file_location("course_copy", tree / "course.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.chdir(tree)
    return module


@pytest.fixture
def door(course, monkeypatch):
    """The front door of a course that is set up; what it would start is not started."""
    monkeypatch.setattr(course, "environment", lambda *extras, **_: sys.executable)
    monkeypatch.setattr(course, "hand_over", lambda words: 0)
    return course


# no test installs anything: pip finds nobody at home
NO_INDEX = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def user_environment(conda, **more):
    """What a user's shell sets; `conda` is simulated by the Python that runs this."""
    left_out = {"CONDA_PREFIX", "OMP_NUM_THREADS", "PYTHONPATH"}
    kept = {name: os.environ[name] for name in os.environ.keys() - left_out}
    simulated = {"CONDA_PREFIX": sys.prefix} if conda else {}
    return {**kept, **NO_INDEX, **simulated, **more}


def typed(tree, *words, python=(), conda=True, cwd=None, input=None, **more):
    return subprocess.run(
        [sys.executable, *python, tree / "course.py", *words],
        cwd=cwd or tree,
        input=input,
        env=user_environment(conda, PYTHONIOENCODING="utf-8", **more),
        capture_output=True,
        encoding="utf-8",
        timeout=120,  # a JupyterLab that should not have started would wait forever
    )


def plainly(result):
    """What a command that failed said: one paragraph, and no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    said = result.stderr.strip().split("\n\n")[-1]
    assert "\n" not in said
    return said


# Python


def test_an_old_python_can_read_the_whole_file():
    source = (ROOT / "course.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))


def test_an_old_python_is_told_so(tree):
    pretend = "import sys; sys.version_info = (3, 8, 10, 'final', 0); import course"
    result = subprocess.run(
        [sys.executable, "-c", pretend], cwd=tree, capture_output=True, text=True
    )
    assert plainly(result).startswith("Python 3.11 or newer is needed, this is 3.8")


# lab


def test_lab_serves_the_students_copies(tree):
    port, token = str(free_port()), "--IdentityProvider.token=secret"
    command = [sys.executable, "course.py", "lab", "3", "--no-browser", "--port", port]
    # what a user's own Jupyter is told must not matter here
    broken = "c.ServerApp.contents_manager_class = 'gone.Gone'\nraise SystemExit\n"
    write(tree.parent / "config" / "jupyter_server_config.py", broken)
    write(tree / "elsewhere" / "signal.py", "raise SystemExit")
    config = {"JUPYTER_CONFIG_DIR": str(tree.parent / "config")}
    config |= {"HOME": "/nonexistent", "PYTHONPATH": str(tree / "elsewhere")}
    with subprocess.Popen(
        [*command, token],
        cwd=tree,
        env=user_environment(conda=True, **config),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{address}/api/status", server)
            names = [item["name"] for item in ask(f"{address}/api/contents")["content"]]
            page = fetch(f"{address}/lab").read().decode()
            start = fetch(f"{address}/").url
        finally:
            fetch(f"{address}/api/shutdown", method="POST")
            said, _ = server.communicate(timeout=60)
    assert server.returncode == 0 and "Traceback" not in said
    lessons = ["01_forward_pass.ipynb", "03_activation_distributions.ipynb"]
    assert names == ["00_start_here.ipynb", *lessons]
    assert start.endswith("/lab/tree/03_activation_distributions.ipynb")
    disabled = re.search(r'"disabledExtensions": \[([^]]*)', page).group(1)
    assert "@jupyterlab/apputils-extension:announcements" in disabled


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def fetch(address, method="GET"):
    headers = {"Authorization": "token secret"}
    return urllib.request.urlopen(
        urllib.request.Request(address, method=method, headers=headers), timeout=60
    )


def ask(address):
    return json.load(fetch(address))


def wait_for(address, server):
    while server.poll() is None:
        try:
            return ask(address)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(server.stdout.read())


def test_lab_says_that_a_port_is_taken(tree):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = plainly(typed(tree, "lab", "--port", port))
    assert said.startswith(f"Port {port} cannot be used")
    assert not (tree / "work").exists()


def test_lab_copies_lessons_without_outputs(tree, door):
    assert door.main(["lab"]) == 0
    copy = json.loads((tree / "work/01_forward_pass.ipynb").read_text(encoding="utf-8"))
    original = json.loads(lesson_text("01_forward_pass"))
    assert copy["cells"][1] == {
        **original["cells"][1],
        "execution_count": None,
        "outputs": [],
    }
    assert copy["cells"][0] == original["cells"][0]
    assert copy["metadata"] == original["metadata"]


@pytest.mark.parametrize("mine", ["my answers", lesson_text("01_forward_pass")])
def test_lab_never_overwrites_and_tells_of_a_changed_lesson(tree, door, capsys, mine):
    write(tree / "work/01_forward_pass.ipynb", mine)
    newer = lesson_text("01_forward_pass", version="b" * 12)
    write(tree / "notebooks/01_forward_pass.ipynb", newer)
    assert door.main(["lab"]) == 0
    assert (tree / "work/01_forward_pass.ipynb").read_text(encoding="utf-8") == mine
    said = capsys.readouterr().out
    assert "Lesson 01_forward_pass has changed" in said
    assert "course.py fresh 01" in said


def test_lab_keeps_quiet_when_nothing_changed(door, capsys):
    door.main(["lab"])
    capsys.readouterr()
    door.main(["lab"])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_lab_passes_other_options_on(door, monkeypatch):
    started = []
    monkeypatch.setattr(door, "hand_over", lambda words: started.extend(words) or 5)
    assert door.main(["lab", "--ip=0.0.0.0", "--port", "7000", "--no-browser"]) == 5
    given = {"--ip=0.0.0.0", "--ServerApp.port=7000", "--no-browser"}
    assert given | {"--ServerApp.port_retries=0"} <= set(started)


def test_no_built_lesson_is_said_plainly(tree, door, capsys):
    shutil.rmtree(tree / "notebooks")
    assert door.main(["lab"]) == 1
    assert "course.py build" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_plainly(tree, door, capsys):
    write(tree / "work", "a file where the folder goes")
    assert door.main(["lab"]) == 1
    assert str(tree / "work") in capsys.readouterr().err


# every failure leads to its advice, and the advice to success


def dangling(work):
    work.symlink_to(work.with_name("gone"))
    return work.unlink


def a_file(work):
    write(work, "mine")
    return work.with_name("work").unlink


def shadowing(name):
    def write_it(work):
        write(work / name, "mine = 1")
        return lambda: (work / name).rename(work / name.replace(".py", "_mine.py"))

    return write_it


def beside(work):
    write(work.parent / "random.py", "mine = 1")
    return lambda: (work.parent / "random.py").rename(work.parent / "dice.py")


def damaged(work):
    path = work.parent / "data/MNIST/digits.gz"
    path.write_text("other", encoding="utf-8")
    return lambda: path.write_text("digits", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dangling, "link that leads nowhere. Remove that link"),
        (a_file, "is a file where a folder goes. Rename that file"),
        (shadowing("random.py"), "work/random.py hides the module of that name. Give"),
        (shadowing("numpy.py"), "work/numpy.py hides"),
        (shadowing("solutions/copy.py"), "work/solutions/copy.py hides"),
        (beside, "random.py hides the module of that name. Give it another name"),
        (damaged, "is damaged. In the course's folder run: git checkout"),
    ],
)
def test_each_failure_is_told_by_lab_and_doctor_and_its_mend_works(
    tree, door, capsys, monkeypatch, spoil, words
):
    loaded = {"random", "copy", "numpy"}
    answer = {"packages": "", "kernel": "", "modules": loaded}
    monkeypatch.setattr(door, "probed", lambda: answer)
    mend = spoil(tree / "work")
    assert door.main(["lab"]) == 1
    assert words in capsys.readouterr().err
    assert door.main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert words.partition(". ")[0] in told and told.count("fix: ") == 1
    mend()
    assert door.main(["lab"]) == 0
    assert door.main(["doctor"]) == 0


def test_a_file_that_hides_nothing_is_a_students_own(tree, door, monkeypatch):
    monkeypatch.setattr(door, "probed", lambda: {"modules": {"random"}})
    for name in ("work/mine.py", "work/test.py", "work/random/notes.txt"):
        write(tree / name, "mine = 1")
    assert door.main(["lab"]) == 0


def test_a_random_py_beside_the_front_door_does_not_stop_it(tree):
    write(tree / "random.py", "raise SystemExit('hidden')")
    write(tree / "argparse.py", "raise SystemExit('hidden')")
    result = typed(tree, "status", conda=False)
    assert result.returncode == 0, result.stderr


def test_a_folder_that_cannot_be_written_is_told(tree, door, capsys, monkeypatch):
    able = door.can_make_a_file
    monkeypatch.setattr(door, "can_make_a_file", lambda folder: folder != tree)
    assert door.main(["lab"]) == 1
    assert f"{tree} cannot be written to. Move" in capsys.readouterr().err
    monkeypatch.setattr(door, "can_make_a_file", able)
    assert door.main(["lab"]) == 0


def test_a_path_that_no_environment_can_have_is_told(tree):
    odd = tree.rename(tree.with_name(f"my{os.pathsep}course"))
    said = plainly(typed(odd, "lab", conda=False))
    assert "has a " in said and "Rename that folder" in said


@pytest.mark.skipif(os.name == "nt", reason="TMPDIR is POSIX's")
def test_no_folder_for_temporary_files_is_told(tree, door, capsys, monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert door.main(["lab"]) == 1
    assert "Set TMPDIR" in capsys.readouterr().err


def test_doctor_names_variables_that_matter(tree):
    more = {"PYTHONPATH": "/ros", "PIP_USER": "1", "LD_LIBRARY_PATH": "/old"}
    said = typed(tree, "doctor", python=["-S"], conda=False, **more).stdout
    [line] = [line for line in said.splitlines() if "variables" in line]
    assert line.startswith("OK") and "PIP_CONFIG_FILE" not in line
    assert "PIP_USER, PYTHON" in line and "LD_LIBRARY_PATH set" in line


@pytest.mark.parametrize(
    ("py", "conda", "program"),
    [("py.exe", False, "py"), (None, False, "python"), ("py.exe", True, "python")],
)
def test_windows_is_told_a_program_that_it_has(course, monkeypatch, py, conda, program):
    monkeypatch.setattr(course, "WINDOWS", True)
    monkeypatch.setattr("shutil.which", lambda name: py)
    if conda:
        monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    assert course.typed("lab").split()[0] == program


@pytest.mark.parametrize(
    ("trouble", "build", "advice"),
    [
        ("import torchvision: no such symbol", "cpu", "lab --gpu takes"),
        ("import numpy: no such symbol", "cpu", "Delete the folder"),
        ("import torchvision: no such symbol", "ordinary", "Delete the folder"),
        ("import torch: [WinError 126]", "cpu", "Visual C"),
    ],
)
def test_packages_that_do_not_work_have_a_way_out(course, trouble, build, advice):
    write(course.MARKER, f"broken build={build}")
    assert advice in course.mending(trouble)


def test_a_foreign_library_path_is_suspected_first(course, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/old")
    write(course.MARKER, "broken build=cpu")
    assert "Unset LD_LIBRARY_PATH" in course.mending("import numpy: wrong version")


def test_an_old_cpu_build_becomes_the_ordinary_one_only_when_asked(course, installer):
    write(course.VENV_PYTHON, "")
    write(course.MARKER, f"{course.fingerprint()} build=cpu")
    assert installer.again() == []
    assert installer.again(gpu=True) == ["venv", "pip ."]
    assert course.installed()[2] == course.ORDINARY
    assert installer.again(gpu=True) == []


# data


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_an_unfit_data_file_is_named_with_its_cure(tree, state):
    path = tree / "data/MNIST/digits.gz"
    path.unlink() if state == "missing" else path.write_text("other")
    said = plainly(typed(tree, "lab"))
    assert said.startswith(f"data/MNIST/digits.gz is {state}.")
    assert "git checkout -- data/MNIST/digits.gz" in said
    assert "new download" in said


def test_a_missing_list_of_checksums_is_named(tree, door, capsys):
    (tree / "data/checksums.txt").unlink()
    assert door.main(["lab"]) == 1
    assert "data/checksums.txt is missing" in capsys.readouterr().err


def test_a_damaged_notebook_of_the_course_is_named(tree, door, capsys):
    write(tree / "notebooks/01_forward_pass.ipynb", "<<<<<<< mine")
    assert door.main(["lab"]) == 1
    said = capsys.readouterr().err
    assert "notebooks/01_forward_pass.ipynb is damaged" in said
    assert "git checkout -- notebooks/01_forward_pass.ipynb" in said


# fresh and solution


def test_fresh_keeps_every_earlier_file(tree, door):
    for answer in ("first", "second", "third"):
        write(tree / "work/03_activation_distributions.ipynb", answer)
        assert door.main(["fresh", "3"]) == 0
    kept = list((tree / "work").glob("03_*_kept-*.ipynb"))
    assert {path.read_text(encoding="utf-8") for path in kept} == {
        "first",
        "second",
        "third",
    }
    dated = r"03_activation_distributions_kept-\d{4}-\d\d-\d\d_\d{4}(-\d+)?\.ipynb"
    assert all(re.fullmatch(dated, path.name) for path in kept)
    new = json.loads((tree / "work/03_activation_distributions.ipynb").read_text())
    assert new["cells"][1]["outputs"] == []


def test_fresh_leaves_an_untouched_copy_alone(tree, door, capsys):
    door.main(["lab"])
    assert door.main(["fresh", "01"]) == 0
    assert len(list((tree / "work").iterdir())) == 3
    assert "is new already" in capsys.readouterr().out


def test_solution_is_built_and_an_edited_one_is_kept(tree):
    folder = tree / "work" / "solutions"
    for _ in range(2):
        assert typed(tree, "solution", "03").returncode == 0
    solved = folder / "03_activation_distributions.ipynb"
    assert [path.name for path in folder.iterdir()] == [solved.name]
    solved.write_text("my notes", encoding="utf-8")
    assert typed(tree, "solution", "03").returncode == 0
    assert solved.read_text(encoding="utf-8") == '{"solved": true}'
    (kept,) = folder.glob("*_kept-*")
    assert kept.read_text(encoding="utf-8") == "my notes"


def test_a_solution_that_cannot_be_built_is_said_plainly(tree):
    write(tree / "tools/build.py", "raise SystemExit('line 3: no end')")
    result = typed(tree, "solution", "03")
    assert "line 3: no end" in result.stderr
    assert "could not be built" in plainly(result)


@pytest.mark.parametrize(
    "name",
    [
        "3",
        "03",
        "03_activation_distributions",
        "work/03_activation_distributions.ipynb",
    ],
)
def test_a_lesson_has_many_names(door, name):
    assert door.find_lesson(name).stem == "03_activation_distributions"


@pytest.mark.parametrize("name", ["2", "0", "forward", "²", ""])
def test_an_unknown_lesson_gets_the_list(door, capsys, name):
    assert door.main(["fresh", name]) == 1
    said = capsys.readouterr().err
    assert "01_forward_pass, 03_activation_distributions" in said


def test_it_works_from_another_directory(tree, tmp_path):
    assert typed(tree, "fresh", "1", cwd=tmp_path).returncode == 0
    assert (tree / "work/01_forward_pass.ipynb").exists()
    assert sorted(tmp_path.iterdir()) == [tree]


# test and build


def test_test_runs_pytest_over_tests_and_notebooks(tree, door, monkeypatch):
    runs = []
    monkeypatch.setattr(door, "hand_over", lambda words: runs.append(words[3:]))
    door.main(["test", "-x", "-k", "lab", "tests/test_course.py"])
    door.main(["test", "--long"])
    workers = str(min(os.cpu_count(), 4))
    strict = ["--nbval", "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    mine = ["-x", "-k", "lab", "tests/test_course.py"]
    assert runs == [[*strict, "-m", "not long", *mine], strict]
    assert Path.cwd() == tree


def test_the_exit_code_passes_through(tree):
    write(tree / "tools/build.py", "import sys; sys.exit(len(sys.argv))")
    assert typed(tree, "build", "01", "--force").returncode == 3


def test_windows_waits_and_passes_the_exit_code(course, monkeypatch):
    monkeypatch.setattr(course, "WINDOWS", True)
    assert course.hand_over([sys.executable, "-c", "raise SystemExit(4)"]) == 4


def test_ctrl_c_is_left_to_the_command(course, monkeypatch):
    answers = [KeyboardInterrupt, KeyboardInterrupt]

    def wait(process, timeout):
        if answers:
            raise answers.pop()
        return 130

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    assert course.run([sys.executable, "-c", ""]) == 130


def test_only_commands_that_pass_options_on_take_unknown_ones(tree):
    result = typed(tree, "fresh", "3", "--force")
    assert result.returncode == 2
    assert "unrecognized arguments: --force" in result.stderr


# set-up


class Installer:
    """Stands in for venv and pip; `asked` is what they were asked for."""

    def __init__(self, course):
        self.course, self.asked = course, []
        self.code, self.log, self.killed, self.trouble = 0, "", False, ""

    def run(self, words, **options):
        if "venv" in words:
            self.asked.append("venv")
            shutil.rmtree(self.course.VENV, ignore_errors=True)
            write(self.course.VENV_PYTHON, "")
            return 0
        self.asked.append(f"pip {words[-1]}")
        write(self.course.PIP_LOG, self.log)
        if self.killed:
            raise SystemExit
        return self.code

    def again(self, *extras, **options):
        """What one more start asks for, now that nothing goes wrong."""
        self.asked, self.code, self.log = [], 0, ""
        self.killed, self.trouble = False, ""
        self.course.environment(*extras, **options)
        return self.asked


@pytest.fixture
def installer(course, monkeypatch):
    installer = Installer(course)
    monkeypatch.setattr(course, "run", installer.run)
    monkeypatch.setattr(course, "venv_works", course.VENV_PYTHON.exists)
    monkeypatch.setattr(course, "probe", lambda *_: {"packages": installer.trouble})
    monkeypatch.setattr(course.machine, "pip_environment", lambda *_: {})
    monkeypatch.setenv("COURSE_TORCH_INDEX", "none")
    return installer


def test_the_first_start_sets_up_and_the_second_does_not(course, installer, capsys):
    assert installer.again() == ["venv", "pip ."]
    said = capsys.readouterr().out
    assert "2 to 5 minutes" in said and "GB" in said
    assert installer.again() == []
    assert capsys.readouterr().out == ""


def test_an_install_that_was_killed_is_made_anew(course, installer):
    installer.killed = True
    with pytest.raises(SystemExit):
        course.environment()
    assert not course.MARKER.exists()
    assert installer.again() == ["venv", "pip ."]
    assert installer.again() == []


def test_a_failed_download_is_taken_up_again(course, installer):
    # pip's build of the package is indented, and unpacks nothing of ours
    installer.code, installer.log = (
        1,
        "2026   Installing collected packages: setuptools",
    )
    with pytest.raises(course.Problem):
        course.environment()
    assert installer.again() == ["pip ."]


def test_a_failure_while_unpacking_starts_anew(course, installer):
    installer.code, installer.log = 1, "2026 Installing collected packages: torch"
    with pytest.raises(course.Problem):
        course.environment()
    assert installer.again() == ["venv", "pip ."]


@pytest.mark.parametrize("name", ["pyproject.toml", "requirements.lock"])
def test_a_changed_list_of_packages_is_installed(tree, installer, name):
    installer.again("test")
    with open(tree / name, "a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert installer.again() == ["pip .[test]"]
    assert installer.again("test") == []


def test_an_extra_is_added_and_kept(installer):
    installer.again()
    assert installer.again("test") == ["pip .[test]"]
    assert installer.again() == []


def test_a_venv_without_python_is_made_anew(course, installer):
    installer.again()
    course.VENV_PYTHON.unlink()
    assert installer.again() == ["venv", "pip ."]


def test_somebodys_own_venv_is_used_and_not_deleted(course, installer):
    write(course.VENV_PYTHON, "")
    write(course.VENV / "theirs", "")
    assert installer.again() == ["pip ."]
    assert (course.VENV / "theirs").exists()


@pytest.mark.parametrize("text", ["", "\0", "test", "[] {}"])
def test_a_damaged_marker_means_installing_again(course, installer, text):
    installer.again()
    write(course.MARKER, text)
    assert installer.again() == ["pip ."]


def test_packages_that_do_not_work_are_not_called_ready(course, installer):
    installer.trouble = "import torchvision: operator torchvision::nms does not exist"
    with pytest.raises(course.Problem, match="matched pair.* torch==.* torchvision=="):
        course.environment()
    assert not course.is_ready([])
    assert installer.again() == ["pip ."]


def test_an_old_python_in_the_venv_does_not_count(course):
    assert not course.venv_works()
    write(course.VENV_PYTHON, "not a program")
    course.VENV_PYTHON.chmod(0o755)
    assert not course.venv_works()


def test_without_a_network_set_up_says_so_and_can_be_run_again(tree):
    result = typed(tree, "lab", conda=False)
    assert "index could not be reached" in plainly(result)
    assert "run the same command again" in plainly(result)
    assert result.stdout.startswith("Setting up")
    assert not (tree / ".venv/course.txt").exists()
    assert (tree / ".venv/install.log").exists()


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("HINT: This error might have occurred since Windows Long Path", "short path"),
        ("Failed: NameResolutionError(host='pypi.org')", "could not be reached"),
        ("ReadTimeoutError: Read timed out.", "could not be reached"),
        ("ERROR: No matching distribution found for torch==2.15.0", "no build for"),
        ("ERROR: Operation cancelled by user", "was stopped"),
        ("ERROR: something nobody has seen", "install.log"),
    ],
)
def test_pips_troubles_are_explained(course, log, advice):
    write(course.PIP_LOG, log)
    assert advice in course.pip_trouble()


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_that_makes_no_environment_is_said_plainly(
    course, monkeypatch, capsys, module
):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == module else find(name)
    )
    assert course.main(["lab"]) == 1
    package = "python{}.{}-venv".format(*sys.version_info)
    assert f"sudo apt install {package}" in capsys.readouterr().err
    assert not course.VENV.exists()


def test_a_full_disk_is_said_before_anything_is_made(course, monkeypatch, capsys):
    usage = shutil.disk_usage(course.ROOT)._replace(free=5 * 10**8)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert course.main(["lab"]) == 1
    assert "0.5 GB are free; the course needs 2 GB" in capsys.readouterr().err
    assert not course.VENV.exists()


# conda


def test_a_conda_environment_with_the_packages_is_used(course, installer, monkeypatch):
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    assert course.environment("test") == sys.executable
    assert installer.asked == []


def test_a_conda_environment_that_is_not_pythons_own_is_left_alone(
    course, installer, monkeypatch
):
    monkeypatch.setenv("CONDA_PREFIX", str(course.ROOT))
    assert course.environment() == course.VENV_PYTHON


@pytest.mark.parametrize(
    ("where", "name", "cure"),
    [
        ("dependencies", "mine", 'conda env update -p "{prefix}" -f "{file}"'),
        (
            "dependencies",
            "base",
            'conda env update -f "{file}" && conda activate batch-',
        ),
        ("test", "mine", "pip install no-such-thing"),
    ],
)
def test_a_conda_environment_that_lacks_packages_is_told_which(
    course, installer, monkeypatch, capsys, where, name, cure
):
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    monkeypatch.setenv("CONDA_DEFAULT_ENV", name)
    project = course.ROOT / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    write(project, text.replace(f"{where} = [", f'{where} = ["no-such-thing>=1",'))
    assert course.environment("test") == course.VENV_PYTHON
    said = capsys.readouterr().out
    cure = cure.format(prefix=sys.prefix, file=course.ROOT / "environment.yml")
    assert "lacks no-such-thing>=1;" in said and cure in said
    course.environment("test")
    assert capsys.readouterr().out == ""  # told once, when something is installed


# doctor


def report(result):
    """The doctor's items, each with its state; checks that every FAIL has a cure."""
    lines = result.stdout.splitlines()
    assert sum(line.startswith("FAIL") for line in lines) == sum(
        line.strip().startswith("fix: ") for line in lines
    )
    return {line.split()[1]: line.split()[0] for line in lines if line[0] != " "}


def test_doctor_runs_before_anything_is_installed(tree):
    result = typed(tree, "doctor", python=["-I", "-S"], conda=False)
    failed = [name for name, state in report(result).items() if state == "FAIL"]
    assert failed == ["packages", "kernel"]
    assert result.returncode == 1
    assert re.search(r'course\.py"? lab installs them', result.stdout)
    assert not (tree / ".venv").exists()


def test_doctor_finds_all_in_order(tree):
    result = typed(tree, "doctor")
    assert set(report(result).values()) == {"OK"}, result.stdout
    assert result.returncode == 0


def test_doctor_finds_what_is_wrong(tree):
    (tree / "data/MNIST/digits.gz").write_text("other")
    nms = "raise RuntimeError('operator torchvision::nms does not exist')"
    write(tree / "torchvision.py", nms)
    result = typed(tree, "doctor", OMP_NUM_THREADS="many")
    failed = [name for name, state in report(result).items() if state == "FAIL"]
    assert failed == ["packages", "files", "data", "threads"]
    assert result.returncode == 1
    assert re.search(r"matched pair: .* torch==\S+ torchvision==\S+", result.stdout)
    assert "data/MNIST/digits.gz is damaged" in result.stdout


def test_doctor_names_a_version_that_does_not_fit(course):
    [said] = course.unfit(["tqdm>=1,<2"])
    assert re.fullmatch(r"tqdm>=1,<2 is needed, [\d.]+ is installed", said)


@pytest.mark.parametrize(
    ("version", "ranges", "fits"),
    [
        ("2.15.0", ">=2.6,<3", True),
        ("2.15.0+cpu", ">=2.6,<3", True),
        ("3.0.0rc1", ">=2.6,<3", False),
        ("2.5.9", ">=2.6,<3", False),
        ("2.6", ">=2.6.0,<3", True),
        ("0.29.2", ">=0.21,<1", True),
        ("2026.8.0", ">=2024.8", True),
    ],
)
def test_ranges(course, version, ranges, fits):
    assert course.fits(version, ranges) == fits


def test_doctor_survives_a_package_that_kills_python(tree):
    write(tree / "numpy.py", "import os; os._exit(3)")
    result = typed(tree, "doctor")
    assert report(result)["packages"] == "FAIL"
    assert "exit code 3" in result.stdout


def test_doctor_knows_a_foreign_kernel(course, tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    write(kernel / "kernel.json", '{"argv": ["/other/python3"], "display_name": "P"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert course.foreign_kernel() == "/other/python3"


# submit

TASKS = {
    "a": "print('é')",
    "ex-forward": "raise NotImplementedError",
    "ex-merge": "raise NotImplementedError",
    "answer-why": "*Your answer here.*",
}


def notebook(**changed):
    """A lesson with two exercises and a question, as JupyterLab would save it."""
    sources = TASKS | {name.replace("_", "-"): text for name, text in changed.items()}
    cells = [
        {"cell_type": "code", "id": name, "metadata": {}, "source": text}
        for name, text in sources.items()
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4})


@pytest.fixture
def worked(tree, door):
    """A course in which a student has worked on lesson 01 and only opened 03."""
    for name in ("01_forward_pass", "03_activation_distributions"):
        write(tree / "notebooks" / f"{name}.ipynb", notebook())
        write(tree / "work" / f"{name}.ipynb", notebook())
    write(tree / "work/01_forward_pass.ipynb", notebook(ex_merge="return 1"))
    return tree


def handed_in(tree):
    return sorted((tree / "work/submitted").glob("*.zip"))


def test_fresh_takes_answers_along(worked, door, capsys):
    mine = json.loads(notebook(ex_merge="return 1", answer_why="Because."))
    mine["cells"].append(
        {"cell_type": "code", "id": "x", "metadata": {}, "source": "1"}
    )
    write(worked / "work/01_forward_pass.ipynb", json.dumps(mine))
    assert door.main(["fresh", "1", "--answers"]) == 0
    said = capsys.readouterr().out
    assert "Answers carried over: merge, why." in said and "1 more cells" in said
    new = json.loads((worked / "work/01_forward_pass.ipynb").read_text("utf-8"))
    texts = {cell["id"]: cell["source"] for cell in new["cells"]}
    assert texts == TASKS | {"ex-merge": "return 1", "answer-why": "Because."}
    [kept] = (worked / "work").glob("01_*_kept-*.ipynb")
    assert json.loads(kept.read_text(encoding="utf-8")) == mine


def test_fresh_takes_no_answers_from_what_cannot_be_read(worked, door, capsys):
    write(worked / "work/01_forward_pass.ipynb", "nonsense")
    assert door.main(["fresh", "1", "--answers"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert (worked / "work/01_forward_pass.ipynb").read_text() == "nonsense"


def test_status_prints_the_table(worked, door, capsys):
    assert door.main(["status"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2" in said and "Go on with" in said


def test_submit_packs_what_was_worked_on(worked, door, capsys):
    assert door.main(["submit", "--student", "ada"]) == 0
    [path] = handed_in(worked)
    assert re.fullmatch(r"ada_submission_\d{8}T\d{6}Z\.zip", path.name)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["ada/01_forward_pass.ipynb"]
        content = archive.read("ada/01_forward_pass.ipynb")
    assert content == (worked / "work/01_forward_pass.ipynb").read_bytes()
    said = capsys.readouterr().out
    line = r"01_forward_pass, saved [-\d]+ [\d:]+: 1 of 2 exercises, 0 of 1 questions; "
    assert re.search(line + "not done: forward, why\n", said)
    assert re.search(
        "03_activation_distributions, saved .*: untouched, left out\n", said
    )


def test_submit_prints_and_keeps_a_receipt(worked, door, capsys):
    door.main(["submit", "--student", "ada"])
    [path] = handed_in(worked)
    kept = path.with_suffix(".receipt.txt").read_text(encoding="utf-8")
    assert kept in capsys.readouterr().out
    mine = (worked / "work/01_forward_pass.ipynb").read_bytes()
    assert f"sha256   {hashlib.sha256(path.read_bytes()).hexdigest()}\n" in kept
    holds = f"01_forward_pass.ipynb, sha256 {hashlib.sha256(mine).hexdigest()}\n"
    assert f"holds    {holds}" in kept
    assert re.search(r"packed   [-\d]+ [\d:]+[+-]\d\d:\d\d\n", kept)


def test_submit_never_overwrites(worked, door):
    seen = set()
    for text in ("first", "second", "third"):
        write(worked / "work/01_forward_pass.ipynb", notebook(answer_why=text))
        assert door.main(["submit", "--student", "ada"]) == 0
    for path in handed_in(worked):
        seen.add(zipfile.ZipFile(path).read("ada/01_forward_pass.ipynb"))
    assert len(seen) == len(list((worked / "work/submitted").glob("*.txt"))) == 3


def test_submit_takes_the_lessons_that_are_named(worked, door):
    assert door.main(["submit", "3", "--student", "ada"]) == 0
    [path] = handed_in(worked)
    names = zipfile.ZipFile(path).namelist()
    assert names == ["ada/03_activation_distributions.ipynb"]


def test_submit_leaves_kept_copies_and_solutions_alone(worked, door):
    write(worked / "work/01_forward_pass_kept-2026-01-01_0000.ipynb", notebook())
    write(worked / "work/solutions/01_forward_pass.ipynb", notebook())
    door.main(["submit", "--student", "ada"])
    [path] = handed_in(worked)
    assert len(zipfile.ZipFile(path).namelist()) == 1


def test_submit_counts_tasks_whose_cells_are_gone_or_renamed(worked, door, capsys):
    mine = json.loads(notebook(ex_merge="return 1", answer_why="Because."))
    _, merge, why = mine["cells"][1:]
    del merge["id"], why["id"]
    merge["metadata"] = {"nbgrader": {"grade_id": "ex-merge"}}  # as Colab leaves it
    mine["cells"] = [merge, why]
    write(worked / "work/01_forward_pass.ipynb", json.dumps(mine))
    assert door.main(["submit", "--student", "ada"]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 exercises, 0 of 1 questions; not done: forward, why" in said


def test_submit_sees_a_cell_that_was_added(worked, door):
    write(worked / "work/01_forward_pass.ipynb", notebook(mine="print(1)"))
    assert door.main(["submit", "--student", "ada"]) == 0


def test_submit_says_that_there_is_nothing_to_hand_in(worked, door, capsys):
    write(worked / "work/01_forward_pass.ipynb", notebook())
    assert door.main(["submit", "--student", "ada"]) == 1
    assert "nothing to hand in" in capsys.readouterr().err
    assert not (worked / "work/submitted").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 3}', '{"cells": [{}]}'])
def test_submit_names_a_notebook_that_cannot_be_read(worked, door, capsys, text):
    write(worked / "work/03_activation_distributions.ipynb", text)
    assert door.main(["submit", "--student", "ada"]) == 1
    said = capsys.readouterr().err
    assert "work/03_activation_distributions.ipynb cannot be read" in said
    assert not (worked / "work/submitted").exists()
    assert door.main(["submit", "01", "--student", "ada"]) == 0


@pytest.mark.parametrize("name", ["a", "a.b-c_1", "4711", "Zoë", "李", "A" * 64])
def test_student_ids(name):
    assert handin.student_id(f" {name} ", "") == name


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "a\\b", "-a", "a b", "a.", "=1", "a@b", "_a", "A" * 65]
)
def test_what_cannot_be_a_student_id_is_said(worked, door, capsys, name):
    assert door.main(["submit", f"--student={name}"]) == 1
    assert "cannot be a student id" in capsys.readouterr().err
    assert not handed_in(worked)


def test_submit_asks_for_the_id(worked):
    said = plainly(typed(worked, "submit", python=["-I", "-S"], input=""))
    assert "submit --student YOUR-ID" in said
    result = typed(worked, "submit", python=["-I", "-S"], input="ada\n", conda=False)
    assert result.returncode == 0, result.stderr
    assert "Your student id" in result.stdout and handed_in(worked)


# for instructors


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["solution", "01"], "without solutions"),
        (["build"], "without the authors' sources"),
        (["test"], "without tests"),
        (["bench"], "without benchmarks"),
        (["release"], "without the grader"),
        (["grade", "handed-in"], "without the grader"),
        (["formgrader"], "without the grader"),
        (["report"], "without the grader"),
    ],
)
def test_a_copy_for_a_class_says_what_it_lacks(tree, door, capsys, words, without):
    for folder in ("lessons", "tests", "grading"):
        (tree / folder).rmdir()
    assert door.main(words) == 1
    said = capsys.readouterr().err
    assert "made for a class" in said and without in said


@pytest.mark.parametrize("name", ["release", "grade", "formgrader", "report"])
def test_instructors_programs_start_where_the_instructor_stands(
    tree, door, monkeypatch, tmp_path, name
):
    started, elsewhere = [], tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(door, "hand_over", lambda words: started.extend(words) or 7)
    assert door.main([name, "handed in", "--jobs", "2", "--help"]) == 7
    assert started[1:] == [
        "-P",
        "-m",
        f"grading.{name}",
        "handed in",
        "--jobs",
        "2",
        "--help",
    ]
    assert Path.cwd() == elsewhere


def test_the_first_use_installs_the_graders_packages_with_a_word(
    course, installer, monkeypatch, capsys
):
    installer.again()
    monkeypatch.setattr(course, "hand_over", lambda words: 0)
    installer.asked = []
    assert course.main(["report"]) == 0
    assert installer.asked == ["pip .[grading]"]
    assert "Grading needs a few packages more" in capsys.readouterr().out
    course.main(["report"])
    assert "packages" not in capsys.readouterr().out


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_grading_elsewhere_than_on_linux_says_where(door, monkeypatch, capsys, system):
    monkeypatch.setattr(sys, "platform", system)
    assert door.main(["grade", "handed-in"]) == 1
    said = capsys.readouterr().err
    assert "WSL" in said and "Linux" in said
