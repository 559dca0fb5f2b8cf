"""The members of a tar file: headers, names, the images among them, and the index that is kept."""

import hashlib
import json
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from centerarc.io.files import atomic_path
from centerarc.io.tables import Texts

# Where the images of one shard are, kept in a file beside it.

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


# Headers of members of a tar file: the bytes that `tarfile` gives, which takes too long.

_NAME = tarfile.LENGTH_NAME
_SIZE, _SIZE_END = 124, 135
_SUM, _SUM_END = 148, 154
_BLANK = tarfile.TarInfo("").tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
_BEFORE_SIZE, _AFTER_SIZE = _BLANK[_NAME:_SIZE], _BLANK[_SIZE_END:_SUM]
_AFTER_SUM = _BLANK[_SUM_END:]
# The sum counts its own eight bytes as spaces, and the name and the size are added to it.
_REST_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_BLANK[_SUM + 8 :])


def member_header(name: str, size: int) -> bytes:
    """Returns the header of a plain file, of time 0 and nobody's.

    Args:
        name: Its name.
        size: Its number of bytes, at least 0.

    Returns:
        One block of 512 bytes; several where the name or the size does not fit into one.
    """
    if not (name.isascii() and len(name) <= _NAME and 0 <= size < 8**11):
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    text, digits = name.encode("ascii"), b"%011o" % size
    checksum = b"%06o" % (_REST_SUM + sum(text) + sum(digits))
    header = (text.ljust(_NAME, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE, checksum, _AFTER_SUM)
    return b"".join(header)


# The members of a tar file by `tarfile`, guarded against headers that no tar would write.

# Headers that `tarfile` reads into memory whole: long names, long links and PAX records.
_READ_WHOLE = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
_TYPE = 156  # byte of a header that tells its type
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


def tar_members(shard: str | os.PathLike[str], file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields the members of an uncompressed tar file, none of negative size.

    Args:
        shard: What a message calls the file.
        file: The file; what takes the members may move it.

    Raises:
        ValueError: If a header is damaged, tells a negative size, or a name or PAX record of more
            than 1 MiB; the message names the shard and the byte.
    """
    name, at = os.fspath(shard), 0
    tar: tarfile.TarFile | None = None
    while True:
        _check_headers(name, file, at)
        try:
            if tar is None:
                file.seek(0)
                tar = tarfile.open(  # noqa: SIM115  # closing it would do nothing: the file is given
                    fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
                )
            info = tar.next()
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{name!r} is cut off or no tar file: {reason} after byte {at}"
            ) from error
        if info is None:
            return
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        if info.size < 0:  # going on there could come back here for ever
            raise ValueError(_wrong_size(name, repr(info.name), info.offset, info.size))
        yield info
        at = tar.offset


def _check_headers(shard: str, file: BinaryIO, at: int) -> None:
    """Refuses headers of absurd size at a byte, before `tarfile` reads them into memory."""
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if header[_TYPE : _TYPE + 1] not in _READ_WHOLE:
            return
        try:
            size = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
        except _DAMAGE:
            return  # `tarfile` tells what is wrong
        if not 0 <= size <= _MOST_HEADER:
            raise ValueError(_wrong_size(shard, "the long name or PAX record", at, size))
        at += BLOCK + -(-size // BLOCK) * BLOCK


def _wrong_size(shard: str, what: str, at: int, size: int) -> str:
    allowed = "at least 0" if size < 0 else f"at most {_MOST_HEADER}"
    return f"{shard!r} is damaged: {what} at byte {at} has {size} bytes; it must be {allowed}"


# Names of members: which belong together, and what a safe one is.

# By the extension, in lower case and without its dot.
IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif"})

# What file systems, `tar` and readers of shards stumble over.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f%/\\<>:"|?*\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_META = re.compile(r"__.*__")
_MOST_BYTES = 200  # file systems end at 255; an extension and a number follow


class Member(NamedTuple):
    """A member's name in its parts.

    Args:
        folder: What is above its base name; empty if nothing is.
        key: What all members of a sample share: the name up to the first dot of its base name.
        field: What follows that dot, in lower case: `jpg`, `cls`, `json`, ...
    """

    folder: str
    key: str
    field: str


def split_name(name: str) -> Member | None:
    """Takes a member's name apart by WebDataset's convention.

    Args:
        name: As it is in the tar file, without a leading `./`.

    Returns:
        Its parts; None for what belongs to no sample: no extension, hidden, or notes to readers
        (`__notes__/...`).

    Example:
        >>> split_name("Ann_Lee/0001.jpg")
        Member(folder='Ann_Lee', key='Ann_Lee/0001', field='jpg')
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, field = base.partition(".")
    if not stem or not dot or re.match(r"__[^/]*__(/|$)", name):
        return None
    return Member(folder, f"{folder}{slash}{stem}", field.lower())


def safe_key(key: str) -> str:
    """Makes the key of a sample that any reader and any file system takes.

    What is unsafe becomes `%` and two hexadecimal digits for each of its bytes, as in web
    addresses, so different keys stay different. Over 200 bytes a part is cut and gets a checksum.

    Args:
        key: `identity/stem`; what comes before the last slash is the identity, slashes included.

    Returns:
        The key, with one slash.

    Raises:
        ValueError: If there is no slash, or a part is empty.

    Example:
        >>> safe_key("Ann Lee/0001.front")
        'Ann Lee/0001%2Efront'
    """
    identity, slash, stem = key.rpartition("/")
    if not slash or not identity or not stem:
        raise ValueError(f"key is {key!r}; it must be an identity, a slash and a stem")
    return f"{_safe_folder(identity)}/{_short(_escape(stem).replace('.', '%2E'))}"


def _safe_folder(identity: str) -> str:
    safe = _escape(identity)
    if safe[0] == "." or _DEVICES.match(safe) or _META.fullmatch(safe):
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    safe = _short(safe)
    if safe[-1] in ". ":  # Windows drops them
        safe = f"{safe[:-1]}%{ord(safe[-1]):02X}"
    return safe


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: _percent(match[0]), text)


def _percent(character: str) -> str:
    try:
        data = character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = character.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)


def _short(text: str) -> str:
    data = text.encode("utf-8")
    if len(data) <= _MOST_BYTES:
        return text
    checksum = hashlib.sha256(data).hexdigest()[:16]
    return data[: _MOST_BYTES - 17].decode("utf-8", "ignore") + "-" + checksum


# Finding the images of a shard by its headers.

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
