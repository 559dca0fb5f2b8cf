"""Who is served worse by the threshold that all share."""

from collections.abc import Mapping
from dataclasses import dataclass

from centerarc.evaluation.report.chart import Chart, error_bars, percent_axis, percents, plain_text
from centerarc.evaluation.report.words import (
    ABSENT,
    interval_words,
    percent,
    reason_words,
    with_sign,
)
from centerarc.evaluation.verification.group_breakdown import MEASURES, Breakdown, Gap, GroupResult

# More groups than this make no chart that can be read; the worst are shown.
_MOST = 40
_NAMES = {"accuracy": "Accuracy", "tar": "TAR", "far": "FAR"}
_AXES = {
    "accuracy": "accuracy",
    "tar": "true accept rate (TAR)",
    "far": "false accept rate (FAR)",
}


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
        lacking: sentences on the measures that fewer than two groups carry.
        charts: of accuracy, and of the rate where groups differ.
        rows: all groups; empty where nothing can be said of any.
    """

    column: str
    gaps: list[str]
    lacking: list[str]
    charts: list[Chart]
    rows: list[GroupRow]


def breakdown_parts(breakdowns: Mapping[str, Breakdown]) -> list[BreakdownPart]:
    """A part of the page for each column."""
    return [
        _part(column, found, f"group-{number}")
        for number, (column, found) in enumerate(breakdowns.items())
    ]


def _part(column: str, found: Breakdown, key: str) -> BreakdownPart:
    known = {measure: _known(found, measure) for measure in MEASURES}
    drawn = {measure: groups for measure, groups in known.items() if len(groups) > 1}
    most = max(map(len, drawn.values()), default=0)
    span = _span(drawn)
    return BreakdownPart(
        column,
        [_gap_words(measure, gap) for measure, gap in found.gaps.items()],
        _lacking(found, known),
        [_chart(found, column, measure, f"{key}-{measure}", most, span) for measure in drawn],
        [_row(group) for group in found.groups.values()] if any(known.values()) else [],
    )


def _known(found: Breakdown, measure: str) -> list[GroupResult]:
    return [group for group in found.groups.values() if getattr(group, measure).value is not None]


def _span(drawn: Mapping[str, list[GroupResult]]) -> float:
    """The lowest end of accuracies and TARs with their intervals, so that charts share it."""
    ends = [1.0]
    for measure, groups in drawn.items():
        if measure != "far":
            for estimate in (getattr(group, measure) for group in groups):
                ends += [estimate.value, estimate.interval.low if estimate.interval else 1.0]
    return min(ends)


def _lacking(found: Breakdown, known: Mapping[str, list[GroupResult]]) -> list[str]:
    """Why measures are missing, the same words for those that lack the same."""
    count = len(found.groups)
    sentences = []
    for measure in MEASURES:
        if len(known[measure]) > 1:
            continue
        without = [group for group in found.groups.values() if group not in known[measure]]
        # The group that is nearest to having enough says what is needed.
        nearest = max(without, key=lambda group: _pairs_for(group, measure), default=None)
        if nearest is None:
            sentences.append("There is one group, so there is nothing to compare.")
            break
        if known[measure]:
            who, largest = f"one of the {count:,} groups", "the largest other"
        elif count > 1:
            who, largest = f"none of the {count:,} groups", "the largest"
        else:
            who, largest = "no group", ""
        reason = _lower(reason_words(getattr(nearest, measure).reason))
        named = f"“{_named(nearest.name)}”, {largest}," if count > 1 else "it"
        sentences.append(f"{_NAMES[measure]} is known for {who}: {named} {reason}")
    return sentences


def _pairs_for(group: GroupResult, measure: str) -> int:
    counts = {"tar": group.num_genuine, "far": group.num_impostor}
    return counts.get(measure, min(counts.values()))


def _lower(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"


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
            text += "; other people might turn the order round"
        text += ")"
    return f"{text}."


def _chart(found: Breakdown, column: str, measure: str, key: str, most: int, low: float) -> Chart:
    """The groups of a measure, as high as ``most`` groups are, on an axis that begins at ``low``
    and, but for the FAR, ends at 100 %."""
    known = _known(found, measure)
    worst_first = sorted(
        known, key=lambda group: float(getattr(group, measure).value), reverse=measure == "far"
    )
    # Drawn from the bottom up.
    shown = worst_first[:_MOST][::-1]
    rows = min(most, _MOST)
    values = [float(getattr(group, measure).value) for group in shown]
    names = [_short(_named(group.name)) for group in shown]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": percents(values),
        "y": list(range(len(shown))),
        "text": names,
        "marker": {
            "color": ["--accent"] * (len(shown) - 1) + ["--second"],
            "size": 10,
        },
        "hovertemplate": "%{text}: %{x:.2f}\u00a0%<extra></extra>",
    }
    intervals = [getattr(group, measure).interval for group in shown]
    bars = error_bars(values, intervals, "--muted")
    if bars is not None:
        dots["error_x"] = bars
    low, high = min(100 * low, 99.0), 100.0
    if measure == "far":
        ends = [*values, *(interval.high for interval in intervals if interval is not None)]
        low, high = 0.0, max(100 * max(ends), 0.01)
    pad = 0.06 * (high - low)
    less = " The worst are shown." if len(known) > _MOST else ""
    return Chart(
        key,
        f"{_NAMES[measure]} by {column}",
        f"At the cosine threshold {found.threshold:.3f} that all groups share, the worst on top, "
        f"with 95 % intervals over people.{less}",
        [dots],
        {
            "margin": {"l": 52, "r": 14, "t": 8, "b": 40},
            "xaxis": percent_axis(_AXES[measure], range=[low - pad, high + pad], nticks=5),
            "yaxis": {
                "tickvals": list(range(len(shown))),
                "ticktext": names,
                "range": [len(shown) - 0.4 - rows, len(shown) - 0.4],
                "fixedrange": True,
            },
        },
        height=70 + 30 * rows,
    )


def _row(group: GroupResult) -> GroupRow:
    rates = []
    for measure in MEASURES:
        estimate = getattr(group, measure)
        if estimate.value is None:
            rates.append((ABSENT, reason_words(estimate.reason)))
        else:
            rates.append((with_sign(estimate.value), interval_words(estimate.interval)))
    pairs = f"{group.num_genuine:,} and {group.num_impostor:,}"
    if group.num_people is not None:
        pairs += f" of {group.num_people:,} people"
    return GroupRow(_named(group.name), pairs, rates)


def _named(name: str) -> str:
    return name or "(empty)"


def _short(name: str) -> str:
    text = name if len(name) <= 24 else f"{name[:23]}…"
    return plain_text(text)
