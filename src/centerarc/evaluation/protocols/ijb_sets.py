"""IJB-B and IJB-C from a metadata folder: verification of templates, and search of galleries."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.formats.ijb_faces import IjbFaces, find_ijb_files
from centerarc.evaluation.formats.ijb_metadata import (
    IjbLandmarks,
    IjbPairs,
    check_same_images,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
)
from centerarc.evaluation.protocols.judging import judge_pairs
from centerarc.evaluation.protocols.outcome import Evaluation, JudgedImages, Settings, Sides
from centerarc.evaluation.protocols.pictures import pictures_of
from centerarc.evaluation.protocols.searching import SearchSettings, judge_searches
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.protocols.template_lists import check_weighting, pooled
from centerarc.evaluation.scores import IntArray
from centerarc.evaluation.templates.pair_scores import template_pair_scores
from centerarc.evaluation.templates.pooling import locate
from centerarc.evaluation.templates.search import search_templates

Subjects = tuple[IntArray, IntArray]
_PAGE_PIXELS = 112


def evaluate_ijb(
    subject: Subject,
    folder: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    weighting: str = "plain",
    settings: Settings | None = None,
    search: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge a model on IJB-B or IJB-C: 1:1, and 1:N where the folder has galleries.

    Args:
        subject: a model, or embeddings whose places are the names of the images.
        folder: the metadata, see :func:`centerarc.evaluation.formats.ijb_faces.find_ijb_files`.
        images: folder of the loose crops; embeddings need none.
        weighting: as in :func:`centerarc.evaluation.templates.pooling.pool_templates`.
        settings: how to judge pairs; there are no folds and no columns.
        search: how to judge searches.
        progress: called with the stage, the steps done and all of them.

    Returns:
        The result.

    Raises:
        ValueError: a file is missing or broken, with its line, or images are missing.
        OSError: a file cannot be read.
    """
    check_weighting(weighting)
    chosen = Settings() if settings is None else settings
    files = find_ijb_files(folder)
    if images is None and not isinstance(subject, EmbeddingsSubject):
        raise ValueError(f"images must name the folder of the loose crops of {str(folder)!r}")
    listed, landmarks = read_ijb_images(files.images), read_ijb_landmarks(files.landmarks)
    try:
        check_same_images(listed, landmarks)
    except ValueError as error:
        raise ValueError(f"{files.landmarks}, {error}") from error
    detected = _detector_scores(files.landmarks, landmarks) if "detector" in weighting else None
    pairs = read_ijb_pairs(files.pairs)
    galleries = [read_ijb_subjects(path) for path in files.galleries]
    probes = None if files.probes is None else read_ijb_subjects(files.probes)
    ids = np.unique(listed.template)
    for path, numbers in _mentioned(files.galleries, files.probes, galleries, probes):
        _check_known(path, ids, numbers)
    rows = [_rows_of_pairs(files.pairs, ids, side) for side in (pairs.template_a, pairs.template_b)]
    if probes is not None:
        for path, known in zip(files.galleries, galleries, strict=True):
            if not np.isin(probes[1], known[1]).any():
                raise ValueError(f"{path}: no probe is of a person in the gallery")
    if isinstance(subject, EmbeddingsSubject):
        embedding, picture = subject.found.embedding[subject.rows(listed.names)], None
    else:
        assert images is not None
        size = subject.image_size or _PAGE_PIXELS
        embedding = subject.embed(IjbFaces(listed, landmarks, images, image_size=size), progress)
        shown = partial(IjbFaces, listed, landmarks, images, image_size=_PAGE_PIXELS)
        picture = pictures_of(shown)
    templates = pooled(
        str(files.images), embedding, listed.template, listed.media, weighting, detected
    )
    people, note = _people(pairs, [*galleries, *([probes] if probes else [])])
    first_image = np.unique(listed.template, return_index=True)[1].astype(np.int32)
    verified = judge_pairs(
        template_pair_scores(templates.embeddings, *rows),
        pairs.same,
        None,
        people,
        note,
        (first_image[rows[0]], first_image[rows[1]]),
        {},
        chosen,
    )
    identified = None
    if galleries and probes is not None:
        searches = search_templates(templates, galleries, probes)
        identified = judge_searches(searches, SearchSettings() if search is None else search)
    return Evaluation(
        model=subject.facts(),
        data={
            "protocol": "IJB: 1:1 of templates" + (", 1:N mixed" if identified else ""),
            "metadata": str(folder),
            "images": None if images is None else str(images),
            "files": {
                "images": files.images.name,
                "landmarks": files.landmarks.name,
                "pairs": files.pairs.name,
                "galleries": [path.name for path in files.galleries],
                "probes": None if files.probes is None else files.probes.name,
            },
            "distinct_images": len(listed),
        },
        dataset=files.pairs.name.removesuffix("_template_pair_label.txt").upper(),
        images=JudgedImages(embedding, None, [], listed.names, picture),
        verification=verified,
        identification=identified,
        templates=templates.to_dict(),
    )


def _detector_scores(path: Path, landmarks: IjbLandmarks) -> npt.NDArray[np.float32]:
    below = np.flatnonzero(landmarks.detector_score < 0)
    if below.size:
        raise ValueError(
            f"{path}, line {below[0] + 1}: as a weight the score must be at least 0, got "
            f"{landmarks.detector_score[below[0]]}"
        )
    return landmarks.detector_score


def _mentioned(
    paths: list[Path], probe_path: Path | None, galleries: list[Subjects], probes: Subjects | None
) -> list[tuple[Path, IntArray]]:
    found = [(path, ids) for path, (ids, _) in zip(paths, galleries, strict=True)]
    if probe_path is not None and probes is not None:
        found.append((probe_path, probes[0]))
    return found


def _check_known(path: Path, ids: IntArray, wanted: IntArray) -> None:
    _, there = locate(ids, wanted)
    if not there.all():
        missing = wanted[~there]
        raise ValueError(f"{path}: template {missing[0]} has no image ({missing.size} have none)")


def _rows_of_pairs(path: Path, ids: IntArray, wanted: Any) -> IntArray:
    rows, there = locate(ids, wanted)
    if not there.all():
        at = int(np.argmin(there))
        raise ValueError(f"{path}, line {at + 1}: template {wanted[at]} has no image")
    return rows


def _people(pairs: IjbPairs, known: list[Subjects]) -> tuple[Sides | None, str]:
    """Who the pairs are of, as the files of the 1:N protocol say."""
    if not known:
        return None, "people are unknown: there are no files of galleries and probes"
    ids, first = np.unique(np.concatenate([k[0] for k in known]), return_index=True)
    subjects = np.concatenate([k[1] for k in known])[first]
    # Numbers of subjects, small: there are tens of millions of pairs.
    subjects = np.unique(subjects, return_inverse=True)[1].astype(np.int32)
    sides = []
    for wanted in (pairs.template_a, pairs.template_b):
        rows, there = locate(ids, wanted)
        if not there.all():
            return None, "people are unknown: some templates are in no gallery and no probe file"
        sides.append(subjects[rows])
    if ((sides[0] == sides[1]) != pairs.same).any():
        return None, "people are unknown: the files of galleries and probes contradict the pairs"
    return (sides[0], sides[1]), "people are the subjects of the galleries and probes"
