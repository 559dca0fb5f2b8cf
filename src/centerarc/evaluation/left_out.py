"""Every photo of a gallery as a probe of that gallery, with itself or its person left out."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.gallery import PersonScores
from centerarc.evaluation.scores import (
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    check_embeddings,
    check_labels,
    row_blocks,
)

# How many other people are kept for each photo.
_RIVALS = 8
# So many photos are compared with the gallery at once.
_PHOTOS = 512


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """The scores of every photo of a gallery against the rest of it.

    A person's score is the highest cosine over the person's photos. With its whole person left out,
    a photo is a stranger's, whose score is `rival`. With only the photo left out it is a probe
    of somebody who is enrolled, as long as its person has other photos.
    """

    people: npt.NDArray[Any]  # (P,) labels of the people, sorted
    person: IntArray  # (N,) number of each photo's person in `people`
    genuine: FloatArray  # (N,) score of its own person without the photo; NaN without other photos
    genuine_photo: IntArray  # (N,) row of the photo that gives it; -1 without other photos
    rivals: FloatArray  # (N, K) scores of the K most similar other people, falling
    rival_people: IntArray  # (N, K) numbers of these people
    rival_photo: IntArray  # (N,) row of the photo that gives the first of `rivals`

    @property
    def rival(self) -> FloatArray:
        """(N,) highest score of another person."""
        return self.rivals[:, 0]

    @property
    def rival_person(self) -> IntArray:
        """(N,) number of that person."""
        return self.rival_people[:, 0]

    @cached_property
    def second(self) -> FloatArray:
        """(N,) score of the second most similar other person; NaN in a gallery of two people."""
        alone = self.rivals.shape[1] == 1
        return np.full(self.person.size, np.nan) if alone else self.rivals[:, 1]

    @cached_property
    def second_person(self) -> IntArray:
        """(N,) number of that person; -1 in a gallery of two people."""
        alone = self.rivals.shape[1] == 1
        return np.full(self.person.size, -1) if alone else self.rival_people[:, 1]

    @cached_property
    def photos_of(self) -> IntArray:
        """(P,) how many photos each person has."""
        return np.bincount(self.person, minlength=self.people.size).astype(np.int64)

    @property
    def judged(self) -> BoolArray:
        """(N,) whether a photo can be a probe of an enrolled person."""
        return np.asarray(self.genuine_photo >= 0)

    @property
    def right(self) -> BoolArray:
        """(N,) whether its own person scores higher than all others; False if not judged."""
        return np.asarray(self.genuine > self.rival)

    @property
    def first(self) -> FloatArray:
        """(N,) score of the answer to an enrolled probe; NaN if not judged."""
        return np.maximum(self.genuine, self.rival)

    @cached_property
    def margin(self) -> FloatArray:
        """(N,) how far the answer to an enrolled probe is ahead of the second-best person."""
        runner_up = np.where(self.right, self.rival, np.fmax(self.genuine, self.second))
        return np.asarray(self.first - runner_up)


def leave_one_out(embeddings: npt.ArrayLike, people: npt.ArrayLike) -> LeaveOneOut:
    """Compare every photo of a gallery with its own person's other photos and with everybody else.

    Products are taken in float32, blockwise; all that could be among the results is computed again
    in float64, so results are those of float64. Of people with equal scores the first in the order
    of labels is the first rival. Memory beyond the arguments: one float32 copy of the
    embeddings, the results, and some 200 MB.

    Args:
        embeddings: (N, D) of any length but 0.
        people: (N,) integers or names, of at least two people.

    Returns:
        The scores. K, the number of other people that are kept, is the smaller of 8 and P - 1.

    Raises:
        ValueError: shapes or types that do not fit, an embedding of length 0 or not finite (with
            its row), or fewer than two people.

    Example:
        >>> found = leave_one_out([[1, 0], [3, 1], [0, 2]], ["ann", "ann", "bob"])
        >>> found.genuine.round(3).tolist(), found.rival.round(3).tolist()
        ([0.949, 0.949, nan], [0.0, 0.316, 0.316])
    """
    values, _ = check_embeddings(embeddings, "embeddings")
    labels = check_labels(people, "people", len(values), names=True)
    everybody, person = np.unique(labels, return_inverse=True)
    person = person.astype(np.int64)
    if everybody.size < 2:
        raise ValueError(f"people must be of at least 2 people, got {everybody.size}")
    scores = PersonScores(values, person, values, mean=False)
    rows = np.arange(len(values))
    genuine, genuine_photo = scores.best_images(rows, person, but_itself=True)
    kept = min(_RIVALS, everybody.size - 1)
    parts = [_rivals(scores, rows[part], person, kept) for part in row_blocks(rows.size, _PHOTOS)]
    rivals, rival_people = (np.concatenate(part) for part in zip(*parts, strict=True))
    return LeaveOneOut(
        everybody,
        person,
        np.where(genuine_photo >= 0, genuine, np.nan),
        genuine_photo,
        rivals,
        rival_people,
        scores.best_images(rows, rival_people[:, 0])[1],
    )


def _rivals(
    scores: PersonScores, rows: IntArray, person: IntArray, kept: int
) -> tuple[FloatArray, IntArray]:
    """Scores and numbers of the most similar other people of some photos, each (n, `kept`)."""
    own, columns = person[rows], np.arange(rows.size)
    # As many float32 scores of different people, the lowest of which bounds what is looked for.
    best: Float32Array = np.full((kept, rows.size), -np.inf, dtype=np.float32)
    found: list[tuple[IntArray, IntArray, Float32Array]] = []
    for first, block in scores.blocks(rows):
        inside = columns[(own >= first) & (own < first + len(block))]
        block[own[inside] - first, inside] = -np.inf
        edges = np.unique(np.arange(kept) * len(block) // kept)
        best = np.concatenate([best, np.maximum.reduceat(block, edges, axis=0)])
        best = np.partition(best, len(best) - kept, axis=0)[len(best) - kept :]
        low = best.min(axis=0) - np.float32(scores.margin)
        other, at = np.nonzero((block >= low) & (block > -np.inf))
        found.append((other + first, at, block[other, at]))
    others, at, score = (np.concatenate(part) for part in zip(*found, strict=True))
    # The bound of the last block, or a closer one where the best of a block were close together.
    order = np.lexsort((-score, at))
    starts = np.searchsorted(at[order], columns)
    low = score[order][starts + kept - 1] - np.float32(scores.margin)
    near = score >= low[at]
    others, at = others[near], at[near]
    exact = scores.exact(rows[at], others)
    order = np.lexsort((others, -exact, at))
    starts = np.searchsorted(at[order], columns)
    chosen = order[starts[:, None] + np.arange(kept)]
    return exact[chosen], others[chosen]
