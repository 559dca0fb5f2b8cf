"""Rotation, shift, zoom and mirroring as one affine map an image."""

import numpy as np
import numpy.typing as npt

from centerarc.data.augmentation.config import AugmentationConfig

Floats = npt.NDArray[np.float64]


def movements(
    draws: Floats,
    flip: npt.NDArray[np.bool_],
    config: AugmentationConfig,
    height: int,
    width: int,
) -> Floats:
    """Makes the maps that tell where each pixel of a moved image comes from.

    Args:
        draws: `(N, 4)` in [0, 1): angle, zoom, shift along x and along y.
        flip: `(N,)`, whether to mirror left and right, after the movement.
        config: How far.
        height: Of the images in pixels.
        width: Of the images in pixels.

    Returns:
        `(N, 2, 3)`, from (x, y, 1) in the result to (x, y) in the image, at pixel centres.
    """
    angle = np.deg2rad((2 * draws[:, 0] - 1) * config.rotation)
    scale = (1 + config.zoom) ** (2 * draws[:, 1] - 1)
    shift = (2 * draws[:, 2:4] - 1) * config.shift * (width, height)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    # About the centre, which between pixel centres lies at (width - 1) / 2.
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x, y = centre_x + shift[:, 0], centre_y + shift[:, 1]
    maps = np.empty((len(draws), 2, 3))
    maps[:, 0, 0], maps[:, 0, 1] = cosine, sine
    maps[:, 1, 0], maps[:, 1, 1] = -sine, cosine
    maps[:, 0, 2] = centre_x - cosine * x - sine * y
    maps[:, 1, 2] = centre_y + sine * x - cosine * y
    # Mirrored, x of the result is width - 1 - x.
    maps[flip, :, 2] += (width - 1) * maps[flip, :, 0]
    maps[flip, :, 0] *= -1
    return maps
