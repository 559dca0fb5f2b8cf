"""What is in a source, from its labels and the headers of its files."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data import source as sources
from centerarc.data.inspection.counts import CountStatistics, count_statistics
from centerarc.data.inspection.headers import read_headers
from centerarc.data.processes import in_chunks, in_order
from centerarc.data.skipped import LeftOut, left_out
from centerarc.data.source import FaceSource

_CHUNK = 512


@dataclass(frozen=True)
class Overview:
    """What a source holds.

    Attributes:
        counts: `(C,)` int64, images of each identity of the source.
        statistics: The same summed up.
        sizes: Images of each (width, height) in pixels, most frequent first.
        formats: Images of each file format.
        colours: Images of each kind of colour, such as "grey".
        file_bytes: `(R,)` int64, size of each file that could be read.
        unreadable: (place, reason) of images without a header that can be read.
        left_out: What the source itself left out when it was opened.
    """

    counts: npt.NDArray[np.int64]
    statistics: CountStatistics
    sizes: Counter[tuple[int, int]]
    formats: Counter[str]
    colours: Counter[str]
    file_bytes: npt.NDArray[np.int64]
    unreadable: list[tuple[str, str]]
    left_out: list[LeftOut]


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
    counts = np.bincount(source.labels, minlength=len(source.identities)).astype(np.int64)
    statistics = count_statistics(counts[counts > 0])
    sizes: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    colours: Counter[str] = Counter()
    unreadable: list[tuple[str, str]] = []
    file_bytes: list[int] = []
    number = 0
    chunks = in_chunks(len(source), _CHUNK)
    with closing(
        in_order(read_headers, source, chunks, workers=workers, progress=progress)
    ) as results:
        for header in chain.from_iterable(results):
            if header.error:
                unreadable.append((sources.place(source, number), header.error))
            else:
                sizes[header.width, header.height] += 1
                formats[header.format] += 1
                colours[header.colour] += 1
                file_bytes.append(header.size)
            number += 1
    return Overview(
        counts=counts,
        statistics=statistics,
        sizes=Counter(dict(sizes.most_common())),
        formats=formats,
        colours=colours,
        file_bytes=np.array(file_bytes, dtype=np.int64),
        unreadable=unreadable,
        left_out=left_out(source),
    )
