"""RecordIO in a few lines of struct, written from the format and not from the library."""

import struct
from pathlib import Path

from tests.data.pictures import picture

PEOPLE = [3, 3, 8, 8, 8, 9]
MAGIC = struct.pack("<I", 0xCED7230A)


def record(payload: bytes) -> bytes:
    """A record as dmlc writes it: four bytes at a time, a new part at each magic number."""
    parts, part = [], b""
    for start in range(0, len(payload), 4):
        word = payload[start : start + 4]
        if word == MAGIC:
            parts.append(part)
            part = b""
        else:
            part += word
    parts.append(part)
    out = b""
    for number, part in enumerate(parts):
        kind = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
        out += MAGIC + struct.pack("<I", kind * 2**29 + len(part)) + part
    return out + b"\0" * (-len(out) % 4)


def records(data: bytes) -> list[tuple[int, bytes]]:
    """Offset and payload of every record of a file without damage."""
    found, at = [], 0
    while at < len(data):
        start, payload = at, b""
        while True:
            assert data[at : at + 4] == MAGIC
            (word,) = struct.unpack("<I", data[at + 4 : at + 8])
            kind, length = divmod(word, 2**29)
            assert kind in ((0, 1) if at == start else (2, 3))
            payload += data[at + 8 : at + 8 + length]
            at += 8 + length + -length % 4
            if kind in (0, 3):
                break
            payload += MAGIC
        found.append((start, payload))
    return found


def payload(label: float | tuple[float, ...], key: int, image: bytes = b"") -> bytes:
    """IRHeader, labels that follow it, image."""
    if isinstance(label, tuple):
        head = struct.pack("<IfQQ", len(label), 0.0, key, 0)
        return head + struct.pack(f"<{len(label)}f", *label) + image
    return struct.pack("<IfQQ", 0, label, key, 0) + image


def write(rec: Path, payloads: dict[int, bytes], *, idx: bool = True) -> dict[int, int]:
    """Writes records in the order given and an .idx; returns where each starts."""
    offsets: dict[int, int] = {}
    data = b""
    for key, content in payloads.items():
        offsets[key] = len(data)
        data += record(content)
    rec.write_bytes(data)
    if idx:
        lines = "".join(f"{key}\t{offset}\n" for key, offset in offsets.items())
        rec.with_suffix(".idx").write_text(lines)
    return offsets


def insightface(
    rec: Path, labels: list[int], *, zero_first: bool = True, two_labels: bool = False
) -> dict[int, int]:
    """A data set in insightface's layout; image k has gray k - 1."""
    n = len(labels) + 1
    runs = [k for k in range(1, n) if k == 1 or labels[k - 1] != labels[k - 2]]
    images = {
        k: payload((label, 1) if two_labels else label, k, picture(k - 1))
        for k, label in enumerate(labels, start=1)
    }
    zero = {0: payload((n, n + len(runs)), 0)}
    people = {
        n + i: payload((first, end), n + i)
        for i, (first, end) in enumerate(zip(runs, [*runs[1:], n], strict=True))
    }
    return write(rec, zero | images | people if zero_first else images | zero | people)
