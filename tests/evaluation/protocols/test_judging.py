"""Scored pairs to a result: further rates agree with those that are always reported."""

import numpy as np
import pytest

from centerarc.evaluation.protocols.judging import chosen_groups, judge_pairs
from centerarc.evaluation.protocols.outcome import Settings
from centerarc.evaluation.verification.result import evaluate_verification


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    first = rng.integers(50, size=2000)
    second = np.where(rng.random(2000) < 0.4, first, rng.integers(50, size=2000))
    same = first == second
    return rng.normal(size=2000) + 2 * same, same, rng.integers(2, size=2000), (first, second)


def judged(pairs, **settings):
    scores, same, fold, people = pairs
    given = {"resamples": 200, **settings}
    return judge_pairs(scores, same, fold, people, "named", (), {}, Settings(**given))


def test_a_further_rate_is_measured_as_the_others_are(pairs, monkeypatch):
    from centerarc.evaluation.verification import result

    found = judged(pairs, fars=(0.03, 1e-7)).report
    assert list(found.tar_at_far) == sorted(found.tar_at_far, reverse=True)
    assert "needs at least 10,000,000" in found.tar_at_far[1e-7].reason
    # The same rate as one of those that are always reported.
    monkeypatch.setattr(result, "FAR_LEVELS", (0.03,))
    scores, same, fold, people = pairs
    expected = evaluate_verification(scores, same, fold, people, bootstrap=200)
    assert found.tar_at_far[0.03] == expected.tar_at_far[0.03]
    assert found.calibrated[0.03] == expected.calibrated[0.03]


def test_without_people_or_resamples_there_are_no_intervals(pairs):
    scores, same, fold, people = pairs
    for who, resamples in ((None, None), (people, 0)):
        found = judge_pairs(
            scores, same, fold, who, "unknown", (), {}, Settings(resamples=resamples)
        )
        assert found.report.accuracy.interval is None
        assert found.report.resamples == 0
        assert all(one.far.interval is None for one in found.held_out.values())
    assert found.report.accuracy.value == judged(pairs).report.accuracy.value


def test_people_of_too_many_pairs_are_resampled_only_when_asked(pairs, monkeypatch):
    from centerarc.evaluation.protocols import judging

    monkeypatch.setattr(judging, "_MOST_RESAMPLED", 1999)
    found = judged(pairs, resamples=None)
    assert found.report.resamples == 0
    assert "must be asked for" in found.people_note
    assert judged(pairs).report.resamples == 200


def test_columns_of_both_images_and_of_the_pair():
    a, b = np.array(["x", "y"]), np.array(["y", "y"])
    columns = {"age_a": a, "age_b": b, "light": a, "odd_a": a}
    found = chosen_groups(columns, ["light", "age", "age_a"], "l.csv")
    assert found["light"] is a
    assert found["age"] == (a, b)
    assert found["age_a"] is a
    with pytest.raises(ValueError, match=r"l.csv, line 1: .* 'odd'.*the closest is 'odd_a'"):
        chosen_groups(columns, ["odd"], "l.csv")
