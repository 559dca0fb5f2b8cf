"""Means over seeds and paired differences against loops and the formula."""

import numpy as np
import pytest
from scripts.study_coverage import coverage, truth

from centerarc.evaluation import AllPairs, seeds
from centerarc.evaluation.all_pair_scores import score_all_pairs
from centerarc.evaluation.intervals import TooFew, draw_people
from centerarc.evaluation.seeds import measure_names, measured, summarize_arms
from tests.evaluation.worlds import EveryPair, world

SIZES = [2, 4, 2, 1, 3, 3, 1, 2, 4, 1, 1, 2]
FARS = (0.1, 0.05)


def runs(noise: float, numbers: list[int]) -> dict[int, AllPairs]:
    """Runs that see the same people, each in its own way."""
    faces, labels = world(SIZES, noise=0.6)
    found = {}
    for number in numbers:
        rng = np.random.default_rng(number)
        found[number] = score_all_pairs(faces + noise * rng.normal(size=faces.shape), labels)
    return found


def test_the_interval_of_one_run_is_that_of_resampled_people() -> None:
    faces, labels = world(SIZES)
    record, every = score_all_pairs(faces, labels), EveryPair(faces, labels)
    found = summarize_arms({"a": {3: record}}, fars=FARS, fpir=0.5, resamples=200, seed=4)
    drawn = np.concatenate(list(draw_people(12, 200, 4, 50)), axis=1)
    for far in FARS:
        mean = found.arms["a"].means[f"tar@{far}"]
        assert mean.value == pytest.approx(every.tar(far, np.ones(12)), abs=1e-12)
        tars = np.array([every.tar(far, column) for column in drawn.T])
        _, effects = record.pair_effects(far)
        variance = max(tars.var(ddof=1) - 2 * effects @ effects, tars.var(ddof=1) / 2)
        # Wilson's interval with as many trials as give this variance, and 7 degrees of freedom.
        assert mean.interval is not None
        reach = 2.3646 * variance**0.5
        trials = mean.value * (1 - mean.value) / variance
        z2 = 2.3646**2
        middle = (mean.value + z2 / trials / 2) / (1 + z2 / trials)
        half = (reach**2 + (z2 / trials) ** 2 / 4) ** 0.5 / (1 + z2 / trials)
        assert mean.interval.low == pytest.approx(max(middle - half, 0), abs=2e-3)
        assert mean.interval.high == pytest.approx(min(middle + half, 1), abs=2e-3)
    assert found.arms["a"].differences is None


def test_people_and_seeds_are_both_in_the_variance() -> None:
    rng = np.random.default_rng(0)
    # Effects of people on all seeds, on each seed alone, and of seeds on all people.
    common, own = 0.02 * rng.normal(size=400), 0.01 * rng.normal(size=(4, 400))
    values = {number: float(v) for number, v in enumerate(0.5 + 0.03 * rng.normal(size=4))}
    moved = {n: values[n] + common + own[n] for n in values}
    found = seeds._uncertainty(values, moved, 100)
    of_mean = np.var(common + own.mean(axis=0), ddof=1)
    alone = sum(np.var(each - own.mean(axis=0), ddof=1) for each in own) / 3
    between = np.var(list(values.values()), ddof=1)
    assert found.variance == pytest.approx(of_mean + (between - alone) / 4, rel=1e-9)
    freedom = found.variance**2 / (of_mean**2 / 99 + (between / 4) ** 2 / 3)
    assert found.freedom == pytest.approx(freedom, rel=1e-9)
    # Seeds that differ by less than resampling alone explains add nothing.
    equal = dict.fromkeys(values, 0.5)
    assert seeds._uncertainty(equal, moved, 100).variance == pytest.approx(of_mean, rel=1e-9)


def test_what_two_people_share_is_counted_once() -> None:
    first = (np.array([3, 5, 9]), np.array([0.01, 0.02, 0.01]))
    second = (np.array([5, 11]), np.array([0.02, 0.03]))
    rng = np.random.default_rng(1)
    moved = {0: 0.5 + 0.1 * rng.normal(size=300), 1: 0.5 + 0.1 * rng.normal(size=300)}
    values = {0: 0.5, 1: 0.7}
    found = seeds._uncertainty(values, moved, 100, {0: first, 1: second})
    mean = (moved[0] + moved[1]) / 2
    # Pair 5 is in both: (0.01^2 + 0.04^2 + 0.01^2 + 0.03^2) / 2^2 of the mean.
    of_mean = (0.0001 + 0.0016 + 0.0001 + 0.0009) / 4
    by_people = mean.var(ddof=1) - 2 * of_mean
    alone = sum((moved[n] - mean).var(ddof=1) for n in (0, 1))
    alone -= 2 * (0.0006 + 0.0013 - 2 * of_mean)
    assert found.variance == pytest.approx(by_people + max(0.02 - alone, 0) / 2, rel=1e-9)
    # Never more than half of what resampled people give.
    much = {0: (first[0], 10 * first[1])}
    alone = seeds._uncertainty({0: 0.5}, moved, 100, much)
    assert alone.variance == pytest.approx(moved[0].var(ddof=1) / 2)


def test_differences_are_paired_by_seed() -> None:
    arms = {"a": runs(0.5, [0, 1, 2]), "b": runs(0.2, [1, 2, 5]), "c": runs(0.3, [8])}
    found = summarize_arms(arms, fars=FARS, fpir=0.5, resamples=100)
    difference = (found.arms["b"].differences or {})["tar@0.1"]
    expected = {
        n: arms["b"][n].tar_at_far(0.1).tar - arms["a"][n].tar_at_far(0.1).tar for n in (1, 2)
    }
    assert difference.by_seed == pytest.approx(expected)
    assert difference.value == pytest.approx(np.mean(list(expected.values())))
    assert found.arms["b"].seeds == [1, 2, 5]
    alone = (found.arms["c"].differences or {})["auc"]
    assert alone.value is None
    assert alone.interval is None
    assert found.arms["c"].means["auc"].value == arms["c"][8].auc


def test_the_same_runs_do_not_differ() -> None:
    arms = {"a": runs(0.5, [0, 1]), "b": runs(0.5, [0, 1])}
    found = summarize_arms(arms, fars=FARS, fpir=0.5, resamples=100)
    for name in measure_names(FARS, 0.5):
        difference = (found.arms["b"].differences or {})[name]
        assert difference.value == 0.0
        if name == "threshold_spread":  # no rate, of which Wilson's interval would be
            assert difference.interval is None
        else:
            assert difference.doubt == 1.0
            assert difference.interval is not None
            assert difference.interval.low < 0 < difference.interval.high


def test_too_few_people_give_a_reason_and_no_value() -> None:
    record = runs(0.3, [0])[0]
    values = measured(record)
    assert isinstance(values["tar@0.01"], TooFew)
    assert isinstance(values["tpir@0.01"], TooFew)
    assert values["auc"] == record.auc
    found = summarize_arms({"a": {0: record}, "b": {0: record}}, resamples=0)
    mean = found.arms["a"].means["tar@0.01"]
    assert mean.value is None
    assert mean.reason == "FAR 0.01 needs at least 100 combinations of two people, there are 66"
    assert found.arms["a"].means["auc"].interval is None
    plain = found.to_dict()
    assert plain["arms"]["a"]["means"]["tar@0.01"]["reason"] == mean.reason
    assert plain["arms"]["b"]["differences_to_first"]["auc"]["value"] == 0.0
    assert plain["intervals"] == "No intervals were asked for."


def test_equal_seeds_give_equal_intervals() -> None:
    arms = {"a": runs(0.5, [0, 1]), "b": runs(0.2, [0, 1])}
    first = summarize_arms(arms, fars=FARS, fpir=0.5, resamples=100, seed=1)
    assert first == summarize_arms(arms, fars=FARS, fpir=0.5, resamples=100, seed=1)
    assert first != summarize_arms(arms, fars=FARS, fpir=0.5, resamples=100, seed=2)


def test_what_does_not_belong_together_is_refused() -> None:
    record = runs(0.3, [0])[0]
    faces, labels = world(SIZES[:-1])
    other = score_all_pairs(faces, labels)
    with pytest.raises(ValueError, match="the same images; 'b' with seed 1 is not, unlike 'a'"):
        summarize_arms({"a": {0: record}, "b": {1: other}}, fars=FARS)
    faces, labels = world(SIZES)
    other = score_all_pairs(faces, labels, person_far=0.2)
    with pytest.raises(ValueError, match=r"one person_far, got 0\.1 and 0\.2 of 'b' with seed 0"):
        summarize_arms({"a": {0: record}, "b": {0: other}}, fars=FARS)
    for arms in ({}, {"a": {}, "b": {0: record}}):
        with pytest.raises(ValueError, match="at least one run of the first arm"):
            summarize_arms(arms)
    with pytest.raises(ValueError, match="bootstrap must be 0 or at least 100"):
        summarize_arms({"a": {0: record}}, resamples=5)
    with pytest.raises(ValueError, match=r"far must be in \(0, 1\), got 2"):
        summarize_arms({"a": {0: record}}, fars=(2,))


# The measures of each arm, as `truth` of the script gives them: means over 100 and 60 seeds, which
# take minutes. By how far seeds vary.
TRUTH = {
    0.0: np.array([[0.7387, 0.5406, 0.9693, 0.4115], [0.6788, 0.4466, 0.9624, 0.3071]]),
    0.8: np.array([[0.5885, 0.3651, 0.9441, 0.2462], [0.5115, 0.2693, 0.9322, 0.1597]]),
}


def test_the_truth_is_that_of_the_script() -> None:
    # The TPIR of so many people is not used; one seed's people move the others by 0.01.
    np.testing.assert_allclose(truth(0.0, 1)[:, :3], TRUTH[0.0][:, :3], atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "noise"), [(1, 0.0), (3, 0.8)])
def test_intervals_hold_the_truth(count: int, noise: float) -> None:
    found = coverage(150, count, noise, 60, TRUTH[noise])
    for name, shares in found.items():
        # Of 60 intervals that hold it with 95%, 51 or more do in 999 of 1,000 trials.
        assert min(shares) >= 50 / 60, name
