"""What a source of images holds: counts, headers, the long tail."""

import os
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from centerarc.data.decode import opened_image
from centerarc.data.folder import FolderSource
from centerarc.data.source import FaceSource, Skipped, as_source
from centerarc.io.parallel import Tick, in_chunks, run_tasks

# How the images are spread over the identities: the long tail in numbers.

QUANTILES = (0.05, 0.25, 0.75, 0.95, 0.99)
_HEADS = (0.01, 0.1, 0.2, 0.5)
# Lower ends of the groups "1, 2, 3-4, 5-9, 10-19, ..." of images of an identity.
_EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True)
class CountStatistics:
    """The number of images of each identity, summed up.

    Attributes:
        images: All images.
        identities: All identities.
        minimum: Fewest images of an identity.
        median: Median number of images.
        mean: Mean number of images.
        maximum: Most images of an identity.
        quantiles: Images of an identity at each part of the identities, fewest first.
        heads: Share of all images that the given part of the identities with most images has.
        gini: Inequality: 0 if all have equally many, towards 1 if one has them all.
        groups: (name such as "3-4", identities with so many images, images they have).
    """

    images: int
    identities: int
    minimum: int
    median: float
    mean: float
    maximum: int
    quantiles: dict[float, float]
    heads: dict[float, float]
    gini: float
    groups: list[tuple[str, int, int]]


def count_statistics(counts: npt.ArrayLike) -> CountStatistics:
    """Sums up the number of images of each identity.

    With the counts n_1 <= ... <= n_C and their sum N, the Gini coefficient is
    sum_k (2 k - C - 1) n_k / (C N).

    Args:
        counts: `(C,)` images of each identity, each at least 1.

    Returns:
        The numbers.

    Raises:
        ValueError: If there is no identity, or one without an image.

    Example:
        >>> found = count_statistics([1, 1, 8])
        >>> found.median, found.maximum, round(found.gini, 2)
        (1.0, 8, 0.47)
        >>> found.groups
        [('1', 2, 2), ('5-9', 1, 8)]
    """
    values = np.sort(np.asarray(counts, dtype=np.int64))
    if values.ndim != 1 or not values.size or values[0] < 1:
        raise ValueError("counts must hold the images of at least one identity, each at least 1")
    size, total = len(values), int(values.sum())
    rank = np.arange(1, size + 1)
    heads = {part: values[-max(round(part * size), 1) :].sum() / total for part in _HEADS}
    groups = []
    for low, following in zip(_EDGES, (*_EDGES[1:], None), strict=True):
        inside = values[(values >= low) & (values < following if following else True)]
        last = "+" if following is None else "" if following == low + 1 else f"-{following - 1:,}"
        if len(inside):
            groups.append((f"{low:,}{last}", len(inside), int(inside.sum())))
    return CountStatistics(
        images=total,
        identities=size,
        minimum=int(values[0]),
        median=float(np.median(values)),
        mean=float(values.mean()),
        maximum=int(values[-1]),
        quantiles={q: float(np.quantile(values, q)) for q in QUANTILES},
        heads={part: float(share) for part, share in heads.items()},
        gini=float(((2 * rank - size - 1) * values).sum() / (size * total)),
        groups=groups,
    )


# What the first bytes of an image file say: format, size and color.

_COLORS = {
    "1": "gray",
    "L": "gray",
    "LA": "gray",
    "I;16": "gray, 16 bits",
    "I;16B": "gray, 16 bits",
    "I": "gray, 16 bits",
    "P": "palette",
    "CMYK": "CMYK",
    "RGBA": "color with transparency",
}


class _Header(NamedTuple):
    """What a file says of its image before any pixel is decoded; or the error and nothing else."""

    format: str = ""  # "pixels" for a source that has no files
    width: int = 0
    height: int = 0
    color: str = ""
    size: int = 0  # in bytes
    error: str = ""


def _read_headers(source: FaceSource, numbers: range, tick: Tick) -> list[_Header]:
    headers = []
    for number in numbers:
        tick()
        try:
            headers.append(_read_header(source, number))
        except Exception as error:  # decoders of damaged data raise almost anything
            reason = " ".join(str(error).split()) or type(error).__name__
            headers.append(_Header(error=reason))
    return headers


def _read_header(source: FaceSource, number: int) -> _Header:
    # Large photographs in a folder need not be read whole.
    if isinstance(source, FolderSource):
        with (source.root / source.place(number)).open("rb") as file:
            return _parse(file, os.fstat(file.fileno()).st_size)
    data = source.encoded(number)
    if data is None:
        height, width, _ = source.image(number).shape
        return _Header("pixels", width, height, "color", 3 * height * width)
    return _parse(BytesIO(data), len(data))


def _parse(file: IO[bytes], size: int) -> _Header:
    with opened_image(file) as picture:
        color = _COLORS.get(picture.mode, "color")
        return _Header(picture.format or "", *picture.size, color, size)


# The long tail as text: identities by their number of images, both axes logarithmic.

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def tail_plot(
    counts: npt.ArrayLike, *, width: int = 80, height: int = 10, unicode: bool = True
) -> str:
    """Draws the images of each identity, the one with most images at the left.

    Args:
        counts: `(C,)` images of each identity, each at least 1.
        width: Characters in a line, at least 20.
        height: Lines of the plot without its axis, at least 2.
        unicode: Draw with block characters; otherwise with plain ASCII.

    Returns:
        `height + 2` lines.

    Raises:
        ValueError: If `width` or `height` is too small or there is no identity.

    Example:
        >>> print(tail_plot([100, 10, 10, 1], width=20, height=4, unicode=False))
        100 |#######
         10 |###############
            |###############
          1 |###############
            +---------------
             1             4
    """
    values = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    if width < 20 or height < 2 or not values.size:
        raise ValueError(
            f"width is {width} and height {height} for {values.size} identities; a plot needs at "
            "least 20, 2 and 1"
        )
    top = max(float(np.log10(values[0])), 0.3)
    ticks = _row_labels(top, height)
    margin = max(map(len, ticks)) + 2
    columns = width - margin
    # Column x stands for the identities at rank C^(x / columns).
    rank = len(values) ** ((np.arange(columns) + 0.5) / columns)
    heights = np.log10(values[np.minimum(rank.astype(int), len(values)) - 1]) / top * (height - 1)
    lines = []
    for row in range(height - 1, -1, -1):
        # An identity with one image still shows: the lowest row is always full.
        filled = np.clip(heights - row + 1, 0, 1)
        if unicode:
            bar = "│" + "".join(_EIGHTHS[round(8 * part)] for part in filled)
        else:
            bar = "|" + "".join("#" if part >= 0.5 else " " for part in filled)
        lines.append(f"{ticks[row]:>{margin - 2}} {bar}")
    corner = "└" + "─" * columns if unicode else "+" + "-" * columns
    lines.append(" " * (margin - 1) + corner)
    lines.append(" " * margin + _ranks(len(values), columns))
    return "\n".join(line.rstrip() for line in lines)


def _row_labels(top: float, height: int) -> list[str]:
    """Names the row of each power of ten, and the top one, from the bottom up."""
    labels = [""] * height
    for power in range(int(top) + 1):
        labels[round(power / top * (height - 1))] = f"{10**power:,}"
    if top > 0.3:
        labels[height - 1] = f"{round(10**top):,}"
    return labels


def _ranks(size: int, columns: int) -> str:
    """Names the ranks under the axis, as many powers of ten as there is room for."""
    line = [" "] * columns
    last = f"{size:,}"
    if size > 1:
        line[columns - len(last) :] = last
    end = 0
    for power in range(len(str(size))):
        name = f"{10**power:,}"
        at = int(columns * power / np.log10(size)) if size > 1 else 0
        if at >= end and at + len(name) < columns - len(last):
            line[at : at + len(name)] = name
            end = at + len(name) + 2
    return "".join(line)


# What is in a source, from its labels and the headers of its files.

_CHUNK = 512


@dataclass(frozen=True)
class Overview:
    """What a source holds.

    Attributes:
        counts: `(C,)` int64, images of each identity of the source.
        statistics: The same summed up.
        sizes: Images of each (width, height) in pixels, most frequent first.
        formats: Images of each file format.
        colors: Images of each kind of color, such as "gray".
        file_bytes: `(R,)` int64, size of each file that could be read.
        unreadable: (place, reason) of images without a header that can be read.
        left_out: What the source itself left out when it was opened.
    """

    counts: npt.NDArray[np.int64]
    statistics: CountStatistics
    sizes: Counter[tuple[int, int]]
    formats: Counter[str]
    colors: Counter[str]
    file_bytes: npt.NDArray[np.int64]
    unreadable: list[tuple[str, str]]
    left_out: Sequence[Skipped]


def inspect_source(
    source: FaceSource,
    *,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Overview:
    """Looks at the labels and at the header of every image; decodes none.

    Args:
        source: The source.
        workers: Processes that read headers; 0 reads in this one, None takes one for each core.
        progress: Called with a number of images whenever so many more are done.

    Returns:
        What is there; the same for any number of workers.

    Raises:
        ValueError: If `workers` is out of range or the source has no image.
        OSError: If a worker process died.

    Example:
        >>> from centerarc.data import create_source
        >>> faces = create_source("synthetic", num_identities=2, images_per_identity=3)
        >>> inspect_source(faces, workers=0).sizes
        Counter({(112, 112): 6})
    """
    source = as_source(source)
    if not len(source):
        raise ValueError("source has no image")
    counts = np.bincount(source.labels, minlength=len(source.identities)).astype(np.int64)
    statistics = count_statistics(counts[counts > 0])
    chunks = in_chunks(len(source), _CHUNK)
    tasks = run_tasks(_read_headers, source, chunks, workers=workers, progress=progress)
    sizes: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    colors: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    file_bytes = array("q")
    with closing(tasks) as results:
        for number, header in enumerate(chain.from_iterable(results)):
            if header.error:
                unreadable.append((source.place(number), header.error))
            else:
                sizes[header.width, header.height] += 1
                formats[header.format] += 1
                colors[header.color] += 1
                file_bytes.append(header.size)
    return Overview(
        counts=counts,
        statistics=statistics,
        sizes=Counter(dict(sizes.most_common())),
        formats=formats,
        colors=colors,
        file_bytes=np.array(file_bytes, dtype=np.int64),
        unreadable=unreadable,
        left_out=source.skipped,
    )
