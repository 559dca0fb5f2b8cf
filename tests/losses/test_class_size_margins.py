"""Margins by the number of images of a class, against their formulas in numpy."""

import math

import numpy as np
import pytest
import torch

from centerarc.losses import LDAM, DynamicArcFace, MarginSoftmaxLoss, Target, margin_softmax_loss
from tests.losses import loops

COUNTS = [3, 1, 80, 500, 12]


def ldam_margins(counts: list[int], most: float) -> np.ndarray:
    """Cao et al. 2019, scaled so that the largest is `most`."""
    margins = 1 / np.sqrt(np.sqrt(counts))
    return margins * (most / margins.max())


def test_ldam_is_its_formula() -> None:
    margin = LDAM(0.5, torch.tensor(COUNTS))
    np.testing.assert_allclose(margin.margins.numpy(), ldam_margins(COUNTS, 0.5), rtol=1e-7)
    assert margin.margins.max() == 0.5
    theta = torch.linspace(0, math.pi, 5)
    target = Target(theta.cos(), theta.sin(), torch.ones(5), labels=torch.arange(5))
    assert torch.equal(margin(target), theta.cos() - margin.margins)


def test_dynamic_arcface_is_its_formula() -> None:
    margin = DynamicArcFace(0.5, 0.05, 0.25, torch.tensor(COUNTS))
    expected = 0.5 * np.array(COUNTS) ** -0.25 + 0.05
    np.testing.assert_allclose(margin.margins.numpy(), expected, rtol=1e-7)
    theta = torch.full((5,), 0.7)
    target = Target(theta.cos(), theta.sin(), torch.ones(5), labels=torch.arange(5))
    torch.testing.assert_close(margin(target), (theta + margin.margins).cos())


@pytest.mark.parametrize("implementation", ["reference", "chunked"])
def test_the_loss_is_the_double_loop(implementation: str) -> None:
    x, w, y = loops.problem(9, 5, 4)
    y[2] = -100
    margins = ldam_margins(COUNTS, 0.5).astype(np.float32)
    expected = []
    for i in range(9):
        label = int(y[i])
        row = [20.0 * loops.cosine(x[i], c) for c in w]
        if label < 0:
            expected.append(0.0)
            continue
        row[label] -= 20.0 * float(margins[label])
        expected.append(loops.cross_entropy(row, label))
    found = margin_softmax_loss(
        x,
        w,
        y,
        LDAM(0.5, torch.tensor(COUNTS)),
        20.0,
        reduction="none",
        implementation=implementation,
    )
    torch.testing.assert_close(found.tolist(), expected, rtol=1e-12, atol=1e-12)


def test_a_class_without_images_counts_as_one() -> None:
    assert LDAM(0.5, torch.tensor([0, 1, 16])).margins.tolist() == [0.5, 0.5, 0.25]


def test_the_criterion_saves_and_moves_the_margins() -> None:
    x, y = loops.batch(c=5)
    criterion = MarginSoftmaxLoss(5, 5, LDAM(0.5, torch.tensor(COUNTS)))
    other = MarginSoftmaxLoss(5, 5, LDAM(0.5, torch.ones(5, dtype=torch.long)))
    other.load_state_dict(criterion.state_dict())
    assert torch.equal(criterion(x, y), other(x, y))


TARGET = Target(torch.ones(2), torch.zeros(2), torch.ones(2), labels=torch.tensor([0, 3]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LDAM(-0.1), r"LDAM: m must be in \[0, 2\], got -0.1"),
        (lambda: LDAM(0.5, [1, 2]), "^counts must be a torch.Tensor, got list"),
        (
            lambda: LDAM(0.5, torch.ones(3)),
            r"LDAM: counts must be \(C,\) integers, the images of each class, got \(3,\) ",
        ),
        (lambda: LDAM(0.5, torch.tensor([1, -2])), "LDAM: counts must be at least 0, got -2"),
        (
            lambda: DynamicArcFace(a=1.5, b=0.5),
            r"DynamicArcFace: b must be in \[0, pi/2 - a\] radians, got 0.5",
        ),
        (lambda: DynamicArcFace(power=-1.0), r"DynamicArcFace: power must be in \[0, 2\], got -1"),
        (
            lambda: MarginSoftmaxLoss(5, 4, LDAM()),
            r"LDAM must have the number of images of each class: LDAM\(counts=...\), \(5,\) integ",
        ),
        (
            lambda: MarginSoftmaxLoss(5, 4, LDAM(counts=torch.ones(4, dtype=torch.long))),
            r"LDAM: counts must be \(5,\), one for each class, got \(4,\)",
        ),
        (
            lambda: margin_softmax_loss(
                torch.ones(1, 4), torch.ones(5, 4), torch.zeros(1, dtype=torch.long), LDAM(), 30.0
            ),
            "LDAM must have the number of images of each class",
        ),
        (lambda: LDAM()(TARGET), "LDAM must have the number of images of each class"),
        (
            lambda: LDAM(counts=torch.tensor([1, 2]))(Target(*[torch.ones(2)] * 3)),
            "target.labels must be given for LDAM, got None",
        ),
    ],
)
def test_bad_input_is_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
