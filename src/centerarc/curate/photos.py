"""The photos of a folder tree, and the faces on them: landmarks of a file, one of several."""

import math
import os
import posixpath
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, repeat
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

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
from centerarc.data.folder import natural_key
from centerarc.data.source import EXTENSIONS, PICTURES, UNREAD, composed, folded
from centerarc.io.tables import CsvTable, PlainTable, Table, plain_fields

# The photos of a folder tree, and names for what comes of them.


class Photo(NamedTuple):
    """A photo's path below the root, and its size and time of change: another one means others."""

    path: str
    version: str


class PhotoTree:
    """All photos below a folder, in natural order, folders after the files next to them.

    Links are followed, each folder is seen once. `left_out` has what could not be looked into and
    why; `others` counts files that are not photos by their name, hidden ones included.

    Raises:
        ValueError: If the root is not a folder or holds no photo.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if not os.path.isdir(root):
            raise ValueError(f"{os.fspath(root)!r} is not a folder; photos are taken from a folder")
        self.photos: list[Photo] = []
        self.left_out: list[tuple[str, str]] = []
        self.others = 0
        self._seen: dict[str, str] = {}
        self._search(Path(root), PurePosixPath())
        if not self.photos:
            known = ", ".join(sorted(EXTENSIONS))
            raise ValueError(
                f"{os.fspath(root)!r} holds no photo ({known}), only {self.others} other files"
            )

    def _search(self, folder: Path, below: PurePosixPath) -> None:
        real = os.path.realpath(folder)
        if real in self._seen:
            reason = f"a link to a folder seen before: {self._seen[real]!r}"
            self.left_out.append((below.as_posix(), reason))
            return
        self._seen[real] = below.as_posix()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            self.left_out.append((below.as_posix(), f"cannot be listed: {error.strerror}"))
            return
        folders = []
        for entry in entries:
            place = below / entry.name
            hidden = entry.name.startswith(".")
            if entry.is_dir():
                if not hidden:
                    folders.append(entry)
            elif hidden or (extension := place.suffix.lower()) not in PICTURES:
                self.others += 1
            elif extension not in EXTENSIONS:
                self.left_out.append((place.as_posix(), f"{UNREAD}: {extension}"))
            else:
                try:
                    facts = entry.stat()
                except OSError as error:
                    self.left_out.append((place.as_posix(), f"cannot be read: {error.strerror}"))
                else:
                    version = f"{facts.st_size}-{facts.st_mtime_ns}"
                    self.photos.append(Photo(place.as_posix(), version))
        for entry in folders:
            self._search(Path(entry.path), below / entry.name)


def output_names(photos: Sequence[tuple[str, str]]) -> list[str]:
    """Chooses where the faces of photos, given as path and identity, go: paths without extension.

    Without an identity that is the photo's own path. With one it is a folder of that name, and
    folders above the photo become part of the name. Names that differ only in extension, case or
    the spelling of accents would meet in one file on some machine: the first keeps the plain name,
    later ones keep their extension as well, and a number if even that is taken.

    Example:
        >>> output_names([("ann/1.jpg", ""), ("ann/1.png", ""), ("trip/2.jpg", "Bob")])
        ['ann/1', 'ann/1.png', 'Bob/trip_2']
    """
    taken: set[str] = set()
    names = []
    for path, identity in photos:
        place = PurePosixPath(path)
        if identity:
            parts = place.parts[1:] if place.parts[0] == identity else place.parts
            place = PurePosixPath(identity, "_".join(parts or place.parts))
        name, number = place.with_suffix("").as_posix(), 1
        while folded(name) in taken:
            name = place.as_posix() if number == 1 else f"{place.as_posix()}~{number}"
            number += 1
        taken.add(folded(name))
        names.append(name)
    return names


def face_separators(names: Iterable[str]) -> dict[str, str]:
    """Chooses what stands before the number of a second face, in folders where `-` does not do.

    The second face of `1` is `1-2`; `1--2` where a photo `1-2` exists, and so on.

    Example:
        >>> face_separators(["ann/1", "ann/1-2", "bob/1"])
        {'ann': '--'}
    """
    by_key = {folded(name): name for name in names}
    unusable: dict[str, set[int]] = {}
    for key, name in by_key.items():
        if found := re.search(r"(-+)([0-9]+)$", key):
            before, run = key[: found.start()], len(found[1])
            clashes = {n for n in range(1, run + 1) if before + "-" * (run - n) in by_key}
            folder = PurePosixPath(name).parent.as_posix()
            unusable.setdefault(folder, set()).update(clashes)
    return {
        folder: "-" * next(n for n in range(1, len(clashes) + 2) if n not in clashes)
        for folder, clashes in unusable.items()
        if 1 in clashes
    }


# The faces of a photo, and which of them to take.

FaceRule = Literal["largest", "center", "score", "all", "only"]
"""Which faces of a photo to take, see `choose_faces`."""
FACE_RULES: tuple[FaceRule, ...] = get_args(FaceRule)
"""Every `FaceRule`."""


@dataclass(frozen=True, eq=False)
class Face:
    """Five landmarks in a photo.

    Args:
        points: `(5, 2)` float64, in the order of `arcface_template`, in pixels of the upright
            photo with whole numbers at the centers of pixels.
        score: How sure the detector was, in [0, 1]; None if unknown.
        box: x and y of the corner at the upper left, width and height, as the detector has them,
            in pixels of the photo with whole numbers at the edges of pixels; None if unknown.
    """

    points: Floats
    score: float | None = None
    box: tuple[float, float, float, float] | None = None

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
        if _mirrored(self.points[None])[0]:
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


def _mirrored(points: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tells which of `(N, 5, 2)` landmarks have left and right swapped, whichever way up they are.

    From the middle of the eyes, the mouth must be to the right of the way from the left eye to the
    right one.
    """
    eyes = points[:, 1] - points[:, 0]
    down = points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]
    swapped: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        eyes[:, 0] * down[:, 1] - eyes[:, 1] * down[:, 0] < 0
    )
    return swapped


def check_face_rule(rule: str) -> None:
    """Raises `ValueError` if `rule` is not one of `FACE_RULES`."""
    if rule not in FACE_RULES:
        raise ValueError(f"faces must be one of {', '.join(FACE_RULES)}, got {rule!r}")


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
    if rule == "only":
        return list(faces) if len(faces) == 1 else []
    if rule == "score" and any(face.score is None for face in faces):
        raise ValueError("faces is 'score', but a face has no score")
    middle = np.array([(width - 1) / 2, (height - 1) / 2])

    def worth(face: Face) -> float:
        if rule == "score":
            return face.score or 0.0
        if rule == "center":
            return face.side**2 - 2 * float(((face.middle - middle) ** 2).sum())
        return face.side

    best_first = sorted(faces, key=worth, reverse=True)
    return best_first if rule == "all" else best_first[:1]


# Landmarks of photos from a CSV file.

# A column may have any of these names; case, spaces and punctuation do not count.
_PATH = ("path", "file", "file_name", "image", "image_id", "image_path", "name_id")
_IDENTITY = ("identity", "person", "subject")
_SCORE = ("score", "confidence")
# Each point's names, in the order of the template. `_x` or `_y` follows; x1, y1 ... x5, y5 do too.
_POINTS = (
    ("left_eye", "eye_left"),
    ("right_eye", "eye_right"),
    ("nose", "nose_tip"),
    ("left_mouth", "mouth_left", "left_mouth_corner", "mouth_left_corner"),
    ("right_mouth", "mouth_right", "right_mouth_corner", "mouth_right_corner"),
)
_FARTHEST = 100_000  # pixels; no photo that can be decoded and holds a face is so large


class LandmarkTable:
    """The faces of photos, by the photo's path.

    Args:
        paths: `(R)` paths of photos below the root, one of each face; a path may come again.
        identities: `(R)` whose face it is, or "" for all.
        points: `(R, 5, 2)` float64, in the order of `arcface_template`, in pixels.
        scores: `(R,)` float64, NaN where there is none.
    """

    def __init__(
        self, paths: Sequence[str], identities: Sequence[str], points: Floats, scores: Floats
    ) -> None:
        self._identities = identities
        self._points = points
        self._scores = scores
        self._rows: dict[str, list[int]] = {}
        for row, path in enumerate(paths):
            self._rows.setdefault(_key(path), []).append(row)

    def __len__(self) -> int:
        """Returns the number of faces."""
        return len(self._points)

    def faces(self, path: str) -> dict[str, list[Face]]:
        """Returns the faces of a photo by identity, in the order of the file; empty if none."""
        found: dict[str, list[Face]] = {}
        key = _key(path)
        for row in self._rows.get(key) or self._rows.get(posixpath.splitext(key)[0], []):
            score = float(self._scores[row])
            face = Face(self._points[row], None if np.isnan(score) else score)
            found.setdefault(self._identities[row], []).append(face)
        return found

    def first_path(self) -> str:
        """Returns the path of the first face."""
        return next(iter(self._rows))

    def without_photo(self, paths: Iterable[str]) -> list[str]:
        """Returns the paths of this table that are not among those given."""
        present = {_key(path) for path in paths}
        present |= {posixpath.splitext(key)[0] for key in present}
        return [path for path in self._rows if path not in present]

    def has_scores(self) -> bool:
        """Tells whether every face has a score."""
        return not np.isnan(self._scores).any()


def _key(path: str) -> str:
    # Files written on Windows have backslashes, those of a Mac accents as characters of their own.
    return posixpath.normpath(composed(path.replace("\\", "/")))


def read_landmarks(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> LandmarkTable:
    """Reads a CSV file of five landmarks a face.

    The first line names the columns, in any order: `path`, relative to the folder of photos;
    `x1`, `y1` to `x5`, `y5`, the left eye, right eye, nose, left and right corner of the mouth,
    left and right as seen in the image; optional `identity` and `score`. Also understood: `file`,
    `filename`, `image`, `image_id`, `image_path` for the path; `person`, `subject`;
    `confidence`; `left_eye_x`, `lefteye_x`, `nose_x`, `nose_tip_x`, `left_mouth_x`,
    `mouth_left_x`, `left_mouth_corner_x` and the like. Other columns are ignored. Commas,
    semicolons or tabs stand between. Several lines with one path are several faces. A path may lack
    its ending, and CelebA's and VGGFace2's own files are read as they are.

    Args:
        path: The file, UTF-8.
        root: The folder of photos; absolute paths below it become relative.

    Returns:
        The landmarks.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a column is missing or there twice, a value is not a number or not a pixel
            coordinate, an identity cannot name a folder, or left and right are swapped in most
            lines; the message names file and line.
    """
    table = _landmark_table(path)
    path_at = _column(table, _PATH, "path")
    identity_at, score_at = _column(table, _IDENTITY), _column(table, _SCORE)
    points_at = []
    for number, aliases in enumerate(_POINTS, start=1):
        for axis in "xy":
            names = (
                f"{axis}{number}",
                f"p{number}{axis}",
                *(f"{alias}_{axis}" for alias in aliases),
            )
            points_at.append(_column(table, names, " or ".join(names[::2][:2])))
    top = None if root is None else os.path.join(os.path.abspath(root), "")
    paths: list[str] = []
    identities: list[str] = []
    numbers, scores, lines = array("d"), array("d"), array("q")
    for line, fields in table.rows():
        place = fields[path_at]
        if not place.strip() or "\0" in place:
            raise table.error(line, f"path must name a photo, got {place!r}")
        name = "" if identity_at < 0 else fields[identity_at]
        if identity_at >= 0 and (
            not name.strip() or name.startswith(".") or set(name) & set("/\\\0")
        ):
            raise table.error(
                line,
                "identity names a folder, so it must not be empty, start with a dot or hold a "
                f"slash, got {name!r}",
            )
        paths.append(os.path.relpath(place, top) if top and place.startswith(top) else place)
        identities.append(name)
        for column in points_at:
            value = _number(table, line, fields, column)
            if abs(value) > _FARTHEST:
                raise table.error(
                    line,
                    f"{table.columns[column]} must be a pixel coordinate of at most {_FARTHEST}, "
                    f"got {value:g}",
                )
            numbers.append(value)
        scores.append(_number(table, line, fields, score_at) if score_at >= 0 else math.nan)
        lines.append(line)
    points = np.array(numbers, dtype=np.float64).reshape(-1, 5, 2)
    if not lines:
        raise table.error(1, "there is no face, only the names of columns")
    if np.abs(points).max() <= 1:
        what = "all coordinates are within 0 and 1; they must be in pixels of the photo"
        raise table.error(lines[0], what)
    swapped = _mirrored(points)
    if 2 * int(swapped.sum()) > len(points):
        raise table.error(
            lines[int(np.argmax(swapped))],
            f"left and right are swapped, here and in {int(swapped.sum())} of {len(points)} faces; "
            "left is the left side of the image, not of the person: swap the names of the columns",
        )
    return LandmarkTable(paths, identities, points, np.array(scores, dtype=np.float64))


def _landmark_table(path: str | os.PathLike[str]) -> Table:
    """A CSV file; or CelebA's form: a number of lines, names of columns, and blanks between."""
    (_, first), (line, names) = islice(chain(plain_fields(path), repeat((0, [""]))), 2)
    if len(first) != 1 or not first[0].isdecimal() or len(names) < 2:
        return CsvTable(path)
    start = [] if names[0].startswith("image") else ["path"]
    return PlainTable(path, [*start, *names], skip=line)


def _column(table: Table, wanted: Sequence[str], required: str = "") -> int:
    """The number of the column that has one of some names; -1 if there is none."""
    plain = {re.sub(r"[\W_]+", "", name) for name in wanted}
    found = [
        column
        for column, name in enumerate(table.columns)
        if re.sub(r"[\W_]+", "", name.lower()) in plain
    ]
    if len(found) > 1:
        raise table.error(1, f"columns {found[0] + 1} and {found[1] + 1} are both {wanted[0]!r}")
    if not found and required:
        there = ", ".join(table.columns)
        boxes = "; boxes are not enough" if {"width", "height"} & {*table.columns} else ""
        raise table.error(1, f"there is no column {required}; the columns are {there}{boxes}")
    return found[0] if found else -1


def _number(table: Table, line: int, fields: Sequence[str], column: int) -> float:
    try:
        value = float(fields[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        name = table.columns[column]
        raise table.error(line, f"{name} must be a finite number, got {fields[column]!r}")
    return value
