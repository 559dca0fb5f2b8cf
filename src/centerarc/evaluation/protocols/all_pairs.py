"""All pairs of the images of some people, as a protocol: from folders to numbers."""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from centerarc.data.source import chosen_people, composed, one_list
from centerarc.evaluation.all_pair_scores import REACH, score_all_pairs
from centerarc.evaluation.all_pairs_report import AllPaired, AllPairsSettings
from centerarc.evaluation.embedding import is_embedding_file
from centerarc.evaluation.files.pair_set import is_bin_set, read_named_pairs
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    JudgedImages,
    dataset_words,
)
from centerarc.evaluation.protocols.parts import JudgedPart, check_one_model, embedded_part
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.same_pictures import SHOWN, number_pictures
from centerarc.evaluation.scores import BoolArray, IntArray

_Path = str | os.PathLike[str]


def evaluate_all_pairs(
    subject: Subject | None,
    path: _Path,
    *,
    pairs: _Path | None = None,
    folds: Iterable[int] | None = None,
    other_side: _Path | None = None,
    settings: AllPairsSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compares all images of some people with each other, each person weighing the same.

    Args:
        subject: A model, or embeddings whose places are those of the source; None where the images
            are files of embeddings.
        path: Images of people: any source, or a file of embeddings.
        pairs: Pairs that name the people to take; None takes everybody.
        folds: Folds of these pairs; None takes all.
        other_side: The same images under the same names in another state, such as degraded; pairs
            are then of an image of `path` and another one of it.
        settings: How to judge.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If a source or file is broken, the pairs name somebody who is not there or do
            not know their people, an image has no other side, there are too few people, or
            settings do not fit.
        OSError: If a file cannot be read.
    """
    chosen = AllPairsSettings() if settings is None else settings
    wanted = None if folds is None else list(folds)
    if wanted is not None and pairs is None:
        raise ValueError("folds needs pairs, whose people are taken")
    if isinstance(subject, EmbeddingsSubject) and other_side and not _are_embeddings(other_side):
        raise ValueError(
            f"other_side must be a file of embeddings as those of {str(subject.path)!r}, which has "
            f"none of the images of {os.fspath(other_side)!r}"
        )
    names = None if pairs is None else _people_of(pairs, wanted)
    choose = partial(_images_of, Path(path), names, str(pairs))
    first = embedded_part("all_pairs", Path(path), subject, progress, choose)
    # Names of one person in two Unicode forms are one person's.
    people = one_list(first.identities)
    other, second = None, None
    if other_side is not None:
        beside = partial(_beside, first, Path(other_side))
        second = embedded_part(
            "other_side", Path(other_side), subject, progress, lambda _, places: beside(places)[0]
        )
        check_one_model({"all_pairs": first, "other_side": second})
        _, row = beside(second.places)
        other = second.found.embedding[row]
    reach = min(1.0, max(REACH, 3 * max(chosen.all_fars)))
    labels = np.array([people.names[number] for number in people.numbers[0].tolist()])
    record = score_all_pairs(first.found.embedding, labels, other, places=first.places, reach=reach)
    number = number_pictures(first.found)[0]
    twice, notes = _same_pictures(number, first.places)
    against = [] if other_side is None else [f"against {Path(other_side).name}"]
    of = [] if pairs is None else [f"people of {dataset_words(pairs, wanted)}"]
    return Evaluation(
        model=subject.facts() if subject is not None else dict(first.model),
        data={
            "protocol": "all pairs of the images of some people, each person weighing the same",
            "all_pairs": str(path),
            "pairs": None if pairs is None else str(pairs),
            "folds": wanted,
            "other_side": None if other_side is None else str(other_side),
            "distinct_images": len(first.places),
            **({"same_pictures": twice} if twice else {}),
        },
        dataset=", ".join([Path(path).name, *of, *against]),
        images=JudgedImages(
            first.found.embedding,
            people.numbers[0],
            people.names,
            first.places,
            first.picture,
            number,
        ),
        all_pairs=AllPaired.of(record, chosen),
        notes=(*notes, *(note for part in (first, second) if part for note in part.notes)),
    )


def _are_embeddings(path: _Path) -> bool:
    return is_embedding_file(Path(path))


def _people_of(path: _Path, folds: list[int] | None) -> set[str]:
    """The people of some folds of a file of pairs."""
    if is_bin_set(path):
        raise ValueError(f"{os.fspath(path)!r} does not name the people of its pairs")
    found = read_named_pairs(path, folds)
    if found.people is None:
        raise ValueError(
            f"{os.fspath(path)!r} does not name the people of its pairs: {found.people_note}"
        )
    return found.everyone()


def _images_of(
    path: Path, people: set[str] | None, source: str, identities: list[str], places: list[str]
) -> BoolArray:
    """Which images (N,) of a path are of the people that a source names.

    A `ValueError` if these are too few for pairs of each kind.
    """
    kept = np.ones(len(places), dtype=np.bool_)
    if people is not None:
        wanted = chosen_people(people, dict.fromkeys(identities), source)
        kept = np.array([name in wanted for name in identities], dtype=np.bool_)
    number = one_list(identities).numbers[0][kept]
    counts = np.bincount(number)
    if np.count_nonzero(counts) < 2 or counts.max() < 2:
        raise ValueError(
            f"all_pairs needs 2 people, one of them with 2 images; {str(path)!r} has "
            f"{np.count_nonzero(counts)}, with at most {counts.max(initial=0)}"
        )
    return kept


def _beside(first: JudgedPart, path: Path, places: list[str]) -> tuple[BoolArray, IntArray]:
    """Which images (N,) of another side are wanted, and which is that of each image."""
    row_of = {composed(place): row for row, place in enumerate(places)}
    missing = [place for place in first.places if composed(place) not in row_of]
    if missing:
        shown = ", ".join(map(repr, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise ValueError(
            f"other_side must have the images of {str(first.path)!r} under their names; "
            f"{str(path)!r} lacks {len(missing):,} of {len(first.places):,}: {shown}"
        )
    rows = np.array([row_of[composed(place)] for place in first.places], dtype=np.int64)
    kept = np.zeros(len(places), dtype=np.bool_)
    kept[rows] = True
    return kept, rows


def _same_pictures(number: IntArray, places: list[str]) -> tuple[dict[str, object], list[str]]:
    """Facts and a note on images that are the same picture as another one."""
    _, at, counts = np.unique(number, return_index=True, return_counts=True)
    again = int((counts - 1).sum())
    if not again:
        return {}, []
    groups = [
        np.flatnonzero(number == number[at[one]]) for one in np.flatnonzero(counts > 1)[:SHOWN]
    ]
    examples = [[places[row] for row in group[:2].tolist()] for group in groups]
    are = "image is" if again == 1 else "images are"
    note = (
        f"{again:,} of {number.size:,} {are} the same picture as another one; kept, although their "
        "pairs say nothing of the model (--json has examples)"
    )
    return {"images": again, "examples": examples}, [note]
