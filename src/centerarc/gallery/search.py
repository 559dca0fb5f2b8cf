"""Exact search: which people of a gallery embeddings are nearest to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# From so many rows on they are searched in float16 first: half of the memory and of the time,
# which is that of reading them.
HALF_FROM = 250_000
# What rounding may move a cosine of unit embeddings by: in float32, each of D products and sums;
# in float16 each number by one of 2^11, on both sides, and the result once more.
_SINGLE, _HALF = 2.0**-24, 3 * 2.0**-11
# People whose scores are computed again in float64, at least, where rows are searched in float16.
_AGAIN = 100
# Scores that are held at once, and rows that are made float32 at once.
_SCORES, _ROWS = 1 << 25, 4096
# Up to so many queries a product of a matrix and a vector each is faster in float16.
_FEW = 8


class Nearest(NamedTuple):
    """The people whose photos are nearest to each of Q queries, the nearest first.

    Args:
        score: `(Q, K)` float64 cosines, the highest over a person's rows; NaN beyond the people
            that there are.
        person: `(Q, K)` who; -1 beyond those.
        row: `(Q, K)` which row of theirs; -1 beyond those.
    """

    score: FloatArray
    person: IntArray
    row: IntArray


class RowSearch:
    """Rows of unit embeddings that are searched by products, in blocks.

    What is returned is what float64 gives: rows whose score in lower precision lies near enough to
    the K-th best person's that rounding may decide are computed again. Equal scores come in the
    order of people and rows.

    Args:
        rows: `(N, D)` float32 arrays of unit length, together all rows; they may be mapped from a
            file.
        person: `(N,)` whose each row is, numbers of at least 0.
        half: Search in float16 first; by default from 250,000 rows on.

    Example:
        >>> rows = np.eye(3, dtype=np.float32)
        >>> found = RowSearch([rows], np.array([7, 7, 9])).nearest(rows[1:2], 2)
        >>> found.person.tolist(), found.row.tolist(), found.score.tolist()
        ([[7, 9]], [[1, 2]], [[1.0, 0.0]])
    """

    def __init__(
        self, rows: Sequence[Float32Array], person: IntArray, *, half: bool | None = None
    ) -> None:
        self._parts = [part for part in rows if len(part)]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        count = int(self._starts[-1])
        if person.shape != (count,):
            raise ValueError(f"person must have shape ({count},), got {person.shape}")
        self.people, owner = np.unique(person, return_inverse=True)
        order = np.argsort(owner, kind="stable")
        # Rows of one person after the other need not be gathered.
        self._order = None if np.array_equal(order, np.arange(count)) else order
        self._ends = np.searchsorted(owner[order], np.arange(len(self.people) + 1))
        self._half = self._halved(count >= HALF_FROM if half is None else half)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _halved(self, wanted: bool) -> list[npt.NDArray[np.float16]] | None:
        if not wanted:
            return None
        halves = []
        for part in self._parts:
            half = np.empty(part.shape, np.float16)
            for first in range(0, len(part), _ROWS):
                half[first : first + _ROWS] = part[first : first + _ROWS]
            halves.append(half)
        return halves

    def nearest(self, queries: Float32Array, count: int) -> Nearest:
        """Returns the `count` nearest people of each of the `(Q, D)` queries of unit length."""
        kept = min(count, len(self.people))
        shape = (len(queries), count)
        found = Nearest(
            np.full(shape, np.nan), np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        )
        if kept == 0:
            return found
        step = max(1, _SCORES // len(self))
        for first in range(0, len(queries), step):
            block = np.ascontiguousarray(queries[first : first + step])
            for at, scores in enumerate(self._scores(block), start=first):
                best = self._again(queries[at], scores, kept)
                for result, values in zip(found, best, strict=True):
                    result[at, :kept] = values
        return found

    def _scores(self, queries: Float32Array) -> Float32Array:
        """Cosines `(Q, N)` up to rounding."""
        scores = np.empty((len(queries), len(self)), np.float32)
        for number, start in enumerate(self._starts[:-1]):
            part = slice(int(start), int(self._starts[number + 1]))
            if self._half is None:
                rows = self._parts[number]
                if len(queries) == 1:
                    np.dot(rows, queries[0], out=scores[0, part])
                else:
                    scores[:, part] = queries @ rows.T
            else:
                _half_scores(self._half[number], queries, scores[:, part])
        return scores

    def _again(
        self, query: Float32Array, scores: Float32Array, kept: int
    ) -> tuple[FloatArray, IntArray, IntArray]:
        """The best people of one query, of whose rows those that matter are computed again."""
        ordered = scores if self._order is None else scores[self._order]
        each = len(self.people) == len(ordered)
        best = ordered if each else np.maximum.reduceat(ordered, self._ends[:-1])
        slack = 2 * (_HALF if self._half is not None else (query.size + 4) * _SINGLE)
        asked = kept if self._half is None else min(max(kept, _AGAIN), len(best))
        at = len(best) - asked
        limit = float(np.partition(best, at)[at]) - slack
        near = np.flatnonzero(ordered >= limit)
        rows = near if self._order is None else self._order[near]
        owners = np.searchsorted(self._ends, near, side="right") - 1
        exact = self._exact(query, rows)
        order = np.lexsort((rows, owners, -exact))
        _, first = np.unique(owners[order], return_index=True)
        chosen = order[np.sort(first)[:kept]]
        # Only now: rounding may make equal embeddings a little more than alike.
        return exact[chosen].clip(-1, 1), self.people[owners[chosen]], rows[chosen]

    def _exact(self, query: Float32Array, rows: IntArray) -> FloatArray:
        """Cosines in float64; not by a matrix product, whose rounding hangs on a row's place."""
        part = np.searchsorted(self._starts, rows, side="right") - 1
        result = np.empty(len(rows))
        for number in np.unique(part):
            inside = part == number
            found = self._parts[number][rows[inside] - self._starts[number]].astype(np.float64)
            result[inside] = np.einsum("nd,d->n", found, query.astype(np.float64))
        return result


def _half_scores(
    rows: npt.NDArray[np.float16], queries: Float32Array, scores: Float32Array
) -> None:
    import torch

    held = torch.from_numpy(rows)
    if len(queries) <= _FEW:
        for query, out in zip(queries, scores, strict=True):
            out[:] = (held @ torch.from_numpy(query).half()).numpy()
        return
    wanted = torch.from_numpy(queries).T
    single = torch.empty(_ROWS, rows.shape[1])
    for first in range(0, len(rows), _ROWS):
        block = single[: min(_ROWS, len(rows) - first)]
        block.copy_(held[first : first + len(block)])
        scores[:, first : first + len(block)] = (block @ wanted).T.numpy()
