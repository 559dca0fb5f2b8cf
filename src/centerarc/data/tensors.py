"""From images to the input of a model."""

import torch
from torch import Tensor


def to_input(images: Tensor) -> Tensor:
    """Scales images to the input of a model: `(x - 127.5) / 127.5`, channels first.

    Args:
        images: `(N, H, W, 3)` uint8 RGB, on any device.

    Returns:
        `(N, 3, H, W)` float32 in [-1, 1], on the same device.

    Raises:
        ValueError: If the shape or dtype is not that.

    Example:
        >>> to_input(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)).max().item()
        1.0
    """
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images has shape {tuple(images.shape)}; it must be (N, H, W, 3)")
    if images.dtype != torch.uint8:
        raise ValueError(f"images has dtype {images.dtype}; it must be torch.uint8")
    # The bytes travel to the device; floats, four times the size, are made there.
    channels_first = images.permute(0, 3, 1, 2)
    floats = channels_first.to(torch.float32, memory_format=torch.contiguous_format)
    return floats.sub_(127.5).div_(127.5)
