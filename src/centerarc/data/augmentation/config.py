"""How often and how strongly training images are changed."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]


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
        low_resolution_scale: Smallest scale of the shrunk side, in [0.01, 1].
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
