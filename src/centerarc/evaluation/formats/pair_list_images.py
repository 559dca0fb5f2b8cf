"""The images that a CSV list of pairs names, each of them once."""

import os

import numpy as np

from centerarc.evaluation.formats.listed_images import ListedImages
from centerarc.evaluation.formats.pair_list import PairList


class PairListImages(ListedImages):
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
        owner = np.array(pairs.names, dtype=np.str_)
        if pairs.people is not None:
            owner = np.empty(len(pairs.names), dtype=np.result_type(*pairs.people))
            owner[pairs.index_a], owner[pairs.index_b] = pairs.people
        super().__init__(pairs, owner, root, image_size)
        self.index_a = pairs.index_a
        self.index_b = pairs.index_b
        self.same = pairs.same
        self.fold = pairs.fold
        self.people = pairs.people
        self.people_note = pairs.people_note
        self.columns = pairs.columns
