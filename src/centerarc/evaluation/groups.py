"""The same threshold for everybody: who is served worse by it."""

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
    columns_for,
    contrary_share,
    difference_interval,
    draw_people,
    low_high,
    percentile_interval,
)
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, check_scores

MEASURES = ("accuracy", "tar", "far")
# What each of them is measured on.
_TRIALS: tuple[Trials, ...] = ("either", "genuine", "impostor")


@dataclass(frozen=True)
class GroupResult:
    """How a group fares at the overall threshold.

    Attributes:
        name: the group.
        accuracy: share of right answers, both kinds of pairs weighted as in the whole set, so that
            groups with other mixes can be compared.
        tar: share of the group's genuine pairs that are accepted.
        far: share of its impostor pairs that are accepted.
        num_genuine: genuine pairs.
        num_impostor: impostor pairs.
        num_people: distinct people; None when ``people`` was not given.
    """

    name: str
    accuracy: Estimate
    tar: Estimate
    far: Estimate
    num_genuine: int
    num_impostor: int
    num_people: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            **{measure: getattr(self, measure).to_dict() for measure in MEASURES},
            "num_genuine": self.num_genuine,
            "num_impostor": self.num_impostor,
            "num_people": self.num_people,
        }


@dataclass(frozen=True)
class Gap:
    """The distance between the worst and the best group in one measure.

    Attributes:
        worst: the group with the lowest accuracy or TAR, or the highest FAR.
        best: the group at the other end.
        value: how much worse the one is than the other, at least 0.
        interval: 95 % of the gap of these two groups over people; below 0 the order of the two
            turns round. It does not allow for the two having been picked out of many groups.
        contrary_share: as in :func:`centerarc.evaluation.intervals.contrary_share`, small is sure.
    """

    worst: str
    best: str
    value: float
    interval: Interval | None
    contrary_share: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "worst": self.worst,
            "best": self.best,
            "gap": self.value,
            "interval95": low_high(self.interval),
            "contrary_share": self.contrary_share,
        }


@dataclass(frozen=True)
class Breakdown:
    """All groups of a column at one threshold.

    Attributes:
        threshold: accept ``score >= threshold``.
        groups: by name.
        gaps: by measure ("accuracy", "tar", "far"); absent where fewer than two groups have it.
    """

    threshold: float
    groups: dict[str, GroupResult]
    gaps: dict[str, Gap]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "threshold": self.threshold,
            "groups": [group.to_dict() for group in self.groups.values()],
            "gaps": {measure: gap.to_dict() for measure, gap in self.gaps.items()},
        }


def pair_groups(group_a: npt.ArrayLike, group_b: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Groups of pairs from a column of the images.

    Args:
        group_a: (P,) the group of each pair's first image.
        group_b: (P,) that of its second image.

    Returns:
        (P,) "x" where both are x, "x | y" in sorted order where they differ.

    Raises:
        ValueError: different shapes.

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
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        groups: (P,) the group of each pair, names or numbers; or a tuple of the groups of its first
            and its second image, each (P,), which :func:`pair_groups` puts together.
        people: the first and the second person of each pair, each (P,). None: no intervals.
        threshold: of the whole set: a report's ``threshold``, or a calibrated one.
        min_pairs: a group with fewer pairs of a kind gets a reason in place of the rates that rest
            on them, at least 1.
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        The groups in sorted order, and the gaps between the worst and the best of them.

    Raises:
        ValueError: arguments that contradict each other, a score that is not finite (with its
            row), or no pair of one of the kinds.

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
    cells = _Cells(group_of.astype(np.int64), labels, values >= threshold, names.size)
    who = None if people is None else PairPeople.of(people, labels)
    rates = cells.rates(np.ones((values.size, 1)))[..., 0]
    resampled = None if who is None else _resampled_rates(cells, who, labels, bootstrap, seed)
    results = {}
    reaches = np.ones((len(MEASURES), names.size), dtype=np.int64)
    for number, name in enumerate(names.tolist()):
        kinds = [np.flatnonzero((group_of == number) & kind) for kind in (labels, ~labels)]
        counts = kinds[0].size, kinds[1].size
        num_people = None
        if who is not None:
            members = [np.unique(np.append(who.first[k], who.second[k])) for k in kinds]
            num_people = int(np.union1d(*members).size)
            of_kind = members[0].size, members[1].size
            reaches[:, number] = np.maximum([min(of_kind), *of_kind], 1)
        estimates = []
        for row, needed in enumerate([min(counts), *counts]):
            if needed < min_pairs:
                few = TooFew(_TRIALS[row], needed, min_pairs)
                estimates.append(Estimate(None, too_few=few))
                continue
            interval = None
            if resampled is not None:
                interval = percentile_interval(resampled[row, number], int(reaches[row, number]))
            estimates.append(Estimate(float(rates[row, number]), interval))
        accuracy, tar, far = estimates
        results[name] = GroupResult(name, accuracy, tar, far, *counts, num_people)
    gaps = {}
    for row, measure in enumerate(MEASURES):
        measured = [
            number
            for number, group in enumerate(results.values())
            if getattr(group, measure).value is not None
        ]
        if len(measured) > 1:
            gaps[measure] = _gap(row, measured, names, rates, resampled, reaches)
    return Breakdown(float(threshold), results, gaps)


class _Cells:
    """Sums of weights over the pairs of each group, kind and answer.

    Args:
        group_of: (P,) number of each pair's group.
        same: (P,) whether each pair is genuine.
        accepted: (P,) whether it is accepted.
        num_groups: K.
    """

    def __init__(
        self, group_of: IntArray, same: BoolArray, accepted: BoolArray, num_groups: int
    ) -> None:
        cell = 4 * group_of + 2 * same + accepted
        self._order = np.argsort(cell, kind="stable")
        self._cells, self._starts = np.unique(cell[self._order], return_index=True)
        self._num_groups = num_groups
        self._genuine_share = float(same.mean())

    def rates(self, weights: FloatArray) -> FloatArray:
        """Accuracy, TAR and FAR of each group: weights (P, B) to (3, K, B).

        NaN where a group has no weight on a kind of pairs.
        """
        sums = np.zeros((4 * self._num_groups, weights.shape[1]))
        sums[self._cells] = np.add.reduceat(weights.take(self._order, axis=0), self._starts)
        by_kind = sums.reshape(self._num_groups, 2, 2, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            far, tar = np.moveaxis(by_kind[:, :, 1] / by_kind.sum(axis=2), 1, 0)
        accuracy = self._genuine_share * tar + (1 - self._genuine_share) * (1 - far)
        return np.stack([accuracy, tar, far])


def _resampled_rates(
    cells: _Cells, people: PairPeople, same: BoolArray, resamples: int, seed: int
) -> FloatArray:
    """The rates of every resample of the people: (3, K, ``resamples``)."""
    kinds = np.flatnonzero(same), np.flatnonzero(~same)
    parts = []
    columns = columns_for(max(same.size, people.count))
    for drawn in draw_people(people.count, resamples, seed, columns):
        weights = np.empty((same.size, drawn.shape[1]))
        for pairs in kinds:
            weights[pairs] = people.weights(drawn, pairs)
        parts.append(cells.rates(weights))
    return np.concatenate(parts, axis=2)


def _gap(
    row: int,
    measured: list[int],
    names: npt.NDArray[np.str_],
    rates: FloatArray,
    resampled: FloatArray | None,
    reaches: IntArray,
) -> Gap:
    """The gap of a measure between the ``measured`` groups at either end."""
    sign = 1.0 if MEASURES[row] == "far" else -1.0
    errors = sign * rates[row]
    worst = max(measured, key=lambda number: float(errors[number]))
    best = min(measured, key=lambda number: float(errors[number]))
    value = float(errors[worst] - errors[best])
    if resampled is None:
        return Gap(str(names[worst]), str(names[best]), value, None, None)
    moved = sign * (resampled[row, worst] - resampled[row, best])
    interval = difference_interval(moved, int(reaches[row, [worst, best]].min()))
    return Gap(str(names[worst]), str(names[best]), value, interval, contrary_share(moved))
