"""What a set of labelled face images looks like to the rest of the library."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]


class FaceSource(Protocol):
    """Labelled face images, addressed by number.

    Attributes:
        labels: `(len,)` int64, each image's label in `[0, len(identities))`.
        identities: The name that belongs to each label.
    """

    @property
    def labels(self) -> npt.NDArray[np.int64]: ...

    @property
    def identities(self) -> list[str]: ...

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def image(self, index: int) -> Image:
        """Returns image `index` as `(H, W, 3)` uint8 RGB; raises `ValueError` if damaged."""
        ...


class Subset:
    """The images of some identities of a source, labelled anew from 0 in the order given.

    Args:
        source: The source to take from.
        identities: Names of the identities to keep; each once.

    Raises:
        ValueError: If a name is unknown or comes twice, or there is none.
    """

    def __init__(self, source: FaceSource, identities: Iterable[str]) -> None:
        self.source = source
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
        relabelled = new_label[source.labels]
        self.indices: npt.NDArray[np.int64] = np.flatnonzero(relabelled >= 0)
        self.labels: npt.NDArray[np.int64] = relabelled[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image:
        """Returns image `index` of this subset; see `FaceSource.image`."""
        return self.source.image(int(self.indices[index]))


def subset(source: FaceSource, identities: Iterable[str]) -> Subset:
    """Keeps the images of the named identities; see `Subset`."""
    return Subset(source, identities)


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
