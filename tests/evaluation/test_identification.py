"""Identification: ranks and rates worked by hand, against plain loops, and under resampling."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation import gallery as gallery_search
from centerarc.evaluation import gallery as person_scores
from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.identification import (
    cmc,
    evaluate_identification,
    resampled_rates,
    tpir_at_fpir,
)
from centerarc.evaluation.intervals import TooFew, draw_people


def at(*cosines):
    """Unit vectors with these cosines to (1, 0)."""
    return [[c, math.sqrt(1 - c * c)] for c in cosines]


def plain_search(gallery, owners, probes, wanted, person_score):
    """Every probe against every image, one pair at a time, in float64."""
    unit = [np.asarray(x, float) / np.linalg.norm(np.asarray(x, float)) for x in gallery]
    images = {}
    for person, vector in zip(owners, unit, strict=True):
        images.setdefault(person, []).append(vector)
    if person_score == "mean":
        for person, vectors in images.items():
            mean = sum(vectors) / len(vectors)
            images[person] = [mean / np.linalg.norm(mean)]
    results = []
    for probe, own in zip(probes, wanted, strict=True):
        p = np.asarray(probe, float) / np.linalg.norm(np.asarray(probe, float))
        score = {person: max(float(v @ p) for v in vs) for person, vs in images.items()}
        others = [s for person, s in score.items() if person != own]
        mate = score.get(own)
        rank = 0 if mate is None else 1 + sum(s >= mate for s in others)
        results.append((rank, mate, max(others, default=None)))
    return results


def plain_rates(results, fpir, rank):
    """TPIR at the best of all thresholds that hold the FPIR, by trying each of them."""
    strangers = [other for r, _, other in results if r == 0]
    mates = [(r, mate) for r, mate, _ in results if r > 0]
    best = 0.0
    for t in sorted(set(strangers) | {m for _, m in mates}):
        # Compared as counts, so that no quotient rounds.
        if sum(s >= t for s in strangers) <= round(fpir * 1000) * len(strangers) / 1000:
            best = max(best, sum(r <= rank and m >= t for r, m in mates) / len(mates))
    return best


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(gallery_search, "_PROBES", 3)
    monkeypatch.setattr(gallery_search, "_IMAGES", 5)
    monkeypatch.setattr(person_scores, "_GATHERED", 4)
    monkeypatch.setattr(person_scores, "_KEPT", 6)


# All probes are (1, 0), so the gallery's cosines are what is written here: ann has two images,
# dan and eve are distractors.
GALLERY = at(0.9, 0.2, 0.8, 0.6, 0.7, 0.6)
OWNERS = ["ann", "ann", "bob", "cyd", "dan", "eve"]


def test_ranks_worked_by_hand():
    probes = np.tile([1.0, 0.0], (5, 1))
    found = search_gallery(GALLERY, OWNERS, probes, ["ann", "bob", "cyd", "dan", "zoe"])
    assert found.people.tolist() == ["ann", "bob", "cyd", "dan", "eve"]
    assert found.mated.tolist() == [True, True, True, True, False]
    # ann 0.9, bob 0.8, dan 0.7, then cyd and eve at 0.6: cyd is behind eve.
    assert found.rank.tolist() == [1, 2, 5, 3, 0]
    np.testing.assert_allclose(found.mate_score, [0.9, 0.8, 0.6, 0.7, np.nan], atol=1e-15)
    np.testing.assert_allclose(found.other_score, [0.8, 0.9, 0.9, 0.9, 0.9], atol=1e-15)
    assert [str(found.people[i]) for i in found.other_person] == ["bob", "ann", "ann", "ann", "ann"]
    assert found.num_distractors == 1  # eve; nobody asks for her
    np.testing.assert_allclose(cmc(found, 6), [1 / 4, 2 / 4, 3 / 4, 3 / 4, 1, 1])
    assert found.gallery_images == 6


def test_a_person_can_be_the_mean_of_the_images():
    # ann's mean of 0.9 and -0.9 on opposite sides points to (0, 1): she scores 0, and bob wins.
    gallery = [[0.9, math.sqrt(0.19)], [-0.9, math.sqrt(0.19)], [0.5, math.sqrt(0.75)]]
    by_max = search_gallery(gallery, [1, 1, 2], [[2.0, 0.0]], [1])
    by_mean = search_gallery(gallery, [1, 1, 2], [[2.0, 0.0]], [1], person_score="mean")
    assert (by_max.rank[0], by_mean.rank[0]) == (1, 2)
    np.testing.assert_allclose(by_mean.mate_score, [0.0], atol=1e-7)
    # The length of an embedding is no weight in the mean.
    longer = np.array(gallery) * [[9.0], [1.0], [1.0]]
    again = search_gallery(longer, [1, 1, 2], [[2.0, 0.0]], [1], person_score="mean")
    np.testing.assert_allclose(again.mate_score, by_mean.mate_score, atol=1e-7)


def test_open_set_rates_worked_by_hand():
    """Mates at 0.9, 0.5 and 0.3, the last of rank 2; strangers find 0.6, 0.4, 0.4 and 0.2."""
    eye = np.eye(8)
    gallery = eye[:4]  # persons 0 to 3
    probes, labels = [], []
    for person, score in ((0, 0.9), (1, 0.5), (2, 0.3)):
        probes.append(score * eye[person] + math.sqrt(1 - score**2) * eye[7])
        labels.append(person)
    probes[2] = 0.3 * eye[2] + 0.35 * eye[3] + math.sqrt(1 - 0.09 - 0.35**2) * eye[7]
    for number, score in enumerate((0.6, 0.4, 0.4, 0.2)):
        probes.append(score * eye[0] + math.sqrt(1 - score**2) * eye[6])
        labels.append(100 + number)
    found = search_gallery(gallery, [0, 1, 2, 3], probes, labels)
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


@pytest.mark.parametrize("person_score", ["max", "mean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_and_scores_are_those_of_plain_loops(small_blocks, person_score, dtype):
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(14, 16))
    owners = rng.integers(0, 12, size=40)
    owners[:4] = 3  # one person with more images than a block holds
    wanted = rng.integers(0, 14, size=25)
    gallery = (centers[owners] + rng.normal(size=(40, 16))).astype(dtype)
    probes = (centers[wanted] + 2 * rng.normal(size=(25, 16))).astype(dtype)
    found = search_gallery(gallery, owners, probes, wanted, person_score=person_score)
    expected = plain_search(gallery, owners, probes, wanted, person_score)
    assert found.rank.tolist() == [rank for rank, _, _ in expected]
    assert len(set(found.rank.tolist())) > 4
    tolerance = 1e-12 if person_score == "max" else 1e-6
    mates = [np.nan if mate is None else mate for _, mate, _ in expected]
    np.testing.assert_allclose(found.mate_score, mates, atol=tolerance)
    np.testing.assert_allclose(found.other_score, [o for _, _, o in expected], atol=tolerance)


def test_what_float32_cannot_tell_apart_is_ranked_as_in_float64(small_blocks):
    rng = np.random.default_rng(0)
    probes = rng.normal(size=(30, 64))
    near = rng.normal(size=64)
    gallery = near + 1e-10 * rng.normal(size=(20, 64))
    owners, wanted = np.arange(20), np.arange(30) % 20
    found = search_gallery(gallery, owners, probes, wanted)
    expected = plain_search(gallery, owners, probes, wanted, "max")
    assert found.rank.tolist() == [rank for rank, _, _ in expected]
    np.testing.assert_allclose(found.other_score, [o for _, _, o in expected], atol=1e-14)
    # Without the second look float32 would rank them wrongly.
    unit = [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (gallery, probes)
    ]
    scores = unit[1] @ unit[0].T
    coarse = (scores >= scores[np.arange(30), wanted][:, None]).sum(axis=1)
    assert coarse.tolist() != found.rank.tolist()


def test_a_model_that_sees_no_difference_finds_nobody(small_blocks):
    same = np.tile(np.random.default_rng(1).normal(size=37).astype(np.float32), (23, 1))
    found = search_gallery(same, np.arange(23), 3 * same[:7], np.arange(7))
    assert found.rank.tolist() == [23] * 7
    assert cmc(found, 20).tolist() == [0.0] * 20


# Vectors whose cosines are exact in binary: ties are ties in every order of summation.
EXACT = [s * np.array(v) for s in (1, 4) for v in ([1, 0, 0, 0], [0, 1, 0, 0])]
EXACT += [np.array([a, b, c, 1.0]) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]
faces = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(range(len(EXACT)))), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=150)
@given(faces, faces, st.integers(1, 3))
def test_ties_count_against_the_model_whatever_the_order(gallery, probes, rank):
    owners, images = zip(*gallery, strict=True)
    wanted, asked = zip(*probes, strict=True)
    vectors = [EXACT[i] for i in images]
    found = search_gallery(vectors, owners, [EXACT[i] for i in asked], wanted)
    expected = plain_search(vectors, owners, [EXACT[i] for i in asked], wanted, "max")
    assert found.rank.tolist() == [r for r, _, _ in expected]
    if found.mated.any():
        shares = cmc(found, 8)
        ranks = [r for r, _, _ in expected if r]
        assert shares.tolist() == [sum(r <= k for r in ranks) / len(ranks) for k in range(1, 9)]
    strangers = int((~found.mated).sum())
    for fpir in (0.25, 0.5, 0.75):
        if found.mated.any() and strangers >= 1 / fpir:
            point = tpir_at_fpir(found, fpir, rank=rank)
            assert point.tpir == plain_rates(expected, fpir, rank)
            assert point.fpir <= fpir
    order = np.random.default_rng(0).permutation(len(owners))
    again = search_gallery(
        [vectors[i] for i in order], np.array(owners)[order], [EXACT[i] for i in asked], wanted
    )
    assert again.rank.tolist() == found.rank.tolist()


def scattered(people=40, probes_each=3, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(people, 8))
    enrolled = np.arange(people // 2)
    wanted = np.repeat(np.arange(people), probes_each)
    gallery = centers[enrolled] + 0.3 * rng.normal(size=(enrolled.size, 8))
    probes = centers[wanted] + noise * rng.normal(size=(wanted.size, 8))
    return gallery, enrolled, probes, wanted


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
        found = search_gallery(
            gallery, enrolled, np.repeat(probes, each, 0), np.repeat(enrolled, each)
        )
        report = evaluate_identification(found, ranks=(1,), fpirs=())
        interval = report.cmc[1].interval
        assert interval.low < report.cmc[1].value < interval.high
        widths.append(interval.high - interval.low)
    assert widths[0] == pytest.approx(widths[1])


def test_two_galleries_are_averaged_and_named():
    gallery, enrolled, probes, wanted = scattered(noise=1.5)
    half = enrolled.size // 2
    searches = [
        search_gallery(gallery[part], enrolled[part], probes, wanted)
        for part in (slice(0, half), slice(half, None))
    ]
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
    gallery, enrolled, probes, wanted = scattered(noise=1.5)
    searches = [
        search_gallery(gallery[part], enrolled[part], probes, wanted)
        for part in (slice(0, 5), slice(5, None))
    ]
    report = evaluate_identification(
        searches, ranks=(rank, 1, 5, 15), fpirs=(0.5,), tpir_rank=rank, bootstrap=100
    )
    assert report.cmc[rank].value == report.cmc[15].value == 1.0
    assert report.cmc[rank].interval.high == 1.0
    assert report.cmc[5].value == pytest.approx(np.mean([1.0, cmc(searches[1], 5)[4]]))
    assert report.cmc[1].value == pytest.approx(np.mean([cmc(s, 1)[0] for s in searches]))
    assert report.tpir_at_fpir[0.5].value == np.mean(
        [tpir_at_fpir(s, 0.5, rank=20).tpir for s in searches]
    )
    assert f'"{rank}"' in json.dumps(report.to_dict())


def test_no_two_rates_share_a_key():
    found = search_gallery(*scattered(noise=1.5))
    rates = (0.1, 0.3333333, 0.33333334)
    written = evaluate_identification(found, fpirs=rates, bootstrap=0).to_dict()
    assert list(written["tpir_at_fpir"]) == ["0.1", "0.3333333", "0.33333334"]


@pytest.mark.parametrize(
    ("fpir", "needed"), [(5e-324, "inf"), (1e-300, "1e+300"), (1e-4, "10,000")]
)
def test_a_rate_too_small_for_any_probes_is_said_in_a_line(fpir, needed):
    reason = str(TooFew.for_rate("FPIR", fpir, "unmated", 7))
    assert f"needs at least {needed} probes" in reason
    assert len(reason) < 120


def test_equal_seeds_give_equal_intervals():
    found = search_gallery(*scattered(noise=1.5))
    first, again, other = (evaluate_identification(found, seed=s).cmc[1] for s in (0, 0, 1))
    assert first == again
    assert first.interval != other.interval


GOOD = {"gallery": [[1, 0], [0, 1]], "owners": [1, 2], "probes": [[1, 1]], "wanted": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owners": [1]}, r"gallery_labels must have shape \(2,\), got \(1,\)"),
        ({"owners": [1.5, 2.5]}, "gallery_labels must be integers or names"),
        ({"wanted": ["ann"]}, "must both be names or both integers"),
        ({"wanted": [1, 2]}, r"probe_labels must have shape \(1,\)"),
        ({"probes": [[1, 1, 1]]}, "probes have 3 numbers, the gallery's embeddings 2"),
        ({"probes": [[0, 0]]}, "probes must be finite .* row 0 has length 0"),
        ({"gallery": [[1, 0], [np.nan, 1]]}, "gallery must be finite .* row 1"),
        ({"gallery": [[1, 0], [np.inf, 1]]}, "gallery must be finite .* row 1"),
        ({"gallery": [1, 2]}, r"gallery must be numbers of shape \(N, D\)"),
        ({"person_score": "sum"}, "person_score must be max or mean, got 'sum'"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {**GOOD, **change}
    kind = given.pop("person_score", "max")
    with pytest.raises(ValueError, match=message):
        search_gallery(*given.values(), person_score=kind)


def test_rates_out_of_range_are_named():
    found = search_gallery(*GOOD.values())
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


def test_memory_stays_bounded(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(gallery_search, "_PROBES", 128)
    monkeypatch.setattr(gallery_search, "_IMAGES", 1024)
    monkeypatch.setattr(person_scores, "_GATHERED", 512)
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(9000, 8)).astype(np.float32)
    probes = rng.normal(size=(2000, 8)).astype(np.float32)
    tracemalloc.start()
    search_gallery(gallery, np.arange(9000) // 2, probes, np.arange(2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # all scores at once would be 72 MB
