"""What a user asks to be evaluated, as one object: which protocol, on which files, judged how."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from centerarc.evaluation.accuracy import Convention
from centerarc.evaluation.all_pairs_report import AllPairsSettings
from centerarc.evaluation.embedding import is_embedding_file
from centerarc.evaluation.files.pair_set import Missing
from centerarc.evaluation.protocols.all_pairs import evaluate_all_pairs
from centerarc.evaluation.protocols.images import evaluate_galleries, evaluate_pairs
from centerarc.evaluation.protocols.judging import Evaluation, SearchSettings, Settings
from centerarc.evaluation.protocols.subject import (
    ModelSubject,
    Progress,
    Subject,
    warn_of_trained_people,
)
from centerarc.evaluation.protocols.templates import evaluate_ijb, evaluate_templates

# What each protocol takes, by the field that stands for it.
_TAKES = {
    "pairs": ("images", "missing", "folds", "convention", "by", "far"),
    "templates": (
        *("pairs", "images", "missing", "weighting", "convention", "by", "far", "ranks", "fpir"),
    ),
    "ijb": ("images", "weighting", "convention", "far", "ranks", "fpir"),
    "all_pairs": ("pairs", "folds", "other_side", "far", "fpir"),
    "gallery": ("probes", "distractors", "person_score", "ranks", "fpir"),
}


class RequestError(ValueError):
    """A request that contradicts itself.

    Args:
        template: What is wrong, with a `{}` for each field of the request.
        named: The fields.
    """

    def __init__(self, template: str, *named: str) -> None:
        super().__init__(template.format(*named))
        self._template = template
        self._named = named

    def said(self, called: Callable[[str], str]) -> str:
        """Returns the message with each field as somebody calls it, such as by its flag."""
        return self._template.format(*map(called, self._named))


@dataclass(frozen=True)
class Request:
    """An evaluation to be made; None or empty means not specified.

    Attributes:
        pairs: Pairs of images, with `templates` of templates; with `all_pairs` their people.
        images: Folder of the images.
        missing: What is done about images that are not there: "error" or "skip".
        folds: Folds to keep.
        convention: How thresholds are chosen.
        by: Columns to break down by, as `chosen_groups` takes them.
        far: Further false accept rates.
        all_pairs: A source or file of embeddings of which all images are compared.
        other_side: The same images in another state.
        gallery, probes, distractors: Sources or files of embeddings.
        person_score: How the images of a person make a score.
        templates: A list of templates.
        ijb: A folder of metadata.
        weighting: How images make a template.
        ranks: Of the closed set.
        fpir: False positive identification rates.
        resamples: Of the people, at least 100; 0 for no intervals.
        seed: Of the resampling.

    Raises:
        ValueError: If a number is out of the range of `SearchSettings`.
    """

    pairs: Path | None = None
    images: Path | None = None
    missing: Missing | None = None
    folds: tuple[int, ...] | None = None
    convention: Convention | None = None
    by: tuple[str, ...] = ()
    far: tuple[float, ...] = ()
    all_pairs: Path | None = None
    other_side: Path | None = None
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
        self.search_settings()  # raises where a number is out of range
        if self.all_pairs is not None:
            self.all_pairs_settings()

    def search_settings(self) -> SearchSettings:
        """Returns how identification is judged."""
        given: dict[str, Any] = {
            "ranks": self.ranks,
            "fpirs": self.fpir,
            "person_score": self.person_score,
            "resamples": self.resamples,
            "convention": self.convention if self.convention == "insightface" else None,
        }
        chosen = {name: value for name, value in given.items() if value not in (None, ())}
        return SearchSettings(**chosen, seed=self.seed)

    def all_pairs_settings(self) -> AllPairsSettings:
        """Returns how all pairs are judged."""
        if len(self.fpir) > 1:
            raise ValueError(f"fpir must be one rate for all pairs, got {list(self.fpir)}")
        given: dict[str, Any] = {"fars": self.far, "seed": self.seed}
        if self.fpir:
            (given["fpir"],) = self.fpir
        if self.resamples is not None:
            given["resamples"] = self.resamples
        return AllPairsSettings(**given)

    @property
    def kind(self) -> str:
        """The field that stands for the protocol: pairs, templates, ijb, all_pairs or gallery.

        Raises:
            RequestError: If there is none, two at once, or something that is not for it.
        """
        meant = [name for name in _TAKES if getattr(self, name) is not None]
        if "pairs" in meant and {"templates", "all_pairs"} & {*meant}:
            meant.remove("pairs")  # they are of the templates, or name the people
        if len(meant) != 1:
            got = " and ".join(["{}"] * len(meant)) or "none"
            raise RequestError(
                f"give one of {{}}, {{}}, {{}} with {{}}, {{}} or {{}}; got {got}",
                *("pairs", "all_pairs", "gallery", "probes", "templates", "ijb"),
                *meant,
            )
        (kind,) = meant
        if kind == "gallery" and self.probes is None:
            raise RequestError("{} needs {} to look up in it", "gallery", "probes")
        if kind == "all_pairs" and self.folds is not None and self.pairs is None:
            raise RequestError("{} needs {}, whose people are taken", "folds", "pairs")
        for field in fields(self):
            given = getattr(self, field.name) not in (None, ())
            if given and field.name not in (kind, *_TAKES[kind], "resamples", "seed"):
                takers = [name for name, taken in _TAKES.items() if field.name in taken]
                named = " and ".join(["{}"] * len(takers))
                raise RequestError(f"{{}} is for {named}, not for {{}}", field.name, *takers, kind)
        if kind == "ijb" and self.convention == "grid":
            raise RequestError("{} grid is for {}, not for {}", "convention", "pairs", kind)
        return kind

    def check_model(self, there: bool) -> None:
        """Checks that there is a model, or a file of embeddings in its place, where one is needed.

        Raises:
            ValueError: If it is not `there`; the message says what needs it.
        """
        kind = self.kind
        if there:
            return
        if kind not in ("gallery", "all_pairs"):
            raise ValueError(f"{kind} needs a model, or a file of embeddings in its place")
        for name in ("all_pairs", "other_side", "gallery", "probes", "distractors"):
            path = getattr(self, name)
            if path is not None and not is_embedding_file(path):
                raise ValueError(
                    f"{name} is {str(path)!r}, which is not a file of embeddings; give a model too"
                )


def evaluate_request(
    request: Request, subject: Subject | None, *, progress: Progress | None = None
) -> Evaluation:
    """Makes an evaluation.

    Args:
        request: What is asked for.
        subject: What is judged; None where `request.check_model(False)` passes.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If the request contradicts itself, or what the protocol raises.
        OSError: If a file cannot be read.
    """
    request.check_model(subject is not None)
    settings = Settings(
        request.convention or "exact", request.by, request.far, request.resamples, request.seed
    )
    search = request.search_settings()
    kind, path = request.kind, getattr(request, request.kind)
    if kind == "all_pairs":
        found = evaluate_all_pairs(
            subject,
            path,
            pairs=request.pairs,
            folds=request.folds,
            other_side=request.other_side,
            settings=request.all_pairs_settings(),
            progress=progress,
        )
    elif kind == "gallery":
        assert request.probes is not None
        found = evaluate_galleries(
            subject,
            path,
            request.probes,
            distractors=request.distractors,
            settings=search,
            progress=progress,
        )
    else:
        assert subject is not None  # or the check above had found that one is missing
        missing = request.missing or "error"
        protocols: dict[str, Callable[..., Evaluation]] = {
            "pairs": partial(evaluate_pairs, folds=request.folds, missing=missing),
            "templates": partial(evaluate_templates, pairs=request.pairs, missing=missing),
            "ijb": evaluate_ijb,
        }
        evaluate = protocols[kind]
        if kind != "pairs":
            evaluate = partial(evaluate, weighting=request.weighting or "plain", search=search)
        found = evaluate(subject, path, images=request.images, settings=settings, progress=progress)
    if isinstance(subject, ModelSubject):
        found = warn_of_trained_people(found, subject.trained_on)
    return found
