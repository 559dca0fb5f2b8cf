"""Which of some pictures are the same: by their pixels, or by embeddings that are equal."""

from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image

from centerarc.evaluation.files.pair_set import linked
from centerarc.evaluation.scores import Float32Array, FloatArray, IntArray, row_blocks

# One model gives one picture embeddings that differ by rounding alone: about 1e-6 of their length
# when batches differ. Those of two pictures differ by a hundred times this and more.
_ROUNDING = 1e-4
# With each embedding so many are compared that lie next to it along one direction.
_NEIGHBORS = 64
_GATHERED = 8192
SIDE = 16  # of a thumbnail in pixels
# Measured on 10,562 aligned photographs: all pairs from 0.993 on show one photograph, different
# ones come to 0.989; copies saved again at quality 20, or over 64 pixels, to 0.996 at least.
_ALIKE = 0.995
_MOST_PAIRS = 20_000_000_000
_COSINES = 1 << 24  # at once
# Examples in a result.
SHOWN = 5


class Embedded(NamedTuple):
    """Images as they are judged.

    Args:
        embedding: `(N, D)` float32.
        digest: `(N, 2)` uint64 of each picture's pixels, as the model takes it; None where only
            embeddings are there.
        thumbnails: `(N, 16, 16)` uint8 of each picture, as `thumbnail` makes them; None likewise.
    """

    embedding: Float32Array
    digest: npt.NDArray[np.uint64] | None = None
    thumbnails: npt.NDArray[np.uint8] | None = None


def picture_digest(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Returns `(2,)`, the same for equal pixels in an array of the same shape and no other."""
    digest = blake2b(image.tobytes(), digest_size=16)
    digest.update(np.array(image.shape, dtype="<i8").tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint64)


def thumbnail(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns `(16, 16)` uint8, the mean luma of each part of an image."""
    luma = PIL.Image.fromarray(image).convert("L")
    return np.asarray(luma.resize((SIDE, SIDE), PIL.Image.Resampling.BOX))


def _standard(thumbnails: npt.NDArray[np.uint8]) -> Float32Array:
    """Thumbnails with mean 0 and length 1; 0 where there is next to nothing to be seen."""
    parts = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    parts -= parts.mean(axis=1, keepdims=True)
    parts /= np.maximum(np.linalg.norm(parts, axis=1, keepdims=True), 1.0)
    return parts


def near_copies(asked: Embedded, known: Embedded) -> IntArray:
    """Finds pictures that were compressed again, resized or made lighter or gray.

    Args:
        asked: N images.
        known: The images to look among.

    Returns:
        `(N,)` the row in `known` of the picture that is almost the same; -1 where there is none,
        everywhere where pixels are unknown or over 2e10 pairs would have to be compared.
    """
    found = np.full(len(asked.embedding), -1, dtype=np.int64)
    if asked.thumbnails is None or known.thumbnails is None:
        return found
    if not 0 < len(asked.thumbnails) * len(known.thumbnails) <= _MOST_PAIRS:
        return found
    among = _standard(known.thumbnails).T
    for part in row_blocks(len(found), max(1, _COSINES // among.shape[1])):
        cosines = _standard(asked.thumbnails[part]) @ among
        best = cosines.argmax(axis=1)
        alike = cosines[np.arange(best.size), best] >= _ALIKE
        found[part] = np.where(alike, best, -1)
    return found


def number_pictures(*parts: Embedded) -> list[IntArray]:
    """Numbers the pictures of several sets: equal numbers are of the same picture.

    Pixels decide, so a copy in another file or container is found, and one that was compressed
    again is not. If a set has embeddings only, those that are equal up to rounding are of the same
    picture.

    Args:
        parts: The sets, embedded by one model.

    Returns:
        `(N,)` for each set, from 0.

    Example:
        >>> known, asked = np.array([[3, 1], [1, 2]]), np.array([[1, 2], [2, 1]])
        >>> [each.tolist() for each in number_pictures(Embedded(known), Embedded(asked))]
        [[0, 1], [1, 2]]
    """
    digests = [part.digest for part in parts if part.digest is not None]
    if len(digests) == len(parts):
        numbers = np.unique(np.concatenate(digests), axis=0, return_inverse=True)[1].ravel()
    else:
        numbers = _by_embedding(np.concatenate([part.embedding for part in parts]))
    ends = np.cumsum([len(part.embedding) for part in parts])[:-1]
    return np.split(numbers.astype(np.int64), ends)


def first_of_each(numbers: IntArray) -> IntArray:
    """Returns the rows of the first image of each picture, ascending."""
    return np.sort(np.unique(numbers, return_index=True)[1]).astype(np.int64)


def _by_embedding(embedding: npt.NDArray[Any]) -> IntArray:
    count, size = embedding.shape
    drawn = np.random.default_rng(0).normal(size=size)
    direction = drawn / np.linalg.norm(drawn)
    at, length = np.empty(count), np.empty(count)
    for part in row_blocks(count, _GATHERED):
        rows = embedding[part].astype(np.float64)
        at[part], length[part] = rows @ direction, np.linalg.norm(rows, axis=1)
    order = np.argsort(at, kind="stable")
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for step in range(1, min(_NEIGHBORS, count - 1) + 1):
        both = np.stack([order[:-step], order[step:]], axis=1)
        allowed = _ROUNDING * length[both[:, 0]]
        near = np.flatnonzero(at[both[:, 1]] - at[both[:, 0]] <= allowed)
        if not near.size:
            break
        apart = _distances(embedding, both[near])
        pairs.append(both[near[apart <= allowed[near]]])
    first, second = np.concatenate(pairs).T
    return linked(first, second, count)


def _distances(embedding: npt.NDArray[Any], pairs: IntArray) -> FloatArray:
    found = np.empty(len(pairs))
    for part in row_blocks(len(pairs), _GATHERED):
        first, second = (embedding[pairs[part, side]].astype(np.float64) for side in (0, 1))
        found[part] = np.linalg.norm(first - second, axis=1)
    return found
