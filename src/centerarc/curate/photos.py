"""Photos to align: the folder tree, its landmarks file, and the faces of a photo."""

import math
import os
import posixpath
import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from centerarc.curate.faces import Face, mirrored
from centerarc.data.alignment import Floats
from centerarc.data.folder import EXTENSIONS, natural_key
from centerarc.io.tables import CsvTable

# The photos of a folder tree, and names for what comes of them.


@dataclass(frozen=True)
class Photo:
    """A photo.

    Args:
        path: Below the root, with slashes.
        version: Size and time of change; another one means other contents.
    """

    path: str
    version: str


@dataclass
class PhotoTree:
    """What a folder tree holds.

    Args:
        photos: Its photos in natural order, folders after the files beside them.
        left_out: Folders and files that could not be looked into, with the reason.
        others: Number of files that are no photo by name, hidden ones included.
    """

    photos: list[Photo] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0


def find_photos(root: str | os.PathLike[str]) -> PhotoTree:
    """Finds all photos below a folder; links are followed, each folder is seen once.

    Args:
        root: The folder.

    Returns:
        What was found.

    Raises:
        ValueError: If the root is no folder or holds no photo.
    """
    top = Path(root)
    if not top.is_dir():
        raise ValueError(f"{os.fspath(root)!r} is not a folder; photos are taken from a folder")
    tree = PhotoTree()
    _search(top, PurePosixPath(), tree, {})
    if not tree.photos:
        known = ", ".join(sorted(EXTENSIONS))
        raise ValueError(
            f"{os.fspath(root)!r} holds no photo ({known}), only {tree.others} other files"
        )
    return tree


def _search(folder: Path, below: PurePosixPath, tree: PhotoTree, seen: dict[str, str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        tree.left_out.append((below.as_posix(), f"a link to a folder seen before: {seen[real]!r}"))
        return
    seen[real] = below.as_posix()
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        tree.left_out.append((below.as_posix(), f"cannot be listed: {error.strerror}"))
        return
    folders = []
    for entry in entries:
        place = below / entry.name
        hidden = entry.name.startswith(".")
        if entry.is_dir():
            if not hidden:
                folders.append(entry)
        elif hidden or place.suffix.lower() not in EXTENSIONS:
            tree.others += 1
        else:
            try:
                facts = entry.stat()
            except OSError as error:
                tree.left_out.append((place.as_posix(), f"cannot be read: {error.strerror}"))
                continue
            tree.photos.append(Photo(place.as_posix(), f"{facts.st_size}-{facts.st_mtime_ns}"))
    for entry in folders:
        _search(Path(entry.path), below / entry.name, tree, seen)


def output_names(photos: Sequence[tuple[str, str]]) -> list[str]:
    """Chooses where the faces of each photo go, without an extension.

    Without an identity that is the photo's own path. With one it is a folder of that name, and
    folders above the photo become part of the name. Names that differ only in extension, case or
    the spelling of accents would meet in one file on some machine: the first keeps the plain name,
    later ones keep their extension as well, and a number if even that is taken.

    Args:
        photos: Path and identity ("" for none) of each, in order.

    Returns:
        A relative path with slashes for each; all are different.

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
        plain = place.with_suffix("").as_posix()
        name, number = plain, 1
        while folded_name(name) in taken:
            name = place.as_posix() if number == 1 else f"{place.as_posix()}~{number}"
            number += 1
        taken.add(folded_name(name))
        names.append(name)
    return names


def face_separators(names: Iterable[str]) -> dict[str, str]:
    """Chooses what stands before the number of a second face, in each folder.

    That is `-`, so that the second face of `1` is `1-2`; `--` where a photo of that name exists,
    and so on.

    Args:
        names: All that `output_names` gave.

    Returns:
        The separator of each folder that needs another than `-`.

    Example:
        >>> face_separators(["ann/1", "ann/1-2", "bob/1"])
        {'ann': '--'}
    """
    folded = {folded_name(name): name for name in names}
    unusable: dict[str, set[int]] = {}
    for key, name in folded.items():
        found = re.search(r"(-+)([0-9]+)$", key)
        if found is None:
            continue
        before = key[: found.start()]
        run = len(found[1])
        clashes = {n for n in range(1, run + 1) if before + "-" * (run - n) in folded}
        if clashes:
            folder = PurePosixPath(name).parent.as_posix()
            unusable.setdefault(folder, set()).update(clashes)
    return {
        folder: "-" * next(n for n in range(1, len(clashes) + 2) if n not in clashes)
        for folder, clashes in unusable.items()
        if 1 in clashes
    }


def folded_name(name: str) -> str:
    """Returns what is equal for names that some machine takes for one file."""
    return unicodedata.normalize("NFC", name).casefold()


# Landmarks of photos from a CSV file.

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
    table = CsvTable(path)
    try:
        columns = _Columns(table.columns)
    except ValueError as error:
        raise table.error(1, str(error)) from error
    for line, fields in table.rows():
        try:
            paths.append(_relative(columns.path(fields), root))
            identities.append(columns.identity(fields))
            numbers.extend(columns.coordinates(fields))
            scores.append(columns.score(fields))
        except ValueError as error:
            raise table.error(line, str(error)) from error
        lines.append(line)
    points = np.array(numbers, dtype=np.float64).reshape(-1, 5, 2)
    if wrong := _wrong_together(points):
        raise table.error(lines[wrong[0]] if lines else 1, wrong[1])
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

    def path(self, fields: Sequence[str]) -> str:
        text = fields[self._path]
        if not text.strip() or "\0" in text:
            raise ValueError(f"path is {text!r}; it must name a photo")
        return text

    def identity(self, fields: Sequence[str]) -> str:
        if self._identity < 0:
            return ""
        text = fields[self._identity]
        if not text.strip() or text.startswith(".") or set(text) & set("/\\\0"):
            raise ValueError(
                f"identity is {text!r}; it names a folder, so it must not be empty, start with "
                "a dot or hold a slash"
            )
        return text

    def score(self, fields: Sequence[str]) -> float:
        return self._number(fields, self._score) if self._score >= 0 else math.nan

    def coordinates(self, fields: Sequence[str]) -> list[float]:
        values = [self._number(fields, column) for column in self._coordinates]
        for column, value in zip(self._coordinates, values, strict=True):
            if abs(value) > _FARTHEST:
                raise ValueError(
                    f"{self._header[column]} is {value:g}; no photo reaches that far, a pixel "
                    f"coordinate is at most {_FARTHEST}"
                )
        return values

    def _number(self, fields: Sequence[str], column: int) -> float:
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
