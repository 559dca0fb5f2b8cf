"""The angle between each sample and the prototype of its own class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from centerarc.losses.unit import SMALLEST_NORM, unit


@dataclass(frozen=True)
class Target:
    """What a margin may look at: one entry a sample, all (N,) and differentiable.

    Attributes:
        cos: cosine of the angle theta between the feature and its class prototype, in [-1, 1].
        sin: sine of the same angle, in [0, 1], accurate for small angles too.
        norm: length of the feature before normalisation.
    """

    cos: Tensor
    sin: Tensor
    norm: Tensor

    @property
    def theta(self) -> Tensor:
        """The angle in radians, in [0, pi], with a finite gradient everywhere."""
        return torch.atan2(self.sin, self.cos)


def target_angle(features: Tensor, prototypes: Tensor) -> Target:
    """Cosine and sine between each feature and the prototype beside it.

    With unit vectors x and w, ``cos = <x, w>`` and ``sin = |x - w| |x + w| / 2``. The usual
    ``sqrt(1 - cos^2)`` loses the small angles: at theta = 1e-3 it is off by tens of per cent in
    float32, where this form keeps six digits; and its derivative at cos = +-1 is infinite, where
    this one's stays at most 1.

    Args:
        features: (N, D), float32 or float64.
        prototypes: (N, D), row i is the prototype of sample i's class.

    Returns:
        The target with entries (N,). A zero feature or prototype counts as orthogonal: cos 0,
        sin 1, and no gradient.
    """
    x, w = unit(features), unit(prototypes)
    norm = torch.linalg.vector_norm(features, dim=-1)
    apart = torch.linalg.vector_norm(x - w, dim=-1)
    opposed = torch.linalg.vector_norm(x + w, dim=-1)
    shortest = torch.minimum(norm, torch.linalg.vector_norm(prototypes, dim=-1)).detach()
    # Clamping would zero the gradient of cosines that rounding put a hair outside [-1, 1].
    cos = (x * w).sum(dim=-1)
    sin = torch.where(shortest > SMALLEST_NORM, apart * opposed / 2, 1.0)
    return Target(cos=cos, sin=sin, norm=norm)
