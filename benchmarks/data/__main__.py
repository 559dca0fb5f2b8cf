"""The runner: ``python -m benchmarks.data --quick``; ``--help`` tells the rest."""

import argparse
import json
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from benchmarks.data.images import Images, prepare
from benchmarks.data.implementations import implementations, verify
from benchmarks.data.memory import over_an_epoch
from benchmarks.data.opening import EACH, ROOT, openings
from benchmarks.data.page import regions_of
from benchmarks.data.turns import one_thread, orders, play
from benchmarks.data.workers import loaders
from benchmarks.head.machine import machine_facts
from benchmarks.scaling.page import write_regions

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
    parser.add_argument("--quick", action="store_true", help="a little of everything, in seconds")
    parser.add_argument("--rounds", type=int, help="of turns; by default 30")
    parser.add_argument("--page", type=Path, help="rewrite the tables of this Markdown page")
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    if chosen.images is None and FACES.is_dir() and not chosen.quick:
        chosen.images = FACES
    if chosen.images is not None and not chosen.images.is_dir():
        parser.error(f"--images: {str(chosen.images)!r} is no folder")
    if chosen.page is not None and not chosen.page.is_file():
        parser.error(f"--page: there is no {str(chosen.page)!r}")
    return chosen


class Progress:
    """A line after each part of a long piece of work, with the time left.

    Args:
        words: what the work is.
        parts: how many parts it has.
    """

    def __init__(self, words: str, parts: int) -> None:
        self.words, self.parts, self.done = words, parts, 0
        self.start = time.perf_counter()
        print(f"{words} ...", flush=True)

    def step(self) -> None:
        """A part is done."""
        self.done += 1
        left = (time.perf_counter() - self.start) / self.done * (self.parts - self.done)
        print(f"{self.words}: {self.done} of {self.parts}, about {left:.0f} s left", flush=True)


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
    rounds = amounts.rounds
    play(works, order(rounds), rounds)  # a warm-up, not recorded
    progress = Progress("taking turns", rounds)
    record["rounds"] = []
    for turn in range(rounds):
        record["rounds"].append(play(works, order(turn), turn))
        progress.step()

    rounds = (rounds + 2) // 3  # each takes longer
    progress = Progress("one worker and two", rounds)
    with loaders(images) as works:
        order = orders(count, amounts.workers_epoch)
        play(works, order(rounds), rounds)
        record["workers"] = []
        for turn in range(rounds):
            record["workers"].append(play(works, order(turn), turn))
            progress.step()

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
    given = sys.argv[1:] if arguments is None else arguments
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.data", *given]),
        "machine": machine_facts(),
        "torch": torch.__version__,
        "threads": 1,
    }
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
        write(record, None if chosen.quick else ROOT / "runs" / "bench", chosen.page)
    return 1 if stopped else 0


def write(record: dict[str, Any], raw: Path | None, page: Path | None) -> None:
    """Puts the record into a file of the folder `raw` and its tables on the screen and the page."""
    if raw is not None:
        file = raw / f"data-{time.strftime('%Y%m%d-%H%M%S')}.json"
        raw.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record), encoding="utf-8")
        print(f"raw results: {file.relative_to(ROOT)}")
    regions = regions_of(record)
    for region, body in regions.items():
        print(f"\n{region}\n\n{body}", flush=True)
    if page is not None:
        write_regions(regions, page)


if __name__ == "__main__":
    sys.exit(main())
