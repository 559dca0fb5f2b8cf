"""Templates of a CSV list or of IJB: verification of pairs, identification of probes."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.files.pair_list import PairList, read_pair_list
from centerarc.evaluation.files.templates import (
    IjbFaces,
    IjbLandmarks,
    IjbPairs,
    TemplateList,
    TemplateListImages,
    check_same_images,
    find_ijb_files,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
    read_template_list,
)
from centerarc.evaluation.gallery import GallerySearch
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    Identified,
    JudgedImages,
    SearchSettings,
    Settings,
    Sides,
    chosen_groups,
    judge_pairs,
    judge_searches,
    pictures_of,
    shared_note,
)
from centerarc.evaluation.protocols.pairs import separability_of
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.scores import IntArray
from centerarc.evaluation.templates import (
    WEIGHTINGS,
    Templates,
    locate,
    pool_templates,
    search_templates,
    template_pair_scores,
)

# Templates of a CSV list: verification of their pairs, identification of their probes.


def evaluate_templates(
    subject: Subject,
    path: str | os.PathLike[str],
    *,
    pairs: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    weighting: str = "plain",
    settings: Settings | None = None,
    search: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge templates: 1:1 where there are pairs of them, 1:N where they have roles.

    Args:
        subject: a model, or embeddings whose places are the names of the images.
        path: a list of templates; see
            :func:`centerarc.evaluation.files.templates.read_template_list`.
        pairs: a list of pairs of them, with columns ``template_a``, ``template_b``, ``same``.
        images: folder of the images; the list's own by default.
        weighting: of the images, as in :func:`centerarc.evaluation.templates.pool_templates`; the
            detector scores are the column ``weight``.
        settings: how to judge pairs.
        search: how to judge searches.
        progress: called with the stage, the steps done and all of them.

    Returns:
        The result.

    Raises:
        ValueError: a file is broken, images are missing, there is nothing to judge, or settings
            do not fit; the message names file and line.
        OSError: a file cannot be read.
    """
    check_weighting(weighting)
    chosen = Settings() if settings is None else settings
    listed = read_template_list(path)
    roles = listed.gallery is not None and listed.identity is not None
    if pairs is None and not roles:
        raise ValueError(
            f"{listed.source}, line 1: without pairs, templates need the columns identity and role"
        )
    if "detector" in weighting and listed.weight is None:
        raise ValueError(
            f"{listed.source}, line 1: the weighting {weighting!r} needs a column weight"
        )
    pair_list = None if pairs is None else read_pair_list(pairs, of="template")
    if roles:
        _check_roles(listed)
    numbers = None if pair_list is None else pair_list.among(listed.ids.tolist())
    groups = {}
    if pair_list is not None:
        groups = chosen_groups(pair_list.columns, chosen.by, pair_list.source)
    judged = _images(subject, listed, path, images, progress)
    templates = pooled(
        listed.source,
        judged.embedding[listed.image],
        listed.template,
        listed.media,
        weighting,
        listed.weight if "detector" in weighting else None,
    )
    verified = None
    if pair_list is not None and numbers is not None:
        a, b = (templates.rows(listed.ids[side]) for side in numbers)
        people, note = _people(listed, numbers, pair_list)
        verified = judge_pairs(
            template_pair_scores(templates.embeddings, a, b),
            pair_list.same,
            pair_list.fold,
            people,
            note,
            _first_images(listed, numbers),
            groups,
            chosen,
        )
    return Evaluation(
        model=subject.facts(),
        data={
            "protocol": "templates of a list",
            "templates": str(path),
            "pairs": None if pairs is None else str(pairs),
            "images": None if images is None else str(images),
            "distinct_images": len(judged.places),
        },
        dataset=Path(path).name if pairs is None else f"{Path(pairs).name} of {Path(path).name}",
        images=judged,
        verification=verified,
        identification=_identified(listed, templates, search) if roles else None,
        separability=separability_of(judged, chosen),
        templates=templates.to_dict(),
        notes=_shared(listed) if roles else (),
    )


def check_weighting(weighting: str) -> None:
    """Raise a ValueError for a weighting that there is not, before the work."""
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")


def pooled(
    source: str,
    embedding: npt.NDArray[np.float32],
    template: npt.NDArray[Any],
    media: IntArray,
    weighting: str,
    detector_score: npt.NDArray[Any] | None,
) -> Templates:
    """Make templates as :func:`centerarc.evaluation.templates.pool_templates` does.

    Raises:
        ValueError: they cannot be made; the message starts with ``source``, their file.
    """
    try:
        return pool_templates(
            embedding, template, media, weighting=weighting, detector_score=detector_score
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _images(
    subject: Subject,
    listed: TemplateList,
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> JudgedImages:
    if isinstance(subject, EmbeddingsSubject) and images is None:
        try:
            rows = subject.rows(listed.names)
        except ValueError as error:
            raise ValueError(f"{listed.source}: {error}") from error
        first = np.unique(listed.image, return_index=True)[1]
        people, labels = _owners(listed, first)
        return JudgedImages(subject.found.embedding[rows], labels, people, listed.names, None)
    source = TemplateListImages(listed, images, image_size=subject.image_size)
    return JudgedImages(
        subject.embed(source, progress),
        source.labels if listed.identity is not None else None,
        list(source.identities),
        listed.names,
        pictures_of(partial(TemplateListImages, listed, images)),
    )


def _owners(listed: TemplateList, first: Any) -> tuple[list[str], Any]:
    if listed.identity is None:
        return [], None
    of = dict(zip(listed.ids.tolist(), listed.identity.tolist(), strict=True))
    people, labels = np.unique(
        [of[name] for name in listed.template[first].tolist()], return_inverse=True
    )
    return people.tolist(), labels.astype(np.int64)


def _people(listed: TemplateList, numbers: Any, pairs: PairList) -> tuple[Any, str]:
    """Who the pairs are of: as the list of templates says, else as the pairs say."""
    if listed.identity is None:
        return pairs.people, pairs.people_note
    first, second = listed.identity[numbers[0]], listed.identity[numbers[1]]
    wrong = np.flatnonzero((first == second) != pairs.same)
    if wrong.size:
        at = wrong[0]
        raise ValueError(
            f"{pairs.source}, line {pairs.line[at]}: same is {int(pairs.same[at])}, but the "
            f"templates are of {first[at]!s} and {second[at]!s} in {listed.source}"
        )
    return (first, second), "people are the identities of the templates"


def _first_images(listed: TemplateList, numbers: Any) -> tuple[Any, Any]:
    """An image of each template of each pair, to show."""
    order = {name: k for k, name in enumerate(listed.ids.tolist())}
    of_row = np.array([order[name] for name in listed.template.tolist()])
    shown = listed.image[np.unique(of_row, return_index=True)[1]]
    return shown[numbers[0]], shown[numbers[1]]


def _check_roles(listed: TemplateList) -> None:
    assert listed.gallery is not None
    assert listed.identity is not None
    if listed.gallery.all() or not listed.gallery.any():
        there = "gallery" if listed.gallery.all() else "probe"
        raise ValueError(f"{listed.source}: every template has the role {there}; both are needed")
    if not np.isin(listed.identity[~listed.gallery], listed.identity[listed.gallery]).any():
        raise ValueError(f"{listed.source}: no probe is of a person in the gallery")


def _shared(listed: TemplateList) -> tuple[str, ...]:
    """A note on probes that have an image of a template of the gallery."""
    assert listed.gallery is not None
    of = dict(zip(listed.ids.tolist(), listed.gallery.tolist(), strict=True))
    enrolled = np.array([of[name] for name in listed.template.tolist()], dtype=np.bool_)
    known = np.isin(listed.image, listed.image[enrolled])
    return shared_note(
        np.unique(listed.template[~enrolled & known]).size, int((~listed.gallery).sum())
    )


def _identified(
    listed: TemplateList, templates: Templates, settings: SearchSettings | None
) -> Identified:
    assert listed.gallery is not None
    assert listed.identity is not None
    enrolled, asked = listed.gallery, ~listed.gallery
    searches: list[GallerySearch] = search_templates(
        templates,
        [(listed.ids[enrolled], listed.identity[enrolled])],
        (listed.ids[asked], listed.identity[asked]),
    )
    return judge_searches(searches, SearchSettings() if settings is None else settings)


# IJB-B and IJB-C from a metadata folder: verification of templates, and search of galleries.

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
        folder: the metadata, see :func:`centerarc.evaluation.files.templates.find_ijb_files`.
        images: folder of the loose crops; embeddings need none.
        weighting: as in :func:`centerarc.evaluation.templates.pool_templates`.
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
    people, note = _people_ijb_sets(pairs, [*galleries, *([probes] if probes else [])])
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


def _people_ijb_sets(pairs: IjbPairs, known: list[Subjects]) -> tuple[Sides | None, str]:
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
