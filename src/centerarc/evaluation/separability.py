"""How tight identities are, how far apart, and whether one threshold serves all."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import (
    Estimate,
    Interval,
    TooFew,
    check_resamples,
    columns_for,
    draw_people,
    low_high,
    percentile_interval,
    spread,
)
from centerarc.evaluation.roc_curve import allowed_accepts, check_far
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray

# Unit embeddings with their identities and centers.


@dataclass(frozen=True)
class Identities:
    """Images sorted by identity.

    Attributes:
        unit: (N, D) float32 unit embeddings, by rising identity.
        labels: (N,) number of each image's identity, 0, 1, ..., C - 1, not decreasing.
        sizes: (C,) images of each identity.
        sums: (C, D) float64 sums of the unit embeddings of each identity.
        centers: (C, D) float32 directions of the sums; 0 where a sum is 0.
    """

    unit: npt.NDArray[np.float32]
    labels: IntArray
    sizes: IntArray
    sums: FloatArray
    centers: npt.NDArray[np.float32]

    @property
    def count(self) -> int:
        """C, how many identities."""
        return int(self.sizes.size)

    @classmethod
    def of(cls, embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> "Identities":
        """Normalise and sort embeddings (N, D) of identities (N,).

        Raises:
            ValueError: wrong shapes or dtypes, or an embedding that is not finite or of length 0,
                with its row.
        """
        values, identity = np.asarray(embeddings), np.asarray(labels)
        if values.ndim != 2 or not len(values):
            raise ValueError(f"embeddings must have shape (N, D) with N > 0, got {values.shape}")
        if identity.shape != values.shape[:1] or not np.issubdtype(identity.dtype, np.integer):
            raise ValueError(
                f"labels must be integers of shape ({len(values)},), got {identity.dtype} "
                f"{identity.shape}"
            )
        length = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
        bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
        if bad.size:
            raise ValueError(
                f"embeddings must be finite and longer than 0, row {bad[0]} has length "
                f"{length[bad[0]]}"
            )
        order = np.argsort(identity, kind="stable")
        _, starts, sizes = np.unique(identity[order], return_index=True, return_counts=True)
        unit = np.empty(values.shape, dtype=np.float32)
        np.divide(values[order], length[order, None], out=unit, casting="same_kind")
        sums = np.add.reduceat(unit, starts, axis=0, dtype=np.float64)
        norm = np.sqrt(np.einsum("cd,cd->c", sums, sums))[:, None]
        centers = np.divide(sums, norm, out=np.zeros_like(sums), where=norm > 0)
        number = np.repeat(np.arange(sizes.size), sizes)
        return cls(unit, number, sizes.astype(np.int64), sums, centers.astype(np.float32))

    def cosine_to_others_of_own(self) -> FloatArray:
        """Cosine of each image to the sum of its identity's other images; 0 where there are none.

        <x, S - x> / |S - x|, from x S, |S|^2 and |x|^2, so that no other sum is formed.
        """
        size = len(self.unit)
        square = np.einsum("cd,cd->c", self.sums, self.sums)[self.labels]
        with_sum, own = np.empty(size), np.empty(size)
        rows = max(1, 1_000_000 // self.unit.shape[1])
        for start in range(0, size, rows):
            part = slice(start, start + rows)
            unit = self.unit[part].astype(np.float64)
            with_sum[part] = np.einsum("nd,nd->n", unit, self.sums[self.labels[part]])
            own[part] = np.einsum("nd,nd->n", unit, unit)
        rest = np.sqrt(np.maximum(square - 2 * with_sum + own, 0.0))
        # Below this the others cancel out, or there are none.
        known = rest > 1e-6
        found: FloatArray = np.divide(with_sum - own, rest, out=np.zeros(size), where=known)
        return found


# The threshold that each identity would need for one false accept rate.

# Cosines at once: 32 MB of float32.
_BLOCK_VALUES = 8_000_000


def identity_thresholds(
    people: Identities, far: float, impostor_images: int, seed: int
) -> tuple[FloatArray | None, TooFew | None]:
    """The lowest threshold of each identity with FAR <= ``far`` among its impostor pairs.

    The impostor pairs of an identity are all of its images with all images of others, of which at
    most ``impostor_images`` are drawn. The threshold is given as the highest score that must be
    rejected.

    Args:
        people: the images.
        far: false accept rate, in (0, 1].
        impostor_images: how many images to draw as impostors at most.
        seed: of the drawing.

    Returns:
        (C,) thresholds and None; or None and the reason, where an identity has fewer than
        ``1 / far`` impostor pairs.
    """
    drawn = np.arange(len(people.unit))
    if drawn.size > impostor_images:
        generator = np.random.default_rng(seed)
        drawn = np.sort(generator.choice(drawn.size, impostor_images, replace=False))
    others, owner = people.unit[drawn], people.labels[drawn]
    own = np.bincount(owner, minlength=people.count)
    pairs = people.sizes * (drawn.size - own)
    fewest = int(pairs.min())
    if fewest < (1 / far) * (1 - 1e-12):
        return None, TooFew("impostor of each", fewest, rate=("FAR", far))
    ends = np.cumsum(people.sizes)
    starts = ends - people.sizes
    first_own = np.searchsorted(owner, np.arange(people.count))
    result = np.empty(people.count)
    rows = max(1, _BLOCK_VALUES // drawn.size)
    first = 0
    while first < people.count:
        # Whole identities, as many as fit; one with more images than fit is a block of its own.
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + rows, side="right")))
        block = people.unit[starts[first] : ends[last - 1]] @ others.T
        for identity in range(first, last):
            at = starts[identity] - starts[first]
            mine = block[at : at + people.sizes[identity]]
            mine[:, first_own[identity] : first_own[identity] + own[identity]] = -np.inf
            scores = mine.reshape(-1)
            count = min(allowed_accepts(far, int(pairs[identity])), int(pairs[identity]) - 1)
            kth = scores.size - 1 - count
            result[identity] = np.partition(scores, kth)[kth]
        first = last
    return result, None


# What the joint loss promises, measured: tight identities, far apart, one threshold for all.
#
# All numbers are cosines. An identity's center is the direction of the sum of its unit embeddings.
# An image is compared with the center of its identity's *other* images, since a center that an
# image
# is part of lies nearer to it, the more so the fewer images there are.

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Cosines at once: 32 MB of float32.
# With fewer people resamples are so much alike that an interval would look sure of what it is not.
_FEWEST_PEOPLE = 5


@dataclass(frozen=True)
class Measured:
    """A number and its 95 % interval over people; None without resamples or below 5 people."""

    value: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"value": self.value, "interval95": low_high(self.interval)}


@dataclass(frozen=True)
class Distribution:
    """How some cosines are distributed.

    Attributes:
        mean: their mean.
        std: their standard deviation (divided by n).
        quantiles: by share: 0.05, 0.25, 0.5, 0.75, 0.95. A quantile is the smallest value that at
            least this share does not exceed.
        count: how many values.
        num_people: identities that they come from.
    """

    mean: Measured
    std: Measured
    quantiles: dict[float, Measured]
    count: int
    num_people: int

    @property
    def range90(self) -> float:
        """Distance between the quantiles 0.05 and 0.95."""
        return self.quantiles[0.95].value - self.quantiles[0.05].value

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "mean": self.mean.to_dict(),
            "std": self.std.to_dict(),
            "quantiles": {f"{q:g}": found.to_dict() for q, found in self.quantiles.items()},
            "count": self.count,
            "num_people": self.num_people,
        }


@dataclass(frozen=True)
class Separability:
    """Compactness, separation, margins and threshold consistency of some embeddings.

    Attributes:
        compactness: cosine of each image to the center of its identity's other images; higher is
            tighter. Identities with one image have none.
        separation: cosine of each identity's center to the nearest other center; lower is further
            apart.
        margin: of each image: its compactness minus its cosine to the nearest other center; below
            0 the image is nearer to somebody else.
        nearest_center_accuracy: share of the images with a margin above 0.
        thresholds: of each identity the lowest threshold at which the share of accepted impostor
            pairs of its images is at most ``far``; the less they spread, the better one threshold
            suits all. None where the impostor images are too few.
        far: the false accept rate of the thresholds.
        too_few: why there are no thresholds.
        num_images: images.
        num_people: identities.
        resamples: bootstrap resamples behind the intervals.
    """

    compactness: Distribution
    separation: Distribution
    margin: Distribution
    nearest_center_accuracy: Estimate
    thresholds: Distribution | None
    far: float
    too_few: TooFew | None
    num_images: int
    num_people: int
    resamples: int

    @property
    def threshold_reason(self) -> str | None:
        """Why there are no thresholds, in words."""
        return None if self.too_few is None else str(self.too_few)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        thresholds: dict[str, Any] = {"far": self.far}
        if self.thresholds is None:
            thresholds["reason"] = self.threshold_reason
        else:
            thresholds |= self.thresholds.to_dict()
        return {
            "compactness": self.compactness.to_dict(),
            "separation": self.separation.to_dict(),
            "margin": self.margin.to_dict(),
            "nearest_center_accuracy": self.nearest_center_accuracy.to_dict(),
            "identity_thresholds": thresholds,
            "num_images": self.num_images,
            "num_people": self.num_people,
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        if not self.resamples:
            return "None: no resamples were asked for."
        return (
            f"95 % percentile intervals over {self.resamples:,} bootstrap resamples of the "
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

    Returns:
        The distributions, with intervals over people.

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
    if bootstrap:
        check_resamples(bootstrap)
    if impostor_images < 2:
        raise ValueError(f"impostor_images must be at least 2, got {impostor_images}")
    people = Identities.of(embeddings, labels)
    if people.count < 2 or people.sizes.max() < 2:
        raise ValueError(
            f"labels hold {people.count} identities, {int((people.sizes > 1).sum())} of them with "
            "two images; at least 2 identities and 1 with two images are needed"
        )
    own = people.cosine_to_others_of_own()
    several = np.flatnonzero(people.sizes[people.labels] > 1)
    nearest = nearest_other(people.unit, people.labels, people.centers)
    margin = (own - nearest)[several]
    separation = nearest_other(people.centers, np.arange(people.count), people.centers)
    thresholds, too_few = identity_thresholds(people, far, impostor_images, seed)

    def described(values: FloatArray, identity: IntArray) -> Distribution:
        return describe(values, identity, people.count, bootstrap, seed)

    of_image = people.labels[several]
    return Separability(
        compactness=described(own[several], of_image),
        separation=described(separation, np.arange(people.count)),
        margin=described(margin, of_image),
        nearest_center_accuracy=_share(margin > 0, of_image, people.count, bootstrap, seed),
        thresholds=None if thresholds is None else described(thresholds, np.arange(people.count)),
        far=far,
        too_few=too_few,
        num_images=people.labels.size,
        num_people=people.count,
        resamples=bootstrap,
    )


def nearest_other(
    unit: npt.NDArray[np.float32], labels: IntArray, centers: npt.NDArray[np.float32]
) -> FloatArray:
    """Cosine of each unit vector (N, D) to the nearest of the ``centers`` (C, D) but its own."""
    found = np.empty(len(unit))
    rows = max(1, _BLOCK_VALUES // len(centers))
    for start in range(0, len(unit), rows):
        block = unit[start : start + rows] @ centers.T
        block[np.arange(len(block)), labels[start : start + rows]] = -np.inf
        found[start : start + rows] = block.max(axis=1)
    return found


def describe(
    values: FloatArray, identity: IntArray, num_people: int, resamples: int, seed: int
) -> Distribution:
    """Mean, spread and quantiles of values under resampling of the identities that they are of.

    Args:
        values: (V,).
        identity: (V,) whose each is, below ``num_people``.
        num_people: how many identities are drawn from.
        resamples: how many resamples; 0 for no intervals.
        seed: of the drawing.
    """
    order = np.argsort(values, kind="stable")
    ranked, owner = values[order], identity[order]
    point = _moments(ranked, np.ones((values.size, 1)))[:, 0]
    carriers = np.unique(owner).size
    intervals: list[Interval | None] = [None] * point.size
    if resamples and carriers >= _FEWEST_PEOPLE:
        parts = []
        columns = columns_for(max(values.size, num_people))
        for drawn in draw_people(num_people, resamples, seed, columns):
            weights = drawn.take(owner, axis=0)
            parts.append(_moments(ranked, weights[:, weights.any(axis=0)]))
        intervals = [spread(row) for row in np.concatenate(parts, axis=1)]
    found = [
        Measured(float(value), interval) for value, interval in zip(point, intervals, strict=True)
    ]
    quantiles = dict(zip(QUANTILES, found[2:], strict=True))
    return Distribution(found[0], found[1], quantiles, values.size, carriers)


def _moments(ranked: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean, standard deviation and quantiles of rising values (V,) under weights (V, B)."""
    total = weights.sum(axis=0)
    mean = ranked @ weights / total
    # About the mean of all, or the square of a mean near 1 would swallow a small deviation.
    middle = ranked.mean()
    centred = ranked - middle
    variance = centred**2 @ weights / total - (mean - middle) ** 2
    sums = np.cumsum(weights, axis=0)
    quantiles = [
        ranked[np.argmax(sums >= share * total * (1 - 1e-12), axis=0)] for share in QUANTILES
    ]
    return np.vstack([mean, np.sqrt(np.maximum(variance, 0.0)), *quantiles])


def _share(
    yes: BoolArray, identity: IntArray, num_people: int, resamples: int, seed: int
) -> Estimate:
    """The share of images for which something holds."""
    carriers = np.unique(identity).size
    if not resamples or carriers < _FEWEST_PEOPLE:
        return Estimate(float(yes.mean()))
    parts = []
    columns = columns_for(max(yes.size, num_people))
    for drawn in draw_people(num_people, resamples, seed, columns):
        weights = drawn.take(identity, axis=0)
        with np.errstate(invalid="ignore"):
            parts.append(yes @ weights / weights.sum(axis=0))
    return Estimate(float(yes.mean()), percentile_interval(np.concatenate(parts), carriers))
