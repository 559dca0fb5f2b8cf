"""An evaluation in two files: JSON with every number, and the scores that they were made of."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.files import atomic_path
from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.protocols.outcome import FORMAT, Evaluation, Identified, Sides, Verified
from centerarc.evaluation.scores import BoolArray, IntArray, ScoreArray

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class StoredPairs:
    """Scored pairs from a file; as in :class:`centerarc.evaluation.protocols.outcome.Verified`."""

    scores: ScoreArray
    same: BoolArray
    fold: IntArray | None
    people: Sides | None
    digest: str


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """An evaluation from its files.

    Attributes:
        path: of the JSON file.
        content: what is in it.
        pairs: the scored pairs, where there are some.
        searches: the searches; empty where there are none.
        probes_digest: of the probes and who they are of.
    """

    path: Path
    content: dict[str, Any]
    pairs: StoredPairs | None
    searches: list[GallerySearch]
    probes_digest: str


def scores_path(path: str | os.PathLike[str]) -> Path:
    """The file of scores beside a JSON file: ``out.json`` has ``out.scores.npz``."""
    return Path(path).with_suffix(".scores.npz")


def check_place(path: str | os.PathLike[str]) -> None:
    """See before long work that its result can be written.

    Raises:
        ValueError: the path is a folder, or its folder is a file.
    """
    place = Path(path)
    if place.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; it must name a file")
    if place.parent.exists() and not place.parent.is_dir():
        raise ValueError(f"{str(place.parent)!r} is no folder; {place.name!r} cannot be in it")


def write_evaluation(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write an evaluation as JSON, and its scores beside it.

    Args:
        path: the JSON file.
        evaluation: the result.

    Raises:
        OSError: a file cannot be written; a JSON file always has its scores.
    """
    arrays: Arrays = {}
    content = evaluation.to_dict()
    if evaluation.verification is not None:
        arrays |= _pair_arrays(evaluation.verification)
        content["pairs_sha256"] = _pairs_digest(evaluation)
    if evaluation.identification is not None:
        arrays |= _search_arrays(evaluation.identification)
        content["probes_sha256"] = _probes_digest(evaluation)
    scores = scores_path(path)
    content["scores"] = scores.name
    # An old JSON file must not be left with new scores, nor the other way round.
    Path(path).unlink(missing_ok=True)
    with atomic_path(scores) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    with atomic_path(path) as temporary:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_evaluation(path: str | os.PathLike[str]) -> StoredEvaluation:
    """Read an evaluation that :func:`write_evaluation` wrote.

    Raises:
        ValueError: it is none, or the scores are missing or damaged; the message names the file.
        OSError: a file cannot be read.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"cannot read {str(file)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{str(file)!r} is not what centerarc evaluate --json writes ({FORMAT!r})")
    scores = file.with_name(Path(str(content.get("scores"))).name)
    try:
        with np.load(scores, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        pairs = _pairs(arrays, str(content["pairs_sha256"])) if "scores" in arrays else None
        searches = _searches(arrays)
    except FileNotFoundError:
        raise ValueError(
            f"{str(file)!r} needs its scores {scores.name!r} beside it, which are not there"
        ) from None
    except Exception as error:  # a damaged zip file can fail in any way
        raise ValueError(f"cannot read {str(scores)!r}: {error}") from error
    return StoredEvaluation(file, content, pairs, searches, str(content.get("probes_sha256")))


def _pair_arrays(verified: Verified) -> Arrays:
    arrays: Arrays = {"scores": verified.scores, "same": verified.same}
    if verified.fold is not None:
        arrays["fold"] = verified.fold
    if verified.people is not None:
        people, numbers = np.unique(np.stack(verified.people), return_inverse=True)
        first, second = numbers.reshape(2, -1).astype(np.int32)
        arrays |= {"person_a": first, "person_b": second, "people": _texts(people)}
    return arrays


def _pairs(arrays: Arrays, digest: str) -> StoredPairs:
    people = None
    if "people" in arrays:
        people = arrays["person_a"], arrays["person_b"]
    return StoredPairs(arrays["scores"], arrays["same"], arrays.get("fold"), people, digest)


def _search_arrays(identified: Identified) -> Arrays:
    arrays: Arrays = {}
    for number, search in enumerate(identified.searches):
        arrays |= {
            f"search{number}_{name}": np.asarray(getattr(search, name))
            for name in GallerySearch.__dataclass_fields__
        }
    return arrays


def _searches(arrays: Arrays) -> list[GallerySearch]:
    searches: list[GallerySearch] = []
    while f"search{len(searches)}_rank" in arrays:
        prefix = f"search{len(searches)}_"
        values: dict[str, Any] = {
            name: arrays[prefix + name] for name in GallerySearch.__dataclass_fields__
        }
        values["gallery_images"] = int(values["gallery_images"])
        values["person_score"] = str(values["person_score"])
        searches.append(GallerySearch(**values))
    return searches


def _pairs_digest(evaluation: Evaluation) -> str:
    """Of which images the pairs are, and in which order."""
    verified = evaluation.verification
    assert verified is not None
    digest = hashlib.sha256()
    # By name, since a model and a file of embeddings number their images each in its own way.
    places = evaluation.images.places
    used = np.unique(np.concatenate([np.unique(side) for side in verified.index]))
    order = sorted(used.tolist(), key=places.__getitem__)
    _add_texts(digest, [places[number] for number in order])
    rank = np.zeros(len(places), dtype="<i8")
    rank[order] = np.arange(len(order))
    for side in verified.index:
        digest.update(rank[side].tobytes())
    digest.update(np.packbits(verified.same).tobytes())
    if verified.fold is not None:
        digest.update(np.ascontiguousarray(verified.fold).astype("<i8").tobytes())
    return digest.hexdigest()


def _probes_digest(evaluation: Evaluation) -> str:
    """Of which images there are, and whose they are."""
    identified = evaluation.identification
    assert identified is not None
    digest = hashlib.sha256()
    _add_texts(digest, evaluation.images.places)
    for search in identified.searches:
        _add_texts(digest, [str(label) for label in search.probe_labels.tolist()])
        digest.update(np.ascontiguousarray(search.mated).tobytes())
    return digest.hexdigest()


def _add_texts(digest: Any, texts: Sequence[str]) -> None:
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")


def _texts(values: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    return np.asarray(values).astype(np.str_)
