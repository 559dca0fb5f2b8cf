"""Of several faces the rule takes the one it says, and what is no face is not taken."""

import re

import numpy as np
import pytest

from centerarc.curate import FACE_RULES, Face, choose_faces
from centerarc.data.alignment import arcface_template


def face(x: float, y: float, side: float, score: float | None = None) -> Face:
    """A face whose square has the middle (x, y)."""
    return Face((arcface_template() - 55.5) * (side / 112) + (x, y), score)


NEAR = face(520, 410, 100, 0.7)  # 22 pixels from the middle of 1000 x 800
LARGE = face(700, 400, 200, 0.8)  # 200 pixels off it
SURE = face(100, 100, 60, 0.9)
PHOTO = (1000, 800)


def test_the_square_is_measured_in_the_photo() -> None:
    assert LARGE.side == pytest.approx(200)
    assert LARGE.middle.tolist() == pytest.approx([700, 400])
    turned = Face(LARGE.points @ np.array([[0.0, 1], [-1, 0]]))  # about the corner of the photo
    assert turned.side == pytest.approx(200)
    assert turned.middle.tolist() == pytest.approx([-400, 700])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_each_rule_takes_its_face_whatever_their_order(order: list[int]) -> None:
    faces = [[NEAR, LARGE, SURE][i] for i in order]
    assert choose_faces(faces, "largest", *PHOTO) == [LARGE]
    assert choose_faces(faces, "center", *PHOTO) == [NEAR]
    assert choose_faces(faces, "score", *PHOTO) == [SURE]
    assert choose_faces(faces, "all", *PHOTO) == [LARGE, NEAR, SURE]
    assert choose_faces(faces, "only", *PHOTO) == []


def test_center_prefers_a_large_face_to_a_small_one_a_little_nearer() -> None:
    # 200^2 - 2 * 100^2 = 20000 against 50^2 - 0 = 2500.
    small, large = face(499.5, 399.5, 50), face(599.5, 399.5, 200)
    assert choose_faces([small, large], "center", *PHOTO) == [large]
    # 200^2 - 2 * 140^2 = 800 is less than 2500.
    farther = face(639.5, 399.5, 200)
    assert choose_faces([small, farther], "center", *PHOTO) == [small]


@pytest.mark.parametrize("rule", FACE_RULES)
def test_one_face_is_taken_by_every_rule_and_none_by_none(rule: str) -> None:
    assert choose_faces([NEAR], rule, *PHOTO) == [NEAR]  # type: ignore[arg-type]
    assert choose_faces([], rule, *PHOTO) == []  # type: ignore[arg-type]


def test_unknown_rules_and_absent_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"faces must be one of largest, center, .*got 'biggest'"):
        choose_faces([NEAR], "biggest", *PHOTO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no score"):
        choose_faces([NEAR, face(1, 1, 20)], "score", *PHOTO)


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        (NEAR.points, None),
        (1000 - NEAR.points, None),  # upside down
        (np.array([1000, 0]) + NEAR.points * [-1, 1], "left and right are swapped"),
        (np.full((5, 2), 7.0), "all points of the landmarks are the same"),
        (
            NEAR.points + np.array([600, 0]),
            r"middle, \(1120, 410\), is outside the 1000 x 800 photo",
        ),
        (NEAR.points + np.array([0, 5000]), r"far outside the 1000 x 800 photo"),
    ],
)
def test_landmarks_of_no_face_are_told(points: np.ndarray, problem: str | None) -> None:
    found = Face(points).problem(*PHOTO)
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(problem, found)
