"""A dry run refuses what a start refuses, says what the run takes, and writes nothing."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from centerarc.curate import pack
from centerarc.data.folder import FolderSource
from centerarc.data.recordio import source as recordio
from centerarc.distributed import Processes
from centerarc.training import (
    Callback,
    DryRun,
    TrainConfig,
    check_config,
    dry_run,
    register_callback,
    rehearsal,
    rundir,
    train,
)
from centerarc.training.callbacks import _REGISTRY
from centerarc.training.checkpoint import StateWriter, saved_states
from centerarc.training.logging import read_metrics
from centerarc.training.run import Run
from centerarc.training.step import Diverged
from centerarc.training.validation import Validation
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny, write_faces
from tests.training.test_rundir import begun, crash

PLAIN = {"options": {"norm": True}}  # without dropout, which ranks draw
JUDGED = {"identities": 2, "num_pairs": 20}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_WARM", 1), ("_LEAST", 1), ("_MOST", 2)):
        monkeypatch.setattr(rehearsal, name, value)


def snapshot(folder: Path) -> dict[str, Any]:
    """Names, times, sizes and bytes of all that is in a folder, and of itself."""
    found: dict[str, Any] = {}
    for path in (folder, *folder.rglob("*")):
        now = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (now.st_mtime_ns, now.st_ctime_ns, now.st_size, content)
    return found


def nothing(config: TrainConfig) -> None:
    """No run is there."""


def finished(config: TrainConfig) -> None:
    train(config)


def half(config: TrainConfig) -> None:
    crash(config, 6)


@pytest.mark.parametrize(
    ("before", "how", "start", "step"),
    [
        (nothing, {}, "new", 0),
        (nothing, {"overwrite": True}, "overwrite", 0),
        (nothing, {"resume": "auto"}, "new", 0),
        (begun, {"resume": "auto"}, "again", 0),
        (half, {"resume": True}, "resume", 6),
        (half, {"overwrite": True}, "overwrite", 0),
        (finished, {"resume": True}, "resume", 9),
        (finished, {"overwrite": True}, "overwrite", 0),
    ],
)
def test_nothing_is_written_however_it_would_start(
    tmp_path: Path,
    faces: Path,
    before: Callable[[TrainConfig], None],
    how: dict[str, Any],
    start: str,
    step: int,
) -> None:
    config = make_config(tmp_path / "deep" / "run", faces, validation=JUDGED)
    before(config)
    folders = tmp_path, faces
    was = [snapshot(folder) for folder in folders]
    found = dry_run(config, **how)
    assert [snapshot(folder) for folder in folders] == was
    assert (found.start, found.step, found.total_steps) == (start, step, 9)


def held(config: TrainConfig) -> None:
    """Another process trains there: a thread of this one holds the folder until the test ends."""
    finished(config)
    lock = rundir.locked(config.run_dir)
    lock.__enter__()
    _HELD.append(lock)


_HELD: list[Any] = []


@pytest.fixture
def _released() -> Iterator[None]:
    yield
    while _HELD:
        _HELD.pop().__exit__(None, None, None)


@pytest.mark.usefixtures("_released")
@pytest.mark.parametrize(
    ("before", "changes", "how", "said"),
    [
        (nothing, {"data": {"root": "nowhere"}}, {}, "data.root must be a folder, got 'nowhere'"),
        (nothing, {"batch_size": 1}, {}, "batch_size is 1 .* at least 2 images"),
        (nothing, {"loss": {"margin": "nosuch"}}, {}, "nosuch"),
        (nothing, {"callbacks": [{"name": "nosuch"}]}, {}, "nosuch"),
        (nothing, {"log": {"tensorboard": True}}, {}, "tensorboard is not installed"),
        (nothing, {}, {"resume": True}, "nothing to resume: there is no run"),
        (nothing, {}, {"resume": True, "overwrite": True}, "exclude each other"),
        (begun, {}, {}, "already holds a run without a saved state .* --resume auto"),
        (finished, {}, {}, "already holds a run .*give --resume"),
        (finished, {"seed": 3}, {"resume": True}, "cannot resume with another seed"),
        (finished, {"schedule": {"epochs": 1}}, {"resume": True}, "ends after 4; raise"),
        (held, {}, {"overwrite": True}, "is in use: another process trains there"),
        (nothing, {"run_dir": "file/run"}, {}, "Not a directory: 'file/run'"),
    ],
)
def test_what_a_start_refuses_is_refused_in_the_same_words(
    tmp_path: Path,
    faces: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[TrainConfig], None],
    changes: dict[str, Any],
    how: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rundir, "_WAIT", 0.0)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    Path("file").touch()
    before(make_config(tmp_path / "run", faces))
    config = make_config(Path(changes.pop("run_dir", tmp_path / "run")), faces, **changes)
    was = snapshot(tmp_path)
    with pytest.raises((ValueError, OSError), match=said) as dry:
        dry_run(config, **how)
    assert snapshot(tmp_path) == was
    with pytest.raises(type(dry.value)) as real:
        train(config, **how)
    assert str(dry.value) == str(real.value)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path, faces: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="locked/run"):
        dry_run(make_config(tmp_path / "locked" / "run", faces))


def test_the_right_to_write_is_asked_of_the_nearest_folder(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError) as refused:
        dry_run(make_config(tmp_path / "a" / "run", faces))
    assert (refused.value.errno, refused.value.filename) == (
        errno.EACCES,
        str(tmp_path / "a" / "run"),
    )


@pytest.mark.parametrize("how", [{"resume": True}, {"resume": "auto"}, {"overwrite": True}])
def test_states_that_cannot_be_written_are_refused_before_anything_is_read(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    config = make_config(tmp_path / "run", faces, schedule={"epochs": 1})
    train(config)
    state = config.run_dir / "state"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != state)
    monkeypatch.setattr("centerarc.training.run.make_parts", None)
    was = snapshot(tmp_path)
    for start in (dry_run, train):
        with pytest.raises(PermissionError) as refused:
            start(config, **how)
        assert (refused.value.errno, refused.value.filename) == (errno.EACCES, str(state))
    assert snapshot(tmp_path) == was


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"validation": {**JUDGED, "every_epochs": 2}, "ema_decay": 0.9},
        {"validation": JUDGED, "save_every": 2, "save_in_background": False},
        {"on_nonfinite": "rewind"},
        {"optimizer": {"name": "adamw"}, "schedule": {"epochs": 2, "freeze_epochs": 1}},
        {"head": {"fused": True}, "accumulate": 1, "data": {"cache_gb": 0.1}, "workers": 1},
    ],
    ids=["plain", "averaged", "judged", "rewinds", "frozen", "cached"],
)
def test_what_it_says_comes_true(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    config = make_config(tmp_path / "run", faces, **changes)
    found = dry_run(config)
    saves, judged = [], []
    monkeypatch.setattr(
        StateWriter, "_write", _counting(StateWriter._write, lambda *_: saves.append(1))
    )
    monkeypatch.setattr(
        Validation, "judge", _counting(Validation.judge, lambda *_: judged.append(1))
    )
    summary = train(config).summary
    rows = [row for row in read_metrics(config.run_dir) if row["kind"] == "train"]
    assert found.first_loss == rows[0]["loss"]
    assert (found.total_steps, found.step) == (summary["steps"], 0)
    assert (found.saves, found.validations) == (len(saves), len(judged))
    size = sum(path.stat().st_size for path in saved_states(config.run_dir)[0].iterdir())
    assert found.state_bytes == pytest.approx(size, abs=8000)  # lists of what is there
    last = (config.run_dir / "last.safetensors").stat().st_size
    assert found.weights_bytes == pytest.approx(last, abs=4000)
    assert found.needed_bytes == pytest.approx(
        min(3 + ("on_nonfinite" in changes), found.saves) * found.state_bytes
        + found.weights_bytes * (2 if judged else 1)
    )
    assert (
        found.needed_bytes
        > sum(path.stat().st_size for path in config.run_dir.rglob("*") if path.suffix != ".npz")
        - 8000 * 3
    )
    assert found.peak_memory == pytest.approx(sum(found.memory.values()), abs=3e6)
    assert 0.5 < found.peak_memory / 1e6 / summary["peak_memory_mb"][0] < 2
    assert all(map(str.isprintable, str(found).splitlines()))


def _counting(function: Callable[..., Any], count: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **more: Any) -> Any:
        count()
        return function(*arguments, **more)

    return counted


def test_a_resumed_run_is_said_from_where_it_goes_on(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces)
    crash(config, 5)
    found = dry_run(config, resume=True)
    result = train(config, resume=True)
    rows = [row["loss"] for row in read_metrics(result.run_dir) if row["kind"] == "train"]
    assert (found.step, found.first_loss) == (4, rows[4])
    assert f"would resume {config.run_dir} from step 4 of 12" in " ".join(str(found).split())
    # Of the states that it keeps one is there, with nothing else.
    assert 0 < found.needed_bytes < 3 * found.state_bytes + found.weights_bytes
    done = dry_run(config, resume=True)
    assert (done.first_loss, done.seconds, done.saves) == (None, 0.0, 0)
    assert any("all 12 steps are done" in note for note in done.notes)
    assert "0 left" in str(done)


def test_the_cache_beside_a_data_set_is_left_to_the_run(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(FolderSource(faces), tmp_path / "rec", format="rec", workers=0)
    monkeypatch.setattr(recordio, "_WORTH_KEEPING", 1)
    data = {"source": "recordio", "path": tmp_path / "rec"}
    config = make_config(tmp_path / "run", faces)
    content = config.model_dump(mode="json") | {"data": data}
    config = check_config(content)
    (tmp_path / "rec" / "train.idx").unlink()
    was = snapshot(tmp_path)
    dry_run(config)
    assert snapshot(tmp_path) == was
    train(config)
    assert (tmp_path / "rec" / "train.labels.npz").exists()


def test_no_hook_is_called_and_what_it_kept_is_given_back(tmp_path: Path, faces: Path) -> None:
    loaded: list[dict[str, Any]] = []

    class Counts(Callback):
        def on_step_end(self, *_: Any) -> None:
            assert not loaded, "a hook was called"

        on_train_start = on_epoch_end = on_save = on_train_end = on_step_end

        def state_dict(self) -> dict[str, Any]:
            return {"seen": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            loaded.append(state)

    register_callback("counts")(Counts)
    try:
        config = make_config(tmp_path / "run", faces, callbacks=[{"name": "counts"}])
        crash(config, 5)
        found = dry_run(config, resume=True)
    finally:
        del _REGISTRY["counts"]
    assert loaded == [{"seen": 1}]
    assert found.saves == 2 * 2  # before and after the hooks of each epoch


def test_numbers_that_are_not_finite_are_an_error(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Run.take_step

    def poisoned(self: Run, *arguments: Any) -> Any:
        report = original(self, *arguments)
        with torch.no_grad():
            next(self.model.parameters()).fill_(torch.nan)
        return report

    monkeypatch.setattr(Run, "take_step", poisoned)
    said = r"^step 2: the embeddings are not finite at a learning rate of .*; the training diverges"
    with pytest.raises(ValueError, match=said):
        dry_run(make_config(tmp_path / "run", faces))
    assert not (tmp_path / "run").exists()
    for policy in ("skip", "rewind"):  # which the run would go on with
        found = dry_run(make_config(tmp_path / "run", faces, on_nonfinite=policy))
        assert found.first_loss is not None


def test_a_first_step_that_is_left_out_is_said(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Run, *_: Any) -> None:
        raise Diverged("the loss is not finite")

    monkeypatch.setattr(Run, "take_step", fails)
    found = dry_run(make_config(tmp_path / "run", faces, on_nonfinite="skip"))
    assert found.first_loss is None
    assert "loss        not finite; on_nonfinite is skip" in str(found)


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({}, 7),
        ({"workers": 2}, 7),
        ({"schedule": {"epochs": 3, "max_steps": 1}}, 1),
        ({"schedule": {"epochs": 3, "max_steps": 1}, "workers": 2}, 1),
        ({"data": {"cache_gb": 0.1}}, 3),
        ({"schedule": {"epochs": 3, "freeze_epochs": 1}}, 3),
    ],
)
def test_its_steps_are_those_of_the_run(
    tmp_path: Path,
    faces: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    own: int,
) -> None:
    for name, value in (("_WARM", 2), ("_LEAST", 3), ("_MOST", 5)):
        monkeypatch.setattr(rehearsal, name, value)
    taken: list[list[int]] = []
    original = Run.take_step

    def noted(self: Run, images: Any, labels: Any, **more: Any) -> Any:
        taken.append(labels.tolist())
        return original(self, images, labels, **more)

    monkeypatch.setattr(Run, "take_step", noted)
    config = make_config(tmp_path / "run", faces, **changes)
    dry_run(config, seconds=1e9)
    rehearsed, taken[:] = [*taken], []
    train(config)
    assert rehearsed[:own] == taken[:own]
    assert len(rehearsed) <= len(taken) or "data" in changes


def test_what_is_known_is_said_before_the_first_step(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Run, "take_step", _counting(Run.take_step, lambda: said.append("step")))
    found = dry_run(make_config(tmp_path / "run", faces), say=said.append)
    assert said[:2] == [found.heading, "step"]
    assert said.count(found.heading) == 1
    assert str(found) == f"{found.heading}\n{found.table}"


def test_of_a_finished_run_nothing_is_needed(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, validation=JUDGED)
    train(config)
    done = dry_run(config, resume=True)
    assert (done.saves, done.needed_bytes) == (0, 0)
    assert "disk" not in done.table


def _timed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """Lets a clock go on by each step alone; returns when each was taken."""
    for name, value in (("_WARM", 2), ("_LEAST", 3), ("_MOST", 40)):
        monkeypatch.setattr(rehearsal, name, value)
    now, steps = 0.0, list[float]()

    def step() -> None:
        nonlocal now
        now += seconds
        steps.append(now)

    monkeypatch.setattr(rehearsal, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(Run, "take_step", _counting(Run.take_step, step))
    return steps


def test_slow_steps_are_few(tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = _timed(monkeypatch, 20.0)
    assert dry_run(make_config(tmp_path / "run", faces)).step_seconds == 20.0
    assert len(steps) == 2


def test_steps_are_timed_for_as_long_as_is_asked_for(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _timed(monkeypatch, 0.25)
    config = make_config(tmp_path / "run", faces, schedule={"epochs": 20})
    taken = {}
    for seconds in (0.5, 1.0, 4.0):
        steps.clear()
        assert dry_run(config, seconds=seconds).step_seconds == 0.25
        taken[seconds] = len(steps)
    assert taken == {0.5: 5, 1.0: 7, 4.0: 19}


def test_a_person_whose_images_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    root = write_faces(tmp_path / "faces")
    for path in (root / "P02").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    config = make_config(tmp_path / "run", root, batch_size=36)
    with pytest.raises(ValueError, match="no image of identity 'P02'") as dry:
        dry_run(config)
    with pytest.raises(ValueError, match="no image of identity") as real:
        train(config)
    assert f"{dry.value}; no state is saved yet" == str(real.value)


def test_a_worker_that_dies_is_an_error(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: FolderSource, index: int) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    monkeypatch.setattr(FolderSource, "encoded", die)
    with pytest.raises(OSError, match="worker process that reads images died"):
        dry_run(make_config(tmp_path / "run", faces, workers=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_step(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    steps: list[int] = []

    def interrupted() -> None:
        steps.append(1)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Run, "take_step", _counting(Run.take_step, interrupted))
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        dry_run(make_config(tmp_path / "run", faces))
    assert len(steps) == 1
    assert signal.getsignal(number) is before


def test_slow_images_are_said_to_be_slow(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def takes(seconds: float) -> Callable[..., None]:
        def pass_by() -> None:
            nonlocal now
            now += seconds

        return pass_by

    monkeypatch.setattr(rehearsal, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(FolderSource, "encoded", _counting(FolderSource.encoded, takes(0.01)))
    monkeypatch.setattr(Run, "take_step", _counting(Run.take_step, takes(0.05)))
    monkeypatch.setattr(rehearsal, "default_workers", lambda: 3)
    found = dry_run(make_config(tmp_path / "run", faces))  # 8 images in a batch
    assert found.step_seconds == pytest.approx(0.05)
    assert found.wait_seconds == pytest.approx(0.08)
    assert found.batch_seconds == pytest.approx(0.08)
    assert found.first_seconds == 0.0
    assert found.advice == "62% of the time waits for images: try workers: 2 instead of 0"
    cached = dry_run(make_config(tmp_path / "run", faces, data={"cache_gb": 0.1}))
    assert cached.step_seconds == pytest.approx(0.05)
    assert cached.wait_seconds == cached.batch_seconds == 0.0
    assert cached.first_seconds == pytest.approx(0.08)
    assert cached.advice == "the steps take the time; reading keeps up"


@pytest.fixture
def found(tmp_path: Path, faces: Path) -> DryRun:
    return dry_run(make_config(tmp_path / "run", faces))


def test_the_advice_follows_the_numbers(found: DryRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "default_workers", lambda: 4)
    two = found.config.model_copy(update={"workers": 2})

    def said(config: TrainConfig, wait: float, batch: float) -> str:
        numbers = {"step_seconds": 1.0, "wait_seconds": wait, "batch_seconds": batch}
        return replace(found, config=config, **numbers).advice

    assert said(found.config, 0.05, 0.05) == "the steps take the time; reading keeps up"
    assert said(found.config, 1.0, 1.5) == (
        "50% of the time waits for images: try workers: 2 instead of 0"
    )
    assert said(two, 1.0, 1.6).endswith("try workers: 4 instead of 2")
    assert said(two, 9.0, 10.0).endswith("try workers: 4 instead of 2")  # cores
    four = found.config.model_copy(update={"workers": 4})
    assert said(four, 1.0, 2.0).endswith("try data.cache_gb, or images of the model's size")


def test_the_times_add_up(found: DryRun) -> None:
    numbers = {"step_seconds": 2.0, "wait_seconds": 1.0, "first_seconds": 0.5}
    more = {"validation_seconds": 10.0, "validations": 3, "save_seconds": 0.25, "saves": 4}
    one = replace(found, total_steps=100, step=20, steps_per_epoch=40, **numbers, **more)
    assert one.epoch_seconds == 120.0
    assert one.seconds == 80 * 3.0 + 40 * 0.5 + 30.0 + 1.0


def test_a_disk_that_is_too_small_is_an_error(found: DryRun) -> None:
    found.check_disk()
    small = replace(found, needed_bytes=3_000_000_000, free_bytes=2_000_000_000)
    with pytest.raises(
        OSError, match=r"run' needs 3,000 MB on a disk with 2,000 MB free; make room"
    ):
        small.check_disk()


def test_it_fits_eighty_columns(found: DryRun) -> None:
    long = replace(found, notes=["a note of many words " * 10])
    lines = str(long).splitlines()
    assert all(len(line) <= 80 or "/" in line for line in lines)
    labels = [line[:12].strip() for line in lines]
    for label in ("start", "model", "steps", "loss", "step", "reading", "run", "disk"):
        assert labels.count(label) == 1
    assert lines[-1] == "nothing was written"


def _found(rank: int, folder: Path, faces: Path) -> Any:
    register_tiny()
    config = make_config(folder / "run", faces, model=PLAIN)
    processes = Processes(rank, 2, torch.device("cpu"))
    run = Run(config, processes, resume=False, overwrite=False)
    with rehearsal.StopRequest() as stop:
        one = rehearsal._Rehearsal(run, stop, 4.0).result("", 0, 0.0)
    return one.first_loss, one.state_bytes, one.peak_memory, one.steps_per_epoch


@pytest.mark.distributed
def test_all_ranks_take_their_part(pool: Pool, tmp_path: Path, faces: Path) -> None:
    alone = dry_run(make_config(tmp_path / "run", faces, model=PLAIN))
    first, second = pool.run(_found, tmp_path, faces)
    assert first[1:] == second[1:]
    assert first[0] == pytest.approx(alone.first_loss, rel=1e-5)
    # Rows of the classes are of both ranks.
    assert first[1] == pytest.approx(alone.state_bytes, rel=0.1)
    assert first[3] == alone.steps_per_epoch
    assert not (tmp_path / "run").exists()
