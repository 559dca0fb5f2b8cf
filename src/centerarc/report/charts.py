"""One chart of a page, as plain plotly data.

Colors are names of the style sheet's custom properties ("--accent"); the page's script fills in
their values, so that a chart follows the reader's light or dark theme.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.intervals import Interval
from centerarc.report.numbers import small_percent

# Color and dash of several models in one chart.
LINES = (
    ("--accent", "solid"),
    ("--second", "dash"),
    ("--hue-2", "dot"),
    ("--hue-4", "dashdot"),
    ("--hue-3", "longdash"),
    ("--hue-7", "longdashdot"),
)


@dataclass(frozen=True)
class Chart:
    """A figure for plotly.js.

    Attributes:
        key: unique in the page.
        data: plotly traces.
        layout: plotly layout.
        height: in CSS pixels.
    """

    key: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 340


def chart(
    key: str,
    data: list[dict[str, Any]],
    xaxis: dict[str, Any],
    yaxis: dict[str, Any],
    height: int = 340,
    **layout: Any,
) -> Chart:
    """A chart with two axes; the page's script shows a legend where several traces have names."""
    return Chart(key, data, {"xaxis": xaxis, "yaxis": yaxis, **layout}, height)


# Axes.


def axis(title: str, **more: Any) -> dict[str, Any]:
    """A plotly axis with a title."""
    return {"title": {"text": title}, **more}


def percent_axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis of values that are in per cent already."""
    return axis(title, ticksuffix="%", tickangle=0, **more)


def names_axis(names: Sequence[str], low: float = -0.6) -> dict[str, Any]:
    """A vertical axis of names at 0, 1, ... from the bottom up."""
    return {
        "tickvals": list(range(len(names))),
        "ticktext": list(names),
        "range": [low, len(names) - 0.4],
        "fixedrange": True,
    }


def rate_axis(
    title: str, low: float, high: float = 1.0, *, edge: str = "", room: float = 1.0
) -> dict[str, Any]:
    """A logarithmic axis of rates from `low` to `high`, in per cent, with a tick a decade.

    Args:
        title: of the axis.
        low: the lower end, a rate.
        high: the upper end, a rate.
        edge: what the lower end stands for, where that is not the rate itself.
        room: a factor on the upper end, so that a curve there is not cut.
    """
    decades = [10.0**-power for power in range(9, -1, -1) if low <= 10.0**-power <= high * 1.0001]
    # A wide range has room for every decade; a narrow one wants more.
    values = decades
    if len(decades) < 3:
        values = sorted(
            value
            for decade in (*decades, min(decades, default=high) / 10)
            for value in (decade, 2 * decade, 5 * decade)
            if low <= value <= high * 1.0001
        )
    ticks = [(value, small_percent(value)) for value in values]
    if edge:
        # The edge's name needs a tenth of the axis to itself.
        nearest = low * (high / low) ** 0.1
        ticks = [(low, edge), *(tick for tick in ticks if tick[0] > nearest)]
    return axis(
        title,
        type="log",
        # A little wider, so that no point falls off its end by rounding.
        range=[float(np.log10(99.9999 * low)), float(np.log10(100.0001 * high * room))],
        tickvals=numbers(100 * value for value, _ in ticks),
        ticktext=[text for _, text in ticks],
        tickangle=0,
    )


# Values.


def numbers(values: Iterable[float], digits: int = 5) -> list[float]:
    """Values as JSON numbers, no longer than a chart can show."""
    return [float(f"{value:.{digits}g}") for value in values]


def percents(rates: Iterable[float], digits: int = 8) -> list[float]:
    """Rates in per cent, as JSON numbers."""
    return numbers((100 * rate for rate in rates), digits)


def plain_text(name: str) -> str:
    """A name that plotly takes for no markup."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Traces.


def lines(x: list[Any], y: list[Any], color: str, **more: Any) -> dict[str, Any]:
    """A line; `line` in `more` adds to its color."""
    line = {"color": color, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, **more}


def markers(x: list[Any], y: list[Any], color: Any, **more: Any) -> dict[str, Any]:
    """Points; `marker` in `more` adds to their color."""
    marker = {"color": color, **more.pop("marker", {})}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "marker": marker, **more}


def dotted(ends: list[float], **more: Any) -> dict[str, Any]:
    """The diagonal of a chart, from and to such values, to compare a curve with."""
    line = {"width": 1, "dash": "dot"}
    return lines(ends, list(ends), "--muted", line=line, hoverinfo="skip", **more)


def error_bars(
    values: Sequence[float], intervals: Sequence[Interval | None], color: str
) -> dict[str, Any] | None:
    """Plotly error bars, in per cent, from intervals of rates; None where one is missing."""
    known = [interval for interval in intervals if interval is not None]
    if not values or len(known) < len(values):
        return None
    return {
        "type": "data",
        "array": percents(i.high - v for v, i in zip(values, known, strict=True)),
        "arrayminus": percents(v - i.low for v, i in zip(values, known, strict=True)),
        "color": color,
        "thickness": 1.5,
        "width": 5,
    }


def reported(
    x: list[Any],
    rates: Sequence[float],
    intervals: Sequence[Interval | None],
    color: str,
    *,
    size: int = 9,
    **more: Any,
) -> dict[str, Any]:
    """Rates that are reported as dots with their intervals, on top of a curve."""
    marker = {"size": size, "line": {"color": "--card", "width": 2}}
    dots = markers(x, percents(rates), color, marker=marker, **more)
    bars = error_bars(rates, intervals, color)
    return dots if bars is None else {**dots, "error_y": bars}
