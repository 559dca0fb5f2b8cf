"""The threshold for a wanted false accept rate, and how far both may be off with other people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.bootstrap import (
    Interval,
    PairPeople,
    check_resamples,
    percentile_interval,
    resampled_curves,
    spread,
)
from centerarc.evaluation.estimate import low_high
from centerarc.evaluation.ranked_pairs import RankedPairs, WeightedCurves, rank_pairs
from centerarc.evaluation.scores import FloatArray, IntArray, ScoreArray, check_scores_as_given
from centerarc.evaluation.verification.roc_curve import unsupported_far


@dataclass(frozen=True)
class CalibratedThreshold:
    """A threshold for a wanted false accept rate.

    Attributes:
        wanted_far: the false accept rate that is not to be exceeded.
        threshold: accept ``score >= threshold``; the lowest one with ``far <= wanted_far``. None
            where the impostor pairs are too few.
        far: the false accept rate of these very impostor pairs at the threshold; None without one.
        threshold_interval: 95 % of the thresholds that samples of as many people would give; None
            without people or without a threshold.
        far_interval: 95 % of the false accept rates that such thresholds would have among all of
            the people: what to expect of new people. None without people or without a threshold.
        reason: why there is no threshold.
    """

    wanted_far: float
    threshold: float | None
    far: float | None
    threshold_interval: Interval | None = None
    far_interval: Interval | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        result: dict[str, Any] = {
            "threshold": self.threshold,
            "threshold_interval95": low_high(self.threshold_interval),
            "far": self.far,
            "far_on_new_people_interval95": low_high(self.far_interval),
        }
        return result if self.reason is None else {**result, "reason": self.reason}


def check_wanted_far(far: float) -> None:
    """Raise a ValueError unless ``far`` is in (0, 1), where a threshold decides something."""
    if not 0 < far * (1 + 1e-12) < 1:  # with room for rounding, as curves have it
        raise ValueError(f"far must be in (0, 1), got {far}")


def calibrated_threshold(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    far: float,
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> CalibratedThreshold:
    """The lowest threshold at which at most a share ``far`` of the impostor pairs is accepted.

    It is the next number, in the scores' precision, above the highest impostor score that must be
    rejected. The intervals resample people: each resample chooses its threshold, which is then
    tried on all of the impostor pairs, as ours would be on people whom it was not chosen on.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        far: the wanted false accept rate, in (0, 1).
        people: the first and the second person of each pair, each (P,), names or numbers.
            None: no intervals.
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        The threshold, or why the impostor pairs are too few for one.

    Raises:
        ValueError: ``far`` out of range, arguments that contradict each other, a score that is not
            finite (with its row), or no pair of one of the kinds.

    Example:
        >>> found = calibrated_threshold([0.9, 0.5, 0.25, 0.75], [True, False, False, False], 0.4)
        >>> found.far, 0.5 < found.threshold < 0.5 + 1e-15
        (0.3333333333333333, True)
        >>> calibrated_threshold([0.9, 0.1], [True, False], 0.01).reason
        'FAR 0.01 needs at least 100 impostor pairs, there are 1'
    """
    check_wanted_far(far)
    check_resamples(bootstrap)
    values, labels = check_scores_as_given(scores, same)
    ranked = rank_pairs(values, labels)
    calibration = Calibration(ranked, [far])
    who = None if people is None else PairPeople.of(people, labels)
    if who is not None and calibration.supported:
        for (curves,) in resampled_curves([ranked], who, bootstrap, seed):
            calibration.add(curves, curves.points_at_far(calibration.supported))
    return calibration.results(who)[far]


class Calibration:
    """Thresholds for several false accept rates, whose intervals grow resample by resample.

    Args:
        ranked: the pairs.
        fars: wanted false accept rates, each in (0, 1).

    Attributes:
        supported: those for which there are enough impostor pairs.
    """

    def __init__(self, ranked: RankedPairs, fars: Sequence[float]) -> None:
        size = ranked.impostor.size
        self._ranked = ranked
        self._reasons = {far: unsupported_far(far, size) for far in fars}
        self.supported = [far for far in fars if self._reasons[far] is None]
        self._thresholds: list[FloatArray] = []
        self._fars: list[FloatArray] = []

    def add(self, curves: WeightedCurves, points: IntArray) -> None:
        """Take in resamples whose operating points at the supported FARs are ``points`` (F, B)."""
        if not self.supported:
            return
        usable = ~np.isnan(curves.far(points[0]))
        points = points[:, usable]
        self._thresholds.append(self._rejected(points).astype(np.float64))
        self._fars.append(self._ranked.impostor_accepted[points] / self._ranked.impostor.size)

    def results(self, people: PairPeople | None) -> dict[float, CalibratedThreshold]:
        """The thresholds by wanted FAR, with intervals if resamples were taken in."""
        ranked = self._ranked
        found: dict[float, CalibratedThreshold] = {}
        for far, reason in self._reasons.items():
            if reason is not None:
                found[far] = CalibratedThreshold(far, None, None, reason=reason)
                continue
            allowed = ranked.impostor_accepted <= far * (1 + 1e-12) * ranked.impostor.size
            point = int(np.count_nonzero(allowed)) - 1
            highest = self._rejected(np.array([point]))[0]
            threshold = float(np.nextafter(highest, np.array(np.inf, highest.dtype)))
            reached = float(ranked.impostor_accepted[point] / ranked.impostor.size)
            intervals: tuple[Interval | None, Interval | None] = (None, None)
            if self._thresholds and people is not None:
                row = self.supported.index(far)
                thresholds = np.concatenate(self._thresholds, axis=1)[row]
                fars = np.concatenate(self._fars, axis=1)[row]
                intervals = spread(thresholds), percentile_interval(fars, people.fewest)
            found[far] = CalibratedThreshold(far, threshold, reached, *intervals)
        return found

    def _rejected(self, points: IntArray) -> ScoreArray:
        """The highest impostor score that the operating points must reject.

        The next lower operating point exceeds the FAR, so an impostor scores exactly there.
        """
        return self._ranked.threshold[points + 1]
