"""Verification of the pairs of a file, by a model or from embeddings."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.files.pair_set import (
    PairImages,
    PairSet,
    open_pair_set,
    read_named_pairs,
)
from centerarc.evaluation.files.pairs import Pairs, check_both_kinds
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    JudgedImages,
    Settings,
    Sides,
    chosen_groups,
    judge_pairs,
    pictures_of,
    separability_of,
)
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject


def evaluate_pairs(
    subject: Subject,
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    folds: Iterable[int] | None = None,
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
        settings: How to judge.
        progress: Called with the stage, the steps done and all of them.

    Returns:
        The result.

    Raises:
        ValueError: If the file is broken, an image or a column is missing, or settings do not
            fit; the message names file and line or entry.
        OSError: If a file cannot be read.
    """
    chosen = Settings() if settings is None else settings
    wanted = None if folds is None else list(folds)
    by_name = isinstance(subject, EmbeddingsSubject) and images is None
    pairs: PairSet | Pairs
    if Path(path).suffix.lower() != ".bin":
        pairs = read_named_pairs(path, wanted)
    elif by_name:
        raise ValueError(
            f"the images of {str(path)!r} have no names to find embeddings by; give a model"
        )
    else:
        pairs = open_pair_set(path, images=images, folds=wanted, image_size=subject.image_size)
    # Before the work: a wrong list or name should not cost minutes.
    check_both_kinds(pairs.same, str(path))
    groups = chosen_groups(pairs.columns, chosen.by, str(path))
    index = pairs.index_a, pairs.index_b
    if isinstance(subject, EmbeddingsSubject) and isinstance(pairs, Pairs) and by_name:
        judged, index = _looked_up(subject, pairs)
    else:
        if isinstance(pairs, Pairs):
            pairs = PairImages(pairs, images, image_size=subject.image_size)
        judged = JudgedImages(
            subject.embed(pairs, progress),
            None if pairs.people is None else pairs.labels,
            list(pairs.identities),
            [pairs.place(number) for number in range(len(pairs))],
            pictures_of(partial(open_pair_set, path, images=images, folds=wanted)),
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
        },
        dataset=_dataset(path, wanted),
        images=judged,
        verification=verified,
        separability=separability_of(judged, chosen),
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
