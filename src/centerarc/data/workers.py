"""The processes that read images: how many, how they start, and what their death means."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


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


def start_worker(_: int) -> None:
    """Runs first in each of them."""
    # Ctrl-C reaches the whole process group; the training process ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As PyTorch does with its own threads: the workers are the parallelism.
    cv2.setNumThreads(1)


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
            "a worker process that reads images died, most often for want of memory or of "
            f"shared memory; try fewer workers than {workers} ({error})"
        ) from error
