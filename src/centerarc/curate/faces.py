"""The faces of a photo: found by YuNet, and which of them to take."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import cv2
import numpy as np

from centerarc.data.alignment import (
    TEMPLATE_SIZE,
    Floats,
    apply_transform,
    arcface_template,
    inverse_transform,
    similarity_transform,
    transform_scale,
)
from centerarc.data.decode import Image
from centerarc.io.files import read_file

# The faces of a photo, and which of them to take.

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


# Faces found by a YuNet model that the user has.

_STRIDES = (8, 16, 32)
# Numbers for each cell of a grid: YuNet's outputs are called cls_8, cls_16, ..., kps_32.
_CHANNELS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
_NMS_THRESHOLD = 0.3
_TOP_K = 5000


class YuNetDetector:
    """Finds faces and their five landmarks with OpenCV's `FaceDetectorYN`.

    Pickles as the model's bytes and settings, so that every process has a network of its own.

    Args:
        path: The ONNX file of a YuNet model (2023 or newer, with 12 outputs).
        min_score: Least score of a face, in [0, 1].
        max_side: Longest side, in pixels, of the picture in which faces are sought, at least 32.
            A larger photo is shrunk for that; YuNet knows faces of about 10 to 300 pixels.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no ONNX model or not shaped like YuNet, or an argument is out of range.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, min_score: float = 0.6, max_side: int = 640
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score is {min_score}; it must be between 0 and 1")
        if max_side < 32:
            raise ValueError(f"max_side is {max_side}; it must be at least 32")
        self.min_score = min_score
        self.max_side = max_side
        try:
            self.model = read_file(path)
        except OSError as error:
            raise OSError(f"cannot read the detector {os.fspath(path)!r}: {error}") from error
        try:
            _check_model(self.model)
        except ValueError as error:
            raise ValueError(f"detector {os.fspath(path)!r}: {error}") from error
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}

    def detect(self, image: Image) -> list[Face]:
        """Finds the faces of a photo.

        Args:
            image: `(H, W, 3)` uint8 RGB.

        Returns:
            The faces, surest first, their landmarks in pixels of `image`. What YuNet calls right
            eye, left eye, nose, right and left corner of the mouth, of the person, is the left
            eye first as seen in the image: the order of `arcface_template`.

        Raises:
            ValueError: If OpenCV cannot run the network on this photo.
        """
        height, width = image.shape[:2]
        shrink = min(1.0, self.max_side / max(height, width))
        wanted = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = image
        if shrink < 1:
            small = np.asarray(cv2.resize(image, wanted, interpolation=cv2.INTER_AREA), np.uint8)
        with _opencv_errors("the detector failed"):
            if self._network is None:
                self._network = cv2.FaceDetectorYN.create(
                    "onnx",
                    np.frombuffer(self.model, np.uint8),
                    np.empty(0, np.uint8),
                    wanted,
                    self.min_score,
                    _NMS_THRESHOLD,
                    _TOP_K,
                )
            self._network.setInputSize(wanted)
            _, found = self._network.detect(np.ascontiguousarray(small[:, :, ::-1]))
        if found is None:
            return []
        # Pixels of the small picture are areas of the photo, so their edges map onto each other,
        # not their centres. Each axis has its own factor, as sides were rounded.
        factor = np.array([width / wanted[0], height / wanted[1]])
        faces = []
        for row in np.asarray(found, dtype=np.float64):
            if np.isfinite(row).all():
                points = (row[4:14].reshape(5, 2) + 0.5) * factor - 0.5
                faces.append(Face(points, float(row[14])))
        return faces


def _check_model(model: bytes) -> None:
    """Runs the network once: `FaceDetectorYN` itself believes whatever the outputs hold."""
    if not model:
        raise ValueError("the file is empty")
    with _opencv_errors("this is no ONNX model that OpenCV can read"):
        network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
    names = [f"{kind}_{stride}" for kind in _CHANNELS for stride in _STRIDES]
    outputs = set(network.getUnconnectedOutLayersNames())
    if absent := [name for name in names if name not in outputs]:
        raise ValueError(
            f"this is no YuNet model of 2023 or newer: it lacks the outputs {', '.join(absent)}"
        )
    height, width = 64, 96  # not square, and not the size that the file was made for
    with _opencv_errors("this is no YuNet model: it fails on a picture"):
        network.setInput(np.zeros((1, 3, height, width), np.float32))
        results = network.forward(names)
    for name, result in zip(names, results, strict=True):
        kind, stride = name.split("_")
        cells = (height // int(stride)) * (width // int(stride))
        if result.size != cells * _CHANNELS[kind] or result.dtype != np.float32:
            raise ValueError(
                f"this is no YuNet model: for a picture of {width} x {height} pixels its output "
                f"{name} has {result.size} values, not {cells * _CHANNELS[kind]}"
            )


@contextmanager
def _opencv_errors(what: str) -> Iterator[None]:
    """Turns OpenCV's errors into a `ValueError` of one line, and keeps it from printing them."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    except cv2.error as error:
        reason = " ".join((error.err or str(error)).split())
        raise ValueError(f"{what} ({reason})") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
