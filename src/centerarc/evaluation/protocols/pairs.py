"""Verification of the pairs of a file, by a model or from embeddings."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.files.lfw_pairs import Pairs, read_pairs
from centerarc.evaluation.files.pair_list import read_pair_list
from centerarc.evaluation.files.pair_set import PairSet, open_pair_set
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    JudgedImages,
    Settings,
    chosen_groups,
    judge_pairs,
    pictures_of,
)
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray
from centerarc.evaluation.separability import Separability, measure_separability

_SHOWN = 3


def evaluate_pairs(
    subject: Subject,
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    folds: Iterable[int] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Verify the pairs of a file.

    Args:
        subject: a model, or embeddings whose places are the names of the images.
        path: pairs in any format of :func:`centerarc.evaluation.files.pair_set.open_pair_set`.
        images: folder of the images, as there; embeddings need none, but then the page has no
            pictures.
        folds: folds to keep; None keeps all.
        settings: how to judge.
        progress: called with the stage, the steps done and all of them.

    Returns:
        The result.

    Raises:
        ValueError: the file is broken, an image or a column is missing, or settings do not fit;
            the message names file and line or entry.
        OSError: a file cannot be read.
    """
    chosen = Settings() if settings is None else settings
    wanted = None if folds is None else list(folds)
    by_name = isinstance(subject, EmbeddingsSubject) and images is None
    pairs: PairSet | NamedPairs
    if by_name:
        assert isinstance(subject, EmbeddingsSubject)
        pairs = named_pairs(subject, path, wanted)
    else:
        pairs = open_pair_set(path, images=images, folds=wanted, image_size=subject.image_size)
    # Before the work: a wrong name should not cost minutes.
    groups = chosen_groups(pairs.columns, chosen.by, str(path))
    if isinstance(pairs, NamedPairs):
        assert isinstance(subject, EmbeddingsSubject)
        embedding = subject.found.embedding[pairs.rows]
        picture = None
        places = [subject.found.places[row] for row in pairs.rows.tolist()]
    else:
        embedding = subject.embed(pairs, progress)
        picture = pictures_of(partial(open_pair_set, path, images=images, folds=wanted))
        places = [pairs.place(number) for number in range(len(pairs))]
    verified = judge_pairs(
        pair_scores(embedding, pairs.index_a, pairs.index_b),
        pairs.same,
        pairs.fold,
        pairs.people,
        pairs.people_note,
        (pairs.index_a, pairs.index_b),
        groups,
        chosen,
    )
    labels = None if pairs.people is None else pairs.labels
    judged = JudgedImages(embedding, labels, list(pairs.identities), places, picture)
    return Evaluation(
        model=subject.facts(),
        data={
            "protocol": "verification of pairs of images",
            "pairs": str(path),
            "images": None if images is None else str(images),
            "folds": np.unique(pairs.fold).tolist(),
            "distinct_images": len(places),
        },
        dataset=_dataset(path, wanted),
        images=judged,
        verification=verified,
        separability=separability_of(judged, chosen),
    )


def separability_of(images: JudgedImages, settings: Settings) -> Separability | None:
    """How tight and how far apart the people are, where it is known who is on the images.

    None too where there are not two people, or nobody has two images.
    """
    if images.labels is None:
        return None
    sizes = np.unique(images.labels, return_counts=True)[1]
    if sizes.size < 2 or sizes.max() < 2:
        return None
    return measure_separability(
        images.embedding,
        images.labels,
        bootstrap=1000 if settings.resamples is None else settings.resamples,
        seed=settings.seed,
    )


@dataclass(frozen=True, eq=False)
class NamedPairs:
    """Pairs of rows of a file of embeddings, with what a `PairSet` knows of them.

    Attributes:
        rows: (N,) the rows that are used.
        labels: (N,) person of each.
        identities: name of each label.
        index_a, index_b, same, fold, people, people_note, columns: as in `PairSet`; the indices
            are into ``rows``.
    """

    rows: IntArray
    labels: IntArray
    identities: list[str]
    index_a: IntArray
    index_b: IntArray
    same: BoolArray
    fold: IntArray
    people: tuple[StrArray, StrArray] | None
    people_note: str
    columns: dict[str, StrArray]


def named_pairs(
    subject: EmbeddingsSubject, path: str | os.PathLike[str], folds: list[int] | None
) -> NamedPairs:
    """Find the images of pairs among embeddings by name.

    A list names images as the embeddings' places do. ``pairs.txt`` names a person and a number:
    ``Ann_Lee/Ann_Lee_0001`` with any ending.

    Raises:
        ValueError: names that the embeddings lack, with their lines; or a ``.bin``, which has none.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".bin":
        raise ValueError(
            f"the images of {str(path)!r} have no names to find embeddings by; give a model"
        )
    if suffix in (".csv", ".tsv"):
        listed = read_pair_list(path)
        if folds is not None:
            listed = listed.select_folds(folds)
        try:
            a, b = listed.among(subject.found.places)
        except ValueError as error:
            raise ValueError(f"{error} in {subject.path}") from error
        kinds = listed.same, listed.fold
        return _of_rows(a, b, *kinds, listed.people, listed.people_note, listed.columns)
    pairs = read_pairs(path)
    if folds is not None:
        pairs = pairs.select_folds(folds)
    a, b = _numbered(subject, pairs)
    note = "people are those that the pairs file names"
    return _of_rows(a, b, pairs.same, pairs.fold, (pairs.name_a, pairs.name_b), note, {})


def _of_rows(
    a: IntArray,
    b: IntArray,
    same: BoolArray,
    fold: IntArray,
    people: tuple[StrArray, StrArray] | None,
    note: str,
    columns: dict[str, StrArray],
) -> NamedPairs:
    rows, number = np.unique(np.stack([a, b]), return_inverse=True)
    index_a, index_b = number.reshape(2, -1).astype(np.int64)
    labels, identities = np.arange(rows.size), [str(row) for row in rows.tolist()]
    if people is not None:
        names, codes = np.unique(np.stack(people), return_inverse=True)
        labels = np.empty(rows.size, dtype=np.int64)
        labels[index_a], labels[index_b] = codes.reshape(2, -1)
        identities = names.tolist()
    return NamedPairs(
        rows.astype(np.int64),
        labels.astype(np.int64),
        identities,
        index_a,
        index_b,
        same,
        fold,
        people,
        note,
        columns,
    )


def _numbered(subject: EmbeddingsSubject, pairs: Pairs) -> tuple[IntArray, IntArray]:
    """The rows of a ``pairs.txt``, by name and number."""
    row_of: dict[str, int] = {}
    for name, row in subject.row_of.items():
        row_of.setdefault(os.path.splitext(name)[0], row)
    sides = []
    missing: dict[str, int] = {}
    for people, numbers in ((pairs.name_a, pairs.number_a), (pairs.name_b, pairs.number_b)):
        side = np.zeros(len(pairs), dtype=np.int64)
        for at, (name, number) in enumerate(zip(people.tolist(), numbers.tolist(), strict=True)):
            wanted = f"{name}/{name}_{number:04d}"
            found = row_of.get(wanted)
            if found is None:
                line = int(pairs.line[at])
                missing[wanted] = min(line, missing.get(wanted, line))
                continue
            side[at] = found
        sides.append(side)
    if missing:
        first = sorted(missing.items(), key=lambda item: item[1])[:_SHOWN]
        shown = ", ".join(f"{name!r} (line {line})" for name, line in first)
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ValueError(
            f"{pairs.source}: {len(missing)} images are not in {subject.path}: {shown}{more}"
        )
    return sides[0], sides[1]


def _dataset(path: str | os.PathLike[str], folds: list[int] | None) -> str:
    name = Path(path).name
    if not folds:
        return name
    if len(folds) == 1:
        return f"{name}, fold {folds[0]}"
    return f"{name}, folds {', '.join(map(str, folds[:-1]))} and {folds[-1]}"
