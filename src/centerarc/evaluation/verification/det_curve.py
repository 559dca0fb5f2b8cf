"""The detection error tradeoff: what is rejected wrongly at every rate of wrong accepts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import FloatArray, IntArray, ScoreArray
from centerarc.evaluation.verification.roc_curve import Roc, roc


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
    return _points(curve, last)


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
    return _points(curve, np.unique(at).astype(np.int64))


def _points(curve: Roc, at: IntArray) -> Det:
    return Det(curve.far[at], 1.0 - curve.tar[at], curve.threshold[at])
