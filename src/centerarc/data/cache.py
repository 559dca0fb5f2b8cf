"""A source whose images are decoded, or drawn, once and kept in memory."""

import mmap

import numpy as np
import numpy.typing as npt

from centerarc.data import source as sources
from centerarc.data.source import FaceSource, Image


class CachedSource:
    """Keeps every image that was asked for as uint8 pixels, shared with worker processes.

    The memory is one anonymous shared mapping, made before the loader forks its workers: what one
    of them has decoded, all of them have. It is used page by page as images come, so what an
    epoch never asks for takes none.

    Args:
        source: Where images come from; all of one size.
        limit_bytes: The most that the images may take together.

    Raises:
        ValueError: If the images need more than `limit_bytes`, or none can be read.
    """

    def __init__(self, source: FaceSource, *, limit_bytes: int) -> None:
        self.source = source
        self.labels: npt.NDArray[np.int64] = source.labels
        self.identities = source.identities
        self.weights: npt.NDArray[np.float64] | None = getattr(source, "weights", None)
        self._shape = _first_shape(source)
        needed = len(source) * int(np.prod(self._shape))
        if needed > limit_bytes:
            raise ValueError(
                f"the cache needs {_in_units(needed)} for {len(source)} images of "
                f"{self._shape[1]} x {self._shape[0]} pixels, more than the "
                f"{_in_units(limit_bytes)} it may take"
            )
        self._make_room()

    def _make_room(self) -> None:
        count, pixels = len(self.source), int(np.prod(self._shape))
        memory = np.frombuffer(mmap.mmap(-1, count * (pixels + 1)), dtype=np.uint8)
        self._pixels = memory[: count * pixels].reshape(count, *self._shape)
        self._known = memory[count * pixels :]

    def __getstate__(self) -> dict[str, object]:
        # A process that is not forked gets an empty cache of its own: a mapping cannot be sent.
        return {k: v for k, v in self.__dict__.items() if k not in ("_pixels", "_known")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._make_room()

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`. The array must not be written to."""
        if not self._known[index]:
            image = self.source.image(index)
            if image.shape != self._shape:
                raise ValueError(
                    f"image {index} has shape {image.shape} and others have {self._shape}; a "
                    "cache needs one size, so set the source's image_size"
                )
            # The pixels first: another process that sees the mark finds them complete.
            self._pixels[index] = image
            self._known[index] = 1
        kept: Image = self._pixels[index]
        kept.flags.writeable = False
        return kept

    def place(self, index: int) -> str:
        """Returns where image `index` comes from."""
        return sources.place(self.source, index)


def _first_shape(source: FaceSource) -> tuple[int, ...]:
    """The shape of the first image that can be read."""
    first: ValueError | None = None
    for index in range(len(source)):
        try:
            return source.image(index).shape
        except ValueError as error:
            first = first or error
    raise first or ValueError("source has no images; a cache needs at least one")


def _in_units(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
