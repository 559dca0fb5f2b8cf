"""How the images are spread over the identities: the long tail in numbers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUANTILES = (0.05, 0.25, 0.75, 0.95, 0.99)
_HEADS = (0.01, 0.1, 0.2, 0.5)
# Lower ends of the groups "1, 2, 3-4, 5-9, 10-19, ..." of images of an identity.
_EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class CountStatistics:
    """The number of images of each identity, summed up.

    Attributes:
        images: All images.
        identities: All identities.
        minimum: Fewest images of an identity.
        median: Median number of images.
        mean: Mean number of images.
        maximum: Most images of an identity.
        quantiles: Images of an identity at each part of the identities, fewest first.
        heads: Share of all images that the given part of the identities with most images has.
        gini: Inequality: 0 if all have equally many, towards 1 if one has them all.
        groups: (name such as "3-4", identities with so many images, images they have).
    """

    images: int
    identities: int
    minimum: int
    median: float
    mean: float
    maximum: int
    quantiles: dict[float, float]
    heads: dict[float, float]
    gini: float
    groups: list[tuple[str, int, int]]


def count_statistics(counts: npt.ArrayLike) -> CountStatistics:
    """Sums up the number of images of each identity.

    With the counts n_1 <= ... <= n_C and their sum N, the Gini coefficient is
    sum_k (2 k - C - 1) n_k / (C N).

    Args:
        counts: `(C,)` images of each identity, each at least 1.

    Returns:
        The numbers.

    Raises:
        ValueError: If there is no identity, or one without an image.

    Example:
        >>> found = count_statistics([1, 1, 8])
        >>> found.median, found.maximum, round(found.gini, 2)
        (1.0, 8, 0.47)
        >>> found.groups
        [('1', 2, 2), ('5-9', 1, 8)]
    """
    values = np.sort(np.asarray(counts, dtype=np.int64))
    if values.ndim != 1 or not values.size or values[0] < 1:
        raise ValueError("counts must hold the images of at least one identity, each at least 1")
    size, total = len(values), int(values.sum())
    rank = np.arange(1, size + 1)
    return CountStatistics(
        images=total,
        identities=size,
        minimum=int(values[0]),
        median=float(np.median(values)),
        mean=float(values.mean()),
        maximum=int(values[-1]),
        quantiles={q: float(np.quantile(values, q)) for q in QUANTILES},
        heads={part: _head_share(values, part) for part in _HEADS},
        gini=float(((2 * rank - size - 1) * values).sum() / (size * total)),
        groups=_groups(values),
    )


def _head_share(ascending: npt.NDArray[np.int64], part: float) -> float:
    number = max(round(part * len(ascending)), 1)
    return float(ascending[-number:].sum() / ascending.sum())


def _groups(counts: npt.NDArray[np.int64]) -> list[tuple[str, int, int]]:
    groups = []
    for low, following in zip(_EDGES, (*_EDGES[1:], None), strict=True):
        inside = counts[(counts >= low) & (counts < following if following else True)]
        if following is None:
            name = f"{low:,}+"
        elif following == low + 1:
            name = f"{low:,}"
        else:
            name = f"{low:,}-{following - 1:,}"
        if len(inside):
            groups.append((name, len(inside), int(inside.sum())))
    return groups
