"""Thresholds for a wanted FAR, and whether their intervals hold what they promise."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.evaluation.verification import calibrated_threshold
from tests.evaluation.test_roc_curve import scored_pairs
from tests.evaluation.test_verification import world


@given(scored_pairs(), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.9]))
def test_no_lower_threshold_keeps_the_far(pairs, far):
    scores, same = pairs
    found = calibrated_threshold(scores, same, far)
    impostor = scores[~same]
    if found.threshold is None:
        assert impostor.size < 1 / far
        return
    assert np.mean(impostor >= found.threshold) == found.far <= far
    assert np.mean(impostor >= np.nextafter(found.threshold, -np.inf)) > far


def test_a_float32_threshold_keeps_its_far_among_float32_scores():
    rng = np.random.default_rng(0)
    scores, same = rng.normal(size=2000).astype(np.float32), np.arange(2000) < 1000
    found = calibrated_threshold(scores, same, 0.01)
    assert np.float32(found.threshold) == found.threshold
    assert np.mean(scores[~same] >= np.float32(found.threshold)) == 0.01


def test_too_few_impostors_are_a_reason_and_no_threshold():
    scores, same, people = world(0)
    found = calibrated_threshold(scores, same, 1e-3, people)
    assert (found.threshold, found.far, found.threshold_interval) == (None, None, None)
    assert found.reason == "FAR 0.001 needs at least 1,000 impostor pairs, there are 300"
    assert json.loads(json.dumps(found.to_dict()))["reason"] == found.reason
    with pytest.raises(ValueError, match=r"far must be in \(0, 1\), got 1"):
        calibrated_threshold(scores, same, 1)


def test_intervals_need_people_and_lie_around_the_threshold():
    scores, same, people = world(0)
    assert calibrated_threshold(scores, same, 0.1).threshold_interval is None
    found = calibrated_threshold(scores, same, 0.1, people)
    assert found.threshold_interval.low < found.threshold < found.threshold_interval.high
    assert 0 < found.far_interval.low < 0.1 < found.far_interval.high < 1


@pytest.mark.slow
def test_the_far_on_new_people_is_inside_its_interval_about_as_often_as_it_says():
    everybody, kinds, _ = world(99, 20_000, 400_000)
    others = np.sort(everybody[~kinds])
    hits, held = 0, 0
    for seed in range(200):
        scores, same, people = world(seed, num_people=150, num_pairs=4000)
        found = calibrated_threshold(scores, same, 0.02, people, bootstrap=300, seed=seed)
        true_far = 1 - np.searchsorted(others, found.threshold) / others.size
        true_threshold = np.quantile(others, 0.98)
        hits += found.far_interval.low <= true_far <= found.far_interval.high
        held += found.threshold_interval.low <= true_threshold <= found.threshold_interval.high
    assert hits / 200 >= 0.88
    assert held / 200 >= 0.88
