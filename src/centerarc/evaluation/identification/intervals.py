"""Identification rates in resamples of the people on the probes."""

from collections.abc import Sequence

import numpy as np

from centerarc.evaluation.bootstrap import Interval, draw_people, percentile_interval
from centerarc.evaluation.identification.gallery_search import GallerySearch
from centerarc.evaluation.scores import FloatArray, IntArray

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
