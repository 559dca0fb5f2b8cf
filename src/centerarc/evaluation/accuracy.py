"""Verification accuracy: thresholds chosen on some pairs, answers on others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import (
    BoolArray,
    FloatArray,
    IntArray,
    check_folds,
    check_scores,
    held_out_folds,
)

Convention = Literal["exact", "grid", "insightface"]
CONVENTIONS = {
    "exact": "thresholds halfway between neighboring scores, the highest of equally good ones",
    "grid": "arcface_torch: thresholds 0, 0.01, ..., 3.99 on the squared distance 2 - 2 cos, "
    "accepted below, the smallest of equally good ones",
    "insightface": "thresholds as exact; TAR at the FAR nearest to the wanted one, above or below "
    "(the higher of two as near), among the corners of the ROC",
}
# arcface_torch's thresholds on the squared L2 distance of unit embeddings.
_DISTANCES = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of each fold at the threshold chosen on all other folds."""

    fold: IntArray  # (k,) fold numbers, rising
    accuracy: FloatArray  # (k,) share of the fold's pairs that are answered rightly
    threshold: FloatArray  # (k,) chosen without the fold; accept `score >= threshold`
    correct: BoolArray  # (P,) whether each pair is answered rightly while its fold is held out

    @property
    def mean(self) -> float:
        """Mean over folds: the headline number of the LFW protocol."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Standard deviation over folds (divided by k - 1), not of the mean."""
        return float(self.accuracy.std(ddof=1))


def best_threshold(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """The threshold with the highest accuracy on these very pairs; accept `score >= threshold`.

    Candidates are the points halfway between neighboring distinct scores, the smallest score
    (accept all) and the next number above the largest (reject all). When several are equally
    accurate, the highest is taken: the fewest false accepts.

    Args:
        scores: (P,) one similarity a pair, higher is more alike; finite.
        same: (P,) True where both images of the pair show one person; pairs of both kinds.

    Example:
        >>> best_threshold([0.75, 0.5, 0.25], [True, False, False])
        0.625
    """
    values, labels = check_scores(scores, same)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    # After accepting the group that ends at `last`: each genuine pair adds a right answer,
    # each impostor pair takes one away.
    gain = np.cumsum(np.where(labels[order], 1, -1))[last]
    best = int(np.argmax(np.concatenate([[0], gain])))  # the first maximum: the highest threshold
    if best == 0:
        return float(np.nextafter(ranked[0], np.inf))
    lowest_accepted = ranked[last[best - 1]]
    if best == last.size:
        return float(lowest_accepted)
    highest_rejected = ranked[last[best - 1] + 1]
    middle = highest_rejected / 2 + lowest_accepted / 2
    # Between neighboring floats there is no middle; it must not round down onto the rejected.
    return float(middle if middle > highest_rejected else lowest_accepted)


def best_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Accuracy at the best threshold for these very pairs: optimistic, never a k-fold number.

    The threshold of `best_threshold`, whose arguments these are, has seen the answers, so
    this is an upper bound; see `kfold_accuracy`. A share in [0, 1].

    Example:
        >>> best_accuracy([0.9, 0.8, 0.3, 0.1], [True, False, False, False])
        1.0
    """
    values, labels = check_scores(scores, same)
    return float(np.mean((values >= best_threshold(values, labels)) == labels))


def kfold_accuracy(
    scores: npt.ArrayLike, same: npt.ArrayLike, folds: npt.ArrayLike
) -> FoldAccuracy:
    """Accuracy of every fold at the threshold that is best on all other folds together.

    The protocol of LFW (Huang, Ramesh, Berg, Learned-Miller 2007, View 2) for any k >= 2 folds of
    any size; report the mean over folds. The threshold is `best_threshold`'s.

    Args:
        scores, same: as of `best_threshold`.
        folds: (P,) the number of each pair's fold, any integers.

    Raises:
        ValueError: fewer than two folds; folds whose others hold only one kind of pair; a score
            that is not finite (with its row).

    Example:
        >>> result = kfold_accuracy([0.9, 0.1, 0.8, 0.6], [True, False, True, False], [1, 1, 2, 2])
        >>> result.accuracy.tolist(), result.mean
        ([1.0, 0.5], 0.75)
    """
    return _hold_out_each(scores, same, folds, best_threshold, lambda values, t: values >= t)


def _hold_out_each(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike,
    choose: Callable[[FloatArray, BoolArray], float],
    accept: Callable[[FloatArray, float], BoolArray],
) -> FoldAccuracy:
    """Accuracy of every fold at the threshold that `choose` finds on all other folds."""
    values, labels = check_scores(scores, same)
    numbers = check_folds(folds, values.size)
    distinct = np.unique(numbers)
    if distinct.size < 2:
        raise ValueError(
            f"folds must hold at least 2 different folds, got only {distinct[0]}: a threshold "
            "chosen on the pairs that it judges is best_accuracy, not k-fold accuracy"
        )
    thresholds, accuracies = np.empty(distinct.size), np.empty(distinct.size)
    correct = np.empty(values.size, dtype=np.bool_)
    for i, (_, held_out) in enumerate(held_out_folds(numbers, labels)):
        thresholds[i] = choose(values[~held_out], labels[~held_out])
        accepted = accept(values[held_out], float(thresholds[i]))
        correct[held_out] = accepted == labels[held_out]
        accuracies[i] = correct[held_out].mean()
    return FoldAccuracy(distinct, accuracies, thresholds, correct)


def contiguous_folds(num_pairs: int, num_folds: int = 10) -> IntArray:
    """Cut pairs in their order into folds, as scikit-learn's `KFold` does without shuffling.

    (P,) fold numbers from 1, not decreasing; the first `P % num_folds` folds have a pair more.

    Example:
        >>> contiguous_folds(5, 2).tolist()
        [1, 1, 1, 2, 2]
    """
    if not 2 <= num_folds <= num_pairs:
        raise ValueError(f"num_folds must be from 2 to num_pairs = {num_pairs}, got {num_folds}")
    sizes = np.full(num_folds, num_pairs // num_folds)
    sizes[: num_pairs % num_folds] += 1
    return np.repeat(np.arange(1, num_folds + 1), sizes)


def carrying_folds(folds: IntArray, same: BoolArray) -> tuple[IntArray | None, str]:
    """Folds that can carry an accuracy: as they are, or stratified where one holds a single kind.

    Stratified folds cut the pairs of each kind in their order into equal runs, as many as there
    were folds or as there are pairs of the rarer kind. For pairs whose kinds take turns these are
    the contiguous folds.

    Args:
        folds: (P,) the number of each pair's fold.
        same: (P,) whether each pair is genuine; pairs of both kinds.

    Returns:
        The folds, None where there are fewer than two, and what was done and why, "" for nothing.

    Example:
        >>> same = np.array([True, True, False, False])
        >>> folds, note = carrying_folds(np.array([1, 1, 2, 2]), same)
        >>> folds.tolist()
        [1, 2, 1, 2]
        >>> note
        'folds 1 and 2 of 2 hold pairs of one kind only; 2 stratified folds instead'
    """
    distinct, number = np.unique(folds, return_inverse=True)
    if distinct.size < 2:
        return None, ""
    genuine = np.bincount(number[same], minlength=distinct.size)
    lacking = distinct[(genuine == 0) | (genuine == np.bincount(number))]
    if not lacking.size:
        return folds, ""
    count = min(distinct.size, int(np.count_nonzero(same)), int(np.count_nonzero(~same)))
    names = [str(fold) for fold in lacking[:3]]
    shown = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    if lacking.size > 3:
        shown = f"{', '.join(names)} and {lacking.size - 3} more"
    one = lacking.size == 1
    note = (
        f"fold{'' if one else 's'} {shown} of {distinct.size} hold{'s' if one else ''} pairs of "
        "one kind only"
    )
    if count < 2:
        return None, f"{note}, and one kind has a single pair; the accuracy is the best one instead"
    stratified = np.empty_like(folds)
    for kind in (same, ~same):
        stratified[kind] = contiguous_folds(int(np.count_nonzero(kind)), count)
    return stratified, f"{note}; {count} stratified folds instead"


def check_convention(convention: str, folds: IntArray | None, same: BoolArray) -> None:
    """Raise a ValueError unless a convention is one of `CONVENTIONS` and fits the pairs' folds."""
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    carrying, note = (None, "") if folds is None else carrying_folds(folds, same)
    if convention == "grid" and carrying is None and not note:
        raise ValueError("convention 'grid' is one of k-fold accuracy; give at least 2 folds")
    if convention == "insightface" and carrying is not None:
        raise ValueError(
            "convention 'insightface' is one of TAR at FAR without folds; for the accuracy over "
            "folds give 'exact' or 'grid'"
        )


def grid_kfold_accuracy(
    scores: npt.ArrayLike, same: npt.ArrayLike, folds: npt.ArrayLike | None = None
) -> FoldAccuracy:
    """k-fold accuracy at thresholds from arcface_torch's grid of 400 distances.

    The convention of arcface_torch, to compare with numbers published from it; coarser than
    `kfold_accuracy`, since cosines are told apart in steps of 0.005. A pair is accepted when
    its squared L2 distance 2 - 2 cos is below the threshold, one of 0, 0.01, ..., 3.99: the one
    with the best accuracy on the other folds, the smallest of equals.

    Args:
        scores: (P,) cosine of each pair, in [-1, 1].
        same: (P,) True where both images of the pair show one person.
        folds: (P,) the number of each pair's fold, any integers; None: ten
            `contiguous_folds`.

    Returns:
        Accuracy of each fold and each pair's answer while held out. A threshold is the cosine
        1 - d / 2 of the distance d; here `score > threshold` is accepted.

    Raises:
        ValueError: as of `kfold_accuracy`, or a score that is not a cosine (with its row).

    Example:
        >>> scores, same = [0.903, 0.1, 0.803, 0.6], [True, False, True, False]
        >>> result = grid_kfold_accuracy(scores, same, [1, 1, 2, 2])
        >>> result.accuracy.tolist(), result.threshold.round(3).tolist()
        ([1.0, 0.5], [0.8, 0.9])
    """
    cosines = np.asarray(scores, dtype=np.float64)
    bad = np.flatnonzero(np.abs(cosines) > 1 + 1e-6)
    if bad.size:
        raise ValueError(
            f"scores must be cosines in [-1, 1] for the grid of distances, got {cosines[bad[0]]} "
            f"in row {bad[0]}"
        )
    chosen = contiguous_folds(cosines.size) if folds is None else folds

    def choose(values: FloatArray, labels: BoolArray) -> float:
        # The first distance that is above a pair's: there the pair is accepted from.
        first = np.searchsorted(_DISTANCES, 2.0 - 2.0 * values, side="right")
        gain = np.bincount(first, np.where(labels, 1, -1), minlength=_DISTANCES.size + 1)
        return float(_DISTANCES[np.argmax(np.cumsum(gain)[: _DISTANCES.size])])

    def accept(values: FloatArray, distance: float) -> BoolArray:
        return np.asarray(2.0 - 2.0 * values < distance)

    result = _hold_out_each(cosines, same, chosen, choose, accept)
    return FoldAccuracy(result.fold, result.accuracy, 1.0 - result.threshold / 2, result.correct)
