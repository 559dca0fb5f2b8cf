"""Verification accuracy: a threshold chosen on some pairs, right or wrong answers on others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import (
    BoolArray,
    FloatArray,
    IntArray,
    check_folds,
    check_scores,
)


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of each fold at the threshold chosen on all other folds.

    Attributes:
        fold: (k,) fold numbers, rising.
        accuracy: (k,) share of the fold's pairs that are answered rightly.
        threshold: (k,) chosen without the fold; accept ``score >= threshold``.
        correct: (P,) whether each pair is answered rightly while its fold is held out.
    """

    fold: IntArray
    accuracy: FloatArray
    threshold: FloatArray
    correct: BoolArray

    @property
    def mean(self) -> float:
        """Mean over folds: the headline number of the LFW protocol."""
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        """Standard deviation over folds (divided by k - 1), not of the mean."""
        return float(self.accuracy.std(ddof=1))


def best_threshold(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """The threshold with the highest accuracy on these very pairs.

    Candidates are the points halfway between neighbouring distinct scores, the smallest score
    (accept all) and the next number above the largest (reject all). When several are equally
    accurate, the highest is taken: the fewest false accepts.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Returns:
        The threshold; accept ``score >= threshold``.

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

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
    # Between neighbouring floats there is no middle; it must not round down onto the rejected.
    return float(middle if middle > highest_rejected else lowest_accepted)


def best_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Accuracy at the best threshold for these very pairs: optimistic, never a k-fold number.

    The threshold has seen the answers, so this is an upper bound; see :func:`kfold_accuracy`.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: a score that is not finite (with its row), or no pair of one of the kinds.

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
    any size; report the mean over folds. The threshold is :func:`best_threshold`'s.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) the number of each pair's fold, any integers.

    Returns:
        Accuracy and threshold of each fold, and each pair's answer while held out.

    Raises:
        ValueError: fewer than two folds; folds whose others hold only one kind of pair; a score
            that is not finite (with its row).

    Example:
        >>> result = kfold_accuracy([0.9, 0.1, 0.8, 0.6], [True, False, True, False], [1, 1, 2, 2])
        >>> result.accuracy.tolist(), result.mean
        ([1.0, 0.5], 0.75)
    """
    return hold_out_each(scores, same, folds, best_threshold, lambda values, t: values >= t)


def hold_out_each(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike,
    choose: Callable[[FloatArray, BoolArray], float],
    accept: Callable[[FloatArray, float], BoolArray],
) -> FoldAccuracy:
    """Accuracy of every fold at what ``choose`` makes of all other folds together.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) the number of each pair's fold, any integers.
        choose: a threshold from scores and their kinds.
        accept: which scores a threshold accepts.

    Returns:
        Accuracy and threshold of each fold, and each pair's answer while held out.

    Raises:
        ValueError: as :func:`kfold_accuracy`.
    """
    values, labels = check_scores(scores, same)
    numbers = check_folds(folds, values.size)
    distinct = np.unique(numbers)
    if distinct.size < 2:
        raise ValueError(
            f"folds must hold at least 2 different folds, got only {distinct[0]}: a threshold "
            "chosen on the pairs that it judges is best_accuracy, not k-fold accuracy"
        )
    thresholds = np.empty(distinct.size)
    accuracies = np.empty(distinct.size)
    correct = np.empty(values.size, dtype=np.bool_)
    for i, fold in enumerate(distinct):
        held_out = numbers == fold
        others = labels[~held_out]
        if others.all() or not others.any():
            kind = "impostor" if others.all() else "genuine"
            raise ValueError(
                f"folds: without fold {fold} no {kind} pair is left to choose a threshold on"
            )
        thresholds[i] = choose(values[~held_out], others)
        accepted = accept(values[held_out], float(thresholds[i]))
        correct[held_out] = accepted == labels[held_out]
        accuracies[i] = correct[held_out].mean()
    return FoldAccuracy(distinct, accuracies, thresholds, correct)
