"""Tasks over several processes, whose progress is counted and which never outlive their job."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection
from typing import Any, TypeVar

from centerarc.data.workers import start_worker

Tick = Callable[[], None]
Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")
# Often enough for a progress bar, seldom enough to cost nothing.
_LOOK_SECONDS = 0.2


class Stopped(Exception):
    """The job was given up, so the task ends where it is."""


class _Worker:
    """What a process knows from its start."""

    context: Any = None
    stop: Any = None
    count: Any = None


def run_tasks(
    work: Callable[[Context, Task, Tick], Result],
    context: Context,
    tasks: Iterable[Task],
    *,
    workers: int,
    progress: Callable[[int], None],
) -> Generator[Result, None, None]:
    """Runs tasks and gives their results as they are done, in any order.

    When the loop over the results is left, or fails, the tasks under way are stopped before
    anything else happens. A process whose parent is killed ends at once.

    Args:
        work: A function of a module: gets the context, a task, and what to call once for each
            image.
        context: What every task needs; goes to each process once.
        tasks: What to do.
        workers: Number of processes; 0 works in this one.
        progress: Gets the number of images since its last call.

    Yields:
        What `work` returns.

    Raises:
        OSError: If a process died.
    """
    if workers == 0:
        for task in tasks:
            yield work(context, task, lambda: progress(1))
        return
    yield from _run_in_processes(work, context, iter(tasks), workers, progress)


def _run_in_processes(
    work: Callable[[Context, Task, Tick], Result],
    context: Context,
    tasks: Iterator[Task],
    workers: int,
    progress: Callable[[int], None],
) -> Generator[Result, None, None]:
    # Forked processes share the lock of the job's folder, which so stays locked until the last of
    # them is gone.
    forks = sys.platform.startswith("linux")
    processes = multiprocessing.get_context("fork" if forks else "spawn")
    stop, count = processes.Event(), processes.Value("q", 0)
    seen = 0
    with ProcessPoolExecutor(
        workers, processes, initializer=_start, initargs=(context, stop, count)
    ) as pool:
        try:
            pending: set[Future[Result]] = set()
            while True:
                with _interrupts_held_back():
                    room = 2 * workers - len(pending)
                    pending |= {pool.submit(_run, work, task) for task in islice(tasks, room)}
                if not pending:
                    return
                done, pending = wait(pending, _LOOK_SECONDS, FIRST_COMPLETED)
                now = count.value
                if now > seen:
                    progress(now - seen)
                    seen = now
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died, most often for want of memory; "
                f"try fewer workers than {workers}"
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Lets Ctrl-C wait, so that no process sees it before it has learned to ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(context: Any, stop: Any, count: Any) -> None:
    start_worker(0)
    _Worker.context, _Worker.stop, _Worker.count = context, stop, count
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _run(work: Callable[[Any, Task, Tick], Result], task: Task) -> Result:
    return work(_Worker.context, task, _tick)


def _tick() -> None:
    if _Worker.stop.is_set():
        raise Stopped
    with _Worker.count.get_lock():
        _Worker.count.value += 1
