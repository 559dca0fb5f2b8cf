"""The charts of the inspection page, as plain plotly data.

Colours are names of the style sheet's custom properties; the page's script puts their values in,
so that charts follow the reader's light or dark theme.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.data.inspection.overview import Overview

_POINTS = 400
_SIZES = 12
_BINS = 24


@dataclass(frozen=True)
class Chart:
    """A figure for plotly.js.

    Args:
        key: Unique in the page.
        title: Its heading.
        caption: What it shows and how to read it.
        data: Plotly traces.
        layout: Plotly layout.
    """

    key: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def inspection_charts(overview: Overview) -> list[Chart]:
    """Returns the charts of the spread of images over identities."""
    counts = np.sort(overview.counts[overview.counts > 0])[::-1]
    # Where all have one size, as aligned faces do, the files' sizes say more.
    last = _sides(overview) if len(overview.sizes) > 1 else _bytes(overview)
    return [_tail(counts), _groups(overview), _share(counts), last]


def _some_ranks(size: int) -> npt.NDArray[np.int64]:
    """Ranks from 1 to `size`, evenly spread on a logarithmic axis."""
    return np.unique(np.geomspace(1, size, _POINTS).round().astype(np.int64))


def _tail(counts: npt.NDArray[np.int64]) -> Chart:
    ranks = _some_ranks(len(counts))
    # A step ends where the count changes; without those points it would be slanted.
    turns = np.flatnonzero(np.diff(counts)) + 1
    if len(turns) < 4 * _POINTS:
        ranks = np.union1d(ranks, np.concatenate([turns, turns + 1]))
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": ranks.tolist(),
        "y": counts[ranks - 1].tolist(),
        "line": {"color": "--accent", "width": 2.5},
        "fill": "tozeroy",
        "fillcolor": "--soft",
        "hovertemplate": "identity %{x:,}<br>%{y:,} images<extra></extra>",
    }
    return Chart(
        "tail",
        "The long tail",
        "Each identity's number of images, the one with most at the left; both axes logarithmic. "
        "A training sees the identities on the right seldom.",
        [line],
        {
            "xaxis": {"title": {"text": "identity, by rank"}, **_decades(len(counts))},
            "yaxis": {"title": {"text": "images"}, **_decades(int(counts[0]))},
        },
    )


def _decades(largest: int) -> dict[str, Any]:
    top = float(np.log10(max(largest, 2)))
    ticks = [10**power for power in range(int(top) + 1)]
    return {
        "type": "log",
        "range": [0, top + 0.04],
        "tickvals": ticks,
        "ticktext": [f"{tick:,}" for tick in ticks],
    }


def _groups(overview: Overview) -> Chart:
    names, identities, images = zip(*overview.statistics.groups, strict=True)
    total_identities, total_images = sum(identities), sum(images)
    bars = [
        {
            "type": "bar",
            "name": name,
            "x": [f"{group} " for group in names],  # a space keeps plotly from reading numbers
            "y": [value / total for value in values],
            "customdata": list(values),
            "marker": {"color": colour},
            "hovertemplate": f"%{{customdata:,}} {name} (%{{y:.1%}})<extra></extra>",
        }
        for name, values, total, colour in (
            ("identities", identities, total_identities, "--second"),
            ("images", images, total_images, "--accent"),
        )
    ]
    return Chart(
        "groups",
        "Identities by number of images",
        "Which part of the identities, and of all images, belongs to identities with so many "
        "images.",
        bars,
        {
            "showlegend": True,
            "barmode": "group",
            "bargap": 0.25,
            "xaxis": {"title": {"text": "images of an identity"}, "type": "category"},
            "yaxis": {"tickformat": ".0%"},
        },
    )


def _share(counts: npt.NDArray[np.int64]) -> Chart:
    rows = np.unique(np.linspace(0, len(counts), _POINTS).round().astype(np.int64))
    held = np.concatenate([[0], np.cumsum(counts)])[rows] / counts.sum()
    part = rows / len(counts)
    return Chart(
        "share",
        "How much the head holds",
        "The share of all images that the identities with most images have. On the dotted line all "
        "would have equally many.",
        [
            {
                "type": "scatter",
                "mode": "lines",
                "x": [0, 1],
                "y": [0, 1],
                "line": {"color": "--muted", "width": 1.5, "dash": "dot"},
                "hoverinfo": "skip",
            },
            {
                "type": "scatter",
                "mode": "lines",
                "x": part.round(5).tolist(),
                "y": held.round(5).tolist(),
                "line": {"color": "--accent", "width": 2.5},
                "hovertemplate": "the first %{x:.1%} have %{y:.1%} of the images<extra></extra>",
            },
        ],
        {
            "xaxis": {
                "title": {"text": "identities, most images first"},
                "tickformat": ".0%",
                "range": [0, 1.01],
            },
            "yaxis": {"tickformat": ".0%", "range": [0, 1.02]},
        },
    )


def _sides(overview: Overview) -> Chart:
    sizes = overview.sizes.most_common()
    if len(sizes) <= _SIZES:
        names = [f"{width} x {height} " for (width, height), _ in sizes]
        bars = _bars(names, [count for _, count in sizes])
        return Chart("sides", "Sizes", "Images of each width and height in pixels.", *bars)
    sides = np.array([min(size) for size, _ in sizes])
    names, number = _histogram(sides, np.array([count for _, count in sizes]))
    caption = f"Images by their shorter side in pixels; there are {len(sizes):,} different sizes."
    return Chart("sides", "Sizes", caption, *_bars(names, number))


def _bytes(overview: Overview) -> Chart:
    names, number = _histogram(overview.file_bytes, np.ones_like(overview.file_bytes))
    return Chart(
        "bytes", "Bytes", "Images by the size of their file in bytes.", *_bars(names, number)
    )


def _histogram(
    values: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]
) -> tuple[list[str], list[int]]:
    """Counts whole numbers in bins that grow with them; returns the bins' names and counts."""
    if not len(values):
        return [], []
    low, high = max(int(values.min()), 1), int(values.max()) + 1
    edges = np.unique(np.geomspace(low, high, _BINS + 1).round())
    if len(edges) == 1:
        edges = np.array([low, high + 1.0])
    number, _ = np.histogram(values, edges, weights=weights)
    ends = zip(edges[:-1].astype(int).tolist(), edges[1:].astype(int).tolist(), strict=True)
    names = [f"{a:,} to {b - 1:,}" if b > a + 1 else f"{a:,} " for a, b in ends]
    return names, number.astype(int).tolist()


def _bars(names: list[str], number: list[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Bars with names under them: traces and layout."""
    bar = {
        "type": "bar",
        "x": names,
        "y": number,
        "marker": {"color": "--accent"},
        "hovertemplate": "%{x}: %{y:,} images<extra></extra>",
    }
    axis: dict[str, Any] = {"type": "category"}
    if len(names) > _SIZES:
        # Their whole names would not fit: where some of them begin.
        some = names[::6]
        axis |= {"tickvals": some, "ticktext": [name.split()[0] for name in some]}
    layout = {
        "bargap": 0.15 if len(names) > _SIZES else 0.4,
        "xaxis": axis,
        "yaxis": {"tickformat": ",", "title": {"text": "images"}},
    }
    return [bar], layout
