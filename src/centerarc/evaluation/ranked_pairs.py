"""Pairs ranked by score once, and their curves under many weightings at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, ScoreArray


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
