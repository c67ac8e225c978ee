"""Do many jobs at once, on this computer or on a Dask cluster.

Both are an Executor of concurrent.futures to the rest. Few submissions are under way at
a time, so memory does not grow with the class. A worker that dies costs nobody a grade:
what it had in hand is tried again alone, and then said to have failed.
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
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context

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


@dataclass
class Job:
    """Something for a worker to do.

    Attributes:
        function: a function of a module; students' code is not run in the worker.
        arguments: function that returns its arguments, called when there is room.
        failed: function that makes a result from the reason why there is none.
        of: whatever the caller knows it by.
        tries: how often a worker has died of it, or beside it.
    """

    function: object
    arguments: object
    failed: object
    of: object = None
    tries: int = 0


def run(make, jobs):
    """Do jobs as an Executor has room for them.

    Args:
        make: what `local` or `cluster` yields.
        jobs: an iterable of `Job`s.

    Yields: (job, result) as they are done.
    """
    work = _Work(make, deque(jobs))
    while work.left:
        yield from work.start()
        yield from work.finish()


class _Work:
    """Jobs that wait, that are under way, and that a worker may have died of."""

    def __init__(self, make, waiting):
        self.make, self.waiting = make, waiting
        self.suspects, self.under_way = deque(), {}
        self.executor, self.workers = make()

    @property
    def left(self):
        return self.waiting or self.suspects or self.under_way

    def start(self):
        """Hand out jobs; yields those whose arguments cannot be made."""
        # after a crash, one at a time until it is clear whose fault it was
        alone = self.suspects or any(job.tries for job in self.under_way.values())
        room = 1 if alone else self.workers * AHEAD
        queue = self.suspects or self.waiting
        while queue and len(self.under_way) < room:
            job = queue.popleft()
            try:
                future = self.executor.submit(job.function, **job.arguments())
            except BrokenExecutor:  # a worker has died just now
                queue.appendleft(job)
                if not self.under_way:
                    self.executor, self.workers = self.make()
                return
            except Exception as error:
                yield job, job.failed(f"{error!r}")
                continue
            self.under_way[future] = job

    def finish(self):
        """Wait for some; yields what is done."""
        if not self.under_way:
            return
        done, _ = wait(self.under_way, return_when=FIRST_COMPLETED)
        crashed = []
        for future in done:
            job = self.under_way.pop(future)
            try:
                result = future.result()
            except Exception as error:
                if _worker_died(error):
                    crashed.append(job)
                    continue
                result = job.failed(f"{error!r}")
            yield job, result
        if crashed:
            yield from self.again(crashed)

    def again(self, crashed):
        """New workers; yields the jobs that have cost too many."""
        crashed += self.under_way.values()
        self.under_way = {}
        self.executor, self.workers = self.make()
        for job in crashed:
            job.tries += 1
            if job.tries > TRIES:
                yield job, job.failed("the worker died")
            else:
                self.suspects.append(job)


def _worker_died(error):
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"
