"""What reading was built to reach, and what was measured. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.common.page import Record, Table
from benchmarks.common.spread import Spread
from benchmarks.data.tables import KINDS, opened, over, two_over_one


@dataclass(frozen=True)
class Goal:
    """A bound for each kind of source.

    Attributes:
        words: what is measured.
        bound: as it is shown.
        found: what was found for a kind of source; None where it was not measured.
        shown: how that is shown.
        met: whether it is enough.
    """

    words: str
    bound: str
    found: Callable[[Record, str], Spread | None]
    shown: Callable[[float], str]
    met: Callable[[float], bool]


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _percent(value: float) -> str:
    # With a digit more than the bound, so that 79.9% is seen to be less than 80%.
    return f"{100 * value:.1f}%"


def _opening(what: str) -> Callable[[Record, str], Spread | None]:
    def found(record: Record, kind: str) -> Spread | None:
        # A quick run opens a small one, which says nothing.
        if kind != ".rec" or record.get("records", 0) < 5_000_000:
            return None
        return opened(record, "cached", what)

    return found


GOALS = (
    Goal(
        "mirrored, to float on the CPU: images/s over the peer's",
        "at least 2.00x",
        lambda record, kind: over(record, f"{kind}: flip, to_input", "peer"),
        _times,
        lambda value: value >= 2.0,
    ),
    Goal(
        "mirrored: images/s over the bare decode loop's",
        "at least 80%",
        lambda record, kind: over(record, f"{kind}: flip", "bare"),
        _percent,
        lambda value: value >= 0.8,
    ),
    Goal(
        "full augmentation: images/s over the bare decode loop's",
        "at least 60%",
        lambda record, kind: over(record, f"{kind}: everything", "bare"),
        _percent,
        lambda value: value >= 0.6,
    ),
    Goal(
        "full augmentation: images/s of two workers over one's",
        "at least 1.80x",
        two_over_one,
        _times,
        lambda value: value >= 1.8,
    ),
    Goal(
        "opening 5 million records for the first time: seconds",
        "under 2",
        _opening("seconds"),
        lambda value: f"{value:.2f}",
        lambda value: value < 2.0,
    ),
    Goal(
        "the same: most memory above that before, MB",
        "under 200",
        _opening("megabytes"),
        lambda value: f"{value:.0f}",
        lambda value: value < 200.0,
    ),
)


def goals_table(record: Record) -> Table | None:
    """Head and rows of the goals beside what was measured; None if nothing was."""
    rows = []
    for goal in GOALS:
        found = {kind: goal.found(record, kind) for kind in KINDS}
        if any(found.values()):
            cells = [_cell(goal, value) for value in found.values()]
            rows.append([goal.words, goal.bound, *cells])
    return (["", "goal", *KINDS], rows) if rows else None


def _cell(goal: Goal, found: Spread | None) -> str:
    if found is None:
        return ""
    return found.verdict(goal.shown, goal.met(found.middle))
