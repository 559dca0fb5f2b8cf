"""Verification of scored pairs: the report, calibrated thresholds, and what they are worth."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import (
    CONVENTIONS,
    Convention,
    FoldAccuracy,
    best_threshold,
    carrying_folds,
    check_convention,
    grid_kfold_accuracy,
    kfold_accuracy,
)
from centerarc.evaluation.groups import breakdown
from centerarc.evaluation.intervals import (
    NORMAL,
    PAIR_INTERVALS,
    Effect,
    Estimate,
    Interval,
    PairPeople,
    Supported,
    TooFew,
    fields_of,
    mean_effect,
    plain,
)
from centerarc.evaluation.roc_curve import Det, roc, thinned_det
from centerarc.evaluation.scores import (
    ROUNDED_UP,
    BoolArray,
    FloatArray,
    ScoreArray,
    check_folds,
    check_scores,
    check_scores_as_given,
    held_out_folds,
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
    # Accept `score >= threshold`, the lowest with `far <= wanted_far` or of the convention's FAR.
    threshold: float | None
    far: float | None  # the rate of these very impostor pairs at the threshold
    # 95% interval of the threshold that keeps the wanted rate among all people.
    threshold_interval: Interval | None = None
    # 95% interval of the rate that this threshold has among all people: what to expect of new ones.
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
) -> CalibratedThreshold:
    """The lowest threshold at which at most a share `far` of the impostor pairs is accepted.

    It is the next number, in the scores' precision, above the highest impostor score that must be
    rejected.

    Args:
        scores, same, people: as of `evaluate_verification`, also its errors.
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
    pairs = ScoredPairs(*check_scores_as_given(scores, same), None, "exact", [far])
    who = None if people is None else PairPeople(people, pairs.same)
    if far in pairs.unsupported:
        return CalibratedThreshold(far, None, None, too_few=pairs.unsupported[far])
    return pairs.calibrated(far, who)


def _check_wanted_far(far: float) -> None:
    """Only in (0, 1) does a threshold decide something."""
    if not 0 < far * ROUNDED_UP < 1:
        raise ValueError(f"far must be in (0, 1), got {far}")


@dataclass(frozen=True)
class VerificationReport:
    """What one set of scored pairs says about a model."""

    # The mean over folds at thresholds chosen on the other folds ("k-fold"), or that at the best
    # threshold for these very pairs, which is optimistic ("best_accuracy").
    accuracy: Estimate
    protocol: str
    fold_accuracy: dict[int, float]  # accuracy of each fold by number; empty without folds
    fold_std: float | None  # standard deviation over folds (k - 1); None without folds
    fold_note: str  # which folds carried no accuracy, and what was done instead; usually ""
    threshold: float  # the mean of the folds' thresholds, or the best threshold
    auc: Estimate  # area under the ROC
    eer: Estimate  # equal error rate
    tar_at_far: dict[float, Estimate]  # without value where the impostor pairs are too few
    num_genuine: int
    num_impostor: int
    num_people: int | None  # distinct people; None when `people` was not given
    has_intervals: bool
    convention: Convention  # how the thresholds of the accuracy and the TARs are chosen
    calibrated: dict[float, CalibratedThreshold]  # for each FAR with a TAR
    # False rejects against false accepts, ten points for each power of ten of the FAR.
    det: Det = field(compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            accuracy_key(self.protocol): self.accuracy.to_dict(),
            "convention": f"{self.convention}: {CONVENTIONS[self.convention]}",
            **({"fold_note": self.fold_note} if self.fold_note else {}),
            **fields_of(self, "fold_accuracy", "fold_std", "threshold", "auc", "eer", "tar_at_far"),
            "calibrated_thresholds": plain(self.calibrated),
            "det": {"far": self.det.far.tolist(), "frr": self.det.frr.tolist()},
            **fields_of(self, "num_genuine", "num_impostor", "num_people"),
            "intervals": self.interval_method,
        }

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        if self.num_people is None:
            return "No intervals: it is not known whom the pairs show."
        if not self.has_intervals:
            return "No intervals were asked for."
        return (
            f"95% intervals over the {self.num_people:,} people: {PAIR_INTERVALS}, with the "
            "thresholds of the accuracy those of the folds; Wilson's interval (1927) with as many "
            "trials."
        )


def accuracy_key(protocol: str) -> str:
    """The key of an accuracy in JSON: its protocol's name, so that none is taken for another."""
    return "kfold_accuracy" if protocol == "k-fold" else "best_accuracy"


class ScoredPairs:
    """Checked pairs with one model's scores: their rates, and what each pair does to them.

    Attributes:
        scores, same: the pairs.
        protocol, accuracy, threshold, fold_accuracy, fold_std, fold_note, convention: as of
            `VerificationReport`.
        fars: false accept rates to report that the impostor pairs can carry, falling.
        unsupported: why there is no value at others, by FAR, falling.
        curve: the ROC.
    """

    def __init__(
        self,
        scores: ScoreArray,
        same: BoolArray,
        folds: npt.ArrayLike | None,
        convention: Convention,
        fars: Sequence[float],
    ) -> None:
        self.scores, self.same = scores, same
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
        nearest = convention == "insightface"
        self._point = self.curve.point_nearest_far if nearest else self.curve.point_at_far

    def _answer(
        self, scores: FloatArray, folds: npt.ArrayLike | None, convention: Convention
    ) -> None:
        """Answer each pair once, by a threshold that has not seen it where there are folds."""
        given = np.zeros(scores.size, int) if folds is None else check_folds(folds, scores.size)
        check_convention(convention, given, self.same)
        carrying, self.fold_note = carrying_folds(given, self.same)
        several = carrying is not None
        fold_of = np.zeros_like(given) if carrying is None else carrying
        if several:
            measure = kfold_accuracy if convention == "exact" else grid_kfold_accuracy
            found = measure(scores, self.same, fold_of)
        else:
            threshold = best_threshold(scores, self.same)
            right = (scores >= threshold) == self.same
            found = FoldAccuracy(fold_of[:1], right.mean()[None], np.array([threshold]), right)
        self.convention: Convention = (
            "exact" if convention == "grid" and not several else convention
        )
        self.protocol = "k-fold" if several else "best_accuracy"
        self.accuracy, self.threshold = found.mean, float(found.threshold.mean())
        of_fold = zip(found.fold.tolist(), found.accuracy.tolist(), strict=True)
        self.fold_accuracy: dict[int, float] = dict(of_fold) if several else {}
        self.fold_std = found.std if several else None
        self._correct = found.correct
        # What the highest of the folds' thresholds answers more rightly than the lowest.
        between = (scores >= found.threshold.min()) & (scores < found.threshold.max())
        self._moved = np.where(self.same, -1.0, 1.0) * between
        # Folds count alike, whatever their size.
        number = np.searchsorted(found.fold, fold_of)
        self._share = 1 / (found.fold.size * np.bincount(number)[number])

    @property
    def rates(self) -> FloatArray:
        """Accuracy, AUC, EER and TARs: (3 + F,)."""
        curve = self.curve
        tars = [curve.tar[self._point(far)] for far in self.fars]
        return np.array([self.accuracy, curve.auc, curve.eer, *tars])

    def effects(self, who: PairPeople) -> Iterator["Effect"]:
        """Yield the effect of each pair on each of these rates, one rate after the other."""
        answers, moved = map(self._accuracy_effect, (self._correct, self._moved))
        yield Effect(answers, choice=moved)
        yield Effect(self._auc_effect(), self.curve.eer)
        yield Effect(self._eer_effect(who))
        for far in self.fars:
            around = self._around(far, who)
            effect = self._accepts(around.point, self.same)
            effect -= around.slope * around.effect
            yield Effect(effect, accepted=around.accepted)

    def _accuracy_effect(self, right: FloatArray | BoolArray) -> FloatArray:
        """Effects on the mean over folds of answers (P,) that are right by so much."""
        effect = np.empty(self.same.size)
        for kind in (self.same, ~self.same):
            share = self._share[kind]
            effect[kind] = share * (right[kind] - np.average(right[kind], weights=share))
        return effect

    def _accepts(self, point: int, kind: BoolArray) -> FloatArray:
        """The effects on the share of a kind of pairs that an operating point accepts."""
        return mean_effect(self.scores >= self.curve.threshold[point], kind)

    def _auc_effect(self) -> FloatArray:
        """Effects on the area: how many of the other kind each pair is on the right side of."""
        effect = np.empty(self.same.size)
        for kind, sign in ((self.same, 1), (~self.same, -1)):
            others, own = np.sort(self.scores[~kind]), self.scores[kind]
            below = np.searchsorted(others, own) + np.searchsorted(others, own, side="right")
            effect[kind] = sign * below / (2 * others.size)
        return mean_effect(effect, self.same) + mean_effect(effect, ~self.same)

    def _eer_effect(self, who: PairPeople) -> FloatArray:
        """Effects on the rate where both errors meet, from the slopes of the curve around it."""
        curve = self.curve
        right = curve.eer_point
        accepts, false = (self._accepts(right, kind) for kind in (self.same, ~self.same))
        reach = max(who.uncertainty(false).reach, 1 / curve.num_impostor)
        start, end = (
            curve.point_at_far(min(max(curve.far[right] + side, 1 / curve.num_impostor), 1.0))
            for side in (-reach, reach)
        )
        rise, run = curve.tar[end] - curve.tar[start], curve.far[end] - curve.far[start]
        if rise + run <= 0:
            rise = run = 1.0
        return np.asarray((rise * false - run * accepts) / (rise + run))

    def _around(self, far: float, who: PairPeople) -> "_Around":
        """Where the threshold for a supported FAR may lie with other people."""
        curve, size = self.curve, self.curve.num_impostor
        point = self._point(far)
        reached, effect = float(curve.far[point]), self._accepts(point, ~self.same)
        reach = who.uncertainty(effect).reach
        # As many independent pairs would be as sure of the rate.
        trials = min(NORMAL**2 * reached * (1 - reached) / reach**2, size) if reach else size
        # The arcsine makes the variance of a rate the same for all rates.
        angle, half = math.asin(math.sqrt(far)), NORMAL / 2 / math.sqrt(trials)
        low = math.sin(max(angle - half, 0.0)) ** 2
        high = math.sin(min(angle + half, math.pi / 2)) ** 2
        first = int(np.searchsorted(curve.far, max(low, 1 / size) / ROUNDED_UP))
        last = int(np.searchsorted(curve.far, high * ROUNDED_UP, side="right")) - 1
        slope = abs(float(curve.tar[last] - curve.tar[first])) / (high - low)
        return _Around(point, effect, (first, last), slope, far * trials)

    def calibrated(self, far: float, who: PairPeople | None) -> CalibratedThreshold:
        """The threshold for a supported FAR."""
        curve = self.curve
        point = self._point(far)
        threshold, reached = curve.threshold_above(point), float(curve.far[point])
        if who is None:
            return CalibratedThreshold(far, threshold, reached)
        around = self._around(far, who)
        first, last = around.ends
        lowest = curve.threshold_above(last)
        ends = Interval(min(lowest, threshold), max(float(curve.threshold[first]), threshold))
        new = who.uncertainty(around.effect).interval(reached, who.among(~self.same))
        return CalibratedThreshold(far, threshold, reached, ends, new)


class _Around(NamedTuple):
    """An operating point and its neighborhood.

    Attributes:
        point: its position.
        effect: (P,) on its FAR.
        ends: positions of the highest and of the lowest threshold that other people may need.
        slope: by how much the TAR rises with the FAR in between.
        accepted: how many independent impostor pairs would be accepted.
    """

    point: int
    effect: FloatArray
    ends: tuple[int, int]
    slope: float
    accepted: float


def evaluate_verification(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike | None = None,
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    convention: Convention = "exact",
    fars: Sequence[float] = (),
    intervals: bool = True,
) -> VerificationReport:
    """Accuracy, AUC, EER and TAR at fixed FARs, with 95% intervals over people.

    The intervals come from `PairPeople.uncertainty` in `centerarc.evaluation.intervals`. For the
    accuracy each pair is right or wrong once, under the threshold chosen without its fold, and the
    shares of genuine and impostor pairs stay as the protocol set them. That of a TAR allows for
    its threshold, which other impostor pairs would move. The intervals say what other people
    would change, not what other folds or another training seed would.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) each pair's fold, integers. None or a single fold: the accuracy is
            `best_accuracy`. Where a fold holds pairs of one kind only, stratified folds stand in
            and `fold_note` says so.
        people: the first and the second person of each pair, each (P,), names or numbers.
            None: no intervals, since nothing says which pairs depend on each other.
        convention: of the k-fold accuracy, "exact" is `kfold_accuracy`, "grid" is
            `grid_kfold_accuracy`, by which numbers from arcface_torch were made. Without folds
            "insightface" takes TARs at the FAR nearest to the wanted one (`Roc.point_nearest_far`),
            as published numbers on IJB do.
        fars: false accept rates to report in addition to `FAR_LEVELS`, each in (0, 1).
        intervals: whether to compute them.

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
    pairs = ScoredPairs(values, labels, folds, convention, fars)
    who = None if people is None else PairPeople(people, labels)
    counted = who if intervals else None
    rates = pairs.rates.tolist()
    estimates = [Estimate(rate) for rate in rates]
    if counted is not None:
        found = zip(rates, pairs.effects(counted), strict=True)
        estimates = [effect.estimate(rate, counted, counted.fewest) for rate, effect in found]
    calibrated = {far: pairs.calibrated(far, counted) for far in pairs.fars}
    tar_at_far = dict(zip(pairs.fars, estimates[3:], strict=True))
    tar_at_far |= {far: Estimate(None, too_few=why) for far, why in pairs.unsupported.items()}
    return VerificationReport(
        accuracy=estimates[0],
        protocol=pairs.protocol,
        fold_accuracy=pairs.fold_accuracy,
        fold_std=pairs.fold_std,
        fold_note=pairs.fold_note,
        threshold=pairs.threshold,
        auc=estimates[1],
        eer=estimates[2],
        tar_at_far=tar_at_far,
        num_genuine=pairs.curve.num_genuine,
        num_impostor=pairs.curve.num_impostor,
        num_people=None if who is None else who.count,
        has_intervals=counted is not None,
        convention=pairs.convention,
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
) -> dict[float, HeldOutFar]:
    """Choose thresholds for false accept rates on all folds but one, and try them on that one.

    Each fold in turn is held out; the threshold is that of `calibrated_threshold` on the
    others. A threshold that was chosen on the very pairs it is judged by keeps its rate by
    construction; one that was not shows what the rate is worth.

    Args:
        scores, same, people: as of `evaluate_verification`.
        folds: (P,) the number of each pair's fold, any integers; see `carrying_folds`.
        fars: wanted false accept rates, each in (0, 1).

    Returns:
        By wanted rate; those are left out for which a choice would have fewer than 1 / FAR
        impostor pairs. Nothing with fewer than two folds.

    Raises:
        ValueError: as of `evaluate_verification`.

    Example:
        >>> scores, same = [0.9, 0.1, 0.3, 0.8, 0.2, 0.4], [1, 0, 0, 1, 0, 0]
        >>> found = held_out_fars(scores, same, [1, 1, 1, 2, 2, 2], [0.5])
        >>> found[0.5].far.value, found[0.5].of_fold
        (0.75, {1: 0.5, 2: 1.0})
    """
    values, labels = check_scores(scores, same)
    fold_of = carrying_folds(check_folds(folds, values.size), labels)[0]
    if fold_of is None:
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
            ).groups.values()
            results[far] = HeldOutFar(far, group.far, group.tar, of_fold)
    return results
