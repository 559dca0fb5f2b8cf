"""The keys of records and the bytes at which they start: an .idx file, or a walk in its place."""

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.recordio.heads import Ints, Progress, read_heads, well_formed
from centerarc.data.recordio.lines import line_blocks
from centerarc.data.recordio.records import RecordFile, walk

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
