"""The inputs of a head: features, prototypes, labels."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Problem:
    """One batch and the prototypes.

    Attributes:
        features: (N, D), a leaf that requires a gradient.
        weight: (C, D), plain; the implementation makes a parameter of this memory.
        labels: (N,).
        reduced: whether the head runs under bfloat16 autocast.
    """

    features: Tensor
    weight: Tensor
    labels: Tensor
    reduced: bool = False


def draw(n: int, c: int, d: int, device: str, *, reduced: bool = False, seed: int = 0) -> Problem:
    """Features of deviation 1, prototypes of deviation 0.01, labels at random."""
    generator = torch.Generator(device).manual_seed(seed)
    weight = torch.empty(c, d, device=device).normal_(std=0.01, generator=generator)
    features = torch.randn(n, d, device=device, generator=generator).requires_grad_()
    labels = torch.randint(c, (n,), device=device, generator=generator)
    return Problem(features, weight, labels, reduced)


def draw_near(n: int, c: int, d: int, device: str, seed: int = 0) -> Problem:
    """Features at many angles to prototypes of deviation 1, whose decay is not lost in rounding.

    From right angles to cos = 0.9: beyond, in bfloat16, a cosine may round to 1, where the ``acos``
    and ``sqrt(1 - cos^2)`` of the peers have an infinite derivative.
    """
    problem = draw(n, c, d, device, seed=seed)
    with torch.no_grad():
        problem.weight.mul_(100)
        own = torch.nn.functional.normalize(problem.weight[problem.labels])
        away = torch.nn.functional.normalize(problem.features)
        share = torch.linspace(0.0, 0.65, n, device=device).unsqueeze(1)
        problem.features.copy_(8 * (share * own + (1 - share) * away))
    return problem
