"""What verification metrics need of their input, and pairs ranked by score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

# What every verification metric needs of its input: finite scores and pairs of both kinds.

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]
# Scores as they come, float32 or float64.
ScoreArray = npt.NDArray[np.floating[Any]]


def check_scores(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Return ``scores`` as float64 and ``same`` as bool, or say which row is wrong.

    Args:
        scores: (P,) one similarity a pair, higher is more alike; finite.
        same: (P,) True (or 1) where both images of the pair show one person.

    Returns:
        The two arrays, each (P,).

    Raises:
        ValueError: a wrong shape, a score that is not finite, a label that is neither 0 nor 1,
            or no pair of one of the two kinds.
    """
    values, labels = check_scores_as_given(scores, same)
    return values.astype(np.float64, copy=False), labels


def check_scores_as_given(
    scores: npt.ArrayLike, same: npt.ArrayLike
) -> tuple[ScoreArray, BoolArray]:
    """Return what :func:`check_scores` does, without a copy of float32 or float64 scores."""
    values: npt.NDArray[Any] = np.asarray(scores)
    # Only these two are sorted at full speed; float16 and whole numbers fit into float64.
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    labels: npt.NDArray[Any] = np.asarray(same)
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (P,), got {values.shape}")
    if labels.shape != values.shape:
        raise ValueError(f"same must have the shape of scores {values.shape}, got {labels.shape}")
    # The extremes tell whether any is not finite: NaN comes through min and max.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"scores must be finite, got {values[row]} in row {row}")
    if labels.dtype != np.bool_:
        bad = np.flatnonzero((labels != 0) & (labels != 1))
        if bad.size:
            raise ValueError(f"same must be 0 or 1, got {labels[bad[0]]} in row {bad[0]}")
        labels = labels.astype(np.bool_)
    genuine = int(np.count_nonzero(labels))
    if genuine == 0 or genuine == labels.size:
        kind = "genuine (same person)" if genuine == 0 else "impostor (different people)"
        raise ValueError(f"same holds no {kind} pair among {labels.size}; both kinds are needed")
    return values, labels


def check_folds(folds: npt.ArrayLike, num_pairs: int) -> IntArray:
    """Return ``folds`` as (P,) int64, or say what is wrong with it."""
    numbers: npt.NDArray[Any] = np.asarray(folds)
    if numbers.shape != (num_pairs,):
        raise ValueError(f"folds must have shape ({num_pairs},), got {numbers.shape}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"folds must be integers, got dtype {numbers.dtype}")
    return numbers.astype(np.int64)


# Pairs ranked by score once, and their curves under many weightings at once.


@dataclass(frozen=True)
class RankedPairs:
    """Pairs by falling score, genuine and impostor apart, and what each threshold accepts.

    Attributes:
        genuine: (G,) numbers of the genuine pairs.
        impostor: (I,) numbers of the impostor pairs.
        threshold: (T,) +inf and each distinct score, falling.
        genuine_accepted: (T,) how many of ``genuine``, from the front, reach each threshold.
        impostor_accepted: (T,) the same of ``impostor``.
        higher: (G,) how many impostor pairs score higher than each genuine pair.
        not_lower: (G,) how many score at least as high.
    """

    genuine: IntArray
    impostor: IntArray
    threshold: ScoreArray
    genuine_accepted: IntArray
    impostor_accepted: IntArray
    higher: IntArray
    not_lower: IntArray


def rank_pairs(scores: ScoreArray, same: BoolArray) -> RankedPairs:
    """Sort checked ``scores`` (P,) once and group the ties."""
    genuine, of_genuine = _falling(scores, np.flatnonzero(same))
    impostor, of_impostor = _falling(scores, np.flatnonzero(~same))
    threshold = np.unique(np.concatenate([of_genuine, of_impostor]))
    # The first point accepts nothing.
    accepted = [
        np.concatenate([[0], np.searchsorted(kind, threshold, side="right")])
        for kind in (of_genuine, of_impostor)
    ]
    return RankedPairs(
        genuine,
        impostor,
        np.concatenate([np.full(1, np.inf, threshold.dtype), -threshold]),
        accepted[0],
        accepted[1],
        np.searchsorted(of_impostor, of_genuine, side="left"),
        np.searchsorted(of_impostor, of_genuine, side="right"),
    )


def _falling(scores: ScoreArray, numbers: IntArray) -> tuple[IntArray, ScoreArray]:
    """The pairs ``numbers`` by falling score and their negated scores."""
    negated = -scores.take(numbers)
    order = np.argsort(negated, kind="stable")
    return numbers.take(order), negated.take(order)


class WeightedCurves:
    """The operating points of ranked pairs under B weightings.

    Weights that are whole numbers add up exactly. A weighting without any weight on one of the
    kinds gives NaN.

    Args:
        ranked: the pairs.
        genuine: (G, B) what each genuine pair counts, in the order of ``ranked.genuine``.
        impostor: (I, B) what each impostor pair counts, in the order of ``ranked.impostor``.
    """

    def __init__(self, ranked: RankedPairs, genuine: FloatArray, impostor: FloatArray) -> None:
        self.ranked = ranked
        self.genuine = genuine
        self.impostor = impostor
        self._columns = np.arange(genuine.shape[1])

    @cached_property
    def _genuine_sum(self) -> FloatArray:
        return _running_sum(self.genuine)

    @cached_property
    def _impostor_sum(self) -> FloatArray:
        return _running_sum(self.impostor)

    def far(self, points: IntArray) -> FloatArray:
        """FAR at an operating point of each weighting: positions (..., B) to rates (..., B)."""
        counts = self._impostor_sum[self.ranked.impostor_accepted[points], self._columns]
        return _share(counts, self._impostor_sum[-1])

    def tar(self, points: IntArray) -> FloatArray:
        """TAR at an operating point of each weighting: positions (..., B) to rates (..., B)."""
        counts = self._genuine_sum[self.ranked.genuine_accepted[points], self._columns]
        return _share(counts, self._genuine_sum[-1])

    def tar_at_far(self, points: IntArray) -> FloatArray:
        """TAR at the points (F, B) of :meth:`points_at_far`; NaN without weight on impostors."""
        found = self.tar(points)
        found[:, self._impostor_sum[-1] == 0] = np.nan
        return found

    def auc(self) -> FloatArray:
        """Area under each curve, (B,); ties count half."""
        higher = self._impostor_sum.take(self.ranked.higher, axis=0)
        if not np.array_equal(self.ranked.higher, self.ranked.not_lower):
            higher += self._impostor_sum.take(self.ranked.not_lower, axis=0)
            higher /= 2
        lost = np.einsum("gb,gb->b", self.genuine, higher)
        return 1.0 - _share(lost, self._genuine_sum[-1] * self._impostor_sum[-1])

    def eer(self) -> FloatArray:
        """Equal error rate of each curve, (B,)."""

        def gap(points: IntArray) -> FloatArray:  # rises from -1 to +1
            return self.far(points) - (1.0 - self.tar(points))

        first = self._first(lambda points: gap(points) >= 0, self._columns.shape)
        right = np.clip(first, 1, self.ranked.threshold.size - 1)
        before, after = gap(right - 1), gap(right)
        start, end = self.far(right - 1), self.far(right)
        return start + _share(-before, after - before) * (end - start)

    def points_at_far(self, limits: Sequence[float]) -> IntArray:
        """The operating point of the lowest threshold with FAR <= limit: (F,) to (F, B)."""
        # As in roc_curve: a quotient of counts may miss its limit by one rounding.
        allowed = np.array(limits)[:, None] * (1 + 1e-12) * self._impostor_sum[-1]
        accepted = self.ranked.impostor_accepted

        def exceeds(points: IntArray) -> BoolArray:
            return np.asarray(self._impostor_sum[accepted[points], self._columns] > allowed)

        return self._first(exceeds, (len(limits), self._columns.size)) - 1

    def _first(self, reached: Callable[[IntArray], BoolArray], shape: tuple[int, ...]) -> IntArray:
        """The first operating point from which on ``reached`` holds; T where it never does."""
        size = self.ranked.threshold.size
        low = np.zeros(shape, dtype=np.int64)
        high = np.full_like(low, size)
        for _ in range(size.bit_length()):
            middle = (low + high) >> 1
            # Where low meets high the middle may be T, which is no point; it changes nothing there.
            yes = reached(np.minimum(middle, size - 1)) | (middle == size)
            high = np.where(yes, middle, high)
            low = np.where(yes, low, np.minimum(middle + 1, high))
        return low

    def weighted(self, per_pair: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sums of weight times a number of each pair (P,), over genuine and over impostor pairs."""
        return (
            np.asarray(per_pair[self.ranked.genuine] @ self.genuine, dtype=np.float64),
            np.asarray(per_pair[self.ranked.impostor] @ self.impostor, dtype=np.float64),
        )


def _running_sum(weights: FloatArray) -> FloatArray:
    result = np.empty((len(weights) + 1, weights.shape[1]))
    result[0] = 0.0
    np.cumsum(weights, axis=0, out=result[1:])
    return result


def _share(part: FloatArray, whole: npt.NDArray[np.float64]) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole, dtype=np.float64)
