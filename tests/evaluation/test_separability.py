"""Compactness, separation, margins and thresholds against float64 loops over images."""

import dataclasses
import json

import numpy as np
import pytest

from centerarc.evaluation import measure_separability
from centerarc.evaluation import separability as module


def faces(seed=0, noise=0.6):
    """Identities of 1 to 6 images around random centers, in mixed order."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(12), rng.integers(1, 7, 12))
    embeddings = rng.normal(size=(12, 8))[labels] + noise * rng.normal(size=(labels.size, 8))
    embeddings *= rng.uniform(0.5, 20, size=(labels.size, 1))
    order = rng.permutation(labels.size)
    return embeddings[order], labels[order] * 7 - 20


def cosine(a, b):
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def by_loop(embeddings, labels, far):
    unit = [x / np.sqrt(x @ x) for x in embeddings.astype(np.float64)]
    names = sorted(set(labels.tolist()))
    members = {name: [i for i in range(len(unit)) if labels[i] == name] for name in names}
    center = {name: sum(unit[i] for i in members[name]) for name in names}
    compactness, margin = [], []
    for i, x in enumerate(unit):
        rest = [unit[j] for j in members[labels[i]] if j != i]
        if not rest:
            continue
        own = cosine(x, sum(rest))
        compactness.append(own)
        margin.append(own - max(cosine(x, center[n]) for n in names if n != labels[i]))
    separation = [max(cosine(center[a], center[b]) for b in names if b != a) for a in names]
    thresholds = []
    for name in names:
        others = np.flatnonzero(labels != name)
        scores = [cosine(unit[i], unit[j]) for i in members[name] for j in others]
        scores.sort(reverse=True)
        allowed = max(k for k in range(len(scores)) if k / len(scores) <= far)
        thresholds.append(scores[allowed])
    return compactness, separation, margin, thresholds


def check(distribution, values):
    assert distribution.count == len(values)
    assert distribution.mean.value == pytest.approx(np.mean(values), abs=1e-6)
    assert distribution.std.value == pytest.approx(np.std(values), abs=1e-6)
    for share, found in distribution.quantiles.items():
        expected = np.quantile(values, share, method="inverted_cdf")
        assert found.value == pytest.approx(expected, abs=1e-6)
    for found in (distribution.mean, distribution.std, *distribution.quantiles.values()):
        assert found.interval.low <= found.value <= found.interval.high


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [8_000_000, 150, 30])
def test_all_numbers_are_those_of_a_loop(seed, dtype, block, monkeypatch):
    """Also with blocks of a few rows, which do not divide the images."""
    monkeypatch.setattr(module, "_BLOCK_VALUES", block)
    embeddings, labels = faces(seed)
    found = measure_separability(embeddings.astype(dtype), labels, far=0.1, bootstrap=100)
    compactness, separation, margin, thresholds = by_loop(embeddings.astype(dtype), labels, 0.1)
    check(found.compactness, compactness)
    check(found.separation, separation)
    check(found.margin, margin)
    check(found.thresholds, thresholds)
    assert found.nearest_center_accuracy.value == np.mean(np.array(margin) > 0)
    assert (found.num_images, found.num_people) == (labels.size, 12)
    assert found.compactness.num_people == np.sum(np.unique(labels, return_counts=True)[1] > 1)


def test_leaving_the_image_out_keeps_few_images_from_looking_compact():
    """With random embeddings there is nothing to find, however few images an identity has."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2000), 2)
    found = measure_separability(rng.normal(size=(4000, 64)), labels, far=0.1, bootstrap=100)
    assert abs(found.compactness.mean.value) < 0.01
    assert found.margin.mean.value < 0


def test_tighter_and_further_apart_is_seen():
    loose = measure_separability(*faces(noise=0.8), far=0.1)
    tight = measure_separability(*faces(noise=0.2), far=0.1)
    assert tight.compactness.mean.interval.low > loose.compactness.mean.interval.high
    assert tight.margin.mean.value > loose.margin.mean.value
    found = tight.thresholds
    middle = found.quantiles[0.95].value - found.quantiles[0.05].value
    assert found.quantiles[0.95].value - found.quantiles[0.05].value == pytest.approx(middle)


def test_one_threshold_for_all_is_a_spread_of_nothing():
    # Orthogonal identities: every impostor score is 0.
    found = measure_separability(np.eye(6).repeat(3, axis=0), np.arange(18) // 3, far=0.1)
    assert found.thresholds.std.value == 0
    assert found.thresholds.mean.value == 0
    assert found.compactness.mean.value == pytest.approx(1)
    assert found.separation.quantiles[0.95].value == 0


def test_too_few_impostors_for_a_far_are_said_and_not_guessed():
    found = measure_separability(*faces(), far=1e-3)
    assert found.thresholds is None
    assert found.threshold_reason.startswith("FAR 0.001 needs at least 1,000 impostor pairs of")
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["identity_thresholds"]["reason"] == found.threshold_reason


def test_drawn_impostors_come_close_to_all_of_them():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 10)
    embeddings = rng.normal(size=(300, 32))[labels] + rng.normal(size=(3000, 32))
    everyone = measure_separability(embeddings, labels, far=0.01, bootstrap=100)
    some = measure_separability(embeddings, labels, far=0.01, impostor_images=800, bootstrap=100)
    assert some.thresholds.mean.value == pytest.approx(everyone.thresholds.mean.value, abs=0.02)
    assert some.thresholds.mean.value != everyone.thresholds.mean.value


def test_images_that_cancel_out_have_no_direction_and_no_nan():
    embeddings = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.1, 1.0]]
    found = measure_separability(embeddings, [0, 0, 1, 1, 1], far=1.0, bootstrap=100)
    assert np.isfinite(found.separation.mean.value)
    assert found.compactness.quantiles[0.05].value == -1


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        ([[1.0, np.nan], [1, 0]], [0, 0], "finite and longer than 0, row 0 has length nan"),
        ([[1.0, 0.0], [0, 0]], [0, 0], "row 1 has length 0"),
        ([[1.0, 0.0], [1, 0]], [0, 0], "labels hold 1 identities, 1 of them with two images"),
        ([[1.0, 0.0], [1, 0]], [0, 1], "labels hold 2 identities, 0 of them with two images"),
        ([[1.0, 0.0], [1, 0]], [0, 1, 1], r"labels must be integers of shape \(2,\)"),
        ([1.0, 0.0], [0, 1], r"embeddings must be numbers of shape \(N, D\)"),
    ],
)
def test_bad_input_is_named(embeddings, labels, message):
    with pytest.raises(ValueError, match=message):
        measure_separability(embeddings, labels)


def test_few_people_make_no_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), [3, 3, 3, 3, 1, 1, 1, 1])
    found = measure_separability(rng.normal(size=(16, 8)), labels, far=0.5, bootstrap=100)
    assert (found.compactness.num_people, found.separation.num_people) == (4, 8)
    assert found.compactness.mean.interval is None
    assert found.nearest_center_accuracy.interval is None
    assert found.separation.mean.interval is not None
    assert json.loads(json.dumps(found.to_dict()))["compactness"]["mean"]["interval95"] is None


def test_no_resamples_make_no_intervals_and_the_same_values():
    embeddings, labels = faces()
    with_intervals = measure_separability(embeddings, labels, far=0.1, bootstrap=100)
    without = measure_separability(embeddings, labels, far=0.1, bootstrap=0)
    assert without.margin.mean == dataclasses.replace(with_intervals.margin.mean, interval=None)
    assert without.nearest_center_accuracy.interval is None
    assert without.interval_method == "No intervals were asked for."
