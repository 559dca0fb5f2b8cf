"""Scores of tens of millions of pairs of templates in bounded memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.identification.person_scores import lengths

Float32Array = npt.NDArray[np.float32]

# First templates whose pairs are scored together: their scores against 23,000 others are 24 MB.
_TEMPLATES = 256
# Second templates at once in such a product, so that it stays small for any number of them.
_OTHERS = 32_768
# Pairs gathered at once: 2 x 8 MB for embeddings of 512 numbers.
_PAIRS = 4096
# A pair that is gathered costs about as much as so many entries of a matrix product.
_GATHERING = 40


def template_pair_scores(
    embeddings: npt.ArrayLike, index_a: npt.ArrayLike, index_b: npt.ArrayLike
) -> Float32Array:
    """Return the cosine of each pair of templates, in float32.

    Pairs are taken in runs of the first template. Where a run holds much of what its templates
    and all others could form, one matrix product scores them; where it holds little, the pairs
    are gathered. Both are sums of D float32 products.

    Memory beyond the arguments: a float32 copy of the embeddings, 12 bytes a pair, the result
    included, and some 100 MB.

    Args:
        embeddings: (T, D) any length but 0.
        index_a: (P,) row of each pair's first template.
        index_b: (P,) row of the second.

    Returns:
        (P,) float32, higher is more alike.

    Raises:
        ValueError: shapes that do not fit, an embedding of length 0 or not finite, or a row that
            is not there, with its pair.

    Example:
        >>> template_pair_scores([[3.0, 0.0], [0.0, 2.0]], [0, 0, 1], [0, 1, 1]).tolist()
        [1.0, 0.0, 1.0]
    """
    values: npt.NDArray[Any] = np.asarray(embeddings)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"embeddings must have shape (T, D), both at least 1, got {values.shape}")
    unit = (values / lengths(values, "embeddings")[:, None].astype(np.float32)).astype(np.float32)
    first, second = (
        _rows(rows, len(unit), name) for rows, name in ((index_a, "a"), (index_b, "b"))
    )
    if first.shape != second.shape:
        raise ValueError(
            f"index_a and index_b must have one shape, got {first.shape} and {second.shape}"
        )
    scores = np.empty(first.size, dtype=np.float32)
    # Small numbers are sorted by counting; a list that is sorted already stays so.
    block_of = (first // _TEMPLATES).astype(np.uint16 if len(unit) < 1 << 24 else np.int64)
    order = np.argsort(block_of, kind="stable")
    counts = np.bincount(block_of)
    del block_of
    ends = np.cumsum(counts)
    for block in np.flatnonzero(counts):
        pairs = order[ends[block] - counts[block] : ends[block]]
        a, b = first[pairs] - block * _TEMPLATES, second[pairs]
        rows = unit[block * _TEMPLATES : (block + 1) * _TEMPLATES]
        if counts[block] * _GATHERING < rows.shape[0] * len(unit):
            scores[pairs] = _gathered(rows, unit, a, b)
        else:
            scores[pairs] = _multiplied(rows, unit, a, b)
    return np.clip(scores, -1.0, 1.0, out=scores)


def _rows(rows: npt.ArrayLike, count: int, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.asarray(rows)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        raise ValueError(
            f"index_{name} must be integers of shape (P,), got {values.dtype} {values.shape}"
        )
    if values.size and (values.min() < 0 or values.max() >= count):
        bad = int(np.argmax((values < 0) | (values >= count)))
        raise ValueError(f"index_{name} must be in [0, {count}), got {values[bad]} in pair {bad}")
    return values.astype(np.int64) if not values.size else values


def _gathered(
    rows: Float32Array, unit: Float32Array, a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> Float32Array:
    scores = np.empty(a.size, dtype=np.float32)
    for start in range(0, a.size, _PAIRS):
        part = slice(start, start + _PAIRS)
        np.einsum("pd,pd->p", rows[a[part]], unit[b[part]], out=scores[part])
    return scores


def _multiplied(
    rows: Float32Array, unit: Float32Array, a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> Float32Array:
    if len(unit) <= _OTHERS:
        return np.asarray((rows @ unit.T)[a, b], dtype=np.float32)
    scores = np.empty(a.size, dtype=np.float32)
    for start in range(0, len(unit), _OTHERS):
        inside = np.flatnonzero((b >= start) & (b < start + _OTHERS))
        product = rows @ unit[start : start + _OTHERS].T
        scores[inside] = product[a[inside], b[inside] - start]
    return scores
