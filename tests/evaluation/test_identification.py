"""Identification rates, by hand and under resampling."""

import json

import numpy as np
import pytest

from centerarc.evaluation import cmc, evaluate_identification, search_gallery, tpir_at_fpir
from centerarc.evaluation.identification import resampled_rates, tpir_by_insightface
from centerarc.evaluation.intervals import TooFew, draw_people
from centerarc.report.numbers import search_rows


def test_open_set_rates_worked_by_hand():
    """Mates at 0.9, 0.5 and 0.3, the last of rank 2; strangers find 0.6, 0.4, 0.4 and 0.2."""
    scores = np.zeros((7, 5))  # cosines with persons 0 to 3, and what is left
    scores[[0, 1, 2, 2], [0, 1, 2, 3]] = 0.9, 0.5, 0.3, 0.35
    scores[3:, 0] = 0.6, 0.4, 0.4, 0.2
    scores[:, 4] = np.sqrt(1 - (scores**2).sum(axis=1))
    found = search_gallery(np.eye(5)[:4], [0, 1, 2, 3], scores, [0, 1, 2, 100, 101, 102, 103])
    assert found.rank.tolist() == [1, 1, 2, 0, 0, 0, 0]
    # One of four may be let in: above 0.4, where 0.9 and 0.5 are found.
    point = tpir_at_fpir(found, 0.25)
    assert point.tpir == pytest.approx(2 / 3)
    assert point.fpir == 0.25
    assert 0.4 < point.threshold < 0.4 + 1e-9
    # Two of four: both at 0.4 or none, so still one.
    assert tpir_at_fpir(found, 0.5) == point
    # Three of four: above 0.2; the mate at 0.3 is rank 2.
    assert tpir_at_fpir(found, 0.75).tpir == pytest.approx(2 / 3)
    assert tpir_at_fpir(found, 0.75, rank=2).tpir == 1.0
    assert tpir_at_fpir(found, 0.75).fpir == 0.75


def test_what_the_strangers_cannot_carry_is_said():
    found = search_gallery([[1, 0]], [1], [[1, 0], [0, 1]], [1, 2])
    message = "FPIR 0.01 needs at least 100 probes of people who are not in the gallery, .* 1$"
    with pytest.raises(ValueError, match=message):
        tpir_at_fpir(found, 0.01)
    assert TooFew.for_rate("FPIR", 0.1, "unmated", 10) is None
    assert TooFew.for_rate("FPIR", 1e-3, "unmated", 999) is not None
    report = evaluate_identification(found, bootstrap=100)
    assert report.tpir_at_fpir[0.1].value is None
    assert "at least 10 probes" in report.tpir_at_fpir[0.1].reason
    assert report.threshold_at_fpir[0.1] is None
    assert report.to_dict()["tpir_at_fpir"]["0.01"]["value"] is None


def scattered(noise=1.0):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, 8))
    enrolled, wanted = np.arange(20), np.repeat(np.arange(40), 3)
    gallery = centers[enrolled] + 0.3 * rng.normal(size=(enrolled.size, 8))
    probes = centers[wanted] + noise * rng.normal(size=(wanted.size, 8))
    return gallery, enrolled, probes, wanted


def in_two(split):
    """Searches of two galleries: people before `split`, and the others."""
    gallery, enrolled, probes, wanted = scattered(noise=1.5)
    parts = slice(0, split), slice(split, None)
    return [search_gallery(gallery[part], enrolled[part], probes, wanted) for part in parts]


def test_intervals_are_those_of_repeated_probes():
    """A person drawn twice must count as if the person's probes were listed twice."""
    gallery, enrolled, probes, wanted = scattered(noise=1.5)
    found = search_gallery(gallery, enrolled, probes, wanted)
    people, person = np.unique(wanted, return_inverse=True)
    drawn = next(draw_people(people.size, 30, 7, 30))
    rates = resampled_rates([found], (1, 3), (0.05, 0.1, 0.3), 2, 30, 7)
    for column in range(30):
        rows = np.repeat(np.arange(wanted.size), drawn[person, column].astype(int))
        again = search_gallery(gallery, enrolled, probes[rows], wanted[rows])
        expected = [cmc(again, 3)[0], cmc(again, 3)[2]]
        expected += [tpir_at_fpir(again, fpir, rank=2).tpir for fpir in (0.05, 0.1, 0.3)]
        np.testing.assert_allclose(rates[:, column], expected, atol=1e-12)
    assert len({tuple(column) for column in rates.T.round(9)}) > 20


def test_intervals_depend_on_people_and_not_on_how_many_probes_they_have():
    widths = []
    for each in (2, 20):
        gallery, enrolled, _, _ = scattered()
        rng = np.random.default_rng(5)
        # Every person's probes are found all or none.
        found_ones = rng.random(enrolled.size) < 0.6
        probes = np.where(found_ones[:, None], gallery, -gallery)
        repeated = np.repeat(probes, each, 0), np.repeat(enrolled, each)
        found = search_gallery(gallery, enrolled, *repeated)
        report = evaluate_identification(found, ranks=(1,), fpirs=())
        interval = report.cmc[1].interval
        assert interval.low < report.cmc[1].value < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] == pytest.approx(widths[1])


def test_two_galleries_are_averaged_and_named():
    searches = in_two(10)
    report = evaluate_identification(searches, ranks=(1, 5), fpirs=(0.1, 1e-5))
    assert report.cmc[5].value == pytest.approx(np.mean([cmc(s, 5)[4] for s in searches]))
    tpir = [tpir_at_fpir(s, 0.1).tpir for s in searches]
    assert report.tpir_at_fpir[0.1].value == pytest.approx(np.mean(tpir))
    assert report.threshold_at_fpir[0.1] == [tpir_at_fpir(s, 0.1).threshold for s in searches]
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert "identification" in written["protocol"]
    assert "means over 2 galleries" in written["convention"]
    assert "highest over the person's images" in written["convention"]
    assert written["nonmated_probes"] == [90, 90]
    assert written["num_people"] == 40
    assert "40 people of the probes" in written["intervals"]


@pytest.mark.parametrize("rank", [10**12, 10**30])
def test_a_rank_beyond_the_people_is_reached_by_everybody(rank):
    """Without room for as many numbers, over galleries of different sizes too."""
    searches = in_two(5)
    report = evaluate_identification(
        searches, ranks=(rank, 1, 5, 15), fpirs=(0.5,), tpir_rank=rank, bootstrap=100
    )
    assert report.cmc[rank].value == report.cmc[15].value == 1.0
    assert report.cmc[rank].interval.high == 1.0
    assert report.cmc[5].value == pytest.approx(np.mean([1.0, cmc(searches[1], 5)[4]]))
    assert report.cmc[1].value == pytest.approx(np.mean([cmc(s, 1)[0] for s in searches]))
    tpir = [tpir_at_fpir(s, 0.5, rank=20).tpir for s in searches]
    assert report.tpir_at_fpir[0.5].value == np.mean(tpir)
    assert f'"{rank}"' in json.dumps(report.to_dict())


def test_no_two_rates_share_a_key():
    found = search_gallery(*scattered(noise=1.5))
    rates = (0.1, 0.3333333, 0.33333334)
    written = evaluate_identification(found, fpirs=rates, bootstrap=0).to_dict()
    assert list(written["tpir_at_fpir"]) == ["0.1", "0.3333333", "0.33333334"]


def test_equal_seeds_give_equal_intervals():
    found = search_gallery(*scattered(noise=1.5))
    first, again, other = (evaluate_identification(found, seed=s).cmc[1] for s in (0, 0, 1))
    assert first == again
    assert first.interval != other.interval


def test_rates_out_of_range_are_named():
    found = search_gallery([[1, 0], [0, 1]], [1, 2], [[1, 1]], [1])
    with pytest.raises(ValueError, match="max_rank must be at least 1, got 0"):
        cmc(found, 0)
    with pytest.raises(ValueError, match=r"fpir must be in \(0, 1\), got 1"):
        tpir_at_fpir(found, 1)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        tpir_at_fpir(found, 0.5, rank=0)
    with pytest.raises(ValueError, match="bootstrap must be 0 or at least 100"):
        evaluate_identification(found, bootstrap=5)
    strangers = search_gallery([[1, 0]], [1], [[1, 0]], [2])
    with pytest.raises(ValueError, match="no probe is of a person in the gallery"):
        evaluate_identification(strangers)


def closed(noise=1.5, rows=slice(None)):
    gallery, enrolled, probes, wanted = scattered(noise)
    asked = np.flatnonzero(wanted < 20)[rows]
    return gallery, enrolled, probes[asked], wanted[asked]


def tpir_by_loop(gallery, enrolled, probes, wanted, far):
    """insightface's rate by a plain double loop over float64 cosines."""
    mates, others = [], []
    for probe, person in zip(probes, wanted, strict=True):
        for face, of in zip(gallery, enrolled, strict=True):
            score = face @ probe / np.linalg.norm(face) / np.linalg.norm(probe)
            (mates if of == person else others).append(score)
    threshold = sorted(others, reverse=True)[int(np.ceil(len(probes) * far)) - 1]
    return sum(mate > threshold for mate in mates) / len(probes)


def test_insightfaces_tpir_is_that_of_a_plain_double_loop():
    parts = closed()
    found = search_gallery(*parts, top_others=True)
    fpirs = (0.5, 0.1, 0.01)
    report = evaluate_identification(
        found, ranks=(1,), fpirs=fpirs, bootstrap=100, convention="insightface"
    )
    for fpir in fpirs:
        rate = report.tpir_at_fpir[fpir]
        assert rate.value == tpir_by_loop(*parts, fpir)
        assert rate.interval.low <= rate.value <= rate.interval.high
        (threshold,) = report.threshold_at_fpir[fpir]
        assert rate.value == np.mean(found.mate_score >= threshold)
    assert len({report.tpir_at_fpir[fpir].value for fpir in fpirs}) == 3
    # At whatever rank: some of them are not the first.
    (threshold,) = report.threshold_at_fpir[0.5]
    assert ((found.mate_score >= threshold) & (found.rank > 1)).any()
    assert report.cmc == evaluate_identification(found, ranks=(1,), fpirs=(), bootstrap=100).cmc
    assert "convention insightface" in report.to_dict()["convention"]
    assert "convention insightface" in search_rows(report)[1].note


def test_insightfaces_tpir_counts_equal_scores_against_the_model():
    gallery, probes = np.eye(3)[:2], np.array([[1.0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    found = search_gallery(gallery, [0, 1], probes, [0, 1, 0, 1], top_others=True)
    # Others: 0.71 twice and 0 twice; mates: 0.71, 1, 1, 0.71.
    rates = [tpir_by_insightface(found, fpir).tpir for fpir in (0.25, 0.5, 0.51)]
    assert rates == [0.5, 0.5, 1.0]


def test_resamples_of_insightfaces_tpir_are_those_of_repeated_probes():
    gallery, enrolled, probes, wanted = closed()
    found = search_gallery(gallery, enrolled, probes, wanted, top_others=True)
    people, person = np.unique(wanted, return_inverse=True)
    drawn = next(draw_people(people.size, 30, 7, 30))
    rates = resampled_rates([found], (1,), (0.05, 0.3), 1, 30, 7, "insightface")
    for column in range(30):
        rows = np.repeat(np.arange(wanted.size), drawn[person, column].astype(int))
        again = search_gallery(gallery, enrolled, probes[rows], wanted[rows], top_others=True)
        expected = [tpir_by_insightface(again, fpir).tpir for fpir in (0.05, 0.3)]
        np.testing.assert_allclose(rates[1:, column], expected, atol=1e-12)
    assert len({tuple(column) for column in rates[1:].T.round(9)}) > 15


@pytest.mark.parametrize(
    ("labels", "kept", "message"),
    [
        ([1, 3], True, "needs the person of every probe in the gallery; '3' is not"),
        ([1, 2], False, "needs a search with top_others"),
    ],
)
def test_what_insightfaces_tpir_needs_is_said(labels, kept, message):
    found = search_gallery([[1, 0], [0, 1]], [1, 2], [[1, 0], [1, 1]], labels, top_others=kept)
    with pytest.raises(ValueError, match=message):
        evaluate_identification(found, convention="insightface")
