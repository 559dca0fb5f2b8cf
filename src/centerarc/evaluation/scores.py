"""What every verification metric needs of its input: finite scores and pairs of both kinds."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]
# Scores as they come, float32 or float64.
ScoreArray = npt.NDArray[np.floating[Any]]


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
    values, labels = check_scores_as_given(scores, same)
    return values.astype(np.float64, copy=False), labels


def check_scores_as_given(
    scores: npt.ArrayLike, same: npt.ArrayLike
) -> tuple[ScoreArray, BoolArray]:
    """Return what :func:`check_scores` does, without a copy of float32 or float64 scores."""
    values: npt.NDArray[Any] = np.asarray(scores)
    # Only these two are sorted at full speed; float16 and whole numbers fit into float64.
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    labels: npt.NDArray[Any] = np.asarray(same)
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (P,), got {values.shape}")
    if labels.shape != values.shape:
        raise ValueError(f"same must have the shape of scores {values.shape}, got {labels.shape}")
    # The extremes tell whether any is not finite: NaN comes through min and max.
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"scores must be finite, got {values[row]} in row {row}")
    if labels.dtype != np.bool_:
        bad = np.flatnonzero((labels != 0) & (labels != 1))
        if bad.size:
            raise ValueError(f"same must be 0 or 1, got {labels[bad[0]]} in row {bad[0]}")
        labels = labels.astype(np.bool_)
    genuine = int(np.count_nonzero(labels))
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
