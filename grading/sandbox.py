"""A place where a student's code can run and harm nobody.

Bubblewrap starts the runner (inside/runner.py) in namespaces of its own: a read-only
system, no network, an empty /tmp, its own process ids, limits on memory, processes and
files. In place of the course it sees its packages stripped, without any reference
implementation. When the sandbox is closed, everything in it is gone.
"""

import contextlib
import functools
import itertools
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .config import PACKAGES, ROOT
from .inside import wire

COURSE, GRADER, WORK = "/course", "/grader", "/tmp/work"
# what student code finds of them as it is; of all else only the names
KEPT = (
    "bn_helpers/__init__.py",
    "bn_helpers/course.mplstyle",
    "bn_helpers/data.py",
    "bn_helpers/plots.py",
    "bn_experiments/__init__.py",
    "bn_checks/drivers",
)
SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/sbin", "/nix/store")
SETTINGS = ("/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache", "/etc/localtime")
PROGRAMS = {"bwrap": "bubblewrap", "prlimit": "util-linux", "setpriv": "util-linux"}
INSIDE = Path(__file__).with_name("inside")
UIDS = range(100_000, 2_000_000_000)  # as root, each sandbox has one to itself
BARE = ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")
POLL = 0.1


class Unavailable(Exception):
    """No sandbox can be made here; the text says what to install."""


class Broken(Exception):
    """The sandbox failed before any student code ran in it."""


class Trouble(BaseException):
    """Student code has no result; the text says what it did.

    Not an Exception: a check must not take it for a wrong answer.

    Attributes:
        alive: whether the sandbox can go on.
    """

    def __init__(self, reason, alive=False):
        super().__init__(reason)
        self.alive = alive


@dataclass(frozen=True)
class Allowed:
    """How long something may take.

    Attributes:
        seconds: what is left of it.
        told: what to say when they are over: it names the limit, not what was left.
    """

    seconds: float
    told: str = ""

    def __post_init__(self):
        told = self.told or f"did not finish within {self.seconds:.3g} seconds"
        object.__setattr__(self, "told", told)

    @classmethod
    def of(cls, seconds):
        """A number of seconds as it is, or said with its limit."""
        return seconds if isinstance(seconds, cls) else cls(seconds)


def require(unsafe=False):
    """Make sure that sandboxes work here, or that nobody wants one.

    Raises:
        Unavailable: a program is missing, or the system forbids sandboxes.
    """
    if unsafe:
        return
    if not sys.platform.startswith("linux"):
        raise Unavailable(
            "Student code runs in a sandbox, and the sandbox needs Linux. On Windows "
            "grade in WSL, on macOS in a Linux machine or container."
        )
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise Unavailable(
                f"Student code runs in a sandbox, and its program {program} is "
                f"missing. Install it: sudo apt install {package}"
            )
    test = subprocess.run(
        [*_bwrap([]), *BARE, "--", "true"], capture_output=True, encoding="utf-8"
    )
    if test.returncode:
        reason = (test.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unavailable(
            f"bubblewrap is installed, but cannot make a sandbox here: {reason}. A "
            "container may forbid it (Docker: --security-opt seccomp=unconfined), or "
            "the system (kernel.unprivileged_userns_clone, AppArmor)."
        )


# what the sandbox holds


def stripped(course=ROOT):
    """What a submission may import, as (path in the course, file that is shown there).

    A few modules are as they are; of the others only the names are left.
    """
    shown = {Path("bn_checks/__init__.py"): INSIDE / "absent_check.py"}
    for name in KEPT:
        found = course / name
        files = found.glob("*.py") if found.is_dir() else [found]
        shown |= {file.relative_to(course): file for file in files}
    for package in PACKAGES:
        for found in (course / package).rglob("*.py"):
            shown.setdefault(found.relative_to(course), INSIDE / "absent.py")
    return sorted(shown.items())


def _bwrap(binds, before=()):
    """Bubblewrap and its options, up to the command that runs inside.

    Args:
        binds: what is shown, read-only, beside the system: (source, target) pairs.
        before: options for what must be there first, as a /tmp that may hold binds.
    """
    system = [Path(path) for path in SYSTEM]
    links = [["--symlink", os.readlink(p), p] for p in system if p.is_symlink()]
    shown = [p for p in system if p.is_dir() and not p.is_symlink()]
    shown += [p for p in map(Path, SETTINGS) if p.exists()]
    command = [shutil.which("bwrap"), "--die-with-parent", "--new-session"]
    command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--hostname", "sandbox", "--cap-drop", "ALL"]
    if os.geteuid() == 0:  # to become nobody inside, see _dropping
        for capability in ("SETUID", "SETGID", "SETPCAP"):
            command += ["--cap-add", f"CAP_{capability}"]
    else:
        command += ["--unshare-user", *_no_more_users()]
    command += [*before, *itertools.chain(*links)]
    pairs = [*((path, path) for path in shown), *binds]
    folders = {p for _, target in pairs for p in Path(target).parents} - {Path("/")}
    for folder in sorted(folders):  # else they would be closed to others than root
        command += ["--perms", "0755", "--dir", folder]
    for pair in pairs:
        command += ["--ro-bind", *pair]
    return list(map(str, command))


@functools.cache
def _no_more_users():
    """The option that forbids further user namespaces, where bubblewrap has it."""
    option = "--disable-userns"  # since version 0.8
    told = subprocess.run(["bwrap", "--help"], capture_output=True, encoding="utf-8")
    return [option] if option in told.stdout + told.stderr else []


def _python_folders():
    """Where this Python and its packages are, outside the system's folders."""
    program = Path(sys.executable).resolve().parents[1]
    folders = {Path(sys.prefix), Path(sys.base_prefix), program}
    return sorted(f for f in folders if not f.is_relative_to("/usr"))


def _shown():
    """All that a submission finds beside the system, as (source, target) pairs."""
    pairs = [(folder, folder) for folder in _python_folders()]
    pairs += [(file, f"{COURSE}/{name}") for name, file in stripped()]
    pairs += [(ROOT / "data", f"{COURSE}/data")]
    pairs += [(INSIDE / name, f"{GRADER}/{name}") for name in ("runner.py", "wire.py")]
    return pairs


def _private(limits):
    """Options for the places that are made anew for each sandbox."""
    options = ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", "/tmp"):
        options += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", folder]
    return options


def _workplace():
    """Options for the folder that code starts in; nothing else can be written."""
    options = ["--perms", "1777", "--dir", WORK, "--chdir", WORK]
    options += ["--perms", "1777", "--dir", f"{WORK}/.matplotlib"]
    for fonts in _font_lists():  # else each figure starts with looking for fonts
        options += ["--ro-bind", fonts, f"{WORK}/.matplotlib/{Path(fonts).name}"]
    return [*options, "--remount-ro", "/dev", "--remount-ro", "/"]


@functools.cache
def _font_lists():
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = os.environ.get("MPLCONFIGDIR") or Path(cache) / "matplotlib"
    return sorted(map(str, Path(folder).glob("fontlist-*.json")))


def _dropping():
    """As root, become a user that owns nothing, without any capability."""
    if os.geteuid() != 0:
        return []
    uid = str(random.SystemRandom().choice(UIDS))
    return [*_becoming(uid), *_sealed()]


def _becoming(uid):
    user = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
    return [*user, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]


@functools.cache
def _sealed():
    """Where the system lets such a user make namespaces, a way to end just that."""
    seal = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns"]
    test = [*_bwrap([]), *BARE, "--", *_becoming(str(UIDS[0])), *seal, "true"]
    works = subprocess.run(test, capture_output=True).returncode == 0
    return [*seal, "--chdir", WORK, "--"] if works else []


def _limiting(limits):
    return [
        "prlimit",
        f"--as={limits.address_space}",
        f"--nproc={limits.processes + _mine()}",
        f"--nofile={limits.open_files}",
        f"--fsize={limits.disk}",
        "--core=0",
        "--",
    ]


def _mine():
    """Threads this user has already: older kernels count them in."""
    if os.geteuid() == 0:
        return 0
    count = 0
    for status in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if status.stat().st_uid == os.geteuid():
                count += len(os.listdir(status / "task"))
    return count


def _environment(course, work):
    return {
        "HOME": work,
        "IPYTHONDIR": f"{work}/.ipython",
        "LANG": "C.UTF-8",
        "LOGNAME": "student",
        "MKL_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": f"{work}/.matplotlib",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",  # else pip waits eight seconds for a network
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(course),
        "USER": "student",
    }


class Sandbox:
    """One runner in one sandbox: `with Sandbox(limits) as box: box.ask("run", ...)`."""

    def __init__(self, limits, unsafe=False):
        self.limits, self.unsafe = limits, unsafe
        self.process, self.folder, self.count = None, None, 0
        self.watched = 0.0  # when memory was looked at last

    def __enter__(self):
        most = str(self.limits.message)
        if self.unsafe:
            course, self.work = self._unsafe_folders()
            command = [sys.executable, str(INSIDE / "runner.py"), most]
        else:
            course, self.work = COURSE, WORK
            command = _bwrap(_shown(), _private(self.limits))
            command += [*_workplace(), "--", *_dropping()]
            command += _limiting(self.limits)
            command += [sys.executable, f"{GRADER}/runner.py", most]
        self.process = subprocess.Popen(
            command,
            env=_environment(course, self.work),
            cwd=self.work if self.unsafe else "/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not self.unsafe else subprocess.DEVNULL,
            start_new_session=True,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        return self

    def _unsafe_folders(self):
        """The course, stripped, and a folder to work in, without a sandbox."""
        self.folder = Path(tempfile.mkdtemp(prefix="grading-"))
        for name, file in stripped():
            target = self.folder / "course" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        (self.folder / "course" / "data").symlink_to(ROOT / "data")
        (self.folder / "work").mkdir()
        return self.folder / "course", str(self.folder / "work")

    def __exit__(self, *failure):
        self.close()

    def close(self):
        """End everything that runs inside."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe and pipe.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, driver=""):
        """Wait until the runner answers.

        Raises:
            Broken: it does not.
        """
        try:
            allowed = Allowed(self.limits.start)
            self.ask("start", allowed, driver=driver, folder=self.work)
        except (Trouble, wire.BadMessage) as error:
            raise Broken(f"the sandbox {error}{self._said()}") from None

    def ask(self, what, allowed, **arguments):
        """Send a request, and wait for the reply.

        Args:
            allowed: seconds, or the `Allowed` time.

        Returns: the reply, a dictionary; with "error" where student code raised.

        Raises:
            Trouble: there is none: out of time or memory, or dead.
        """
        self.count += 1
        allowed = Allowed.of(allowed)
        seconds = allowed.seconds
        request = {"id": self.count, "do": what, "seconds": seconds, **arguments}
        end = time.monotonic() + seconds + self.limits.stop
        try:
            self._send(wire.pack(request, 2 * self.limits.message), end)
            reply = wire.unpack(self._receive(end))
        except (OSError, wire.BadMessage) as error:
            raise Trouble(f"gave an answer that cannot be read: {error}") from None
        if reply.pop("id", None) != self.count:
            raise Trouble("answered what nobody had asked")
        if "stopped" in reply:
            raise Trouble(allowed.told, alive=True)
        return reply

    def _send(self, data, end):
        fd, view = self.process.stdin.fileno(), memoryview(data)
        os.set_blocking(fd, False)
        while view:
            self._wait([], [fd], end)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(fd, view) :]

    def _receive(self, end):
        [size] = wire.HEAD.unpack(self._read(wire.HEAD.size, end))
        if size > self.limits.message:
            raise wire.BadMessage(f"an answer of {size} bytes")
        return self._read(size, end)

    def _read(self, size, end):
        fd, data = self.process.stdout.fileno(), bytearray()
        while len(data) < size:
            self._wait([fd], [], end)
            part = os.read(fd, size - len(data))
            if not part:
                raise Trouble("ended the process it ran in")
            data += part
        return data

    def _wait(self, readers, writers, end):
        """Wait for a pipe, and watch time and memory meanwhile."""
        ready = False
        while not ready:
            now = time.monotonic()
            if now > end:  # asked first: an answer may come in drops, and never end
                raise Trouble("did not stop when its time was up")
            if now > self.watched + POLL:
                self.watched, used = now, resident(self.process.pid)
                if used > self.limits.resident:  # forks may share most of it
                    used = resident(self.process.pid, _own_share)
                if used > self.limits.resident:
                    raise Trouble(f"used {used / 1e9:.1f} GB of memory")
            ready = any(select.select(readers, writers, [], POLL))

    def _said(self):
        """What bubblewrap or Python complained about."""
        if self.process.stderr is None:
            return ""
        self.process.kill()
        lines = self.process.stderr.read()[-2000:].decode(errors="replace").strip()
        return f" ({lines.splitlines()[-1]})" if lines else ""


def resident(pid, of=None):
    """Bytes of memory that a process and its descendants hold, nameless files too."""
    total, pids, nameless = 0, [pid], {}
    while pids:
        folder = Path(f"/proc/{pids.pop()}")
        nameless |= _nameless(folder / "fd")
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += (of or _held)(folder)
            for task in (folder / "task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return total + sum(nameless.values())


def _held(folder):
    """What a process holds, and may share with others."""
    return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _own_share(folder):
    """The same, each shared page divided by those that share it; slower to find out."""
    try:
        text = (folder / "smaps_rollup").read_text()
    except PermissionError:
        return _held(folder)
    return 1024 * int(text.partition("\nPss:")[2].split()[0])


def _nameless(folder):
    """Sizes of the files in memory (memfd) that a process has open, by inode."""
    found = {}
    with contextlib.suppress(OSError):
        for fd in folder.iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(fd).startswith("/memfd:"):
                    status = fd.stat()
                    found[status.st_ino] = status.st_blocks * 512
    return found
