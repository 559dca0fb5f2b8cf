"""Templates: lists in CSV files, and the metadata and faces of IJB-B and IJB-C."""

import codecs
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, zip_longest
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from centerarc.data.alignment import arcface_template, similarity_transform, warp
from centerarc.data.decode import Image, read_image
from centerarc.data.source import FaceSource
from centerarc.evaluation.files.pair_list import ListedImages, unknown_names
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, StrArray
from centerarc.io.tables import CsvTable

# Lists of templates in CSV files: which images make a template, of whom, and for what.

_ROLES = ("gallery", "probe")


@dataclass(frozen=True, eq=False)
class TemplateList:
    """Images of templates, as a CSV file lists them, one image a row.

    Attributes:
        names: the distinct images, in order of first use.
        image: (R,) number into ``names`` of each row's image.
        template: (R,) name of each row's template.
        media: (R,) int64, number of each row's medium; rows without one have a number of their own.
        weight: (R,) float64, or None without the column.
        ids: (T,) names of the templates, in order of first use.
        identity: (T,) who each template is of, or None without the column.
        gallery: (T,) whether the template is of the gallery, else of the probes; None without
            the column ``role``.
        line: (R,) line of each row.
        source: the file's name, for messages.
    """

    names: list[str]
    image: IntArray
    template: StrArray
    media: IntArray
    weight: FloatArray | None
    ids: StrArray
    identity: StrArray | None
    gallery: BoolArray | None
    line: IntArray
    source: str

    def unknown(self, missing: Sequence[str], what: str) -> str:
        """Say which names are missing, the first few with their first line."""
        first = np.unique(self.image, return_index=True)[1]
        return unknown_names(self, self.line[first], missing, what)


def read_template_list(path: str | os.PathLike[str]) -> TemplateList:
    """Read a CSV list of templates: columns ``template`` and ``image``, and optional ones.

    ``media`` names the video or picture that an image was taken from; an empty field is a medium
    of its own. ``identity`` and ``role`` (gallery or probe) belong to the template and must be
    the same on all its rows. ``weight`` is a number of at least 0, such as a detector's score.
    Other columns are left alone. An image comes once in a template, but may be in several.

    Args:
        path: the file; see :class:`centerarc.io.tables.CsvTable` for its form.

    Returns:
        The rows in the file's order.

    Raises:
        ValueError: a column is missing, or a row is wrong; the message names file and line.
        OSError: the file cannot be read.
    """
    optional = ("media", "identity", "role", "weight")
    table = CsvTable(path, ("template", "image", *optional), strip=True)
    columns = ["template", "image", *(name for name in optional if name in table.columns)]
    names: defaultdict[str, int] = defaultdict(count().__next__)
    ids: defaultdict[str, int] = defaultdict(count().__next__)
    # A medium's name, or the line for a row without one: texts and numbers never meet.
    media: defaultdict[str | int, int] = defaultdict(count().__next__)
    seen: dict[tuple[int, int], int] = {}
    owned: dict[str, dict[int, tuple[str, int]]] = {"identity": {}, "role": {}}
    numbers: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for line, fields in table.rows(columns):
        row = dict(zip(columns, fields, strict=True))
        template = ids[table.filled(row["template"], "template", line)]
        image = names[table.filled(row["image"], "image", line)]
        first = seen.setdefault((template, image), line)
        if first != line:
            raise table.error(line, f"the image of line {first} once more in its template")
        numbers.append((image, template, media[row.get("media") or line], line))
        for name in [name for name in owned if name in row]:
            value = table.filled(row[name], name, line)
            known, first = owned[name].setdefault(template, (value, line))
            if known != value:
                raise table.error(line, f"{name} is {value!r}, but {known!r} on line {first}")
            if name == "role" and value not in _ROLES:
                raise table.error(line, f"role must be gallery or probe, got {value[:40]!r}")
        if "weight" in row:
            weights.append(_weight(table, line, row["weight"]))
    if not numbers:
        raise ValueError(f"{table.path}: there is no template")
    image_of, template_of, media_of, lines = np.array(numbers, dtype=np.int64).T.copy()
    templates = np.array([*ids], dtype=np.str_)
    values = {
        name: np.array([of[k][0] for k in range(len(ids))], dtype=np.str_)
        for name, of in owned.items()
        if of
    }
    return TemplateList(
        list(names),
        image_of,
        templates[template_of],
        media_of,
        np.array(weights) if weights else None,
        templates,
        values.get("identity"),
        values["role"] == "gallery" if "role" in values else None,
        lines,
        table.path,
    )


class TemplateListImages(ListedImages):
    """The images that a list of templates names, each once; a `FaceSource`.

    Args:
        templates: From `read_template_list`.
        root: Folder from which relative names start; None is the list's own folder.
        image_size: Side in pixels to which images are resized; None leaves them as they are.

    Attributes:
        paths: File of each image.
        labels: `(len,)` int64, the person of the first template with each image; without the
            column `identity` that template.
        identities: Name of each label.

    Raises:
        ValueError: If the root is no folder or images are not there; the message has their lines.
    """

    def __init__(
        self,
        templates: TemplateList,
        root: str | os.PathLike[str] | None = None,
        *,
        image_size: int | None = None,
    ) -> None:
        first = np.unique(templates.image, return_index=True)[1]
        owner = templates.template[first]
        if templates.identity is not None:
            of = dict(zip(templates.ids.tolist(), templates.identity.tolist(), strict=True))
            owner = np.array([of[name] for name in owner.tolist()], dtype=np.str_)
        super().__init__(templates, owner, root, image_size)


def _weight(table: CsvTable, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise table.error(line, f"weight must be a finite number of at least 0, got {text[:40]!r}")
    return value


# Text files of whole numbers, so many a line: tens of millions of lines in seconds.

_BLOCK = 1 << 23
_MAX_DIGITS = 18
_ZERO, _NEWLINE = ord("0"), ord("\n")
_IS_DIGIT = np.zeros(256, dtype=np.bool_)
_IS_DIGIT[_ZERO : _ZERO + 10] = True
_IS_BLANK = np.zeros(256, dtype=np.bool_)
_IS_BLANK[[ord(c) for c in " \t\r\n,"]] = True


def number_lines(path: str | os.PathLike[str], fields: int) -> Iterator[IntArray]:
    """Yield the numbers of a file, some ten thousands of lines at a time.

    Args:
        path: lines of whole numbers from 0 to 10^18 - 1, with blanks, tabs or commas between; the
            last line may lack its end, empty lines may stand at the end of the file, and a byte
            order mark of UTF-8 at its start.
        fields: numbers a line.

    Yields:
        (lines, fields) int64.

    Raises:
        ValueError: a line that is anything else; the message names file and line.
        OSError: the file cannot be read.
    """
    source = os.fspath(path)
    line, rest, ended = 1, b"", False
    try:
        with open(path, "rb") as file:
            rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
            while True:
                data = file.read(_BLOCK)
                text = rest + data if data else rest + b"\n"
                end = text.rfind(b"\n") + 1
                text, rest = text[:end], text[end:]
                if len(rest) > _BLOCK:
                    _refuse(source, rest, line, fields)
                kept = text.rstrip(b"\r\n")
                if ended and kept:
                    raise ValueError(f"{source}, line {line}: the line before it is empty")
                if kept:
                    numbers = _numbers(kept + b"\n", fields)
                    if numbers is None:
                        _refuse(source, text, line, fields)
                    yield numbers
                ended = ended or text.count(b"\n", len(kept)) > bool(kept)
                line += text.count(b"\n")
                if not data:
                    return
    except OSError as error:
        raise OSError(f"cannot read {source!r}: {error.strerror or error}") from error


def _numbers(text: bytes, fields: int) -> IntArray | None:
    """The numbers of whole lines, or None where a line is not as it should be."""
    data = np.frombuffer(text, dtype=np.uint8)
    digit = _IS_DIGIT[data]
    if not (digit | _IS_BLANK[data]).all():
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[False], digit, [False]])))
    starts, ends = edges[0::2], edges[1::2]
    lines = np.flatnonzero(data == _NEWLINE)
    if starts.size != lines.size * fields:
        return None
    # As many numbers as all lines need, and each line has the first and the last of its own.
    first, last = starts[::fields], starts[fields - 1 :: fields]
    if (first[1:] < lines[:-1]).any() or (last > lines).any():
        return None
    width = ends - starts
    if width.max() > _MAX_DIGITS:
        return None
    values: npt.NDArray[np.int64] = np.zeros(starts.size, dtype=np.int64)
    for place in range(int(width.max())):
        if place < int(width.min()):
            values = values * 10 + (data[starts + place] - _ZERO)
        else:
            more = np.flatnonzero(width > place)
            values[more] = values[more] * 10 + (data[starts[more] + place] - _ZERO)
    return values.reshape(-1, fields)


def _refuse(source: str, text: bytes, line: int, fields: int) -> NoReturn:
    for number, row in enumerate(text.split(b"\n"), line):
        if _numbers(row + b"\n", fields) is None:
            shown = row[:60].decode("utf-8", "replace").rstrip("\r")
            raise ValueError(
                f"{source}, line {number}: expected {fields} whole numbers, got {shown!r}"
            )
    raise ValueError(f"{source}, line {line}: expected {fields} whole numbers a line")


# The metadata files of IJB-B and IJB-C, in the form in which insightface hands them out.

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
    table = CsvTable(path, wanted, strip=True)
    owner: dict[int, tuple[int, int]] = {}
    for line, row in table.rows(wanted):
        for name, text in zip(wanted, row, strict=True):
            if not (text.isdecimal() and len(text) <= 18):
                raise table.error(line, f"{name} must be a whole number, got {text[:40]!r}")
        template, subject = map(int, row)
        known, first = owner.setdefault(template, (subject, line))
        if known != subject:
            raise table.error(
                line, f"template {template} is of subject {subject}, but of {known} on line {first}"
            )
    if not owner:
        raise ValueError(f"{table.path}: there is no template")
    templates = np.array(sorted(owner), dtype=np.int64)
    subjects = np.array([owner[template][0] for template in templates.tolist()], dtype=np.int64)
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


# A folder of IJB-B or IJB-C: which metadata file is which, and its faces, aligned.


@dataclass(frozen=True)
class IjbFiles:
    """The files of a metadata folder, named as insightface names them.

    Attributes:
        images: ``*_face_tid_mid.txt``.
        landmarks: ``*_name_5pts_score.txt``.
        pairs: ``*_template_pair_label.txt``.
        galleries: ``*_1N_gallery_G1.csv`` and ``G2`` (IJB-C) or ``S1`` and ``S2`` (IJB-B); empty
            where there is none.
        probes: ``*_1N_probe_mixed.csv``, or None.
    """

    images: Path
    landmarks: Path
    pairs: Path
    galleries: list[Path]
    probes: Path | None


def find_ijb_files(folder: str | os.PathLike[str]) -> IjbFiles:
    """Find the metadata files of one set in a folder.

    Args:
        folder: the folder, such as ``IJBC/meta``.

    Raises:
        ValueError: the path is no folder, a file is missing or there are two of a kind, or there
            are galleries without probes.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"the metadata must be a folder, got {str(folder)!r}")
    galleries = sorted(root.glob("*_1N_gallery_[GS][12].csv"))
    probes = sorted(root.glob("*_1N_probe_mixed.csv"))
    if galleries and not probes:
        raise ValueError(f"{str(root)!r} has galleries but no *_1N_probe_mixed.csv")
    return IjbFiles(
        _one(root, "*_face_tid_mid.txt"),
        _one(root, "*_name_5pts_score.txt"),
        _one(root, "*_template_pair_label.txt"),
        galleries,
        probes[0] if galleries else None,
    )


class IjbFaces(FaceSource):
    """The faces of an IJB set, cut out of its loose crops by their landmarks; a `FaceSource`.

    Args:
        images: From `read_ijb_images`.
        landmarks: From `read_ijb_landmarks`, of the same images in the same order.
        root: The folder of the images, such as `IJBC/loose_crop`.
        image_size: Side in pixels of the aligned faces.

    Attributes:
        labels: `(len,)` int64; templates, since the files do not say who is on an image.
        identities: The number of each label's template, as text.

    Raises:
        ValueError: If the root is no folder, the size is below 1, or the two lists differ; the
            message names the line.
    """

    def __init__(
        self,
        images: IjbImages,
        landmarks: IjbLandmarks,
        root: str | os.PathLike[str],
        *,
        image_size: int = 112,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"images must be a folder, got {str(root)!r}")
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1")
        check_same_images(images, landmarks)
        templates, labels = np.unique(images.template, return_inverse=True)
        self.labels = labels.astype(np.int64)
        self.identities = [str(template) for template in templates.tolist()]
        self._names = images.names
        self._landmarks = landmarks.landmarks
        self._target = arcface_template(image_size)
        self.image_size: int = image_size

    def place(self, index: int) -> str:
        """Returns the name of image `index`."""
        return self._names[index]

    def image(self, index: int) -> Image:
        """Returns face `index`, aligned: `(image_size, image_size, 3)` uint8 RGB.

        Raises:
            ValueError: If the image cannot be read, or its landmarks are of no face.
        """
        picture = read_image(self.root / self._names[index])
        try:
            matrix = similarity_transform(self._landmarks[index : index + 1], self._target)[0]
            return warp(picture, matrix, self.image_size)
        except ValueError as error:
            raise ValueError(f"cannot align {self._names[index]!r}: {error}") from error


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if len(found) != 1:
        shown = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{str(root)!r} must have one file {pattern}; it has {shown}")
    return found[0]
