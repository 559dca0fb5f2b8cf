"""An image as the library holds it."""

import numpy as np
import numpy.typing as npt

# (H, W, 3) uint8 RGB.
Image = npt.NDArray[np.uint8]


class WrongSizeError(ValueError):
    """An image has another size than those before it, and nobody asked for resizing."""


def wrong_size(image: Image, other: Image) -> WrongSizeError:
    """Returns the error about an image whose size is not that of the others."""
    return WrongSizeError(
        f"the image has {image.shape[1]} x {image.shape[0]} pixels and others have "
        f"{other.shape[1]} x {other.shape[0]}; all must have one size, so set the source's "
        "image_size"
    )
