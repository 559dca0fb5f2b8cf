"""The second half of a pack: the files put by become parts of the result."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from centerarc.data import source as sources
from centerarc.data.packing.job import write_json
from centerarc.data.packing.selection import Kept
from centerarc.data.packing.spool import Spool, read_back
from centerarc.data.processes import Tick
from centerarc.data.source import FaceSource


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
        place = sources.place(writing.source, int(writing.spool.order[position]))
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
