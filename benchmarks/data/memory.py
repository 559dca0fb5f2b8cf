"""What the processes of a loader occupy together over an epoch."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

from benchmarks.data.implementations import BATCH, DEFAULT, GivenOrder, Indices

from centerarc.data import Augmentation, EncodedSource, TrainLoader

WORKERS = 2


def over_an_epoch(source: EncodedSource, order: Indices, samples: int) -> dict[str, Any]:
    """Reads an epoch with two workers and looks at their memory and the main process's.

    Args:
        source: what is read.
        order: the image numbers of the epoch.
        samples: how often to look.

    Returns:
        The number of images and the megabytes of all processes each time, memory that they share
        counted once.
    """
    with TrainLoader(
        source,
        batch_size=BATCH,
        augmentation=Augmentation(DEFAULT),
        seed=0,
        sampler=GivenOrder(order),
        workers=WORKERS,
    ) as loader:
        step = max(1, len(loader) // samples)
        found = []
        for number, _ in enumerate(loader):
            if number % step == 0:
                children = [child.pid for child in multiprocessing.active_children()]
                found.append(sum(_megabytes(pid) for pid in (os.getpid(), *children)))
    return {"images": len(loader) * BATCH, "megabytes": found}


def _megabytes(pid: int | None) -> float:
    """A process's share: its pages, each divided by the number of processes that have it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1000
    raise OSError(f"the system does not tell the memory of process {pid}")
