"""Faces in a RecordIO file, as insightface and mxnet's im2rec write them."""

import os
from pathlib import Path

import numpy as np

from centerarc.data.recordio.index import KeptFinds, read_index
from centerarc.data.recordio.labels import (
    Layout,
    Property,
    find_layout,
    image_labels,
    listed_labels,
    names_of_labels,
    read_property,
)
from centerarc.data.recordio.records import Ints, Progress, RecordFile, image_of
from centerarc.data.source import EncodedSource


class RecordIOSource(EncodedSource):
    """The images of a RecordIO data set, `train.rec` and the files beside it.

    `train.idx` tells where records start; without it the .rec is walked through once. Labels
    stand in the images' headers. In insightface's layout identity records spare reading them all;
    in others `train.lst` does, if it is there and fits; else one pass reads them. What many headers
    said is kept in `train.labels.npz` beside the .rec for the next opening, where that can be
    written; it counts until the .rec changes.

    Labels are renumbered from 0 without gaps. People have the names of their folders in the .lst
    where these tell them apart, else their stored label as text.

    An image whose record is damaged fails when it is read; if not even its label can be read it
    has that of the image before it.

    Args:
        path: The .rec, or a folder that holds exactly one.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        progress: Called now and then with what is done and its total, while the .rec is walked
            (in bytes) or labels are read (in records).

    Attributes:
        labels: `(len,)` int64 label of each image.
        identities: Names of the people, by label.
        keys: Key of each image's record.
        path: The .rec.
        property: What the file `property` says; None without it.
        problems: What is wrong with the data set but did not keep it from being opened.

    Raises:
        ValueError: If there is no such file, it holds no record, its .idx is damaged or does not
            fit it, record 0 does not fit the .idx, or a stored label is no whole number in
            `[0, 2^24)`, from where float32 cannot tell people apart.
        OSError: If a file cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(image_size)
        self.path = _find_rec(Path(path))
        self.problems: list[str] = []
        self._file = RecordFile(self.path)
        if not self._file.size:
            raise ValueError(f"{str(self.path)!r} is empty (0 bytes)")
        kept = KeptFinds(self._file, progress)
        if (idx := self._beside(".idx")) is not None:
            index = read_index(idx, self._file.size)
        else:
            index, self.problems = kept.index()
        layout = find_layout(self._file, index)
        self.keys = layout.images.keys
        self._offsets = layout.images.offsets
        self._label(layout, kept)
        kept.save()
        self.property = self._read_property()

    def __repr__(self) -> str:
        return (
            f"RecordIOSource({str(self.path)!r}: {len(self)} images of "
            f"{len(self.identities)} identities)"
        )

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        offset = int(self._offsets[index])
        payload = self._file.record(offset)
        try:
            image = image_of(payload)
        except ValueError as error:
            raise ValueError(f"damaged record at byte {offset}: {error}") from error
        if not image:
            raise ValueError(f"the record at byte {offset} holds no image")
        return image

    def place(self, index: int) -> str:
        """Returns which record image `index` is, by its key: `record 12`."""
        return f"record {self.keys[index]}"

    def _beside(self, suffix: str) -> Path | None:
        for spelled in (suffix, suffix.upper()):
            if (path := self.path.with_suffix(spelled)).is_file():
                return path
        return None

    def _label(self, layout: Layout, kept: KeptFinds) -> None:
        names: dict[int, str] = {}
        stored: Ints | None = None
        lst = self._beside(".lst")
        grouped = len(layout.identities.offsets) > 0
        if lst is not None and not grouped:
            try:
                stored, names = listed_labels(lst, self._file, layout.images)
            except ValueError as error:
                self.problems.append(f"the .lst was not used: {error}")
        if stored is None:
            stored, problems = image_labels(self._file, layout, kept.labels)
            self.problems += problems
        self.labels, values = _renumbered(stored)
        if lst is not None and grouped:
            try:
                at = _first_of_each(self.labels, len(values))
                found = names_of_labels(lst, len(self), at, values)
                names = dict(zip(values.tolist(), found, strict=True))
            except ValueError as error:
                self.problems.append(f"names were not taken from the .lst: {error}")
        self.identities = [names.get(value, str(value)) for value in values.tolist()]

    def _read_property(self) -> Property | None:
        path = self.path.with_name("property")
        if not path.is_file():
            return None
        try:
            found = read_property(path)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        if found.num_classes != len(self.identities):
            self.problems.append(
                f"property says {found.num_classes} identities, but images show "
                f"{len(self.identities)}"
            )
        return found


def _find_rec(path: Path) -> Path:
    if path.is_dir():
        found = sorted(
            entry for entry in path.iterdir() if entry.suffix.lower() == ".rec" and entry.is_file()
        )
        if len(found) != 1:
            names = ", ".join(repr(entry.name) for entry in found[:3]) or "none"
            raise ValueError(
                f"path {str(path)!r} is a folder with {len(found)} .rec files ({names}); name one"
            )
        return found[0]
    if not path.is_file():
        raise ValueError(f"path is {str(path)!r}, which is neither a file nor a folder")
    return path


def _renumbered(stored: Ints) -> tuple[Ints, Ints]:
    """Labels without gaps, and the stored label of each."""
    most = int(stored.max())
    if most >= 2**26:  # a .lst may have any
        values, labels = np.unique(stored, return_inverse=True)
        return labels.astype(np.int64), values
    present = np.zeros(most + 1, dtype=bool)
    present[stored] = True
    values = np.flatnonzero(present)
    if len(values) == most + 1:
        return stored, values
    return (np.cumsum(present) - 1)[stored], values


def _first_of_each(labels: Ints, count: int) -> Ints:
    """`(count,)` number of an image of each label."""
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    first = np.empty(count, dtype=np.int64)
    first[labels[starts[::-1]]] = starts[::-1]
    return first
