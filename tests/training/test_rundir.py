"""How a run starts in its folder: new, again, or from the state that is there."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from centerarc.distributed import Processes
from centerarc.training import (
    Callback,
    TrainConfig,
    Trainer,
    checkpoint,
    load_config,
    rundir,
    train,
)
from centerarc.training.checkpoint import load_state, saved_states
from centerarc.training.sources import make_sources
from centerarc.training.step import StepReport, TrainStep
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny, same_bits

ALONE = Processes(0, 1, torch.device("cpu"))
SHORT = {"epochs": 1, "warmup_epochs": 0}


def crash(config: TrainConfig, steps: int, **how: Any) -> None:
    """Trains until the process dies after so many steps."""
    original = TrainStep.__call__
    left = steps

    def call(self: TrainStep, *arguments: Any, **options: Any) -> StepReport:
        nonlocal left
        left -= 1
        if left < 0:
            raise MemoryError
        return original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "__call__", call)
        with pytest.raises(MemoryError):
            train(config, **how)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_resume_auto_starts_resumes_and_ends_as_an_undisturbed_run(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(make_config(tmp_path / "whole", faces))  # 3 epochs of 4 steps
    config = make_config(tmp_path / "cut", faces)
    assert rundir.stage_of(config.run_dir) == "none"
    for steps, stage, said in (
        (2, "begun", ""),
        (6, "saved", "starts again"),
        (3, "saved", "from step 4"),
    ):
        crash(config, steps, resume="auto")
        assert rundir.stage_of(config.run_dir) == stage
        assert said in capsys.readouterr().err
    result = train(config, resume="auto")
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")
    rows = (config.run_dir / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 12
    before = content(config.run_dir)
    assert train(config, resume="auto").summary["steps"] == result.summary["steps"]
    assert content(config.run_dir) == before
    assert "all 12 steps are done" in capsys.readouterr().err


def begun(config: TrainConfig) -> None:
    crash(config, 2)


def begun_otherwise(config: TrainConfig) -> None:
    margin = config.loss.model_copy(update={"m": 0.3})
    crash(config.model_copy(update={"loss": margin}), 2)


def saved(config: TrainConfig) -> None:
    crash(config.model_copy(update={"save_every": 2}), 3)


def lost(config: TrainConfig) -> None:
    train(config)
    shutil.rmtree(config.run_dir / "state")


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("make", [None, begun, begun_otherwise, saved, lost])
def test_a_refused_start_names_only_commands_that_work(
    tmp_path: Path, faces: Path, make: Callable[[TrainConfig], None] | None, resume: bool
) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    if make is not None:
        make(config)
    before = content(tmp_path)
    try:
        rundir.how_to_start(config, ALONE, resume=resume, overwrite=False)
    except ValueError as error:
        said = str(error)
    else:
        assert (make, resume) in ((None, False), (saved, True))
        return
    assert content(tmp_path) == before
    ways: dict[str, dict[str, Any]] = {
        "--resume auto": {"resume": "auto"},
        "--resume to": {"resume": True},
        "without --resume": {},
        "--overwrite": {"overwrite": True},
    }
    named = [way for way in ways if way in said]
    assert named
    for way in named:
        if (tmp_path / "run").exists():
            shutil.copytree(tmp_path / "run", tmp_path / "copy")
        train(config.model_copy(update={"run_dir": tmp_path / "copy"}), **ways[way])
        shutil.rmtree(tmp_path / "copy")


def test_a_run_that_had_begun_with_other_settings_is_not_mixed_in(
    tmp_path: Path, faces: Path
) -> None:
    begun(make_config(tmp_path / "run", faces, loss={"m": 0.3}, schedule=SHORT))
    before = content(tmp_path)
    config = make_config(tmp_path / "run", faces, loss={"m": 0.3}, schedule=SHORT)
    with pytest.raises(ValueError, match=r"another loss\.m: it was 0\.3, now it is 0\.5"):
        train(make_config(tmp_path / "run", faces, schedule=SHORT), resume="auto")
    assert content(tmp_path) == before
    faster = make_config(
        tmp_path / "run", faces, loss={"m": 0.3}, optimizer={"lr": 0.2}, schedule=SHORT
    )
    train(faster, resume="auto")
    assert load_config(config.run_dir / "config.yaml") == faster


@pytest.mark.parametrize("kind", ["damaged", "set aside", "without results", "another version"])
def test_resume_auto_never_starts_over_a_run_whose_states_are_lost(
    tmp_path: Path, faces: Path, kind: str
) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT, save_every=2)
    saved(config)
    (state,) = saved_states(config.run_dir)
    if kind == "damaged":
        (state / "state.pt").write_bytes(b"")
    elif kind == "set aside":
        state.rename(state.with_name(f"damaged-{state.name}"))
    elif kind == "without results":
        shutil.rmtree(state.parent)
        (config.run_dir / "best.safetensors").touch()
    else:
        (state.parent / "state.pt").write_bytes(b"")
        shutil.rmtree(state)
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"resume: |was not written by this version"):
        train(config, resume="auto")
    assert content(tmp_path) == before


def test_a_save_that_was_killed_is_no_state(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    begun(config)
    (config.run_dir / "state/.1-step-2").mkdir(parents=True)
    assert rundir.stage_of(config.run_dir) == "begun"
    train(config, resume="auto")
    assert [path.name for path in (config.run_dir / "state").iterdir()] == ["1-step-4"]


def test_a_state_that_another_process_saves_meanwhile_is_kept(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    begun(config)
    start = rundir.how_to_start(config, ALONE, resume="auto", overwrite=False)
    train(config, resume="auto")  # the other one
    with pytest.raises(ValueError, match="another process trained meanwhile"):
        rundir.prepare(config, make_sources(config), start=start)
    assert load_state(config.run_dir).content["step"] == 4


def test_resume_takes_no_other_word(tmp_path: Path, faces: Path) -> None:
    with pytest.raises(ValueError, match="resume must be True, False or 'auto', got 'yes'"):
        train(make_config(tmp_path / "run", faces), resume="yes")  # type: ignore[arg-type]


def _decide(rank: int, folder: Path, faces: Path) -> str:
    register_tiny()
    # Each process sees another folder.
    config = make_config(folder / str(rank), faces, schedule=SHORT)
    processes = Processes(rank, 2, torch.device("cpu"))
    try:
        return rundir.how_to_start(config, processes, resume="auto", overwrite=False)
    except ValueError as error:
        return str(error)


@pytest.mark.distributed
def test_all_ranks_start_as_the_first_one_finds(pool: Pool, tmp_path: Path, faces: Path) -> None:
    saved(make_config(tmp_path / "1", faces, schedule=SHORT))
    assert pool.run(_decide, tmp_path, faces) == ["new", "new"]
    begun_otherwise(make_config(tmp_path / "0", faces, schedule=SHORT))
    first, second = pool.run(_decide, tmp_path, faces)
    assert first == second
    assert "another loss.m" in first


@pytest.mark.parametrize("rank", [0, 1], ids=["first rank", "a rank that is left"])
@pytest.mark.parametrize(
    "how", [{}, {"resume": True}, {"resume": "auto"}, {"overwrite": True}], ids=str
)
def test_a_folder_in_use_is_refused_with_the_process_that_uses_it(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, rank: int, how: dict[str, Any]
) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT, save_every=2)
    saved(config)
    with rundir.locked(config.run_dir, rank):
        monkeypatch.setattr(rundir, "_WAIT", 0.0)
        before = content(tmp_path)
        with pytest.raises(ValueError, match=rf"in use: .*\(process {os.getpid()} on "):
            rundir.how_to_start(config, ALONE, **{"resume": False, "overwrite": False, **how})
        assert content(tmp_path) == before
    assert not list(config.run_dir.glob(".lock*"))


def test_locks_that_killed_processes_left_keep_no_one_out(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    config.run_dir.mkdir()
    for name in (".lock", ".lock-1", ".lock-7"):
        with rundir.locked(config.run_dir):
            left = (config.run_dir / ".lock").read_bytes()
        (config.run_dir / name).write_bytes(left)
    train(config, resume="auto")
    assert not list(config.run_dir.glob(".lock*"))


def _locks(rank: int, folder: Path, faces: Path) -> list[str]:
    register_tiny()
    config = make_config(folder / "run", faces, schedule=SHORT)
    processes = Processes(rank, 2, torch.device("cpu"))
    trainer = Trainer(config, processes, resume=False, overwrite=False)
    found = sorted(path.name for path in config.run_dir.glob(".lock*"))
    trainer.run()
    return found


@pytest.mark.distributed
def test_every_rank_holds_the_folder(pool: Pool, tmp_path: Path, faces: Path) -> None:
    assert pool.run(_locks, tmp_path, faces) == [[".lock", ".lock-1"]] * 2
    assert not list((tmp_path / "run").glob(".lock*"))


class Mover(Callback):
    """Acts on the run's folder after the third step, when no state is being written."""

    def __init__(self, act: Callable[[Path], None]) -> None:
        self.act = act

    def on_step_end(self, trainer: Trainer, row: object) -> None:
        if trainer.step == 3:
            trainer.states.wait()
            if trainer.processes.is_main:
                self.act(trainer.config.run_dir)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _move(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def _replace(folder: Path) -> None:
    _move(folder)
    shutil.copytree(folder.with_name("moved"), folder)


def _point_elsewhere(folder: Path) -> None:
    folder.unlink()
    folder.symlink_to(folder.with_name("elsewhere"))


@pytest.mark.parametrize("act", [_remove, _move, _replace, _point_elsewhere])
@pytest.mark.parametrize(
    "writes",
    [
        {"log": {"every": 1}},
        {"log": {"every": 1000}, "save_every": 5},
        {"log": {"every": 1000}, "schedule": {"epochs": 1, "max_steps": 4}},
    ],
    ids=["a row", "a state", "the end"],
)
def test_a_run_whose_folder_goes_away_ends_with_the_next_write(
    tmp_path: Path, faces: Path, act: Callable[[Path], None], writes: dict[str, Any]
) -> None:
    place = tmp_path / "run"
    config = make_config(place, faces, **writes)
    if act is _point_elsewhere:
        for name in ("here", "elsewhere"):
            (tmp_path / name).mkdir()
        place.symlink_to(tmp_path / "here")
    after: dict[str, bytes] = {}

    def go(folder: Path) -> None:
        act(folder)
        after.update(content(tmp_path))

    with pytest.raises(ValueError, match=r"run' was removed, moved or replaced during the run"):
        train(config, callbacks=[Mover(go)])
    assert {k: v for k, v in content(tmp_path).items() if ".lock" not in k} == {
        k: v for k, v in after.items() if ".lock" not in k
    }
    assert place.exists() == (act in (_replace, _point_elsewhere))


def test_a_folder_that_takes_the_place_of_the_run_keeps_the_state_that_was_being_written(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run", faces, log={"every": 1000}, save_every=2)
    after: dict[str, bytes] = {}
    seal, sealed = checkpoint.seal, []

    def seal_and_replace(*paths: Path) -> dict[str, tuple[int, str]]:
        sums = seal(*paths)
        sealed.append(paths)
        if len(sealed) == 2:  # the parts of the head, and the rest
            _replace(config.run_dir)
            after.update(content(tmp_path))
        return sums

    monkeypatch.setattr(checkpoint, "seal", seal_and_replace)
    with pytest.raises(ValueError, match="was removed, moved or replaced during the run"):
        train(config)
    assert any("/.1-step-2/" in name for name in after)
    assert {k: v for k, v in content(tmp_path).items() if ".lock" not in k} == {
        k: v for k, v in after.items() if ".lock" not in k
    }


def _move_on_rank(rank: int, folder: Path, faces: Path) -> str:
    register_tiny()
    changes: dict[str, Any] = {"log": {"every": 1000}, "save_every": 4, "batch_size": 12}
    config = make_config(folder / "run", faces, **changes)
    processes = Processes(rank, 2, torch.device("cpu"))
    try:
        Trainer(config, processes, resume=False, overwrite=False, callbacks=[Mover(_replace)]).run()
    except ValueError as error:
        return str(error)
    return "done"


@pytest.mark.distributed
def test_no_rank_writes_its_part_of_a_state_into_another_folder(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    answers = pool.run(_move_on_rank, tmp_path, faces)
    assert all("was removed, moved or replaced" in answer for answer in answers)
    (state,) = saved_states(tmp_path / "run")
    assert [path.name for path in state.parent.iterdir()] == ["1-step-0"]


def test_metrics_that_were_deleted_are_written_to_a_new_file(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT)
    train(config, callbacks=[Mover(lambda folder: (folder / "metrics.jsonl").unlink())])
    assert '"step": 4' in (config.run_dir / "metrics.jsonl").read_text()


def _leave_files_of_others(folder: Path) -> dict[str, bytes]:
    """Puts files of a user's own into a run's folder; returns what must stay."""
    for name in ("notes.txt", "state/notes.txt", "state/7-step-backup/state.pt", "tensorboard/a"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    return {name: data for name, data in content_of(folder).items() if data == b"mine"}


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_overwrite_deletes_what_the_run_wrote_and_nothing_else(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT, save_every=2)
    crash(config, 3)
    mine = _leave_files_of_others(config.run_dir)
    for name in ("state/damaged-2-step-2", "state/.9-step-9"):  # set aside, and not ended
        (config.run_dir / name).mkdir()
    (config.run_dir / "tensorboard/events.out.tfevents.1.host").touch()
    (config.run_dir / "nonfinite").mkdir()
    (config.run_dir / "nonfinite/step-3.txt").touch()
    rundir.clear(config.run_dir)
    assert len(mine) == 4
    assert content_of(config.run_dir) == mine
    assert not (config.run_dir / "nonfinite").exists()
    assert rundir.stage_of(config.run_dir) == "none"
    # A run that begins here and is killed has no state, whatever lies in `state`.
    crash(config, 1)
    assert rundir.stage_of(config.run_dir) == "begun"
    train(config, resume="auto")
    assert content_of(config.run_dir).items() >= mine.items()


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 5])
def test_an_overwrite_that_is_killed_leaves_no_state_to_resume(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    config = make_config(tmp_path / "run", faces, save_every=2)
    crash(config, 5)
    assert len(saved_states(config.run_dir)) == 2
    unlink = os.unlink

    def killed(*where: Any, **how: Any) -> None:
        nonlocal left
        if not left:
            raise MemoryError
        left -= 1
        unlink(*where, **how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        with pytest.raises(MemoryError):
            rundir.clear(config.run_dir)
    assert not saved_states(config.run_dir)
    crash(config, 1, overwrite=True)
    assert rundir.stage_of(config.run_dir) == "begun"


def test_a_run_folder_may_be_a_link(tmp_path: Path, faces: Path) -> None:
    place, link = tmp_path / "disk", tmp_path / "run"
    place.mkdir()
    link.symlink_to(place)
    config = make_config(link, faces, schedule=SHORT, save_every=2)
    crash(config, 3, resume="auto")
    train(config, resume="auto")
    mine = _leave_files_of_others(place)
    crash(config, 1, overwrite=True)
    assert link.is_symlink()
    assert not saved_states(place)
    assert content_of(place).items() >= mine.items()
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"run_dir is '.*run', a link to nothing; it must be a"):
        train(config, resume="auto")


def test_states_behind_a_link_are_neither_deleted_nor_resumed_after_an_overwrite(
    tmp_path: Path, faces: Path
) -> None:
    place, state = tmp_path / "disk", tmp_path / "run/state"
    place.mkdir()
    state.parent.mkdir()
    state.symlink_to(place)
    config = make_config(state.parent, faces, schedule=SHORT, save_every=2)
    crash(config, 3, resume="auto")  # where states go is the user's choice
    assert [path.name for path in place.iterdir()] == ["1-step-2"]
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"state' is a link to '.*disk', where nothing is deleted"):
        train(config, overwrite=True)
    assert content(tmp_path) == before
    train(config, resume="auto")
    shutil.rmtree(place)
    place.mkdir()
    train(config, overwrite=True)
    assert state.is_symlink()
    assert {path.name for path in place.iterdir()} == {"1-step-2", "3-step-4"}
    shutil.rmtree(place)
    with pytest.raises(ValueError, match=r"state is '.*state', a link to nothing"):
        train(config, overwrite=True)


def test_of_other_links_an_overwrite_deletes_the_link_alone(tmp_path: Path, faces: Path) -> None:
    config = make_config(tmp_path / "run", faces, schedule=SHORT, save_every=2)
    crash(config, 3)
    (state,) = saved_states(config.run_dir)
    for inside in (state, config.run_dir / "config.yaml", config.run_dir / "metrics.jsonl"):
        elsewhere = tmp_path / f"elsewhere-{inside.name}"
        inside.rename(elsewhere)
        inside.symlink_to(elsewhere)
    board = tmp_path / "elsewhere-board"
    board.mkdir()
    (board / "events.out.tfevents.1.host").write_text("mine")
    (config.run_dir / "tensorboard").symlink_to(board)

    def elsewhere_is() -> dict[str, bytes]:
        return {k: v for k, v in content_of(tmp_path).items() if k.startswith("elsewhere-")}

    before = elsewhere_is()
    assert len(before) == 7
    crash(config, 1, overwrite=True)
    assert elsewhere_is() == before
    assert rundir.stage_of(config.run_dir) == "begun"
    (config.run_dir / "config.yaml").unlink()
    (config.run_dir / "config.yaml").symlink_to(tmp_path / "elsewhere-config.yaml")
    crash(config, 3, resume="auto")
    train(config, resume=True)
    assert elsewhere_is() == before
    assert not (config.run_dir / "config.yaml").is_symlink()
