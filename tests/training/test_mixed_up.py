"""What a run must not take for its own: old results, another run's state, shared memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from centerarc.models import backbone as registry
from centerarc.training import Callback, TrainConfig, Trainer, check_config, loop, run, train
from centerarc.training.checkpoint import load_state, saved_states
from tests.training.helpers import Tiny, make_config, same_bits


class Killed(BaseException):
    """Stands for a kill: nothing of the product's catches it."""


class KilledAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, row: Any) -> None:
        if trainer.step == self.step:
            trainer.states.wait()
            raise Killed


def killed(config: TrainConfig, step: int, **how: Any) -> None:
    with pytest.raises(Killed):
        train(config, callbacks=[KilledAt(step)], **how)


def test_results_of_before_are_not_those_of_a_resumed_run(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = make_config(tmp_path / "run", faces, schedule={"epochs": 1})
    longer = make_config(tmp_path / "run", faces, schedule={"epochs": 2})
    train(short)
    finish = loop.Trainer._finish

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(loop.Trainer, "_finish", kill)
    with pytest.raises(Killed):
        train(longer, resume=True)
    assert not (tmp_path / "run/results.json").exists()
    monkeypatch.setattr(loop.Trainer, "_finish", finish)
    steps = load_state(tmp_path / "run").content["step"]
    assert train(longer, resume=True).summary["steps"] == steps
    assert json.loads((tmp_path / "run/results.json").read_text())["steps"] == steps


def test_a_state_that_another_process_replaced_meanwhile_is_not_resumed(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "run", faces, save_every=1)
    other = make_config(tmp_path / "run", faces, save_every=1, seed=5)
    killed(config, 3)
    make_parts = run.make_parts

    def slow(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(run, "make_parts", make_parts)
        killed(other, 3, overwrite=True)
        return make_parts(*arguments, **named)

    monkeypatch.setattr(run, "make_parts", slow)
    with pytest.raises(ValueError, match="where another process trained meanwhile"):
        train(config, resume=True)
    assert load_state(tmp_path / "run").content["settings"]["seed"] == 5
    assert not [path for path in (tmp_path / "run/state").iterdir() if "damaged" in path.name]
    assert len(saved_states(tmp_path / "run")) == 2


class Versioned(nn.Module):
    """A scale that version 1 kept as its logarithm."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((8,), 2.0))

    def _load_from_state_dict(self, state: Any, prefix: str, meta: Any, *rest: Any) -> None:
        if (meta.get("version") or 1) < 2:
            state[prefix + "scale"] = state[prefix + "scale"].exp()
        super()._load_from_state_dict(state, prefix, meta, *rest)


class Odd(Tiny):
    """What users' backbones do: versions, buffers that are replaced, masks, tied weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.versioned = Versioned()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("large", torch.full((4,), 1e300, dtype=torch.float64))
        self.register_buffer("halves", torch.ones(70_000, dtype=torch.float16))
        self.tied = nn.Linear(1, 1)
        self.tied.weight = self.versioned.scale

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + 1
        return super().forward(images) * self.versioned.scale


@pytest.fixture
def odd(tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(registry._BUILDERS, "odd", Odd)
    content = make_config(tmp_path / "run", faces, save_every=1, ema_decay=0.5).model_dump()
    content["model"]["name"] = "odd"
    return content


def test_an_odd_backbone_ends_with_the_bits_of_the_undisturbed_run(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    whole = check_config({**odd, "run_dir": str(tmp_path / "whole")})
    train(whole)
    config = check_config(odd)
    killed(config, 3)
    train(config, resume=True)
    assert same_bits(tmp_path / "run/last.safetensors", tmp_path / "whole/last.safetensors")


def test_a_buffer_that_is_replaced_is_averaged(odd: dict[str, Any]) -> None:
    seen = []

    class Last(Callback):
        def on_step_end(self, trainer: Trainer, row: Any) -> None:
            seen.append((float(trainer.model.seen), float(trainer.judged.seen)))

    train(check_config(odd), callbacks=[Last()])
    average = 0.0
    for step, (now, averaged) in enumerate(seen):
        assert now == step + 1
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * now
        assert averaged == pytest.approx(average, rel=1e-5)


def test_a_skipped_step_before_a_row_can_be_resumed(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(Odd):
        def forward(self, images: Tensor) -> Tensor:
            out = super().forward(images)
            return out * float("nan") if self.training and float(self.seen) == 4 else out

    monkeypatch.setitem(registry._BUILDERS, "poisoned", Poisoned)
    content = make_config(
        tmp_path / "run", faces, save_every=1, on_nonfinite="skip", schedule={"epochs": 1}
    ).model_dump()
    content["model"]["name"] = "poisoned"
    content["log"]["every"] = 4
    content["nonfinite_budget"] = 1
    config = check_config(content)
    killed(config, 3)
    # The skip puts the buffer back that says how many steps there were: the step is skipped once.
    state = load_state(tmp_path / "run").content
    assert float(state["model"]["seen"]) in (2, 3)
    train(config, resume=True)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows if row.get("kind") == "nonfinite"] == ["nonfinite"]
    assert any("center_weight" in row or "arcface_loss" in row for row in rows)
