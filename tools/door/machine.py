"""Other people's machines: what children inherit, pip's settings, a lock, shadows."""

import ast
import contextlib
import os
import re
import subprocess
import time

from .files import say

WINDOWS = os.name == "nt"

# what may stay: these change no result and load no code
HARMLESS = {
    "PYTHONHASHSEED",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
}
# any of the others can keep pip, Python, Jupyter or a figure from working
FOREIGN = re.compile(
    r"PYTHON.*|__PYVENV_LAUNCHER__|PIP_.*|IPYTHONDIR|MPLBACKEND|MPLCONFIGDIR|MATPLOTLIBRC"
    r"|JUPYTER_(CONFIG_DIR|CONFIG_PATH|DATA_DIR|PATH|RUNTIME_DIR|NO_CONFIG"
    r"|PLATFORM_DIRS|PREFER_ENV_PATH)|JUPYTERLAB_\w*DIR"
)
LIBRARIES = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
    "DYLD_INSERT_LIBRARIES",
)


def foreign(environ):
    """Names of the variables that the course's children do not inherit."""

    def network(name):
        return name.removeprefix("PIP_").lower().replace("_", "-") in NETWORK

    found = (n for n in environ if FOREIGN.fullmatch(n) and n not in HARMLESS)
    return sorted(name for name in found if not network(name))


def child_environment(root, environ):
    """What a child of the course inherits.

    It finds the course's packages wherever the course has been moved to, and has
    Jupyter's, IPython's and matplotlib's settings in the course's own folder, so that
    a broken or missing home breaks nothing.
    """
    ours = root / ".jupyter"
    dropped = set(foreign(environ))
    kept = {name: value for name, value in environ.items() if name not in dropped}
    if not WINDOWS and not can_write(kept.get("HOME", "")):
        kept["HOME"] = str(ours / "home")
    return {
        **kept,
        "PYTHONUTF8": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": str(root),
        "JUPYTER_CONFIG_PATH": str(root / "tools/jupyter"),
        "JUPYTER_CONFIG_DIR": str(ours / "config"),
        "JUPYTER_DATA_DIR": str(ours / "data"),
        "JUPYTER_RUNTIME_DIR": str(ours / "runtime"),
        "IPYTHONDIR": str(ours / "ipython"),
        "MPLCONFIGDIR": str(ours / "matplotlib"),
    }


def can_write(folder):
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


# pip

# where to download from, and how; nothing else of a user's settings fits a set-up
NETWORK = {
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "proxy",
    "cert",
    "client-cert",
    "trusted-host",
    "timeout",
    "default-timeout",
    "retries",
    "cache-dir",
    "no-cache-dir",
    "keyring-provider",
    "progress-bar",
    "no-color",
    "disable-pip-version-check",
    "config-file",
}
SETTING = re.compile(r"^(global|install|:env:)\.([\w-]+)=(.*)$", re.MULTILINE)


def pip_environment(python, environ):
    """Variables that give pip the user's mirrors and proxies, and nothing else.

    `user = true`, `target`, `no-binary` and their like would put packages where the
    course does not look, or build them.
    """
    asked = [str(python), "-I", "-X", "utf8", "-m", "pip", "config", "list"]
    # `pip config` takes these three for its own options: which file to list
    all_files = dict.fromkeys(("PIP_USER", "PIP_GLOBAL", "PIP_SITE"), "0")
    given = {**environ, **all_files}
    found = subprocess.run(asked, capture_output=True, encoding="utf-8", env=given)
    if found.returncode:
        say("pip's configuration cannot be read; the set-up goes on without it.")
    kept = pip_settings(found.stdout)
    return {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def pip_settings(listed):
    """The network settings in the lines of `pip config list`, as variables."""
    ranks = ["global", "install", ":env:"]  # pip lets the later one win
    settings = {}
    for _, key, value in sorted(
        SETTING.findall(listed), key=lambda s: ranks.index(s[0])
    ):
        if key in NETWORK and value != "''":  # pip takes an empty one for none
            name = f"PIP_{key.upper().replace('-', '_')}"
            with contextlib.suppress(SyntaxError, ValueError):
                settings[name] = str(ast.literal_eval(value))
    return settings


# one set-up at a time


@contextlib.contextmanager
def locked(path, waiting):
    """Hold a lock that ends with the process, and with the children that inherit it.

    Yields: the open file, whose descriptor a child may be given.
    """
    with open(path, "a+b") as file:
        if not try_lock(file):
            say(waiting)
            while not try_lock(file):
                time.sleep(0.3)
        yield file


def try_lock(file):
    """Whether the lock is ours now; where a disk has no locks, it is."""
    try:
        if WINDOWS:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


# files that hide a module


def modules_in(folder):
    """The modules that a Python started in a folder would find there first, by name."""
    found = {}
    for path in sorted(folder.glob("*")):
        name = path.name.partition(".")[0]
        if path.is_dir() and (path / "__init__.py").exists():
            found[path.name] = path
        elif path.suffix in (".py", ".pyc", ".so", ".pyd") and path.is_file():
            found[name] = path
    return found
