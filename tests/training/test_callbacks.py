"""Callbacks: when they are called, how they stop a run, and that a resumed one repeats them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from centerarc.distributed import Processes
from centerarc.training import (
    Callback,
    RunResult,
    TrainConfig,
    Trainer,
    TrainingInterrupted,
    assembly,
    load_config,
    register_callback,
    train,
)
from centerarc.training.callbacks import Callbacks
from centerarc.training.checkpoint import saved_states
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny, same_bits

pytestmark = pytest.mark.usefixtures("plugins_undone")

# Two epochs of three steps, each validated.
CHANGES: dict[str, Any] = {
    "validation": {"identities": 2, "num_pairs": 20},
    "schedule": {"epochs": 2},
    "log": {"every": 2},
}
HOOKS = {
    "on_train_start": "start",
    "on_step_end": "step",
    "on_validation_end": "validation",
    "on_epoch_end": "epoch",
    "on_save": "save",
    "on_interrupt": "interrupt",
    "on_train_end": "end",
}


class Diary(Callback):
    """Writes down each call; fails, stops the run or presses Ctrl-C where it is asked to."""

    def __init__(self, at: str = "", *, does: str = "") -> None:
        self.at, self.does = at, does
        self.calls: list[str] = []
        self.rows: list[dict[str, Any]] = []

    def _note(self, trainer: Trainer, call: str) -> None:
        name = f"{call} {trainer.step}"
        if name == self.at:
            if self.does == "stop":
                trainer.request_stop(f"enough at {name}")
            elif self.does == "fail":
                raise KeyError(name)
        self.calls.append(name)

    def on_train_start(self, trainer: Trainer) -> None:
        self._note(trainer, "start")

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        if row is not None:
            self.rows.append(row)
        self._note(trainer, "step")

    def on_validation_end(
        self, trainer: Trainer, results: dict[str, dict[str, Any]], best: bool
    ) -> None:
        epoch = trainer.epochs_done + 1
        assert trainer.best is not None
        assert best == (trainer.best["epoch"] == epoch)
        for name, result in results.items():
            self.rows.append({"epoch": epoch, "set": name, **result, "best": best})
        self._note(trainer, "validation")

    def on_epoch_end(self, trainer: Trainer) -> None:
        assert trainer.epochs_done == trainer.step // trainer.steps_per_epoch
        self._note(trainer, "epoch")

    def on_save(self, trainer: Trainer) -> None:
        self._note(trainer, "save")

    def on_interrupt(self, trainer: Trainer) -> None:
        self._note(trainer, "interrupt")

    def on_train_end(self, trainer: Trainer, result: RunResult) -> None:
        assert (result.run_dir / "last.safetensors").exists() or not trainer.processes.is_main
        self._note(trainer, "end")

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "rows": self.rows, "tensor": torch.ones(2)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls, self.rows = state["calls"], state["rows"]
        assert state["tensor"].tolist() == [1, 1]


def config_of(tmp_path: Path, faces: Path, name: str = "run", **changes: Any) -> TrainConfig:
    return make_config(tmp_path / name, faces, **{**CHANGES, **changes})


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


WHOLE = [
    "start 0",
    *("step 1", "step 2", "step 3", "validation 3", "epoch 3", "save 3"),
    *("step 4", "step 5", "step 6", "validation 6", "epoch 6", "save 6"),
    "end 6",
]


def test_every_hook_is_called_in_order_with_the_rows_of_the_log(
    tmp_path: Path, faces: Path
) -> None:
    diary = Diary()
    config = config_of(tmp_path, faces)
    train(config, callbacks=[diary])
    assert diary.calls == WHOLE
    written = [
        {key: value for key, value in row.items() if key not in ("kind", "step")}
        for row in rows_of(config.run_dir)
    ]
    assert diary.rows == written
    assert [row["epoch"] for row in diary.rows] == [1, 1, 2, 2, 2]


def test_every_hook_has_a_test() -> None:
    hooks = {name for name in vars(Callback) if name.startswith("on_")}
    assert hooks == set(HOOKS)


def test_a_callback_changes_no_number(tmp_path: Path, faces: Path) -> None:
    train(config_of(tmp_path, faces, "with"), callbacks=[Diary(), Callback()])
    train(config_of(tmp_path, faces, "without"))
    for name in ("best.safetensors", "last.safetensors"):
        assert same_bits(tmp_path / "with" / name, tmp_path / "without" / name)


class PressCtrlC(Callback):
    """Sends this process the signal of Ctrl-C during a step, and the next time does not."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_an_interrupted_run_tells_its_callbacks_and_resumes_exactly(
    tmp_path: Path, faces: Path, step: int
) -> None:
    train(config_of(tmp_path, faces, "whole"), callbacks=[whole := Diary()])
    diary = Diary()
    with pytest.raises(TrainingInterrupted):
        train(config_of(tmp_path, faces, "cut"), callbacks=[diary, PressCtrlC(step)])
    # The step during which the signal came is finished, and so is the one that it was seen in.
    assert diary.calls[-3:] == [f"step {step + 1}", f"save {step + 1}", f"interrupt {step + 1}"]
    again = Diary()
    train(config_of(tmp_path, faces, "cut"), resume=True, callbacks=[again])
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")
    # What came after the state was written is not in it.
    calls = [call for call in again.calls if call != f"start {step + 1}"]
    assert calls == whole.calls
    timeless = [
        [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]
        for rows in (whole.rows, again.rows)
    ]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize(
    "at",
    ["start 0", "step 1", "step 3", "step 4", "validation 3", "epoch 6", "save 3", "end 6"],
)
def test_a_callback_that_fails_stops_the_run_by_name_and_leaves_it_resumable(
    tmp_path: Path, faces: Path, at: str
) -> None:
    train(config_of(tmp_path, faces, "whole"))
    config = config_of(tmp_path, faces, "cut")
    hook = next(name for name, call in HOOKS.items() if call == at.split()[0])
    with pytest.raises(ValueError, match=f"callback 'Diary' failed in {hook}: KeyError: ") as error:
        train(config, callbacks=[Diary(at, does="fail")])
    assert "\n" not in str(error.value)
    assert "the run can be resumed" in str(error.value)
    assert isinstance(error.value.__cause__, KeyError)
    again = Diary()
    train(config, resume=True, callbacks=[again])
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")
    # Validation and the hooks after it are repeated whole, so nothing is counted twice.
    for call in ("validation 3", "epoch 3", "validation 6", "epoch 6"):
        assert again.calls.count(call) == 1


@pytest.mark.parametrize(
    ("at", "steps"),
    [
        ("start 0", 0),
        ("step 1", 1),
        ("step 3", 3),
        ("validation 3", 3),
        ("epoch 3", 3),
        ("save 3", 3),
        ("step 5", 5),
    ],
)
def test_a_callback_can_ask_to_stop_and_the_run_is_complete(
    tmp_path: Path, faces: Path, at: str, steps: int
) -> None:
    config = config_of(tmp_path, faces, "cut")
    diary = Diary(at, does="stop")
    result = train(config, callbacks=[diary])
    assert result.summary["stopped"] == f"enough at {at}"
    assert result.summary["steps"] == steps
    assert json.loads((config.run_dir / "results.json").read_text())["steps"] == steps
    assert (config.run_dir / "last.safetensors").exists()
    assert diary.calls[-1] == f"end {steps}"
    # An epoch that is over is judged; one that is not is not.
    assert ("validation 3" in diary.calls) == (steps >= 3)
    train(config_of(tmp_path, faces, "whole"))
    resumed = train(config, resume=True, callbacks=[Callback()])
    assert resumed.summary["stopped"] is None
    assert same_bits(tmp_path / "whole/last.safetensors", tmp_path / "cut/last.safetensors")


def test_asking_to_stop_in_the_last_step_is_no_early_end(tmp_path: Path, faces: Path) -> None:
    result = train(config_of(tmp_path, faces), callbacks=[Diary("step 6", does="stop")])
    assert result.summary["stopped"] is None
    assert result.best is not None


def test_a_state_that_would_not_read_back_is_refused_when_it_is_saved(
    tmp_path: Path, faces: Path
) -> None:
    class Odd(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"best": [{"auc": np.float64(0.5)}]}

    wanted = r"state of callback 'Odd' cannot be saved: a numpy\.float64 at 'auc' at 'best' must be"
    with pytest.raises(ValueError, match=wanted):
        train(config_of(tmp_path, faces), callbacks=[Odd()])


def test_states_go_to_the_callbacks_that_they_came_from(tmp_path: Path, faces: Path) -> None:
    class Counter(Callback):
        def __init__(self, count: int = 0) -> None:
            self.count = count

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    config = config_of(tmp_path, faces)
    train(config, callbacks=[Counter(3), Counter(4)])
    first, second = Counter(), Counter()
    train(config, resume=True, callbacks=[first, Callback(), second])
    assert (first.count, second.count) == (3, 4)
    trainer = Trainer(config, Processes(0, 1, torch.device("cpu")), resume=True, overwrite=False)
    assert "the state of callback 'Counter 2' is dropped" in " ".join(trainer.notes)
    trainer.run()

    class Broken(Counter):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise TypeError("no")

    Broken.__name__ = "Counter"
    train(config, resume=True, callbacks=[Counter(5)])
    with pytest.raises(ValueError, match="cannot resume: callback 'Counter' failed in load_state"):
        train(config, resume=True, callbacks=[Broken()])


@pytest.fixture
def registered() -> list[Diary]:
    made: list[Diary] = []

    @register_callback("diary")
    def diary(*, at: str = "", does: str = "") -> Diary:
        made.append(Diary(at, does=does))
        return made[-1]

    return made


def test_callbacks_of_the_configuration(
    tmp_path: Path, faces: Path, registered: list[Diary]
) -> None:
    entries = [{"name": "diary"}, {"name": "diary", "options": {"at": "epoch 3", "does": "stop"}}]
    config = config_of(tmp_path, faces, callbacks=entries)
    assert train(config).summary["stopped"] == "enough at epoch 3"
    assert [diary.calls for diary in registered] == [[*WHOLE[:7], "end 3"]] * 2
    saved = load_config(config.run_dir / "config.yaml", ["--callbacks", "[{name: diary}]"])
    assert train(saved, resume=True).summary["steps"] == 6


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([{"name": "dairy"}], "unknown callback 'dairy'; did you mean diary?"),
        ([{"name": "diary", "options": {"a": 1}}], "callback 'diary' has no option 'a'; its"),
        ([{"name": "diary", "options": {"at": 1}}], "option at of callback 'diary' is 1; it must"),
        ([{"name": "diary", "option": {}}], "unknown field callbacks.0.option"),
        (["diary"], "callbacks.0 is 'diary'; it must be a section"),
        ({"name": "diary"}, "callbacks is {'name': 'diary'}; it must be a valid list"),
    ],
)
def test_a_wrong_callback_is_named_before_images_are_looked_for(
    tmp_path: Path,
    registered: list[Diary],
    monkeypatch: pytest.MonkeyPatch,
    callbacks: Any,
    message: str,
) -> None:
    monkeypatch.setattr(assembly, "make_sources", None)
    with pytest.raises(ValueError) as error:
        train(config_of(tmp_path, tmp_path / "nowhere", callbacks=callbacks))
    assert message in str(error.value)


def test_a_class_is_no_callback() -> None:
    one = Processes(0, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match="callback 'Diary' must be an instance of Callback"):
        Callbacks([], [Diary], one)  # type: ignore[list-item]


def _on_rank(rank: int, run_dir: Path, faces: Path, at: str, does: str) -> tuple[str, list[str]]:
    """Trains on two ranks with a diary that acts on rank 1 only; returns how that ended."""
    register_tiny()
    config = make_config(run_dir, faces, **CHANGES)
    processes = Processes(rank, 2, torch.device("cpu"))
    diary = Diary(at, does=does if rank == 1 else "")
    given: list[Callback] = [diary]
    if does == "differ" and rank == 1:
        given = []
    try:
        trainer = Trainer(config, processes, resume=False, overwrite=False, callbacks=given)
        result = trainer.run()
    except ValueError as error:
        return str(error), diary.calls
    assert result.best is None or result.best["step"] in (3, 6)
    return f"{result.summary['stopped']}, best {result.best is not None}", diary.calls


@pytest.mark.distributed
@pytest.mark.parametrize(("at", "last"), [("step 1", 2), ("validation 3", 3), ("epoch 3", 3)])
def test_one_rank_that_asks_to_stop_stops_all_in_the_same_step(
    pool: Pool, tmp_path: Path, faces: Path, at: str, last: int
) -> None:
    answers = pool.run(_on_rank, tmp_path / "run", faces, at, "stop")
    calls = answers[0][1]
    assert [answer for answer, _ in answers] == [f"enough at {at}, best {last > 2}"] * 2
    assert answers[1][1] == calls
    assert calls[-1] == f"end {last}"


@pytest.mark.distributed
@pytest.mark.parametrize("at", ["start 0", "step 2", "step 3", "validation 3", "save 3"])
def test_a_callback_that_fails_on_one_rank_ends_every_rank(
    pool: Pool, tmp_path: Path, faces: Path, at: str
) -> None:
    main, other = pool.run(_on_rank, tmp_path / "run", faces, at, "fail")
    assert main[0].startswith("rank 1: callback 'Diary' failed in on_")
    assert other[0] == main[0].removeprefix("rank 1: ")
    assert saved_states(tmp_path / "run")


@pytest.mark.distributed
def test_ranks_with_other_callbacks_are_refused(pool: Pool, tmp_path: Path, faces: Path) -> None:
    answers = pool.run(_on_rank, tmp_path / "run", faces, "", "differ")
    for answer, _ in answers:
        assert answer.endswith("got ['Diary'] on rank 0 and [] on rank 1")
