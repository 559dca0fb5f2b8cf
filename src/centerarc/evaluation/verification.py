"""One verification result: every number with its interval and the protocol behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import CONVENTIONS, Convention, answer_pairs
from centerarc.evaluation.intervals import (
    EXTREMES,
    Estimate,
    Interval,
    PairPeople,
    TooFew,
    check_resamples,
    percentile_interval,
    rate_key,
    resampled_curves,
)
from centerarc.evaluation.roc_curve import Det, roc, thinned_det, unsupported_far
from centerarc.evaluation.scores import check_scores_as_given, rank_pairs
from centerarc.evaluation.thresholds import CalibratedThreshold, Calibration, check_wanted_far

# Always reported, with a reason in place of a value where the impostor pairs are too few.
FAR_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
# Reported where there are enough impostor pairs.
FINE_FAR_LEVELS = (1e-5, 1e-6)


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
        convention: how the accuracy's threshold is chosen: "exact" or "grid", as in
            :func:`evaluate_verification`.
        calibrated: for each FAR with a TAR, the threshold to set and its intervals.
        det: false rejects against false accepts, ten points for each power of ten of the FAR.
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
    convention: Convention
    calibrated: dict[float, CalibratedThreshold]
    det: Det = field(compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the accuracy's key is the protocol's name, so neither is mistaken
        for the other."""
        name = "kfold_accuracy" if self.protocol == "k-fold" else "best_accuracy"
        return {
            name: self.accuracy.to_dict(),
            "convention": f"{self.convention}: {CONVENTIONS[self.convention]}",
            "fold_accuracy": {str(fold): value for fold, value in self.fold_accuracy.items()},
            "fold_std": self.fold_std,
            "threshold": self.threshold,
            "auc": self.auc.to_dict(),
            "eer": self.eer.to_dict(),
            "tar_at_far": {rate_key(far): tar.to_dict() for far, tar in self.tar_at_far.items()},
            "calibrated_thresholds": {
                rate_key(far): found.to_dict() for far, found in self.calibrated.items()
            },
            "det": {"far": self.det.far.tolist(), "frr": self.det.frr.tolist()},
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
            f"{self.num_people:,} people, with the thresholds of the accuracy held fixed; "
            f"{EXTREMES}"
        )


def judged_fars(fars: Sequence[float], num_impostor: int) -> dict[float, TooFew | None]:
    """Which false accept rates to report, falling, and why there are no values at some of them.

    Args:
        fars: those that are asked for, beside :data:`FAR_LEVELS`.
        num_impostor: impostor pairs.

    Raises:
        ValueError: one is out of (0, 1).
    """
    for far in fars:
        check_wanted_far(far)
    always = {*FAR_LEVELS, *fars}
    reasons = {far: unsupported_far(far, num_impostor) for far in {*always, *FINE_FAR_LEVELS}}
    return {
        far: reasons[far]
        for far in sorted(reasons, reverse=True)
        if far in always or reasons[far] is None
    }


def evaluate_verification(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    convention: Convention = "exact",
    fars: Sequence[float] = (),
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationReport:
    """Accuracy, AUC, EER and TAR at fixed FARs, with 95 % intervals over people.

    The intervals come from :mod:`centerarc.evaluation.intervals`. For the accuracy each pair is
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
        convention: of the k-fold accuracy: "exact" is ``kfold_accuracy``, "grid" is
            ``grid_kfold_accuracy``, by which numbers from arcface_torch were made. All else is the
            same with both.
        fars: false accept rates to report beside :data:`FAR_LEVELS`, each in (0, 1).
        bootstrap: resamples, at least 100; 1000 give ends that are stable to about a
            tenth of the interval's width.
        seed: of the resampling.

    Returns:
        The report. A FAR below 1 / impostor pairs has no value but a reason; those of 1e-5 and
        1e-6 are left out there unless they are asked for.

    Raises:
        ValueError: arguments that contradict each other, an unknown convention, "grid" without
            folds, folds that are not (P,) integers, a FAR out of range, a score that is not finite
            (with its row), or no pair of one of the kinds.

    Example:
        >>> report = evaluate_verification([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], folds=[1, 1, 2, 2])
        >>> report.protocol, report.accuracy.value, report.tar_at_far[0.1].reason
        ('k-fold', 1.0, 'FAR 0.1 needs at least 10 impostor pairs, there are 2')
    """
    # As given: a threshold for float32 scores must be a float32 itself.
    values, labels = check_scores_as_given(scores, same)
    check_resamples(bootstrap)
    answers = answer_pairs(values.astype(np.float64), labels, folds, convention)
    num_impostor = int((~labels).sum())
    reasons = judged_fars(fars, num_impostor)
    supported = [far for far, reason in reasons.items() if reason is None]
    curve = roc(values, labels)
    ranked = rank_pairs(values, labels)
    calibration = Calibration(ranked, supported)
    intervals: Sequence[Interval | None] = [None] * (3 + len(supported))
    who = None if people is None else PairPeople.of(people, labels)
    if who is not None:
        parts = []
        for (curves,) in resampled_curves([ranked], who, bootstrap, seed):
            points = curves.points_at_far(supported)
            calibration.add(curves, points)
            rates = [answers.resampled_accuracy(curves), curves.auc(), curves.eer()]
            parts.append(np.vstack([*rates, curves.tar_at_far(points)]))
        intervals = [percentile_interval(row, who.fewest) for row in np.concatenate(parts, axis=1)]
    tar_at_far = {
        far: Estimate(float(curve.tar[curve.point_at_far(far)]), interval)
        for far, interval in zip(supported, intervals[3:], strict=True)
    }
    tar_at_far |= {far: Estimate(None, too_few=why) for far, why in reasons.items() if why}
    return VerificationReport(
        accuracy=Estimate(answers.accuracy, intervals[0]),
        protocol=answers.protocol,
        fold_accuracy=answers.fold_accuracy,
        fold_std=answers.fold_std,
        threshold=answers.threshold,
        auc=Estimate(curve.auc, intervals[1]),
        eer=Estimate(curve.eer, intervals[2]),
        tar_at_far=tar_at_far,
        num_genuine=int(labels.sum()),
        num_impostor=num_impostor,
        num_people=None if who is None else who.count,
        resamples=0 if who is None else bootstrap,
        convention=convention,
        calibrated=calibration.results(who),
        det=thinned_det(curve, num_impostor),
    )
