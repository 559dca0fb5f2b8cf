"""What cameras and the world take away: resolution, and a part of the face."""

import cv2
import numpy as np
import numpy.typing as npt

from centerarc.data.source import Image


def lower_resolution(image: Image, scale: float) -> None:
    """Shrinks an image, averaging what becomes one pixel, and enlarges it again, in place.

    Args:
        image: `(H, W, 3)` uint8.
        scale: Of the shrunk side, in (0, 1].
    """
    height, width = image.shape[:2]
    small = (max(round(width * scale), 1), max(round(height * scale), 1))
    # A mean over about what a small pixel covers, then picking from it: close to an exact average
    # over areas and several times as fast. Odd sides, so that nothing shifts.
    covered = 2 * round((1 / scale - 1) / 2) + 1
    blurred = cv2.blur(image, (covered, covered)) if covered > 1 else image
    shrunk = cv2.resize(blurred, small, interpolation=cv2.INTER_LINEAR)
    cv2.resize(shrunk, (width, height), dst=image, interpolation=cv2.INTER_LINEAR)


def occlude(image: Image, largest: float, draws: npt.NDArray[np.float64]) -> None:
    """Covers a rectangle or an ellipse with one colour, in place.

    Args:
        image: `(H, W, 3)` uint8.
        largest: Of its sides, as a fraction of the image's; the smallest is a quarter of it.
        draws: `(8,)` in [0, 1): sides, place, colour, form.
    """
    height, width = image.shape[:2]
    tall_draw, wide_draw, top_draw, left_draw, red, green, blue, form = draws.tolist()
    tall = max(round((0.25 + 0.75 * tall_draw) * largest * height), 1)
    wide = max(round((0.25 + 0.75 * wide_draw) * largest * width), 1)
    top, left = int(top_draw * (height - tall + 1)), int(left_draw * (width - wide + 1))
    colour = (int(red * 256), int(green * 256), int(blue * 256))
    if form < 0.5:
        image[top : top + tall, left : left + wide] = colour
        return
    # In sixteenths of a pixel, so that sides of any length are met.
    centre = (round(16 * (left + (wide - 1) / 2)), round(16 * (top + (tall - 1) / 2)))
    axes = (round(8 * (wide - 1)), round(8 * (tall - 1)))
    cv2.ellipse(image, centre, axes, 0, 0, 360, colour, cv2.FILLED, shift=4)
