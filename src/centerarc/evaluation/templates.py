"""Templates of several images, as IJB-B and IJB-C have them: pooled, scored and searched."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.gallery import GallerySearch, search_gallery
from centerarc.evaluation.scores import (
    BoolArray,
    Float32Array,
    FloatArray,
    IntArray,
    check_embeddings,
    check_labels,
    group_blocks,
    row_blocks,
)

WEIGHTINGS = {
    "plain": "each image's embedding is normalized",
    "norm": "embeddings keep their length, so that an image weighs as much as its length",
    "detector": "each image's embedding is normalized and multiplied by its detector score",
    "norm+detector": "embeddings keep their length and are multiplied by the detector score",
}
"""The ways to weight the images of a template, and what each means."""
# Images of whole templates that are gathered at once: 64 MB for 512 numbers in float64.
_GATHERED = 16_384
# Numbers of templates that lie within so many of each other are found by a table of 128 MB.
_TABLE = 1 << 24
# First templates whose pairs are scored together: their scores against 23,000 others are 24 MB.
_TEMPLATES = 256
# Second templates at once in such a product, so that it stays small for any number of them.
_OTHERS = 32_768
# Pairs gathered at once: 2 x 8 MB for embeddings of 512 numbers.
_PAIRS = 4096
# A pair that is gathered costs about as much as so many entries of a matrix product.
_GATHERING = 40


@dataclass(frozen=True, eq=False)
class Templates:
    """Embeddings of templates, and how they were made."""

    ids: npt.NDArray[Any]  # (T,) the templates' names or numbers, sorted
    embeddings: Float32Array  # (T, D) float32 of length 1
    num_images: IntArray  # (T,) images in each
    num_media: IntArray  # (T,) media in each
    weighting: str  # "plain", "norm", "detector" or "norm+detector"

    def __len__(self) -> int:
        return int(self.ids.size)

    @property
    def convention(self) -> str:
        """How the templates were made, in one sentence."""
        return (
            f"Templates: {WEIGHTINGS[self.weighting]}; then the mean over the images of a medium, "
            "the sum over the media of a template, and length 1."
        )

    def rows(self, wanted: npt.ArrayLike) -> IntArray:
        """Return the rows of templates by ids (n,); an unknown one is a `ValueError`."""
        values: npt.NDArray[Any] = np.asarray(wanted)
        rows, known = locate(self.ids, values)
        if not known.all():
            at = int(np.argmin(known))
            raise ValueError(f"there is no template {values[at]!s} (entry {at})")
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "convention": self.convention,
            "weighting": self.weighting,
            "num_templates": len(self),
            "num_media": int(self.num_media.sum()),
            "num_images": int(self.num_images.sum()),
        }


def pool_templates(
    embeddings: npt.ArrayLike,
    template: npt.ArrayLike,
    media: npt.ArrayLike | None = None,
    *,
    weighting: str = "plain",
    detector_score: npt.ArrayLike | None = None,
) -> Templates:
    """Make one embedding of each template's images.

    With w_i x_i the weighted embedding of image i, a template is

        sum over its media M of  (1 / |M|) sum over i in M of w_i x_i

    brought to length 1. A video so counts as much as a still. The divisor is the number of the
    medium's images and not the sum of their weights, so weights act between media too; this is
    how insightface evaluates IJB-B and IJB-C, whose default is "norm+detector" over features
    summed with those of the mirror image. Memory beyond the result: some 200 MB.

    Args:
        embeddings: (N, D), any length but 0.
        template: (N,) each image's template, integers or names.
        media: (N,) each image's medium, integers or names; counted within a template. None: every
            image is a medium of its own.
        weighting: one of `WEIGHTINGS`.
        detector_score: (N,) at least 0, for the weightings by detector only.

    Returns:
        The templates, sorted by id.

    Raises:
        ValueError: arguments that do not fit, an embedding of length 0 or a score below 0 or either
            not finite (with its row), or a template whose images cancel out.

    Example:
        >>> faces = [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]  # a still, and two frames of a video
        >>> pool_templates(faces, [7, 7, 7], [1, 2, 2]).embeddings.round(3).tolist()
        [[0.7070000171661377, 0.7070000171661377]]
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
    values, length = check_embeddings(embeddings, "embeddings")
    number = len(values)
    of_image = check_labels(template, "template", number, names=True)
    ids, owner = np.unique(of_image, return_inverse=True)
    medium = np.arange(number)
    if media is not None:
        marks = check_labels(media, "media", number, names=True)
        medium = np.unique(marks, return_inverse=True)[1]
    factor = _weights(detector_score, number, weighting)
    if "norm" not in weighting:
        factor = factor / length
    order = np.lexsort((medium, owner))
    owner, medium = owner[order], medium[order]
    starts = np.searchsorted(owner, np.arange(ids.size + 1)).astype(np.int64)
    new_medium = np.append(True, (medium[1:] != medium[:-1]) | (owner[1:] != owner[:-1]))
    pooled = np.empty((ids.size, values.shape[1]), dtype=np.float32)
    for first, end in group_blocks(starts, _GATHERED):
        part = slice(starts[first], starts[end])
        rows = values[order[part]] * factor[order[part], None]
        # The mean over each medium's images, and the sum over each template's media.
        media_starts = np.flatnonzero(new_medium[part])
        counts = np.diff(np.append(media_starts, len(rows)))
        means = np.add.reduceat(rows, media_starts, axis=0) / counts[:, None]
        of_template = np.searchsorted(media_starts, starts[first:end] - starts[first])
        sums = np.add.reduceat(means, of_template, axis=0)
        size = np.linalg.norm(sums, axis=1)
        # Far above rounding, far below what any two faces leave.
        weighted = length[order[part]] * factor[order[part]]
        reach = np.maximum.reduceat(weighted, starts[first:end] - part.start)
        gone = np.flatnonzero(~(size > 1e-6 * reach))
        if gone.size:
            raise ValueError(
                f"template {ids[first + gone[0]]!s}: its weighted images add up to nothing"
            )
        pooled[first:end] = sums / size[:, None]
    return Templates(
        ids,
        pooled,
        np.diff(starts),
        np.diff(np.append(0, np.cumsum(new_medium))[starts]).astype(np.int64),
        weighting,
    )


def locate(ids: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> tuple[IntArray, BoolArray]:
    """Return where sorted `ids` hold each of `wanted`, and whether they do."""
    if (ids.dtype.kind == "U") != (wanted.dtype.kind == "U"):
        return np.zeros(wanted.shape, dtype=np.int64), np.zeros(wanted.shape, dtype=np.bool_)
    if ids.dtype.kind in "iu" and int(ids[-1]) - int(ids[0]) < _TABLE:
        # One look into a table, where tens of millions of bisections would take as many seconds.
        table = np.full(int(ids[-1]) - int(ids[0]) + 1, -1, dtype=np.int64)
        table[ids - ids[0]] = np.arange(ids.size)
        inside = (wanted >= ids[0]) & (wanted <= ids[-1])
        rows = table[np.where(inside, wanted, ids[0]) - ids[0]]
        return rows, inside & (rows >= 0)
    rows = np.minimum(np.searchsorted(ids, wanted), ids.size - 1).astype(np.int64)
    return rows, np.asarray(ids[rows] == wanted, dtype=np.bool_)


def _weights(scores: npt.ArrayLike | None, number: int, weighting: str) -> FloatArray:
    if "detector" not in weighting:
        if scores is not None:
            raise ValueError(f"detector_score must be None for the weighting {weighting!r}")
        return np.ones(number)
    if scores is None:
        raise ValueError(f"detector_score must be given for the weighting {weighting!r}, got None")
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (number,):
        raise ValueError(f"detector_score must have shape ({number},), got {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise ValueError(
            f"detector_score must be finite and at least 0, got {values[bad[0]]} in row {bad[0]}"
        )
    return values


def template_pair_scores(
    embeddings: npt.ArrayLike, index_a: npt.ArrayLike, index_b: npt.ArrayLike
) -> Float32Array:
    """Return the cosine of each pair of templates, in float32.

    Pairs are taken in runs of the first template. Where a run holds much of what its templates
    and all others could form, one matrix product scores them; where it holds little, the pairs
    are gathered. Both are sums of D float32 products. Memory beyond the arguments: a float32 copy
    of the embeddings, 12 bytes a pair, the result included, and some 100 MB.

    Args:
        embeddings: (T, D) any length but 0.
        index_a: (P,) row of each pair's first template.
        index_b: (P,) row of the second.

    Returns:
        (P,) float32, higher is more alike.

    Raises:
        ValueError: shapes that do not fit, an embedding of length 0 or not finite, or a row that
            is not there, with its pair.

    Example:
        >>> template_pair_scores([[3.0, 0.0], [0.0, 2.0]], [0, 0, 1], [0, 1, 1]).tolist()
        [1.0, 0.0, 1.0]
    """
    values, length = check_embeddings(embeddings, "embeddings")
    unit = (values / length[:, None].astype(np.float32)).astype(np.float32)
    first, second = (
        _rows(rows, len(unit), name) for rows, name in ((index_a, "a"), (index_b, "b"))
    )
    if first.shape != second.shape:
        raise ValueError(
            f"index_a and index_b must have one shape, got {first.shape} and {second.shape}"
        )
    scores = np.empty(first.size, dtype=np.float32)
    # Small numbers are sorted by counting; a list that is sorted already stays so.
    block_of = (first // _TEMPLATES).astype(np.uint16 if len(unit) < 1 << 24 else np.int64)
    order = np.argsort(block_of, kind="stable")
    counts = np.bincount(block_of)
    del block_of
    ends = np.cumsum(counts)
    for block in np.flatnonzero(counts):
        pairs = order[ends[block] - counts[block] : ends[block]]
        a, b = first[pairs] - block * _TEMPLATES, second[pairs]
        rows = unit[block * _TEMPLATES : (block + 1) * _TEMPLATES]
        scores[pairs] = _products(rows, unit, a, b)
    return np.clip(scores, -1.0, 1.0, out=scores)


def _rows(rows: npt.ArrayLike, count: int, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = np.asarray(rows)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        raise ValueError(
            f"index_{name} must be integers of shape (P,), got {values.dtype} {values.shape}"
        )
    if values.size and (values.min() < 0 or values.max() >= count):
        bad = int(np.argmax((values < 0) | (values >= count)))
        raise ValueError(f"index_{name} must be in [0, {count}), got {values[bad]} in pair {bad}")
    return values.astype(np.int64) if not values.size else values


def _products(
    rows: Float32Array, unit: Float32Array, a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> Float32Array:
    scores = np.empty(a.size, dtype=np.float32)
    if a.size * _GATHERING < len(rows) * len(unit):
        for part in row_blocks(a.size, _PAIRS):
            np.einsum("pd,pd->p", rows[a[part]], unit[b[part]], out=scores[part])
        return scores
    if len(unit) <= _OTHERS:
        return np.asarray((rows @ unit.T)[a, b], dtype=np.float32)
    for part in row_blocks(len(unit), _OTHERS):
        inside = np.flatnonzero((b >= part.start) & (b < part.stop))
        scores[inside] = (rows @ unit[part].T)[a[inside], b[inside] - part.start]
    return scores


def search_templates(
    templates: Templates,
    galleries: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    probes: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    top_others: bool = False,
) -> list[GallerySearch]:
    """Search every gallery for every probe, as IJB-B and IJB-C do in their mixed 1:N protocol.

    A probe is mated in the gallery that holds its subject and a stranger to all others;
    `centerarc.evaluation.evaluate_identification` takes the mean over them.

    Args:
        templates: all templates.
        galleries: ids and subjects of each gallery's templates, as of
            `centerarc.evaluation.files.templates.read_ijb_subjects`.
        probes: the same of the probes.
        top_others: as of `centerarc.evaluation.search_gallery`.

    Raises:
        ValueError: no gallery, a template that there is not, or subjects that do not fit.
    """
    if not galleries:
        raise ValueError("galleries must hold at least one gallery")
    wanted = templates.embeddings[templates.rows(probes[0])]
    return [
        search_gallery(
            templates.embeddings[templates.rows(ids)],
            *(subjects, wanted, probes[1]),
            top_others=top_others,
        )
        for ids, subjects in galleries
    ]
