"""Verification pairs in LFW's format, and the images that they use."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from centerarc.data.source import EncodedSource
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray
from centerarc.io.files import read_file

# Some folds of a set of pairs.


def rows_of_folds(fold: IntArray, wanted: Iterable[int] | None) -> IntArray:
    """Returns the rows whose fold is wanted, all for None.

    Args:
        fold: `(P,)` fold of each pair.
        wanted: Numbers of folds.

    Raises:
        ValueError: If no fold is wanted, or one that does not exist.
    """
    if wanted is None:
        return np.arange(fold.size, dtype=np.int64)
    chosen = list(wanted)
    there = np.unique(fold).tolist()
    unknown = [number for number in chosen if number not in there]
    if unknown or not chosen:
        raise ValueError(f"folds must name some of {there}, got {unknown or chosen}")
    return np.flatnonzero(np.isin(fold, chosen)).astype(np.int64)


# Verification pairs in the format of Labeled Faces in the Wild.

# Image numbers are kept as int64.
_MAX_NUMBER = 2**63 - 1


@dataclass(frozen=True)
class Pairs:
    """Pairs of images, each named by a person and the number of the person's image.

    Attributes:
        name_a: (P,) the first image's person.
        number_a: (P,) which of the person's images, from 1.
        name_b: (P,) the second image's person.
        number_b: (P,) which of the person's images, from 1.
        same: (P,) whether both images show one person.
        fold: (P,) fold of the pair, from 1.
        line: (P,) line of the pair in its file, from 1.
        source: the file's name, for messages.
    """

    name_a: StrArray
    number_a: IntArray
    name_b: StrArray
    number_b: IntArray
    same: BoolArray
    fold: IntArray
    line: IntArray
    source: str

    def __len__(self) -> int:
        return int(self.same.size)

    @property
    def folds(self) -> list[int]:
        """The fold numbers, rising."""
        return [int(fold) for fold in np.unique(self.fold)]

    def people(self, folds: Iterable[int] | None = None) -> set[str]:
        """Names of everybody in the pairs of ``folds`` (None: of all folds).

        The people to keep out of a training set that shall be judged on these folds.
        """
        chosen = self if folds is None else self.select_folds(folds)
        return {str(name) for name in np.concatenate([chosen.name_a, chosen.name_b])}

    def select_folds(self, folds: Iterable[int]) -> "Pairs":
        """The pairs of ``folds`` only; they keep their fold numbers.

        Raises:
            ValueError: no fold is asked for, or one that the file does not have.
        """
        try:
            rows = rows_of_folds(self.fold, folds)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        return Pairs(
            self.name_a[rows],
            self.number_a[rows],
            self.name_b[rows],
            self.number_b[rows],
            self.same[rows],
            self.fold[rows],
            self.line[rows],
            self.source,
        )


def read_pairs(path: str | os.PathLike[str]) -> Pairs:
    """Read a pairs file: the official LFW format, with any number of folds.

    The first line holds the number of folds and the number n of pairs of each kind a fold, or n
    alone for a file of one fold. Every fold then has n lines ``name number number`` (one person)
    and n lines ``name number name number`` (two people). Fields are separated by tabs, or by
    blanks where no name contains one. Empty lines at the end are ignored.

    A pair may appear once only, in either order of its images, as in the official file: twice in
    a fold it would count double, and in two folds it would help to choose the threshold that
    judges it.

    Args:
        path: a UTF-8 text file.

    Returns:
        The pairs in the file's order.

    Raises:
        ValueError: the file breaks the format; the message names the file and the line.
        OSError: the file cannot be read.
    """
    source = str(path)
    lines = _text(Path(path)).rstrip().splitlines()
    num_folds, each = _header(lines, source)
    expected = 1 + 2 * each * num_folds
    if len(lines) != expected:
        raise ValueError(
            f"{source}: {num_folds} folds of {each} genuine and {each} impostor pairs need "
            f"{expected} lines, the file has {len(lines)}"
        )
    rows = []
    line_of: dict[frozenset[tuple[str, int]], int] = {}
    for number, text in enumerate(lines[1:], start=2):
        position = number - 2
        genuine = position % (2 * each) < each
        row = _pair(text, genuine, f"{source}, line {number}")
        first_line = line_of.setdefault(frozenset((row[:2], row[2:])), number)
        if first_line != number:
            raise ValueError(f"{source}, line {number}: the pair of line {first_line} once more")
        rows.append(row)
    columns = list(zip(*rows, strict=True))
    position_of = np.arange(len(rows), dtype=np.int64)
    return Pairs(
        np.array(columns[0], dtype=np.str_),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.str_),
        np.array(columns[3], dtype=np.int64),
        position_of % (2 * each) < each,
        position_of // (2 * each) + 1,
        position_of + 2,
        source,
    )


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: the file must be UTF-8, got the byte "
            f"0x{content[error.start]:02x}; save it as UTF-8"
        ) from error


def _is_number(field: str) -> bool:
    # By length first: int() itself refuses thousands of digits.
    return field.isdecimal() and len(field) <= 19 and int(field) <= _MAX_NUMBER


def _header(lines: Sequence[str], source: str) -> tuple[int, int]:
    fields = lines[0].split() if lines else []
    if len(fields) not in (1, 2) or not all(_is_number(field) for field in fields):
        found = repr(lines[0][:60]) if lines else "an empty file"
        raise ValueError(
            f"{source}, line 1: expected the number of folds and of pairs a fold, got {found}"
        )
    num_folds, each = (1, *map(int, fields)) if len(fields) == 1 else map(int, fields)
    if num_folds < 1 or each < 1:
        raise ValueError(f"{source}, line 1: both numbers must be at least 1, got {lines[0]!r}")
    return num_folds, each


def _pair(text: str, genuine: bool, where: str) -> tuple[str, int, str, int]:
    fields = text.split("\t") if "\t" in text else text.split()
    fields = [field.strip() for field in fields]
    shape = "name number number" if genuine else "name number name number"
    if len(fields) != len(shape.split()) or not all(fields):
        kind = "a genuine" if genuine else "an impostor"
        raise ValueError(f"{where}: expected {kind} pair ({shape}), got {text!r}")
    if genuine:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    for field in (fields[1], fields[3]):
        if not _is_number(field) or int(field) < 1:
            raise ValueError(
                f"{where}: image numbers must be whole numbers from 1 to 2^63 - 1, "
                f"got {field[:40]!r}"
            )
    if not genuine and fields[0] == fields[2]:
        raise ValueError(f"{where}: an impostor pair of {fields[0]!r} with itself")
    first, second = (fields[0], int(fields[1])), (fields[2], int(fields[3]))
    if first == second:
        raise ValueError(
            f"{where}: image {first[1]} of {first[0]!r} paired with itself, which any model gets "
            "right"
        )
    return *first, *second


# The images that a set of pairs uses, each of them once.

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_SHOWN = 3


class PairImages(EncodedSource):
    """The images that a pairs file of LFW's format names in a folder, and its pairs; a `PairSet`.

    Looks for ``<root>/<Name>/<Name>_<NNNN>`` with one of the usual image suffixes. Nothing is
    decoded until an image is asked for.

    Args:
        pairs: from :func:`centerarc.evaluation.files.lfw_pairs.read_pairs`.
        root: the image folder.
        image_size: side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        paths: the distinct images, in order of first use.
        labels: (len,) int64 identity of each image.
        identities: name of each label.
        index_a: (P,) the first image of each pair, a number into ``paths``.
        index_b: (P,) the second one.
        same, fold, people, people_note, columns: as in
            :class:`centerarc.evaluation.formats.PairSet`.

    Raises:
        ValueError: images are missing; the message says how many and the first few, with their
            lines in the pairs file.
    """

    people_note = "people are those that the pairs file names"

    def __init__(
        self, pairs: Pairs, root: str | os.PathLike[str], *, image_size: int | None = None
    ) -> None:
        super().__init__(image_size)
        folder = Path(root)
        if not folder.is_dir():
            raise ValueError(f"images must be a folder, got {str(root)!r}")
        listings: dict[str, dict[str, Path]] = {}
        numbers: dict[tuple[str, int], int] = {}
        missing: dict[str, int] = {}
        self.paths: list[Path] = []
        self.identities: list[str] = []
        labels: list[int] = []
        label_of: dict[str, int] = {}
        sides = []
        for names, image_numbers in (
            (pairs.name_a, pairs.number_a),
            (pairs.name_b, pairs.number_b),
        ):
            side = np.zeros(len(pairs), dtype=np.int64)
            for row, (name, number) in enumerate(
                zip(names.tolist(), image_numbers.tolist(), strict=True)
            ):
                key = (name, number)
                if key not in numbers:
                    if name not in listings:
                        listings[name] = _images_in(folder / name)
                    stem = f"{name}_{number:04d}"
                    path = listings[name].get(stem)
                    if path is None:
                        place = f"{name}/{stem}.jpg"
                        line = int(pairs.line[row])
                        missing[place] = min(line, missing.get(place, line))
                        continue
                    numbers[key] = len(self.paths)
                    self.paths.append(path)
                    labels.append(label_of.setdefault(name, len(label_of)))
                side[row] = numbers[key]
            sides.append(side)
        if missing:
            raise ValueError(_missing_message(missing, folder, pairs.source))
        self.identities = list(label_of)
        self.labels: IntArray = np.array(labels, dtype=np.int64)
        self.index_a: IntArray
        self.index_b: IntArray
        self.index_a, self.index_b = sides
        self.same: BoolArray = pairs.same
        self.fold: IntArray = pairs.fold
        self.people: tuple[StrArray, StrArray] | None = (pairs.name_a, pairs.name_b)
        self.columns: dict[str, StrArray] = {}

    def encoded(self, index: int) -> bytes:
        """The file of an image; see :meth:`centerarc.data.EncodedSource.encoded`."""
        return read_file(self.paths[index])

    def place(self, index: int) -> str:
        """The path of an image below the root, with slashes."""
        path = self.paths[index]
        return f"{path.parent.name}/{path.name}"


def _images_in(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    # The first wins where one image exists under two suffixes.
    return {path.stem: path for path in reversed(found)}


def _missing_message(missing: dict[str, int], folder: Path, source: str) -> str:
    first = sorted(missing.items(), key=lambda item: item[1])[:_SHOWN]
    shown = ", ".join(f"{place} (line {line})" for place, line in first)
    more = f" and {len(missing) - len(first)} more" if len(missing) > len(first) else ""
    noun = "image is" if len(missing) == 1 else "images are"
    return f"{len(missing)} {noun} missing in {folder} for {source}: {shown}{more}"
