"""Galleries: which person a probe looks most like, exactly, at the speed of float32 products."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import (
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    check_embeddings,
    check_labels,
    embedding_lengths,
    group_blocks,
    row_blocks,
)

PERSON_SCORES = {
    "max": "the score of a person is the highest over the person's images",
    "mean": "the score of a person is that of the mean of the person's normalized embeddings",
}

# Rows gathered in float64 at once: 32 MB for embeddings of 512 numbers.
_GATHERED = 8192
# Scores of images in float64 that are held at once.
_KEPT = 1 << 22
# So many probes against so many gallery images at once: scores of 64 MB.
_PROBES = 1024
_IMAGES = 16_384
# Up to so many images a person, the first of all people are compared with the second of all, and
# so on, which takes a fifth of the time of going through person by person.
_MOST_ROUNDS = 64


@dataclass(frozen=True, eq=False)
class GallerySearch:
    """How every probe fared against everybody in a gallery."""

    people: npt.NDArray[Any]  # (G,) the labels of the gallery's people, sorted
    probe_labels: npt.NDArray[Any]  # (Q,) label of each probe
    mated: BoolArray  # (Q,) whether the probe's person is in the gallery
    rank: IntArray  # (Q,) 1 + how many others score at least as high as the mate; 0 without mate
    mate_score: FloatArray  # (Q,) score of the probe's own person; NaN where not there
    other_score: FloatArray  # (Q,) highest score of anybody else; NaN where there is no one else
    other_person: IntArray  # (Q,) who that is, a number into `people`; -1 where there is no one
    gallery_images: int  # images in the gallery
    person_score: str  # "max" or "mean": how images make the score of a person
    # The Q highest scores of probes and people who are not their own, falling, and (Q,) the probe
    # of each; empty where they were not asked for.
    top_others: FloatArray = field(default_factory=lambda: np.empty(0))
    top_probes: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def num_distractors(self) -> int:
        """People of the gallery who are not a probe's mate."""
        return int(self.people.size - np.isin(self.people, self.probe_labels).sum())


def search_gallery(
    gallery: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    probes: npt.ArrayLike,
    probe_labels: npt.ArrayLike,
    *,
    person_score: str = "max",
    top_others: bool = False,
) -> GallerySearch:
    """Compare every probe with every person of a gallery by cosine similarity.

    Products are taken in float32, blockwise. Whatever lies so near to a score that decides (the
    mate's, or the highest) that their rounding could matter is computed again in float64, so
    ranks and scores are those of float64, and equal embeddings give equal scores.

    Memory beyond the arguments: one float32 copy of the gallery, and some 200 MB.

    Args:
        gallery: (N, D) embeddings of any length but 0, several a person.
        gallery_labels: (N,) integers or names. People who are not a probe's mate, distractors, have
            labels of their own.
        probes: (Q, D) embeddings.
        probe_labels: (Q,) of the same kind; a probe whose label the gallery lacks has no mate.
        person_score: "max", the highest score over a person's images, or "mean", the score of
            the mean of the person's normalized embeddings.
        top_others: whether to keep the highest scores of other people over all probes, as
            insightface's convention of `evaluate_identification` needs.

    Raises:
        ValueError: shapes or kinds of labels that do not fit, an embedding of length 0 or not
            finite (with its row), or an unknown `person_score`.

    Example:
        >>> gallery, probes = [[1, 0], [0, 1]], [[3, 1], [1, 2]]
        >>> found = search_gallery(gallery, ["ann", "bob"], probes, ["ann", "eve"])
        >>> found.mated.tolist(), found.rank.tolist()
        ([True, False], [1, 0])
    """
    if person_score not in PERSON_SCORES:
        allowed = " or ".join(PERSON_SCORES)
        raise ValueError(f"person_score must be {allowed}, got {person_score!r}")
    owners = check_labels(gallery_labels, "gallery_labels", names=True)
    wanted = check_labels(probe_labels, "probe_labels", names=True)
    if (owners.dtype.kind == "U") != (wanted.dtype.kind == "U"):
        raise ValueError(
            "gallery_labels and probe_labels must both be names or both integers, got "
            f"{owners.dtype} and {wanted.dtype}"
        )
    people, owner = np.unique(owners, return_inverse=True)
    scores = PersonScores(gallery, owner.astype(np.int64), probes, mean=person_score == "mean")
    if scores.num_probes != wanted.size:
        raise ValueError(f"probe_labels must have shape ({scores.num_probes},), got {wanted.shape}")
    mate = np.minimum(np.searchsorted(people, wanted), people.size - 1).astype(np.int64)
    mated = people[mate] == wanted
    mate = np.where(mated, mate, -1)
    mate_score = np.full(wanted.size, np.nan)
    rows = np.flatnonzero(mated)
    mate_score[rows] = scores.exact(rows, mate[rows])
    top = _Highest(wanted.size) if top_others else None
    found = [
        _search(scores, np.arange(part.start, part.stop), mate, mate_score, top)
        for part in row_blocks(wanted.size, _PROBES)
    ]
    rank, other_score, other_person = (np.concatenate(part) for part in zip(*found, strict=True))
    return GallerySearch(
        people,
        wanted,
        mated,
        np.where(mated, rank, 0),
        mate_score,
        np.where(other_person >= 0, other_score, np.nan),
        other_person,
        int(owner.size),
        person_score,
        *(() if top is None else top.falling),
    )


@dataclass(frozen=True, eq=False)
class _Block:
    """Some people next to each other, and how their images are arranged."""

    first: int  # number of the first person
    start: int  # row of the first image
    images: IntArray  # (n,) images by number, in this order
    # Where `rank` is there, images come in rounds: one of each person, people with most images
    # first. Then `parts` is how many each round has, else where each person's images start.
    parts: IntArray
    rank: IntArray | None  # (people,) place of each person in a round

    def highest(self, scores: Float32Array) -> Float32Array:
        """The highest scores (people, Q) of scores (n, Q), which may be written to."""
        if self.rank is None:
            return np.maximum.reduceat(scores, self.parts, axis=0)
        if self.parts.size == 1:
            return scores
        result, at = scores[: self.parts[0]], self.parts[0]
        for count in self.parts[1:]:
            np.maximum(result[:count], scores[at : at + count], out=result[:count])
            at += count
        return result[self.rank]


class PersonScores:
    """Cosines of probes (Q, D) and people, whose images (N, D) are owned by numbers 0 to G - 1.

    Attributes:
        margin: more than twice what rounding can move a float32 score.
    """

    def __init__(
        self, gallery: npt.ArrayLike, owner: IntArray, probes: npt.ArrayLike, *, mean: bool
    ) -> None:
        self._images, self._length = check_embeddings(gallery, "gallery")
        self._probes, self._probe_length = check_embeddings(probes, "probes")
        size = self._images.shape[1]
        if len(self._images) != owner.size:
            raise ValueError(
                f"gallery_labels must have shape ({len(self._images)},), got ({owner.size},)"
            )
        if self._probes.shape[1] != size:
            raise ValueError(
                f"probes must have {size} numbers as the gallery's embeddings, got "
                f"{self._probes.shape[1]}"
            )
        self.num_probes = len(self._probes)
        self._num_people = int(owner.max()) + 1
        self._order = np.argsort(owner, kind="stable")
        self._starts = np.searchsorted(owner[self._order], np.arange(self._num_people + 1))
        if mean:
            self._images = self._means()
            self._length = embedding_lengths(self._images, "mean of the gallery's person")
            self._order = np.arange(self._num_people)
            self._starts = np.arange(self._num_people + 1)
        self._blocks = [self._block(*part) for part in group_blocks(self._starts, _IMAGES)]
        arranged = self._order[np.concatenate([block.images for block in self._blocks])]
        self._unit = np.empty(self._images.shape, dtype=np.float32)
        for part in row_blocks(len(self._order), _GATHERED):
            self._unit[part] = self._unit_rows(arranged[part])
        # Normalizing rounds each number once, a dot product of D numbers at most D times.
        self.margin = 2 * (size + 4) * 2.0**-24

    def blocks(self, rows: IntArray) -> Iterator[tuple[int, Float32Array]]:
        """Yield the first of some people, and their float32 scores (people, n) of n probes."""
        unit = self._probes[rows].astype(np.float64) / self._probe_length[rows, None]
        probes = unit.astype(np.float32)
        for block in self._blocks:
            # People in rows: the highest of some rows is far faster than that of some columns.
            scores = self._unit[block.start : block.start + block.images.size] @ probes.T
            yield block.first, block.highest(scores)

    def _block(self, first: int, end: int) -> "_Block":
        start, stop = int(self._starts[first]), int(self._starts[end])
        counts = np.diff(self._starts[first : end + 1])
        images = np.arange(start, stop)
        if counts.max() > _MOST_ROUNDS:
            return _Block(first, start, images, self._starts[first:end] - start, None)
        many = np.argsort(-counts, kind="stable")
        rank = np.empty_like(many)
        rank[many] = np.arange(many.size)
        turn = images - np.repeat(self._starts[first:end], counts)
        images = images[np.lexsort((np.repeat(rank, counts), turn))]
        return _Block(first, start, images, np.bincount(turn), rank)

    def exact(self, rows: IntArray, people: IntArray) -> FloatArray:
        """The scores of probes and people by number, (n,), in float64; equal for equal images."""
        return self.best_images(rows, people)[0]

    def best_images(
        self, rows: IntArray, people: IntArray, *, but_itself: bool = False
    ) -> tuple[FloatArray, IntArray]:
        """The scores as `exact` has them, and the person's image that gives each, both (n,).

        Args:
            rows: (n,) probes.
            people: (n,) whom each is compared with.
            but_itself: probe and image of one number are not compared, as where the gallery itself
                is searched; -inf and -1 where a person has no other image.
        """
        counts = self._starts[people + 1] - self._starts[people]
        starts = np.append(0, np.cumsum(counts))
        result, best = np.empty(rows.size), np.empty(rows.size, dtype=np.int64)
        for first, end in group_blocks(starts, _KEPT):
            part = slice(first, end)
            offsets = starts[part] - starts[first]
            each = np.repeat(self._starts[people[part]] - offsets, counts[part])
            images = self._order[each + np.arange(each.size)]
            probes = np.repeat(rows[part], counts[part])
            scores = self._pairs(probes, images)
            if but_itself:
                scores[probes == images] = -np.inf
            result[part] = np.maximum.reduceat(scores, offsets)
            highest = scores == np.repeat(result[part], counts[part])
            last = np.iinfo(np.int64).max
            best[part] = np.minimum.reduceat(np.where(highest, images, last), offsets)
        return result, np.where(result > -np.inf, best, -1)

    def _pairs(self, rows: IntArray, images: npt.NDArray[Any]) -> FloatArray:
        scores = np.empty(rows.size)
        for part in row_blocks(rows.size, _GATHERED):
            probes = self._probes[rows[part]] / self._probe_length[rows[part], None]
            # Not a matrix product: its rounding would depend on where a row stands.
            scores[part] = np.einsum("nd,nd->n", probes, self._unit_rows(images[part]))
        return scores

    def _unit_rows(self, images: npt.NDArray[Any]) -> FloatArray:
        return np.asarray(self._images[images] / self._length[images, None], dtype=np.float64)

    def _means(self) -> Float32Array:
        means = np.empty((self._num_people, self._images.shape[1]), dtype=np.float32)
        counts = np.diff(self._starts)
        for first, end in group_blocks(self._starts, _GATHERED):
            start = self._starts[first]
            rows = self._unit_rows(self._order[start : self._starts[end]])
            sums = np.add.reduceat(rows, self._starts[first:end] - start, axis=0)
            means[first:end] = sums / counts[first:end, None]
        return means


class _Highest:
    """The highest of many scores, in float64, and which probes they are of."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._scores, self._probes = np.empty(0), np.empty(0, dtype=np.int64)

    def add(self, scores: PersonScores, rows: IntArray, first: int, block: Float32Array) -> None:
        """Take float32 scores (people, n) into account; -inf is none."""
        low = self._scores.min() if self._scores.size == self._count else -np.inf
        if block.size > self._count:
            at = block.size - self._count
            low = max(low, float(np.partition(block, at, axis=None)[at]))
        limit = np.float32(low - scores.margin)
        person, column = np.nonzero((block >= limit) & (block > -np.inf))
        found = np.append(self._scores, scores.exact(rows[column], person + first))
        probes = np.append(self._probes, rows[column])
        if found.size > self._count:
            kept = np.argpartition(found, -self._count)[-self._count :]
            found, probes = found[kept], probes[kept]
        self._scores, self._probes = found, probes

    @property
    def falling(self) -> tuple[FloatArray, IntArray]:
        """The scores, falling, and the number of each one's probe."""
        order = np.lexsort((self._probes, -self._scores))
        return self._scores[order], self._probes[order]


def _search(
    scores: PersonScores,
    rows: IntArray,
    mate: IntArray,
    mate_score: FloatArray,
    top: _Highest | None,
) -> tuple[IntArray, FloatArray, IntArray]:
    """Rank of the mate, and the highest score of anybody else and who that is, for some probes."""
    own, wanted = mate[rows], mate_score[rows]
    rank = np.ones(rows.size, dtype=np.int64)
    best = np.full(rows.size, -np.inf)
    best_person = np.full(rows.size, -1, dtype=np.int64)
    highest = np.full(rows.size, -np.inf, dtype=np.float32)
    low = (wanted - scores.margin).astype(np.float32)
    high = (wanted + scores.margin).astype(np.float32)
    for first, block in scores.blocks(rows):
        inside = np.flatnonzero((own >= first) & (own < first + block.shape[0]))
        block[own[inside] - first, inside] = -np.inf
        if top is not None:
            top.add(scores, rows, first, block)
        # A comparison with NaN is False: probes without a mate count no one.
        near, above = (block >= low).sum(axis=0), (block > high).sum(axis=0)
        rank += above
        unsure = np.flatnonzero(near > above)
        part = block[:, unsure]
        person, at = np.nonzero((part >= low[unsure]) & (part <= high[unsure]))
        at = unsure[at]
        ahead = scores.exact(rows[at], person + first) >= wanted[at]
        rank += np.bincount(at[ahead], minlength=rows.size)
        np.maximum(highest, block.max(axis=0), out=highest)
        person, at = np.nonzero(block >= highest - np.float32(scores.margin))
        keep = block[person, at] > -np.inf
        at, person = at[keep], person[keep]
        exact = scores.exact(rows[at], person + first)
        order = np.lexsort((-person, exact, at))  # the last of a probe is its highest
        last = order[np.append(np.flatnonzero(np.diff(at[order])), order.size - 1)[: order.size]]
        better = last[exact[last] > best[at[last]]]
        best[at[better]] = exact[better]
        best_person[at[better]] = person[better] + first
    return rank, best, best_person
