"""Several sources as one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.data import source as sources
from centerarc.data.image import Image, WrongSizeError
from centerarc.data.source import FaceSource


@dataclass(frozen=True)
class Part:
    """A source in a mixture.

    Args:
        source: The source.
        weight: How often each of its images is shown in an epoch, on average: 1 is once, 2 twice,
            0.5 half of them, another half each epoch. Above 0.
        name: What it is called in messages, places and, if people are kept apart, names; without a
            slash.
    """

    source: FaceSource
    weight: float
    name: str


class MixedSource:
    """The images of several sources, one source after the other; a `FaceSource`.

    Args:
        parts: The sources, at least one, each with a name of its own.
        merge: True takes people of one name for one person: those of the first part keep their
            labels and who is new in a later part comes after them. False keeps the parts' people
            apart; all are called `<part>/<name>`, so a further part renames nobody.

    Attributes:
        identities: The name that belongs to each label.
        labels: `(len,)` int64 label of each image.
        weights: `(len,)` float64, how often each image is shown in an epoch, on average: the weight
            of its part, times its weight in the part where that has weights itself.
        names: The names of the parts.
        sources: The sources.

    Raises:
        ValueError: If there is no part, a name is empty, has a slash or comes twice, or a weight is
            not above 0 and finite.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> mixed = MixedSource([Part(faces, 1.0, "a"), Part(faces, 0.5, "b")], merge=False)
        >>> len(mixed), len(mixed.identities), mixed.place(3), float(mixed.weights.sum())
        (12, 4, 'a/image 3', 9.0)
    """

    def __init__(self, parts: Sequence[Part], *, merge: bool) -> None:
        _check(parts)
        self.names = [part.name for part in parts]
        self.sources = [part.source for part in parts]
        self._starts = np.cumsum([0, *(len(source) for source in self.sources)])
        label_of: dict[str, int] = {}
        labels = [np.zeros(0, dtype=np.int64)]
        for part in parts:
            prefix = "" if merge else f"{part.name}/"
            names = [prefix + name for name in part.source.identities]
            new = [label_of.setdefault(name, len(label_of)) for name in names]
            labels.append(np.array(new, dtype=np.int64)[part.source.labels])
        self.identities: list[str] = list(label_of)
        self.labels: npt.NDArray[np.int64] = np.concatenate(labels)
        self.weights: npt.NDArray[np.float64] = np.concatenate([_weights(part) for part in parts])

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    def image(self, index: int) -> Image:
        """Returns image `index`; see `FaceSource.image`. Errors name the part."""
        part, inner = self._find(index)
        try:
            return self.sources[part].image(inner)
        except ValueError as error:
            raise ValueError(f"{self.names[part]}: {error}") from error

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` in place; see `EncodedSource.image_into`. Errors name the part."""
        part, inner = self._find(index)
        try:
            sources.image_into(self.sources[part], inner, out)
        except WrongSizeError as error:
            raise WrongSizeError(f"{self.names[part]}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{self.names[part]}: {error}") from error

    def encoded(self, index: int) -> bytes | None:
        """Returns the file of image `index`, or None; see `centerarc.data.source.encoded`."""
        part, inner = self._find(index)
        return sources.encoded(self.sources[part], inner)

    def place(self, index: int) -> str:
        """Returns where image `index` comes from, after the name of its part and a slash."""
        part, inner = self._find(index)
        return f"{self.names[part]}/{sources.place(self.sources[part], inner)}"

    def _find(self, index: int) -> tuple[int, int]:
        at = range(len(self))[index]
        part = int(self._starts.searchsorted(at, side="right")) - 1
        return part, at - int(self._starts[part])


def _weights(part: Part) -> npt.NDArray[np.float64]:
    inner = getattr(part.source, "weights", None)
    if inner is None:
        return np.full(len(part.source), part.weight, dtype=np.float64)
    return part.weight * np.asarray(inner, dtype=np.float64)


def _check(parts: Sequence[Part]) -> None:
    if not parts:
        raise ValueError("parts is empty; a mixture needs at least one source")
    seen: set[str] = set()
    for part in parts:
        if not part.name or "/" in part.name:
            raise ValueError(
                f"name of a part is {part.name!r}; it must have no slash, not be empty"
            )
        if part.name in seen:
            raise ValueError(f"parts has two called {part.name!r}; each needs a name of its own")
        seen.add(part.name)
        if not 0 < part.weight < float("inf"):
            raise ValueError(
                f"weight of part {part.name!r} is {part.weight}; it must be above 0 and finite"
            )
