"""Rows of the tables from what a run recorded. Imports no torch."""

import statistics

from benchmarks.common.page import Record, Table
from benchmarks.common.spread import Spread, shown

KINDS = ("folder", ".rec", "shards")
WAYS = {
    "flip": "mirrored",
    "flip, to_input": "mirrored, to float on the CPU",
    "everything": "full augmentation",
    "always": "every change on every image",
}
STATES = {
    "cached": "first opening",
    "cold": "first opening, file not in the page cache",
    "again": "later openings",
}
# The part of an epoch whose memory is not looked at, while queues fill.
WARM_UP = 0.1


def over(record: Record, name: str, other: str) -> Spread | None:
    """The ratio of images a second within each round."""
    return _ratios(record.get("rounds", []), name, other)


def two_over_one(record: Record, kind: str) -> Spread | None:
    """Images a second with two workers over those with one, within each round."""
    return _ratios(record.get("workers", []), f"{kind}: 2", f"{kind}: 1")


def opened(record: Record, state: str, what: str) -> Spread | None:
    """Seconds or megabytes of the openings in a state."""
    return Spread.of(found[what] for found in record.get("openings", {}).get(state, []))


def _ratios(rounds: list[dict[str, float]], name: str, other: str) -> Spread | None:
    return Spread.of(rates[name] / rates[other] for rates in rounds if name in rates)


def quarters(values: list[float]) -> tuple[float, float]:
    """Means of the first and of the last quarter after the warm-up."""
    kept = values[round(WARM_UP * len(values)) :]
    quarter = max(1, len(kept) // 4)
    return statistics.fmean(kept[:quarter]), statistics.fmean(kept[-quarter:])


def throughput_table(record: Record) -> Table | None:
    """Images a second of all that took turns."""
    rounds = record.get("rounds")
    if not rounds:
        return None
    names = {
        "bare": "bare decode loop (the bound)",
        "peer": "PIL and plain torch, folder (the peer)",
    }
    for kind in KINDS:
        for way, words in WAYS.items():
            names[f"{kind}: {way}"] = f"**centerarc**, {kind}, {words}"
    rows = [
        [
            words,
            _rate(rounds, name),
            shown(over(record, name, "bare"), _percent),
            shown(over(record, name, "peer"), _times),
        ]
        for name, words in names.items()
    ]
    return ["", "images/s", "over the bare loop", "over the peer"], rows


def workers_table(record: Record) -> Table | None:
    """One worker and two."""
    rounds = record.get("workers")
    if not rounds:
        return None
    names = {kind: f"**centerarc**, {kind}, full augmentation" for kind in KINDS}
    names["bare"] = "bare decode loop in as many processes"
    rows = [
        [
            words,
            _rate(rounds, f"{kind}: 1"),
            _rate(rounds, f"{kind}: 2"),
            shown(two_over_one(record, kind), _times),
        ]
        for kind, words in names.items()
    ]
    return ["", "images/s, one", "images/s, two", "two over one"], rows


def openings_table(record: Record) -> Table | None:
    """The .rec of many records."""
    if not record.get("openings"):
        return None
    rows = [
        [
            words,
            shown(opened(record, state, "seconds"), lambda value: f"{value:.2f}"),
            shown(opened(record, state, "megabytes"), lambda value: f"{value:.0f}"),
        ]
        for state, words in STATES.items()
    ]
    return [f"{record['people']:,} people, {record['records']:,} images", "seconds", "MB"], rows


def memory_table(record: Record) -> Table | None:
    """What an epoch's beginning and end occupy."""
    if not record.get("memory"):
        return None
    rows = []
    for kind, found in record["memory"].items():
        first, last = quarters(found["megabytes"])
        row = [f"{found['images']:,}", f"{first:.1f}", f"{last:.1f}", f"{last - first:+.1f}"]
        rows.append([kind, *row])
    return ["", "images", "MB, first quarter", "MB, last quarter", "growth, MB"], rows


def _rate(rounds: list[dict[str, float]], name: str) -> str:
    return shown(Spread.of(rates[name] for rates in rounds), lambda rate: f"{rate:,.0f}")


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"
