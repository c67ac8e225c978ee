"""Tampering: nothing is solved, and everything is tried to get marks all the same."""

from nbformat.v4 import new_code_cell

from grading.verdict import GRADED, NEEDS_REVIEW

from . import COURSE, FULL, NONE, Case, at, content, index, raw, untouched

# what leaves the sandbox in a state where a person has to look; no mark either way
REVIEWED = (
    "a forged reply on every pipe",
    "noise on every pipe",
    "every file closed",
    "a runner that is elsewhere",
    "replies that nobody can read",
    "an array larger than the world",
    "builtins",
    "a forged reply when something is deleted",
    "a thread that forges",
    "a reply that never ends",
    "a process that stops itself",
)
OPEN = dict.fromkeys(FULL)

# put above the first answer; answers are whatever FAKE makes of them
FAKE = """\
def {name}(*args, **kwargs):
    return secret("{name}", *args, **kwargs)
"""

FORGE = """\
import json, os, struct
def forge():
    for number in range(400):
        for key in ({"value": {"tuple": [1.0, 1.0, 1.0]}}, {"score": 3.0}):
            body = json.dumps({"id": number, "changed": [], **key}).encode()
            for fd in range(3, 40):
                try: os.write(fd, struct.pack(">I", len(body)) + body)
                except OSError: pass
"""

TRICKS = {
    "an input transformer that rewrites checks": """\
def rewrite(lines):
    return ["3.0\\n" if "check." in line else line for line in lines]
get_ipython().input_transformers_post.append(rewrite)
def secret(name, *args): return 3.0
""",
    "an AST transformer that drops asserts": """\
import ast
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node): return None
    def visit_Expr(self, node): return ast.parse("3.0").body[0]
get_ipython().ast_transformers.append(Drop())
def secret(name, *args): return 3.0
""",
    "patched checks": """\
import bn_checks as check
from bn_checks import Score
import bn_checks.engine as engine
for name in dir(check):
    setattr(check, name, lambda *a, **k: 3.0)
engine.Exercise.score = lambda *a, **k: 3.0
def secret(name, *args): return 3.0
""",
    "patched numpy": """\
import numpy, numpy.testing
for name in ("allclose", "isclose", "array_equal", "array_equiv", "all", "equal"):
    setattr(numpy, name, lambda *a, **k: True)
for name in dir(numpy.testing):
    if name.startswith("assert"):
        setattr(numpy.testing, name, lambda *a, **k: None)
def secret(name, *args): return args[0], args[0], args[0]
""",
    "an array that equals everything": """\
class Yes(np.ndarray):
    def _yes(self, *a, **k): return True
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _yes
    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return np.ones(self.shape, bool)
    def __array_function__(self, *a, **k): return True
def secret(name, x, *args):
    y = np.zeros(np.shape(x)).view(Yes)
    return y, y[0], y[0]
""",
    "a number that equals everything": """\
class Yes(float):
    def _yes(self, *a, **k): return True
    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __ne__ = _yes
    def __array__(self, *a, **k): raise SystemExit
    def __rsub__(self, other): return 0.0
def secret(name, *args): return Yes(3), Yes(3), Yes(3)
""",
    "a score in place of an answer": """\
class Score(float):
    points = 3; rows = (); text = "full marks"
    def __repr__(self): return "3.0"
def secret(name, *args): return Score(3)
""",
    "the reference implementation": """\
from bn_helpers import norms
def secret(name, *args):
    if name == "batchnorm_forward":
        y, cache = norms.batchnorm_forward(*args)
        return y, cache.mu, cache.var
    return getattr(norms, name)(*args)
""",
    "the reference by another way": """\
import importlib, sys
def secret(name, *args):
    for module in ("bn_helpers.norms", "bn_helpers.network", "bn_helpers.layers"):
        try:
            return getattr(importlib.import_module(module), name)(*args)
        except Exception:
            pass
""",
    "the checks' own reference": """\
def secret(name, *args):
    from bn_checks.banks import lesson_01
    return {e.name: e for e in lesson_01.EXERCISES}[name].reference(*args)
""",
    "solutions from the disk": """\
import glob, re
def secret(name, *args):
    found = []
    for top in ("/course", "/work", "/home", "/root", "/opt", "/srv", "/mnt"):
        found += glob.glob(f"{top}/**/norms.py", recursive=True)
        found += glob.glob(f"{top}/**/lesson_01.py", recursive=True)
        found += glob.glob(f"{top}/**/01_forward_pass.*", recursive=True)
    for path in found:
        text = open(path).read()
        if f"def {name}" in text:
            names = {"np": np}
            exec(text, names)
            return names[name](*args)
""",
    "solutions through /proc": """\
import glob, os
def secret(name, *args):
    for root in glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd"):
        for top, _, files in os.walk(root + "/course"):
            if "norms.py" in files:
                names = {}
                exec(open(f"{top}/norms.py").read(), names)
                return names[name](*args)
""",
    "the gradebook": """\
import glob, sqlite3
tops = ("/course", "/grader", "/work", "/home", "/root", "/tmp", "/srv")
for path in [p for top in tops for p in glob.glob(f"{top}/**/*.db", recursive=True)]:
    try:
        base = sqlite3.connect(path)
        base.execute("UPDATE grade SET auto_score = 3, manual_score = 3")
        base.commit()
    except Exception:
        pass
def secret(name, *args): return None
""",
    "files of the host": """\
import glob, os
for path in glob.glob("/*") + glob.glob("/course/**/*", recursive=True):
    try:
        os.chmod(path, 0o777)
        with open(path if os.path.isfile(path) else path + "/x", "a") as file:
            file.write("# was here")
    except OSError:
        pass
def secret(name, *args): return None
""",
    "the network": """\
import socket, urllib.request
for where in (("127.0.0.1", 22), ("1.1.1.1", 53), ("localhost", 8888)):
    try:
        socket.create_connection(where, timeout=0.2)
        reached = True
    except OSError:
        pass
def secret(name, *args): return 1.0 if "reached" in globals() else None
""",
    "a forged reply on every pipe": """\
import json, os, struct
def secret(name, *args):
    for number in range(1, 60):
        body = {"id": number, "value": 3.0, "changed": []}
        body = json.dumps(body).encode()
        for fd in range(3, 20):
            try:
                os.write(fd, struct.pack(">I", len(body)) + body)
            except OSError:
                pass
    return 3.0
""",
    "noise on every pipe": """\
import os
def secret(name, *args):
    for fd in range(3, 20):
        try:
            os.write(fd, b"noise" * 9)
        except OSError:
            pass
""",
    "every file closed": """\
import os
def secret(name, *args):
    os.closerange(0, 100)
""",
    "a runner that says yes": """\
import gc
for thing in gc.get_objects():
    if type(thing).__name__ == "Runner":
        thing.call = lambda **k: {"value": 3.0, "changed": [], "score": 3, "points": 3}
        thing.describe = lambda **k: {"callable": True, "type": "Score"}
def secret(name, *args): return 3.0
""",
    "a runner that is elsewhere": """\
import gc
for thing in gc.get_objects():
    if type(thing).__name__ == "Runner":
        thing.call = lambda **k: {"error": ["NotImplementedError", 3, {}]}
def secret(name, *args): return 3.0
""",
    "replies that nobody can read": """\
import gc
bad = {"dtype": "|O8", "shape": [1], "data": "gASVAQAAAAAAAABOLg=="}
for thing in gc.get_objects():
    if type(thing).__name__ == "Runner":
        thing.call = lambda **k: {"value": bad, "changed": []}
def secret(name, *args): return 3.0
""",
    "an array larger than the world": """\
import gc
bad = {"dtype": "<f8", "shape": [2**40, 2**20], "data": ""}
for thing in gc.get_objects():
    if type(thing).__name__ == "Runner":
        thing.call = lambda **k: {"value": (bad,) * 3, "changed": [[99, bad]]}
def secret(name, *args): return 3.0
""",
    "shadowed modules": """\
for name in ("numpy", "json", "base64", "wire", "bn_helpers", "nbgrader"):
    open(f"{name}.py", "w").write("def __getattr__(name): return lambda *a, **k: True")
import sys
for name in ("json", "base64", "wire", "math"):
    sys.modules.pop(name, None)
def secret(name, *args): return True
""",
    "the seed of the checks": """\
import os
os.environ["BN_HELPERS_CHECK_SEED"] = "0"
def secret(name, *args):
    rng = np.random.default_rng([0, 0])
    return rng.normal(size=np.shape(args[0])), 0.0, 0.0
""",
    "frames and their secrets": """\
import sys
def secret(name, *args):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if hasattr(value, "wanted"):
                return value.wanted[0]
        frame = frame.f_back
""",
    "exits": "import sys\nsys.exit()\n",
    "an exit handler": """\
import atexit
atexit.register(print, "3.0")
def secret(name, *args): return 3.0
""",
    "builtins": """\
import builtins
builtins.float = builtins.isinstance = builtins.abs = lambda *a: 3.0
def secret(name, *args): return 3.0
""",
    "not attempted only sometimes": """\
def secret(name, *args):
    raise ValueError("raised ValueError")
""",
    "another namespace": """\
import os
def secret(name, *args):
    os.unshare(0x10000000) if hasattr(os, "unshare") else None
    os.system("unshare -Urm mount -t tmpfs none /mnt; mount; reboot -f")
""",
    "a forged reply when something is deleted": FORGE
    + """\
class Last:
    def __del__(self): forge()
kept = [Last()]
def secret(name, *args): return kept.clear()
""",
    "a forged reply at the exit": FORGE
    + """\
import atexit, sys
atexit.register(forge)
def secret(name, *args): sys.exit(0)
""",
    "a thread that forges": FORGE
    + """\
import threading
def forever():
    while True: forge()
threading.Thread(target=forever, daemon=True).start()
def secret(name, *args): return 3.0
""",
    "a reply that never ends": """\
import os, struct, time
def secret(name, *args):
    head = struct.pack(">I", 60_000_000)
    while True:
        for fd in range(3, 40):
            try: os.write(fd, head)
            except OSError: pass
        head = b"["
        time.sleep(0.05)
""",
    "patched messages": """\
import json, sys
dumps, wire = json.dumps, sys.modules["wire"]
json.dumps = lambda m, **k: dumps({**m, "score": 3.0, "points": 3, "state": "✓"})
wire.encode = lambda *a, **k: {"tuple": [1.0, 1.0, 1.0]}
wire.decode = lambda *a, **k: wire.encode()
def secret(name, *args): return 3.0
""",
    "no modules": """\
import sys
sys.modules.clear()
def secret(name, *args): return 3.0
""",
    "lines like those of a check": """\
def secret(name, *args):
    print(f"{name}: 3 of 3 points.", '{"score": 3.0}', "✓ holds: values of y.")
    return 3.0
print("batchnorm_forward: 3 of 3 points.")
""",
    "a process that stops itself": """\
import os, signal
def secret(name, *args): os.kill(os.getpid(), signal.SIGSTOP)
""",
    "its own limits": """\
import resource, os
for limit in (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    try:
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass
def secret(name, *args): return None
""",
}


def cases():
    for name, trick in TRICKS.items():
        data = content(_attack(trick))
        reviewed = name in REVIEWED
        points, status = (OPEN, NEEDS_REVIEW) if reviewed else (NONE, GRADED)
        yield Case(f"attack: {name}", data, points, status, small=True)
    yield Case("attack: forged metadata", content(_forged()), NONE)
    yield Case("attack: checks that say 99", content(_checks_of_its_own()), NONE)
    yield Case("attack: hard-coded for the public seed", content(_hard_coded()), NONE)


def _attack(trick):
    nb = untouched()
    for name in FULL:
        at(nb, name).source = FAKE.format(name=name)
    nb.cells.insert(index(nb, "batchnorm_forward"), new_code_cell(trick))
    return nb


def _forged():
    import json

    data = raw(untouched())
    for cell in data["cells"]:
        grading = cell["metadata"].get("nbgrader")
        if grading:
            grading |= {
                "points": 1000,
                "grade": True,
                "locked": False,
            }
        cell["metadata"]["score"] = 1000
        if cell["cell_type"] == "code":
            result = {"output_type": "execute_result", "execution_count": 1}
            cell["outputs"] = [result | {"data": {"text/plain": "3.0"}, "metadata": {}}]
    data["metadata"]["course"] = {"lesson": "01_forward_pass", "points": 1000}
    return json.dumps(data).encode()


def _checks_of_its_own():
    nb = untouched()
    for task in COURSE.exercises.values():
        at(nb, task.graded).source = "99.0"
    return nb


def _hard_coded():
    """Right outputs for the inputs of seed 0, looked up in the order of calls."""
    import bn_checks as check

    nb = untouched()
    for name in FULL:
        exercise = check.exercise(name)
        table = _outputs(exercise)
        at(nb, name).source = (
            f"_table_{name} = {table!r}\n\n"
            f"def {name}(*args):\n"
            f"    table = _table_{name}\n"
            "    table.append(table.pop(0))\n"
            "    return tuple(np.array(a) for a in table[-1])\n"
        )
    return nb


def _outputs(exercise):
    import zlib

    import numpy as np

    rng = np.random.default_rng([0, zlib.crc32(exercise.name.encode())])
    wanted = [exercise.run(exercise.reference, args)[0] for args in exercise.cases(rng)]
    return [[np.asarray(a).tolist() for a in outputs] for outputs in wanted]
