"""Text files of whole numbers, so many a line: tens of millions of lines in seconds."""

import codecs
import os
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import IntArray

_BLOCK = 1 << 23
_MAX_DIGITS = 18
_ZERO, _NEWLINE = ord("0"), ord("\n")
_IS_DIGIT = np.zeros(256, dtype=np.bool_)
_IS_DIGIT[_ZERO : _ZERO + 10] = True
_IS_BLANK = np.zeros(256, dtype=np.bool_)
_IS_BLANK[[ord(c) for c in " \t\r\n,"]] = True


def number_lines(path: str | os.PathLike[str], fields: int) -> Iterator[IntArray]:
    """Yield the numbers of a file, some ten thousands of lines at a time.

    Args:
        path: lines of whole numbers from 0 to 10^18 - 1, with blanks, tabs or commas between; the
            last line may lack its end, empty lines may stand at the end of the file, and a byte
            order mark of UTF-8 at its start.
        fields: numbers a line.

    Yields:
        (lines, fields) int64.

    Raises:
        ValueError: a line that is anything else; the message names file and line.
        OSError: the file cannot be read.
    """
    source = os.fspath(path)
    line, rest, ended = 1, b"", False
    try:
        with open(path, "rb") as file:
            rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
            while True:
                data = file.read(_BLOCK)
                text = rest + data if data else rest + b"\n"
                end = text.rfind(b"\n") + 1
                text, rest = text[:end], text[end:]
                if len(rest) > _BLOCK:
                    _refuse(source, rest, line, fields)
                kept = text.rstrip(b"\r\n")
                if ended and kept:
                    raise ValueError(f"{source}, line {line}: the line before it is empty")
                if kept:
                    numbers = _numbers(kept + b"\n", fields)
                    if numbers is None:
                        _refuse(source, text, line, fields)
                    yield numbers
                ended = ended or text.count(b"\n", len(kept)) > bool(kept)
                line += text.count(b"\n")
                if not data:
                    return
    except OSError as error:
        raise OSError(f"cannot read {source!r}: {error.strerror or error}") from error


def _numbers(text: bytes, fields: int) -> IntArray | None:
    """The numbers of whole lines, or None where a line is not as it should be."""
    data = np.frombuffer(text, dtype=np.uint8)
    digit = _IS_DIGIT[data]
    if not (digit | _IS_BLANK[data]).all():
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], digit, [False]])))
    starts, ends = edges[0::2], edges[1::2]
    lines = np.flatnonzero(data == _NEWLINE)
    if starts.size != lines.size * fields:
        return None
    # As many numbers as all lines need, and each line has the first and the last of its own.
    first, last = starts[::fields], starts[fields - 1 :: fields]
    if (first[1:] < lines[:-1]).any() or (last > lines).any():
        return None
    width = ends - starts
    if width.max() > _MAX_DIGITS:
        return None
    values: npt.NDArray[np.int64] = np.zeros(starts.size, dtype=np.int64)
    for place in range(int(width.max())):
        if place < int(width.min()):
            values = values * 10 + (data[starts + place] - _ZERO)
        else:
            more = np.flatnonzero(width > place)
            values[more] = values[more] * 10 + (data[starts[more] + place] - _ZERO)
    return values.reshape(-1, fields)


def _refuse(source: str, text: bytes, line: int, fields: int) -> NoReturn:
    for number, row in enumerate(text.split(b"\n"), line):
        if _numbers(row + b"\n", fields) is None:
            shown = row[:60].decode("utf-8", "replace").rstrip("\r")
            raise ValueError(
                f"{source}, line {number}: expected {fields} whole numbers, got {shown!r}"
            )
    raise ValueError(f"{source}, line {line}: expected {fields} whole numbers a line")
