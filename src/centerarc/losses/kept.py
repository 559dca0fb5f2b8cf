"""Where exponentials of the forward pass stay until the backward pass wants them."""

import torch
from torch import Tensor


class KeptInGradient:
    """In the memory of the prototypes' gradient, which must exist a little later anyway.

    A class's row of the gradient has D entries and its exponentials are N: they lie where the row
    will, each block in its own part, and are read before it is written. Keeping them then costs no
    memory and no page that would not be touched. Where N exceeds D, as many samples as fit.

    Args:
        gradient: (S, D) or (S, K, D), contiguous; its content is ours until it is filled.
        samples: N.
        dtype: of the exponentials.
    """

    in_gradient = True

    def __init__(self, gradient: Tensor, samples: int, dtype: torch.dtype) -> None:
        self._gradient = gradient
        self._dtype = dtype
        row = gradient.shape[-1] * gradient.element_size()
        self._samples = min(samples, row // dtype.itemsize)

    def slot(self, start: int, stop: int) -> Tensor | None:
        """(N', B K) memory of classes start to stop, for the first N' samples; None for none."""
        if not self._samples:
            return None
        block = self._gradient[start:stop]
        if block.storage_offset() * block.element_size() % self._dtype.itemsize:
            return None  # Narrow rows of odd length may start between two entries.
        width = block.numel() // block.shape[-1]
        flat = block.view(-1).view(torch.uint8)
        used = flat[: self._samples * width * self._dtype.itemsize]
        return used.view(self._dtype).view(self._samples, width)

    def release(self) -> Tensor:
        """The gradient's memory as a tensor that no one else refers to.

        Autograd takes a gradient over only then; else it would copy it.
        """
        return self._gradient.view_as(self._gradient)


class KeptApart:
    """In memory of its own of bounded size, where there is no gradient: the first classes' only.

    Args:
        features: (N, D), for its device.
        rows: S K, prototypes of the pass.
        sub_centers: K.
        dtype: of the exponentials.
        limit: bytes, at most.
    """

    in_gradient = False

    def __init__(
        self, features: Tensor, rows: int, sub_centers: int, dtype: torch.dtype, limit: int
    ) -> None:
        self._samples = len(features)
        self._sub_centers = sub_centers
        size = min(self._samples * rows, limit // dtype.itemsize)
        self._memory = features.new_empty(size, dtype=dtype)

    def slot(self, start: int, stop: int) -> Tensor | None:
        """(N, B K) memory of classes start to stop; None where it is used up."""
        first, last = (self._samples * self._sub_centers * edge for edge in (start, stop))
        if last > len(self._memory):
            return None
        width = (stop - start) * self._sub_centers
        return self._memory[first:last].view(self._samples, width)


KeptEntries = KeptInGradient | KeptApart
