"""The faces of a photo, and which of them to take."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from centerarc.data.alignment.similarity import (
    Floats,
    apply_transform,
    inverse_transform,
    similarity_transform,
    transform_scale,
)
from centerarc.data.alignment.template import TEMPLATE_SIZE, arcface_template

FaceRule = Literal["largest", "center", "score", "all", "only"]
FACE_RULES: tuple[FaceRule, ...] = get_args(FaceRule)


@dataclass(frozen=True, eq=False)
class Face:
    """Five landmarks in a photo.

    Args:
        points: `(5, 2)` float64, in the order of `arcface_template`, in pixels of the upright
            photo with whole numbers at the centres of pixels.
        score: How sure the detector was, in [0, 1]; None if nobody says.
    """

    points: Floats
    score: float | None = None

    def matrix(self, size: int) -> Floats:
        """Returns the `(2, 3)` similarity from the photo to the aligned square of side `size`.

        Raises:
            ValueError: If the points have no such transform.
        """
        matrix: Floats = similarity_transform(self.points[None], arcface_template(size))[0]
        return matrix

    @cached_property
    def side(self) -> float:
        """Side, in pixels of the photo, of the square that alignment cuts out."""
        return TEMPLATE_SIZE / transform_scale(self.matrix(TEMPLATE_SIZE))

    @cached_property
    def middle(self) -> Floats:
        """`(2,)`, the middle of that square in the photo."""
        half = (TEMPLATE_SIZE - 1) / 2
        back = inverse_transform(self.matrix(TEMPLATE_SIZE))
        middle: Floats = apply_transform(back, [(half, half)])[0]
        return middle

    def problem(self, width: int, height: int) -> str | None:
        """Returns why these cannot be the landmarks of a face in a photo of that size, or None."""
        if mirrored(self.points[None])[0]:
            return "left and right are swapped: left is the left side of the image"
        try:
            x, y = self.middle
        except ValueError as error:
            return str(error).removeprefix("row 0: ").replace("source", "the landmarks")
        photo = np.array([width, height])
        far = ((self.points < -photo) | (self.points > 2 * photo)).any(1)
        if far.any():
            u, v = self.points[np.argmax(far)]
            return f"the landmark ({u:.0f}, {v:.0f}) is far outside the {width} x {height} photo"
        if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
            return f"the face's middle, ({x:.0f}, {y:.0f}), is outside the {width} x {height} photo"
        return None


def mirrored(points: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tells which faces have left and right swapped, whichever way up they are.

    From the middle of the eyes, the mouth must be to the right of the way from the left eye to the
    right one.

    Args:
        points: `(N, 5, 2)`, in the order of `arcface_template`.

    Returns:
        `(N,)` bool.
    """
    eyes = points[:, 1] - points[:, 0]
    down = points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]
    swapped: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        eyes[:, 0] * down[:, 1] - eyes[:, 1] * down[:, 0] < 0
    )
    return swapped


def check_face_rule(rule: str) -> None:
    """Raises `ValueError` if `rule` is none of `FACE_RULES`."""
    if rule not in FACE_RULES:
        raise ValueError(f"faces is {rule!r}; it must be one of {', '.join(FACE_RULES)}")


def choose_faces(faces: Sequence[Face], rule: FaceRule, width: int, height: int) -> list[Face]:
    """Chooses among the faces of one photo.

    Args:
        faces: The faces, each with a transform to the template.
        rule: "largest", the largest square cut out; "center", the highest `side^2 - 2 d^2`, with d
            the distance from the middle of the photo, which prefers a large face near the middle
            (as FaceNet's and insightface's scripts do); "score", the surest; "all", every one,
            largest first; "only", the face of a photo that has one, else none.
        width: Of the photo in pixels.
        height: Of the photo in pixels.

    Returns:
        The faces to take; of several that are equal, the first.

    Raises:
        ValueError: If the rule is unknown, or "score" and a face has none.
    """
    check_face_rule(rule)
    if not faces:
        return []
    if rule == "only":
        return list(faces) if len(faces) == 1 else []
    if rule == "all":
        return sorted(faces, key=lambda face: -face.side)
    if rule == "largest":
        return [max(faces, key=lambda face: face.side)]
    if rule == "center":
        middle = np.array([(width - 1) / 2, (height - 1) / 2])

        def centrality(face: Face) -> float:
            return face.side**2 - 2 * float(((face.middle - middle) ** 2).sum())

        return [max(faces, key=centrality)]
    scores = [face.score for face in faces]
    if any(score is None for score in scores):
        raise ValueError("faces is 'score', but a face has no score")
    return [max(faces, key=lambda face: face.score or 0.0)]
