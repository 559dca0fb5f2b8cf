"""The joint criterion as a training loop meets it."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from centerarc.losses import (
    ArcFace,
    CenterArcFaceLoss,
    CosFace,
    center_arcface_loss,
    center_loss,
    center_separation,
    update_centers,
)
from tests.losses.loops import batch, problem

C, D, N = 7, 5, 12

VARIANTS = [
    {},
    {"centers": "separate"},
    {"centers": "separate", "center_update": "gradient", "center_space": "raw"},
    {"sub_centers": 3},
    {"sub_centers": 2, "centers": "separate", "center_space": "raw"},
    {"label_smoothing": 0.1, "weight": torch.linspace(0.5, 2, C)},
    {"margin": CosFace(0.2), "center_space": "raw"},
]


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


def test_joint_loss_is_its_function() -> None:
    x, y = batch()
    criterion = CenterArcFaceLoss(C, D, s=20.0, m=0.3, centers="separate")
    expected = center_arcface_loss(
        x, criterion.arcface.prototypes, y, s=20.0, m=0.3, centers=criterion.centers.clone()
    )
    for ours, theirs in zip(criterion(x, y), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_centers_wait_for_the_caller_if_asked_to() -> None:
    x, y = batch()
    now = CenterArcFaceLoss(C, D, centers="separate", generator=torch.Generator().manual_seed(1))
    later = CenterArcFaceLoss(
        C,
        D,
        centers="separate",
        update_on_forward=False,
        generator=torch.Generator().manual_seed(1),
    )
    assert torch.equal(now.centers, later.centers)
    now(x, y)
    later(x, y)
    assert not torch.equal(now.centers, later.centers)
    later.update_centers(x, y)
    assert torch.equal(now.centers, later.centers)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_state_dict_restores_everything(options: dict) -> None:
    x, y = batch()
    first, second = CenterArcFaceLoss(C, D, **options), CenterArcFaceLoss(C, D, **options)
    first(x, y)
    second.load_state_dict(first.state_dict())
    for ours, theirs in zip(first(x, y), second(x, y), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_criterion_without_memory_takes_what_is_assigned(options: dict) -> None:
    x, y = batch()
    first = CenterArcFaceLoss(C, D, **options)
    with torch.device("meta"):
        second = CenterArcFaceLoss(C, D, **options)
    assert {t.device.type for t in second.parameters()} == {"meta"}
    second.load_state_dict(copy.deepcopy(first.state_dict()), assign=True)
    for ours, theirs in zip(first(x, y), second(x, y), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_copies_and_pickles(options: dict) -> None:
    x, y = batch()
    criterion = CenterArcFaceLoss(C, D, **options)
    for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        twin.eval()
        criterion.eval()
        for ours, theirs in zip(criterion(x, y), twin(x, y), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_to_moves_every_tensor(options: dict) -> None:
    criterion = CenterArcFaceLoss(C, D, **options).to(torch.float64)
    tensors = [*criterion.parameters(), *criterion.buffers()]
    assert {t.dtype for t in tensors} == {torch.float64}
    arcface, center = criterion(*batch(dtype=torch.float64))
    assert arcface.dtype == center.dtype == torch.float64
    criterion.to("meta")
    assert {t.device.type for t in criterion.parameters()} == {"meta"}


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_embeddings(options: dict, dtype: torch.dtype) -> None:
    criterion = CenterArcFaceLoss(C, D, **options)
    model = nn.Linear(8, D)
    images, y = torch.randn(N, 8), torch.randint(0, C, (N,))
    with torch.autocast("cpu", dtype=dtype):
        features = model(images)
        assert features.dtype == dtype
        arcface, center = criterion(features, y)
        loss = arcface + 0.01 * center
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in criterion.parameters())
    gradients = [p.grad for p in (*model.parameters(), *criterion.parameters())]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_metrics_come_with_the_forward_pass() -> None:
    x, y = batch()
    y[0] = -100
    criterion = CenterArcFaceLoss(C, D)
    assert criterion.metrics is None
    criterion(x, y)
    found = criterion.logits(x).argmax(dim=1) == y
    assert criterion.metrics.count.item() == N - 1
    assert criterion.metrics.accuracy.item() == pytest.approx(found[1:].float().mean().item())
    cosines = F.cosine_similarity(x, criterion.centers[y.clamp_min(0)])
    torch.testing.assert_close(criterion.metrics.target_cosine[1:], cosines[1:].detach())
    assert not criterion.metrics.target_cosine.requires_grad


def test_a_generator_makes_the_start_repeatable() -> None:
    make = lambda seed: CenterArcFaceLoss(  # noqa: E731
        C, D, centers="separate", generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(make(3).centers, make(3).centers)
    assert not torch.equal(make(3).centers, make(4).centers)


@pytest.mark.parametrize("options", [{}, {"centers": "separate"}, {"sub_centers": 2}], ids=str)
def test_separation_parts_the_classes(options: dict) -> None:
    criterion = CenterArcFaceLoss(C, D, **options)
    before = criterion.separation()
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        criterion.separation(torch.arange(C)).backward()
        optimizer.step()
    assert criterion.separation() < before


class TestTheSnippet:
    """The published loop, repaired in syntax and with the criterion given to the optimizer."""

    def test_trains(self) -> None:
        images = torch.randn(10, 100).repeat(8, 1) + 0.3 * torch.randn(80, 100)
        labels = torch.arange(10).repeat(8)
        train_loader = [(images[i::4], labels[i::4]) for i in range(4)]
        model = nn.Sequential(nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100))
        criterion = CenterArcFaceLoss(num_classes=10, feat_dim=100)
        optimizer = torch.optim.SGD(
            [*model.parameters(), *criterion.parameters()], lr=0.1, momentum=0.9
        )
        history = []
        for _ in range(20):
            for images, labels in train_loader:
                outputs = model(images)
                arcface_loss, center_loss = criterion(outputs, labels)
                loss = arcface_loss + 0.01 * center_loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                history.append(loss.item())
        assert sum(history[-4:]) < 0.1 * sum(history[:4])
        assert criterion.metrics.accuracy.item() == 1.0

    def test_signature(self) -> None:
        criterion = CenterArcFaceLoss(10, 100, 30.0, 0.5)
        assert criterion.arcface.s == 30.0
        assert criterion.arcface.margin == ArcFace(0.5)
        assert criterion.centers.shape == (10, 100)
