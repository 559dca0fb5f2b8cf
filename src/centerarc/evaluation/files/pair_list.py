"""Lists of pairs in CSV files, and the images that they name."""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from centerarc.data.source import EncodedSource
from centerarc.evaluation.files.lfw_pairs import rows_of_folds
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray
from centerarc.io.files import read_file
from centerarc.io.tables import CsvTable

# The images that a list names, each of them once, as files below a folder.

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
        labels: defaultdict[str, int] = defaultdict(count().__next__)
        self.labels = np.array([labels[name] for name in owner.tolist()], dtype=np.int64)
        self.identities = list(labels)

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


# Lists of pairs in CSV files: two images or templates a row, and what is known about them.

_ANSWERS = {"1": True, "true": True, "0": False, "false": False}
_PEOPLE = ("person_a", "person_b")


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of named images (or templates), as a CSV file lists them.

    Attributes:
        names: the distinct images, in order of first use.
        index_a: (P,) number into ``names`` of each pair's first image.
        index_b: (P,) of the second.
        same: (P,) whether both show one person.
        fold: (P,) the column ``fold``; 1 everywhere without it.
        people: names of the first and second people, each (P,), or None.
        people_note: where the people come from, or why there are none.
        columns: every further column, (P,) texts by name.
        line: (P,) line of each pair in the file.
        source: the file's name, for messages.
    """

    names: list[str]
    index_a: IntArray
    index_b: IntArray
    same: BoolArray
    fold: IntArray
    people: tuple[StrArray, StrArray] | None
    people_note: str
    columns: dict[str, StrArray]
    line: IntArray
    source: str

    def __len__(self) -> int:
        return int(self.same.size)

    def select_folds(self, folds: Iterable[int]) -> "PairList":
        """Return the pairs of ``folds`` only, with the images that they use.

        Raises:
            ValueError: no fold is asked for, or one that the file does not have.
        """
        try:
            rows = rows_of_folds(self.fold, folds)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        both = np.stack([self.index_a[rows], self.index_b[rows]], axis=1).ravel()
        used, first, number = np.unique(both, return_index=True, return_inverse=True)
        order = np.argsort(first)
        new = np.argsort(order)[number.ravel()].astype(np.int64)
        people = self.people
        return replace(
            self,
            names=[self.names[i] for i in used[order].tolist()],
            index_a=new[0::2],
            index_b=new[1::2],
            same=self.same[rows],
            fold=self.fold[rows],
            people=None if people is None else (people[0][rows], people[1][rows]),
            columns={name: values[rows] for name, values in self.columns.items()},
            line=self.line[rows],
        )

    def among(self, names: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Return the pairs as numbers into ``names``, such as those of given embeddings.

        Args:
            names: of images or templates, each once.

        Returns:
            The first and the second of each pair, each (P,).

        Raises:
            ValueError: a pair names something that ``names`` lacks; the message has its line.
        """
        number_of = {name: number for number, name in enumerate(names)}
        missing = [name for name in self.names if name not in number_of]
        if missing:
            raise ValueError(self.unknown(missing, "are unknown"))
        number = np.array([number_of[name] for name in self.names], dtype=np.int64)
        return number[self.index_a], number[self.index_b]

    def unknown(self, missing: Sequence[str], what: str) -> str:
        """Say which names are missing, the first few with the line of their first pair."""
        first = np.full(len(self.names), np.iinfo(np.int64).max)
        for side in (self.index_a, self.index_b):
            np.minimum.at(first, side, self.line)
        return unknown_names(self, first, missing, what)


def read_pair_list(path: str | os.PathLike[str], *, of: str = "image") -> PairList:
    """Read a CSV list of pairs: columns ``image_a``, ``image_b``, ``same``, and optional ones.

    ``same`` is 0, 1, true or false. ``fold`` is a whole number. ``person_a`` and ``person_b``
    name the people, and must then agree with ``same``. Without them a person is the folder of
    the image (``Ann_Lee/1.jpg``: Ann_Lee), where every image has one and all pairs agree with
    that; else the people are unknown. Further columns are kept as they are, for breakdowns.

    A pair may appear once only, in either order, and never an image with itself.

    Args:
        path: the file; see :class:`centerarc.io.tables.CsvTable` for its form.
        of: "image", or "template" for columns ``template_a`` and ``template_b``.

    Returns:
        The pairs in the file's order.

    Raises:
        ValueError: a column is missing, or a row is wrong; the message names file and line.
        OSError: the file cannot be read.
    """
    if of not in ("image", "template"):
        raise ValueError(f"of must be image or template, got {of!r}")
    sides = (f"{of}_a", f"{of}_b")
    table = CsvTable(path, (*sides, "same", "fold", *_PEOPLE), strip=True)
    there = set(table.columns)
    people = list(_PEOPLE) if there & {*_PEOPLE} else []
    others = [name for name in table.columns if name not in (*sides, "same", "fold", *_PEOPLE)]
    folds = ["fold"] if "fold" in there else []
    names: defaultdict[str, int] = defaultdict(count().__next__)
    texts: defaultdict[str, int] = defaultdict(count().__next__)
    line_of: dict[tuple[int, int], int] = {}
    person_of: dict[int, tuple[str, int]] = {}
    numbers: list[tuple[int, int, bool, int, int]] = []
    coded: list[list[int]] = []
    for line, row in table.rows([*sides, "same", *people, *others, *folds]):
        first, second, answer = row[:3]
        a = names[table.filled(first, sides[0], line)]
        b = names[table.filled(second, sides[1], line)]
        if a == b:
            raise table.error(line, f"{first!r} is paired with itself")
        first_line = line_of.setdefault((min(a, b), max(a, b)), line)
        if first_line != line:
            raise table.error(line, f"the pair of line {first_line} once more")
        same = _ANSWERS.get(answer.lower())
        if same is None:
            raise table.error(line, f"same must be 0, 1, true or false, got {answer[:40]!r}")
        if people:
            _check_people(table, line, row[3:5], (a, b), same, person_of)
        numbers.append((a, b, same, _fold(table, line, row[-1]) if folds else 1, line))
        coded.append([texts[text] for text in row[3 : len(row) - len(folds)]])
    if not numbers:
        raise ValueError(f"{table.path}: there is no pair")
    index_a, index_b, same_of, fold, lines = np.array(numbers, dtype=np.int64).T.copy()
    # Objects: as an array of texts every field would take the room of the longest.
    all_texts: npt.NDArray[Any] = np.array([*texts, ""], dtype=np.object_)[:-1]
    codes = np.array(coded, dtype=np.int64).reshape(len(numbers), -1)
    columns = {name: all_texts[codes[:, k]] for k, name in enumerate([*people, *others])}
    people_of, note = None, "people are those of the columns person_a and person_b"
    if people:
        first_of, second_of = (columns.pop(name).astype(np.str_) for name in people)
        people_of = first_of, second_of
    else:
        people_of, note = _people_of_folders(list(names), (index_a, index_b), same_of == 1)
    return PairList(
        list(names),
        index_a,
        index_b,
        same_of == 1,
        fold,
        people_of,
        note,
        columns,
        lines,
        table.path,
    )


def check_both_kinds(path: str | os.PathLike[str], folds: Iterable[int] | None = None) -> None:
    """Check, before any work, that a list has genuine and impostor pairs.

    Reads only as far as the first of either kind. What is wrong with the list else is left to
    :func:`read_pair_list`.

    Args:
        path: the file.
        folds: count pairs of these folds only; None counts all.

    Raises:
        ValueError: all pairs are of one kind.
        OSError: the file cannot be read.
    """
    table = CsvTable(path, ("same", "fold"), strip=True)
    if "same" not in table.columns:
        return
    columns = [name for name in ("same", "fold") if name in table.columns]
    wanted = None if folds is None else {*folds}
    kinds: set[bool | None] = set()
    pairs = 0
    for line, (answer, *fold) in table.rows(columns):
        if wanted is None or (_fold(table, line, fold[0]) if fold else 1) in wanted:
            kinds.add(_ANSWERS.get(answer.lower()))
            pairs += 1
            if len(kinds) > 1:
                return
    if kinds in ({True}, {False}):
        genuine = kinds == {True}
        there, missing = ("genuine", "impostor") if genuine else ("impostor", "genuine")
        raise ValueError(
            f"{table.path}: all {pairs:,} pairs are {there} pairs (same is {int(genuine)}); "
            f"{missing} ones are needed too"
        )


def _fold(table: CsvTable, line: int, text: str) -> int:
    # By length first: int() itself refuses thousands of digits.
    if not (text.removeprefix("-").isdecimal() and len(text) <= 18):
        raise table.error(line, f"fold must be a whole number, got {text[:40]!r}")
    return int(text)


def _check_people(
    table: CsvTable,
    line: int,
    people: Sequence[str],
    pair: tuple[int, int],
    same: bool,
    person_of: dict[int, tuple[str, int]],
) -> None:
    for name, person in zip(_PEOPLE, people, strict=True):
        table.filled(person, name, line)
    a, b = people
    if (a == b) != same:
        raise table.error(line, f"same is {int(same)}, but the people are {a!r} and {b!r}")
    for image, person in zip(pair, people, strict=True):
        known, first = person_of.setdefault(image, (person, line))
        if known != person:
            raise table.error(line, f"the person is {person!r}, but {known!r} on line {first}")


def _people_of_folders(
    names: list[str], index: tuple[IntArray, IntArray], same: BoolArray
) -> tuple[tuple[StrArray, StrArray] | None, str]:
    folders = [str(PurePath(name).parent) for name in names]
    if "." in folders:
        return None, "no columns person_a and person_b, and images without a folder"
    folder = np.array(folders, dtype=np.str_)
    first, second = folder[index[0]], folder[index[1]]
    if ((first == second) != same).any():
        return None, "no columns person_a and person_b, and folders that do not part the people"
    return (first, second), "people are the folders of the images"


# The images that a CSV list of pairs names, each of them once.


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
