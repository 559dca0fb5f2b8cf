"""A column of numbers cut into bands: under 20, 20 to 40, 40 and over."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from centerarc.evaluation.scores import FloatArray, StrArray


@dataclass(frozen=True, eq=False)
class NumberBands:
    """Pairs grouped by the band that a number of theirs lies in.

    Attributes:
        group: (P,) the band of each pair; "a | b" where its images lie in the bands a and b.
        order: the groups that occur, lowest first.
    """

    group: StrArray
    order: list[str]


def number_bands(sides: Sequence[StrArray], cuts: Sequence[float]) -> NumberBands:
    """Group pairs by bands of numbers.

    A number x is in the band "20 to 40" where 20 <= x < 40.

    Args:
        sides: a number for each pair, or one for its first and one for its second image, each
            (P,) texts that :func:`is_number` accepts.
        cuts: where one band ends and the next begins, rising, at least one.

    Returns:
        The group of each pair.

    Example:
        >>> number_bands([np.array(["19", "40"]), np.array(["20", "41.5"])], [20, 40]).order
        ['under 20 | 20 to 40', '40 and over']
    """
    ends = [f"{cut:.15g}" for cut in cuts]
    inner = [f"{low} to {high}" for low, high in pairwise(ends)]
    bands = [f"under {ends[0]}", *inner, f"{ends[-1]} and over"]
    codes = np.stack([np.searchsorted(cuts, _numbers(side), side="right") for side in sides])
    ends_of = np.stack([codes.min(axis=0), codes.max(axis=0)], axis=1)
    found, number = np.unique(ends_of, axis=0, return_inverse=True)
    order = [
        bands[low] if low == high else f"{bands[low]} | {bands[high]}"
        for low, high in found.tolist()
    ]
    return NumberBands(np.array(order, dtype=np.str_)[number.ravel()], order)


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _numbers(texts: StrArray) -> FloatArray:
    distinct, number = np.unique(texts, return_inverse=True)
    return np.array([float(text) for text in distinct.tolist()])[number]
