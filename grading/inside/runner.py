"""Runs a student's cells inside the sandbox, and calls what they define.

The grader talks to it over two pipes. Cells run as plain Python; those that need it
(magics, `!`, `await`) run in IPython, which is started for the first of them.
"""

import __future__

import builtins
import gc
import importlib
import importlib.machinery
import os
import random
import signal
import sys
import types

import wire

PROCESS = os.getpid()
MESSAGE = 300  # characters of an error message
LATE = __future__.annotations.compiler_flag  # the only future that still differs


class Stopped(BaseException):
    """Time is up; not an Exception, so that `except Exception` lets it pass."""


class Runner:
    def __init__(self, read, write, most):
        self.read, self.write, self.most = read, write, most
        self.main = sys.modules["__main__"] = types.ModuleType("__main__")
        self.names = self.main.__dict__
        self.shell = self.drivers = None
        self.future = 0  # `from __future__` holds for all cells below it, as in Jupyter
        builtins.get_ipython = self.ipython
        builtins.display = self.display

    def serve(self):
        """Answer requests until the grader hangs up."""
        while request := self.receive():
            reply = {"id": request["id"], **self.answer(request)}
            if os.getpid() != PROCESS:
                os._exit(0)  # a copy that student code has forked
            try:
                packed = wire.pack(reply, self.most)
            except Exception as error:  # an answer that no JSON can hold
                packed = wire.pack({"id": request["id"], **_error(error)}, self.most)
            _write(self.write, packed)

    def receive(self):
        head = _read(self.read, wire.HEAD.size)
        return head and wire.unpack(_read(self.read, wire.HEAD.unpack(head)[0]))

    def answer(self, request):
        """Do what is asked, within its seconds."""
        operation = getattr(self, request["do"])
        arguments = {k: v for k, v in request.items() if k not in ("id", "do")}
        seconds = arguments.pop("seconds")
        try:
            signal.signal(signal.SIGALRM, _stop)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                return operation(**arguments)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Stopped:
            return {"stopped": True}
        except BaseException as error:
            return _error(error)

    # what the grader may ask for

    def start(self, driver, folder):
        """Be ready: fix the seeds of random numbers, load the lesson's drivers."""
        gc.disable()  # it takes an eighth of the time that an import of PyTorch takes
        os.chdir(folder)
        random.seed(0)
        wire.np.random.seed(0)
        if driver:
            self.drivers = importlib.import_module(driver)
        return {}

    def run(self, source):
        """Run one cell; the first one imports, and leaves nothing to collect."""
        try:
            return self.run_cell(source)
        finally:
            gc.enable()

    def run_cell(self, source):
        try:
            code = compile(source, "<cell>", "exec", self.future, dont_inherit=True)
        except SyntaxError:
            return self.run_in_ipython(source)
        self.future |= code.co_flags & LATE
        try:
            exec(code, self.names)
        except Exception as error:
            return _error(error) | {"line": error.__traceback__.tb_next.tb_lineno}
        return {}

    def run_in_ipython(self, source):
        compiler = self.ipython().compile
        compiler.flags |= self.future
        result = self.shell.run_cell(source)
        self.future |= compiler.flags & LATE
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, Stopped):
            raise error
        return _error(error) if error else {}

    def describe(self, name):
        """Whether a name is there, and can be called."""
        if name not in self.names:
            return {"missing": True}
        value = self.names[name]
        return {"callable": callable(value), "type": type(value).__name__}

    def call(self, name, driver, args):
        """Call what the student defined, alone or by a driver of the lesson."""
        args = wire.decode(args)
        before = [_copy(arg) for arg in args]
        function = self.names[name]
        if driver:
            value = getattr(self.drivers, driver)(function, *args)
        else:
            value = function(*args)
        pairs = enumerate(zip(before, args, strict=True))
        changed = [i for i, pair in pairs if _differ(*pair)]
        inputs = [[i, wire.encode(args[i])] for i in changed]
        return {"value": wire.encode(value), "changed": inputs}

    # what Jupyter puts into every notebook's names

    def ipython(self):
        if self.shell is None:
            from IPython.core.interactiveshell import InteractiveShell
            from traitlets.config import Config

            class Shell(InteractiveShell):
                def enable_gui(self, gui=None):
                    pass

                def showtraceback(self, *args, **kwargs):
                    pass

                showsyntaxerror = showtraceback

            config = Config()
            config.HistoryManager.enabled = False
            self.shell = Shell.instance(
                config=config, user_module=self.main, user_ns=self.names
            )
            builtins.get_ipython = self.ipython
        return self.shell

    def display(self, *objects, **options):
        for thing in objects:
            print(thing)


class Later(types.ModuleType):
    """PyTorch's compiler, loaded when something of it is wanted.

    An optimizer imports it, which takes longer than a notebook, only to say what it
    must not compile. Until somebody compiles there is nothing to be said.
    """

    def __getattribute__(self, name):
        if name in ("disable", "graph_break", "__spec__", "__dict__", "__class__"):
            return object.__getattribute__(self, name)
        self.__class__ = types.ModuleType
        del self.__dict__["graph_break"], self.__dict__["disable"]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class Lazily(importlib.machinery.PathFinder):
    """Finds PyTorch's compiler, and has it loaded later."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path) if name == "torch._dynamo" else None
        if spec:
            spec.loader = OnTouch(spec.loader)
        return spec


def _as_it_is(fn=None, *_, **__):
    return _as_it_is if fn is None else fn


class OnTouch:
    """A loader that waits for the first touch."""

    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        module.__dict__["graph_break"] = lambda *args, **kwargs: None
        module.__dict__["disable"] = _as_it_is
        module.__class__ = Later


def _stop(signum, frame):
    raise Stopped


def _error(error):
    name = _text(lambda: type(error).__name__) or "Exception"
    return {"error": [name, _text(lambda: error), _kind(error)]}


def _text(make):
    """What something of a student's says; it may be made to fail."""
    try:
        return str(make())[:MESSAGE]
    except BaseException:
        return ""


def _kind(error):
    """What a check asks for that an error is; its name alone may be anybody's."""
    kind = type(error)  # the __class__ of an error may be anything
    if issubclass(kind, wire.BadMessage):  # ours: the answer cannot cross
        return ""
    wanted = (NotImplementedError, ValueError)
    return next((w.__name__ for w in wanted if issubclass(kind, w)), "")


def _copy(arg):
    return arg.copy() if isinstance(arg, wire.np.ndarray) else None


def _differ(before, after):
    if before is None:
        return False
    shapes = before.shape == after.shape and before.dtype == after.dtype
    return not shapes or before.tobytes() != after.tobytes()


def _read(fd, size):
    """Exactly so many bytes; none at the end of the pipe."""
    parts = []
    while size > 0:
        part = os.read(fd, min(size, 2**20))
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def main():
    # the pipes move away from where student code reads and prints
    read, write = os.dup(0), os.dup(1)  # not inheritable
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    sys.path.insert(0, "")
    sys.meta_path.insert(0, Lazily)
    Runner(read, write, int(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
