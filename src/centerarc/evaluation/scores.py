"""Arrays of evaluation, and what is checked of them once: scores, folds, embeddings."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
StrArray = npt.NDArray[np.str_]
# Scores as given, float32 or float64.
ScoreArray = npt.NDArray[np.floating[Any]]

# A quotient of counts may miss the limit that it stands for by one rounding.
ROUNDED_UP = 1 + 1e-12
# Embeddings in float64 at once: 32 MB for 512 numbers each.
_ROWS = 8192


def check_scores(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[FloatArray, BoolArray]:
    """Return what `check_scores_as_given` does, with the scores as float64."""
    values, labels = check_scores_as_given(scores, same)
    return values.astype(np.float64, copy=False), labels


def check_scores_as_given(
    scores: npt.ArrayLike, same: npt.ArrayLike
) -> tuple[ScoreArray, BoolArray]:
    """Return checked scores, float32 or float64, and labels, neither copied without need.

    Args:
        scores: (P,) one similarity a pair, higher is more alike; finite.
        same: (P,) True (or 1) where both images of the pair show one person.

    Raises:
        ValueError: a wrong shape, a score that is not finite, a label that is neither 0 nor 1
            (both with their row), or no pair of one of the two kinds.
    """
    values: npt.NDArray[Any] = np.asarray(scores)
    # Only these two are sorted at full speed; float16 and whole numbers fit into float64.
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    labels: npt.NDArray[Any] = np.asarray(same)
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (P,), got {values.shape}")
    if labels.shape != values.shape:
        raise ValueError(f"same must have the shape of scores {values.shape}, got {labels.shape}")
    # The extremes show whether any is not finite: NaN comes through min and max.
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


def check_labels(
    labels: npt.ArrayLike, name: str, size: int | None = None, *, names: bool = False
) -> npt.NDArray[Any]:
    """Return integers, or names if they are allowed, of shape (N,), with N = `size` if given."""
    values: npt.NDArray[Any] = np.asarray(labels)
    shape = ("N" if size is None else str(size)) + ","
    fits = values.ndim == 1 and values.size == (values.size if size is None else size)
    if not fits or values.dtype.kind not in ("iuU" if names else "iu"):
        kinds = "integers or names" if names else "integers"
        raise ValueError(
            f"{name} must be {kinds} of shape ({shape}), got {values.dtype} {values.shape}"
        )
    return values


def check_folds(folds: npt.ArrayLike, num_pairs: int) -> IntArray:
    """Return `folds` as (P,) int64; a ValueError says what is wrong with them."""
    numbers: npt.NDArray[Any] = np.asarray(folds)
    if numbers.shape != (num_pairs,):
        raise ValueError(f"folds must have shape ({num_pairs},), got {numbers.shape}")
    if not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(f"folds must be integers, got dtype {numbers.dtype}")
    return numbers.astype(np.int64)


def held_out_folds(folds: IntArray, same: BoolArray) -> Iterator[tuple[int, BoolArray]]:
    """Yield the number of each fold, rising, and which pairs (P,) are in it.

    A ValueError if the pairs of the other folds are all of one kind.
    """
    for fold in np.unique(folds).tolist():
        held_out = folds == fold
        others = same[~held_out]
        if others.all() or not others.any():
            kind = "impostor" if others.all() else "genuine"
            raise ValueError(
                f"folds: without fold {fold} no {kind} pair is left to choose a threshold on"
            )
        yield fold, held_out


class UnusableEmbedding(ValueError):
    """An embedding that is not finite, or has length 0, so that it has no direction."""


def check_embeddings(embeddings: npt.ArrayLike, name: str) -> tuple[npt.NDArray[Any], FloatArray]:
    """Return embeddings (N, D) as floats or whole numbers, and their lengths (N,) in float64.

    A ValueError names the row of an embedding that is not finite or of length 0.
    """
    values: npt.NDArray[Any] = np.asarray(embeddings)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise ValueError(
            f"{name} must be numbers of shape (N, D), both at least 1, got {values.dtype} "
            f"{values.shape}"
        )
    return values, embedding_lengths(values, name)


def embedding_lengths(values: npt.NDArray[Any], name: str) -> FloatArray:
    """Return the length of every embedding (N, D); none may be 0 or not finite."""
    result = np.empty(len(values))
    for part in row_blocks(len(values), _ROWS):
        result[part] = np.linalg.norm(values[part].astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(result) & (result > 0)))
    if bad.size:
        raise UnusableEmbedding(
            f"{name} must be finite and longer than 0, row {bad[0]} has length {result[bad[0]]}"
        )
    return result


def row_blocks(count: int, rows: int) -> Iterator[slice]:
    """Yield slices of at most `rows` that cover `count`."""
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def group_blocks(starts: IntArray, rows: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of groups with at most `rows` together, but at least one group each.

    Group g, below G, has the rows from `starts[g]` up to `starts[g + 1]`; (G + 1,) from 0.
    """
    first = 0
    while first < starts.size - 1:
        end = int(np.searchsorted(starts, starts[first] + rows, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def share_of(part: FloatArray, whole: Any) -> FloatArray:
    """Return part / whole; NaN without a warning where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / whole, dtype=np.float64)
