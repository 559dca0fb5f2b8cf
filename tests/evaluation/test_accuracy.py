"""Thresholds and k-fold accuracy, worked by hand; arcface_torch's convention by a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from centerarc.evaluation import (
    best_accuracy,
    best_threshold,
    contiguous_folds,
    grid_kfold_accuracy,
    kfold_accuracy,
)
from tests.evaluation.pairs import scored_pairs


def test_threshold_lies_halfway_and_the_highest_of_equals_wins():
    assert best_threshold([0.75, 0.25], [1, 0]) == 0.5
    # One mistake both at 0.625 (rejects 0.5) and at 0.3125 (accepts 0.375): the stricter.
    assert best_threshold([0.75, 0.5, 0.375, 0.25], [1, 0, 1, 0]) == 0.625


def test_thresholds_at_the_ends():
    assert best_threshold([0.2, 0.4, 0.9], [1, 1, 0]) == 0.2  # accepting all is best
    rejecting = best_threshold([0.2, 0.4, 0.9], [1, 0, 0])
    assert rejecting > 0.9  # rejecting all is best, the highest of equals
    assert best_accuracy([0.2, 0.4, 0.9], [1, 0, 0]) == pytest.approx(2 / 3)


def test_neighboring_floats_are_still_told_apart():
    assert best_accuracy([np.nextafter(0.3, 1), 0.3], [1, 0]) == 1.0


@given(scored_pairs())
def test_no_threshold_is_better_than_the_best(pairs):
    scores, same = pairs
    tried = [np.mean((scores >= t) == same) for t in np.arange(-9, 10) / 8 - 1 / 16]
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
    result = kfold_accuracy([0.9, 0.1, 10.9, 10.1], [1, 0, 1, 0], [1, 1, 2, 2])
    assert result.accuracy.tolist() == [0.5, 0.5]


def test_fold_numbers_are_names_only():
    rng = np.random.default_rng(0)
    same = np.arange(60) % 2 == 0
    scores = rng.normal(size=60) + same
    folds = np.arange(60) // 20
    assert kfold_accuracy(scores, same, folds).mean == kfold_accuracy(scores, same, 7 - folds).mean


@pytest.mark.parametrize(
    ("scores", "same", "folds", "message"),
    [
        ([0.9, 0.1], [1, 0], [4, 4], "at least 2 different folds, got only 4"),
        ([0.9, 0.3, 0.1], [1, 0, 0], [1, 1, 2], "without fold 1 no genuine pair is left"),
        ([0.9, 0.1], [1, 0], [0.5, 1.5], "folds must be integers"),
    ],
)
@pytest.mark.parametrize("measure", [kfold_accuracy, grid_kfold_accuracy])
def test_folds_that_leave_nothing_to_choose_on_are_named(measure, scores, same, folds, message):
    with pytest.raises(ValueError, match=message):
        measure(scores, same, folds)


def by_loop(embeddings_a, embeddings_b, same, num_folds):
    """Squared distances, 400 thresholds, the first of the best on the other folds."""
    distance = np.square(embeddings_a - embeddings_b).sum(axis=1)
    results, chosen = [], []
    for train, test in KFold(num_folds, shuffle=False).split(distance):
        best, best_accuracy = None, -1.0
        for step in range(400):
            accuracy = np.mean((distance[train] < step * 0.01) == same[train])
            if accuracy > best_accuracy:
                best, best_accuracy = step * 0.01, accuracy
        chosen.append(best)
        results.append(np.mean((distance[test] < best) == same[test]))
    return np.array(results), np.array(chosen)


def unit_pairs(seed, size, noise):
    rng = np.random.default_rng(seed)
    same = rng.random(size) < 0.5
    first = rng.normal(size=(size, 8))
    second = np.where(same[:, None], first, 0) + np.where(same, noise, 1)[:, None] * rng.normal(
        size=(size, 8)
    )
    return *(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)), same


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(60, 203), st.sampled_from([0.3, 1.0, 3.0]))
def test_it_is_what_the_loop_gives(seed, size, noise):
    first, second, same = unit_pairs(seed, size, noise)
    accuracy, distance = by_loop(first, second, same, 10)
    cosine = np.einsum("pd,pd->p", first, second)
    found = grid_kfold_accuracy(cosine, same)
    np.testing.assert_allclose(found.accuracy, accuracy, atol=1e-12)
    np.testing.assert_allclose(found.threshold, 1 - distance / 2, atol=1e-12)
    threshold = found.threshold[contiguous_folds(size) - 1]
    np.testing.assert_array_equal(found.correct, (cosine > threshold) == same)


def test_a_pair_at_the_threshold_is_rejected():
    # Distances 0.5, 1 and 2, exact in binary: at the threshold 0.5 the distance 0.5 is not below.
    found = grid_kfold_accuracy([0.75, 0.5, 0.75, 0.5, 0.0], [1, 0, 1, 0, 0], [1, 1, 2, 2, 2])
    np.testing.assert_allclose(found.threshold, 1 - 0.51 / 2)
    assert found.mean == 1.0


def test_folds_are_cut_as_scikit_learn_cuts_them():
    for size, count in ((10, 10), (6000, 10), (23, 10), (7, 3)):
        expected = np.empty(size, dtype=int)
        for number, (_, test) in enumerate(KFold(count, shuffle=False).split(np.zeros(size))):
            expected[test] = number + 1
        np.testing.assert_array_equal(contiguous_folds(size, count), expected)
    with pytest.raises(ValueError, match="num_folds must be from 2 to num_pairs = 5, got 6"):
        contiguous_folds(5, 6)


def test_the_two_conventions_are_not_the_same():
    # Two scores within one step of the grid are told apart by the exact protocol alone.
    scores, same = [0.704, 0.701, 0.704, 0.701], [1, 0, 1, 0]
    folds = [1, 1, 2, 2]
    assert kfold_accuracy(scores, same, folds).mean == 1.0
    assert grid_kfold_accuracy(scores, same, folds).mean == 0.5


def test_scores_that_are_no_cosines_are_refused():
    with pytest.raises(ValueError, match=r"cosines in \[-1, 1\].*got 7.0 in row 1"):
        grid_kfold_accuracy([0.1, 7.0], [0, 1], [1, 2])
    with pytest.raises(ValueError, match="finite, got nan in row 1"):
        grid_kfold_accuracy([0.1, np.nan], [0, 1], [1, 2])
