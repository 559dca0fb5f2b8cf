"""Writing shards: the same samples give the same bytes."""

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from centerarc.data.shards.manifest import ShardInfo
from centerarc.data.shards.tar import BLOCK, Entry, ShardIndex, index_path, write_index
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
    entries: list[Entry] = []
    taken: set[str] = set()
    digest, size = hashlib.sha256(), 0
    with atomic_path(target) as temporary:
        with open(temporary, "wb", buffering=1 << 20) as file:
            for sample in samples:
                entry, data = _members(sample, taken, size)
                entries.append(entry)
                file.write(data)
                digest.update(data)
                size += len(data)
            if not entries:
                raise ValueError("samples is empty; a shard needs at least one")
            end = bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)
            file.write(end)
            digest.update(end)
            size += len(end)
        # An index of what was here before must not outlive it.
        index_path(target).unlink(missing_ok=True)
    write_index(target, ShardIndex.of(size, "number", entries))
    return ShardInfo(target.name, len(entries), size, digest.hexdigest())


def _members(sample: ShardSample, taken: set[str], start: int) -> tuple[Entry, bytes]:
    """The image and its label as they are in a shard from byte `start` on."""
    if sample.label < 0:
        raise ValueError(f"label of {sample.key!r} is {sample.label}; it must be at least 0")
    key = free = safe_key(sample.key)
    number = 2
    while free in taken:
        free, number = f"{key}-{number}", number + 1
    taken.add(free)
    member, label = f"{free}.{_extension(sample)}", int(sample.label)
    header, image = member_header(member, len(sample.image)), sample.image
    digits = str(label).encode()
    data = b"".join(
        (
            header,
            image,
            bytes(-len(image) % BLOCK),
            member_header(f"{free}.cls", len(digits)),
            digits.ljust(BLOCK, b"\0"),
        )
    )
    check, folder = zlib.crc32(header[-BLOCK:]), free.partition("/")[0]
    return Entry(member, start + len(header), len(image), check, label, folder), data


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
    """The header of a plain file: one block, or several where name or size do not fit into one."""
    if not (name.isascii() and len(name) <= _NAME and 0 <= size < 8**11):
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    text, digits = name.encode("ascii"), b"%011o" % size
    checksum = b"%06o" % (_REST_SUM + sum(text) + sum(digits))
    header = (text.ljust(_NAME, b"\0"), _BEFORE_SIZE, digits, _AFTER_SIZE, checksum, _AFTER_SUM)
    return b"".join(header)


# Keys that any reader and any file system takes.

_UNSAFE = re.compile(r'[\x00-\x1f\x7f%/\\<>:"|?*\ud800-\udfff]')
# Hidden, notes to readers of shards, and devices of Windows.
_SPECIAL = re.compile(r"\.|__.*__$|(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_MOST_BYTES = 200  # file systems end at 255; an extension and a number follow


def safe_key(key: str) -> str:
    """Makes the key of a sample, `identity/stem`, one that any reader and any file system takes.

    What is unsafe becomes `%` and two hexadecimal digits for each of its bytes, as in web
    addresses, so different keys stay different. Over 200 bytes a part is cut and gets a checksum.
    What comes before the last slash is the identity, slashes included.

    Example:
        >>> safe_key("Ann Lee/0001.front")
        'Ann Lee/0001%2Efront'
    """
    identity, slash, stem = key.rpartition("/")
    if not slash or not identity or not stem:
        raise ValueError(f"key is {key!r}; it must be an identity, a slash and a stem")
    folder = _escape(identity)
    if _SPECIAL.match(folder):
        folder = f"%{ord(folder[0]):02X}{folder[1:]}"
    folder = _short(folder)
    if folder[-1] in ". ":  # Windows drops them
        folder = f"{folder[:-1]}%{ord(folder[-1]):02X}"
    return f"{folder}/{_short(_escape(stem).replace('.', '%2E'))}"


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
