"""ROC, DET, AUC, EER and TAR at FAR against scikit-learn and by hand."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from centerarc.evaluation import auc, det, eer, roc, tar_at_far
from tests.evaluation.pairs import scored_pairs


def check_curve(scores, same):
    """Compare a curve with scikit-learn's, to the last bit; return it."""
    curve, expected = roc(scores, same), roc_curve(same, scores, drop_intermediate=False)
    for found, values in zip((curve.far, curve.tar, curve.threshold), expected, strict=True):
        np.testing.assert_array_equal(found, values)
    return curve


@settings(deadline=None)
@given(scored_pairs())
def test_curve_and_area_are_scikit_learns(pairs):
    scores, same = pairs
    check_curve(scores, same)
    assert auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grid", [None, 1000, 1])
@pytest.mark.parametrize("share", [0.5, 0.001])
def test_a_curve_of_many_blocks_is_still_scikit_learns(dtype, grid, share):
    """Several blocks, with ties within or, for one value, over all of them."""
    rng = np.random.default_rng(0)
    same = rng.random(400_000) < share
    scores = rng.normal(size=same.size) + same
    if grid is not None:
        scores = np.round(scores * grid) / grid if grid > 1 else np.ones(same.size)
    scores = scores.astype(dtype)
    curve = check_curve(scores, same)
    assert curve.threshold.dtype == dtype
    fars = [1e-5, 0.3, 1e-3, 1e-2, 1e-1, 1.0]
    expected = [curve.tar[curve.far <= limit * (1 + 1e-12)].max() for limit in fars]
    assert tar_at_far(scores, same, fars) == expected
    assert [curve.tar[curve.point_at_far(limit)] for limit in fars] == expected
    assert auc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


def test_float32_scores_are_not_copied_to_float64_nor_changed():
    rng = np.random.default_rng(0)
    scores, same = rng.normal(size=500_000).astype(np.float32), rng.random(500_000) < 0.5
    before = scores.copy()
    tracemalloc.start()
    roc(scores, same)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(scores, before)
    # The curve itself takes 20 bytes a score; scikit-learn needs 55.
    assert most < 44 * scores.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None)
@given(data=st.data())
def test_scores_of_any_size_are_told_apart_to_the_last_bit(dtype, data):
    """Huge, tiny, subnormal and neighboring scores: each its own point, none rounded."""
    limits = np.finfo(dtype)
    width = 8 * np.dtype(dtype).itemsize
    edges = [1.5, 1.0, limits.max / 2, limits.tiny, limits.smallest_subnormal, 0.0]
    near = [np.nextafter(dtype(edge), dtype(2)) for edge in edges]
    special = [sign * float(value) for value in [*edges, *near] for sign in (1, -1)]
    values = st.sampled_from(special) | st.floats(
        -float(limits.max) / 2, float(limits.max) / 2, width=width
    )
    scores = np.array(data.draw(st.lists(values, min_size=2, max_size=30)), dtype=dtype)
    same = np.arange(scores.size) % 2 == 0
    curve = roc(scores, same)
    np.testing.assert_array_equal(curve.threshold, [np.inf, *np.unique(scores)[::-1]])
    for at, limit in enumerate(curve.threshold):
        assert curve.far[at] == np.mean(scores[~same] >= limit)
        assert curve.tar[at] == np.mean(scores[same] >= limit)


@pytest.mark.parametrize("size", [1, 3, 1 << 17, (1 << 17) + 1, (1 << 18) - 1, 1 << 18])
def test_sizes_around_that_of_a_block(size):
    rng = np.random.default_rng(size)
    same = np.append(rng.random(size) < 0.5, True)
    same[0] = False
    check_curve(np.round(rng.uniform(-1, 1, same.size), 5), same)


def test_zeros_of_either_sign_are_one_threshold():
    curve = roc([0.0, -0.0, 1.0, -1.0], [1, 0, 1, 0])
    assert [str(value) for value in curve.threshold] == ["inf", "1.0", "0.0", "-1.0"]


@given(scored_pairs())
def test_a_rising_transform_changes_nothing(pairs):
    scores, same = pairs
    warped = np.exp(3 * scores) - 7
    assert auc(warped, same) == auc(scores, same)
    assert eer(warped, same) == eer(scores, same)
    assert tar_at_far(warped, same, 1.0) == tar_at_far(scores, same, 1.0)


@given(scored_pairs())
def test_turning_scores_and_labels_round_keeps_the_errors(pairs):
    # A distance with "different" as the event is the same verifier.
    scores, same = pairs
    assert auc(-scores, ~same) == pytest.approx(auc(scores, same), abs=1e-12)
    assert eer(-scores, ~same) == pytest.approx(eer(scores, same), abs=1e-12)
    assert auc(-scores, same) == pytest.approx(1 - auc(scores, same), abs=1e-12)


@given(scored_pairs(), st.integers(0, 10_000))
def test_the_order_of_pairs_does_not_matter(pairs, seed):
    scores, same = pairs
    order = np.random.default_rng(seed).permutation(scores.size)
    assert auc(scores[order], same[order]) == auc(scores, same)
    assert eer(scores[order], same[order]) == eer(scores, same)


@pytest.mark.parametrize(
    ("scores", "same", "expected"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),  # separable
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),  # always wrong
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 0, 0], 0.5),  # says nothing
        ([0.9, 0.6, 0.7, 0.1], [1, 1, 0, 0], 0.5),  # crosses on a step: FAR 1/2 = FRR 1/2
        # Thresholds 0.8, 0.5 give (FAR, FRR) = (0, 2/3), (1/3, 0); they cross at 2/9.
        ([0.8, 0.5, 0.5, 0.5, 0.1, 0.0], [1, 1, 1, 0, 0, 0], 2 / 9),
    ],
)
def test_equal_error_rate_by_hand(scores, same, expected):
    assert eer(scores, same) == pytest.approx(expected)


def test_tar_at_far_counts_ties_as_accepted_together():
    # The only threshold with FAR <= 1/4 is above the tie of two impostors and a genuine at 0.5.
    scores = [0.9, 0.5, 0.5, 0.5, 0.1, 0.0]
    same = [1, 1, 0, 0, 0, 0]
    assert tar_at_far(scores, same, 0.25) == 0.5
    assert tar_at_far(scores, same, 0.5) == 1.0


def test_a_far_is_reached_exactly_despite_rounding():
    # 3 of 30 impostors is FAR 0.1, which 3 / 30 and 0.1 round differently from in general.
    for count in (10, 30, 70, 110):
        accepted = count // 10
        scores = np.concatenate([[0.8], np.full(accepted, 0.9), np.zeros(count - accepted)])
        same = np.arange(count + 1) == 0
        assert tar_at_far(scores, same, 0.1) == 1.0


def test_a_far_beyond_the_impostor_pairs_is_refused():
    scores, same = np.linspace(0, 1, 199), np.arange(199) >= 99
    assert tar_at_far(scores, same, 0.1) == 1.0
    message = r"FAR 0\.01 needs at least 100 impostor pairs, there are 99"
    with pytest.raises(ValueError, match=message):
        tar_at_far(scores, same, 0.01)
    with pytest.raises(ValueError, match=r"far must be in \(0, 1\], got 0"):
        tar_at_far(scores, same, 0)


@pytest.mark.parametrize("metric", [roc, auc, eer])
@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.1, np.nan, 0.3], [1, 0, 1], "finite, got nan in row 1"),
        ([0.1, 0.2, -np.inf], [1, 0, 1], "finite, got -inf in row 2"),
        ([0.1, 0.2], [1, 1], "no impostor"),
        ([0.1, 0.2], [0, 0], "no genuine"),
        ([0.1, 0.2], [0, 2], "0 or 1, got 2 in row 1"),
        ([0.1, 0.2], [0, 1, 1], "shape of scores"),
        ([[0.1, 0.2]], [[0, 1]], r"shape \(P,\)"),
    ],
)
def test_bad_input_is_named(metric, scores, same, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, same)


@given(scored_pairs())
def test_area_and_equal_error_rate_are_rounded_once_only(pairs):
    """Counted pair by pair in whole numbers."""
    scores, same = pairs
    genuine, impostor = scores[same], scores[~same]
    higher = np.sum(genuine[:, None] > impostor) + Fraction(np.sum(genuine[:, None] == impostor), 2)
    assert auc(scores, same) == float(Fraction(higher) / (genuine.size * impostor.size))
    steps = [(Fraction(0), Fraction(1))]
    for limit in np.unique(scores)[::-1]:
        far = Fraction(int(np.sum(impostor >= limit)), impostor.size)
        steps.append((far, Fraction(int(np.sum(genuine < limit)), genuine.size)))
    after = next(k for k, (far, frr) in enumerate(steps) if far >= frr)
    (far_0, frr_0), (far_1, frr_1) = steps[after - 1], steps[after]
    # far_0 + t (far_1 - far_0) = frr_0 + t (frr_1 - frr_0)
    t = (frr_0 - far_0) / ((far_1 - far_0) - (frr_1 - frr_0))
    assert eer(scores, same) == float(far_0 + t * (far_1 - far_0))


def test_many_pairs_are_counted_exactly():
    rng = np.random.default_rng(0)
    same = rng.random(300_000) < 0.3
    scores = np.round(rng.normal(size=same.size) + same, 4)
    genuine, impostor = np.sort(scores[same]), np.sort(scores[~same])
    below = np.searchsorted(impostor, genuine, "left").sum()
    not_above = np.searchsorted(impostor, genuine, "right").sum()
    twice = int(below) + int(not_above)
    assert auc(scores, same) == twice / (2 * genuine.size * impostor.size)


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


def nearest_by_loop(scores, same, far):
    """TAR and FAR as insightface's IJB script has them: a plain loop over the flipped curve."""
    rates, shares, _ = roc_curve(same, scores)
    best = None
    for rate, hits in zip(rates[::-1], shares[::-1], strict=True):
        if best is None or abs(rate - far) < abs(best[0] - far):
            best = rate, hits
    return best


FARS = (0.001, 0.01, 0.1, 0.25, 0.3, 0.5, 0.9)


@settings(deadline=None, max_examples=300)
@given(scored_pairs(), st.sampled_from(FARS))
def test_the_corner_nearest_to_a_far_is_that_of_a_plain_loop(pairs, far):
    scores, same = pairs
    curve = roc(scores, same)
    point = curve.point_nearest_far(far)
    assert (curve.far[point], curve.tar[point]) == nearest_by_loop(scores, same, far)


@pytest.mark.parametrize("grid", [5, 50, 5000])
def test_the_nearest_corner_among_many_scores_with_ties(grid):
    rng = np.random.default_rng(grid)
    above = below = skipped = 0
    for _ in range(60):
        same = rng.random(500) < 0.3
        scores = np.round((rng.normal(size=same.size) + same) * grid) / grid
        curve = roc(scores.astype(np.float32), same)
        for far in FARS:
            point = curve.point_nearest_far(far)
            expected = nearest_by_loop(scores.astype(np.float32), same, far)
            assert (curve.far[point], curve.tar[point]) == expected
            above += curve.far[point] > far
            below += curve.far[point] < far
            skipped += np.abs(curve.far - far).min() < abs(curve.far[point] - far)
    assert min(above, below) > 10
    # Points on a straight piece of the curve would have been nearer.
    assert skipped > 10 or grid == 5


def test_of_two_corners_as_near_the_higher_far_counts():
    same = np.array([1, 0, 1, 0, 0, 1, 0]) > 0
    curve = roc(-np.arange(7.0), same)  # corners at FAR 0.25 and 0.75, but none at 0.5
    point = curve.point_nearest_far(0.5)
    assert (curve.far[point], curve.tar[point]) == (0.75, 1.0)
    with pytest.raises(ValueError, match=r"far must be in \(0, 1\], got 2"):
        curve.point_nearest_far(2)
