"""Images to leave out of a training, named in a file by their places."""

import csv
import difflib
import io
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from centerarc.data import source as sources
from centerarc.data.skipped import left_out
from centerarc.data.source import FaceSource
from centerarc.data.subset import Subset

_DELIMITERS = ",;\t"
# Similar names are looked for among so many; comparing with millions would take minutes.
_COMPARED = 20_000


def read_leave_out(path: str | os.PathLike[str]) -> set[str]:
    """Reads which images to leave out.

    Every row of the file counts, whatever its severity: `centerarc data check --problems` writes
    only what should be left out, and rows can be deleted by hand.

    Args:
        path: A CSV file whose first line names a column "place" (between commas, semicolons or
            tabs), or a text file with one place on each line. UTF-8; empty lines do not count.

    Returns:
        The places.

    Raises:
        ValueError: If a row of the CSV has no place, or is cut off.
        OSError: If the file cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot read the list {os.fspath(path)!r}: {reason}") from error
    # Bytes that are no UTF-8 are kept: names of files may hold any.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    for delimiter in _DELIMITERS:
        header = [name.strip().strip('"') for name in lines[0].rstrip("\r").split(delimiter)]
        if "place" in header:
            return _csv_places(text, delimiter, header.index("place"), path)
    return {line.removesuffix("\r") for line in lines} - {""}


def _csv_places(text: str, delimiter: str, column: int, path: str | os.PathLike[str]) -> set[str]:
    places = set()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        next(reader)
        for row in reader:
            if not row:
                continue
            if column >= len(row) or not row[column]:
                raise ValueError(
                    f"{os.fspath(path)!r} has no place in the row that ends on line "
                    f"{reader.line_num}; each row must name one"
                )
            places.add(row[column])
    except csv.Error as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no proper CSV on line {reader.line_num}: {error}"
        ) from error
    return places


def leave_out(source: FaceSource, places: Collection[str]) -> FaceSource:
    """Leaves images out of a source; people who have none left go with them.

    Args:
        source: The whole source, before it is split.
        places: The images' places, as `centerarc.data.source.place` gives them. What the source
            left out itself when it was opened may be among them.

    Returns:
        The source without them; the source itself if that changes nothing.

    Raises:
        ValueError: If the source has no image at a place, or nothing is left.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> len(leave_out(faces, {"image 0", "image 4"}))
        4
    """
    wanted = set(places)
    if not wanted:
        return source
    kept = np.ones(len(source), dtype=bool)
    for index in range(len(source)):
        if (place := sources.place(source, index)) in wanted:
            kept[index] = False
            wanted.discard(place)
    if wanted:
        wanted -= {item.place for item in left_out(source)}
    if wanted:
        raise ValueError(_unknown(source, wanted, len(places)))
    if kept.all():
        return source
    if not kept.any():
        raise ValueError(f"all {len(kept)} images of the source are to be left out; none is left")
    return Subset(source, images=kept)


def _unknown(source: FaceSource, unknown: set[str], asked: int) -> str:
    first = min(unknown)
    every = [sources.place(source, index) for index in range(len(source))]
    folder, _, name = first.rpartition("/")
    # The likeliest slips: another name in the same folder, the same name in another folder.
    alike = [p for p in every if p.startswith(f"{folder}/") or p.rpartition("/")[2] == name]
    close = difflib.get_close_matches(first, (alike + every)[:_COMPARED], n=1)
    hint = f"; the closest is {close[0]!r}" if close else f"; its first is {every[0]!r}"
    return (
        f"{len(unknown)} of {asked} places to leave out are not in the source, first {first!r}"
        f"{hint}"
    )
