"""Tables in CSV and Parquet files: named columns, each row with its line; texts in two arrays."""

import codecs
import csv
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Many short texts in two arrays.

# Every str can be written, file names that are not UTF-8 (lone surrogates) included.
_ERRORS = "surrogatepass"


class Texts(Sequence[str]):
    """A sequence of texts that cannot be changed, kept as UTF-8 in one array.

    Ten million file names as `str` are ten million objects: a gigabyte more, and each worker
    process copies the pages on which it counts their references. Arrays are shared.

    Args:
        data: `(bytes,)` uint8, all texts one after the other.
        ends: `(len,)` int64, where in `data` each text ends.

    Raises:
        ValueError: If the ends fall or do not fit the data.

    Example:
        >>> texts = Texts.of(["Ann/1.jpg", "Bob/2.jpg"])
        >>> len(texts), texts[1]
        (2, 'Bob/2.jpg')
    """

    def __init__(self, data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        last = int(ends[-1]) if len(ends) else 0
        if last != len(data) or (np.diff(ends, prepend=0) < 0).any():
            raise ValueError(f"ends must rise from 0 to the {len(data)} bytes of data")
        self.data = data
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        """Packs texts."""
        pieces = [text.encode("utf-8", _ERRORS) for text in texts]
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        return cls(np.frombuffer(b"".join(pieces), dtype=np.uint8), np.cumsum(lengths))

    @classmethod
    def joined(cls, parts: Sequence["Texts"]) -> "Texts":
        """Returns the texts of all parts, one part after the other."""
        before = np.cumsum([0] + [len(part.data) for part in parts])
        ends = [part.ends + start for part, start in zip(parts, before[:-1], strict=True)]
        none = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int64)
        return cls(
            np.concatenate([none[0], *(part.data for part in parts)]),
            np.concatenate([none[1], *ends]),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        at = range(len(self.ends))[index]
        start = int(self.ends[at - 1]) if at else 0
        return self.data[start : int(self.ends[at])].tobytes().decode("utf-8", _ERRORS)

    def __iter__(self) -> Iterator[str]:
        data, start = self.data.tobytes(), 0
        for end in self.ends.tolist():
            yield data[start:end].decode("utf-8", _ERRORS)
            start = end


# Numbers in words.


def counted(number: int, one: str, more: str | None = None) -> str:
    """Returns a number with its noun: `1 image`, `2 images`.

    Example:
        >>> counted(1, "person", "people"), counted(2000, "image")
        ('1 person', '2,000 images')
    """
    return f"{number:,} {one if number == 1 else more or one + 's'}"


# The rows of a list of images, from CSV or Parquet.

_DELIMITERS = ",;\t"
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, eq=False)
class Rows:
    """Images and who is on them, as a list has them.

    Args:
        list_path: The list.
        paths: Path of each image.
        identities: Who is on each image.
        lines: Line of the file on which each row starts; None counts rows instead, from 1.
    """

    list_path: str
    paths: list[str]
    identities: list[str]
    lines: Sequence[int] | None

    def where(self, row: int) -> str:
        """Returns how a message calls a row: `line 7`, or `row 6` where there are no lines."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"


def read_rows(path: str | os.PathLike[str], path_column: str, identity_column: str) -> Rows:
    """Reads two columns of a list.

    Args:
        path: A `.parquet` file, or a CSV file: UTF-8, a line of column names, and commas,
            semicolons or tabs between columns.
        path_column: Column of the images.
        identity_column: Column of the people.

    Returns:
        All rows, none with an empty field.

    Raises:
        ValueError: If a column is missing, there is no row, a field is empty, or the file is
            damaged; the message names the file and the line.
        ImportError: If it is Parquet and pyarrow is missing.
        OSError: If it cannot be read.
    """
    name = os.fspath(path)
    read = _read_parquet if Path(path).suffix.lower() == ".parquet" else _read_csv
    try:
        rows = read(name, path_column, identity_column)
    except OSError as error:
        raise OSError(f"cannot read {name!r}: {error.strerror or error}") from error
    if not rows.paths:
        raise ValueError(f"{name!r} has no row; it must list at least one image")
    for column, values in ((path_column, rows.paths), (identity_column, rows.identities)):
        for row, value in enumerate(values):
            if not value or value.isspace():
                raise ValueError(f"{name!r}, {rows.where(row)}: {column} is empty")
    return rows


def _read_csv(name: str, path_column: str, identity_column: str) -> Rows:
    with open(name, "rb") as binary:
        if binary.read(2) in _UTF_16:
            raise ValueError(f"{name!r} is UTF-16; save it as CSV in UTF-8")
    paths: list[str] = []
    identities: list[str] = []
    lines: list[int] = []
    # Bytes that are no UTF-8 come back as they were when the path is used: names may hold any.
    with open(name, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        delimiter = max(_DELIMITERS, key=lambda d: _fit(first, d, path_column, identity_column))
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            columns = next(reader, [])
            path_at = _column(name, columns, path_column)
            identity_at = _column(name, columns, identity_column)
            line = reader.line_num + 1
            for row in reader:
                if len(row) == len(columns):
                    paths.append(row[path_at])
                    identities.append(row[identity_at])
                    lines.append(line)
                elif row:  # an empty line has no field at all
                    raise ValueError(
                        f"{name!r}, line {line}: {len(row)} fields and {len(columns)} columns; a "
                        f"field with {_NAMES[delimiter]} in it must be in double quotes"
                    )
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{name!r}, line {reader.line_num}: this is no CSV ({error})"
            ) from error
    return Rows(name, paths, identities, lines)


def _fit(header: str, delimiter: str, *wanted: str) -> tuple[int, int]:
    """How well a delimiter parts the first line: wanted columns found, then all columns."""
    try:
        columns = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:  # a field too long; reading the rows tells where
        return 0, 0
    return len({*wanted} & {*columns}), len(columns)


def _column(name: str, columns: list[str], wanted: str) -> int:
    if (count := columns.count(wanted)) == 1:
        return columns.index(wanted)
    if count:
        raise ValueError(f"{name!r} has {count} columns {wanted!r}; there must be one")
    close = difflib.get_close_matches(wanted.lower(), [c.strip().lower() for c in columns], n=1)
    nearest = [c for c in columns if close and c.strip().lower() == close[0]]
    hint = f"; the closest is {nearest[0]!r}" if nearest else ""
    shown = ", ".join(map(repr, columns[:20])) + (", ..." if len(columns) > 20 else "")
    raise ValueError(f"{name!r} has no column {wanted!r}; it has {shown or 'none'}{hint}")


def _read_parquet(name: str, path_column: str, identity_column: str) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "a Parquet list needs pyarrow: pip install 'centerarc[parquet]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(name) as file:
            columns = list(file.schema_arrow.names)
            for wanted in (path_column, identity_column):
                _column(name, columns, wanted)
            table = file.read(columns=[path_column, identity_column])
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name!r} is no Parquet file or damaged: {reason}") from error
    paths = _texts(name, path_column, table[path_column], whole_numbers=False)
    identities = _texts(name, identity_column, table[identity_column], whole_numbers=True)
    return Rows(name, paths, identities, None)


def _texts(name: str, column: str, values: Any, *, whole_numbers: bool) -> list[str]:
    """The values of a column as texts; what is null becomes an empty text."""
    from pyarrow import string, types

    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if not (text or (whole_numbers and types.is_integer(kind))):
        allowed = "text or whole numbers" if whole_numbers else "text"
        raise ValueError(f"{name!r}: column {column!r} holds {values.type}; it must hold {allowed}")
    if types.is_dictionary(values.type):
        values = values.cast(kind)
    if not text:
        values = values.cast(string())
    return [value or "" for value in values.to_pylist()]


# CSV files of evaluation lists: named columns, each row with its line.


@dataclass(frozen=True)
class Header:
    """The first line of a table.

    Attributes:
        source: the file's name, for messages.
        columns: names of the columns, without blanks around them.
    """

    source: str
    columns: list[str]

    def at(self, wanted: str) -> int:
        """Number of a column that must be there; the message suggests the closest."""
        return self.all(wanted)[0]

    def all(self, *wanted: str) -> list[int]:
        """Numbers of columns that must be there; the message names all that are missing."""
        missing = [name for name in wanted if name not in self.columns]
        if not missing:
            return [self.columns.index(name) for name in wanted]
        lower = {name.lower(): name for name in self.columns}
        hints = []
        for name in missing:
            close = difflib.get_close_matches(name.lower(), list(lower), n=1)
            if close:
                to = f" to {name!r}" if len(missing) > 1 else ""
                hints.append(f"; the closest{to} is {lower[close[0]]!r}")
        *first, last = map(repr, missing)
        named = f"columns {', '.join(first)} and {last}" if first else f"column {last}"
        shown = ", ".join(map(repr, self.columns[:20])) + (
            ", ..." if len(self.columns) > 20 else ""
        )
        raise ValueError(
            f"{self.source}, line 1: there {'are' if first else 'is'} no {named}; there are "
            f"{shown or 'none'}{''.join(hints)}"
        )

    def maybe(self, wanted: str) -> int | None:
        """Number of a column, or None where there is none of this name."""
        return self.columns.index(wanted) if wanted in self.columns else None

    def filled(self, row: list[str], at: int, where: str) -> str:
        """The field of a column that must not be empty."""
        if not row[at]:
            raise ValueError(f"{where}: {self.columns[at]} is empty")
        return row[at]


def read_table(
    path: str | os.PathLike[str], wanted: Sequence[str]
) -> tuple[Header, Iterator[tuple[int, list[str]]]]:
    """Opens a CSV file and hands out its rows one by one.

    UTF-8, names of the columns in the first line; commas, semicolons or tabs between columns,
    whichever parts the first line into more of the wanted ones. Bytes that are no UTF-8 come
    back as they were when a field is used as a path.

    Args:
        path: the file.
        wanted: names of columns, to find out what parts them.

    Returns:
        The header, and the rows as line and fields, as many fields as columns; empty lines are
        left out. Fields are stripped of blanks around them.

    Raises:
        ValueError: the file is UTF-16, is no CSV, names a column twice, or a row has too few or
            too many fields; the message names file and line. The rows raise it while they are
            handed out.
        OSError: the file cannot be read.
    """
    source = os.fspath(path)
    try:
        with open(path, "rb") as binary:
            if binary.read(2) in _UTF_16:
                raise ValueError(f"{source}: the file is UTF-16; save it as CSV in UTF-8")
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = file.readline()
    except OSError as error:
        raise OSError(f"cannot read {source!r}: {error.strerror or error}") from error
    delimiter = max(_DELIMITERS, key=lambda d: _fit_csv_table(first, d, wanted))
    rows = _rows(source, delimiter)
    _, names = next(rows, (1, []))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{source}, line 1: there are two columns {twice!r}")
    return Header(source, names), rows


def line_of(path: str | os.PathLike[str], column: str, text: str) -> int | None:
    """The first line that has a text in a column; None where there is none."""
    header, rows = read_table(path, (column,))
    at = header.at(column)
    return next((line for line, row in rows if row[at] == text), None)


def _fit_csv_table(first: str, delimiter: str, wanted: Sequence[str]) -> tuple[int, int]:
    names = [name.strip() for name in first.strip("\r\n").split(delimiter)]
    return len({*wanted} & {*names}), len(names)


def _rows(source: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    with open(source, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        line, width = 1, 0
        try:
            for row in reader:
                if row:
                    width = width or len(row)
                    if len(row) != width:
                        raise ValueError(
                            f"{source}, line {line}: {len(row)} fields and {width} columns; a "
                            f"field with {_NAMES[delimiter]} in it must be in double quotes"
                        )
                    yield line, [field.strip() for field in row]
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{source}, line {reader.line_num}: this is no CSV ({error})"
            ) from error


class Codes:
    """Numbers for texts, in order of first use."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}

    def __getitem__(self, text: str) -> int:
        return self._of.setdefault(text, len(self._of))

    def __len__(self) -> int:
        return len(self._of)

    @property
    def texts(self) -> list[str]:
        """All texts, by number."""
        return list(self._of)


# Large text files in pieces of whole lines.

_PIECE = 1 << 22


def line_blocks(path: Path) -> Iterator[bytes]:
    """Reads a text file without holding it.

    Args:
        path: The file.

    Yields:
        Some megabytes of whole lines at a time; the last line gets a newline if it has none.

    Raises:
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        rest = b""
        while piece := file.read(_PIECE):
            rest += piece
            end = rest.rfind(b"\n") + 1
            if end:
                yield rest[:end]
                rest = rest[end:]
        if rest:
            yield rest + b"\n"
