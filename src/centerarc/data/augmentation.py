"""Random changes of training images."""

from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import PIL.Image
from pydantic import BaseModel, ConfigDict, Field

from centerarc.data.source import Image

Probability = Annotated[float, Field(ge=0, le=1)]
# Rec. 601 luma in 1/256, the weights of Pillow's grey.
_LUMA = np.array([77, 150, 29], dtype=np.uint16)
# What moves into the picture from outside: the value that the model sees as 0.
_OUTSIDE = (127, 127, 127)


class AugmentationConfig(BaseModel):
    """How often and how strongly training images are changed.

    The defaults suit small face sets: mirror half of the images, move a little, vary the light,
    and now and then take away colour, resolution or a part of the face.

    Args:
        flip: Probability of mirroring left and right.
        move: Probability of rotating, shifting and zooming, in one resampling.
        rotation: Largest rotation either way in degrees, up to 180.
        shift: Largest shift either way and axis, as a fraction of the side, up to 0.5.
        zoom: Largest zoom z: the scale is drawn from [1 / (1 + z), 1 + z], evenly in its log.
        light: Probability of changing brightness, contrast and saturation.
        brightness: Largest change b: values are multiplied by one of [1 - b, 1 + b].
        contrast: Largest change c: distances from the mean are multiplied by [1 - c, 1 + c].
        saturation: Largest change s: distances from grey are multiplied by [1 - s, 1 + s].
        grey: Probability of taking away all colour.
        low_resolution: Probability of shrinking the image and enlarging it again.
        low_resolution_scale: Smallest scale of the shrunk side, in (0, 1].
        occlusion: Probability of covering a part with one colour.
        occlusion_size: Largest sides of that part, a rectangle or ellipse, as a fraction.

    Raises:
        pydantic.ValidationError: If a value is out of range or a name unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: Probability = Field(default=0.5, description="chance of a mirror image")
    move: Probability = Field(default=0.5, description="chance to turn, shift and zoom")
    rotation: float = Field(default=8.0, ge=0, le=180, description="degrees to either side")
    shift: float = Field(default=0.05, ge=0, le=0.5, description="share of the side")
    zoom: float = Field(default=0.1, ge=0, le=1, description="factor less 1, either way")
    light: Probability = Field(default=0.5, description="chance to change the light")
    brightness: float = Field(default=0.25, ge=0, le=1, description="change, either way")
    contrast: float = Field(default=0.25, ge=0, le=1, description="change, either way")
    saturation: float = Field(default=0.3, ge=0, le=1, description="change, either way")
    grey: Probability = Field(default=0.05, description="chance to drop the colour")
    low_resolution: Probability = Field(default=0.1, description="chance to lose detail")
    low_resolution_scale: float = Field(
        default=0.3, gt=0, le=1, description="smallest share of the side kept"
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
    """Applies random changes to one image at a time.

    Args:
        config: How often and how strongly.

    Example:
        >>> image = np.zeros((112, 112, 3), dtype=np.uint8)
        >>> augment = Augmentation(AugmentationConfig())
        >>> augment(image, np.random.default_rng(0)).shape
        (112, 112, 3)
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config

    def __call__(self, image: Image, rng: np.random.Generator) -> Image:
        """Changes an image.

        Args:
            image: `(H, W, 3)` uint8 RGB; stays as it is.
            rng: Decides everything: the same state gives the same result.

        Returns:
            `(H, W, 3)` uint8 RGB.
        """
        config = self.config
        flip, move, light, grey, low_resolution, occlusion = rng.random(6)
        if flip < config.flip:
            image = image[:, ::-1]
        if move < config.move:
            image = _move(image, config, rng)
        if light < config.light:
            image = _relight(image, config, rng)
        if grey < config.grey:
            image = np.repeat(_luma(image), 3, axis=2)
        if low_resolution < config.low_resolution:
            image = _lower_resolution(image, rng.uniform(config.low_resolution_scale, 1))
        if occlusion < config.occlusion:
            image = _occlude(image, config.occlusion_size, rng)
        return np.ascontiguousarray(image)


def _move(image: Image, config: AugmentationConfig, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    angle = np.deg2rad(rng.uniform(-1, 1) * config.rotation)
    scale = (1 + config.zoom) ** rng.uniform(-1, 1)
    shift_x, shift_y = rng.uniform(-1, 1, size=2) * config.shift * (width, height)
    # Pillow asks where each pixel of the result comes from, so this is the inverse, about
    # the centre of the image.
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    x, y = width / 2 + shift_x, height / 2 + shift_y
    inverse = (
        cosine,
        sine,
        width / 2 - cosine * x - sine * y,
        -sine,
        cosine,
        height / 2 + sine * x - cosine * y,
    )
    moved = PIL.Image.fromarray(image).transform(
        (width, height),
        PIL.Image.Transform.AFFINE,
        inverse,
        PIL.Image.Resampling.BILINEAR,
        fillcolor=_OUTSIDE,
    )
    return np.asarray(moved)


def _relight(image: Image, config: AugmentationConfig, rng: np.random.Generator) -> Image:
    strengths = (config.brightness, config.contrast, config.saturation)
    brightness, contrast, saturation = 1 + rng.uniform(-1, 1, size=3) * strengths
    luma = _luma(image)
    # Brightness and contrast act on each value alone, so they are one table of 256 values.
    values = np.arange(256) * brightness
    mean = luma.mean() * brightness
    table = np.clip(mean + (values - mean) * contrast, 0, 255).astype(np.float32)
    lit = table[image]
    grey = table[luma]
    lit -= grey
    lit *= np.float32(saturation)
    lit += grey
    result: Image = np.clip(lit, 0, 255, out=lit).astype(np.uint8)
    return result


def _luma(image: Image) -> npt.NDArray[np.uint8]:
    weighted = image @ _LUMA  # the weights sum to 256: 255 * 256 still fits 16 bits
    grey: npt.NDArray[np.uint8] = (weighted >> 8).astype(np.uint8)
    return grey[:, :, None]


def _lower_resolution(image: Image, scale: float) -> Image:
    height, width = image.shape[:2]
    small = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    shrunk = picture.resize(small, PIL.Image.Resampling.BILINEAR)
    return np.asarray(shrunk.resize((width, height), PIL.Image.Resampling.BILINEAR))


def _occlude(image: Image, largest: float, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    sides = rng.uniform(0.25, 1, size=2) * largest * (height, width)
    tall, wide = np.maximum(np.rint(sides).astype(int), 1)
    top, left = rng.integers(0, (height - tall + 1, width - wide + 1))
    colour = rng.integers(0, 256, size=3, dtype=np.uint8)
    covered = image.copy()
    part = covered[top : top + tall, left : left + wide]
    if rng.random() < 0.5:
        part[:] = colour
    else:
        y = (np.arange(tall) + 0.5) / tall * 2 - 1
        x = (np.arange(wide) + 0.5) / wide * 2 - 1
        part[y[:, None] ** 2 + x**2 <= 1] = colour
    return covered
