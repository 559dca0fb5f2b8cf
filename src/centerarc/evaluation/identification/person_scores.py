"""Scores of probes against people of many images: all of them in float32, some in float64."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import FloatArray, IntArray

Float32Array = npt.NDArray[np.float32]

# Rows gathered in float64 at once: 32 MB for embeddings of 512 numbers.
_GATHERED = 8192
# Scores of images in float64 that are held at once.
_KEPT = 1 << 22


class PersonScores:
    """Cosine similarities between probes and people, whose images stand in a gallery.

    Args:
        gallery: (N, D) embeddings.
        owner: (N,) number of the person of each, all of 0 to G - 1.
        probes: (Q, D) embeddings.
        mean: replace a person's images by the mean of their normalised embeddings.

    Attributes:
        num_people: G.
        num_probes: Q.
        margin: more than twice what rounding can move a float32 score.

    Raises:
        ValueError: shapes that do not fit, or an embedding of length 0 or not finite.
    """

    def __init__(
        self, gallery: npt.ArrayLike, owner: IntArray, probes: npt.ArrayLike, *, mean: bool
    ) -> None:
        images, self._probes = _floats(gallery, "gallery"), _floats(probes, "probes")
        if images.shape[0] != owner.size:
            raise ValueError(
                f"gallery_labels must have shape ({images.shape[0]},), got ({owner.size},)"
            )
        if images.shape[1] != self._probes.shape[1]:
            raise ValueError(
                f"probes have {self._probes.shape[1]} numbers, the gallery's embeddings "
                f"{images.shape[1]}"
            )
        self.num_probes = self._probes.shape[0]
        self.num_people = int(owner.max()) + 1
        self._probe_length = lengths(self._probes, "probes")
        self._images, self._length = images, lengths(images, "gallery")
        self._order = np.argsort(owner, kind="stable")
        self._starts = np.searchsorted(owner[self._order], np.arange(self.num_people + 1))
        if mean:
            self._images = self._means()
            self._length = lengths(self._images, "mean of the gallery's person")
            self._order = np.arange(self.num_people)
            self._starts = np.arange(self.num_people + 1)
        self._unit = np.empty(self._images.shape, dtype=np.float32)
        for part in _parts(len(self._order)):
            self._unit[part] = self._unit_rows(self._order[part])
        # Normalising rounds each number once, a dot product of D numbers at most D times.
        self.margin = 2 * (images.shape[1] + 4) * 2.0**-24

    def unit_probes(self, rows: IntArray) -> Float32Array:
        """Return some probes, (n, D) float32 of length 1."""
        unit = self._probes[rows].astype(np.float64) / self._probe_length[rows, None]
        return unit.astype(np.float32)

    def blocks(self, probes: Float32Array, images: int) -> Iterator[tuple[int, Float32Array]]:
        """Yield the scores of probes against some people after the other.

        Args:
            probes: (n, D) float32 of length 1.
            images: how many images' people to take at once, but at least one person.

        Yields:
            Number of the first person, and (people, n) float32 scores, within half the margin.
        """
        for first, end in self._runs(images):
            start = self._starts[first]
            # People in rows: the highest of some rows is far faster than that of some columns.
            scores = self._unit[start : self._starts[end]] @ probes.T
            if self._starts[end] - start > end - first:
                scores = np.maximum.reduceat(scores, self._starts[first:end] - start, axis=0)
            yield first, scores

    def exact(self, rows: IntArray, people: IntArray) -> FloatArray:
        """Return the scores of pairs of a probe and a person in float64, the same for equal input.

        Args:
            rows: (n,) numbers of probes.
            people: (n,) numbers of people.

        Returns:
            (n,) the highest cosine over the person's images.
        """
        counts = self._starts[people + 1] - self._starts[people]
        ends = np.cumsum(counts)
        result = np.empty(rows.size)
        begin = 0
        while begin < rows.size:
            before = ends[begin] - counts[begin]
            end = max(begin + 1, int(np.searchsorted(ends, before + _KEPT, side="right")))
            part = slice(begin, end)
            offsets = ends[part] - counts[part] - before
            each = np.repeat(self._starts[people[part]] - offsets, counts[part])
            images = self._order[each + np.arange(each.size)]
            scores = self._pairs(np.repeat(rows[part], counts[part]), images)
            result[part] = np.maximum.reduceat(scores, offsets)
            begin = end
        return result

    def _pairs(self, rows: IntArray, images: npt.NDArray[Any]) -> FloatArray:
        scores = np.empty(rows.size)
        for part in _parts(rows.size):
            probes = self._probes[rows[part]] / self._probe_length[rows[part], None]
            # Not a matrix product: its rounding would depend on where a row stands.
            scores[part] = np.einsum("nd,nd->n", probes, self._unit_rows(images[part]))
        return scores

    def _unit_rows(self, images: npt.NDArray[Any]) -> FloatArray:
        return np.asarray(self._images[images] / self._length[images, None], dtype=np.float64)

    def _means(self) -> Float32Array:
        means = np.empty((self.num_people, self._images.shape[1]), dtype=np.float32)
        counts = np.diff(self._starts)
        for first, end in self._runs(_GATHERED):
            start = self._starts[first]
            rows = self._unit_rows(self._order[start : self._starts[end]])
            sums = np.add.reduceat(rows, self._starts[first:end] - start, axis=0)
            means[first:end] = sums / counts[first:end, None]
        return means

    def _runs(self, images: int) -> Iterator[tuple[int, int]]:
        """Runs of people who have so many images together, but at least one person each."""
        first = 0
        while first < self.num_people:
            reach = self._starts[first] + images
            end = int(np.searchsorted(self._starts, reach, side="right")) - 1
            end = max(end, first + 1)
            yield first, end
            first = end


def lengths(embeddings: npt.NDArray[Any], name: str) -> FloatArray:
    """Return the length of every embedding, (N,); one of length 0 or not finite is an error."""
    result = np.empty(len(embeddings))
    for part in _parts(len(embeddings)):
        result[part] = np.linalg.norm(embeddings[part].astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(result) & (result > 0)))
    if bad.size:
        raise ValueError(
            f"{name}: embeddings must be finite and longer than 0, row {bad[0]} has length "
            f"{result[bad[0]]}"
        )
    return result


def _floats(embeddings: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.asarray(embeddings)
    if values.dtype.kind in "iu":
        values = values.astype(np.float64)
    if values.dtype.kind != "f" or values.ndim != 2 or not values.size:
        raise ValueError(
            f"{name} must be numbers of shape (N, D), both at least 1, got {values.dtype} "
            f"{values.shape}"
        )
    return values


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _GATHERED) for start in range(0, count, _GATHERED))
