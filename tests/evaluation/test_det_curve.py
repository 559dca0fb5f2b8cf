"""DET points against scikit-learn."""

import numpy as np
from hypothesis import given
from sklearn.metrics import roc_curve

from centerarc.evaluation.roc_curve import det
from tests.evaluation.test_roc_curve import scored_pairs


@given(scored_pairs())
def test_each_far_has_its_fewest_false_rejects(pairs):
    scores, same = pairs
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    found = det(scores, same)
    np.testing.assert_array_equal(found.far, np.unique(far))
    best = [tar[far == level].max() for level in found.far]
    np.testing.assert_allclose(found.frr, 1 - np.array(best), atol=1e-12)
    # The threshold reaches both rates.
    for point in range(found.far.size):
        accepted = scores >= found.threshold[point]
        assert np.mean(accepted[~same]) == found.far[point]
        assert np.isclose(np.mean(~accepted[same]), found.frr[point])
