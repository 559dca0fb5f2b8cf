"""A measured number with its interval, or the reason why there is none."""

import math
from dataclasses import dataclass
from typing import Any

from centerarc.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Estimate:
    """A rate and its 95 % interval.

    Attributes:
        value: the rate in [0, 1]; None when the data cannot support it.
        interval: 95 % over people; None without ``people`` or without a value.
        reason: why there is no value.
    """

    value: float | None
    interval: Interval | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        result: dict[str, Any] = {"value": self.value, "interval95": low_high(self.interval)}
        return result if self.reason is None else {**result, "reason": self.reason}


def rate_key(rate: float) -> str:
    """A rate as a key of JSON: short where that is exact, else with all its digits.

    Example:
        >>> rate_key(1e-05), rate_key(0.123456789)
        ('1e-05', '0.123456789')
    """
    short = f"{rate:g}"
    return short if float(short) == rate else repr(float(rate))


def fewest_trials(rate: float) -> str:
    """How many trials a rate needs, so that one error is not above it already, in words."""
    # Of the smallest floats 1 / rate is infinite, and of others longer than a line.
    return f"{math.ceil(1 / rate * (1 - 1e-12)):,}" if rate > 1e-15 else f"{1 / rate:g}"


def low_high(interval: Interval | None) -> list[float] | None:
    """An interval as plain data for JSON."""
    return None if interval is None else [interval.low, interval.high]
