"""Who is served worse by the threshold that all share."""

from collections.abc import Mapping
from dataclasses import dataclass

from centerarc.evaluation.report.chart import Chart, axis, error_bars, numbers, plain_text
from centerarc.evaluation.report.words import ABSENT, interval_words, percent
from centerarc.evaluation.verification.group_breakdown import MEASURES, Breakdown, Gap, GroupResult

# More groups than this make no chart that can be read; the worst are shown.
_MOST = 40
_NAMES = {"accuracy": "Accuracy", "tar": "TAR", "far": "FAR"}


@dataclass(frozen=True)
class GroupRow:
    """A group in words: its name, its pairs, and each rate with its interval."""

    name: str
    pairs: str
    rates: list[tuple[str, str]]


@dataclass(frozen=True)
class BreakdownPart:
    """What the page shows of a column.

    Attributes:
        column: its name.
        gaps: sentences on the worst and the best group.
        charts: of accuracy, and of the rate where groups differ.
        rows: all groups.
    """

    column: str
    gaps: list[str]
    charts: list[Chart]
    rows: list[GroupRow]


def breakdown_parts(breakdowns: Mapping[str, Breakdown]) -> list[BreakdownPart]:
    """A part of the page for each column."""
    return [
        BreakdownPart(
            column,
            [_gap_words(measure, gap) for measure, gap in found.gaps.items()],
            [
                chart
                for measure in MEASURES
                if (chart := _chart(found, column, measure, f"group-{number}-{measure}"))
            ],
            [_row(group) for group in found.groups.values()],
        )
        for number, (column, found) in enumerate(breakdowns.items())
    ]


def _gap_words(measure: str, gap: Gap) -> str:
    extreme = "highest" if measure == "far" else "lowest"
    other = "lowest" if measure == "far" else "highest"
    text = (
        f"{_NAMES[measure]} is {extreme} for {_named(gap.worst)} and {other} for "
        f"{_named(gap.best)}: a gap of {percent(gap.value)} points"
    )
    if gap.interval is not None:
        text += f" (95 % interval {interval_words(gap.interval)}"
        if gap.interval.low <= 0:
            text += "; with other people it may turn round"
        text += ")"
    return f"{text}."


def _chart(found: Breakdown, column: str, measure: str, key: str) -> Chart | None:
    known = [group for group in found.groups.values() if getattr(group, measure).value is not None]
    if len(known) < 2:
        return None
    worst_first = sorted(
        known, key=lambda group: float(getattr(group, measure).value), reverse=measure == "far"
    )
    # Drawn from the bottom up.
    shown = worst_first[:_MOST][::-1]
    values = [float(getattr(group, measure).value) for group in shown]
    names = [_short(_named(group.name)) for group in shown]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": numbers(values),
        "y": list(range(len(shown))),
        "text": names,
        "marker": {
            "color": ["--accent"] * (len(shown) - 1) + ["--second"],
            "size": 10,
        },
        "hovertemplate": "%{text}: %{x:.2%}<extra></extra>",
    }
    bars = error_bars(values, [getattr(group, measure).interval for group in shown], "--muted")
    if bars is not None:
        dots["error_x"] = bars
    less = " The worst are shown." if len(known) > _MOST else ""
    return Chart(
        key,
        f"{_NAMES[measure]} by {column}",
        f"At the cosine threshold {found.threshold:.3f} that all groups share, the worst on top, "
        f"with 95 % intervals over people.{less}",
        [dots],
        {
            "margin": {"l": 52, "r": 14, "t": 8, "b": 30},
            "xaxis": axis("", tickformat=".0%" if max(values) - min(values) > 0.05 else ".1%"),
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": names,
                "range": [-0.6, len(shown) - 0.4],
                "fixedrange": True,
            },
        },
        height=60 + 30 * len(shown),
    )


def _row(group: GroupResult) -> GroupRow:
    rates = []
    for measure in MEASURES:
        estimate = getattr(group, measure)
        if estimate.value is None:
            rates.append((ABSENT, estimate.reason or ""))
        else:
            rates.append((f"{percent(estimate.value)} %", interval_words(estimate.interval)))
    pairs = f"{group.num_genuine:,} and {group.num_impostor:,}"
    if group.num_people is not None:
        pairs += f" of {group.num_people:,} people"
    return GroupRow(_named(group.name), pairs, rates)


def _named(name: str) -> str:
    return name or "(empty)"


def _short(name: str) -> str:
    text = name if len(name) <= 24 else f"{name[:23]}…"
    return plain_text(text)
