"""A run of a study: trained, judged, and what is kept of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from centerarc.evaluation.all_pairs import AllPairs
from centerarc.training import TrainConfig, dump_config
from centerarc.training.study_config import EvaluateConfig
from centerarc.training.study_run import RunRecord, missing_sets, run, write_order
from centerarc.training.study_scores import ListedScores, check_set, measures_of
from tests.training.helpers import make_config


def evaluate(faces: Path, tmp_path: Path) -> EvaluateConfig:
    lines = ["2\t2", *(f"P0{a}\t1\t2" for a in (0, 1)), "P00\t1\tP01\t2", "P01\t3\tP02\t2"]
    lines += [*(f"P0{a}\t1\t2" for a in (3, 4)), "P03\t1\tP04\t2", "P04\t3\tP05\t2"]
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(lines) + "\n")
    return EvaluateConfig.model_validate(
        {
            "sets": {
                "all": {"all_pairs": faces},
                "some": {"all_pairs": faces, "pairs": pairs, "folds": [2]},
                "other": {"all_pairs": faces, "other_side": faces},
                "listed": {"pairs": pairs, "images": faces},
            },
            "primary": "all/auc",
        }
    )


def ran(config: TrainConfig, judged: EvaluateConfig, tmp_path: Path, **options: bool) -> int:
    (tmp_path / "config.yaml").write_text(dump_config(config))
    keep = options.get("keep_weights", True)
    write_order(tmp_path / "order.json", judged, "arcface", keep_weights=keep)
    words = [tmp_path / "config.yaml", tmp_path / "order.json", tmp_path / "scores"]
    return run([str(word) for word in words])


def test_a_run_is_trained_judged_on_every_set_and_recorded(tmp_path: Path, faces: Path) -> None:
    judged = evaluate(faces, tmp_path)
    config = make_config(tmp_path / "run", faces, schedule={"max_steps": 2}, seed=5)
    assert ran(config, judged, tmp_path) == 0
    record = RunRecord.read(tmp_path / "scores")
    assert record is not None
    assert (record.arm, record.seed, record.status, record.reason) == ("arcface", 5, "done", "")
    assert record.config() == config
    assert list(record.sets) == ["all", "some", "other", "listed"]
    everyone = AllPairs.load(tmp_path / "scores/all.npz")
    assert record.sets["all"].measures["auc"] == everyone.auc
    assert record.sets["all"].facts["genuine_pairs"] == 6 * 15
    assert record.sets["all"].facts["impostor_pairs"] == 15 * 36
    assert "tar@0.01" not in record.sets["all"].measures  # 15 pairs of people
    some = AllPairs.load(tmp_path / "scores/some.npz")
    assert some.people.tolist() == ["P03", "P04", "P05"]
    # The same images on the other side: each pair in both orders.
    other = AllPairs.load(tmp_path / "scores/other.npz")
    assert other.ordered
    assert other.num_genuine == 2 * everyone.num_genuine
    assert other.auc == pytest.approx(everyone.auc, abs=1e-6)
    listed = ListedScores.load(tmp_path / "scores/listed.npz")
    assert listed.same.tolist() == [True, True, False, False] * 2
    assert record.sets["listed"].measures["accuracy"] == listed.judged().accuracy
    assert [row["step"] for row in record.learning] == [1, 2]
    assert record.facts["steps"] == 2
    assert len(record.weights_sha256) == 64
    assert missing_sets(record, judged, tmp_path / "scores") == []


def test_only_what_is_missing_is_judged_again(tmp_path: Path, faces: Path) -> None:
    judged = evaluate(faces, tmp_path)
    config = make_config(tmp_path / "run", faces, schedule={"max_steps": 1})
    assert ran(config, judged, tmp_path) == 0
    first = RunRecord.read(tmp_path / "scores")
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scores").glob("*.npz")}
    weights = (tmp_path / "run/last.safetensors").stat().st_mtime_ns
    (tmp_path / "scores/other.npz").unlink()
    sets = {**judged.sets, "some": judged.sets["some"].model_copy(update={"folds": [1]})}
    changed = judged.model_copy(update={"sets": sets})
    assert missing_sets(first, changed, tmp_path / "scores") == ["some", "other"]
    assert ran(config, changed, tmp_path) == 0
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "scores").glob("*.npz")}
    assert {name for name in after if after[name] != times[name]} == {"some.npz", "other.npz"}
    assert (tmp_path / "run/last.safetensors").stat().st_mtime_ns == weights
    record = RunRecord.read(tmp_path / "scores")
    assert record is not None
    assert missing_sets(record, changed, tmp_path / "scores") == []
    assert AllPairs.load(tmp_path / "scores/some.npz").people.tolist() == ["P00", "P01", "P02"]


def test_weights_may_be_deleted_and_scores_stay(tmp_path: Path, faces: Path) -> None:
    judged = evaluate(faces, tmp_path)
    config = make_config(tmp_path / "run", faces, schedule={"max_steps": 1})
    assert ran(config, judged, tmp_path, keep_weights=False) == 0
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {
        *("config.yaml", "people.txt", "training-images.npz", "metrics.jsonl", "results.json")
    }
    assert len(list((tmp_path / "scores").glob("*.npz"))) == 4


def test_a_run_that_cannot_be_judged_says_why(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = EvaluateConfig.model_validate({"all_pairs": tmp_path / "nowhere"})
    config = make_config(tmp_path / "run", faces, schedule={"max_steps": 1})
    assert ran(config, judged, tmp_path) == 2
    assert "nowhere" in capsys.readouterr().out.splitlines()[-1]
    assert RunRecord.read(tmp_path / "scores") is None


def test_a_damaged_record_is_an_error_and_no_surprise(tmp_path: Path) -> None:
    assert RunRecord.read(tmp_path) is None
    for text in ("{", json.dumps({"format": 0}), json.dumps({"format": 1, "sets": 3})):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(ValueError, match=r"record\.json' is not the record of a run"):
            RunRecord.read(tmp_path)


def test_a_set_is_checked_before_the_work(tmp_path: Path, faces: Path) -> None:
    sets = evaluate(faces, tmp_path).sets
    for one in sets.values():
        check_set(one, 16)
    with pytest.raises(ValueError, match=r"tar@0.01 needs at least 100 pairs of people, and 6"):
        check_set(sets["all"], 16, "tar@0.01")
    strangers = tmp_path / "strangers.txt"
    strangers.write_text("1\t1\nQ1\t1\t2\nQ1\t1\tQ2\t1\n")
    with pytest.raises(ValueError, match=r"strangers\.txt names 2 people whom the source lacks"):
        check_set(sets["some"].model_copy(update={"pairs": strangers, "folds": None}), 16)
    fewer = tmp_path / "fewer"
    for person in ("P00", "P01"):
        (fewer / person).mkdir(parents=True)
        for image in sorted((faces / person).iterdir())[:2]:
            (fewer / person / image.name).write_bytes(image.read_bytes())
    with pytest.raises(ValueError, match=r"other_side must hold the same images.*lacks 32 of 36"):
        check_set(sets["other"].model_copy(update={"other_side": fewer}), 16)


def test_scores_of_listed_pairs_survive_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    score, same = rng.normal(size=200), rng.random(200) < 0.7
    number = np.arange(200)
    scores = ListedScores(score + same, same, number % 4, number, number + 1)
    scores.save(tmp_path / "a.npz")
    again = ListedScores.load(tmp_path / "a.npz")
    assert measures_of(again) == measures_of(scores)
    assert {"accuracy", "auc", "eer", "tar@0.1"} == measures_of(scores).keys()
    np.savez(tmp_path / "b.npz", score=score)
    with pytest.raises(ValueError, match=r"b\.npz' must hold the scores of listed pairs"):
        ListedScores.load(tmp_path / "b.npz")
