"""Identification: who is found within which rank, and which strangers are taken for somebody."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from centerarc.evaluation.report.chart import (
    LINES,
    Chart,
    axis,
    error_bars,
    percent_axis,
    percents,
    plain_text,
    rate_axis,
)
from centerarc.evaluation.report.data import SearchCurves
from centerarc.evaluation.report.words import small_percent


def search_charts(searches: Mapping[str, SearchCurves]) -> list[Chart]:
    """The CMC, and TPIR over FPIR where there are strangers, of models by name."""
    charts = [_cmc(searches)]
    if all(search.fpir.size for search in searches.values()):
        charts.append(_open_set(searches))
    return charts


def _cmc(searches: Mapping[str, SearchCurves]) -> Chart:
    data: list[dict[str, Any]] = []
    last = 1
    for number, (name, search) in enumerate(searches.items()):
        colour, dash = LINES[number % len(LINES)]
        ranks = np.arange(1, search.cmc.size + 1)
        last = max(last, int(ranks[-1]))
        data.append(
            _line(ranks.tolist(), search.cmc, name, colour, dash, "rank %{x}: %{y:.2f}\u00a0%")
        )
        shown = [
            (rank, share)
            for rank, share in search.report.cmc.items()
            if share.value is not None and rank <= search.cmc.size
        ]
        data.append(
            _dots(
                [rank for rank, _ in shown],
                [share.value for _, share in shown],
                [share.interval for _, share in shown],
                name,
                colour,
                "rank %{x}: %{y:.2f}\u00a0%",
            )
        )
    ticks = [rank for rank in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if rank <= last]
    return Chart(
        "cmc",
        "Finding people who are there",
        "Share of pictures whose person is among the first k (CMC). Dots are the reported ranks "
        "with their 95 % intervals.",
        data,
        {
            "xaxis": axis(
                "rank k",
                type="log",
                range=[-0.05, float(np.log10(max(last, 2))) + 0.05],
                tickvals=ticks,
                ticktext=[str(rank) for rank in ticks],
            ),
            "yaxis": percent_axis("person within the first k"),
            "showlegend": len(searches) > 1,
        },
    )


def _open_set(searches: Mapping[str, SearchCurves]) -> Chart:
    data: list[dict[str, Any]] = []
    low = 1.0
    for number, (name, search) in enumerate(searches.items()):
        colour, dash = LINES[number % len(LINES)]
        low = min(low, float(search.fpir.min()))
        hover = "FPIR %{x:.3~r}\u00a0%: %{y:.2f}\u00a0%"
        data.append(
            _line(percents(search.fpir), search.tpir, name, colour, dash, hover, shape="hv")
        )
        shown = [
            (fpir, share)
            for fpir, share in search.report.tpir_at_fpir.items()
            if share.value is not None
        ]
        if shown:
            data.append(
                _dots(
                    percents(fpir for fpir, _ in shown),
                    [share.value for _, share in shown],
                    [share.interval for _, share in shown],
                    name,
                    colour,
                    "FPIR %{text}: %{y:.2f}\u00a0%",
                )
            )
    return Chart(
        "openset",
        "Finding people, and no strangers",
        "Share of pictures whose person is found (TPIR) over the share of strangers who are taken "
        "for somebody (FPIR). Up and to the left is better.",
        data,
        {
            "xaxis": rate_axis("false positive rate (FPIR)", low / 1.2),
            "yaxis": percent_axis("true positive rate (TPIR)"),
            "showlegend": len(searches) > 1,
        },
    )


def _line(
    x: list[Any], y: Any, name: str, colour: str, dash: str, hover: str, shape: str = "linear"
) -> dict[str, Any]:
    shown = plain_text(name)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": shown,
        "x": x,
        "y": percents(y),
        "line": {"color": colour, "width": 2.5, "dash": dash, "shape": shape},
        "hovertemplate": f"{hover}<extra>{shown}</extra>",
    }


def _dots(
    x: list[Any], y: list[Any], intervals: list[Any], name: str, colour: str, hover: str
) -> dict[str, Any]:
    dots: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": plain_text(name),
        "x": x,
        "y": percents(y),
        "marker": {"color": colour, "size": 9, "line": {"color": "--card", "width": 2}},
        "text": [
            small_percent(value / 100) if isinstance(value, float) else str(value) for value in x
        ],
        "hovertemplate": f"{hover}<extra>{plain_text(name)}</extra>",
        "showlegend": False,
    }
    bars = error_bars(y, intervals, colour)
    if bars is not None:
        dots["error_y"] = bars
    return dots
