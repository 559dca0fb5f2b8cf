"""Models on the same pairs, and on the same probes."""

import json

import numpy as np
import pytest

from centerarc.evaluation import (
    cmc,
    compare_identification,
    compare_verification,
    compare_with_first,
    evaluate_identification,
    evaluate_verification,
    search_gallery,
    tpir_at_fpir,
)
from centerarc.evaluation.intervals import draw_people
from tests.evaluation.pairs import world

FOLDS = np.arange(600) // 60
SCORES, SAME, PEOPLE = world(0)
NOISE = np.random.default_rng(1).normal(size=600)
OTHER = SCORES + NOISE


def compare(scores_a, scores_b, folds=FOLDS, **options):
    return compare_verification(scores_a, scores_b, SAME, folds, PEOPLE, **options)


def rates(found, far):
    return found.accuracy, found.auc, found.eer, found.tar_at_far[0.1], found.tar_at_far[far]


def test_the_difference_is_that_of_the_two_reports():
    found = compare(SCORES, OTHER, fars=[0.05, 1e-5])
    first, second = (
        evaluate_verification(scores, SAME, FOLDS, PEOPLE, fars=[0.05])
        for scores in (SCORES, OTHER)
    )
    every = rates(first, 0.05), rates(second, 0.05), rates(found, 0.05)
    for a, b, difference in zip(*every, strict=True):
        assert difference.value == pytest.approx(b.value - a.value, abs=1e-12)
        assert difference.interval.low <= difference.value <= difference.interval.high
    assert found.tar_at_far[1e-3].value is None
    assert "at least 1,000 impostor pairs" in found.tar_at_far[1e-3].reason
    assert "at least 100,000 impostor pairs" in found.tar_at_far[1e-5].reason
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["auc"]["value"] < 0


def test_a_clear_difference_is_sure_and_none_is_not():
    worse = compare(SCORES, SCORES + 5 * NOISE)
    assert worse.auc.interval.high < 0
    assert worse.auc.doubt < 1e-6
    assert worse.eer.interval.low > 0
    same_quality = compare(SCORES + 0.1 * NOISE, SCORES)
    assert same_quality.auc.interval.low < 0 < same_quality.auc.interval.high


def test_what_is_hard_for_both_falls_out_of_the_difference():
    scores, same, people = world(0, spread=2.0)
    paired = compare_verification(scores, scores + 0.3 * NOISE, same, FOLDS, people).auc.interval
    alone = evaluate_verification(scores, same, FOLDS, people).auc.interval
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_scores_on_another_scale_are_the_same_model():
    found = compare(SCORES, 3 * SCORES + 7, folds=None)
    assert (found.auc.value, found.eer.value, found.accuracy.value) == (0, 0, 0)
    assert found.auc.doubt == 1
    assert not found.equal


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_a_model_does_not_differ_from_itself(rounding):
    """Nor where other hardware rounds its scores otherwise: that is said, and no interval given."""
    again = SCORES + rounding * np.sign(NOISE)
    found = compare(SCORES, again)
    assert found.equal
    assert found.largest_change == pytest.approx(rounding, rel=1e-3)
    for difference in rates(found, 0.01):
        assert difference.value == 0
        assert difference.interval is None


def test_several_models_are_compared_with_the_first():
    models = {"a": SCORES, "b": OTHER, "c": SCORES + 2 * NOISE[::-1]}
    found = compare_with_first(models, SAME, FOLDS, PEOPLE)
    assert list(found) == ["b", "c"]
    for name, comparison in found.items():
        assert comparison == compare(models["a"], models[name])


def test_models_that_cannot_be_compared_are_named():
    broken = np.where(np.arange(600) == 3, np.nan, SCORES)
    with pytest.raises(ValueError, match="scores_b: scores must be finite, got nan in row 3"):
        compare(SCORES, broken)
    with pytest.raises(ValueError, match="scores_b: same must have the shape of scores"):
        compare(SCORES, SCORES[:-1])
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        compare_with_first({"a": SCORES}, SAME, FOLDS, PEOPLE)


def searched(noise, seed):
    rng = np.random.default_rng(7)
    people = rng.normal(size=(40, 12))
    asked = np.repeat(np.arange(40), 3)
    noisy = np.random.default_rng(seed)
    gallery = people[:25] + noise * noisy.normal(size=(25, 12))
    probes = people[asked] + noise * noisy.normal(size=(120, 12))
    return search_gallery(gallery, np.arange(25), probes, asked)


def test_differences_and_intervals_are_those_of_a_plain_bootstrap():
    a, b = searched(1.0, 1), searched(0.6, 2)
    found = compare_identification(
        {"a": [a], "b": [b]}, ranks=(1, 5), fpirs=(0.1, 1e-3), bootstrap=100
    )["b"]
    single = [evaluate_identification(one, ranks=(1, 5), fpirs=(0.1,)) for one in (a, b)]
    assert found.cmc[5].value == pytest.approx(single[1].cmc[5].value - single[0].cmc[5].value)
    assert "needs at least 1,000" in found.tpir_at_fpir[1e-3].reason
    # Each resample as probes that are really repeated.
    differences = []
    (drawn,) = draw_people(40, 100, 0, 100)
    for column in drawn.T:
        times = column[a.probe_labels].astype(int)
        rates = []
        for one in (a, b):
            fields = {
                name: np.repeat(getattr(one, name), times)
                for name in ("probe_labels", "mated", "rank", "mate_score", "other_score")
            }
            other = np.repeat(one.other_person, times)
            again = type(one)(
                one.people, other_person=other, gallery_images=25, person_score="max", **fields
            )
            rates.append([cmc(again, 1)[0], tpir_at_fpir(again, 0.1).tpir])
        differences.append(np.subtract(rates[1], rates[0]))
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    for k, difference in enumerate((found.cmc[1], found.tpir_at_fpir[0.1])):
        assert difference.interval.low == pytest.approx(low[k])
        assert difference.interval.high == pytest.approx(high[k])


def test_equal_models_cannot_be_told_apart():
    a = searched(1.0, 1)
    found = compare_identification({"a": [a], "b": [a]}, ranks=(1,), fpirs=(0.1,))["b"]
    assert found.equal
    assert (found.cmc[1].value, found.cmc[1].interval) == (0, None)


def test_other_probes_or_one_model_are_refused():
    a = searched(1.0, 1)
    fewer = search_gallery(np.eye(3), [0, 1, 2], np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="a and b are not of the same probes"):
        compare_identification({"a": [a], "b": [fewer]})
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        compare_identification({"a": [a]})
