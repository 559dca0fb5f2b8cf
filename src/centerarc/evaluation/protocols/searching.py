"""Searches of galleries to every number of an identification result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.identification.gallery_search import PERSON_SCORES, GallerySearch
from centerarc.evaluation.identification.rates import cmc
from centerarc.evaluation.identification.result import FPIR_LEVELS, RANKS, evaluate_identification
from centerarc.evaluation.protocols.outcome import Identified

_CURVE_RANKS = 100


@dataclass(frozen=True)
class SearchSettings:
    """How identification is judged.

    Attributes:
        ranks: the k of the closed set that are reported, each at least 1.
        fpirs: false positive identification rates of the open set, in (0, 1).
        person_score: how the images of a person make a score: "max" or "mean".
        resamples: of the probes' people, at least 100; 0 for no intervals.
        seed: of the resampling, at least 0.

    Raises:
        ValueError: one of them is out of range.
    """

    ranks: tuple[int, ...] = RANKS
    fpirs: tuple[float, ...] = FPIR_LEVELS
    person_score: str = "max"
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        # Here and not after the work: images take long to embed.
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError(f"ranks must be at least 1, got {list(self.ranks)}")
        for fpir in self.fpirs:
            if not 0 < fpir < 1:
                raise ValueError(f"fpir must be in (0, 1), got {fpir}")
        if self.person_score not in PERSON_SCORES:
            allowed = " or ".join(PERSON_SCORES)
            raise ValueError(f"person_score must be {allowed}, got {self.person_score!r}")
        if self.resamples != 0 and self.resamples < 100:
            raise ValueError(f"resamples must be 0 or at least 100, got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


def shared_note(count: int, probes: int) -> tuple[str, ...]:
    """A note on probes that are in the gallery themselves, where any model finds them.

    Args:
        count: how many of the probes are.
        probes: how many probes there are.

    Returns:
        The note; nothing where there is nothing to say.
    """
    if not count:
        return ()
    are = "is" if count == 1 else "are"
    return (
        f"{count:,} of {probes:,} probes {are} also in the gallery: any model finds an image that "
        "it has seen, so these say nothing of it",
    )


def judge_searches(searches: Sequence[GallerySearch], settings: SearchSettings) -> Identified:
    """Measure everything that searches can say.

    Args:
        searches: one for each gallery.
        settings: how to judge.

    Raises:
        ValueError: a gallery holds nobody's mate.
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
