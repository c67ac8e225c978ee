"""Submissions that take all there is: time, memory, processes, output, disk."""

from nbformat.v4 import new_code_cell

from . import FIRST, FULL, Case, content, index, review, solved, with_answer, wrong

HEAD = "def batchnorm_forward(x, gamma, beta, eps=1e-5):\n"
LEFT_OPEN = FULL | {FIRST: None}

ENDLESS = {
    "a loop in the answer's cell": "while True:\n    pass",
    "a loop in the function": HEAD + "    while True:\n        pass",
    "a loop that catches everything": HEAD
    + """\
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
""",
    "a loop with the alarm switched off": HEAD
    + """\
    import signal
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        pass
""",
    "sleeps": HEAD + "    import time\n    time.sleep(1000)",
    "waits for a lock": (
        HEAD + "    import threading\n    a = threading.Lock()\n    a.acquire()\n"
        "    a.acquire()"
    ),
    "a call into C that takes hours": HEAD + "    10 ** 10 ** 9 % 7",
    "memory in small pieces": HEAD
    + """\
    kept = []
    while True:
        kept.append(bytearray(10_000_000))
""",
    "memory in many processes": HEAD
    + """\
    import os, time
    for _ in range(8):
        if os.fork() == 0:
            kept = [bytearray(b"x") * 100_000_000]
            time.sleep(100)
    time.sleep(100)
""",
    "dies by its own hand": HEAD + "    import os\n    os._exit(0)",
    "kills whom it can, then itself": (
        HEAD + "    import os\n    try:\n        os.kill(-1, 9)\n"
        "    finally:\n        os._exit(9)"
    ),
    "dies of a fault": HEAD + "    import ctypes\n    ctypes.string_at(0)",
}

HARMLESS = {  # extra cells: they take what they can get, and nobody minds
    "a fork bomb": """\
import os
try:
    while True:
        if os.fork() == 0:
            import time
            time.sleep(1000)
            os._exit(0)
except OSError:
    pass
""",
    "a thread bomb": """\
import threading
try:
    while True:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
except RuntimeError:
    pass
""",
    "a flood of output": "for _ in range(100_000):\n    print('x' * 1000)",
    "a full disk": """\
with open("big", "wb") as file:
    while True:
        file.write(bytes(1_000_000))
""",
    "a full disk in many files": """\
for k in range(10_000):
    with open(f"/tmp/big{k}", "wb") as file:
        file.write(bytes(1_000_000))
""",
    "all open files": "files = [open('/dev/null') for _ in range(10_000)]",
    "a daemon": """\
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        while True:
            time.sleep(1)
    os._exit(0)
""",
    "a copy of itself that goes on": "import os\nos.fork()",
    "a server": """\
import socket, threading
s = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=s.accept, daemon=True).start()
""",
    "recursion in a cell": "def f():\n    return f()\nf()",
    "a loop": "while True:\n    pass",
    "dies": "import os\nos._exit(1)",
}


def cases():
    for name, source in ENDLESS.items():
        nb = with_answer(source)
        yield review(f"hog: {name}", nb, LEFT_OPEN, says=FIRST, small=True)
    for name, source in HARMLESS.items():
        nb = solved()
        nb.cells.insert(index(nb, FIRST), new_code_cell(source))
        yield Case(f"hog: {name}, all answers right", content(nb), FULL, small=True)
    large = HEAD + "    return np.zeros(9_000_000), x[0], x[0]"
    yield wrong("hog: an answer of 72 MB", with_answer(large), says="may cross")
