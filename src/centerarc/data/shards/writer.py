"""Writing shards: the same samples give the same bytes."""

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from centerarc.data.shards.manifest import ShardInfo
from centerarc.data.shards.tar import (
    BLOCK,
    Entry,
    ShardIndex,
    header_check,
    index_path,
    member_header,
    safe_key,
    write_index,
)
from centerarc.io.files import atomic_path

_STARTS = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
    (b"GIF8", "gif"),
)


@dataclass(frozen=True)
class ShardSample:
    """One image to write.

    Args:
        key: `identity/stem`; what comes before the last slash is the identity.
        image: The whole image file: JPEG, PNG, WebP, BMP, TIFF or GIF.
        label: The number of its identity, at least 0.
    """

    key: str
    image: bytes
    label: int


def write_shard(path: str | os.PathLike[str], samples: Iterable[ShardSample]) -> ShardInfo:
    """Writes a shard and its index; both are complete or absent.

    A sample becomes `<key>.jpg`, by what the image is, and `<key>.cls`. Keys are made safe: what
    file systems or readers stumble over, such as dots in the stem, becomes `%2E` and the like, and
    a key that is there gets a number. `tar xf` gives a folder for each identity. Times and owners
    are zero.

    Args:
        path: Where the shard shall be, ending in `.tar`; replaced if it is there.
        samples: What to put in, in this order; taken one at a time.

    Returns:
        What `write_manifest` needs to know of it.

    Raises:
        ValueError: If there is no sample, the name does not end in `.tar`, or a sample is wrong:
            its key has no identity, its label is negative, its image is of no known format.
        OSError: If it cannot be written.
    """
    target = Path(path)
    if target.suffix != ".tar":
        raise ValueError(f"path is {str(target)!r}; the name of a shard must end in .tar")
    with atomic_path(target) as temporary:
        with open(temporary, "wb", buffering=1 << 20) as file:
            tar = _Tar(file.write)
            entries = _write_samples(tar, samples)
            tar.close()
        # An index of what was here before must not outlive it.
        index_path(target).unlink(missing_ok=True)
    write_index(target, ShardIndex.of(tar.size, "number", entries))
    return ShardInfo(target.name, len(entries), tar.size, tar.digest.hexdigest())


def _write_samples(tar: "_Tar", samples: Iterable[ShardSample]) -> list[Entry]:
    entries: list[Entry] = []
    taken: set[str] = set()
    for sample in samples:
        if sample.label < 0:
            raise ValueError(f"label of {sample.key!r} is {sample.label}; it must be at least 0")
        key = _free(safe_key(sample.key), taken)
        taken.add(key)
        member = f"{key}.{_extension(sample)}"
        offset, check = tar.add(member, sample.image)
        folder = key.partition("/")[0]
        label = int(sample.label)
        entries.append(Entry(member, offset, len(sample.image), check, label, folder))
        tar.add(f"{key}.cls", str(label).encode())
    if not entries:
        raise ValueError("samples is empty; a shard needs at least one")
    return entries


class _Tar:
    """A tar file being written, counted and summed up on the way."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self._write = write

    def add(self, name: str, data: bytes) -> tuple[int, int]:
        """Adds a member; returns where its data starts and the check of its header."""
        header = member_header(name, len(data))
        start = self.size + len(header)
        self._put(b"".join((header, data, bytes(-len(data) % BLOCK))))
        return start, header_check(header[-BLOCK:])

    def close(self) -> None:
        self._put(bytes(2 * BLOCK))
        self._put(bytes(-self.size % tarfile.RECORDSIZE))

    def _put(self, data: bytes) -> None:
        self._write(data)
        self.digest.update(data)
        self.size += len(data)


def _free(key: str, taken: set[str]) -> str:
    free, number = key, 2
    while free in taken:
        free, number = f"{key}-{number}", number + 1
    return free


def _extension(sample: ShardSample) -> str:
    for start, extension in _STARTS:
        if sample.image.startswith(start):
            return extension
    if sample.image[:4] == b"RIFF" and sample.image[8:12] == b"WEBP":
        return "webp"
    raise ValueError(
        f"image of {sample.key!r} is no JPEG, PNG, WebP, BMP, TIFF or GIF; it starts with "
        f"{sample.image[:8]!r}"
    )
