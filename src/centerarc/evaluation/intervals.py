"""Numbers with 95% intervals: people resampled, and the curves of their weighted pairs.

Pairs that share a person are not independent, so resampling pairs makes intervals too narrow.
People are drawn with replacement instead: a genuine pair of person a counts m_a times, an impostor
pair of a and b m_a m_b times, with m ~ Multinomial(n, 1/n, ..., 1/n). After Bolle, Ratha, Pankanti
2004 (subsets bootstrap) and, for the product, Owen 2007 (pigeonhole bootstrap). Fogliato, Patil,
Perona 2023 (arXiv:2306.01198): coverage may be off where errors are rare.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import (
    ROUNDED_UP,
    BoolArray,
    FloatArray,
    IntArray,
    ScoreArray,
    share_of,
)

# Weights at once: few enough to stay in the processor's cache, at most 32 MB an array.
_CACHED_VALUES = 200_000
_MOST_VALUES = 4_000_000
# Far above the rounding of a sum over pairs, far below what one wrong pair changes.
_ROUNDING = 1e-12
_Z = 1.959964
# For sentences about intervals of rates.
EXTREMES = (
    "where resamples leave a rate at 0 or 1, Wilson's interval (1927) with the people as trials."
)


@dataclass(frozen=True)
class Interval:
    """A two-sided 95% confidence interval."""

    low: float
    high: float


Trials = Literal["genuine", "impostor", "either", "impostor of each", "unmated"]
_TRIALS: dict[Trials, str] = {
    "genuine": "genuine pairs",
    "impostor": "impostor pairs",
    "either": "pairs of each kind",
    "impostor of each": "impostor pairs of every identity",
    "unmated": "probes of people who are not in the gallery",
}


def rate_key(rate: float) -> str:
    """A rate as a key of JSON: short where that is exact, else with all its digits.

    Example:
        >>> rate_key(1e-05), rate_key(0.123456789)
        ('1e-05', '0.123456789')
    """
    short = f"{rate:g}"
    return short if float(short) == rate else repr(float(rate))


@dataclass(frozen=True)
class TooFew:
    """Why there is no value: too few trials, as data; `str` gives the sentence."""

    trials: Trials  # of what there are too few
    found: int  # how many there are, or with "impostor of each" how many one identity has
    needed: int | None = None  # how many it takes; None where that is 1 / rate
    rate: tuple[str, float] | None = None  # that takes so many, such as ("FAR", 0.001)

    @classmethod
    def for_rate(cls, name: str, rate: float, trials: Trials, found: int) -> "TooFew | None":
        """None if there are 1 / rate trials, so that one error is not above the rate already."""
        few = found < (1 / rate) * (1 - 1e-12)
        return cls(trials, found, rate=(name, rate)) if few else None

    def sentence(
        self, write: Callable[[float], str] = rate_key, names: Mapping[Trials, str] = _TRIALS
    ) -> str:
        """The reason in words, with rates as `write` has them and the given names of trials."""
        start, needed = "", f"{self.needed:,}" if self.needed is not None else ""
        if self.rate is not None:
            name, rate = self.rate
            start = f"{name} {write(rate)} "
            # Of the smallest floats 1 / rate is infinite, and of others longer than a line.
            needed = f"{math.ceil(1 / rate * (1 - 1e-12)):,}" if rate > 1e-15 else f"{1 / rate:g}"
        there = "one has" if self.trials == "impostor of each" else "there are"
        return f"{start}needs at least {needed} {names[self.trials]}, {there} {self.found:,}"

    def __str__(self) -> str:
        return self.sentence()


class Supported:
    """A record of which the data may not support every value."""

    too_few: TooFew | None  # why there is no value

    @property
    def reason(self) -> str | None:
        """Why there is no value, in words."""
        return None if self.too_few is None else str(self.too_few)

    def with_reason(self, **values: Any) -> dict[str, Any]:
        """Values as plain data for JSON, with the reason why some are missing if there is one."""
        found: dict[str, Any] = plain(values)
        return found if self.too_few is None else {**found, "reason": self.reason}


@dataclass(frozen=True)
class Estimate(Supported):
    """A rate and its 95% interval."""

    value: float | None  # the rate in [0, 1]; None when the data cannot support it
    interval: Interval | None = None  # 95% over people; None without `people` or without a value
    too_few: TooFew | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.with_reason(value=self.value, interval95=self.interval)


def plain(value: Any) -> Any:
    """Numbers, intervals, what has a `to_dict` and dicts of them, as plain data for JSON."""
    if isinstance(value, Interval):
        return [value.low, value.high]
    if isinstance(value, dict):
        keys = (rate_key(key) if isinstance(key, float) else str(key) for key in value)
        return dict(zip(keys, map(plain, value.values()), strict=True))
    return value.to_dict() if hasattr(value, "to_dict") else value


def fields_of(record: object, *names: str) -> dict[str, Any]:
    """Some attributes of a record as plain data for JSON."""
    return {name: plain(getattr(record, name)) for name in names}


def percentile_interval(values: FloatArray, num_people: int) -> Interval:
    """The middle 95% of the resampled values of a rate that rests on `num_people`.

    When hardly any resample moves the rate away from exactly 0 or exactly 1, both percentiles are
    there and would claim certainty. The interval is then Wilson's (1927) with the people as trials:
    with no error among n people the error rate's upper end is z^2 / (n + z^2).

    Values (B,) are NaN where a resample had no pair of a needed kind; if all are, it is a
    `ValueError`. The interval is inside [0, 1].
    """
    # Sums of weights round: a rate that is 1 may come as 1 + 2e-16 or 1 - 2e-16.
    found = spread(np.clip(_known(values), 0.0, 1.0))
    if found.high < _ROUNDING:
        return Interval(0.0, wilson_reach(num_people))
    if found.low > 1.0 - _ROUNDING:
        return Interval(1.0 - wilson_reach(num_people), 1.0)
    return found


def estimate(value: float, values: FloatArray | None, num_people: int) -> Estimate:
    """A rate that rests on `num_people` with its interval, if there are resampled values (B,)."""
    interval = None if values is None else percentile_interval(values, num_people)
    return Estimate(float(value), interval)


def difference_interval(values: FloatArray, num_people: int) -> Interval:
    """The middle 95% of the resampled differences (B,) of two rates, inside [-1, 1].

    When hardly any resample tells the two apart, the interval reaches as far to both sides as
    `percentile_interval` does from a rate of 0.
    """
    found = spread(values)
    if max(-found.low, found.high) < _ROUNDING:
        return Interval(-wilson_reach(num_people), wilson_reach(num_people))
    return found


def spread(values: FloatArray) -> Interval:
    """The middle 95% of resampled values of any kind; NaN is left out."""
    low, high = np.quantile(_known(values), [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return Interval(float(low), float(high))


def wilson_reach(trials: int) -> float:
    """The upper end of Wilson's 95% interval for a rate of 0 among `trials`."""
    return _Z**2 / (trials + _Z**2)


def contrary_share(values: FloatArray) -> float:
    """How often resampled differences (B,) are not on the side of most of them, doubled.

    2 (c + 1) / (B + 1), at most 1, where c is the smaller of the number of resamples with a
    difference of at most 0 and the number with one of at least 0. Small is sure. Not a two-sided
    p-value: the resamples lie around the difference that was found, not around 0.
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


# Resampled people.


def check_resamples(bootstrap: int, *, or_none: bool = False) -> None:
    """Raise a ValueError unless there are enough resamples for the ends of an interval."""
    if bootstrap < 100 and not (or_none and bootstrap == 0):
        allowed = "0 or at least 100" if or_none else "at least 100"
        raise ValueError(f"bootstrap must be {allowed} resamples, got {bootstrap}")


def draw_people(num_people: int, resamples: int, seed: int, columns: int) -> Iterator[FloatArray]:
    """Yield how often each of n people is drawn in every resample: (n, B) float64, B by B.

    The whole numbers of a column add up to n, the B's (at most `columns` each) to `resamples`.
    Equal seeds give equal draws, whatever `columns` is.
    """
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, columns):
        count = min(columns, resamples - start)
        drawn = generator.integers(num_people, size=(count, num_people))
        drawn += np.arange(count)[:, None] * num_people
        times = np.bincount(drawn.ravel(), minlength=count * num_people)
        yield np.ascontiguousarray(times.reshape(count, num_people).T, dtype=np.float64)


def resampled(
    rates: Callable[[FloatArray], FloatArray],
    num_people: int,
    num_weights: int,
    resamples: int,
    seed: int,
) -> FloatArray:
    """Rates of resampled people, (..., `resamples`).

    `rates` makes rates (..., B) of how often each person was drawn (n, B); for one resample it
    needs `num_weights` weights, which bound B.
    """
    size = max(num_people, num_weights)
    columns = max(1, min(max(8, min(64, _CACHED_VALUES // size)), _MOST_VALUES // size))
    parts = [rates(drawn) for drawn in draw_people(num_people, resamples, seed, columns)]
    return np.concatenate(parts, axis=-1)


class PairPeople:
    """Who pairs are of; a ValueError where a pair's `same` contradicts its people.

    Args:
        people: the first and the second person of each pair, each (P,), names or numbers.
        same: (P,) whether each pair is genuine.

    Attributes:
        first, second: (P,) number of each pair's first and second person, below `count`.
        count: n, how many people there are.
        fewest: people of the genuine pairs or of the impostor pairs, whichever are fewer: they
            bound what a rate of exactly 0 or 1 can claim.
    """

    def __init__(self, people: tuple[npt.ArrayLike, npt.ArrayLike], same: BoolArray) -> None:
        first, second = np.asarray(people[0]), np.asarray(people[1])
        for name, side in (("people[0]", first), ("people[1]", second)):
            if side.shape != same.shape:
                raise ValueError(
                    f"{name} must have the shape of same {same.shape}, got {side.shape}"
                )
        wrong = np.flatnonzero((first == second) != same)
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(
                f"people contradict same in row {row}: {first[row]!s} and {second[row]!s} "
                f"with same={bool(same[row])}"
            )
        distinct, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
        numbers = numbers.astype(np.int64)
        self.first, self.second = numbers[: same.size], numbers[same.size :]
        self.count = distinct.size
        self.fewest = min(self.among(same), self.among(~same))

    def among(self, pairs: BoolArray | IntArray) -> int:
        """How many people some pairs are of."""
        return int(np.unique(np.concatenate([self.first[pairs], self.second[pairs]])).size)

    def weights(self, drawn: FloatArray, pairs: IntArray) -> FloatArray:
        """What pairs of one kind count in each resample: (n, B) draws to (K, B)."""
        first, second = self.first.take(pairs), self.second.take(pairs)
        result = drawn.take(first, axis=0)
        if pairs.size and first[0] != second[0]:
            result *= drawn.take(second, axis=0)
        return result

    def curves(self, drawn: FloatArray, ranked: "RankedPairs") -> "WeightedCurves":
        """The curves of each resample, (n, B) draws."""
        weights = (self.weights(drawn, pairs) for pairs in (ranked.genuine, ranked.impostor))
        return WeightedCurves(ranked, *weights)

    def resampled(
        self, rates: Callable[[FloatArray], FloatArray], resamples: int, seed: int
    ) -> FloatArray:
        """What `resampled` finds of the people of these pairs."""
        return resampled(rates, self.count, self.first.size, resamples, seed)


class RankedPairs:
    """Checked pairs by falling score, genuine and impostor apart, and what each threshold accepts.

    Attributes:
        genuine, impostor: (G,) and (I,) numbers of the pairs.
        threshold: (T,) +inf and each distinct score, falling.
        genuine_accepted, impostor_accepted: (T,) how many, from the front, reach each threshold.
        higher, not_lower: (G,) impostor pairs that score higher, and at least as high.
    """

    def __init__(self, scores: ScoreArray, same: BoolArray) -> None:
        def falling(pairs: IntArray) -> tuple[IntArray, ScoreArray]:
            negated = -scores.take(pairs)
            order = np.argsort(negated, kind="stable")
            return pairs.take(order), negated.take(order)

        self.genuine, genuine = falling(np.flatnonzero(same))
        self.impostor, impostor = falling(np.flatnonzero(~same))
        distinct = np.unique(np.concatenate([genuine, impostor]))
        # The first point accepts nothing.
        self.threshold = np.append(np.full(1, np.inf, distinct.dtype), -distinct)
        self.genuine_accepted = np.append(0, np.searchsorted(genuine, distinct, side="right"))
        self.impostor_accepted = np.append(0, np.searchsorted(impostor, distinct, side="right"))
        self.higher = np.searchsorted(impostor, genuine, side="left")
        self.not_lower = np.searchsorted(impostor, genuine, side="right")


class WeightedCurves:
    """The operating points of ranked pairs under B weightings; NaN without weight on a kind.

    Weights that are whole numbers add up exactly.

    Args:
        ranked: the pairs.
        genuine, impostor: (G, B) and (I, B) what each pair counts, in the order of `ranked`.
    """

    def __init__(self, ranked: RankedPairs, genuine: FloatArray, impostor: FloatArray) -> None:
        self.ranked = ranked
        self.genuine = genuine
        self.impostor = impostor
        self._impostor_sum = _running_sum(impostor)
        self._columns = np.arange(genuine.shape[1])

    @cached_property
    def _genuine_sum(self) -> FloatArray:  # not needed to choose thresholds
        return _running_sum(self.genuine)

    @property
    def without_impostors(self) -> BoolArray:
        """Which weightings have no weight on impostor pairs, (B,): no FAR chooses a point there."""
        return np.asarray(self._impostor_sum[-1] == 0)

    def far(self, points: IntArray) -> FloatArray:
        """FAR at an operating point of each weighting: positions (..., B) to rates (..., B)."""
        counts = self._impostor_sum[self.ranked.impostor_accepted[points], self._columns]
        return share_of(counts, self._impostor_sum[-1])

    def tar(self, points: IntArray) -> FloatArray:
        """TAR, as `far` has it."""
        counts = self._genuine_sum[self.ranked.genuine_accepted[points], self._columns]
        return share_of(counts, self._genuine_sum[-1])

    def tar_at_far(self, points: IntArray) -> FloatArray:
        """TAR at the points (F, B) of `points_at_far`; NaN without weight on impostors."""
        found = self.tar(points)
        found[:, self.without_impostors] = np.nan
        return found

    def auc(self) -> FloatArray:
        """Area under each curve, (B,); ties count half."""
        higher = self._impostor_sum.take(self.ranked.higher, axis=0)
        if not np.array_equal(self.ranked.higher, self.ranked.not_lower):
            higher += self._impostor_sum.take(self.ranked.not_lower, axis=0)
            higher /= 2
        lost = np.einsum("gb,gb->b", self.genuine, higher)
        return 1.0 - share_of(lost, self._genuine_sum[-1] * self._impostor_sum[-1])

    def eer(self) -> FloatArray:
        """Equal error rate of each curve, (B,)."""

        def gap(points: IntArray) -> FloatArray:  # rises from -1 to +1
            return self.far(points) - (1.0 - self.tar(points))

        first = self._first(lambda points: gap(points) >= 0, self._columns.shape)
        right = np.clip(first, 1, self.ranked.threshold.size - 1)
        before, after = gap(right - 1), gap(right)
        start, end = self.far(right - 1), self.far(right)
        return start + share_of(-before, after - before) * (end - start)

    def points_at_far(self, limits: Sequence[float]) -> IntArray:
        """The operating point of the lowest threshold with FAR <= limit: (F,) to (F, B)."""
        allowed = np.array(limits)[:, None] * ROUNDED_UP * self._impostor_sum[-1]
        accepted = self.ranked.impostor_accepted

        def exceeds(points: IntArray) -> BoolArray:
            return np.asarray(self._impostor_sum[accepted[points], self._columns] > allowed)

        return self._first(exceeds, (len(limits), self._columns.size)) - 1

    def _first(self, reached: Callable[[IntArray], BoolArray], shape: tuple[int, ...]) -> IntArray:
        """The first operating point from which on `reached` holds; T where it never does."""
        size = self.ranked.threshold.size
        low = np.zeros(shape, dtype=np.int64)
        high = np.full_like(low, size)
        for _ in range(size.bit_length()):
            middle = (low + high) >> 1
            # Where low meets high the middle may be T, which is not a point; that changes nothing.
            yes = reached(np.minimum(middle, size - 1)) | (middle == size)
            high = np.where(yes, middle, high)
            low = np.where(yes, low, np.minimum(middle + 1, high))
        return low


def _running_sum(weights: FloatArray) -> FloatArray:
    result = np.empty((len(weights) + 1, weights.shape[1]))
    result[0] = 0.0
    np.cumsum(weights, axis=0, out=result[1:])
    return result
