"""Identification rates, closed-set and open-set, with intervals over people."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from centerarc.evaluation.gallery import PERSON_SCORES, GallerySearch
from centerarc.evaluation.intervals import (
    EXTREMES,
    Estimate,
    TooFew,
    check_resamples,
    estimate,
    fields_of,
    rate_key,
    resampled,
)
from centerarc.evaluation.scores import ROUNDED_UP, BoolArray, FloatArray, IntArray, share_of

FPIR_LEVELS = (1e-1, 1e-2, 1e-3)
RANKS = (1, 5, 10, 20)
SearchConvention = Literal["exact", "insightface"]
SEARCH_CONVENTIONS = get_args(SearchConvention)


# The rates of one search: CMC in a closed set, TPIR at FPIR in an open one.


@dataclass(frozen=True)
class OpenSetPoint:
    """An operating point of open-set identification.

    A probe is answered when its best score is at least the threshold.
    """

    tpir: float  # true positive identification rate
    fpir: float  # false positive identification rate; at most what was asked for
    threshold: float


def cmc(search: GallerySearch, max_rank: int = 20) -> FloatArray:
    """Return the share of mated probes whose person is among the k best, for k = 1 to max_rank.

    Closed-set identification: probes whose person is not in the gallery do not count. People
    with equal scores rank before the probe's own person, so a model that gives everybody the
    same score finds no one.

    Args:
        search: from `centerarc.evaluation.search_gallery`.
        max_rank: the last k, at least 1.

    Returns:
        (max_rank,) shares, not falling; a `ValueError` where no probe has its person in the
        gallery.
    """
    if max_rank < 1:
        raise ValueError(f"max_rank must be at least 1, got {max_rank}")
    ranks = _mate_ranks(search)
    found = np.bincount(np.minimum(ranks, max_rank + 1), minlength=max_rank + 2)
    return np.asarray(np.cumsum(found[1 : max_rank + 1]) / ranks.size, dtype=np.float64)


def _mate_ranks(search: GallerySearch) -> IntArray:
    ranks = search.rank[search.mated]
    if not ranks.size:
        raise ValueError("no probe is of a person in the gallery; closed-set ranks need some")
    return ranks


def _within(search: GallerySearch, rank: int) -> BoolArray:
    """Which probes' mates rank within any rank, however large."""
    return np.asarray(search.mated & (search.rank <= min(rank, search.people.size)))


def tpir_at_fpir(search: GallerySearch, fpir: float, *, rank: int = 1) -> OpenSetPoint:
    """Return the true positive identification rate at the lowest threshold with at most this FPIR.

    FPIR(t) is the share of probes without a mate whose best score in the gallery is at least t.
    TPIR(t) is the share of mated probes whose own person scores at least t and ranks within
    `rank`. Ties are counted against the model, as in `cmc`; nothing is interpolated.

    Args:
        search: from `centerarc.evaluation.search_gallery`.
        fpir: largest false positive identification rate, in (0, 1).
        rank: the mate must be among so many, at least 1.

    Raises:
        ValueError: `fpir` or `rank` out of range, fewer than 1 / fpir probes without a mate,
            or no probe with one.
    """
    _check_fpir(fpir)
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    reason = TooFew.for_rate("FPIR", fpir, "unmated", int((~search.mated).sum()))
    if reason is not None:
        raise ValueError(str(reason))
    if not search.mated.any():
        raise ValueError("no probe is of a person in the gallery; TPIR needs some")
    strangers = np.sort(search.other_score[~search.mated])[::-1]
    group_ends = np.flatnonzero(np.append(strangers[1:] != strangers[:-1], True)) + 1
    allowed = group_ends[group_ends / strangers.size <= fpir * ROUNDED_UP]
    accepted = int(allowed[-1]) if allowed.size else 0
    threshold = float(np.nextafter(strangers[accepted], np.inf))
    hit = _within(search, rank) & (search.mate_score >= threshold)
    return OpenSetPoint(float(hit.sum() / search.mated.sum()), accepted / strangers.size, threshold)


def tpir_by_insightface(search: GallerySearch, fpir: float) -> OpenSetPoint:
    """Return insightface's TPIR, which counts the scores of other people instead of strangers.

    The threshold lies above the ceil(Q fpir)-th highest score of any of the Q probes and a person
    who is not its own; the rate is the share of probes whose own person scores at least the
    threshold, at whatever rank.

    Args:
        search: from `centerarc.evaluation.search_gallery` with `top_others`.
        fpir: wrong people above or at that score for each probe, in (0, 1).

    Raises:
        ValueError: `fpir` out of range, a search without such scores, a gallery of one person, or a
            probe without a mate.
    """
    _check_fpir(fpir)
    if not search.mated.all():
        who = search.probe_labels[int(np.argmin(search.mated))]
        raise ValueError(
            "convention 'insightface' needs the person of every probe in the gallery; "
            f"{str(who)!r} is not"
        )
    if not search.top_others.size:
        raise ValueError(
            "convention 'insightface' needs a search with top_others in a gallery of 2 people"
        )
    count = math.ceil(search.mated.size * fpir)
    threshold = float(np.nextafter(search.top_others[count - 1], np.inf))
    tpir = float(np.mean(search.mate_score >= threshold))
    return OpenSetPoint(tpir, (count - 1) / search.mated.size, threshold)


def _check_fpir(fpir: float) -> None:
    if not 0 < fpir < 1:
        raise ValueError(f"fpir must be in (0, 1), got {fpir}")


# The same rates in resamples of the people on the probes.


def resampled_rates(
    searches: Sequence[GallerySearch],
    ranks: Sequence[int],
    fpirs: Sequence[float],
    tpir_rank: int,
    resamples: int,
    seed: int,
    convention: SearchConvention = "exact",
) -> FloatArray:
    """Return the CMC and the TPIR at supported FPIRs in resamples, as means over galleries.

    (ranks + fpirs, `resamples`); NaN where a resample has no probe of a needed kind. The same
    people are drawn for searches of the same probes.
    """
    labels = np.concatenate([search.probe_labels for search in searches])
    people, person = np.unique(labels, return_inverse=True)
    parts = np.split(person.astype(np.int64), np.cumsum([s.mated.size for s in searches])[:-1])
    counters = [
        _rates_of_probes(search, part, people.size, ranks, fpirs, tpir_rank, convention)
        for search, part in zip(searches, parts, strict=True)
    ]

    def rates(drawn: FloatArray) -> FloatArray:
        return np.asarray(np.mean([counted(drawn) for counted in counters], axis=0))

    return resampled(rates, people.size, max(part.size for part in parts), resamples, seed)


def _rates_of_probes(
    search: GallerySearch,
    person: IntArray,
    num_people: int,
    ranks: Sequence[int],
    fpirs: Sequence[float],
    tpir_rank: int,
    convention: SearchConvention,
) -> Callable[[FloatArray], FloatArray]:
    """From draws (n, B) of the probes' people, by number (Q,), to CMC and TPIR."""

    def count(probes: BoolArray) -> FloatArray:
        return np.bincount(person[probes], minlength=num_people).astype(np.float64)

    mated, hits = count(search.mated), [count(_within(search, rank)) for rank in ranks]
    strangers = np.flatnonzero(~search.mated)
    strangers = strangers[np.argsort(-search.other_score[strangers], kind="stable")]
    score = search.other_score[strangers]
    by_scores = convention == "insightface"
    if by_scores:
        strangers, score, tpir_rank = search.top_probes, search.top_others, search.people.size
    # Equal scores are let in together, one group after the other.
    ends = np.flatnonzero(np.append(score[1:] != score[:-1], True)[: score.size])
    found = np.flatnonzero(_within(search, tpir_rank))
    found = found[np.argsort(-search.mate_score[found], kind="stable")]
    # How many mates score above the first stranger who is not let in any more.
    above = np.searchsorted(-search.mate_score[found], -score[ends], side="left")
    above = np.append(above, found.size)

    def rates(drawn: FloatArray) -> FloatArray:
        total = mated @ drawn
        rows = [share_of(hit @ drawn, total) for hit in hits]
        if fpirs:
            let_in = np.cumsum(drawn[person[strangers]], axis=0)
            fpir = share_of(let_in[ends], let_in[-1])
            none = np.zeros((1, drawn.shape[1]))
            mates = np.concatenate([none, np.cumsum(drawn[person[found]], axis=0)])
            for limit in fpirs:
                groups = (fpir <= limit * ROUNDED_UP).sum(axis=0)
                if by_scores:  # the group with the score that has to be exceeded
                    groups = (let_in[ends[:-1]] < np.ceil(total * limit)).sum(axis=0)
                reached = np.take_along_axis(mates, above[groups][None], axis=0)[0]
                rows.append(np.where(let_in[-1] > 0, share_of(reached, total), np.nan))
        return np.stack(rows)

    return rates


def mated_people(searches: Sequence[GallerySearch]) -> int:
    """People that a rate of exactly 0 or 1 rests on: of mated probes, in the poorest gallery."""
    return min(int(np.unique(search.probe_labels[search.mated]).size) for search in searches)


# The report.


@dataclass(frozen=True)
class IdentificationReport:
    """What searching galleries says about a model; the mean over galleries where there are some."""

    cmc: dict[int, Estimate]  # by rank, the share of mated probes within it (closed set)
    tpir_at_fpir: dict[float, Estimate]  # the share of mated probes that are found (open set)
    threshold_at_fpir: dict[float, list[float] | None]  # in each gallery; None without a value
    tpir_rank: int  # the mate must be within this rank to be found
    person_score: str  # how images make the score of a person: "max" or "mean"
    num_galleries: int  # galleries that were searched, each by all probes
    gallery_people: list[int]  # in each gallery
    gallery_images: list[int]
    distractors: list[int]  # people of each who are not a probe's mate
    mated: list[int]  # probes whose person is in it, for each
    nonmated: list[int]  # probes whose person is not, for each
    num_people: int  # distinct people among the probes
    resamples: int  # bootstrap resamples behind the intervals, 0 when there are none
    open_set: SearchConvention = "exact"  # the convention of `tpir_at_fpir`

    @property
    def convention(self) -> str:
        """How the numbers are defined, in a few sentences."""
        if self.open_set == "insightface":
            return (
                f"{PERSON_SCORES[self.person_score].capitalize()}. Closed set: share of the probes "
                "whose person ranks within k. TPIR at FPIR by the convention insightface: share of "
                "the probes whose person, at any rank, scores above the n-th highest score of any "
                "probe and another person, where n is FPIR times the number of probes, rounded up."
            )
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
            return "No intervals were asked for."
        return (
            f"95% percentile intervals over {self.resamples:,} bootstrap resamples of the "
            f"{self.num_people:,} people of the probes; galleries stay, thresholds are set again; "
            f"{EXTREMES}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "protocol": "identification: closed-set CMC, open-set TPIR at FPIR",
            "convention": self.convention,
            **fields_of(self, "person_score", "cmc", "tpir_rank"),
            "tpir_at_fpir": {
                rate_key(fpir): {**share.to_dict(), "thresholds": self.threshold_at_fpir[fpir]}
                for fpir, share in self.tpir_at_fpir.items()
            },
            **fields_of(self, "num_galleries", "gallery_people", "gallery_images", "distractors"),
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
    convention: SearchConvention = "exact",
) -> IdentificationReport:
    """Return CMC and TPIR at fixed FPIRs with 95% intervals over the people of the probes.

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
        convention: of the open set: "exact" is `tpir_at_fpir`, "insightface" is
            `tpir_by_insightface`, by which published numbers on IJB were made.

    Returns:
        The report. An FPIR that the probes without a mate cannot carry has no value but a reason.

    Raises:
        ValueError: arguments out of range, searches that differ in `person_score`, or a
            gallery that holds no probe's mate.

    Example:
        >>> from centerarc.evaluation import search_gallery
        >>> found = search_gallery([[1, 0], [0, 1]], [1, 2], [[3, 1], [2, 1], [1, 9]], [1, 2, 3])
        >>> report = evaluate_identification(found, ranks=(1, 2), fpirs=(0.5,), bootstrap=0)
        >>> {rank: share.value for rank, share in report.cmc.items()}
        {1: 0.5, 2: 1.0}
        >>> report.tpir_at_fpir[0.5].reason
        'FPIR 0.5 needs at least 2 probes of people who are not in the gallery, there are 1'
    """
    every = [searches] if isinstance(searches, GallerySearch) else list(searches)
    if not every:
        raise ValueError("searches must hold at least one search")
    kinds = {search.person_score for search in every}
    if len(kinds) > 1:
        raise ValueError(f"searches must share one person_score, got {' and '.join(sorted(kinds))}")
    if not ranks or min(ranks) < 1 or tpir_rank < 1:
        raise ValueError(f"ranks must be at least 1, got {list(ranks)} and tpir_rank {tpir_rank}")
    for fpir in fpirs:
        _check_fpir(fpir)
    check_resamples(bootstrap, or_none=True)
    nonmated = [int((~search.mated).sum()) for search in every]
    reasons = {fpir: TooFew.for_rate("FPIR", fpir, "unmated", min(nonmated)) for fpir in fpirs}
    point: Callable[[GallerySearch, float], OpenSetPoint] = partial(tpir_at_fpir, rank=tpir_rank)
    if convention == "insightface":
        reasons, point = dict.fromkeys(fpirs), tpir_by_insightface
    supported = [fpir for fpir in fpirs if reasons[fpir] is None]
    points = {fpir: [point(search, fpir) for search in every] for fpir in supported}
    rates = [
        np.mean([_within(s, rank).sum() / _mate_ranks(s).size for s in every]) for rank in ranks
    ]
    rates += [np.mean([point.tpir for point in points[fpir]]) for fpir in supported]
    moved: list[FloatArray | None] = [None] * len(rates)
    if bootstrap:
        moved = list(
            resampled_rates(every, ranks, supported, tpir_rank, bootstrap, seed, convention)
        )
    num_mated = mated_people(every)
    found = [estimate(*each, num_mated) for each in zip(rates, moved, strict=True)]
    tpir = {fpir: Estimate(None, too_few=reason) for fpir, reason in reasons.items()}
    tpir |= dict(zip(supported, found[len(ranks) :], strict=True))
    return IdentificationReport(
        cmc=dict(zip(ranks, found, strict=False)),
        tpir_at_fpir=tpir,
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
        num_people=int(np.unique(np.concatenate([s.probe_labels for s in every])).size),
        resamples=bootstrap,
        open_set=convention,
    )
