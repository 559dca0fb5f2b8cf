"""Sorted genuine and impostor scores merged into the points of a curve, piece by piece.

A piece fits the processor's cache and pieces are shared out to threads: numpy lets go of the
interpreter while it sorts and merges.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, ScoreArray

# Scores of a piece; a thread is worth starting for a few of them.
_PIECE = 1 << 15
_MOST_THREADS = 8

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def sort_apart(scores: ScoreArray, same: BoolArray) -> tuple[ScoreArray, ScoreArray]:
    """Negate checked scores and sort those of each kind, so that rising is from the most alike.

    Args:
        scores: (P,) finite.
        same: (P,) which are genuine.

    Returns:
        The genuine and the impostor scores, negated, rising.
    """

    def negated_rising(part: ScoreArray) -> ScoreArray:
        np.negative(part, out=part)
        part.sort()
        return part

    genuine, impostor = in_threads(negated_rising, take_apart(scores, same), scores.size)
    return genuine, impostor


def take_apart(scores: ScoreArray, same: BoolArray) -> tuple[ScoreArray, ScoreArray]:
    """The genuine and the impostor scores, copied."""
    # Taking by number is many times faster than by a mask whose next value nobody foresees.
    return scores.take(np.flatnonzero(same)), scores.take(np.flatnonzero(~same))


def merge_points(
    genuine: ScoreArray, impostor: ScoreArray
) -> tuple[FloatArray, FloatArray, ScoreArray]:
    """The rates at every threshold that accepts more than the next higher one.

    Args:
        genuine: (G,) negated scores, rising.
        impostor: (I,) negated scores, rising.

    Returns:
        FAR, TAR and thresholds: first +inf, then each distinct score, falling.
    """
    size = genuine.size + impostor.size
    far, tar = np.empty(size + 1), np.empty(size + 1)
    threshold: ScoreArray = np.empty(size + 1, genuine.dtype)
    curve = far, tar, threshold
    far[0], tar[0], threshold[0] = 0.0, 0.0, np.inf
    # Equal scores are in one piece, so that no step of the curve is cut.
    cuts = np.sort(np.concatenate([part[_PIECE - 1 :: _PIECE] for part in (genuine, impostor)]))
    ends = [np.append(part.searchsorted(cuts, "right"), part.size) for part in (genuine, impostor)]
    starts = [np.append(0, end[:-1]) for end in ends]
    bounds = np.stack([*starts, *ends], axis=1)
    counts = in_threads(partial(_merge_piece, genuine, impostor, curve), bounds, size)
    # A piece was written where it would be if no scores were equal; close the gaps.
    filled = 1
    for count, start in zip(counts, 1 + starts[0] + starts[1], strict=True):
        if start != filled:
            for values in curve:
                values[filled : filled + count] = values[start : start + count]
        filled += count
    return far[:filled], tar[:filled], threshold[:filled]


def _merge_piece(
    genuine: ScoreArray,
    impostor: ScoreArray,
    curve: tuple[FloatArray, FloatArray, ScoreArray],
    bounds: IntArray,
) -> int:
    """Write the points of one piece behind the place of all scores before it; says how many."""
    first_genuine, first_impostor, last_genuine, last_impostor = bounds.tolist()
    parts = genuine[first_genuine:last_genuine], impostor[first_impostor:last_impostor]
    # As float64, which is merged faster than float32.
    both = np.concatenate(parts, dtype=np.float64)
    if not both.size:
        return 0
    # Two rising runs: the stable sort finds them and merges them in one pass.
    order = np.argsort(both, kind="stable")
    ranked = both.take(order)
    # Counted in 32 bits, which become float64 several times faster than 64 do.
    accepted = np.cumsum(order >= parts[0].size, dtype=np.int32)
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    if last.size < ranked.size:
        ranked, accepted = ranked.take(last), accepted.take(last)
    start = first_genuine + first_impostor + 1
    place = slice(start, start + last.size)
    far, tar = curve[0][place], curve[1][place]
    np.add(accepted, float(first_impostor), out=far)
    far /= impostor.size
    np.subtract((last + 1).astype(np.int32), accepted, out=tar)
    tar += first_genuine
    tar /= genuine.size
    # Taken from 0 rather than negated, which would give -0.0.
    np.subtract(0, ranked, out=curve[2][place], casting="same_kind")
    return int(last.size)


def in_threads(
    work: Callable[[_Part], _Result], parts: Iterable[_Part], size: int
) -> list[_Result]:
    """Do ``work`` on each part, in threads if there are ``size`` values enough for them."""
    threads = min(_MOST_THREADS, _cores(), size // (4 * _PIECE))
    if threads < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))


def _cores() -> int:
    # Not os.cpu_count alone: a container may be allowed fewer than there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
