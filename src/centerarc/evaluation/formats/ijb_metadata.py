"""The metadata files of IJB-B and IJB-C, in the form in which insightface hands them out."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.formats.csv_table import read_table
from centerarc.evaluation.formats.number_lines import number_lines
from centerarc.evaluation.scores import BoolArray, IntArray

_POINTS = 10


@dataclass(frozen=True, eq=False)
class IjbImages:
    """Whose images templates are made of (``*_face_tid_mid.txt``).

    Attributes:
        names: file of each image.
        template: (N,) number of each image's template.
        media: (N,) number of each image's medium.
    """

    names: list[str]
    template: IntArray
    media: IntArray

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class IjbPairs:
    """Pairs of templates to verify (``*_template_pair_label.txt``).

    Attributes:
        template_a: (P,) int32, number of the first template.
        template_b: (P,) int32, number of the second.
        same: (P,) whether both are of one person.
    """

    template_a: npt.NDArray[np.int32]
    template_b: npt.NDArray[np.int32]
    same: BoolArray

    def __len__(self) -> int:
        return int(self.same.size)


@dataclass(frozen=True, eq=False)
class IjbLandmarks:
    """Where the face is on each image (``*_name_5pts_score.txt``).

    Attributes:
        names: file of each image.
        landmarks: (N, 5, 2) float32, x and y of eyes, nose and corners of the mouth, in pixels.
        detector_score: (N,) float32.
    """

    names: list[str]
    landmarks: npt.NDArray[np.float32]
    detector_score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.names)


def read_ijb_images(path: str | os.PathLike[str]) -> IjbImages:
    """Read lines ``image template medium``, such as ``1.jpg 1 69544``.

    Raises:
        ValueError: a line is anything else, or the file has none; the message names file and line.
        OSError: the file cannot be read.
    """
    names: list[str] = []
    numbers: list[int] = []
    for where, fields in _lines(path, 2, "an image's name, a template and a medium"):
        name, *rest = fields
        for kind, text in zip(("template", "medium"), rest, strict=True):
            # By length first: int() itself refuses thousands of digits.
            if not (text.isdecimal() and len(text) <= 18):
                raise ValueError(f"{where}: the {kind} must be a whole number, got {text[:40]!r}")
        names.append(name)
        numbers += map(int, rest)
    table = np.array(numbers, dtype=np.int64).reshape(-1, 2)
    return IjbImages(names, table[:, 0].copy(), table[:, 1].copy())


def read_ijb_landmarks(path: str | os.PathLike[str]) -> IjbLandmarks:
    """Read lines of an image's name, five points (x and y) and the detector's score.

    Raises:
        ValueError: a line is anything else, or a number is not finite; the message names file and
            line.
        OSError: the file cannot be read.
    """
    names: list[str] = []
    values: list[float] = []
    what = "an image's name, 10 numbers of landmarks and a score"
    for where, fields in _lines(path, _POINTS + 1, what):
        try:
            row = [float(text) for text in fields[1:]]
        except ValueError:
            raise ValueError(f"{where}: expected {what}, got {fields[1:]!r}") from None
        if not all(map(np.isfinite, row)):
            raise ValueError(f"{where}: the numbers must be finite, got {fields[1:]!r}")
        names.append(fields[0])
        values += row
    table = np.array(values, dtype=np.float32).reshape(-1, _POINTS + 1)
    return IjbLandmarks(
        names, table[:, :_POINTS].reshape(-1, 5, 2).copy(), table[:, _POINTS].copy()
    )


def check_same_images(images: IjbImages, landmarks: IjbLandmarks) -> None:
    """See that both files are of the same images in the same order.

    Raises:
        ValueError: they are not; the message starts with the first line that differs.
    """
    for line, names in enumerate(zip_longest(images.names, landmarks.names), 1):
        if names[0] != names[1]:
            first, second = ("none" if name is None else f"image {name!r}" for name in names)
            raise ValueError(f"line {line}: templates have {first}, landmarks have {second}")


def read_ijb_pairs(path: str | os.PathLike[str]) -> IjbPairs:
    """Read lines ``template template label``, where the label is 1 for one person and else 0.

    Made for the 15.6 million lines of IJB-C: seconds, and 9 bytes a pair.

    Raises:
        ValueError: a line is anything else, or there is none; the message names file and line.
        OSError: the file cannot be read.
    """
    parts: list[npt.NDArray[np.int32]] = []
    answers: list[BoolArray] = []
    line = 1
    for block in number_lines(path, 3):
        for column, most, name in (
            (0, 2**31 - 1, "template"),
            (1, 2**31 - 1, "template"),
            (2, 1, "label"),
        ):
            if block[:, column].max() > most:
                bad = int(np.argmax(block[:, column] > most))
                raise ValueError(
                    f"{os.fspath(path)}, line {line + bad}: the {name} must be at most {most}, got "
                    f"{block[bad, column]}"
                )
        parts.append(block[:, :2].astype(np.int32))
        answers.append(block[:, 2] == 1)
        line += len(block)
    if not parts:
        raise ValueError(f"{os.fspath(path)}: the file has no line")
    return IjbPairs(
        np.concatenate([part[:, 0] for part in parts]),
        np.concatenate([part[:, 1] for part in parts]),
        np.concatenate(answers),
    )


def read_ijb_subjects(path: str | os.PathLike[str]) -> tuple[IntArray, IntArray]:
    """Read who the templates of a gallery or of the probes are (``*_1N_*.csv``).

    Columns ``TEMPLATE_ID`` and ``SUBJECT_ID``, one row for each image of a template; other
    columns are ignored.

    Returns:
        Numbers of the distinct templates, rising, and the number of each one's subject.

    Raises:
        ValueError: a column is missing, a field is no number, or a template has two subjects; the
            message names file and line.
        OSError: the file cannot be read.
    """
    wanted = ("TEMPLATE_ID", "SUBJECT_ID")
    header, rows = read_table(path, wanted)
    at = header.all(*wanted)
    subject_of: dict[int, int] = {}
    line_of: dict[int, int] = {}
    for line, row in rows:
        for name, k in zip(wanted, at, strict=True):
            if not (row[k].isdecimal() and len(row[k]) <= 18):
                raise ValueError(
                    f"{header.source}, line {line}: {name} must be a whole number, got "
                    f"{row[k][:40]!r}"
                )
        template, subject = int(row[at[0]]), int(row[at[1]])
        first = line_of.setdefault(template, line)
        if subject_of.setdefault(template, subject) != subject:
            raise ValueError(
                f"{header.source}, line {line}: template {template} is of subject {subject}, but "
                f"of {subject_of[template]} on line {first}"
            )
    if not subject_of:
        raise ValueError(f"{header.source}: there is no template")
    templates = np.array(sorted(subject_of), dtype=np.int64)
    subjects = np.array([subject_of[template] for template in templates.tolist()], dtype=np.int64)
    return templates, subjects


def _lines(
    path: str | os.PathLike[str], numbers: int, what: str
) -> Iterator[tuple[str, list[str]]]:
    """Name and so many fields from the right of every line: a name may hold blanks."""
    source = os.fspath(path)
    empty = True
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line, text in enumerate(file, 1):
                fields = text.rsplit(maxsplit=numbers)
                if len(fields) != numbers + 1:
                    shown = text[:60].rstrip("\n")
                    raise ValueError(f"{source}, line {line}: expected {what}, got {shown!r}")
                empty = False
                yield f"{source}, line {line}", fields
    except OSError as error:
        raise OSError(f"cannot read {source!r}: {error.strerror or error}") from error
    if empty:
        raise ValueError(f"{source}: the file has no line")
