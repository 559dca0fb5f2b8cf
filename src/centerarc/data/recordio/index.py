"""Where the records start: an .idx file, a walk in its place, and what is kept of it."""

import os
import zipfile
import zlib
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from centerarc.data.recordio.records import (
    Ints,
    Progress,
    RecordFile,
    read_heads,
    read_labels,
    walk,
    well_formed,
)
from centerarc.io.files import atomic_path
from centerarc.io.tables import line_blocks

# The keys of records and the bytes at which they start: an .idx file, or a walk in its place.

_TAB, _NEWLINE, _DIGITS = 9, 10, 48
_MAX_KEY = 2**62


@dataclass(frozen=True)
class Index:
    """Where records start.

    Attributes:
        keys: Numbers of the records, ascending, each once.
        offsets: `(len(keys),)` byte at which each starts.
    """

    keys: range | Ints
    offsets: Ints

    def part(self, start: int, stop: int) -> "Index":
        """Returns the records from place `start` to before place `stop`."""
        return Index(self.keys[start:stop], self.offsets[start:stop])


def read_index(path: Path, size: int) -> Index:
    """Reads an .idx file: lines of a key and a byte.

    Args:
        path: The file.
        size: Length of the .rec in bytes.

    Returns:
        The index by ascending key.

    Raises:
        ValueError: If a line is damaged, points out of the .rec or repeats a key; the message
            names the line.
        OSError: If the file cannot be read.
    """
    offsets: list[Ints] = []
    keys: list[Ints | range] = []
    line = 1
    for block in line_blocks(path):
        parsed = _parse(block, size)
        if parsed is None:
            parsed = _parse_by_line(path, block, line, size)
            line += block.count(b"\n")
        else:
            line += len(parsed)
        if len(parsed):
            offsets.append(parsed[:, 1].copy())
            start = int(parsed[0, 0])
            counted = range(start, start + len(parsed))
            counting = np.array_equal(parsed[:, 0], np.arange(start, start + len(parsed)))
            keys.append(counted if counting else parsed[:, 0].copy())
    if not offsets:
        raise ValueError(f"{path.name} is empty; it must have a line for each record of the .rec")
    joined = np.concatenate(offsets)
    offsets.clear()
    first = keys[0][0]
    for block_keys in keys:
        if not isinstance(block_keys, range) or block_keys[0] != first:
            break
        first = block_keys[-1] + 1
    else:
        return Index(range(first - len(joined), first), joined)
    index, twice = _by_key(np.concatenate([np.asarray(one) for one in keys]), joined)
    if twice is not None:
        raise ValueError(_repeated(path, twice))
    return index


def walked_index(file: RecordFile, progress: Progress | None = None) -> tuple[Index, list[str]]:
    """Finds the records of a file without .idx.

    Keys are those in the records' headers, or 0, 1, ... where these repeat.

    Args:
        file: The .rec.
        progress: Called now and then with the bytes done and their total.

    Returns:
        The index by ascending key, and what is damaged.

    Raises:
        ValueError: If there is no whole record.
    """
    found, problems = array("q"), []
    for walked in walk(file, progress):
        if walked.problem is None:
            found.append(walked.offset)
        else:
            problems.append(walked.problem)
    if not found:
        raise ValueError(f"{file.path.name} holds no record: {problems[0]}")
    offsets = np.array(found, dtype=np.int64)
    keys = np.arange(len(offsets), dtype=np.int64)
    for start in range(0, len(offsets), 1 << 16):
        heads = read_heads(file, offsets[start : start + (1 << 16)])
        known = well_formed(heads) & (heads["key"] < _MAX_KEY)
        keys[start : start + len(heads)] = np.where(known, heads["key"].astype(np.int64), -1)
    index, twice = _by_key(keys, offsets)
    if keys.min() < 0 or twice is not None:
        index = Index(range(len(offsets)), offsets)
    return index, problems


def _parse(block: bytes, size: int) -> Ints | None:
    """`(L, 2)` numbers of a block that is right and usual throughout; None leaves it to others."""
    block = block.replace(b"\r", b"")
    raw = np.frombuffer(block, dtype=np.uint8)
    between = np.flatnonzero(raw < _DIGITS)
    usual = bool((raw[between[::2]] == _TAB).all() and (raw[between[1::2]] == _NEWLINE).all())
    if not usual or raw.max() >= _DIGITS + 10:
        return None
    numbers = np.fromstring(block, dtype=np.int64, sep=" ")
    if len(numbers) != len(between) or len(numbers) % 2:
        return None
    pairs = numbers.reshape(-1, 2)
    keys, offsets = pairs[:, 0], pairs[:, 1]
    right = keys.max() < _MAX_KEY and offsets.max() < size and not (offsets % 4).any()
    return pairs if right else None


def _parse_by_line(path: Path, block: bytes, first_line: int, size: int) -> Ints:
    numbers: list[tuple[int, int]] = []
    for number, line in enumerate(block.splitlines(), start=first_line):
        fields = line.split()
        if not fields:
            continue
        where = f"{path.name}, line {number}"
        try:
            key, offset = map(int, fields)
        except ValueError:
            text = line[:40].decode("utf-8", "backslashreplace")
            raise ValueError(f"{where}: {text!r} is not a key and a byte") from None
        if not 0 <= key < _MAX_KEY:
            raise ValueError(f"{where}: key {key} is out of range")
        if not 0 <= offset < size:
            raise ValueError(
                f"{where}: record {key} is said to start at byte {offset}, but the .rec has {size} "
                "bytes; it is cut off or the .idx belongs to another"
            )
        if offset % 4:
            raise ValueError(
                f"{where}: record {key} is said to start at byte {offset}; records start at "
                "multiples of 4"
            )
        numbers.append((key, offset))
    return np.array(numbers, dtype=np.int64).reshape(-1, 2)


def _by_key(keys: Ints, offsets: Ints) -> tuple[Index, int | None]:
    """The records by ascending key, and a key that comes twice, if there is one."""
    start, end = int(keys.min()), int(keys.max()) + 1
    if end - start == len(keys):
        by_key = np.full(len(keys), -1, dtype=np.int64)
        by_key[keys - start] = offsets
        if by_key.min() >= 0:
            return Index(range(start, end), by_key), None
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    return Index(keys, offsets[order]), int(keys[same[0]]) if len(same) else None


def _repeated(path: Path, key: int) -> str:
    lines = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip() and int(line.split()[0]) == key:
                lines.append(number)
    return f"{path.name}, line {lines[1]}: key {key} is already in line {lines[0]}"


# What took long to find in a .rec, kept in a file beside it.

# Fewer records are read at once, and leave no file behind.
_WORTH_KEEPING = 10_000


class KeptFinds:
    """Labels read from many headers, and an index found by a walk, for the next opening.

    They stand in `<name>.labels.npz` and count as long as length and time of the .rec are what
    they were. Where the folder cannot be written to, they are found anew each time.

    Args:
        file: The .rec.
        progress: Called now and then with what is done and its total, whatever is read.
    """

    def __init__(self, file: RecordFile, progress: Progress | None) -> None:
        self.path = file.path.with_name(f"{file.path.stem}.labels.npz")
        self._file, self._progress = file, progress
        self._stamp = np.array([file.size, os.stat(file.path).st_mtime_ns], dtype=np.int64)
        self._known = self._load()
        self._found: dict[str, Ints] = {}

    def labels(self, name: str, offsets: Ints) -> Ints:
        """Returns the labels in the headers at these bytes; see `read_labels`.

        Args:
            name: Which records these are, in a word.
            offsets: `(K,)` byte at which each starts.
        """
        check = np.array([zlib.crc32(offsets.tobytes())], dtype=np.int64)
        labels = self._known.get(f"{name}_labels")
        asked = self._known.get(f"{name}_check")
        fits = labels is not None and asked is not None and np.array_equal(asked, check)
        if labels is None or not fits or len(labels) != len(offsets) or np.any(labels < -1):
            labels = read_labels(self._file, offsets, self._progress)
        self._found[f"{name}_labels"], self._found[f"{name}_check"] = labels, check
        return labels.copy()

    def index(self) -> tuple[Index, list[str]]:
        """Returns the index of a file without .idx, and what is damaged; see `walked_index`."""
        problems: list[str] = []
        if (index := self._known_index()) is None:
            index, problems = walked_index(self._file, self._progress)
        if not problems:  # they are told at each opening
            self._found["keys"] = np.array(index.keys, dtype=np.int64)
            self._found["offsets"] = index.offsets
        return index, problems

    def _known_index(self) -> Index | None:
        keys, offsets = self._known.get("keys"), self._known.get("offsets")
        if keys is None or offsets is None or not 0 < len(keys) == len(offsets):
            return None
        steps = np.diff(keys)
        if np.any(steps < 1) or offsets.min() < 0 or offsets.max() >= self._file.size:
            return None
        first = int(keys[0])
        counting = bool(np.all(steps == 1))
        return Index(range(first, first + len(keys)) if counting else keys, offsets)

    def save(self) -> None:
        """Writes what was found, if it is much, new, and the folder lets it."""
        new = self._found.keys() != self._known.keys() - {"stamp"} or any(
            not np.array_equal(found, self._known[name]) for name, found in self._found.items()
        )
        if not new or sum(map(len, self._found.values())) < _WORTH_KEEPING:
            return
        with suppress(OSError, ValueError), atomic_path(self.path) as temporary:
            # Labels need 32 bits; compressing would take longer than reading them anew.
            stored: dict[str, Any] = {"stamp": self._stamp}
            for name, found in self._found.items():
                stored[name] = found.astype(np.int32) if name.endswith("_labels") else found
            np.savez(temporary, **stored)

    def _load(self) -> dict[str, Ints]:
        try:
            stored = np.load(self.path, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                return {}
            with stored:
                known = {name: stored[name] for name in stored.files}
        # NotImplementedError and other RuntimeErrors: a zip method or a flag that is damaged.
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ):
            return {}
        sound = all(found.ndim == 1 and found.dtype.kind == "i" for found in known.values())
        if not sound or not np.array_equal(known.get("stamp", ()), self._stamp):
            return {}
        return {name: found.astype(np.int64, copy=False) for name, found in known.items()}
