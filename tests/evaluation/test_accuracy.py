"""Thresholds and k-fold accuracy, worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.evaluation.accuracy import best_accuracy, best_threshold, kfold_accuracy


def test_threshold_lies_halfway_and_the_highest_of_equals_wins():
    assert best_threshold([0.75, 0.25], [1, 0]) == 0.5
    # One mistake both at 0.625 (rejects 0.5) and at 0.3125 (accepts 0.375): the stricter.
    assert best_threshold([0.75, 0.5, 0.375, 0.25], [1, 0, 1, 0]) == 0.625


def test_thresholds_at_the_ends():
    assert best_threshold([0.2, 0.4, 0.9], [1, 1, 0]) == 0.2  # accepting all is best
    rejecting = best_threshold([0.2, 0.4, 0.9], [1, 0, 0])
    assert rejecting > 0.9  # rejecting all is best, the highest of equals
    assert best_accuracy([0.2, 0.4, 0.9], [1, 0, 0]) == pytest.approx(2 / 3)


def test_neighbouring_floats_are_still_told_apart():
    low = 0.3
    high = np.nextafter(low, 1)
    assert best_accuracy([high, low], [1, 0]) == 1.0


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=25).filter(
        lambda pairs: 0 < sum(s for _, s in pairs) < len(pairs)
    )
)
def test_no_threshold_is_better_than_the_best(pairs):
    scores = np.array([score for score, _ in pairs], dtype=float)
    same = np.array([s for _, s in pairs])
    tried = [np.mean((scores >= t) == same) for t in np.arange(-6, 7) - 0.5]
    assert best_accuracy(scores, same) == pytest.approx(max(tried))


def test_each_fold_is_judged_by_the_others():
    #          fold 1                 fold 2                 fold 3
    scores = [0.75, 0.5, 0.375, 0.25, 0.875, 0.625, 0.5, 0.0, 1.0, 0.75, 0.125, 0.0]
    same = [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    folds = [1] * 4 + [2] * 4 + [3] * 4
    result = kfold_accuracy(scores, same, folds)
    # Without fold 1: genuine from 0.625, impostors to 0.5 -> 0.5625, which rejects its 0.5.
    # Without fold 2: genuine from 0.5, impostors to 0.375 -> 0.4375, which accepts its 0.5.
    # Without fold 3: 0.5 is a genuine and an impostor. Highest of equals: 0.5625.
    assert result.threshold.tolist() == [0.5625, 0.4375, 0.5625]
    assert result.accuracy.tolist() == [0.75, 0.75, 1.0]
    assert result.correct.tolist() == [True, False, True, True] + [True, True, False] + [True] * 5
    assert result.mean == pytest.approx(2.5 / 3)
    assert result.std == pytest.approx(np.sqrt((2 * (1 / 12) ** 2 + (1 / 6) ** 2) / 2))


def test_a_held_out_fold_does_not_choose_its_threshold():
    # Fold 2's scores are shifted by 10: a threshold that saw them would be right everywhere.
    scores = [0.9, 0.1, 10.9, 10.1]
    result = kfold_accuracy(scores, [1, 0, 1, 0], [1, 1, 2, 2])
    assert result.accuracy.tolist() == [0.5, 0.5]


def test_fold_numbers_are_names_only():
    rng = np.random.default_rng(0)
    same = np.arange(60) % 2 == 0
    scores = rng.normal(size=60) + same
    folds = np.arange(60) // 20
    assert kfold_accuracy(scores, same, folds).mean == kfold_accuracy(scores, same, 7 - folds).mean


def test_one_fold_is_not_k_fold():
    with pytest.raises(ValueError, match="at least 2 different folds, got only 4"):
        kfold_accuracy([0.9, 0.1], [1, 0], [4, 4])
    with pytest.raises(ValueError, match="without fold 1 no genuine pair is left"):
        kfold_accuracy([0.9, 0.3, 0.1], [1, 0, 0], [1, 1, 2])
    with pytest.raises(ValueError, match="folds must be integers"):
        kfold_accuracy([0.9, 0.1], [1, 0], [0.5, 1.5])
