"""Means over seeds against the tables and integrals of Student's distribution."""

import math

import numpy as np
import pytest

from centerarc.evaluation.over_seeds import OverSeeds, over_seeds, t_cdf, t_quantile

# 97.5% and 99.5% quantiles as printed in tables (Abramowitz and Stegun 1964, table 26.10).
TABLE = {
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    7: (2.365, 3.499),
    10: (2.228, 3.169),
    30: (2.042, 2.750),
    120: (1.980, 2.617),
}


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_tables(freedom: int) -> None:
    for share, printed in zip((0.975, 0.995), TABLE[freedom], strict=True):
        assert t_quantile(share, freedom) == pytest.approx(printed, abs=6e-4)
        assert t_quantile(1 - share, freedom) == pytest.approx(-t_quantile(share, freedom))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 29])
def test_the_distribution_is_the_integral_of_its_density(freedom: int) -> None:
    points = np.linspace(0, 1.7, 20_001)
    log_gammas = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale = math.exp(log_gammas) / math.sqrt(freedom * math.pi)
    density = scale * (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    integral = float(((density[1:] + density[:-1]) / 2).sum() * (points[1] - points[0]))
    assert t_cdf(1.7, freedom) == pytest.approx(0.5 + integral, abs=1e-9)
    assert t_cdf(-1.7, freedom) == pytest.approx(0.5 - integral, abs=1e-9)


def test_the_interval_of_a_mean() -> None:
    values = np.array([1.0, 2.0, 4.0, 5.0])
    found = over_seeds(values)
    reach = 3.182446 * values.std(ddof=1) / 2
    assert found.mean == 3
    assert (found.low, found.high) == (
        pytest.approx(3 - reach, abs=1e-5),
        pytest.approx(3 + reach, abs=1e-5),
    )
    # The interval's end is where the p-value is 5%.
    shifted = over_seeds(values - found.low)
    assert shifted.doubt == pytest.approx(0.05, abs=1e-9)


def test_few_and_equal_seeds() -> None:
    assert over_seeds([0.25]) == OverSeeds(0.25)
    assert over_seeds([0.0, 0.0]) == OverSeeds(0.0, 0.0, 0.0, 1.0)
    for bad in ([], [math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="values must be finite and at least one"):
            over_seeds(bad)
    with pytest.raises(ValueError, match="freedom must be at least 1, got 0"):
        t_cdf(1.0, 0)
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\), got 1"):
        t_quantile(1.0, 3)
