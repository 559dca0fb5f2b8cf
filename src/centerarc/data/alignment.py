"""From five landmarks to an aligned face."""

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from centerarc.data.decode import Image

Floats = npt.NDArray[np.float64]

TEMPLATE_SIZE = 112
# Left eye, right eye, nose, left and right corner of the mouth, as seen in the image.
_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
# Of the spread of the points: what is closer to nothing than this is rounding.
_NOTHING = 1e-9


def similarity_transform(source: npt.ArrayLike, target: npt.ArrayLike) -> Floats:
    """Returns the similarity transforms that bring each row's points closest to the target's.

    Minimizes `sum_k |c R source_k + t - target_k|^2` over rotations R (never a reflection), scales
    c > 0 and shifts t. In the plane the solution of Umeyama (1991, eqs. 40-43) needs no singular
    values. With points as complex numbers, x and y their offsets from the means:

        c R = (sum conj(x) y) / (sum |x|^2),    t = mean(target) - c R mean(source)

    Args:
        source: `(N, K, 2)`, K >= 2 points of each of N rows, as x and y.
        target: `(K, 2)` for all rows, or `(N, K, 2)`.

    Returns:
        `(N, 2, 3)` float64: `matrix @ (x, y, 1)` is the point in the target.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, all points of a row are the same,
            or no rotation fits better than another, as for some mirrored points; the row is named.

    Example:
        >>> corners = [[(0, 0), (1, 0), (0, 1)]]
        >>> similarity_transform(corners, [(3, 4), (5, 5), (2, 6)]).round(6).tolist()
        [[[2.0, -1.0, 3.0], [1.0, 2.0, 4.0]]]
    """
    points = np.asarray(source, dtype=np.float64)
    wanted = np.asarray(target, dtype=np.float64)
    if points.ndim != 3 or points.shape[2] != 2 or points.shape[1] < 2:
        raise ValueError(f"source must have shape (N, K, 2) with K >= 2, got {points.shape}")
    if wanted.shape not in (points.shape, points.shape[1:]):
        raise ValueError(
            f"target must have the shape of source, {points.shape}, or {points.shape[1:]}, got "
            f"{wanted.shape}"
        )
    wanted = np.broadcast_to(wanted, points.shape)
    _refuse(~np.isfinite(points).all((1, 2)), "source holds a value that is not finite")
    _refuse(~np.isfinite(wanted).all((1, 2)), "target holds a value that is not finite")
    x, x_mean, x_spread = _centered(points, "source")
    y, y_mean, y_spread = _centered(wanted, "target")
    product = (x.conj() * y).sum(1)
    _refuse(
        np.abs(product) <= _NOTHING * x_spread * y_spread,
        "source fits target in no rotation better than in another; its points may be mirrored",
    )
    turn = product / x_spread**2
    shift = y_mean - turn * x_mean
    rows = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
    return np.stack(rows, axis=1).reshape(-1, 2, 3)


def apply_transform(matrix: Floats, points: npt.ArrayLike) -> Floats:
    """Moves points by an affine transform.

    Args:
        matrix: `(2, 3)`.
        points: `(K, 2)`, as x and y.

    Returns:
        `(K, 2)` float64.

    Example:
        >>> apply_transform(np.array([[2.0, 0, 1], [0, 2, 0]]), [(1, 1)]).tolist()
        [[3.0, 2.0]]
    """
    return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]


def inverse_transform(matrix: Floats) -> Floats:
    """Returns the `(2, 3)` transform that undoes the `(2, 3)` transform `matrix`."""
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])


def transform_scale(matrix: Floats) -> float:
    """Returns by how much the similarity `matrix`, `(2, 3)`, enlarges lengths."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _centered(points: Floats, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Floats]:
    """Returns `(N, K)` complex offsets from the mean, `(N,)` means and `(N,)` root sums squared."""
    numbers = points[..., 0] + 1j * points[..., 1]
    mean = numbers.mean(1)
    offsets = numbers - mean[:, None]
    spread = np.sqrt((np.abs(offsets) ** 2).sum(1))
    _refuse(spread <= _NOTHING * np.abs(numbers).max(1), f"all points of {name} are the same")
    return offsets, mean, spread


def _refuse(bad: npt.ArrayLike, what: str) -> None:
    if np.any(bad):
        raise ValueError(f"row {int(np.argmax(bad))}: {what}")


def arcface_template(size: int = TEMPLATE_SIZE) -> npt.NDArray[np.float64]:
    """Returns where the five landmarks of an aligned face lie.

    Coordinates are x to the right and y down, with whole numbers at the centers of pixels, as in
    OpenCV and scikit-image. Other sizes multiply the points for 112 by `size / 112`, as the
    alignment that public models were trained on does, without an extra margin at any size.

    Args:
        size: Side of the aligned image in pixels, at least 1.

    Returns:
        `(5, 2)` float64: left eye, right eye, nose, left and right corner of the mouth, as seen in
        the image.

    Raises:
        ValueError: If `size` is below 1.

    Example:
        >>> arcface_template()[2].tolist()
        [56.0252, 71.7366]
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    return np.array(_POINTS, dtype=np.float64) * (size / TEMPLATE_SIZE)


def warp(image: Image, matrix: Floats, size: int) -> Image:
    """Cuts an upright square out of an image: bilinear, antialiased, black outside the image.

    A bilinear sample sees two pixels a side, so what is shrunk by 2 or more would alias. Then the
    part of the image that is needed is first shrunk by the whole part f of that factor, each
    pixel the mean of f x f, and the transform continues from there: pixel u of the shrunk part
    has its center at `x0 + f u + (f - 1) / 2` of the image, for a part that starts at x0.
    OpenCV takes samples at whole 1/32 of a pixel, so they are off by at most 1/64.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        matrix: `(2, 3)` similarity from the image to the square; whole numbers are the centers of
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
            f"image must be uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}"
        )
    if matrix.shape != (2, 3):
        raise ValueError(f"matrix must have shape (2, 3), got {matrix.shape}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    scale = transform_scale(matrix)
    if not (np.isfinite(matrix).all() and scale > 0):
        raise ValueError("matrix must be finite and have an inverse")
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
