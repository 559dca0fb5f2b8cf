"""The report of all pairs, and what one model has more than another."""

from dataclasses import replace

import numpy as np
import pytest

from centerarc.evaluation import compare_all_pairs, report_all_pairs, score_all_pairs
from centerarc.evaluation.all_pairs_report import AllPaired, AllPairsSettings
from centerarc.evaluation.seeds import summarize_arms
from tests.evaluation.worlds import EveryPair, world

SIZES = [2, 4, 2, 1, 3, 3, 1, 2, 4, 1, 1, 2]
FARS = (0.1, 0.05, 0.001)


def test_the_report_has_every_number_with_its_interval() -> None:
    faces, labels = world(SIZES)
    record = score_all_pairs(faces, labels)
    report = report_all_pairs(record, fars=FARS, fpir=0.5, bootstrap=100, seed=3)
    every = EveryPair(faces, labels)
    assert report.tar_at_far[0.1].value == pytest.approx(every.tar(0.1, np.ones(12)), abs=1e-12)
    assert report.tar_at_far[0.001].value is None
    assert "at least 1,000 combinations of two people" in str(report.tar_at_far[0.001].reason)
    assert sorted(report.threshold_at_far) == [0.05, 0.1]
    assert report.auc.value == record.auc
    assert report.eer.value == record.eer
    assert report.tpir_at_fpir[0.5].value == record.tpir(0.5)
    for rate in (report.tar_at_far[0.1], report.auc, report.threshold_spread):
        assert rate.interval is not None
        assert rate.interval.low <= (rate.value or 0) <= rate.interval.high
    assert report.eer.interval is not None
    assert report.eer.interval.low <= record.eer <= report.eer.interval.high
    counts = (report.num_people, report.num_genuine_people, report.num_images)
    assert counts == (12, 8, 26)
    plain = report.to_dict()
    assert plain["tar_at_far"]["0.001"]["threshold"] is None
    assert plain["tar_at_far"]["0.1"]["threshold"] == report.threshold_at_far[0.1]
    assert "100 bootstrap resamples of the 12 people, with thresholds" in plain["intervals"]


def test_a_comparison_is_that_of_two_arms_with_one_seed() -> None:
    faces, labels = world(SIZES)
    noisy = faces + 0.5 * np.random.default_rng(0).normal(size=faces.shape)
    records = {"a": score_all_pairs(noisy, labels), "b": score_all_pairs(faces, labels)}
    found = compare_all_pairs(records, fars=FARS, fpir=0.5, bootstrap=100)["b"]
    arms = summarize_arms(
        {name: {0: record} for name, record in records.items()},
        fars=FARS,
        fpir=0.5,
        resamples=100,
    )
    expected = (arms.arms["b"].differences or {})["tar@0.1"]
    assert found.tar_at_far[0.1].value == expected.value
    assert found.tar_at_far[0.1].interval == expected.interval
    assert found.tar_at_far[0.001].reason is not None
    assert not found.equal
    assert found.to_dict()["auc"]["value"] == records["b"].auc - records["a"].auc


def test_scores_that_are_equal_but_for_rounding_are_called_equal() -> None:
    faces, labels = world(SIZES)
    records = {"a": score_all_pairs(faces, labels), "b": score_all_pairs(3.1 * faces, labels)}
    found = compare_all_pairs(records, fars=(0.1,), fpir=0.5, bootstrap=100)["b"]
    assert found.equal
    assert found.tar_at_far[0.1].interval is None
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        compare_all_pairs({"a": records["a"]})


def test_settings_out_of_range_are_refused_before_the_work() -> None:
    with pytest.raises(ValueError, match=r"far must be in \(0, 1\), got 2"):
        AllPairsSettings(fars=(2,))
    with pytest.raises(ValueError, match=r"fpir must be in \(0, 1\), got 0"):
        AllPairsSettings(fpir=0)
    settings = AllPairsSettings(fars=(0.2, 0.01), fpir=0.5, resamples=0)
    assert settings.all_fars == (0.2, 0.01, 0.001, 0.0001)
    found = AllPaired.of(score_all_pairs(*world(SIZES)), settings)
    assert found.report.auc.interval is None
    assert found.to_dict()["settings"] == {
        "far": [0.2, 0.01],
        "fpir": 0.5,
        "resamples": 0,
        "seed": 0,
    }
    with pytest.raises(ValueError, match="at least 100"):
        AllPaired.of(found.record, replace(settings, resamples=5))
