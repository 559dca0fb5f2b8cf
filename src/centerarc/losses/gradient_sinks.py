"""Where the prototypes' gradient goes, block by block: into an array, or into a step of SGD."""

from typing import Protocol

import torch
from torch import Tensor

from centerarc.losses import epilogues, triton_epilogues


class GradientSink(Protocol):
    """Takes the gradient of one block of classes after another."""

    def block(self, start: int, stop: int) -> Tensor:
        """(B K, D) memory for classes start to stop of the pass, in the features' dtype."""

    def finish(
        self, start: int, stop: int, gradient: Tensor, rows: Tensor, inverse: Tensor
    ) -> None:
        """Take what was written there, not yet projected."""


class GradientArray:
    """Collects the gradient in one array.

    Args:
        out: (S, D) or (S, K, D), contiguous.
        dtype: of the computation; blocks are converted where ``out`` has another.
        triton: whether to project in a Triton kernel.
    """

    def __init__(self, out: Tensor, dtype: torch.dtype, triton: bool) -> None:
        self.out = out
        self._dtype = dtype
        self._kernels = triton_epilogues if triton else epilogues

    def block(self, start: int, stop: int) -> Tensor:
        """As in ``GradientSink``."""
        block = self.out[start:stop].flatten(0, -2)
        return block if block.dtype == self._dtype else block.to(self._dtype)

    def finish(
        self, start: int, stop: int, gradient: Tensor, rows: Tensor, inverse: Tensor
    ) -> None:
        """As in ``GradientSink``."""
        self._kernels.project(gradient, rows, inverse)
        block = self.out[start:stop].flatten(0, -2)
        if block.dtype != self._dtype:
            block.copy_(gradient)

    def add(self, places: Tensor, gradient: Tensor) -> None:
        """Add (N, D) gradients of single prototypes at (N,) places among the S K rows."""
        add_rows(self.out.flatten(0, -2), places, gradient)


def add_rows(target: Tensor, places: Tensor, rows: Tensor) -> None:
    """target[places] += rows, repeated places included, with the same sum on every run."""
    rows = rows.to(target.dtype)
    if target.is_cuda:  # where index_add_ adds in any order
        target.index_put_((places,), rows, accumulate=True)
    else:
        target.index_add_(0, places, rows)
