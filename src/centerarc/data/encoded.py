"""Sources whose images are encoded files: their bytes, where each comes from, and its pixels."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import decode_image, decode_into
from centerarc.data.image import Image, WrongSizeError


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
