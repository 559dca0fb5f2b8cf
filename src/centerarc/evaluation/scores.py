"""What every verification metric needs of its input: finite scores and pairs of both kinds."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def check_scores(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Return ``scores`` as float64 and ``same`` as bool, or say which row is wrong.

    Args:
        scores: (P,) one similarity a pair, higher is more alike; finite.
        same: (P,) True (or 1) where both images of the pair show one person.

    Returns:
        The two arrays, each (P,).

    Raises:
        ValueError: a wrong shape, a score that is not finite, a label that is neither 0 nor 1,
            or no pair of one of the two kinds.
    """
    values = np.asarray(scores, dtype=np.float64)
    labels: npt.NDArray[Any] = np.asarray(same)
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (P,), got {values.shape}")
    if labels.shape != values.shape:
        raise ValueError(f"same must have the shape of scores {values.shape}, got {labels.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(f"scores must be finite, got {values[bad[0]]} in row {bad[0]}")
    if labels.dtype != np.bool_:
        bad = np.flatnonzero((labels != 0) & (labels != 1))
        if bad.size:
            raise ValueError(f"same must be 0 or 1, got {labels[bad[0]]} in row {bad[0]}")
        labels = labels.astype(np.bool_)
    genuine = int(labels.sum())
    if genuine == 0 or genuine == labels.size:
        kind = "genuine (same person)" if genuine == 0 else "impostor (different people)"
        raise ValueError(f"same holds no {kind} pair among {labels.size}; both kinds are needed")
    return values, labels


def check_folds(folds: npt.ArrayLike, num_pairs: int) -> IntArray:
    """Return ``folds`` as (P,) int64, or say what is wrong with it."""
    numbers: npt.NDArray[Any] = np.asarray(folds)
    if numbers.shape != (num_pairs,):
        raise ValueError(f"folds must have shape ({num_pairs},), got {numbers.shape}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"folds must be integers, got dtype {numbers.dtype}")
    return numbers.astype(np.int64)
