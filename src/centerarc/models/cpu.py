"""Training steps of convolutional layers on a CPU with fewer passes over memory, and less of it.

A batch of feature maps is many times larger than the caches. Plain batch normalization and PReLU,
forward and backward, read maps a dozen times, write five, and save two for the backward pass, and
the convolution after them saves a third. Here all that can be done with a block is done before the
next one is read, and the first map alone is saved. oneDNN's gradient of a 3 x 3 convolution's
weights is slow for channels_last maps on processors with AVX2 alone, and of a stride of two with
AVX-512; there it is a matrix product of such blocks.

The numbers are those of the plain layers up to rounding. What these functions have no use for goes
the plain way: another device, precision or layout, evaluation, a compiled or exported graph,
synchronized statistics, layers with hooks. There is no second derivative; to ask for one is an
error.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from centerarc.models.backbone import is_watched

# Numbers of a block, for each thread: 512 kB of float32.
_BLOCK = 1 << 17
# Numbers of a map from which on less memory traffic is worth more operations.
_LARGE = 1 << 15
# Fewer input channels make products too narrow; oneDNN is as fast there.
_FEWEST = 16


def normalize(norm: nn.Module, activation: nn.Module, x: Tensor) -> Tensor:
    """Applies batch normalization and then a PReLU to `(N, C, H, W)`.

    In training the statistics of the normalization are updated, as it does itself.
    """
    if not _normalizes(norm, activation, x):
        return activation(norm(x))  # type: ignore[no-any-return]
    arguments = _arguments(norm, activation)
    return _Normalize.apply(x, *arguments)  # type: ignore[no-any-return, no-untyped-call]


def convolve(norm: nn.Module, activation: nn.Module | None, layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Applies batch normalization, a PReLU where there is one, and a convolution by 3 x 3.

    As `normalize`; what the convolution reads is not kept for the backward pass, but made again.
    """
    fits = (
        _normalizes(norm, activation, x)
        and type(layer) is nn.Conv2d
        and layer.kernel_size == (3, 3)
        and (layer.padding, layer.padding_mode) == ((1, 1), "zeros")
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.bias is None
        and layer.in_channels == x.shape[1]
        and _is_bare(layer)
    )
    if not fits:
        return layer(norm(x) if activation is None else normalize(norm, activation, x))  # type: ignore[no-any-return]
    arguments = _arguments(norm, activation)
    return _Convolve.apply(x, *arguments, layer.weight, layer.stride)  # type: ignore[no-any-return, no-untyped-call]


def _normalizes(norm: nn.Module, activation: nn.Module | None, x: Tensor) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and _fits(x, norm, *(() if activation is None else (activation,)))
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and all(buffer is not None for buffer in norm._buffers.values())
        and norm.momentum is not None
        and norm.num_features == x.shape[1]
        and (
            activation is None
            or (type(activation) is nn.PReLU and activation.num_parameters == x.shape[1])
        )
    )


def _arguments(norm: nn.Module, activation: nn.Module | None) -> tuple[Any, ...]:
    """What the functions below take of a norm that is called, and of a PReLU."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return (
        *(norm.weight, norm.bias, None if activation is None else activation.weight),
        *(norm.running_mean, norm.running_var, norm.momentum, norm.eps),
    )


# The strides at which oneDNN's gradient of the weights is slow; on ARM it has other kernels.
_SLOW_STRIDES = {"AVX2": (1, 2), "AVX512": (2,)}.get(torch.backends.cpu.get_cpu_capability(), ())


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
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and all(_is_bare(layer) for layer in layers)
    )


def _is_bare(layer: nn.Module) -> bool:
    """Whether a layer has float32 weights, and is called as its class has it, without hooks."""
    return not is_watched(layer) and all(p.dtype == torch.float32 for p in layer.parameters())


class _Normalize(torch.autograd.Function):
    """y = PReLU(a x + b) with a = weight / sqrt(var + eps) and b = bias - mean a.

    Maps are (N, C, H, W), as rows (M, C); weight, bias and slope (C,).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        saved = _measured(x, *arguments)
        ctx.save_for_backward(x, *saved)
        return _normalized(x, *saved[:3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = _gradients(gradient, *ctx.saved_tensors, wanted=ctx.needs_input_grad[0])
        return (*found, *4 * (None,))


class _Convolve(torch.autograd.Function):
    """y = kernel * PReLU(a x + b), 3 x 3 with padding 1, without the PReLU where there is no slope.

    As `_Normalize`; the kernel is (O, C, 3, 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> Tensor:
        *of_norm, kernel, ctx.stride = arguments
        saved = _measured(x, *of_norm)
        ctx.save_for_backward(kernel, x, *saved)
        return nn.functional.conv2d(_normalized(x, *saved[:3]), kernel, None, ctx.stride, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kernel, x, *saved = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        learns = ctx.needs_input_grad[8]
        by_blocks = learns and x.shape[1] >= _FEWEST and ctx.stride[0] in _SLOW_STRIDES
        read = _normalized(x, *saved[:3])
        at_read, at_kernel, _ = torch.ops.aten.convolution_backward(
            *(gradient, read, kernel, None, ctx.stride, (1, 1), (1, 1), False, (0, 0), 1),
            (True, learns and not by_blocks, False),
        )
        if by_blocks:
            at_kernel = _weight_gradient(read, gradient, ctx.stride)
        del read, gradient
        found = _gradients(at_read, x, *saved, wanted=ctx.needs_input_grad[0], owned=True)
        return (*found, *4 * (None,), at_kernel, None)


def _measured(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Any, ...]:
    """Updates the statistics of a norm; returns a, b, the slope, mean, 1 / sqrt(var + eps), bias.

    The last three are float64.
    """
    rows = _rows(x)
    mean, var = _moments(rows)
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    unbiased = var * (len(rows) / (len(rows) - 1))
    running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    inverse = (var + eps).rsqrt()
    a, b = weight * inverse, bias - mean * weight * inverse
    return a.float(), b.float(), slope, mean, inverse, bias.double()


def _normalized(x: Tensor, a: Tensor, b: Tensor, slope: Tensor | None) -> Tensor:
    rows, y = _rows(x), torch.empty_like(x)
    (room,) = _scratch(rows, 1)
    for block in _blocks(rows):
        out = torch.addcmul(b, rows[block], a, out=_rows(y)[block])
        if slope is not None:
            below = torch.clamp_max(out, 0.0, out=room[: len(out)])
            out.clamp_min_(0.0).addcmul_(below, slope)
    return y


def _gradients(
    gradient: Tensor,
    x: Tensor,
    a: Tensor,
    b: Tensor,
    slope: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    bias: Tensor,
    *,
    wanted: bool,
    owned: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients at x, where it is wanted, weight, bias and slope.

    An owned gradient is written over by that at x.

    They need of each channel the sums of g and g (x - mean) over all rows and over those that the
    PReLU passes on as they are; all else is algebra of C numbers.
    """
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    rows, above = _rows(x), _rows(gradient)
    blocks = list(_blocks(rows))
    passed_room, product_room = _scratch(rows, 2)

    def parts(block: slice) -> tuple[Tensor, ...]:
        """The gradient, and, of a PReLU, the same with 0 where that is not the identity."""
        if slope is None:
            return (above[block],)
        out = passed_room[: block.stop - block.start]
        torch.addcmul(b, rows[block], a, out=out)
        return above[block], torch.ops.aten.threshold_backward(above[block], out, 0, grad_input=out)

    sums = rows.new_zeros(len(blocks), 4, rows.shape[1])
    center = mean.float()  # first: sums of g x would lose what a small variance leaves
    for block, (*found,) in zip(blocks, sums, strict=True):
        for number, part in enumerate(parts(block)):
            product = torch.sub(rows[block], center, out=product_room[: len(part)])
            torch.sum(part, 0, out=found[2 * number])
            torch.sum(product.mul_(part), 0, out=found[2 * number + 1])
    every, every_x, passed, passed_x = sums.double().sum(0)
    slope_grad = None
    if slope is None:
        bias_grad, by_x, share = every, every_x, a
    else:
        cut, cut_x = every - passed, every_x - passed_x
        slope_grad = (a * cut_x + (bias + (center - mean) * a) * cut).float()
        # Of the sums of the gradient at the PReLU's input.
        bias_grad, by_x, share = passed + slope * cut, passed_x + slope * cut_x, a * slope
    weight_grad = (by_x + (center - mean) * bias_grad) * inverse
    x_grad = None
    if wanted:
        factor = -a * inverse * weight_grad / len(rows)
        constant = (-a * bias_grad / len(rows) - factor * mean).float()
        factor = factor.float()
        x_grad = gradient if owned else torch.empty_like(x)
        for block in blocks:
            out = product_room[: block.stop - block.start]
            torch.addcmul(constant, rows[block], factor, out=out)
            whole, *passed_on = parts(block)
            if passed_on:
                out.addcmul_(*passed_on, a - share)
            torch.addcmul(out, whole, share, out=_rows(x_grad)[block])
    return x_grad, weight_grad.float(), bias_grad.float(), slope_grad


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
