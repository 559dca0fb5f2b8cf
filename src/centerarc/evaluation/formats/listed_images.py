"""The images that a list names, each of them once, as files below a folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from centerarc.data import EncodedSource
from centerarc.data.files import read_file
from centerarc.evaluation.formats.csv_table import Codes
from centerarc.evaluation.scores import IntArray, StrArray

_SHOWN = 3


class NamedList(Protocol):
    """A list that names images.

    Attributes:
        names: The distinct images.
        source: The list's file.
    """

    @property
    def names(self) -> list[str]: ...

    @property
    def source(self) -> str: ...

    def unknown(self, missing: Sequence[str], what: str) -> str:
        """Says which names are missing, with lines of the file."""
        ...


class ListedImages(EncodedSource):
    """The images that a list names; a `FaceSource`.

    Args:
        listed: The list.
        owner: `(len,)` name of each image's person.
        root: Folder from which relative names start; None is the list's own folder.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        paths: File of each image.
        labels: `(len,)` int64, each image's person.
        identities: Name of each label.

    Raises:
        ValueError: If the root is no folder or images are not there; the message has their lines.
    """

    def __init__(
        self,
        listed: NamedList,
        owner: StrArray,
        root: str | os.PathLike[str] | None,
        image_size: int | None,
    ) -> None:
        super().__init__(image_size)
        folder = Path(listed.source).parent if root is None else Path(root)
        if not folder.is_dir():
            raise ValueError(f"images must be a folder, got {str(folder)!r}")
        self._names = listed.names
        self.paths = [folder / name for name in listed.names]
        there = zip(listed.names, self.paths, strict=True)
        missing = [name for name, path in there if not path.is_file()]
        if missing:
            said = listed.unknown(missing, f"are no images in {folder}")
            # One that is missing is missing; all of them are somewhere else.
            elsewhere = root is None and len(missing) == len(self.paths)
            raise ValueError(
                f"{said}; images must name the folder that they start from" if elsewhere else said
            )
        codes = Codes()
        self.labels = np.array([codes[name] for name in owner.tolist()], dtype=np.int64)
        self.identities = codes.texts

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        return read_file(self.paths[index])

    def place(self, index: int) -> str:
        """Returns the name of image `index` as the list has it."""
        return self._names[index]


def unknown_names(listed: NamedList, line: IntArray, missing: Sequence[str], what: str) -> str:
    """Returns a sentence about names that are missing.

    Args:
        listed: The list.
        line: `(len(names),)` first line of each of its names.
        missing: Some of its names.
        what: What is wrong with them, such as "are unknown".
    """
    line_of = dict(zip(listed.names, line.tolist(), strict=True))
    lines = sorted((line_of[name], name) for name in missing)
    shown = ", ".join(f"{name!r} (line {number})" for number, name in lines[:_SHOWN])
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"{listed.source}: {len(lines)} of {len(listed.names)} names {what}: {shown}{more}"
