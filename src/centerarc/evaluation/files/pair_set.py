"""What is to be scored: distinct images, pairs of them, and what is known about each pair."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from centerarc.data.source import FaceSource
from centerarc.evaluation.files.bin_set import BinSet
from centerarc.evaluation.files.lfw_pairs import PairImages, read_pairs
from centerarc.evaluation.files.pair_list import PairListImages, read_pair_list
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray


class PairSet(FaceSource, Protocol):
    """A face source over the distinct images that pairs use, and the pairs.

    Whatever file the pairs come from, embed the source once, then score
    `pair_scores(embeddings, index_a, index_b)` against `same`, `fold` and `people`.

    Attributes:
        index_a: `(P,)` int64, the first image of each pair.
        index_b: `(P,)` int64, the second one.
        same: `(P,)` bool, whether both show one person.
        fold: `(P,)` int64, fold of each pair; a single fold where the file has none.
        people: The names of the first and the second person of each pair, each `(P,)`; None
            where the file does not say, and then there are no intervals over people.
        people_note: Where the names come from, or why there are none.
        columns: What else is known about each pair, `(P,)` texts by name, for breakdowns.
    """

    @property
    def index_a(self) -> IntArray: ...

    @property
    def index_b(self) -> IntArray: ...

    @property
    def same(self) -> BoolArray: ...

    @property
    def fold(self) -> IntArray: ...

    @property
    def people(self) -> tuple[StrArray, StrArray] | None: ...

    @property
    def people_note(self) -> str: ...

    @property
    def columns(self) -> dict[str, StrArray]: ...

    def place(self, index: int) -> str:
        """Returns where image `index` comes from; unique in the set."""
        ...


def open_pair_set(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    folds: Iterable[int] | None = None,
    image_size: int | None = None,
) -> PairSet:
    """Opens pairs of any format, by the file's name: `.bin`, `.csv`/`.tsv`, or else `pairs.txt`.

    Args:
        path: The file of pairs.
        images: Folder of the images: needed for `pairs.txt`, the list's own folder by default
            for CSV, not allowed for `.bin`, which holds its images.
        folds: Folds to keep; None keeps all.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Returns:
        The distinct images and the pairs.

    Raises:
        ValueError: If `images` is missing or out of place, or the file is broken; the message
            names file and line or entry.
        OSError: If the file cannot be read.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".bin":
        if images is not None:
            raise ValueError(
                f"images is {str(images)!r}, but {str(path)!r} holds its own images: leave it out"
            )
        return BinSet(path, folds=folds, image_size=image_size)
    if suffix in (".csv", ".tsv"):
        pairs = read_pair_list(path)
        if folds is not None:
            pairs = pairs.select_folds(folds)
        return PairListImages(pairs, images, image_size=image_size)
    if images is None:
        raise ValueError(f"images must name the folder of the images of {str(path)!r}")
    named = read_pairs(path)
    if folds is not None:
        named = named.select_folds(folds)
    return PairImages(named, images, image_size=image_size)
