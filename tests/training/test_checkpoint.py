"""A saved state is checked before it is read: one that is damaged is named, the last is used."""

import collections
import pickle
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.utils._pytree import tree_leaves

from centerarc.distributed import Processes
from centerarc.io.files import files_sha256
from centerarc.losses.head.products import local
from centerarc.models import backbone as registry
from centerarc.training import Callback, TrainConfig, Trainer, checkpoint, load_config, train
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
    trainer = _untrained(config)
    assert names(config) == {"1-step-4", "damaged-2-step-8", "9-step-backup"}
    trainer._save_state()
    trainer.states.wait()
    assert names(config) == {"1-step-4", "3-step-4", "9-step-backup"}
    trainer._save_state()
    trainer.states.wait()
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


class _Gate:
    """Stands before the writing of states, shut until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self._write = checkpoint._write
        monkeypatch.setattr(checkpoint, "_write", self)

    def __call__(self, *arguments: Any) -> None:
        assert self.open.wait(60)
        self._write(*arguments)


def _untrained(config: TrainConfig) -> Trainer:
    return Trainer(config, Processes(0, 1, torch.device("cpu")), resume=True, overwrite=False)


def test_a_state_is_of_the_moment_it_was_saved(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, gate = _untrained(config), _Gate(monkeypatch)
    rows = trainer.criterion.arcface.prototypes
    for value in (1.0, 2.0):  # the second time, in the memory of the first copy
        gate.open.clear()
        trainer.model.layers[-1].bias.data.fill_(value)  # type: ignore[operator, union-attr]
        rows.data.fill_(value)
        trainer.optimizers[0].state[next(trainer.model.parameters())] = {
            "momentum_buffer": torch.full((8, 3, 3, 3), value)
        }
        trainer._save_state()
        for tensor in (*trainer.model.parameters(), rows):
            tensor.data.fill_(-1.0)
        gate.open.set()
        trainer.states.wait()
        saved = load_state(config.run_dir).content
        assert (saved["model"]["layers.5.bias"] == value).all()
        assert (saved["optimizer"]["layers.0.weight"]["momentum_buffer"] == value).all()
        assert (whole_criterion(config.run_dir)["arcface.prototypes"] == value).all()


def _places(copies: Any) -> set[int]:
    """Where the memory of the tensors is."""
    tensors = [leaf for leaf in tree_leaves(copies) if isinstance(leaf, torch.Tensor)]
    return {local(tensor).data_ptr() for tensor in tensors}


def test_the_first_save_only_copies(tmp_path: Path, faces: Path) -> None:
    made: set[int] = set()
    used: set[int] = set()
    trained = 0

    class Looks(Callback):
        def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
            nonlocal made, trained
            if trainer.step == 2:
                assert trainer.states._room is not None
                made = _places(trainer.states._room.result())
                model, _, criterion, _ = trainer.parts.trained
                trained = len([*model.parameters(), *criterion.parameters()])

        def on_train_end(self, trainer: Trainer, result: Any) -> None:
            used.update(_places(trainer.states._copies))

    train(make_config(tmp_path / "run", faces), callbacks=[Looks()])
    assert len(made) >= 2 * trained > 0  # each with its momentum
    assert made <= used


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(inner) for name, inner in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_a_state_is_the_same_whether_the_training_waits_for_it(tmp_path: Path, faces: Path) -> None:
    saved, rows = [], []
    for name, background in (("a", True), ("b", False)):
        config = make_config(tmp_path / name, faces, save_in_background=background)
        train(config)
        content = load_state(config.run_dir).content
        for of_the_run in ("settings", "seconds", "window", "files", "log_size"):
            content.pop(of_the_run)
        saved.append(content)
        rows.append(whole_criterion(config.run_dir))
    assert _numbers(saved[0]) == _numbers(saved[1])
    assert _numbers(rows[0]) == _numbers(rows[1])


@pytest.mark.parametrize("background", [True, False])
def test_a_state_that_cannot_be_written_ends_the_run_soon(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    written, steps, flush = [], [], checkpoint.flush

    def failing(path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        flush(path)

    class Steps(Callback):
        def on_step_end(self, trainer: Trainer, row: Any) -> None:
            steps.append(trainer.step)
            trainer.states._pool.submit(lambda: None).result()  # until what is written is written

    monkeypatch.setattr(checkpoint, "flush", failing)
    config = make_config(
        tmp_path / "run", faces, save_every=2, save_in_background=background, schedule={"epochs": 9}
    )
    with pytest.raises(OSError, match="No space left on device"):
        train(config, callbacks=[Steps()])
    # The first state is of step 0, for the callback.
    assert steps == [1, 2, 3][: 2 + background]
    assert names(config) <= {"1-step-0", "2-step-2"}
    assert not (config.run_dir / "results.json").exists()


def test_a_callback_of_saves_is_called_when_the_state_is_there(config: TrainConfig) -> None:
    seen = []

    class Saves(Callback):
        def on_save(self, trainer: Trainer) -> None:
            seen.append((trainer.step, load_state(config.run_dir).content["step"]))

    train(config, resume=True, callbacks=[Saves()])
    assert seen == [(12, 12)]


def test_one_of_the_kept_states_is_of_an_earlier_step(tmp_path: Path, faces: Path) -> None:
    """One is saved before a validation and one after it: both would be of one step."""
    config = make_config(tmp_path / "run", faces, validation={"identities": 2, "num_pairs": 20})
    seen = []

    class Epochs(Callback):
        def on_epoch_end(self, trainer: Trainer) -> None:
            trainer.states.wait()
            seen.append([path.name.partition("-")[2] for path in saved_states(config.run_dir)])

    train(config, callbacks=[Epochs()])
    epoch = load_state(config.run_dir).content["step"] // 3
    assert seen[1:] == [[f"step-{n * epoch}", f"step-{(n - 1) * epoch}"] for n in (2, 3)]
    steps = [path.name.partition("-")[2] for path in saved_states(config.run_dir)]
    assert steps == seen[-1]
