"""Identification of the images of one source among those of another."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data.sources import open_source
from centerarc.evaluation.embedding import Embeddings, read_embeddings
from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    JudgedImages,
    Picture,
    SearchSettings,
    Settings,
    judge_searches,
    pictures_of,
    separability_of,
    shared_note,
)
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.scores import IntArray


def evaluate_galleries(
    subject: Subject | None,
    gallery: str | os.PathLike[str],
    probes: str | os.PathLike[str],
    *,
    distractors: str | os.PathLike[str] | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Look every probe up in a gallery.

    A person has the same name in the gallery and among the probes. People of the distractors are
    nobody else, whatever their names.

    Args:
        subject: a model, or embeddings whose places are those of the sources; None where all
            three are files of embeddings.
        gallery: images of the people who are known: any source, or a file of embeddings.
        probes: images to look up, of the same kinds.
        distractors: images of further people in the gallery whom no probe is of.
        settings: how to judge.
        progress: called with the stage, the steps done and all of them.

    Returns:
        The result.

    Raises:
        ValueError: a source or file is broken, no subject where one is needed, embeddings of
            different sizes or models, or nobody's mate in the gallery.
        OSError: a file cannot be read.
    """
    chosen = SearchSettings() if settings is None else settings
    paths = {"gallery": Path(gallery), "probes": Path(probes)}
    if distractors is not None:
        paths["distractors"] = Path(distractors)
    parts = {name: _embedded(name, path, subject, progress) for name, path in paths.items()}
    _check_alike(parts)
    people, labels = _numbered(parts)
    known = [name for name in ("gallery", "distractors") if name in parts]
    search = search_gallery(
        np.concatenate([parts[name].embedding for name in known]),
        np.concatenate([labels[name] for name in known]),
        parts["probes"].embedding,
        labels["probes"],
        person_score=chosen.person_score,
    )
    if not search.mated.any():
        raise ValueError(
            f"nobody of {str(probes)!r} is in {str(gallery)!r}: people must have the same name in "
            f"both; probes have {parts['probes'].identities[0]!r}, the gallery "
            f"{parts['gallery'].identities[0]!r}"
        )
    judged = JudgedImages(
        np.concatenate([parts[name].embedding for name in ("gallery", "probes")]),
        np.concatenate([labels[name] for name in ("gallery", "probes")]),
        people,
        [*parts["gallery"].places, *parts["probes"].places],
        _pictures(parts["gallery"], parts["probes"]),
    )
    facts = [part.model for part in parts.values() if part.model]
    return Evaluation(
        model=subject.facts() if subject is not None else facts[0],
        data={
            "protocol": "identification of probes in a gallery",
            **{name: str(path) for name, path in paths.items()},
            **{f"{name}_images": len(part.places) for name, part in parts.items()},
        },
        dataset=f"{paths['probes'].name} in {' and '.join(paths[name].name for name in known)}",
        images=judged,
        identification=judge_searches([search], chosen),
        separability=separability_of(judged, Settings(resamples=chosen.resamples)),
        notes=(*_shared(parts), *(note for part in parts.values() for note in part.notes)),
    )


def is_embedding_file(path: Path) -> bool:
    """Whether a file is one of embeddings, by its name and, of Parquet, by its columns."""
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return True
    if suffix != ".parquet" or not path.is_file():
        return False
    from centerarc.evaluation.embedding import EMBEDDING, require_parquet_extra

    require_parquet_extra()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return EMBEDDING in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return True  # whoever reads it says what is wrong


@dataclass(frozen=True, eq=False)
class _Part:
    """The embeddings of a gallery, of probes or of distractors."""

    path: Path
    embedding: npt.NDArray[np.float32]
    identities: list[str]
    places: list[str]
    picture: Picture | None
    model: dict[str, object]
    notes: tuple[str, ...]


def _embedded(
    name: str,
    path: Path,
    subject: Subject | None,
    progress: Progress | None,
) -> _Part:
    if is_embedding_file(path):
        found: Embeddings = read_embeddings(path)
        given = EmbeddingsSubject(path, found)
        facts = given.facts()
        return _Part(path, found.embedding, found.identities, found.places, None, facts, ())
    if subject is None:
        raise ValueError(f"{name} is {str(path)!r}, which holds images: give a model")
    opening = None if progress is None else partial(progress, "opening")
    source = open_source(path, image_size=subject.image_size, progress=opening)
    count = len(source)
    return _Part(
        path,
        subject.embed(source, progress),
        [source.identities[label] for label in source.labels.tolist()],
        [source.place(number) for number in range(count)],
        pictures_of(partial(open_source, path)),
        subject.facts(),
        tuple(f"{path}: {problem}" for problem in source.problems),
    )


def _check_alike(parts: dict[str, _Part]) -> None:
    first, *others = parts.values()
    for part in others:
        a, b = first.embedding.shape[1], part.embedding.shape[1]
        if a != b:
            raise ValueError(
                f"embeddings of {str(first.path)!r} have {a} numbers, those of "
                f"{str(part.path)!r} {b}: one model must make both"
            )
        made_by = _digests(first), _digests(part)
        other_model = all(made_by) and not made_by[0] & made_by[1]
        different = ["models"] if other_model else []
        for fact, words in (("mirror", "mirror sums"), ("preprocessing", "preprocessing")):
            known = [piece.model[fact] for piece in (first, part) if fact in piece.model]
            if len(known) == 2 and known[0] != known[1]:
                different.append(words)
        if different:
            raise ValueError(
                f"embeddings of {str(first.path)!r} and {str(part.path)!r} are of different "
                f"{different[0]}"
            )


def _digests(part: _Part) -> set[object]:
    """What tells the model of a part; empty for files of others, which do not say it."""
    names = ("sha256", "model", "weights_sha256")
    return {part.model[name] for name in names if part.model.get(name)}


def _shared(parts: dict[str, _Part]) -> tuple[str, ...]:
    """A note on probes that are looked up among themselves."""
    asked = parts["probes"]
    found = np.zeros(len(asked.places), dtype=np.bool_)
    for name, part in parts.items():
        if name == "probes":
            continue
        row_of = {place: row for row, place in enumerate(part.places)}
        rows = np.array([row_of.get(place, -1) for place in asked.places], dtype=np.int64)
        both = np.flatnonzero(rows >= 0)
        # The same name in another folder may be another picture; a model tells.
        first, second = asked.embedding[both], part.embedding[rows[both]]
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        found[both] |= np.einsum("nd,nd->n", first, second) > (1 - 1e-6) * lengths
    return shared_note(int(found.sum()), found.size)


def _numbered(parts: dict[str, _Part]) -> tuple[list[str], dict[str, IntArray]]:
    """Names of all people, and the number of each image's person."""
    number_of: dict[tuple[bool, str], int] = {}
    labels = {}
    for name, part in parts.items():
        # A distractor who happens to share a name is somebody else.
        keys = [(name == "distractors", identity) for identity in part.identities]
        numbers = [number_of.setdefault(key, len(number_of)) for key in keys]
        labels[name] = np.array(numbers, dtype=np.int64)
    return [identity for _, identity in number_of], labels


def _pictures(gallery: _Part, probes: _Part) -> Picture | None:
    first, second, count = gallery.picture, probes.picture, len(gallery.places)
    if first is None or second is None:
        return None
    return lambda index: first(index) if index < count else second(index - count)
