"""The same threshold for everybody: who is served worse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import (
    Estimate,
    Interval,
    PairPeople,
    TooFew,
    Trials,
    check_resamples,
    contrary_share,
    difference_interval,
    estimate,
    fields_of,
    plain,
)
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, check_scores, share_of

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
    contrary_share: float | None  # see `intervals.contrary_share`; small is sure

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "worst": self.worst,
            "best": self.best,
            "gap": self.value,
            "interval95": plain(self.interval),
            "contrary_share": self.contrary_share,
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
    bootstrap: int = 1000,
    seed: int = 0,
) -> Breakdown:
    """Accuracy, TAR and FAR of every group at the threshold that all groups share.

    Args:
        scores, same, people, bootstrap, seed: as of
            `centerarc.evaluation.evaluate_verification`, also its errors.
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
    check_resamples(bootstrap)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    if min_pairs < 1:
        raise ValueError(f"min_pairs must be at least 1, got {min_pairs}")
    column = pair_groups(*groups) if isinstance(groups, tuple) else np.asarray(groups)
    if column.shape != values.shape:
        raise ValueError(f"groups must have the shape of scores {values.shape}, got {column.shape}")
    names, group_of = np.unique(column.astype(np.str_), return_inverse=True)
    group_of = group_of.astype(np.int64)
    rates_of = _rates_of_groups(group_of, labels, values >= threshold, names.size)
    rates = rates_of(np.ones((values.size, 1)))[..., 0]
    who = None if people is None else PairPeople(people, labels)
    resampled = None
    if who is not None:
        kinds = np.flatnonzero(labels), np.flatnonzero(~labels)

        def measured(drawn: FloatArray) -> FloatArray:
            weights = np.empty((values.size, drawn.shape[1]))
            for pairs in kinds:
                weights[pairs] = who.weights(drawn, pairs)
            return rates_of(weights)

        resampled = who.resampled(measured, bootstrap, seed)
    results = {}
    # People that each rate of each group rests on.
    carriers = np.ones((len(MEASURES), names.size), dtype=np.int64)
    for number, name in enumerate(names.tolist()):
        mine = group_of == number
        counts = int((mine & labels).sum()), int((mine & ~labels).sum())
        if who is not None:
            of_kind = who.among(mine & labels), who.among(mine & ~labels)
            carriers[:, number] = np.maximum([min(of_kind), *of_kind], 1)
        estimates = []
        for row, needed in enumerate([min(counts), *counts]):
            if needed < min_pairs:
                few = TooFew(_TRIALS[row], needed, min_pairs)
                estimates.append(Estimate(None, too_few=few))
            else:
                moved = None if resampled is None else resampled[row, number]
                rate, people_of = rates[row, number], int(carriers[row, number])
                estimates.append(estimate(rate, moved, people_of))
        accuracy, tar, far = estimates
        num_people = None if who is None else who.among(mine)
        results[name] = GroupResult(name, accuracy, tar, far, *counts, num_people)
    gaps = {}
    for row, measure in enumerate(MEASURES):
        found = [getattr(group, measure).value for group in results.values()]
        known = [number for number, value in enumerate(found) if value is not None]
        if len(known) < 2:
            continue
        sign = 1.0 if measure == "far" else -1.0
        errors = sign * rates[row]
        worst = max(known, key=lambda number: float(errors[number]))
        best = min(known, key=lambda number: float(errors[number]))
        interval, contrary = None, None
        if resampled is not None:
            moved = sign * (resampled[row, worst] - resampled[row, best])
            interval = difference_interval(moved, int(carriers[row, [worst, best]].min()))
            contrary = contrary_share(moved)
        value = float(errors[worst] - errors[best])
        gaps[measure] = Gap(str(names[worst]), str(names[best]), value, interval, contrary)
    return Breakdown(float(threshold), results, gaps)


def _rates_of_groups(
    group_of: IntArray, same: BoolArray, accepted: BoolArray, num_groups: int
) -> Callable[[FloatArray], FloatArray]:
    """From weights of pairs (P, B) to accuracy, TAR and FAR of each group, (3, K, B).

    NaN where a group has no weight on a kind of pairs.
    """
    cell = 4 * group_of + 2 * same + accepted
    order = np.argsort(cell, kind="stable")
    cells, starts = np.unique(cell[order], return_index=True)
    genuine_share = float(same.mean())

    def rates(weights: FloatArray) -> FloatArray:
        sums = np.zeros((4 * num_groups, weights.shape[1]))
        sums[cells] = np.add.reduceat(weights.take(order, axis=0), starts)
        by_kind = sums.reshape(num_groups, 2, 2, -1)
        far, tar = np.moveaxis(share_of(by_kind[:, :, 1], by_kind.sum(axis=2)), 1, 0)
        accuracy = genuine_share * tar + (1 - genuine_share) * (1 - far)
        return np.stack([accuracy, tar, far])

    return rates
