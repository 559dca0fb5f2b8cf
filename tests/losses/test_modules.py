"""The criteria as a training loop meets them."""

import copy
import math
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from centerarc.losses import (
    ArcFace,
    CenterArcFaceLoss,
    CenterLoss,
    CosFace,
    MarginSoftmaxLoss,
    center_arcface_loss,
    center_loss,
    margin_softmax_loss,
    update_centers,
)

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


def batch(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(N, D, dtype=dtype, requires_grad=True), torch.randint(0, C, (N,))


def test_margin_softmax_is_its_function() -> None:
    x, y = batch()
    criterion = MarginSoftmaxLoss(C, D, CosFace(0.3), 20.0, label_smoothing=0.1)
    expected = margin_softmax_loss(
        x, criterion.prototypes, y, CosFace(0.3), 20.0, label_smoothing=0.1
    )
    assert torch.equal(criterion(x, y), expected)


def test_center_loss_is_its_function_then_updates() -> None:
    x, y = batch()
    criterion = CenterLoss(C, D, alpha=0.7)
    before = criterion.centers.clone()
    assert torch.equal(criterion(x, y), center_loss(x, before, y))
    update_centers(before, x, y, alpha=0.7)
    assert torch.equal(criterion.centers, before)


def test_joint_loss_is_its_function() -> None:
    x, y = batch()
    criterion = CenterArcFaceLoss(C, D, s=20.0, m=0.3, centers="separate")
    expected = center_arcface_loss(
        x, criterion.arcface.prototypes, y, s=20.0, m=0.3, centers=criterion.centers.clone()
    )
    for ours, theirs in zip(criterion(x, y), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_moves_no_centers() -> None:
    criterion = CenterLoss(C, D).eval()
    before = criterion.centers.clone()
    criterion(*batch())
    assert torch.equal(criterion.centers, before)


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
    arcface, center = criterion(*batch(torch.float64))
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


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_compiles(options: dict) -> None:
    x, y = batch()
    criterion = CenterArcFaceLoss(C, D, **options)
    twin = copy.deepcopy(criterion)
    expected = twin(x, y)
    out = torch.compile(criterion, backend="aot_eager", fullgraph=True)(x, y)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(criterion.centers, twin.centers)
    ours = torch.autograd.grad(sum(out), x)
    torch.testing.assert_close(ours, torch.autograd.grad(sum(expected), x))


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


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_logits_are_scaled_cosines_without_margin(sub_centers: int) -> None:
    x, y = batch()
    criterion = MarginSoftmaxLoss(C, D, ArcFace(0.0), s=20.0, sub_centers=sub_centers)
    torch.testing.assert_close(F.cross_entropy(criterion.logits(x), y), criterion(x, y))


def test_the_scale_may_be_set_later_and_is_checked_then() -> None:
    x, y = batch()
    criterion, other = MarginSoftmaxLoss(C, D, s=64), MarginSoftmaxLoss(C, D, s=20.0)
    other.load_state_dict(criterion.state_dict())
    criterion.s = 20
    assert torch.equal(criterion(x, y), other(x, y))
    with pytest.raises(ValueError, match="s must be positive and finite, got -1"):
        criterion.s = -1
    criterion.implementation = "quick"
    with pytest.raises(ValueError, match="implementation must be one of .* got 'quick'"):
        criterion(x, y)


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


class TestForgottenParameters:
    def loop(self, criterion: nn.Module, learned: list, steps: int = 40, lr: float = 0.1) -> list:
        model = nn.Linear(8, D)
        optimizers = [torch.optim.SGD([*model.parameters()], lr=lr)]
        if learned:
            optimizers.append(torch.optim.SGD(learned, lr=lr))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                out = criterion(model(torch.randn(N, 8)), torch.randint(0, C, (N,)))
                (sum(out) if isinstance(out, tuple) else out).backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        caught = [w for w in caught if issubclass(w.category, UserWarning)]
        assert all(w.filename == __file__ for w in caught)  # It points at the loop, not at us.
        return [str(w.message) for w in caught]

    @pytest.mark.parametrize("make", [MarginSoftmaxLoss, CenterArcFaceLoss])
    def test_earn_one_warning(self, make) -> None:
        messages = self.loop(make(C, D), [])
        assert len(messages) == 1
        assert "no optimizer has them" in messages[0]
        assert "criterion.parameters()" in messages[0]
        assert f"of {make.__name__} " in messages[0]

    def test_no_warning_when_given(self) -> None:
        for lr in (0.1, 0.0):
            criterion = CenterArcFaceLoss(C, D)
            assert self.loop(criterion, [*criterion.parameters()], lr=lr) == []

    def test_no_warning_when_frozen_or_evaluated(self) -> None:
        assert self.loop(CenterArcFaceLoss(C, D).requires_grad_(False), []) == []
        assert self.loop(CenterArcFaceLoss(C, D).eval(), []) == []

    @pytest.mark.parametrize("foreach", [False, True])
    @pytest.mark.parametrize("name", ["SGD", "AdamW"])
    def test_every_kind_of_step_is_seen(self, name: str, foreach: bool) -> None:
        criterion = CenterArcFaceLoss(C, D)
        optimizer = getattr(torch.optim, name)(criterion.parameters(), lr=0.1, foreach=foreach)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(40):
                sum(criterion(torch.randn(N, D), torch.randint(0, C, (N,)))).backward()
                optimizer.step()

    def test_an_optimizer_that_writes_past_autograd_is_seen(self) -> None:
        class Data(torch.optim.Optimizer):
            def step(self, closure=None):  # type: ignore[override]
                for group in self.param_groups:
                    for p in group["params"]:
                        p.data.add_(p.grad, alpha=-0.1)

        criterion = CenterArcFaceLoss(C, D)
        optimizer = Data([*criterion.parameters()], {})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(40):
                sum(criterion(torch.randn(N, D), torch.randint(0, C, (N,)))).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)

    def test_another_optimizer_may_step_more_often(self) -> None:
        criterion = CenterArcFaceLoss(C, D)
        other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        own = torch.optim.SGD(criterion.parameters(), lr=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(40):
                sum(criterion(torch.randn(N, D), torch.randint(0, C, (N,)))).backward()
                for _ in range(6):
                    other.step()
                if step % 8 == 7:
                    own.step()
                    own.zero_grad()

    def test_no_warning_during_gradient_accumulation(self) -> None:
        criterion = CenterArcFaceLoss(C, D)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(50):
                sum(criterion(torch.randn(N, D), torch.randint(0, C, (N,)))).backward()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CenterArcFaceLoss(0, D), "num_classes must be a positive integer, got 0"),
        (lambda: CenterArcFaceLoss(C, -1), "feat_dim must be a positive integer, got -1"),
        (lambda: CenterArcFaceLoss(C, 2.5), "feat_dim must be a positive integer, got 2.5"),
        (lambda: CenterArcFaceLoss(C, D, s=0), "s must be positive and finite, got 0"),
        (lambda: CenterArcFaceLoss(C, D, s=math.inf), "s must be positive and finite, got inf"),
        (lambda: CenterArcFaceLoss(C, D, m=3.0), r"m must be in \[0, pi/2\] radians, got 3.0"),
        (lambda: CenterArcFaceLoss(C, D, centers="both"), "centers must be .* got 'both'"),
        (lambda: CenterArcFaceLoss(C, D, center_space="log"), "space must be .* got 'log'"),
        (lambda: CenterLoss(C, D, update="ema"), "update must be .* got 'ema'"),
        (lambda: CenterLoss(C, D, alpha=0.0), r"alpha must be in \(0, 1\], got 0.0"),
        (lambda: CenterLoss(C, D, reduction="avg"), "reduction must be .* got 'avg'"),
        (lambda: MarginSoftmaxLoss(C, D, sub_centers=0), "sub_centers must be .* got 0"),
        (lambda: MarginSoftmaxLoss(C, D, label_smoothing=-0.1), "label_smoothing must be"),
        (
            lambda: MarginSoftmaxLoss(C, D, sub_centers=2, label_smoothing=0.1),
            "label_smoothing must be 0 with sub-centers",
        ),
        (lambda: MarginSoftmaxLoss(C, D, weight=torch.ones(2)), r"weight must be \(7,\)"),
    ],
)
def test_bad_arguments_are_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_nan_is_reported_and_nothing_is_lost() -> None:
    criterion = CenterArcFaceLoss(C, D, centers="separate")
    before = criterion.centers.clone()
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity at row 3"):
        criterion(
            torch.ones(N, D).index_fill(0, torch.tensor([3]), math.nan), torch.zeros(N).long()
        )
    assert torch.equal(criterion.centers, before)
