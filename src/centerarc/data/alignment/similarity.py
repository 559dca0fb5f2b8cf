"""Shift, turn and scale that bring points onto points, by least squares."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Of the spread of the points: what is closer to nothing than this is rounding.
_NOTHING = 1e-9


def similarity_transform(source: npt.ArrayLike, target: npt.ArrayLike) -> Floats:
    """Returns the similarity transforms that bring each row's points closest to the target's.

    Minimises `sum_k |c R source_k + t - target_k|^2` over rotations R (never a reflection), scales
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
        raise ValueError(f"source has shape {points.shape}; it must be (N, K, 2) with K >= 2")
    if wanted.shape not in (points.shape, points.shape[1:]):
        raise ValueError(
            f"target has shape {wanted.shape}; for a source of shape {points.shape} it must be "
            f"that or {points.shape[1:]}"
        )
    wanted = np.broadcast_to(wanted, points.shape)
    _refuse(~np.isfinite(points).all((1, 2)), "source holds a value that is not finite")
    _refuse(~np.isfinite(wanted).all((1, 2)), "target holds a value that is not finite")
    x, x_mean, x_spread = _centred(points, "source")
    y, y_mean, y_spread = _centred(wanted, "target")
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


def _centred(points: Floats, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Floats]:
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
