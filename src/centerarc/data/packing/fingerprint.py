"""What must be the same for a pack to go on: the people, the images and the files of a source."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from centerarc.data.folder import FolderSource
from centerarc.data.image_list import ListSource
from centerarc.data.recordio import RecordIOSource
from centerarc.data.shards import ShardSource
from centerarc.data.source import FaceSource


def fingerprint(source: FaceSource) -> dict[str, Any]:
    """Returns facts about a source by the words in which a difference is told; JSON.

    Files are known by name, size and time of change, not by what is in them, so that five million
    take seconds.
    """
    stamps = hashlib.sha256()
    for path in source_files(source):
        with suppress(OSError):  # reading it will say what is wrong
            found = os.stat(path)
            stamp = f"{os.path.basename(path)}\0{found.st_size} {found.st_mtime_ns}\0"
            stamps.update(stamp.encode("utf-8", "surrogatepass"))
    names = "\0".join(source.identities)
    return {
        "number of images": len(source),
        "number of people": len(source.identities),
        "set of people": digest(names.encode("utf-8", "surrogatepass")),
        "set of labels": digest(np.asarray(source.labels, dtype="<i8").tobytes()),
        "state of the source's files": stamps.hexdigest(),
    }


def digest(data: bytes) -> str:
    """Returns the SHA-256 of bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def source_files(source: object) -> Iterator[str]:
    """Yields the files that a source reads, where it is made of files."""
    for part in _layers(source):
        if isinstance(part, FolderSource):
            yield from map(str, part.paths)
        elif isinstance(part, ListSource):
            yield str(part.path)
            yield from (os.path.join(part.root, part.place(i)) for i in range(len(part)))
        elif isinstance(part, RecordIOSource):
            yield str(part.path)
        elif isinstance(part, ShardSource):
            yield from map(str, part.shards)


def source_roots(source: object) -> Iterator[Path]:
    """Yields the folders that a source takes whole."""
    for part in _layers(source):
        if isinstance(part, FolderSource):
            yield part.root


def source_size(source: object) -> int | None:
    """Returns the side in pixels to which a source resizes, or None."""
    for part in _layers(source):
        size = getattr(part, "image_size", None)
        if isinstance(size, int):
            return size
    return None


def _layers(source: object) -> Iterator[object]:
    # Subsets and caches keep what they take from as `source`, mixtures as `sources`.
    yield source
    inner = getattr(source, "source", None)
    if inner is not None:
        yield from _layers(inner)
    for part in getattr(source, "sources", ()):
        yield from _layers(part)
