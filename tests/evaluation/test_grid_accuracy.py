"""arcface_torch's convention, against a plain loop from its description."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from centerarc.evaluation.accuracy import contiguous_folds, grid_kfold_accuracy, kfold_accuracy


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
    second = np.where(same[:, None], first + noise * rng.normal(size=(size, 8)), 0)
    second[~same] = rng.normal(size=(size, 8))[~same]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return first, second, same


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(60, 203), st.sampled_from([0.3, 1.0, 3.0]))
def test_it_is_what_the_loop_gives(seed, size, noise):
    first, second, same = unit_pairs(seed, size, noise)
    accuracy, distance = by_loop(first, second, same, 10)
    cosine = np.einsum("pd,pd->p", first, second)
    found = grid_kfold_accuracy(cosine, same)
    np.testing.assert_allclose(found.accuracy, accuracy, atol=1e-12)
    np.testing.assert_allclose(found.threshold, 1 - distance / 2, atol=1e-12)
    np.testing.assert_array_equal(found.correct, (cosine > threshold_of(found, size)) == same)


def threshold_of(found, size):
    return found.threshold[contiguous_folds(size) - 1]


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
