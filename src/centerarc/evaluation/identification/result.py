"""Closed-set and open-set identification, with intervals over people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.bootstrap import EXTREMES
from centerarc.evaluation.estimate import Estimate, fewest_trials, rate_key
from centerarc.evaluation.identification.gallery_search import PERSON_SCORES, GallerySearch
from centerarc.evaluation.scores import FloatArray, IntArray

FPIR_LEVELS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10, 20)


@dataclass(frozen=True)
class OpenSetPoint:
    """An operating point of open-set identification.

    Attributes:
        tpir: true positive identification rate.
        fpir: false positive identification rate at the threshold; at most what was asked for.
        threshold: a probe is answered when its best score is at least this.
    """

    tpir: float
    fpir: float
    threshold: float


def cmc(search: GallerySearch, max_rank: int = 20) -> FloatArray:
    """Return the share of mated probes whose person is among the k best, for k = 1 to max_rank.

    Closed-set identification: probes whose person is not in the gallery do not count. People
    with equal scores rank before the probe's own person, so a model that gives everybody the
    same score finds nobody.

    Args:
        search: from :func:`centerarc.evaluation.identification.gallery_search.search_gallery`.
        max_rank: the last k, at least 1.

    Returns:
        (max_rank,) shares, not falling.

    Raises:
        ValueError: ``max_rank`` below 1, or no probe has its person in the gallery.
    """
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, got {max_rank}")
    ranks = _mate_ranks(search)
    found = np.bincount(np.minimum(ranks, max_rank + 1), minlength=max_rank + 2)
    return np.asarray(np.cumsum(found[1 : max_rank + 1]) / ranks.size, dtype=np.float64)


def _share_within(search: GallerySearch, rank: int) -> float:
    """One point of :func:`cmc`; of any rank, since no array is as long as it."""
    return float((_mate_ranks(search) <= min(rank, search.people.size)).mean())


def _mate_ranks(search: GallerySearch) -> IntArray:
    ranks = search.rank[search.mated]
    if not ranks.size:
        raise ValueError("no probe is of a person in the gallery; closed-set ranks need some")
    return ranks


def unsupported_fpir(fpir: float, num_nonmated: int) -> str | None:
    """Why so many probes without a mate cannot carry an FPIR; None if they can."""
    if num_nonmated >= (1 / fpir) * (1 - 1e-12):
        return None
    return (
        f"FPIR {rate_key(fpir)} needs at least {fewest_trials(fpir)} probes of people who are not "
        f"in the gallery, there are {num_nonmated:,}"
    )


def tpir_at_fpir(search: GallerySearch, fpir: float, *, rank: int = 1) -> OpenSetPoint:
    """Return the true positive identification rate at the lowest threshold with at most this FPIR.

    FPIR(t) is the share of probes without a mate whose best score in the gallery is at least t.
    TPIR(t) is the share of mated probes whose own person scores at least t and ranks within
    ``rank``. Ties are counted against the model, as in :func:`cmc`; nothing is interpolated.

    Args:
        search: from :func:`centerarc.evaluation.identification.gallery_search.search_gallery`.
        fpir: largest false positive identification rate, in (0, 1).
        rank: the mate must be among so many, at least 1.

    Returns:
        The operating point.

    Raises:
        ValueError: ``fpir`` or ``rank`` out of range, fewer than 1 / fpir probes without a mate,
            or no probe with one.
    """
    _check_fpir(fpir)
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    reason = unsupported_fpir(fpir, int((~search.mated).sum()))
    if reason is not None:
        raise ValueError(reason)
    if not search.mated.any():
        raise ValueError("no probe is of a person in the gallery; TPIR needs some")
    strangers = np.sort(search.other_score[~search.mated])[::-1]
    group_ends = np.flatnonzero(np.append(strangers[1:] != strangers[:-1], True)) + 1
    # A quotient of counts may miss the limit that it stands for by one rounding.
    allowed = group_ends[group_ends / strangers.size <= fpir * (1 + 1e-12)]
    accepted = int(allowed[-1]) if allowed.size else 0
    threshold = float(np.nextafter(strangers[accepted], np.inf))
    hit = (
        search.mated
        & (search.rank <= min(rank, search.people.size))
        & (search.mate_score >= threshold)
    )
    return OpenSetPoint(float(hit.sum() / search.mated.sum()), accepted / strangers.size, threshold)


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
    shares = [float(np.mean([_share_within(search, rank) for search in every])) for rank in ranks]
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


def _check_fpir(fpir: float) -> None:
    if not 0 < fpir < 1:
        raise ValueError(f"fpir must be in (0, 1), got {fpir}")


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
        _check_fpir(fpir)
    if bootstrap != 0 and bootstrap < 100:
        raise ValueError(f"bootstrap must be 0 or at least 100 resamples, got {bootstrap}")
