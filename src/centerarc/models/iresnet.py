"""Improved residual networks, the standard backbones of the ArcFace papers.

Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", section
3.1: the unit is BN-Conv-BN-PReLU-Conv-BN, the stem keeps the resolution of the 112 x 112 image,
and the embedding comes from BN-Dropout-FC-BN. Deeper variants follow Duta et al. 2020,
"Improved Residual Networks for Image and Video Recognition". Parameters are named as in the
public arcface_torch checkpoints, which therefore load.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from centerarc.models.backbone import STRIDE, Backbone, apply_in_full_precision, register_model
from centerarc.models.cpu import convolve, normalize
from centerarc.models.folded import (
    Folded,
    FoldedConvolution,
    Product,
    Step,
    added,
    affine,
    chain,
    few_of,
    is_as_created,
)

_WIDTHS = (64, 128, 256, 512)


class ResidualUnit(nn.Module):
    """One BN-Conv-BN-PReLU-Conv-BN unit beside its shortcut; the second convolution strides."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, in_channels, H, W)` to `(N, channels, H / stride, W / stride)`."""
        y = convolve(self.bn1, None, self.conv1, x)
        y = convolve(self.bn2, self.prelu, self.conv2, y)
        out: Tensor = self.bn3(y) + self.downsample(x)
        return out


class IResNet(Backbone):
    """An improved residual network of four stages.

    Args:
        depths: Units in each of the four stages, which have 64, 128, 256 and 512 channels.
        embedding_size: D, the length of the embedding.
        image_size: S, the side of the input in pixels; a multiple of 16.
        dropout: Probability of dropping a feature before the embedding layer, in [0, 1).
        width: Factor of the channels, in [1/8, 4].

    Raises:
        ValueError: If a size, the dropout or the width is out of range.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        embedding_size: int,
        image_size: int,
        dropout: float,
        width: float,
    ) -> None:
        super().__init__(embedding_size, image_size)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it must be in [0, 1)")
        # With fewer than 8 channels, PyTorch 2.13 fails in the backward pass on some CPUs.
        if not 1 / 8 <= width <= 4:
            raise ValueError(f"width is {width}; it must be a factor in [1/8, 4]")
        widths = [round(width * channels) for channels in _WIDTHS]
        stem = widths[0]
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.prelu = nn.PReLU(stem)
        inputs = (stem, *widths[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(*shape) for shape in zip(inputs, widths, depths, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1] * (image_size // STRIDE) ** 2, embedding_size)
        # The scale of the embedding is left to the loss, so this gain stays at 1.
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(N, 3, S, S)` float images, scaled to [-1, 1], to `(N, D)` raw embeddings."""
        self.check_images(images)
        x = normalize(self.bn1, self.prelu, self.conv1(images))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(self.bn2(x).flatten(1))
        return apply_in_full_precision(x, self.fc, self.features)

    @torch.no_grad()
    def folded(self, dtype: torch.dtype = torch.float32) -> Folded | None:
        """Returns a faster form for a CPU; see `Backbone.folded`."""
        if not is_as_created(self):
            return None
        side = self.image_size
        stem = FoldedConvolution.of(self.conv1, self.bn1, self.prelu)
        few = few_of(dtype.itemsize * side**2 * len(stem.weight))
        early, late = [stem.step(dtype)], list[Step]()
        for unit in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            assert isinstance(unit, ResidualUnit)
            first = FoldedConvolution.of(
                unit.conv1, unit.bn2, unit.prelu, before=unit.bn1, side=side
            )
            second = FoldedConvolution.of(unit.conv2, unit.bn3)
            shortcut = None
            if isinstance(unit.downsample, nn.Sequential):
                shortcut = FoldedConvolution.of(*unit.downsample).step(dtype)
            steps = early if 4 * side > self.image_size else late
            steps.append(added(chain([first.step(dtype), second.step(dtype)]), shortcut))
            side //= second.stride
        scale, shift = affine(self.bn2)
        weight = self.fc.weight.double().view(len(self.fc.weight), -1, side**2)
        bias = self.fc.bias.double() + (weight * shift[:, None]).sum((1, 2))
        weight = (weight * scale[:, None]).transpose(1, 2).flatten(1)
        scale, shift = affine(self.features)
        last = Product(weight * scale[:, None], bias * scale + shift)
        late.append(lambda x: last(x.flatten(1).float()))
        # Early images are large; later filters are, and are read once for each part.
        first_steps, last_steps = chain(early), chain(late)
        return Folded(
            lambda x: last_steps(torch.cat([first_steps(part) for part in torch.split(x, few)])),
            4 * few,
            dtype,
        )


def _stage(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    first = ResidualUnit(in_channels, channels, stride=2)
    rest = (ResidualUnit(channels, channels, stride=1) for _ in range(depth - 1))
    return nn.Sequential(first, *rest)


def _register(name: str, depths: Sequence[int]) -> None:
    @register_model(name)
    def build(
        *, embedding_size: int, image_size: int, dropout: float = 0.0, width: float = 1.0
    ) -> IResNet:
        return IResNet(
            depths,
            embedding_size=embedding_size,
            image_size=image_size,
            dropout=dropout,
            width=width,
        )


_register("iresnet10", (1, 1, 1, 1))
_register("iresnet18", (2, 2, 2, 2))
_register("iresnet34", (3, 4, 6, 3))
_register("iresnet50", (3, 4, 14, 3))
_register("iresnet100", (3, 13, 30, 3))
_register("iresnet200", (6, 26, 60, 6))
