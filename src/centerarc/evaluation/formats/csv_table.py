"""CSV files of evaluation lists: named columns, each row with its line."""

import codecs
import csv
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_DELIMITERS = ",;\t"
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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
    delimiter = max(_DELIMITERS, key=lambda d: _fit(first, d, wanted))
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


def _fit(first: str, delimiter: str, wanted: Sequence[str]) -> tuple[int, int]:
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
