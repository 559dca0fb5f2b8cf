"""The running average of the weights: its numbers, and what a run does with it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from centerarc.distributed import Processes
from centerarc.models.weights import read_metadata
from centerarc.training import Trainer, check_config, step, train, validation
from centerarc.training.checkpoint import load_state
from centerarc.training.optimizer import WeightAverage
from tests.distributed.pool import Pool
from tests.training.helpers import make_config, register_tiny

DECAY = 0.4  # some of the first steps have less
VALIDATION = {"identities": 2, "num_pairs": 20}
Weights = dict[str, Tensor]


def _copied(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _expected(history: list[Weights], decay: float) -> dict[str, npt.NDArray[np.float64]]:
    """The formula in float64; `history` begins with the weights before the first step."""
    average = {name: tensor.double().numpy() for name, tensor in history[0].items()}
    for t, after in enumerate(history[1:]):
        d = min(decay, (1 + t) / (10 + t))
        for name, tensor in after.items():
            average[name] = d * average[name] + (1 - d) * tensor.double().numpy()
    return average


def _check(found: Weights, history: list[Weights], decay: float) -> None:
    for name, values in _expected(history, decay).items():
        if found[name].is_floating_point():
            np.testing.assert_allclose(found[name].numpy(), values, rtol=1e-5, atol=1e-6)
        else:  # a count is copied
            assert torch.equal(found[name], history[-1][name])


def _trained(decay: float, steps: int) -> tuple[WeightAverage, list[Weights]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.PReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    average = WeightAverage(model, optimizer, decay)
    history = [_copied(model)]
    for _ in range(steps):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(_copied(model))
    return average, history


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_the_average_is_the_formula_in_float64(decay: float) -> None:
    average, history = _trained(decay, 40)
    assert average.steps == 40
    _check(average.module.state_dict(), history, decay)


def test_a_step_that_is_not_taken_does_not_count() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = WeightAverage(model, optimizer, 0.9)
    scaler = GradScaler("cpu")
    history = [_copied(model)]
    for scale in (1.0, float("inf"), 1.0):
        scaler.scale(model(torch.ones(4, 2)).sum() * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if scale == 1.0:
            history.append(_copied(model))
    assert average.steps == 2
    _check(average.module.state_dict(), history, 0.9)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_averages_nothing_is_refused(decay: float) -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got"):
        WeightAverage(model, torch.optim.SGD(model.parameters()), decay)
    with pytest.raises(ValueError, match=r"ema_decay is .*; it must be"):
        check_config({"run_dir": "a", "data": {"source": "synthetic"}, "ema_decay": decay})


def _record(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """Collects the weights before the first step of a run and after each."""
    history: list[Weights] = []
    original = step.TrainStep.__call__

    def call(self: step.TrainStep, *arguments: Any, **keywords: Any) -> Any:
        history.extend([] if history else [_copied(self.model)])
        report = original(self, *arguments, **keywords)
        history.append(_copied(self.model))
        return report

    monkeypatch.setattr(step.TrainStep, "__call__", call)
    return history


def test_a_run_judges_and_saves_the_average_and_resumes_from_the_weights(
    tmp_path: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = _record(monkeypatch)
    judged: list[Weights] = []
    original = validation.score_images

    def score(model: nn.Module, *arguments: Any) -> Any:
        judged.append(_copied(model))
        return original(model, *arguments)

    monkeypatch.setattr(validation, "score_images", score)
    config = make_config(
        tmp_path / "run", faces, validation=VALIDATION, ema_decay=DECAY, accumulate=2
    )
    result = train(config)
    assert len(history) == 1 + 9
    for epoch, weights in enumerate(judged, 1):
        _check(weights, history[: 1 + 3 * epoch], DECAY)
    last, best = (load_file(config.run_dir / f"{name}.safetensors") for name in ("last", "best"))
    _check(last, history, DECAY)
    assert result.best is not None
    _check(best, history[: 1 + result.best["step"]], DECAY)
    for name in ("last", "best"):
        metadata = read_metadata(config.run_dir / f"{name}.safetensors")["metadata"]
        assert metadata["ema_decay"] == DECAY
    kept = load_state(config.run_dir).content["model"]
    assert all(torch.equal(kept[name], tensor) for name, tensor in history[-1].items())


def test_the_average_does_not_change_the_training(tmp_path: Path, faces: Path) -> None:
    with_it = make_config(tmp_path / "with", faces, ema_decay=0.9)
    without = make_config(tmp_path / "without", faces)
    train(with_it)
    train(without)
    kept = load_state(with_it.run_dir).content["model"]
    last = load_file(without.run_dir / "last.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in last.items())
    other = make_config(tmp_path / "with", faces, ema_decay=0.99)
    with pytest.raises(ValueError, match=r"another ema_decay: it was 0\.9, now it is 0\.99"):
        train(other, resume=True)


def _average_on_rank(rank: int, run_dir: Path, faces: Path, changes: dict[str, Any]) -> Weights:
    register_tiny()
    config = make_config(run_dir, faces, **changes)
    processes = Processes(rank, 2, torch.device("cpu"))
    trainer = Trainer(config, processes, resume=False, overwrite=False)
    trainer.run()
    assert trainer.parts.average is not None
    return _copied(trainer.parts.average.module)


@pytest.mark.distributed
def test_every_rank_has_the_same_average_which_is_that_of_one_process(
    pool: Pool, tmp_path: Path, faces: Path
) -> None:
    changes: dict[str, Any] = {
        "model": {"options": {"norm": True}},
        "optimizer": {"lr": 0.01},
        "ema_decay": DECAY,
    }
    train(make_config(tmp_path / "one", faces, **changes))
    first, second = pool.run(_average_on_rank, tmp_path / "two", faces, changes)
    expected = load_file(tmp_path / "one" / "last.safetensors")
    saved = load_file(tmp_path / "two" / "last.safetensors")
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], saved[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
