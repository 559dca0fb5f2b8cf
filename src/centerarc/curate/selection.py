"""Which images of a source are taken, and what identifies the source."""

import csv
import hashlib
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.source import FaceSource, Skipped
from centerarc.data.views import Subset
from centerarc.data.views import leave_out as without_places
from centerarc.io.files import atomic_path

# What must be the same for a pack to go on: the people, the images and the files of a source.


def fingerprint(source: FaceSource) -> dict[str, Any]:
    """Returns facts about a source by the words in which a difference is told; JSON.

    Files are known by name, size and time of change, not by what is in them, so that five million
    take seconds.
    """
    stamps = hashlib.sha256()
    for path in source.files():
        with suppress(OSError):  # reading it will say what is wrong
            found = os.stat(path)
            stamp = f"{os.path.basename(path)}\0{found.st_size} {found.st_mtime_ns}\0"
            stamps.update(stamp.encode("utf-8", "surrogatepass"))
    names = "\0".join(source.identities)
    return {
        "number of images": len(source),
        "number of people": len(source.identities),
        "set of people": digest(names.encode("utf-8", "surrogatepass")),
        "set of labels": digest(np.asarray(source.labels, dtype="<i8").tobytes()),
        "state of the source's files": stamps.hexdigest(),
    }


def digest(data: bytes) -> str:
    """Returns the SHA-256 of bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


# Which images of a source are packed, in which order, and what becomes of the rest.

_COLUMNS = ("place", "identity", "problem")


@dataclass(frozen=True)
class Selection:
    """Images to pack, before any is read.

    Args:
        order: (P,) image number in the source of each position.
        reasons: (len(source),) int8, 0 for those in `order`, else a key of `REASONS`.
        min_images: The fewest images of a person.
    """

    order: npt.NDArray[np.int64]
    reasons: npt.NDArray[np.int8]
    min_images: int


NOT_ASKED_FOR, LISTED, TOO_FEW = 1, 2, 3


def select(
    source: FaceSource,
    *,
    identities: Collection[str] | None,
    leave_out: Collection[str],
    min_images: int,
    shuffle: int | None,
) -> Selection:
    """Chooses images without reading them.

    Args:
        source: Where they come from.
        identities: Names of the people to take; None takes everybody.
        leave_out: Places of images to leave out, which must be in the source.
        min_images: The fewest images of a person, at least 1.
        shuffle: Seed of a random order; None keeps the order of the source.

    Returns:
        The images, of which some may yet prove damaged.

    Raises:
        ValueError: If an argument does not fit the source, or nothing is left.
    """
    if min_images < 1:
        raise ValueError(f"min_images is {min_images}; it must be at least 1")
    if shuffle is not None and shuffle < 0:
        raise ValueError(f"shuffle is {shuffle}; it must be a seed of at least 0 or None")
    reasons = np.zeros(len(source), dtype=np.int8)
    if identities is not None:
        reasons[~_chosen(source, identities)[source.labels]] = NOT_ASKED_FOR
    rest = without_places(source, leave_out)
    if isinstance(rest, Subset) and rest is not source:
        listed = np.ones(len(source), dtype=bool)
        listed[rest.indices] = False
        reasons[listed & (reasons == 0)] = LISTED
    reasons[(reasons == 0) & too_few(source.labels, reasons == 0, min_images)] = TOO_FEW
    order = np.flatnonzero(reasons == 0)
    if not len(order):
        raise ValueError(f"nothing is left of the {len(source)} images to pack")
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(order)
    return Selection(order, reasons, min_images)


def too_few(
    labels: npt.NDArray[np.int64], usable: npt.NDArray[np.bool_], min_images: int
) -> npt.NDArray[np.bool_]:
    """Returns for each image whether its person has fewer than `min_images` usable ones."""
    counts = np.bincount(labels[usable], minlength=int(labels.max(initial=-1)) + 1)
    return (counts < min_images)[labels]


def _chosen(source: FaceSource, identities: Collection[str]) -> npt.NDArray[np.bool_]:
    names = set(identities)
    if unknown := names.difference(source.identities):
        raise ValueError(
            f"identities names {len(unknown)} people whom the source lacks, first {min(unknown)!r}"
        )
    return np.array([name in names for name in source.identities])


@dataclass(frozen=True)
class Kept:
    """Images that proved sound.

    Args:
        positions: (K,) their positions in the selection's order, ascending.
        labels: (K,) int64 their labels in the pack.
        identities: Name of each label, in the order of the source.
        left_out: The others, in the order of the source.
    """

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    identities: list[str]
    left_out: list[Skipped]


def keep(source: FaceSource, selection: Selection, damaged: dict[int, str]) -> Kept:
    """Takes out damaged images, then people who have too few left, and numbers the others anew.

    Args:
        source: Where the images come from.
        selection: What was to be packed.
        damaged: Position to problem.

    Returns:
        What to write.

    Raises:
        ValueError: If nothing is left.
    """
    order = selection.order
    reasons = selection.reasons.copy()
    problems = {int(order[position]): problem for position, problem in damaged.items()}
    sound = reasons == 0
    sound[list(problems)] = False
    reasons[sound & too_few(source.labels, sound, selection.min_images)] = TOO_FEW
    sound &= reasons == 0
    positions = np.flatnonzero(sound[order])
    if not len(positions):
        position, problem = next(iter(damaged.items()))
        place = source.place(int(order[position]))
        raise ValueError(
            f"no image is left to pack: {len(damaged)} are damaged, first {place!r}: {problem}"
        )
    old = source.labels[order[positions]]
    present, labels = np.unique(old, return_inverse=True)
    names = [source.identities[label] for label in present]
    words = {
        LISTED: "named in the file of images to leave out",
        TOO_FEW: f"its identity has fewer than {selection.min_images} images",
    }
    for reason, text in words.items():
        problems |= dict.fromkeys(np.flatnonzero(reasons == reason).tolist(), text)
    rows = []
    for i in sorted(problems):
        identity = source.identities[source.labels[i]]
        rows.append(Skipped(source.place(i), *split_reason(problems[i]), 1, identity))
    return Kept(positions, labels.astype(np.int64), names, rows)


def split_reason(problem: str) -> tuple[str, str]:
    """Returns the general part of a problem and its particulars, which follow a colon."""
    reason, _, detail = problem.partition(": ")
    return reason, detail


def write_left_out(path: Path, rows: Iterable[Skipped]) -> None:
    """Writes what is left out as CSV with the columns place, identity and problem.

    Args:
        path: The file.
        rows: Its lines.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((row.place, row.identity, str(row)) for row in rows)
