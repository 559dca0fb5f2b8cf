"""Resampled people: what pairs count, the curves that come of it, and intervals."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from centerarc.evaluation.intervals import (
    PairPeople,
    RankedPairs,
    TooFew,
    WeightedCurves,
    contrary_share,
    difference_interval,
    draw_people,
    percentile_interval,
    wilson_reach,
)
from tests.evaluation.pairs import world


def eer_by_hand(far, tar):
    """Where the straight lines between the points cross FAR = FRR."""
    for (f0, t0), (f1, t1) in pairwise(zip(far, tar, strict=True)):
        if f1 >= 1 - t1:
            before, after = f0 - (1 - t0), f1 - (1 - t1)
            return f0 - before / (after - before) * (f1 - f0)
    raise AssertionError("the curve ends at FAR 1")


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_curves_are_those_of_pairs_written_out_again_and_again(seed):
    """Each resample's numbers are scikit-learn's on the pairs repeated as often as they count."""
    scores, same, people = world(seed, num_people=12, num_pairs=60)
    scores = scores.round(1)  # with ties
    who = PairPeople(people, same)
    ranked = RankedPairs(scores, same)
    limits = [0.3, 0.1, 0.02]
    for drawn in draw_people(who.count, 3, seed, 64):
        curves = who.curves(drawn, ranked)
        points = curves.points_at_far(limits)
        for column in range(3):
            times = drawn[:, column].astype(int)
            first, second = times[who.first], times[who.second]
            count = np.where(same, first, first * second)
            repeated = np.repeat(np.arange(60), count)
            kinds, values = same[repeated], scores[repeated]
            if kinds.all() or not kinds.any():
                assert np.isnan(curves.auc()[column])
                assert np.isnan(curves.eer()[column])
                continue
            far, tar, _ = roc_curve(kinds, values, drop_intermediate=False)
            assert curves.auc()[column] == pytest.approx(roc_auc_score(kinds, values))
            assert curves.eer()[column] == pytest.approx(eer_by_hand(far, tar))
            for row, limit in enumerate(limits):
                allowed = far <= limit * (1 + 1e-12)
                assert curves.tar(points)[row, column] == pytest.approx(tar[allowed].max())
                assert curves.far(points)[row, column] == pytest.approx(far[allowed].max())


def test_a_pair_counts_as_often_as_its_people_were_drawn():
    people = np.arange(9)
    first, second = np.concatenate([people, people]), np.concatenate([people, (people + 4) % 9])
    who = PairPeople((first, second), first == second)
    (drawn,) = draw_people(9, 50, 0, 64)
    np.testing.assert_array_equal(drawn.sum(axis=0), 9)
    np.testing.assert_array_equal(who.weights(drawn, np.arange(9)), drawn)
    products = who.weights(drawn, np.arange(9, 18))
    np.testing.assert_array_equal(products, drawn * drawn[second[9:]])
    assert drawn.max() > 1


def test_the_draws_do_not_depend_on_how_many_are_held_at_a_time():
    whole = np.concatenate(list(draw_people(7, 50, 3, 64)), axis=1)
    parts = np.concatenate(list(draw_people(7, 50, 3, 11)), axis=1)
    np.testing.assert_array_equal(whole, parts)


def test_sums_of_weights_are_exact():
    """A weight of 1 on top of 10^9 is not lost, as it would be in float32."""
    ranked = RankedPairs(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    curves = WeightedCurves(ranked, np.array([[1e9], [1.0]]), np.array([[1e9], [1.0]]))
    assert curves.tar(np.array([1]))[0] == 1e9 / (1e9 + 1)


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
