"""Writing RecordIO data sets: parts by several processes, then one file."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data.recordio.labels import Property
from centerarc.data.recordio.records import (
    HEADER,
    LABEL_LIMIT,
    Ints,
    RecordFile,
    framed,
    read_heads,
)
from centerarc.io.files import atomic_path

Parts = Sequence[tuple[str | os.PathLike[str], Ints]]

_COPIED_AT_ONCE = 1 << 23
_IN_FILE_NAMES = str.maketrans("\t\n\r", "___")


def _about(labels: tuple[float, float], key: int) -> bytes:
    """A record without an image, which tells of others."""
    return framed(HEADER.pack(2, 0.0, key, 0) + np.array(labels, dtype="<f4").tobytes())


def image_keys(labels: npt.ArrayLike) -> range:
    """Returns the keys that images get, which also says in which layout they are written.

    Where the images of each identity follow one another the layout is insightface's: record 0,
    images from key 1 on, one record an identity. Otherwise, and where keys reach 2^24 so that the
    float32 of record 0 cannot hold them, it is that of mxnet's im2rec: images from key 0 on,
    nothing else. arcface_torch reads both.

    Args:
        labels: `(N,)` label of each image, in the order of writing.

    Raises:
        ValueError: If labels are not 0 to C - 1, each at least once, with C at most 2^24.

    Example:
        >>> image_keys([0, 0, 2, 2, 1]), image_keys([0, 1, 0])
        (range(1, 6), range(0, 3))
    """
    given = np.asarray(labels)
    if given.ndim != 1 or not len(given) or not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"labels is {given.dtype} of shape {given.shape}; it must be whole numbers of shape "
            "(N,) with N at least 1"
        )
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= LABEL_LIMIT:
        raise ValueError(
            f"labels are {low} to {high}; they must be from 0 to {LABEL_LIMIT - 1}, since a "
            "float32 cannot tell others apart"
        )
    if not (counts := np.bincount(given)).all():
        raise ValueError(f"label {int(np.argmin(counts))} has no image; labels must have no gap")
    count, people = len(given), high + 1
    runs = 1 + int(np.count_nonzero(given[1:] != given[:-1]))
    first = 1 if runs == people and count + people < LABEL_LIMIT else 0
    return range(first, first + count)


def check_identity(name: str) -> None:
    """Raises `ValueError` for a name that cannot be a folder in a line of a .lst, between tabs."""
    if not name or name in (".", "..") or set(name) & set("/\\\t\n\r"):
        raise ValueError(
            f"identity {name!r} is not the name of a folder, as a .rec needs: it must be without "
            "slashes, tabs and line breaks"
        )


def write_part(
    path: str | os.PathLike[str], samples: Iterable[tuple[int, bytes]], *, first_key: int
) -> Ints:
    """Writes the records of some images, to be joined with others by `finish`.

    Args:
        path: The file to write, complete or absent.
        samples: Label and image file of each image.
        first_key: Key of the first image in the whole data set; see `image_keys`.

    Returns:
        `(K,)` byte at which each record starts in this file.

    Raises:
        ValueError: If a label is not in `[0, 2^24)`, an image is empty or longer than a record
            can be, or `first_key` is negative.
        OSError: If the file cannot be written.
    """
    if first_key < 0:
        raise ValueError(f"first_key is {first_key}; it must be at least 0")
    offsets: list[int] = []
    at = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for key, (label, image) in enumerate(samples, start=first_key):
            if not 0 <= label < LABEL_LIMIT:
                raise ValueError(
                    f"record {key} has label {label}; it must be from 0 to {LABEL_LIMIT - 1}, "
                    "since a float32 cannot tell others apart"
                )
            if not image:
                raise ValueError(f"record {key} has an empty image")
            record = framed(HEADER.pack(0, float(label), key, 0) + image)
            file.write(record)
            offsets.append(at)
            at += len(record)
    return np.array(offsets, dtype=np.int64)


def finish(
    path: str | os.PathLike[str],
    parts: Parts,
    labels: npt.ArrayLike,
    *,
    identities: Sequence[str],
    image_size: tuple[int, int],
    places: Iterable[str],
) -> None:
    """Joins parts to a data set: the .rec, and `.idx`, `.lst` and `property` beside it.

    In insightface's layout (see `image_keys`) the .rec holds record 0, the images and a record of
    each identity, which tells the keys of its images; the .lst has lines `1 path label`. In
    im2rec's there are images only, and lines `key label path`. Paths in the .lst are
    `<identity>/<file>`, so that names come back. The parts are left; the .rec appears last.

    Args:
        path: The .rec to write.
        parts: File and offsets of each part as `write_part` left them, in the order of their keys.
        labels: `(N,)` label of each image of all parts; each from 0 to C - 1 at least once.
        identities: The C names.
        image_size: Height and width in pixels.
        places: N paths of the images, of which the .lst gets the last component.

    Raises:
        ValueError: If the arguments do not fit each other, a name is not a folder's name or comes
            twice, the path does not end in `.rec`, or a part is not what its offsets say.
        OSError: If a file cannot be read or written.
    """
    target = Path(path)
    if target.suffix.lower() != ".rec":
        raise ValueError(f"path is {str(target)!r}; it must end in .rec")
    keys, given = image_keys(labels), np.asarray(labels, dtype=np.int64)
    people = int(given.max()) + 1
    if len(identities) != people:
        raise ValueError(f"there are {len(identities)} identities for {people} labels")
    if len(set(identities)) != people:
        raise ValueError("identities has a name twice; each may come once")
    for name in identities:
        check_identity(name)
    if (records := sum(len(offsets) for _, offsets in parts)) != len(given):
        raise ValueError(f"there are {len(given)} labels for {records} records in the parts")
    _check_parts(parts, keys, given)
    with ExitStack() as stack:
        # The one entered first is renamed last.
        rec = stack.enter_context(atomic_path(target))
        offsets = _write_rec(rec, parts, given if keys[0] == 1 else None)
        idx = stack.enter_context(atomic_path(target.with_suffix(".idx")))
        starts = (int(offset) for offset in offsets)
        _write_lines(idx, (f"{key}\t{start}" for key, start in enumerate(starts)))
        lst = stack.enter_context(atomic_path(target.with_suffix(".lst")))
        _write_lines(lst, _listed(keys, given, identities, places))
        about = stack.enter_context(atomic_path(target.with_name("property")))
        _write_lines(about, [str(Property(len(identities), *image_size))])


def _check_parts(parts: Parts, keys: range, labels: Ints) -> None:
    """Looks at the first and last record of each part."""
    done = 0
    for path, offsets in parts:
        if not len(offsets):
            continue
        heads = read_heads(RecordFile(path), np.asarray(offsets, dtype=np.int64)[[0, -1]])
        first, last = done, done + len(offsets) - 1
        if offsets[0] != 0 or heads["key"].tolist() != [keys[first], keys[last]]:
            raise ValueError(
                f"part {os.fspath(path)!r} has keys {heads['key'][0]} to {heads['key'][1]}; it "
                f"must have {keys[first]} to {keys[last]}"
            )
        if heads["label"].tolist() != [labels[first], labels[last]]:
            raise ValueError(
                f"part {os.fspath(path)!r} has labels {heads['label'][0]:.0f} at its start and "
                f"{heads['label'][1]:.0f} at its end; labels has {labels[first]} and "
                f"{labels[last]} there"
            )
        done += len(offsets)


def _write_rec(path: Path, parts: Parts, grouped: Ints | None) -> Ints:
    """Writes the records; `grouped` has the labels if others than images are wanted."""
    offsets: list[Ints] = []
    with open(path, "wb") as file:
        about: list[bytes] = []
        if grouped is not None:
            end = len(grouped) + 1
            borders = [*(np.flatnonzero(np.diff(grouped, prepend=-1)) + 1).tolist(), end]
            file.write(_about((end, end + len(borders) - 1), 0))
            offsets.append(np.zeros(1, dtype=np.int64))
            about = [_about(pair, end + row) for row, pair in enumerate(pairwise(borders))]
        for part, within in parts:
            offsets.append(np.asarray(within, dtype=np.int64) + file.tell())
            with open(part, "rb") as source:
                shutil.copyfileobj(source, file, _COPIED_AT_ONCE)
        sizes = np.array([len(record) for record in about], dtype=np.int64)
        offsets.append(file.tell() + np.cumsum(sizes) - sizes)
        file.writelines(about)
    return np.concatenate(offsets)


def _listed(
    keys: range, labels: Ints, identities: Sequence[str], places: Iterable[str]
) -> Iterator[str]:
    number = -1
    for number, place in enumerate(places):
        if number == len(labels):
            break
        label = int(labels[number])
        name = place.replace("\\", "/").rpartition("/")[2]
        # With a tab or line break in it a name would be more than a name.
        where = f"{identities[label]}/{name.translate(_IN_FILE_NAMES)}"
        yield f"1\t{where}\t{label}" if keys[0] == 1 else f"{keys[number]}\t{label}.000000\t{where}"
    if number != len(labels) - 1:
        many = "more" if number == len(labels) else f"only {number + 1}"
        raise ValueError(f"there are {many} places for {len(labels)} images")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
