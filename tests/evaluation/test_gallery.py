"""Galleries: ranks worked by hand and against plain loops."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation import cmc, search_gallery, tpir_at_fpir
from centerarc.evaluation import gallery as searching


def at(*cosines):
    """Unit vectors with these cosines to (1, 0)."""
    return [[c, math.sqrt(1 - c * c)] for c in cosines]


def plain_search(gallery, owners, probes, wanted, person_score):
    """Every probe against every image, one pair at a time, in float64."""

    def unit(vector):
        values = np.asarray(vector, float)
        return values / np.linalg.norm(values)

    images = {}
    for person, vector in zip(owners, gallery, strict=True):
        images.setdefault(person, []).append(unit(vector))
    if person_score == "mean":
        images = {person: [unit(sum(vectors))] for person, vectors in images.items()}
    results = []
    for p, own in zip(map(unit, probes), wanted, strict=True):
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
    monkeypatch.setattr(searching, "_PROBES", 3)
    monkeypatch.setattr(searching, "_IMAGES", 5)
    monkeypatch.setattr(searching, "_GATHERED", 4)
    monkeypatch.setattr(searching, "_KEPT", 6)


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
    assert found.num_distractors == 1  # eve; no one asks for her
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
faces = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(EXACT)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(faces, faces, st.integers(1, 3))
def test_ties_count_against_the_model_whatever_the_order(gallery, probes, rank):
    owners, vectors = zip(*gallery, strict=True)
    wanted, asked = zip(*probes, strict=True)
    found = search_gallery(vectors, owners, asked, wanted)
    expected = plain_search(vectors, owners, asked, wanted, "max")
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
    again = search_gallery(np.array(vectors)[order], np.array(owners)[order], asked, wanted)
    assert again.rank.tolist() == found.rank.tolist()


GOOD = {"gallery": [[1, 0], [0, 1]], "owners": [1, 2], "probes": [[1, 1]], "wanted": [1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owners": [1]}, r"gallery_labels must have shape \(2,\), got \(1,\)"),
        ({"owners": [1.5, 2.5]}, "gallery_labels must be integers or names"),
        ({"wanted": ["ann"]}, "must both be names or both integers"),
        ({"wanted": [1, 2]}, r"probe_labels must have shape \(1,\)"),
        ({"probes": [[1, 1, 1]]}, "probes must have 2 numbers as the gallery's embeddings, got 3"),
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


@pytest.mark.parametrize("spread", [1.0, 1e-10, 0.0])
def test_the_highest_scores_of_others_are_those_of_a_plain_double_loop(small_blocks, spread):
    """Over all probes and people, whatever the blocks; also what float32 cannot tell apart."""
    rng = np.random.default_rng(4)
    owners, wanted = np.arange(40) % 13, rng.integers(0, 15, size=23)
    gallery = rng.normal(size=8) + spread * rng.normal(size=(40, 8))
    probes = rng.normal(size=(23, 8))
    found = search_gallery(gallery, owners, probes, wanted, top_others=True)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery, probes)]
    every = []
    for number, probe in enumerate(unit[1]):
        for person in set(owners.tolist()) - {int(wanted[number])}:
            score = max(float(image @ probe) for image in unit[0][owners == person])
            every.append((score, number))
    every.sort(reverse=True)
    expected = [score for score, _ in every[:23]]
    np.testing.assert_allclose(found.top_others, expected, atol=1e-14)
    if spread == 1.0:
        assert found.top_probes.tolist() == [number for _, number in every[:23]]
    alone = search_gallery(gallery[:1], [1], probes, np.ones(23, int), top_others=True)
    assert alone.top_others.size == 0
    assert search_gallery(gallery, owners, probes, wanted).top_others.size == 0


def test_memory_stays_bounded(monkeypatch):
    monkeypatch.setattr(searching, "_PROBES", 128)
    monkeypatch.setattr(searching, "_IMAGES", 1024)
    monkeypatch.setattr(searching, "_GATHERED", 512)
    rng = np.random.default_rng(0)
    gallery = rng.normal(size=(9000, 8)).astype(np.float32)
    probes = rng.normal(size=(2000, 8)).astype(np.float32)
    tracemalloc.start()
    search_gallery(gallery, np.arange(9000) // 2, probes, np.arange(2000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6  # all scores at once would be 72 MB
