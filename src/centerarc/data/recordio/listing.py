"""The .lst file beside a .rec: which file each image was made from, and its label."""

import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from centerarc.data.recordio.heads import Ints
from centerarc.data.recordio.lines import line_blocks

# An im2rec line with one label and a folder: most are, and this is several times as fast.
_USUAL = re.compile(
    rb"^([0-9]{1,15})\t([0-9]{1,15})(?:\.0*)?\t"
    rb"(?:[^\t\n]*[/\\])?([^\t\n/\\.][^\t\n/\\]*)[/\\][^\t\n/\\]*$",
    re.MULTILINE,
)


class Line(NamedTuple):
    """A line of a .lst file.

    Attributes:
        key: Key of the record; None in insightface's kind, whose lines are in order.
        label: The first label.
        folder: Name of the folder that the image was in, empty if there is none.
    """

    key: int | None
    label: int
    folder: str


def parse_line(line: bytes) -> Line:
    """Takes a line apart: `key label ... path` (im2rec) or `1 path label ...` (insightface).

    Args:
        line: The line; tabs stand between its fields.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_line(b"12\\t3.000000\\tAnn_Lee/1.jpg").folder
        'Ann_Lee'
        >>> parse_line(b"1\\t/faces/Bob/1.jpg\\t4")
        Line(key=None, label=4, folder='Bob')
    """
    fields = line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
    try:
        if len(fields) < 3:
            raise ValueError("fewer than three fields")
        key = _whole(fields[0])
        try:
            return Line(key, _whole(fields[1]), _folder(fields[-1]))
        except ValueError:
            return Line(None, _whole(fields[2]), _folder(fields[1]))
    except ValueError:
        shown = line[:60].decode("utf-8", "backslashreplace")
        raise ValueError(f"{shown!r} is no line of a .lst file") from None


def _whole(text: str) -> int:
    value = float(text)  # im2rec writes 3 as 3.000000
    if not (value.is_integer() and abs(value) < 2**53):
        raise ValueError(f"{text} is no whole number")
    return int(value)


def _folder(path: str) -> str:
    folder = path.replace("\\", "/").rpartition("/")[0].rstrip("/").rpartition("/")[2]
    return folder if folder != "." else ""


def some_lines(path: Path, wanted: Ints) -> tuple[list[Line], int]:
    """Reads some lines of a .lst file and passes over the others.

    Args:
        path: The file.
        wanted: Numbers of lines from 0, ascending.

    Returns:
        The lines that there are, and how many the whole file has.

    Raises:
        ValueError: If a wanted line is damaged; the message names it.
        OSError: If the file cannot be read.
    """
    lines: list[Line] = []
    start = 0
    for block in line_blocks(path):
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10)
        begins = np.concatenate([[0], ends[:-1] + 1])
        first, last = np.searchsorted(wanted, [start, start + len(ends)])
        lines += [
            _parsed(path, start + number + 1, block[begins[number] : ends[number]])
            for number in (wanted[first:last] - start).tolist()
        ]
        start += len(ends)
    return lines, start


@dataclass(frozen=True)
class Listing:
    """All of a .lst file.

    Attributes:
        keys: `(L,)` keys of the records; None in insightface's kind, whose lines are in order.
        labels: `(L,)` labels.
        folders: `(L,)` places in `names`.
        names: Names of the folders that images were in.
    """

    keys: Ints | None
    labels: Ints
    folders: Ints
    names: list[str]


def read_listing(path: Path) -> Listing:
    """Reads a .lst file.

    Args:
        path: The file.

    Raises:
        ValueError: If a line is damaged, or of another kind than the first; the message names it.
        OSError: If the file cannot be read.
    """
    keys, labels, folders = array("q"), array("q"), array("q")
    names: dict[bytes, int] = {}
    number = 0
    for block in line_blocks(path):
        lines = block.count(b"\n")
        usual = _USUAL.findall(block)
        if len(usual) == lines and len(keys) == len(labels):
            keys.extend([int(key) for key, _, _ in usual])
            labels.extend([int(label) for _, label, _ in usual])
            folders.extend([names.setdefault(folder, len(names)) for _, _, folder in usual])
            number += lines
            continue
        for text in block.split(b"\n")[:-1]:
            number += 1
            if not text.strip():
                continue
            line = _parsed(path, number, text)
            if line.key is not None:
                keys.append(line.key)
            labels.append(line.label)
            folder = line.folder.encode("utf-8", "surrogateescape")
            folders.append(names.setdefault(folder, len(names)))
            if len(keys) not in (0, len(labels)):
                raise ValueError(f"{path.name}, line {number}: another kind than before")
    return Listing(
        np.array(keys, dtype=np.int64) if keys else None,
        np.array(labels, dtype=np.int64),
        np.array(folders, dtype=np.int64),
        [name.decode("utf-8", "surrogateescape") for name in names],
    )


def _parsed(path: Path, number: int, text: bytes) -> Line:
    try:
        return parse_line(text)
    except ValueError as error:
        raise ValueError(f"{path.name}, line {number}: {error}") from None
