"""Parts of a source: some of its people, some of its images, people with enough images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.data import source as sources
from centerarc.data.source import FaceSource, Image
from centerarc.data.words import counted


class Subset:
    """Some images of a source, labelled anew from 0.

    Args:
        source: The source to take from.
        identities: Names of the people to keep, each once; they get their labels in this order.
            None keeps everybody who has an image left, in the order of the source.
        images: `(len(source),)` bool, which images to keep; None keeps all.

    Attributes:
        indices: `(len,)` int64, the number of each image in the source.
        weights: `(len,)` float64, those of the source for `Shuffled`, or None.

    Raises:
        ValueError: If a name is unknown or comes twice, or nothing is left.
    """

    def __init__(
        self,
        source: FaceSource,
        identities: Iterable[str] | None = None,
        *,
        images: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.source = source
        kept = np.ones(len(source), dtype=bool) if images is None else np.asarray(images)
        if kept.shape != (len(source),) or kept.dtype != np.bool_:
            raise ValueError(
                f"images is {kept.dtype} of shape {kept.shape}; it must be bool of shape "
                f"({len(source)},), one for each image of the source"
            )
        if identities is None:
            left = np.bincount(source.labels[kept], minlength=len(source.identities))
            self.identities = [source.identities[label] for label in np.flatnonzero(left)]
        else:
            self.identities = list(identities)
        if not self.identities:
            raise ValueError("identities is empty; a subset needs at least one")
        if len(set(self.identities)) != len(self.identities):
            raise ValueError("identities names somebody twice; each may come once")
        old = {name: label for label, name in enumerate(source.identities)}
        if unknown := [name for name in self.identities if name not in old]:
            raise ValueError(
                f"identities holds {len(unknown)} names that the source lacks, first {unknown[0]!r}"
            )
        new_label = np.full(len(old), -1, dtype=np.int64)
        new_label[[old[name] for name in self.identities]] = np.arange(len(self.identities))
        relabelled = np.where(kept, new_label[source.labels], -1)
        self.indices: npt.NDArray[np.int64] = np.flatnonzero(relabelled >= 0)
        self.labels: npt.NDArray[np.int64] = relabelled[self.indices]
        weights = getattr(source, "weights", None)
        self.weights: npt.NDArray[np.float64] | None = (
            None if weights is None else weights[self.indices]
        )

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image:
        """Returns image `index` of this subset; see `FaceSource.image`."""
        return self.source.image(int(self.indices[index]))

    def image_into(self, index: int, out: Image) -> None:
        """Decodes image `index` of this subset in place; see `EncodedSource.image_into`."""
        sources.image_into(self.source, int(self.indices[index]), out)

    def encoded(self, index: int) -> bytes | None:
        """Returns the file of image `index` of this subset; see `centerarc.data.source.encoded`."""
        return sources.encoded(self.source, int(self.indices[index]))

    def place(self, index: int) -> str:
        """Returns where image `index` of this subset comes from."""
        return sources.place(self.source, int(self.indices[index]))


def subset(source: FaceSource, identities: Iterable[str]) -> Subset:
    """Keeps the images of the named identities; see `Subset`."""
    return Subset(source, identities)


@dataclass(frozen=True)
class TooFew:
    """Who was left out for having too few images.

    Args:
        min_images: The floor.
        identities: Names of those left out.
        images: How many images they had together.
    """

    min_images: int
    identities: list[str]
    images: int

    def __str__(self) -> str:
        shown = ", ".join(self.identities[:3]) + (", ..." if len(self.identities) > 3 else "")
        return (
            f"left out {counted(len(self.identities), 'person', 'people')} with fewer than "
            f"{self.min_images} images ({counted(self.images, 'image')}; {shown})"
        )


def with_enough_images(source: FaceSource, min_images: int) -> tuple[FaceSource, TooFew | None]:
    """Leaves out people with too few images.

    Args:
        source: The source.
        min_images: The fewest images of a person, at least 1.

    Returns:
        The source without them and who they are; the source itself and None if there are none.

    Raises:
        ValueError: If `min_images` is below 1, or nobody has so many.
    """
    if min_images < 1:
        raise ValueError(f"min_images is {min_images}; it must be at least 1")
    counts = np.bincount(source.labels, minlength=len(source.identities))
    few = counts < min_images
    if not few.any():
        return source, None
    if few.all():
        raise ValueError(
            f"min_images is {min_images}, but the person with the most images has {counts.max()}"
        )
    names = [source.identities[label] for label in np.flatnonzero(few)]
    kept = Subset(source, images=~few[source.labels])
    return kept, TooFew(min_images, names, int(counts[few].sum()))


def split_identities(
    identities: Iterable[str], fraction: float, seed: int
) -> tuple[list[str], list[str]]:
    """Splits people, not images, so that nobody held out was seen in training.

    Args:
        identities: Names; their order does not matter.
        fraction: Part to hold out, in (0, 1); at least one person goes to each side.
        seed: Chooses who is held out.

    Returns:
        The names for training and the names held out, each sorted.

    Raises:
        ValueError: If there are fewer than two names or the fraction is out of range.

    Example:
        >>> train, held_out = split_identities(["ann", "bob", "cyd", "dan"], 0.25, seed=0)
        >>> len(train), len(held_out)
        (3, 1)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must be between 0 and 1, both excluded")
    names = sorted(set(identities))
    if len(names) < 2:
        raise ValueError(f"identities holds {len(names)} different names; a split needs two")
    count = min(max(round(fraction * len(names)), 1), len(names) - 1)
    order = np.random.default_rng(seed).permutation(len(names))
    held_out = sorted(names[i] for i in order[:count])
    train = sorted(names[i] for i in order[count:])
    return train, held_out
