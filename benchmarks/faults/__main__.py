"""The runner: `python -m benchmarks.faults --short`; `--help` tells the rest."""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from benchmarks.common.page import write_regions
from benchmarks.common.runner import ROOT, new_record
from benchmarks.faults import disks, files, images, kills, numbers, settings
from benchmarks.faults.page import regions_of
from benchmarks.faults.runs import LOST, UNCLEAR, Fault, Lab, Shared, labs

# Faults of a kind from a seed and an amount; and the amounts of the whole and the short form, of
# which None is each of them once.
Make = Callable[[int, Any], list[Fault]]
KINDS: dict[str, tuple[Make, int | None, int]] = {
    kills.KIND: (kills.faults, 126, 3),
    files.FLIPS: (files.flips, 500, 3),
    files.CORRUPTIONS: (files.corruptions, None, 3),
    disks.KIND: (disks.faults, None, 3),
    images.KIND: (images.faults, None, 3),
    numbers.KIND: (numbers.faults, None, 2),
    settings.KIND: (settings.faults, None, 8),
}
BAD = (LOST, UNCLEAR)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description="Kill, damage and hinder training runs, and count how they end.",
    )
    parser.add_argument(
        "--short", dest="quick", action="store_true", help="a few of each kind, in seconds"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--source", type=Path, help="`src` of another build to try them on")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds to try; all by default")
    parser.add_argument("--name", default="", help="try only those whose name has these words")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="faults at the same time")
    parser.add_argument("--json", type=Path, help="write every outcome to this file")
    parser.add_argument("--before", type=Path, help="such a file of an older build, to compare")
    parser.add_argument("--page", type=Path, help="rewrite the tables of this Markdown page")
    chosen = parser.parse_args(arguments)
    for flag, path in (
        ("--page", chosen.page),
        ("--source", chosen.source),
        ("--before", chosen.before),
    ):
        if path is not None and not path.exists():
            parser.error(f"{flag}: there is no {str(path)!r}")
    return chosen


def try_all(faults: list[Fault], source: Path, jobs: int, quick: bool) -> list[Any]:
    """Tries faults on a build, in their order, some at the same time.

    Args:
        faults: What to try.
        source: Its folder `src`.
        jobs: How many at the same time.
        quick: Whether one variant of a run is enough.

    Returns:
        What came of each: kind, name, verdict, words and whether it was named.
    """
    queue: Queue[tuple[int, Fault]] = Queue()
    for numbered in enumerate(faults):
        queue.put(numbered)
    found: dict[int, dict[str, Any]] = {}
    failed: list[BaseException] = []

    def work(lab: Lab) -> None:
        while not failed:
            try:
                number, fault = queue.get_nowait()
            except Empty:
                return
            start = time.monotonic()
            try:
                outcome = fault.act(lab)
            except BaseException as error:
                failed.append(error)
                raise
            if outcome is None:
                continue
            bad = outcome.verdict in BAD
            found[number] = {
                "kind": fault.kind,
                "name": fault.name,
                "verdict": outcome.verdict,
                "words": outcome.words if bad else " ".join(outcome.words.split())[:400],
                "named": outcome.named,
                "seconds": round(time.monotonic() - start, 2),
            }
            if bad:
                print(_told(found[number]), flush=True)
            if len(found) % 50 == 0:
                print(f"{len(found)} of {len(faults)} tried", flush=True)

    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)
        shared = Shared(Path(folder) / "build", source.resolve(), quick)
        with labs(shared, jobs) as places:
            threads = [threading.Thread(target=work, args=(lab,)) for lab in places]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException as error:
                failed.append(error)  # the others stop after what they are doing
                raise
    if failed:
        raise failed[0]
    return [found[number] for number in sorted(found)]


def _told(found: Mapping[str, Any]) -> str:
    return "{verdict}: {kind}: {name}: {words}".format_map(found)


def main(arguments: list[str] | None = None) -> int:
    """Tries and writes; 1 if anything was lost or unclear."""
    chosen = options(arguments)
    record = new_record("benchmarks.faults", arguments)
    record["seed"] = chosen.seed
    faults = [
        fault
        for name, (make, whole, short) in KINDS.items()
        if not chosen.only or name in chosen.only
        for fault in make(chosen.seed, short if chosen.quick else whole)
        if chosen.name in fault.name
    ]
    start = time.monotonic()
    source = chosen.source or ROOT / "src"
    found = record["found"] = try_all(faults, source, chosen.jobs, chosen.quick)
    print(f"{len(found)} faults in {time.monotonic() - start:.0f} s", flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if chosen.before is not None:
        record["before"] = json.loads(chosen.before.read_text(encoding="utf-8"))
    regions = regions_of(record)
    print(regions["kinds"])
    if chosen.page is not None:
        write_regions(regions, chosen.page)
    bad = [_told(one) for one in found if one["verdict"] in BAD]
    print(*bad, sep="\n", end="")  # once more, where whoever looks at the end sees them
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
