"""Tables in CSV and Parquet files: named columns, each row with its line; texts in two arrays."""

import codecs
import csv
import difflib
import gzip
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import numpy as np
import numpy.typing as npt

from centerarc.io.files import atomic_path

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


# Tables in CSV and Parquet files.

_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


@contextmanager
def open_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """Opens a text file in UTF-8, with or without a byte order mark, as `csv` wants it.

    A file that gzip compressed, whatever its name, is read as what is in it. Bytes that are not
    UTF-8 become lone surrogates, so that a name is as good as the bytes it is from: names of files
    may hold any.

    Raises:
        ValueError: If the file is UTF-16, has a NUL character, which arrays of text drop at the end
            of a name, or is compressed and damaged.
        OSError: If it cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as binary:
            start = binary.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError(f"{name}: the file is UTF-16; save it as UTF-8")
        opened = gzip.open if start == b"\x1f\x8b" else open
        with opened(path, "rb") as binary:
            _refuse_nul(cast(BinaryIO, binary), name)
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name}: the gzip file is damaged or cut off: {error}") from error
    except OSError as error:
        raise OSError(f"cannot read {name!r}: {error.strerror or error}") from error


def _refuse_nul(file: BinaryIO, name: str) -> None:
    line = 1
    while part := file.read(1 << 20):
        if (at := part.find(b"\0")) >= 0:
            line += part.count(b"\n", 0, at)
            raise ValueError(f"{name}, line {line}: there is a NUL character; save it as text")
        line += part.count(b"\n")


class Table:
    """Named columns of a file; its rows are read one by one.

    Attributes:
        path: The file.
        columns: Names of the columns.
        unit: What rows are counted in: "line" or "row".
    """

    unit = "line"

    def __init__(self, path: str, columns: list[str]) -> None:
        self.path = path
        self.columns = columns

    def rows(self, wanted: Sequence[str] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Returns the number of each row's first line (or of the row), and the wanted fields.

        A table of columns alone, such as one that was not read from a file, has no rows.
        """
        return iter(())

    def error(self, number: int, what: str) -> ValueError:
        """Returns an error that starts with the file and the line."""
        return ValueError(f"{self.path}, {self.unit} {number}: {what}")

    def filled(self, text: str, column: str, number: int) -> str:
        """Returns a field that must not be empty."""
        if not text or text.isspace():
            raise self.error(number, f"{column} is empty")
        return text

    def at(self, *wanted: str) -> list[int]:
        """Returns the numbers of columns.

        Raises:
            ValueError: If some are not there, or twice; the message suggests the closest.
        """
        where = f"{self.path}, line 1" if self.unit == "line" else self.path
        for name in wanted:
            if (count := self.columns.count(name)) > 1:
                raise ValueError(f"{where}: there are {count} columns {name!r}; there must be one")
        missing = [name for name in wanted if name not in self.columns]
        if not missing:
            return [self.columns.index(name) for name in wanted]
        lower = {name.strip().lower(): name for name in self.columns}
        hints = ""
        for name in missing:
            for close in difflib.get_close_matches(name.lower(), list(lower), n=1):
                to = f" to {name!r}" if len(missing) > 1 else ""
                hints += f"; the closest{to} is {lower[close]!r}"
        *first, last = map(repr, missing)
        named = f"are no columns {', '.join(first)} and {last}" if first else f"is no column {last}"
        shown = ", ".join(map(repr, self.columns[:20])) or "none"
        more = ", ..." if len(self.columns) > 20 else ""
        raise ValueError(f"{where}: there {named}; there are {shown}{more}{hints}")


class CsvTable(Table):
    """A CSV file: UTF-8, names of the columns in the first line, empty lines left out.

    Commas, semicolons or tabs stand between fields, whichever splits the first line into more of
    the wanted columns. See `open_text` for bytes that are not UTF-8.

    Args:
        path: The file.
        wanted: Columns that may be there.
        strip: Whether to take blanks around each field away, as around the names of columns.

    Raises:
        ValueError: If the file is UTF-16 or not CSV, or a row has too few or too many fields; the
            message names the file and the line. Rows raise it as they are read.
        OSError: If the file cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], wanted: Iterable[str] = (), *, strip: bool = False
    ) -> None:
        fits = {}
        with open_text(path) as file:
            for delimiter in _DELIMITERS:
                file.seek(0)
                try:
                    names = next(filter(None, csv.reader(file, delimiter=delimiter)), [])
                except csv.Error:  # reading the rows says what is wrong
                    names = []
                fits[delimiter] = len({*wanted} & {name.strip() for name in names}), len(names)
        self._delimiter = max(fits, key=fits.__getitem__)
        self._strip = strip
        super().__init__(os.fspath(path), [])
        self.columns = [name.strip() for _, row in islice(self._read(tuple), 1) for name in row]

    def rows(self, wanted: Sequence[str] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        at = range(len(self.columns)) if wanted is None else self.at(*wanted)
        pick = itemgetter(*at) if len(at) > 1 else lambda row: (row[at[0]],)
        rows = self._read((lambda row: tuple(map(str.strip, pick(row)))) if self._strip else pick)
        next(rows, None)
        return rows

    def _read(
        self, fields: Callable[[list[str]], tuple[str, ...]]
    ) -> Iterator[tuple[int, tuple[str, ...]]]:
        """The header and all rows; of the rows only some fields."""
        with open_text(self.path) as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            line, width = 1, 0
            try:
                for row in reader:
                    if len(row) == width and row:
                        yield line, fields(row)
                    elif row and width:
                        raise self.error(
                            line,
                            f"{len(row)} fields and {width} columns; a field with "
                            f"{_DELIMITERS[self._delimiter]} in it must be in double quotes",
                        )
                    elif row:
                        width = len(row)
                        yield line, tuple(row)
                    line = reader.line_num + 1
            except csv.Error as error:
                raise self.error(reader.line_num, f"this is not CSV ({error})") from error


class PlainTable(Table):
    """A text file without names of columns: fields between tabs, commas, semicolons or blanks.

    The first of these that is in the first line stands between all fields. Empty lines are left
    out.

    Args:
        path: The file; see `open_text`.
        columns: The names by which fields are asked for, in the order of each line.
        skip: Lines to leave out at the start.

    Raises:
        ValueError: If a row has too few or too many fields; it names the line. Rows raise it as
            they are read.
        OSError: If the file cannot be read.
    """

    def __init__(
        self, path: str | os.PathLike[str], columns: Sequence[str], *, skip: int = 0
    ) -> None:
        super().__init__(os.fspath(path), list(columns))
        self._skip = skip

    def rows(self, wanted: Sequence[str] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        at = range(len(self.columns)) if wanted is None else self.at(*wanted)
        for line, fields in plain_fields(self.path, self._skip):
            if len(fields) != len(self.columns):
                raise self.error(
                    line,
                    f"{len(fields)} fields, and each line must have {len(self.columns)}: "
                    f"{', '.join(self.columns)}; where one has blanks in it, put tabs between them",
                )
            yield line, tuple(fields[column] for column in at)


def plain_fields(path: str | os.PathLike[str], skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the fields of each line that is not empty; see `PlainTable`."""
    with open_text(path) as file:
        delimiter = ""
        for number, text in islice(enumerate(file, 1), skip, None):
            if not text.strip():
                continue
            delimiter = delimiter or next((mark for mark in "\t,;" if mark in text), " ")
            if delimiter == " ":
                yield number, text.split()
            else:
                try:
                    fields = next(csv.reader([text], delimiter=delimiter))
                except csv.Error as error:
                    where = f"{os.fspath(path)}, line {number}"
                    raise ValueError(f"{where}: this is not CSV ({error})") from error
                yield number, [field.strip() for field in fields]


class ParquetTable(Table):
    """A Parquet file with columns of text; needs pyarrow.

    Args:
        path: The file.
        whole_numbers: Columns that may hold whole numbers or truth values instead of text; None is
            all.

    Raises:
        ValueError: If the file is damaged, or a column that is asked for holds something else.
        ImportError: If pyarrow is missing.
        OSError: If the file cannot be read.
    """

    unit = "row"

    def __init__(
        self, path: str | os.PathLike[str], *, whole_numbers: Collection[str] | None = ()
    ) -> None:
        name = os.fspath(path)
        with parquet_errors(name):
            file = opened_parquet(name)
        super().__init__(name, list(file.schema_arrow.names))
        self._file = file
        self._whole_numbers = whole_numbers

    def rows(self, wanted: Sequence[str] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        wanted = self.columns if wanted is None else wanted
        self.at(*wanted)
        number = 1
        with parquet_errors(self.path), self._file as file:
            for batch in file.iter_batches(columns=list(dict.fromkeys(wanted))):
                for row in zip(*(self._texts(batch, name) for name in wanted), strict=True):
                    yield number, row
                    number += 1

    def _texts(self, batch: Any, name: str) -> list[str]:
        from pyarrow import string, types

        values = batch.column(name)
        kind = values.type.value_type if types.is_dictionary(values.type) else values.type
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        numbers = self._whole_numbers is None or name in self._whole_numbers
        if not text and not (numbers and (types.is_integer(kind) or types.is_boolean(kind))):
            allowed = "text or whole numbers" if numbers else "text"
            raise ValueError(f"{self.path}: column {name!r} must hold {allowed}, got {values.type}")
        # null becomes an empty text
        return [value or "" for value in values.cast(kind if text else string()).to_pylist()]


def opened_parquet(path: str | os.PathLike[str]) -> Any:
    """Opens a `pyarrow.parquet.ParquetFile`; raises `ImportError` if pyarrow is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'centerarc[parquet]'") from error
    return pyarrow.parquet.ParquetFile(os.fspath(path))


@contextmanager
def parquet_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns pyarrow's errors into a `ValueError` or `OSError` of one line that names the file."""
    name = os.fspath(path)
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot read {name!r}: {error.strerror or error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "pyarrow":
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: not a Parquet file or damaged: {reason}") from error


def image_columns(path: str | os.PathLike[str]) -> list[str]:
    """Returns the columns of a Parquet file that hold images: bytes, or a struct with bytes.

    Raises:
        ImportError: If pyarrow is missing.
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    with parquet_errors(path):
        return columns_of_images(opened_parquet(path).schema_arrow)


def columns_of_images(schema: Any) -> list[str]:
    """Returns the columns of an Arrow schema that hold images, as `image_columns`."""
    from pyarrow import types

    def holds_bytes(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        kinds = types.is_binary, types.is_large_binary, types.is_binary_view
        return any(of_kind(kind) for of_kind in kinds)

    return [field.name for field in schema if holds_bytes(field.type)]


def open_table(
    path: str | os.PathLike[str],
    wanted: Iterable[str] = (),
    *,
    strip: bool = False,
    whole_numbers: Collection[str] | None = None,
) -> Table:
    """Opens a table with names of columns, by the file's name: `ParquetTable`, else `CsvTable`."""
    if Path(path).suffix.lower() == ".parquet":
        return ParquetTable(path, whole_numbers=whole_numbers)
    return CsvTable(path, wanted, strip=strip)


def write_csv(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    line_end: str = "\r\n",
) -> None:
    """Writes a CSV file in UTF-8, complete or not at all; see `open_text` for other bytes."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator=line_end)
        writer.writerow(columns)
        writer.writerows(rows)


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
