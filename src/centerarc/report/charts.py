"""One chart of a page, as plain plotly data.

Colours are names of the style sheet's custom properties ("--accent"); the page's script fills in
their values, so that a chart follows the reader's light or dark theme.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from centerarc.evaluation.intervals import Interval
from centerarc.report.words import small_percent

# For several models in one chart: told apart by colour and by dash.
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
        title: its heading.
        caption: what it shows and how to read it, one or two sentences.
        data: plotly traces.
        layout: plotly layout.
        height: in CSS pixels.
    """

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 340

    def figure(self) -> dict[str, Any]:
        """What the page's script hands to plotly.js."""
        return {"data": self.data, "layout": self.layout}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """A plotly axis with a title."""
    return {"title": {"text": title}, **more}


def percent_axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis of values that are in per cent already."""
    return axis(title, ticksuffix="\u00a0%", tickangle=0, **more)


def rate_axis(
    title: str, low: float, high: float = 1.0, *, edge: str = "", room: float = 1.0
) -> dict[str, Any]:
    """A logarithmic axis of rates from ``low`` to ``high``, in per cent, with a tick a decade.

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


def numbers(values: Iterable[float], digits: int = 5) -> list[float]:
    """Values as JSON numbers, no longer than a chart can show."""
    return [float(f"{value:.{digits}g}") for value in values]


def percents(rates: Iterable[float], digits: int = 8) -> list[float]:
    """Rates in per cent, as JSON numbers."""
    return numbers((100 * rate for rate in rates), digits)


def error_bars(
    values: Sequence[float], intervals: Sequence[Interval | None], colour: str
) -> dict[str, Any] | None:
    """Plotly error bars, in per cent, from intervals of rates; None where one is missing."""
    if not values or any(interval is None for interval in intervals):
        return None
    known = [interval for interval in intervals if interval is not None]
    return {
        "type": "data",
        "array": percents(i.high - v for v, i in zip(values, known, strict=True)),
        "arrayminus": percents(v - i.low for v, i in zip(values, known, strict=True)),
        "color": colour,
        "thickness": 1.5,
        "width": 5,
    }


def plain_text(name: str) -> str:
    """A name that plotly takes for no markup."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
