"""The unified threshold against plain loops, with memory and over centers."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from centerarc.losses import (
    CenterArcFaceLoss,
    MeanCenterLoss,
    UnifiedThresholdLoss,
    unified_threshold_loss,
)
from tests.losses import loops
from tests.losses.loops import problem

IGNORED = -100


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def lse(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def pairs(
    x: Tensor, y: list[int], b: float, s: float, others: Tensor | None = None, owners: tuple = ()
) -> list[float]:
    rows = [*x, *(others if others is not None else ())]
    labels = [*y, *owners]
    losses = []
    for i, label in enumerate(y):
        if label == IGNORED:
            losses.append(0.0)
            continue
        same, other = [], []
        for j, owner in enumerate(labels):
            if j == i or owner < 0:
                continue
            (same if owner == label else other).append(s * loops.cosine(x[i], rows[j]))
        loss = math.fsum(softplus(b - z) for z in same) / len(same) if same else 0.0
        losses.append(loss + (softplus(lse(other) - b) if other else 0.0))
    return losses


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("s", [16.0, 200.0])
def test_the_loss_is_its_formula(reduction: str, s: float) -> None:
    x, _, y = problem(9, 3, 5)
    y[2], y[5] = IGNORED, 7  # a person with one image
    expected = torch.tensor(pairs(x, y.tolist(), 3.0, s), dtype=torch.float64)
    wanted = {"mean": expected.sum() / 8, "sum": expected.sum(), "none": expected}[reduction]
    out = unified_threshold_loss(x, y, 3.0, s=s, reduction=reduction)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


def test_others_take_part_on_both_sides() -> None:
    x, others, y = problem(6, 4, 5)
    owners = torch.tensor([0, 1, -1, 9])
    expected = pairs(x, y.tolist(), 2.0, 16.0, others, tuple(owners.tolist()))
    out = unified_threshold_loss(x, y, 2.0, others=others, other_labels=owners, reduction="none")
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, -100], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5]])
def test_gradcheck(labels: list[int]) -> None:
    x, others, _ = problem(6, 3, 4)
    b = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)

    def loss(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return unified_threshold_loss(
            a, torch.tensor(labels), b, others=c, other_labels=torch.tensor([0, -1, 8])
        )

    assert torch.autograd.gradcheck(loss, (x, b, others))


@pytest.mark.parametrize("labels", [[-100] * 4, [3] * 4, [0, 1, 2, 3], []])
def test_batches_without_pairs_of_a_kind(labels: list[int]) -> None:
    x = torch.randn(len(labels), 5, requires_grad=True)
    out = unified_threshold_loss(x, torch.tensor(labels, dtype=torch.int64), 8.0)
    out.backward()
    assert out.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_what_is_ignored_may_be_nan() -> None:
    x, _, y = problem(6, 3, 4)
    y[1] = IGNORED
    clean = unified_threshold_loss(x, y, 8.0)
    dirty = x.detach().clone()
    dirty[1] = math.nan
    assert torch.equal(unified_threshold_loss(dirty, y, 8.0), clean)


def test_the_threshold_settles_between_genuine_and_impostor_scores() -> None:
    criterion = UnifiedThresholdLoss(s=16.0, threshold=-0.5)
    optimizer = torch.optim.SGD(criterion.parameters(), lr=1.0)
    x = torch.nn.functional.normalize(torch.eye(4)[[0, 0, 1, 1, 2, 2]] + 0.1)
    x[1::2] += 0.3 * torch.eye(4)[[1, 2, 3]]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for _ in range(200):
        optimizer.zero_grad()
        criterion(x, labels).backward()
        optimizer.step()
    cos = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T
    same = labels.unsqueeze(1) == labels
    off = ~torch.eye(6, dtype=torch.bool)
    assert cos[~same].max() < criterion.threshold < cos[same & off].min()


def test_the_memory_holds_the_last_embeddings() -> None:
    criterion = UnifiedThresholdLoss(memory=5, feat_dim=3).double()
    seen: list[tuple[Tensor, int]] = []
    for n in (3, 4, 2, 7, 1, 5):
        x, _, y = problem(n, 3, 3)
        y[0] = IGNORED
        y[n // 2] = IGNORED
        recent = seen[-5:]
        rows = torch.stack([r for r, _ in recent]) if recent else None
        owners = tuple(label for _, label in recent)
        expected = pairs(x, y.tolist(), 8.0, 16.0, rows, owners)
        out = criterion(x, y)
        torch.testing.assert_close(
            out, torch.tensor(sum(expected) / max(int((y >= 0).sum()), 1), dtype=torch.float64)
        )
        # What is ignored takes no place in the memory.
        kept = y != IGNORED
        seen += [(row.detach(), int(label)) for row, label in zip(x[kept], y[kept], strict=True)]
    before = criterion.memory.clone()
    criterion.eval()(x, y)
    assert torch.equal(criterion.memory, before)


def test_the_memory_survives_a_resume() -> None:
    x, _, y = problem(12, 3, 3, dtype=torch.float32)
    first = UnifiedThresholdLoss(memory=4, feat_dim=3)
    first(x[:6], y[:6])
    other = UnifiedThresholdLoss(memory=4, feat_dim=3)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(x[6:], y[6:]), other(x[6:], y[6:]))
    assert torch.equal(first.memory, other.memory)


def test_it_starts_again() -> None:
    criterion, fresh = (UnifiedThresholdLoss(memory=4, feat_dim=3) for _ in range(2))
    for tensor in criterion.state_dict().values():
        tensor.fill_(7)
    criterion.reset_parameters()
    for key, value in criterion.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key]), key


def over_centers(
    x: Tensor, c: Tensor, y: list[int], seen: list[bool], b: float, s: float
) -> list[float]:
    losses = []
    for row, label in zip(x, y, strict=True):
        if label == IGNORED:
            losses.append(0.0)
            continue
        z = {j: s * loops.cosine(row, c[j]) for j in range(len(c)) if seen[j]}
        loss = softplus(b - z[label]) if seen[label] else 0.0
        other = [value for j, value in z.items() if j != label]
        losses.append(loss + (softplus(lse(other) - b) if other else 0.0))
    return losses


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
@pytest.mark.parametrize("over", ["centers", "both"])
def test_over_centers(implementation: str, over: str) -> None:
    x, c, y = problem(8, 5, 4)
    y[1] = IGNORED
    seen = torch.tensor([True, True, False, True, True])
    criterion = UnifiedThresholdLoss(
        over=over, reduction="none", implementation=implementation
    ).double()
    for given, flags in ((None, [True] * 5), (seen, seen.tolist())):
        expected = over_centers(x, c, y.tolist(), flags, 8.0, 16.0)
        if over == "both":
            others = pairs(x, y.tolist(), 8.0, 16.0)
            expected = [(p + q) / 2 for p, q in zip(expected, others, strict=True)]
        out = criterion(x, y, c, given)
        torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))
    out.sum().backward()
    assert c.grad is None
    assert criterion.bias.grad is not None


def test_over_centers_gradcheck() -> None:
    x, c, y = problem(5, 4, 3)
    criterion = UnifiedThresholdLoss(over="both").double()
    assert torch.autograd.gradcheck(lambda a: criterion(a, y, c), x)


def test_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    backbone = torch.nn.Linear(6, 4)
    criterion, pull = CenterArcFaceLoss(5, 4, centers="mean"), UnifiedThresholdLoss()
    parameters = [*backbone.parameters(), *criterion.parameters(), *pull.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    images, labels = torch.randn(20, 6), torch.arange(20) % 5
    losses = []
    for _ in range(60):
        features = backbone(images)
        arcface, center = criterion(features, labels)
        loss = arcface + center + pull(features, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[1]


def test_centers_not_seen_take_no_part() -> None:
    means = MeanCenterLoss(6, 4)
    x, _, y = problem(5, 3, 4, dtype=torch.float32)
    criterion = UnifiedThresholdLoss(over="centers")
    assert criterion(x, y, means.centers, means.seen).item() == 0
    means(x, y)
    assert criterion(x, y, means.centers, means.seen).item() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s": 0.0}, "s must be"),
        ({"over": "all"}, "over must be"),
        ({"memory": -1}, "memory must be an integer, 0 or more, got -1"),
        ({"memory": 4}, "feat_dim, the embedding size, must be given with a memory"),
        ({"memory": 4, "over": "centers"}, "memory must be 0 with over='centers'"),
        ({"feat_dim": 0}, "feat_dim must be a positive integer, got 0"),
        ({"threshold": 1.0}, r"threshold must be in \(-1, 1\), got 1.0"),
        ({"threshold": None}, r"threshold must be in \(-1, 1\), got None"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnifiedThresholdLoss(**options)


@pytest.mark.parametrize(
    ("options", "labels", "warned"),
    [
        ({}, lambda step: torch.arange(4) + 4 * step, 16),
        ({}, lambda step: torch.arange(4) // (2 if step % 16 == 15 else 1), None),
        ({}, lambda step: torch.tensor([0, -100, -100, 1]), 16),  # ignored ones are no pair
        ({"memory": 8, "feat_dim": 3}, lambda step: torch.arange(4) + 4 * (step // 2), None),
        ({"memory": 8, "feat_dim": 3}, lambda step: torch.arange(4) + 4 * step, 16),
        ({"over": "centers"}, lambda step: torch.arange(4), None),
    ],
)
def test_batches_without_pairs_are_warned_of_once(options: dict, labels, warned) -> None:
    criterion = UnifiedThresholdLoss(**options)
    centers = (torch.randn(4, 3),) if options.get("over") else ()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        criterion.eval()
        for _ in range(20):
            criterion(torch.randn(4, 3), torch.arange(4), *centers)
        criterion.train()
        said = []
        for step in range(50):
            criterion(torch.randn(4, 3), labels(step), *centers)
            said.append(len(caught))
    assert said == [0] * 50 if warned is None else said == [0] * (warned - 1) + [1] * (51 - warned)
    assert all("data.sampler.kind: identities" in str(one.message) for one in caught)
    assert all(one.filename == __file__ for one in caught)


def test_wrong_input_is_named() -> None:
    x, c, y = torch.randn(3, 4), torch.randn(2, 4), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="centers must not be given with over='pairs'"):
        UnifiedThresholdLoss()(x, y, c)
    with pytest.raises(ValueError, match="centers must be given with over='both'"):
        UnifiedThresholdLoss(over="both")(x, y)
    with pytest.raises(ValueError, match="others and other_labels must be given together"):
        unified_threshold_loss(x, y, 8.0, others=x)
    with pytest.raises(ValueError, match=r"features must be \(N, 9\), as feat_dim says"):
        UnifiedThresholdLoss(memory=3, feat_dim=9)(x, y)
    with pytest.raises(ValueError, match=r"features must be \(N, 9\), as feat_dim says"):
        UnifiedThresholdLoss(feat_dim=9)(x, y)
    with pytest.raises(ValueError, match="seen must be left out without centers"):
        UnifiedThresholdLoss()(x, y, seen=torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"must be 0 or more or ignore_index -100, got -5 at row"):
        unified_threshold_loss(x, torch.tensor([-5, 0, 1]), 8.0)
    with pytest.raises(ValueError, match=r"other_labels must be integers, got torch.float32"):
        unified_threshold_loss(x, y, 8.0, others=x, other_labels=y.float())
    with pytest.raises(ValueError, match=r"others must be floating point, got torch.int64"):
        unified_threshold_loss(x, y, 8.0, others=x.long(), other_labels=y)
    with pytest.raises(ValueError, match=r"bias must be a scalar, got \(2,\)"):
        unified_threshold_loss(x, y, torch.zeros(2))
    with pytest.raises(ValueError, match=r"features must be \(N, 5\) as the centers are"):
        UnifiedThresholdLoss(over="centers")(x, y, torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 0\)"):
        UnifiedThresholdLoss(over="centers")(x, y, torch.randn(0, 4))
    with pytest.raises(ValueError, match="features must be finite"):
        unified_threshold_loss(x * math.nan, y, 8.0)
