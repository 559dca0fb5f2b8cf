"""Intervals of rates of pairs, by definition; people resampled, and the ends of rates."""

import numpy as np
import pytest
from scipy import stats

from centerarc.evaluation.intervals import (
    Interval,
    PairPeople,
    TooFew,
    Uncertainty,
    contrary_share,
    difference_interval,
    draw_people,
    mean_effect,
    percentile_interval,
    wilson_reach,
)
from tests.evaluation.pairs import world


def by_pairs_of_pairs(effect, same, people):
    """The variance by its definition: products of the effects of all pairs that share a person."""
    total = 0.0
    for p in range(effect.size):
        for q in range(effect.size):
            shared = {people[0][p], people[1][p]} & {people[0][q], people[1][q]}
            if shared:
                total += effect[p] * effect[q]
    return total


@pytest.mark.parametrize("num_people", [12, 60])
def test_the_variance_counts_every_two_pairs_that_share_a_person_once(num_people):
    """Also those of the same two people, of whom there are several among 12 people."""
    scores, same, people = world(0, num_people=num_people, num_pairs=240)
    who = PairPeople(people, same)
    effect = mean_effect(scores, same) - 0.4 * mean_effect(scores, ~same)
    found = who.uncertainty(effect)
    sums = np.zeros(num_people)
    np.add.at(sums, people[0], effect)
    np.add.at(sums, people[1][~same], effect[~same])
    # Without the correction for few people: n / (n - 1) on the sum over people.
    small = np.sum(sums**2) / (num_people - 1)
    assert found.variance == pytest.approx(by_pairs_of_pairs(effect, same, people) + small)


def test_independent_pairs_have_the_variance_of_a_mean():
    """Two people of their own for each impostor pair: n / (n - 1) aside, the classic formula."""
    rng = np.random.default_rng(0)
    people = np.arange(400), np.where(np.arange(400) < 200, np.arange(400), np.arange(400) + 400)
    same = np.arange(400) < 200
    values = rng.normal(size=400)
    for kind in (same, ~same):
        found = PairPeople(people, same).uncertainty(mean_effect(values, kind))
        classic = values[kind].var() / 200
        assert found.variance == pytest.approx(classic, rel=0.01)


@pytest.mark.parametrize("freedom", [5, 9, 30, 200])
def test_few_people_widen_as_students_t_does(freedom):
    found = Uncertainty(1.0, freedom)
    assert found.reach == pytest.approx(stats.t.ppf(0.975, freedom), rel=3e-3)
    for value in (0.5, 2.0, 3.5):
        exact = 2 * stats.t.sf(value, freedom)
        assert found.doubt(value, 100) == pytest.approx(exact, rel=0.05, abs=1e-4)


def test_a_difference_that_no_resample_moves_is_doubted_as_its_interval_says():
    sure = Uncertainty(0.0, 50.0)
    assert sure.doubt(0.0, 50) == 1
    edge = sure.difference(0.0, 50).high
    assert sure.doubt(edge, 50) == pytest.approx(0.05, abs=1e-6)
    assert sure.doubt(1.0, 50) < 1e-6


def test_the_interval_of_a_rate_is_wilsons():
    """With the variance of independent trials it is the interval of as many trials."""
    for rate, trials in ((0.5, 40), (0.98, 200), (0.01, 1000)):
        found = Uncertainty(rate * (1 - rate) / trials, 1e9).interval(rate, 10)
        z2 = 1.959964**2
        middle = (rate + z2 / 2 / trials) / (1 + z2 / trials)
        half = np.sqrt(z2 * rate * (1 - rate) / trials + z2**2 / 4 / trials**2) / (1 + z2 / trials)
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half))
    assert Uncertainty(0.0, 1.0).interval(1.0, 40) == Interval(
        pytest.approx(40 / (40 + 1.959964**2)), 1.0
    )
    assert Uncertainty(0.0, 1.0).difference(0.0, 40).high == wilson_reach(40)


def test_the_draws_do_not_depend_on_how_many_are_held_at_a_time():
    whole = np.concatenate(list(draw_people(7, 50, 3, 64)), axis=1)
    parts = np.concatenate(list(draw_people(7, 50, 3, 11)), axis=1)
    np.testing.assert_array_equal(whole, parts)


def test_sure_and_unsure_differences():
    rng = np.random.default_rng(0)
    sure, unsure = rng.normal(5, 1, 999), rng.normal(0, 1, 999)
    assert contrary_share(sure) == pytest.approx(2 / 1000)
    assert contrary_share(-sure) == pytest.approx(2 / 1000)
    assert contrary_share(unsure) > 0.8
    assert contrary_share(np.zeros(999)) == 1
    assert contrary_share(np.append(sure, np.nan)) == contrary_share(sure)


def test_two_that_never_differ_are_not_certainly_equal():
    found = difference_interval(np.zeros(100), 40)
    assert found.high == -found.low == pytest.approx(1.96**2 / (40 + 1.96**2), abs=1e-5)


def test_a_rate_that_few_resamples_move_from_0_is_not_sure_to_be_0():
    values = np.zeros(1000)
    values[:20] = 0.5  # 2%, outside the percentiles
    interval = percentile_interval(values, 50)
    assert (interval.low, interval.high) == (0, wilson_reach(50))
    interval = percentile_interval(1 - values, 50)
    assert (interval.low, interval.high) == (1 - wilson_reach(50), 1)
    assert difference_interval(values, 50).low == -wilson_reach(50)


@pytest.mark.parametrize("rounding", [0.0, 2.2e-16, -2.2e-16])
def test_a_rate_that_rounds_past_its_end_keeps_an_interval_inside(rounding):
    ones = np.full(50, 1.0)
    ones[::2] += rounding
    zeros = np.where(ones == 1.0, 0.0, rounding)
    # Wilson with 10 of 10 right: down to 10 / (10 + 1.96^2).
    assert percentile_interval(ones, 10).low == pytest.approx(10 / (10 + 1.96**2), abs=1e-5)
    assert percentile_interval(ones, 10).high == 1.0
    assert percentile_interval(zeros, 10).low == 0.0
    assert percentile_interval(zeros, 10).high == pytest.approx(1 - 10 / (10 + 1.96**2), abs=1e-5)
    some = percentile_interval(np.append(ones, [0.9] * 50), 10)
    assert 0 <= some.low < some.high <= 1


@pytest.mark.parametrize(
    ("fpir", "needed"), [(5e-324, "inf"), (1e-300, "1e+300"), (1e-4, "10,000")]
)
def test_a_rate_too_small_for_any_probes_is_said_in_a_line(fpir, needed):
    reason = str(TooFew.for_rate("FPIR", fpir, "unmated", 7))
    assert f"needs at least {needed} probes" in reason
    assert len(reason) < 120
