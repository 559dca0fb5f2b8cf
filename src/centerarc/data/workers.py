"""The processes that read images: how many, how they start, and what their death means."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


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
