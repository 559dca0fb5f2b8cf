"""Verification of scored pairs: the report, calibrated thresholds, and what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import (
    CONVENTIONS,
    Convention,
    FoldAccuracy,
    best_threshold,
    grid_kfold_accuracy,
    kfold_accuracy,
)
from centerarc.evaluation.groups import breakdown
from centerarc.evaluation.intervals import (
    EXTREMES,
    Estimate,
    Interval,
    PairPeople,
    RankedPairs,
    Supported,
    TooFew,
    WeightedCurves,
    check_resamples,
    estimate,
    fields_of,
    percentile_interval,
    plain,
    spread,
)
from centerarc.evaluation.roc_curve import Det, roc, thinned_det
from centerarc.evaluation.scores import (
    ROUNDED_UP,
    BoolArray,
    FloatArray,
    IntArray,
    ScoreArray,
    check_folds,
    check_scores,
    check_scores_as_given,
    held_out_folds,
    share_of,
)

# Always reported, with a reason in place of a value where the impostor pairs are too few.
FAR_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
# Reported where there are enough impostor pairs.
FINE_FAR_LEVELS = (1e-5, 1e-6)


# The threshold for a wanted false accept rate, and how far both may be off with other people.


@dataclass(frozen=True)
class CalibratedThreshold(Supported):
    """A threshold for a wanted false accept rate."""

    wanted_far: float  # the false accept rate that is not to be exceeded
    threshold: float | None  # accept `score >= threshold`, the lowest with `far <= wanted_far`
    far: float | None  # the rate of these very impostor pairs at the threshold
    # 95% of the thresholds that samples of as many people would give.
    threshold_interval: Interval | None = None
    # 95% of the rates that such thresholds would have among all of the people: what to expect of
    # new people.
    far_interval: Interval | None = None
    too_few: TooFew | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.with_reason(
            threshold=self.threshold,
            threshold_interval95=self.threshold_interval,
            far=self.far,
            far_on_new_people_interval95=self.far_interval,
        )


def calibrated_threshold(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    far: float,
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> CalibratedThreshold:
    """The lowest threshold at which at most a share `far` of the impostor pairs is accepted.

    It is the next number, in the scores' precision, above the highest impostor score that must be
    rejected. The intervals resample people: each resample chooses its threshold, which is then
    tried on all of the impostor pairs, as ours would be on other people than it was chosen on.

    Args:
        scores, same, people, bootstrap, seed: as of `evaluate_verification`, also its errors.
        far: the wanted false accept rate, in (0, 1).

    Returns:
        The threshold, or why the impostor pairs are too few for one.

    Example:
        >>> found = calibrated_threshold([0.9, 0.5, 0.25, 0.75], [True, False, False, False], 0.4)
        >>> found.far, 0.5 < found.threshold < 0.5 + 1e-15
        (0.3333333333333333, True)
        >>> calibrated_threshold([0.9, 0.1], [True, False], 0.01).reason
        'FAR 0.01 needs at least 100 impostor pairs, there are 1'
    """
    _check_wanted_far(far)
    check_resamples(bootstrap)
    values, labels = check_scores_as_given(scores, same)
    who = None if people is None else PairPeople(people, labels)
    ranked = RankedPairs(values, labels)
    too_few = TooFew.for_rate("FAR", far, "impostor", ranked.impostor.size)
    if too_few is not None:
        return CalibratedThreshold(far, None, None, too_few=too_few)
    if who is None:
        return _calibrated(ranked, far)

    def chosen(drawn: FloatArray) -> FloatArray:
        curves = who.curves(drawn, ranked)
        return np.concatenate(_chosen(curves, curves.points_at_far([far])))

    return _calibrated(ranked, far, who.resampled(chosen, bootstrap, seed), who.fewest)


def _check_wanted_far(far: float) -> None:
    """Only in (0, 1) does a threshold decide something."""
    if not 0 < far * ROUNDED_UP < 1:
        raise ValueError(f"far must be in (0, 1), got {far}")


def _chosen(curves: WeightedCurves, points: IntArray) -> FloatArray:
    """Thresholds of resamples at points (F, B), and their FAR among all pairs: (2, F, B)."""
    ranked = curves.ranked
    thresholds = _highest_rejected(ranked, points)
    fars = ranked.impostor_accepted[points] / ranked.impostor.size
    chosen = np.stack([thresholds.astype(np.float64), fars])
    chosen[:, :, curves.without_impostors] = np.nan
    return chosen


def _highest_rejected(ranked: RankedPairs, points: IntArray) -> ScoreArray:
    # The next lower operating point exceeds the FAR, so an impostor scores exactly there. Only
    # without weight on impostors is there none.
    return ranked.threshold[np.minimum(points + 1, ranked.threshold.size - 1)]


def _calibrated(
    ranked: RankedPairs, far: float, resampled: FloatArray | None = None, num_people: int = 0
) -> CalibratedThreshold:
    """The threshold for a supported FAR, with the intervals of resampled ones (2, B)."""
    size = ranked.impostor.size
    point = int(np.count_nonzero(ranked.impostor_accepted <= far * ROUNDED_UP * size)) - 1
    rejected = _highest_rejected(ranked, np.array([point]))[0]
    threshold = float(np.nextafter(rejected, np.array(np.inf, rejected.dtype)))
    reached = float(ranked.impostor_accepted[point] / size)
    if resampled is None:
        return CalibratedThreshold(far, threshold, reached)
    intervals = spread(resampled[0]), percentile_interval(resampled[1], num_people)
    return CalibratedThreshold(far, threshold, reached, *intervals)


@dataclass(frozen=True)
class VerificationReport:
    """What one set of scored pairs says about a model."""

    # The mean over folds at thresholds chosen on the other folds ("k-fold"), or that at the best
    # threshold for these very pairs, which is optimistic ("best_accuracy").
    accuracy: Estimate
    protocol: str
    fold_accuracy: dict[int, float]  # accuracy of each fold by number; empty without folds
    fold_std: float | None  # standard deviation over folds (k - 1); None without folds
    threshold: float  # the mean of the folds' thresholds, or the best threshold
    auc: Estimate  # area under the ROC
    eer: Estimate  # equal error rate
    tar_at_far: dict[float, Estimate]  # without value where the impostor pairs are too few
    num_genuine: int
    num_impostor: int
    num_people: int | None  # distinct people; None when `people` was not given
    resamples: int  # bootstrap resamples behind the intervals, 0 when there are none
    convention: Convention  # how the accuracy's threshold is chosen
    calibrated: dict[float, CalibratedThreshold]  # for each FAR with a TAR
    # False rejects against false accepts, ten points for each power of ten of the FAR.
    det: Det = field(compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            accuracy_key(self.protocol): self.accuracy.to_dict(),
            "convention": f"{self.convention}: {CONVENTIONS[self.convention]}",
            **fields_of(self, "fold_accuracy", "fold_std", "threshold", "auc", "eer", "tar_at_far"),
            "calibrated_thresholds": plain(self.calibrated),
            "det": {"far": self.det.far.tolist(), "frr": self.det.frr.tolist()},
            **fields_of(self, "num_genuine", "num_impostor", "num_people"),
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        if not self.resamples:
            return "None: the people of the pairs were not given."
        return (
            f"95% percentile intervals over {self.resamples:,} bootstrap resamples of the "
            f"{self.num_people:,} people, with the thresholds of the accuracy held fixed; "
            f"{EXTREMES}"
        )


def accuracy_key(protocol: str) -> str:
    """The key of an accuracy in JSON: its protocol's name, so that none is taken for another."""
    return "kfold_accuracy" if protocol == "k-fold" else "best_accuracy"


class ScoredPairs:
    """Checked pairs with one model's scores: their rates, as they are and under resampling.

    Attributes:
        protocol, accuracy, threshold, fold_accuracy, fold_std: as of `VerificationReport`.
        fars: false accept rates to report that the impostor pairs can carry, falling.
        unsupported: why there is no value at others, by FAR, falling.
        curve: the ROC.
        ranked: the pairs by score.
    """

    def __init__(
        self,
        scores: ScoreArray,
        same: BoolArray,
        folds: npt.ArrayLike | None,
        convention: Convention,
        fars: Sequence[float],
    ) -> None:
        self._same = same
        self._answer(scores.astype(np.float64), folds, convention)
        for far in fars:
            _check_wanted_far(far)
        always = {*FAR_LEVELS, *fars}
        num_impostor = int(np.count_nonzero(~same))
        falling = sorted({*always, *FINE_FAR_LEVELS}, reverse=True)
        reasons = {far: TooFew.for_rate("FAR", far, "impostor", num_impostor) for far in falling}
        self.fars = [far for far, reason in reasons.items() if reason is None]
        self.unsupported = {far: why for far, why in reasons.items() if why and far in always}
        self.curve = roc(scores, same)
        self.ranked = RankedPairs(scores, same)

    def _answer(
        self, scores: FloatArray, folds: npt.ArrayLike | None, convention: Convention
    ) -> None:
        """Answer each pair once, by a threshold that has not seen it where there are folds."""
        if convention not in CONVENTIONS:
            raise ValueError(
                f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}"
            )
        fold_of = np.zeros(scores.size, int) if folds is None else check_folds(folds, scores.size)
        several = np.unique(fold_of).size > 1
        if several:
            measure = kfold_accuracy if convention == "exact" else grid_kfold_accuracy
            found = measure(scores, self._same, fold_of)
        elif convention == "grid":
            raise ValueError("convention 'grid' is one of k-fold accuracy; give at least 2 folds")
        else:
            threshold = best_threshold(scores, self._same)
            right = (scores >= threshold) == self._same
            found = FoldAccuracy(fold_of[:1], right.mean()[None], np.array([threshold]), right)
        self.protocol = "k-fold" if several else "best_accuracy"
        self.accuracy, self.threshold = found.mean, float(found.threshold.mean())
        of_fold = zip(found.fold.tolist(), found.accuracy.tolist(), strict=True)
        self.fold_accuracy: dict[int, float] = dict(of_fold) if several else {}
        self.fold_std = found.std if several else None
        self._correct = found.correct
        # Folds count alike, whatever their size.
        number = np.searchsorted(found.fold, fold_of)
        self._share = 1 / (found.fold.size * np.bincount(number)[number])

    @property
    def rates(self) -> FloatArray:
        """Accuracy, AUC, EER and TARs: (3 + F,)."""
        curve = self.curve
        tars = [curve.tar[curve.point_at_far(far)] for far in self.fars]
        return np.array([self.accuracy, curve.auc, curve.eer, *tars])

    def resampled_rates(self, curves: WeightedCurves, points: IntArray) -> FloatArray:
        """The same of each resample, with its points at the FARs: (3 + F, B)."""
        # Each kind of pair keeps its share of the accuracy.
        accuracy = np.zeros(curves.genuine.shape[1])
        for kind, pairs, weights in (
            (self._same, self.ranked.genuine, curves.genuine),
            (~self._same, self.ranked.impostor, curves.impostor),
        ):
            share = self._share[pairs]
            good = self._share[kind].sum() * ((share * self._correct[pairs]) @ weights)
            accuracy += share_of(good, share @ weights)
        return np.vstack([accuracy, curves.auc(), curves.eer(), curves.tar_at_far(points)])


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
    """Accuracy, AUC, EER and TAR at fixed FARs, with 95% intervals over people.

    The intervals come from `centerarc.evaluation.intervals`. For the accuracy each pair is
    right or wrong once, under the threshold chosen without its fold, and the resamples reweight
    these answers; the shares of genuine and impostor pairs stay as the protocol set them. AUC,
    EER and TAR are computed again in each resample. The intervals say what other people would
    change, not what other folds or another training seed would.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) each pair's fold, integers. None or a single fold: the accuracy is
            `best_accuracy`.
        people: the first and the second person of each pair, each (P,), names or numbers.
            None: no intervals, since nothing says which pairs depend on each other.
        convention: of the k-fold accuracy: "exact" is `kfold_accuracy`, "grid" is
            `grid_kfold_accuracy`, by which numbers from arcface_torch were made.
        fars: false accept rates to report in addition to `FAR_LEVELS`, each in (0, 1).
        bootstrap: resamples, at least 100; 1000 give ends that are stable to about a
            tenth of the interval's width.
        seed: of the resampling.

    Returns:
        The report. A FAR below 1 / impostor pairs has no value but a reason; those of 1e-5 and
        1e-6 are left out there unless they are asked for.

    Raises:
        ValueError: arguments out of range or that contradict each other, a score that is not finite
            (with its row), or no pair of one of the kinds.

    Example:
        >>> report = evaluate_verification([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], folds=[1, 1, 2, 2])
        >>> report.protocol, report.accuracy.value, report.tar_at_far[0.1].reason
        ('k-fold', 1.0, 'FAR 0.1 needs at least 10 impostor pairs, there are 2')
    """
    # As given: a threshold for float32 scores must be a float32 itself.
    values, labels = check_scores_as_given(scores, same)
    check_resamples(bootstrap)
    pairs = ScoredPairs(values, labels, folds, convention, fars)
    ranked, rates = pairs.ranked, pairs.rates.tolist()
    who = None if people is None else PairPeople(people, labels)
    moved: list[FloatArray | None] = [None] * len(rates)
    chosen: list[FloatArray | None] = [None] * len(pairs.fars)
    fewest = 0
    if who is not None:

        def measured(drawn: FloatArray) -> FloatArray:
            curves = who.curves(drawn, ranked)
            points = curves.points_at_far(pairs.fars)
            return np.vstack([pairs.resampled_rates(curves, points), *_chosen(curves, points)])

        rows = who.resampled(measured, bootstrap, seed)
        moved, fewest = list(rows[: len(rates)]), who.fewest
        chosen = list(rows[len(rates) :].reshape(2, len(chosen), bootstrap).swapaxes(0, 1))
    estimates = [estimate(*each, fewest) for each in zip(rates, moved, strict=True)]
    calibrated = {
        far: _calibrated(ranked, far, found, fewest)
        for far, found in zip(pairs.fars, chosen, strict=True)
    }
    tar_at_far = dict(zip(pairs.fars, estimates[3:], strict=True))
    tar_at_far |= {far: Estimate(None, too_few=why) for far, why in pairs.unsupported.items()}
    return VerificationReport(
        accuracy=estimates[0],
        protocol=pairs.protocol,
        fold_accuracy=pairs.fold_accuracy,
        fold_std=pairs.fold_std,
        threshold=pairs.threshold,
        auc=estimates[1],
        eer=estimates[2],
        tar_at_far=tar_at_far,
        num_genuine=pairs.curve.num_genuine,
        num_impostor=pairs.curve.num_impostor,
        num_people=None if who is None else who.count,
        resamples=0 if who is None else bootstrap,
        convention=convention,
        calibrated=calibrated,
        det=thinned_det(pairs.curve),
    )


# Whether a threshold keeps its false accept rate on people it was not chosen on.


@dataclass(frozen=True)
class HeldOutFar:
    """What became of a wanted false accept rate on held-out folds."""

    wanted_far: float  # the rate that the thresholds were chosen for
    far: Estimate  # share of all impostor pairs that are accepted while their fold is held out
    tar: Estimate  # the same of the genuine pairs
    of_fold: dict[int, float]  # FAR of each fold by number, at the threshold of the others

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**fields_of(self, "far", "tar"), "far_of_fold": plain(self.of_fold)}


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

    Each fold in turn is held out; the threshold is that of `calibrated_threshold` on the
    others. A threshold that was chosen on the very pairs it is judged by keeps its rate by
    construction; one that was not shows what the rate is worth.

    Args:
        scores, same, people, bootstrap, seed: as of `evaluate_verification`.
        folds: (P,) the number of each pair's fold, any integers.
        fars: wanted false accept rates, each in (0, 1).

    Returns:
        By wanted rate; those are left out for which a choice would have fewer than 1 / FAR
        impostor pairs. Nothing with fewer than two folds.

    Raises:
        ValueError: as of `evaluate_verification`, or folds whose others are of one kind.

    Example:
        >>> scores, same = [0.9, 0.1, 0.3, 0.8, 0.2, 0.4], [1, 0, 0, 1, 0, 0]
        >>> found = held_out_fars(scores, same, [1, 1, 1, 2, 2, 2], [0.5])
        >>> found[0.5].far.value, found[0.5].of_fold
        (0.75, {1: 0.5, 2: 1.0})
    """
    values, labels = check_scores(scores, same)
    fold_of = check_folds(folds, values.size)
    if np.unique(fold_of).size < 2:
        return {}
    results = {}
    for far in fars:
        accepted = np.zeros(values.size, dtype=np.bool_)
        of_fold: dict[int, float] = {}
        for number, held_out in held_out_folds(fold_of, labels):
            threshold = calibrated_threshold(values[~held_out], labels[~held_out], far).threshold
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
