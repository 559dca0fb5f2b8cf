"""Planted label errors are found, and right labels are left in peace."""

import functools
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from centerarc.curate import LabelError, find_label_errors, judgement
from centerarc.curate.label_errors import split_in_two

Planted = tuple[
    npt.NDArray[np.float64], npt.NDArray[np.int64], set[int], set[int], set[tuple[int, int]]
]


def people(seed: int, noise: float = 0.7) -> tuple[npt.NDArray, npt.NDArray]:
    """Unit vectors around 300 random directions, a long tail of 1 to 60 for each."""
    rng = np.random.default_rng(seed)
    sizes = np.clip((rng.pareto(1.2, 300) * 3).astype(int) + 1, 1, 60)
    labels = np.repeat(np.arange(300), sizes)
    centers = rng.normal(size=(300, 64)) / 8
    spread = noise * rng.gamma(6, 1 / 6, size=(len(labels), 1))  # some images are bad ones
    return centers[labels] + spread * rng.normal(size=(len(labels), 64)) / 8, labels


@functools.cache
def planted(seed: int) -> Planted:
    """40 images given to others, 6 pairs of people joined, 6 people cut in two."""
    embeddings, true = people(seed)
    rng = np.random.default_rng(seed)
    labels = true.copy()
    size = np.bincount(true)
    large = rng.permutation(np.flatnonzero(size >= 4))
    joined, cut, rest = large[:12].reshape(6, 2), large[12:18], large[18:]
    for a, b in joined:
        labels[labels == b] = a
    for number, person in enumerate(cut):
        rows = np.flatnonzero(true == person)
        labels[rows[len(rows) // 2 :]] = 300 + number
    moved = [int(rng.choice(np.flatnonzero(true == person))) for person in rest[:40]]
    for row in moved:
        labels[row] = rng.choice(rest[rest != true[row]])
    names = {(int(person), 300 + number) for number, person in enumerate(cut)}
    return embeddings, labels, set(moved), {int(a) for a, _ in joined}, names


@functools.cache
def found_in(seed: int) -> list[LabelError]:
    embeddings, labels, *_ = planted(seed)
    return find_label_errors(embeddings, labels)


def test_planted_errors_are_found_with_few_false_alarms() -> None:
    right, reported, wrong = Counter[str](), Counter[str](), Counter[str]()
    for seed in range(3):
        _, _, moved, joined, cut = planted(seed)
        found = found_in(seed)
        said = {
            "other person": {e.images[0] for e in found if e.kind == "other person"},
            "two people": {e.identity for e in found if e.kind == "two people"},
            "two names": {
                (min(e.identity, e.other), max(e.identity, e.other))
                for e in found
                if e.kind == "two names"
            },
        }
        for kind, true in zip(said, (moved, joined, cut), strict=True):
            right[kind] += len(said[kind] & true)
            reported[kind] += len(said[kind])
            wrong[kind] += len(true)
    for kind, recall in (("other person", 0.85), ("two people", 0.7), ("two names", 0.9)):
        assert right[kind] >= recall * wrong[kind], kind
        assert right[kind] >= 0.97 * reported[kind], kind


def test_a_moved_image_is_said_to_look_like_whose_it_is() -> None:
    _, labels, moved, _, _ = planted(2)
    _, true = people(2)
    for error in found_in(2):
        if error.kind == "other person" and error.images[0] in moved:
            assert error.other == true[error.images[0]]
            assert error.other_similarity > error.own_similarity
            assert labels[error.shown] == error.other
            assert 0.9 <= error.confidence <= 1


@pytest.mark.parametrize("seed", range(2))
def test_right_labels_are_left_in_peace(seed: int) -> None:
    embeddings, labels = people(seed)
    assert len(find_label_errors(embeddings, labels)) <= 0.001 * len(labels)


def test_a_model_that_tells_nobody_apart_accuses_nobody() -> None:
    _, labels = people(0)
    noise = np.random.default_rng(0).normal(size=(len(labels), 64))
    assert find_label_errors(noise, labels) == []


def test_neither_lengths_nor_the_numbers_of_labels_matter() -> None:
    embeddings, labels, *_ = planted(2)
    stretch = np.random.default_rng(0).uniform(0.1, 50, size=(len(labels), 1))
    plain = found_in(2)
    other = find_label_errors(embeddings * stretch, labels * 10 + 7)
    assert [e.images for e in plain] == [e.images for e in other]
    assert [e.identity * 10 + 7 for e in plain] == [e.identity for e in other]


def test_a_split_is_the_one_with_the_least_similarity_between() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 16)) / 4
    rows = np.concatenate([a + rng.normal(size=(5, 16)) / 12, b + rng.normal(size=(3, 16)) / 12])
    units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    group = split_in_two(units)
    assert len(set(group[:5].tolist())) == len(set(group[5:].tolist())) == 1
    assert group[0] != group[5]


def test_what_cannot_be_judged_is_refused() -> None:
    embeddings, labels = people(0)
    with pytest.raises(ValueError, match="only 2 identities have two readable images"):
        find_label_errors(np.eye(4), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="row 3 has length 0"):
        find_label_errors(embeddings * (np.arange(len(labels)) != 3)[:, None], labels)
    with pytest.raises(ValueError, match="labels must have shape"):
        find_label_errors(embeddings, labels[:-1])
    with pytest.raises(ValueError, match=r"confidence must be in .* got 1"):
        find_label_errors(embeddings, labels, confidence=1)


# Whether a model is good enough to judge labels is measured on the people it judges.


def drawn(
    noise: float, sizes: list[int], seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    centers = rng.normal(size=(len(sizes), 64))
    return centers[labels] + noise * rng.normal(size=(len(labels), 64)), labels


def by_hand(embeddings: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Against the centers of all other people with two images, not of some drawn ones."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = [name for name in np.unique(labels) if (labels == name).sum() >= 2]
    scores, genuine = [], []
    for row in np.flatnonzero(np.isin(labels, names)):
        for name in names:
            members = np.flatnonzero((labels == name) & (np.arange(len(labels)) != row))
            center = units[members].mean(axis=0)
            scores.append(float(units[row] @ center / np.linalg.norm(center)))
            genuine.append(name == labels[row])
    return float(roc_auc_score(genuine, scores))


@pytest.mark.parametrize("noise", [1.0, 3.0, 6.0, 50.0])
def test_it_is_the_area_under_the_curve_of_own_against_other_people(noise: float) -> None:
    embeddings, labels = drawn(noise, [1, 2, 3, 5, 8] * 12)
    found = judgement(embeddings, labels)
    assert (found.images, found.people) == (18 * 12, 48)
    assert found.auc == pytest.approx(by_hand(embeddings, labels), abs=0.025)


def test_a_model_that_knows_nobody_is_too_weak_and_wrong_labels_do_not_make_one_so() -> None:
    embeddings, labels = drawn(1.0, [10] * 60)
    assert not judgement(embeddings, labels).too_weak
    mixed = labels.copy()
    rows = np.random.default_rng(1).permutation(len(labels))[:60]  # one in ten
    mixed[rows] = np.roll(labels[rows], 1)
    assert not judgement(embeddings, mixed).too_weak
    noise = np.random.default_rng(2).normal(size=embeddings.shape)
    weak = judgement(noise, labels)
    assert weak.too_weak
    assert weak.auc == pytest.approx(0.5, abs=0.05)
    assert "600 images of 60 people" in weak.summary()
    assert "too weak" in weak.summary()


def test_a_model_that_sees_one_face_everywhere_is_a_coin() -> None:
    assert judgement(np.ones((40, 8)), np.repeat(np.arange(20), 2)).auc == pytest.approx(0.5)


def test_one_person_cannot_be_told_from_others() -> None:
    with pytest.raises(ValueError, match="1 people have two images"):
        judgement(np.ones((4, 8)), [0, 0, 1, 2])
