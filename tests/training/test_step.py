"""An optimizer step does not depend on how its batch is cut."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from centerarc.distributed import Processes
from centerarc.losses import CenterArcFaceLoss, MeanCenterLoss, UnifiedThresholdLoss
from centerarc.training.config import OptimizerConfig
from centerarc.training.head import make_criterion
from centerarc.training.loss_config import LossConfig
from centerarc.training.optimizer import make_optimizers
from centerarc.training.step import Precision, StepReport, TrainStep
from centerarc.training.terms import AddedTerms
from tests.training.helpers import SIZE, Tiny

CPU = torch.device("cpu")
CLASSES = 5


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (10, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (10,), generator=generator)
    labels[[1, 2, 3]] = -100  # parts hold different numbers of valid labels
    return images, labels


def _setup(loss: LossConfig, **options: Any) -> tuple[TrainStep, Tiny, CenterArcFaceLoss]:
    torch.manual_seed(0)
    model = Tiny(embedding_size=8, image_size=SIZE)
    criterion = make_criterion(loss, CLASSES, 8, torch.Generator().manual_seed(0))
    terms = AddedTerms(loss, 8)
    optimizers = make_optimizers(model, criterion, OptimizerConfig(lr=0.1), terms)
    alone = Processes(0, 1, CPU)
    step = TrainStep(model, criterion, optimizers, terms, Precision("fp32", CPU), alone, **options)
    return step, model, criterion


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(),
        LossConfig(center_weight=0.5, centers="separate", center_space="raw"),
        LossConfig(centers="separate", center_update="gradient", separation_weight=0.3),
        LossConfig(centers="mean", threshold_weight=0.5, threshold_over="centers"),
        LossConfig(center_weight="auto", threshold_weight="auto", threshold_over="centers"),
    ],
    ids=["shared", "paper", "gradient and separation", "means and threshold", "auto"],
)
@pytest.mark.parametrize("parts", [2, 3, 10])
def test_accumulation_equals_the_large_batch(loss: LossConfig, parts: int) -> None:
    whole, *modules = _setup(loss, clip_norm=1.0)
    cut, *cut_modules = _setup(loss, clip_norm=1.0, accumulate=parts)
    modules.append(whole.terms)
    cut_modules.append(cut.terms)
    whole.balances = cut.balances = loss.scheduled
    for _ in range(3):
        expected, found = whole(*_batch()).read(), cut(*_batch()).read()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert found["count"] == 7
    for module, cut_module in zip(modules, cut_modules, strict=True):
        state = cut_module.state_dict()
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_a_step_is_plain_sgd_on_the_mean_joint_loss() -> None:
    loss = LossConfig(center_weight=0.5, separation_weight=0.2)
    step, model, criterion = _setup(loss)
    images, labels = _batch()
    _, twin, _ = _setup(loss)
    reference = CenterArcFaceLoss(CLASSES, 8)
    reference.load_state_dict(criterion.state_dict())
    arcface, center = reference(twin((images.permute(0, 3, 1, 2) - 127.5) / 127.5), labels)
    (arcface + 0.5 * center + 0.2 * reference.separation(labels)).backward()
    report = step(images, labels).read()
    assert report["arcface_loss"] == pytest.approx(arcface.item(), rel=1e-5)
    assert report["center_loss"] == pytest.approx(center.item(), rel=1e-5)
    pairs = [
        *zip(model.parameters(), twin.parameters(), strict=True),
        *zip(criterion.parameters(), reference.parameters(), strict=True),
    ]
    for after, before in pairs:
        decay = 5e-4 if before.ndim > 1 else 0.0
        assert before.grad is not None
        expected = before.detach() - 0.1 * (before.grad + decay * before.detach())
        torch.testing.assert_close(after.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("over", ["pairs", "centers", "both"])
@pytest.mark.parametrize("centers", ["shared", "mean"])
def test_a_step_moves_the_threshold_by_plain_sgd_on_the_mean_of_its_term(
    over: Any, centers: Any
) -> None:
    """The sum of the terms as a user's own loop writes it, with a threshold not decayed."""
    loss = LossConfig(
        center_weight=0.5, centers=centers, threshold_weight=0.25, threshold_over=over
    )
    step, model, criterion = _setup(loss)
    images, labels = _batch()
    _, twin, _ = _setup(loss)
    reference = CenterArcFaceLoss(CLASSES, 8, centers=centers)
    unified = UnifiedThresholdLoss(over=over)
    inputs = (images.permute(0, 3, 1, 2) - 127.5) / 127.5
    for one in (criterion, reference):
        one.update_centers(model(inputs).detach(), labels)  # means that are there before the step
    reference.load_state_dict(criterion.state_dict())
    features = twin(inputs)
    arcface, center = reference(features, labels)
    seen = criterion.center.seen if isinstance(criterion.center, MeanCenterLoss) else None
    given = () if over == "pairs" else (criterion.centers.detach().clone(), seen)
    term = unified(features, labels, *given)
    (arcface + 0.5 * center + 0.25 * term).backward()
    report = step(images, labels).read()
    assert report["threshold_loss"] == pytest.approx(term.item(), rel=1e-5)
    assert (report["threshold"], report["threshold_weight"]) == (0.5, 0.25)
    assert step.terms.threshold is not None
    assert unified.bias.grad is not None
    moved = step.terms.threshold.bias.item() - 8.0
    assert moved == pytest.approx(-0.1 * unified.bias.grad.item(), rel=1e-4)
    assert moved != 0
    for after, before in zip(model.parameters(), twin.parameters(), strict=True):
        decay = 5e-4 if before.ndim > 1 else 0.0
        assert before.grad is not None
        expected = before.detach() - 0.1 * (before.grad + decay * before.detach())
        torch.testing.assert_close(after.detach(), expected, rtol=1e-4, atol=1e-6)


def test_means_move_once_a_step_by_the_whole_batch() -> None:
    step, model, criterion = _setup(LossConfig(centers="mean"), accumulate=5)
    images, labels = _batch()
    with torch.no_grad():
        features = model((images.permute(0, 3, 1, 2) - 127.5) / 127.5).double()
    step(images, labels)
    assert isinstance(criterion.center, MeanCenterLoss)
    for label in range(CLASSES):
        rows = features[labels == label]
        assert criterion.center.counts[label] == len(rows)
        if len(rows):
            mean = (rows / rows.norm(dim=1, keepdim=True)).mean(0)
            torch.testing.assert_close(
                criterion.centers[label].double(), mean, rtol=1e-5, atol=1e-6
            )


def test_clipping_counts_the_prototypes_gradient() -> None:
    images, labels = _batch()
    limit = 1e-3
    step, model, criterion = _setup(LossConfig(), clip_norm=limit)
    for optimizer in step.optimizers:
        for group in optimizer.param_groups:
            group["weight_decay"] = 0
    before = [p.detach().clone() for m in (model, criterion) for p in m.parameters()]
    report = step(images, labels).read()
    after = [p.detach() for m in (model, criterion) for p in m.parameters()]
    moved = torch.stack([(a - b).square().sum() for a, b in zip(after, before, strict=True)])
    assert report["grad_norm"] > limit
    # Float32 weights of size 1 hold steps of 1e-4 to a few parts in a thousand.
    assert moved.sum().sqrt().item() == pytest.approx(0.1 * limit, rel=0.02)
    assert moved[-1] > 0


def test_the_papers_centers_move_once_a_step_by_the_whole_batch() -> None:
    loss = LossConfig(centers="separate", center_space="raw")
    step, model, criterion = _setup(loss, accumulate=5)
    images, labels = _batch()
    with torch.no_grad():
        features = model((images.permute(0, 3, 1, 2) - 127.5) / 127.5)
    expected = criterion.centers.clone()
    for label in range(CLASSES):
        rows = features[labels == label]
        delta = (expected[label] - rows).sum(0) / (1 + len(rows))
        expected[label] -= 0.5 * delta
    step(images, labels)
    torch.testing.assert_close(criterion.centers, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_valid_labels_gives_no_gradient() -> None:
    step, _, _ = _setup(LossConfig())
    images, labels = _batch()
    gradients: list[float] = []

    def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            gradients.extend(p.grad.abs().max().item() for p in group["params"])

    for optimizer in step.optimizers:
        optimizer.register_step_pre_hook(record)
    report: StepReport = step(images, torch.full_like(labels, -100))
    assert gradients
    assert max(gradients) == 0
    assert report.read()["count"] == 0
    assert report.read()["arcface_loss"] == 0


def test_fp16_needs_cuda() -> None:
    with pytest.raises(ValueError, match="precision is 'fp16', which needs CUDA; on cpu use"):
        Precision("fp16", CPU)


def test_bf16_gives_nearly_the_same_step() -> None:
    exact, exact_model, _ = _setup(LossConfig())
    half, half_model, _ = _setup(LossConfig())
    half.precision = Precision("bf16", CPU)
    expected, found = exact(*_batch()).read(), half(*_batch()).read()
    assert found["arcface_loss"] == pytest.approx(expected["arcface_loss"], rel=0.05)
    assert found["arcface_loss"] != expected["arcface_loss"]
    for a, b in zip(exact_model.parameters(), half_model.parameters(), strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("parts", [1, 3])
def test_auto_keeps_the_ratio_of_the_gradients_however_the_batch_is_cut(parts: int) -> None:
    """The rule with gradients of float64 backward passes of the two terms."""
    loss = LossConfig(center_weight="auto", auto_ratio=0.4, s=16)
    step, model, criterion = _setup(loss, accumulate=parts)
    images, labels = _batch()
    step.balances = True
    sums = torch.zeros(2, dtype=torch.float64)
    for done in range(3):
        with torch.no_grad():
            features = model((images.permute(0, 3, 1, 2) - 127.5) / 127.5)
        features = features.double().requires_grad_()
        twin = copy.deepcopy(criterion).double()
        norms = [
            torch.autograd.grad(term, features, retain_graph=True)[0].norm()
            for term in twin(features, labels)
        ]
        expected = float(0.4 * sums[0] / sums[1]) if done else 0.0
        report = step(images, labels).read()
        assert report["center_weight"] == pytest.approx(expected, rel=1e-4)
        sums = 0.9 * sums + torch.stack(norms)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(center_weight=0.01),
        LossConfig(center_weight=0.01, center_space="raw"),
        LossConfig(center_weight=0.5, centers="separate", center_space="raw"),
        LossConfig(centers="separate", center_update="gradient", class_weights="balanced"),
        LossConfig(sub_centers=2),
        LossConfig(centers="mean"),
        LossConfig(threshold_weight=0.3),
        LossConfig(centers="mean", threshold_weight=0.3, threshold_over="centers"),
    ],
    ids=["unit", "raw", "separate", "gradient", "sub-centers", "mean", "pairs", "mean centers"],
)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_shares_of_the_gradient_are_those_of_two_backward_passes(
    loss: LossConfig, parts: int, frozen: bool
) -> None:
    step, model, criterion = _setup(loss, accumulate=parts)
    step.freeze(frozen)
    images, labels = _batch()
    with torch.no_grad():
        features = model((images.permute(0, 3, 1, 2) - 127.5) / 127.5)
    criterion.update_centers(features, labels)
    features = features.double().requires_grad_()
    twin, terms = copy.deepcopy(criterion).double(), copy.deepcopy(step.terms).double()
    pieces = [slice(0, 10)] if parts == 1 else [slice(0, 4), slice(4, 8), slice(8, 10)]
    losses = [
        (
            *twin(features[piece], labels[piece]),
            terms.threshold_loss(features[piece], labels[piece], twin),
        )
        for piece in pieces
    ]
    weights = (1.0, float(loss.center_weight), float(loss.threshold_weight))
    lengths = [
        float(torch.autograd.grad(weight * sum(term), features, retain_graph=True)[0].norm())
        if weight
        else 0.0
        for weight, term in zip(weights, zip(*losses, strict=True), strict=True)
    ]
    assert "center_share" not in copy.deepcopy(step)(images, labels).read()
    step.measures = True
    report = step(images, labels).read()
    assert ("threshold_share" in report) == (loss.threshold_weight != 0)
    for name, length in zip(("arcface", "center", "threshold"), lengths, strict=True):
        share = report.get(f"{name}_share", 0.0)
        assert share == pytest.approx(length / sum(lengths), rel=1e-3), name
    assert all(p.grad is None for p in model.parameters())
