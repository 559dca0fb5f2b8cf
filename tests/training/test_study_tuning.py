"""Searches of a study: the same budget for each arm, and its runs take what they chose."""

from pathlib import Path
from typing import Any

import pytest

from centerarc.io.children import Ended
from centerarc.training import study_tuning
from centerarc.training.study import plan_study
from centerarc.training.study_run import run
from centerarc.training.study_tuning import chosen_settings, tried, tune_study, untuned
from tests.training.test_study import make_study

pytest.importorskip("optuna")


class InProcess:
    """In place of `Children`: runs what it is given right here, one at a time."""

    most = 1

    def __init__(self, most: int = 1, threads: int | None = None) -> None:
        self._ended: list[Ended] = []

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def full(self) -> bool:
        return bool(self._ended)

    def start(self, name: str, words: list[str], log: Path) -> None:
        self._ended.append(Ended(name, run(words[2:]), 1.0, ""))

    def wait(self, seconds: float | None = None) -> Ended | None:
        return self._ended.pop() if self._ended else None


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_tuning, "Children", InProcess)


def tuned(tmp_path: Path, faces: Path, **more: Any) -> Any:
    tune = {
        "search": {"loss.m": {"low": 0.1, "high": 0.4}},
        "trials": 2,
        "evaluate": {"all_pairs": faces, "primary": "auc"},
        "arms": {"wide": {"loss.s": [8, 16]}},
        **more.pop("tune", {}),
    }
    arms = {"softmax": {"loss.m": 0}, "arcface": {"loss.m": 0.2}, "plain": {}, "wide": {}}
    return make_study(tmp_path, faces, **{"seeds": [3, 5], "arms": arms, "tune": tune, **more})


def test_what_an_arm_sets_is_fixed_and_what_tune_adds_is_searched(
    tmp_path: Path, faces: Path
) -> None:
    study = tuned(tmp_path, faces)
    searched = {arm: study.tune_of(arm) for arm in study.arms}
    assert searched["softmax"] is None
    assert searched["arcface"] is None
    assert list(searched["plain"].search) == ["loss.m"]
    assert list(searched["wide"].search) == ["loss.m", "loss.s"]
    assert {one.trials for one in searched.values() if one} == {2}
    again = tuned(tmp_path, faces, tune={"arms": {"arcface": {"loss.m": {"low": 0, "high": 1}}}})
    assert again.tune_of("arcface").search["loss.m"].high == 1


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"arms": {"none": {"loss.m": [0, 1]}}}, "tune.arms must name some of the arms"),
        ({"search": {"loss.q": [0, 1]}}, "arm 'softmax': tune.search: unknown field loss.q"),
        ({"trails": 3}, "unknown field tune.trails; did you mean tune.trials?"),
        ({"evaluate": {"all_pairs": "x", "primary": "eer"}}, "evaluate.primary must be better"),
    ],
)
def test_a_wrong_search_is_one_line(
    tmp_path: Path, faces: Path, tune: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError) as error:
        tuned(tmp_path, faces, tune=tune)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_take_what_was_chosen(tmp_path: Path, faces: Path, in_process: None) -> None:
    study = tuned(tmp_path, faces)
    assert untuned(study) == ["plain", "wide"]
    lines: list[str] = []
    found = tune_study(study, say=lines.append)
    assert list(found) == ["plain", "wide"]
    assert [len(one.trials) for one in found.values()] == [2, 2]
    words = found["plain"].objective.words
    assert lines[0] == "softmax: nothing is searched; loss.m is set by the arm"
    assert lines[4].startswith(f"plain: trial 1 of 2: {words} ")
    assert untuned(study) == []
    for arm, tuning in found.items():
        for trial in tuning.trials:
            config = tuning.config_of(trial)
            assert config.seed == 6  # which no run of the study has
            assert config.loss.s == trial.settings.get("loss.s", 16)
        # Scores are large, and no longer needed.
        left = {path.name for path in study.tuning_dir(arm).rglob("*.npz")}
        assert left == {"training-images.npz"}
    chosen = chosen_settings(study)
    best = found["wide"].best
    assert best is not None
    assert chosen["wide"] == best.settings
    runs = plan_study(study, chosen=chosen)
    assert [run.config.loss.m for run in runs if run.arm == "wide"] == [best.settings["loss.m"]] * 2
    assert {run.config.loss.m for run in runs if run.arm == "arcface"} == {0.2}
    assert tried(study)["plain"]["measure"] == "auc of all_pairs"
    # The same again is nothing to do, and a larger budget adds to it.
    assert tune_study(study, overwrite=True, say=lines.append)["plain"].trials == (
        found["plain"].trials
    )
    assert len(lines) == 8
    more = study.model_copy(update={"tune": study.tune.model_copy(update={"trials": 3})})
    assert untuned(more) == []
    assert len(tune_study(more, say=lines.append)["wide"].trials) == 3


def test_a_damaged_search_is_named_and_done_again_with_overwrite(
    tmp_path: Path, faces: Path, in_process: None
) -> None:
    arms = {"plain": {}}
    study = tuned(tmp_path, faces, arms=arms, tune={"arms": {}, "trials": 1})
    tune_study(study, say=lambda line: None)
    chosen = chosen_settings(study)
    storage = study.tuning_dir("plain") / "trials.db"
    whole = storage.read_bytes()
    for damage in (whole[:5000], whole[:100] + b"x" * (len(whole) - 100), b"no database"):
        storage.write_bytes(damage)
        with pytest.raises(ValueError, match=r"cannot read .*trials\.db.*--overwrite starts over"):
            tune_study(study)
    tune_study(study, overwrite=True, say=lambda line: None)
    assert chosen_settings(study) == chosen


def test_trials_may_be_judged_by_the_runs_own_validation(
    tmp_path: Path, faces: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from centerarc.training import child

    monkeypatch.setattr(
        InProcess,
        "start",
        lambda self, name, words, log: self._ended.append(
            Ended(name, child.run(words[2:]), 1.0, "")
        ),
    )
    study = tuned(
        tmp_path,
        faces,
        tune={"evaluate": None, "arms": {}},
        settings={"validation": {"identities": 2, "num_pairs": 10}},
        arms={"plain": {}},
    )
    found = tune_study(study, say=lambda line: None)["plain"]
    assert found.objective.words == "auc of held_out"
    assert all(trial.status == "done" for trial in found.trials)
