"""One photo: its faces are found, chosen, cut out and written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg

from centerarc.data.alignment.detect import YuNetDetector
from centerarc.data.alignment.faces import Face, FaceRule, choose_faces
from centerarc.data.alignment.report import Row
from centerarc.data.alignment.similarity import transform_scale
from centerarc.data.alignment.warp import warp
from centerarc.data.decode import decode_image
from centerarc.data.files import atomic_path, read_file
from centerarc.data.source import Image

Format = Literal["jpg", "png"]
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Group:
    """Faces of one photo among which the rule chooses.

    Args:
        identity: Whose they are, or "".
        name: Where they go, below the output folder, without extension.
        separator: What stands between that and the number of a second face.
        faces: The faces; None lets the detector find them.
        version: Of the photo and these faces.
    """

    identity: str
    name: str
    separator: str
    faces: Sequence[Face] | None
    version: str

    def file(self, number: int, extension: str) -> str:
        """Returns the file of face `number`, from 1, below the output folder."""
        suffix = "" if number == 1 else f"{self.separator}{number}"
        return f"{self.name}{suffix}.{extension}"


@dataclass(frozen=True)
class PhotoAligner:
    """Aligns photos one by one.

    Args:
        root: Folder of the photos.
        out: Folder for the aligned faces.
        size: Side of an aligned face in pixels.
        faces: Which faces of a photo to take; see `choose_faces`.
        min_face: Least side, in pixels of the photo, of the square that is cut out.
        format: "jpg", of quality 95 with full colour resolution, or "png".
        detector: Finds the faces where none are given.
    """

    root: Path
    out: Path
    size: int
    faces: FaceRule
    min_face: float
    format: Format
    detector: YuNetDetector | None

    def align(self, path: str, groups: Sequence[Group]) -> list[Row]:
        """Aligns the faces of a photo and writes them.

        Args:
            path: The photo, below the root.
            groups: Its faces.

        Returns:
            What became of each face taken or unfit, and of each group of which none was taken.

        Raises:
            OSError: If a face cannot be written.
        """
        try:
            photo = decode_image(read_file(self.root / path))
            found = self.detector.detect(photo) if self.detector is not None else []
        except (OSError, ValueError) as error:
            reason = str(error)
            return [
                Row(path, "unreadable", reason, identity=group.identity, version=group.version)
                for group in groups
            ]
        rows: list[Row] = []
        for group in groups:
            faces = found if group.faces is None else group.faces
            rows += self._align_group(path, photo, group, faces)
        return rows

    def _align_group(
        self, path: str, photo: Image, group: Group, faces: Sequence[Face]
    ) -> list[Row]:
        height, width = photo.shape[:2]

        about = Row(
            path, "no face", identity=group.identity, faces=len(faces), version=group.version
        )
        unfit, large, small = [], [], []
        for face in faces:
            if problem := face.problem(width, height):
                unfit.append(_of(about, face, status="bad landmarks", reason=problem))
            elif face.side < self.min_face:
                small.append(face)
            else:
                large.append(face)
        taken = []
        for number, face in enumerate(choose_faces(large, self.faces, width, height), start=1):
            matrix = face.matrix(self.size)
            name = group.file(number, self.format)
            self._write(self.root / path, name, warp(photo, matrix, self.size))
            scale = transform_scale(matrix)
            taken.append(_of(about, face, status="aligned", face=number, scale=scale, aligned=name))
        if taken:
            return taken + unfit
        if large:
            several = replace(about, status="several faces", reason=f"{len(large)} faces")
            return [several, *unfit]
        if small:
            best = max(small, key=lambda face: face.side)
            reason = f"a square of {best.side:.1f} pixels; at least {self.min_face:g} are asked for"
            return [_of(about, best, status="too small", reason=reason), *unfit]
        return unfit or [about]

    def _write(self, photo: Path, name: str, face: Image) -> None:
        target = self.out / name
        if target.exists() and target.samefile(photo):
            raise ValueError(f"{str(target)!r} is the photo itself; it is not overwritten")
        data = _encoded(face, self.format)
        try:
            with atomic_path(target) as temporary:
                temporary.write_bytes(data)
        except OSError as error:
            raise OSError(f"cannot write {str(target)!r}: {error.strerror or error}") from error


def _of(about: Row, found: Face, /, **more: Any) -> Row:
    return replace(about, score=found.score, points=found.points, **more)


def _encoded(face: Image, extension: Format) -> bytes:
    if extension == "jpg":
        data: bytes = simplejpeg.encode_jpeg(
            face, quality=_JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
        )
        return data
    done, png = cv2.imencode(".png", np.ascontiguousarray(face[:, :, ::-1]))
    if not done:
        raise OSError("the PNG could not be encoded")
    return png.tobytes()
