"""k-fold accuracy by the convention of arcface_torch, to compare with numbers published from it.

Its thresholds are 0, 0.01, ..., 3.99 on the squared L2 distance of unit embeddings, which is
2 - 2 cos. A pair is accepted when its distance is below the threshold. The threshold of a fold is
the one with the best accuracy on the other folds, the smallest of equals. The folds are the pairs
in their order cut into equal parts, without shuffling.
"""

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray
from centerarc.evaluation.verification.accuracy import FoldAccuracy, hold_out_each

_DISTANCES = np.arange(0, 4, 0.01)


def contiguous_folds(num_pairs: int, num_folds: int = 10) -> IntArray:
    """Cut pairs in their order into folds, as scikit-learn's ``KFold`` does without shuffling.

    Args:
        num_pairs: P, at least ``num_folds``.
        num_folds: how many, at least 2; the first ``P % num_folds`` have a pair more.

    Returns:
        (P,) fold numbers from 1, not decreasing.

    Raises:
        ValueError: ``num_folds`` below 2 or above ``num_pairs``.

    Example:
        >>> contiguous_folds(5, 2).tolist()
        [1, 1, 1, 2, 2]
    """
    if not 2 <= num_folds <= num_pairs:
        raise ValueError(f"num_folds must be from 2 to num_pairs = {num_pairs}, got {num_folds}")
    sizes = np.full(num_folds, num_pairs // num_folds)
    sizes[: num_pairs % num_folds] += 1
    return np.repeat(np.arange(1, num_folds + 1), sizes)


def grid_kfold_accuracy(
    scores: npt.ArrayLike, same: npt.ArrayLike, folds: npt.ArrayLike | None = None
) -> FoldAccuracy:
    """k-fold accuracy at thresholds from arcface_torch's grid of 400 distances.

    A coarser protocol than :func:`centerarc.evaluation.kfold_accuracy`: cosines are told apart in
    steps of 0.005.

    Args:
        scores: (P,) cosine of each pair, in [-1, 1].
        same: (P,) True where both images of the pair show one person.
        folds: (P,) the number of each pair's fold, any integers; None: ten
            :func:`contiguous_folds`.

    Returns:
        Accuracy of each fold and each pair's answer while held out. A threshold is the cosine
        1 - d / 2 of the distance d; here ``score > threshold`` is accepted.

    Raises:
        ValueError: fewer than two folds; folds whose others hold only one kind of pair; a score
            that is not finite or no cosine (with its row).

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

    result = hold_out_each(cosines, same, chosen, choose, accept)
    return FoldAccuracy(result.fold, result.accuracy, 1.0 - result.threshold / 2, result.correct)
