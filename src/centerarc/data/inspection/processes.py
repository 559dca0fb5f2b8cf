"""Work on every image of a source in several processes, the same for any number of them."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from centerarc.data.source import FaceSource
from centerarc.data.workers import check_workers, start_worker

Result = TypeVar("Result")
Work = Callable[[FaceSource, range], Result]

# What a worker process works on; set once when it starts.
_state: dict[str, Any] = {}


def default_workers() -> int:
    """Returns one process for each core that this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 16)
    return min(os.cpu_count() or 1, 16)


def map_chunks(
    work: Work[Result],
    source: FaceSource,
    *,
    workers: int | None = None,
    chunk: int = 128,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[Result]:
    """Yields `work(source, numbers)` for successive ranges of image numbers, in order.

    Args:
        work: A function of a module, so that it can be sent to other processes.
        source: Where the images come from.
        workers: Processes; 0 works in this one, None takes one for each core.
        chunk: Images at once.
        progress: Called with the number of images after each chunk.

    Yields:
        What `work` returned.

    Raises:
        ValueError: If `workers` is out of range.
        OSError: If a worker process died.
    """
    workers = default_workers() if workers is None else workers
    check_workers(workers)
    ranges = [range(a, min(a + chunk, len(source))) for a in range(0, len(source), chunk)]
    if workers == 0 or len(ranges) <= 1:
        results: Iterator[Result] = (work(source, numbers) for numbers in ranges)
    else:
        results = _in_processes(work, source, ranges, min(workers, len(ranges)))
    for numbers, result in zip(ranges, results, strict=True):
        if progress is not None:
            progress(len(numbers))
        yield result


def _in_processes(
    work: Work[Result], source: FaceSource, ranges: list[range], workers: int
) -> Iterator[Result]:
    pool = ProcessPoolExecutor(
        workers, mp_context=_context(), initializer=_start, initargs=(work, source)
    )
    waiting: deque[Future[Result]] = deque()
    rest = iter(ranges)
    try:
        with _interrupts_held_back():
            # Enough that nobody waits, few enough that results do not pile up.
            for _, numbers in zip(range(3 * workers), rest, strict=False):
                waiting.append(pool.submit(_run, numbers))
        while waiting:
            result = waiting.popleft().result()
            if (following := next(rest, None)) is not None:
                waiting.append(pool.submit(_run, following))
            yield result
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process that reads images died, most often for want of memory; try fewer "
            f"workers than {workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    # A fork is quick and needs no importable main module, but is not safe beside other threads.
    methods = multiprocessing.get_all_start_methods()
    if "fork" in methods and threading.active_count() == 1:
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Lets Ctrl-C wait, so that no child sees it before it has learned to ignore it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(work: Work[Any], source: FaceSource) -> None:
    start_worker(0)
    _state["work"], _state["source"] = work, source


def _run(numbers: range) -> Any:
    return _state["work"](_state["source"], numbers)
