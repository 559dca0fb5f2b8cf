"""Rates over photos of some people, with intervals that hold for few people and few mistakes.

Photos of one person are alike, and where two people resemble each other both of them are mistaken
for the other. Both make photos worth less than as many independent ones. How many independent
photos they are worth comes from the variance over people, and the interval is that of Clopper and
Pearson (1934) with so many trials, as Korn and Graubard (1998) do for surveys.
"""

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from centerarc.evaluation.scores import ROUNDED_UP, BoolArray, FloatArray, IntArray

# The variance is also taken where so many people, or this share of photos, would be counted.
_STEADY_PEOPLE, _STEADY_SHARE = 30, 0.5


class Plain:
    """A record of numbers, words, and other such records."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: _plain(getattr(self, field.name)) for field in fields}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.to_dict() if isinstance(value, Plain) else value


@dataclass(frozen=True)
class Rate(Plain):
    """A share of photos, and its two-sided interval over people."""

    value: float  # in [0, 1]
    low: float
    high: float
    photos: int  # photos that are counted
    of: int  # photos that there are
    effective: float  # how many independent photos these are worth


def log_beta(a: float, b: float) -> float:
    """The logarithm of the beta function."""
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def beta_share(x: float, a: float, b: float) -> float:
    """The share of a beta distribution below x, by its continued fraction (Lentz)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_share(1.0 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta(a, b)) / a
    tiny, c, d = 1e-300, 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    total = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            total *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return front * total


def beta_quantile(share: float, a: float, b: float) -> float:
    """Below which x this share of a beta distribution lies, by bisection; a, b above 0."""
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if beta_share(middle, a, b) < share:
            low = middle
        else:
            high = middle
        if high - low <= 1e-13 * high:
            break
    return (low + high) / 2


def student_reach(confidence: float, freedom: float) -> float:
    """Student's t that holds the middle `confidence` between -t and t."""
    share = beta_quantile(confidence, 0.5, freedom / 2)
    return math.sqrt(freedom * share / (1 - share))


def clopper_pearson(counted: float, trials: float, confidence: float) -> tuple[float, float]:
    """Both ends of the interval of counted / trials, of which neither needs to be whole."""
    outside = (1 - confidence) / 2
    left = trials - counted
    low = beta_quantile(outside, counted, left + 1) if counted > 0 else 0.0
    high = beta_quantile(1 - outside, counted + 1, left) if left > 0 else 1.0
    return low, high


def most_at_zero(trials: float, confidence: float) -> float:
    """The highest rate that goes with none among so many trials: about 3 / trials at 95%."""
    return -math.expm1(math.log1p(-confidence) / trials)


def person_rate(
    counted: BoolArray,
    closeness: FloatArray,
    person: IntArray,
    confidence: float,
    toward: IntArray | None = None,
) -> Rate:
    """The share of photos that count, with an interval over people.

    With e = counted - share summed by person (E_i), and E_j that of everybody to whom a counted
    photo of i leads, the share's variance over N photos of n people is

        (n / (n - 1) sum_i E_i^2 + 2 sum_{i, j linked} E_i E_j) / N^2

    and its degrees of freedom come from the fourth moment of E. Few counted photos say little about
    it, so the same is done where more would be counted, and what is worth less is taken.

    Args:
        counted: (N,) which photos count, such as those of strangers who get a name.
        closeness: (N,) how near each photo is to be counted, higher is nearer.
        person: (N,) numbers of their people.
        confidence: of the interval, in (0, 1).
        toward: (N,) number of the person to whom each photo leads; None where no two people are
            counted together.
    """
    total = counted.size
    value = float(np.count_nonzero(counted)) / total
    people = np.unique(person).size
    level = min(max(value, min(_STEADY_PEOPLE / people, _STEADY_SHARE)), 1.0)
    at = min(int(level * total), total - 1)
    steady = closeness >= np.partition(closeness, total - 1 - at)[total - 1 - at]
    worth = [
        _worth(steady, person, confidence, toward),
        _worth(counted, person, confidence, toward),
    ]
    effective = min(min(worth), float(total))
    if math.isinf(min(worth)):
        effective = total**2 / float((np.bincount(person).astype(np.float64) ** 2).sum())
    low, high = clopper_pearson(value * effective, effective, confidence)
    return Rate(value, low, high, int(np.count_nonzero(counted)), total, effective)


def _worth(
    counted: BoolArray, person: IntArray, confidence: float, toward: IntArray | None
) -> float:
    """How many independent photos have the same interval; infinite where all or none count."""
    share = float(counted.mean())
    size = int(max(person.max(), -1 if toward is None else toward.max())) + 1
    effect = counted.astype(np.float64) - share
    sums = np.bincount(person, effect, size).astype(np.float64)
    people = np.unique(person).size
    squares = float((sums**2).sum())
    if not 0 < share < 1 or people < 2 or squares < 1e-12:
        return math.inf
    spread = squares * people / (people - 1)
    if toward is not None:
        spread = max(spread + _linked(counted, effect, sums, person, toward), squares / 2)
    kurtosis = people * float((sums**4).sum()) / squares**2
    freedom = min(max(2 * people / max(kurtosis - 1, 1e-9), 2.0), people - 1.0)
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    factor = (normal / student_reach(confidence, freedom)) ** 2
    return share * (1 - share) * counted.size**2 / spread * factor


def _linked(
    counted: BoolArray, effect: FloatArray, sums: FloatArray, person: IntArray, toward: IntArray
) -> float:
    """What the covariance of people who are counted together adds."""
    size = sums.size
    way, number = np.unique(person * size + toward, return_inverse=True)
    start, end = way // size, way % size
    each = np.bincount(number, effect)
    back = np.minimum(np.searchsorted(way, end * size + start), way.size - 1)
    mutual = np.where(way[back] == end * size + start, each[back], 0.0)
    led = np.bincount(number, counted) > 0
    two = np.unique(np.minimum(start, end)[led] * size + np.maximum(start, end)[led])
    return max(2 * float(sums[two // size] @ sums[two % size]), float(each @ mutual))


def in_larger(rate: float, times: float) -> float:
    """The rate of the highest of `times` as many independent scores: 1 - (1 - rate)^times."""
    return 1.0 if rate >= 1 else -math.expm1(times * math.log1p(-rate))


def lowest_threshold(scores: FloatArray, weights: FloatArray | None, most: float) -> float:
    """The lowest threshold at which at most the share `most` of scores (n,) is at or above it.

    Equal scores are let in together. `weights` (n,) are what each counts, their sum is 1 where it
    is over all that could be; None for 1 / n.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    shares = np.cumsum(np.full(scores.size, 1 / scores.size) if weights is None else weights[order])
    ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    allowed = int(np.count_nonzero(shares[ends] <= most * ROUNDED_UP))
    if allowed == ends.size:
        return float(falling[-1])
    return float(np.nextafter(falling[ends[allowed - 1] + 1 if allowed else 0], np.inf))
