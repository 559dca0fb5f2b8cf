"""Closed-set and open-set identification, with intervals over people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.gallery import PERSON_SCORES, GallerySearch
from centerarc.evaluation.intervals import (
    EXTREMES,
    Estimate,
    Interval,
    TooFew,
    draw_people,
    percentile_interval,
    rate_key,
)
from centerarc.evaluation.scores import FloatArray, IntArray

# The rates of one search: CMC in a closed set, TPIR at FPIR in an open one.


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
        search: from :func:`centerarc.evaluation.gallery.search_gallery`.
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


def share_within(search: GallerySearch, rank: int) -> float:
    """One point of :func:`cmc`; of any rank, since no array is as long as it."""
    return float((_mate_ranks(search) <= min(rank, search.people.size)).mean())


def _mate_ranks(search: GallerySearch) -> IntArray:
    ranks = search.rank[search.mated]
    if not ranks.size:
        raise ValueError("no probe is of a person in the gallery; closed-set ranks need some")
    return ranks


def unsupported_fpir(fpir: float, num_nonmated: int) -> TooFew | None:
    """Why so many probes without a mate cannot carry an FPIR; None if they can."""
    if num_nonmated >= (1 / fpir) * (1 - 1e-12):
        return None
    return TooFew("unmated", num_nonmated, rate=("FPIR", fpir))


def tpir_at_fpir(search: GallerySearch, fpir: float, *, rank: int = 1) -> OpenSetPoint:
    """Return the true positive identification rate at the lowest threshold with at most this FPIR.

    FPIR(t) is the share of probes without a mate whose best score in the gallery is at least t.
    TPIR(t) is the share of mated probes whose own person scores at least t and ranks within
    ``rank``. Ties are counted against the model, as in :func:`cmc`; nothing is interpolated.

    Args:
        search: from :func:`centerarc.evaluation.gallery.search_gallery`.
        fpir: largest false positive identification rate, in (0, 1).
        rank: the mate must be among so many, at least 1.

    Returns:
        The operating point.

    Raises:
        ValueError: ``fpir`` or ``rank`` out of range, fewer than 1 / fpir probes without a mate,
            or no probe with one.
    """
    check_fpir(fpir)
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    reason = unsupported_fpir(fpir, int((~search.mated).sum()))
    if reason is not None:
        raise ValueError(str(reason))
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


def check_fpir(fpir: float) -> None:
    if not 0 < fpir < 1:
        raise ValueError(f"fpir must be in (0, 1), got {fpir}")


# Identification rates in resamples of the people on the probes.

# Weights of at most this many probes at once: 16 MB an array.
_CHUNK_VALUES = 2_000_000


class _Gallery:
    """What one search needs to be counted under many weightings of the probes' people.

    Args:
        search: the search.
        person: (Q,) number of each probe's person.
        num_people: how many there are.
        ranks: the k of the CMC.
        tpir_rank: rank within which a mate is found in the open set.
    """

    def __init__(
        self,
        search: GallerySearch,
        person: IntArray,
        num_people: int,
        ranks: Sequence[int],
        tpir_rank: int,
    ) -> None:
        mated, most = search.mated, search.people.size  # no array holds a rank of any length
        self._total = np.bincount(person[mated], minlength=num_people).astype(np.float64)
        hits = [
            np.bincount(person[mated & (search.rank <= min(rank, most))], minlength=num_people)
            for rank in ranks
        ]
        self._hits = np.stack(hits).astype(np.float64)
        strangers = np.flatnonzero(~mated)
        strangers = strangers[np.argsort(-search.other_score[strangers], kind="stable")]
        score = search.other_score[strangers]
        self._strangers = person[strangers]
        # Equal scores are let in together, one group after the other.
        self._ends = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: score.size])
        found = np.flatnonzero(mated & (search.rank <= min(tpir_rank, most)))
        found = found[np.argsort(-search.mate_score[found], kind="stable")]
        self._found = person[found]
        # How many mates score above the first stranger who is not let in any more.
        above = np.searchsorted(-search.mate_score[found], -score[self._ends], side="left")
        self._above = np.append(above, found.size)

    def rates(self, drawn: FloatArray, fpirs: Sequence[float]) -> FloatArray:
        """CMC and TPIR, (ranks + fpirs, B), where people are drawn (n, B) times.

        NaN where a resample has no probe of a needed kind.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            total = self._total @ drawn
            rows = [hits @ drawn / total for hits in self._hits]
            if fpirs:
                let_in = np.cumsum(drawn[self._strangers], axis=0)
                fpir = let_in[self._ends] / let_in[-1]
                none = np.zeros((1, drawn.shape[1]))
                found = np.concatenate([none, np.cumsum(drawn[self._found], axis=0)])
                for limit in fpirs:
                    groups = (fpir <= limit * (1 + 1e-12)).sum(axis=0)
                    tpir = np.take_along_axis(found, self._above[groups][None], axis=0)[0] / total
                    rows.append(np.where(let_in[-1] > 0, tpir, np.nan))
        return np.stack(rows)

    @property
    def size(self) -> int:
        """Weights that a resample takes."""
        return max(self._strangers.size, self._found.size, self._total.size)


def resampled_rates(
    searches: Sequence[GallerySearch],
    ranks: Sequence[int],
    fpirs: Sequence[float],
    tpir_rank: int,
    resamples: int,
    seed: int,
) -> list[Interval]:
    """Return the 95 % intervals of the rates of :func:`resampled_values`, in their order."""
    values = resampled_values(searches, ranks, fpirs, tpir_rank, resamples, seed)
    return [percentile_interval(row, mated_people(searches)) for row in values]


def resampled_values(
    searches: Sequence[GallerySearch],
    ranks: Sequence[int],
    fpirs: Sequence[float],
    tpir_rank: int,
    resamples: int,
    seed: int,
) -> FloatArray:
    """Return the CMC at some ranks and TPIR at some FPIRs in resamples of the probes' people.

    Args:
        searches: one for each gallery; the rates are means over them.
        ranks: the k of the CMC.
        fpirs: rates that the probes without a mate can carry.
        tpir_rank: rank within which a mate is found in the open set.
        resamples: how many resamples, at least 1.
        seed: of the drawing of people; the same people are drawn for searches of the same probes.

    Returns:
        (ranks + fpirs, ``resamples``); NaN where a resample has no probe of a needed kind.
    """
    labels = np.concatenate([search.probe_labels for search in searches])
    people, person = np.unique(labels, return_inverse=True)
    parts = np.split(person.astype(np.int64), np.cumsum([s.mated.size for s in searches])[:-1])
    galleries = [
        _Gallery(search, part, people.size, ranks, tpir_rank)
        for search, part in zip(searches, parts, strict=True)
    ]
    columns = max(1, _CHUNK_VALUES // max(gallery.size for gallery in galleries))
    rates = [
        np.mean([gallery.rates(drawn, fpirs) for gallery in galleries], axis=0)
        for drawn in draw_people(people.size, resamples, seed, columns)
    ]
    return np.concatenate(rates, axis=1)


def mated_people(searches: Sequence[GallerySearch]) -> int:
    """People that a rate of exactly 0 or 1 rests on: of mated probes, in the poorest gallery."""
    return min(int(np.unique(search.probe_labels[search.mated]).size) for search in searches)


# Closed-set and open-set identification, with intervals over people.

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
        tpir_at_fpir={
            fpir: tpir.get(fpir, Estimate(None, too_few=reasons[fpir])) for fpir in fpirs
        },
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
