"""The photos of a folder tree, and names for what comes of them."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from centerarc.data.extensions import EXTENSIONS
from centerarc.data.folder import natural_key


@dataclass(frozen=True)
class Photo:
    """A photo.

    Args:
        path: Below the root, with slashes.
        version: Size and time of change; another one means other contents.
    """

    path: str
    version: str


@dataclass
class PhotoTree:
    """What a folder tree holds.

    Args:
        photos: Its photos in natural order, folders after the files beside them.
        left_out: Folders and files that could not be looked into, with the reason.
        others: Number of files that are no photo by name, hidden ones included.
    """

    photos: list[Photo] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0


def find_photos(root: str | os.PathLike[str]) -> PhotoTree:
    """Finds all photos below a folder; links are followed, each folder is seen once.

    Args:
        root: The folder.

    Returns:
        What was found.

    Raises:
        ValueError: If the root is no folder or holds no photo.
    """
    top = Path(root)
    if not top.is_dir():
        raise ValueError(f"{os.fspath(root)!r} is not a folder; photos are taken from a folder")
    tree = PhotoTree()
    _search(top, PurePosixPath(), tree, {})
    if not tree.photos:
        known = ", ".join(sorted(EXTENSIONS))
        raise ValueError(
            f"{os.fspath(root)!r} holds no photo ({known}), only {tree.others} other files"
        )
    return tree


def _search(folder: Path, below: PurePosixPath, tree: PhotoTree, seen: dict[str, str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        tree.left_out.append((below.as_posix(), f"a link to a folder seen before: {seen[real]!r}"))
        return
    seen[real] = below.as_posix()
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        tree.left_out.append((below.as_posix(), f"cannot be listed: {error.strerror}"))
        return
    folders = []
    for entry in entries:
        place = below / entry.name
        hidden = entry.name.startswith(".")
        if entry.is_dir():
            if not hidden:
                folders.append(entry)
        elif hidden or place.suffix.lower() not in EXTENSIONS:
            tree.others += 1
        else:
            try:
                facts = entry.stat()
            except OSError as error:
                tree.left_out.append((place.as_posix(), f"cannot be read: {error.strerror}"))
                continue
            tree.photos.append(Photo(place.as_posix(), f"{facts.st_size}-{facts.st_mtime_ns}"))
    for entry in folders:
        _search(Path(entry.path), below / entry.name, tree, seen)


def output_names(photos: Sequence[tuple[str, str]]) -> list[str]:
    """Chooses where the faces of each photo go, without an extension.

    Without an identity that is the photo's own path. With one it is a folder of that name, and
    folders above the photo become part of the name. Names that differ only in extension, case or
    the spelling of accents would meet in one file on some machine: the first keeps the plain name,
    later ones keep their extension as well, and a number if even that is taken.

    Args:
        photos: Path and identity ("" for none) of each, in order.

    Returns:
        A relative path with slashes for each; all are different.

    Example:
        >>> output_names([("ann/1.jpg", ""), ("ann/1.png", ""), ("trip/2.jpg", "Bob")])
        ['ann/1', 'ann/1.png', 'Bob/trip_2']
    """
    taken: set[str] = set()
    names = []
    for path, identity in photos:
        place = PurePosixPath(path)
        if identity:
            parts = place.parts[1:] if place.parts[0] == identity else place.parts
            place = PurePosixPath(identity, "_".join(parts or place.parts))
        plain = place.with_suffix("").as_posix()
        name, number = plain, 1
        while folded_name(name) in taken:
            name = place.as_posix() if number == 1 else f"{place.as_posix()}~{number}"
            number += 1
        taken.add(folded_name(name))
        names.append(name)
    return names


def face_separators(names: Iterable[str]) -> dict[str, str]:
    """Chooses what stands before the number of a second face, in each folder.

    That is `-`, so that the second face of `1` is `1-2`; `--` where a photo of that name exists,
    and so on.

    Args:
        names: All that `output_names` gave.

    Returns:
        The separator of each folder that needs another than `-`.

    Example:
        >>> face_separators(["ann/1", "ann/1-2", "bob/1"])
        {'ann': '--'}
    """
    folded = {folded_name(name): name for name in names}
    unusable: dict[str, set[int]] = {}
    for key, name in folded.items():
        found = re.search(r"(-+)([0-9]+)$", key)
        if found is None:
            continue
        before = key[: found.start()]
        run = len(found[1])
        clashes = {n for n in range(1, run + 1) if before + "-" * (run - n) in folded}
        if clashes:
            folder = PurePosixPath(name).parent.as_posix()
            unusable.setdefault(folder, set()).update(clashes)
    return {
        folder: "-" * next(n for n in range(1, len(clashes) + 2) if n not in clashes)
        for folder, clashes in unusable.items()
        if 1 in clashes
    }


def folded_name(name: str) -> str:
    """Returns what is equal for names that some machine takes for one file."""
    return unicodedata.normalize("NFC", name).casefold()
