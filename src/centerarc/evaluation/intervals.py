"""Numbers with 95% intervals over people.

Values that belong to one person each (probes, images) are resampled with their people (Bolle,
Ratha, Pankanti 2004, subsets bootstrap). Impostor pairs belong to two people, and no resampling of
people counts what is special to a pair once: drawing people m_a and m_b times and the pair
m_a m_b times (Owen 2007) counts it three times, leaving out one person at a time twice. So rates of
pairs have a formula instead, see `PairPeople.uncertainty`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray

# Weights at once: few enough to stay in the processor's cache, at most 32 MB an array.
_CACHED_VALUES = 200_000
_MOST_VALUES = 4_000_000
# Far above the rounding of a sum over pairs, far below what one wrong pair changes.
_ROUNDING = 1e-12
# 97.5% of a normal distribution lie below.
NORMAL = 1.959964
# Intervals that rest on less than this many accepted impostor pairs, or people with mistakes, hold
# their 95% no more (docs/evaluation.md has the simulation).
_FEWEST_PAIRS, _FEWEST_PEOPLE = 2.0, 3.0
# For sentences about intervals of rates.
PAIR_INTERVALS = (
    "from the effects of the pairs on a rate, summed by person, with what two people share counted "
    "once"
)
EXTREMES = (
    "where resamples leave a rate at 0 or 1, Wilson's interval (1927) with the people as trials."
)


@dataclass(frozen=True)
class Interval:
    """A two-sided 95% confidence interval."""

    low: float
    high: float


Trials = Literal["genuine", "impostor", "either", "impostor of each", "unmated", "people pairs"]
_TRIALS: dict[Trials, str] = {
    "genuine": "genuine pairs",
    "impostor": "impostor pairs",
    "either": "pairs of each kind",
    "impostor of each": "impostor pairs of every identity",
    "unmated": "probes of people who are not in the gallery",
    "people pairs": "combinations of two people",
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


def thin_key(thin: float | None) -> dict[str, float]:
    """What JSON says of an interval that rests on so few cases; nothing of another."""
    return {} if thin is None else {"interval_rests_on_only": round(thin, 1)}


@dataclass(frozen=True)
class Estimate(Supported):
    """A rate and its 95% interval."""

    value: float | None  # the rate in [0, 1]; None when the data cannot support it
    interval: Interval | None = None  # 95% over people; None without `people` or without a value
    too_few: TooFew | None = None
    # On how few cases the interval rests, where it covers the true rate less often than 95%.
    thin: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.with_reason(value=self.value, interval95=self.interval, **thin_key(self.thin))


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
    return NORMAL**2 / (trials + NORMAL**2)


def contrary_share(values: FloatArray) -> float:
    """How often resampled differences (B,) are not on the side of most of them, doubled.

    2 (c + 1) / (B + 1), at most 1, where c is the smaller of the number of resamples with a
    difference of at most 0 and the number with one of at least 0: the p-value that the percentile
    interval implies, whose resamples lie around the difference that was found, not around 0.
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


# Resampled people, of values that belong to one person each.


MOST_RESAMPLES = 10**6


def check_resamples(bootstrap: int, *, or_none: bool = False) -> None:
    """Raise a ValueError unless there are enough resamples for the ends of an interval."""
    if bootstrap < 100 and not (or_none and bootstrap == 0):
        allowed = "0 or at least 100" if or_none else "at least 100"
        raise ValueError(f"bootstrap must be {allowed} resamples, got {bootstrap}")
    if bootstrap > MOST_RESAMPLES:
        raise ValueError(f"bootstrap must be at most {MOST_RESAMPLES} resamples, got {bootstrap}")


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


class Uncertainty(NamedTuple):
    """How far a rate may be off: its variance, known as well as with so many degrees of freedom."""

    variance: float
    freedom: float

    @property
    def reach(self) -> float:
        """Half of a 95% interval: Student's t times the standard deviation."""
        # Wallace 1959: t that stands for a normal z, within 0.2% from 5 degrees of freedom on.
        n = self.freedom
        z = NORMAL * (8 * n + 3) / (8 * n + 1)
        return math.sqrt(self.variance * n * math.expm1(z**2 / n))

    def doubt(self, value: float, people: int) -> float:
        """The two-sided p-value of a value under the hypothesis that the true one is 0.

        Where the variance is 0, it goes with the interval of `difference`.
        """
        if not self.variance:
            return math.erfc(abs(value) / wilson_reach(people) * NORMAL / math.sqrt(2))
        n = self.freedom
        z = (8 * n + 1) / (8 * n + 3) * math.sqrt(n * math.log1p(value**2 / self.variance / n))
        return math.erfc(z / math.sqrt(2))

    def interval(self, rate: float, people: int) -> Interval:
        """Wilson's interval (1927) of a rate, with as many trials as give the variance.

        Where the variance is 0, as of a rate without errors, the people are the trials.
        """
        z = self.reach / math.sqrt(self.variance) if self.variance else NORMAL
        trials = rate * (1 - rate) / self.variance if self.variance else people
        pull = z**2 / max(trials, 1e-9)
        middle = (rate + pull / 2) / (1 + pull)
        half = math.sqrt(max(pull * rate * (1 - rate) + pull**2 / 4, 0.0)) / (1 + pull)
        # The ends are exactly 0 and 1 where the rate is.
        low = 0.0 if rate <= _ROUNDING else max(middle - half, 0.0)
        high = 1.0 if rate >= 1 - _ROUNDING else min(middle + half, 1.0)
        return Interval(low, high)

    def difference(self, value: float, people: int) -> Interval:
        """The interval of a difference of two rates, inside [-1, 1].

        Where no pair tells the two apart, it reaches as far as that of a rate of 0 does.
        """
        reach = self.reach if self.variance else wilson_reach(people)
        return Interval(max(value - reach, -1.0), min(value + reach, 1.0))


def mean_effect(values: FloatArray | BoolArray, pairs: BoolArray) -> FloatArray:
    """The effect of each pair on the mean of values (P,) over some pairs; 0 for all others."""
    effect = np.zeros(values.size)
    inside = values[pairs]
    effect[pairs] = (inside - inside.mean()) / inside.size
    return effect


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
        self._impostor = np.flatnonzero(~same)
        self.fewest = min(self.among(same), self.among(~same))

    def among(self, pairs: BoolArray | IntArray) -> int:
        """How many people some pairs are of."""
        return int(np.unique(np.concatenate([self.first[pairs], self.second[pairs]])).size)

    @cached_property
    def _two(self) -> tuple[int, IntArray] | None:
        """Number of people pairs (a, b), and which each impostor pair is of; None if all differ."""
        a, b = self.first[self._impostor], self.second[self._impostor]
        both, number = np.unique(
            np.minimum(a, b) * self.count + np.maximum(a, b), return_inverse=True
        )
        return None if both.size == number.size else (both.size, number.astype(np.int64))

    def uncertainty(self, effect: FloatArray) -> Uncertainty:
        """How far a rate may be off with other people.

        With e_p the effect of pair p, S_a the sum of the effects of a's pairs, and T_ab that of the
        impostor pairs of a and b:

            variance = n / (n - 1) sum_a S_a^2 - sum_{a < b} T_ab^2

        Two pairs depend on each other if they share a person. The first sum has their product once
        for each person they share, so impostor pairs of the same two people are in it twice; the
        second takes them out once (Fafchamps, Gubert 2007; Aronow, Samii, Assenova 2015). At
        least half of the first sum is kept. The degrees of freedom are those of a sum of n squares
        with the fourth moment of S.

        Args:
            effect: (P,) by how much the rate would rise, to first order, if the pair counted one
                time more (Hampel's influence function).
        """
        sums = np.bincount(self.first, effect, self.count)
        impostor = effect[self._impostor]
        sums += np.bincount(self.second[self._impostor], impostor, self.count)
        squares = sums**2
        carriers = int(np.count_nonzero(squares))
        total = float(squares.sum())
        if carriers < 2 or not total:
            return Uncertainty(0.0, 1.0)
        between = impostor if self._two is None else np.bincount(self._two[1], impostor)
        people = total * carriers / (carriers - 1)
        variance = max(people - float(between @ between), people / 2)
        kurtosis = carriers * float((squares**2).sum()) / total**2
        freedom = 2 * carriers / max(kurtosis - 1, 1e-9)
        return Uncertainty(variance, min(max(freedom, 2.0), carriers - 1))


class Effect(NamedTuple):
    """What each pair does to a rate.

    Attributes:
        values: (P,) as `PairPeople.uncertainty` takes them.
        wrong: the share of mistakes behind the rate; None for the rate or its rest.
        accepted: as many independent impostor pairs does the threshold accept.
        choice: effects on what a chosen threshold changes, between the lowest and the highest of
            several choices; None where there are no choices.
    """

    def uncertainty(self, who: PairPeople, minus: "Effect | None" = None) -> Uncertainty:
        """How far the rate, or its difference to another one, may be off with other people.

        Two folds that favor high thresholds each get one from the other, so that folds agree more
        than their thresholds know. Half the variance of what the choices change allows for it, by
        simulation: without it, a difference of accuracies is in 88% of its intervals.
        """
        values = self.values if minus is None else self.values - minus.values
        found = who.uncertainty(values)
        for effect in (self, minus):
            if effect is not None and effect.choice is not None:
                more = who.uncertainty(effect.choice)
                freedom = found.freedom if found.variance else more.freedom
                found = Uncertainty(found.variance + more.variance / 2, freedom)
        return found

    values: FloatArray
    wrong: float | None = None
    accepted: float = math.inf
    choice: FloatArray | None = None

    def thin(self, rate: float, people: int) -> float | None:
        """On how few cases an interval rests that covers the true rate less often than 95%."""
        wrong = people * (min(rate, 1 - rate) if self.wrong is None else self.wrong)
        few = [self.accepted] if self.accepted < _FEWEST_PAIRS else []
        # Without any mistake the interval is as wide as the people make it.
        few += [wrong] if 0 < wrong < _FEWEST_PEOPLE else []
        return min(few, default=None)

    def estimate(self, rate: float, who: PairPeople, people: int) -> Estimate:
        """The rate, which rests on so many people, with its interval."""
        interval = self.uncertainty(who).interval(rate, people)
        return Estimate(rate, interval, thin=self.thin(rate, people))
