"""Who in a gallery a probe looks most like: exact ranks at the speed of float32 products."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.identification.person_scores import PersonScores
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray

PERSON_SCORES = {
    "max": "the score of a person is the highest over the person's images",
    "mean": "the score of a person is that of the mean of the person's normalised embeddings",
}
# So many probes against so many gallery images at once: scores of 64 MB.
_PROBES = 1024
_IMAGES = 16_384


@dataclass(frozen=True, eq=False)
class GallerySearch:
    """How every probe fared against everybody in a gallery.

    Attributes:
        people: (G,) the labels of the gallery's people, sorted.
        probe_labels: (Q,) label of each probe.
        mated: (Q,) whether the probe's person is in the gallery.
        rank: (Q,) 1 + how many other people score at least as high as the probe's own person, so
            ties count against it; 0 where the person is not there.
        mate_score: (Q,) score of the probe's own person; NaN where not there.
        other_score: (Q,) highest score of anybody else; NaN where there is nobody else.
        other_person: (Q,) who that is, a number into ``people``; -1 where there is nobody.
        gallery_images: images in the gallery.
        person_score: "max" or "mean": how images make the score of a person.
    """

    people: npt.NDArray[Any]
    probe_labels: npt.NDArray[Any]
    mated: BoolArray
    rank: IntArray
    mate_score: FloatArray
    other_score: FloatArray
    other_person: IntArray
    gallery_images: int
    person_score: str

    def same_scores(self, other: "GallerySearch") -> bool:
        """Whether another search of the same probes found the same ranks and scores."""
        return np.array_equal(self.rank, other.rank) and all(
            np.array_equal(mine, theirs, equal_nan=True)
            for mine, theirs in (
                (self.mate_score, other.mate_score),
                (self.other_score, other.other_score),
            )
        )

    @property
    def num_distractors(self) -> int:
        """People of the gallery who are nobody's mate."""
        return int(self.people.size - np.isin(self.people, self.probe_labels).sum())


def search_gallery(
    gallery: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    probes: npt.ArrayLike,
    probe_labels: npt.ArrayLike,
    *,
    person_score: str = "max",
) -> GallerySearch:
    """Compare every probe with every person of a gallery by cosine similarity.

    Products are taken in float32, blockwise. Whatever lies so near to a score that decides (the
    mate's, or the highest) that their rounding could matter is computed again in float64, so
    ranks and scores are those of float64, and equal embeddings give equal scores.

    Memory beyond the arguments: one float32 copy of the gallery, and some 200 MB.

    Args:
        gallery: (N, D) embeddings of any length but 0, several a person.
        gallery_labels: (N,) integers or names. People who are nobody's mate, distractors, have
            labels of their own.
        probes: (Q, D) embeddings.
        probe_labels: (Q,) of the same kind; a probe whose label the gallery lacks has no mate.
        person_score: "max", the highest score over a person's images, or "mean", the score of
            the mean of the person's normalised embeddings.

    Returns:
        Ranks and scores of every probe.

    Raises:
        ValueError: shapes or kinds of labels that do not fit, an embedding of length 0 or not
            finite (with its row), or an unknown ``person_score``.

    Example:
        >>> gallery, probes = [[1, 0], [0, 1]], [[3, 1], [1, 2]]
        >>> found = search_gallery(gallery, ["ann", "bob"], probes, ["ann", "eve"])
        >>> found.mated.tolist(), found.rank.tolist()
        ([True, False], [1, 0])
    """
    if person_score not in PERSON_SCORES:
        allowed = " or ".join(PERSON_SCORES)
        raise ValueError(f"person_score must be {allowed}, got {person_score!r}")
    owners, wanted = _labels(gallery_labels, "gallery"), _labels(probe_labels, "probe")
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
    found = [
        _search(scores, np.arange(start, min(start + _PROBES, wanted.size)), mate, mate_score)
        for start in range(0, wanted.size, _PROBES)
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
    )


def _labels(labels: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.asarray(labels)
    if values.dtype.kind not in "iuU" or values.ndim != 1 or not values.size:
        raise ValueError(
            f"{name}_labels must be integers or names of shape (N,), N at least 1, got "
            f"{values.dtype} {values.shape}"
        )
    return values


def _search(
    scores: PersonScores, rows: IntArray, mate: IntArray, mate_score: FloatArray
) -> tuple[IntArray, FloatArray, IntArray]:
    """Rank of the mate, and the highest score of anybody else and who that is, for some probes."""
    own, wanted = mate[rows], mate_score[rows]
    rank = np.ones(rows.size, dtype=np.int64)
    best = np.full(rows.size, -np.inf)
    best_person = np.full(rows.size, -1, dtype=np.int64)
    highest = np.full(rows.size, -np.inf, dtype=np.float32)
    low = (wanted - scores.margin).astype(np.float32)
    high = (wanted + scores.margin).astype(np.float32)
    for first, block in scores.blocks(scores.unit_probes(rows), _IMAGES):
        inside = np.flatnonzero((own >= first) & (own < first + block.shape[0]))
        block[own[inside] - first, inside] = -np.inf
        # A comparison with NaN is False: probes without a mate count nobody.
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
