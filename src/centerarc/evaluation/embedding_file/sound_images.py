"""Batches of the images that can be read; damaged ones are named, nothing takes their place."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from centerarc.data.image import WrongSizeError
from centerarc.data.reading import Batch, Reader, Request
from centerarc.data.source import FaceSource, image_into, place
from centerarc.data.workers import check_workers, signals_held_back, start_worker


@dataclass(frozen=True)
class _Unreachable:
    """A file that cannot be read at all, which is no fault of an image."""

    reason: str


class _SoundReader(Reader):
    def __init__(self, source: FaceSource, image_size: int) -> None:
        super().__init__(source)
        self._shape = (image_size, image_size, 3)

    def __getitem__(self, request: Request) -> Any:
        try:
            return super().__getitem__(request)
        except OSError as error:
            return _Unreachable(str(error))

    def read(self, request: Request) -> Batch:
        """Reads what can be read; ``indices`` of the result are those of its images."""
        images, rows = self.room(request)
        sound: list[int] = []
        damaged: dict[int, str] = {}
        for index in request.indices.tolist():
            try:
                image_into(self.source, index, rows[len(sound)])
            except WrongSizeError:
                raise
            except ValueError as error:
                # A share that is gone would otherwise leave out everything.
                if isinstance(error.__cause__, OSError):
                    raise OSError(str(error)) from error
                prefix = f"cannot read {place(self.source, index)!r}: "
                damaged[index] = f"damaged: {str(error).removeprefix(prefix)}"
                continue
            sound.append(index)
        return Batch(images[: len(sound)], torch.tensor(sound, dtype=torch.int64), damaged)


def sound_images(
    source: FaceSource, first: int, image_size: int, *, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Yields the images of a source from number ``first`` on, in order.

    Args:
        source: where they come from.
        first: number of the first.
        image_size: side of all of them, in pixels.
        batch_size: images at once, before damaged ones are taken out.
        workers: processes that read; 0 reads in this one.

    Yields:
        Sound images with their numbers, possibly none, and the reason for each damaged one.

    Raises:
        ValueError: an image has another size.
        OSError: a file cannot be read at all.
    """
    check_workers(workers)
    numbers = np.arange(first, len(source), dtype=np.int64)
    requests = [
        Request(numbers[begin : begin + batch_size]) for begin in range(0, len(numbers), batch_size)
    ]
    loader: DataLoader[Any] = DataLoader(
        _SoundReader(source, image_size),
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
    )
    with signals_held_back(signal.SIGINT):
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, str):
            raise ValueError(batch)
        if isinstance(batch, _Unreachable):
            raise OSError(batch.reason)
        yield batch


def _unchanged(batch: Any) -> Any:
    return batch
