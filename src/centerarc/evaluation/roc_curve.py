"""The exact ROC and DET curves and the numbers read off them.

A pair is accepted when `score >= threshold`. FAR is the share of impostor pairs accepted, TAR
the share of genuine pairs accepted, FRR = 1 - TAR. Pairs with equal scores are accepted or
rejected together, so they are one step of the curve, whatever order they came in.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import TooFew
from centerarc.evaluation.scores import (
    ROUNDED_UP,
    BoolArray,
    FloatArray,
    IntArray,
    ScoreArray,
    check_scores_as_given,
    row_blocks,
)

# Points at a time: as many as fit into the processor's cache.
_AUC_BLOCK = 1 << 15


@dataclass(frozen=True)
class Roc:
    """The operating points of a verifier, from "reject all" to "accept all"."""

    far: FloatArray  # (T,) false accept rate, not decreasing, from 0 to 1
    tar: FloatArray  # (T,) true accept rate, not decreasing, from 0 to 1
    threshold: ScoreArray  # (T,) accept `score >= threshold`; falling from +inf, in their dtype
    num_genuine: int
    num_impostor: int

    @property
    def auc(self) -> float:
        """Area under the curve (see `auc`)."""
        # In whole pairs, so that nothing is rounded before the last division.
        twice = 0
        for part in row_blocks(self.far.size - 1, _AUC_BLOCK):
            block = slice(part.start, part.stop + 1)
            false = np.rint(self.far[block] * self.num_impostor).astype(np.int64)
            true = np.rint(self.tar[block] * self.num_genuine).astype(np.int64)
            twice += int(np.dot(np.diff(false), true[1:] + true[:-1]))
        return twice / (2 * self.num_genuine * self.num_impostor)

    @property
    def eer(self) -> float:
        """Equal error rate (see `eer`)."""
        right = self.eer_point
        before, after = self._gap(right - 1), self._gap(right)
        start, end = self._exact_far(right - 1), self._exact_far(right)
        return float(start - before / (after - before) * (end - start))

    @property
    def eer_point(self) -> int:
        """The position of the highest threshold with a FAR that is not below the FRR."""
        # Never 0, since the first gap is -1.
        return bisect_left(range(self.far.size), Fraction(0), key=self._gap)

    def _exact_far(self, point: int) -> Fraction:
        return Fraction(round(float(self.far[point]) * self.num_impostor), self.num_impostor)

    def _gap(self, point: int) -> Fraction:
        """FAR minus FRR, which rises from -1 to +1."""
        tar = Fraction(round(float(self.tar[point]) * self.num_genuine), self.num_genuine)
        return self._exact_far(point) - (1 - tar)

    def point_at_far(self, far: float) -> int:
        """The position of the lowest threshold with a FAR of at most `far`, in (0, 1]."""
        check_far(far)
        return int(np.searchsorted(self.far, far * ROUNDED_UP, side="right")) - 1

    def point_nearest_far(self, far: float) -> int:
        """The position of the corner whose FAR is nearest to `far`, the higher of two as near.

        insightface's convention for IJB: only the points that scikit-learn's `roc_curve` keeps by
        default count, so a point on a straight piece of the curve does not, however near it is.
        """
        check_far(far)
        off = np.abs(self.far[self._corners] - far)
        return int(self._corners[off.size - 1 - np.argmin(off[::-1])])

    @cached_property
    def _corners(self) -> IntArray:
        """Positions at which the steps of false or of true accepts change, and all ends."""
        # Steps from "reject all" do not count, as scikit-learn adds that point afterwards.
        kept = np.ones(self.far.size, dtype=np.bool_)
        counts = ((self.far, self.num_impostor), (self.tar, self.num_genuine))
        bends = [np.diff(np.rint(rate[1:] * size), 2) != 0 for rate, size in counts]
        if kept.size > 3:
            kept[2:-1] = bends[0] | bends[1]
        return np.flatnonzero(kept)

    def threshold_above(self, point: int) -> float:
        """The lowest threshold that accepts no more impostor pairs than a point does.

        It is the next number, in the scores' precision, above the highest impostor score that
        the point rejects; where it rejects none, the lowest score.
        """
        if self.far[point] == 1:
            return float(self.threshold[-1])
        rejected = self.threshold[np.searchsorted(self.far, self.far[point], side="right")]
        return float(np.nextafter(rejected, np.array(np.inf, rejected.dtype)))


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """Every operating point of `score >= threshold`, one for each distinct score and +inf.

    The same points as scikit-learn's `roc_curve(same, scores, drop_intermediate=False)`, several
    times faster: scores are sorted with the kind of their pair inside them.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> curve = roc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        >>> curve.far.tolist(), curve.tar.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    values, labels = check_scores_as_given(scores, same)
    genuine = int(np.count_nonzero(labels))
    return Roc(*_curve_points(values, labels), genuine, labels.size - genuine)


def auc(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Area under the ROC: the chance that a genuine pair outscores an impostor pair.

    AUC = P(genuine > impostor) + P(genuine = impostor) / 2; equals scikit-learn's
    `roc_auc_score`, ties included, in [0, 1]. Counted in whole pairs: only the result is rounded.
    Arguments and errors are those of `roc`.

    Example:
        >>> auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.875
    """
    return roc(scores, same).auc


def eer(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Equal error rate: the error where false accepts and false rejects are equally frequent.

    The ROC's operating points are joined by straight lines (the line over a group of ties is what
    a coin toss within the group would reach, as in `auc`); the EER is the FAR in [0, 1] where
    this line meets FAR = FRR. It is the curve itself, not its convex hull. Arguments and errors are
    those of `roc`.

    Example:
        >>> eer([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.25
    """
    return roc(scores, same).eer


def check_far(far: float) -> None:
    """Raise a ValueError unless `far` is in (0, 1]."""
    if not 0 < far <= 1:
        raise ValueError(f"far must be in (0, 1], got {far}")


def allowed_accepts(far: float, num_impostor: int) -> int:
    """How many of `num_impostor` pairs may be accepted at a false accept rate of `far`."""
    # By the quotient, as a curve's rates are: 0.3 * 10 rounds to 2.999...
    count = round(far * num_impostor)
    return count if count / num_impostor <= far * ROUNDED_UP else count - 1


@overload
def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: float) -> float: ...
@overload
def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: list[float]) -> list[float]: ...


def tar_at_far(
    scores: npt.ArrayLike, same: npt.ArrayLike, far: float | list[float]
) -> float | list[float]:
    """True accept rate at the lowest threshold whose false accept rate is at most `far`.

    No interpolation: a threshold that can be set reaches this TAR. At least `1 / far` impostor
    pairs are needed, so that one false accept is not already above the limit; with fewer the
    answer would be the TAR at FAR 0 under another name. The score that must be exceeded is found
    by selection; nothing is sorted.

    Args:
        scores, same: as of `roc`, also their errors.
        far: largest false accept rate, in (0, 1], or a list of them.

    Returns:
        A rate in [0, 1], or one for each `far`.

    Raises:
        ValueError: `far` out of range or below what the impostor pairs support.

    Example:
        >>> tar_at_far([0.9, 0.6, 0.7, 0.1], [True, True, False, False], far=0.5)
        1.0
    """
    limits = far if isinstance(far, list) else [far]
    for limit in limits:
        check_far(limit)
    values, labels = check_scores_as_given(scores, same)
    # By number, which is many times faster than by a mask, whose branches cannot be predicted.
    genuine, impostor = values.take(np.flatnonzero(labels)), values.take(np.flatnonzero(~labels))
    size = impostor.size
    for limit in limits:
        reason = TooFew.for_rate("FAR", limit, "impostor", size)
        if reason is not None:
            raise ValueError(str(reason))
    allowed = [allowed_accepts(limit, size) for limit in limits]
    rates: dict[int, float] = {size: 1.0}
    # From the most to the fewest accepted: each selection looks only among the last one's highest.
    for count in sorted(set(allowed) - {size}, reverse=True):
        kth = impostor.size - 1 - count
        impostor.partition(kth)
        rates[count] = float(np.count_nonzero(genuine > impostor[kth]) / genuine.size)
        impostor = impostor[kth:]
    found = [rates[count] for count in allowed]
    return found if isinstance(far, list) else found[0]


# The detection error tradeoff.


@dataclass(frozen=True)
class Det:
    """Operating points by rising FAR, at each FAR the one with the fewest false rejects."""

    far: FloatArray  # (T,) false accept rate, rising
    frr: FloatArray  # (T,) false reject rate, not increasing
    threshold: ScoreArray  # (T,) accept `score >= threshold`; falling


def det(scores: npt.ArrayLike, same: npt.ArrayLike) -> Det:
    """FRR = 1 - TAR at every FAR that a threshold reaches, from 0 to 1; nothing is interpolated.

    Arguments and errors are those of `roc`.

    Example:
        >>> curve = det([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        >>> curve.far.tolist(), curve.frr.tolist()
        ([0.0, 0.5, 1.0], [0.5, 0.0, 0.0])
    """
    curve = roc(scores, same)
    # At each FAR the last point has the lowest threshold, so the fewest false rejects.
    last = np.append(np.flatnonzero(curve.far[1:] != curve.far[:-1]), curve.far.size - 1)
    return _det_at(curve, last)


def thinned_det(curve: Roc) -> Det:
    """A DET of a few dozen points, ten for each power of ten of the FAR.

    The operating points at the lowest thresholds with FAR <= 10^(-k / 10), k = 0, 1, ..., as far as
    there are 1 / FAR impostor pairs. The FARs are those that are reached.
    """
    steps = np.arange(int(10 * np.log10(curve.num_impostor) + 1e-9) + 1)
    at = [curve.point_at_far(float(10.0 ** (-step / 10))) for step in steps]
    return _det_at(curve, np.unique(at).astype(np.int64))


def _det_at(curve: Roc, at: IntArray) -> Det:
    return Det(curve.far[at], 1.0 - curve.tar[at], curve.threshold[at])


# All points of a curve by one sort of plain numbers.
#
# numpy sorts floats with vector instructions, but neither pair numbers by score nor records. So the
# kind of a pair travels in the score itself: a float below 1.5 in size never uses the highest bit
# of its exponent, so all others can move up by one and leave the lowest for the kind. Such a key is
# still a finite float, and keys are in the order of their scores. Nothing is rounded.

# Scores at a time, so that what is made of them stays in the processor's cache.
_BLOCK = 1 << 17
# From this size on, a score uses all bits of its exponent.
_LIMIT = 1.5

_Keys = npt.NDArray[np.signedinteger[Any]]
_Points = tuple[FloatArray, FloatArray, ScoreArray]


def _curve_points(scores: ScoreArray, same: BoolArray) -> _Points:
    """FAR, TAR and thresholds of finite scores (P,): first +inf, then each distinct score."""
    largest = max(float(scores.max()), -float(scores.min()))
    if largest < _LIMIT:
        return _points(scores, same)
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(scores, -exponent)
    if np.array_equal(np.ldexp(scaled, exponent), scores):
        far, tar, threshold = _points(scaled, same)
        return far, tar, np.ldexp(threshold, exponent, out=threshold)
    # Beside such a large number others got too small for all their bits: their ranks stand in.
    distinct, rank = np.unique(scores, return_inverse=True)
    far, tar, threshold = _points(np.ldexp(rank.astype(np.float64), -53), same)
    found = np.empty(threshold.size, scores.dtype)
    found[0], found[1:] = np.inf, distinct[np.ldexp(threshold[1:], 53).astype(np.int64)]
    return far, tar, found


def _points(scores: ScoreArray, same: BoolArray) -> _Points:
    whole, sign, magnitude = _bits_of(scores.dtype)
    sorted_keys = np.empty(scores.size, scores.dtype)
    keys = sorted_keys.view(whole)
    blocks = list(row_blocks(scores.size, _BLOCK))
    for block in blocks:
        # Rising is from the most alike. Taken from 0, so that no -0.0 differs from 0.0.
        np.subtract(0, scores[block], out=sorted_keys[block])
        bits = keys[block]
        signs = bits & sign
        bits <<= 1
        bits |= signs
        bits |= same[block]
    sorted_keys.sort()

    size = 1 + scores.size
    far, tar, threshold = np.empty(size), np.empty(size), np.empty(size, scores.dtype)
    far[0], tar[0], threshold[0] = 0.0, 0.0, np.inf
    all_genuine = int(np.count_nonzero(same))
    filled, impostor, genuine = 1, 0, 0
    for block in blocks:
        bits = keys[block]
        # Counted in 32 bits, which become float64 several times faster than 64 do.
        accepted = np.cumsum(bits & 1, dtype=np.int32)
        seen = np.arange(1, bits.size + 1, dtype=np.int32)
        ends = impostor + bits.size - int(accepted[-1]), genuine + int(accepted[-1])
        last = _last_of_score(bits, keys[block.start + 1 : block.stop + 1])
        if not last.all():
            # By number, as in `tar_at_far`.
            rows = np.flatnonzero(last)
            bits, accepted, seen = bits.take(rows), accepted.take(rows), seen.take(rows)
        place = slice(filled, filled + bits.size)
        np.add(seen - accepted, float(impostor), out=far[place])
        np.add(accepted, float(genuine), out=tar[place])
        far[place] /= scores.size - all_genuine
        tar[place] /= all_genuine
        score = bits >> 1
        score &= magnitude
        score |= bits & sign
        np.subtract(0, score.view(scores.dtype), out=threshold[place])
        filled += bits.size
        impostor, genuine = ends
    return far[:filled], tar[:filled], threshold[:filled]


def _last_of_score(keys: _Keys, followers: _Keys) -> BoolArray:
    """Which keys are followed by another score, or by nothing."""
    found = np.ones(keys.size, dtype=np.bool_)
    # Keys that differ at most in their lowest bit are of equal scores.
    differing = keys[: followers.size] ^ followers
    np.greater(differing.view(f"u{keys.itemsize}"), 1, out=found[: followers.size])
    return found


def _bits_of(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Any, Any]:
    """The whole numbers of a float's size, and in them the bits of its sign and of its rest."""
    whole = np.dtype(f"i{dtype.itemsize}")
    bits = 8 * dtype.itemsize
    return whole, whole.type(-(2 ** (bits - 1))), whole.type(2 ** (bits - 2) - 1)
