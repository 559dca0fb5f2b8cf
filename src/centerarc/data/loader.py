"""Batches of images, read by worker processes, the same whatever reads them."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader

from centerarc.data.augmentation import Augmentation
from centerarc.data.reading import Batch, Reader, Request, TrainReader
from centerarc.data.samplers import Sampler, Shuffled
from centerarc.data.source import FaceSource
from centerarc.data.workers import (
    check_workers,
    explain_dead_workers,
    start_worker,
    starting_workers,
)


class _Requests(torch_data.Sampler[Request]):
    """The batches of one epoch for one rank."""

    def __init__(self, loader: "TrainLoader") -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Request]:
        loader = self.loader
        order = loader.sampler.order(loader.seed, loader.epoch)
        for batch in range(loader.start_batch, len(loader)):
            begin = batch * loader.batch_size
            rows = min(loader.batch_size, len(order) - begin)
            first = begin + loader.rank * rows // loader.world_size
            last = begin + (loader.rank + 1) * rows // loader.world_size
            yield Request(order[first:last], loader.epoch, first)


class TrainLoader:
    """Shuffled, augmented batches for one of several processes.

    A batch depends on (seed, epoch, batch number) alone. Rank r of W gets rows r N / W to
    (r + 1) N / W of the same global batch of N, so neither the number of workers nor that of
    processes changes what is learned from. An image that cannot be read is replaced by another
    one of the same identity, chosen by the same three numbers; it is recorded in `damaged` and
    warned of once.

    Args:
        source: Where images come from. All must have one size.
        batch_size: N, of all processes together; a multiple of `world_size`.
        augmentation: Changes made to each image; None makes none.
        seed: At least 0.
        sampler: Which images an epoch shows in which order; `Shuffled` by default.
        workers: Processes that read; 0 reads in this process.
        rank: This process's number, in [0, world_size).
        world_size: W, the number of processes.
        drop_last: Leave out the last, smaller batch; must be True with several processes.

    Attributes:
        damaged: Image number to reason, for those that could not be read so far.

    Raises:
        ValueError: If an argument is out of range or there are too few images for one batch.

    Example:
        >>> from centerarc.data.sources import create_source
        >>> source = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> loader = TrainLoader(source, batch_size=4, augmentation=None, seed=0)
        >>> loader.set_epoch(0)
        >>> [tuple(images.shape) for images, labels in loader]
        [(4, 112, 112, 3)]
    """

    def __init__(
        self,
        source: FaceSource,
        *,
        batch_size: int,
        augmentation: Augmentation | None,
        seed: int,
        sampler: Sampler | None = None,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of world_size {world_size}; it must be in [0, size)")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size is {batch_size}; it must be a positive multiple of "
                f"world_size {world_size}"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be at least 0")
        if not drop_last and world_size > 1:
            raise ValueError("drop_last is False; with several processes it must be True")
        self.sampler = Shuffled(source) if sampler is None else sampler
        made_for = self.sampler.batch_size
        if made_for is not None and made_for != batch_size:
            raise ValueError(
                f"batch_size is {batch_size}, but the sampler was made for batches of {made_for}"
            )
        if len(self.sampler) < (batch_size if drop_last else 1):
            raise ValueError(
                f"an epoch has {len(self.sampler)} images, too few for one batch of {batch_size}"
            )
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.epoch = 0
        self.start_batch = 0
        self.damaged: dict[int, str] = {}
        self._labels = torch.from_numpy(np.asarray(source.labels, dtype=np.int64))
        reader = TrainReader(source, augmentation, seed)
        self._loader: DataLoader[Batch | str] | None = _data_loader(
            reader, _Requests(self), workers, persistent=True
        )

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses what the next iteration gives.

        Args:
            epoch: Number of the epoch, from 0.
            start_batch: Number of its first batch, to go on within an epoch.

        Raises:
            ValueError: If the epoch is negative or the batch not in [0, len].
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; it must be at least 0")
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch is {start_batch}; it must be in [0, {len(self)}]")
        self.epoch = epoch
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields `(N / W, H, W, 3)` uint8 images and `(N / W,)` int64 labels."""
        if self._loader is None:
            raise ValueError("the loader is closed")
        for batch in _received(self._loader):
            for index, reason in batch.damaged.items():
                if index not in self.damaged:
                    self.damaged[index] = reason
                    warnings.warn(
                        f"{reason}; another image of the same identity takes its place",
                        stacklevel=2,
                    )
            yield batch.images, self._labels[batch.indices]

    def close(self) -> None:
        """Ends the workers, even where an error's traceback still holds what reads from them."""
        iterator: Any = getattr(self._loader, "_iterator", None)
        self._loader = None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def iterate_images(
    source: FaceSource, indices: Iterable[int], batch_size: int, workers: int = 0
) -> Iterator[Tensor]:
    """Yields images in the order asked for, unchanged, for embedding.

    Args:
        source: Where images come from.
        indices: Image numbers.
        batch_size: Images in a batch; the last may have fewer.
        workers: Processes that read; 0 reads in this process.

    Yields:
        `(N, H, W, 3)` uint8 tensors.

    Raises:
        ValueError: If a size is out of range, or an image cannot be read; nothing takes its
            place.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    wanted = np.fromiter(indices, dtype=np.int64)
    requests = [
        Request(wanted[begin : begin + batch_size]) for begin in range(0, len(wanted), batch_size)
    ]
    loader = _data_loader(Reader(source), requests, workers, persistent=False)
    for batch in _received(loader):
        yield batch.images


def _data_loader(
    reader: Reader, requests: Iterable[Request], workers: int, *, persistent: bool
) -> DataLoader[Batch | str]:
    check_workers(workers)
    return DataLoader(
        reader,
        sampler=requests,
        batch_size=None,  # the reader makes batches, so that a batch crosses processes once
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=start_worker,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _received(loader: DataLoader[Batch | str]) -> Iterator[Batch]:
    with explain_dead_workers(loader.num_workers):
        for batch in _started(loader):
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch


def _started(loader: DataLoader[Batch | str]) -> Iterator[Batch | str]:
    with starting_workers():
        return iter(loader)


def _unchanged(batch: Any) -> Any:
    return batch
