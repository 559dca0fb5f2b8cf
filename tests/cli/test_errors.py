"""Whatever is wrong, a command ends with one line that says what to change, and no traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from centerarc.cli import main
from centerarc.models import backbone as registry
from centerarc.training import train
from tests.commands import UNREAD, run
from tests.training.helpers import Tiny, edit_state, make_config, write_faces

HUGE = "1" + "0" * 30


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    path = folder / "config.yaml"
    path.write_text(
        f"run_dir: {folder / 'run'}\n"
        f"data: {{source: folder, root: {write_faces(folder / 'faces', people=3, images=4)}}}\n"
        "model: {name: mobilefacenet_small, embedding_size: 8, image_size: 16}\n"
        "schedule: {epochs: 1, warmup_epochs: 0}\nbatch_size: 12\nworkers: 0\ndevice: cpu\n"
    )
    return path


def _error(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What a command that must fail says last, which is all it says of its failure."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2, lines
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


@pytest.mark.parametrize(
    "setting",
    [
        *("schedule.epochs", "schedule.max_steps", "schedule.freeze_epochs"),
        *("schedule.warmup_epochs", "schedule.power"),
        *("model.image_size", "model.embedding_size", "batch_size", "accumulate", "seed"),
        *("workers", "save_every", "log.every", "data.cache_gb", "data.min_images"),
        *("data.sampler.block", "data.sampler.images_per_identity", "data.augmentation.zoom"),
        *("loss.sub_centers", "loss.ramp_steps", "loss.threshold_memory", "loss.s"),
        *("loss.center_weight", "loss.separation_weight", "loss.threshold_scale"),
        *("loss.auto_ratio", "loss.center_temperature", "loss.m"),
        *("optimizer.lr", "optimizer.weight_decay", "optimizer.head_decay", "clip_norm"),
        *("optimizer.backbone_lr_scale", "head.workspace_mb"),
        *("validation.num_pairs", "validation.every_epochs", "validation.identities"),
    ],
)
def test_an_absurd_number_is_refused_by_its_name(
    capsys: pytest.CaptureFixture[str], config: Path, setting: str
) -> None:
    others = {
        "data.sampler.block": ("--data.sampler.kind", "blocks"),
        "data.sampler.images_per_identity": ("--data.sampler.kind", "identities"),
    }.get(setting, ())
    number = f"{HUGE}.0" if setting == "data.cache_gb" else HUGE
    line = _error(capsys, "train", config, f"--{setting}", number, *others)
    assert setting in line or setting.rpartition(".")[2] in line
    assert not (config.parent / "run").exists()


@pytest.mark.parametrize(
    ("people", "images", "named"),
    [
        (HUGE, "2", "num_identities"),
        ("2", HUGE, "images_per_identity"),
        ("10000000", "1000", " x "),
    ],
)
def test_an_absurd_set_of_drawn_faces_is_refused(
    capsys: pytest.CaptureFixture[str], config: Path, people: str, images: str, named: str
) -> None:
    flags = ("--data.num_identities", people, "--data.images_per_identity", images)
    line = _error(capsys, "train", config, "--data.source", "synthetic", *flags)
    assert named in line
    assert "at most" in line or "less than or equal to" in line


@pytest.mark.parametrize("content", [b"a\0b\n", b"\0" * 50, b"\xff\xfe\0\n"])
@pytest.mark.parametrize("setting", ["identities", "exclude_pairs", "leave_out"])
def test_text_files_with_null_bytes(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, setting: str, content: bytes
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    line = _error(capsys, "train", config, f"--data.{setting}", path, "--run-dir", tmp_path / "run")
    assert "list.txt" in line or setting in line
    assert "\0" not in line


@pytest.mark.parametrize(
    "words",
    [
        ["train", "a\0b"],
        ["train", "CONFIG", "--run-dir", "a\0b"],
        ["train", "CONFIG", "--data.root", "a\0b"],
        ["train", "CONFIG", "--model.weights", "a\0b"],
        ["embed", "a\0b", "--model", "m", "-o", "e.npz"],
        ["embed", "FACES", "--model", "a\0b", "-o", "OUT/e.npz"],
        ["embed", "FACES", "--model", "m", "-o", "a\0b.npz"],
        ["evaluate", "a\0b", "--all-pairs", "FACES"],
        ["evaluate", "m", "--pairs", "a\0b", "--images", "FACES"],
        ["export", "a\0b", "-o", "OUT/m.onnx"],
        ["compare", "a\0b", "c"],
        ["data", "inspect", "a\0b"],
        ["data", "check", "a\0b"],
        ["data", "pack", "a\0b", "OUT/packed"],
        ["data", "align", "a\0b", "OUT/aligned"],
        ["data", "split", "a\0b", "--out", "OUT/split", "--people", "1"],
        ["study", "a\0b"],
        ["tune", "a\0b"],
    ],
)
def test_paths_with_null_characters(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, words: list[str]
) -> None:
    known = {"CONFIG": str(config), "FACES": str(config.parent / "faces")}
    _error(capsys, *(known.get(word, word.replace("OUT", str(tmp_path))) for word in words))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda state: state.pop("scaler"), "lacks 'scaler'"),
        (lambda state: state.update(step="3"), "step must be of type int, got <class 'str'>"),
        (lambda state: state.update(model=[1]), "model must be of type dict, got <class 'list'>"),
        (lambda state: state["model"].update({"layers.0.weight": 1}), "it (AttributeError: "),
        (lambda state: state.update(identity={"images": 0}), "it (KeyError: "),
    ],
)
def test_a_state_of_another_kind_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    monkeypatch.setitem(registry._BUILDERS, "tiny", Tiny)
    faces = write_faces(tmp_path / "faces", 2, 2)
    config = make_config(tmp_path / "run", faces, schedule={"epochs": 1}, batch_size=4)
    train(config)
    edit_state(config.run_dir, edit)
    with pytest.raises(ValueError, match="cannot resume: ") as error:
        train(config, resume=True)
    assert said in str(error.value)
    assert str(config.run_dir / "state") in str(error.value)


@pytest.mark.parametrize("words", [["--help"], ["train", "CONFIG", "--list-settings"]])
@pytest.mark.skipif(os.name != "posix", reason="there are no such devices")
def test_output_that_is_not_read_or_does_not_fit(config: Path, words: list[str]) -> None:
    words = [str(config) if word == "CONFIG" else word for word in words]
    command = [sys.executable, "-m", "centerarc", *words]
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full:
        for out, code, said in ((write, 141, ""), (full, 2, "error: no space is left on the disk")):
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False
            )
            assert done.returncode == code, done.stderr
            assert done.stderr.startswith(said)
            assert done.stderr.count("\n") == bool(said)
    os.close(write)


def test_a_training_goes_on_when_its_log_is_not_read(config: Path, tmp_path: Path) -> None:
    done = run("train", str(config), "--run-dir", str(tmp_path / "run"), errors=UNREAD)
    assert done.returncode == 0
    assert (tmp_path / "run" / "results.json").exists()
