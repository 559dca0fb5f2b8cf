"""Splitting a source by people into a part to train on and a part held out."""

import filecmp
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.folder import FolderSource
from centerarc.data.image_list import ListSource, write_list
from centerarc.data.source import FaceSource
from centerarc.data.views import Subset, split_identities
from centerarc.io.files import atomic_path

_MARK = "\ufeff".encode()
_SPLIT_FILES = ("train.txt", "train.csv", "held-out.txt", "held-out.csv")


@dataclass(frozen=True)
class Split:
    """Who is trained on and who is held out, each in the order of the source.

    Args:
        train: Names of the people to train on.
        held_out: Names of the people held out.
    """

    train: list[str]
    held_out: list[str]


def split_source(
    source: FaceSource,
    *,
    fraction: float | None = None,
    count: int | None = None,
    seed: int = 0,
    min_images: int = 2,
) -> Split:
    """Holds people out, with all their images.

    The choice depends on the names, the seed and who has enough images; not on the order of the
    people or the kind of source.

    Args:
        source: The source.
        fraction: Part to hold out of the people with enough images, in (0, 1); either this or
            `count`.
        count: How many people to hold out, at least 1.
        seed: Chooses who, at least 0.
        min_images: People with fewer images are never held out, as one image makes no pair of the
            same person. They are trained on.

    Returns:
        Everybody, on one side or the other.

    Raises:
        ValueError: If an argument is out of range or too few people have enough images.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=5, images_per_identity=2)
        >>> split = split_source(faces, count=2, seed=1)
        >>> len(split.train), len(split.held_out)
        (3, 2)
    """
    if (fraction is None) == (count is None):
        raise ValueError("give either fraction or count, the part of the people to hold out")
    if fraction is not None and not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must be between 0 and 1, both excluded")
    if count is not None and count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0")
    if min_images < 1:
        raise ValueError(f"min_images is {min_images}; it must be at least 1")
    people = source.identities
    images = np.bincount(source.labels, minlength=len(people))
    enough = [name for name, has in zip(people, images, strict=True) if has >= min_images]
    wanted = count if fraction is None else max(round(fraction * len(enough)), 1)
    assert wanted is not None
    if wanted >= len(enough):
        raise ValueError(
            f"{wanted} people cannot be held out: {len(enough)} of {len(people)} have "
            f"{min_images} images or more, and at least one of them is for training"
        )
    chosen = set(split_identities(enough, wanted / len(enough), seed)[1])
    return Split(
        [name for name in people if name not in chosen], [name for name in people if name in chosen]
    )


def write_split(
    folder: str | os.PathLike[str], source: FaceSource, split: Split, *, overwrite: bool = False
) -> list[Path]:
    """Writes who is on which side: `train.txt` and `held-out.txt`, names, one a line.

    Where the images are files it also writes `train.csv` and `held-out.csv`, lists of absolute
    paths that `ListSource` opens.

    Args:
        folder: Where to write; made if absent.
        source: What was split.
        split: Its people.
        overwrite: Replace the files of another split; otherwise they stay and it is an error.

    Returns:
        The files.

    Raises:
        ValueError: If a name cannot be written, or the folder holds files of another split.
        OSError: If a file cannot be written.
    """
    target = Path(folder)
    present = [target / name for name in _SPLIT_FILES if os.path.lexists(target / name)]
    if present and not overwrite:
        # A list may be large: both are compared on the disk.
        with tempfile.TemporaryDirectory() as place:
            wanted = _write_parts(Path(place), source, split)
            for path in wanted:
                there = target / path.name
                if os.path.lexists(there) and not _same(path, there):
                    raise ValueError(
                        f"{str(there)!r} is of another split; choose another folder or replace its "
                        "files with --overwrite"
                    )
    written = _write_parts(target, source, split)
    for path in present:
        if overwrite and path not in written:  # the list of a split that had files
            path.unlink()
    return written


def _same(first: Path, second: Path) -> bool:
    return second.is_file() and filecmp.cmp(first, second, shallow=False)


def _write_parts(folder: Path, source: FaceSource, split: Split) -> list[Path]:
    written = []
    files = _files(source)
    for part, names in (("train", split.train), ("held-out", split.held_out)):
        path = folder / f"{part}.txt"
        write_identities(path, names)
        written.append(path)
        if files is not None:
            chosen = set(names)
            owners = (source.identities[label] for label in source.labels)
            rows = [
                (os.path.abspath(file), owner)
                for file, owner in zip(files, owners, strict=True)
                if owner in chosen
            ]
            write_list(path.with_suffix(".csv"), rows)
            written.append(path.with_suffix(".csv"))
    return written


def _files(source: FaceSource) -> list[Path] | None:
    """The file of each image; None where images are no files of their own."""
    if isinstance(source, Subset):
        files = _files(source.source)
        return None if files is None else [files[index] for index in source.indices.tolist()]
    return source.paths if isinstance(source, FolderSource | ListSource) else None


def write_identities(path: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Writes names of people, one a line, as `read_identities` reads them.

    Args:
        path: The file.
        names: The names.

    Raises:
        ValueError: If a name is empty, has a line break in it, or is no text.
    """
    lines = list(names)
    data = b"".join(_line(name) for name in lines)
    with atomic_path(path) as temporary:
        # A reader takes one mark of the byte order away.
        temporary.write_bytes(_MARK + data if data.startswith(_MARK) else data)


def _line(name: str) -> bytes:
    if name and "\n" not in name and "\r" not in name:
        try:
            return f"{name}\n".encode("utf-8", "surrogateescape")  # a folder's need not be UTF-8
        except UnicodeEncodeError:
            pass
    raise ValueError(
        f"identity {name!r} cannot be in a list of one name a line; give it another name"
    )


def read_identities(path: str | os.PathLike[str]) -> list[str]:
    """Reads names of people, one a line; empty lines do not count.

    Args:
        path: The file, UTF-8.

    Returns:
        The names in the order of the file.

    Raises:
        ValueError: If there is none, or one comes twice.
        OSError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_identities(f"{folder}/held-out.txt", ["Ann Lee", "Bob"])
        ...     read_identities(f"{folder}/held-out.txt")
        ['Ann Lee', 'Bob']
    """
    data = Path(path).read_bytes().removeprefix(_MARK)
    text = data.decode("utf-8", "surrogateescape")
    names = [name for line in text.split("\n") if (name := line.removesuffix("\r"))]
    if not names:
        raise ValueError(f"{os.fspath(path)!r} names nobody; it must have one name a line")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{os.fspath(path)!r} names {name!r} twice")
        seen.add(name)
    return names
