"""All pairs of the images of some people, each person weighing the same, in a compact record.

A person with many images must not decide the result. So a genuine pair of person a, who has
g_a of them, weighs 1 / g_a, and an impostor pair of the people a and b, who have n_a and n_b
images, weighs 1 / (n_a n_b): every person with two images or more counts once in the true accept
rate, every two people count once in the false accept rate. With a weight w_a for each person, such
as how often a bootstrap draws it,

    TAR(t) = sum_a w_a TAR_a(t) / sum_a w_a,           over people with two images or more
    FAR(t) = sum_{a != b} w_a w_b FAR_ab(t) / sum_{a != b} w_a w_b

where TAR_a and FAR_ab are the plain shares of pairs with a score of at least t.

`score_all_pairs` in `centerarc.evaluation.all_pair_scores` makes the record from embeddings.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.intervals import TooFew
from centerarc.evaluation.scores import (
    ROUNDED_UP,
    Float32Array,
    FloatArray,
    IntArray,
    row_blocks,
    share_of,
)
from centerarc.io.files import atomic_path

FARS = (1e-2, 1e-3, 1e-4)
FPIR = 1e-2
FORMAT = "centerarc all pairs 1"
Int32Array = npt.NDArray[np.int32]
# Of the slope of the TAR: so far the rates are from the one of interest, as a factor.
_AROUND = 1.5
# Scores whose weights are taken at once.
_ROWS = 512
_Weigh = Callable[[slice], FloatArray]


@dataclass(frozen=True)
class TarPoint:
    """An operating point; a pair is accepted when its score is at least the threshold."""

    tar: float  # mean over the people with two images or more of the share of accepted pairs
    far: float  # mean over all two people of the share of accepted pairs; at most what was asked
    threshold: float


@dataclass(frozen=True, eq=False)
class AllPairs:
    """What all pairs of some images say, and all that a resampling of their people needs.

    People are numbered in the sorted order of their names. The arrays of scores fall. There are n
    people, G genuine pairs, T impostor pairs of the highest scores, M probes of people with two
    images or more, and S people with a single image.
    """

    people: npt.NDArray[np.str_]  # (n,) name of each person
    images: Int32Array  # (n,) images of each person, at least 1
    ordered: bool  # whether (a, b) and (b, a) are two pairs, as where the second side is degraded
    digest: str  # SHA-256 of which images these are and whose
    genuine_score: Float32Array  # (G,) cosine
    genuine_person: Int32Array  # (G,)
    tail_score: Float32Array  # (T,) cosine of the impostor pairs with the highest ones
    tail_first: Int32Array  # (T,) person of the first image
    tail_second: Int32Array  # (T,) person of the second one
    genuine_auc: FloatArray  # (n,) P(a's genuine > impostor) + P(equal) / 2; NaN for one image
    impostor_auc: FloatArray  # (n,) P(genuine > impostor of a) + P(equal) / 2
    eer: float  # equal error rate
    eer_threshold: float  # its threshold; NaN in files of older versions, which give no interval
    impostor_eer: FloatArray  # (n,) false accept rate of each person at it; NaN likewise
    person_far: float  # the rate of `person_threshold`
    person_threshold: FloatArray  # (n,) lowest threshold with at most this FAR for the person
    probe_score: Float32Array  # (M,) score of the probe's person where it ranks first, else -2
    probe_person: Int32Array  # (M,)
    stranger_score: Float32Array  # (S,) best score in the gallery of people who are not in it
    stranger_person: Int32Array  # (S,)
    curve_far: FloatArray  # (K,) rising
    curve_tar: FloatArray  # (K,) TAR at the lowest threshold with at most this FAR

    @property
    def num_people(self) -> int:
        """People, n."""
        return int(self.people.size)

    @property
    def num_images(self) -> int:
        """Images, N."""
        return int(self.images.sum())

    @property
    def num_genuine_people(self) -> int:
        """People with genuine pairs, that is, with two images or more."""
        return int(np.count_nonzero(self.images > 1))

    @property
    def num_genuine(self) -> int:
        """Genuine pairs, G."""
        return int(self.genuine_score.size)

    @property
    def num_impostor(self) -> int:
        """Impostor pairs; only those with the highest scores are kept."""
        own = self.images.astype(np.int64)
        ordered = self.num_images**2 - int((own**2).sum())
        return ordered if self.ordered else ordered // 2

    @property
    def num_people_pairs(self) -> int:
        """Pairs of two people, of equal weight in every false accept rate."""
        return self.num_people * (self.num_people - 1) // 2

    @property
    def auc(self) -> float:
        """Area under the curve of TAR against FAR; equal scores count half."""
        return float(np.nanmean(self.genuine_auc))

    @property
    def threshold_spread(self) -> float:
        """Standard deviation over people of the thresholds that they need; 0 for one threshold."""
        return float(self.person_threshold.std())

    def threshold_range(self) -> tuple[float, float]:
        """The 5% and the 95% quantile over people of the thresholds that they need."""
        low, high = np.quantile(self.person_threshold, [0.05, 0.95])
        return float(low), float(high)

    def too_few(self, far: float) -> TooFew | None:
        """Why there is no TAR at a FAR: fewer than 1 / FAR pairs of people; None if there is."""
        return TooFew.for_rate("FAR", far, "people pairs", self.num_people_pairs)

    def too_few_strangers(self, fpir: float = FPIR) -> TooFew | None:
        """Why there is no TPIR at an FPIR; None if there is."""
        return TooFew.for_rate("FPIR", fpir, "unmated", int(self.stranger_score.size))

    def tar_at_far(self, far: float) -> TarPoint:
        """The true accept rate at the lowest threshold with at most this false accept rate.

        Args:
            far: in (0, 1), at most what `score_all_pairs` kept scores for: 0.03 by default, 1 where
                they are few.

        Raises:
            ValueError: `far` out of range, fewer than 1 / far pairs of people, or more than the
                scores that are kept reach.
        """
        if not 0 < far < 1:
            raise ValueError(f"far must be in (0, 1), got {far}")
        reason = self.too_few(far)
        if reason is not None:
            raise ValueError(str(reason))
        ones = np.ones((self.num_people, 1))
        cut = self._impostor_cuts(ones, (far,))
        if np.isnan(cut[0, 0]):
            raise ValueError(f"far must be below what the kept impostor scores reach, got {far}")
        tar = self._genuine_above(ones, cut)[0, 0]
        above = np.searchsorted(-self.tail_score, -cut[0, 0], side="left")
        let_in = self._impostor_weights(ones)(slice(0, int(above))).sum()
        found = float(let_in / self._impostor_total(ones)[0])
        return TarPoint(float(tar), found, float(np.nextafter(cut[0, 0], np.inf)))

    def tpir(self, fpir: float = FPIR) -> float:
        """Open-set identification: the share of probes that are found, each person weighing same.

        The gallery has the first image of every person with two images or more; their other images
        are the probes that should be found, the images of all other people those that should not.
        A probe is found if its person ranks first and scores at least the lowest threshold at
        which at most the share `fpir` of the others finds anybody. Ties count against the model.

        Raises:
            ValueError: `fpir` out of (0, 1), or fewer than 1 / fpir people with a single image.
        """
        if not 0 < fpir < 1:
            raise ValueError(f"fpir must be in (0, 1), got {fpir}")
        reason = self.too_few_strangers(fpir)
        if reason is not None:
            raise ValueError(str(reason))
        return float(self.weighted_tpir(np.ones((self.num_people, 1)), (fpir,))[0, 0])

    # With weights for people.

    def weighted_tars(self, weights: FloatArray, fars: Sequence[float] = FARS) -> FloatArray:
        """TARs at FARs where people have weights, the thresholds found for these weights.

        Args:
            weights: (n, B) B times a weight at least 0 for each person.
            fars: F rates.

        Returns:
            (F, B); NaN where the weights leave no pairs, or the kept scores do not reach the rate.
        """
        return self._genuine_above(weights, self._impostor_cuts(weights, fars))

    def pair_effects(self, far: float) -> tuple[IntArray, FloatArray]:
        """What two people do to the TAR at a FAR by their accepted impostor pairs.

        Each two people who have some move the threshold, and so the TAR, by the share of their
        pairs that are accepted, times the slope of the TAR over the FAR between far / 1.5 and
        1.5 far, divided by the number of pairs of people.

        Args:
            far: in (0, 1), one that `tar_at_far` takes.

        Returns:
            (K,) which two people, a n + b with a < b, rising, and (K,) the effect of each. Empty
            where the kept scores do not reach the FAR.
        """
        ones = np.ones((self.num_people, 1))
        ends = far / _AROUND, far * _AROUND
        cut, low, high = self._impostor_cuts(ones, (far, *ends))
        if np.isnan(low).any() or np.isnan(cut).any():
            return np.empty(0, dtype=np.int64), np.empty(0)
        # Without a higher rate in reach the slope is that below.
        top, upper = (far, cut) if np.isnan(high).any() else (ends[1], high)
        tars = self._genuine_above(ones, np.stack([low, upper]))[:, 0]
        slope = float(tars[1] - tars[0]) / (top - ends[0])
        above = slice(0, int(np.searchsorted(-self.tail_score, -cut[0], side="left")))
        a = self.tail_first[above].astype(np.int64)
        b = self.tail_second[above].astype(np.int64)
        pairs, number = np.unique(
            np.minimum(a, b) * self.num_people + np.maximum(a, b), return_inverse=True
        )
        accepted = np.bincount(number, self._impostor_weights(ones)(above)[:, 0], pairs.size)
        effect = slope / float(self._impostor_total(ones)[0]) * accepted
        return pairs.astype(np.int64), np.asarray(effect, dtype=np.float64)

    def weighted_auc(self, weights: FloatArray) -> FloatArray:
        """The AUC where people have weights (n, B), to first order in them: (B,).

        Each person moves the area by its genuine pairs and, on both sides of a pair, by its
        impostor pairs; that two people move together is left out (Hajek's projection).
        """
        several = self.images > 1
        genuine, total = weights[several], weights.sum(axis=0)
        area = share_of(self.genuine_auc[several] @ genuine, genuine.sum(axis=0))
        impostor = share_of(self.impostor_auc @ weights, total) - float(self.impostor_auc.mean())
        return np.asarray(area + 2 * impostor, dtype=np.float64)

    def weighted_eer(self, weights: FloatArray) -> FloatArray:
        """The EER where people have weights (n, B), to first order in them: (B,).

        The misses m and the false accepts f of the weights at the threshold of the EER e move it to
        e + ((m - e) + d (f - e)) / (1 + d), with d the slope of the TAR over the FAR from e / 1.5
        to 1.5 e, as the threshold moves until both are equal.
        """
        ends = np.array([self.eer / _AROUND, min(self.eer * _AROUND, 1.0)])
        low, high = np.interp(ends, self.curve_far, self.curve_tar)
        slope = 0.0 if self.eer == 0 else (high - low) / (ends[1] - ends[0])
        # Accepted is a score of at least the threshold.
        cut = np.nextafter(np.float32(self.eer_threshold), np.float32(-2))
        ones = np.ones((self.num_people, 1))
        both = np.concatenate([ones, weights], axis=1)
        above = self._genuine_above(both, np.full((1, both.shape[1]), cut))[0]
        missed = above[0] - above[1:]
        total = weights.sum(axis=0)
        let_in = share_of(self.impostor_eer @ weights, total) - float(self.impostor_eer.mean())
        moved = self.eer + (missed + slope * 2 * let_in) / (1 + slope)
        return np.asarray(np.clip(moved, 0.0, 1.0), dtype=np.float64)

    def weighted_spread(self, weights: FloatArray) -> FloatArray:
        """The standard deviation of people's thresholds where people have weights (n, B): (B,).

        The thresholds themselves stay: each is against all people, whatever their weights.
        """
        total = weights.sum(axis=0)
        middle = share_of(self.person_threshold @ weights, total)
        square = share_of(self.person_threshold**2 @ weights, total)
        return np.asarray(np.sqrt(np.maximum(square - middle**2, 0.0)), dtype=np.float64)

    def weighted_tpir(self, weights: FloatArray, fpirs: Sequence[float] = (FPIR,)) -> FloatArray:
        """TPIRs at FPIRs where people have weights (n, B), with the gallery as it is: (F, B)."""

        def weigh(part: slice) -> FloatArray:
            return np.asarray(weights[self.stranger_person[part]])

        total = weights[self.stranger_person].sum(axis=0)
        cuts = _cuts(self.stranger_score, weigh, np.outer(fpirs, total))
        return _share_above(self.probe_score, self.probe_person, weights, cuts)

    def _impostor_weights(self, weights: FloatArray) -> _Weigh:
        each = 1.0 / self.images
        shared = weights * each[:, None]

        def weigh(part: slice) -> FloatArray:
            return np.asarray(shared[self.tail_first[part]] * shared[self.tail_second[part]])

        return weigh

    def _impostor_total(self, weights: FloatArray) -> FloatArray:
        both = weights.sum(axis=0) ** 2 - (weights**2).sum(axis=0)
        return np.asarray(both if self.ordered else both / 2, dtype=np.float64)

    def _impostor_cuts(self, weights: FloatArray, fars: Sequence[float]) -> FloatArray:
        limits = np.outer(fars, self._impostor_total(weights))
        return _cuts(self.tail_score, self._impostor_weights(weights), limits)

    def _genuine_above(self, weights: FloatArray, cuts: FloatArray) -> FloatArray:
        return _share_above(self.genuine_score, self.genuine_person, weights, cuts)

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record to an `.npz` file, complete or not at all; equal records, equal files.

        Raises:
            OSError: the file cannot be written.
        """
        arrays: dict[str, Any] = self.to_arrays()
        with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything as arrays by name, which `from_arrays` takes."""
        arrays = {name: np.asarray(getattr(self, name)) for name in _KINDS}
        return {"format": np.array(FORMAT), **arrays}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "AllPairs":
        """Read and check what `save` wrote.

        Raises:
            ValueError: no such file, damaged, or with values that contradict each other; the
                message has the path.
            OSError: the file cannot be read.
        """
        place = Path(path)
        try:
            with np.load(place, allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}
        except FileNotFoundError:
            raise ValueError(f"there is no file {os.fspath(path)!r}") from None
        except PermissionError:
            raise
        except Exception as error:  # a damaged zip file can fail in any way
            raise ValueError(f"cannot read {os.fspath(path)!r}: {error}") from error
        return cls.from_arrays(found, os.fspath(path))

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]], source: str) -> "AllPairs":
        """The record of arrays by name, as a file has them; a `ValueError` starts with `source`."""
        if str(arrays.get("format")) != FORMAT:
            raise ValueError(f"{source!r} does not hold all pairs ({FORMAT!r})")
        sizes: dict[str, int] = {}
        values: dict[str, Any] = {}
        for name, (kind, size) in _KINDS.items():
            value = arrays.get(name)
            if value is None and name in _LATER and "people" in values:
                value = np.full(values["people"].size if size else (), np.nan)
            shape = "()" if size == "" else f"({size},)"
            if value is None or value.ndim != (size != "") or value.dtype.kind not in kind:
                got = "nothing" if value is None else f"{value.dtype} {value.shape}"
                raise ValueError(f"{source!r}: {name} must have shape {shape}, got {got}")
            if size and sizes.setdefault(size, value.size) != value.size:
                raise ValueError(
                    f"{source!r}: {name} must have {sizes[size]} values, got {value.size}"
                )
            values[name] = value if size else value.item()
        record = cls(**values)
        problem = record._problem()
        if problem:
            raise ValueError(f"{source!r}: {problem}")
        return record

    def _problem(self) -> str:
        """What contradicts what in a record from a file; empty if nothing does."""
        if self.num_people < 2 or self.images.min() < 1 or self.images.max() < 2:
            return "images must be at least 1 of each of two people, and 2 of one of them"
        own = self.images.astype(np.int64)
        genuine = int((own * (own - 1)).sum()) // (1 if self.ordered else 2)
        if self.num_genuine != genuine:
            return f"genuine_score must have {genuine} values for these images"
        if self.probe_score.size != int((own[own > 1] - 1).sum()):
            return "probe_score must have a value for each image but the first of its person"
        if self.stranger_score.size != int((own == 1).sum()):
            return "stranger_score must have a value for each person with one image"
        for name in ("genuine", "probe", "stranger"):
            person = getattr(self, f"{name}_person")
            if person.size and not 0 <= person.min() <= person.max() < self.num_people:
                return f"{name}_person must be numbers of people"
        first, second = self.tail_first, self.tail_second
        both = np.concatenate([first, second])
        if not both.size or not 0 <= both.min() <= both.max() < self.num_people:
            return "tail_first and tail_second must be numbers of people"
        if (first == second).any():
            return "tail_first and tail_second must be of two people in every pair"
        for name in ("genuine_score", "tail_score", "probe_score", "stranger_score"):
            score = getattr(self, name)
            if not np.isfinite(score).all() or (np.diff(score) > 0).any():
                return f"{name} must be finite and fall"
        areas = (self.genuine_auc[own > 1], self.impostor_auc)
        if not all(((each >= 0) & (each <= 1 + 1e-9)).all() for each in areas):
            return "genuine_auc and impostor_auc must be in [0, 1]"
        if not np.isfinite(self.person_threshold).all() or not 0 < self.person_far < 1:
            return "person_threshold must be finite, at a person_far in (0, 1)"
        known = np.isfinite(self.eer_threshold)
        rates = self.impostor_eer
        if not (((rates >= 0) & (rates <= 1 + 1e-9)).all() if known else np.isnan(rates).all()):
            return "impostor_eer must be in [0, 1], at a finite eer_threshold"
        return "" if 0 <= self.eer <= 1 else "eer must be in [0, 1]"


# Kinds of each field of a file, and the letter of its length; "" for a single value.
_KINDS = {
    "people": ("U", "n"),
    "images": ("iu", "n"),
    "ordered": ("b", ""),
    "digest": ("U", ""),
    "genuine_score": ("f", "G"),
    "genuine_person": ("iu", "G"),
    "tail_score": ("f", "T"),
    "tail_first": ("iu", "T"),
    "tail_second": ("iu", "T"),
    "genuine_auc": ("f", "n"),
    "impostor_auc": ("f", "n"),
    "eer": ("f", ""),
    "eer_threshold": ("f", ""),
    "impostor_eer": ("f", "n"),
    "person_far": ("f", ""),
    "person_threshold": ("f", "n"),
    "probe_score": ("f", "M"),
    "probe_person": ("iu", "M"),
    "stranger_score": ("f", "S"),
    "stranger_person": ("iu", "S"),
    "curve_far": ("f", "K"),
    "curve_tar": ("f", "K"),
}


# Fields that files of older versions lack.
_LATER = ("eer_threshold", "impostor_eer")


def _cuts(scores: Float32Array, weigh: _Weigh, limits: FloatArray) -> FloatArray:
    """The highest scores that must be kept out, so that what is above them stays within limits.

    Args:
        scores: (T,) falling.
        weigh: gives the weights (k, B) of a part of them.
        limits: (F, B) the weight that may be let in.

    Returns:
        (F, B) everything strictly above is let in; NaN where all of the scores are within a limit.
    """
    found = np.full(limits.shape, np.nan)
    allowed = limits * ROUNDED_UP
    before = np.zeros(limits.shape[1])
    for part in row_blocks(scores.size, _ROWS):
        weight = weigh(part)
        after = before + weight.sum(axis=0)
        crossed = (after > allowed) & (before <= allowed) & np.isnan(found)
        for row, column in enumerate(crossed):
            columns = np.flatnonzero(column)
            if columns.size:
                running = before[columns] + np.cumsum(weight[:, columns], axis=0)
                # The sum over the block may round above what the running sum reaches.
                over = running > allowed[row, columns]
                over[-1] = True
                found[row, columns] = scores[part][over.argmax(axis=0)]
        before = after
        if not np.isnan(found).any():
            break
    return found


def _share_above(
    scores: Float32Array, person: Int32Array, weights: FloatArray, cuts: FloatArray
) -> FloatArray:
    """The mean over people of the shares of their scores that are above cuts.

    Args:
        scores: (G,) falling.
        person: (G,) the number of each one's person.
        weights: (n, B) of people.
        cuts: (F, B); NaN gives NaN.

    Returns:
        (F, B).
    """
    count = np.bincount(person, minlength=len(weights))
    there = count > 0
    shared = weights / np.maximum(count, 1)[:, None]
    unknown = np.isnan(cuts)
    # How many are strictly above.
    end = np.searchsorted(-scores, -np.where(unknown, np.inf, cuts), side="left")
    total = np.zeros(cuts.shape)
    for part in row_blocks(int(end.max(initial=0)), _ROWS):
        weight = shared[person[part]]
        whole = weight.sum(axis=0)
        for row, ends in enumerate(end):
            total[row] += np.where(ends >= part.stop, whole, 0.0)
            columns = np.flatnonzero((ends > part.start) & (ends < part.stop))
            if columns.size:
                inside = np.arange(part.start, part.stop)[:, None] < ends[columns]
                total[row, columns] += (weight[:, columns] * inside).sum(axis=0)
    found = share_of(total, weights[there].sum(axis=0))
    return np.where(unknown, np.nan, np.clip(found, 0.0, 1.0))
