"""Steps of the prototypes: in the backward pass, on touched rows, and as torch.optim.SGD does."""

import copy
import gc
import pickle

import pytest
import torch
from torch import Tensor

from centerarc.losses import CenterArcFaceLoss, Chunked, MarginSoftmaxLoss, PrototypeSGD
from tests.losses.arrays import NewArrays

C, D, N = 300, 16, 12
RULES = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 5e-2},
    {"momentum": 0.9, "weight_decay": 5e-2, "nesterov": True},
    {"momentum": 0.0, "weight_decay": 5e-2},
]
# Some blocks of 300 classes, in which some exponentials are kept, some not.
SMALL_BLOCKS = Chunked(workspace=20_000, kept=20_000)


def batches(steps: int = 4) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(1)
    made = []
    for _ in range(steps):
        labels = torch.randint(0, C, (N,), generator=g)
        labels[1], labels[2] = labels[0], -100  # One class twice, one sample ignored.
        made.append((torch.randn(N, D, generator=g, dtype=torch.float64), labels))
    return made


def criterion(**options) -> CenterArcFaceLoss:
    g = torch.Generator().manual_seed(0)
    made = CenterArcFaceLoss(C, D, generator=g, **options).double()
    with torch.no_grad():
        made.arcface.prototypes.mul_(50)  # So that decay and gradient are of one size.
    return made


def train(made: CenterArcFaceLoss, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    gradients = []
    for features, labels in batches():
        x = features.clone().requires_grad_()
        arcface, center = made(x, labels)
        optimizer.zero_grad()
        (arcface + 2.0 * center).backward()
        optimizer.step()
        gradients.append(x.grad)
    return gradients


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"sub_centers": 3}, {"s": 100.0}, {"label_smoothing": 0.1}], ids=str
)
def test_fused_steps_end_where_those_of_torch_do(rule: dict, options: dict) -> None:
    plain = criterion(implementation="reference", **options)
    fused = copy.deepcopy(plain)
    fused.arcface.implementation = SMALL_BLOCKS
    expected = train(plain, torch.optim.SGD(plain.parameters(), lr=0.3, **rule))
    optimizer = PrototypeSGD(fused.parameters(), lr=0.3, fused=True, **rule)
    found = train(fused, optimizer)
    assert fused.arcface.prototypes.grad is None
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        fused.arcface.prototypes, plain.arcface.prototypes, rtol=1e-10, atol=1e-11
    )


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_dense_gradients_are_stepped_as_torch_does(rule: dict) -> None:
    theirs, ours = criterion(), criterion()
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.3, **rule))
    train(ours, PrototypeSGD(ours.parameters(), lr=0.3, **rule))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)


def test_fused_steps_never_hold_a_gradient_of_all_classes() -> None:
    classes, dim = 100_000, 8
    made = MarginSoftmaxLoss(classes, dim, implementation=Chunked(workspace=1 << 18, kept=1 << 18))
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, momentum=0.9, fused=True)
    x, y = torch.randn(4, dim), torch.arange(4)
    made(x, y).backward()  # The momentum exists from here on.
    optimizer.step()
    momentum = optimizer.state[made.prototypes]["momentum_buffer"]
    with NewArrays([made.prototypes, momentum]) as arrays:
        made(x, y).backward()
    optimizer.step()
    # The lengths of all prototypes are kept; their gradient would be eight times as much.
    assert arrays.largest <= classes


def test_a_fused_step_serves_one_backward_pass() -> None:
    made = criterion(implementation="chunked")
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, fused=True)
    x, y = batches(1)[0]
    sum(made(x, y)).backward()
    with pytest.raises(RuntimeError, match=r"second backward pass before step\(\).*fused=False"):
        sum(made(x, y)).backward()
    optimizer.step()
    loss = sum(made(x, y)) + sum(made(-x, y))  # Two passes in one backward.
    with pytest.raises(RuntimeError, match=r"second backward pass before step\(\)"):
        loss.backward()
    optimizer.step()
    sum(made(x, y)).backward()


def test_a_gradient_from_elsewhere_is_refused_by_a_fused_step() -> None:
    made = criterion()
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, fused=True)
    made.arcface.prototypes.square().sum().backward()
    with pytest.raises(RuntimeError, match=r"found a gradient.*fused=False"):
        optimizer.step()


def test_what_a_fused_step_cannot_serve_is_refused_at_once() -> None:
    made = criterion(implementation="chunked")
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, fused=True)
    with pytest.raises(RuntimeError, match=r"separation needs a gradient.*fused=False"):
        made.separation()
    with pytest.raises(ValueError, match=r"params must be stepped by one fused PrototypeSGD"):
        PrototypeSGD(made.parameters(), lr=0.1, fused=True)
    made.arcface.implementation = "reference"
    with pytest.raises(ValueError, match="implementation must not be 'reference'"):
        made(*batches(1)[0])
    optimizer.step()


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_criterion_and_fused_optimizer_are_copied_together(way: str) -> None:
    made = criterion(implementation="chunked")
    both = (made, PrototypeSGD(made.parameters(), lr=0.1, momentum=0.9, fused=True))
    x, y = batches(1)[0]
    sum(made(x, y)).backward()
    both[1].step()
    copied = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    for criterion_, optimizer in (both, copied):
        sum(criterion_(x, y)).backward()
        optimizer.step()
    assert copied[0].arcface.prototypes.grad is None
    assert torch.equal(copied[0].arcface.prototypes, made.arcface.prototypes)


def test_an_optimizer_that_is_gone_steps_no_more() -> None:
    made = criterion(implementation="chunked")
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, fused=True)
    del optimizer
    gc.collect()
    before = made.arcface.prototypes.clone()
    sum(made(*batches(1)[0])).backward()
    assert torch.equal(made.arcface.prototypes, before)
    assert made.arcface.prototypes.grad is not None


def test_schedules_and_saved_states_work() -> None:
    straight, broken = criterion(), criterion()
    rule = {"lr": 0.3, "momentum": 0.9, "fused": True}
    optimizer = PrototypeSGD(straight.parameters(), **rule)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    first = PrototypeSGD(broken.parameters(), **rule)
    schedules = [torch.optim.lr_scheduler.StepLR(first, 1, gamma=0.5)]
    active = first
    for number, (x, y) in enumerate(batches()):
        for made, stepper in ((straight, optimizer), (broken, active)):
            sum(made(x, y)).backward()
            stepper.step()
        schedule.step()
        schedules[-1].step()
        if number == 1:
            saved = copy.deepcopy((broken.state_dict(), first.state_dict()))
            broken = criterion()
            active = PrototypeSGD(broken.parameters(), **rule)
            schedules.append(torch.optim.lr_scheduler.StepLR(active, 1, gamma=0.5))
            schedules[-1].load_state_dict(schedules[0].state_dict())
            broken.load_state_dict(saved[0])
            active.load_state_dict(saved[1])
    assert torch.equal(straight.arcface.prototypes, broken.arcface.prototypes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fused": True, "params": [torch.zeros(3)]},
            r"fused must be False.*got \(3,\) torch.float32",
        ),
        (
            {"fused": True, "params": [torch.zeros(3, 2).bfloat16()]},
            "fused must be False.*torch.bfloat16",
        ),
        ({"lr": -1.0}, "lr must be finite and not negative, got -1.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative, got -0.1"),
        ({"nesterov": True}, "nesterov must be False without momentum"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrototypeSGD(**({"params": [torch.zeros(3, 2, requires_grad=True)]} | options))


def test_an_empty_batch_is_a_step_of_decay_alone() -> None:
    made = criterion(implementation="chunked")
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, weight_decay=0.5, fused=True)
    before = made.arcface.prototypes.clone()
    x = torch.zeros(0, D, dtype=torch.float64)
    sum(made(x, torch.zeros(0, dtype=torch.long))).backward()
    optimizer.step()
    torch.testing.assert_close(made.arcface.prototypes, before * 0.95)


def test_the_parameter_is_stepped_and_not_a_saved_copy_of_it() -> None:
    made = criterion(implementation="chunked")
    optimizer = PrototypeSGD(made.parameters(), lr=0.1, fused=True)
    before = made.arcface.prototypes.clone()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        loss = sum(made(*batches(1)[0]))
    loss.backward()
    optimizer.step()
    assert (made.arcface.prototypes != before).any(dim=1).all()


def test_a_group_that_is_refused_is_not_there() -> None:
    prototypes = torch.zeros(3, 2, requires_grad=True)
    optimizer = PrototypeSGD([prototypes], fused=True)
    with pytest.raises(ValueError, match="fused must be False"):
        optimizer.add_param_group({"params": [torch.zeros(3, requires_grad=True)]})
    assert len(optimizer.param_groups) == 1


def test_a_number_is_stepped_too() -> None:
    value = torch.tensor(1.0, requires_grad=True)
    optimizer = PrototypeSGD([value], lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        (2 * value).backward()
        optimizer.step()
    assert value.item() == pytest.approx(1 - 0.2 - 0.1 * (0.9 * 2 + 2))
