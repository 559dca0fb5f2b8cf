"""The rows of a list of images, from CSV or Parquet."""

import codecs
import csv
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
