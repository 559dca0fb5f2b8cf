"""Faces in a RecordIO file, as insightface and mxnet's im2rec write them."""

import os
import zlib
from array import array
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from centerarc.data.recordio.labels import (
    Property,
    find_layout,
    image_labels,
    listed_labels,
    names_of_labels,
    read_property,
)
from centerarc.data.recordio.records import (
    FRAME,
    HEADER,
    LABEL_LIMIT,
    Index,
    Ints,
    Progress,
    RecordFile,
    image_of,
    read_heads,
    read_labels,
    walk,
    well_formed,
)
from centerarc.data.source import EncodedSource
from centerarc.io.files import atomic_path, read_arrays
from centerarc.io.tables import line_blocks

_MAX_KEY = 2**62
_NONE = np.empty(0, dtype=np.int64)

# The .idx file: the keys of records and the bytes at which they start; a walk in its place.


def read_index(path: Path, size: int) -> Index:
    """Reads an .idx file, lines of a key and a byte, of a .rec of `size` bytes."""
    # Keys that count up, as nearly all do, are a range: millions of records take half the memory.
    keys: list[range | Ints] = []
    parts, line = [_NONE], 1
    for block in line_blocks(path):
        pairs = _parse(path, block, line, size)
        line += block.count(b"\n")
        if len(pairs):
            first, end = int(pairs[0, 0]), int(pairs[0, 0]) + len(pairs)
            counting = np.array_equal(pairs[:, 0], np.arange(first, end))
            keys.append(range(first, end) if counting else pairs[:, 0].copy())
            parts.append(pairs[:, 1].copy())
    offsets = np.concatenate(parts)
    parts.clear()
    if not keys:
        raise ValueError(f"{path.name} is empty; it must have a line for each record of the .rec")
    if all(isinstance(part, range) for part in keys) and all(
        before[-1] + 1 == part[0] for before, part in pairwise(keys)
    ):
        return Index(range(keys[0][0], keys[-1][-1] + 1), offsets)
    index = _by_key(np.concatenate(keys), offsets)
    if len(index.keys) == len(offsets):
        return index
    lines: dict[int, int] = {}
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        if text.strip():
            key = int(text.split()[0])
            if key in lines:
                break
            lines[key] = number
    raise ValueError(f"{path.name}, line {number}: key {key} is already in line {lines[key]}")


def _parse(path: Path, block: bytes, first_line: int, size: int) -> Ints:
    """`(L, 2)` numbers of whole lines."""
    raw = np.frombuffer(block := block.replace(b"\r", b""), dtype=np.uint8)
    between = np.flatnonzero(raw < ord("0"))
    usual = (raw[between[::2]] == ord("\t")).all() and (raw[between[1::2]] == ord("\n")).all()
    if usual and raw.max() <= ord("9"):
        numbers = np.fromstring(block, dtype=np.int64, sep=" ")
        if len(numbers) == len(between) and len(numbers) % 2 == 0:
            pairs = numbers.reshape(-1, 2)
            keys, offsets = pairs[:, 0], pairs[:, 1]
            if keys.max() < _MAX_KEY and offsets.max() < size and not (offsets % 4).any():
                return pairs
    found: list[tuple[int, int]] = []
    for number, line in enumerate(block.splitlines(), start=first_line):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            key, offset = map(int, line.split())
        except ValueError:
            text = line[:40].decode("utf-8", "backslashreplace")
            raise ValueError(f"{where}: {text!r} is not a key and a byte") from None
        if not 0 <= key < _MAX_KEY:
            raise ValueError(f"{where}: key {key} is out of range")
        starts = f"{where}: record {key} is said to start at byte {offset}"
        if not 0 <= offset < size:
            raise ValueError(
                f"{starts}, but the .rec has {size} bytes; it is cut off or the .idx belongs to "
                "another"
            )
        if offset % 4:
            raise ValueError(f"{starts}; records start at multiples of 4")
        found.append((key, offset))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _by_key(keys: Ints, offsets: Ints) -> Index:
    """The records by ascending key; of those with the same key the first."""
    start, stop = int(keys.min()), int(keys.max()) + 1
    if stop - start == len(keys):
        ordered = np.full(len(keys), -1, dtype=np.int64)
        ordered[keys - start] = offsets
        if ordered.min() >= 0:
            return Index(range(start, stop), ordered)
    unique, first = np.unique(keys, return_index=True)
    return Index(unique, offsets[first])


def walked_index(file: RecordFile, progress: Progress | None = None) -> tuple[Index, list[str]]:
    """The records of a file without .idx, keyed by their headers (else 0, 1, ...), and damage."""
    found, problems = array("q"), []
    for walked in walk(file, progress):
        if walked.problem is None:
            found.append(walked.offset)
        else:
            problems.append(walked.problem)
    if not found:
        raise ValueError(f"{file.path.name} holds no record: {problems[0]}")
    offsets = np.array(found, dtype=np.int64)
    keys = np.empty(len(offsets), dtype=np.int64)
    for start in range(0, len(offsets), 1 << 16):
        heads = read_heads(file, offsets[start : start + (1 << 16)])
        known = well_formed(heads) & (heads["key"] < _MAX_KEY)
        keys[start : start + len(heads)] = np.where(known, heads["key"].astype(np.int64), -1)
    index = _by_key(keys, offsets)
    if keys.min() < 0 or len(index.keys) < len(keys):
        index = Index(range(len(offsets)), offsets)
    return index, problems


# What took long to find in a .rec, kept in a file beside it.

# Fewer records are read at once, and leave no file behind.
_WORTH_KEEPING = 10_000


class KeptFinds:
    """Labels and a walk's index, kept in a file until the size or time of the .rec changes."""

    def __init__(self, file: RecordFile, progress: Progress | None) -> None:
        self.path = file.path.with_name(f"{file.path.stem}.labels.npz")
        self._file, self._progress = file, progress
        self._stamp = np.array([file.size, os.stat(file.path).st_mtime_ns], dtype=np.int64)
        self._known: dict[str, Ints] = read_arrays(self.path)
        sound = all(found.ndim == 1 and found.dtype.kind == "i" for found in self._known.values())
        if not sound or not np.array_equal(self._known.pop("stamp", ()), self._stamp):
            self._known = {}
        self._found: dict[str, Ints] = {}

    def labels(self, offsets: Ints) -> Ints:
        """The labels in the headers at these bytes; see `read_labels`."""
        name = f"labels_{zlib.crc32(offsets.tobytes())}"
        labels = self._known.get(name, _NONE)
        if len(labels) != len(offsets) or np.any((labels < -1) | (labels >= LABEL_LIMIT)):
            # 32 bits are enough.
            labels = read_labels(self._file, offsets, self._progress).astype(np.int32)
        self._found[name] = labels
        return labels.astype(np.int64)

    def index(self) -> tuple[Index, list[str]]:
        """The index of a file without .idx, and what is damaged; see `walked_index`."""
        keys, offsets = (self._known.get(name, _NONE) for name in ("keys", "offsets"))
        problems: list[str] = []
        if (
            0 < len(keys) == len(offsets)
            and np.all(np.diff(keys) > 0)
            and 0 <= offsets.min() <= offsets.max() < self._file.size
        ):
            index = _by_key(keys, offsets)
        else:
            index, problems = walked_index(self._file, self._progress)
            keys, offsets = np.asarray(index.keys), index.offsets
        if not problems:  # they are told at each opening
            self._found["keys"], self._found["offsets"] = keys, offsets
        return index, problems

    def save(self) -> None:
        """Writes what was found, if it is much, new, and the folder lets it."""
        new = any(found is not self._known.get(name) for name, found in self._found.items())
        if new and sum(map(len, self._found.values())) >= _WORTH_KEEPING:
            with suppress(OSError, ValueError), atomic_path(self.path) as temporary:
                # Compressing would take longer than reading them again.
                np.savez(temporary, stamp=self._stamp, **self._found)  # type: ignore[arg-type]


class RecordIOSource(EncodedSource):
    """The images of a RecordIO data set, `train.rec` and the files beside it.

    `train.idx` tells where records start; without it the .rec is walked through once. Labels
    are in the images' headers. In insightface's layout identity records spare reading them all;
    in others `train.lst` does, if it is there and fits; else one pass reads them. What many headers
    said is kept in `train.labels.npz` beside the .rec, where that can be written, until the .rec
    changes. Labels are renumbered from 0 without gaps. People have the names of their folders in
    the .lst where these tell them apart, else their stored label as text.

    An image whose record is damaged fails when it is read; if not even its label can be read it
    has that of the image before it.

    Args:
        path: The .rec, or a folder that holds exactly one.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        progress: Called now and then with what is done and its total, while the .rec is walked
            (in bytes) or labels are read (in records).

    Attributes:
        labels: `(len,)` int64 label of each image.
        identities: Names of the people, by label.
        keys: Key of each image's record.
        path: The .rec.
        property: What the file `property` says; None without it.
        problems: What is wrong with the data set but did not keep it from being opened.

    Raises:
        ValueError: If there is no such file, it holds no record, its .idx or record 0 does not fit
            it, or a label is not a whole number in `[0, 2^24)`, which float32 tells apart.
        OSError: If a file cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(image_size)
        self.path = _find_rec(Path(path))
        self.problems: list[str] = []
        self._file = RecordFile(self.path)
        if not self._file.size:
            raise ValueError(f"{str(self.path)!r} is empty (0 bytes)")
        kept = KeptFinds(self._file, progress)
        if (idx := self._beside(".idx")) is not None:
            index = read_index(idx, self._file.size)
            self.problems += _unlisted(self._file, index, idx.name)
        else:
            index, self.problems = kept.index()
        images, people = find_layout(self._file, index)
        self.keys, self._offsets = images
        self._label(images, people, kept)
        kept.save()
        self.property = self._read_property()

    def __repr__(self) -> str:
        return f"RecordIOSource({str(self.path)!r}: {self.summary()})"

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        offset = int(self._offsets[index])
        payload = self._file.record(offset)
        try:
            image = image_of(payload)
        except ValueError as error:
            raise ValueError(f"damaged record at byte {offset}: {error}") from error
        if not image:
            raise ValueError(f"the record at byte {offset} holds no image")
        return image

    def place(self, index: int) -> str:
        """Returns which record image `index` is, by its key: `record 12`."""
        return f"record {self.keys[index]}"

    def file_sizes(self) -> Ints:
        """Returns the bytes of each image, rounded up; see `FaceSource.file_sizes`.

        They are what lies between the starts of records, so those before a gap are too large. All
        headers are taken for as long as the first.
        """
        order = np.argsort(self._offsets)
        sizes = np.empty(len(self), dtype=np.int64)
        sizes[order] = np.diff(self._offsets[order], append=self._file.size)
        labels = int(read_heads(self._file, self._offsets[:1])["count"][0])
        return np.asarray(sizes - FRAME.size - HEADER.size - 4 * labels)

    def files(self) -> Iterable[str]:
        """Returns the .rec."""
        return (str(self.path),)

    def _beside(self, suffix: str) -> Path | None:
        paths = (self.path.with_suffix(spelled) for spelled in (suffix, suffix.upper()))
        return next((path for path in paths if path.is_file()), None)

    def _label(self, images: Index, people: Index, kept: KeptFinds) -> None:
        names: dict[int, str] = {}
        stored: Ints | None = None
        lst = self._beside(".lst")
        grouped = len(people.offsets) > 0
        if lst is not None and not grouped:
            try:
                stored, names = listed_labels(lst, self._file, images)
            except ValueError as error:
                self.problems.append(f"the .lst was not used: {error}")
        if stored is None:
            stored, problems = image_labels(self._file, images, people, kept.labels)
            self.problems += problems
        self.labels, values = _renumbered(stored)
        if lst is not None and grouped:
            one_of_each = np.empty(len(values), dtype=np.int64)
            one_of_each[self.labels[::-1]] = np.arange(len(self) - 1, -1, -1)
            try:
                found = names_of_labels(lst, len(self), one_of_each, values)
                names = dict(zip(values.tolist(), found, strict=True))
            except ValueError as error:
                self.problems.append(f"names were not taken from the .lst: {error}")
        self.identities = [names.get(value, str(value)) for value in values.tolist()]

    def _read_property(self) -> Property | None:
        path = self.path.with_name("property")
        if not path.is_file():
            return None
        try:
            found = read_property(path)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        if found.num_classes != len(self.identities):
            self.problems.append(
                f"property says {found.num_classes} identities, but images show "
                f"{len(self.identities)}"
            )
        return found


def _unlisted(file: RecordFile, index: Index, name: str) -> list[str]:
    """Says how much of a .rec lies after the last record that its .idx lists."""
    last = int(index.offsets.max())
    try:
        end = max(start + length for start, length in file.parts(last))
    except ValueError:  # reading it says what is wrong
        return []
    if (rest := file.size - (end + -end % 4)) <= 0:
        return []
    return [f"{name} lists no record of the last {rest:,} bytes of the .rec, which are left out"]


def _find_rec(path: Path) -> Path:
    if path.is_dir():
        entries = sorted(path.iterdir())
        found = [entry for entry in entries if entry.suffix.lower() == ".rec" and entry.is_file()]
        if len(found) != 1:
            names = ", ".join(repr(entry.name) for entry in found[:3]) or "none"
            raise ValueError(
                f"path {str(path)!r} is a folder with {len(found)} .rec files ({names}); name one"
            )
        return found[0]
    if not path.is_file():
        raise ValueError(f"path is {str(path)!r}, which is neither a file nor a folder")
    return path


def _renumbered(stored: Ints) -> tuple[Ints, Ints]:
    """Labels without gaps, and the stored label of each."""
    most = int(stored.max())
    if most >= 2**26:  # a .lst may have any
        values, labels = np.unique(stored, return_inverse=True)
        return labels.astype(np.int64), values
    present = np.zeros(most + 1, dtype=bool)
    present[stored] = True
    values = np.flatnonzero(present)
    if len(values) == most + 1:
        return stored, values
    return (np.cumsum(present) - 1)[stored], values
