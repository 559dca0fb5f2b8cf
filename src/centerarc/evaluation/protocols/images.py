"""Protocols on single images: pairs of them verified, probes looked up in a gallery."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data.source import namesakes, one_list, open_source
from centerarc.evaluation.embedding import is_embedding_file, pair_scores
from centerarc.evaluation.files.pair_set import (
    Missing,
    PairImages,
    PairSet,
    open_pair_set,
    read_named_pairs,
)
from centerarc.evaluation.files.pairs import Pairs, check_both_kinds
from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    JudgedImages,
    Picture,
    SearchSettings,
    Settings,
    Sides,
    chosen_groups,
    judge_pairs,
    judge_searches,
    pictures_of,
    separability_of,
    shared_note,
)
from centerarc.evaluation.protocols.subject import (
    EmbeddingsSubject,
    Progress,
    Subject,
    opened_embeddings,
)
from centerarc.evaluation.scores import IntArray
from centerarc.io.tables import counted


def evaluate_pairs(
    subject: Subject,
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    folds: Iterable[int] | None = None,
    missing: Missing = "error",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Verifies the pairs of a file.

    Args:
        subject: A model, or embeddings whose places are the names of the images. `pairs.txt`
            names a person and a number: `Ann_Lee/Ann_Lee_0001` with any ending.
        path: Pairs in any format of `centerarc.evaluation.files.open_pair_set`.
        images: Folder of the images, as there; embeddings need none, but then the page has no
            pictures.
        folds: Folds to keep; None keeps all.
        missing: "skip" leaves out pairs of which an image or embedding is not there.
        settings: How to judge.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If the file is broken, an image or a column is missing, or settings do not
            fit; the message names file and line or entry.
        OSError: If a file cannot be read.
    """
    chosen = Settings() if settings is None else settings
    wanted = None if folds is None else list(folds)
    by_name = isinstance(subject, EmbeddingsSubject) and images is None
    pairs: PairSet | Pairs
    notes: list[str] = []
    if Path(path).suffix.lower() != ".bin":
        pairs = read_named_pairs(path, wanted)
        # Before the work: a wrong list or name should not cost minutes.
        check_both_kinds(pairs.same, str(path))
    elif by_name:
        raise ValueError(
            f"the images of {str(path)!r} have no names to find embeddings by; give a model"
        )
    else:
        pairs = open_pair_set(
            path, images=images, folds=wanted, image_size=subject.image_size, missing=missing
        )
    listed = len(pairs.same)
    if isinstance(pairs, Pairs) and not by_name:
        pairs = PairImages(pairs, images, image_size=subject.image_size, missing=missing)
        notes += pairs.notes
    elif isinstance(pairs, Pairs) and isinstance(subject, EmbeddingsSubject):
        absent = pairs.absent(subject.found.places) if missing == "skip" else []
        if absent:
            pairs, note = pairs.without(absent, f"are not in {subject.path}")
            notes.append(note)
    check_both_kinds(pairs.same, str(path))
    groups = chosen_groups(pairs.columns, chosen.by, str(path))
    index = pairs.index_a, pairs.index_b
    if isinstance(subject, EmbeddingsSubject) and isinstance(pairs, Pairs):
        judged, index = _looked_up(subject, pairs)
    else:
        assert not isinstance(pairs, Pairs)
        again = partial(open_pair_set, path, images=images, folds=wanted, missing=missing)
        judged = JudgedImages(
            subject.embed(pairs, progress),
            None if pairs.people is None else pairs.labels,
            list(pairs.identities),
            [pairs.place(number) for number in range(len(pairs))],
            pictures_of(again),
        )
    verified = judge_pairs(
        pair_scores(judged.embedding, *index),
        pairs.same,
        pairs.fold,
        pairs.people,
        pairs.people_note,
        index,
        groups,
        chosen,
    )
    return Evaluation(
        model=subject.facts(),
        data={
            "protocol": "verification of pairs of images",
            "pairs": str(path),
            "images": None if images is None else str(images),
            "folds": np.unique(pairs.fold).tolist(),
            "distinct_images": len(judged.places),
            **({"left_out_pairs": listed - len(pairs.same)} if missing == "skip" else {}),
        },
        dataset=_dataset(path, wanted),
        images=judged,
        verification=verified,
        separability=separability_of(judged, chosen),
        notes=tuple(notes),
    )


def _looked_up(subject: EmbeddingsSubject, pairs: Pairs) -> tuple[JudgedImages, Sides]:
    """The embeddings that pairs are of, and the pairs as numbers of them."""
    sides = np.stack(pairs.among(subject.found.places, f"are not in {subject.path}"))
    rows, number = np.unique(sides, return_inverse=True)
    index_a, index_b = number.reshape(2, -1).astype(np.int64)
    labels, identities = None, []
    if pairs.people is not None:
        names, codes = np.unique(np.stack(pairs.people), return_inverse=True)
        labels = np.empty(rows.size, dtype=np.int64)
        labels[index_a], labels[index_b] = codes.reshape(2, -1)
        identities = names.tolist()
    places = [subject.found.places[row] for row in rows.tolist()]
    judged = JudgedImages(subject.found.embedding[rows], labels, identities, places, None)
    return judged, (index_a, index_b)


def _dataset(path: str | os.PathLike[str], folds: list[int] | None) -> str:
    name = Path(path).name
    if not folds:
        return name
    if len(folds) == 1:
        return f"{name}, fold {folds[0]}"
    return f"{name}, folds {', '.join(map(str, folds[:-1]))} and {folds[-1]}"


def evaluate_galleries(
    subject: Subject | None,
    gallery: str | os.PathLike[str],
    probes: str | os.PathLike[str],
    *,
    distractors: str | os.PathLike[str] | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Looks every probe up in a gallery.

    A person has the same name in the gallery and among the probes. People of the distractors are
    others, whatever their names.

    Args:
        subject: A model, or embeddings whose places are those of the sources; None where all
            three are files of embeddings.
        gallery: Images of the people who are known: any source, or a file of embeddings.
        probes: Images to look up, of the same kinds.
        distractors: Images of further people in the gallery, without probes.
        settings: How to judge.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If a source or file is broken, no subject is given where one is needed,
            embeddings are of different sizes or models, or no probe is of a known person.
        OSError: If a file cannot be read.
    """
    chosen = SearchSettings() if settings is None else settings
    paths = {"gallery": Path(gallery), "probes": Path(probes)}
    if distractors is not None:
        paths["distractors"] = Path(distractors)
    parts = {name: _embedded(name, path, subject, progress) for name, path in paths.items()}
    _check_alike(parts)
    people = _people(parts)
    labels = people.labels
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
            f"no one of {str(probes)!r} is in {str(gallery)!r}: people must have the same name in "
            f"both; probes have {parts['probes'].identities[0]!r}, the gallery "
            f"{parts['gallery'].identities[0]!r}"
        )
    judged = JudgedImages(
        np.concatenate([parts[name].embedding for name in ("gallery", "probes")]),
        np.concatenate([labels[name] for name in ("gallery", "probes")]),
        people.names,
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
            **({"names_alike": people.alike} if people.alike else {}),
        },
        dataset=f"{paths['probes'].name} in {' and '.join(paths[name].name for name in known)}",
        images=judged,
        identification=judge_searches([search], chosen),
        separability=separability_of(judged, Settings(resamples=chosen.resamples)),
        notes=(
            *_shared(parts),
            *people.notes,
            *(note for part in parts.values() for note in part.notes),
        ),
    )


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


def _embedded(name: str, path: Path, subject: Subject | None, progress: Progress | None) -> _Part:
    if is_embedding_file(path):
        given = opened_embeddings(path)
        found = given.found
        return _Part(path, found.embedding, found.identities, found.places, None, given.facts(), ())
    if subject is None:
        raise ValueError(f"{name} is {str(path)!r}, which holds images: give a model")
    opening = None if progress is None else partial(progress, "opening")
    source = open_source(path, image_size=subject.image_size, progress=opening)
    missed = any(item.images for item in source.skipped)
    problems = [source.summary()] if missed else source.problems
    return _Part(
        path,
        subject.embed(source, progress),
        [source.identities[label] for label in source.labels.tolist()],
        [source.place(number) for number in range(len(source))],
        pictures_of(partial(open_source, path)),
        subject.facts(),
        tuple(f"{path}: {problem}" for problem in problems),
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
        origins = [
            p.model.get("origin_sha256", p.model.get("weights_sha256")) for p in (first, part)
        ]
        changed = "models: one was quantized or changed after it was made of the same weights"
        different = []
        if other_model:
            different.append(changed if origins[0] == origins[1] is not None else "models")
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


@dataclass(frozen=True, eq=False)
class _People:
    """Everyone: names, the number of each image's person by part, notes without names, and which
    names of two parts are alike."""

    names: list[str]
    labels: dict[str, IntArray]
    notes: list[str]
    alike: dict[str, object]


def _people(parts: dict[str, _Part]) -> _People:
    sides = ("gallery", "probes")
    known = one_list(*(parts[name].identities for name in sides))
    labels = dict(zip(sides, known.numbers, strict=True))
    names, notes = known.names, known.notes()
    alike: dict[str, object] = {}
    if known.by_case:
        alike["taken_for_one"] = known.by_case
    if (others := parts.get("distractors")) is not None:
        # A distractor who happens to share a name is somebody else.
        strangers = one_list(others.identities)
        labels["distractors"] = len(names) + strangers.numbers[0]
        names = [*names, *strangers.names]
        if same := namesakes(strangers.names, known.names):
            alike["distractors"] = same
            many = counted(len(same), "person", "people")
            notes.append(
                f"{many} of the distractors {'has' if len(same) == 1 else 'have'} the name of "
                "somebody in the gallery or among the probes and count as others: if they are the "
                "same people, ranks are worse than they should be (--json has the names)"
            )
    return _People(names, labels, notes, alike)


def _pictures(gallery: _Part, probes: _Part) -> Picture | None:
    first, second, count = gallery.picture, probes.picture, len(gallery.places)
    if first is None or second is None:
        return None
    return lambda index: first(index) if index < count else second(index - count)
