"""All points of a curve by one sort of plain numbers, in threads.

numpy sorts floats with vector instructions, but neither pair numbers by score nor records. So the
kind of a pair travels in the score itself: a float below 1.5 in size never uses the highest bit of
its exponent, so all others can move up by one and leave the lowest for the kind. Such a key is
still a finite float, and keys are in the order of their scores. Nothing is rounded.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, ScoreArray

# Scores at a time, so that what is made of them stays in the processor's cache.
_BLOCK = 1 << 17
_MOST_THREADS = 8
# From this size on, a score uses all bits of its exponent.
_LIMIT = 1.5

_Keys = npt.NDArray[np.signedinteger[Any]]
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def curve_points(scores: ScoreArray, same: BoolArray) -> tuple[FloatArray, FloatArray, ScoreArray]:
    """The rates at every threshold that accepts more than the next higher one.

    Args:
        scores: (P,) finite.
        same: (P,) which are genuine; both kinds are there.

    Returns:
        FAR, TAR and thresholds: first +inf, then each distinct score, falling.
    """
    largest = max(float(scores.max()), -float(scores.min()))
    if largest < _LIMIT:
        return _points(scores, same)
    exponent = math.frexp(largest)[1]
    scaled = np.ldexp(scores, -exponent)
    if np.array_equal(np.ldexp(scaled, exponent), scores):
        far, tar, threshold = _points(scaled, same)
        return far, tar, np.ldexp(threshold, exponent, out=threshold)
    # Beside such a large number others got too small for all their bits: their ranks stand in.
    distinct, rank = np.unique(scores, return_inverse=True)
    far, tar, threshold = _points(np.ldexp(rank.astype(np.float64), -53), same)
    found = np.empty(threshold.size, scores.dtype)
    found[0], found[1:] = np.inf, distinct[np.ldexp(threshold[1:], 53).astype(np.int64)]
    return far, tar, found


class _Range(NamedTuple):
    """The keys of some values that follow each other.

    Attributes:
        keys: (K,) rising, as whole numbers of the same bits.
        genuine: how many are of genuine pairs.
    """

    keys: _Keys
    genuine: int


def _points(scores: ScoreArray, same: BoolArray) -> tuple[FloatArray, FloatArray, ScoreArray]:
    threads = min(_MOST_THREADS, _cores(), scores.size // _BLOCK)
    bounds = _bounds(scores, max(1, threads))
    ranges = _in_threads(partial(_sorted_range, scores, same), bounds, threads)
    size = 1 + scores.size
    far, tar, threshold = np.empty(size), np.empty(size), np.empty(size, scores.dtype)
    far[0], tar[0], threshold[0] = 0.0, 0.0, np.inf
    genuine = sum(part.genuine for part in ranges)
    totals = scores.size - genuine, genuine
    jobs, starts = [], []
    start, before = 1, (0, 0)
    for part in ranges:
        # Where its points would stand if no scores were equal.
        place = slice(start, start + part.keys.size)
        jobs.append((part.keys, before, (far[place], tar[place], threshold[place])))
        starts.append(start)
        start += part.keys.size
        before = before[0] + part.keys.size - part.genuine, before[1] + part.genuine
    counts = _in_threads(partial(_write_points, totals), jobs, threads)
    filled = 1
    for start, count in zip(starts, counts, strict=True):
        for values in (far, tar, threshold) if start > filled else ():
            for block in _blocks(count):
                moved = values[start + block.start : start + block.stop]
                values[filled + block.start : filled + block.stop] = moved
        filled += count
    return far[:filled], tar[:filled], threshold[:filled]


def _bounds(scores: ScoreArray, count: int) -> list[tuple[float, float]]:
    """Ranges of scores about as full as each other, falling: from above ``low`` to ``high``."""
    sample = np.sort(scores[:: max(1, scores.size // 4096)])[::-1]
    cuts = [float(sample[sample.size * number // count]) for number in range(1, count)]
    ends = [math.inf, *cuts, -math.inf]
    return list(zip(ends[1:], ends[:-1], strict=True))


def _sorted_range(scores: ScoreArray, same: BoolArray, bounds: tuple[float, float]) -> _Range:
    whole, sign, _ = _bits_of(scores.dtype)
    parts = [scores[block] for block in _blocks(scores.size)]
    size = sum(int(np.count_nonzero(_within(part, *bounds))) for part in parts)
    keys = np.empty(size, scores.dtype)
    filled = genuine = 0
    for block in _blocks(scores.size):
        values, kinds = scores[block], same[block]
        if size < scores.size:
            # By number, which is many times faster than by a mask whose next value nobody foresees.
            chosen = np.flatnonzero(_within(values, *bounds))
            values, kinds = values.take(chosen), kinds.take(chosen)
        key = keys[filled : filled + values.size]
        # Rising is from the most alike. Taken from 0, so that no -0.0 differs from 0.0.
        np.subtract(0, values, out=key)
        bits = key.view(whole)
        signs = bits & sign
        bits <<= 1
        bits |= signs
        bits |= kinds
        filled += values.size
        genuine += int(np.count_nonzero(kinds))
    keys.sort()
    return _Range(keys.view(whole), genuine)


def _write_points(
    totals: tuple[int, int],
    job: tuple[_Keys, tuple[int, int], tuple[FloatArray, FloatArray, ScoreArray]],
) -> int:
    """Write the points of one range at the front of its place; says how many there are.

    Args:
        totals: all impostor and all genuine pairs.
        job: the keys, the impostor and genuine pairs of higher scores, and the place.
    """
    keys, (impostor, genuine), (far, tar, threshold) = job
    _, sign, magnitude = _bits_of(threshold.dtype)
    filled = 0
    for block in _blocks(keys.size):
        bits = keys[block]
        # Counted in 32 bits, which become float64 several times faster than 64 do.
        accepted = np.cumsum(bits & 1, dtype=np.int32)
        seen = np.arange(1, bits.size + 1, dtype=np.int32)
        ends = impostor + bits.size - int(accepted[-1]), genuine + int(accepted[-1])
        last = _last_of_score(keys, block)
        if not last.all():
            rows = np.flatnonzero(last)
            bits, accepted, seen = bits.take(rows), accepted.take(rows), seen.take(rows)
        place = slice(filled, filled + bits.size)
        np.add(seen - accepted, float(impostor), out=far[place])
        np.add(accepted, float(genuine), out=tar[place])
        far[place] /= totals[0]
        tar[place] /= totals[1]
        score = bits >> 1
        score &= magnitude
        score |= bits & sign
        np.subtract(0, score.view(threshold.dtype), out=threshold[place])
        filled += bits.size
        impostor, genuine = ends
    return filled


def _last_of_score(keys: _Keys, block: slice) -> BoolArray:
    """Which keys of a block are followed by another score, or by nothing."""
    found = np.ones(keys[block].size, dtype=np.bool_)
    follower = keys[block.start + 1 : block.stop + 1]
    # Keys that differ at most in their lowest bit are of equal scores.
    differing = keys[block.start : block.start + follower.size] ^ follower
    np.greater(differing.view(f"u{keys.itemsize}"), 1, out=found[: follower.size])
    return found


def _bits_of(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], Any, Any]:
    """The whole numbers of a float's size, and in them the bits of its sign and of its rest."""
    whole = np.dtype(f"i{dtype.itemsize}")
    bits = 8 * dtype.itemsize
    return whole, whole.type(-(2 ** (bits - 1))), whole.type(2 ** (bits - 2) - 1)


def _within(scores: ScoreArray, low: float, high: float) -> BoolArray:
    if math.isinf(high):
        return np.asarray(scores > low)
    within: BoolArray = scores <= high
    if not math.isinf(low):
        within &= scores > low
    return within


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _in_threads(
    work: Callable[[_Part], _Result], parts: Iterable[_Part], threads: int
) -> list[_Result]:
    if threads < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))


def _cores() -> int:
    # Not os.cpu_count alone: a container may be allowed fewer than there are.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
