"""Faces in WebDataset shards."""

import os
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
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
    index_path,
    read_index,
    scan_shard,
)
from centerarc.data.source import OUTSIDE, TOO_DEEP, EncodedSource, Skipped
from centerarc.io.files import RandomAccessFile
from centerarc.io.tables import Texts, counted

_MOST_OPEN = 64

# A shard and its index; of all shards, those with an image.
Used = Sequence[tuple[Path, ShardIndex]]


class ShardSource(EncodedSource):
    """The images in tar shards that follow WebDataset's convention, in any order.

    Members whose names agree up to the first dot of the base name are a sample: `<key>.jpg` (or
    png, webp, ...) and who is on it, `<key>.cls` (a number), `<key>.json` (`{"identity": name}`
    or `{"label": number}`) or `<key>.txt` (a name, digits or not); with none of them, the folder of
    the key is the identity, and images outside the people's folders or in folders inside them are
    left out. So are pictures of a type that is not read or with further dots in their names, which
    are fields of a sample; other members are not looked at. Images are read where they lie;
    nothing is unpacked.

    A shard with its index beside it, as our packer writes it, opens at once; others are read
    through. The `dataset.json` of the packer names the identities. Without it a number is named by
    its folder where each has one of its own, else by its digits.

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
        skipped: What was left out, by shard and member: pictures, labels without an image, hidden
            files.

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
        common = os.path.commonpath([shard.parent for shard in self.shards]) or "."
        self._names = [Path(os.path.relpath(shard, common)).as_posix() for shard in self.shards]
        manifest = _manifest(self.location, self.shards)
        indexes = []
        for number, shard in enumerate(self.shards, 1):
            try:
                indexes.append(read_index(shard) or scan_shard(shard))
            except OSError as error:
                reason = error.strerror or error
                raise ValueError(f"cannot read {str(shard)!r}: {reason}") from error
            if progress is not None:
                progress(number, len(self.shards))
        self.skipped: list[Skipped] = [
            replace(item, place=f"{name}/{item.place}")
            for name, index in zip(self._names, indexes, strict=True)
            for item in index.skipped
        ]
        used = [pair for pair in zip(self.shards, indexes, strict=True) if len(pair[1])]
        images = np.concatenate([index.images for index in indexes])
        self._members = Texts.joined([index.members for index in indexes])
        at = np.repeat(np.arange(len(indexes)), list(map(len, indexes)))  # shard of each image
        if not used:
            self.identities, self.labels = [], np.zeros(0, dtype=np.int64)
            raise ValueError(f"the shards of {self.location!r} hold no image: {self.summary()}")
        self.identities, self.labels = _people(used, manifest)
        if used[0][1].kind == "name" and 1 < len(self.identities) == len(self.labels):
            self.problems = [
                f"the .txt or .json names another person on each of the {len(self.labels)} images: "
                "a caption is no name; leave them out of the shards if folders name the people"
            ]
        if used[0][1].kind == "folder":
            counts = np.bincount(self.labels)
            wrong, self.problems = _misplaced(self.identities, counts)
            firsts = np.unique(self.labels, return_index=True)[1]
            for label, (reason, owner) in wrong.items():
                place = f"{self._names[at[firsts[label]]]}/{self.identities[label]}"
                self.skipped.append(Skipped(place, reason, "", int(counts[label]), owner))
            kept = np.flatnonzero(~np.isin(self.labels, [*wrong]))
            if wrong:
                images, at = images[kept], at[kept]
                self._members = Texts.of(self._members[number] for number in kept.tolist())
                people, self.labels = np.unique(self.labels[kept], return_inverse=True)
                self.identities = [self.identities[label] for label in people.tolist()]
        # A list, because bisecting one takes a tenth of the time of asking an array.
        self._starts: list[int] = np.searchsorted(at, np.arange(len(indexes) + 1)).tolist()
        self._offsets, self._sizes, self._checks = (
            np.ascontiguousarray(images[name]) for name in ("offset", "size", "check")
        )
        self._open_files()

    def _open_files(self) -> None:
        # Those read last stay open.
        self._file = lru_cache(_MOST_OPEN)(RandomAccessFile)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_files()

    def __repr__(self) -> str:
        return f"ShardSource({self.location!r}: {self.summary()})"

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        offset, size = int(self._offsets[index]), int(self._sizes[index])
        shard = self.shards[self._shard(index)]
        try:
            # With its header, to know that it is still the image that was found there.
            data = self._file(shard).bytes_at(offset - BLOCK, BLOCK + size)
        except OSError as error:
            raise OSError(error.strerror or str(error)) from error
        if len(data) < BLOCK + size:
            raise ValueError(
                f"the shard was cut off: it ends at byte {offset - BLOCK + len(data)} and the "
                f"image at {offset + size}"
            )
        if zlib.crc32(data[:BLOCK]) != self._checks[index]:
            raise ValueError(
                f"the shard has something else at byte {offset - BLOCK}: it was changed after it "
                f"was opened, or {index_path(shard).name} is older than it; remove that and open "
                "it again"
            )
        return data[BLOCK:]

    def place(self, index: int) -> str:
        """Returns the shard and the member of image `index`: `faces-0.tar/Ann_Lee/1.jpg`."""
        return f"{self._names[self._shard(index)]}/{self._members[index]}"

    def file_sizes(self) -> npt.NDArray[np.int64]:
        """Returns the bytes of each image; see `FaceSource.file_sizes`."""
        return self._sizes.astype(np.int64)

    def files(self) -> Iterable[str]:
        """Returns the shards."""
        return map(str, self.shards)

    def summary(self) -> str:
        """Returns one line: how much there is, and how much was left out."""
        return super().summary().replace("ies", f"ies in {len(self.shards)} shards", 1)

    def _shard(self, index: int) -> int:
        return bisect_right(self._starts, index if index >= 0 else index + len(self)) - 1


def _manifest(location: str, shards: Sequence[Path]) -> Manifest | None:
    """The list of the shards' folder, after the shards were compared with it."""
    folders = list(dict.fromkeys(shard.parent for shard in shards))
    found = None
    try:
        for folder in folders:
            if (found := read_manifest(folder)) is None:
                continue
            if len(folders) > 1:
                raise ValueError(
                    f"{location!r} names shards of {len(folders)} folders, and {str(folder)!r} has "
                    f"a {MANIFEST_NAME} with labels of its own; open each folder as a source and "
                    "mix them"
                )
            names = [shard.name for shard in shards]
            check_shards(folder, found, names, all_of=os.path.isdir(location))
    except OSError as error:
        raise ValueError(f"cannot read the shards of {location!r}: {error}") from error
    return found


def _people(used: Used, manifest: Manifest | None) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Numbers the people of all shards from 0."""
    first, one = used[0]
    for shard, index in used:
        if index.kind != one.kind:
            raise ValueError(
                f"shards mix labels: {str(first)!r} (first key {one.members[0]!r}) has those by "
                f"{one.kind}, and {str(shard)!r} (first key {index.members[0]!r}) by {index.kind}; "
                "every image needs the same"
            )
    persons = [index.images["person"] for _, index in used]
    if one.kind != "number":
        if manifest is not None:
            raise ValueError(
                f"{MANIFEST_NAME} numbers the identities, but {str(first)!r} holds no numbers"
            )
        names = sorted({name for _, index in used for name in index.people}, key=natural_key)
        label_of = {name: label for label, name in enumerate(names)}
        own = [np.array([label_of[name] for name in index.people]) for _, index in used]
    else:
        numbers = np.unique(np.concatenate([index.numbers for _, index in used]))
        own = [np.searchsorted(numbers, index.numbers) for _, index in used]
        if manifest is None:
            names = _folder_names(used) or [str(number) for number in numbers]
        else:
            for shard, index in used:
                if (most := index.numbers.max()) >= len(manifest.identities):
                    raise ValueError(
                        f"shard {str(shard)!r} has label {most}, and {MANIFEST_NAME} names "
                        f"{len(manifest.identities)} identities"
                    )
            names = [manifest.identities[number] for number in numbers]
    labels = [of[person] for of, person in zip(own, persons, strict=True)]
    return names, np.concatenate(labels).astype(np.int64)


def _misplaced(
    folders: list[str], counts: npt.NDArray[np.int64]
) -> tuple[dict[int, tuple[str, str]], list[str]]:
    """Folders that are no person's, above or inside those of people, and problems with the rest.

    People's folders are as deep as most images are. Of each other folder, by its label, the reason
    and the person's folder that it lies in.
    """
    there = set(folders)
    above = [
        next((str(part) for part in PurePosixPath(name).parents if str(part) in there), "")
        for name in folders
    ]
    levels = np.array([name.count("/") for name in folders])
    usual = int(np.bincount(levels, weights=counts).argmax())
    wrong = {
        label: (TOO_DEEP, above[label])
        for label in np.flatnonzero(levels > usual).tolist()
        if above[label]
    } | {
        label: (OUTSIDE, "")
        for label in np.flatnonzero(levels < usual).tolist()
        if folders[label] in above
    }
    odd = [n for n in np.flatnonzero(levels != usual).tolist() if n not in wrong]
    if not odd:
        return wrong, []
    usual_name = folders[int(np.argmax(levels == usual))]
    few = counted(len(odd), "folder of images is", "folders of images are")
    return wrong, [
        f"{few} not as deep as those of most people, such as {folders[odd[0]]!r} beside "
        f"{usual_name!r}; each counts as a person"
    ]


def _folder_names(used: Used) -> list[str] | None:
    """Names numbers by their folders; None where they do not belong to each other."""
    folder_of: dict[int, str] = {}
    for _, index in used:
        for number, folder in zip(index.numbers.tolist(), index.people, strict=True):
            if not folder or folder_of.setdefault(number, folder) != folder:
                return None
    names = [folder_of[number] for number in sorted(folder_of)]
    return names if len(set(names)) == len(names) else None
