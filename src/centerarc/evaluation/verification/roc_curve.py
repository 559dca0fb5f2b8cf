"""The exact receiver operating characteristic and the numbers that are read off it.

A pair is accepted when ``score >= threshold``. FAR is the share of impostor pairs accepted, TAR
the share of genuine pairs accepted, FRR = 1 - TAR. Pairs with equal scores are accepted or
rejected together, so they are one step of the curve, whatever order they came in.
"""

from bisect import bisect_left
from dataclasses import dataclass
from fractions import Fraction
from typing import overload

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.estimate import fewest_trials, rate_key
from centerarc.evaluation.scores import FloatArray, ScoreArray, check_scores_as_given
from centerarc.evaluation.verification.sorted_points import curve_points

# A quotient of counts may miss the limit that it stands for by one rounding.
_ROUNDING = 1 + 1e-12
# Points at a time: as many as fit into the processor's cache.
_BLOCK = 1 << 15


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
        for start in range(0, self.far.size - 1, _BLOCK):
            block = slice(start, start + _BLOCK + 1)
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


def unsupported_far(far: float, num_impostor: int) -> str | None:
    """Why ``num_impostor`` pairs cannot carry a false accept rate of ``far``; None if they can."""
    if num_impostor >= (1 / far) * (1 - 1e-12):
        return None
    return (
        f"FAR {rate_key(far)} needs at least {fewest_trials(far)} impostor pairs, there are "
        f"{num_impostor:,}"
    )


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
            raise ValueError(reason)
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
