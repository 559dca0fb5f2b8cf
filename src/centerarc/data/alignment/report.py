"""The CSV file that says what became of every photo."""

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from centerarc.data.alignment.similarity import Floats
from centerarc.data.files import atomic_path

REPORT_NAME = "alignment.csv"
JOURNAL_NAME = ".alignment-unfinished.csv"

Status = Literal[
    "aligned",
    "no face",
    "several faces",
    "too small",
    "bad landmarks",
    "unreadable",
    "no landmarks",
    "no photo",
    "left out",
]

_POINTS = [f"{axis}{number}" for number in range(1, 6) for axis in "xy"]
COLUMNS = [
    *("path", "identity", "status", "reason", "face", "faces", "score"),
    *_POINTS,
    *("scale", "aligned", "version"),
]


@dataclass(frozen=True, eq=False)
class Row:
    """What became of a face, or of a photo without one.

    Args:
        path: The photo, below the folder of photos.
        status: What became of it.
        reason: More about that, or "".
        identity: Whose face the landmarks say it is, or "".
        face: Number of the face among those taken from this photo, from 1; 0 if none was.
        faces: How many faces the photo has; None if nobody looked.
        score: How sure the detector was; None if nobody says.
        points: `(5, 2)` landmarks in the photo, or None.
        scale: Pixels of the aligned face for each of the photo, or None.
        aligned: The file written, below the output folder, or "".
        version: Of the photo and its landmarks, when this was done.
    """

    path: str
    status: Status
    reason: str = ""
    identity: str = ""
    face: int = 0
    faces: int | None = None
    score: float | None = None
    points: Floats | None = None
    scale: float | None = None
    aligned: str = ""
    version: str = ""

    def fields(self) -> list[str]:
        """Returns the values in the order of `COLUMNS`."""
        points = [""] * 10 if self.points is None else [repr(float(v)) for v in self.points.flat]
        return [
            *(self.path, self.identity, self.status, self.reason),
            *(str(self.face or ""), _text(self.faces), _text(self.score)),
            *points,
            *(_text(self.scale), self.aligned, self.version),
        ]


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)


def _row(fields: list[str]) -> Row:
    value = dict(zip(COLUMNS, fields, strict=True))
    points = [float(value[name]) for name in _POINTS if value[name]]
    return Row(
        path=value["path"],
        status=value["status"],  # type: ignore[arg-type]
        reason=value["reason"],
        identity=value["identity"],
        face=int(value["face"] or 0),
        faces=int(value["faces"]) if value["faces"] else None,
        score=float(value["score"]) if value["score"] else None,
        points=np.array(points).reshape(5, 2) if points else None,
        scale=float(value["scale"]) if value["scale"] else None,
        aligned=value["aligned"],
        version=value["version"],
    )


def read_report(path: str | os.PathLike[str]) -> list[Row]:
    """Reads a report; empty if there is none.

    Args:
        path: The file.

    Returns:
        Its rows.

    Raises:
        ValueError: If it is no such report.
    """
    rows: list[Row] = []
    if not os.path.exists(path):
        return rows
    with _open(path, "r") as file:
        reader = csv.reader(file, strict=True)
        try:
            if next(reader, None) != COLUMNS:
                raise ValueError("its columns are others")
            for fields in reader:
                rows.append(_row(fields))  # noqa: PERF401 (the rows before an error are used)
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{os.fspath(path)}:{reader.line_num}: this is no report of an alignment ({error})"
            ) from error
    return rows


def write_report(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes a report, complete or not at all.

    Args:
        path: The file.
        rows: Its rows.
    """
    with atomic_path(path) as temporary, _open(temporary, "w") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(row.fields() for row in rows)


class Journal:
    """Rows kept from the moment they are known, so that a killed run is not for nothing.

    Args:
        folder: Where the report will be.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL_NAME
        self._file: IO[str] = _open(self._path, "w")
        self._writer = csv.writer(self._file)

    def add(self, rows: Iterable[Row]) -> None:
        """Appends all rows of one photo."""
        self._writer.writerows(row.fields() for row in rows)
        self._file.flush()

    def discard(self) -> None:
        """Removes the journal; its rows must be in the report by now."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def read_journal(folder: Path) -> list[Row]:
    """Reads what a killed run left, without its last photo, which may not be whole."""
    rows: list[Row] = []
    path = folder / JOURNAL_NAME
    if not path.exists():
        return rows
    with _open(path, "r") as file:
        try:
            for fields in csv.reader(file, strict=True):
                rows.append(_row(fields))  # noqa: PERF401 (as above)
        except (ValueError, csv.Error):
            pass  # cut off here
    return [row for row in rows if row.path != rows[-1].path]


def _open(path: str | os.PathLike[str], mode: Literal["r", "w"]) -> IO[str]:
    # Names that are not UTF-8 come out as the bytes that they are. Lines end as in RFC 4180:
    # Python quotes a carriage return in a name only if lines end with one.
    return open(path, mode, encoding="utf-8", errors="surrogateescape", newline="")
