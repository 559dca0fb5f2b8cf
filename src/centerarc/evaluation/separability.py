"""How tight identities are, how far apart, and whether one threshold serves all.

What the joint loss promises, measured. All numbers are cosines. An identity's center is the
direction of the sum of its unit embeddings. An image is compared with the center of its identity's
*other* images, since a center that an image is part of lies nearer to it, the more so the fewer
images there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import (
    Estimate,
    Interval,
    TooFew,
    check_resamples,
    estimate,
    fields_of,
    plain,
    resampled,
    spread,
)
from centerarc.evaluation.roc_curve import allowed_accepts, check_far
from centerarc.evaluation.scores import (
    Float32Array,
    FloatArray,
    IntArray,
    check_embeddings,
    check_labels,
    group_blocks,
    row_blocks,
    share_of,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# With fewer people resamples are so much alike that an interval would look sure of what it is not.
_FEWEST_PEOPLE = 5
# Cosines at once: 32 MB of float32.
_BLOCK_VALUES = 8_000_000


@dataclass(frozen=True)
class Measured:
    """A number and its 95% interval over people; None without resamples or below 5 people."""

    value: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"value": self.value, "interval95": plain(self.interval)}


@dataclass(frozen=True)
class Distribution:
    """How some cosines are distributed."""

    mean: Measured  # their mean
    std: Measured  # their standard deviation (divided by n)
    quantiles: dict[float, Measured]  # each the smallest value that such a share does not exceed
    count: int  # how many values
    num_people: int  # identities that they come from

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return fields_of(self, "mean", "std", "quantiles", "count", "num_people")


@dataclass(frozen=True)
class Separability:
    """Compactness, separation, margins and threshold consistency of some embeddings."""

    compactness: Distribution  # of images of identities with several; higher is tighter
    separation: Distribution  # of identities; lower is further apart
    margin: Distribution  # of those images; below 0 they are nearer to somebody else
    nearest_center_accuracy: Estimate  # share of the images with a margin above 0
    # Of each identity the lowest threshold at which the share of accepted impostor pairs of its
    # images is at most `far`; the less they spread, the better one threshold suits all.
    thresholds: Distribution | None
    far: float  # the false accept rate of the thresholds
    too_few: TooFew | None  # why there are no thresholds
    num_images: int
    num_people: int
    resamples: int  # bootstrap resamples behind the intervals

    @property
    def threshold_reason(self) -> str | None:
        """Why there are no thresholds, in words."""
        return None if self.too_few is None else str(self.too_few)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = self.thresholds
        thresholds = {"reason": self.threshold_reason} if found is None else found.to_dict()
        measured = ("compactness", "separation", "margin", "nearest_center_accuracy")
        return {
            **fields_of(self, *measured),
            "identity_thresholds": {"far": self.far, **thresholds},
            **fields_of(self, "num_images", "num_people"),
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        if not self.resamples:
            return "No intervals were asked for."
        return (
            f"95% percentile intervals over {self.resamples:,} bootstrap resamples of the "
            f"{self.num_people:,} people, each with all images; the others that they are compared "
            f"with are held fixed. No interval where fewer than {_FEWEST_PEOPLE} people carry it."
        )


def measure_separability(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    far: float = 1e-3,
    impostor_images: int = 20_000,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Separability:
    """Measure how tight and how far apart identities are in embedding space.

    With x_i the unit embeddings, y_i the identities, S_c the sum of the unit embeddings of
    identity c and <a, b> the cosine:

        compactness_i = <x_i, S_y - x_i>, y = y_i
        separation_c = max_{d != c} <S_c, S_d>
        margin_i = compactness_i - max_{d != y} <x_i, S_d>

    No matrix of all pairs is held: memory grows with images times D and identities times D.

    Args:
        embeddings: (N, D), any length but 0.
        labels: (N,) identity of each, any integers; at least two identities, one of them with two
            images.
        far: of the identities' thresholds, in (0, 1].
        impostor_images: identities' thresholds are found with at most so many images, drawn from
            all; at least 2.
        bootstrap: resamples of the identities, at least 100; 0 for no intervals.
        seed: of the drawing and the resampling.

    Raises:
        ValueError: an argument out of range, an embedding that is not finite or of length 0 (with
            its row), too few identities.

    Example:
        >>> embeddings = [[1, 0], [1, 0], [0, 1], [0, 1]]
        >>> found = measure_separability(embeddings, [0, 0, 1, 1], bootstrap=100)
        >>> found.compactness.mean.value, found.separation.mean.value, found.margin.mean.value
        (1.0, 0.0, 1.0)
    """
    check_far(far)
    check_resamples(bootstrap, or_none=True)
    if impostor_images < 2:
        raise ValueError(f"impostor_images must be at least 2, got {impostor_images}")
    people = _Identities(embeddings, labels)
    if people.count < 2 or people.sizes.max() < 2:
        raise ValueError(
            f"labels hold {people.count} identities, {int((people.sizes > 1).sum())} of them with "
            "two images; at least 2 identities and 1 with two images are needed"
        )
    several = np.flatnonzero(people.sizes[people.labels] > 1)
    of_image, everyone = people.labels[several], np.arange(people.count)
    own = people.cosine_to_others_of_own()
    margin = (own - people.cosine_to_nearest_other(people.unit, people.labels))[several]
    separation = people.cosine_to_nearest_other(people.centers, everyone)
    thresholds, too_few = _identity_thresholds(people, far, impostor_images, seed)

    def moved(
        rates: Callable[[FloatArray], FloatArray], identity: IntArray
    ) -> tuple[int, FloatArray | None]:
        """How many people carry values (V,), and rates of their weights (V, B) in resamples."""
        carriers = np.unique(identity).size
        if not bootstrap or carriers < _FEWEST_PEOPLE:
            return carriers, None
        return carriers, resampled(
            lambda drawn: rates(drawn.take(identity, axis=0)),
            people.count,
            identity.size,
            bootstrap,
            seed,
        )

    def described(values: FloatArray, identity: IntArray) -> Distribution:
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        point = _moments(ranked, np.ones((values.size, 1)))[:, 0].tolist()
        carriers, rows = moved(lambda weights: _moments(ranked, weights), identity[order])
        intervals = [None] * len(point) if rows is None else [spread(row) for row in rows]
        found = [Measured(*each) for each in zip(point, intervals, strict=True)]
        quantiles = dict(zip(QUANTILES, found[2:], strict=True))
        return Distribution(found[0], found[1], quantiles, values.size, carriers)

    nearer = margin > 0
    carriers, shares = moved(
        lambda weights: share_of(nearer @ weights, weights.sum(axis=0)), of_image
    )
    return Separability(
        compactness=described(own[several], of_image),
        separation=described(separation, everyone),
        margin=described(margin, of_image),
        nearest_center_accuracy=estimate(nearer.mean(), shares, carriers),
        thresholds=None if thresholds is None else described(thresholds, everyone),
        far=far,
        too_few=too_few,
        num_images=people.labels.size,
        num_people=people.count,
        resamples=bootstrap,
    )


def _moments(ranked: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean, standard deviation and quantiles of rising values (V,) under weights (V, B) of any."""
    weights = weights[:, weights.any(axis=0)]
    total = weights.sum(axis=0)
    mean = ranked @ weights / total
    # About the mean of all, or the square of a mean near 1 would swallow a small deviation.
    middle = ranked.mean()
    centered = ranked - middle
    variance = centered**2 @ weights / total - (mean - middle) ** 2
    sums = np.cumsum(weights, axis=0)
    quantiles = [
        ranked[np.argmax(sums >= share * total * (1 - 1e-12), axis=0)] for share in QUANTILES
    ]
    return np.vstack([mean, np.sqrt(np.maximum(variance, 0.0)), *quantiles])


class _Identities:
    """Images sorted by identity.

    Attributes:
        unit: (N, D) float32 unit embeddings, by rising identity.
        labels: (N,) number of each image's identity, 0, 1, ..., C - 1, not decreasing.
        count: C, how many identities.
        sizes: (C,) images of each identity.
        sums: (C, D) float64 sums of the unit embeddings of each identity.
        centers: (C, D) float32 directions of the sums; 0 where a sum is 0.
    """

    def __init__(self, embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        values, length = check_embeddings(embeddings, "embeddings")
        identity = check_labels(labels, "labels", length.size)
        order = np.argsort(identity, kind="stable")
        _, starts, sizes = np.unique(identity[order], return_index=True, return_counts=True)
        self.unit: Float32Array = np.empty(values.shape, dtype=np.float32)
        np.divide(values[order], length[order, None], out=self.unit, casting="same_kind")
        self.count, self.sizes = sizes.size, sizes.astype(np.int64)
        self.labels = np.repeat(np.arange(sizes.size), sizes)
        self.sums = np.add.reduceat(self.unit, starts, axis=0, dtype=np.float64)
        norm = np.sqrt(np.einsum("cd,cd->c", self.sums, self.sums))[:, None]
        centers = np.divide(self.sums, norm, out=np.zeros_like(self.sums), where=norm > 0)
        self.centers = centers.astype(np.float32)

    def cosine_to_others_of_own(self) -> FloatArray:
        """Cosine of each image to the sum of its identity's other images; 0 where there are none.

        <x, S - x> / |S - x|, from x S, |S|^2 and |x|^2, so that no other sum is formed.
        """
        size = len(self.unit)
        square = np.einsum("cd,cd->c", self.sums, self.sums)[self.labels]
        with_sum, own = np.empty(size), np.empty(size)
        for part in row_blocks(size, max(1, 1_000_000 // self.unit.shape[1])):
            unit = self.unit[part].astype(np.float64)
            with_sum[part] = np.einsum("nd,nd->n", unit, self.sums[self.labels[part]])
            own[part] = np.einsum("nd,nd->n", unit, unit)
        rest = np.sqrt(np.maximum(square - 2 * with_sum + own, 0.0))
        # Below this the others cancel out, or there are none.
        known = rest > 1e-6
        found: FloatArray = np.divide(with_sum - own, rest, out=np.zeros(size), where=known)
        return found

    def cosine_to_nearest_other(self, unit: Float32Array, labels: IntArray) -> FloatArray:
        """Cosine of each unit vector (N, D) to the nearest of the centers but its own."""
        found = np.empty(len(unit))
        for part in row_blocks(len(unit), max(1, _BLOCK_VALUES // self.count)):
            block = unit[part] @ self.centers.T
            block[np.arange(len(block)), labels[part]] = -np.inf
            found[part] = block.max(axis=1)
        return found


def _identity_thresholds(
    people: _Identities, far: float, impostor_images: int, seed: int
) -> tuple[FloatArray | None, TooFew | None]:
    """The highest score of each identity (C,) that must be rejected, or why there is none."""
    drawn = np.arange(len(people.unit))
    if drawn.size > impostor_images:
        generator = np.random.default_rng(seed)
        drawn = np.sort(generator.choice(drawn.size, impostor_images, replace=False))
    others, owner = people.unit[drawn], people.labels[drawn]
    own = np.bincount(owner, minlength=people.count)
    pairs = people.sizes * (drawn.size - own)
    too_few = TooFew.for_rate("FAR", far, "impostor of each", int(pairs.min()))
    if too_few is not None:
        return None, too_few
    starts = np.append(0, np.cumsum(people.sizes))
    first_own = np.searchsorted(owner, np.arange(people.count))
    result = np.empty(people.count)
    for first, last in group_blocks(starts, max(1, _BLOCK_VALUES // drawn.size)):
        block = people.unit[starts[first] : starts[last]] @ others.T
        for identity in range(first, last):
            at = starts[identity] - starts[first]
            mine = block[at : at + people.sizes[identity]]
            mine[:, first_own[identity] : first_own[identity] + own[identity]] = -np.inf
            scores = mine.reshape(-1)
            count = min(allowed_accepts(far, int(pairs[identity])), int(pairs[identity]) - 1)
            kth = scores.size - 1 - count
            result[identity] = np.partition(scores, kth)[kth]
    return result, None
