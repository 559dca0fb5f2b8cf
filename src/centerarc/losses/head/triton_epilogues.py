"""The functions of ``epilogues`` as Triton kernels: each array is read once and written once.

The kernels are bound by memory, and their sizes keep it busy: 16 entries a thread are four loads of
16 bytes for each array, neighbours along the last dimension, and so many programs fit on a
multiprocessor that over 64 KiB are under way where an H200 needs about 25 (its share of 4.8 TB/s
for 0.7 us). Sums are taken in an order that depends on the shapes alone: every run gives the same
bits.

Scalars enter the kernels as float64, and are rounded there to the dtype of the arrays.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton has no wheels for macOS, and CPU builds of torch come without it.
    triton = None

# One program of ``exponentials``: 4 warps, each with 128 neighbouring columns of all rows, so that
# the lengths are loaded once for 4 rows.
ROWS, COLUMNS, WARPS = 4, 512, 4

# One warp of the projection: a row of up to 512 entries, or as many rows as these make.
WARP_ENTRIES = 512
MOST_WARPS = 32


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
def _exponentials(
    z: tl.tensor,
    inverse: tl.tensor,
    columns: tl.tensor,
    sums: tl.tensor,
    tops: tl.tensor,
    out: tl.tensor,
    samples: tl.tensor,
    classes: tl.tensor,
    z_stride: tl.tensor,
    out_stride: tl.tensor,
    limit: tl.float64,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    # Neighbouring programs take neighbouring columns: memory is walked row by row.
    tiles = tl.cdiv(classes, COLUMNS)
    tile = tl.program_id(0) % tiles
    row = tl.program_id(0) // tiles * ROWS + tl.arange(0, ROWS)
    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < samples)[:, None] & (column < classes)[None, :]
    dtype = z.dtype.element_ty

    # What lies outside is read as minus infinity: its exponential is 0 and it is no maximum.
    at = row.to(tl.int64)[:, None] * z_stride + column[None, :]
    length = tl.load(inverse + column, mask=column < classes, other=1.0)[None, :]
    v = tl.load(z + at, mask=inside, other=float("-inf")) * length
    own = tl.load(columns + row, mask=row < samples, other=-1)
    own = tl.where((own >= 0) & (own < classes), own, -1).to(tl.int32)
    negative = own[:, None] != column[None, :]
    top = tl.max(tl.where(negative, v, float("-inf")), axis=1)

    # NaN is not equal to itself. It is kept even at the own class, so that no sum hides it.
    counted = (negative | (v != v)) & ~(v > tl.full((), limit, dtype))
    e = tl.where(counted, _exp(v), 0.0)
    at = row.to(tl.int64)[:, None] * out_stride + column[None, :]
    entry = e * length
    if out.dtype.element_ty == tl.bfloat16:
        entry = entry.to(tl.float32)  # The interpreter does not round float64 to bfloat16.
    tl.store(out + at, entry.to(out.dtype.element_ty), mask=inside)

    at = tile.to(tl.int64) * samples + row
    tl.store(sums + at, tl.sum(e, axis=1), mask=row < samples)
    tl.store(tops + at, top, mask=row < samples)


@_kernel
def _fold(
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
def _project(
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
def _project_and_step(
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


def available() -> bool:
    """Whether the kernels can run here: on a CUDA device, or on a CPU in Triton's interpreter.

    The interpreter is chosen by ``TRITON_INTERPRET=1`` in the environment, before Triton is
    imported. It serves tests: it is slower than torch by orders of magnitude.
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
) -> None:
    """``epilogues.exponentials`` in one pass over z, which stays as it is (or is ``out``).

    With v = z / |w|: ``out = exp(v) / |w|``, 0 at the own class and where v > ``limit``.
    A NaN anywhere in a row of z makes the row's ``total`` and ``hardest`` NaN.

    Args:
        z: (N, B) products of scaled unit features and prototypes, float32 or float64; rows
            contiguous, at any distance.
        inverse: (B,) one over the prototypes' lengths, 0 for a zero prototype; z's dtype.
        columns: (N,) int64, each sample's own class counted from the block's first. Outside [0, B)
            it excludes no class.
        limit: a v above it does not count, but for ``hardest``; infinity to count all.
        total: (N,) to which the sums of exp(v) are added, z's dtype.
        hardest: (N,) raised to the largest v of another class, z's dtype.
        out: (N, B), z's dtype or bfloat16, rows as those of z; may be ``z``.
    """
    samples, classes = z.shape
    if not samples or not classes:
        return
    tiles = triton.cdiv(classes, COLUMNS)
    sums, tops = z.new_empty(2, tiles, samples)
    arrays = z, inverse, columns, sums, tops, out
    sizes = samples, classes, z.stride(0), out.stride(0)
    with torch.cuda.device(z.get_device()):
        _exponentials[(triton.cdiv(samples, ROWS) * tiles,)](
            *arrays,
            *sizes,
            limit,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
        # A power of 2 for the loop, so that few lengths of blocks need a kernel of their own.
        _fold[(triton.cdiv(samples, 32),)](
            sums,
            tops,
            total,
            hardest,
            samples,
            tiles,
            MOST_TILES=triton.next_power_of_2(tiles),
            ROWS=32,
            TILES=32,
            enable_fp_fusion=True,
        )


def project(gradient: Tensor, rows: Tensor, inverse: Tensor) -> None:
    """``epilogues.project`` in one pass: take out what would only change the prototypes' lengths.

    ``g <- g - (g . w) w / |w|^2``, the derivative of w / |w|, whose 1 / |w| is in g already.

    Args:
        gradient: (B, D), float32 or float64, in and out.
        rows: (B, D) prototypes, any floating dtype; rows contiguous, at any distance.
        inverse: (B,) one over their lengths, the gradient's dtype.
    """
    classes, dimension = gradient.shape
    if not classes or not dimension:
        return
    tile, width, warps = _tile(dimension)
    sizes = classes, dimension, gradient.stride(0), rows.stride(0)
    with torch.cuda.device(gradient.get_device()):
        _project[(triton.cdiv(classes, tile),)](
            gradient,
            rows,
            inverse,
            *sizes,
            ROWS=tile,
            WIDTH=width,
            num_warps=warps,
            enable_fp_fusion=True,
        )


def project_and_step(
    gradient: Tensor,
    rows: Tensor,
    inverse: Tensor,
    momentum: Tensor | None,
    lr: float,
    momentum_factor: float,
    weight_decay: float,
    nesterov: bool,
) -> None:
    """``epilogues.project_and_step`` in one pass: project, then step these rows as SGD does.

    Args:
        gradient: (B, D), float32 or float64; left as it is.
        rows: (B, D) prototypes, in and out, the gradient's dtype; rows contiguous, at any distance.
        inverse: (B,) one over their lengths, the gradient's dtype.
        momentum: (B, D) buffer, in and out, the gradient's dtype; None without momentum.
        lr: learning rate.
        momentum_factor: of the buffer.
        weight_decay: added to the gradient times the rows.
        nesterov: Nesterov's momentum.
    """
    classes, dimension = gradient.shape
    if not classes or not dimension:
        return
    tile, width, warps = _tile(dimension)
    buffer = gradient if momentum is None else momentum
    arrays = gradient, rows, inverse, buffer
    sizes = classes, dimension, gradient.stride(0), rows.stride(0), buffer.stride(0)
    with torch.cuda.device(gradient.get_device()):
        _project_and_step[(triton.cdiv(classes, tile),)](
            *arrays,
            *sizes,
            lr,
            momentum_factor,
            weight_decay,
            MOMENTUM=momentum is not None,
            NESTEROV=nesterov,
            ROWS=tile,
            WIDTH=width,
            num_warps=warps,
            enable_fp_fusion=True,
        )


def _tile(dimension: int) -> tuple[int, int, int]:
    """Rows of a program, their width (a power of 2, as Triton's arrays have) and its warps."""
    width = triton.next_power_of_2(dimension)
    warps = min(MOST_WARPS, max(1, width // WARP_ENTRIES))
    return max(1, WARP_ENTRIES // width), width, warps
