"""The tail of the highest scores: against scipy's generalized Pareto distribution."""

import numpy as np
import pytest
from scipy import stats

from centerarc.evaluation import extreme_tail, leave_one_out
from centerarc.evaluation.pareto_tail import (
    anderson_darling,
    fit_pareto,
    fit_probability,
    pareto_above,
)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.25])
def test_excesses_above_a_share_are_those_of_scipy(shape):
    shares = np.array([1.0, 0.5, 0.01, 1e-6])
    found = pareto_above(shares, np.full(4, shape), np.full(4, 0.07))
    assert found == pytest.approx(stats.genpareto.isf(shares, shape, scale=0.07), rel=1e-9)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.25])
def test_the_fit_finds_what_scipys_does(shape):
    values = stats.genpareto.rvs(shape, scale=0.05, size=20_000, random_state=3)
    found = fit_pareto(values)
    most_likely = stats.genpareto.fit(values, floc=0)
    assert found == pytest.approx((shape, 0.05), abs=0.03)
    assert found[0] == pytest.approx(most_likely[0], abs=0.03)
    assert found[1] == pytest.approx(most_likely[2], rel=0.03)


def test_in_small_samples_the_fit_is_closer_than_the_most_likely_one() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(60):
        values = stats.genpareto.rvs(-0.15, scale=1, size=30, random_state=generator)
        ours.append(fit_pareto(values)[0] + 0.15)
        theirs.append(stats.genpareto.fit(values, floc=0)[0] + 0.15)
    assert np.mean(np.square(ours)) < np.mean(np.square(theirs))


def test_weights_are_as_good_as_repetition() -> None:
    generator = np.random.default_rng(1)
    values, weights = generator.exponential(size=400), generator.integers(0, 4, 400)
    found = fit_pareto(values, weights.astype(float))
    assert found == pytest.approx(fit_pareto(np.repeat(values, weights)), rel=1e-2, abs=2e-3)


def test_anderson_darling_is_its_definition() -> None:
    values = np.sort(stats.genpareto.rvs(-0.2, size=25, random_state=5))
    below = stats.genpareto.cdf(values, -0.2)
    n = values.size
    expected = (
        -n
        - sum((2 * i + 1) * (np.log(below[i]) + np.log1p(-below[n - 1 - i])) for i in range(n)) / n
    )
    found = anderson_darling(values[None], np.array([-0.2]), np.array([1.0]))
    assert found[0] == pytest.approx(expected)


def faces_of(people, generator, most=3):
    who = np.repeat(np.arange(people), generator.integers(1, most + 1, people))
    centers = generator.normal(size=(people, 16))
    return centers[who] + 0.6 * generator.normal(size=(who.size, 16)), who


def test_the_threshold_of_a_rare_rate_is_about_the_true_one() -> None:
    generator = np.random.default_rng(2)
    inside = 0
    for round_ in range(30):
        faces, who = faces_of(150, generator)
        found = extreme_tail(leave_one_out(faces, who), 0.002, bootstrap=200, seed=round_)
        fresh = faces_of(60_000, generator, most=1)[0].astype(np.float32)
        fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
        faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
        best = np.concatenate([(faces @ part.T).max(axis=0) for part in np.split(fresh, 60)])
        inside += found.low <= np.quantile(best, 0.998) <= found.high
        assert found.extrapolated
        assert found.low <= found.high
        assert found.share >= 0.1
        assert 0 < found.fit_p <= 1
    assert inside >= 26


def test_a_tail_of_copies_is_none() -> None:
    generator = np.random.default_rng(3)
    faces, who = faces_of(1200, generator, most=1)
    # One person in twenty is the copy of another one: their scores stand apart at the end.
    copies = generator.permutation(1200)[:120]
    faces[copies[:60]] = faces[copies[60:]] + 0.05 * generator.normal(size=(60, 16))
    assert extreme_tail(leave_one_out(faces, who), 0.001, bootstrap=100).fit_p == 0
    plain = leave_one_out(*faces_of(1200, generator, most=1))
    assert extreme_tail(plain, 0.001, bootstrap=100).fit_p > 0.05


def test_the_judgment_of_a_fit_is_right_about_good_ones_and_bad_ones() -> None:
    generator = np.random.default_rng(6)
    good = [
        fit_probability(stats.genpareto.rvs(-0.2, size=60, random_state=n), np.arange(60), n)
        for n in range(60)
    ]
    # Uniform on (0, 1): at most 8 of 60 below 0.05 but once in a hundred.
    assert sum(p < 0.05 for p in good) <= 8
    assert 0.35 < np.mean(good) < 0.65
    two = np.concatenate([generator.exponential(0.01, 100), 1 + generator.exponential(0.1, 100)])
    assert fit_probability(two, np.arange(200), 0) < 0.05


@pytest.mark.parametrize(
    ("people", "options", "message"),
    [
        (5, {"fpir": 0.01}, "a tail needs at least 30 photos of 30 people, got"),
        (100, {"fpir": 0.4}, "fpir must be below the tail's share of 0.2"),
        (100, {"fpir": 0}, r"fpir must be in \(0, 1\), got 0"),
        (100, {"fpir": 0.01, "confidence": 2}, r"confidence must be in \(0, 1\), got 2"),
        (100, {"fpir": 0.01, "bootstrap": 3}, "bootstrap must be at least 100"),
    ],
)
def test_what_cannot_be_is_named(people, options, message):
    left = leave_one_out(*faces_of(people, np.random.default_rng(4)))
    with pytest.raises(ValueError, match=message):
        extreme_tail(left, **options)
