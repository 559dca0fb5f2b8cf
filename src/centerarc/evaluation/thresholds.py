"""The threshold for a wanted false accept rate, and whether other people keep it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.groups import breakdown
from centerarc.evaluation.intervals import (
    Estimate,
    Interval,
    PairPeople,
    check_resamples,
    low_high,
    percentile_interval,
    resampled_curves,
    spread,
)
from centerarc.evaluation.roc_curve import unsupported_far
from centerarc.evaluation.scores import (
    FloatArray,
    IntArray,
    RankedPairs,
    ScoreArray,
    WeightedCurves,
    check_folds,
    check_scores,
    check_scores_as_given,
    rank_pairs,
)

# The threshold for a wanted false accept rate, and how far both may be off with other people.


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
                found[far] = CalibratedThreshold(far, None, None, reason=str(reason))
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


# Whether a threshold keeps its false accept rate on people it was not chosen on.


@dataclass(frozen=True)
class HeldOutFar:
    """What became of a wanted false accept rate on held-out folds.

    Attributes:
        wanted_far: the rate that the thresholds were chosen for.
        far: share of all impostor pairs that are accepted while their fold is held out.
        tar: the same of the genuine pairs.
        of_fold: the false accept rate of each fold by its number, at the threshold chosen on the
            others.
    """

    wanted_far: float
    far: Estimate
    tar: Estimate
    of_fold: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "far": self.far.to_dict(),
            "tar": self.tar.to_dict(),
            "far_of_fold": {str(fold): far for fold, far in self.of_fold.items()},
        }


def held_out_fars(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike,
    fars: list[float],
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[float, HeldOutFar]:
    """Choose thresholds for false accept rates on all folds but one, and try them on that one.

    Each fold in turn is held out; the threshold is that of
    :func:`centerarc.evaluation.calibrated_threshold` on the others. A threshold that was chosen on
    the very pairs it is judged by keeps its rate by construction; one that was not shows what the
    rate is worth.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) the number of each pair's fold, any integers.
        fars: wanted false accept rates, each in (0, 1).
        people: the first and the second person of each pair, each (P,). None: no intervals.
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        By wanted rate; those are left out for which a choice would have fewer than 1 / FAR
        impostor pairs. Nothing with fewer than two folds.

    Raises:
        ValueError: arguments out of range or that contradict each other, or folds whose others
            hold only one kind of pair.

    Example:
        >>> scores, same = [0.9, 0.1, 0.3, 0.8, 0.2, 0.4], [1, 0, 0, 1, 0, 0]
        >>> found = held_out_fars(scores, same, [1, 1, 1, 2, 2, 2], [0.5])
        >>> found[0.5].far.value, found[0.5].of_fold
        (0.75, {1: 0.5, 2: 1.0})
    """
    values, labels = check_scores(scores, same)
    fold_of = check_folds(folds, values.size)
    numbers = np.unique(fold_of)
    if numbers.size < 2:
        return {}
    results = {}
    for far in fars:
        accepted = np.zeros(values.size, dtype=np.bool_)
        of_fold: dict[int, float] = {}
        for number in numbers.tolist():
            held_out = fold_of == number
            others = labels[~held_out]
            if others.all() or not others.any():
                kind = "impostor" if others.all() else "genuine"
                raise ValueError(
                    f"folds: without fold {number} no {kind} pair is left to choose a threshold on"
                )
            threshold = calibrated_threshold(values[~held_out], others, far).threshold
            if threshold is None:
                break
            accepted[held_out] = values[held_out] >= threshold
            impostor = held_out & ~labels
            if impostor.any():
                of_fold[number] = float(accepted[impostor].mean())
        else:
            # The answers as scores: one group whose rates and intervals are wanted.
            (group,) = breakdown(
                accepted.astype(np.float64),
                labels,
                np.zeros(values.size, dtype=np.int64),
                people,
                threshold=0.5,
                min_pairs=1,
                bootstrap=bootstrap,
                seed=seed,
            ).groups.values()
            results[far] = HeldOutFar(far, group.far, group.tar, of_fold)
    return results
