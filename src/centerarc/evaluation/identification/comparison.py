"""Models on the same probes and galleries: how far apart they are, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.bootstrap import check_resamples
from centerarc.evaluation.estimate import rate_key
from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.identification.intervals import mated_people, resampled_values
from centerarc.evaluation.identification.result import (
    FPIR_LEVELS,
    RANKS,
    evaluate_identification,
)
from centerarc.evaluation.verification.comparison import Difference


@dataclass(frozen=True)
class IdentificationComparison:
    """What a second model changes against a first one; more is better everywhere.

    Attributes:
        cmc: by rank.
        tpir_at_fpir: by FPIR.
        num_people: distinct people among the probes.
        resamples: bootstrap resamples.
    """

    cmc: dict[int, Difference]
    tpir_at_fpir: dict[float, Difference]
    num_people: int
    resamples: int

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        return (
            f"95 % percentile intervals of the difference over {self.resamples:,} bootstrap "
            f"resamples of the {self.num_people:,} people of the probes, the same for both models; "
            "galleries stay, thresholds are set anew; Wilson's (1927) for as many people where "
            "hardly any resample tells them apart."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "cmc": {str(rank): found.to_dict() for rank, found in self.cmc.items()},
            "tpir_at_fpir": {
                rate_key(f): found.to_dict() for f, found in self.tpir_at_fpir.items()
            },
            "num_people": self.num_people,
            "intervals": self.interval_method,
        }


def compare_identification(
    searches: Mapping[str, Sequence[GallerySearch]],
    *,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIR_LEVELS,
    tpir_rank: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, IdentificationComparison]:
    """Compare the first of several models with each of the others on the same probes.

    A paired bootstrap, as :func:`centerarc.evaluation.compare_verification` has it: each resample
    draws people and measures all models on their probes.

    Args:
        searches: by the model's name, one search for each gallery; at least two models.
        ranks: the k of the CMC, each at least 1.
        fpirs: false positive identification rates, in (0, 1).
        tpir_rank: the mate must be within this rank in the open set.
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        By the name of every model but the first: that model's rates minus the first one's. An
        FPIR that the probes without a mate cannot carry has no value but a reason.

    Raises:
        ValueError: fewer than two models, searches of different probes or galleries, or what
            :func:`centerarc.evaluation.identification.result.evaluate_identification` refuses.

    Example:
        >>> from centerarc.evaluation.identification.gallery_search import search_gallery
        >>> faces, who = [[1, 0], [0, 1]], [1, 2]
        >>> good = search_gallery(faces, who, [[3, 1], [1, 3]], who)
        >>> bad = search_gallery(faces, who, [[3, 1], [3, 2]], who)
        >>> found = compare_identification({"a": [good], "b": [bad]}, ranks=(1, 2), bootstrap=100)
        >>> {rank: difference.value for rank, difference in found["b"].cmc.items()}
        {1: -0.5, 2: 0.0}
    """
    if len(searches) < 2:
        raise ValueError(f"searches must be of at least 2 models, got {len(searches)}")
    check_resamples(bootstrap)
    _check_same(searches)
    reports = {
        name: evaluate_identification(
            found, ranks=ranks, fpirs=fpirs, tpir_rank=tpir_rank, bootstrap=0
        )
        for name, found in searches.items()
    }
    first, *others = searches
    reasons = {fpir: share.reason for fpir, share in reports[first].tpir_at_fpir.items()}
    supported = [fpir for fpir, reason in reasons.items() if reason is None]
    values = {
        name: resampled_values(found, ranks, supported, tpir_rank, bootstrap, seed)
        for name, found in searches.items()
    }
    mated = mated_people(searches[first])

    def compared(name: str) -> IdentificationComparison:
        rates = [
            [report.cmc[rank].value for rank in ranks]
            + [report.tpir_at_fpir[fpir].value for fpir in supported]
            for report in (reports[first], reports[name])
        ]
        both = zip(searches[first], searches[name], strict=True)
        identical = all(a.same_scores(b) for a, b in both)
        point = np.array(rates[1], dtype=np.float64) - np.array(rates[0], dtype=np.float64)
        found = [
            Difference.of(float(value), row, mated, identical=identical)
            for value, row in zip(point, values[name] - values[first], strict=True)
        ]
        tpirs = dict(zip(supported, found[len(ranks) :], strict=True))
        return IdentificationComparison(
            dict(zip(ranks, found, strict=False)),
            {fpir: tpirs.get(fpir, Difference(None, reason=reasons[fpir])) for fpir in fpirs},
            reports[first].num_people,
            bootstrap,
        )

    return {name: compared(name) for name in others}


def _check_same(searches: Mapping[str, Sequence[GallerySearch]]) -> None:
    (first, reference), *others = searches.items()
    for name, found in others:
        if len(found) != len(reference) or not all(
            np.array_equal(a.probe_labels, b.probe_labels) and np.array_equal(a.mated, b.mated)
            for a, b in zip(found, reference, strict=True)
        ):
            raise ValueError(f"{first} and {name} are not of the same probes and galleries")
