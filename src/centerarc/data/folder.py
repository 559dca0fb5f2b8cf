"""Faces in a folder: one folder per identity, one file per image."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from centerarc.data.decode import check_image_header
from centerarc.data.source import EncodedSource, Skipped
from centerarc.io.files import read_file
from centerarc.io.tables import Texts

# What the names of picture files end with.

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# Pictures as well, which a camera, a phone or a browser saves and this library does not read.
UNREAD_EXTENSIONS = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jfif", ".jp2", ".jxl", ".dng", ".cr2", ".nef", ".arw"}
)


def extension(name: str) -> str:
    """Returns what a file's name ends with, in small letters with its dot; "" if nothing."""
    return os.path.splitext(name)[1].lower()


def is_picture(name: str) -> bool:
    """Tells whether a file is a picture by its name, read here or not, and is not hidden."""
    return not os.path.basename(name).startswith(".") and (
        extension(name) in EXTENSIONS or extension(name) in UNREAD_EXTENSIONS
    )


# Images that lie deeper than `<root>/<identity>/<image>`, and where people seem to be instead.

# Deeper ones are not looked for: a root named by mistake may be a whole disk.
_LEVELS = ("", "one level", "two levels", "three levels")


class Deeper:
    """Counts images below the folders of a root's identities.

    Args:
        root: The folder of identity folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._images: Counter[int] = Counter()  # by the levels they lie too deep
        self._people: dict[int, str] = {}  # a folder of people, had it been the root

    def count(self, folder: str) -> int:
        """Returns how many images a folder holds, up to two folders below it, by their names.

        Links to folders and hidden folders are not entered, so that loops end.

        Args:
            folder: A folder inside that of an identity.
        """
        total = 0
        for place, folders, files in os.walk(folder):
            levels = len(Path(place).relative_to(self._root).parts) - 1
            last = levels + 1 == len(_LEVELS)
            folders[:] = [] if last else sorted(f for f in folders if not f.startswith("."))
            number = sum(map(is_picture, files))
            if number:
                self._images[levels] += number
                self._people.setdefault(levels, os.path.dirname(place))
                total += number
        return total

    def hint(self, served: int) -> str:
        """Returns where people seem to lie, or "" unless most images lie deeper.

        Args:
            served: Images of the root that are where they should be.
        """
        deeper = self._images.total()
        if deeper <= served:
            return ""
        levels = min(self._images, key=lambda number: (-self._images[number], number))
        return (
            f"most images ({deeper} of {served + deeper}) lie too deep: people seem to lie "
            f"{_LEVELS[levels]} deeper; use a folder such as {self._people[levels]!r} instead"
        )


# Faces in a folder: one folder per identity, one file per image.

# Reasons that a check takes for a mistake of the user's, unlike those for a stray `.DS_Store`.
OUTSIDE = "an image outside an identity's folder"
TOO_DEEP = "a folder of images inside an identity's folder"
UNREAD = "a format that is not read"
UNLISTED = "a folder that cannot be listed"
UNREADABLE = "unreadable"


class FolderSource(EncodedSource):
    """The images in `<root>/<identity>/<image>`, in natural order (2 before 10).

    Whatever is not a readable image of an identity is left out and listed, never silently:
    other files, hidden files, deeper folders, empty files and files whose header is no image.
    Links are followed; one identity linked twice counts once.

    Args:
        root: The folder of identity folders.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        identities: Names of the identities, by label.
        labels: `(len,)` int64 label of each image.
        root: The folder of identity folders.
        skipped: The files and folders that were left out, by their path below the root.
        problems: Where people seem to be if most images lie too deep.

    Raises:
        ValueError: If the root is no folder, the size is out of range, or there is no image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        image_size: int | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"root is {str(root)!r}, which is not a folder")
        super().__init__(image_size)
        self.identities = []
        self.skipped: list[Skipped] = []
        self._deeper = Deeper(self.root)
        files: list[str] = []
        labels: list[int] = []
        for name in self._identity_folders():
            images = self._images(name)
            if not images:
                self._skip(name, "a folder without an image")
                continue
            labels += [len(self.identities)] * len(images)
            self.identities.append(name)
            files += [f"{name}/{image}" for image in images]
        self._files = Texts.of(files)
        self.labels = np.array(labels, dtype=np.int64)
        hint = self._deeper.hint(len(files))
        self.problems = [hint] if hint else []
        if not files:
            raise ValueError(
                f"root {str(root)!r} holds no usable image in <identity>/<image>: {self.summary()}"
            )

    def __repr__(self) -> str:
        return f"FolderSource({str(self.root)!r}: {self.summary()})"

    @property
    def paths(self) -> list[Path]:
        """File of each image."""
        return [self.root / file for file in self._files]

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        return read_file(f"{self.root}/{self._files[index]}")

    def place(self, index: int) -> str:
        """Returns the path of image `index` below the root, with slashes."""
        return self._files[index]

    def files(self) -> Iterable[str]:
        """Returns the file of each image."""
        return map(str, self.paths)

    def roots(self) -> Iterable[Path]:
        """Returns the root."""
        return (self.root,)

    def _skip(self, name: str, reason: str, detail: str = "", images: int = 0) -> None:
        place = Path(name).as_posix()
        folder, _, inside = place.partition("/")
        self.skipped.append(Skipped(place, reason, detail, images, folder if inside else ""))

    def _identity_folders(self) -> list[str]:
        folders = []
        seen: dict[str, str] = {}
        for name in self._listed("", os.DirEntry.is_dir):
            real = os.path.realpath(self.root / name)
            if real in seen:
                self._skip(name, "a link to another identity", seen[real])
                continue
            seen[real] = name
            folders.append(name)
        return folders

    def _images(self, folder: str) -> list[str]:
        images = []
        for name in self._listed(folder, os.DirEntry.is_file):
            kind = extension(name)
            if kind in UNREAD_EXTENSIONS:
                self._skip(f"{folder}/{name}", UNREAD, kind, images=1)
                continue
            if kind not in EXTENSIONS:
                self._skip(f"{folder}/{name}", "no image by its extension")
                continue
            try:
                check_image_header(f"{self.root}/{folder}/{name}")
            except ValueError as error:
                self._skip(f"{folder}/{name}", UNREADABLE, str(error), images=1)
                continue
            images.append(name)
        return images

    def _listed(self, folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        """Lists what is wanted in a folder, in natural order, and records the rest."""
        kept = []
        try:
            with os.scandir(self.root / folder) as listing:
                entries = sorted(listing, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            self._skip(folder, UNLISTED, str(error))
            return []
        for entry in entries:
            # Listing told what it is, so only links are looked up.
            name = os.path.join(folder, entry.name)
            if entry.name.startswith("."):
                self._skip(name, "hidden")
            elif entry.is_symlink() and not os.path.exists(entry.path):
                self._skip(name, "a broken link", images=int(is_picture(name)))
            elif not wanted(entry):
                self._skip_misplaced(name, entry)
            else:
                kept.append(entry.name)
        return kept

    def _skip_misplaced(self, name: str, entry: os.DirEntry[str]) -> None:
        if not entry.is_dir():  # a file, or a pipe where files should be
            picture = is_picture(name)
            reason = OUTSIDE if picture else "not in an identity's folder"
            self._skip(name, reason, images=int(picture))
        elif images := self._deeper.count(entry.path):
            self._skip(name, TOO_DEEP, images=images)
        else:
            self._skip(name, "a folder inside an identity's folder")


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns a sort key that puts `img2` before `img10`, the same on every machine."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(p), "") if p[0] in "0123456789" else (-1, p) for p in parts], name
