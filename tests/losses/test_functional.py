"""The functional losses against plain loops, torch's cross entropy and a peer library."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as pml
from torch import Tensor

from centerarc.losses import (
    ArcFace,
    CombinedMargin,
    CosFace,
    SphereFaceR,
    center_arcface_loss,
    center_loss,
    center_separation,
    margin_softmax_loss,
    update_centers,
)
from centerarc.losses.margins import target_angle
from tests.losses import loops

IMPLEMENTATIONS = ["reference", "chunked"]


def problem(
    n: int, c: int, d: int, k: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (c, d) if k == 1 else (c, k, d)
    x = torch.randn(n, d, dtype=dtype).requires_grad_()
    return x, torch.randn(shape, dtype=dtype).requires_grad_(), torch.randint(0, c, (n,))


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


def test_a_hopeless_sample_keeps_its_true_loss() -> None:
    x = torch.tensor([[1.0, 0.0]])
    w = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    out = margin_softmax_loss(x, w, torch.tensor([0]), CosFace(0.0), 64.0)
    assert out.item() == pytest.approx(128.0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_to_count_is_zero_not_nan(reduction: str) -> None:
    for n in (0, 3):
        x, w, _ = problem(n, 4, 3)
        y = torch.full((n,), -100)
        arcface, center = center_arcface_loss(x, w, y, reduction=reduction)
        assert arcface.sum().item() == 0
        assert center.sum().item() == 0
        (arcface.sum() + center.sum()).backward()
        assert x.grad.abs().sum() == 0


def test_ignored_rows_may_hold_anything() -> None:
    x, w, y = problem(4, 5, 3)
    y[1] = 255
    with torch.no_grad():
        x[1] = math.nan
    keep = torch.tensor([0, 2, 3])
    options = {"ignore_index": 255}
    out = center_arcface_loss(x, w, y, **options)
    expected = center_arcface_loss(x[keep], w, y[keep])
    torch.testing.assert_close(out, expected)
    sum(out).backward()
    assert x.grad[1].abs().sum() == 0
    assert w.grad.isfinite().all()


def test_one_class_has_loss_zero() -> None:
    x, w, y = problem(3, 1, 4)
    out = margin_softmax_loss(x, w, y, ArcFace(), 64.0)
    out.backward()
    assert out.item() == 0
    assert x.grad.abs().sum() == 0


@settings(deadline=None, max_examples=50)
@given(n=st.integers(0, 8), c=st.integers(1, 12), d=st.integers(1, 5), k=st.integers(1, 3))
def test_any_shape_works(n: int, c: int, d: int, k: int) -> None:
    x, w, y = problem(n, c, d, k, dtype=torch.float32)
    arcface, center = center_arcface_loss(x, w, y, reduction="none")
    assert arcface.shape == center.shape == (n,)
    assert (arcface >= 0).all()
    assert (center >= 0).all()
    (arcface.sum() + center.sum()).backward()
    assert x.grad.shape == (n, d)
    assert w.grad.shape == w.shape
    assert w.grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_center_loss_is_the_double_loop(reduction: str) -> None:
    x, c, y = problem(7, 4, 3)
    expected = torch.tensor(loops.center(x, c, y), dtype=torch.float64)
    expected = {"mean": expected.mean(), "sum": expected.sum(), "none": expected}[reduction]
    torch.testing.assert_close(center_loss(x, c, y, reduction=reduction), expected)


def test_center_loss_in_unit_space_is_one_minus_the_cosine() -> None:
    x, c, y = problem(7, 4, 3)
    out = center_loss(x, c, y, space="unit", reduction="none")
    torch.testing.assert_close(out, 1 - F.cosine_similarity(x, c[y]))


@pytest.mark.parametrize("space", ["raw", "unit"])
def test_center_loss_gradcheck(space: str) -> None:
    x, c, y = problem(5, 4, 3)
    y[0] = -100
    assert torch.autograd.gradcheck(lambda a, b: center_loss(a, b, y, space=space), (x, c))


@settings(deadline=None, max_examples=50)
@given(n=st.integers(0, 20), c=st.integers(1, 6), d=st.integers(1, 4), alpha=st.floats(0.01, 1))
def test_update_centers_is_the_papers_rule(n: int, c: int, d: int, alpha: float) -> None:
    x, centers, y = problem(n, c, d)
    x, centers = x.detach(), centers.detach()
    expected = loops.moved_centers(centers, x, y, alpha)
    update_centers(centers, x, y, alpha=alpha)
    torch.testing.assert_close(centers.tolist(), expected, rtol=1e-12, atol=1e-12)


def test_update_centers_leaves_absent_classes_alone() -> None:
    x, centers, _ = problem(6, 8, 3, dtype=torch.float32)
    centers = centers.detach()
    before = centers.clone()
    y = torch.tensor([3, -100, 3, 5, -100, 5])
    x = x.detach()
    x[1] = math.nan
    update_centers(centers, x, y)
    moved = (centers != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [3, 5]
    assert centers.isfinite().all()
    update_centers(centers, x, torch.full((6,), -100))
    torch.testing.assert_close(centers[[0, 1, 2, 4, 6, 7]], before[[0, 1, 2, 4, 6, 7]])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_separation_is_its_formula(implementation: str) -> None:
    _, c, _ = problem(1, 6, 3)
    anchors = torch.tensor([1, 4, -100])
    expected = []
    for a in (1, 4):
        terms = [10.0 * (loops.cosine(c[a], c[j]) - 1) for j in range(6) if j != a]
        expected.append(math.log(math.fsum(math.exp(t) for t in terms) / 5) / 10.0)
    out = center_separation(c, anchors, implementation=implementation)
    assert out.item() == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_separation_drives_centers_apart() -> None:
    c = torch.nn.functional.normalize(torch.ones(6, 3) + 0.1 * torch.randn(6, 3)).requires_grad_()
    optimizer = torch.optim.SGD([c], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        center_separation(c, torch.arange(6)).backward()
        optimizer.step()
    cosines = F.cosine_similarity(c[:, None], c[None], dim=2) - 2 * torch.eye(6)
    # Six points spread best as an octahedron: no two closer than 90 degrees.
    assert cosines.max().item() < 0.1


def test_separation_of_a_single_class_is_zero() -> None:
    c = torch.randn(1, 4, requires_grad=True)
    center_separation(c, torch.tensor([0])).backward()
    assert c.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, w, y: margin_softmax_loss(x, w, y + 5, ArcFace(), 30.0),
            r"labels must be in \[0, 5\) or ignore_index -100, got 5 at row 0",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y - 1, ArcFace(), 30.0),
            r"labels must be in \[0, 5\) or ignore_index -100, got -1 at row 0",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x * math.nan, w, y, ArcFace(), 30.0),
            "features must be finite, got NaN or infinity at row 0",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y.float(), ArcFace(), 30.0),
            "labels must be integers, got torch.float32",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x.long(), w, y, ArcFace(), 30.0),
            "features must be floating point, got torch.int64",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x[:, :2], w, y, ArcFace(), 30.0),
            r"features must be \(N, 3\), got \(4, 2\)",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y[:2], ArcFace(), 30.0),
            r"labels must be \(4,\), one for each row of features, got \(2,\)",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y, ArcFace(), -1.0),
            "s must be positive and finite, got -1.0",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y, ArcFace(), 30.0, weight=torch.ones(3)),
            r"weight must be \(5,\), one for each class, got \(3,\)",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y, ArcFace(), 30.0, label_smoothing=1.0),
            r"label_smoothing must be in \[0, 1\), got 1.0",
        ),
        (
            lambda x, w, y: margin_softmax_loss(x, w, y, ArcFace(), 30.0, reduction="avg"),
            "reduction must be 'mean', 'sum' or 'none', got 'avg'",
        ),
        (
            lambda x, w, y: center_loss(x, w, y, space="polar"),
            "space must be 'unit' or 'raw', got 'polar'",
        ),
        (
            lambda x, w, y: update_centers(w, x, y, space="units"),
            "space must be 'unit' or 'raw', got 'units'",
        ),
        (lambda x, w, y: update_centers(w, x, y, alpha=5.0), r"alpha must be in \(0, 1\], got 5.0"),
        (
            lambda x, w, y: update_centers(w, x, y + 2),
            r"labels must be in \[0, 5\).* got 5 at row 3",
        ),
        (lambda x, w, y: update_centers(w, x / 0, y), "features must be finite"),
        (lambda x, w, y: update_centers(w, x, y > 1), "labels must be integers, got torch.bool"),
        (
            lambda x, w, y: center_separation(w, y, temperature=0.0),
            "temperature must be positive and finite, got 0.0",
        ),
        (lambda x, w, y: center_loss(x, w[0], y), r"centers must be \(C, D\), got \(3,\)"),
        (lambda x, w, y: center_separation(w[0], y), r"centers must be \(C, D\)"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(4, 3), torch.ones(5, 3), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_any_integers(dtype: torch.dtype) -> None:
    x, w, _ = problem(3, 3, 8)
    y = torch.tensor([2, 2, 1])
    for centers in (None, w):
        expected = center_arcface_loss(x, w, y, centers=centers)
        torch.testing.assert_close(
            center_arcface_loss(x, w, y.to(dtype), centers=centers), expected, rtol=0, atol=0
        )
    assert torch.equal(center_loss(x, w, y.to(dtype)), center_loss(x, w, y))
    assert torch.equal(center_separation(w, y.to(dtype)), center_separation(w, y))
    ours, theirs = w.detach().clone(), w.detach().clone()
    update_centers(ours, x, y.to(dtype))
    update_centers(theirs, x, y)
    assert torch.equal(ours, theirs)


def test_separation_in_half_precision_with_a_zero_sub_center() -> None:
    c = torch.randn(4, 2, 3).half()
    c[1, 0] = 0
    c.requires_grad_()
    center_separation(c, torch.arange(4)).backward()
    assert c.grad.isfinite().all()
