"""What a user asks to be evaluated, as one object: which protocol, on which files, judged how."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from centerarc.evaluation.accuracy import Convention
from centerarc.evaluation.embedding import read_embeddings
from centerarc.evaluation.files.pair_list import check_both_kinds
from centerarc.evaluation.identification import FPIR_LEVELS, RANKS
from centerarc.evaluation.protocols.galleries import evaluate_galleries, is_embedding_file
from centerarc.evaluation.protocols.judging import RESAMPLES, Evaluation, SearchSettings, Settings
from centerarc.evaluation.protocols.pairs import evaluate_pairs
from centerarc.evaluation.protocols.subject import (
    EmbeddingsSubject,
    ModelSubject,
    Progress,
    Subject,
    warn_of_trained_people,
)
from centerarc.evaluation.protocols.templates import evaluate_ijb, evaluate_templates

Kind = Literal["pairs", "templates", "ijb", "galleries"]
# What each protocol takes, beside the file that stands for it.
_TAKES: dict[Kind, tuple[str, ...]] = {
    "pairs": ("images", "folds", "convention", "by", "far"),
    "templates": ("pairs", "images", "weighting", "convention", "by", "far", "ranks", "fpir"),
    "ijb": ("images", "weighting", "far", "ranks", "fpir"),
    "galleries": ("probes", "distractors", "person_score", "ranks", "fpir"),
}
_ITSELF: dict[Kind, str] = {
    "pairs": "pairs",
    "templates": "templates",
    "ijb": "ijb",
    "galleries": "gallery",
}


class RequestError(ValueError):
    """A request that contradicts itself; names of its fields in the message mean these fields."""


@dataclass(frozen=True)
class Request:
    """An evaluation to be made; None and empty are what was not said.

    Attributes:
        pairs: pairs of images, or with ``templates`` of templates.
        images: folder of the images.
        folds: folds to keep.
        convention: of the k-fold accuracy.
        by: columns to break down by, as
            :func:`centerarc.evaluation.protocols.judging.chosen_groups` takes them.
        far: further false accept rates.
        gallery, probes, distractors: sources or files of embeddings.
        person_score: how the images of a person make a score.
        templates: a list of templates.
        ijb: a folder of metadata.
        weighting: how images make a template.
        ranks: of the closed set.
        fpir: false positive identification rates.
        resamples: of the people, at least 100; 0 for no intervals.
        seed: of the resampling.

    Raises:
        ValueError: ``resamples`` out of range.
    """

    pairs: Path | None = None
    images: Path | None = None
    folds: tuple[int, ...] | None = None
    convention: Convention | None = None
    by: tuple[str, ...] = ()
    far: tuple[float, ...] = ()
    gallery: Path | None = None
    probes: Path | None = None
    distractors: Path | None = None
    person_score: str | None = None
    templates: Path | None = None
    ijb: Path | None = None
    weighting: str | None = None
    ranks: tuple[int, ...] = ()
    fpir: tuple[float, ...] = ()
    resamples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples is not None and self.resamples != 0 and self.resamples < 100:
            raise ValueError(f"resamples must be 0 or at least 100, got {self.resamples}")

    @property
    def kind(self) -> Kind:
        """Which protocol is meant.

        Raises:
            RequestError: none, two at once, or something that is not for the one that is meant.
        """
        meant: list[Kind] = [kind for kind in _ITSELF if getattr(self, _ITSELF[kind]) is not None]
        if "templates" in meant and "pairs" in meant:
            meant.remove("pairs")  # they are of the templates
        if len(meant) != 1:
            what = " and ".join(_ITSELF[kind] for kind in meant) or "none"
            raise RequestError(
                f"give one of pairs, gallery with probes, templates or ijb; got {what}"
            )
        (kind,) = meant
        if kind == "galleries" and self.probes is None:
            raise RequestError("gallery needs probes to look up in it")
        for field in fields(self):
            given = getattr(self, field.name) not in (None, ())
            known = (_ITSELF[kind], *_TAKES[kind], "resamples", "seed")
            if given and field.name not in known:
                takers = [_ITSELF[k] for k, names in _TAKES.items() if field.name in names]
                raise RequestError(
                    f"{field.name} is for {' and '.join(takers)}, not for {_ITSELF[kind]}"
                )
        return kind

    def check_model(self, there: bool) -> None:
        """Check that there is a model, or a file of embeddings in its place, where one is needed.

        Args:
            there: whether there is one.

        Raises:
            ValueError: there is none; the message says what needs it.
        """
        kind = self.kind
        if there:
            return
        if kind != "galleries":
            raise ValueError(f"{_ITSELF[kind]} needs a model, or a file of embeddings in its place")
        for name in ("gallery", "probes", "distractors"):
            path = getattr(self, name)
            if path is not None and not is_embedding_file(path):
                raise ValueError(
                    f"{name} is {str(path)!r}, which is no file of embeddings, so give a model too"
                )


def evaluate_request(
    request: Request,
    subject: Subject | None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Make an evaluation.

    Args:
        request: what is asked for.
        subject: what is judged; None where ``request.check_model(False)`` passes.
        progress: called with the stage, the steps done and all of them.

    Returns:
        The result.

    Raises:
        ValueError: the request contradicts itself, or what the protocol raises.
        OSError: a file cannot be read.
    """
    kind = request.kind
    request.check_model(subject is not None)
    if request.pairs is not None and request.pairs.suffix.lower() in (".csv", ".tsv"):
        check_both_kinds(request.pairs, request.folds)
    settings = Settings(
        request.convention or "exact", request.by, request.far, request.resamples, request.seed
    )
    search = SearchSettings(
        request.ranks or RANKS,
        request.fpir or FPIR_LEVELS,
        request.person_score or "max",
        RESAMPLES if request.resamples is None else request.resamples,
        request.seed,
    )
    found = _evaluate(request, kind, subject, settings, search, progress)
    if isinstance(subject, ModelSubject):
        found = warn_of_trained_people(found, subject.trained_on)
    return found


def _evaluate(
    request: Request,
    kind: Kind,
    subject: Subject | None,
    settings: Settings,
    search: SearchSettings,
    progress: Progress | None,
) -> Evaluation:
    if kind == "galleries":
        assert request.gallery is not None
        assert request.probes is not None
        return evaluate_galleries(
            subject,
            request.gallery,
            request.probes,
            distractors=request.distractors,
            settings=search,
            progress=progress,
        )
    assert subject is not None  # or the check above had found that one is missing
    if kind == "pairs":
        assert request.pairs is not None
        return evaluate_pairs(
            subject,
            request.pairs,
            images=request.images,
            folds=request.folds,
            settings=settings,
            progress=progress,
        )
    weighting = request.weighting or "plain"
    if kind == "ijb":
        assert request.ijb is not None
        return evaluate_ijb(
            subject,
            request.ijb,
            images=request.images,
            weighting=weighting,
            settings=settings,
            search=search,
            progress=progress,
        )
    assert request.templates is not None
    return evaluate_templates(
        subject,
        request.templates,
        pairs=request.pairs,
        images=request.images,
        weighting=weighting,
        settings=settings,
        search=search,
        progress=progress,
    )


def opened_embeddings(path: str | os.PathLike[str]) -> EmbeddingsSubject:
    """Open a file of embeddings as what is judged.

    Raises:
        ValueError: the file is broken, or an embedding in it; the message has file and row.
    """
    return EmbeddingsSubject(Path(path), read_embeddings(path))
