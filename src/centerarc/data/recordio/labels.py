"""Which person each image of a .rec shows."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from centerarc.data.recordio.heads import Ints, read_heads, without_image
from centerarc.data.recordio.index import Index
from centerarc.data.recordio.records import RecordFile

# Reads labels of the records at these bytes; -1 for damaged ones. The name says which they are.
ReadLabels = Callable[[str, Ints], Ints]
# So many images are asked whether identity records are right.
_COMPARED = 1000


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
