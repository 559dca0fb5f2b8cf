"""IJB-B and IJB-C: their metadata, as insightface distributes it, and their aligned faces."""

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data.alignment import arcface_template, similarity_transform, warp
from centerarc.data.decode import Image, read_image
from centerarc.data.source import FaceSource
from centerarc.evaluation.scores import BoolArray, IntArray
from centerarc.io.files import require_folder
from centerarc.io.tables import CsvTable, open_text

_POINTS = 10
_BLOCK = 1 << 23
_SHOWN = 60


@dataclass(frozen=True, eq=False)
class IjbImages:
    """Whose images templates are made of (`*_face_tid_mid.txt`).

    Attributes:
        names: File of each image.
        template: `(N,)` int64, number of each image's template.
        media: `(N,)` int64, number of each image's medium.
    """

    names: list[str]
    template: IntArray
    media: IntArray


@dataclass(frozen=True, eq=False)
class IjbPairs:
    """Pairs of templates to verify (`*_template_pair_label.txt`).

    Attributes:
        template_a: `(P,)` int32, number of the first template.
        template_b: `(P,)` int32, number of the second.
        same: `(P,)` bool, whether both are of one person.
    """

    template_a: npt.NDArray[np.int32]
    template_b: npt.NDArray[np.int32]
    same: BoolArray


@dataclass(frozen=True, eq=False)
class IjbLandmarks:
    """Where the face is on each image (`*_name_5pts_score.txt`).

    Attributes:
        names: File of each image.
        landmarks: `(N, 5, 2)` float32, x and y of eyes, nose and corners of the mouth, in pixels.
        detector_score: `(N,)` float32.
    """

    names: list[str]
    landmarks: npt.NDArray[np.float32]
    detector_score: npt.NDArray[np.float32]


def read_ijb_images(path: str | os.PathLike[str]) -> IjbImages:
    """Reads lines `image template medium`, such as `1.jpg 1 69544`.

    Raises:
        ValueError: If a line is anything else, or there is none; the message names file and line.
        OSError: If the file cannot be read.
    """
    names: list[str] = []
    numbers: list[int] = []
    for where, (name, *rest) in _lines(path, 2, "an image's name, a template and a medium"):
        names.append(name)
        for kind, text in zip(("template", "medium"), rest, strict=True):
            # By length first: int() itself refuses thousands of digits.
            if not (text.isdecimal() and len(text) <= 18):
                raise ValueError(f"{where}: the {kind} must be a whole number, got {text[:40]!r}")
            numbers.append(int(text))
    template, media = np.array(numbers, dtype=np.int64).reshape(-1, 2).T.copy()
    return IjbImages(names, template, media)


def read_ijb_landmarks(path: str | os.PathLike[str]) -> IjbLandmarks:
    """Reads lines of an image's name, five points (x and y) and the detector's score.

    Raises:
        ValueError: If a line is anything else, or a number is not finite; the message names file
            and line.
        OSError: If the file cannot be read.
    """
    names: list[str] = []
    values: list[float] = []
    what = "an image's name, 10 numbers of landmarks and a score"
    for where, (name, *rest) in _lines(path, _POINTS + 1, what):
        try:
            row = [float(text) for text in rest]
        except ValueError:
            raise ValueError(f"{where}: expected {what}, got {rest!r}") from None
        if not all(map(np.isfinite, row)):
            raise ValueError(f"{where}: the numbers must be finite, got {rest!r}")
        names.append(name)
        values += row
    table = np.array(values, dtype=np.float32).reshape(-1, _POINTS + 1)
    points = table[:, :_POINTS].reshape(-1, 5, 2).copy()
    return IjbLandmarks(names, points, table[:, _POINTS].copy())


def check_same_images(images: IjbImages, landmarks: IjbLandmarks) -> None:
    """Checks that both files are of the same images in the same order.

    Raises:
        ValueError: If they are not; the message starts with the first line that differs.
    """
    for line, names in enumerate(zip_longest(images.names, landmarks.names), 1):
        if names[0] != names[1]:
            first, second = ("none" if name is None else f"image {name!r}" for name in names)
            raise ValueError(f"line {line}: templates have {first}, landmarks have {second}")


def read_ijb_pairs(path: str | os.PathLike[str]) -> IjbPairs:
    """Reads lines `template template label`, where the label is 1 for one person and else 0.

    Made for the 15.6 million lines of IJB-C: seconds, and 9 bytes a pair.

    Raises:
        ValueError: If a line is anything else, or there is none; the message names file and line.
        OSError: If the file cannot be read.
    """
    most = np.array([2**31 - 1, 2**31 - 1, 1])
    parts: list[npt.NDArray[np.int32]] = []
    line = 1
    for block in number_lines(path, 3):
        if (block > most).any():
            row, column = np.argwhere(block > most)[0].tolist()
            raise ValueError(
                f"{os.fspath(path)}, line {line + row}: the {('template', 'label')[column // 2]} "
                f"must be at most {most[column]}, got {block[row, column]}"
            )
        parts.append(block.astype(np.int32).T)
        line += len(block)
    if not parts:
        raise ValueError(f"{os.fspath(path)}: the file has no line")
    same = np.concatenate([part[2] == 1 for part in parts])
    template_a, template_b = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return IjbPairs(template_a, template_b, same)


def number_lines(path: str | os.PathLike[str], fields: int) -> Iterator[IntArray]:
    """Yields the numbers of a text file, some ten thousands of lines at a time.

    Args:
        path: Lines of whole numbers from 0 to 10^18 - 1, with blanks, tabs or commas between; the
            last line may lack its end, empty lines may stand at the end of the file, and a byte
            order mark of UTF-8 at its start.
        fields: Numbers a line.

    Yields:
        `(lines, fields)` int64.

    Raises:
        ValueError: If a line is anything else; the message names file and line.
        OSError: If the file cannot be read.
    """
    source = os.fspath(path)
    number, gap = rb"[0-9]{1,18}+", rb"[ \t\r,]"
    more = rb"(?:%b++%b){%d}" % (gap, number, fields - 1)
    lines = re.compile(rb"(?:%b*+%b%b%b*+\n)*+" % (gap, number, more, gap))
    line, rest, data = 1, b"", b" "
    try:
        with open(path, "rb") as file:
            rest = file.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
            while data:
                data = file.read(_BLOCK)
                text = rest + (data or b"\n")
                match = lines.match(text)
                end = match.end() if match else 0
                if end:
                    plain = text[:end].replace(b",", b" ")
                    yield np.fromstring(plain, dtype=np.int64, sep=" ").reshape(-1, fields)
                    line += text.count(b"\n", 0, end)
                rest = text[end:]
                if not rest.strip(b"\r\n"):
                    rest = rest and b"\n"  # empty lines, which may stand at the end only
                elif b"\n" in rest or len(rest) > _BLOCK:
                    shown = rest.split(b"\n", 1)[0][:_SHOWN].decode("utf-8", "replace")
                    raise ValueError(
                        f"{source}, line {line}: expected {fields} whole numbers, got "
                        f"{shown.rstrip()!r}"
                    )
    except OSError as error:
        raise OSError(f"cannot read {source!r}: {error.strerror or error}") from error


def read_ijb_subjects(path: str | os.PathLike[str]) -> tuple[IntArray, IntArray]:
    """Reads who the templates of a gallery or of the probes are (`*_1N_*.csv`).

    Columns `TEMPLATE_ID` and `SUBJECT_ID`, one row for each image of a template; other columns
    are ignored.

    Returns:
        Numbers of the distinct templates, rising, and the number of each one's subject.

    Raises:
        ValueError: If a column is missing, a field is not a number, or a template has two subjects;
            the message names file and line.
        OSError: If the file cannot be read.
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
    line = 0
    with open_text(path) as file:
        for line, text in enumerate(file, 1):
            fields = text.rsplit(maxsplit=numbers)
            where = f"{source}, line {line}"
            if len(fields) != numbers + 1:
                raise ValueError(f"{where}: expected {what}, got {text[:_SHOWN].rstrip()!r}")
            yield where, fields
    if not line:
        raise ValueError(f"{source}: the file has no line")


@dataclass(frozen=True)
class IjbFiles:
    """The files of a metadata folder, named as insightface names them.

    Attributes:
        images: `*_face_tid_mid.txt`.
        landmarks: `*_name_5pts_score.txt`.
        pairs: `*_template_pair_label.txt`.
        galleries: `*_1N_gallery_G1.csv` and `G2` (IJB-C) or `S1` and `S2` (IJB-B); empty where
            there is none.
        probes: `*_1N_probe_mixed.csv`, or None.
    """

    images: Path
    landmarks: Path
    pairs: Path
    galleries: list[Path]
    probes: Path | None


def find_ijb_files(folder: str | os.PathLike[str]) -> IjbFiles:
    """Finds the metadata files of one set in a folder, such as `IJBC/meta`.

    Raises:
        ValueError: If the path is not a folder, a file is missing or there are two of a kind, or
            there are galleries without probes.
    """
    root = require_folder("the metadata", folder)

    def one(pattern: str) -> Path:
        found = sorted(root.glob(pattern))
        if len(found) != 1:
            shown = ", ".join(path.name for path in found) or "none"
            raise ValueError(f"{str(root)!r} must have one file {pattern}; it has {shown}")
        return found[0]

    galleries = sorted(root.glob("*_1N_gallery_[GS][12].csv"))
    probes = sorted(root.glob("*_1N_probe_mixed.csv"))
    if galleries and not probes:
        raise ValueError(f"{str(root)!r} has galleries but no *_1N_probe_mixed.csv")
    return IjbFiles(
        one("*_face_tid_mid.txt"),
        one("*_name_5pts_score.txt"),
        one("*_template_pair_label.txt"),
        galleries,
        probes[0] if galleries else None,
    )


class IjbFaces(FaceSource):
    """The faces of an IJB set, cut out of its loose crops by their landmarks.

    Args:
        images: From `read_ijb_images`.
        landmarks: From `read_ijb_landmarks`, of the same images in the same order.
        root: The folder of the images, such as `IJBC/loose_crop`.
        image_size: Side in pixels of the aligned faces, at least 1.

    Attributes:
        labels: `(len,)` int64; templates, since the files do not say who is on an image.
        identities: The number of each label's template, as text.

    Raises:
        ValueError: If the root is not a folder, or the two lists differ; the message has the line.
    """

    def __init__(
        self,
        images: IjbImages,
        landmarks: IjbLandmarks,
        root: str | os.PathLike[str],
        *,
        image_size: int = 112,
    ) -> None:
        self.root = require_folder("images", root)
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
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
