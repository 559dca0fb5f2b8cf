"""Whether a threshold keeps its false accept rate on people it was not chosen on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.estimate import Estimate
from centerarc.evaluation.scores import check_folds, check_scores
from centerarc.evaluation.verification.calibration import calibrated_threshold
from centerarc.evaluation.verification.group_breakdown import breakdown


@dataclass(frozen=True)
class HeldOutFar:
    """What became of a wanted false accept rate on held-out folds.

    Attributes:
        wanted_far: the rate that the thresholds were chosen for.
        far: share of all impostor pairs that are accepted while their fold is held out.
        tar: the same of the genuine pairs.
        of_fold: the false accept rate of each fold by its number, at the threshold chosen on the
            others.
    """

    wanted_far: float
    far: Estimate
    tar: Estimate
    of_fold: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "far": self.far.to_dict(),
            "tar": self.tar.to_dict(),
            "far_of_fold": {str(fold): far for fold, far in self.of_fold.items()},
        }


def held_out_fars(
    scores: npt.ArrayLike,
    same: npt.ArrayLike,
    folds: npt.ArrayLike,
    fars: list[float],
    people: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[float, HeldOutFar]:
    """Choose thresholds for false accept rates on all folds but one, and try them on that one.

    Each fold in turn is held out; the threshold is that of
    :func:`centerarc.evaluation.calibrated_threshold` on the others. A threshold that was chosen on
    the very pairs it is judged by keeps its rate by construction; one that was not shows what the
    rate is worth.

    Args:
        scores: (P,) one similarity a pair, higher is more alike.
        same: (P,) True where both images of the pair show one person.
        folds: (P,) the number of each pair's fold, any integers.
        fars: wanted false accept rates, each in (0, 1).
        people: the first and the second person of each pair, each (P,). None: no intervals.
        bootstrap: resamples, at least 100.
        seed: of the resampling.

    Returns:
        By wanted rate; those are left out for which a choice would have fewer than 1 / FAR
        impostor pairs. Nothing with fewer than two folds.

    Raises:
        ValueError: arguments out of range or that contradict each other, or folds whose others
            hold only one kind of pair.

    Example:
        >>> scores, same = [0.9, 0.1, 0.3, 0.8, 0.2, 0.4], [1, 0, 0, 1, 0, 0]
        >>> found = held_out_fars(scores, same, [1, 1, 1, 2, 2, 2], [0.5])
        >>> found[0.5].far.value, found[0.5].of_fold
        (0.75, {1: 0.5, 2: 1.0})
    """
    values, labels = check_scores(scores, same)
    fold_of = check_folds(folds, values.size)
    numbers = np.unique(fold_of)
    if numbers.size < 2:
        return {}
    results = {}
    for far in fars:
        accepted = np.zeros(values.size, dtype=np.bool_)
        of_fold: dict[int, float] = {}
        for number in numbers.tolist():
            held_out = fold_of == number
            others = labels[~held_out]
            if others.all() or not others.any():
                kind = "impostor" if others.all() else "genuine"
                raise ValueError(
                    f"folds: without fold {number} no {kind} pair is left to choose a threshold on"
                )
            threshold = calibrated_threshold(values[~held_out], others, far).threshold
            if threshold is None:
                break
            accepted[held_out] = values[held_out] >= threshold
            impostor = held_out & ~labels
            if impostor.any():
                of_fold[number] = float(accepted[impostor].mean())
        else:
            # The answers as scores: one group whose rates and intervals are wanted.
            (group,) = breakdown(
                accepted.astype(np.float64),
                labels,
                np.zeros(values.size, dtype=np.int64),
                people,
                threshold=0.5,
                min_pairs=1,
                bootstrap=bootstrap,
                seed=seed,
            ).groups.values()
            results[far] = HeldOutFar(far, group.far, group.tar, of_fold)
    return results
