"""What evaluation was built to reach, and what was measured. Imports nothing of the library."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.page import Record, Table
from benchmarks.common.spread import Spread
from benchmarks.evaluation.cases import TEMPLATE_PAIRS
from benchmarks.evaluation.tables import times, worst_curve


@dataclass(frozen=True)
class Goal:
    """A bound.

    Attributes:
        words: what is measured.
        bound: as it is shown.
        found: what was found; None where it was not measured.
        shown: how that is shown.
        met: whether it is enough.
    """

    words: str
    bound: str
    found: Callable[[Record], Spread | None]
    shown: Callable[[float], str]
    met: Callable[[float], bool]


def _curve(record: Record) -> Spread | None:
    return worst_curve(record) if record.get("scores") == 2_000_000 else None


def _memory(record: Record) -> Spread | None:
    if record.get("template_pairs") != TEMPLATE_PAIRS:
        return None
    return Spread.of(turn["ours"]["gigabytes"] for turn in record["templates"])


GOALS = (
    Goal(
        "2 million scores to a full ROC with TAR at five FARs, over scikit-learn's `roc_curve`; "
        "the least of the four cases",
        "at least 10.0x",
        _curve,
        times,
        lambda value: value >= 10.0,
    ),
    Goal(
        "15.6 million pairs of 23 thousand templates of 512 numbers: most memory, GB",
        "under 2",
        _memory,
        lambda value: f"{value:.2f}",
        lambda value: value < 2.0,
    ),
)


def goals_table(record: Record) -> Table | None:
    """Head and rows of the goals beside what was measured; None if nothing was at full size."""
    rows = []
    for goal in GOALS:
        found = goal.found(record)
        if found is not None:
            verdict = found.verdict(goal.shown, goal.met(found.middle))
            rows.append([goal.words, goal.bound, verdict])
    return (["", "goal", "measured"], rows) if rows else None
