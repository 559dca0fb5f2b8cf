"""Pairs to verify, from LFW's `pairs.txt` or from lists."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.source import composed
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray
from centerarc.io.tables import (
    PlainTable,
    Table,
    image_columns,
    open_table,
    open_text,
    opened_parquet,
    parquet_errors,
    plain_fields,
)

_SHOWN = 3
_People = tuple[StrArray, StrArray]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of named images or templates, as a file lists them.

    Attributes:
        names: The distinct images, in order of first use. LFW's have no suffix:
            `Ann_Lee/Ann_Lee_0001`.
        index_a: `(P,)` int64, number of each pair's first image.
        index_b: `(P,)` int64, of its second one.
        same: `(P,)` bool, whether both show one person.
        fold: `(P,)` int64; 1 everywhere where the file has none.
        line: `(P,)` int64, line of each pair.
        source: The file, for messages.
        people: The names of the first and the second person of each pair, each `(P,)`; None where
            the file does not say.
        people_note: Where the people come from, or why there are none.
        columns: What else a list says of each pair, `(P,)` texts by name.
        lfw: Whether the file is LFW's, whose first images are all numbered before the second ones.
    """

    names: list[str]
    index_a: IntArray
    index_b: IntArray
    same: BoolArray
    fold: IntArray
    line: IntArray
    source: str
    people: _People | None
    people_note: str
    columns: dict[str, StrArray] = field(default_factory=dict)
    lfw: bool = False

    def __len__(self) -> int:
        return int(self.same.size)

    def everyone(self) -> set[str]:
        """Returns the names of all people, such as those to keep out of a training set."""
        return set() if self.people is None else {*np.concatenate(self.people).tolist()}

    def owners(self) -> StrArray:
        """Returns the person on each image; its own name where people are unknown."""
        if self.people is None:
            return np.array(self.names, dtype=np.str_)
        owners = np.empty(len(self.names), dtype=np.result_type(*self.people))
        owners[self.index_a], owners[self.index_b] = self.people
        return owners

    def select_folds(self, folds: Iterable[int] | None) -> "Pairs":
        """Returns the pairs of some folds, with the images that they use; all for None.

        Raises:
            ValueError: If no fold is asked for, or one that the file does not have.
        """
        if folds is None:
            return self
        try:
            rows = rows_of_folds(self.fold, folds)
        except ValueError as error:
            raise ValueError(f"{self.source}: {error}") from error
        return self._of(rows)

    def _of(self, rows: IntArray) -> "Pairs":
        sides = np.stack([self.index_a[rows], self.index_b[rows]])
        flat = sides.ravel() if self.lfw else sides.T.ravel()
        used, first, number = np.unique(flat, return_index=True, return_inverse=True)
        order = np.argsort(first)
        new = np.argsort(order)[number.ravel()]
        index_a, index_b = new.reshape(2, -1) if self.lfw else new.reshape(-1, 2).T
        return replace(
            self,
            names=[self.names[i] for i in used[order].tolist()],
            index_a=index_a.astype(np.int64),
            index_b=index_b.astype(np.int64),
            same=self.same[rows],
            fold=self.fold[rows],
            line=self.line[rows],
            people=None if self.people is None else (self.people[0][rows], self.people[1][rows]),
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def among(self, names: Sequence[str], what: str = "are unknown") -> tuple[IntArray, IntArray]:
        """Returns the pairs as numbers into `names`, such as the places of given embeddings.

        Args:
            names: Of images or templates, in any Unicode form; suffixes do not count where the
                pairs are LFW's, and the first of equal ones is taken.
            what: What to say of names that are not there.

        Returns:
            The first and the second of each pair, each `(P,)`.

        Raises:
            ValueError: If a name is not there; the message has its line.
        """
        number_of = self._numbered(names)
        if missing := self.absent(names):
            raise ValueError(self.unknown(missing, what))
        numbers = np.array([number_of[composed(name)] for name in self.names], dtype=np.int64)
        return numbers[self.index_a], numbers[self.index_b]

    def absent(self, names: Sequence[str]) -> list[str]:
        """Returns the names of pairs that are not among those given, as `among` takes them."""
        there = self._numbered(names)
        return [name for name in self.names if composed(name) not in there]

    def _numbered(self, names: Sequence[str]) -> dict[str, int]:
        given = [os.path.splitext(name)[0] for name in names] if self.lfw else names
        number_of: dict[str, int] = {}
        for number, name in enumerate(given):
            number_of.setdefault(composed(name), number)
        return number_of

    def without(self, missing: Sequence[str], what: str) -> tuple["Pairs", str]:
        """Returns the pairs that need none of some names, and a sentence about the others.

        Raises:
            ValueError: If no pair is left.
        """
        said = self.unknown(missing, what)
        gone = np.isin(np.array(self.names, dtype=np.object_), [*missing])
        rows = np.flatnonzero(~(gone[self.index_a] | gone[self.index_b])).astype(np.int64)
        if not rows.size:
            raise ValueError(f"{said}; without them no pair is left")
        left = len(self) - rows.size
        return self._of(rows), f"left out {left:,} of {len(self):,} pairs; {said}"

    def unknown(self, missing: Sequence[str], what: str) -> str:
        """Says which names are missing, the first few with their first line."""
        first = np.full(len(self.names), np.iinfo(np.int64).max)
        for side in (self.index_a, self.index_b):
            np.minimum.at(first, side, self.line)
        return missing_names(self.source, self.names, first, missing, what)


def check_both_kinds(same: BoolArray, source: str) -> None:
    """Raises a ValueError where all pairs are genuine or all are impostor pairs."""
    if same.all() or not same.any():
        there, missing = ("genuine", "impostor") if same.all() else ("impostor", "genuine")
        raise ValueError(
            f"{source}: all {same.size:,} pairs are {there} pairs (same is {int(same.all())}); "
            f"{missing} ones are needed too"
        )


def rows_of_folds(fold: IntArray, wanted: Iterable[int]) -> IntArray:
    """Returns the rows whose fold is wanted.

    Raises:
        ValueError: If no fold is wanted, or one that does not exist.
    """
    chosen = list(wanted)
    there = np.unique(fold).tolist()
    unknown = [number for number in chosen if number not in there]
    if unknown or not chosen:
        raise ValueError(f"folds must name some of {there}, got {unknown or chosen}")
    return np.flatnonzero(np.isin(fold, chosen)).astype(np.int64)


def missing_names(
    source: str, names: Sequence[str], line: IntArray, missing: Sequence[str], what: str
) -> str:
    """Returns a sentence about missing names of a list, with the first line of each."""
    line_of = dict(zip(names, line.tolist(), strict=True))
    lines = sorted((line_of[name], name) for name in missing)
    shown = ", ".join(f"{name!r} (line {number})" for number, name in lines[:_SHOWN])
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"{source}: {len(lines)} of {len(names)} names {what}: {shown}{more}"


# The format of Labeled Faces in the Wild.

_MAX_NUMBER = 2**63 - 1
_KAGGLE = ["name", "imagenum1"]  # how the first line of Kaggle's copies begins


def read_pairs(path: str | os.PathLike[str]) -> Pairs:
    """Reads a pairs file in LFW's format, with any number of folds.

    The first line holds the number of folds and the number n of pairs of each kind a fold, or n
    alone for a file of one fold. Every fold then has n lines `name number number` (one person)
    and n lines `name number name number` (two people). Fields are separated by tabs, or by
    blanks where no name contains one. Empty lines at the end are ignored. Where the first line is
    missing, as in RFW's files, or names columns, as in Kaggle's copies of LFW's (`name,imagenum1`,
    with commas), a fold begins at each genuine pair after an impostor pair.

    A pair may appear once only, in either order of its images, as in the official file: twice in
    a fold it would count double, and in two folds it would help to choose the threshold that
    judges it.

    Args:
        path: A UTF-8 text file, which gzip may have compressed.

    Returns:
        The pairs in the file's order.

    Raises:
        ValueError: If the file breaks the format; the message names the file and the line.
        OSError: If it cannot be read.
    """
    source = os.fspath(path)
    with open_text(path) as file:
        text = file.read()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ValueError(
            f"{source}, line {line}: the file must be UTF-8, got the byte "
            f"0x{ord(text[error.start]) & 255:02x}; save it as UTF-8"
        ) from error
    lines = text.rstrip().splitlines()
    start, same, fold = _lfw_layout(lines, source)
    rows: list[tuple[str, str, str, str]] = []
    line_of: dict[frozenset[str], int] = {}
    for line, (text, genuine) in enumerate(
        zip(lines[start:], same.tolist(), strict=True), start + 1
    ):
        where = f"{source}, line {line}"
        row = _lfw_pair(text, genuine, where)
        first_line = line_of.setdefault(frozenset(row[2:]), line)
        if first_line != line:
            raise ValueError(f"{where}: the pair of line {first_line} again")
        rows.append(row)
    name_a, name_b, first, second = zip(*rows, strict=True)
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    index_a = np.array([numbers[name] for name in first], dtype=np.int64)
    index_b = np.array([numbers[name] for name in second], dtype=np.int64)
    people = np.array(name_a, dtype=np.str_), np.array(name_b, dtype=np.str_)
    return Pairs(
        list(numbers),
        index_a,
        index_b,
        same,
        fold,
        np.arange(start, len(lines), dtype=np.int64) + 1,
        source,
        people,
        "people are those that the pairs file names",
        lfw=True,
    )


def _is_number(field: str) -> bool:
    # By length first: int() itself refuses thousands of digits.
    return field.isdecimal() and len(field) <= 19 and int(field) <= _MAX_NUMBER


def _lfw_layout(lines: Sequence[str], source: str) -> tuple[int, BoolArray, IntArray]:
    """How many lines come before the pairs; which pairs are genuine, and the fold of each."""
    first = _lfw_fields(lines[0]) if lines else []
    named = first[:2] == _KAGGLE
    if named or (len(first) in (3, 4) and _is_number(first[1]) and _is_number(first[-1])):
        kinds = np.array([len(_lfw_fields(text)) == 3 for text in lines[named:]], dtype=np.bool_)
        if not kinds.size:
            raise ValueError(f"{source}: there is no pair")
        begins = kinds & ~np.roll(kinds, 1)
        begins[0] = True
        return int(named), kinds, np.cumsum(begins, dtype=np.int64)
    num_folds, each = _lfw_header(lines, source)
    expected = 1 + 2 * each * num_folds
    if len(lines) != expected:
        raise ValueError(
            f"{source}: {num_folds} folds of {each} genuine and {each} impostor pairs need "
            f"{expected} lines, the file has {len(lines)}"
        )
    position = np.arange(expected - 1, dtype=np.int64)
    return 1, position % (2 * each) < each, position // (2 * each) + 1


def _lfw_header(lines: Sequence[str], source: str) -> tuple[int, int]:
    fields = lines[0].split() if lines else []
    if len(fields) not in (1, 2) or not all(map(_is_number, fields)):
        found = repr(lines[0][:60]) if lines else "an empty file"
        pictures = [field for field in fields if re.search(r"[./]", field)]
        first, second = pictures if len(pictures) == 2 else ("a.jpg", "b.jpg")
        raise ValueError(
            f"{source}, line 1: expected the number of folds and of pairs a fold, got {found}; "
            f"a list without them has two images and 0 or 1 a line: {first} {second} 1"
        )
    num_folds, each = (1, *map(int, fields)) if len(fields) == 1 else map(int, fields)
    if num_folds < 1 or each < 1:
        raise ValueError(f"{source}, line 1: both numbers must be at least 1, got {lines[0]!r}")
    return num_folds, each


def _lfw_fields(text: str) -> list[str]:
    # In one Unicode form: a file put together of others may hold both.
    if "\t" in text:
        split = text.split("\t")
    else:
        split = text.rstrip(" ,").split(",") if "," in text else text.split()
    return [composed(field.strip()) for field in split]


def _lfw_pair(text: str, genuine: bool, where: str) -> tuple[str, str, str, str]:
    """Both people, and the names of both images."""
    fields = _lfw_fields(text)
    shape = "name number number" if genuine else "name number name number"
    if len(fields) != len(shape.split()) or not all(fields):
        kind = "a genuine" if genuine else "an impostor"
        raise ValueError(f"{where}: expected {kind} pair ({shape}), got {text!r}")
    if genuine:
        fields.insert(2, fields[0])
    name_a, number_a, name_b, number_b = fields
    for number in (number_a, number_b):
        if not _is_number(number) or int(number) < 1:
            raise ValueError(
                f"{where}: image numbers must be whole numbers from 1 to 2^63 - 1, "
                f"got {number[:40]!r}"
            )
    if not genuine and name_a == name_b:
        raise ValueError(f"{where}: an impostor pair of {name_a!r} with itself")
    if genuine and int(number_a) == int(number_b):
        raise ValueError(
            f"{where}: image {int(number_a)} of {name_a!r} paired with itself, which any model "
            "gets right"
        )
    first = f"{name_a}/{name_a}_{int(number_a):04d}"
    return name_a, name_b, first, f"{name_b}/{name_b}_{int(number_b):04d}"


# Lists: two images or templates a row, and what is known about them.

_ANSWERS = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y", "same", "genuine"), True),
    **dict.fromkeys(("0", "0.0", "-1", "-1.0", "false", "f", "no", "n"), False),
    **dict.fromkeys(("different", "diff", "impostor", "imposter"), False),
}
_PEOPLE = ("person_a", "person_b")
# What others call the columns, without case and punctuation: two images by a common part and what
# tells them apart, and the answer.
_SIDES = ("image", "img", "path", "imagepath", "imgpath", "file", "filename", "photo", "template")
_ENDS = (("a", "b"), ("1", "2"), ("0", "1"))
_SAME = ("same", "issame", "issameperson", "sameperson", "match", "ismatch", "label")


def is_pair_list(path: str | os.PathLike[str]) -> bool:
    """Whether `read_pair_list` reads a file: by its name, or by its first line; else LFW's."""
    suffixes = {suffix.lower() for suffix in Path(path).suffixes[-2:]}
    if ".parquet" in suffixes:
        return True
    _, fields = next(plain_fields(path), (0, []))
    if fields[:2] == _KAGGLE:
        return False
    if suffixes & {".csv", ".tsv"} or _plain_columns(path) is not None:
        return True
    return any(_plain(field) in _SAME for field in fields)


def read_pair_list(path: str | os.PathLike[str], *, of: str = "image") -> Pairs:
    """Reads a list of pairs: columns `image_a`, `image_b`, `same`, and optional ones.

    `same` is 0, 1, true or false. `fold` is a whole number. `person_a` and `person_b` name the
    people, and must then agree with `same`. Without them a person is the folder of the image
    (`Ann_Lee/1.jpg`: Ann_Lee), or its name without a number (`Ann_Lee_0001.jpg`: Ann_Lee), where
    every image has one and all pairs agree with that; else the people are unknown. Further columns
    are kept as they are, for breakdowns.

    The list is a CSV or Parquet file with names of columns, also others' names such as `img1`,
    `img2` and `is_same`; or a text file without, whose lines are two images and the answer, with
    tabs, commas or blanks between; or two lines a pair, each an image and an answer that both
    share, where any number but 0 is the same person, as for CALFW and CPLFW.

    A pair may appear once only, in either order, and never an image with itself.

    Args:
        path: The file; see `centerarc.io.tables.CsvTable` and `PlainTable` for its form.
        of: "image", or "template" for columns `template_a` and `template_b`.

    Returns:
        The pairs in the file's order.

    Raises:
        ValueError: If a column is missing, or a row is wrong; the message names file and line.
        ImportError: If the list is Parquet and pyarrow is missing.
        OSError: If the file cannot be read.
    """
    if of not in ("image", "template"):
        raise ValueError(f"of must be image or template, got {of!r}")
    table, sides, answers = _pair_table(path, of)
    there = set(table.columns)
    people = list(_PEOPLE) if there & {*_PEOPLE} else []
    others = [name for name in table.columns if name not in (*sides, answers, "fold", *_PEOPLE)]
    folds = ["fold"] if "fold" in there else []
    names: defaultdict[str, int] = defaultdict(count().__next__)
    texts: defaultdict[str, int] = defaultdict(count().__next__)
    line_of: dict[tuple[int, int], int] = {}
    person_of: dict[int, tuple[str, int]] = {}
    numbers: list[tuple[int, int, bool, int, int]] = []
    coded: list[list[int]] = []
    for line, row in table.rows([*sides, answers, *people, *others, *folds]):
        first, second, answer = row[:3]
        a = names[table.filled(first, sides[0], line)]
        b = names[table.filled(second, sides[1], line)]
        if a == b:
            raise table.error(line, f"{first!r} is paired with itself")
        first_line = line_of.setdefault((min(a, b), max(a, b)), line)
        if first_line != line:
            raise table.error(line, f"the pair of {table.unit} {first_line} again")
        same = _answer(table, answers, line, answer)
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
        first_of, second_of = (map(composed, columns.pop(name).tolist()) for name in people)
        people_of = np.array([*first_of], dtype=np.str_), np.array([*second_of], dtype=np.str_)
    else:
        people_of, note = _people_of_names(list(names), (index_a, index_b), same_of == 1)
    return Pairs(
        list(names),
        index_a,
        index_b,
        same_of == 1,
        fold,
        lines,
        table.path,
        people_of,
        note,
        columns,
    )


def _pair_table(path: str | os.PathLike[str], of: str) -> tuple[Table, tuple[str, str], str]:
    """A table of pairs, and its columns of the two sides and of the answer."""
    usual, same = (f"{of}_a", f"{of}_b"), "same"
    parquet = Path(path).suffix.lower() == ".parquet"
    if not parquet and (columns := _plain_columns(path)):
        plain = PlainTable(path, columns) if len(columns) == 3 else _TwoLineTable(path)
        return plain, ("image_a", "image_b"), same
    table = open_table(path, (*usual, same, "fold", *_PEOPLE), strip=True)
    there = {_plain(name): name for name in table.columns}
    both = [usual, *((side + a, side + b) for a, b in _ENDS for side in _SIDES)]
    sides = next(((there[a], there[b]) for a, b in both if a in there and b in there), usual)
    return table, sides, next((there[name] for name in _SAME if name in there), same)


def holds_images(path: str | os.PathLike[str]) -> bool:
    """Whether a file is Parquet whose pairs are images themselves."""
    if Path(path).suffix.lower() != ".parquet" or len(held := image_columns(path)) < 2:
        return False
    return {*_pair_table(path, "image")[1]} <= {*held}


def read_held_pairs(
    path: str | os.PathLike[str],
) -> tuple[list[bytes | None], list[bool], list[int] | None]:
    """Reads pairs with their images from a Parquet file, as Hugging Face's datasets have them.

    Returns:
        The files of all images, first and second of each pair in turn; which pairs are genuine;
        the fold of each, if there is such a column.

    Raises:
        ValueError: If an answer or a fold is none; the message names file and row.
    """
    table, sides, answer = _pair_table(path, "image")
    folds = ["fold"] if "fold" in table.columns else []
    same: list[bool] = []
    fold: list[int] = []
    for row, (text, *number) in table.rows([answer, *folds]):
        same.append(_answer(table, answer, row, text))
        fold += [_fold(table, row, text) for text in number]
    with parquet_errors(path):
        columns = opened_parquet(path).read(columns=[*sides], use_threads=False)
        pairs = zip(*(columns.column(side).to_pylist() for side in sides), strict=True)
    held = [
        image["bytes"] if isinstance(image, dict) else image for pair in pairs for image in pair
    ]
    return held, same, fold if folds else None


def _answer(table: Table, name: str, line: int, text: str) -> bool:
    same = _ANSWERS.get(text.lower())
    if same is None:
        raise table.error(line, f"{name} must be 0, 1, true or false, got {text[:40]!r}")
    return same


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def _plain_columns(path: str | os.PathLike[str]) -> list[str] | None:
    """The columns of a list of pairs that does not name them; None for any other file."""
    _, fields = next(plain_fields(path), (0, [""]))
    answers = [field.lower() in _ANSWERS and field.lower() not in _SAME for field in fields]
    if len(fields) == 3 and _is_number(fields[1]) and not _is_number(fields[0]):
        return None  # a genuine pair of LFW's format
    if len(fields) == 3 and answers.count(True) == 1 and not answers[1]:
        return ["image_a", "image_b", "same"] if answers[2] else ["same", "image_a", "image_b"]
    if len(fields) == 2 and _is_number(fields[1]) and not _is_number(fields[0]):
        return ["image", "same"]
    return None


class _TwoLineTable(Table):
    """Pairs whose images are on two lines, each with the answer or with a number of the pair."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(os.fspath(path), ["image_a", "image_b", "same"])

    def rows(self, wanted: Sequence[str] | None = None) -> Iterator[tuple[int, tuple[str, ...]]]:
        lines = PlainTable(self.path, ("image", "same")).rows()
        for line, (first, answer) in lines:
            _, (second, other) = next(lines, (line, ("", "")))
            if other != answer or not _is_number(answer):
                raise self.error(
                    line,
                    f"both images of a pair must have one number, got {answer!r} and {other!r}",
                )
            yield line, (first, second, str(int(int(answer) > 0)))


def _fold(table: Table, line: int, text: str) -> int:
    # By length first: int() itself refuses thousands of digits.
    if not (text.removeprefix("-").isdecimal() and len(text) <= 18):
        raise table.error(line, f"fold must be a whole number, got {text[:40]!r}")
    return int(text)


def _check_people(
    table: Table,
    line: int,
    people: Sequence[str],
    pair: tuple[int, int],
    same: bool,
    person_of: dict[int, tuple[str, int]],
) -> None:
    for name, person in zip(_PEOPLE, people, strict=True):
        table.filled(person, name, line)
    a, b = people
    if (composed(a) == composed(b)) != same:
        raise table.error(line, f"same is {int(same)}, but the people are {a!r} and {b!r}")
    for image, person in zip(pair, people, strict=True):
        known, first = person_of.setdefault(image, (person, line))
        if composed(known) != composed(person):
            raise table.error(line, f"the person is {person!r}, but {known!r} on line {first}")


def _people_of_names(
    names: list[str], index: tuple[IntArray, IntArray], same: BoolArray
) -> tuple[_People | None, str]:
    found = [str(PurePath(name).parent) for name in names]
    what = "folders"
    if "." in found:
        what = "names without their numbers"
        found = [re.sub(r"_[0-9]+$", "", PurePath(name).stem) for name in names]
        if any(person == PurePath(name).stem for person, name in zip(found, names, strict=True)):
            return None, "no columns person_a and person_b, and images without a folder"
    person = np.array(found, dtype=np.str_)
    first, second = person[index[0]], person[index[1]]
    if ((first == second) != same).any():
        return None, f"no columns person_a and person_b, and {what} that do not part the people"
    return (first, second), f"people are the {what} of the images"
