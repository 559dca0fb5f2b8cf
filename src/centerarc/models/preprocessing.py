"""What becomes of an image before a model sees it, as numbers and as an array."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

Channels = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]
# The largest side anybody embeds; a slip, or a hostile file, does not ask for all memory.
_MAX_SIZE = 4096


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 RGB images become the input of a model: `(x - mean) / std` of each channel.

    Args:
        image_size: Side of the square input in pixels.
        mean: Taken from each pixel value in [0, 255]; three numbers in the order of `channels`,
            or one for all.
        std: What the difference is divided by; as `mean`, not 0.
        channels: Order of the channels, "rgb" or "bgr" (as OpenCV reads images).
        layout: "nchw" for `(N, 3, H, W)`, "nhwc" for `(N, H, W, 3)`.

    Raises:
        ValueError: If a value is not that.

    Example:
        >>> Preprocessing(2)(np.full((1, 2, 2, 3), 255, np.uint8)).shape
        (1, 3, 2, 2)
    """

    image_size: int
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    channels: Channels = "rgb"
    layout: Layout = "nchw"

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MAX_SIZE:
            raise ValueError(f"image_size is {size!r}; it must be from 1 to {_MAX_SIZE} pixels")
        object.__setattr__(self, "mean", three_numbers("mean", self.mean))
        object.__setattr__(self, "std", three_numbers("std", self.std))
        if 0.0 in self.std:
            raise ValueError(f"std is {self.std}; it must not be 0, which pixels are divided by")
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f"channels is {self.channels!r}; it must be 'rgb' or 'bgr'")
        if self.layout not in ("nchw", "nhwc"):
            raise ValueError(f"layout is {self.layout!r}; it must be 'nchw' or 'nhwc'")

    def __call__(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False, dtype: Any = np.float32
    ) -> npt.NDArray[Any]:
        """Makes the input of a model.

        Args:
            images: `(N, S, S, 3)` uint8 RGB.
            mirror: Mirror each image, left to right.
            dtype: Of the result; for uint8 neither mean nor std is applied.

        Returns:
            `(N, 3, S, S)` or `(N, S, S, 3)`, contiguous.
        """
        pixels = images[..., ::-1] if self.channels == "bgr" else images
        if mirror:
            pixels = pixels[:, :, ::-1]
        if self.layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        if dtype == np.uint8:
            return np.ascontiguousarray(pixels)
        floats = pixels.astype(np.float32, order="C")
        shape = (3, 1, 1) if self.layout == "nchw" else (3,)
        floats -= np.array(self.mean, np.float32).reshape(shape)
        # Divided, not multiplied by the inverse: the same rounding as in training.
        floats /= np.array(self.std, np.float32).reshape(shape)
        return floats if dtype == np.float32 else floats.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dictionary, ready for JSON."""
        return {
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "channels": self.channels,
            "layout": self.layout,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Takes what `to_dict` gave, which may have come from anybody.

        Raises:
            ValueError: If something is missing or out of range.
        """
        names = ("image_size", "mean", "std", "channels", "layout")
        if missing := [name for name in names if name not in content]:
            raise ValueError(f"{missing[0]} is missing")
        return cls(**{name: content[name] for name in names})

    def __str__(self) -> str:
        return (
            f"{self.image_size} x {self.image_size} {self.channels.upper()}, "
            f"(x - {_short(self.mean)}) / {_short(self.std)}"
        )


def three_numbers(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    """Returns one number a channel from one number or three.

    Args:
        name: What it is, for the error.
        value: One finite number, or three.

    Raises:
        ValueError: If it is something else.
    """
    values = [value] if isinstance(value, int | float) else value
    good = isinstance(values, list | tuple) and len(values) in (1, 3)
    if not good or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        raise ValueError(f"{name} is {value!r:.60}; it must be one finite number or three")
    first, *rest = (float(v) for v in values)
    second, third = rest or (first, first)
    return first, second, third


def _short(values: tuple[float, float, float]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    return f"({', '.join(f'{value:g}' for value in values)})"
