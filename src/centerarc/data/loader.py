"""Batches of images, read by worker processes, identical for any number of workers."""

import os
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from centerarc.data.augmentation import Augmentation
from centerarc.data.decode import Image, WrongSizeError, new_pixels
from centerarc.data.samplers import Sampler, Shuffled
from centerarc.data.source import FaceSource, as_source, first_shape
from centerarc.io.files import lacks_descriptors
from centerarc.io.parallel import (
    READ_TIMEOUT,
    awaiting_batch,
    check_workers,
    end_workers,
    has_alarm,
    hold_back_deaths,
    shared_memory_left,
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


class Reader(Dataset[Batch | ValueError | OSError]):
    """Reads whole batches; lives in the workers.

    Args:
        source: Where images come from; all of one size.
    """

    def __init__(self, source: FaceSource) -> None:
        self.source = source
        self._shape: tuple[int, ...] | None = None

    def __getitem__(self, request: Request) -> Batch | ValueError | OSError:
        # An error that a user can act on travels as a value: torch would wrap it in tracebacks.
        try:
            return self.read(request)
        except OSError as error:
            return OSError(str(error))
        except ValueError as error:
            return ValueError(str(error))

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
        shape = (len(request.indices), *self._shape)
        images = torch.from_numpy(new_pixels(*shape)) if _here is None else _here.room(shape)
        return images, images.numpy()

    def shape(self, indices: list[int]) -> tuple[int, ...]:
        """The shape of all images: of the batch if it has a readable one, else of any."""
        return first_shape(self.source, chain(indices, range(len(self.source))))


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
        # One small array stays in the processor's cache, unlike a batch of several megabytes.
        room = new_pixels(*rows.shape[1:])
        for number, (index, row) in enumerate(zip(request.indices.tolist(), rows, strict=True)):
            image = room if changes is not None and changes.rewrites[number] else row
            try:
                self.source.image_into(index, image)
            except WrongSizeError:
                raise
            except (ValueError, OSError) as error:
                damaged[index] = _damage(error)
                position = request.first_position + number
                self.replace(index, image, (self.seed, request.epoch, _REPLACE, position), damaged)
            if changes is not None:
                changes.apply(number, image, row)
        return Batch(images, torch.from_numpy(request.indices), damaged)

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
            except (ValueError, OSError) as error:
                damaged[other] = _damage(error)
        raise ValueError(
            f"no image of identity {self.source.identities[label]!r} can be read; {damaged[index]}"
        )


class SoundReader(Reader):
    """Reads the images of a batch that can be read, and says why others cannot.

    Args:
        source: Where images come from.
        image_size: Side of the images in pixels; None is that of the first that can be read.
        lost: Leave out images that are gone, too. Otherwise that is an `OSError`: a share that is
            gone would leave out everything.
    """

    def __init__(
        self, source: FaceSource, image_size: int | None = None, *, lost: bool = False
    ) -> None:
        super().__init__(source)
        self._shape = None if image_size is None else (image_size, image_size, 3)
        self.lost = lost

    def read(self, request: Request) -> Batch:
        """Reads what can be read; `indices` of the result are those of its images."""
        images, rows = self.room(request)
        sound: list[int] = []
        damaged: dict[int, str] = {}
        for index in request.indices.tolist():
            try:
                self.source.image_into(index, rows[len(sound)])
            except WrongSizeError:
                raise
            except (ValueError, OSError) as error:
                reason = _damage(error)
                if not self.lost and isinstance(error.__cause__, OSError):
                    raise OSError(reason) from error
                prefix = f"cannot read {self.source.place(index)!r}: "
                damaged[index] = f"damaged: {reason.removeprefix(prefix)}"
                continue
            sound.append(index)
        return Batch(images[: len(sound)], torch.tensor(sound, dtype=torch.int64), damaged)


def _damage(error: ValueError | OSError) -> str:
    """Why an image cannot be read; raises what is wrong with this process and not with the image.

    For lack of descriptors every image fails.
    """
    if lacks_descriptors(error):
        raise OSError(f"{error}; raise the limit of open files (ulimit -n)") from error
    return str(error)


# Of each worker: two batches that it is asked for ahead, one in use, and the one before that.
_SLOTS = 4

# That of this process, where it is a worker; where batches arrive, those of all loaders.
_here: "BatchMemory | None" = None
_known: "weakref.WeakValueDictionary[int, BatchMemory]" = weakref.WeakValueDictionary()


class BatchMemory:
    """The shared memory in which the workers of a loader hand over batches.

    A batch in new memory takes half as long as decoding its images: the system clears and maps
    it page by page, and passes on its descriptor. So each worker fills the same few slots again,
    each when no tensor of the receiving process is left in it. A batch for which no slot is free
    has memory of its own. Where all shared memory is used, as soon in a container that has 64 MB,
    batches are sent through a pipe.

    Args:
        workers: Number of processes that read.
    """

    def __init__(self, workers: int) -> None:
        # Set by the worker when it hands a batch over, cleared by the process that got it.
        self._lent = _shared_bytes(workers * _SLOTS).view(workers, _SLOTS)
        self._lent.fill_(not self._lent.is_shared())  # type: ignore[no-untyped-call]
        self._slots: dict[tuple[int, int], Tensor] = {}
        self._new: dict[tuple[int, int], Tensor] = {}  # slots that were not handed over so far
        self._owner = os.getpid()
        self._number = id(self)
        _known[self._number] = self

    def start_worker(self, worker: int) -> None:
        """Runs first in each process that reads."""
        global _here
        start_worker(worker)
        self._worker, _here = worker, self

    def room(self, shape: tuple[int, ...]) -> Tensor:
        """Returns memory for a batch; until the batch is handed over, the same again."""
        needed = prod(shape) + 1  # as `new_pixels` has it
        for slot in range(_SLOTS):
            place = self._worker, slot
            if not self._lent[place]:
                if place not in self._slots or len(self._slots[place]) < needed:
                    memory = _shared_bytes(needed)
                    if not memory.is_shared():  # type: ignore[no-untyped-call]
                        return memory[1:].view(shape)
                    self._slots[place] = self._new[place] = memory
                return self._slots[place][1:needed].view(shape)
        return _shared_bytes(needed)[1:].view(shape)

    def handed_over(self, read: Any) -> Any:
        """Makes what is sent from what was read, which may be an error, in a worker."""
        if not isinstance(read, Batch):
            return read
        shape, rest = read.images.shape, (read.indices.numpy(), read.damaged)
        for place, memory in self._slots.items():
            if memory.data_ptr() + 1 == read.images.data_ptr():
                self._lent[place] = 1
                new = self._new.pop(place, None)
                return _Sent((self._number, place, new, shape, *rest))
        if not read.images.is_shared():  # type: ignore[no-untyped-call]
            return _Sent((self._number, None, read.images.numpy(), shape, *rest))
        return read

    def arrived(
        self,
        place: tuple[int, int] | None,
        new: Any,
        shape: tuple[int, ...],
        indices: npt.NDArray[np.int64],
        damaged: dict[int, str],
    ) -> Batch:
        """Returns the batch that a worker sent, in the process that asked for it."""
        if place is None:  # the pixels themselves
            return Batch(torch.from_numpy(new), torch.from_numpy(indices), damaged)
        if new is not None:
            self._slots[place] = new
        pixels = self._slots[place].numpy()[1 : 1 + prod(shape)].reshape(shape)
        # A tensor holds the array that it was made of, and so does whatever is made of the tensor.
        weakref.finalize(pixels, self._clear, place).atexit = False
        return Batch(torch.from_numpy(pixels), torch.from_numpy(indices), damaged)

    def _clear(self, place: tuple[int, int]) -> None:
        if os.getpid() == self._owner:  # and not in a process that was forked from it
            self._lent[place] = 0


class _Sent(tuple[Any, ...]):
    """A batch in a slot, as it is sent; it arrives as a `Batch`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, tuple(self)


def _arrived(number: int, *fields: Any) -> Batch:
    return _known[number].arrived(*fields)


def _shared_bytes(size: int) -> Tensor:
    """Returns memory for so many bytes, shared unless there is no more such memory."""
    with suppress(RuntimeError):
        if size < shared_memory_left():
            storage = torch.UntypedStorage._new_shared(size, device="cpu")  # type: ignore[no-untyped-call]
            return torch.empty(0, dtype=torch.uint8).set_(storage)
    return torch.empty(size, dtype=torch.uint8)


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
    warned of once. A worker that dies or hangs is an error where a batch is waited for, so always
    between two batches. A process that is forked from this one must clone the batches that it
    keeps: with workers, they are in memory that is used again when this process drops them.

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
        timeout: Seconds that a batch may take; 0 is any time.

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
        timeout: float = READ_TIMEOUT,
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
        if (made_for := self.sampler.batch_size) not in (None, batch_size):
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
        self.timeout = timeout
        self.epoch = 0
        self.start_batch = 0
        self.damaged: dict[int, str] = {}
        self._labels = torch.from_numpy(np.asarray(source.labels, dtype=np.int64))
        reader = TrainReader(source, augmentation, seed)
        self._loader: DataLoader[Any] | None = _data_loader(
            reader, _Requests(self), workers, persistent=True
        )

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def images_of(self, epoch: int, batch: int) -> npt.NDArray[np.int64]:
        """Returns the image numbers of a batch, of all processes together."""
        begin = batch * self.batch_size
        return self.sampler.order(self.seed, epoch)[begin : begin + self.batch_size]

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
        for batch in _received(self._loader, self.timeout):
            for index, reason in batch.damaged.items():
                if index not in self.damaged:
                    self.damaged[index] = reason
                    said = f"{reason}; another image of the same identity takes its place"
                    warnings.warn(said, stacklevel=2)
            yield batch.images, self._labels[batch.indices]

    def close(self) -> None:
        """Shuts down the workers, even where an error's traceback still holds their reader."""
        loader, self._loader = self._loader, None
        end_workers(getattr(loader, "_iterator", None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def iterate_images(
    source: FaceSource,
    indices: Iterable[int],
    batch_size: int,
    workers: int = 0,
    timeout: float = READ_TIMEOUT,
) -> Iterator[Tensor]:
    """Yields images in the order asked for, unchanged, for embedding.

    Args:
        source: Where images come from.
        indices: Image numbers.
        batch_size: Images in a batch; the last may have fewer.
        workers: Processes that read; 0 reads in this process.
        timeout: Seconds that a batch may take; 0 is any time.

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
    for batch in read_batches(Reader(as_source(source)), requests, workers, timeout):
        yield batch.images


def read_batches(
    reader: Reader, requests: Iterable[Request], workers: int, timeout: float = READ_TIMEOUT
) -> Iterator[Batch]:
    """Yields what a reader makes of each request, in order.

    Args:
        reader: Goes to each process once.
        requests: What to read.
        workers: Processes that read; 0 reads in this process.
        timeout: Seconds that a batch may take; 0 is any time.

    Raises:
        ValueError: If the reader fails so, or `workers` is out of range.
        OSError: If the reader fails so, a process died, or a batch took too long.
    """
    return _received(_data_loader(reader, requests, workers, persistent=False), timeout)


def _data_loader(
    reader: Reader, requests: Iterable[Request], workers: int, *, persistent: bool
) -> DataLoader[Any]:
    check_workers(workers)
    memory = BatchMemory(workers) if workers else None
    return DataLoader(
        reader,
        sampler=requests,
        batch_size=None,  # the reader makes batches, so that a batch crosses processes once
        num_workers=workers,
        collate_fn=memory.handed_over if memory else None,
        worker_init_fn=memory.start_worker if memory else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _received(loader: DataLoader[Any], timeout: float) -> Iterator[Batch]:
    workers = loader.num_workers
    # Where it waits without a limit, PyTorch looks every 5 seconds for workers that died: its
    # handler of SIGCHLD does not know one that died right after its start.
    loader.timeout = timeout + 1 if workers and timeout and not has_alarm() else 0
    batches = getattr(loader, "_iterator", None)  # of workers that are there, which answer
    if workers:
        with torch.autograd.profiler.record_function(""):
            pass  # imports what PyTorch else would with the first batch, and hides a death within
        signal_handling._set_SIGCHLD_handler()  # now, for the workers' start to be held back, too
        hold_back_deaths(loader)
    try:
        with awaiting_batch(workers, timeout, starts=batches is None), starting_workers():
            batches = iter(loader)
        while True:
            with awaiting_batch(workers, timeout):
                batch = next(batches, None)
            if isinstance(batch, Exception):
                raise batch
            if batch is None:
                return
            yield batch
    except (Exception, KeyboardInterrupt) as error:
        # Workers that died or may hang; else they last as long as the error, and where they are
        # collected in a cycle with it, pipes are closed twice: then what others have opened.
        if (broken := isinstance(error, OSError)) or not loader.persistent_workers:
            end_workers(batches, patience=0 if broken else None)
        raise
