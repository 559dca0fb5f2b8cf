"""What a set of labelled face images looks like to the rest of the library."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from centerarc.data.image import Image as Image
from centerarc.data.image import WrongSizeError, wrong_size


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
