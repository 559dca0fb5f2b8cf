"""Lists of templates in CSV files: which images make a template, of whom, and for what."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from centerarc.evaluation.formats.csv_table import Codes, read_table
from centerarc.evaluation.formats.listed_images import ListedImages, unknown_names
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray, StrArray

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
        path: the file; see :func:`centerarc.evaluation.formats.csv_table.read_table` for its form.

    Returns:
        The rows in the file's order.

    Raises:
        ValueError: a column is missing, or a row is wrong; the message names file and line.
        OSError: the file cannot be read.
    """
    optional = ("media", "identity", "role", "weight")
    header, rows = read_table(path, ("template", "image", *optional))
    template_at, image_at = header.all("template", "image")
    at = {name: header.maybe(name) for name in optional}
    names, ids, media = Codes(), Codes(), Codes()
    seen: dict[tuple[int, int], int] = {}
    owned: dict[str, dict[int, tuple[str, int]]] = {"identity": {}, "role": {}}
    numbers: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for line, row in rows:
        where = f"{header.source}, line {line}"
        template = ids[header.filled(row, template_at, where)]
        image = names[header.filled(row, image_at, where)]
        first = seen.setdefault((template, image), line)
        if first != line:
            raise ValueError(f"{where}: the image of line {first} once more in its template")
        medium = row[at["media"]] if at["media"] is not None else ""
        # A name starts with a letter m, and a row of its own with its line, so they never meet.
        numbers.append((image, template, media[f"m{medium}" if medium else f"{line}"], line))
        for name in ("identity", "role"):
            column = at[name]
            if column is not None:
                value = header.filled(row, column, where)
                known, first = owned[name].setdefault(template, (value, line))
                if known != value:
                    raise ValueError(f"{where}: {name} is {value!r}, but {known!r} on line {first}")
                if name == "role" and value not in _ROLES:
                    raise ValueError(f"{where}: role must be gallery or probe, got {value[:40]!r}")
        if at["weight"] is not None:
            weights.append(_weight(row[at["weight"]], where))
    if not numbers:
        raise ValueError(f"{header.source}: there is no template")
    table = np.array(numbers, dtype=np.int64)
    templates = np.array(ids.texts, dtype=np.str_)
    values = {
        name: np.array([owned[name][k][0] for k in range(len(ids))], dtype=np.str_)
        for name in owned
        if at[name] is not None
    }
    return TemplateList(
        names.texts,
        table[:, 0].copy(),
        templates[table[:, 1]],
        table[:, 2].copy(),
        np.array(weights) if at["weight"] is not None else None,
        templates,
        values.get("identity"),
        values["role"] == "gallery" if "role" in values else None,
        table[:, 3].copy(),
        header.source,
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


def _weight(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise ValueError(
            f"{where}: weight must be a finite number of at least 0, got {text[:40]!r}"
        )
    return value
