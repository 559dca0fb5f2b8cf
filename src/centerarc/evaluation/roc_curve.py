"""The exact receiver operating characteristic and the numbers that are read off it.

A pair is accepted when ``score >= threshold``. FAR is the share of impostor pairs accepted, TAR
the share of genuine pairs accepted, FRR = 1 - TAR. Pairs with equal scores are accepted or
rejected together, so they are one step of the curve, whatever order they came in.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, check_scores


@dataclass(frozen=True)
class Roc:
    """The operating points of a verifier, from "reject all" to "accept all".

    Attributes:
        far: (T,) false accept rate, not decreasing, from 0 to 1.
        tar: (T,) true accept rate, not decreasing, from 0 to 1.
        threshold: (T,) accept ``score >= threshold``; falling, the first is +inf.
    """

    far: FloatArray
    tar: FloatArray
    threshold: FloatArray


@dataclass(frozen=True)
class RankedPairs:
    """Pairs sorted by falling score: sorted once, counted under many weightings.

    Attributes:
        order: (P,) pair numbers by falling score.
        last: (T,) position in ``order`` of the last pair of each group of equal scores.
        threshold: (T,) the score of each group.
        same: (P,) in the original order.
    """

    order: IntArray
    last: IntArray
    threshold: FloatArray
    same: BoolArray

    def rates(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """FAR and TAR at every operating point under each row of weights.

        Args:
            weights: (B, P) what each pair counts, at least 0.

        Returns:
            FAR and TAR, each (B, T + 1); a row without any weight on one of the kinds is NaN there.
        """
        genuine = np.where(self.same, weights, 0.0)
        impostor = weights - genuine
        return self._rate(impostor), self._rate(genuine)

    def _rate(self, weights: FloatArray) -> FloatArray:
        count = np.cumsum(weights[:, self.order], axis=1)[:, self.last]
        count = np.concatenate([np.zeros((len(count), 1)), count], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(count / count[:, -1:], dtype=np.float64)


def rank_pairs(scores: FloatArray, same: BoolArray) -> RankedPairs:
    """Sort checked ``scores`` (P,) once and group the ties."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    return RankedPairs(order.astype(np.int64), last.astype(np.int64), ranked[last], same)


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> Roc:
    """Every operating point of ``score >= threshold``, one for each distinct score and +inf.

    The same points as scikit-learn's ``roc_curve(same, scores, drop_intermediate=False)``.

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
    values, labels = check_scores(scores, same)
    ranked = rank_pairs(values, labels)
    far, tar = ranked.rates(np.ones((1, values.size)))
    return Roc(far[0], tar[0], np.concatenate([[np.inf], ranked.threshold]))


def area(far: FloatArray, tar: FloatArray) -> FloatArray:
    """Area under each row's curve by the trapezoid rule. Arrays (B, T); returns (B,)."""
    steps = np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1])
    return np.asarray(steps.sum(axis=1) / 2, dtype=np.float64)


def equal_error(far: FloatArray, tar: FloatArray) -> FloatArray:
    """Where each row's curve crosses FAR = FRR (see :func:`eer`). Arrays (B, T); returns (B,)."""
    frr = 1.0 - tar
    gap = far - frr  # rises from -1 to +1
    right = np.argmax(gap >= 0, axis=1)  # never 0: the first gap is -1
    rows = np.arange(len(far))
    before, after = gap[rows, right - 1], gap[rows, right]
    share = -before / (after - before)
    start, end = far[rows, right - 1], far[rows, right]
    return np.asarray(start + share * (end - start), dtype=np.float64)


def accept_at(far: FloatArray, tar: FloatArray, limit: float) -> FloatArray:
    """Largest TAR with FAR <= limit in each row. Arrays (B, T); returns (B,)."""
    # A quotient of counts may miss the limit that it stands for by one rounding.
    allowed = far <= limit * (1 + 1e-12)
    return np.asarray(np.where(allowed, tar, 0.0).max(axis=1), dtype=np.float64)


def auc(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Area under the ROC: the chance that a genuine pair outscores an impostor pair.

    AUC = P(genuine > impostor) + P(genuine = impostor) / 2; equals scikit-learn's
    ``roc_auc_score``, ties included.

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
    curve = roc(scores, same)
    return float(area(curve.far[None], curve.tar[None])[0])


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
    curve = roc(scores, same)
    return float(equal_error(curve.far[None], curve.tar[None])[0])


def unsupported_far(far: float, num_impostor: int) -> str | None:
    """Why ``num_impostor`` pairs cannot carry a false accept rate of ``far``; None if they can."""
    if num_impostor >= (1 / far) * (1 - 1e-12):
        return None
    return (
        f"FAR {far:g} needs at least {round(1 / far):,} impostor pairs, there are {num_impostor:,}"
    )


def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: float) -> float:
    """True accept rate at the lowest threshold whose false accept rate is at most ``far``.

    No interpolation: a threshold that can be set reaches this TAR. At least ``1 / far`` impostor
    pairs are needed, so that one false accept is not already above the limit; with fewer the
    answer would be the TAR at FAR 0 under another name.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        far: largest false accept rate, in (0, 1].

    Returns:
        A rate in [0, 1].

    Raises:
        ValueError: ``far`` out of range or below what the impostor pairs support; a score that is
            not finite (with its row); no pair of one of the kinds.

    Example:
        >>> tar_at_far([0.9, 0.6, 0.7, 0.1], [True, True, False, False], far=0.5)
        1.0
    """
    if not 0 < far <= 1:
        raise ValueError(f"far must be in (0, 1], got {far}")
    values, labels = check_scores(scores, same)
    reason = unsupported_far(far, int((~labels).sum()))
    if reason is not None:
        raise ValueError(reason)
    curve = roc(values, labels)
    return float(accept_at(curve.far[None], curve.tar[None], far)[0])
