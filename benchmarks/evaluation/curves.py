"""Scores to a full ROC with the TAR at five FARs."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from benchmarks.evaluation.cases import CURVE_CASES
from sklearn.metrics import roc_curve

from centerarc.evaluation import roc, tar_at_far

FARS = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
Curve = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating], npt.NDArray[np.floating]]


def scores_of(case: str, count: int) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Cosines that overlap, and which are of genuine pairs."""
    single, share = CURVE_CASES[case]
    rng = np.random.default_rng(0)
    same = rng.random(count) < share
    scores = np.tanh(0.25 * rng.normal(size=count) + 0.5 * same)
    return scores.astype(np.float32 if single else np.float64), same


def plain(scores: npt.NDArray[np.floating], same: npt.NDArray[np.bool_]) -> Curve:
    """The formula as it is written down: sort the pairs by score, count both kinds."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    genuine = np.cumsum(same[order])[last]
    impostor = 1 + last - genuine
    far = np.concatenate([[0.0], impostor / impostor[-1]])
    tar = np.concatenate([[0.0], genuine / genuine[-1]])
    return far, tar, np.concatenate([[np.inf], ranked[last]])


def sklearn(scores: npt.NDArray[np.floating], same: npt.NDArray[np.bool_]) -> Curve:
    """scikit-learn's curve with all its points."""
    far, tar, threshold = roc_curve(same, scores, drop_intermediate=False)
    return far, tar, threshold


def ours(scores: npt.NDArray[np.floating], same: npt.NDArray[np.bool_]) -> Curve:
    """This library's."""
    curve = roc(scores, same)
    return curve.far, curve.tar, curve.threshold


def tars(curve: Curve) -> list[float]:
    """The five TARs of a curve."""
    at = np.searchsorted(curve[0], np.array(FARS) * (1 + 1e-12), side="right") - 1
    return [float(tar) for tar in curve[1][at]]


def works(count: int) -> dict[str, Callable[[], object]]:
    """All that take turns, as `<case>: <who>`.

    Raises:
        AssertionError: if they do not find the same.
    """
    found: dict[str, Callable[[], object]] = {}
    for case in CURVE_CASES:
        scores, same = scores_of(case, count)
        expected = sklearn(scores, same)
        for name, curve in (("sklearn", sklearn), ("plain", plain), ("ours", ours)):
            for mine, theirs in zip(curve(scores, same), expected, strict=True):
                if not np.array_equal(mine, theirs):
                    raise AssertionError(f"{name} is not scikit-learn's curve of {case}")
            found[f"{case}: {name}"] = _full(curve, scores, same)
        if tar_at_far(scores, same, FARS) != tars(expected):
            raise AssertionError(f"not scikit-learn's TARs of {case}")
        found[f"{case}: selection"] = _selection(scores, same)
    return found


def _full(
    curve: Callable[[npt.NDArray[np.floating], npt.NDArray[np.bool_]], Curve],
    scores: npt.NDArray[np.floating],
    same: npt.NDArray[np.bool_],
) -> Callable[[], object]:
    return lambda: tars(curve(scores, same))


def _selection(
    scores: npt.NDArray[np.floating], same: npt.NDArray[np.bool_]
) -> Callable[[], object]:
    return lambda: tar_at_far(scores, same, FARS)
