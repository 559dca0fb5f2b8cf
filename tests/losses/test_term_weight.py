"""The weight of an added term is what its formula says, from the steps before, on every rank."""

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from centerarc.losses import CenterArcFaceLoss, TermWeight
from tests.distributed.pool import Pool


def norms(steps: int) -> Tensor:
    """(steps, 2) float64 gradient norms."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(steps, 2, generator=generator, dtype=torch.float64) + 0.5


def smoothed(values: Tensor, smoothing: float) -> Tensor:
    """Mean of all values, each weighing `smoothing` times the next one; written from the text."""
    ages = torch.arange(len(values) - 1, -1, -1, dtype=torch.float64)
    shares = smoothing**ages
    return (shares[:, None] * values.reshape(len(values), -1)).sum(0) / shares.sum()


def values_of(weight: TermWeight, steps: int, **given: Any) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(weight.value.item())
        weight.update(**given)
    return found


def test_a_number_stays_and_needs_no_updates() -> None:
    weight = TermWeight(0.25)
    assert weight.constant == 0.25
    before = copy.deepcopy(weight.state_dict())
    assert values_of(weight, 3, target_cosine=torch.tensor(0.5)) == [0.25] * 3
    assert all(torch.equal(before[name], tensor) for name, tensor in weight.state_dict().items())


def test_a_ramp_rises_linearly_from_zero_and_stays() -> None:
    assert values_of(TermWeight(2.0, ramp_steps=4), 7) == [0, 0.5, 1, 1.5, 2, 2, 2]


@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_auto_keeps_the_ratio_of_smoothed_norms_of_earlier_steps(smoothing: float) -> None:
    weight = TermWeight("auto", ratio=0.3, smoothing=smoothing)
    measured = norms(6)
    assert weight.value == 0
    for step, (arcface, term) in enumerate(measured, 1):
        weight.update(arcface.float(), term.float())
        mean = smoothed(measured[:step], smoothing)
        assert weight.value.item() == pytest.approx(float(0.3 * mean[0] / mean[1]), rel=1e-5)


def test_what_measured_nothing_does_not_count() -> None:
    weight = TermWeight("auto", from_cosine=-1.0)
    one = torch.tensor(1.0)
    weight.update(2 * one, 4 * one, one)
    kept = copy.deepcopy(weight.state_dict())
    kept["steps"] += 4
    for arcface, term, cosine in (
        (one, 0 * one, one * torch.nan),  # a batch without a pair, or without a valid label
        (one * torch.inf, one * torch.inf, one * torch.nan),  # fp16 overflowed
        (one * torch.nan, one, one * torch.inf),
    ):
        weight.update(arcface, term, cosine)
    weight.update(None, None, None)
    for name, tensor in weight.state_dict().items():
        assert torch.equal(tensor, kept[name]), name
    assert weight.value == 0.25  # 0.5 2 / 4


def test_it_starts_where_the_smoothed_cosine_passes_a_level_and_stays_on() -> None:
    cosines = torch.tensor([0.1, 0.5, 0.2, 0.45, 0.5, 0.6, -1.0, -1.0, -1.0], dtype=torch.float64)
    means = [float(smoothed(cosines[: n + 1], 0.5)) for n in range(len(cosines))]
    first = next(step for step, mean in enumerate(means) if mean > 0.4)
    assert first == 4
    assert max(cosines[:first]) > 0.4 > means[-1]  # smoothed, and sticky
    weight = TermWeight(1.0, smoothing=0.5, ramp_steps=2, from_cosine=0.4)
    found = []
    for cosine, mean in zip(cosines, means, strict=True):
        found.append(weight.value.item())
        weight.update(target_cosine=cosine.float())
        assert weight.cosine.item() == pytest.approx(mean, rel=1e-5)
    assert found == [0, 0, 0, 0, 0, 0, 0.5, 1, 1]


def test_a_saved_one_continues_to_the_last_bit() -> None:
    def fresh() -> TermWeight:
        return TermWeight("auto", ratio=0.7, ramp_steps=5, from_cosine=0.2)

    def run(weight: TermWeight, steps: Tensor) -> list[Tensor]:
        found = []
        for arcface, term in steps.float():
            found.append(weight.value)
            weight.update(arcface, term, term - 0.7)
        return found

    whole, cut, resumed = fresh(), fresh(), fresh()
    expected = run(whole, norms(12))
    assert expected[-1] > 0
    run(cut, norms(12)[:6])
    resumed.load_state_dict(cut.state_dict())
    assert run(resumed, norms(12)[6:]) == expected[6:]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(8, 4, generator=generator, requires_grad=True)
    return features, torch.arange(8) % 5


def test_a_loop_of_ones_own_measures_at_the_features() -> None:
    criterion = CenterArcFaceLoss(5, 4, s=16.0, generator=torch.Generator().manual_seed(1))
    weight = TermWeight("auto", ratio=0.5, from_cosine=-1.0)
    features, labels = batch()
    arcface, center = criterion(features, labels)
    expected = [
        torch.autograd.grad(term, features, retain_graph=True)[0].double().norm()
        for term in (arcface, center)
    ]
    cosine = criterion.metrics.target_cosine  # type: ignore[union-attr]
    assert weight(arcface, center, features, target_cosine=cosine) == 0
    now = weight(arcface, center, features, target_cosine=cosine)
    assert not now.requires_grad
    assert now.item() == pytest.approx(float(0.5 * expected[0] / expected[1]), rel=1e-5)
    (arcface + now * center).backward()  # the graph is still there
    gradient = torch.autograd.grad(criterion(features, labels)[1], features)[0]
    assert float((now * gradient).norm() / expected[0]) == pytest.approx(0.5, rel=1e-5)


def test_samples_without_a_gradient_make_a_term_no_heavier() -> None:
    """A term of a few samples is that of all of them for each that it is of."""
    features, labels = batch()
    criterion = CenterArcFaceLoss(5, 4, reduction="none")
    arcface, center = criterion(features, labels)
    found = []
    for some in (slice(0, 8), slice(2, 3)):
        weight = TermWeight("auto")
        weight(arcface.sum(), center[some].sum(), features)
        found.append(weight.value.item())
    lengths = [
        torch.autograd.grad(losses.sum(), features, retain_graph=True)[0].double().norm(dim=1)
        for losses in (arcface, center)
    ]
    mean = lengths[0].square().mean().sqrt()
    assert found[0] == pytest.approx(
        float(0.5 * mean / lengths[1].square().mean().sqrt()), rel=1e-5
    )
    assert found[1] == pytest.approx(float(0.5 * mean / lengths[1][2]), rel=1e-5)


def test_calls_that_measure_nothing() -> None:
    features, labels = batch()
    arcface, center = CenterArcFaceLoss(5, 4)(features, labels)
    weight = TermWeight("auto")
    weight(arcface, center, features, measure=False)
    weight.eval()
    weight(arcface, center, features)
    assert weight.norms.sum() == 0
    assert TermWeight(0.5)(arcface.detach(), center.detach(), features) == 0.5


def test_ignored_samples_do_not_count_in_the_mean_cosine() -> None:
    weight, level = TermWeight(from_cosine=-0.5), torch.tensor([0.8, 0.0, 0.4, 0.0])
    nothing = torch.zeros(())
    weight(nothing, nothing, torch.zeros(4, 2), target_cosine=torch.zeros(4))
    assert not weight.started  # a batch of which all are ignored has no mean
    weight(nothing, nothing, torch.zeros(4, 2), target_cosine=level)
    torch.testing.assert_close(weight.cosine, torch.tensor(0.6))
    assert weight.started


@pytest.mark.parametrize("level", [None, 0.5])
def test_it_starts_again(level: float | None) -> None:
    weight, fresh = (TermWeight("auto", from_cosine=level) for _ in range(2))
    for tensor in weight.state_dict().values():
        tensor.fill_(7)
    weight.reset_parameters()
    for key, value in weight.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key]), key


def test_a_mean_of_exactly_zero_counts() -> None:
    weight = TermWeight(from_cosine=-0.5)
    weight(torch.zeros(()), torch.zeros(()), torch.zeros(4, 2), target_cosine=torch.zeros(()))
    assert weight.started


def test_wrong_arguments_are_named() -> None:
    for options, said in (
        ({"weight": -1.0}, "weight must be a number of at least 0, or 'auto', got -1.0"),
        ({"weight": "car"}, "weight must be a number of at least 0, or 'auto', got 'car'"),
        ({"ratio": 0.0}, "ratio must be positive"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
        ({"ramp_steps": 1.5}, "ramp_steps must be an integer of at least 0, got 1.5"),
        ({"from_cosine": 2.0}, r"from_cosine must be in \[-1, 1\] or None, got 2.0"),
        ({"ratio": 0.3}, "ratio must be left out without a weight of 'auto', got 0.3"),
        ({"ramp_steps": 9, "smoothing": 0.5}, "smoothing must be left out without a weight of"),
        ({"weight": 0, "ramp_steps": 9}, "ramp_steps must be left out with a weight of 0, got 9"),
        ({"weight": 0, "from_cosine": 0.1}, "from_cosine must be left out with a weight of 0"),
    ):
        with pytest.raises(ValueError, match=said):
            TermWeight(**options)
    features, labels = batch()
    arcface, center = CenterArcFaceLoss(5, 4)(features, labels)
    with pytest.raises(ValueError, match="target_cosine must be given with from_cosine"):
        TermWeight(from_cosine=0.2)(arcface, center, features)
    with pytest.raises(ValueError, match=r"must be scalars, as with reduction='mean', got \(\d"):
        TermWeight("auto")(features, arcface, center)  # in the wrong order
    with pytest.raises(ValueError, match="features must be the very tensor"):
        TermWeight("auto")(arcface, center, features.detach().requires_grad_())
    with pytest.raises(ValueError, match="must have a gradient at the features"):
        TermWeight("auto")(arcface, center, features.detach())


def _weights_on_rank(rank: int) -> list[float]:
    features, labels = batch()
    features = features.detach()[rank::2].requires_grad_()
    criterion = CenterArcFaceLoss(5, 4, generator=torch.Generator().manual_seed(1))
    weight = TermWeight("auto", from_cosine=-1.0)
    found = []
    for _ in range(3):
        arcface, center = criterion(features, labels[rank::2])
        assert criterion.metrics is not None
        cosine = criterion.metrics.target_cosine
        found.append(weight(arcface, center, features, target_cosine=cosine).item())
    dist.barrier()
    return found + weight.norms.tolist() + [weight.cosine.item()]


@pytest.mark.distributed
def test_ranks_agree_and_measure_what_one_process_does(pool: Pool) -> None:
    one, other = pool.run(_weights_on_rank, world_size=2)
    assert one == other
    features, labels = batch()
    criterion = CenterArcFaceLoss(5, 4, generator=torch.Generator().manual_seed(1))
    arcface, center = criterion(features, labels)
    weight = TermWeight("auto")
    weight(arcface, center, features)
    assert one[1] == pytest.approx(weight.value.item(), rel=1e-5)
    assert criterion.metrics is not None
    assert one[-1] == pytest.approx(criterion.metrics.target_cosine.mean().item(), rel=1e-5)
