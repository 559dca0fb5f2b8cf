"""What the processes that read images do: fill one batch of bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from centerarc.data.augmentation import Augmentation
from centerarc.data.image import Image, WrongSizeError
from centerarc.data.source import FaceSource, image_into

# Each purpose draws from a stream of its own: (seed, epoch, purpose, ...).
_CHANGE, _REPLACE = 1, 2


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
            image_into(self.source, index, row)
        return Batch(images, torch.from_numpy(request.indices), {})

    def room(self, request: Request) -> tuple[Tensor, npt.NDArray[np.uint8]]:
        """Makes a batch to fill: a tensor and its rows as arrays."""
        if self._shape is None:
            self._shape = self.first_shape(request.indices)
        images = _new_batch((len(request.indices), *self._shape))
        return images, images.numpy()

    def first_shape(self, indices: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """The shape of all images: that of the first one that can be read."""
        first: ValueError | None = None
        for index in indices.tolist():
            try:
                return self.source.image(index).shape
            except ValueError as error:
                first = first or error
        raise first or ValueError("there is no image to read")


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
        # One image's room, which stays in the cache: decoding and changing it there and copying it
        # into the batch at the end is faster than working in a batch of several megabytes.
        room = np.empty(rows.shape[1:], dtype=np.uint8)
        for number, index in enumerate(request.indices.tolist()):
            try:
                image_into(self.source, index, room)
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

    def first_shape(self, indices: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """The shape of all images: of a batch if it has a readable one, else of any."""
        try:
            return super().first_shape(indices)
        except ValueError:
            return super().first_shape(np.arange(len(self.source)))

    def replace(self, index: int, row: Image, key: Sequence[int], damaged: dict[int, str]) -> None:
        """Puts another image of the same identity into `row`."""
        label = int(self.source.labels[index])
        others = self.order[self.start[label] : self.start[label + 1]]
        for other in np.random.default_rng(key).permutation(others).tolist():
            if other in damaged:
                continue
            try:
                image_into(self.source, other, row)
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
