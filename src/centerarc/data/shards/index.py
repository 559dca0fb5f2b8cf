"""Where the images of one shard are, kept in a file beside it."""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from centerarc.data.files import atomic_path
from centerarc.data.texts import Texts

# What says who is on an image: a number, a name written beside it, or its folder.
Kind = Literal["number", "name", "folder"]

BLOCK = 512  # tar files are made of blocks; the one before an image is its header
_VERSION = 1


class Entry(NamedTuple):
    """One image in a shard.

    Args:
        member: Its name in the tar file, without a leading `./`.
        offset: Its first byte in the shard.
        size: Its number of bytes.
        check: CRC-32 of the block before it, its tar header.
        label: Who is on it.
        folder: The folder that its name says.
    """

    member: str
    offset: int
    size: int
    check: int
    label: int | str
    folder: str


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The images of one shard, in its order, n of them, of p people.

    Args:
        shard_bytes: Size of the shard.
        kind: What says who is on an image.
        without_image: How many samples have a label and no image; they are left out.
        offsets: `(n,)` int64 first byte of each image.
        sizes: `(n,)` int64 bytes of each image.
        checks: `(n,)` uint32 CRC-32 of the tar header before each image.
        codes: `(n,)` int64 in [0, p), who is on each image.
        numbers: `(p,)` int64 the label that the shard writes for each person; -1 for names.
        people: The name of each person; for numbers that of their one folder, else empty.
        members: The name of each image.
    """

    shard_bytes: int
    kind: Kind
    without_image: int
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    checks: npt.NDArray[np.uint32]
    codes: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    people: Texts
    members: Texts

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.offsets)

    @classmethod
    def of(
        cls, shard_bytes: int, kind: Kind, entries: Sequence[Entry], without_image: int = 0
    ) -> "ShardIndex":
        """Makes the index of a shard from its images."""
        code_of: dict[int | str, int] = {}
        folders: list[str] = []
        codes = np.zeros(len(entries), dtype=np.int64)
        for row, entry in enumerate(entries):
            code = codes[row] = code_of.setdefault(entry.label, len(code_of))
            if code == len(folders):
                folders.append(entry.folder)
            elif folders[code] != entry.folder:
                folders[code] = ""
        numbers = [label if isinstance(label, int) else -1 for label in code_of]
        people = [folders[c] if isinstance(name, int) else name for name, c in code_of.items()]
        return cls(
            shard_bytes,
            kind,
            without_image,
            np.array([entry.offset for entry in entries], dtype=np.int64),
            np.array([entry.size for entry in entries], dtype=np.int64),
            np.array([entry.check for entry in entries], dtype=np.uint32),
            codes,
            np.array(numbers, dtype=np.int64),
            Texts.of(people),
            Texts.of(entry.member for entry in entries),
        )


def header_check(header: bytes) -> int:
    """Returns what an index remembers of a header: its CRC-32."""
    return zlib.crc32(header)


def index_path(shard: str | os.PathLike[str]) -> Path:
    """Returns where the index of a shard is: `faces-0.index.npz` beside `faces-0.tar`."""
    path = Path(shard)
    return path.with_name(f"{path.stem}.index.npz")


def write_index(shard: str | os.PathLike[str], index: ShardIndex) -> None:
    """Writes the index of a shard beside it.

    Args:
        shard: The shard.
        index: What `scan_shard` found in it, or the writer put there.

    Raises:
        OSError: If it cannot be written.
    """
    arrays = {
        "version": np.array(_VERSION),
        "kind": np.array(get_args(Kind).index(index.kind)),
        "shard_bytes": np.array(index.shard_bytes),
        "without_image": np.array(index.without_image),
        "offsets": index.offsets,
        "sizes": index.sizes,
        "checks": index.checks,
        "codes": index.codes,
        "numbers": index.numbers,
        "people": index.people.data,
        "people_ends": index.people.ends,
        "members": index.members.data,
        "member_ends": index.members.ends,
    }
    with atomic_path(index_path(shard)) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle


def read_index(shard: str | os.PathLike[str]) -> ShardIndex | None:
    """Reads the index beside a shard.

    It belongs to the shard if that has the size it says and, where its first and its last image
    are, the headers it remembers; so copying both keeps it good. Each image's own header is
    compared when the image is read.

    Args:
        shard: The shard.

    Returns:
        The index; None where there is none, it is damaged, or it is that of another shard.

    Raises:
        OSError: If the shard cannot be read.
    """
    try:
        with np.load(index_path(shard), allow_pickle=False) as arrays:
            index = _unpacked({name: arrays[name] for name in arrays.files})
    # NotImplementedError and other RuntimeErrors: a zip method or a flag that is damaged.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None
    with open(shard, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != index.shard_bytes:
            return None
        for row in {0, len(index) - 1} if len(index) else ():
            file.seek(int(index.offsets[row]) - BLOCK)
            if header_check(file.read(BLOCK)) != index.checks[row]:
                return None
    return index


def _unpacked(arrays: dict[str, npt.NDArray[np.generic]]) -> ShardIndex:
    """Takes an index from its arrays; raises `ValueError` if they cannot be one."""
    if int(arrays["version"]) != _VERSION:
        raise ValueError("another version")
    index = ShardIndex(
        int(arrays["shard_bytes"]),
        get_args(Kind)[int(arrays["kind"])],
        int(arrays["without_image"]),
        arrays["offsets"].astype(np.int64, casting="safe"),
        arrays["sizes"].astype(np.int64, casting="safe"),
        arrays["checks"].astype(np.uint32, casting="safe"),
        arrays["codes"].astype(np.int64, casting="safe"),
        arrays["numbers"].astype(np.int64, casting="safe"),
        Texts(arrays["people"].astype(np.uint8, casting="safe"), arrays["people_ends"].astype(int)),
        Texts(
            arrays["members"].astype(np.uint8, casting="safe"), arrays["member_ends"].astype(int)
        ),
    )
    each = (index.offsets, index.sizes, index.checks, index.codes, index.members)
    if len({len(values) for values in each}) != 1 or len(index.numbers) != len(index.people):
        raise ValueError("lengths differ")
    if len(index) and not (
        index.offsets.min() >= BLOCK
        and index.sizes.min() >= 0
        and (index.offsets + index.sizes).max() <= index.shard_bytes
        and 0 <= index.codes.min() <= index.codes.max() < len(index.numbers)
    ):
        raise ValueError("an image lies outside")
    return index
