"""A threshold for a gallery, from the gallery's own photos: what it promises, and how surely."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from centerarc.evaluation.intervals import check_resamples
from centerarc.evaluation.left_out import LeaveOneOut
from centerarc.evaluation.margin_rule import MarginRule, best_margin
from centerarc.evaluation.pareto_tail import ExtremeTail, extreme_tail, why_no_tail
from centerarc.evaluation.people_rates import (
    Plain,
    Rate,
    clopper_pearson,
    in_larger,
    lowest_threshold,
    most_at_zero,
    person_rate,
)
from centerarc.evaluation.scores import ROUNDED_UP, FloatArray, IntArray

_SMALLER, _LARGER = (8, 4, 2), (2, 4, 8, 16)


@dataclass(frozen=True)
class OperatingPoint(Plain):
    """What a threshold does: a probe is answered with the best person if the score is at least it.

    With a margin, the best person must also be so far ahead of the second-best.
    """

    threshold: float
    margin: float  # 0 is none
    fpir: Rate  # strangers' photos that get a name
    fnir: Rate | None  # enrolled people's photos without the right name; None without such photos
    not_recognized: Rate | None  # of these: without a name
    wrong_person: Rate | None  # of these: with another person's name


@dataclass(frozen=True)
class SizePoint(Plain):
    """The FPIR of one threshold in a gallery of another size."""

    people: int
    fpir: float
    low: float
    high: float
    threshold: float | None  # that has the wanted FPIR at this size; None if extrapolated
    extrapolated: bool  # as the highest of independent scores, not measured


@dataclass(frozen=True)
class Calibration(Plain):
    """Thresholds of a gallery, and what is known about them."""

    people: int
    photos: int
    judged_people: int  # with at least two photos
    judged_photos: int  # theirs
    confidence: float  # of every interval
    wanted_fpir: float
    wanted_fnir: float
    accept: OperatingPoint  # the lowest threshold with at most the wanted FPIR
    smallest_fpir: float  # that the data vouch for: at most this where no stranger got a name
    too_few: str | None  # why the wanted FPIR is not vouched for; None if it is
    at_fnir: OperatingPoint | None  # highest threshold with at most the wanted FNIR, if any
    reject: float  # below it a stranger, from `accept` on a name, between them unsure
    unsure_strangers: Rate  # strangers' photos between them
    unsure_enrolled: Rate | None  # enrolled people's photos between them
    margin_rule: MarginRule | None  # None where nobody has two photos or there are two people only
    sizes: tuple[SizePoint, ...]  # rising
    tail: ExtremeTail | None


def operating_point(
    left_out: LeaveOneOut, threshold: float, margin: float = 0.0, confidence: float = 0.95
) -> OperatingPoint:
    """Return the error rates of a gallery at a threshold, with intervals over people.

    Strangers are the gallery's photos with their whole person left out, enrolled probes those with
    the photo left out. A stranger meets one person less than the gallery has, P - 1 of P, which
    the FPIR allows for as if scores of people were independent: 1 - (1 - F)^(P / (P - 1)).

    Args:
        left_out: from `leave_one_out`.
        threshold: a cosine.
        margin: how far ahead of the second-best person the best must be, at least 0.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: arguments out of range, or a margin in a gallery of two people, where a stranger
            meets one only.
    """
    _check_share("confidence", confidence)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite cosine, got {threshold}")
    if not (np.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be at least 0, got {margin}")
    closeness = left_out.rival - threshold
    if margin > 0:
        if left_out.people.size == 2:
            raise ValueError(f"margin must be 0 in a gallery of 2 people, got {margin}")
        closeness = np.minimum(closeness, left_out.rival - left_out.second - margin)
    named = person_rate(
        closeness >= 0, closeness, left_out.person, confidence, left_out.rival_person
    )
    judged = left_out.judged
    if not judged.any():
        return OperatingPoint(threshold, margin, _in_full(named, left_out), None, None, None)
    person = left_out.person[judged]
    first, right = left_out.first[judged], left_out.right[judged]
    answered, ahead = first - threshold, left_out.margin[judged] - margin
    if margin == 0:
        ahead = np.full(person.size, np.inf)
    silent = (answered < 0) | (ahead < 0)
    lead = left_out.genuine[judged] - left_out.rival[judged]
    none = person_rate(silent, -np.minimum(answered, ahead), person, confidence)
    wrong = person_rate(~silent & ~right, np.minimum(answered, -lead), person, confidence)
    missed = -np.minimum(np.minimum(answered, ahead), lead)
    failed = person_rate(silent | ~right, missed, person, confidence)
    return OperatingPoint(threshold, margin, _in_full(named, left_out), failed, none, wrong)


def calibrate(
    left_out: LeaveOneOut,
    fpir: float = 0.01,
    confidence: float = 0.95,
    *,
    fnir: float = 0.01,
    bootstrap: int = 1000,
    seed: int = 0,
    tail: bool | Literal["auto"] = "auto",
) -> Calibration:
    """Choose thresholds from a gallery's own photos, and say what they promise.

    `accept` is the lowest threshold at which at most the share `fpir` of strangers' photos gets a
    name, nothing is interpolated. Where people are too few for that rate, it is still that
    threshold, mostly above all strangers that there are; its interval then reaches above the
    wanted rate, and `too_few` says so.

    Args:
        left_out: from `leave_one_out`.
        fpir: wanted false positive identification rate, in (0, 1).
        confidence: of every interval, in (0, 1).
        fnir: wanted error among the enrolled, in (0, 1): for `at_fnir` the share that does not get
            the right name, for `reject` the share that scores below it.
        bootstrap: resamples of people for the margin rule and the tail, at least 100.
        seed: of these, and of the halves of people that judge the margin rule.
        tail: whether to extrapolate with `extreme_tail`; "auto" does where there are too few
            people for the rate, and enough for the tail.

    Raises:
        ValueError: arguments out of range; with `tail=True` also too few scores for it.

    Example:
        >>> from centerarc.evaluation import leave_one_out
        >>> faces = [[1, 0, 0], [9, 1, 0], [0, 1, 0], [0, 9, 1], [0, 0, 1], [1, 0, 9]]
        >>> found = calibrate(leave_one_out(faces, [1, 1, 2, 2, 3, 3]), fpir=0.2)
        >>> round(found.accept.threshold, 2), found.accept.fnir.value
        (0.11, 0.0)
        >>> found.too_few
        'FPIR 0.2 needs more people: 3 vouch for 0.78 at best'
    """
    for name, share in (("fpir", fpir), ("fnir", fnir), ("confidence", confidence)):
        _check_share(name, share)
    check_resamples(bootstrap)
    size = left_out.people.size
    threshold = lowest_threshold(left_out.rival, None, _left_out_share(fpir, size))
    accept = operating_point(left_out, threshold, confidence=confidence)
    smallest = smallest_fpir(left_out, confidence)
    too_few = None
    if fpir * ROUNDED_UP < smallest:
        too_few = f"FPIR {fpir:g} needs more people: {size:,} vouch for {smallest:.2g} at best"
    judged = left_out.judged
    reject, at_fnir, rule = threshold, None, None
    if judged.any():
        reject = min(threshold, _highest_threshold(left_out.first[judged], fnir))
        right = np.where(left_out.right[judged], left_out.genuine[judged], -np.inf)
        reached = _highest_threshold(right, fnir)
        if np.isfinite(reached):
            at_fnir = operating_point(left_out, reached, confidence=confidence)
        if size > 2:
            most = _left_out_share(fpir, size)
            rule = best_margin(left_out, most, confidence, bootstrap, seed)
    wanted = tail is True
    if tail == "auto":
        wanted = too_few is not None and why_no_tail(left_out, fpir) is None
    return Calibration(
        people=size,
        photos=left_out.person.size,
        judged_people=int(np.count_nonzero(left_out.photos_of > 1)),
        judged_photos=int(np.count_nonzero(judged)),
        confidence=confidence,
        wanted_fpir=fpir,
        wanted_fnir=fnir,
        accept=accept,
        smallest_fpir=smallest,
        too_few=too_few,
        at_fnir=at_fnir,
        reject=reject,
        unsure_strangers=_between(
            left_out.rival, left_out.person, reject, threshold, confidence, left_out.rival_person
        ),
        unsure_enrolled=_between(
            left_out.first[judged], left_out.person[judged], reject, threshold, confidence
        )
        if judged.any()
        else None,
        margin_rule=rule,
        sizes=size_points(left_out, accept, fpir, confidence),
        tail=extreme_tail(left_out, fpir, confidence, bootstrap=bootstrap, seed=seed)
        if wanted
        else None,
    )


def size_points(
    left_out: LeaveOneOut, accept: OperatingPoint, fpir: float, confidence: float
) -> tuple[SizePoint, ...]:
    """What a threshold does in smaller galleries, and what it may do in larger ones.

    Smaller galleries are of people drawn at random; the mean over all such draws is exact, from the
    hypergeometric distribution, as long as no more than K people score above the threshold.
    Larger ones are extrapolated: the highest of so many more independent scores.
    """
    size = left_out.people.size
    points: list[SizePoint] = []
    for part in _SMALLER:
        count = max(1, round(size / part))
        if part > 1 and (count == size or count in (point.people for point in points)):
            continue
        scores, weights = _drawn(left_out, count)
        value = float(min(1.0, weights[scores >= accept.threshold].sum()))
        trials = accept.fpir.effective
        low, high = clopper_pearson(value * trials, trials, confidence)
        points.append(
            SizePoint(count, value, low, high, lowest_threshold(scores, weights, fpir), False)
        )
    now = accept.fpir
    points.append(SizePoint(size, now.value, now.low, now.high, accept.threshold, False))
    for times in _LARGER:
        value, low, high = (in_larger(each, times) for each in (now.value, now.low, now.high))
        points.append(SizePoint(times * size, value, low, high, None, True))
    return tuple(points)


def _drawn(left_out: LeaveOneOut, count: int) -> tuple[FloatArray, FloatArray]:
    """Scores of strangers with so many people drawn from the P - 1 others, and their weights.

    The k-th rival of a photo is its best if it is drawn and the k - 1 before it are not.
    """
    others, kept = left_out.people.size - 1, left_out.rivals.shape[1]
    none = np.ones(kept + 1)  # the probability that none of the first k is drawn
    for k in range(kept):
        none[k + 1] = none[k] * max(others - k - count, 0) / (others - k)
    weights = (none[:-1] - none[1:]) / left_out.person.size
    return left_out.rivals.ravel(), np.tile(weights, left_out.person.size)


def _between(
    scores: FloatArray,
    person: IntArray,
    low: float,
    high: float,
    confidence: float,
    toward: IntArray | None = None,
) -> Rate:
    inside = (scores >= low) & (scores < high)
    return person_rate(inside, np.minimum(scores - low, high - scores), person, confidence, toward)


def smallest_fpir(left_out: LeaveOneOut, confidence: float) -> float:
    """The FPIR that is vouched for by strangers of whom none gets a name."""
    none = np.zeros(left_out.person.size, dtype=np.bool_)
    rate = person_rate(none, left_out.rival, left_out.person, confidence, left_out.rival_person)
    return in_larger(most_at_zero(rate.effective, confidence), _times(left_out))


def _times(left_out: LeaveOneOut) -> float:
    return left_out.people.size / (left_out.people.size - 1)


def _in_full(rate: Rate, left_out: LeaveOneOut) -> Rate:
    """A rate among P - 1 people as one among P."""
    value, low, high = (
        in_larger(each, _times(left_out)) for each in (rate.value, rate.low, rate.high)
    )
    return Rate(value, low, high, rate.photos, rate.of, rate.effective)


def _left_out_share(fpir: float, size: int) -> float:
    """The share among P - 1 people that is `fpir` among P."""
    return in_larger(fpir, (size - 1) / size)


def _highest_threshold(scores: FloatArray, most: float) -> float:
    """The highest threshold with at most the share `most` of scores below it."""
    below = int(np.floor(most * scores.size * ROUNDED_UP))
    return float(np.partition(scores, min(below, scores.size - 1))[min(below, scores.size - 1)])


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value}")
