"""The images that a CSV list of pairs names, each of them once."""

import os
from pathlib import Path

import numpy as np

from centerarc.data import EncodedSource
from centerarc.data.files import read_file
from centerarc.evaluation.formats.csv_table import Codes
from centerarc.evaluation.formats.pair_list import PairList


class PairListImages(EncodedSource):
    """The images that a list of pairs names, each once, and its pairs; a `PairSet`.

    Args:
        pairs: From `read_pair_list`.
        root: Folder from which relative names start; None is the list's own folder.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        paths: File of each image.
        labels: `(len,)` int64, each image's person; without people every image has its own label.
        identities: Name of each label.
        index_a, index_b, same, fold, people, people_note, columns: As in `PairSet`.

    Raises:
        ValueError: If the root is no folder or images are not there; the message has their lines.
    """

    def __init__(
        self,
        pairs: PairList,
        root: str | os.PathLike[str] | None = None,
        *,
        image_size: int | None = None,
    ) -> None:
        super().__init__(image_size)
        folder = Path(pairs.source).parent if root is None else Path(root)
        if not folder.is_dir():
            raise ValueError(f"images must be a folder, got {str(folder)!r}")
        self._names = pairs.names
        self.paths = [folder / name for name in pairs.names]
        missing = [
            name for name, path in zip(pairs.names, self.paths, strict=True) if not path.is_file()
        ]
        if missing:
            raise ValueError(pairs.unknown(missing, f"are no images in {folder}"))
        self.index_a = pairs.index_a
        self.index_b = pairs.index_b
        self.same = pairs.same
        self.fold = pairs.fold
        self.people = pairs.people
        self.people_note = pairs.people_note
        self.columns = pairs.columns
        owner = np.array(pairs.names, dtype=np.str_)
        if pairs.people is not None:
            owner = np.empty(len(pairs.names), dtype=np.result_type(*pairs.people))
            owner[pairs.index_a], owner[pairs.index_b] = pairs.people
        codes = Codes()
        self.labels = np.array([codes[name] for name in owner.tolist()], dtype=np.int64)
        self.identities = codes.texts

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        return read_file(self.paths[index])

    def place(self, index: int) -> str:
        """Returns the name of image `index` as the list has it."""
        return self._names[index]
