"""Accuracy, AUC, EER and TARs of 6000 pairs with intervals over people."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.metrics import auc, roc_curve

from centerarc.evaluation import evaluate_verification, kfold_accuracy
from centerarc.evaluation.intervals import PairPeople, draw_people

PAIRS, PEOPLE, FOLDS, RESAMPLES = 6000, 4281, 10, 1000
FARS = [1e-1, 1e-2, 1e-3]
Rates = npt.NDArray[np.float64]


class Pairs:
    """As many pairs, people and folds as LFW has; some people are hard in all of their pairs."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.same = np.arange(PAIRS) % 2 == 0
        first = rng.integers(PEOPLE, size=PAIRS)
        other = (first + rng.integers(1, PEOPLE, size=PAIRS)) % PEOPLE
        second = np.where(self.same, first, other)
        ease = 0.5 * rng.normal(size=PEOPLE)
        shift = np.where(self.same, 3 + ease[first], -(ease[first] + ease[second]) / 2)
        self.scores = np.tanh((shift + rng.normal(size=PAIRS)) / 4)
        self.folds = np.arange(PAIRS) // (PAIRS // FOLDS)
        self.people = first, second


def ours(pairs: Pairs, resamples: int) -> Rates:
    """Both ends of each interval, from the whole report."""
    report = evaluate_verification(
        pairs.scores, pairs.same, pairs.folds, pairs.people, bootstrap=resamples
    )
    found = [report.accuracy, report.auc, report.eer, *(report.tar_at_far[far] for far in FARS)]
    return np.array([(rate.interval.low, rate.interval.high) for rate in found if rate.interval])


def plain(pairs: Pairs, resamples: int) -> Rates:
    """The same of scikit-learn's weighted curve in a loop over resamples."""
    who = PairPeople(pairs.people, pairs.same)
    correct = kfold_accuracy(pairs.scores, pairs.same, pairs.folds).correct
    rows = []
    for drawn in draw_people(who.count, resamples, 0, 1):
        times = drawn[:, 0]
        weight = times[who.first] * np.where(pairs.same, 1.0, times[who.second])
        kinds = [np.average(correct[k], weights=weight[k]) for k in (pairs.same, ~pairs.same)]
        far, tar, _ = roc_curve(
            pairs.same, pairs.scores, sample_weight=weight, drop_intermediate=False
        )
        gap = far + tar - 1
        right = int(np.argmax(gap >= 0))
        share = -gap[right - 1] / (gap[right] - gap[right - 1])
        eer = far[right - 1] + share * (far[right] - far[right - 1])
        tars = [tar[far <= limit * (1 + 1e-12)].max() for limit in FARS]
        rows.append([np.mean(kinds), auc(far, tar), eer, *tars])
    return np.quantile(rows, [0.025, 0.975], axis=0).T


def works(resamples: int) -> dict[str, Callable[[], object]]:
    """Both that take turns.

    Raises:
        AssertionError: if they do not find the same intervals.
    """
    pairs = Pairs()
    few = min(resamples, 200)
    if not np.allclose(ours(pairs, few), plain(pairs, few), atol=1e-9):
        raise AssertionError("not the intervals of the plain loop")
    return {"ours": lambda: ours(pairs, resamples), "plain": lambda: plain(pairs, resamples)}
