"""Faces in a folder: one folder per identity, one file per image."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.decode import check_image_header
from centerarc.data.encoded import EncodedSource
from centerarc.data.files import read_file

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why.

    Args:
        path: What was left out.
        reason: Why, in a few words.
    """

    path: Path
    reason: str


class FolderSource(EncodedSource):
    """The images in `<root>/<identity>/<image>`, in natural order (2 before 10).

    Whatever is not a readable image of an identity is left out and listed, never silently:
    other files, hidden files, deeper folders, empty files and files whose header is no image.
    Links are followed; one identity linked twice counts once.

    Args:
        root: The folder of identity folders.
        include: Names of identities to take; None takes all. Each must exist.
        exclude: Names of identities to leave out.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        identities: Names of the identities, by label.
        labels: `(len,)` int64 label of each image.
        paths: File of each image.
        skipped: What was left out, with the reason.

    Raises:
        ValueError: If the root is no folder, an argument is out of range, an identity to include
            is absent, or no image is left.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        include: Collection[str] | None = None,
        exclude: Collection[str] | None = None,
        image_size: int | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"root is {str(root)!r}, which is not a folder")
        super().__init__(image_size)
        self.identities = []
        self.paths: list[Path] = []
        self.skipped: list[Skipped] = []
        labels: list[int] = []
        for folder in self._identity_folders(include, set(exclude or ())):
            images = self._images(folder)
            if not images:
                self.skipped.append(Skipped(folder, "a folder without an image"))
                continue
            labels += [len(self.identities)] * len(images)
            self.identities.append(folder.name)
            self.paths += images
        self.labels = np.array(labels, dtype=np.int64)
        if not self.paths:
            raise ValueError(
                f"root {str(root)!r} holds no usable image in <identity>/<image>: {self.summary()}"
            )

    def __repr__(self) -> str:
        return f"FolderSource({str(self.root)!r}: {self.summary()})"

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        return read_file(self.paths[index])

    def place(self, index: int) -> str:
        """Returns the path of image `index` below the root, with slashes."""
        return self.paths[index].relative_to(self.root).as_posix()

    def summary(self) -> str:
        """Returns one line: how much there is, and how much was left out for which reason."""
        line = f"{len(self.paths)} images of {len(self.identities)} identities"
        if self.skipped:
            reasons = Counter(item.reason.split(":")[0] for item in self.skipped)
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            line += f"; left out {len(self.skipped)} ({counts})"
        return line

    def _identity_folders(self, include: Collection[str] | None, exclude: set[str]) -> list[Path]:
        folders: list[Path] = []
        seen: dict[Path, str] = {}
        for path in self._listed(self.root, Path.is_dir, "not in an identity's folder"):
            if path.name in exclude or (include is not None and path.name not in include):
                continue
            real = path.resolve()
            if real in seen:
                self.skipped.append(Skipped(path, f"a link to another identity: {seen[real]}"))
                continue
            seen[real] = path.name
            folders.append(path)
        present = {path.name for path in folders}
        if absent := sorted(set(include or ()) - present - exclude, key=natural_key):
            raise ValueError(
                f"include names {len(absent)} identities that {str(self.root)!r} lacks, "
                f"first {absent[0]!r}"
            )
        return folders

    def _images(self, folder: Path) -> list[Path]:
        images = []
        for path in self._listed(folder, Path.is_file, "a folder inside an identity's folder"):
            if path.suffix.lower() not in EXTENSIONS:
                self.skipped.append(Skipped(path, "no image by its extension"))
                continue
            try:
                check_image_header(path)
            except ValueError as error:
                self.skipped.append(Skipped(path, f"unreadable: {error}"))
                continue
            images.append(path)
        return images

    def _listed(self, folder: Path, wanted: Callable[[Path], bool], otherwise: str) -> list[Path]:
        """Lists what is wanted in a folder, in natural order, and records the rest."""
        kept = []
        try:
            entries = sorted(folder.iterdir(), key=lambda path: natural_key(path.name))
        except OSError as error:
            self.skipped.append(Skipped(folder, f"a folder that cannot be listed: {error}"))
            return []
        for path in entries:
            if path.name.startswith("."):
                self.skipped.append(Skipped(path, "hidden"))
            elif not path.exists():
                self.skipped.append(Skipped(path, "a broken link"))
            elif not wanted(path):
                self.skipped.append(Skipped(path, otherwise))
            else:
                kept.append(path)
        return kept


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Returns a sort key that puts `img2` before `img10`, the same on every machine."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(p), "") if p[0] in "0123456789" else (-1, p) for p in parts], name
