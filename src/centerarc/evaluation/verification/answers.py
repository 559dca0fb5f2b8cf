"""Each pair answered once, by a threshold that has not seen it where there are folds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.ranked_pairs import WeightedCurves
from centerarc.evaluation.scores import BoolArray, FloatArray, check_folds
from centerarc.evaluation.verification.accuracy import best_threshold, kfold_accuracy
from centerarc.evaluation.verification.grid_accuracy import grid_kfold_accuracy

Convention = Literal["exact", "grid"]
CONVENTIONS = {
    "exact": "thresholds halfway between neighbouring scores, the highest of equally good ones",
    "grid": "arcface_torch: thresholds 0, 0.01, ..., 3.99 on the squared distance 2 - 2 cos, "
    "accepted below, the smallest of equally good ones",
}


@dataclass(frozen=True)
class Answers:
    """The accuracy of a protocol and the answers behind it.

    Attributes:
        protocol: "k-fold" or "best_accuracy".
        accuracy: the protocol's number.
        threshold: the mean of the folds' thresholds, or the best threshold.
        fold_accuracy: accuracy of each fold by number; empty without folds.
        fold_std: standard deviation over folds (k - 1); None without folds.
        correct: (P,) whether each pair is answered rightly.
        share: (P,) what each pair counts in the accuracy; they add up to 1.
        same: (P,) whether each pair is genuine.
    """

    protocol: str
    accuracy: float
    threshold: float
    fold_accuracy: dict[int, float]
    fold_std: float | None
    correct: BoolArray
    share: FloatArray
    same: BoolArray

    def resampled_accuracy(self, curves: WeightedCurves) -> FloatArray:
        """The accuracy under B weightings of the pairs, each kind of pair keeping its share."""
        total = np.zeros(curves.genuine.shape[1])
        right = curves.weighted(self.share * self.correct)
        whole = curves.weighted(self.share)
        for kind, good, every in zip((self.same, ~self.same), right, whole, strict=True):
            with np.errstate(invalid="ignore", divide="ignore"):
                total += self.share[kind].sum() * good / every
        return total


def answer_pairs(
    scores: FloatArray, same: BoolArray, folds: npt.ArrayLike | None, convention: Convention
) -> Answers:
    """Answer checked pairs.

    Args:
        scores: (P,) finite.
        same: (P,).
        folds: (P,) integers; None or a single fold: the threshold is the best for all pairs.
        convention: of the k-fold accuracy.

    Returns:
        The answers.

    Raises:
        ValueError: an unknown convention, "grid" without several folds, folds that are not (P,)
            integers or whose others hold only one kind of pair.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    fold_of = None if folds is None else check_folds(folds, scores.size)
    if fold_of is None or np.unique(fold_of).size == 1:
        if convention == "grid":
            raise ValueError("convention 'grid' is one of k-fold accuracy; give at least 2 folds")
        threshold = best_threshold(scores, same)
        correct = (scores >= threshold) == same
        share = np.full(scores.size, 1 / scores.size)
        accuracy = float(correct.mean())
        return Answers("best_accuracy", accuracy, threshold, {}, None, correct, share, same)
    measure = kfold_accuracy if convention == "exact" else grid_kfold_accuracy
    found = measure(scores, same, fold_of)
    number = np.searchsorted(found.fold, fold_of)
    return Answers(
        "k-fold",
        found.mean,
        float(found.threshold.mean()),
        dict(zip(found.fold.tolist(), found.accuracy.tolist(), strict=True)),
        found.std,
        found.correct,
        # Folds count alike, whatever their size.
        1 / (found.fold.size * np.bincount(number)[number]),
        same,
    )
