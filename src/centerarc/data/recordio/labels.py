"""Who is on the images of a RecordIO file: its layout, its labels and the names in a .lst file."""

import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.data.recordio.records import (
    Index,
    Ints,
    RecordFile,
    label_values,
    read_heads,
    without_image,
)
from centerarc.io.tables import line_blocks

# Reads labels of the records at these bytes; -1 for damaged ones.
ReadLabels = Callable[[Ints], Ints]
# So many image headers are compared with what a .lst or identity records say.
_COMPARED = 1000


class Property(NamedTuple):
    """What the file `property` beside a .rec says: how many identities, and the images' size."""

    num_classes: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.num_classes},{self.height},{self.width}"


def read_property(path: Path) -> Property:
    """Three numbers with commas or spaces between them; what follows their line is passed over."""
    text = path.read_bytes()[:200].decode("utf-8", "backslashreplace").strip()
    first = re.split(r"\s*,\s*|\s+", text.partition("\n")[0].strip())
    fields = first if len(first) > 1 else re.split(r"\s*,\s*|\s+", text)
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


def parse_line(line: bytes, where: str = "") -> tuple[int | None, int, str]:
    """Key, first label and folder of `key label ... path` (im2rec) or `1 path label ...`.

    The key is None in the second kind, insightface's; the folder is empty if there is none.

    Example:
        >>> parse_line(b"12\\t3.000000\\tAnn_Lee/1.jpg")
        (12, 3, 'Ann_Lee')
        >>> parse_line(b"1\\t/faces/Bob/1.jpg\\t4")
        (None, 4, 'Bob')
    """
    fields = line.decode("utf-8", "surrogateescape").rstrip("\r\n").split("\t")
    try:
        if len(fields) < 3:
            raise ValueError("fewer than three fields")
        key = _whole(fields[0])
        try:
            return key, _whole(fields[1]), _folder(fields[-1])
        except ValueError:
            return None, _whole(fields[2]), _folder(fields[1])
    except ValueError:
        shown = line[:60].decode("utf-8", "backslashreplace")
        raise ValueError(f"{where}{shown!r} is not a line of a .lst file") from None


def _whole(text: str) -> int:
    value = float(text)  # im2rec writes 3 as 3.000000
    if not (value.is_integer() and abs(value) < 2**53):
        raise ValueError(f"{text} is not a whole number")
    return int(value)


def _folder(path: str) -> str:
    folder = path.replace("\\", "/").rpartition("/")[0].rstrip("/").rpartition("/")[2]
    return folder if folder != "." else ""


def read_listing(path: Path) -> tuple[Ints | None, Ints, Ints, list[str]]:
    """All of a .lst file: keys (None in insightface's kind), labels, folders, folders' names."""
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
            key, label, name = parse_line(text, f"{path.name}, line {number}: ")
            if key is not None:
                keys.append(key)
            labels.append(label)
            folder = name.encode("utf-8", "surrogateescape")
            folders.append(names.setdefault(folder, len(names)))
            if len(keys) not in (0, len(labels)):
                raise ValueError(f"{path.name}, line {number}: another kind than before")
    arrays = [np.array(values, dtype=np.int64) for values in (keys, labels, folders)]
    texts = [name.decode("utf-8", "surrogateescape") for name in names]
    return arrays[0] if keys else None, arrays[1], arrays[2], texts


def names_of_labels(path: Path, images: int, at: Ints, labels: Ints) -> list[str]:
    """Names of people by the lines of an image `at` of each, whose label is in `labels`."""
    order = np.argsort(at)
    wanted, found, count = at[order], [], 0
    for block in line_blocks(path):
        ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
        begins = np.concatenate([[0], ends[:-1] + 1])
        first, last = np.searchsorted(wanted, [count, count + len(ends)])
        for number in (wanted[first:last] - count).tolist():
            text = block[begins[number] : ends[number]]
            found.append(parse_line(text, f"{path.name}, line {count + number + 1}: "))
        count += len(ends)
    if count != images:
        raise ValueError(f"{path.name} has {count} lines for {images} images")
    names = [""] * len(at)
    for place, (_, label, name) in zip(order.tolist(), found, strict=True):
        if label != labels[place]:
            raise ValueError(
                f"{path.name}, line {at[place] + 1}: label {label}, but the image has label "
                f"{labels[place]}"
            )
        names[place] = name
    _check_names(path, names)
    return names


def listed_labels(path: Path, file: RecordFile, images: Index) -> tuple[Ints, dict[int, str]]:
    """Labels of images from a .lst that fits the .rec; names if folders tell people apart."""
    listed, labels, folders, texts = read_listing(path)
    keys, count = np.asarray(images.keys), len(images.offsets)
    if listed is not None:
        order = np.argsort(listed, kind="stable")
        rows = order[np.searchsorted(listed[order], keys).clip(max=len(order) - 1)]
        if (lacking := listed[rows] != keys).any():
            raise ValueError(f"{path.name} has no line for record {keys[int(np.argmax(lacking))]}")
        labels, folders = labels[rows], folders[rows]
    elif len(labels) != count:
        raise ValueError(f"{path.name} has {len(labels)} lines for {count} images")
    if labels.min() < 0:
        raise ValueError(f"{path.name}: label {labels.min()} is negative")
    sample = _some(count)
    stored, good = label_values(file, images.offsets[sample])
    differ = np.flatnonzero(good & (stored != labels[sample].astype(np.float32)))
    if len(differ):
        at = sample[differ[0]]
        raise ValueError(
            f"{path.name} says label {labels[at]} for record {keys[at]}, but that has "
            f"{stored[differ[0]]:.9g}"
        )
    found, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    names = [texts[folder] for folder in folders[first].tolist()]
    try:
        _check_names(path, names)
    except ValueError:
        return labels, {}
    one_folder_each = np.array_equal(folders, folders[first][inverse])
    return labels, dict(zip(found.tolist(), names, strict=True)) if one_folder_each else {}


def _check_names(path: Path, names: Sequence[str]) -> None:
    if "" in names:
        raise ValueError(f"{path.name} names a file without a folder")
    if len(set(names)) < len(names):
        raise ValueError(f"{path.name} has two people in one folder")


def _some(count: int) -> Ints:
    """Up to a thousand of so many images, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, _COMPARED)).astype(np.int64))


# Which records are images, and which tell of identities.


def find_layout(file: RecordFile, index: Index) -> tuple[Index, Index]:
    """Image records and identity records; without insightface's record 0 all are images.

    Its labels n and m say that images are keys 1 to n - 1 and identity records n to m - 1, if any.
    They are float32, so from 2^24 on n is looked for among the records near it.
    """
    keys, offsets = index
    head = read_heads(file, offsets[:1])
    if keys[0] != 0 or not without_image(head)[0]:
        return index, Index(range(0), offsets[:0])
    first, second = float(head["first"][0]), float(head["second"][0])
    says = (
        f"{file.path.name}: record 0 at byte {offsets[0]} says that images have keys 1 to "
        f"{first - 1:.0f} and identities follow up to {second - 1:.0f}"
    )
    end = int(keys[-1]) + 1
    if len(keys) != end:
        lacking = int(np.argmax(np.asarray(keys) != np.arange(len(keys))))
        raise ValueError(f"{says}, but there is no record {lacking}")
    slack = int(_slack(head["first"])[0])
    if not 2 <= first <= end + slack:
        raise ValueError(f"{says}, but keys end at {end - 1} and there must be an image")
    start = int(first)
    if slack:
        near = np.arange(start - slack, min(start + slack + 1, end))
        found = near[without_image(read_heads(file, offsets[near]))]
        start = int(found[0]) if len(found) else end if start + slack >= end else start
    if start > end or not (start == end or abs(second - end) <= _slack(head["second"])[0]):
        raise ValueError(f"{says}, but keys end at {end - 1}")
    return Index(keys[1:start], offsets[1:start]), Index(keys[start:], offsets[start:])


def _slack(values: npt.NDArray[np.float32]) -> Ints:
    """How far the whole numbers may be that these float32 were rounded from."""
    rounded = (values >= 2**24) & (values < np.inf)
    spacing = np.spacing(np.where(rounded, values, np.float32(1)))
    return np.minimum(spacing, 2.0**40).astype(np.int64)


# Labels of images by the identity records.


def image_labels(
    file: RecordFile, images: Index, people: Index, read_labels: ReadLabels
) -> tuple[Ints, list[str]]:
    """Label of each image as stored, and what is wrong with identity records and labels.

    One header is read for each range that an identity record tells; images in no range, or near an
    end that float32 rounds, are read themselves. If a sample contradicts its range, all are read.
    """
    keys, offsets = images
    starts, ends, problems = _ranges(file, people, len(offsets))
    known = np.full(len(starts), -1, dtype=np.int64)
    for at in ((starts + ends) // 2, starts, ends - 1):
        if len(unknown := np.flatnonzero(known < 0)):
            known[unknown] = read_labels(offsets[at[unknown]])
    starts, ends, known = starts[known >= 0], ends[known >= 0], known[known >= 0]
    outvoted, doubted = _ask_more(offsets, starts, ends, known, read_labels)
    # Stretches in turn: in no range, in the first range, in no range, in the second, ...
    borders = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [len(offsets)]])
    owners = np.full(2 * len(starts) + 1, -1, dtype=np.int64)
    owners[1::2] = known
    labels = np.repeat(owners, np.diff(borders))
    if len(alone := np.flatnonzero(labels < 0)):
        labels[alone] = read_labels(offsets[alone])
    sample = np.setdiff1d([*_some(len(offsets)), *doubted], [*outvoted]).astype(np.int64)
    stored = read_labels(offsets[sample]) if len(starts) else labels[sample]
    differ = np.flatnonzero((stored >= 0) & (stored != labels[sample]))
    if len(differ):
        at = sample[differ[0]]
        problems.append(
            f"identity records give image {keys[at]} label {labels[at]}, but its own is "
            f"{stored[differ[0]]}; the headers of all images were read"
        )
        labels = read_labels(offsets)
    else:
        problems += [
            f"image {keys[place]} has label {label}, but all others of images {keys[starts[row]]} "
            f"to {keys[ends[row] - 1]}, which an identity record tells, have {known[row]}; that "
            "was taken"
            for place, (row, label) in outvoted.items()
        ]
    if len(unknown := np.flatnonzero(labels < 0)):
        # Images that cannot be read get the label of the image before them.
        if not len(readable := np.flatnonzero(labels >= 0)):
            raise ValueError(f"{file.path.name}: no image has a header that can be read")
        before = np.searchsorted(readable, unknown) - 1
        labels[unknown] = labels[readable[np.maximum(before, 0)]]
    return labels, problems


def _ask_more(
    offsets: Ints, starts: Ints, ends: Ints, known: Ints, read_labels: ReadLabels
) -> tuple[dict[int, tuple[int, int]], list[int]]:
    """Reads more images where ranges share a label: one person's, or a damaged label.

    One image against two or more is damaged: `known` is corrected, and its place returned with its
    row and label. Other images that contradict their range are returned second.
    """
    _, inverse, counts = np.unique(known, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[inverse] > 1)
    doubtful = np.zeros(len(shared), dtype=bool)
    for at in (starts[shared], ends[shared] - 1):
        labels = read_labels(offsets[at])
        doubtful |= (labels >= 0) & (labels != known[shared])
    outvoted: dict[int, tuple[int, int]] = {}
    doubted: list[int] = []
    for row in shared[doubtful].tolist():
        own = read_labels(offsets[starts[row] : ends[row]])
        found, votes = np.unique(own[own >= 0], return_counts=True)
        if one_odd := sorted(votes.tolist())[:-1] == [1] and votes.max() >= 2:
            known[row] = found[np.argmax(votes)]
        odd = np.flatnonzero((own >= 0) & (own != known[row]))
        if one_odd:
            outvoted[int(starts[row] + odd[0])] = row, int(own[odd[0]])
        else:
            doubted += (starts[row] + odd).tolist()
    return outvoted, doubted


def _ranges(file: RecordFile, people: Index, images: int) -> tuple[Ints, Ints, list[str]]:
    """Places of the images that surely belong to one identity each: starts, ends, problems."""
    keys, offsets = people
    heads = read_heads(file, offsets)
    good = without_image(heads)
    first, end = (np.where(good, heads[name], np.float32(0)) for name in ("first", "second"))
    slack_first, slack_end = _slack(first), _slack(end)
    first, end = first.astype(np.float64), end.astype(np.float64)
    fits = (first >= 1) & (first <= end) & (end - slack_end <= images + 1)
    problems = [
        f"identity record {keys[i]} at byte {offsets[i]} "
        + (f"tells images {first[i]:.0f} to {end[i] - 1:.0f}" if good[i] else "is damaged")
        for i in np.flatnonzero(~fits).tolist()
    ]
    use = np.flatnonzero(fits & (first + slack_first < end - slack_end))
    use = use[np.argsort(first[use], kind="stable")]
    starts = (first + slack_first - 1)[use].astype(np.int64)
    ends = (end - slack_end - 1)[use].astype(np.int64)
    if len(overlaps := np.flatnonzero(starts[1:] < ends[:-1])):
        one, other = use[overlaps[0]], use[overlaps[0] + 1]
        problems.append(f"identity records {keys[one]} and {keys[other]} tell the same images")
        return starts[:0], ends[:0], problems
    return starts, ends, problems
