"""The regions of the results' page."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.faults.files import FLIPS
from benchmarks.faults.runs import LOST, SAID, SURVIVED, UNCLEAR

_VERDICTS = (SURVIVED, SAID, UNCLEAR, LOST)
_ALL = "**all**"
Outcome = dict[str, Any]
# Of the words of one outcome, enough to see what it is.
_SHOWN = 160


def regions_of(record: Record) -> dict[str, str]:
    """Name -> Markdown of everything that was tried, in this build and the one before it."""
    tables = {"kinds": kinds, "manners": manners, "flips": flips, "before": before}
    lines = [_caption(one) for one in _builds(record).values()]
    return filled_regions(record, tables, "\n\n".join(lines))


def _builds(record: Record) -> dict[str, Record]:
    """The records of both builds, or of this one, by what is added to the names of columns."""
    return {"": record} | ({", before": record["before"]} if "before" in record else {})


def _caption(record: Record) -> str:
    words = machine_words(record)
    return f"{record['date']}, `{record['command']}`, seed {record['seed']}. {words}"


def kinds(record: Record) -> Table:
    """A row for each kind of fault, and one for all."""
    return _counted(record, lambda one: str(one["kind"]), "kind of fault")


def manners(record: Record) -> Table:
    """A row for each thing that was done."""
    return _counted(record, lambda one: f"{one['kind']}: {one['name']}", "what was done")


def _counted(record: Record, row_of: Callable[[Outcome], str], title: str) -> Table:
    builds = _builds(record)
    head = [title, *(f"{name}{suffix}" for suffix in builds for name in ("tried", *_VERDICTS))]
    rows = {row_of(one): None for build in builds.values() for one in build["found"]}
    table = []
    for row in [*rows, _ALL]:
        cells = [row]
        for build in builds.values():
            among = [one for one in build["found"] if row in (_ALL, row_of(one))]
            counts = Counter(one["verdict"] for one in among)
            cells += [str(len(among)), *(str(counts[verdict]) for verdict in _VERDICTS)]
        table.append(cells)
    return head, table


def flips(record: Record) -> Table | None:
    """Whether the damaged file was named, in each build."""
    rows = []
    for suffix, build in _builds(record).items():
        found = [one for one in build["found"] if one["kind"] == FLIPS]
        named = sum(one["named"] for one in found)
        words = suffix.removeprefix(", ") or "this build"
        rows.append([words, str(len(found)), str(named), str(len(found) - named)])
    return ["build", "bits flipped", "damage named", "not named"], rows


def before(record: Record) -> Table | None:
    """What the build before lost, an example of each thing that was done."""
    found: dict[str, list[Outcome]] = {}
    for one in record.get("before", {}).get("found", []):
        if one["verdict"] in (LOST, UNCLEAR):
            found.setdefault(f"{one['kind']}: {one['name']}", []).append(one)
    rows = [
        [what, str(len(many)), many[0]["verdict"], _plain(many[0]["words"])]
        for what, many in found.items()
    ]
    return (["what was done", "times", "", "the first time"], rows) if rows else None


def _plain(words: str) -> str:
    words = " ".join(words.split())
    words = re.sub(r"/\S*/build/lab-\d+/", "", words)  # where it was tried does not matter
    short = words if len(words) <= _SHOWN else words[: _SHOWN - 3] + "..."
    return short.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
