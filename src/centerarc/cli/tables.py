"""Tables on a terminal, and rates as they stand in them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from centerarc.data.progress import duration

if TYPE_CHECKING:
    from centerarc.evaluation import Estimate, Interval

NONE = "-"


def new_table(title: str, first: str, *numbers: str, note: bool = False) -> Table:
    """A table whose columns are a name, numbers, and perhaps a note."""
    # Text, not str: a path may hold what rich takes for markup.
    table = Table(title=Text(title) if title else None, title_justify="left")
    table.add_column(Text(first), min_width=8)
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    if note:
        table.add_column("note")
    return table


def facts_table(facts: Mapping[str, str]) -> Table:
    """A table of names and what belongs to them."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def work_facts(left_out: Mapping[str, int], images: int, seconds: float) -> dict[str, str]:
    """What became of images that were worked through.

    Args:
        left_out: How many were left out, by reason.
        images: How many were worked on in this run.
        seconds: How long that took.
    """
    facts = {f"left out: {reason}": f"{count:,}" for reason, count in left_out.items()}
    facts["time"] = duration(seconds)
    if images:
        facts["images a second"] = f"{images / seconds:,.0f}"
    return facts


def add_estimate(table: Table, name: str, estimate: "Estimate", note: str = "") -> None:
    """A row with a rate and its interval."""
    value = NONE if estimate.value is None else percent(estimate.value)
    table.add_row(name, value, percents(estimate.interval), note)


def in_percent(reason: str | None, rate: float) -> str:
    """Why there is no value, with its rate in per cent as all else."""
    return (reason or "").replace(f"{rate:g} ", f"{small_rate(rate)} ", 1)


def rate_with_interval(estimate: "Estimate") -> str:
    """A rate with its interval below."""
    if estimate.value is None:
        return NONE
    interval = low_to_high(estimate.interval)
    return percent(estimate.value) + (f"\n{interval}" if interval else "")


def percent(share: float) -> str:
    """A share with two digits."""
    return f"{100 * share:.2f} %"


def small_rate(rate: float) -> str:
    """A rate that may be tiny, in per cent."""
    from centerarc.evaluation.report.words import small_percent

    return small_percent(rate).replace("\u00a0", " ")


def percents(interval: "Interval | None") -> str:
    """An interval of shares; empty where there is none."""
    return f"{low_to_high(interval)} %" if interval is not None else ""


def low_to_high(interval: "Interval | None", factor: float = 100, digits: int = 2) -> str:
    """Both ends of an interval; empty where there is none."""
    if interval is None:
        return ""
    return f"{factor * interval.low:.{digits}f} to {factor * interval.high:.{digits}f}"


def sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def say(console: Console, text: str) -> None:
    """Prints what belongs to a table, below it."""
    console.print(Text(text), style="dim", soft_wrap=False)
