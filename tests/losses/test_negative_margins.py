"""Margins that make negatives harder, against their formulas written with N x C arrays."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from centerarc.losses import (
    ArcFace,
    CenterArcFaceLoss,
    Chunked,
    CosFace,
    CurricularFace,
    MarginSoftmaxLoss,
    MVSoftmax,
    NegativeMargin,
    PrototypeSGD,
    create_margin,
    margin_softmax_loss,
)
from tests.losses.arrays import NewArrays
from tests.losses.loops import WAYS, gradients, near_and_far, sampled

C, D, N = 60, 6, 11


def curricular(t: float = 0.3) -> CurricularFace:
    margin = CurricularFace(m=0.5).double()
    margin.t.fill_(t)
    return margin


MARGINS = {
    "curricular": curricular,
    "mv-arc": lambda: MVSoftmax(m2=0.5, m3=0.0, t=1.2),
    "mv-am": lambda: MVSoftmax(m2=0.0, m3=0.35, t=1.3),
}


def oracle(
    x: Tensor, w: Tensor, y: Tensor, s: float, margin: NegativeMargin, limit: float = math.inf
) -> Tensor:
    """(N,) losses from the papers' equations, autograd and an N x C array."""
    rows = F.normalize(w, dim=-1).flatten(0, -2)
    cos = (F.normalize(x) @ rows.T).view(len(x), len(w), -1).amax(dim=2)
    own = cos.gather(1, y.unsqueeze(1))
    theta = own.acos()
    if isinstance(margin, CurricularFace):
        psi = (theta + margin.m).cos()
        t = 0.99 * margin.t + 0.01 * own.detach().mean()
        counted = cos * (t + cos)
    else:
        assert isinstance(margin, MVSoftmax)
        psi = (theta + margin.m2).cos() - margin.m3
        counted = margin.t * cos + margin.t - 1
    assert (theta < math.pi - 0.5).all()  # where the papers' margins end and ours continue
    hard = (cos > psi).scatter(1, y.unsqueeze(1), False)
    assert hard.any(dim=1).sum() > N / 2
    assert not hard.all(dim=1).any()
    logits = torch.where(hard, counted, cos).scatter(1, y.unsqueeze(1), psi)
    conflicts = (cos > limit).scatter(1, y.unsqueeze(1), False)
    return F.cross_entropy(s * logits.masked_fill(conflicts, -math.inf), y, reduction="none")


@pytest.mark.parametrize("s", [8.0, 30.0, 64.0])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("options", [{}, {"sub_centers": 3}, {"conflict_threshold": 0.6}], ids=str)
def test_equals_the_formula(name: str, way: str, s: float, options: dict) -> None:
    x, w, y = near_and_far(sub_centers=options.get("sub_centers", 1))
    margin, limit = MARGINS[name](), options.get("conflict_threshold")
    expected = gradients(oracle(x, w, y, s, margin, limit or math.inf), x, w)
    losses = margin_softmax_loss(
        *(x, w, y, margin, s),
        conflict_threshold=limit,
        reduction="none",
        implementation=WAYS[way],
    )
    for ours, theirs in zip(gradients(losses, x, w), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("way", ["reference", "chunked"])
def test_gradcheck(name: str, way: str) -> None:
    x, w, y = near_and_far()
    margin = MARGINS[name]().eval()
    assert torch.autograd.gradcheck(
        lambda a, b: margin_softmax_loss(
            a, b, y, margin, 4.0, reduction="none", implementation=WAYS[way]
        ),
        (x, w),
        fast_mode=True,  # of random sums of the entries; the formula's test has each
    )


def test_a_hard_negative_by_hand() -> None:
    """Cosines 0.6 to the own class, 0.8 and -0.6 to others; psi = cos(acos(0.6) + 0.5) = 0.143."""
    x = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    psi = 0.6 * math.cos(0.5) - 0.8 * math.sin(0.5)
    t = 0.99 * 0.3 + 0.01 * 0.6
    rules = {
        "curricular": (psi, 0.8 * (t + 0.8)),
        "mv-arc": (psi, 1.2 * 0.8 + 0.2),
        "mv-am": (0.6 - 0.35, 1.3 * 0.8 + 0.3),
    }
    for name, (own, hard) in rules.items():
        rows = [math.exp(8 * z) for z in (own, hard, -0.6)]
        loss = margin_softmax_loss(x, w, torch.tensor([0]), MARGINS[name](), 8.0)
        assert loss.item() == pytest.approx(math.log(sum(rows)) - 8 * own, rel=1e-13)


def test_t_is_the_running_mean_of_target_cosines() -> None:
    criterion = MarginSoftmaxLoss(C, D, CurricularFace(momentum=0.9), s=16.0).double()
    expected = 0.0
    for seed in range(4):
        x, _, y = near_and_far(seed)
        y[1] = -100
        criterion(x, y)
        cosines = F.cosine_similarity(x, criterion.prototypes[y.clamp(min=0)])
        expected = 0.9 * expected + 0.1 * cosines[y >= 0].mean().item()
        assert criterion.margin.t.item() == pytest.approx(expected, rel=1e-12)
    criterion(x, torch.full_like(y, -100))  # nobody counts
    criterion.eval()(x, y)
    assert criterion.margin.t.item() == pytest.approx(expected, rel=1e-12)


def test_state_is_saved_and_moves_with_the_criterion() -> None:
    criterion = CenterArcFaceLoss(C, D, margin=CurricularFace())
    x, _, y = near_and_far()
    criterion(x.float(), y)
    other = CenterArcFaceLoss(C, D, margin=CurricularFace())
    other.load_state_dict(criterion.state_dict())
    assert other.arcface.margin.t == criterion.arcface.margin.t != 0
    assert criterion.double().arcface.margin.t.dtype == torch.float64
    assert not list(criterion.arcface.margin.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_of_no_stress_remains_the_margin(way: str) -> None:
    x, w, y = near_and_far()
    for margin, plain in (
        (MVSoftmax(0.4, 0.0, 1.0), ArcFace(0.4)),
        (MVSoftmax(0.0, 0.3, 1.0), CosFace(0.3)),
    ):
        ours, theirs = (
            margin_softmax_loss(x, w, y, one, 30.0, implementation=WAYS[way])
            for one in (margin, plain)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("s", [30.0, 64.0, 200.0])
def test_hard_negatives_at_the_bound_do_not_overflow(name: str, s: float) -> None:
    """All prototypes alike and t = 1: curricular negatives count as 2, beyond exp's range at 64."""
    g = torch.Generator().manual_seed(0)
    one = torch.randn(16, generator=g)
    x = one + 1e-3 * torch.randn(32, 16, generator=g)
    w = one + 1e-3 * torch.randn(3000, 16, generator=g)
    y = torch.arange(32)
    margin = MARGINS[name]()
    if name == "curricular":
        margin.t.fill_(1.0)
    found = []
    for dtype, way in ((torch.float32, Chunked()), (torch.float64, "reference")):
        a, b = (v.to(dtype, copy=True).requires_grad_() for v in (x, w))
        loss = margin_softmax_loss(a, b, y, copy.deepcopy(margin).to(dtype), s, implementation=way)
        loss.backward()
        found.append((loss.double(), a.grad.double(), b.grad.double()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5 * s)
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        # Features and prototypes point alike to 1e-3, so that gradients cancel in float32.
        assert (ours - theirs).norm() <= 2e-3 * theirs.norm() + 1e-6 * s


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("s", [30.0, 64.0])
def test_no_array_of_samples_by_classes(name: str, s: float) -> None:
    classes, dim = 60_000, 16
    ways = Chunked(workspace=1 << 19)
    made = MarginSoftmaxLoss(classes, dim, MARGINS[name]().float(), s=s, implementation=ways)
    x = torch.randn(8, dim, requires_grad=True)
    with NewArrays(made.state_dict().values(), least=1 << 19) as arrays:
        made(x, torch.arange(8)).backward()
    assert arrays.storages == {made.prototypes.grad.untyped_storage().data_ptr()}


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("s", [20.0, 64.0])
def test_fused_steps_are_those_of_a_gradient(name: str, rate: float, s: float) -> None:
    # The reference's gradient is dense: momentum would move classes that were not sampled.
    plain = "reference" if rate == 1 else "chunked"
    ends = []
    x, w, y = near_and_far()
    for fused in (False, True):
        made = MarginSoftmaxLoss(
            *(C, D, MARGINS[name](), s),
            sample_rate=rate,
            sample_generator=torch.Generator().manual_seed(1),
            implementation=Chunked(workspace=2000, kept=3000) if fused else plain,
        ).double()
        with torch.no_grad():
            made.prototypes.copy_(w)
        optimizer = PrototypeSGD(made.parameters(), lr=0.1, momentum=0.9, fused=fused)
        for _ in range(3):
            made(x, y).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(made.prototypes.detach())
    torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-12)
    assert (ends[0] - w).norm() > 1e-2


def test_sampled_negatives_are_the_sample_of_the_formula() -> None:
    losses, *drawn = sampled(curricular(), 16.0)
    expected = oracle(*drawn, 16.0, curricular())
    torch.testing.assert_close(losses, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_under_autocast_close_to_float64(way: str) -> None:
    x, w, y = near_and_far()
    exact = gradients(oracle(x, w, y, 30.0, MARGINS["mv-arc"]()), x, w)
    a, b = (v.detach().float().requires_grad_() for v in (x, w))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = margin_softmax_loss(
            *(a, b, y, MARGINS["mv-arc"](), 30.0), reduction="none", implementation=WAYS[way]
        )
    for ours, theirs in zip(gradients(losses, a, b), exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - theirs).norm() < 2e-2 * theirs.norm()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CurricularFace(m=2.0), r"CurricularFace: m must be in \[0, pi/2\] radians"),
        (lambda: CurricularFace(momentum=1.0), r"CurricularFace: momentum must be in \[0, 1\)"),
        (lambda: MVSoftmax(m3=-0.1), r"MVSoftmax: m3 must be in \[0, 2\], got -0.1"),
        (lambda: create_margin("mv_softmax", t=0.9), r"MVSoftmax: t must be in \[1, 2\], got 0.9"),
        (
            lambda: MarginSoftmaxLoss(9, 4, CurricularFace(), label_smoothing=0.1),
            "label_smoothing must be 0 with the margin CurricularFace, got 0.1",
        ),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
