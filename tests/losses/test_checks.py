"""What the losses say of wrong input and options, and of parameters that no optimizer has."""

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

from centerarc.losses import (
    ArcFace,
    CenterArcFaceLoss,
    CenterLoss,
    CosFace,
    MarginSoftmaxLoss,
    MeanCenterLoss,
    UniFace,
    center_loss,
    center_separation,
    margin_softmax_loss,
    negative_logsumexp,
    sample_classes,
    update_centers,
)

C, D, N = 7, 5, 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": torch.arange(5, 9)},
            r"labels must be in \[0, 5\) or ignore_index -100, got 5 at row 0",
        ),
        (
            {"labels": torch.arange(-1, 3)},
            r"labels must be in \[0, 5\) or ignore_index -100, got -1 at row 0",
        ),
        (
            {"features": torch.full((4, 3), math.nan)},
            "features must be finite, got NaN or infinity at row 0",
        ),
        ({"labels": torch.zeros(4)}, "labels must be integers, got torch.float32"),
        ({"features": torch.ones(4, 3).long()}, "features must be floating point, got torch.int64"),
        ({"features": torch.ones(4, 2)}, r"features must be \(N, 3\), got \(4, 2\)"),
        (
            {"labels": torch.arange(2)},
            r"labels must be \(4,\), one for each row of features, got \(2,\)",
        ),
        ({"s": -1.0}, "s must be positive and finite, got -1.0"),
        ({"weight": torch.ones(3)}, r"weight must be \(5,\), one for each class, got \(3,\)"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"reduction": "avg"}, "reduction must be 'mean', 'sum' or 'none', got 'avg'"),
    ],
)
def test_bad_input_of_the_margin_softmax_is_named(change: dict, message: str) -> None:
    good = {"features": torch.ones(4, 3), "prototypes": torch.ones(5, 3), "s": 30.0}
    with pytest.raises(ValueError, match=message):
        margin_softmax_loss(**(good | {"labels": torch.arange(4), "margin": ArcFace()} | change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, w, y: center_loss(x, w, y, space="polar"),
            "space must be 'unit' or 'raw', got 'polar'",
        ),
        (
            lambda x, w, y: update_centers(w, x, y, space="units"),
            "space must be 'unit' or 'raw', got 'units'",
        ),
        (lambda x, w, y: update_centers(w, x, y, alpha=5.0), r"alpha must be in \(0, 1\], got 5.0"),
        (
            lambda x, w, y: update_centers(w, x, y + 2),
            r"labels must be in \[0, 5\).* got 5 at row 3",
        ),
        (lambda x, w, y: update_centers(w, x / 0, y), "features must be finite"),
        (lambda x, w, y: update_centers(w, x, y > 1), "labels must be integers, got torch.bool"),
        (
            lambda x, w, y: center_separation(w, y, temperature=0.0),
            "temperature must be positive and finite, got 0.0",
        ),
        (lambda x, w, y: center_loss(x, w[0], y), r"centers must be \(C, D\), got \(3,\)"),
        (lambda x, w, y: center_separation(w[0], y), r"centers must be \(C, D\)"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(4, 3), torch.ones(5, 3), torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize("convert", [Tensor.tolist, Tensor.numpy], ids=["list", "numpy"])
@pytest.mark.parametrize("name", ["features", "labels"])
@pytest.mark.parametrize("make", [MarginSoftmaxLoss, CenterArcFaceLoss, CenterLoss])
def test_what_is_no_tensor_is_named(make, name: str, convert) -> None:
    batch = {"features": torch.randn(N, D), "labels": torch.arange(N) % C}
    batch[name] = convert(batch[name])
    kind = type(batch[name]).__name__
    message = rf"{name} must be a torch.Tensor, got {kind}; torch.as_tensor\({name}\) makes one"
    with pytest.raises(ValueError, match=message):
        make(C, D)(**batch)
    with pytest.raises(ValueError, match=message):
        negative_logsumexp(**batch, weight=torch.randn(C, D), scale=30.0)
    with pytest.raises(ValueError, match=message):
        update_centers(torch.zeros(C, D), **batch)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: MarginSoftmaxLoss(2, D, weight=[1.0, 2.0]), "weight"),
        (lambda: MarginSoftmaxLoss(2, D).logits([[0.0] * D]), "features"),
        (lambda: CenterArcFaceLoss(2, D).separation([0, 1]), "anchors"),
        (lambda: sample_classes([0, 1], 7, 0.5), "labels"),
    ],
)
def test_other_arguments_that_are_no_tensors_are_named(call, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a torch.Tensor, got list"):
        call()


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

    def test_of_centers_alone_too(self) -> None:
        options = {"centers": "separate", "center_update": "gradient"}
        criterion = CenterArcFaceLoss(C, D, **options)
        (message,) = self.loop(criterion, [criterion.arcface.prototypes])
        assert "the parameters of CenterLoss have a gradient but no optimizer has them" in message
        (message,) = self.loop(CenterLoss(C, D, update="gradient"), [], lr=0.01)
        assert "the parameters of CenterLoss" in message
        assert self.loop(criterion, [*criterion.parameters()]) == []

    @pytest.mark.parametrize("move", ["assign", "deepcopy"])
    def test_an_optimizer_left_with_the_tensors_of_before_is_noticed(self, move: str) -> None:
        criterion = MarginSoftmaxLoss(C, D)
        learned = [*criterion.parameters()]
        assert self.loop(criterion, learned) == []
        if move == "assign":
            state = {name: value.clone() for name, value in criterion.state_dict().items()}
            criterion.load_state_dict(state, assign=True)
        else:
            criterion = copy.deepcopy(criterion)
        before = criterion.prototypes.detach().clone()
        messages = self.loop(criterion, learned)
        assert torch.equal(criterion.prototypes, before)
        assert len(messages) == 1
        assert "assign=True" in messages[0]

    def test_centers_that_no_optimizer_has_are_noticed(self) -> None:
        (message,) = self.loop(CenterLoss(C, D, update="gradient"), [])
        assert "of CenterLoss have a gradient" in message
        assert self.loop(CenterLoss(C, D), []) == []

    def test_a_bias_that_no_optimizer_has_is_noticed(self) -> None:
        criterion = CenterArcFaceLoss(C, D, margin=UniFace())
        (message,) = self.loop(criterion, [criterion.arcface.prototypes])
        assert "of UniFace have a gradient" in message
        assert self.loop(criterion, [*criterion.parameters()]) == []

    def test_no_warning_when_given(self) -> None:
        for lr in (0.1, 0.0):
            criterion = CenterArcFaceLoss(C, D)
            assert self.loop(criterion, [*criterion.parameters()], lr=lr) == []

    def test_no_warning_when_frozen_or_evaluated(self) -> None:
        assert self.loop(CenterArcFaceLoss(C, D).requires_grad_(False), []) == []
        assert self.loop(CenterArcFaceLoss(C, D).eval(), []) == []

    def steps(self, criterion: nn.Module, after_backward, steps: int = 40) -> None:
        """Fails for any warning."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(steps):
                sum(criterion(torch.randn(N, D), torch.randint(0, C, (N,)))).backward()
                after_backward(step)

    @pytest.mark.parametrize("foreach", [False, True])
    @pytest.mark.parametrize("name", ["SGD", "AdamW"])
    def test_every_kind_of_step_is_seen(self, name: str, foreach: bool) -> None:
        criterion = CenterArcFaceLoss(C, D)
        optimizer = getattr(torch.optim, name)(criterion.parameters(), lr=0.1, foreach=foreach)
        self.steps(criterion, lambda _: optimizer.step())

    def test_an_optimizer_that_writes_past_autograd_is_seen(self) -> None:
        class Data(torch.optim.Optimizer):
            def step(self, closure=None):  # type: ignore[override]
                for group in self.param_groups:
                    for p in group["params"]:
                        p.data.add_(p.grad, alpha=-0.1)

        criterion = CenterArcFaceLoss(C, D)
        optimizer = Data([*criterion.parameters()], {})

        def step(_: int) -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        self.steps(criterion, step)

    def test_another_optimizer_may_step_more_often(self) -> None:
        criterion = CenterArcFaceLoss(C, D)
        other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
        own = torch.optim.SGD(criterion.parameters(), lr=0.1)

        def step(number: int) -> None:
            for _ in range(6):
                other.step()
            if number % 8 == 7:
                own.step()
                own.zero_grad()

        self.steps(criterion, step)

    def test_no_warning_during_gradient_accumulation(self) -> None:
        self.steps(CenterArcFaceLoss(C, D), lambda _: None, steps=50)


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
        (lambda: CenterArcFaceLoss(C, D, center_space="log"), "center_space must be .* got 'log'"),
        (lambda: CenterArcFaceLoss(C, D, center_update="no"), "center_update must be .* got 'no'"),
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


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (CenterArcFaceLoss, {"alpha": 0.3}, "alpha must be left out without centers='separate'"),
        (CenterArcFaceLoss, {"centers": "mean", "alpha": 0.3}, "alpha must be left out without"),
        (
            CenterArcFaceLoss,
            {"centers": "separate", "center_update": "gradient", "alpha": 0.3},
            "alpha must be left out with update='gradient', got 0.3",
        ),
        (
            CenterArcFaceLoss,
            {"center_update": "gradient"},
            "center_update must be left out without",
        ),
        (
            CenterArcFaceLoss,
            {"centers": "separate", "center_momentum": 0.5},
            "center_momentum must be left out without centers='mean', got 0.5",
        ),
        (CenterArcFaceLoss, {"center_negatives": False}, "center_negatives must be left out"),
        (
            CenterArcFaceLoss,
            {"centers": "mean", "center_negatives": False, "center_temperature": 8.0},
            "center_temperature must be left out without centers='mean' and center_negatives=True",
        ),
        (
            CenterArcFaceLoss,
            {"margin": CosFace(0.35), "m": 0.35},
            "m must be left out with a margin of its own, got 0.35",
        ),
        (
            MeanCenterLoss,
            {"negatives": False, "temperature": 8.0},
            "temperature must be left out with negatives=False, got 8.0",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(made, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(C, D, **options)


def test_nan_is_reported_and_nothing_is_lost() -> None:
    criterion = CenterArcFaceLoss(C, D, centers="separate")
    before = criterion.centers.clone()
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity at row 3"):
        criterion(
            torch.ones(N, D).index_fill(0, torch.tensor([3]), math.nan), torch.zeros(N).long()
        )
    assert torch.equal(criterion.centers, before)
