"""Center loss, the paper's update and the separation of centers, against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.losses import CenterLoss, center_loss, center_separation, update_centers
from tests.losses import loops
from tests.losses.loops import batch, problem

IMPLEMENTATIONS = ["reference", "chunked"]

C, D = 7, 5


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


def test_separation_in_half_precision_with_a_zero_sub_center() -> None:
    c = torch.randn(4, 2, 3).half()
    c[1, 0] = 0
    c.requires_grad_()
    center_separation(c, torch.arange(4)).backward()
    assert c.grad.isfinite().all()


def test_center_loss_is_its_function_then_updates() -> None:
    x, y = batch()
    criterion = CenterLoss(C, D, alpha=0.7)
    before = criterion.centers.clone()
    assert torch.equal(criterion(x, y), center_loss(x, before, y))
    update_centers(before, x, y, alpha=0.7)
    assert torch.equal(criterion.centers, before)


def test_evaluation_moves_no_centers() -> None:
    criterion = CenterLoss(C, D).eval()
    before = criterion.centers.clone()
    criterion(*batch())
    assert torch.equal(criterion.centers, before)
