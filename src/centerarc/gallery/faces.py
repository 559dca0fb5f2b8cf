"""From photos to the embeddings of the faces on them, and why a face is not used."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from centerarc import __version__
from centerarc.curate.photos import Face, FaceRule, check_face_rule, choose_faces
from centerarc.curate.yunet import YuNetDetector
from centerarc.data.alignment import Floats, apply_transform, inverse_transform, warp
from centerarc.data.decode import Image, decode_image, resized
from centerarc.data.synthetic import SyntheticFaces
from centerarc.io.files import read_file

if TYPE_CHECKING:
    from centerarc.models.opened import OpenedModel

PhotoSource = str | os.PathLike[str] | bytes | Image
"""A photo: a file, an encoded image, or `(H, W, 3)` uint8 RGB."""

Refusal = Literal[
    "",
    "unreadable",
    "none",
    "several",
    "too small",
    "bad landmarks",
    "blurred",
    "not finite",
]
"""Why a face has no embedding; "" where it has one. See `FoundFace`."""

MIN_FACE = 40.0
"""Least side of a face's square in the photo, in pixels.

The eyes are 12.6 pixels apart then. It agrees with `MIN_SHARPNESS`, which takes 98% of sharp faces
that are shrunk to 40 pixels, and 72% of those shrunk to 28: a face that small is as if blurred.
"""
MIN_SHARPNESS = 0.5
"""Least `sharpness` of a face: the blur of its edges is at most 2 pixels of 112.

It refuses 0.1% of 10,562 faces of LFW as they are, also at 0.3 of their contrast, 35% of them after
a Gaussian blur of 2 pixels, 99.6% after one of 3 and all after one of 4, and 90% after a motion of
15 pixels. Blurred by 3 pixels and then given noise of 5 gray levels, 31% pass. Measured by
`python -m benchmarks.sharpness FACES --faces 20000`, aligned to 112 x 112.
"""

# At half of 112 pixels the grain of sensors and the blocks of JPEG count for less.
_SIDE = 56
_FULL = 112
# Hair and background at the rim have edges of their own; what is left has eyes, nose and mouth.
_RIM = 8
# Of the blur by which a face is compared with itself, in pixels of `_SIDE`, and how far it reaches.
_SIGMA, _REACH = 1.0, 4


def sharpness(face: Image, inside: npt.NDArray[np.bool_] | None = None) -> float:
    """Returns how sharp the edges of an aligned face are: 1 / (their blur in pixels of 112).

    A face that is blurred already changes little when it is blurred once more. Across an edge that
    a Gaussian of standard deviation `b` has blurred, the sum of squared differences of neighbors
    falls with `1 / b`. Further blur by `a` leaves `sqrt(b^2 + a^2)`, so the ratio R of the sums
    before and after tells b, whatever the contrast:

        R = sqrt(b^2 + a^2) / b,    1 / b = sqrt(R^2 - 1) / a

    This is taken of the gray middle of the face at 56 x 56 pixels, along rows and along columns,
    and the smaller counts: a motion blurs in one direction. Noise of the sensor looks sharp, so a
    blurred face with much of it passes. The idea of blurring again is from Crete et al. (2007).

    Args:
        face: `(S, S, 3)` uint8 RGB, as `centerarc data align` makes it.
        inside: `(S, S)`, what of it was in the photo; None for all. The edge of the photo is sharp.

    Returns:
        At least 0; 0 where nothing changes.

    Example:
        >>> stripes = np.zeros((112, 112, 3), np.uint8)
        >>> stripes[::16, ::16] = 255
        >>> sharpness(stripes) > sharpness(cv2.GaussianBlur(stripes, (0, 0), 3)) > 0
        True
    """
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32)
    how = cv2.INTER_AREA if len(face) >= _SIDE else cv2.INTER_LINEAR
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=how)
    soft = cv2.GaussianBlur(small, (2 * _REACH + 1,) * 2, _SIGMA)
    counts = np.ones((_SIDE, _SIDE))
    if inside is not None and not inside.all():
        part = cv2.resize(inside.astype(np.float32), (_SIDE, _SIDE), interpolation=how)
        whole = (part > 1 - 1e-6).astype(np.uint8)
        # Beyond the photo it is black, and that edge reaches as far as the blur does.
        reach = np.ones((2 * _REACH + 1,) * 2, np.uint8)
        counts = np.asarray(cv2.erode(whole, reach), np.float64)
    middle = (slice(_RIM, -_RIM),) * 2
    counts = counts[middle]
    found = []
    for axis in (0, 1):
        both = np.delete(np.minimum(counts, np.roll(counts, -1, axis)), -1, axis)
        before, after = (
            float((np.diff(part[middle].astype(np.float64), axis=axis) ** 2 * both).sum())
            for part in (small, soft)
        )
        ratio = before / after if after > 0 else 0.0
        found.append(math.sqrt(max(ratio**2 - 1, 0)) / _SIGMA)
    return min(found) * _SIDE / _FULL


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face on a photo, or why there is none.

    Args:
        refused: "" where there is an embedding. Else "unreadable", the photo cannot be read;
            "none", no face was found; "several", where one was asked for; "too small", "bad
            landmarks" or "blurred", the face is so; "not finite", its embedding is not, or is 0.
        detail: The numbers behind that, in a line.
        box: x and y of the upper left, width and height in pixels of the upright photo: what is
            seen, after the orientation that a camera recorded is applied.
        landmarks: `(5, 2)` in pixels of it, in the order of `arcface_template`; None without a
            detector.
        score: How sure the detector was, in [0, 1].
        side: Of the square that alignment cuts out, in pixels of the photo.
        sharpness: Of the aligned face; see `sharpness`.
        embedding: `(D,)` float32 of length 1; None where it is refused.
        among: How many faces of the photo this one was chosen from, by a rule other than "all".
    """

    refused: Refusal = ""
    detail: str = ""
    box: tuple[float, float, float, float] | None = None
    landmarks: Floats | None = None
    score: float | None = None
    side: float | None = None
    sharpness: float | None = None
    embedding: npt.NDArray[np.float32] | None = None
    among: int = 1

    @property
    def reason(self) -> str:
        """Why it is refused, in words; "" where it is not."""
        if self.refused == "none":
            return self.detail or "no face"
        return f"{self.refused}: {self.detail}" if self.detail else self.refused


class _Candidate(NamedTuple):
    """A face before it is embedded; without the pixels of `aligned` it is refused."""

    face: FoundFace
    aligned: Image | None = None


class Recognizer:
    """Finds the faces of photos and embeds them, with what makes embeddings comparable.

    Args:
        model: From `centerarc.models.open_model`: a run, weights, or an ONNX file.
        detector: Finds the faces; None where each photo is an aligned face, of any size.
        min_face: Least side, in pixels of the photo, of the square that is cut out of it.
        min_sharpness: Least `sharpness`; 0 takes any.
        mirror: Sum the features of each face and of its mirror image.
        batch_size: Faces that are embedded at once.

    Raises:
        ValueError: If a number is out of range, or the model gives an image another embedding
            alone than among others.

    Example:
        >>> from centerarc.models import create_model, save_weights, open_model
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_weights(file, create_model("mobilefacenet", embedding_size=64).eval())
        >>> recognizer = Recognizer(open_model(file))  # without a detector: aligned faces
        >>> [face] = recognizer.faces(SyntheticFaces(1, 1).image(0))
        >>> face.refused, face.embedding.shape
        ('', (64,))
    """

    def __init__(
        self,
        model: "OpenedModel",
        detector: YuNetDetector | None = None,
        *,
        min_face: float = MIN_FACE,
        min_sharpness: float = MIN_SHARPNESS,
        mirror: bool = False,
        batch_size: int = 64,
    ) -> None:
        for name, value in (("min_face", min_face), ("min_sharpness", min_sharpness)):
            if not 0 <= value < np.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.detector = detector
        self.min_face = min_face
        self.min_sharpness = min_sharpness
        self.mirror = mirror
        self.batch_size = batch_size
        self._check_model()

    def _check_model(self) -> None:
        from centerarc.models.embedder import check_alone

        size = self.model.image_size
        drawn = SyntheticFaces(4, 1)

        def image(number: int) -> Image:
            return cv2.resize(drawn.image(number), (size, size)).astype(np.uint8)

        check_alone(self.model.embedder, image, len(drawn), self.model.name, mirror=self.mirror)

    # What a gallery keeps of this.

    @property
    def identity(self) -> dict[str, str]:
        """What must be equal for embeddings to be compared.

        The model's weights, what is done to its embeddings (`features`), what becomes of an aligned
        face (`preprocessing`, as JSON), and `mirror`. An ONNX file that `export_onnx` made has the
        identity of its weights.
        """
        about = self.model.preprocessing.to_dict()
        del about["layout"]  # the order in memory changes no number
        kept = {k: v for k, v in self.model.identity.items() if k != "origin_sha256"}
        return {
            **kept,
            "preprocessing": json.dumps(about, sort_keys=True),
            "mirror": str(self.mirror).lower(),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of `identity`, in hexadecimal digits: one text to keep and to compare."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, str]:
        """What else is known of how embeddings are made; they can be compared if it differs.

        Another detector cuts faces out a little differently, which costs accuracy: better one.
        """
        about = {
            "model": self.model.name,
            "centerarc": __version__,
            "min_sharpness": f"{self.min_sharpness:g}",
        }
        if (origin := self.model.identity.get("origin_sha256")) is not None:
            about["origin_sha256"] = origin
        if self.detector is None:
            return {**about, "detector": "none, the photos are aligned faces"}
        return {
            **about,
            "detector": self.detector.file_name,
            "detector_sha256": self.detector.sha256,
            "min_score": f"{self.detector.min_score:g}",
            "max_side": str(self.detector.max_side),
            "min_face": f"{self.min_face:g}",
        }

    # From photos to faces.

    def faces(self, photo: PhotoSource, *, rule: FaceRule = "all") -> list[FoundFace]:
        """Finds and embeds the faces of one photo; see `stream`."""
        return next(self.stream([photo], rule=rule))

    def stream(
        self, photos: Iterable[PhotoSource], *, rule: FaceRule = "all"
    ) -> Iterator[list[FoundFace]]:
        """Finds and embeds the faces of photos, one after the other, in bounded memory.

        Args:
            photos: The photos, of at most 64 M pixels; they are taken as they are needed.
            rule: Which faces of a photo to take, among those that are large enough and have sound
                landmarks; see `choose_faces`. "all" gives the others too, after these. Without a
                detector each photo is one face.

        Yields:
            For each photo its faces, at least one. Where the rule takes none, that one says why.

        Raises:
            ValueError: If the rule is unknown or an array is not `(H, W, 3)` uint8.
        """
        check_face_rule(rule)
        if isinstance(photos, str | bytes | os.PathLike):
            raise ValueError("photos must be several, such as a list; use faces for one photo")
        return self._stream(photos, rule)

    def _stream(self, photos: Iterable[PhotoSource], rule: FaceRule) -> Iterator[list[FoundFace]]:
        waiting: list[list[_Candidate]] = []
        count = 0
        for photo in photos:
            found = self._candidates(photo, rule)
            waiting.append(found)
            count += sum(each.aligned is not None for each in found)
            # Photos without a face wait for none.
            if count >= self.batch_size or not count:
                yield from self._embedded(waiting)
                waiting, count = [], 0
        yield from self._embedded(waiting)

    def _embedded(self, photos: Sequence[Sequence[_Candidate]]) -> Iterator[list[FoundFace]]:
        aligned = [each.aligned for found in photos for each in found if each.aligned is not None]
        rows: Iterator[npt.NDArray[np.float32]] = (
            row
            for at in range(0, len(aligned), self.batch_size)
            for row in self.model.embedder.embed(
                np.stack(aligned[at : at + self.batch_size]), mirror=self.mirror
            )
        )
        for found in photos:
            yield [
                each.face if each.aligned is None else _with_embedding(each.face, next(rows))
                for each in found
            ]

    def _candidates(self, source: PhotoSource, rule: FaceRule) -> list[_Candidate]:
        """The faces of a photo that the rule takes, refused or aligned; at least one."""
        try:
            photo = _array(source) if isinstance(source, np.ndarray) else _read(source)
        except _UnreadableError as error:
            return [_Candidate(FoundFace("unreadable", str(error)))]
        if self.detector is None:
            return [self._whole(photo)]
        try:
            found = self.detector.detect(photo)
        except ValueError as error:  # OpenCV cannot run on it
            return [_Candidate(FoundFace("unreadable", str(error)))]
        if not found:
            detail = f"no face with a score of at least {self.detector.min_score:g} was found"
            return [_Candidate(FoundFace("none", detail))]
        height, width = photo.shape[:2]
        unfit: list[_Candidate] = []
        small: list[Face] = []
        large: list[Face] = []
        for face in found:
            if problem := face.problem(width, height):
                about = FoundFace("bad landmarks", problem, face.box, face.points, face.score)
                unfit.append(_Candidate(about))
            else:
                (large if face.side >= self.min_face else small).append(face)
        taken = [self._aligned(photo, face) for face in choose_faces(large, rule, width, height)]
        if taken and rule != "all":
            return [each._replace(face=replace(each.face, among=len(large))) for each in taken]
        if large and not taken:
            detail = f"{len(large)} faces; a photo of one is asked for"
            return [_Candidate(FoundFace("several", detail))]
        small.sort(key=lambda face: face.side, reverse=True)
        limit = f"at least {self.min_face:g} are asked for"
        refused = [
            replace(
                _about(face),
                refused="too small",
                detail=f"a square of {face.side:.1f} pixels; {limit}",
            )
            for face in small
        ]
        every = [*taken, *map(_Candidate, refused), *unfit]
        return every if rule == "all" else every[:1]

    def _aligned(self, photo: Image, face: Face) -> _Candidate:
        size = self.model.image_size
        matrix = face.matrix(size)
        aligned = warp(photo, matrix, size)
        return self._judged(_about(face), aligned, _inside(photo, matrix, size))

    def _whole(self, photo: Image) -> _Candidate:
        """A photo that is an aligned face."""
        height, width = photo.shape[:2]
        if height != width:
            detail = (
                f"{width} x {height} pixels, and without a detector a photo must be an aligned "
                "face, so a square: align it by centerarc data align, or use a detector (a gallery "
                "made without --aligned)"
            )
            return _Candidate(FoundFace("unreadable", detail))
        about = FoundFace(box=(0.0, 0.0, float(width), float(width)), side=float(width))
        found = self._judged(about, photo, None)
        size = self.model.image_size
        if found.aligned is None or width == size:
            return found
        return _Candidate(found.face, resized(photo, size, size))

    def _judged(
        self, about: FoundFace, aligned: Image, inside: npt.NDArray[np.bool_] | None
    ) -> _Candidate:
        sharp = sharpness(aligned, inside)
        about = replace(about, sharpness=sharp)
        if sharp >= self.min_sharpness:
            return _Candidate(about, aligned)
        detail = f"a sharpness of {sharp:.3f}; at least {self.min_sharpness:g} is asked for"
        return _Candidate(replace(about, refused="blurred", detail=detail))


class _UnreadableError(ValueError):
    """A photo that cannot be read."""


def _read(source: str | os.PathLike[str] | bytes) -> Image:
    try:
        return decode_image(source if isinstance(source, bytes) else read_file(source))
    except (OSError, ValueError) as error:
        raise _UnreadableError(str(error)) from error


def _array(photo: Image) -> Image:
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise ValueError(
            f"a photo must be uint8 of shape (H, W, 3), got {photo.dtype} of shape {photo.shape}"
        )
    return photo


def _about(face: Face) -> FoundFace:
    return FoundFace(box=face.box, landmarks=face.points, score=face.score, side=face.side)


def _inside(photo: Image, matrix: Floats, size: int) -> npt.NDArray[np.bool_] | None:
    """Which pixels of the aligned square lie in the photo; None where all do."""
    back = inverse_transform(matrix)
    most = np.array([photo.shape[1] - 1, photo.shape[0] - 1])
    end = size - 1
    corners = apply_transform(back, [(0, 0), (end, 0), (0, end), (end, end)])
    if ((corners >= 0) & (corners <= most)).all():
        return None
    y, x = np.mgrid[:size, :size]
    at = apply_transform(back, np.stack([x.ravel(), y.ravel()], axis=1))
    inside: npt.NDArray[np.bool_] = ((at >= 0) & (at <= most)).all(1).reshape(size, size)
    return inside


def _with_embedding(face: FoundFace, row: npt.NDArray[np.float32]) -> FoundFace:
    wide = row.astype(np.float64)
    length = float(np.sqrt((wide**2).sum()))
    if not 0 < length < np.inf:
        what = "all 0" if length == 0 else "not finite"
        return replace(face, refused="not finite", detail=f"the embedding is {what}")
    return replace(face, embedding=(wide / length).astype(np.float32))
