"""UniFace against its formula written with an N x C array, and what becomes of its threshold."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from centerarc.losses import (
    CenterArcFaceLoss,
    MarginSoftmaxLoss,
    PrototypeSGD,
    UniFace,
    margin_softmax_loss,
)
from tests.losses.loops import WAYS, gradients, near_and_far, sampled

C, D, N = 60, 6, 11


def oracle(x: Tensor, w: Tensor, y: Tensor, s: float, margin: UniFace) -> Tensor:
    """(N,) losses: log(1 + e^(b - s psi)) + balance log(1 + sum_j e^(s cos_j - b))."""
    cos = F.normalize(x) @ F.normalize(w).T
    own = cos.gather(1, y.unsqueeze(1)).squeeze(1)
    others = torch.exp(s * cos - margin.bias).scatter(1, y.unsqueeze(1), 0.0).sum(dim=1)
    genuine = torch.exp(margin.bias - s * (own - margin.m))
    return genuine.log1p() + margin.balance * others.log1p()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("s", [8.0, 64.0, 100.0])
def test_equals_the_formula(way: str, s: float) -> None:
    x, w, y = near_and_far()
    margin = UniFace(m=0.3, balance=0.5, bias=5.0).double()
    losses = margin_softmax_loss(*(x, w, y, margin, s), reduction="none", implementation=WAYS[way])
    expected = oracle(x, w, y, s, margin)
    inputs = (x, w, margin.bias)
    for ours, theirs in zip(gradients(losses, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("way", ["reference", "chunked"])
def test_gradcheck(way: str) -> None:
    x, w, y = near_and_far()

    def loss(a: Tensor, b: Tensor, bias: Tensor) -> Tensor:
        margin = UniFace(bias=1.0).double()
        del margin.bias
        margin.bias = bias  # type: ignore[assignment]
        return margin_softmax_loss(a, b, y, margin, 4.0, implementation=WAYS[way])

    bias = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    # Of random sums of the entries; the formula's test has each.
    assert torch.autograd.gradcheck(loss, (x, w, bias), fast_mode=True)


def test_by_hand_and_beside_the_paper_that_sums_one_by_one() -> None:
    """Cosines 0.6 to the own class, 0 and -0.6 to others; s = 10, m = 0.1, b = 5."""
    x = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [-1.0, 0, 0]], dtype=torch.float64)
    margin = UniFace(m=0.1, bias=5.0).double()
    loss = margin_softmax_loss(x, w, torch.tensor([0]), margin, 10.0).item()
    expected = math.log1p(1.0) + math.log1p(math.exp(-5) + math.exp(-11))
    assert loss == pytest.approx(expected, rel=1e-13)
    one_by_one = math.log1p(1.0) + math.log1p(math.exp(-5)) + math.log1p(math.exp(-11))
    assert 0 < one_by_one - loss < 1.2 * math.exp(-16)


def test_far_from_the_threshold_nothing_overflows_in_float32() -> None:
    x, _, y = (v.detach() for v in near_and_far())
    for bias in (-2000.0, 0.0, 2000.0):
        criterion = MarginSoftmaxLoss(C, D, UniFace(bias=bias), s=64.0)
        criterion(x.float(), y).backward()
        for parameter in criterion.parameters():
            assert parameter.grad.isfinite().all()


def test_a_single_class_is_compared_with_the_threshold_alone() -> None:
    x, _, _ = near_and_far()
    criterion = MarginSoftmaxLoss(1, D, UniFace(m=0.0, bias=3.0), s=8.0).double()
    loss = criterion(x, torch.zeros(N, dtype=torch.long))
    cos = F.cosine_similarity(x, criterion.prototypes)
    torch.testing.assert_close(loss, F.softplus(3.0 - 8 * cos).mean(), rtol=1e-8, atol=0)
    loss.backward()
    assert criterion.prototypes.grad.isfinite().all()


def test_sampled_negatives_are_the_sample_of_the_formula() -> None:
    margin = UniFace()
    losses, *drawn = sampled(margin, 16.0)
    torch.testing.assert_close(losses, oracle(*drawn, 16.0, margin), rtol=1e-12, atol=0)


def test_the_threshold_is_learned_saved_and_a_cosine() -> None:
    x, w, y = near_and_far()
    made = CenterArcFaceLoss(C, D, margin=UniFace(bias=16.0), s=32.0).double()
    assert made.arcface.threshold == 0.5
    assert MarginSoftmaxLoss(C, D).threshold is None
    with torch.no_grad():
        made.arcface.prototypes.copy_(w)
    head = PrototypeSGD([made.arcface.prototypes], lr=0.1, fused=True)
    bias = torch.optim.SGD([made.arcface.margin.bias], lr=1.0)
    for _ in range(300):
        made(x, y)[0].backward()
        head.step()
        bias.step()
        bias.zero_grad()
    # At a stationary b as many targets are below it as negatives are above, by their softplus.
    z = made.logits(x).detach()
    own = z.gather(1, y.unsqueeze(1)).squeeze(1) - 32 * 0.4
    rest = z.scatter(1, y.unsqueeze(1), -math.inf).logsumexp(dim=1)
    b = 32 * made.arcface.threshold
    below, above = torch.sigmoid(b - own).mean(), torch.sigmoid(rest - b).mean()
    assert abs(below - above) < 2e-2
    other = CenterArcFaceLoss(C, D, margin=UniFace(), s=32.0).double()
    other.load_state_dict(made.state_dict())
    assert other.arcface.threshold == made.arcface.threshold != 0.5


def test_start_is_the_authors() -> None:
    margin = UniFace()
    margin.start(1000)
    assert margin.bias.item() == pytest.approx(math.log(10_000))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: UniFace(m=-0.1), r"UniFace: m must be in \[0, 2\], got -0.1"),
        (lambda: UniFace(balance=0.0), r"UniFace: balance must be in \[1e-6, 1\], got 0.0"),
        (lambda: UniFace(bias=math.inf), "UniFace: bias must be a finite number, got inf"),
        (
            lambda: MarginSoftmaxLoss(9, 4, UniFace(), label_smoothing=0.1),
            "label_smoothing must be 0 with the margin UniFace, got 0.1",
        ),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
