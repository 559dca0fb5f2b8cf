"""Fixed noise tables, shared by all people, that the drawing reads slices of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@lru_cache(maxsize=1)
def sensor_noise() -> Floats:
    """Return 2^20 standard normal numbers; reading a slice is far cheaper than drawing one."""
    return np.random.default_rng(0x6E).standard_normal(2**20, dtype=np.float32)


def smooth_noise(rng: np.random.Generator, length: int, knots: int) -> Floats:
    """Return a smooth random curve of `length` points, of about unit deviation."""
    heights = rng.standard_normal(knots + 3)
    place = np.linspace(0.0, knots - 1e-6, length)
    left = place.astype(np.int64)
    t = place - left
    # Cubic B-spline weights: smooth, and without overshoot. 1.45 restores the deviation.
    weights = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    curve = sum(weight * heights[left + shift] for shift, weight in enumerate(weights))
    return np.asarray(1.45 * curve, dtype=np.float32)


@lru_cache(maxsize=8)
def texture(size: int) -> Floats:
    """Return a cloudy (2 size, 2 size) noise picture that looks alike at every image size."""
    rng = np.random.default_rng(0x74)
    side = 2 * size
    total = np.zeros((side, side), dtype=np.float64)
    for knots, weight in ((14, 0.5), (40, 0.6), (110, 0.8)):
        bend = np.stack([smooth_noise(rng, side, knots) for _ in range(knots + 3)])
        place = np.linspace(0.0, knots - 1e-6, side)
        left = place.astype(np.int64)
        t = (place - left)[:, None]
        t = t * t * (3 - 2 * t)
        total += weight * ((1 - t) * bend[left] + t * bend[left + 1])
    return np.asarray(total / total.std(), dtype=np.float32)
