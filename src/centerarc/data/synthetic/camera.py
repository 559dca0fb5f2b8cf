"""From light to pixels: optics, sensor, tone curve and compression."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.conditions import Conditions
from centerarc.data.synthetic.noise import sensor_noise
from centerarc.data.synthetic.products import product, transform
from centerarc.data.synthetic.shapes import bell

Floats = NDArray[np.float32]
_LUMA = np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
# The luminance table of JPEG's Annex K is about this plane: coarse steps for fine detail.
_STEP_BASE, _STEP_SLOPE = 10.0, 7.0


def _blur_matrix(size: int, sigma: float, resolution: float) -> Floats:
    """Return the (size, size) matrix of a blur, through a smaller image when resolution < 1."""
    places = np.arange(size, dtype=np.float32)
    matrix = bell(places[:, None] - places[None, :], 0.5 / (sigma * sigma))
    matrix /= matrix.sum(axis=1, keepdims=True)
    if resolution < 1.0:
        small = max(int(size * resolution), 4)
        centres = (np.arange(small, dtype=np.float32) + 0.5) * np.float32(size / small) - 0.5
        tent = np.maximum(
            1.0 - np.abs(places[:, None] - centres[None, :]) * np.float32(small / size), 0.0
        )
        tent /= np.maximum(tent.sum(axis=1, keepdims=True), 1e-6)
        down = tent.T / tent.sum(axis=0)[:, None]
        matrix = product(tent.astype(np.float32), product(down.astype(np.float32), matrix))
    return matrix


@lru_cache(maxsize=8)
def _cosines(size: int) -> tuple[Floats, Floats]:
    """Return the blockwise cosine transform (size, size), 8 pixels a block, and frequencies."""
    matrix = np.zeros((size, size), dtype=np.float64)
    frequency = np.zeros(size, dtype=np.float64)
    for start in range(0, size, 8):
        length = min(8, size - start)
        k, i = np.arange(length)[:, None], np.arange(length)[None, :]
        block = np.sqrt(2.0 / length) * np.cos(np.pi * (i + 0.5) * k / length)
        block[0] /= np.sqrt(2.0)
        matrix[start : start + length, start : start + length] = block
        frequency[start : start + length] = np.arange(length)
    steps = _STEP_BASE + _STEP_SLOPE * (frequency[:, None] + frequency[None, :])
    return matrix.astype(np.float32), steps.astype(np.float32)


def _compress(image: Floats, strength: float) -> Floats:
    """Round the blockwise cosine coefficients of (3, H, W) as a JPEG file would."""
    matrix, steps = _cosines(image.shape[-1])
    step = steps * np.float32(strength / 255.0)
    luma = np.tensordot(_LUMA, image, axes=1)
    planes = np.stack([luma, image[0] - luma, image[2] - luma])
    coefficients = transform(matrix, planes, matrix)
    # Colour is rounded more coarsely than brightness.
    table = np.stack([step, 2.0 * step, 2.0 * step])
    coefficients = np.rint(coefficients / table) * table
    luma, red, blue = transform(matrix.T, coefficients, matrix.T)
    green = luma - (_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1]
    return np.stack([luma + red, green, luma + blue])


def develop(light: Floats, conditions: Conditions) -> NDArray[np.uint8]:
    """Turn linear light (3, size, size) into a uint8 image (size, size, 3)."""
    c, size = conditions, light.shape[-1]
    unit = size / 112.0
    down = _blur_matrix(size, max(c.blur, 0.3) * unit, c.resolution)
    across = _blur_matrix(size, (max(c.blur, 0.3) + c.motion) * unit, c.resolution)
    blurred = transform(down, light, across)
    image: Floats = np.sqrt(np.maximum(blurred * np.float32(c.exposure), np.float32(0.0)))
    # A soft shoulder keeps bright skin from clipping flat.
    image *= np.float32(1.28) / (image * np.float32(0.42) + np.float32(0.86))
    image = (image - np.float32(0.45)) * np.float32(c.contrast) + np.float32(0.45)
    if c.saturation != 1.0:
        grey = np.tensordot(_LUMA, image, axes=1)
        image = grey + (image - grey) * np.float32(c.saturation)
    pool = sensor_noise()
    count = image.size
    start = c.noise_offset % max(pool.size - count, 1)
    # A picture larger than the table repeats it.
    grain = pool[start : start + count] if count < pool.size else np.resize(pool, count)
    image = image + grain.reshape(image.shape) * np.float32(c.noise)
    if c.quality < 0.4:
        image = _compress(image, 0.15 + 1.5 * (0.4 - c.quality) / 0.4)
    clipped = np.clip(image * np.float32(255.0) + np.float32(0.5), 0.0, 255.0)
    return np.ascontiguousarray(clipped.astype(np.uint8).transpose(1, 2, 0))
