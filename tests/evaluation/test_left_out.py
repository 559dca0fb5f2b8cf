"""Leaving photos and people out: against plain loops in float64."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation import gallery as searching
from centerarc.evaluation import leave_one_out, left_out


def plain_scores(embeddings, people):
    """For each photo the score of every person by label, one pair of photos at a time."""
    unit = [np.asarray(x, float) / np.linalg.norm(np.asarray(x, float)) for x in embeddings]
    for a, vector in enumerate(unit):
        scores = {}
        for b, other in enumerate(unit):
            if a != b:
                found = float(vector @ other)
                scores[people[b]] = max(found, scores.get(people[b], -np.inf))
        yield scores


def a_gallery(people, size, seed, most=5):
    generator = np.random.default_rng(seed)
    who = np.repeat(np.arange(people) * 7 - 3, generator.integers(1, most + 1, people))
    generator.shuffle(who)
    centers = dict(zip(np.unique(who).tolist(), generator.normal(size=(people, size)), strict=True))
    noise = generator.normal(size=(who.size, size))
    return np.array([centers[each] for each in who.tolist()]) + 0.7 * noise, who


@pytest.mark.parametrize("people", [2, 3, 9, 40])
@pytest.mark.parametrize("small", [False, True])
def test_scores_are_those_of_plain_loops(people, small, monkeypatch):
    if small:
        monkeypatch.setattr(searching, "_IMAGES", 7)
        monkeypatch.setattr(searching, "_GATHERED", 4)
        monkeypatch.setattr(searching, "_KEPT", 6)
        monkeypatch.setattr(left_out, "_PHOTOS", 5)
    faces, who = a_gallery(people, 6, people)
    found = leave_one_out(faces.astype(np.float32), who)
    for a, scores in enumerate(plain_scores(faces.astype(np.float32), who.tolist())):
        own = scores.pop(int(who[a]), None)
        best = sorted(scores.items(), key=lambda item: -item[1])[:8]
        assert found.rivals[a] == pytest.approx([score for _, score in best], abs=1e-12)
        assert found.people[found.rival_people[a]].tolist() == [person for person, _ in best]
        assert who[found.rival_photo[a]] == best[0][0]
        second = best[1] if len(best) > 1 else (None, np.nan)
        assert found.second[a] == pytest.approx(second[1], nan_ok=True)
        assert found.judged[a] == (own is not None)
        if own is None:
            assert np.isnan(found.genuine[a])
            assert found.genuine_photo[a] == -1
            continue
        assert found.genuine[a] == pytest.approx(own, abs=1e-12)
        assert who[found.genuine_photo[a]] == who[a]
        assert found.genuine_photo[a] != a
        everybody = sorted([own, *scores.values()], reverse=True)
        assert found.right[a] == (own > best[0][1])
        assert found.first[a] == pytest.approx(everybody[0])
        assert found.margin[a] == pytest.approx(everybody[0] - everybody[1], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_neither_the_order_of_photos_nor_labels_matter(seed, people):
    faces, who = a_gallery(people, 5, seed)
    generator = np.random.default_rng(seed)
    order = generator.permutation(who.size)
    names = np.array([f"p{number:02}" for number in generator.permutation(people)])
    found = leave_one_out(faces, who)
    numbers = np.unique(who, return_inverse=True)[1]
    moved = leave_one_out(3 * faces[order], names[numbers][order])
    for name in ("genuine", "rival", "second", "margin"):
        assert getattr(moved, name) == pytest.approx(
            getattr(found, name)[order], abs=1e-12, nan_ok=True
        )
    assert order[moved.rival_photo].tolist() == found.rival_photo[order].tolist()
    same = names[found.rival_person][order]
    assert moved.people[moved.rival_person].tolist() == same.tolist()


def test_the_first_of_equal_people_is_the_rival() -> None:
    found = leave_one_out([[1, 0], [0, 1], [0, 1], [0, 1]], [5, 9, 8, 7])
    assert found.people[found.rival_person].tolist() == [7, 7, 7, 8]
    assert found.rival.tolist() == [0, 1, 1, 1]


def test_memory_does_not_grow_with_the_square_of_the_photos() -> None:
    who = np.arange(12_000) // 3
    faces = np.random.default_rng(0).normal(size=(who.size, 8)).astype(np.float32)
    tracemalloc.start()
    leave_one_out(faces, who)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200e6  # all pairs in float32 would be 576 MB


@pytest.mark.parametrize(
    ("faces", "people", "message"),
    [
        ([[1.0, 2.0], [np.nan, 1]], [1, 2], "embeddings must be finite and longer than 0, row 1"),
        ([[1.0, 2.0], [np.inf, 1]], [1, 2], "embeddings must be finite and longer than 0, row 1"),
        ([[0.0, 0.0], [1, 1]], [1, 2], "embeddings must be finite and longer than 0, row 0"),
        ([1.0, 2.0], [1, 2], "embeddings must be numbers of shape"),
        ([["a", "b"]], [1], "embeddings must be numbers of shape"),
        ([[1.0, 2.0]], [1, 2], "people must be integers or names of shape"),
        ([[1.0, 2.0], [2, 1]], [1.0, 2.0], "people must be integers or names of shape"),
        ([[1.0, 2.0], [2, 1]], [4, 4], "people must be of at least 2 people, got 1"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(faces, people, message):
    with pytest.raises(ValueError, match=message) as error:
        leave_one_out(faces, people)
    assert "\n" not in str(error.value)
