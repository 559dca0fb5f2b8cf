"""3 x 3 convolutions by Winograd's minimal filtering, as matrix products of 6 x 6 tiles.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", F(4 x 4, 3 x 3): with the
input d of a tile, the filter g and the matrices below,

    y = A' [(G g G') * (B' d B)] A

takes 36 multiplications for 16 outputs instead of 144. The sum over channels makes the product of
each of the 36 positions a matrix product over tiles. Rounding grows, as the matrices hold numbers
up to 8: in float32 the error is about 1.5e-6 of the result's length, five times a direct one's.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 4  # outputs along a side
_SEEN = _TILE + 2  # inputs along a side
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_FILTER: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]


def _both_sides(matrix: Sequence[Sequence[float]]) -> Tensor:
    """The matrix of X -> M X M' on the numbers of X, row by row."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).float()


def winograd_weight(weight: Tensor) -> Tensor:
    """Transforms filters for `winograd`.

    Args:
        weight: `(K, C, 3, 3)` float32.

    Returns:
        `(36, C, K)` float32, four times the size.
    """
    outputs, inputs = weight.shape[:2]
    rows = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return torch.mm(_both_sides(_FILTER), rows).view(_SEEN**2, inputs, outputs)


def winograd(images: Tensor, transformed: Tensor) -> Tensor:
    """Convolves by 3 x 3 with stride 1 and a border of zeros.

    Args:
        images: `(N, H, W, C)` float32, contiguous.
        transformed: `(36, C, K)`, what `winograd_weight` made of the filters.

    Returns:
        `(N, H, W, K)`, a view of a larger tensor where 4 does not divide H and W.

    Example:
        >>> images, weight = torch.ones(1, 4, 4, 1), torch.ones(1, 1, 3, 3)
        >>> winograd(images, winograd_weight(weight))[0, ..., 0].round()
        tensor([[4., 6., 6., 4.],
                [6., 9., 9., 6.],
                [6., 9., 9., 6.],
                [4., 6., 6., 4.]])
    """
    count, height, width, channels = images.shape
    outputs = transformed.shape[2]
    down, across = -(-height // _TILE), -(-width // _TILE)
    below, right = _TILE * down + 1 - height, _TILE * across + 1 - width
    padded = F.pad(images, (0, 0, 1, right, 1, below))
    image, row, column, _ = padded.stride()
    tiles = padded.as_strided(
        (_SEEN, _SEEN, count, down, across, channels),
        (row, column, image, _TILE * row, _TILE * column, 1),
    )
    number = count * down * across
    positions = torch.mm(_both_sides(_INPUT), tiles.reshape(_SEEN**2, number * channels))
    products = torch.bmm(positions.view(_SEEN**2, number, channels), transformed)
    found = torch.mm(_both_sides(_OUTPUT), products.view(_SEEN**2, number * outputs))
    found = found.view(_TILE, _TILE, count, down, across, outputs).permute(2, 3, 0, 4, 1, 5)
    whole = found.reshape(count, _TILE * down, _TILE * across, outputs)
    return whole[:, :height, :width]
