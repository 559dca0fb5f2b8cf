"""The brushes: soft edges, soft bells, and blending."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def coverage(distance: NDArray[np.floating], sharpness: float) -> Floats:
    """Return how much of a pixel lies inside an outline `distance` away (positive inside)."""
    inside: Floats = np.clip(distance * np.float32(sharpness) + np.float32(0.5), 0.0, 1.0)
    return inside


def bell(distance: NDArray[np.floating], sharpness: float) -> Floats:
    """Return exp(-sharpness distance^2), cut off before it becomes a slow denormal number."""
    exponent = np.square(distance) * np.float32(-sharpness)
    height: Floats = np.exp(np.maximum(exponent, np.float32(-30.0)))
    return height


def paint(target: Floats, colour: Floats, mask: Floats) -> None:
    """Blend a colour (3,) or picture (3, H, W) into `target` (3, H, W) in place."""
    if colour.ndim == 1:
        colour = colour[:, None, None]
    target += (colour - target) * mask
