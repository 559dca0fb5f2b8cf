"""Brightness, contrast, saturation and grey as one linear map of colours an image."""

import cv2
import numpy as np
import numpy.typing as npt

from centerarc.data.augmentation.config import AugmentationConfig
from centerarc.data.source import Image

Floats = npt.NDArray[np.float64]

# Rec. 601: how much red, green and blue count for the grey that the eye sees.
_RED, _GREEN, _BLUE = LUMA = (0.299, 0.587, 0.114)


def colour_maps(
    draws: Floats,
    light: npt.NDArray[np.bool_],
    grey: npt.NDArray[np.bool_],
    config: AugmentationConfig,
) -> Floats:
    """Makes the maps of colours.

    Brightness b multiplies all values; contrast c multiplies distances from the mean luma m;
    saturation s multiplies distances from each pixel's own grey l . x. In one map:

        x -> b c (s x + (1 - s) l . x) + b (1 - c) m

    Args:
        draws: `(N, 3)` in [0, 1): brightness, contrast, saturation.
        light: `(N,)`, whose light is changed.
        grey: `(N,)`, who loses all colour.
        config: How far.

    Returns:
        `(N, 3, 4)`: three columns for x and one for m; the identity where nothing is asked for.
    """
    strengths = (config.brightness, config.contrast, config.saturation)
    factors = 1 + (2 * draws - 1) * strengths
    factors[~light] = 1
    brightness, contrast, saturation = factors.T
    saturation = np.where(grey, 0.0, saturation)
    maps = np.empty((len(draws), 3, 4))
    kept = saturation[:, None, None]
    mix = kept * np.eye(3) + (1 - kept) * np.array(LUMA)
    maps[:, :, :3] = (brightness * contrast)[:, None, None] * mix
    maps[:, :, 3] = (brightness * (1 - contrast))[:, None]
    return maps


def recolour(image: Image, colour_map: Floats) -> None:
    """Maps the colours of an image in place.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        colour_map: `(3, 4)`, one of `colour_maps`.
    """
    if colour_map[0, 3] != 0:
        # Of every fourth row, which is as good and which OpenCV takes without a copy.
        rows = image[::4]
        red, green, blue, _ = cv2.sumElems(rows)
        mean = (_RED * red + _GREEN * green + _BLUE * blue) / (len(rows) * image.shape[1])
        colour_map = colour_map.copy()
        colour_map[:, 3] *= mean
    cv2.transform(image, colour_map, dst=image)
