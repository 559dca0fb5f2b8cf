"""The file of a study: what its arms make of the common configuration, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from centerarc.training.study_config import StudyConfig, check_study, load_study, merged


def content(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "study_dir": "runs/study",
        "train": {"data": {"source": "synthetic"}, "loss": {"s": 16.0}, "schedule": {"epochs": 2}},
        "seeds": [0, 3],
        "arms": {"softmax": {"loss.m": 0}, "arcface": {"loss": {"m": 0.2}}},
        "evaluate": {"all_pairs": {"people": 20, "first": 100}},
    }
    return {**found, **changes}


def test_an_arm_is_the_common_configuration_with_its_settings() -> None:
    study = check_study(
        content(
            settings={"optimizer.lr": 0.05, "data": {"min_images": 2}},
            arms={"a": {}, "b": {"loss.m": 0.1, "loss.center_weight": 0, "data.min_images": 3}},
        )
    )
    a, b = study.config_of("a", 0), study.config_of("b", 3)
    assert (a.loss.s, a.loss.m, a.optimizer.lr, a.data.min_images) == (16, 0.5, 0.05, 2)
    assert (b.loss.s, b.loss.m, b.loss.center_weight, b.data.min_images) == (16, 0.1, 0, 3)
    assert (a.seed, b.seed) == (0, 3)
    assert b.run_dir == Path("runs/study/runs/b/seed-3")
    assert study.baseline_arm == "a"


def test_what_a_tuning_chose_comes_over_what_is_given() -> None:
    study = check_study(content())
    config = study.config_of("arcface", 0, chosen={"loss.m": 0.35, "loss": {"s": 24.0}})
    assert (config.loss.m, config.loss.s, config.schedule.epochs) == (0.35, 24, 2)


def test_the_common_configuration_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("IMPORTED = True\n")
    base = tmp_path / "base.yaml"
    base.write_text(
        "run_dir: runs/base\nplugins: [plugin.py]\ndata: {source: folder, root: faces}\n"
    )
    file = tmp_path / "study.yaml"
    file.write_text(
        f"study_dir: {tmp_path}/s\ntrain: {base}\nseeds: [1]\njobs: 2\nbaseline: two\n"
        "arms:\n  one: {loss.m: 0.2}\n  two: {}\n"
        "evaluate: {sets: {test: {pairs: pairs.txt, images: faces, folds: [7]}}, mirror: false}\n"
    )
    study = load_study(file)
    config = study.config_of("one", 1)
    assert config.plugins == [str(tmp_path / "plugin.py")]
    assert str(config.run_dir) == f"{tmp_path}/s/runs/one/seed-1"
    assert study.baseline_arm == "two"
    assert (study.evaluate.primary_set, study.evaluate.primary_measure) == ("test", "accuracy")
    assert study.with_jobs(3).jobs == 3
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        study.with_jobs(0)


def test_another_source_leaves_the_old_ones_fields_behind() -> None:
    base = {"data": {"source": "folder", "root": "faces", "min_images": 2}}
    changed = merged(base, {"data": {"source": "synthetic", "num_identities": 5}})
    assert changed == {"data": {"source": "synthetic", "min_images": 2, "num_identities": 5}}
    assert base["data"]["root"] == "faces"
    assert merged(base, {"data": {"root": "b"}})["data"]["source"] == "folder"


def test_the_fields_of_one_set_need_no_name() -> None:
    study = check_study(content())
    assert list(study.evaluate.sets) == ["all_pairs"]
    assert (study.evaluate.primary_set, study.evaluate.primary_measure) == (
        "all_pairs",
        "tar@0.001",
    )
    for written in ("tar@1e-2", "tar@0.01", "all_pairs/tar@.01"):
        study = check_study(content(evaluate={"all_pairs": "faces", "primary": written}))
        assert study.evaluate.primary_measure == "tar@0.01"
    sets = {"clean": {"all_pairs": "faces"}, "listed": {"pairs": "p.txt", "images": "faces"}}
    study = check_study(content(evaluate={"sets": sets, "primary": "listed/auc"}))
    assert (study.evaluate.primary_set, study.evaluate.primary_measure) == ("listed", "auc")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"a": {"loss.mm": 1}}}, "arm 'a': unknown field loss.mm; did you mean loss.m?"),
        ({"arms": {"a": {"loss.m": -1}}}, "arm 'a': loss.m is -1; it must be greater than or eq"),
        ({"arms": {}}, "arms must name at least one, got {}"),
        ({"arms": ["a"]}, "arms must be a section: `name: value` lines; one without changes is {}"),
        ({"arms": {"a": None}}, "arms.a must be a section: `name: value` lines; one without chang"),
        ({"arms": {1: {}}}, "a name in arms must be text, got 1; quote it"),
        ({"arms": {"a" * 61: {}}}, "a name in arms must have at most 60 letters"),
        ({"train": None}, "train must be the path of a file of centerarc train, or its content"),
        ({"study_dir": None}, "study_dir must be a path"),
        ({"tune": {"trials": 3}}, "tune.search must name at least one setting, or tune.arms"),
        ({"arms": {"a/b": {}}}, "a name in arms must have letters, digits"),
        ({"arms": {"a": {"seed": 3}}}, "a must not have seed"),
        ({"settings": {"run_dir": "x"}}, "settings must not have run_dir"),
        ({"arms": {"a": {"loss.m": 1, "loss": {"m": 2}}}}, "m is given twice"),
        ({"seeds": []}, "seeds must name at least one, got []"),
        ({"seeds": 3}, "seeds must be a list, such as [0, 1], got 3"),
        ({"seeds": [1, 1]}, "seeds must differ from each other, got [1, 1]"),
        ({"baseline": "none"}, "baseline must be one of the arms softmax, arcface, got 'none'"),
        ({"job": 2}, "unknown field job; did you mean jobs?"),
        ({"jobs": 0}, "jobs must"),
        (
            {"evaluate": {}},
            "evaluate.sets is missing; evaluate must have it, or all_pairs or pairs",
        ),
        ({"evaluate": "x"}, "evaluate must be a section: `name: value` lines, got 'x'"),
        (
            {"evaluate": {"all_pair": "x"}},
            "unknown field evaluate.all_pair; did you mean evaluate.all_pairs?",
        ),
        (
            {"evaluate": {"all_pairs": 5}},
            "all_pairs must be a folder, or drawn people such as {peo",
        ),
        (
            {"evaluate": {"sets": {"x": {"all_pairs": "y"}}, "pairs": "z"}},
            "evaluate.pairs must be in a set of its own, since there is evaluate.sets",
        ),
        (
            {"evaluate": {"all_pairs": "x", "pairs": "y", "folds": []}},
            "folds must name at least one, got []",
        ),
        ({"evaluate": {"folds": [1]}}, "give all_pairs, a folder of people, or pairs with images"),
        ({"evaluate": {"all_pairs": "x", "folds": [1]}}, "folds goes with pairs"),
        ({"evaluate": {"all_pairs": "x", "images": "y"}}, "images goes with pairs alone"),
        ({"evaluate": {"pairs": "x"}}, "images must name the folder"),
        (
            {"evaluate": {"pairs": "x", "images": "y", "other_side": "z"}},
            "other_side goes with all_pairs",
        ),
        ({"evaluate": {"all_pairs": {"people": 1, "first": 0}}}, "evaluate.sets.all_pairs"),
        ({"evaluate": {"all_pairs": {"people": 9}}}, "first is missing"),
        (
            {"evaluate": {"all_pairs": "x", "primary": "tar"}},
            "primary must be one of tar@0.01, tar@0.001",
        ),
        ({"evaluate": {"all_pairs": "x", "primary": "y/auc"}}, "primary must be a measure of one"),
        ({"evaluate": {"all_pairs": "x", "resamples": 3}}, "evaluate.resamples must"),
        ({"evaluate": {"sets": {"a b": {"all_pairs": "x"}}}}, "a name in sets must have letters"),
        ({"train": "nowhere.yaml"}, "there is no configuration file 'nowhere.yaml'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"^s\.yaml: ") as error:
        check_study(content(**changes), "s.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_field_is_named() -> None:
    wrong = content()
    del wrong["study_dir"]
    with pytest.raises(ValueError, match=r"^the study: study_dir is missing; it is required$"):
        check_study(wrong)


def test_a_study_is_made_in_python_too() -> None:
    assert StudyConfig(**content()).config_of("softmax", 3).seed == 3
