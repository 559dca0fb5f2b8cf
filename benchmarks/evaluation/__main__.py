"""The runner: ``python -m benchmarks.evaluation --quick``; ``--help`` tells the rest."""

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np
import sklearn
from benchmarks.common.runner import add_flags, new_record, parsed, publish
from benchmarks.common.turns import play, take_turns
from benchmarks.evaluation import curves, template_scores
from benchmarks.evaluation.cases import TEMPLATE_PAIRS
from benchmarks.evaluation.page import regions_of


class Amounts:
    """How much is measured.

    Args:
        quick: only so much that everything runs once.
    """

    def __init__(self, quick: bool) -> None:
        self.scores = 250_000 if quick else 2_000_000
        self.template_pairs = 120_000 if quick else TEMPLATE_PAIRS
        self.rounds = 1 if quick else 11


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description="Measure curves and template scores beside scikit-learn and the "
        "plain formulas.",
    )
    add_flags(parser, rounds=Amounts(quick=False).rounds)
    return parsed(parser, arguments)


def measure(record: dict[str, Any], amounts: Amounts) -> None:
    """Puts everything into the record, piece by piece, so that an early end leaves what there is.

    Args:
        record: gets it.
        amounts: how much.
    """
    record["scores"] = amounts.scores
    record["curves"] = []
    works = curves.works(amounts.scores)
    take_turns("curves", amounts.rounds, partial(play, works), record["curves"])
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
    record = new_record("benchmarks.evaluation", arguments)
    record["versions"] = f"numpy {np.__version__}, scikit-learn {sklearn.__version__}"
    stopped = False
    try:
        measure(record, amounts)
    except KeyboardInterrupt:
        stopped = True
        print("stopped; the tables hold what there is", flush=True)
    publish("evaluation", record, regions_of(record), chosen)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
