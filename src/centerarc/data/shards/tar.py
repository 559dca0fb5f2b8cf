"""The images in a tar shard: found by its headers, and the index that is kept beside it."""

import json
import os
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt

from centerarc.data.source import DOTTED, EXTENSIONS, PICTURES, UNNAMED, UNREAD, Skipped
from centerarc.io.files import atomic_path, read_arrays
from centerarc.io.tables import Texts

# What says who is on an image: a number, a name written beside it, or its folder.
Kind = Literal["number", "name", "folder"]

BLOCK = 512  # tar files are made of blocks; the one before an image is its header
# Of an image: its first byte, its number of bytes, CRC-32 of the header before it, who is on it.
IMAGE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("check", "<u4"), ("person", "<i8")])
_VERSION = 3


class Entry(NamedTuple):
    """One image in a shard: its member's name, where it is, and who is on it."""

    member: str
    offset: int
    size: int
    check: int
    label: int | str
    folder: str


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The images of one shard, in its order, n of them, of p people."""

    shard_bytes: int
    kind: Kind
    # What is left out: pictures that are not read, labels without an image, hidden files.
    skipped: tuple[Skipped, ...]
    # (n,) of IMAGE; person is in [0, p).
    images: npt.NDArray[np.void]
    # (p,) the label that the shard writes for each person; -1 for names.
    numbers: npt.NDArray[np.int64]
    # The name of each person; for numbers that of their one folder, else empty.
    people: Texts
    # The name of each image in the tar file, without a leading ./
    members: Texts

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.images)

    @classmethod
    def of(
        cls,
        shard_bytes: int,
        kind: Kind,
        entries: Sequence[Entry],
        skipped: Sequence[Skipped] = (),
    ) -> Self:
        """The index of a shard from its images."""
        person_of: dict[int | str, int] = {}
        folders: list[str] = []
        images = np.empty(len(entries), dtype=IMAGE)
        for row, entry in enumerate(entries):
            person = person_of.setdefault(entry.label, len(person_of))
            images[row] = entry.offset, entry.size, entry.check, person
            if person == len(folders):
                folders.append(entry.folder)
            elif folders[person] != entry.folder:
                folders[person] = ""
        numbers = [label if isinstance(label, int) else -1 for label in person_of]
        people = [folders[p] if isinstance(name, int) else name for name, p in person_of.items()]
        return cls(
            shard_bytes,
            kind,
            tuple(skipped),
            images,
            np.array(numbers, dtype=np.int64),
            Texts.of(people),
            Texts.of(entry.member for entry in entries),
        )


def index_path(shard: str | os.PathLike[str]) -> Path:
    """Where the index of a shard is: `faces-0.index.npz` beside `faces-0.tar`."""
    path = Path(shard)
    return path.with_name(f"{path.stem}.index.npz")


def write_index(shard: str | os.PathLike[str], index: ShardIndex) -> None:
    """Writes what `scan_shard` found in a shard beside it, to spare the next scan."""
    kind = get_args(Kind).index(index.kind)
    fields = (text for item in index.skipped for text in map(str, astuple(item)))
    skipped = Texts.of(fields)
    with atomic_path(index_path(shard)) as temporary:
        np.savez(
            temporary,
            about=np.array([_VERSION, kind, index.shard_bytes, len(index.skipped)]),
            images=index.images,
            numbers=index.numbers,
            people=index.people.data,
            people_ends=index.people.ends,
            members=index.members.data,
            member_ends=index.members.ends,
            skipped=skipped.data,
            skipped_ends=skipped.ends,
        )


def read_index(shard: str | os.PathLike[str]) -> ShardIndex | None:
    """The index beside a shard; None where there is none, or it is damaged or of another shard.

    Size and the headers of the first and the last image decide, so that copies stay good.
    """
    try:
        index = _unpacked(read_arrays(index_path(shard)))
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    with open(shard, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != index.shard_bytes:
            return None
        for image in index.images[[0, -1]] if len(index) else ():
            file.seek(int(image["offset"]) - BLOCK)
            if zlib.crc32(file.read(BLOCK)) != image["check"]:
                return None
    return index


def _unpacked(arrays: dict[str, npt.NDArray[Any]]) -> ShardIndex:
    """Takes an index from its arrays; raises an error if they cannot be one."""
    version, kind, shard_bytes, left_out = arrays["about"].astype(int).tolist()
    if version == _VERSION - 1 and not left_out:  # of a packer, which leaves nothing out
        none = np.zeros(0, dtype=np.int64)
        arrays = {**arrays, "skipped": none.astype(np.uint8), "skipped_ends": none}
    elif version != _VERSION:
        raise ValueError("another version")
    ends = {
        name: arrays[name].astype(np.int64, casting="safe") for name in arrays if "ends" in name
    }
    text = {
        name: arrays[name].astype(np.uint8, casting="safe")
        for name in ("people", "members", "skipped")
    }
    index = ShardIndex(
        shard_bytes,
        get_args(Kind)[kind],
        tuple(_as_skipped(Texts(text["skipped"], ends["skipped_ends"]))),
        arrays["images"],
        arrays["numbers"].astype(np.int64, casting="safe"),
        Texts(text["people"], ends["people_ends"]),
        Texts(text["members"], ends["member_ends"]),
    )
    images, people = index.images, len(index.people)
    if images.dtype != IMAGE or len(index.skipped) != left_out:
        raise ValueError("another layout")
    if images.shape != (len(index.members),) or index.numbers.shape != (people,):
        raise ValueError("lengths differ")
    offsets, sizes, persons = images["offset"], images["size"], images["person"]
    inside = (offsets >= BLOCK) & (sizes >= 0) & (sizes <= shard_bytes - offsets)
    if not (inside & (persons >= 0) & (persons < people)).all():
        raise ValueError("an image lies outside")
    return index


def _as_skipped(texts: Texts) -> Iterator[Skipped]:
    for place, reason, detail, images, identity in zip(*[iter(texts)] * 5, strict=True):
        yield Skipped(place, reason, detail, int(images), identity)


# Members' names: which belong together.

# By the extension, in lower case and without its dot.
IMAGES = frozenset({extension[1:] for extension in EXTENSIONS} | {"gif"})


class _Member(NamedTuple):
    """A member that belongs to a sample, its name in parts, and where its header and data are."""

    name: str
    folder: str
    key: str  # what all members of a sample share: the name up to the first dot of its base name
    field: str  # what follows that dot, in lower case: jpg, cls, json, ...
    header: int
    data: int
    size: int


def _member(info: tarfile.TarInfo) -> _Member | None:
    """None for what is no file, and for `__notes__/...` to readers."""
    name = info.name.removeprefix("./").lstrip("/")
    if not info.isfile() or re.match(r"__[^/]*__(/|$)", name):
        return None
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    key = f"{folder}{slash}{stem}"
    return _Member(name, folder, key, field.lower(), info.offset, info.offset_data, info.size)


def _left_out(member: _Member) -> Skipped | None:
    """Says why a member is left out that is a picture or hidden; None for an image or a label."""
    if re.search(r"(^|/)\.", member.name):
        return Skipped(member.name, "hidden")
    if not member.field:
        return Skipped(member.name, UNNAMED)
    extension = f".{member.field.rpartition('.')[2]}"
    if extension not in PICTURES or member.field in IMAGES:
        return None
    reason, detail = UNREAD, extension
    if extension in EXTENSIONS:
        reason, detail = DOTTED, f"{member.field!r} is a field of the sample {member.key!r}"
    return Skipped(member.name, reason, detail, images=1, identity=member.folder)


# The members of a tar file by `tarfile`, guarded against what no tar would write.

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# Headers that `tarfile` reads into memory whole: long names, long links and PAX records.
_READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_MOST_HEADER = 1 << 20
# `tarfile` raises all of these on damaged headers.
_DAMAGE = (
    tarfile.TarError,
    EOFError,
    IndexError,
    MemoryError,
    OverflowError,
    RecursionError,
    ValueError,
)


class _AbsurdSizeError(Exception):
    """Its text says of what size a header is, and what is allowed."""


class _Header(tarfile.TarInfo):
    """A header; long names and PAX records are refused before `tarfile` reads them into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _READ_WHOLE and not 0 <= header.size <= _MOST_HEADER:
            raise _AbsurdSizeError(_size_words(header.size))
        return header


def _size_words(size: int) -> str:
    allowed = "at least 0" if size < 0 else f"at most {_MOST_HEADER}"
    return f"has {size} bytes; it must be {allowed}"


def _members(shard: Path, file: BinaryIO) -> Iterator[_Member]:
    """Yields the members that belong to samples; refuses a tar file that is not whole.

    `tarfile` takes whatever is not a header for the end, so the end is looked at here.
    """
    name, size, end = repr(os.fspath(shard)), file.seek(0, os.SEEK_END), 0
    file.seek(0)
    start = file.read(8)
    for magic, compression in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(f"{name} is compressed by {compression}; decompress it")
    file.seek(0)
    tar: tarfile.TarFile | None = None
    while True:
        try:
            if tar is None:
                tar = tarfile.TarFile(
                    fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
                )
            info = tar.next()
        except _AbsurdSizeError as error:
            at = file.tell() - BLOCK
            raise ValueError(
                f"{name} is damaged: the long name or PAX record at byte {at} {error}"
            ) from None
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            at = tar.offset if tar is not None else 0
            raise ValueError(
                f"{name} is cut off or no tar file: {reason} after byte {at}"
            ) from error
        if info is None:
            break
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        what = f"{info.name!r} at byte {info.offset}"
        if info.size < 0:  # going on there could come back here for ever
            raise ValueError(f"{name} is damaged: {what} {_size_words(info.size)}")
        if not (info.isfile() or info.isdir()) or info.issparse():
            raise ValueError(
                f"{name}: {what} is a link or something else that is not a plain file; pack with "
                "tar --dereference --hard-dereference"
            )
        end = info.offset_data + (info.size if info.isfile() else 0)
        if end > size:
            raise ValueError(f"{name} is cut off: {what} ends at byte {end} and the file at {size}")
        end = -(-end // BLOCK) * BLOCK
        if (member := _member(info)) is not None:
            yield member
    file.seek(end)
    mark = file.read(BLOCK)
    if len(mark) < BLOCK:
        raise ValueError(f"{name} is cut off: it ends at byte {size} without a tar file's end mark")
    if any(mark):
        raise ValueError(f"{name} is damaged: there is no tar header at byte {end}")
    while rest := file.read(1 << 20):
        if any(rest):
            raise ValueError(
                f"{name} continues after its end at byte {end}, as when tar files are joined; "
                "split them, or unpack and pack again"
            )


# The images of a shard, and who is on them.

_MOST_DIGITS = _MOST_SHOWN = 40
_WORDS: dict[Kind, str] = {
    "number": "a number (.cls or .json)",
    "name": "a name (.txt or .json)",
    "folder": "its folder alone",
}


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
    shard = repr(os.fspath(path))
    images: dict[str, tuple[_Member, int]] = {}
    labels: dict[str, dict[str, tuple[_Member, bytes]]] = {"cls": {}, "json": {}, "txt": {}}
    skipped: dict[str, list[Skipped]] = defaultdict(list)  # by key
    with open(path, "rb") as file:
        for member in _members(Path(path), file):
            key = member.key
            before: tuple[_Member, Any] | None = None
            if (reason := _left_out(member)) is not None:
                skipped[key].append(reason)
            elif member.field in IMAGES:
                before = images.get(key)
                file.seek(member.data - BLOCK)
                images[key] = member, zlib.crc32(file.read(BLOCK))
            elif member.field in labels:
                before = labels[member.field].get(key)
                file.seek(member.data)
                labels[member.field][key] = member, file.read(member.size)
            if before is not None:
                what = "images" if member.field in IMAGES else "labels"
                first = f"{before[0].name!r} at byte {before[0].header}"
                second = f"{member.name!r} at byte {member.header}"
                raise ValueError(f"{shard}: key {key!r} has two {what}: {first} and {second}")
        shard_bytes = file.seek(0, os.SEEK_END)
    entries = []
    kinds: list[Kind] = []
    for key, (image, check) in images.items():
        try:
            kind, label = _label(image, *(found.get(key) for found in labels.values()))
        except ValueError as error:
            raise ValueError(f"{shard}: {error}") from error
        kinds = kinds or [kind]
        if kind != kinds[0]:
            raise ValueError(
                f"{shard} mixes labels: {next(iter(images))!r} has {_WORDS[kinds[0]]}, and {key!r} "
                f"at byte {image.header} {_WORDS[kind]}; every image needs the same"
            )
        entries.append(Entry(image.name, image.data, image.size, check, label, image.folder))
    if not labels["txt"].keys() & images.keys():  # notes to people, not labels
        labels["txt"].clear()
    for key in dict.fromkeys(key for found in labels.values() for key in found):
        if key not in images and key not in skipped:
            skipped[key].append(Skipped(key, "a sample without an image"))
    left_out = [item for key in skipped for item in skipped[key]]
    return ShardIndex.of(shard_bytes, kinds[0] if kinds else "folder", entries, left_out)


def _label(
    image: _Member,
    cls: tuple[_Member, bytes] | None,
    note: tuple[_Member, bytes] | None,
    line: tuple[_Member, bytes] | None,
) -> tuple[Kind, int | str]:
    """Finds who is on an image: its .cls, else its .json, else its .txt, else its folder."""
    if cls is not None:
        member, data = cls
        text = data[:_MOST_DIGITS].decode("utf-8", "replace").strip()
        digits = len(data) <= _MOST_DIGITS and text.isascii() and text.isdigit()
        return "number", _number(member, "the label", int(text) if digits else text)
    if note is not None:
        member, data = note
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"label {member.name!r} at byte {member.header} is no JSON: {error}"
            ) from error
        if isinstance(values, dict) and "identity" in values:
            name = values["identity"]
            if not isinstance(name, str) or not name:
                raise ValueError(_wrong(member, "identity", name, "a name, not empty"))
            return "name", name
        if isinstance(values, dict) and "label" in values:
            return "number", _number(member, "label", values["label"])
    if line is not None:
        member, data = line
        name = data.decode("utf-8-sig", "surrogateescape").strip()
        if not name or len(name.splitlines()) > 1:
            raise ValueError(_wrong(member, "the name", name[:_MOST_SHOWN], "one line, not empty"))
        return "name", name
    if image.folder:
        return "folder", image.folder
    raise ValueError(
        f"image {image.key!r} at byte {image.header} has no label: no {image.key}.cls or .txt, no "
        ".json with identity or label, and no folder"
    )


def _number(member: _Member, field: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(_wrong(member, field, value, "a whole number of at least 0"))
    if value >= 1 << 62:
        raise ValueError(_wrong(member, field, value, "below 2 ** 62"))
    return value


def _wrong(member: _Member, field: str, value: object, rule: str) -> str:
    return f"{field} in {member.name!r} at byte {member.header} is {value!r}; it must be {rule}"
