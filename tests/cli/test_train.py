"""`centerarc train --dry-run`: what it prints, how it ends, and that it leaves nothing."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from centerarc.cli import main
from centerarc.training import rehearsal
from centerarc.training.run import Run
from tests.commands import torchrun
from tests.training.helpers import write_faces
from tests.training.test_rehearsal import snapshot


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("_WARM", "_LEAST", "_MOST"):
        monkeypatch.setattr(rehearsal, name, 1)
    path = tmp_path / "config.yaml"
    path.write_text(
        f"run_dir: {tmp_path / 'run'}\n"
        f"data: {{source: folder, root: {write_faces(tmp_path / 'faces', people=4, images=4)}}}\n"
        "model: {name: mobilefacenet_small, embedding_size: 8, image_size: 16}\n"
        "schedule: {epochs: 2}\nbatch_size: 8\nworkers: 0\ndevice: cpu\n"
    )
    return path


def ended(*words: str | Path) -> Any:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    return end.value.code


def test_it_says_what_a_run_takes_and_writes_nothing(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(config.parent)
    assert ended("train", config, "--dry-run", "--schedule.epochs", "3") == 0
    assert snapshot(config.parent) == before
    out = capsys.readouterr().out
    assert "6 steps of 8 on 1 x cpu" in out
    assert out.endswith("nothing was written\n")
    assert ended("train", config, "--dry-run", "--resume", "auto") == 0
    assert "4 left, 2 an epoch" in capsys.readouterr().out
    assert ended("train", config, "--dry-run", "--resume") == 2
    assert "error: nothing to resume" in capsys.readouterr().err


def test_a_disk_without_room_is_an_error_after_the_numbers(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))
    assert ended("train", config, "--dry-run") == 2
    said = capsys.readouterr()
    assert "nothing was written" in said.out
    assert "make room" in said.err


def test_ctrl_c_ends_it_as_it_ends_a_run(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Run.take_step

    def interrupted(self: Run, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(Run, "take_step", interrupted)
    assert ended("train", config, "--dry-run") == 130
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_too_little_memory_names_what_saves_some(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total")

    monkeypatch.setattr(Run, "take_step", full)
    assert ended("train", config, "--dry-run") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: out of memory on the GPU: 2.1 GB more were asked for; try batch")
    for setting in ("batch_size below 8", "accumulate above 1", "model.image_size below 16"):
        assert setting in line


@pytest.mark.slow
@pytest.mark.distributed
def test_torchrun_speaks_once(config: Path) -> None:
    before = snapshot(config.parent)
    with torchrun("train", str(config), "--dry-run") as launcher:
        out, err = launcher.communicate()
        assert launcher.returncode == 0, err
    assert out.count("4 steps of 8 on 2 x cpu") == 1
    assert out.count("nothing was written") == 1
    assert snapshot(config.parent) == before
