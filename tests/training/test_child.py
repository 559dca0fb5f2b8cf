"""A run in a process of its own: trained, resumed, left alone, and how it ends otherwise."""

import os
import signal
from pathlib import Path

import pytest

from centerarc.io.children import Children
from centerarc.training import (
    Callback,
    TrainConfig,
    Trainer,
    TrainingInterrupted,
    dump_config,
    train,
)
from centerarc.training.child import child_words, run, status_of
from tests.training.helpers import make_config, same_bits


class Signals(Callback):
    """Asks the run to stop in its second epoch."""

    def on_step_end(self, trainer: Trainer, row: object) -> None:
        if trainer.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def written(config: TrainConfig, path: Path) -> str:
    path.write_text(dump_config(config), encoding="utf-8")
    return str(path)


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces)
    words = [written(config, tmp_path / "config.yaml")]
    assert run(words) == 0
    weights = tmp_path / "run" / "last.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(words) == 0
    assert weights.stat().st_mtime_ns == before


def test_one_that_was_stopped_resumes_to_the_same_weights(tmp_path: Path, faces: Path) -> None:
    whole = make_config(tmp_path / "whole", faces)
    assert run([written(whole, tmp_path / "whole.yaml")]) == 0
    parts = make_config(tmp_path / "parts", faces)
    with pytest.raises(TrainingInterrupted):
        train(parts, callbacks=[Signals()])
    assert not (tmp_path / "parts" / "results.json").exists()
    assert run([written(parts, tmp_path / "parts.yaml")]) == 0
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "parts/last.safetensors")


def test_other_settings_are_not_mixed_in(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_config(tmp_path / "run", faces)
    assert run([written(first, tmp_path / "config.yaml")]) == 0
    other = make_config(tmp_path / "run", faces, loss={"m": 0.1})
    assert run([written(other, tmp_path / "config.yaml")]) == 2
    assert "holds a run with other settings" in capsys.readouterr().out


def test_a_run_that_diverges_says_so(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(tmp_path / "run", faces, optimizer={"lr": 1e6}, schedule={"epochs": 30})
    assert run([written(config, tmp_path / "config.yaml")]) == 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("error: step ")


def test_a_process_tells_what_is_wrong(tmp_path: Path) -> None:
    config = make_config(tmp_path / "run", tmp_path / "nofaces")
    path = Path(written(config, tmp_path / "config.yaml"))
    with Children() as children:
        children.start("run", child_words(path), tmp_path / "log")
        ended = children.wait()
    assert ended is not None
    assert status_of(ended) == "failed"
    assert "nofaces" in ended.reason or "tiny" in ended.reason
