"""Steps that are left out, and runs that go back with a lower learning rate."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from centerarc.distributed import Processes
from centerarc.training import Trainer, train
from centerarc.training.callbacks import Callback
from centerarc.training.checkpoint import load_state
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny, same_bits, whole_criterion

# The rate of a step does not depend on the length of the run.
STEADY = {"schedule": {"epochs": 3, "warmup_epochs": 0, "power": 1e-30}}
PLAIN: dict[str, Any] = {"optimizer": {"lr": 0.05}, **STEADY}
ADAMW = {**PLAIN, "optimizer": {"name": "adamw", "lr": 0.002}}
KINDS = ["embeddings", "loss", "gradient", "head gradient"]


class Poison(Callback):
    """Makes numbers of some steps infinite or NaN, on one rank, while the rate is not lowered."""

    def __init__(
        self, kind: str, steps: tuple[int, ...], *, rank: int = 0, rates: tuple[float, ...] = (1.0,)
    ) -> None:
        self.kind, self.steps, self.rank, self.rates = kind, steps, rank, rates
        self.states: dict[int, dict[str, Tensor]] = {}
        self._trainer: Trainer | None = None

    def on_train_start(self, trainer: Trainer) -> None:
        if self._trainer is not None or trainer.processes.rank != self.rank:
            return
        self._trainer = trainer
        layer, head = next(trainer.model.parameters()), trainer.criterion.arcface.prototypes
        if self.kind == "embeddings":
            trainer.model.register_forward_hook(lambda m, inputs, out: self._spoilt(out))
        elif self.kind == "loss":
            trainer.criterion.register_forward_hook(
                lambda m, inputs, out: (self._spoilt(out[0]), out[1])
            )
        else:
            parameter = layer if self.kind == "gradient" else head
            parameter.register_hook(self._spoilt)

    def _spoilt(self, tensor: Tensor) -> Tensor:
        trainer = self._trainer
        assert trainer is not None
        training = torch.is_grad_enabled() or "gradient" in self.kind
        if training and trainer.step + 1 in self.steps and trainer.setbacks.rate in self.rates:
            return tensor * (math.inf if self.kind == "loss" else math.nan)
        return tensor

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        self.states[trainer.step] = everything(trainer)


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of all that a step may change."""
    found: dict[str, Tensor] = {}
    average = trainer.parts.average
    for part, module in enumerate((trainer.model, trainer.criterion, trainer.terms)):
        found |= {f"{part} {name}": tensor for name, tensor in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            for optimizer in trainer.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    found[f"{part} {name} {key}"] = value
    if average is not None:
        found |= {f"average {name}": t for name, t in average.module.state_dict().items()}
        found["average"] = torch.tensor(average.steps)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def _same_runs(one: Path, other: Path) -> None:
    """Asserts that two runs ended with the same bits."""
    assert same_bits(one / "last.safetensors", other / "last.safetensors")
    criterion = whole_criterion(other)
    for name, tensor in whole_criterion(one).items():
        assert torch.equal(tensor, criterion[name]), name


LOSS = {"centers": "mean", "threshold_weight": "auto", "threshold_over": "both"}
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {**PLAIN, "clip_norm": 5.0, "ema_decay": 0.9},
    "accumulated": {**PLAIN, "accumulate": 2, "loss": {"centers": "separate"}},
    "terms": {**PLAIN, "loss": {**LOSS, "threshold_memory": 10, "ramp_steps": 9}},
    "margin": {**PLAIN, "loss": {"margin": "curricularface"}, "ema_decay": 0.9},
    "drawn": {**PLAIN, "loss": {"margin": "elastic_arcface", "separation_weight": 0.5}},
    "adamw": {**ADAMW, "clip_norm": 5.0, "accumulate": 2, "loss": {"centers": "mean"}},
    "adaface": {**ADAMW, "loss": {"margin": "adaface"}},
}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        *(("plain", kind) for kind in KINDS),
        ("accumulated", "embeddings"),
        ("terms", "loss"),
        ("terms", "gradient"),
        ("margin", "head gradient"),
        ("drawn", "gradient"),
        ("adamw", "embeddings"),
        ("adamw", "gradient"),
        ("adaface", "loss"),
    ],
)
def test_a_skipped_step_changes_nothing(
    tmp_path: Path, faces: Path, changes: str, kind: str
) -> None:
    """In the first step, in the middle and in the last: the bits are those before the step."""
    poison = Poison(kind, (1, 6, 7, 12))
    config = make_config(tmp_path / "run", faces, **CHANGES[changes], on_nonfinite="skip")
    result = train(config, callbacks=[poison])
    states = poison.states
    assert sorted(states) == list(range(1, 13))
    for step in (6, 7, 12):
        assert _same(states[step], states[step - 1])
    for step in (2, 3, 4, 5, 8, 9, 10, 11):
        assert not _same(states[step], states[step - 1])
    events = result.summary["nonfinite"]
    assert [(e["step"], e["action"]) for e in events] == [(s, "skip") for s in (1, 6, 7, 12)]
    rows = _rows(tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "nonfinite"] == [1, 6, 7, 12]
    trained = [row["step"] for row in rows if row["kind"] == "train"]
    assert trained == [2, 3, 4, 5, 8, 9, 10, 11]
    assert len((tmp_path / "run/nonfinite/step-6.txt").read_text().splitlines()) == 8


def test_a_first_step_that_is_skipped_is_as_if_there_was_none(tmp_path: Path, faces: Path) -> None:
    states = []
    for kind in KINDS:
        poison = Poison(kind, (1,))
        config = make_config(tmp_path / kind, faces, **PLAIN, on_nonfinite="skip", save_every=1)
        train(config, callbacks=[poison])
        states.append(poison.states)
    assert all(_same(states[0][step], other[step]) for other in states for step in (1, 2, 12))


@pytest.mark.parametrize("every", [1, 5])
def test_a_run_with_skips_resumes_to_the_same_bits(
    tmp_path: Path, faces: Path, every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {**CHANGES["plain"], "on_nonfinite": "skip", "log": {"every": every}}
    train(make_config(tmp_path / "whole", faces, **changes), callbacks=[Poison("loss", (3, 6, 9))])
    assert (said := " ".join(capsys.readouterr().err.split())).count("; skipped, ") == 3
    assert "step 6: the loss is not finite (arcface inf, center" in said
    assert "; skipped, 2 of 10 times" in said
    for cut in (5, 6, 7):  # the step before, that of the skip, and the one after
        run = tmp_path / str(cut)
        steps = {**STEADY["schedule"], "max_steps": cut}
        for schedule, resume in ((steps, False), (STEADY["schedule"], True)):
            poison = Poison("loss", (3, 6, 9))
            config = make_config(run, faces, **{**changes, "schedule": schedule})
            train(config, callbacks=[poison], resume=resume)
        _same_runs(tmp_path / "whole", run)
        if every == 1:
            assert _rows(run) == _rows(tmp_path / "whole")


@pytest.mark.parametrize("policy", ["skip", "rewind"])
@pytest.mark.parametrize("kind", ["embeddings", "gradient"])
def test_the_budget_ends_a_run_and_names_the_images(
    tmp_path: Path, faces: Path, policy: str, kind: str
) -> None:
    poison = Poison(kind, (6, 7, 8), rates=(1.0, 0.25, 0.0625, 0.015625))
    more = {"rewind_factor": 0.25} if policy == "rewind" else {}
    config = make_config(
        tmp_path, faces, **PLAIN, on_nonfinite=policy, nonfinite_budget=2, save_every=1, **more
    )
    with pytest.raises(ValueError, match="and nonfinite_budget, 2, is spent at a") as error:
        train(config, callbacks=[poison], overwrite=True)
    step, lr = (8, "0.05") if policy == "skip" else (6, "0.00313")
    assert str(error.value).startswith(f"step {step}: the ")
    assert f"at a learning rate of {lr}, with 'P0" in str(error.value)
    assert f"nonfinite/step-{step}.txt" in str(error.value)
    assert load_state(tmp_path).content["step"] == (7 if policy == "skip" else 5)
    if policy == "rewind":
        (*_, last) = (row for row in _rows(tmp_path) if row["kind"] == "nonfinite")
        assert last == {
            **{"kind": "nonfinite", "step": 4, "action": "rewind", "from_step": 6},
            **{"reason": last["reason"], "rate": 0.0625},
        }
    # A larger budget is enough to go on.
    config = make_config(
        tmp_path, faces, **PLAIN, on_nonfinite=policy, nonfinite_budget=4, save_every=1, **more
    )
    poison = Poison(kind, (6, 7, 8), rates=(1.0, 0.25, 0.0625, 0.015625)[: None if more else 1])
    result = train(config, callbacks=[poison], resume=policy == "skip", overwrite=bool(more))
    assert len(result.summary["nonfinite"]) == (3 if policy == "skip" else 4)
    assert result.summary["steps"] == 12


def _by_hand(run: Path, faces: Path, changes: dict[str, Any], step: int, factor: float) -> None:
    """A run to a step, resumed with another learning rate."""
    optimizer = changes["optimizer"]
    lowered = {**changes, "optimizer": {**optimizer, "lr": optimizer["lr"] * factor}}
    if step:
        short = {**changes["schedule"], "max_steps": step}
        train(make_config(run, faces, **{**changes, "schedule": short}))
    train(make_config(run, faces, **lowered), resume=step > 0)


@pytest.mark.parametrize(
    ("changes", "kind", "at", "back"),
    [
        ("plain", "embeddings", 7, 6),
        ("accumulated", "loss", 6, 5),
        ("terms", "gradient", 12, 11),
        ("adamw", "head gradient", 7, 6),
        ("margin", "gradient", 1, 0),
        ("adamw", "embeddings", 1, 0),
        ("plain", "loss", 2, 1),
    ],
)
def test_a_rewind_equals_a_resume_by_hand_with_the_lower_rate(
    tmp_path: Path, faces: Path, changes: str, kind: str, at: int, back: int
) -> None:
    content = {**CHANGES[changes], "workers": int(at == 7)}
    config = make_config(
        tmp_path / "run",
        faces,
        **content,
        on_nonfinite="rewind",
        rewind_factor=0.3,
        save_every=1 if at != 1 else 0,
    )
    result = train(config, callbacks=[Poison(kind, (at,))])
    _by_hand(tmp_path / "hand", faces, content, back, 0.3)
    _same_runs(tmp_path / "run", tmp_path / "hand")
    rows = _rows(tmp_path / "run")
    (event,) = (row for row in rows if row["kind"] == "nonfinite")
    assert {k: v for k, v in event.items() if k != "kind"} == result.summary["nonfinite"][0]
    assert (event["step"], event["from_step"], event["rate"]) == (back, at, 0.3)
    trained = [row for row in rows if row["kind"] == "train"]
    assert trained == [row for row in _rows(tmp_path / "hand") if row["kind"] == "train"]


def test_a_run_with_rewinds_resumes_to_the_same_bits(
    tmp_path: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut before, between and after two rewinds, of which the second halves the rate again."""
    changes = {**CHANGES["plain"], "on_nonfinite": "rewind", "save_every": 3}
    changes["validation"] = {"identities": 2, "num_pairs": 20}

    def poisons() -> list[Callback]:
        return [Poison("loss", (5,)), Poison("gradient", (8,), rates=(0.5,))]

    result = train(make_config(tmp_path / "whole", faces, **changes), callbacks=poisons())
    assert [event["rate"] for event in result.summary["nonfinite"]] == [0.5, 0.25]
    assert capsys.readouterr().err.count("rewound to step") == 2
    steps = result.summary["steps"]
    for cut in (4, 6, 7):
        run = tmp_path / str(cut)
        short = {**STEADY["schedule"], "max_steps": cut}
        for schedule, resume in ((short, False), (STEADY["schedule"], True)):
            config = make_config(run, faces, **{**changes, "schedule": schedule})
            result = train(config, callbacks=poisons(), resume=resume)
        assert result.summary["steps"] == steps
    # Killed after the state that says so was written, and before anything else.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed/results.json").unlink()
    (tmp_path / "killed/last.safetensors").unlink()
    killed = {**changes, "schedule": STEADY["schedule"]}
    train(make_config(tmp_path / "killed", faces, **killed), callbacks=poisons(), resume=True)
    _same_runs(tmp_path / "whole", tmp_path / "killed")
    assert _rows(tmp_path / "killed") == _rows(tmp_path / "whole")
    assert "the learning rate is 0.25 times that of the settings" in capsys.readouterr().err
    # A rate that is asked for is not lowered further.
    longer = {**changes, "schedule": {**STEADY["schedule"], "epochs": 4}, "optimizer": {"lr": 0.01}}
    train(make_config(tmp_path / "killed", faces, **longer), resume=True)
    assert _rows(tmp_path / "killed")[-2]["lr"] == pytest.approx(0.01)


class Blowing(Callback):
    """Makes the backbone's weights much larger after a step, as a far too high rate does."""

    def __init__(self, step: int, factor: float = 1e4) -> None:
        self.step, self.factor = step, factor

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        if trainer.step == self.step and trainer.setbacks.rate == 1.0:
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter *= self.factor


def test_states_that_are_of_no_use_do_not_replace_the_last_that_is(
    tmp_path: Path, faces: Path
) -> None:
    """Finite, but so large that no lower rate moves them; nothing says so before the loss is."""
    run = tmp_path / "run"
    config = make_config(run, faces, **PLAIN, save_every=2)
    with pytest.raises(ValueError, match=r"^step 11: the loss is .*; --resume starts from step 4$"):
        train(config, callbacks=[Blowing(5), Poison("loss", (11,))])
    assert load_state(run).content["step"] == 4
    whole = tmp_path / "whole"
    train(make_config(whole, faces, **PLAIN, save_every=2))
    train(config, resume=True)
    _same_runs(run, whole)
    assert len(list((run / "state").iterdir())) == 2
    # A rewind goes there at once.
    config = make_config(run, faces, **PLAIN, save_every=2, on_nonfinite="rewind")
    result = train(config, callbacks=[Blowing(5), Poison("loss", (11,))], overwrite=True)
    (event,) = result.summary["nonfinite"]
    assert (event["step"], event["from_step"]) == (4, 11)
    _by_hand(tmp_path / "hand", faces, PLAIN, 4, 0.5)
    _same_runs(run, tmp_path / "hand")


def test_a_second_rewind_from_a_state_goes_to_an_earlier_one(tmp_path: Path, faces: Path) -> None:
    run, poison = tmp_path / "run", Poison("loss", (8,), rates=(1.0, 0.5))
    content = {**PLAIN, "save_every": 3}
    result = train(make_config(run, faces, **content, on_nonfinite="rewind"), callbacks=[poison])
    events = result.summary["nonfinite"]
    assert [(event["step"], event["rate"]) for event in events] == [(6, 0.5), (4, 0.25)]
    _by_hand(tmp_path / "hand", faces, PLAIN, 4, 0.25)
    _same_runs(run, tmp_path / "hand")


def test_a_run_without_a_state_of_use_says_so(tmp_path: Path, faces: Path) -> None:
    wild = {**STEADY, "optimizer": {"lr": 1e6}, "model": {"options": {"norm": False}}}
    config = make_config(tmp_path / "run", faces, **wild, save_every=1)
    with pytest.raises(ValueError, match=r"are of no use either: start again with --overwrite$"):
        train(config)


def test_weights_that_cannot_be_validated_are_no_state_to_resume(
    tmp_path: Path, faces: Path
) -> None:
    class Hiding(Callback):
        """Spoils what only a validation looks at."""

        def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
            if trainer.step == 6 and trainer.setbacks.rate == 1.0:
                trainer.model.state_dict()["layers.1.running_var"].fill_(-1.0)

    content = {**PLAIN, "validation": {"identities": 2, "num_pairs": 20}}
    config = make_config(tmp_path / "run", faces, **content)
    with pytest.raises(ValueError, match=r"^step 6: validation after epoch 2: .*from step 3$"):
        train(config, callbacks=[Hiding()])
    assert load_state(tmp_path / "run").content["step"] == 3
    config = make_config(tmp_path / "run", faces, **content, on_nonfinite="rewind")
    result = train(config, callbacks=[Hiding()], overwrite=True)
    (event,) = result.summary["nonfinite"]
    assert (event["step"], event["from_step"]) == (3, 6)
    assert result.best is not None


def test_a_fused_step_rewinds_and_is_not_skipped(tmp_path: Path, faces: Path) -> None:
    changes = {**PLAIN, "head": {"fused": True}}
    with pytest.raises(ValueError, match=r"head.fused is true and on_nonfinite is skip; a fused"):
        make_config(tmp_path / "run", faces, **changes, on_nonfinite="skip")
    config = make_config(tmp_path / "run", faces, **changes, on_nonfinite="rewind", save_every=1)
    train(config, callbacks=[Poison("loss", (7,))])
    _by_hand(tmp_path / "hand", faces, changes, 6, 0.5)
    _same_runs(tmp_path / "run", tmp_path / "hand")


def _on_rank(
    rank: int, run: Path, faces: Path, changes: dict[str, Any], kind: str, resume: bool
) -> str:
    register_tiny()
    config = make_config(run, faces, **changes)
    processes = Processes(rank, 2, torch.device("cpu"))
    poison = Poison(kind, (3, 6), rank=1)
    callbacks = [poison] if kind else []
    trainer = Trainer(config, processes, resume=resume, overwrite=False, callbacks=callbacks)
    trainer.run()
    if kind and rank == 1 and config.on_nonfinite == "skip":
        assert _same(poison.states[3], poison.states[2])
        assert _same(poison.states[6], poison.states[5])
        assert not _same(poison.states[7], poison.states[6])
    return "done"


RANKED = [
    ("plain", True, "embeddings"),
    ("adamw", True, "head gradient"),
    ("accumulated", False, "loss"),
    ("terms", True, "gradient"),
]


@pytest.mark.distributed
@pytest.mark.parametrize(("changes", "sharded", "kind"), RANKED)
def test_ranks_skip_and_rewind_together(
    pool: Pool, tmp_path: Path, faces: Path, changes: str, sharded: bool, kind: str
) -> None:
    """One rank alone is poisoned; all leave out the step, or all go back."""
    schedule = {**STEADY["schedule"], "epochs": 2}
    content = {**CHANGES[changes], "head": {"sharded": sharded}, "schedule": schedule}
    skipping = {**content, "on_nonfinite": "skip"}
    run = tmp_path / "skip"
    assert pool.run(_on_rank, run, faces, skipping, kind, False) == ["done"] * 2
    assert [row["step"] for row in _rows(run) if row["kind"] == "nonfinite"] == [3, 6]
    run = tmp_path / "rewind"
    rewinding = {**content, "on_nonfinite": "rewind", "save_every": 5}
    assert pool.run(_on_rank, run, faces, rewinding, kind, False) == ["done"] * 2
    (event,) = (row for row in _rows(run) if row["kind"] == "nonfinite")
    assert (event["step"], event["from_step"]) == (0, 3)
    optimizer = {**content["optimizer"], "lr": content["optimizer"]["lr"] * 0.5}
    lowered = {**content, "optimizer": optimizer}
    assert pool.run(_on_rank, tmp_path / "hand", faces, lowered, "", False) == ["done"] * 2
    _same_runs(run, tmp_path / "hand")
