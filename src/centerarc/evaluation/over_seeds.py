"""Means over training seeds and paired differences, with intervals by Student's t distribution.

They say what other seeds would change, for the people that were judged. With a few seeds nothing
but the normal distribution of a measure over seeds is behind them.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class OverSeeds:
    """A mean over seeds.

    Args:
        mean: The mean.
        low, high: Its 95% interval; None with fewer than two seeds.
        doubt: Two-sided p-value of a mean of 0; None likewise.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    doubt: float | None = None


def over_seeds(values: npt.ArrayLike) -> OverSeeds:
    """The mean of one value a seed, or of one difference a seed, with its 95% interval.

    mean +- t s / sqrt(n), with s the standard deviation of the n values (n - 1 in its divisor) and
    t the 97.5% quantile of Student's distribution with n - 1 degrees of freedom.

    Args:
        values: `(n,)`, n at least 1, finite.

    Raises:
        ValueError: If there is none, or one is not finite.

    Example:
        >>> found = over_seeds([0.20, 0.22, 0.24])
        >>> round(found.mean, 4), round(found.low, 4), round(found.high, 4)
        (0.22, 0.1703, 0.2697)
    """
    each = np.asarray(values, dtype=np.float64)
    if each.ndim != 1 or not each.size or not np.isfinite(each).all():
        raise ValueError(f"values must be finite and at least one, of shape (n,), got {values!r}")
    mean = float(each.mean())
    if each.size < 2:
        return OverSeeds(mean)
    error = float(each.std(ddof=1)) / math.sqrt(each.size)
    reach = t_quantile(0.975, each.size - 1) * error
    if error == 0:
        doubt = 1.0 if mean == 0 else 0.0
    else:
        doubt = 2 * (1 - t_cdf(abs(mean) / error, each.size - 1))
    return OverSeeds(mean, mean - reach, mean + reach, doubt)


def t_cdf(t: float, freedom: int) -> float:
    """Student's distribution function, exact for whole degrees of freedom.

    Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.

    Args:
        t: Any number.
        freedom: Degrees of freedom, at least 1.
    """
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1, got {freedom}")
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + math.copysign(inside, t) / 2


def t_quantile(share: float, freedom: int) -> float:
    """The value below which a share of Student's distribution lies.

    Args:
        share: In (0, 1).
        freedom: Degrees of freedom, at least 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    low, high = -1.0, 1.0
    while t_cdf(low, freedom) > share:
        low *= 2
    while t_cdf(high, freedom) < share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2
