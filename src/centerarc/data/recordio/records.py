"""RecordIO framing, the headers of image records and their first bytes."""

import os
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# The header of an image record: its labels and its key, before the image.

# A float32 tells whole numbers apart below this one only.
LABEL_LIMIT = 2**24
_HEADER = struct.Struct("<IfQQ")


class Header(NamedTuple):
    """What an image record says before its image.

    Attributes:
        labels: `(L,)` float32; the first is the identity.
        key: Number of the record, as its writer counted.
        image: The rest of the record: the image file, empty in records about others.
    """

    labels: npt.NDArray[np.float32]
    key: int
    image: bytes


def pack(labels: float | tuple[float, ...], key: int, image: bytes = b"") -> bytes:
    """Returns the payload of a record.

    Args:
        labels: One label, which stands in the header, or several, which follow it.
        key: Number of the record.
        image: The image file.
    """
    if isinstance(labels, tuple):
        follow = np.array(labels, dtype="<f4").tobytes()
        return _HEADER.pack(len(labels), 0.0, key, 0) + follow + image
    return _HEADER.pack(0, labels, key, 0) + image


def unpack(payload: bytes) -> Header:
    """Takes the payload of a record apart.

    Raises:
        ValueError: If it is too short for its header.

    Example:
        >>> unpack(pack(7.0, 12, b"jpeg"))
        Header(labels=array([7.], dtype=float32), key=12, image=b'jpeg')
    """
    end, count, label, key = _parsed(payload)
    labels = np.frombuffer(payload[_HEADER.size : end], dtype="<f4")
    if not count:
        labels = np.array([label], dtype=np.float32)
    return Header(labels.astype(np.float32, copy=False), key, payload[end:])


def image_of(payload: bytes) -> bytes:
    """Returns the image file of a record, without its labels, which training knows already.

    Raises:
        ValueError: If the record is too short for its header.
    """
    return payload[_parsed(payload)[0] :]


def _parsed(payload: bytes) -> tuple[int, int, float, int]:
    """Where the image begins, how many labels stand before it, the label without such, the key."""
    if len(payload) < _HEADER.size:
        raise ValueError(
            f"the record has {len(payload)} bytes, too few for its header of {_HEADER.size}"
        )
    count, label, key, _ = _HEADER.unpack_from(payload)
    end = _HEADER.size + 4 * count
    if len(payload) < end:
        raise ValueError(
            f"the record says that {count} labels follow its header, but it has only "
            f"{len(payload)} bytes"
        )
    return end, count, label, key


# RecordIO framing: where a record starts and ends, and the bytes in it.

MAGIC = 0xCED7230A
# The length has 29 bits; the 3 above it say which part of a record this is.
MAX_PAYLOAD = 2**29 - 1
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_HEAD = struct.Struct("<II")
_MAGIC_BYTES = struct.pack("<I", MAGIC)
# Most face images are smaller, so that one call reads a record.
_TYPICAL = 1 << 14
_WINDOW = 1 << 20


class RecordFile:
    """A RecordIO file that can be read from anywhere, in any process.

    Reading moves no position, so that forked processes may share it; a pickled one opens anew.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size: Its length in bytes when it was opened.

    Raises:
        OSError: If it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._closed = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.path, size = state
        self._open()
        if self.size != size:
            raise OSError(f"{str(self.path)!r} had {size} bytes and now has {self.size}")

    def bytes_at(self, offset: int, count: int) -> bytes:
        """Returns `count` bytes from byte `offset` on; fewer where the file ends before."""
        if not hasattr(os, "pread"):  # Windows
            with open(self.path, "rb") as file:
                file.seek(offset)
                return file.read(count)
        data = os.pread(self._descriptor, count, offset)
        while len(data) < count:
            if not (more := os.pread(self._descriptor, count - len(data), offset + len(data))):
                break
            data += more
        return data

    def ask_for(self, offset: int, count: int) -> None:
        """Tells the system that these bytes are wanted soon, so that it fetches many at once."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)

    def record(self, offset: int) -> bytes:
        """Returns the payload of the record that starts at byte `offset`, its parts joined.

        Raises:
            ValueError: If the record is damaged; the message names the byte and what is wrong.
        """
        window, base = self.bytes_at(offset, _TYPICAL), offset
        # Nearly every record is whole and small; the frames of all others are looked at one by one.
        if len(window) >= 8:
            magic, length = _HEAD.unpack_from(window)
            # A length that fits has no bits of a kind above it: the record is whole.
            if magic == MAGIC and length <= len(window) - 8:
                return window[8 : 8 + length]
        parts: list[bytes] = []
        at = offset
        while True:
            if at + 8 > base + len(window):
                window, base = self.bytes_at(at, _TYPICAL), at
            found = _part(window[at - base : at - base + 8], at, self.size, first=at == offset)
            if isinstance(found, str):
                raise ValueError(damage(offset, at, found))
            kind, length = found
            start = at + 8
            if start + length <= base + len(window):
                data = window[start - base : start - base + length]
            else:
                have = window[start - base :]
                data = have + self.bytes_at(start + len(have), length - len(have))
                if len(data) < length:  # cut off since it was opened
                    raise ValueError(damage(offset, at, _beyond(length, len(data))))
            parts.append(data)
            if kind in (_WHOLE, _LAST):
                return parts[0] if kind == _WHOLE else _MAGIC_BYTES.join(parts)
            at = start + length


class Walked(NamedTuple):
    """What a walk comes by.

    Attributes:
        offset: Byte at which it starts.
        length: Bytes of the record's payload; after damage, bytes to where the walk goes on.
        problem: What is wrong, with the byte; None for a whole record.
    """

    offset: int
    length: int
    problem: str | None


def walk(file: RecordFile, progress: Callable[[int, int], Any] | None = None) -> Iterator[Walked]:
    """Goes through a file record by record without looking at what is in them.

    After damage it goes on at the next place that looks like the start of a record.

    Args:
        file: The file.
        progress: Called now and then with the bytes done and their total.

    Yields:
        Every record and every damaged stretch, in the order of the file; together they cover it.
    """
    heads = _Heads(file, progress)
    offset = 0
    while offset < file.size:
        if (usual := heads.usual(offset)) is not None:
            yield Walked(offset, usual, None)
            offset += 8 + usual + -usual % 4
            continue
        length, at, problem = 0, offset, None
        while True:
            found = _part(heads.at(at), at, file.size, first=at == offset)
            if isinstance(found, str):
                problem = damage(offset, at, found)
                break
            length += found[1]
            at += 8 + found[1]
            if found[0] in (_WHOLE, _LAST):
                break
            length += 4  # the magic number between two parts, which is not in the file
        following = min(at + -at % 4, file.size)
        if problem is None and heads.at(following)[:4] not in (b"", _MAGIC_BYTES):
            # Either the next record is damaged or this one's length is: then one starts inside.
            inside = _next_start(file, offset + 4, following)
            if inside < following:
                problem = damage(offset, offset, f"another record starts in it at byte {inside}")
        if problem is not None:
            following = _next_start(file, offset + 4, file.size)
            length = following - offset
        yield Walked(offset, length, problem)
        offset = following
    if progress is not None:
        progress(file.size, file.size)


class _Heads:
    """The 8 bytes at any place of a file, read a large piece at a time."""

    def __init__(self, file: RecordFile, progress: Callable[[int, int], Any] | None) -> None:
        self._file, self._progress = file, progress
        self._window, self._base = b"", 0

    def at(self, offset: int) -> bytes:
        start = offset - self._base
        if not 0 <= start <= len(self._window) - 8:
            self._window, self._base, start = self._file.bytes_at(offset, _WINDOW), offset, 0
            if self._progress is not None:
                self._progress(offset, self._file.size)
        return self._window[start : start + 8]

    def usual(self, offset: int) -> int | None:
        """Length of the record if it is whole and the piece shows that another follows it."""
        start = offset - self._base
        if not 0 <= start <= len(self._window) - 8:
            return None
        magic, word = _HEAD.unpack_from(self._window, start)
        after = start + 8 + word + -word % 4
        if magic != MAGIC or word > MAX_PAYLOAD or self._window[after : after + 4] != _MAGIC_BYTES:
            return None
        return int(word)


def framed(payload: bytes) -> bytes:
    """Returns a payload as a record: heads before its parts, zeros up to a multiple of 4 bytes.

    Where the payload holds the magic number at a multiple of 4 bytes it is split, so that a
    reader that lost its way never takes it for the start of a record.

    Args:
        payload: At most 2^29 - 1 bytes.

    Raises:
        ValueError: If it is longer.

    Example:
        >>> framed(b"face!").hex(" ", 4)
        '0a23d7ce 05000000 66616365 21000000'
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a record has {len(payload)} bytes; at most {MAX_PAYLOAD} are allowed")
    parts, start = [], 0
    position = payload.find(_MAGIC_BYTES)
    while position >= 0:
        if position % 4 == 0:
            parts.append(payload[start:position])
            start = position + 4
        position = payload.find(_MAGIC_BYTES, position + (4 if position % 4 == 0 else 1))
    parts.append(payload[start:])
    out = []
    for number, part in enumerate(parts):
        if len(parts) == 1:
            kind = _WHOLE
        elif number == 0:
            kind = _FIRST
        else:
            kind = _MIDDLE if number < len(parts) - 1 else _LAST
        out += [_HEAD.pack(MAGIC, kind << 29 | len(part)), part]
    out.append(bytes(-len(parts[-1]) % 4))
    return b"".join(out)


def damage(offset: int, at: int, problem: str) -> str:
    """Returns the words for a record at byte `offset` that is damaged at byte `at`."""
    part = "" if at == offset else f", part at byte {at}"
    return f"damaged record at byte {offset}{part}: {problem}"


def _part(head: bytes, at: int, size: int, *, first: bool) -> tuple[int, int] | str:
    """Kind and length of the part at byte `at` whose first 8 bytes are given, or what is wrong."""
    if len(head) < 8:
        return f"the file ends after {len(head)} of the 8 bytes of its head"
    magic, word = _HEAD.unpack(head)
    if magic != MAGIC:
        return f"it starts with {magic:#010x} instead of the magic number {MAGIC:#010x}"
    kind, length = word >> 29, word & MAX_PAYLOAD
    if kind > _LAST:
        return f"its kind is {kind}; it must be 0 to 3"
    if (kind in (_WHOLE, _FIRST)) != first:
        middle = "a middle or last part where a record should start"
        return middle if first else "a new record starts where its next part should be"
    if at + 8 + length > size:
        return _beyond(length, size - at - 8)
    if kind in (_FIRST, _MIDDLE) and length % 4:
        return f"a part of {length} bytes, no multiple of 4, is followed by another"
    return kind, length


def _beyond(length: int, there: int) -> str:
    return f"it says that {length} bytes follow, but the file ends after {there}"


def _next_start(file: RecordFile, start: int, end: int) -> int:
    """Byte of the next plausible start of a record before byte `end`, else `end`."""
    start += -start % 4
    while start < end:
        window = file.bytes_at(start, min(_WINDOW, end - start))
        words = np.frombuffer(window, dtype="<u4", count=len(window) // 4)
        for position in np.flatnonzero(words == MAGIC).tolist():
            at = start + 4 * position
            found = _part(file.bytes_at(at, 8), at, file.size, first=True)
            if isinstance(found, str):
                continue
            after = at + 8 + found[1]
            if file.bytes_at(after + -after % 4, 4) in (b"", _MAGIC_BYTES):
                return at
        start += _WINDOW
    return end


# The first bytes of many records, read without their images.

Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], Any]

# The frame's head, the header, and two labels that may follow it.
HEAD = np.dtype(
    [
        ("magic", "<u4"),
        ("word", "<u4"),
        ("count", "<u4"),
        ("label", "<f4"),
        ("key", "<u8"),
        ("key2", "<u8"),
        ("first", "<f4"),
        ("second", "<f4"),
    ]
)
_BLOCK = 4096
_WINDOW_HEADS = 1 << 22
# Records closer together than this are read with what lies between them.
_NEAR = 1 << 15


def read_heads(file: RecordFile, offsets: Ints) -> npt.NDArray[np.void]:
    """Reads what stands at the front of records.

    Args:
        file: The file.
        offsets: `(K,)` byte at which each record starts, in any order.

    Returns:
        `(K,)` of `HEAD`; zeros stand where the file has no more bytes.
    """
    order = np.argsort(offsets, kind="stable")
    heads = np.empty(len(offsets), dtype=HEAD)
    heads[order] = _read_ascending(file, offsets[order])
    return heads


def well_formed(heads: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Returns `(K,)` bool: which heads start a record that is long enough for its header."""
    kind, length = heads["word"] >> 29, heads["word"] & MAX_PAYLOAD
    needed = 24 + 4 * heads["count"].astype(np.int64)
    # What a first part lacks may follow in the next.
    enough = (kind == 1) | (kind == 0) & (length >= needed)
    good: npt.NDArray[np.bool_] = (heads["magic"] == MAGIC) & enough
    return good


def without_image(heads: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Returns `(K,)` bool: which records hold two labels and no image, so are about others."""
    whole = (heads["magic"] == MAGIC) & (heads["word"] == 24 + 8)
    without: npt.NDArray[np.bool_] = whole & (heads["count"] == 2)
    return without


def read_labels(file: RecordFile, offsets: Ints, progress: Progress | None = None) -> Ints:
    """Reads the labels of image records from their headers.

    Args:
        file: The file.
        offsets: `(K,)` byte at which each record starts.
        progress: Called now and then with the records done and their total.

    Returns:
        `(K,)` label in `[0, 2^24)`, -1 where the record is damaged.

    Raises:
        ValueError: If a label is no whole number, negative or too large for a float32, which
            would make one person of several.
    """
    labels = np.empty(len(offsets), dtype=np.int64)
    for start in range(0, len(offsets), _BLOCK):
        block = offsets[start : start + _BLOCK]
        values, good = label_values(file, block)
        whole = (values >= 0) & (values < LABEL_LIMIT) & (values == np.floor(values))
        if (good & ~whole).any():
            at = int(np.argmax(good & ~whole))
            raise ValueError(_wrong_label(file, int(block[at]), float(values[at])))
        labels[start : start + _BLOCK] = np.where(good, values, -1)
        if progress is not None:
            progress(start + len(block), len(offsets))
    return labels


def label_values(
    file: RecordFile, offsets: Ints
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Reads the first label of each record as it stands there.

    Args:
        file: The file.
        offsets: `(K,)` byte at which each record starts.

    Returns:
        `(K,)` float32, 0 where the record is damaged, and `(K,)` bool, whether it is not.
    """
    heads = read_heads(file, offsets)
    values = np.where(heads["count"] > 0, heads["first"], heads["label"])
    good = well_formed(heads)
    parted = good & (heads["word"] >> 29 == 1) & (heads["word"] & MAX_PAYLOAD < 28)
    for number in np.flatnonzero(parted).tolist():
        try:
            values[number] = unpack(file.record(int(offsets[number]))).labels[0]
        except ValueError:
            good[number] = False
    values[~good] = 0
    return values, good


def _wrong_label(file: RecordFile, offset: int, value: float) -> str:
    where = f"{file.path.name}: the record at byte {offset} has label {value:.9g}"
    if value >= LABEL_LIMIT:
        return (
            f"{where}; a float32 cannot tell labels from {LABEL_LIMIT} on apart, so different "
            "people would become one; number the identities from 0"
        )
    return f"{where}; it must be a whole number from 0 to {LABEL_LIMIT - 1}"


def _read_ascending(file: RecordFile, offsets: Ints) -> npt.NDArray[np.void]:
    width = HEAD.itemsize
    if len(offsets) and (offsets[-1] - offsets[0]) > _NEAR * len(offsets):
        for offset in offsets.tolist():
            file.ask_for(offset, width)
        pieces = [file.bytes_at(offset, width).ljust(width, b"\0") for offset in offsets.tolist()]
        return np.frombuffer(b"".join(pieces), dtype=HEAD)
    heads = np.empty(len(offsets), dtype=HEAD)
    start = 0
    while start < len(offsets):
        base = int(offsets[start])
        stop = int(np.searchsorted(offsets, base + _WINDOW_HEADS, side="right"))
        span = int(offsets[stop - 1]) - base + width
        window = np.frombuffer(file.bytes_at(base, span).ljust(span, b"\0"), dtype=np.uint8)
        rows = np.lib.stride_tricks.sliding_window_view(window, width)
        heads[start:stop] = rows[offsets[start:stop] - base].view(HEAD)[:, 0]
        start = stop
    return heads
