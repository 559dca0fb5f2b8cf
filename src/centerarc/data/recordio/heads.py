"""The first bytes of many records, read without their images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.recordio.header import LABEL_LIMIT, unpack
from centerarc.data.recordio.records import MAGIC, MAX_PAYLOAD, RecordFile

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
_WINDOW = 1 << 22
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
        stop = int(np.searchsorted(offsets, base + _WINDOW, side="right"))
        span = int(offsets[stop - 1]) - base + width
        window = np.frombuffer(file.bytes_at(base, span).ljust(span, b"\0"), dtype=np.uint8)
        rows = np.lib.stride_tricks.sliding_window_view(window, width)
        heads[start:stop] = rows[offsets[start:stop] - base].view(HEAD)[:, 0]
        start = stop
    return heads
