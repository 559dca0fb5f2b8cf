"""A search: its budget, what fails in it, what it writes, and that it resumes."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from centerarc.io.children import Ended
from centerarc.training import TrainConfig, load_config
from centerarc.training.search import read_tune
from centerarc.training.tuning import Objective, Tuning, objective_of
from tests.commands import Command
from tests.commands import run as run_command
from tests.training.helpers import SLOW_STEPS, TINY_PLUGIN, make_config, write_faces

pytest.importorskip("optuna")

SEARCH = {"loss.m": {"low": 0, "high": 0.5}, "loss.s": {"low": 8, "high": 64, "log": True}}


def judged(config: TrainConfig) -> float:
    """A number in place of a training: best at m = 0.2."""
    if config.loss.s > 60:
        raise ValueError("s is too large")
    return 1 - abs(config.loss.m - 0.2)


def opened(folder: Path, **more: Any) -> Tuning:
    tune = {"search": SEARCH, "trials": 6, **more.pop("tune", {})}
    config = make_config(folder / "run", folder / "faces", **more.pop("config", {}))
    return Tuning(
        config,
        read_tune(tune, "here"),
        folder / "tuning",
        **{"objective": Objective("a number", lambda path: [], judged), **more},
    )


def work(tuning: Tuning, most: int = 100, code: int = 0, reason: str = "") -> None:
    """Ends trials as their processes would."""
    for _ in range(most):
        found = tuning.next()
        if found is None:
            return
        trial, path = found
        assert load_config(path) == tuning.config_of(trial)
        (tuning.config_of(trial).run_dir).mkdir(parents=True)
        (tuning.config_of(trial).run_dir / "best.safetensors").write_text("weights")
        tuning.end(trial.number, Ended("", code, 1.0, reason))


def test_the_best_is_chosen_and_written(tmp_path: Path) -> None:
    tuning = opened(tmp_path, config={"loss": {"s": 32, "m": 0.3}})
    work(tuning)
    trials = tuning.trials
    assert len(trials) == 6
    assert trials[0].settings == {"loss.m": 0.3, "loss.s": 32}  # as it was given
    assert trials[0].value == pytest.approx(0.9)
    best = tuning.best
    assert best is not None
    assert best.value == max(trial.value for trial in trials if trial.value is not None)
    tuned = load_config(tmp_path / "tuning" / "tuned.yaml")
    assert tuned.loss.m == best.settings["loss.m"]
    assert tuned.run_dir == tmp_path / "run"
    assert tuned.model == tuning.config.model
    written = json.loads((tmp_path / "tuning" / "trials.json").read_text())
    assert written["chosen"] == best.settings
    assert [trial["value"] for trial in written["trials"]] == [t.value for t in trials]
    # Weights are kept of the best trial alone.
    kept = [path.parent.name for path in tmp_path.rglob("best.safetensors")]
    assert kept == [f"{best.number:04d}"]


def test_a_search_resumes_with_the_trial_that_was_stopped(tmp_path: Path) -> None:
    whole = opened(tmp_path / "whole")
    work(whole)
    parts = opened(tmp_path / "parts")
    work(parts, most=3)
    found = parts.next()
    assert found is not None
    parts.stopped()
    again = opened(tmp_path / "parts")
    assert again.trials[3].status == "running"
    resumed = again.next()
    assert resumed is not None
    assert resumed[0].settings == found[0].settings
    again.end(3, Ended("", 0, 1.0, ""))
    work(again)
    assert [t.settings for t in again.trials] == [t.settings for t in whole.trials]
    assert [t.value for t in again.trials] == [t.value for t in whole.trials]
    # A larger budget adds to it.
    more = opened(tmp_path / "parts", tune={"trials": 8})
    work(more)
    assert len(more.trials) == 8


def test_one_that_diverges_or_fails_is_recorded(tmp_path: Path) -> None:
    tuning = opened(tmp_path)
    work(tuning, most=1, code=3, reason="the loss is not finite")
    work(tuning, most=1, code=2, reason="no space is left")
    work(tuning)
    kinds = [(trial.status, trial.reason) for trial in tuning.trials]
    assert kinds[:2] == [("diverged", "the loss is not finite"), ("failed", "no space is left")]
    assert kinds[2][0] == "done"
    assert len(kinds) == 6  # they count


def test_where_all_fail_it_ends(tmp_path: Path) -> None:
    tuning = opened(tmp_path)
    work(tuning, code=2, reason="no images")
    assert len(tuning.trials) == 3
    assert tuning.hopeless == "all of the first 3 trials failed, the last with: no images"
    assert tuning.best is None
    assert not (tmp_path / "tuning" / "tuned.yaml").exists()
    # Diverging is a matter of the settings.
    tuning = opened(tmp_path, overwrite=True)
    work(tuning, code=3, reason="not finite")
    assert len(tuning.trials) == 6


def test_settings_that_do_not_fit_each_other_are_a_failed_trial(tmp_path: Path) -> None:
    search = {
        "schedule.epochs": {"low": 2, "high": 3},
        "schedule.warmup_epochs": {"low": 1.5, "high": 2.9},
    }
    tuning = opened(tmp_path, tune={"search": search, "trials": 8})
    work(tuning)
    failed = [trial for trial in tuning.trials if trial.status == "failed"]
    assert failed
    assert all("it must be below epochs, 2" in trial.reason for trial in failed)
    assert len(tuning.trials) == 8


def test_hours_are_those_of_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tuning = opened(tmp_path, tune={"hours": 1.0})

    def trial() -> bool:
        found = tuning.next()
        if found is not None:
            now[0] += 1500.0
            tuning.end(found[0].number, Ended("", 0, 1500.0, ""))
        return found is not None

    assert [trial() for _ in range(4)] == [True, True, True, False]
    assert tuning.seconds == 4500.0
    assert tuning.seconds_left == 0.0


def test_several_run_at_once_if_they_may(tmp_path: Path) -> None:
    tuning = opened(tmp_path, at_once=2)
    first, second = tuning.next(), tuning.next()
    assert first is not None
    assert second is not None
    assert tuning.next() is None
    tuning.end(second[0].number, Ended("", 0, 1.0, ""))
    assert tuning.next() is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"loss": {"s": 20}}}, r"another loss.s \(None, now 20"),
        ({"tune": {"seed": 3}}, r"another tune.seed \(0, now 3\)"),
        ({"tune": {"search": {"loss.m": [0, 1]}}}, "another tune.search.loss.m"),
    ],
)
def test_another_search_is_not_mixed_in(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    work(opened(tmp_path), most=1)
    with pytest.raises(ValueError, match=f"{said}.*give --overwrite to start again"):
        opened(tmp_path, **change)
    assert opened(tmp_path, **change, overwrite=True).trials == []


def test_a_run_without_a_validation_cannot_be_tuned(tmp_path: Path, faces: Path) -> None:
    tune = read_tune({"search": SEARCH}, "here")
    with pytest.raises(ValueError, match="tuning needs a section validation"):
        objective_of(make_config(tmp_path, faces), tune)
    config = make_config(tmp_path, faces, validation={"identities": 3, "measure": "tar"})
    assert objective_of(config, tune).words == "tar@0.001 of held_out"


FILE = """
run_dir: {folder}/run
data: {{source: folder, root: {faces}}}
plugins: [{plugin}]
model: {{name: tiny, embedding_size: 8, image_size: 16}}
validation: {{identities: 3, num_pairs: 20, every_epochs: 100}}
schedule: {{epochs: {epochs}}}
batch_size: 8
workers: 0
device: cpu
log: {{every: 1}}
tune: {{search: {{loss.m: {{low: 0, high: 0.5}}}}, trials: 2}}
"""


@pytest.mark.slow
def test_a_search_of_real_runs_is_stopped_and_resumed(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    faces = write_faces(tmp_path / "faces")
    config.write_text(
        FILE.format(plugin=TINY_PLUGIN, folder=tmp_path, faces=faces, epochs=30), encoding="utf-8"
    )
    rows = tmp_path / "run/tuning/trials/0000/metrics.jsonl"
    with Command("tune", str(config), environment=SLOW_STEPS, forks=True) as process:
        for _ in range(3600):
            if rows.exists() and len(rows.read_text().splitlines()) > 3:
                break
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        else:
            raise AssertionError("the first trial makes no progress")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "stopped; the same command resumes" in errors
    assert (rows.parent / "state").exists()
    ended = run_command("tune", str(config), forks=True)
    assert ended.returncode == 0, ended.stderr
    assert f"centerarc train {tmp_path / 'run/tuning/tuned.yaml'}" in ended.stdout
    log = (tmp_path / "run/tuning/trials/0000.log").read_text()
    assert ", from step " in log
    written = json.loads((tmp_path / "run/tuning/trials.json").read_text())
    assert [trial["status"] for trial in written["trials"]] == ["done", "done"]
    for trial in written["trials"]:
        run = tmp_path / "run/tuning/trials" / f"{trial['number']:04d}"
        best = json.loads((run / "results.json").read_text())["best"]
        assert trial["value"] == best["auc"]
        assert load_config(run / "config.yaml").loss.m == trial["settings"]["loss.m"]
