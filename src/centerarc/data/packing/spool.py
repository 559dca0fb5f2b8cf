"""The first half of a pack: every image is read and decoded once, and its file put by.

What was seen to be sound is what gets written later, even if the source changes in between, and
slow sources are read once only.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.files import atomic_path
from centerarc.data.packing.encoding import Encoding, packed_image
from centerarc.data.packing.job import read_json, write_json
from centerarc.data.processes import Tick
from centerarc.data.source import FaceSource

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
