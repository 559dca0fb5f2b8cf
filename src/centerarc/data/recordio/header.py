"""The header of an image record: its labels and its key, before the image."""

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
