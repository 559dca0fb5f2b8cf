"""The whole command `centerarc demo`, of this build and of one before, in turns.

Each is a process as a user starts it, with all cores; rounds have seeds of their own, so that the
accuracies are those of several runs.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.common.runner import ROOT, Progress, new_record, publish
from benchmarks.common.spread import Spread, shown

TARGET, LEAST_ACCURACY = 0.30, 0.85
SMALL = ("--people", "6", "--epochs", "1")
_ACCURACY = re.compile(r"^accuracy on unseen people ([\d.]+)%", re.MULTILINE)
_SAID = re.compile(r"^this will take (about .+) on this machine$", re.MULTILINE)


def play(checkout: Path, seed: int, *more: str) -> dict[str, Any]:
    """One demonstration: its seconds, those of the processors, its accuracy and what it said.

    Raises:
        OSError: if it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = ["demo", "--run-dir", str(Path(folder) / "run"), "--seed", str(seed), *more]
        before, start = os.times(), time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", "centerarc", *words],
            env=os.environ | {"PYTHONPATH": str(checkout / "src")},
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds, after = time.perf_counter() - start, os.times()
    found = _ACCURACY.search(ended.stdout)
    if ended.returncode or found is None:
        raise OSError(f"the demonstration of {str(checkout)!r} failed; see above")
    spent = after.children_user + after.children_system
    said = _SAID.search(ended.stdout)
    return {
        "wall": seconds,
        "cpu": spent - before.children_user - before.children_system,
        "accuracy": float(found.group(1)) / 100,
        "said": said.group(1) if said else "",
    }


def table(record: Record) -> Table:
    """What was to be reached, and what was."""

    def ratio(key: str) -> Spread | None:
        both = [found for found in record["rounds"] if "before" in found]
        return Spread.of(found["now"][key] / found["before"][key] for found in both)

    def each(key: str, form: Callable[[float], str]) -> list[str]:
        rounds = record["rounds"]
        return [
            shown(Spread.of(found[build][key] for found in rounds if build in found), form)
            for build in ("now", "before")
        ]

    def percent(value: float) -> str:
        return f"{100 * value:.1f}%"

    def minutes(seconds: float) -> str:
        return f"{seconds / 60:.1f} min"

    now, before = each("accuracy", percent)
    said = sorted({found["now"]["said"] for found in record["rounds"]})
    rows = [
        [
            "from the command to its end, of the earlier build's time",
            f"at most {percent(TARGET)}",
            shown(ratio("wall"), percent),
            *each("wall", minutes),
        ],
        [
            "time of the processors, of the earlier build's",
            "",
            shown(ratio("cpu"), percent),
            *each("cpu", minutes),
        ],
        ["accuracy on unseen people", f"at least {percent(LEAST_ACCURACY)}", now, now, before],
        ["what it says before it starts", "", ", ".join(said), each("wall", minutes)[0], ""],
    ]
    return ["", "target", "reached", "now", "before"], rows


def main(chosen: argparse.Namespace) -> int:
    """Measures and writes."""
    more = SMALL if chosen.quick else ()
    rounds = chosen.rounds or (1 if chosen.quick else 2)
    checkouts = {"now": ROOT} | ({"before": chosen.before.absolute()} if chosen.before else {})
    record = new_record("benchmarks.speed", None)
    record["rounds"] = []
    progress = Progress("demo", rounds * len(checkouts))
    for turn in range(rounds):
        found = {}
        # Who comes first changes from round to round.
        for build in sorted(checkouts, reverse=turn % 2 == 1):
            found[build] = play(checkouts[build], turn, *more)
            progress.step()
        record["rounds"].append(found)
    caption = f"{record['date']}, `{record['command']}`. {machine_words(record)}"
    publish("speed-demo", record, filled_regions(record, {"demo": table}, caption), chosen)
    return 0
