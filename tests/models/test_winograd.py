"""Winograd's convolution is the convolution."""

import pytest
import torch
import torch.nn.functional as F

from centerarc.models.winograd import winograd, winograd_weight


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (14, 14)])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 8), (64, 32)])
def test_it_is_the_convolution(size: tuple[int, int], inputs: int, outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, *size, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    found = winograd(images, winograd_weight(weight))
    first = images.permute(0, 3, 1, 2).double()
    expected = F.conv2d(first, weight.double(), padding=1).permute(0, 2, 3, 1)
    assert found.shape == expected.shape
    # Direct products come to 3e-7.
    assert (found - expected).norm() < 5e-6 * expected.norm()


def test_there_may_be_no_image() -> None:
    found = winograd(torch.zeros(0, 6, 6, 2), winograd_weight(torch.zeros(5, 2, 3, 3)))
    assert found.shape == (0, 6, 6, 5)
