"""What may be searched: ranges, choices, and what is said of a wrong one."""

from pathlib import Path
from typing import Any

import pytest

from centerarc.training import load_config
from centerarc.training.search import (
    Choices,
    Range,
    check_search,
    given_values,
    load_tuning,
    read_tune,
    whole_settings,
    with_values,
)
from tests.training.helpers import make_config

BASE = "run_dir: runs/a\ndata: {source: synthetic}\n"


def _file(folder: Path, search: str, more: str = "") -> Path:
    path = folder / "config.yaml"
    path.write_text(f"{BASE}{more}tune:\n  search:\n    {search}\n", encoding="utf-8")
    return path


def test_a_section_of_the_file_says_what_to_search(tmp_path: Path) -> None:
    path = _file(tmp_path, "loss.s: {low: 8, high: 64, log: true}\n    loss.m: [0, 0.3]")
    found = load_tuning(path, ["--loss.m", "0.3"], trials=7)
    assert found.train.loss.m == 0.3
    assert found.tune.trials == 7
    assert found.tune.search == {
        "loss.s": Range(low=8, high=64, log=True),
        "loss.m": Choices(choices=[0, 0.3]),
    }
    # The same file trains a single run.
    assert load_config(path).loss.m == 0.5


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("loss.margn: [1, 2]", "tune.search: unknown field loss.margn; did you mean loss.margin?"),
        ("loss.m: {low: 0, high: 0}", "tune.search.loss.m: high must be above low, 0, got 0"),
        ("loss.m: {low: 0, high: 1, log: true}", "low must be above 0 with log: true, got 0"),
        ("loss.m: {low: 0}", "high is missing; it is required"),
        ("loss.m: {low: 0, high: 1, logs: true}", "unknown field logs; did you mean log?"),
        ("loss.m: 3", "must be {low: ..., high: ...} or a list of choices, got 3"),
        ("loss.m: [1, 1]", "choices has 1 twice"),
        ("loss.m: {low: -1, high: 1}", "loss.m cannot be -1.0: with this value: loss.m is -1.0"),
        ("loss.margin: [arcface, 3]", "loss.margin cannot be 3: with this value: loss.margin is 3"),
        ("schedule.epochs: {low: 1.5, high: 3}", "must have whole numbers as low and high, got"),
        ("run_dir: [a, b]", "run_dir cannot be searched: each trial has a folder of its own"),
        ("validation.far: {low: 0.1, high: 0.2}", "cannot be searched: it judges the trials"),
        ("seed: [0, 1]", "cannot be searched: it is chance"),
        ("{}", "tune.search must name at least one setting"),
    ],
)
def test_a_wrong_search_is_one_line(tmp_path: Path, search: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        load_tuning(_file(tmp_path, search))
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_what_is_missing_or_no_section_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(BASE, encoding="utf-8")
    with pytest.raises(ValueError, match="has no section tune, which says what to search"):
        load_tuning(path)
    with pytest.raises(ValueError, match=r"the file: unknown field tune\.trails"):
        read_tune({"trails": 3}, "the file")
    with pytest.raises(ValueError, match=r"tune\.trials must be greater than or equal to 1, got 0"):
        read_tune({"trials": 0}, "the file")


def test_a_field_of_whole_numbers_gets_whole_numbers() -> None:
    config = make_config(Path("runs/a"), Path("faces"))
    search: dict[str, Any] = {
        "schedule.epochs": {"low": 1, "high": 9},
        "loss.sub_centers": {"low": 1, "high": 3},
        "loss.m": {"low": 0, "high": 1},
        "model.options.depth": {"low": 1, "high": 3, "whole": True},
    }
    tune = read_tune({"search": search}, "here")
    check_search(config, tune, "here")
    wanted = {"schedule.epochs", "loss.sub_centers", "model.options.depth"}
    assert whole_settings(config, tune) == wanted


def test_the_configuration_starts_the_search_if_it_lies_within() -> None:
    config = make_config(Path("runs/a"), Path("faces"), loss={"m": 0.3})
    assert given_values(config, read_tune({"search": {"loss.m": [0.2, 0.3]}}, "")) == {
        "loss.m": 0.3
    }
    assert given_values(config, read_tune({"search": {"loss.m": [0.2, 0.4]}}, "")) is None


def test_values_go_into_a_run_of_its_own() -> None:
    config = make_config(Path("runs/a"), Path("faces"), loss={"m": 0.3, "s": 20})
    changed = with_values(config, {"loss.m": 0.1, "model.options.dropout": 0.5}, Path("runs/b"))
    assert (changed.loss.m, changed.loss.s, changed.run_dir) == (0.1, 20, Path("runs/b"))
    assert changed.model.options == {"norm": True, "dropout": 0.5}
    assert config.loss.m == 0.3
    with pytest.raises(ValueError, match="these settings together: schedule: warmup_epochs is 4"):
        with_values(config, {"schedule.warmup_epochs": 4, "schedule.epochs": 3}, Path("runs/b"))
