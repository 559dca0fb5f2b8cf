"""Lists of templates in CSV files: which images make a template, of whom, and for what."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from centerarc.evaluation.files.pairs import missing_names
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, StrArray
from centerarc.io.tables import CsvTable

_ROLES = ("gallery", "probe")


@dataclass(frozen=True, eq=False)
class TemplateList:
    """Images of templates, as a CSV file lists them, one image a row.

    Attributes:
        names: the distinct images, in order of first use.
        image: (R,) number into `names` of each row's image.
        template: (R,) name of each row's template.
        media: (R,) int64, number of each row's medium; rows without one have a number of their own.
        weight: (R,) float64, or None without the column.
        ids: (T,) names of the templates, in order of first use.
        identity: (T,) who each template is of, or None without the column.
        gallery: (T,) whether the template is of the gallery, else of the probes; None without
            the column `role`.
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

    def owners(self) -> StrArray:
        """Returns who the first template with each image is of; without people, that template."""
        first = self.template[np.unique(self.image, return_index=True)[1]]
        if self.identity is None:
            return first
        of = dict(zip(self.ids.tolist(), self.identity.tolist(), strict=True))
        return np.array([of[name] for name in first.tolist()], dtype=np.str_)

    def without(self, missing: Sequence[str], what: str) -> tuple["TemplateList", str]:
        """Returns the templates of the other images, and a sentence about those left out.

        Raises:
            ValueError: If no template is left.
        """
        said = self.unknown(missing, what)
        gone = {*missing}
        kept = np.array([name not in gone for name in self.names])
        rows = kept[self.image]
        there = np.isin(self.ids, self.template[rows])
        if not there.any():
            raise ValueError(f"{said}; without them no template is left")
        left = replace(
            self,
            names=[name for name in self.names if name not in gone],
            image=(np.cumsum(kept) - 1)[self.image[rows]],
            template=self.template[rows],
            media=self.media[rows],
            weight=None if self.weight is None else self.weight[rows],
            ids=self.ids[there],
            identity=None if self.identity is None else self.identity[there],
            gallery=None if self.gallery is None else self.gallery[there],
            line=self.line[rows],
        )
        lost = there.size - int(there.sum())
        return (
            left,
            f"left out {len(gone):,} images and {lost:,} of {there.size:,} templates; {said}",
        )

    def unknown(self, missing: Sequence[str], what: str) -> str:
        """Says which names are missing, the first few with their first line."""
        first = self.line[np.unique(self.image, return_index=True)[1]]
        return missing_names(self.source, self.names, first, missing, what)


def read_template_list(path: str | os.PathLike[str]) -> TemplateList:
    """Read a CSV list of templates: columns `template` and `image`, and optional ones.

    `media` names the video or picture that an image was taken from; an empty field is a medium
    of its own. `identity` and `role` (gallery or probe) belong to the template and must be
    the same on all its rows. `weight` is a number of at least 0, such as a detector's score.
    Other columns are left alone. An image comes once in a template, but may be in several.

    Args:
        path: the file; see `centerarc.io.tables.CsvTable` for its form.

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
            raise table.error(line, f"the image of line {first} again in its template")
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


def _weight(table: CsvTable, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise table.error(line, f"weight must be a finite number of at least 0, got {text[:40]!r}")
    return value
