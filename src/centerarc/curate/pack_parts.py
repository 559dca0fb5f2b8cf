"""The two halves of a pack: images spooled once, and parts made of them in each format."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import PIL.Image
import simplejpeg

from centerarc.curate.selection import Kept
from centerarc.data.decode import Image, decode_image, resized
from centerarc.data.folder import EXTENSIONS
from centerarc.data.recordio.writer import check_identity, finish, image_keys, write_part
from centerarc.data.shards.manifest import ShardInfo, write_manifest
from centerarc.data.shards.writer import ShardSample, write_shard
from centerarc.data.source import FaceSource
from centerarc.io.files import atomic_path, write_checksums
from centerarc.io.jobs import read_json, write_json
from centerarc.io.parallel import Tick

# The file that a pack holds of one image: the original's bytes wherever that is possible.

DEFAULT_QUALITY = 95
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
    unasked. With `quality` given, whatever is no JPEG becomes one.

    Args:
        size: Side in pixels of every image; None leaves each as it is.
        quality: Of new JPEGs, 1 to 100; None is 95, for resized images only. Colour keeps its
            full resolution (4:4:4).

    Raises:
        ValueError: If a number is out of range.
    """

    size: int | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= _LARGEST:
            raise ValueError(f"size is {self.size}; it must be in [1, {_LARGEST}] or None")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}; it must be in [1, 100] or None")


@dataclass(frozen=True)
class PackedImage:
    """The file of one image.

    Args:
        data: The whole file.
        width: In pixels, upright.
        height: In pixels, upright.
        anew: Whether it was encoded anew.
    """

    data: bytes
    width: int
    height: int
    anew: bool


def packed_image(source: FaceSource, index: int, encoding: Encoding) -> PackedImage:
    """Reads and decodes an image once, and encodes it anew only where it must.

    Args:
        source: Where it comes from.
        index: Its number.
        encoding: What is wanted.

    Returns:
        The file, whose pixels were seen.

    Raises:
        ValueError: If the image is damaged; the message says why, without the place.
        OSError: If it cannot be read: not the image's fault, so nobody should leave it out.
    """
    try:
        data = source.encoded(index)
    except OSError as error:
        raise OSError(f"cannot read {source.place(index)!r}: {error}") from error
    pixels = source.image(index) if data is None else decode_image(data)
    height, width = pixels.shape[:2]
    size = encoding.size
    if size is not None and (height, width) != (size, size):
        pixels = resized(pixels, size, size)
        jpeg = _jpeg(pixels, encoding.quality or DEFAULT_QUALITY)
        return PackedImage(jpeg, size, size, anew=True)
    if data is not None and data.startswith(_JPEG):
        return PackedImage(data, width, height, anew=False)
    if encoding.quality is not None:
        return PackedImage(_jpeg(pixels, encoding.quality), width, height, anew=True)
    if data is None or not _is_common(data):
        return PackedImage(_png(pixels), width, height, anew=True)
    return PackedImage(data, width, height, anew=False)


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


# The first half of a pack: every image is read and decoded once, and its file put by.
#
# What was seen to be sound is what gets written later, even if the source changes in between, and
# slow sources are read once only.

_MOST_IN_CHUNK = 1024
_COLUMNS = ("lengths", "widths", "heights", "anew")


@dataclass(frozen=True)
class Spool:
    """Files of images in chunks, by their position in the order of the pack.

    Args:
        folder: Where the chunks are.
        order: (P,) image number in the source of each position.
    """

    folder: Path
    order: npt.NDArray[np.int64]

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


@dataclass(frozen=True)
class Seen:
    """What the first half found; zeros stand for damaged images.

    Args:
        lengths: (P,) int64 bytes of each position's file.
        widths: (P,) int32 in pixels.
        heights: (P,) int32 in pixels.
        anew: (P,) bool whether it was encoded anew.
        damaged: Position to problem.
    """

    lengths: npt.NDArray[np.int64]
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    anew: npt.NDArray[np.bool_]
    damaged: dict[int, str]


@dataclass(frozen=True)
class Reading:
    """What a process needs to fill chunks."""

    source: FaceSource
    encoding: Encoding
    spool: Spool


def fill_chunk(reading: Reading, chunk: int, tick: Tick) -> None:
    """Reads the images of a chunk and writes their files and what is known of them."""
    spool = reading.spool
    rows: list[tuple[int, int, int, bool]] = []
    damaged: dict[str, str] = {}
    with atomic_path(spool.data(chunk)) as temporary, open(temporary, "wb") as file:
        for position in spool.positions(chunk):
            tick()
            try:
                image = packed_image(reading.source, int(spool.order[position]), reading.encoding)
            except ValueError as error:
                damaged[str(position)] = str(error)
                rows.append((0, 0, 0, False))
                continue
            rows.append((file.write(image.data), image.width, image.height, image.anew))
    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
    write_json(spool.notes(chunk), {**columns, "damaged": damaged})


def what_was_seen(spool: Spool) -> Seen:
    """Gathers what is known of all chunks, which must be there."""
    columns: dict[str, list[npt.NDArray[np.int64]]] = {name: [] for name in _COLUMNS}
    damaged: dict[int, str] = {}
    for chunk in range(spool.chunks):
        notes = _notes(spool, chunk)
        for name, pieces in columns.items():
            pieces.append(np.array(notes[name], dtype=np.int64))
        damaged |= {int(position): problem for position, problem in notes["damaged"].items()}
    lengths, widths, heights, anew = (np.concatenate(pieces) for pieces in columns.values())
    return Seen(
        lengths, widths.astype(np.int32), heights.astype(np.int32), anew.astype(np.bool_), damaged
    )


def _notes(spool: Spool, chunk: int) -> dict[str, Any]:
    notes = read_json(spool.notes(chunk))
    if notes is None:
        raise OSError(f"{str(spool.notes(chunk))!r} is gone; --overwrite starts anew")
    return notes


def read_back(spool: Spool, positions: Iterable[int]) -> Iterator[bytes]:
    """Gives the files of ascending positions, whose images are sound."""
    chunk = -1
    with ExitStack() as opened:
        for position in positions:
            if position // spool.chunk_size != chunk:
                chunk = position // spool.chunk_size
                opened.close()
                file = opened.enter_context(open(spool.data(chunk), "rb"))
                lengths = _notes(spool, chunk)["lengths"]
                ends = np.cumsum(lengths)
            at = position - chunk * spool.chunk_size
            file.seek(int(ends[at]) - lengths[at])
            yield file.read(lengths[at])


# The second half of a pack: the files put by become parts of the result.


class Sample(NamedTuple):
    """One image of a pack.

    Args:
        label: Of the pack.
        identity: The name of the label.
        place: Where it comes from.
        data: Its file.
    """

    label: int
    identity: str
    place: str
    data: bytes


class PackFormat(Protocol):
    """How a pack is written: parts in any order and by any process, then what joins them."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def main_file(self) -> str:
        """What training opens in the folder; empty for the folder itself."""
        ...

    @property
    def part_size(self) -> str:
        """What ends a part, in words."""
        ...

    def check(self, identities: Sequence[str]) -> None:
        """Raises `ValueError` if the format cannot hold these people, before any work is done."""
        ...

    def plan(self, labels: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> "Plan":
        """Divides the images into parts.

        Args:
            labels: (K,) label of each image.
            lengths: (K,) bytes of each image's file.
        """
        ...

    def write_part(
        self, folders: "Folders", number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """Writes a part, complete or not at all.

        Args:
            folders: Where.
            number: Of the part, from 0.
            first: Number of its first image, counted from the plan's `start`.
            samples: Its images.

        Returns:
            What `finish` must know of it; JSON.
        """
        ...

    def finish(
        self,
        folders: "Folders",
        parts: Sequence[dict[str, Any]],
        contents: "Contents",
    ) -> None:
        """Makes the final files. It may be called again after it was killed.

        Args:
            folders: Where.
            parts: What `write_part` returned, in order.
            contents: All that is in them.
        """
        ...


class Plan(NamedTuple):
    """How images are divided into parts.

    Args:
        ends: The image after the last of each part.
        start: What the format counts images from.
    """

    ends: npt.NDArray[np.int64]
    start: int


class Contents(NamedTuple):
    """What is in a pack.

    Args:
        labels: (K,) label of each image.
        identities: Name of each label.
        places: Where each image comes from, in order.
        size: Most frequent width and height in pixels.
    """

    labels: npt.NDArray[np.int64]
    identities: Sequence[str]
    places: Iterable[str]
    size: tuple[int, int]


class Folders(NamedTuple):
    """Where a format writes.

    Args:
        parts: For what is gone in the end.
        final: For what stays.
    """

    parts: Path
    final: Path


@dataclass(frozen=True)
class Writing:
    """What a process needs to write parts."""

    source: FaceSource
    spool: Spool
    kept: Kept
    format: PackFormat
    folders: Folders
    plan: Plan

    def first(self, part: int) -> int:
        """Returns the number of a part's first image in the pack."""
        return int(self.plan.ends[part - 1]) if part else 0

    def notes(self, part: int) -> Path:
        """Returns the file with what is known of a part; written last."""
        return self.folders.parts / f"{part:06d}.json"


def fill_part(writing: Writing, part: int, tick: Tick) -> int:
    """Writes a part and what is known of it, and returns its number."""
    first, end = writing.first(part), int(writing.plan.ends[part])
    samples = _samples(writing, first, end, tick)
    number = writing.plan.start + first
    facts = writing.format.write_part(writing.folders, part, number, samples)
    write_json(writing.notes(part), facts)
    return part


def _samples(writing: Writing, first: int, end: int, tick: Tick) -> Iterator[Sample]:
    kept = writing.kept
    positions = kept.positions[first:end].tolist()
    labels = kept.labels[first:end].tolist()
    files = read_back(writing.spool, positions)
    for position, label, data in zip(positions, labels, files, strict=True):
        tick()
        place = writing.source.place(int(writing.spool.order[position]))
        yield Sample(label, kept.identities[label], place, data)


def free_spool(writing: Writing, done: Collection[int], freed: int) -> int:
    """Deletes the chunks before the first image that no part has yet.

    Args:
        writing: What is written.
        done: Numbers of the parts that are done.
        freed: How many chunks are deleted.

    Returns:
        How many are now.
    """
    missing = next((part for part in range(len(writing.plan.ends)) if part not in done), None)
    needed = writing.spool.chunks
    if missing is not None:
        needed = int(writing.kept.positions[writing.first(missing)]) // writing.spool.chunk_size
    for chunk in range(freed, needed):
        writing.spool.data(chunk).unlink(missing_ok=True)
    return needed


def ends_by(
    lengths: npt.NDArray[np.int64], *, images: int | None = None, size: int | None = None
) -> npt.NDArray[np.int64]:
    """Divides images into parts of so many images or about so many bytes.

    Args:
        lengths: (K,) bytes of each image, K at least 1.
        images: Images in a part.
        size: Bytes after which a part ends.

    Returns:
        The image after the last of each part.

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
IMAGES_PER_SHARD = 10_000
_PART_BYTES = 64_000_000
_OWN = re.compile(
    r"train\.(rec|idx|lst|sha256|labels\.npz)|property|left-out\.csv|dataset\.json|"
    r"faces-[0-9]{6}\.(tar|index\.npz)"
)


def create_format(name: str, *, images_per_shard: int | None, shard_mb: float | None) -> PackFormat:
    """Returns a format by its name.

    Raises:
        ValueError: If the name or a size is none that can be, or sizes are given for "rec".
    """
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}; it must be one of {', '.join(FORMATS)}")
    if images_per_shard is not None and images_per_shard < 1:
        raise ValueError(f"images_per_shard is {images_per_shard}; it must be at least 1")
    if shard_mb is not None and not 0 < shard_mb < float("inf"):
        raise ValueError(f"shard_mb is {shard_mb}; it must be above 0")
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
    """WebDataset shards `faces-000000.tar` with `dataset.json`.

    Args:
        images: Images in a shard; None is 10,000 unless `megabytes` is given.
        megabytes: Megabytes of images after which a shard ends.
    """

    name = "shards"
    # What training opens: the folder itself.
    main_file = ""

    def __init__(self, images: int | None, megabytes: float | None) -> None:
        self.images = images if images or megabytes else IMAGES_PER_SHARD
        self.megabytes = megabytes

    @property
    def part_size(self) -> str:
        """Returns what ends a shard, in words."""
        return f"{self.images} images" if self.images else f"{self.megabytes:g} MB"

    def check(self, identities: Sequence[str]) -> None:
        """See `PackFormat.check`; names are made safe for tar files, so all can be held."""

    def plan(self, labels: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Plan:
        """See `PackFormat.plan`."""
        size = None if self.megabytes is None else int(self.megabytes * 1e6)
        return Plan(ends_by(lengths, images=self.images, size=size), 0)

    def write_part(
        self, folders: Folders, number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """See `PackFormat.write_part`."""
        named = (ShardSample(_key(sample), sample.data, sample.label) for sample in samples)
        return asdict(write_shard(folders.final / f"faces-{number:06d}.tar", named))

    def finish(self, folders: Folders, parts: Sequence[dict[str, Any]], contents: Contents) -> None:
        """See `PackFormat.finish`."""
        infos = [ShardInfo(**part) for part in parts]
        write_manifest(folders.final, infos, contents.identities)


class Records:
    """insightface's RecordIO: `train.rec` with what belongs to it, and checksums."""

    name = "rec"
    main_file = "train.rec"
    part_size = f"{_PART_BYTES} bytes"

    def check(self, identities: Sequence[str]) -> None:
        """See `PackFormat.check`."""
        try:
            for name in identities:
                check_identity(name)
        except ValueError as error:
            raise ValueError(f"{error}; format shards takes any") from error

    def plan(self, labels: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Plan:
        """See `PackFormat.plan`; images are counted from the key of the first."""
        return Plan(ends_by(lengths, size=_PART_BYTES), image_keys(labels)[0])

    def write_part(
        self, folders: Folders, number: int, first: int, samples: Iterable[Sample]
    ) -> dict[str, Any]:
        """See `PackFormat.write_part`."""
        path = folders.parts / f"{number:06d}.rec"
        labelled = ((sample.label, sample.data) for sample in samples)
        offsets = write_part(path, labelled, first_key=first)
        return {"name": path.name, "offsets": offsets.tolist()}

    def finish(self, folders: Folders, parts: Sequence[dict[str, Any]], contents: Contents) -> None:
        """See `PackFormat.finish`."""
        written = [
            (folders.parts / part["name"], np.array(part["offsets"], dtype=np.int64))
            for part in parts
        ]
        width, height = contents.size
        finish(
            folders.final / self.main_file,
            written,
            contents.labels,
            identities=contents.identities,
            image_size=(height, width),
            places=contents.places,
        )
        names = (self.main_file, "train.idx", "train.lst", "property")
        write_checksums(folders.final / "train.sha256", names)


def _key(sample: Sample) -> str:
    base = sample.place.rpartition("/")[2]
    stem, suffix = os.path.splitext(base)
    return f"{sample.identity}/{stem if suffix.lower() in EXTENSIONS else base}"
