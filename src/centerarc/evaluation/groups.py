"""The same threshold for everybody: who is served worse."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import (
    Effect,
    Estimate,
    Interval,
    PairPeople,
    TooFew,
    Trials,
    fields_of,
    mean_effect,
    plain,
)
from centerarc.evaluation.scores import BoolArray, FloatArray, check_scores

MEASURES = ("accuracy", "tar", "far")
# What each of them is measured on.
_TRIALS: tuple[Trials, ...] = ("either", "genuine", "impostor")


@dataclass(frozen=True)
class GroupResult:
    """How a group fares at the overall threshold."""

    name: str  # the group
    accuracy: Estimate  # both kinds of pairs weighted as in the whole set, to compare groups
    tar: Estimate
    far: Estimate
    num_genuine: int
    num_impostor: int
    num_people: int | None  # distinct people; None when `people` was not given

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        counts = ("num_genuine", "num_impostor", "num_people")
        return fields_of(self, "name", *MEASURES, *counts)


@dataclass(frozen=True)
class Gap:
    """The distance between the worst and the best group in one measure."""

    worst: str  # the group with the lowest accuracy or TAR, or the highest FAR
    best: str  # the group at the other end
    value: float  # how much worse the one is than the other, at least 0
    # 95% of the gap of these two groups over people; below 0 the order of the two turns round. It
    # does not allow for the two having been picked out of many groups.
    interval: Interval | None
    doubt: float | None  # p-value of no gap between these two; small is sure

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "worst": self.worst,
            "best": self.best,
            "gap": self.value,
            "interval95": plain(self.interval),
            "doubt": self.doubt,
        }


@dataclass(frozen=True)
class Breakdown:
    """All groups of a column at one threshold."""

    threshold: float  # accept `score >= threshold`
    groups: dict[str, GroupResult]  # by name
    gaps: dict[str, Gap]  # by measure; absent where fewer than two groups have it

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "threshold": self.threshold,
            "groups": [group.to_dict() for group in self.groups.values()],
            "gaps": plain(self.gaps),
        }


def pair_groups(group_a: npt.ArrayLike, group_b: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Groups of pairs from a column of the images.

    From the groups (P,) of each pair's first and second image: "x" where both are x, "x | y" in
    sorted order where they differ.

    Example:
        >>> pair_groups(["old", "young", "old"], ["old", "old", "young"]).tolist()
        ['old', 'old | young', 'old | young']
    """
    first, second = np.asarray(group_a).astype(np.str_), np.asarray(group_b).astype(np.str_)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"groups must both have shape (P,), got {first.shape} and {second.shape}")
    low, high = np.where(first <= second, (first, second), (second, first))
    mixed = np.char.add(np.char.add(low, " | "), high)
    return np.asarray(np.where(low == high, low, mixed), dtype=np.str_)


def breakdown(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    groups: npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike],
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    threshold: float,
    min_pairs: int = 30,
) -> Breakdown:
    """Accuracy, TAR and FAR of every group at the threshold that all groups share.

    Args:
        scores, same, people: as of `centerarc.evaluation.evaluate_verification`, also its errors.
        groups: (P,) the group of each pair, names or numbers; or a tuple of the groups of its first
            and its second image, each (P,), which `pair_groups` puts together.
        threshold: of the whole set: a report's `threshold`, or a calibrated one.
        min_pairs: a group with fewer pairs of a kind gets a reason in place of the rates that rest
            on them, at least 1.

    Returns:
        The groups in sorted order, and the gaps between the worst and the best of them.

    Example:
        >>> found = breakdown(
        ...     [0.9, 0.1, 0.8, 0.7], [1, 0, 1, 0], ["x", "x", "y", "y"], threshold=0.5, min_pairs=1
        ... )
        >>> found.groups["y"].accuracy.value, found.gaps["far"].worst
        (0.5, 'y')
    """
    values, labels = check_scores(scores, same)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    if min_pairs < 1:
        raise ValueError(f"min_pairs must be at least 1, got {min_pairs}")
    column = pair_groups(*groups) if isinstance(groups, tuple) else np.asarray(groups)
    if column.shape != values.shape:
        raise ValueError(f"groups must have the shape of scores {values.shape}, got {column.shape}")
    names, group_of = np.unique(column.astype(np.str_), return_inverse=True)
    accepted, genuine = values >= threshold, float(labels.mean())
    # Each measure as TAR and FAR, weighted, plus a constant.
    parts = {
        "accuracy": (genuine, genuine - 1, 1 - genuine),
        "tar": (1.0, 0.0, 0.0),
        "far": (0.0, 1.0, 0.0),
    }
    who = None if people is None else PairPeople(people, labels)

    def kinds_of(number: int) -> list[BoolArray]:
        return [(group_of == number) & kind for kind in (labels, ~labels)]

    def effect_of(number: int, measure: str) -> FloatArray:
        effect = np.zeros(values.size)
        for kind, weight in zip(kinds_of(number), parts[measure], strict=False):
            if weight:
                effect += weight * mean_effect(accepted, kind)
        return effect

    def fewest_of(number: int, measure: str) -> int:
        """How many people the measure of a group rests on."""
        assert who is not None
        kinds = zip(kinds_of(number), parts[measure], strict=False)
        return min(who.among(kind) for kind, weight in kinds if weight)

    results: dict[str, GroupResult] = {}
    for number, name in enumerate(names.tolist()):
        kinds = kinds_of(number)
        counts = [int(np.count_nonzero(kind)) for kind in kinds]
        shares = [float(accepted[kind].mean()) if kind.any() else 0.0 for kind in kinds]
        found = {}
        for measure, needed, trials in zip(MEASURES, [min(counts), *counts], _TRIALS, strict=True):
            if needed < min_pairs:
                found[measure] = Estimate(None, too_few=TooFew(trials, needed, min_pairs))
                continue
            rate = float(np.dot(parts[measure], [*shares, 1.0]))
            found[measure] = Estimate(rate)
            if who is not None:
                effect = Effect(effect_of(number, measure))
                found[measure] = effect.estimate(rate, who, fewest_of(number, measure))
        num_people = None if who is None else who.among(group_of == number)
        results[name] = GroupResult(
            name,
            *(found["accuracy"], found["tar"], found["far"]),
            *(counts[0], counts[1]),
            num_people,
        )
    gaps = {}
    for measure in MEASURES:
        sign = 1.0 if measure == "far" else -1.0
        rates = [getattr(group, measure).value for group in results.values()]
        errors = {number: sign * rate for number, rate in enumerate(rates) if rate is not None}
        if len(errors) < 2:
            continue
        worst, best = max(errors, key=errors.__getitem__), min(errors, key=errors.__getitem__)
        value = float(errors[worst] - errors[best])
        interval, doubt = None, None
        if who is not None:
            change = sign * (effect_of(worst, measure) - effect_of(best, measure))
            fewest = min(fewest_of(number, measure) for number in (worst, best))
            sure = who.uncertainty(change)
            interval, doubt = sure.difference(value, fewest), sure.doubt(value, fewest)
        gaps[measure] = Gap(str(names[worst]), str(names[best]), value, interval, doubt)
    return Breakdown(float(threshold), results, gaps)
