"""What stands between the matrix products of the head: exponentials before, projection after.

Each stage touches one block of classes while it is in cache. With `triton` it is one kernel, else a
few of PyTorch's operations: the same formulas.

The kernels are bound by memory, and their sizes keep it busy: 16 entries a thread are four loads of
16 bytes for each array, neighbors along the last dimension, and so many programs fit on a
multiprocessor that over 64 KiB are under way where an H200 needs about 25 (its share of 4.8 TB/s
for 0.7 us). Sums are taken in an order that depends on the shapes alone: every run gives the same
bits. Scalars enter the kernels as float64, and are rounded there to the dtype of the arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for macOS, and CPU builds of torch come without it.
    triton = None

# One program of `exponentials`: 4 warps, each with 128 neighboring columns of all rows, so that
# the lengths are loaded once for 4 rows.
ROWS, COLUMNS, WARPS = 4, 512, 4

# One warp of the projection: a row of up to 512 entries, or as many rows as these make.
WARP_ENTRIES = 512
MOST_WARPS = 32


class HardNegatives(NamedTuple):
    """A rule for the cosines of the other classes, evaluated inside the pass over the classes.

    A cosine z of sample i counts as it is up to `threshold[i]`, and as `a z^2 + b z + c` above.
    The threshold has no gradient (where the rule jumps there is none), the curve's is exact in z.
    Nothing here depends on the number of classes.

    Attributes:
        threshold: (N,), one for each sample, on the scale of the cosines.
        curve: (3,), the coefficients a, b and c; a tensor, so that a learned or tracked one is not
            read back from a GPU.
        most: the largest absolute value that the curve can take for a cosine, at least 1: it
            decides whether exponentials need a running maximum.
    """

    threshold: Tensor
    curve: Tensor
    most: float

    def at(self, scale: float, dtype: torch.dtype) -> HardNegatives:
        """The same rule for scaled cosines v = scale z: `a / scale v^2 + b v + scale c`."""
        square, linear, constant = self.curve.detach().to(dtype).unbind()
        curve = torch.stack([square / scale, linear, constant * scale])
        return HardNegatives(self.threshold.detach().to(dtype) * scale, curve, self.most)

    def counted(self, logits: Tensor) -> Tensor:
        """(N, C) scaled cosines as they count, in plain autograd."""
        square, linear, constant = self.curve.unbind()
        bent = (square * logits + linear) * logits + constant
        return torch.where(logits.detach() > self.threshold.unsqueeze(1), bent, logits)

    def bend(self, logits: Tensor) -> Tensor:
        """`counted` in place; returns the (N, B) derivatives of what counts."""
        square, linear, constant = self.curve.unbind()
        easy = (logits > self.threshold.unsqueeze(1)).logical_not_()
        slope = (logits * square).add_(linear)
        bent = (slope * logits).add_(constant)
        slope.addcmul_(logits, square).masked_fill_(easy, 1.0)
        torch.where(easy, logits, bent, out=logits)
        return slope


def triton_available() -> bool:
    """Whether the kernels can run here: on a CUDA device, or on a CPU in Triton's interpreter.

    `TRITON_INTERPRET=1` in the environment, before Triton is imported, chooses the interpreter. It
    serves tests: it is slower than torch by orders of magnitude.
    """
    return triton is not None and (
        torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    )


def exponentials(
    z: Tensor,
    inverse: Tensor,
    columns: Tensor,
    limit: float,
    total: Tensor,
    hardest: Tensor,
    out: Tensor,
    triton: bool = False,
    hard: HardNegatives | None = None,
) -> None:
    """From a block's products to the exponentials whose products are the gradients.

    With v = z / |w|: `out = exp(v) / |w|`, 0 at the own class and where v > `limit`. With `hard`,
    where v counts as h(v): `out = exp(h(v)) h'(v) / |w|`. A NaN anywhere in a row of z makes the
    row's `total` and `hardest` NaN.

    Args:
        z: (N, B) products of scaled unit features and prototypes as they are, float32 or float64;
            rows contiguous, at any distance. Overwritten (a kernel leaves it, unless it is `out`).
        inverse: (B,) one over the prototypes' lengths, 0 for a zero prototype.
        columns: (N,) int64, each sample's own class, counted from the block's first.
        limit: a v above it does not count, but for `hardest`; infinity to count all.
        total: (N,) to which the sums of exp(v), or exp(h(v)), are added.
        hardest: (N,) raised to the largest v of another class.
        out: (N, B), z's dtype or bfloat16; may be `z`.
        triton: whether to take a kernel.
        hard: how other classes above a threshold count, for scaled cosines.
    """
    if triton:
        _launch_exponentials(z, inverse, columns, limit, total, hardest, out, hard)
        return
    negative_logits(z, inverse, columns)
    torch.maximum(hardest, z.amax(dim=1), out=hardest)
    drop_above(z, limit)
    slope = None if hard is None else hard.bend(z)
    total += z.exp_().sum(dim=1)
    if slope is not None:
        z *= slope
    torch.mul(z, inverse, out=out)


def negative_logits(z: Tensor, inverse: Tensor, columns: Tensor) -> None:
    """Divides (N, B) products by the prototypes' lengths; minus infinity at the own class."""
    z *= inverse
    own = ((columns >= 0) & (columns < z.shape[1])).unsqueeze(1)
    # Boolean indexing would wait for a GPU. So every row overwrites one entry: its own class's with
    # minus infinity or, if that lies in another block, the first with itself.
    column = columns.unsqueeze(1).where(own, 0)
    z.scatter_(1, column, z.gather(1, column).masked_fill_(own, -torch.inf))


def drop_above(z: Tensor, limit: float) -> None:
    """Minus infinity where a logit exceeds `limit`."""
    if limit < torch.inf:
        z.masked_fill_(z > limit, -torch.inf)


def class_logits(
    z: Tensor, inverse: Tensor, columns: Tensor, sub_centers: int
) -> tuple[Tensor, Tensor | None]:
    """`negative_logits` where a class may have K prototypes, the nearest of which counts.

    From (N, B K) products, overwritten, to (N, B) logits; and (N, B), which of the K was the
    nearest, None for K = 1.
    """
    if sub_centers == 1:
        negative_logits(z, inverse, columns)
        return z, None
    z *= inverse
    best, nearest = z.view(len(z), z.shape[1] // sub_centers, sub_centers).max(dim=2)
    negative_logits(best, inverse.new_ones(best.shape[1]), columns)
    return best, nearest


def at_sub_centers(
    entries: Tensor, nearest: Tensor | None, inverse: Tensor, sub_centers: int, out: Tensor
) -> None:
    """out = (N, B) entries of classes over the length of their nearest sub-center, 0 elsewhere."""
    if nearest is None:
        torch.mul(entries, inverse, out=out)
        return
    wide = entries.new_zeros(*entries.shape, sub_centers)
    wide.scatter_(2, nearest.unsqueeze(2), entries.unsqueeze(2))
    torch.mul(wide.flatten(1), inverse, out=out)


def project(gradient: Tensor, rows: Tensor, inverse: Tensor, triton: bool = False) -> None:
    """Takes from a gradient what would only change the prototypes' lengths.

    `g <- g - (g . w) w / |w|^2`, the derivative of w / |w|, whose 1 / |w| is in g already.

    Args:
        gradient: (B, D), in and out.
        rows: (B, D) prototypes (of any floating dtype for a kernel).
        inverse: (B,) one over their lengths.
        triton: whether to take a kernel.
    """
    if triton:
        _launch_rows(_project_kernel, (gradient, rows, inverse), (gradient, rows))
    else:
        gradient.addcmul_(rows, _radial(gradient, rows, inverse), value=-1)


def project_and_step(
    gradient: Tensor,
    rows: Tensor,
    inverse: Tensor,
    momentum: Tensor | None,
    lr: float,
    momentum_factor: float,
    weight_decay: float,
    nesterov: bool,
    triton: bool = False,
) -> None:
    """`project`, then one step of SGD on these rows and their (B, D) momentum, in place.

    The gradient is overwritten (a kernel leaves it).
    """
    if not triton:
        gradient.addcmul_(rows, weight_decay - _radial(gradient, rows, inverse))
        sgd_step(rows, gradient, momentum, lr, momentum_factor, nesterov)
        return
    buffer = gradient if momentum is None else momentum
    _launch_rows(
        _project_and_step_kernel,
        (gradient, rows, inverse, buffer),
        (gradient, rows, buffer),
        (lr, momentum_factor, weight_decay),
        MOMENTUM=momentum is not None,
        NESTEROV=nesterov,
    )


def sgd_step(
    rows: Tensor,
    gradient: Tensor,
    momentum: Tensor | None,
    lr: float,
    momentum_factor: float,
    nesterov: bool,
) -> None:
    """The rule of `torch.optim.SGD` on some rows, in place; the decay is in the gradient."""
    direction = gradient
    if momentum is not None:
        momentum.mul_(momentum_factor).add_(gradient)
        direction = gradient.add_(momentum, alpha=momentum_factor) if nesterov else momentum
    rows.add_(direction, alpha=-lr)


def _radial(gradient: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """(B, 1), how far each row's gradient points along it, over the squared length."""
    along: Tensor = torch.linalg.vecdot(gradient, rows)
    return along.mul_(inverse.square()).unsqueeze(1)


# The kernels.


def _kernel(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_kernel
def _exp(x: tl.tensor) -> tl.tensor:
    if x.dtype == tl.float64:
        return tl.exp(x)
    # tl.exp rounds x log2(e) to float32, which at |x| = 64 costs 29 ulp. Whole powers of two split
    # off first, by ln 2 as a sum whose first part has few digits, leave less than one, and what
    # the hardware's exp2 adds. Infinite or many, they alone make the result 0, infinity or NaN.
    whole = tl.floor(x * 1.4426950408889634)
    rest = x - whole * 0.693359375 + whole * 2.1219444005469058e-4
    rest = tl.where(tl.abs(whole) < 1024.0, rest, 0.0)
    return tl.exp2(rest * 1.4426950408889634) * tl.exp2(whole)


@_kernel
def _exponentials_kernel(
    z: tl.tensor,
    inverse: tl.tensor,
    columns: tl.tensor,
    threshold: tl.tensor,
    curve: tl.tensor,
    sums: tl.tensor,
    tops: tl.tensor,
    out: tl.tensor,
    samples: tl.tensor,
    classes: tl.tensor,
    z_stride: tl.tensor,
    out_stride: tl.tensor,
    limit: tl.float64,
    HARD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    # Neighboring programs take neighboring columns: memory is walked row by row.
    tiles = tl.cdiv(classes, COLUMNS)
    tile = tl.program_id(0) % tiles
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < samples)[:, None] & (column < classes)[None, :]
    dtype = z.dtype.element_ty

    # What lies outside is read as minus infinity: its exponential is 0 and it is not a maximum.
    at = row.to(tl.int64)[:, None] * z_stride + column[None, :]
    length = tl.load(inverse + column, mask=column < classes, other=1.0)[None, :]
    v = tl.load(z + at, mask=inside, other=float("-inf")) * length
    own = tl.load(columns + row, mask=row < samples, other=-1)
    own = tl.where((own >= 0) & (own < classes), own, -1).to(tl.int32)
    negative = own[:, None] != column[None, :]
    top = tl.max(tl.where(negative, v, float("-inf")), axis=1)

    # NaN is not equal to itself. It is kept even at the own class, so that no sum hides it.
    counted = (negative | (v != v)) & ~(v > tl.full((), limit, dtype))
    slope = length
    if HARD:
        square, linear, constant = tl.load(curve), tl.load(curve + 1), tl.load(curve + 2)
        start = tl.load(threshold + row, mask=row < samples, other=float("inf"))
        hard = v > start[:, None]
        slope = tl.where(hard, 2 * square * v + linear, 1.0) * length
        v = tl.where(hard, (square * v + linear) * v + constant, v)
    e = tl.where(counted, _exp(v), 0.0)
    at = row.to(tl.int64)[:, None] * out_stride + column[None, :]
    entry = e * slope
    if out.dtype.element_ty == tl.bfloat16:
        entry = entry.to(tl.float32)  # The interpreter does not round float64 to bfloat16.
    tl.store(out + at, entry.to(out.dtype.element_ty), mask=inside)

    at = tile.to(tl.int64) * samples + row
    tl.store(sums + at, tl.sum(e, axis=1), mask=row < samples)
    tl.store(tops + at, top, mask=row < samples)


@_kernel
def _fold_kernel(
    sums: tl.tensor,
    tops: tl.tensor,
    total: tl.tensor,
    hardest: tl.tensor,
    samples: tl.tensor,
    tiles: tl.tensor,
    MOST_TILES: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    some = tl.arange(0, TILES)
    dtype = sums.dtype.element_ty
    added = tl.zeros((ROWS,), dtype)
    top = tl.full((ROWS,), float("-inf"), dtype)
    for first in range(0, MOST_TILES, TILES):
        tile = first + some
        inside = (tile < tiles)[:, None] & (row < samples)[None, :]
        at = tile.to(tl.int64)[:, None] * samples + row[None, :]
        added += tl.sum(tl.load(sums + at, mask=inside, other=0.0), axis=0)
        tile_tops = tl.load(tops + at, mask=inside, other=float("-inf"))
        top = tl.maximum(top, tl.max(tile_tops, axis=0))
    # The maxima of the tiles ignore NaN, but their sums do not.
    top = tl.where(added != added, added, top)
    before = tl.load(hardest + row, mask=row < samples)
    top = tl.maximum(before, top, propagate_nan=tl.PropagateNan.ALL)
    tl.store(hardest + row, top, mask=row < samples)
    added += tl.load(total + row, mask=row < samples)
    tl.store(total + row, added, mask=row < samples)


@_kernel
def _across(g: tl.tensor, w: tl.tensor, inverse: tl.tensor) -> tl.tensor:
    along = tl.sum(g * w, axis=1) * (inverse * inverse)
    return g - along[:, None] * w


@_kernel
def _project_kernel(
    gradient: tl.tensor,
    rows: tl.tensor,
    inverse: tl.tensor,
    classes: tl.tensor,
    dimension: tl.tensor,
    gradient_stride: tl.tensor,
    rows_stride: tl.tensor,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row < classes)[:, None] & (column < dimension)
    start = row.to(tl.int64)[:, None]
    gradient += start * gradient_stride + column
    g = tl.load(gradient, mask=inside, other=0.0)
    w = tl.load(rows + start * rows_stride + column, mask=inside, other=0.0).to(g.dtype)
    length = tl.load(inverse + row, mask=row < classes, other=0.0)
    tl.store(gradient, _across(g, w, length), mask=inside)


@_kernel
def _project_and_step_kernel(
    gradient: tl.tensor,
    rows: tl.tensor,
    inverse: tl.tensor,
    momentum: tl.tensor,
    classes: tl.tensor,
    dimension: tl.tensor,
    gradient_stride: tl.tensor,
    rows_stride: tl.tensor,
    momentum_stride: tl.tensor,
    lr: tl.float64,
    momentum_factor: tl.float64,
    weight_decay: tl.float64,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row < classes)[:, None] & (column < dimension)
    start = row.to(tl.int64)[:, None]
    rows += start * rows_stride + column
    g = tl.load(gradient + start * gradient_stride + column, mask=inside, other=0.0)
    w = tl.load(rows, mask=inside, other=0.0)
    length = tl.load(inverse + row, mask=row < classes, other=0.0)
    g = _across(g, w, length) + tl.full((), weight_decay, g.dtype) * w
    if MOMENTUM:
        factor = tl.full((), momentum_factor, g.dtype)
        momentum += start * momentum_stride + column
        m = factor * tl.load(momentum, mask=inside, other=0.0) + g
        tl.store(momentum, m, mask=inside)
        g = g + factor * m if NESTEROV else m
    tl.store(rows, w - tl.full((), lr, g.dtype) * g, mask=inside)


def _launch_exponentials(
    z: Tensor,
    inverse: Tensor,
    columns: Tensor,
    limit: float,
    total: Tensor,
    hardest: Tensor,
    out: Tensor,
    hard: HardNegatives | None,
) -> None:
    samples, classes = z.shape
    if not samples or not classes:
        return
    tiles = triton.cdiv(classes, COLUMNS)
    sums, tops = z.new_empty(2, tiles, samples)
    # Without hard negatives any address will do: it is not read.
    threshold, curve = (inverse, inverse) if hard is None else (hard.threshold, hard.curve)
    with torch.cuda.device(z.get_device()):
        _exponentials_kernel[(triton.cdiv(samples, ROWS) * tiles,)](
            *(z, inverse, columns, threshold, curve, sums, tops, out),
            *(samples, classes, z.stride(0), out.stride(0)),
            limit,
            HARD=hard is not None,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
        # A power of 2 for the loop, so that few lengths of blocks need a kernel of their own.
        _fold_kernel[(triton.cdiv(samples, 32),)](
            *(sums, tops, total, hardest, samples, tiles),
            MOST_TILES=triton.next_power_of_2(tiles),
            ROWS=32,
            TILES=32,
            enable_fp_fusion=True,
        )


def _launch_rows(
    kernel: Any,
    arrays: tuple[Tensor, ...],
    strided: tuple[Tensor, ...],
    scalars: tuple[float, ...] = (),
    **constants: bool,
) -> None:
    """Starts a kernel over the rows of (B, D) arrays, of which the first is the gradient."""
    classes, dimension = arrays[0].shape
    if not classes or not dimension:
        return
    # Triton's arrays have powers of 2.
    width = triton.next_power_of_2(dimension)
    rows = max(1, WARP_ENTRIES // width)
    with torch.cuda.device(arrays[0].get_device()):
        kernel[(triton.cdiv(classes, rows),)](
            *arrays,
            *(classes, dimension),
            *(array.stride(0) for array in strided),
            *scalars,
            **constants,
            ROWS=rows,
            WIDTH=width,
            num_warps=min(MOST_WARPS, max(1, width // WARP_ENTRIES)),
            enable_fp_fusion=True,
        )
