"""Vectors of length one, with a harmless answer for the zero vector."""

import torch
from torch import Tensor

# Shorter vectors have no direction that float32 could tell: their squares are all below 1e-24.
SMALLEST_NORM = 1e-12


def inverse_norm(vectors: Tensor) -> Tensor:
    """One over the Euclidean norm of the last dimension, and 0 for a zero vector.

    Args:
        vectors: (..., D), floating point.

    Returns:
        (...), the factor that makes each vector one of length 1. A vector shorter than 1e-12 gets
        0 instead of a huge number, so its cosine with anything is 0 and its gradient vanishes.
    """
    norm = torch.linalg.vector_norm(vectors, dim=-1)
    return torch.where(norm > SMALLEST_NORM, norm.clamp_min(SMALLEST_NORM).reciprocal(), 0.0)


def unit(vectors: Tensor) -> Tensor:
    """The vectors of the last dimension divided by their length; zero vectors stay zero.

    Args:
        vectors: (..., D), floating point.

    Returns:
        (..., D), each of length 1 (or 0).
    """
    return vectors * inverse_norm(vectors).unsqueeze(-1)
