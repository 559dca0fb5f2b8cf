"""Scores all pairs of some embeddings, block by block, into an `AllPairs` record."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.scores import (
    ROUNDED_UP,
    Float32Array,
    FloatArray,
    IntArray,
    check_embeddings,
    check_labels,
    row_blocks,
)

# Scores at once: 8 MB of float32, and up to five times as much beside them.
_BLOCK_VALUES = 2_000_000
# Width of a bin of the scores: 7.6e-6. Scores in one bin count as equal in areas and in the EER.
_BINS = 1 << 18
# The false accept rate that kept impostor scores reach: the highest reported one three times.
REACH = 3e-2
# All are kept where they are no more than these.
_FEW = 300_000
# Of each person's own threshold: the lowest rate that lets in so many other people.
PERSON_FARS = (1e-3, 1e-2, 1e-1)
_FEWEST_OTHERS = 5
# Below any score of a pair: who is not found.
NOT_FOUND = -2.0


def score_all_pairs(
    embeddings: npt.ArrayLike,
    labels: npt.ArrayLike,
    other: npt.ArrayLike | None = None,
    *,
    places: Sequence[str] | None = None,
    person_far: float | None = None,
    reach: float = REACH,
) -> AllPairs:
    """Compares all images of some people with each other by cosine similarity.

    Products are float32. Beside the arguments, memory holds two float32 copies of the embeddings,
    blocks of some 100 MB together, the genuine scores, and the impostor scores up to a false
    accept rate of `reach`; never all scores of many.

    Args:
        embeddings: `(N, D)`, finite and of any length but 0.
        labels: `(N,)` integers or names: the person of each image.
        other: `(N, D)` embeddings of the same images in the same order seen otherwise, such as
            degraded. Pairs are then of an image of `embeddings` and another one of `other`, in
            either order.
        places: Names of the images, which become part of the record's digest.
        person_far: The false accept rate of each person's own threshold, in (0, 1). By default
            the lowest of 0.001, 0.01 and 0.1 that lets in five other people; 0.1 where none does.
        reach: The false accept rate down to which impostor scores are kept, in (0, 1]: three times
            the highest of interest, so that resampled people reach it too.

    Returns:
        The record.

    Raises:
        ValueError: If shapes do not fit, an embedding is unusable (with its row), there are fewer
            than two people, or none has two images.

    Example:
        >>> faces = [[1, 0], [3, 1], [0, 1], [1, 4]]
        >>> found = score_all_pairs(faces, ["ann", "ann", "bob", "bob"])
        >>> found.num_genuine, found.num_impostor, found.auc
        (2, 4, 1.0)
    """
    who = check_labels(labels, "labels", names=True)
    people, person, images = np.unique(who, return_inverse=True, return_counts=True)
    if people.size < 2 or images.max() < 2:
        raise ValueError(
            f"labels must be of at least 2 people, one of them with 2 images, got {people.size} "
            f"with at most {images.max(initial=0)}"
        )
    if places is not None and len(places) != who.size:
        raise ValueError(f"places must have {who.size} names, got {len(places)}")
    far = _person_far(people.size) if person_far is None else person_far
    if not 0 < far < 1:
        raise ValueError(f"person_far must be in (0, 1), got {far}")
    if not 0 < reach <= 1:
        raise ValueError(f"reach must be in (0, 1], got {reach}")
    order = np.argsort(person, kind="stable")
    first = _unit(embeddings, "embeddings", order)
    second = first if other is None else _unit(other, "other", order)
    if second.shape != first.shape:
        raise ValueError(f"other must have the shape of embeddings {first.shape}")
    pairs = _Pairs(first, second, person[order].astype(np.int64), images, other is not None)
    genuine_score, genuine_person = pairs.genuine()
    passed = pairs.passed(genuine_score, genuine_person, far, reach)
    tail_score, tail_first, tail_second, impostor_eer = pairs.tail(
        passed.lowest, passed.eer_threshold
    )
    names = people.astype(np.str_)
    found = _identified(pairs)
    return AllPairs(
        people=names,
        images=images.astype(np.int32),
        ordered=other is not None,
        digest=_digest(names[person], places),
        genuine_score=genuine_score,
        genuine_person=genuine_person,
        tail_score=tail_score,
        tail_first=tail_first,
        tail_second=tail_second,
        genuine_auc=passed.genuine_auc,
        impostor_auc=passed.impostor_auc,
        eer=passed.eer,
        eer_threshold=passed.eer_threshold,
        impostor_eer=impostor_eer,
        person_far=far,
        person_threshold=passed.person_threshold,
        **found,
        curve_far=passed.curve_far,
        curve_tar=passed.curve_tar,
    )


def _person_far(people: int) -> float:
    enough = (far for far in PERSON_FARS if (people - 1) * far >= _FEWEST_OTHERS)
    return next(enough, PERSON_FARS[-1])


def _unit(embeddings: npt.ArrayLike, name: str, order: IntArray) -> Float32Array:
    values, length = check_embeddings(embeddings, name)
    if len(values) != order.size:
        raise ValueError(f"{name} must have {order.size} rows as labels, got {len(values)}")
    unit = np.empty(values.shape, dtype=np.float32)
    for part in row_blocks(order.size, 8192):
        rows = order[part]
        unit[part] = values[rows] / length[rows, None]
    return unit


def _digest(people: npt.NDArray[np.str_], places: Sequence[str] | None) -> str:
    digest = hashlib.sha256()
    for texts in (people.tolist(), places or ()):
        for text in texts:
            digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(b"\1")
    return digest.hexdigest()


class _Passed(NamedTuple):
    """What one pass over all impostor pairs finds; as in `AllPairs`, and where the tail ends."""

    genuine_auc: FloatArray
    impostor_auc: FloatArray
    eer: float
    eer_threshold: float
    person_threshold: FloatArray
    curve_far: FloatArray
    curve_tar: FloatArray
    lowest: float


class _Pairs:
    """Pairs of images (N, D) of two sides, sorted by their person (N,), who has so many (n,)."""

    def __init__(
        self,
        first: Float32Array,
        second: Float32Array,
        person: IntArray,
        images: IntArray,
        ordered: bool,
    ) -> None:
        self.first, self.second, self.person = first, second, person
        self.images, self._ordered = images, ordered
        self.starts = np.append(0, np.cumsum(images))
        # Of an image among those of its person.
        self._share = 1.0 / images[person]

    def genuine(self) -> tuple[Float32Array, npt.NDArray[np.int32]]:
        """Scores of all pairs of one person's images, falling, and the person of each."""
        scores, people = [], []
        for number in np.flatnonzero(self.images > 1).tolist():
            start, stop = self.starts[number], self.starts[number + 1]
            for part in row_blocks(stop - start, max(1, _BLOCK_VALUES // int(stop - start))):
                rows = np.arange(part.start, part.stop)[:, None]
                columns = np.arange(stop - start)
                block = self.first[start:stop][part] @ self.second[start:stop].T
                kept = rows != columns if self._ordered else rows < columns
                scores.append(_in_range(block[kept]))
                people.append(np.full(scores[-1].size, number, dtype=np.int32))
        score, person = np.concatenate(scores), np.concatenate(people)
        order = np.argsort(-score, kind="stable")
        return score[order], person[order]

    def blocks(self) -> Iterator[tuple[int, Float32Array]]:
        """Yields the first of some rows and their scores (rows, N); -2 for the same person."""
        for part in row_blocks(self.person.size, max(1, _BLOCK_VALUES // self.person.size)):
            block = _in_range(self.first[part] @ self.second.T)
            for row, number in enumerate(self.person[part].tolist()):
                block[row, self.starts[number] : self.starts[number + 1]] = NOT_FOUND
            yield part.start, block

    def passed(
        self,
        genuine_score: Float32Array,
        genuine_person: npt.NDArray[np.int32],
        person_far: float,
        reach: float,
    ) -> _Passed:
        """Passes once over all pairs of two people."""
        people = self.images.size
        pairs_of = np.bincount(genuine_person, minlength=people)
        several = pairs_of > 0
        weight = 1.0 / pairs_of[genuine_person] / np.count_nonzero(several)
        genuine_bin = _bins(genuine_score)
        genuine = np.bincount(genuine_bin, weight, minlength=_BINS)
        above = 1.0 - np.cumsum(genuine)
        area_of_bin = above + genuine / 2
        impostor = np.zeros(_BINS)
        area = np.zeros((2, self.person.size))
        thresholds = _PersonThresholds(self, person_far)
        for start, block in self.blocks():
            rows = slice(start, start + len(block))
            weights = self._share[rows, None] * self._share
            weights[block == NOT_FOUND] = 0.0
            bins = _bins(block)
            impostor += np.bincount(bins.ravel(), weights.ravel(), minlength=_BINS)
            weights *= area_of_bin[bins]
            area[0, rows] += weights.sum(axis=1)
            area[1] += weights.sum(axis=0)
            thresholds.add(start, block)
        by_person = self._by_person(area)
        impostor /= impostor.sum()
        below = np.cumsum(impostor) - impostor / 2
        sums = np.bincount(genuine_person, below[genuine_bin], minlength=people)
        with np.errstate(invalid="ignore"):
            genuine_auc = np.where(several, sums / pairs_of, np.nan)
        # At the lower edge of each bin, from the highest: all that is in it or above.
        far, tar = _running_share(impostor[::-1]), _running_share(genuine[::-1])
        grid = np.append(np.logspace(-6, 0, 120, endpoint=False), 1.0)
        at = np.searchsorted(far, grid * ROUNDED_UP, side="right")
        curve = np.append(0.0, tar)[at]
        eer, steps = _equal_error(far, tar)
        return _Passed(
            np.clip(genuine_auc, 0.0, 1.0),
            by_person,
            *(eer, 1.0 - 2.0 * steps / _BINS),
            thresholds.found(),
            grid,
            curve,
            self._lowest(far, reach),
        )

    def _lowest(self, far: FloatArray, reach: float) -> float:
        """The score down to which impostor scores are kept."""
        total = self.person.size**2 - int((self.images**2).sum())
        if total <= _FEW:
            return -1.0
        bins = int(np.searchsorted(far, reach)) + 1
        return 1.0 - 2.0 * min(bins, _BINS) / _BINS

    def _by_person(self, sums: FloatArray) -> FloatArray:
        """(n,) means over all other people of (2, N) sums over both sides of pairs, in [0, 1]."""
        found = np.add.reduceat(sums, self.starts[:-1], axis=1) / (self.images.size - 1)
        return np.asarray(np.clip(found.mean(axis=0), 0.0, 1.0), dtype=np.float64)

    def tail(
        self, lowest: float, threshold: float
    ) -> tuple[Float32Array, npt.NDArray[np.int32], npt.NDArray[np.int32], FloatArray]:
        """Impostor scores of at least `lowest`, falling, and the people of each.

        Then (n,) the false accept rate of each person at a threshold.
        """
        scores, firsts, seconds = [], [], []
        accepted = np.zeros((2, self.person.size))
        for start, block in self.blocks():
            rows = slice(start, start + len(block))
            above = (block >= np.float32(threshold)).astype(np.float32)
            accepted[0, rows] = self._share[rows] * (above @ self._share.astype(np.float32))
            accepted[1] += self._share * (self._share[rows].astype(np.float32) @ above)
            if not self._ordered:  # each pair once
                block[:, :start] = NOT_FOUND
                inside = block[:, start : start + len(block)]
                inside[np.tril_indices(len(block))] = NOT_FOUND
            row, column = np.nonzero(block >= lowest)
            scores.append(block[row, column])
            firsts.append(self.person[row + start].astype(np.int32))
            seconds.append(self.person[column].astype(np.int32))
        score = np.concatenate(scores)
        order = np.argsort(-score, kind="stable")
        people = np.concatenate(firsts)[order], np.concatenate(seconds)[order]
        return score[order], *people, self._by_person(accepted)


class _PersonThresholds:
    """The lowest threshold of every person with at most some FAR against all other people."""

    def __init__(self, pairs: _Pairs, far: float) -> None:
        self._pairs, self._far = pairs, far
        self._scores: dict[int, Float32Array] = {}
        self._weights: dict[int, FloatArray] = {}
        self._result = np.empty(pairs.images.size)

    def add(self, start: int, block: Float32Array) -> None:
        """Takes the scores (rows, N) of some images into account."""
        pairs = self._pairs
        owners = pairs.person[start : start + len(block)]
        for person in np.unique(owners).tolist():
            rows = block[owners == person]
            # What is let in weighs as much as this share of all other people.
            limit = self._far * (pairs.images.size - 1) * pairs.images[person]
            scores, weights = _highest(rows, pairs._share, limit)
            if person in self._scores:
                scores = np.append(self._scores[person], scores)
                weights = np.append(self._weights[person], weights)
                order = np.argsort(-scores, kind="stable")
                scores, weights = scores[order], weights[order]
                kept = int(np.searchsorted(np.cumsum(weights), limit * ROUNDED_UP)) + 2
                scores, weights = scores[:kept], weights[:kept]
            if pairs.starts[person + 1] <= start + len(block):
                self._scores.pop(person, None)
                self._weights.pop(person, None)
                over = np.cumsum(weights) > limit * ROUNDED_UP
                self._result[person] = np.nextafter(np.float64(scores[over.argmax()]), np.inf)
            else:
                self._scores[person], self._weights[person] = scores, weights

    def found(self) -> FloatArray:
        """The thresholds (n,)."""
        return self._result


def _highest(
    block: Float32Array, share: FloatArray, limit: float
) -> tuple[Float32Array, FloatArray]:
    """The highest scores of (rows, N), falling, until their weights exceed a limit, or all.

    A column weighs its `share` (N,); -2 is no score.
    """
    flat = block.ravel()
    wanted = int(limit * 4) + 16
    while True:
        wanted = min(wanted, flat.size)
        at = np.argpartition(flat, flat.size - wanted)[flat.size - wanted :]
        at = at[flat[at] > NOT_FOUND]
        weights = share[at % share.size]
        if wanted == flat.size or weights.sum() > limit * ROUNDED_UP * (1 + 1e-9):
            order = np.argsort(-flat[at], kind="stable")
            return flat[at][order], weights[order]
        wanted *= 4


def _identified(pairs: _Pairs) -> dict[str, Any]:
    """Probes and strangers in a gallery of the first image of everybody with several."""
    several = pairs.images > 1
    enrolled = pairs.starts[:-1][several]
    asked = np.ones(pairs.person.size, dtype=np.bool_)
    asked[enrolled] = False
    search = search_gallery(
        pairs.first[enrolled], pairs.person[enrolled], pairs.second[asked], pairs.person[asked]
    )
    own = np.where(search.rank == 1, search.mate_score, NOT_FOUND)
    result = {}
    for name, chosen, score in (
        ("probe", search.mated, own),
        ("stranger", ~search.mated, search.other_score),
    ):
        values = score[chosen].astype(np.float32)
        order = np.argsort(-values, kind="stable")
        result[f"{name}_score"] = values[order]
        result[f"{name}_person"] = search.probe_labels[chosen][order].astype(np.int32)
    return result


def _running_share(weights: npt.NDArray[Any]) -> FloatArray:
    running = np.cumsum(weights, dtype=np.float64)
    return np.asarray(running / running[-1], dtype=np.float64)


def _equal_error(far: FloatArray, tar: FloatArray) -> tuple[float, int]:
    """Where false accepts equal false rejects, and after how many steps of the curve."""
    false, missed = np.append(0.0, far), np.append(1.0, 1.0 - tar)
    at = int(np.argmax(false >= missed))
    if at == 0:
        return float(false[0]), at
    low, high = missed[at - 1] - false[at - 1], false[at] - missed[at]
    part = low / (low + high)
    return float(np.clip(false[at - 1] + part * (false[at] - false[at - 1]), 0.0, 1.0)), at


def _in_range(scores: Float32Array) -> Float32Array:
    return np.asarray(np.clip(scores, -1.0, 1.0, out=scores))


def _bins(scores: Float32Array) -> npt.NDArray[np.intp]:
    """The bin of each score in [-1, 1]; also of -2, in the lowest."""
    bins = ((scores + np.float32(1)) * np.float32(_BINS / 2)).astype(np.intp)
    return np.asarray(np.clip(bins, 0, _BINS - 1, out=bins))
