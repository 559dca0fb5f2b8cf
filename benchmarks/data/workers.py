"""One process that reads against two, while the main process only receives."""

import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import simplejpeg
from benchmarks.data.images import Images
from benchmarks.data.implementations import BATCH, DEFAULT, GivenOrder, Indices, Work

from centerarc.data import Augmentation, EncodedSource, TrainLoader

COUNTS = (1, 2)


@contextmanager
def loaders(images: Images) -> Iterator[dict[str, Work]]:
    """Within it, epochs by `<kind of source>: <count>` processes, and the bare loop by as many."""
    with ExitStack() as stack:
        works = {}
        for kind, source in images.sources.items():
            for count in COUNTS:
                works[f"{kind}: {count}"] = stack.enter_context(_loader(source, count))
        works |= stack.enter_context(_bare(images.data))
        yield works


@contextmanager
def _loader(source: EncodedSource, count: int) -> Iterator[Work]:
    sampler = GivenOrder(np.zeros(BATCH, dtype=np.int64))
    with TrainLoader(
        source,
        batch_size=BATCH,
        augmentation=Augmentation(DEFAULT),
        seed=0,
        sampler=sampler,
        workers=count,
    ) as loader:

        def work(order: Indices, turn: int) -> None:
            sampler.indices = order
            loader.set_epoch(turn)
            for _ in loader:
                pass

        yield work


_DATA: list[bytes] = []


@contextmanager
def _bare(data: list[bytes]) -> Iterator[dict[str, Work]]:
    # Forked processes have what is here.
    _DATA[:] = data
    with multiprocessing.get_context("fork").Pool(max(COUNTS)) as pool:

        def among(count: int) -> Work:
            def work(order: Indices, turn: int) -> None:
                pool.map(_decode, [part.tolist() for part in np.array_split(order, count)], 1)

            return work

        yield {f"bare: {count}": among(count) for count in COUNTS}
    _DATA.clear()


def _decode(order: list[int]) -> None:
    for index in order:
        simplejpeg.decode_jpeg(_DATA[index], "RGB")
