"""Rows of the tables from what a run recorded. Imports nothing of the library."""

from benchmarks.common.page import Record, Table
from benchmarks.common.spread import Spread, shown
from benchmarks.evaluation.cases import CURVE_CASES

_WHO = {
    "sklearn": "scikit-learn's `roc_curve`, every point",
    "plain": "plain formula: argsort of all pairs, two running counts",
    "ours": "**centerarc**, `roc`",
    "selection": "**centerarc**, `tar_at_far`: the five TARs without the curve",
}


def faster(record: Record, rounds: str, name: str, than: str) -> Spread | None:
    """How many times faster, within each round."""
    return Spread.of(
        seconds[than] / seconds[name] for seconds in record.get(rounds, []) if name in seconds
    )


def worst_curve(record: Record) -> Spread | None:
    """The least of the cases' medians over scikit-learn."""
    found = [faster(record, "curves", f"{case}: ours", f"{case}: sklearn") for case in CURVE_CASES]
    known = [spread for spread in found if spread is not None]
    return min(known, key=lambda spread: spread.middle) if known else None


def taken(record: Record, rounds: str, name: str) -> Spread | None:
    """Seconds, or another value, of a name over rounds."""
    return Spread.of(found[name] for found in record.get(rounds, []) if name in found)


def curves_table(record: Record) -> Table | None:
    """Full curves and TARs."""
    if not record.get("curves"):
        return None
    rows = []
    for case in CURVE_CASES:
        for who, words in _WHO.items():
            name = f"{case}: {who}"
            rows.append(
                [
                    case,
                    words,
                    shown(taken(record, "curves", name), lambda value: f"{1000 * value:.0f}"),
                    shown(faster(record, "curves", name, f"{case}: sklearn"), times),
                ]
            )
    return [f"{record['scores']:,} scores", "", "ms", "times faster than scikit-learn"], rows


def templates_table(record: Record) -> Table | None:
    """Template pairs."""
    if not record.get("templates"):
        return None
    names = {
        "plain": "plain formula in batches of 100,000 pairs, then `roc_curve`",
        "ours": "**centerarc**, `template_pair_scores`, then `tar_at_far`",
    }
    rows = []
    for who, words in names.items():
        cells = []
        for what, digits in (("scoring", 1), ("tars", 2), ("gigabytes", 2)):
            found = Spread.of(turn[who][what] for turn in record["templates"])
            cells.append(shown(found, lambda value, digits=digits: f"{value:.{digits}f}"))
        ratio = Spread.of(
            turn["plain"]["seconds"] / turn[who]["seconds"] for turn in record["templates"]
        )
        rows.append([words, *cells, shown(ratio, times)])
    head = [
        f"{record['template_pairs']:,} pairs",
        "scoring, s",
        "TARs, s",
        "most memory, GB",
        "times faster",
    ]
    return head, rows


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.1f}x"
