"""Templates of a CSV list: verification of their pairs, identification of their probes."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.formats.pair_list import PairList, read_pair_list
from centerarc.evaluation.formats.template_list import (
    TemplateList,
    TemplateListImages,
    read_template_list,
)
from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.protocols.judging import chosen_groups, judge_pairs
from centerarc.evaluation.protocols.outcome import (
    Evaluation,
    Identified,
    JudgedImages,
    Settings,
)
from centerarc.evaluation.protocols.pairs import separability_of
from centerarc.evaluation.protocols.pictures import pictures_of
from centerarc.evaluation.protocols.searching import SearchSettings, judge_searches, shared_note
from centerarc.evaluation.protocols.subject import EmbeddingsSubject, Progress, Subject
from centerarc.evaluation.scores import IntArray
from centerarc.evaluation.templates.pair_scores import template_pair_scores
from centerarc.evaluation.templates.pooling import WEIGHTINGS, Templates, pool_templates
from centerarc.evaluation.templates.search import search_templates


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
            :func:`centerarc.evaluation.formats.template_list.read_template_list`.
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
