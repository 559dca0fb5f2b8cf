"""Sampled classes: who takes part, what is touched, and that a rate of 1 is the full loss."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.losses import (
    LDAM,
    AdaFace,
    ArcFace,
    CenterArcFaceLoss,
    Chunked,
    ElasticArcFace,
    MagFace,
    MarginSoftmaxLoss,
    PrototypeSGD,
    margin_softmax_loss,
    sample_classes,
)

C, D, N = 400, 8, 10


def batch(seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (N,), generator=g)
    labels[4] = -100
    return torch.randn(N, D, generator=g, dtype=torch.float64), labels


def criterion(rate: float, **options) -> CenterArcFaceLoss:
    g = torch.Generator().manual_seed(0)
    return CenterArcFaceLoss(
        C,
        D,
        sample_rate=rate,
        sample_generator=torch.Generator().manual_seed(5),
        generator=g,
        **options,
    ).double()


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 30),
    c=st.integers(0, 60),
    rate=st.floats(0.01, 1.0),
    seed=st.integers(0, 99),
)
def test_a_sample_holds_the_labels_and_no_class_twice(n: int, c: int, rate: float, seed: int):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, c, (n,), generator=g) if c else torch.full((n,), -1)
    sample = sample_classes(labels, c, rate, g)
    assert len(sample) == min(c, max(round(rate * c), n))
    assert torch.equal(sample, sample.unique())
    assert set(labels[labels >= 0].tolist()) <= set(sample.tolist())
    assert all(0 <= j < c for j in sample.tolist())


def test_every_other_class_is_drawn_as_often_as_the_next() -> None:
    g = torch.Generator().manual_seed(0)
    counts = torch.zeros(50)
    rounds = 4000
    for _ in range(rounds):
        counts[sample_classes(torch.tensor([7]), 50, 0.2, g)] += 1
    assert counts[7] == rounds
    rest = torch.cat([counts[:7], counts[8:]])
    expected = rounds * 9 / 49
    deviation = (rounds * 9 / 49 * 40 / 49) ** 0.5
    assert ((rest - expected).abs() < 5 * deviation).all()


@pytest.mark.parametrize("options", [{}, {"sub_centers": 2}, {"implementation": "reference"}])
def test_the_loss_is_that_of_the_classes_that_take_part(options: dict) -> None:
    made = criterion(0.1, **options)
    x, y = batch()
    x.requires_grad_()
    arcface, _ = made(x, y)
    arcface.backward()
    kept = y >= 0
    sample = sample_classes(y.where(kept, -1), C, 0.1, torch.Generator().manual_seed(5))
    part = made.arcface.prototypes.detach()[sample].requires_grad_()
    again = x.detach().clone().requires_grad_()
    places = torch.searchsorted(sample, y.clamp(min=0)).where(kept, -100)
    expected = margin_softmax_loss(
        again, part, places, ArcFace(0.5), 30.0, implementation="reference"
    )
    expected.backward()
    torch.testing.assert_close(arcface, expected)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-9, atol=1e-11)
    gradient = made.arcface.prototypes.grad
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    torch.testing.assert_close(gradient[sample], part.grad, rtol=1e-9, atol=1e-11)
    rest = torch.ones(C, dtype=torch.bool)
    rest[sample] = False
    assert gradient[rest].abs().sum() == 0


@pytest.mark.parametrize("name", ["adaface", "magface", "ldam", "elastic"])
def test_margins_see_the_batch_and_not_the_sample(name: str) -> None:
    counts = torch.arange(1, C + 1)
    margins = {
        "adaface": AdaFace(alpha=0.5),
        "magface": MagFace(l_a=2.0, u_a=4.0),
        "ldam": LDAM(counts=counts),
        "elastic": ElasticArcFace(sigma=0.2),
    }
    x, y = batch()
    made = criterion(0.1, margin=copy.deepcopy(margins[name]))
    found, _ = made(x, y)
    kept = y >= 0
    sample = sample_classes(y.where(kept, -1), C, 0.1, torch.Generator().manual_seed(5))
    # Of the classes that take part, numbered anew, with their own sizes.
    margin = LDAM(counts=counts[sample]) if name == "ldam" else margins[name]
    if name == "ldam":
        margin.margins *= (int(counts.min()) / int(counts[sample].min())) ** 0.25
    expected = margin_softmax_loss(
        x,
        made.arcface.prototypes.detach()[sample],
        torch.searchsorted(sample, y.clamp(min=0)).where(kept, -100),
        margin,
        30.0,
        implementation="reference",
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sub_centers", [1, 2])
def test_untouched_rows_and_their_momentum_stay_to_the_last_bit(
    fused: bool, sub_centers: int
) -> None:
    made = criterion(0.1, sub_centers=sub_centers, implementation=Chunked(workspace=10_000))
    optimizer = PrototypeSGD(
        made.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01, fused=fused
    )
    weight = made.arcface.prototypes
    draws = torch.Generator().manual_seed(5)
    for step in range(3):
        x, y = batch(step)
        before = weight.detach().clone()
        state = optimizer.momentum_buffer(weight)
        assert state is not None
        speeds = state.clone()
        arcface, center = made(x, y)
        (arcface + center).backward()
        optimizer.step()
        optimizer.zero_grad()
        touched = torch.zeros(C, dtype=torch.bool)
        touched[sample_classes(y.where(y >= 0, -1), C, 0.1, draws)] = True
        assert torch.equal(weight[~touched], before[~touched])
        assert torch.equal(state[~touched], speeds[~touched])
        assert (weight[touched] != before[touched]).any(dim=-1).all()
        assert touched.sum() == 40


def test_fused_and_sparse_steps_end_alike() -> None:
    ends = []
    for fused in (False, True):
        made = criterion(0.2, implementation=Chunked(workspace=10_000))
        optimizer = PrototypeSGD(
            made.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01, nesterov=True, fused=fused
        )
        for step in range(3):
            sum(made(*batch(step))).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(made.arcface.prototypes.detach())
    torch.testing.assert_close(*ends, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("implementation", ["auto", "chunked"])
def test_a_rate_of_one_is_the_full_loss_bit_for_bit(implementation: str) -> None:
    ends = []
    for options in ({}, {"sample_rate": 1.0, "sample_generator": torch.Generator()}):
        g = torch.Generator().manual_seed(0)
        made = MarginSoftmaxLoss(C, D, implementation=implementation, generator=g, **options)
        optimizer = PrototypeSGD(made.parameters(), lr=0.3, momentum=0.9, weight_decay=0.01)
        losses = []
        for step in range(3):
            x, y = batch(step)
            losses.append(made(x.float(), y))
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append((losses, made.prototypes))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_sample_of_all_classes_gives_the_full_loss() -> None:
    full, sampled = criterion(1.0, implementation="chunked"), criterion(0.999)
    x, y = batch()
    assert len(sample_classes(y.clamp(min=-1), C, 0.999)) == C
    for made in (full, sampled):
        sum(made(x, y)).backward()
    torch.testing.assert_close(
        sampled.arcface.prototypes.grad.to_dense(), full.arcface.prototypes.grad
    )


def test_evaluation_counts_all_classes() -> None:
    full, sampled = criterion(1.0).eval(), criterion(0.1).eval()
    x, y = batch()
    assert full(x, y) == sampled(x, y)


def test_accumulated_sparse_gradients_add_up() -> None:
    made = criterion(0.1)
    x, y = batch()
    draws = torch.Generator().manual_seed(5)
    total = torch.zeros(C, D, dtype=torch.float64)
    for _ in range(2):
        sum(made(x, y)).backward()
        sample_classes(y, C, 0.1, draws)
    twice = made.arcface.prototypes.grad.to_dense()
    made.arcface.sample_generator = torch.Generator().manual_seed(5)
    for _ in range(2):
        made.zero_grad()
        sum(made(x, y)).backward()
        total += made.arcface.prototypes.grad.to_dense()
    torch.testing.assert_close(twice, total)


@pytest.mark.parametrize("implementation", ["reference", Chunked(workspace=2000)], ids=str)
def test_conflicting_classes_do_not_count(implementation) -> None:
    x, y = batch()
    g = torch.Generator().manual_seed(0)
    w = torch.randn(C, D, generator=g, dtype=torch.float64)
    limit = 0.5
    cosines = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(w).T
    own = torch.nn.functional.one_hot(y.clamp(min=0), C).bool()
    conflicting = (cosines > limit) & ~own
    assert conflicting.any()
    psi = torch.cos(cosines.clamp(-1, 1).acos() + 0.5)
    beyond = cosines + torch.cos(torch.tensor(0.5, dtype=torch.float64)) - 1
    psi = torch.where(cosines.clamp(-1, 1).acos() + 0.5 < torch.pi, psi, beyond)
    logits = 30 * torch.where(own, psi, cosines)
    expected = torch.nn.functional.cross_entropy(
        logits.masked_fill(conflicting, -torch.inf), y, ignore_index=-100
    )
    found = margin_softmax_loss(
        x, w, y, ArcFace(0.5), 30.0, conflict_threshold=limit, implementation=implementation
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_rate": 0.0}, r"sample_rate must be in \(0, 1\], got 0.0"),
        ({"sample_rate": 1.5}, r"sample_rate must be in \(0, 1\], got 1.5"),
        ({"conflict_threshold": 0.0}, r"conflict_threshold must be None or in \(0, 1\], got 0.0"),
        (
            {"sample_rate": 0.5, "label_smoothing": 0.1},
            "label_smoothing must be 0 with a sample_rate below 1, got 0.1",
        ),
        (
            {"conflict_threshold": 0.5, "label_smoothing": 0.1},
            "label_smoothing must be 0 with a conflict_threshold, got 0.1",
        ),
        ({"sample_rate": True}, r"sample_rate must be in \(0, 1\], got True"),
        ({"conflict_threshold": "x"}, r"conflict_threshold must be None or in \(0, 1\], got 'x'"),
        ({"s": "30"}, "s must be positive and finite, got '30'"),
        ({"margin": "arcface"}, r"margin must be a margin such as ArcFace\(0.5\).*got 'arcface'"),
        ({"margin": ArcFace}, "margin must be a margin such as .*got <class"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterArcFaceLoss(C, D, **options)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (torch.zeros(3), 10, r"labels must be \(N,\) integers, got \(3,\) torch.float32"),
        (torch.zeros(3, 1, dtype=torch.long), 10, r"labels must be \(N,\) integers, got \(3, 1\)"),
        (torch.zeros(3, dtype=torch.long), -1, "num_classes must be an integer, 0 or more, got -1"),
    ],
)
def test_a_sample_of_nonsense_is_named(labels, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_classes(labels, classes, 0.5)


def test_labels_of_any_integers_and_of_other_classes() -> None:
    sample = sample_classes(torch.tensor([3, 200, 7], dtype=torch.uint8), 50, 0.1)
    assert {3, 7} <= set(sample.tolist())
    assert sample.max() < 50
