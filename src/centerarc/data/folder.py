"""Faces in a folder: one folder per identity, one file per image."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import check_image_header
from centerarc.data.source import (
    EXTENSIONS,
    OUTSIDE,
    PICTURES,
    TOO_DEEP,
    UNNAMED,
    UNREAD,
    EncodedSource,
    Skipped,
    sizes_of,
)
from centerarc.io.files import read_file, require_folder
from centerarc.io.tables import Texts

# Reasons that a check takes for a mistake of the user's, unlike those for a stray `.DS_Store`.
UNLISTED = "a folder that cannot be listed"
UNREADABLE = "unreadable"
# Images are looked for so far below the folder of an identity: a root named by mistake may be a
# whole disk.
_LEVELS = ("", "one level", "two levels", "three levels")


class FolderSource(EncodedSource):
    """The images in `<root>/<identity>/<image>`, in natural order (2 before 10).

    Whatever is not a readable image of an identity is left out and listed, never silently:
    other files, hidden files, deeper folders, empty files and files whose header is not an image.
    Links are followed; one identity linked twice counts once.

    Args:
        root: The folder of identity folders.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        root: The folder of identity folders.
        skipped: The files and folders that were left out, by their path below the root.
        problems: Where people seem to be if most images lie too deep.

    Raises:
        ValueError: If the root is not a folder, the size is out of range, or there is no image.
    """

    def __init__(self, root: str | os.PathLike[str], *, image_size: int | None = None) -> None:
        self.root = require_folder("root", root)
        super().__init__(image_size)
        self.identities = []
        self.skipped: list[Skipped] = []
        # Images by the levels that they lie too deep, and a folder of people at each.
        self._deeper: Counter[int] = Counter()
        self._people: dict[int, str] = {}
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
        self.problems = self._misplaced(len(files)) + self._listed_elsewhere()
        if not files:
            raise ValueError(
                f"the folder {str(root)!r} holds no usable image in <identity>/<image>: "
                f"{self.summary()}"
            )

    def __repr__(self) -> str:
        return f"FolderSource({str(self.root)!r}: {self.summary()})"

    @property
    def paths(self) -> list[Path]:
        """File of each image."""
        return [self.root / file for file in self._files]

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `FaceSource.encoded`."""
        return read_file(f"{self.root}/{self._files[index]}")

    def place(self, index: int) -> str:
        """Returns the path of image `index` below the root, with slashes."""
        return self._files[index]

    def files(self) -> Iterable[str]:
        """Returns the file of each image."""
        return map(str, self.paths)

    def file_sizes(self) -> npt.NDArray[np.int64]:
        """Returns the bytes of each image; see `FaceSource.file_sizes`."""
        return sizes_of(f"{self.root}/{file}" for file in self._files)

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
            file, extension = f"{folder}/{name}", _extension(name)
            if extension in PICTURES - EXTENSIONS:
                self._skip(file, UNREAD, extension, images=1)
                continue
            if extension not in EXTENSIONS:
                self._skip(file, UNNAMED)
                continue
            try:
                check_image_header(f"{self.root}/{file}")
            except ValueError as error:
                self._skip(file, UNREADABLE, str(error), images=1)
                continue
            images.append(name)
        return images

    def _listed(self, folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
        """Lists what is wanted in a folder, in natural order, and records the rest."""
        try:
            with os.scandir(self.root / folder) as listing:
                entries = sorted(listing, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            self._skip(folder, UNLISTED, str(error))
            return []
        kept = []
        for entry in entries:
            name = os.path.join(folder, entry.name)
            # Only links are looked up: the listing has said what the others are.
            if entry.name.startswith("."):
                self._skip(name, "hidden")
            elif entry.is_symlink() and not os.path.exists(entry.path):
                self._skip(name, "a broken link", images=int(_is_picture(name)))
            elif wanted(entry):
                kept.append(entry.name)
            elif entry.is_dir():
                if images := self._count_deeper(entry.path):
                    self._skip(name, TOO_DEEP, images=images)
                else:
                    self._skip(name, "a folder inside an identity's folder")
            elif _is_picture(name):
                self._skip(name, OUTSIDE, images=1)
            else:
                self._skip(name, "not in an identity's folder")
        return kept

    def _count_deeper(self, folder: str) -> int:
        """Counts the images, by their names, in a folder and up to two folders below it."""
        total = 0
        # Links to folders and hidden folders are not entered, so that loops end.
        for place, folders, files in os.walk(folder):
            levels = len(Path(place).relative_to(self.root).parts) - 1
            last = levels + 1 == len(_LEVELS)
            folders[:] = [] if last else sorted(f for f in folders if not f.startswith("."))
            if number := sum(map(_is_picture, files)):
                self._deeper[levels] += number
                self._people.setdefault(levels, os.path.dirname(place))
                total += number
        return total

    def _listed_elsewhere(self) -> list[str]:
        """Says that a list names the people, as in an imagefolder of Hugging Face's."""
        lists = {"metadata.csv", "metadata.jsonl"}
        found = next((s.place for s in self.skipped if os.path.basename(s.place) in lists), None)
        if found is None:
            return []
        return [
            f"{found!r} may say who is on the images, as in an imagefolder of datasets: then give "
            "it, as CSV, for the source, with path_column file_name and its identity_column"
        ]

    def _misplaced(self, served: int) -> list[str]:
        """Says where people seem to be if most images lie deeper than they should."""
        deeper = self._deeper.total()
        if deeper <= served:
            return []
        levels = min(self._deeper, key=lambda number: (-self._deeper[number], number))
        return [
            f"most images ({deeper} of {served + deeper}) lie too deep: people seem to lie "
            f"{_LEVELS[levels]} deeper; use a folder such as {self._people[levels]!r} instead"
        ]


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns a sort key that puts `img2` before `img10`, the same on every machine."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(p), "") if p[0] in "0123456789" else (-1, p) for p in parts], name


def _is_picture(name: str) -> bool:
    return _extension(name) in PICTURES and not os.path.basename(name).startswith(".")


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()
