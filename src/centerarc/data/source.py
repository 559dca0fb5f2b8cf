"""What a set of labelled face images looks like to the rest of the library."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import Image, WrongSizeError, decode_image, decode_into, wrong_size

# What a set of labelled face images looks like to the rest of the library.


class FaceSource(Protocol):
    """Labelled face images, addressed by number.

    This is all that training needs. A source may offer more: `encoded(index)`, the bytes of the
    image file; `place(index)`, where it comes from; `image_into(index, out)`, which decodes without
    a copy. `EncodedSource` has them; the functions below ask any source for them.

    Attributes:
        labels: `(len,)` int64, each image's label in `[0, len(identities))`.
        identities: The name that belongs to each label.
    """

    @property
    def labels(self) -> npt.NDArray[np.int64]: ...

    @property
    def identities(self) -> list[str]: ...

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def image(self, index: int) -> Image:
        """Returns image `index` as `(H, W, 3)` uint8 RGB; raises `ValueError` if damaged."""
        ...


def place(source: FaceSource, index: int) -> str:
    """Returns where image `index` comes from, or its number where the source does not say."""
    named = getattr(source, "place", None)
    return str(named(index)) if named is not None else f"image {index}"


def encoded(source: FaceSource, index: int) -> bytes | None:
    """Returns the image file of image `index`, or None where there are pixels only.

    Raises:
        ValueError: If it cannot be read; the message says why, without the place.
    """
    read = getattr(source, "encoded", None)
    try:
        data: bytes | None = read(index) if read is not None else None
    except OSError as error:
        raise ValueError(str(error)) from error
    return data


def image_into(source: FaceSource, index: int, out: Image) -> None:
    """Puts image `index` into `out`, `(H, W, 3)` uint8, without a copy where the source can.

    Raises:
        ValueError: If it cannot be read.
        WrongSizeError: If it has another size.
    """
    decode = getattr(source, "image_into", None)
    if decode is not None:
        decode(index, out)
        return
    image = source.image(index)
    if image.shape != out.shape:
        raise WrongSizeError(f"{place(source, index)!r}: {wrong_size(image, out)}")
    np.copyto(out, image)


# Sources whose images are encoded files: their bytes, where each comes from, and its pixels.


class EncodedSource(ABC):
    """Labelled images that can be had as the bytes of an image file; a `FaceSource`.

    A new kind of source says where its bytes are: `labels`, `identities`, `encoded` and `place`.
    Decoding, resizing and the words of its errors are here, once.

    Attributes:
        labels: `(len,)` int64, each image's label in `[0, len(identities))`.
        identities: The name that belongs to each label.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
    """

    labels: npt.NDArray[np.int64]
    identities: list[str]
    image_size: int | None

    def __init__(self, image_size: int | None = None) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1 or None")
        self.image_size = image_size

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Returns the whole image file of image `index`.

        Raises:
            ValueError: If it cannot be read; the message says why, without the place.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Returns where image `index` comes from, such as a file's path; unique in the source."""

    def image(self, index: int) -> Image:
        """Returns image `index` as `(H, W, 3)` uint8 RGB.

        Raises:
            ValueError: If it cannot be read or decoded; the message names its place.
        """
        try:
            return decode_image(self.encoded(index), self.image_size)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.place(index)!r}: {error}") from error

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` into an array that is there, such as a row of a batch.

        Args:
            index: Number of the image in `[0, len)`.
            out: `(H, W, 3)` uint8, contiguous; its size must be that of the image.

        Raises:
            ValueError: As `image`.
            WrongSizeError: If the image has another size and `image_size` is None.
        """
        try:
            decode_into(self.encoded(index), out, resize=self.image_size is not None)
        except WrongSizeError as error:
            raise WrongSizeError(f"{self.place(index)!r}: {error}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.place(index)!r}: {error}") from error


# What a source left out when it was opened, in the words of all sources.


@dataclass(frozen=True)
class LeftOut:
    """Something that a source does not serve.

    Args:
        place: Where it is, as the source names its images.
        reason: Why.
        images: How many images it is or holds, as far as the source knows.
    """

    place: str
    reason: str
    images: int = 0

    @property
    def kind(self) -> str:
        """The reason without its particulars: "unreadable: the file is empty" is "unreadable"."""
        return self.reason.split(":")[0]


def left_out(source: FaceSource) -> list[LeftOut]:
    """Returns what a source left out at opening; empty for sources that keep no such list.

    Args:
        source: Any source; a `FolderSource` has files that it skipped.

    Returns:
        In the order of the source.
    """
    root = getattr(source, "root", None)
    found = []
    for item in getattr(source, "skipped", ()):
        path = Path(item.path)
        if root is not None and path.is_relative_to(root):
            path = path.relative_to(root)
        found.append(LeftOut(path.as_posix(), str(item.reason), getattr(item, "images", 0)))
    return found
