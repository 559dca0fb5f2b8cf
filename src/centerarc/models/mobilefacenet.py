"""MobileFaceNet, a backbone for small data and small devices.

Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices": inverted residual bottlenecks with PReLU, fast downsampling, and a global
depthwise convolution (each position learns its own weight) in place of global pooling. Widths
and parameter names are those of the public arcface_torch checkpoints, which therefore load;
they are twice as wide as the paper's table 1 in the early stages.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from centerarc.models.backbone import (
    STRIDE,
    Backbone,
    apply_in_full_precision,
    is_watched,
    register_model,
)
from centerarc.models.cpu import normalize
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
    pairs,
)

_HEAD_CHANNELS = 512


class _Layers(nn.Module):
    """A sequence under the name `layers`, which is where the public checkpoints keep theirs."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers in turn."""
        out: Tensor = self.layers(x)
        return out


class _Convolution(_Layers):
    """A convolution, its batch normalization and a PReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies all three."""
        layers = self.layers
        if type(layers) is not nn.Sequential or len(layers) != 3 or is_watched(layers):
            return super().forward(x)
        convolution, norm, activation = layers
        return normalize(norm, activation, convolution(x))


class _Bottleneck(_Layers):
    """Expand by 1 x 1, filter each channel by 3 x 3, project by 1 x 1 without activation."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, stride: int) -> None:
        super().__init__(
            _convolution(in_channels, hidden, 1),
            _convolution(hidden, hidden, 3, stride=stride, groups=hidden),
            _convolution(hidden, out_channels, 1, activation=False),
        )
        self.shortcut = stride == 1

    def extra_repr(self) -> str:
        """Says whether the input is added."""
        return f"shortcut={self.shortcut}"

    def forward(self, x: Tensor) -> Tensor:
        """Maps `(N, in, H, W)` to `(N, out, H / stride, W / stride)`."""
        y = super().forward(x)
        return x + y if self.shortcut else y


class MobileFaceNet(Backbone):
    """A MobileFaceNet of four stages.

    Args:
        depths: Repeated units in each of the four stages.
        scale: Width multiplier: stages have 64, 64, 128 and 128 times this many channels.
        embedding_size: D, the length of the embedding.
        image_size: S, the side of the input in pixels; a multiple of 16.

    Raises:
        ValueError: If a size is out of range.
    """

    def __init__(
        self, depths: Sequence[int], scale: int, *, embedding_size: int, image_size: int
    ) -> None:
        super().__init__(embedding_size, image_size)
        narrow, wide = 64 * scale, 128 * scale
        first: nn.Module
        if depths[0] == 1:
            first = _convolution(narrow, narrow, 3, groups=64)
        else:
            first = _repeat(narrow, 128, depths[0])
        self.layers = nn.Sequential(
            _convolution(3, narrow, 3, stride=2),
            first,
            _Bottleneck(narrow, 128, narrow, stride=2),
            _repeat(narrow, 128, depths[1]),
            _Bottleneck(narrow, 256, wide, stride=2),
            _repeat(wide, 256, depths[2]),
            _Bottleneck(wide, 512, wide, stride=2),
            _repeat(wide, 256, depths[3]),
        )
        self.conv_sep = _convolution(wide, _HEAD_CHANNELS, 1)
        side = image_size // STRIDE
        self.features = _Layers(
            _Layers(
                nn.Conv2d(_HEAD_CHANNELS, _HEAD_CHANNELS, side, groups=_HEAD_CHANNELS, bias=False),
                nn.BatchNorm2d(_HEAD_CHANNELS),
            ),
            nn.Flatten(),
            nn.Linear(_HEAD_CHANNELS, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def ordered_layers(self) -> Iterator[nn.Module]:
        """Yields the convolutions before and after the bottlenecks, and each bottleneck."""
        for layer in self.layers:
            assert isinstance(layer, _Layers)
            stage = isinstance(layer.layers[0], _Bottleneck)
            yield from layer.layers if stage else (layer,)
        yield from (self.conv_sep, self.features)

    def forward(self, images: Tensor) -> Tensor:
        """Maps `(N, 3, S, S)` float images, scaled to [-1, 1], to `(N, D)` raw embeddings."""
        self.check_images(images)
        return apply_in_full_precision(self.conv_sep(self.layers(images)), *self.features.layers)

    @torch.no_grad()
    def folded(self, dtype: torch.dtype = torch.float32) -> Folded | None:
        """Returns a faster form for a CPU; see `Backbone.folded`."""
        if not is_as_created(self):
            return None
        blocks = [block for stage in (*self.layers, self.conv_sep) for block in _blocks(stage)]
        (stem, *_), (second, *_), (third, *_) = (convolutions for convolutions, _ in blocks[:3])
        steps: list[Step] = []
        if 2 * second.groups == len(second.weight):
            order = torch.arange(len(second.weight)).view(-1, 2).t().flatten()
            steps += [stem.with_outputs(order).step(dtype), pairs(second, order, dtype)]
            blocks[2][0][0] = third.with_inputs(order)
            blocks = blocks[2:]
        for convolutions, shortcut in blocks:
            body = chain([convolution.step(dtype) for convolution in convolutions])
            steps.append(added(body, None) if shortcut else body)
        pool, _, linear, norm = self.features.layers
        assert isinstance(pool, _Layers)
        assert isinstance(linear, nn.Linear)
        pooling = FoldedConvolution.of(*pool.layers)
        filters = pooling.weight[:, 0].permute(1, 2, 0).float().contiguous()
        scale, shift = affine(norm)
        weight = linear.weight.double() * scale[:, None]
        last = Product(weight, weight @ pooling.bias + shift)
        steps.append(lambda x: last((x.float() * filters).sum((1, 2))))
        largest = dtype.itemsize * (self.image_size // 2) ** 2 * len(stem.weight)
        return Folded(chain(steps), few_of(2 * largest), dtype)


def _blocks(stage: nn.Module) -> Iterator[tuple[list[FoldedConvolution], bool]]:
    """Yields the convolutions that follow each other, and whether the input is added to them."""
    assert isinstance(stage, _Layers)
    if isinstance(stage.layers[0], nn.Conv2d):
        yield [FoldedConvolution.of(*stage.layers)], False
    elif isinstance(stage, _Bottleneck):
        yield [found for part in stage.layers for (found,), _ in _blocks(part)], stage.shortcut
    else:
        for part in stage.layers:
            yield from _blocks(part)


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> _Layers:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    norm = nn.BatchNorm2d(out_channels)
    if activation:
        return _Convolution(convolution, norm, nn.PReLU(out_channels))
    return _Layers(convolution, norm)


def _repeat(channels: int, hidden: int, depth: int) -> _Layers:
    return _Layers(*(_Bottleneck(channels, hidden, channels, stride=1) for _ in range(depth)))


def _register(name: str, depths: Sequence[int], scale: int) -> None:
    @register_model(name)
    def build(*, embedding_size: int, image_size: int) -> MobileFaceNet:
        return MobileFaceNet(depths, scale, embedding_size=embedding_size, image_size=image_size)


# The paper's widths: 0.99 M parameters at embedding size 128.
_register("mobilefacenet_small", (1, 4, 6, 2), 1)
# `mbf` and `mbf_large` of arcface_torch.
_register("mobilefacenet", (1, 4, 6, 2), 2)
_register("mobilefacenet_large", (2, 8, 12, 4), 4)
