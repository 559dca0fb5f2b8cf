"""Closed-set and open-set identification, with intervals over people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.bootstrap import EXTREMES
from centerarc.evaluation.estimate import Estimate, rate_key
from centerarc.evaluation.identification.gallery_search import PERSON_SCORES, GallerySearch
from centerarc.evaluation.identification.rates import (
    check_fpir,
    share_within,
    tpir_at_fpir,
    unsupported_fpir,
)

FPIR_LEVELS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class IdentificationReport:
    """What searching galleries says about a model; the mean over galleries where there are some.

    Attributes:
        cmc: by rank, the share of mated probes whose person is within that rank (closed set).
        tpir_at_fpir: by FPIR, the share of mated probes that are found (open set).
        threshold_at_fpir: by FPIR, the threshold in each gallery; None where there is no value.
        tpir_rank: the mate must be within this rank to be found.
        person_score: how images make the score of a person: "max" or "mean".
        num_galleries: galleries that were searched, each by all probes.
        gallery_people: people in each gallery.
        gallery_images: images in each.
        distractors: people of each who are nobody's mate.
        mated: probes whose person is in it, for each.
        nonmated: probes whose person is not, for each.
        num_people: distinct people among the probes.
        resamples: bootstrap resamples behind the intervals, 0 when there are none.
    """

    cmc: dict[int, Estimate]
    tpir_at_fpir: dict[float, Estimate]
    threshold_at_fpir: dict[float, list[float] | None]
    tpir_rank: int
    person_score: str
    num_galleries: int
    gallery_people: list[int]
    gallery_images: list[int]
    distractors: list[int]
    mated: list[int]
    nonmated: list[int]
    num_people: int
    resamples: int

    @property
    def convention(self) -> str:
        """How the numbers are defined, in a few sentences."""
        over = f"; means over {self.num_galleries} galleries" if self.num_galleries > 1 else ""
        return (
            f"{PERSON_SCORES[self.person_score].capitalize()}. Closed set: share of the probes "
            "whose person is in the gallery and ranks within k. Open set: share of them whose "
            f"person ranks within {self.tpir_rank} and scores at least the threshold, the lowest "
            "at which at most the share FPIR of the other probes finds anybody. Equal scores "
            f"count against the model{over}."
        )

    @property
    def interval_method(self) -> str:
        """How the intervals came about, in one sentence."""
        if not self.resamples:
            return "None: no resamples were asked for."
        return (
            f"95 % percentile intervals over {self.resamples:,} bootstrap resamples of the "
            f"{self.num_people:,} people of the probes; galleries stay, thresholds are set anew; "
            f"{EXTREMES}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "protocol": "identification: closed-set CMC, open-set TPIR at FPIR",
            "convention": self.convention,
            "person_score": self.person_score,
            "cmc": {str(rank): share.to_dict() for rank, share in self.cmc.items()},
            "tpir_rank": self.tpir_rank,
            "tpir_at_fpir": {
                rate_key(fpir): {**share.to_dict(), "thresholds": self.threshold_at_fpir[fpir]}
                for fpir, share in self.tpir_at_fpir.items()
            },
            "num_galleries": self.num_galleries,
            "gallery_people": self.gallery_people,
            "gallery_images": self.gallery_images,
            "distractors": self.distractors,
            "mated_probes": self.mated,
            "nonmated_probes": self.nonmated,
            "num_people": self.num_people,
            "intervals": self.interval_method,
        }


def evaluate_identification(
    searches: GallerySearch | Sequence[GallerySearch],
    *,
    ranks: Sequence[int] = RANKS,
    fpirs: Sequence[float] = FPIR_LEVELS,
    tpir_rank: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> IdentificationReport:
    """Return CMC and TPIR at fixed FPIRs with 95 % intervals over the people of the probes.

    With several galleries, such as the two of IJB-B and IJB-C, every number is the mean over
    them; a resample draws a person's probes for all of them at once. The intervals say what other
    probe people would change, with the galleries as they are.

    Args:
        searches: one search, or one for each gallery.
        ranks: the k of the CMC, each at least 1; the share is 1 from as many as the gallery has
            people.
        fpirs: false positive identification rates, in (0, 1).
        tpir_rank: the mate must be within this rank in the open set.
        bootstrap: resamples, at least 100; 0 for no intervals.
        seed: of the resampling.

    Returns:
        The report. An FPIR that the probes without a mate cannot carry has no value but a reason.

    Raises:
        ValueError: arguments out of range, searches that differ in ``person_score``, or a
            gallery that holds nobody's mate.

    Example:
        >>> from centerarc.evaluation.identification.gallery_search import search_gallery
        >>> found = search_gallery([[1, 0], [0, 1]], [1, 2], [[3, 1], [2, 1], [1, 9]], [1, 2, 3])
        >>> report = evaluate_identification(found, ranks=(1, 2), fpirs=(0.5,), bootstrap=0)
        >>> {rank: share.value for rank, share in report.cmc.items()}
        {1: 0.5, 2: 1.0}
        >>> report.tpir_at_fpir[0.5].reason
        'FPIR 0.5 needs at least 2 probes of people who are not in the gallery, there are 1'
    """
    from centerarc.evaluation.identification.intervals import resampled_rates

    every = [searches] if isinstance(searches, GallerySearch) else list(searches)
    _check(every, ranks, fpirs, tpir_rank, bootstrap)
    shares = [float(np.mean([share_within(search, rank) for search in every])) for rank in ranks]
    nonmated = [int((~search.mated).sum()) for search in every]
    reasons = {fpir: unsupported_fpir(fpir, min(nonmated)) for fpir in fpirs}
    supported = [fpir for fpir in fpirs if reasons[fpir] is None]
    points = {
        fpir: [tpir_at_fpir(search, fpir, rank=tpir_rank) for search in every] for fpir in supported
    }
    num_people = int(np.unique(np.concatenate([s.probe_labels for s in every])).size)
    intervals: Sequence[Any] = [None] * (len(ranks) + len(supported))
    if bootstrap:
        intervals = resampled_rates(every, ranks, supported, tpir_rank, bootstrap, seed)
    tpir = {
        fpir: Estimate(float(np.mean([point.tpir for point in points[fpir]])), interval)
        for fpir, interval in zip(supported, intervals[len(ranks) :], strict=True)
    }
    return IdentificationReport(
        cmc={
            rank: Estimate(share, interval)
            for rank, share, interval in zip(ranks, shares, intervals[: len(ranks)], strict=True)
        },
        tpir_at_fpir={fpir: tpir.get(fpir, Estimate(None, reason=reasons[fpir])) for fpir in fpirs},
        threshold_at_fpir={
            fpir: [point.threshold for point in points[fpir]] if fpir in points else None
            for fpir in fpirs
        },
        tpir_rank=tpir_rank,
        person_score=every[0].person_score,
        num_galleries=len(every),
        gallery_people=[int(search.people.size) for search in every],
        gallery_images=[search.gallery_images for search in every],
        distractors=[search.num_distractors for search in every],
        mated=[int(search.mated.sum()) for search in every],
        nonmated=nonmated,
        num_people=num_people,
        resamples=bootstrap,
    )


def _check(
    searches: list[GallerySearch],
    ranks: Sequence[int],
    fpirs: Sequence[float],
    tpir_rank: int,
    bootstrap: int,
) -> None:
    if not searches:
        raise ValueError("searches must hold at least one search")
    kinds = {search.person_score for search in searches}
    if len(kinds) > 1:
        raise ValueError(f"searches must share one person_score, got {' and '.join(sorted(kinds))}")
    if not ranks or min(ranks) < 1 or tpir_rank < 1:
        raise ValueError(f"ranks must be at least 1, got {list(ranks)} and tpir_rank {tpir_rank}")
    for fpir in fpirs:
        check_fpir(fpir)
    if bootstrap != 0 and bootstrap < 100:
        raise ValueError(f"bootstrap must be 0 or at least 100 resamples, got {bootstrap}")
