"""The runner: ``python -m benchmarks.data --quick``; ``--help`` tells the rest."""

import argparse
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from benchmarks.common.runner import ROOT, Progress, add_flags, new_record, parsed, publish
from benchmarks.common.turns import take_turns
from benchmarks.data.images import Images, prepare
from benchmarks.data.implementations import implementations, verify
from benchmarks.data.memory import over_an_epoch
from benchmarks.data.opening import EACH, openings
from benchmarks.data.page import regions_of
from benchmarks.data.turns import one_thread, orders, rates
from benchmarks.data.workers import loaders

FACES = ROOT / "data" / "lfw112"


class Amounts:
    """How much is measured.

    Args:
        quick: only so much that everything runs once.
    """

    def __init__(self, quick: bool) -> None:
        self.images = 48 if quick else 4096
        self.drawn = 48 if quick else 1024
        self.rounds = 1 if quick else 30
        # Images of a turn and of an epoch, all whole batches.
        self.turn = 256 if quick else 1024
        self.workers_epoch = 512 if quick else 8192
        self.memory_epoch = 1280 if quick else 40_960
        self.samples = 10 if quick else 80
        self.people = 200 if quick else 100_000
        self.openings = 1 if quick else 3


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data",
        description="Measure reading and augmenting beside a bare decode loop and the usual way.",
    )
    parser.add_argument(
        "--images",
        type=Path,
        help="identity folders with JPEGs of one size; by default data/lfw112 where it is, "
        "else drawn faces",
    )
    add_flags(parser, rounds=Amounts(quick=False).rounds)
    chosen = parsed(parser, arguments)
    if chosen.images is None and FACES.is_dir() and not chosen.quick:
        chosen.images = FACES
    if chosen.images is not None and not chosen.images.is_dir():
        parser.error(f"--images: {str(chosen.images)!r} is not a folder")
    return chosen


def measure(record: dict[str, Any], images: Images, amounts: Amounts, room: Path) -> None:
    """Puts everything into the record, piece by piece, so that an early end leaves what there is.

    Args:
        record: gets it.
        images: what is read.
        amounts: how much.
        room: a folder for the large .rec.
    """
    count = len(images.data)
    verify(images)
    works, order = implementations(images), orders(count, amounts.turn)
    record["rounds"], record["workers"] = [], []
    take_turns(
        "taking turns",
        amounts.rounds,
        lambda turn: rates(works, order(turn), turn),
        record["rounds"],
    )
    rounds = (amounts.rounds + 2) // 3  # each takes longer
    with loaders(images) as pools:
        epochs = orders(count, amounts.workers_epoch)
        take_turns(
            "one worker and two",
            rounds,
            lambda turn: rates(pools, epochs(turn), turn),
            record["workers"],
        )

    progress = Progress("memory over an epoch", len(images.sources))
    record["memory"] = {}
    for kind, source in images.sources.items():
        whole = orders(count, amounts.memory_epoch)(0)
        record["memory"][kind] = over_an_epoch(source, whole, amounts.samples)
        progress.step()

    progress = Progress("writing and opening a large .rec", 3 * amounts.openings)
    record["people"], record["records"] = amounts.people, amounts.people * EACH
    record["openings"] = {}
    for state, found in openings(room, amounts.people, amounts.openings):
        record["openings"].setdefault(state, []).append(found)
        progress.step()


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes."""
    chosen = options(arguments)
    amounts = Amounts(chosen.quick)
    amounts.rounds = chosen.rounds or amounts.rounds
    record = new_record("benchmarks.data", arguments)
    record.update(torch=torch.__version__, threads=1)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        room = Path(folder)
        print("images ...", flush=True)
        try:
            most = amounts.drawn if chosen.images is None else amounts.images
            images = prepare(chosen.images, most, room)
        except (OSError, ValueError) as error:
            print(f"--images: {error}", file=sys.stderr)
            return 2
        record["images"] = images.words
        print(images.words, flush=True)
        stopped = False
        try:
            measure(record, images, amounts, room)
        except KeyboardInterrupt:
            stopped = True
            print("stopped; the tables hold what there is", flush=True)
        except Exception:
            # Minutes of measurements are not lost for what went wrong in the last.
            stopped = True
            traceback.print_exc()
        # Before the folder goes: on some disks a large file with holes takes minutes to delete.
        publish("data", record, regions_of(record), chosen)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
