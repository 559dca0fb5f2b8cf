"""A source split by people into a part to train on and a part held out."""

import filecmp
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.folder import FolderSource
from centerarc.data.image_list import ListSource, write_list
from centerarc.data.source import FaceSource
from centerarc.data.views import Subset, split_identities, write_identities

_FILES = ("train.txt", "train.csv", "held-out.txt", "held-out.csv")


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
        Everyone, on one side or the other.

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
        raise ValueError(f"fraction must be in (0, 1), got {fraction}")
    for name, value, least in (
        ("count", count, 1),
        ("seed", seed, 0),
        ("min_images", min_images, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
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

    Where the images are files it also writes `train.csv` and `held-out.csv`, lists that
    `ListSource` opens. Their paths start from the folder, so that images and lists can be moved
    together; they are absolute where that is impossible, as on another drive of Windows.

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
    present = [target / name for name in _FILES if os.path.lexists(target / name)]
    if present and not overwrite:
        # A list may be large: both are compared on the disk.
        with tempfile.TemporaryDirectory() as place:
            for path in _write(Path(place), source, split, start=target):
                there = target / path.name
                same = there.is_file() and filecmp.cmp(path, there, shallow=False)
                if os.path.lexists(there) and not same:
                    raise ValueError(
                        f"{str(there)!r} is of another split; choose another folder or replace its "
                        "files with --overwrite"
                    )
    written = _write(target, source, split, start=target)
    for path in present:
        if overwrite and path not in written:  # the list of a split that had files
            path.unlink()
    return written


def _write(folder: Path, source: FaceSource, split: Split, *, start: Path) -> list[Path]:
    """Writes the files of a split to a folder; the lists' paths start from `start`."""
    written = []
    files = _files(source)
    for part, names in (("train", split.train), ("held-out", split.held_out)):
        path = folder / f"{part}.txt"
        write_identities(path, names)
        written.append(path)
        if files is not None:
            chosen = set(names)
            owners = [source.identities[label] for label in source.labels.tolist()]
            rows = zip(_from_folder(files, start), owners, strict=True)
            write_list(path.with_suffix(".csv"), [row for row in rows if row[1] in chosen])
            written.append(path.with_suffix(".csv"))
    return written


def _from_folder(files: Sequence[Path], start: Path) -> Iterator[str]:
    """Yields the paths of files as they lead there from a folder."""
    # Links are followed: the system takes `..` of what a link leads to, not of the link.
    real = os.path.realpath(start)
    folders: dict[str, str] = {}
    for file in files:
        folder, name = os.path.split(os.path.abspath(file))
        if folder not in folders:
            try:
                folders[folder] = os.path.relpath(os.path.realpath(folder), real)
            except ValueError:  # another drive
                folders[folder] = folder
        yield Path(folders[folder], name).as_posix()


def _files(source: FaceSource) -> list[Path] | None:
    """The file of each image; None where images are not files of their own."""
    if isinstance(source, Subset):
        files = _files(source.source)
        return None if files is None else [files[index] for index in source.indices.tolist()]
    return source.paths if isinstance(source, FolderSource | ListSource) else None
