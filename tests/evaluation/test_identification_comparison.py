"""Two models on the same probes."""

import numpy as np
import pytest

from centerarc.evaluation.comparison import compare_identification
from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.identification import cmc, evaluate_identification, tpir_at_fpir
from centerarc.evaluation.intervals import draw_people


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
    assert found.cmc[1].value == 0
    assert found.cmc[1].contrary_share == 1
    assert (found.cmc[1].interval.low, found.cmc[1].interval.high) == (0, 0)


def test_other_probes_or_one_model_are_refused():
    a = searched(1.0, 1)
    fewer = search_gallery(np.eye(3), [0, 1, 2], np.eye(3), [0, 1, 2])
    with pytest.raises(ValueError, match="a and b are not of the same probes"):
        compare_identification({"a": [a], "b": [fewer]})
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        compare_identification({"a": [a]})
