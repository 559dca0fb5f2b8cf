"""A saved state is checked before it is read: one that is damaged is named, the last is used."""

import collections
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata

from centerarc.distributed import Processes
from centerarc.io.files import files_sha256
from centerarc.models import backbone as registry
from centerarc.training import TrainConfig, Trainer, load_config, train
from centerarc.training.checkpoint import load_state, saved_states, write_manifest
from tests.training.helpers import (
    make_config,
    register_tiny,
    reseal,
    same_bits,
    whole_criterion,
)

FILES = [".metadata", "__0_0.distcp", "manifest", "state.pt"]
# The rate of a step depends on the length of the run, unless it does not fall.
STEADY = {"warmup_epochs": 0, "power": 1e-30}


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    register_tiny()
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(make_config(folder, faces, schedule={**STEADY, "epochs": 2}))
    del registry._BUILDERS["tiny"]
    return folder


@pytest.fixture
def config(tmp_path: Path, faces: Path, two_epochs: Path) -> TrainConfig:
    """Of a third epoch, to a run of two."""
    shutil.copytree(two_epochs, tmp_path / "run")
    return make_config(tmp_path / "run", faces, schedule={**STEADY, "epochs": 3})


def last(config: TrainConfig) -> Path:
    return saved_states(config.run_dir)[0]


def names(config: TrainConfig) -> set[str]:
    return {path.name for path in (config.run_dir / "state").iterdir()}


def test_the_head_is_of_all_people_with_its_momentum(config: TrainConfig) -> None:
    state = whole_criterion(config.run_dir)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "arcface.prototypes": (6, 8),
        "arcface.prototypes.momentum_buffer": (6, 8),
    }
    assert all(tensor.abs().sum() > 0 for tensor in state.values())


def test_every_flipped_bit_is_named_and_the_state_before_is_used(config: TrainConfig) -> None:
    """Four files of very different sizes, 25 bits each; nothing of the last state is read."""
    before = load_state(config.run_dir)
    assert before.folder.name == "2-step-8"
    assert not before.notes
    assert sorted(path.name for path in before.folder.iterdir()) == FILES
    rng = random.Random(0)
    for name in FILES * 25:
        path = before.folder / name
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        saved = load_state(config.run_dir)
        assert (saved.folder.name, saved.content["step"]) == ("1-step-4", 4)
        (note,) = saved.notes
        checksum = "SHA-256" if name == "manifest" else "CRC-32"
        assert f"2-step-8' is damaged ({name}: its content changed ({checksum}))" in note
        assert note.endswith("; that of step 4 is used, so 4 steps must be done again")
        path.write_bytes(content)
    assert load_state(config.run_dir).folder == before.folder


def test_states_with_the_checksums_of_before_are_compared_too(config: TrainConfig) -> None:
    folder = last(config)
    write_manifest(
        folder,
        {
            n: ((folder / n).stat().st_size, files_sha256(folder / n))
            for n in FILES
            if n != "manifest"
        },
    )
    assert not load_state(config.run_dir).notes
    content = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (note,) = load_state(config.run_dir).notes
    assert "(state.pt: its content changed (SHA-256))" in note


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [_cut, _empty, Path.unlink])
def test_a_file_that_is_cut_empty_or_missing_is_named(
    config: TrainConfig, damage: Callable[[Path], None], name: str
) -> None:
    size = (last(config) / name).stat().st_size
    damage(last(config) / name)
    wrong = {_cut: f"has 40 bytes and should have {size}", _empty: "has 0 bytes"}
    if name == "manifest":
        wrong = {_cut: "its content changed", _empty: "is empty"}
    saved = load_state(config.run_dir)
    assert saved.folder.name == "1-step-4"
    assert f"({name}: {wrong.get(damage, 'is missing')}" in saved.notes[0]


def test_a_run_goes_on_from_the_state_before_a_damaged_one(
    config: TrainConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(config.run_dir, tmp_path / "whole")
    train(config.model_copy(update={"run_dir": tmp_path / "whole"}), resume=True)
    _cut(last(config) / "state.pt")
    capsys.readouterr()
    train(config, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "damaged (state.pt: has 40 bytes" in said
    assert "so 4 steps must be done again" in said
    assert same_bits(config.run_dir / "last.safetensors", tmp_path / "whole/last.safetensors")


def test_a_save_keeps_the_state_that_was_used_and_no_damaged_one(config: TrainConfig) -> None:
    (config.run_dir / "state/9-step-backup").mkdir()
    _cut(last(config) / "state.pt")
    trainer = Trainer(config, Processes(0, 1, torch.device("cpu")), resume=True, overwrite=False)
    assert names(config) == {"1-step-4", "damaged-2-step-8", "9-step-backup"}
    trainer._save_state()
    assert names(config) == {"1-step-4", "3-step-4", "9-step-backup"}
    trainer._save_state()
    assert names(config) == {"3-step-4", "4-step-4", "9-step-backup"}


def test_a_save_that_was_killed_is_said_and_removed_by_the_next(config: TrainConfig) -> None:
    killed = last(config).with_name(".3-step-10")
    shutil.copytree(last(config), killed)
    (killed / "manifest").unlink()
    saved = load_state(config.run_dir)
    assert saved.folder == last(config)
    assert ".3-step-10' is damaged (its save did not end)" in saved.notes[0]
    assert "of step 8 is used, so 2 steps must" in saved.notes[0]
    train(config, resume=True)
    assert names(config) == {"2-step-8", "4-step-12"}


def test_where_all_states_are_damaged_the_error_says_what_to_do(config: TrainConfig) -> None:
    for folder, name in zip(saved_states(config.run_dir), ("manifest", ".metadata"), strict=True):
        (folder / name).unlink()
    with pytest.raises(ValueError, match="cannot resume: ") as error:
        train(config, resume=True)
    said = str(error.value)
    assert "2-step-8' is damaged (manifest: is missing)" in said
    assert "1-step-4' is damaged (.metadata: is missing); restore one of them" in said
    assert said.endswith("--overwrite to start again")
    assert "\n" not in said


def test_last_weights_that_are_damaged_are_written_again(config: TrainConfig) -> None:
    train(config, resume=True)
    path = config.run_dir / "last.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    train(config, resume=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("ended", [False, True])
def test_best_weights_that_are_gone_are_said_and_chosen_again(
    config: TrainConfig, faces: Path, capsys: pytest.CaptureFixture[str], ended: bool
) -> None:
    shutil.rmtree(config.run_dir)
    changes = {"validation": {"identities": 2, "num_pairs": 20}}
    schedule = {"epochs": 2, "warmup_epochs": 0}
    result = train(make_config(config.run_dir, faces, schedule=schedule, **changes))
    assert result.best is not None
    best = config.run_dir / "best.safetensors"
    best.unlink()
    capsys.readouterr()
    again = make_config(
        config.run_dir, faces, schedule={**schedule, "epochs": 3 - ended}, **changes
    )
    resumed = train(again, resume=True)
    assert f"best.safetensors: is missing; the best so far, of step {result.best['step']}" in (
        " ".join(capsys.readouterr().err.split())
    )
    assert best.exists() is not ended
    assert (resumed.best == result.best) is ended


def test_a_run_that_was_copied_resumes_itself(
    two_epochs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in two_epochs.rglob("*") if path.is_file()}

    other, before = tmp_path / "other", content()
    shutil.copytree(two_epochs, other)
    longer = ["--schedule.epochs", "3"]
    found = load_config(other / "config.yaml", longer, resume=True)
    assert found.run_dir == other
    assert train(found, resume=True).summary["steps"] == 12
    assert content() == before
    said = "".join(capsys.readouterr().err.split())  # lines are broken within names
    assert f"{str(other)!r}wasin{str(two_epochs)!r}before" in said
    moved = other.rename(tmp_path / "moved")
    assert load_config(moved / "config.yaml", resume=True).run_dir == moved
    words = ["--run-dir", str(two_epochs)]
    assert load_config(moved / "config.yaml", words, resume=True).run_dir == two_epochs


def test_a_recipe_beside_other_things_resumes_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run_dir: runs/a\ndata: {source: synthetic}\n")
    assert load_config(tmp_path / "config.yaml", resume=True).run_dir == Path("runs/a")


def test_metadata_that_names_anything_else_is_refused(config: TrainConfig) -> None:
    path = last(config) / ".metadata"
    with path.open("rb") as file:
        metadata: Metadata = pickle.load(file)
    metadata.planner_data = collections.Counter("harmless")  # type: ignore[assignment]
    path.write_bytes(pickle.dumps(metadata))
    reseal(last(config))
    with pytest.raises(OSError, match=r"step-8' cannot be read .*collections.Counter.* refused"):
        train(config, resume=True)


def test_a_head_of_other_people_is_refused(config: TrainConfig) -> None:
    path = last(config) / ".metadata"
    with path.open("rb") as file:
        metadata: Metadata = pickle.load(file)
    del metadata.state_dict_metadata["arcface.prototypes"]
    path.write_bytes(pickle.dumps(metadata))
    reseal(last(config))
    with pytest.raises(ValueError, match=r"arcface.prototypes must be \(6, 8\), got None"):
        train(config, resume=True)


def test_momentum_that_the_state_lacks_starts_from_zero(config: TrainConfig, faces: Path) -> None:
    plain = {"optimizer": {"momentum": 0.0}, "schedule": {"epochs": 1, "warmup_epochs": 0}}
    shutil.rmtree(config.run_dir)
    train(make_config(config.run_dir, faces, **plain))
    assert list(whole_criterion(config.run_dir)) == ["arcface.prototypes"]
    train(config, resume=True)
    assert torch.isfinite(whole_criterion(config.run_dir)["arcface.prototypes"]).all()
