"""The rates of one search: CMC in a closed set, TPIR at FPIR in an open one."""

from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.estimate import fewest_trials, rate_key
from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.scores import FloatArray, IntArray


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


def share_within(search: GallerySearch, rank: int) -> float:
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
    check_fpir(fpir)
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


def check_fpir(fpir: float) -> None:
    if not 0 < fpir < 1:
        raise ValueError(f"fpir must be in (0, 1), got {fpir}")
