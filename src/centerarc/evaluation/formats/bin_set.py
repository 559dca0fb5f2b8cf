"""Verification sets in insightface's `.bin` files: encoded images and which pairs match."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data import EncodedSource
from centerarc.evaluation.formats.folds import rows_of_folds
from centerarc.evaluation.formats.pickle_opcodes import UnsafePickleError, short
from centerarc.evaluation.formats.plain_pickle import read_plain_pickle
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray

NUM_FOLDS = 10


class BinSet(EncodedSource):
    """The images of a `.bin` verification set, each of them once, and its pairs; a `PairSet`.

    The file is a pickle of a list of 2 P encoded images, of which entries 2 i and 2 i + 1 are
    pair i, and a list of P answers. It is read by `read_plain_pickle`, which runs nothing. An
    image that comes several times, as most of LFW's do, is kept and embedded once. Folds are 10
    runs of pairs in the file's order, equally long up to one pair, as insightface has them.

    The file does not say who is on an image. Labels gather what genuine pairs link: two images
    of one label show one person, but a person may have several labels. So `people` is None, and
    no interval over people can be given.

    Args:
        path: The file.
        folds: Folds to keep, of 1 to 10; None keeps all.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        labels: `(len,)` int64, a number for each set of images that genuine pairs link.
        identities: A made-up name for each label.
        index_a: `(P,)` the first image of each pair.
        index_b: `(P,)` the second one.
        same: `(P,)` whether both show one person.
        fold: `(P,)` fold of each pair, from 1.
        people: None.
        people_note: Why.
        columns: Empty.
        entries: `(len,)` int64, the first entry of the file's list that holds each image, from 0.

    Raises:
        UnsafePickleError: If the pickle asks for anything but bytes and plain arrays.
        ValueError: If the file is cut off or damaged, is no pair of lists, the lists do not fit,
            or an entry is no encoded image or no answer; the message names file and entry.
        OSError: If it cannot be read.
    """

    people: tuple[StrArray, StrArray] | None = None
    people_note = "a .bin file does not say who is on an image"

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
            images, same = _lists(read_plain_pickle(path))
            fold = _contiguous_folds(same.size)
            rows = rows_of_folds(fold, folds)
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
        self.labels = _linked(self.index_a[self.same], self.index_b[self.same], len(distinct))
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


def _contiguous_folds(num_pairs: int) -> IntArray:
    sizes = np.full(NUM_FOLDS, num_pairs // NUM_FOLDS)
    sizes[: num_pairs % NUM_FOLDS] += 1
    return np.repeat(np.arange(1, NUM_FOLDS + 1, dtype=np.int64), sizes)


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
        if image.dtype != np.uint8 or image.ndim != 1:
            raise ValueError(
                f"image {entry} is an array of {image.dtype} of shape {image.shape}; an image "
                "file's bytes, uint8 (n,), are read"
            )
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray):
        raise ValueError(f"image {entry} is {type(image).__name__}; it must be bytes")
    if not image:
        raise ValueError(f"image {entry} is empty")
    return bytes(image)


def _linked(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
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
