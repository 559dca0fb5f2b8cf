"""The scores of an evaluation as plain arrays, and back from a file."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.identification.gallery_search import PERSON_SCORES, GallerySearch
from centerarc.evaluation.protocols.outcome import Identified, Sides, Verified
from centerarc.evaluation.scores import (
    BoolArray,
    IntArray,
    ScoreArray,
    check_folds,
    check_scores_as_given,
)

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class StoredPairs:
    """Scored pairs from a file; as in :class:`centerarc.evaluation.protocols.outcome.Verified`.

    Attributes:
        scores: (P,) cosine of each pair.
        same: (P,) whether it is genuine.
        fold: (P,) its fold; None where there are none.
        people: first and second person of each pair; None where unknown.
        digest: of which images the pairs are.
    """

    scores: ScoreArray
    same: BoolArray
    fold: IntArray | None
    people: Sides | None
    digest: str


def pair_arrays(verified: Verified) -> Arrays:
    """The scored pairs of an evaluation as arrays by name."""
    arrays: Arrays = {"scores": verified.scores, "same": verified.same}
    if verified.fold is not None:
        arrays["fold"] = verified.fold
    if verified.people is not None:
        people, numbers = np.unique(np.stack(verified.people), return_inverse=True)
        first, second = numbers.reshape(2, -1).astype(np.int32)
        names = np.asarray(people).astype(np.str_)
        arrays |= {"person_a": first, "person_b": second, "people": names}
    return arrays


def search_arrays(identified: Identified) -> Arrays:
    """The searches of an evaluation as arrays by name."""
    return {
        f"search{number}_{name}": np.asarray(getattr(search, name))
        for number, search in enumerate(identified.searches)
        for name in GallerySearch.__dataclass_fields__
    }


def pack(arrays: Arrays) -> tuple[bytes, str]:
    """Make an .npz file of arrays, and its SHA-256; equal arrays give equal files."""
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    content = packed.getvalue()
    return content, hashlib.sha256(content).hexdigest()


def unpack(path: Path, digest: str) -> Arrays | None:
    """Read the arrays of an .npz file, if it is the very file with this SHA-256.

    Returns:
        The arrays; None where the file is another one.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            return None
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def pairs_of(arrays: Arrays, digest: str) -> StoredPairs | None:
    """The scored pairs that :func:`pair_arrays` made arrays of; None where there are none.

    Raises:
        ValueError: they are not what it makes.
    """
    if "scores" not in arrays:
        return None
    scores, same = check_scores_as_given(arrays["scores"], arrays["same"])
    fold = check_folds(arrays["fold"], scores.size) if "fold" in arrays else None
    people = None
    if "people" in arrays:
        people = arrays["person_a"], arrays["person_b"]
        for side in people:
            if side.shape != scores.shape:
                raise ValueError(f"people must have shape {scores.shape}, got {side.shape}")
    return StoredPairs(scores, same, fold, people, digest)


def searches_of(arrays: Arrays) -> list[GallerySearch]:
    """The searches that :func:`search_arrays` made arrays of; empty where there are none.

    Raises:
        ValueError: they are not what it makes.
    """
    searches: list[GallerySearch] = []
    while f"search{len(searches)}_rank" in arrays:
        prefix = f"search{len(searches)}_"
        values: dict[str, Any] = {
            name: arrays[prefix + name] for name in GallerySearch.__dataclass_fields__
        }
        values["gallery_images"] = int(values["gallery_images"])
        values["person_score"] = str(values["person_score"])
        if values["person_score"] not in PERSON_SCORES:
            raise ValueError(f"person_score is {values['person_score']!r}")
        search = GallerySearch(**values)
        for name in ("mated", "rank", "mate_score", "other_score", "other_person"):
            if values[name].shape != search.probe_labels.shape:
                raise ValueError(
                    f"{name} must have shape {search.probe_labels.shape}, got {values[name].shape}"
                )
        searches.append(search)
    return searches
