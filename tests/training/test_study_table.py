"""The result of a study from the scores of its runs, against numbers taken from them by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centerarc.evaluation.all_pair_scores import score_all_pairs
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.report.study_result import StudyResult
from centerarc.training.judged import MEASURES
from centerarc.training.study import plan_study
from centerarc.training.study_config import StudyConfig
from centerarc.training.study_run import JudgedSet, RunRecord, definition_of, scores_file
from centerarc.training.study_scores import ListedScores, facts_of, measures_of
from centerarc.training.study_table import summarize_study
from tests.training.test_study import make_study

PEOPLE, IMAGES = 30, 3


def all_pairs(noise: float, seed: int) -> AllPairs:
    """People as directions, images as these with noise; equal seeds are equal people."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(PEOPLE), IMAGES)
    vectors = rng.normal(size=(PEOPLE, 12))[who]
    return score_all_pairs(vectors + noise * rng.normal(size=vectors.shape), who)


def listed(noise: float, seed: int) -> ListedScores:
    rng = np.random.default_rng(seed)
    same = np.arange(200) % 2 == 0
    score = np.clip(0.3 * same + noise * rng.normal(size=200), -1, 1)
    number = np.arange(200)
    return ListedScores(score, same, number // 50, number, number + 1)


NOISE = {"plain": 1.2, "better": 0.9, "worse": 1.5}


def judged_study(tmp_path: Path, faces: Path, **changes: Any) -> StudyConfig:
    """A study whose runs have scores, and were never trained."""
    settings: dict[str, Any] = {
        "arms": {"plain": {}, "better": {"loss.m": 0.3}, "worse": {"loss": {"s": 8}}},
        "seeds": [0, 1, 2],
        "evaluate": {
            "sets": {
                "all": {"all_pairs": faces},
                "pairs": {"pairs": tmp_path / "pairs.txt", "images": faces},
            },
            "primary": "all/tar@0.01",
            "resamples": 100,
        },
    }
    study = make_study(tmp_path, faces, **{**settings, **changes})
    for arm, noise in NOISE.items():
        for seed in (0, 1, 2):
            write_run(study, arm, seed, noise)
    return study


def write_run(study: StudyConfig, arm: str, seed: int, noise: float) -> None:
    scores = study.scores_dir(arm, seed)
    sets = {}
    for name, one in study.evaluate.sets.items():
        found = all_pairs(noise, seed) if one.kind == "all_pairs" else listed(noise / 4, seed)
        found.save(scores_file(scores, name))
        definition = definition_of(one, mirror=study.evaluate.mirror)
        sets[name] = JudgedSet(definition, measures_of(found), facts_of(found))
    settings = study.config_of(arm, seed).model_dump(mode="json")
    RunRecord(arm, seed, "done", settings=settings, sets=sets).write(scores)


def result_of(study: StudyConfig) -> StudyResult:
    return summarize_study(study, plan_study(study), command="centerarc study x.yaml")


def test_means_and_differences_are_those_of_the_seeds(tmp_path: Path, faces: Path) -> None:
    result = result_of(judged_study(tmp_path, faces))
    assert result.complete
    assert [arm.settings for arm in result.arms] == [{}, {"loss.m": 0.3}, {"loss.s": 8}]
    tars = {
        arm: [all_pairs(noise, seed).tar_at_far(0.01).tar for seed in range(3)]
        for arm, noise in NOISE.items()
    }
    rows = {row.arm: row for row in result.rows_of("all", "tar@0.01")}
    assert list(rows) == list(NOISE)
    for arm, row in rows.items():
        assert row.mean.value == pytest.approx(np.mean(tars[arm]), abs=1e-12)
        assert [row.by_seed[seed] for seed in range(3)] == pytest.approx(tars[arm], abs=1e-12)
        assert row.mean.low is not None
        assert row.mean.high is not None
        assert row.mean.low < row.mean.value < row.mean.high
    gain = rows["better"].difference
    assert gain is not None
    assert gain.value == pytest.approx(
        np.mean(np.subtract(tars["better"], tars["plain"])), abs=1e-12
    )
    assert gain.low is not None
    assert gain.low > 0
    assert rows["plain"].difference is None
    assert rows["worse"].difference is not None
    assert rows["worse"].difference.value < 0
    # Each run has its own numbers, and 30 people are too few for the others.
    run = next(run for run in result.runs if (run.arm, run.seed) == ("worse", 2))
    assert run.measures["all"]["tar@0.01"] == pytest.approx(tars["worse"][2], abs=1e-12)
    assert set(run.measures["all"]) == {"tar@0.01", "auc", "eer", "threshold_spread"}
    assert set(run.measures["all"]) <= set(MEASURES["all_pairs"])
    assert set(run.measures["pairs"]) <= set(MEASURES["pairs"])


def test_listed_pairs_have_intervals_over_seeds(tmp_path: Path, faces: Path) -> None:
    result = result_of(judged_study(tmp_path, faces))
    plain, better, _ = result.rows_of("pairs", "accuracy")
    values = [
        [listed(NOISE[arm] / 4, seed).judged().accuracy for seed in range(3)]
        for arm in ("plain", "better")
    ]
    gains = np.subtract(values[1], values[0])
    assert plain.mean.value == pytest.approx(np.mean(values[0]))
    assert better.difference is not None
    assert better.difference.value == pytest.approx(gains.mean())
    reach = 4.302653 * gains.std(ddof=1) / np.sqrt(3)
    assert better.difference.high == pytest.approx(gains.mean() + reach, abs=1e-6)
    sets = {one.name: one for one in result.sets}
    assert "over seeds alone" in sets["pairs"].intervals
    assert "bootstrap resamples of the 30 people" in sets["all"].intervals
    assert sets["pairs"].facts["impostor_pairs"] == 100


def test_curves_go_through_the_operating_points(tmp_path: Path, faces: Path) -> None:
    result = result_of(judged_study(tmp_path, faces))
    assert [(curve.set, curve.arm) for curve in result.curves] == [("all", arm) for arm in NOISE]
    curve = result.curves[1]
    assert curve.far == sorted(curve.far)
    assert curve.tar == sorted(curve.tar)
    assert curve.tar[-1] == 1
    at = int(np.argmin(np.abs(np.array(curve.far) - 0.01)))
    tars = [all_pairs(NOISE["better"], seed).tar_at_far(curve.far[at]).tar for seed in range(3)]
    for line, wanted in ((curve.tar, np.mean(tars)), (curve.low, min(tars))):
        assert line[at] == pytest.approx(wanted, abs=0.02)  # the curve's points are thinned


def test_runs_that_are_missing_are_said_and_the_rest_is_paired(tmp_path: Path, faces: Path) -> None:
    study = judged_study(tmp_path, faces)
    (study.scores_dir("better", 1) / "record.json").unlink()
    RunRecord("plain", 0, "failed", "no such images").write(study.scores_dir("plain", 0))
    result = result_of(study)
    assert not result.complete
    rows = {row.arm: row for row in result.rows_of("all", "auc")}
    assert {arm: (row.seeds, row.pairs) for arm, row in rows.items()} == {
        "plain": (2, 0),
        "better": (2, 1),
        "worse": (3, 2),
    }
    assert result.notes == [
        "plain, seed 0: failed: no such images.",
        "1 run of 9 not done yet, first better, seed 1.",
    ]
    statuses = {(run.arm, run.seed): run.status for run in result.runs}
    assert statuses["plain", 0] == "failed"
    assert statuses["better", 1] == "waiting"


def test_without_the_baseline_there_are_no_differences(tmp_path: Path, faces: Path) -> None:
    study = judged_study(tmp_path, faces, baseline="worse")
    assert {row.arm for row in result_of(study).rows if row.difference is None} == {"worse"}
    for seed in (0, 1, 2):
        (study.scores_dir("worse", seed) / "record.json").unlink()
    result = result_of(study)
    assert {row.arm for row in result.rows} == {"plain", "better"}
    assert all(row.difference is None for row in result.rows)


def test_scores_of_other_images_are_not_compared(tmp_path: Path, faces: Path) -> None:
    study = judged_study(tmp_path, faces)
    rng = np.random.default_rng(5)
    other = score_all_pairs(rng.normal(size=(40, 4)), np.arange(40) // 2)
    place = study.scores_dir("better", 1)
    other.save(scores_file(place, "all"))
    record = RunRecord.read(place)
    assert record is not None
    judged = replace(record.sets["all"], measures=measures_of(other))
    replace(record, sets={**record.sets, "all": judged}).write(place)
    with pytest.raises(
        ValueError, match=r"evaluate\.sets\.all: .*must be judged on the same images"
    ):
        result_of(study)


def test_scores_that_are_damaged_or_anothers_are_told_with_what_to_do(
    tmp_path: Path, faces: Path
) -> None:
    study = judged_study(tmp_path, faces)
    mine = scores_file(study.scores_dir("better", 1), "all")
    whole = mine.read_bytes()
    mine.write_bytes(whole[:300])
    with pytest.raises(
        ValueError, match=r"cannot read .*all\.npz.*delete it to judge better, seed 1"
    ):
        summarize_study(study, plan_study(study), command="")
    mine.write_bytes(scores_file(study.scores_dir("worse", 1), "all").read_bytes())
    with pytest.raises(
        ValueError, match=r"has other scores than its record says, auc 0\.\d+ and not"
    ):
        summarize_study(study, plan_study(study), command="")
    mine.unlink()
    run = next(run for run in plan_study(study, overwrite=True) if run.name == "better, seed 1")
    assert run.state in ("judge", "again")
    mine.write_bytes(whole)
    assert summarize_study(study, plan_study(study), command="").complete


def test_an_arm_that_is_the_baseline_differs_by_nothing(tmp_path: Path, faces: Path) -> None:
    study = judged_study(tmp_path, faces)
    for seed in (0, 1, 2):
        write_run(study, "better", seed, NOISE["plain"])
    result = summarize_study(study, plan_study(study), command="")
    same = [row for row in result.rows if row.arm == "better"]
    assert len(same) > 6
    for row in same:
        assert row.difference is not None
        assert row.difference.value == 0
        assert row.doubt in (None, 1.0)
