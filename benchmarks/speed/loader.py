"""Images a second of one process that reads, and of two workers over one.

The bound is a loop that only decodes the same JPEGs by simplejpeg (libjpeg-turbo), as a user calls
it; a stricter one decodes all of them into one array at an address that suits the decoder.
"""

import argparse
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.common.runner import ROOT, new_record, publish
from benchmarks.common.spread import Spread, shown
from benchmarks.common.turns import take_turns
from benchmarks.data.images import Images, prepare
from benchmarks.data.implementations import DEFAULT, FLIP, GivenOrder, Indices, bare, ours
from benchmarks.data.implementations import Work as Reading
from benchmarks.data.tables import KINDS
from benchmarks.data.turns import one_thread, orders
from benchmarks.data.workers import loaders
from benchmarks.speed.builds import Work, builds, play_round, serve

from centerarc.data import Augmentation, FolderSource, RecordIOSource, ShardSource, TrainLoader

FACES = ROOT / "data" / "lfw112"
# Images that there are, of a turn, and of an epoch of workers.
AMOUNTS, QUICK = (1024, 1024, 4096), (48, 256, 512)
WAYS = {"flip": (FLIP, "mirrored", 0.85), "everything": (DEFAULT, "full augmentation", 0.65)}
TWO_OVER_ONE = 1.85


@contextmanager
def works_of(room: Path, turn: int, epoch: int) -> Iterator[dict[str, Work]]:
    """Within it, what a build plays: each gives its seconds, `digest` a checksum of batches."""
    folder = FolderSource(room / "folder")
    sources = {
        "folder": folder,
        ".rec": RecordIOSource(room / "rec"),
        "shards": ShardSource(room / "shards"),
    }
    data = [folder.encoded(index) for index in range(len(folder))]
    images = Images(data, dict(sources), "")
    short, long = orders(len(data), turn), orders(len(data), epoch)
    shape = simplejpeg.decode_jpeg(data[0], "RGB").shape
    suited = np.empty(int(np.prod(shape)) + 1, dtype=np.uint8)[1:].reshape(shape)

    def bound(order: Indices, _: int) -> None:
        for index in order.tolist():
            simplejpeg.decode_jpeg(data[index], "RGB", buffer=suited)

    works: dict[str, Work] = {
        "digest": lambda turn: [_checksum(source, short(turn)) for source in sources.values()],
        "bare": partial(_seconds, bare(images), short),
        "suited": partial(_seconds, bound, short),
    }
    for kind, source in sources.items():
        for way, (config, _, _) in WAYS.items():
            works[f"{kind}: {way}"] = partial(_seconds, ours(source, config, floats=False), short)
    with loaders(images) as pools:
        yield works | {name: partial(_seconds, work, long) for name, work in pools.items()}


def _seconds(work: Reading, order: Callable[[int], Indices], turn: int) -> float:
    indices, start = order(turn), time.perf_counter()
    work(indices, turn)
    return time.perf_counter() - start


def _checksum(source: FolderSource | RecordIOSource | ShardSource, order: Indices) -> int:
    found = 0
    for config, _, _ in WAYS.values():
        loader = TrainLoader(
            source,
            batch_size=64,
            augmentation=Augmentation(config),
            seed=0,
            sampler=GivenOrder(order),
        )
        for batch, labels in loader:
            found = zlib.crc32(labels.numpy(), zlib.crc32(batch.numpy(), found))
    return found


def table(record: Record) -> Table:
    """What was to be reached, and what was."""

    def ratio(name: str, other: str, scale: float = 1.0) -> Spread | None:
        rounds = [r for r in record["rounds"] + record["workers"] if name in r and other in r]
        return Spread.of(scale * found[other] / found[name] for found in rounds)

    def percent(value: float) -> str:
        return f"{100 * value:.0f}%"

    def times(value: float) -> str:
        return f"{value:.2f}x"

    rows = []
    for way, (_, words, target) in WAYS.items():
        for kind in KINDS:
            name = f"{kind}: {way}"
            row = [f"one process, {words}, {kind}: images/s over a bare decode loop's"]
            row += [percent(target), shown(ratio(f"now {name}", "now bare"), percent)]
            row += [shown(ratio(f"before {name}", "before bare"), percent)]
            row += [shown(ratio(f"now {name}", "now suited"), percent)]
            rows.append([*row, shown(ratio(f"now {name}", f"before {name}"), times)])
    for kind in (*KINDS, "bare"):
        words = "a bare decode loop" if kind == "bare" else f"full augmentation, {kind}"
        row = [f"{words}: images/s of two workers over one's"]
        row += ["" if kind == "bare" else times(TWO_OVER_ONE)]
        row += [shown(ratio(f"now {kind}: 2", f"now {kind}: 1"), times)]
        row += [shown(ratio(f"before {kind}: 2", f"before {kind}: 1"), times), ""]
        rows.append([*row, shown(ratio(f"now {kind}: 2", f"before {kind}: 2"), times)])
    head = [
        "",
        "target",
        "reached",
        "before",
        "over the loop at a suitable address",
        "now / before",
    ]
    return head, rows


def main(chosen: argparse.Namespace) -> int:
    """Measures and writes."""
    most, turn, epoch = QUICK if chosen.quick else AMOUNTS
    rounds = chosen.rounds or (1 if chosen.quick else 15)
    record = new_record("benchmarks.speed", None)
    record.update(torch=torch.__version__, threads=1, rounds=[], workers=[])
    with tempfile.TemporaryDirectory() as folder:
        faces = FACES if FACES.is_dir() and not chosen.quick else None
        words = prepare(faces, most, Path(folder)).words
        with builds(__name__, chosen.before, folder, str(turn), str(epoch)) as playing:
            digests = [build.play("digest", 0) for build in playing.values()]
            if any(digest != digests[0] for digest in digests):
                raise AssertionError("the builds read different batches")
            names = [(b, n) for b, build in playing.items() for n in build.names if n != "digest"]
            for what, least in (("rounds", rounds), ("workers", -(-rounds // 3))):
                chosen_names = [n for n in names if (n[1][-1] in "12") == (what == "workers")]
                take_turns(
                    f"loader, {what}",
                    least,
                    partial(play_round, chosen_names, playing),
                    record[what],
                )
    caption = f"{record['date']}, `{record['command']}`. {words}. {machine_words(record)}"
    publish("speed-loader", record, filled_regions(record, {"loader": table}, caption), chosen)
    return 0


if __name__ == "__main__":
    with one_thread(), works_of(Path(sys.argv[1]), *map(int, sys.argv[2:])) as found:
        serve(found)
