"""What a set of labeled face images is to the rest of the library."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import Image, WrongSizeError, decode_image, decode_into, wrong_size


@dataclass(frozen=True)
class Skipped:
    """Something that is left out of a set of images, and why.

    Args:
        place: Where it is, as the source names its images.
        reason: What kind of thing is wrong with it, in a few words, the same for all such.
        detail: What is particular to this one; empty if nothing.
        images: How many images it is or holds, as far as is known.
        identity: Whose it is; empty if it belongs to no one.
    """

    place: str
    reason: str
    detail: str = ""
    images: int = 0
    identity: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class FaceSource(Protocol):
    """Labeled face images, addressed by number; the base class of all sources.

    A source has `labels`, `identities` and `image`. Everything else has a default, which a source
    that knows more overrides.

    Attributes:
        labels: `(len,)` int64, each image's label in `[0, len(identities))`.
        identities: The name that belongs to each label.
        weights: `(len,)` float64, how often an epoch shows each image on average; None is once.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        skipped: What was left out when the source was opened.
        problems: What is wrong with the source as a whole, a line each.
    """

    labels: npt.NDArray[np.int64]
    identities: list[str]
    weights: npt.NDArray[np.float64] | None = None
    image_size: int | None = None
    skipped: Sequence[Skipped] = ()
    problems: Sequence[str] = ()

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    @abstractmethod
    def image(self, index: int) -> Image:
        """Returns image `index` as `(H, W, 3)` uint8 RGB.

        Raises:
            ValueError: If it cannot be read or decoded; the message names its place.
        """

    def image_into(self, index: int, out: Image) -> None:
        """Puts image `index` into an array, such as a row of a batch.

        Args:
            index: Number of the image.
            out: `(H, W, 3)` uint8, contiguous; its size must be that of the image.

        Raises:
            ValueError: As `image`.
            WrongSizeError: If the image has another size.
        """
        image = self.image(index)
        if image.shape != out.shape:
            raise WrongSizeError(f"{self.place(index)!r}: {wrong_size(image, out)}")
        np.copyto(out, image)

    def encoded(self, index: int) -> bytes | None:
        """Returns the whole image file of image `index`; None where there are only pixels.

        Raises:
            OSError: If it cannot be read; the message gives the reason without the place.
            ValueError: If it is damaged; likewise.
        """
        return None

    def place(self, index: int) -> str:
        """Returns where image `index` comes from, such as a file's path; unique in the source."""
        return f"image {index}"

    def files(self) -> Iterable[str]:
        """Returns the files that the source reads, if it is made of files."""
        return ()

    def roots(self) -> Iterable[Path]:
        """Returns the folders that the source takes whole."""
        return ()

    def summary(self) -> str:
        """Returns one line: how much there is, what was left out and what is wrong."""
        line = f"{len(self)} images of {len(self.identities)} identities"
        if self.skipped:
            reasons = Counter(item.reason for item in self.skipped).most_common()
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons)
            line += f"; left out {len(self.skipped)} ({counts})"
        return "; ".join([line, *self.problems])


class EncodedSource(FaceSource):
    """A source of encoded image files.

    A new kind of source says where its bytes are: `labels`, `identities`, `encoded` and `place`.
    Decoding, resizing and the words of its errors are here, once.

    Args:
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Raises:
        ValueError: If `image_size` is below 1.
    """

    def __init__(self, image_size: int | None = None) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1 or None, got {image_size}")
        self.image_size = image_size

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Returns the whole image file of image `index`; see `FaceSource.encoded`."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Returns where image `index` comes from; see `FaceSource.place`."""

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`."""
        try:
            return decode_image(self.encoded(index), self.image_size)
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.place(index)!r}: {error}") from error

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` in place; see `FaceSource.image_into`."""
        try:
            decode_into(self.encoded(index), out, resize=self.image_size is not None)
        except WrongSizeError as error:
            raise WrongSizeError(f"{self.place(index)!r}: {error}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read {self.place(index)!r}: {error}") from error
