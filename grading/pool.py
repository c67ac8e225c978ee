"""Grade many submissions at once, on this computer or on a Dask cluster.

Both are an Executor of concurrent.futures to the rest. Few submissions are under way at
a time, so memory does not grow with the class. A worker that dies costs nobody a grade:
what it had in hand is tried again alone, and then left to a person.
"""

import contextlib
import os
import threading
import time
from collections import deque
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    ProcessPoolExecutor,
    wait,
)
from multiprocessing import get_all_start_methods, get_context

from .judge import grade_bytes, not_judged

AHEAD = 2  # submissions per worker that wait at its door
TRIES = 2


@contextlib.contextmanager
def local(jobs):
    """Yields a function that makes an Executor of that many processes."""
    made = []

    def make():
        pool = ProcessPoolExecutor(
            jobs, _context(), initializer=_end_with, initargs=(os.getpid(),)
        )
        made.append(pool)
        return pool, jobs

    try:
        yield make
    finally:
        for pool in made:
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def cluster(address):
    """Yields a function that makes an Executor on a Dask cluster.

    Raises:
        OSError: there is no scheduler at this address.
    """
    from distributed import Client

    with Client(address, timeout="10s") as client:

        def make():
            count = sum(client.nthreads().values())
            return client.get_executor(pure=False, retries=0), max(1, count)

        yield make


def _context():
    """Workers that are clean, and where the system can, that share their start."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["grading.judge"])
    return context


def _end_with(grader):
    """A worker ends when the grader does, even if that was killed."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent and _lives(grader):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def grade_all(make, tasks):
    """Grade tasks as an Executor has room for them.

    Args:
        make: what `local` or `cluster` yields.
        tasks: dictionaries of arguments for `judge.grade_bytes`, content as a function
            that reads the bytes.

    Yields: (task, verdict) as they are done.
    """
    executor, workers = make()
    waiting, suspects, under_way = deque(tasks), deque(), {}
    while waiting or suspects or under_way:
        # after a crash, one at a time until it is clear whose fault it was
        alone = suspects or any("tries" in task for task in under_way.values())
        room = 1 if alone else workers * AHEAD
        queue = suspects or waiting
        while queue and len(under_way) < room:
            task = queue.popleft()
            under_way[executor.submit(grade_bytes, **_arguments(task))] = task
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        crashed = []
        for future in done:
            task = under_way.pop(future)
            try:
                yield task, future.result()
            except Exception as error:
                if not _worker_died(error):
                    yield task, not_judged(_arguments(task), f"{error!r}")
                    continue
                crashed.append(task)
        if crashed:
            crashed += under_way.values()
            under_way = {}
            executor, workers = make()
        for task in crashed:
            task["tries"] = task.get("tries", 0) + 1
            if task["tries"] > TRIES:
                yield task, not_judged(_arguments(task), "the worker died")
            else:
                suspects.append(task)


def _worker_died(error):
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


def _arguments(task):
    made = {k: v for k, v in task.items() if k not in ("read", "tries")}
    return made | {"content": task["read"]()}
