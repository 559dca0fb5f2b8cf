"""Batches of images, read by worker processes, the same whatever reads them."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from centerarc.data.augmentation import Augmentation
from centerarc.data.source import FaceSource, Image
from centerarc.data.workers import check_workers, explain_dead_workers, start_worker

# Each purpose draws from a stream of its own: (seed, epoch, purpose, position).
_ORDER, _CHANGE, _REPLACE = range(3)


@dataclass(frozen=True)
class _Request:
    """One batch to read: image numbers, and for training their positions in the epoch."""

    indices: npt.NDArray[np.int64]
    epoch: int = 0
    first_position: int = 0


@dataclass(frozen=True)
class _Batch:
    """What was read, and the reason for each image number that could not be."""

    images: Tensor
    indices: Tensor
    damaged: dict[int, str]

    def pin_memory(self) -> "_Batch":
        # torch pins what it knows and calls this on the rest.
        return _Batch(self.images.pin_memory(), self.indices, self.damaged)


class _Reader(Dataset[_Batch | str]):
    """Reads whole batches; lives in the workers."""

    def __init__(self, source: FaceSource) -> None:
        self.source = source

    def __getitem__(self, request: _Request) -> _Batch | str:
        # An error that a user can act on travels as text: torch would wrap it in tracebacks.
        try:
            return self.read(request)
        except ValueError as error:
            return str(error)

    def read(self, request: _Request) -> _Batch:
        images = [self.source.image(int(index)) for index in request.indices]
        return _Batch(_stack(images, request), torch.from_numpy(request.indices), {})


class _TrainReader(_Reader):
    """Reads, replaces damaged images and augments, by the position in the epoch alone."""

    def __init__(self, source: FaceSource, augmentation: Augmentation | None, seed: int) -> None:
        super().__init__(source)
        self.augmentation = augmentation
        self.seed = seed
        # Images grouped by label: those of label c are order[start[c] : start[c + 1]].
        self.order = np.argsort(source.labels, kind="stable")
        counts = np.bincount(source.labels, minlength=len(source.identities))
        self.start = np.concatenate([[0], np.cumsum(counts)])

    def read(self, request: _Request) -> _Batch:
        damaged: dict[int, str] = {}
        images = []
        for position, index in enumerate(request.indices, request.first_position):
            key = (self.seed, request.epoch)
            image = self.readable(int(index), (*key, _REPLACE, position), damaged)
            if self.augmentation is not None:
                rng = np.random.default_rng((*key, _CHANGE, position))
                image = self.augmentation(image, rng)
            images.append(image)
        return _Batch(_stack(images, request), torch.from_numpy(request.indices), damaged)

    def readable(self, index: int, key: Sequence[int], damaged: dict[int, str]) -> Image:
        try:
            return self.source.image(index)
        except ValueError as error:
            damaged[index] = str(error)
        label = int(self.source.labels[index])
        others = self.order[self.start[label] : self.start[label + 1]]
        for other in np.random.default_rng(key).permutation(others):
            if int(other) in damaged:
                continue
            try:
                return self.source.image(int(other))
            except ValueError as error:
                damaged[int(other)] = str(error)
        raise ValueError(
            f"no image of identity {self.source.identities[label]!r} can be read; {damaged[index]}"
        )


class _Requests(Sampler[_Request]):
    """The batches of one epoch for one rank."""

    def __init__(self, loader: "TrainLoader") -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[_Request]:
        loader = self.loader
        rng = np.random.default_rng((loader.seed, loader.epoch, _ORDER))
        order = rng.permutation(len(loader.source))
        for batch in range(loader.start_batch, len(loader)):
            begin = batch * loader.batch_size
            rows = min(loader.batch_size, len(order) - begin)
            first = begin + loader.rank * rows // loader.world_size
            last = begin + (loader.rank + 1) * rows // loader.world_size
            yield _Request(order[first:last], loader.epoch, first)


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
        if len(source) < (batch_size if drop_last else 1):
            raise ValueError(
                f"source has {len(source)} images, too few for one batch of {batch_size}"
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
        reader = _TrainReader(source, augmentation, seed)
        self._loader: DataLoader[_Batch | str] | None = _data_loader(
            reader, _Requests(self), workers, persistent=True
        )

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        full, rest = divmod(len(self.source), self.batch_size)
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
        """Ends the workers."""
        self._loader = None

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
        _Request(wanted[begin : begin + batch_size]) for begin in range(0, len(wanted), batch_size)
    ]
    loader = _data_loader(_Reader(source), requests, workers, persistent=False)
    for batch in _received(loader):
        yield batch.images


def _data_loader(
    reader: _Reader, requests: Iterable[_Request], workers: int, *, persistent: bool
) -> DataLoader[_Batch | str]:
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


def _received(loader: DataLoader[_Batch | str]) -> Iterator[_Batch]:
    with explain_dead_workers(loader.num_workers):
        for batch in loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch


def _unchanged(batch: Any) -> Any:
    return batch


def _stack(images: list[Image], request: _Request) -> Tensor:
    for image, index in zip(images, request.indices, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"image {index} has shape {image.shape} and image {request.indices[0]} has "
                f"{images[0].shape}; all must have one size, so set the source's image_size"
            )
    return torch.from_numpy(np.stack(images))
