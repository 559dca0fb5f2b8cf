"""Searches of galleries to every number of an identification result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.identification.result import (
    FPIR_LEVELS,
    RANKS,
    cmc,
    evaluate_identification,
)
from centerarc.evaluation.protocols.outcome import Identified

_CURVE_RANKS = 100


@dataclass(frozen=True)
class SearchSettings:
    """How identification is judged.

    Attributes:
        ranks: the k of the closed set that are reported.
        fpirs: false positive identification rates of the open set.
        person_score: how the images of a person make a score: "max" or "mean".
        resamples: of the probes' people, at least 100; 0 for no intervals.
        seed: of the resampling.
    """

    ranks: tuple[int, ...] = RANKS
    fpirs: tuple[float, ...] = FPIR_LEVELS
    person_score: str = "max"
    resamples: int = 1000
    seed: int = 0


def judge_searches(searches: Sequence[GallerySearch], settings: SearchSettings) -> Identified:
    """Measure everything that searches can say.

    Args:
        searches: one for each gallery.
        settings: how to judge.

    Raises:
        ValueError: settings out of range, or a gallery that holds nobody's mate.
    """
    report = evaluate_identification(
        searches,
        ranks=settings.ranks,
        fpirs=settings.fpirs,
        bootstrap=settings.resamples,
        seed=settings.seed,
    )
    last = min(max(_CURVE_RANKS, *settings.ranks), min(search.people.size for search in searches))
    curve = np.mean([cmc(search, last) for search in searches], axis=0)
    return Identified(report, list(searches), curve, settings.seed)
