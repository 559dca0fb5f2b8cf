"""Margins: their formulas, and what a training run feels of them."""

import math
from dataclasses import replace

import pytest
import torch

from centerarc.losses import (
    LDAM,
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    DynamicArcFace,
    ElasticArcFace,
    MagFace,
    Margin,
    MarginSoftmaxLoss,
    SphereFaceR,
    Target,
    create_margin,
    list_margins,
)
from centerarc.losses.class_size_margins import ClassSizeMargin
from centerarc.losses.margins import NO_LABEL, add_angle, margin_parameters, target_angle

SIZES = torch.tensor([1, 7, 300])


def made(name: str) -> Margin:
    margin = create_margin(name)
    if isinstance(margin, ClassSizeMargin):
        margin.set_counts(SIZES)
    return margin


def ada(mean: float, deviation: float) -> AdaFace:
    """In evaluation mode: at length 1, z is h (1 - mean) / deviation."""
    margin = AdaFace(0.4).eval()
    margin.mean.fill_(mean)
    margin.deviation.fill_(deviation)
    return margin


EVERY = [made(name) for name in list_margins()] + [
    ada(0.0, 0.1),  # of a high quality, z = 1
    ada(2.0, 0.1),  # of a low one, z = -1
    ada(0.0, 1.0),
    MagFace(0.0, 1.5, l_a=0.5, u_a=2.0),
    LDAM(2.0, SIZES),
    DynamicArcFace(1.0, 0.5, 1.0, SIZES),
    ElasticArcFace(0.5, 0.0),
    ArcFace(0.0),
    ArcFace(math.pi / 2),
    CombinedMargin(2.0, 0.3, 0.1),
    CombinedMargin(1.0, 0.5, 0.0),
    SphereFaceR(4.0),
    SphereFaceR(1.0),
]


def at(theta: torch.Tensor) -> Target:
    zeros = torch.zeros_like(theta)
    return Target(cos=theta.cos(), sin=theta.sin(), norm=zeros + 1, labels=zeros.long())


def steady(margin: Margin) -> Margin:
    """A function of the angle: without noise, and with statistics that stay."""
    return margin.eval() if isinstance(margin, torch.nn.Module) else margin


def grid(n: int = 20001) -> torch.Tensor:
    return torch.linspace(0, math.pi, n, dtype=torch.float64)


@pytest.mark.parametrize("margin", EVERY, ids=str)
def test_falls_and_never_jumps_over_all_angles(margin: Margin) -> None:
    psi = steady(margin)(at(grid()))
    steps = psi.diff()
    assert (steps <= 1e-12).all()
    # No angle changes faster than m theta can, so a step of the grid is small unless it is a jump.
    assert steps.abs().max() < 5 * math.pi / 20000


@pytest.mark.parametrize("margin", EVERY, ids=str)
def test_never_above_the_plain_cosine(margin: Margin) -> None:
    theta = grid()
    assert (steady(margin)(at(theta)) <= theta.cos() + 1e-12).all()


@pytest.mark.parametrize("margin", EVERY, ids=str)
@pytest.mark.parametrize("cos", [1.0, -1.0])
def test_gradient_is_finite_where_feature_and_prototype_align(margin: Margin, cos: float) -> None:
    x = torch.tensor([[3.0, 4.0, 0.0]], requires_grad=True)
    w = (cos * x.detach()).requires_grad_()
    target = replace(target_angle(x, w), labels=torch.zeros(1, dtype=torch.long))
    margin(target).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert w.grad is not None
    assert w.grad.isfinite().all()


def test_arcface_is_the_angle_plus_the_margin() -> None:
    theta = torch.linspace(0, math.pi - 0.5, 50, dtype=torch.float64)
    torch.testing.assert_close(ArcFace(0.5)(at(theta)), (theta + 0.5).cos(), rtol=0, atol=1e-15)


def test_arcface_is_continuous_where_the_usual_fallback_jumps() -> None:
    turn = math.pi - 0.5
    before, after = ArcFace(0.5)(at(torch.tensor([turn - 1e-7, turn + 1e-7], dtype=torch.float64)))
    assert 64 * abs(before - after) < 1e-4
    usual = math.cos(turn) - 0.5 * math.sin(0.5)
    assert 64 * abs(before - usual) > 7


def test_arcface_still_pulls_the_worst_samples() -> None:
    theta = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    ArcFace(0.5)(at(theta)).sum().backward()
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(-math.sin(3.0))


def test_combined_margin_is_each_of_the_three() -> None:
    target = at(grid(101))
    torch.testing.assert_close(CombinedMargin(1.0, 0.5, 0.0)(target), ArcFace(0.5)(target))
    torch.testing.assert_close(CombinedMargin(1.0, 0.0, 0.35)(target), CosFace(0.35)(target))
    theta = torch.linspace(0, math.pi / 1.5, 50, dtype=torch.float64)
    torch.testing.assert_close(
        CombinedMargin(1.5, 0.0, 0.0)(at(theta)), SphereFaceR(1.5)(at(theta))
    )


def test_small_angles_keep_their_digits_in_float32() -> None:
    for theta in (1e-1, 1e-2, 1e-3, 1e-4):
        x = torch.tensor([[1.0, 0.0]])
        w = torch.tensor([[math.cos(theta), math.sin(theta)]])
        assert target_angle(x, w).sin.item() == pytest.approx(math.sin(theta), rel=1e-5)


@pytest.mark.parametrize(
    "theta", [0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 1.5707, 1.571, 2.0, 3.1, math.pi]
)
def test_one_minus_cos_and_its_gradient_keep_their_digits_in_float32(theta: float) -> None:
    x = torch.randn(1, 64)
    away = torch.nn.functional.normalize(torch.randn(1, 64) - 0.1 * x)
    away = away - (away * x).sum() / x.square().sum() * x
    w = math.cos(theta) * torch.nn.functional.normalize(x)
    w = w + math.sin(theta) * torch.nn.functional.normalize(away)
    found = []
    for dtype in (torch.float32, torch.float64):
        a, b = (t.to(dtype, copy=True).requires_grad_() for t in (x, w))
        distance = target_angle(a, b).one_minus_cos
        if dtype == torch.float64:
            unit_a, unit_b = (torch.nn.functional.normalize(t) for t in (a, b))
            distance = (unit_a - unit_b).square().sum(dim=1) / 2
        distance.backward()
        found.append((distance.item(), a.grad.double(), b.grad.double()))
    ours, exact = found
    # Coordinates of a unit vector are known to 6e-8, and so is a distance of theta.
    assert ours[0] == pytest.approx(exact[0], rel=1e-6, abs=2e-7 * theta + 1e-13)
    for one, other in zip(ours[1:], exact[1:], strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm() + 2e-7 * b.norm()


@pytest.mark.parametrize("margin", EVERY, ids=str)
def test_gradcheck(margin: Margin) -> None:
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, NO_LABEL, 1])
    length = x.detach().norm(dim=1)

    def psi(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        target = replace(target_angle(a, b), labels=labels)
        if isinstance(margin, AdaFace):  # by design, its gradient leaves the length out
            target = replace(target, norm=length)
        return steady(margin)(target)

    assert torch.autograd.gradcheck(psi, (x, w))


def test_an_angle_of_each_sample_is_arcface_and_its_mirror() -> None:
    target = at(grid())
    for m in (0.0, 0.5, math.pi / 2):
        angle = torch.full_like(target.cos, m)
        torch.testing.assert_close(add_angle(target, angle), ArcFace(m)(target), rtol=0, atol=1e-15)
        theta = grid()
        expected = (theta - m).clamp(min=0).cos()
        torch.testing.assert_close(add_angle(target, -angle), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ArcFace(2.0), r"ArcFace: m must be in \[0, pi/2\] radians, got 2.0"),
        (lambda: ArcFace(math.nan), "ArcFace: m must be"),
        (lambda: CosFace(-0.1), r"CosFace: m must be in \[0, 2\], got -0.1"),
        (lambda: CombinedMargin(0.5), r"CombinedMargin: m1 must be in \[1, 4\], got 0.5"),
        (lambda: SphereFaceR(0.9), r"SphereFaceR: m must be in \[1, 4\], got 0.9"),
        (lambda: create_margin("arcfase"), "got 'arcfase'; did you mean 'arcface'"),
        (
            lambda: create_margin("arcface", s=3.0),
            "margin 'arcface' takes m, got the parameter 's'",
        ),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", list_margins())
def test_a_criterion_from_the_meta_device_starts_as_any(name: str) -> None:
    # As those do who make a model on the meta device: to_empty, then reset_parameters of each part.
    def make() -> MarginSoftmaxLoss:
        margin = create_margin(name)
        if isinstance(margin, ClassSizeMargin):
            margin.set_counts(torch.tensor([3, 1, 2], device="cpu"))
        return MarginSoftmaxLoss(3, 4, margin)

    with torch.device("meta"):
        criterion = make()
    criterion.to_empty(device="cpu")
    for tensor in criterion.state_dict().values():
        tensor.fill_(7)
    for part in criterion.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    expected = make().state_dict()
    state = criterion.state_dict()
    assert list(state) == list(expected)
    for key, value in state.items():
        if key != "prototypes":
            assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("value", ["x", None, True])
@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        (name, parameter)
        for name in list_margins()
        for parameter in margin_parameters(name)
        if parameter not in ("counts", "plus")
    ],
)
def test_what_is_no_number_is_named(name: str, parameter: str, value: object) -> None:
    with pytest.raises(ValueError, match=f": {parameter} must be .*, got {value!r}"):
        create_margin(name, **{parameter: value})


def test_a_momentum_of_one_is_named_as_it_was_given() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1.0"):
        create_margin("curricularface", momentum=1.0)
