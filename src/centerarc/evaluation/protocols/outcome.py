"""What an evaluation found, whatever the protocol, and what its numbers rest on."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc import __version__
from centerarc.evaluation.estimate import rate_key
from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.identification.result import IdentificationReport
from centerarc.evaluation.protocols.pictures import Picture
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, ScoreArray
from centerarc.evaluation.separability.measure import Separability
from centerarc.evaluation.verification.answers import Convention
from centerarc.evaluation.verification.group_breakdown import Breakdown
from centerarc.evaluation.verification.held_out_far import HeldOutFar
from centerarc.evaluation.verification.result import VerificationReport

FORMAT = "centerarc evaluation 2"
Sides = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True)
class Settings:
    """How verification is judged.

    Attributes:
        convention: of the k-fold accuracy, "exact" or "grid".
        by: columns of the list of pairs to break down by, as
            :func:`centerarc.evaluation.protocols.judging.chosen_groups` takes them.
        fars: false accept rates beyond those that are always reported.
        resamples: of the people, at least 100; 0 for no intervals; None for 1000, and none
            beyond a million pairs, where they would take hours.
        seed: of the resampling.
    """

    convention: Convention = "exact"
    by: tuple[str, ...] = ()
    fars: tuple[float, ...] = ()
    resamples: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Verified:
    """A verification result and the pairs behind it.

    Attributes:
        report: the numbers.
        scores: (P,) cosine of each pair.
        same: (P,) whether it is genuine.
        fold: (P,) its fold; None where there are none.
        people: first and second person of each pair, each (P,); None where unknown.
        people_note: where the people come from, or why there are none or no intervals.
        index: number of each pair's first and second image, each (P,); of a template, one of its
            images. Empty in what comes from files.
        breakdowns: by column.
        held_out: what calibrated thresholds are worth on other folds, by FAR.
        settings: how it was judged.
    """

    report: VerificationReport
    scores: ScoreArray
    same: BoolArray
    fold: IntArray | None
    people: Sides | None
    people_note: str
    index: tuple[npt.NDArray[Any], ...]
    breakdowns: dict[str, Breakdown]
    held_out: dict[float, HeldOutFar]
    settings: Settings

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **self.report.to_dict(),
            "people": self.people_note,
            "held_out_fars": {
                rate_key(far): found.to_dict() for far, found in self.held_out.items()
            },
            "breakdowns": {column: found.to_dict() for column, found in self.breakdowns.items()},
            "settings": {
                "convention": self.settings.convention,
                "far": list(self.settings.fars),
                "resamples": self.report.resamples,
                "seed": self.settings.seed,
            },
        }


@dataclass(frozen=True, eq=False)
class Identified:
    """An identification result and the searches behind it.

    Attributes:
        report: the numbers.
        searches: one for each gallery.
        curve: (K,) CMC at rank 1, 2, ..., the mean over the galleries.
        seed: of the resampling.
    """

    report: IdentificationReport
    searches: list[GallerySearch]
    curve: FloatArray
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        settings = {"resamples": self.report.resamples, "seed": self.seed}
        return {**self.report.to_dict(), "settings": settings}


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """The images that were judged, for what is measured on embeddings and for the page.

    Attributes:
        embedding: (N, D).
        labels: (N,) person of each; None where nobody knows.
        identities: name of each label.
        place: name of each image.
        picture: gives an image; None where there are embeddings only.
    """

    embedding: npt.NDArray[np.float32]
    labels: IntArray | None
    identities: list[str]
    places: list[str]
    picture: Picture | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that one `centerarc evaluate` found.

    Attributes:
        model: what was judged, as a `Subject` says.
        data: what it was judged on, plain data for JSON.
        dataset: the same in a few words: "pairs.txt, folds 7 and 8".
        images: the images, in the order of `Verified.index` where that numbers images.
        verification: 1:1.
        identification: 1:N.
        separability: how tight and how far apart people are.
        templates: how images became templates; empty where they are judged one by one.
        names: names of what pairs are of, where that is not images: templates.
        notes: what should be known, in sentences.
        command: what repeats it.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    dataset: str
    images: JudgedImages
    verification: Verified | None = None
    identification: Identified | None = None
    separability: Separability | None = None
    templates: dict[str, Any] = field(default_factory=dict)
    names: list[str] | None = None
    notes: tuple[str, ...] = ()
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        parts = {
            "verification": self.verification,
            "identification": self.identification,
            "separability": self.separability,
        }
        return {
            "format": FORMAT,
            "version": __version__,
            "command": self.command,
            "model": self.model,
            "data": {"name": self.dataset, **self.data},
            **({"templates": self.templates} if self.templates else {}),
            **{name: part.to_dict() for name, part in parts.items() if part is not None},
            **({"notes": list(self.notes)} if self.notes else {}),
        }
