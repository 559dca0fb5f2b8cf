"""Vectors of length one, with a harmless answer for the zero vector."""

import torch
from torch import Tensor

# Shorter vectors have no direction: one over their length, times exp(64), would leave float32.
SMALLEST_NORM = 1e-10


def inverse_norm(vectors: Tensor) -> Tensor:
    """One over the Euclidean norm of the last dimension, and 0 for a zero vector.

    Args:
        vectors: (..., D), floating point.

    Returns:
        (...), the factor that makes each vector one of length 1. A vector shorter than 1e-10 gets
        0 instead of a huge number, so its cosine with anything is 0 and its gradient vanishes. One
        whose length overflows (in float32, from about 1e19 on) gets NaN: it would else pass for 0.
    """
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    overflow = norm.detach() * 0
    inverse = norm.clamp_min(SMALLEST_NORM).reciprocal()
    return torch.where(norm > SMALLEST_NORM, inverse, 0.0) + overflow


def unit(vectors: Tensor) -> Tensor:
    """The vectors of the last dimension divided by their length; zero vectors stay zero.

    Args:
        vectors: (..., D), floating point.

    Returns:
        (..., D), each of length 1 (or 0).
    """
    return vectors * inverse_norm(vectors).unsqueeze(-1)
