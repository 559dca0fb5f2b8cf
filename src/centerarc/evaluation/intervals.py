"""Resampled people, and numbers with their intervals."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, RankedPairs, WeightedCurves

# Resampling people: how far a verification number would move with other people.
#
# Pairs that share a person are not independent, so resampling pairs makes intervals too narrow.
# People are drawn with replacement instead and every pair counts as often as its people were drawn:
# a genuine pair of person a counts m_a times, an impostor pair of a and b counts m_a m_b times,
# where m ~ Multinomial(n, 1/n, ..., 1/n). Drawing all pairs of a person together is after the
# subsets
# bootstrap of Bolle, Ratha, Pankanti 2004. The product is after the pigeonhole bootstrap of Owen
# 2007, which draws the rows and the columns of a table; here both sides are the same people, drawn
# once. Fogliato, Patil, Perona 2023 (arXiv:2306.01198) study such intervals for pairs of faces and
# find that bootstraps may cover too little or too much where errors are rare.

# Weights at once: few enough to stay in the processor's cache, at most 32 MB an array.
_CACHED_VALUES = 200_000
_MOST_VALUES = 4_000_000
# Far above the rounding of a sum over pairs, far below what one wrong pair changes.
_ROUNDING = 1e-12
_Z = 1.959964
# For sentences about intervals of rates.
EXTREMES = "Wilson's (1927), with the people as trials, where resamples leave a rate at 0 or 1."


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval; 95 % unless said otherwise."""

    low: float
    high: float


@dataclass(frozen=True)
class PairPeople:
    """Who the pairs are of.

    Attributes:
        first: (P,) number of each pair's first person, below ``count``.
        second: (P,) number of its second person; equal to the first in a genuine pair.
        count: n, how many people there are.
        fewest: people of the genuine pairs or of the impostor pairs, whichever are fewer: they
            bound what a rate of exactly 0 or 1 can claim.
    """

    first: IntArray
    second: IntArray
    count: int
    fewest: int

    @classmethod
    def of(cls, people: tuple[npt.ArrayLike, npt.ArrayLike], same: BoolArray) -> "PairPeople":
        """Number the people of pairs (see :func:`person_numbers`)."""
        first, second, count = person_numbers(people, same)
        kinds = [np.unique(np.concatenate([first[k], second[k]])).size for k in (same, ~same)]
        return cls(first, second, count, min(kinds))

    def weights(self, drawn: FloatArray, pairs: IntArray) -> FloatArray:
        """What pairs count in each resample.

        Args:
            drawn: (n, B) how often each person was drawn.
            pairs: (K,) numbers of pairs, all genuine or all impostor.

        Returns:
            (K, B).
        """
        first, second = self.first.take(pairs), self.second.take(pairs)
        result = drawn.take(first, axis=0)
        if pairs.size and first[0] != second[0]:
            result *= drawn.take(second, axis=0)
        return result


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


def draw_people(num_people: int, resamples: int, seed: int, columns: int) -> Iterator[FloatArray]:
    """Yield how often each person is drawn in every resample, some resamples at a time.

    Args:
        num_people: n, how many people are drawn from (and drawn).
        resamples: how many resamples, at least 1.
        seed: of the generator; equal seeds give equal draws, whatever ``columns`` is.
        columns: how many resamples at a time.

    Yields:
        (n, B) float64, whole numbers whose columns add up to n; the B's add up to ``resamples``.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, columns):
        count = min(columns, resamples - start)
        drawn = generator.integers(num_people, size=(count, num_people))
        drawn += np.arange(count)[:, None] * num_people
        times = np.bincount(drawn.ravel(), minlength=count * num_people)
        yield np.ascontiguousarray(times.reshape(count, num_people).T, dtype=np.float64)


def columns_for(num_rows: int) -> int:
    """How many resamples of ``num_rows`` weights to hold at a time."""
    fitting = max(8, min(64, _CACHED_VALUES // num_rows))
    return max(1, min(fitting, _MOST_VALUES // num_rows))


def resampled_curves(
    ranked: Sequence[RankedPairs], people: PairPeople, resamples: int, seed: int
) -> Iterator[list[WeightedCurves]]:
    """Yield the curves of every resample of the people, some resamples at a time.

    Args:
        ranked: the same pairs as each of several models ranks them.
        people: who they are of.
        resamples: how many resamples, at least 1.
        seed: of the drawing; all models get the same people.

    Yields:
        The B curves of each model; the B's add up to ``resamples``.
    """
    columns = columns_for(max(people.first.size, people.count))
    for drawn in draw_people(people.count, resamples, seed, columns):
        yield [
            WeightedCurves(
                pairs, people.weights(drawn, pairs.genuine), people.weights(drawn, pairs.impostor)
            )
            for pairs in ranked
        ]


def check_resamples(bootstrap: int) -> None:
    """Raise a ValueError unless there are enough resamples for the ends of an interval."""
    if bootstrap < 100:
        raise ValueError(f"bootstrap must be at least 100 resamples, got {bootstrap}")


def percentile_interval(values: FloatArray, num_people: int, level: float = 0.95) -> Interval:
    """The middle ``level`` of the resampled values of a rate.

    When hardly any resample moves the rate away from exactly 0 or exactly 1, both percentiles are
    there and would claim certainty. The interval is then Wilson's (1927) with the people as trials:
    with no error among n people the error rate's upper end is z^2 / (n + z^2).

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
    known = np.clip(_known(values), 0.0, 1.0)
    found = spread(known, level)
    if found.high < _ROUNDING:
        return Interval(0.0, wilson_reach(num_people))
    if found.low > 1.0 - _ROUNDING:
        return Interval(1.0 - wilson_reach(num_people), 1.0)
    return found


def difference_interval(values: FloatArray, num_people: int, level: float = 0.95) -> Interval:
    """The middle ``level`` of the resampled differences of two rates.

    When hardly any resample tells the two apart, the interval reaches as far to both sides as
    :func:`percentile_interval` does from a rate of 0.

    Args:
        values: (B,) a difference in each resample; NaN where a resample had no pair of a kind.
        num_people: n, the people that the rates rest on.
        level: share of the distribution inside, in (0, 1).

    Returns:
        The interval, inside [-1, 1].

    Raises:
        ValueError: every value is NaN.
    """
    found = spread(values, level)
    if max(-found.low, found.high) < _ROUNDING:
        return Interval(-wilson_reach(num_people), wilson_reach(num_people))
    return found


def spread(values: FloatArray, level: float = 0.95) -> Interval:
    """The middle ``level`` of resampled values of any kind; NaN is left out."""
    low, high = np.quantile(_known(values), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def wilson_reach(trials: int) -> float:
    """The upper end of Wilson's 95 % interval for a rate of 0 among ``trials``."""
    return _Z**2 / (trials + _Z**2)


def contrary_share(values: FloatArray) -> float:
    """How often resampled differences are not on the side of most of them, doubled.

    2 (c + 1) / (B + 1), at most 1, where c is the smaller of the number of resamples with a
    difference of at most 0 and the number with one of at least 0. Small is sure. It reads like a
    two-sided p-value but is none: the resamples lie around the difference that was found, not
    around 0.

    Args:
        values: (B,) a difference in each resample; NaN is left out.

    Returns:
        A share in (0, 1].
    """
    known = _known(values)
    down = np.count_nonzero(known <= _ROUNDING)
    up = np.count_nonzero(known >= -_ROUNDING)
    return float(min(1.0, 2 * (min(down, up) + 1) / (known.size + 1)))


def _known(values: FloatArray) -> FloatArray:
    known = values[~np.isnan(values)]
    if not known.size:
        raise ValueError(
            "bootstrap: no resample held pairs of both kinds; there are too few people"
        )
    return np.asarray(known, dtype=np.float64)


# A measured number with its interval, or the reason why there is none.


def rate_key(rate: float) -> str:
    """A rate as a key of JSON: short where that is exact, else with all its digits.

    Example:
        >>> rate_key(1e-05), rate_key(0.123456789)
        ('1e-05', '0.123456789')
    """
    short = f"{rate:g}"
    return short if float(short) == rate else repr(float(rate))


Trials = Literal["genuine", "impostor", "either", "impostor of each", "unmated"]
_TRIALS: dict[Trials, str] = {
    "genuine": "genuine pairs",
    "impostor": "impostor pairs",
    "either": "pairs of either kind",
    "impostor of each": "impostor pairs of every identity",
    "unmated": "probes of people who are not in the gallery",
}


@dataclass(frozen=True)
class TooFew:
    """Why there is no value: too few trials, as data; `str` gives the sentence.

    Attributes:
        trials: of what there are too few.
        found: how many there are, or with "impostor of each" how many one identity has.
        needed: how many it takes; None where that is 1 / rate.
        rate: name and value of the rate that takes so many, such as ("FAR", 0.001).
    """

    trials: Trials
    found: int
    needed: int | None = None
    rate: tuple[str, float] | None = None

    def sentence(
        self, write: Callable[[float], str] = rate_key, names: Mapping[Trials, str] = _TRIALS
    ) -> str:
        """The reason in words, with rates as `write` has them and the given names of trials."""
        if self.rate is None:
            start, needed = "", f"{self.needed:,}"
        else:
            start = f"{self.rate[0]} {write(self.rate[1])} "
            needed = fewest_trials(self.rate[1])
        there = "one has" if self.trials == "impostor of each" else "there are"
        return f"{start}needs at least {needed} {names[self.trials]}, {there} {self.found:,}"

    def __str__(self) -> str:
        return self.sentence()


@dataclass(frozen=True)
class Estimate:
    """A rate and its 95 % interval.

    Attributes:
        value: the rate in [0, 1]; None when the data cannot support it.
        interval: 95 % over people; None without ``people`` or without a value.
        too_few: why there is no value.
    """

    value: float | None
    interval: Interval | None = None
    too_few: TooFew | None = None

    @property
    def reason(self) -> str | None:
        """Why there is no value, in words."""
        return None if self.too_few is None else str(self.too_few)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        result: dict[str, Any] = {"value": self.value, "interval95": low_high(self.interval)}
        return result if self.reason is None else {**result, "reason": self.reason}


def fewest_trials(rate: float) -> str:
    """How many trials a rate needs, so that one error is not above it already, in words."""
    # Of the smallest floats 1 / rate is infinite, and of others longer than a line.
    return f"{math.ceil(1 / rate * (1 - 1e-12)):,}" if rate > 1e-15 else f"{1 / rate:g}"


def low_high(interval: Interval | None) -> list[float] | None:
    """An interval as plain data for JSON."""
    return None if interval is None else [interval.low, interval.high]
