"""The runner: ``python -m benchmarks.evaluation --quick``; ``--help`` tells the rest."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from benchmarks.evaluation import curves, resampling, template_scores
from benchmarks.evaluation.cases import TEMPLATE_PAIRS
from benchmarks.evaluation.page import regions_of
from benchmarks.evaluation.turns import Seconds, play
from benchmarks.head.machine import machine_facts
from benchmarks.scaling.page import write_regions

ROOT = Path(__file__).parents[2]


class Amounts:
    """How much is measured.

    Args:
        quick: only so much that everything runs once.
    """

    def __init__(self, quick: bool) -> None:
        self.scores = 250_000 if quick else 2_000_000
        self.resamples = 100 if quick else 1000
        self.template_pairs = 120_000 if quick else TEMPLATE_PAIRS
        self.rounds = 1 if quick else 11


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description="Measure curves, intervals and template scores beside scikit-learn and the "
        "plain formulas.",
    )
    parser.add_argument("--quick", action="store_true", help="a little of everything, in seconds")
    parser.add_argument("--rounds", type=int, help="of turns; by default 11")
    parser.add_argument("--page", type=Path, help="rewrite the tables of this Markdown page")
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    if chosen.page is not None and not chosen.page.is_file():
        parser.error(f"--page: there is no {str(chosen.page)!r}")
    return chosen


def take_turns(words: str, works: Mapping[str, Callable[[], object]], rounds: int) -> list[Seconds]:
    """All rounds after one that is not recorded, with a line after each."""
    print(f"{words} ...", flush=True)
    play(works, rounds)
    found = []
    start = time.perf_counter()
    for turn in range(rounds):
        found.append(play(works, turn))
        left = (time.perf_counter() - start) / (turn + 1) * (rounds - turn - 1)
        print(f"{words}: {turn + 1} of {rounds}, about {left:.0f} s left", flush=True)
    return found


def measure(record: dict[str, Any], amounts: Amounts) -> None:
    """Puts everything into the record, piece by piece, so that an early end leaves what there is.

    Args:
        record: gets it.
        amounts: how much.
    """
    record["scores"] = amounts.scores
    record["curves"] = take_turns("curves", curves.works(amounts.scores), amounts.rounds)
    record["resamples"] = amounts.resamples
    rounds = (amounts.rounds + 1) // 2
    record["resampling"] = take_turns("intervals", resampling.works(amounts.resamples), rounds)
    record["template_pairs"] = amounts.template_pairs
    record["templates"] = []
    rounds = (amounts.rounds + 3) // 4
    for turn in range(rounds):
        print(f"templates: {turn + 1} of {rounds}", flush=True)
        order = ("ours", "plain") if turn % 2 else ("plain", "ours")
        found = {who: template_scores.in_a_process(who, amounts.template_pairs) for who in order}
        template_scores.check_alike(found["ours"], found["plain"])
        record["templates"].append(found)


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes."""
    chosen = options(arguments)
    amounts = Amounts(chosen.quick)
    amounts.rounds = chosen.rounds or amounts.rounds
    given = sys.argv[1:] if arguments is None else arguments
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.evaluation", *given]),
        "machine": machine_facts(),
        "versions": f"numpy {np.__version__}, scikit-learn {sklearn.__version__}",
    }
    stopped = False
    try:
        measure(record, amounts)
    except KeyboardInterrupt:
        stopped = True
        print("stopped; the tables hold what there is", flush=True)
    if not chosen.quick:
        raw = ROOT / "runs" / "bench" / f"evaluation-{time.strftime('%Y%m%d-%H%M%S')}.json"
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.write_text(json.dumps(record), encoding="utf-8")
        print(f"raw results: {raw.relative_to(ROOT)}")
    regions = regions_of(record)
    for region, body in regions.items():
        print(f"\n{region}\n\n{body}")
    if chosen.page:
        write_regions(regions, chosen.page)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
