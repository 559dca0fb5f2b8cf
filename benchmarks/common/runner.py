"""What every runner does before and after it measures. Imports no torch."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine_facts
from benchmarks.common.page import write_regions

ROOT = Path(__file__).parents[2]


def add_flags(parser: argparse.ArgumentParser, rounds: int) -> None:
    """The flags that all have."""
    parser.add_argument("--quick", action="store_true", help="a little of everything, in seconds")
    parser.add_argument("--rounds", type=int, help=f"of turns; by default {rounds}")
    parser.add_argument("--page", type=Path, help="rewrite the tables of this Markdown page")


def parsed(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """What the user asked for."""
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    if chosen.page is not None and not chosen.page.is_file():
        parser.error(f"--page: there is no {str(chosen.page)!r}")
    return chosen


def new_record(module: str, arguments: list[str] | None) -> dict[str, Any]:
    """When, by which command and on which machine; what is measured comes to it."""
    given = sys.argv[1:] if arguments is None else arguments
    # Where something is on this machine is of no use elsewhere.
    given = [Path(one).name if Path(one).is_absolute() else one for one in given]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", module, *given]),
        "machine": machine_facts(),
    }


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


def publish(
    name: str,
    record: Mapping[str, Any],
    regions: Mapping[str, str],
    chosen: argparse.Namespace,
) -> None:
    """Keeps the record, unless it is of a quick run, and shows its tables, also on the page.

    Args:
        name: of the benchmark.
        record: all that was measured.
        regions: its tables, Markdown by name.
        chosen: the flags.
    """
    if not chosen.quick:
        raw = ROOT / "runs" / "bench" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.write_text(json.dumps(record), encoding="utf-8")
        print(f"raw results: {raw.relative_to(ROOT)}")
    for region, body in regions.items():
        print(f"\n{region}\n\n{body}", flush=True)
    if chosen.page is not None:
        write_regions(regions, chosen.page)
