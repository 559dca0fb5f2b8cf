"""Landmarks of photos from a CSV file."""

import csv
import math
import os
import posixpath
import re
import unicodedata
from array import array
from collections.abc import Sequence

import numpy as np

from centerarc.data.alignment.faces import Face, mirrored
from centerarc.data.alignment.similarity import Floats

# A column may have any of these names; case, spaces and punctuation do not count.
_PATH = ("path", "file", "file_name", "image", "image_id", "image_path")
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
        for row in self._rows.get(_key(path), []):
            score = float(self._scores[row])
            face = Face(self._points[row], None if np.isnan(score) else score)
            found.setdefault(self._identities[row], []).append(face)
        return found

    def without_photo(self, paths: Sequence[str]) -> list[str]:
        """Returns the paths of this table that are not among those given."""
        present = {_key(path) for path in paths}
        return [path for path in self._rows if path not in present]

    def has_scores(self) -> bool:
        """Tells whether every face has a score."""
        return not np.isnan(self._scores).any()


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
    semicolons or tabs stand between. Several lines with one path are several faces.

    Args:
        path: The file, UTF-8.
        root: The folder of photos; absolute paths below it become relative.

    Returns:
        The landmarks.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a column is missing or there twice, a value is not a number or no pixel
            coordinate, an identity cannot name a folder, or left and right are swapped in most
            lines; the message names file and line.
    """
    paths: list[str] = []
    identities: list[str] = []
    numbers = array("d")
    scores = array("d")
    lines = array("q")
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = _delimiter(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line = 1
        try:
            columns = _Columns(next(reader, []))
            for fields in reader:
                line = reader.line_num
                if not fields:
                    continue
                columns.check_length(fields)
                paths.append(_relative(columns.path(fields), root))
                identities.append(columns.identity(fields))
                numbers.extend(columns.coordinates(fields))
                scores.append(columns.score(fields))
                lines.append(line)
            points = np.array(numbers, dtype=np.float64).reshape(-1, 5, 2)
            if wrong := _wrong_together(points):
                line = lines[wrong[0]] if lines else line
                raise ValueError(wrong[1])
        except csv.Error as error:
            raise ValueError(f"{os.fspath(path)}:{reader.line_num}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}:{line}: {error}") from error
    return LandmarkTable(paths, identities, points, np.array(scores, dtype=np.float64))


class _Columns:
    """Where each value stands in a line."""

    def __init__(self, header: list[str]) -> None:
        self._header = header
        self._path = _find(header, _PATH, "path")
        self._identity = _find(header, _IDENTITY)
        self._score = _find(header, _SCORE)
        self._coordinates = []
        for number, aliases in enumerate(_POINTS, start=1):
            for axis in "xy":
                wanted = (f"{axis}{number}", *(f"{alias}_{axis}" for alias in aliases))
                self._coordinates.append(_find(header, wanted, " or ".join(wanted[:2])))

    def check_length(self, fields: list[str]) -> None:
        if len(fields) != len(self._header):
            raise ValueError(
                f"there are {len(fields)} values, but the first line names "
                f"{len(self._header)} columns"
            )

    def path(self, fields: list[str]) -> str:
        text = fields[self._path]
        if not text.strip() or "\0" in text:
            raise ValueError(f"path is {text!r}; it must name a photo")
        return text

    def identity(self, fields: list[str]) -> str:
        if self._identity < 0:
            return ""
        text = fields[self._identity]
        if not text.strip() or text.startswith(".") or set(text) & set("/\\\0"):
            raise ValueError(
                f"identity is {text!r}; it names a folder, so it must not be empty, start with "
                "a dot or hold a slash"
            )
        return text

    def score(self, fields: list[str]) -> float:
        return self._number(fields, self._score) if self._score >= 0 else math.nan

    def coordinates(self, fields: list[str]) -> list[float]:
        values = [self._number(fields, column) for column in self._coordinates]
        for column, value in zip(self._coordinates, values, strict=True):
            if abs(value) > _FARTHEST:
                raise ValueError(
                    f"{self._header[column]} is {value:g}; no photo reaches that far, a pixel "
                    f"coordinate is at most {_FARTHEST}"
                )
        return values

    def _number(self, fields: list[str], column: int) -> float:
        try:
            value = float(fields[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"{self._header[column]} is {fields[column]!r}; it must be a finite number"
            )
        return value


def _find(header: list[str], wanted: Sequence[str], required: str = "") -> int:
    plain = {_plain(name) for name in wanted}
    found = [column for column, name in enumerate(header) if _plain(name) in plain]
    if len(found) > 1:
        raise ValueError(f"columns {found[0] + 1} and {found[1] + 1} are both {wanted[0]!r}")
    if not found and required:
        raise ValueError(f"there is no column {required}; the columns are {', '.join(header)}")
    return found[0] if found else -1


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _delimiter(header: str) -> str:
    if "," in header:
        return ","
    return ";" if ";" in header else "\t" if "\t" in header else ","


def _relative(path: str, root: str | os.PathLike[str] | None) -> str:
    if root is None or not os.path.isabs(path):
        return path
    top = os.path.abspath(root)
    return os.path.relpath(path, top) if path.startswith(os.path.join(top, "")) else path


def _key(path: str) -> str:
    # Files written on Windows have backslashes, those of a Mac accents as characters of their own.
    return posixpath.normpath(unicodedata.normalize("NFC", path.replace("\\", "/")))


def _wrong_together(points: Floats) -> tuple[int, str] | None:
    """Returns the row and the words for what is wrong with the file as a whole, or None."""
    if not len(points):
        return 0, "there is no face, only the names of columns"
    if np.abs(points).max() <= 1:
        return 0, "all coordinates are within 0 and 1; they must be in pixels of the photo"
    swapped = mirrored(points)
    if 2 * int(swapped.sum()) > len(points):
        return int(np.argmax(swapped)), (
            f"left and right are swapped, here and in {int(swapped.sum())} of {len(points)} faces; "
            "left is the left side of the image, not of the person: swap the names of the columns"
        )
    return None
