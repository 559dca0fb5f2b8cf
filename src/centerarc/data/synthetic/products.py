"""Matrix products that stay on one thread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# OpenBLAS shares a product of more multiplications (4 x 65536) out among threads. For pictures
# that gains nothing, and beside busy cores the threads wait for each other many times longer
# than the work takes.
_MULTIPLICATIONS = 250_000


def product(left: Floats, right: Floats) -> Floats:
    """Return the product of (M, K) and (K, N), some rows at a time."""
    rows = max(_MULTIPLICATIONS // right.size, 1)
    result: Floats = np.empty((left.shape[0], right.shape[1]), dtype=np.float32)
    for start in range(0, left.shape[0], rows):
        np.matmul(left[start : start + rows], right, out=result[start : start + rows])
    return result


def transform(down: Floats, planes: Floats, across: Floats) -> Floats:
    """Return down @ plane @ across.T for every plane (N, N) of (C, N, N)."""
    count, side, _ = planes.shape
    half = product(planes.reshape(count * side, side), across.T).reshape(planes.shape)
    return np.stack([product(down, plane) for plane in half])
