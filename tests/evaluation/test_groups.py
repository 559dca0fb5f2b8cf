"""Groups at one threshold, by hand and by a loop."""

import json

import numpy as np
import pytest

from centerarc.evaluation import breakdown, pair_groups
from centerarc.evaluation.intervals import PairPeople
from tests.evaluation.pairs import world


def test_rates_by_hand():
    scores = [0.9, 0.3, 0.6, 0.1, 0.9, 0.8, 0.2, 0.1]
    same = [1, 1, 0, 0, 1, 1, 0, 0]
    groups = ["x"] * 4 + ["y"] * 4
    found = breakdown(scores, same, groups, threshold=0.5, min_pairs=2)
    x, y = found.groups["x"], found.groups["y"]
    assert (x.tar.value, x.far.value, x.accuracy.value) == (0.5, 0.5, 0.5)
    assert (y.tar.value, y.far.value, y.accuracy.value) == (1.0, 0.0, 1.0)
    for gap in found.gaps.values():
        assert gap.worst == "x"
        assert gap.best == "y"
        assert gap.value == 0.5
        assert gap.interval is None


def test_the_mix_of_a_group_does_not_make_it_look_worse():
    # Both accept 1 of 2 genuine and reject every impostor, but x has many impostors.
    same = [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]
    scores = [0.9, 0.1] + [0.1] * 6 + [0.9, 0.1] + [0.1] * 2
    found = breakdown(scores, same, ["x"] * 8 + ["y"] * 4, threshold=0.5, min_pairs=1)
    assert found.groups["x"].accuracy.value == found.groups["y"].accuracy.value
    # A third of all pairs is genuine.
    assert found.groups["x"].accuracy.value == pytest.approx(1 / 3 * 0.5 + 2 / 3)


def test_intervals_rest_on_what_pairs_do_to_the_measure():
    """Variances by their definition, from how each measure moves when a pair counts a bit more."""
    scores, same, people = world(0)
    group = np.where(people[0] % 3 == 0, "a", "b")
    found = breakdown(scores, same, group, people, threshold=1.0)
    who, share = PairPeople(people, same), same.mean()

    def measures(weight):
        rates = {}
        for name in "ab":
            tar, far = (
                np.average((scores >= 1.0)[k], weights=weight[k])
                for k in ((group == name) & same, (group == name) & ~same)
            )
            rates[name] = share * tar + (1 - share) * (1 - far), tar, far
        return np.array([rates["a"], rates["b"]])

    step, effect = 1e-5, np.empty((600, 2, 3))
    for pair in range(600):
        more = np.ones(600)
        more[pair] += step
        effect[pair] = (measures(more) - measures(np.ones(600))) / step
    for column, measure in enumerate(("accuracy", "tar", "far")):
        for row, name in enumerate("ab"):
            estimate = getattr(found.groups[name], measure)
            expected = who.uncertainty(effect[:, row, column]).interval(estimate.value, 30)
            assert estimate.interval.low == pytest.approx(expected.low, abs=1e-4)
            assert estimate.interval.high == pytest.approx(expected.high, abs=1e-4)
        gap = found.gaps[measure]
        sure = who.uncertainty(effect[:, 0, column] - effect[:, 1, column])
        expected = sure.difference(gap.value, 30)
        assert (gap.interval.low, gap.interval.high) == pytest.approx(
            (expected.low, expected.high), abs=1e-4
        )
        assert gap.doubt == pytest.approx(sure.doubt(gap.value, 30), abs=1e-4)


def test_a_group_that_is_served_worse_is_seen_and_chance_is_not():
    scores, same, people = world(0, num_people=300, num_pairs=4000)
    chance = people[0] % 2
    worse = np.where(chance == 1, scores - 1.5 * same, scores)
    sure = breakdown(worse, same, chance, people, threshold=1.0).gaps["tar"]
    assert (sure.worst, sure.best) == ("1", "0")
    assert sure.interval.low > 0
    unsure = breakdown(scores, same, chance, people, threshold=1.0).gaps["tar"]
    assert unsure.interval.low < 0 < unsure.interval.high
    assert unsure.doubt > 0.05


def test_a_group_with_too_few_pairs_says_so():
    scores, same, people = world(0)
    group = np.where(np.arange(600) < 8, "few", "many")
    found = breakdown(scores, same, group, people, threshold=1.0)
    few = found.groups["few"]
    assert few.tar.value is None
    assert few.tar.reason == "needs at least 30 genuine pairs, there are 4"
    assert few.far.reason == "needs at least 30 impostor pairs, there are 4"
    assert found.groups["many"].tar.value is not None
    assert found.gaps == {}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["groups"][0]["name"] == "few"


def test_a_group_with_genuine_pairs_only_has_a_tar():
    scores, same, people = world(0)
    group = np.where(same, "genuine", "impostor")
    found = breakdown(scores, same, group, people, threshold=1.0)
    assert found.groups["genuine"].tar.interval is not None
    assert found.groups["genuine"].far.reason.endswith("there are 0")
    assert found.groups["genuine"].accuracy.value is None


def test_columns_of_images_make_groups_of_pairs():
    assert pair_groups([1, 2, 2], [1, 1, 2]).tolist() == ["1", "1 | 2", "2"]
    scores, same = [0.9, 0.1, 0.2, 0.8], [1, 0, 0, 1]
    sides = (["x", "x", "y", "y"], ["x", "y", "x", "y"])
    found = breakdown(scores, same, sides, threshold=0.5, min_pairs=1)
    assert list(found.groups) == ["x", "x | y", "y"]
    assert found.groups["x | y"].num_impostor == 2


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"groups must have the shape of scores \(2,\), got \(3,"):
        breakdown([0.9, 0.1], [1, 0], ["a"] * 3, threshold=0.5)
    with pytest.raises(ValueError, match="threshold must be finite, got nan"):
        breakdown([0.9, 0.1], [1, 0], ["a"] * 2, threshold=float("nan"))
    with pytest.raises(ValueError, match="min_pairs must be at least 1, got 0"):
        breakdown([0.9, 0.1], [1, 0], ["a"] * 2, threshold=0.5, min_pairs=0)
    with pytest.raises(ValueError, match=r"got \(2,\) and \(1,\)"):
        pair_groups(["a", "b"], ["a"])
