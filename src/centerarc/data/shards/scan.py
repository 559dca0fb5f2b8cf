"""Finding the images of a shard by its headers."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from centerarc.data.shards.index import BLOCK, Entry, Kind, ShardIndex, header_check
from centerarc.data.shards.members import IMAGES, Member, split_name
from centerarc.data.shards.tar_headers import tar_members

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_MOST_DIGITS = 40


class _Found(NamedTuple):
    """A member that belongs to a sample: where it starts, and its parts."""

    name: str
    header: int
    data: int
    size: int
    parts: Member


def scan_shard(path: str | os.PathLike[str]) -> ShardIndex:
    """Reads all headers of a shard, and its labels.

    Args:
        path: An uncompressed tar file.

    Returns:
        Its index; write it beside the shard with `write_index` to spare the next scan.

    Raises:
        ValueError: If it is compressed, cut off or damaged, holds a key twice, or its labels are
            missing, mixed or not understood; the message names the shard, the key and the byte.
        OSError: If it cannot be read.
    """
    images: dict[str, _Found] = {}
    checks: dict[str, int] = {}
    texts: dict[str, dict[str, tuple[_Found, bytes]]] = {"cls": {}, "json": {}}
    with open(path, "rb") as file:
        for found in _members(Path(path), file):
            key, field = found.parts.key, found.parts.field
            if field in IMAGES:
                if key in images:
                    raise ValueError(_twice(path, key, images[key], found))
                images[key] = found
                file.seek(found.data - BLOCK)
                checks[key] = header_check(file.read(BLOCK))
            elif field in texts:
                if key in texts[field]:
                    raise ValueError(_twice(path, key, texts[field][key][0], found))
                file.seek(found.data)
                texts[field][key] = found, file.read(found.size)
        shard_bytes = file.seek(0, os.SEEK_END)
    entries = []
    kind: Kind | None = None
    for key, found in images.items():
        its_kind, label = _label(Path(path), found, texts["cls"].get(key), texts["json"].get(key))
        if kind is not None and its_kind != kind:
            first = next(iter(images))
            raise ValueError(
                f"{str(path)!r} mixes labels: {first!r} has {_WORDS[kind]}, and {key!r} at byte "
                f"{found.header} {_WORDS[its_kind]}; every image needs the same"
            )
        kind = its_kind
        folder = found.parts.folder
        entries.append(Entry(found.name, found.data, found.size, checks[key], label, folder))
    without = len((texts["cls"].keys() | texts["json"].keys()) - images.keys())
    return ShardIndex.of(shard_bytes, kind or "folder", entries, without)


_WHOLE = "a whole number of at least 0"
_WORDS: dict[Kind, str] = {
    "number": "a number (.cls or .json)",
    "name": "a name (.json)",
    "folder": "its folder alone",
}


def _label(
    shard: Path, image: _Found, cls: tuple[_Found, bytes] | None, note: tuple[_Found, bytes] | None
) -> tuple[Kind, int | str]:
    """Finds who is on an image: its .cls, else its .json, else its folder."""
    if cls is not None:
        text = cls[1][:_MOST_DIGITS].decode("utf-8", "replace").strip()
        if len(cls[1]) > _MOST_DIGITS or not (text.isascii() and text.isdigit()):
            raise ValueError(_wrong(shard, cls[0], "the label", text, _WHOLE))
        return "number", _in_range(int(text), shard, cls[0])
    if note is not None:
        try:
            values = json.loads(note[1])
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{str(shard)!r}: label {note[0].name!r} at byte {note[0].header} is no JSON: "
                f"{error}"
            ) from error
        if isinstance(values, dict) and "identity" in values:
            name = values["identity"]
            if not isinstance(name, str) or not name:
                raise ValueError(_wrong(shard, note[0], "identity", name, "a name, not empty"))
            return "name", name
        if isinstance(values, dict) and "label" in values:
            number = values["label"]
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise ValueError(_wrong(shard, note[0], "label", number, _WHOLE))
            return "number", _in_range(number, shard, note[0])
    if image.parts.folder:
        return "folder", image.parts.folder
    raise ValueError(
        f"{str(shard)!r}: image {image.parts.key!r} at byte {image.header} has no label: no "
        f"{image.parts.key}.cls, no .json with identity or label, and no folder"
    )


def _in_range(number: int, shard: Path, found: _Found) -> int:
    if number >= 1 << 62:
        raise ValueError(_wrong(shard, found, "the label", number, "below 2 ** 62"))
    return number


def _wrong(shard: Path, found: _Found, field: str, value: object, rule: str) -> str:
    return (
        f"{str(shard)!r}: {field} in {found.name!r} at byte {found.header} is {value!r}; "
        f"it must be {rule}"
    )


def _twice(shard: str | os.PathLike[str], key: str, first: _Found, second: _Found) -> str:
    what = "image" if second.parts.field in IMAGES else "label"
    return (
        f"{os.fspath(shard)!r}: key {key!r} has two {what}s: {first.name!r} at byte "
        f"{first.header} and {second.name!r} at byte {second.header}"
    )


def _members(shard: Path, file: BinaryIO) -> Iterator[_Found]:
    """Yields the members that belong to samples; refuses a tar file that is not whole.

    `tarfile` takes whatever is no header for the end, so the end is looked at here.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(f"{str(shard)!r} is compressed by {name}; decompress it")
    end = 0
    for info in tar_members(shard, file):
        if not (info.isfile() or info.isdir()) or info.issparse():
            raise ValueError(
                f"{str(shard)!r}: {info.name!r} at byte {info.offset} is a link or another "
                "thing that is no plain file; pack with tar --dereference --hard-dereference"
            )
        end = _end(shard, info, size)
        name = info.name.removeprefix("./").lstrip("/")
        if info.isfile() and (parts := split_name(name)) is not None:
            yield _Found(name, info.offset, info.offset_data, info.size, parts)
    _check_end(shard, file, end, size)


def _end(shard: Path, info: tarfile.TarInfo, size: int) -> int:
    """Returns where the next header is."""
    end = info.offset_data + (info.size if info.isfile() else 0)
    if end > size:
        raise ValueError(
            f"{str(shard)!r} is cut off: {info.name!r} at byte {info.offset} ends at byte {end} "
            f"and the file at {size}"
        )
    return -(-end // BLOCK) * BLOCK


def _check_end(shard: Path, file: BinaryIO, end: int, size: int) -> None:
    file.seek(end)
    mark = file.read(BLOCK)
    if len(mark) < BLOCK:
        raise ValueError(
            f"{str(shard)!r} is cut off: it ends at byte {size} without a tar file's end mark"
        )
    if any(mark):
        raise ValueError(f"{str(shard)!r} is damaged: there is no tar header at byte {end}")
    at = end
    while rest := file.read(1 << 20):
        if any(rest):
            raise ValueError(
                f"{str(shard)!r} goes on after its end at byte {at}, as when tar files are joined; "
                "split them, or unpack and pack again"
            )
