"""One verification result: every number with its interval and the protocol behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import best_threshold, kfold_accuracy
from centerarc.evaluation.bootstrap import (
    Interval,
    percentile_interval,
    person_numbers,
    resampled_weights,
)
from centerarc.evaluation.roc_curve import (
    RankedPairs,
    accept_at,
    area,
    equal_error,
    rank_pairs,
    unsupported_far,
)
from centerarc.evaluation.scores import (
    BoolArray,
    FloatArray,
    check_folds,
    check_scores,
)

FAR_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Estimate:
    """A rate and its 95 % interval.

    Attributes:
        value: the rate in [0, 1]; None when the data cannot support it.
        interval: 95 % over people; None without ``people`` or without a value.
        reason: why there is no value.
    """

    value: float | None
    interval: Interval | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        low_high = None if self.interval is None else [self.interval.low, self.interval.high]
        result: dict[str, Any] = {"value": self.value, "interval95": low_high}
        return result if self.reason is None else {**result, "reason": self.reason}


@dataclass(frozen=True)
class VerificationReport:
    """What one set of scored pairs says about a model.

    Attributes:
        accuracy: mean over folds of the accuracy at the threshold chosen on the other folds when
            ``protocol`` is "k-fold"; accuracy at the best threshold for these very pairs,
            which is optimistic, when it is "best_accuracy".
        protocol: "k-fold" or "best_accuracy".
        fold_accuracy: accuracy of each fold by number; empty without folds.
        fold_std: standard deviation over folds (k - 1); None without folds.
        threshold: cosine from which a pair is accepted: the mean of the folds' thresholds, or the
            best threshold.
        auc: area under the ROC.
        eer: equal error rate.
        tar_at_far: TAR by FAR; an estimate without value where the impostor pairs are too few.
        num_genuine: genuine pairs.
        num_impostor: impostor pairs.
        num_people: distinct people; None when ``people`` was not given.
        resamples: bootstrap resamples behind the intervals, 0 when there are none.
    """

    accuracy: Estimate
    protocol: str
    fold_accuracy: dict[int, float]
    fold_std: float | None
    threshold: float
    auc: Estimate
    eer: Estimate
    tar_at_far: dict[float, Estimate]
    num_genuine: int
    num_impostor: int
    num_people: int | None
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the accuracy's key is the protocol's name, so neither is mistaken
        for the other."""
        name = "kfold_accuracy" if self.protocol == "k-fold" else "best_accuracy"
        return {
            name: self.accuracy.to_dict(),
            "fold_accuracy": {str(fold): value for fold, value in self.fold_accuracy.items()},
            "fold_std": self.fold_std,
            "threshold": self.threshold,
            "auc": self.auc.to_dict(),
            "eer": self.eer.to_dict(),
            "tar_at_far": {f"{far:g}": tar.to_dict() for far, tar in self.tar_at_far.items()},
            "num_genuine": self.num_genuine,
            "num_impostor": self.num_impostor,
            "num_people": self.num_people,
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        if not self.resamples:
            return "None: the people of the pairs were not given."
        return (
            f"95 % percentile intervals over {self.resamples:,} bootstrap resamples of the "
            f"{self.num_people:,} people, with the thresholds of the accuracy held fixed."
        )


def evaluate_verification(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationReport:
    """Accuracy, AUC, EER and TAR at fixed FARs, with 95 % intervals over people.

    The intervals come from :mod:`centerarc.evaluation.bootstrap`. For the accuracy each pair is
    right or wrong once, under the threshold chosen without its fold, and the resamples reweight
    these answers; the shares of genuine and impostor pairs stay as the protocol set them. AUC,
    EER and TAR are computed anew in each resample. The intervals say what other people would
    change, not what other folds or another training seed would.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) each pair's fold, integers. None or a single fold: the accuracy is
            ``best_accuracy``.
        people: the first and the second person of each pair, each (P,), names or numbers.
            None: no intervals, since nothing says which pairs depend on each other.
        bootstrap: resamples, at least 100; 1000 give ends that are stable to about a
            tenth of the interval's width.
        seed: of the resampling.

    Returns:
        The report. A FAR below 1 / impostor pairs has no value but a reason.

    Raises:
        ValueError: arguments that contradict each other, folds that are not (P,) integers, a
            score that is not finite (with its row), or no pair of one of the kinds.

    Example:
        >>> report = evaluate_verification([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], folds=[1, 1, 2, 2])
        >>> report.protocol, report.accuracy.value, report.tar_at_far[0.1].reason
        ('k-fold', 1.0, 'FAR 0.1 needs at least 10 impostor pairs, there are 2')
    """
    values, labels = check_scores(scores, same)
    if bootstrap < 100:
        raise ValueError(f"bootstrap must be at least 100 resamples, got {bootstrap}")
    fold_accuracy: dict[int, float] = {}
    fold_std = None
    # What each pair counts in the accuracy: folds count alike, whatever their size.
    share = np.full(values.size, 1 / values.size)
    fold_of = None if folds is None else check_folds(folds, values.size)
    if fold_of is not None and np.unique(fold_of).size > 1:
        by_fold = kfold_accuracy(values, labels, fold_of)
        protocol, accuracy, correct = "k-fold", by_fold.mean, by_fold.correct
        threshold, fold_std = float(by_fold.threshold.mean()), by_fold.std
        fold_accuracy = {
            int(fold): float(value)
            for fold, value in zip(by_fold.fold, by_fold.accuracy, strict=True)
        }
        number = np.searchsorted(by_fold.fold, fold_of)
        share = 1 / (by_fold.fold.size * np.bincount(number)[number])
    else:
        protocol, threshold = "best_accuracy", best_threshold(values, labels)
        correct = (values >= threshold) == labels
        accuracy = float(correct.mean())

    ranked = rank_pairs(values, labels)
    num_impostor = int((~labels).sum())
    reasons = {far: unsupported_far(far, num_impostor) for far in FAR_LEVELS}
    supported = [far for far in FAR_LEVELS if reasons[far] is None]
    far_curve, tar_curve = ranked.rates(np.ones((1, values.size)))
    point = _curve_numbers(far_curve, tar_curve, supported)[:, 0]
    intervals: Sequence[Interval | None] = [None] * (3 + len(supported))
    num_people = None
    if people is not None:
        first, second, num_people = person_numbers(people, labels)
        intervals = _intervals(
            ranked, correct, share, supported, (first, second, num_people), bootstrap, seed
        )
    tars = dict(zip(supported, zip(point[2:], intervals[3:], strict=True), strict=True))
    return VerificationReport(
        accuracy=Estimate(accuracy, intervals[0]),
        protocol=protocol,
        fold_accuracy=fold_accuracy,
        fold_std=fold_std,
        threshold=threshold,
        auc=Estimate(float(point[0]), intervals[1]),
        eer=Estimate(float(point[1]), intervals[2]),
        tar_at_far={
            far: Estimate(float(tars[far][0]), tars[far][1])
            if far in tars
            else Estimate(None, reason=reasons[far])
            for far in FAR_LEVELS
        },
        num_genuine=int(labels.sum()),
        num_impostor=num_impostor,
        num_people=num_people,
        resamples=0 if people is None else bootstrap,
    )


def _curve_numbers(far: FloatArray, tar: FloatArray, limits: Sequence[float]) -> FloatArray:
    """AUC, EER and the TARs of curves (B, T) as rows of (2 + len(limits), B)."""
    rows = [area(far, tar), equal_error(far, tar)]
    return np.stack(rows + [accept_at(far, tar, limit) for limit in limits])


def _intervals(
    ranked: RankedPairs,
    correct: BoolArray,
    share: FloatArray,
    limits: Sequence[float],
    numbered: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int],
    bootstrap: int,
    seed: int,
) -> list[Interval]:
    """Intervals of the accuracy, AUC, EER and TARs, in this order."""
    first, second, num_people = numbered
    same = ranked.same
    accuracy_of = _weighted_accuracy(correct, share, same)
    parts = []
    for weights in resampled_weights(first, second, num_people, bootstrap, seed):
        far, tar = ranked.rates(weights)
        usable = ~(np.isnan(far[:, -1]) | np.isnan(tar[:, -1]))
        numbers = np.full((3 + len(limits), len(weights)), np.nan)
        numbers[0] = accuracy_of(weights)
        numbers[1:, usable] = _curve_numbers(far[usable], tar[usable], limits)
        parts.append(numbers)
    # The scarcer kind's people bound what a rate of exactly 0 or 1 can claim.
    kinds = [np.unique(np.concatenate([first[k], second[k]])).size for k in (same, ~same)]
    return [percentile_interval(row, min(kinds)) for row in np.concatenate(parts, axis=1)]


def _weighted_accuracy(
    correct: BoolArray, share: FloatArray, same: BoolArray
) -> Callable[[FloatArray], FloatArray]:
    """The accuracy under rows of weights (B, P), each kind of pair keeping its share."""
    kinds = [np.where(kind, share, 0.0) for kind in (same, ~same)]

    def accuracy(weights: FloatArray) -> FloatArray:
        total = np.zeros(len(weights))
        for kind in kinds:
            with np.errstate(invalid="ignore", divide="ignore"):
                total += kind.sum() * (weights @ (kind * correct)) / (weights @ kind)
        return total

    return accuracy
