"""Faces in WebDataset shards."""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.folder import natural_key
from centerarc.data.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    check_shards,
    find_shards,
    read_manifest,
)
from centerarc.data.shards.tar import (
    BLOCK,
    ShardIndex,
    header_check,
    index_path,
    read_index,
    scan_shard,
)
from centerarc.data.source import EncodedSource
from centerarc.io.tables import Texts

# Open files, a bounded number of them, for reading at any place.


class _Handle:
    """A file open for reading; closed when the last reader lets go of it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._moving = Lock()

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def read(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, size, offset)
        with self._moving:
            os.lseek(self.descriptor, offset, os.SEEK_SET)
            return os.read(self.descriptor, size)


class Handles:
    """Reads parts of files and keeps those open that were read last.

    Threads may share it. Each process opens files for itself, so it can be forked and pickled.

    Args:
        limit: The most files kept open, at least 1.
    """

    def __init__(self, limit: int = 64) -> None:
        if limit < 1:
            raise ValueError(f"limit is {limit}; it must be at least 1")
        self.limit = limit
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = Lock()
        self._open: OrderedDict[str, _Handle] = OrderedDict()

    def __getstate__(self) -> dict[str, int]:
        return {"limit": self.limit}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.limit = state["limit"]
        self._reset()

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Reads a part of a file.

        Args:
            path: The file.
            offset: Its first byte.
            size: How many bytes.

        Returns:
            The bytes; fewer than `size` where the file ends before.

        Raises:
            OSError: If the file cannot be opened or read; the message gives the reason alone.
        """
        try:
            handle = self._handle(path)
            data = handle.read(offset, size)
            while len(data) < size:  # network shares and interrupted calls give less at once
                if not (more := handle.read(offset + len(data), size - len(data))):
                    break
                data += more
        except OSError as error:
            raise OSError(error.strerror or str(error)) from error
        return data

    def _handle(self, path: str) -> _Handle:
        if self._process != os.getpid():
            self._reset()  # forked, perhaps while another thread held the lock
        with self._lock:
            handle = self._open.get(path)
            if handle is None:
                handle = self._open[path] = _Handle(path)
                if len(self._open) > self.limit:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(path)
            return handle


# Faces in WebDataset shards.


class ShardSource(EncodedSource):
    """The images in tar shards that follow WebDataset's convention, in any order.

    Members whose names agree up to the first dot of the base name are a sample: `<key>.jpg` (or
    png, webp, ...) and who is on it, `<key>.cls` (a number) or `<key>.json` (`{"identity": name}`
    or `{"label": number}`); with neither, the folder of the key is the identity. Other members are
    not looked at. Images are read where they lie; nothing is unpacked.

    A shard whose index is beside it, as our packer writes it, opens without a look at its headers;
    others are read through once. The `dataset.json` of the packer names the identities. Without it
    a number is named by its folder where each has one of its own, else by its digits.

    Args:
        path: A folder with `*.tar`, a shard, or a pattern with `*` or braces, such as
            `faces-{000000..000012}.tar`.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        progress: Called after each shard with the number of shards opened and of all.

    Attributes:
        identities: Names of the identities with an image, by label: in the order of the numbers, or
            for names in natural order.
        labels: `(len,)` int64 label of each image.
        shards: The shards, in natural order.
        without_image: How many samples were left out because they have a label and no image.

    Raises:
        ValueError: If a shard is missing, compressed, cut off, damaged or not that of the
            `dataset.json`, holds a key twice, or labels are missing or mixed.

    Example:
        >>> import io, tempfile
        >>> import PIL.Image
        >>> from centerarc.data.shards import ShardSample, write_shard
        >>> picture = io.BytesIO()
        >>> PIL.Image.new("RGB", (8, 8)).save(picture, "png")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     info = write_shard(
        ...         f"{folder}/faces-0.tar", [ShardSample("Ann/1", picture.getvalue(), 0)]
        ...     )
        ...     source = ShardSource(folder)
        ...     source.identities, source.place(0), source.image(0).shape
        (['Ann'], 'faces-0.tar/Ann/1.png', (8, 8, 3))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        progress: Callable[[int, int], Any] | None = None,
    ) -> None:
        super().__init__(image_size)
        self.location = os.fspath(path)
        self.shards = find_shards(path)
        self._files = [str(shard) for shard in self.shards]
        self._names = _names(self.shards)
        manifest = _manifest(self.location, self.shards)
        indexes = []
        for number, shard in enumerate(self.shards, 1):
            indexes.append(_opened(shard))
            if progress is not None:
                progress(number, len(self.shards))
        self.without_image = sum(index.without_image for index in indexes)
        # Lists, because bisecting one takes a tenth of the time of asking an array.
        self._starts: list[int] = np.cumsum([0, *(len(index) for index in indexes)]).tolist()
        if not self._starts[-1]:
            raise ValueError(f"the shards of {self.location!r} hold no image")
        self._offsets = np.concatenate([index.offsets for index in indexes])
        self._sizes = np.concatenate([index.sizes for index in indexes])
        self._checks = np.concatenate([index.checks for index in indexes])
        self._members = Texts.joined([index.members for index in indexes])
        self.identities, self.labels = _people(self.shards, indexes, manifest)
        self._handles = Handles()

    def __repr__(self) -> str:
        return f"ShardSource({self.location!r}: {self.summary()})"

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        shard = self._shard(index)
        try:
            # With its header, to know that it is still the image that was found there.
            data = self._handles.read(self._files[shard], offset - BLOCK, BLOCK + size)
        except OSError as error:
            raise ValueError(str(error)) from error
        if len(data) < BLOCK + size:
            raise ValueError(
                f"the shard was cut off: it ends at byte {offset - BLOCK + len(data)} and the "
                f"image at {offset + size}"
            )
        if header_check(data[:BLOCK]) != self._checks[index]:
            listing = index_path(self.shards[shard]).name
            raise ValueError(
                f"the shard has something else at byte {offset - BLOCK}: it was changed after it "
                f"was opened, or {listing} is older than it; remove that and open it again"
            )
        return data[BLOCK:]

    def place(self, index: int) -> str:
        """Returns the shard and the member of image `index`: `faces-0.tar/Ann_Lee/1.jpg`."""
        return f"{self._names[self._shard(index)]}/{self._members[index]}"

    def summary(self) -> str:
        """Returns one line: how much there is, and how much was left out."""
        line = (
            f"{len(self)} images of {len(self.identities)} identities in {len(self.shards)} shards"
        )
        if self.without_image:
            line += f"; left out {self.without_image} samples without an image"
        return line

    def _shard(self, index: int) -> int:
        return bisect_right(self._starts, index if index >= 0 else index + len(self)) - 1


def _opened(shard: Path) -> ShardIndex:
    try:
        return read_index(shard) or scan_shard(shard)
    except OSError as error:
        raise ValueError(f"cannot read {str(shard)!r}: {error.strerror or error}") from error


def _names(shards: Sequence[Path]) -> list[str]:
    """How shards are called: by their path below the folder that they share."""
    common = os.path.commonpath([shard.parent for shard in shards])
    return [Path(os.path.relpath(shard, common or ".")).as_posix() for shard in shards]


def _manifest(location: str, shards: Sequence[Path]) -> Manifest | None:
    folders = list(dict.fromkeys(shard.parent for shard in shards))
    try:
        found = [(folder, read_manifest(folder)) for folder in folders]
        for folder, manifest in found:
            if manifest is None:
                continue
            if len(folders) > 1:
                raise ValueError(
                    f"{location!r} names shards of {len(folders)} folders, and {str(folder)!r} has "
                    f"a {MANIFEST_NAME} with labels of its own; open each folder as a source and "
                    "mix them"
                )
            check_shards(folder, manifest, (shard.name for shard in shards))
            if os.path.isdir(location):
                _check_complete(folder, manifest, shards)
    except OSError as error:
        raise ValueError(f"cannot read the shards of {location!r}: {error}") from error
    return found[0][1]


def _check_complete(folder: Path, manifest: Manifest, shards: Sequence[Path]) -> None:
    present = {shard.name for shard in shards}
    if missing := [shard.name for shard in manifest.shards if shard.name not in present]:
        raise ValueError(
            f"{str(folder)!r} lacks {len(missing)} of the {len(manifest.shards)} shards that its "
            f"{MANIFEST_NAME} lists, first {missing[0]!r}"
        )


def _people(
    shards: Sequence[Path], indexes: Sequence[ShardIndex], manifest: Manifest | None
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Gives everybody a label from 0, the same over all shards."""
    used = [(shard, index) for shard, index in zip(shards, indexes, strict=True) if len(index)]
    kind = used[0][1].kind
    for shard, index in used:
        if index.kind != kind:
            raise ValueError(
                f"shards mix labels: {str(used[0][0])!r} (first key {used[0][1].members[0]!r}) has "
                f"those by {kind}, and {str(shard)!r} (first key {index.members[0]!r}) by "
                f"{index.kind}; every image needs the same"
            )
    if kind == "number":
        return _numbered(used, manifest)
    if manifest is not None:
        raise ValueError(
            f"{MANIFEST_NAME} numbers the identities, but {str(used[0][0])!r} holds no numbers"
        )
    names = sorted({name for _, index in used for name in index.people}, key=natural_key)
    label_of = {name: label for label, name in enumerate(names)}
    labels = [
        np.array([label_of[name] for name in index.people], dtype=np.int64)[index.codes]
        for _, index in used
    ]
    return names, np.concatenate(labels)


def _numbered(
    used: Sequence[tuple[Path, ShardIndex]], manifest: Manifest | None
) -> tuple[list[str], npt.NDArray[np.int64]]:
    numbers = np.unique(np.concatenate([index.numbers for _, index in used]))
    labels = [np.searchsorted(numbers, index.numbers)[index.codes] for _, index in used]
    if manifest is None:
        return _folder_names(used) or [str(number) for number in numbers], np.concatenate(labels)
    for shard, index in used:
        if index.numbers.max() >= len(manifest.identities):
            raise ValueError(
                f"shard {str(shard)!r} has label {index.numbers.max()}, and {MANIFEST_NAME} names "
                f"{len(manifest.identities)} identities"
            )
    return [manifest.identities[number] for number in numbers], np.concatenate(labels)


def _folder_names(used: Sequence[tuple[Path, ShardIndex]]) -> list[str] | None:
    """Names numbers by their folders; None where they do not belong to each other."""
    folder_of: dict[int, str] = {}
    for _, index in used:
        for number, folder in zip(index.numbers.tolist(), index.people, strict=True):
            if not folder or folder_of.setdefault(number, folder) != folder:
                return None
    if len(set(folder_of.values())) != len(folder_of):
        return None
    return [folder_of[number] for number in sorted(folder_of)]
