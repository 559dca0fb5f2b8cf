"""The five points to which every face is brought."""

import numpy as np
import numpy.typing as npt

TEMPLATE_SIZE = 112

# Left eye, right eye, nose, left and right corner of the mouth, as seen in the image.
_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def arcface_template(size: int = TEMPLATE_SIZE) -> npt.NDArray[np.float64]:
    """Returns where the five landmarks of an aligned face lie.

    Coordinates are x to the right and y down, with whole numbers at the centres of pixels: the
    first pixel reaches from -0.5 to 0.5, as in OpenCV and scikit-image. Other sizes multiply the
    points for 112 by `size / 112`, as the alignment that public models were trained on does. (To
    scale the square itself would be `(p + 0.5) * size / 112 - 0.5`, a shift of half a pixel at
    224.) The whole square is used at every size; no extra margin is put around 128 or 256.

    Args:
        size: Side of the aligned image in pixels, at least 1.

    Returns:
        `(5, 2)` float64: left eye, right eye, nose, left and right corner of the mouth, left and
        right as seen in the image.

    Raises:
        ValueError: If `size` is below 1.

    Example:
        >>> arcface_template()[2].tolist()
        [56.0252, 71.7366]
    """
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    return np.array(_POINTS, dtype=np.float64) * (size / TEMPLATE_SIZE)
