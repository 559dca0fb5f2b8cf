"""Lists of templates in CSV files: which images make a template, of whom, and for what."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from centerarc.data import EncodedSource
from centerarc.data.files import read_file
from centerarc.evaluation.formats.csv_table import Codes, read_table
from centerarc.evaluation.scores import BoolArray, FloatArray, IntArray

StrArray = npt.NDArray[np.str_]

_ROLES = ("gallery", "probe")
_SHOWN = 3


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
    template_at, image_at = header.at("template"), header.at("image")
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


class TemplateListImages(EncodedSource):
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
        super().__init__(image_size)
        folder = Path(templates.source).parent if root is None else Path(root)
        if not folder.is_dir():
            raise ValueError(f"images must be a folder, got {str(folder)!r}")
        self._names = templates.names
        self.paths = [folder / name for name in templates.names]
        first = np.unique(templates.image, return_index=True)[1]
        absent = [k for k, path in enumerate(self.paths) if not path.is_file()]
        if absent:
            shown = ", ".join(
                f"{self._names[k]!r} (line {templates.line[first[k]]})" for k in absent[:_SHOWN]
            )
            more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
            raise ValueError(
                f"{templates.source}: {len(absent)} of {len(self.paths)} names are no images in "
                f"{folder}: {shown}{more}"
            )
        owner = templates.template[first]
        if templates.identity is not None:
            of = dict(zip(templates.ids.tolist(), templates.identity.tolist(), strict=True))
            owner = np.array([of[name] for name in owner.tolist()], dtype=np.str_)
        codes = Codes()
        self.labels = np.array([codes[name] for name in owner.tolist()], dtype=np.int64)
        self.identities = codes.texts

    def encoded(self, index: int) -> bytes:
        """Returns the file of image `index`; see `EncodedSource.encoded`."""
        return read_file(self.paths[index])

    def place(self, index: int) -> str:
        """Returns the name of image `index` as the list has it."""
        return self._names[index]


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
