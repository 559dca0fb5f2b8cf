"""What users of other libraries suffered from, one test for each: ours does not."""

import math

import pytest
import torch
from torch import nn

from centerarc.losses import (
    ArcFace,
    CenterArcFaceLoss,
    CenterLoss,
    CombinedMargin,
    MarginSoftmaxLoss,
    center_loss,
    margin_softmax_loss,
    negative_logsumexp,
)
from tests.losses.arrays import NewArrays


def test_arcface_gradient_is_that_of_arcface_not_of_cosface() -> None:
    """A margin applied under no_grad leaves the gradient of the plain cosine."""
    theta = 1.0
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([[math.cos(theta), math.sin(theta)], [0.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([0])
    loss = margin_softmax_loss(x, w, y, ArcFace(0.5), 4.0)
    loss.backward()
    p = 1 - math.exp(-loss.item())
    # Turning x by dphi towards w lowers theta: the target's part is -p s sin(theta + m), and the
    # negative at -90 degrees adds p s cos(0) d/dphi.
    expected = -p * 4.0 * math.sin(theta + 0.5) + p * 4.0 * -1.0
    assert x.grad[0, 1].item() == pytest.approx(expected, rel=1e-12)


def test_a_combined_margin_has_both_of_its_margins() -> None:
    """Where a cosine margin is given, a peer subtracts it and leaves out the angular one."""
    theta = 1.0
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    w = torch.tensor([[math.cos(theta), math.sin(theta)], [0.0, -1.0]], dtype=torch.float64)
    y = torch.tensor([0])
    found = margin_softmax_loss(x, w, y, CombinedMargin(1.0, 0.3, 0.2), 4.0).item()
    both, cosine_alone = math.cos(theta + 0.3) - 0.2, math.cos(theta) - 0.2
    assert found == pytest.approx(math.log1p(math.exp(-4 * both)), rel=1e-12)
    assert found > math.log1p(math.exp(-4 * cosine_alone)) + 0.1


@pytest.mark.parametrize("m", [0.0, 0.5])
def test_loss_is_not_capped(m: float) -> None:
    """A probability clamped at 1e-30 makes every large loss read 69.08."""
    x, w = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    loss = margin_softmax_loss(x, w, torch.tensor([0]), ArcFace(m), 64.0)
    assert loss.item() == pytest.approx(64 * (1 + 2 - math.cos(m)), rel=1e-6)


def test_label_minus_one_is_not_learned_as_a_class() -> None:
    x, w = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    y = torch.tensor([0, -1, 2, -1])
    with pytest.raises(ValueError, match=r"labels must be .* got -1 at row 1"):
        margin_softmax_loss(x, w, y, ArcFace(), 64.0)
    loss = margin_softmax_loss(x, w, y, ArcFace(), 64.0, ignore_index=-1)
    loss.backward()
    kept = margin_softmax_loss(x[::2], w, y[::2], ArcFace(), 64.0)
    torch.testing.assert_close(loss, kept)
    assert x.grad[1::2].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2])
def test_half_precision_and_batches_of_one_work(dtype: torch.dtype, n: int) -> None:
    criterion = CenterArcFaceLoss(4, 3)
    features = torch.randn(n, 3).to(dtype).requires_grad_()
    sum(criterion(features, torch.zeros(n, dtype=torch.long))).backward()
    assert features.grad.isfinite().all()


def test_equal_seeds_do_not_start_prototypes_identical() -> None:
    w = MarginSoftmaxLoss(6, 4, generator=torch.Generator().manual_seed(0)).prototypes
    assert len(w.unique(dim=0)) == 6


def test_center_loss_makes_no_n_by_c_matrix() -> None:
    n, c, d = 64, 100_000, 4
    features, y = torch.randn(n, d, requires_grad=True), torch.randint(0, c, (n,))
    criterion = CenterLoss(c, d)
    with NewArrays(criterion.buffers()) as arrays:
        criterion(features, y).backward()
    assert arrays.largest <= n * d


def test_center_loss_survives_large_features() -> None:
    """The expanded square |x|^2 + |c|^2 - 2xc cancels, and a clamp then drops the gradient."""
    x = (20 * torch.randn(6, 512)).requires_grad_()
    centers = x.detach() + 1e-3 * torch.randn(6, 512)
    center_loss(x, centers, torch.arange(6), reduction="sum").backward()
    torch.testing.assert_close(x.grad, x.detach() - centers)


def test_centers_move_at_the_papers_pace_whatever_the_batch() -> None:
    """Averaging the gradient over the batch makes centers 128 times too slow at 512."""
    criterion = CenterLoss(300, 2, alpha=0.5)
    criterion.centers.zero_()
    features = torch.ones(512, 2)
    labels = torch.arange(512) % 256
    criterion(features, labels)
    # Two samples a class: alpha * 2 / (1 + 2) of the way.
    torch.testing.assert_close(criterion.centers[:256], torch.full((256, 2), 1 / 3))


def test_no_acos_of_exactly_one() -> None:
    x = torch.eye(3, requires_grad=True)
    criterion = MarginSoftmaxLoss(3, 3)
    with torch.no_grad():
        criterion.prototypes.copy_(torch.eye(3))
    criterion(x, torch.arange(3)).backward()
    assert x.grad.isfinite().all()


def test_weights_keep_their_dtype_in_forward() -> None:
    criterion = MarginSoftmaxLoss(3, 3)
    parameter = criterion.prototypes
    criterion(torch.randn(2, 3).half(), torch.tensor([0, 1]))
    assert criterion.prototypes is parameter
    assert parameter.dtype == torch.float32


def test_beyond_pi_minus_m_the_loss_does_not_jump() -> None:
    losses = []
    for theta in (math.pi - 0.5 - 1e-4, math.pi - 0.5 + 1e-4):
        x = torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=torch.float64)
        w = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        losses.append(margin_softmax_loss(x, w, torch.tensor([0]), ArcFace(0.5), 64.0).item())
    assert abs(losses[1] - losses[0]) < 0.05  # The usual fallback: 7.5.


def test_a_small_loss_is_not_rounded_to_zero_and_a_large_one_not_to_wrong() -> None:
    """Adding the margin after an ordinary logsumexp over all classes gives 0 at cos 0.5."""
    x = torch.tensor([[1.0, 0.0]])
    w = torch.tensor([[0.5, math.sqrt(0.75)], [0.0, 1.0]])
    loss = margin_softmax_loss(x, w, torch.tensor([0]), ArcFace(0.5), 64.0)
    z = 64 * math.cos(math.acos(0.5) + 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-z)), rel=1e-4)


def test_frozen_prototypes_cost_no_gradient() -> None:
    x, w = torch.randn(4, 3, requires_grad=True), torch.randn(50, 3)
    negative_logsumexp(x, w, torch.arange(4), 64.0, implementation="chunked").sum().backward()
    assert w.grad is None


def test_criterion_trains_inside_a_sequential_model_on_cpu() -> None:
    model = nn.Linear(4, 3)
    criterion = CenterArcFaceLoss(5, 3, centers="separate")
    optimizer = torch.optim.AdamW([*model.parameters(), *criterion.parameters()], lr=1e-2)
    x, y = torch.randn(20, 4), torch.arange(20) % 5
    first = last = 0.0
    for step in range(60):
        arcface, center = criterion(model(x), y)
        optimizer.zero_grad()
        (arcface + center).backward()
        optimizer.step()
        first, last = (arcface.item(), last) if step == 0 else (first, arcface.item())
    assert last < first
