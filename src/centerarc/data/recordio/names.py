"""Names of people: the folders that a .lst file tells."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from centerarc.data.recordio.heads import Ints, label_values
from centerarc.data.recordio.index import Index
from centerarc.data.recordio.listing import Listing, read_listing, some_lines
from centerarc.data.recordio.records import RecordFile

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
