"""Work divided among processes: how many, how they start, and what their death means."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import cv2

# The processes that read images: how many, how they start, and what their death means.


def default_workers() -> int:
    """Returns one process for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_for_a_model() -> int:
    """Returns one process for each core, but no more than one model keeps busy."""
    return min(default_workers(), 16)


def check_workers(workers: int) -> None:
    """Raises `ValueError` for a number of processes that this machine cannot mean.

    Each takes a few hundred megabytes, so a slip of the keyboard would take the machine down.
    """
    cores = os.cpu_count() or 1
    most = max(16, 4 * cores)
    if not 0 <= workers <= most:
        raise ValueError(
            f"workers is {workers}; it must be between 0 and {most} on this machine ({cores} cores)"
        )


@contextmanager
def signals_held_back(*signals: signal.Signals) -> Iterator[None]:
    """Lets signals wait until the block ends; processes started in it never get them.

    A terminal and many job systems signal a whole group, and a process may be hit before it has
    learned to ignore that.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows has no signal masks
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def starting_workers() -> Iterator[None]:
    """Makes it safe to start processes in the block, which then run `start_worker`."""
    threads = cv2.getNumThreads()
    # A forked process hangs or crashes when it touches OpenCV's threads, which it has not.
    cv2.setNumThreads(1)
    try:
        with signals_held_back(signal.SIGINT):
            yield
    finally:
        cv2.setNumThreads(threads)


def start_worker(_: int) -> None:
    """Runs first in each process, in those of a `DataLoader` too."""
    # Ctrl-C reaches the whole process group; the main process ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As PyTorch does with its own threads: the workers are the parallelism.
    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)


@contextmanager
def explain_dead_workers(workers: int) -> Iterator[None]:
    """Turns PyTorch's report of a dead worker into an `OSError` that says what to do.

    PyTorch raises it from a signal handler, so anywhere in the main process while workers run,
    not only where a batch is asked for.

    Args:
        workers: The number of processes that read.

    Raises:
        OSError: If one of them died within the block.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"{death_of_worker('memory or of shared memory', workers)} ({error})"
        ) from error


def death_of_worker(want: str, workers: int) -> str:
    """Returns the line that a user gets of it.

    Args:
        want: What most often was lacking.
        workers: How many processes there were.
    """
    return (
        f"a worker process that reads images died, most often for want of {want}; "
        f"try fewer workers than {workers}"
    )


# Tasks divided among processes, the same results for any number of them.

Tick = Callable[[], None]
Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Context, Task, Tick], Result]

# Tasks handed out for each process: enough that nobody waits, few enough that results in order do
# not pile up behind a slow one.
_TASKS_EACH = 3
# Often enough for a progress bar, seldom enough to cost nothing.
_LOOK_SECONDS = 0.2
_MOST_ON_WINDOWS = 61  # it waits for no more


def in_chunks(count: int, size: int) -> list[range]:
    """Returns the numbers from 0 to `count` - 1 in ranges of `size`; the last may be shorter.

    Example:
        >>> in_chunks(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def in_order(
    work: Work[Context, Task, Result],
    context: Context,
    tasks: Sequence[Task],
    *,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Generator[Result, None, None]:
    """Runs tasks in several processes and yields their results in the order of the tasks.

    When the loop over the results is left, or fails, the tasks under way end at their next tick.
    No process outlives this one, even if it is killed, and Ctrl-C reaches this one alone.

    Args:
        work: A function of a module: gets the context, a task, and what to call once for each
            image.
        context: What every task needs; goes to each process once.
        tasks: What to do.
        workers: Number of processes; 0 works in this one, None takes one for each core.
        progress: Called now and then with the number of ticks since its last call.

    Returns:
        What `work` returns, a generator; close it where the loop may be left.

    Raises:
        ValueError: If `workers` is out of range.
        OSError: If a process died.

    Example:
        >>> def add(context, task, tick):
        ...     return context + task
        >>> list(in_order(add, 10, [1, 2], workers=0))
        [11, 12]
    """
    return _results(work, context, tasks, workers, progress, ordered=True)


def as_done(
    work: Work[Context, Task, Result],
    context: Context,
    tasks: Sequence[Task],
    *,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Generator[Result, None, None]:
    """Runs tasks as `in_order` does, and yields each result as soon as it is there."""
    return _results(work, context, tasks, workers, progress, ordered=False)


def _results(
    work: Work[Context, Task, Result],
    context: Context,
    tasks: Sequence[Task],
    workers: int | None,
    progress: Callable[[int], Any] | None,
    *,
    ordered: bool,
) -> Generator[Result, None, None]:
    workers = default_workers() if workers is None else workers
    check_workers(workers)
    report = progress if progress is not None else lambda images: None
    if workers == 0 or len(tasks) <= 1:
        return (work(context, task, lambda: report(1)) for task in tasks)
    workers = min(workers, len(tasks))
    if sys.platform == "win32":
        workers = min(workers, _MOST_ON_WINDOWS)
    return _run_in_processes(work, context, tasks, workers, report, ordered)


class _Stopped(Exception):
    """Nobody wants the result, so the task ends where it is."""


class _Board:
    """What the processes share: whether to stop, and how many ticks each has made.

    Without locks, which a process that is killed might hold: each has a counter of its own.
    """

    def __init__(self, start: BaseContext, workers: int) -> None:
        self.stop = start.RawValue("b", 0)
        self.ticks = start.RawArray("q", workers)
        self.started = start.Value("i", 0)


def _run_in_processes(
    work: Work[Context, Task, Result],
    context: Context,
    tasks: Iterable[Task],
    workers: int,
    progress: Callable[[int], Any],
    ordered: bool,
) -> Generator[Result, None, None]:
    start = multiprocessing.get_context(_start_method())
    board = _Board(start, workers)
    rest = iter(tasks)
    waiting: deque[Future[Result]] = deque()
    seen = 0
    with ProcessPoolExecutor(
        workers, start, initializer=_start, initargs=(work, context, board)
    ) as pool:
        try:
            while True:
                with starting_workers():
                    room = _TASKS_EACH * workers - len(waiting)
                    waiting.extend(pool.submit(_run, task) for task in islice(rest, room))
                if not waiting:
                    return
                wanted = [waiting[0]] if ordered else waiting
                done = wait(wanted, _LOOK_SECONDS, FIRST_COMPLETED).done
                if (now := sum(board.ticks)) > seen:
                    progress(now - seen)
                    seen = now
                for future in done:
                    waiting.remove(future)
                    yield future.result()
        except BrokenProcessPool as error:
            raise OSError(death_of_worker("memory", workers)) from error
        finally:
            board.stop.value = 1
            pool.shutdown(cancel_futures=True)


def _start_method() -> str:
    """A fork is quick, shares what is in memory, and hands a held lock of a file on to all.

    But a lock that another thread holds stays locked in the child, and Apple's libraries do not
    survive it at all.
    """
    if sys.platform.startswith("linux") and threading.active_count() == 1:
        return "fork"
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


@dataclass
class _Worker:
    """What a process knows from its start."""

    work: Work[Any, Any, Any]
    context: Any
    board: _Board
    number: int

    def run(self, task: Any) -> Any:
        self._end_if_stopped()
        return self.work(self.context, task, self.tick)

    def tick(self) -> None:
        self._end_if_stopped()
        self.board.ticks[self.number] += 1

    def _end_if_stopped(self) -> None:
        if self.board.stop.value:
            raise _Stopped


_worker: _Worker | None = None


def _start(work: Work[Any, Any, Any], context: Any, board: _Board) -> None:
    global _worker
    start_worker(0)
    with board.started.get_lock():
        number = board.started.value
        board.started.value += 1
    _worker = _Worker(work, context, board, number)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _run(task: Any) -> Any:
    assert _worker is not None
    return _worker.run(task)
