"""What a report is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.identification.result import IdentificationReport
from centerarc.evaluation.scores import ScoreArray
from centerarc.evaluation.separability.measure import Separability
from centerarc.evaluation.verification.group_breakdown import Breakdown
from centerarc.evaluation.verification.held_out_far import HeldOutFar
from centerarc.evaluation.verification.result import VerificationReport

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class FaceSample:
    """Faces for the map of embeddings and the strip of examples.

    Attributes:
        images: N images, each uint8 (H, W, 3) RGB.
        labels: (N,) identity of each.
        names: what to call each identity; ``names[label]``.
        embeddings: (N, D), any length but 0.
    """

    images: Sequence[Image]
    labels: npt.NDArray[np.int64]
    names: Sequence[str]
    embeddings: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        sizes = (len(self.images), len(self.labels), len(self.embeddings))
        if len(set(sizes)) != 1:
            raise ValueError(
                "images, labels and embeddings of a FaceSample must be equally many, got "
                f"{sizes[0]}, {sizes[1]} and {sizes[2]}"
            )


@dataclass(frozen=True)
class SearchCurves:
    """An identification result and its curves.

    Attributes:
        report: the numbers.
        cmc: (K,) closed-set share found within rank 1, 2, ..., K.
        fpir: (F,) open-set false positive rates.
        tpir: (F,) what is found at each of them.
    """

    report: IdentificationReport
    cmc: npt.NDArray[np.float64]
    fpir: npt.NDArray[np.float64]
    tpir: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows; what is left empty is left out of the page.

    Attributes:
        title: the page's heading.
        verification: the numbers of 1:1; None for a page on identification alone.
        scores: (P,) cosine of each pair.
        same: (P,) whether each pair is genuine.
        dataset: what was judged, for a sentence: "LFW, folds 7 and 8".
        pair_names: the two people of each pair.
        pair_images: gives the two images of a pair by its number; asked for the few shown only.
        history: training rows in order, with ``step`` and any of ``arcface_loss``,
            ``center_loss``, ``target_cosine`` and ``accuracy``; other keys are ignored.
        validation: validation rows in order, with ``step`` and any of ``auc``, ``accuracy`` and
            ``best_accuracy``; other keys are ignored.
        faces: faces for the map and the strip.
        protocol: further facts on how the numbers came about: (name, sentence).
        config: the recipe as YAML.
        command: what repeats the run.
        held_out: what calibrated thresholds did on held-out folds, by FAR.
        breakdowns: by column.
        search: 1:N.
        separability: how tight and how far apart people are.
        notes: what should be known of the numbers, in sentences.
        pictures_note: what the pictures of pairs are of, or how to have some, in a sentence.
    """

    title: str
    verification: VerificationReport | None
    scores: ScoreArray
    same: npt.NDArray[np.bool_]
    dataset: str
    pair_names: Sequence[tuple[str, str]] = ()
    pair_images: Callable[[int], tuple[Image, Image]] | None = None
    history: Sequence[Mapping[str, Any]] = ()
    validation: Sequence[Mapping[str, Any]] = ()
    faces: FaceSample | None = None
    protocol: Sequence[tuple[str, str]] = field(default=())
    config: str = ""
    command: str = ""
    held_out: Mapping[float, HeldOutFar] = field(default_factory=dict)
    breakdowns: Mapping[str, Breakdown] = field(default_factory=dict)
    search: SearchCurves | None = None
    separability: Separability | None = None
    notes: Sequence[str] = ()
    pictures_note: str = ""

    def __post_init__(self) -> None:
        if self.verification is None and self.search is None:
            raise ValueError("a report needs verification or search, got neither")
