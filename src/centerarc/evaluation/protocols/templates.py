"""Templates of a CSV list or of IJB: verification of pairs, identification of probes."""

import os
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.source import one_list
from centerarc.evaluation.accuracy import check_convention
from centerarc.evaluation.files.ijb import (
    IjbFaces,
    IjbPairs,
    check_same_images,
    find_ijb_files,
    read_ijb_images,
    read_ijb_landmarks,
    read_ijb_pairs,
    read_ijb_subjects,
)
from centerarc.evaluation.files.pair_set import ListedImages, Missing
from centerarc.evaluation.files.pairs import Pairs, check_both_kinds, read_pair_list
from centerarc.evaluation.files.templates import TemplateList, read_template_list
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
    pairs_of_one_picture,
    pictures_of,
    separability_of,
    shared_note,
)
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.same_pictures import SHOWN, Embedded, number_pictures
from centerarc.evaluation.scores import IntArray
from centerarc.evaluation.templates import (
    WEIGHTINGS,
    Templates,
    locate,
    pool_templates,
    search_templates,
    template_pair_scores,
)

# Names or numbers of templates, and who they are of.
_Known = tuple[npt.NDArray[Any], npt.NDArray[Any]]
_PAGE_PIXELS = 112


def evaluate_templates(
    subject: Subject,
    path: str | os.PathLike[str],
    *,
    pairs: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    weighting: str = "plain",
    missing: Missing = "error",
    settings: Settings | None = None,
    search: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Judges templates that a CSV list makes of images.

    Args:
        subject: A model, or embeddings whose places are the names of the images.
        path: The list, see `centerarc.evaluation.files.read_template_list`. With the columns
            `identity` and `role`, probes are searched in the gallery.
        pairs: A list of pairs of them, with columns `template_a`, `template_b`, `same`.
        images: Folder of the images; the list's own by default.
        weighting: Of the images, as in `centerarc.evaluation.pool_templates`; the detector scores
            are the column `weight`.
        missing: "skip" leaves out images that are not there, templates without any, and their
            pairs.
        settings: How to judge pairs.
        search: How to judge searches.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If a file is broken, images are missing, there is nothing to judge, or
            settings do not fit; the message names file and line.
        OSError: If a file cannot be read.
    """
    _check_weighting(weighting)
    chosen = Settings() if settings is None else settings
    listed = read_template_list(path)
    named = None if pairs is None else read_pair_list(pairs, of="template")
    notes: list[str] = []
    left_out: dict[str, int] = {}
    if missing == "skip":
        listed, named, notes, left_out = _without_missing(subject, listed, named, images)
    roles = _roles(listed)
    if roles is not None:
        _check_mates(listed.source, *roles[:2], search)
    if pairs is None and roles is None:
        raise ValueError(
            f"{listed.source}, line 1: without pairs, templates need the columns identity and role"
        )
    if "detector" in weighting and listed.weight is None:
        raise ValueError(
            f"{listed.source}, line 1: the weighting {weighting!r} needs a column weight"
        )
    if named is not None:
        check_both_kinds(named.same, named.source)
        if named.fold is not None:
            check_convention(chosen.convention, named.fold, named.same)
        a, b = named.among(listed.ids.tolist())
        groups = chosen_groups(named.columns, chosen.by, named.source)
        people, note = _people(listed, (a, b), named)
    judged = _images(subject, listed, images, progress)
    templates = _pooled(
        listed.source,
        weighting,
        judged.embedding[listed.image],
        listed.template,
        listed.media,
        listed.weight,
    )
    verified = None
    facts: dict[str, Any] = {}
    assert judged.number is not None
    picture = judged.number[listed.image]
    if named is not None:
        shown = _first_images(listed)
        scores = template_pair_scores(
            templates.embeddings, *(templates.rows(listed.ids[side]) for side in (a, b))
        )
        verified = judge_pairs(
            scores, named.same, named.fold, people, note, (shown[a], shown[b]), groups, chosen
        )
        notes += verified.notes(named.source)
        pictures: defaultdict[str, set[int]] = defaultdict(set)
        for name, number in zip(listed.template.tolist(), picture.tolist(), strict=True):
            pictures[name].add(number)
        sides = [(listed.ids[x], listed.ids[y]) for x, y in zip(a, b, strict=True)]
        both = [not pictures[x].isdisjoint(pictures[y]) for x, y in sides]
        facts, found = pairs_of_one_picture(
            np.array(both), named.same, lambda row: list(map(str, sides[row])), "pairs of templates"
        )
        notes += found
    if roles is not None:
        found_probes, found = _shared(listed.template, picture, roles[0][0], roles[1][0])
        facts = facts | found_probes
        notes += [*found, *roles[2]]
    identified = None if roles is None else _searched(templates, [roles[0]], roles[1], search)
    return Evaluation(
        model=subject.facts(),
        data={
            "protocol": "templates of a list",
            "templates": str(path),
            "pairs": None if pairs is None else str(pairs),
            "images": None if images is None else str(images),
            "distinct_images": len(judged.places),
            **left_out,
            **({"same_pictures": facts} if facts else {}),
        },
        dataset=Path(path).name if pairs is None else f"{Path(pairs).name} of {Path(path).name}",
        images=judged,
        verification=verified,
        identification=identified,
        separability=separability_of(judged, chosen),
        templates=templates.to_dict(),
        notes=tuple(notes),
    )


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
    """Judges a model on IJB-B or IJB-C: 1:1, and 1:N where the folder has galleries.

    Args:
        folder: The metadata, see `centerarc.evaluation.files.find_ijb_files`.
        images: Folder of the loose crops; embeddings need none.
        settings: How to judge pairs; there are no folds and no columns.
        subject, weighting, search, progress: As in `evaluate_templates`.

    Raises:
        ValueError: If a file is missing or broken, with its line, or images are missing.
        OSError: If a file cannot be read.
    """
    _check_weighting(weighting)
    files = find_ijb_files(folder)
    if images is None and not isinstance(subject, EmbeddingsSubject):
        raise ValueError(f"images must name the folder of the loose crops of {str(folder)!r}")
    listed, landmarks = read_ijb_images(files.images), read_ijb_landmarks(files.landmarks)
    try:
        check_same_images(listed, landmarks)
    except ValueError as error:
        raise ValueError(f"{files.landmarks}, {error}") from error
    below = np.flatnonzero(landmarks.detector_score < 0)
    if "detector" in weighting and below.size:
        raise ValueError(
            f"{files.landmarks}, line {below[0] + 1}: as a weight the score must be at least 0, "
            f"got {landmarks.detector_score[below[0]]}"
        )
    pairs = read_ijb_pairs(files.pairs)
    ids, first = np.unique(listed.template, return_index=True)
    known: list[_Known] = []
    for path in [*files.galleries, *([files.probes] if files.probes else [])]:
        known.append(read_ijb_subjects(path))
        missing = known[-1][0][~locate(ids, known[-1][0])[1]]
        if missing.size:
            raise ValueError(
                f"{path}: template {missing[0]} has no image ({missing.size} have none)"
            )
    a, b = (_rows_of_pairs(files.pairs, ids, side) for side in (pairs.template_a, pairs.template_b))
    for path, (_, people) in zip(files.galleries, known, strict=False):
        if not np.isin(known[-1][1], people).any():
            raise ValueError(f"{path}: no probe is of a person in the gallery")
    galleries = known[:-1]
    if galleries and search is not None and search.convention == "insightface":
        ids_known, subjects = (np.concatenate(part) for part in zip(*galleries, strict=True))
        galleries = [(ids_known, subjects)]
        _check_mates(str(files.probes), galleries[0], known[-1], search)
    if isinstance(subject, EmbeddingsSubject):
        found, picture = Embedded(subject.found.embedding[subject.rows(listed.names)]), None
    else:
        assert images is not None
        faces = partial(IjbFaces, listed, landmarks, images)
        size = subject.image_size or _PAGE_PIXELS
        found = subject.embed(faces(image_size=size), progress)
        picture = pictures_of(partial(faces, image_size=_PAGE_PIXELS))
    templates = _pooled(
        str(files.images),
        weighting,
        found.embedding,
        listed.template,
        listed.media,
        landmarks.detector_score,
    )
    sides, note = _ijb_people(pairs, known)
    shown = first.astype(np.int32)
    verified = judge_pairs(
        template_pair_scores(templates.embeddings, a, b),
        pairs.same,
        None,
        sides,
        note,
        (shown[a], shown[b]),
        {},
        Settings() if settings is None else settings,
    )
    identified = None
    facts: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    if files.galleries:
        identified = _searched(templates, galleries, known[-1], search)
        pictures = number_pictures(found)[0]
        enrolled = np.concatenate([gallery[0] for gallery in known[:-1]])
        facts, notes = _shared(listed.template, pictures, enrolled, known[-1][0])
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
            "distinct_images": len(listed.names),
            **({"same_pictures": facts} if facts else {}),
        },
        dataset=files.pairs.name.removesuffix("_template_pair_label.txt").upper(),
        images=JudgedImages(found.embedding, None, [], listed.names, picture),
        verification=verified,
        identification=identified,
        templates=templates.to_dict(),
        notes=notes,
    )


# What both share.


def _check_weighting(weighting: str) -> None:
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")


def _pooled(
    source: str,
    weighting: str,
    embedding: npt.NDArray[np.float32],
    template: npt.NDArray[Any],
    media: IntArray,
    detector_score: npt.NDArray[Any] | None,
) -> Templates:
    """Templates of images; what cannot be made is said with the file that lists it."""
    scores = detector_score if "detector" in weighting else None
    try:
        return pool_templates(
            embedding, template, media, weighting=weighting, detector_score=scores
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def _searched(
    templates: Templates, galleries: list[_Known], probes: _Known, search: SearchSettings | None
) -> Identified:
    settings = SearchSettings() if search is None else search
    by_scores = settings.convention == "insightface"
    searches = search_templates(templates, galleries, probes, top_others=by_scores)
    return judge_searches(searches, settings)


def _check_mates(
    source: str, gallery: _Known, probes: _Known, search: SearchSettings | None
) -> None:
    """Checks before the work what a convention needs of the people."""
    if search is None or search.convention != "insightface":
        return
    known = np.unique(gallery[1])
    lacking = ~np.isin(probes[1], known)
    if lacking.any() or known.size < 2:
        first = f"template {probes[0][lacking][0]} is not" if lacking.any() else "it has one person"
        raise ValueError(
            f"{source}: convention 'insightface' needs the person of every probe in a gallery of "
            f"at least 2 people; {first}"
        )


def _shared(
    template: npt.NDArray[Any],
    picture: IntArray,
    known: npt.NDArray[Any],
    asked: npt.NDArray[Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Facts and a note on probes that have a picture of a template of the gallery.

    Args:
        template: Template of each of some images.
        picture: Number of the picture that each is.
        known, asked: Templates of the gallery and of the probes.
    """
    seen = np.isin(picture, picture[np.isin(template, known)])
    probes = np.unique(template[seen & np.isin(template, asked)])
    facts = {"probes_in_the_gallery": int(probes.size), "examples": probes[:SHOWN].tolist()}
    then = "they are kept, as they are listed (--json has examples)"
    return facts if probes.size else {}, shared_note(int(probes.size), asked.size, then)


# Of a CSV list.


def _without_missing(
    subject: Subject,
    listed: TemplateList,
    named: Pairs | None,
    images: str | os.PathLike[str] | None,
) -> tuple[TemplateList, Pairs | None, list[str], dict[str, int]]:
    """The templates and pairs for which there is an image or embedding; notes, and counts."""
    notes: list[str] = []
    if isinstance(subject, EmbeddingsSubject) and images is None:
        left = listed
        if absent := subject.absent(listed.names):
            left, note = listed.without(absent, f"are not in {subject.path}")
            notes.append(note)
    else:
        there = ListedImages(listed, images, missing="skip")
        left, notes = there.listed, there.notes
    counts = {
        "left_out_images": len(listed.names) - len(left.names),
        "left_out_templates": len(listed.ids) - len(left.ids),
    }
    if named is not None:
        named.among(listed.ids.tolist())  # templates that were never listed are a mistake
        every = len(named)
        if gone := named.absent(left.ids.tolist()):
            named, note = named.without(gone, "have no image left")
            notes.append(note)
        counts["left_out_pairs"] = every - len(named)
    return left, named, notes, counts


def _images(
    subject: Subject,
    listed: TemplateList,
    images: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> JudgedImages:
    if isinstance(subject, EmbeddingsSubject) and images is None:
        try:
            rows = subject.rows(listed.names)
        except ValueError as error:
            raise ValueError(f"{listed.source}: {error}") from error
        people, labels = np.unique(listed.owners(), return_inverse=True)
        found, picture = Embedded(subject.found.embedding[rows]), None
        identities = people.tolist()
    else:
        source = ListedImages(listed, images, image_size=subject.image_size)
        found, labels = subject.embed(source, progress), source.labels
        picture = pictures_of(partial(ListedImages, listed, images))
        identities = source.identities
    number = number_pictures(found)[0]
    if listed.identity is None:
        return JudgedImages(found.embedding, None, [], listed.names, picture, number)
    of = labels.astype(np.int64)
    return JudgedImages(found.embedding, of, identities, listed.names, picture, number)


def _people(listed: TemplateList, sides: Sides, pairs: Pairs) -> tuple[Sides | None, str]:
    """Who the pairs are of: as the list of templates says, else as the pairs say."""
    if listed.identity is None:
        return pairs.people, pairs.people_note
    first, second = listed.identity[sides[0]], listed.identity[sides[1]]
    wrong = np.flatnonzero((first == second) != pairs.same)
    if wrong.size:
        at = wrong[0]
        raise ValueError(
            f"{pairs.source}, line {pairs.line[at]}: same is {int(pairs.same[at])}, but the "
            f"templates are of {first[at]!s} and {second[at]!s} in {listed.source}"
        )
    return (first, second), "people are the identities of the templates"


def _first_images(listed: TemplateList) -> IntArray:
    """An image of each template, to show."""
    order = {name: k for k, name in enumerate(listed.ids.tolist())}
    of_row = np.array([order[name] for name in listed.template.tolist()])
    return listed.image[np.unique(of_row, return_index=True)[1]]


def _roles(listed: TemplateList) -> tuple[_Known, _Known, list[str]] | None:
    """The templates of the gallery and of the probes, if the list has roles and people; notes."""
    if listed.gallery is None or listed.identity is None:
        return None
    if listed.gallery.all() or not listed.gallery.any():
        there = "gallery" if listed.gallery.all() else "probe"
        raise ValueError(f"{listed.source}: every template has the role {there}; both are needed")
    parts = (listed.gallery, ~listed.gallery)
    people = one_list(*(listed.identity[part].tolist() for part in parts))
    names = np.array(people.names, dtype=np.str_)
    known, asked = (
        (listed.ids[part], names[numbers])
        for part, numbers in zip(parts, people.numbers, strict=True)
    )
    if not np.isin(asked[1], known[1]).any():
        raise ValueError(f"{listed.source}: no probe is of a person in the gallery")
    return known, asked, people.notes()


# Of IJB.


def _rows_of_pairs(path: Path, ids: IntArray, wanted: npt.NDArray[np.int32]) -> IntArray:
    rows, there = locate(ids, wanted)
    if not there.all():
        at = int(np.argmin(there))
        raise ValueError(f"{path}, line {at + 1}: template {wanted[at]} has no image")
    return rows


def _ijb_people(pairs: IjbPairs, known: list[_Known]) -> tuple[Sides | None, str]:
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
