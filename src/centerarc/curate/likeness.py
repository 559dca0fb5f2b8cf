"""How alike images of one person and of two people are, learned from the data themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Units = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_MAD_TO_SIGMA = 1.4826
_LEAST_SIGMA = 0.01
# Sizes of groups for which similarities are measured; larger groups count as the largest.
GROUP_SIZES = (1, 2, 4, 8)
_DRAWS = 1500
_ENOUGH = 20


@dataclass(frozen=True)
class Spread:
    """Where most similarities of one kind lie: median and 1.4826 times the median deviation.

    Both ignore up to half of the values, so mistakes in the data hardly move them.
    """

    middle: float
    sigma: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        """Measures it; at least one value."""
        array = np.asarray(values, dtype=np.float64)
        middle = float(np.median(array))
        sigma = _MAD_TO_SIGMA * float(np.median(np.abs(array - middle)))
        return cls(middle, max(sigma, _LEAST_SIGMA))

    @classmethod
    def of_upper(cls, values: npt.ArrayLike) -> "Spread":
        """Measures it by the values above the median, where mistakes can only lie below it."""
        array = np.asarray(values, dtype=np.float64)
        middle = float(np.median(array))
        sigma = _MAD_TO_SIGMA * float(np.median(array[array >= middle] - middle))
        return cls(middle, max(sigma, _LEAST_SIGMA))

    def log_density(self, values: npt.ArrayLike) -> Floats:
        """Returns the logarithm of the normal density, without its constant."""
        z = (np.asarray(values, dtype=np.float64) - self.middle) / self.sigma
        return np.asarray(-0.5 * z**2 - np.log(self.sigma), dtype=np.float64)


@dataclass(frozen=True)
class Alikeness:
    """Similarities within one person and between two.

    Args:
        genuine: Between images, or groups of images, of one person.
        impostor: Between those of two people.
    """

    genuine: Spread
    impostor: Spread

    def evidence(self, similarity: npt.ArrayLike) -> Floats:
        """Returns e(s) = ln p(s | one person) - ln p(s | two people); rises with s.

        Beyond the middle of either kind there is no more evidence than there. Of a model that
        tells nobody apart, whose middles lie the wrong way round, nothing is evidence.
        """
        low, high = self.impostor.middle, self.genuine.middle
        values = np.asarray(similarity, dtype=np.float64)
        if low >= high:
            return np.zeros_like(values)
        inside = np.clip(values, low, high)
        return self.genuine.log_density(inside) - self.impostor.log_density(inside)


class Identities:
    """Unit embeddings grouped by identity.

    Args:
        embeddings: `(N, D)`, any length but 0.
        labels: `(N,)` identity of each; any whole numbers.

    Attributes:
        units: `(N, D)` float32 of length 1.
        names: `(C,)` the different labels, ascending.
        label: `(N,)` each image's position in `names`.
        sizes: `(C,)` images of each identity.
        means: `(C, D)` float32, mean of each identity's units.

    Raises:
        ValueError: If shapes do not fit, or an embedding is not finite or has no length.
    """

    def __init__(self, embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        self.units = _unit_rows(embeddings)
        given = np.asarray(labels)
        if given.shape != (len(self.units),):
            raise ValueError(
                f"labels has shape {given.shape}; it must be ({len(self.units)},), one for each "
                "embedding"
            )
        self.names, self.label, self.sizes = np.unique(
            given, return_inverse=True, return_counts=True
        )
        order = np.argsort(self.label, kind="stable")
        self._rows = np.split(order, np.cumsum(self.sizes)[:-1])
        sums = np.add.reduceat(self.units[order], np.cumsum(self.sizes) - self.sizes, axis=0)
        self.means: Units = (sums / self.sizes[:, None]).astype(np.float32)

    def rows(self, identity: int) -> Rows:
        """Returns the images of an identity, ascending."""
        return self._rows[identity]

    def alikeness(self, seed: int, *, image: bool) -> list[Alikeness]:
        """Measures how alike groups are, for each of `GROUP_SIZES`.

        Args:
            seed: Chooses the 1,500 pairs of groups that are measured for each size.
            image: Compare one image with a group; otherwise two groups of the size.

        Returns:
            For each size; where fewer than 20 identities have enough images, as for the size
            before it.

        Raises:
            ValueError: If there are fewer than 20 identities with two images.
        """
        found: list[Alikeness] = []
        for size in GROUP_SIZES:
            rng = np.random.default_rng((seed, size, int(image)))
            one = 1 if image else size
            enough = np.flatnonzero(self.sizes >= one + size)
            if len(enough) < _ENOUGH:
                if not found:
                    raise ValueError(too_few_people(len(enough)))
                found.append(found[-1])
                continue
            genuine, impostor = [], []
            large = np.flatnonzero(self.sizes >= size)
            for _ in range(_DRAWS):
                rows = rng.choice(
                    self.rows(enough[rng.integers(len(enough))]), one + size, replace=False
                )
                genuine.append(self._similarity(rows[:one], rows[one:]))
                a, b = rng.integers(len(large)), rng.integers(1, len(large))
                first, second = large[a], large[(a + b) % len(large)]
                impostor.append(
                    self._similarity(
                        rng.choice(self.rows(first), one, replace=False),
                        rng.choice(self.rows(second), size, replace=False),
                    )
                )
            found.append(Alikeness(Spread.of(genuine), Spread.of(impostor)))
        return found

    def _similarity(self, first: Rows, second: Rows) -> float:
        return float(self.units[first].mean(axis=0) @ self.units[second].mean(axis=0))


def too_few_people(number: int) -> str:
    """Words why labels cannot be judged."""
    return (
        f"only {number} identities have two readable images; to learn from the data how alike "
        f"images of one person are takes at least {_ENOUGH}"
    )


def check_enough_people(labels: npt.ArrayLike) -> None:
    """Raises `ValueError` where too few identities have two images to judge labels by a model.

    Args:
        labels: `(N,)` identity of each image.
    """
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    if (number := int((counts >= 2).sum())) < _ENOUGH:
        raise ValueError(too_few_people(number))


def size_class(sizes: npt.ArrayLike) -> Rows:
    """Returns the position in `GROUP_SIZES` of the largest size that is not above each size."""
    return np.searchsorted(GROUP_SIZES, np.asarray(sizes), side="right") - 1


def evidence(alikeness: Sequence[Alikeness], similarity: Floats, classes: Rows) -> Floats:
    """Returns e(s) of `(..., C)` similarities, with the alikeness of each column's size class."""
    result = np.empty(similarity.shape)
    for number in np.unique(classes):
        columns = classes == number
        result[..., columns] = alikeness[number].evidence(similarity[..., columns])
    return result


def probability(log_odds: npt.ArrayLike) -> Floats:
    """Returns 1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(log_odds))), dtype=np.float64)


def _unit_rows(embeddings: npt.ArrayLike) -> Units:
    values = np.asarray(embeddings, dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"embeddings has shape {values.shape}; it must be (N, D)")
    length = np.linalg.norm(values, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if bad.size:
        raise ValueError(
            f"embeddings must be finite and longer than 0; row {bad[0]} has length "
            f"{length[bad[0], 0]}"
        )
    return np.asarray(values / length, dtype=np.float32)
