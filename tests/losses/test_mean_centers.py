"""Mean centers with negatives against plain loops, and the running mean against its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from centerarc.losses import CenterArcFaceLoss, Chunked, MeanCenterLoss, mean_center_loss
from tests.losses import loops
from tests.losses.loops import problem

IMPLEMENTATIONS = ["reference", "chunked", Chunked(workspace=600)]
IGNORED = -100


def contrast(x: Tensor, c: Tensor, y: Tensor, seen: list[bool], t: float) -> list[float]:
    losses = []
    for row, label in zip(x, y.tolist(), strict=True):
        if label == IGNORED or not seen[label]:
            losses.append(0.0)
            continue
        logits = {j: t * loops.cosine(row, c[j]) for j in range(len(c)) if seen[j]}
        top = max(logits.values())
        total = math.fsum(math.exp(z - top) for z in logits.values())
        losses.append(top + math.log(total) - logits[label])
    return losses


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
@pytest.mark.parametrize("t", [4.0, 100.0])
def test_the_loss_is_its_formula(implementation: object, t: float) -> None:
    x, c, y = problem(9, 6, 5)
    y[2] = IGNORED
    y[3] = 4
    seen = torch.tensor([True, True, False, True, False, True])
    for given, flags in ((None, [True] * 6), (seen, seen.tolist())):
        out = mean_center_loss(
            x, c, y, seen=given, temperature=t, reduction="none", implementation=implementation
        )
        expected = torch.tensor(contrast(x, c, y, flags, t), dtype=torch.float64)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        mean = mean_center_loss(x, c, y, seen=given, temperature=t, implementation=implementation)
        torch.testing.assert_close(mean, expected.sum() / 8)


def test_the_loss_is_cross_entropy_of_the_cosines() -> None:
    x, c, y = problem(7, 5, 4)
    out = mean_center_loss(x, c, y, temperature=10.0)
    logits = 10 * F.normalize(x) @ F.normalize(c).T
    expected = F.cross_entropy(logits, y)
    torch.testing.assert_close(out, expected)
    (mine,) = torch.autograd.grad(out, x)
    (theirs,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(mine, theirs)


def test_without_negatives_it_is_the_pull() -> None:
    x, c, y = problem(7, 5, 4)
    seen = torch.tensor([True, True, True, True, False])
    out = mean_center_loss(x, c, y, seen=seen, negatives=False, reduction="none")
    pull = (1 - F.cosine_similarity(x, c[y])).where(y != 4, 0.0)
    torch.testing.assert_close(out, pull)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
@pytest.mark.parametrize("negatives", [True, False])
def test_gradcheck(implementation: object, negatives: bool) -> None:
    x, c, y = problem(5, 4, 3)
    y[0] = IGNORED
    seen = torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(
        lambda a: mean_center_loss(
            a, c, y, seen=seen, negatives=negatives, implementation=implementation
        ),
        x,
    )


def test_centers_get_no_gradient() -> None:
    x, c, y = problem(5, 4, 3)
    mean_center_loss(x, c, y).backward()
    assert c.grad is None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=str)
@pytest.mark.parametrize("flags", [[False] * 3, [True, False, False]], ids=["none", "one"])
def test_too_few_centers_for_a_contrast_are_no_loss(
    implementation: object, flags: list[bool]
) -> None:
    x, c, y = problem(6, 3, 4)
    out = mean_center_loss(x, c, y, seen=torch.tensor(flags), implementation=implementation)
    out.backward()
    assert out.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def running_means(batches: list[tuple[Tensor, Tensor]], classes: int, momentum: float) -> list:
    means: list[list[float] | None] = [None] * classes
    counts = [0] * classes
    for x, y in batches:
        for j in range(classes):
            members = [row.tolist() for row, label in zip(x, y.tolist(), strict=True) if label == j]
            if not members:
                continue
            unit = [[v / math.sqrt(sum(w * w for w in m)) for v in m] for m in members]
            mean = [math.fsum(column) / len(unit) for column in zip(*unit, strict=True)]
            counts[j] += len(unit)
            rate = max(len(unit) / counts[j], 1 - momentum)
            old = means[j] or [0.0] * len(mean)
            means[j] = [a + rate * (b - a) for a, b in zip(old, mean, strict=True)]
    return [means, counts]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_centers_are_running_means(momentum: float) -> None:
    criterion = MeanCenterLoss(5, 3, momentum=momentum).double()
    batches = []
    for _ in range(6):
        x, _, y = problem(7, 4, 3)
        y[1] = IGNORED
        batches.append((x.detach(), y))
        criterion(x, y)
    means, counts = running_means(batches, 5, momentum)
    assert criterion.counts.tolist() == counts
    assert criterion.seen.tolist() == [True] * 4 + [False]
    assert not criterion.centers[4].any()
    for found, mean in zip(criterion.centers[:4].tolist(), means, strict=False):
        assert found == pytest.approx(mean, rel=1e-12, abs=1e-12)


def test_centers_stand_still_in_evaluation_and_where_told_to() -> None:
    x, _, y = problem(7, 4, 3, dtype=torch.float32)
    criterion = MeanCenterLoss(4, 3, update_on_forward=False)
    criterion(x, y)
    assert not criterion.seen.any()
    criterion.update_centers(x, y)
    before = criterion.centers.clone()
    criterion.eval()(x, y)
    assert torch.equal(criterion.centers, before)
    criterion.update_centers(x, torch.full((7,), IGNORED))
    assert torch.equal(criterion.centers, before)


def test_embeddings_of_no_length_do_not_count() -> None:
    criterion = MeanCenterLoss(3, 2)
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    criterion(x, torch.tensor([0, 0, 1]))
    assert criterion.counts.tolist() == [1, 0, 0]
    assert criterion.centers.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_state_resumes_the_mean() -> None:
    x, _, y = problem(12, 4, 3, dtype=torch.float32)
    whole, half = MeanCenterLoss(4, 3), MeanCenterLoss(4, 3)
    half(x[:6], y[:6])
    other = MeanCenterLoss(4, 3)
    other.load_state_dict(half.state_dict())
    whole(x[:6], y[:6])
    assert torch.equal(whole(x[6:], y[6:]), other(x[6:], y[6:]))
    assert torch.equal(whole.centers, other.centers)
    assert torch.equal(whole.counts, other.counts)


def test_the_joint_loss_has_it() -> None:
    x, _, y = problem(8, 5, 4, dtype=torch.float32)
    joint = CenterArcFaceLoss(5, 4, centers="mean", center_temperature=8.0, center_momentum=0.5)
    alone = MeanCenterLoss(5, 4, temperature=8.0, momentum=0.5)
    for _ in range(3):
        pull = joint.center_pull(x, y)
        _, center = joint(x, y)
        torch.testing.assert_close(pull.mean(), center)
        torch.testing.assert_close(center, alone(x, y))
    assert torch.equal(joint.centers, alone.centers)
    assert torch.isfinite(joint.separation(y))
    assert sorted(joint.state_dict()) == [
        "arcface.prototypes",
        "center.centers",
        "center.counts",
    ]


def test_the_joint_loss_samples_negatives_as_the_head_does() -> None:
    x, _, y = problem(4, 40, 6, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    joint = CenterArcFaceLoss(
        40, 6, centers="mean", sample_rate=0.3, sample_generator=generator, update_on_forward=False
    )
    joint.update_centers(torch.randn(60, 6), torch.arange(60) % 40)
    terms = joint.arcface.terms(x, y)
    assert terms.sample is not None
    generator.manual_seed(1)
    _, center = joint(x, y)
    kept = torch.zeros(40, dtype=torch.bool)
    kept[terms.sample] = True
    assert kept.sum() == 12
    expected = mean_center_loss(x, joint.centers, y, seen=kept)
    torch.testing.assert_close(center, expected)
    _, of_all = joint.eval()(x, y)
    torch.testing.assert_close(of_all, mean_center_loss(x, joint.centers, y))


def test_bfloat16_autocast_stays_close() -> None:
    x, c, y = problem(64, 300, 32, dtype=torch.float32)
    exact = mean_center_loss(x.double(), c.double(), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_center_loss(x, c, y, implementation="chunked")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be"),
        ({"seen": torch.ones(3)}, r"seen must be \(4,\) bool"),
        ({"reduction": "all"}, "reduction must be"),
        ({"centers": torch.ones(4)}, r"centers must be \(C, D\)"),
        ({"labels": torch.tensor([0, 4])}, r"labels must be in \[0, 4\)"),
    ],
)
def test_wrong_input_is_named(change: dict, message: str) -> None:
    given = {"features": torch.ones(2, 3), "centers": torch.ones(4, 3), "labels": torch.zeros(2)}
    given["labels"] = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=message):
        mean_center_loss(**{**given, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"temperature": -1}, "temperature must be"),
        ({"num_classes": 0}, "num_classes must be"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanCenterLoss(**{"num_classes": 4, "feat_dim": 3, **options})


@pytest.mark.parametrize("option", ["center_momentum", "center_temperature"])
def test_the_joint_loss_names_the_setting_that_is_its_own(option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} must be .*, got -1"):
        CenterArcFaceLoss(4, 3, centers="mean", **{option: -1})


def test_means_are_of_unit_vectors() -> None:
    with pytest.raises(ValueError, match="center_space must be 'unit' with centers='mean'"):
        CenterArcFaceLoss(4, 3, centers="mean", center_space="raw")
