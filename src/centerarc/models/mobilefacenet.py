"""MobileFaceNet, a backbone for small data and small devices.

Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on
Mobile Devices": inverted residual bottlenecks with PReLU, fast downsampling, and a global
depthwise convolution (each position learns its own weight) in place of global pooling. Widths
and parameter names are those of the public arcface_torch checkpoints, which therefore load;
they are twice as wide as the paper's table 1 in the early stages.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from centerarc.models.backbone import STRIDE, Backbone, apply_in_full_precision, register_model

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


class _Bottleneck(_Layers):
    """Expand by 1 x 1, filter each channel by 3 x 3, project by 1 x 1 without activation."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, stride: int) -> None:
        super().__init__(
            _convolution(in_channels, hidden, 1),
            _convolution(hidden, hidden, 3, stride=stride, groups=hidden),
            _convolution(hidden, out_channels, 1, activation=False),
        )
        self.shortcut = stride == 1

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
        return _Layers(convolution, norm, nn.PReLU(out_channels))
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
