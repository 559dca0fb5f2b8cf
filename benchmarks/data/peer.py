"""The usual way: PIL and plain torch operations, as arcface_torch reads a folder of images."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import Dataset


class PlainFolder(Dataset[tuple[Tensor, int]]):
    """Each image opened, mirrored with probability 1/2, made a float tensor and normalized.

    What torchvision's `ImageFolder`, `RandomHorizontalFlip`, `ToTensor` and `Normalize` do to an
    image, without their checks, so that nothing is slower than with torchvision.

    Args:
        paths: the files.
        labels: (len(paths),) whole numbers.
        flip: probability of a mirror image.
    """

    def __init__(self, paths: list[Path], labels: list[int], flip: float = 0.5) -> None:
        self.paths = [str(path) for path in paths]
        self.labels = labels
        self.flip = flip
        self.mean = torch.full((3, 1, 1), 0.5)
        self.deviation = torch.full((3, 1, 1), 0.5)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with open(self.paths[index], "rb") as file:
            picture = PIL.Image.open(file).convert("RGB")
        if torch.rand(1).item() < self.flip:
            picture = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        values = pixels.to(torch.float32).div(255)
        return values.sub_(self.mean).div_(self.deviation), self.labels[index]
