"""What is not finite is never kept, and a message says what to do about it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from centerarc.distributed import Processes
from centerarc.training import Trainer, train
from centerarc.training.callbacks import Callback
from centerarc.training.checkpoint import load_state
from centerarc.training.step import Diverged
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny

ADAMW = {"optimizer": {"name": "adamw", "lr": 0.001}}


def _kept(trainer: Trainer, name: str, key: str) -> torch.Tensor:
    """What an optimizer keeps of a parameter."""
    for module in (trainer.model, trainer.criterion, trainer.terms):
        for found, parameter in module.named_parameters():
            for optimizer in trainer.optimizers:
                if found == name and parameter in optimizer.state:
                    kept: torch.Tensor = optimizer.state[parameter][key]
                    return kept
    raise KeyError(name)


def _spoil_average(trainer: Trainer) -> torch.Tensor:
    tensor: torch.Tensor = trainer.judged.state_dict()["layers.5.weight"]
    return tensor


class Spoiling(Callback):
    """Puts a NaN or an infinity into a tensor of a run after a step."""

    def __init__(
        self,
        step: int,
        tensor: Callable[[Trainer], torch.Tensor],
        value: float = math.nan,
        rank: int = 0,
    ) -> None:
        self.step, self.tensor, self.value, self.rank = step, tensor, value, rank

    def on_step_end(self, trainer: Trainer, row: dict[str, Any] | None) -> None:
        if trainer.step == self.step and trainer.processes.rank == self.rank:
            with torch.no_grad():
                tensor = self.tensor(trainer)
                tensor[(-1,) * tensor.dim()] = self.value


SPOILT: dict[str, tuple[str, Callable[[Trainer], torch.Tensor], dict[str, Any]]] = {
    "weights": ("layers.0.weight", lambda t: t.model.state_dict()["layers.0.weight"], {}),
    "statistics": (
        "layers.1.running_var",
        lambda t: t.model.state_dict()["layers.1.running_var"],
        {},
    ),
    "prototypes": ("arcface.prototypes", lambda t: t.criterion.arcface.prototypes, {}),
    "centers": (
        "center.centers",
        lambda t: t.criterion.state_dict()["center.centers"],
        {"loss": {"centers": "mean"}},
    ),
    "terms": (
        "threshold_weight.norms",
        lambda t: t.terms.threshold_weight.norms,
        {"loss": {"threshold_weight": "auto", "threshold_over": "centers"}},
    ),
    "average": ("the average of layers.5.weight", _spoil_average, {"ema_decay": 0.9}),
    "momentum": (
        "momentum_buffer of layers.0.weight",
        lambda t: _kept(t, "layers.0.weight", "momentum_buffer"),
        {},
    ),
    "momentum of prototypes": (
        "momentum_buffer of arcface.prototypes",
        lambda t: _kept(t, "arcface.prototypes", "momentum_buffer"),
        {},
    ),
    "moments": (
        "exp_avg_sq of arcface.prototypes",
        lambda t: _kept(t, "arcface.prototypes", "exp_avg_sq"),
        ADAMW,
    ),
    "moments of the backbone": (
        "exp_avg of layers.0.bias",
        lambda t: _kept(t, "layers.0.bias", "exp_avg"),
        ADAMW,
    ),
}


@pytest.mark.parametrize("step", [8, 12])
@pytest.mark.parametrize("kind", SPOILT)
def test_nothing_that_is_not_finite_is_kept(
    tmp_path: Path, faces: Path, kind: str, step: int
) -> None:
    """At the end of the second epoch of three, and in the last step of the run."""
    name, tensor, changes = SPOILT[kind]
    spoiling = Spoiling(step, tensor, math.inf if kind == "moments" else math.nan)
    config = make_config(tmp_path / "run", faces, **changes)
    with pytest.raises(ValueError, match="the training diverges") as error:
        train(config, callbacks=[spoiling])
    assert str(error.value).startswith(f"step {step}: the weights are not finite ({name}) at a")
    assert load_state(tmp_path / "run").content["step"] == step - 4
    assert not (tmp_path / "run" / "last.safetensors").exists()
    listed = (tmp_path / "run" / "nonfinite" / f"step-{step}.txt").read_text().splitlines()
    first = ", ".join(map(repr, listed[:3]))
    assert f", with {first} and 5 more (all are in " in str(error.value)
    assert len(listed) == 8


def test_the_listed_images_are_those_of_the_batch(tmp_path: Path, faces: Path) -> None:
    spoiling = Spoiling(7, lambda t: t.criterion.arcface.prototypes)
    config = make_config(tmp_path / "run", faces, save_every=1)
    trainer = Trainer(
        config,
        Processes(0, 1, torch.device("cpu")),
        resume=False,
        overwrite=False,
        callbacks=[spoiling],
    )
    seen: list[list[str]] = []
    loader = trainer.parts.loader
    for epoch in range(2):
        loader.set_epoch(epoch)
        people = trainer.parts.sources.train.identities
        seen += [[people[label] for label in labels.tolist()] for _, labels in loader]
    with pytest.raises(ValueError, match="step 7: the weights are not finite"):
        trainer.run()
    listed = (tmp_path / "run" / "nonfinite" / "step-7.txt").read_text().splitlines()
    assert [place.split("/")[-2] for place in listed] == seen[6]


@pytest.mark.parametrize("scale", [0.0, math.inf, math.nan, 2.0**-30])
def test_a_scale_that_collapsed_is_not_kept(tmp_path: Path, faces: Path, scale: float) -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(make_config(tmp_path, faces), alone, resume=False, overwrite=True)
    trainer.parts.check_finite(alone)
    trainer.parts.precision.scaler = GradScaler("cpu", init_scale=2.0**-24)
    trainer.parts.check_finite(alone)
    trainer.parts.precision.scaler = GradScaler("cpu", init_scale=scale)
    with pytest.raises(Diverged, match="the scale of the gradients is"):
        trainer.parts.check_finite(alone)


def _spoil_on_rank(rank: int, run_dir: Path, faces: Path, kind: str) -> str:
    register_tiny()
    name, tensor, changes = SPOILT[kind]
    trainer = Trainer(
        make_config(run_dir, faces, **changes),
        Processes(rank, 2, torch.device("cpu")),
        resume=False,
        overwrite=False,
        callbacks=[Spoiling(8, tensor, rank=1)],
    )
    with pytest.raises(ValueError, match=r"^step 8: the weights are not finite") as error:
        trainer.run()
    assert f"({name})" in str(error.value)
    return str(error.value)


@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["prototypes", "momentum of prototypes", "moments", "average"])
def test_one_rank_that_is_not_finite_keeps_all_from_saving(
    pool: Pool, tmp_path: Path, faces: Path, kind: str
) -> None:
    first, other = pool.run(_spoil_on_rank, tmp_path / "run", faces, kind)
    images = first[first.index(", with") : first.index("; the")]
    assert first.replace(images, "") == f"{other}; --resume starts from step 4"
    assert load_state(tmp_path / "run").content["step"] == 4


def _spoil_images(rank: int, run_dir: Path, faces: Path) -> str:
    register_tiny()
    config = make_config(run_dir, faces)
    trainer = Trainer(
        config, Processes(rank, 2, torch.device("cpu")), resume=False, overwrite=False
    )
    if rank == 1:
        calls: list[None] = []

        def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            calls.append(None)
            return output * math.nan if len(calls) == 6 else output

        trainer.model.register_forward_hook(spoil)
    with pytest.raises(ValueError, match="the training diverges") as error:
        trainer.run()
    return str(error.value)


@pytest.mark.distributed
def test_all_ranks_end_where_the_embeddings_of_one_are_not_finite(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    for told in pool.run(_spoil_images, tmp_path / "run", faces):
        assert told.startswith("step 6: the embeddings are not finite at a learning rate of")
    assert load_state(tmp_path / "run").content["step"] == 4
    assert not list((tmp_path / "run").glob("*.safetensors"))
