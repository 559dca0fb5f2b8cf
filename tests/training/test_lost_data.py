"""Images, workers and storage that fail while a run trains: a line says so, no step is lost."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from centerarc.curate import pack
from centerarc.data import FolderSource, TrainLoader
from centerarc.training import Callback, Trainer, check_config, train
from centerarc.training.checkpoint import load_state, saved_states
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, same_bits
from tests.training.test_ddp import CHANGES, _train_on_rank

JUDGED: dict[str, Any] = {"identities": 2, "num_pairs": 20}


class After(Callback):
    """Does something once, after a step or an epoch."""

    def __init__(self, action: Callable[[], object], *, step: int = 0, epoch: int = 0) -> None:
        self.action, self.step, self.epoch = action, step, epoch

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        if trainer.step == self.step:
            self.action()

    def on_epoch_end(self, trainer: Trainer) -> None:
        if trainer.epochs_done == self.epoch:
            self.action()


def workers() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children]


def signalled(number: signal.Signals) -> Callable[[], None]:
    there = set(workers())

    def send() -> None:
        for pid in set(workers()) - there:
            os.kill(pid, number)

    return send


@pytest.fixture
def root(tmp_path: Path, faces: Path) -> Path:
    shutil.copytree(faces, tmp_path / "faces")
    return tmp_path / "faces"


def uninterrupted(run_dir: Path, root: Path, **changes: Any) -> Path:
    train(make_config(run_dir, root, **changes))
    return run_dir


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "worker process that reads images died"),
        (signal.SIGSTOP, r"no batch of images came within 1 seconds \(read_timeout\)"),
    ],
)
def test_a_worker_that_is_killed_or_stopped_loses_no_step(
    tmp_path: Path, root: Path, number: signal.Signals, reason: str
) -> None:
    run, changes = tmp_path / "run", {"workers": 1, "read_timeout": 1.0, "callbacks": []}
    config = make_config(run, root, **changes)
    lost = f"{reason}.*the state after step [23] is saved; resume with: centerarc train"
    with pytest.raises(ValueError, match=lost):
        train(config, callbacks=[After(signalled(number), step=2)])
    assert load_state(run).content["step"] >= 2
    train(config, resume=True)
    whole = uninterrupted(tmp_path / "whole", root)
    assert same_bits(run / "last.safetensors", whole / "last.safetensors")


def test_people_whose_images_are_gone_lose_no_step(tmp_path: Path, root: Path) -> None:
    run, config = tmp_path / "run", make_config(tmp_path / "run", root)
    hidden = tmp_path / "elsewhere"
    lost = "no image of identity .*No such file.* the state after step 2 is saved; resume with"
    with pytest.raises(ValueError, match=lost):
        train(config, callbacks=[After(lambda: root.rename(hidden), step=2)])
    hidden.rename(root)
    train(config, resume=True)
    whole = uninterrupted(tmp_path / "whole", root)
    assert same_bits(run / "last.safetensors", whole / "last.safetensors")


def test_where_no_step_is_done_no_state_is_promised(tmp_path: Path, root: Path) -> None:
    for path in (root / "P02").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"no image of identity 'P02'.*; no state is saved yet$"):
        train(make_config(tmp_path / "run", root, batch_size=36))
    assert not saved_states(tmp_path / "run")


def test_a_state_that_cannot_be_saved_is_named_with_what_is_lost(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError("no room")

        monkeypatch.setattr("centerarc.training.checkpoint._write", refuse)
        root.rename(tmp_path / "elsewhere")

    # That of step 2 is written before step 3, not beside it.
    saving = {"save_every": 2, "save_in_background": False}
    said = r"step 3 cannot be saved \(no room\); the state after step 2 is saved, so 1 step must"
    with pytest.raises(ValueError, match=said):
        train(make_config(tmp_path / "run", root, **saving), callbacks=[After(full, step=3)])


def _train_and_lose(rank: int, run_dir: Path, roots: list[Path]) -> str:
    """Each rank reads a folder of its own; that of the second loses its images."""
    config = {**CHANGES, "callbacks": [], "validation": None, "schedule": {"epochs": 2}}
    if rank == 1:
        from centerarc.training import assembly

        with pytest.MonkeyPatch.context() as patch:
            loader = assembly.TrainLoader

            class Losing(loader):  # type: ignore[misc, valid-type]
                def __iter__(self) -> Any:
                    for number, batch in enumerate(super().__iter__()):
                        if number == 2:
                            raise ValueError("no image of identity 'P01' can be read")
                        yield batch

            patch.setattr(assembly, "TrainLoader", Losing)
            return _train_on_rank(rank, 2, run_dir, roots[rank], config)
    return _train_on_rank(rank, 2, run_dir, roots[rank], config)


@pytest.mark.distributed
def test_what_one_process_cannot_read_is_named_by_all_after_they_saved(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    answers = pool.run(_train_and_lose, tmp_path / "run", [faces, faces])
    said = "no image of identity 'P01' can be read; the state after step 2 is saved; resume with: "
    assert answers[0].startswith(f"rank 1: {said}torchrun --nproc-per-node 2")
    assert answers[1].startswith(said)
    assert load_state(tmp_path / "run").content["step"] == 2


def judged_rows(run: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == "validation"]


def held_out_pictures(run: Path, root: Path) -> list[Path]:
    return [root / place for place in load_state(run).content["drawn"]["images"]]


def test_a_validation_image_that_is_lost_leaves_out_its_pairs(tmp_path: Path, root: Path) -> None:
    plain = uninterrupted(tmp_path / "plain", root, validation=JUDGED)
    picture = held_out_pictures(plain, root)[0]
    run = tmp_path / "run"
    said = rf"held_out: \d+ of 20 pairs are left out with 1 image, first '.*{picture.name}'"
    with pytest.warns(UserWarning, match=said):
        train(make_config(run, root, validation=JUDGED), callbacks=[After(picture.unlink, epoch=1)])
    first, *later = judged_rows(run)
    assert first == judged_rows(plain)[0]
    assert "left_out" not in first
    for row in later:
        assert row["pairs"] + row["left_out"] == 20
        assert row["left_out"] > 0
    # Training does not depend on it.
    assert same_bits(run / "last.safetensors", plain / "last.safetensors")


@pytest.mark.filterwarnings("ignore:.*another image of the same identity takes its place")
@pytest.mark.parametrize(("format", "kind"), [("rec", "recordio"), ("shards", "shards")])
def test_a_pack_that_is_cut_while_it_is_read_ends_the_run_in_a_line(
    tmp_path: Path, root: Path, format: Literal["rec", "shards"], kind: str
) -> None:
    pack(FolderSource(root), tmp_path / "packed", format=format, workers=0)
    (file,) = (tmp_path / "packed").glob("*.rec" if format == "rec" else "*.tar")
    config = make_config(tmp_path / "run", root).model_dump(mode="json")
    data = {"source": kind, "path": str(file)}
    cut = After(lambda: os.truncate(file, file.stat().st_size // 3), step=2)
    said = "^no image of identity 'P0.' can be read; .* the state after step [23] is saved; resume"
    with pytest.raises(ValueError, match=said):
        train(check_config({**config, "data": data}), callbacks=[cut])


@pytest.mark.filterwarnings("ignore:.*another image of the same identity takes its place")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_parquet_file_that_is_cut_while_it_is_read_ends_the_run_in_a_line(
    tmp_path: Path, root: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("centerarc.data.parquet._KEPT", 1)  # bytes, so that rows are read again
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    pictures = sorted(root.glob("*/*.png"))
    columns = {
        "image": [p.read_bytes() for p in pictures],
        "identity": [p.parent.name for p in pictures],
    }
    file = tmp_path / "faces.parquet"
    parquet.write_table(pyarrow.table(columns), file, row_group_size=1)
    config = make_config(tmp_path / "run", root, workers=workers).model_dump(mode="json")
    data = {"source": "parquet", "path": str(file)}
    whole = file.read_bytes()
    cut = After(lambda: os.truncate(file, len(whole) // 3), step=2)
    said = "^no image of identity 'P0.' can be read; .* the state after step [234] is saved; resume"
    with pytest.raises(ValueError, match=said):
        train(check_config({**config, "data": data}), callbacks=[cut])
    with pytest.raises(ValueError, match=f"^{file}: "):
        train(check_config({**config, "data": data}), resume=True)
    file.write_bytes(whole)
    train(check_config({**config, "data": data}), resume=True)


def test_a_death_that_pytorch_tells_between_batches_is_one_line(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(loader: TrainLoader) -> Any:
        yield from itertools.islice(iterate(loader), 1)
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    iterate = TrainLoader.__iter__
    monkeypatch.setattr(TrainLoader, "__iter__", dying)
    said = "worker process that reads .* fewer workers.*; the state after step 1 is saved"
    with pytest.raises(ValueError, match=said):
        train(make_config(tmp_path / "run", root))
