"""RecordIO files: the framing of records, and the labels in the headers of image records."""

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.io.files import RandomAccessFile

Ints = npt.NDArray[np.int64]
Progress = Callable[[int, int], Any]

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
# Magic number, then the length in 29 bits below the kind of the part.
FRAME = struct.Struct("<II")
MAX_PAYLOAD = 2**29 - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)
# Of an image record: number of labels that follow, the label if none does, key, unused.
HEADER = struct.Struct("<IfQQ")
# A float32 tells whole numbers apart below this one only.
LABEL_LIMIT = 2**24

# Most face images are smaller, so that one call reads a record.
_TYPICAL = 1 << 14
_WINDOW = 1 << 20


class Index(NamedTuple):
    """Keys of records, ascending, each once, and the byte at which each starts."""

    keys: range | Ints
    offsets: Ints


class RecordFile(RandomAccessFile):
    """A RecordIO file whose records are read at any place, in any process."""

    def record(self, offset: int) -> bytes:
        """Returns the payload of the record that starts at byte `offset`, its parts joined.

        Raises:
            ValueError: If the record is damaged; the message names the byte and what is wrong.
        """
        window = self.bytes_at(offset, _TYPICAL)
        if len(window) >= FRAME.size:
            magic, length = FRAME.unpack_from(window)
            # A length that fits has no bits of a kind above it: the record is whole.
            if magic == MAGIC and length <= len(window) - FRAME.size:
                return window[FRAME.size : FRAME.size + length]
        parts = []
        for start, length in self.parts(offset):
            inside = window[start - offset : start - offset + length]
            data = inside + self.bytes_at(start + len(inside), length - len(inside))
            if len(data) < length:  # cut off since it was opened
                raise ValueError(_damage(offset, start - FRAME.size, _beyond(length, len(data))))
            parts.append(data)
        return MAGIC_BYTES.join(parts)

    def parts(self, offset: int) -> Iterator[tuple[int, int]]:
        """Yields where the data of each part of a record starts, and its length; see `record`."""
        at, kind = offset, FIRST
        while kind not in (WHOLE, LAST):
            kind, length = self._part(offset, at)
            at += FRAME.size
            yield at, length
            at += length

    def _part(self, offset: int, at: int) -> tuple[int, int]:
        """Kind and length of the part at byte `at` of the record at byte `offset`."""
        frame, problem = self.bytes_at(at, FRAME.size), ""
        magic, word = FRAME.unpack(frame.ljust(FRAME.size, b"\0"))
        kind, length = word >> 29, word & MAX_PAYLOAD
        if len(frame) < FRAME.size:
            problem = f"the file ends after {len(frame)} of the 8 bytes of its head"
        elif magic != MAGIC:
            problem = f"it starts with {magic:#010x} instead of the magic number {MAGIC:#010x}"
        elif kind > LAST:
            problem = f"its kind is {kind}; it must be 0 to 3"
        elif at == offset and kind in (MIDDLE, LAST):
            problem = "a middle or last part where a record should start"
        elif at > offset and kind in (WHOLE, FIRST):
            problem = "a new record starts where its next part should be"
        elif at + FRAME.size + length > self.size:
            problem = _beyond(length, self.size - at - FRAME.size)
        elif kind in (FIRST, MIDDLE) and length % 4:
            problem = f"a part of {length} bytes, no multiple of 4, is followed by another"
        if problem:
            raise ValueError(_damage(offset, at, problem))
        return kind, length


def framed(payload: bytes) -> bytes:
    """A payload as a record, split where it holds the magic number at a multiple of 4 bytes.

    Example:
        >>> framed(b"face!").hex(" ", 4)
        '0a23d7ce 05000000 66616365 21000000'
    """
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a record has {len(payload)} bytes; at most {MAX_PAYLOAD} are allowed")
    parts, start, position = [], 0, payload.find(MAGIC_BYTES)
    while position >= 0:
        if aligned := position % 4 == 0:
            parts.append(payload[start:position])
            start = position + 4
        position = payload.find(MAGIC_BYTES, position + (4 if aligned else 1))
    parts.append(payload[start:])
    kinds = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
    out = []
    for kind, part in zip(kinds, parts, strict=True):
        out += [FRAME.pack(MAGIC, kind << 29 | len(part)), part]
    out.append(bytes(-len(parts[-1]) % 4))
    return b"".join(out)


def _damage(offset: int, at: int, problem: str) -> str:
    part = "" if at == offset else f", part at byte {at}"
    return f"damaged record at byte {offset}{part}: {problem}"


def _beyond(length: int, there: int) -> str:
    return f"it says that {length} bytes follow, but the file ends after {there}"


# A walk through a file from record to record.


class Walked(NamedTuple):
    """What a walk finds: the byte at which it starts, how long it is, and what is wrong with it.

    The length is that of the record's payload; after damage, bytes to where the walk resumes. The
    problem names the byte; it is None for a whole record.
    """

    offset: int
    length: int
    problem: str | None


def walk(file: RecordFile, progress: Progress | None = None) -> Iterator[Walked]:
    """Yields every record and every damaged stretch of a file; together they cover it.

    After damage it resumes at the next place that looks like the start of a record. `progress` is
    called now and then with the bytes done and their total.
    """
    window, base, offset = b"", 0, 0
    while offset < file.size:
        start = offset - base
        if start + FRAME.size > len(window):
            window, base, start = file.bytes_at(offset, _WINDOW), offset, 0
            if progress is not None:
                progress(offset, file.size)
        if start + FRAME.size <= len(window):
            # Nearly always a record is whole, and the window shows that another follows it.
            magic, length = FRAME.unpack_from(window, start)
            after = start + FRAME.size + length + -length % 4
            whole = magic == MAGIC and length <= MAX_PAYLOAD
            if whole and window[after : after + 4] == MAGIC_BYTES:
                yield Walked(offset, length, None)
                offset = base + after
                continue
        found = _look_closer(file, offset)
        yield found[0]
        offset = found[1]
    if progress is not None:
        progress(file.size, file.size)


def _look_closer(file: RecordFile, offset: int) -> tuple[Walked, int]:
    """A record of any kind, or damage, and where to go on."""
    problem, length = None, -4
    try:
        for start, size in file.parts(offset):
            # Between two parts is a magic number that is not in the file.
            length, end = length + 4 + size, start + size
        following = min(end + -end % 4, file.size)
        if file.bytes_at(following, 4) not in (b"", MAGIC_BYTES):
            # Either the next record is damaged or this one's length is: then one starts inside.
            inside = _next_start(file, offset + 4, following)
            if inside < following:
                problem = _damage(offset, offset, f"another record starts in it at byte {inside}")
    except ValueError as error:
        problem = str(error)
    if problem is not None:
        following = _next_start(file, offset + 4, file.size)
        return Walked(offset, following - offset, problem), following
    return Walked(offset, length, None), following


def _next_start(file: RecordFile, start: int, end: int) -> int:
    """Byte of the next plausible start of a record before byte `end`, else `end`."""
    start += -start % 4
    while start < end:
        window = file.bytes_at(start, min(_WINDOW, end - start))
        words = np.frombuffer(window, dtype="<u4", count=len(window) // 4)
        for at in (start + 4 * np.flatnonzero(words == MAGIC)).tolist():
            try:
                data, length = next(file.parts(at))
            except ValueError:
                continue
            after = data + length
            if file.bytes_at(after + -after % 4, 4) in (b"", MAGIC_BYTES):
                return int(at)
        start += _WINDOW
    return end


# The header of an image record: its labels and its key, before the image.


def image_of(payload: bytes) -> bytes:
    """The image file of a record; raises `ValueError` if it is too short for its header."""
    if len(payload) < HEADER.size:
        raise ValueError(
            f"the record has {len(payload)} bytes, too few for its header of {HEADER.size}"
        )
    count = int.from_bytes(payload[:4], "little")
    end = HEADER.size + 4 * count
    if len(payload) < end:
        raise ValueError(
            f"the record says that {count} labels follow its header, but it has only "
            f"{len(payload)} bytes"
        )
    return payload[end:]


# Frame and header of a record, and two labels that may follow them.
_NAMES = ("magic", "word", "count", "label", "key", "key2", "first", "second")
_KINDS = ("<u4", "<u4", "<u4", "<f4", "<u8", "<u8", "<f4", "<f4")
HEAD = np.dtype(list(zip(_NAMES, _KINDS, strict=True)))
_BLOCK = 4096
_WINDOW_OF_HEADS = 1 << 22
# Records closer together than this are read with what lies between them.
_NEAR = 1 << 15


def read_heads(file: RecordFile, offsets: Ints) -> npt.NDArray[np.void]:
    """`(K,)` of `HEAD` at K bytes in any order, zeros where the file has ended."""
    order = np.argsort(offsets, kind="stable")
    offsets, width = offsets[order], HEAD.itemsize
    ascending = np.empty(len(offsets), dtype=HEAD)
    if len(offsets) and offsets[-1] - offsets[0] > _NEAR * len(offsets):
        places = offsets.tolist()
        for offset in places:
            file.prefetch(offset, width)
        data = b"".join(file.bytes_at(offset, width).ljust(width, b"\0") for offset in places)
        ascending = np.frombuffer(data, dtype=HEAD)
    else:
        start = 0
        while start < len(offsets):
            base = int(offsets[start])
            stop = int(np.searchsorted(offsets, base + _WINDOW_OF_HEADS, side="right"))
            span = int(offsets[stop - 1]) - base + width
            window = np.frombuffer(file.bytes_at(base, span).ljust(span, b"\0"), dtype=np.uint8)
            rows = np.lib.stride_tricks.sliding_window_view(window, width)
            ascending[start:stop] = rows[offsets[start:stop] - base].view(HEAD)[:, 0]
            start = stop
    heads = np.empty(len(offsets), dtype=HEAD)
    heads[order] = ascending
    return heads


def well_formed(heads: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which heads start a record that is long enough for its header."""
    kind, length = heads["word"] >> 29, heads["word"] & MAX_PAYLOAD
    needed = HEADER.size + 4 * heads["count"].astype(np.int64)
    # What a first part lacks may follow in the next.
    enough = (kind == FIRST) | (kind == WHOLE) & (length >= needed)
    good: npt.NDArray[np.bool_] = (heads["magic"] == MAGIC) & enough
    return good


def without_image(heads: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which records hold two labels and no image, so are about others."""
    whole = (heads["magic"] == MAGIC) & (heads["word"] == HEADER.size + 8)
    without: npt.NDArray[np.bool_] = whole & (heads["count"] == 2)
    return without


def label_values(
    file: RecordFile, offsets: Ints
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The first label of records, 0 where the record is damaged, and whether it is not."""
    heads = read_heads(file, offsets)
    values = np.where(heads["count"] > 0, heads["first"], heads["label"])
    good = well_formed(heads)
    # A magic number in the header splits it.
    split = good & (heads["word"] >> 29 == FIRST) & (heads["word"] & MAX_PAYLOAD < 28)
    for number in np.flatnonzero(split).tolist():
        try:
            payload = file.record(int(offsets[number]))
            image_of(payload)
            at = HEADER.size if any(payload[:4]) else 4
            (values[number],) = struct.unpack_from("<f", payload, at)
        except ValueError:
            good[number] = False
    values[~good] = 0
    return values, good


def read_labels(file: RecordFile, offsets: Ints, progress: Progress | None = None) -> Ints:
    """The labels in the headers of image records, -1 where the record is damaged."""
    labels = np.empty(len(offsets), dtype=np.int64)
    for start in range(0, len(offsets), _BLOCK):
        block = offsets[start : start + _BLOCK]
        values, good = label_values(file, block)
        wrong = good & ~((values >= 0) & (values < LABEL_LIMIT) & (values == np.floor(values)))
        if wrong.any():
            at = int(np.argmax(wrong))
            rule = f"it must be a whole number from 0 to {LABEL_LIMIT - 1}"
            if values[at] >= LABEL_LIMIT:
                rule = (
                    f"a float32 cannot tell labels from {LABEL_LIMIT} on apart, so different "
                    "people would become one; number the identities from 0"
                )
            raise ValueError(
                f"{file.path.name}: the record at byte {block[at]} has label {values[at]:.9g}; "
                f"{rule}"
            )
        labels[start : start + _BLOCK] = np.where(good, values, -1)
        if progress is not None:
            progress(start + len(block), len(offsets))
    return labels
