"""Which person each record shows, and what that person is called."""

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from centerarc.data.recordio.index import Index
from centerarc.data.recordio.records import (
    Ints,
    RecordFile,
    label_values,
    read_heads,
    without_image,
)
from centerarc.io.tables import line_blocks

# The file `property` beside a .rec: how many identities, and how large the images are.


@dataclass(frozen=True)
class Property:
    """What the file says.

    Attributes:
        num_classes: Number of identities.
        height: Of the images in pixels.
        width: Of the images in pixels.
    """

    num_classes: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_classes},{self.height},{self.width}"


def read_property(path: Path) -> Property:
    """Reads the file: three numbers with commas or spaces between them.

    Args:
        path: The file.

    Raises:
        ValueError: If it holds something else.
        OSError: If it cannot be read.
    """
    text = path.read_bytes()[:200].decode("utf-8", "backslashreplace").strip()
    fields = re.split(r"\s*,\s*|\s+", text)
    if len(fields) != 3 or not all(re.fullmatch(r"[0-9]{1,9}", field) for field in fields):
        raise ValueError(
            f"{path.name} holds {text!r}; it must be the number of identities, the height and "
            "the width, such as 85742,112,112"
        )
    return Property(*map(int, fields))


# The .lst file beside a .rec: which file each image was made from, and its label.

# An im2rec line with one label and a folder: most are, and this is several times as fast.
_USUAL = re.compile(
    rb"^([0-9]{1,15})\t([0-9]{1,15})(?:\.0*)?\t"
    rb"(?:[^\t\n]*[/\\])?([^\t\n/\\.][^\t\n/\\]*)[/\\][^\t\n/\\]*$",
    re.MULTILINE,
)


class Line(NamedTuple):
    """A line of a .lst file.

    Attributes:
        key: Key of the record; None in insightface's kind, whose lines are in order.
        label: The first label.
        folder: Name of the folder that the image was in, empty if there is none.
    """

    key: int | None
    label: int
    folder: str


def parse_line(line: bytes) -> Line:
    """Takes a line apart: `key label ... path` (im2rec) or `1 path label ...` (insightface).

    Args:
        line: The line; tabs stand between its fields.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_line(b"12\\t3.000000\\tAnn_Lee/1.jpg").folder
        'Ann_Lee'
        >>> parse_line(b"1\\t/faces/Bob/1.jpg\\t4")
        Line(key=None, label=4, folder='Bob')
    """
    fields = line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
    try:
        if len(fields) < 3:
            raise ValueError("fewer than three fields")
        key = _whole(fields[0])
        try:
            return Line(key, _whole(fields[1]), _folder(fields[-1]))
        except ValueError:
            return Line(None, _whole(fields[2]), _folder(fields[1]))
    except ValueError:
        shown = line[:60].decode("utf-8", "backslashreplace")
        raise ValueError(f"{shown!r} is no line of a .lst file") from None


def _whole(text: str) -> int:
    value = float(text)  # im2rec writes 3 as 3.000000
    if not (value.is_integer() and abs(value) < 2**53):
        raise ValueError(f"{text} is no whole number")
    return int(value)


def _folder(path: str) -> str:
    folder = path.replace("\\", "/").rpartition("/")[0].rstrip("/").rpartition("/")[2]
    return folder if folder != "." else ""


def some_lines(path: Path, wanted: Ints) -> tuple[list[Line], int]:
    """Reads some lines of a .lst file and passes over the others.

    Args:
        path: The file.
        wanted: Numbers of lines from 0, ascending.

    Returns:
        The lines that there are, and how many the whole file has.

    Raises:
        ValueError: If a wanted line is damaged; the message names it.
        OSError: If the file cannot be read.
    """
    lines: list[Line] = []
    start = 0
    for block in line_blocks(path):
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10)
        begins = np.concatenate([[0], ends[:-1] + 1])
        first, last = np.searchsorted(wanted, [start, start + len(ends)])
        lines += [
            _parsed(path, start + number + 1, block[begins[number] : ends[number]])
            for number in (wanted[first:last] - start).tolist()
        ]
        start += len(ends)
    return lines, start


@dataclass(frozen=True)
class Listing:
    """All of a .lst file.

    Attributes:
        keys: `(L,)` keys of the records; None in insightface's kind, whose lines are in order.
        labels: `(L,)` labels.
        folders: `(L,)` places in `names`.
        names: Names of the folders that images were in.
    """

    keys: Ints | None
    labels: Ints
    folders: Ints
    names: list[str]


def read_listing(path: Path) -> Listing:
    """Reads a .lst file.

    Args:
        path: The file.

    Raises:
        ValueError: If a line is damaged, or of another kind than the first; the message names it.
        OSError: If the file cannot be read.
    """
    keys, labels, folders = array("q"), array("q"), array("q")
    names: dict[bytes, int] = {}
    number = 0
    for block in line_blocks(path):
        lines = block.count(b"\n")
        usual = _USUAL.findall(block)
        if len(usual) == lines and len(keys) == len(labels):
            keys.extend([int(key) for key, _, _ in usual])
            labels.extend([int(label) for _, label, _ in usual])
            folders.extend([names.setdefault(folder, len(names)) for _, _, folder in usual])
            number += lines
            continue
        for text in block.split(b"\n")[:-1]:
            number += 1
            if not text.strip():
                continue
            line = _parsed(path, number, text)
            if line.key is not None:
                keys.append(line.key)
            labels.append(line.label)
            folder = line.folder.encode("utf-8", "surrogateescape")
            folders.append(names.setdefault(folder, len(names)))
            if len(keys) not in (0, len(labels)):
                raise ValueError(f"{path.name}, line {number}: another kind than before")
    return Listing(
        np.array(keys, dtype=np.int64) if keys else None,
        np.array(labels, dtype=np.int64),
        np.array(folders, dtype=np.int64),
        [name.decode("utf-8", "surrogateescape") for name in names],
    )


def _parsed(path: Path, number: int, text: bytes) -> Line:
    try:
        return parse_line(text)
    except ValueError as error:
        raise ValueError(f"{path.name}, line {number}: {error}") from None


# Names of people: the folders that a .lst file tells.

# So many headers are compared with a .lst before its labels are taken for the others.
_COMPARED = 1000


def names_of_labels(path: Path, images: int, at: Ints, labels: Ints) -> list[str]:
    """Finds the names of people in a .lst whose lines are in the order of the images.

    Args:
        path: The .lst file.
        images: How many images there are.
        at: `(C,)` number of an image of each person, ascending in no particular way.
        labels: `(C,)` its label.

    Returns:
        The name of each.

    Raises:
        ValueError: If the file does not fit the images, or folders do not tell people apart.
    """
    order = np.argsort(at)
    lines, count = some_lines(path, at[order])
    if count != images:
        raise ValueError(f"{path.name} has {count} lines for {images} images")
    names = [""] * len(at)
    for place, line in zip(order.tolist(), lines, strict=True):
        if line.label != labels[place]:
            raise ValueError(
                f"{path.name}, line {at[place] + 1}: label {line.label}, but the image has label "
                f"{labels[place]}"
            )
        names[place] = line.folder
    _check_names(path, names)
    return names


def listed_labels(path: Path, file: RecordFile, images: Index) -> tuple[Ints, dict[int, str]]:
    """Finds label and person of each image in a .lst file, after comparing some with the .rec.

    Args:
        path: The .lst file.
        file: The .rec.
        images: Its image records.

    Returns:
        `(len(images),)` labels, and the name of each label; no names where folders do not tell
        people apart.

    Raises:
        ValueError: If the file does not fit the images.
    """
    listing = read_listing(path)
    rows = _rows(path, listing, images)
    labels = listing.labels[rows]
    if labels.min() < 0:
        raise ValueError(f"{path.name}: label {labels.min()} is negative")
    sample = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _COMPARED)).astype(np.int64))
    stored, good = label_values(file, images.offsets[sample])
    differ = good & (stored != labels[sample].astype(np.float32))
    if differ.any():
        at = int(np.argmax(differ))
        raise ValueError(
            f"{path.name} says label {labels[sample[at]]} for record {images.keys[sample[at]]}, "
            f"but that has {stored[at]:.9g}"
        )
    found, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    folders = listing.folders[rows]
    names = [listing.names[folder] for folder in folders[first].tolist()]
    try:
        _check_names(path, names)
        if (folders != folders[first][inverse]).any():
            raise ValueError(f"{path.name} has a person in two folders")
    except ValueError:
        return labels, {}
    return labels, dict(zip(found.tolist(), names, strict=True))


def _rows(path: Path, listing: Listing, images: Index) -> Ints:
    """Line of each image."""
    if listing.keys is None:
        if len(listing.labels) != len(images.offsets):
            raise ValueError(
                f"{path.name} has {len(listing.labels)} lines for {len(images.offsets)} images"
            )
        return np.arange(len(images.offsets))
    keys = np.asarray(images.keys)
    order = np.argsort(listing.keys, kind="stable")
    rows: Ints = order[np.searchsorted(listing.keys[order], keys).clip(max=len(order) - 1)]
    if (lacking := listing.keys[rows] != keys).any():
        raise ValueError(f"{path.name} has no line for record {keys[int(np.argmax(lacking))]}")
    return rows


def _check_names(path: Path, names: Sequence[str]) -> None:
    if "" in names:
        raise ValueError(f"{path.name} names a file without a folder")
    if len(set(names)) < len(names):
        raise ValueError(f"{path.name} has two people in one folder")


# Which person each image of a .rec shows.

# Reads labels of the records at these bytes; -1 for damaged ones. The name says which they are.
ReadLabels = Callable[[str, Ints], Ints]
# So many images are asked whether identity records are right.


@dataclass(frozen=True)
class Layout:
    """Which records are images and which tell of identities.

    Attributes:
        images: The image records.
        identities: The identity records; files that mxnet's im2rec made have none.
    """

    images: Index
    identities: Index


def find_layout(file: RecordFile, index: Index) -> Layout:
    """Tells images from other records.

    In insightface's layout record 0 has no image and two labels n and m: images are keys 1 to
    n - 1 and identity records n to m - 1. They are float32, so from 2^24 on n is looked for among
    the records near it. Some writers leave the identity records out. Without such a record 0
    every record is an image.

    Args:
        file: The .rec.
        index: All its records.

    Raises:
        ValueError: If record 0 does not fit the index.
    """
    nothing = Index(range(0), np.empty(0, dtype=np.int64))
    if index.keys[0] != 0:
        return Layout(index, nothing)
    head = read_heads(file, index.offsets[:1])
    if not without_image(head)[0]:
        return Layout(index, nothing)
    says = (
        f"{file.path.name}: record 0 at byte {index.offsets[0]} says that images have keys 1 to "
        f"{head['first'][0] - 1:.0f} and identities follow up to {head['second'][0] - 1:.0f}"
    )
    end = int(index.keys[-1]) + 1
    if len(index.keys) != end:
        lacking = int(np.argmax(np.asarray(index.keys) != np.arange(len(index.keys))))
        raise ValueError(f"{says}, but there is no record {lacking}")
    first, second = float(head["first"][0]), float(head["second"][0])
    if not 2 <= first <= end + _slack(first):
        raise ValueError(f"{says}, but keys end at {end - 1} and there must be an image")
    start = _first_identity(file, index, int(first))
    if start > end or not (start == end or abs(second - end) <= _slack(second)):
        raise ValueError(f"{says}, but keys end at {end - 1}")
    return Layout(index.part(1, start), index.part(start, end))


def image_labels(
    file: RecordFile, layout: Layout, read_labels: ReadLabels
) -> tuple[Ints, list[str]]:
    """Finds the label of each image.

    A label stands in its image's header. Identity records spare reading them all: one image's
    header is read for the range that an identity record tells. Images near the ends of a range
    that float32 rounds, and images that are in no range, are read themselves, so a damaged
    identity record does no harm. Ranges of one label are one person, once the first and the last
    image of each say so too. Where images here and there contradict their range, all are read.

    Args:
        file: The .rec.
        layout: Its records.
        read_labels: Reads labels from the headers of images.

    Returns:
        `(len(images),)` labels as stored, and what is wrong with identity records and labels.

    Raises:
        ValueError: If no image has a readable label.
    """
    count = len(layout.images.offsets)
    starts, ends, problems = _ranges(file, layout)
    known = np.full(len(starts), -1, dtype=np.int64)
    for name, at in (("middle", (starts + ends) // 2), ("first", starts), ("last", ends - 1)):
        if not len(unknown := np.flatnonzero(known < 0)):
            break
        known[unknown] = read_labels(name, layout.images.offsets[at[unknown]])
    starts, ends, known = starts[known >= 0], ends[known >= 0], known[known >= 0]
    outvoted, doubted, told = _confirm_shared(layout.images, starts, ends, known, read_labels)
    # Stretches in turn: in no range, in the first range, in no range, in the second, ...
    borders = np.empty(2 * len(starts) + 2, dtype=np.int64)
    borders[0], borders[-1] = 0, count
    borders[1:-1:2], borders[2:-1:2] = starts, ends
    owners = np.full(2 * len(starts) + 1, -1, dtype=np.int64)
    owners[1::2] = known
    labels = np.repeat(owners, np.diff(borders))
    alone = np.flatnonzero(labels < 0)
    if len(alone):
        labels[alone] = read_labels("alone", layout.images.offsets[alone])
    if len(starts):
        sample = np.unique(np.linspace(0, count - 1, min(count, _COMPARED)).astype(np.int64))
        sample = np.union1d(np.setdiff1d(sample, outvoted), doubted)
        stored = read_labels("sample", layout.images.offsets[sample])
        differ = np.flatnonzero((stored >= 0) & (stored != labels[sample]))
        if len(differ):
            at = sample[differ[0]]
            problems.append(
                f"identity records give image {layout.images.keys[at]} label {labels[at]}, but "
                f"its own is {stored[differ[0]]}; all images were asked"
            )
            labels, told = read_labels("all", layout.images.offsets), []
    _fill(file, labels)
    return labels, problems + told


def _confirm_shared(
    images: Index, starts: Ints, ends: Ints, known: Ints, read_labels: ReadLabels
) -> tuple[Ints, Ints, list[str]]:
    """Asks more images where ranges share a label, and corrects `known` in place.

    One person may have several ranges; a damaged label that is another person's looks the same.
    One image against two or more is such a damaged header; other differences are the identity
    records' own.

    Returns:
        Places of images that were outvoted; of images that contradict their range otherwise; and a
        line for each that was outvoted.
    """
    _, inverse, counts = np.unique(known, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[inverse] > 1)
    outvoted: list[int] = []
    doubted: list[int] = []
    problems: list[str] = []
    first = read_labels("shared_first", images.offsets[starts[shared]])
    last = read_labels("shared_last", images.offsets[ends[shared] - 1])
    doubtful = (first >= 0) & (first != known[shared]) | (last >= 0) & (last != known[shared])
    for row in shared[doubtful].tolist():
        places = np.arange(starts[row], ends[row])
        own = read_labels(f"range_{row}", images.offsets[places])
        found, votes = np.unique(own[own >= 0], return_counts=True)
        if sorted(votes.tolist())[:-1] != [1] or votes.max() < 2:
            doubted += places[(own >= 0) & (own != known[row])].tolist()
            continue
        known[row] = majority = int(found[np.argmax(votes)])
        place = int(places[(own >= 0) & (own != majority)][0])
        outvoted.append(place)
        problems.append(
            f"image {images.keys[place]} has label {own[place - starts[row]]}, but all others of "
            f"images {images.keys[places[0]]} to {images.keys[places[-1]]}, which an identity "
            f"record tells, have {majority}; that was taken"
        )
    return np.array(outvoted, dtype=np.int64), np.array(doubted, dtype=np.int64), problems


def _slack(value: float) -> int:
    """How far the whole number may be that a float32 was rounded from."""
    return int(np.spacing(np.float32(value))) if 2**24 <= value < np.inf else 0


def _first_identity(file: RecordFile, index: Index, said: int) -> int:
    slack, end = _slack(said), len(index.offsets)
    if not slack:
        return said
    near = np.arange(said - slack, min(said + slack + 1, end))
    found = near[without_image(read_heads(file, index.offsets[near]))]
    if len(found):
        return int(found[0])
    return end if said + slack >= end else said


def _ranges(file: RecordFile, layout: Layout) -> tuple[Ints, Ints, list[str]]:
    """Places of the images that surely belong to one identity each: starts, ends, problems."""
    keys, offsets = layout.identities.keys, layout.identities.offsets
    heads = read_heads(file, offsets)
    good = without_image(heads)
    first = np.where(good, heads["first"], 0).astype(np.float64)
    end = np.where(good, heads["second"], 0).astype(np.float64)
    count = len(layout.images.offsets)
    with np.errstate(invalid="ignore"):  # damaged ones may be infinite
        slack_first = np.where(first < 2**24, 0, np.spacing(first.astype(np.float32)))
        slack_end = np.where(end < 2**24, 0, np.spacing(end.astype(np.float32)))
        fits = (first >= 1) & (first <= end) & (end - slack_end <= count + 1)
    problems = [
        f"identity record {keys[i]} at byte {offsets[i]} "
        + (f"tells images {first[i]:.0f} to {end[i] - 1:.0f}" if good[i] else "is damaged")
        for i in np.flatnonzero(~fits).tolist()
    ]
    use = np.flatnonzero(fits & (first + slack_first < end - slack_end))
    use = use[np.argsort(first[use], kind="stable")]
    starts = (first + slack_first - 1)[use].astype(np.int64)
    ends = (end - slack_end - 1)[use].astype(np.int64)
    if (starts[1:] < ends[:-1]).any():
        at = int(np.argmax(starts[1:] < ends[:-1]))
        problems.append(
            f"identity records {keys[use[at]]} and {keys[use[at + 1]]} tell the same images"
        )
        starts, ends = starts[:0], ends[:0]
    return starts, ends, problems


def _fill(file: RecordFile, labels: Ints) -> None:
    """Gives images that cannot be read, in place, the label of the image before them."""
    if not len(unknown := np.flatnonzero(labels < 0)):
        return
    if not len(known := np.flatnonzero(labels >= 0)):
        raise ValueError(f"{file.path.name}: no image has a header that can be read")
    before = np.searchsorted(known, unknown) - 1
    labels[unknown] = labels[known[np.maximum(before, 0)]]
