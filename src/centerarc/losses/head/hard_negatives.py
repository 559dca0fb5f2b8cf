"""Hard negatives: other classes so near to a sample that they count for more than their cosine."""

from typing import NamedTuple

import torch
from torch import Tensor


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

    def at(self, scale: float, dtype: torch.dtype) -> "HardNegatives":
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
