"""Faces in a list: a CSV, Parquet or text file of paths and people."""

import csv
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from centerarc.data.folder import natural_key
from centerarc.data.source import EXTENSIONS, EncodedSource, Skipped, sizes_of
from centerarc.io.files import atomic_path, read_file, require_folder
from centerarc.io.tables import (
    PlainTable,
    Table,
    Texts,
    image_columns,
    open_table,
    plain_fields,
)

# From so many files of one folder on, listing it is cheaper than asking for each.
_WORTH_LISTING = 4
_SHOWN = 3
_GONE = "an image that is not there"
_NUMBER = "number"
_WHOLE = re.compile(r"(?<=\d)\.0+$")  # im2rec writes its labels as 7.000000
_EXAMPLE = "Ann/1.jpg\tAnn"


class ListSource(EncodedSource):
    """The images that a list names, in its order.

    Every path is looked up once, folder by folder; nothing is decoded.

    Args:
        path: A CSV file (UTF-8, column names in the first line; commas, semicolons or tabs between
            columns), a `.parquet` file, or a text file without column names: a path and a name a
            line, in either order, with tabs, commas or blanks between, or a .lst. All but
            Parquet may be compressed by gzip.
        root: Folder from which relative paths start; None is the list's own. Absolute paths stay.
        path_column: Column with the path of each image.
        identity_column: Column with the name of who is on it.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        missing: "skip" leaves out images that are not there; "error" refuses the list.

    Attributes:
        skipped: The images that were left out.
        identities: Names of the identities, by label, in natural order.
        labels: `(len,)` int64 label of each image.
        path: The list.
        root: Where relative paths start.

    Raises:
        ValueError: If a column is missing, there is no row, a field is empty, an image comes twice
            or is not there, or the root is not a folder; the message names the line.
        ImportError: If the list is Parquet and pyarrow is missing.
        OSError: If the list cannot be read.

    Example:
        >>> import tempfile
        >>> import PIL.Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     PIL.Image.new("RGB", (8, 8)).save(f"{folder}/1.png")
        ...     write_list(f"{folder}/faces.csv", [("1.png", "Ann Lee")])
        ...     source = ListSource(f"{folder}/faces.csv")
        ...     source.identities, source.place(0), source.image(0).shape
        (['Ann Lee'], '1.png', (8, 8, 3))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        path_column: str = "path",
        identity_column: str = "identity",
        image_size: int | None = None,
        missing: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__(image_size)
        self.path = Path(path)
        self.root = require_folder("root", self.path.parent if root is None else root)
        columns = (path_column, identity_column)
        table = _table(path, columns)
        paths: list[str] = []
        people: list[str] = []
        lines = array("q")
        for line, (listed, person) in table.rows(columns):
            if not (listed and person) or listed.isspace() or person.isspace():
                table.filled(listed, path_column, line)
                table.filled(person, identity_column, line)
            paths.append(listed)
            people.append(person)
            lines.append(line)
        if isinstance(table, PlainTable) and table.columns[0] == _NUMBER:
            people = [_WHOLE.sub("", person) for person in people]
        if not paths:
            raise ValueError(f"{table.path} has no row; it must list at least one image")
        base = os.path.abspath(self.root)
        files = [os.path.join(base, listed) for listed in paths]
        _check_once(table, paths, lines, files)
        if absent := _absent(files):
            said = _missing(table, paths, lines, absent)
            if missing == "error" or len(absent) == len(paths):
                raise ValueError(said)
            self.skipped = [Skipped(paths[row], _GONE, "", 1, people[row]) for row in absent]
            gone = {*absent}
            paths, people = (
                [text for row, text in enumerate(texts) if row not in gone]
                for texts in (paths, people)
            )
        self._listed = Texts.of(paths)
        self.identities = sorted(set(people), key=natural_key)
        label_of = {name: label for label, name in enumerate(self.identities)}
        self.labels = np.array([label_of[name] for name in people], dtype=np.int64)

    def __repr__(self) -> str:
        return f"ListSource({str(self.path)!r}: {self.summary()})"

    @property
    def paths(self) -> list[Path]:
        """File of each image."""
        return [self.root / listed for listed in self._listed]

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `FaceSource.encoded`."""
        return read_file(os.path.join(self.root, self._listed[index]))

    def place(self, index: int) -> str:
        """Returns the path of image `index` as the list has it."""
        return self._listed[index]

    def file_sizes(self) -> npt.NDArray[np.int64]:
        """Returns the bytes of each image; see `FaceSource.file_sizes`."""
        return sizes_of(os.path.join(self.root, listed) for listed in self._listed)

    def files(self) -> Iterable[str]:
        """Returns the list and the file of each image."""
        yield str(self.path)
        yield from (os.path.join(self.root, listed) for listed in self._listed)


def write_list(path: str | os.PathLike[str], rows: Iterable[tuple[str, str]]) -> None:
    """Writes a CSV list that `ListSource` reads: columns `path` and `identity`.

    Args:
        path: The list.
        rows: Path, absolute or from the list's folder, and identity of each image.

    Raises:
        ValueError: If a field is empty or cannot be written.
        OSError: If the list cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        # The first leaves a carriage return bare, which readers take for the end of a line.
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(("path", "identity"))
        for number, row in enumerate(rows, 1):
            if any(not field or field.isspace() for field in row):
                raise ValueError(f"row {number} is {row!r}; path and identity must not be empty")
            try:
                (quoting if "\r" in "".join(row) else writer).writerow(row)
            except UnicodeEncodeError as error:
                raise ValueError(f"row {number} is {row!r}, which is not text") from error


def _check_once(table: Table, paths: list[str], lines: Sequence[int], files: list[str]) -> None:
    seen: dict[str, int] = {}
    for row, file in enumerate(files):
        # Most paths are plain; taking all apart would double the time.
        plain = os.sep == "/" and "/." not in file and "//" not in file
        first = seen.setdefault(file if plain else os.path.normpath(file), row)
        if first != row:
            what = f"{paths[row]!r} is already on {table.unit} {lines[first]}"
            raise table.error(lines[row], f"{what}; each image may come once")


def _table(path: str | os.PathLike[str], columns: tuple[str, str]) -> Table:
    """The table of a list, with names of columns or without."""
    if Path(path).suffix.lower() == ".parquet":
        table = open_table(path, whole_numbers=columns[1:])
        if columns[0] not in table.columns and (held := image_columns(path)):
            raise ValueError(
                f"{table.path} holds the images themselves, in column {held[0]!r}: set "
                "data.source to parquet"
            )
        return table
    _, fields = next(plain_fields(path), (0, []))
    images = [os.path.splitext(field)[1].lower() in EXTENSIONS for field in fields]
    path_column, identity_column = columns
    if images == [True, False]:
        return PlainTable(path, columns)
    if images == [False, True]:
        return PlainTable(path, (identity_column, path_column))
    if images == [False, False, True] and fields[0].isdecimal():  # im2rec's
        return PlainTable(path, (_NUMBER, identity_column, path_column))
    if images == [False, True, False] and fields[0] in ("0", "1"):  # insightface's
        return PlainTable(path, ("aligned", path_column, identity_column))
    table = open_table(path, columns)
    if fields and not {*columns} & {*table.columns}:
        try:
            table.at(*columns)
        except ValueError as error:
            form = (
                "path_column and identity_column name them; without names of columns, "
                f"lines are such as {_EXAMPLE!r}"
            )
            raise ValueError(f"{error}; {form}") from None
    return table


def _absent(files: list[str]) -> list[int]:
    """The rows whose file is not there."""
    by_folder: defaultdict[str, list[int]] = defaultdict(list)
    for row, file in enumerate(files):
        by_folder[os.path.dirname(file)].append(row)
    absent: list[int] = []
    for folder, rows in by_folder.items():
        there = _listed(folder) if len(rows) >= _WORTH_LISTING else frozenset()
        # The file system may take another case or another form of a letter for the same name.
        absent += [
            row
            for row in rows
            if os.path.basename(files[row]) not in there and not os.path.exists(files[row])
        ]
    return sorted(absent)


def _missing(table: Table, paths: list[str], lines: Sequence[int], absent: list[int]) -> str:
    shown = ", ".join(f"{paths[row]!r} ({table.unit} {lines[row]})" for row in absent[:_SHOWN])
    more = ", ..." if len(absent) > _SHOWN else ""
    backslashes = os.sep == "/" and all("\\" in paths[row] for row in absent)
    hint = "; folders must be separated by /, not by backslashes" if backslashes else ""
    counts = f"{len(absent)} of {len(paths)} images are not there"
    return f"{table.path}: {counts}: {shown}{more}{hint}"


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder or "."))
    except OSError:  # absent, or may be entered and not listed: each file is asked for
        return frozenset()
