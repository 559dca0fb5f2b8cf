"""Resampling people: how far a verification number would move with other people.

Pairs that share a person are not independent, so resampling pairs makes intervals too narrow.
People are drawn with replacement instead and every pair counts as often as its people were drawn:
a genuine pair of person a counts m_a times, an impostor pair of a and b counts m_a m_b times,
where m ~ Multinomial(n, 1/n, ..., 1/n). Drawing all pairs of a person together is after the subsets
bootstrap of Bolle, Ratha, Pankanti 2004. The product is after the pigeonhole bootstrap of Owen
2007, which draws the rows and the columns of a table; here both sides are the same people, drawn
once. Fogliato, Patil, Perona 2023 (arXiv:2306.01198) study such intervals for pairs of faces and
find that bootstraps may cover too little or too much where errors are rare.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import FloatArray, IntArray

# Weights of at most this many pairs at once: 32 MB an array.
_CHUNK_VALUES = 4_000_000
# Far above the rounding of a sum over pairs, far below what one wrong pair changes.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval; 95 % unless said otherwise."""

    low: float
    high: float


def person_numbers(
    people: tuple[npt.ArrayLike, npt.ArrayLike], same: npt.ArrayLike
) -> tuple[IntArray, IntArray, int]:
    """Number the people of pairs 0, 1, ..., n - 1.

    Args:
        people: the first and the second person of each pair, each (P,), names or numbers.
        same: (P,) whether each pair is genuine.

    Returns:
        The numbers of the first and second people, each (P,), and n.

    Raises:
        ValueError: wrong shapes, or a pair whose ``same`` contradicts its people.
    """
    first, second, labels = np.asarray(people[0]), np.asarray(people[1]), np.asarray(same, bool)
    for name, side in (("people[0]", first), ("people[1]", second)):
        if side.shape != labels.shape:
            raise ValueError(f"{name} must have the shape of same {labels.shape}, got {side.shape}")
    wrong = np.flatnonzero((first == second) != labels)
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"people contradict same in row {row}: {first[row]!s} and {second[row]!s} "
            f"with same={bool(labels[row])}"
        )
    distinct, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    numbers = numbers.astype(np.int64)
    return numbers[: labels.size], numbers[labels.size :], distinct.size


def resampled_weights(
    first: IntArray, second: IntArray, num_people: int, resamples: int, seed: int
) -> Iterator[FloatArray]:
    """Yield the pairs' weights in every resample of the people, some resamples at a time.

    Args:
        first: (P,) number of each pair's first person, below ``num_people``.
        second: (P,) number of its second person; equal to the first in a genuine pair.
        num_people: n, how many people are drawn from (and drawn).
        resamples: how many resamples, at least 1.
        seed: of the generator; equal seeds give equal weights.

    Yields:
        (B, P) float64 weights; the B's add up to ``resamples``.
    """
    generator = np.random.default_rng(seed)
    genuine = first == second
    rows = max(1, _CHUNK_VALUES // max(first.size, num_people))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(num_people, size=(count, num_people))
        drawn += np.arange(count)[:, None] * num_people
        times = np.bincount(drawn.ravel(), minlength=count * num_people)
        drawn_times: FloatArray = times.reshape(count, num_people).astype(np.float64)
        yield drawn_times[:, first] * np.where(genuine, 1.0, drawn_times[:, second])


def percentile_interval(values: FloatArray, num_people: int, level: float = 0.95) -> Interval:
    """The middle ``level`` of the resampled values of a rate.

    When no resample moves the rate away from exactly 0 or exactly 1, the percentiles would claim
    certainty. The interval is then Wilson's (1927) with the people as trials: with no error among
    n people the error rate's upper end is z^2 / (n + z^2).

    Args:
        values: (B,) a rate in each resample; NaN where a resample had no pair of a needed kind.
        num_people: n, the people that the rate rests on.
        level: share of the distribution inside, in (0, 1).

    Returns:
        The interval, inside [0, 1].

    Raises:
        ValueError: every value is NaN.
    """
    # Sums of weights round: a rate that is 1 may come as 1 + 2e-16 or 1 - 2e-16.
    known = np.clip(values[~np.isnan(values)], 0.0, 1.0)
    if not known.size:
        raise ValueError(
            "bootstrap: no resample held pairs of both kinds; there are too few people"
        )
    reach = 1.959964**2 / (num_people + 1.959964**2)
    if known.max() < _ROUNDING:
        return Interval(0.0, reach)
    if known.min() > 1.0 - _ROUNDING:
        return Interval(1.0 - reach, 1.0)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
