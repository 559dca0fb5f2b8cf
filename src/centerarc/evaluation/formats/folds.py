"""Some folds of a set of pairs."""

from collections.abc import Iterable

import numpy as np

from centerarc.evaluation.scores import IntArray


def rows_of_folds(fold: IntArray, wanted: Iterable[int] | None) -> IntArray:
    """Returns the rows whose fold is wanted, all for None.

    Args:
        fold: `(P,)` fold of each pair.
        wanted: Numbers of folds.

    Raises:
        ValueError: If no fold is wanted, or one that does not exist.
    """
    if wanted is None:
        return np.arange(fold.size, dtype=np.int64)
    chosen = list(wanted)
    there = np.unique(fold).tolist()
    unknown = [number for number in chosen if number not in there]
    if unknown or not chosen:
        raise ValueError(f"folds must name some of {there}, got {unknown or chosen}")
    return np.flatnonzero(np.isin(fold, chosen)).astype(np.int64)
