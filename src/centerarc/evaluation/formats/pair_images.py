"""The images that a set of pairs uses, each of them once."""

import os
from pathlib import Path

import numpy as np

from centerarc.data import EncodedSource
from centerarc.data.files import read_file
from centerarc.evaluation.formats.lfw_pairs import Pairs
from centerarc.evaluation.scores import BoolArray, IntArray, StrArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_SHOWN = 3


class PairImages(EncodedSource):
    """The images that a pairs file of LFW's format names in a folder, and its pairs; a `PairSet`.

    Looks for ``<root>/<Name>/<Name>_<NNNN>`` with one of the usual image suffixes. Nothing is
    decoded until an image is asked for.

    Args:
        pairs: from :func:`centerarc.evaluation.formats.lfw_pairs.read_pairs`.
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
