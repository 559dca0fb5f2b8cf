"""The exact ROC and DET curves and the numbers read off them."""

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import TooFew
from centerarc.evaluation.scores import (
    BoolArray,
    FloatArray,
    IntArray,
    ScoreArray,
    check_scores_as_given,
)

# All points of a curve by one sort of plain numbers, in threads.
#
# numpy sorts floats with vector instructions, but neither pair numbers by score nor records. So the
# kind of a pair travels in the score itself: a float below 1.5 in size never uses the highest bit
# of
# its exponent, so all others can move up by one and leave the lowest for the kind. Such a key is
# still a finite float, and keys are in the order of their scores. Nothing is rounded.

# Scores at a time, so that what is made of them stays in the processor's cache.
_BLOCK = 1 << 17
_MOST_THREADS = 8
# From this size on, a score uses all bits of its exponent.
_LIMIT = 1.5

_Keys = npt.NDArray[np.signedinteger[Any]]
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def curve_points(scores: ScoreArray, same: BoolArray) -> tuple[FloatArray, FloatArray, ScoreArray]:
    """The rates at every threshold that accepts more than the next higher one.

    Args:
        scores: (P,) finite.
        same: (P,) which are genuine; both kinds are there.

    Returns:
        FAR, TAR and thresholds: first +inf, then each distinct score, falling.
    """
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


class _Range(NamedTuple):
    """The keys of some values that follow each other.

    Attributes:
        keys: (K,) rising, as whole numbers of the same bits.
        genuine: how many are of genuine pairs.
    """

    keys: _Keys
    genuine: int


def _points(scores: ScoreArray, same: BoolArray) -> tuple[FloatArray, FloatArray, ScoreArray]:
    threads = min(_MOST_THREADS, _cores(), scores.size // _BLOCK)
    bounds = _bounds(scores, max(1, threads))
    ranges = _in_threads(partial(_sorted_range, scores, same), bounds, threads)
    size = 1 + scores.size
    far, tar, threshold = np.empty(size), np.empty(size), np.empty(size, scores.dtype)
    far[0], tar[0], threshold[0] = 0.0, 0.0, np.inf
    genuine = sum(part.genuine for part in ranges)
    totals = scores.size - genuine, genuine
    jobs, starts = [], []
    start, before = 1, (0, 0)
    for part in ranges:
        # Where its points would stand if no scores were equal.
        place = slice(start, start + part.keys.size)
        jobs.append((part.keys, before, (far[place], tar[place], threshold[place])))
        starts.append(start)
        start += part.keys.size
        before = before[0] + part.keys.size - part.genuine, before[1] + part.genuine
    counts = _in_threads(partial(_write_points, totals), jobs, threads)
    filled = 1
    for start, count in zip(starts, counts, strict=True):
        for values in (far, tar, threshold) if start > filled else ():
            for block in _blocks(count):
                moved = values[start + block.start : start + block.stop]
                values[filled + block.start : filled + block.stop] = moved
        filled += count
    return far[:filled], tar[:filled], threshold[:filled]


def _bounds(scores: ScoreArray, count: int) -> list[tuple[float, float]]:
    """Ranges of scores about as full as each other, falling: from above ``low`` to ``high``."""
    sample = np.sort(scores[:: max(1, scores.size // 4096)])[::-1]
    cuts = [float(sample[sample.size * number // count]) for number in range(1, count)]
    ends = [math.inf, *cuts, -math.inf]
    return list(zip(ends[1:], ends[:-1], strict=True))


def _sorted_range(scores: ScoreArray, same: BoolArray, bounds: tuple[float, float]) -> _Range:
    whole, sign, _ = _bits_of(scores.dtype)
    parts = [scores[block] for block in _blocks(scores.size)]
    size = sum(int(np.count_nonzero(_within(part, *bounds))) for part in parts)
    keys = np.empty(size, scores.dtype)
    filled = genuine = 0
    for block in _blocks(scores.size):
        values, kinds = scores[block], same[block]
        if size < scores.size:
            # By number, which is many times faster than by a mask whose next value nobody foresees.
            chosen = np.flatnonzero(_within(values, *bounds))
            values, kinds = values.take(chosen), kinds.take(chosen)
        key = keys[filled : filled + values.size]
        # Rising is from the most alike. Taken from 0, so that no -0.0 differs from 0.0.
        np.subtract(0, values, out=key)
        bits = key.view(whole)
        signs = bits & sign
        bits <<= 1
        bits |= signs
        bits |= kinds
        filled += values.size
        genuine += int(np.count_nonzero(kinds))
    keys.sort()
    return _Range(keys.view(whole), genuine)


def _write_points(
    totals: tuple[int, int],
    job: tuple[_Keys, tuple[int, int], tuple[FloatArray, FloatArray, ScoreArray]],
) -> int:
    """Write the points of one range at the front of its place; says how many there are.

    Args:
        totals: all impostor and all genuine pairs.
        job: the keys, the impostor and genuine pairs of higher scores, and the place.
    """
    keys, (impostor, genuine), (far, tar, threshold) = job
    _, sign, magnitude = _bits_of(threshold.dtype)
    filled = 0
    for block in _blocks(keys.size):
        bits = keys[block]
        # Counted in 32 bits, which become float64 several times faster than 64 do.
        accepted = np.cumsum(bits & 1, dtype=np.int32)
        seen = np.arange(1, bits.size + 1, dtype=np.int32)
        ends = impostor + bits.size - int(accepted[-1]), genuine + int(accepted[-1])
        last = _last_of_score(keys, block)
        if not last.all():
            rows = np.flatnonzero(last)
            bits, accepted, seen = bits.take(rows), accepted.take(rows), seen.take(rows)
        place = slice(filled, filled + bits.size)
        np.add(seen - accepted, float(impostor), out=far[place])
        np.add(accepted, float(genuine), out=tar[place])
        far[place] /= totals[0]
        tar[place] /= totals[1]
        score = bits >> 1
        score &= magnitude
        score |= bits & sign
        np.subtract(0, score.view(threshold.dtype), out=threshold[place])
        filled += bits.size
        impostor, genuine = ends
    return filled


def _last_of_score(keys: _Keys, block: slice) -> BoolArray:
    """Which keys of a block are followed by another score, or by nothing."""
    found = np.ones(keys[block].size, dtype=np.bool_)
    follower = keys[block.start + 1 : block.stop + 1]
    # Keys that differ at most in their lowest bit are of equal scores.
    differing = keys[block.start : block.start + follower.size] ^ follower
    np.greater(differing.view(f"u{keys.itemsize}"), 1, out=found[: follower.size])
    return found


def _bits_of(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Any, Any]:
    """The whole numbers of a float's size, and in them the bits of its sign and of its rest."""
    whole = np.dtype(f"i{dtype.itemsize}")
    bits = 8 * dtype.itemsize
    return whole, whole.type(-(2 ** (bits - 1))), whole.type(2 ** (bits - 2) - 1)


def _within(scores: ScoreArray, low: float, high: float) -> BoolArray:
    if math.isinf(high):
        return np.asarray(scores > low)
    within: BoolArray = scores <= high
    if not math.isinf(low):
        within &= scores > low
    return within


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _in_threads(
    work: Callable[[_Part], _Result], parts: Iterable[_Part], threads: int
) -> list[_Result]:
    if threads < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))


def _cores() -> int:
    # Not os.cpu_count alone: a container may be allowed fewer than there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# The exact receiver operating characteristic and the numbers that are read off it.
#
# A pair is accepted when ``score >= threshold``. FAR is the share of impostor pairs accepted, TAR
# the share of genuine pairs accepted, FRR = 1 - TAR. Pairs with equal scores are accepted or
# rejected together, so they are one step of the curve, whatever order they came in.

# A quotient of counts may miss the limit that it stands for by one rounding.
_ROUNDING = 1 + 1e-12
# Points at a time: as many as fit into the processor's cache.
_BLOCK_ROC_CURVE = 1 << 15


@dataclass(frozen=True)
class Roc:
    """The operating points of a verifier, from "reject all" to "accept all".

    Attributes:
        far: (T,) false accept rate, not decreasing, from 0 to 1.
        tar: (T,) true accept rate, not decreasing, from 0 to 1.
        threshold: (T,) accept ``score >= threshold``; falling, the first is +inf. In the scores'
            precision.
        num_genuine: genuine pairs.
        num_impostor: impostor pairs.
    """

    far: FloatArray
    tar: FloatArray
    threshold: ScoreArray
    num_genuine: int
    num_impostor: int

    @property
    def auc(self) -> float:
        """Area under the curve (see :func:`auc`)."""
        # In whole pairs, so that nothing is rounded before the last division.
        twice = 0
        for start in range(0, self.far.size - 1, _BLOCK_ROC_CURVE):
            block = slice(start, start + _BLOCK_ROC_CURVE + 1)
            false = np.rint(self.far[block] * self.num_impostor).astype(np.int64)
            true = np.rint(self.tar[block] * self.num_genuine).astype(np.int64)
            twice += int(np.dot(np.diff(false), true[1:] + true[:-1]))
        return twice / (2 * self.num_genuine * self.num_impostor)

    @property
    def eer(self) -> float:
        """Equal error rate (see :func:`eer`)."""

        def rates(point: int) -> tuple[Fraction, Fraction]:
            false = round(float(self.far[point]) * self.num_impostor)
            true = round(float(self.tar[point]) * self.num_genuine)
            return Fraction(false, self.num_impostor), Fraction(true, self.num_genuine)

        def gap(point: int) -> Fraction:  # rises from -1 to +1
            far, tar = rates(point)
            return far - (1 - tar)

        right = bisect_left(
            range(self.far.size), Fraction(0), key=gap
        )  # never 0: the first gap is -1
        before, after = gap(right - 1), gap(right)
        start, end = rates(right - 1)[0], rates(right)[0]
        return float(start - before / (after - before) * (end - start))

    def point_at_far(self, far: float) -> int:
        """The operating point of the lowest threshold whose false accept rate is at most ``far``.

        Args:
            far: largest false accept rate, in (0, 1].

        Returns:
            The point's position in the arrays.

        Raises:
            ValueError: ``far`` out of range.
        """
        check_far(far)
        return int(np.searchsorted(self.far, far * _ROUNDING, side="right")) - 1


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """Every operating point of ``score >= threshold``, one for each distinct score and +inf.

    The same points as scikit-learn's ``roc_curve(same, scores, drop_intermediate=False)``.
    Scores are sorted with the kind of their pair inside them, which is several times faster than
    sorting pair numbers by score, in as many threads as there are cores, at most eight.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Returns:
        The curve, T = number of distinct scores + 1 points.

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> curve = roc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        >>> curve.far.tolist(), curve.tar.tolist()
        ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    values, labels = check_scores_as_given(scores, same)
    genuine = int(np.count_nonzero(labels))
    return Roc(*curve_points(values, labels), genuine, labels.size - genuine)


def auc(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Area under the ROC: the chance that a genuine pair outscores an impostor pair.

    AUC = P(genuine > impostor) + P(genuine = impostor) / 2; equals scikit-learn's
    ``roc_auc_score``, ties included. Counted in whole pairs: only the result is rounded.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Returns:
        A number in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.875
    """
    return roc(scores, same).auc


def eer(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Equal error rate: the error where false accepts and false rejects are equally frequent.

    The ROC's operating points are joined by straight lines (the line over a group of ties is what
    a coin toss within the group would reach, as in :func:`auc`); the EER is the FAR where this
    line meets FAR = FRR. It is the curve itself, not its convex hull.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Returns:
        A rate in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> eer([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        0.25
    """
    return roc(scores, same).eer


def check_far(far: float) -> None:
    """Raise a ValueError unless ``far`` is in (0, 1]."""
    if not 0 < far <= 1:
        raise ValueError(f"far must be in (0, 1], got {far}")


def unsupported_far(far: float, num_impostor: int) -> TooFew | None:
    """Why ``num_impostor`` pairs cannot carry a false accept rate of ``far``; None if they can."""
    if num_impostor >= (1 / far) * (1 - 1e-12):
        return None
    return TooFew("impostor", num_impostor, rate=("FAR", far))


def allowed_accepts(far: float, num_impostor: int) -> int:
    """How many of ``num_impostor`` pairs may be accepted at a false accept rate of ``far``."""
    # By the quotient, as a curve's rates are: 0.3 * 10 rounds to 2.999...
    count = round(far * num_impostor)
    return count if count / num_impostor <= far * _ROUNDING else count - 1


@overload
def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: float) -> float: ...
@overload
def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: list[float]) -> list[float]: ...


def tar_at_far(
    scores: npt.ArrayLike, same: npt.ArrayLike, far: float | list[float]
) -> float | list[float]:
    """True accept rate at the lowest threshold whose false accept rate is at most ``far``.

    No interpolation: a threshold that can be set reaches this TAR. At least ``1 / far`` impostor
    pairs are needed, so that one false accept is not already above the limit; with fewer the
    answer would be the TAR at FAR 0 under another name. The score that must be exceeded is found
    by selection; nothing is sorted.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        far: largest false accept rate, in (0, 1], or a list of them.

    Returns:
        A rate in [0, 1], or one for each ``far``.

    Raises:
        ValueError: ``far`` out of range or below what the impostor pairs support; a score that is
            not finite (with its row); no pair of one of the kinds.

    Example:
        >>> tar_at_far([0.9, 0.6, 0.7, 0.1], [True, True, False, False], far=0.5)
        1.0
    """
    limits = far if isinstance(far, list) else [far]
    for limit in limits:
        check_far(limit)
    values, labels = check_scores_as_given(scores, same)
    # By number, which is many times faster than by a mask whose next value nobody foresees.
    genuine, impostor = values.take(np.flatnonzero(labels)), values.take(np.flatnonzero(~labels))
    size = impostor.size
    for limit in limits:
        reason = unsupported_far(limit, size)
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


# The detection error tradeoff: what is rejected wrongly at every rate of wrong accepts.


@dataclass(frozen=True)
class Det:
    """Operating points by rising FAR, at each FAR the one with the fewest false rejects.

    Attributes:
        far: (T,) false accept rate, rising.
        frr: (T,) false reject rate, not increasing.
        threshold: (T,) accept ``score >= threshold``; falling. The first is +inf where the highest
            score is an impostor's.
    """

    far: FloatArray
    frr: FloatArray
    threshold: ScoreArray


def det(scores: npt.ArrayLike, same: npt.ArrayLike) -> Det:
    """FRR = 1 - TAR at every FAR that a threshold reaches.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Returns:
        The points, FAR from 0 to 1; nothing is interpolated.

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> curve = det([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
        >>> curve.far.tolist(), curve.frr.tolist()
        ([0.0, 0.5, 1.0], [0.5, 0.0, 0.0])
    """
    curve = roc(scores, same)
    # At each FAR the last point has the lowest threshold, so the fewest false rejects.
    last = np.append(np.flatnonzero(curve.far[1:] != curve.far[:-1]), curve.far.size - 1)
    return _points_det_curve(curve, last)


def thinned_det(curve: Roc, num_impostor: int, per_decade: int = 10) -> Det:
    """A DET of a few dozen points, evenly spaced on a logarithmic FAR axis.

    Args:
        curve: all operating points.
        num_impostor: impostor pairs behind the curve.
        per_decade: points for each power of ten, at least 1.

    Returns:
        The operating points at the lowest thresholds with FAR <= 10^(-k / per_decade), k = 0, 1,
        ..., as far as there are 1 / FAR impostor pairs. The FARs are those that are reached.
    """
    steps = np.arange(int(per_decade * np.log10(num_impostor) + 1e-9) + 1)
    at = [curve.point_at_far(float(10.0 ** (-step / per_decade))) for step in steps]
    return _points_det_curve(curve, np.unique(at).astype(np.int64))


def _points_det_curve(curve: Roc, at: IntArray) -> Det:
    return Det(curve.far[at], 1.0 - curve.tar[at], curve.threshold[at])
