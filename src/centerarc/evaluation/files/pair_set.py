"""The images that pairs and templates are of: files that a list names, or a `.bin` set."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from centerarc.data.source import EXTENSIONS, EncodedSource, composed, folded
from centerarc.evaluation.files.pairs import (
    Pairs,
    holds_images,
    is_pair_list,
    read_held_pairs,
    read_pair_list,
    read_pairs,
    rows_of_folds,
)
from centerarc.evaluation.files.pickles import UnsafePickleError, read_plain_pickle, short
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray
from centerarc.io.files import read_file, require_folder


class NamedImages(Protocol):
    """A list that names images, each once: `Pairs` or a `TemplateList`."""

    @property
    def names(self) -> list[str]: ...

    @property
    def source(self) -> str: ...

    def owners(self) -> StrArray: ...

    def unknown(self, missing: Sequence[str], what: str) -> str: ...

    def without(self, missing: Sequence[str], what: str) -> tuple[Self, str]: ...


Listed = TypeVar("Listed", bound=NamedImages)
# What is done about images that are not there.
Missing = Literal["error", "skip"]


class ListedImages(EncodedSource, Generic[Listed]):
    """The images that a list of pairs or templates names, each once; a `FaceSource`.

    An image that is there under the name that an aligner gave it, with another ending or `_0`
    behind it (`Ann_0001_0.jpg` for `Ann_0001.jpg`), is taken if only one file can be meant.

    Args:
        listed: From `read_pair_list` or `read_template_list`.
        root: Folder from which names start; None is the list's own folder.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        missing: "skip" leaves out what needs an image that is not there.

    Attributes:
        listed: The list, without what was left out.
        notes: What was left out and which images were found under another name, in sentences.
        paths: File of each image.
        labels: `(len,)` int64, each image's person; without people, the image or template.
        identities: Name of each label.

    Raises:
        ValueError: If the root is not a folder or images are missing; the message has their lines.
    """

    def __init__(
        self,
        listed: Listed,
        root: str | os.PathLike[str] | None = None,
        *,
        image_size: int | None = None,
        missing: Missing = "error",
    ) -> None:
        super().__init__(image_size)
        folder = require_folder("images", Path(listed.source).parent if root is None else root)
        file_of = dict(zip(listed.names, self._found(folder, listed.names), strict=True))
        stems = _Stems(folder)
        renamed = stems.renamed([name for name, file in file_of.items() if not file])
        file_of |= renamed
        self.notes: list[str] = []
        if absent := [name for name, file in file_of.items() if not file]:
            what = f"are not images in {folder}"
            # One that is missing is missing; all of them are somewhere else.
            if len(absent) == len(file_of) and root is None:
                raise ValueError(
                    f"{listed.unknown(absent, what)}; images must name the folder that they start "
                    "from"
                )
            if missing == "error":
                raise ValueError(listed.unknown(absent, what) + stems.longer(absent[0]))
            listed, note = listed.without(absent, what)
            self.notes.append(note)
        if renamed := {name: file for name, file in renamed.items() if name in {*listed.names}}:
            name, file = next(iter(renamed.items()))
            self.notes.append(
                f"{len(renamed):,} of {len(listed.names):,} images have another name than the list "
                f"says, such as {file!r} for {name!r}"
            )
        self.listed = listed
        self._names = [file_of[name] for name in listed.names]
        self.paths = [folder / name for name in self._names]
        labels: defaultdict[str, int] = defaultdict(count().__next__)
        self.labels = np.array([labels[name] for name in listed.owners().tolist()], dtype=np.int64)
        self.identities = list(labels)

    def _found(self, folder: Path, names: list[str]) -> list[str]:
        """The images' paths below a folder; empty for those that are not there."""
        return [_spelled_there(folder, name) for name in names]

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        return read_file(self.paths[index])

    def place(self, index: int) -> str:
        """Returns the path of image `index` below the root."""
        return self._names[index]


class PairImages(ListedImages[Pairs]):
    """The images that pairs name, each once, and the pairs.

    Embed the source once, then score `pair_scores(embeddings, index_a, index_b)` against `same`,
    `fold` and `people`. LFW's pairs are looked for under `<root>/<Name>/<Name>_<NNNN>` with one
    of the usual suffixes of images.

    Args:
        pairs: From `read_pairs` or `read_pair_list`.
        root: Folder from which names start; None is a list's own folder.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        missing: "skip" leaves out pairs of which an image is not there.

    Attributes:
        listed, notes: As in `ListedImages`.
        paths: File of each image.
        labels: `(len,)` int64, each image's person; without people every image has its own label.
        identities: Name of each label.
        index_a, index_b, same, fold, people, people_note, columns: As in `Pairs`.

    Raises:
        ValueError: If the root is not a folder or images are missing; the message has their lines.
    """

    def __init__(
        self,
        pairs: Pairs,
        root: str | os.PathLike[str] | None = None,
        *,
        image_size: int | None = None,
        missing: Missing = "error",
    ) -> None:
        if root is None and pairs.lfw:
            raise ValueError(f"images must name the folder of the images of {pairs.source!r}")
        self._lfw = pairs.lfw
        super().__init__(pairs, root, image_size=image_size, missing=missing)
        pairs = self.listed
        self.index_a = pairs.index_a
        self.index_b = pairs.index_b
        self.same = pairs.same
        self.fold = pairs.fold
        self.people = pairs.people
        self.people_note = pairs.people_note
        self.columns = pairs.columns

    def _found(self, folder: Path, names: list[str]) -> list[str]:
        if not self._lfw:
            return super()._found(folder, names)
        there = _Stems(folder)
        return [next(iter(there.of(name)), "") for name in names]


class _Stems(dict[str, dict[str, list[str]]]):
    """The images in folders below a root by their composed names without endings."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, parent: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        folder = _spelled_there(self._root, parent, Path.is_dir) if parent else "."
        for file in sorted(os.listdir(self._root / folder)) if folder else ():
            stem, ending = os.path.splitext(file)
            if ending.lower() in EXTENSIONS:
                path = f"{folder}/{file}" if parent else file
                found.setdefault(composed(stem), []).append(path)
        self[parent] = found
        return found

    def of(self, name: str, *behind: str) -> list[str]:
        """The files of an image whose name may lack its ending, or with one of `behind` at it."""
        parent, _, base = name.rpartition("/")
        stem, ending = os.path.splitext(base)
        stem = composed(stem if ending.lower() in EXTENSIONS else base)
        return [path for more in behind or ("",) for path in self[parent].get(stem + more, [])]

    def renamed(self, names: Sequence[str]) -> dict[str, str]:
        """The files of images that are there under one other name; see `ListedImages`."""
        found = ((name, self.of(name)) for name in names)
        either = ((name, files or self.of(name, "_0", "-0")) for name, files in found)
        return {name: files[0] for name, files in either if len(files) == 1}

    def longer(self, name: str) -> str:
        """What to say of an absent image where faces have its name with a number behind it."""
        files = self.of(name, *(f"{mark}{number}" for number in range(10) for mark in "_-"))
        named = "as an aligner names faces; name one of them as the list does"
        if files:
            return f"; there is {files[0]!r}, {named}"
        first, below, _ = name.partition("/")
        there = sorted(os.listdir(self._root)) if below else ()
        alike = [other for other in there if folded(other) == folded(first)]
        if alike and composed(first) not in map(composed, alike):
            return f"; {alike[0]!r} is there, which differs in case only: write it alike"
        return ""


def _spelled_there(folder: Path, name: str, wanted: Callable[[Path], bool] = Path.is_file) -> str:
    """A path below a folder in the Unicode form in which it is there; empty if in none."""
    forms = (name, composed(name), unicodedata.normalize("NFD", name))
    return next((form for form in forms if wanted(folder / form)), "")


# Files that hold their images: insightface's `.bin`, encoded images and which pairs match; Parquet.

NUM_FOLDS = 10


class BinSet(EncodedSource):
    """The images of a set that holds them, each of them once, and its pairs; as `PairImages`.

    A `.bin` verification set, or a Parquet file with two columns of images, such as `image_1` and
    `image_2`, and `is_same`; see `read_pair_list` for the names of columns.

    A `.bin` file is a pickle of a list of 2 P encoded images, of which entries 2 i and 2 i + 1 are
    pair i, and a list of P answers. It is read by `read_plain_pickle`, which runs nothing. An
    image that comes several times, as most of LFW's do, is kept and embedded once. Folds are 10
    runs of pairs in the file's order, equally long up to one pair, as insightface has them, unless
    a Parquet file has a column `fold`.

    The file does not say who is on an image. Labels gather what genuine pairs link: two images
    of one label show one person, but a person may have several labels. So `people` is None, and
    no interval over people can be given.

    Args:
        path: The file.
        folds: Folds to keep; None keeps all.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        labels: `(len,)` int64, a number for each set of images that genuine pairs link.
        identities: A made-up name for each label.
        index_a, index_b, same, fold: `(P,)`, as in `Pairs`.
        people: None; `people_note` says why.
        columns: Empty.
        entries: `(len,)` int64, the first entry of the file's list that holds each image, from 0.

    Raises:
        UnsafePickleError: If the pickle asks for anything but bytes and plain arrays.
        ValueError: If the file is cut off or damaged, is not a pair of lists, the lists do not fit,
            or an entry is not an encoded image or an answer; the message names file and entry.
        OSError: If it cannot be read.
    """

    notes: Sequence[str] = ()
    people: tuple[StrArray, StrArray] | None = None
    people_note = "a file that holds its images does not say who is on them"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        folds: Iterable[int] | None = None,
        image_size: int | None = None,
    ) -> None:
        super().__init__(image_size)
        self.path = Path(path)
        try:
            fold: IntArray | None = None
            if self.path.suffix.lower() == ".parquet":
                *lists, numbers = read_held_pairs(path)
                fold = None if numbers is None else np.array(numbers, dtype=np.int64)
            else:
                lists = read_plain_pickle(path)
            images, same = _lists(lists)
            if fold is None:
                runs = np.array_split(np.ones(same.size, dtype=np.int64), NUM_FOLDS)
                fold = np.concatenate([number * run for number, run in enumerate(runs, 1)])
            rows = np.arange(fold.size) if folds is None else rows_of_folds(fold, folds)
            used = np.stack([2 * rows, 2 * rows + 1], axis=1).ravel()
            number, self.entries, distinct = _distinct(images, used)
        except OSError as error:
            raise OSError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        except ValueError as error:
            kind = UnsafePickleError if isinstance(error, UnsafePickleError) else ValueError
            raise kind(f"{str(path)!r}: {error}") from error
        del images
        # One array for all: workers share it, and copy no page to count references.
        self._ends = np.cumsum([len(image) for image in distinct], dtype=np.int64)
        self._data = np.frombuffer(b"".join(distinct), dtype=np.uint8)
        self.index_a: IntArray = number[0::2]
        self.index_b: IntArray = number[1::2]
        self.same: BoolArray = same[rows]
        self.fold: IntArray = fold[rows]
        self.columns: dict[str, StrArray] = {}
        self.labels = linked(self.index_a[self.same], self.index_b[self.same], len(distinct))
        self.identities = [f"unknown {label}" for label in range(int(self.labels.max()) + 1)]

    def __repr__(self) -> str:
        return f"BinSet({str(self.path)!r}: {self.same.size} pairs of {len(self)} images)"

    def encoded(self, index: int) -> bytes:
        """Returns the image file of image `index`; see `EncodedSource.encoded`."""
        start = int(self._ends[index - 1]) if index else 0
        return self._data[start : int(self._ends[index])].tobytes()

    def place(self, index: int) -> str:
        """Returns the file's name and the image's first entry in it, such as `lfw.bin[17]`."""
        return f"{self.path.name}[{self.entries[index]}]"


def _lists(found: Any) -> tuple[list[Any], BoolArray]:
    if not isinstance(found, list) or len(found) != 2:
        raise ValueError("the pickle must hold two lists, of images and of answers")
    images, answers = found
    if not isinstance(images, list) or not isinstance(answers, list | np.ndarray):
        kinds = " and ".join(type(part).__name__ for part in found)
        raise ValueError(
            f"the pickle must hold two lists, of images and of answers; it has {kinds}"
        )
    if isinstance(answers, np.ndarray) and answers.ndim != 1:
        raise ValueError(f"the answers are an array of shape {answers.shape}; it must be (P,)")
    if not len(answers):
        raise ValueError("there is no pair")
    if len(images) != 2 * len(answers):
        raise ValueError(
            f"{len(images)} images and {len(answers)} answers do not fit: each answer needs two "
            "images"
        )
    same = np.zeros(len(answers), dtype=np.bool_)
    for pair, answer in enumerate(answers):
        plain = answer.item() if isinstance(answer, np.ndarray | np.generic) else answer
        if not isinstance(plain, int) or plain not in (0, 1):
            shown = short(str(plain)) if isinstance(plain, int) else type(plain).__name__
            raise ValueError(f"answer {pair} is {shown}; it must be True or False")
        same[pair] = bool(plain)
    return images, same


def _distinct(images: list[Any], used: IntArray) -> tuple[IntArray, IntArray, list[bytes]]:
    """Numbers the images by content; where each comes first; their bytes."""
    number_of: dict[bytes, int] = {}
    # One object may be listed many times: it is turned into bytes once.
    known: dict[int, int] = {}
    numbers = np.empty(used.size, dtype=np.int64)
    first: list[int] = []
    for row, entry in enumerate(used.tolist()):
        image = images[entry]
        number = known.get(id(image))
        if number is None:
            number = number_of.setdefault(_bytes(image, entry), len(number_of))
            known[id(image)] = number
            if number == len(first):
                first.append(entry)
        numbers[row] = number
    return numbers, np.array(first, dtype=np.int64), list(number_of)


def _bytes(image: Any, entry: int) -> bytes:
    if isinstance(image, str):  # bytes of Python 2 that were read as latin-1 and written again
        try:
            image = image.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"image {entry} is a text, not the bytes of an image file") from None
    if isinstance(image, np.ndarray):
        # A column, as OpenCV's imencode gave it, is read as well.
        if image.dtype != np.uint8 or image.size != max(image.shape, default=0):
            raise ValueError(
                f"image {entry} is an array of {image.dtype} of shape {image.shape}; an image "
                "file's bytes, uint8 (n,) or (n, 1), are read"
            )
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray):
        raise ValueError(f"image {entry} is {type(image).__name__}; it must be bytes")
    if not image:
        raise ValueError(f"image {entry} is empty")
    return bytes(image)


def linked(first: IntArray, second: IntArray, count: int) -> IntArray:
    """Numbers the sets of images that genuine pairs link, in order of first use."""
    parent = list(range(count))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    label_of: dict[int, int] = {}
    return np.array(
        [label_of.setdefault(root(image), len(label_of)) for image in range(count)], dtype=np.int64
    )


# Pairs of any format.

PairSet = PairImages | BinSet
"""What `open_pair_set` returns."""


def is_bin_set(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds its images: Parquet with columns of them, or a `.bin` set.

    That by its name, or by how a pickle begins under any name.
    """
    with suppress(OSError):  # what cannot be read is named where it is
        if read_file(path, first=2)[:1] == b"\x80":
            return True
    with suppress(OSError, ValueError, ImportError):
        if holds_images(path):
            return True
    return Path(path).suffix.lower() == ".bin"


def open_pair_set(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    folds: Iterable[int] | None = None,
    image_size: int | None = None,
    missing: Missing = "error",
) -> PairSet:
    """Opens pairs of any format: a file that holds its images, a list, or else `pairs.txt`.

    Args:
        path: The file of pairs.
        images: Folder of the images: needed for `pairs.txt`, the list's own folder by default
            for lists, not allowed for `.bin` and Parquet that hold the images.
        folds: Folds to keep; None keeps all.
        image_size: Side in pixels to which images are resized; None leaves them as they are.
        missing: "skip" leaves out pairs of which an image is not there; not for `.bin`.

    Raises:
        ValueError: If `images` is missing or out of place, or the file is broken; the message
            names file and line or entry.
        OSError: If the file cannot be read.
    """
    if is_bin_set(path):
        if images is not None:
            raise ValueError(
                f"images is {str(images)!r}, but {str(path)!r} holds its own images: leave it out"
            )
        if missing != "error":
            raise ValueError(f"missing is for lists of images, but {str(path)!r} holds its own")
        return BinSet(path, folds=folds, image_size=image_size)
    pairs = read_named_pairs(path, folds)
    return PairImages(pairs, images, image_size=image_size, missing=missing)


def read_named_pairs(path: str | os.PathLike[str], folds: Iterable[int] | None = None) -> Pairs:
    """Reads pairs of named images: a list in any form, or LFW's format."""
    read = read_pair_list if is_pair_list(path) else read_pairs
    return read(path).select_folds(folds)
