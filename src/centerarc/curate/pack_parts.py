"""The two halves of a pack: images read once into a spool, and parts of the result made of them."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL.Image
import simplejpeg

from centerarc.data.decode import Image, decode_image, resized
from centerarc.data.recordio.writer import check_identity, finish, image_keys, write_part
from centerarc.data.shards.manifest import ShardInfo, write_manifest
from centerarc.data.shards.writer import ShardSample, write_shard
from centerarc.data.source import EXTENSIONS, FaceSource
from centerarc.io.files import atomic_path, files_sha256
from centerarc.io.jobs import read_json, write_json
from centerarc.io.parallel import Tick

Ints = npt.NDArray[np.int64]

# The file that a pack holds of one image: the original's bytes wherever that is possible.

_QUALITY = 95
_JPEG = b"\xff\xd8\xff"
# What other readers of packed faces know too.
_COMMON = (b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"GIF8")
# Faces are far smaller; 4096 x 4096 pixels are 50 MB.
_LARGEST = 4096


@dataclass(frozen=True)
class Encoding:
    """How images are written; what needs no change keeps its bytes.

    A JPEG, PNG, WebP, BMP, TIFF or GIF of the wanted size stays as it is. What is resized becomes a
    JPEG. Another format, and pixels that come without a file, become a PNG, so nothing is lost
    unasked. With `quality` given, whatever is not a JPEG becomes one.

    Args:
        size: Side in pixels of every image; None leaves each as it is.
        quality: Of new JPEGs, 1 to 100; None is 95, for resized images only. Color keeps its
            full resolution (4:4:4).

    Raises:
        ValueError: If a number is out of range.
    """

    size: int | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        for name, value, most in (("size", self.size, _LARGEST), ("quality", self.quality, 100)):
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} must be in [1, {most}] or None, got {value}")


class PackedImage(NamedTuple):
    """The file of one image, its size in pixels, upright, and whether it was encoded again."""

    data: bytes
    width: int
    height: int
    reencoded: bool


def packed_image(source: FaceSource, index: int, encoding: Encoding) -> PackedImage:
    """Reads and decodes an image once, and encodes it again only where it must.

    Raises `ValueError` if it is damaged, saying why without the place, and `OSError` if it cannot
    be read: that is not the image's fault, so it must not be left out.
    """
    try:
        data = source.encoded(index)
    except OSError as error:
        raise OSError(f"cannot read {source.place(index)!r}: {error}") from error
    pixels = source.image(index) if data is None else decode_image(data)
    height, width = pixels.shape[:2]
    size, quality = encoding.size, encoding.quality
    if size is not None and (height, width) != (size, size):
        jpeg = _jpeg(resized(pixels, size, size), quality or _QUALITY)
        return PackedImage(jpeg, size, size, reencoded=True)
    if data is not None and (data.startswith(_JPEG) or (quality is None and _is_common(data))):
        return PackedImage(data, width, height, reencoded=False)
    new = _png(pixels) if quality is None else _jpeg(pixels, quality)
    return PackedImage(new, width, height, reencoded=True)


def _is_common(data: bytes) -> bool:
    return data.startswith(_COMMON) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _jpeg(pixels: Image, quality: int) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(
        pixels, quality=quality, colorspace="RGB", colorsubsampling="444", fastdct=False
    )
    return data


def _png(pixels: Image) -> bytes:
    file = BytesIO()
    PIL.Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


# The first half: every image is read and decoded once, and its file kept. What was seen to be sound
# is what is written later, even if the source changes in between, and slow sources are read once.

_MOST_IN_CHUNK = 1024
_COLUMNS = ("lengths", "widths", "heights", "reencoded")


class Seen(NamedTuple):
    """Bytes, width, height and 1 if encoded again, (P,) each; what is wrong at which position."""

    lengths: Ints
    widths: Ints
    heights: Ints
    reencoded: Ints
    damaged: dict[int, str]


@dataclass(frozen=True)
class Spool:
    """Files of images in chunks, by their position in `order`, which has numbers of images."""

    folder: Path
    source: FaceSource
    order: Ints
    encoding: Encoding

    @property
    def chunk_size(self) -> int:
        """Images in a chunk; depends on nothing but how many there are."""
        return min(max(len(self.order) // 64, 16), _MOST_IN_CHUNK)

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-len(self.order) // self.chunk_size)

    def positions(self, chunk: int) -> range:
        """Returns the positions that a chunk holds."""
        first = chunk * self.chunk_size
        return range(first, min(first + self.chunk_size, len(self.order)))

    def data(self, chunk: int) -> Path:
        """Returns the file with the files of a chunk, one after the other."""
        return self.folder / f"{chunk:06d}.bin"

    def notes(self, chunk: int) -> Path:
        """Returns the file with what is known of a chunk; written last."""
        return self.folder / f"{chunk:06d}.json"

    def fill(self, chunk: int, tick: Tick) -> None:
        """Reads the images of a chunk and writes their files and what is known of them."""
        rows: list[tuple[int, int, int, int]] = []
        damaged: dict[int, str] = {}
        with atomic_path(self.data(chunk)) as temporary, open(temporary, "wb") as file:
            for position in self.positions(chunk):
                tick()
                try:
                    image = packed_image(self.source, int(self.order[position]), self.encoding)
                except ValueError as error:
                    damaged[position] = str(error)
                    rows.append((0, 0, 0, 0))
                else:
                    length = file.write(image.data)
                    rows.append((length, image.width, image.height, int(image.reencoded)))
        columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
        write_json(self.notes(chunk), {**columns, "damaged": damaged})

    def seen(self) -> Seen:
        """Gathers what is known of all chunks, which must be there."""
        every = [_present(self.notes(chunk)) for chunk in range(self.chunks)]
        lengths, widths, heights, reencoded = (
            np.concatenate([np.array(notes[name], dtype=np.int64) for notes in every])
            for name in _COLUMNS
        )
        damaged = {int(at): why for notes in every for at, why in notes["damaged"].items()}
        return Seen(lengths, widths, heights, reencoded, damaged)

    def files(self, positions: Iterable[int]) -> Iterator[bytes]:
        """Gives the files of ascending positions, whose images are sound."""
        chunk = -1
        with ExitStack() as opened:
            for position in positions:
                if position // self.chunk_size != chunk:
                    chunk = position // self.chunk_size
                    opened.close()
                    file = opened.enter_context(open(self.data(chunk), "rb"))
                    lengths = _present(self.notes(chunk))["lengths"]
                    ends = np.cumsum(lengths)
                at = position - chunk * self.chunk_size
                file.seek(int(ends[at]) - lengths[at])
                yield file.read(lengths[at])


def _present(path: Path) -> dict[str, Any]:
    if (notes := read_json(path)) is None:
        raise OSError(f"{str(path)!r} is missing; --overwrite starts over")
    return notes


# The second half: the files kept become parts of the result, in any order and by any process.

# Label, identity, place and file of an image.
Sample = tuple[int, str, str, bytes]


@dataclass(frozen=True)
class Parts:
    """The parts of a pack: sound images by their position in the spool, and how they are divided.

    `folder` is for what is not needed in the end, `final` for the result. `positions` ascend;
    `labels` are those of the pack, whose names are `identities`; `ends` has the image after the
    last of each part.
    """

    folder: Path
    final: Path
    spool: Spool
    format: "Shards | Records"
    positions: Ints
    labels: Ints
    identities: Sequence[str]
    ends: Ints

    def __len__(self) -> int:
        return len(self.ends)

    def images(self, part: int) -> range:
        """Returns the numbers in the pack of a part's images."""
        return range(int(self.ends[part - 1]) if part else 0, int(self.ends[part]))

    def places(self, images: range | slice) -> Iterator[str]:
        """Gives the places of some images."""
        chosen = self.positions[images.start : images.stop]
        for index in self.spool.order[chosen].tolist():
            yield self.spool.source.place(index)

    def notes(self, part: int) -> Path:
        """Returns the file with what is known of a part; written last."""
        return self.folder / f"{part:06d}.json"

    def write(self, part: int, tick: Tick) -> int:
        """Writes a part and what is known of it, and returns its number."""
        images = self.images(part)
        samples = self._samples(images, tick)
        write_json(self.notes(part), self.format.write(self, part, images.start, samples))
        return part

    def _samples(self, images: range, tick: Tick) -> Iterator[Sample]:
        files = self.spool.files(self.positions[images.start : images.stop].tolist())
        labels = self.labels[images.start : images.stop].tolist()
        for label, place, data in zip(labels, self.places(images), files, strict=True):
            tick()
            yield label, self.identities[label], place, data

    def facts(self) -> list[dict[str, Any]]:
        """Returns what is known of each part."""
        return [_present(self.notes(part)) for part in range(len(self))]

    def free_spool(self, done: Collection[int], freed: int) -> int:
        """Deletes the chunks before the first image that no part has; returns how many are gone."""
        missing = next((part for part in range(len(self)) if part not in done), None)
        needed = self.spool.chunks
        if missing is not None:
            needed = int(self.positions[self.images(missing).start]) // self.spool.chunk_size
        for chunk in range(freed, needed):
            self.spool.data(chunk).unlink(missing_ok=True)
        return needed


def ends_by(lengths: Ints, *, images: int | None = None, size: int | None = None) -> Ints:
    """Divides images into parts of so many images, or that end after so many bytes.

    Returns the image after the last of each part.

    Example:
        >>> ends_by(np.array([5, 5, 5, 5]), images=3).tolist()
        [3, 4]
        >>> ends_by(np.array([5, 5, 5, 5]), size=9).tolist()
        [2, 4]
    """
    count = len(lengths)
    ends = list(range(images, count, images)) if images is not None else []
    if size is not None:
        before, total = 0, np.cumsum(lengths)
        while (end := int(np.searchsorted(total, before + size)) + 1) < count:
            ends.append(end)
            before = int(total[end - 1])
    return np.array([*ends, count], dtype=np.int64)


# The formats that a pack can have.

FORMATS = ("rec", "shards")
_IMAGES_PER_SHARD = 10_000
_PART_BYTES = 64_000_000
_OWN = re.compile(
    r"train\.(rec|idx|lst|sha256|labels\.npz)|property|left-out\.csv|dataset\.json|"
    r"faces-[0-9]{6}\.(tar|index\.npz)"
)


def create_format(
    name: str, *, images_per_shard: int | None, shard_mb: float | None
) -> "Shards | Records":
    """Returns a format by its name; raises `ValueError` for a wrong name or size."""
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    if images_per_shard is not None and images_per_shard < 1:
        raise ValueError(f"images_per_shard must be at least 1, got {images_per_shard}")
    if shard_mb is not None and not 0 < shard_mb < float("inf"):
        raise ValueError(f"shard_mb must be above 0, got {shard_mb}")
    if images_per_shard is not None and shard_mb is not None:
        raise ValueError("images_per_shard and shard_mb are both given; a shard ends by one")
    if name == "shards":
        return Shards(images_per_shard, shard_mb)
    if images_per_shard is not None or shard_mb is not None:
        raise ValueError("images_per_shard and shard_mb are for shards; format is 'rec'")
    return Records()


def is_own_file(name: str) -> bool:
    """Returns whether a pack of some format writes a file of this name."""
    return _OWN.fullmatch(name) is not None


class Shards:
    """WebDataset shards `faces-000000.tar` with `dataset.json`, of so many images or megabytes."""

    name = "shards"
    main_file = ""  # training opens the folder itself

    def __init__(self, images: int | None, megabytes: float | None) -> None:
        self._images = images if images or megabytes else _IMAGES_PER_SHARD
        self._bytes = None if megabytes is None else int(megabytes * 1e6)
        self.part_size = f"{self._images} images" if self._images else f"{megabytes:g} MB"

    def check(self, identities: Iterable[str]) -> None:
        """Accepts all names: those that tar files cannot hold are made safe."""

    def ends(self, lengths: Ints) -> Ints:
        """Divides images into shards, by the bytes of each."""
        return ends_by(lengths, images=self._images, size=self._bytes)

    def write(
        self, parts: Parts, number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """Writes a shard; returns what `finish` must know of it."""
        named = (ShardSample(_key(who, place), data, n) for n, who, place, data in samples)
        return asdict(write_shard(parts.final / f"faces-{number:06d}.tar", named))

    def finish(self, parts: Parts, size: tuple[int, int]) -> None:
        """Makes the final files; may be called again after it was killed."""
        infos = [ShardInfo(**facts) for facts in parts.facts()]
        write_manifest(parts.final, infos, parts.identities)


class Records:
    """insightface's RecordIO: `train.rec` with what belongs to it, and checksums."""

    name = "rec"
    main_file = "train.rec"
    part_size = f"{_PART_BYTES} bytes"

    def check(self, identities: Iterable[str]) -> None:
        """Raises `ValueError` if a name cannot be in this format, before any work is done."""
        try:
            for name in identities:
                check_identity(name)
        except ValueError as error:
            raise ValueError(f"{error}; format shards takes any") from error

    def ends(self, lengths: Ints) -> Ints:
        """Divides images into parts, by the bytes of each."""
        return ends_by(lengths, size=_PART_BYTES)

    def write(
        self, parts: Parts, number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """Writes a part; returns what `finish` must know of it."""
        path = parts.folder / f"{number:06d}.rec"
        labeled = ((label, data) for label, _, _, data in samples)
        offsets = write_part(path, labeled, first_key=image_keys(parts.labels)[0] + first)
        return {"name": path.name, "offsets": offsets.tolist()}

    def finish(self, parts: Parts, size: tuple[int, int]) -> None:
        """Joins the parts, given the most frequent width and height; may be called again."""
        path, (width, height) = parts.final / self.main_file, size
        finish(
            path,
            [(parts.folder / part["name"], np.array(part["offsets"])) for part in parts.facts()],
            parts.labels,
            identities=parts.identities,
            image_size=(height, width),
            places=parts.places(slice(None)),
        )
        names = (self.main_file, "train.idx", "train.lst", "property")
        _write_checksums(path.with_suffix(".sha256"), names)


def _write_checksums(path: Path, names: Iterable[str]) -> None:
    """Writes the SHA-256 of files in the same folder, as `sha256sum -c` reads them."""
    lines = [f"{files_sha256(path.with_name(name))}  {name}\n" for name in names]
    with atomic_path(path) as temporary:
        temporary.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


def _key(identity: str, place: str) -> str:
    base = place.rpartition("/")[2]
    stem, suffix = os.path.splitext(base)
    return f"{identity}/{stem if suffix.lower() in EXTENSIONS else base}"
