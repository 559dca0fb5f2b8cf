"""Embedders: anything that maps images to embeddings, and what becomes of an image before."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from centerarc.data.decode import decode_image
from centerarc.data.loader import to_input
from centerarc.data.source import FaceSource
from centerarc.losses.head.products import CPU_HAS_BFLOAT16
from centerarc.models.backbone import Backbone, is_watched, structure

Channels = Literal["rgb", "bgr", "gray"]
Layout = Literal["nchw", "nhwc"]
EmbedPrecision = Literal["fp32", "bf16"]
# Larger than any face model's input; keeps a slip, or a hostile file, from asking for all memory.
_MAX_SIZE = 4096
# Parts of red, green and blue in gray, as ITU-R BT.601 has them and Pillow rounds them.
_LUMA = np.array([19595, 38470, 7471], np.uint32)
# What `to_input` does: channels, mean and std.
_USUAL = ("rgb", *(127.5,) * 6)


@runtime_checkable
class Embedder(Protocol):
    """Maps images to embeddings, whatever computes them.

    Attributes:
        image_size: Side of the square images that it takes, in pixels; None takes any.
    """

    @property
    def image_size(self) -> int | None: ...

    def embed(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch.

        Args:
            images: `(N, S, S, 3)` uint8 RGB.
            mirror: Sum the features of each image and of its mirror image.

        Returns:
            `(N, D)` float32, not normalized.
        """
        ...


class TorchEmbedder:
    """A PyTorch module as an embedder.

    Args:
        model: Maps float32 `(N, 3, S, S)` to `(N, D)`. It is moved to `device` and stays there; the
            mode of each part of it is restored after each batch. On a CPU, a backbone
            of ours in float32 is computed by its `folded`, faster and equal up to rounding. Where
            weights change through `.data`, which PyTorch does not count, make a new embedder.
        device: Where to compute.
        preprocessing: How images become its input; None is as `to_input` does it.
        precision: Of what is computed: "fp32", or "bf16" for bfloat16 but for the last layers of a
            backbone of ours. Weights and embeddings stay float32.

    Raises:
        ValueError: If the precision is bf16, which the processor has no instructions for.

    Attributes:
        model: The module.
        image_size: Its `image_size`, or None if it has none.

    Example:
        >>> from centerarc.models import create_model
        >>> embedder = TorchEmbedder(create_model("mobilefacenet", embedding_size=64))
        >>> embedder.embed(np.zeros((2, 112, 112, 3), np.uint8)).shape
        (2, 64)
    """

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device = "cpu",
        preprocessing: "Preprocessing | None" = None,
        *,
        precision: EmbedPrecision = "fp32",
    ) -> None:
        if precision not in get_args(EmbedPrecision):
            raise ValueError(f"precision is {precision!r}; it must be 'fp32' or 'bf16'")
        self.device = torch.device(device)
        self._half = precision == "bf16"
        if self._half and self.device.type == "cpu" and not CPU_HAS_BFLOAT16:
            raise ValueError(
                "precision is 'bf16', which this processor has no instructions for: use 'fp32'"
            )
        self.model = model.to(device)
        self._preprocessing = preprocessing
        size = getattr(model, "image_size", None)
        self.image_size: int | None = size if isinstance(size, int) else None
        self._state: object = None
        self._folded: Callable[[torch.Tensor], torch.Tensor] | None = None

    def embed(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch; see `Embedder.embed`."""
        with _evaluating(self.model), torch.inference_mode():
            network = self._network()
            inputs = self._inputs(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
            features: torch.Tensor = network(inputs).float()
            if mirror:
                features = features + network(inputs.flip(-1)).float()
            result: npt.NDArray[np.float32] = features.cpu().numpy()
        return result

    def _network(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The model, or what it was folded to, again where it has changed."""
        state = _state(self.model)
        if state != self._state:
            self._folded = None
            if isinstance(self.model, Backbone) and state is not None:
                dtype = torch.bfloat16 if self._half else torch.float32
                self._folded = self.model.folded(dtype)
            self._state = state
        return self._folded or (self._in_half if self._half else self.model)

    def _in_half(self, inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            found: torch.Tensor = self.model(inputs)
            return found

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_state": None, "_folded": None}

    def _inputs(self, images: torch.Tensor) -> torch.Tensor:
        wanted = self._preprocessing
        if wanted is None or (wanted.channels, *wanted.mean, *wanted.std) == _USUAL:
            return to_input(images)
        pixels = images.flip(-1) if wanted.channels == "bgr" else images
        mean, std = (pixels.new_tensor(v, dtype=torch.float32) for v in (wanted.mean, wanted.std))
        return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def _state(model: nn.Module) -> object:
    """What differs when a backbone must be folded again; None where it may not be folded."""
    if torch.is_autocast_enabled("cpu"):
        return None
    if any(map(is_watched, model.modules())):
        return None
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.device.type != "cpu" or t.dtype not in (torch.float32, torch.int64) for t in tensors):
        return None
    if any(t.is_inference() for t in tensors):  # whose changes PyTorch does not count
        return None
    return structure(model), [(t.data_ptr(), t._version) for t in tensors]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    try:
        if training:
            model.eval()
        yield
    finally:
        # Not model.train(): a frozen part of a training model was in eval mode before.
        for module in training:
            module.training = True


# How many images are embedded together, and how far one of them may move from where it is alone:
# as a part of its distance to the others, and of its length, below which it is rounding.
_COMPANY = 4
_REFUSED, _TOLD, _ROUNDING = 0.25, 0.02, 3e-3


def check_alone(
    embedder: Embedder,
    image: Callable[[int], npt.NDArray[np.uint8]],
    count: int,
    name: str,
    *,
    mirror: bool = False,
) -> None:
    """Checks on the first images that one has the same embedding alone as in company.

    A model that was exported in training mode, or normalizes over the batch, gives an image another
    embedding in every batch. Dynamic quantization does so a little.

    Args:
        embedder: What is checked.
        image: Reads an image by its number, `(S, S, 3)` uint8 RGB; 4 unlike ones are used.
        count: Number of images.
        name: Of the model, for the message.
        mirror: As of `Embedder.embed`.

    Raises:
        ValueError: If the first image moves by over a quarter of its distance to the others. Above
            a fiftieth it is a warning.
    """
    first: list[npt.NDArray[np.uint8]] = []
    for number in range(min(count, 4 * _COMPANY)):
        if len(first) < _COMPANY:
            with suppress(OSError, ValueError):  # damaged ones are named where all are read
                other = image(number)
                if not any(np.array_equal(other, one) for one in first):
                    first.append(other)
    size = embedder.image_size
    kinds = {(one.shape, one.dtype) for one in first}
    if kinds != {((size, size, 3), np.dtype(np.uint8))} and (size is not None or len(kinds) != 1):
        return
    images = np.stack(first)
    together = _unit(embedder.embed(images, mirror=mirror))
    alone, again = (_unit(embedder.embed(images[:1], mirror=mirror))[0] for _ in range(2))
    if len(images) < 2 or not _directed(together).all():
        return  # whatever is wrong is said of each image
    batch_wise = (
        "it normalizes over the batch; export it in evaluation mode, after model.eval(), and "
        "without batch statistics"
    )
    if not _directed(alone):
        raise ValueError(
            f"{name} gives an image an embedding among {len(images)}, and alone one that is "
            f"{'0' if np.isfinite(alone).all() else 'not finite'}: {batch_wise}"
        )
    moved = float(np.linalg.norm(alone - together[0]))
    apart = float(np.median(np.linalg.norm(together[1:] - together[0], axis=1)))
    if moved <= max(_TOLD * apart, _ROUNDING):
        return
    degrees = math.degrees(2 * math.asin(min(moved / 2, 1)))
    measured = f"by {degrees:.2g} degrees, where other images are {apart / moved:.2g} times as far"
    if np.linalg.norm(alone - again) > moved / 10:
        raise ValueError(
            f"{name} gives one image another embedding each time, {measured}: is dropout active? "
            "Export it in evaluation mode, after model.eval()"
        )
    said = f"{name} gives one image another embedding alone than among {len(images)}, {measured}"
    if moved > max(_REFUSED * apart, _ROUNDING):
        raise ValueError(f"{said}: {batch_wise}")
    warnings.warn(
        f"{said}, so results depend on the batch size: it normalizes or quantizes over the batch; "
        "export it after model.eval(), quantize it statically",
        stacklevel=3,
    )


def check_square(source: FaceSource, preprocessing: "Preprocessing") -> None:
    """Checks, where a model takes the middle of square images, that the first image is square.

    Raises:
        ValueError: If it is not: a source would stretch it.
    """
    if preprocessing.crop is None:
        return
    height = width = 0
    with suppress(OSError, ValueError):  # a damaged one is named where all are read
        if (first := source.encoded(0)) is not None:
            height, width, _ = decode_image(first).shape
    if height != width:
        taken, side = " x ".join(map(str, preprocessing.crop)), max(height, width)
        raise ValueError(
            f"{source.place(0)!r} has {height} x {width} pixels, height by width, and would be "
            f"stretched: the model takes the middle {taken} of square images; pad the images to "
            f"{side} x {side}"
        )


def _unit(embedding: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = embedding.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300))


def _directed(unit: npt.NDArray[np.float64]) -> Any:
    """Whether each embedding is finite and longer than 0."""
    return np.isfinite(unit).all(axis=-1) & unit.any(axis=-1)


class Finished:
    """An embedder with what is done to embeddings before they are compared.

    Args:
        embedder: What embeds.
        concat_mirror: Put the embedding of the mirror image after that of the image, `(N, 2 D)`.
        subtract: Taken from each embedding, such as the mean of a set.

    Attributes:
        inner: The embedder itself.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        concat_mirror: bool = False,
        subtract: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.inner = embedder
        self._concat_mirror = concat_mirror
        self._subtract = subtract

    @property
    def image_size(self) -> int | None:
        """Side of the images that it takes, in pixels."""
        return self.inner.image_size

    def embed(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False
    ) -> npt.NDArray[np.float32]:
        """Embeds a batch; see `Embedder.embed`.

        Raises:
            ValueError: If mirror images are to be summed and concatenated, or what is subtracted
                is of another size.
        """
        if self._concat_mirror:
            if mirror:
                raise ValueError("mirror must not be given with concat_mirror: sum or concatenate")
            flipped = np.ascontiguousarray(images[:, :, ::-1])
            halves = [self.inner.embed(part) for part in (images, flipped)]
            found = np.concatenate(halves, axis=1)
        else:
            found = self.inner.embed(images, mirror=mirror)
        if self._subtract is None:
            return found
        if found.shape[1:] != self._subtract.shape:
            raise ValueError(
                f"subtract must have the size of the embeddings, {found.shape[1]}, got "
                f"{self._subtract.size}"
            )
        return found - self._subtract


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 RGB images become the input of a model: `(x - mean) / std` of each channel.

    Args:
        image_size: Side of the square images in pixels.
        mean: Taken from each pixel value in [0, 255]; three numbers in the order of `channels`,
            or one for all.
        std: What the difference is divided by; as `mean`, not 0.
        channels: Order of the channels, "rgb" or "bgr" (as OpenCV reads images), or "gray" for one
            of 0.299 R + 0.587 G + 0.114 B, rounded.
        layout: "nchw" for `(N, 3, H, W)`, "nhwc" for `(N, H, W, 3)`.
        crop: Height and width of the middle of the image that the model takes, where it does not
            take all: (112, 96) of 112 x 112 pixels.

    Raises:
        ValueError: If a value is not that.

    Example:
        >>> Preprocessing(2)(np.full((1, 2, 2, 3), 255, np.uint8)).shape
        (1, 3, 2, 2)
        >>> narrow = Preprocessing(112, channels="gray", crop=(112, 96))
        >>> narrow(np.zeros((1, 112, 112, 3), np.uint8)).shape
        (1, 1, 112, 96)
    """

    image_size: int
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    channels: Channels = "rgb"
    layout: Layout = "nchw"
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for size in (self.image_size, *(self.crop or ())):
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MAX_SIZE:
                raise ValueError(f"image_size is {size!r}; it must be from 1 to {_MAX_SIZE} pixels")
        if self.crop is not None and (len(self.crop) != 2 or max(self.crop) > self.image_size):
            raise ValueError(
                f"crop is {self.crop}; it must be height and width, up to {self.image_size} pixels"
            )
        object.__setattr__(self, "mean", three_numbers("mean", self.mean))
        object.__setattr__(self, "std", three_numbers("std", self.std))
        if 0.0 in self.std:
            raise ValueError(f"std is {self.std}; it must not be 0, which pixels are divided by")
        if self.channels not in get_args(Channels):
            raise ValueError(f"channels is {self.channels!r}; it must be 'rgb', 'bgr' or 'gray'")
        if self.channels == "gray" and len({*self.mean}) + len({*self.std}) > 2:
            raise ValueError("mean and std must be one number each for gray images")
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout is {self.layout!r}; it must be 'nchw' or 'nhwc'")

    def __call__(
        self, images: npt.NDArray[np.uint8], *, mirror: bool = False, dtype: Any = np.float32
    ) -> npt.NDArray[Any]:
        """Makes the input of a model.

        Args:
            images: `(N, S, S, 3)` uint8 RGB.
            mirror: Mirror each image, left to right.
            dtype: Of the result; whole numbers are rounded, and for uint8 neither mean nor std is
                applied.

        Returns:
            `(N, C, H, W)` or `(N, H, W, C)`, contiguous.
        """
        pixels = images
        if self.crop is not None:
            height, width = self.crop
            top, left = (self.image_size - height) // 2, (self.image_size - width) // 2
            pixels = pixels[:, top : top + height, left : left + width]
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        elif self.channels == "gray":
            weighted = pixels.astype(np.uint32) @ _LUMA + np.uint32(1 << 15)
            pixels = (weighted >> np.uint32(16)).astype(np.uint8)[..., None]
        if mirror:
            pixels = pixels[:, :, ::-1]
        if self.layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        if dtype == np.uint8:
            return np.ascontiguousarray(pixels)
        floats = pixels.astype(np.float32, order="C")
        shape = (-1, 1, 1) if self.layout == "nchw" else (-1,)
        count = 1 if self.channels == "gray" else 3
        floats -= np.array(self.mean[:count], np.float32).reshape(shape)
        # Divided, not multiplied by the inverse: the same rounding as in training.
        floats /= np.array(self.std[:count], np.float32).reshape(shape)
        if np.issubdtype(dtype, np.integer):
            return floats.round().astype(dtype)
        return floats if dtype == np.float32 else floats.astype(dtype)

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dictionary, ready for JSON."""
        content = {**vars(self), "mean": list(self.mean), "std": list(self.std)}
        crop = content.pop("crop")
        return content if crop is None else {**content, "crop": list(crop)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Takes what `to_dict` gave, which may have come from anyone.

        Raises:
            ValueError: If something is missing or out of range.
        """
        names = ("image_size", "mean", "std", "channels", "layout")
        if missing := [name for name in names if name not in content]:
            raise ValueError(f"{missing[0]} is missing")
        crop = content.get("crop")
        if crop is not None and not isinstance(crop, list | tuple):
            raise ValueError(f"crop is {crop!r:.50}; it must be height and width")
        given = {name: content[name] for name in names}
        return cls(**given, crop=None if crop is None else tuple(crop))

    @property
    def scaling(self) -> str:
        """What becomes of pixels, in words."""
        return f"{self.channels.upper()}, (x - {_short(self.mean)}) / {_short(self.std)}"

    def __str__(self) -> str:
        height, width = self.crop or (self.image_size, self.image_size)
        return f"{height} x {width} {self.scaling}"


def _short(values: tuple[float, ...]) -> str:
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(values)) == 1 else f"({', '.join(texts)})"


def three_numbers(name: str, value: float | Sequence[float]) -> tuple[float, float, float]:
    """One number a channel from one finite number or three; `name` is for the error."""
    values = [value] if isinstance(value, int | float) else value
    good = isinstance(values, list | tuple) and len(values) in (1, 3)
    if not good or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    ):
        raise ValueError(f"{name} is {value!r:.60}; it must be one finite number or three")
    first, *rest = (float(v) for v in values)
    second, third = rest or (first, first)
    return first, second, third
