"""What is drawn for a batch of images, and done to one after the other."""

import cv2
import numpy as np
import numpy.typing as npt

from centerarc.data.augmentation.colour import colour_maps, recolour
from centerarc.data.augmentation.config import AugmentationConfig
from centerarc.data.augmentation.damage import lower_resolution, occlude
from centerarc.data.augmentation.movement import movements
from centerarc.data.draws import uniform_draws
from centerarc.data.source import Image

Floats = npt.NDArray[np.float64]

# What moves into the picture from outside: the value that the model sees as 0.
_OUTSIDE = (127, 127, 127)
_FROM_RESULT = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
# The columns of an image's numbers: six decide what happens, the others how.
_FLIP, _MOVE, _LIGHT, _GREY, _LOW, _COVER = range(6)
_MOVING, _LIGHTING, _LOWERING, _COVERING = slice(6, 10), slice(10, 13), 13, slice(14, 22)
DRAWS = 24


class Changes:
    """The changes of consecutive images of an epoch, worked out for all of them at once.

    Args:
        draws: `(N, DRAWS)`, evenly drawn from [0, 1).
        config: How often and how strongly.
        height: Of the images in pixels.
        width: Of the images in pixels.
    """

    def __init__(self, draws: Floats, config: AugmentationConfig, height: int, width: int) -> None:
        flip = draws[:, _FLIP] < config.flip
        move = draws[:, _MOVE] < config.move
        light = draws[:, _LIGHT] < config.light
        grey = draws[:, _GREY] < config.grey
        smallest = config.low_resolution_scale
        self._config = config
        self._size = (width, height)
        # Lists, because asking an array for one number takes as long as a small operation.
        self._flip = flip.tolist()
        self._move = move.tolist()
        self._recolour = (light | grey).tolist()
        self._low = (draws[:, _LOW] < config.low_resolution).tolist()
        self._cover = (draws[:, _COVER] < config.occlusion).tolist()
        if move.any():
            self._movements = movements(draws[:, _MOVING], flip, config, height, width)
        if light.any() or grey.any():
            self._colours = colour_maps(draws[:, _LIGHTING], light, grey, config)
        self._scales = (smallest + draws[:, _LOWERING] * (1 - smallest)).tolist()
        self._covering = draws[:, _COVERING]

    def apply(self, row: int, image: Image) -> None:
        """Changes an image in place.

        Args:
            row: Its number among the images drawn for.
            image: `(H, W, 3)` uint8 RGB, contiguous.
        """
        if self._move[row]:
            # A mirror image is part of the map: one resampling does both.
            cv2.warpAffine(
                image,
                self._movements[row],
                self._size,
                image,
                _FROM_RESULT,
                cv2.BORDER_CONSTANT,
                _OUTSIDE,
            )
        elif self._flip[row]:
            cv2.flip(image, 1, image)
        if self._recolour[row]:
            recolour(image, self._colours[row])
        if self._low[row]:
            lower_resolution(image, self._scales[row])
        if self._cover[row]:
            occlude(image, self._config.occlusion_size, self._covering[row])


class Augmentation:
    """Random changes of training images.

    An image's changes follow from the key and its position in the epoch alone: how batches are
    cut, and which process reads them, changes nothing. All work is on bytes, by OpenCV.

    Args:
        config: How often and how strongly.

    Example:
        >>> images = np.zeros((2, 112, 112, 3), dtype=np.uint8)
        >>> Augmentation(AugmentationConfig())(images, key=(0, 0))
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    def plan(
        self, key: tuple[int, ...], first_position: int, count: int, height: int, width: int
    ) -> Changes:
        """Draws the changes of consecutive images.

        Args:
            key: Names the stream of random numbers, such as (seed, epoch).
            first_position: Position of the first image in the epoch.
            count: How many images.
            height: Of the images in pixels.
            width: Of the images in pixels.

        Returns:
            What to do to each of them.
        """
        draws = uniform_draws(key, first_position, count, DRAWS)
        return Changes(draws, self.config, height, width)

    def __call__(
        self, images: npt.NDArray[np.uint8], *, key: tuple[int, ...], first_position: int = 0
    ) -> None:
        """Changes a batch in place.

        Args:
            images: `(N, H, W, 3)` uint8 RGB, contiguous; consecutive positions of an epoch.
            key: Names the stream of random numbers, such as (seed, epoch).
            first_position: Position of the first image in the epoch.
        """
        changes = self.plan(key, first_position, *images.shape[:3])
        for row, image in enumerate(images):
            changes.apply(row, image)
