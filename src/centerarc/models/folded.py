"""The convolutional backbones as a CPU embeds with them fastest.

What evaluation mode leaves of a batch normalization is a scale and a shift of each channel, which
go into the weights of the convolution before it, or after it. Images lie as (N, H, W, C), so that
convolutions of 1 x 1 are matrix products; wide ones of 3 x 3 are those of `winograd`. Images are
taken a few at a time, so that what is between two layers stays in the processor's caches.

The numbers differ from the model's own by rounding; in bfloat16 by that of each layer's output.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from centerarc.models.backbone import Backbone, create_model, structure
from centerarc.models.winograd import winograd, winograd_weight

# (N, H, W, C) to (N, H, W, K), both contiguous.
Step = Callable[[Tensor], Tensor]
# Products of filters from which Winograd's transforms of the images cost less than they save.
_WIDE = (128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 64) * 128
# Of what lies between two layers.
_PART_BYTES = 6_600_000


def is_as_created(model: Backbone) -> bool:
    """Whether a model is what its recipe says, but for the weights; its class too."""
    if (recipe := model.recipe) is None:
        return False
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        fresh = create_model(
            recipe.name,
            embedding_size=recipe.embedding_size,
            image_size=recipe.image_size,
            **recipe.options,
        )
    return structure(model) == structure(fresh)


@dataclass(frozen=True)
class FoldedConvolution:
    """A convolution with the norms around it, and its activation.

    Args:
        weight: `(K, C / groups, k, k)` float64.
        bias: `(K,)` float64; `(H, W, K)` where a shift before a border of zeros makes it differ.
        slope: `(K,)` of the PReLU after it; None without.
        stride: In pixels.
        groups: Of channels.
    """

    weight: Tensor
    bias: Tensor
    slope: Tensor | None
    stride: int
    groups: int

    @classmethod
    def of(
        cls,
        convolution: nn.Module,
        norm: nn.Module,
        activation: nn.Module | None = None,
        *,
        before: nn.Module | None = None,
        side: int = 0,
    ) -> "FoldedConvolution":
        """Folds the norm after a convolution into it, and one before it, of images of a side."""
        assert isinstance(convolution, nn.Conv2d)
        scale, bias = affine(norm)
        weight = convolution.weight.double() * scale[:, None, None, None]
        if before is not None:
            scale, shift = affine(before)
            shifts = (weight * shift[:, None, None]).sum(1, keepdim=True)
            inside = weight.new_ones(1, 1, side, side)  # zeros around it are not shifted
            moved = F.conv2d(inside, shifts, None, convolution.stride, convolution.padding)
            bias = moved[0].permute(1, 2, 0) + bias
            weight = weight * scale[:, None, None]
        slope = None
        if activation is not None:
            assert isinstance(activation, nn.PReLU)
            slope = activation.weight.detach().clone()
        return cls(weight, bias, slope, convolution.stride[0], convolution.groups)

    def with_outputs(self, order: Tensor) -> "FoldedConvolution":
        """Returns it with its output channels in another order."""
        slope = None if self.slope is None else self.slope[order]
        return replace(self, weight=self.weight[order], bias=self.bias[order], slope=slope)

    def with_inputs(self, order: Tensor) -> "FoldedConvolution":
        """Returns it for input channels in another order."""
        return replace(self, weight=self.weight[:, order])

    def step(self, dtype: torch.dtype = torch.float32) -> Step:
        """Returns what computes it, from and to maps of a precision."""
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        convolve: Step
        if weight.shape[2] == 1:
            product = Product(weight.flatten(1), bias, dtype)
            stride = self.stride
            convolve = product if stride == 1 else lambda x: product(x[:, ::stride, ::stride])
        elif self._wide and dtype == torch.float32:
            filters = winograd_weight(weight)
            convolve = lambda x: winograd(x, filters) + bias  # noqa: E731
        else:
            convolve = _direct(weight, bias, self.stride, self.groups)
        if self.slope is None:
            return convolve
        slope = self.slope.to(dtype)
        return lambda x: _prelu(convolve(x), slope)

    @property
    def _wide(self) -> bool:
        outputs, inputs, height, _ = self.weight.shape
        return (height, self.stride, self.groups) == (3, 1, 1) and outputs * inputs >= _WIDE


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, float64."""
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


class Product:
    """x W' + b over the last dimension, or over all but the first of several."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.weight = weight.to(dtype).t().contiguous()
        self.bias = bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, len(self.weight))
        return torch.addmm(self.bias, rows, self.weight).view(*x.shape[:-1], len(self.bias))


def _direct(weight: Tensor, bias: Tensor, stride: int, groups: int) -> Step:
    weight = weight.contiguous(memory_format=torch.channels_last)
    border = weight.shape[2] // 2
    edge = None
    if bias.ndim == 3:  # the same but along the edges
        middle, last = len(bias) // 2, max(1, len(bias) - 1)
        whole, bias = bias, bias[middle, middle].contiguous()
        edge = whole - bias

    def convolve(x: Tensor) -> Tensor:
        found = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, border, groups=groups)
        y = found.permute(0, 2, 3, 1).contiguous()
        if edge is not None:
            y[:, ::last] += edge[::last]
            y[:, 1:-1, ::last] += edge[1:-1, ::last]
        return y

    return convolve


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.prelu(x.reshape(-1, x.shape[-1]), slope).view(x.shape)


def pairs(layer: FoldedConvolution, order: Tensor, dtype: torch.dtype) -> Step:
    """A convolution by 3 x 3 of groups of two channels, as two of single channels.

    Args:
        layer: The convolution.
        order: The first channels of all groups, then the second: that of its input and output.
        dtype: Precision of the maps.
    """
    ordered, half = layer.with_outputs(order), layer.groups
    own = order % 2  # which of its group a channel is
    same = _direct(_of_channel(ordered.weight, own).to(dtype), ordered.bias.to(dtype), 1, 2 * half)
    # What an input gives the other output of its group.
    weight = _of_channel(ordered.weight.roll(half, 0), own)
    across = _direct(weight.to(dtype), torch.zeros(2 * half, dtype=dtype), 1, 2 * half)
    slope = None if ordered.slope is None else ordered.slope.to(dtype)

    def step(x: Tensor) -> Tensor:
        y, z = same(x), across(x)
        y[..., :half] += z[..., half:]
        y[..., half:] += z[..., :half]
        return y if slope is None else _prelu(y, slope)

    return step


def _of_channel(weight: Tensor, channel: Tensor) -> Tensor:
    """Takes a given one of the input channels of each filter."""
    return weight[torch.arange(len(weight)), channel][:, None]


def chain(steps: Sequence[Step]) -> Step:
    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def added(body: Step, shortcut: Step | None) -> Step:
    """Adds what a shortcut makes of the input; None adds the input."""
    return lambda x: body(x).add_(x if shortcut is None else shortcut(x))


class Folded:
    """All steps, for a few images at a time, in as many threads as PyTorch has.

    Threads that each take images of their own need not wait for each other at every layer, which
    costs little on idle cores, and most of the time where others work there too.

    Args:
        step: From images to embeddings.
        part: How many images are taken at once.
        dtype: Precision of the images that the first step takes.
    """

    def __init__(self, step: Step, part: int, dtype: torch.dtype) -> None:
        self._step = step
        self._part = part
        self._dtype = dtype

    def __call__(self, images: Tensor) -> Tensor:
        threads = torch.get_num_threads()
        if threads == 1 or len(images) < threads:  # which each layer has for itself
            return torch.cat([self._embedded(part) for part in torch.split(images, self._part)])
        turns = -(-len(images) // (self._part * threads))
        parts = images.tensor_split(min(turns * threads, len(images)))
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads, "embed", torch.set_num_threads, (1,)) as pool:
                return torch.cat([*pool.map(self._embedded, parts)])
        finally:
            torch.set_num_threads(threads)

    def _embedded(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._step(images.permute(0, 2, 3, 1).to(self._dtype).contiguous())


def few_of(largest: int) -> int:
    """How many images are taken at once where each has so many bytes between two layers."""
    return max(1, _PART_BYTES // largest)
