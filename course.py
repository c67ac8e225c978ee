"""The front door of the batch-normalization course."""

import sys

# an old Python must get this far: no syntax in this file is newer than 3.6
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"Python 3.11 or newer is needed, this is {sys.version_info[0]}."
        f"{sys.version_info[1]} ({sys.executable}). Install a newer Python from "
        "python.org or with your package manager, and start the course with it."
    )

import argparse
import compileall
import datetime
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent
PACKAGES = "bn_helpers", "bn_experiments", "bn_checks"  # what notebooks import
VENV = ROOT / ".venv"
MARKER = VENV / "course.txt"  # what a complete install was made from
UNFINISHED = VENV / "unfinished"  # there while packages are being unpacked
PIP_LOG = VENV / "install.log"
NOTEBOOKS, WORK = ROOT / "notebooks", ROOT / "work"
CHECKSUMS = ROOT / "data" / "checksums.txt"

WINDOWS = os.name == "nt"
VENV_PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
# packages, and pip's cache of their archives
INSTALLED_GB, NEEDED_GB = (6, 9) if sys.platform == "linux" else (1, 2)

COMMANDS = {}


class Problem(Exception):
    """What stops the course, and what to do about it, in one paragraph."""


def argument(*names, **options):
    return names, options


def command(*arguments, passes_to=None, own_help=True):
    """Make a function the command of its name; its docstring is the help."""

    def register(function):
        COMMANDS[function.__name__] = function, arguments, passes_to, own_help
        return function

    return register


def say(text):
    print(text, flush=True)


def typed(words):
    """A command of the course as this user types it."""
    program = sys.argv[0] if sys.argv[0].endswith("course.py") else "course.py"
    program = f'"{program}"' if " " in program else program
    return f"{'py' if WINDOWS else 'python3'} {program} {words}"


# children


def child_environment():
    """Children find the course's packages wherever the course has been moved to."""

    def before(variable, path):
        return os.pathsep.join(filter(None, [str(path), os.environ.get(variable)]))

    return {
        **os.environ,
        "PYTHONUTF8": "1",
        "PYTHONPATH": before("PYTHONPATH", ROOT),
        "JUPYTER_CONFIG_PATH": before("JUPYTER_CONFIG_PATH", ROOT / "tools/jupyter"),
    }


def run(words, **options):
    """Run a command to its end; Ctrl-C is for the command to answer."""
    process = subprocess.Popen([str(word) for word in words], **options)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def hand_over(words):
    """Become another command; Windows has no such thing and waits for it."""
    words = [str(word) for word in words]
    if WINDOWS:
        return run(words, env=child_environment())
    os.execve(words[0], words, child_environment())


# packages


def project():
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


def requirements(extras=()):
    optional = project()["optional-dependencies"]
    return project()["dependencies"] + [
        requirement for extra in extras for requirement in optional[extra]
    ]


def missing_packages(extras=()):
    """Names of the packages that the running Python lacks."""
    names = [re.match(r"[\w.-]+", line).group() for line in requirements(extras)]
    installed = importlib.metadata.distributions
    return [name for name in names if not any(installed(name=name))]


def in_conda():
    prefix = os.environ.get("CONDA_PREFIX")
    return bool(prefix) and os.path.realpath(prefix) == os.path.realpath(sys.prefix)


def conda_serves(extras=()):
    """Whether the active conda environment has what the course needs."""
    return in_conda() and not missing_packages(extras)


def environment(*extras):
    """The Python that has the packages; sets it up where that is needed."""
    if conda_serves(extras):
        return sys.executable
    if in_conda():
        say(conda_lacks(missing_packages(extras)))
    if not is_ready(extras):
        set_up(extras)
    return VENV_PYTHON


def conda_lacks(missing):
    mend = f"python -m pip install {' '.join(missing)}"
    if set(missing) & set(missing_packages()):
        mend = "conda env update -f environment.yml"
    return (
        f"The active conda environment lacks {', '.join(missing)}; the course goes on "
        f"with its own environment, .venv. To stay in conda instead, run: {mend}"
    )


def fingerprint():
    sources = ROOT / "pyproject.toml", ROOT / "requirements.lock"
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def installed():
    """The fingerprint and the extras of the last complete install."""
    text = MARKER.read_text(encoding="utf-8") if MARKER.exists() else ""
    first, *extras = text.split() or [""]
    return first, set(extras) & set(project()["optional-dependencies"])


def is_ready(extras):
    """Whether a complete and current install, extras included, is in `.venv`."""
    first, has = installed()
    complete = first == fingerprint() and not UNFINISHED.exists()
    return complete and has.issuperset(extras) and venv_works()


def venv_works():
    """Whether the Python in `.venv` starts, is new enough and has pip."""
    code = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    try:
        found = subprocess.run([VENV_PYTHON, "-I", "-c", code], capture_output=True)
    except OSError:
        return False
    return found.returncode == 0


def set_up(extras):
    """Make or mend `.venv`; the marker is written when everything is in place."""
    extras = sorted({*extras, *installed()[1]})
    prepare_venv()
    UNFINISHED.touch()
    failed = pip_install(extras)
    if not (failed and unpacking_began()):
        UNFINISHED.unlink()
    if failed:
        raise Problem(pip_trouble())
    say("Importing every package once, so that the first lesson starts quickly.")
    for package in PACKAGES:
        compileall.compile_dir(ROOT / package, quiet=2)
    trouble = probe(VENV_PYTHON)["packages"]
    if trouble:
        raise Problem(f"The packages do not work: {trouble}. {mending(trouble)}")
    MARKER.write_text("\n".join([fingerprint(), *extras]), encoding="utf-8")
    PIP_LOG.unlink()


def prepare_venv():
    if venv_works() and not UNFINISHED.exists():
        say("Installing what .venv lacks; that may take a few minutes.")
        return
    insist(python_trouble, venv_trouble, disk_trouble)
    say(
        "Setting up: this makes a Python environment in the folder .venv and installs "
        "the course's packages there. It usually takes 2 to 5 minutes and about "
        f"{INSTALLED_GB} GB on disk, and it needs the network, this once."
    )
    if run([sys.executable, "-m", "venv", "--clear", VENV]):
        raise Problem(
            f"The Python environment {VENV} could not be made; the reason is above. "
            "Close what uses that folder, delete it, and run this again."
        )


def pip_install(extras):
    PIP_LOG.unlink(missing_ok=True)
    course = f".[{','.join(extras)}]" if extras else "."
    options = ["--disable-pip-version-check", "--log", PIP_LOG]
    what = ["-c", "requirements.lock", "-e", course]
    pip = [VENV_PYTHON, "-I", "-X", "utf8", "-m", "pip"]
    return run([*pip, "install", *options, *what], cwd=ROOT)


def pip_log():
    try:
        return PIP_LOG.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def unpacking_began():
    # pip's own line, not the indented one of a package that it builds
    return re.search(r"^\S+ Installing collected packages", pip_log(), re.MULTILINE)


AGAIN = "run the same command again; what is downloaded is kept"
PIP_TROUBLE = {
    r"Operation cancelled by user": f"Set-up was stopped. To finish it, {AGAIN}.",
    r"No space left on device|not enough space on the disk": (
        f"The disk is full. Set-up needs about {NEEDED_GB} GB for the course's folder, "
        f"pip's cache and {tempfile.gettempdir()}. Free some space and {AGAIN}."
    ),
    r"Windows Long Path": (
        "A file's path became too long for Windows. Move the course to a short path "
        r"such as C:\course, and run the same command again."
    ),
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ReadTimeoutError"
    r"|ProxyError|Network is unreachable|Read timed out|ConnectionResetError"
    r"|setuptools\S* \(from versions: none\)": (
        "The package index could not be reached. Set-up needs the network once: "
        f"connect to it and {AGAIN}."
    ),
    r"No matching distribution found": (
        "A package has no build for this Python or this machine; a line above names "
        "it. Try another Python, from 3.11 to 3.14, or conda with environment.yml."
    ),
}


def pip_trouble():
    for pattern, advice in PIP_TROUBLE.items():
        if re.search(pattern, pip_log()):
            return advice
    return f"pip stopped; the reason is above and in {PIP_LOG}. To go on, {AGAIN}."


IMPORTED = "numpy", "matplotlib.font_manager", "jupyterlab", "ipykernel", "torchvision"


def probe(python):
    """Ask another Python, in one start, what `doctor` wants to know of it."""
    ask = [str(python), "-P", "-c", "import course; course.answer_probe()"]
    found = subprocess.run(
        ask, env=child_environment(), capture_output=True, encoding="utf-8"
    )
    if found.returncode == 0:
        return json.loads(found.stdout.splitlines()[-1])
    reason = (found.stderr.splitlines() or [f"exit code {found.returncode}"])[-1]
    return {"packages": reason}


def answer_probe():
    missing = missing_packages()
    if missing:
        answer = {"packages": f"missing: {', '.join(missing)}"}
    else:
        answer = {"packages": "; ".join(unfit_packages()), "kernel": foreign_kernel()}
    print(json.dumps(answer))


def unfit_packages():
    """What is out of its range, or does not import."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requirements()):
        version = importlib.metadata.version(requirement.name)
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement} is needed, {version} is installed"
    for module in IMPORTED:
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken build raises whatever it likes
            yield f"import {module}: {error}".splitlines()[0]


def foreign_kernel():
    """The program that the kernel `python3` runs, where it is not this Python."""
    from jupyter_client.kernelspec import get_kernel_spec

    program = get_kernel_spec("python3").argv[0]
    # jupyter itself replaces such a name by the Python that runs it
    ours = re.fullmatch(r"python[\d.]*", program) or program == sys.executable
    return "" if ours else program


# what `doctor` looks at: each returns what it found, and a mend where that is wrong


def insist(*checks):
    for check in checks:
        found, mend = check()
        if mend:
            raise Problem(f"{found}. {mend}.")


def python_trouble():
    found = f"Python {platform.python_version()} ({sys.executable})"
    if sys.maxsize < 2**32:
        return f"{found} is a 32-bit build", "Install a 64-bit Python"
    if (sys.platform, platform.machine()) == ("darwin", "x86_64") and not in_conda():
        mend = "Use a Python for Apple silicon, or conda env create -f environment.yml"
        return f"{found} is for Intel Macs, which PyTorch has left to conda-forge", mend
    return found, ""


def venv_trouble():
    if in_conda() or all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        return "Python can make an environment", ""
    package = "python{}.{}-venv".format(*sys.version_info)
    return (
        "This Python cannot make an environment: its venv module is missing",
        f"Install it (on Debian and Ubuntu: sudo apt install {package}), and run again",
    )


def disk_trouble():
    free = shutil.disk_usage(ROOT).free / 1e9
    needed = 1 if conda_serves() or MARKER.exists() else NEEDED_GB
    found = f"{free:.1f} GB are free"
    if free < needed:
        mend = f"Free some space on the disk of {ROOT}, and run again"
        return f"{found}; the course needs about {needed} GB", mend
    return found, ""


@functools.cache
def probed():
    if conda_serves():
        return probe(sys.executable)
    if venv_works():
        return probe(VENV_PYTHON)
    return {"packages": "not installed yet"}


def mending(trouble):
    if "torchvision::nms" in trouble:
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        pair = " ".join(re.findall(r"^torch(?:vision)?==[\w.]+", lock, re.MULTILINE))
        python = f'"{sys.executable if conda_serves() else VENV_PYTHON}"'
        return (
            "torch and torchvision come from different builds; install the matched "
            f"pair: {python} -m pip install --force-reinstall --no-deps {pair}"
        )
    if "DLL" in trouble or "WinError" in trouble:
        return "Install the Microsoft Visual C++ Redistributable, and restart"
    if conda_serves():
        return "conda env update -f environment.yml"
    if MARKER.exists():
        return f"Delete the folder {VENV}, then run: {typed('lab')}"
    return f"{typed('lab')} installs them"


def packages_trouble():
    trouble = probed()["packages"]
    if trouble:
        return trouble, mending(trouble)
    return "installed, in their ranges, and they import", ""


def kernel_trouble():
    program = probed().get("kernel")
    if program is None:
        return "needs the packages", "Mend the packages first"
    if program:
        return f"python3 runs {program}", "jupyter kernelspec remove python3"
    return "python3 runs the course's Python", ""


def data_trouble():
    unfit = dict(unfit_data())
    if not unfit:
        return "every file agrees with data/checksums.txt", ""
    states = [f"{name} is {state}" for name, state in unfit.items()]
    return "; ".join(states), restoring(unfit)


def restoring(names):
    return (
        f"In the course's folder run: git checkout -- {' '.join(names)} (without git, "
        "take the file from a new download of the course)"
    )


def unfit_data():
    """Each file that is missing or differs from its checksum."""
    text = CHECKSUMS.read_text(encoding="utf-8") if CHECKSUMS.exists() else ""
    sums = re.findall(r"^([0-9a-f]{64}) [ *](.+)$", text, re.MULTILINE)
    for expected, name in sums:
        path = CHECKSUMS.parent / name
        if not path.exists():
            yield f"data/{name}", "missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            yield f"data/{name}", "damaged"
    if not sums:
        yield "data/checksums.txt", "damaged" if CHECKSUMS.exists() else "missing"


def threads_trouble():
    cores, asked = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS")
    found = f"{cores} cores, OMP_NUM_THREADS is {asked or 'not set'}"
    if asked and not (asked.isdecimal() and 1 <= int(asked) <= cores):
        return found, f"Set OMP_NUM_THREADS to a number from 1 to {cores}, or unset it"
    return found, ""


DOCTOR = {
    "Python": python_trouble,
    "venv": venv_trouble,
    "disk": disk_trouble,
    "packages": packages_trouble,
    "kernel": kernel_trouble,
    "data": data_trouble,
    "threads": threads_trouble,
}


# lessons and the student's copies


def find_lesson(text):
    """The notebook of a lesson given as 3, 03 or 03_activation_distributions."""
    lessons = sorted(NOTEBOOKS.glob("*.ipynb"))
    stem = Path(text).name.removesuffix(".ipynb")
    prefix = f"{int(stem):02d}_" if stem.isdecimal() else None
    for path in lessons:
        if path.stem == stem or (prefix and path.stem.startswith(prefix)):
            return path
    known = ", ".join(path.stem for path in lessons)
    raise Problem(f"There is no lesson {text}. The lessons are: {known or 'none yet'}.")


def without_outputs(path):
    """The text of a notebook as it is before anything has run."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        name = path.relative_to(ROOT).as_posix()
        raise Problem(f"{name} is damaged. {restoring([name])}.") from None
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def version(path):
    """The course's version of a notebook, None where a student's file hides it."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return notebook["metadata"]["course"]["version"]
    except (KeyError, TypeError, ValueError):
        return None


def write_new(path, text):
    """Write a file that must not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def fill_work():
    """Copy the lessons a student lacks; tell which of their copies are outdated."""
    lessons = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not lessons:
        raise Problem(f"No lesson is built. Run: {typed('build')}")
    for path in lessons:
        copy = WORK / path.name
        if not copy.exists():
            write_new(copy, without_outputs(path))
            say(f"New in work/: {copy.name}")
        elif version(copy) != version(path):
            say(
                f"Lesson {path.stem} has changed since your copy was made. Yours is as "
                f"you left it; to have both: {typed('fresh ' + path.stem[:2])}"
            )


def set_aside(path):
    """Keep a file under a dated name that nothing has yet."""
    stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H%M")
    kept = path.with_name(f"{path.stem}_kept-{stamp}.ipynb")
    count = 1
    while kept.exists():
        count += 1
        kept = path.with_name(f"{path.stem}_kept-{stamp}-{count}.ipynb")
    path.rename(kept)
    say(f"Your earlier file is kept as {kept.relative_to(ROOT)}")


def renew(path, text):
    """Put a new text at a student's path, and keep what was there."""
    if path.exists() and path.read_bytes() == text.encode():
        say(f"{path.relative_to(ROOT)} is new already.")
        return
    if path.exists():
        set_aside(path)
    write_new(path, text)
    say(f"New: {path.relative_to(ROOT)} (reload it where JupyterLab has it open)")


# handing in

STUDENT = re.compile(r"[^\W_]([\w.-]{0,62}[^\W_])?")
TASKS = {"ex-": "exercises", "answer-": "questions"}  # how ids of their cells start


def student_id(given):
    """The id that a student gave, or is asked for."""
    if given is None:
        try:
            given = input("Your student id, as your instructor knows it: ")
        except EOFError:
            example = typed("submit --student YOUR-ID")
            raise Problem(f"Say who hands in: {example}") from None
    if not STUDENT.fullmatch(given.strip()):
        raise Problem(
            f"{given!r} cannot be a student id. An id has letters and digits, with "
            "points, hyphens or _ between them, and at most 64 of these."
        )
    return given.strip()


def cells(content):
    """(name, text) of each cell of a notebook, in order; some editors drop the ids."""
    found = json.loads(content.decode("utf-8"))["cells"]
    return [(name_of(cell), "".join(cell["source"])) for cell in found]


def name_of(cell):
    graded = cell["metadata"].get("nbgrader", {})
    return graded.get("grade_id") or cell.get("id", "")


def undone(content, lesson):
    """Exercises and questions that are as they came; None where everything is.

    Raises:
        Problem: the student's notebook cannot be read.
    """
    original = cells(lesson.read_bytes())
    try:
        mine = cells(content)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Problem(
            f"work/{lesson.name} cannot be read as a notebook, and nothing was packed. "
            "Open it in JupyterLab and save it again, or name the lessons to hand in: "
            + typed("submit 01 02")
        ) from None
    if mine == original:
        return None
    now = dict(mine)
    tasks = [task for task in original if task[0].startswith(tuple(TASKS))]
    return [name for name, text in tasks if now.get(name, text) == text]


def state(content, lesson):
    """Whether a lesson was changed, and what of it is done, in words."""
    left = undone(content, lesson)
    if left is None:
        return False, "untouched"
    names = [name for name, _ in cells(lesson.read_bytes())]
    words = []
    for start, what in TASKS.items():
        total = sum(name.startswith(start) for name in names)
        done = total - sum(name.startswith(start) for name in left)
        words.append(f"{done} of {total} {what}")
    missing = ", ".join(name.split("-", 1)[1] for name in left)
    return True, ", ".join(words) + (f"; not done: {missing}" if left else "")


def packed(student, files):
    """The bytes of a zip that `grade` takes for this student's."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{student}/{name}", text)
    return content.getvalue()


def receipt(student, now, path, content, files):
    """What proves later which files were packed when."""

    def line(key, value):
        return f"{key:8} {value}\n"

    def digest(value):
        return hashlib.sha256(value).hexdigest()

    head = [("student", student), ("packed", now.isoformat(" ", "seconds"))]
    head += [("zip", path.name), ("sha256", digest(content))]
    holds = [
        ("holds", f"{name}, sha256 {digest(text)}") for name, text in files.items()
    ]
    return "".join(line(*pair) for pair in head + holds)


def free_name(folder, student, now):
    """A path for a zip, and its time: the first second that no zip has yet."""
    while True:
        utc = now.astimezone(datetime.UTC)
        path = folder / f"{student}_submission_{utc:%Y%m%dT%H%M%SZ}.zip"
        if not (path.exists() or path.with_suffix(".receipt.txt").exists()):
            return path, now
        now += datetime.timedelta(seconds=1)


# the commands


LESSON = argument("lesson", help="for example 3, 03 or 03_activation_distributions")


@command(
    argument("lesson", nargs="?", help="open this one, for example 3"),
    argument("--no-browser", action="store_true", help="print the address only"),
    argument("--port", type=int, help="serve here, or say that it is taken"),
    passes_to="JupyterLab (written --option=value)",
)
def lab(args):
    """open the course in JupyterLab; sets everything up the first time"""
    page = f"/tree/{quote(find_lesson(args.lesson).name)}" if args.lesson else ""
    if args.port:
        refuse_taken(args.port)
    insist(data_trouble)
    python = environment()
    fill_work()
    options = [f"--ServerApp.root_dir={WORK}", f"--LabApp.default_url=/lab{page}"]
    if args.no_browser:
        options.append("--no-browser")
    if args.port:
        options += [f"--ServerApp.port={args.port}", "--ServerApp.port_retries=0"]
    if not WINDOWS and os.geteuid() == 0:
        options.append("--allow-root")  # a container's only user
    say(f"Starting JupyterLab in {WORK}. Ctrl-C here stops it.")
    return hand_over([python, "-m", "jupyterlab", *options, *args.rest])


def refuse_taken(port):
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        raise Problem(
            f"Port {port} cannot be used ({error}). Close the program that uses it "
            "(another JupyterLab?), give another port, or leave --port away."
        ) from None


@command()
def doctor(args):
    """say what is in order and how to mend what is not"""
    failed = False
    for name, check in DOCTOR.items():
        found, mend = check()
        say(f"{'FAIL' if mend else 'OK':5} {name:9} {found}")
        if mend:
            say(f"{'':15} fix: {mend}")
        failed = failed or bool(mend)
    return int(failed)


@command(LESSON)
def fresh(args):
    """put a new copy of a lesson in work/, and keep the old one"""
    lesson = find_lesson(args.lesson)
    renew(WORK / lesson.name, without_outputs(lesson))


@command(LESSON)
def solution(args):
    """write the solved notebook of a lesson to work/solutions/"""
    lesson = find_lesson(args.lesson)
    needs("lessons", "without solutions. Each exercise has three hints that unfold")
    python = environment()
    with tempfile.TemporaryDirectory() as folder:
        build = [python, "-m", "tools.build", "--solved", lesson.stem, folder]
        if run(build, env=child_environment()):
            raise Problem(f"{lesson.stem} could not be built; the reason is above.")
        solved = next(Path(folder).glob("*.ipynb"))
        renew(WORK / "solutions" / solved.name, solved.read_text(encoding="utf-8"))


@command(
    argument("lessons", nargs="*", metavar="lesson", help="by default all you changed"),
    argument("--student", metavar="ID", help="your id, as your instructor knows it"),
)
def submit(args):
    """pack your lessons into one zip to hand in, with a receipt"""
    lessons = [find_lesson(text) for text in args.lessons]
    student, files = student_id(args.student), {}
    for lesson in lessons or sorted(NOTEBOOKS.glob("*.ipynb")):
        copy = WORK / lesson.name
        if not copy.exists():
            if lessons:
                raise Problem(f"There is no work/{copy.name} to hand in.")
            continue
        content = copy.read_bytes()
        changed, done = state(content, lesson)
        saved = datetime.datetime.fromtimestamp(copy.stat().st_mtime)
        taken = changed or lessons
        more = "" if taken else ", left out"
        say(f"{lesson.stem}, saved {saved:%Y-%m-%d %H:%M}: {done}{more}")
        if taken:
            files[copy.name] = content
    if not files:
        raise Problem("Every lesson in work/ is as it came: nothing to hand in.")
    hand_in(student, files)


def hand_in(student, files):
    """Write a zip and its receipt; neither takes the place of another."""
    now = datetime.datetime.now().astimezone()
    path, now = free_name(WORK / "submitted", student, now)
    content = packed(student, files)
    text = receipt(student, now, path, content, files)
    write_new(path.with_suffix(".receipt.txt"), text)
    with open(path, "xb") as file:
        file.write(content)
    say(
        f"\nUpload {path.relative_to(ROOT)}\n(its receipt lies beside it; "
        f"what you change from now on is not in it)\n\n{text}"
    )


@command(
    argument("--long", action="store_true", help="the proofs that take minutes, too"),
    passes_to="pytest",
)
def test(args):
    """run every test and compare every notebook with its stored outputs"""
    needs("tests", "without tests")
    python = environment("test", "grading")
    os.chdir(ROOT)
    pytest = [python, "-m", "pytest", "--nbval", "-n", "2", "--dist", "loadfile"]
    # files with few tests, the browser's, take long: they must not come last
    pytest += ["--no-loadscope-reorder"]
    return hand_over(pytest + ([] if args.long else ["-m", "not long"]) + args.rest)


@command(passes_to="the builder: LESSON ..., --force, --check")
def build(args):
    """make notebooks/ from lessons/, for authors"""
    needs("lessons", "without the authors' sources")
    python = environment("test")
    os.chdir(ROOT)
    return hand_over([python, "-m", "tools.build", *args.rest])


@command(passes_to="the benchmarks: NAME ...")
def bench(args):
    """time the course beside other ways of doing the same, in about five minutes"""
    needs("benchmarks", "without benchmarks")
    python = environment("test", "grading")
    os.chdir(ROOT)
    return hand_over([python, "-m", "benchmarks", *args.rest])


def needs(folder, without):
    """A copy for a class lacks some folders; say so before anything fails there."""
    if not (ROOT / folder).is_dir():
        raise Problem(
            f"This copy of the course was made for a class, {without}. Your instructor "
            "has the whole course."
        )


def instruct(module, words):
    """Start one of an instructor's programs, where the instructor stands."""
    needs("grading", "without the grader")
    if not (conda_serves(["grading"]) or is_ready(["grading"])):
        say("Grading needs a few packages more (nbgrader and others, about 0.3 GB).")
    python = environment("grading")
    # -P: a folder of submissions may hold any file, a grading.py even
    return hand_over([python, "-P", "-m", f"grading.{module}", *words])


@command(passes_to="the packer", own_help=False)
def release(args):
    """pack the course for a class, without solutions; for instructors"""
    return instruct("release", args.rest)


@command(passes_to="the grader", own_help=False)
def grade(args):
    """grade a folder or a zip of submissions, in a sandbox; for instructors"""
    if sys.platform != "linux":
        raise Problem(
            "Students' code is graded in a sandbox that only Linux has. On Windows run "
            "this in WSL (wsl --install), on macOS on a Linux machine or in a virtual "
            "one. What grade writes can be read everywhere; see grading/README.md."
        )
    return instruct("grade", args.rest)


@command(passes_to="the grading page", own_help=False)
def formgrader(args):
    """mark written answers in the browser, beside their rubrics; for instructors"""
    return instruct("formgrader", args.rest)


@command(passes_to="the reporter", own_help=False)
def report(args):
    """write grades.csv, a page per student and the class overview; for instructors"""
    return instruct("report", args.rest)


def parse(words):
    parser = argparse.ArgumentParser(prog="course.py", description=__doc__)
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (function, arguments, passes_to, own_help) in COMMANDS.items():
        more = passes_to and f"Anything else is passed on to {passes_to}."
        texts = {"help": function.__doc__, "description": function.__doc__}
        options = {"epilog": more, "add_help": own_help, "allow_abbrev": False}
        sub = parsers.add_parser(name, **options, **texts)
        sub.set_defaults(run=function, open=bool(passes_to))
        for names, options in arguments:
            sub.add_argument(*names, **options)
    args, rest = parser.parse_known_args(words)
    if rest and not args.open:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return argparse.Namespace(**vars(args), rest=rest)


def main(words=None):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a path may hold any letter
    args = parse(words)
    try:
        return args.run(args) or 0
    except Problem as problem:
        reason = str(problem)
    except OSError as error:
        reason = str(error)
    except KeyboardInterrupt:
        reason = f"Stopped. To go on, {AGAIN}."
    print(f"\n{reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
