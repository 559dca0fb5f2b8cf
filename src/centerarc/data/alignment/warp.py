"""The square that a transform cuts out of a photo."""

import math

import cv2
import numpy as np

from centerarc.data.alignment.similarity import (
    Floats,
    apply_transform,
    inverse_transform,
    transform_scale,
)
from centerarc.data.source import Image


def warp(image: Image, matrix: Floats, size: int) -> Image:
    """Cuts an upright square out of an image: bilinear, antialiased, black outside the image.

    A bilinear sample sees two pixels a side, so what is shrunk by 2 or more would alias. Then the
    part of the image that is needed is first shrunk by the whole part f of that factor, each
    pixel the mean of f x f, and the transform continues from there: pixel u of the shrunk part
    has its centre at `x0 + f u + (f - 1) / 2` of the image, for a part that starts at x0.
    OpenCV takes samples at whole 1/32 of a pixel, so they are off by at most 1/64.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        matrix: `(2, 3)` similarity from the image to the square; whole numbers are the centres of
            pixels in both.
        size: Side of the square in pixels, at least 1.

    Returns:
        `(size, size, 3)` uint8 RGB. What lies outside the image is (0, 0, 0), and the image's
        outermost pixel blends into it, as insightface has it.

    Raises:
        ValueError: If shapes do not fit, the transform has no inverse, or `size` is below 1.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}; it must be uint8 (H, W, 3)"
        )
    if matrix.shape != (2, 3):
        raise ValueError(f"matrix has shape {matrix.shape}; it must be (2, 3)")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    scale = transform_scale(matrix)
    if not (np.isfinite(matrix).all() and scale > 0):
        raise ValueError("matrix does not enlarge or shrink, it has no inverse")
    # A block is no larger than the image, or its padding would take any amount of memory.
    factor = min(max(1, math.floor(1 / scale * (1 + 1e-9))), *image.shape[:2])
    x0, y0, x1, y1 = _needed(image, inverse_transform(matrix), size, factor)
    if x0 >= x1 or y0 >= y1:
        return np.zeros((size, size, 3), dtype=np.uint8)
    part = image[y0:y1, x0:x1]
    if factor > 1:
        part = _shrunk(part, factor)
    middle = (factor - 1) / 2
    to_image = np.array([[factor, 0, x0 + middle], [0, factor, y0 + middle], [0, 0, 1.0]])
    result = cv2.warpAffine(
        np.ascontiguousarray(part),
        matrix @ to_image,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )
    return np.asarray(result, dtype=np.uint8)


def _needed(image: Image, back: Floats, size: int, factor: int) -> tuple[int, int, int, int]:
    """Returns the part of the image under the square, with a margin, as x0, y0, x1, y1."""
    end = size - 1
    corners = apply_transform(back, [(0, 0), (end, 0), (0, end), (end, end)])
    margin = 2 * factor
    height, width = image.shape[:2]
    low = np.clip(np.floor(corners.min(0)) - margin, 0, (width, height)).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + margin + 1, 0, (width, height)).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _shrunk(part: Image, factor: int) -> Image:
    height, width = part.shape[:2]
    down, right = -height % factor, -width % factor
    if down or right:  # the image ends within a block; the rest of it is black as all outside
        part = np.asarray(
            cv2.copyMakeBorder(part, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0)),
            dtype=np.uint8,
        )
    wanted = ((width + right) // factor, (height + down) // factor)
    return np.asarray(cv2.resize(part, wanted, interpolation=cv2.INTER_AREA), dtype=np.uint8)
