"""Random changes of training images, on batches of bytes."""

from functools import lru_cache
from typing import Annotated, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from centerarc.data.decode import Image

Floats = npt.NDArray[np.float64]

# A Philox counter gives four numbers of 64 bits.
_A_COUNTER = 4
# Rec. 601: how much red, green and blue count for the gray that the eye sees.
_RED, _GREEN, _BLUE = LUMA = (0.299, 0.587, 0.114)
# What moves into the picture from outside: the value that the model sees as 0.
_OUTSIDE = (127, 127, 127)
_FROM_RESULT = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
# The columns of an image's numbers: six decide what happens, the others how.
_FLIP, _MOVE, _LIGHT, _GRAY, _LOW, _COVER = range(6)
_MOVING, _LIGHTING, _LOWERING, _COVERING = slice(6, 10), slice(10, 13), 13, slice(14, 22)
DRAWS = 24

Probability = Annotated[float, Field(ge=0, le=1)]


class AugmentationConfig(BaseModel):
    """How often and how strongly training images are changed.

    The defaults suit small face sets: mirror half of the images, move a little, vary the light,
    and now and then take away color, resolution or a part of the face.

    Args:
        flip: Probability of mirroring left and right.
        move: Probability of rotating, shifting and zooming, in one resampling.
        rotation: Largest rotation either way in degrees, up to 180.
        shift: Largest shift either way and axis, as a fraction of the side, up to 0.5.
        zoom: Largest zoom z: the scale is drawn from [1 / (1 + z), 1 + z], evenly in its log.
        light: Probability of changing brightness, contrast and saturation.
        brightness: Largest change b: values are multiplied by one of [1 - b, 1 + b].
        contrast: Largest change c: distances from the mean are multiplied by [1 - c, 1 + c].
        saturation: Largest change s: distances from gray are multiplied by [1 - s, 1 + s].
        grey: Probability of taking away all color.
        low_resolution: Probability of shrinking the image and enlarging it again.
        low_resolution_scale: Smallest scale of the shrunk side, in [0.01, 1].
        occlusion: Probability of covering a part with one color.
        occlusion_size: Largest sides of that part, a rectangle or ellipse, as a fraction.

    Raises:
        pydantic.ValidationError: If a value is out of range or a name unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    flip: Probability = Field(default=0.5, description="chance of a mirror image")
    move: Probability = Field(default=0.5, description="chance to turn, shift and zoom")
    rotation: float = Field(default=8.0, ge=0, le=180, description="degrees to either side")
    shift: float = Field(default=0.05, ge=0, le=0.5, description="share of the side")
    zoom: float = Field(default=0.1, ge=0, le=1, description="factor less 1, either way")
    light: Probability = Field(default=0.5, description="chance to change the light")
    brightness: float = Field(default=0.25, ge=0, le=1, description="change, either way")
    contrast: float = Field(default=0.25, ge=0, le=1, description="change, either way")
    saturation: float = Field(default=0.3, ge=0, le=1, description="change, either way")
    grey: Probability = Field(default=0.05, description="chance to drop the color")
    low_resolution: Probability = Field(default=0.1, description="chance to lose detail")
    low_resolution_scale: float = Field(
        default=0.3, ge=0.01, le=1, description="smallest share of the side kept"
    )
    occlusion: Probability = Field(default=0.1, description="chance to cover a part")
    occlusion_size: float = Field(
        default=0.4, gt=0, le=1, description="largest share of the side covered"
    )

    @classmethod
    def none(cls) -> Self:
        """Returns the configuration that changes nothing."""
        return cls(flip=0, move=0, light=0, grey=0, low_resolution=0, occlusion=0)


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
    ) -> "Changes":
        """Draws the changes of `count` consecutive images of an epoch; see `__call__`."""
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
            changes.apply(row, image, image)


class Changes:
    """The changes of consecutive images of an epoch, worked out for all of them at once.

    Args:
        draws: `(N, DRAWS)`, evenly drawn from [0, 1).
        config: How often and how strongly.
        height: Of the images in pixels.
        width: Of the images in pixels.

    Attributes:
        rewrites: Whether an image's pixels are all computed anew; of others at most a part is.
    """

    def __init__(self, draws: Floats, config: AugmentationConfig, height: int, width: int) -> None:
        flip = draws[:, _FLIP] < config.flip
        move = draws[:, _MOVE] < config.move
        light = draws[:, _LIGHT] < config.light
        gray = draws[:, _GRAY] < config.grey
        smallest = config.low_resolution_scale
        self._config = config
        self._size = (width, height)
        # Lists, because asking an array for one number takes as long as a small operation.
        self._flip = flip.tolist()
        self._move = move.tolist()
        self._recolor = (light | gray).tolist()
        low = draws[:, _LOW] < config.low_resolution
        self._low = low.tolist()
        self._cover = (draws[:, _COVER] < config.occlusion).tolist()
        if move.any():
            self._movements = movements(draws[:, _MOVING], flip, config, height, width)
        if light.any() or gray.any():
            self._colors = color_maps(draws[:, _LIGHTING], light, gray, config)
        self._scales = (smallest + draws[:, _LOWERING] * (1 - smallest)).tolist()
        self._covering = draws[:, _COVERING]
        self.rewrites: list[bool] = (flip | move | light | gray | low).tolist()

    def apply(self, row: int, image: Image, out: Image) -> None:
        """Puts image number `row`, changed, into `out`: both `(H, W, 3)` uint8 RGB, contiguous.

        They may be the same array. Where `rewrites[row]`, two arrays take less time.
        """
        seen = image
        if self._move[row]:
            # A mirror image is part of the map: one resampling does both.
            map_, border = self._movements[row], cv2.BORDER_CONSTANT
            cv2.warpAffine(seen, map_, self._size, out, _FROM_RESULT, border, _OUTSIDE)
            seen = out
        elif self._flip[row]:
            cv2.flip(seen, 1, out)
            seen = out
        if self._recolor[row]:
            recolor(seen, self._colors[row], out)
            seen = out
        if self._low[row]:
            lower_resolution(seen, self._scales[row], out)
            seen = out
        if seen is not out:
            np.copyto(out, seen)
        if self._cover[row]:
            occlude(out, self._config.occlusion_size, self._covering[row])


def uniform_draws(key: tuple[int, ...], first: int, count: int, width: int) -> Floats:
    """Draws `width` numbers for each of `count` positions from `first` on.

    A counter-based generator (Philox; Salmon et al. 2011) gives the numbers of any position
    without those before it, so a batch may be cut into any parts: row p is the same in each.

    Args:
        key: Names the stream, such as (seed, epoch); each number at least 0.
        first: Number of the first position, at least 0.
        count: How many positions.
        width: How many numbers a position, a multiple of 4.

    Returns:
        `(count, width)` float64, evenly in [0, 1).

    Example:
        >>> whole = uniform_draws((7, 0), 0, 5, 8)
        >>> bool((uniform_draws((7, 0), 3, 2, 8) == whole[3:]).all())
        True
    """
    assert width % _A_COUNTER == 0, width
    bits = np.random.Philox(key=_words(key), counter=first * width // _A_COUNTER)
    return np.random.Generator(bits).random((count, width))


@lru_cache(maxsize=8)
def _words(key: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.random.SeedSequence(key).generate_state(2, np.uint64).astype(np.uint64)


def movements(
    draws: Floats,
    flip: npt.NDArray[np.bool_],
    config: AugmentationConfig,
    height: int,
    width: int,
) -> Floats:
    """Makes the affine maps of rotation, shift, zoom and mirroring.

    Args:
        draws: `(N, 4)` in [0, 1): angle, zoom, shift along x and along y.
        flip: `(N,)`, which images are mirrored.
        config: How far.
        height: Of the images in pixels.
        width: Of the images in pixels.

    Returns:
        `(N, 2, 3)`, from (x, y, 1) in the result to (x, y) in the image, at pixel centers.
    """
    angle = np.deg2rad((2 * draws[:, 0] - 1) * config.rotation)
    scale = (1 + config.zoom) ** (2 * draws[:, 1] - 1)
    shift = (2 * draws[:, 2:4] - 1) * config.shift * (width, height)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    # About the center, which between pixel centers is at (width - 1) / 2.
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    x, y = center_x + shift[:, 0], center_y + shift[:, 1]
    maps = np.empty((len(draws), 2, 3))
    maps[:, 0, 0], maps[:, 0, 1] = cosine, sine
    maps[:, 1, 0], maps[:, 1, 1] = -sine, cosine
    maps[:, 0, 2] = center_x - cosine * x - sine * y
    maps[:, 1, 2] = center_y + sine * x - cosine * y
    # Mirrored, x of the result is width - 1 - x.
    maps[flip, :, 2] += (width - 1) * maps[flip, :, 0]
    maps[flip, :, 0] *= -1
    return maps


def color_maps(
    draws: Floats,
    light: npt.NDArray[np.bool_],
    gray: npt.NDArray[np.bool_],
    config: AugmentationConfig,
) -> Floats:
    """Makes the linear maps of brightness, contrast, saturation and gray.

    Brightness b multiplies all values; contrast c multiplies distances from the mean luma m;
    saturation s multiplies distances from each pixel's own gray l . x. In one map:

        x -> b c (s x + (1 - s) l . x) + b (1 - c) m

    Args:
        draws: `(N, 3)` in [0, 1): brightness, contrast, saturation.
        light: `(N,)`, whose light is changed.
        gray: `(N,)`, which lose all color.
        config: How far.

    Returns:
        `(N, 3, 4)`: three columns for x and one for m; the identity where nothing is asked for.
    """
    factors = 1 + (2 * draws - 1) * (config.brightness, config.contrast, config.saturation)
    factors[~light] = 1
    brightness, contrast, saturation = factors.T
    kept = np.where(gray, 0.0, saturation)[:, None, None]
    maps = np.empty((len(draws), 3, 4))
    mix = kept * np.eye(3) + (1 - kept) * np.array(LUMA)
    maps[:, :, :3] = (brightness * contrast)[:, None, None] * mix
    maps[:, :, 3] = (brightness * (1 - contrast))[:, None]
    return maps


def recolor(image: Image, color_map: Floats, out: Image) -> None:
    """Maps the colors of an `(H, W, 3)` uint8 image by one of `color_maps`."""
    if color_map[0, 3] != 0:
        # Of every fourth row, which is as good and which OpenCV takes without a copy.
        rows = image[::4]
        red, green, blue, _ = cv2.sumElems(rows)
        mean = (_RED * red + _GREEN * green + _BLUE * blue) / (len(rows) * image.shape[1])
        color_map = color_map.copy()
        color_map[:, 3] *= mean
    cv2.transform(image, color_map, dst=out)


def lower_resolution(image: Image, scale: float, out: Image) -> None:
    """Shrinks an image by `scale`, in (0, 1], and enlarges it again."""
    height, width = image.shape[:2]
    small = (max(round(width * scale), 1), max(round(height * scale), 1))
    # A mean over about what a small pixel covers, then picking from it: close to an exact average
    # over areas and several times as fast. Odd sides, so that nothing shifts.
    covered = 2 * round((1 / scale - 1) / 2) + 1
    blurred = cv2.blur(image, (covered, covered)) if covered > 1 else image
    shrunk = cv2.resize(blurred, small, interpolation=cv2.INTER_LINEAR)
    cv2.resize(shrunk, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)


def occlude(image: Image, largest: float, draws: Floats) -> None:
    """Covers a rectangle or an ellipse with one color, in place.

    Args:
        image: `(H, W, 3)` uint8.
        largest: Of its sides, as a fraction of the image's; the smallest is a quarter of it.
        draws: `(8,)` in [0, 1): sides, place, color, form.
    """
    height, width = image.shape[:2]
    tall_draw, wide_draw, top_draw, left_draw, red, green, blue, form = draws.tolist()
    tall = max(round((0.25 + 0.75 * tall_draw) * largest * height), 1)
    wide = max(round((0.25 + 0.75 * wide_draw) * largest * width), 1)
    top, left = int(top_draw * (height - tall + 1)), int(left_draw * (width - wide + 1))
    color = (int(red * 256), int(green * 256), int(blue * 256))
    if form < 0.5:
        image[top : top + tall, left : left + wide] = color
        return
    # In sixteenths of a pixel, so that sides of any length are met.
    center = (round(16 * (left + (wide - 1) / 2)), round(16 * (top + (tall - 1) / 2)))
    axes = (round(8 * (wide - 1)), round(8 * (tall - 1)))
    cv2.ellipse(image, center, axes, 0, 0, 360, color, cv2.FILLED, shift=4)
