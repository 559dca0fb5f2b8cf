"""Training steps of convolutional layers on a CPU with fewer passes over memory.

A batch of feature maps is many times larger than the caches. Plain batch normalization and PReLU,
forward and backward, read maps a dozen times, write five, and save two for the backward pass. Here
all that can be done with a block is done before the next one is read, and one map is saved.
oneDNN's gradient of a 3 x 3 convolution's weights is slow for channels_last maps on processors with
AVX2 alone; here it is a matrix product of such blocks.

The numbers are those of the plain layers up to rounding. What these functions have no use for goes
the plain way: another device, precision or layout, evaluation, a compiled or exported graph,
synchronized statistics, layers with hooks. There is no second derivative; to ask for one is an
error.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from centerarc.models.backbone import is_watched

# Numbers of a block, for each thread: 512 kB of float32.
_BLOCK = 1 << 17
# Numbers of a map from which on less memory traffic is worth more operations.
_LARGE = 1 << 15
# Fewer input channels make products too narrow; oneDNN is as fast there.
_FEWEST = 16


def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Applies a convolution to `(N, C, H, W)`."""
    fits = (
        _SLOW_WEIGHT_GRADIENT
        and type(layer) is nn.Conv2d
        and layer.kernel_size == (3, 3)
        and (layer.padding, layer.padding_mode) == ((1, 1), "zeros")
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.in_channels >= _FEWEST
        and layer.bias is None
        and layer.weight.requires_grad
        and _fits(x, layer)
    )
    if not fits:
        return layer(x)  # type: ignore[no-any-return]
    return _Convolution.apply(x, layer.weight, layer.stride)  # type: ignore[no-any-return, no-untyped-call]


def normalize(norm: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """Applies batch normalization and then a PReLU to `(N, C, H, W)`.

    In training the statistics of the normalization are updated, as it does itself.
    """
    fits = (
        type(norm) is nn.BatchNorm2d
        and type(activation) is nn.PReLU
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and activation.num_parameters == norm.num_features == x.shape[1]
        and _fits(x, norm, activation)
    )
    if not fits:
        return activation(norm(x))  # type: ignore[no-any-return]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return _Normalize.apply(  # type: ignore[no-any-return, no-untyped-call]
        *(x, norm.weight, norm.bias, activation.weight),
        *(norm.running_mean, norm.running_var, norm.momentum, norm.eps),
    )


# With AVX-512 and on ARM, oneDNN has other kernels.
_SLOW_WEIGHT_GRADIENT = torch.backends.cpu.get_cpu_capability() == "AVX2"


def _fits(x: Tensor, *layers: nn.Module) -> bool:
    return (
        torch.is_grad_enabled()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 4
        and x.numel() >= max(_LARGE, 2 * x.shape[1])
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and not torch.is_autocast_enabled("cpu")
        and all(_is_bare(layer) for layer in layers)
    )


def _is_bare(layer: nn.Module) -> bool:
    """Whether a layer has float32 weights, and is called as its class has it, without hooks."""
    return not is_watched(layer) and all(p.dtype == torch.float32 for p in layer.parameters())


class _Normalize(torch.autograd.Function):
    """y = PReLU(a x + b) with a = weight / sqrt(var + eps) and b = bias - mean a.

    Maps are (N, C, H, W), as rows (M, C); weight, bias and slope (C,). The
    backward pass needs of each channel the sums of g and g (x - mean) over all rows and over those
    that the PReLU passes on as they are; all else is algebra of C numbers.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        slope: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        rows = _rows(x)
        mean, var = _moments(rows)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        unbiased = var * (len(rows) / (len(rows) - 1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        inverse = (var + eps).rsqrt()
        a = (weight * inverse).float()
        b = (bias - mean * weight * inverse).float()
        y = torch.empty_like(x)
        (room,) = _scratch(rows, 1)
        for block in _blocks(rows):
            out = torch.addcmul(b, rows[block], a, out=_rows(y)[block])
            below = torch.clamp_max(out, 0.0, out=room[: len(out)])
            out.clamp_min_(0.0).addcmul_(below, slope)
        ctx.save_for_backward(x, slope, a, b, mean, inverse, bias.double())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, a, b, mean, inverse, bias = ctx.saved_tensors
        rows, above = _rows(x), _rows(gradient.contiguous(memory_format=torch.channels_last))
        blocks = list(_blocks(rows))
        passed_room, product_room = _scratch(rows, 2)

        def passed_on(block: slice) -> Tensor:
            """The gradient where the PReLU is the identity, 0 elsewhere."""
            out = passed_room[: block.stop - block.start]
            torch.addcmul(b, rows[block], a, out=out)
            return torch.ops.aten.threshold_backward(above[block], out, 0.0, grad_input=out)  # type: ignore[no-any-return]

        sums = rows.new_empty(len(blocks), 4, rows.shape[1])
        center = mean.float()  # first: sums of g x would lose what a small variance leaves
        for block, (*found,) in zip(blocks, sums, strict=True):
            for part, whole, by_x in (
                (above[block], *found[:2]),
                (passed_on(block), *found[2:]),
            ):
                product = torch.sub(rows[block], center, out=product_room[: len(part)])
                torch.sum(part, 0, out=whole)
                torch.sum(product.mul_(part), 0, out=by_x)
        every, every_x, passed, passed_x = sums.double().sum(0)
        cut, cut_x = every - passed, every_x - passed_x
        slope_grad = a * cut_x + (bias + (center - mean) * a) * cut
        # Of the sums of the gradient at the PReLU's input.
        bias_grad, by_x = passed + slope * cut, passed_x + slope * cut_x
        weight_grad = (by_x + (center - mean) * bias_grad) * inverse
        x_grad = None
        if ctx.needs_input_grad[0]:
            factor = -a * inverse * weight_grad / len(rows)
            constant = (-a * bias_grad / len(rows) - factor * mean).float()
            factor = factor.float()
            x_grad = torch.empty_like(x)
            for block in blocks:
                out = torch.addcmul(constant, rows[block], factor, out=_rows(x_grad)[block])
                out.addcmul_(above[block], a * slope)
                out.addcmul_(passed_on(block), a - a * slope)
        grads = (weight_grad, bias_grad, slope_grad)
        return (x_grad, *(grad.float() for grad in grads), None, None, None, None)


class _Convolution(torch.autograd.Function):
    """A 3 x 3 convolution with padding 1; x is (N, C, H, W), the weight (O, C, 3, 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return nn.functional.conv2d(x, weight, None, stride, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = torch.ops.aten.convolution_backward(
                *(gradient, x, weight, None, ctx.stride, (1, 1), (1, 1), False, (0, 0), 1),
                (True, False, False),
            )[0]
        if ctx.needs_input_grad[1]:
            weight_grad = _weight_gradient(x, gradient, ctx.stride)
        return x_grad, weight_grad, None


def _weight_gradient(x: Tensor, gradient: Tensor, stride: tuple[int, int]) -> Tensor:
    """(O, C, 3, 3), the gradient of the weights: of all pixels, that of y times their 9 neighbors.

    For a block of pixels the neighbors are gathered in a matrix of 9 C columns, of which those in a
    row of the map lie side by side.
    """
    count, channels, height, width = x.shape
    _, outputs, rows, columns = gradient.shape
    maps, above = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    room = 4 * _BLOCK * torch.get_num_threads()
    row_size = columns * 9 * channels
    together = min(count, max(1, room // (rows * row_size)))  # whole maps, where they are small
    most = min(rows, max(1, room // row_size))
    framed = x.new_zeros(together, height + 2, width + 2, channels)
    gathered = x.new_empty(together * most * columns, 9 * channels)
    total = x.new_zeros(outputs, 9 * channels)
    jump = framed.stride(1)
    for first in range(0, count, together):
        part = slice(first, min(first + together, count))
        size = part.stop - part.start
        framed[:size, 1:-1, 1:-1] = maps[part]
        for top in range(0, rows, most):
            high = min(most, rows - top)
            neighbors = framed.as_strided(
                (size, high, columns, 3, 3 * channels),
                (framed.stride(0), jump * stride[0], channels * stride[1], jump, 1),
                top * stride[0] * jump,
            )
            matrix = gathered[: size * high * columns]
            matrix.view(neighbors.shape).copy_(neighbors)
            beside = above[part, top : top + high].reshape(len(matrix), outputs)
            total.addmm_(beside.t(), matrix)
    return total.view(outputs, 3, 3, channels).permute(0, 3, 1, 2)


def _rows(maps: Tensor) -> Tensor:
    """(N, C, H, W) in channels_last as (N H W, C), the same memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _rows_a_block(rows: Tensor) -> int:
    return max(2, _BLOCK * torch.get_num_threads() // rows.shape[1])


def _blocks(rows: Tensor) -> Iterator[slice]:
    """Parts of (M, C) of about the same size, none of them of a single row."""
    count = -(-len(rows) // _rows_a_block(rows))
    ends = [len(rows) * number // count for number in range(count + 1)]
    yield from map(slice, ends[:-1], ends[1:])


def _scratch(rows: Tensor, count: int) -> Tensor:
    return rows.new_empty(count, min(len(rows), _rows_a_block(rows)), rows.shape[1])


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,), float64, over the rows (M, C): of blocks, combined (Chan 1979)."""
    blocks = list(_blocks(rows))
    found = []
    for block in blocks:
        maps = rows[block].view(1, block.stop - block.start, 1, -1).permute(0, 3, 1, 2)
        found.append(torch.batch_norm_update_stats(maps, None, None, 0.0))
    means, variances = (torch.stack(one).double() for one in zip(*found, strict=True))
    shares = torch.tensor(
        [[(block.stop - block.start) / len(rows)] for block in blocks], dtype=torch.float64
    )
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0)
