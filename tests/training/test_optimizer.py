"""The optimizer's parameter groups and the schedule of its learning rate."""

import itertools
import math

import pytest
import torch

from centerarc.losses import CenterArcFaceLoss, PrototypeSGD, UniFace
from centerarc.models import create_model
from centerarc.training.config import OptimizerConfig, ScheduleConfig
from centerarc.training.loss_config import LossConfig
from centerarc.training.optimizer import lr_factor, make_optimizers, set_rate
from centerarc.training.terms import AddedTerms
from tests.training.helpers import SIZE, Tiny


def test_norms_biases_and_slopes_are_not_decayed_and_the_head_has_its_own_decay() -> None:
    model = Tiny(embedding_size=8, image_size=SIZE, norm=True)
    criterion = CenterArcFaceLoss(5, 8)
    config = OptimizerConfig(weight_decay=0.01, head_decay=3)
    decay = {
        id(parameter): group["weight_decay"]
        for optimizer in make_optimizers(model, criterion, config)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or name.startswith(("layers.1", "layers.2"))
        assert decay.pop(id(parameter)) == (0 if plain else 0.01), name
    for parameter in criterion.parameters():
        assert decay.pop(id(parameter)) == 0.03
    assert not decay


def test_the_threshold_is_not_decayed_and_adamw_moves_it_faster() -> None:
    model, criterion = Tiny(embedding_size=8, image_size=SIZE), CenterArcFaceLoss(5, 8)
    terms = AddedTerms(LossConfig(threshold_weight=1.0), 8)
    for kind, scale in (("sgd", 1.0), ("adamw", 30.0)):
        config = OptimizerConfig(name=kind, weight_decay=0.01, lr=0.01)  # type: ignore[arg-type]
        optimizer = make_optimizers(model, criterion, config, terms)[0]
        set_rate([optimizer], 0.01)
        (group,) = (g for g in optimizer.param_groups if g["name"] == "threshold")
        assert group["params"] == [*terms.parameters()]
        assert (group["weight_decay"], group["lr"]) == (0, pytest.approx(0.01 * scale))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_a_margin_learns_is_a_threshold_too(kind: str) -> None:
    model = Tiny(embedding_size=8, image_size=SIZE)
    criterion = CenterArcFaceLoss(5, 8, margin=UniFace())
    config = OptimizerConfig(name=kind, weight_decay=0.01)  # type: ignore[arg-type]
    optimizers = make_optimizers(model, criterion, config)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [g for g in groups if any(p is criterion.arcface.margin.bias for p in g["params"])]
    assert [(g["name"], g["weight_decay"]) for g in held] == [("threshold", 0)]


def test_position_embedding_and_mask_token_of_a_vit_are_not_decayed() -> None:
    with torch.device("meta"):
        model = create_model("vit_t", image_size=32)
    config = OptimizerConfig(weight_decay=0.1)
    optimizer, _ = make_optimizers(model, CenterArcFaceLoss(5, 512), config)
    (plain,) = (
        {id(p) for p in g["params"]} for g in optimizer.param_groups if not g["weight_decay"]
    )
    for name, parameter in model.named_parameters():
        decayed = name.endswith("weight") and parameter.ndim > 1
        assert (id(parameter) in plain) != decayed, name


def test_kinds() -> None:
    model, criterion = torch.nn.Linear(2, 2), CenterArcFaceLoss(2, 2)
    sgd, prototypes = make_optimizers(
        model, criterion, OptimizerConfig(nesterov=True, momentum=0.8), fused=True
    )
    assert isinstance(sgd, torch.optim.SGD)
    assert isinstance(prototypes, PrototypeSGD)
    assert prototypes.fused
    for optimizer in (sgd, prototypes):
        assert optimizer.defaults["nesterov"]
        assert optimizer.defaults["momentum"] == 0.8
    (adamw,) = make_optimizers(model, criterion, OptimizerConfig(name="adamw", lr=1e-3))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [group["name"] for group in adamw.param_groups] == ["backbone", "no_decay", "head"]


def _factors(schedule: ScheduleConfig, steps_per_epoch: int) -> list[float]:
    total = schedule.epochs * steps_per_epoch
    return [lr_factor(step, total, steps_per_epoch, schedule) for step in range(total + 1)]


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "steps", "first"),
    [
        (10, 2, 5, [(k + 1) / 10 for k in range(10)]),
        (4, 0.5, 8, [0.25, 0.5, 0.75, 1]),
        (2, 0, 5, [1]),
    ],
)
def test_warmup_rises_to_full_from_one_part_of_it(
    epochs: int, warmup_epochs: float, steps: int, first: list[float]
) -> None:
    factors = _factors(ScheduleConfig(epochs=epochs, warmup_epochs=warmup_epochs), steps)
    assert factors[: len(first)] == pytest.approx(first)
    assert max(factors) == 1.0


@pytest.mark.parametrize("shape", ["polynomial", "cosine"])
def test_falls_to_zero_just_after_the_last_step(shape: str) -> None:
    factors = _factors(ScheduleConfig(epochs=5, warmup_epochs=1, shape=shape), 4)
    fall = factors[4:]
    assert all(a > b for a, b in itertools.pairwise(fall))
    assert factors[-2] > 0
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_shapes_half_way() -> None:
    for shape, expected in (
        ({"power": 3}, 0.5**3),
        ({"shape": "cosine"}, (1 + math.cos(math.pi / 2)) / 2),
    ):
        plan = ScheduleConfig(epochs=4, warmup_epochs=0, **shape)  # type: ignore[arg-type]
        assert _factors(plan, 5)[10] == pytest.approx(expected)
