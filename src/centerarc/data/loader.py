"""Batches of images, read by worker processes, identical for any number of workers."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset, get_worker_info

from centerarc.data.augmentation import Augmentation
from centerarc.data.decode import Image, WrongSizeError
from centerarc.data.samplers import Sampler, Shuffled
from centerarc.data.source import FaceSource, as_source, first_shape
from centerarc.io.parallel import (
    check_workers,
    explain_dead_workers,
    start_worker,
    starting_workers,
)

# Each purpose draws from a stream of its own: (seed, epoch, purpose, ...).
_CHANGE, _REPLACE = 1, 2


def to_input(images: Tensor) -> Tensor:
    """Scales images to the input of a model: `(x - 127.5) / 127.5`, channels first.

    Args:
        images: `(N, H, W, 3)` uint8 RGB, on any device.

    Returns:
        `(N, 3, H, W)` float32 in [-1, 1], on the same device.

    Raises:
        ValueError: If the shape or dtype is not that.

    Example:
        >>> to_input(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)).max().item()
        1.0
    """
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have shape (N, H, W, 3), got {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        raise ValueError(f"images must have dtype torch.uint8, got {images.dtype}")
    # The bytes travel to the device; floats, four times the size, are made there.
    channels_first = images.permute(0, 3, 1, 2)
    floats = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
    return floats.sub_(127.5).div_(127.5)


@dataclass(frozen=True)
class Request:
    """One batch to read: image numbers, and for training their positions in the epoch."""

    indices: npt.NDArray[np.int64]
    epoch: int = 0
    first_position: int = 0


@dataclass(frozen=True)
class Batch:
    """What was read, and the reason for each image number that could not be."""

    images: Tensor
    indices: Tensor
    damaged: dict[int, str]

    def pin_memory(self) -> "Batch":
        # torch pins what it knows and calls this on the rest.
        return Batch(self.images.pin_memory(), self.indices, self.damaged)


class Reader(Dataset[Batch | str]):
    """Reads whole batches; lives in the workers.

    Args:
        source: Where images come from; all of one size.
    """

    def __init__(self, source: FaceSource) -> None:
        self.source = source
        self._shape: tuple[int, ...] | None = None

    def __getitem__(self, request: Request) -> Batch | str:
        # An error that a user can act on travels as text: torch would wrap it in tracebacks.
        try:
            return self.read(request)
        except ValueError as error:
            return str(error)

    def read(self, request: Request) -> Batch:
        """Reads the images as they are; raises `ValueError` for one that cannot be read."""
        images, rows = self.room(request)
        for index, row in zip(request.indices.tolist(), rows, strict=True):
            self.source.image_into(index, row)
        return Batch(images, torch.from_numpy(request.indices), {})

    def room(self, request: Request) -> tuple[Tensor, npt.NDArray[np.uint8]]:
        """Makes a batch to fill: a tensor and its rows as arrays."""
        if self._shape is None:
            self._shape = self.shape(request.indices.tolist())
        images = _new_batch((len(request.indices), *self._shape))
        return images, images.numpy()

    def shape(self, indices: list[int]) -> tuple[int, ...]:
        """The shape of all images."""
        return self.source.image(indices[0]).shape


class TrainReader(Reader):
    """Reads, replaces damaged images and augments, by the position in the epoch alone.

    Args:
        source: Where images come from; all of one size.
        augmentation: Changes made to each image; None makes none.
        seed: Of all random numbers.
    """

    def __init__(self, source: FaceSource, augmentation: Augmentation | None, seed: int) -> None:
        super().__init__(source)
        self.augmentation = augmentation
        self.seed = seed
        # Images grouped by label: those of label c are order[start[c] : start[c + 1]].
        self.order = np.argsort(source.labels, kind="stable")
        counts = np.bincount(source.labels, minlength=len(source.identities))
        self.start = np.concatenate([[0], np.cumsum(counts)])

    def read(self, request: Request) -> Batch:
        """Reads a batch to train on."""
        damaged: dict[int, str] = {}
        images, rows = self.room(request)
        changes = None
        if self.augmentation is not None:
            key = (self.seed, request.epoch, _CHANGE)
            height, width = rows.shape[1:3]
            changes = self.augmentation.plan(key, request.first_position, len(rows), height, width)
        # Decoding and changing each image in one small array, which stays in the processor's cache,
        # is faster than working in a batch of several megabytes.
        room = np.empty(rows.shape[1:], dtype=np.uint8)
        for number, index in enumerate(request.indices.tolist()):
            try:
                self.source.image_into(index, room)
            except WrongSizeError:
                raise
            except ValueError as error:
                damaged[index] = str(error)
                position = request.first_position + number
                self.replace(index, room, (self.seed, request.epoch, _REPLACE, position), damaged)
            if changes is not None:
                changes.apply(number, room)
            np.copyto(rows[number], room)
        return Batch(images, torch.from_numpy(request.indices), damaged)

    def shape(self, indices: list[int]) -> tuple[int, ...]:
        """The shape of all images: of the batch if it has a readable one, else of any."""
        return first_shape(self.source, chain(indices, range(len(self.source))))

    def replace(self, index: int, row: Image, key: Sequence[int], damaged: dict[int, str]) -> None:
        """Puts another image of the same identity into `row`."""
        label = int(self.source.labels[index])
        others = self.order[self.start[label] : self.start[label + 1]]
        for other in np.random.default_rng(key).permutation(others).tolist():
            if other in damaged:
                continue
            try:
                self.source.image_into(other, row)
                return
            except WrongSizeError:
                raise
            except ValueError as error:
                damaged[other] = str(error)
        raise ValueError(
            f"no image of identity {self.source.identities[label]!r} can be read; {damaged[index]}"
        )


def _new_batch(shape: tuple[int, ...]) -> Tensor:
    """An empty uint8 batch; in a worker in the memory that the main process reads it from."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    # As torch's own collation: filled where it is handed over, so never copied.
    size = int(np.prod(shape))
    storage = torch.UntypedStorage._new_shared(size, device="cpu")  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


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
        >>> from centerarc.data.source import create_source
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
        source = as_source(source)
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size), got {rank} of {world_size}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size must be a positive multiple of world_size {world_size}, "
                f"got {batch_size}"
            )
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if not drop_last and world_size > 1:
            raise ValueError("drop_last must be True with several processes, got False")
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
            start_batch: Number of its first batch, to resume within an epoch.

        Raises:
            ValueError: If the epoch is negative or the batch not in [0, len].
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must be in [0, {len(self)}], got {start_batch}")
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
        """Shuts down the workers, even where an error's traceback still holds their reader."""
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
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    wanted = np.fromiter(indices, dtype=np.int64)
    requests = [
        Request(wanted[begin : begin + batch_size]) for begin in range(0, len(wanted), batch_size)
    ]
    loader = _data_loader(Reader(as_source(source)), requests, workers, persistent=False)
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
        with starting_workers():
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, str):
                raise ValueError(batch)
            yield batch


def _unchanged(batch: Any) -> Any:
    return batch
