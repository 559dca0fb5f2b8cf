"""AdaFace and MagFace, against their formulas written once more with numpy."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from centerarc.losses import AdaFace, ArcFace, CosFace, MagFace, MarginSoftmaxLoss, Target
from centerarc.losses.margins import NO_LABEL, target_angle
from tests.losses import loops


def targets(theta: list[float], lengths: list[float], labels: list[int] | None = None) -> Target:
    angle = torch.tensor(theta, dtype=torch.float64)
    norm = torch.tensor(lengths, dtype=torch.float64)
    known = None if labels is None else torch.tensor(labels)
    return Target(cos=angle.cos(), sin=angle.sin(), norm=norm, labels=known)


THETA = [0.1, 0.6, 1.2, 1.9, 2.5]
LENGTHS = [4.0, 11.0, 19.0, 30.0, 250.0]


def adaface_by_hand(
    theta: list[float], lengths: list[float], m: float, h: float, mean: float, std: float
) -> np.ndarray:
    """Kim et al. 2022: z, g_angle and g_add, and of cos(theta + g_angle) - g_add."""
    quality = np.clip((np.clip(lengths, 1e-3, 100) - mean) / (std + 1e-3) * h, -1, 1)
    angle, add = -m * quality, m * quality + m
    return np.cos(np.clip(np.array(theta) + angle, 0, math.pi)) - add


def test_adaface_is_its_formula_with_running_statistics() -> None:
    margin = AdaFace(m=0.4, h=0.333, alpha=0.01).double()
    mean, std = 20.0, 100.0
    for _ in range(400):
        psi = margin(targets(THETA, LENGTHS))
        clipped = np.clip(LENGTHS, 1e-3, 100)
        mean = 0.01 * clipped.mean() + 0.99 * mean
        std = 0.01 * clipped.std(ddof=1) + 0.99 * std
    assert margin.mean.item() == pytest.approx(mean, rel=1e-12)
    assert margin.deviation.item() == pytest.approx(std, rel=1e-12)
    expected = adaface_by_hand(THETA, LENGTHS, 0.4, 0.333, mean, std)
    np.testing.assert_allclose(psi.numpy(), expected, rtol=0, atol=1e-12)


def test_adaface_goes_from_arcface_over_cosface_to_a_negative_angle() -> None:
    margin = AdaFace(m=0.3, h=0.5).double().eval()
    margin.mean.fill_(20.0)
    margin.deviation.fill_(5.0 - 1e-3)
    low, middle, high = (targets(THETA, [length] * 5) for length in (10.0, 20.0, 30.0))
    torch.testing.assert_close(margin(low), ArcFace(0.3)(low), rtol=0, atol=1e-12)
    torch.testing.assert_close(margin(middle), CosFace(0.3)(middle), rtol=0, atol=1e-12)
    angle = (torch.tensor(THETA, dtype=torch.float64) - 0.3).clamp(min=0)
    torch.testing.assert_close(margin(high), angle.cos() - 0.6, rtol=0, atol=1e-12)


def test_adaface_learns_nothing_of_the_length() -> None:
    x = (20 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    w = torch.randn(6, 4, dtype=torch.float64)
    AdaFace(alpha=1.0)(target_angle(x, w)).sum().backward()
    assert x.grad is not None
    # What turns an embedding is at right angles to it.
    assert (x.grad * x.detach()).sum(dim=1).abs().max() < 1e-12 * x.grad.norm()


def test_adaface_takes_its_statistics_of_samples_that_count() -> None:
    margin = AdaFace(alpha=1.0).double()
    margin(targets([1.0] * 4, [10.0, 30.0, math.nan, 5.0], [3, 0, NO_LABEL, NO_LABEL]))
    assert margin.mean.item() == 20
    assert margin.deviation.item() == pytest.approx(math.sqrt(200))
    before = copy.deepcopy(margin.state_dict())
    for lengths, labels in (
        ([7.0, 9.0], [1, NO_LABEL]),  # a single one has no deviation
        ([7.0, 9.0], [NO_LABEL, NO_LABEL]),
        ([7.0, math.nan], [1, 2]),
    ):
        margin(targets([1.0, 1.0], lengths, labels))
        assert margin.state_dict() == before
    margin.eval()
    margin(targets([1.0, 1.0], [7.0, 9.0], [1, 2]))
    assert margin.state_dict() == before


def test_the_criterion_holds_the_statistics() -> None:
    x, y = loops.batch()
    criterion = MarginSoftmaxLoss(7, 5, AdaFace(0.4), 20.0)
    criterion(x, y)
    moved = criterion.state_dict()
    assert moved["margin.mean"] != 20
    other = MarginSoftmaxLoss(7, 5, AdaFace(0.4), 20.0)
    other.load_state_dict(moved)
    other.eval()
    criterion.eval()
    assert torch.equal(other(x, y), criterion(x, y))
    assert criterion.state_dict()["margin.mean"] == moved["margin.mean"]
    assert criterion.double().margin.mean.dtype == torch.float64


def magface_by_hand(theta: list[float], lengths: list[float]) -> np.ndarray:
    """Meng et al. 2021, at theta + m up to pi."""
    a = np.clip(lengths, 10, 110)
    return np.cos(np.array(theta) + (0.8 - 0.45) / (110 - 10) * (a - 10) + 0.45)


def test_magface_is_its_formula() -> None:
    theta, lengths = [0.1, 0.6, 1.2, 1.9, 2.3], [0.0, 10.0, 40.0, 110.0, 500.0]
    psi = MagFace()(targets(theta, lengths))
    np.testing.assert_allclose(psi.numpy(), magface_by_hand(theta, lengths), rtol=0, atol=1e-12)


def test_magface_adds_its_regularizer_to_the_loss_of_each_sample() -> None:
    x, w, y = loops.problem(6, 5, 4)
    x = (40 * x.detach()).requires_grad_()
    y[3] = -100
    weight = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    margin = MagFace(lambda_g=20.0)
    criterion = MarginSoftmaxLoss(5, 4, margin, 16.0, weight=weight, reduction="none").double()
    criterion.prototypes.data = w.detach()
    lengths = np.linalg.norm(x.detach().numpy(), axis=1)
    assert lengths.min() < 110
    a = np.clip(lengths, 10, 110)
    expected = []
    for i in range(6):
        row = [16.0 * loops.cosine(x[i], c) for c in w]
        label = int(y[i])
        if label >= 0:
            m = 0.45 + 0.0035 * (a[i] - 10)
            row[label] = 16.0 * loops.arcface(row[label] / 16.0, m)
            part = loops.cross_entropy(row, label) + 20 * (a[i] / 110**2 + 1 / a[i])
            expected.append(weight[label].item() * part)
        else:
            expected.append(0.0)
    found = criterion(x, y)
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-12, atol=1e-12)
    smoothed = MarginSoftmaxLoss(5, 4, margin, 16.0, label_smoothing=0.1).double()
    plain = MarginSoftmaxLoss(5, 4, MagFace(lambda_g=0.0), 16.0, label_smoothing=0.1).double()
    for made in (smoothed, plain):
        made.prototypes.data = w.detach()
    known = y >= 0
    penalty = torch.from_numpy(20 * (a / 110**2 + 1 / a))[known].mean()
    torch.testing.assert_close(smoothed(x, y) - plain(x, y), penalty)


def loss_of(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
    criterion = MarginSoftmaxLoss(5, 4, MagFace(l_a=0.5, u_a=4.0), 8.0, implementation="reference")
    criterion.double().prototypes = torch.nn.Parameter(w)
    return torch.func.functional_call(criterion, {"prototypes": w}, (x, y))


def test_gradcheck_of_the_whole_loss_with_the_regularizer() -> None:
    x, w, y = loops.problem(5, 5, 4)
    assert torch.autograd.gradcheck(lambda a, b: loss_of(a, b, y), (x, w))


def test_from_its_least_weight_on_the_regularizer_makes_the_shortest_longer() -> None:
    s, slope = 64.0, 0.35 / 100
    least = s * slope * 110**2 * 10**2 / (110**2 - 10**2)
    assert least == pytest.approx(22.6, abs=0.05)
    theta = torch.linspace(0, math.pi, 200, dtype=torch.float64)
    norm = torch.full_like(theta, 10.0, requires_grad=True)
    target = Target(cos=theta.cos(), sin=theta.sin(), norm=norm)
    margin = MagFace(lambda_g=1.0001 * least)
    # The loss falls with psi by at most s.
    loss = -s * margin(target) + margin.penalty(target)
    (gradient,) = torch.autograd.grad(loss.sum(), norm)
    assert (gradient < 0).all()
    weaker = replace(margin, lambda_g=0.9 * least)
    loss = -s * weaker(target) + weaker.penalty(target)
    (gradient,) = torch.autograd.grad(loss.sum(), norm)
    assert (gradient > 0).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdaFace(m=1.1), r"AdaFace: m must be in \[0, 1\], got 1.1"),
        (lambda: AdaFace(h=0.0), "AdaFace: h must be positive and finite, got 0.0"),
        (lambda: AdaFace(alpha=0.0), "AdaFace: alpha must be positive"),
        (lambda: AdaFace(alpha=1.5), r"AdaFace: alpha must be in \(0, 1\], got 1.5"),
        (lambda: MagFace(l_m=-0.1), r"MagFace: l_m must be in \[0, pi/2\] radians, got -0.1"),
        (lambda: MagFace(u_m=0.4), r"MagFace: u_m must be in \[0.45, pi/2\] radians, got 0.4"),
        (lambda: MagFace(l_a=0.0), "MagFace: l_a must be positive and finite, got 0.0"),
        (lambda: MagFace(u_a=10.0), "MagFace: u_a must be above l_a, 10, got 10.0"),
        (lambda: MagFace(u_a=math.inf), "MagFace: u_a must be positive and finite, got inf"),
        (lambda: MagFace(lambda_g=-1.0), r"MagFace: lambda_g must be in \[0, 1e9\], got -1.0"),
        (lambda: MagFace(lambda_g=math.nan), r"MagFace: lambda_g must be in \[0, 1e9\], got nan"),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
