"""The front door of the batch-normalization course."""

import sys

# an old Python must get this far: no syntax in this file is newer than 3.6
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
        f"Python 3.11 or newer is needed, this is {sys.version_info[0]}."
        f"{sys.version_info[1]} ({sys.executable}). Install a newer Python from "
        "python.org or with your package manager, and start the course with it."
    )

import os

if __name__ == "__main__" and "ipykernel" not in sys.modules:
    # neither a random.py beside this file nor a foreign PYTHONPATH may hide a module
    hiding = set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    hiding |= set() if sys.flags.safe_path else {sys.path[0]}
    sys.path[:] = [path for path in sys.path if path not in hiding]

import argparse
import compileall
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
import tomllib
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent
UPDATE = ROOT / ".update"  # a newer version of the course, until it is in place


def finish_update():
    """Put a staged version in place; stopped anywhere, it goes on from there.

    It stands here, before anything of the course is imported: a half-placed course must
    be able to end its own update.
    """
    plan = json.loads((UPDATE / "plan.json").read_text(encoding="utf-8"))
    if (UPDATE / "kept").exists():
        (ROOT / plan["kept_as"]).parent.mkdir(exist_ok=True)
        os.replace(UPDATE / "kept", ROOT / plan["kept_as"])
    for name in plan["new"]:
        if (UPDATE / "new" / name).exists():
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(UPDATE / "new" / name, ROOT / name)
    for name in plan["gone"]:
        (ROOT / name).unlink(missing_ok=True)
    (UPDATE / "plan.json").unlink()
    shutil.rmtree(UPDATE, ignore_errors=True)
    if plan["keep"]:
        print(f"Earlier files that the course did not vouch for: {plan['kept_as']}/")


if __name__ == "__main__" and (UPDATE / "plan.json").exists():
    print("An update of the course was interrupted; ending it.", flush=True)
    finish_update()
    sys.exit(subprocess.call([sys.executable, *sys.argv]))

sys.path.insert(0, str(ROOT))
from tools.door import answers, handin, machine, progress  # noqa: E402
from tools.door import update as updates  # noqa: E402
from tools.door.files import (  # noqa: E402
    Problem,
    dumps,
    read_notebook,
    renew,
    say,
    write_new,
)

sys.path.remove(str(ROOT))

PACKAGES = "bn_helpers", "bn_experiments", "bn_checks"  # what notebooks import
VENV = ROOT / ".venv"
MARKER = VENV / "course.txt"  # what a complete install was made from
UNFINISHED = ROOT / ".venv.unfinished"  # there while `.venv` may be half made
LOCK = ROOT / ".course.lock"
PIP_LOG = VENV / "install.log"
NOTEBOOKS, WORK = ROOT / "notebooks", ROOT / "work"
CHECKSUMS = ROOT / "data" / "checksums.txt"

WINDOWS = os.name == "nt"
VENV_PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")

# The package index's Linux build of PyTorch brings 5 GB of GPU libraries, which no
# lesson uses; PyTorch's own index has builds for the CPU alone. On other systems the
# package index has these.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_INDEX = "COURSE_TORCH_INDEX"  # a variable that names another index, or none
TORCH = "torch", "torchvision"
CPU, ORDINARY, NO_TORCH = "cpu", "ordinary", "none"  # which build a set-up has

COMMANDS = {}


def argument(*names, **options):
    return names, options


def command(*arguments, passes_to=None, own_help=True):
    """Make a function the command of its name; its docstring is the help."""

    def register(function):
        COMMANDS[function.__name__] = function, arguments, passes_to, own_help
        return function

    return register


def typed(words):
    """A command of the course as this user types it."""
    program = sys.argv[0] if sys.argv[0].endswith("course.py") else "course.py"
    program = f'"{program}"' if " " in program else program
    python = "python3"
    if WINDOWS:  # conda's prompt knows no py, a bare Python no python
        python = "py" if shutil.which("py") and not in_conda() else "python"
    return f"{python} {program} {words}"


# children


def child_environment():
    return machine.child_environment(ROOT, os.environ)


def run(words, stop=None, **options):
    """Run a command to its end, or until `stop()`; Ctrl-C is for it to answer."""
    process = subprocess.Popen([str(word) for word in words], **options)
    while True:
        try:
            return process.wait(timeout=1 if stop else None)
        except KeyboardInterrupt:
            continue
        except subprocess.TimeoutExpired:
            if stop():
                process.kill()


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


def unmet(extras=()):
    """What the running Python lacks or has in a version that does not fit, by name."""
    return [line for line in requirements(extras) if not met(line)]


def met(requirement):
    name, ranges = re.match(r"([\w.-]+)(.*)", requirement).groups()
    version = version_of(name)
    return version is not None and fits(version, ranges)


def version_of(name):
    """The installed version of a package; None where it is not installed."""
    paths = [path for path in sys.path if path != user_site()]
    found = importlib.metadata.distributions(name=name, path=paths)
    return next((package.version for package in found), None)


def user_site():
    """Where children do not look for packages."""
    import site

    return site.getusersitepackages()


def fits(version, ranges):
    """Whether a version is in ranges such as >=2.0,<3."""

    def numbers(text):
        found = [int(n) for n in re.match(r"[\d.]*", text)[0].split(".") if n]
        return found + [0] * (4 - len(found))

    for sign, limit in re.findall(r"(>=|<)([\d.]+)", ranges):
        if (numbers(version) >= numbers(limit)) != (sign == ">="):
            return False
    return True


def names(lines):
    return [re.match(r"[\w.-]+", line).group() for line in lines]


def in_conda():
    prefix = os.environ.get("CONDA_PREFIX")
    return bool(prefix) and os.path.realpath(prefix) == os.path.realpath(sys.prefix)


def conda_serves(extras=()):
    """Whether the active conda environment has what the course needs."""
    return in_conda() and not unmet(extras)


def environment(*extras, gpu=False):
    """The Python that has the packages; sets it up where that is needed."""
    if conda_serves(extras):
        return sys.executable
    insist(folder_trouble)
    waiting = "Another set-up of this course is at work; this one waits for its end."
    with machine.locked(LOCK, waiting) as lock:
        if not is_ready(extras) or (gpu and installed()[2] == CPU):
            if in_conda():
                say(conda_lacks(unmet(extras)))
            set_up(extras, gpu, lock)
    return VENV_PYTHON


def conda_lacks(missing):
    return (
        f"The active conda environment lacks {', '.join(missing)}; the course goes on "
        "with its own environment, .venv. To stay in conda instead, run: "
        + conda_mending(missing)
    )


def conda_mending(missing):
    """What brings the active conda environment in order; base is better left alone."""
    program = Path(os.environ.get("CONDA_EXE") or "conda").stem
    file = f'-f "{ROOT / "environment.yml"}"'
    name = os.environ.get("CONDA_DEFAULT_ENV", "")
    if name == "base":
        return (
            f"{program} env update {file} && {program} activate batch-normalization "
            f"&& {typed('lab')}"
        )
    if set(missing) & set(unmet()):
        return f'{program} env update -p "{os.environ["CONDA_PREFIX"]}" {file}'
    return f'"{sys.executable}" -m pip install {" ".join(names(missing))}'


def fingerprint():
    sources = ROOT / "pyproject.toml", ROOT / "requirements.lock"
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def installed():
    """Fingerprint, extras and build of the last complete install."""
    text = MARKER.read_text(encoding="utf-8") if MARKER.exists() else ""
    first, *words = text.split() or [""]
    builds = [word.removeprefix("build=") for word in words if "build=" in word]
    extras = set(words) & set(project()["optional-dependencies"])
    return first, extras, builds[0] if builds else (ORDINARY if first else "")


def is_ready(extras):
    """Whether a complete and current install, extras included, is in `.venv`."""
    first, has, _ = installed()
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


def set_up(extras, gpu, lock):
    """Make or mend `.venv`; the marker is written when everything is in place."""
    _, had, build = installed()
    extras = sorted({*extras, *had})
    light = bool(build in ("", CPU) and torch_index() and not gpu)
    pip = functools.partial(run_pip, lock=lock)
    prepare_venv(light, anew=gpu and build == CPU, lock=lock)
    UNFINISHED.touch()
    if light:
        light = install_light(pip, lock)
    torch = install_rest(pip, extras)
    record(extras, NO_TORCH if not torch else CPU if light else ORDINARY)


def prepare_venv(light, anew, lock):
    if venv_works() and not UNFINISHED.exists() and not anew:
        say("Installing what .venv lacks; that may take a few minutes.")
    else:
        announce(CPU if light else ORDINARY)
        make_venv(lock)


def record(extras, build):
    """Try what was installed, and write down what it is."""
    say("Importing every package once, so that the first lesson starts quickly.")
    for package in PACKAGES:
        compileall.compile_dir(ROOT / package, quiet=2)
    trouble = probe(VENV_PYTHON, build != NO_TORCH)["packages"]
    UNFINISHED.unlink()
    words = [fingerprint() if not trouble else "broken", *extras, f"build={build}"]
    MARKER.write_text("\n".join(words), encoding="utf-8")
    if trouble:
        raise Problem(f"The packages do not work: {trouble}. {mending(trouble)}")


def announce(build):
    insist(python_trouble, venv_trouble, functools.partial(disk_trouble, build))
    say(
        "Setting up: this makes a Python environment in the folder .venv and installs "
        "the course's packages there. It usually takes 2 to 5 minutes and "
        f"{disk_gb(build)} GB of disk, and it needs the network, this once."
    )


def make_venv(lock):
    UNFINISHED.touch()
    # a Python in `.venv` cannot make that anew; the one it was made from can
    python = getattr(sys, "_base_executable", sys.executable)
    words = [python, "-I", "-m", "venv", "--clear", VENV]
    if run(words, env=child_environment(), **held(lock)):
        raise Problem(
            f"The Python environment {VENV} could not be made; the reason is above. "
            "Close what uses that folder, delete it, and run this again."
        )


def held(lock):
    """Options that let a child hold the lock, too: it may outlive a killed parent."""
    return {} if WINDOWS else {"pass_fds": [lock.fileno()]}


def torch_index():
    """The index with CPU builds to ask first; empty where there is none to ask."""
    asked = os.environ.get(TORCH_INDEX, CPU_INDEX)
    return "" if sys.platform != "linux" or asked in ("", "none") else asked


def install_light(pip, lock):
    """Torch and torchvision alone from the CPU index; says so where that fails.

    Returns: whether they come from there.
    """
    index = torch_index()
    # the user's other indexes would be asked as well, and answer with other builds
    others = "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"
    alone = dict.fromkeys(others, "")
    quick = ["--no-deps", "--index-url", index, "--retries", "1", "--timeout", "5"]
    wanted = [line for line in requirements() if names([line])[0] in TORCH]
    if not pip([*quick, *wanted], alone, patience=45):
        return True
    if "Operation cancelled by user" in pip_log():
        raise Problem(PIP_TROUBLE["Operation cancelled by user"])
    say(
        f"PyTorch's build without GPU libraries could not be had from {index}. The "
        f"ordinary one follows; it needs {disk_gb(ORDINARY)} GB of disk."
    )
    insist(functools.partial(disk_trouble, ORDINARY))
    if unpacking_began():
        make_venv(lock)
    return False


def install_rest(pip, extras):
    """Everything else, and torch where it is not there yet.

    Returns: whether there is a torch for this machine at all.
    """
    course = f".[{','.join(extras)}]" if extras else "."
    if not pip(["-e", course], {}):
        return True
    if lacks_torch():
        say("The index has no PyTorch for this Python and machine; leaving it out.")
        rest = [r for r in requirements(extras) if names([r])[0] not in TORCH]
        if not (pip(rest, {}) or pip(["--no-deps", "-e", "."], {})):
            return False
    if not unpacking_began():
        UNFINISHED.unlink()
    raise Problem(pip_trouble())


def run_pip(words, variables, lock, patience=None):
    """pip install; stopped where it finds nothing to download in `patience` seconds.

    Returns: its exit code.
    """
    PIP_LOG.unlink(missing_ok=True)
    base = [VENV_PYTHON, "-I", "-X", "utf8", "-m", "pip", "install"]
    given = {**child_environment(), **machine.pip_environment(VENV_PYTHON, os.environ)}
    given = {name: text for name, text in {**given, **variables}.items() if text}
    options = ["--log", PIP_LOG, "-c", "requirements.lock"]
    watch = functools.partial(stalled, time.monotonic(), patience)
    more = {"cwd": ROOT, "env": given, **held(lock)}
    return run([*base, *options, *words], stop=watch, **more)


def stalled(began, patience):
    """Whether pip is still without a file to download when its time is over."""
    if patience is None or time.monotonic() < began + patience:
        return False
    return not re.search(r"Downloading |Using cached|Installing collected", pip_log())


def pip_log():
    try:
        return PIP_LOG.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def unpacking_began():
    # pip's own line, not the indented one of a package that it builds
    return re.search(r"^\S+ Installing collected packages", pip_log(), re.MULTILINE)


def lacks_torch():
    """Whether all that stopped pip is that torch has no build here."""
    lacking = r"No matching distribution found for torch|\(constraint\) torch"
    return re.search(lacking, pip_log()) and not re.search(UNREACHABLE, pip_log())


AGAIN = "run the same command again; what is downloaded is kept"
UNREACHABLE = (
    r"NewConnectionError|ConnectTimeoutError|NameResolutionError|ReadTimeoutError"
    r"|ProxyError|Network is unreachable|Read timed out|ConnectionResetError"
    r"|Remote end closed|SSLError|CERTIFICATE_VERIFY_FAILED"
    r"|setuptools\S* \(from versions: none\)"
)
PIP_TROUBLE = {
    r"Operation cancelled by user": f"Set-up was stopped. To finish it, {AGAIN}.",
    r"No space left on device|not enough space on the disk": (
        "The disk is full: the course's folder's, pip's cache's or that of the folder "
        f"for temporary files (TMPDIR names another). Free some space and {AGAIN}."
    ),
    r"Windows Long Path": (
        "A file's path became too long for Windows. Move the course to a short path "
        r"such as C:\course, and run the same command again."
    ),
    UNREACHABLE: (
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


IMPORTED = "numpy", "matplotlib.font_manager", "jupyterlab", "ipykernel.kernelapp"


def probe(python, torch=True):
    """Ask another Python, in one start, what `doctor` wants to know of it."""
    ask = [str(python), "-P", "-c", f"import course; course.answer_probe({torch})"]
    found = subprocess.run(
        ask, env=child_environment(), capture_output=True, encoding="utf-8"
    )
    if found.returncode == 0:
        return json.loads(found.stdout.splitlines()[-1])
    reason = (found.stderr.splitlines() or [f"exit code {found.returncode}"])[-1]
    return {"packages": reason}


def answer_probe(torch):
    wanted = [r for r in requirements() if torch or names([r])[0] not in TORCH]
    absent = [name for name in names(wanted) if version_of(name) is None]
    if absent:
        answer = {"packages": f"missing: {', '.join(absent)}"}
    else:
        answer = {"packages": "; ".join(unfit(wanted)), "kernel": foreign_kernel()}
    loaded = {name.partition(".")[0] for name in sys.modules if not_frozen(name)}
    print(json.dumps({**answer, "modules": sorted(loaded), "torch": torch_build()}))


def not_frozen(name):
    """Whether a module comes from a file, so that another file can take its place."""
    spec = getattr(sys.modules[name], "__spec__", None)
    return spec is not None and spec.origin not in ("built-in", "frozen")


def unfit(wanted):
    """What is out of its range, or does not import."""
    for line in wanted:
        if not met(line):
            yield f"{line} is needed, {version_of(names([line])[0])} is installed"
    more = ["torchvision"] if "torchvision" in names(wanted) else []
    for module in [*IMPORTED, *more]:
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken build raises whatever it likes
            yield f"import {module}: {error}".splitlines()[0]


def torch_build():
    """Which PyTorch is installed, in words; empty where there is none."""
    version = version_of("torch")
    gpu = version_of("nvidia-cublas") or version_of("nvidia-cublas-cu12")
    libraries = "with GPU libraries" if gpu else "for the CPU"
    return f"PyTorch {version} {libraries}" if version else ""


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


def disk_gb(build):
    """What a set-up needs of the disk: the packages, and pip's cache of their archives.

    Measured on Linux: 1.3 GB and 0.4 for the CPU, 6.0 and 2.8 with GPU libraries.
    """
    return 9 if build == ORDINARY and sys.platform == "linux" else 2


def disk_trouble(build=None):
    free = shutil.disk_usage(ROOT).free / 1e9
    ready = conda_serves() or MARKER.exists()
    needed = disk_gb(build or (CPU if torch_index() else ORDINARY))
    needed = 0.5 if ready and not build else needed
    found = f"{free:.1f} GB are free"
    if free < needed:
        mend = f"Free some space on the disk of {ROOT}, and run again"
        return f"{found}; the course needs {needed} GB", mend
    return found, ""


def folder_trouble():
    """Whether the course can write where it must."""
    if os.pathsep in str(ROOT):
        mend = "Rename that folder, or move the course to another one"
        return f"The course's path has a {os.pathsep!r} in it: {ROOT}", mend
    if WORK.is_symlink() and not WORK.exists():
        mend = "Remove that link, or bring back the folder that it names"
        return f"{WORK} is a link that leads nowhere", mend
    if WORK.exists() and not WORK.is_dir():
        return f"{WORK} is a file where a folder goes", "Rename that file"
    for folder in (ROOT, WORK) if WORK.exists() else (ROOT,):
        if not can_make_a_file(folder):
            mend = "Move the course to a folder of your own, where you may write"
            return f"{folder} cannot be written to", mend
    return temporary_trouble()


def can_make_a_file(folder):
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            return True
    except OSError:
        return False


def temporary_trouble():
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free / 1e9
    except OSError as error:
        return str(error), "Set TMPDIR to a folder that you may write to"
    if free < 0.5 and not MARKER.exists():
        mend = "Set TMPDIR to a folder with more room"
        return f"{folder}, for temporary files, has {free:.1f} GB free", mend
    return "the course's folder can be written to", ""


def variables_trouble():
    """Never wrong: the course does not hand on what could break it; it says so."""
    ignored = machine.foreign(os.environ)
    kept = [name for name in machine.LIBRARIES if os.environ.get(name)]
    said = [f"the course ignores {', '.join(ignored)}"] if ignored else []
    said += [f"{', '.join(kept)} set: may hide libraries"] if kept else []
    return "; ".join(said) or "none is set that matters", ""


def shadows():
    """Files in work/ and beside course.py that hide a module which a kernel imports."""
    beside = machine.modules_in(ROOT)
    for ours in (*PACKAGES, *OURS):
        beside.pop(ours, None)
    inner = [folder for folder in WORK.glob("*") if folder.is_dir()]
    found = [*beside.items()]
    for folder in (WORK, *inner):
        found += machine.modules_in(folder).items()
    return found and [path for name, path in found if name in hidden_by_these()]


OURS = "course", "conftest", "tools", "grading", "tests", "benchmarks"


def hidden_by_these():
    """Names of the modules that a kernel of the course imports."""
    return {*probed().get("modules", sys.stdlib_module_names), *PACKAGES, *TORCH}


def shadows_trouble():
    found = shadows()
    if not found:
        return "no file hides a module", ""
    listed = ", ".join(path.relative_to(ROOT).as_posix() for path in found)
    return f"{listed} hides the module of that name", "Give it another name"


@functools.cache
def probed():
    if conda_serves():
        return probe(sys.executable)
    if venv_works():
        return probe(VENV_PYTHON, installed()[2] != NO_TORCH)
    return {"packages": "not installed yet"}


def mending(trouble):
    """What to do about packages that do not work."""
    python = sys.executable if conda_serves() else VENV_PYTHON
    if "torchvision::nms" in trouble:
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        pair = " ".join(re.findall(r"^torch(?:vision)?==[\w.]+", lock, re.MULTILINE))
        return (
            "torch and torchvision come from different builds; install the matched "
            f'pair: "{python}" -m pip install --force-reinstall --no-deps {pair}'
        )
    if "DLL" in trouble or "WinError" in trouble:
        return "Install the Microsoft Visual C++ Redistributable, and restart"
    if any(os.environ.get(name) for name in machine.LIBRARIES):
        names = [name for name in machine.LIBRARIES if os.environ.get(name)]
        return f"Unset {', '.join(names)}, and run the same command again"
    if conda_serves():
        return conda_mending(unmet() or requirements())
    if "torch" in trouble and installed()[2] == CPU:
        return f"{typed('lab --gpu')} takes PyTorch's ordinary build"
    if MARKER.exists():
        return f"Delete the folder {VENV}, then run: {typed('lab')}"
    return f"{typed('lab')} installs them"


def packages_trouble():
    trouble = probed()["packages"]
    if trouble:
        return trouble, mending(trouble)
    build = probed().get("torch", "")
    if installed()[2] == NO_TORCH and not conda_serves():
        mend = f"With a Python from 3.11 to 3.14 and {VENV} deleted, run {typed('lab')}"
        return (
            f"all but PyTorch, which has no build for this Python: {need_torch()}",
            mend,
        )
    return "; ".join(filter(None, ["installed and in their ranges", build])), ""


def need_torch():
    """Which lessons can do without PyTorch, and which not, in a sentence."""
    named = {}
    for path in course_lessons():
        code = [c for c in read_notebook(path)["cells"] if c["cell_type"] == "code"]
        texts = map(progress.text_of, code)
        named[path.stem[:2]] = sum(bool(TORCH_USED.search(text)) for text in texts)
    whole = [number for number, count in named.items() if not count]
    partly = [f"{number} ({count})" for number, count in named.items() if count]
    return (
        f"lessons that do not name it: {', '.join(whole) or 'none'}; in the others "
        f"the cells that use it fail, so many name it: {', '.join(partly) or 'none'}"
    )


TORCH_USED = re.compile(r"\b(torch|torchvision)\b")


def kernel_trouble():
    program = probed().get("kernel")
    if program is None:
        return "needs the packages", "Mend the packages first"
    if program:
        python = sys.executable if conda_serves() else VENV_PYTHON
        mend = f'"{python}" -m jupyter kernelspec remove python3'
        return f"python3 runs {program}", mend
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
    "folder": folder_trouble,
    "venv": venv_trouble,
    "disk": disk_trouble,
    "variables": variables_trouble,
    "packages": packages_trouble,
    "kernel": kernel_trouble,
    "files": shadows_trouble,
    "data": data_trouble,
    "threads": threads_trouble,
}


# lessons and the student's copies


def course_lessons():
    """Paths of the course's notebooks, each one sound."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not paths:
        raise Problem(f"No lesson is built. Run: {typed('build')}")
    for path in paths:
        original(path)
    return paths


def original(path):
    """A notebook of the course as it is now."""
    try:
        return read_notebook(path)
    except ValueError:
        name = path.relative_to(ROOT).as_posix()
        raise Problem(f"{name} is damaged. {restoring([name])}.") from None


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
    """A notebook of the course as it is before anything has run."""
    notebook = original(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return notebook


def fill_work():
    """Copy the lessons a student lacks; tell which of their copies are outdated."""
    for path in course_lessons():
        copy = WORK / path.name
        if not copy.exists():
            write_new(copy, dumps(without_outputs(path)))
            say(f"New in work/: {copy.name}")
        elif updates.version(copy) != updates.version(path):
            say(
                f"Lesson {path.stem} has changed since your copy was made. Yours is as "
                "you left it. For a new copy with your answers in it: "
                + typed(f"fresh {path.stem[:2]} --answers")
            )
    progress.renew_start(NOTEBOOKS, WORK)


# the commands


LESSON = argument("lesson", help="for example 3, 03 or 03_activation_distributions")
GPU = argument(
    "--gpu", action="store_true", help="on Linux, PyTorch's build with GPU libraries"
)


@command(GPU)
def setup(args):
    """install what the course needs, and open nothing"""
    insist(folder_trouble, data_trouble)
    python = environment(gpu=args.gpu)
    say(f"The course is set up; its Python is {python}. To open it: {typed('lab')}")


@command(
    argument("lesson", nargs="?", help="open this one, for example 3"),
    argument("--no-browser", action="store_true", help="print the address only"),
    argument("--port", type=int, help="serve here, or say that it is taken"),
    GPU,
    passes_to="JupyterLab (written --option=value)",
)
def lab(args):
    """open the course in JupyterLab; sets everything up the first time"""
    first = find_lesson(args.lesson).name if args.lesson else progress.START
    if args.port:
        refuse_taken(args.port)
    insist(folder_trouble, data_trouble)
    python = environment(gpu=args.gpu)
    with machine.locked(LOCK, "Waiting for another command of the course."):
        fill_work()
    insist(shadows_trouble)
    if python == VENV_PYTHON and not torch_is_there():
        say(f"PyTorch is not installed: {need_torch()}.")
    say(f"Starting JupyterLab in {WORK}. Ctrl-C here stops it.")
    # -P: what lies where this was typed must not hide a module
    return hand_over([python, "-P", "-m", "jupyterlab", *lab_options(args, first)])


def lab_options(args, first):
    options = [f"--ServerApp.root_dir={WORK}"]
    options.append(f"--LabApp.default_url=/lab/tree/{quote(first)}")
    if args.no_browser:
        options.append("--no-browser")
    if args.port:
        options += [f"--ServerApp.port={args.port}", "--ServerApp.port_retries=0"]
    if not WINDOWS and os.geteuid() == 0:
        options.append("--allow-root")  # a container's only user
    return options + args.rest


def torch_is_there():
    """Whether `.venv` has PyTorch, without starting it."""
    return any(VENV.glob("[Ll]ib*/**/site-packages/torch/__init__.py"))


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


@command(
    argument("--links", action="store_true", help="as the start page shows it"),
)
def status(args):
    """say how far you are, and where to go on"""
    course_lessons()
    lessons = progress.table(NOTEBOOKS, WORK)
    if not args.links:
        return say(progress.plain(lessons))
    from IPython.display import Markdown, display

    return display(Markdown(progress.linked(lessons)))


@command(
    LESSON,
    argument("--answers", action="store_true", help="carry your answers over"),
)
def fresh(args):
    """put a new copy of a lesson in work/, and keep the old one"""
    lesson = find_lesson(args.lesson)
    copy, new = WORK / lesson.name, without_outputs(lesson)
    if not (args.answers and copy.exists()):
        return renew(copy, dumps(new), ROOT) and None
    try:
        carried, notes = answers.carry(read_notebook(copy), new)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Problem(
            f"work/{copy.name} cannot be read as a notebook, so no answer can be taken "
            f"from it. For a new copy without answers: {typed('fresh ' + args.lesson)}"
        ) from None
    renew(copy, dumps(new), ROOT)
    say(f"Answers carried over: {', '.join(carried) or 'none'}.")
    say(
        "".join(
            f"Not carried, or to be looked at: {note}.\n" for note in notes
        ).rstrip()
    )


@command(argument("source", nargs="?", help="a zip or folder of the newer version"))
def update(args):
    """put a newer version of the course in place; work/ stays as it is"""
    pull = f'git -C "{ROOT}" pull && {typed("lab")}'
    with machine.locked(LOCK, "Waiting for another command of the course."):
        updates.update(ROOT, args.source, pull, finish_update)


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
        target = WORK / "solutions" / solved.name
        renew(target, solved.read_text(encoding="utf-8"), ROOT)


@command(
    argument("lessons", nargs="*", metavar="lesson", help="by default all you changed"),
    argument("--student", metavar="ID", help="your id, as your instructor knows it"),
)
def submit(args):
    """pack your lessons into one zip to hand in, with a receipt"""
    lessons = [find_lesson(text) for text in args.lessons]
    example = typed("submit --student YOUR-ID")
    student, files = handin.student_id(args.student, example), {}
    for lesson in lessons or course_lessons():
        copy = WORK / lesson.name
        if not copy.exists():
            if lessons:
                raise Problem(f"There is no work/{copy.name} to hand in.")
            continue
        content = copy.read_bytes()
        changed, done = described(content, lesson)
        saved = datetime.fromtimestamp(copy.stat().st_mtime)
        more = "" if changed or lessons else ", left out"
        say(f"{lesson.stem}, saved {saved:%Y-%m-%d %H:%M}: {done}{more}")
        if changed or lessons:
            files[copy.name] = content
    if not files:
        raise Problem("Every lesson in work/ is as it came: nothing to hand in.")
    handin.hand_in(student, files, ROOT)


def described(content, lesson):
    """Whether a student's notebook differs from the lesson, and what of it is done."""
    try:
        return progress.described(read_notebook(content), original(lesson))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Problem(
            f"work/{lesson.name} cannot be read as a notebook, and nothing was packed. "
            "Open it in JupyterLab and save it again, or name the lessons to hand in: "
            + typed("submit 01 02")
        ) from None


@command(
    argument("--long", action="store_true", help="the proofs that take minutes, too"),
    passes_to="pytest",
)
def test(args):
    """run every test and compare every notebook with its stored outputs"""
    needs("tests", "without tests")
    python = environment("test", "grading", "site")
    os.chdir(ROOT)
    workers = str(min(os.cpu_count() or 1, 4))
    pytest = [python, "-m", "pytest", "--nbval", "-n", workers, "--dist", "loadfile"]
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


@command(passes_to="the builder: --address, --links")
def site(args):
    """make the reading edition, a website in build/site"""
    needs("lessons", "without the authors' sources")
    python = environment("site")
    os.chdir(ROOT)
    return hand_over([python, "-m", "tools.site", *args.rest])


@command(passes_to="the benchmarks: NAME ...")
def bench(args):
    """time the course beside other ways of doing the same, in about six minutes"""
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
        if hasattr(stream, "reconfigure"):  # a notebook's has no need of it
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
