"""The margin softmax: plain loops, torch's cross entropy, a peer library; then its module."""

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses as pml
from torch import Tensor

from centerarc.losses import (
    ArcFace,
    CombinedMargin,
    CosFace,
    MarginSoftmaxLoss,
    SphereFaceR,
    margin_softmax_loss,
)
from centerarc.losses.margins import target_angle
from tests.losses import loops
from tests.losses.loops import batch, problem

IMPLEMENTATIONS = ["reference", "chunked"]

C, D = 7, 5


def dense_logits(x: Tensor, w: Tensor, y: Tensor, margin, s: float) -> Tensor:
    """All logits with the margin in place, in plain autograd."""
    z = s * F.normalize(x, dim=1) @ F.normalize(w, dim=1).T
    return z.scatter(1, y[:, None], (s * margin(target_angle(x, w[y])))[:, None])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("k", [1, 3])
def test_margin_softmax_is_the_double_loop(implementation: str, k: int) -> None:
    x, w, y = problem(6, 5, 4, k)
    table = loops.logits(x, w, y, lambda cos: loops.arcface(cos, 0.5), 64.0)
    expected = [loops.cross_entropy(row, int(label)) for row, label in zip(table, y, strict=True)]
    out = margin_softmax_loss(
        x, w, y, ArcFace(0.5), 64.0, reduction="none", implementation=implementation
    )
    torch.testing.assert_close(out.tolist(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_options_mean_what_cross_entropy_means(
    implementation: str, weighted: bool, smoothing: float, reduction: str
) -> None:
    x, w, y = problem(9, 7, 4)
    weight = torch.rand(7, dtype=torch.float64) if weighted else None
    y[2] = y[5] = -100
    options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
    logits = dense_logits(x, w, y.clamp_min(0), ArcFace(0.4), 20.0)
    expected = F.cross_entropy(logits, y, **options)
    out = margin_softmax_loss(x, w, y, ArcFace(0.4), 20.0, implementation=implementation, **options)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-13)
    ours = torch.autograd.grad(out.sum(), (x, w))
    theirs = torch.autograd.grad(expected.sum(), (x, w))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("margin", "peer"),
    [
        (ArcFace(0.5), lambda c, d: pml.ArcFaceLoss(c, d, margin=math.degrees(0.5), scale=64)),
        (CosFace(0.35), lambda c, d: pml.CosFaceLoss(c, d, margin=0.35, scale=64)),
        (SphereFaceR(4.0), lambda c, d: pml.SphereFaceLoss(c, d, margin=4, scale=64)),
        (CombinedMargin(1.0, 0.0, 0.35), lambda c, d: pml.CosFaceLoss(c, d, margin=0.35, scale=64)),
    ],
    ids=["arcface", "cosface", "sphereface", "combined"],
)
def test_values_agree_with_pytorch_metric_learning(dtype, implementation, margin, peer) -> None:
    x, w, y = problem(32, 10, 8, dtype=dtype)
    if isinstance(margin, ArcFace):  # Beyond pi - m the peer's fallback jumps; ours does not.
        own = F.cosine_similarity(x, w[y])
        x = torch.where((own < -math.cos(0.5) + 1e-3)[:, None], -x, x)
    if isinstance(margin, SphereFaceR):  # The peer scales by the feature's length, we by s alone.
        x = F.normalize(x)
    theirs = peer(10, 8).to(dtype)
    theirs.W.data = w.detach().T.clone()
    out = margin_softmax_loss(x, w, y, margin, 64.0, implementation=implementation)
    torch.testing.assert_close(out, theirs(x, y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sub_centers_agree_with_pytorch_metric_learning(dtype) -> None:
    x, w, y = problem(32, 10, 8, k=3, dtype=dtype)
    theirs = pml.SubCenterArcFaceLoss(
        num_classes=10, embedding_size=8, sub_centers=3, margin=math.degrees(0.3), scale=30
    ).to(dtype)
    theirs.W.data = w.detach().flatten(0, 1).T.clone()
    out = margin_softmax_loss(x, w, y, ArcFace(0.3), 30.0)
    torch.testing.assert_close(out, theirs(x, y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("k", [1, 2])
def test_gradcheck(implementation: str, k: int) -> None:
    x, w, y = problem(5, 4, 3, k)
    y[1] = -100
    options = {"label_smoothing": 0.1} if k == 1 else {}

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return margin_softmax_loss(
            a, b, y, ArcFace(0.5), 8.0, implementation=implementation, **options
        )

    assert torch.autograd.gradcheck(loss, (x, w))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cos", [1.0, -1.0])
def test_cosine_of_exactly_one_or_minus_one(implementation, dtype, cos) -> None:
    w = torch.eye(4, requires_grad=True)
    x = (cos * torch.eye(4)).to(dtype).requires_grad_()
    y = torch.arange(4)
    out = margin_softmax_loss(x, w, y, ArcFace(0.5), 64.0, implementation=implementation)
    psi = math.cos(0.5) if cos > 0 else -1 + math.cos(0.5) - 1
    assert out.item() == pytest.approx(math.log1p(3 * math.exp(-64 * psi)), rel=1e-5)
    out.backward()
    assert x.grad.isfinite().all()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_zero_vectors_and_duplicated_classes(implementation: str) -> None:
    x, w, y = problem(4, 5, 3, dtype=torch.float32)
    with torch.no_grad():
        x[0] = 0
        w[1] = 0
        w[2] = w[3]
    y = torch.tensor([0, 1, 2, 3])
    out = margin_softmax_loss(
        x, w, y, ArcFace(0.5), 64.0, reduction="none", implementation=implementation
    )
    table = loops.logits(x, w, y, lambda cos: loops.arcface(cos, 0.5), 64.0)
    expected = [loops.cross_entropy(row, int(label)) for row, label in zip(table, y, strict=True)]
    torch.testing.assert_close(out.tolist(), expected, rtol=1e-5, atol=1e-5)
    out.sum().backward()
    assert x.grad[0].abs().sum() == 0
    assert w.grad[1].abs().sum() == 0
    assert x.grad.isfinite().all()
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scale_64_in_half_precision(dtype: torch.dtype) -> None:
    x, w, y = problem(16, 500, 32, dtype=torch.float32)
    low = x.detach().to(dtype).requires_grad_()
    out = margin_softmax_loss(low, w, y, ArcFace(0.5), 64.0)
    exact = margin_softmax_loss(low.detach().double(), w.double(), y, ArcFace(0.5), 64.0)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-6)
    out.backward()
    assert low.grad.dtype == dtype
    assert low.grad.isfinite().all()
    assert w.dtype == torch.float32


def test_one_class_has_loss_zero() -> None:
    x, w, y = problem(3, 1, 4)
    out = margin_softmax_loss(x, w, y, ArcFace(), 64.0)
    out.backward()
    assert out.item() == 0
    assert x.grad.abs().sum() == 0


def test_margin_softmax_is_its_function() -> None:
    x, y = batch()
    criterion = MarginSoftmaxLoss(C, D, CosFace(0.3), 20.0, label_smoothing=0.1)
    expected = margin_softmax_loss(
        x, criterion.prototypes, y, CosFace(0.3), 20.0, label_smoothing=0.1
    )
    assert torch.equal(criterion(x, y), expected)


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_logits_are_scaled_cosines_without_margin(sub_centers: int) -> None:
    x, y = batch()
    criterion = MarginSoftmaxLoss(C, D, ArcFace(0.0), s=20.0, sub_centers=sub_centers)
    torch.testing.assert_close(F.cross_entropy(criterion.logits(x), y), criterion(x, y))


def test_the_scale_may_be_set_later_and_is_checked_then() -> None:
    x, y = batch()
    criterion, other = MarginSoftmaxLoss(C, D, s=64), MarginSoftmaxLoss(C, D, s=20.0)
    other.load_state_dict(criterion.state_dict())
    criterion.s = 20
    assert torch.equal(criterion(x, y), other(x, y))
    with pytest.raises(ValueError, match="s must be positive and finite, got -1"):
        criterion.s = -1
    criterion.implementation = "quick"
    with pytest.raises(ValueError, match=r"implementation must be one of .* got 'quick'"):
        criterion(x, y)
