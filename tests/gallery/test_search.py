"""What float64 gives, whatever the precision, blocks and parts of the search."""

import numpy as np
import pytest

from centerarc.gallery import search
from centerarc.gallery.search import RowSearch


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def drawn(count: int, size: int = 24, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, size)))


def expected(rows: np.ndarray, person: np.ndarray, queries: np.ndarray, count: int) -> tuple:
    """By float64, one query and one person after the other."""
    answers = []
    for query in queries.astype(np.float64):
        best = []
        for one in sorted(set(person.tolist())):
            inside = np.flatnonzero(person == one)
            scores = [float((rows[row].astype(np.float64) * query).sum()) for row in inside]
            at = int(np.argmax(scores))
            best.append((-scores[at], one, int(inside[at])))
        best.sort()
        answers.append([(-score, one, row) for score, one, row in best[:count]])
    return tuple(answers)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("cuts", [[], [1], [100, 100, 250]])
@pytest.mark.parametrize("ordered", [True, False])
def test_the_nearest_people_are_those_of_float64(
    half: bool, cuts: list[int], ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_SCORES", 900)  # two queries at once
    monkeypatch.setattr(search, "_ROWS", 64)
    rows, rng = drawn(300), np.random.default_rng(1)
    person = rng.integers(5, 90, 300)
    person = np.sort(person) if ordered else person
    parts = np.split(rows, cuts)
    queries = np.concatenate([drawn(11, seed=3), rows[:3]])
    found = RowSearch(parts, person, half=half).nearest(queries, 7)
    for at, answer in enumerate(expected(rows, person, queries, 7)):
        scores, people, places = zip(*answer, strict=True)
        assert found.person[at].tolist() == list(people)
        assert found.row[at].tolist() == list(places)
        np.testing.assert_allclose(found.score[at], scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize("half", [False, True])
def test_hundreds_of_rows_that_lower_precision_cannot_tell_apart(half: bool) -> None:
    base = drawn(1)[0]
    rows = unit(base + 1e-4 * np.random.default_rng(2).standard_normal((700, 24)))
    person = np.arange(700)[::-1].copy()
    found = RowSearch([rows], person, half=half).nearest(base[None], 5)
    (answer,) = expected(rows, person, base[None], 5)
    assert found.person[0].tolist() == [one for _, one, _ in answer]


def test_equal_scores_come_in_the_order_of_people_and_rows() -> None:
    rows = np.repeat(drawn(1), 6, axis=0)
    found = RowSearch([rows], np.array([9, 4, 9, 4, 2, 2])).nearest(rows[:1], 9)
    assert found.person[0].tolist() == [2, 4, 9, *6 * [-1]]
    assert found.row[0].tolist() == [4, 1, 0, *6 * [-1]]
    assert np.isnan(found.score[0, 3:]).all()


def test_an_empty_gallery_has_no_one() -> None:
    for parts in ([], [np.empty((0, 24), np.float32)]):
        found = RowSearch(parts, np.empty(0, np.int64)).nearest(drawn(2), 3)
        assert (found.person == -1).all()
        assert found.score.shape == (2, 3)


def test_people_must_be_as_many_as_rows() -> None:
    with pytest.raises(ValueError, match=r"person must have shape \(3,\), got \(2,\)"):
        RowSearch([drawn(3)], np.zeros(2, np.int64))
