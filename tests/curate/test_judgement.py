"""Whether a model is good enough to judge labels is measured on the people it judges."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import roc_auc_score

from centerarc.curate.label_errors import judgement


def people(
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
    embeddings, labels = people(noise, [1, 2, 3, 5, 8] * 12)
    found = judgement(embeddings, labels)
    assert (found.images, found.people) == (18 * 12, 48)
    assert found.auc == pytest.approx(by_hand(embeddings, labels), abs=0.025)


def test_a_model_that_knows_nobody_is_too_weak_and_wrong_labels_do_not_make_one_so() -> None:
    embeddings, labels = people(1.0, [10] * 60)
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
