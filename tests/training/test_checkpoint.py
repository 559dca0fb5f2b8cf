"""A saved state is read without running anything in it, and named where it is damaged."""

import collections
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from centerarc.training import TrainConfig, train
from tests.training.helpers import make_config, whole_criterion


@pytest.fixture
def config(tmp_path: Path, faces: Path) -> TrainConfig:
    """Of a second epoch, to a run of one."""
    train(make_config(tmp_path / "run", faces, schedule={"epochs": 1, "warmup_epochs": 0}))
    return make_config(tmp_path / "run", faces, schedule={"epochs": 2, "warmup_epochs": 0})


def head_of(config: TrainConfig) -> Path:
    (folder,) = (config.run_dir / "state").glob("head-*")
    return folder


def test_the_head_is_of_all_people_with_its_momentum(config: TrainConfig) -> None:
    state = whole_criterion(config.run_dir)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "arcface.prototypes": (6, 8),
        "arcface.prototypes.momentum_buffer": (6, 8),
    }
    assert all(tensor.abs().sum() > 0 for tensor in state.values())


def test_only_the_last_head_is_kept(config: TrainConfig) -> None:
    (config.run_dir / "state/head-7").mkdir()  # of a save that did not end
    (config.run_dir / "state/head-backup").mkdir()
    (config.run_dir / "state/.state.1-2.pt").touch()  # of one that was killed
    train(config, resume=True)
    left = {path.name for path in (config.run_dir / "state").iterdir()}
    (head,) = left - {"head-backup", "state.pt"}
    assert int(head.removeprefix("head-")) > 7


def test_metadata_that_names_anything_else_is_refused(config: TrainConfig) -> None:
    path = head_of(config) / ".metadata"
    with path.open("rb") as file:
        metadata: Metadata = pickle.load(file)
    metadata.planner_data = collections.Counter("harmless")  # type: ignore[assignment]
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(OSError, match=r"head-\d+' cannot be read .*collections.Counter.* refused"):
        train(config, resume=True)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("cut", [None, 40], ids=["missing", "cut"])
def test_a_damaged_head_is_named(config: TrainConfig, name: str, cut: int | None) -> None:
    path = head_of(config) / name
    content = path.read_bytes()
    path.unlink()
    if cut is not None:
        path.write_bytes(content[:cut])
    with pytest.raises(OSError, match=r"cannot resume: the state '.*head-\d+' cannot be read \("):
        train(config, resume=True)
    path.write_bytes(content)
    train(config, resume=True)


def test_a_head_of_other_people_is_refused(config: TrainConfig) -> None:
    path = head_of(config) / ".metadata"
    with path.open("rb") as file:
        metadata: Metadata = pickle.load(file)
    del metadata.state_dict_metadata["arcface.prototypes"]
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"arcface.prototypes must be \(6, 8\), got None"):
        train(config, resume=True)


def test_momentum_that_the_state_lacks_starts_from_zero(config: TrainConfig, faces: Path) -> None:
    plain = {"optimizer": {"momentum": 0.0}, "schedule": {"epochs": 1, "warmup_epochs": 0}}
    shutil.rmtree(config.run_dir)
    train(make_config(config.run_dir, faces, **plain))
    assert list(whole_criterion(config.run_dir)) == ["arcface.prototypes"]
    train(config, resume=True)
    assert torch.isfinite(whole_criterion(config.run_dir)["arcface.prototypes"]).all()
